"""Squeeze-and-Excitation: every channel is weighed by all the others."""

import torch
from torch import Tensor, nn

from . import checks


class SE(nn.Module):
    """Multiply each channel by a gate computed from the means of all channels.

    z = mean over (h, w) of x         (Eq. 2, squeeze)
    s = sigmoid(W2 relu(W1 z))        (Eq. 3, excitation)
    y = s * x                         (Eq. 4, scale)

    Shape:
        x, y: (B, C, H, W). z, s: (B, C). W1: (C/r, C). W2: (C, C/r).

    Args:
        channels: C, the channels of x.
        reduction: r, how many times narrower the hidden layer is; divides C.
        bias: give both layers a bias, as the authors' first released models do.

    Raises:
        ValueError: if channels is not a positive multiple of reduction, or if x is not
            (B, channels, H, W), floating point, with H and W from 1 up.

    Differs from the paper: in nothing. torchvision and timm have biases.

    Source: Hu, Shen, Albanie, Sun, Wu, IEEE TPAMI 2020, section 3;
    arXiv 1709.01507v4.

    >>> SE(64, reduction=16)(torch.ones(2, 64, 7, 5)).shape
    torch.Size([2, 64, 7, 5])
    """

    def __init__(self, channels: int, *, reduction: int = 16, bias: bool = False):
        super().__init__()
        channels, reduction = checks.multiple(channels=channels, reduction=reduction)
        self.W1 = nn.Linear(channels, channels // reduction, bias=bias)
        self.W2 = nn.Linear(channels // reduction, channels, bias=bias)

    def gate(self, x: Tensor) -> Tensor:
        """Return s, one number in (0, 1) for each picture and channel."""
        checks.picture(x, self.W1.in_features)
        z = x.mean(dim=(2, 3))                               # (B, C)
        s = torch.sigmoid(self.W2(torch.relu(self.W1(z))))   # (B, C)
        return s[:, :, None, None]                           # (B, C, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)                              # (B, C, H, W)
