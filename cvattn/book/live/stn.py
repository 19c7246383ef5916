"""The live figures of the chapter on spatial transformers."""

import numpy as np

from cvattn.book.data import CLASSES, MEAN, STD
from cvattn.book.live.figure import Live, arrays, packed


def warp() -> Live:
    """Set the six numbers of an affine map, and follow one pixel and the gradient."""
    found = arrays("stn")
    return Live(
        "warp",
        "Six numbers that move a picture",
        "Live figure, needs a browser with scripts: a picture with the sampling grid "
        "of an affine map over it, three handles for its six numbers, the picture read "
        "from there, and for one pixel of it the four weights and the slopes.",
        {
            "names": [CLASSES[k] for k in found["labels"]],
            "pictures": packed(found["pictures"]),
            "size": found["pictures"].shape[-1],
            "theta": [0.9, -0.3, 0.15, 0.3, 0.9, -0.1],
            "world": 1.6, "rate": 0.1, "steps": 10,
        },
        uses=("resample",),
    )


def upright() -> Live:
    """Move an object, and see what a trained spatial transformer makes of it."""
    found = arrays("stn")
    depth = sum(name.startswith("weight") for name in found)
    layers = [found[f"{kind}{k}"] for k in range(depth) for kind in ("weight", "bias")]
    numbers = [a.ravel() for a in layers] + [np.float32([MEAN, STD])]
    return Live(
        "upright",
        "A trained transformer, and an object that you move",
        "Live figure, needs a browser with scripts: a piece of clothing to turn, scale "
        "and move, the frame in which a trained spatial transformer reads it, and what "
        "it reads.",
        {
            "names": [CLASSES[k] for k in found["labels"]],
            "pictures": packed(found["pictures"]),
            "size": 2 * round(found["weight0"].shape[1] ** 0.5), "world": 1.3,
            "shapes": [list(a.shape) for a in layers[::2]],
            "numbers": packed(np.concatenate(numbers)),
        },
        uses=("resample",),
    )
