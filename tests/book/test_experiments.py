"""The list of experiments in the README, and where every one of them writes."""

import importlib
import json
import re
import sys

import pytest
import torch
from conftest import ROOT

from cvattn.book.experiments import transformer_cost
from cvattn.book.experiments.record import RESULTS, hardware, keep_arrays

FOLDER = ROOT / "cvattn" / "book" / "experiments"
SCRIPTS = {file.stem: file.read_text("utf-8") for file in FOLDER.glob("*.py")
           if "__main__" in file.read_text("utf-8")}
LISTED = dict(re.findall(
    r"^python -m cvattn\.book\.experiments\.(\w+)(?: --\w+)* +# (.*)",
    (ROOT / "README.md").read_text("utf-8"), re.MULTILINE))
GRIDS = [name for name, text in SCRIPTS.items() if "GRID.main" in text]


def test_the_list_is_whole():
    figures = {name for name in SCRIPTS if name.endswith("_figures")}
    assert LISTED.keys() == SCRIPTS.keys() - figures
    chapters = {file.stem for file in (ROOT / "chapters").glob("*.ipynb")
                if not file.stem.endswith("_exercises")}
    assert figures == {f"{name}_figures" for name in chapters - {"clinic"}}
    assert len(GRIDS) == 8


@pytest.mark.parametrize("name", GRIDS)
def test_runs_and_hours_are_those_of_the_record(name):
    grid = importlib.import_module(f"cvattn.book.experiments.{name}").GRID
    runs, hours = re.match(r"(\d+) runs; (\d\.\d) hours", LISTED[name]).groups()
    assert int(runs) == len(grid.jobs())
    record = grid.results()
    seconds = sum(epoch["seconds"] for run in record["runs"]
                  for epoch in run["history"])
    assert record["hardware"]["cores"] == 2
    taken = seconds / record["hardware"]["workers"] / 3600
    assert float(hours) == pytest.approx(taken, abs=0.05)


def test_no_script_writes_to_the_shipped_records():
    named = {file.stem for file in FOLDER.glob("*.py")
             if re.search(r"\bRESULTS\b", file.read_text("utf-8"))}
    assert named == {"record", "grid", "se", "sk_cost", "cbam_blanking"}, (
        "defined, read, and handed on")
    for name, text in SCRIPTS.items():
        assert re.search(r"GRID\.main|keep_arrays|add_out|table\(", text), name


@pytest.mark.parametrize("arguments, folder", [([], "."), (["--out", "a/b"], "a/b")])
def test_arrays_are_kept_where_they_are_wanted(
        tmp_path, monkeypatch, capsys, arguments, folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["se_figures", *arguments])
    shipped = (RESULTS / "se_live.npz").read_bytes()
    keep_arrays("se_live", "Collect.", lambda: {"x": torch.arange(3.0).numpy()})
    assert [file.name for file in (tmp_path / folder).iterdir()] == ["se_live.npz"]
    assert "12 bytes: {'x': [3]}" in capsys.readouterr().out
    assert (RESULTS / "se_live.npz").read_bytes() == shipped


def test_what_computes_on_the_cpu_says_so(tmp_path, monkeypatch):
    threads, cpu = torch.get_num_threads(), hardware(torch.device("cpu"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["transformer_cost"])
    monkeypatch.setattr(transformer_cost, "LENGTHS", (3,))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *at: "A GPU")
    monkeypatch.setattr(transformer_cost, "measured", lambda lengths, repeats: [])
    transformer_cost.main()
    torch.set_num_threads(threads)
    record = json.loads((tmp_path / "transformer_cost.json").read_text())
    assert record["hardware"] == cpu | {"threads": 1}
