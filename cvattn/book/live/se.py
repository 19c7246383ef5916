"""The live figures of the chapter on Squeeze-and-Excitation."""

from cvattn.book.data import CLASSES
from cvattn.book.live.figure import Live, arrays, packed


def squeeze() -> Live:
    """Paint on a real feature map, move or shuffle its pixels, and watch z."""
    found = arrays("se")
    return Live(
        "squeeze",
        "Squeeze: what a mean keeps, and what it forgets",
        "Live figure, needs a browser with scripts: six channels of a trained "
        "network's feature map beside their means z. Shuffling the pixels leaves z "
        "as it is; adding d to one of the HW pixels adds d/HW to it.",
        {
            "names": [CLASSES[k] for k in found["labels"]],
            "pictures": packed(found["pictures"]),
            "channels": found["squeeze_channels"].tolist(),
            "size": found["squeeze_u"].shape[-1],
            "maps": packed(found["squeeze_u"]),
        },
    )


def surgery() -> Live:
    """Set the gates of the last SE block by hand and see the prediction change."""
    found = arrays("se")
    return Live(
        "surgery",
        "Gate surgery: set the last gates yourself",
        "Live figure, needs a browser with scripts: the gates of the last SE block "
        "of a trained network as bars to drag, and the class probabilities that "
        "follow from them.",
        {
            "names": [CLASSES[k] for k in found["labels"]],
            "classes": CLASSES,
            **{name: packed(found[name]) for name in (
                "pictures", "shortcut", "u", "gates", "class_gates", "fc_weight",
                "fc_bias")},
        },
    )


def reduction() -> Live:
    """Choose r and the stages of SE-ResNet-50 and count what SE adds.

    The printed values are those of Hu et al., TPAMI 2020, Tables 10 and 13.
    """
    return Live(
        "reduction",
        "Reduction: what SE adds to ResNet-50, stage by stage",
        "Live figure, needs a browser with scripts: the parameters that SE adds to "
        "ResNet-50 for reduction ratios 2 to 32 and any choice of stages, beside "
        "the values printed in the paper.",
        {
            "base": 25_557_032,
            "statistics": 53_120,
            "ratios": [2, 4, 8, 16, 32],
            "stages": [{"name": f"stage_{i + 2}", "blocks": n, "channels": c}
                       for i, (n, c) in enumerate(
                           [(3, 256), (4, 512), (6, 1024), (3, 2048)])],
            "none": 25.6,
            "table10": {"2": 45.7, "4": 35.7, "8": 30.7, "16": 28.1, "32": 26.9},
            "table13": {"stage_2": 25.6, "stage_3": 25.7, "stage_4": 26.4},
        },
    )
