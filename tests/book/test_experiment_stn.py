"""The STN experiment: its arms, its worlds, what it measures, and one tiny run."""

import inspect
import json
import math

import numpy as np
import pytest
import torch
from samples import stirred
from torch import nn
from torch.nn import functional as F

from cvattn.book import data, train
from cvattn.book.experiments import bam, stn_figures
from cvattn.book.experiments import stn as experiment
from cvattn.book.experiments.grid import Grid
from cvattn.stn import SpatialTransformer
from cvattn.warps import Affine

ARMS = experiment.SETTINGS["arms"]
SIZE = experiment.CANVAS


def some(n):
    images, labels = data.fashion_mnist("test")
    return images[:n], labels[:n]


def moving(seed=0, net="st_fcn"):
    """An untrained network in eval mode whose transformer does something."""
    torch.manual_seed(seed)
    model = experiment.build({"net": net}).eval()
    with torch.no_grad():
        model[0].regressor.weight.normal_(0, 0.1)
    return stirred(model)


# The arms.

def test_each_arm_is_what_the_settings_say():
    assert list(ARMS) == [f"{kind}-{net}" for kind in experiment.KINDS
                          for net in experiment.HIDDEN]
    for arm, settings in ARMS.items():
        kind, net = arm.split("-")
        assert (settings["kind"], settings["net"]) == (kind, net)
        model = experiment.build(experiment.GRID.used(arm))
        first = experiment.transformer(model)
        assert (first is not None) == net.startswith("st_")
        assert first is None or (
            first is model[0] and type(first.transform) is Affine)
        convolutions = sum(isinstance(m, nn.Conv2d) for m in model)
        assert convolutions == (2 if net.endswith("cnn") else 0)
        assert not any(isinstance(m, SpatialTransformer) for m in model[1:])
        with torch.no_grad():
            assert model.eval()(torch.randn(3, 1, SIZE, SIZE)).shape == (3, 10)
    assert {arm["seeds"] for arm in ARMS.values()} == {5}
    assert json.loads(json.dumps(experiment.SETTINGS)) == experiment.SETTINGS
    assert set(experiment.GRID.shipped) <= set(ARMS)


def test_the_two_of_a_pair_have_one_size():
    sizes = {net: sum(p.numel() for p in experiment.build({"net": net}).parameters())
             for net in experiment.HIDDEN}
    for net in ("fcn", "cnn"):
        assert abs(sizes[net] / sizes[f"st_{net}"] - 1) < 0.01
        assert sizes[net] >= sizes[f"st_{net}"]


def test_a_transformer_starts_as_the_identity():
    for net in ("st_fcn", "st_cnn"):
        model = experiment.build({"net": net})
        x = torch.randn(5, 1, SIZE, SIZE)
        torch.testing.assert_close(model[0](x), x, atol=1e-4, rtol=1e-4)


def test_every_network_and_every_world_stands_in_a_docstring():
    for net in experiment.HIDDEN:
        assert f"\n{net} " in experiment.__doc__
    for kind in experiment.KINDS:
        assert f"\n{kind} " in inspect.getdoc(experiment.distort)


# The worlds.

def dot(row, column, n=200):
    """Pictures of one bright square of 3 x 3 pixels, in the middle of canvas places."""
    images = torch.zeros(n, 28, 28, dtype=torch.uint8)
    images[:, row - 1:row + 2, column - 1:column + 2] = 255
    return images, torch.arange(n) % 2


def centre_of(pictures):
    """The middle of the ink, in pixels from that of the canvas, (N, 2), x first."""
    ink = pictures.double() / pictures.double().sum((1, 2), keepdim=True)
    at = torch.arange(SIZE).double() - (SIZE - 1) / 2
    return torch.stack([(ink.sum(1) * at).sum(1), (ink.sum(2) * at).sum(1)], 1)


def test_R_turns_about_the_middle_by_up_to_90_degrees():
    images, labels = dot(14, 20)
    seen, truth = experiment.distort(images, labels, "R", 3)
    assert seen.shape == (200, SIZE, SIZE) and seen.dtype == torch.uint8
    x, y = centre_of(seen).T
    before = torch.tensor([6.5, 0.5])                # of 28 pixels, the middle is 13.5
    assert torch.hypot(x, y) == pytest.approx(before.norm().item(), abs=0.2)
    turned = torch.rad2deg(torch.atan2(y, x) - math.atan2(0.5, 6.5))
    assert turned.abs().max() < 92 and turned.min() < -75 and turned.max() > 75
    # The grid turns by the opposite angle, which is what the truth says.
    grid = torch.rad2deg(experiment.motions(truth)["angle"])
    torch.testing.assert_close(grid.double(), -turned, atol=3, rtol=0)
    assert 87 < grid.abs().max() <= 90 + 1e-3
    assert (truth[:, :, 2] == 0).all()


def test_RTS_turns_scales_and_moves_within_its_bounds():
    images, labels = dot(14, 14)
    seen, truth = experiment.distort(images, labels, "RTS", 4)
    motions = experiment.motions(truth)
    assert 0.97 < motions["angle"].abs().max() / (math.pi / 4) <= 1 + 1e-5
    scale = (-motions["size"]).exp()                 # the window shrinks, objects grow
    assert 0.7 <= scale.min() < 0.75 and 1.15 < scale.max() <= 1.2 + 1e-5
    back = experiment.undoing(truth)
    assert 3.8 < back[:, :, 2].abs().max() * SIZE / 2 <= 4 + 1e-4
    # A point in the middle lands where the inverse map sends it, up to 0.5 of a pixel.
    at = torch.tensor([0.5, 0.5]) * 2 / SIZE
    want = (back[:, :, :2] @ at + back[:, :, 2]) * SIZE / 2
    assert (centre_of(seen) - want).abs().max() < 0.35


def test_P_bends_parallels_and_keeps_the_middle():
    images, labels = dot(14, 14)
    seen, truth = experiment.distort(images, labels, "P", 5)
    assert truth is None
    assert centre_of(seen).abs().max() < 1.0
    bars = torch.zeros(200, 28, 28, dtype=torch.uint8)
    bars[:, :, 6], bars[:, :, 21] = 255, 255
    wide = experiment.distort(bars, labels, "P", 5)[0] > 60

    def gap(row):
        left = wide[:, row, :18].float().argmax(1)
        right = SIZE - 1 - wide[:, row].flip(1).float().argmax(1)
        return right - left

    found = wide[:, 12].any(1) & wide[:, 24].any(1)
    apart = (gap(12) - gap(24))[found]
    assert found.sum() > 150 and apart.max() > 2 and apart.min() < -2
    # A bar in the middle keeps its area, but for the square of the scale.
    bar = torch.zeros(200, 28, 28, dtype=torch.uint8)
    bar[:, 13:15, 12:16] = 255
    area = experiment.distort(bar, labels, "P", 5)[0].double().sum((1, 2))
    side = (area / bar[0].double().sum()).sqrt()
    assert 0.72 < side.min() < 0.83 and 0.97 < side.max() < 1.05


def test_E_moves_neighbours_alike_and_far_points_apart():
    shifts = []
    for row, column in ((8, 8), (8, 9), (20, 20)):
        images, labels = dot(row, column)
        seen, truth = experiment.distort(images, labels, "E", 6)
        assert truth is None
        still = torch.tensor([column - 13.5, row - 13.5])
        shifts.append(centre_of(seen) - still)
    near, beside, far = shifts
    assert 3.2 < near.abs().max() < 4.6
    assert (near - beside).abs().mean() < 0.5 * (near - far).abs().mean()


def test_clutter_is_that_of_bam():
    images, labels = some(40)
    seen, thing = experiment.distort(images, labels, "clutter", 7)
    canvas, on, _ = bam.clutter(images, labels, 7)
    assert torch.equal(seen, canvas) and torch.equal(thing, on)


@pytest.mark.parametrize("kind", experiment.KINDS)
def test_worlds_follow_their_seed(kind):
    images, labels = some(20)
    one, again, other = (experiment.distort(images, labels, kind, seed)[0]
                         for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_what_cannot_be_distorted_is_refused():
    with pytest.raises(ValueError, match="kind must be one of R, RTS, P, E, clutter, "
                                         "got 'S'"):
        experiment.distort(*some(2), "S", 0)
    images, labels = some(2)
    with pytest.raises(ValueError, match=r"\(N, 28, 28\), got \(2, 27, 28\)"):
        experiment.distort(images[:, 1:], labels, "R", 0)
    with pytest.raises(ValueError, match="one of fcn, cnn, st_fcn, st_cnn, got 'mlp'"):
        experiment.build({"net": "mlp"})


def test_pictures_are_the_first_of_training_and_all_of_the_test(monkeypatch):
    images, labels = some(60)
    monkeypatch.setattr(experiment, "fashion_mnist", lambda split: (images, labels))
    settings = {"pictures": 20, "kind": "RTS"}
    for split, seed, n in (("train", 0, 20), ("test", 1, 60)):
        seen, y = experiment.pictures(split, settings)
        want = experiment.distort(images[:n], labels[:n], "RTS", seed)[0]
        assert torch.equal(seen, want) and torch.equal(y, labels[:n])


# What is measured.

def matrix(angle=0.0, size=1.0, across=0.0, down=0.0):
    c, s = size * math.cos(angle), size * math.sin(angle)
    return torch.tensor([[[c, -s, across], [s, c, down]]])


def test_motions_by_hand():
    found = experiment.motions(torch.cat([
        matrix(), matrix(angle=0.7), matrix(angle=-2.0, size=0.5),
        matrix(size=2, across=0.3, down=-0.4)]))
    want = {"angle": [0, 0.7, -2.0, 0], "size": [0, 0, math.log(0.5), math.log(2)],
            "across": [0, 0, 0, 0.3], "down": [0, 0, 0, -0.4]}
    for name, values in want.items():
        assert found[name].tolist() == pytest.approx(values, abs=1e-6), name
    shear = torch.tensor([[[1.0, 0.5, 0], [0, 1, 0]]])
    assert experiment.motions(shear)["size"].item() == pytest.approx(0)
    # The nearest rotation, by the singular vectors.
    A = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0))
    A[:, :, :2] += torch.eye(2) * 2
    U, _, Vh = torch.linalg.svd(A[0, :, :2])
    R = U @ Vh
    assert experiment.motions(A)["angle"].item() == pytest.approx(
        math.atan2(R[1, 0], R[0, 0]), abs=1e-5)


def test_undoing_is_the_inverse():
    theta = torch.eye(2, 3) + 0.3 * torch.randn(6, 2, 3)
    last = torch.tensor([0.0, 0, 1]).expand(6, 1, 3)
    both = (torch.cat([theta, last], 1)
            @ torch.cat([experiment.undoing(theta), last], 1))
    torch.testing.assert_close(both, torch.eye(3).expand(6, 3, 3), atol=1e-4, rtol=0)


def test_reading_with_the_undoing_map_gives_the_picture_back():
    images, labels = some(50)
    seen, truth = experiment.distort(images, labels, "R", 1)
    grid = F.affine_grid(experiment.undoing(truth), (50, 1, SIZE, SIZE),
                         align_corners=False)
    back = F.grid_sample(seen[:, None].float(), grid, align_corners=False)[:, 0]
    whole = F.pad(images, (4, 4, 4, 4)).float()
    off, was = ((a - whole).abs().mean() for a in (back, seen.float()))
    assert off < 0.35 * was


def test_share_by_hand():
    pictures = torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)
    thing = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    pictures[:, 17:19, 17:19], thing[:, 17:19, 17:19] = 100, True    # the middle
    pictures[0, 2:4, 2:6] = 50                                       # a fragment
    still = torch.eye(2, 3).repeat(2, 1, 1)
    assert experiment.share(pictures, thing, still) == pytest.approx(
        (400 / 800 + 1) / 2, abs=1e-4)
    zoom = still * torch.tensor([[0.5, 0.5, 1.0]])
    assert experiment.share(pictures, thing, zoom) == pytest.approx(1)
    away = still.clone()
    away[:, 0, 2] = 5                                # nothing is read: no share, no NaN
    assert experiment.share(pictures, thing, away) == 0


def test_thetas_are_those_of_the_transformer():
    model = moving()
    images, labels = some(600)
    seen = experiment.distort(images, labels, "RTS", 1)[0]
    with torch.inference_mode():
        want = model[0].theta(data.to_float(seen))
    assert want.std(0).min() > 1e-3
    found = experiment.thetas(model.train(), seen)
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)
    assert model.training


def test_watch_sees_the_first_pictures_of_the_test_world(monkeypatch):
    images, labels = some(30)
    monkeypatch.setattr(experiment, "fashion_mnist", lambda split: (images, labels))
    model = moving()
    found = experiment.watch(model, {"kind": "R"})
    seen = experiment.distort(images, labels, "R", 1)[0][:experiment.WATCHED]
    np.testing.assert_allclose(found["theta"], experiment.thetas(model, seen),
                               rtol=0, atol=6e-5)
    assert np.array_equal(found["theta"], np.round(found["theta"], 4))
    assert np.shape(found["theta"]) == (8, 2, 3)
    assert experiment.watch(experiment.build({"net": "fcn"}), {"kind": "R"}) == {}


class Given(nn.Module):
    """A localiser that knows the answer: it hands out rows of a table in turn."""

    def __init__(self, rows):
        super().__init__()
        self.rows, self.at = rows, 0

    def forward(self, x):
        self.at += len(x)
        return self.rows[self.at - len(x):self.at]


@pytest.mark.parametrize("part", [0.0, 0.4, 1.0])
def test_examine_finds_how_much_is_undone(monkeypatch, part):
    images, labels = some(300)
    monkeypatch.setattr(experiment, "fashion_mnist", lambda split: (images, labels))
    seen, truth = experiment.distort(images, labels, "RTS", 1)
    wanted = experiment.motions(experiment.undoing(truth))
    chosen = torch.cat([matrix(
        angle=0.2 + part * a, size=math.exp(part * s), across=part * x, down=part * y)
        for a, s, x, y in zip(*(wanted[k].tolist() for k in (
            "angle", "size", "across", "down")), strict=True)])
    model = experiment.build({"net": "st_fcn"}).eval()
    model[0] = SpatialTransformer(Given(chosen.flatten(1)), features=6)
    with torch.no_grad():
        model[0].regressor.weight.copy_(torch.eye(6))
        model[0].regressor.bias.zero_()
    found = experiment.examine(model, (seen, labels), {"kind": "RTS"})["undone"]
    assert list(found) == ["angle", "size", "across", "down"]
    for slope, correlation in found.values():
        assert slope == pytest.approx(part, abs=1e-3)
        if part:
            assert correlation == pytest.approx(1, abs=1e-3)


def test_what_never_moves_undoes_nothing(monkeypatch):
    images, labels = some(30)
    monkeypatch.setattr(experiment, "fashion_mnist", lambda split: (images, labels))
    seen = experiment.distort(images, labels, "R", 1)[0]
    found = experiment.examine(experiment.build({"net": "st_fcn"}), (seen, labels),
                               {"kind": "R"})
    assert found == {"undone": {"angle": [0, 0]}}


def test_examine_says_what_it_can_and_else_nothing(monkeypatch):
    images, labels = some(50)
    monkeypatch.setattr(experiment, "fashion_mnist", lambda split: (images, labels))
    model = moving()

    def examined(model, kind):
        seen = experiment.distort(images, labels, kind, 1)[0]
        return experiment.examine(model, (seen, labels), {"kind": kind})

    assert set(examined(model, "R")["undone"]) == {"angle"}
    assert examined(model, "P") == examined(model, "E") == {}
    assert examined(experiment.build({"net": "cnn"}), "RTS") == {}
    canvas, thing, _ = bam.clutter(images, labels, 1)
    before = canvas.double() * thing
    want = (before.sum((1, 2)) / canvas.double().sum((1, 2))).mean().item()
    found = examined(model, "clutter")["ink"]
    assert found[0] == pytest.approx(want, abs=1e-4)
    assert found[1] == pytest.approx(experiment.share(
        canvas, thing, experiment.thetas(model, canvas)), abs=1e-5)


# One run.

def test_a_tiny_run(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "device", lambda: torch.device("cpu"))
    images, labels = some(60)
    monkeypatch.setattr(experiment, "fashion_mnist", lambda split: (images, labels))
    settings = experiment.SETTINGS | {
        "epochs": 2, "batch_size": 20, "pictures": 40,
        "arms": {arm: ARMS[arm] for arm in ("R-fcn", "R-st_cnn")}}
    grid = Grid("stn", settings, experiment.build, experiment.examine,
                experiment.pictures, watch=experiment.watch)
    threads = torch.get_num_threads()
    for arm in ("R-fcn", "R-st_cnn"):
        record = grid.run(arm, 0, tmp_path, threads)
        model = experiment.build(grid.used(arm))
        model.load_state_dict(
            torch.load(tmp_path / f"{arm}-0-weights.pt", weights_only=True))
        assert record["parameters"] == sum(p.numel() for p in model.parameters())
        test = experiment.pictures("test", grid.used(arm))
        logits = train.evaluate(model, test)
        assert record["accuracy"] == train.accuracy(logits, labels)
        moves = arm == "R-st_cnn"
        assert ("undone" in record) == ("theta" in record["history"][0]) == moves
        if moves:
            assert len(record["history"]) == 2
            np.testing.assert_allclose(
                record["history"][-1]["theta"],
                experiment.thetas(model, test[0][:8]), rtol=0, atol=6e-5)
            again = experiment.examine(model, test, grid.used(arm))["undone"]
            assert record["undone"]["angle"] == pytest.approx(again["angle"], abs=1e-5)
        assert grid.run(arm, 0, tmp_path, threads) == record, "read, not made again"


# What the live figure is given.

def test_folded_layers_do_what_the_transformer_does():
    model = moving(seed=1)
    x = torch.randn(7, 1, SIZE, SIZE)
    h = F.avg_pool2d(x, 2).flatten(1)
    layers = stn_figures.folded(model[0])
    for k, (weight, bias) in enumerate(layers):
        h = h @ weight.T + bias
        h = torch.relu(h) if k < len(layers) - 1 else h
    with torch.no_grad():
        torch.testing.assert_close(h.view(-1, 2, 3), model[0].theta(x),
                                   atol=1e-4, rtol=1e-4)


def test_collect_keeps_the_first_picture_of_each_class_and_the_layers():
    images, labels = some(200)
    model = moving(seed=2)
    found = stn_figures.collect(model, images, labels)
    for k, name in enumerate(stn_figures.SHOWN):
        first = (labels == data.CLASSES.index(name)).nonzero()[0, 0]
        np.testing.assert_array_equal(found["pictures"][k], images[first])
        assert found["labels"][k] == data.CLASSES.index(name)
    for k, (weight, bias) in enumerate(stn_figures.folded(model[0])):
        np.testing.assert_array_equal(found[f"weight{k}"], weight)
        np.testing.assert_array_equal(found[f"bias{k}"], bias)
