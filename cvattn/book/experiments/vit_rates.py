"""Which learning rate suits the ViT and the ResNet of `vit`?

    python -m cvattn.book.experiments.vit_rates

Trains each for 8 epochs at every rate in RATES, on 4096 pictures that are drawn as in
`vit`, with a seed that `vit` does not use, and tests it on training pictures that
`vit` never draws.
Arms are named <network>-<rate>.
"""

from torch import nn

from cvattn.book import train
from cvattn.book.experiments import vit
from cvattn.book.experiments.grid import Grid, fashion_mnist

RATES = (1e-3, 3e-3, 9e-3, 2.7e-2)
SEED = 1000         # added to those of the runs

SETTINGS = {k: v for k, v in vit.SETTINGS.items() if k != "arms"} | {
    "epochs": 8,
    "arms": {f"{net}-{lr}": {"net": net, "pictures": 4096, "lr": lr, "seeds": 1}
             for net in vit.NETS for lr in RATES},
}


def pictures(split: str, settings: dict) -> train.Pair:
    """Return what the arm learns from, or the pictures that `vit` leaves alone."""
    if split == "test":
        images, labels = fashion_mnist("train")
        return images[vit.DRAWN:], labels[vit.DRAWN:]
    return vit.pictures("train", settings | {"seed": SEED + settings["seed"]})


def examine(model: nn.Module, test: train.Pair, settings: dict) -> dict:
    """Return nothing beyond the accuracy."""
    return {}


GRID = Grid("vit_rates", SETTINGS, vit.build, examine, pictures, shipped=())
results = GRID.results

if __name__ == "__main__":
    GRID.main(__doc__)
