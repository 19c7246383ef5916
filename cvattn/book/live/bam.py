"""The live figures of the chapter on BAM."""

from cvattn.book.data import CLASSES
from cvattn.book.live.figure import Live, arrays, packed


def field() -> Live:
    """Choose dilation and depth, and see which pixels one place sees."""
    return Live(
        "field",
        "What one place sees: dilation and depth",
        "Live figure, needs a browser with scripts: the pixels that one place of a map "
        "sees through 3 x 3 convolutions, for any dilation, depth and place; how many "
        "they are, how many lie beyond the border, and how many a neighbour shares.",
        {"sizes": [9, 18, 36]},
    )


def combine() -> Live:
    """Set a channel's and a place's score; see the gates of sum, product, maximum."""
    return Live(
        "combine",
        "Two scores, three gates",
        "Live figure, needs a browser with scripts: two scores to set, and the gate "
        "that their sum, their product and their maximum make, with its slopes.",
        {"most": 4},
    )


def hierarchy() -> Live:
    """Lay the gates of trained BAM networks over a scene, and read the mass."""
    found = arrays("bam")
    arms = ("sum", "product", "max")
    return Live(
        "hierarchy",
        "Does it find the object? Gates after stages 1, 2, 3",
        "Live figure, needs a browser with scripts: scenes of one object among "
        "fragments, with the gates of three trained networks over them, after each "
        "stage; the share of the gates that lies on the object, and their mean on "
        "object, fragments and empty canvas.",
        {
            "names": [CLASSES[k] for k in found["labels"]],
            "size": found["pictures"].shape[-1],
            "arms": list(arms),
            "sizes": [found[f"sum{stage}"].shape[-1] for stage in (1, 2, 3)],
            **{k: packed(found[k]) for k in ("pictures", "object", "fragments")},
            "maps": {f"{arm}{stage}": packed(found[f"{arm}{stage}"])
                     for arm in arms for stage in (1, 2, 3)},
        },
    )
