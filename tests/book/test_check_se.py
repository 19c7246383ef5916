"""The exercises of the chapter on SE: other right answers, and near misses."""

import time

import pytest
import torch
from test_check import flat
from torch import nn
from torch.nn import functional as F

from cvattn.book import check, guard
from cvattn.book.exercises.se import EXERCISES, Repaired


def test_other_ways_to_be_right_are_right():
    assert check("se-1", lambda x: F.adaptive_avg_pool2d(x, 1).squeeze((2, 3)))
    assert check("se-3", lambda z, W1, W2: 1 / (1 + torch.exp(
        -(z @ W1.T).clamp(min=0) @ W2.T)))
    assert check("se-6", lambda: list(EXERCISES["se-6"].reference()))
    assert check("se-9", lambda place, r, c, a, x: {
        "standard": lambda: (c(x) + a(r(x))).relu(),
        "pre": lambda: (c(x) + r(a(x))).relu(),
        "post": lambda: a((c(x) + r(x)).relu()),
        "identity": lambda: (a(c(x)) + r(x)).relu()}.get(place, refuse)())


def refuse():
    raise ValueError("no such place")


@pytest.mark.parametrize("case", range(len(EXERCISES["se-8"].cases())))
def test_the_gates_of_the_swap_differ_from_one_another_and_from_a_half(case):
    """Or else a constant gate, or another picture's, would pass for x's own."""
    block, x, donor = EXERCISES["se-8"].cases()[case]
    gates = [block.attention.gate(block.residual(t)) for t in (x, donor)]
    assert ((gates[0] - gates[1]).abs() > 0.01).float().mean() > 0.5
    for s in gates:
        assert ((s - 0.5).abs() > 0.01).float().mean() > 0.5
        assert (s.std(dim=1) > 0.05).all()


class Asserts(Repaired):
    def __init__(self, channels, reduction):
        assert channels % reduction == 0, "no multiple"
        super().__init__(channels, reduction)


class Biased(Repaired):
    def __init__(self, channels, reduction):
        super().__init__(channels, reduction)
        self.W1 = nn.Linear(channels, channels // reduction)


def of_dict(place, r, c, a, x):
    return {"standard": (c(x) + a(r(x))).relu(), "pre": (c(x) + r(a(x))).relu(),
            "post": a((c(x) + r(x)).relu()), "identity": (a(c(x)) + r(x)).relu()}[place]


def by_autograd(x, W1, W2, g):
    with torch.enable_grad():
        W1 = W1.clone().requires_grad_()
        s = torch.sigmoid(torch.relu(x.mean((2, 3)) @ W1.T) @ W2.T)
        return torch.autograd.grad(x * s[:, :, None, None], W1, g)[0]


def with_gate(s):
    return lambda block, x, donor: torch.relu(
        block.shortcut(x) + block.residual(x) * s(block, x, donor))


@pytest.mark.parametrize("key, answer, told", [
    ("se-1", lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(),
     "drops every axis of length 1"),
    ("se-1", lambda x: nn.AdaptiveMaxPool2d(1)(x).flatten(1), "the largest pixel"),
    ("se-1", lambda x: x.mean((2, 3)).clamp(min=0), "are off"),
    ("se-2", lambda c, r, bias: c * c / r * 2, "Divide whole numbers with //"),
    ("se-2", lambda c, r, bias: 2 * (c * (c // r) + bias), "one number for each layer"),
    ("se-3", lambda z, W1, W2: torch.relu(z @ W1.T).matmul(W2.T).exp() / (
        1 + torch.relu(z @ W1.T).matmul(W2.T).exp()), "infinity over infinity"),
    ("se-3", lambda z, W1, W2: F.hardsigmoid(F.relu(z @ W1.T) @ W2.T), "are off"),
    ("se-4", Asserts, "It should raise a ValueError"),
    ("se-4", Biased, "has a bias now"),
    ("se-5", by_autograd, "but by way of autograd"),
    ("se-5", lambda x, W1, W2, g: torch.zeros(4), "should return (2, 10): (D, C)"),
    ("se-6", lambda: torch.ones(1, 1, 6, 6), "Return three tensors"),
    ("se-7", lambda r, stages: 2 * 256**2 // r * len(stages), "should return"),
    ("se-8", with_gate(lambda block, x, donor: 0.5), "Every gate is a half"),
    ("se-8", with_gate(lambda block, x, donor: 0.7), "are off"),
    ("se-8", with_gate(lambda block, x, donor: block.attention.gate(block.residual(
        donor))[:1]), "not yet"),
    ("se-9", of_dict, "It should raise a ValueError"),
    ("se-9", lambda *args: of_dict("post", *args[1:]), "not yet"),
    ("se-10", lambda: [0.8, 0.9], "Return a dict with three entries"),
])
def test_what_a_student_may_also_try_is_wrong_and_told(key, answer, told):
    verdict = check(key, answer)
    assert not verdict and told in flat(verdict)


def test_a_project_may_take_longer_than_an_answer(monkeypatch):
    report = EXERCISES["se-10"].reference()

    def slow(*args):
        time.sleep(0.6)
        return report

    monkeypatch.setattr(guard, "LIMIT", 0.2)
    monkeypatch.setattr(guard, "ASLEEP", 2)
    assert check("se-10", slow)
    assert "did not come to an end within 0.2 seconds" in flat(check("se-1", slow))
