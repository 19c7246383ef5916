"""What a gate costs: time of an SE block over time of the plain block.

    python -m cvattn.book.experiments.se_cost            # print the table
    python -m cvattn.book.experiments.se_cost --write    # and keep it as se_cost.json

Both blocks take turns within one run, so that whatever else the machine does
slows both. Each turn gives one ratio; the table shows the quartiles of the ratios.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from cvattn import cost
from cvattn.book.experiments.record import add_out, hardware, versions, writable
from cvattn.book.files import write
from cvattn.resnet import Block, project
from cvattn.se import SE

SHAPES = [(8, 256, 56, 56), (8, 512, 28, 28), (8, 1024, 14, 14), (8, 2048, 7, 7)]


def bottleneck(channels: int, attention) -> Block:
    return Block(channels, channels // 4, 1, bottleneck=True, shortcut=project,
                 attention=attention, place="standard", stride_in="3x3")


def quartiles(plain: nn.Module, other: nn.Module, x: Tensor,
              turns: int) -> dict[str, list[float]]:
    """Return those of other over plain: inference, and forward with backward."""
    out = {}
    for name, step in (("forward", cost.infer), ("both", cost.train)):
        steps = {"plain": partial(step, plain, [x]), "other": partial(step, other, [x])}
        for each in steps.values():
            each()      # so that libraries have what they keep
        times = cost.turns(steps, x.device, turns)
        out[name] = [round(q, 3)
                     for q in cost.quartiles(times["other"], times["plain"])]
    return out


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def ratios(shape: tuple[int, ...], turns: int) -> dict[str, list[float]]:
    """Return the quartiles of SE over plain."""
    x = torch.randn(shape, device=device())
    plain, se = (bottleneck(shape[1], a).to(x.device) for a in (None, SE))
    return quartiles(plain, se, x, turns)


def table(name: str, title: str, shapes: Sequence[tuple[int, ...]],
          ratios: Callable[[tuple[int, ...], int], dict]) -> None:
    """Measure and print each shape; with --write, keep the table."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--write", action="store_true")
    add_out(parser)
    options = parser.parse_args()
    if options.write:
        writable(options.out)
    torch.manual_seed(0)
    rows = []
    print(f"{title}: median [quartiles]")
    for shape in shapes:
        rows.append({"shape": shape, "ratio": ratios(shape, options.turns)})
        text = "   ".join(f"{name} {q[1]:.2f} [{q[0]:.2f}, {q[2]:.2f}]"
                          for name, q in rows[-1]["ratio"].items())
        print(f"{str(shape):20} {text}", flush=True)
    if options.write:
        write(options.out / f"{name}.json", json.dumps({
            "command": f"python -m cvattn.book.experiments.{name} --write",
            "turns": options.turns, "versions": versions(),
            "hardware": hardware(device()),
            "rows": rows,
        }, indent=1) + "\n")


def main() -> None:
    table("se_cost", "bottleneck of ResNet-50, SE over plain", SHAPES,
          ratios)


if __name__ == "__main__":
    main()
