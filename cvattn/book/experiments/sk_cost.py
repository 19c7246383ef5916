"""What choosing costs: time of SK over time of the grouped 3x3 that it replaces.

    python -m cvattn.book.experiments.sk_cost            # print the table
    python -m cvattn.book.experiments.sk_cost --write    # and keep it as sk_cost.json

Both take turns within one run, as in `se_cost`: each turn gives one ratio, and the
table shows the quartiles of the ratios. The shapes are those of SKNet-50.
"""

import torch
from torch import nn

from cvattn.book.experiments.record import RESULTS as RESULTS
from cvattn.book.experiments.se_cost import device, quartiles, table
from cvattn.sk import SK

SHAPES = [(8, 128, 56, 56), (8, 256, 28, 28), (8, 512, 14, 14), (8, 1024, 7, 7)]


def plain(channels: int) -> nn.Module:
    """The 3x3 of ResNeXt-50 (32x4d), its BatchNorm and its ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=32, bias=False),
        nn.BatchNorm2d(channels), nn.ReLU(inplace=True),
    )


def ratios(shape: tuple[int, ...], turns: int) -> dict[str, list[float]]:
    """Return the quartiles of SK over plain."""
    x = torch.randn(shape, device=device())
    return quartiles(plain(shape[1]).to(x.device), SK(shape[1]).to(x.device), x, turns)


def main() -> None:
    table("sk_cost", "SK over the grouped 3x3", SHAPES, ratios)


if __name__ == "__main__":
    main()
