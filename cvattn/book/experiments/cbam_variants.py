"""CBAM in the forms that its Tables 1 to 3 compare; the defaults are CBAM itself."""

import torch
from torch import Tensor, nn

from cvattn import checks
from cvattn.cbam import ChannelAttention, SpatialAttention, largest

ORDERS = ("channel-spatial", "spatial-channel", "parallel", "channel", "spatial")


def mean(x: Tensor, dim: int | tuple[int, int]) -> Tensor:
    return x.mean(dim, keepdim=True)


POOLS = {"mean": mean, "max": largest}


def checked(pool: tuple[str, ...]) -> tuple[str, ...]:
    """Return pool if it is ("mean",), ("max",) or both in either order."""
    names = tuple(pool) if isinstance(pool, tuple | list) else None
    if names not in (("mean",), ("max",), ("mean", "max"), ("max", "mean")):
        raise ValueError(
            'pool must be ("mean",), ("max",) or both, in either order, '
            f"got pool={pool!r}"
        )
    return names


class ChannelVariant(ChannelAttention):
    """Channel attention from means, maxima or both: the rows of Table 1.

    Mc = sigmoid(sum over pools of W1 relu(W0 F))      (Eq. 2)

    Args:
        channels, reduction, bias: as `ChannelAttention`; the bias of W1 counts once
            for each pool.
        pool: ("mean",), with which this is SE, ("max",) or both.

    Raises:
        ValueError: if pool is none of these, or as `ChannelAttention`.
    """

    def __init__(self, channels: int, *, reduction: int = 16, bias: bool = False,
                 pool: tuple[str, ...] = ("mean", "max")):
        super().__init__(channels, reduction=reduction, bias=bias)
        self.pool = checked(pool)

    def gate(self, x: Tensor) -> Tensor:
        checks.picture(x, self.W0.in_features)
        F = [POOLS[p](x, (2, 3)).flatten(1) for p in self.pool]
        a = sum(self.mlp(f) for f in F)                          # (B, C)
        return torch.sigmoid(a)[:, :, None, None]                # (B, C, 1, 1)


class SpatialVariant(SpatialAttention):
    """Spatial attention from other maps: the rows of Table 2.

    Ms = sigmoid(f F),  F of the pools, or F = f0 x      (Eq. 3)

    Args:
        channels, kernel_size, norm: as `SpatialAttention`.
        pool: ("mean",), ("max",) or both, in the order of f's input channels; or
            "conv", a learned 1x1 convolution f0 to one map. The paper does not say
            whether that has a bias; here it has none, as f.

    Raises:
        ValueError: if pool is none of these, or as `SpatialAttention`.
    """

    def __init__(self, channels: int, *, kernel_size: int = 7,
                 pool: tuple[str, ...] | str = ("mean", "max"), norm: bool = False):
        with torch.random.fork_rng([]):     # for f is drawn anew, after f0
            super().__init__(channels, kernel_size=kernel_size, norm=norm)
        self.pool = pool if pool == "conv" else checked(pool)
        self.f0 = nn.Conv2d(channels, 1, 1, bias=False) if pool == "conv" else None
        self.f = nn.Conv2d(1 if pool == "conv" else len(pool), 1, kernel_size,
                           padding=kernel_size // 2, bias=False)

    def gate(self, x: Tensor) -> Tensor:
        checks.picture(x, self.channels)
        checks.variance(x, checks.estimates(self.norm), "pixels")
        if self.pool == "conv":
            F = self.f0(x)                                       # (B, 1, H, W)
        else:
            F = torch.cat([POOLS[p](x, 1) for p in self.pool], dim=1)
        return torch.sigmoid(self.norm(self.f(F)))               # (B, 1, H, W)


class CBAMVariant(nn.Module):
    """CBAM with the two gates in another order, and either in another form.

    Args:
        channels, reduction, kernel_size: as `CBAM`.
        channel_pool, bias: of `ChannelVariant`.
        spatial_pool, norm: of `SpatialVariant`.
        order: "channel-spatial", "spatial-channel", "parallel" (both gates computed
            from x, and x multiplied by both), or one half alone, "channel" or
            "spatial". Table 3 does not say how the parallel outputs merge; a product
            keeps each half's meaning, for where one gate is 1 the other alone remains.

    Raises:
        ValueError: if order is another word, or as the two halves do.
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
            self.channel = ChannelVariant(channels, reduction=reduction, bias=bias,
                                          pool=channel_pool)
        if order != "channel":
            self.spatial = SpatialVariant(channels, kernel_size=kernel_size,
                                          pool=spatial_pool, norm=norm)

    def gate(self, x: Tensor) -> Tensor:
        """Return the product of the gates, what x is multiplied by."""
        if self.order == "parallel":
            return self.channel.gate(x) * self.spatial.gate(x)   # (B, C, H, W)
        M = torch.ones_like(x)                                   # (B, C, H, W)
        for half in self.order.split("-"):
            M = M * getattr(self, half).gate(M * x)              # (B, C, H, W)
        return M                                                 # (B, C, H, W)

    def forward(self, x: Tensor) -> Tensor:
        if self.order == "parallel":
            return self.spatial.gate(x) * self.channel(x)        # (B, C, H, W)
        for half in self.order.split("-"):
            x = getattr(self, half)(x)                           # (B, C, H, W)
        return x                                                 # (B, C, H, W)
