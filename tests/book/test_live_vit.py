"""The two live figures of the chapter on ViT: their numbers are PyTorch's."""

import itertools

import numpy as np
import pytest
import torch
from pages import CLOSE, PHONE, html, same_numbers

from cvattn import rollout
from cvattn.book import data, live, train
from cvattn.book.experiments import vit as experiment
from cvattn.book.experiments import vit_figures as figures


def small():
    """Return the network that the page runs, in float64, and its pictures."""
    net = figures.rounded(experiment.trained(figures.ARM)).double()
    images, labels = data.fashion_mnist("test")
    shipped = live.arrays("vit")
    index = torch.from_numpy(shipped["index"])
    return net, data.to_float(images[index]).double(), labels[index]


@pytest.fixture(scope="module")
def net():
    return small()


def choose(page, group, word):
    page.root.get_by_role("group", name=group).locator(
        "label.pick", has_text=word).first.click()


# What is shipped --------------------------------------------------------------------


def test_the_shipped_numbers_come_from_the_shipped_weights():
    anew = figures.collect(experiment.trained(figures.ARM), *data.fashion_mnist("test"))
    same_numbers("vit", anew, tolerance=0)


def test_rounding_changes_next_to_nothing():
    test = data.fashion_mnist("test")
    whole, rough = (train.evaluate(m, test) for m in (
        experiment.trained(figures.ARM),
        figures.rounded(experiment.trained(figures.ARM))))
    assert abs(train.accuracy(whole, test[1]) - train.accuracy(rough, test[1])) <= 0.01
    assert (whole.softmax(1) - rough.softmax(1)).abs().mean() < 0.01


def test_quantised_by_hand():
    matrix = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]])
    q, scale = figures.quantised(matrix)
    assert q.tolist() == [[64, -127, 32], [0, 0, 0]] and q.dtype == torch.int8
    assert scale[0] == pytest.approx(2 / 127)
    step = scale[:, None] / 2 + 1e-7
    assert ((q * scale[:, None] - matrix).abs() <= step).all()


def test_rows_of_every_kind():
    assert figures.rows(torch.zeros(4, 1, 3, 3)).shape == (4, 9)
    assert figures.rows(torch.zeros(1, 7, 4)).shape == (7, 4)
    assert figures.rows(torch.zeros(1, 1, 4)).shape == (4,)
    assert figures.rows(torch.zeros(5, 4)).shape == (5, 4)
    assert figures.rows(torch.zeros(5)).shape == (5,)
    x = torch.arange(2 * 3 * 2 * 2.0).view(2, 3, 2, 2)
    assert torch.equal(figures.rows(x)[1], x[1].flatten())


def test_the_first_right_of_each_class():
    labels = torch.arange(10).repeat(3)
    right = torch.ones(30).bool()
    right[[0, 9, 19]] = False
    found = figures.first_right(right, labels)
    assert found == [10, 1, 2, 3, 5, 7, 8, 29]


# Looks ------------------------------------------------------------------------------


def looked(page, net):
    """Assert that the shares and logits on the page are PyTorch's; return them."""
    model, x, _ = net
    picture = x[page.state("picture")][None]
    with torch.inference_mode():
        A, logits = model.weights(picture), model(picture)[0]
    layer, head = page.state("layer"), page.state("head")
    if layer == len(A):
        wanted = rollout(A)[0]
    else:
        wanted = A[layer, 0].mean(0) if head < 0 else A[layer, 0, head]
    row = wanted[page.state("token")]
    np.testing.assert_allclose(page.state("shares"), row, atol=CLOSE)
    np.testing.assert_allclose(page.state("logits"), logits, atol=CLOSE)
    top = int(row[1:].argmax())
    assert (f"row {top // 7 + 1}, column {top % 7 + 1}, {row[1 + top]:.3f}"
            in page.said())
    return row


def test_looks_equals_pytorch_in_every_layer_and_head(show, net):
    page = show(html("looks"))
    board = page.root.locator("[role=application]")
    board.press("ArrowUp")
    for layer, head in itertools.product(("1", "2", "3", "4"), ("mean", *"123")):
        choose(page, "Layer", layer)
        choose(page, "Head", head)
        assert looked(page, net).sum() == pytest.approx(1)
    choose(page, "Layer", "rollout")
    looked(page, net)
    assert page.errors == []


def test_looks_equals_pytorch_on_every_picture(show, net):
    page = show(html("looks"))
    for n, name in enumerate(live.looks().data["names"]):
        choose(page, "Picture", name)
        assert page.state("picture") == n
        looked(page, net)


@pytest.mark.parametrize("by", ["mouse", "touch", "keyboard"])
def test_looks_a_patch_is_chosen(show, net, by):
    page = show(html("looks"), **(PHONE if by == "touch" else {}))
    board = page.root.locator("[role=application]")
    if by == "keyboard":
        for key in ("ArrowUp", "ArrowLeft"):
            board.press(key)
    else:
        at = page.place(board, 2.5 / 7, 2.5 / 7)
        (page.tab.mouse.click if by == "mouse" else page.tab.touchscreen.tap)(*at)
    assert page.state("token") == 1 + 2 * 7 + 2
    assert "The patch at row 3, column 3" in page.said()
    looked(page, net)
    board.press("Escape")
    assert page.state("token") == 0
    looked(page, net)


def test_looks_arrows_stop_at_the_edge(show, net):
    page = show(html("looks"))
    board = page.root.locator("[role=application]")
    for key in ["ArrowUp"] * 5 + ["ArrowLeft"] * 5:
        board.press(key)
    assert page.state("token") == 1
    page.root.get_by_role("button", name="Ask by the class token").click()
    assert page.state("token") == 0
    looked(page, net)


# Shuffle ----------------------------------------------------------------------------


def told(page, net):
    """Assert that the probabilities on the page are PyTorch's; return them."""
    model, x, labels = net
    n, order = page.state("picture"), torch.tensor(page.state("order"))
    assert sorted(order.tolist()) == list(range(49))
    words = model.E(x[n][None]).flatten(2).transpose(1, 2)[:, order]
    E_pos = model.E_pos[:, 1:].clone()
    mode = page.root.get_attribute("data-mode")
    if mode == "travel":
        E_pos = E_pos[:, order]
    elif mode == "off":
        E_pos = torch.zeros_like(E_pos)
    with torch.inference_mode():
        z = torch.cat([model.x_class + model.E_pos[:, :1], words + E_pos], dim=1)
        for layer in model.layers:
            z = layer(z)
        logits = model.head(model.norm(z[:, 0]))[0]
    p = logits.softmax(0)
    np.testing.assert_allclose(page.state("logits"), logits, atol=CLOSE)
    np.testing.assert_allclose(page.state("probabilities"), p, atol=CLOSE)
    shown = page.root.locator("li .number").all_inner_texts()
    assert shown == [f"{v:.3f}" for v in page.state("probabilities")]
    assert f"{data.CLASSES[int(p.argmax())]} with {p.max():.3f}" in page.said()
    assert ("right" in page.said()) == (p.argmax() == labels[n])
    return p


def test_shuffle_starts_as_the_whole_network(show, net):
    page = show(html("shuffle"))
    assert sum(n != i for i, n in enumerate(page.state("order"))) == 10
    told(page, net)
    page.root.get_by_role("slider").press("Home")
    for n, name in enumerate(live.shuffle().data["names"]):
        choose(page, "Picture", name)
        p = told(page, net)
        with torch.inference_mode():
            whole = net[0](net[1][n][None])[0].softmax(0)
        torch.testing.assert_close(p, whole)
    assert page.errors == []


def test_shuffle_equals_pytorch_and_only_stay_notices(show, net):
    page = show(html("shuffle"))
    page.root.get_by_role("button", name="Put back").click()
    choose(page, "Picture", "Sneaker")
    found = {}
    for when in ("before", "after"):
        for mode in ("stay", "travel", "off"):
            choose(page, "Positions", mode)
            found[mode, when] = told(page, net)
        page.root.get_by_role("button", name="Shuffle all").click()
    for mode in ("travel", "off"):
        torch.testing.assert_close(found[mode, "before"], found[mode, "after"])
    assert (found["stay", "before"] - found["stay", "after"]).abs().max() > 0.01
    page.root.get_by_role("button", name="Put back").click()
    assert page.state("order") == list(range(49))
    told(page, net)


@pytest.mark.parametrize("by", ["mouse", "touch", "keyboard"])
def test_shuffle_two_patches_are_exchanged(show, net, by):
    page = show(html("shuffle"), **(PHONE if by == "touch" else {}))
    page.root.get_by_role("button", name="Put back").click()
    board = page.root.locator("[role=application]")
    if by == "keyboard":
        for key in ("ArrowDown", "Enter", "ArrowRight", "ArrowRight"):
            board.press(key)
        assert page.state("held") == 7 and page.state("order") == list(range(49))
        board.press(" ")
    else:
        click = page.tab.mouse.click if by == "mouse" else page.tab.touchscreen.tap
        click(*page.place(board, 0.5 / 7, 1.5 / 7))
        assert page.state("held") == 7 and "row 2, column 1 taken up" in page.said()
        click(*page.place(board, 2.5 / 7, 1.5 / 7))
    order = list(range(49))
    order[7], order[9] = 9, 7
    assert page.state("order") == order and page.state("held") == -1
    assert "2 patches moved" in page.said()
    told(page, net)


def test_shuffle_a_patch_is_put_down_where_it_was(show, net):
    page = show(html("shuffle"))
    page.root.get_by_role("button", name="Put back").click()
    board = page.root.locator("[role=application]")
    for keys in (("Enter", "Enter"), ("Enter", "ArrowRight", "Escape")):
        for key in keys:
            board.press(key)
        assert page.state("held") == -1 and page.state("order") == list(range(49))
    told(page, net)


def test_shuffle_the_slider_says_how_many_are_out_of_place(show, net):
    page = show(html("shuffle"))
    slider = page.root.get_by_role("slider")
    out = lambda: sum(n != i for i, n in enumerate(page.state("order")))  # noqa: E731
    for key, many in (("Home", 0), ("ArrowRight", 2), ("ArrowRight", 3),
                      ("ArrowLeft", 2), ("ArrowLeft", 0), ("End", 49)):
        slider.press(key)
        assert out() == int(slider.input_value()) == many
    told(page, net)
    page.root.get_by_role("button", name="Put back").click()
    assert slider.input_value() == "0"


def test_looks_the_slider_goes_through_all_who_ask(show, net):
    page = show(html("looks"))
    slider = page.root.get_by_role("slider")
    assert slider.input_value() == "25" == str(page.state("token"))
    for key, token in (("Home", 0), ("ArrowRight", 1), ("End", 49)):
        slider.press(key)
        assert page.state("token") == token
        looked(page, net)
    page.root.locator("[role=application]").press("ArrowUp")
    assert slider.input_value() == "42"
