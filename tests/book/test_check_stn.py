"""The exercises of "Spatial Transformer Networks": other right answers, near misses."""

import math

import pytest
import torch
from test_check import flat
from torch import nn
from torch.nn import functional as F

from cvattn import SpatialTransformer, affine_grid, bilinear_sample, warps
from cvattn.book import check
from cvattn.book.exercises.stn import EXERCISES


def read(U, x, y):
    """Read one channel at places counted in pixels, by torch."""
    H, W = U.shape
    grid = torch.stack([(2 * x + 1) / W - 1, (2 * y + 1) / H - 1], -1)
    return F.grid_sample(U[None, None], grid[None, None], align_corners=False)[0, 0, 0]


def by_triangles(U, x, y):
    """The sum of the equation, over all pixels."""
    wide = (1 - (x[:, None] - torch.arange(U.shape[1])).abs()).clamp(min=0)
    high = (1 - (y[:, None] - torch.arange(U.shape[0])).abs()).clamp(min=0)
    return torch.einsum("pn, nm, pm -> p", high, U, wide)


def by_int(U, x, y):
    """The chapter's own fault: int() where floor should be."""
    V = torch.zeros_like(x)
    for p, (a, b) in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
        for n in (int(b), int(b) + 1):
            for m in (int(a), int(a) + 1):
                if 0 <= n < U.shape[0] and 0 <= m < U.shape[1]:
                    V[p] += U[n, m] * (1 - abs(a - m)) * (1 - abs(b - n))
    return V


def slope_by_autograd(U, x, y):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(read(U, x, y).sum(), x)[0]


def layer(features):
    return SpatialTransformer(nn.Flatten(), features=features).regressor


def without_parameter(layer):
    bias = layer.bias.detach()
    del layer.bias
    layer.bias = bias
    return layer


def with_bias(layer, bias):
    layer.bias = nn.Parameter(bias)
    return layer


def nudged(layer):
    nn.init.constant_(layer.weight, 1e-4)
    return layer


def off_by_sampling(i, W, made, read):
    """A ramp shows where each pixel is read; it goes on beyond the border."""
    theta = torch.eye(2, 3)[None]
    grid = F.affine_grid(theta, (1, 1, W, W), align_corners=made)
    ramp = torch.arange(-1.0, W + 1).expand(1, 1, W, W + 2)
    wide = (W - 1) / (W + 1) if read else W / (W + 2)
    grid = grid * torch.tensor([wide, 1.0])
    V = F.grid_sample(ramp, grid, align_corners=read, padding_mode="border")
    return V[0, 0, W // 2, i.long()] - i


def test_other_ways_to_be_right_are_right():
    assert check("stn-1", lambda i, W, align_corners: warps.centres(
        W, align_corners, torch.zeros(()))[i.long()])
    assert check("stn-2", lambda box, size: torch.stack([torch.stack([
        torch.tensor([b[2] / size[1], 0, (b[0] + b[2] / 2) / size[1] * 2 - 1]),
        torch.tensor([0, b[3] / size[0], (b[1] + b[3] / 2) / size[0] * 2 - 1])])
        for b in box.tolist()]))
    assert check("stn-3", lambda degrees: torch.stack([torch.tensor(
        [[math.cos(t), math.sin(t), 0], [-math.sin(t), math.cos(t), 0]])
        for t in (degrees * math.pi / 180).tolist()]))
    assert check("stn-4", lambda theta: torch.cat([theta, torch.tensor(
        [[[0.0, 0, 1]]]).expand(len(theta), 1, 3)], 1).inverse()[:, :2])
    assert check("stn-5", by_triangles)
    assert check("stn-6", lambda U, x, y: by_triangles(U, x.floor() + 1, y)
                 - by_triangles(U, x.floor(), y))
    assert check("stn-7", lambda pull, x, y: (pull[:, :, None] * torch.stack(
        [x, y, torch.ones_like(x)], 1)[:, None]).sum(0))
    assert check("stn-8", off_by_sampling)
    assert check("stn-9", layer)


def test_crop_shows_the_box_pixel_by_pixel():
    box, size = EXERCISES["stn-2"].cases()[0]
    x = torch.randn(len(box), 2, *size)
    for theta, picture, b in zip(EXERCISES["stn-2"].reference(box, size), x,
                                 box.int().tolist(), strict=True):
        left, top, width, height = b
        grid = affine_grid(theta[None], (height, width))
        shown = bilinear_sample(picture[None], grid)[0]
        torch.testing.assert_close(
            shown, picture[:, top:top + height, left:left + width],
            atol=1e-4, rtol=1e-4)


def test_turn_turns_the_picture_clockwise():
    theta = EXERCISES["stn-3"].reference(torch.tensor([90.0]))
    x = torch.randn(1, 1, 5, 5)
    turned = bilinear_sample(x, affine_grid(theta, (5, 5)))
    torch.testing.assert_close(turned, x.rot90(-1, (2, 3)), atol=1e-5, rtol=1e-5)


def test_undo_gives_back_the_original():
    (theta,) = EXERCISES["stn-4"].cases()[0]
    back = EXERCISES["stn-4"].reference(theta)
    places = affine_grid(back, (3, 4))                       # read with `back` ...
    ones = torch.ones(*places.shape[:3], 1)
    home = torch.einsum("bhwk, bjk -> bhwj", torch.cat([places, ones], -1), theta)
    still = affine_grid(torch.eye(2, 3).expand(4, 2, 3), (3, 4))
    torch.testing.assert_close(home, still, atol=1e-5, rtol=1e-5)


def test_to_theta_is_the_gradient_that_autograd_finds():
    pull, x, y = EXERCISES["stn-7"].cases()[0]
    theta = torch.eye(2, 3).requires_grad_()
    places = torch.stack([x, y, torch.ones_like(x)], 1) @ theta.T
    (want,) = torch.autograd.grad(places, theta, pull)
    torch.testing.assert_close(EXERCISES["stn-7"].reference(pull, x, y), want)


def test_no_place_is_a_pixel_centre():
    for key in ("stn-5", "stn-6"):
        for _, x, y in EXERCISES[key].cases():
            assert all(((v - v.round()).abs() > 1e-4).all() for v in (x, y))


@pytest.mark.parametrize("answer, told", [
    (lambda features: nn.Sequential(nn.Linear(features, 6)), "not Sequential"),
    (lambda features: nn.Linear(6, features), "It should go from 5 to 6"),
    (lambda features: nn.Linear(features, 6, bias=False), "has no bias"),
    (lambda features: with_bias(layer(features), torch.eye(2, 3)), "is (2, 3)"),
    (lambda features: layer(features).requires_grad_(False), "cannot learn"),
    (lambda features: without_parameter(layer(features)), "cannot learn"),
    (lambda features: layer(features).double(), "is torch.float64"),
    (lambda features: nudged(layer(features)), "The weights are not zero"),
])
def test_what_is_no_regressor_is_told(answer, told):
    assert told in flat(check("stn-9", answer))


@pytest.mark.parametrize("key", ["stn-5", "stn-6"])
def test_an_index_beyond_the_picture_or_a_float_is_told(key):
    assert "Clamp the index" in flat(check(
        key, lambda U, x, y: U[y.floor().long() + 50, x.floor().long()]))
    assert "an index must be whole" in flat(check(
        key, lambda U, x, y: U[y.floor(), x.floor()]))


def biased(*bias):
    def answer(features):
        return with_bias(layer(features), torch.tensor([float(b) for b in bias]))
    return answer


@pytest.mark.parametrize("key, answer, told", [
    ("stn-1", lambda i, W, align_corners: i / (W - 1) * 2 - 1, "not yet"),
    ("stn-1", lambda i, W, align_corners: torch.linspace(-1, 1, W), "not yet"),
    ("stn-2", lambda box, size: torch.zeros(len(box), 6),
     "should return (4, 2, 3): (B, I, J)"),
    ("stn-3", lambda degrees: torch.stack([degrees.cos(), degrees.sin()], 1), "should"),
    ("stn-4", lambda theta: torch.linalg.pinv(theta), "should return (4, 2, 3)"),
    ("stn-5", by_int, "int(), .long() and trunc go towards zero"),
    ("stn-5", read, "but by way of grid_sample"),
    ("stn-5", lambda U, x, y: by_triangles(U, x.round(), y.round()),
     "This is the nearest pixel"),
    ("stn-6", slope_by_autograd, "but by way of autograd"),
    ("stn-6", lambda U, x, y: by_triangles(U, x + 0.5, y) - by_triangles(U, x - 0.5, y),
     "are off"),
    ("stn-7", lambda pull, x, y: torch.stack([pull[:, 0] @ x, pull[:, 0] @ y, pull[
        :, 0].mean(), pull[:, 1] @ x, pull[:, 1] @ y, pull[:, 1].mean()]).view(2, 3),
     "The last column is the mean of the pulls"),
    ("stn-7", lambda pull, x, y: pull.T @ torch.stack([x, y, torch.zeros_like(x)], 1),
     "The last column is zero"),
    ("stn-8", lambda i, W, made, read: (2 * i + 1 - W) / W - i, "are off"),
    ("stn-9", biased(1, 0, 1, 0, 1, 1), "The last column of theta is the shift"),
    ("stn-9", biased(1, 0, 0, 1, 1, 0), "should give (1.0, 0.0, 0.0"),
])
def test_what_a_student_may_also_try_is_wrong_and_told(key, answer, told):
    verdict = check(key, answer)
    assert not verdict and told in flat(verdict)
