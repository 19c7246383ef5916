"""The BAM experiment: its arms, its scenes, what it measures, and one tiny run."""

import json

import numpy as np
import pytest
import torch
from samples import pictures, stirred
from torch import nn

from cvattn.bam import BAM
from cvattn.book import data, train
from cvattn.book.experiments import bam as experiment
from cvattn.book.experiments import bam_figures, se
from cvattn.book.experiments.grid import Grid

ARMS = experiment.SETTINGS["arms"]


def scenes(n):
    images, labels = pictures(n)
    return *experiment.clutter(images, labels, seed=3), labels


def made(**kwargs):
    """A small network in eval mode, whose gates and BatchNorms all matter."""
    torch.manual_seed(0)
    settings = experiment.SETTINGS | {
        "width": 4, "bam": {"reduction": 2, "dilation": 2, **kwargs}}
    return stirred(experiment.build(settings).eval())


# The arms.

def test_each_arm_is_what_the_settings_say():
    want = {        # combine, reduction, dilation
        "plain": None, "sum": ("sum", 4, 4), "product": ("product", 4, 4),
        "max": ("max", 4, 4), "r2": ("sum", 2, 4), "r8": ("sum", 8, 4),
        "d1": ("sum", 4, 1), "d2": ("sum", 4, 2),
    }
    found = {}
    for arm in ARMS:
        net = experiment.build(experiment.GRID.used(arm))
        modules = [m for m in net.modules() if isinstance(m, BAM)]
        if not modules:
            found[arm] = None
            continue
        assert [modules[i] is getattr(net, f"attention{i + 1}") for i in range(3)]
        assert [m.channel.W0.in_features for m in modules] == [16, 32, 64]
        assert all(isinstance(m.spatial.norm3, nn.BatchNorm2d) for m in modules)
        kinds = {(m.combine, m.channel.W0.in_features // m.channel.W0.out_features,
                  m.spatial.f1.dilation[0]) for m in modules}
        assert {m.spatial.f2.dilation for m in modules} == {
            m.spatial.f1.dilation for m in modules}
        found[arm], = kinds
    assert found == want
    assert ["attention1", "attention2", "attention3"] == [
        name for name in experiment.build(experiment.GRID.used("sum")).order
        if name.startswith("attention")]


def test_the_arms_that_are_compared_have_one_size():
    sizes = {arm: sum(p.numel() for p in experiment.build(
        experiment.GRID.used(arm)).parameters()) for arm in ARMS}
    assert len({sizes[arm] for arm in ("sum", "product", "max", "d1", "d2")}) == 1
    assert sizes["plain"] < sizes["r8"] < sizes["sum"] < sizes["r2"]


def test_the_settings_are_those_of_se_and_survive_json():
    for key in ("batch_size", "lr", "weight_decay", "bfloat16"):
        assert experiment.SETTINGS[key] == se.SETTINGS[key], key
    for key in ("depth", "width"):
        assert experiment.SETTINGS[key] == se.SETTINGS["arms"]["se"][key]
    assert json.loads(json.dumps(experiment.SETTINGS)) == experiment.SETTINGS
    assert {arm["seeds"] for arm in ARMS.values()} == {5}


def test_every_arm_stands_in_the_docstring():
    for arm in ARMS:
        assert arm in experiment.__doc__.partition("The arms:")[2]


# The scenes.

def test_shrinking_is_a_mean_under_a_triangle():
    image = data.fashion_mnist("test")[0][:2]
    ratio = 28 / experiment.SIDE
    weight = np.zeros((experiment.SIDE, 28))
    for i in range(experiment.SIDE):
        for j in range(28):
            away = abs(j + 0.5 - (i + 0.5) * ratio) / ratio
            weight[i, j] = max(0, 1 - away)
    weight /= weight.sum(1, keepdims=True)
    want = weight @ image.numpy() @ weight.T
    small = experiment.shrink(image)
    assert small.dtype == torch.uint8 and small.shape == (2, 20, 20)
    assert np.abs(small.numpy() - want).max() < 0.52


def test_paste_lays_what_is_not_black_over_the_canvas():
    canvas = torch.full((2, 4, 5), 9, dtype=torch.uint8)
    part = torch.tensor([[[1, 0], [2, 3]], [[4, 5], [0, 6]]], dtype=torch.uint8)
    experiment.paste(canvas, part, torch.tensor([0, 2]), torch.tensor([3, 1]))
    want = torch.full((2, 4, 5), 9, dtype=torch.uint8)
    want[0, 0, 3], want[0, 1, 3], want[0, 1, 4] = 1, 2, 3
    want[1, 2, 1], want[1, 2, 2], want[1, 3, 2] = 4, 5, 6
    assert torch.equal(canvas, want)


def flat_world(n=400, classes=4):
    """Pictures that are one grey each, told apart by class: 50, 100, 150, 200."""
    labels = torch.arange(n) % classes
    return (50 * (labels + 1))[:, None, None].expand(n, 28, 28).byte(), labels


def test_scenes_hold_one_object_over_fragments_of_other_classes():
    images, labels = flat_world()
    canvas, thing, fragments = experiment.clutter(images, labels, seed=0)
    own = (50 * (labels + 1)).byte()
    assert canvas.shape == (400, 36, 36) and canvas.dtype == torch.uint8
    places = set()
    for scene, on, off, grey in zip(canvas, thing, fragments, own, strict=True):
        assert int(on.sum()) == 20 * 20 and (scene[on] == grey).all()
        rows, columns = on.any(1).nonzero(), on.any(0).nonzero()
        assert rows.max() - rows.min() == columns.max() - columns.min() == 19
        places.add((int(rows.min()), int(columns.min())))
        assert not (on & off).any() and not (scene[off] == grey).any()
        assert int(off.sum()) <= 6 * 8 * 8
        assert (scene[~(on | off)] == 0).all()
    assert {r for r, _ in places} == {c for _, c in places} == set(range(17))
    assert {int(g) for g in canvas[fragments].unique()} == {50, 100, 150, 200}
    # Six fragments: what is seen of them lies within what six could cover.
    alone = fragments.sum((1, 2)).double().mean()
    assert 3 * 64 * (1 - 400 / 36**2) < alone < 6 * 64 * (1 - 400 / 36**2)


def test_scenes_follow_their_seed():
    images, labels = flat_world(40)
    one, again, other = (experiment.clutter(images, labels, seed)[0]
                         for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_a_world_of_one_class_has_no_fragments():
    images, _ = flat_world(8)
    with pytest.raises(ValueError, match=r"must hold two classes, got \[3\]"):
        experiment.clutter(images, torch.full((8,), 3), seed=0)


def test_made_takes_the_first_training_pictures_and_all_test_pictures(monkeypatch):
    images, labels = flat_world(60)
    monkeypatch.setattr(experiment, "fashion_mnist", lambda split: (images, labels))
    monkeypatch.setitem(experiment.SETTINGS, "pictures", 20)
    training, test = experiment.made("train"), experiment.made("test")
    assert [len(t) for t in training] == [20] * 4
    assert [len(t) for t in test] == [60] * 4
    for seed, (*three, y) in enumerate((training, test)):
        want = experiment.clutter(images[:len(y)], labels[:len(y)], seed)
        assert all(torch.equal(a, b) for a, b in zip(three, want, strict=True))
        assert torch.equal(y, labels[:len(y)])
    canvas, y = experiment.pictures("test")
    assert torch.equal(canvas, test[0]) and torch.equal(y, test[3])


# What is measured.

@pytest.mark.parametrize("combine", ["sum", "product", "max"])
def test_maps_are_those_of_a_forward_pass(combine):
    model, (canvas, *_) = made(combine=combine), scenes(20)
    found = experiment.maps(model, canvas)
    with torch.inference_mode():
        x = data.to_float(canvas)
        for name in model.order:
            module = getattr(model, name)
            if isinstance(module, BAM):
                Mc, Ms = module.channel(x), module.spatial(x)
                score = {"sum": Mc + Ms, "product": Mc * Ms,
                         "max": torch.maximum(Mc, Ms)}[combine]
                M = 1 / (1 + (-score).exp())
                torch.testing.assert_close(
                    found.pop(0), M.mean(1), atol=1e-5, rtol=1e-5)
                assert M.std() > 0.003
                x = x * (1 + M)
            else:
                x = module(x)
    assert found == []


def test_looking_at_the_maps_changes_nothing():
    model, (canvas, *_) = made(), scenes(12)
    with torch.inference_mode():
        before = model(data.to_float(canvas))
        experiment.maps(model.train(), canvas)
        assert model.training
        model.eval()
        assert torch.equal(model(data.to_float(canvas)), before)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_regions_by_hand():
    """A map of 2 x 2 places over 4 x 4 pixels, two pictures."""
    gate = torch.tensor([[[1.0, 0.5], [0.5, 0.0]], [[0.2, 0.4], [0.6, 0.8]]])
    thing, off = torch.zeros(2, 4, 4).bool(), torch.zeros(2, 4, 4).bool()
    thing[0, :2, :2] = True               # all of place (0, 0)
    thing[0, 0, 2] = True                 # a quarter of place (0, 1)
    off[0, 2:, 0] = True                  # half of place (1, 0)
    thing[1, 2:, 2:] = True               # all of place (1, 1)
    off[1, 1, 1] = True                   # a quarter of place (0, 0)
    found = experiment.on_regions(gate, thing, off)
    empty = 0.75 * 0.5 + 0.5 * 0.5 + 0 + 0.75 * 0.2 + 0.4 + 0.6
    assert found == {
        "object": pytest.approx((1 + 0.25 * 0.5 + 0.8) / 2.25),
        "fragments": pytest.approx((0.5 * 0.5 + 0.25 * 0.2) / 0.75),
        "empty": pytest.approx(empty / (8 - 2.25 - 0.75)),
        "mass": pytest.approx((1.125 / 2 + 0.8 / 2) / 2),
        "area": pytest.approx((1.25 / 4 + 1 / 4) / 2),
    }


def test_a_constant_map_has_the_mass_of_the_area():
    canvas, thing, off, _ = scenes(30)
    for size in (36, 18, 9):
        found = experiment.on_regions(torch.full((30, size, size), 0.3), thing, off)
        assert found["mass"] == pytest.approx(found["area"])
        assert found["area"] == pytest.approx(thing.double().mean().item())
        for name in ("object", "fragments", "empty"):
            assert found[name] == pytest.approx(0.3)


def test_examine():
    canvas, thing, off, labels = scenes(30)
    model = made()
    found = experiment.examine(model, (canvas, labels), {"bam": {}}, masks=(thing, off))
    assert found == {"regions": [experiment.on_regions(M, thing, off)
                                 for M in experiment.maps(model, canvas)]}
    assert len(found["regions"]) == 3
    assert experiment.examine(model, (canvas, labels), {"bam": None}) == {}


# One run.

def test_a_tiny_run(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "device", lambda: torch.device("cpu"))
    canvas, thing, off, labels = scenes(60)
    small = {"train": (canvas[:40], labels[:40]), "test": (canvas, labels)}
    monkeypatch.setattr(experiment, "made", lambda split: (canvas, thing, off, labels))
    settings = experiment.SETTINGS | {
        "epochs": 1, "batch_size": 20, "bfloat16": False, "width": 8,
        "arms": {arm: ARMS[arm] for arm in ("plain", "product")}}
    grid = Grid("bam", settings, experiment.build, experiment.examine,
                lambda split, settings: small[split])
    threads = torch.get_num_threads()
    for arm in ("plain", "product"):
        record = grid.run(arm, 0, tmp_path, threads)
        assert record["settings"]["bam"] == ARMS[arm]["bam"]
        model = experiment.build(grid.used(arm))
        model.load_state_dict(
            torch.load(tmp_path / f"{arm}-0-weights.pt", weights_only=True))
        assert record["parameters"] == sum(p.numel() for p in model.parameters())
        logits = train.evaluate(model, small["test"])
        assert record["accuracy"] == train.accuracy(logits, labels)
        assert ("regions" in record) == (arm == "product")
        if arm == "product":
            for M, kept in zip(experiment.maps(model.eval(), canvas),
                               record["regions"], strict=True):
                assert kept == pytest.approx(experiment.on_regions(M, thing, off))
        assert grid.run(arm, 0, tmp_path, threads) == record, "read, not made again"


# What the chapter draws.

def test_mass_is_that_of_the_record():
    _, thing, off, _ = scenes(5)
    for size in (36, 18, 9):
        M = torch.rand(5, size, size)
        each = [bam_figures.mass(M[i], thing[i]) for i in range(5)]
        want = experiment.on_regions(M, thing, off)["mass"]
        assert np.mean(each) == pytest.approx(want)
    corner = torch.zeros(4, 4).bool()
    corner[:2, :1] = True
    assert bam_figures.mass(torch.tensor([[0.6, 0.1], [0.1, 0.2]]), corner) == (
        pytest.approx(0.3))


def test_the_first_scenes_that_all_networks_get_right():
    labels = torch.tensor([data.CLASSES.index(name)
                           for name in (*bam_figures.SHOWN, *bam_figures.SHOWN)])
    right = torch.ones(3, 8).bool()
    right[1, 0] = right[2, 2] = False
    assert bam_figures.first_all_right(right, labels) == [4, 1, 6, 3]


def test_collect_keeps_the_maps_of_the_chosen_scenes(monkeypatch):
    images, labels = data.fashion_mnist("test")
    images, labels = images[:60], labels[:60]
    nets = {"sum": made(), "max": made(combine="max")}
    monkeypatch.setattr(bam_figures, "first_all_right",
                        lambda right, labels: [right.shape[0], 7, 11, 30])
    found = bam_figures.collect(nets, images, labels)
    index = [2, 7, 11, 30]
    canvas, thing, off = experiment.clutter(images, labels, seed=1)
    for name, t in (("pictures", canvas), ("object", thing), ("fragments", off),
                    ("labels", labels), ("index", torch.arange(60))):
        np.testing.assert_array_equal(found[name], t[index])
    for arm, net in nets.items():
        for stage, M in enumerate(experiment.maps(net, canvas), 1):
            np.testing.assert_allclose(found[f"{arm}{stage}"], M[index], atol=1e-5)
