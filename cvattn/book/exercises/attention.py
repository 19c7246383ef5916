"""The exercises of the chapter "What attention is", and the mistakes they know."""

import math
from functools import partial
from numbers import Real

import torch
from torch import Tensor, nn

from cvattn.bam import BAM
from cvattn.book.exercises.exercise import Exercise, Says, Wrong, rand
from cvattn.cbam import SpatialAttention
from cvattn.se import SE


def shares(*shape: int, seed: int) -> Tensor:
    return rand(*shape, seed=seed).softmax(-1)


def whole(*shape: int, seed: int, size: float = 10) -> Tensor:
    """Return whole numbers of both signs: their products and sums are exact."""
    return (size * rand(*shape, seed=seed)).round()


def unsafe(a, dim):
    """A softmax that does not take the largest score off."""
    return a.exp() / a.exp().sum(dim, keepdim=True)


# attention-1: soften ------------------------------------------------------------

def soften(a, tau):
    return (a / tau).softmax(dim=1)


SOFTEN = Exercise(
    name="soften",
    reference=soften,
    right="Each row sums to 1, cold or hot. softmax takes the largest score off first, "
    "so that no exponential overflows.",
    given="a tau",
    axes="NM",
    cases=lambda: [
        (2 * rand(3, 5, seed=1), 0.5),
        (rand(2, 7, seed=2), 4.0),
        (300 * rand(3, 4, seed=3), 2.0),
        (rand(3, 4, seed=4) + torch.tensor([[0.0], [-900.0], [900.0]]), 1.5),
        (rand(1, 6, seed=5), 0.25),
        (rand(4, 1, seed=6), 3.0),
        (rand(2, 3, seed=7), 0.01),
    ],
    wrong=(
        Wrong(
            lambda a, tau: (a * tau).softmax(1),
            "The scores are multiplied by tau. Divide: a high temperature makes the "
            "scores small and the weights alike.",
        ),
        Wrong(
            lambda a, tau: a.softmax(1),
            "This is the softmax at temperature 1, whatever tau is. Divide the scores "
            "by tau first.",
        ),
        Wrong(
            lambda a, tau: (a / tau).softmax(0),
            "The columns sum to 1: every key shares itself out among the questions. "
            "Each question (row) shares among the keys, so normalise along axis 1.",
        ),
        Wrong(
            lambda a, tau: (a / tau).flatten().softmax(0).view_as(a),
            "All entries together sum to 1. Each row is a question of its own: "
            "normalise along axis 1 alone.",
        ),
        Wrong(
            lambda a, tau: torch.sigmoid(a / tau),
            "This is a sigmoid: each score is judged by itself, and nothing makes a "
            "row sum to 1.",
        ),
        Wrong(
            lambda a, tau: (a / tau).exp(),
            "These are the exponentials before they are shared out: divide each row "
            "by its sum.",
        ),
        Wrong(
            lambda a, tau: (a / tau).log_softmax(1),
            "This is the logarithm of the weights, as a loss would want it. Here the "
            "weights themselves are asked for.",
        ),
        Wrong(
            lambda a, tau: a.softmax(1) / tau,
            "The weights are divided by tau, not the scores: the rows no longer sum to "
            "1 and are no hotter. Divide before the softmax.",
        ),
        Wrong(
            lambda a, tau: unsafe(a / tau, 1),
            "Right for small scores. With large ones exp overflows to infinity, or all "
            "of a row underflows to 0, and the division gives NaN: take each row's "
            "largest score off first, as softmax does.",
        ),
        Wrong(
            lambda a, tau: unsafe(a / tau - (a / tau).max(), 1),
            "One largest score is taken off all rows. Where a row lies far below it, "
            "all of its exponentials underflow to 0: each row has a largest score of "
            "its own.",
        ),
        Wrong(
            lambda a, tau: (a / math.sqrt(tau)).softmax(1),
            "The scores are divided by the root of tau. Divide by tau itself.",
        ),
        Wrong(
            lambda a, tau: (-a / tau).softmax(1),
            "The sign of the scores is turned: the lowest score gets the most.",
        ),
        Wrong(
            lambda a, tau: a / tau / (a / tau).sum(1, keepdim=True),
            "The scores are divided by their sum. Scores have any sign, so such shares "
            "can be negative or huge; the exponential makes them positive first.",
        ),
    ),
)


# attention-2: lookup ------------------------------------------------------------

def rows(a):
    return a.softmax(1)


def lookup(q, k, v, *, scale=math.sqrt, f=rows):
    return f(q @ k.T / scale(q.shape[1])) @ v


LOOKUP = Exercise(
    name="lookup",
    reference=lookup,
    right="Two matrix products with a softmax between them: this is the attention of "
    "the Transformer, one head of it.",
    given="q k v",
    axes="NV",
    cases=lambda: [
        (rand(3, 8, seed=11), rand(5, 8, seed=12), rand(5, 2, seed=13)),
        (rand(4, 16, seed=14), rand(7, 16, seed=15), rand(7, 3, seed=16)),
        (rand(1, 4, seed=17), rand(6, 4, seed=18), rand(6, 3, seed=19)),
        (rand(3, 4, seed=17), rand(1, 4, seed=18), rand(1, 5, seed=19)),
        (whole(5, 4, seed=17), whole(3, 4, seed=18, size=30), rand(3, 1, seed=19)),
    ],
    wrong=(
        Wrong(
            lambda q, k, v: lookup(q, k, v, scale=lambda d: 1),
            "The scores are not divided by sqrt(d). The longer the vectors, the "
            "colder such a softmax gets.",
        ),
        Wrong(
            lambda q, k, v: lookup(q, k, v, scale=lambda d: d),
            "The scores are divided by d. Their standard deviation grows like sqrt(d), "
            "so divide by that.",
        ),
        Wrong(
            lambda q, k, v: lookup(q, k, v, scale=lambda d: 1 / math.sqrt(d)),
            "The scores are multiplied by sqrt(d). Divide by it.",
        ),
        Wrong(
            lambda q, k, v: lookup(q, k, v, scale=lambda d: math.sqrt(len(k))),
            "The scores are divided by the root of the number of keys. It is d, the "
            "length of a key, that makes dot products large.",
        ),
        Wrong(
            lambda q, k, v: lookup(q, k, v, f=partial(torch.softmax, dim=0)),
            "The softmax runs over the questions. Each question shares itself among "
            "the keys: normalise each row, axis 1.",
        ),
        Wrong(
            lambda q, k, v: lookup(q, k, v, f=torch.sigmoid),
            "The weights are sigmoids, which need not sum to 1, so the result is no "
            "mean of the values. Use a softmax over the keys.",
        ),
        Wrong(
            lambda q, k, v: lookup(q, k, v, f=lambda a: a),
            "The scores weigh the values as they are: the normaliser is missing.",
        ),
        Wrong(
            lambda q, k, v: lookup(q, k, v, scale=lambda d: 1) / math.sqrt(q.shape[1]),
            "The result is divided by sqrt(d). Divide the scores, before the softmax; "
            "it is a temperature.",
        ),
        Wrong(
            lambda q, k, v: (q @ k.T / math.sqrt(q.shape[1])).softmax(1),
            "These are the weights. The last step is missing: mix the values by them.",
        ),
        Wrong(
            lambda q, k, v: lookup(q, k, k),
            "The keys are mixed. They only serve to compute scores; what is mixed is "
            "the values.",
        ),
        Wrong(
            lambda q, k, v: (-torch.cdist(q, k).square() / 2).softmax(1) @ v,
            "These scores are by nearness. Here the keys differ in length, so that is "
            "not the same as the dot product divided by sqrt(d).",
        ),
        Wrong(
            lambda q, k, v: (-torch.cdist(q, k).square() / 2
                             / math.sqrt(q.shape[1])).softmax(1) @ v,
            "These scores are by nearness. Here the keys differ in length, so that is "
            "not the same as the dot product, at any temperature.",
        ),
        Wrong(
            lambda q, k, v: lookup(q, k, v, scale=lambda d: math.sqrt(len(q))),
            "The scores are divided by the root of the number of questions, "
            "q.shape[0]. It is d, the length of a question, that makes dot products "
            "large.",
        ),
        Wrong(
            lambda q, k, v: lookup(q, k, v, f=partial(unsafe, dim=1)),
            "Right for small scores. With large ones exp overflows to infinity, or all "
            "of a row underflows to 0, and the division gives NaN: take each row's "
            "largest score off first, as softmax does.",
        ),
        Wrong(
            lambda q, k, v: lookup(q, k, v).squeeze(),
            "The values are right, but `squeeze()` drops every axis of length 1: with "
            "one question the answer should still be (1, d_v).",
        ),
        Wrong(
            lambda q, k, v: lookup(q, k, v, scale=lambda d: math.sqrt(v.shape[1])),
            "The scores are divided by the root of d_v, the length of a value. It is "
            "d, the length of a key, that makes dot products large.",
        ),
    ),
)


# attention-3: raised ------------------------------------------------------------

def raised(p, m, delta):
    column = torch.zeros_like(p)
    column[:, m] = delta
    w = p * column.exp()
    return w / w.sum(dim=1, keepdim=True)


def only(p, m, value):
    """Return p with another column m."""
    out = p.clone()
    out[:, m] = value
    return out


def row_sums(w):
    return w.sum(dim=1, keepdim=True)


def scaled_row(p, m, delta):
    w = p.clone()
    w[m] *= math.exp(delta)
    return w / row_sums(w)


def evenly(p, m, delta):
    """Column m is right; what it gained is taken evenly from the others."""
    gain = raised(p, m, delta)[:, m] - p[:, m]
    out = p - gain[:, None] / (p.shape[1] - 1)
    return only(out, m, p[:, m] + gain)


RAISED = Exercise(
    name="raised",
    reference=raised,
    right="The scores were never needed. Only the ratio of weight m to the rest moved, "
    "by e^delta; the ratios among the rest stayed.",
    given="p m delta",
    axes="NM",
    cases=lambda: [
        (shares(3, 5, seed=21), 2, 1.5), (shares(2, 7, seed=22), 0, -2.0),
        (shares(4, 3, seed=23), 1, 0.25), (shares(1, 6, seed=24), 5, 20.0),
        (shares(3, 4, seed=25), 3, -20.0), (shares(2, 1, seed=26), 0, 3.0),
    ],
    wrong=(
        Wrong(
            lambda p, m, delta: only(p, m, p[:, m] * math.exp(delta)),
            "Weight m is multiplied by e^delta, as it should be, but then the row no "
            "longer sums to 1: share it out again.",
        ),
        Wrong(
            lambda p, m, delta: only(p, m, p[:, m] + delta),
            "delta is added to the weight. It belongs to the score; the weight feels "
            "it through an exponential.",
        ),
        Wrong(
            lambda p, m, delta: only(p, m, p[:, m] + delta) / row_sums(
                only(p, m, p[:, m] + delta)),
            "delta is added to the weight, and the row shared out again. It belongs to "
            "the score: weight m is multiplied by e^delta.",
        ),
        Wrong(
            lambda p, m, delta: only(p, m, p[:, m] + delta).softmax(1),
            "The weights are treated as if they were scores. Scores with the same "
            "softmax would be p.log().",
        ),
        Wrong(
            lambda p, m, delta: only(p, m, raised(p, m, delta)[:, m]),
            "Weight m is right, and the others have not moved. That is how a sigmoid "
            "behaves; in a softmax they pay.",
        ),
        Wrong(
            evenly,
            "Weight m is right, but the others lose the same amount each. They lose in "
            "proportion: their ratios stay.",
        ),
        Wrong(
            lambda p, m, delta: only(p, m, p[:, m] * (1 + delta)) / row_sums(
                only(p, m, p[:, m] * (1 + delta))),
            "Weight m grows by the factor 1 + delta. That is e^delta for a tiny delta "
            "only.",
        ),
        Wrong(
            lambda p, m, delta: only(p, m, p[:, m] * delta) / row_sums(
                only(p, m, p[:, m] * delta)),
            "Weight m is multiplied by delta. A score enters through the exponential: "
            "the factor is e^delta.",
        ),
        Wrong(
            lambda p, m, delta: raised(p, m, -delta),
            "The sign of delta is turned: the weight falls where the score rises.",
        ),
        Wrong(
            lambda p, m, delta: only(p, m, p[:, m] * math.exp(delta)) / only(
                p, m, p[:, m] * math.exp(delta)).sum(0),
            "The columns are shared out again, not the rows. Each row is one question "
            "and sums to 1.",
        ),
        Wrong(
            lambda p, m, delta: raised(p.T, m, delta).T,
            "Row m is raised, and the columns are shared out. Axis 1 holds the keys: "
            "raise column m, p[:, m].",
        ),
        Wrong(
            scaled_row,
            "Row m is scaled, p[m], all of it, and sharing it out again undoes that. "
            "Axis 1 holds the keys: scale column m, p[:, m].",
        ),
        Wrong(
            lambda p, m, delta: p * math.exp(delta) / row_sums(p * math.exp(delta)),
            "Every score is raised, and that changes nothing: what is the same for all "
            "cancels. Raise score m alone.",
        ),
    ),
)


# attention-4: through -----------------------------------------------------------

def through(p, g):
    return p * (g - (p * g).sum(dim=1, keepdim=True))


def less_than_a_jacobian(p, g):
    """Room for a few tensors like p side by side, and for no M x M numbers."""
    return max(4 * p.numel(), p.shape[1] ** 2 - 1)


THROUGH = Exercise(
    name="through",
    reference=through,
    right="J is symmetric, so J^T g = p * (g - p.g): each weight compares its own g "
    "with the mean that the weights themselves give. M numbers a row do, not M^2.",
    given="p g",
    axes="NM",
    cases=lambda: [
        (shares(3, 5, seed=31), rand(3, 5, seed=32)),
        (shares(2, 7, seed=33), rand(2, 7, seed=34)),
        (shares(1, 6, seed=35), 300 * rand(1, 6, seed=36)),
        (shares(4, 1, seed=37), rand(4, 1, seed=38)),
        ((300 * rand(3, 4, seed=39)).softmax(1), rand(3, 4, seed=40)),
        (shares(2, 31, seed=41), rand(2, 31, seed=42)),
    ],
    room=less_than_a_jacobian,
    wrong=(
        Wrong(
            lambda p, g: p * (1 - p) * g,
            "This is the sigmoid's rule, the diagonal of J alone. In a softmax a score "
            "also moves the weights of the others, by -p_m p_n.",
        ),
        Wrong(
            lambda p, g: p * g,
            "This is diag(p) g. The other half of the Jacobian, -p p^T g, is missing.",
        ),
        Wrong(
            lambda p, g: p * (g - g.mean(1, keepdim=True)),
            "The plain mean of g is taken off. It is the mean weighed by p that "
            "belongs there: (p * g).sum.",
        ),
        Wrong(
            lambda p, g: p * (g - g.sum(1, keepdim=True)),
            "The sum of g is taken off, without weights: -p p^T g is -p times the sum "
            "of p * g.",
        ),
        Wrong(
            lambda p, g: p * (g - (p * g).sum(0, keepdim=True)),
            "The sum runs over the questions. Each row has its own Jacobian: sum along "
            "axis 1.",
        ),
        Wrong(
            lambda p, g: p * (g - (p * g).sum()),
            "The sum runs over the whole batch. Each row has its own Jacobian: sum "
            "along axis 1, and keep the axis.",
        ),
        Wrong(
            lambda p, g: p * g - (p * g).sum(1, keepdim=True),
            "The second term lacks its p: it is p times the sum, so the result of "
            "each row sums to zero.",
        ),
        Wrong(
            lambda p, g: g - (p * g).sum(1, keepdim=True),
            "The p in front is missing: a weight near zero hardly moves, whatever its "
            "g.",
        ),
        Wrong(
            lambda p, g: p * (p * g).sum(1, keepdim=True),
            "This is p p^T g, the second term alone. The first, p * g, is missing.",
        ),
        Wrong(
            lambda p, g: p * (g - (g.softmax(1) * g).sum(1, keepdim=True)),
            "The mean of g is weighed by the softmax of g. It is p that weighs it.",
        ),
        Wrong(
            lambda p, g: through(p.softmax(1), g),
            "A softmax is taken of p, which is one already.",
        ),
        Wrong(
            lambda p, g: -through(p, g),
            "The sign is turned.",
        ),
        Wrong(
            lambda p, g: p * (g + (p * g).sum(1, keepdim=True)),
            "The two terms are added. Off the diagonal J is negative: the others pay.",
        ),
    ),
)


# attention-5: place_weights -----------------------------------------------------

def place_weights(a):
    b = a.mean(dim=1, keepdim=True)
    return b.flatten(1).softmax(dim=1).view_as(b)


PLACE_WEIGHTS = Exercise(
    name="place_weights",
    reference=place_weights,
    right="One weight for each place, ready to multiply, and all places of a picture "
    "compete.",
    given="a",
    axes="BCHW",
    cases=lambda: [(rand(3, 5, 7, 11, seed=41),), (rand(2, 13, 5, 3, seed=42),),
                   (rand(1, 4, 3, 2, seed=43),), (rand(3, 1, 2, 4, seed=44),),
                   (rand(2, 3, 1, 4, seed=45),), (rand(4, 3, 1, 1, seed=46),),
                   (whole(2, 4, 3, 5, seed=47, size=300),),
                   (rand(2, 3, 2, 4, seed=48)
                    + torch.tensor([-300.0, 300.0])[:, None, None, None],)],
    wrong=(
        Wrong(
            lambda a: a.mean(1, keepdim=True).softmax(3),
            "The softmax runs along each row of pixels, so every row sums to 1. All "
            "places of a picture should compete: flatten height and width first.",
        ),
        Wrong(
            lambda a: a.mean(1, keepdim=True).softmax(2),
            "The softmax runs down each column of pixels, so every column sums to 1. "
            "All places of a picture should compete: flatten first.",
        ),
        Wrong(
            lambda a: a.mean(1, keepdim=True).softmax(2).softmax(3),
            "One softmax after the other is not a softmax over both axes: the second "
            "treats weights as scores. Flatten height and width, and use one.",
        ),
        Wrong(
            lambda a: a.mean(1, keepdim=True).softmax(1),
            "The softmax runs over the channel axis, which has length 1 by now: every "
            "weight is 1.",
        ),
        Wrong(
            lambda a: a.mean((2, 3), keepdim=True).softmax(1),
            "These are weights for channels: the mean is over the places. Average over "
            "the channels, axis 1.",
        ),
        Wrong(
            lambda a: a.mean(1, keepdim=True).flatten().softmax(0).view_as(a[:, :1]),
            "The places of all pictures compete with one another: one picture's "
            "weights depend on who stands beside it. Keep the batch axis apart.",
        ),
        Wrong(
            lambda a: a.flatten(1).softmax(1).view_as(a).mean(1, keepdim=True),
            "The softmax comes before the mean, over channels and places together. "
            "First one score for each place, then the softmax.",
        ),
        Wrong(
            lambda a: a.flatten(2).softmax(2).view_as(a).mean(1, keepdim=True),
            "Each channel has a softmax of its own, and the weights are averaged. "
            "First average the scores, then take one softmax.",
        ),
        Wrong(
            lambda a: torch.sigmoid(a.mean(1, keepdim=True)),
            "This is a sigmoid: each place by itself, and no fixed sum.",
        ),
        Wrong(
            lambda a: a.mean(1).flatten(1).softmax(1).unflatten(1, a.shape[2:]),
            "The values are right, but the channel axis is gone: (B, H, W) would not "
            "line up with (B, C, H, W). Keep it, with length 1.",
        ),
        Wrong(
            lambda a: unsafe(a.mean(1, keepdim=True), (2, 3)),
            "Right for small scores. With large ones exp overflows, and the division "
            "gives NaN: take each picture's largest score off first, as softmax does.",
        ),
        Wrong(
            lambda a: place_weights(a.amax(1, keepdim=True)),
            "The largest score of each place is taken. The mean over the channels is "
            "asked for.",
        ),
        Wrong(
            lambda a: place_weights(a).squeeze(),
            "The values are right, but `squeeze()` drops every axis of length 1. The "
            "result is (B, 1, H, W), also for one picture or one row.",
        ),
        Wrong(
            lambda a: place_weights(a) * a,
            "This is the map after its weights. The weights themselves are asked for.",
        ),
        Wrong(
            lambda a: place_weights(a * a.shape[1]),
            "The channels are summed, not averaged: with many channels the softmax "
            "gets C times as cold.",
        ),
    ),
)


# attention-6: weighs ------------------------------------------------------------

WORDS = {(True, False): "channel", (False, True): "place", (True, True): "both",
         (False, False): "nothing"}


def spread(s, *axes):
    return (s.amax(axes) - s.amin(axes)).max().item()


def weighs(gate, x, *, channel=(1,), place=(2, 3), room=1e-5, words=WORDS,
           look=lambda gate, x: gate(x).expand_as(x)):
    s = look(gate, x)
    return words[spread(s, *channel) > room, spread(s, *place) > room]


def by_shape(gate, x):
    s = gate(x)
    return WORDS[s.shape[1] > 1, s.shape[2] > 1 or s.shape[3] > 1]


def by_first(gate, x):
    s = gate(x).expand_as(x)[:1]
    return WORDS[spread(s, 1) > 1e-5, spread(s, 2, 3) > 1e-5]


def by_corner(gate, x):
    s = gate(x).expand_as(x)
    return WORDS[spread(s[:, :, 0, 0], 1) > 1e-5, spread(s[:, 0], 1, 2) > 1e-5]


def by_variance(gate, x):
    s = gate(x).expand_as(x)
    return WORDS[bool((s.var(1) > 1e-5).any()), bool((s.var((2, 3)) > 1e-5).any())]


def by_means(gate, x):
    s = gate(x).expand_as(x)
    return WORDS[spread(s.mean((0, 2, 3)), 0) > 1e-5,
                 spread(s.mean((0, 1)), 0, 1) > 1e-5]


def gate_cases():
    x = rand(3, 8, 5, 7, seed=51)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(52)
        se, sa = SE(8, reduction=2), SpatialAttention(8)
        bam = BAM(8, reduction=2).eval()
        for weight in (se.W1.weight, se.W2.weight, sa.f.weight):
            nn.init.normal_(weight)
    noise = 1e-7 * rand(1, 8, 5, 7, seed=53)
    one = rand(1, 3, 4, 2, seed=54)
    spot = torch.full_like(x, -0.5)
    spot[2, 3, 2, 4] = 0.9                  # in the last picture, one channel and place
    faint = torch.full((8, 1, 1), 0.5)
    faint[5] += 5e-5
    rows = torch.linspace(0.1, 0.9, 5).view(1, 1, 5, 1)
    columns = torch.linspace(0.1, 0.9, 7).view(1, 1, 1, 7)
    # Differences that cancel: in means over places and channels, and over pictures.
    steps = torch.linspace(-1, 1, 8).view(1, 8, 1, 1)
    crossed = 0.5 + 0.4 * steps * torch.linspace(-1, 1, 5).view(1, 1, 5, 1)
    turned = 0.5 + torch.tensor([0.2, -0.2, 0.0]).view(3, 1, 1, 1) * steps
    gates = (
        se.gate,
        sa.gate,
        bam.gate,
        lambda x: se.gate(x).expand_as(x),                  # its shape says "both"
        lambda x: torch.full_like(x, 0.5),                  # and this one's
        lambda x: torch.sigmoid(x.mean((1, 2, 3), keepdim=True)),   # by picture alone
        lambda x: sa.gate(x) + noise,                       # rounding
        lambda x: rows.expand(len(x), 1, 5, 7),
        lambda x: columns.expand(len(x), 1, 5, 7),
        lambda x: crossed.expand(len(x), 8, 5, 1),
        lambda x: turned,
        lambda x: spot,
        lambda x: faint,
        lambda x: torch.tensor(2.0),
    )
    cases = [(quiet(gate), x) for gate in gates]
    return [*cases, (lambda x: torch.tanh(x.mean((2, 3), keepdim=True)), one),
            (lambda x: -3 * x.mean(1, keepdim=True), one)]


def quiet(gate):
    def run(x):
        with torch.no_grad():
            return gate(x)
    return run


WEIGHS = Exercise(
    name="weighs",
    reference=weighs,
    right="A gate's shape is a promise, its values are the fact. This function finds "
    '"channel attention weighs space" in a second.',
    given="gate x",
    cases=gate_cases,
    wrong=(
        Wrong(
            by_shape,
            "This reads the shape of the gate. A gate of shape (B, C, H, W) can be the "
            "same everywhere: look at the values.",
        ),
        Wrong(
            partial(weighs, look=lambda gate, x: gate(x) * x),
            "This looks at the gated map, which varies along every axis because x "
            "does. Look at the gate alone.",
        ),
        Wrong(
            by_means,
            "This compares means: over places, over channels, over the batch. "
            "Differences cancel in a mean. Compare first, and then take the largest "
            "difference.",
        ),
        Wrong(
            by_first,
            "Only the first picture of the batch is looked at. A gate can be flat for "
            "one picture and not for the next.",
        ),
        Wrong(
            by_corner,
            "The channels are compared at the first place alone, and the places in the "
            "first channel alone. Compare everywhere, and take the largest difference.",
        ),
        Wrong(
            by_variance,
            "Variances are compared with 1e-5. A variance is a square, and a mean over "
            "all: compare the largest difference.",
        ),
        Wrong(
            partial(weighs, room=1e-3),
            "The tolerance is too wide: only differences below 1e-5 are rounding.",
        ),
        Wrong(
            partial(weighs, room=0.0),
            "This asks for exact equality. Rounding makes numbers differ that mean the "
            "same: call differences below 1e-5 none.",
        ),
        Wrong(
            partial(weighs, place=(3,)),
            "Only differences along a row of pixels are seen. A gate that differs "
            "from row to row weighs places too: look at axes 2 and 3.",
        ),
        Wrong(
            partial(weighs, place=(2,)),
            "Only differences down a column of pixels are seen. A gate that differs "
            "from column to column weighs places too: look at axes 2 and 3.",
        ),
        Wrong(
            partial(weighs, words={(b, a): w for (a, b), w in WORDS.items()}),
            '"channel" and "place" are exchanged. A gate that differs along axis 1 '
            "weighs channels.",
        ),
        Wrong(
            partial(weighs, channel=(0, 1), place=(0, 2, 3)),
            "Differences between pictures are counted. A gate may differ from picture "
            "to picture and still weigh nothing within one: leave axis 0 out.",
        ),
        Wrong(
            partial(weighs, words={**WORDS, (False, False): "both"}),
            'A gate that is the same for every channel and place weighs "nothing".',
        ),
        Wrong(
            partial(weighs, words={**WORDS, (True, True): "channel"}),
            'A gate that differs between channels and also between places weighs '
            '"both"; this stops at the channels.',
        ),
        Wrong(
            partial(weighs, words={**WORDS, (True, True): "place"}),
            'A gate that differs between places and also between channels weighs '
            '"both"; this stops at the places.',
        ),
    ),
)


# attention-7: temperature -------------------------------------------------------

def temperature(a, top):
    low, high = 1e-3, 1e3
    for _ in range(200):
        tau = math.sqrt(low * high)
        cold = (a.double() / tau).softmax(0).max() > top
        low, high = (tau, high) if cold else (low, tau)
    return math.sqrt(low * high)


def run_temperature(answer, a, top):
    tau = answer(a, top)
    if tau is None or tau is ...:
        return tau
    if isinstance(tau, Tensor) and tau.numel() == 1 and tau.is_floating_point():
        tau = tau.item()
    if not isinstance(tau, Real) or isinstance(tau, bool):
        raise Says("Return one number, the temperature tau.")
    if not 0 < tau < math.inf:
        raise Says(f"A temperature is positive and finite, and this is {tau:.3g}.")
    if math.isclose(tau, temperature(a, top), rel_tol=6e-4):     # four digits
        return "tau, to four digits"
    found = f"{(a.double() / tau).softmax(0).max():.3f}"
    if found == f"{top:.3f}":
        raise Says(f"For top = {top}, this tau, {tau:.6g}, is near and not yet right "
                   "to four significant digits.")
    raise Says(f"For top = {top}, this tau makes the largest weight {found}.")


def gap(a):
    first, second = a.topk(2).values.tolist()
    return first - second


TEMPERATURE = Exercise(
    name="temperature",
    reference=temperature,
    right="The largest weight falls steadily from 1 to 1/M as tau grows, so halving an "
    "interval finds the only tau there is.",
    given="a top",
    cases=lambda: [(rand(5, seed=61), 0.5), (rand(9, seed=62), 0.9),
                   (10 * rand(4, seed=63), 0.3), (rand(2, seed=65), 0.7),
                   (300 * rand(6, seed=64), 0.45), (rand(3, seed=66) - 300, 0.999)],
    call=run_temperature,
    wrong=(
        Wrong(
            lambda a, top: 1 / temperature(a, top),
            "This is 1/tau. Scores are divided by the temperature.",
        ),
        Wrong(
            lambda a, top: temperature(a, 1 - top),
            "This tau leaves the share top to all the others together: the largest "
            "weight is 1 - top.",
        ),
        Wrong(
            lambda a, top: gap(a) / math.log(top / (1 - top)) if top > 0.5 else gap(a),
            "This takes the two best scores alone for the whole competition. The "
            "others have weights too; search for tau by halving an interval.",
        ),
        Wrong(
            lambda a, top: 1.0,
            "At tau = 1 the weights are the plain softmax, whatever top is.",
        ),
        Wrong(
            lambda a, top: top,
            "This is top itself, a weight. Asked is the temperature that makes the "
            "largest weight equal to it.",
        ),
        Wrong(
            lambda a, top: 1e-3,
            "This is the coldest end of the search: the interval is halved the wrong "
            "way. Where the largest weight is above top, tau has to rise.",
        ),
        Wrong(
            lambda a, top: 1e3,
            "This is the hottest end of the search: the interval is halved the wrong "
            "way. Where the largest weight is below top, tau has to fall.",
        ),
        Wrong(
            lambda a, top: temperature(a, 1 / top / len(a)) if top * len(a) > 1
            else 1.0,
            "This tau makes the largest weight 1 / (M top). The target is top itself.",
        ),
        Wrong(
            lambda a, top: a.max().item() / math.log(top / (1 - top) + 1e-9)
            if top > 0.5 else -1,
            "This is the tau at which a sigmoid of the best score would be top. Under "
            "a softmax the other scores count as well.",
        ),
    ),
)


# attention-8: pick --------------------------------------------------------------

def soft_of(a, v):
    return a.softmax(1) @ v


def hard_of(a, v):
    return v[a.argmax(1)]


def one_hot(a):
    return torch.nn.functional.one_hot(a.argmax(1), a.shape[1]).to(a.dtype)


def pick(a, v):
    return hard_of(a, v) + soft_of(a, v) - soft_of(a, v).detach()


VALUE, SLOPE = "the value", "the gradient of a"


def run_pick(answer, a, v):
    """Return the result, and the gradient that reaches the scores."""
    scores = a.clone().requires_grad_()
    y = answer(scores, v)
    if y is None or y is ...:
        return y
    slope = torch.zeros_like(a)
    if isinstance(y, Tensor) and y.requires_grad:
        g = rand(*y.shape, seed=71, dtype=y.dtype)
        slope, = torch.autograd.grad(y, scores, g, materialize_grads=True)
    return {VALUE: y, SLOPE: slope}


PICK = Exercise(
    name="pick",
    reference=pick,
    right="Forward it is the hard choice, backward the soft one: soft - soft.detach() "
    "is zero, and carries the slope.",
    given="a v",
    cases=lambda: [(rand(3, 5, seed=72), rand(5, 2, seed=73)),
                   (rand(4, 7, seed=74), rand(7, 3, seed=75)),
                   (rand(1, 6, seed=76), rand(6, 4, seed=77)),
                   (rand(3, 1, seed=76), rand(1, 2, seed=77)),
                   (300 * rand(2, 4, seed=76) - 300, rand(4, 3, seed=77))],
    call=run_pick,
    wrong=(
        Wrong(
            hard_of,
            "The value is the hard choice, and no gradient reaches the scores. Either "
            "argmax stands alone, or a soft term is added and taken off again without "
            "a detach, so that it cancels in the gradient too.",
        ),
        Wrong(
            soft_of,
            "This is the soft look-up, forward and backward. Forward, the value should "
            "be the best key's alone.",
        ),
        Wrong(
            lambda a, v: hard_of(a, v) + (soft_of(a, v) - hard_of(a, v)).detach(),
            "The value is the soft one, and no gradient reaches the scores. The two "
            "have changed places: soft should keep its gradient, and (hard - soft) be "
            "detached.",
        ),
        Wrong(
            lambda a, v: hard_of(a, v) - soft_of(a, v) + soft_of(a, v).detach(),
            "The value is right, and the gradient has the wrong sign: the soft term "
            "that keeps its gradient is the one that is taken off.",
        ),
        Wrong(
            lambda a, v: soft_of(a, v) + (soft_of(a, v) - hard_of(a, v)).detach(),
            "The difference is the wrong way round: soft + (soft - hard). It should "
            "bring soft to hard.",
        ),
        Wrong(
            lambda a, v: hard_of(a, v) + soft_of(a, v),
            "Hard and soft are added, so the value is too large. Take soft.detach() "
            "off again.",
        ),
        Wrong(
            lambda a, v: hard_of(a, v) + soft_of(a, v).detach(),
            "Hard and soft are added, and soft is detached: the value is too large, "
            "and no gradient passes. It is soft - soft.detach() that is added.",
        ),
        Wrong(
            lambda a, v: hard_of(a, v) + 2 * (soft_of(a, v) - soft_of(a, v).detach()),
            "The value is right, and the gradient is twice the soft one: the soft "
            "result is there once too often.",
        ),
        Wrong(
            lambda a, v: hard_of(a, v) + torch.sigmoid(a) @ v
            - (torch.sigmoid(a) @ v).detach(),
            "The value is right, but the gradient is that of sigmoids. The soft form "
            "of an argmax is the softmax.",
        ),
        Wrong(
            lambda a, v: v[a.argmin(1)] + soft_of(a, v) - soft_of(a, v).detach(),
            "This picks the key with the lowest score.",
        ),
        Wrong(
            lambda a, v: a.softmax(1).amax(1, keepdim=True) * hard_of(a, v),
            "The best value is scaled by its weight. It has a gradient, but the value "
            "is no longer the one in the dictionary.",
        ),
        Wrong(
            lambda a, v: v[a.argmax(0)[:1].expand(len(a))],
            "One row of v is given to all questions. Each has a best key of its own: "
            "argmax along axis 1.",
        ),
        Wrong(
            lambda a, v: (a + (one_hot(a) - a).detach()) @ v,
            "The value is right, but the gradient is that of the scores as weights. "
            "There is no softmax on the way back.",
        ),
    ),
)


# attention-9: alike -------------------------------------------------------------

ALIKE_FORM = (
    "Return three tensors (V, p, other): V of shape (M, d) with d at least 2, and two "
    "sets of M weights."
)
NEGATIVE = "A weight is negative. A softmax gives none below zero."
TOTAL = "The weights p and other should each sum to 1."
REPEATED = (
    "Two rows of V lie less than 0.1 apart. Shifting weight between equal values is "
    "too easy: make all values different."
)
DIFFERENT = "The two results differ: p @ V should equal other @ V to 1e-4."
NEAR = (
    "The results agree, but the weights are nearly the same: at least half of the "
    "weight should move, so that (p - other).abs().sum() / 2 is 0.5 or more."
)
FAVOURITE = (
    "Both sets have their largest weight on the same value, so they would be explained "
    "alike. Let them favour different ones."
)
FINITE = "There is a NaN or an infinity in the tensors. Give plain finite numbers."


def alike():
    V = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    p = torch.tensor([0.5, 0.5, 0.0, 0.0])
    other = torch.tensor([0.0, 0.0, 0.5, 0.5])
    return V, p, other


def judge_alike(answer):
    if not isinstance(answer, (tuple, list)) or len(answer) != 3 or not all(
            isinstance(part, Tensor) for part in answer):
        return ALIKE_FORM
    V, p, other = (part.detach().double() for part in answer)
    if V.ndim != 2 or V.shape[1] < 2 or not p.shape == other.shape == V.shape[:1]:
        return ALIKE_FORM
    if not all(part.isfinite().all() for part in (V, p, other)):
        return FINITE
    if min(p.min(), other.min()) < -1e-6:
        return NEGATIVE
    if max(abs(p.sum() - 1), abs(other.sum() - 1)) > 1e-4:
        return TOTAL
    apart = torch.cdist(V, V) + 9 * torch.eye(len(V), dtype=V.dtype)
    if apart.min() < 0.1:
        return REPEATED
    if (p @ V - other @ V).abs().max() > 1e-4:
        return DIFFERENT
    if (p - other).abs().sum() / 2 < 0.5 - 1e-6:
        return NEAR
    if p.argmax() == other.argmax():
        return FAVOURITE
    return None


def one_dimension():
    return torch.tensor([[1.0], [2.0], [3.0]]), torch.ones(3) / 3, torch.ones(3) / 3


def same_favourite():
    V = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 0.0]])
    return (V, torch.tensor([0.25, 0.25, 0.0, 0.0, 0.5]),
            torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0]))


ALIKE = Exercise(
    name="alike",
    reference=alike,
    right="One result, two stories about who decided it. Any d + 2 values in d "
    "dimensions allow such a pair.",
    given="",
    judge=judge_alike,
    wrong=(
        Wrong(one_dimension, ALIKE_FORM),
        Wrong(lambda: (alike()[0], alike()[1] * math.nan, alike()[2]), FINITE),
        Wrong(lambda: (alike()[0], torch.tensor([1.5, 0.5, -0.5, -0.5]), alike()[2]),
              NEGATIVE),
        Wrong(lambda: (alike()[0], 2 * alike()[1], alike()[2]), TOTAL),
        Wrong(lambda: (torch.ones(4, 2), *alike()[1:]), REPEATED),
        Wrong(lambda: (alike()[0], alike()[1], torch.tensor([1.0, 0.0, 0.0, 0.0])),
              DIFFERENT),
        Wrong(lambda: (alike()[0], alike()[1], alike()[1]), NEAR),
        Wrong(same_favourite, FAVOURITE),
    ),
)


EXERCISES = {
    "attention-1": SOFTEN, "attention-2": LOOKUP, "attention-3": RAISED,
    "attention-4": THROUGH, "attention-5": PLACE_WEIGHTS, "attention-6": WEIGHS,
    "attention-7": TEMPERATURE, "attention-8": PICK, "attention-9": ALIKE,
}
