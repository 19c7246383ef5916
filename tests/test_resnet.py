"""The backbones: published counts, the five places, the stages, the small ResNet."""

import re
from functools import partial

import numpy as np
import pytest
import reference
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cvattn import SE, cifar_resnet, resnet18, resnet34, resnet50, resnet101
from cvattn.resnet import PLACES, Block, Pad, project

BIASED = partial(SE, bias=True)

# CBAM (Woo et al. 2018), Table 4: the base rows and the rows "+ SE", which have
# biases. Exact count, then parameters in millions and GFLOPs as printed.
CBAM_TABLE_4 = [
    (resnet18, None, 11_689_512, "11.69", "1.814"),
    (resnet18, BIASED, 11_778_592, "11.78", "1.814"),
    (resnet34, None, 21_797_672, "21.80", "3.664"),
    (resnet34, BIASED, 21_958_868, "21.96", "3.664"),
    (resnet50, None, 25_557_032, "25.56", "3.858"),
    (resnet50, BIASED, 28_088_024, "28.09", "3.860"),
    (resnet101, None, 44_549_160, "44.55", "7.570"),
    (resnet101, BIASED, 49_326_872, "49.33", "7.575"),
]

# SE (Hu et al. 2020, TPAMI), Table 2: GFLOPs as printed. They hold more than the
# multiplications of convolutions and linear layers, by up to 0.4 %.
SE_TABLE_2 = [
    (resnet50, None, 3.86), (resnet50, SE, 3.87),
    (resnet101, None, 7.58), (resnet101, SE, 7.60),
]

# The same, Table 10: reduction in SE-ResNet-50, exact, in millions as printed.
# With the 53,120 running statistics of BatchNorm the rounding is the printed one,
# except at r = 8.
SE_TABLE_10 = [
    (2, 45_676_584, 45.7), (4, 35_616_808, 35.7), (8, 30_586_920, 30.7),
    (16, 28_071_976, 28.1), (32, 26_814_504, 26.9), (None, 25_557_032, 25.6),
]

# The same, Table 13: SE in one stage of ResNet-50. The paper's stage 2 is layer1.
# It leaves out the last stage on its own; that row is computed here alone.
SE_TABLE_13 = [
    ([1, 0, 0, 0], 25_581_608, 25.6), ([0, 1, 0, 0], 25_688_104, 25.7),
    ([0, 0, 1, 0], 26_343_464, 26.4), ([1, 1, 1, 1], 28_071_976, 28.1),
    ([0, 0, 0, 1], 27_129_896, None),
]


def meta(build, *args, **kwargs):
    with torch.device("meta"):
        return build(*args, **kwargs)


def count(model):
    return sum(p.numel() for p in model.parameters())


def statistics(model):
    return sum(b.numel() for b in model.buffers() if b.ndim)


def gmacs(model):
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 224, 224, device="meta"))
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize("build, attention, exact, millions, gflops", CBAM_TABLE_4)
def test_cbam_table_4(build, attention, exact, millions, gflops):
    model = meta(build, attention, stride_in="1x1")
    assert count(model) == exact == count(meta(build, attention))
    assert f"{exact / 1e6:.2f}" == millions
    assert f"{gmacs(model):.3f}" == gflops


@pytest.mark.parametrize("build, attention, printed", SE_TABLE_2)
def test_se_table_2(build, attention, printed):
    assert gmacs(meta(build, attention, stride_in="1x1")) == pytest.approx(
        printed, rel=0.004)


def test_stride_in_the_3x3_costs_more():
    assert f"{gmacs(meta(resnet50)):.3f}" == "4.089"


@pytest.mark.parametrize("reduction, exact, printed", SE_TABLE_10)
def test_se_table_10(reduction, exact, printed):
    attention = partial(SE, reduction=reduction) if reduction else None
    model = meta(resnet50, attention)
    assert count(model) == exact
    assert statistics(model) == 53_120
    rounded = round((exact + 53_120) / 1e6, 1)
    assert rounded == (printed if reduction != 8 else 30.6)


@pytest.mark.parametrize("stages, exact, printed", SE_TABLE_13)
def test_se_table_13(stages, exact, printed):
    model = meta(resnet50, [SE if on else None for on in stages])
    assert count(model) == exact
    assert printed is None or round((exact + 53_120) / 1e6, 1) == printed
    for i, on in enumerate(stages):
        for block in getattr(model, f"layer{i + 1}"):
            assert isinstance(block.attention, SE) == bool(on)


def test_the_stages_add_up():
    base = count(meta(resnet50))
    one = [exact - base for stages, exact, _ in SE_TABLE_13 if sum(stages) == 1]
    assert sum(one) == count(meta(resnet50, SE)) - base == 2_514_944


@pytest.mark.parametrize("place, exact", [
    ("standard", 28_071_976), ("pre", 27_548_200), ("post", 28_071_976),
    ("identity", 28_071_976), ("3x3", 25_714_216),
])
def test_parameters_of_each_place(place, exact):
    """The places differ in the channels that the attention sees."""
    model = meta(resnet50, SE, place=place)
    assert count(model) == exact
    seen = [m.W1.in_features for m in model.modules() if isinstance(m, SE)]
    out = [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
    want = {"pre": [64, *out[:-1]], "3x3": [c // 4 for c in out]}.get(place, out)
    assert seen == want


def block(place, bottleneck, stride=2, stride_in="3x3"):
    """A block in float64 and eval mode; its BatchNorms and gates do something."""
    torch.manual_seed(0)
    made = Block(8, 4 if bottleneck else 16, stride, bottleneck=bottleneck,
                 shortcut=project, attention=partial(SE, reduction=2), place=place,
                 stride_in=stride_in).double().eval()
    with torch.no_grad():
        for m in made.modules():
            if isinstance(m, nn.BatchNorm2d):
                for t in (m.weight, m.bias, m.running_mean):
                    t.normal_()
                m.running_var.uniform_(0.5, 2)
    return made


def composed(b, x, place):
    """The block's equation at each place, written out."""
    def residual(x):
        x = torch.relu(b.bn1(b.conv1(x)))
        x = b.bn2(b.conv2(x))
        if hasattr(b, "conv3"):
            x = torch.relu(x)
            x = b.attention(x) if place == "3x3" else x
            x = b.bn3(b.conv3(x))
        return x

    shortcut, a = b.downsample, b.attention
    return {
        "standard": lambda: torch.relu(shortcut(x) + a(residual(x))),
        "pre": lambda: torch.relu(shortcut(x) + residual(a(x))),
        "post": lambda: a(torch.relu(shortcut(x) + residual(x))),
        "identity": lambda: torch.relu(a(shortcut(x)) + residual(x)),
        "3x3": lambda: torch.relu(shortcut(x) + residual(x)),
    }[place]()


WHERE = [(place, bottleneck) for bottleneck in (False, True)
         for place in (PLACES if bottleneck else PLACES[:-1])]


@pytest.mark.parametrize("place, bottleneck", WHERE)
def test_each_place_equals_its_equation(place, bottleneck):
    b, x = block(place, bottleneck), torch.randn(2, 8, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(b(x), composed(b, x, place))


@pytest.mark.parametrize("bottleneck", [False, True])
def test_no_two_places_give_the_same(bottleneck):
    """So that the test above can tell them apart."""
    x = torch.randn(2, 8, 7, 5, dtype=torch.float64)
    b = block("standard", bottleneck)
    results = [composed(b, x, name) for name in ("standard", "post", "identity")]
    for name in ("pre", "3x3")[: 1 + bottleneck]:   # their attention has other widths
        b = block(name, bottleneck)
        results.append(composed(b, x, name))
        b.attention = nn.Identity()
        assert not torch.allclose(results[-1], b(x), atol=1e-3)
    for i, one in enumerate(results):
        for other in results[:i]:
            assert not torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("stride_in, strides", [("1x1", (2, 1)), ("3x3", (1, 2))])
def test_stride_in(stride_in, strides):
    b = block("standard", True, stride_in=stride_in)
    assert (b.conv1.stride[0], b.conv2.stride[0], b.conv3.stride[0]) == (*strides, 1)
    model = meta(resnet50, stride_in=stride_in)
    got = {(m.conv1.stride[0], m.conv2.stride[0]) for m in model.modules()
           if isinstance(m, Block)}
    assert got == {strides, (1, 1)}


def test_a_gate_of_one_is_no_attention():
    class Open(nn.Identity):
        def __init__(self, channels):
            super().__init__()

    torch.manual_seed(0)
    plain = cifar_resnet(depth=8, width=4)
    x = torch.randn(2, 3, 16, 16)
    for place in PLACES[:-1]:
        model = cifar_resnet(Open, depth=8, width=4, place=place)
        model.load_state_dict(plain.state_dict())
        assert torch.equal(model.eval()(x), plain.eval()(x))


def test_attention_keeps_its_own_start():
    """Only the network's convolutions are started anew."""
    class Zeroed(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.conv = nn.Conv2d(channels, channels, 1)
            nn.init.zeros_(self.conv.weight)

    model = cifar_resnet(Zeroed, depth=8, width=4)
    for name, p in model.named_parameters():
        if name.endswith("conv.weight"):
            assert not p.any(), name
    w = meta(resnet50, Zeroed).layer4[0].conv2.weight
    assert w.shape == (512, 512, 3, 3)
    torch.manual_seed(0)
    w = resnet18().layer4[1].conv2.weight
    assert w.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize("build, n", [(resnet18, 8), (resnet34, 16), (resnet50, 16),
                                      (resnet101, 33)])
def test_names_and_shapes(build, n):
    model = meta(build, SE, num_classes=7, in_channels=1)
    assert sum(isinstance(m, Block) for m in model.modules()) == n
    assert sum(isinstance(m, SE) for m in model.modules()) == n
    x = torch.zeros(2, 1, 64, 96, device="meta")
    assert model(x).shape == (2, 7)
    assert model.features(x).shape == (2, model.fc.in_features, 2, 3)
    names = {k.split(".")[0] for k in model.state_dict()}
    assert names == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}
    assert "layer2.0.attention.W1.weight" in model.state_dict()


@pytest.mark.parametrize("depth, width, exact", [
    (20, 16, 269_722), (32, 16, 464_154), (44, 16, 658_586), (56, 16, 853_018),
    (110, 16, 1_727_962), (8, 4, None), (8, [3, 5, 11], None), (14, (4, 4, 4), None),
])
def test_cifar_resnet(depth, width, exact):
    """The counts are those of He et al. 2016, Table 6: 0.27M, 0.46M, …, 1.7M."""
    model = meta(cifar_resnet, depth=depth, width=width)
    widths = [width, 2 * width, 4 * width] if isinstance(width, int) else list(width)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth
    assert exact is None or count(model) == exact
    x, maps = torch.zeros(2, 3, 32, 32, device="meta"), []
    for name in ("layer1", "layer2", "layer3"):
        getattr(model, name).register_forward_hook(
            lambda module, inputs, y: maps.append(tuple(y.shape[1:])))
    assert model(x).shape == (2, 10)
    assert maps == [(w, s, s) for w, s in zip(widths, (32, 16, 8), strict=True)]
    assert not any("downsample" in k for k in model.state_dict())


@pytest.mark.parametrize("cin, cout, stride",
                         [(3, 6, 2), (4, 9, 2), (5, 5, 2), (2, 4, 1)])
@pytest.mark.parametrize("h, w", [(7, 5), (8, 4), (1, 1)])
def test_pad_is_option_a(cin, cout, stride, h, w):
    x = torch.randn(2, cin, h, w, dtype=torch.float64)
    want = reference.option_a(x.numpy(), cout, stride)
    got = Pad(cin, cout, stride)(x).numpy()
    np.testing.assert_array_equal(got, want)
    assert np.count_nonzero(got) == 2 * cin * len(range(0, h, stride)) * len(
        range(0, w, stride))


@pytest.mark.parametrize("place", PLACES[:-1])
def test_every_parameter_has_a_gradient(place):
    torch.manual_seed(0)
    model = cifar_resnet(partial(SE, reduction=4), depth=8, width=16, place=place)
    with torch.no_grad():       # so that no hidden unit is dead on all pictures
        for name, p in model.named_parameters():
            if "attention.W1" in name:
                p.uniform_(-0.5, 1)
    nn.functional.cross_entropy(model(torch.randn(16, 3, 16, 16)),
                                torch.arange(16) % 10).backward()
    for name, p in model.named_parameters():
        assert p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_channels_last_gives_the_same():
    torch.manual_seed(0)
    model = cifar_resnet(partial(SE, reduction=4), depth=8).eval()
    x = torch.randn(2, 3, 16, 24)
    y = model(x)
    last = x.to(memory_format=torch.channels_last)
    model = model.to(memory_format=torch.channels_last)
    assert model.features(last).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(last), y, rtol=1e-4, atol=1e-5)


def test_the_picture_may_be_of_any_size_but_its_channels_may_not():
    model = cifar_resnet(partial(SE, reduction=4), depth=8, in_channels=1).eval()
    assert model(torch.zeros(1, 1, 5, 3)).shape == (1, 10)
    with pytest.raises(RuntimeError, match="1 channels"):
        model(torch.zeros(1, 3, 32, 32))


STAGES = "attention must be a callable, channels -> module, or one callable or None " \
    "for each of the {} stages, got "


@pytest.mark.parametrize("build, kwargs, message", [
    (resnet18, {"place": "3x3"}, "place must be one of ('standard', 'pre', 'post', "
     "'identity'), got '3x3'"),
    (cifar_resnet, {"place": "3x3"}, "place must be one of ('standard', 'pre', 'post', "
     "'identity'), got '3x3'"),
    (resnet50, {"place": "before"}, "place must be one of ('standard', 'pre', 'post', "
     "'identity', '3x3'), got 'before'"),
    (resnet50, {"stride_in": "first"}, "stride_in must be '3x3' or '1x1', got 'first'"),
    (resnet50, {"attention": [SE, SE, SE]}, STAGES.format(4)),
    (cifar_resnet, {"attention": []}, STAGES.format(3) + "[]"),
    (cifar_resnet, {"attention": [None] * 4}, STAGES.format(3)),
    (cifar_resnet, {"attention": "yes"}, STAGES.format(3) + "yes"),
    (resnet18, {"attention": [SE, None, 16, SE]}, STAGES.format(4)),
    (resnet50, {"attention": SE(64)}, STAGES.format(4)),
    (cifar_resnet, {"attention": partial(SE, reduction=16), "width": 8},
     "channels must be a positive multiple of reduction, got channels=8, reduction=16"),
    *[(cifar_resnet, {"depth": d}, f"depth must be 6n + 2 with n >= 1, got depth={d}")
      for d in (2, 18, 21, 0, -4)],
    *[(cifar_resnet, {"width": w}, "width must be a positive number, or three that do "
       f"not fall, got {w}") for w in (0, -16, [16, 32], [16, 8, 64], [0, 1, 2], [])],
])
def test_bad_arguments(build, kwargs, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        meta(build, **kwargs)
