"""Train every arm of an experiment with several seeds; stop and go on at any time.

An experiment is a module with a `GRID` and the last line `GRID.main(__doc__)`::

    python -m cvattn.book.experiments.se                    # the whole grid
    python -m cvattn.book.experiments.se --workers 1        # one run at a time

Every run writes a checkpoint after each epoch to --folder, and its weights at the end,
so that the command can be stopped and given again; runs made or begun with other
settings are refused. At the end the results go to `<name>.json` (each run, the
settings, versions and hardware) and weights of seed 0 to `<name>.safetensors`, both in
`cvattn/book/results`, from where the chapter reads them.
"""

import argparse
import io
import json
import multiprocessing
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cvattn.book import data, train

RESULTS = Path(__file__).parents[1] / "results"
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
            `watch`; for what is no classifier of pictures.
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
            ValueError: if it was made or begun with other settings.
        """
        file = folder / f"{arm}-{seed}.json"
        if not file.exists():
            return None
        record = json.loads(file.read_text())
        if record.get("settings") != self.used(arm):
            raise ValueError(
                f"{file} was made with {record.get('settings', 'settings unknown')}, "
                f"asked for {self.used(arm)}; delete {arm}-{seed}.* or give another "
                "--folder"
            )
        return record if "accuracy" in record else None

    def run(self, arm: str, seed: int, folder: Path, threads: int) -> dict:
        """Train one network, or read what it gave before; return its record."""
        record = self.finished(arm, seed, folder)
        if record is not None:
            return record
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        settings, file = self.used(arm), folder / f"{arm}-{seed}.json"
        write(file, json.dumps({"settings": settings}))     # of the checkpoint, too
        model, checkpoint = self.build(settings), folder / f"{arm}-{seed}.pt"
        found = (self.fit or self.classify)(model, settings, seed, checkpoint)
        record = {
            "arm": arm, "seed": seed, "settings": settings,
            "parameters": sum(p.numel() for p in model.parameters()), **found,
        }
        torch.save(model.state_dict(), folder / f"{arm}-{seed}-weights.pt")
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
        model.cpu()
        logits = train.evaluate(model, test)
        return {
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

    def collect(self, records: list[dict], folder: Path, workers: int,
                threads: int) -> None:
        """Write the two result files from finished runs."""
        from safetensors.torch import save

        runs = [{k: v for k, v in r.items() if k != "settings"} for r in records]
        text = json.dumps({
            "command": f"python -m cvattn.book.experiments.{self.name}",
            "settings": self.settings,
            "versions": versions(),
            "hardware": hardware() | {"workers": workers, "threads": threads},
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
        json_file = RESULTS / f"{self.name}.json"
        tensors = RESULTS / f"{self.name}.safetensors"
        if weights:
            write(tensors, save(weights))
        write(json_file, text + "\n")
        print("written:", json_file, tensors if weights else "")

    def main(self, description: str) -> None:
        """Run the experiment from the command line."""
        parser = argparse.ArgumentParser(description=description.splitlines()[0])
        parser.add_argument("--folder", type=Path, default=Path("runs") / self.name,
                            help="where unfinished and finished runs are kept")
        parser.add_argument("--workers", type=int, default=os.cpu_count() or 1,
                            help="runs at the same time (default: one for each core)")
        options = parser.parse_args()
        if options.workers < 1:
            parser.error(f"--workers must be at least 1, got {options.workers}")
        options.folder.mkdir(parents=True, exist_ok=True)
        threads = max(1, (os.cpu_count() or 1) // options.workers)
        jobs = self.jobs()
        for arm, seed in jobs:
            self.finished(arm, seed, options.folder)     # refuses other settings now
        records = []
        with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
            waiting = [pool.apply_async(self.run, (arm, seed, options.folder, threads))
                       for arm, seed in jobs]
            for job in waiting:
                records.append(job.get())
                r = records[-1]
                print(f"{len(records)}/{len(jobs)}  {r['arm']} seed {r['seed']}  "
                      f"test accuracy {r['accuracy']:.4f}", file=sys.stderr, flush=True)
        self.collect(records, options.folder, options.workers, threads)


def write(file: Path, content: str | bytes) -> None:
    """Write all of it, or leave the file as it was."""
    part = Path(f"{file}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(part, file)


def write_arrays(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays as one `.npz`, or leave the file as it was."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write(file, buffer.getvalue())


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__}


def hardware() -> dict[str, str | int | None]:
    """Return the name of what computes, and the number of CPU cores."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.exists() else []
        names = [x.split(":")[1].strip() for x in lines if x.startswith("model name")]
        name = names[0] if names else platform.processor()
    return {"processor": name, "cores": os.cpu_count()}
