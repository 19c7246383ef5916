"""Does a Squeeze-and-Excitation gate help, and do late gates know the class?

    python -m cvattn.experiments.se                    # the whole grid
    python -m cvattn.experiments.se --workers 1        # one run at a time

Trains four arms on the full Fashion-MNIST, each with several seeds:

plain   cifar_resnet, depth 8
se      the same with SE in every block
wide    the plain network with more channels, to the parameter count of `se`
deep    SE at depth 20, for the gates only

Every run keeps a checkpoint for each epoch under --folder, so that the command
can be stopped and given again; runs made with other settings are refused. At the
end the results go to `se.json` (each run, the settings, versions and hardware) and
the weights of seed 0 to `se.safetensors`, both in `cvattn/results`, from where the
chapter reads them.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from cvattn import data, train
from cvattn.resnet import cifar_resnet
from cvattn.se import SE

SETTINGS = {
    "epochs": 6, "batch_size": 128, "lr": 0.1, "weight_decay": 5e-4,
    "bfloat16": True, "reduction": 4,
    "arms": {
        "plain": {"depth": 8, "width": 16, "se": False, "seeds": 10},
        "se": {"depth": 8, "width": 16, "se": True, "seeds": 10},
        "wide": {"depth": 8, "width": [16, 33, 65], "se": False, "seeds": 10},
        "deep": {"depth": 20, "width": 16, "se": True, "seeds": 2},
    },
}
RESULTS = Path(__file__).parents[1] / "results"


def build(arm: str, settings: dict = SETTINGS) -> nn.Module:
    """Return the untrained network of an arm."""
    a = settings["arms"][arm]
    attention = partial(SE, reduction=settings["reduction"]) if a["se"] else None
    return cifar_resnet(attention, depth=a["depth"], width=a["width"], in_channels=1)


def results() -> dict:
    """Return the shipped record: settings, versions, hardware and every run."""
    return json.loads((RESULTS / "se.json").read_text())


def trained(arm: str) -> nn.Module:
    """Return the network of an arm with the shipped weights of seed 0, in eval mode."""
    from safetensors.torch import load_file

    weights = load_file(RESULTS / "se.safetensors")
    model = build(arm, results()["settings"])
    model.load_state_dict({k.removeprefix(f"{arm}."): v for k, v in weights.items()
                           if k.startswith(f"{arm}.")})
    return model.eval()


def attentions(model: nn.Module) -> list[SE]:
    """Return the SE modules in the order in which a picture meets them."""
    return [m for m in model.modules() if isinstance(m, SE)]


def gates(model: nn.Module, images: Tensor, *, batch_size: int = 500) -> list[Tensor]:
    """Return the gates of every SE module, each (N, C), for uint8 images (N, H, W)."""
    seen: list[list[Tensor]] = [[] for _ in attentions(model)]

    def keep(rows: list[Tensor], module: SE, inputs: tuple[Tensor]) -> None:
        rows.append(module.gate(inputs[0])[:, :, 0, 0].float().cpu())

    hooks = [m.register_forward_pre_hook(partial(keep, rows))
             for m, rows in zip(attentions(model), seen, strict=True)]
    train.evaluate(model, (images, torch.zeros(len(images))), batch_size=batch_size)
    for hook in hooks:
        hook.remove()
    return [torch.cat(rows) for rows in seen]


@contextmanager
def edited(model: nn.Module, edit):
    """Within the block every gate s of SE module i is replaced by edit(i, s).

    Raises:
        ValueError: inside another `edited` of the same model: give one edit that
            does both.
    """
    if any("gate" in vars(module) for module in attentions(model)):
        raise ValueError("edited cannot be nested: give one edit that does both")

    def gate(i: int, module: SE, x: Tensor) -> Tensor:
        return edit(i, SE.gate(module, x))

    for i, module in enumerate(attentions(model)):
        module.gate = partial(gate, i, module)
    try:
        yield model
    finally:
        for module in attentions(model):
            del module.gate


def class_share(s: Tensor, labels: Tensor) -> float:
    """Return the share of the gates' variance that lies between classes.

    For each channel the variance over pictures splits into the variance of the
    class means and the rest; both are summed over channels, then divided. 0: the
    gates are alike for every class. 1: they depend on the class alone.
    """
    means = torch.stack([s[labels == c].mean(0) for c in labels.unique()])
    spread = ((means[labels.unique(return_inverse=True)[1]] - s.mean(0)) ** 2).sum()
    return (spread / ((s - s.mean(0)) ** 2).sum()).item()


def examine(model: nn.Module, test: train.Pair) -> dict:
    """Return what the gates of a trained network do on the test set.

    `class_share` and `deviation` (the mean over channels of the standard
    deviation over pictures) for each SE module; the accuracy when every gate is
    replaced by its mean over all pictures, and when every picture is given the
    gates of another one: of the picture before it in its batch of 500.
    """
    images, labels = test
    s = gates(model, images)
    mean = [g.mean(0)[None, :, None, None] for g in s]
    with edited(model, lambda i, g: mean[i].to(g).expand_as(g)):
        frozen = train.accuracy(train.evaluate(model, test), labels)
    with edited(model, lambda i, g: g.roll(1, 0)):
        strange = train.accuracy(train.evaluate(model, test), labels)
    return {
        "class_share": [class_share(g, labels) for g in s],
        "deviation": [g.std(0).mean().item() for g in s],
        "mean_gate_accuracy": frozen,
        "other_gate_accuracy": strange,
    }


def used(arm: str) -> dict:
    """Return the settings that decide a run of the arm, whatever its seed."""
    both = SETTINGS | SETTINGS["arms"][arm]
    return {k: v for k, v in both.items() if k not in ("arms", "seeds")}


def finished(arm: str, seed: int, folder: Path) -> dict | None:
    """Return the record of a run that is done, or None.

    Raises:
        ValueError: if it was made with other settings.
    """
    done = folder / f"{arm}-{seed}.json"
    if not done.exists():
        return None
    record = json.loads(done.read_text())
    if record.get("settings") != used(arm):
        raise ValueError(
            f"{done} was made with {record.get('settings', 'settings unknown')}, "
            f"asked for {used(arm)}; delete it or give another --folder"
        )
    return record


def run(arm: str, seed: int, folder: Path, threads: int) -> dict:
    """Train one network, or read it where it has been trained; return its record."""
    record = finished(arm, seed, folder)
    if record is not None:
        return record
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model = build(arm)
    test = data.fashion_mnist("test", full=True)
    history = train.fit(
        model, data.fashion_mnist("train", full=True), test, seed=seed,
        checkpoint=folder / f"{arm}-{seed}.pt", progress=False,
        **{k: SETTINGS[k] for k in
           ("epochs", "batch_size", "lr", "weight_decay", "bfloat16")},
    )
    model.cpu()
    logits = train.evaluate(model, test)
    record = {
        "arm": arm, "seed": seed, "settings": used(arm),
        "parameters": sum(p.numel() for p in model.parameters()),
        "accuracy": train.accuracy(logits, test[1]),
        "class_accuracy": [train.accuracy(logits[test[1] == c], test[1][test[1] == c])
                           for c in range(10)],
        "history": history,
    }
    if SETTINGS["arms"][arm]["se"]:
        record |= examine(model, test)
    if seed == 0:
        torch.save(model.state_dict(), folder / f"{arm}-weights.pt")
    part = folder / f"{arm}-{seed}.part"
    part.write_text(json.dumps(record))
    os.replace(part, folder / f"{arm}-{seed}.json")
    (folder / f"{arm}-{seed}.pt").unlink(missing_ok=True)
    return record


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


def collect(records: list[dict], folder: Path, workers: int, threads: int) -> None:
    """Write se.json and se.safetensors from finished runs."""
    from safetensors.torch import save_file

    runs = [{k: v for k, v in r.items() if k != "settings"} for r in records]
    text = json.dumps({
        "command": "python -m cvattn.experiments.se",
        "settings": SETTINGS,
        "versions": versions(),
        "hardware": hardware() | {"workers": workers, "threads": threads},
        "runs": sorted(runs, key=lambda r: (r["arm"], r["seed"])),
    }, indent=1)
    weights = {
        f"{arm}.{name}": tensor.contiguous()
        for arm in SETTINGS["arms"]
        for name, tensor in
        torch.load(folder / f"{arm}-weights.pt", weights_only=True).items()
    }
    save_file(weights, RESULTS / "se.safetensors.part")
    os.replace(RESULTS / "se.safetensors.part", RESULTS / "se.safetensors")
    (RESULTS / "se.json.part").write_text(text + "\n")
    os.replace(RESULTS / "se.json.part", RESULTS / "se.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/se"),
                        help="where unfinished and finished runs are kept")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1,
                        help="runs at the same time (default: one for each core)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // options.workers)
    arms = SETTINGS["arms"]
    jobs = [(arm, seed) for seed in range(max(a["seeds"] for a in arms.values()))
            for arm in arms if arm != "deep" and seed < arms[arm]["seeds"]]
    jobs += [("deep", seed) for seed in range(arms["deep"]["seeds"])]
    for arm, seed in jobs:
        finished(arm, seed, options.folder)     # refuses other settings at once
    records = []
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        waiting = [pool.apply_async(run, (arm, seed, options.folder, threads))
                   for arm, seed in jobs]
        for job in waiting:
            records.append(job.get())
            r = records[-1]
            print(f"{len(records)}/{len(jobs)}  {r['arm']:6} seed {r['seed']}  "
                  f"test accuracy {r['accuracy']:.4f}", file=sys.stderr, flush=True)
    collect(records, options.folder, options.workers, threads)
    print(f"written: {RESULTS / 'se.json'}, {RESULTS / 'se.safetensors'}")


if __name__ == "__main__":
    main()
