"""The live figures of "Spatial Transformer Networks": their numbers are PyTorch's."""

import json

import numpy as np
import pytest
import torch
from pages import CLOSE, PHONE, html, same_numbers
from torch import nn
from torch.nn import functional as F

from cvattn import stn
from cvattn.book import data, live
from cvattn.book.experiments import stn as experiment
from cvattn.book.experiments import stn_figures

SIZE, CANVAS = 28, experiment.CANVAS


def fill(page, **values):
    for name, value in values.items():
        page.root.get_by_role("slider", name=name).fill(str(value))


def press(page, name):
    page.root.get_by_role("button", name=name, exact=True).click()


def theta_of(values):
    return torch.tensor(values, dtype=torch.float64).view(1, 2, 3)


# Warp ----------------------------------------------------------------------------


def grid_of(theta):
    """Return torch's grid, a millionth of a pixel further right and down.

    Sliders go in steps of 0.01, so many places are pixel centres, where the slope has a
    kink and torch's rounding chooses the side. The page takes the right and lower one.
    """
    return F.affine_grid(theta, (1, 1, SIZE, SIZE), align_corners=False) + 1e-7


def loss_of(theta, U):
    V = F.grid_sample(U, grid_of(theta), align_corners=False)
    return ((V - U) ** 2).mean(), V


def warped(page):
    """Assert that every number of the page is PyTorch's; return theta."""
    arrays = live.arrays("stn")
    U = torch.from_numpy(arrays["pictures"][page.state("picture")]).double() / 255
    U = U[None, None]
    theta = theta_of(page.state("theta")).requires_grad_()
    loss, V = loss_of(theta, U)
    near = pytest.approx
    assert page.state("v") == near(V.flatten().tolist(), abs=CLOSE)
    assert page.state("loss") == near(loss.item(), abs=CLOSE)
    (gradient,) = torch.autograd.grad(loss, theta)
    assert page.state("gradient") == near(
        gradient.flatten().tolist(), abs=CLOSE)
    row, column = page.state("row"), page.state("column")
    found = page.state("found")
    grid = grid_of(theta.detach())
    place = grid[:, row:row + 1, column:column + 1].clone().requires_grad_()
    x, y = (((place[0, 0, 0] + 1) * SIZE - 1) / 2).tolist()
    assert (found["x"], found["y"]) == near((x, y), abs=CLOSE)
    read = F.grid_sample(U, place, align_corners=False)
    assert found["V"] == near(read.item(), abs=CLOSE)
    (slope,) = torch.autograd.grad(read.sum(), place)
    assert found["slope"] == near(
        (slope.flatten() * 2 / SIZE).tolist(), abs=CLOSE)
    # The weights are Eq. 6: what reading pictures of one bright pixel gives.
    weights = torch.zeros(SIZE, SIZE, dtype=torch.float64)
    for part in found["four"]:
        i, j = part["row"], part["column"]
        if 0 <= i < SIZE and 0 <= j < SIZE:
            weights[i, j] = part["weight"]
            assert part["value"] == U[0, 0, i, j]
        else:
            assert part["value"] == 0
    ones = torch.eye(SIZE * SIZE, dtype=torch.float64).view(1, -1, SIZE, SIZE)
    want = F.grid_sample(ones, place.detach(), align_corners=False)
    torch.testing.assert_close(weights.flatten(), want.flatten(), atol=CLOSE, rtol=0)
    cells = page.root.locator(".numbers td").all_inner_texts()
    shown = [float(text.replace("\u2212", "-")) for text in cells[2::4]]
    assert shown == near([part["weight"] for part in found["four"]], abs=0.0006)
    assert f"loss {loss.item():.4f}" in page.said()
    return theta.detach()


@pytest.mark.parametrize("picture", range(4))
def test_warp_equals_pytorch(show, picture):
    page = show(html("warp"))
    page.root.locator(".pick").nth(picture).click()
    assert page.state("picture") == picture
    warped(page)
    for values in ((0.52, -1.31, 0.27, 0.83, 0.44, -0.61),
                   (1.7, 0.2, 0.9, -0.3, 1.9, 1.3),
                   (-1.0, 0.01, 0.02, 0.05, 1.0, 0.03)):
        names = ("θ11", "θ12", "θ13", "θ21", "θ22", "θ23")
        fill(page, **dict(zip(names, values, strict=True)))
        torch.testing.assert_close(warped(page), theta_of(values))
    assert page.errors == []


@pytest.mark.parametrize("name, theta", [
    ("Identity", [1, 0, 0, 0, 1, 0]), ("Zoom", [0.5, 0, 0, 0, 0.5, 0]),
    ("Turn", [0.8, -0.6, 0, 0.6, 0.8, 0]), ("Mirror", [-1, 0, 0, 0, 1, 0]),
    ("Far off", [0.5, 0, 0.9, 0, 0.5, 0.2]),
])
def test_warp_presets(show, name, theta):
    page = show(html("warp"))
    press(page, name)
    assert page.state("theta") == theta
    warped(page)
    if name == "Identity":
        assert page.state("loss") < 1e-12


def test_warp_descends_as_pytorch_does(show):
    page = show(html("warp"))
    figure = live.warp().data
    U = torch.from_numpy(live.arrays("stn")["pictures"][0]).double()[None, None] / 255
    theta, losses = theta_of(page.state("theta")), [page.state("loss")]
    for _ in range(3):
        press(page, "Descend")
        for _ in range(figure["steps"]):
            theta.requires_grad_()
            (g,) = torch.autograd.grad(loss_of(theta, U)[0], theta)
            theta = theta.detach() - figure["rate"] * g
        assert page.state("theta") == pytest.approx(theta.flatten().tolist(), abs=1e-4)
        losses.append(page.state("loss"))
        warped(page)
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("picture, name", [(0, "Zoom"), (3, "Zoom"), (3, "Mirror")])
def test_warp_never_goes_uphill(show, picture, name):
    page = show(html("warp"))
    page.root.locator(".pick").nth(picture).click()
    press(page, name)
    losses = [page.state("loss")]
    for _ in range(8):
        press(page, "Descend")
        losses.append(page.state("loss"))
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


@pytest.mark.parametrize("by", ["mouse", "touch"])
def test_warp_handles_set_two_numbers_each(show, by):
    page = show(html("warp"), **(PHONE if by == "touch" else {}))
    press(page, "Identity")
    source, world = page.root.locator(".source"), live.warp().data["world"]

    def at(x, y):
        return (x / world + 1) / 2, (y / world + 1) / 2

    def drag(start, end):
        if by == "mouse":
            page.drag(source, at(*start), at(*end))
        else:
            page.swipe(page.place(source, *at(*start)), page.place(source, *at(*end)))

    drag((1, 0), (0.5, 0.4))
    a, b, x, c, d, y = page.state("theta")
    assert (a, c) == pytest.approx((0.5, 0.4), abs=0.03)
    assert (b, x, d, y) == (0, 0, 1, 0)
    drag((0, 1), (-0.3, 0.8))
    assert page.state("theta")[1::3] == pytest.approx([-0.3, 0.8], abs=0.03)
    drag((0, 0), (0.2, -0.3))
    assert page.state("theta")[2::3] == pytest.approx([0.2, -0.3], abs=0.03)
    sliders = [float(page.root.get_by_role("slider").nth(k).input_value())
               for k in range(6)]
    assert sliders == pytest.approx(page.state("theta"), abs=0.006)
    warped(page)


@pytest.mark.parametrize("by", ["mouse", "touch", "keyboard"])
def test_warp_an_output_pixel_is_chosen(show, by):
    page = show(html("warp"), **(PHONE if by == "touch" else {}))
    target = page.root.locator(".target")
    if by == "keyboard":
        row, column = page.state("row"), page.state("column")
        for key in ("ArrowUp", "ArrowUp", "ArrowRight"):
            target.press(key)
        want = (row - 2, column + 1)
    else:
        at = page.place(target, 26.5 / SIZE, 3.5 / SIZE)
        (page.tab.mouse.click if by == "mouse" else page.tab.touchscreen.tap)(*at)
        want = (3, 26)
    assert (page.state("row"), page.state("column")) == want
    assert f"Output pixel ({want[0]}, {want[1]})" in page.said()
    warped(page)


# Upright -------------------------------------------------------------------------


def test_the_shipped_layers_come_from_the_shipped_weights():
    model = experiment.trained(stn_figures.ARM)
    same_numbers("stn", stn_figures.collect(model, *data.fashion_mnist("test")))


def test_other_localisers_are_refused():
    for part in (nn.Sequential(nn.AvgPool2d(3), nn.Flatten(), nn.Linear(4, 3),
                               nn.BatchNorm1d(3), nn.ReLU()),
                 nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3),
                               nn.ReLU(), nn.Linear(3, 3), nn.ReLU()),
                 nn.Sequential(nn.AvgPool2d(2), nn.Flatten()),
                 nn.Sequential(nn.AvgPool2d(2, stride=1), nn.Flatten(), nn.Linear(4, 3),
                               nn.BatchNorm1d(3), nn.ReLU()),
                 nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3),
                               nn.BatchNorm1d(3, affine=False), nn.ReLU()),
                 nn.Flatten()):
        with pytest.raises(ValueError, match="cannot fold the affine transformer"):
            stn_figures.folded(stn.SpatialTransformer(part, features=3))
    good = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3),
                         nn.BatchNorm1d(3), nn.ReLU())
    stn_figures.folded(stn.SpatialTransformer(good, features=3))
    with pytest.raises(ValueError, match="cannot fold the attention transformer"):
        stn_figures.folded(stn.SpatialTransformer(good, features=3,
                                                  transform="attention"))


def moved(picture, angle, scale, across, down):
    """Turn clockwise by degrees, scale, and move by pixels, by matrices."""
    t = np.deg2rad(angle)
    do = np.array([[scale * np.cos(t), -scale * np.sin(t), 2 * across / CANVAS],
                   [scale * np.sin(t), scale * np.cos(t), 2 * down / CANVAS],
                   [0, 0, 1]])
    back = torch.from_numpy(np.linalg.inv(do)[:2])[None]
    image = torch.from_numpy(live.arrays("stn")["pictures"][picture]).double()
    x = F.pad(image[None, None], [(CANVAS - SIZE) // 2] * 4)
    grid = F.affine_grid(back, x.shape, align_corners=False)
    seen = F.grid_sample(x, grid, align_corners=False)
    return seen, theta_of(do[:2].ravel().tolist())


def transformed(page, net):
    """Assert that every number of the page is that of the trained network."""
    x, wanted = moved(*(page.state(k) for k in (
        "picture", "angle", "scale", "across", "down")))
    assert page.state("seen") == pytest.approx(x.flatten().tolist(), abs=1e-4)
    assert page.state("wanted") == pytest.approx(wanted.flatten().tolist(), abs=CLOSE)
    standard = (x / 255 - data.MEAN) / data.STD
    with torch.no_grad():
        theta = net[0].theta(standard)
        V = 255 * (net[0](standard) * data.STD + data.MEAN)
    assert page.state("theta") == pytest.approx(theta.flatten().tolist(), abs=1e-4)
    assert page.state("v") == pytest.approx(V.flatten().tolist(), abs=0.1)
    for name, map_ in (("want", wanted), ("got", theta)):
        motion = {k: v.item() for k, v in experiment.motions(map_).items()}
        assert page.state(name) == pytest.approx({
            "angle": np.rad2deg(motion["angle"]), "size": np.exp(motion["size"]),
            "across": motion["across"] * CANVAS / 2,
            "down": motion["down"] * CANVAS / 2}, abs=1e-2)
    return theta


@pytest.fixture(scope="module")
def mover():
    return experiment.trained(stn_figures.ARM).double()


@pytest.mark.parametrize("picture", range(4))
def test_upright_equals_pytorch(show, mover, picture):
    page = show(html("upright"))
    page.root.locator(".pick").nth(picture).click()
    assert page.state("picture") == picture
    seen = [transformed(page, mover)]
    for angle, size, right, down in ((-67, 0.66, 4.5, -3), (10, 1.37, -6, 7.5),
                                     (90, 0.5, 0, 0)):
        fill(page, **{"Turn": angle, "Size": size, "To the right": right, "Down": down})
        seen.append(transformed(page, mover))
    assert len({tuple(t.flatten().tolist()) for t in seen}) == 4
    assert page.errors == []


def test_upright_what_is_to_be_undone_is_what_was_done(show):
    page = show(html("upright"))
    fill(page, Turn=30, Size=0.8, **{"To the right": 3, "Down": -2})
    assert page.state("want") == pytest.approx(
        {"angle": 30, "size": 0.8, "across": 3, "down": -2})
    assert "should be turned by 30° and 0.80 times as large" in page.said()
    press(page, "As it was")
    assert page.state("want") == pytest.approx(
        {"angle": 0, "size": 1, "across": 0, "down": 0})


@pytest.mark.parametrize("by", ["mouse", "touch"])
def test_upright_the_object_is_dragged(show, mover, by):
    page = show(html("upright"), **(PHONE if by == "touch" else {}))
    press(page, "As it was")
    given, step = page.root.locator(".given"), 6 / CANVAS / live.upright().data["world"]
    if by == "mouse":
        page.drag(given, (0.5, 0.5), (0.5 + step, 0.5 - step / 2))
    else:
        page.swipe(page.place(given, 0.5, 0.5),
                   page.place(given, 0.5 + step, 0.5 - step / 2))
    assert page.state("across") == pytest.approx(6, abs=0.5)
    assert page.state("down") == pytest.approx(-3, abs=0.5)
    values = [float(page.root.get_by_role("slider", name=name).input_value())
              for name in ("To the right", "Down")]
    assert values == [page.state("across"), page.state("down")]
    transformed(page, mover)


def test_data_are_of_the_trained_shapes():
    shapes = live.upright().data["shapes"]
    assert shapes == [[64, 324], [32, 64], [6, 32]]
    assert json.loads(json.dumps(live.upright().data)) == live.upright().data
