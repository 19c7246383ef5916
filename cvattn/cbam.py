"""CBAM: a gate for each channel, then a gate for each place."""

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import adaptive_max_pool2d

from . import checks


@fx.wrap
def largest(x: Tensor, dim: int | tuple[int, int]) -> Tensor:
    """Return the maximum over dim, 1 or (2, 3); one of equals gets the gradient."""
    # Measured on a CPU: amax is several times faster than the others, and its gradient
    # several times slower than theirs; adaptive_max_pool2d is up to six times faster
    # than max, but on CUDA its gradient is not the same from one run to the next.
    learns = x.requires_grad and torch.is_grad_enabled()
    if not learns and not torch.jit.is_tracing():       # a trace may learn later
        return x.amax(dim, keepdim=True)
    if dim == 1:
        return x.max(1, keepdim=True).values
    if torch.are_deterministic_algorithms_enabled():
        return x.flatten(2).max(2).values[:, :, None, None]
    return adaptive_max_pool2d(x, 1)


class ChannelAttention(nn.Module):
    """Multiply each channel by a gate computed from the means and maxima of all.

    Mc = sigmoid(W1 relu(W0 Favg) + W1 relu(W0 Fmax))      (Eq. 2)
    y = Mc * x                                             (Eq. 1, first line)

    Shape:
        x, y: (B, C, H, W). Favg, Fmax: mean and maximum over (h, w), (B, C).
        W0: (C/r, C). W1: (C, C/r).

    Args:
        channels: C, the channels of x.
        reduction: r, how many times narrower the hidden layer is; divides C.
        bias: give both layers a bias, as the official code does.

    Raises:
        ValueError: if channels is not a positive multiple of reduction, or if x is not
            (B, channels, H, W), floating point, with H and W from 1 up.

    Differs from the paper: in nothing; its text puts a ReLU after W0.

    Source: Woo, Park, Lee, Kweon, ECCV 2018, section 3; arXiv 1807.06521v2.

    >>> ChannelAttention(64, reduction=16)(torch.ones(2, 64, 7, 5)).shape
    torch.Size([2, 64, 7, 5])
    """

    def __init__(self, channels: int, *, reduction: int = 16, bias: bool = False):
        super().__init__()
        channels, reduction = checks.multiple(channels=channels, reduction=reduction)
        self.W0 = nn.Linear(channels, channels // reduction, bias=bias)
        self.W1 = nn.Linear(channels // reduction, channels, bias=bias)

    def mlp(self, z: Tensor) -> Tensor:
        return self.W1(torch.relu(self.W0(z)))                   # (B, C)

    def gate(self, x: Tensor) -> Tensor:
        """Return Mc, one number in (0, 1) for each picture and channel."""
        checks.picture(x, self.W0.in_features)
        Favg = x.mean(dim=(2, 3))                                # (B, C)
        Fmax = largest(x, (2, 3)).flatten(1)                     # (B, C)
        Mc = torch.sigmoid(self.mlp(Favg) + self.mlp(Fmax))      # (B, C)
        return Mc[:, :, None, None]                              # (B, C, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)                                  # (B, C, H, W)


class SpatialAttention(nn.Module):
    """Multiply each place by a gate computed from the places around it.

    Ms = sigmoid(f [Favg; Fmax])        (Eq. 3)
    y = Ms * x                          (Eq. 1, second line)

    Shape:
        x, y: (B, C, H, W). Favg, Fmax: mean and maximum over channels, (B, 1, H, W).
        f: (1, 2, k, k), a convolution with zeros beyond the border.

    Args:
        channels: C, the channels of x.
        kernel_size: k, the side of f; odd.
        norm: pass f's output through BatchNorm, as the official code does, with a scale
            that starts at 0, as in the authors' ResNet; their module alone starts at 1.

    Raises:
        ValueError: if channels is below 1, if kernel_size is even or below 1, if x is
            not (B, channels, H, W), floating point, with H and W from 1 up, or if it is
            one pixel in all and norm in training mode.

    Differs from the paper: in nothing. The official code reads the maximum first.

    Source: Woo, Park, Lee, Kweon, ECCV 2018, section 3; arXiv 1807.06521v2.

    >>> SpatialAttention(64, kernel_size=7).gate(torch.ones(2, 64, 7, 5)).shape
    torch.Size([2, 1, 7, 5])
    """

    def __init__(self, channels: int, *, kernel_size: int = 7, norm: bool = False):
        super().__init__()
        [self.channels] = checks.whole(channels=channels)
        kernel_size = checks.odd(kernel_size=kernel_size)
        self.f = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.BatchNorm2d(1, momentum=0.01) if norm else nn.Identity()
        if norm:
            nn.init.zeros_(self.norm.weight)

    def gate(self, x: Tensor) -> Tensor:
        """Return Ms, one number in (0, 1) for each picture and place."""
        checks.picture(x, self.channels)
        checks.variance(x, checks.estimates(self.norm), "pixels")
        Favg = x.mean(dim=1, keepdim=True)                       # (B, 1, H, W)
        Fmax = largest(x, 1)                                     # (B, 1, H, W)
        both = torch.cat([Favg, Fmax], dim=1)                    # (B, 2, H, W)
        return torch.sigmoid(self.norm(self.f(both)))               # (B, 1, H, W)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)                                  # (B, C, H, W)


class CBAM(nn.Module):
    """Say what to look at, channel by channel, and then where, place by place.

    x' = Mc(x) * x          (Eq. 1; Mc is Eq. 2, `ChannelAttention`)
    y = Ms(x') * x'         (Eq. 1; Ms is Eq. 3, `SpatialAttention`)

    Shape:
        x, x', y: (B, C, H, W). Mc: (B, C, 1, 1). Ms: (B, 1, H, W).

    Args:
        channels: C, the channels of x.
        reduction: r, how many times narrower the hidden layer of Mc is; divides C.
        kernel_size: k, the side of the convolution of Ms; odd.
        official: biases in Mc and BatchNorm in Ms, as in the official code.

    Raises:
        ValueError: as `ChannelAttention` and `SpatialAttention` do.

    Differs from the paper: in nothing by default.

    Source: Woo, Park, Lee, Kweon, ECCV 2018, section 3; arXiv 1807.06521v2.

    >>> CBAM(64, reduction=16, kernel_size=7)(torch.ones(2, 64, 7, 5)).shape
    torch.Size([2, 64, 7, 5])
    """

    def __init__(self, channels: int, *, reduction: int = 16, kernel_size: int = 7,
                 official: bool = False):
        super().__init__()
        self.channel = ChannelAttention(channels, reduction=reduction, bias=official)
        self.spatial = SpatialAttention(channels, kernel_size=kernel_size,
                                        norm=official)

    def gate(self, x: Tensor) -> Tensor:
        """Return the product of the gates, what x is multiplied by."""
        Mc = self.channel.gate(x)                                # (B, C, 1, 1)
        return Mc * self.spatial.gate(Mc * x)                    # (B, C, H, W)

    def forward(self, x: Tensor) -> Tensor:
        return self.spatial(self.channel(x))                     # (B, C, H, W)
