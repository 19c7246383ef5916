"""Ten broken modules for the drill of the clinic's chapter.

Each is a right module of `cvattn` with one method or layer changed. None is among the
specimens of `cvattn.book.specimens`, and none is for use. `patient(n)` gives one::

    from cvattn.book.exercises import drill
    sick, well, x = drill.patient(1)
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvattn.bam import BAM
from cvattn.cbam import SpatialAttention
from cvattn.se import SE
from cvattn.sk import SK
from cvattn.stn import SpatialTransformer
from cvattn.transformer import (
    EncoderLayer,
    MultiHeadAttention,
    PositionalEncoding,
    causal_mask,
    weights,
)
from cvattn.vit import ViT


class Crowd(SE):
    """1. The squeeze is over the batch too."""

    def gate(self, x: Tensor) -> Tensor:
        z = x.mean(dim=(0, 2, 3)).expand(len(x), -1)        # the fault
        s = torch.sigmoid(self.W2(torch.relu(self.W1(z))))
        return s[:, :, None, None]


class OneScore(SK):
    """2. The branches share one score, and so are always equals."""

    def __init__(self, channels: int, **arguments: int):
        super().__init__(channels, **arguments)
        self.A = nn.Linear(self.W.out_features, channels, bias=False)   # the fault

    def select(self, U: list[Tensor]) -> Tensor:
        z = torch.relu(self.bn(self.W(sum(U).mean(dim=(2, 3)))))
        a = self.A(z)[:, None].expand(-1, len(U), -1)
        return a.softmax(1)[..., None, None]


class CutOff(BAM):
    """3. No gradient reaches the channel branch."""

    def gate(self, x: Tensor) -> Tensor:
        Mc, Ms = self.channel(x).detach(), self.spatial(x)  # the fault
        return torch.sigmoid(Mc + Ms)


class WrongMaximum(SpatialAttention):
    """4. The maximum is that of the mean map's row, and not that of the channels."""

    def gate(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=1, keepdim=True)
        top = mean.amax(dim=3, keepdim=True).expand_as(mean)    # the fault
        return torch.sigmoid(self.f(torch.cat([mean, top], dim=1)))


class Prophet(MultiHeadAttention):
    """5. The causal mask is transposed: each position sees the later ones."""

    def weights(self, x: Tensor, *, causal: bool = False) -> Tensor:
        Q, K = self.heads(self.W_Q(x)), self.heads(self.W_K(x))
        mask = causal_mask(x.shape[1]).mT if causal else None   # the fault
        return weights(Q, K, mask)

    def forward(self, x: Tensor, *, causal: bool = False) -> Tensor:
        y = self.weights(x, causal=causal) @ self.heads(self.W_V(x))
        return self.W_O(y.transpose(1, 2).flatten(2))


class Restless(EncoderLayer):
    """6. The function `dropout` drops in evaluation mode too, unless it is told."""

    def forward(self, x: Tensor) -> Tensor:
        p = self.dropout.p
        x = self.norm1(x + F.dropout(self.attention(x), p))     # the fault
        return self.norm2(x + F.dropout(self.feed_forward(x), p))


class ShortWaves(PositionalEncoding):
    """7. i / D in the exponent, where 2i / D should be."""

    def __init__(self, dim: int, **arguments: float):
        super().__init__(dim, **arguments)
        pos = torch.arange(len(self.PE), dtype=torch.float64)[:, None]
        i = torch.arange(dim // 2, dtype=torch.float64)
        angle = pos / 10000 ** (i / dim)                    # the fault
        self.PE[:, 0::2], self.PE[:, 1::2] = angle.sin(), angle.cos()


class Swapped(SpatialTransformer):
    """8. The grid has y before x."""

    def grid(self, x: Tensor) -> Tensor:
        return super().grid(x).flip(-1)                     # the fault


class AcrossPositions(nn.LayerNorm):
    """A LayerNorm whose mean and deviation are those of a channel's positions."""

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(dim=1, keepdim=True)                 # the fault
        scale = (x.square().mean(dim=1, keepdim=True) + self.eps).sqrt()
        return self.weight * x / scale + self.bias


class Leaky(EncoderLayer):
    """9. Both norms are over the positions."""

    def __init__(self, dim: int, **arguments: int):
        super().__init__(dim, **arguments)
        self.norm1, self.norm2 = AcrossPositions(dim), AcrossPositions(dim)


class WrongEnd(ViT):
    """10. The last patch is read for the class token."""

    def features(self, x: Tensor) -> Tensor:
        return self.norm(self.encode(x)[:, -1])             # the fault


def corners() -> nn.Module:
    """A localisation network of 8 features from 2 channels."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())


def spatial_transformer(cls: type, **arguments: int) -> nn.Module:
    return cls(corners(), **arguments)


@dataclass(frozen=True)
class Patient:
    """A broken class, the right one, and the sizes at which they are examined.

    sizes: (arguments of the class, shape of x), the first that of `patient`.
    as_built: keep the weights of the construction; else they are made random.
    make: builds the module.
    """

    sick: type
    well: type
    sizes: tuple[tuple[dict, tuple[int, ...]], ...]
    as_built: bool = False
    make: Callable = field(default=lambda cls, **arguments: cls(**arguments))


def sized(key: str, sizes: tuple[tuple[int, tuple[int, ...]], ...], **arguments):
    """Return (arguments, shape) for each (number, shape)."""
    return tuple(({key: n, **arguments}, shape) for n, shape in sizes)


MAPS = ((8, (3, 8, 5, 7)), (12, (2, 12, 7, 3)))
SEQUENCES = ((8, (3, 7, 8)), (12, (2, 5, 12)))
PATIENTS = {
    1: Patient(Crowd, SE, sized("channels", MAPS, reduction=2)),
    2: Patient(OneScore, SK, sized(
        "channels", MAPS, groups=2, reduction=2, minimum=4)),
    3: Patient(CutOff, BAM, sized("channels", MAPS, reduction=2, dilation=2)),
    4: Patient(WrongMaximum, SpatialAttention, sized("channels", MAPS, kernel_size=3)),
    5: Patient(Prophet, MultiHeadAttention, sized("dim", SEQUENCES, num_heads=2)),
    6: Patient(Restless, EncoderLayer, sized(
        "dim", SEQUENCES, num_heads=2, hidden=16)),
    7: Patient(ShortWaves, PositionalEncoding, sized("dim", SEQUENCES, max_length=50)),
    8: Patient(Swapped, SpatialTransformer, sized(
        "features", ((8, (3, 2, 5, 7)), (8, (2, 2, 6, 6)))),
        as_built=True, make=spatial_transformer),
    9: Patient(Leaky, EncoderLayer, sized("dim", SEQUENCES, num_heads=2, hidden=16)),
    10: Patient(WrongEnd, ViT, (
        (dict(image_size=(8, 12), patch_size=4, dim=8, layers=2, num_heads=2,
              hidden=16, num_classes=5), (3, 3, 8, 12)),
        (dict(image_size=6, patch_size=2, dim=12, layers=1, num_heads=3, hidden=8,
              num_classes=4, in_channels=1), (2, 1, 6, 6)))),
}


def examined(case: Patient, cls: type, size: int) -> tuple[nn.Module, Tensor]:
    """Build a module of this size in float64 and eval mode, and an x for it."""
    arguments, shape = case.sizes[size]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(size)
        module = case.make(cls, **arguments).double().eval()
        if not case.as_built:
            with torch.no_grad():
                for name, t in sorted(module.state_dict().items()):
                    if name.endswith("running_var"):
                        t.uniform_(0.5, 2)
                    elif t.is_floating_point():
                        t.normal_(0, 0.7)
        torch.default_generator.manual_seed(size)
        return module, torch.randn(shape, dtype=torch.float64)


def patient(number: int) -> tuple[nn.Module, nn.Module, Tensor]:
    """Return a broken module of the drill, the right one, and an x for both.

    Raises:
        ValueError: if there is no such patient.
    """
    if number not in PATIENTS:
        raise ValueError(f"number must be from 1 to {len(PATIENTS)}, got {number!r}")
    case = PATIENTS[number]
    (sick, x), (well, _) = (examined(case, cls, 0) for cls in (case.sick, case.well))
    return sick, well, x
