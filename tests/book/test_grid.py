"""Grid: the order of runs, and what a folder of runs refuses."""

import dataclasses
import json
import os
import shutil
import sys
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest
import samples
import torch
from torch import nn

from cvattn.book import train
from cvattn.book.experiments import grid as module
from cvattn.book.experiments.grid import Grid
from cvattn.book.experiments.record import hardware, versions

GENERATOR = torch.Generator().manual_seed(0)
PICTURES = {
    name: (torch.randint(0, 256, (n, 28, 28), dtype=torch.uint8, generator=GENERATOR),
           torch.arange(n) % 3) for name, n in (("train", 12), ("test", 9))}


class Model(nn.Module):
    """One linear layer, of a mode that changes no weight and no shape."""

    def __init__(self, mode):
        super().__init__()
        self.mode, self.linear = mode, nn.Linear(28 * 28, 3)

    def forward(self, x):
        return self.linear((x if self.mode == "as it is" else x.flip(3)).flatten(1))


def small(mode="as it is", arms=None, last=()):
    settings = {
        "epochs": 2, "batch_size": 4, "lr": 0.1, "weight_decay": 0.0, "bfloat16": False,
        "arms": arms or {"one": {"mode": mode, "seeds": 1}}}
    return Grid("none", settings, lambda s: Model(s["mode"]),
                lambda model, test, s: {"mode": model.mode, "training": model.training},
                PICTURES.get, last)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "device", lambda: torch.device("cpu"))
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def stopped(grid, folder, monkeypatch, batches):
    """Begin a run and stop it before a batch."""
    augment, left = train.augment, batches

    def stop(*args):
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError("stopped")
        return augment(*args)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        patch.setattr(train, "augment", stop)
        grid.run("one", 0, folder, 1)


def untimed(record):
    return record | {"history": [{k: v for k, v in epoch.items() if k != "seconds"}
                                 for epoch in record["history"]]}


def test_runs_go_seed_by_seed_and_the_last_arms_wait():
    arms = {"big": {"seeds": 2}, "a": {"seeds": 3}, "b": {"seeds": 1}}
    assert small(arms=arms).jobs() == [
        ("big", 0), ("a", 0), ("b", 0), ("big", 1), ("a", 1), ("a", 2)]
    assert small(arms=arms, last=("big",)).jobs() == [
        ("a", 0), ("b", 0), ("a", 1), ("a", 2), ("big", 0), ("big", 1)]


def test_what_an_arm_says_goes_before_what_all_share():
    grid = small(arms={"one": {"lr": 0.5, "mode": "as it is", "seeds": 1}})
    assert grid.used("one") == {
        "epochs": 2, "batch_size": 4, "lr": 0.5, "weight_decay": 0.0, "bfloat16": False,
        "mode": "as it is"}


@pytest.mark.parametrize("batches", [1, 5], ids=["before", "after a checkpoint"])
def test_a_run_that_was_begun_goes_on_with_its_own_settings_alone(
        folder, monkeypatch, batches):
    """The other network would take the checkpoint's weights: they have one shape."""
    grid = small()
    stopped(grid, folder, monkeypatch, batches)
    assert grid.finished("one", 0, folder) is None
    with pytest.raises(ValueError, match=r"one-0\.json was made with .*'as it is'.*"
                       r"asked for .*'mirrored'.*; delete one-0\.\* or give another"):
        small("mirrored").run("one", 0, folder, 1)
    with pytest.raises(ValueError, match=r"one-0\.json was made"):
        command(small("mirrored"), folder, monkeypatch, executor=Never())
    (folder / "out").rmdir()
    record, other = grid.run("one", 0, folder, 1), folder / "of its own"
    other.mkdir()
    assert untimed(record) == untimed(grid.run("one", 0, other, 1))
    assert record["mode"] == "as it is" and record["training"] is False
    assert json.loads((folder / "one-0.json").read_text()) == record
    assert {f.name for f in folder.iterdir()} == {
        "one-0.json", "one-0-weights.pt", "one-0.lock", "of its own"}


def test_what_is_collected_comes_back(folder, monkeypatch):
    monkeypatch.setattr(module, "RESULTS", folder)
    grid = small(arms={"one": {"mode": "as it is", "seeds": 2},
                       "one_more": {"mode": "mirrored", "seeds": 1}})
    records = [grid.run(arm, seed, folder, 1) for arm, seed in grid.jobs()]
    assert [(r["arm"], r["seed"]) for r in records] == [
        ("one", 0), ("one_more", 0), ("one", 1)]
    grid.collect(records, folder, 1, folder)
    results = grid.results()
    assert results["settings"] == grid.settings
    assert results["runs"] == [
        {k: v for k, v in records[i].items()
         if k not in ("settings", "hardware", "versions")} for i in (0, 2, 1)]
    assert untimed(records[0])["history"] != untimed(records[2])["history"]
    for arm, record in zip(("one", "one_more"), records, strict=False):
        model = grid.trained(arm)
        assert model.mode == record["mode"] and not model.training
        made = torch.load(folder / f"{arm}-0-weights.pt", weights_only=True)
        own = model.state_dict()
        assert own.keys() == made.keys()
        assert all(torch.equal(own[k], v.half().to(v.dtype)) for k, v in made.items())


def test_what_fit_returns_is_recorded(folder):
    """In place of train.fit; pictures, examine and watch are left alone."""
    def fit(model, settings, seed, checkpoint):
        assert not checkpoint.exists() and checkpoint.parent == folder
        checkpoint.write_text("left behind")
        with torch.no_grad():
            model.linear.weight.fill_(seed)
        return {"accuracy": 0.5, "seen": settings["mode"], "history": []}

    grid = dataclasses.replace(small(), fit=fit, examine=None, pictures=None)
    record = grid.run("one", 3, folder, 1)
    assert record == {
        "arm": "one", "seed": 3, "settings": grid.used("one"), "accuracy": 0.5,
        "parameters": 3 * 28 * 28 + 3, "seen": "as it is", "history": [],
        "hardware": hardware(torch.device("cpu")) | {"threads": 1},
        "versions": versions()}
    assert not (folder / "one-3.pt").exists()
    weights = torch.load(folder / "one-3-weights.pt", weights_only=True)
    assert (weights["linear.weight"] == 3).all()
    assert grid.run("one", 3, folder, 1) == record, "read, not made again"


def command(grid, folder, monkeypatch, *arguments, executor=None):
    """Give the command that keeps its runs in a folder, and its results in out."""
    monkeypatch.setattr(sys, "argv", ["none", f"--folder={folder}",
                                      f"--out={folder / 'out'}", *arguments])
    grid.main("None.", executor or samples.Here())


class Never(Executor):
    def submit(self, *args, **kwargs):
        pytest.fail("a run was begun")


@pytest.mark.parametrize("workers", [0, -1])
def test_there_must_be_a_worker(workers, folder, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        command(small(), folder / "new", monkeypatch, f"--workers={workers}")
    assert f"--workers must be at least 1, got {workers}" in capsys.readouterr().err
    assert not (folder / "new").exists()


@pytest.mark.parametrize("name, said", [
    ("one-0.json", r"one-0\.json is empty, cut, or no record of a run"),
    ("one-0-weights.pt", r"one-0-weights\.pt is lost, cut, or not of this network")])
@pytest.mark.parametrize("left", [0, 25, 50, 75, 99, "a list", "notes"])
def test_files_that_are_spoilt_are_named_before_any_run(
        folder, monkeypatch, name, said, left):
    grid, file = small(), folder / name
    record = grid.run("one", 0, folder, 1)
    whole = file.read_bytes()
    if left == "a list":
        file.write_text("[1, 2]")
        if name.endswith(".pt"):
            torch.save([1, 2], file)
    else:
        file.write_bytes(b"n\xfctig" if left == "notes" else
                         whole[:len(whole) * left // 100])
    with pytest.raises(ValueError, match=said + r"; delete one-0\.\* or give another"):
        command(grid, folder, monkeypatch, executor=Never())
    for each in folder.glob("one-0.*"):
        each.unlink()
    command(grid, folder, monkeypatch)
    assert untimed(json.loads((folder / "one-0.json").read_text())) == untimed(record)


@pytest.mark.parametrize("lost", [True, False])
def test_weights_that_are_lost_or_of_another_network_are_noticed(
        folder, monkeypatch, lost):
    grid, file = small(), folder / "one-0-weights.pt"
    grid.run("one", 0, folder, 1)
    torch.save(nn.Linear(2, 3).state_dict(), file)
    if lost:
        file.unlink()
    with pytest.raises(ValueError, match=r"one-0-weights\.pt is lost, cut, or not of"):
        command(grid, folder, monkeypatch, executor=Never())


def test_the_record_of_another_run_is_refused(folder, monkeypatch):
    grid = small(arms={"one": {"mode": "as it is", "seeds": 2}})
    grid.run("one", 0, folder, 1)
    for end in (".json", "-weights.pt"):
        shutil.copy(folder / f"one-0{end}", folder / f"one-1{end}")
    with pytest.raises(ValueError, match=r"one-1\.json is the record of arm one, seed"):
        command(grid, folder, monkeypatch, executor=Never())


def test_a_record_that_does_not_tell_its_hardware_is_refused(folder, monkeypatch):
    grid, file = small(), folder / "one-0.json"
    record = grid.run("one", 0, folder, 1)
    file.write_text(json.dumps({k: v for k, v in record.items() if k != "hardware"}))
    with pytest.raises(ValueError, match=r"one-0\.json does not tell hardware"):
        command(grid, folder, monkeypatch, executor=Never())


@pytest.mark.parametrize("left", [0, 25, 50, 75, 99])
def test_a_checkpoint_that_is_cut_is_named_and_so_is_its_run(
        folder, monkeypatch, left):
    grid, file = small(), folder / "one-0.pt"
    stopped(grid, folder, monkeypatch, 5)
    whole = file.read_bytes()
    file.write_bytes(whole[:len(whole) * left // 100])
    with (ThreadPoolExecutor(1) as executor,
          pytest.raises(ValueError, match=r"one-0\.pt is no check.*; delete") as error):
        command(grid, folder, monkeypatch, executor=executor)
    assert error.value.__notes__ == ["in the run one seed 0"]
    assert not list((folder / "out").iterdir())


def test_a_checkpoint_without_its_record_is_refused(folder, monkeypatch):
    """Nobody knows of which settings it is."""
    stopped(small(), folder, monkeypatch, 5)
    (folder / "one-0.json").unlink()
    with pytest.raises(ValueError, match=r"one-0\.json, .* of one-0\.pt, is lost"):
        command(small("mirrored"), folder, monkeypatch, executor=Never())


def test_what_a_killed_process_left_half_written_goes(folder):
    grid = small()
    mine = [folder / f"one-0{name}.0a1b2c3d.part"
            for name in (".json", ".pt", "-weights.pt")]
    other = folder / "one-00.json.0a1b2c3d.part"
    for file in (*mine, other):
        file.touch()
    grid.run("one", 0, folder, 1)
    assert list(folder.glob("*.part")) == [other]


@pytest.mark.parametrize("package", ["filelock", "safetensors.torch"])
def test_a_missing_package_is_noticed_before_any_run(folder, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    name = package.partition(".")[0]
    with pytest.raises(SystemExit, match=f"need {name}: pip install {name} "):
        command(small(), folder, monkeypatch, executor=Never())
    assert not list(folder.iterdir())


def test_a_folder_that_takes_no_results_is_noticed_before_any_run(folder, monkeypatch):
    (folder / "out").touch()
    with pytest.raises(FileExistsError, match="out"):
        command(small(), folder, monkeypatch, executor=Never())


class Interrupted(Executor):
    def submit(self, *args, **kwargs):
        raise KeyboardInterrupt


def test_ctrl_c_says_how_to_go_on(folder, monkeypatch):
    with pytest.raises(SystemExit, match=r"^Stopped\. What is done is kept; to go "
                       r"on: python -m cvattn\.book\.experiments\.none --folder="):
        command(small(), folder, monkeypatch, executor=Interrupted())


def test_a_record_names_the_device_that_was_used(folder, monkeypatch):
    cpu = hardware(torch.device("cpu"))["processor"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda at: f"GPU {at.index}")
    grid = small(arms={"one": {"mode": "as it is", "seeds": 2}})
    monkeypatch.setattr(module, "RESULTS", folder / "out")
    command(grid, folder, monkeypatch)
    assert grid.results()["hardware"]["processor"] == cpu

    def fit(model, settings, seed, checkpoint):
        return {"accuracy": 0.5, "device": torch.device("cuda", seed)}

    grid = dataclasses.replace(grid, fit=fit)
    monkeypatch.setattr(module, "RESULTS", folder / "new" / "out")
    command(grid, folder / "new", monkeypatch)
    found = grid.results()
    assert found["hardware"]["processor"] == ["GPU 0", "GPU 1"]
    assert all(run.keys() == {"arm", "seed", "parameters", "accuracy"}
               for run in found["runs"])
    assert hardware(torch.device("mps"))["processor"] == f"{cpu} (mps)"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no taskset")
def test_there_are_as_many_workers_as_usable_cores(folder, monkeypatch):
    every = os.sched_getaffinity(0)
    monkeypatch.setattr(module, "RESULTS", folder / "out")
    try:
        os.sched_setaffinity(0, {min(every)})
        command(small(), folder, monkeypatch)
    finally:
        os.sched_setaffinity(0, every)
    found = small().results()["hardware"]
    assert (found["cores"], found["workers"], found["threads"]) == (1, 1, 1)


def test_a_repeated_experiment_leaves_the_shipped_record_alone(folder, monkeypatch):
    shipped = {file: file.read_bytes() for file in module.RESULTS.glob("se.*")}
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["se"])
    dataclasses.replace(small(), name="se").main("None.", samples.Here())
    assert {file.name for file in folder.iterdir()} == {
        "runs", "se.json", "se.safetensors"}
    assert len(shipped) == 2
    assert all(file.read_bytes() == before for file, before in shipped.items())


def test_watch_adds_to_each_epoch(folder):
    grid = small()
    seen = []

    def watch(model, settings):
        assert not model.training and not torch.is_grad_enabled()
        seen.append(settings)
        return {"weight": model.linear.weight.sum().item()}

    watched = Grid("none", grid.settings, grid.build, grid.examine, PICTURES.get,
                   watch=watch)
    for name in ("plain", "watched"):
        (folder / name).mkdir()
    plain = grid.run("one", 0, folder / "plain", 1)
    record = watched.run("one", 0, folder / "watched", 1)
    assert seen == [grid.used("one") | {"seed": 0}] * 2
    weights = [epoch.pop("weight") for epoch in record["history"]]
    assert weights[0] != weights[1]
    assert untimed(record) == untimed(plain), "watching changes nothing"
    model = grid.build(grid.used("one"))
    model.load_state_dict(
        torch.load(folder / "watched" / "one-0-weights.pt", weights_only=True))
    assert weights[1] == model.linear.weight.sum().item()


def test_weights_of_arms_that_are_not_shipped(folder, monkeypatch):
    arms = {name: {"mode": "as it is", "seeds": 1} for name in ("one", "two")}
    grid = Grid("none", small(arms=arms).settings, lambda s: Model(s["mode"]),
                lambda model, test, s: {}, PICTURES.get, shipped=("two",))
    monkeypatch.setattr(module, "RESULTS", folder)
    grid.collect([grid.run(arm, 0, folder, 1) for arm in arms], folder, 1, folder)
    assert {r["arm"] for r in grid.results()["runs"]} == {"one", "two"}
    made = torch.load(folder / "two-0-weights.pt", weights_only=True)
    torch.testing.assert_close(dict(grid.trained("two").state_dict()), dict(made),
                               rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match=r"of the arms \['two'\], not of 'one'"):
        grid.trained("one")


def test_nothing_is_shipped_of_no_arm(folder, monkeypatch):
    grid = dataclasses.replace(small(), shipped=())
    monkeypatch.setattr(module, "RESULTS", folder)
    grid.collect([grid.run("one", 0, folder, 1)], folder, 1, folder)
    assert len(grid.results()["runs"]) == 1
    assert not list(folder.glob("*.safetensors"))


def test_pictures_and_examine_know_the_seed(folder):
    asked = []

    def pictures(split, settings):
        asked.append((split, settings))
        return PICTURES[split]

    grid = dataclasses.replace(
        small(), pictures=pictures, examine=lambda model, test, s: {"told": s["seed"]})
    record = grid.run("one", 7, folder, 1)
    told = grid.used("one") | {"seed": 7}
    assert asked == [("test", told), ("train", told)] and record["told"] == 7
    assert record["settings"] == grid.used("one"), "a record is found by its arm"
