"""SE: its values, its gradient, its property, its parameters."""

import doctest
import inspect

import numpy as np
import pytest
import reference
import torch

import cvattn.se
from cvattn import SE

SIZES = [(1, 3, 7), (2, 13, 11), (5, 1, 1)]    # B, H, W; C = 6, C/r = 2 or 3


def weights(se):
    """W1, W2 and, if there are any, b1, b2 as arrays."""
    w = [se.W1.weight, se.W2.weight, se.W1.bias, se.W2.bias]
    return [None if t is None else t.detach().numpy() for t in w]


def seeded(cls, *args, **kwargs):
    """An SE in float64 whose gates are spread out, not all near a half."""
    torch.manual_seed(0)
    se = cls(*args, **kwargs).double()
    with torch.no_grad():
        for p in se.parameters():
            p.normal_(0, 1.5)
    return se


def some(*shape):
    """A feature map that is no average of zero, so that the squeeze matters."""
    torch.manual_seed(1)
    return torch.randn(*shape, dtype=torch.float64) + torch.randn(
        *shape[:2], 1, 1, dtype=torch.float64
    )


def same_values(cls, shape, channels=6, reduction=2, bias=False):
    """Assert that cls, SE or a mutant of it, equals the reference."""
    se, x = seeded(cls, channels, reduction=reduction, bias=bias), some(*shape)
    want = reference.se(x.numpy(), *weights(se))
    np.testing.assert_allclose(se(x).detach().numpy(), want, rtol=0, atol=1e-12)


def same_gradient(cls, shape, channels=6, reduction=2, bias=False):
    """Assert that cls has the reference's gradient, for x and all weights."""
    se, x = seeded(cls, channels, reduction=reduction, bias=bias), some(*shape)
    x.requires_grad_()
    g = torch.randn(*shape, dtype=torch.float64)
    se(x).backward(g)
    got = [x.grad, se.W1.weight.grad, se.W2.weight.grad]
    if bias:
        got += [se.W1.bias.grad, se.W2.bias.grad]
    want = reference.se_gradient(g.numpy(), x.detach().numpy(), *weights(se))
    for mine, theirs in zip(got, want, strict=False):
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("reduction", [2, 3])
@pytest.mark.parametrize("b, h, w", SIZES)
def test_values_equal_the_reference(b, h, w, reduction, bias):
    same_values(SE, (b, 6, h, w), reduction=reduction, bias=bias)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("reduction", [2, 3])
@pytest.mark.parametrize("b, h, w", SIZES)
def test_gradient_equals_the_reference(b, h, w, reduction, bias):
    same_gradient(SE, (b, 6, h, w), reduction=reduction, bias=bias)


def test_the_reference_gradient_equals_differences_of_the_reference():
    """So that module and reference cannot share a mistake in the chain rule."""
    se, x = seeded(SE, 6, reduction=2, bias=True), some(2, 6, 2, 3).numpy()
    rng = np.random.default_rng(0)
    inputs = [x, *weights(se)]
    g = rng.normal(size=x.shape)
    for i, gradient in enumerate(reference.se_gradient(g, *inputs)):
        step = rng.normal(size=inputs[i].shape)
        ends = []
        for sign in (1, -1):
            moved = list(inputs)
            moved[i] = inputs[i] + sign * 1e-6 * step
            ends.append((g * reference.se(*moved)).sum())
        difference = (ends[0] - ends[1]) / 2e-6
        assert (gradient * step).sum() == pytest.approx(difference, rel=1e-7)


def test_the_order_of_pixels_does_not_matter():
    se, x = seeded(SE, 6, reduction=2), some(2, 6, 3, 7)
    order = torch.randperm(21)
    shuffled = x.flatten(2)[:, :, order].view_as(x)
    torch.testing.assert_close(se.gate(shuffled), se.gate(x))
    torch.testing.assert_close(se(shuffled), se(x).flatten(2)[:, :, order].view_as(x))
    own = torch.stack([p[torch.randperm(21)] for p in x.flatten(0, 1).flatten(1)])
    torch.testing.assert_close(se.gate(own.view_as(x)), se.gate(x))


def test_channels_share_no_weights_so_their_order_does_matter():
    se, x = seeded(SE, 6, reduction=2), some(2, 6, 3, 7)
    assert not torch.allclose(se.gate(x.flip(1)), se.gate(x).flip(1), atol=0.1)


def test_each_gate_is_between_0_and_1_and_they_differ():
    se, x = seeded(SE, 64, reduction=4), some(5, 64, 3, 7) / 10
    s = se.gate(x)
    assert s.shape == (5, 64, 1, 1)
    assert 0 < s.min() < 0.01 and 0.99 < s.max() < 1
    assert s.std(dim=0).min() > 0, "a gate that is alike for all pictures"


def test_without_weights_every_gate_is_a_half():
    se, x = seeded(SE, 6, reduction=2), some(2, 6, 3, 7)
    torch.nn.init.zeros_(se.W2.weight)
    assert torch.equal(se(x), x / 2)


@pytest.mark.parametrize("channels, reduction, bias, count", [
    (64, 16, False, 512), (64, 16, True, 580),
    (2048, 16, False, 524_288), (2048, 16, True, 526_464),
    (256, 4, False, 32_768), (6, 6, False, 12), (6, 1, True, 84),
])
def test_parameter_count(channels, reduction, bias, count):
    se = SE(channels, reduction=reduction, bias=bias)
    assert sum(p.numel() for p in se.parameters()) == count
    hidden = channels // reduction
    assert count == 2 * channels * hidden + bias * (channels + hidden)


def test_defaults_are_the_papers():
    parameters = inspect.signature(SE).parameters
    assert {k: p.default for k, p in parameters.items()} == {
        "channels": inspect.Parameter.empty, "reduction": 16, "bias": False,
    }
    assert [p.kind for p in parameters.values()] == [
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.KEYWORD_ONLY,
    ]
    assert list(SE(64).state_dict()) == ["W1.weight", "W2.weight"]


def test_the_docstring_runs():
    failed, tried = doctest.testmod(cvattn.se)
    assert tried >= 1 and failed == 0
