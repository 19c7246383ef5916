"""The cells that are blanked under a heat map, and what the record says of them."""

import json

import pytest
import torch
from torch.nn import functional as F

from cvattn.book import data
from cvattn.book.experiments import cbam
from cvattn.book.experiments import cbam_blanking as blanking
from cvattn.book.experiments.cbam_blanking import beside, choose, filled, touching, ways


@pytest.fixture(scope="module")
def shown():
    """Sixty test pictures, six of each class, and their labels."""
    images, labels = data.fashion_mnist("test")
    index = torch.cat([(labels == k).nonzero()[:6, 0] for k in range(10)])
    return images[index], labels[index]


@pytest.fixture(scope="module")
def heat(shown):
    return blanking.heat(cbam.trained("pool7"), *shown)


@pytest.fixture(scope="module")
def chosen(shown, heat):
    return ways(heat, blanking.objects(shown[0]))


@pytest.fixture(scope="module")
def record():
    return json.loads(blanking.FILE.read_text())


def test_heat_is_grad_cam_by_autograd(shown, heat):
    model, (images, labels) = cbam.trained("pool7"), shown
    A = model.features(data.to_float(images)).detach().requires_grad_()
    y = model.fc(A.mean(dim=(2, 3))).gather(1, labels[:, None])
    (g,) = torch.autograd.grad(y.sum(), A)
    want = torch.relu((g.mean(dim=(2, 3), keepdim=True) * A).sum(1)).detach()
    torch.testing.assert_close(heat / 49, want, rtol=1e-4, atol=1e-5)


def by_hand(cells):
    """Neighbours and touching pairs of one picture's cells, place by place."""
    here = {(int(i), int(j)) for i, j in cells.nonzero()}
    near = {(i + a, j + b) for i, j in here
            for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0))}
    pairs = sum((i, j + 1) in here for i, j in here) + sum(
        (i + 1, j) in here for i, j in here)
    return {(i, j) for i, j in near if 0 <= i < 7 and 0 <= j < 7}, pairs


def test_neighbours_and_touching_pairs():
    torch.manual_seed(0)
    cells = torch.rand(20, 7, 7) < 0.2
    for some, near, pairs in zip(cells, beside(cells), touching(cells), strict=True):
        found = {(int(i), int(j)) for i, j in near.nonzero()}
        assert (found, int(pairs)) == by_hand(some)


def test_the_ways_differ_as_they_say(shown, heat, chosen):
    own, shares = blanking.objects(shown[0]), {}
    for way, draws in chosen.items():
        random = way in ("any", "scattered", "lump", "apart")
        assert len(draws) == (blanking.DRAWS if random else 1), way
        assert len({d.numpy().tobytes() for d in draws}) == len(draws)
        for cells in draws:
            six = cells.sum((1, 2)) == 6
            assert six.double().mean() > 0.9 and cells.sum((1, 2)).max() == 6
            if way not in ("hottest", "coldest", "any"):
                assert not (cells & ~own).any(), way
            if way.startswith("apart"):
                assert touching(cells).max() == 0
            if way == "lump":
                assert (touching(cells)[six] >= 5).all()    # a tree, or more
                assert connected(cells[six])
        shares[way] = (heat * draws[0]).sum() / heat.sum()
    assert shares["hottest"] > shares["own hottest"] > shares["apart hottest"]
    assert shares["apart hottest"] > shares["apart"]
    assert shares["coldest"] < shares["own coldest"] < shares["scattered"]


def connected(cells):
    reached = choose(torch.rand(cells.shape), cells) & False
    reached.view(len(cells), -1)[
        torch.arange(len(cells)), cells.flatten(1).double().argmax(1)] = True
    for _ in range(6):
        reached |= beside(reached) & cells
    return torch.equal(reached, cells)


def test_the_hottest_are_the_hottest(heat, chosen):
    want = torch.zeros(len(heat), 49, dtype=torch.bool).scatter(
        1, heat.flatten(1).topk(6).indices, True)
    assert torch.equal(chosen["hottest"][0].flatten(1), want)


def test_a_picture_without_room_is_left_with_fewer():
    score = torch.arange(49.0).view(1, 7, 7)
    two = torch.zeros(1, 7, 7, dtype=torch.bool)
    two[0, 0, :2] = True
    assert choose(score, two).sum() == 2
    assert choose(score, two, blanking.apart).sum() == 1
    assert choose(score, two & False).sum() == 0
    full = choose(score, ~two)
    assert blanking.complete([full, full]) and not blanking.complete([full, two])


def test_black_and_blur(shown, chosen):
    images, cells = shown[0], chosen["lump"][0]
    there = cells.repeat_interleave(4, 1).repeat_interleave(4, 2)
    for fill in ("black", "blur"):
        new = filled(images, cells, fill)
        assert new.dtype == torch.uint8 and torch.equal(new[~there], images[~there])
        edges = [(torch.diff(x.double(), dim=2).abs()).sum() for x in (new, images)]
        assert (new[there] == 0).all() if fill == "black" else edges[0] < edges[1]
    box = torch.full((1, 1, 9, 9), 1 / 81)
    want = F.conv2d(F.conv2d(images[:, None].float(), box, padding=4), box, padding=4)
    blur = filled(images, cells, "blur")[there].double()
    assert (blur - want[:, 0][there]).abs().max() <= 0.501


# The record.

def test_every_pair_of_every_network_is_recorded(record):
    assert record["command"].endswith(blanking.__name__)
    assert record["settings"] == {"cells": 6, "side": 4, "draws": blanking.DRAWS}
    assert record["networks"].keys() == set(cbam.GRID.shipped)
    for network in record["networks"].values():
        assert [tuple(p["pair"]) for p in network["pairs"]] == list(blanking.PAIRS)
        assert all(p["pictures"] > 950 and p["low"] < p["mean"] < p["high"]
                   for p in network["pairs"])


def test_the_record_is_that_of_the_shipped_weights(record):
    images, labels = data.fashion_mnist("test")
    model = cbam.trained("plain")
    hottest = choose(blanking.heat(model, images, labels),
                     torch.ones(len(images), 7, 7, dtype=torch.bool))
    with torch.inference_mode():
        y = model(data.to_float(filled(images, hottest, "black")))
    row = record["networks"]["plain"]["ways"][0]
    assert (row["way"], row["fill"], row["pictures"]) == ("hottest", "black", 1000)
    assert row["accuracy"] == pytest.approx(
        (y.argmax(1) == labels).double().mean().item(), abs=2e-3)
    assert row["touching"] == pytest.approx(
        touching(hottest).double().mean().item(), abs=0.01)
