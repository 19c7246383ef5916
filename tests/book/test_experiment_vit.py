"""The ViT experiment and its learning rates: arms, pictures, and one tiny run each."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from cvattn import ViT, cost
from cvattn.book import data, train
from cvattn.book.experiments import vit as experiment
from cvattn.book.experiments import vit_rates as rates

ARMS = experiment.SETTINGS["arms"]
NETS = ("vit", "resnet")


def numbered(split):
    """As many pictures as there are, told by their first four pixels; label n % 10."""
    n = torch.arange({"train": 60000, "test": 10000}[split])
    images = torch.zeros(len(n), 28, 28, dtype=torch.uint8)
    images[:, 0, :4] = torch.stack([n // 256**k % 256 for k in range(4)], 1).byte()
    return images, n % 10


def numbers(images):
    return (images[:, 0, :4].long() * 256 ** torch.arange(4)).sum(1)


@pytest.fixture(scope="module")
def made():
    return {split: numbered(split) for split in ("train", "test")}


@pytest.fixture
def world(made, monkeypatch):
    for module in (experiment, rates):
        monkeypatch.setattr(module, "fashion_mnist", made.get)
    return made


# The arms.

def test_each_arm_is_what_its_name_says():
    assert set(ARMS) == {f"{net}-{n}" for net in NETS for n in experiment.SIZES}
    for name, arm in ARMS.items():
        net, n = name.split("-")
        assert (arm["net"], arm["pictures"]) == (net, int(n)) and arm["seeds"] == 5
        assert arm.items() >= experiment.NETS[net].items()
    assert json.loads(json.dumps(experiment.SETTINGS)) == experiment.SETTINGS


def test_the_networks_have_one_size_to_one_in_a_hundred():
    counts = {net: cost.count(experiment.build({"net": net}))[0] for net in NETS}
    assert counts == {"vit": 79690, "resnet": 79445}
    assert max(counts.values()) / min(counts.values()) < 1.01


def test_the_vit_is_a_small_vit():
    vit = experiment.build({"net": "vit"})
    assert isinstance(vit, ViT) and vit.grid == (7, 7) and len(vit.layers) == 4
    assert vit.E.weight.shape == (48, 1, 4, 4) and vit.E.stride == (4, 4)
    assert {layer.attention.num_heads for layer in vit.layers} == {3}
    assert {layer.feed_forward.W1.out_features for layer in vit.layers} == {96}
    resnet = experiment.build({"net": "resnet"})
    assert not any(isinstance(m, ViT) for m in resnet.modules())
    widths = [m.out_channels for m in resnet.modules() if isinstance(m, nn.Conv2d)]
    assert max(widths) == 67
    for net in (vit, resnet):
        assert net.eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_the_resnet_does_about_twice_the_work():
    macs = {net: cost.macs(experiment.build({"net": net}).eval(),
                           torch.zeros(1, 1, 28, 28)) for net in NETS}
    assert macs["vit"] == 4_684_512 and 1.9 < macs["resnet"] / macs["vit"] < 2.1


# The pictures.

@pytest.mark.parametrize("seed", [0, 3])
def test_both_networks_learn_from_the_same_pictures_smaller_sets_within(world, seed):
    sets = []
    for n in experiment.SIZES:
        both = [numbers(experiment.drawn(ARMS[f"{net}-{n}"] | {"seed": seed})[0])
                for net in NETS]
        assert torch.equal(*both)
        ids = set(both[0].tolist())
        assert len(ids) == n and max(ids) < experiment.DRAWN
        sets.append(ids)
    assert all(a < b for a, b in zip(sets, sets[1:], strict=False))
    assert max(sets[-1]) > 0.99 * experiment.DRAWN


def test_another_seed_draws_others(world):
    one, two = (set(numbers(experiment.drawn(
        {"pictures": 4096, "seed": seed})[0]).tolist()) for seed in (0, 1))
    assert 0.04 < len(one & two) / 4096 < 0.13      # by chance, 4096 / 50000


@pytest.mark.parametrize("n", experiment.SIZES)
def test_every_epoch_shows_as_many_and_each_picture_equally_often(world, n):
    used = experiment.GRID.used(f"vit-{n}") | {"seed": 2}
    images, labels = experiment.pictures("train", used)
    assert len(images) == len(labels) == used["shown"] == 16384
    ids = numbers(images)
    assert torch.equal(ids % 10, labels), "labels go with their pictures"
    own, times = ids.unique(return_counts=True)
    assert len(own) == n and (times == 16384 // n).all()


def test_a_network_takes_as_many_steps_whatever_the_size_and_the_vit_three_times_more():
    epochs = {net: {experiment.GRID.used(f"{net}-{n}")["epochs"]
                    for n in experiment.SIZES} for net in NETS}
    assert epochs == {"vit": {24}, "resnet": {8}}
    assert experiment.SETTINGS["shown"] % experiment.SETTINGS["batch_size"] == 0
    assert all(16384 % n == 0 for n in experiment.SIZES)


def test_the_test_set_is_whole(world):
    images, labels = experiment.pictures("test", ARMS["vit-256"])
    assert images is world["test"][0] and labels is world["test"][1]


# What is recorded.

def test_train_accuracy_is_over_the_drawn_pictures(world):
    """A network that says the first pixel modulo 10; some labels are then wrong."""
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            pixel = (x[:, 0, 0, 0] * data.STD + data.MEAN) * 255
            return nn.functional.one_hot(pixel.round().long() % 10, 10).float()

    settings = experiment.GRID.used("resnet-1024") | {"seed": 4}
    found = experiment.examine(Reads(), world["test"], settings)
    ids = numbers(experiment.drawn(settings)[0])
    want = (ids % 256 % 10 == ids % 10).double().mean().item()
    assert found == {"train_accuracy": pytest.approx(want)} and 0.1 < want < 0.9


def test_a_tiny_run(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "device", lambda: torch.device("cpu"))
    images, labels = data.fashion_mnist("test")
    small = {"train": (images, labels), "test": (images[:50], labels[:50])}
    monkeypatch.setattr(experiment, "fashion_mnist", small.get)
    monkeypatch.setattr(experiment, "DRAWN", 900)
    settings = experiment.SETTINGS | {"batch_size": 16, "shown": 64}
    settings["arms"] = {arm: ARMS[arm] | {"pictures": 32, "epochs": 1}
                        for arm in ("vit-256", "resnet-256")}
    grid = dataclasses.replace(experiment.GRID, settings=settings)
    threads = torch.get_num_threads()
    for arm in settings["arms"]:
        record = grid.run(arm, 1, tmp_path, threads)
        model = experiment.build(grid.used(arm))
        model.load_state_dict(
            torch.load(tmp_path / f"{arm}-1-weights.pt", weights_only=True))
        own = experiment.drawn(grid.used(arm) | {"seed": 1})
        assert len(own[0]) == 32
        for key, (x, y) in (("accuracy", small["test"]), ("train_accuracy", own)):
            assert record[key] == train.accuracy(train.evaluate(model, (x, y)), y)
        assert record["parameters"] == cost.count(model)[0]
        assert len(record["history"]) == 1
        assert grid.run(arm, 1, tmp_path, threads) == record, "read, not made again"


# The learning rates.

def test_rates_are_tried_on_both_networks_and_nothing_else_differs():
    arms = rates.SETTINGS["arms"]
    assert set(arms) == {f"{net}-{lr}" for net in NETS for lr in rates.RATES}
    for name, arm in arms.items():
        net, lr = name.split("-")
        assert (arm["net"], arm["lr"], arm["pictures"]) == (net, float(lr), 4096)
    assert {k: v for k, v in rates.SETTINGS.items() if k not in ("arms", "epochs")} == {
        k: v for k, v in experiment.SETTINGS.items() if k != "arms"}
    assert rates.results()["settings"] == rates.SETTINGS


def test_the_rates_are_the_best_of_those_tried():
    arms, runs = rates.SETTINGS["arms"], rates.results()["runs"]
    assert [(r["arm"], r["seed"]) for r in runs] == sorted(rates.GRID.jobs())
    for net in NETS:
        best = max((r for r in runs if arms[r["arm"]]["net"] == net),
                   key=lambda r: r["accuracy"])
        assert experiment.NETS[net]["lr"] == arms[best["arm"]]["lr"]


def test_settings_that_cannot_be_are_refused(world):
    with pytest.raises(ValueError, match="one of vit, resnet, got 'cnn'"):
        experiment.build({"net": "cnn"})
    with pytest.raises(ValueError, match="got 16384 and 300"):
        experiment.pictures("train", {"pictures": 300, "shown": 16384, "seed": 0})


def test_rates_are_judged_on_pictures_that_vit_never_draws(world):
    images, labels = rates.pictures("test", {})
    assert torch.equal(numbers(images), torch.arange(experiment.DRAWN, 60000))
    assert torch.equal(labels, numbers(images) % 10)
    used = rates.GRID.used("vit-0.003") | {"seed": 0}
    learned = numbers(rates.pictures("train", used)[0])
    assert len(learned) == used["shown"] and learned.max() < experiment.DRAWN
    again = experiment.drawn({"pictures": 4096, "seed": rates.SEED})[0]
    assert set(learned.tolist()) == set(numbers(again).tolist())
    for seed in range(5):
        other = numbers(experiment.drawn({"pictures": 4096, "seed": seed})[0])
        assert set(other.tolist()) != set(learned.tolist())
    assert rates.examine(None, None, {}) == {} and rates.GRID.shipped == ()


def test_the_command_and_the_arms_stand_in_the_docstrings():
    for module, form in ((experiment, "<network>-<n>"), (rates, "<network>-<rate>")):
        assert f"python -m {module.__name__}" in module.__doc__
        assert form in " ".join(module.__doc__.split())
