"""What a model costs: parameters, multiplications, memory and time.

    python -m cvattn.cost resnet50 sknet50     # networks of this package, side by side

The conventions, so that a number can be compared with another's:

parameters  trainable numbers; a tensor that two layers share counts once.
stored      the numbers of the state dict that are not integers: parameters, frozen
            ones too, and buffers such as BatchNorm's running statistics.
MACs        multiplications that are added up, in convolutions, matrix products and
            softmax attention (its two products); zeros from padding and under a mask
            count. Not counted: pooling, activations, BatchNorm, biases, additions,
            gates times x, sampling, fused recurrent layers. Papers on vision call
            the MACs "FLOPs": a multiplication with its addition is one to them.
FLOPs       2 * MACs: the multiplication is one, the addition another.
peak        the most bytes alive at once, beyond the weights and the inputs: of a
            forward pass without gradient in eval mode, and of a forward and backward
            pass in training mode, whose gradients it includes. As torch's allocator
            counts it, so also what a kernel takes for itself and gives back.
kept        the bytes that a forward pass in training mode keeps for the backward
            pass, weights and buffers excluded; inputs that it needs are included.
seconds     the median of several runs; models that are compared take turns.
"""

import argparse
import copy
import itertools
import math
import os
import statistics
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd import profiler
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

aten = torch.ops.aten


@dataclass
class Cost:
    """The numbers of one model; None where nothing was measured. See the module."""

    parameters: int
    stored: int
    macs: int
    peak_forward: int | None = None
    peak_training: int | None = None
    kept: int | None = None
    seconds_forward: float | None = None
    seconds_training: float | None = None

    @property
    def flops(self) -> int:
        return 2 * self.macs


def count(model: nn.Module) -> tuple[int, int]:
    """Return the trainable numbers of a model, and the numbers that it stores."""
    stored = {id(t): t for t in model.state_dict(keep_vars=True).values()
              if isinstance(t, Tensor) and t.is_floating_point()}
    return (sum(p.numel() for p in model.parameters() if p.requires_grad),
            sum(t.numel() for t in stored.values()))


def attention_flops(q, k, v, *args, out_shape=None, **kwargs) -> int:
    return sdpa_flop_count(q, k, v)


def vector_flops(a, b, *args, out_shape=None, **kwargs) -> int:
    """Of a matrix, or a vector, times a vector."""
    return 2 * torch.Size(a).numel()


def added_vector_flops(c, a, b, *args, out_shape=None, **kwargs) -> int:
    return vector_flops(a, b)


# torch's counter gives these no operations. The first is what a CPU runs for
# scaled_dot_product_attention: before torch 2.15 a ViT-B/16 would cost 4 % too little.
MISSING = {
    aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    aten.mv: vector_flops,
    aten.dot: vector_flops,
    aten.addmv: added_vector_flops,
}


def macs(model: nn.Module, *inputs) -> int:
    """Return the MACs of a forward pass without gradient, in the model's own mode."""
    # In eval mode nn.MultiheadAttention and nn.TransformerEncoderLayer hide their
    # products in one fused operation, in which the counter sees nothing.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), FlopCounterMode(
            display=False, custom_mapping=MISSING
        ) as counter:
            model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() // 2


@contextmanager
def silence() -> Iterator[None]:
    """Within the block nothing reaches the screen from below Python."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def reset(model: nn.Module, inputs) -> None:
    model.zero_grad()
    for x in inputs:
        if isinstance(x, Tensor):
            x.grad = None


def infer(model: nn.Module, inputs) -> None:
    model.eval()
    with torch.no_grad():
        model(*inputs)


def train(model: nn.Module, inputs) -> None:
    """A training step without loss and optimizer."""
    model.train()
    reset(model, inputs)
    y = [t for t in tree_leaves(model(*inputs))
         if isinstance(t, Tensor) and t.requires_grad]
    if not y:
        raise ValueError(
            "nothing to train: no output of the model needs a gradient; give an input "
            "with requires_grad=True, or training=False"
        )
    torch.autograd.backward(y, [torch.ones_like(t) for t in y])


def peak(step: Callable, model: nn.Module, inputs, device: torch.device) -> int:
    """Return the most bytes alive in one step, beyond those alive before it."""
    reset(model, inputs)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step(model, inputs)
        return torch.cuda.max_memory_allocated(device) - before
    with silence(), profiler.profile(profile_memory=True) as profile:
        step(model, inputs)
    events = [e for e in profile.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda e: e.start_ns())
    return max(itertools.accumulate((e.nbytes() for e in events), initial=0))


def kept(model: nn.Module, inputs) -> int:
    """Return the bytes that a forward pass keeps for the backward pass."""
    own = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers()]}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = weakref.ref(storage)
        return storage      # not the tensor, whose history may lead back here

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda storage: storage):
        y = model(*inputs)      # held, and with it what is saved
    alive = [ref() for ref in saved.values() if ref() is not None]
    del y
    return sum(storage.nbytes() for storage in alive)


def seconds(step: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Return the time of one step, from a number of them in a row."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda device: None
    wait(device)
    start = time.perf_counter()
    for _ in range(times):
        step()
    wait(device)
    return (time.perf_counter() - start) / times


def turns(steps: dict[str, Callable[[], object]], device: torch.device, least: int, *,
          budget: float = 0, shortest: float = 0) -> dict[str, list[float]]:
    """Return the seconds of each step in each turn; the order changes every turn.

    There are at least `least` turns, and more until `budget` seconds are over. A step
    that takes less than `shortest` seconds is repeated within a turn.
    """
    times = {name: math.ceil(min(shortest / seconds(step, device), 100))
             if shortest else 1 for name, step in steps.items()}
    out: dict[str, list[float]] = {name: [] for name in steps}
    order, end = list(steps), time.monotonic() + budget
    for turn in itertools.count():
        if turn >= least and time.monotonic() >= end:
            return out
        for name in order:
            out[name].append(seconds(steps[name], device, times[name]))
        order.reverse()
        if turn % 2:        # so that all begin, and no two always follow each other
            order = order[2:] + order[:2]


def medians(step: Callable, models: dict[str, nn.Module], inputs,
            device: torch.device, repeats: int) -> dict[str, float]:
    """Return the median seconds of each model, which take turns."""
    steps = {name: partial(step, model, inputs) for name, model in models.items()}
    return {name: statistics.median(seen)
            for name, seen in turns(steps, device, repeats).items() if seen}


def quartiles(above: list[float], below: list[float]) -> list[float]:
    """Return the quartiles of the ratios, turn by turn."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return statistics.quantiles(ratios, n=4, method="inclusive")


def where(models: dict[str, nn.Module], inputs) -> torch.device:
    """Return the one device of models and inputs."""
    tensors = [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]
    for model in models.values():
        tensors += [*model.parameters(), *model.buffers()]
    devices = sorted({str(t.device) for t in tensors})
    if len(devices) != 1:
        raise ValueError("models and inputs must be on one device, got "
                         f"{', '.join(devices) or 'no tensor'}")
    device = torch.device(devices[0])
    if device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"device must be cpu, cuda or meta, got {device}")
    return device


def compare(models: dict[str, nn.Module], *inputs, repeats: int = 5,
            training: bool = True) -> dict[str, Cost]:
    """Return the cost of each model, all called with the same inputs.

    Models and inputs are copied first: yours keep their mode, values and gradients.
    On the meta device there are only counts. An input with requires_grad=True gets
    its gradient, as in the middle of a network.

    Args:
        models: name -> model.
        inputs: what each model is called with, usually one batch.
        repeats: runs to take the median time of; 0 for no time.
        training: measure the forward and backward pass too.

    Raises:
        ValueError: no model, a negative repeats, models and inputs not all on one
            device (cpu, cuda or meta), or nothing to train. What a model raises
            passes through.

    >>> costs = compare({"a layer": nn.Linear(3, 5)}, torch.ones(2, 3), repeats=0)
    >>> costs["a layer"].parameters, costs["a layer"].macs
    (20, 30)
    """
    if not models:
        raise ValueError("models must have at least one model, got none")
    if repeats < 0:
        raise ValueError(f"repeats must be 0 or more, got repeats={repeats}")
    device = where(models, inputs)
    models = {name: copy.deepcopy(model) for name, model in models.items()}
    memory = {}     # with it, inputs that share memory still share it
    inputs = [copy.deepcopy(x.detach(), memory).requires_grad_(x.requires_grad)
              if isinstance(x, Tensor) else x for x in inputs]
    steps = {"forward": infer, "training": train} if training else {"forward": infer}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        costs = {name: Cost(*count(model), macs(model.eval(), *inputs))
                 for name, model in models.items()}
        if device.type == "meta":
            return costs
        for key, step in steps.items():
            for name, model in models.items():
                step(model, inputs)     # so that libraries have what they keep
                setattr(costs[name], f"peak_{key}", peak(step, model, inputs, device))
            for name, median in medians(step, models, inputs, device, repeats).items():
                setattr(costs[name], f"seconds_{key}", median)
        if training:
            for name, model in models.items():
                costs[name].kept = kept(model, inputs)
    return costs


def measure(model: nn.Module, *inputs, repeats: int = 5, training: bool = True) -> Cost:
    """Return the cost of one model; arguments and errors as in `compare`."""
    return compare({"": model}, *inputs, repeats=repeats, training=training)[""]


def short(number: float | None, unit: str) -> str:
    """Return a number to four digits with k, M or G before its unit.

    >>> short(4_089_184_256, ""), short(12, "B"), short(None, "B")
    ('4.089 G', '12 B', '-')
    """
    if number is None:
        return "-"
    power = next((p for p in (9, 6, 3) if number >= 10**p), 0)
    prefix = {9: "G", 6: "M", 3: "k", 0: ""}[power]
    return f"{number / 10**power:.4g} {prefix}{unit}".strip()


def table(models: dict[str, nn.Module], *inputs, repeats: int = 5,
          training: bool = True) -> str:
    """Return the costs as lines of text; arguments and errors as in `compare`."""
    rows = [["", "parameters", "MACs", "peak", "peak, train", "kept", "ms",
             "ms, train"]]
    costs = compare(models, *inputs, repeats=repeats, training=training)
    for name, c in costs.items():
        times = ["-" if s is None else f"{s * 1e3:.2f}"
                 for s in (c.seconds_forward, c.seconds_training)]
        memory = [short(n, "B") for n in (c.peak_forward, c.peak_training, c.kept)]
        rows.append([name, f"{c.parameters:,}", short(c.macs, ""), *memory, *times])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w)
                  for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows)


def main() -> None:
    import cvattn

    parser = argparse.ArgumentParser(prog="python -m cvattn.cost",
                                     description=__doc__.splitlines()[0])
    known = [n for n in cvattn.__all__ if n.startswith(("res", "sknet", "vit_"))]
    parser.add_argument("network", nargs="+", help=", ".join(known) + "; the forward "
                        "pass on one picture of 224x224 is measured here and now")
    names = parser.parse_args().network
    unknown = [n for n in names if n not in known]
    if unknown:
        parser.error(f"no network {', '.join(unknown)}; there are {', '.join(known)}")
    models = {name: getattr(cvattn, name)() for name in names}
    print(table(models, torch.randn(1, 3, 224, 224), training=False))


if __name__ == "__main__":
    main()
