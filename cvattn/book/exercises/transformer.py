"""The exercises of the chapter "Attention Is All You Need", and known mistakes."""

import math
import weakref
from functools import partial

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cvattn.book.exercises.exercise import Exercise, Says, Wrong, rand

# transformer-1: look_back --------------------------------------------------------


def look_back(a, *, diagonal=0, dim=1):
    may = torch.ones(a.shape, dtype=torch.bool).tril(diagonal)
    return a.masked_fill(~may, -math.inf).softmax(dim)


def late(a, *, again=False):
    p = a.softmax(1).tril()
    return p / p.sum(1, keepdim=True) if again else p


def lower(a):
    return torch.ones(a.shape, dtype=torch.bool).tril()


def unsafe(a, may, *, room=0.0):
    """A masked softmax of bare exponentials."""
    e = a.exp() * may
    return e / (e.sum(1, keepdim=True) + room)


def filled(number):
    return lambda a: a.masked_fill(~lower(a), number).softmax(1)


def added(number):
    return lambda a: (a + number * (~lower(a)).float()).softmax(1)


LOUD = torch.tensor([[-300.0, 250.0, 300.0], [299.0, 300.0, -300.0], [1.0, -2.0, 0.5]])
MULTIPLIED = (
    "Minus infinity may be added or put in place, never multiplied: 0 times infinity "
    "is NaN. masked_fill puts it where it belongs.")


LOOK_BACK = Exercise(
    name="look_back",
    reference=look_back,
    right="What is forbidden is out before the softmax, so the rest of the row shares "
    "the whole, however large the forbidden scores were.",
    given="a",
    axes="N letters that ask, N letters that are asked",
    cases=lambda: [(rand(4, 4, seed=1),), (rand(6, 6, seed=2),),
                   (rand(3, 3, seed=3) + torch.tensor([0.0, 0.0, 200.0]),),
                   (rand(1, 1, seed=4),), (LOUD.clone(),),
                   (rand(5, 5, seed=5) - 300,), (rand(2, 2, seed=6) - 60,)],
    wrong=(
        Wrong(
            lambda a: a.masked_fill(lower(a), -math.inf).softmax(1),
            "The mask is the wrong way round: masked_fill fills where it is True, and "
            "here it is True where a letter may look. Each sees only what comes "
            "later, and the last one nothing: NaN. Was the ~ forgotten?",
        ),
        Wrong(
            lambda a: a.masked_fill(lower(a).tril(-1), -math.inf).softmax(1),
            "Each letter sees itself and what comes later. masked_fill fills where its "
            "mask is True: it should be True where one may not look, triu(1).",
        ),
        Wrong(
            lambda a: a.masked_fill(lower(a).T, -math.inf).softmax(1),
            "A letter may look at itself, too: the mask hides the diagonal with what "
            "comes later, triu() in place of triu(1). So the first letter, which sees "
            "nothing, becomes NaN.",
        ),
        *(Wrong(
            filled(number),
            f"Forbidden scores are set to {what}, a score like any other. Where the "
            "allowed ones are lower still, it gets weight. Minus infinity gets none.",
        ) for number, what in (
            (-1.0, "-1"), (-10.0, "-10"), (-100.0, "a low number, such as -100"))),
        *(Wrong(
            added(number),
            f"{what} is taken off the forbidden scores. One that is far above the "
            "others still gets weight: put minus infinity in its place.",
        ) for number, what in (
            (-10.0, "10"), (-100.0, "A large number, such as 100,"))),
        Wrong(
            lambda a: a.softmax(1) * lower(a) / (
                (a.softmax(1) * lower(a)).sum(1, keepdim=True) + 1e-8),
            "Masking after the softmax and sharing out again loses what underflowed: "
            "where a forbidden score is far above the others, nothing is left, and "
            "the 1e-8 only hides the 0/0.",
        ),
        Wrong(
            lambda a: unsafe(a, lower(a)),
            "exp overflows where scores are large, and underflows to 0 in a row of "
            "very low ones: NaN. Take each row's largest score off first, as softmax "
            "does.",
        ),
        Wrong(
            lambda a: look_back(a, diagonal=1),
            "Each letter also sees the next one, which is the one that it has to "
            "predict. The last one allowed is the letter itself: tril(), not tril(1).",
        ),
        Wrong(
            late,
            "The forbidden weights are zero, but after the softmax: they took part in "
            "the sum, and the rows no longer sum to 1.",
        ),
        Wrong(
            partial(late, again=True),
            "The softmax, or its maximum, sees the forbidden scores too, and the rest "
            "is shared out again. That is right as long as anything is left: where a "
            "forbidden score is far above the others, they underflow to zero, and the "
            "row is 0/0, NaN. Mask first.",
        ),
        Wrong(
            lambda a: (a + torch.ones_like(a).triu(1) * -math.inf).softmax(1),
            MULTIPLIED,
        ),
        Wrong(
            lambda a: a.tril().softmax(1),
            "The forbidden scores are set to 0. That is a score like any other, and "
            "e^0 = 1: set them to minus infinity.",
        ),
        Wrong(
            lambda a: look_back(a, dim=0),
            "The softmax runs down the columns, over the queries. Each row is one "
            "query's shares: axis 1.",
        ),
        Wrong(
            lambda a: a.softmax(1),
            "Nothing is hidden: every letter sees the whole text.",
        ),
        Wrong(
            lambda a: a.masked_fill(~torch.ones_like(a).tril().bool(), -math.inf),
            "These are still scores, with the forbidden ones at minus infinity. Their "
            "softmax, row by row, gives the weights.",
        ),
    ),
)


# transformer-2: hide -------------------------------------------------------------


def hide(a, may):
    seeing = may.any(1, keepdim=True)
    p = a.masked_fill(~may & seeing, -math.inf).softmax(1)
    return p.masked_fill(~seeing, 0.0)


def hide_cases():
    may = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]]).bool()
    other = torch.tensor([[1, 0, 1], [0, 1, 1], [0, 0, 0], [1, 1, 1]]).bool()
    loud = torch.tensor([[300.0, -300.0, 1.0, 100.0], [-300.0, 100.0, -299.0, 0.0],
                         [300.0, 299.0, -300.0, 0.0]])
    some = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0]]).bool()
    return [(rand(3, 5, seed=11), may), (rand(4, 3, seed=12), other),
            (rand(1, 4, seed=13), torch.tensor([[False, True, True, False]])),
            (rand(3, 1, seed=14), torch.tensor([[True], [False], [True]])),
            (loud, some),
            (rand(2, 6, seed=15), torch.ones(2, 6, dtype=torch.bool))]


NOWHERE = (
    "Right where there is something to see. A row that may look nowhere is minus "
    "infinity throughout, and its softmax 0/0: NaN. It should be zeros.")
QUERIES = "The softmax runs over the queries. Each row is one query: axis 1."


def low(number):
    return lambda a, may: a.masked_fill(~may, number).softmax(1) * may


HIDE = Exercise(
    name="hide",
    reference=hide,
    right="A row that may look nowhere takes nothing, and no NaN leaves it to spoil "
    "the rest.",
    given="a may",
    axes="NM",
    cases=hide_cases,
    wrong=(
        Wrong(
            lambda a, may: a.softmax(1) * may / (
                (a.softmax(1) * may).sum(1, keepdim=True) + 1e-8),
            "The softmax, or its maximum, sees the hidden scores too, and the row is "
            "shared out again. Where a hidden score is far above the others, all that "
            "may be seen has underflowed to 0 by then. Hide before the softmax.",
        ),
        Wrong(
            lambda a, may: (a.softmax(1) * may) / (a.softmax(1) * may).sum(
                1, keepdim=True),
            "The mask comes after the softmax, and the row is shared out again: 0/0, "
            "NaN, in a row that may look nowhere, and where a hidden score is far "
            "above the others. Hide before the softmax.",
        ),
        *(Wrong(
            partial(unsafe, room=room),
            f"{what} overflows or underflows where scores are in the hundreds. Take "
            "each row's largest score that may be seen off first: mask, and then "
            "softmax.",
        ) for what, room in (
            ("exp without a maximum, shared out with 1e-8 in the sum,", 1e-8),
            ("exp without a maximum", 0.0))),
        Wrong(
            lambda a, may: low(-100.0)(a, may),
            "Hidden scores are set to a low number, such as -100, and their weights to "
            "0 after the softmax. Where what may be seen scores lower, they have taken "
            "the weight.",
        ),
        Wrong(
            lambda a, may: (a + ~may * -math.inf).softmax(1),
            MULTIPLIED,
        ),
        Wrong(
            lambda a, may: a.masked_fill(~may, -math.inf).softmax(1),
            NOWHERE,
        ),
        Wrong(
            lambda a, may: a.masked_fill(~may, -1e9).softmax(1),
            "With a very low number in place of minus infinity a row that may look "
            "nowhere has equal scores, and shares itself among all that is hidden.",
        ),
        Wrong(
            lambda a, may: hide(a, ~may),
            "The mask is turned round: True says that a query may look. (PyTorch's "
            "nn.MultiheadAttention means the contrary.)",
        ),
        Wrong(
            lambda a, may: a.softmax(1) * may,
            "The mask comes after the softmax: the hidden keys took part in the sum, "
            "and rows no longer sum to 1.",
        ),
        Wrong(
            lambda a, may: (a * may).softmax(1),
            "Hidden scores become 0, a score like any other. Minus infinity is what "
            "the softmax turns into no weight.",
        ),
        Wrong(
            lambda a, may: a.masked_fill(~may, -math.inf).softmax(0).nan_to_num(),
            QUERIES,
        ),
        Wrong(
            lambda a, may: a.masked_fill(~may, -math.inf).softmax(0),
            "The softmax runs over the queries, so a key that none may look at becomes "
            "NaN. Each row is one query: axis 1.",
        ),
        Wrong(
            lambda a, may: a.masked_fill(may, -math.inf).softmax(1),
            "The mask is the wrong way round, so that a query that may look everywhere "
            "becomes NaN. masked_fill fills where its mask is True: fill where ~may.",
        ),
        Wrong(
            lambda a, may: torch.sigmoid(a) * may,
            "These are sigmoids: what is hidden gets nothing, but the rest of a row "
            "does not share a sum of 1. Use a softmax.",
        ),
        Wrong(
            lambda a, may: a.softmax(1),
            "The mask is not used.",
        ),
    ),
)


# transformer-3: heads ------------------------------------------------------------


def heads(x, h):
    return x.view(len(x), h, -1).transpose(0, 1).contiguous()


HEADS = Exercise(
    name="heads",
    reference=heads,
    right="First name the two halves of the channel axis, then bring the heads to "
    "the front. Position n of each head is position n of x.",
    given="x h",
    axes="h heads, N positions, d channels of a head",
    cases=lambda: [(rand(5, 12, seed=21), 3), (rand(7, 8, seed=22), 4),
                   (rand(1, 6, seed=23), 2), (rand(4, 5, seed=24), 1),
                   (rand(2, 3, seed=25), 3)],
    wrong=(
        Wrong(
            lambda x, h: x.reshape(h, len(x), -1),
            "A bare view: the shape fits, but the first head got the first part of "
            "the text, chopped up, and not its own channels. View as (N, h, d), "
            "then exchange two axes.",
        ),
        Wrong(
            lambda x, h: x.view(len(x), h, -1),
            "The channels are shared out rightly, and the positions still come first. "
            "Exchange the first two axes.",
        ),
        Wrong(
            lambda x, h: x.view(len(x), -1, h).permute(2, 0, 1),
            "Each head got every h-th channel. It should get neighbours: channels 0 "
            "to d - 1 to the first head, and so on.",
        ),
        Wrong(
            lambda x, h: heads(x, h).transpose(1, 2),
            "Positions and entries are exchanged: each head should be (N, d), a row "
            "for each position.",
        ),
        Wrong(
            lambda x, h: x.expand(h, *x.shape),
            "Every head got all channels. They share them: d = D / h each.",
        ),
        Wrong(
            lambda x, h: heads(x, x.shape[1] // h),
            "There are D / h heads of h entries. It should be h heads of D / h.",
        ),
        Wrong(
            lambda x, h: heads(x, h).flip(0),
            "The heads are in the reverse order: the first gets the first channels.",
        ),
        Wrong(
            lambda x, h: x.T.reshape(h, len(x), -1),
            "Transposed first, and then viewed: a head's rows now hold one channel at "
            "many positions. View first, then exchange axes.",
        ),
    ),
)


# transformer-4: positions --------------------------------------------------------


def positions(t, D, *, base=10000.0, power=lambda i, D: 2 * i / D, first=torch.sin,
              second=torch.cos, sign=-1):
    i = torch.arange(D // 2)
    angle = t[:, None] * base ** (sign * power(i, D))
    return torch.stack([first(angle), second(angle)], dim=2).flatten(1)


POSITIONS = Exercise(
    name="positions",
    reference=positions,
    right="Pair i turns by omega_i from letter to letter. Any position has a code, "
    "also one that no training text ever reached.",
    given="t D",
    axes="N positions, D channels",
    cases=lambda: [(torch.arange(7.0), 8), (torch.tensor([3.0, 41.0, 0.0]), 6),
                   (torch.tensor([250.0]), 4), (torch.tensor([2.0, 5.0]), 2),
                   (torch.tensor([9.0, 20.0, 7.0, 11.0, 4.0]), 12)],
    wrong=(
        Wrong(
            lambda t, D: torch.cat([positions(t, D)[:, ::2], positions(t, D)[:, 1::2]],
                                   dim=1),
            "All sines stand before all cosines, as in the authors' own code. The "
            "paper's equation lets them alternate: 2i is a sine, 2i + 1 its cosine.",
        ),
        Wrong(
            partial(positions, power=lambda i, D: i / D),
            "The exponent is i / D. It is 2i / D, with i from 0 to D/2 - 1, so that "
            "the last pair is about 10000 times as slow as the first.",
        ),
        Wrong(
            partial(positions, power=lambda i, D: 4 * i / D),
            "The channel number 2i was doubled once more. The pair of channels 2i and "
            "2i + 1 has the exponent 2i / D.",
        ),
        Wrong(
            partial(positions, sign=1),
            "The waves get faster and faster: the exponent lacks its minus, or the "
            "division.",
        ),
        Wrong(
            partial(positions, first=torch.cos, second=torch.sin),
            "Sine and cosine have changed places: even channels are sines.",
        ),
        Wrong(
            lambda t, D: positions(t + 1, D),
            "This is the code of the next position: t itself is the position, and "
            "position 0 has the code 0, 1, 0, 1, …",
        ),
        Wrong(
            partial(positions, base=1000.0),
            "The base is 1000. In the paper it is 10000.",
        ),
        Wrong(
            lambda t, D: torch.stack([f(t * 10000 ** (-i / D)) for i, f in zip(
                range(D), [torch.sin, torch.cos] * D, strict=False)], dim=1),
            "Every channel has a frequency of its own. The two of a pair share one, "
            "or they would not turn together.",
        ),
        Wrong(
            lambda t, D: positions(torch.arange(float(len(t))), D),
            "These are the codes of the positions 0 to N - 1. t holds the positions, "
            "any numbers in any order.",
        ),
        Wrong(
            lambda t, D: positions(torch.deg2rad(t), D),
            "The angles are taken for degrees. sin and cos want radians, and omega t "
            "is that.",
        ),
        Wrong(
            lambda t, D: positions(t, D).T,
            "Positions and channels are exchanged: a row for each position.",
        ),
        Wrong(
            partial(positions, second=torch.sin),
            "Both channels of a pair are sines. The second is a cosine: a sine alone "
            "does not tell which half of its wave it is on.",
        ),
        Wrong(
            partial(positions, power=lambda i, D: 2 * i / (D - 2)),
            "The exponent runs to 1 at the last pair, as in the authors' own code. The "
            "paper divides by D.",
        ),
    ),
)


# transformer-5: shifted ----------------------------------------------------------


def shifted(code, k, *, power=2, turn=1):
    D = code.shape[1]
    angle = k * 10000.0 ** (-power * torch.arange(D // 2) / D)
    s, c = code[:, ::2], code[:, 1::2]
    cos, sin = angle.cos(), turn * angle.sin()
    return torch.stack([cos * s + sin * c, cos * c - sin * s], dim=2).flatten(1)


def lost(code, k, f):
    """Change the pair after the shift."""
    y = shifted(code, k)
    return torch.stack(f(y[:, ::2], y[:, 1::2]), dim=2).flatten(1)


SHIFTED = Exercise(
    name="shifted",
    reference=shifted,
    right="Each pair turns by its own angle omega_i k, and nobody had to know t. That "
    "is a matrix, so a head can have it in its weights.",
    given="code k",
    axes="N positions, D channels",
    cases=lambda: [(positions(torch.tensor([0.0, 5.0, 33.0]), 8), 3),
                   (positions(torch.tensor([20.0, 60.0, 7.0, 8.0]), 6), -5),
                   (positions(torch.tensor([9.0]), 4), 40),
                   (positions(torch.tensor([3.0, 1.0]), 2), 1),
                   (positions(torch.tensor([4.0, 0.0, 2.0, 6.0, 1.0]), 12), 0)],
    wrong=(
        Wrong(
            partial(shifted, turn=-1),
            "This turns the other way: it is the code of the position k earlier. In "
            "the first row of the matrix the sine has a plus.",
        ),
        Wrong(
            lambda code, k: code + positions(torch.tensor([float(k)]),
                                             code.shape[1]),
            "Codes are added. The sine of a sum is not the sum of sines: turn each "
            "pair.",
        ),
        Wrong(
            lambda code, k: code.roll(-k, 0),
            "The rows are moved. What stands in the other rows are other positions, "
            "not those k later.",
        ),
        Wrong(
            lambda code, k: code.roll(-k, 1),
            "The channels are moved. The shift is of the position: each pair of "
            "channels turns.",
        ),
        Wrong(
            partial(shifted, power=1),
            "The frequencies are those of the exponent i / D. It is 2i / D for the "
            "pair of channels 2i and 2i + 1.",
        ),
        Wrong(
            partial(shifted, power=0),
            "Every pair turns by k radians. Pair i turns by omega_i k: slow hands "
            "turn less.",
        ),
        Wrong(
            lambda code, k: shifted(code, math.radians(k)),
            "k is taken for degrees. Pair i turns by omega_i k radians.",
        ),
        Wrong(
            lambda code, k: shifted(code, abs(k)),
            "The sign of k is lost: with a negative k the codes are those of earlier "
            "positions.",
        ),
        Wrong(
            lambda code, k: positions(torch.arange(float(len(code))) + k,
                                      code.shape[1]),
            "This takes the positions for 0 to N - 1. They are unknown, and any: turn "
            "the codes that you are given.",
        ),
        Wrong(
            lambda code, k: lost(code, k, lambda s, c: (c, s)),
            "Sine and cosine come out in each other's place.",
        ),
        Wrong(
            lambda code, k: code,
            "Nothing has moved.",
        ),
        Wrong(
            lambda code, k: torch.cat([shifted(code, k)[:, ::2],
                                       shifted(code, k)[:, 1::2]], 1),
            "The values are right and in another order: sine and cosine should "
            "alternate.",
        ),
    ),
)


# transformer-6: count ------------------------------------------------------------


def count(V, D, H, L, *, embeddings=1, attentions=3, bias=0, ffn_bias=1, norms=5,
          each_norm=2, last=0):
    attention = attentions * (4 * D * D + bias * 4 * D)
    ffn = 2 * (2 * D * H + ffn_bias * (H + D))
    return embeddings * V * D + L * (
        attention + ffn + norms * each_norm * D) + last * 4 * D


COUNT = Exercise(
    name="count",
    reference=count,
    right="Most of it is the feed-forward as soon as H = 4D: 8 D^2 against 4 D^2 for "
    "an attention.",
    given="V D H L",
    cases=lambda: [(37000, 512, 2048, 6), (45, 32, 64, 2), (7, 12, 20, 1)],
    wrong=(
        Wrong(
            partial(count, embeddings=3),
            "V D is counted three times. One matrix serves for letters read, letters "
            "written and logits.",
        ),
        Wrong(
            partial(count, embeddings=2),
            "V D is counted twice. One matrix serves for letters read, letters "
            "written and logits.",
        ),
        Wrong(
            partial(count, embeddings=0),
            "The embedding, V D, is missing.",
        ),
        Wrong(
            partial(count, attentions=2),
            "One attention a layer is missing: a decoder layer has two, its look back "
            "and the cross-attention.",
        ),
        Wrong(
            partial(count, attentions=2, norms=4),
            "The cross-attention is missing, and its norm: a decoder layer has three "
            "sublayers.",
        ),
        Wrong(
            partial(count, bias=1),
            "Biases of the attentions' projections are counted. The paper prints none.",
        ),
        Wrong(
            partial(count, ffn_bias=0),
            "The biases of the feed-forward, H + D, are missing: the paper's Eq. 2 "
            "has b1 and b2.",
        ),
        Wrong(
            partial(count, norms=0),
            "The norms are missing: 2D numbers each, a scale and a shift for every "
            "channel; two in an encoder layer, three in a decoder layer.",
        ),
        Wrong(
            partial(count, norms=4),
            "A norm is missing. An encoder layer has two, a decoder layer three: one "
            "for each sublayer.",
        ),
        Wrong(
            partial(count, each_norm=1),
            "A norm has two numbers for each channel, a scale and a shift. This counts "
            "one.",
        ),
        Wrong(
            partial(count, last=1),
            "Two norms too many, one after each stack: the paper's form, with the norm "
            "after each sum, needs none there.",
        ),
        Wrong(
            lambda V, D, H, L: V * D + L * (8 * D * D + 2 * D * H + H + 7 * D),
            "This is the embedding and the decoder alone. The encoder has L layers, "
            "too.",
        ),
        Wrong(
            lambda V, D, H, L: V * D + L * (4 * D * D + 2 * D * H + H + 5 * D),
            "This is the embedding and the encoder alone. The decoder has L layers, "
            "too, with an attention more in each.",
        ),
        Wrong(
            lambda V, D, H, L: count(V, D, H, 1),
            "Only one layer is counted on either side. There are L of them.",
        ),
        Wrong(
            lambda V, D, H, L: count(V, D, H, L) - L * 2 * (D * H + H),
            "A feed-forward has two matrices, from D to H and back: one is missing, "
            "with its bias.",
        ),
        Wrong(
            lambda V, D, H, L: count(V, D, H, L) - 3 * L * D * D,
            "An attention has four matrices of D x D: W_O is missing.",
        ),
    ),
)


# transformer-7: smooth -----------------------------------------------------------


def smooth(target, V, epsilon):
    q = torch.full((len(target), V), epsilon / V)
    q[torch.arange(len(target)), target] += 1 - epsilon
    return q


def by_columns(target, V, epsilon):
    q = torch.full((len(target), V), epsilon / V)
    q[:, target] += 1 - epsilon
    return q


def spread_over(others):
    def wrong(target, V, epsilon):
        q = torch.full((len(target), V), epsilon / others(V))
        q[torch.arange(len(target)), target] = 1 - epsilon
        return q
    return wrong


SMOOTH = Exercise(
    name="smooth",
    reference=smooth,
    right="Each row sums to 1. The target keeps 1 - epsilon and its own share of "
    "epsilon.",
    given="target V epsilon",
    axes="T targets, V ids",
    cases=lambda: [(torch.tensor([2, 0, 4]), 5, 0.1), (torch.tensor([1, 1]), 3, 0.3),
                   (torch.tensor([3]), 4, 0.0), (torch.tensor([0, 1, 1, 0]), 2, 1.0)],
    wrong=(
        Wrong(
            by_columns,
            "Each target is raised in all rows: q[:, target] takes whole columns. One "
            "entry in each row is q[torch.arange(T), target].",
        ),
        Wrong(
            lambda target, V, epsilon: smooth(target, V, epsilon).double(),
            "The values are right, in float64. float32 is asked for.",
        ),
        Wrong(
            lambda target, V, epsilon: smooth(target, V, epsilon).T,
            "Targets and ids are exchanged: a row for each target.",
        ),
        Wrong(
            spread_over(lambda V: V - 1),
            "epsilon is spread over the other V - 1 letters. In the paper's form the "
            "target gets a share of it too.",
        ),
        Wrong(
            spread_over(lambda V: V),
            "The target lacks its own share of epsilon, and the rows sum to less than "
            "1: its entry is 1 - epsilon + epsilon / V.",
        ),
        Wrong(
            lambda target, V, epsilon: smooth(target, V, 0.0),
            "These are hard targets: nothing is spread.",
        ),
        Wrong(
            lambda target, V, epsilon: smooth(target, V, 1 - epsilon),
            "epsilon and 1 - epsilon have changed places: most of the weight is "
            "spread.",
        ),
        Wrong(
            lambda target, V, epsilon: smooth(target, V, 0.0) + epsilon / V,
            "epsilon is added, and taken from nowhere: the rows sum to 1 + epsilon.",
        ),
        Wrong(
            lambda target, V, epsilon: smooth(target, V, 0.0) * (1 - epsilon) + epsilon,
            "Every letter gets the whole of epsilon. It is shared: epsilon / V each.",
        ),
        Wrong(
            lambda target, V, epsilon: smooth(target, V, 0.0) * (1 - epsilon),
            "The targets keep 1 - epsilon, and the rest is lost: spread epsilon over "
            "all V letters.",
        ),
        Wrong(
            lambda target, V, epsilon: smooth(target, V, epsilon).log(),
            "These are logarithms. The loss takes the logarithm of p, not of q.",
        ),
    ),
)


# transformer-8: write ------------------------------------------------------------


def write(step, start, end, most, *, pick=torch.argmax, keep=True, room=0, stop=True,
          seen=lambda ids: ids):
    ids = [start]
    while len(ids) <= most + room:
        ids.append(int(pick(step(seen(ids)))))
        if stop and ids[-1] == end:
            break
    return ids[1:] if keep else [i for i in ids[1:] if i != end]


def unless_at_end(step, start, end, most):
    ids = [start]
    while len(ids) <= most and ids[-1] != end:
        ids.append(int(step(ids).argmax()))
    return ids[1:]


def story(seed: int, letters: int = 7):
    """A network of one line: log p depends on all that was written."""
    table = rand(letters, letters, seed=seed)

    def step(ids):
        if not ids or not all(isinstance(i, int) for i in ids):
            raise Says("step wants the list of all ids so far, start first, as ints.")
        n = torch.arange(1.0, len(ids) + 1)
        return (table[ids] * n.sin()[:, None]).sum(0).log_softmax(0)
    return step


WRITE = Exercise(
    name="write",
    reference=write,
    right="Each letter is chosen, and chosen for good, before the next is looked at: "
    "that is greedy.",
    given="step start end most",
    cases=lambda: [(story(31), 0, 3, 9), (story(33), 0, 3, 6), (story(57), 2, 0, 4),
                   (story(46), 1, 5, 12), (story(31), 0, 3, 1), (story(33), 0, 0, 8)],
    wrong=(
        Wrong(
            lambda *args: [args[1], *write(*args)],
            "`start` is returned too. It is given, not written.",
        ),
        Wrong(
            partial(write, keep=False),
            "`end` is missing. It is a letter like any other, and here it is returned, "
            "if it was written.",
        ),
        Wrong(
            partial(write, stop=False),
            "It goes on after `end`: that letter says that the text is complete.",
        ),
        Wrong(
            partial(write, room=1),
            "One letter too many: `most` counts the letters written, without `start`.",
        ),
        Wrong(
            partial(write, room=-1),
            "One letter too few: `most` counts the letters written, and `start` is "
            "not one of them.",
        ),
        Wrong(
            unless_at_end,
            "It looks for `end` before it has written anything, so it writes nothing "
            "where `start` is the same id. Only a letter that was written ends a text.",
        ),
        Wrong(
            partial(write, seen=lambda ids: ids[1:] or ids),
            "`start` is dropped once something is written. The network needs all ids "
            "so far, `start` among them.",
        ),
        Wrong(
            partial(write, pick=lambda p: p.topk(2).indices[1]),
            "This takes the second likeliest letter.",
        ),
        Wrong(
            partial(write, seen=lambda ids: ids[-1:]),
            "Only the last letter is shown to the network. It needs all that was "
            "written so far, `start` included.",
        ),
        Wrong(
            partial(write, seen=lambda ids: ids[:1]),
            "The network is shown `start` alone every time: what it writes is never "
            "fed back.",
        ),
        Wrong(
            partial(write, pick=torch.argmin),
            "This takes the least likely letter.",
        ),
        Wrong(
            lambda step, start, end, most: [int(step([start]).argmax())],
            "One letter is written. Feed it back, and go on until `end`.",
        ),
        Wrong(
            lambda *args: torch.tensor(write(*args)),
            "The letters are right. Return them as a list of ints, not as a tensor.",
        ),
    ),
)


# transformer-9: sublayer ---------------------------------------------------------


def block(x, f, norm, norm_first):
    return x + f(norm(x)) if norm_first else norm(x + f(x))


def some_norm(x):
    return torch.nn.functional.layer_norm(x, x.shape[-1:])


def some_layer(seed):
    W = rand(6, 6, seed=seed)
    return lambda x: torch.relu(x @ W) - 0.3


BLOCK = Exercise(
    name="block",
    reference=block,
    right="Pre-norm leaves a road on which x is never normalised; post-norm has none.",
    given="x f norm norm_first",
    axes="N positions, D channels",
    cases=lambda: [(rand(5, 6, seed=41), some_layer(42), some_norm, False),
                   (rand(4, 6, seed=43), some_layer(44), some_norm, True),
                   (rand(1, 6, seed=45), some_layer(46), some_norm, True),
                   (300 * rand(3, 6, seed=47), some_layer(48), some_norm, False)],
    wrong=(
        Wrong(
            lambda x, f, norm, first: block(x, f, norm, not first),
            "The two forms have changed places: norm_first normalises what enters the "
            "sublayer.",
        ),
        Wrong(
            lambda x, f, norm, first: block(x, f, norm, False),
            "This is post-norm, whatever norm_first says.",
        ),
        Wrong(
            lambda x, f, norm, first: block(x, f, norm, True),
            "This is pre-norm, whatever norm_first says.",
        ),
        Wrong(
            lambda x, f, norm, first: (norm(x) + f(norm(x)) if first
                                       else norm(x + f(x))),
            "With norm_first the shortcut is normalised too. It should carry x itself: "
            "x + f(norm(x)).",
        ),
        Wrong(
            lambda x, f, norm, first: x + f(norm(x)) if first else x + norm(f(x)),
            "In post-norm the sum is normalised, norm(x + f(x)), not the sublayer's "
            "result alone.",
        ),
        Wrong(
            lambda x, f, norm, first: f(norm(x)) if first else norm(f(x)),
            "The shortcut is missing: x is added to the sublayer's result.",
        ),
        Wrong(
            lambda x, f, norm, first: norm(x + f(norm(x))) if first else norm(x + f(x)),
            "With norm_first there are two norms. The one after the sum belongs to the "
            "other form.",
        ),
        Wrong(
            lambda x, f, norm, first: x + norm(f(x)) if first else norm(x + f(x)),
            "With norm_first the norm comes before the sublayer, f(norm(x)), not after "
            "it.",
        ),
        Wrong(
            lambda x, f, norm, first: x + f(x),
            "There is no norm.",
        ),
    ),
)


# transformer-10: streamed --------------------------------------------------------


def streamed(q, blocks, *, scale=math.sqrt, rescale=(True, True), start=-math.inf,
             highest=lambda a: a.amax(1, keepdim=True)):
    top = torch.full((len(q), 1), start)
    total, y = torch.zeros(len(q), 1), 0.0
    for K, V in blocks():
        a = q @ K.T / scale(q.shape[1])
        high = torch.maximum(top, highest(a))
        old, e = (top - high).exp(), (a - high).exp()
        total = total * (old if rescale[0] else 1) + e.sum(1, keepdim=True)
        y = y * (old if rescale[1] else 1) + e @ V
        top = high
    return y / total


def each(q, blocks):
    """The result of each block by itself, and its number of keys."""
    return [((q @ K.T / math.sqrt(q.shape[1])).softmax(1) @ V, len(K))
            for K, V in blocks()]


def in_blocks(q, v, sizes, seed, *, loud=1.0, shift=0.0):
    """Return q and a function that gives pairs of so many keys and values."""
    K, V = rand(sum(sizes), q.shape[1], seed=seed), rand(sum(sizes), v, seed=seed + 1)
    if loud > 1:                            # whole numbers, so the scores are exact
        K = (loud * K).round() + shift

    def blocks():
        return iter(list(zip(K.split(sizes), V.split(sizes), strict=True)))
    return q, blocks


def streams():
    opposite = torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1], [0, 1, 0, -1]])
    return [in_blocks(rand(3, 4, seed=53), 2, [4, 2, 5], 51),
            in_blocks(rand(2, 6, seed=56), 3, [3, 3], 54),
            in_blocks(opposite, 2, [2, 3, 4], 57, loud=100.0),
            in_blocks(opposite, 5, [3, 1, 2], 60, loud=3.0, shift=-150.0),
            in_blocks(rand(1, 4, seed=65), 3, [1, 6], 63),
            in_blocks(rand(2, 3, seed=68), 1, [1], 66),
            in_blocks(rand(2, 4, seed=71), 3, [KEYS] * 12, 69)]


KEYS = 64       # in each block of the long stream


class Held(TorchDispatchMode):
    """Notes what tensors are made, and how many of their numbers still exist."""

    def __init__(self):
        super().__init__()
        self.made, self.numbers = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.made += [weakref.ref(t) for t in (
            out if isinstance(out, (tuple, list)) else (out,)) if isinstance(t, Tensor)]
        return out

    def count(self):
        parts = [ref().untyped_storage() for ref in self.made if ref() is not None]
        sizes = {part.data_ptr(): part.nbytes() // 4 for part in parts}
        self.numbers.append(sum(sizes.values()))

    @property
    def grew(self) -> bool:
        """Whether each block left as many numbers as it has keys, or more."""
        return len(self.numbers) > 10 and (
            self.numbers[-1] - self.numbers[1] > KEYS * (len(self.numbers) - 2))


def all_at_once(q, blocks):
    K, V = (torch.cat(parts) for parts in zip(*blocks(), strict=True))
    return (q @ K.T / math.sqrt(q.shape[1])).softmax(1) @ V


TWICE = (
    "blocks() was called a second time. Each block comes once: where a larger score "
    "comes, correct what you have, and do not begin again.")
KEPT = (
    "A block was used after the next one had come, and by then it was gone. Take from "
    "each block what you need; three things for each query are enough.")
HOARDED = (
    "Something of every block is kept until the last has come, its scores, or copies "
    "of its keys. Take from each block what you need; three things for each query are "
    "enough.")


def run_streamed(answer, q, blocks):
    """Hand out the blocks once, and spoil each when the next one is asked for."""
    held = Held()

    def one_after_the_other(spoil):
        for K, V in blocks():
            K, V = K.clone(), V.clone()
            yield K, V
            held.count()
            if spoil:
                K.fill_(math.nan), V.fill_(math.nan)

    def result(spoil):
        streams = [one_after_the_other(spoil)]

        def once():
            if not streams:
                raise Says(TWICE)
            return streams.pop()
        return answer(q, once)

    with held:
        y = result(spoil=True)
    if held.grew:
        raise Says(HOARDED)
    if isinstance(y, Tensor) and y.is_floating_point() and y.isnan().any() and (
            not result(spoil=False).isnan().any()):
        raise Says(KEPT)
    return y


def averaged(q, blocks, *, by_number):
    parts = each(q, blocks)
    sizes = [n if by_number else 1 for _, n in parts]
    return sum(n * y for n, (y, _) in zip(sizes, parts, strict=True)) / sum(sizes)


def own_largest(q, blocks):
    total, y = 0.0, 0.0
    for K, V in blocks():
        a = q @ K.T / math.sqrt(q.shape[1])
        e = (a - a.amax(1, keepdim=True)).exp()
        total, y = total + e.sum(1, keepdim=True), y + e @ V
    return y / total


def hoarded(q, blocks):
    kept = [(K.clone(), V.clone()) for K, V in blocks()]
    return all_at_once(q, lambda: kept)


STREAMED = Exercise(
    name="streamed",
    reference=streamed,
    right="Three things for each query are enough: the largest score so far, the sum, "
    "and the sum of values. That is what fused kernels keep.",
    given="q blocks",
    axes="NV",
    cases=streams,
    call=run_streamed,
    wrong=(
        Wrong(
            partial(streamed, start=0.0),
            "The largest score so far begins at 0. Where all scores are far below it, "
            "every exponential underflows to 0: NaN. Begin at minus infinity.",
        ),
        Wrong(
            partial(streamed, highest=torch.max),
            "One largest score is kept for all queries. A query whose scores lie far "
            "below it gets 0/0, NaN: keep one for each.",
        ),
        Wrong(
            partial(streamed, highest=lambda a: a.new_zeros(len(a), 1), start=0.0),
            "No largest score is taken off, so exp overflows, or underflows to 0 in "
            "all places: NaN. Keep the largest score so far of each query.",
        ),
        Wrong(hoarded, HOARDED),
        Wrong(
            partial(averaged, by_number=False),
            "Each block has a softmax of its own, and their results are averaged. Keys "
            "of different blocks should compete: keep one sum for all.",
        ),
        Wrong(
            partial(averaged, by_number=True),
            "The blocks' own results are averaged by the number of their keys. Weigh "
            "them by their sums of exponentials.",
        ),
        Wrong(
            lambda q, blocks: sum(y for y, _ in each(q, blocks)),
            "The results of the blocks are added, each with weights that sum to 1. "
            "All keys together share 1.",
        ),
        Wrong(
            lambda q, blocks: each(q, blocks)[-1][0],
            "This is the last block alone. Carry on what the earlier ones gave.",
        ),
        Wrong(
            lambda q, blocks: each(q, blocks)[0][0],
            "This is the first block alone. Go through all of them.",
        ),
        Wrong(
            partial(streamed, rescale=(False, True)),
            "When a larger score comes, the values so far are rescaled, but not the "
            "sum. Both were computed with the old maximum.",
        ),
        Wrong(
            partial(streamed, rescale=(True, False)),
            "When a larger score comes, the sum is rescaled, but not the values so "
            "far. Both were computed with the old maximum.",
        ),
        Wrong(
            partial(streamed, rescale=(False, False)),
            "When a larger score comes, sum and values so far have to be rescaled: "
            "they were computed with the old maximum.",
        ),
        Wrong(
            own_largest,
            "Each block takes off its own largest score, and the sums are added as if "
            "it had been the same. Bring both to one largest score first.",
        ),
        Wrong(
            all_at_once,
            KEPT,
        ),
        Wrong(
            partial(streamed, scale=lambda d: 1),
            "The scores are not divided by sqrt(d).",
        ),
    ),
)


EXERCISES = {
    "transformer-1": LOOK_BACK, "transformer-2": HIDE, "transformer-3": HEADS,
    "transformer-4": POSITIONS, "transformer-5": SHIFTED, "transformer-6": COUNT,
    "transformer-7": SMOOTH, "transformer-8": WRITE, "transformer-9": BLOCK,
    "transformer-10": STREAMED,
}
