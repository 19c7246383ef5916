"""Every public module, small, for the contract suite: one entry or more for each.

Sizes are distinct primes, so that a swapped axis cannot pass.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from cvattn import (
    BAM,
    CBAM,
    SE,
    SK,
    ChannelAttention,
    ChannelGate,
    DecoderLayer,
    EncoderLayer,
    FeedForward,
    MultiHeadAttention,
    PositionalEncoding,
    SpatialAttention,
    SpatialGate,
    SpatialTransformer,
    Transformer,
    ViT,
    bilinear_sample,
    rollout,
)
from cvattn.book.experiments.bam_variants import BAMVariant
from cvattn.book.experiments.cbam_variants import (
    CBAMVariant,
    ChannelVariant,
    SpatialVariant,
)
from cvattn.warps import Affine, Attention, Projective, ThinPlateSpline


def picture(channels, multiple=1):
    """x (B, C, H, W), its sides multiples of `multiple`."""
    def make(b, h, w, generator):
        x = torch.randn(b, channels, h * multiple, w * multiple, generator=generator)
        return (x + 1,)
    return make


def sequence(dim):
    """x (B, N, D), of which N is a picture's height."""
    return lambda b, h, w, generator: (torch.randn(b, h, dim, generator=generator) + 1,)


def two_sequences(dim):
    """x (B, N, D) and another (B, M, D): N is a picture's height, M its width."""
    return lambda b, h, w, generator: (
        torch.randn(b, h, dim, generator=generator) + 1,
        torch.randn(b, w, dim, generator=generator) + 1)


def ids(vocabulary):
    """Numbers of words, the source (B, N) and the target (B, M); 0 is padding."""
    return lambda b, h, w, generator: (
        torch.randint(1, vocabulary, (b, h), generator=generator),
        torch.randint(1, vocabulary, (b, w), generator=generator))


@dataclass
class Case:
    """One public class, small, and what its inputs, result and map look like.

    Axes are named by their sizes: B, H, W, whatever `sizes` adds, or an integer.
    """

    build: partial
    inputs: Callable                # (b, h, w, generator) -> tuple of tensors
    out: tuple                      # axes of the result
    rule: str                       # how the message on a wrong x starts
    sizes: dict = field(default_factory=dict)     # what other names stand for
    map: str | None = None          # the method that returns the attention map
    map_shape: tuple = ()
    free: tuple = ()                # per input, the axes that may change after export
    nan: str = "all"                # what one NaN spoils of its own picture: all, some
    scale: float = 3.0              # of the weights, so that they matter
    bf16: float = 0.05              # tolerance under bfloat16
    keeps_type: bool = True         # gives float32 back under autocast
    demanded: tuple = ()            # keyword arguments without a default
    any_channels: bool = False      # x may have any number of them
    idle: tuple = ()                # parameters whose gradient is 0 by mathematics
    further: Callable = lambda module, *inputs: None    # reaches what forward does not
    files: tuple = ()               # more files whose comments on shapes it reaches

    def axes(self, b, h, w):
        return {"B": b, "H": h, "W": w, **{
            k: v(h, w) if callable(v) else v for k, v in self.sizes.items()}}


PICTURE = ("B", "C", "H", "W")
FREE = ({0: "b", 2: "h", 3: "w"},)


def same_h(h, w):
    return h


def same_w(h, w):
    return w


def gated(build, channels, map_shape, sizes, **kwargs):
    """A module that gives back the shape of its picture."""
    return Case(build, picture(channels), PICTURE, f"x must be (B, {channels}, H, W)",
                {"C": channels, **sizes},
                "gate" if hasattr(build.func, "gate") else "weights", map_shape, FREE,
                **kwargs)


CHANNEL, SPACE = ("B", "C", 1, 1), ("B", 1, "H", "W")
# In training a BatchNorm takes away what the bias before it adds; a softmax takes
# away what a bias of the keys adds to all the scores of a query.
IDLE_CHANNEL = {False: ("W1.bias",), True: ("W0.bias",)}       # official or not
IDLE_SPACE = {False: ("f3.bias",), True: ("f0.bias", "f1.bias", "f2.bias")}
IDLE = {official: (*[f"channel.{name}" for name in IDLE_CHANNEL[official]],
                   *[f"spatial.{name}" for name in IDLE_SPACE[official]])
        for official in (False, True)}
NARROW = {"C/r": 17}
SHORT = {"num_heads": 3, "hidden": 23, "dropout": 0.0}
localiser = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Sigmoid(),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten())
TOKENS = {"D": 12, "first": same_h, "other": same_w, "h": 3, "d_k": 4, "d_v": 4}
SEQUENCE, ROWS = ("B", "first", "D"), "x must be (B, N, 12)"
SELF, CROSS = ("B", "h", "first", "first"), ("B", "h", "first", "other")
LENGTHS = ({0: "b", 1: "n"}, {0: "b", 1: "m"})
small_vit = partial(ViT, (26, 22), patch_size=2, dim=12, layers=2, num_heads=3,
                    hidden=23, num_classes=5)
MODULES = {
    "SE": gated(partial(SE, 34, reduction=2), 34, CHANNEL, NARROW),
    "SE(bias=True)": gated(
        partial(SE, 34, reduction=2, bias=True), 34, CHANNEL, NARROW),
    "ChannelAttention": gated(
        partial(ChannelAttention, 34, reduction=2), 34, CHANNEL, NARROW),
    "ChannelAttention(bias=True)": gated(
        partial(ChannelAttention, 34, reduction=2, bias=True), 34, CHANNEL, NARROW),
    "SpatialAttention": gated(
        partial(SpatialAttention, 5, kernel_size=3), 5, SPACE, {}, nan="some"),
    "SpatialAttention(norm=True)": gated(
        partial(SpatialAttention, 5, norm=True), 5, SPACE, {}, nan="some"),
    "CBAM": gated(
        partial(CBAM, 34, reduction=2, kernel_size=3), 34, PICTURE, NARROW),
    "CBAM, official": gated(
        partial(CBAM, 34, reduction=2, official=True), 34, PICTURE, NARROW),
    **{f"ChannelGate(official={official})": Case(
        partial(ChannelGate, 34, reduction=2, official=official), picture(34), CHANNEL,
        "x must be (B, 34, H, W)", {"C": 34, **NARROW}, free=FREE, keeps_type=False,
        idle=IDLE_CHANNEL[official])
       for official in (False, True)},
    **{f"SpatialGate(official={official})": Case(
        partial(SpatialGate, 34, reduction=2, dilation=2, official=official),
        picture(34), SPACE, "x must be (B, 34, H, W)", {"C": 34, **NARROW}, free=FREE,
        nan="some", keeps_type=False, idle=IDLE_SPACE[official])
       for official in (False, True)},
    "BAM": gated(
        partial(BAM, 34, reduction=2), 34, PICTURE, NARROW, idle=IDLE[False]),
    "BAM, official": gated(
        partial(BAM, 34, reduction=2, dilation=2, official=True), 34, PICTURE, NARROW,
        idle=IDLE[True]),
    "SK": gated(
        partial(SK, 34, groups=2, reduction=2, minimum=3), 34, ("B", 2, "C", 1, 1),
        {"d": 17, "M": 2, "H'": same_h, "W'": same_w}, keeps_type=False),
    "SK(branches=3)": gated(
        partial(SK, 34, branches=3, groups=17, reduction=17, minimum=7), 34,
        ("B", 3, "C", 1, 1), {"d": 7, "M": 3, "H'": same_h, "W'": same_w},
        keeps_type=False),
    "SK(stride=2)": Case(
        partial(SK, 34, groups=2, reduction=2, minimum=3, stride=2), picture(34),
        ("B", "C", "H'", "W'"), "x must be (B, 34, H, W)",
        {"C": 34, "d": 17, "M": 2, "H'": lambda h, w: -(-h // 2),
         "W'": lambda h, w: -(-w // 2)}, "weights", ("B", 2, "C", 1, 1), FREE,
        keeps_type=False),
    **{f"SpatialTransformer(transform={transform!r})": Case(
        partial(SpatialTransformer, localiser, features=5, transform=transform),
        picture(3), PICTURE, "x must be (B, C, H, W)",
        {"C": 3, "R": 3 if isinstance(transform, Projective) else 2, "points": 3,
         "points^2": 9, "points^2+3": 12, "Hout": same_h, "Wout": same_w,
         "(H+4)(W+4)": lambda h, w: (h + 4) * (w + 4)}, "grid", ("B", "H", "W", 2),
        FREE, scale=1.0, demanded=("features",), any_channels=True,
        files=("cvattn.warps",), further=lambda m, x: (
            bilinear_sample(x, m.grid(x)), ThinPlateSpline(3)))
       for transform in (Affine(), Attention(), Projective(), ThinPlateSpline(3))},
    "SpatialTransformer(size=(5, 17))": Case(
        partial(SpatialTransformer, localiser, features=5, size=(5, 17),
                align_corners=True), picture(3), ("B", 3, 5, 17),
        "x must be (B, C, H, W)", {"C": 3, "R": 2, "Hout": 5, "Wout": 17},
        "grid", ("B", 5, 17, 2), FREE, scale=1.0, demanded=("features",),
        any_channels=True),
    "MultiHeadAttention": Case(
        partial(MultiHeadAttention, 12, num_heads=3), sequence(12), SEQUENCE, ROWS,
        TOKENS, "weights", SELF, LENGTHS[:1], keeps_type=False),
    "MultiHeadAttention(bias=True), two sequences": Case(
        partial(MultiHeadAttention, 12, num_heads=2, bias=True, key_dim=5),
        two_sequences(12), SEQUENCE, ROWS, {**TOKENS, "h": 2, "d_k": 5, "d_v": 6},
        "weights", CROSS, LENGTHS, nan="some", keeps_type=False,
        idle=("W_K.bias",)),
    "FeedForward": Case(
        partial(FeedForward, 12, hidden=23), sequence(12), SEQUENCE, ROWS, TOKENS,
        free=LENGTHS[:1], nan="some", keeps_type=False),
    "PositionalEncoding": Case(
        partial(PositionalEncoding, 13, max_length=17), sequence(13), SEQUENCE,
        "x must be (B, N, 13)", {**TOKENS, "D": 13}, free=LENGTHS[:1], nan="some"),
    **{f"EncoderLayer(norm_first={first})": Case(
        partial(EncoderLayer, 12, norm_first=first, **SHORT), sequence(12), SEQUENCE,
        ROWS, TOKENS, "weights", SELF, LENGTHS[:1]) for first in (False, True)},
    **{f"DecoderLayer(norm_first={first})": Case(
        partial(DecoderLayer, 12, norm_first=first, **SHORT), two_sequences(12),
        SEQUENCE, ROWS, TOKENS, "weights", CROSS, LENGTHS) for first in (False, True)},
    "Transformer": Case(
        partial(Transformer, 29, dim=12, num_heads=3, hidden=23, layers=2, dropout=0.0),
        ids(29), ("B", "other", "V"), "source must be (B, N)",
        {**TOKENS, "V": 29, "L": 2}, "weights", ("L", "B", "h", "other", "first"),
        LENGTHS, scale=1.5, keeps_type=False),
    "ViT": Case(small_vit, picture(3, multiple=2), ("B", 5), "x must be (B, 3, H, W)",
                {"C": 3, "D": 12, "L": 2, "h": 3, "K": 5,
                 "1+N": lambda h, w: 1 + h * w},
                "weights", ("L", "B", "h", "1+N", "1+N"), ({0: "b"},), scale=1.5,
                keeps_type=False, files=("cvattn.flow",),
                idle=tuple(f"layers.{i}.attention.W_K.bias" for i in range(2)),
                further=lambda vit, x: (vit.tokens(x), rollout(vit.weights(x)))),
}

# What only an experiment builds: it keeps all the promises, and stands on no page.
VARIANTS = {
    "ChannelVariant(pool=('max',))": gated(
        partial(ChannelVariant, 34, reduction=2, bias=True, pool=("max",)), 34,
        CHANNEL, NARROW),
    "SpatialVariant(norm=True)": gated(
        partial(SpatialVariant, 5, pool=("max", "mean"), norm=True), 5, SPACE, {},
        nan="some"),
    "SpatialVariant(pool='conv')": gated(
        partial(SpatialVariant, 5, kernel_size=3, pool="conv"), 5, SPACE, {},
        nan="some"),
    **{f"CBAMVariant(order={order!r})": gated(
        partial(CBAMVariant, 34, reduction=2, kernel_size=3, order=order), 34, PICTURE,
        NARROW, nan="some" if order == "spatial" else "all")
       for order in ("channel-spatial", "spatial-channel", "parallel", "channel",
                     "spatial")},
    "CBAMVariant, official": gated(
        partial(CBAMVariant, 34, reduction=2, bias=True, norm=True,
                spatial_pool=("max", "mean")), 34, PICTURE, NARROW),
    "BAMVariant, official": gated(
        partial(BAMVariant, 34, reduction=2, dilation=2, combine="product",
                norm="hidden"), 34, PICTURE, NARROW, idle=IDLE[True]),
    "BAMVariant(combine='max')": gated(
        partial(BAMVariant, 34, reduction=2, combine="max"), 34, PICTURE, NARROW,
        idle=IDLE[False]),
}
