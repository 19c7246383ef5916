"""BAM: one gate for each channel at each place, from two branches side by side."""

import torch
from torch import Tensor, nn

from . import checks


class ChannelGate(nn.Module):
    """Score each channel from the means of all channels.

    Mc = BN(W1 relu(W0 z + b0) + b1),  z = mean over (h, w) of x      (Eq. 3)

    Shape:
        x: (B, C, H, W). z: (B, C). Mc: (B, C, 1, 1), not yet through the sigmoid.
        W0: (C/r, C). b0: (C/r). W1: (C, C/r). b1: (C).

    Args:
        channels: C, the channels of x.
        reduction: r, how many times narrower the hidden layer is; divides C.
        official: BN between W0 and its ReLU, as in the official code, not at the end.

    Raises:
        ValueError: if channels is not a positive multiple of reduction, if x is not
            (B, channels, H, W), floating point, with H and W from 1 up, or if it is one
            picture and BN in training mode, unless SyncBatchNorm sees others.

    Differs from the paper: Eq. 3 prints no ReLU; its text has one hidden layer.

    Source: Park, Woo, Lee, Kweon, BMVC 2018, section 3; arXiv 1807.06514v2.

    >>> ChannelGate(64, reduction=16)(torch.ones(2, 64, 7, 5)).shape
    torch.Size([2, 64, 1, 1])
    """

    def __init__(self, channels: int, *, reduction: int = 16, official: bool = False):
        super().__init__()
        channels, reduction = checks.multiple(channels=channels, reduction=reduction)
        self.official = official
        self.W0 = nn.Linear(channels, channels // reduction)
        self.W1 = nn.Linear(channels // reduction, channels)
        self.norm = nn.BatchNorm1d(channels // reduction if official else channels)

    def forward(self, x: Tensor) -> Tensor:
        checks.picture(x, self.W0.in_features)
        checks.variance(x, checks.estimates(self.norm))
        z = x.mean(dim=(2, 3))                                # (B, C)
        if self.official:
            Mc = self.W1(torch.relu(self.norm(self.W0(z))))   # (B, C)
        else:
            Mc = self.norm(self.W1(torch.relu(self.W0(z))))   # (B, C)
        return Mc[:, :, None, None]                           # (B, C, 1, 1)


class SpatialGate(nn.Module):
    """Score each place from the places around it, near and far.

    Ms = BN(f3 relu(f2 relu(f1 relu(f0 x))))      (Eq. 4)

    Shape:
        x: (B, C, H, W). Ms: (B, 1, H, W), not yet through the sigmoid.
        f0: (C/r, C, 1, 1). f1, f2: (C/r, C/r, 3, 3), with dilation d and zeros beyond
        the border: together they see 5 x 5 pixels at steps of d. f3: (1, C/r, 1, 1).

    Args:
        channels: C, the channels of x.
        reduction: r, how many times fewer channels f0 leaves; divides C.
        dilation: d, the step between the pixels that f1 and f2 see.
        official: BN before each ReLU, as in the official code, and none at the end.

    Raises:
        ValueError: if channels is not a positive multiple of reduction, if dilation is
            below 1, if x is not (B, channels, H, W), floating point, with H and W from
            1 up, or if it is one pixel in all and BN in training mode.

    Differs from the paper: Eq. 4 prints no ReLU; see `ChannelGate`.

    Source: Park, Woo, Lee, Kweon, BMVC 2018, section 3; arXiv 1807.06514v2.

    >>> SpatialGate(64, reduction=16, dilation=4)(torch.ones(2, 64, 7, 5)).shape
    torch.Size([2, 1, 7, 5])
    """

    def __init__(self, channels: int, *, reduction: int = 16, dilation: int = 4,
                 official: bool = False):
        super().__init__()
        channels, reduction = checks.multiple(channels=channels, reduction=reduction)
        [dilation] = checks.whole(dilation=dilation)
        K = channels // reduction
        self.f0 = nn.Conv2d(channels, K, 1)
        self.f1 = nn.Conv2d(K, K, 3, padding=dilation, dilation=dilation)
        self.f2 = nn.Conv2d(K, K, 3, padding=dilation, dilation=dilation)
        self.f3 = nn.Conv2d(K, 1, 1)
        hidden, last = nn.Identity, nn.BatchNorm2d
        if official:
            hidden, last = last, hidden
        self.norm0, self.norm1, self.norm2 = hidden(K), hidden(K), hidden(K)
        self.norm3 = last(1)

    def forward(self, x: Tensor) -> Tensor:
        checks.picture(x, self.f0.in_channels)
        norms = self.norm0, self.norm1, self.norm2, self.norm3
        checks.variance(x, any(map(checks.estimates, norms)), "pixels")
        h = torch.relu(self.norm0(self.f0(x)))                # (B, C/r, H, W)
        h = torch.relu(self.norm1(self.f1(h)))                # (B, C/r, H, W)
        h = torch.relu(self.norm2(self.f2(h)))                # (B, C/r, H, W)
        return self.norm3(self.f3(h))                         # (B, 1, H, W)


class BAM(nn.Module):
    """Raise what matters by up to twice, by what it is and where it is.

    M = sigmoid(Mc + Ms)      (Eq. 2; Mc is Eq. 3, `ChannelGate`; Ms is Eq. 4,
                               `SpatialGate`)
    y = x + x * M             (Eq. 1)

    Shape:
        x, y, M: (B, C, H, W). Mc: (B, C, 1, 1). Ms: (B, 1, H, W).

    Args:
        channels: C, the channels of x.
        reduction: r, how many times narrower both branches are inside; divides C.
        dilation: d, the step between the pixels that Ms's 3 x 3 convolutions see.
        official: Mc * Ms, and BN where the official code has it in the branches.

    Raises:
        ValueError: as `ChannelGate` and `SpatialGate` do: above all for one picture in
            training mode, of which BatchNorm can estimate no variance.

    Differs from the paper: in the ReLUs of the branches, which it does not print.

    Source: Park, Woo, Lee, Kweon, BMVC 2018, section 3; arXiv 1807.06514v2.

    >>> BAM(64, reduction=16, dilation=4)(torch.ones(2, 64, 7, 5)).shape
    torch.Size([2, 64, 7, 5])
    """

    def __init__(self, channels: int, *, reduction: int = 16, dilation: int = 4,
                 official: bool = False):
        super().__init__()
        self.official = official
        self.channel = ChannelGate(channels, reduction=reduction, official=official)
        self.spatial = SpatialGate(channels, reduction=reduction, dilation=dilation,
                                   official=official)

    def combine(self, Mc: Tensor, Ms: Tensor) -> Tensor:
        return Mc * Ms if self.official else Mc + Ms          # (B, C, H, W)

    def gate(self, x: Tensor) -> Tensor:
        """Return M, one number in (0, 1) for each picture, channel and place."""
        M = self.combine(self.channel(x), self.spatial(x))    # (B, C, H, W)
        return torch.sigmoid(M)                               # (B, C, H, W)

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + self.gate(x))                         # (B, C, H, W)
