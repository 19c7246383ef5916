"""Plausible wrong CBAMs: the test of values must catch each; shapes catch few.

A mutant is a forward that reads m.channel and m.spatial and has one mistake.
"""

import pytest
import torch
from test_cbam import same_gradient, same_values
from torch import relu, sigmoid
from torch.nn.functional import conv2d, pad

from cvattn import CBAM
from cvattn.book.experiments.cbam_variants import CBAMVariant

SHAPE, PAIR = (5, 6, 3, 7), (2, 6, 3, 7)     # B, C, H, W: a batch of 2 hides more


def mutant(forward):
    class Mutant(CBAMVariant):         # which can have biases alone
        def forward(self, x):
            return forward(self, x)

    return Mutant


def mean(x):
    return x.mean((2, 3))


def top(x):
    return x.amax((2, 3))


def mlp(m, z):
    return m.channel.W1(relu(m.channel.W0(z)))


def spread(s):
    return s[:, :, None, None]


def mc(m, x):
    return spread(sigmoid(mlp(m, mean(x)) + mlp(m, top(x))))


def maps(x):
    return torch.cat([x.mean(1, True), x.amax(1, True)], 1)


def ms(m, x):
    return sigmoid(m.spatial.f(maps(x)))


def correct(m, x):
    x = mc(m, x) * x
    return ms(m, x) * x


def channel(a):
    """A CBAM whose Mc is a(m, x), what follows being right."""
    def forward(m, x):
        x = spread(a(m, x)) * x
        return ms(m, x) * x
    return forward


def spatial(gate):
    """A CBAM whose Ms is gate(m, F'), what comes before being right."""
    def forward(m, x):
        x = mc(m, x) * x
        return gate(m, x) * x
    return forward


def padded(mode):
    def gate(m, x):
        return sigmoid(conv2d(pad(maps(x), (1, 1, 1, 1), mode), m.spatial.f.weight))
    return spatial(gate)


def max_of_two(m, x):
    return torch.maximum(mlp(m, mean(x)), mlp(m, top(x)))


def no_relu(m, z):
    return m.channel.W1(m.channel.W0(z))


def one_bias(m, x):
    W0, W1 = m.channel.W0, m.channel.W1
    return W1(relu(W0(mean(x))) + relu(W0(top(x))))


def flat_maps(x):
    """The source's SA1 and SA2: without keepdim the heights are stacked."""
    return torch.cat([x.mean(1), x.amax(1)], 1)


MUTANTS = {
    # The channel half.
    "max and max":                                                     # CA1
        channel(lambda m, x: sigmoid(mlp(m, top(x)) + mlp(m, top(x)))),
    "mean and mean": channel(lambda m, x: sigmoid(mlp(m, mean(x)) + mlp(m, mean(x)))),
    "the mean alone, as in SE": channel(lambda m, x: sigmoid(mlp(m, mean(x)))),
    "a sum for the mean":
        channel(lambda m, x: sigmoid(mlp(m, x.sum((2, 3))) + mlp(m, top(x)))),
    "the larger of the two outputs for their sum":
        channel(lambda m, x: sigmoid(max_of_two(m, x))),
    "the product of the two outputs":
        channel(lambda m, x: sigmoid(mlp(m, mean(x)) * mlp(m, top(x)))),
    "mean and maximum added before the MLP":
        channel(lambda m, x: sigmoid(mlp(m, mean(x) + top(x)))),
    "the average of the two outputs":
        channel(lambda m, x: sigmoid((mlp(m, mean(x)) + mlp(m, top(x))) / 2)),
    "the sum of two sigmoids":
        channel(lambda m, x: sigmoid(mlp(m, mean(x))) + sigmoid(mlp(m, top(x)))),
    "the product of two sigmoids":
        channel(lambda m, x: sigmoid(mlp(m, mean(x))) * sigmoid(mlp(m, top(x)))),
    "the second bias once": channel(lambda m, x: sigmoid(one_bias(m, x))),
    "no ReLU":
        channel(lambda m, x: sigmoid(no_relu(m, mean(x)) + no_relu(m, top(x)))),
    "a ReLU too many":
        channel(lambda m, x: sigmoid(relu(mlp(m, mean(x)) + mlp(m, top(x))))),
    "a softmax over the channels":
        channel(lambda m, x: (mlp(m, mean(x)) + mlp(m, top(x))).softmax(1)),
    "the maximum of |x|":
        channel(lambda m, x: sigmoid(mlp(m, mean(x)) + mlp(m, top(x.abs())))),
    "the gates of the next picture":
        channel(lambda m, x: mc(m, x)[..., 0, 0].roll(1, 0)),
    # The spatial half.
    "the maximum first": spatial(lambda m, x: sigmoid(m.spatial.f(maps(x).flip(1)))),
    "the maximum twice":
        spatial(lambda m, x: sigmoid(
            m.spatial.f(x.amax(1, True).expand(-1, 2, -1, -1)))),
    "a sum over the channels":
        spatial(lambda m, x: sigmoid(
            m.spatial.f(torch.cat([x.sum(1, True), x.amax(1, True)], 1)))),
    "a flipped kernel": spatial(lambda m, x: sigmoid(
        conv2d(maps(x), m.spatial.f.weight.flip(2, 3), padding=1))),
    "a transposed kernel": spatial(lambda m, x: sigmoid(
        conv2d(maps(x), m.spatial.f.weight.mT, padding=1))),
    "the border repeated": padded("replicate"),
    "the border mirrored": padded("reflect"),
    "the border wrapped around": padded("circular"),
    "no border": spatial(lambda m, x: sigmoid(conv2d(maps(x), m.spatial.f.weight))),
    "a ReLU before the sigmoid":
        spatial(lambda m, x: sigmoid(relu(m.spatial.f(maps(x))))),
    "no sigmoid": spatial(lambda m, x: m.spatial.f(maps(x))),
    "a softmax over the places":
        spatial(lambda m, x: m.spatial.f(maps(x)).flatten(2).softmax(2).view(
            len(x), 1, *x.shape[2:])),
    "maps without the channel axis":                                   # SA1, SA2
        spatial(lambda m, x: sigmoid(m.spatial.f(flat_maps(x)))),
    # How they meet.
    "the spatial gate from x": lambda m, x: ms(m, x) * (mc(m, x) * x),
    "the other order": lambda m, x: mc(m, ms(m, x) * x) * (ms(m, x) * x),
    "the channel gate lost": lambda m, x: ms(m, mc(m, x) * x) * x,
    "the channel gate twice": lambda m, x: mc(m, x) * correct(m, x),
    "the gates added": lambda m, x: (mc(m, x) + ms(m, mc(m, x) * x)) * x,
    "the halves added": lambda m, x: mc(m, x) * x + ms(m, x) * x,
    "a residual": lambda m, x: x + correct(m, x),
    "no gate": lambda m, x: x,
}
SEEN_BY_SHAPE = {"no border", "maps without the channel axis"}


def keeps_shape(cls, shape):
    try:
        x = torch.randn(shape)
        return cls(6, reduction=2, kernel_size=3, bias=True)(x).shape == shape
    except RuntimeError:
        return False


@pytest.mark.parametrize("name", MUTANTS)
def test_values_catch_it(name):
    wrong = mutant(MUTANTS[name])
    with pytest.raises(AssertionError if name not in SEEN_BY_SHAPE else RuntimeError):
        same_values(wrong, SHAPE, kernel_size=3, bias=True)


@pytest.mark.parametrize("name", MUTANTS)
def test_shapes_do_not(name):
    assert keeps_shape(mutant(MUTANTS[name]), SHAPE) == (name not in SEEN_BY_SHAPE)


def test_most_mutants_pass_a_shape_test():
    assert len(SEEN_BY_SHAPE) < len(MUTANTS) / 10


def test_the_right_gates_in_the_mutants_clothes_pass():
    for forward in (correct, padded("constant")):
        same_values(mutant(forward), SHAPE, kernel_size=3, bias=True)
        same_gradient(mutant(forward), PAIR, kernel_size=3, bias=True)


def test_two_mlps_are_caught():
    class Unshared(CBAMVariant):
        """One MLP for the mean, another for the maximum."""

        def __init__(self, channels, **options):
            super().__init__(channels, **options)
            self.other = CBAMVariant(channels, **options).channel

        def forward(self, x):
            other = self.other.W1(relu(self.other.W0(top(x))))
            x = spread(sigmoid(mlp(self, mean(x)) + other)) * x
            return ms(self, x) * x

    assert keeps_shape(Unshared, SHAPE)
    with pytest.raises(AssertionError):
        same_values(Unshared, SHAPE, bias=True)


@pytest.mark.parametrize("right, wrong", [
    ("parallel", "channel-spatial"), ("channel-spatial", "parallel"),
    ("spatial-channel", "channel-spatial"),
])
def test_an_order_taken_for_another_is_caught(right, wrong):
    class Mutant(CBAMVariant):
        def forward(self, x):
            self.order = wrong
            return super().forward(x)

    with pytest.raises(AssertionError):
        same_values(Mutant, SHAPE, order=right)


@pytest.mark.parametrize("forward", [
    correct,
    spatial(lambda m, x: m.spatial.norm(sigmoid(m.spatial.f(maps(x))))),
    spatial(lambda m, x: sigmoid(relu(m.spatial.norm(m.spatial.f(maps(x)))))),
], ids=["no norm", "norm after the sigmoid", "a ReLU after the norm"])
@pytest.mark.parametrize("training", [True, False])
def test_a_norm_in_the_wrong_place_is_caught(forward, training):
    options = {"training": training, "norm": True}
    same_values(CBAMVariant, SHAPE, **options)
    same_values(CBAM, SHAPE, training=training, official=True)
    with pytest.raises(AssertionError):
        same_values(mutant(forward), SHAPE, **options)


@pytest.mark.parametrize("forward", [
    lambda m, x: (lambda F: ms(m, F) * F)(mc(m, x.detach()) * x),
    spatial(lambda m, x: ms(m, x.detach())),
    spatial(lambda m, x: ms(m, x).detach() + 0 * m.spatial.f(maps(x))),
], ids=["Mc blind to x", "Ms blind to F'", "Ms learns nothing"])
def test_a_lost_gradient_is_seen_by_the_gradient_alone(forward):
    same_values(mutant(forward), SHAPE)
    with pytest.raises(AssertionError):
        same_gradient(mutant(forward), PAIR)
