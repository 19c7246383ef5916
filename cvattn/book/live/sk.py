"""The live figures of the chapter on selective kernels."""

import numpy as np

from cvattn.book.data import CLASSES
from cvattn.book.live.figure import Live, arrays, packed


def axis() -> Live:
    """Take the softmax of a block of scores along any of its axes."""
    scores = np.array([[[1.0, -0.5, 0.3, 2.0], [0.0, 0.5, 0.3, -1.0]],
                       [[-1.2, 0.8, 1.5, 0.0], [0.4, -0.7, 1.1, 0.6]]])
    maps = np.array([[[4.0, 1.0, 2.5, 0.5], [0.8, 5.0, 1.0, 3.0]],
                     [[1.5, 3.5, 0.6, 4.5], [2.8, 1.2, 4.0, 2.0]]])
    return Live(
        "axis",
        "Along which axis? One softmax, four ways",
        "Live figure, needs a browser with scripts: scores of two pictures, two "
        "branches and four channels, and their weights after a softmax along the "
        "branches, the channels, both, or the batch. Along the branches alone the two "
        "weights of every channel sum to 1.",
        {"scores": packed(scores.astype(np.float32)),
         "maps": packed(maps.astype(np.float32)), "B": 2, "M": 2, "C": 4, "most": 4},
    )


def grow() -> Live:
    """Enlarge an object and see which kernel every layer and channel chooses."""
    found = arrays("sk")
    return Live(
        "grow",
        "A larger object: which kernel does each layer choose?",
        "Live figure, needs a browser with scripts: a picture to enlarge from 14 to 28 "
        "pixels, and the weight that a trained network gives to the larger kernel, in "
        "each of its six layers and in every channel.",
        {
            "names": [CLASSES[k] for k in found["labels"]],
            "classes": CLASSES,
            "sides": found["sides"].tolist(),
            "widths": found["widths"].tolist(),
            **{name: packed(found[name]) for name in (
                "pictures", "weights", "probabilities")},
        },
    )
