"""The backbones: published counts, the places, the stages, the small ResNet."""

import re
from functools import partial

import numpy as np
import pytest
import reference
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cvattn import (
    SE,
    SK,
    cifar_resnet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnext50,
    resnext101,
    sknet26,
    sknet50,
    sknet101,
)
from cvattn.resnet import PLACES, Block, Options, Pad, project

# SE in some stages of ResNet-50, and the exact parameters. The papers' tables stand,
# row by row, in test_published.py; none has the last stage on its own.
SE_IN_STAGES = [
    ([1, 0, 0, 0], 25_581_608), ([0, 1, 0, 0], 25_688_104),
    ([0, 0, 1, 0], 26_343_464), ([1, 1, 1, 1], 28_071_976),
    ([0, 0, 0, 1], 27_129_896),
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


def test_stride_in_the_3x3_costs_more():
    assert f"{gmacs(meta(resnet50)):.3f}" == "4.089"


@pytest.mark.parametrize("stages, exact", SE_IN_STAGES)
def test_a_list_gives_one_attention_for_each_stage(stages, exact):
    model = meta(resnet50, [SE if on else None for on in stages])
    assert count(model) == exact
    for i, on in enumerate(stages):
        for block in getattr(model, f"layer{i + 1}"):
            assert isinstance(block.attention, SE) == bool(on)


def test_the_stages_add_up():
    base = count(meta(resnet50))
    one = [exact - base for stages, exact in SE_IN_STAGES if sum(stages) == 1]
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
    for build in (resnet50, resnext50):
        got = {(m.conv1.stride[0], m.conv2.stride[0])
               for m in meta(build, stride_in=stride_in).modules()
               if isinstance(m, Block)}
        assert got == {strides, (1, 1)}
    got = {(m.conv1.stride[0], *(F_m[0].stride[0] for F_m in m.conv2.F))
           for m in meta(sknet50, stride_in=stride_in).modules()
           if isinstance(m, Block)}
    assert got == {(*strides, strides[1]), (1, 1, 1)}


RESNET, WIDE = (64, 128, 256, 512), (128, 256, 512, 1024)


@pytest.mark.parametrize("build, depths, widths, groups", [
    (resnet50, (3, 4, 6, 3), RESNET, 1), (resnet101, (3, 4, 23, 3), RESNET, 1),
    (resnext50, (3, 4, 6, 3), WIDE, 32), (resnext101, (3, 4, 23, 3), WIDE, 32),
    (sknet26, (2, 2, 2, 2), WIDE, 32), (sknet50, (3, 4, 6, 3), WIDE, 32),
    (sknet101, (3, 4, 23, 3), WIDE, 32),
])
def test_bottlenecks(build, depths, widths, groups):
    """Width inside, width outside, groups and, in an SKNet, SK for each 3x3."""
    model = meta(build)
    for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        stage = getattr(model, f"layer{i + 1}")
        assert len(stage) == depth
        for b in stage:
            convs = [b.conv2] if build.__name__[:2] == "re" else [
                F_m[0] for F_m in b.conv2.F]
            assert len(convs) == (1 if b.bn2 is not None else 2)
            assert isinstance(b.conv2, SK) == (b.bn2 is None)
            for c in convs:
                assert (c.in_channels, c.out_channels) == (width, width)
                assert c.groups == groups and c.kernel_size == (3, 3)
            assert b.conv1.out_channels == width
            assert b.conv3.out_channels == RESNET[i] * 4


# SK (Li et al. 2019), Table 2 and section 4.2: GMACs of the stride in the 3x3.
def test_sknet26():
    model = meta(sknet26).eval()
    assert count(model) == 16_746_408 and f"{gmacs(model):.3f}" == "2.587"


def test_middle_stands_in_place_of_the_3x3_its_norm_and_its_relu():
    """A module that computes these three gives the block without it."""
    torch.manual_seed(0)

    class Three(nn.Sequential):
        def __init__(self, channels, *, stride):
            super().__init__(
                nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(channels), nn.ReLU())

    for place in PLACES:
        plain = block(place, True)
        other = Block(8, 4, 2, bottleneck=True, shortcut=project, place=place,
                      attention=partial(SE, reduction=2), stride_in="3x3",
                      middle=Three).double().eval()
        names = {"conv2.": "conv2.0.", "bn2.": "conv2.1."}
        state = plain.state_dict()
        for old, new in names.items():
            state = {k.replace(old, new) if k.startswith(old) else k: v
                     for k, v in state.items()}
        other.load_state_dict(state)
        x = torch.randn(2, 8, 7, 5, dtype=torch.float64)
        torch.testing.assert_close(other(x), plain(x))


def test_middle_reaches_every_block():
    model = meta(sknet26, middle=partial(SK, branches=3, reduction=8))
    kernels = [m for m in model.modules() if isinstance(m, SK)]
    assert [len(m.F) for m in kernels] == [3] * 8
    assert [m.W.out_features for m in kernels] == [32] * 4 + [64] * 2 + [128] * 2


def test_place_stage():
    """After each stage but the last, on what it gives; a list decides for each."""
    seen = []

    def named(channels):
        seen.append(channels)
        return SE(channels)

    model = meta(resnet50, named, place="stage")
    assert seen == [256, 512, 1024]
    names = [name for name, m in model.named_modules() if isinstance(m, SE)]
    assert names == ["attention1", "attention2", "attention3"]
    assert not [m for m in model.modules() if isinstance(m, Block) and m.attention]
    seen.clear()
    assert meta(cifar_resnet, named, place="stage") and seen == [16, 32]
    seen.clear()
    model = meta(sknet50, [None, named, None, named], place="stage")
    assert seen == [512, 2048]
    names = [name for name, m in model.named_modules() if isinstance(m, SE)]
    assert names == ["attention2", "attention4"]
    assert count(model) - count(meta(sknet50)) == 2 * (512**2 + 2048**2) // 16
    assert meta(resnet18, place="stage").state_dict().keys() == meta(
        resnet18).state_dict().keys()


@pytest.mark.parametrize("stages", [None, [0, 1, 0], [1, 0, 1]])
def test_stage_equals_its_equation(stages):
    torch.manual_seed(0)
    attention = partial(SE, reduction=4)
    model = cifar_resnet(
        attention if stages is None else [attention if on else None for on in stages],
        depth=8, place="stage").eval()
    x = torch.randn(2, 3, 16, 8)
    u = torch.relu(model.bn1(model.conv1(x)))
    for i, on in enumerate(stages or [1, 1, 0]):
        u = getattr(model, f"layer{i + 1}")(u)
        u = getattr(model, f"attention{i + 1}")(u) if on else u
    torch.testing.assert_close(model.features(x), u)


@pytest.mark.parametrize("stem, kernel, size",
                         [("7x7", 7, (2, 3)), ("3x3", 3, (8, 12))])
@pytest.mark.parametrize("build", [resnet18, resnext50, sknet26],
                         ids=lambda build: build.__name__)
def test_stem(build, stem, kernel, size):
    """The large one divides height and width by four more than the small one."""
    model = meta(build, stem=stem, in_channels=2, num_classes=5).eval()
    assert model.conv1.weight.shape == (64, 2, kernel, kernel)
    assert hasattr(model, "maxpool") == (stem == "7x7")
    y = model.features(torch.zeros(2, 2, 64, 96, device="meta"))
    assert y.shape == (2, model.fc.in_features, *size)


def test_the_large_stem_equals_its_equation():
    """Zeros beyond the picture, and a maximum over 3x3 at steps of 2."""
    torch.manual_seed(0)
    model, x, seen = resnet18(num_classes=2).eval(), torch.randn(2, 3, 22, 26), []
    model.layer1.register_forward_pre_hook(lambda module, inputs: seen.append(*inputs))
    model(x)
    u = nn.functional.conv2d(x, model.conv1.weight, stride=2, padding=3)
    u = torch.relu(model.bn1(u))
    u = nn.functional.max_pool2d(u, 3, stride=2, padding=1)
    torch.testing.assert_close(seen[0], u)


def test_a_gate_of_one_is_no_attention():
    class Open(nn.Identity):
        def __init__(self, channels):
            super().__init__()

    torch.manual_seed(0)
    plain = cifar_resnet(depth=8, width=4)
    x = torch.randn(2, 3, 16, 16)
    for place in (*PLACES[:-1], "stage"):
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
    stages = cifar_resnet(Zeroed, depth=8, width=4, place="stage")
    assert not stages.attention1.conv.weight.any()

    def lone(channels):
        convolution = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(convolution.weight)
        return convolution

    assert not cifar_resnet(lone, depth=8, width=4).layer1[0].attention.weight.any()
    w = meta(resnet50, Zeroed).layer4[0].conv2.weight
    assert w.shape == (512, 512, 3, 3)
    torch.manual_seed(0)
    w = resnet18().layer4[1].conv2.weight
    assert w.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    w = sknet26().layer4[1].conv2.F[1][0].weight
    assert w.std().item() == pytest.approx((2 / (1024 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize("build, n", [
    (resnet18, 8), (resnet34, 16), (resnet50, 16), (resnet101, 33), (resnext50, 16),
    (resnext101, 33), (sknet26, 8), (sknet50, 16), (sknet101, 33),
])
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


@pytest.mark.parametrize("place", [*PLACES[:-1], "stage"])
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


def test_every_parameter_of_an_sknet_has_a_gradient():
    torch.manual_seed(0)
    model = sknet26(partial(SE, reduction=4), place="stage", stem="3x3", num_classes=5)
    nn.functional.cross_entropy(model(torch.randn(5, 3, 16, 8)),
                                torch.arange(5)).backward()
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
    with pytest.raises(ValueError, match=r"x must be \(B, 1, H, W\), got \(1, 3, 32"):
        model(torch.zeros(1, 3, 32, 32))


STAGES = "attention must be a callable, channels -> module, or one callable or None " \
    "for each of the {} stages, got "


@pytest.mark.parametrize("build, kwargs, message", [
    (resnet18, {"place": "3x3"}, "place must be one of ('standard', 'pre', 'post', "
     "'identity', 'stage'), got '3x3'"),
    (cifar_resnet, {"place": "3x3"}, "place must be one of ('standard', 'pre', 'post', "
     "'identity', 'stage'), got '3x3'"),
    (resnet50, {"place": "before"}, "place must be one of ('standard', 'pre', 'post', "
     "'identity', '3x3', 'stage'), got 'before'"),
    (resnet50, {"stride_in": "first"}, "stride_in must be '3x3' or '1x1', got 'first'"),
    (sknet26, {"stride_in": None}, "stride_in must be '3x3' or '1x1', got None"),
    (resnet18, {"stem": "5x5"}, "stem must be '7x7' or '3x3', got '5x5'"),
    (resnext50, {"stem": 3}, "stem must be '7x7' or '3x3', got 3"),
    (resnet50, {"attention": [SE, SE, SE]}, STAGES.format(4) + f"{[SE] * 3}"),
    (sknet50, {"attention": [SE] * 3, "place": "stage"},
     STAGES.format(4) + f"{[SE] * 3}"),
    (sknet50, {"middle": partial(SK, groups=96)},
     "channels must be a positive multiple of groups, got channels=128, groups=96: "
     "groups=64 would fit"),
    (cifar_resnet, {"attention": []}, STAGES.format(3) + "[]"),
    (cifar_resnet, {"attention": [None] * 4},
     STAGES.format(3) + "[None, None, None, None]"),
    (cifar_resnet, {"attention": "yes"}, STAGES.format(3) + "yes"),
    (resnet18, {"attention": [SE, None, 16, SE]},
     STAGES.format(4) + f"[{SE}, None, 16, {SE}]"),
    (resnet50, {"attention": SE(64)}, STAGES.format(4) + f"{SE(64)}"),
    (resnet50, {"attention": 16, "place": "stage"}, STAGES.format(4) + "16"),
    (cifar_resnet, {"attention": partial(SE, reduction=16), "width": 8},
     "channels must be a positive multiple of reduction, got channels=8, reduction=16: "
     "reduction=8 would fit"),
    *[(cifar_resnet, {"depth": d}, f"depth must be 6n + 2 with n >= 1, got depth={d}")
      for d in (2, 18, 21, 0, -4)],
    *[(cifar_resnet, {"width": w}, "width must be a positive whole number, or three "
       f"that do not fall, got {w}")
      for w in (0, -16, [16, 32], [16, 8, 64], [0, 1, 2], [])],
])
def test_bad_arguments(build, kwargs, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        meta(build, **kwargs)


@pytest.mark.parametrize("build, name", [
    (resnet18, "num_classes"), (resnet18, "in_channels"), (sknet26, "num_classes"),
    (cifar_resnet, "in_channels"), (cifar_resnet, "num_classes"),
    (cifar_resnet, "depth"), (cifar_resnet, "width")])
def test_numbers_are_whole(build, name):
    number = {"depth": 8, "width": 4}.get(name, 3)
    for wrong in (float(number), str(number), None):
        with pytest.raises(ValueError, match=f"^{name} must be .*, got .*{wrong}"):
            meta(build, **{name: wrong})
    one, other = (meta(build, **{name: n}) for n in (number, np.int64(number)))
    assert [p.shape for p in one.parameters()] == [p.shape for p in other.parameters()]


@pytest.mark.parametrize("x, message", [
    (torch.zeros(2, 3, 0, 8), "x must have H and W from 1 up, got (2, 3, 0, 8)"),
    (torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
     "x must be floating point, got torch.uint8"),
    (torch.zeros(3, 8, 8), "x must be (B, 3, H, W), got (3, 8, 8)"),
    (torch.zeros(2, 1, 8, 8), "x must be (B, 3, H, W), got (2, 1, 8, 8)")])
def test_bad_pictures(x, message):
    net = cifar_resnet(SE, depth=8)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        net(x)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_fx_traces_a_network_with_attention():
    """As torchvision's feature extractor does."""
    net, x = cifar_resnet(SE, depth=8).eval(), torch.randn(2, 3, 9, 7)
    graph = torch.fx.symbolic_trace(net)
    torch.testing.assert_close(graph(x), net(x))
    with pytest.raises(ValueError, match="^x must be "):
        graph(x[:, :2])


@pytest.mark.parametrize("build", [
    resnet18, resnet34, resnet50, resnet101, resnext50, resnext101,
    sknet26, sknet50, sknet101])
def test_options_have_names_and_defaults_and_no_other_name_is_taken(build):
    model = meta(build)
    assert model.fc.out_features == 1000 and model.conv1.in_channels == 3
    assert model.conv1.kernel_size == (7, 7)
    assert model.layer1[0].place == "standard" and model.layer1[0].attention is None
    assert set(Options.__annotations__) == {
        "place", "num_classes", "in_channels", "stride_in", "stem"}
    for wrong in ("groups", "widths", "expansion", "bottleneck", "classes"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{wrong}'"):
            meta(build, **{wrong: 2})
