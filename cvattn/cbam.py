"""CBAM: a gate for each channel, then a gate for each place."""

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d

ORDERS = ("channel-spatial", "spatial-channel", "parallel", "channel", "spatial")


def mean(x: Tensor, dim: int | tuple[int, int]) -> Tensor:
    return x.mean(dim, keepdim=True)


def largest(x: Tensor, dim: int | tuple[int, int]) -> Tensor:
    """Return the maximum over dim, which is 1 or (2, 3)."""
    # Measured on a CPU: amax is several times faster than the others, and its gradient
    # several times slower than theirs.
    if not (x.requires_grad and torch.is_grad_enabled()):
        return x.amax(dim, keepdim=True)
    return x.max(1, keepdim=True).values if dim == 1 else adaptive_max_pool2d(x, 1)


POOLS = {"mean": mean, "max": largest}


def checked(pool: tuple[str, ...]) -> tuple[str, ...]:
    """Return pool if it is ("mean",), ("max",) or both in either order."""
    names = tuple(pool) if isinstance(pool, tuple | list) else None
    if names not in (("mean",), ("max",), ("mean", "max"), ("max", "mean")):
        raise ValueError(
            'pool must be "mean", "max" or both in a tuple, without repeats, '
            f"got pool={pool!r}"
        )
    return names


class ChannelAttention(nn.Module):
    """Multiply each channel by a gate computed from the means and maxima of all.

    Mc = sigmoid(W1 relu(W0 Favg) + W1 relu(W0 Fmax))      (Eq. 2)
    y = Mc * x                                             (Eq. 1, first line)

    Favg and Fmax are the mean and the maximum of x over (h, w); both pass through
    the same W0 and W1. With pool=("mean",) this is SE.

    Shape:
        x: (B, C, H, W), any B from 0 and any H and W from 1 up. y: the shape of x.
        Favg, Fmax: (B, C). W0: (C/r, C). W1: (C, C/r).
        A NaN in x makes its whole picture NaN, and no other picture.

    Args:
        channels: C, the channels of x.
        reduction: r, how many times narrower the hidden layer is; divides C.
        bias: give both linear layers a bias. Adds C/r + C parameters; that of W1
            counts once for each pool.
        pool: what describes a channel, "mean", "max" or both in a tuple: the rows
            of the paper's Table 1. Their order does not matter.

    Raises:
        ValueError: if channels is not a positive multiple of reduction, if pool
            holds anything else or nothing, or if x is not (B, channels, H, W).

    Differs from the paper: in nothing; its Eq. 2 has no biases and its text puts a
    ReLU after W0. The official code has biases: `bias=True`. Where several pixels
    share the maximum, one of them gets all of its gradient.

    Source: Woo, Park, Lee, Kweon, "CBAM: Convolutional Block Attention Module",
    ECCV 2018, section 3; arXiv 1807.06521v2.

    >>> ChannelAttention(64, reduction=16)(torch.ones(2, 64, 7, 5)).shape
    torch.Size([2, 64, 7, 5])
    """

    def __init__(self, channels: int, *, reduction: int = 16, bias: bool = False,
                 pool: tuple[str, ...] = ("mean", "max")):
        super().__init__()
        if channels < 1 or reduction < 1 or channels % reduction:
            raise ValueError(
                "channels must be a positive multiple of reduction, "
                f"got channels={channels}, reduction={reduction}"
            )
        self.pool = checked(pool)
        self.W0 = nn.Linear(channels, channels // reduction, bias=bias)
        self.W1 = nn.Linear(channels // reduction, channels, bias=bias)

    def gate(self, x: Tensor) -> Tensor:
        """Return Mc, one number in (0, 1) for each picture and channel."""
        if x.ndim != 4 or x.shape[1] != self.W0.in_features:
            raise ValueError(
                f"x must be (B, {self.W0.in_features}, H, W), got {tuple(x.shape)}"
            )
        F = [POOLS[p](x, (2, 3)).flatten(1) for p in self.pool]
        a = sum([self.W1(torch.relu(self.W0(f))) for f in F])    # (B, C)
        return torch.sigmoid(a)[:, :, None, None]                # (B, C, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)                                  # (B, C, H, W)


class SpatialAttention(nn.Module):
    """Multiply each place by a gate computed from the places around it.

    Ms = sigmoid(f [Favg; Fmax])        (Eq. 3)
    y = Ms * x                          (Eq. 1, second line)

    Favg and Fmax are the mean and the maximum of x over its channels, f is a k x k
    convolution from these two maps to one, with zeros beyond the border.

    Shape:
        x: (B, C, H, W), any B from 0 and any H and W from 1 up. y: the shape of x.
        Favg, Fmax: (B, 1, H, W). f: (1, 2, k, k).
        A NaN in x makes the k x k places around it NaN, in every channel; with norm
        in training mode, through the statistics of BatchNorm, all pictures.

    Args:
        channels: C, the channels of x.
        kernel_size: k, the side of the convolution f; odd.
        pool: what describes a place, "mean", "max" or both in a tuple, in the order
            of f's input channels; or "conv", a learned 1x1 convolution to one map,
            which the paper's Table 2 compares.
        norm: pass f's output through BatchNorm before the sigmoid.

    Raises:
        ValueError: if channels is below 1, if kernel_size is even or below 1, if
            pool is none of the above, if x is not (B, channels, H, W), or if norm
            has one pixel in all to estimate a variance from (in training mode).

    Differs from the paper: in nothing by default. The official code concatenates
    maximum first and normalises (momentum 0.01, scale 0 at the start, so that every
    gate begins at one half): `pool=("max", "mean"), norm=True`. The paper does not
    say whether the 1x1 convolution of pool="conv" has a bias; here it has none, as f.
    Where several channels share the maximum, one of them gets all of its gradient.

    Source: Woo, Park, Lee, Kweon, "CBAM: Convolutional Block Attention Module",
    ECCV 2018, section 3; arXiv 1807.06521v2.

    >>> SpatialAttention(64, kernel_size=7).gate(torch.ones(2, 64, 7, 5)).shape
    torch.Size([2, 1, 7, 5])
    """

    def __init__(self, channels: int, *, kernel_size: int = 7,
                 pool: tuple[str, ...] | str = ("mean", "max"), norm: bool = False):
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be positive, got channels={channels}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size must be odd and positive, got kernel_size={kernel_size}"
            )
        self.channels = channels
        self.pool = pool if pool == "conv" else checked(pool)
        self.f0 = nn.Conv2d(channels, 1, 1, bias=False) if pool == "conv" else None
        self.f = nn.Conv2d(1 if pool == "conv" else len(pool), 1, kernel_size,
                           padding=kernel_size // 2, bias=False)
        self.norm = nn.BatchNorm2d(1, momentum=0.01) if norm else nn.Identity()
        if norm:
            nn.init.zeros_(self.norm.weight)

    def gate(self, x: Tensor) -> Tensor:
        """Return Ms, one number in (0, 1) for each picture and place."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(
                f"x must be (B, {self.channels}, H, W), got {tuple(x.shape)}"
            )
        if self.pool == "conv":
            F = self.f0(x)
        else:
            F = torch.cat([POOLS[p](x, 1) for p in self.pool], dim=1)
        return torch.sigmoid(self.norm(self.f(F)))               # (B, 1, H, W)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)                                  # (B, C, H, W)


class CBAM(nn.Module):
    """Say what to look at, channel by channel, and then where, place by place.

    F' = Mc(x) * x          (Eq. 1; Mc is Eq. 2, `ChannelAttention`)
    y = Ms(F') * F'         (Eq. 1; Ms is Eq. 3, `SpatialAttention`)

    Shape:
        x: (B, C, H, W), any B from 0 and any H and W from 1 up. F', y: the shape
        of x. Mc: (B, C, 1, 1). Ms: (B, 1, H, W).
        A NaN in x makes its whole picture NaN (with order="spatial", the k x k places
        around it), and no other picture, except with norm in training mode.

    Args:
        channels: C, the channels of x.
        reduction: r, how many times narrower the hidden layer of Mc is; divides C.
        kernel_size: k, the side of the convolution of Ms; odd.
        channel_pool: the pool of Mc: "mean", "max" or both in a tuple.
        spatial_pool: the pool of Ms: the same, in the order of the convolution's
            input channels, or "conv".
        order: "channel-spatial", "spatial-channel", "parallel" (both gates computed
            from x, and x multiplied by both), or one half alone, "channel" or
            "spatial".
        bias: give the linear layers of Mc a bias.
        norm: pass the convolution of Ms through BatchNorm.

    Raises:
        ValueError: if order is another word, or as `ChannelAttention` and
            `SpatialAttention` do.

    Differs from the paper: in nothing by default. Table 3 has a parallel row and
    does not say how the two outputs merge; the product of gates is the one that
    keeps each half's meaning, for where one half says nothing (a gate of 1) the
    other alone remains. The official code is
    `CBAM(channels, bias=True, spatial_pool=("max", "mean"), norm=True)`.

    Source: Woo, Park, Lee, Kweon, "CBAM: Convolutional Block Attention Module",
    ECCV 2018, section 3 and Tables 1 to 3; arXiv 1807.06521v2.

    >>> CBAM(64, reduction=16, kernel_size=7)(torch.ones(2, 64, 7, 5)).shape
    torch.Size([2, 64, 7, 5])
    """

    def __init__(self, channels: int, *, reduction: int = 16, kernel_size: int = 7,
                 channel_pool: tuple[str, ...] = ("mean", "max"),
                 spatial_pool: tuple[str, ...] | str = ("mean", "max"),
                 order: str = "channel-spatial", bias: bool = False,
                 norm: bool = False):
        super().__init__()
        if order not in ORDERS:
            raise ValueError(f"order must be one of {ORDERS}, got order={order!r}")
        self.order = order
        if order != "spatial":
            self.channel = ChannelAttention(channels, reduction=reduction, bias=bias,
                                            pool=channel_pool)
        if order != "channel":
            self.spatial = SpatialAttention(channels, kernel_size=kernel_size,
                                            pool=spatial_pool, norm=norm)

    def gate(self, x: Tensor) -> Tensor:
        """Return the product of the gates, what x is multiplied by."""
        if self.order == "parallel":
            return self.channel.gate(x) * self.spatial.gate(x)   # (B, C, H, W)
        M = torch.ones_like(x)
        for half in self.order.split("-"):
            M = M * getattr(self, half).gate(M * x)
        return M

    def forward(self, x: Tensor) -> Tensor:
        if self.order == "parallel":
            return self.spatial.gate(x) * self.channel(x)
        for half in self.order.split("-"):
            x = getattr(self, half)(x)
        return x                                                 # (B, C, H, W)
