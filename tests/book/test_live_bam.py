"""The three live figures of "Bottleneck Attention": their numbers are PyTorch's."""

import itertools

import pytest
import torch
from pages import CLOSE, PHONE, html, same_numbers
from torch.nn import functional as F

from cvattn.bam import COMBINE
from cvattn.book import data, live
from cvattn.book.experiments import bam, bam_figures


def choose(page, *words):
    for word in words:
        page.root.locator("label.pick", has_text=word).click()


# Field ---------------------------------------------------------------------------


def paths(size, at, L, d):
    """Count the ways from each pixel to one place, by autograd."""
    x = torch.zeros(1, 1, size, size, requires_grad=True, dtype=torch.float64)
    y = x
    for _ in range(L):
        y = F.conv2d(y, torch.ones(1, 1, 3, 3, dtype=y.dtype), padding=d, dilation=d)
    return torch.autograd.grad(y[0, 0, at[0], at[1]], x)[0][0, 0]


def seen(page):
    """Assert that the page counts as autograd does; return what one place sees."""
    size, row, column, L, d = (
        page.state(name) for name in ("size", "row", "column", "layers", "d"))
    want = paths(size, (row, column), L, d)
    assert page.state("paths") == want.flatten().tolist()
    count = int((want > 0).sum())
    assert page.state("seen") == count
    assert page.state("lost") == (2 * L + 1) ** 2 - count
    assert page.state("side") == 1 + 2 * L * d
    assert f"sees {count} pixels" in page.said()
    if page.root.get_attribute("data-beside") == "true":
        near = column + 1 if column + 1 < size else column - 1
        both = (want > 0) & (paths(size, (row, near), L, d) > 0)
        assert page.state("shared") == int(both.sum())
    return want > 0


def sliders(page, *names):
    return [page.root.get_by_role("slider", name=name) for name in names]


@pytest.mark.parametrize("size", [9, 18, 36])
def test_field_equals_autograd(show, size):
    page = show(html("field"))
    choose(page, f"{size} × {size}")
    page.root.get_by_role("button", name="neighbour").click()
    dilation, layers = sliders(page, "Dilation", "Layers")
    for d, L in itertools.product((1, 2, 4, 8), (1, 2, 4)):
        dilation.fill(str(d))
        layers.fill(str(L))
        seen(page)
        assert (page.state("shared") == 0) == (d > 1)
    assert page.errors == []


@pytest.mark.parametrize("by", ["mouse", "touch", "keyboard"])
def test_field_place_is_chosen(show, by):
    page = show(html("field"), **(PHONE if by == "touch" else {}))
    grid = page.root.locator(".grid")
    if by == "keyboard":
        row, column = page.state("row"), page.state("column")
        for key in ("ArrowUp", "ArrowUp", "ArrowRight"):
            grid.press(key)
        want = (row - 2, column + 1)
    else:
        want = (35, 2)
        at = page.place(grid, 2.5 / 36, 35.5 / 36)
        (page.tab.mouse.click if by == "mouse" else page.tab.touchscreen.tap)(*at)
    assert (page.state("row"), page.state("column")) == want
    seen(page)
    if by != "keyboard":
        assert "beyond the border" in page.said()


def test_field_a_smaller_map_keeps_the_place_inside(show):
    page = show(html("field"))
    choose(page, "9 × 9")
    grid = page.root.locator(".grid")
    for key in ["ArrowDown"] * 12 + ["ArrowRight"] * 12:
        grid.press(key)
    assert (page.state("row"), page.state("column")) == (8, 8)
    page.root.get_by_role("button", name="neighbour").click()
    seen(page)      # the neighbour is on the left here


# Combine -------------------------------------------------------------------------


def test_combine_equals_pytorch(show):
    page = show(html("combine"))
    of_channel, of_place = sliders(page, "Score of the channel", "Score of the place")
    for c, s in itertools.product((-4, -2.1, 0, 0.4, 4), (-3.3, 0, 1.7)):
        of_channel.fill(str(c))
        of_place.fill(str(s))
        out = page.state("out")
        assert list(out) == list(COMBINE)
        for name, f in COMBINE.items():
            p, q = (torch.tensor(v, dtype=torch.float64, requires_grad=True)
                    for v in (c, s))
            M = torch.sigmoid(f(p, q))
            slopes = torch.autograd.grad(M, (p, q))
            assert out[name]["M"] == pytest.approx(M.item(), abs=CLOSE)
            assert out[name]["slopes"] == pytest.approx(
                [v.item() for v in slopes], abs=CLOSE)
            assert f"{name} {M.item():.3f}" in page.said()
    assert page.errors == []


@pytest.mark.parametrize("words, gates", [
    ("Two yeses", (0.982, 0.982, 0.881)), ("Two noes", (0.018, 0.982, 0.119)),
    ("Yes and no", (0.5, 0.018, 0.881)), ("No and nothing", (0.119, 0.5, 0.5)),
])
def test_combine_presets_say_what_the_chapter_says(show, words, gates):
    page = show(html("combine"))
    page.root.get_by_role("button", name=words).click()
    shown = [v["M"] for v in page.state("out").values()]
    assert shown == pytest.approx(gates, abs=0.001)


@pytest.mark.parametrize("by", ["mouse", "touch"])
def test_combine_is_dragged_in_a_square(show, by):
    page = show(html("combine"), **(PHONE if by == "touch" else {}))
    square = page.root.locator(".surface").nth(1)
    if by == "mouse":
        page.drag(square, (0.5, 0.5), (0.75, 0.125))
    else:
        page.swipe(page.place(square, 0.5, 0.5), page.place(square, 0.75, 0.125))
    assert page.state("c") == pytest.approx(2, abs=0.15)
    assert page.state("s") == pytest.approx(3, abs=0.15)
    values = [float(node.input_value()) for node in sliders(
        page, "Score of the channel", "Score of the place")]
    assert values == [page.state("c"), page.state("s")]


# Hierarchy -----------------------------------------------------------------------


def test_the_shipped_maps_come_from_the_shipped_weights():
    nets = {arm: bam.trained(arm) for arm in bam_figures.ARMS}
    same_numbers("bam", bam_figures.collect(nets, *data.fashion_mnist("test")))


def regions(page):
    """Assert that the page's numbers are those of `bam.on_regions`."""
    arrays, picture = live.arrays("bam"), page.state("picture")
    arm, stage = page.root.get_attribute("data-arm"), page.state("stage")
    M = torch.from_numpy(arrays[f"{arm}{stage}"][picture])
    on, off = (torch.from_numpy(arrays[k][picture]) > 0
               for k in ("object", "fragments"))
    want = bam.on_regions(M[None], on[None], off[None])
    out = page.state("out")
    for name in ("object", "fragments", "empty"):
        assert out["means"][name] == pytest.approx(want[name], abs=CLOSE)
    assert out["mass"] == pytest.approx(want["mass"], abs=CLOSE)
    assert out["mass"] == pytest.approx(bam_figures.mass(M, on), abs=CLOSE)
    assert out["area"] == pytest.approx(want["area"], abs=CLOSE)
    shown = page.root.locator(".hierarchy .number").all_inner_texts()
    assert shown == [f"{out['means'][k]:.3f}" for k in ("object", "fragments", "empty")]
    assert f"{100 * out['mass']:.1f} %" in page.said()
    return out


@pytest.mark.parametrize("picture", range(4))
def test_hierarchy_equals_pytorch_in_every_setting(show, picture):
    page = show(html("hierarchy"))
    page.root.locator(".pick").nth(picture).click()
    for arm, stage in itertools.product(bam_figures.ARMS, (1, 2, 3)):
        page.root.get_by_role("radio", name=arm, exact=True).check(force=True)
        page.root.get_by_role("radio", name=f"stage {stage}").check(force=True)
        assert page.state("picture") == picture and page.state("stage") == stage
        regions(page)
    assert page.errors == []


def test_hierarchy_blend_and_colours_change_the_view_alone(show):
    page = show(html("hierarchy"))

    def drawn():
        return page.root.locator(".view").evaluate("c => c.toDataURL()")

    before, pixels = regions(page), drawn()
    choose(page, "least to greatest")
    assert regions(page) == before and drawn() != pixels
    pixels = drawn()
    sliders(page, "Map over picture")[0].fill("0")
    assert regions(page) == before and drawn() != pixels
