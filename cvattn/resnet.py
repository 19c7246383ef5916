"""Residual networks with a place for attention in every block or stage."""

import re
from collections.abc import Callable, Sequence
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import checks
from .sk import SK

Attention = Callable[[int], nn.Module]              # of a number of channels
Attentions = Attention | Sequence[Attention | None] | None
Middle = Callable[..., nn.Module]                   # of a number of channels, stride=
Shortcut = Callable[[int, int, int], nn.Module]     # channels in, channels out, stride
PLACES = ("standard", "pre", "post", "identity", "3x3")


def conv(cin: int, cout: int, k: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, k, stride, padding=k // 2, groups=groups, bias=False)


class Pad(nn.Module):
    """The shortcut without parameters: every stride-th pixel, new channels zero.

    Half of the new channels stand before the old ones, half (or one more) after.
    He et al. 2016, section 3.3, option A. (B, cin, H, W) -> (B, cout, H', W').
    """

    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__()
        self.extra, self.stride = cout - cin, stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        before = self.extra // 2
        return F.pad(x, (0, 0, 0, 0, before, self.extra - before))


class Block(nn.Module):
    """One residual block, y = relu(shortcut(x) + residual(x)), and its attention.

    `place` says where the attention stands (SE paper, section 6.5: Figure 5, and the
    3x3 of Table 15):

    standard   relu(shortcut(x) + attention(residual(x)))
    pre        relu(shortcut(x) + residual(attention(x)))
    post       attention(relu(shortcut(x) + residual(x)))
    identity   relu(attention(shortcut(x)) + residual(x))
    3x3        in a bottleneck, after its 3x3 convolution, BatchNorm and ReLU

    Two residuals: `bottleneck=False` is 3x3, 3x3 (BasicBlock); `True` is 1x1, 3x3,
    1x1 with `expansion` times as many channels out as inside (Bottleneck). There the
    3x3 may have groups, or `middle(width, stride=stride)` may stand in place of the
    3x3, its BatchNorm and its ReLU.
    """

    def __init__(self, cin: int, width: int, stride: int, *, bottleneck: bool,
                 shortcut: Shortcut, attention: Attention | None, place: str,
                 stride_in: str, expansion: int = 4, groups: int = 1,
                 middle: Middle | None = None):
        super().__init__()
        cout = width * expansion if bottleneck else width
        if bottleneck:
            first, second = (stride, 1) if stride_in == "1x1" else (1, stride)
            self.conv1 = conv(cin, width, 1, first)
            self.conv2 = (conv(width, width, 3, second, groups) if middle is None
                          else middle(width, stride=second))
            self.conv3 = conv(width, cout, 1)
            self.bn3 = nn.BatchNorm2d(cout)
        else:
            self.conv1 = conv(cin, width, 3, stride)
            self.conv2 = conv(width, cout, 3)
        self.bn1 = nn.BatchNorm2d(width)
        self.bn2 = nn.BatchNorm2d(width) if middle is None else None
        self.downsample = None
        if stride != 1 or cin != cout:
            self.downsample = shortcut(cin, cout, stride)
        self.bottleneck, self.place = bottleneck, place
        seen = {"pre": cin, "3x3": width}.get(place, cout)
        self.attention = None if attention is None else attention(seen)

    def attend(self, x: Tensor, here: str) -> Tensor:
        if self.attention is None or self.place != here:
            return x
        return self.attention(x)

    def residual(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        if not self.bottleneck:
            return self.bn2(self.conv2(x))
        x = self.conv2(x)
        if self.bn2 is not None:
            x = torch.relu(self.bn2(x))
        return self.bn3(self.conv3(self.attend(x, "3x3")))

    def shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)

    def forward(self, x: Tensor) -> Tensor:
        u = self.attend(self.residual(self.attend(x, "pre")), "standard")
        u = torch.relu(u + self.attend(self.shortcut(x), "identity"))
        return self.attend(u, "post")


class ResNet(nn.Module):
    """Stem, stages of blocks, mean over places, linear layer.

    Built by the functions below, which say what the arguments mean. Parameters
    carry torchvision's names. Convolutions start from He's normal distribution,
    except those inside the attention, which keep what the module gave them.
    """

    def __init__(self, stem: dict[str, nn.Module], channels: int,
                 widths: Sequence[int], depths: Sequence[int], *, bottleneck: bool,
                 shortcut: Shortcut, attention: Attentions, place: str,
                 stride_in: str, num_classes: int, expansion: int = 4,
                 groups: int = 1, middle: Middle | None = None):
        super().__init__()
        allowed = (*(PLACES if bottleneck else PLACES[:-1]), "stage")
        if place not in allowed:
            raise ValueError(f"place must be one of {allowed}, got {place!r}")
        if stride_in not in ("3x3", "1x1"):
            raise ValueError(f"stride_in must be '3x3' or '1x1', got {stride_in!r}")
        stages = len(depths)
        each = attention
        if not isinstance(attention, Sequence):
            each = [attention] * stages
            if place == "stage":
                each[-1] = None
        if len(each) != stages or not all(
            a is None or callable(a) and not isinstance(a, nn.Module) for a in each
        ):
            raise ValueError(
                "attention must be a callable, channels -> module, or one callable or "
                f"None for each of the {stages} stages, got {attention}"
            )
        [num_classes] = checks.whole(num_classes=num_classes)
        parts = dict(stem)
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(Block(
                    channels, width, 2 if i > 0 and j == 0 else 1,
                    bottleneck=bottleneck, shortcut=shortcut, place=place,
                    attention=None if place == "stage" else each[i],
                    stride_in=stride_in, expansion=expansion, groups=groups,
                    middle=middle,
                ))
                channels = width * expansion if bottleneck else width
            parts[f"layer{i + 1}"] = nn.Sequential(*blocks)
            if place == "stage" and each[i] is not None:
                parts[f"attention{i + 1}"] = each[i](channels)
        self.order = list(parts)
        for name, module in parts.items():
            self.add_module(name, module)
        self.fc = nn.Linear(channels, num_classes)
        for name, m in self.named_modules():
            inside = re.search(r"(^|\.)attention\d*(\.|$)", name)
            if isinstance(m, nn.Conv2d) and not inside:
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        """Return the last feature map, (B, C, H', W')."""
        checks.picture(x, self.conv1.in_channels)
        for name in self.order:
            x = getattr(self, name)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean(dim=(2, 3)))    # (B, num_classes)


def project(cin: int, cout: int, stride: int) -> nn.Module:
    """The shortcut with parameters: 1x1 convolution and BatchNorm (option B)."""
    return nn.Sequential(conv(cin, cout, 1, stride), nn.BatchNorm2d(cout))


class Options(TypedDict, total=False):
    """What the functions below share, as `resnet50` says; other names: TypeError."""

    place: str
    num_classes: int
    in_channels: int
    stride_in: str
    stem: str


NARROW, WIDER = (64, 128, 256, 512), (128, 256, 512, 1024)      # inside the stages
BASIC = {"widths": NARROW, "bottleneck": False}
DEEP = {"widths": NARROW, "bottleneck": True}
WIDE = {"widths": WIDER, "bottleneck": True, "expansion": 2}    # as wide outside


def resnet(depths: Sequence[int], attention: Attentions, blocks: dict, *,
           place: str = "standard", num_classes: int = 1000, in_channels: int = 3,
           stride_in: str = "3x3", stem: str = "7x7") -> ResNet:
    """Return a network of four stages; what the next nine functions share."""
    if stem not in ("7x7", "3x3"):
        raise ValueError(f"stem must be '7x7' or '3x3', got {stem!r}")
    [in_channels] = checks.whole(in_channels=in_channels)
    large = stem == "7x7"
    first = {
        "conv1": conv(in_channels, 64, 7, 2) if large else conv(in_channels, 64, 3),
        "bn1": nn.BatchNorm2d(64),
        "relu": nn.ReLU(),
    }
    if large:
        first["maxpool"] = nn.MaxPool2d(3, 2, padding=1)
    return ResNet(
        first, 64, depths=depths, shortcut=project, attention=attention, place=place,
        stride_in=stride_in, num_classes=num_classes, **blocks,
    )


def resnet18(attention: Attentions = None, **options: Unpack[Options]) -> ResNet:
    """ResNet-18, blocks (2, 2, 2, 2); arguments as in `resnet50`.

    >>> with torch.device("meta"):      # counts alone, no memory
    ...     model = resnet18()
    >>> sum(p.numel() for p in model.parameters())
    11689512
    """
    return resnet((2, 2, 2, 2), attention, BASIC, **options)


def resnet34(attention: Attentions = None, **options: Unpack[Options]) -> ResNet:
    """ResNet-34, blocks (3, 4, 6, 3); arguments as in `resnet50`.

    >>> with torch.device("meta"):      # counts alone, no memory
    ...     model = resnet34()
    >>> sum(p.numel() for p in model.parameters())
    21797672
    """
    return resnet((3, 4, 6, 3), attention, BASIC, **options)


def resnet50(attention: Attentions = None, **options: Unpack[Options]) -> ResNet:
    """ResNet-50, blocks (3, 4, 6, 3), for pictures of about 224x224.

    Args:
        attention: called with a number of channels, gives the module for a block,
            or for a stage if place is "stage"; or a list with one callable, or
            None, for each of the four stages.
        place: where in the block it stands, see `Block`; or "stage", after whole
            stages, as BAM: after each but the last, or where the list has a callable.
        num_classes: outputs of the linear layer.
        in_channels: channels of the picture.
        stride_in: the convolution of a bottleneck that halves the picture: "1x1" as in
            the authors' Caffe models, "3x3" as in torchvision. Blocks of two 3x3
            convolutions (ResNet-18, ResNet-34) halve in the first.
        stem: "7x7", a convolution with stride 2 and max pooling with stride 2; or
            "3x3", a convolution with stride 1 and no pooling, for small pictures.

    Raises:
        ValueError: on an unknown place, stride_in or stem, an attention of another
            form, or a number that is not whole and positive; in forward, if x is not
            (B, in_channels, H, W), floating point, with H and W from 1 up.

    Differs from the paper: in nothing that it says: it leaves open where a bottleneck
    has its stride. By default it is where torchvision has it, whose weights then fit;
    give "1x1" for the authors' models and the paper's count of operations.

    Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition",
    CVPR 2016, section 4.1; arXiv 1512.03385v1.

    >>> with torch.device("meta"):      # counts alone, no memory
    ...     model = resnet50()
    >>> sum(p.numel() for p in model.parameters())
    25557032
    """
    return resnet((3, 4, 6, 3), attention, DEEP, **options)


def resnet101(attention: Attentions = None, **options: Unpack[Options]) -> ResNet:
    """ResNet-101, blocks (3, 4, 23, 3); arguments as in `resnet50`.

    >>> with torch.device("meta"):      # counts alone, no memory
    ...     model = resnet101()
    >>> sum(p.numel() for p in model.parameters())
    44549160
    """
    return resnet((3, 4, 23, 3), attention, DEEP, **options)


def resnext50(attention: Attentions = None, **options: Unpack[Options]) -> ResNet:
    """ResNeXt-50 (32x4d): ResNet-50 with 32 groups and twice the width inside.

    Arguments as in `resnet50`; torchvision's `resnext50_32x4d` has the same names.

    Source: Xie, Girshick, Dollár, Tu, He, "Aggregated Residual Transformations for
    Deep Neural Networks", CVPR 2017, section 3; arXiv 1611.05431v2.

    >>> with torch.device("meta"):      # counts alone, no memory
    ...     model = resnext50()
    >>> sum(p.numel() for p in model.parameters())
    25028904
    """
    return resnet((3, 4, 6, 3), attention, WIDE | {"groups": 32}, **options)


def resnext101(attention: Attentions = None, **options: Unpack[Options]) -> ResNet:
    """ResNeXt-101 (32x4d), blocks (3, 4, 23, 3); arguments as in `resnet50`.

    >>> with torch.device("meta"):      # counts alone, no memory
    ...     model = resnext101()
    >>> sum(p.numel() for p in model.parameters())
    44177704
    """
    return resnet((3, 4, 23, 3), attention, WIDE | {"groups": 32}, **options)


def sknet26(attention: Attentions = None, *, middle: Middle = SK,
            **options: Unpack[Options]) -> ResNet:
    """SKNet-26, blocks (2, 2, 2, 2); arguments as in `sknet50`.

    >>> with torch.device("meta"):      # counts alone, no memory
    ...     model = sknet26()
    >>> sum(p.numel() for p in model.parameters())
    16746408
    """
    return resnet((2, 2, 2, 2), attention, WIDE | {"middle": middle}, **options)


def sknet50(attention: Attentions = None, *, middle: Middle = SK,
            **options: Unpack[Options]) -> ResNet:
    """SKNet-50: ResNeXt-50 with SK in place of each 3x3.

    Args:
        middle: called with a number of channels and stride=, gives the module that
            stands in place of a 3x3, its BatchNorm and its ReLU: SK, or for example
            partial(SK, branches=3). Its convolutions start as the network's do.

    The other arguments are those of `resnet50`.

    Source: Li, Wang, Hu, Yang, "Selective Kernel Networks", CVPR 2019, section 3.2;
    arXiv 1903.06586v2.

    >>> with torch.device("meta"):      # counts alone, no memory
    ...     model = sknet50()
    >>> sum(p.numel() for p in model.parameters())
    27479784
    """
    return resnet((3, 4, 6, 3), attention, WIDE | {"middle": middle}, **options)


def sknet101(attention: Attentions = None, *, middle: Middle = SK,
             **options: Unpack[Options]) -> ResNet:
    """SKNet-101, blocks (3, 4, 23, 3); arguments as in `sknet50`.

    >>> with torch.device("meta"):      # counts alone, no memory
    ...     model = sknet101()
    >>> sum(p.numel() for p in model.parameters())
    48736040
    """
    return resnet((3, 4, 23, 3), attention, WIDE | {"middle": middle}, **options)


def cifar_resnet(attention: Attentions = None, *, depth: int = 20,
                 width: int | Sequence[int] = 16, place: str = "standard",
                 num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """The small ResNet for 32x32 pictures: depth 6n + 2, three stages of n blocks.

    He et al. 2016, section 4.2. `width` is the first stage's channels, doubled in
    each later stage, or three numbers. Shortcuts are free of parameters (option A).
    The other arguments are those of `resnet50`.

    Raises:
        ValueError: on a depth that is not 6n + 2 with n >= 1, widths that are not
            positive or fall, an unknown place ("3x3" is one here), or an attention
            of another form.

    >>> cifar_resnet(depth=8, width=4)(torch.ones(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    n, rest = divmod((checks.index(depth) or 0) - 2, 6)
    if n < 1 or rest:
        raise ValueError(f"depth must be 6n + 2 with n >= 1, got depth={depth}")
    [in_channels] = checks.whole(in_channels=in_channels)
    lone = checks.index(width)
    widths = ([checks.index(w) for w in width] if isinstance(width, Sequence)
              else [lone, 2 * lone, 4 * lone] if lone else [])
    if len(widths) != 3 or None in widths or widths != sorted(widths) or widths[0] < 1:
        raise ValueError(
            "width must be a positive whole number, or three that do not fall, "
            f"got {width}"
        )
    stem = {
        "conv1": conv(in_channels, widths[0], 3),
        "bn1": nn.BatchNorm2d(widths[0]),
        "relu": nn.ReLU(),
    }
    return ResNet(
        stem, widths[0], widths, [n] * 3, bottleneck=False, shortcut=Pad,
        attention=attention, place=place, stride_in="3x3", num_classes=num_classes,
    )
