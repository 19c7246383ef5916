"""What choosing costs: time of SK over time of the grouped 3x3 that it replaces.

    python -m cvattn.experiments.sk_cost            # print the table
    python -m cvattn.experiments.sk_cost --write    # and keep it as sk_cost.json

Both take turns within one run, as in `se_cost`: each turn gives one ratio, and the
table shows the quartiles of the ratios. The shapes are those of SKNet-50.
"""

import argparse
import json
import os

import torch
from torch import nn

from cvattn.experiments.grid import RESULTS, hardware, versions
from cvattn.experiments.se_cost import both, forward, seconds
from cvattn.sk import SK

SHAPES = [(8, 128, 56, 56), (8, 256, 28, 28), (8, 512, 14, 14), (8, 1024, 7, 7)]


def plain(channels: int) -> nn.Module:
    """The 3x3 of ResNeXt-50 (32x4d), its BatchNorm and its ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=32, bias=False),
        nn.BatchNorm2d(channels), nn.ReLU(inplace=True),
    )


def ratios(shape: tuple[int, ...], turns: int) -> dict[str, list[float]]:
    """Return the quartiles of SK over plain: inference, and forward with backward."""
    at = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(shape, device=at)
    one, sk = plain(shape[1]).to(at), SK(shape[1]).to(at)
    out = {}
    for name, step in (("forward", forward), ("both", both)):
        step(one, x), step(sk, x)
        seen = []
        for turn in range(turns):
            if turn % 2:
                below, above = seconds(step, one, x), seconds(step, sk, x)
            else:
                above, below = seconds(step, sk, x), seconds(step, one, x)
            seen.append(above / below)
        quartiles = torch.tensor(seen).quantile(torch.tensor([0.25, 0.5, 0.75]))
        out[name] = [round(q, 3) for q in quartiles.tolist()]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    print("SK over the grouped 3x3: median [quartiles]")
    for shape in SHAPES:
        rows.append({"shape": shape, "ratio": ratios(shape, options.turns)})
        text = "   ".join(f"{name} {q[1]:.2f} [{q[0]:.2f}, {q[2]:.2f}]"
                          for name, q in rows[-1]["ratio"].items())
        print(f"{str(shape):20} {text}", flush=True)
    if options.write:
        part = RESULTS / "sk_cost.json.part"
        part.write_text(json.dumps({
            "command": "python -m cvattn.experiments.sk_cost --write",
            "turns": options.turns, "versions": versions(), "hardware": hardware(),
            "rows": rows,
        }, indent=1) + "\n")
        os.replace(part, RESULTS / "sk_cost.json")


if __name__ == "__main__":
    main()
