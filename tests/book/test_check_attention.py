"""The exercises of "What attention is": other right answers, and near misses."""

import math

import pytest
import torch
from test_check import flat
from torch import nn
from torch.nn import functional as F

from cvattn.book import check
from cvattn.book.exercises.attention import EXERCISES, gate_cases, spread, temperature
from cvattn.multihead import attention, weights


def test_other_ways_to_be_right_are_right():
    assert check("attention-1", lambda a, tau: torch.exp(
        a / tau - torch.logsumexp(a / tau, 1, keepdim=True)))
    assert check("attention-2", attention)
    assert check("attention-2", lambda q, k, v: F.scaled_dot_product_attention(q, k, v))
    assert check("attention-2", lambda q, k, v: weights(q, k) @ v)
    assert check("attention-3", lambda p, m, delta: (
        p.log() + delta * F.one_hot(torch.tensor(m), p.shape[1])).softmax(1))
    assert check("attention-4", lambda p, g: torch.addcmul(
        p * g, p, torch.einsum("nm, nm -> n", p, g)[:, None], value=-1))
    assert check("attention-5", lambda a: nn.Softmax2d()(
        a.mean(1, keepdim=True).flatten(2)[..., None].transpose(1, 2)
    ).reshape(len(a), 1, *a.shape[2:]))
    assert check("attention-7", lambda a, top: torch.tensor(temperature(a, top)))
    assert check("attention-9", (torch.tensor([[0.0, 0], [1, 0], [2, 0]]),
                                 torch.tensor([0.0, 1, 0]), torch.tensor([0.5, 0, 0.5])
                                 ))


def test_hand_written_gradient_equals_autograd():
    for p, g in EXERCISES["attention-4"].cases():
        a = p.log().requires_grad_()
        a.softmax(1).backward(g)
        torch.testing.assert_close(EXERCISES["attention-4"].reference(p, g), a.grad)


def test_raising_a_score_equals_the_softmax_of_raised_scores():
    for p, m, delta in EXERCISES["attention-3"].cases():
        a = p.log()
        a[:, m] += delta
        torch.testing.assert_close(
            EXERCISES["attention-3"].reference(p, m, delta), a.softmax(1))


def test_the_temperature_is_found_to_four_digits():
    for a, top in EXERCISES["attention-7"].cases():
        tau = temperature(a, top)
        assert (a.double() / tau).softmax(0).max().item() == pytest.approx(top, 1e-6)


def test_a_straight_through_answer_has_the_hard_value_and_the_soft_gradient():
    task = EXERCISES["attention-8"]
    for a, v in task.cases():
        a.requires_grad_()
        y = task.reference(a, v)
        torch.testing.assert_close(y, v[a.argmax(1)])
        g = torch.randn_like(y)
        torch.testing.assert_close(torch.autograd.grad(y, a, g),
                                   torch.autograd.grad(a.softmax(1) @ v, a, g))


def test_the_gates_cover_every_word_and_every_trap():
    words = [EXERCISES["attention-6"].reference(gate, x) for gate, x in gate_cases()]
    assert set(words) == {"channel", "place", "both", "nothing"}
    assert words == ["channel", "place", "both", "channel", "nothing", "nothing",
                     "place", "place", "place", "both", "channel", "both", "channel",
                     "nothing", "channel", "place"]
    gate, x = gate_cases()[6]
    s = gate(x)
    assert 0 < spread(s - s.mean(1, keepdim=True), 1) < 1e-5, "rounding, and no more"


def test_differences_that_cancel_in_a_mean_are_still_differences():
    by_means = next(w for w in EXERCISES["attention-6"].wrong if "cancel" in w.message)
    cases = gate_cases()
    for case, wanted in ((9, "both"), (10, "channel")):
        gate, x = cases[case]
        assert EXERCISES["attention-6"].reference(gate, x) == wanted
        assert by_means.answer(gate, x) == "nothing"


def test_a_search_that_ends_too_early_is_told_the_weight_it_found():
    text = flat(check("attention-7", lambda a, top: min(temperature(a, top), 2.0)))
    assert "For top = 0.3, this tau makes the largest weight 0." in text


@pytest.mark.parametrize("answer, told", [
    (lambda a, top: "hot", "Return one number"),
    (lambda a, top: True, "Return one number"),
    (lambda a, top: a, "Return one number"),
    (lambda a, top: -2.0, "positive and finite, and this is -2"),
    (lambda a, top: math.nan, "positive and finite"),
    (lambda a, top: math.inf, "positive and finite"),
])
def test_what_is_no_temperature_is_told(answer, told):
    assert told in flat(check("attention-7", answer))


@pytest.mark.parametrize("answer, told", [
    (lambda a, v: v, "should be of (3, 2)"),
    (lambda a, v: a.argmax(1), "should be of (3, 2)"),
    (lambda a, v: v[a.argmax(1)].long(), "should be float32"),
])
def test_what_is_no_choice_is_told(answer, told):
    assert told in flat(check("attention-8", answer))


def rounded(a, top):
    return float(f"{temperature(a, top):.4g}")


@pytest.mark.parametrize(
    "answer", [rounded, lambda a, top: torch.tensor(rounded(a, top))])
def test_a_temperature_of_four_digits_is_right(answer):
    assert check("attention-7", answer)


def test_a_temperature_of_three_digits_is_near_and_not_right():
    text = flat(check("attention-7", lambda a, top: float(f"{rounded(a, top):.2g}")))
    assert "four significant digits" in text or "largest weight" in text
    assert "0.500" not in text
    text = flat(check("attention-7", lambda a, top: 1.0015 * temperature(a, top)))
    assert "is near and not yet right to four significant digits" in text


def test_a_wrong_gradient_is_told_as_one():
    """The value has 2 columns and the scores have 5: no index may mix the two."""
    text = flat(check("attention-8", lambda a, v: (
        v[a.argmax(1)] + 3 * (a.softmax(1) @ v) - 3 * (a.softmax(1) @ v).detach())))
    assert "the value is right, but not the gradient of a, which has the right" in text


def built(p, g):
    return torch.einsum("nm, nmk -> nk", g, p.diag_embed() - p[:, :, None] * p[:, None])


def built_row_by_row(p, g):
    return torch.stack(
        [(q.diag() - q[:, None] * q) @ h for q, h in zip(p, g, strict=True)])


@pytest.mark.parametrize("answer", [built, built_row_by_row])
def test_a_jacobian_that_is_built_is_told(answer):
    text = flat(check("attention-4", answer))
    assert "returns the right values, but makes a tensor of more than" in text


def naive(a):
    return a.exp() / a.exp().sum(1, keepdim=True)


@pytest.mark.parametrize("key, answer, told", [
    ("attention-1", lambda a, tau: naive(a / tau), "exp overflows to infinity"),
    ("attention-1", lambda a, tau: naive(a / tau - (a / tau).max()),
     "One largest score is taken off all rows"),
    ("attention-1", lambda a, tau: (a / tau).softmax(1).squeeze(),
     "should return (1, 6)"),
    ("attention-1", lambda a, tau: (a / tau).softmax(1).round(decimals=2), "are off"),
    ("attention-1", lambda a, tau: (a / (1 + tau)).softmax(1), "values are off"),
    ("attention-2", lambda q, k, v: naive(q @ k.T / q.shape[1] ** 0.5) @ v,
     "exp overflows to infinity"),
    ("attention-2", lambda q, k, v: (q @ k.T / len(q) ** 0.5).softmax(1) @ v,
     "the number of questions"),
    ("attention-2", lambda q, k, v: (q @ k.T / q.shape[1] ** 0.5).softmax(1).max(
        1, keepdim=True).values * v[:1], "values are off"),
    ("attention-3", lambda p, m, delta: (p + delta).softmax(1), "values are off"),
    ("attention-3", lambda p, m, delta: p.index_fill(
        1, torch.tensor([m]), math.exp(delta)), "values are off"),
    ("attention-4", lambda p, g: p * g - p.square() * g, "the sigmoid's rule"),
    ("attention-5", lambda a: naive(a.mean(1, keepdim=True).flatten(1)).view(
        len(a), 1, *a.shape[2:]), "exp overflows"),
    ("attention-5", lambda a: a.mean(1).flatten(1).softmax(1).view(
        -1, *a.shape[2:])[:, None].squeeze(), "drops every axis of length 1"),
    ("attention-6", lambda gate, x: "channel" if gate(x)[0].std() > 1e-5 else "nothing",
     "not yet"),
    ("attention-6", lambda gate, x: weighs_first(gate, x), "Only the first picture"),
    ("attention-7", lambda a, top: a.std().item(), "this tau makes the largest weight"),
    ("attention-8", lambda a, v: v[a.argmax(1)] + (a.softmax(1) @ v).detach(),
     "no gradient passes"),
    ("attention-9", lambda: [torch.eye(2), torch.ones(2) / 2, torch.ones(2) / 2],
     "the weights are nearly the same"),
    ("attention-9", lambda: (torch.eye(2), torch.ones(2) / 2), "Return three tensors"),
])
def test_what_a_student_may_also_try_is_wrong_and_told(key, answer, told):
    verdict = check(key, answer)
    assert not verdict and told in flat(verdict)


def by_deviation(gate, x):
    s = gate(x).expand_as(x)
    channel, place = (bool(((s - s.mean(axes, keepdim=True)).abs() > 5e-6).any())
                      for axes in ((1,), (2, 3)))
    return {(True, True): "both", (True, False): "channel", (False, True): "place"}.get(
        (channel, place), "nothing")


def test_rounding_in_a_mean_convicts_no_right_answer():
    assert check("attention-6", by_deviation)


def weighs_first(gate, x):
    s = gate(x).expand_as(x)[0]
    channel, place = s.std(0).max() > 1e-6, s.flatten(1).std(1).max() > 1e-6
    return {(1, 1): "both", (1, 0): "channel", (0, 1): "place"}.get(
        (int(channel), int(place)), "nothing")
