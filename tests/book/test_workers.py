"""Workers: what is left of an experiment when its processes are killed, or meet."""

import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from conftest import ROOT

from cvattn.book.experiments import workers

PATIENCE = 300      # seconds after which a test that hangs has failed


class Commands:
    """Starts the stand-in, hears which runs began, and lets them end."""

    def __init__(self, folder: Path):
        self.folder, self.started = folder, []
        for name in ("began", "go"):
            os.mkfifo(folder / name)
        self.began, self.go = (os.open(folder / name, os.O_RDWR)
                               for name in ("began", "go"))
        self.heard = b""

    def start(self, number: int, out: str = "out") -> subprocess.Popen:
        command = [sys.executable, Path(__file__).with_name("standin.py"),
                   f"--workers={number}", f"--folder={self.folder / 'runs'}",
                   f"--out={self.folder / out}"]
        self.started.append(subprocess.Popen(
            command, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
            env=os.environ | {"STANDIN": str(self.folder), "PYTHONPATH": str(ROOT)}))
        return self.started[-1]

    def next(self) -> tuple[int, int]:
        """Return seed and process of the next run that began."""
        while b"\n" not in self.heard:
            if select.select([self.began], [], [], 1)[0]:
                self.heard += os.read(self.began, 1000)
            elif all(each.poll() is not None for each in self.started):
                pytest.fail(f"no run began: {self.started[-1].communicate()[1]}")
        line, _, self.heard = self.heard.partition(b"\n")
        seed, process = line.split()
        return int(seed), int(process)

    def release(self, runs: int) -> None:
        os.write(self.go, b"." * runs)

    def record(self, seed: int) -> dict:
        return json.loads((self.folder / "runs" / f"one-{seed}.json").read_text())


@pytest.fixture
def commands(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes")
    made = Commands(tmp_path)
    yield made
    for process in made.started:
        for each in family(process) if process.poll() is None else []:
            each.kill()
        process.communicate()
    os.close(made.began), os.close(made.go)


def family(process: subprocess.Popen) -> list[psutil.Process]:
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=PATIENCE)[1]


def test_commands_share_their_runs_and_killed_processes_cost_only_their_own(commands):
    """One test, since every process has to load torch."""
    # Three runs, two commands: the second takes what the first has not begun.
    first = commands.start(2)
    at = dict([commands.next(), commands.next()])
    second = commands.start(1)
    third, _ = commands.next()
    assert {*at, third} == {0, 1, 2}

    # A worker of the first is killed: the command ends, and its other worker.
    everyone = family(first)
    assert {p.pid for p in everyone} >= {first.pid, *at.values()}
    os.kill(at[0], signal.SIGKILL)
    _, said = first.communicate(timeout=PATIENCE)
    assert first.returncode == 1 and gone(everyone)
    assert "Traceback" not in said
    assert re.search(r"The process of one seed 0 died.* What is done is kept; "
                     r"to go on: python -m cvattn\S+standin --workers=2 --fold", said)
    assert commands.record(0).keys() == {"settings"}

    # The second ends its run, takes the next, and gets SIGTERM: its worker ends.
    commands.release(1)
    assert commands.next()[0] == 0
    assert commands.record(third)["accuracy"] == third / 10
    stopped(second, signal.SIGTERM)

    # Two more share what is left. One is killed; the other takes its run over.
    killed = commands.start(1, "killed")
    assert commands.next()[0] == 0, "what is done is not made again"
    last = commands.start(1)
    assert commands.next()[0] == 1
    stopped(killed, signal.SIGKILL)
    commands.release(1)
    assert commands.next()[0] == 0
    commands.release(1)
    _, said = last.communicate(timeout=PATIENCE)
    assert last.returncode == 0
    assert "one seed 0  trained by another command, which is waited for" in said
    results = json.loads((commands.folder / "out" / "standin.json").read_text())
    assert [r["accuracy"] for r in results["runs"]] == [0.0, 0.1, 0.2]
    assert not list((commands.folder / "killed").iterdir())
    assert not list(commands.folder.rglob("*.part"))


def stopped(command: subprocess.Popen, how: signal.Signals) -> None:
    """Send a signal to the command, and assert that all its processes end."""
    everyone = family(command)
    assert len(everyone) > 1
    command.send_signal(how)
    command.communicate(timeout=PATIENCE)
    assert command.returncode == -how and gone(everyone)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no taskset")
def test_cores_are_those_that_the_process_may_use():
    every = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(every)})
        assert workers.cores() == 1
    finally:
        os.sched_setaffinity(0, every)
    assert workers.cores() == len(every)


@pytest.mark.parametrize("gpus, wanted", [(0, []), (1, []), (3, [0, 1, 2, 0, 1])])
def test_processes_take_turns_over_the_visible_gpus(monkeypatch, gpus, wanted):
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for i in range(5):
        workers.share_gpus(i)
    assert chosen == wanted
