"""The live figures of the chapter "What attention is"."""

from cvattn.book.data import CLASSES
from cvattn.book.live.figure import Live, arrays, packed


def lookup() -> Live:
    """Ask a dictionary of five entries for a key that it does not hold."""
    return Live(
        "lookup",
        "A soft look-up: ask between the keys",
        "Live figure, needs a browser with scripts: five hours with a water level "
        "each, a question to drag between them, the weights that a softmax or a "
        "sigmoid gives to each, and the answer, for any temperature.",
        {"keys": [6, 9, 12, 15, 18], "values": [1.2, 3.1, 4.4, 2.9, 0.9],
         "low": 4, "high": 20},
    )


def weigh() -> Live:
    """Weigh a real feature map by channel, by place or by both, with any scores."""
    found = arrays("attention")
    return Live(
        "weigh",
        "Weigh a real map: which axis, which normaliser, which scores",
        "Live figure, needs a browser with scripts: six channels of a trained "
        "network's feature map, weighed by channel, by place or by both, through a "
        "sigmoid or a softmax, with scores to set by hand.",
        {
            "names": [CLASSES[k] for k in found["labels"]],
            "pictures": packed(found["pictures"]),
            "channels": found["channels"].tolist(),
            "size": found["u"].shape[-1],
            "maps": packed(found["u"]),
        },
    )
