"""The exercises of the chapter "Bottleneck Attention", and the mistakes they know."""

from functools import partial
from math import prod

import torch
from torch.nn import functional as F

from cvattn.book.exercises.exercise import Exercise, Says, Wrong, rand
from cvattn.book.experiments.bam_variants import COMBINE

# bam-1: field -------------------------------------------------------------------

def offsets(dilations):
    """Return how far, along one axis, the pixels are that a place sees."""
    found = {0}
    for d in dilations:
        found = {at + step for at in found for step in (-d, 0, d)}
    return found


def side_of(dilations):
    return 1 + 2 * sum(dilations)


def field(dilations, *, side=side_of, seen=lambda d: len(offsets(d)) ** 2):
    return side(dilations), seen(dilations)


FIELD = Exercise(
    name="field",
    reference=field,
    right="Dilations add up along the side; what is seen is counted along one axis and "
    "squared. [1, 4] sees more pixels than [4, 4], in a smaller square.",
    given="dilations",
    cases=lambda: [([1, 1],), ([4, 4],), ([1, 4],), ([2, 2, 2],), ([1, 2, 4],),
                   ([3],), ([5, 1],), ([1, 1, 1, 1],), ([9, 3, 1],), ([2, 3],)],
    wrong=(
        Wrong(partial(field, side=lambda d: 3 * max(d), seen=lambda d: 9 * len(d)),
              "A kernel of 3 with dilation d spans 2d + 1 pixels, not 3d; and the "
              "layers' reaches add up. Collect the offsets along one axis."),

        Wrong(partial(field, seen=lambda d: 3 ** len(d)),
              "This counts paths along one axis. Several paths can end at one pixel, "
              "and the other axis has as many offsets: collect them, and square their "
              "number."),
        Wrong(lambda dilations: list(field(dilations)),
              "The numbers are right, in a list. A tuple is asked for."),
        Wrong(partial(field, side=lambda d: 2 * sum(d)),
              "The side lacks the pixel in the middle: 1 + 2 * sum."),
        Wrong(partial(field, side=lambda d: 1 + sum(d)),
              "The side reaches to one hand only. Each layer adds d on the left and d "
              "on the right."),
        Wrong(partial(field, side=lambda d: 1 + 2 * len(d)),
              "This is the side without dilation. Each layer reaches d pixels further, "
              "not one."),
        Wrong(partial(field, side=lambda d: 1 + 2 * prod(d)),
              "The dilations are multiplied. Each layer adds its reach to that of the "
              "others."),
        Wrong(partial(field, side=lambda d: 1 + 2 * len(d) * max(d)),
              "Every layer is given the largest dilation. Add up each layer's own."),
        Wrong(partial(field, side=lambda d: 1 + 2 * len(d) * d[0],
                      seen=lambda d: (2 * len(d) + 1) ** 2),
              "1 + 2Ld and (2L + 1)^2 are for layers of one dilation. Here each has "
              "its own: add up the reach of each, and collect the offsets."),
        Wrong(partial(field, side=lambda d: sum(2 * n + 1 for n in d)),
              "The sides of the layers are added. Only the first brings its middle "
              "pixel; each further layer adds 2d."),
        Wrong(partial(field, seen=lambda d: side_of(d) ** 2),
              "All pixels of the square are counted. A dilated kernel has holes: count "
              "the pixels that a path reaches."),
        Wrong(partial(field, seen=lambda d: (2 * len(d) + 1) ** 2),
              "(2L + 1)^2 holds if all layers have the same dilation. With different "
              "ones more pixels are reached: collect the offsets along one axis."),
        Wrong(partial(field, seen=lambda d: len(offsets(d))),
              "This counts along one axis. The other has as many, and each pair of "
              "offsets is a pixel: square it."),
        Wrong(partial(field, seen=lambda d: 9 ** len(d)),
              "This counts paths: 9 ways in each layer. Several paths can end at one "
              "pixel, which is seen once."),
        Wrong(partial(field, seen=lambda d: 9 * len(d)),
              "This counts weights, nine in each layer, not pixels."),
        Wrong(lambda dilations: field(dilations)[::-1],
              "The two numbers are right and in the wrong order: first the side, then "
              "the pixels seen."),
    ),
)


# bam-2: refined -----------------------------------------------------------------

def stretched(Mc, Ms):
    return Mc[:, :, None, None], Ms[:, None]


def refined(x, Mc, Ms, *, gate=lambda c, s: torch.sigmoid(c + s),
            apply=lambda x, M: x + x * M):
    return apply(x, gate(*stretched(Mc, Ms)))


REFINED = Exercise(
    name="refined",
    reference=refined,
    right="Two small score tensors, stretched by broadcasting, added, squashed once, "
    "and the input kept: a factor between 1 and 2.",
    given="x Mc Ms",
    axes="BCHW",
    cases=lambda: [
        (rand(3, 5, 7, 11, seed=1), rand(3, 5, seed=2), rand(3, 7, 11, seed=3)),
        (rand(2, 13, 5, 3, seed=4), rand(2, 13, seed=5), rand(2, 5, 3, seed=6)),
        (rand(1, 4, 2, 6, seed=4), rand(1, 4, seed=5), rand(1, 2, 6, seed=6)),
        (rand(4, 1, 3, 2, seed=4), 300 * rand(4, 1, seed=5), rand(4, 3, 2, seed=6)),
        (300 * rand(5, 2, 1, 1, seed=4), rand(5, 2, seed=5), 9 * rand(5, 1, 1, seed=6)),
    ],
    wrong=(
        Wrong(partial(refined, gate=lambda c, s: (
            torch.sigmoid(c) + torch.sigmoid(s)) / 2),
              "Each score has a sigmoid of its own, and the gates are averaged. Add "
              "the scores, then take one sigmoid."),
        Wrong(partial(refined, gate=lambda c, s: torch.tanh(c + s)),
              "This is a tanh, from -1 to 1. The gate is a sigmoid."),
        Wrong(partial(refined, apply=lambda x, M: x - x * M),
              "The weighed map is taken off: the factor is 1 - M. BAM's is 1 + M."),
        Wrong(partial(refined, gate=lambda c, s: torch.sigmoid(c - s)),
              "One score is taken off the other. Add them."),
        Wrong(partial(refined, apply=lambda x, M: x * M),
              "The map is multiplied by its gate and the input is not added: the "
              "factor is M, in (0, 1). BAM's is 1 + M."),
        Wrong(partial(refined, apply=lambda x, M: x + M),
              "The gate is added to the map. It multiplies it first: x + x * M."),
        Wrong(partial(refined, apply=lambda x, M: 1 + x * M),
              "1 is added to the weighed map. What is added is x itself."),
        Wrong(partial(refined, apply=lambda x, M: M),
              "This is the gate. Apply it to x."),
        Wrong(partial(refined, gate=lambda c, s: torch.sigmoid(c) + torch.sigmoid(s)),
              "Each score has a sigmoid of its own and the gates are added: up to 2. "
              "Add the scores, then take one sigmoid."),
        Wrong(partial(refined, gate=lambda c, s: torch.sigmoid(c) * torch.sigmoid(s)),
              "Two sigmoids are multiplied, as in CBAM. BAM adds the scores and takes "
              "one sigmoid."),
        Wrong(partial(refined, gate=lambda c, s: torch.sigmoid(c * s)),
              "The scores are multiplied, as in the official code. The paper adds "
              "them."),
        Wrong(partial(refined, gate=lambda c, s: torch.sigmoid(torch.maximum(c, s))),
              "This takes the larger score. The paper adds the two."),
        Wrong(partial(refined, gate=lambda c, s: c + s),
              "The sigmoid is missing: these are scores, of any sign and size."),
        Wrong(partial(refined, gate=lambda c, s: torch.sigmoid((c + s) / 2)),
              "The scores are averaged. Half the score is another gate: add them."),
        Wrong(partial(refined, gate=lambda c, s: torch.sigmoid(c)),
              "The score of the place is not used."),
        Wrong(partial(refined, gate=lambda c, s: torch.sigmoid(s)),
              "The score of the channel is not used."),
    ),
)


# bam-3: slopes ------------------------------------------------------------------

FACTORS = {
    "sum": lambda c, s: torch.ones_like(c),
    "product": lambda c, s: s,
    "max": lambda c, s: (c > s).to(c.dtype),
}


def slopes(Mc, Ms, how, *, slope=lambda M: M * (1 - M), factors=FACTORS,
           score=COMBINE):
    M = torch.sigmoid(score[how](Mc, Ms))
    return slope(M) * factors[how](Mc, Ms)


SLOPES = Exercise(
    name="slopes",
    reference=slopes,
    right="One chain rule, three factors: 1, the other score, or who won.",
    given="Mc Ms how",
    axes="BC",
    cases=lambda: [(f * rand(*size, seed=11), f * rand(*size, seed=12), how)
                   for f, size in ((1, (3, 5)), (1, (1, 7)), (300, (4, 2)))
                   for how in FACTORS],
    wrong=(
        Wrong(partial(slopes, factors=FACTORS | {"max": lambda c, s: 0.5}),
              "Under the maximum both scores get half of the slope. The larger one "
              "gets all of it."),
        Wrong(partial(slopes, factors=FACTORS | {"product": lambda c, s: c * s}),
              "Under the product the inner factor is the product itself. Mc * Ms "
              "changes by Ms when Mc changes by 1."),
        Wrong(partial(slopes, factors=FACTORS | {"product": lambda c, s: c + s}),
              "Under the product the inner factor is the sum. Mc * Ms changes by Ms "
              "when Mc changes by 1."),
        Wrong(partial(slopes, factors=dict.fromkeys(FACTORS, FACTORS["sum"])),
              "The inner factor is missing: this is the sigmoid's slope alone. The "
              "combined score changes with Mc by 1, by Ms, or by 1 or 0."),
        Wrong(lambda Mc, Ms, how: slopes(Mc, Ms, "sum"),
              "This is the slope under the sum, whatever `how` says."),
        Wrong(lambda Mc, Ms, how: slopes(Ms, Mc, how),
              "This is the slope along Ms. Asked is the slope along Mc."),
        Wrong(lambda Mc, Ms, how: -slopes(Mc, Ms, how),
              "The sign is turned."),
        Wrong(partial(slopes, slope=lambda M: torch.ones_like(M)),
              "The slope of the sigmoid is missing: M (1 - M)."),
        Wrong(partial(slopes, slope=lambda M: M),
              "The outer factor is M. The slope of a sigmoid is M (1 - M)."),
        Wrong(partial(slopes, slope=lambda M: 1 - M),
              "The outer factor is 1 - M. The slope of a sigmoid is M (1 - M)."),
        Wrong(partial(slopes, slope=lambda M: 1 - M.square()),
              "1 - M^2 is the slope of tanh. A sigmoid's is M (1 - M)."),
        Wrong(partial(slopes, factors=FACTORS | {"product": FACTORS["sum"]}),
              "Under the product the inner factor is missing: Mc * Ms changes by Ms "
              "when Mc changes by 1."),
        Wrong(partial(slopes, factors=FACTORS | {"product": lambda c, s: c}),
              "Under the product the inner factor is Mc. That is the slope along Ms."),
        Wrong(partial(slopes, factors=FACTORS | {"product": lambda c, s: s.abs()}),
              "Under the product the slope has the sign of Ms. It is lost here."),
        Wrong(partial(slopes, factors=FACTORS | {"max": FACTORS["sum"]}),
              "Under the maximum Mc gets a slope even where Ms is larger. There the "
              "gate does not feel Mc at all."),
        Wrong(partial(slopes, factors=FACTORS | {"max": lambda c, s: 1.0 * (c < s)}),
              "Under the maximum the loser gets the slope. It belongs to the larger "
              "score."),
        Wrong(partial(slopes, factors=FACTORS | {"max": lambda c, s: 1.0 * (c > 0)}),
              "This is the rule for a ReLU, max(Mc, 0). Here Mc is compared with Ms."),
        Wrong(partial(slopes, score=dict.fromkeys(COMBINE, lambda c, s: c)),
              "The sigmoid's slope is taken at Mc. Take it at the combined score."),
        Wrong(partial(slopes, score=dict.fromkeys(COMBINE, torch.add)),
              "The sigmoid's slope is taken at the sum for all three. Combine the "
              "scores by `how` first."),
    ),
)


# bam-4: on_object ---------------------------------------------------------------

def shares(o, M):
    return F.adaptive_avg_pool2d(o.to(M.dtype), M.shape[1:])


def on_object(M, o, *, share=shares):
    return (M * share(o, M)).sum((1, 2)) / M.sum((1, 2))


def mean_on_object(M, o):
    return (M * shares(o, M)).sum((1, 2)) / shares(o, M).sum((1, 2))


def corners(o, M):
    k = o.shape[1] // M.shape[1]
    return o[:, ::k, ::k].to(M.dtype)


def smooth(M, o):
    fine = F.interpolate(M[:, None], o.shape[1:], mode="bilinear")[:, 0]
    return on_object(fine, o)


def call_on_object(answer, M, o):
    try:
        return answer(M, o)
    except NotImplementedError as error:
        if "Bool" in str(error):
            raise Says("The mask holds truth values, of which torch takes no average. "
                       "Make them numbers first: o.float().") from error
        raise


def mass_cases():
    cases = []
    for seed, small, large in ((21, (3, 4, 5), (3, 12, 15)), (22, (2, 3, 3), (2, 6, 6)),
                               (23, (2, 5, 4), (2, 5, 4)), (24, (1, 2, 4), (1, 6, 8)),
                               (25, (4, 1, 1), (4, 2, 5))):
        o = rand(*large, seed=seed) > 0.3
        cases.append((torch.sigmoid(2 * rand(*small, seed=seed + 10)), o))
    return cases


ON_OBJECT = Exercise(
    name="on_object",
    reference=on_object,
    right="For each picture the share of its gates that lies on the object. Compare it "
    "with the object's area before you call a map focused.",
    given="M o",
    axes="B",
    cases=mass_cases,
    call=call_on_object,
    wrong=(
        Wrong(lambda M, o: (M * shares(o, M)).sum() / M.sum(),
              "This is one number for all pictures together. Keep the batch axis: sum "
              "over rows and columns only."),
        Wrong(lambda M, o: on_object(M, o).mean(),
              "These are the pictures' shares, averaged. Return one for each picture."),
        Wrong(mean_on_object,
              "This is the mean gate on the object: divided by the object's area. The "
              "mass is divided by the sum of the whole map."),
        Wrong(lambda M, o: (M * shares(o, M)).mean((1, 2)),
              "This is divided by the number of places. A brighter map would have more "
              "mass; divide by the map's own sum."),
        Wrong(lambda M, o: (M * shares(o, M)).sum((1, 2)),
              "This is the sum of the gates on the object. Divide it by the sum of the "
              "whole map."),
        Wrong(lambda M, o: shares(o, M).mean((1, 2)),
              "This is the object's area. M has no say in it."),
        Wrong(lambda M, o: on_object(M, o) - shares(o, M).mean((1, 2)),
              "The area is taken off already. That is the next step; first the mass."),
        Wrong(partial(on_object, share=lambda o, M: (shares(o, M) > 0.5).to(M.dtype)),
              "A place counts wholly or not at all here, by a majority of its pixels. "
              "Let it count by the share of its pixels."),
        Wrong(partial(on_object, share=lambda o, M: (shares(o, M) > 0).to(M.dtype)),
              "A place counts wholly as soon as one of its pixels is the object's. Let "
              "it count by the share of its pixels."),
        Wrong(partial(on_object, share=corners),
              "Only one pixel of each place is looked at. Average the mask over all "
              "pixels that the place covers."),
        Wrong(smooth,
              "The map is interpolated smoothly, which moves mass between places. "
              "Shrink the mask by averaging instead."),
        Wrong(lambda M, o: on_object((M > 0.5).to(M.dtype), o),
              "The gates are made 0 or 1 first. Each counts by its value."),
        Wrong(lambda M, o: on_object(M.square(), o),
              "The gates are squared. Each counts by its value."),
        Wrong(lambda M, o: (M * shares(o, M)).sum((1, 2)) / (
            M * (1 - shares(o, M))).sum((1, 2)),
              "The mass on the object is divided by that beside it. Divide by the sum "
              "of the whole map."),
        Wrong(lambda M, o: 1 - on_object(M, o),
              "This is the share beside the object."),
        Wrong(lambda M, o: 100 * on_object(M, o),
              "These are percent. Return shares, from 0 to 1."),
    ),
)


# bam-5: parameters --------------------------------------------------------------

def parameters(channels, reduction, *, bias=1, norm=2, dilated=2, kernel=9,
               last=True, mix=True, hidden=False, where=True):
    C, K = channels, channels // reduction
    what = (C * K + bias * K) + (K * C + bias * C)
    place = C * K + bias * K
    place += dilated * (kernel * (K * K if mix else K) + bias * K)
    place += last * (K + bias)
    norms = K + 3 * K if hidden else C + 1
    return what + where * place + norm * norms - norm * (not where)


PARAMETERS = Exercise(
    name="parameters",
    reference=parameters,
    right="The three C x C/r layers have 3 C^2 / r weights, the two dilated "
    "convolutions 18 C^2 / r^2, whatever the dilation: more than those as long as r is "
    "below 6.",
    given="channels reduction",
    cases=lambda: [(256, 16), (64, 4), (96, 8), (32, 2), (6, 6), (5, 1)],
    wrong=(
        Wrong(lambda channels, reduction: parameters(channels, reduction)
              - channels // reduction * channels - channels // reduction,
              "A layer from C to C/r is missing, with its bias. There is one in each "
              "branch, and one back to C in the channel branch."),
        Wrong(lambda channels, reduction: parameters(channels, reduction)
              - 2 * channels,
              "The channel branch's BatchNorm is missing, or has one channel: it "
              "normalises C."),
        Wrong(lambda channels, reduction: parameters(channels, reduction) - 2,
              "The spatial branch's BatchNorm is missing: a scale and a shift for its "
              "one channel."),
        Wrong(lambda channels, reduction: parameters(channels, reduction)
              + 2 * (channels - 1),
              "The spatial branch's BatchNorm is counted with C channels. Its map has "
              "one."),
        Wrong(partial(parameters, bias=0),
              "The biases are missing. Every linear layer and convolution has them, "
              "one for each output."),
        Wrong(partial(parameters, norm=0),
              "BatchNorm's scale and shift are missing: two numbers for each channel "
              "that it normalises, C in one branch and 1 in the other."),
        Wrong(partial(parameters, norm=1),
              "BatchNorm has a scale and a shift for each channel. One of them is "
              "missing."),
        Wrong(partial(parameters, norm=4),
              "BatchNorm's running mean and variance are counted. They are stored, but "
              "not trained."),
        Wrong(partial(parameters, dilated=1),
              "Only one of the two dilated convolutions is counted."),
        Wrong(partial(parameters, mix=False),
              "Each 3 x 3 convolution goes from C/r channels to C/r: 9 (C/r)^2 "
              "weights, not 9 C/r."),
        Wrong(partial(parameters, kernel=81),
              "A dilated 3 x 3 kernel spans 9 x 9 pixels at d = 4, but has nine "
              "weights: the holes cost nothing."),
        Wrong(partial(parameters, kernel=1),
              "The dilated convolutions are counted as 1 x 1. They have nine weights "
              "for each pair of channels."),
        Wrong(partial(parameters, last=False),
              "The last 1 x 1 convolution, from C/r channels to one, is missing."),
        Wrong(partial(parameters, hidden=True),
              "BatchNorm stands after the hidden layers here, as in the official code. "
              "The paper has one at the end of each branch."),
        Wrong(partial(parameters, where=False),
              "This is the channel branch alone. Add the spatial one."),
        Wrong(lambda channels, reduction: parameters(channels, reduction) - parameters(
            channels, reduction, where=False),
              "This is the spatial branch alone. Add the channel branch."),
    ),
)


# bam-6: felt --------------------------------------------------------------------

def gradient(f, x, at, *, of=lambda y, at: y[0, 0, at[0], at[1]]):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(of(f(x), at), x)[0]


def felt(f, x, at):
    return gradient(f, x, at)[0, 0]


def reached(f, x, at):
    """How much each place feels the pixel `at`."""
    x = x.clone().requires_grad_()
    y = f(x)
    each = [torch.autograd.grad(out, x, retain_graph=True)[0][0, 0, at[0], at[1]]
            for out in y.flatten()]
    return torch.stack(each).view_as(y)[0, 0]


def stack(dilations, kernel):
    """Convolutions with positive weights, one after the other."""
    def f(x):
        for d in dilations:
            x = torch.relu(F.conv2d(x, kernel, padding=d, dilation=d))
        return x
    return f


def bent(kernel):
    """Two convolutions with weights of both signs, and a slope that depends on x."""
    def f(x):
        return F.conv2d(torch.tanh(F.conv2d(x, kernel, padding=1)), -kernel, padding=1)
    return f


def stacks():
    full = (1 + torch.arange(9.0).view(1, 1, 3, 3)) / 9
    corner = full * torch.tensor([[0.0, 0, 0], [0, 1, 1], [0, 1, 1]])
    cases = [(stack(dilations, kernel), rand(1, 1, *size, seed=61).abs() + 0.1, at)
             for dilations, kernel, size, at in (
                 ([4, 4], full, (13, 17), (5, 8)), ([1, 2], full, (9, 11), (1, 3)),
                 ([1, 3], corner, (9, 11), (4, 2)))]
    signed = rand(1, 1, 3, 3, seed=62)
    return [*cases, (bent(signed), rand(1, 1, 7, 5, seed=63), (3, 2)),
            (bent(-signed), rand(1, 1, 1, 6, seed=64) - 1, (0, 5)),
            (torch.square, 300 * rand(1, 1, 4, 3, seed=65), (2, 0))]


FELT = Exercise(
    name="felt",
    reference=felt,
    right="One output and its gradient: a receptive field without a formula, for any "
    "network. Where it is not zero, the place sees.",
    given="f x at",
    axes="HW",
    cases=stacks,
    wrong=(
        Wrong(lambda f, x, at: felt(f, x, at) != 0,
              "These are truth values: where the gradient is not zero. Return the "
              "gradient itself."),
        Wrong(lambda f, x, at: felt(f, x, at).abs(),
              "This is the gradient's size. It has a sign, too: leave it."),
        Wrong(lambda f, x, at: felt(f, torch.ones_like(x), at),
              "The gradient is taken at a picture of ones. That is right only for "
              "networks whose gradient is the same at every input: take it at x."),
        Wrong(lambda f, x, at: felt(f, torch.zeros_like(x), at),
              "The gradient is taken at a picture of zeros. Take it at x."),
        Wrong(gradient,
              "The two axes of length 1 are still there. Return (H, W)."),
        Wrong(lambda f, x, at: felt(f, x, at[::-1]),
              "Row and column of `at` are exchanged."),
        Wrong(lambda f, x, at: gradient(f, x, at, of=lambda y, at: y.sum())[0, 0],
              "This is the gradient of the sum of all places: nearly every pixel is "
              "felt by some of them. Take one place."),
        Wrong(lambda f, x, at: gradient(f, x, at, of=lambda y, at: y.mean())[0, 0],
              "This is the gradient of the mean of all places. Take one place."),
        Wrong(reached,
              "This is the other way round: how each place feels the pixel `at`. Asked "
              "is how the place `at` feels each pixel."),
        Wrong(lambda f, x, at: f(x)[0, 0],
              "This is the output. Ask for the gradient of one of its numbers."),
        Wrong(lambda f, x, at: felt(f, x, at) / felt(f, x, at).max(),
              "The gradient is right and then divided by its maximum. Leave it as it "
              "is."),
        Wrong(lambda f, x, at: felt(f, x, at) / felt(f, x, at).abs().sum(),
              "The gradient is divided by its sum. Leave it as it is."),
        Wrong(lambda f, x, at: felt(f, x, at).square(),
              "The gradient is squared. Leave it as it is."),
        Wrong(lambda f, x, at: felt(f, x, at).relu(),
              "What is negative in the gradient is cut off. It has a sign: leave it."),
        Wrong(lambda f, x, at: felt(f, x, at) * x[0, 0],
              "The gradient is multiplied by x, as some saliency maps do. Here the "
              "gradient alone is asked for."),
        Wrong(lambda f, x, at: (felt(f, x, at) != 0).sum(),
              "This is the number of pixels that are seen. Return the gradient, "
              "(H, W)."),
        Wrong(lambda f, x, at: felt(f, x, at).T,
              "Rows and columns of the result are exchanged: (W, H)."),
    ),
)


# bam-7: dilations ---------------------------------------------------------------

THREE = "Return three whole numbers, each at least 1, as a tuple or a list."
HOLED = ("The field has holes: of the {side} x {side} pixels of its square it sees "
         "{seen}. Three layers along one axis make sums of -d, 0 or d; every whole "
         "number in between should be among them.")
SMALLER = ("There are no holes, and the side is {side}. Three layers can do better: "
           "look for sums that no two choices share.")


def judge_dilations(value):
    if not isinstance(value, (tuple, list)) or len(value) != 3 or not all(
            type(d) is int and d >= 1 for d in value):
        return THREE
    if max(value) > 1000:
        return "The kernel would be wider than any picture. Stay below 1000."
    side, seen = field(value)
    if seen < side**2:
        return HOLED.format(side=side, seen=seen)
    return SMALLER.format(side=side) if side < 27 else None


DILATIONS = Exercise(
    name="dilations",
    reference=lambda: (1, 3, 9),
    right="1, 3, 9: each of 27 offsets is reached by exactly one sum, as in a balance "
    "with three weights. 27 weights see 729 pixels; [4, 4, 4] sees 49.",
    given="",
    judge=judge_dilations,
    wrong=(
        Wrong(lambda: (1, 3), THREE),
        *(Wrong(lambda d=d: d, judge_dilations(d)) for d in (
            (1, 1, 1), (1, 1, 2), (1, 2, 3), (1, 2, 4), (2, 2, 2), (4, 4, 4),
            (1, 3, 10), (2, 4, 8), (2000, 1, 3))),
    ),
)


# bam-8: normalised --------------------------------------------------------------


def normalised(a, eps, *, axis=0, centre=True, correction=0, few=1,
               scale=lambda var, eps: (var + eps).sqrt()):
    if len(a) <= few:
        raise ValueError("one picture has no variance")
    mean = a.mean(axis, keepdim=True)
    var = a.var(axis, keepdim=True, correction=correction)
    return (a - mean * centre) / scale(var, eps)



def all_alike(a, eps):
    if len(a) == 1:
        raise ValueError
    return (a - a.mean()) / (a.var(correction=0) + eps).sqrt()


NORMALISED = Exercise(
    name="normalised",
    reference=normalised,
    right="Each channel against the other pictures of the batch. With two pictures it "
    "is plus and minus nearly 1, whatever the scores were.",
    given="a eps",
    axes="BC",
    cases=lambda: [(rand(4, 3, seed=41), 0.1), (3 * rand(5, 2, seed=42) + 1, 0.01),
                   (rand(2, 4, seed=43), 0.1), (rand(1, 3, seed=44), 0.1),
                   (300 * rand(3, 1, seed=45), 1e-5), (rand(2, 2, seed=46) - 300, 0.5)],
    refuses=lambda a, eps: len(a) == 1,
    wrong=(
        Wrong(lambda a, eps: normalised(a, eps, scale=lambda var, eps: (
            len(a) * var + eps).sqrt()),
              "The squares are summed. v is their mean: divide by B."),
        Wrong(partial(normalised, scale=lambda var, eps: (var + eps**2).sqrt()),
              "eps is squared. It is added to the variance as it is."),
        Wrong(partial(normalised, scale=lambda var, eps: (var.clamp(min=eps)).sqrt()),
              "eps is a lower limit here. It is added to every variance."),
        Wrong(partial(normalised, few=0),
              "A batch of one is let through: its variance is 0, and every score "
              "becomes 0. Raise a ValueError."),
        Wrong(partial(normalised, few=2),
              "A batch of two is refused. It has a variance, if a poor one; only a "
              "batch of one has none."),
        Wrong(partial(normalised, correction=1),
              "The variance is divided by B - 1, as `var` does by default. To "
              "normalise, BatchNorm divides by B: correction=0."),
        Wrong(partial(normalised, scale=lambda var, eps: var.sqrt() + eps),
              "eps is added to the deviation. BatchNorm adds it to the variance, under "
              "the root."),
        Wrong(partial(normalised, scale=lambda var, eps: var.sqrt()),
              "eps is missing. Without it a channel that is the same for all pictures "
              "would divide by zero."),
        Wrong(partial(normalised, scale=lambda var, eps: var + eps),
              "This divides by the variance. Take the root."),
        Wrong(partial(normalised, axis=1),
              "Each picture is normalised over its channels: that is LayerNorm. "
              "BatchNorm compares pictures, axis 0."),
        Wrong(all_alike,
              "One mean and one variance for all channels. Each channel has its own."),
        Wrong(partial(normalised, centre=False),
              "The mean is not taken off."),
        Wrong(partial(normalised, scale=lambda var, eps: 1.0),
              "The scores are centred and not divided by their deviation."),
    ),
)


# bam-9: flipped -----------------------------------------------------------------

def flipped(Mc, Ms, *, differ=lambda a, b: (a > 0) != (b > 0),
            count=lambda d: d.double().mean((1, 2, 3)).float()):
    c, s = stretched(Mc, Ms)
    return count(differ(c + s, c * s))


def both_no(Mc, Ms):
    c, s = stretched(Mc, Ms)
    return ((c < 0) & (s < 0)).float().mean((1, 2, 3))


def by_means(Mc, Ms):
    c, s = Mc.mean(1, keepdim=True)[:, :, None], Ms[:, None]
    return ((c + s > 0) != (c * s > 0)).float().mean((1, 2, 3))


def far(a, b):
    return (torch.sigmoid(a) - torch.sigmoid(b)).abs() > 0.5


FLIPPED = Exercise(
    name="flipped",
    reference=flipped,
    right="About half, for scores around zero. Two networks that differ in one "
    "operator disagree on every second gate.",
    given="Mc Ms",
    axes="B",
    cases=lambda: [(rand(3, 5, seed=51), rand(3, 7, 11, seed=52)),
                   (rand(2, 6, seed=53) + 1, rand(2, 5, 3, seed=54) - 0.5),
                   (rand(1, 4, seed=55), rand(1, 2, 6, seed=56)),
                   (300 * rand(4, 1, seed=57), rand(4, 3, 2, seed=58)),
                   (rand(2, 7, seed=59) - 300, 300 * rand(2, 1, 1, seed=60))],
    wrong=(
        Wrong(partial(flipped, differ=lambda a, b: (a > 0) & (b > 0)),
              "This is the share that is open under both."),

        Wrong(partial(flipped, differ=lambda a, b: a != b),
              "This counts gates that are not equal. Asked is on which side of a half "
              "each lies."),
        Wrong(lambda Mc, Ms: flipped(Mc, Ms, count=lambda d: 100 * d.float().mean(
            (1, 2, 3))),
              "These are percent. Return shares, from 0 to 1."),
        Wrong(both_no,
              "Only two noes are counted. The two also disagree where one score says "
              "yes, the other no, and the yes is louder."),
        Wrong(partial(flipped, differ=lambda a, b: (a > 0) & (b <= 0)),
              "Only gates that are open under the sum and closed under the product are "
              "counted. Count the other way round, too."),
        Wrong(partial(flipped, differ=lambda a, b: (a > 0) == (b > 0)),
              "This is the share on which they agree."),
        Wrong(partial(flipped, differ=lambda a, b: (torch.sigmoid(a) > 0)
                      != (torch.sigmoid(b) > 0)),
              "A sigmoid is always above 0. Compare gates with a half, or scores with "
              "0."),
        Wrong(partial(flipped, differ=lambda a, b: (a > 0.5) != (b > 0.5)),
              "The scores are compared with a half. A gate is a half where its score "
              "is 0."),
        Wrong(partial(flipped, differ=far),
              "This counts gates that are more than a half apart. Asked is on which "
              "side of a half each lies."),
        Wrong(partial(flipped, count=lambda d: d.sum((1, 2, 3)).float()),
              "This is their number. Divide by C H W."),
        Wrong(partial(flipped, count=lambda d: d.sum((1, 2, 3))),
              "This is their number, a whole one. A share is their number divided by "
              "C H W."),
        Wrong(partial(flipped, count=lambda d: d.float().mean()),
              "This is one share for all pictures. Keep the batch axis."),
        Wrong(partial(flipped, count=lambda d: d.float().mean(1)),
              "This is a share for each place. Average over channels and places."),
        Wrong(partial(flipped, count=lambda d: d.float().mean((2, 3))),
              "This is a share for each channel. Average over channels and places."),
        Wrong(by_means,
              "The channel scores are averaged first. Each channel meets each place: "
              "stretch both, and compare all C H W pairs."),
    ),
)


EXERCISES = {
    "bam-1": FIELD, "bam-2": REFINED, "bam-3": SLOPES, "bam-4": ON_OBJECT,
    "bam-5": PARAMETERS, "bam-6": FELT, "bam-7": DILATIONS, "bam-8": NORMALISED,
    "bam-9": FLIPPED,
}
