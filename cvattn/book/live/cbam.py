"""The live figures of the chapter on CBAM."""

from cvattn.book.data import CLASSES
from cvattn.book.live.figure import Live, arrays, packed


def spot() -> Live:
    """Put a bright spot on a channel and watch mean, maximum and gate."""
    found = arrays("cbam")
    return Live(
        "spot",
        "One bright spot: what the mean sees, and what the maximum",
        "Live figure, needs a browser with scripts: a spot to move, brighten and "
        "enlarge on a channel of a trained network, with the channel's mean and "
        "maximum, and the gates that follow from the one, the other and both.",
        {
            "names": [CLASSES[k] for k in found["labels"]],
            "channels": found["channels"].tolist(),
            "size": found["u"].shape[-1],
            "maps": packed(found["u"]),
            **{name: packed(found[name])
               for name in ("pictures", "mean", "max", "W0", "W1")},
        },
    )


def slide() -> Live:
    """Slide the 7x7 window of a spatial gate over the two maps that it reads."""
    found = arrays("cbam")
    return Live(
        "slide",
        "The window of the spatial gate, place by place",
        "Live figure, needs a browser with scripts: a window of 7 by 7 to drag over "
        "the mean and the maximum of a trained network's channels, the kernel, the "
        "products, their sum and the gate at the window's centre.",
        {
            "names": [CLASSES[k] for k in found["labels"]],
            "size": found["maps"].shape[-1],
            "k": found["kernel"].shape[-1],
            **{name: packed(found[name]) for name in ("pictures", "maps", "kernel")},
        },
    )


def paint() -> Live:
    """Paint a mask over a trained network's last features and see what it says."""
    found = arrays("cbam")
    return Live(
        "paint",
        "A mask of your own over the last features",
        "Live figure, needs a browser with scripts: a mask of 7 by 7 places to paint "
        "over the last feature map of a trained network, and the class "
        "probabilities that follow.",
        {
            "names": [CLASSES[k] for k in found["labels"]],
            "labels": found["labels"].tolist(),
            "classes": CLASSES,
            "size": found["own"].shape[-1],
            **{name: packed(found[name]) for name in (
                "pictures", "features", "own", "fc_weight", "fc_bias")},
        },
    )
