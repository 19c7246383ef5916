"""Tests of the tests: plausible wrong SKs, and which test catches each.

Every mutant is SK with one mistake. A test of values must catch all of them; a test
of shapes sees two.
"""

import pytest
import torch
from test_sk import same_gradient, same_values, seeded, some
from torch import nn, relu

from cvattn import SK

SHAPE = (2, 6, 5, 3)


def mean(U):
    return sum(U_m.mean(dim=(2, 3)) for U_m in U)


def z(sk, s):
    return relu(sk.bn(sk.W(s)))


def scores(sk, U):
    return sk.A(z(sk, mean(U))).unflatten(1, (len(U), -1))


def mixed(a, U):
    """V for a (B, M, C)."""
    return sum(a[:, m, :, None, None] * U[m] for m in range(len(U)))


def correct(sk, U):
    return mixed(scores(sk, U).softmax(1), U)


def of_score(change):
    """A mutant by what becomes of s; change(sk, U) gives what A reads."""
    return lambda sk, U: mixed(
        sk.A(change(sk, U)).unflatten(1, (len(U), -1)).softmax(1), U)


def of_weights(change):
    """A mutant by what becomes of the scores (B, M, C) instead of the softmax."""
    return lambda sk, U: mixed(change(scores(sk, U)), U)


MUTANTS = {
    # z
    "no BatchNorm on z": of_score(lambda sk, U: relu(sk.W(mean(U)))),
    "no ReLU on z": of_score(lambda sk, U: sk.bn(sk.W(mean(U)))),
    "neither BatchNorm nor ReLU on z": of_score(lambda sk, U: sk.W(mean(U))),
    "BatchNorm after the ReLU": of_score(lambda sk, U: sk.bn(relu(sk.W(mean(U))))),
    "z from the first branch only": of_score(lambda sk, U: z(sk, mean(U[:1]))),
    "z from the last branch only": of_score(lambda sk, U: z(sk, mean(U[-1:]))),
    "the mean of the branches for their sum":
        of_score(lambda sk, U: z(sk, mean(U) / len(U))),
    "the product of the branches for their sum":
        of_score(lambda sk, U: z(sk, (U[0] * U[1]).mean(dim=(2, 3)))),
    "the maximum of the branches for their sum":
        of_score(lambda sk, U: z(sk, torch.maximum(*U).mean(dim=(2, 3)))),
    "a maximum over places for the mean":
        of_score(lambda sk, U: z(sk, sum(U).amax(dim=(2, 3)))),
    "a sum over places for the mean":
        of_score(lambda sk, U: z(sk, sum(U).sum(dim=(2, 3)))),
    "the mean also over the batch":
        of_score(lambda sk, U: z(sk, mean(U).mean(0).expand(2, 6))),
    # The softmax
    "a softmax over the channels": of_weights(lambda e: e.softmax(2)),
    "a softmax over all 2C": of_weights(
        lambda e: e.flatten(1).softmax(1).view_as(e)),
    "a softmax over the batch": of_weights(lambda e: e.softmax(0)),
    "a sigmoid for the softmax": of_weights(torch.sigmoid),
    "no softmax": of_weights(lambda e: e),
    "a softmax with a temperature of the root of d":
        of_weights(lambda e: (e / 3 ** 0.5).softmax(1)),
    "the hardest choice": of_weights(
        lambda e: nn.functional.one_hot(e.argmax(1), 2).movedim(2, 1).double()),
    # The choice
    "the weights of the other branch": of_weights(lambda e: e.softmax(1).flip(1)),
    "the rows of A by channel first": of_weights(
        lambda e: e.flatten(1).unflatten(1, (-1, 2)).transpose(1, 2).softmax(1)),
    "the same weights for every channel":
        of_weights(lambda e: e.mean(2, keepdim=True).softmax(1).expand_as(e)),
    "the average of the branches": lambda sk, U: sum(U) / len(U),
    "the sum of the branches": lambda sk, U: sum(U),
    "the first branch alone": lambda sk, U: U[0],
    "the weights upon U": lambda sk, U: correct(sk, [sum(U)] * len(U)),
    "twice as much": lambda sk, U: len(U) * correct(sk, U),
    "the sum of the branches added": lambda sk, U: sum(U) + correct(sk, U),
    "the branches side by side": lambda sk, U: torch.cat(
        [a[:, :, None, None] * u
         for a, u in zip(scores(sk, U).softmax(1).unbind(1), U, strict=True)], dim=1),
}


def mutant(fuse):
    """An SK that makes V from the maps U_m by fuse(sk, U)."""

    class Mutant(SK):
        def forward(self, x):
            return fuse(self, self.split(x))

    return Mutant


def changed(change):
    """An SK whose second branch was changed after it was made: change(sk, F_1)."""

    class Mutant(SK):
        def __init__(self, channels, **kwargs):
            super().__init__(channels, **kwargs)
            change(self, self.F[1])

    return Mutant


def no_dilation(sk, F_1):
    F_1[0].dilation = F_1[0].padding = (1, 1)


def no_padding_for_the_dilation(sk, F_1):
    F_1[0].padding = (1, 1)


def double_dilation(sk, F_1):
    F_1[0].dilation = F_1[0].padding = (3, 3)


def no_relu(sk, F_1):
    F_1[2] = nn.Identity()


def leaky(sk, F_1):
    F_1[2] = nn.LeakyReLU(0.01)


def relu_first(sk, F_1):
    """Convolution, ReLU, BatchNorm; F[1][1] still names the BatchNorm."""
    F_1[1].register_forward_pre_hook(lambda module, inputs: (relu(inputs[0]),))
    F_1[2] = nn.Identity()


def shared_norm(sk, F_1):
    F_1[1].register_forward_hook(lambda module, inputs, y: sk.F[0][1](*inputs))


def second_after_first(sk, F_1):
    """A chain instead of two branches."""
    F_1.register_forward_pre_hook(lambda module, inputs: (sk.F[0](*inputs),))


def biased(sk, F_1):
    F_1[0].bias = nn.Parameter(torch.zeros(6))


def biased_W(sk, F_1):
    sk.W.bias = nn.Parameter(torch.zeros(len(sk.W.weight)))


def biased_A(sk, F_1):
    sk.A.bias = nn.Parameter(torch.zeros(len(sk.A.weight)))


def full_kernel(sk, F_1):
    """A true 5x5 kernel."""
    F_1[0] = nn.Conv2d(6, 6, 5, padding=2, groups=3, bias=False)


CHANGES = [no_dilation, no_padding_for_the_dilation, double_dilation, no_relu, leaky,
           relu_first, shared_norm, second_after_first, biased, biased_W, biased_A]
WRONG = {name: mutant(fuse) for name, fuse in MUTANTS.items()} | {
    change.__name__: changed(change) for change in CHANGES}
SEEN_BY_SHAPE = {"the branches side by side", "no_padding_for_the_dilation"}


def keeps_shape(cls):
    try:
        return seeded(cls)(some(*SHAPE)).shape == SHAPE
    except RuntimeError:
        return False


@pytest.mark.parametrize("name", WRONG)
def test_values_catch_it(name):
    # Maps of different sizes cannot be added: there it is the call that fails.
    error = RuntimeError if name == "no_padding_for_the_dilation" else AssertionError
    with pytest.raises(error):
        same_values(WRONG[name], SHAPE)


@pytest.mark.parametrize("name", WRONG)
def test_shapes_do_not(name):
    assert keeps_shape(WRONG[name]) == (name not in SEEN_BY_SHAPE)


def test_most_mutants_pass_a_shape_test():
    assert len(SEEN_BY_SHAPE) < len(WRONG) / 10


def test_a_true_5x5_is_seen_by_its_size():
    """The shape of its output does not tell: 25 weights for 9."""
    wrong, right = seeded(changed(full_kernel)), seeded(SK)
    assert keeps_shape(changed(full_kernel))
    extra = sum(p.numel() for p in wrong.parameters()) - sum(
        p.numel() for p in right.parameters())
    assert extra == 16 * 6 * 2
    with pytest.raises(AssertionError):
        same_values(changed(full_kernel), SHAPE)


@pytest.mark.parametrize("training", [False, True])
def test_the_right_one_in_the_mutants_clothes_passes(training):
    for cls in (mutant(correct), changed(lambda sk, F_1: None)):
        same_values(cls, SHAPE, training)
        same_gradient(cls, (2, 6, 3, 2), training)


def test_weights_without_gradient_are_seen_by_the_gradient_alone():
    class Detached(SK):
        def forward(self, x):
            U = self.split(x)
            a = self.select(U)
            return mixed((a.detach() + 0 * a)[..., 0, 0], U)

    same_values(Detached, SHAPE)
    with pytest.raises(AssertionError):
        same_gradient(Detached, (2, 6, 3, 2))


def test_norms_of_one_picture_are_seen_in_training_alone():
    """Running statistics used in training: the same in eval."""
    class Frozen(SK):
        def select(self, U):
            self.bn.training = False
            a = super().select(U)
            self.bn.training = self.training
            return a

    same_values(Frozen, SHAPE)
    with pytest.raises(AssertionError):
        same_values(Frozen, SHAPE, training=True)
