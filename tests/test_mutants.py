"""Tests of the tests: plausible wrong SEs, and which test catches each.

Every mutant has SE's parameters and is written with one mistake. A test of values
must catch all of them. A test of shapes catches almost none, which is why it is
not enough.
"""

import pytest
import torch
from test_se import same_gradient, same_values
from torch import relu, sigmoid

from cvattn import SE

SHAPE = (2, 6, 3, 7)
SQUARE = (6, 6, 6, 6)    # the careless choice: every axis has the same size


def mutant(gate):
    """An SE with another gate; gate(W1, W2, x) gives what x is multiplied by."""

    class Mutant(SE):
        def forward(self, x):
            return x * gate(self.W1, self.W2, x)

    return Mutant


def excited(W1, W2, z):
    return sigmoid(W2(relu(W1(z))))[:, :, None, None]


def mean(x):
    return x.mean(dim=(2, 3))


def correct(W1, W2, x):
    return excited(W1, W2, mean(x))


MUTANTS = {
    "a sum for the mean": lambda W1, W2, x: excited(W1, W2, x.sum(dim=(2, 3))),
    "a maximum for the mean": lambda W1, W2, x: excited(W1, W2, x.amax(dim=(2, 3))),
    "no ReLU": lambda W1, W2, x: sigmoid(W2(W1(mean(x))))[:, :, None, None],
    "the ReLU after the second layer":
        lambda W1, W2, x: sigmoid(relu(W2(W1(mean(x)))))[:, :, None, None],
    "a ReLU too many":
        lambda W1, W2, x: sigmoid(relu(W2(relu(W1(mean(x))))))[:, :, None, None],
    "a softmax for the sigmoid":
        lambda W1, W2, x: W2(relu(W1(mean(x)))).softmax(1)[:, :, None, None],
    "a hard sigmoid":
        lambda W1, W2, x: torch.nn.functional.hardsigmoid(W2(relu(W1(mean(x)))))[
            :, :, None, None],
    "no sigmoid": lambda W1, W2, x: W2(relu(W1(mean(x))))[:, :, None, None],
    "the gate applied twice": lambda W1, W2, x: correct(W1, W2, x) ** 2,
    "one plus the gate": lambda W1, W2, x: 1 + correct(W1, W2, x),
    "no gate": lambda W1, W2, x: 1.0,
    "the squeeze also over the batch":
        lambda W1, W2, x: excited(W1, W2, x.mean(dim=(0, 2, 3))[None]),
    "the gates of the next picture":
        lambda W1, W2, x: correct(W1, W2, x).roll(1, dims=0),
    "the gates in another order":
        lambda W1, W2, x: correct(W1, W2, x).flip(1),
    "the standard deviation for the mean":
        lambda W1, W2, x: excited(W1, W2, x.std(dim=(2, 3))),
    # Defects of the source, see the chapter: SE4 and SE5.
    "the sigmoid of x": lambda W1, W2, x: sigmoid(x),
    "the layers along the last axis": lambda W1, W2, x: sigmoid(W2(relu(W1(x)))),
    "the gate along the rows":
        lambda W1, W2, x: correct(W1, W2, x)[:, :, 0, 0][:, None, :, None],
    "the gate along the columns":
        lambda W1, W2, x: correct(W1, W2, x)[:, :, 0, 0][:, None, None, :],
}
# On sizes that differ, these three raise: the only ones a shape test can see.
SEEN_BY_SHAPE = {
    "the layers along the last axis", "the gate along the rows",
    "the gate along the columns",
}


def keeps_shape(cls, shape):
    try:
        return cls(6, reduction=2)(torch.randn(shape)).shape == shape
    except RuntimeError:
        return False


@pytest.mark.parametrize("name", MUTANTS)
def test_values_catch_it(name):
    # Where an axis does not fit, it is the call that fails, not the comparison.
    wrong = mutant(MUTANTS[name])
    with pytest.raises(AssertionError if name not in SEEN_BY_SHAPE else RuntimeError):
        same_values(wrong, SHAPE)
    with pytest.raises(AssertionError):
        same_values(wrong, SQUARE)


@pytest.mark.parametrize("name", MUTANTS)
def test_shapes_do_not(name):
    wrong = mutant(MUTANTS[name])
    assert keeps_shape(wrong, SHAPE) == (name not in SEEN_BY_SHAPE)
    assert keeps_shape(wrong, SQUARE), "with equal sizes nothing is caught"


def test_most_mutants_pass_a_shape_test():
    assert len(SEEN_BY_SHAPE) < len(MUTANTS) / 4


def test_the_right_gate_in_the_mutants_clothes_passes():
    same_values(mutant(correct), SHAPE)
    same_gradient(mutant(correct), SHAPE)


def test_a_gate_without_gradient_is_seen_by_the_gradient_alone():
    """The values are right; x and the weights learn nothing through the gate."""

    class Detached(SE):
        def forward(self, x):
            return x * (self.gate(x).detach() + 0 * self.gate(x))

    same_values(Detached, SHAPE)
    with pytest.raises(AssertionError):
        same_gradient(Detached, SHAPE)
