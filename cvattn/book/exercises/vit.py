"""The exercises of the chapter "Vision Transformers", and their known mistakes."""

from functools import partial

import torch
from torch.nn.functional import interpolate

from cvattn.book.exercises.exercise import Exercise, Wrong, rand

# vit-1: patches ------------------------------------------------------------------


def patches(x, P, *, order=(1, 3, 0, 2, 4)):
    C, H, W = x.shape
    x = x.view(C, H // P, P, W // P, P).permute(order)
    return x.reshape(x.shape[0] * x.shape[1], -1)


PATCHES = Exercise(
    name="patches",
    reference=patches,
    right="Two axes became four, and the two that count patches came to the front. "
    "A convolution with stride P reads the same numbers.",
    given="x P",
    axes="N patches, M numbers of a patch",
    cases=lambda: [(rand(3, 4, 10, seed=1), 2), (rand(2, 9, 6, seed=2), 3),
                   (rand(1, 4, 8, seed=3), 4), (rand(3, 2, 5, seed=4), 1),
                   (rand(2, 3, 3, seed=5), 3)],
    wrong=(
        Wrong(
            lambda x, P: patches(x, P).squeeze(),
            "The values are right, but `squeeze()` drops the axis of the patches where "
            "there is one. (N, C P P) is asked for, whatever N.",
        ),
        Wrong(
            lambda x, P: patches(x, P).flip(0),
            "The patches come from the last to the first. The first is the upper left.",
        ),
        Wrong(
            lambda x, P: x.unflatten(1, (-1, P)).unflatten(3, (-1, P)).mean((2, 4))
            .flatten(1).T,
            "Each patch is averaged. A word holds all of its P x P pixels.",
        ),
        Wrong(
            lambda x, P: x.reshape(-1, x.shape[0] * P * P),
            "A bare view: the shape fits, but a word is a strip of a row of the "
            "picture, or of a channel, and not a square. Name the axes first, then "
            "permute.",
        ),
        Wrong(
            partial(patches, order=(3, 1, 0, 2, 4)),
            "The patches come column by column. Reading goes along the rows: i before "
            "j.",
        ),
        Wrong(
            partial(patches, order=(1, 3, 2, 4, 0)),
            "Within a patch the channels come last, pixel by pixel. A convolution's "
            "kernel has them first: (C, p, q).",
        ),
        Wrong(
            partial(patches, order=(1, 3, 0, 4, 2)),
            "Every patch is transposed: within it rows come before columns, (C, p, q).",
        ),
        Wrong(
            lambda x, P: patches(x, P).T,
            "Patches and their numbers are exchanged: a row for each patch. "
            "(F.unfold gives columns.)",
        ),
        Wrong(
            lambda x, P: x.unfold(1, P, 1).unfold(2, P, 1).permute(
                1, 2, 0, 3, 4).flatten(2).flatten(0, 1),
            "The windows overlap: they move by one pixel. They should move by P.",
        ),
        Wrong(
            lambda x, P: patches(x, P).view(x.shape[1] // P, x.shape[2] // P, -1),
            "The patches still lie in a grid, (rows, columns, C P P). Flatten the "
            "first two axes: a text has one.",
        ),
        Wrong(
            lambda x, P: patches(x, P).unflatten(1, (x.shape[0], P, P)),
            "The patches are right and not yet flat: each should be a row of C P P "
            "numbers.",
        ),
        Wrong(
            lambda x, P: x[:, ::P, ::P].flatten(1).T,
            "This is one pixel of each patch. A word holds all of its P x P pixels.",
        ),
    ),
)


# vit-2: length -------------------------------------------------------------------


def length(H, W, P):
    return 1 + (H // P) * (W // P)


LENGTH = Exercise(
    name="length",
    reference=length,
    right="Half the patch is four times the text, and sixteen times the scores.",
    given="H W P",
    cases=lambda: [(224, 224, 16), (28, 28, 4), (48, 80, 8), (6, 6, 6), (3, 5, 1),
                   (8, 24, 8)],
    wrong=(
        Wrong(
            lambda H, W, P: (1 + H // P) * (1 + W // P),
            "One is added on each side. The class token is one token in all.",
        ),
        Wrong(
            lambda H, W, P: 1 + (W // P) ** 2,
            "This counts the columns twice: right for square pictures alone.",
        ),
        Wrong(
            lambda H, W, P: length(H, W, P) - 1,
            "These are the patches. The class token is one more.",
        ),
        Wrong(
            lambda H, W, P: 1 + H // P + W // P,
            "The patches along the two sides are added. A grid has as many as their "
            "product.",
        ),
        Wrong(
            lambda H, W, P: 1 + H * W // P,
            "H W is divided by P. A patch has P x P pixels.",
        ),
        Wrong(
            lambda H, W, P: 1 + H * W,
            "These are the pixels. A word is a patch of them.",
        ),
        Wrong(
            lambda H, W, P: 1 + (H // P) ** 2,
            "This counts the rows twice: right for square pictures alone.",
        ),
        Wrong(
            lambda H, W, P: 1 + (H - P + 1) * (W - P + 1),
            "This counts windows that overlap. Patches do not.",
        ),
        Wrong(
            lambda H, W, P: 2 + (H // P) * (W // P),
            "There is one too many. The class token is one; the first Transformer's "
            "text had an end, a picture has none.",
        ),
        Wrong(
            lambda H, W, P: 1 + H * W / P**2,
            "The number is right, and a float. Divide with //: tokens are counted.",
        ),
    ),
)


# vit-3: embed --------------------------------------------------------------------


def embed(x, E, b, x_class, E_pos):
    return torch.cat([x_class[None], x @ E + b]) + E_pos


def embed_case(N, M, D, seed):
    return (rand(N, M, seed=seed), rand(M, D, seed=seed + 1), rand(D, seed=seed + 2),
            rand(D, seed=seed + 3), rand(1 + N, D, seed=seed + 4))


EMBED = Exercise(
    name="embed",
    reference=embed,
    right="The class token has a position like any other, and needs none: both are "
    "learned, and only their sum is seen.",
    given="x E b x_class E_pos",
    axes="S tokens, D numbers of a token",
    cases=lambda: [embed_case(6, 4, 5, 11), embed_case(3, 7, 2, 21),
                   embed_case(1, 3, 4, 31), embed_case(5, 1, 1, 41)],
    wrong=(
        Wrong(
            lambda x, E, b, x_class, E_pos: torch.cat(
                [x_class[None], x @ E + b]) + E_pos.flip(0),
            "The positions are in the reverse order: row 0 of E_pos is the class "
            "token's.",
        ),
        Wrong(
            lambda x, E, b, x_class, E_pos: torch.cat(
                [x_class[None], x @ E + b]) + E_pos + b,
            "The bias is added once more, to all tokens.",
        ),
        Wrong(
            lambda x, E, b, x_class, E_pos: torch.cat(
                [x_class[None], x @ E + b]) - E_pos,
            "Positions are taken off. They are added.",
        ),
        Wrong(
            lambda x, E, b, x_class, E_pos: torch.cat([x @ E + b, x_class[None]]) + (
                E_pos),
            "The class token stands last. It is row 0, and row 0 of E_pos is its.",
        ),
        Wrong(
            lambda x, E, b, x_class, E_pos: torch.cat(
                [x_class[None], x @ E + b + E_pos[1:]]),
            "The class token has no position. Trained from the start that is no loss, "
            "but row 0 of E_pos belongs to it, and weights from elsewhere use it.",
        ),
        Wrong(
            lambda x, E, b, x_class, E_pos: torch.cat(
                [x_class[None], x @ E + b + E_pos[:-1]]),
            "The patches have the positions of their neighbours: patch 0 is row 1 of "
            "E_pos, after the class token's.",
        ),
        Wrong(
            lambda x, E, b, x_class, E_pos: torch.cat([x_class[None], x @ E]) + E_pos,
            "The bias b is missing.",
        ),
        Wrong(
            lambda x, E, b, x_class, E_pos: torch.cat([x_class[None], x @ E]) + (
                E_pos + b),
            "The bias reaches the class token too. It belongs to the patches: b comes "
            "after E.",
        ),
        Wrong(
            lambda x, E, b, x_class, E_pos: torch.cat([x_class[None], x @ E + b]),
            "There are no positions: the network would see a set of patches.",
        ),
        Wrong(
            lambda x, E, b, x_class, E_pos: x @ E + b + E_pos[1:],
            "The class token is missing. It is put in front, a row of its own.",
        ),
        Wrong(
            lambda x, E, b, x_class, E_pos: torch.cat(
                [x_class[None], x @ E + b]) * E_pos,
            "Positions are multiplied. They are added.",
        ),
        Wrong(
            lambda x, E, b, x_class, E_pos: torch.cat(
                [x_class[None], x @ E + b]) + E_pos[:1],
            "All tokens have the class token's position. Each has a row of its own.",
        ),
    ),
)


# vit-4: stretch ------------------------------------------------------------------


def stretch(E_pos, old, new, *, mode="bilinear", align_corners=True, grid=None, **how):
    grid = E_pos[1:].unflatten(0, old).permute(2, 0, 1) if grid is None else grid
    how |= {} if mode == "nearest" else {"align_corners": align_corners}
    grid = interpolate(grid[None], tuple(new), mode=mode, **how)[0]
    return torch.cat([E_pos[:1], grid.flatten(1).T])


def as_a_line(E_pos, old, new):
    n = 1 + new[0] * new[1]
    return interpolate(E_pos.T[None], n, mode="linear", align_corners=True)[0].T


def line_but_class(E_pos, old, new):
    n = new[0] * new[1]
    line = interpolate(E_pos[1:].T[None], n, mode="linear", align_corners=True)[0].T
    return torch.cat([E_pos[:1], line])


STRETCH = Exercise(
    name="stretch",
    reference=stretch,
    right="A grid of D channels was stretched like a picture, and the class token, "
    "which stands on no grid, was left alone.",
    given="E_pos old new",
    axes="S tokens, D numbers of a token",
    cases=lambda: [(rand(13, 5, seed=31), (3, 4), (6, 7)),
                   (rand(11, 3, seed=32), (5, 2), (4, 7)),
                   (rand(7, 4, seed=33), (2, 3), (2, 3)),
                   (rand(6, 1, seed=34), (1, 5), (3, 2)),
                   (300 * rand(2, 2, seed=35), (1, 1), (4, 3))],
    wrong=(
        Wrong(
            lambda E_pos, old, new: stretch(E_pos, old, new).squeeze(),
            "The values are right, but `squeeze()` drops every axis of length 1: "
            "(1 + N, D) is asked for.",
        ),
        Wrong(
            partial(stretch, mode="bicubic", align_corners=False, antialias=True),
            "This is bicubic without corner on corner, as in timm. Here it is "
            "bilinear, with align_corners=True.",
        ),
        Wrong(
            partial(stretch, mode="bicubic", align_corners=False),
            "This is bicubic without corner on corner. Here it is bilinear, with "
            "align_corners=True.",
        ),
        Wrong(
            partial(stretch, mode="bilinear", align_corners=False, antialias=True),
            "This is bilinear without corner on corner, and with antialias. Here it "
            "has align_corners=True.",
        ),
        Wrong(
            as_a_line,
            "All 1 + N rows are stretched as one line, the class token's among them. "
            "It stands on no grid; and the others lie in two dimensions.",
        ),
        Wrong(
            line_but_class,
            "The class token is kept, but the patches are stretched as one line: the "
            "end of each row runs into the beginning of the next. Make a grid of them.",
        ),
        Wrong(
            partial(stretch, align_corners=False),
            "This is align_corners=False. Corner should lie on corner, as in the "
            "authors' code.",
        ),
        Wrong(
            partial(stretch, mode="bicubic"),
            "This is bicubic, corner on corner, as in torchvision. Here it is "
            "bilinear.",
        ),
        Wrong(
            partial(stretch, mode="nearest"),
            "Each place copies its nearest old one. Interpolate linearly: "
            'mode="bilinear".',
        ),
        Wrong(
            lambda E_pos, old, new: stretch(E_pos, old, new, grid=E_pos[1:].reshape(
                E_pos.shape[1], *old)),
            "(N, D) was viewed as (D, rows, columns). The places come first and the "
            "channels last: unflatten, then permute.",
        ),
        Wrong(
            lambda E_pos, old, new: torch.cat([E_pos[:1], stretch(E_pos, old, new)[
                1:].T.reshape(-1, E_pos.shape[1])]),
            "(D, rows, columns) was viewed as (N, D) on the way back. Flatten the two "
            "axes of the grid, then transpose.",
        ),
        Wrong(
            lambda E_pos, old, new: stretch(E_pos, old[::-1], new[::-1]),
            "old and new are (rows, columns), not (columns, rows).",
        ),
        Wrong(
            lambda E_pos, old, new: stretch(E_pos, old, new)[1:],
            "The class token's row is lost. Put it in front again.",
        ),
        Wrong(
            lambda E_pos, old, new: torch.cat([stretch(E_pos, old, new)[1:],
                                               E_pos[:1]]),
            "The class token's row stands last. It was the first, and stays so.",
        ),
        Wrong(
            lambda E_pos, old, new: stretch(E_pos, old[::-1], new),
            "Rows and columns of the old grid are exchanged: old is (rows, columns).",
        ),
        Wrong(
            lambda E_pos, old, new: stretch(E_pos, old, new[::-1]),
            "Rows and columns of the new grid are exchanged: new is (rows, columns).",
        ),
    ),
)


# vit-5: count --------------------------------------------------------------------


def count(C, side, P, D, L, H, K, *, bias=1, ffn_bias=1, norms=2, last=1, extra=1,
          head=1, head_bias=1, word_bias=1):
    N = (side // P) ** 2
    words = C * P * P * D + word_bias * D
    layer = 4 * (D * D + bias * D) + 2 * D * H + ffn_bias * (H + D) + norms * 2 * D
    return (words + D + (extra + N) * D + L * layer + last * 2 * D
            + head * (D * K + head_bias * K))


COUNT = Exercise(
    name="count",
    reference=count,
    right="With the sizes of ViT-B/16 it gives 86,567,656, and nearly all of them "
    "stand in the layers.",
    given="C side P D L H K",
    cases=lambda: [(3, 224, 16, 768, 12, 3072, 1000), (1, 28, 4, 48, 4, 96, 10),
                   (2, 12, 3, 10, 2, 17, 7), (1, 5, 5, 3, 1, 2, 4)],
    wrong=(
        Wrong(
            partial(count, bias=0, ffn_bias=0, head_bias=0, word_bias=0),
            "The biases are missing, all of them. Every linear map has one: E, the "
            "four projections and the two of the MLP in each layer, and the head.",
        ),
        Wrong(
            partial(count, bias=0, ffn_bias=0),
            "The biases of the layers are missing: 4 D of the projections and H + D of "
            "the MLP, in each.",
        ),
        Wrong(
            lambda C, side, P, D, L, H, K: count(C, side, P, D, L, H, K)
            - (side // P) ** 2 * D,
            "N D numbers are missing: each patch has a learned position.",
        ),
        Wrong(
            lambda C, side, P, D, L, H, K: count(C, side, P, D, L, H, K) + (
                (side // P) ** 2 - 1) * C * P * P * D,
            "The matrix E is counted for every patch. All patches share one.",
        ),
        Wrong(
            lambda C, side, P, D, L, H, K: count(C, side, P, D, L, H, K) - L * D * D,
            "An attention has four matrices of D x D: one is missing in each layer.",
        ),
        Wrong(
            partial(count, norms=0, last=0),
            "All norms are missing: 2 D numbers each, two in a layer and one after "
            "the last.",
        ),
        Wrong(
            partial(count, extra=0),
            "D numbers are missing. Three things have D, and are easily forgotten: the "
            "class token, its row of E_pos (1 + N rows), and the bias after E.",
        ),
        Wrong(
            partial(count, last=0),
            "2 D numbers are missing: the LayerNorm after the last layer (Eq. 4); or, "
            "if you have that, the class token with its row of E_pos.",
        ),
        Wrong(
            partial(count, bias=0),
            "4 D numbers of each layer are missing: the biases of the four "
            "projections, which the first Transformer did without, or the two norms.",
        ),
        Wrong(
            partial(count, ffn_bias=0),
            "The biases of the MLP, H + D in each layer, are missing.",
        ),
        Wrong(
            partial(count, norms=1),
            "One norm in each layer. There are two, before the attention and before "
            "the MLP, with 2 D numbers each.",
        ),
        Wrong(
            partial(count, head=0),
            "The head, D K + K, is missing.",
        ),
        Wrong(
            partial(count, head_bias=0),
            "The head's biases, K, are missing.",
        ),
        Wrong(
            lambda C, side, P, D, L, H, K: count(C, side, P, D, 1, H, K),
            "Only one layer is counted. There are L of them.",
        ),
    ),
)


# vit-6: distance -----------------------------------------------------------------


def apart(side, P, p=2.0):
    n = torch.arange(side * side)
    place = torch.stack([n // side, n % side], dim=1) * float(P)
    return torch.cdist(place, place, p=p)


def distance(A, side, P, *, p=2.0):
    return (A * apart(side, P, p)).sum(2).mean(1)


def maps(h, side, seed):
    return (2 * rand(h, side**2, side**2, seed=seed)).softmax(-1)


DISTANCE = Exercise(
    name="distance",
    reference=distance,
    right="A head that looks only at itself has distance 0; one that looks everywhere "
    "alike has the mean distance of two patches.",
    given="A side P",
    axes="h heads",
    cases=lambda: [(maps(5, 3, 41), 3, 4), (maps(2, 4, 42), 4, 16),
                   (maps(1, 2, 43), 2, 1), (maps(3, 1, 44), 1, 8)],
    wrong=(
        Wrong(
            lambda A, side, P: distance(A.mT / A.mT.sum(2, keepdim=True), side, P),
            "The columns are made to sum to 1, and the rows did already: row n is what "
            "patch n looks at.",
        ),
        Wrong(
            lambda A, side, P: (A * apart(side, P)).sum(2).amax(1),
            "This is the patch that looks farthest. The mean over all is asked for.",
        ),
        Wrong(
            lambda A, side, P: distance(A.softmax(2), side, P),
            "A softmax is taken of A, which is one already.",
        ),
        Wrong(
            lambda A, side, P: distance(A, side, 1),
            "The distance is in patches. Times P it is in pixels.",
        ),
        Wrong(
            partial(distance, p=1.0),
            "Rows and columns are added, the way of a taxi. Take the straight line: "
            "the root of the sum of squares.",
        ),
        Wrong(
            partial(distance, p=float("inf")),
            "This is the larger of the two differences. Take the straight line: the "
            "root of the sum of squares.",
        ),
        Wrong(
            lambda A, side, P: (A * apart(side, P) ** 2).sum(2).mean(1),
            "These are squares of distances: the root is missing.",
        ),
        Wrong(
            lambda A, side, P: (A * (torch.arange(side * side)[:, None] - torch.arange(
                side * side)).abs() * P).sum(2).mean(1),
            "This is the difference of the patches' numbers. The last of a row and the "
            "first of the next are far apart: use rows and columns.",
        ),
        Wrong(
            lambda A, side, P: apart(side, P).mean().expand(len(A)),
            "The weights are not used: this is the mean distance of any two patches.",
        ),
        Wrong(
            lambda A, side, P: (A * apart(side, P)).sum(dim=(1, 2)),
            "The patches that ask are summed. Take their mean.",
        ),
        Wrong(
            lambda A, side, P: (A * apart(side, P)).mean(dim=(1, 2)),
            "The weighed distances are averaged over the keys. The weights of a row "
            "sum to 1 already: sum them, then take the mean over the rows.",
        ),
        Wrong(
            lambda A, side, P: apart(side, P)[
                torch.arange(side**2), A.argmax(2)].mean(1),
            "This is the distance to the patch with the largest weight. All count, "
            "each by its weight.",
        ),
        Wrong(
            lambda A, side, P: (A * apart(side, P)).sum(2),
            "There is a distance for every patch that asks. The mean over them is "
            "missing.",
        ),
        Wrong(
            lambda A, side, P: distance(A, side, P).mean(),
            "All heads are averaged. Each has its own distance: (h,).",
        ),
    ),
)


# vit-7: rollout ------------------------------------------------------------------


def rollout(W, *, keep=0.5, pool=lambda W: W.mean(1), turned=False):
    R, eye = torch.eye(W.shape[2]), torch.eye(W.shape[2])
    for A in pool(W):
        A = (1 - keep) * A + keep * eye
        R = R @ A if turned else A @ R
    return R


ROLLOUT = Exercise(
    name="rollout",
    reference=rollout,
    right="The last layer stands on the left: its rows ask, and each earlier layer "
    "says what they found there. Rows still sum to 1.",
    given="W",
    axes="N tokens of the last layer, N tokens that came in",
    cases=lambda: [(rand(3, 2, 5, 5, seed=51).mul(2).softmax(-1),),
                   (rand(2, 4, 6, 6, seed=52).mul(2).softmax(-1),),
                   (rand(1, 3, 4, 4, seed=53).mul(30).softmax(-1),),
                   (rand(4, 1, 3, 3, seed=54).softmax(-1),),
                   (torch.ones(2, 3, 1, 1),)],
    wrong=(
        Wrong(
            lambda W: rollout(W.mT),
            "The maps are transposed: row n of a map is what token n takes.",
        ),
        Wrong(
            partial(rollout, keep=0.9),
            "Too much is kept: a token keeps half of itself.",
        ),
        Wrong(
            lambda W: rollout(W) @ W.mean((0, 1)),
            "There is a map too many in the product. Start from the identity.",
        ),
        Wrong(
            lambda W: rollout(W)[0],
            "This is the class token's row. All rows are asked for, (N, N).",
        ),
        Wrong(
            partial(rollout, turned=True),
            "The product is the wrong way round: the first layer stands on the left. "
            "R = A R, with the new layer in front.",
        ),
        Wrong(
            partial(rollout, keep=0.0),
            "The shortcut is missing: each token also keeps itself, half of A is the "
            "identity.",
        ),
        Wrong(
            lambda W: rollout(W) * 2.0 ** len(W),
            "The identity is added and nothing is halved: rows sum to 2 to the power "
            "of L.",
        ),
        Wrong(
            partial(rollout, pool=lambda W: W.sum(1)),
            "The heads are summed. Take their mean, or the shortcut counts for less "
            "than half.",
        ),
        Wrong(
            partial(rollout, pool=lambda W: W.amax(1)),
            "The largest head is taken. Some do that; here it is the mean.",
        ),
        Wrong(
            lambda W: (W.mean(dim=(0, 1)) + torch.eye(W.shape[2])) / 2,
            "The layers are averaged. They act one after the other: multiply.",
        ),
        Wrong(
            lambda W: sum(rollout(W[:, [h]]) for h in range(W.shape[1])) / W.shape[1],
            "The heads are averaged after the product. Each layer's heads are averaged "
            "first.",
        ),
        Wrong(
            lambda W: rollout(W[-1:]),
            "This is the last layer alone.",
        ),
        Wrong(
            lambda W: rollout(W[:-1]),
            "The last layer is left out.",
        ),
        Wrong(
            lambda W: rollout(W[1:]),
            "The first layer is left out.",
        ),
        Wrong(
            lambda W: rollout(W).T,
            "Rows and columns are exchanged: row n belongs to token n of the last "
            "layer.",
        ),
    ),
)


# vit-8: gated --------------------------------------------------------------------


def against_nothing(a):
    return torch.stack([a, torch.zeros_like(a)], 1).softmax(1)[:, 0]


def gated(h, W2, u, *, share=against_nothing):
    return share(W2 @ h)[:, None, None] * u


GATED = Exercise(
    name="gated",
    reference=gated,
    right="A softmax over a score and a zero is a sigmoid. Each channel competes with "
    "nothing, and not with the others.",
    given="h W2 u",
    axes="CHW",
    cases=lambda: [(rand(3, seed=61), rand(5, 3, seed=62), rand(5, 2, 4, seed=63)),
                   (rand(4, seed=64), rand(2, 4, seed=65), rand(2, 7, 3, seed=66)),
                   (rand(1, seed=67), rand(1, 1, seed=68), rand(1, 3, 2, seed=69)),
                   (17 * torch.ones(2), (20 * rand(6, 2, seed=68)).round(),
                    9 * rand(6, 1, 1, seed=69))],
    without=("sigmoid",),
    wrong=(
        Wrong(
            partial(gated, share=lambda a: a.exp() / (a.exp() + 1)),
            "exp of a large score is infinite, and infinity over infinity NaN. "
            "torch.softmax takes the larger of the two scores off first.",
        ),
        Wrong(
            partial(gated, share=lambda a: torch.stack([a, torch.ones_like(a)], 1)
                    .softmax(1)[:, 0]),
            "Beside each score stands a one. Nothing has the score 0.",
        ),
        Wrong(
            lambda h, W2, u: gated(h, W2, u).sum(0),
            "The channels are added up. Each look-up has a map of its own for its "
            "result: (C, H, W).",
        ),
        Wrong(
            lambda h, W2, u: gated(h, W2, torch.ones_like(u)),
            "These are the shares. They still have to weigh the maps.",
        ),
        Wrong(
            partial(gated, share=lambda a: a.softmax(0)),
            "The channels compete with one another. Each has a softmax of its own, "
            "over its score and a zero.",
        ),
        Wrong(
            partial(gated, share=lambda a: against_nothing(-a)),
            "This is the share of nothing. The map's is the other of the two.",
        ),
        Wrong(
            partial(gated, share=lambda a: a),
            "The scores themselves multiply the maps: the softmax is missing.",
        ),
        Wrong(
            partial(gated, share=lambda a: torch.ones_like(a)),
            "Every share is 1: a softmax over one score alone, or over an axis of "
            "length 1. The zero has to stand beside it.",
        ),
        Wrong(
            lambda h, W2, u: gated(h / len(h) ** 0.5, W2, u),
            "The scores are divided by the root of d. In SE they are not.",
        ),
        Wrong(
            partial(gated, share=lambda a: torch.cat([a, a.new_zeros(1)]).softmax(0)[
                :-1]),
            "All channels share one softmax with one nothing among them. Each needs "
            "its own pair.",
        ),
        Wrong(
            lambda h, W2, u: gated(h, W2, u) + u,
            "The map is added once more. A gate multiplies, and that is all.",
        ),
    ),
)


# vit-9: keep ---------------------------------------------------------------------


def keep(z, patches):
    return torch.cat([z[:1], z[1 + patches]])


KEEP = Exercise(
    name="keep",
    reference=keep,
    right="Every layer takes any number of tokens, so the rest of the network needs no "
    "change; positions were added before.",
    given="z patches",
    axes="S tokens, D numbers of a token",
    cases=lambda: [(rand(10, 3, seed=71), torch.tensor([4, 0, 7, 2])),
                   (rand(7, 4, seed=72), torch.tensor([1, 5])),
                   (rand(4, 2, seed=73), torch.tensor([2])),
                   (rand(2, 5, seed=74), torch.tensor([0])),
                   (rand(6, 1, seed=75), torch.tensor([4, 3, 2, 1, 0]))],
    wrong=(
        Wrong(
            lambda z, patches: torch.cat([z[:1], z[patches - 1]]),
            "The patches are moved to the wrong side: patch 0 is row 1 of z, so add 1.",
        ),
        Wrong(
            lambda z, patches: torch.cat([z[0], z[1 + patches].flatten()]),
            "The tokens lie in one row. z[:1] keeps the class token's axis, z[0] drops "
            "it.",
        ),
        Wrong(
            lambda z, patches: torch.cat([z[1:2], z[1 + patches]]),
            "The token in front is that of patch 0. The class token is row 0.",
        ),
        Wrong(
            lambda z, patches: torch.cat([z[:1], z[patches]]),
            "The patches are off by one: patch 0 is row 1 of z, after the class token.",
        ),
        Wrong(
            lambda z, patches: z[1 + patches],
            "The class token is missing, and nobody is left to ask.",
        ),
        Wrong(
            lambda z, patches: z[patches],
            "The class token is missing, and the patches are off by one.",
        ),
        Wrong(
            lambda z, patches: keep(z, patches.sort().values),
            "The patches are sorted. They should come in the given order.",
        ),
        Wrong(
            lambda z, patches: torch.cat([z[1 + patches], z[:1]]),
            "The class token stands last. It is the first.",
        ),
        Wrong(
            lambda z, patches: keep(z, torch.tensor(
                [n for n in range(len(z) - 1) if n not in patches.tolist()])),
            "These are the patches that were to be left out.",
        ),
        Wrong(
            lambda z, patches: z[: 1 + len(patches)],
            "These are the first k patches, whatever was asked for.",
        ),
        Wrong(
            lambda z, patches: z * torch.zeros(len(z), 1).index_fill(
                0, torch.cat([torch.zeros(1).long(), 1 + patches]), 1.0),
            "The others are set to zero. A token of zeros is still a token, and still "
            "gets weight: leave it out.",
        ),
    ),
)


# vit-10: grid_positions ----------------------------------------------------------


def grid_positions(X, Y):
    return torch.cat([X.repeat(len(Y), 1), Y.repeat_interleave(len(X), 0)], dim=1)


GRID = Exercise(
    name="grid_positions",
    reference=grid_positions,
    right="Patches of one row share half of their position, patches of one column the "
    "other: geometry is built in, with far fewer numbers to learn.",
    given="X Y",
    axes="N patches, D numbers of a position",
    cases=lambda: [(rand(4, 3, seed=81), rand(5, 3, seed=82)),
                   (rand(3, 2, seed=83), rand(2, 2, seed=84)),
                   (rand(1, 4, seed=85), rand(6, 4, seed=86)),
                   (rand(5, 1, seed=85), rand(1, 1, seed=86)),
                   (rand(1, 2, seed=87), rand(1, 2, seed=88))],
    wrong=(
        Wrong(
            lambda X, Y: torch.stack([X.repeat(len(Y), 1), Y.repeat_interleave(
                len(X), 0)], dim=2).flatten(1),
            "The numbers of column and row alternate. All of X's stand first, then all "
            "of Y's.",
        ),
        Wrong(
            lambda X, Y: torch.cat([X.repeat(len(Y), 1), Y.repeat_interleave(
                len(X), 0)], dim=0),
            "The two are joined one below the other. They stand side by side: dim=1.",
        ),
        Wrong(
            lambda X, Y: torch.cat([X.repeat_interleave(len(Y), 0),
                                    Y.repeat(len(X), 1)], dim=1),
            "The patches come column by column. In reading order the column changes "
            "from one patch to the next.",
        ),
        Wrong(
            lambda X, Y: torch.cat([Y.repeat_interleave(len(X), 0),
                                    X.repeat(len(Y), 1)], dim=1),
            "The row's numbers stand before the column's. X comes first.",
        ),
        Wrong(
            lambda X, Y: torch.cat([Y.repeat(len(X), 1), X.repeat_interleave(
                len(Y), 0)], dim=1),
            "The patches come column by column, and the row's numbers stand first.",
        ),
        Wrong(
            lambda X, Y: X.repeat(len(Y), 1) + Y.repeat_interleave(len(X), 0),
            "Column and row are added. They stand side by side: D/2 numbers each.",
        ),
        Wrong(
            lambda X, Y: torch.cat([X, Y]),
            "These are the two tables, one below the other. Every patch needs a row of "
            "its own.",
        ),
        Wrong(
            lambda X, Y: grid_positions(X, Y).view(len(Y), len(X), -1),
            "The patches lie in a grid, (rows, columns, D). Flatten the first two.",
        ),
        Wrong(
            lambda X, Y: torch.cat([X.repeat(len(Y), 1), Y.repeat(len(X), 1)], dim=1),
            "Both tables are repeated in the same way, so that row and column change "
            "together. The row stays while the column runs.",
        ),
        Wrong(
            lambda X, Y: torch.cat([X.repeat_interleave(len(Y), 0),
                                    Y.repeat_interleave(len(X), 0)], dim=1),
            "Both tables are repeated row by row. The column should change from one "
            "patch to the next.",
        ),
    ),
)


EXERCISES = {
    "vit-1": PATCHES, "vit-2": LENGTH, "vit-3": EMBED, "vit-4": STRETCH,
    "vit-5": COUNT, "vit-6": DISTANCE, "vit-7": ROLLOUT, "vit-8": GATED,
    "vit-9": KEEP, "vit-10": GRID,
}
