"""The benchmark's machinery, on shapes that take no time. No time is asserted."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from torch import nn

from benchmarks import bench, official, peers
from cvattn import CBAM, SE, cost

TINY = (2, 16, 3, 5)


def case(**others):
    return bench.Case("CBAM", TINY, CBAM(16, bias=True, norm=True),
                      {"official": official.CBAM(16), **others})


def measured(found, compiled=False, channels_last=False):
    return list(bench.rows(found, "cpu", 0, compiled, channels_last))


def test_a_row_has_its_numbers():
    forward, both = measured(case(second=official.CBAM(16)))
    assert (forward["pass"], both["pass"]) == ("forward", "forward + backward")
    for r in (forward, both):
        assert (r["module"], r["shape"], r["form"]) == ("CBAM", TINY, "eager")
        assert r["turns"] >= 5
        assert r["seconds"].keys() == {"cvattn", "again", "official", "second", "copy"}
        assert r["ratio"].keys() == {"official", "second"}
        for low, median, high in [*r["ratio"].values(), r["noise"]]:
            assert 0 < low <= median <= high
        assert r["fastest"] == min(("official", "second"), key=r["seconds"].get)
        assert 0 < r["limit"]
    assert forward["memory"].keys() == {"peak"}
    assert both["memory"].keys() == {"peak", "kept"}
    for r in (forward, both):
        for b in r["memory"].values():
            assert b.keys() == {"cvattn", "official", "second"} and min(b.values()) > 0
            assert b["official"] == b["second"]
    json.dumps([forward, both])


def test_a_module_without_a_peer():
    r = measured(bench.Case("SE", TINY, SE(16), {}))[0]
    assert r["fastest"] is None and not r["slower"] and not r["more"]
    assert "no peer" in bench.line(r)


def test_a_peer_that_computes_something_else_is_refused():
    class Twice(official.CBAM):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(AssertionError, match="CBAM is not twice's: off by"):
        measured(case(twice=Twice(16)))


@pytest.mark.parametrize("channels_last", [False, True])
def test_compiled_and_channels_last(monkeypatch, channels_last):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda m, dynamic: seen.append(m) or m)
    formats = []
    monkeypatch.setattr(bench, "PASSES", {"forward": lambda model, x, g: formats.append(
        x.is_contiguous(memory_format=torch.channels_last))})
    found = measured(case(), compiled=True, channels_last=channels_last)
    assert [r["form"] for r in found] == ["eager", "compiled"]
    assert len(seen) == 2 and found[1]["memory"] == {}
    assert set(formats) == {channels_last}


def test_each_has_run_before_it_is_measured(monkeypatch):
    ran = []
    monkeypatch.setattr(bench, "PASSES", {
        "forward": lambda model, x, g: ran.append(model)})

    def turns(steps, *args, **kwargs):
        assert len(ran) == 3        # ours, the peer's, and ours again
        return {name: [1.0] * 5 for name in steps}

    monkeypatch.setattr(cost, "turns", turns)
    assert len(measured(case())) == 1


def row(ours, peer, again, memory=None):
    times = {"cvattn": ours, "again": again, "peer": peer, "copy": [2.0] * 5}
    return bench.row(SimpleNamespace(name="", shape=TINY, peers={"peer": None}),
                     "forward", "eager", times, memory or {}, 1.5)


def test_what_is_slower():
    same, slow = [1.0, 1.1, 1.0, 0.9, 1.0], [1.5, 1.6, 1.4, 1.5, 1.5]
    assert not row(same, same, same)["slower"]
    assert row(slow, same, slow)["slower"]
    assert not row(same, slow, same)["slower"]
    assert not row(slow, same, same)["slower"], "ours is as much slower than itself"
    assert row(same, same, same)["limit"] == 3.0


def test_what_takes_more_memory():
    ones = [1.0] * 5
    for ours, more in ((5, False), (1000, False), (1002, True)):
        memory = {"peak": {"cvattn": ours, "peer": 1000, "other": 2000}}
        r = row(ones, ones, ones, memory)
        assert r["more"] == more and ("MORE MEMORY" in bench.line(r)) == more


def test_peak_counts_what_an_operation_takes_and_gives_back():
    class Hidden(nn.Module):
        def forward(self, x):
            return x + torch.cat([x, x, x]).sum()

    x = torch.randn(1, 1000)
    assert bench.peak(bench.forward, Hidden(), x, x) == pytest.approx(12_000, abs=500)
    assert bench.peak(bench.forward, nn.Identity(), x, x) == 0


def test_peak_does_not_depend_on_what_ran_before():
    module, x = SE(16), torch.randn(TINY, requires_grad=True)
    g = torch.randn(TINY)
    first = bench.peak(bench.both, module, x, g)
    bench.both(module, x, g)
    assert bench.peak(bench.both, module, x, g) == first > 2 * x.nbytes


def test_the_bytes_that_must_move():
    x, module = torch.ones(2, 3), nn.Linear(3, 5)       # 24 and 80 bytes; y 40
    y = module(x)
    assert bench.least_bytes("forward", module, x, y) == 24 + 40 + 80
    assert bench.least_bytes("both", module, x, y) == 3 * 24 + 2 * 40 + 3 * 80


def test_forward_leaves_gradients_and_both_does_not_add_them():
    module, x = SE(16), torch.randn(TINY, requires_grad=True)
    bench.forward(module, x, None)
    assert x.grad is None and module.W1.weight.grad is None
    bench.both(module, x, torch.ones(TINY))
    once = module.W1.weight.grad.clone(), x.grad.clone()
    bench.both(module, x, torch.ones(TINY))
    torch.testing.assert_close((module.W1.weight.grad, x.grad), once)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run main with tiny cases and given arguments; `command.folder` is RESULTS."""
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(bench, "cases", lambda *libraries: [
        case(), bench.Case("SE", TINY, SE(16), {})])
    libraries = SimpleNamespace(__version__="1"), SimpleNamespace(__version__="2")
    monkeypatch.setattr(peers, "load", lambda: libraries)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["bench.py", *arguments])
        bench.main()

    run.folder = bench.RESULTS
    return run


def test_the_table(command, capsys):
    command("--quick")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == bench.HEAD and len(lines) == 6
    assert [line.split()[0] for line in lines[1:5]] == ["CBAM", "CBAM", "SE", "SE"]
    assert lines[5].startswith("4 rows, ")
    assert not command.folder.exists()


def test_some_modules_only(command, capsys):
    command("--quick", "--only", "SE")
    assert "2 rows" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("more, name", [
    ([], "cpu.json"), (["--channels-last"], "cpu-channels-last.json"),
])
def test_the_record(command, capsys, monkeypatch, more, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    command("--write", "--seconds", "0", *more)
    path, = command.folder.iterdir()
    assert path.name == name
    assert str(path) == capsys.readouterr().out.splitlines()[-1]
    kept = json.loads(path.read_text())
    arguments = " ".join(["--write", "--seconds", "0", *more])
    assert kept["command"] == f"python -m benchmarks.bench {arguments}"
    assert kept["hardware"].keys() == {"processor", "cores", "threads"}
    assert kept["versions"] == {**kept["versions"], "timm": "1", "torchvision": "2",
                                "torch": torch.__version__}
    assert [r["module"] for r in kept["rows"]] == ["CBAM", "CBAM", "SE", "SE"]


@pytest.mark.parametrize("part", [["--only", "SE"], ["--quick"]])
def test_a_part_is_not_kept(command, capsys, part):
    with pytest.raises(SystemExit):
        command("--write", *part)
    assert "--write keeps the whole table" in capsys.readouterr().err


def test_without_the_twins_it_says_what_to_install():
    """As a fresh clone is: neither can be imported."""
    script = ("import sys; sys.modules.update(timm=None, torchvision=None); "
              "sys.argv = ['bench.py']; import runpy; "
              "runpy.run_module('benchmarks.bench', run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines()[-1].endswith(
        "pip install --no-deps --requirement requirements-twins.txt")
    assert "Traceback" not in done.stderr
