"""Plausible wrong BAMs: the test of values must catch each; shapes catch few.

A mutant is a forward that reads m.channel and m.spatial and has one mistake.
"""

import pytest
import torch
from test_bam import same_gradient, same_values
from torch import relu, sigmoid
from torch.nn.functional import conv2d, pad

from cvattn import BAM

SHAPE = (3, 6, 13, 11)      # B, C, H, W, with d = 4


def mutant(forward):
    class Mutant(BAM):
        def forward(self, x):
            return forward(self, x)

    return Mutant


def mean(x):
    return x.mean((2, 3))


def spread(a):
    return a[:, :, None, None]


def mc(m, x):
    c = m.channel
    return spread(c.norm(c.W1(relu(c.W0(mean(x))))))


def dilated(f, h, dilation=4, padding=4):
    return conv2d(h, f.weight, f.bias, padding=padding, dilation=dilation)


def ms(m, x, dilations=(4, 4), padding=(4, 4)):
    s = m.spatial
    h = relu(s.f0(x))
    for f, d, p in zip((s.f1, s.f2), dilations, padding, strict=True):
        h = relu(dilated(f, h, d, p))
    return s.norm3(s.f3(h))


def correct(m, x):
    return x + x * sigmoid(mc(m, x) + ms(m, x))


def channel(a):
    """A BAM whose Mc is a(m, x), the rest being right."""
    return lambda m, x: x + x * sigmoid(a(m, x) + ms(m, x))


def spatial(a):
    """A BAM whose Ms is a(m, x), the rest being right."""
    return lambda m, x: x + x * sigmoid(mc(m, x) + a(m, x))


def narrow(m, x):
    """Padding 1 under dilation 4: the map shrinks by 6 on each axis, twice."""
    return ms(m, x, padding=(1, 1))


def wrapped(m, x):
    s = m.spatial
    h = relu(s.f0(x))
    for f in (s.f1, s.f2):
        h = relu(dilated(f, pad(h, (4, 4, 4, 4), "circular"), padding=0))
    return s.norm3(s.f3(h))


def linear(m, x):
    s = m.spatial
    return s.norm3(s.f3(dilated(s.f2, dilated(s.f1, s.f0(x)))))


def one_dilated(m, x):
    s = m.spatial
    return s.norm3(s.f3(relu(dilated(s.f1, relu(s.f0(x))))))


def swapped(m, x):
    s = m.spatial
    return s.norm3(s.f3(relu(dilated(s.f1, relu(dilated(s.f2, relu(s.f0(x))))))))


def bare(m, x):
    """Ms without its last norm."""
    s = m.spatial
    return s.f3(relu(dilated(s.f2, relu(dilated(s.f1, relu(s.f0(x)))))))


MUTANTS = {
    # How the branches meet.
    "the product for the sum": lambda m, x: x + x * sigmoid(mc(m, x) * ms(m, x)),
    "the larger for the sum":
        lambda m, x: x + x * sigmoid(torch.maximum(mc(m, x), ms(m, x))),
    "no residual": lambda m, x: x * sigmoid(mc(m, x) + ms(m, x)),
    "the gate added": lambda m, x: x + sigmoid(mc(m, x) + ms(m, x)),
    "two sigmoids added":
        lambda m, x: x + x * (sigmoid(mc(m, x)) + sigmoid(ms(m, x))),
    "two sigmoids multiplied":
        lambda m, x: x + x * sigmoid(mc(m, x)) * sigmoid(ms(m, x)),
    "one after the other, as in CBAM":
        lambda m, x: x + (lambda F: F * sigmoid(ms(m, F)))(x * sigmoid(mc(m, x))),
    "no sigmoid": lambda m, x: x + x * (mc(m, x) + ms(m, x)),
    "a tanh for the sigmoid": lambda m, x: x + x * torch.tanh(mc(m, x) + ms(m, x)),
    "a softmax over the channels":
        lambda m, x: x + x * (mc(m, x) + ms(m, x)).softmax(1),
    "the channel branch alone": lambda m, x: x + x * sigmoid(mc(m, x)),
    "the spatial branch alone": lambda m, x: x + x * sigmoid(ms(m, x)),
    "the gate of the next picture":
        lambda m, x: x + x * sigmoid(mc(m, x) + ms(m, x)).roll(1, 0),
    # The channel branch.
    "a maximum for the mean": channel(lambda m, x: spread(
        m.channel.norm(m.channel.W1(relu(m.channel.W0(x.amax((2, 3)))))))),
    "a mean over H x H pixels only": channel(lambda m, x: mc(m, x[..., :11, :11])),
    "no ReLU in the MLP": channel(lambda m, x: spread(
        m.channel.norm(m.channel.W1(m.channel.W0(mean(x)))))),
    "a ReLU after the last norm": channel(lambda m, x: relu(mc(m, x))),     # BC4
    "no norm of the channels": channel(lambda m, x: spread(
        m.channel.W1(relu(m.channel.W0(mean(x)))))),
    "a sigmoid too early": channel(lambda m, x: sigmoid(mc(m, x))),
    "Mc along the columns":                                                 # BC5
        channel(lambda m, x: mc(m, x)[:, :, 0, 0][:, None, None, :]),
    # The spatial branch.
    "dilation 1": spatial(lambda m, x: ms(m, x, (1, 1), (1, 1))),
    "dilation 2": spatial(lambda m, x: ms(m, x, (2, 2), (2, 2))),
    "dilation 4 and then 1": spatial(lambda m, x: ms(m, x, (4, 1), (4, 1))),
    "padding 1": spatial(narrow),
    "the border wrapped around": spatial(wrapped),
    "no ReLU between the convolutions": spatial(linear),
    "one dilated convolution": spatial(one_dilated),
    "the dilated convolutions swapped": spatial(swapped),
    "no last norm": spatial(bare),                                          # BS5
    "a ReLU after Ms": spatial(lambda m, x: relu(ms(m, x))),
    "Ms from the channel-gated map":
        lambda m, x: x + x * sigmoid(mc(m, x) + ms(m, x * sigmoid(mc(m, x)))),
}
SEEN_BY_SHAPE = {"padding 1", "Mc along the columns"}


def keeps_shape(cls, shape):
    try:
        return cls(6, reduction=2).eval()(torch.randn(shape)).shape == shape
    except RuntimeError:
        return False


@pytest.mark.parametrize("name", MUTANTS)
def test_values_catch_it(name):
    wrong = mutant(MUTANTS[name])
    with pytest.raises(AssertionError if name not in SEEN_BY_SHAPE else RuntimeError):
        same_values(wrong, SHAPE)


@pytest.mark.parametrize("name", MUTANTS)
def test_shapes_do_not(name):
    assert keeps_shape(mutant(MUTANTS[name]), SHAPE) == (name not in SEEN_BY_SHAPE)


def test_most_mutants_pass_a_shape_test():
    assert len(SEEN_BY_SHAPE) < len(MUTANTS) / 10


def test_at_13_by_13_padding_1_runs_and_is_wrong():
    """13, 7, 1: the map ends as one place and is spread over the picture."""
    shape = (3, 6, 13, 13)
    assert keeps_shape(mutant(spatial(narrow)), shape)
    with pytest.raises(AssertionError):
        same_values(mutant(spatial(narrow)), shape)


def test_the_right_branches_in_the_mutants_clothes_pass():
    for forward in (correct, channel(mc), spatial(ms)):
        same_values(mutant(forward), SHAPE)
    same_gradient(mutant(correct), (2, 6, 5, 3))


@pytest.mark.parametrize("right", [False, True])
def test_a_norm_in_the_wrong_layer_is_caught(right):
    """The channel norm moved; 6 channels in and 6 hidden, so that it fits."""
    class Moved(BAM):
        def forward(self, x):
            self.channel.official = not right
            return super().forward(x)

    same_values(BAM, SHAPE, reduction=1, official=right)
    with pytest.raises(AssertionError):
        same_values(Moved, SHAPE, reduction=1, official=right)


def test_a_norm_with_the_wrong_statistics_is_caught():
    class Running(BAM):
        """In training mode, as if in eval."""

        def forward(self, x):
            self.eval()
            y = super().forward(x)
            self.train()
            return y

    same_values(BAM, SHAPE, training=True)
    with pytest.raises(AssertionError):
        same_values(Running, SHAPE, training=True)


@pytest.mark.parametrize("forward", [
    channel(lambda m, x: mc(m, x.detach())), spatial(lambda m, x: ms(m, x.detach())),
    spatial(lambda m, x: ms(m, x).detach() + 0 * ms(m, x)),
    lambda m, x: x.detach() + x * sigmoid(mc(m, x) + ms(m, x)),
], ids=["Mc blind to x", "Ms blind to x", "Ms learns nothing", "a blocked residual"])
def test_a_lost_gradient_is_seen_by_the_gradient_alone(forward):
    same_values(mutant(forward), SHAPE)
    with pytest.raises(AssertionError):
        same_gradient(mutant(forward), (2, 6, 5, 3))
