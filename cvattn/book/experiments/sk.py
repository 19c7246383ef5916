"""Does a larger object make a selective kernel choose its larger kernel?

    python -m cvattn.book.experiments.sk

Trains a small bottleneck network on the full Fashion-MNIST, every picture shrunk to a
random side of SIDES pixels on a black canvas of 28 x 28 (see `grid` for how to stop and
go on). The arms differ in what stands in place of the 3x3 convolution:

sk      SK with two branches, which see 3x3 and 5x5
equal   the same two branches, each with the fixed weight 1/2
one     the 3x3 branch alone

Afterwards each network is tried on the whole test set at each side: ×1.0 is 14 pixels,
×2.0 is 28.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvattn.book import data, train
from cvattn.book.experiments.grid import Grid, fashion_mnist
from cvattn.resnet import ResNet, conv, project
from cvattn.sk import SK

SIDES = tuple(range(14, 29, 2))
CANVAS = 28

SETTINGS = {
    "epochs": 2, "batch_size": 128, "lr": 0.1, "weight_decay": 5e-4, "bfloat16": True,
    "depths": [2, 2, 2], "widths": [8, 16, 32], "groups": 4, "reduction": 4,
    "minimum": 8,
    "arms": {
        "sk": {"branches": 2, "select": True, "seeds": 5},
        "equal": {"branches": 2, "select": False, "seeds": 5},
        "one": {"branches": 1, "select": False, "seeds": 5},
    },
}


class Equal(SK):
    """Selective kernel that does not select: the mean of its branches.

    W, its BatchNorm and A are dropped, so that only the convolutions are trained.
    """

    def __init__(self, channels: int, **kwargs):
        super().__init__(channels, **kwargs)
        del self.W, self.bn, self.A

    def forward(self, x: Tensor) -> Tensor:
        return sum(F_m(x) for F_m in self.F) / len(self.F)


def build(settings: dict) -> nn.Module:
    """Return the untrained network of an arm."""
    stem = settings["widths"][0] * 2
    middle = partial(
        SK if settings["select"] else Equal,
        **{k: settings[k] for k in ("branches", "groups", "reduction", "minimum")})
    first = {"conv1": conv(1, stem, 3), "bn1": nn.BatchNorm2d(stem), "relu": nn.ReLU()}
    return ResNet(
        first, stem, settings["widths"], settings["depths"], bottleneck=True,
        shortcut=project, attention=None, place="standard", stride_in="3x3",
        num_classes=10, expansion=2, middle=middle,
    )


def shrink(images: Tensor, side: int) -> Tensor:
    """Draw each picture `side` pixels wide and high, in the middle of a black canvas.

    Shape: (N, 28, 28) uint8, before and after. From 28 pixels the size falls by
    `torch.nn.functional.interpolate`, bilinear, antialiased, and is rounded.
    """
    if not 1 <= side <= CANVAS:
        raise ValueError(f"side must be from 1 to {CANVAS}, got side={side}")
    small = F.interpolate(images[:, None].float(), size=(side, side), mode="bilinear",
                          align_corners=False, antialias=True)
    start = (CANVAS - side) // 2
    rest = CANVAS - side - start
    small = small.round().clamp(0, 255).byte()[:, 0]           # (N, side, side)
    return F.pad(small, (start, rest, start, rest))


def pictures(split: str, settings: dict | None = None) -> train.Pair:
    """Return the full set, each picture at one of SIDES; the same at every call."""
    images, labels = fashion_mnist(split)
    generator = torch.Generator().manual_seed(0)
    which = torch.randint(0, len(SIDES), (len(images),), generator=generator)
    for i, side in enumerate(SIDES):
        images[which == i] = shrink(images[which == i], side)
    return images, labels


def look(model: nn.Module, images: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the larger kernel's weights, and the logits, for uint8 images (N, H, W).

    For each selective kernel the last branch's a, (N, C).
    """
    modules = [m for m in model.modules() if type(m) is SK]
    seen: list[list[Tensor]] = [[] for _ in modules]

    def keep(rows: list[Tensor], module: SK, inputs: tuple[Tensor]) -> None:
        rows.append(module.weights(inputs[0])[:, -1].flatten(1).float().cpu())

    hooks = [m.register_forward_pre_hook(partial(keep, rows))
             for m, rows in zip(modules, seen, strict=True)]
    try:
        logits = train.evaluate(model, (images, torch.zeros(len(images))))
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(rows) for rows in seen], logits


def larger(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means over channels of `look`, (N, L), and the logits."""
    weights, logits = look(model, images)
    return torch.stack([a.mean(1) for a in weights], dim=1), logits


def examine(model: nn.Module, test: train.Pair, settings: dict, *,
            originals: train.Pair | None = None) -> dict:
    """Return what a trained network does at each side.

    `side_accuracy`: for each of SIDES the accuracy on the whole test set; `larger`,
    with selection only: [side][layer][class], the larger kernel's mean weight.
    `originals`: other pictures than Fashion-MNIST's test set.
    """
    images, labels = fashion_mnist("test") if originals is None else originals
    found: dict = {"side_accuracy": []}
    if settings["select"]:
        found["larger"] = []
    for side in SIDES:
        small = shrink(images, side)
        if not settings["select"]:
            logits = train.evaluate(model, (small, labels))
        else:
            weight, logits = larger(model, small)
            found["larger"].append(torch.stack(
                [weight[labels == c].mean(0) for c in range(len(data.CLASSES))],
                dim=1).tolist())
        found["side_accuracy"].append(train.accuracy(logits, labels))
    return found


GRID = Grid("sk", SETTINGS, build, examine, pictures)
results, trained = GRID.results, GRID.trained

if __name__ == "__main__":
    GRID.main(__doc__)
