"""Broken modules to learn from: each has one fault, and all else in it is right.

The page of snippets that this book grew from held the faults of `SPECIMENS`, each by
its name (`"SA1"`) and with the cases in which it shows: build it, give it an x of that
shape, and see what happens. The lines that the page has around a fault stand around
the specimen's too, since they decide whether it is heard. Those of `CASES` were found
in repositories that people use; the docstring names the public thread. Wherever it can
be, a silent fault is the right module with one method or layer changed, so that the
same weights fit both. Nothing here is for use.
"""

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from cvattn.bam import BAM, ChannelGate, SpatialGate
from cvattn.cbam import CBAM, ChannelAttention, SpatialAttention
from cvattn.layers import EncoderLayer
from cvattn.multihead import MultiHeadAttention
from cvattn.se import SE
from cvattn.sk import SK
from cvattn.stn import SpatialTransformer

SHAPE = (2, 8, 5, 7)        # B, C, H, W: no two alike


@dataclass(frozen=True)
class Case:
    """One way in which a fault shows.

    kind: "build", it cannot be built; "call", it raises when called; "silent", it
        runs and is wrong; "text", it does what a sentence says, which is wrong;
        "absent", the page lacks it, and the specimen is invented.
    build: makes the broken module.
    shape: of an x to give it.
    """

    kind: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = SHAPE


@dataclass(frozen=True)
class Specimen:
    """One fault.

    paper: the module that it spoils, as the papers name it.
    symptom: what one sees.
    cure: makes the module of `cvattn` that is right, of the same sizes.
    cases: where the fault shows, the loudest first.
    method: the method that shows it.
    """

    paper: str
    symptom: str
    cure: Callable[[], nn.Module]
    cases: tuple[Case, ...]
    method: str = "forward"

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the cases, each once, in their order."""
        return tuple(dict.fromkeys(case.kind for case in self.cases))


# Squeeze-and-Excitation


class AsksView(SE):
    """SE1. Asks `view` for the shape; `view` makes a new one. Call. Cure: x.shape."""

    def gate(self, x: Tensor) -> Tensor:
        batch, channels, _, _ = x.view()                    # SE1
        z = x.mean(dim=(2, 3))
        s = torch.sigmoid(self.W2(torch.relu(self.W1(z))))
        return s.view(batch, channels, 1, 1)


class ThreeNames(SE):
    """SE2. Three names for four axes. Call. Cure: a fourth name."""

    def gate(self, x: Tensor) -> Tensor:
        batch, channels, _ = x.shape                        # SE2
        z = x.mean(dim=(2, 3))
        s = torch.sigmoid(self.W2(torch.relu(self.W1(z))))
        return s.view(batch, channels, 1, 1)


class Forgets(SE):
    """SE3. Pools, and then flattens x itself. Call. Cure: carry z.

    On a 1x1 map it is right, since there the mean is the map.
    """

    def gate(self, x: Tensor) -> Tensor:
        batch, channels, _, _ = x.shape
        z = x.mean(dim=(2, 3))
        z = x.flatten(1)                                    # SE3: x, not z
        s = torch.sigmoid(self.W2(torch.relu(self.W1(z))))
        return s.view(batch, channels, 1, 1)


class WrongAxis(SE):
    """SE4. The layers read the map and so act on its last axis. Call. Cure: give
    them z.

    Where W = C the layers say nothing; then the view raises, which wants one number
    for each picture and channel.
    """

    def gate(self, x: Tensor) -> Tensor:
        batch, channels, _, _ = x.shape
        z = x.mean(dim=(2, 3))
        z = self.W2(torch.relu(self.W1(x)))                 # SE4: x, not z
        s = torch.sigmoid(z)
        return s.view(batch, channels, 1, 1)


class ReadsMap(SE):
    """SE5. The sigmoid reads x: a gate for each number. Call: the view wants one for
    each picture and channel. Cure: carry z.

    On a 1x1 map, and on no other, the view lets it pass: the module is SiLU.
    """

    def gate(self, x: Tensor) -> Tensor:
        batch, channels, _, _ = x.shape
        z = x.mean(dim=(2, 3))
        z = self.W2(torch.relu(self.W1(z)))
        s = torch.sigmoid(x)                                # SE5: x, not z
        return s.view(batch, channels, 1, 1)


class ZeroWide(nn.Module):
    """SE6. With fewer channels than r the hidden layer has no unit, and each gate
    is a half. Silent but for a warning. Cure: ValueError.
    """

    def __init__(self, channels: int, *, reduction: int = 16):
        super().__init__()
        self.W1 = nn.Linear(channels, channels // reduction, bias=False)    # SE6
        self.W2 = nn.Linear(channels // reduction, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        z = x.mean(dim=(2, 3))
        s = torch.sigmoid(self.W2(torch.relu(self.W1(z))))
        return x * s[:, :, None, None]


class ZeroWideConvolution(nn.Module):
    """SE6 in CBAM, where the layers are convolutions: one of no channels is built and
    cannot be called. Call. Cure: ValueError.
    """

    def __init__(self, channels: int, *, reduction: int = 16):
        super().__init__()
        self.W0 = nn.Conv2d(channels, channels // reduction, 1, bias=False)  # SE6
        self.W1 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        F = [x.mean(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)]
        return torch.sigmoid(sum(self.W1(torch.relu(self.W0(f))) for f in F))


class ZeroWideNorm(nn.Module):
    """SE6 in BAM's channel branch, whose hidden layer the page passes through a
    BatchNorm: of no numbers it has no mean. Call. Cure: ValueError.
    """

    def __init__(self, channels: int, *, reduction: int = 16):
        super().__init__()
        self.W0 = nn.Linear(channels, channels // reduction)                # SE6
        self.norm = nn.BatchNorm1d(channels // reduction)
        self.W1 = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.relu(self.norm(self.W0(x.mean(dim=(2, 3)))))
        return self.W1(z)[:, :, None, None]


class ZeroWideMap(nn.Module):
    """SE6 in BAM's spatial branch, again a convolution of no channels. Call. Cure:
    ValueError.
    """

    def __init__(self, channels: int, *, reduction: int = 16):
        super().__init__()
        self.f0 = nn.Conv2d(channels, channels // reduction, 1)             # SE6
        self.f3 = nn.Conv2d(channels // reduction, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.f3(torch.relu(self.f0(x)))


# CBAM


class TwoMaxima(ChannelAttention):
    """CA1. The mean is a maximum too: its branch says nothing new. Silent. Cure:
    the mean.
    """

    def gate(self, x: Tensor) -> Tensor:
        F = [x.amax(dim=(2, 3)), x.amax(dim=(2, 3))]        # CA1: max, max
        a = sum(self.W1(torch.relu(self.W0(f))) for f in F)
        return torch.sigmoid(a)[:, :, None, None]


class OneDescriptor(ChannelAttention):
    """SE7. "SE is no different from channel attention", at its word: the mean alone.
    Text. Cure: CBAM adds the maximum, through the same layers.
    """

    def gate(self, x: Tensor) -> Tensor:
        a = self.W1(torch.relu(self.W0(x.mean(dim=(2, 3)))))    # SE7: no maximum
        return torch.sigmoid(a)[:, :, None, None]


class NoKernelSize(nn.Module):
    """CA2. A 1x1 convolution that is not told its size. Build. Cure: kernel_size=1."""

    def __init__(self, channels: int, *, reduction: int = 16):
        super().__init__()
        self.W0 = nn.Conv2d(channels, channels // reduction, stride=1,
                            bias=False)                     # CA2


class Halves(nn.Module):
    """CA3. Two gates, and no module that multiplies x by them. Absent: the page has
    nothing here. Cure: F' = Mc(x) * x, y = Ms(F') * F'.

    What stands here is invented: the gates chained as they are, so that the second
    reads the first.
    """

    def __init__(self, channels: int, *, reduction: int = 16):
        super().__init__()
        self.channel = ChannelAttention(channels, reduction=reduction)
        self.spatial = SpatialAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.spatial.gate(self.channel.gate(x))      # CA3: no product


class MaxDropsAxis(SpatialAttention):
    """SA1. The maximum loses the channel axis; `cat` wants it beside the mean's.
    Call. Cure: keepdim=True.
    """

    def gate(self, x: Tensor) -> Tensor:
        F = [x.mean(dim=1, keepdim=True), x.amax(dim=1)]    # SA1
        return torch.sigmoid(self.f(torch.cat(F, dim=1)))


class MeanDropsAxis(SpatialAttention):
    """SA2. The mean loses the channel axis; `cat` wants it beside the maximum's.
    Call. Cure: keepdim=True.
    """

    def gate(self, x: Tensor) -> Tensor:
        F = [x.mean(dim=1), x.amax(dim=1, keepdim=True)]    # SA2
        return torch.sigmoid(self.f(torch.cat(F, dim=1)))


class BothDropAxis(SpatialAttention):
    """SA1 with SA2. `cat` stacks heights, (B, 2H, W), and the convolution takes B
    for its two channels. Call; silent where B = 2. Cure: keepdim=True, twice.
    """

    def gate(self, x: Tensor) -> Tensor:
        F = [x.mean(dim=1), x.amax(dim=1)]                  # SA2, SA1
        return torch.sigmoid(self.f(torch.cat(F, dim=1)))


class Asserts(SpatialAttention):
    """SA3. An `assert` guards the kernel's size, and `python -O` removes it; 5 then
    gets the padding of 3. Silent. Cure: ValueError, and any odd size.
    """

    def __init__(self, channels: int, *, kernel_size: int = 7):
        assert kernel_size in (3, 7), "kernel_size must be 3 or 7"          # SA3
        super().__init__(channels)
        padding = {3: 1, 7: 3}.get(kernel_size, 1)
        self.f = nn.Conv2d(2, 1, kernel_size, padding=padding, bias=False)


def without_asserts(cls: type) -> type:
    """Return the class as `python -O` reads it."""
    names = {**globals()}
    exec(compile(inspect.getsource(cls), cls.__name__, "exec", optimize=1), names)
    return names[cls.__name__]


class WeighsSpace(ChannelAttention):
    """TX1. "Channel attention weighs space", at its word: a gate for each place.
    Text. Cure: it has a gate for each channel, the same at each place.
    """

    def gate(self, x: Tensor) -> Tensor:
        F = x.movedim(1, 3)                                 # TX1: (B, H, W, C)
        a = self.W1(torch.relu(self.W0(F))).mean(dim=3)
        return torch.sigmoid(a)[:, None]                    # (B, 1, H, W)


# BAM


class LacksSelf(nn.Module):
    """BC1. `__init__` without self, so that its first argument is the module. Build:
    two arguments are one too many, and with one there is no self. Cure: self.
    """

    def __init__(channels, reduction):                      # BC1
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)                 # noqa: F821


class ReadsTooSoon(nn.Module):
    """BC2. z is read on the line that makes it. Call. Cure: x."""

    def forward(self, x: Tensor) -> Tensor:
        z = z.mean(dim=(2, 3))                              # noqa: F821  # BC2
        return z[:, :, None, None]


class NormOfMaps(nn.Module):
    """BC3. BatchNorm2d, which wants maps, is given vectors. Call. Cure:
    BatchNorm1d.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)                  # BC3

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x.mean(dim=(2, 3)))[:, :, None, None]


class NeverLowers(ChannelGate):
    """BC4. A ReLU behind the last BN: the branch can raise a gate and never lower
    it. Silent. Cure: drop it.
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(x))               # BC4


class Misaligned(ChannelGate):
    """BC5. (B, C) expanded as (B, C, H, W) is set against the last two axes. Call;
    silent where W = C and H = B, or B = 1. Cure: [:, :, None, None].
    """

    def forward(self, x: Tensor) -> Tensor:
        Mc = super().forward(x).flatten(1)                  # (B, C)
        return Mc.expand_as(x)                              # BC5


class ForwardInside(nn.Module):
    """BS1. `forward` stands inside `__init__`, so the class has none. Call. Cure:
    four spaces to the left.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.reduce = nn.Conv2d(channels, 1, 1)

        def forward(self, x: Tensor) -> Tensor:             # BS1
            return self.reduce(x)


class ReadsTooSoonToo(nn.Module):
    """BS2. As BC2, in the spatial branch. Call. Cure: x."""

    def __init__(self, channels: int):
        super().__init__()
        self.reduce = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        Ms = self.reduce(Ms)                                # noqa: F821  # BS2
        return Ms


class NotItsOwn(nn.Module):
    """BS3. A layer of the module is called without self. Call. Cure: self."""

    def __init__(self, channels: int):
        super().__init__()
        self.final = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return final(x)                                     # noqa: F821  # BS3


class ExpandsToItself(SpatialGate):
    """BS4. `expand_as` its own shape does nothing: (B, 1, H, W) leaves, and only a
    sum that broadcasts saves it. Silent. Cure: say (B, 1, H, W), and broadcast.
    """

    def forward(self, x: Tensor) -> Tensor:
        Ms = super().forward(x)
        return Ms.expand_as(Ms)                             # BS4


class NoLastNorm(SpatialGate):
    """BS5. BN behind each hidden convolution, and none at the end, where the paper has
    its only one: the scale of the branch is that of its last weights. Silent. Cure:
    BN at the end, or say that the form is the official code's, `official=True`.
    """

    def __init__(self, channels: int, **arguments: int):
        super().__init__(channels, official=True, **arguments)              # BS5


class Branch(nn.Module):
    """What BA1 builds: a branch that must be told its reduction."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        self.W0 = nn.Linear(channels, channels // reduction)


class NotToldReduction(nn.Module):
    """BA1. The branches are not given their reduction. Build. Cure: pass it."""

    def __init__(self, channels: int):
        super().__init__()
        self.channel = Branch(channels)                     # BA1


class OtherName(nn.Module):
    """BA2. The argument is called x, and something else is read. Call. Cure: x."""

    def forward(self, x: Tensor) -> Tensor:
        return x + in_tensor                                # noqa: F821  # BA2


class BuildsSigmoid(nn.Module):
    """BA3. `nn.Sigmoid(a)` builds a module, it does not apply one. Call. Cure:
    torch.sigmoid(a).
    """

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + nn.Sigmoid(x.mean(dim=1, keepdim=True)))            # BA3


class Multiplies(BAM):
    """BA4. A page adds the branches, the notebook beside it multiplies them. Text.
    Cure: a sum, as in the paper; official=True is the official code.

    Seen in: Jongchan/attention-module, issues 1, 39 and 52.
    """

    def gate(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.channel(x) * self.spatial(x))             # BA4


# Selective Kernel


class NoReduction(nn.Module):
    """SK1. r is used and given by nobody. Build. Cure: an argument."""

    def __init__(self, channels: int, *, minimum: int = 32):
        super().__init__()
        d = max(channels // r, minimum)                     # noqa: F821  # SK1
        self.W = nn.Linear(channels, d, bias=False)


class NoSize(nn.Module):
    """SK2. The pooling wants the size of a map that nobody knows yet. Build. Cure:
    a mean over whatever arrives.
    """

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(WH)                        # noqa: F821  # SK2


class NotFlattened(SK):
    """SK3. W is given s with its two empty axes, (B, C, 1, 1), and acts on the last,
    which is 1 long. Call. Cure: s of shape (B, C).
    """

    def select(self, U: list[Tensor]) -> Tensor:
        s = sum(U).mean(dim=(2, 3), keepdim=True)           # SK3: (B, C, 1, 1)
        z = torch.relu(self.bn(self.W(s)))
        return self.A(z).unflatten(1, (len(U), -1)).softmax(1)[..., None, None]


class BareDescriptor(SK):
    """SK4. h = W z, without the BN and ReLU of Eq. 3. Silent. Cure: both.

    Seen in: pppLang/SKNet, issue 5.
    """

    def __init__(self, channels: int, **arguments: int):
        super().__init__(channels, **arguments)
        self.bn = nn.Identity()                             # SK4

    def select(self, U: list[Tensor]) -> Tensor:
        h = self.W(sum(U).mean(dim=(2, 3)))                 # SK4
        return self.A(h).unflatten(1, (len(U), -1)).softmax(1)[..., None, None]


class SoftmaxOverAll(SK):
    """SK5. One softmax over all M C scores: the channels compete, and the weights of
    one channel do not sum to 1. Silent. Cure: softmax over the branches.
    """

    def select(self, U: list[Tensor]) -> Tensor:
        h = self.bn(self.W(sum(U).mean(dim=(2, 3))))
        a = self.A(torch.relu(h)).softmax(1)                # SK5: (B, M C)
        return a.unflatten(1, (len(U), -1))[..., None, None]


class NoSpatialAxes(SK):
    """SK6. The weights are viewed as (B, M C) and then meet maps (B, M C, H, W).
    Call; silent where W = M C, and H = B or B = 1, or where an axis of length 1 is
    broadcast, as on a map of one pixel. Cure: keep two axes of length 1.
    """

    def forward(self, x: Tensor) -> Tensor:
        U = self.split(x)
        a = self.select(U).flatten(1)                       # SK6: (B, M C)
        V = a * torch.cat(U, dim=1)
        return V.unflatten(1, (len(U), -1)).sum(dim=1)


class NeverSummed(SK):
    """SK7. The weighed branches leave side by side: M C channels. Silent. Cure: sum
    over the branches.
    """

    def forward(self, x: Tensor) -> Tensor:
        U = self.split(x)
        a = self.select(U)
        return torch.cat([a[:, m] * U[m] for m in range(len(U))], dim=1)    # SK7


class True5x5(SK):
    """SK8. 25 weights where the paper has a 3x3 with dilation 2, which sees as far
    with 9. Silent. Cure: dilation.
    """

    def __init__(self, channels: int, *, groups: int = 32, **arguments: int):
        super().__init__(channels, groups=groups, **arguments)
        self.F[1][0] = nn.Conv2d(channels, channels, 5, padding=2, groups=groups,
                                 bias=False)                # SK8


class Biased(SK):
    """SK9. Biases in all layers. BN subtracts again those of the convolutions and of W;
    those of A stay, and the paper has none. Silent. Cure: bias=False.
    """

    def __init__(self, channels: int, **arguments: int):
        super().__init__(channels, **arguments)
        for layer in (self.F[0][0], self.F[1][0], self.W, self.A):
            layer.bias = nn.Parameter(torch.rand(len(layer.weight)))        # SK9


class WeighsChannels(SK):
    """TX2. "The softmax weighs between channels", at its word: in each branch the
    weights of the channels sum to 1. Text. Cure: it weighs between the branches, for
    each channel.
    """

    def select(self, U: list[Tensor]) -> Tensor:
        z = torch.relu(self.bn(self.W(sum(U).mean(dim=(2, 3)))))
        a = self.A(z).unflatten(1, (len(U), -1)).softmax(2)     # TX2: over C, not M
        return a[..., None, None]


# Faults in repositories that people use


class HalfAtFirst(SpatialAttention):
    """The BN before the sigmoid starts with a scale of 0: each gate is a half, and the
    first step of training moves no weight of f. Silent. Cure: no BN, as in the paper.

    Seen in: Jongchan/attention-module, issue 2. The authors' ResNet sets this scale;
    their module alone starts at 1.
    """

    def __init__(self, channels: int, **arguments: int):
        super().__init__(channels, **arguments)
        self.norm = nn.BatchNorm2d(1, momentum=0.01)
        nn.init.zeros_(self.norm.weight)                    # the fault


class SquareOnly(ChannelGate):
    """The mean is over H x H pixels. Call; silent where H < W < 2 H, where the columns
    from H on are never seen. Cure: a mean over (h, w).

    Seen in: Jongchan/attention-module, issue 50.
    """

    def forward(self, x: Tensor) -> Tensor:
        z = nn.functional.avg_pool2d(x, x.shape[2]).flatten(1)  # the fault: one side
        Mc = self.norm(self.W1(torch.relu(self.W0(z))))
        return Mc[:, :, None, None]


class ShrinkingMap(BAM):
    """Dilated convolutions padded by 1, whatever the dilation, so that the map shrinks.
    Call; silent where one pixel is left, which the sum spreads over all. Cure: padding
    equal to the dilation.

    Seen in: xmu-xiaoma666/External-Attention-pytorch, issue 38.
    """

    def __init__(self, channels: int, **arguments: int):
        super().__init__(channels, **arguments)
        for f in (self.spatial.f1, self.spatial.f2):
            f.padding = (1, 1)                              # the fault


class ScaleUpsideDown(MultiHeadAttention):
    """Scores are divided by d ** -0.5, that is multiplied by the root of d. Silent.
    Cure: divided by d ** 0.5.

    Seen in: open-mmlab/mmdetection, issue 1447, in its non-local block; mended.
    """

    def weights(self, x: Tensor) -> Tensor:
        Q, K = self.heads(self.W_Q(x)), self.heads(self.W_K(x))
        return (Q @ K.mT / Q.shape[-1] ** -0.5).softmax(dim=-1)     # the fault

    def forward(self, x: Tensor) -> Tensor:
        y = self.weights(x) @ self.heads(self.W_V(x))
        return self.W_O(y.transpose(1, 2).flatten(2))


class BesselNorm(nn.Module):
    """Divides by the deviation that `std` gives, with n - 1, and not n, under the sum.
    Silent. Cure: nn.LayerNorm.

    Seen in: harvardnlp/annotated-transformer, issue 122.
    """

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(
            torch.zeros(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        scale = x.std(dim=-1, keepdim=True) + self.eps      # the fault
        return self.weight * (x - x.mean(dim=-1, keepdim=True)) / scale + self.bias


class BesselLayer(EncoderLayer):
    """An encoder layer with `BesselNorm`. Silent. Cure: nn.LayerNorm."""

    def __init__(self, dim: int, **arguments: int):
        super().__init__(dim, **arguments)
        self.norm1, self.norm2 = BesselNorm(dim), BesselNorm(dim)


class ShortOfTheEdge(SpatialTransformer):
    """[-1, 1] is stretched over W - 1 pixels and not W: at the start, where nothing
    should move, the last column and the last row show those before them. Silent.
    Cure: W - 1 steps between W pixels.

    Seen in: kevinzakka/spatial-transformer-network, issue 13, which had reported W
    steps; one too many was taken off.
    """

    def grid(self, x: Tensor) -> Tensor:
        last = torch.tensor([x.shape[3] - 1, x.shape[2] - 1]).to(x)
        return (super().grid(x) + 1) * (last - 1) / last - 1    # the fault


se, ca = partial(SE, 8, reduction=2), partial(ChannelAttention, 8, reduction=2)
sa, cbam = partial(SpatialAttention, 8), partial(CBAM, 8, reduction=2)
bc, bs = partial(ChannelGate, 8, reduction=2), partial(SpatialGate, 8, reduction=2)
bam = partial(BAM, 8, reduction=2)
small = {"groups": 2, "reduction": 2, "minimum": 6}
sk = partial(SK, 8, **small)

SPECIMENS = {
    "CA1": Specimen(
        "CBAM", "the gate does not change with the mean", ca,
        (Case("silent", partial(TwoMaxima, 8, reduction=2)),), "gate"),
    "CA2": Specimen(
        "CBAM", "TypeError: kernel_size is missing", ca,
        (Case("build", partial(NoKernelSize, 8, reduction=2)),)),
    "CA3": Specimen(
        "CBAM", "no module puts the halves together; chained, once cured, they leave "
        "one number a picture", cbam,
        (Case("absent", partial(Halves, 8, reduction=2)),)),
    "SA1": Specimen(
        "CBAM", "a batch of 2 gives one gate, twice as high; others raise", sa,
        (Case("call", partial(MaxDropsAxis, 8)),
         Case("call", partial(BothDropAxis, 8), (3, 8, 5, 7)),
         Case("silent", partial(BothDropAxis, 8))), "gate"),
    "SA2": Specimen(
        "CBAM", "a batch of 2 gives one gate, twice as high; others raise", sa,
        (Case("call", partial(MeanDropsAxis, 8)),
         Case("call", partial(BothDropAxis, 8), (3, 8, 5, 7)),
         Case("silent", partial(BothDropAxis, 8))), "gate"),
    "SA3": Specimen(
        "CBAM", "under python -O a kernel of 5 passes, and its gate is too small",
        partial(SpatialAttention, 8, kernel_size=5),
        (Case("silent", lambda: without_asserts(Asserts)(8, kernel_size=5)),), "gate"),
    "SE1": Specimen(
        "SE", "TypeError: view without a shape", se,
        (Case("call", partial(AsksView, 8, reduction=2)),)),
    "SE2": Specimen(
        "SE", "ValueError: too many values to unpack", se,
        (Case("call", partial(ThreeNames, 8, reduction=2)),)),
    "SE3": Specimen(
        "SE", "RuntimeError: the layer meets C H W numbers; right on 1x1 maps", se,
        (Case("call", partial(Forgets, 8, reduction=2)),)),
    "SE4": Specimen(
        "SE", "RuntimeError: the layer meets W numbers for C; where W = C the view "
        "after it raises", se,
        (Case("call", partial(WrongAxis, 8, reduction=2)),
         Case("call", partial(WrongAxis, 8, reduction=2), (2, 8, 5, 8)))),
    "SE5": Specimen(
        "SE", "RuntimeError: the view meets a gate for each number; on 1x1 maps it "
        "passes, as SiLU", se,
        (Case("call", partial(ReadsMap, 8, reduction=2)),)),
    "SE6": Specimen(
        "SE, CBAM, BAM", "SE: every gate is a half and there is no parameter; CBAM, "
        "BAM: RuntimeError, IndexError", se,
        (Case("call", partial(ZeroWideConvolution, 8)),
         Case("call", partial(ZeroWideNorm, 8)),
         Case("call", partial(ZeroWideMap, 8)),
         Case("silent", partial(ZeroWide, 8)))),
    "SE7": Specimen(
        "SE, CBAM", '"SE is no different from channel attention": but one bright pixel '
        "and a flat map with its mean have the same gate", ca,
        (Case("text", partial(OneDescriptor, 8, reduction=2)),)),
    "BC1": Specimen(
        "BAM", "TypeError with two arguments, NameError on self with one", bc,
        (Case("build", partial(LacksSelf, 8, 2)),
         Case("build", partial(LacksSelf, 8)))),
    "BC2": Specimen(
        "BAM", "UnboundLocalError", bc, (Case("call", ReadsTooSoon),)),
    "BC3": Specimen(
        "BAM", "ValueError: expected 4D input", bc,
        (Case("call", partial(NormOfMaps, 8)),)),
    "BC4": Specimen(
        "BAM", "no number of the branch is below 0", bc,
        (Case("silent", partial(NeverLowers, 8, reduction=2)),)),
    "BC5": Specimen(
        "BAM", "where W = C, and H = B or B = 1, one map for all pictures and "
        "channels; elsewhere RuntimeError", bc,
        (Case("call", partial(Misaligned, 8, reduction=2)),
         Case("silent", partial(Misaligned, 8, reduction=2), (2, 8, 2, 8)))),
    "BS1": Specimen(
        "BAM", "NotImplementedError: no forward", bs,
        (Case("call", partial(ForwardInside, 8)),)),
    "BS2": Specimen(
        "BAM", "UnboundLocalError", bs, (Case("call", partial(ReadsTooSoonToo, 8)),)),
    "BS3": Specimen(
        "BAM", "NameError: final", bs, (Case("call", partial(NotItsOwn, 8)),)),
    "BS4": Specimen(
        "BAM", "one channel leaves, where the line promises all", bam,
        (Case("silent", partial(ExpandsToItself, 8, reduction=2)),)),
    "BS5": Specimen(
        "BAM", "in training the map grows with the scale of its last weights; no "
        "BatchNorm follows", bs,
        (Case("silent", partial(NoLastNorm, 8, reduction=2)),)),
    "BA1": Specimen(
        "BAM", "TypeError: reduction is missing", bam,
        (Case("build", partial(NotToldReduction, 8)),)),
    "BA2": Specimen("BAM", "NameError: in_tensor", bam, (Case("call", OtherName),)),
    "BA3": Specimen(
        "BAM", "TypeError: one argument too many", bam, (Case("call", BuildsSigmoid),)),
    "BA4": Specimen(
        "BAM", "the page adds, the notebook beside it multiplies: then two branches "
        "that say no make a yes", bam,
        (Case("text", partial(Multiplies, 8, reduction=2)),)),
    "SK1": Specimen(
        "SK", "NameError: r", sk, (Case("build", partial(NoReduction, 8)),)),
    "SK2": Specimen("SK", "NameError: WH", sk, (Case("build", NoSize),)),
    "SK3": Specimen(
        "SK", "RuntimeError: the layer gets 1 feature where it wants C", sk,
        (Case("call", partial(NotFlattened, 8, **small)),)),
    "SK4": Specimen(
        "SK", "z falls below 0 and grows with the scale of W", sk,
        (Case("silent", partial(BareDescriptor, 8, **small)),)),
    "SK5": Specimen(
        "SK", "the weights of a channel do not sum to 1", sk,
        (Case("silent", partial(SoftmaxOverAll, 8, **small)),)),
    "SK6": Specimen(
        "SK", "where W = M C, and H = B or B = 1, a row has a picture's weights, and a "
        "column a channel's; on most other shapes RuntimeError", sk,
        (Case("call", partial(NoSpatialAxes, 8, **small)),
         Case("silent", partial(NoSpatialAxes, 8, **small), (2, 8, 2, 16)))),
    "SK7": Specimen(
        "SK", "M C channels leave", sk,
        (Case("silent", partial(NeverSummed, 8, **small)),)),
    "SK8": Specimen(
        "SK", "25 weights where there should be 9", sk,
        (Case("silent", partial(True5x5, 8, **small)),)),
    "SK9": Specimen(
        "SK", "more parameters than the paper has, and most of the extra ones with a "
        "gradient of 0", sk,
        (Case("silent", partial(Biased, 8, **small)),)),
    "TX1": Specimen(
        "CBAM", '"channel attention weighs space": then its gate would be the same for '
        "each channel", ca,
        (Case("text", partial(WeighsSpace, 8, reduction=2)),)),
    "TX2": Specimen(
        "SK", '"the softmax weighs between channels": then a channel\'s weights would '
        "not sum to 1", sk,
        (Case("text", partial(WeighsChannels, 8, **small)),)),
}

mha = partial(MultiHeadAttention, 8, num_heads=2)
encoder = partial(EncoderLayer, 8, num_heads=2, hidden=16)
where = {"features": 32, "align_corners": True}


def corners() -> nn.Module:
    """A localisation network without a parameter."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())


CASES = {
    "half at first": Specimen(
        "CBAM", "before training each gate is a half, and f has no gradient", sa,
        (Case("silent", partial(HalfAtFirst, 8)),)),
    "square only": Specimen(
        "BAM", "RuntimeError; where H < W < 2 H, a part of the map is never seen", bc,
        (Case("call", partial(SquareOnly, 8, reduction=2), (2, 8, 7, 5)),
         Case("call", partial(SquareOnly, 8, reduction=2), (2, 8, 3, 7)),
         Case("silent", partial(SquareOnly, 8, reduction=2)))),
    "shrinking map": Specimen(
        "BAM", "RuntimeError; on 5x5 a gate that is alike at all places",
        partial(BAM, 8, reduction=2, dilation=2),
        (Case("call", partial(ShrinkingMap, 8, reduction=2, dilation=2)),
         Case("silent", partial(ShrinkingMap, 8, reduction=2, dilation=2),
              (2, 8, 5, 5)))),
    "scale upside down": Specimen(
        "Transformer", "scores d times too large: the weights are near 0 and 1", mha,
        (Case("silent", partial(ScaleUpsideDown, 8, num_heads=2), (2, 7, 8)),)),
    "Bessel's norm": Specimen(
        "Transformer", "what leaves the layer has the variance (n - 1) / n", encoder,
        (Case("silent", partial(BesselLayer, 8, num_heads=2, hidden=16), (2, 7, 8)),)),
    "short of the edge": Specimen(
        "STN", "the identity moves the picture",
        lambda: SpatialTransformer(corners(), **where),
        (Case("silent", lambda: ShortOfTheEdge(corners(), **where)),)),
}


def count() -> Counter[str]:
    """Return how many specimens have each kind; one that has two counts in both."""
    return Counter(kind for s in SPECIMENS.values() for kind in s.kinds)
