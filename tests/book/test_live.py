"""The live figures: their bytes, and in a browser their arithmetic and manners."""

import base64
import functools
import hashlib
import itertools
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from conftest import ROOT
from pages import CLOSE, FINDINGS, PHONE, Page, html, same_numbers, same_state

from cvattn import SE, resnet50
from cvattn.book import data, live
from cvattn.book.experiments import se_figures
from cvattn.book.live import pictures
from cvattn.book.live.figure import packed

NAMES = [make.__name__ for make in live.FIGURES]
figures = pytest.mark.parametrize("name", NAMES)


# Bytes -------------------------------------------------------------------------


@figures
def test_bundle_holds_html_picture_and_sentence(name):
    figure = getattr(live, name)()
    bundle = figure._repr_mimebundle_(include=None, exclude=None)
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG\r\n")
    assert bundle["image/png"] in bundle["text/html"]
    assert f"<p>{bundle['text/plain']}</p>" in bundle["text/html"]
    assert repr(figure) == bundle["text/plain"]


def test_html_is_the_same_in_another_process(tmp_path):
    code = (f"import sys; sys.path.insert(0, {str(Path.cwd())!r})\n"
            "from cvattn.book import live\n"
            "sys.stdout.buffer.write(b''.join(\n"
            f"    getattr(live, n)().html().encode() for n in {NAMES}))")
    other = subprocess.run([sys.executable, "-c", code], capture_output=True,
                           check=True, cwd=tmp_path, env={"PYTHONHASHSEED": "7"})
    here = "".join(map(html, NAMES)).encode()
    assert here == "".join(map(html, NAMES)).encode()
    assert hashlib.sha256(other.stdout).digest() == hashlib.sha256(here).digest()


@figures
def test_a_figure_draws_no_random_number(name):
    before = torch.get_rng_state()
    getattr(live, name)()
    assert torch.equal(torch.get_rng_state(), before)


@figures
def test_sizes_stay_within_the_limits(name):
    figure = getattr(live, name)()
    assert len(json.dumps(figure.data)) <= 150_000
    assert len(figure.html().encode()) <= 250_000


@figures
def test_nothing_reaches_for_the_network_or_a_global(name):
    text = html(name)
    for word in ("http://", "https://", "fetch(", "import(", "src=\"//", "globalThis"):
        assert word not in text


def test_data_cannot_hide_the_rest_of_the_page():
    """`<!--<script` makes a browser look for a second end of the script."""
    evil = "<!--<script>"
    figure = live.Live("reduction", evil, "none", {"names": [evil], evil: 1})
    script = figure.html(b"").partition("<script>")[2]
    assert "<!--" not in figure.html(b"") and "<script" not in script
    assert script.count('"\\u003c!--\\u003cscript>"') == 3


def test_titles_sentences_and_data_cannot_break_out():
    evil = '</script><img src="x" onerror="alert(1)"> & more'
    figure = live.Live("reduction", evil, evil, {"names": [evil]})
    seen = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            seen.append((tag, dict(attributes)))

        def handle_data(self, text):
            if evil in text:
                seen.append(("text", text))

    Parser().feed(figure.html())
    assert [tag for tag, _ in seen] == ["div", "style", "div", "img", "p", "text",
                                        "script"]
    assert seen[0][1]["aria-label"] == seen[3][1]["alt"] == seen[5][1] == evil
    call = next(line for line in figure.html().splitlines()
                if line.startswith("start("))
    title, rest = json.JSONDecoder().raw_decode(call.split(", ", 1)[1])
    assert title == evil
    given = call[call.index('{"names"'):]
    assert json.JSONDecoder().raw_decode(given)[0] == {"names": [evil]}


def test_packed_arrays_keep_their_bytes():
    array = np.array([1.5, -2.25e-7], dtype=">f4")
    sent = packed(array)
    assert sent["dtype"] == "float32"
    back = np.frombuffer(base64.b64decode(sent["base64"]), "<f4")
    np.testing.assert_array_equal(back, array)


def test_the_readme_shows_the_figures_own_picture():
    shown = (ROOT / "_static" / "readme-surgery.png").read_bytes()
    assert shown == live.surgery().picture(), "copy cvattn/book/live/page/surgery.png"


@pytest.mark.parametrize("kept, live, same", [
    ("p \u22120.5000", "p \u22120.50003", True), ("Bag, 0.833", "Bag, 0.834", False),
    ("Bag, 0.83", "Coat, 0.83", False), ("12 of 3", "12", False), ("", "Bag", False)])
def test_a_picture_out_of_date_is_found(kept, live, same):
    if same:
        same_state(kept, live)
    else:
        with pytest.raises(AssertionError, match="take it anew"):
            same_state(kept, live)


# Data --------------------------------------------------------------------------


def test_shipped_numbers_come_from_the_shipped_weights(net):
    same_numbers("se", se_figures.collect(net, *data.fashion_mnist("test")))


def test_recorder_changes_nothing(net, arrays):
    images = torch.from_numpy(arrays["pictures"])
    _, logits = se_figures.record(net, 3, images)
    with torch.inference_mode():
        torch.testing.assert_close(logits, net(data.to_float(images)))


def test_literals_of_the_reduction_figure_are_counted():
    with torch.device("meta"):
        net = resnet50()
    figure = live.reduction().data
    assert figure["base"] == sum(p.numel() for p in net.parameters())
    assert figure["statistics"] == sum(
        b.numel() for name, b in net.named_buffers() if "running" in name)
    stages = [(stage["blocks"], stage["channels"]) for stage in figure["stages"]]
    assert stages == [
        (len(layer), layer[0].conv3.out_channels)
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4)]


# In the browser ------------------------------------------------------------------


@figures
@pytest.mark.parametrize("copies", [1, 2, 3])
def test_starts_alone_and_in_copies_without_a_complaint(show, name, copies):
    page = show(*[html(name)] * copies)
    assert page.roots.count() == copies
    if copies == 1:
        same_state(pictures.kept_state(getattr(live, name)().picture()),
                   pictures.state(page.root))
    for i in range(copies):
        assert page.roots.nth(i).locator("output").inner_text()
        assert page.roots.nth(i).locator(".fallback").count() == 0
    ids = page.tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert sorted(ids) == sorted({f"live-{name}", f"live-{name}-2",
                                  f"live-{name}-3"})[:copies]
    assert page.errors == []
    assert [url for url in page.requests if not url.startswith("data:")] == [
        page.tab.url]


def test_all_figures_share_a_page_and_leave_no_global(show):
    listing = "Object.getOwnPropertyNames(window)"
    usual = set(show("<p>no figure</p>").tab.evaluate(listing))
    page = show(*map(html, NAMES), *map(html, NAMES))
    assert page.tab.locator(".cvattn-live output").count() == 2 * len(NAMES)
    assert set(page.tab.evaluate(listing)) - usual == set()
    assert page.errors == []


@figures
def test_copies_do_not_touch_each_other(show, name):
    page = show(html(name), html(name))
    first, second = page.roots.nth(0), page.roots.nth(1)
    before = page.tab.evaluate("e => ({...e.dataset})", first.element_handle())
    if name not in ("squeeze", "surgery", "weigh", "slide", "paint"):
        second.locator("input[type=range]").first.press("Home")
    else:
        second.locator(".pick", has_text="Bag").click()
        assert page.state("picture", second) == 2
    after = page.tab.evaluate("e => ({...e.dataset})", second.element_handle())
    assert after != before
    assert page.tab.evaluate("e => ({...e.dataset})", first.element_handle()) == before


@figures
def test_without_scripts_the_picture_and_the_sentence_stand(show, name):
    page = show(html(name), java_script_enabled=False)
    assert page.root.locator(".fallback p").is_visible()
    assert page.root.locator(".fallback img").bounding_box()["height"] > 100
    assert page.root.get_by_role("button").count() == 0


def test_a_script_that_fails_leaves_the_picture(show):
    broken = html("squeeze").replace('"base64":"', '"base64":"!')
    page = show(broken)
    assert page.root.locator(".fallback img").is_visible()
    assert page.errors


@figures
@pytest.mark.parametrize("way", ["JupyterLab", "Colab"])
def test_starts_where_notebooks_insert_it(show, name, way):
    """Lab puts new script elements in a detached node, jQuery runs the text alone."""
    page = show("<div id=host></div>")
    page.tab.evaluate("""([text, way]) => {
      const host = document.getElementById("host");
      const box = document.createElement("div");
      box.innerHTML = text;
      const old = box.querySelector("script");
      if (way === "JupyterLab") {
        const fresh = document.createElement("script");
        fresh.textContent = old.textContent;
        old.replaceWith(fresh);
        host.append(box);
      } else {
        old.remove();
        host.append(box);
        (0, eval)(old.textContent);
      }
    }""", [html(name), way])
    assert page.root.locator("output").inner_text()
    assert page.errors == []


# Squeeze -------------------------------------------------------------------------


def true_z(net, arrays, picture, change=()):
    """Return z of the shown channels, by PyTorch; `change` is (channel, pixel, d)."""
    image = torch.from_numpy(arrays["pictures"][picture : picture + 1])
    seen, _ = se_figures.record(net, 2, image)
    u = seen["u"][0, arrays["squeeze_channels"].tolist()].clone()
    for channel, pixel, d in change:
        u.view(len(u), -1)[channel, pixel] += d
    return u.mean(dim=(1, 2)).numpy()


def pixels(page):
    return page.root.locator(".map").evaluate("c => c.toDataURL()")


@pytest.mark.parametrize("picture", range(4))
def test_squeeze_shows_pytorchs_means(show, net, arrays, picture):
    page = show(html("squeeze"))
    page.root.locator(".pick").nth(picture).click()
    assert page.state("picture") == picture
    z = page.state("z")
    np.testing.assert_allclose(z, true_z(net, arrays, picture), atol=CLOSE)
    shown = page.root.locator(".maps .number:not(.change)").all_inner_texts()
    assert [text.replace("\u2212", "-") for text in shown] == [f"{v:.4f}" for v in z]


@pytest.mark.parametrize("by", ["mouse", "touch", "keyboard"])
def test_squeeze_one_pixel_moves_z_by_d_over_hw(show, net, arrays, by):
    page = show(html("squeeze"), **(PHONE if by == "touch" else {}))
    size = arrays["squeeze_u"].shape[-1]
    page.root.locator("input[type=range]").fill("2.5")
    target, start = page.root.locator(".map"), page.state("z")
    row, column = size // 2, size // 2
    at = page.place(target, (column + 0.5) / size, (row + 0.5) / size)
    if by == "mouse":
        page.tab.mouse.click(*at)
    elif by == "touch":
        page.tab.touchscreen.tap(*at)
    else:
        target.press("ArrowRight")
        target.press("ArrowLeft")
        target.press("Space")
    z = page.state("z")
    assert z[0] - start[0] == pytest.approx(2.5 / size**2, abs=1e-12)
    assert z[1:] == start[1:]
    change = [(0, row * size + column, 2.5)]
    np.testing.assert_allclose(z, true_z(net, arrays, 0, change), atol=CLOSE)
    assert f"1 \u00d7 +2.50 / {size**2} = +{2.5 / size**2:.4f}" in page.said()


@pytest.mark.parametrize("by", ["mouse", "touch"])
def test_squeeze_paints_a_line_without_a_gap(show, net, arrays, by):
    page = show(html("squeeze"), **(PHONE if by == "touch" else {}))
    page.root.locator(".maps input").nth(3).check()
    page.root.get_by_role("radio", name="Darken").check()
    size, target = arrays["squeeze_u"].shape[-1], page.root.locator(".map")
    ends = [(0.5 / size, 2.5 / size), (1 - 0.5 / size, 2.5 / size)]
    if by == "mouse":
        page.drag(target, *ends)
    else:
        page.swipe(*[page.place(target, *end) for end in ends], steps=2)
    change = [(3, 2 * size + column, -1) for column in range(size)]
    np.testing.assert_allclose(page.state("z"), true_z(net, arrays, 0, change),
                               atol=CLOSE)
    assert f"{size} \u00d7 \u22121.00 / {size**2}" in page.said()


def test_squeeze_keyboard_paints_moves_and_stays_inside(show, net, arrays):
    page = show(html("squeeze"))
    size, target = arrays["squeeze_u"].shape[-1], page.root.locator(".map")
    target.focus()
    for key in ["ArrowUp", "ArrowLeft"] * size:
        page.tab.keyboard.press(key)
    value = arrays["squeeze_u"][0, 0, 0, 0]
    assert page.said() == f"Row 1, column 1: {value:.2f}.".replace("-", "\u2212")
    start, before = page.state("z"), pixels(page)
    for key in ("x", "Backspace", "Space", "x"):
        page.tab.keyboard.press(key)
    np.testing.assert_allclose(page.state("z"), true_z(net, arrays, 0, [(0, 0, -2)]),
                               atol=CLOSE)
    page.root.get_by_role("button", name="Reset").click()
    target.focus()
    assert page.state("z") == start
    assert pixels(page) == before
    page.tab.keyboard.press("Shift+ArrowDown")
    assert page.state("z") == pytest.approx(start, abs=1e-12)
    assert pixels(page) != before
    assert "moved 1 place" in page.said()


def test_squeeze_shuffling_moves_every_pixel_set_but_no_mean(show):
    page = show(html("squeeze"))
    start, seen = page.state("z"), [pixels(page)]
    for press in (1, 2, 3):
        page.root.get_by_role("button", name="Shuffle").click()
        assert page.state("z") == pytest.approx(start, abs=1e-12)
        assert f"permutation {press}" in page.said()
        seen.append(pixels(page))
    assert len(set(seen)) == 4
    assert "change of any z: exactly 0" in page.said() or "rounding" in page.said()
    page.root.get_by_role("button", name="Reset").click()
    page.root.get_by_role("button", name="Shuffle").click()
    assert pixels(page) == seen[1]


def test_squeeze_moving_a_pixel_by_mouse_keeps_z(show):
    page = show(html("squeeze"))
    start, before = page.state("z"), pixels(page)
    page.root.get_by_role("radio", name="Move").check()
    page.drag(page.root.locator(".map"), (0.1, 0.1), (0.8, 0.6))
    assert pixels(page) != before
    assert page.state("z") == pytest.approx(start, abs=1e-12)
    assert "moved" in page.said()


# Surgery -------------------------------------------------------------------------


def true_chances(net, arrays, picture, gates):
    """Return the class probabilities of the whole network with these last gates."""

    class Fixed(torch.nn.Module):
        def forward(self, u):
            return u * torch.tensor(gates, dtype=torch.float32).view(1, -1, 1, 1)

    block = net.layer3[-1]
    attention, block.attention = block.attention, Fixed()
    try:
        with torch.inference_mode():
            image = torch.from_numpy(arrays["pictures"][picture : picture + 1])
            return net(data.to_float(image)).softmax(1)[0].numpy()
    finally:
        block.attention = attention


def agrees(page, net, arrays, gates=None):
    """Assert that the page's probabilities are PyTorch's for the page's gates."""
    picture, shown = page.state("picture"), page.state("gates")
    if gates is not None:
        np.testing.assert_allclose(shown, gates, atol=1e-6)
    p = page.state("probabilities")
    np.testing.assert_allclose(p, true_chances(net, arrays, picture, shown), atol=CLOSE)
    rows = page.root.locator(".classes .number").all_inner_texts()
    assert rows == [f"{value:.3f}" for value in p]
    assert data.CLASSES[int(np.argmax(p))] == page.root.locator(".top").inner_text(
        ).split("\n")[0]


@pytest.mark.parametrize("picture", range(4))
def test_surgery_presets_equal_the_whole_network(show, net, arrays, picture):
    page = show(html("surgery"))
    page.root.locator(".pick").nth(picture).click()
    learned = arrays["gates"][picture]
    agrees(page, net, arrays, learned)
    image = torch.from_numpy(arrays["pictures"][picture : picture + 1])
    with torch.inference_mode():
        untouched = net(data.to_float(image)).softmax(1)[0]
    np.testing.assert_allclose(page.state("learned"), untouched, atol=CLOSE)
    assert page.state("learned") == page.state("probabilities")

    def press(name):
        page.root.get_by_role("button", name=name).click()

    press("All open")
    agrees(page, net, arrays, np.ones(len(learned)))
    press("All at their mean")
    agrees(page, net, arrays, np.full(len(learned), learned.mean()))
    orders = []
    for _ in range(2):
        press("Shuffled")
        agrees(page, net, arrays)
        orders.append(page.state("gates"))
        np.testing.assert_allclose(sorted(orders[-1]), sorted(learned), atol=1e-7)
    assert orders[0] != orders[1]
    for k, name in enumerate(data.CLASSES):
        page.root.locator("select").select_option(name)
        agrees(page, net, arrays, arrays["class_gates"][k])
        assert name in page.said()
    press("Learned")
    agrees(page, net, arrays, learned)
    assert page.errors == []


@pytest.mark.parametrize("by", ["mouse", "touch"])
def test_surgery_dragging_sets_the_bars_under_the_pointer(show, net, arrays, by):
    page = show(html("surgery"), **(PHONE if by == "touch" else {}))
    bars, learned = page.root.locator(".gates"), arrays["gates"][0]
    ends = [(0.3, 0.35), (0.7, 0.35)]
    if by == "mouse":
        page.drag(bars, *ends)
    else:
        page.swipe(*[page.place(bars, *end) for end in ends], steps=2)
    gates = np.array(page.state("gates"))
    moved = np.flatnonzero(np.abs(gates - learned) > 1e-6)
    assert len(moved) > 8
    assert (np.diff(moved) == 1).all()
    assert np.ptp(gates[moved]) < 0.02 and 0 < gates[moved[0]] < 1
    agrees(page, net, arrays)
    assert f"Channel {moved[-1]}" in page.said()
    page.drag(bars, (0.5, 0.5), (0.5, 1.2))
    assert min(page.state("gates")) == 0
    agrees(page, net, arrays)


def test_surgery_keyboard(show, net, arrays):
    page = show(html("surgery"))
    bars = page.root.get_by_role("slider")
    for key in ["ArrowRight"] * 3 + ["ArrowLeft"]:
        bars.press(key)
    learned = arrays["gates"][0].astype(float)
    assert bars.get_attribute("aria-valuetext").startswith("channel 2: gate")
    wanted = learned.copy()
    for key, change in (("ArrowDown", -0.01), ("PageDown", -0.1), ("ArrowUp", 0.01)):
        bars.press(key)
        wanted[2] += change
        agrees(page, net, arrays, wanted)
    for key, value in (("Home", 0), ("End", 1)):
        bars.press(key)
        wanted[2] = value
        agrees(page, net, arrays, wanted)
        assert float(bars.get_attribute("aria-valuenow")) == value
    assert page.root.locator("[aria-pressed=true]").count() == 0
    for _ in range(80):
        bars.press("ArrowRight")
    assert bars.get_attribute("aria-valuetext").startswith(f"channel {len(wanted) - 1}")


def test_surgery_measure_can_tell_right_from_wrong(net, arrays):
    """The gates matter: other gates are told apart by far more than the tolerance."""
    learned = true_chances(net, arrays, 0, arrays["gates"][0])
    for gates in (np.zeros(64), np.ones(64), arrays["gates"][0][::-1].copy()):
        assert np.abs(true_chances(net, arrays, 0, gates) - learned).max() > 10 * CLOSE


# Reduction -----------------------------------------------------------------------


def counted(r, on):
    """Count the parameters of a real SE-ResNet-50, by stage and in all."""
    def make(channels):
        return SE(channels, reduction=r)

    with torch.device("meta"):
        net = resnet50([make if o else None for o in on])
    by_stage = [sum(p.numel() for n, p in net.named_parameters()
                    if n.startswith(f"layer{i}.") and ".attention." in n)
                for i in (1, 2, 3, 4)]
    return by_stage, sum(p.numel() for p in net.parameters())


def test_reduction_counts_what_the_network_has(show):
    page = show(html("reduction"))
    slider = page.root.locator("input[type=range]")
    boxes = page.root.locator("input[type=checkbox]")
    every = list(itertools.product((True, False), repeat=4))
    for step, r in enumerate((2, 4, 8, 16, 32)):
        slider.fill(str(step))
        assert slider.get_attribute("aria-valuetext") == str(r)
        whole, _ = counted(r, [True] * 4)
        for on in every if r == 16 else every[:2]:
            for i, wanted in enumerate(on):
                boxes.nth(i).set_checked(wanted)
            by_stage = [n if o else 0 for n, o in zip(whole, on, strict=True)]
            assert page.state("r") == r
            assert page.state("by-stage") == by_stage
            assert page.state("added") == sum(by_stage)
            assert page.state("total") == 25_557_032 + sum(by_stage)
            if sum(on) in (1, 4):
                assert counted(r, on) == (by_stage, page.state("total"))
            names = [f"stage_{i + 2}" for i in range(4) if on[i]]
            assert page.root.get_attribute("data-stages").split() == names
    assert page.errors == []


@pytest.mark.parametrize(("r", "stages", "printed", "reason"), [
    (2, "2345", 45.7, "the same, rounded"),
    (4, "2345", 35.7, "running statistics counted, 35.67 M"),
    (8, "2345", 30.7, "neither ours nor"),
    (16, "2345", 28.1, "the same, rounded"),
    (32, "2345", 26.9, "running statistics counted, 26.87 M"),
    (16, "2", 25.6, "the same, rounded"),
    (16, "3", 25.7, "the same, rounded"),
    (16, "4", 26.4, "running statistics counted, 26.40 M"),
    (16, "", 25.6, "the same, rounded"),
    (16, "5", None, "prints no value"),
    (8, "4", None, "prints no value"),
    (16, "23", None, "prints no value"),
])
def test_reduction_stands_beside_the_printed_values(show, r, stages, printed, reason):
    page = show(html("reduction"))
    page.root.locator("input[type=range]").fill(str([2, 4, 8, 16, 32].index(r)))
    boxes = page.root.locator("input[type=checkbox]")
    for i in range(4):
        boxes.nth(i).set_checked(str(i + 2) in stages)
    shown = page.root.get_attribute("data-printed")
    assert shown == ("none" if printed is None else f"{printed:g}")
    assert reason in page.said()
    assert printed is None or f"prints {printed:.1f} M" in page.said()


def test_reduction_by_keyboard_and_touch(show):
    page = show(html("reduction"), **PHONE)
    slider = page.root.locator("input[type=range]")
    for key, r in (("ArrowLeft", 8), ("Home", 2), ("End", 32), ("ArrowLeft", 16)):
        slider.press(key)
        assert page.state("r") == r
    page.tab.keyboard.press("Tab")
    page.tab.keyboard.press("Space")
    assert page.root.get_attribute("data-stages") == "stage_3 stage_4 stage_5"
    page.root.locator("label", has_text="stage 2").tap()
    assert page.root.get_attribute("data-stages").startswith("stage_2")
    page.tab.touchscreen.tap(*page.place(slider, 0.02, 0.5))
    assert page.state("r") == 2


# Manners -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everything(tabs, tmp_path_factory):
    """Opens a page that holds each figure, or copies of it, at a width, in a theme."""
    opened = []

    def make(width, theme="light", copies=1):
        options = {"viewport": {"width": width, "height": 900}}
        paper = "#121212" if theme == "dark" else "#fff"
        page = Page(tabs.take(options), tmp_path_factory.mktemp("everything"),
                    *[html(name) for name in NAMES for _ in range(copies)],
                    attributes=f'data-theme="{theme}" style="background: {paper}"')
        opened.append((page, options))
        assert page.roots.count() == copies * len(NAMES)
        return page

    yield make
    for page, options in opened:
        page.hush()
        tabs.give_back(page.tab, options)


@pytest.fixture(scope="module")
def complaints(everything):
    """Returns axe's serious findings by the figure in which they stand."""
    @functools.cache
    def look(theme, width):
        page = everything(width, theme, copies=2)
        for name in NAMES:
            root = page.tab.locator(f"[data-figure={name}]").first
            assert root.get_attribute("data-theme") == theme
            root.get_by_role("slider").first.press("ArrowRight")
        height = page.tab.evaluate("document.documentElement.scrollHeight")
        with page.screen(width, height):
            found = Axe().run(page.tab, options=FINDINGS | {"preload": False}).response
        rules = {rule["id"] for rule in found["passes"] + found["incomplete"]}
        assert len(rules) > 10 and "color-contrast" in rules
        where = {}
        for rule in found["violations"]:
            if rule["impact"] in ("serious", "critical"):
                for node in rule["nodes"]:
                    name = page.tab.locator(node["target"][0]).first.evaluate(
                        "e => e.closest('.cvattn-live')?.dataset.figure")
                    where.setdefault(name, []).append((rule["id"], node["html"]))
        assert set(where) <= set(NAMES), where
        return where

    return look


@figures
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [900, 360])
def test_axe_finds_nothing_serious(complaints, name, theme, width):
    assert complaints(theme, width).get(name, []) == []


@figures
def test_theme_follows_the_page_then_the_system(show, name):
    page = show(html(name), color_scheme="dark")
    theme = lambda: page.root.get_attribute("data-theme")  # noqa: E731
    paper = "e => getComputedStyle(e).backgroundColor"
    dark = page.root.evaluate(paper)
    assert theme() == "dark"
    for attribute, on, value, wanted in (
        ("data-theme", "documentElement", "light", "light"),      # the book
        ("data-theme", "documentElement", "dark", "dark"),
        ("data-theme", "documentElement", None, "dark"),
        ("theme", "documentElement", "light", "light"),           # Colab
        ("theme", "documentElement", None, "dark"),
        ("data-jp-theme-light", "body", "true", "light"),         # JupyterLab
        ("data-jp-theme-light", "body", "false", "dark"),
        ("data-jp-theme-light", "body", None, "dark"),
    ):
        page.tab.evaluate(
            "([on, name, value]) => value === null ? document[on].removeAttribute(name)"
            " : document[on].setAttribute(name, value)", [on, attribute, value])
        assert theme() == wanted, (attribute, value)
    page.tab.emulate_media(color_scheme="light")
    page.root.and_(page.tab.locator("[data-theme=light]")).wait_for()
    assert page.root.evaluate(paper) != dark


CANVASES = {"lookup": ".chart", "weigh": ".grid", "squeeze": ".map",
            "surgery": ".gates", "reduction": ".reduction canvas",
            "trap": ".trap canvas", "field": ".grid", "combine": ".surface",
            "grow": ".chart", "arrows": ".plane", "waves": ".chart",
            "dates": ".grid", "looks": ".looks .map >> nth=1", "shuffle": ".map"}


@pytest.mark.parametrize("name", CANVASES)
def test_canvas_is_drawn_anew_when_the_theme_changes(show, name):
    page = show(html(name))
    drawn = "c => c.toDataURL()"
    target = page.root.locator(CANVASES[name]).first
    light = target.evaluate(drawn)
    page.tab.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert target.evaluate(drawn) != light


@pytest.fixture(scope="module")
def beyond(everything):
    """Returns what sticks out of each figure, or out of the page, at a width."""
    @functools.cache
    def look(width):
        return everything(width).tab.evaluate("""width => Object.fromEntries(
          [...document.querySelectorAll(".cvattn-live")].map((root) => {
            const edge = root.getBoundingClientRect().right;
            return [root.dataset.figure, [root, ...root.querySelectorAll("*")]
              .filter((e) => e.getBoundingClientRect().right > edge + 0.5 ||
                edge > width || root.scrollWidth > width)
              .map((e) => e.outerHTML)];
          }))""", width)

    return look


@figures
@pytest.mark.parametrize("width", [320, 360, 700])
def test_narrow_pages_do_not_scroll_sideways(beyond, name, width):
    assert beyond(width)[name] == []


@figures
def test_targets_are_large_enough_for_a_finger(show, name):
    page = show(html(name), **PHONE)
    targets = page.root.locator("button, select, .pick, label, input[type=range], "
                                "canvas[tabindex]")
    assert targets.count() >= 5
    for i in range(targets.count()):
        box = targets.nth(i).bounding_box()
        assert min(box["width"], box["height"]) >= 43.5, targets.nth(i).inner_text()


@figures
def test_every_stop_of_the_tab_key_has_a_name_and_a_ring(show, name):
    page = show(html(name))
    stops = 0
    while True:
        page.tab.keyboard.press("Tab")
        if not page.tab.evaluate("document.activeElement.closest('.cvattn-live')"):
            break
        stops += 1
        ring = page.tab.evaluate("""() => {
          const e = document.activeElement;
          return [e, e.nextElementSibling, e.closest("label")].some(
            (n) => n && getComputedStyle(n).outlineStyle === "solid" &&
              parseFloat(getComputedStyle(n).outlineWidth) >= 2);
        }""")
        named = page.tab.evaluate("""() => {
          const e = document.activeElement;
          return e.getAttribute("aria-label") || (e.closest("label") || e).innerText;
        }""")
        assert ring and named.strip(), page.tab.evaluate(
            "document.activeElement.outerHTML")
    assert stops >= 5


@pytest.mark.parametrize(("name", "canvas"), [("squeeze", ".map"),
                                              ("surgery", ".gates")])
def test_a_finger_paints_on_the_canvas_and_scrolls_elsewhere(show, name, canvas):
    page = show(html(name), "<p style='height: 900px'></p>", **PHONE)
    target = page.root.locator(canvas)
    start, end = page.place(target, 0.5, 0.8), page.place(target, 0.5, 0.2)
    offset = page.tab.evaluate("scrollY")
    page.swipe(start, end)
    assert page.tab.evaluate("scrollY") == offset
    said = page.said()
    assert "pixels" in said or "Channel" in said
    page.tab.evaluate("scrollTo(0, 0)")
    title = page.place(page.root.locator(".title"), 0.5, 0.5)
    page.swipe((title[0], title[1] + 60), (title[0], title[1] - 20))
    page.tab.wait_for_function("scrollY > 0", timeout=30_000)


def test_motion_stops_where_the_reader_asks(show):
    moves = "e => getComputedStyle(e).transitionDuration"
    calm = show(html("squeeze"), reduced_motion="reduce")
    assert calm.root.locator(".bar i").first.evaluate(moves) == "0s"
    usual = show(html("squeeze"), reduced_motion="no-preference")
    assert usual.root.locator(".bar i").first.evaluate(moves) != "0s"


def test_shoot_refuses_a_figure_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"no figure named \['gone'\]; .*'squeeze'"):
        pictures.shoot(tmp_path, ["squeeze", "gone"])
    assert list(tmp_path.iterdir()) == []
