"""What attention costs against the length: the explicit form and the fused kernel.

    python -m cvattn.book.experiments.transformer_cost

Measures one attention, 8 heads of 64, one sequence, at each of LENGTHS, on one thread:
memory and time of a forward and of a forward and backward pass, as `cvattn.cost` counts
and times them. Writes transformer_cost.json to --out.
"""

import argparse
import dataclasses
import json

import torch
from torch import Tensor, nn

from cvattn import cost
from cvattn.book.experiments.record import add_out, hardware, versions, writable
from cvattn.book.files import write
from cvattn.multihead import attention, weights

LENGTHS = (256, 512, 1024, 2048, 4096)
HEADS, WIDTH = 8, 64


class Explicit(nn.Module):
    """The weights are made, kept and applied."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return weights(q, k) @ v


class Fused(nn.Module):
    """The weights are never stored."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v)


def measured(lengths: tuple[int, ...], repeats: int) -> list[dict]:
    """Return one row for each length: {"length": N, form: its cost}."""
    rows = []
    for n in lengths:
        generator = torch.Generator().manual_seed(0)
        qkv = [torch.randn(1, HEADS, n, WIDTH, generator=generator).requires_grad_()
               for _ in range(3)]
        found = cost.compare({"explicit": Explicit(), "fused": Fused()}, *qkv,
                             repeats=repeats)
        rows.append({"length": n} | {
            form: dataclasses.asdict(c) for form, c in found.items()})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_out(parser)
    file = writable(parser.parse_args().out) / "transformer_cost.json"
    torch.set_num_threads(1)
    record = {
        "command": "python -m cvattn.book.experiments.transformer_cost",
        "heads": HEADS, "width": WIDTH, "versions": versions(),
        "hardware": hardware(torch.device("cpu")) | {"threads": 1},
        "rows": measured(LENGTHS, 7),
    }
    write(file, json.dumps(record, indent=1) + "\n")
    print("written:", file)


if __name__ == "__main__":
    main()
