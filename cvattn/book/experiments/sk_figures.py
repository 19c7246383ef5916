"""Collect what the live figure of the SK chapter shows from the trained SK network.

    python -m cvattn.book.experiments.sk_figures --out cvattn/book/results

reads results/sk.safetensors and the test pictures, and writes results/sk_live.npz:
bytes that the page shows as they are. Run `python -m cvattn.book.live shoot grow` after
it to take the figure's picture anew.

Rules that choose what is shown, so that nothing is picked by hand: of each class in
`se_figures.SHOWN`, the test picture that the network names rightly at the most SIDES,
the first of those if there are several.
"""


import numpy as np
import torch
from torch import Tensor, nn

from cvattn.book import data
from cvattn.book.experiments.record import keep_arrays
from cvattn.book.experiments.se_figures import SHOWN
from cvattn.book.experiments.sk import CANVAS, look, shrink, trained

SIDES = tuple(range(CANVAS // 2, CANVAS + 1))


def most_often_right(right: Tensor, labels: Tensor) -> list[int]:
    """Return a picture for each class in SHOWN, from `right`, (sides, N) bool."""
    often = right.sum(dim=0)
    index = []
    for name in SHOWN:
        own = (labels == data.CLASSES.index(name)).nonzero()[:, 0]
        index.append(int(own[(often[own] == often[own].max()).nonzero()[0, 0]]))
    return index


def collect(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    """Return the arrays of sk_live.npz, by name."""
    right = torch.stack([look(model, shrink(images, side))[1].argmax(1) == labels
                         for side in SIDES])
    index = most_often_right(right, labels)
    small = torch.stack([shrink(images[index], side) for side in SIDES], dim=1)
    layers, logits = look(model, small.flatten(0, 1))       # P pictures x S sides
    shape = small.shape[:2]
    arrays = {
        "index": torch.tensor(index).int(),
        "labels": labels[index].int(),
        "sides": torch.tensor(SIDES).int(),
        "pictures": small,                                  # (P, S, 28, 28) uint8
        "widths": torch.tensor([a.shape[1] for a in layers]).int(),
        "weights": torch.cat(layers, dim=1).view(*shape, -1),   # (P, S, all C)
        "probabilities": logits.softmax(1).float().view(*shape, -1),    # (P, S, 10)
    }
    return {name: value.contiguous().numpy() for name, value in arrays.items()}


if __name__ == "__main__":
    keep_arrays("sk_live", __doc__, lambda: collect(
        trained("sk"), *data.fashion_mnist("test")))
