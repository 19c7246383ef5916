"""Residual networks with a place for attention in every block."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Attention = Callable[[int], nn.Module]
Shortcut = Callable[[int, int, int], nn.Module]    # channels in, channels out, stride
PLACES = ("standard", "pre", "post", "identity", "3x3")


def conv(cin: int, cout: int, k: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, k, stride, padding=k // 2, bias=False)


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

    `place` says where the attention stands (SE paper, section 6.5, Figure 5):

    standard   relu(shortcut(x) + attention(residual(x)))
    pre        relu(shortcut(x) + residual(attention(x)))
    post       attention(relu(shortcut(x) + residual(x)))
    identity   relu(attention(shortcut(x)) + residual(x))
    3x3        in a bottleneck, after its 3x3 convolution, BatchNorm and ReLU

    Two residuals: `bottleneck=False` is 3x3, 3x3 (BasicBlock); `True` is 1x1, 3x3,
    1x1 with four times as many channels out as inside (Bottleneck).
    """

    def __init__(self, cin: int, width: int, stride: int, *, bottleneck: bool,
                 shortcut: Shortcut, attention: Attention | None, place: str,
                 stride_in: str):
        super().__init__()
        cout = width * 4 if bottleneck else width
        if bottleneck:
            first, second = (stride, 1) if stride_in == "1x1" else (1, stride)
            self.conv1 = conv(cin, width, 1, first)
            self.conv2 = conv(width, width, 3, second)
            self.conv3 = conv(width, cout, 1)
            self.bn3 = nn.BatchNorm2d(cout)
        else:
            self.conv1 = conv(cin, width, 3, stride)
            self.conv2 = conv(width, cout, 3)
        self.bn1 = nn.BatchNorm2d(width)
        self.bn2 = nn.BatchNorm2d(width)
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
        x = self.bn2(self.conv2(x))
        if self.bottleneck:
            x = self.attend(torch.relu(x), "3x3")
            x = self.bn3(self.conv3(x))
        return x

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
                 shortcut: Shortcut,
                 attention: Attention | Sequence[Attention | None] | None,
                 place: str, stride_in: str, num_classes: int):
        super().__init__()
        allowed = PLACES if bottleneck else PLACES[:-1]
        if place not in allowed:
            raise ValueError(f"place must be one of {allowed}, got {place!r}")
        if stride_in not in ("3x3", "1x1"):
            raise ValueError(f"stride_in must be '3x3' or '1x1', got {stride_in!r}")
        if not isinstance(attention, Sequence):
            attention = [attention] * len(depths)
        if len(attention) != len(depths) or not all(
            a is None or callable(a) and not isinstance(a, nn.Module) for a in attention
        ):
            raise ValueError(
                "attention must be a callable, channels -> module, or one callable or "
                f"None for each of the {len(depths)} stages, got {attention}"
            )
        self.stem = list(stem)
        for name, module in stem.items():
            self.add_module(name, module)
        self.depths = list(depths)
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(Block(
                    channels, width, 2 if i > 0 and j == 0 else 1,
                    bottleneck=bottleneck, shortcut=shortcut,
                    attention=attention[i], place=place, stride_in=stride_in,
                ))
                channels = width * 4 if bottleneck else width
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, num_classes)
        for name, m in self.named_modules():
            if isinstance(m, nn.Conv2d) and "attention" not in name.split("."):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        """Return the last feature map, (B, C, H', W')."""
        for name in self.stem:
            x = getattr(self, name)(x)
        for i in range(len(self.depths)):
            x = getattr(self, f"layer{i + 1}")(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean(dim=(2, 3)))    # (B, num_classes)


def project(cin: int, cout: int, stride: int) -> nn.Module:
    """The shortcut with parameters: 1x1 convolution and BatchNorm (option B)."""
    return nn.Sequential(conv(cin, cout, 1, stride), nn.BatchNorm2d(cout))


def resnet(depths: Sequence[int], bottleneck: bool,
           attention: Attention | Sequence[Attention | None] | None, place: str,
           num_classes: int, in_channels: int, stride_in: str) -> ResNet:
    """Return a network for large pictures; what `resnet18` to `resnet101` share."""
    stem = {
        "conv1": nn.Conv2d(in_channels, 64, 7, 2, padding=3, bias=False),
        "bn1": nn.BatchNorm2d(64),
        "relu": nn.ReLU(),
        "maxpool": nn.MaxPool2d(3, 2, padding=1),
    }
    return ResNet(
        stem, 64, (64, 128, 256, 512), depths, bottleneck=bottleneck,
        shortcut=project, attention=attention, place=place, stride_in=stride_in,
        num_classes=num_classes,
    )


def resnet18(attention: Attention | Sequence[Attention | None] | None = None, *,
             place: str = "standard", num_classes: int = 1000, in_channels: int = 3,
             stride_in: str = "3x3") -> ResNet:
    """ResNet-18, blocks (2, 2, 2, 2); arguments as in `resnet50`."""
    return resnet((2, 2, 2, 2), False, attention, place, num_classes, in_channels,
                  stride_in)


def resnet34(attention: Attention | Sequence[Attention | None] | None = None, *,
             place: str = "standard", num_classes: int = 1000, in_channels: int = 3,
             stride_in: str = "3x3") -> ResNet:
    """ResNet-34, blocks (3, 4, 6, 3); arguments as in `resnet50`."""
    return resnet((3, 4, 6, 3), False, attention, place, num_classes, in_channels,
                  stride_in)


def resnet50(attention: Attention | Sequence[Attention | None] | None = None, *,
             place: str = "standard", num_classes: int = 1000, in_channels: int = 3,
             stride_in: str = "3x3") -> ResNet:
    """ResNet-50, blocks (3, 4, 6, 3), for pictures of about 224x224.

    Args:
        attention: called with a number of channels, gives the module for a block;
            or a list with one callable, or None, for each of the four stages.
        place: where in the block it stands, see `Block`.
        num_classes: outputs of the linear layer.
        in_channels: channels of the picture.
        stride_in: the convolution of a bottleneck that halves the picture: "1x1"
            as in the paper and the Caffe models, "3x3" as in torchvision. Blocks
            of two 3x3 convolutions (ResNet-18, ResNet-34) halve in the first.

    Raises:
        ValueError: on an unknown place or stride_in, or an attention of another form.

    Differs from the paper: stride_in is "3x3" by default, as in torchvision, whose
    weights it then fits; give "1x1" for the paper's counts.

    Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition",
    CVPR 2016, section 4.1; arXiv 1512.03385v1.
    """
    return resnet((3, 4, 6, 3), True, attention, place, num_classes, in_channels,
                  stride_in)


def resnet101(attention: Attention | Sequence[Attention | None] | None = None, *,
             place: str = "standard", num_classes: int = 1000, in_channels: int = 3,
             stride_in: str = "3x3") -> ResNet:
    """ResNet-101, blocks (3, 4, 23, 3); arguments as in `resnet50`."""
    return resnet((3, 4, 23, 3), True, attention, place, num_classes, in_channels,
                  stride_in)


def cifar_resnet(attention: Attention | Sequence[Attention | None] | None = None, *,
                 depth: int = 20, width: int | Sequence[int] = 16,
                 place: str = "standard", num_classes: int = 10,
                 in_channels: int = 3) -> ResNet:
    """The small ResNet for 32x32 pictures: depth 6n + 2, three stages of n blocks.

    He et al. 2016, section 4.2. `width` is the first stage's channels, doubled in
    each later stage, or three numbers. Shortcuts are free of parameters (option A).
    The other arguments are those of `resnet50`.

    Raises:
        ValueError: on a depth that is not 6n + 2 with n >= 1, widths that are not
            positive or fall, an unknown place ("3x3" is one here), or an attention
            of another form.
    """
    n, rest = divmod(depth - 2, 6)
    if n < 1 or rest:
        raise ValueError(f"depth must be 6n + 2 with n >= 1, got depth={depth}")
    widths = [width, 2 * width, 4 * width] if isinstance(width, int) else list(width)
    if len(widths) != 3 or widths != sorted(widths) or widths[0] < 1:
        raise ValueError(
            f"width must be a positive number, or three that do not fall, got {width}"
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
