"""The exercises of the CBAM chapter: other right answers, and near misses."""

import pytest
import torch
from test_check import flat
from torch import nn
from torch.nn import functional as F

from cvattn import CBAM, ChannelAttention, SpatialAttention
from cvattn.book import check
from cvattn.book.exercises.cbam import EXERCISES, lookalikes, moved
from cvattn.book.specimens import BothDropAxis


def channel_by_module(x, W0, W1):
    module = ChannelAttention(x.shape[1], reduction=x.shape[1] // len(W0))
    module.load_state_dict({"W0.weight": W0, "W1.weight": W1})
    return module.gate(x).flatten(1)


def spatial_by_module(x, f, cls=SpatialAttention):
    module = cls(x.shape[1], kernel_size=f.shape[-1])
    module.load_state_dict({"f.weight": f})
    return module.gate(x)


def count_by_module(channels, reduction, kernel_size, official):
    module = CBAM(channels, reduction=reduction, kernel_size=kernel_size,
                  official=official)
    return sum(p.numel() for p in module.parameters())


def test_other_ways_to_be_right_are_right():
    assert check("cbam-1", lambda x: torch.stack([x.mean(1), x.max(1).values], 1))
    assert check("cbam-2", channel_by_module)
    assert check("cbam-3", count_by_module)
    assert check("cbam-4", lambda x, c, s: (lambda y: y * s(y))(x * c(x)))
    assert check("cbam-5", spatial_by_module)
    assert check("cbam-6", lambda layers, k: sees_backwards([*layers, (k, 1)]))
    assert check("cbam-9", lambda: moved((1, 3), (0, 3)))


def sees_backwards(layers):
    """The same field, from the last layer to the picture."""
    side = 1
    for kernel, stride in reversed(layers):
        side = (side - 1) * stride + kernel
    return side


def test_hand_written_gradient_equals_autograd():
    for x, g_avg, g_max in EXERCISES["cbam-7"].cases():
        x = x.requires_grad_()
        assert all(len(c.unique()) == c.numel() for c in x.flatten(0, 1)), "no ties"
        torch.autograd.backward([x.mean((2, 3)), x.amax((2, 3))], [g_avg, g_max])
        torch.testing.assert_close(
            EXERCISES["cbam-7"].reference(x.detach(), g_avg, g_max), x.grad)


def test_heat_equals_grad_cam_by_autograd():
    heats = []
    for A, w, k in EXERCISES["cbam-8"].cases():
        A = A.requires_grad_()
        y = A.mean((2, 3)) @ w.T + torch.arange(len(w))
        (g,) = torch.autograd.grad(y.gather(1, k[:, None]).sum(), A)
        want = (g.mean((2, 3), keepdim=True) * A).sum(1).relu()
        torch.testing.assert_close(EXERCISES["cbam-8"].reference(A, w, k), want)
        heats.append(want.flatten())
    assert torch.cat(heats).eq(0).any() and torch.cat(heats).gt(0).any()


def test_the_field_is_what_autograd_feels():
    for layers, k in EXERCISES["cbam-6"].cases():
        side = EXERCISES["cbam-6"].reference(layers, k)
        x = torch.randn(1, 1, 2 * side + 40, dtype=torch.float64, requires_grad=True)
        y = x
        for kernel, stride in [*layers, (k, 1)]:
            y = F.conv1d(y, torch.ones(1, 1, kernel, dtype=torch.float64),
                         stride=stride)
        (g,) = torch.autograd.grad(y[0, 0, y.shape[2] // 2], x)
        felt = g[0, 0].nonzero().flatten()
        assert felt.max() - felt.min() + 1 == side


def test_the_trap_is_named_in_both_exercises():
    for key, trapped in (("cbam-1", lambda x: torch.cat([x.mean(1), x.amax(1)], 1)),
                         ("cbam-5", lambda x, f: spatial_by_module(
                             x, f, BothDropAxis))):
        text = flat(check(key, trapped))
        assert "stacks heights" in text and "keepdim=True" in text


def test_lookalikes_are_what_they_are_said_to_be():
    a, b = lookalikes()
    torch.manual_seed(0)
    for _ in range(20):
        gates = {k: [SpatialAttention(1, kernel_size=k)] for k in (3, 5)}
        for k, (module,) in gates.items():
            nn.init.normal_(module.f.weight)
            apart = (module.gate(a) - module.gate(b))[0, 0, 3, 3].abs().item()
            assert (apart > 1e-4) == (k == 5)
        half = ChannelAttention(1, reduction=1)
        torch.testing.assert_close(half.gate(a), half.gate(b))


@pytest.mark.parametrize("answer, told", [
    (lambda: (torch.zeros(1, 1, 7, 9), torch.zeros(1, 1, 9, 7)), "same shape"),
    (lambda: (torch.zeros(2, 1, 7, 7), torch.ones(2, 1, 7, 7)), "same shape"),
    (lambda: (torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)), "odd and at least 7"),
    (lambda: moved((3, 3), (0, 0)), "3 x 3 window"),
    (lambda: moved((3, 5), (3, 6), value=2.0), "mean is not the same"),
])
def test_what_is_no_pair_is_told(answer, told):
    assert told in flat(check("cbam-9", answer))


def test_an_even_number_of_places_is_a_float_and_told():
    text = flat(check("cbam-3", lambda c, r, k, o: float(count_by_module(c, r, k, o))))
    assert "Divide whole numbers with //" in text


def looked_up(x, f):
    return gate_of(x, f, {3: 1, 7: 3}.get(f.shape[-1], 1))


def gate_of(x, f, padding):
    maps = torch.stack([x.mean(1), x.amax(1)], 1)
    return torch.sigmoid(F.conv2d(maps, f, padding=padding))


def scores(x, W0, W1):
    return [torch.relu(f @ W0.T) @ W1.T for f in (x.mean((2, 3)), x.amax((2, 3)))]


def refuses_five(x, f):
    if f.shape[-1] == 5:
        raise ValueError("kernel_size must be 3 or 7")
    return gate_of(x, f, f.shape[-1] // 2)


@pytest.mark.parametrize("key, answer, told", [
    ("cbam-1", lambda x: torch.stack([x.mean(1), x.median(1).values], 1), "are off"),
    ("cbam-1", lambda x: torch.cat([x.mean(1, True), x.amax(1, True)], 1).squeeze(0),
     "should return (1, 2, 3, 6): (B, C, H, W)"),
    ("cbam-2", lambda x, W0, W1: torch.maximum(*scores(x, W0, W1)).sigmoid(),
     "The larger of the two scores is taken"),
    ("cbam-2", lambda x, W0, W1: torch.stack(scores(x, W0, W1)).norm(dim=0).sigmoid(),
     "are off"),
    ("cbam-2", lambda x, W0, W1: torch.sigmoid(torch.relu(torch.cat(
        [x.mean((2, 3)), x.amax((2, 3))], 1) @ torch.cat([W0, W0], 1).T) @ W1.T),
     "added before the layers"),
    ("cbam-3", lambda c, r, k, o: 2 * c * (c // r) + 2 * k + (
        c // r + c + 2 if o else 0), "k * k weights"),
    ("cbam-4", lambda x, channel, spatial: spatial(channel(x)) * channel(x), "not yet"),
    ("cbam-5", looked_up, "fault SA3"),
    ("cbam-5", refuses_five, "A kernel of side 5 is refused"),
    ("cbam-5", lambda x, f: gate_of(x, f, 2), "should return"),
    ("cbam-6", lambda layers, k: sees_backwards(layers) + k, "should return"),
    ("cbam-6", lambda layers, k: sees_backwards([(k, 1), *layers]), "not yet"),
    ("cbam-7", lambda x, g, h: torch.autograd.grad(
        [(y := x.clone().requires_grad_()).mean((2, 3)), y.amax((2, 3))], y, [g, h])[0],
     "by way of autograd"),
    ("cbam-7", lambda x, g, h: g[:, :, None, None] / x[0, 0].numel() + torch.zeros_like(
        x), "Only the road through the mean"),
    ("cbam-8", lambda A, w, k: torch.einsum("bchw, bc -> bhw", A, w[k]).relu()
     / A[0].numel(), "divided by C H W"),
    ("cbam-8", lambda A, w, k: torch.einsum("bchw, bc -> bhw", A, w[k]).clamp(0)
     / A.shape[3], "are off"),
    ("cbam-9", lambda: torch.zeros(2, 1, 7, 7), "Return two tensors"),
    ("cbam-9", lambda: ([[0.0]], [[1.0]]), "Return two tensors"),
])
def test_what_a_student_may_also_try_is_wrong_and_told(key, answer, told):
    verdict = check(key, answer)
    assert not verdict and told in flat(verdict)


def test_a_kernel_that_is_refused_is_told_by_its_size_and_an_error_at_3_by_itself():
    def never(x, f):
        assert len(x) == 3, "three pictures"
        return gate_of(x, f, f.shape[-1] // 2)

    assert "stopped with AssertionError: three pictures" in flat(check("cbam-5", never))
