"""The exercises of "What attention is": other right answers, and near misses."""

import math

import pytest
import torch
from test_check import flat
from torch import nn
from torch.nn import functional as F

from cvattn.book import check
from cvattn.book.exercises.attention import EXERCISES, gate_cases, spread, temperature
from cvattn.transformer import attention, weights


def test_other_ways_to_be_right_are_right():
    assert check("attention-1", lambda a, tau: torch.exp(
        a / tau - torch.logsumexp(a / tau, 1, keepdim=True)))
    assert check("attention-2", attention)
    assert check("attention-2", lambda q, k, v: F.scaled_dot_product_attention(q, k, v))
    assert check("attention-2", lambda q, k, v: weights(q, k) @ v)
    assert check("attention-3", lambda p, m, delta: (
        p.log() + delta * F.one_hot(torch.tensor(m), p.shape[1])).softmax(1))
    assert check("attention-4", lambda p, g: torch.einsum(
        "nm, nmk -> nk", g, p.diag_embed() - p[:, :, None] * p[:, None]))
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
                     "place", "place", "place", "both", "channel"]
    gate, x = gate_cases()[6]
    s = gate(x)
    assert 0 < spread(s - s.mean(1, keepdim=True), 1) < 1e-5, "rounding, and no more"


def test_scores_too_large_for_an_exponential_are_told():
    text = flat(check("attention-1", lambda a, tau: (a / tau).exp()
                      / (a / tau).exp().sum(1, keepdim=True)))
    assert "returned NaN in" in text and "exp or log of a number too large" in text


def test_differences_that_cancel_in_a_mean_are_still_differences():
    by_means = next(w for w in EXERCISES["attention-6"].wrong if "cancel" in w.message)
    cases = gate_cases()
    for case, wanted in ((9, "both"), (10, "channel")):
        gate, x = cases[case]
        assert EXERCISES["attention-6"].reference(gate, x) == wanted
        assert by_means.answer(gate, x) == "nothing"


def test_one_maximum_for_all_rows_is_not_enough():
    text = flat(check("attention-1", lambda a, tau: (a / tau - (a / tau).max()).exp()
                      / (a / tau - (a / tau).max()).exp().sum(1, keepdim=True)))
    assert "returned NaN in 8 of 12 places" in text


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
    (lambda a, v: v, "should return a tensor of shape (3, 2)"),
    (lambda a, v: a.argmax(1), "should return a tensor of shape (3, 2)"),
    (lambda a, v: v[a.argmax(1)].long(), "floating point"),
])
def test_what_is_no_choice_is_told(answer, told):
    assert told in flat(check("attention-8", answer))
