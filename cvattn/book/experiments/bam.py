"""Does BAM find the object among clutter, and which of its choices help?

    python -m cvattn.book.experiments.bam

Trains cifar_resnet, depth 8, on pictures made from Fashion-MNIST: one object at a
random place among fragments of objects of other classes (see `clutter`, and `grid` for
how to stop and go on). BAM stands after each of the three stages. The arms:

plain                 no attention
sum, product, max     how the two branches meet; sum is the paper's BAM, with
                      reduction 4 and dilation 4
r2, r8                sum with another reduction
d1, d2                sum with another dilation
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvattn.bam import BAM
from cvattn.book import train
from cvattn.book.experiments.bam_variants import COMBINE as COMBINE
from cvattn.book.experiments.bam_variants import BAMVariant
from cvattn.book.experiments.grid import Grid, fashion_mnist
from cvattn.resnet import cifar_resnet

CANVAS, SIDE, FRAGMENTS, PIECE = 36, 20, 6, 8

SETTINGS = {
    "epochs": 3, "batch_size": 128, "lr": 0.1, "weight_decay": 5e-4, "bfloat16": True,
    "depth": 8, "width": 16, "pictures": 15000,
    "arms": {
        "plain": {"bam": None, "seeds": 5},
        "sum": {"bam": {"reduction": 4, "dilation": 4}, "seeds": 5},
        "product": {"bam": {"reduction": 4, "dilation": 4, "combine": "product"},
                    "seeds": 5},
        "max": {"bam": {"reduction": 4, "dilation": 4, "combine": "max"}, "seeds": 5},
        "r2": {"bam": {"reduction": 2, "dilation": 4}, "seeds": 5},
        "r8": {"bam": {"reduction": 8, "dilation": 4}, "seeds": 5},
        "d1": {"bam": {"reduction": 4, "dilation": 1}, "seeds": 5},
        "d2": {"bam": {"reduction": 4, "dilation": 2}, "seeds": 5},
    },
}


def build(settings: dict) -> nn.Module:
    """Return the untrained network of an arm."""
    attention = None
    if settings["bam"] is not None:
        attention = [partial(BAMVariant, **settings["bam"])] * 3
    return cifar_resnet(attention, depth=settings["depth"], width=settings["width"],
                        place="stage", in_channels=1)


def shrink(images: Tensor) -> Tensor:
    """Return the pictures SIDE pixels wide and high, (N, SIDE, SIDE) uint8."""
    small = F.interpolate(images[:, None].float(), size=(SIDE, SIDE), mode="bilinear",
                          align_corners=False, antialias=True)
    return small.round().clamp(0, 255).byte()[:, 0]


def paste(canvas: Tensor, part: Tensor, top: Tensor, left: Tensor) -> None:
    """Lay part (N, h, w) over canvas (N, H, W), where the part is not black."""
    n, h, w = part.shape
    at = (torch.arange(n)[:, None, None],
          (top[:, None] + torch.arange(h))[:, :, None],
          (left[:, None] + torch.arange(w))[:, None, :])
    canvas[at] = torch.where(part > 0, part, canvas[at])


def clutter(images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Put each object among fragments of others.

    FRAGMENTS squares of PIECE pixels, each from the middle of a picture of another
    class, lie at random places of a black canvas; the object, SIDE pixels wide and
    high, is drawn over them at a random place.

    Shape: images (N, 28, 28) uint8, labels (N,) -> pictures (N, CANVAS, CANVAS)
    uint8, and two masks of that shape, bool: the object, and what is seen of the
    fragments.

    Raises:
        ValueError: if all labels are the same, for then no picture is of another
            class.
    """
    if len(found := labels.unique()) < 2:
        raise ValueError(f"labels must hold two classes, got {found.tolist()}")
    generator = torch.Generator().manual_seed(seed)
    n, small = len(images), shrink(images)

    def place(size: int) -> Tensor:
        return torch.randint(0, CANVAS - size + 1, (n,), generator=generator)

    canvas = torch.zeros(n, CANVAS, CANVAS, dtype=torch.uint8)
    start = (SIDE - PIECE) // 2
    for _ in range(FRAGMENTS):
        other = torch.randint(0, n, (n,), generator=generator)
        while (same := labels[other] == labels).any():
            other[same] = torch.randint(0, n, (int(same.sum()),), generator=generator)
        piece = small[other, start:start + PIECE, start:start + PIECE]
        paste(canvas, piece, place(PIECE), place(PIECE))
    alone = torch.zeros_like(canvas)
    top, left = place(SIDE), place(SIDE)
    paste(alone, small, top, left)
    paste(canvas, small, top, left)
    thing = alone > 0
    return canvas, thing, (canvas > 0) & ~thing


def made(split: str,
         settings: dict = SETTINGS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return pictures, both masks and labels; the same at every call.

    Made from the first settings["pictures"] of the training set, or the whole test set.
    """
    images, labels = fashion_mnist(split)
    if split == "train":
        n = settings["pictures"]
        images, labels = images[:n], labels[:n]
    return *clutter(images, labels, seed=("train", "test").index(split)), labels


def pictures(split: str, settings: dict = SETTINGS) -> train.Pair:
    canvas, _, _, labels = made(split, settings)
    return canvas, labels


def maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return each BAM's gate, its mean over channels (N, H', W'), for uint8 images."""
    modules = [m for m in model.modules() if isinstance(m, BAM)]
    seen: list[list[Tensor]] = [[] for _ in modules]

    def keep(rows: list[Tensor], module: BAM, inputs: tuple[Tensor]) -> None:
        rows.append(module.gate(inputs[0]).mean(1).float().cpu())

    hooks = [m.register_forward_pre_hook(partial(keep, rows))
             for m, rows in zip(modules, seen, strict=True)]
    try:
        train.evaluate(model, (images, torch.zeros(len(images))))
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(rows) for rows in seen]


def on_regions(gate: Tensor, thing: Tensor, fragments: Tensor) -> dict[str, float]:
    """Return how a map (N, H', W') is spread over the object and what is around it.

    `mass`: the share of a picture's gate that lies on the object, mean over pictures;
    `area`: the share that a constant map would give. `object`, `fragments`, `empty`:
    the mean gate on each region, all pictures together. A place of a small map counts
    for a region by the part of its pixels (N, H, W) that are the region's.
    """
    share = {name: F.adaptive_avg_pool2d(mask.float(), gate.shape[1:]).double()
             for name, mask in (("object", thing), ("fragments", fragments))}
    share["empty"] = 1 - share["object"] - share["fragments"]
    M, on = gate.double(), share["object"]
    found = {name: ((M * s).sum() / s.sum()).item() for name, s in share.items()}
    mass = (M * on).sum(dim=(1, 2)) / M.sum(dim=(1, 2))
    return found | {"mass": mass.mean().item(), "area": on.mean().item()}


def examine(model: nn.Module, test: train.Pair, settings: dict, *,
            masks: tuple[Tensor, Tensor] | None = None) -> dict:
    """Return `regions`: `on_regions` of each BAM of a trained network, in order.

    `masks`: of the object and of the fragments, where `test` is not `made("test")`.
    """
    if settings["bam"] is None:
        return {}
    thing, fragments = made("test")[1:3] if masks is None else masks
    return {"regions": [on_regions(M, thing, fragments)
                        for M in maps(model, test[0])]}


GRID = Grid("bam", SETTINGS, build, examine, pictures,
            shipped=("plain", "sum", "product", "max", "d1"))
results, trained = GRID.results, GRID.trained

if __name__ == "__main__":
    GRID.main(__doc__)
