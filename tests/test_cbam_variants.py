"""The forms of CBAM that its tables compare: values, gradients, counts, errors."""

import inspect
import re
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cbam import SIZES, same_gradient, same_values, seeded, some

from cvattn import CBAM, SE, ChannelAttention, SpatialAttention, resnet50
from cvattn.book.experiments.cbam_variants import (
    ORDERS,
    CBAMVariant,
    ChannelVariant,
    SpatialVariant,
)

OFFICIAL = {"bias": True, "norm": True, "spatial_pool": ("max", "mean")}
OPTIONS = [
    {}, {"reduction": 3}, {"bias": True}, {"kernel_size": 3}, {"kernel_size": 1},
    *({"order": order} for order in ORDERS[1:]),
    {"channel_pool": ("mean",)}, {"channel_pool": ("max",), "bias": True},
    {"channel_pool": ("max", "mean")}, {"spatial_pool": ("max", "mean")},
    {"spatial_pool": ("mean",)}, {"spatial_pool": ("max",)}, {"spatial_pool": "conv"},
    {"spatial_pool": "conv", "norm": True, "order": "parallel"}, OFFICIAL,
    {**OFFICIAL, "order": "spatial-channel"},
]
optional = pytest.mark.parametrize("options", OPTIONS, ids=str)


@optional
@pytest.mark.parametrize("b, h, w", SIZES)
def test_values_equal_the_reference(b, h, w, options):
    same_values(CBAMVariant, (b, 6, h, w), **options)


@pytest.mark.parametrize("options", [o for o in OPTIONS if o.get("norm")], ids=str)
@pytest.mark.parametrize("b, h, w", SIZES)
def test_values_and_gradient_equal_the_reference_in_training(b, h, w, options):
    same_values(CBAMVariant, (b, 6, h, w), training=True, **options)
    same_gradient(CBAMVariant, (b, 6, 3 if h > 3 else h, w), training=True, **options)


@optional
@pytest.mark.parametrize("b, h, w", [(1, 3, 7), (2, 5, 3), (5, 1, 1)])
def test_gradient_equals_the_reference(b, h, w, options):
    same_gradient(CBAMVariant, (b, 6, h, w), **options)


@pytest.mark.parametrize("options, same", [
    ({}, {}), ({"official": True}, {"bias": True, "norm": True}),
    ({"reduction": 3, "kernel_size": 3}, {"reduction": 3, "kernel_size": 3}),
])
def test_the_defaults_are_cbam_to_the_bit_from_the_same_seed(options, same):
    built = []
    for cls, arguments in ((CBAM, options), (CBAMVariant, same)):
        torch.manual_seed(0)
        built.append(cls(6, **{"reduction": 2, **arguments}))
    mine, theirs = (m.state_dict() for m in built)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    x = some(2, 6, 3, 7).float()
    assert torch.equal(built[0](x), built[1](x))
    assert torch.equal(built[0].gate(x), built[1].gate(x))


def test_a_seed_gives_the_numbers_that_it_gave_the_trained_arms():
    """f0 is drawn before f, and neither is drawn twice."""
    torch.manual_seed(0)
    m = SpatialVariant(6, pool="conv")
    torch.manual_seed(0)
    f0 = torch.nn.Conv2d(6, 1, 1, bias=False)
    f = torch.nn.Conv2d(1, 1, 7, bias=False)
    assert torch.equal(m.f0.weight, f0.weight) and torch.equal(m.f.weight, f.weight)


def test_the_halves_alone_are_the_halves():
    x = some(2, 6, 3, 7)
    for order, half in (("channel", "channel"), ("spatial", "spatial")):
        m = seeded(CBAMVariant, order=order)
        assert torch.equal(m(x), getattr(m, half)(x))
        assert [name for name, _ in m.named_children()] == [half]


@pytest.mark.parametrize("order", ORDERS)
def test_forward_is_x_times_the_gate(order):
    m, x = seeded(CBAMVariant, order=order), some(2, 6, 3, 7)
    M = m.gate(x)
    assert M.shape == x.shape and 0 < M.min() and M.max() < 1
    torch.testing.assert_close(m(x), x * M)


def test_the_orders_differ():
    x = some(2, 6, 3, 7)
    results = [seeded(CBAMVariant, order=order)(x) for order in ORDERS[:3]]
    for i in range(3):
        assert (results[i] - results[i - 1]).abs().max() > 0.1


@pytest.mark.parametrize("pool", [("mean", "max"), ("mean",), ("max",)])
def test_mc_does_not_depend_on_the_order_of_pixels(pool):
    m, x = seeded(CBAMVariant, channel_pool=pool).channel, some(2, 6, 3, 7)
    own = torch.stack([p[torch.randperm(21)] for p in x.flatten(0, 1).flatten(1)])
    torch.testing.assert_close(m.gate(own.view_as(x)), m.gate(x))
    assert not torch.allclose(m.gate(x.flip(1)), m.gate(x).flip(1), atol=0.1)


@pytest.mark.parametrize("pool", [("mean", "max"), ("mean",), ("max",)])
def test_ms_does_not_depend_on_the_order_of_channels(pool):
    m, x = seeded(CBAMVariant, spatial_pool=pool).spatial, some(2, 6, 3, 7)
    places = x.flatten(2).unbind(2)
    own = torch.stack([p[:, torch.randperm(6)] for p in places], dim=2)
    torch.testing.assert_close(m.gate(own.view_as(x)), m.gate(x))
    assert not torch.allclose(m.gate(x.flip(3)), m.gate(x).flip(3), atol=0.1)


def test_a_learned_pool_does_depend_on_the_order_of_channels():
    m, x = seeded(CBAMVariant, spatial_pool="conv").spatial, some(2, 6, 3, 7)
    assert (m.gate(x.flip(1)) - m.gate(x)).abs().max() > 0.1


def test_one_mean_is_se():
    """CBAM's channel half is SE with a second description, through the same MLP."""
    m = seeded(CBAMVariant, channel_pool=("mean",), bias=True).channel
    x = some(2, 6, 3, 7)
    se = SE(6, reduction=2, bias=True).double()
    se.W1.load_state_dict(m.W0.state_dict())
    se.W2.load_state_dict(m.W1.state_dict())
    torch.testing.assert_close(m(x), se(x))


def test_one_of_those_that_share_a_maximum_gets_its_gradient():
    x = torch.ones(1, 6, 1, 2, dtype=torch.float64, requires_grad=True)
    seeded(CBAMVariant, channel_pool=("max",)).channel.gate(x).sum().backward()
    assert torch.equal((x.grad != 0).sum((2, 3)), torch.ones(1, 6))
    x.grad = None
    seeded(CBAMVariant, spatial_pool=("max",)).spatial.gate(x).sum().backward()
    assert torch.equal((x.grad != 0).sum(1), torch.ones(1, 1, 2))


@pytest.mark.parametrize("options, count", [
    ({}, 512 + 98), ({"bias": True}, 512 + 68 + 98), ({"kernel_size": 3}, 512 + 18),
    ({"norm": True}, 512 + 98 + 2), ({"order": "channel"}, 512),
    ({"order": "spatial"}, 98), ({"order": "parallel"}, 610),
    ({"spatial_pool": "conv"}, 512 + 64 + 49), ({"spatial_pool": ("max",)}, 512 + 49),
    ({"channel_pool": ("max",)}, 610), (OFFICIAL, 512 + 68 + 98 + 2),
])
def test_parameter_count(options, count):
    m = CBAMVariant(64, **options)
    assert sum(p.numel() for p in m.parameters()) == count


def test_in_parallel_the_second_gate_reads_what_the_first_closed():
    m, x = seeded(CBAMVariant, bias=True), some(2, 6, 3, 7)
    torch.nn.init.zeros_(m.channel.W1.weight)
    with torch.no_grad():
        m.channel.W1.bias.copy_(torch.tensor([-500.0, 0, 0, 0, 0, 0]))
    other = x.clone()
    other[:, 0] = x[:, 0] * 3 + 1
    torch.testing.assert_close(m(x)[:, 1:], m(other)[:, 1:], rtol=0, atol=1e-12)
    m.order = "parallel"
    assert (m(x)[:, 1:] - m(other)[:, 1:]).abs().max() > 0.1


@pytest.mark.parametrize("options, count", [
    (OFFICIAL, 28_089_624), ({**OFFICIAL, "kernel_size": 3}, 28_088_344),
    ({**OFFICIAL, "order": "channel"}, 28_088_024),
])
def test_parameter_count_of_a_network(options, count):
    with torch.device("meta"):
        network = resnet50(partial(CBAMVariant, **options))
    assert sum(p.numel() for p in network.parameters()) == count


def test_defaults_are_the_papers():
    mean_max = ("mean", "max")
    for cls, defaults in (
        (ChannelVariant, {"reduction": 16, "bias": False, "pool": mean_max}),
        (SpatialVariant, {"kernel_size": 7, "pool": mean_max, "norm": False}),
        (CBAMVariant, {"reduction": 16, "kernel_size": 7, "channel_pool": mean_max,
                       "spatial_pool": mean_max, "order": "channel-spatial",
                       "bias": False, "norm": False}),
    ):
        first, *others = inspect.signature(cls).parameters.values()
        assert first.name == "channels"
        assert {p.name: p.default for p in others} == defaults
    assert issubclass(ChannelVariant, ChannelAttention)
    assert issubclass(SpatialVariant, SpatialAttention)
    assert list(CBAMVariant(64).state_dict()) == list(CBAM(64).state_dict())


POOL = 'pool must be ("mean",), ("max",) or both, in either order, got '



@pytest.mark.parametrize("call, message", [
    (lambda: CBAMVariant(-1, order="spatial"),
     "channels must be a whole number from 1 up, got channels=-1"),
    (lambda: ChannelVariant(16, pool=()), POOL + "pool=()"),
    (lambda: ChannelVariant(16, pool="max"), POOL + "pool='max'"),
    (lambda: ChannelVariant(16, pool="conv"), POOL + "pool='conv'"),
    (lambda: CBAMVariant(16, channel_pool=("max", "max")),
     POOL + "pool=('max', 'max')"),
    (lambda: CBAMVariant(16, spatial_pool=("avg",)), POOL + "pool=('avg',)"),
    (lambda: SpatialVariant(16, pool=("conv",)), POOL + "pool=('conv',)"),
    (lambda: ChannelVariant(16, pool=None), POOL + "pool=None"),
    (lambda: CBAMVariant(16, spatial_pool=("mean", None)),
     POOL + "pool=('mean', None)"),
    (lambda: SpatialVariant(16, pool={"max"}), POOL + "pool={'max'}"),
    (lambda: CBAMVariant(16, order="both"), "order must be one of ('channel-spatial', "
     "'spatial-channel', 'parallel', 'channel', 'spatial'), got order='both'"),
])
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(6, 3, 7), (2, 3, 7, 6), (2, 1, 3, 7), (2, 6)],
                         ids=str)
def test_bad_inputs(shape, order):
    m = CBAMVariant(6, reduction=2, order=order)
    message = f"x must be (B, 6, H, W), got {shape}"
    for call in (m, m.gate):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call(torch.zeros(shape))


def test_nan_spreads_as_far_as_the_kernel():
    m, x = seeded(CBAMVariant, kernel_size=3, order="spatial"), some(3, 6, 5, 7)
    y = m(x)
    x[1, 4, 2, 3] = float("nan")
    spoiled = torch.zeros(3, 6, 5, 7, dtype=torch.bool)
    spoiled[1, :, 1:4, 2:5] = True
    assert torch.equal(m(x).isnan(), spoiled)
    torch.testing.assert_close(m(x)[~spoiled], y[~spoiled])


@pytest.mark.parametrize("options, training", [
    *(({"order": order}, False) for order in ORDERS), ({"spatial_pool": "conv"}, False),
    (OFFICIAL, True),
], ids=str)
def test_one_graph_whatever_the_arguments(options, training):
    m, x = seeded(CBAMVariant, training, **options), some(2, 6, 3, 7)
    torch._dynamo.reset()
    compiled = torch.compile(m, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), m(x))


@settings(max_examples=50, deadline=None)
@given(b=st.integers(0, 4), k=st.integers(1, 3), r=st.integers(1, 4),
       h=st.integers(1, 9), w=st.integers(1, 9), radius=st.integers(0, 4),
       order=st.sampled_from(ORDERS))
def test_any_shape(b, k, r, h, w, radius, order):
    m = CBAMVariant(k * r, reduction=r, kernel_size=2 * radius + 1, order=order)
    m, x = m.double(), torch.randn(b, k * r, h, w, dtype=torch.float64)
    y = m(x)
    assert y.shape == x.shape and (y.abs() < x.abs()).all()
    for i in range(b):
        torch.testing.assert_close(y[i:i + 1], m(x[i:i + 1]))
