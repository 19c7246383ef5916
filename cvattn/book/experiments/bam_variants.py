"""BAM with the three ways to combine that its paper compares, and either BatchNorm."""

import torch
from torch import Tensor

from cvattn.bam import BAM

COMBINE = {"sum": torch.add, "product": torch.mul, "max": torch.maximum}


class BAMVariant(BAM):
    """BAM whose branches meet in another way.

    M = sigmoid(Mc + Ms), sigmoid(Mc * Ms) or sigmoid(max(Mc, Ms))      (Eq. 2)

    Args:
        channels, reduction, dilation: as `BAM`.
        combine: "sum", the paper's; "product", the official code's; or "max".
        norm: where BatchNorm stands: "last" in each branch, as in the paper, or
            "hidden", as in the official code.

    Raises:
        ValueError: if combine or norm is another word, or as `BAM`.
    """

    def __init__(self, channels: int, *, reduction: int = 16, dilation: int = 4,
                 combine: str = "sum", norm: str = "last"):
        if combine not in COMBINE:
            raise ValueError(
                f"combine must be one of {tuple(COMBINE)}, got combine={combine!r}"
            )
        super().__init__(channels, reduction=reduction, dilation=dilation,
                         official=norm == "hidden")
        if norm not in ("last", "hidden"):
            raise ValueError(f'norm must be "last" or "hidden", got norm={norm!r}')
        self.how = combine

    def combine(self, Mc: Tensor, Ms: Tensor) -> Tensor:
        return COMBINE[self.how](Mc, Ms)                      # (B, C, H, W)
