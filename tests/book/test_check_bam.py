"""The exercises of "Bottleneck Attention": other right answers, and near misses."""

import pytest
import torch
from test_check import flat
from torch import nn
from torch.nn import functional as F

from cvattn import BAM
from cvattn.book import check
from cvattn.book.exercises.bam import EXERCISES, field, judge_dilations


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
    with pytest.raises(ValueError, match="no variance"):
        EXERCISES["bam-8"].reference(a[:1], eps)


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


def test_the_praise_of_the_count_holds_for_every_reduction():
    """The dilated convolutions cost more below r = 6, and the chapter's r is 4."""
    assert "more than those as long as r is below 6" in EXERCISES["bam-5"].right
    for r in range(1, 17):
        C = 6 * r
        layers, dilated = 3 * C * C // r, 18 * (C // r) ** 2
        assert (dilated > layers) == (r < 6)


def gradient_left(f, x, at):
    x.requires_grad_()
    f(x)[0, 0, at[0], at[1]].backward()
    return x.grad[0, 0]


def asserts(a, eps):
    assert len(a) > 1, "one picture"
    return (a - a.mean(0)) / (a.var(0, correction=0) + eps).sqrt()


@pytest.mark.parametrize("key, answer, told", [
    ("bam-1", lambda d: (1 + 2 * sum(d), 9 ** len(d)), "This counts paths"),
    ("bam-1", lambda d: (1 + 2 * sum(d), (1 + 2 * sum(set(d))) ** 2), "should return"),
    ("bam-2", lambda x, Mc, Ms: x * (1 + (torch.sigmoid(Mc)[:, :, None, None]
                                          + torch.sigmoid(Ms)[:, None]) / 2),
     "the gates are averaged"),
    ("bam-2", lambda x, Mc, Ms: x + x * torch.sigmoid(Mc[:, None, None] + Ms[:, None]),
     "stopped with RuntimeError"),
    ("bam-3", lambda Mc, Ms, how: torch.zeros(5, 3),
     "should return (3, 5): (B, C) with B=3 pictures, C=5 channels"),
    ("bam-3", lambda Mc, Ms, how: by_autograd(Ms, Mc, how), "the slope along Ms"),
    ("bam-4", lambda M, o: on_object_at(M, o, mode="nearest"), "not yet"),
    ("bam-4", lambda M, o: F.adaptive_max_pool2d(o.float(), M.shape[1:]).mul(M).sum(
        (1, 2)) / M.sum((1, 2)), "as soon as one of its pixels is the object's"),
    ("bam-5", lambda C, r: 3 * C * C // r + 18 * (C // r) ** 2, "should return"),
    ("bam-6", gradient_left, "leaves a gradient on its input"),
    ("bam-6", lambda f, x, at: gradient_at(f, x, at).clamp(min=0), "is cut off"),
    ("bam-7", (1, 3, 7), "Three layers can do better"),
    ("bam-8", asserts, "It should raise a ValueError"),
    ("bam-8", lambda a, eps: F.layer_norm(a, a.shape[1:], eps=eps), "not yet"),
    ("bam-9", lambda Mc, Ms: (torch.sign(Mc)[:, :, None, None] != torch.sign(Ms)[
        :, None]).float().mean((1, 2, 3)), "are off"),
])
def test_what_a_student_may_also_try_is_wrong_and_told(key, answer, told):
    verdict = check(key, answer)
    assert not verdict and told in flat(verdict)


def on_object_at(M, o, mode):
    share = F.interpolate(o[:, None].float(), M.shape[1:], mode=mode)[:, 0]
    return (M * share).sum((1, 2)) / M.sum((1, 2))
