"""The exercises of "Selective kernels": other right answers, and near misses."""

import pytest
import torch
from test_check import flat
from torch.nn import functional as F

from cvattn import SK
from cvattn.book import check
from cvattn.book.exercises.sk import EXERCISES, competes, over_all, swap_cases


def test_other_ways_to_be_right_are_right():
    assert check("sk-1", lambda U: sum(U_m.mean((2, 3)) for U_m in U.unbind(1)))
    assert check("sk-3", lambda scores, U: torch.einsum(
        "bmc, bmchw -> bchw", scores.unflatten(1, U.shape[1:3]).softmax(1), U))
    assert check("sk-4", lambda z, A: 1 - torch.sigmoid(z @ A[0].T - z @ A[1].T))
    assert check("sk-4", lambda z, A: (1 + torch.tanh(z @ (A[1] - A[0]).T / 2)) / 2)
    assert check("sk-5", lambda p: next((
        k for k, axis in {"batch": 0, "branch": 1, "channel": 2, "all": (1, 2)}.items()
        if torch.allclose(p.sum(axis), torch.ones(()), rtol=0, atol=1e-4)), "none"))
    assert check("sk-6", by_impulses)
    assert check("sk-7", lambda d: sorted({sum(steps) for steps in steps_of(d)}))
    assert check("sk-9", lambda sk, x, donor: sum(
        a * U for a, U in zip(sk.weights(donor).unbind(1), sk.split(x), strict=True)))


def steps_of(dilations):
    if not dilations:
        return [()]
    return [(step, *rest) for rest in steps_of(dilations[1:])
            for step in (-dilations[0], 0, dilations[0])]


def by_impulses(near, far, a):
    """The kernel, read off the two branches' answer to one bright pixel."""
    C = len(near)
    x = torch.zeros(1, C, 5, 5)
    x[:, :, 2, 2] = 1
    y = ((1 - a)[:, None, None] * F.conv2d(x, near, padding=1, groups=C)
         + a[:, None, None] * F.conv2d(x, far, padding=2, dilation=2, groups=C))
    return y[0].flip(1, 2)[:, None]


def test_the_count_is_that_of_the_module():
    for channels, branches, groups, reduction, minimum in EXERCISES["sk-2"].cases():
        with torch.device("meta"):
            sk = SK(channels, branches=branches, groups=groups, reduction=reduction,
                    minimum=minimum)
        assert EXERCISES["sk-2"].reference(
            channels, branches, groups, reduction, minimum
        ) == sum(p.numel() for p in sk.parameters())


def test_a_fraction_for_a_count_is_told():
    text = flat(check("sk-2", lambda C, M, G, r, L: M * (9 * C * C / G + 2 * C)
                      + C * max(C / r, L) + 2 * max(C / r, L) + M * C * max(C / r, L)))
    assert "returned the float" in text and "//" in text


def test_the_descriptor_and_the_choice_are_those_of_the_module():
    sk, x, _ = swap_cases()[0]
    with torch.no_grad():
        U = torch.stack(sk.split(x), dim=1)
        s = EXERCISES["sk-1"].reference(U)
        scores = sk.A(torch.relu(sk.bn(sk.W(s))))
        torch.testing.assert_close(EXERCISES["sk-3"].reference(scores, U), sk(x))


def test_one_sigmoid_is_the_softmax():
    for z, A in EXERCISES["sk-4"].cases():
        a = torch.einsum("bd, mcd -> bmc", z, A).softmax(1)
        torch.testing.assert_close(EXERCISES["sk-4"].reference(z, A), a[:, 1])


def test_every_answer_comes_and_every_trap_is_one():
    words = [competes(p) for (p,) in EXERCISES["sk-5"].cases()]
    assert words == ["branch", "channel", "batch", "all", "none", "none", "none",
                     "branch", "all", "none", "branch", "channel", "none", "channel",
                     "none", "none", "none", "none"]
    p = EXERCISES["sk-5"].cases()[7][0]
    assert (p.sum(1) != 1).any(), "rounding, or == would do"
    assert over_all(p).sum((1, 2)).sub(1).abs().max() < 1e-4


def test_the_merged_kernel_is_the_mixture():
    for near, far, a in EXERCISES["sk-6"].cases():
        C = len(near)
        x = torch.randn(2, C, 7, 5, generator=torch.Generator().manual_seed(0))
        both = (F.conv2d(x, near, padding=1, groups=C),
                F.conv2d(x, far, padding=2, dilation=2, groups=C))
        a = a[:, None, None]
        kernel = EXERCISES["sk-6"].reference(near, far, a.flatten())
        torch.testing.assert_close(F.conv2d(x, kernel, padding=2, groups=C),
                                   (1 - a) * both[0] + a * both[1])


@pytest.mark.parametrize("dilations", [d for (d,) in EXERCISES["sk-7"].cases()])
def test_the_reach_is_that_of_a_gradient(dilations):
    x = torch.ones(1, 1, 41, requires_grad=True)
    y = x
    for k in dilations:
        y = F.conv1d(y, torch.ones(1, 1, 3), padding=k, dilation=k)
    grad, = torch.autograd.grad(y[0, 0, 20], x)
    read = (grad[0, 0].nonzero()[:, 0] - 20).tolist()
    assert EXERCISES["sk-7"].reference(dilations) == read


def test_hand_written_gradient_equals_autograd():
    for a, U, g in EXERCISES["sk-8"].cases():
        scores = a.log().requires_grad_()
        V = (scores.softmax(1)[..., None, None] * U).sum(1)
        torch.testing.assert_close(EXERCISES["sk-8"].reference(a, U, g),
                                   torch.autograd.grad(V, scores, g)[0])


def test_autograd_is_told_where_the_chain_rule_is_asked_for():
    def lazy(a, U, g):
        scores = a.log().requires_grad_()
        V = (scores.softmax(1)[..., None, None] * U).sum(1)
        return torch.autograd.grad(V, scores, g)[0]

    assert "by way of autograd" in flat(check("sk-8", lazy))


def test_the_swapped_choice_is_the_donors():
    for sk, x, donor in swap_cases():
        with torch.no_grad():
            y = EXERCISES["sk-9"].reference(sk, x, donor)
            torch.testing.assert_close(EXERCISES["sk-9"].reference(sk, x, x), sk(x))
            assert sk.weights(donor).sub(sk.weights(x)).abs().max() > 0.05
            assert (y - sk(x)).abs().max() > 0.05


def test_a_list_of_maps_is_told():
    text = flat(check("sk-9", lambda sk, x, donor: sk.split(x)))
    assert "Add the weighed branches up" in text


def by_softmax(z, A):
    return torch.einsum("bd, mcd -> bmc", z, A).softmax(1)[:, 1]


def by_exp(z, A):
    return 1 / (1 + torch.exp(z @ (A[0] - A[1]).T))


@pytest.mark.parametrize("key, answer, told", [
    ("sk-1", lambda U: U.sum(1).flatten(2).mean(2).squeeze(), "drops every axis"),
    ("sk-1", lambda U: U.mean(1).sum((2, 3)), "are off"),
    ("sk-2", lambda C, M, G, r, L: M * (9 * C * (C // G) + 2 * C) + 2 * (
        C * max(C // r, L)), "should return 22080"),
    ("sk-3", lambda scores, U: (
        scores.exp().view(U.shape[:3])[..., None, None] * U
    ).sum(1) / scores.exp().view(U.shape[:3]).sum(1)[..., None, None],
     "exp overflows"),
    ("sk-3", lambda scores, U: (scores.view(U.shape[:3]).softmax(1)[..., None, None]
                                * U).mean(1), "divided by M"),
    ("sk-4", by_softmax, "but by way of softmax"),
    ("sk-4", by_exp, "but by way of exp"),
    ("sk-4", lambda z, A: torch.sigmoid(A[1] @ z.T - A[0] @ z.T),
     "should return (3, 5): (B, C) with B=3 pictures, C=5 channels"),
    ("sk-5", lambda p: "branch" if torch.allclose(
        p.sum(1), torch.ones(())) else "channel", "should return"),
    ("sk-5", lambda p: competes(p, test=lambda p, axis: abs(
        p.sum(axis).flatten()[-1] - 1) < 1e-4), "Only the last sum is looked at"),
    ("sk-5", lambda p: competes(p, test=lambda p, axis: torch.allclose(
        p.sum(axis), torch.ones(()))), "The tolerance is too narrow"),
    ("sk-5", lambda p: competes(p, test=lambda p, axis: bool(
        (p.sum(axis) - 1).max() < 1e-4)), "Sums below 1 pass"),
    ("sk-6", lambda near, far, a: torch.zeros(len(a), 5, 5),
     "should return (4, 1, 5, 5): (C, 1, 5, 5) with C=4 channels"),
    ("sk-6", lambda near, far, a: F.pad(near, (1, 1, 1, 1)) * (1 - a)[
        :, None, None, None] + F.pad(far, (1, 1, 1, 1)) * a[:, None, None, None],
     "is not pulled apart"),
    ("sk-7", lambda d: sorted({s * k for k in d for s in (-1, 0, 1)}), "not yet"),
    ("sk-8", lambda a, U, g: a[:, 0],
     "should return (3, 2, 5): (B, M, C) with B=3 pictures, M=2 branches"),
    ("sk-8", lambda a, U, g: (a * (g[:, None] * U).sum((3, 4))
                              - a * (g[:, None] * U).mean((3, 4))), "not yet"),
    ("sk-9", lambda sk, x, donor: sum(sk.split(donor)), "are off"),
])
def test_what_a_student_may_also_try_is_wrong_and_told(key, answer, told):
    verdict = check(key, answer)
    assert not verdict and told in flat(verdict)
