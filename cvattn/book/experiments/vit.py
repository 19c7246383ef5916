"""Does a ViT need more data than a convolution?

    python -m cvattn.book.experiments.vit

Trains a small ViT and a cifar_resnet of as many parameters, to one in a hundred, on n
pictures of Fashion-MNIST, and tests both on the whole test set (see `grid` for how to
stop and go on). Every seed draws its own pictures, the same for both networks and the
smaller sets within the larger. An epoch is as long for every n: the n pictures come
round SETTINGS["shown"] / n times, mirrored and moved anew each time. The ViT, which
learns slower, gets three times the ResNet's epochs. Arms are named <network>-<n>. As
in the ViT paper both networks learn by Adam, here AdamW; `vit_rates` chose the
learning rates.
"""

import torch
from torch import nn

from cvattn.book import train
from cvattn.book.experiments.grid import Grid, fashion_mnist
from cvattn.resnet import cifar_resnet
from cvattn.vit import ViT

SIZES = (256, 1024, 4096, 16384)
NETS = {"vit": {"lr": 3e-3, "epochs": 24}, "resnet": {"lr": 9e-3, "epochs": 8}}
DRAWN = 50000       # from so many training pictures; the others are for `vit_rates`

SETTINGS = {
    "batch_size": 64, "weight_decay": 0.05, "bfloat16": False,
    "optimizer": "adamw", "shown": max(SIZES),
    "arms": {f"{net}-{n}": {"net": net, "pictures": n, **extra, "seeds": 5}
             for n in SIZES for net, extra in NETS.items()},
}


def build(settings: dict) -> nn.Module:
    """Return the untrained network of an arm.

    Raises:
        ValueError: if there is no such `net`.
    """
    if (net := settings["net"]) not in NETS:
        raise ValueError(f"net must be one of {', '.join(NETS)}, got {net!r}")
    if net == "vit":
        return ViT(28, patch_size=4, dim=48, layers=4, num_heads=3, hidden=96,
                   num_classes=10, in_channels=1)
    return cifar_resnet(depth=8, width=[16, 32, 67], in_channels=1)


def drawn(settings: dict) -> train.Pair:
    """Return the arm's n training pictures, each once."""
    images, labels = fashion_mnist("train")
    generator = torch.Generator().manual_seed(settings["seed"])
    rows = torch.randperm(DRAWN, generator=generator)[:settings["pictures"]]
    return images[rows], labels[rows]


def pictures(split: str, settings: dict) -> train.Pair:
    """Return the whole test set, or the arm's pictures as often as they are shown.

    Raises:
        ValueError: if the arm's pictures cannot all be shown equally often.
    """
    if split == "test":
        return fashion_mnist("test")
    images, labels = drawn(settings)
    times, rest = divmod(settings["shown"], len(images))
    if rest:
        raise ValueError(f"shown must be a multiple of pictures, got "
                         f"{settings['shown']} and {len(images)}")
    return images.repeat(times, 1, 1), labels.repeat(times)


def examine(model: nn.Module, test: train.Pair, settings: dict) -> dict:
    """Return `train_accuracy`, over the pictures that the network learned from."""
    images, labels = drawn(settings)
    return {"train_accuracy": train.accuracy(train.evaluate(model, (images, labels)),
                                             labels)}


GRID = Grid("vit", SETTINGS, build, examine, pictures, shipped=("vit-16384",))
results, trained = GRID.results, GRID.trained

if __name__ == "__main__":
    GRID.main(__doc__)
