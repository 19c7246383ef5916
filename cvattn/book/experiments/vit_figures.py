"""Collect the small ViT that runs in the page of its chapter.

    python -m cvattn.book.experiments.vit_figures --out cvattn/book/results

reads results/vit.safetensors and writes results/vit_live.npz: every number of the arm
`vit-16384`, by its name, and the first of the 1,000 shipped test pictures of each class
in SHOWN that the network gets right. Matrices are rounded to whole numbers from -127
to 127 with one scale for each row, `<name>.scale`; vectors stay as they are. `rounded`
is the network with these numbers, the one that the page runs. Run `python -m
cvattn.book.live shoot looks shuffle` after it to take the figures' pictures anew.
"""

import numpy as np
import torch
from torch import Tensor, nn

from cvattn.book import data
from cvattn.book.experiments.record import keep_arrays
from cvattn.book.experiments.vit import trained

ARM = "vit-16384"
SHOWN = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Sandal", "Sneaker", "Bag",
         "Ankle boot")


def rows(weight: Tensor) -> Tensor:
    """Return a parameter as a matrix, a row for each output or position, or a vector.

    The kernel of E, (D, C, P, P), becomes (D, C P P); E_pos and x_class lose their
    axis for the batch.
    """
    if weight.ndim == 3:
        weight = weight[0]
    return weight.flatten(1).squeeze(0) if weight.ndim > 1 else weight


def quantised(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return whole numbers q (int8) and a scale s for each row; s q is the matrix."""
    scale = (matrix.abs().amax(dim=1) / 127).clamp(min=1e-12)
    return (matrix / scale[:, None]).round().to(torch.int8), scale


def rounded(model: nn.Module) -> nn.Module:
    """Round the model's matrices as on the page, in place, and return it."""
    with torch.no_grad():
        for p in model.parameters():
            matrix = rows(p)
            if matrix.ndim == 2:
                q, scale = quantised(matrix)
                p.copy_((q * scale[:, None]).view_as(p))
    return model


def first_right(right: Tensor, labels: Tensor) -> list[int]:
    """Return the first picture of each class in SHOWN that the network gets right.

    Raises:
        ValueError: if it gets none of a class right.
    """
    index = []
    for name in SHOWN:
        own = right & (labels == data.CLASSES.index(name))
        if not own.any():
            raise ValueError(f"no picture of the class {name} is right")
        index.append(int(own.nonzero()[0]))
    return index


def collect(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    """Return the arrays of vit_live.npz, by name; the model's matrices are rounded."""
    found = {}
    for name, p in model.named_parameters():
        matrix = rows(p.detach())
        if matrix.ndim == 2:
            found[name], found[f"{name}.scale"] = quantised(matrix)
        else:
            found[name] = matrix
    with torch.inference_mode():
        right = rounded(model)(data.to_float(images)).argmax(1) == labels
    index = first_right(right, labels)
    found |= {"index": torch.tensor(index), "pictures": images[index],
              "labels": labels[index]}
    return {name: tensor.numpy() for name, tensor in found.items()}


if __name__ == "__main__":
    keep_arrays("vit_live", __doc__, lambda: collect(
        trained(ARM), *data.fashion_mnist("test")))
