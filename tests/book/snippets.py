"""The page of snippets, written anew: its classes in its order of steps, each fault of
the register a switch.

`SE({"SE4"})` has this one fault and is mended otherwise; `SE(ALL)` is the class as the
page had it. A mended class computes what the module of `cvattn` does, and names its
layers alike, so that weights can be handed over. One step stays that the register does
not name: BAM's channel branch has a BatchNorm (`hidden`) after its first layer too,
which is the official code's, beside the last one, which is the paper's.
"""

import torch
from torch import nn
from torch.nn import functional as F

from cvattn.book.specimens import SPECIMENS

ALL = frozenset(SPECIMENS)
NONE = frozenset()


class SE(nn.Module):
    def __init__(self, faults=NONE, channels=8, reduction=2):
        super().__init__()
        self.faults = faults
        self.W1 = nn.Linear(channels, channels // reduction, bias=False)    # SE6
        self.W2 = nn.Linear(channels // reduction, channels, bias=False)

    def forward(self, x):
        shape = x.view() if "SE1" in self.faults else x.shape
        if "SE2" in self.faults:
            B, C, _ = shape
        else:
            B, C, _, _ = shape
        y = F.adaptive_avg_pool2d(x, 1)
        y = (x if "SE3" in self.faults else y).view(len(x), -1)
        y = self.W2(torch.relu(self.W1(x if "SE4" in self.faults else y)))
        y = torch.sigmoid(x if "SE5" in self.faults else y)
        return x * y.view(B, C, 1, 1)


class ChannelAttention(nn.Module):
    """Returns the gate, as the page's does: nothing multiplies x by it (CA3)."""

    def __init__(self, faults=NONE, channels=8, reduction=2):
        super().__init__()
        self.largest = nn.AdaptiveMaxPool2d(1)
        self.mean = (nn.AdaptiveMaxPool2d if "CA1" in faults
                     else nn.AdaptiveAvgPool2d)(1)
        size = {} if "CA2" in faults else {"kernel_size": 1}
        self.W0 = nn.Conv2d(channels, channels // reduction, stride=1, bias=False,
                            **size)                                         # SE6
        self.W1 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x):
        largest = self.W1(torch.relu(self.W0(self.largest(x))))
        mean = self.W1(torch.relu(self.W0(self.mean(x))))
        return torch.sigmoid(largest + mean)


class SpatialAttention(nn.Module):
    """Returns the gate, with the mean before the maximum as `cvattn` has them."""

    def __init__(self, faults=NONE, kernel_size=7, optimised=False):
        super().__init__()
        padding = kernel_size // 2
        if "SA3" in faults:
            if not optimised and kernel_size not in (3, 7):
                raise AssertionError("kernel size")
            padding = 3 if kernel_size == 7 else 1
        self.faults = faults
        self.f = nn.Conv2d(2, 1, kernel_size, padding=padding, bias=False)

    def forward(self, x):
        largest, _ = x.max(dim=1, keepdim="SA1" not in self.faults)
        mean = x.mean(dim=1, keepdim="SA2" not in self.faults)
        return torch.sigmoid(self.f(torch.cat([mean, largest], dim=1)))


class ChannelGate(nn.Module):
    def __init__(self, faults, channels, reduction):
        super().__init__()
        self.faults = faults
        norm = nn.BatchNorm2d if "BC3" in faults else nn.BatchNorm1d
        self.W0 = nn.Linear(channels, channels // reduction)                # SE6
        self.hidden = norm(channels // reduction)
        self.W1 = nn.Linear(channels // reduction, channels)
        self.norm = norm(channels)

    def forward(self, x):
        if "BC2" in self.faults:
            y = F.adaptive_avg_pool2d(y, 1)                 # noqa: F821
        else:
            y = F.adaptive_avg_pool2d(x, 1)
        y = y.view(len(y), -1)
        y = self.norm(self.W1(torch.relu(self.hidden(self.W0(y)))))
        if "BC4" in self.faults:
            y = torch.relu(y)
        return y.expand_as(x) if "BC5" in self.faults else y[:, :, None, None]


class SelflessGate(nn.Module):
    """BC1, which no switch can make."""

    def __init__(channels, reduction):
        super(SelflessGate, self).__init__()                # noqa: F821


class SpatialGate(nn.Module):
    def __init__(self, faults, channels, reduction):
        super().__init__()
        K = channels // reduction                                           # SE6
        self.faults = faults
        self.f0 = nn.Conv2d(channels, K, 1)
        self.f1 = nn.Conv2d(K, K, 3, padding=4, dilation=4)
        self.f2 = nn.Conv2d(K, K, 3, padding=4, dilation=4)
        self.f3 = nn.Conv2d(K, 1, 1)
        hidden, last = ((nn.BatchNorm2d, nn.Identity) if "BS5" in faults
                        else (nn.Identity, nn.BatchNorm2d))
        self.norm0, self.norm1, self.norm2 = hidden(K), hidden(K), hidden(K)
        self.norm3 = last(1)

    def forward(self, x):
        if "BS2" in self.faults:
            y = self.f0(y)                                  # noqa: F821
        else:
            y = self.f0(x)
        y = torch.relu(self.norm0(y))
        y = torch.relu(self.norm1(self.f1(y)))
        y = torch.relu(self.norm2(self.f2(y)))
        if "BS3" in self.faults:
            y = f3(y)                                       # noqa: F821
        else:
            y = self.norm3(self.f3(y))
        return y.expand_as(y) if "BS4" in self.faults else y


class FormlessGate(SpatialGate):
    """BS1: the class has no forward of its own, nor another's."""

    forward = nn.Module.forward


def channel_gate(faults=NONE, *arguments):
    if "BC1" in faults:
        return SelflessGate(*arguments)
    return ChannelGate(faults, *arguments)


def spatial_gate(faults=NONE, *arguments):
    return (FormlessGate if "BS1" in faults else SpatialGate)(faults, *arguments)


class BAM(nn.Module):
    def __init__(self, faults=NONE, channels=8, reduction=2):
        super().__init__()
        self.faults = faults
        told = (channels,) if "BA1" in faults else (channels, reduction)
        self.channel = channel_gate(faults, *told)
        self.spatial = spatial_gate(faults, *told)

    def forward(self, x):
        y = in_tensor if "BA2" in self.faults else x        # noqa: F821
        M = self.channel(y) + self.spatial(y)
        M = nn.Sigmoid(M) if "BA3" in self.faults else torch.sigmoid(M)
        return (1 + M) * x


class SK(nn.Module):
    def __init__(self, faults=NONE, channels=8, groups=2, minimum=6, reduction=2):
        super().__init__()
        self.faults = faults
        if "SK1" in faults:
            d = max(channels // r, minimum)                 # noqa: F821
        else:
            d = max(channels // reduction, minimum)
        bias = "SK9" in faults
        wide = ({"kernel_size": 5, "padding": 2} if "SK8" in faults
                else {"kernel_size": 3, "padding": 2, "dilation": 2})
        self.F = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, groups=groups, bias=bias, **size),
                nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
            for size in ({"kernel_size": 3, "padding": 1}, wide))
        if "SK2" in faults:
            self.pool = nn.AvgPool2d(WH)                    # noqa: F821
        else:
            self.pool = nn.AdaptiveAvgPool2d(1)
        self.W = nn.Linear(channels, d, bias=bias)
        self.bn = nn.BatchNorm1d(d)
        self.A_0 = nn.Linear(d, channels, bias=bias)
        self.A_1 = nn.Linear(d, channels, bias=bias)

    def forward(self, x):
        U = [F_m(x) for F_m in self.F]
        s = self.pool(U[0] + U[1])
        z = self.W(s if "SK3" in self.faults else s.flatten(1))
        if "SK4" not in self.faults:
            z = torch.relu(self.bn(z))
        a = torch.cat([self.A_0(z), self.A_1(z)], dim=1)    # (B, 2 C)
        if "SK5" in self.faults:
            a = a.softmax(1)
        else:
            a = a.unflatten(1, (2, -1)).softmax(1).flatten(1)
        a = a.view(len(a), -1)
        if "SK6" not in self.faults:
            a = a[:, :, None, None]
        V = a * torch.cat(U, dim=1)
        return V if "SK7" in self.faults else V.unflatten(1, (2, -1)).sum(1)
