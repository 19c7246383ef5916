"""Collect the small Transformer that runs in the page of its chapter.

    python -m cvattn.book.experiments.transformer_figures --out cvattn/book/results

reads results/transformer.safetensors and writes results/transformer_live.npz: every
number of the arm `dates-paper`, in half precision, by its name. Run `python -m
cvattn.book.live shoot dates` after it to take the figure's picture anew. The dates to
try are those of `examples`: the first dates, in unseen forms, of a fixed seed.
"""


import numpy as np
from torch import nn

from cvattn.book.experiments.record import keep_arrays
from cvattn.book.experiments.transformer import some_dates, split_forms, trained

ARM = "dates-paper"


def collect(model: nn.Module) -> dict[str, np.ndarray]:
    """Return the arrays of transformer_live.npz, by name."""
    return {name: value.half().numpy() for name, value in model.state_dict().items()}


def examples(n: int = 4) -> list[str]:
    """Return dates that training never saw, in forms that it never saw."""
    return [text for text, _ in some_dates(n, split_forms()[1], 2, training=False)]


if __name__ == "__main__":
    keep_arrays("transformer_live", __doc__, lambda: collect(trained(ARM)))
