"""Tests of the tests: plausible wrong spatial transformers, and which test sees each.

Each mutant has the parameters of SpatialTransformer and one mistake in its grid or
in its sampler. A test of values must catch all of them; a test of shapes sees none.
"""

import pytest
import torch
from test_stn import TRANSFORMS, same_gradient, same_values
from test_stn import warp as right
from torch.nn import functional as F

from cvattn import SpatialTransformer, affine_grid
from cvattn.warps import controls, linear_grid

SHAPE, OTHER = (2, 5, 7), (3, 4)        # B, H, W, and Hout, Wout


def make(theta, size, align_corners):
    return affine_grid(theta, size, align_corners=align_corners)


def torchs(x, grid, align_corners, **kwargs):
    return F.grid_sample(x, grid, align_corners=align_corners, **kwargs)


def by_hand(x, grid, align_corners, *, whole=torch.floor, weigh=None, size=None,
            outside=0.0, detach=False):
    """Four pixels and their weights, with a place for each usual mistake."""
    B, C, H, W = x.shape
    w, h = size(W, H) if size else (W, H)
    xs, ys = (grid + 1).unbind(-1)
    xs = xs * (w - 1) / 2 if align_corners else (xs * w - 1) / 2
    ys = ys * (h - 1) / 2 if align_corners else (ys * h - 1) / 2
    m, n = whole(xs.detach()), whole(ys.detach())
    dx, dy = xs - m, ys - n
    if detach:
        dx, dy = dx.detach(), dy.detach()
    if weigh:
        dx, dy = weigh(dx, dy)
    b = torch.arange(B)[:, None, None]
    V = 0
    for i, a in ((n, 1 - dy), (n + 1, dy)):
        for j, c in ((m, 1 - dx), (m + 1, dx)):
            inside = (i >= 0) & (i < H) & (j >= 0) & (j < W)
            pixel = x[b, :, i.long().clamp(0, H - 1), j.long().clamp(0, W - 1)]
            seen = torch.where(inside, 1.0, outside).to(x.dtype)
            V = V + pixel * (a * c * seen)[..., None]
    return V.permute(0, 3, 1, 2)


def steps(a, b):
    """Not a mistake, but the wrong sizes, for the coordinates of the grid."""
    return lambda theta, size, align: make(theta, size, align) * a + b


GRIDS = {
    "the rows of theta swapped": lambda t, s, a: make(t.flip(1), s, a),
    "x and y swapped": lambda t, s, a: make(t, s, a).flip(-1),
    "(yt, xt, 1) for (xt, yt, 1)": lambda t, s, a: make(t[:, :, [1, 0, 2]], s, a),
    "the turn backwards": lambda t, s, a: make(
        torch.cat((t[:, :, :2].mT, t[:, :, 2:]), 2), s, a),
    "the shift forgotten": lambda t, s, a: make(
        torch.cat((t[:, :, :2], 0 * t[:, :, 2:]), 2), s, a),
    "the shift in pixels": lambda t, s, a: make(
        torch.cat((t[:, :, :2], t[:, :, 2:] * 2 / s[1]), 2), s, a),
    "align_corners mixed": lambda t, s, a: make(t, s, not a),
    "coordinates from 0 to 1": steps(0.5, 0.5),
    "the map of the next picture": lambda t, s, a: make(t.roll(1, 0), s, a),
    "one map for the whole batch": lambda t, s, a: make(
        t.mean(0, keepdim=True).expand_as(t), s, a),
    "theta as bfloat16": lambda t, s, a: make(t.bfloat16().to(t.dtype), s, a),
}
SAMPLERS = {
    "max_x - 1 (kevinzakka, issue 13)":
        lambda x, g, a: by_hand(x, g, a, size=lambda w, h: (w - 1, h - 1)),
    "width and height exchanged":
        lambda x, g, a: by_hand(x, g, a, size=lambda w, h: (h, w)),
    "align_corners mixed in the sampler": lambda x, g, a: torchs(x, g, not a),
    "the border repeated": lambda x, g, a: torchs(x, g, a, padding_mode="border"),
    "a reflection": lambda x, g, a: torchs(x, g, a, padding_mode="reflection"),
    "the clamped pixel outside": lambda x, g, a: by_hand(x, g, a, outside=1.0),
    "the nearest pixel": lambda x, g, a: torchs(x, g, a, mode="nearest"),
    "bicubic": lambda x, g, a: torchs(x, g, a, mode="bicubic"),
    "int() for floor": lambda x, g, a: by_hand(x, g, a, whole=torch.trunc),
    "round() for floor": lambda x, g, a: by_hand(x, g, a, whole=torch.round),
    "ceil() for floor": lambda x, g, a: by_hand(x, g, a, whole=torch.ceil),
    "dx and 1 - dx exchanged":
        lambda x, g, a: by_hand(x, g, a, weigh=lambda dx, dy: (1 - dx, dy)),
    "dx and dy exchanged":
        lambda x, g, a: by_hand(x, g, a, weigh=lambda dx, dy: (dy, dx)),
    "one weight only":
        lambda x, g, a: by_hand(x, g, a, weigh=lambda dx, dy: (dx, 0 * dy)),
}
UNSEEN = {      # only the gradient is wrong
    "the grid detached": (lambda t, s, a: make(t, s, a).detach() + 0 * t.sum(), torchs),
    "the weights detached": (make, lambda x, g, a: by_hand(x, g, a, detach=True)
                             + 0 * g.sum()),
    "x detached": (make, lambda x, g, a: torchs(x.detach(), g, a) + 0 * x.sum()),
    "the shift detached": (lambda t, s, a: make(
        torch.cat((t[:, :, :2], t[:, :, 2:].detach()), 2), s, a), torchs),
    "a pixel's slope left out, as rows and columns": (
        lambda t, s, a: make(t, s, a) * torch.tensor([1.0, 0]).double()
        + make(t, s, a).detach() * torch.tensor([0, 1.0]).double(), torchs),
}


def mutant(grid=make, sample=torchs):
    class Mutant(SpatialTransformer):
        def forward(self, x):
            size = self.size or x.shape[2:]
            made = grid(self.theta(x), size, self.align_corners)
            return sample(x, made, self.align_corners)

    return Mutant


MUTANTS = ({name: mutant(grid=grid) for name, grid in GRIDS.items()}
           | {name: mutant(sample=sample) for name, sample in SAMPLERS.items()})
aligned = pytest.mark.parametrize("align_corners", [False, True])


@aligned
@pytest.mark.parametrize("name", MUTANTS)
def test_values_catch_it(name, align_corners):
    with pytest.raises(AssertionError):
        same_values(MUTANTS[name], SHAPE, OTHER, align_corners=align_corners)


@pytest.mark.parametrize("name", MUTANTS)
def test_shapes_do_not(name):
    module = MUTANTS[name](torch.nn.Flatten(), features=70, size=OTHER)
    assert module(torch.randn(3, 2, 5, 7)).shape == (3, 2, *OTHER)


@aligned
@pytest.mark.parametrize("name", UNSEEN)
def test_only_the_gradient_catches_it(name, align_corners):
    wrong = mutant(*UNSEEN[name])
    same_values(wrong, SHAPE, OTHER, align_corners=align_corners)
    with pytest.raises(AssertionError):
        same_gradient(wrong, SHAPE, OTHER, align_corners=align_corners)


@aligned
@pytest.mark.parametrize("sample", [torchs, by_hand])
def test_the_right_parts_in_the_mutants_clothes_pass(sample, align_corners):
    right = mutant(sample=sample)
    same_values(right, SHAPE, OTHER, align_corners=align_corners)
    same_gradient(right, SHAPE, OTHER, align_corners=align_corners)


def starts_at_the_identity(cls):
    x = torch.randn(2, 3, 8, 8)
    module = cls(torch.nn.Flatten(), features=192)
    return torch.allclose(module(x), x, atol=1e-5)


def test_the_start_at_the_identity_sees_some_mutants_and_misses_others():
    assert starts_at_the_identity(mutant())
    seen = {name for name, cls in MUTANTS.items() if not starts_at_the_identity(cls)}
    assert "max_x - 1 (kevinzakka, issue 13)" in seen
    assert {"align_corners mixed", "the rows of theta swapped"} <= seen
    assert not seen & {"the border repeated", "int() for floor", "the nearest pixel",
                       "the turn backwards", "dx and dy exchanged"}


# The other three transforms, by what they do with the numbers.

def warp(transform, grid):
    """A transformer with another grid; grid(theta, size, align_corners, module)."""

    class Mutant(SpatialTransformer):
        def forward(self, x):
            made = grid(self.theta(x), self.size or x.shape[2:], self.align_corners,
                        self)
            return torchs(x, made, self.align_corners)

    return transform, Mutant


def spline(kernel, *, affine=True, columns=False):
    """A thin plate spline solved on the spot, with another kernel U(r^2)."""

    def features(T, P):
        r2 = (T[..., None, :] - P).square().sum(-1)
        parts = [kernel(r2)]
        if affine:
            parts += [torch.ones_like(T[..., :1]), T]
        return torch.cat(parts, -1)

    def grid(theta, size, align_corners, module):
        P = controls(3, theta)
        P = P.flip(1) if columns else P
        K = features(P, P)
        extra = K.shape[1] - 9
        L = torch.cat((K, F.pad(K[:, 9:].T, (0, extra)))) if affine else K
        solved = torch.linalg.solve(L, F.pad(theta, (0, 0, 0, extra)))
        one = torch.eye(2, 3, dtype=theta.dtype)[None]
        T = make(one, size, align_corners)
        return features(T, P) @ solved[:, None]

    return grid


def bookstein(r2):
    return torch.special.xlogy(r2, r2)


def unscaled(theta, size, align_corners, module):
    return linear_grid(theta, size, align_corners)[..., :2]


def divided(by):
    def grid(theta, size, align_corners, module):
        xyw = linear_grid(theta, size, align_corners)
        return xyw[..., :2] / by(xyw[..., 2:])

    return grid


WARPS = {
    "attention: (tx, ty, s) for (s, tx, ty)": warp("attention", lambda t, s, a, m: make(
        torch.stack((t[:, 1, 2], 0 * t[:, 0, 0], t[:, 0, 0],
                     0 * t[:, 0, 0], t[:, 1, 2], t[:, 0, 2]), 1).view(-1, 2, 3), s, a)),
    "attention: the shift scaled too": warp("attention", lambda t, s, a, m: make(
        torch.cat((t[:, :, :2], t[:, :, 2:] * t[:, :1, :1]), 2), s, a)),
    "attention: 1/s": warp("attention", lambda t, s, a, m: make(
        torch.cat((torch.eye(2).double() / t[:, :1, :1], t[:, :, 2:]), 2), s, a)),
    "projective: no division": warp("projective", unscaled),
    "projective: a product": warp("projective", divided(lambda w: 1 / w)),
    "projective: w + 1e-6": warp("projective", divided(lambda w: w + 1e-6)),
    "projective: the matrix transposed": warp(
        "projective", lambda t, s, a, m: divided(lambda w: w)(t.mT, s, a, m)),
    "tps: U = r": warp("tps", spline(lambda r2: (r2 + 1e-300).sqrt())),
    "tps: U = r^2 log(r^2 + 1e-3)": warp(
        "tps", spline(lambda r2: r2 * torch.log(r2 + 1e-3))),
    "tps: no affine part": warp("tps", spline(lambda r2: bookstein(r2), affine=False)),
    "tps: the points by columns": warp("tps", spline(bookstein, columns=True)),
    "tps: y before x": warp("tps", lambda t, s, a, m: spline(bookstein)(
        t.flip(-1), s, a, m)),
}


@pytest.mark.parametrize("name", WARPS)
def test_values_catch_a_wrong_warp(name):
    transform, wrong = WARPS[name]
    with pytest.raises(AssertionError):
        same_values(wrong, SHAPE, OTHER, transform)
    module = wrong(torch.nn.Flatten(), features=70, transform=right(transform, 3))
    x = torch.randn(3, 2, 5, 7)
    assert module.double()(x.double()).shape == x.shape, "a test of shapes sees it"


@pytest.mark.parametrize("kernel", [bookstein, lambda r2: bookstein(r2) / 2])
def test_r2_log_r_is_the_same_spline_as_r2_log_r2(kernel):
    """No mutant: the weights take up the factor."""
    same_values(warp("tps", spline(kernel))[1], SHAPE, OTHER, "tps")


def test_every_transform_has_a_mutant():
    mutated = {transform for transform, _ in WARPS.values()} | {"affine"}
    assert mutated == set(TRANSFORMS)
