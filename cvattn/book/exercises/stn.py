"""The exercises of the chapter "Spatial Transformer Networks", and their mistakes."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from cvattn.book.exercises.exercise import Exercise, Says, Wrong, rand


def uniform(low: float, high: float, n: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(n, generator=g)


# stn-1: centres -----------------------------------------------------------------

def halves(i, n):
    return (2 * i + 1 - n) / n


def ends(i, n):
    return (2 * i + 1 - n) / (n - 1)


def centres(i, W, align_corners, *, edges=halves, corners=ends):
    return (corners if align_corners else edges)(i, W)


CENTRES = Exercise(
    name="centres",
    reference=centres,
    right="Edges or outer centres at -1 and 1: half a pixel of difference on each "
    "side.",
    given="i W align_corners",
    axes="P",
    cases=lambda: [(torch.arange(7.0), 7, False), (torch.arange(7.0), 7, True),
                   (torch.tensor([4.0, 0.0, 2.0]), 5, False),
                   (torch.tensor([3.0, 1.0]), 9, True),
                   (torch.tensor([0.0]), 1, False), (torch.tensor([11.0]), 12, True)],
    wrong=(
        Wrong(partial(centres, edges=lambda i, n: 2 * (i + 1) / (n + 1) - 1),
              "With align_corners=False the centres lie 2 / W apart and half a step "
              "inside of the ends. Here they are spread with a whole step at either "
              "end."),
        Wrong(partial(centres, corners=lambda i, n: 2 * i / n - 1),
              "With align_corners=True the last centre is at 1. From pixel 0 to it "
              "there are W - 1 steps, not W."),
        Wrong(partial(centres, edges=ends),
              "Both conventions give the same here, that of align_corners=True. With "
              "False, -1 and 1 are the edges, and the first centre lies half a pixel "
              "inside."),
        Wrong(partial(centres, corners=halves),
              "Both conventions give the same here, that of align_corners=False. With "
              "True, the first centre is at -1 and the last one at 1."),
        Wrong(partial(centres, edges=ends, corners=halves),
              "The two conventions are exchanged. align_corners=True puts the corner "
              "pixels' centres on -1 and 1."),
        Wrong(partial(centres, edges=lambda i, n: 2 * i / n - 1),
              "With align_corners=False the pixel's left edge is given. Its centre is "
              "half a pixel further right: 2 (i + 1/2) / n - 1."),
        Wrong(partial(centres, edges=lambda i, n: (2 * i + 2 - n) / n),
              "With align_corners=False the pixel's right edge is given. Its centre is "
              "half a pixel further left."),
        Wrong(partial(centres, edges=lambda i, n: (i + 0.5) / n,
                      corners=lambda i, n: i / (n - 1)),
              "These places go from 0 to 1. The picture goes from -1 to 1."),
        Wrong(partial(centres, edges=lambda i, n: i - (n - 1) / 2,
                      corners=lambda i, n: i - (n - 1) / 2),
              "These are pixels, counted from the middle. Divide by half the width."),
        Wrong(partial(centres, edges=lambda i, n: -halves(i, n),
                      corners=lambda i, n: -ends(i, n)),
              "The row runs backwards: pixel 0 is on the left, at the negative end."),
    ),
)


# stn-2: crop --------------------------------------------------------------------

def window(left, top, width, height, H, W):
    return (width / W, height / H,
            (2 * left + width) / W - 1, (2 * top + height) / H - 1)


def crop(box, size, *, at=window):
    s, t, x, y = at(*box.unbind(1), *size)
    zero = torch.zeros_like(s)
    return torch.stack([s, zero, x, zero, t, y], 1).unflatten(1, (2, 3))


CROP = Exercise(
    name="crop",
    reference=crop,
    right="Scale: the box's share of the picture. Shift: where the box's middle lies. "
    "That is attention in its plainest form.",
    given="box size",
    axes="BIJ",
    cases=lambda: [(torch.tensor([[4.0, 6, 10, 8], [0, 0, 7, 11], [31, 2, 9, 18],
                                  [3, 1, 20, 6]]), (20, 40)),
                   (torch.tensor([[13.0, 2, 3, 5]]), (28, 16)),
                   (torch.tensor([[0.0, 0, 9, 6], [8, 5, 1, 1]]), (6, 9))],
    wrong=(
        Wrong(partial(crop, at=lambda left, top, w, h, H, W: (
            w / W, h / H, (2 * left + w) / W, (2 * top + h) / H)),
              "The shift is counted from the picture's left and upper edge, from 0 to "
              "2. Places go from -1 to 1: take 1 off."),
        Wrong(partial(crop, at=lambda left, top, w, h, H, W: (
            (w - left) / W, (h - top) / H, (left + w) / W - 1, (top + h) / H - 1)),
              "Width and height are taken for the right and lower edge. A box is "
              "(left, top, width, height)."),
        Wrong(lambda box, size: crop(box, size)[:, :, :2],
              "The column of shifts is missing. theta is (2, 3)."),
        Wrong(partial(crop, at=lambda left, top, w, h, H, W: (
            W / w, H / h, (2 * left + w) / W - 1, (2 * top + h) / H - 1)),
              "The scale is upside down. The grid is as large as the box, which is "
              "smaller than the picture: small numbers zoom in."),
        Wrong(partial(crop, at=lambda left, top, w, h, H, W: (
            W / w, H / h, (W - 2 * left - w) / w, (H - 2 * top - h) / h)),
              "This map goes from the box to the output. theta goes the other way: "
              "it takes a place of the output to where it is read."),
        Wrong(partial(crop, at=lambda left, top, w, h, H, W: (
            w / W, h / H, 2 * left / W - 1, 2 * top / H - 1)),
              "The shift is that of the box's upper left corner. The middle of the "
              "output, (0, 0), is read at the middle of the box."),
        Wrong(partial(crop, at=lambda left, top, w, h, H, W: (
            w / W, h / H, 1 - (2 * left + w) / W, 1 - (2 * top + h) / H)),
              "The shift has the wrong sign. theta moves the window, and a box on the "
              "right has a positive x."),
        Wrong(partial(crop, at=lambda left, top, w, h, H, W: (
            w / H, h / W, (2 * left + w) / H - 1, (2 * top + h) / W - 1)),
              "Height and width of the picture are exchanged. size is (H, W); x "
              "belongs to W."),
        Wrong(partial(crop, at=lambda left, top, w, h, H, W: (
            h / H, w / W, (2 * top + h) / H - 1, (2 * left + w) / W - 1)),
              "The rows of theta are exchanged: the first one gives x."),
        Wrong(partial(crop, at=lambda left, top, w, h, H, W: (
            w / W, h / H, (left + w / 2) / W, (top + h / 2) / H)),
              "The middle is given as a share, from 0 to 1. Places go from -1 to 1."),
        Wrong(partial(crop, at=lambda left, top, w, h, H, W: (
            w / W, h / H, left + w / 2 - W / 2, top + h / 2 - H / 2)),
              "The shift is in pixels. Divide by half the width, or half the height."),
        Wrong(partial(crop, at=lambda left, top, w, h, H, W: (
            2 * w / W, 2 * h / H, (2 * left + w) / W - 1, (2 * top + h) / H - 1)),
              "The grid is twice too large. The output runs from -1 to 1 as the "
              "picture does, so the scale is a plain ratio of widths."),
        Wrong(partial(crop, at=lambda left, top, w, h, H, W: (
            (w - 1) / (W - 1), (h - 1) / (H - 1), (2 * left + w - 1) / (W - 1) - 1,
            (2 * top + h - 1) / (H - 1) - 1)),
              "This is right for align_corners=True. Here -1 and 1 are edges."),
    ),
)


# stn-3: turn --------------------------------------------------------------------

def turning(c, s, *, signs=(1, 1, -1, 1)):
    zero = torch.zeros_like(c)
    p, q, r, u = signs
    return torch.stack([p * c, q * s, zero, r * s, u * c, zero], 1).unflatten(1, (2, 3))


def turn(degrees, *, radians=torch.deg2rad, make=turning):
    t = radians(degrees)
    return make(t.cos(), t.sin())


TURN = Exercise(
    name="turn",
    reference=turn,
    right="The picture turns clockwise because the grid turns the other way.",
    given="degrees",
    axes="BIJ",
    cases=lambda: [(torch.tensor([30.0, 90, -75, 10]),), (torch.tensor([-20.0]),),
                   (torch.tensor([0.0, 180, 300, -300, 360]),)],
    wrong=(
        Wrong(lambda degrees: torch.cat([turn(degrees)[:, :, 2:],
                                         turn(degrees)[:, :, :2]], 2),
              "The column of shifts stands first. It is the last: theta meets "
              "(x, y, 1)."),
        Wrong(lambda degrees: turn(degrees).mT,
              "The result is transposed: theta is (2, 3)."),
        Wrong(partial(turn, make=lambda c, s: turning(c, s, signs=(1, 1, 1, 1))),
              "Both sines have the same sign. In a rotation they have opposite ones."),
        Wrong(partial(turn, make=lambda c, s: turning(c, -s)),
              "The picture turns anticlockwise. The grid must turn the other way than "
              "the picture; and y points down, which turns the textbook's matrix "
              "around once more."),
        Wrong(partial(turn, radians=lambda d: d),
              "The degrees are taken as radians. torch.deg2rad converts them."),
        Wrong(partial(turn, radians=lambda d: 2 * torch.deg2rad(d)),
              "The angle is twice too large: a full turn is 2 pi, so one degree is "
              "pi / 180."),
        Wrong(partial(turn, radians=lambda d: d / 360),
              "The angle is given in full turns. A full turn is 2 pi."),
        Wrong(partial(turn, make=lambda c, s: turning(c, s, signs=(1, 1, 1, -1))),
              "The picture is mirrored. In a rotation the two sines have opposite "
              "signs and the cosines the same."),
        Wrong(partial(turn, make=lambda c, s: turning(s, c)),
              "Sine and cosine are exchanged: at 0 degrees this is no identity."),
        Wrong(partial(turn, make=lambda c, s: turning(torch.ones_like(c), s)),
              "The cosines are missing: this shears the picture and makes it smaller."),
        Wrong(lambda degrees: turn(degrees)[:, :, :2],
              "The column of shifts is missing. theta is (2, 3), with zeros last."),
    ),
)


# stn-4: undo --------------------------------------------------------------------

def undo(theta, *, shift=lambda A, b: -torch.linalg.solve(A, b)):
    A, b = theta[:, :, :2], theta[:, :, 2:]
    return torch.cat([torch.linalg.inv(A), shift(A, b)], 2)


def maps(n, seed):
    return torch.eye(2, 3) + 0.3 * rand(n, 2, 3, seed=seed)


UNDO = Exercise(
    name="undo",
    reference=undo,
    right="The inverse of the turn and scale, and the shift sent through it. A trained "
    "transformer would be perfect if it found this.",
    given="theta",
    axes="BIJ",
    cases=lambda: [(maps(4, 1),), (maps(1, 2),), (torch.tensor([
        [[-2.0, 0, 0.5], [0, 0.5, -30]], [[0, 1, 300], [-1, 0, 0]]]),)],
    wrong=(
        Wrong(lambda theta: torch.cat([torch.linalg.inv(theta[:, :, :2]).mT,
                                       undo(theta)[:, :, 2:]], 2),
              "The inverse is transposed, the shift is right."),
        Wrong(lambda theta: torch.linalg.pinv(theta).mT,
              "This is the pseudo-inverse of the (2, 3) matrix. theta is a map x -> "
              "A x + b: its last column is added, and is undone by itself."),
        Wrong(lambda theta: torch.cat([1 / theta[:, :, :2], undo(theta)[:, :, 2:]], 2),
              "The entries are inverted one by one. The matrix is to be inverted."),
        Wrong(partial(undo, shift=lambda A, b: -b),
              "The shift is only turned round. If A x + b is undone, it is by "
              "A^-1 (x - b): the shift passes through A^-1, too."),
        Wrong(partial(undo, shift=lambda A, b: torch.linalg.solve(A, b)),
              "The shift has the wrong sign: A^-1 (x - b)."),
        Wrong(partial(undo, shift=lambda A, b: b), "The shift is left as it was."),
        Wrong(partial(undo, shift=lambda A, b: -A @ b),
              "The shift passes through A. Undoing takes it through A^-1."),
        Wrong(partial(undo, shift=lambda A, b: torch.zeros_like(b)),
              "The shift is dropped."),
        Wrong(lambda theta: torch.cat([theta[:, :, :2].mT, -theta[:, :, :2].mT
                                       @ theta[:, :, 2:]], 2),
              "The matrix is transposed. That is its inverse only if it does nothing "
              "but turn."),
        Wrong(lambda theta: -theta, "The numbers have changed their sign. What undoes "
              "a scale of 2 is a scale of 1/2, not of -2."),
        Wrong(lambda theta: torch.linalg.inv(theta[:, :, :2]),
              "The column of shifts is missing."),
    ),
)


# stn-5: sample ------------------------------------------------------------------

def sample(U, x, y, *, whole=torch.floor, weight=lambda dx, dy: (1 - dx, 1 - dy),
           outside=0.0, swap=False):
    H, W = U.shape
    m, n = whole(x), whole(y)
    V = torch.zeros_like(x)
    for i, far_y in ((n, False), (n + 1, True)):
        for j, far_x in ((m, False), (m + 1, True)):
            wx, wy = weight(x - m, y - n)
            w = (1 - wx if far_x else wx) * (1 - wy if far_y else wy)
            inside = (i >= 0) & (i < H) & (j >= 0) & (j < W)
            row, column = i.long().clamp(0, H - 1), j.long().clamp(0, W - 1)
            if swap:
                row, column = j.long().clamp(0, H - 1), i.long().clamp(0, W - 1)
            V = V + w * U[row, column] * torch.where(inside, 1.0, outside)
    return V


def truncated(U, x, y):
    """int() for floor, and the weights as 1 - |x - m|."""
    H, W = U.shape
    V = torch.zeros_like(x)
    for n in (y.trunc(), y.trunc() + 1):
        for m in (x.trunc(), x.trunc() + 1):
            inside = (n >= 0) & (n < H) & (m >= 0) & (m < W)
            weight = (1 - (x - m).abs()) * (1 - (y - n).abs()) * inside
            V = V + weight * U[n.long().clamp(0, H - 1), m.long().clamp(0, W - 1)]
    return V


def round_about(U, x, y):
    """The four pixels around the nearest one's corner."""
    return sample(U, x, y, whole=torch.round)


def nearest(U, x, y):
    H, W = U.shape
    i, j = (y + 0.5).floor().long(), (x + 0.5).floor().long()
    inside = (i >= 0) & (i < H) & (j >= 0) & (j < W)
    return U[i.clamp(0, H - 1), j.clamp(0, W - 1)] * inside


def cut(U, x, y):
    H, W = U.shape
    inside = (x >= 0) & (x <= W - 1) & (y >= 0) & (y <= H - 1)
    return sample(U, x, y) * inside


def mean_of_four(U, x, y):
    return sample(U, x.floor() + 0.5, y.floor() + 0.5)


def away(U, x, y):
    """Each pixel's distance from each place, along x (P, 1, W) and y (P, H, 1)."""
    H, W = U.shape
    return (torch.arange(W) - x[:, None, None],
            torch.arange(H)[:, None] - y[:, None, None])


def without_ends(U, x, y):
    dx, dy = away(U, x, y)
    return (U * (1 - dx.abs()) * (1 - dy.abs())).sum((1, 2))


def call_sample(answer, U, x, y):
    try:
        return answer(U, x, y)
    except IndexError as error:
        if "out of bounds" in str(error):
            raise Says("A pixel is asked for that does not exist. Clamp the index to "
                       "the picture, and give that pixel the weight 0.") from error
        if "must be long" in str(error) or "tensors used as indices" in str(error):
            raise Says("floor() gives floats, and an index must be whole: "
                       ".long().") from error
        raise


def places(H, W, n, seed):
    """Places inside, around the border, and far outside, none at a pixel centre."""
    return uniform(-2.6, W + 1.4, n, seed), uniform(-2.6, H + 1.4, n, seed + 1)


SAMPLE = Exercise(
    name="sample",
    reference=sample,
    right="Four pixels, four weights, zeros outside: Eq. 5.",
    given="U x y",
    axes="P",
    cases=lambda: [(rand(5, 7, seed=31), *places(5, 7, 40, 32)),
                   (rand(9, 4, seed=34), *places(9, 4, 30, 35)),
                   (rand(1, 3, seed=37), *places(1, 3, 20, 38)),
                   (300 * rand(6, 1, seed=40), *places(6, 1, 25, 41)),
                   (rand(3, 4, seed=43), torch.tensor([1.3]), torch.tensor([-0.6]))],
    call=call_sample,
    without=("grid_sample",),
    wrong=(
        Wrong(truncated,
              "int(), .long() and trunc go towards zero, so the two pixels around -0.3 "
              "are taken for 0 and 1, and 1 gets a negative weight. They are -1 and 0: "
              "use floor."),
        Wrong(round_about,
              "The pixel before 1.7 is 1, not 2: use floor, not round."),
        Wrong(lambda U, x, y: sample(U, x + 0.5, y + 0.5),
              "All is read half a pixel too far to the right and down. Here pixel m "
              "lies at m, not at m + 1/2."),
        Wrong(lambda U, x, y: sample(U, x - 0.5, y - 0.5),
              "All is read half a pixel too far to the left and up. Here pixel m lies "
              "at m, not at m + 1/2."),

        Wrong(partial(sample, outside=1.0),
              "Outside of the picture the border pixel is read. There are zeros: give "
              "a pixel that does not exist the weight 0."),
        Wrong(cut,
              "A place between the border and the zeros around it gives 0. It is "
              "within a pixel of the border and gets its part: decide pixel by pixel, "
              "not place by place."),
        Wrong(nearest, "This is the nearest pixel. Mix the four around the place."),
        Wrong(mean_of_four,
              "This is the mean of the four pixels. The nearer one counts more."),
        Wrong(partial(sample, weight=lambda dx, dy: (dx, dy)),
              "The weights are exchanged: the nearer pixel gets less. The weight is "
              "1 minus the distance."),
        Wrong(partial(sample, weight=lambda dx, dy: (1 - dy, 1 - dx)),
              "The distances along x and y are exchanged in the weights."),
        Wrong(partial(sample, swap=True),
              "Rows and columns are exchanged: U[row, column] is U[y, x]."),
        Wrong(lambda U, x, y: sample(U, y, x),
              "x and y are exchanged: x counts columns and y counts rows."),
        Wrong(without_ends,
              "Far pixels count, with negative weights. A triangle ends where it "
              "reaches 0: max(0, ...)."),
        Wrong(partial(sample, whole=torch.trunc),
              "The pixel before -0.3 is -1, not 0: int() and trunc go towards zero. "
              "Use floor."),
        Wrong(partial(sample, whole=torch.ceil),
              "The pixel before 1.3 is 1, not 2: use floor."),
    ),
)


# stn-6: slope -------------------------------------------------------------------

def slope(U, x, y, *, rows=lambda a, b, dy: a * (1 - dy) + b * dy, sign=1):
    m = x.floor()
    dy = y - y.floor()
    up, down = (sample(U, m + 1, n) - sample(U, m, n)
                for n in (y.floor(), y.floor() + 1))
    return sign * rows(up, down, dy)


def by_trunc(U, x, y):
    m, n = x.trunc(), y.trunc()
    up, down = (sample(U, m + 1, row) - sample(U, m, row) for row in (n, n + 1))
    return up * (1 - (y - n)) + down * (y - n)


def endless(U, x, y):
    dx, dy = away(U, x, y)
    return (U * dx.sign() * (1 - dy.abs()).clamp(min=0)).sum((1, 2))


def all_rows(U, x, y):
    dx, _ = away(U, x, y)
    return (U * dx.sign() * (dx.abs() < 1)).sum((1, 2))


def clamped(U, x, y):
    """The pixels beyond the border are those of the border."""
    wide = F.pad(U[None, None], (9, 9, 9, 9), mode="replicate")[0, 0]
    return slope(wide, x + 9, y + 9)


def along_y(U, x, y):
    return slope(U.T.contiguous(), y, x)


SLOPE = Exercise(
    name="slope",
    reference=slope,
    right="Right minus left, averaged over the two rows: all that a place "
    "learns of the picture along x.",
    given="U x y",
    axes="P",
    cases=lambda: [(rand(5, 7, seed=41), *places(5, 7, 40, 42)),
                   (rand(9, 4, seed=44), *places(9, 4, 30, 45)),
                   (rand(1, 3, seed=47), *places(1, 3, 20, 48)),
                   (300 * rand(6, 1, seed=50), *places(6, 1, 25, 51)),
                   (rand(3, 4, seed=53), torch.tensor([-0.6]), torch.tensor([1.3]))],
    call=call_sample,
    without=("autograd",),
    wrong=(
        Wrong(partial(slope, rows=lambda a, b, dy: b),
              "Only the lower row is used. Both are, by their nearness along y."),
        Wrong(lambda U, x, y: slope(U, x, y) / 2,
              "This is half the slope: a difference over two pixels, perhaps. The two "
              "columns lie one apart."),
        Wrong(by_trunc,
              "int(), .long() and trunc go towards zero, so around -0.3 the pixels 0 "
              "and 1 are taken. They are -1 and 0: use floor."),
        Wrong(lambda U, x, y: slope(U, x, y).abs(),
              "The sign is lost: it says which way is brighter."),
        Wrong(partial(slope, sign=-1),
              "The sign is turned: moving to the right adds weight to the right pixel "
              "and takes it from the left one."),
        Wrong(along_y, "This is the slope along y."),
        Wrong(clamped, "A pixel that does not exist is clamped to one that does. It "
              "must count as zero."),
        Wrong(partial(slope, rows=lambda a, b, dy: a),
              "Only the upper row is used. Both are, by their nearness along y."),
        Wrong(partial(slope, rows=lambda a, b, dy: (a + b) / 2),
              "The two rows count the same here. The nearer one counts more."),
        Wrong(partial(slope, rows=lambda a, b, dy: a + b),
              "The two rows are added. They share a weight of 1: 1 - dy and dy."),
        Wrong(partial(slope, rows=lambda a, b, dy: a * dy + b * (1 - dy)),
              "The weights of the two rows are exchanged."),
        Wrong(endless,
              "Pixels farther away than one along x count here. Their slope is 0: "
              "the first case of the three."),
        Wrong(all_rows,
              "All rows count the same here. A row counts by its triangle along y, "
              "max(0, 1 - |y - n|)."),
        Wrong(lambda U, x, y: slope(U, x, y) * U.shape[1] / 2,
              "This is the slope along x in [-1, 1]. Asked is the slope in pixels."),
        Wrong(lambda U, x, y: slope(U, x, y) * 2 / U.shape[1],
              "This is divided by half the width. Asked is the slope in pixels, which "
              "is right minus left."),
        Wrong(lambda U, x, y: sample(U, x, y), "This is V itself."),
    ),
)


# stn-7: to_theta ----------------------------------------------------------------

def to_theta(pull, x, y, *, join=lambda p, t: p.T @ t):
    target = torch.stack([x, y, torch.ones_like(x)], 1)      # (P, 3)
    return join(pull, target)


def pulls():
    return [(rand(n, 2, seed=s), uniform(-1, 1, n, s + 1), uniform(-1, 1, n, s + 2))
            for n, s in ((12, 51), (35, 54), (1, 57))] + [
        (300 * rand(4, 2, seed=60), uniform(-1, 1, 4, 61), uniform(-1, 1, 4, 62))]


TO_THETA = Exercise(
    name="to_theta",
    reference=to_theta,
    right="Every output pixel pulls; the shift feels the sum, the rest feels where the "
    "pullers stand.",
    given="pull x y",
    axes="IJ",
    cases=pulls,
    wrong=(
        Wrong(partial(to_theta, join=lambda p, t: p.T @ t / len(p)),
              "The pulls are averaged. The gradient is their sum."),
        Wrong(partial(to_theta, join=lambda p, t: p.flip(1).T @ t),
              "The rows are exchanged: pulls along x belong to the first row."),
        Wrong(partial(to_theta, join=lambda p, t: p.T @ t[:, [1, 0, 2]]),
              "The first two columns are exchanged: the first meets xt, the second "
              "yt."),
        Wrong(partial(to_theta, join=lambda p, t: p.T @ t[:, [2, 0, 1]]),
              "The columns are in another order: (xt, yt, 1)."),
        Wrong(partial(to_theta, join=lambda p, t: t.T @ p),
              "The result is transposed. theta is (2, 3), and so is its gradient."),
        *(Wrong(partial(to_theta, join=lambda p, t, last=last: torch.cat(
            [(p.T @ t)[:, :2], last(p)[:, None]], 1)), f"The last column is {what}. "
            "The shift's factor is 1 for every pixel, so its gradient is the sum of "
            "the pulls.") for what, last in (
                ("zero", lambda p: torch.zeros(2)),
                ("the mean of the pulls", lambda p: p.mean(0)),
                ("all ones", lambda p: torch.ones(2)),
                ("the number of pixels", lambda p: torch.full((2,), float(len(p)))))),
        Wrong(partial(to_theta, join=lambda p, t: p[:, :1].T.expand(2, -1) @ t),
              "Both rows are made of the pulls along x. The second row is made of "
              "those along y."),
        Wrong(lambda pull, x, y: to_theta(pull, x, y)[:, :2],
              "The column of the shift is missing: its factor is 1."),
        Wrong(partial(to_theta, join=lambda p, t: p.sum(0)[:, None] * t.sum(0)),
              "Pulls and places are summed before they meet. Each pull goes with the "
              "place of its own pixel."),
        Wrong(partial(to_theta, join=lambda p, t: -(p.T @ t)),
              "The sign is turned: this is the direction of a step of descent."),
    ),
)


# stn-8: off ---------------------------------------------------------------------

def pixel(xs, W, aligned):
    return (xs + 1) * (W - 1) / 2 if aligned else ((xs + 1) * W - 1) / 2


def off(i, W, made, read, *, minus=lambda at, i: at - i):
    return minus(pixel(centres(i, W, made), W, read), i)


OFF = Exercise(
    name="off",
    reference=off,
    right="0 if both agree; else up to half a pixel at the two ends, in opposite "
    "directions: the picture grows or shrinks.",
    given="i W made read",
    axes="P",
    cases=lambda: [(torch.arange(8.0), 8, False, True),
                   (torch.arange(8.0), 8, True, False),
                   (torch.tensor([4.0, 0.0, 1.0]), 5, False, True),
                   (torch.tensor([4.0, 0.0, 1.0]), 5, True, False),
                   (torch.arange(7.0), 7, True, True),
                   (torch.arange(7.0), 7, False, False),
                   (torch.tensor([2.0]), 3, True, False),
                   (torch.tensor([11.0]), 12, False, True)],
    wrong=(
        Wrong(lambda i, W, made, read: off(i, W, made, read) / W,
              "This is a share of the width. Asked are pixels."),
        Wrong(lambda i, W, made, read: off(i, W, made, read) * (
            (W - 1) / W if read else W / (W - 1)),
              "The distance is stretched once more by W / (W - 1), or its inverse. "
              "Take the place as made, and ask which pixel it is under `read`."),
        Wrong(partial(off, minus=lambda at, i: i - at),
              "The sign is turned: positive is a place too far to the right."),
        Wrong(partial(off, minus=lambda at, i: (at - i).abs()),
              "The sign is lost. Left and right end are off in opposite directions."),
        Wrong(lambda i, W, made, read: off(i, W, read, made),
              "made and read are exchanged: the grid is made first, then read."),
        Wrong(partial(off, minus=lambda at, i: at),
              "This is the place that is read. How far is it from pixel i?"),
        Wrong(lambda i, W, made, read: off(i, W, made, read) * 2 / W,
              "This is in [-1, 1]. Asked are pixels."),
        Wrong(lambda i, W, made, read: (
            centres(i, W, made) - centres(i, W, read)) * W / 2,
              "This is the distance of two places in [-1, 1], stretched to pixels. But "
              "the reader counts pixels in its own convention, `read`: take the place "
              "as made, and ask which pixel it is there."),
        Wrong(lambda i, W, made, read: centres(i, W, made) - centres(i, W, read),
              "This is the distance of two places in [-1, 1]. Asked are pixels: take "
              "the place as made, and ask which pixel the reader finds there."),
        Wrong(lambda i, W, made, read: centres(i, W, read) - centres(i, W, made),
              "This is the distance of two places in [-1, 1], with its sign turned. "
              "Asked are pixels to the right: take the place as made, and ask which "
              "pixel the reader finds there."),
        Wrong(lambda i, W, made, read: off(i, W, made, read).abs().max(),
              "This is the largest. Return one number for each pixel in i."),
        Wrong(partial(off, minus=lambda at, i: at - i + 0.5),
              "This is half a pixel too much everywhere: pixel centres are whole "
              "numbers here, not halves."),
        Wrong(lambda i, W, made, read: torch.zeros_like(i),
              "These are zeros. Where the two conventions differ, an identity moves "
              "the picture."),
    ),
)


# stn-9: regressor ---------------------------------------------------------------

def regressor(features, *, bias=(1.0, 0, 0, 0, 1, 0), zero=True, set_bias=True):
    layer = nn.Linear(features, 6)
    with torch.no_grad():
        if zero:
            layer.weight.zero_()
        if set_bias:
            layer.bias.copy_(torch.tensor(bias))
    return layer


def call_regressor(answer, features):
    layer = answer(features)
    if layer is None or layer is ...:
        return layer
    if not isinstance(layer, nn.Linear):
        raise Says(f"Return an nn.Linear, not {type(layer).__name__}.")
    if (layer.in_features, layer.out_features) != (features, 6):
        raise Says(f"The layer goes from {layer.in_features} to {layer.out_features} "
                   f"numbers. It should go from {features} to 6.")
    if layer.bias is None:
        raise Says("The layer has no bias. The identity is in the bias.")
    if layer.bias.shape != (6,):
        raise Says(f"The bias is {tuple(layer.bias.shape)}. It holds the six numbers "
                   "in one row, (6,).")
    both = layer.weight, layer.bias
    if not all(isinstance(p, nn.Parameter) and p.requires_grad for p in both):
        raise Says("The layer cannot learn: weight or bias is no parameter, or has "
                   "requires_grad=False. Fill it under torch.no_grad() and leave it "
                   "trainable.")
    if any(p.dtype != torch.float32 for p in both):
        raise Says(f"The layer is {layer.weight.dtype}. Leave it float32.")
    with torch.no_grad():
        theta = layer(300 * rand(4, features, seed=features))
    if not torch.allclose(theta, theta[:1].expand_as(theta)):
        raise Says("theta depends on the features, so the weights are not zero.")
    return tuple(round(v, 6) for v in theta[0].tolist())


REGRESSOR = Exercise(
    name="regressor",
    reference=regressor,
    right="Whatever the localiser says, theta is the identity; and yet the weights "
    "have a gradient.",
    given="features",
    cases=lambda: [(5,), (32,), (1,)],
    call=call_regressor,
    wrong=(
        *(Wrong(partial(regressor, bias=bias),
                f"The last column of theta is the shift, and here it is {what}: the "
                "picture is moved. The bias of the identity is (1, 0, 0, 0, 1, 0).")
          for bias, what in (((1.0, 0, 1, 0, 1, 1), "(1, 1)"),
                             ((1.0, 0, 1, 0, 1, 0), "(1, 0)"))),
        Wrong(partial(regressor, bias=(0.0, 0, 1, 0, 0, 1)),
              "The ones stand in the last column, which is the shift, and not on the "
              "diagonal: every output pixel reads the corner."),
        Wrong(partial(regressor, zero=False),
              "The weights are not zero, so theta depends on the picture before "
              "anything is learned. Set them to zero: the identity comes from the "
              "bias."),
        Wrong(partial(regressor, set_bias=False),
              "The bias is as nn.Linear drew it: theta is some map, not the identity."),
        Wrong(partial(regressor, bias=(0.0,) * 6),
              "All is zero: every output pixel reads the middle of the picture. The "
              "bias is the identity."),
        Wrong(partial(regressor, bias=(1.0,) * 6),
              "The bias is all ones. The identity is (1, 0, 0, 0, 1, 0)."),
        Wrong(partial(regressor, bias=(1.0, 0, 0, 1, 0, 0)),
              "The second 1 is at the wrong place: this is [[1, 0, 0], [1, 0, 0]]. "
              "theta is filled row by row, three numbers each."),
        Wrong(partial(regressor, bias=(0.0, 1, 0, 1, 0, 0)),
              "This bias exchanges x and y."),
        Wrong(partial(regressor, bias=(0.5, 0, 0, 0, 0.5, 0)),
              "This bias enlarges the middle. With the identity nothing changes."),
        Wrong(partial(regressor, bias=(1.0, 0, 0, 0, 1, 1)),
              "This bias moves the picture by half its height: the last number is a "
              "shift."),
    ),
)


EXERCISES = {
    "stn-1": CENTRES, "stn-2": CROP, "stn-3": TURN, "stn-4": UNDO, "stn-5": SAMPLE,
    "stn-6": SLOPE, "stn-7": TO_THETA, "stn-8": OFF, "stn-9": REGRESSOR,
}
