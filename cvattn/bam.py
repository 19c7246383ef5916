"""BAM: one gate for each channel at each place, from two branches side by side."""

import torch
from torch import Tensor, nn

COMBINE = {"sum": torch.add, "product": torch.mul, "max": torch.maximum}


def check_arguments(channels: int, reduction: int, norm: str) -> None:
    if channels < 1 or reduction < 1 or channels % reduction:
        raise ValueError(
            "channels must be a positive multiple of reduction, "
            f"got channels={channels}, reduction={reduction}"
        )
    if norm not in ("last", "hidden"):
        raise ValueError(f'norm must be "last" or "hidden", got norm={norm!r}')


class ChannelGate(nn.Module):
    """Score each channel from the means of all channels.

    Mc = BN(W1 relu(W0 z + b0) + b1),  z = mean over (h, w) of x      (Eq. 3)

    Shape:
        x: (B, C, H, W), any B from 0 and any H and W from 1 up; in training mode
        any B but 1. Mc: (B, C, 1, 1), not yet through the sigmoid.
        z: (B, C). W0: (C/r, C). b0: (C/r). W1: (C, C/r). b1: (C).
        A NaN in x makes its picture's Mc NaN; in training mode, through the
        statistics of BN, that of all pictures.

    Args:
        channels: C, the channels of x.
        reduction: r, how many times narrower the hidden layer is; divides C.
        norm: where BN stands: "last", as in Eq. 3, or "hidden", between W0 and its
            ReLU, as in the official code.

    Raises:
        ValueError: if channels is not a positive multiple of reduction, if norm is
            another word, if x is not (B, channels, H, W), or if BN is in training
            mode and x is one picture: each channel is then one number, which has no
            variance. An empty batch is let through and leaves BN's statistics alone.

    Differs from the paper: Eq. 3 prints no ReLU between W1 and W0. Without one the
    two layers would be a single linear map, while the text calls them an MLP with a
    hidden activation; the official code has it, and so has CBAM, whose Eq. 2 prints
    none either but whose text does. The official code is `norm="hidden"`, and pools
    H x H pixels, so that it takes square maps only.

    Source: Park, Woo, Lee, Kweon, "BAM: Bottleneck Attention Module", BMVC 2018,
    section 3; arXiv 1807.06514v2.

    >>> ChannelGate(64, reduction=16)(torch.ones(2, 64, 7, 5)).shape
    torch.Size([2, 64, 1, 1])
    """

    def __init__(self, channels: int, *, reduction: int = 16, norm: str = "last"):
        super().__init__()
        check_arguments(channels, reduction, norm)
        self.W0 = nn.Linear(channels, channels // reduction)
        self.W1 = nn.Linear(channels // reduction, channels)
        self.place = norm
        self.norm = nn.BatchNorm1d(
            channels if norm == "last" else channels // reduction)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.W0.in_features:
            raise ValueError(
                f"x must be (B, {self.W0.in_features}, H, W), got {tuple(x.shape)}"
            )
        if self.norm.training and x.shape[0] == 1:
            raise ValueError(
                "x must hold at least two pictures in training mode, for BatchNorm "
                f"estimates a variance over them, got {tuple(x.shape)}: "
                "use a larger batch or eval()"
            )
        h = self.W0(x.mean(dim=(2, 3)))                       # (B, C/r)
        if self.place == "hidden":
            h = self.norm(h)
        Mc = self.W1(torch.relu(h))                           # (B, C)
        if self.place == "last":
            Mc = self.norm(Mc)
        return Mc[:, :, None, None]                           # (B, C, 1, 1)


class SpatialGate(nn.Module):
    """Score each place from the places around it, near and far.

    Ms = BN(f3 relu(f2 relu(f1 relu(f0 x))))      (Eq. 4)

    f0 and f3 are 1 x 1 convolutions, to C/r channels and to one. f1 and f2 are 3 x 3
    with dilation d: each Ms sees 25 pixels, 5 x 5 at steps of d, which span a square
    of side 4d + 1.

    Shape:
        x: (B, C, H, W), any B from 0 and any H and W from 1 up. Ms: (B, 1, H, W),
        not yet through the sigmoid. Zeros stand beyond the border.
        f0: (C/r, C, 1, 1). f1, f2: (C/r, C/r, 3, 3). f3: (1, C/r, 1, 1).
        A NaN in x makes the places that see it NaN; in training mode, through the
        statistics of BN, all places of all pictures.

    Args:
        channels: C, the channels of x.
        reduction: r, how many times fewer channels f0 leaves; divides C.
        dilation: d, the step between the pixels that f1 and f2 see.
        norm: where BN stands: "last", as in Eq. 4, or "hidden", before each ReLU,
            as in the official code.

    Raises:
        ValueError: if channels is not a positive multiple of reduction, if dilation
            is below 1, if norm is another word, if x is not (B, channels, H, W), or
            if BN is in training mode and x is one pixel in all. An empty batch is
            let through and leaves BN's statistics alone.

    Differs from the paper: Eq. 4 prints no ReLU; see `ChannelGate`. The convolutions
    have biases, as in the official code, which is `norm="hidden"`.

    Source: Park, Woo, Lee, Kweon, "BAM: Bottleneck Attention Module", BMVC 2018,
    section 3; arXiv 1807.06514v2.

    >>> SpatialGate(64, reduction=16, dilation=4)(torch.ones(2, 64, 7, 5)).shape
    torch.Size([2, 1, 7, 5])
    """

    def __init__(self, channels: int, *, reduction: int = 16, dilation: int = 4,
                 norm: str = "last"):
        super().__init__()
        check_arguments(channels, reduction, norm)
        if dilation < 1:
            raise ValueError(f"dilation must be positive, got dilation={dilation}")
        K = channels // reduction
        self.f0 = nn.Conv2d(channels, K, 1)
        self.f1 = nn.Conv2d(K, K, 3, padding=dilation, dilation=dilation)
        self.f2 = nn.Conv2d(K, K, 3, padding=dilation, dilation=dilation)
        self.f3 = nn.Conv2d(K, 1, 1)
        hidden, last = nn.BatchNorm2d, nn.Identity
        if norm == "last":
            hidden, last = nn.Identity, nn.BatchNorm2d
        self.norm0, self.norm1, self.norm2 = hidden(K), hidden(K), hidden(K)
        self.norm3 = last(1)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.f0.in_channels:
            raise ValueError(
                f"x must be (B, {self.f0.in_channels}, H, W), got {tuple(x.shape)}"
            )
        h = torch.relu(self.norm0(self.f0(x)))                # (B, C/r, H, W)
        h = torch.relu(self.norm1(self.f1(h)))
        h = torch.relu(self.norm2(self.f2(h)))
        return self.norm3(self.f3(h))                         # (B, 1, H, W)


class BAM(nn.Module):
    """Raise what matters by up to twice, by what it is and where it is.

    M = sigmoid(Mc + Ms)      (Eq. 2; Mc is Eq. 3, `ChannelGate`; Ms is Eq. 4,
                               `SpatialGate`)
    y = x + x * M             (Eq. 1)

    Shape:
        x: (B, C, H, W), any B from 0 and any H and W from 1 up; in training mode
        any B but 1. M, y: the shape of x. Mc: (B, C, 1, 1). Ms: (B, 1, H, W).
        A NaN in x makes its whole picture NaN, and, in eval mode, no other.

    Args:
        channels: C, the channels of x.
        reduction: r, how many times narrower both branches are inside; divides C.
        dilation: d, the step between the pixels that Ms's 3 x 3 convolutions see.
        combine: how Mc and Ms meet: "sum", "product" or "max", the rows of the
            paper's comparison, in which "sum" is best.
        norm: where BatchNorm stands, "last" in each branch or "hidden".

    Raises:
        ValueError: if combine is another word, or as `ChannelGate` and `SpatialGate`
            do: above all for one picture in training mode, of which BatchNorm can
            estimate no variance.

    Differs from the paper: a ReLU follows each hidden layer, see `ChannelGate`. The
    official code is `BAM(channels, combine="product", norm="hidden")`: a place can
    raise one channel and lower another, and where Mc is 0, M is one half whatever
    Ms says.

    Source: Park, Woo, Lee, Kweon, "BAM: Bottleneck Attention Module", BMVC 2018,
    section 3; arXiv 1807.06514v2.

    >>> BAM(64, reduction=16, dilation=4)(torch.ones(2, 64, 7, 5)).shape
    torch.Size([2, 64, 7, 5])
    """

    def __init__(self, channels: int, *, reduction: int = 16, dilation: int = 4,
                 combine: str = "sum", norm: str = "last"):
        super().__init__()
        if combine not in COMBINE:
            raise ValueError(
                f"combine must be one of {tuple(COMBINE)}, got combine={combine!r}"
            )
        self.combine = combine
        self.channel = ChannelGate(channels, reduction=reduction, norm=norm)
        self.spatial = SpatialGate(
            channels, reduction=reduction, dilation=dilation, norm=norm)

    def gate(self, x: Tensor) -> Tensor:
        """Return M, one number in (0, 1) for each picture, channel and place."""
        M = COMBINE[self.combine](self.channel(x), self.spatial(x))  # (B, C, H, W)
        return torch.sigmoid(M)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(x, x, self.gate(x))    # x + x * M in one pass
