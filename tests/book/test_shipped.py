"""The shipped records of the experiments: whole, and those of the shipped weights."""

import json
import os

import pytest
from safetensors.torch import load_file

from cvattn.book import train
from cvattn.book.experiments import bam, cbam, sk, stn, transformer, vit
from cvattn.book.experiments.grid import RESULTS

CI = os.environ.get("CI", "").lower() == "true"
GRIDS = {grid.name: grid for grid in (
    bam.GRID, cbam.GRID, sk.GRID, stn.GRID, transformer.GRID, vit.GRID)}
TRIED = [("bam", "sum"), ("cbam", "pool7"), ("sk", "sk"), ("stn", "RTS-st_cnn"),
         ("vit", "vit-16384")]


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_every_run_is_there_once(grid):
    record = grid.results()
    assert record["settings"] == grid.settings
    assert record["command"] == f"python -m cvattn.book.experiments.{grid.name}"
    assert {"python", "torch"} <= record["versions"].keys()
    assert {"processor", "cores", "workers", "threads"} == record["hardware"].keys()
    runs = [(r["arm"], r["seed"]) for r in record["runs"]]
    assert runs == sorted(grid.jobs())
    for arm, settings in grid.settings["arms"].items():
        assert settings["seeds"] >= 5
        own = [r for r in record["runs"] if r["arm"] == arm]
        assert all(len(r["history"]) == grid.used(arm)["epochs"] for r in own)
        assert len({r["history"][-1]["loss"] for r in own}) == len(own), "seeds alike"
        assert len({r["parameters"] for r in own}) == 1


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_weights_are_those_of_the_arms_that_ship(grid):
    weights = load_file(RESULTS / f"{grid.name}.safetensors")
    arms = {name.partition(".")[0] for name in weights}
    assert arms == set(grid.shipped or grid.settings["arms"])
    assert all(v.isfinite().all() for v in weights.values())


@pytest.mark.parametrize("name, arm", TRIED)
def test_shipped_weights_give_the_shipped_numbers(name, arm):
    grid = GRIDS[name]
    try:
        test = grid.pictures("test", grid.used(arm))
    except OSError as error:
        (pytest.fail if CI else pytest.skip)(f"no full test set: {error}")
    logits = train.evaluate(grid.trained(arm), test, batch_size=50)
    run, = (r for r in grid.results()["runs"] if (r["arm"], r["seed"]) == (arm, 0))
    assert train.accuracy(logits, test[1]) == pytest.approx(run["accuracy"], abs=5e-4)
    for c, share in zip(test[1].unique(), run["class_accuracy"], strict=True):
        own = test[1] == c
        assert train.accuracy(logits[own], test[1][own]) == pytest.approx(
            share, abs=3e-3)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda p: p.name)
def test_records_are_strict_json(path):
    json.loads(path.read_text(), parse_constant=pytest.fail)
