"""The forms of BAM that its paper compares: values, gradients, counts, errors."""

import copy
import inspect
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bam import SIZES, TRAINING, same_gradient, same_values, seeded, some

from cvattn import BAM
from cvattn.book.experiments.bam_variants import COMBINE, BAMVariant

OFFICIAL = {"combine": "product", "norm": "hidden"}
OPTIONS = [
    {}, {"reduction": 3}, {"dilation": 1}, {"dilation": 2, "norm": "hidden"},
    {"combine": "product"}, {"combine": "max"}, {"norm": "hidden"}, OFFICIAL,
]
optional = pytest.mark.parametrize("options", OPTIONS, ids=str)


@optional
@pytest.mark.parametrize("b, h, w", SIZES)
def test_values_equal_the_reference(b, h, w, options):
    same_values(BAMVariant, (b, 6, h, w), **options)


@optional
@pytest.mark.parametrize("b, h, w", TRAINING)
def test_values_equal_the_reference_in_training(b, h, w, options):
    same_values(BAMVariant, (b, 6, h, w), training=True, **options)


@optional
@pytest.mark.parametrize("b, h, w, training", [
    (1, 3, 7, False), (2, 5, 3, False), (5, 1, 1, False), (2, 5, 3, True),
    (5, 3, 2, True)])
def test_gradient_equals_the_reference(b, h, w, training, options):
    same_gradient(BAMVariant, (b, 6, h, w), training=training, **options)


@pytest.mark.parametrize("official, options", [(False, {}), (True, OFFICIAL)])
def test_two_of_them_are_bam_to_the_bit_from_the_same_seed(official, options):
    built = []
    for make in (lambda: BAM(6, reduction=2, official=official),
                 lambda: BAMVariant(6, reduction=2, **options)):
        torch.manual_seed(0)
        built.append(make())
    mine, theirs = (m.state_dict() for m in built)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    x = some(2, 6, 3, 7).float()
    assert torch.equal(built[0](x), built[1](x))


@optional
@pytest.mark.parametrize("training", [True, False])
def test_both_branches_take_both_signs(training, options):
    """So that the tests of values would see a ReLU at the end of either."""
    m, x = seeded(BAMVariant, training, **options), some(3, 6, 13, 11)
    for branch in (m.channel(x), m.spatial(x)):
        assert branch.min() < -0.3 and branch.max() > 0.3


def test_the_gate_is_made_of_the_two_branches():
    x = some(2, 6, 3, 7)
    for options in OPTIONS:
        m = seeded(BAMVariant, **options)
        Mc, Ms, M = m.channel(x), m.spatial(x), m.gate(x)
        assert Mc.shape == (2, 6, 1, 1) and Ms.shape == (2, 1, 3, 7)
        assert M.shape == x.shape and 0 < M.min() and M.max() < 1
        a = {"sum": Mc + Ms, "product": Mc * Ms, "max": torch.maximum(Mc, Ms)}
        torch.testing.assert_close(M, a[options.get("combine", "sum")].sigmoid())
        torch.testing.assert_close(m(x), x + x * M)


def test_where_one_branch_is_silent():
    """A sum leaves the word to the other branch; a product silences both."""
    x = some(2, 6, 3, 7)
    for combine in ("sum", "product"):
        m = seeded(BAMVariant, combine=combine)
        torch.nn.init.zeros_(m.channel.norm.weight)
        torch.nn.init.zeros_(m.channel.norm.bias)
        alone = m.spatial(x).sigmoid().expand_as(x)
        half = torch.full_like(x, 0.5)
        torch.testing.assert_close(m.gate(x), alone if combine == "sum" else half)
    assert (alone - half).abs().max() > 0.1     # the two cases do differ


@pytest.mark.parametrize("options, count", [
    ({"combine": "product", "dilation": 1}, 1271), ({"combine": "max"}, 1271),
    ({"norm": "hidden"}, (260 + 320) + (260 + 148 + 148 + 5) + (8 + 24)),
])
def test_parameter_count(options, count):
    assert sum(p.numel() for p in BAMVariant(64, **options).parameters()) == count


def test_defaults_are_the_papers():
    first, *others = inspect.signature(BAMVariant).parameters.values()
    assert first.name == "channels"
    assert {p.name: p.default for p in others} == {
        "reduction": 16, "dilation": 4, "combine": "sum", "norm": "last"}
    assert list(COMBINE) == ["sum", "product", "max"]


@pytest.mark.parametrize("call, message", [
    (lambda: BAMVariant(16, norm="first"),
     'norm must be "last" or "hidden", got norm=\'first\''),
    (lambda: BAMVariant(16, norm=True),
     'norm must be "last" or "hidden", got norm=True'),
    (lambda: BAMVariant(16, combine="mean"),
     "combine must be one of ('sum', 'product', 'max'), got combine='mean'"),
])
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize("training", [True, False])
@optional
def test_one_graph_whatever_the_arguments(options, training):
    m, x = seeded(BAMVariant, training, **options), some(2, 6, 3, 7)
    other = copy.deepcopy(m)
    torch._dynamo.reset()
    compiled = torch.compile(m, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), other(x))


@settings(max_examples=50, deadline=None)
@given(b=st.integers(0, 4), k=st.integers(1, 3), r=st.integers(1, 4),
       h=st.integers(1, 9), w=st.integers(1, 9), d=st.integers(1, 5),
       combine=st.sampled_from(["sum", "product", "max"]),
       norm=st.sampled_from(["last", "hidden"]))
def test_any_shape(b, k, r, h, w, d, combine, norm):
    m = BAMVariant(k * r, reduction=r, dilation=d, combine=combine, norm=norm)
    m, x = m.double().eval(), torch.randn(b, k * r, h, w, dtype=torch.float64)
    y = m(x)
    assert y.shape == x.shape
    assert ((x.abs() < y.abs()) & (y.abs() < 2 * x.abs())).all()
    for i in range(b):
        torch.testing.assert_close(y[i:i + 1], m(x[i:i + 1]))
