"""What the experiments say of a measurement, and where they keep it.

Records that ship are in RESULTS. A script that is run again writes to --out, by default
the current folder, and so leaves them alone; `--out cvattn/book/results` ships its own.
"""

import argparse
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cvattn.book.experiments.workers import cores
from cvattn.book.files import write_arrays

RESULTS = Path(__file__).parents[1] / "results"


def add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path(),
                        help="where results are written (default: the current folder)")


def writable(folder: Path) -> Path:
    """Return the folder, made if it is not there; raise OSError if it takes no file."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return folder


def keep_arrays(name: str, description: str,
                collect: Callable[[], dict[str, np.ndarray]]) -> None:
    """Be the command of a script that collects arrays: write `<name>.npz` to --out."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    add_out(parser)
    file = writable(parser.parse_args().out) / f"{name}.npz"
    arrays = collect()
    write_arrays(file, arrays)
    print(f"written: {file}, {sum(a.nbytes for a in arrays.values()):,} bytes:",
          {name: list(a.shape) for name, a in arrays.items()})


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__}


def hardware(at: torch.device) -> dict[str, str | int]:
    """Return the name of the device that computed, and the number of usable cores."""
    if at.type == "cuda":
        name = torch.cuda.get_device_name(at)
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.exists() else []
        names = [x.split(":")[1].strip() for x in lines if x.startswith("model name")]
        name = names[0] if names else platform.processor()
        if at.type != "cpu":
            name += f" ({at.type})"
    return {"processor": name, "cores": cores()}


def common(found: list[dict]) -> dict:
    """Return for each key its value, or a list where the dictionaries differ.

    >>> common([{"torch": "2.4", "cores": 2}, {"torch": "2.5", "cores": 2}])
    {'torch': ['2.4', '2.5'], 'cores': 2}
    """
    values = {key: sorted({each[key] for each in found}) for key in found[0]}
    return {key: v[0] if len(v) == 1 else v for key, v in values.items()}
