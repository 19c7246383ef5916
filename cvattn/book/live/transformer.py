"""The live figures of the chapter on the Transformer."""

import numpy as np

from cvattn.book.experiments.transformer import CHARACTERS, END, SETTINGS, START
from cvattn.book.experiments.transformer_figures import examples
from cvattn.book.live.figure import Live, arrays, packed


def arrows() -> Live:
    """Drag one query and four keys, and watch scores, softmax and result."""
    return Live(
        "arrows",
        "One look-up: drag the query and the keys",
        "Live figure, needs a browser with scripts: a query and four keys as arrows "
        "in the plane, their scores and weights, and the weighted mean of four values.",
        {"q": [1.6, 0.9], "keys": [[1.9, 0.4], [0.3, 1.8], [-1.7, 0.8], [-0.5, -1.5]],
         "values": [[2.2, 2.2], [-2.2, 2.2], [-2.2, -2.2], [2.2, -2.2]], "most": 3},
    )


def waves() -> Live:
    """Move a position and a shift, and watch the hands of the positional code."""
    return Live(
        "waves",
        "The code of a position: a clock with eight hands",
        "Live figure, needs a browser with scripts: the sines and cosines that tell a "
        "Transformer where a letter stands, as eight clock hands, for any position "
        "and any shift, with the dot product of the two codes.",
        {"dim": 16, "last": 60},
    )


def dates() -> Live:
    """Type a date and run the small trained Transformer on it, in the page."""
    found = arrays("transformer")
    numbers = np.concatenate([a.ravel() for a in found.values()])
    return Live(
        "dates",
        "A whole Transformer: type a date",
        "Live figure, needs a browser with scripts: a small trained Transformer that "
        "reads a date in any form and writes it as year, month and day, with the "
        "attention map of each of its layers and heads.",
        {
            "characters": CHARACTERS, "start": START, "end": END, "extra": 10,
            "longest": 32, "examples": examples(),
            "dim": SETTINGS["dim"], "heads": SETTINGS["num_heads"],
            "layers": SETTINGS["layers"],
            "layout": [[name, a.size] for name, a in found.items()],
            "numbers": packed(numbers.view(np.uint8)),
        },
        uses=("layers",),
    )
