"""Collect the maps that the BAM chapter draws from three trained networks.

    python -m cvattn.book.experiments.bam_figures --out cvattn/book/results

reads results/bam.safetensors and the test pictures, and writes results/bam_live.npz:
bytes that the page shows as they are. Run `python -m cvattn.book.live shoot` after it
to take the figures' pictures anew.

A rule chooses what is shown, so that nothing is picked by hand and no map is looked at:
of each class in `se_figures.SHOWN`, the first scene that the networks of ARMS all
classify correctly. The scenes are those of `bam.clutter` from the embedded pictures.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvattn.book import data, train
from cvattn.book.experiments.bam import clutter, maps, trained
from cvattn.book.experiments.record import keep_arrays
from cvattn.book.experiments.se_figures import SHOWN

ARMS = ("sum", "product", "max")
SEED = 1        # of the test scenes, as in `bam.made`


def mass(gate: Tensor, on: Tensor) -> float:
    """Return the share of a map (H', W') that lies on an object (H, W)."""
    share = F.adaptive_avg_pool2d(on[None].double(), gate.shape)[0]
    return ((gate.double() * share).sum() / gate.double().sum()).item()


def first_all_right(right: Tensor, labels: Tensor) -> list[int]:
    """Return, for each class in SHOWN, the first picture that all get right.

    Shape: right (networks, N) bool, labels (N,).
    """
    everyone = right.all(0)
    return [int((everyone & (labels == data.CLASSES.index(name))).nonzero()[0])
            for name in SHOWN]


def collect(nets: Mapping[str, nn.Module], images: Tensor, labels: Tensor) -> dict:
    """Return the arrays of bam_live.npz, by name; the maps of `sum` are sum1 to 3."""
    scenes, thing, fragments = clutter(images, labels, seed=SEED)
    right = torch.stack([train.evaluate(net, (scenes, labels)).argmax(1) == labels
                         for net in nets.values()])
    index = first_all_right(right, labels)
    arrays = {
        "pictures": scenes[index],                              # (4, 36, 36) uint8
        "object": thing[index].byte(),
        "fragments": fragments[index].byte(),
        "labels": labels[index].int(),
        "index": torch.tensor(index).int(),
    }
    for arm, net in nets.items():
        for stage, gate in enumerate(maps(net, scenes[index]), 1):
            arrays[f"{arm}{stage}"] = gate      # (4, 36, 36), (4, 18, 18), (4, 9, 9)
    return {name: value.contiguous().numpy() for name, value in arrays.items()}


if __name__ == "__main__":
    keep_arrays("bam_live", __doc__, lambda: collect(
        {arm: trained(arm) for arm in ARMS}, *data.fashion_mnist("test")))
