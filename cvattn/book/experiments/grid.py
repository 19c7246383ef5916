"""Train every arm of an experiment with several seeds; stop and go on at any time.

An experiment is a module with a `GRID` and the last line `GRID.main(__doc__)`::

    python -m cvattn.book.experiments.se                    # the whole grid
    python -m cvattn.book.experiments.se --workers 1        # one run at a time

Every run writes a checkpoint after each epoch to --folder, and its weights at the end,
so that the command can be stopped and given again; runs made or begun with other
settings are refused. A second command on the same folder takes the runs that the first
one has not begun. At the end the results go to `<name>.json` (each run, the settings,
versions and hardware) and weights of seed 0 to `<name>.safetensors`, both in --out, the
current folder. The chapter reads those that ship, in `cvattn/book/results`.
"""

import argparse
import importlib
import json
import shlex
import sys
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, as_completed
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from cvattn.book import data, train
from cvattn.book.experiments.record import (
    RESULTS,
    add_out,
    common,
    hardware,
    versions,
    writable,
)
from cvattn.book.experiments.workers import Workers, cores
from cvattn.book.files import replacing, write

TRAINING = ("epochs", "batch_size", "lr", "weight_decay", "bfloat16")


def fashion_mnist(split: str, settings: dict | None = None) -> train.Pair:
    """Return the full set, whatever the settings."""
    return data.fashion_mnist(split, full=True)


@dataclass(frozen=True)
class Grid:
    """An experiment: what differs between its arms, and what stays the same.

    Args:
        name: of the experiment's module and of the result files.
        settings: `epochs` to `bfloat16` for `train.fit`, `optimizer` if it is not
            its default, whatever else all arms share, and `arms`: for each its own
            settings and the number of `seeds`.
            Of JSON's types: lists, no tuples.
        build: from the settings of one arm (`used`) to an untrained network.
        examine: (trained network, test set, settings of the arm, `seed` among them)
            to further entries of the record.
        pictures: ("train" or "test", the same settings) to pictures and labels.
        watch: (network after an epoch, the same settings) to further entries of the
            epoch's record.
        fit: (network, settings of the arm, seed, checkpoint) to the record, its
            `accuracy` included, in place of `train.fit`, `examine`, `pictures` and
            `watch`; for what is no classifier of pictures. A `device` in it says
            where the network learned, if it stands elsewhere at the end.
        last: arms that wait until all others are done.
        shipped: arms whose weights are kept in `cvattn/book/results`, as float16 to
            keep the wheel small; all, if None; if there are none, no file is written.
    """

    name: str
    settings: dict
    build: Callable[[dict], nn.Module]
    examine: Callable[[nn.Module, train.Pair, dict], dict] | None = None
    pictures: Callable[[str, dict], train.Pair] = fashion_mnist
    last: tuple[str, ...] = ()
    shipped: tuple[str, ...] | None = None
    watch: Callable[[nn.Module, dict], dict] | None = None
    fit: Callable[[nn.Module, dict, int, Path], dict] | None = None

    def used(self, arm: str, settings: dict | None = None) -> dict:
        """Return the settings that decide a run of the arm, whatever its seed."""
        settings = self.settings if settings is None else settings
        both = settings | settings["arms"][arm]
        return {k: v for k, v in both.items() if k not in ("arms", "seeds")}

    def results(self) -> dict:
        """Return the shipped record: settings, versions, hardware and every run."""
        return json.loads((RESULTS / f"{self.name}.json").read_text())

    def trained(self, arm: str) -> nn.Module:
        """Return the arm's network with the shipped weights of seed 0, in eval mode.

        Raises:
            ValueError: if the arm's weights are not shipped.
        """
        from safetensors.torch import load_file

        weights = load_file(RESULTS / f"{self.name}.safetensors")
        if arm not in (arms := sorted({k.partition(".")[0] for k in weights})):
            raise ValueError(f"weights are shipped of the arms {arms}, not of {arm!r}")
        model = self.build(self.used(arm, self.results()["settings"]))
        model.load_state_dict({k.removeprefix(f"{arm}."): v for k, v in weights.items()
                               if k.startswith(f"{arm}.")})
        return model.eval()

    def finished(self, arm: str, seed: int, folder: Path) -> dict | None:
        """Return the record of a run that is done, or None.

        Raises:
            ValueError: if the run was made or begun with other settings, or if its
                files are lost, cut, or those of something else.
        """
        run, cure = f"{arm}-{seed}", f"delete {arm}-{seed}.* or give another --folder"
        file, checkpoint = folder / f"{run}.json", folder / f"{run}.pt"
        begun = checkpoint.exists()         # asked first, for it is written later
        if not file.exists():
            if begun:
                raise ValueError(f"{file}, the record of {checkpoint.name}, is lost; "
                                 f"{cure}")
            return None
        try:
            record = json.loads(file.read_text("utf-8"))
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise ValueError(f"{file} is empty, cut, or no record of a run; {cure}")
        if record.get("settings") != self.used(arm):
            raise ValueError(
                f"{file} was made with {record.get('settings', 'settings unknown')}, "
                f"asked for {self.used(arm)}; {cure}"
            )
        if "accuracy" not in record:
            return None
        if (record.get("arm"), record.get("seed")) != (arm, seed):
            raise ValueError(f"{file} is the record of arm {record.get('arm')}, seed "
                             f"{record.get('seed')}; {cure}")
        if missing := {"hardware", "versions"} - record.keys():
            raise ValueError(f"{file} does not tell {' and '.join(sorted(missing))}: "
                             f"an earlier cvattn made it; {cure}")
        model, weights = self.build(self.used(arm)), folder / f"{run}-weights.pt"
        try:
            model.load_state_dict(torch.load(weights, weights_only=True))
        except Exception as error:      # which one depends on what the file holds
            raise ValueError(f"{weights} is lost, cut, or not of this network; "
                             f"{cure}") from error
        return record

    def run(self, arm: str, seed: int, folder: Path, threads: int,
            wait: bool = True) -> dict | None:
        """Train one network, or read what it gave before; return its record.

        While another process trains it, wait, or return None at once.
        """
        from filelock import FileLock, Timeout

        try:
            with FileLock(folder / f"{arm}-{seed}.lock").acquire(-1 if wait else 0):
                return (self.finished(arm, seed, folder)
                        or self.learn(arm, seed, folder, threads))
        except Timeout:
            return None

    def learn(self, arm: str, seed: int, folder: Path, threads: int) -> dict:
        """Train one network from its checkpoint, or from the start."""
        for name in ("", "-weights"):                   # what a killed process left
            for stray in folder.glob(f"{arm}-{seed}{name}.*.part"):
                stray.unlink()
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        settings, file = self.used(arm), folder / f"{arm}-{seed}.json"
        write(file, json.dumps({"settings": settings}))     # of the checkpoint, too
        model, checkpoint = self.build(settings), folder / f"{arm}-{seed}.pt"
        found = (self.fit or self.classify)(model, settings, seed, checkpoint)
        at = found.pop("device", next(model.parameters()).device)
        record = {
            "arm": arm, "seed": seed, "settings": settings,
            "parameters": sum(p.numel() for p in model.parameters()), **found,
            "hardware": hardware(at) | {"threads": threads}, "versions": versions(),
        }
        with replacing(folder / f"{arm}-{seed}-weights.pt") as part:
            torch.save(model.cpu().state_dict(), part)
        write(file, json.dumps(record))
        checkpoint.unlink(missing_ok=True)
        return record

    def classify(self, model: nn.Module, settings: dict, seed: int,
                 checkpoint: Path) -> dict:
        """Train a classifier of pictures; return what is to be recorded."""
        settings = settings | {"seed": seed}
        test = self.pictures("test", settings)
        watch = self.watch and partial(self.watch, settings=settings)
        history = train.fit(
            model, self.pictures("train", settings), test, seed=seed,
            checkpoint=checkpoint, progress=False, watch=watch,
            **{k: settings[k] for k in TRAINING},
            optimizer=settings.get("optimizer", "sgd"),
        )
        at = next(model.parameters()).device
        logits = train.evaluate(model.cpu(), test)
        return {
            "device": at,
            "accuracy": train.accuracy(logits, test[1]),
            "class_accuracy": [
                train.accuracy(logits[test[1] == c], test[1][test[1] == c])
                for c in test[1].unique()],
            "history": history,
            **self.examine(model, test, settings),
        }

    def jobs(self) -> list[tuple[str, int]]:
        """Return (arm, seed) of every run, seed by seed, the last arms at the end."""
        arms = self.settings["arms"]
        most = max(a["seeds"] for a in arms.values())
        every = [(arm, seed) for seed in range(most) for arm in arms
                 if seed < arms[arm]["seeds"]]
        return sorted(every, key=lambda job: job[0] in self.last)

    def sweep(self, executor: Executor, folder: Path, threads: int) -> list[dict]:
        """Make all runs that are not done; return the record of every run.

        What another command trains at the same time is left to it, and waited for at
        the end.

        Raises:
            ValueError: before any training, as `finished`.
            Died: if the process of a run does. Any other error of a run is raised
                with a note that names the run.
        """
        records = {job: self.finished(*job, folder) for job in self.jobs()}
        for wait in (False, True):
            left = {executor.submit(self.run, *job, folder, threads, wait): job
                    for job, record in records.items() if record is None}
            for future in as_completed(left):
                job, name = left[future], "{} seed {}".format(*left[future])
                try:
                    records[job] = future.result()
                except BrokenExecutor as error:
                    raise Died(f"The process of {name} died; if it was for want of "
                               "memory, try fewer --workers.") from error
                except Exception as error:
                    error.add_note(f"in the run {name}")
                    raise
                said = "trained by another command, which is waited for"
                if records[job] is not None:
                    said = f"test accuracy {records[job]['accuracy']:.4f}"
                done = sum(record is not None for record in records.values())
                print(f"{done}/{len(records)}  {name}  {said}", file=sys.stderr,
                      flush=True)
        return list(records.values())

    def collect(self, records: list[dict], folder: Path, workers: int,
                out: Path) -> None:
        """Write the two result files, to `out`, from finished runs."""
        from safetensors.torch import save

        apart = ("settings", "hardware", "versions")
        runs = [{k: v for k, v in r.items() if k not in apart} for r in records]
        text = json.dumps({
            "command": f"python -m cvattn.book.experiments.{self.name}",
            "settings": self.settings,
            "versions": common([r["versions"] for r in records]),
            "hardware": common([r["hardware"] for r in records]) | {"workers": workers},
            "runs": sorted(runs, key=lambda r: (r["arm"], r["seed"])),
        }, indent=1)
        weights = {
            f"{arm}.{name}":
                (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
            for arm in (self.settings["arms"] if self.shipped is None
                        else self.shipped)
            for name, tensor in
            torch.load(folder / f"{arm}-0-weights.pt", weights_only=True).items()
        }
        json_file, tensors = (out / f"{self.name}.{end}"
                              for end in ("json", "safetensors"))
        if weights:
            write(tensors, save(weights))
        write(json_file, text + "\n")
        print("written:", json_file, tensors if weights else "")

    def main(self, description: str, executor: Executor | None = None) -> None:
        """Run the experiment from the command line, on its own processes or others."""
        parser = argparse.ArgumentParser(description=description.splitlines()[0])
        parser.add_argument("--folder", type=Path, default=Path("runs") / self.name,
                            help="where unfinished and finished runs are kept")
        parser.add_argument("--workers", type=int, default=cores(),
                            help="runs at the same time (default: one for each core "
                                 "that this process may use)")
        add_out(parser)
        options = parser.parse_args()
        if options.workers < 1:
            parser.error(f"--workers must be at least 1, got {options.workers}")
        for package in ("filelock", "safetensors.torch"):   # else missed at the end
            needed(package)
        for folder in (options.folder, options.out):
            writable(folder)
        threads = max(1, cores() // options.workers)
        again = shlex.join(["python", "-m", f"cvattn.book.experiments.{self.name}",
                            *sys.argv[1:]])
        try:
            with nullcontext(executor) if executor else Workers(options.workers) as own:
                records = self.sweep(own, options.folder, threads)
        except (Died, KeyboardInterrupt) as error:
            said = str(error) or "Stopped."
            sys.exit(f"{said} What is done is kept; to go on: {again}")
        self.collect(records, options.folder, options.workers, options.out)


class Died(RuntimeError):
    """The process of a run ended before the run did."""


def needed(package: str) -> None:
    """End the program, and say what to install, if the package is not there."""
    try:
        importlib.import_module(package)
    except ImportError as error:
        name = package.partition(".")[0]
        sys.exit(f"The experiments need {name}: pip install {name} ({error})")
