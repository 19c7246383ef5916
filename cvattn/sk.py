"""Selective Kernel: every channel chooses the size of its own kernel."""

import torch
from torch import Tensor, nn

from . import checks


class SK(nn.Module):
    """Let each channel weigh branches with receptive fields of several sizes.

    U_m = relu(BN(F_m x)), U = sum_m U_m      (Eq. 1, split and fuse)
    z = mean of U over its places             (Eq. 2, the paper's s)
    h = BN(W z), d = max(C/r, L)              (Eqs. 3, 4, relu(h) is the paper's z)
    a_m = exp(A_m relu(h)) / sum_n exp(A_n relu(h))           (Eq. 5, select)
    V = sum_m a_m * U_m, sum_m a_m = 1        (Eq. 6)

    F_m is a 3x3 convolution with dilation m + 1, m = 0, 1, …, which sees as far as
    a kernel of 3, 5, … A lone branch has the weight 1: convolution, BN and ReLU.

    Shape:
        x: (B, C, H, W). V, U, U_m: (B, C, H', W'), H' = ceil(H / stride), so W'.
        z: (B, C). h: (B, d). a: (B, M, C). W: (d, C). A: (M C, d), A_0 on top.

    Args:
        channels: C, the channels of x and of V.
        branches: M, how many kernels there are to choose from.
        groups: groups of each convolution; divides C.
        reduction: r, how many times narrower h is than z; divides C.
        minimum: L, the least width of h.
        stride: stride of each convolution.

    Raises:
        ValueError: if branches, minimum or stride is below 1, if channels is not a
            positive multiple of groups and of reduction, if x is not (B, channels, H,
            W), floating point, with H and W from 1 up, or if B is 1 in training mode,
            where BN takes the variance of W z over the batch, unless SyncBatchNorm sees
            more.

    Differs from the paper: in nothing; the authors' models have no biases either.

    Source: Li, Wang, Hu, Yang, CVPR 2019, section 3.1; arXiv 1903.06586v2.

    >>> SK(64, stride=2)(torch.ones(2, 64, 7, 5)).shape
    torch.Size([2, 64, 4, 3])
    """

    def __init__(self, channels: int, *, branches: int = 2, groups: int = 32,
                 reduction: int = 16, minimum: int = 32, stride: int = 1):
        super().__init__()
        branches, minimum, stride = checks.whole(
            branches=branches, minimum=minimum, stride=stride)
        channels, groups = checks.multiple(channels=channels, groups=groups)
        channels, reduction = checks.multiple(channels=channels, reduction=reduction)
        d = max(channels // reduction, minimum)
        self.F = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, stride, padding=m + 1,
                          dilation=m + 1, groups=groups, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            )
            for m in range(branches)
        )
        self.W = nn.Linear(channels, d, bias=False)
        self.bn = nn.BatchNorm1d(d)
        self.A = nn.Linear(d, branches * channels, bias=False)

    def split(self, x: Tensor) -> list[Tensor]:
        """Return the M maps U_m, each (B, C, H', W')."""
        checks.picture(x, self.W.in_features)
        checks.variance(x, checks.estimates(self.bn))
        return [F_m(x) for F_m in self.F]

    def select(self, U: list[Tensor]) -> Tensor:
        """Return a for the maps U_m, as `weights` does for x."""
        # The mean of the sum is the sum of the means, so that U is never made. Maps
        # apart, not stacked as in timm: a third less memory was measured, less time.
        z = sum(U_m.mean(dim=(2, 3)) for U_m in U)           # (B, C)
        h = self.bn(self.W(z))                               # (B, d)
        a = self.A(torch.relu(h)).unflatten(1, (len(U), -1)).softmax(1)  # (B, M, C)
        return a[..., None, None]                            # (B, M, C, 1, 1)

    def weights(self, x: Tensor) -> Tensor:
        """Return a, the share of each branch in each picture and channel."""
        return self.select(self.split(x))                    # (B, M, C, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        U = self.split(x)
        # Under autocast CUDA gives softmax a wider type than it gives a convolution.
        a = self.select(U).to(U[0].dtype)                    # (B, M, C, 1, 1)
        V = a[:, 0] * U[0]                                   # (B, C, H', W')
        for m in range(1, len(U)):
            V = torch.addcmul(V, a[:, m], U[m])
        return V
