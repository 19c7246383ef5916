"""What people start from, written plainly: the authors' CBAM and BAM, torch's STN.

Peers for the benchmark and for the tests of `cvattn.weights`. CBAM and BAM carry the
names of the released code (github.com/Jongchan/attention-module), and so fit its
files. Two faults of that code are not here: its last version's BAM cannot be built,
and pools over H x H pixels: of the maps that are not square some raise, and where
H < W < 2 H the last columns are lost in silence. CBAM's scale of 0 at the start is
that of the authors' ResNet; their module alone starts at 1.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def named(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


class CBAM(nn.Module):
    """Means and maxima by pooling; the maximum first in the spatial convolution."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = channels // reduction
        self.ChannelGate, self.SpatialGate = nn.Module(), nn.Module()
        self.ChannelGate.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(),
            nn.Linear(hidden, channels))
        self.SpatialGate.spatial = named(
            conv=nn.Conv2d(2, 1, 7, padding=3, bias=False),
            bn=nn.BatchNorm2d(1, momentum=0.01))
        nn.init.zeros_(self.SpatialGate.spatial.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        size, mlp = x.shape[2:], self.ChannelGate.mlp
        a = mlp(F.avg_pool2d(x, size)) + mlp(F.max_pool2d(x, size))
        x = x * torch.sigmoid(a)[:, :, None, None]
        maps = torch.stack([x.max(dim=1).values, x.mean(dim=1)], dim=1)
        return x * torch.sigmoid(self.SpatialGate.spatial(maps))


class BAM(nn.Module):
    """The sigmoid of the product of both branches, BatchNorm in their hidden layers."""

    def __init__(self, channels: int, reduction: int = 16, dilation: int = 4):
        super().__init__()
        hidden = channels // reduction
        self.channel_att, self.spatial_att = nn.Module(), nn.Module()
        self.channel_att.gate_c = named(
            flatten=nn.Flatten(),
            gate_c_fc_0=nn.Linear(channels, hidden),
            gate_c_bn_1=nn.BatchNorm1d(hidden),
            gate_c_relu_1=nn.ReLU(),
            gate_c_fc_final=nn.Linear(hidden, channels))
        dilated = {}
        for i in range(2):
            dilated[f"gate_s_conv_di_{i}"] = nn.Conv2d(
                hidden, hidden, 3, padding=dilation, dilation=dilation)
            dilated[f"gate_s_bn_di_{i}"] = nn.BatchNorm2d(hidden)
            dilated[f"gate_s_relu_di_{i}"] = nn.ReLU()
        self.spatial_att.gate_s = named(
            gate_s_conv_reduce0=nn.Conv2d(channels, hidden, 1),
            gate_s_bn_reduce0=nn.BatchNorm2d(hidden),
            gate_s_relu_reduce0=nn.ReLU(),
            **dilated,
            gate_s_conv_final=nn.Conv2d(hidden, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        c = self.channel_att.gate_c(F.avg_pool2d(x, x.shape[2:]))
        s = self.spatial_att.gate_s(x)
        return x * (1 + torch.sigmoid(c[:, :, None, None] * s))


class SpatialTransformer(nn.Module):
    """As torch's tutorial has it: torch's own grid and sampler, in the same names.

    No code came with the paper.
    """

    def __init__(self, localise: nn.Module, features: int):
        super().__init__()
        self.localise, self.regressor = localise, nn.Linear(features, 6)

    def forward(self, x: Tensor) -> Tensor:
        theta = self.regressor(self.localise(x)).view(-1, 2, 3)
        grid = F.affine_grid(theta, x.shape, align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)
