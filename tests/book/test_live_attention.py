"""The two live figures of "What attention is": their numbers are PyTorch's."""

import itertools

import numpy as np
import pytest
import torch
from pages import CLOSE, PHONE, html, same_numbers

from cvattn.book import data, live
from cvattn.book.experiments import attention_figures

NORMALISERS = {"softmax": lambda a: a.flatten().softmax(0).view_as(a),
               "sigmoid": torch.sigmoid}


def close(shown, wanted):
    np.testing.assert_allclose(shown, wanted.flatten().numpy(), atol=CLOSE, rtol=CLOSE)


def test_the_shipped_map_comes_from_the_shipped_weights(net):
    same_numbers("attention",
                 attention_figures.collect(net, *data.fashion_mnist("test")))


# Look-up -------------------------------------------------------------------------


def looked_up(page):
    """Assert that weights and answer are PyTorch's for the question on the page."""
    figure = live.lookup().data
    k = torch.tensor(figure["keys"], dtype=torch.float64)
    v = torch.tensor(figure["values"], dtype=torch.float64)
    a = -(page.state("q") - k).square() / 2 + torch.tensor(page.state("raised"))
    normalise = NORMALISERS[page.root.get_attribute("data-normaliser")]
    w = normalise(a / page.state("tau"))
    close(page.state("scores"), a)
    close(page.state("weights"), w)
    close(page.state("answer"), w @ v)
    shown = page.root.locator(".weights .number:last-child").all_inner_texts()
    assert shown == [f"{n:.3f}" for n in page.state("weights")]
    return w, (w @ v).item()


def sliders(page):
    return [page.root.get_by_role("slider", name=name)
            for name in ("Question", "Temperature", "Raise")]


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_lookup_equals_pytorch_for_any_question(show, normaliser):
    page = show(html("lookup"))
    question, heat, raise_ = sliders(page)
    page.root.locator("label.pick", has_text=normaliser).click()
    for q, e, b in itertools.product((4, 10, 12.3, 20), (-2, 0, 6), (-8, 0, 3.5)):
        question.fill(str(q))
        heat.fill(str(e))
        raise_.fill(str(b))
        assert (page.state("q"), page.state("tau")) == (q, 2**e)
        assert page.state("raised") == [0, b, 0, 0, 0]
        w, y = looked_up(page)
        assert f"the answer is {y:.3f} m" in page.said()
        assert (w.sum().item() == pytest.approx(1)) or normaliser == "sigmoid"
    assert page.errors == []


def test_lookup_at_the_ends_is_the_dictionary_and_the_mean(show):
    page = show(html("lookup"))
    question, heat, _ = sliders(page)
    heat.press("Home")
    for key, value in zip((6, 9, 12, 15, 18), live.lookup().data["values"],
                          strict=True):
        question.fill(str(key))
        assert page.state("answer") == pytest.approx(value, abs=1e-4)


def test_lookup_raising_one_score_moves_others_under_softmax_alone(
        show):
    page = show(html("lookup"))
    for normaliser, moves in (("softmax", True), ("sigmoid", False)):
        page.root.locator("label.pick", has_text=normaliser).click()
        page.root.locator("label.pick", has_text="12 h").click()
        page.root.get_by_role("button", name="All scores").click()
        before = page.state("weights")
        sliders(page)[2].fill("4")
        after = page.state("weights")
        looked_up(page)
        assert after[2] > before[2] + 0.1
        assert (after[1] < before[1] - 0.1) == moves
        assert moves or after[1] == before[1]


def test_lookup_says_when_the_result_is_no_mean(show):
    page = show(html("lookup"))
    assert "outside" not in page.said()
    page.root.locator("label.pick", has_text="sigmoid").click()
    sliders(page)[1].press("End")
    assert looked_up(page)[1] > max(live.lookup().data["values"])
    assert "outside all values" in page.said()


@pytest.mark.parametrize("by", ["mouse", "touch"])
def test_lookup_is_asked_by_dragging(show, by):
    page = show(html("lookup"), **(PHONE if by == "touch" else {}))
    chart, ends = page.root.locator(".chart"), [(0.5, 0.5), (0.8, 0.5)]
    if by == "mouse":
        page.drag(chart, *ends)
    else:
        page.swipe(*[page.place(chart, *end) for end in ends], steps=3)
    assert 15 < page.state("q") < 17.5
    assert float(sliders(page)[0].input_value()) == page.state("q")
    looked_up(page)
    assert f"At {page.state('q'):.1f} h" in page.said()


def test_lookup_key_and_slider_agree(show):
    page = show(html("lookup"))
    raise_ = sliders(page)[2]
    raise_.fill("2")
    page.root.locator("label.pick", has_text="15 h").click()
    assert raise_.input_value() == "0" and page.state("raised") == [0, 2, 0, 0, 0]
    raise_.fill("-1.5")
    assert page.state("raised") == [0, 2, 0, -1.5, 0]
    page.root.locator("label.pick", has_text="9 h").click()
    assert raise_.input_value() == "2"
    looked_up(page)


# Weigh ---------------------------------------------------------------------------


def weighed(page):
    """Assert that weights and result are PyTorch's for the page's scores."""
    u = torch.from_numpy(live.arrays("attention")["u"][page.state("picture")]).double()
    C, H, W = u.shape
    of_channel = torch.tensor(page.state("channel"), dtype=torch.float64)
    of_place = torch.tensor(page.state("place"), dtype=torch.float64)
    of_channel, of_place = of_channel.view(C, 1, 1), of_place.view(1, H, W)
    axis, normaliser, applied = (page.root.get_attribute(f"data-{name}")
                                 for name in ("axis", "normaliser", "applied"))
    a = {"channel": of_channel, "place": of_place, "both": of_channel + of_place}[axis]
    w = NORMALISERS[normaliser](a / page.state("tau"))
    y = w * u
    if applied == "sum":
        y = y.sum({"channel": 0, "place": (1, 2), "both": (0, 1, 2)}[axis])
    close(page.state("weights"), w)
    close(page.state("result"), y)
    return w, y


def choose(page, *words):
    for word in words:
        page.root.locator("label.pick", has_text=word).click()


@pytest.mark.parametrize("picture", range(4))
@pytest.mark.parametrize("axis", ["channel", "place", "both"])
def test_weigh_equals_pytorch_in_every_setting(show, axis, picture):
    page = show(html("weigh"))
    page.root.locator(".pick").nth(picture).click()
    choose(page, axis)
    heat = page.root.get_by_role("slider", name="Temperature")
    for normaliser, applied, e in itertools.product(
            NORMALISERS, ("multiply", "sum"), (-4, 0)):
        choose(page, normaliser, applied)
        heat.fill(str(e))
        w, y = weighed(page)
        assert page.state("picture") == picture
        assert f"{w.numel()} weights" in page.said()
        assert f"{normaliser} over" in page.said()
    assert page.errors == []


def test_weigh_starts_from_means_of_the_map(show):
    page = show(html("weigh"))
    u = torch.from_numpy(live.arrays("attention")["u"][0]).double()
    close(page.state("channel"), u.mean((1, 2)) - u.mean())
    close(page.state("place"), u.mean(0) - u.mean())
    page.root.get_by_role("button", name="All scores 0").click()
    assert set(page.state("channel") + page.state("place")) == {0}
    assert set(page.state("weights")) == {0.5}
    page.root.get_by_role("button", name="Scores from the map").click()
    close(page.state("place"), u.mean(0) - u.mean())


@pytest.mark.parametrize("by", ["mouse", "touch", "keyboard"])
def test_weigh_painting_a_place_moves_its_score_alone(show, by):
    page = show(html("weigh"), **(PHONE if by == "touch" else {}))
    page.root.get_by_role("button", name="All scores 0").click()
    grid = page.root.locator(".grid")
    if by == "keyboard":
        for key in ("ArrowUp", "ArrowLeft", "Space"):
            grid.press(key)
        row, column = 6, 6
    else:
        row, column = 3, 9
        at = page.place(grid, (column + 0.5) / 14, (row + 0.5) / 14)
        (page.tab.mouse.click if by == "mouse" else page.tab.touchscreen.tap)(*at)
    wanted = torch.zeros(14, 14)
    wanted[row, column] = 0.25
    assert page.state("place") == wanted.flatten().tolist()
    weighed(page)
    if by == "keyboard":
        for _ in range(6):
            grid.press("x")
        assert min(page.state("place")) == -1
        assert f"Row {row + 1}, column {column + 1} scores \u22121.00" in page.said()


@pytest.mark.parametrize("by", ["mouse", "touch"])
def test_weigh_paints_a_line_without_a_gap(show, by):
    page = show(html("weigh"), **(PHONE if by == "touch" else {}))
    page.root.get_by_role("button", name="All scores 0").click()
    choose(page, "lower")
    grid = page.root.locator(".grid")
    ends = [(0.5 / 14, 2.5 / 14), (13.5 / 14, 2.5 / 14)]
    if by == "mouse":
        page.drag(grid, *ends)
    else:
        page.swipe(*[page.place(grid, *end) for end in ends], steps=2)
    wanted = torch.zeros(14, 14)
    wanted[2] = -0.25
    assert page.state("place") == wanted.flatten().tolist()
    assert "14 places painted" in page.said()
    weighed(page)


@pytest.mark.parametrize("by", ["mouse", "touch", "keyboard"])
def test_weigh_sets_the_score_of_a_channel(show, by):
    page = show(html("weigh"), **(PHONE if by == "touch" else {}))
    choose(page, "channel")
    page.root.get_by_role("button", name="All scores 0").click()
    bars = page.root.locator(".bars")
    if by == "mouse":
        page.drag(bars, (2.5 / 6, 0.43), (2.5 / 6, 0.0))
    elif by == "touch":
        page.swipe(page.place(bars, 2.5 / 6, 0.4), page.place(bars, 2.5 / 6, 0.0))
    else:
        for key in ("ArrowRight", "ArrowRight", "End"):
            bars.press(key)
        assert float(bars.get_attribute("aria-valuenow")) == 1
        assert "score 1.00" in bars.get_attribute("aria-valuetext")
    assert page.state("channel") == pytest.approx([0, 0, 1, 0, 0, 0], abs=0.02)
    w, _ = weighed(page)
    assert w.argmax() == 2
    if by == "keyboard":
        for key, value in (("ArrowDown", 0.95), ("PageDown", 0.7), ("Home", -1)):
            bars.press(key)
            assert page.state("channel")[2] == pytest.approx(value)
        weighed(page)


def test_weigh_a_softmax_makes_the_map_vanish_and_a_sum_brings_it_back(
        show):
    page = show(html("weigh"))
    u = live.arrays("attention")["u"][0]
    _, by_sigmoid = weighed(page)
    choose(page, "softmax")
    _, by_softmax = weighed(page)
    assert by_softmax.abs().max() < 0.05 * by_sigmoid.abs().max()
    choose(page, "sum")
    _, mean = weighed(page)
    assert mean.shape == (6,) and (mean.numpy() <= u.max((1, 2)) + CLOSE).all()
    assert "one value for each channel is left" in page.said()
