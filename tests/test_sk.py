"""SK: its values, its gradient, its properties, its parameters, its errors."""

import doctest
import inspect
import re

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import cvattn.sk
from cvattn import SK

SMALL = {"groups": 3, "reduction": 2, "minimum": 1}     # with C = 6: C/G = 2, d = 3
SIZES = [(1, 3, 7), (2, 13, 11), (5, 1, 1)]             # B, H, W


def seeded(cls, channels=6, training=False, **kwargs):
    """An SK in float64: every parameter and statistic does something."""
    torch.manual_seed(0)
    sk = cls(channels, **{**SMALL, **kwargs}).double().train(training)
    with torch.no_grad():
        for name, t in sk.state_dict().items():
            if name.endswith("running_var"):
                t.uniform_(0.5, 2)
            elif t.is_floating_point():
                t.normal_(0, 0.7)
        for m in sk.modules():
            if isinstance(m, nn.BatchNorm1d):
                m.bias.fill_(0.5)      # half of z would be dead at random
    return sk


def some(*shape):
    """A feature map that is no average of zero, so that s matters."""
    torch.manual_seed(1)
    return torch.randn(*shape, dtype=torch.float64) + torch.randn(
        *shape[:2], 1, 1, dtype=torch.float64)


def learned(sk):
    """The parameters in the order of `arguments`."""
    pairs = [[F_m[0].weight, F_m[1].weight, F_m[1].bias] for F_m in sk.F]
    return [*sum(pairs, []), sk.W.weight, sk.bn.weight, sk.bn.bias, sk.A.weight]


def arguments(sk, values):
    """What the reference takes after x, from arrays in the order of `learned`."""
    def norm(bn, gamma, beta):
        if sk.training:
            return gamma, beta
        return gamma, beta, bn.running_mean.numpy(), bn.running_var.numpy()

    *branches, W, gamma, beta, A = values
    norms = [norm(F_m[1], *branches[3 * m + 1: 3 * m + 3])
             for m, F_m in enumerate(sk.F)]
    first = sk.F[0][0]
    return (branches[::3], norms, W, norm(sk.bn, gamma, beta),
            A.reshape(len(sk.F), -1, len(W)), first.groups, first.stride[0])


def same_values(cls, shape, training=False, **kwargs):
    """Assert that cls, SK or a mutant of it, equals the reference."""
    sk, x = seeded(cls, shape[1], training, **kwargs), some(*shape)
    values = [p.detach().numpy() for p in learned(sk)]
    want = reference.sk(x.numpy(), *arguments(sk, values))
    np.testing.assert_allclose(sk(x).detach().numpy(), want, rtol=0, atol=1e-11)


def same_gradient(cls, shape, training=False, **kwargs):
    """Assert that cls has the gradient of the reference, for x and all parameters.

    The reference's is the central difference along two directions for each.
    """
    sk, x = seeded(cls, shape[1], training, **kwargs), some(*shape).requires_grad_()
    y = sk(x)
    g = torch.randn_like(y)
    y.backward(g)
    tensors = [x, *learned(sk)]
    arrays = [t.detach().numpy() for t in tensors]
    rng = np.random.default_rng(0)

    def loss(arrays):
        y = reference.sk(arrays[0], *arguments(sk, arrays[1:]))
        return (g.numpy() * y).sum()

    for i, t in enumerate(tensors):
        for _ in range(2):
            step = rng.normal(size=t.shape)
            ends = []
            for sign in (1, -1):
                moved = list(arrays)
                moved[i] = arrays[i] + sign * 1e-6 * step
                ends.append(loss(moved))
            want = (ends[0] - ends[1]) / 2e-6
            got = (t.grad.numpy() * step).sum()
            assert got == pytest.approx(want, rel=1e-6, abs=1e-7), i


FORMS = [{}, {"branches": 1}, {"branches": 3}, {"groups": 1}, {"groups": 6},
         {"stride": 2}, {"reduction": 3}, {"minimum": 5},
         {"branches": 3, "stride": 3, "groups": 2, "reduction": 6}]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("b, h, w", SIZES)
def test_values_equal_the_reference(b, h, w, form):
    same_values(SK, (b, 6, h, w), **form)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("b, h, w", [(2, 3, 7), (5, 1, 1), (5, 5, 3)])
def test_values_equal_the_reference_in_training(b, h, w, form):
    same_values(SK, (b, 6, h, w), training=True, **form)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("b, h, w", [(1, 3, 5), (2, 3, 2), (5, 2, 1)])
def test_gradient_equals_the_reference(b, h, w, form, training):
    if training and b == 1:
        b = 3
    same_gradient(SK, (b, 6, h, w), training, **form)


def test_weights_equal_the_reference():
    sk, x = seeded(SK, branches=3), some(2, 6, 5, 3)
    _, _, W, norm, A, _, _ = arguments(sk, [p.detach().numpy() for p in learned(sk)])
    Us = [U_m.detach().numpy() for U_m in sk.split(x)]
    np.testing.assert_allclose(sk.weights(x).detach().numpy()[..., 0, 0],
                               reference.sk_weights(Us, W, norm, A), rtol=0, atol=1e-12)


@pytest.mark.parametrize("branches", [1, 2, 5])
def test_weights_are_shares(branches):
    """They sum to 1 over the branches, and differ by picture and by channel."""
    a = seeded(SK, branches=branches).weights(some(5, 6, 7, 3))
    assert a.shape == (5, branches, 6, 1, 1)
    torch.testing.assert_close(a.sum(dim=1), torch.ones(5, 6, 1, 1).double())
    assert a.min() > 0
    if branches == 1:
        assert torch.equal(a, torch.ones_like(a))
    else:
        assert a.std(dim=0).min() > 0 and a.std(dim=2).min() > 0


def alike(branches):
    """An SK whose branches all compute the same: only the centre of a kernel is used,
    so that dilation does not matter."""
    sk = seeded(SK, branches=branches)
    with torch.no_grad():
        for F_m in sk.F:
            F_m[0].weight[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
            F_m.load_state_dict(sk.F[0].state_dict())
    return sk


@pytest.mark.parametrize("branches", [1, 2, 3])
def test_equal_branches_leave_nothing_to_choose(branches):
    sk, x = alike(branches), some(2, 6, 5, 3)
    a = sk.weights(x)
    assert branches == 1 or (a - 1 / branches).abs().max() > 0.05
    for U_m in sk.split(x):
        torch.testing.assert_close(sk(x), U_m)


def test_a_single_branch_is_a_convolution_norm_and_relu():
    sk, x = seeded(SK, branches=1, stride=2), some(2, 6, 5, 3)
    assert torch.equal(sk(x), sk.F[0](x))
    want = nn.functional.conv2d(x, sk.F[0][0].weight, stride=2, padding=1, groups=3)
    torch.testing.assert_close(sk(x), torch.relu(sk.F[0][1](want)))


def test_branches_have_no_order():
    """Exchange two branches that differ in their weights alone, and the rows of A."""
    sk, x = alike(3), some(2, 6, 5, 3)
    with torch.no_grad():
        for m, F_m in enumerate(sk.F):
            F_m[1].bias.add_(m)
    y = sk(x)
    order = [2, 0, 1]
    branches = [sk.F[m].state_dict() for m in order]
    branches = [{k: v.clone() for k, v in branch.items()} for branch in branches]
    with torch.no_grad():
        for F_m, state in zip(sk.F, branches, strict=True):
            F_m.load_state_dict(state)
        assert not torch.allclose(sk(x), y, atol=1e-3)
        sk.A.weight.copy_(sk.A.weight.unflatten(0, (3, 6))[order].flatten(0, 1))
    torch.testing.assert_close(sk(x), y)


def test_branch_m_sees_a_field_of_2m_plus_3():
    """Nine places with a distance of m + 1, for the same number of weights."""
    sk, x = seeded(SK, branches=4, groups=1), some(1, 6, 13, 11).requires_grad_()
    for m, F_m in enumerate(sk.F):
        seen = torch.autograd.grad(F_m[0](x)[:, :, 6, 5].sum(), x)[0].abs().sum((0, 1))
        step = m + 1
        rows, columns = (seen > 0).nonzero().unbind(1)
        assert set(rows.tolist()) == {6 - step, 6, 6 + step}
        assert set(columns.tolist()) == {5 - step, 5, 5 + step}
        assert (seen > 0).sum() == 9 and F_m[0].weight.numel() == 9 * 36


def test_every_branch_has_a_say_in_the_weights():
    sk, x = seeded(SK, branches=3), some(2, 6, 5, 3)
    a = sk.weights(x)
    for F_m in sk.F:
        with torch.no_grad():
            F_m[1].bias.add_(1)
        assert not torch.allclose(sk.weights(x), a, atol=1e-3)
        with torch.no_grad():
            F_m[1].bias.sub_(1)


def test_a_scaled_A_chooses_one_branch():
    """In the limit each channel takes one branch: one kernel size for each."""
    sk, x = seeded(SK), some(2, 6, 5, 3)
    with torch.no_grad():
        sk.A.weight.mul_(1e4)
    a = sk.weights(x)
    assert (a.amax(dim=1) > 0.999).all()
    assert 0 < a[:, 0].round().mean() < 1, "all took the same"
    U = torch.stack(sk.split(x), dim=1)
    winner = a.argmax(dim=1, keepdim=True).expand(-1, 1, -1, 5, 3)
    torch.testing.assert_close(sk(x), U.gather(1, winner)[:, 0], atol=1e-2, rtol=0)


@settings(max_examples=40, deadline=None)
@given(b=st.integers(2, 4), size=st.integers(1, 3), groups=st.integers(1, 4),
       h=st.integers(1, 9), w=st.integers(1, 9), branches=st.integers(1, 4),
       stride=st.integers(1, 3), minimum=st.integers(1, 9), training=st.booleans())
def test_any_shape(b, size, groups, h, w, branches, stride, minimum, training):
    """V has the size of a strided map and lies between the branches everywhere."""
    channels = size * groups
    sk = seeded(SK, channels, training, branches=branches, groups=groups, reduction=1,
                minimum=minimum, stride=stride)
    assert sk.W.out_features == max(channels, minimum)
    x = some(b, channels, h, w)
    if training and h <= stride and w <= stride:
        x = torch.cat([x, x + 1])      # BN2d too needs more than one value a channel
    y, U = sk(x), torch.stack(sk.split(x), dim=1)
    assert y.shape == (len(x), channels, -(-h // stride), -(-w // stride))
    assert (y <= U.amax(dim=1) + 1e-9).all() and (y >= U.amin(dim=1) - 1e-9).all()
    torch.testing.assert_close(sk.weights(x).sum(1),
                               torch.ones(len(x), channels, 1, 1).double())


@pytest.mark.parametrize("channels, kwargs, d, count", [
    (128, {}, 32, 22_080), (256, {}, 32, 62_528), (512, {}, 32, 198_720),
    (1024, {}, 64, 790_656), (128, {"branches": 1}, 32, 13_120),
    (128, {"branches": 3}, 32, 31_040), (128, {"groups": 1}, 32, 307_776),
    (64, {"reduction": 2, "minimum": 1, "stride": 2}, 32, 8_768),
])
def test_parameter_count(channels, kwargs, d, count):
    """The first four are those of SKNet-50's four stages."""
    with torch.device("meta"):
        sk = SK(channels, **kwargs)
    M, G = kwargs.get("branches", 2), kwargs.get("groups", 32)
    assert sk.W.out_features == d
    assert sum(p.numel() for p in sk.parameters()) == count
    branches = M * (9 * channels**2 // G + 2 * channels)
    assert count == branches + channels * d + 2 * d + M * channels * d
    assert not any(m.bias is not None for m in sk.modules()
                   if isinstance(m, nn.Conv2d | nn.Linear))


def test_defaults_are_the_papers():
    parameters = inspect.signature(SK).parameters
    assert {k: p.default for k, p in parameters.items()} == {
        "channels": inspect.Parameter.empty, "branches": 2, "groups": 32,
        "reduction": 16, "minimum": 32, "stride": 1,
    }
    branch = ["0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var",
              "1.num_batches_tracked"]
    assert list(SK(64).state_dict()) == [
        *[f"F.0.{k}" for k in branch], *[f"F.1.{k}" for k in branch], "W.weight",
        "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var",
        "bn.num_batches_tracked", "A.weight",
    ]


MULTIPLE = "channels must be a positive multiple of "


@pytest.mark.parametrize("channels, kwargs, message", [
    (48, {}, MULTIPLE + "groups, got channels=48, groups=32: groups=24 would fit"),
    (0, {}, MULTIPLE + "groups, got channels=0, groups=32"),
    (-32, {}, MULTIPLE + "groups, got channels=-32, groups=32"),
    (64, {"groups": 0}, MULTIPLE + "groups, got channels=64, groups=0"),
    (64, {"groups": -2}, MULTIPLE + "groups, got channels=64, groups=-2"),
    (64, {"reduction": 24},
     MULTIPLE + "reduction, got channels=64, reduction=24: reduction=16 would fit"),
    (64, {"reduction": 0}, MULTIPLE + "reduction, got channels=64, reduction=0"),
    (64, {"reduction": 128},
     MULTIPLE + "reduction, got channels=64, reduction=128: reduction=64 would fit"),
    (64, {"branches": 0}, "branches must be a whole number from 1 up, got branches=0"),
    (64, {"minimum": 0}, "minimum must be a whole number from 1 up, got minimum=0"),
    (64, {"stride": -1}, "stride must be a whole number from 1 up, got stride=-1"),
])
def test_bad_arguments(channels, kwargs, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SK(channels, **kwargs)


@pytest.mark.parametrize("shape", [(), (6,), (2, 6), (6, 3, 7), (2, 6, 3, 7, 1),
                                   (2, 3, 3, 7), (2, 3, 7, 6), (2, 1, 3, 7)], ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_bad_inputs(shape, training):
    sk = seeded(SK, training=training)
    message = f"^{re.escape(f'x must be (B, 6, H, W), got {shape}')}$"
    for call in (sk, sk.weights, sk.split):
        with pytest.raises(ValueError, match=message):
            call(torch.zeros(shape, dtype=torch.float64))


def test_a_batch_of_one_in_training_is_refused_before_anything_changes():
    sk, x = seeded(SK, training=True), some(1, 6, 3, 7)
    before = {k: v.clone() for k, v in sk.state_dict().items()}
    message = ("x must hold at least two pictures in training mode, for BatchNorm "
               "estimates a variance over them, got (1, 6, 3, 7): use a larger batch, "
               "DataLoader(drop_last=True) or eval()")
    for call in (sk, sk.weights):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call(x)
    assert all(torch.equal(v, before[k]) for k, v in sk.state_dict().items())
    assert sk.eval()(x).shape == x.shape
    sk.train().bn.eval()               # frozen statistics need no second picture
    assert sk(x).shape == x.shape


@pytest.mark.parametrize("training", [False, True])
def test_an_empty_batch_gives_an_empty_result_and_leaves_the_statistics(training):
    sk = seeded(SK, training=training, stride=2)
    before = {k: v.clone() for k, v in sk.state_dict().items() if "running" in k}
    x = some(0, 6, 3, 7)
    assert sk(x).shape == (0, 6, 2, 4) and sk.weights(x).shape == (0, 2, 6, 1, 1)
    assert all(torch.equal(sk.state_dict()[k], v) for k, v in before.items())


def test_whole_numbers_are_refused():
    with pytest.raises(ValueError, match="^x must be floating point, got torch.int64$"):
        SK(64).eval()(torch.ones(2, 64, 3, 7, dtype=torch.long))


@pytest.mark.parametrize("wide", [False, True])
def test_autocast_gives_what_a_convolution_gives(monkeypatch, wide):
    """Also where the softmax, as on CUDA, leaves autocast in float32."""
    sk, x = seeded(SK).float(), some(5, 6, 7, 3).float()
    if wide:
        monkeypatch.setattr(sk, "select", lambda U: SK.select(sk, U).float())
    with torch.autocast("cpu", torch.bfloat16):
        y = sk(x)
        assert y.dtype == sk.F[0][0](x).dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), sk(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("training", [False, True])
def test_x_is_not_changed(training):
    """The branches' ReLU works in place, on a map of their own."""
    sk, x = seeded(SK, training=training), some(2, 6, 3, 7)
    before = x.clone()
    sk(x)
    assert torch.equal(x, before)


def test_the_docstring_runs():
    failed, tried = doctest.testmod(cvattn.sk)
    assert tried >= 1 and failed == 0
