"""BAM: its values, its gradient, its properties, its parameters."""

import copy
import doctest
import inspect
import re
from functools import partial

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cvattn.bam
from cvattn import BAM, ChannelGate, SpatialGate, resnet18, resnet50, resnet101

SIZES = [(1, 3, 7), (2, 13, 11), (5, 1, 1)]     # B, H, W; C = 6, C/r = 2 or 3
TRAINING = [(2, 13, 11), (5, 3, 7), (7, 1, 1)]  # BatchNorm needs two pictures
OFFICIAL = {"official": True}
OPTIONS = [
    {}, {"reduction": 3}, {"dilation": 1}, {"dilation": 2, **OFFICIAL}, OFFICIAL,
]
optional = pytest.mark.parametrize("options", OPTIONS, ids=str)


def seeded(cls, training=False, **options):
    """A BAM in float64 whose branches are spread out on both sides of 0."""
    torch.manual_seed(0)
    m = cls(6, **{"reduction": 2, **options}).double().train(training)
    with torch.no_grad():
        for p in m.parameters():
            p.normal_(0, 1 if p.ndim < 4 else 0.5)
        for name, buffer in m.named_buffers():
            if name.endswith(("mean", "var")):
                buffer.uniform_(0.3, 2)
        hidden = options.get("official") or options.get("norm") == "hidden"
        last = m.spatial.f3 if hidden else m.spatial.norm3
        last.bias -= copy.deepcopy(m.spatial)(some(3, 6, 13, 11)).mean()
    return m


def some(*shape):
    """A map whose channels and places have levels of their own."""
    generator = torch.Generator().manual_seed(1)
    b, c, h, w = shape
    return sum(torch.randn(*part, dtype=torch.float64, generator=generator)
               for part in (shape, (b, c, 1, 1), (b, 1, h, w)))


def arrays(m, x):
    """x and all parameters of m, by name."""
    named = {"x": x, **dict(m.named_parameters())}
    return {name: t.detach().numpy() for name, t in named.items()}


def referred(m, a, dilation=4, combine="sum", norm="last", official=False, **others):
    """What the reference makes of the arrays a, in the mode that m is in."""
    if official:
        combine, norm = "product", "hidden"

    def normed(name):
        if f"{name}.weight" not in a:
            return None
        bn = m.get_submodule(name)
        running = [] if m.training else [bn.running_mean.numpy(),
                                         bn.running_var.numpy()]
        return [a[f"{name}.weight"], a[f"{name}.bias"], *running]

    channel = {"W0": a["channel.W0.weight"], "b0": a["channel.W0.bias"],
               "W1": a["channel.W1.weight"], "b1": a["channel.W1.bias"],
               "norm": normed("channel.norm"), "place": norm}
    spatial = {"layers": [(a[f"spatial.f{n}.weight"], a[f"spatial.f{n}.bias"])
                          for n in range(4)],
               "norms": [normed(f"spatial.norm{n}") for n in range(4)],
               "dilation": dilation}
    return reference.bam(a["x"], channel, spatial, combine)


def same_values(cls, shape, training=False, **options):
    """Assert that cls, BAM or a mutant of it, equals the reference."""
    m, x = seeded(cls, training, **options), some(*shape)
    want = referred(m, arrays(m, x), **options)
    np.testing.assert_allclose(m(x).detach().numpy(), want, rtol=0, atol=1e-11)


def same_gradient(cls, shape, training=False, **options):
    """Assert that cls has the gradient that differences of the reference give."""
    m, x = seeded(cls, training, **options), some(*shape).requires_grad_()
    a, rng = arrays(m, x), np.random.default_rng(0)
    g = rng.normal(size=shape)
    m(x).backward(torch.from_numpy(g))
    for name, t in {"x": x, **dict(m.named_parameters())}.items():
        step = rng.normal(size=a[name].shape)
        up, down = ((g * referred(m, {**a, name: a[name] + s * step}, **options)).sum()
                    for s in (1e-6, -1e-6))
        got = (t.grad.numpy() * step).sum()
        assert got == pytest.approx((up - down) / 2e-6, rel=1e-6, abs=1e-7), name


@optional
@pytest.mark.parametrize("b, h, w", SIZES)
def test_values_equal_the_reference(b, h, w, options):
    same_values(BAM, (b, 6, h, w), **options)


@optional
@pytest.mark.parametrize("b, h, w", TRAINING)
def test_values_equal_the_reference_in_training(b, h, w, options):
    same_values(BAM, (b, 6, h, w), training=True, **options)


@optional
@pytest.mark.parametrize("b, h, w, training", [
    (1, 3, 7, False), (2, 5, 3, False), (5, 1, 1, False), (2, 5, 3, True),
    (5, 3, 2, True)])
def test_gradient_equals_the_reference(b, h, w, training, options):
    same_gradient(BAM, (b, 6, h, w), training=training, **options)


@optional
@pytest.mark.parametrize("training", [True, False])
def test_both_branches_take_both_signs(training, options):
    """So that the tests of values would see a ReLU at the end of either."""
    m, x = seeded(BAM, training, **options), some(3, 6, 13, 11)
    for branch in (m.channel(x), m.spatial(x)):
        assert branch.min() < -0.3 and branch.max() > 0.3


def test_the_gate_is_made_of_the_two_branches():
    x = some(2, 6, 3, 7)
    for options in OPTIONS:
        m = seeded(BAM, **options)
        Mc, Ms, M = m.channel(x), m.spatial(x), m.gate(x)
        assert Mc.shape == (2, 6, 1, 1) and Ms.shape == (2, 1, 3, 7)
        assert M.shape == x.shape and 0 < M.min() and M.max() < 1
        a = Mc * Ms if "official" in options else Mc + Ms
        torch.testing.assert_close(M, a.sigmoid())
        torch.testing.assert_close(m(x), x + x * M)


def test_bam_can_only_raise():
    """Between once and twice x: the residual keeps what the gate would shut."""
    m, x = seeded(BAM), some(5, 6, 13, 11)
    ratio = m(x) / x
    assert 1 <= ratio.min() < 1.1 and 1.9 < ratio.max() <= 2


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("official", [False, True])
def test_ms_sees_25_pixels_at_steps_of_d(dilation, official):
    """Which pixels move one place of Ms: 5 x 5 of them, on a side of 4d + 1."""
    torch.manual_seed(0)
    m = SpatialGate(6, reduction=2, dilation=dilation, official=official)
    m = m.double().eval()
    for p in m.parameters():
        torch.nn.init.uniform_(p, 0.1, 1)       # no ReLU hides a pixel
    x = torch.rand(1, 6, 19, 23, dtype=torch.float64, requires_grad=True)
    m(x)[0, 0, 9, 11].backward()
    reach = torch.arange(-2, 3) * dilation
    seen = torch.zeros(19, 23, dtype=torch.bool)
    seen[9 + reach[:, None], 11 + reach] = True
    assert torch.equal((x.grad[0] != 0).all(0), seen)
    assert torch.equal((x.grad[0] != 0).any(0), seen)
    rows = seen.any(1).nonzero()
    assert seen.sum() == 25 and rows.max() - rows.min() + 1 == 4 * dilation + 1


def test_mc_does_not_depend_on_the_order_of_pixels_and_ms_does():
    m, x = seeded(BAM), some(2, 6, 13, 11)
    own = torch.stack([p[torch.randperm(143)] for p in x.flatten(0, 1).flatten(1)])
    own = own.view_as(x)
    torch.testing.assert_close(m.channel(own), m.channel(x))
    assert (m.spatial(own) - m.spatial(x)).abs().max() > 0.1


def test_ms_moves_with_the_picture():
    """Away from the border: f1 and f2 reach 2d, so 8 places of each side are left."""
    m, x = seeded(BAM).spatial, some(1, 6, 23, 29)
    moved = m(x.roll((2, 3), (2, 3)))[..., 10:-8, 11:-8]
    torch.testing.assert_close(moved, m(x)[..., 8:-10, 8:-11])


def test_where_one_branch_is_silent_the_other_has_the_word():
    m, x = seeded(BAM), some(2, 6, 3, 7)
    torch.nn.init.zeros_(m.channel.norm.weight)
    torch.nn.init.zeros_(m.channel.norm.bias)
    torch.testing.assert_close(m.gate(x), m.spatial(x).sigmoid().expand_as(x))


def test_a_last_norm_cancels_the_bias_before_it_in_training():
    m, x = seeded(BAM, training=True), some(5, 6, 3, 7)
    y = m(x)
    with torch.no_grad():
        m.channel.W1.bias.add_(7)
        m.spatial.f3.bias.sub_(5)
    torch.testing.assert_close(m(x), y)
    assert (m.eval()(x) - y).abs().max() > 0.1


@pytest.mark.parametrize("options, count", [
    # 64 channels, 4 hidden: two linear layers; 1x1, two 3x3, 1x1; BatchNorm.
    ({}, (260 + 320) + (260 + 148 + 148 + 5) + (128 + 2)),
    (OFFICIAL, (260 + 320) + (260 + 148 + 148 + 5) + (8 + 24)),
    ({"dilation": 1}, 1271),
    ({"reduction": 64}, (65 + 128) + (65 + 10 + 10 + 2) + (128 + 2)),
])
def test_parameter_count(options, count):
    assert sum(p.numel() for p in BAM(64, **options).parameters()) == count


@pytest.mark.parametrize("official, added", [(True, 358_067), (False, 360_761)])
def test_parameters_added_to_resnet50(official, added):
    modules = [BAM(channels, official=official) for channels in (256, 512, 1024)]
    assert sum(p.numel() for m in modules for p in m.parameters()) == added


@pytest.mark.parametrize("build, hidden, last", [
    (resnet18, 11_712_503, 11_713_181), (resnet50, 25_915_099, 25_917_793),
    (resnet101, 44_907_227, 44_909_921),
], ids=["resnet18", "resnet50", "resnet101"])
def test_parameter_count_of_a_network(build, hidden, last):
    for official, count in ((True, hidden), (False, last)):
        with torch.device("meta"):
            network = build(partial(BAM, official=official), place="stage")
        assert sum(p.numel() for p in network.parameters()) == count


def test_defaults_are_the_papers():
    for cls, defaults in (
        (ChannelGate, {"reduction": 16, "official": False}),
        (SpatialGate, {"reduction": 16, "dilation": 4, "official": False}),
        (BAM, {"reduction": 16, "dilation": 4, "official": False}),
    ):
        first, *others = inspect.signature(cls).parameters.values()
        assert first.name == "channels"
        assert {p.name: p.default for p in others} == defaults


RULE = "channels must be a positive multiple of reduction, got "


@pytest.mark.parametrize("call, message", [
    (lambda: BAM(24), RULE + "channels=24, reduction=16: reduction=12 would fit"),
    (lambda: ChannelGate(0), RULE + "channels=0, reduction=16"),
    (lambda: SpatialGate(16, reduction=0), RULE + "channels=16, reduction=0"),
    (lambda: BAM(16, dilation=0),
     "dilation must be a whole number from 1 up, got dilation=0"),
    (lambda: SpatialGate(16, dilation=-4),
     "dilation must be a whole number from 1 up, got dilation=-4"),
])
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize("cls", [BAM, ChannelGate, SpatialGate])
@pytest.mark.parametrize("shape", [(6, 3, 7), (2, 3, 7, 6), (2, 1, 3, 7), (2, 6)],
                         ids=str)
def test_bad_inputs(shape, cls):
    message = f"x must be (B, 6, H, W), got {shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cls(6, reduction=2)(torch.zeros(shape))


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("cls", [BAM, ChannelGate])
def test_one_picture_has_no_variance(cls, official):
    m, x = cls(6, reduction=2, official=official), torch.zeros(1, 6, 3, 7)
    message = ("x must hold at least two pictures in training mode, for BatchNorm "
               "estimates a variance over them, got (1, 6, 3, 7): "
               "use a larger batch, DataLoader(drop_last=True) or eval()")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        m(x)
    assert m.eval()(x).shape[0] == 1
    assert m.train()(torch.zeros(2, 6, 3, 7)).shape[0] == 2
    for part in m.modules():            # BatchNorm frozen, as detectors do
        part.train(not isinstance(part, torch.nn.modules.batchnorm._BatchNorm))
    assert m.training and m(x).shape[0] == 1


@pytest.mark.parametrize("official", [False, True])
def test_one_pixel_has_no_variance_either(official):
    m = SpatialGate(6, reduction=2, official=official)
    with pytest.raises(ValueError, match="^x must hold at least two pixels in "
                       "training mode"):
        m(torch.zeros(1, 6, 1, 1))
    assert m(torch.zeros(1, 6, 1, 2)).shape == (1, 1, 1, 2)
    assert m(torch.zeros(2, 6, 1, 1)).shape == (2, 1, 1, 1)
    assert m.eval()(torch.zeros(1, 6, 1, 1)).shape == (1, 1, 1, 1)


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_leaves_the_statistics_alone(official, training):
    m = BAM(6, reduction=2, official=official).train(training)
    before = {k: v.clone() for k, v in m.state_dict().items() if "running" in k}
    assert m(torch.zeros(0, 6, 3, 7)).shape == (0, 6, 3, 7)
    after = m.state_dict()
    assert before and all(torch.equal(after[k], v) for k, v in before.items())


def test_how_far_nan_spreads():
    m, x = seeded(BAM), some(3, 6, 23, 29)
    x[1, 4, 11, 13] = float("nan")
    pictures = torch.tensor([False, True, False])
    assert torch.equal(m(x).isnan().flatten(1).all(1), pictures)
    assert torch.equal(m(x).isnan().flatten(1).any(1), pictures)
    seen = m.spatial(x)[1, 0].isnan()
    assert seen.sum() == 25 and seen[3:20:4, 5:22:4].all()
    assert m.train()(x).isnan().all()


@pytest.mark.parametrize("training", [True, False])
@optional
def test_one_graph_whatever_the_arguments(options, training):
    m, x = seeded(BAM, training, **options), some(2, 6, 3, 7)
    other = copy.deepcopy(m)
    torch._dynamo.reset()
    compiled = torch.compile(m, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), other(x))


def test_a_network_in_training_mode_can_be_exported():
    m, x = seeded(BAM, training=True), some(3, 6, 5, 7)
    want = copy.deepcopy(m)(x)
    batch = {0: torch.export.Dim("b", min=2)}
    program = torch.export.export(m, (x,), dynamic_shapes=(batch,)).module()
    torch.testing.assert_close(program(x), want)
    assert program(some(5, 6, 5, 7)).shape == (5, 6, 5, 7)


@settings(max_examples=50, deadline=None)
@given(b=st.integers(0, 4), k=st.integers(1, 3), r=st.integers(1, 4),
       h=st.integers(1, 9), w=st.integers(1, 9), d=st.integers(1, 5),
       official=st.booleans())
def test_any_shape(b, k, r, h, w, d, official):
    m = BAM(k * r, reduction=r, dilation=d, official=official).double().eval()
    x = torch.randn(b, k * r, h, w, dtype=torch.float64)
    y = m(x)
    assert y.shape == x.shape
    assert ((x.abs() < y.abs()) & (y.abs() < 2 * x.abs())).all()
    for i in range(b):
        torch.testing.assert_close(y[i:i + 1], m(x[i:i + 1]))


def test_the_docstrings_run():
    failed, tried = doctest.testmod(cvattn.bam)
    assert tried >= 3 and failed == 0
