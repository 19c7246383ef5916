"""The spatial transformer: its grids, its sampler, their gradients, its start."""

import copy
import doctest
import inspect
import io
import os
import pickle
import re
import shutil

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import cvattn.stn
import cvattn.warps
from cvattn import SpatialTransformer, affine_grid, bilinear_sample
from cvattn.warps import (
    Affine,
    Attention,
    Projective,
    ThinPlateSpline,
    controls,
    projective_grid,
    spline_grid,
)

CI = os.environ.get("CI", "").lower() == "true"
# B, H, W of x with C = 2, and Hout, Wout.
SIZES = [((1, 3, 7), (5, 2)), ((2, 7, 5), None), ((5, 2, 3), (3, 5))]

TRANSFORMS = {"affine": Affine, "attention": Attention, "projective": Projective,
              "tps": ThinPlateSpline}

aligned = pytest.mark.parametrize("align_corners", [False, True])
every = pytest.mark.parametrize("transform", TRANSFORMS)
sized = pytest.mark.parametrize("shape, size", SIZES)


def warp(transform, points=4):
    """The transform of this name; points are for the spline alone."""
    return TRANSFORMS[transform](*([points] if transform == "tps" else []))


class Given(nn.Module):
    """A localisation network that has decided already: x to features of its own."""

    def __init__(self, *features):
        super().__init__()
        self.f = nn.Parameter(torch.randn(*features))

    def forward(self, x):
        return self.f


def localised(channels, features=6):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(channels, features), nn.Tanh())


def seeded(cls, b, transform, spread=0.3, **kwargs):
    """A transformer in float64 that warps each picture, each in its own way."""
    torch.manual_seed(0)
    transformer = cls(Given(b, 3), features=3, transform=warp(transform, 3), **kwargs)
    nn.init.normal_(transformer.regressor.weight, std=spread)
    return transformer.double()


def chosen(transform, channels, std=0.3, points=4, **kwargs):
    """A transformer whose localisation network sees x, in eval mode."""
    torch.manual_seed(0)
    transformer = SpatialTransformer(
        localised(channels), features=6, transform=warp(transform, points), **kwargs)
    nn.init.normal_(transformer.regressor.weight, std=std)
    return transformer.eval()


def some(*shape, dtype=torch.float64):
    torch.manual_seed(1)
    return torch.randn(*shape, dtype=dtype)


def arrays(transformer):
    return [p.detach().numpy() for p in (
        transformer.localise.f, transformer.regressor.weight,
        transformer.regressor.bias)]


def wanted_grid(theta, transform, size, align_corners):
    make = reference.stn_spline if transform == "tps" else reference.stn_grid
    return make(theta, *size, align_corners)


def same_values(cls, shape, size=None, transform="affine", align_corners=False,
                atol=1e-12):
    """Assert that cls, a SpatialTransformer or a mutant, equals the reference."""
    b, h, w = shape
    module = seeded(cls, b, transform, size=size, align_corners=align_corners)
    x = some(b, 2, h, w)
    _, theta = reference.stn_theta(*arrays(module), transform)
    grid = wanted_grid(theta, transform, size or (h, w), align_corners)
    want = reference.stn_sample(x.numpy(), grid, align_corners)
    np.testing.assert_allclose(module(x).detach().numpy(), want, rtol=0, atol=atol)


def same_gradient(cls, shape, size=None, transform="affine", align_corners=False):
    """Assert the reference's gradient for x, the features and the regressor."""
    b, h, w = shape
    size = size or (h, w)
    module = seeded(cls, b, transform, size=size, align_corners=align_corners)
    x = some(b, 2, h, w).requires_grad_()
    g = torch.randn(b, 2, *size, dtype=torch.float64)
    module(x).backward(g)
    f, W, bias = arrays(module)
    p, theta = reference.stn_theta(f, W, bias, transform)
    grid = wanted_grid(theta, transform, size, align_corners)
    dx, dgrid = reference.stn_sample_gradient(
        g.numpy(), x.detach().numpy(), grid, align_corners)
    if transform == "affine":
        dp = reference.stn_grid_gradient(dgrid, align_corners).reshape(b, 6)
        atol = 1e-10
    else:                                   # the grid is smooth: by differences
        dp, atol = np.zeros_like(p), 1e-6
        for k in range(p.shape[1]):
            ends = []
            for sign in (1, -1):
                moved = bias.copy()
                moved[k] += sign * 1e-6
                _, theta = reference.stn_theta(f, W, moved, transform)
                ends.append(wanted_grid(theta, transform, size, align_corners))
            dp[:, k] = (dgrid * (ends[0] - ends[1]) / 2e-6).sum((1, 2, 3))
    want = [dx, dp @ W, dp.T @ f, dp.sum(0)]
    got = [x, module.localise.f, module.regressor.weight, module.regressor.bias]
    for mine, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(mine.grad.numpy(), theirs, rtol=1e-7, atol=atol)


@every
@aligned
@sized
def test_values_equal_the_reference(shape, size, align_corners, transform):
    same_values(SpatialTransformer, shape, size, transform, align_corners)


@every
@aligned
@sized
def test_gradient_equals_the_reference(shape, size, align_corners, transform):
    same_gradient(SpatialTransformer, shape, size, transform, align_corners)


@aligned
def test_the_reference_gradient_equals_differences_of_the_reference(align_corners):
    """So that module and reference cannot share a mistake in the chain rule."""
    rng = np.random.default_rng(0)
    U, theta = rng.normal(size=(2, 2, 3, 5)), rng.normal(size=(2, 2, 3))
    g = rng.normal(size=(2, 2, 4, 3))
    grid = reference.stn_grid(theta, 4, 3, align_corners)

    def loss(U, grid):
        return (g * reference.stn_sample(U, grid, align_corners)).sum()

    dU, dgrid = reference.stn_sample_gradient(g, U, grid, align_corners)
    dtheta = reference.stn_grid_gradient(dgrid, align_corners)
    step, h = rng.normal(size=U.shape), 1e-6
    assert (dU * step).sum() == pytest.approx(
        (loss(U + h * step, grid) - loss(U - h * step, grid)) / (2 * h), rel=1e-7)
    step = rng.normal(size=grid.shape)
    assert (dgrid * step).sum() == pytest.approx(
        (loss(U, grid + h * step) - loss(U, grid - h * step)) / (2 * h), rel=1e-6)
    step = rng.normal(size=theta.shape)
    ends = [loss(U, reference.stn_grid(theta + s * h * step, 4, 3, align_corners))
            for s in (1, -1)]
    assert (dtheta * step).sum() == pytest.approx((ends[0] - ends[1]) / (2 * h),
                                                  rel=1e-6)


# The two functions against torch's.

PLACES = [
    ((2, 3, 7, 5), (11, 3)), ((1, 2, 1, 5), (3, 1)), ((5, 1, 3, 1), (2, 2)),
    ((2, 2, 1, 1), (4, 3)),
]


def both(x, theta, grid, align_corners):
    """Value and gradients of grid and sample, ours and torch's, for one loss."""
    results = []
    size = grid.shape[1:3]
    for ours in (True, False):
        t, u, at = (a.detach().clone().requires_grad_() for a in (theta, x, grid))
        if ours:
            made = affine_grid(t, size, align_corners=align_corners)
            V = bilinear_sample(u, made + at, align_corners=align_corners)
        else:
            made = F.affine_grid(t, (len(t), 1, *size), align_corners=align_corners)
            V = F.grid_sample(u, made + at, align_corners=align_corners)
        torch.manual_seed(7)
        V.backward(torch.randn_like(V))
        results.append([made.detach(), V.detach(), u.grad, at.grad, t.grad])
    return zip(*results, strict=True)


@aligned
@pytest.mark.parametrize("dtype, atol", [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("shape, size", PLACES)
@pytest.mark.filterwarnings("ignore:Since version 1.3.0:UserWarning")
def test_both_functions_equal_torchs_inside_and_outside(
        shape, size, dtype, atol, align_corners):
    x, theta = some(*shape, dtype=dtype), some(shape[0], 2, 3, dtype=dtype)
    grid = some(shape[0], *size, 2, dtype=dtype) / 2
    for mine, torchs in both(x, theta, grid, align_corners):
        torch.testing.assert_close(mine, torchs, rtol=0, atol=atol)


@aligned
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_both_are_equal_at_pixel_centres_and_borders_too(align_corners, dtype):
    """Sizes whose coordinates have no rounding, so that the kinks are met exactly."""
    h, w = (5, 9) if align_corners else (4, 8)
    steps = torch.arange(-4, 5, dtype=dtype)
    ys, xs = torch.meshgrid(steps / 4, steps / 4, indexing="ij")
    halves = torch.stack((xs, ys), -1)[None] * 1.5      # centres, edges, outside
    centres = affine_grid(torch.eye(2, 3, dtype=dtype)[None] * 2, (h, w),
                          align_corners=align_corners)
    for grid in (halves, centres):
        x, none = some(1, 3, h, w, dtype=dtype), torch.zeros(1, 2, 3, dtype=dtype)
        for mine, torchs in both(x, none, grid, align_corners):
            torch.testing.assert_close(mine, torchs, rtol=1e-6, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(b=st.integers(1, 3), c=st.integers(1, 3), h=st.integers(1, 9),
       w=st.integers(1, 9), hout=st.integers(1, 9), wout=st.integers(1, 9),
       seed=st.integers(0, 999), align_corners=st.booleans())
def test_any_shapes_and_places_equal_torchs(b, c, h, w, hout, wout, seed,
                                            align_corners):
    torch.manual_seed(seed)
    x = torch.randn(b, c, h, w, dtype=torch.float64, requires_grad=True)
    grid = torch.randn(b, hout, wout, 2, dtype=torch.float64, requires_grad=True)
    mine = bilinear_sample(x, grid, align_corners=align_corners)
    torchs = F.grid_sample(x, grid, align_corners=align_corners)
    torch.testing.assert_close(mine, torchs, rtol=0, atol=1e-12)
    g = torch.randn_like(mine)
    for ours, theirs in zip(torch.autograd.grad(mine, (x, grid), g),
                            torch.autograd.grad(torchs, (x, grid), g), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@every
@aligned
def test_the_module_equals_its_two_parts(transform, align_corners):
    """forward uses torch's sampler; value and gradient are those of ours."""
    module, x = chosen(transform, 3, align_corners=align_corners), some(2, 3, 7, 5)
    module = module.double()
    inputs = [x.requires_grad_(), *module.parameters()]
    parts = bilinear_sample(x, module.grid(x), align_corners=align_corners)
    torch.testing.assert_close(module(x), parts, rtol=0, atol=1e-12)
    for mine, theirs in zip(torch.autograd.grad(module(x).square().sum(), inputs),
                            torch.autograd.grad(parts.square().sum(), inputs),
                            strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


def test_at_a_pixel_centre_the_slope_is_to_the_right_and_eq_7_is_no_slope():
    """The kink of Eq. 5: torch and we take one side of it, Eq. 7 takes neither."""
    x = torch.tensor([[[[2.0, 3.0, 7.0, 4.0]]]], dtype=torch.float64)
    centre = torch.tensor([-1.25, -0.75, -0.25, 0.25, 0.75, 1.25], dtype=torch.float64)
    grid = torch.stack((centre, torch.zeros(6).double()), -1)[None, None]
    slopes = {}
    for name, f in (("ours", bilinear_sample), ("torch", F.grid_sample)):
        at = grid.clone().requires_grad_()
        f(x, at, align_corners=False).sum().backward()
        slopes[name] = at.grad[0, 0, :, 0] / 2          # W/2 pixels in one unit
    right = torch.tensor([2.0, 1.0, 4.0, -3.0, -4.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(slopes["ours"], right)
    torch.testing.assert_close(slopes["torch"], right)
    _, eq7 = reference.stn_sample_gradient(np.ones((1, 1, 1, 6)), x.numpy(),
                                           grid.numpy())
    np.testing.assert_allclose(eq7[0, 0, :, 0] / 2, [0, 2, 3, 7, 4, 0])
    # So a picture of one colour would be told to move, where nothing changes.
    _, flat = reference.stn_sample_gradient(
        np.ones((1, 1, 1, 1)), np.ones((1, 1, 1, 4)), np.array([[[[-0.25, 0.0]]]]))
    assert flat[0, 0, 0, 0] == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sample", [bilinear_sample, F.grid_sample])
@pytest.mark.parametrize("w", [7, 11, 13, 56])
def test_at_the_identity_each_slope_is_one_sided_and_rounding_chooses(w, sample, dtype):
    """So ours and torch's may differ there, and each is right on its side."""
    x = some(1, 1, 1, w, dtype=dtype)
    grid = affine_grid(torch.eye(2, 3, dtype=dtype)[None], (1, w)).contiguous()
    grid.requires_grad_()
    sample(x, grid, align_corners=False).sum().backward()
    slope = grid.grad[0, 0, :, 0] / (w / 2)
    padded = F.pad(x[0, 0, 0], (1, 1))
    right, left = padded[2:] - padded[1:-1], padded[1:-1] - padded[:-2]
    side = torch.where((slope - right).abs() < (slope - left).abs(), right, left)
    torch.testing.assert_close(slope, side, rtol=0, atol=2e-5)


@aligned
def test_what_is_not_a_number_and_what_is_infinite(align_corners):
    nan, inf = float("nan"), float("inf")
    grid = torch.tensor([[[[nan, 0.0], [0, nan], [inf, 0], [0, -inf], [1e30, 0],
                           [0.1, 0.1]]]], requires_grad=True)
    x = some(1, 2, 3, 5, dtype=torch.float32).requires_grad_()
    V = bilinear_sample(x, grid, align_corners=align_corners)
    assert V[..., :2].isnan().all() and (V[..., 2:5] == 0).all()
    assert V[..., 5].isfinite().all()
    V[..., 2:].sum().backward()
    assert x.grad.isfinite().all() and grid.grad[:, :, 2:].isfinite().all()
    torchs = F.grid_sample(x, grid, align_corners=align_corners)
    torch.testing.assert_close(V[..., 4:], torchs[..., 4:])
    assert torchs[..., :2].isnan().all(), "torch's CPU sampler hides a NaN"


@every
def test_nan_spoils_its_own_picture_and_no_other(transform):
    module, x = chosen(transform, 3), some(5, 3, 4, 7, dtype=torch.float32)
    y = module(x)
    x[2, 1, 1, 1] = float("nan")
    spoiled = module(x)
    assert module.grid(x)[2].isnan().all() and spoiled[2].isnan().all()
    others = [0, 1, 3, 4]
    assert torch.equal(spoiled[others], y[others])


@every
def test_an_empty_batch_gives_an_empty_result(transform):
    module, x = chosen(transform, 3), torch.zeros(0, 3, 5, 7, requires_grad=True)
    y = module(x)
    y.sum().backward()
    assert y.shape == x.shape == x.grad.shape and module.grid(x).shape == (0, 5, 7, 2)
    assert bilinear_sample(x, torch.zeros(0, 4, 2, 2)).shape == (0, 3, 4, 2)
    assert affine_grid(torch.zeros(0, 2, 3), (4, 2)).shape == (0, 4, 2, 2)


@pytest.mark.parametrize("x_type, grid_type", [
    (torch.float32, torch.float64), (torch.float64, torch.float32),
    (torch.bfloat16, torch.float32), (torch.float16, torch.float32),
    (torch.bfloat16, torch.bfloat16), (torch.float32, torch.int64),
])
def test_types_mix_and_the_result_has_that_of_x(x_type, grid_type):
    x, grid = some(2, 3, 7, 5).to(x_type), (some(2, 4, 3, 2) / 2).to(grid_type)
    V = bilinear_sample(x, grid)
    exact = bilinear_sample(x.double(), grid.double())
    assert V.dtype == x_type
    atol = 1e-5 if x_type.itemsize >= 4 else 0.02
    torch.testing.assert_close(V.double(), exact, rtol=0, atol=atol)


# The transforms.

@every
@aligned
@pytest.mark.parametrize("points", [2, 4])
def test_it_starts_at_the_identity(transform, align_corners, points):
    module = SpatialTransformer(
        localised(3), features=6, transform=warp(transform, points),
        align_corners=align_corners)
    assert not module.regressor.weight.any()
    exact = (9, 17) if align_corners else (8, 16)
    x = some(2, 3, *exact, dtype=torch.float32)
    assert torch.equal(module(x), x)
    x = some(2, 3, 13, 11, dtype=torch.float32)
    torch.testing.assert_close(module(x), x, rtol=0, atol=2e-5)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_cast_does_not_move_the_identity(transform, dtype):
    """The spline's points and where they start from are rounded alike."""
    module = SpatialTransformer(nn.Flatten(), features=3 * 8 * 16,
                                transform=warp(transform, 6)).to(dtype)
    x = some(2, 3, 8, 16, dtype=dtype)
    torch.testing.assert_close(module(x), x, rtol=0,
                               atol=1e-5 if dtype == torch.float64 else 0)


@every
def test_it_counts_and_is_built_on_the_meta_device(transform):
    """It runs there, for counts; built there and then loaded, it has its numbers."""
    made, x = chosen(transform, 3), some(2, 3, 7, 5, dtype=torch.float32)
    with torch.device("meta"):
        module = SpatialTransformer(localised(3), features=6,
                                    transform=warp(transform))
        assert module(torch.zeros(2, 3, 7, 5)).shape == x.shape
    module.to_empty(device="cpu").load_state_dict(made.state_dict())
    assert torch.equal(module(x), made(x))


@every
def test_the_first_step_moves_the_regressor_alone(transform):
    module, x = chosen(transform, 3, std=0), some(5, 3, 7, 5, dtype=torch.float32)
    module(x).square().sum().backward()
    assert module.regressor.weight.grad.any() and module.regressor.bias.grad.any()
    assert not any(p.grad.any() for p in module.localise.parameters())
    nn.init.normal_(module.regressor.weight, std=0.1)
    module(x).square().sum().backward()
    assert all(p.grad.any() for p in module.localise.parameters())


@pytest.mark.parametrize("features", [1, 32])
@pytest.mark.parametrize("transform, points, numbers", [
    ("affine", 4, 6), ("attention", 4, 3), ("projective", 4, 8), ("tps", 4, 32),
    ("tps", 3, 18), ("tps", 2, 8),
])
def test_parameter_count(transform, points, numbers, features):
    module = SpatialTransformer(nn.Identity(), features=features,
                                transform=warp(transform, points))
    count = sum(p.numel() for p in module.parameters())
    assert count == features * numbers + numbers
    assert list(module.state_dict()) == ["regressor.weight", "regressor.bias"]


def test_defaults():
    parameters = inspect.signature(SpatialTransformer).parameters
    empty = inspect.Parameter.empty
    assert {k: p.default for k, p in parameters.items()} == {
        "localise": empty, "features": empty, "transform": None, "size": None,
        "align_corners": False}
    assert type(SpatialTransformer(nn.Identity(), features=1).transform) is Affine
    assert inspect.signature(ThinPlateSpline).parameters["points"].default == 4


@aligned
def test_a_quarter_turn_is_rot90(align_corners):
    x = some(2, 3, 7, 7)
    turn = torch.tensor([[[0.0, -1, 0], [1, 0, 0]]]).double().expand(2, 2, 3)
    grid = affine_grid(turn, (7, 7), align_corners=align_corners)
    V = bilinear_sample(x, grid, align_corners=align_corners)
    torch.testing.assert_close(V, torch.rot90(x, 1, (2, 3)))


@aligned
@pytest.mark.parametrize("down, right", [(0, 1), (2, 0), (-1, 3), (-3, -2), (7, 0)])
def test_a_whole_translation_is_a_shift_with_zeros(down, right, align_corners):
    x = some(1, 2, 7, 5)
    pixels = (4, 6) if align_corners else (5, 7)        # in the length of [-1, 1]
    move = torch.tensor([[[1, 0, 2 * right / pixels[0]], [0, 1, 2 * down / pixels[1]]]],
                        dtype=torch.float64)
    grid = affine_grid(move, (7, 5), align_corners=align_corners)
    V = bilinear_sample(x, grid, align_corners=align_corners)
    want = F.pad(x, (9, 9, 9, 9))[:, :, 9 + down: 16 + down, 9 + right: 14 + right]
    torch.testing.assert_close(V, want)


def test_two_maps_in_turn_are_their_product():
    """The second map is applied first: the grid goes from output to input."""
    t = torch.linspace(-1, 1, 65, dtype=torch.float64)
    x = torch.exp(-20 * ((t[:, None] - 0.2) ** 2 + (t + 0.1) ** 2))[None, None]
    A = torch.tensor([[0.9, -0.3, 0.1], [0.2, 0.8, 0.0]], dtype=torch.float64)
    B = torch.tensor([[0.7, 0.2, -0.1], [-0.3, 0.9, 0.1]], dtype=torch.float64)

    def warp(x, theta):
        return bilinear_sample(x, affine_grid(theta[None], (65, 65)))

    last = torch.tensor([[0.0, 0, 1]]).double()
    AB = (torch.cat((A, last)) @ torch.cat((B, last)))[:2]
    BA = (torch.cat((B, last)) @ torch.cat((A, last)))[:2]
    assert (warp(warp(x, A), B) - warp(x, AB)).abs().max() < 0.01
    assert (warp(warp(x, A), B) - warp(x, BA)).abs().max() > 0.1


def test_sampling_is_linear_in_x_and_keeps_one_colour():
    a, b, grid = some(2, 3, 7, 5), some(2, 3, 7, 5).flip(1), some(2, 4, 6, 2)
    torch.testing.assert_close(
        bilinear_sample(2 * a - 3 * b, grid),
        2 * bilinear_sample(a, grid) - 3 * bilinear_sample(b, grid))
    inside = bilinear_sample(torch.ones_like(a), grid.clamp(-0.8, 0.8))
    torch.testing.assert_close(inside, torch.ones_like(inside))


def test_the_attention_form_crops():
    """s = 1/2 reads half the width and height, at (tx, ty), pixel by pixel."""
    module = SpatialTransformer(nn.Flatten(), features=2 * 8 * 16,
                                transform=Attention(), size=(4, 8))
    with torch.no_grad():
        module.regressor.bias.copy_(torch.tensor([0.5, 0.5, -0.5]))
    x = some(3, 2, 8, 16, dtype=torch.float32)
    want = torch.tensor([[0.5, 0, 0.5], [0, 0.5, -0.5]])
    assert torch.equal(module.theta(x), want.expand(3, 2, 3))
    assert torch.equal(module(x), x[:, :, :4, 8:])


def test_a_projective_map_with_third_row_0_0_1_is_affine():
    theta = some(2, 2, 3)
    last = torch.tensor([0.0, 0, 1]).double().expand(2, 1, 3)
    grid = projective_grid(torch.cat((theta, last), 1), (3, 5), True)
    torch.testing.assert_close(grid, affine_grid(theta, (3, 5), align_corners=True))


def test_a_projective_map_keeps_lines_straight_but_not_parallel():
    theta = torch.tensor([[[1.0, 0.1, 0], [0.2, 0.9, 0], [0.3, 0.2, 1]]]).double()
    grid = projective_grid(theta, (4, 7), True)[0]
    along = grid[:, 1:] - grid[:, :1]                   # each row from its first point
    turn = along[:, 1:, 0] * along[:, :1, 1] - along[:, 1:, 1] * along[:, :1, 0]
    torch.testing.assert_close(turn, torch.zeros_like(turn))
    slope = along[:, 0, 1] / along[:, 0, 0]
    assert slope.max() - slope.min() > 0.05


def warped(row, corner=0.0):
    """A projective transformer with third row (row, 0, 1), on a map 2 pixels wide."""
    module = SpatialTransformer(nn.Flatten(), features=12, transform=Projective())
    with torch.no_grad():
        module.regressor.bias[6], module.regressor.bias[2] = row, corner
    x = some(1, 3, 2, 2, dtype=torch.float32).requires_grad_()
    y = module(x)
    y.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in (x, *module.parameters()))
    return x.detach(), y.detach(), module.grid(x).detach()


@pytest.mark.parametrize("nudge", [0, 1e-7, -1e-7, 3e-7])
def test_a_point_at_infinity_reads_0_with_a_finite_gradient(nudge):
    x, y, grid = warped(2.0 + 2 * nudge)        # w = 0 or nearly at xt = -1/2
    far = torch.full((2, 2), 0.5 / 1e-6)
    torch.testing.assert_close(grid[0, :, 0].abs(), far)
    assert (y[..., 0] == 0).all() and (y[..., 1] != 0).all()


def test_nought_by_nought_is_finite_too():
    _, y, grid = warped(2.0, corner=0.5)        # xs = w = 0 at xt = -1/2
    assert (grid[0, :, 0, 0] == 0).all() and y.isfinite().all()


def test_behind_the_horizon_the_formula_goes_on_mirrored():
    x, y, grid = warped(4.0)                    # w = -1 at xt = -1/2
    theta = np.array([[[1.0, 0, 0], [0, 1, 0], [4, 0, 1]]])
    want = reference.stn_grid(theta, 2, 2)
    np.testing.assert_allclose(grid.numpy(), want, atol=1e-6)
    torch.testing.assert_close(y[..., 0], x[:, :, :, 1].flip(2))


@pytest.mark.parametrize("points", [2, 3, 4])
def test_the_spline_goes_through_its_points_and_keeps_affine_maps(points):
    module = SpatialTransformer(nn.Identity(), features=1,
                                transform=ThinPlateSpline(points)).double()
    there = some(2, points**2, 2)
    grid = spline_grid(there, module.transform.inverse, (points, points), True)
    torch.testing.assert_close(grid.flatten(1, 2), there, rtol=0, atol=1e-12)
    theta = some(2, 2, 3)
    P = controls(points, theta)
    ends = P @ theta[:, :, :2].mT + theta[:, None, :, 2]
    grid = spline_grid(ends, module.transform.inverse, (5, 3), False)
    torch.testing.assert_close(grid, affine_grid(theta, (5, 3)), rtol=0, atol=1e-12)


def test_a_pulled_point_moves_most_and_its_surroundings_alike():
    module = SpatialTransformer(nn.Identity(), features=1,
                                transform=ThinPlateSpline(3))
    P = controls(3, torch.zeros(()))
    lifted = P.clone()
    lifted[4] += torch.tensor([0.0, 0.5])               # pull the middle point down
    inverse = module.transform.inverse
    grid = spline_grid(lifted[None], inverse, (33, 33), True)[0, :, :, 1]
    flat = spline_grid(P[None], inverse, (33, 33), True)[0, :, :, 1]
    moved = grid - flat
    assert moved[16, 16] == pytest.approx(0.5, abs=1e-5)
    assert moved.argmax() == 16 * 33 + 16, "the point that was pulled moved most"
    torch.testing.assert_close(moved, moved.flip(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(moved, moved.flip(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(moved, moved.T, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_no_cast_rounds_the_splines_inverse(dtype):
    module = SpatialTransformer(nn.Identity(), features=1,
                                transform=ThinPlateSpline()).to(dtype)
    P = controls(4, module.transform.inverse)
    L = torch.zeros(19, 19, dtype=torch.float64)
    for i in range(16):
        for j in range(16):
            L[i, j] = reference.bookstein_U(float((P[i] - P[j]).square().sum()))
        L[i, 16:] = L[16:, i] = torch.tensor([1.0, *P[i]])
    one = torch.eye(19, 16, dtype=torch.float64)
    torch.testing.assert_close(L @ module.transform.inverse, one, rtol=0, atol=1e-13)


# Traps.

def ramp(h, w):
    """Each pixel holds its column, so that a sample tells where it was read."""
    return torch.arange(w, dtype=torch.float64).expand(1, 1, h, w)


def test_align_corners_mixed_moves_the_identity_by_half_a_pixel():
    j = torch.arange(7, dtype=torch.float64)
    one = torch.eye(2, 3, dtype=torch.float64)[None]
    V = bilinear_sample(ramp(1, 7), affine_grid(one, (1, 7), align_corners=True))
    shift = V[0, 0, 0] - j
    # Half a pixel outwards at both ends, so half of the last pixel is read.
    torch.testing.assert_close(shift[1:-1], (j / 6 - 0.5)[1:-1])
    assert V[0, 0, 0, -1] == pytest.approx(6 / 2)
    V = bilinear_sample(ramp(1, 7), affine_grid(one, (1, 7)), align_corners=True)
    torch.testing.assert_close(V[0, 0, 0], (j + 0.5) * 6 / 7)       # inwards
    for same in (False, True):
        V = bilinear_sample(ramp(1, 7), affine_grid(one, (1, 7), align_corners=same),
                            align_corners=same)
        torch.testing.assert_close(V, ramp(1, 7))


def test_torchs_affine_grid_loses_digits_under_autocast_and_ours_does_not():
    theta = torch.tensor([[[0.9, 0.2, 0.1], [-0.1, 1.1, 0.0]]])
    exact = affine_grid(theta, (224, 224))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(affine_grid(theta, (224, 224)), exact)
        torchs = F.affine_grid(theta, (1, 3, 224, 224), align_corners=False)
    assert (torchs.float() - exact).abs().max() * 112 > 0.2     # in pixels


@every
def test_under_autocast_theta_becomes_a_grid_in_float32(transform):
    """With the same features the same grid; x keeps its type, and its values."""
    torch.manual_seed(0)
    module = SpatialTransformer(Given(2, 6), features=6, transform=warp(transform))
    nn.init.normal_(module.regressor.weight, std=0.1)
    x = some(2, 3, 13, 11, dtype=torch.float32)
    theta, grid, y = module.theta(x), module.grid(x), module(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module.theta(x), theta) and theta.dtype == torch.float32
        assert torch.equal(module.grid(x), grid) and grid.dtype == torch.float32
        assert torch.equal(module(x), y)
        low = module(x.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), y, rtol=0.01, atol=0.02)
    module = chosen(transform, 3, std=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        near = module.grid(x)
    assert not torch.equal(near, module.grid(x)), "autocast did not reach localise"
    torch.testing.assert_close(near, module.grid(x), rtol=0, atol=0.01)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types(transform, dtype):
    module, x = chosen(transform, 3, std=0.1), some(2, 3, 7, 5, dtype=torch.float32)
    cast = copy.deepcopy(module).to(dtype)
    y = cast(x.to(dtype))
    assert y.dtype == dtype
    assert cast.grid(x.to(dtype)).dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(y.float(), module(x), rtol=0.05, atol=0.1)


# Errors.

RULE = ("transform must be Affine(), Attention(), Projective() or "
        "ThinPlateSpline(points), got ")


@pytest.mark.parametrize("kwargs, message", [
    ({"transform": "shear"}, RULE + "'shear'"),
    ({"transform": ""}, RULE + "''"),
    ({"features": 0}, "features must be a whole number from 1 up, got features=0"),
    ({"transform": nn.ReLU()}, RULE + "ReLU()"),
    ({"transform": Affine}, RULE + "<class 'cvattn.warps.Affine'>"),
    ({"size": (0, 3)}, "size must be two whole numbers from 1 up, got (0, 3)"),
    ({"size": (3, -1)}, "size must be two whole numbers from 1 up, got (3, -1)"),
    ({"size": (3,)}, "size must be two whole numbers from 1 up, got (3,)"),
    ({"size": (1, 3, 5)}, "size must be two whole numbers from 1 up, got (1, 3, 5)"),
    ({"size": (2.5, 3)}, "size must be two whole numbers from 1 up, got (2.5, 3)"),
    ({"size": 28}, "size must be two whole numbers from 1 up, got 28"),
    ({"size": "ab"}, "size must be two whole numbers from 1 up, got 'ab'"),
])
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SpatialTransformer(nn.Identity(), **{"features": 6, **kwargs})
    if "size" in kwargs:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            affine_grid(torch.zeros(2, 2, 3), kwargs["size"])


@pytest.mark.parametrize("points", [1, 0, -3])
def test_a_spline_needs_two_points_a_side(points):
    message = f"points must be a whole number from 2 up, got points={points}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ThinPlateSpline(points)


@pytest.mark.parametrize("x, message", [
    (torch.zeros(3, 5, 7), "x must be (B, C, H, W), got (3, 5, 7)"),
    (torch.zeros(()), "x must be (B, C, H, W), got ()"),
    (torch.zeros(2, 3, 5, 7, 1), "x must be (B, C, H, W), got (2, 3, 5, 7, 1)"),
    (torch.zeros(2, 3, 0, 7), "x must have H and W from 1 up, got (2, 3, 0, 7)"),
    (torch.zeros(2, 3, 5, 0), "x must have H and W from 1 up, got (2, 3, 5, 0)"),
    (torch.zeros(2, 3, 5, 7, dtype=torch.uint8),
     "x must be floating point, got torch.uint8"),
])
def test_bad_maps(x, message):
    module = SpatialTransformer(localised(3), features=6)
    calls = [module, module.grid, module.theta,
             lambda x: bilinear_sample(x, torch.zeros(2, 1, 1, 2))]
    for call in calls:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call(x)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 2), (2, 3, 3), (1, 2, 2, 3), (6,)])
def test_bad_theta(shape):
    message = f"theta must be (B, 2, 3), got {shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        affine_grid(torch.zeros(shape), (3, 5))


@pytest.mark.parametrize("shape", [(2, 5, 7), (2, 2, 5, 7), (2, 5, 7, 3), (1, 5, 7, 2),
                                   (3, 5, 7, 2), (2, 5, 7, 2, 1)])
def test_bad_grids(shape):
    message = f"grid must be (2, Hout, Wout, 2), got {shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        bilinear_sample(torch.zeros(2, 3, 5, 7), torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 5), (2, 7), (3, 6), (2, 6, 1, 1), (12,), (1, 6)])
def test_a_localise_of_another_shape(shape):
    module = SpatialTransformer(Given(*shape), features=6)
    message = f"localise(x) must be (2, 6), got {shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        module(torch.zeros(2, 3, 5, 7))


# What every module of the package promises.

@every
@pytest.mark.parametrize("size", [None, (3, 5)])
def test_gradcheck(transform, size):
    module = chosen(transform, 2, std=0.2, size=size, points=3).double()
    names = dict(module.named_parameters())

    def call(x, *values):
        return torch.func.functional_call(
            module, dict(zip(names, values, strict=True)), x)

    x = some(2, 2, 7, 4).requires_grad_()
    assert torch.autograd.gradcheck(call, (x, *names.values()))


@aligned
def test_gradcheck_of_the_functions(align_corners):
    x, theta = some(2, 2, 5, 3).requires_grad_(), some(2, 2, 3).requires_grad_()

    def call(x, theta):
        grid = affine_grid(theta, (4, 3), align_corners=align_corners)
        return bilinear_sample(x, grid, align_corners=align_corners)

    assert torch.autograd.gradcheck(call, (x, theta))


@every
def test_export_with_any_batch_height_and_width(transform):
    module = chosen(transform, 3)
    names = {0: "b", 2: "h", 3: "w"}
    free = {axis: torch.export.Dim(name) for axis, name in names.items()}
    x = some(2, 3, 13, 11, dtype=torch.float32)
    program = torch.export.export(module, (x,), dynamic_shapes=(free,)).module()
    for shape in ((5, 3, 3, 7), (3, 3, 8, 4), (2, 3, 13, 11)):
        x = some(*shape, dtype=torch.float32)
        torch.testing.assert_close(program(x), module(x))


def test_compile_in_one_graph():
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        (pytest.fail if CI else pytest.skip)("torch.compile needs a C++ compiler")
    modules = [chosen(transform, 3) for transform in TRANSFORMS]
    x = some(2, 3, 7, 5, dtype=torch.float32)

    def network(x):
        return [module(x) for module in modules]

    def functions(x):
        return [bilinear_sample(x, affine_grid(modules[0].theta(x), (3, 4)))]

    # Kernels take seconds to compile; those of the modules are in the contract suite.
    for call, backend in ((network, "aot_eager"), (functions, "inductor")):
        torch._dynamo.reset()
        with torch.no_grad():
            compiled = torch.compile(call, fullgraph=True, backend=backend)(x)
            for got, want in zip(compiled, call(x), strict=True):
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@every
def test_channels_last_gives_the_same_and_is_kept(transform):
    module, x = chosen(transform, 3), some(2, 3, 7, 5, dtype=torch.float32)
    grid = module.grid(x).detach()
    last = x.to(memory_format=torch.channels_last)
    for call in (module, lambda x: bilinear_sample(x, grid)):
        y = call(last)
        torch.testing.assert_close(y, call(x), rtol=0, atol=2e-5)
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert not y.is_contiguous() and call(x).is_contiguous()


@every
def test_copies_state_and_neighbours(transform):
    module, x = chosen(transform, 3), some(3, 3, 7, 5, dtype=torch.float32)
    before = dict(vars(module))
    y = module(x)
    assert vars(module) == before, "forward stored something"
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), y)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = SpatialTransformer(localised(3), features=6, transform=warp(transform))
    assert not torch.equal(other(x), y)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), y)
    torch.testing.assert_close(torch.cat([module(picture[None]) for picture in x]), y,
                               rtol=0, atol=2e-5)


def test_the_docstring_runs():
    found = [doctest.testmod(module) for module in (cvattn.stn, cvattn.warps)]
    assert sum(tried for _, tried in found) >= 3
    assert sum(failed for failed, _ in found) == 0
