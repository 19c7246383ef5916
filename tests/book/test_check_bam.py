"""The exercises of "Bottleneck Attention": other right answers, and near misses."""

import pytest
import torch
from test_check import flat
from torch import nn
from torch.nn import functional as F

from cvattn import BAM
from cvattn.book import check
from cvattn.book.exercises.bam import EXERCISES, call_normalised, field, judge_dilations


def test_other_ways_to_be_right_are_right():
    assert check("bam-1", lambda dilations: (
        1 + 2 * sum(dilations), by_convolution(dilations)))
    assert check("bam-2", lambda x, Mc, Ms: x * (1 + torch.sigmoid(
        torch.einsum("bc,bhw->bchw", Mc, torch.ones_like(Ms)) + Ms.unsqueeze(1))))
    assert check("bam-3", by_autograd)
    assert check("bam-4", upsampled)
    assert check("bam-5", lambda channels, reduction: sum(
        p.numel() for p in BAM(channels, reduction=reduction).parameters()))
    assert check("bam-6", lambda f, x, at: torch.autograd.functional.jacobian(
        lambda v: f(v)[0, 0, at[0], at[1]], x)[0, 0])
    for order in ((1, 3, 9), [9, 1, 3], (3, 9, 1)):
        assert check("bam-7", order) and check("bam-7", lambda d=order: d)
    assert check("bam-8", lambda a, eps: F.batch_norm(a, None, None, training=True,
                                                      eps=eps))
    assert check("bam-9", lambda Mc, Ms: (
        (torch.sigmoid(Mc[:, :, None, None] + Ms[:, None]) > 0.5)
        ^ (torch.sigmoid(Mc[:, :, None, None] * Ms[:, None]) > 0.5)
    ).flatten(1).float().mean(1))


def by_convolution(dilations):
    side = 1 + 2 * sum(dilations)
    y = torch.zeros(1, 1, side, side)
    y[0, 0, side // 2, side // 2] = 1
    for d in dilations:
        y = F.conv2d(y, torch.ones(1, 1, 3, 3), padding=d, dilation=d)
    return int((y > 0).sum())


def by_autograd(Mc, Ms, how):
    Mc = Mc.clone().requires_grad_()
    f = {"sum": torch.add, "product": torch.mul, "max": torch.maximum}[how]
    return torch.autograd.grad(torch.sigmoid(f(Mc, Ms)).sum(), Mc)[0]


def upsampled(M, o):
    fine = F.interpolate(M[:, None], o.shape[1:], mode="nearest")[:, 0]
    return (fine * o).sum((1, 2)) / fine.sum((1, 2))


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_normalised_is_batch_norm(eps):
    a = torch.randn(6, 4)
    torch.testing.assert_close(EXERCISES["bam-8"].reference(a, eps),
                               nn.BatchNorm1d(4, eps=eps)(a))
    assert call_normalised(EXERCISES["bam-8"].reference, a[:1], eps) == "a ValueError"


def test_parameters_are_those_of_the_module():
    for args in EXERCISES["bam-5"].cases():
        channels, reduction = args
        assert EXERCISES["bam-5"].reference(*args) == sum(
            p.numel() for p in BAM(channels, reduction=reduction).parameters())


def test_no_three_dilations_without_holes_reach_further():
    every = [field((a, b, c)) for a in range(1, 15) for b in range(a, 15)
             for c in range(b, 15)]
    assert max(side for side, seen in every if seen == side**2) == 27


@pytest.mark.parametrize("answer, told", [
    ((1, 3, 9.0), "Return three whole numbers"),
    ((1, True, 9), "Return three whole numbers"),
    ((0, 3, 9), "Return three whole numbers"),
    ("139", "Return three whole numbers"),
    ((1, 3, 8), "There are no holes, and the side is 25"),
    ((1, 3, 10), "of the 29 x 29 pixels of its square it sees 729"),
    ((1, 1, 10**9), "Stay below 1000"),
])
def test_what_is_no_answer_is_told(answer, told):
    assert told in flat(check("bam-7", answer))
    assert judge_dilations(answer)


def test_a_batch_of_one_that_is_let_through_is_told():
    text = flat(check("bam-8", lambda a, eps: (a - a.mean(0)) / (
        a.var(0, correction=0) + eps).sqrt()))
    assert "A batch of one is let through" in text


def test_a_float_for_a_count_is_told():
    text = flat(check("bam-5", lambda channels, reduction: EXERCISES[
        "bam-5"].reference(channels, reduction) * 1.0))
    assert "Divide whole numbers with //" in text


def test_a_mask_that_is_averaged_as_bool_is_told():
    text = flat(check("bam-4", lambda M, o: (M * F.adaptive_avg_pool2d(
        o, M.shape[1:])).sum((1, 2)) / M.sum((1, 2))))
    assert "Make them numbers first: o.float()" in text


def test_a_body_that_is_not_yet_written_is_no_mistake():
    def on_object(M, o):
        raise NotImplementedError

    assert "nothing here yet" in flat(check("bam-4", on_object))


@pytest.mark.parametrize("answer, told", [
    (lambda f, x, at: gradient_at(f, x, at).abs(), "It has a sign, too"),
    (lambda f, x, at: gradient_at(f, x.new_ones(x.shape), at), "a picture of ones"),
])
def test_a_gradient_that_fits_only_positive_linear_networks_is_told(answer, told):
    assert told in flat(check("bam-6", answer))


def gradient_at(f, x, at):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(f(x)[0, 0, at[0], at[1]], x)[0][0, 0]
