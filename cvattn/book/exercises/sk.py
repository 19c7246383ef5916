"""The exercises of the chapter "Selective kernels", and the mistakes they know."""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from cvattn.book.exercises.exercise import Exercise, Says, Wrong, rand
from cvattn.sk import SK


def shares(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return rand(*shape, seed=seed, dtype=dtype).softmax(1)


# sk-1: descriptor ---------------------------------------------------------------

def descriptor(U):
    return U.sum(dim=1).mean(dim=(2, 3))


DESCRIPTOR = Exercise(
    name="descriptor",
    reference=descriptor,
    right="One number for each channel, from all branches. The sum of the branches' "
    "means would be the same, and needs no map U.",
    given="U",
    axes="BC",
    cases=lambda: [(rand(3, 2, 5, 7, 11, seed=1) + 1,),
                   (rand(2, 3, 4, 6, 5, seed=2) - 1,),
                   (rand(1, 4, 3, 2, 5, seed=3),), (rand(4, 1, 3, 2, 6, seed=4),),
                   (300 * rand(2, 3, 1, 1, 1, seed=5),)],
    wrong=(
        Wrong(
            lambda U: descriptor(U).squeeze(),
            "The values are right, but `squeeze()` drops every axis of length 1: s is "
            "(B, C), also for one picture or one channel.",
        ),
        Wrong(
            lambda U: U.prod(dim=1).mean(dim=(2, 3)),
            "The branches are multiplied. Eq. 1 adds them up.",
        ),
        Wrong(
            lambda U: U.sum(dim=1).mean(dim=2),
            "The mean runs down the rows alone: one axis of places is left. Average "
            "over both.",
        ),
        Wrong(
            lambda U: U.sum(dim=1).mean(dim=(0, 2, 3)),
            "The mean runs over the batch too. Each picture has an s of its own.",
        ),
        Wrong(
            lambda U: U.mean(dim=(1, 3, 4)),
            "The mean runs over the branches too, so s is M times too small. The "
            "branches are summed (Eq. 1); only the places are averaged.",
        ),
        Wrong(
            lambda U: U.sum(dim=(1, 3, 4)),
            "The places are summed. A mean divides by H times W, so that s does not "
            "grow with the size of the map.",
        ),
        Wrong(
            lambda U: U.mean(dim=(3, 4)),
            "These are the means of each branch, (B, M, C). The decision should know "
            "all branches at once: sum over them.",
        ),
        Wrong(
            lambda U: U.mean(dim=(3, 4)).flatten(1),
            "The branches' means lie side by side, (B, M C). They are summed in SK: "
            "s has C numbers, however many branches there are.",
        ),
        Wrong(
            lambda U: U.sum(dim=1),
            "This is the map U, the sum of the branches. What is missing is the mean "
            "over its rows and columns.",
        ),
        Wrong(
            lambda U: U.sum(dim=1).mean(dim=(2, 3), keepdim=True),
            "The two empty axes stayed, (B, C, 1, 1). The layer W acts on the last "
            "axis and wants (B, C): leave keepdim out.",
        ),
        Wrong(
            lambda U: U.sum(dim=1).amax(dim=(2, 3)),
            "This is the largest value of each channel of U. SK, like SE, takes the "
            "mean over the places.",
        ),
        Wrong(
            lambda U: U[:, 0].mean(dim=(2, 3)),
            "Only branch 0 is asked. The decision should know what every branch found.",
        ),
        Wrong(
            lambda U: U.amax(dim=1).mean(dim=(2, 3)),
            "The branches are joined by their maximum. Eq. 1 adds them up.",
        ),
        Wrong(
            lambda U: U.sum(dim=2).mean(dim=(2, 3)),
            "Channels are summed, and branches are left. Axis 1 holds the branches, "
            "axis 2 the channels.",
        ),
        Wrong(
            lambda U: U.sum(dim=1).mean(dim=3),
            "The mean runs along the columns alone: one axis of places is left. "
            "Average over both.",
        ),
    ),
)


# sk-2: count --------------------------------------------------------------------

def count(channels, branches, groups, reduction, minimum, *, k=(3, 3, 3, 3),
          norm=2, inner=2, selectors=None, per_group=True, d=None):
    if d is None:
        d = max(channels // reduction, minimum)
    reads = channels // groups if per_group else channels
    convs = sum(k[m] ** 2 * channels * reads for m in range(branches))
    select = (branches if selectors is None else selectors) * d * channels
    return convs + branches * norm * channels + channels * d + inner * d + select


COUNT = Exercise(
    name="count",
    reference=count,
    right="And it is what `cvattn.SK` has. With C = 128 the layers that choose, "
    "12,352, have more parameters than the two branches, 9,728.",
    given="channels branches groups reduction minimum",
    cases=lambda: [(128, 2, 32, 16, 32), (1024, 3, 32, 16, 32), (64, 2, 8, 4, 8),
                   (6, 1, 1, 2, 4), (6, 4, 6, 1, 2)],
    wrong=(
        Wrong(
            lambda *n: count(*n) - n[0] * max(n[0] // n[3], n[4]),
            "The layer W, from C to d, is missing.",
        ),
        Wrong(
            lambda *n: count(*n, k=(1, 1, 1, 1)),
            "A 3 x 3 kernel has nine weights for each pair of channels; here it has "
            "one.",
        ),
        Wrong(
            lambda *n: count(*n, norm=1, inner=1),
            "A BatchNorm learns two numbers for each channel, a factor and an offset. "
            "One is counted.",
        ),
        Wrong(
            lambda *n: count(*n, d=min(n[0] // n[3], n[4])),
            "d is the smaller of C/r and L. L is a lower limit: take the larger.",
        ),
        Wrong(
            lambda *n: count(*n, d=n[0] // n[3]),
            "The lower limit L is missing: d = max(C/r, L).",
        ),
        Wrong(
            lambda *n: count(*n, d=n[4]),
            "d is L, whatever C is. From C = r L on it is C/r: d = max(C/r, L).",
        ),
        Wrong(
            lambda *n: count(*n, per_group=False),
            "The convolutions are counted without groups: with G groups each output "
            "channel reads C/G input channels.",
        ),
        Wrong(
            lambda *n: count(*n) - n[1] * 9 * (n[0] - n[0] // n[2]) * (n[0] // n[2]),
            "One group is counted, C/G by C/G. There are G of them: each of the C "
            "output channels reads C/G input channels.",
        ),
        Wrong(
            lambda *n: count(*n, k=(3, 5, 7, 9)),
            "The larger branches are counted with 5 x 5 weights. They are 3 x 3 with "
            "dilation: nine weights, however far they reach.",
        ),
        Wrong(
            lambda *n: count(*n, norm=0),
            "The BatchNorm behind each convolution is missing: a factor and an offset "
            "for each channel.",
        ),
        Wrong(
            lambda *n: count(*n, inner=0),
            "The BatchNorm of h is missing: a factor and an offset for each of its d "
            "numbers.",
        ),
        Wrong(
            lambda *n: count(*n, norm=0, inner=0),
            "All BatchNorms are missing: the branches' (2 C each) and that of h (2 d).",
        ),
        Wrong(
            lambda *n: count(*n, norm=4, inner=4),
            "BatchNorm's running means and variances are counted. They are stored, but "
            "not learned.",
        ),
        Wrong(
            lambda *n: count(*n, selectors=1),
            "One matrix A is counted. Every branch has its own A_m, from d to C.",
        ),
        Wrong(
            lambda *n: count(*n) + n[1] * n[0],
            "The convolutions have biases here. A BatchNorm follows and would take "
            "them off again, so there are none.",
        ),
        Wrong(
            lambda *n: count(*n) + max(n[0] // n[3], n[4]) + n[1] * n[0],
            "W and A have biases here. The paper and its code have none.",
        ),
        Wrong(
            lambda *n: count(*n) - (n[1] - 1) * (9 * n[0] * (n[0] // n[2]) + 2 * n[0]),
            "The convolutions of one branch alone are counted. There are M of them.",
        ),
    ),
)


# sk-3: choose -------------------------------------------------------------------

def over(axis):
    return lambda e: e.softmax(axis)


over_branches = over(1)


def choose(scores, U, *, f=over_branches, order=lambda e: e):
    a = f(order(scores.view(U.shape[:3])))
    return (a[..., None, None] * U).sum(dim=1)


def by_channel(scores, U):
    """Read the scores as if those of a channel stood together."""
    B, M, C = U.shape[:3]
    a = scores.view(B, C, M).softmax(2).transpose(1, 2)
    return (a[..., None, None] * U).sum(dim=1)


def over_all(e):
    return e.flatten(1).softmax(1).view_as(e)


def hard(e):
    return F.one_hot(e.argmax(1), e.shape[1]).transpose(1, 2).to(e.dtype)


CHOOSE = Exercise(
    name="choose",
    reference=choose,
    right="Each channel shares itself among the branches, and every pixel of V lies "
    "between theirs.",
    given="scores U",
    axes="BCHW",
    cases=lambda: [(rand(3, 10, seed=11), rand(3, 2, 5, 7, 4, seed=12)),
                   (rand(2, 12, seed=13), rand(2, 3, 4, 5, 3, seed=14)),
                   (rand(1, 8, seed=15), rand(1, 4, 2, 3, 5, seed=16)),
                   (rand(4, 3, seed=15), rand(4, 1, 3, 2, 6, seed=16)),
                   ((300 * rand(3, 6, seed=15)).round(), rand(3, 6, 1, 2, 4, seed=16))],
    wrong=(
        Wrong(
            partial(choose, f=lambda e: e.exp() / e.exp().sum(1, keepdim=True)),
            "Right for small scores. With large ones exp overflows, or all of a "
            "channel's underflow, and the division gives NaN: take the largest score "
            "off first, as softmax does.",
        ),
        Wrong(
            lambda scores, U: choose(scores, U).squeeze(),
            "The values are right, but `squeeze()` drops every axis of length 1: V is "
            "(B, C, H, W), also for one picture or one channel.",
        ),
        Wrong(
            partial(choose, f=lambda e: e / e.sum(1, keepdim=True)),
            "The scores are divided by their sum. They have any sign, so such shares "
            "can be negative or huge: use a softmax.",
        ),
        Wrong(
            partial(choose, f=over_all),
            "The softmax runs over all M C scores of a picture: channels compete, and "
            "a channel's weights do not sum to 1. Give the branches an axis of their "
            "own.",
        ),
        Wrong(
            partial(choose, f=over(2)),
            "The softmax runs along the channels. Channels do not compete in SK; the "
            "branches of a channel do, axis 1 of (B, M, C).",
        ),
        Wrong(
            partial(choose, f=over(0)),
            "The softmax runs over the batch: a picture's weights depend on its "
            "neighbours. The branches are axis 1 of (B, M, C).",
        ),
        Wrong(
            partial(choose, f=torch.sigmoid),
            "These are sigmoids: nothing makes a channel's weights sum to 1, so V need "
            "not lie between the branches. Use a softmax along the branches.",
        ),
        Wrong(
            by_channel,
            "The scores are read as (B, C, M). They come branch by branch: first the C "
            "scores of branch 0. View them as (B, M, C).",
        ),
        Wrong(
            partial(choose, f=lambda e: e),
            "The scores weigh the maps as they are: the softmax is missing.",
        ),
        Wrong(
            partial(choose, f=lambda e: torch.ones_like(e) / e.shape[1]),
            "Every branch gets the same weight, whatever the scores say.",
        ),
        Wrong(
            partial(choose, f=hard),
            "The best branch takes everything. That is a hard choice, without a "
            "gradient; SK mixes by a softmax.",
        ),
        Wrong(
            partial(choose, order=lambda e: e.flip(1)),
            "The branches are in the wrong order: branch 0's scores weigh the last "
            "branch's map.",
        ),
        Wrong(
            partial(choose, f=lambda e: (-e).softmax(1)),
            "The sign of the scores is turned: the branch with the lower score gets "
            "more.",
        ),
        Wrong(
            lambda scores, U: (scores.view(U.shape[:3]).softmax(1)[..., None, None]
                               * U).flatten(1, 2),
            "The weighed branches lie side by side, M C channels. Sum over the "
            "branches: C channels leave.",
        ),
        Wrong(
            lambda scores, U: scores.view(U.shape[:3]).softmax(1)[..., None, None] * U,
            "The weighed branches are not added up yet: the branch axis is still "
            "there.",
        ),
        Wrong(
            lambda scores, U: choose(scores, U) / U.shape[1],
            "The result is divided by M. The weights already sum to 1: take the sum "
            "over the branches, not the mean.",
        ),
    ),
)


# sk-4: larger_share -------------------------------------------------------------

def larger_share(hidden, A):
    return torch.sigmoid(hidden @ (A[1] - A[0]).T)


LARGER_SHARE = Exercise(
    name="larger_share",
    reference=larger_share,
    right="With two branches one matrix, A_1 - A_0, would do all that the two do.",
    given="hidden A",
    axes="BC",
    cases=lambda: [(rand(3, 4, seed=21), rand(2, 5, 4, seed=22)),
                   (rand(2, 5, seed=23), rand(2, 5, 5, seed=24)),
                   (rand(1, 3, seed=25), rand(2, 7, 3, seed=26)),
                   (rand(4, 1, seed=25), rand(2, 1, 1, seed=26)),
                   ((20 * rand(3, 2, seed=25)).round(),
                    (20 * rand(2, 6, 2, seed=26)).round())],
    without=("softmax", "exp"),
    wrong=(
        Wrong(
            lambda z, A: torch.tanh(z @ (A[1] - A[0]).T),
            "This is a tanh, from -1 to 1. A share lies between 0 and 1.",
        ),
        Wrong(
            lambda z, A: larger_share(z, A).squeeze(),
            "The values are right, but `squeeze()` drops every axis of length 1: "
            "(B, C) is asked for, also for one picture.",
        ),
        Wrong(
            lambda z, A: torch.sigmoid(z @ A[1].T) * (1 - torch.sigmoid(z @ A[0].T)),
            "Two sigmoids are multiplied. It is one sigmoid, of the difference of the "
            "scores.",
        ),
        Wrong(
            lambda z, A: torch.sigmoid(z @ (A[0] - A[1]).T),
            "This is a_0, the weight of the smaller kernel. The larger one has the "
            "rest: turn the difference round.",
        ),
        Wrong(
            lambda z, A: torch.sigmoid(z @ A[1].T),
            "The score of branch 1 is judged alone. What counts is its lead over the "
            "score of branch 0.",
        ),
        Wrong(
            lambda z, A: torch.sigmoid(z @ A[1].T) - torch.sigmoid(z @ A[0].T),
            "This is a difference of sigmoids, which can be negative. It is the "
            "sigmoid of the difference of the scores.",
        ),
        Wrong(
            lambda z, A: torch.sigmoid(z @ A[1].T) / (
                torch.sigmoid(z @ A[1].T) + torch.sigmoid(z @ A[0].T)),
            "Two sigmoids are shared out. A softmax shares out exponentials: it is one "
            "sigmoid, of the difference of the scores.",
        ),
        Wrong(
            lambda z, A: torch.sigmoid(z @ (A[1] + A[0]).T),
            "The scores are added. Raising both should change nothing: take the "
            "difference.",
        ),
        Wrong(
            lambda z, A: z @ (A[1] - A[0]).T,
            "This is the difference of the scores, any sign and size. The sigmoid is "
            "missing.",
        ),
        Wrong(
            lambda z, A: torch.sigmoid(z @ (A[1] - A[0]).T / 2),
            "The difference is halved. A tanh would want that; the sigmoid takes it "
            "whole.",
        ),
        Wrong(
            lambda z, A: (z @ (A[1] - A[0]).T).softmax(1),
            "The differences of all channels share one softmax. Each channel decides "
            "for itself.",
        ),
        Wrong(
            lambda z, A: torch.einsum("bd, mcd -> bmc", z, A).softmax(1),
            "These are both weights, (B, 2, C). Only the larger kernel's is asked for, "
            "and without a softmax.",
        ),
        Wrong(
            lambda z, A: torch.sigmoid(z @ (A[1] - A[0])) if A.shape[1] == A.shape[2]
            else torch.sigmoid(z @ (A[1] - A[0]).T).T,
            "The matrix is the wrong way round. A_m is (C, d) and each row of hidden "
            "has d numbers: hidden @ A_m.T.",
        ),
    ),
)


# sk-5: competes -----------------------------------------------------------------

def ones(p, axis, tolerance=1e-4):
    return bool((p.sum(axis) - 1).abs().max() < tolerance)


AXES = {"batch": 0, "branch": 1, "channel": 2, "all": (1, 2)}


def competes(p, *, axes=AXES, test=ones):
    return next((name for name, axis in axes.items() if test(p, axis)), "none")


def first_alone(p, axis):
    return bool((p.sum(axis).flatten()[0] - 1).abs() < 1e-4)


def last_alone(p, axis):
    return bool((p.sum(axis).flatten()[-1] - 1).abs() < 1e-4)


def mean_alone(p, axis):
    return bool((p.sum(axis).mean() - 1).abs() < 1e-4)


def one_row_of(p):
    """Sigmoids, but for one channel whose weights sum to 1, the first."""
    p[0, :, 0] /= p[0, :, 0].sum()
    return p


def last_picture_not(p):
    p[-1] *= 0.7
    return p


def mean_one(p):
    """Over the branches the sums are 1 in the mean, and no sum is."""
    p = p.softmax(1)
    p[:, :, 0] *= 1.5
    p[:, :, 1] *= 0.5
    return p


COMPETES = Exercise(
    name="competes",
    reference=competes,
    right="Sums that are 1 everywhere name the axis. It is the test that finds "
    "SK5, the softmax along the wrong axis.",
    given="p",
    cases=lambda: [
        (rand(3, 2, 5, seed=31).softmax(1),), (rand(3, 2, 5, seed=32).softmax(2),),
        (rand(3, 2, 5, seed=33).softmax(0),), (over_all(rand(3, 2, 5, seed=34)),),
        (torch.sigmoid(rand(3, 2, 5, seed=35)),),
        (one_row_of(torch.sigmoid(rand(4, 2, 6, seed=36))),),
        (mean_one(rand(3, 2, 4, seed=37)),),
        ((20 * rand(5, 7, 64, seed=38)).softmax(1),),
        (over_all(rand(1, 2, 3, seed=39)),),
        (2 * rand(3, 2, 5, seed=40).softmax(1),),
        (rand(1, 3, 4, seed=41).softmax(1),), (rand(4, 3, 2, seed=41).softmax(2),),
        (1.001 * rand(2, 3, 5, seed=42).softmax(1),),
        (1.00005 * rand(2, 3, 5, seed=43).softmax(2),),
        (rand(3, 4, 2, seed=44),),
        (one_row_of(torch.sigmoid(rand(4, 2, 6, seed=47))).flip(0, 2),),
        (last_picture_not(rand(3, 2, 5, seed=45).softmax(1)),),
        (-rand(3, 2, 5, seed=46).softmax(1),),
    ],
    wrong=(
        Wrong(
            lambda p: competes(p, test=lambda p, axis: ones(p, axis, 5e-3)),
            "The tolerance is too wide: a sum of 1.001 is not within 1e-4 of 1.",
        ),
        Wrong(
            lambda p: competes(p, test=lambda p, axis: ones(p, axis, 1.2e-5)),
            "The tolerance is too narrow: within 1e-4 counts as 1, as is said, and "
            "torch.allclose by itself allows 1e-5.",
        ),
        Wrong(
            lambda p: competes(p[:1]),
            "Only the first picture is looked at. The sums of all must be 1.",
        ),
        Wrong(
            lambda p: competes(p, axes={k: AXES[k] for k in
                                        ("batch", "branch", "channel")}),
            'One answer never comes: in "all" the sum of each picture\'s whole table '
            "is 1, over branches and channels together.",
        ),
        Wrong(
            lambda p: competes(p, axes=AXES | {"batch": 1, "branch": 0}),
            "Batch and branch are exchanged: p is (B, M, C), so the batch is axis 0.",
        ),
        Wrong(
            lambda p: competes(p, axes=AXES | {"channel": 1, "branch": 2}),
            "Branch and channel are exchanged: p is (B, M, C), so the branches are "
            "axis 1.",
        ),
        Wrong(
            lambda p: competes(p, test=first_alone),
            "Only the first sum is looked at. By chance one sum can be 1: all of them "
            "must be.",
        ),
        Wrong(
            lambda p: competes(p, test=last_alone),
            "Only the last sum is looked at. By chance one sum can be 1: all of them "
            "must be.",
        ),
        Wrong(
            lambda p: competes(p, test=mean_alone),
            "The mean of the sums is compared with 1. Sums above and below 1 can "
            "cancel in it: each of them must be 1.",
        ),
        Wrong(
            lambda p: competes(p, test=lambda p, axis: bool((p.sum(axis) == 1).all())),
            "The sums are compared with == 1. After rounding they are 0.9999999 or so: "
            "allow a small difference.",
        ),
        Wrong(
            lambda p: competes(p, test=lambda p, axis: ones(p, axis, 0.5)),
            "The tolerance is too wide: sums that are far from 1 pass. Within 1e-4 is "
            "asked for.",
        ),
        Wrong(
            lambda p: competes(p, axes={k: v for k, v in AXES.items() if k != "all"}
                               | {"all": (0, 1, 2)}),
            'For "all" everything is summed, the batch too. Each picture has a whole '
            "of its own: sum over axes 1 and 2.",
        ),
        Wrong(
            lambda p: "branch",
            "The answer is always branch. Look at the sums.",
        ),
        Wrong(
            lambda p: competes(p, test=lambda p, axis: bool(
                (p.sum(axis) < 1 + 1e-4).all())),
            "Sums below 1 pass as well. Each sum must be 1, from both sides.",
        ),
        Wrong(
            lambda p: competes(p, test=lambda p, axis: bool(
                (p.sum(axis) > 1 - 1e-4).all())),
            "Sums above 1 pass as well. Each sum must be 1, from both sides.",
        ),
        Wrong(
            lambda p: competes(p, test=lambda p, axis: bool(
                ((p.sum(axis) - 1).abs() < 1e-4).any())),
            "One sum that is 1 is enough here. Every sum along the axis must be 1.",
        ),
    ),
)


# sk-6: merged -------------------------------------------------------------------

def merged(near, far, a, *, share=lambda a: (1 - a, a), inner=slice(1, 4),
           outer=slice(None, None, 2)):
    first, second = share(a[:, None, None, None])
    kernel = near.new_zeros(len(near), 1, 5, 5)
    kernel[:, :, inner, inner] += first * near
    kernel[:, :, outer, outer] += second * far
    return kernel


def overwritten(near, far, a):
    """The second kernel is written over the first where they meet."""
    kernel = merged(near, 0 * far, a)
    kernel[:, :, ::2, ::2] = a[:, None, None, None] * far
    return kernel


def overwritten_by_near(near, far, a):
    """The first kernel is written over the second where they meet."""
    kernel = merged(0 * near, far, a)
    kernel[:, :, 1:4, 1:4] = (1 - a)[:, None, None, None] * near
    return kernel


MERGED = Exercise(
    name="merged",
    reference=merged,
    right="A choice between sizes is a kernel that changes with the picture. BatchNorm "
    "and ReLU between the branches and the sum are what keeps SK from being just that.",
    given="near far a",
    axes="C channels, 1 input channel of a group, 5 rows, 5 columns",
    cases=lambda: [(rand(4, 1, 3, 3, seed=41), rand(4, 1, 3, 3, seed=42),
                    torch.tensor([0.0, 0.3, 0.5, 1.0])),
                   (rand(2, 1, 3, 3, seed=43), rand(2, 1, 3, 3, seed=44),
                    torch.tensor([0.8, 0.1])),
                   (rand(1, 1, 3, 3, seed=45), 300 * rand(1, 1, 3, 3, seed=46),
                    torch.tensor([0.6]))],
    wrong=(
        Wrong(
            lambda near, far, a: merged(near, far, a).squeeze(1),
            "The axis of the group's one input channel is gone. conv2d wants a kernel "
            "of (C, 1, 5, 5).",
        ),
        Wrong(
            lambda near, far, a: merged(near, far, a.mean().expand_as(a)),
            "All channels share one weight, the mean of a. Each has its own.",
        ),
        Wrong(
            lambda near, far, a: merged(near, far, a[:1].expand_as(a)),
            "All channels get the weight of channel 0. Each has its own.",
        ),
        Wrong(
            lambda near, far, a: merged(near, far, 1 - a),
            "The weights are exchanged: a belongs to the dilated kernel, the far one.",
        ),
        Wrong(
            partial(merged, share=lambda a: (1.0, 1.0)),
            "The weights are missing: this is the plain sum of both kernels.",
        ),
        Wrong(
            partial(merged, share=lambda a: (a, a)),
            "Both kernels get a. The near one has the rest, 1 - a.",
        ),
        Wrong(
            partial(merged, share=lambda a: (1.0, a)),
            "The near kernel keeps its full weight. It gets 1 - a.",
        ),
        Wrong(
            overwritten,
            "In the middle the far kernel is written over the near one. Both read that "
            "pixel: add them up.",
        ),
        Wrong(
            overwritten_by_near,
            "In the middle the near kernel is written over the far one. Both read that "
            "pixel: add them up.",
        ),
        Wrong(
            partial(merged, inner=slice(0, 3)),
            "The near kernel lies in the upper left corner. Its middle has to lie on "
            "the middle of the 5 x 5: rows and columns 1 to 3.",
        ),
        Wrong(
            partial(merged, outer=slice(1, 4)),
            "The far kernel is not pulled apart: with dilation 2 it reads every second "
            "row and column of the 5 x 5.",
        ),
        Wrong(
            lambda near, far, a: merged(far, near, 1 - a),
            "The kernels are exchanged: the near one is left as it is, the far one is "
            "pulled apart.",
        ),
        Wrong(
            lambda near, far, a: (1 - a)[:, None, None, None] * near
            + a[:, None, None, None] * far,
            "This is a 3 x 3 kernel. The far one spans 5 x 5 with its gaps, so the "
            "result does too.",
        ),
        Wrong(
            lambda near, far, a: merged(near.flip(2, 3), far.flip(2, 3), a),
            "The kernels are turned round. PyTorch's convolution does not flip its "
            "kernel, so nothing needs to be undone.",
        ),
        Wrong(
            lambda near, far, a: merged(near, far.transpose(2, 3), a),
            "Rows and columns of the far kernel are exchanged.",
        ),
    ),
)


# sk-7: reach --------------------------------------------------------------------

def reach(dilations, taps=(-1, 0, 1)):
    offsets = {0}
    for k in dilations:
        offsets = {o + k * tap for o in offsets for tap in taps}
    return sorted(offsets)


def product(dilations):
    out = 1
    for k in dilations:
        out *= k
    return out


REACH = Exercise(
    name="reach",
    reference=reach,
    right="Two layers of dilation 2 read even offsets alone, however deep the stack. "
    "Dilation 1 and 2 together read every offset from -3 to 3.",
    given="dilations",
    cases=lambda: [([1, 2],), ([2],), ([2, 2],), ([3, 1],), ([],), ([1, 2, 5],),
                   ([1, 4],), ([1],), ([1, 1, 1],), ([4, 2, 1],)],
    wrong=(
        Wrong(
            lambda d: tuple(reach(d)),
            "The offsets are right, in a tuple. A list is asked for.",
        ),
        Wrong(
            lambda d: [o for o in reach(d) if o],
            "The offset 0 is missing: the middle tap reads it.",
        ),
        Wrong(
            lambda d: sorted(reach(d), reverse=True),
            "The offsets are right, from the largest to the smallest. Sort them the "
            "other way.",
        ),
        Wrong(
            lambda d: list(range(-sum(d), sum(d) + 1)),
            "Every offset within the reach is listed. Dilation leaves gaps: [2] reads "
            "-2, 0 and 2, and nothing between.",
        ),
        Wrong(
            lambda d: reach(d[-1:]),
            "Only the last layer is followed. What it reads was computed by the layer "
            "below, which reads further.",
        ),
        Wrong(
            lambda d: reach(d[:1]),
            "Only the first layer is followed. Every further layer widens what is "
            "read.",
        ),
        Wrong(
            lambda d: sorted({o for k in d for o in (-k, 0, k)} | {0}),
            "The layers are looked at side by side. They are stacked: from each offset "
            "of one layer the next goes on.",
        ),
        Wrong(
            lambda d: reach([product(d)]) if d else [0],
            "The dilations are multiplied. Reaches of stacked layers add up.",
        ),
        Wrong(
            lambda d: reach([sum(d)]) if d else [0],
            "Only the ends and the middle are kept. Between them lie the sums of steps "
            "that not every layer takes.",
        ),
        Wrong(
            lambda d: set(reach(d)),
            "A set has no order. Return a sorted list.",
        ),
        Wrong(
            lambda d: len(reach(d)),
            "This is the number of offsets. The offsets themselves are asked for.",
        ),
        Wrong(
            lambda d: reach(d, taps=(-1, 1)),
            "The middle tap is missing: a kernel of three reads o - k, o and o + k.",
        ),
        Wrong(
            lambda d: reach(d, taps=(0, 1, 2)),
            "The kernels reach to one side only. They are padded on both: taps at -k, "
            "0 and k.",
        ),
        Wrong(
            lambda d: sorted(o + s for k in d[-1:] for o in reach(d[:-1])
                             for s in (-k, 0, k)) if d else [0],
            "Offsets that are reached in two ways are listed twice. Keep each once, as "
            "a set does.",
        ),
        Wrong(
            lambda d: [o for o in reach(d) if o >= 0],
            "The offsets to the left are missing: they are negative.",
        ),
        Wrong(
            lambda d: reach([1] * len(d)),
            "The dilations are not used: each layer is taken to have dilation 1.",
        ),
    ),
)


# sk-8: score_gradient -----------------------------------------------------------

def of_weights(U, g):
    return (g[:, None] * U).sum(dim=(3, 4))


def score_gradient(a, U, g, *, axis=1):
    da = of_weights(U, g)
    return a * (da - (a * da).sum(dim=axis, keepdim=True))



def loud(case):
    a, U, g = case
    return a, 300 * U, g


def gradient_case(*shape, seed):
    B, M, C, H, W = shape
    double = torch.float64
    return (shares(B, M, C, seed=seed, dtype=double),
            rand(*shape, seed=seed + 1, dtype=double),
            rand(B, C, H, W, seed=seed + 2, dtype=double))


SCORE_GRADIENT = Exercise(
    name="score_gradient",
    reference=score_gradient,
    right="Over the branches the gradients of a channel's scores sum to zero: raise "
    "all scores alike, and nothing moves.",
    given="a U g",
    axes="B pictures, M branches, C channels",
    without=("autograd",),
    cases=lambda: [gradient_case(3, 2, 5, 4, 6, seed=51),
                   gradient_case(2, 4, 3, 5, 2, seed=61),
                   gradient_case(1, 3, 2, 4, 5, seed=64),
                   gradient_case(4, 1, 3, 2, 1, seed=67),
                   loud(gradient_case(2, 3, 1, 1, 4, seed=70))],
    wrong=(
        Wrong(
            lambda a, U, g: score_gradient(a, U, g).sum(1),
            "The branches are summed, and over them these gradients cancel: (B, M, C) "
            "is asked for.",
        ),
        Wrong(
            lambda a, U, g: score_gradient(a, U, g.sum((2, 3), keepdim=True).expand(
                -1, -1, *U.shape[3:])),
            "g is summed over the places before it meets U. Each place's g belongs to "
            "its own pixel: multiply, and then sum.",
        ),
        Wrong(
            lambda a, U, g: score_gradient(a, a[..., None, None] * U, g),
            "U is weighed by a before the products with g are summed. The slope of V "
            "with respect to a weight is U itself.",
        ),
        Wrong(
            lambda a, U, g: of_weights(U, g),
            "This is the gradient of the weights a. It has to go back through the "
            "softmax to the scores.",
        ),
        Wrong(
            lambda a, U, g: a * (1 - a) * of_weights(U, g),
            "This is the sigmoid's rule, score by score. In a softmax a score also "
            "moves the weights of the other branches.",
        ),
        Wrong(
            lambda a, U, g: a * of_weights(U, g),
            "Half of the softmax's Jacobian is missing: take the weighed mean over the "
            "branches off first.",
        ),
        Wrong(
            lambda a, U, g: a * (of_weights(U, g)
                                 - of_weights(U, g).mean(1, keepdim=True)),
            "The plain mean over the branches is taken off. It is the mean weighed by "
            "a that belongs there.",
        ),
        Wrong(
            partial(score_gradient, axis=2),
            "The mean runs along the channels. They do not compete; the branches do, "
            "axis 1.",
        ),
        Wrong(
            partial(score_gradient, axis=(1, 2)),
            "The mean runs over branches and channels. Each channel has a softmax of "
            "its own: axis 1 alone.",
        ),
        Wrong(
            partial(score_gradient, axis=0),
            "The mean runs over the batch. Each picture chooses for itself: the "
            "branches are axis 1.",
        ),
        Wrong(
            lambda a, U, g: score_gradient(a, U, g) / U[0, 0, 0].numel(),
            "The places are averaged. The weight scales every pixel of its map, so "
            "their products with g are summed.",
        ),
        Wrong(
            lambda a, U, g: -score_gradient(a, U, g),
            "The sign is turned.",
        ),
        Wrong(
            lambda a, U, g: of_weights(U, g) - (a * of_weights(U, g)).sum(
                1, keepdim=True),
            "The a in front is missing: a branch with next to no weight hardly feels "
            "its score.",
        ),
        Wrong(
            lambda a, U, g: a * (of_weights(U, g) + (a * of_weights(U, g)).sum(
                1, keepdim=True)),
            "The weighed mean is added. It is taken off: what one branch gains, the "
            "others pay.",
        ),
    ),
)


# sk-9: swap ---------------------------------------------------------------------

def mixed(a, U):
    return (a * torch.stack(U, dim=1)).sum(dim=1)


def swap(sk, x, donor):
    return mixed(sk.select(sk.split(donor)), sk.split(x))


def swap_cases():
    cases = []
    for branches, seed, size in ((2, 71, (3, 6, 5, 7)), (3, 81, (3, 6, 5, 7)),
                                 (4, 91, (1, 6, 4, 3))):
        sk = SK(6, branches=branches, groups=3, reduction=2, minimum=4).eval()
        with torch.no_grad():
            for i, t in enumerate(sk.state_dict().values()):
                if t.is_floating_point():
                    t.copy_(rand(*t.shape, seed=seed + i))
            for m in sk.modules():
                if hasattr(m, "running_var"):
                    m.running_var.abs_().add_(0.5)
            sk.bn.bias.add_(1)
        cases.append((sk, rand(*size, seed=seed + 40), 2 * rand(*size, seed=seed + 41)))
    return cases


def run_swap(answer, sk, x, donor):
    with torch.no_grad():
        y = answer(sk, x, donor)
    if isinstance(y, list):
        raise Says("swap returned a list. Add the weighed branches up into one map.")
    return y


SWAP = Exercise(
    name="swap",
    reference=swap,
    right="The maps are x's, the choice is the donor's. What a network loses by it is "
    "what its choices were worth.",
    given="sk x donor",
    axes="BCHW",
    cases=swap_cases,
    call=run_swap,
    wrong=(
        Wrong(
            lambda sk, x, donor: sk(x),
            "This is the plain output for x: its own maps and its own choice.",
        ),
        Wrong(
            lambda sk, x, donor: sk(donor),
            "This is the plain output for the donor. The maps should be those of x.",
        ),
        Wrong(
            lambda sk, x, donor: swap(sk, donor, x),
            "The two are exchanged: here x chooses, and the donor's maps are mixed.",
        ),
        Wrong(
            lambda sk, x, donor: mixed(sk.weights(donor), [x] * len(sk.F)),
            "The weights multiply x itself. They mix the maps that the branches make "
            "of it, sk.split(x).",
        ),
        Wrong(
            lambda sk, x, donor: mixed(sk.weights(donor).flip(0), sk.split(x)),
            "The donors come in the reverse order. Picture n has donor n.",
        ),
        Wrong(
            lambda sk, x, donor: sk.split(x)[0],
            "This is the map of branch 0 alone. The donor's weights mix all of them.",
        ),
        Wrong(
            lambda sk, x, donor: mixed(torch.ones(()) / len(sk.F), sk.split(x)),
            "Every branch gets the same weight, whatever the donor.",
        ),
        Wrong(
            lambda sk, x, donor: sum(sk.split(x)),
            "The branches are added without weights.",
        ),
        Wrong(
            lambda sk, x, donor: mixed(
                (sk.weights(x) + sk.weights(donor)) / 2, sk.split(x)),
            "The two choices are averaged. The donor decides alone.",
        ),
        Wrong(
            lambda sk, x, donor: mixed(sk.weights(x + donor), sk.split(x)),
            "The choice is made for x + donor, a picture that is neither.",
        ),
        Wrong(
            lambda sk, x, donor: mixed(sk.weights(sk(donor)), sk.split(x)),
            "The donor's output goes through the module again. Its maps are "
            "sk.split(donor).",
        ),
        Wrong(
            lambda sk, x, donor: sk.weights(donor) * torch.stack(sk.split(x), dim=1),
            "The weighed branches are not added up yet: the branch axis is still "
            "there.",
        ),
        Wrong(
            lambda sk, x, donor: mixed(
                sk.weights(donor).mean(0, keepdim=True), sk.split(x)),
            "The donors' choices are averaged over the batch. Each picture of x has "
            "its own donor.",
        ),
        Wrong(
            lambda sk, x, donor: mixed(sk.weights(donor).flip(1), sk.split(x)),
            "The branches are in the wrong order: weight m belongs to map m.",
        ),
        Wrong(
            lambda sk, x, donor: mixed(sk.weights(donor), sk.split(x)) / len(sk.F),
            "The mean over the branches is taken. The weights sum to 1 already: take "
            "the sum.",
        ),
    ),
)


EXERCISES = {
    "sk-1": DESCRIPTOR, "sk-2": COUNT, "sk-3": CHOOSE, "sk-4": LARGER_SHARE,
    "sk-5": COMPETES, "sk-6": MERGED, "sk-7": REACH, "sk-8": SCORE_GRADIENT,
    "sk-9": SWAP,
}
