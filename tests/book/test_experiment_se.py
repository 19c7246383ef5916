"""The SE experiment: its measures, its grid on a tiny scale, and what it shipped."""

import copy
import json
import os
import sys
from functools import partial

import pytest
import samples
import torch

from cvattn import SE, cifar_resnet
from cvattn.book import data, train
from cvattn.book.experiments import grid, workers
from cvattn.book.experiments import se as experiment

CI = os.environ.get("CI", "").lower() == "true"
GATES = {"class_share", "deviation", "mean_gate_accuracy", "other_gate_accuracy"}
RECORD = {"arm", "seed", "parameters", "accuracy", "class_accuracy", "history"}


@pytest.fixture
def pictures():
    return samples.pictures(120)


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = cifar_resnet(partial(SE, reduction=2), depth=8, width=4, in_channels=1)
    with torch.no_grad():
        for name, p in made.named_parameters():
            if "attention" in name:
                p.mul_(8)
    return made.eval()


def test_class_share_is_1_where_the_class_decides_alone():
    labels = torch.arange(60) % 3
    assert experiment.class_share(torch.randn(3, 5)[labels], labels) == pytest.approx(1)


def test_class_share_is_0_where_classes_have_the_same_mean():
    s = torch.randn(20, 5)
    s, labels = torch.cat([s, s, s]), torch.arange(3).repeat_interleave(20)
    assert experiment.class_share(s, labels) == pytest.approx(0, abs=1e-6)


def test_class_share_by_hand():
    """Classes 1 and 5 around the mean 3: between 4 * 4 = 16, in all 16 + 4 * 1."""
    s = torch.tensor([[0.0], [2.0], [4.0], [6.0]])
    share = experiment.class_share(s, torch.tensor([7, 7, 9, 9]))
    assert share == pytest.approx(16 / 20)
    uneven = experiment.class_share(s, torch.tensor([0, 1, 1, 1]))    # means 0 and 4
    assert uneven == pytest.approx((9 + 3 * 1) / 20)
    two = torch.cat([s, torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])], dim=1)
    assert experiment.class_share(two, torch.tensor([7, 7, 9, 9])) == pytest.approx(
        16 / 24)


def test_gates_are_those_of_the_forward_pass(model, pictures):
    found = experiment.gates(model, pictures[0], batch_size=50)
    x = data.to_float(pictures[0])
    with torch.inference_mode():
        for s, i in zip(found, (1, 2, 3), strict=True):
            x = model.relu(model.bn1(model.conv1(x))) if i == 1 else x
            block = getattr(model, f"layer{i}")[0]
            u = block.residual(x)
            W1, W2 = block.attention.W1.weight, block.attention.W2.weight
            gate = torch.sigmoid(torch.relu(u.mean((2, 3)) @ W1.T) @ W2.T)
            assert s.shape == (120, 4 * 2 ** (i - 1))
            torch.testing.assert_close(s, gate, rtol=1e-4, atol=1e-5)
            x = block(x)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_edited_replaces_the_gates_and_restores_them(model, pictures):
    x = data.to_float(pictures[0])
    with torch.inference_mode():
        y = model(x)
        with experiment.edited(model, lambda i, s: s) as same:
            assert same is model and torch.equal(model(x), y)
        seen = []

        def open_all(i, s):
            seen.append(i)
            return torch.ones_like(s)

        with experiment.edited(model, open_all):
            opened = model(x)
        assert seen == [0, 1, 2]
        assert torch.equal(model(x), y)
        plain = copy.deepcopy(model)
        for i in (1, 2, 3):
            getattr(plain, f"layer{i}")[0].attention = None
        torch.testing.assert_close(opened, plain(x))
        assert not torch.allclose(opened, y, atol=1e-3)


def test_edited_restores_after_an_error(model):
    with pytest.raises(KeyError), experiment.edited(model, lambda i, s: s):
        raise KeyError
    assert not any("gate" in vars(m) for m in experiment.attentions(model))


def test_edited_cannot_be_nested(model, pictures):
    x = data.to_float(pictures[0])
    with torch.inference_mode(), experiment.edited(model, lambda i, s: s * 0):
        closed = model(x)
        with (pytest.raises(ValueError, match="edited cannot be nested"),
              experiment.edited(model, lambda i, s: s)):
            pass
        assert torch.equal(model(x), closed), "the outer edit is still in place"
    assert not any("gate" in vars(m) for m in experiment.attentions(model))


def test_examine(model, pictures):
    assert experiment.examine(model, pictures, {"se": False}) == {}
    found = experiment.examine(model, pictures, {"se": True})
    assert found.keys() == GATES
    s = experiment.gates(model, pictures[0])
    assert found["class_share"] == [experiment.class_share(g, pictures[1]) for g in s]
    assert all(0 < share < 1 for share in found["class_share"])
    assert found["deviation"] == pytest.approx([g.std(0).mean().item() for g in s])
    # Each accuracy, with the gates put into the pass by a hook on each SE.
    for name, chosen in (("mean_gate_accuracy", [g.mean(0).expand_as(g) for g in s]),
                         ("other_gate_accuracy", [g.roll(1, 0) for g in s])):
        twin = copy.deepcopy(model)
        for m, g in zip(experiment.attentions(twin), chosen, strict=True):
            if name == "mean_gate_accuracy":
                m.register_forward_hook(
                    lambda m, x, y, g=g: x[0] * g[:, :, None, None])
            else:
                m.register_forward_hook(
                    lambda m, x, y: x[0] * m.gate(x[0])[torch.arange(120) - 1])
        want = train.accuracy(train.evaluate(twin, pictures), pictures[1])
        assert found[name] == pytest.approx(want)


TINY = {
    "epochs": 2, "batch_size": 40, "lr": 0.1, "weight_decay": 5e-4,
    "bfloat16": False, "reduction": 2,
    "arms": {
        "plain": {"depth": 8, "width": 2, "se": False, "seeds": 2},
        "se": {"depth": 8, "width": 2, "se": True, "seeds": 2},
        "deep": {"depth": 14, "width": 2, "se": True, "seeds": 1},
    },
}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The experiment with tiny settings, in this process, writing to a folder."""
    threads = torch.get_num_threads()
    x, y = data.fashion_mnist("train")
    small = {"train": (x[::25], y[::25]), "test": (x[1::30], y[1::30])}
    monkeypatch.setattr(data, "fashion_mnist", lambda split, full: small[split])
    monkeypatch.setattr(train, "device", lambda: torch.device("cpu"))
    for key, value in TINY.items():     # in place: it is also a default argument
        monkeypatch.setitem(experiment.SETTINGS, key, value)
    monkeypatch.setattr(grid, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["se", "--workers", str(workers.cores()),
                                      "--folder", str(tmp_path / "runs"),
                                      "--out", str(tmp_path)])
    yield tmp_path
    torch.set_num_threads(threads)


def kept(folder):
    return {file.name for file in folder.iterdir() if file.suffix != ".lock"}


def untimed(results):
    for run in results["runs"]:
        for epoch in run["history"]:
            del epoch["seconds"]
    return results


def test_the_grid_stops_and_goes_on(tiny, monkeypatch):
    from safetensors.torch import load_file

    experiment.GRID.main(experiment.__doc__, samples.Here())
    whole = untimed(json.loads((tiny / "se.json").read_text()))
    weights = load_file(tiny / "se.safetensors")
    for file in (tiny / "se.json", tiny / "se.safetensors"):
        file.unlink()
    for file in (tiny / "runs").iterdir():
        file.unlink()

    batches, augment = 0, train.augment

    def stop(*args):
        nonlocal batches
        batches += 1
        if batches == 11:       # 3 batches an epoch: in the second run's second epoch
            raise RuntimeError("stopped")
        return augment(*args)

    with monkeypatch.context() as patch:
        patch.setattr(train, "augment", stop)
        with pytest.raises(RuntimeError, match="stopped"):
            experiment.GRID.main(experiment.__doc__, samples.Here())
    assert not (tiny / "se.json").exists()
    assert kept(tiny / "runs") == {
        "plain-0.json", "plain-0-weights.pt", "se-0.json", "se-0.pt"}
    finished = (tiny / "runs" / "plain-0.json").stat().st_mtime_ns
    experiment.GRID.main(experiment.__doc__, samples.Here())
    assert (tiny / "runs" / "plain-0.json").stat().st_mtime_ns == finished
    assert untimed(json.loads((tiny / "se.json").read_text())) == whole
    again = load_file(tiny / "se.safetensors")
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[k], weights[k]) for k in weights)
    schema(whole, TINY)
    for arm in TINY["arms"]:
        agrees(experiment.trained(arm), whole, arm, data.fashion_mnist("test", True))
    assert not list(tiny.rglob("*.part")) and not list(tiny.rglob("*-?.pt"))


@pytest.mark.parametrize("change", [
    {"lr": 0.05}, {"epochs": 3}, {"reduction": 1}, {"width": [2, 4, 9]}, {"depth": 14},
    "no settings",
], ids=str)
def test_a_finished_run_of_other_settings_is_refused(tiny, monkeypatch, change):
    folder = tiny / "runs"
    folder.mkdir()
    first = experiment.GRID.run("se", 1, folder, 1)
    file = folder / "se-1.json"
    assert first == json.loads(file.read_text())
    assert first == experiment.GRID.run("se", 1, folder, 1)
    assert first["settings"] == {
        "epochs": 2, "batch_size": 40, "lr": 0.1, "weight_decay": 5e-4,
        "bfloat16": False, "reduction": 2, "depth": 8, "width": 2, "se": True}
    if change == "no settings":
        file.write_text(json.dumps({k: v for k, v in first.items()
                                    if k != "settings"}))
    else:
        arm = experiment.SETTINGS["arms"]["se"]
        monkeypatch.setitem(experiment.SETTINGS["arms"], "se", {**arm, "seeds": 5})
        assert experiment.GRID.run("se", 1, folder, 1) == first, "seeds may be added"
        monkeypatch.setitem(experiment.SETTINGS["arms"], "se", {
            k: change.get(k, v) for k, v in arm.items()})
        for key in change.keys() & experiment.SETTINGS.keys():
            monkeypatch.setitem(experiment.SETTINGS, key, change[key])
    with pytest.raises(ValueError, match=r"se-1\.json was made .* delete se-1\.\* or"):
        experiment.GRID.run("se", 1, folder, 1)
    with pytest.raises(ValueError, match=r"se-1\.json was made"):
        experiment.GRID.main(experiment.__doc__, samples.Here())
    weights = folder / "se-1-weights.pt"
    assert kept(folder) == {file.name, weights.name}, "refused before any training"


def built(arm, settings=None):
    return experiment.build(experiment.GRID.used(arm, settings))


def test_a_build_is_the_arm_of_the_settings():
    assert experiment.attentions(built("plain")) == []
    models = {arm: built(arm) for arm in experiment.SETTINGS["arms"]}
    count = {arm: sum(p.numel() for p in m.parameters()) for arm, m in models.items()}
    assert len(experiment.attentions(models["se"])) == 3
    assert abs(count["wide"] / count["se"] - 1) < 0.005, "wide controls for parameters"
    for arm, settings in experiment.SETTINGS["arms"].items():
        n = (settings["depth"] - 2) // 2
        assert len(experiment.attentions(models[arm])) == (n if settings["se"] else 0)


def schema(results, settings):
    """Assert that the file has every run, and what is needed to make it again."""
    assert results.keys() == {"command", "settings", "versions", "hardware", "runs"}
    assert results["settings"] == settings
    assert results["command"] == "python -m cvattn.book.experiments.se"
    assert results["versions"].keys() == {"python", "torch"}
    assert results["hardware"].keys() == {"processor", "cores", "workers", "threads"}
    assert all(results["versions"].values()) and all(results["hardware"].values())
    asked = [(arm, seed) for arm, a in settings["arms"].items()
             for seed in range(a["seeds"])]
    assert [(run["arm"], run["seed"]) for run in results["runs"]] == sorted(asked)
    for run in results["runs"]:
        arm = settings["arms"][run["arm"]]
        assert run.keys() == RECORD | (GATES if arm["se"] else set())
        assert len(run["history"]) == settings["epochs"]
        assert run["history"][-1]["test_accuracy"] == pytest.approx(
            run["accuracy"], abs=2e-3)
        assert run["parameters"] == sum(
            p.numel() for p in built(run["arm"], settings).parameters())
        if arm["se"]:
            assert len(run["class_share"]) == len(run["deviation"]) == (
                arm["depth"] - 2) // 2
            assert all(0 <= share <= 1 for share in run["class_share"])


def agrees(model, results, arm, test):
    """Assert that the weights give what the file says of seed 0."""
    run = next(r for r in results["runs"] if (r["arm"], r["seed"]) == (arm, 0))
    logits = train.evaluate(model, test, batch_size=50)     # what a cache holds
    assert train.accuracy(logits, test[1]) == pytest.approx(run["accuracy"], abs=1e-3)
    each = [train.accuracy(logits[test[1] == c], test[1][test[1] == c])
            for c in range(10)]
    assert each == pytest.approx(run["class_accuracy"], abs=3e-3)
    share = torch.bincount(test[1], minlength=10).double() / len(test[1])
    recorded = torch.tensor(run["class_accuracy"], dtype=torch.float64)
    assert (share * recorded).sum().item() == pytest.approx(run["accuracy"], abs=1e-9)
    if "class_share" in run:
        shares = [experiment.class_share(s, test[1])
                  for s in experiment.gates(model, test[0], batch_size=50)]
        assert shares == pytest.approx(run["class_share"], abs=1e-3)


@pytest.fixture(scope="module")
def shipped():
    return json.loads((grid.RESULTS / "se.json").read_text())


def test_shipped_results_are_whole(shipped):
    schema(shipped, experiment.SETTINGS)
    assert min(run["accuracy"] for run in shipped["runs"]) > 0.8
    for arm in experiment.SETTINGS["arms"]:
        one = [run["accuracy"] for run in shipped["runs"] if run["arm"] == arm]
        assert len(set(one)) > 1, "seeds that do not differ"


def test_shipped_weights_are_those_of_the_arms_and_no_other():
    from safetensors.torch import load_file

    weights = load_file(grid.RESULTS / "se.safetensors")
    assert {k.split(".")[0] for k in weights} == experiment.SETTINGS["arms"].keys()
    assert all(v.isfinite().all() for v in weights.values())


@pytest.mark.parametrize("arm", experiment.SETTINGS["arms"])
def test_shipped_weights_give_the_shipped_numbers(shipped, arm):
    try:
        test = data.fashion_mnist("test", full=True)
    except OSError as error:
        (pytest.fail if CI else pytest.skip)(f"no full test set: {error}")
    agrees(experiment.trained(arm), shipped, arm, test)
