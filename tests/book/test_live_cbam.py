"""The three live figures of the CBAM chapter: their numbers are PyTorch's."""

import numpy as np
import pytest
import torch
from pages import CLOSE, PHONE, html, same_numbers
from torch.nn import functional as F

from cvattn import ChannelAttention
from cvattn.book import data, live
from cvattn.book.experiments import cbam, cbam_figures


@pytest.fixture(scope="module")
def pool7():
    """The network that the figures show."""
    return cbam.trained("pool7")


@pytest.fixture(scope="module")
def shipped():
    return live.arrays("cbam")


def close(shown, wanted):
    np.testing.assert_allclose(np.ravel(shown), np.ravel(wanted), atol=CLOSE,
                               rtol=CLOSE)


# Data ----------------------------------------------------------------------------


def test_the_shipped_numbers_come_from_the_shipped_weights(pool7):
    same_numbers("cbam", cbam_figures.collect(pool7, *data.fashion_mnist("test")))


# Spot ----------------------------------------------------------------------------


def spot_by_pytorch(pool7, shipped, picture, channel, spot):
    """Mean, maximum and the three gates, from the trained module on the whole map."""
    images = torch.from_numpy(shipped["pictures"][picture : picture + 1])
    half = pool7.layer3[0].attention.channel
    u = cbam_figures.seen(pool7, images)["u"][2].clone()
    if spot:
        u[0, channel, spot["row"] : spot["row"] + spot["side"],
          spot["column"] : spot["column"] + spot["side"]] = spot["value"]
    gates = []
    for pool in (("mean",), ("max",), ("mean", "max")):
        module = ChannelAttention(64, reduction=4, pool=pool)
        module.load_state_dict(half.state_dict())
        with torch.inference_mode():
            gates.append(module.gate(u)[0, channel].item())
    return u[0, channel].mean().item(), u[0, channel].max().item(), gates


def spotted(page, pool7, shipped):
    """Assert that the page's numbers are PyTorch's; return them."""
    spot = page.state("spot")
    mean, top, gates = spot_by_pytorch(pool7, shipped, page.state("picture"),
                                       page.state("channel"), spot)
    close([page.state("mean"), page.state("max")], [mean, top])
    close(page.state("gates"), gates)
    return mean, top, gates


def sliders(page):
    return [page.root.get_by_role("slider", name=name)
            for name in ("Brightness", "Side")]


@pytest.mark.parametrize("picture", range(4))
def test_spot_equals_pytorch_for_every_channel(
        show, pool7, shipped, picture):
    page = show(html("spot"))
    page.root.locator(".even .pick").nth(picture).click()
    bright, side = sliders(page)
    for i, channel in enumerate(shipped["channels"].tolist()):
        page.root.locator(".pick").nth(4 + i).click()
        bright.fill(str(-3 + 2.25 * i))
        side.fill(str(1 + i))
        assert page.state("picture") == picture and page.state("channel") == channel
        assert page.state("spot")["side"] == 1 + i
        mean, top, gates = spotted(page, pool7, shipped)
        assert f"{gates[2]:.3f}" in page.said()
    assert page.errors == []


def test_spot_taken_away_leaves_the_map(show, pool7, shipped):
    page = show(html("spot"))
    page.root.get_by_role("button", name="Take the spot away").click()
    assert page.state("spot") is None
    mean, top, _ = spotted(page, pool7, shipped)
    u = shipped["u"][0, 0]
    close([mean, top], [u.mean(), u.max()])
    assert "the mean stays, the maximum stays" in page.said()


def test_spot_below_the_maximum_moves_the_mean_alone(
        show, pool7, shipped):
    page = show(html("spot"))
    top = shipped["u"][0, 0].max()
    sliders(page)[0].fill(str(np.floor(4 * (top - 0.1)) / 4))
    mean, now, _ = spotted(page, pool7, shipped)
    u = shipped["u"][0, 0].copy()
    was, u[3, 3] = u[3, 3], page.state("spot")["value"]
    assert now == pytest.approx(max(u.max(), -9), abs=CLOSE)
    close(mean, u.mean())
    assert mean - shipped["u"][0, 0].mean() == pytest.approx(
        (u[3, 3] - was) / 49, abs=CLOSE)


@pytest.mark.parametrize("by", ["mouse", "touch", "keyboard"])
def test_spot_is_moved(show, pool7, shipped, by):
    page = show(html("spot"), **(PHONE if by == "touch" else {}))
    target = page.root.locator(".map")
    if by == "keyboard":
        for key in ("ArrowUp", "ArrowUp", "ArrowRight"):
            target.press(key)
        wanted = (1, 4)
        target.press("-")
        assert page.state("spot")["value"] == 5.75
    else:
        ends = [(0.5, 0.5), (6.5 / 7, 0.5 / 7)]
        if by == "mouse":
            page.drag(target, *ends)
        else:
            page.swipe(*[page.place(target, *end) for end in ends])
        wanted = (0, 6)
    assert (page.state("spot")["row"], page.state("spot")["column"]) == wanted
    spotted(page, pool7, shipped)


def test_a_large_spot_stays_on_the_map(show, pool7, shipped):
    page = show(html("spot"))
    sliders(page)[1].press("End")
    page.root.locator(".map").press("ArrowLeft")
    assert page.state("spot") == {"side": 7, "value": 6, "row": 0, "column": 0}
    mean, top, _ = spotted(page, pool7, shipped)
    assert mean == top == 6


# Slide ---------------------------------------------------------------------------


def window_by_pytorch(shipped, picture, row, column):
    maps = torch.from_numpy(shipped["maps"][picture])
    kernel = torch.from_numpy(shipped["kernel"])
    window = F.pad(maps, (3, 3, 3, 3))[:, row : row + 7, column : column + 7]
    gates = torch.sigmoid(F.conv2d(maps[None], kernel[None], padding=3))[0, 0]
    return kernel * window, gates


def slid(page, shipped):
    row, column = page.state("row"), page.state("column")
    products, gates = window_by_pytorch(shipped, page.state("picture"), row, column)
    close(page.state("products"), products)
    close(page.state("gates"), gates)
    close(page.state("gate"), gates[row, column])
    assert f"gate {page.state('gate'):.4f}" in page.said()


@pytest.mark.parametrize("picture", range(4))
def test_slide_equals_pytorchs_convolution(show, shipped, picture):
    page = show(html("slide"))
    page.root.locator(".pick").nth(picture).click()
    slid(page, shipped)
    target = page.root.locator(".large").first
    for x, y in ((0, 0), (0.999, 0.999), (0.02, 0.6), (0.4, 0.3)):
        page.drag(target, (0.5, 0.5), (x, y))
        slid(page, shipped)
    assert page.errors == []


def test_the_gates_of_the_figure_are_those_of_the_network(
        show, pool7, shipped):
    images = torch.from_numpy(shipped["pictures"])
    own = cbam_figures.seen(pool7, images)["own"][int(shipped["block"]) - 1]
    page = show(html("slide"))
    for picture in range(4):
        page.root.locator(".pick").nth(picture).click()
        close(page.state("gates"), own[picture])


@pytest.mark.parametrize(("by", "on"), [
    ("keyboard", 0),            # the first map takes the keys for all three
    *[(by, on) for by in ("mouse", "touch") for on in range(3)],
])
def test_slide_window_is_moved_on_every_map(show, shipped, by, on):
    page = show(html("slide"), **(PHONE if by == "touch" else {}))
    target = page.root.locator(".large").nth(on)
    if by == "keyboard":
        for key in ("ArrowUp", "ArrowLeft", "Shift+ArrowDown"):
            target.press(key)
        wanted = (16, 13)
    else:
        ends = [(0.5, 0.5), (20.5 / 28, 4.5 / 28)]
        if by == "mouse":
            page.drag(target, *ends)
        else:
            page.swipe(*[page.place(target, *end) for end in ends])
        wanted = (4, 20)
    assert (page.state("row"), page.state("column")) == wanted
    slid(page, shipped)


def test_slide_says_when_the_window_reaches_beyond(show, shipped):
    page = show(html("slide"))
    assert "beyond the border" not in page.said()
    for _ in range(4):
        page.root.locator(".large").first.press("Shift+ArrowLeft")
    assert page.state("column") == 0
    slid(page, shipped)
    assert "beyond the border and reads zeros" in page.said()


def test_slide_goes_to_the_extremes_and_its_sliders_follow(
        show, shipped):
    page = show(html("slide"))
    row, column = (page.root.get_by_role("slider", name=name)
                   for name in ("Row", "Column"))
    for name, best in (("Smallest gate", torch.argmin), ("Largest gate", torch.argmax)):
        page.root.get_by_role("button", name=name).click()
        at = best(window_by_pytorch(shipped, 0, 0, 0)[1]).item()
        assert (page.state("row"), page.state("column")) == divmod(at, 28)
        assert (int(row.input_value()), int(column.input_value())) == divmod(at, 28)
        slid(page, shipped)
    row.fill("3")
    column.fill("25")
    assert (page.state("row"), page.state("column")) == (3, 25)
    slid(page, shipped)


# Paint ---------------------------------------------------------------------------


def painted(page, pool7, shipped):
    """Assert that the probabilities are PyTorch's for the page's mask."""
    images = torch.from_numpy(shipped["pictures"])
    i = page.state("picture")
    A = cbam_figures.seen(pool7, images[i : i + 1])["features"]
    mask = torch.tensor(page.state("mask"), dtype=torch.float32).view(7, 7)
    with torch.inference_mode():
        p = pool7.fc((mask * A).mean(dim=(2, 3))).softmax(1)[0]
    close(page.state("probabilities"), p)
    best = p.argmax().item()
    assert f"{data.CLASSES[best]}, {p[best]:.3f}" in page.said()
    return mask, p


BUTTONS = ("All open", "All shut", "CBAM's own", "CBAM's, stretched", "Grad-CAM",
           "Turn over")


@pytest.mark.parametrize("picture", range(4))
def test_paint_equals_pytorch_for_every_button(
        show, pool7, shipped, picture):
    page = show(html("paint"))
    page.root.locator(".pick").nth(picture).click()
    masks = {}
    for name in BUTTONS:
        page.root.get_by_role("button", name=name, exact=True).click()
        masks[name], p = painted(page, pool7, shipped)
    own = torch.from_numpy(shipped["own"][picture])
    close(masks["CBAM's own"], own)
    close(masks["CBAM's, stretched"], (own - own.min()) / (own.max() - own.min()))
    assert masks["All open"].unique().tolist() == [1]
    assert masks["All shut"].unique().tolist() == [0]
    w = torch.from_numpy(shipped["fc_weight"])[shipped["labels"][picture]]
    heat = torch.einsum("c, cij -> ij", w,
                        torch.from_numpy(shipped["features"][picture])).relu()
    close(masks["Grad-CAM"], heat / heat.max())
    close(masks["Turn over"], 1 - heat / heat.max())
    assert page.errors == []


def test_paint_open_everywhere_is_the_network(show, pool7, shipped):
    page = show(html("paint"))
    for picture in range(4):
        page.root.locator(".pick").nth(picture).click()
        image = torch.from_numpy(shipped["pictures"][picture : picture + 1])
        with torch.inference_mode():
            p = pool7(data.to_float(image)).softmax(1)
        close(page.state("probabilities"), p)
        assert p.argmax() == shipped["labels"][picture]


@pytest.mark.parametrize("by", ["mouse", "touch", "keyboard"])
def test_paint_shuts_the_places_under_the_brush(
        show, pool7, shipped, by):
    page = show(html("paint"), **(PHONE if by == "touch" else {}))
    grid, wanted = page.root.locator(".grid"), torch.ones(7, 7)
    if by == "keyboard":
        for key in ("ArrowUp", "Space", "ArrowLeft", "Space", "o"):
            grid.press(key)
        wanted[2, 3] = 0
    else:
        page.root.get_by_role("slider", name="Brush").fill("0.25")
        ends = [(0.5 / 7, 1.5 / 7), (6.5 / 7, 1.5 / 7)]
        if by == "mouse":
            page.drag(grid, *ends)
        else:
            page.swipe(*[page.place(grid, *end) for end in ends], steps=2)
        wanted[1] = 0.25
        assert "7 places at 0.25" in page.said()
    assert torch.equal(painted(page, pool7, shipped)[0], wanted)


def test_paint_a_mask_shut_everywhere_leaves_the_bias(
        show, pool7, shipped):
    page = show(html("paint"))
    page.root.get_by_role("button", name="All shut").click()
    close(page.state("probabilities"),
          torch.from_numpy(shipped["fc_bias"]).softmax(0))
