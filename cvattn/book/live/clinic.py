"""The live figures of the clinic."""

import json

import numpy as np

from cvattn.book.live.figure import Live, packed, shipped


def trap() -> Live:
    """Step through spatial attention without keepdim, for any batch."""
    i = np.arange(5 * 3 * 5 * 4)
    x = ((7919 * i) % 31 / 10 - 1.5).astype(np.float32).reshape(5, 3, 5, 4)
    kernel = ((5 * np.arange(18)) % 9 / 8 - 0.5).astype(np.float32)
    return Live(
        "trap",
        "The batch of two: step through it",
        "Live figure, needs a browser with scripts: the shapes inside spatial "
        "attention with and without keepdim, step by step. Without it the "
        "convolution takes the pictures of the batch for channels, and a batch of "
        "exactly two raises no error.",
        {"x": packed(x), "kernel": packed(kernel), "C": 3, "W": 4, "most": 5},
    )


def cover() -> Live:
    """Choose tests and see which silent faults none of them finds."""
    found = json.loads(shipped("results", "clinic.json"))
    ids = list(found["trap"])
    return Live(
        "cover",
        "Which tests would you run?",
        "Live figure, needs a browser with scripts: a table of silent faults and of "
        "the tests that find them, with tests to choose, and the number of faults "
        "that go undetected.",
        {"tests": found["tests"], "ids": ids,
         "names": [found["names"].get(id, "") for id in ids],
         "found": {sizes: [found[sizes][id] for id in ids]
                   for sizes in ("trap", "apart")}},
    )
