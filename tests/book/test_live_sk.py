"""The two live figures of "Selective kernels": their numbers are PyTorch's."""

import base64

import numpy as np
import pytest
import torch
from pages import CLOSE, PHONE, html, same_numbers

from cvattn.book import data, live
from cvattn.book.experiments import sk as experiment
from cvattn.book.experiments import sk_figures


@pytest.fixture(scope="module")
def sk_net():
    return experiment.trained("sk")


def close(shown, wanted):
    np.testing.assert_allclose(shown, np.asarray(wanted).ravel(), atol=CLOSE,
                               rtol=CLOSE)


# What is shipped ------------------------------------------------------------------


def test_the_shipped_weights_come_from_the_shipped_network(sk_net):
    same_numbers("sk", sk_figures.collect(sk_net, *data.fashion_mnist("test")))


# Axis ------------------------------------------------------------------------------

LABELS = {"branch": "branches", "channel": "channels", "all": "branches and channels",
          "batch": "batch"}
SOFTMAX = {"branch": lambda e: e.softmax(1), "channel": lambda e: e.softmax(2),
           "all": lambda e: e.flatten(1).softmax(1).view_as(e),
           "batch": lambda e: e.softmax(0)}


def pick(page, axis):
    page.root.locator("label.pick").filter(
        has=page.tab.get_by_text(LABELS[axis], exact=True)).click()
    assert page.root.get_attribute("data-axis") == axis


def block(array):
    return torch.from_numpy(np.asarray(array, dtype=np.float64)).view(2, 2, 4)


def given(name):
    packed = live.axis().data[name]
    return block(np.frombuffer(base64.b64decode(packed["base64"]), "<f4"))


def chosen_weights(page):
    """Assert that the page's weights, sums and output are PyTorch's."""
    scores = block(page.state("scores"))
    w = SOFTMAX[page.root.get_attribute("data-axis")](scores)
    V = (w * given("maps")).sum(1)
    close(page.state("weights"), w)
    close(page.state("sums"), w.sum(1))
    close(page.state("output"), V)
    shown = page.root.locator(".cell b").all_inner_texts()
    assert shown == [f"{v:.3f}" for v in page.state("weights")]
    totals = page.root.locator(".block > .total").all_inner_texts()
    ones = (w.sum(1) - 1).abs().flatten() < 1e-9
    assert [text.endswith("\u2713") for text in totals] == ones.tolist()
    ends = given("maps").sort(dim=1).values
    inside = ((V >= ends[:, 0] - 1e-9) & (V <= ends[:, 1] + 1e-9)).sum()
    assert f"{int(ones.sum())} of 8 sums over the branches are 1" in page.said()
    assert f"between its two maps in {inside} of 8 channels" in page.said()
    return w


@pytest.mark.parametrize("axis", SOFTMAX)
def test_axis_equals_pytorch_along_every_axis(show, axis):
    page = show(html("axis"))
    close(page.state("scores"), given("scores"))
    pick(page, axis)
    chosen_weights(page)
    for _ in range(3):
        page.root.get_by_role("button", name="Other scores").click()
        w = chosen_weights(page)
        assert ((w.sum(1) - 1).abs().max() < 1e-9) == (axis == "branch")
    page.root.get_by_role("button", name="As they were").click()
    close(page.state("scores"), given("scores"))
    assert page.errors == []


@pytest.mark.parametrize("axis", SOFTMAX)
@pytest.mark.parametrize("cell", [0, 6, 13])
def test_axis_a_score_moves_its_rivals_alone(show, axis, cell):
    page = show(html("axis"))
    pick(page, axis)
    page.root.locator(".cell").nth(cell).click()
    assert page.state("chosen") == cell and page.state("moved") == []
    before = block(page.state("scores"))
    slider = page.root.get_by_role("slider")
    assert float(slider.input_value()) == pytest.approx(before.flatten()[cell].item())
    slider.fill("3.1")
    after = before.clone()
    after.view(-1)[cell] = 3.1
    close(page.state("scores"), after)
    chosen_weights(page)
    moved = (SOFTMAX[axis](after) - SOFTMAX[axis](before)).abs().flatten() > 1e-9
    assert page.state("moved") == moved.nonzero()[:, 0].tolist()
    rivals = {"branch": 2, "channel": 4, "all": 8, "batch": 2}[axis]
    assert len(page.state("moved")) == rivals
    assert page.root.locator(".cell.moved").count() == rivals
    assert f"weight of {rivals - 1} other" in page.said()


def test_axis_by_keyboard_and_by_finger(show):
    page = show(html("axis"))
    page.root.locator(".cell").nth(5).press("Enter")
    assert page.state("chosen") == 5
    page.root.get_by_role("slider").press("ArrowRight")
    assert page.state("scores")[5] == pytest.approx(
        given("scores").flatten()[5].item() + 0.1)
    chosen_weights(page)
    phone = show(html("axis"), **PHONE)
    phone.root.locator(".cell").nth(10).tap()
    assert phone.state("chosen") == 10
    name = phone.root.locator(".cell").nth(10).get_attribute("aria-label")
    assert name.startswith("picture 2, 3 \u00d7 3, channel 3: weight 0.599")


# Grow ------------------------------------------------------------------------------


def grown(page, sk_net):
    """Assert that means and channels are what the network computes for the picture."""
    arrays = live.arrays("sk")
    images, _ = data.fashion_mnist("test")
    index = int(arrays["index"][page.state("picture")])
    side, layer = page.state("side"), page.state("layer")
    small = experiment.shrink(images[index: index + 1], side)
    layers, logits = sk_figures.look(sk_net, small)
    close(page.state("means"), [a.mean().item() for a in layers])
    close(page.state("channels"), layers[layer][0])
    shown = page.root.locator(".layers .number:not(.change)").all_inner_texts()
    assert shown == [f"{v:.3f}" for v in page.state("means")]
    p = logits.softmax(1)[0]
    best = f"{data.CLASSES[p.argmax()]}, {round(100 * p.max().item())} %"
    assert f"The network says {best}" in page.said()
    assert f"{side} pixels wide, \u00d7{side / 14:.2f}" in page.said()
    return layers


@pytest.mark.parametrize("picture", range(4))
def test_grow_equals_pytorch_at_every_size(show, sk_net, picture):
    page = show(html("grow"))
    page.root.locator(".pick").nth(picture).click()
    assert page.state("picture") == picture
    size = page.root.get_by_role("slider")
    for side in (14, 15, 21, 28):
        size.fill(str(side))
        assert page.state("side") == side
        layer = side % 6
        page.root.locator("label.pick", has_text=f"layer {layer + 1}").click()
        assert page.state("layer") == layer
        grown(page, sk_net)
    assert page.errors == []


def test_grow_tells_what_rose(show, sk_net):
    page = show(html("grow"))
    size = page.root.get_by_role("slider")
    size.press("Home")
    first = grown(page, sk_net)
    assert "the size that the marks show" in page.said()
    size.press("End")
    last = grown(page, sk_net)
    up = sum(b.mean().item() > a.mean().item()
             for a, b in zip(first, last, strict=True))
    turned = int((last[1] > first[1]).sum())
    assert f"higher in {up} of 6 layers" in page.said()
    assert f"in layer 2 it rose in {turned} of 8 channels" in page.said()
    changes = page.root.locator(".change").all_inner_texts()
    wanted = [b.mean().item() - a.mean().item()
              for a, b in zip(first, last, strict=True)]
    assert [float(t.replace("\u2212", "-")) for t in changes] == pytest.approx(
        wanted, abs=6e-4)


def test_grow_jumps_by_a_button(show, sk_net):
    page = show(html("grow"))
    for times, side in (("1.0", 14), ("2.0", 28), ("1.5", 21)):
        page.root.get_by_role("button", name=f"Enlarge {times} times").press("Enter")
        assert page.state("side") == side
        assert page.root.get_by_role("slider").input_value() == str(side)
        grown(page, sk_net)


@pytest.mark.parametrize("by", ["mouse", "touch"])
def test_grow_the_object_is_dragged(show, sk_net, by):
    page = show(html("grow"), **(PHONE if by == "touch" else {}))
    seen, ends = page.root.locator(".seen"), [(0.7, 0.5), (0.93, 0.5)]
    if by == "mouse":
        page.drag(seen, *ends)
    else:
        page.swipe(*[page.place(seen, *end) for end in ends], steps=4)
    assert page.state("side") == 24
    assert page.root.get_by_role("slider").input_value() == "24"
    grown(page, sk_net)
    page.drag(seen, (0.6, 0.5), (0.55, 0.5)) if by == "mouse" else page.swipe(
        *[page.place(seen, *end) for end in ((0.6, 0.5), (0.55, 0.5))])
    assert page.state("side") == 14, "not smaller than the smallest"


def test_grow_shows_the_picture_that_was_asked_about(show):
    page = show(html("grow"))
    arrays = live.arrays("sk")
    page.root.locator(".pick", has_text="Bag").click()
    size, seen = page.root.get_by_role("slider"), page.root.locator(".seen")
    for side in (14, 28):
        size.fill(str(side))
        corner, middle = seen.evaluate("""c => {
          const at = (x, y) => c.getContext("2d").getImageData(
            Math.floor(x * c.width), Math.floor(y * c.height), 1, 1).data[0];
          return [at(0.5 / 28, 14.5 / 28), at(14.5 / 28, 14.5 / 28)];
        }""")
        picture = arrays["pictures"][2, side - 14]
        assert (corner, middle) == (picture[14, 0], picture[14, 14])
