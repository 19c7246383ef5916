"""CBAM: its values, its gradient, its properties, its parameters."""

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

import cvattn.cbam
from cvattn import CBAM, ChannelAttention, SpatialAttention, resnet18, resnet50
from cvattn.cbam import largest

SIZES = [(1, 3, 7), (2, 13, 11), (5, 1, 1)]     # B, H, W; C = 6, C/r = 2 or 3
OFFICIAL = {"official": True}
OPTIONS = [{}, {"reduction": 3}, {"kernel_size": 3}, {"kernel_size": 1}, OFFICIAL,
           {**OFFICIAL, "kernel_size": 3}]
optional = pytest.mark.parametrize("options", OPTIONS, ids=str)


def seeded(cls, training=False, **options):
    """A CBAM in float64 whose gates are spread out, not all near a half."""
    torch.manual_seed(0)
    m = cls(6, **{"reduction": 2, **options}).double().train(training)
    with torch.no_grad():
        for name, p in m.named_parameters():
            p.normal_(0, 0.5 if name == "spatial.f.weight" else 1.5)
        for name, buffer in m.named_buffers():
            if name.endswith(("mean", "var")):
                buffer.uniform_(0.3, 2)
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


def referred(m, a, channel_pool=("mean", "max"), spatial_pool=("mean", "max"),
             order="channel-spatial", **others):
    """What the reference makes of the arrays a, in the mode that m is in."""
    norm = None
    if "spatial.norm.weight" in a:
        norm = [a["spatial.norm.weight"], a["spatial.norm.bias"]]
        if not m.training:
            norm += [m.spatial.norm.running_mean.numpy(),
                     m.spatial.norm.running_var.numpy()]
    channel = {"W0": a.get("channel.W0.weight"), "W1": a.get("channel.W1.weight"),
               "b0": a.get("channel.W0.bias"), "b1": a.get("channel.W1.bias"),
               "pool": channel_pool}
    spatial = {"f": a.get("spatial.f.weight"), "f0": a.get("spatial.f0.weight"),
               "pool": spatial_pool, "norm": norm}
    return reference.cbam(a["x"], channel, spatial, order)


def same_values(cls, shape, training=False, **options):
    """Assert that cls, CBAM or a mutant of it, equals the reference."""
    m, x = seeded(cls, training, **options), some(*shape)
    want = referred(m, arrays(m, x), **options)
    np.testing.assert_allclose(m(x).detach().numpy(), want, rtol=0, atol=1e-12)


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
    same_values(CBAM, (b, 6, h, w), **options)


@pytest.mark.parametrize("options", [o for o in OPTIONS if "official" in o], ids=str)
@pytest.mark.parametrize("b, h, w", SIZES)
def test_values_and_gradient_equal_the_reference_in_training(b, h, w, options):
    same_values(CBAM, (b, 6, h, w), training=True, **options)
    same_gradient(CBAM, (b, 6, 3 if h > 3 else h, w), training=True, **options)


@optional
@pytest.mark.parametrize("b, h, w", [(1, 3, 7), (2, 5, 3), (5, 1, 1)])
def test_gradient_equals_the_reference(b, h, w, options):
    same_gradient(CBAM, (b, 6, h, w), **options)


@optional
def test_forward_is_x_times_the_gate(options):
    m, x = seeded(CBAM, **options), some(2, 6, 3, 7)
    M = m.gate(x)
    assert M.shape == x.shape and 0 < M.min() and M.max() < 1
    torch.testing.assert_close(m(x), x * M)


def test_the_second_gate_reads_what_the_first_left():
    """A channel that Mc closes is unseen by Ms."""
    m, x = seeded(CBAM, official=True), some(2, 6, 3, 7)
    torch.nn.init.zeros_(m.channel.W1.weight)
    with torch.no_grad():
        m.channel.W1.bias.copy_(torch.tensor([-500.0, 0, 0, 0, 0, 0]))
    other = x.clone()
    other[:, 0] = x[:, 0] * 3 + 1
    torch.testing.assert_close(m(x)[:, 1:], m(other)[:, 1:], rtol=0, atol=1e-12)
    assert (m.spatial.gate(x) - m.spatial.gate(other)).abs().max() > 0.1


def test_mc_does_not_depend_on_the_order_of_pixels():
    m, x = seeded(CBAM).channel, some(2, 6, 3, 7)
    own = torch.stack([p[torch.randperm(21)] for p in x.flatten(0, 1).flatten(1)])
    torch.testing.assert_close(m.gate(own.view_as(x)), m.gate(x))
    assert not torch.allclose(m.gate(x.flip(1)), m.gate(x).flip(1), atol=0.1)


def test_ms_does_not_depend_on_the_order_of_channels():
    m, x = seeded(CBAM).spatial, some(2, 6, 3, 7)
    places = x.flatten(2).unbind(2)
    own = torch.stack([p[:, torch.randperm(6)] for p in places], dim=2)
    torch.testing.assert_close(m.gate(own.view_as(x)), m.gate(x))
    assert not torch.allclose(m.gate(x.flip(3)), m.gate(x).flip(3), atol=0.1)


def test_mean_and_maximum_share_one_mlp():
    """Where all pixels are equal so are mean and maximum: twice the same."""
    m = seeded(CBAM).channel
    z = torch.randn(2, 6, dtype=torch.float64)
    x = z[:, :, None, None].expand(2, 6, 3, 7)
    once = m.W1(torch.relu(m.W0(z)))
    torch.testing.assert_close(m.gate(x)[:, :, 0, 0], torch.sigmoid(2 * once))


@pytest.mark.parametrize("k", [1, 3, 5, 7])
def test_ms_sees_k_by_k_places(k):
    m, x = seeded(CBAM, kernel_size=k).spatial, some(1, 6, 17, 19).requires_grad_()
    m.gate(x)[0, 0, 8, 9].backward()
    seen = torch.zeros(17, 19, dtype=torch.bool)
    seen[8 - k // 2:9 + k // 2, 9 - k // 2:10 + k // 2] = True
    assert torch.equal((x.grad[0] != 0).any(0), seen)


def test_the_official_norm_starts_with_every_spatial_gate_at_a_half():
    x = some(2, 6, 3, 7).float()
    for training in (True, False):
        m = CBAM(6, reduction=2, official=True).train(training)
        assert torch.equal(m.spatial.gate(x), torch.full((2, 1, 3, 7), 0.5))
        assert torch.equal(m(x), m.channel(x) / 2)
    assert m.spatial.norm.momentum == 0.01


@pytest.mark.parametrize("dim", [1, (2, 3)])
def test_the_maximum_is_the_same_with_a_gradient_and_without(dim):
    x = some(2, 6, 3, 7)
    want = x.amax(dim, keepdim=True)
    assert torch.equal(largest(x, dim), want)
    assert torch.equal(largest(x.requires_grad_(), dim), want)
    x = x.detach()
    x[1, 2, 0, 3] = float("nan")
    for gradient in (False, True):
        y = largest(x.requires_grad_(gradient), dim)
        assert torch.equal(y.isnan(), x.isnan().sum(dim, keepdim=True) > 0)


@pytest.mark.parametrize("options, count", [
    ({}, 512 + 98), ({"kernel_size": 3}, 512 + 18), (OFFICIAL, 512 + 68 + 98 + 2),
])
def test_parameter_count(options, count):
    m = CBAM(64, **options)
    assert sum(p.numel() for p in m.parameters()) == count


@pytest.mark.parametrize("build, options, count", [
    (resnet18, OFFICIAL, 11_779_392), (resnet50, OFFICIAL, 28_089_624),
    (resnet50, {**OFFICIAL, "kernel_size": 3}, 28_088_344),
])
def test_parameter_count_of_a_network(build, options, count):
    with torch.device("meta"):
        network = build(partial(CBAM, **options))
    assert sum(p.numel() for p in network.parameters()) == count


def test_defaults_are_the_papers():
    for cls, defaults in (
        (ChannelAttention, {"reduction": 16, "bias": False}),
        (SpatialAttention, {"kernel_size": 7, "norm": False}),
        (CBAM, {"reduction": 16, "kernel_size": 7, "official": False}),
    ):
        first, *others = inspect.signature(cls).parameters.values()
        assert first.name == "channels"
        assert {p.name: p.default for p in others} == defaults
    assert list(CBAM(64).state_dict()) == [
        "channel.W0.weight", "channel.W1.weight", "spatial.f.weight"]


RULE = "channels must be a positive multiple of reduction, got "

@pytest.mark.parametrize("call, message", [
    (lambda: CBAM(24), RULE + "channels=24, reduction=16: reduction=12 would fit"),
    (lambda: CBAM(16, reduction=0), RULE + "channels=16, reduction=0"),
    (lambda: ChannelAttention(0), RULE + "channels=0, reduction=16"),
    (lambda: SpatialAttention(0),
     "channels must be a whole number from 1 up, got channels=0"),
    (lambda: SpatialAttention(-1),
     "channels must be a whole number from 1 up, got channels=-1"),
    (lambda: CBAM(16, kernel_size=4),
     "kernel_size must be odd and positive, got kernel_size=4"),
    (lambda: SpatialAttention(16, kernel_size=-7),
     "kernel_size must be odd and positive, got kernel_size=-7"),
])
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@optional
@pytest.mark.parametrize("shape", [(6, 3, 7), (2, 3, 7, 6), (2, 1, 3, 7), (2, 6)],
                         ids=str)
def test_bad_inputs(shape, options):
    m = CBAM(6, **{"reduction": 2, **options})
    message = f"x must be (B, 6, H, W), got {shape}"
    for call in (m, m.gate):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call(torch.zeros(shape))


def test_one_pixel_has_no_variance():
    m = CBAM(6, reduction=2, official=True)
    with pytest.raises(ValueError, match="^x must hold at least two pixels in "
                       "training mode"):
        m(torch.zeros(1, 6, 1, 1))
    assert m.eval()(torch.zeros(1, 6, 1, 1)).shape == (1, 6, 1, 1)
    assert m.train()(torch.zeros(2, 6, 1, 1)).shape == (2, 6, 1, 1)


@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_leaves_the_statistics_alone(training):
    m = CBAM(6, reduction=2, official=True).train(training)
    before = [m.spatial.norm.running_mean.clone(), m.spatial.norm.running_var.clone()]
    assert m(torch.zeros(0, 6, 3, 7)).shape == (0, 6, 3, 7)
    assert torch.equal(m.spatial.norm.running_mean, before[0])
    assert torch.equal(m.spatial.norm.running_var, before[1])


def test_nan_spreads_as_far_as_the_kernel():
    m, x = seeded(CBAM, kernel_size=3), some(3, 6, 5, 7)
    y = m.spatial(x)
    x[1, 4, 2, 3] = float("nan")
    spoiled = torch.zeros(3, 6, 5, 7, dtype=torch.bool)
    spoiled[1, :, 1:4, 2:5] = True
    assert torch.equal(m.spatial(x).isnan(), spoiled)
    torch.testing.assert_close(m.spatial(x)[~spoiled], y[~spoiled])
    assert torch.equal(m(x).isnan().flatten(1).all(1), torch.tensor([0, 1, 0]).bool())
    assert not m(x)[[0, 2]].isnan().any()
    m = seeded(CBAM, official=True)
    assert not m(x)[[0, 2]].isnan().any() and m.train()(x).isnan().all()


@pytest.mark.parametrize("options, training", [
    ({}, False), (OFFICIAL, False), (OFFICIAL, True),
], ids=str)
def test_one_graph_whatever_the_arguments(options, training):
    m, x = seeded(CBAM, training, **options), some(2, 6, 3, 7)
    torch._dynamo.reset()
    compiled = torch.compile(m, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), m(x))


@settings(max_examples=50, deadline=None)
@given(b=st.integers(0, 4), k=st.integers(1, 3), r=st.integers(1, 4),
       h=st.integers(1, 9), w=st.integers(1, 9), radius=st.integers(0, 4))
def test_any_shape(b, k, r, h, w, radius):
    m = CBAM(k * r, reduction=r, kernel_size=2 * radius + 1).double()
    x = torch.randn(b, k * r, h, w, dtype=torch.float64)
    y = m(x)
    assert y.shape == x.shape and (y.abs() < x.abs()).all()
    for i in range(b):
        torch.testing.assert_close(y[i:i + 1], m(x[i:i + 1]))


def test_the_docstrings_run():
    failed, tried = doctest.testmod(cvattn.cbam)
    assert tried >= 3 and failed == 0
