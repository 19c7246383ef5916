"""The three live figures of the Transformer's chapter: their numbers are PyTorch's."""

import itertools
import math

import numpy as np
import pytest
import torch
from pages import CLOSE, PHONE, html, same_numbers

from cvattn.book import live
from cvattn.book.experiments import transformer as experiment
from cvattn.book.experiments import transformer_figures as figures
from cvattn.decode import greedy
from cvattn.transformer import PositionalEncoding

NEAR = 1e-4         # a whole network's logits, in float64 there and float32 here
UNSEEN = experiment.split_forms()[1]
TEXTS = [text for text, _ in experiment.some_dates(5, UNSEEN, 7, training=False)]


def rounded():
    """Return the trained network, its numbers rounded as those on the page."""
    net = experiment.trained(figures.ARM)
    net.load_state_dict({k: v.half().float() for k, v in net.state_dict().items()})
    return net.eval()


@pytest.fixture(scope="module")
def model():
    return rounded()


def test_the_shipped_numbers_come_from_the_shipped_weights():
    anew = figures.collect(experiment.trained(figures.ARM))
    same_numbers("transformer", anew, tolerance=0)
    assert {array.dtype for array in anew.values()} == {np.dtype(np.float16)}


def test_the_examples_are_unseen_and_fit_the_field():
    data = live.dates().data
    assert len(set(data["examples"])) == 4
    for text in data["examples"]:
        assert len(text) <= data["longest"] - 8
        assert set(text) <= set(data["characters"])


def test_half_precision_changes_no_answer(model):
    test = experiment.pairs("test", experiment.GRID.used(figures.ARM))
    for source, target in test.values():
        rough = experiment.right(model, source, target)
        whole = experiment.right(experiment.trained(figures.ARM), source, target)
        assert abs(rough - whole) <= 0.01


# Dates -----------------------------------------------------------------------------


def truth(model, text):
    """Return what is written, its logits, and every map: kind -> (L, h, N, M)."""
    source = torch.tensor([experiment.tokens(text)])
    with torch.inference_mode():
        written = greedy(model, source, start=experiment.START, end=experiment.END,
                         extra=10)
        target = torch.cat([torch.tensor([[experiment.START]]), written[:, :-1]], 1)
        logits = model(source, target)[0]
        maps = {"cross": model.weights(source, target)[:, 0], "encoder": [], "back": []}
        x = model.embed(source)
        for layer in model.encoder:
            maps["encoder"].append(layer.weights(x)[0])
            x = layer(x)
        y = model.embed(target)
        for layer in model.decoder:
            maps["back"].append(layer.attention.weights(y, causal=True)[0])
            y = layer(y, x)
    return experiment.text(written[0].tolist()), logits, maps


def shows(page, model, text):
    """Assert that all numbers on the page are PyTorch's for this text."""
    answer, logits, maps = truth(model, text)
    assert page.state("text") == text and page.state("answer") == answer
    np.testing.assert_allclose(page.state("logits"), logits.numpy(), atol=NEAR)
    kind = page.root.get_attribute("data-kind")
    heads = maps[kind][page.state("layer")]
    head = page.state("head")
    wanted = heads.mean(0) if head < 0 else heads[head]
    np.testing.assert_allclose(page.state("weights"), wanted.numpy(), atol=NEAR)
    return answer, wanted


def choose(page, group, word):
    page.root.get_by_role("group", name=group).locator(
        "label.pick", has_text=word).first.click()


@pytest.mark.parametrize("text", [*TEXTS, "hello", "31/02/2021", "5", "_", "00000000"])
def test_dates_equals_pytorch_for_any_text(show, model, text):
    page = show(html("dates"))
    page.root.get_by_role("textbox").fill(text)
    answer, _ = shows(page, model, text)
    assert page.root.locator(".answer").inner_text() == (answer or "\u2013")
    assert page.errors == []


def test_dates_equals_pytorch_in_every_layer_and_head(show, model):
    page = show(html("dates"))
    text = live.dates().data["examples"][0]
    for kind, layer, head in itertools.product(
            ("was read", "was written", "letters read"), "12", ("mean", *"1234")):
        choose(page, "Attention", kind)
        choose(page, "Layer", layer)
        choose(page, "Head", head)
        _, wanted = shows(page, model, text)
        row = page.state("row")
        assert f"{wanted[row].max():.2f}" in page.said()


def test_dates_shows_the_likeliest_letters(show, model):
    page = show(html("dates"))
    _, logits, _ = truth(model, page.state("text"))
    p = logits[page.state("row")].softmax(0)
    shown = page.root.locator(".weights .number").all_inner_texts()
    np.testing.assert_allclose([float(v) for v in shown], p.topk(4).values, atol=6e-4)
    best = page.root.locator(".weights .letter").first.inner_text()
    assert best == page.state("answer")[page.state("row")]


def test_dates_keeps_what_it_knows_of_a_text(show, model):
    page = show(html("dates"))
    field = page.root.get_by_role("textbox")
    field.fill("MÄR 5, 2021!")
    shows(page, model, "mr 5, 2021")
    before = page.state("logits")
    field.fill("ÄÖÜ")
    assert page.state("logits") == before and "Type a date" in page.said()
    page.root.get_by_role("button").nth(2).click()
    shows(page, model, live.dates().data["examples"][2])


@pytest.mark.parametrize("by", ["mouse", "touch", "keyboard"])
def test_dates_a_row_is_chosen(show, by):
    page = show(html("dates"), **(PHONE if by == "touch" else {}))
    row = page.root.get_by_role("slider", name="Row")
    assert page.state("row") == 5
    if by == "keyboard":
        row.press("ArrowRight")
        row.press("ArrowRight")
    else:
        grid = page.root.locator(".grid")
        at = page.place(grid, 0.5, (24 + 22 * 7.5) / (24 + 22 * 11))
        (page.tab.mouse.click if by == "mouse" else page.tab.touchscreen.tap)(*at)
    assert page.state("row") == 7 and row.input_value() == "7"
    assert "writing \u201c-\u201d" in page.said()


# Arrows ----------------------------------------------------------------------------


def looked_along(page):
    """Assert that scores, weights and result are PyTorch's."""
    q, k = (torch.tensor(page.state(n), dtype=torch.float64) for n in ("q", "keys"))
    v = torch.tensor(live.arrows().data["values"], dtype=torch.float64)
    a = k @ q / (math.sqrt(2) if page.state("divided") else 1)
    shut = torch.tensor(page.state("shut"))
    p = torch.zeros(4).double() if shut.all() else a.masked_fill(
        shut, -math.inf).softmax(0)
    np.testing.assert_allclose(page.state("scores"), a, atol=CLOSE)
    np.testing.assert_allclose(page.state("weights"), p, atol=CLOSE)
    np.testing.assert_allclose(page.state("y"), p @ v, atol=CLOSE)
    shown = page.root.locator(".weights .number:last-child").all_inner_texts()
    assert shown == [f"{n:.3f}" for n in page.state("weights")]
    return p


def test_arrows_equals_pytorch_wherever_they_point(show):
    page = show(html("arrows"))
    across, up = (page.root.get_by_role("slider", name=n) for n in ("across", "up"))
    for arrow, x, y, divided in itertools.product(
            ("query", "key 3"), (-3, 0.4), (1.7, 3), ("divided by", "not divided")):
        choose(page, "Arrow", arrow)
        choose(page, "Scores", divided)
        across.fill(str(x))
        up.fill(str(y))
        moved = page.state("q") if arrow == "query" else page.state("keys")[2]
        assert moved == [x, y]
        p = looked_along(page)
        assert f"{p.max():.3f}" in page.said()
    assert page.errors == []


def test_arrows_the_sliders_show_the_arrow_that_is_chosen(show):
    page = show(html("arrows"))
    data = live.arrows().data
    across = page.root.get_by_role("slider", name="across")
    assert float(across.input_value()) == data["q"][0]
    for m, key in enumerate(data["keys"]):
        choose(page, "Arrow", f"key {m + 1}")
        assert float(across.input_value()) == key[0]
    assert page.state("keys") == data["keys"], "choosing moves nothing"


def test_arrows_shut_keys_share_nothing(show):
    page = show(html("arrows"))
    before = looked_along(page)
    boxes = [page.root.get_by_role("checkbox", name=f"key {m}") for m in range(1, 5)]
    boxes[0].uncheck()
    after = looked_along(page)
    assert after[0] == 0 and after[1] > before[1]
    torch.testing.assert_close(after[1] / after[2], before[1] / before[2])
    for box in boxes[1:]:
        box.uncheck()
    assert looked_along(page).sum() == 0
    assert "Every key is shut" in page.said()


@pytest.mark.parametrize("by", ["mouse", "touch"])
@pytest.mark.parametrize("arrow", [-1, 2])
def test_arrows_are_dragged_by_the_nearest(show, by, arrow):
    page = show(html("arrows"), **(PHONE if by == "touch" else {}))
    data, plane = live.arrows().data, page.root.locator(".plane").first
    width = plane.bounding_box()["width"]

    def spot(x, y):
        half = width / 2 - 16
        return 0.5 + x / 3 * half / width, 0.5 - y / 3 * half / width

    start = data["q"] if arrow < 0 else data["keys"][arrow]
    ends = [spot(*start), spot(-1, -2)]
    if by == "mouse":
        page.drag(plane, *ends)
    else:
        page.swipe(*[page.place(plane, *end) for end in ends], steps=4)
    assert page.state("held") == arrow
    moved = page.state("q") if arrow < 0 else page.state("keys")[arrow]
    assert moved == pytest.approx([-1, -2], abs=0.1)
    looked_along(page)
    chosen = page.root.get_by_role("group", name="Arrow").locator("input:checked")
    assert chosen.get_attribute("value") == str(arrow)


# Waves -----------------------------------------------------------------------------


def agreed(page):
    """Assert that the dot product is that of the package's code; return it."""
    at, shift = page.state("t"), page.state("k")
    PE = PositionalEncoding(live.waves().data["dim"], dropout=0.0).PE.double()
    product = (PE[at] * PE[at + shift]).sum().item()
    assert page.state("product") == pytest.approx(product, abs=CLOSE)
    return product


def test_waves_equals_the_packages_code(show):
    page = show(html("waves"))
    D, last = live.waves().data["dim"], live.waves().data["last"]
    PE = PositionalEncoding(D, dropout=0.0).PE.double()
    t, k = (page.root.get_by_role("slider", name=n) for n in ("Position", "Shift"))
    turns = {}
    for at, shift in itertools.product((10, 23, last - 10), (-10, 0, 7)):
        t.fill(str(at))
        k.fill(str(shift))
        np.testing.assert_allclose(page.state("here"), PE[at], atol=CLOSE)
        np.testing.assert_allclose(page.state("there"), PE[at + shift], atol=CLOSE)
        assert f"{agreed(page):.3f}" in page.said()
        assert turns.setdefault(shift, page.state("turns")) == page.state("turns")
        assert page.state("turns") == pytest.approx(
            [shift * 10000 ** (-2 * i / D) for i in range(D // 2)])
    assert page.errors == []


def test_waves_a_hand_that_is_left_out_does_not_count(show):
    page = show(html("waves"))
    D = live.waves().data["dim"]
    dials = page.root.get_by_role("button")
    assert dials.count() == D // 2
    t, k = page.state("t"), page.state("k")
    for i in (0, 3):
        dials.nth(i).press("Space")
        assert dials.nth(i).get_attribute("aria-pressed") == "false"
    left = [math.cos(k * 10000 ** (-2 * i / D))
            for i in range(D // 2) if i not in (0, 3)]
    assert page.state("product") == pytest.approx(sum(left), abs=CLOSE)
    assert f"by {D // 2 - 2} of {D // 2} hands" in page.said()
    assert page.state("t") == t and page.errors == []
    for i in range(D // 2):
        if i not in (0, 3):
            dials.nth(i).click()
    assert page.state("product") == 0
