"""Does a heat map mark what a network needs? Take six cells away, and see.

    python -m cvattn.book.experiments.cbam_blanking

A picture of 28x28 is 7x7 cells of 4x4 pixels; the object is the cells that are not
empty, the heat Grad-CAM's of the true class. Of the networks of `cbam` that ship, on
the test pictures that ship, it notes the accuracy once six cells of each picture are
replaced by black or by a blur of the picture. Takes minutes, and writes
cbam_blanking.json to --out. The ways to choose the six:

hottest, coldest            by heat, of all 49
any                         by chance, of all 49
scattered                   by chance, of the object's
lump                        by chance, of the object's, each touching one before it
own hottest, own coldest    by heat, of the object's
apart hottest, apart        by heat, by chance, of the object's, no two touching

Chance is drawn DRAWS times. The pairs in PAIRS differ in one thing, but for `hottest`
and `scattered`, which differ in heat and in shape: with black, whose edges count, that
is the TRAP. Each is compared on the pictures in which both ways find six cells.
"""

import argparse
import json
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from cvattn.book import data, stats
from cvattn.book.experiments import cbam
from cvattn.book.experiments.record import (
    RESULTS,
    add_out,
    hardware,
    versions,
    writable,
)
from cvattn.book.files import write

CELLS, SIDE, DRAWS = 6, 4, 5
FILE = RESULTS / "cbam_blanking.json"
TRAP = ("hottest", "scattered", "black")
PAIRS = (TRAP, ("lump", "scattered", "black"), ("hottest", "lump", "black"),
         ("own hottest", "own coldest", "black"), ("apart hottest", "apart", "black"),
         ("hottest", "scattered", "blur"), ("hottest", "lump", "blur"))


def heat(model: torch.nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return Grad-CAM's heat of the true class, (N, 7, 7), up to a factor."""
    with torch.inference_mode():
        A = model.features(data.to_float(images))                # (N, C, 7, 7)
        return torch.einsum("nc, nchw -> nhw", model.fc.weight[labels], A).relu()


def objects(images: Tensor) -> Tensor:
    """Return which cells are not empty, (N, 7, 7): brighter than a tenth of white."""
    return F.avg_pool2d(images[:, None].float(), SIDE)[:, 0] > 0.1 * 255


def beside(cells: Tensor) -> Tensor:
    """Return the cells, (N, 7, 7), that share an edge with one of `cells`."""
    c = F.pad(cells, (1, 1, 1, 1))
    return c[:, 2:, 1:-1] | c[:, :-2, 1:-1] | c[:, 1:-1, 2:] | c[:, 1:-1, :-2]


def touching(cells: Tensor) -> Tensor:
    """Return how many pairs of `cells` share an edge, in each picture."""
    return ((cells[:, 1:] & cells[:, :-1]).sum((1, 2))
            + (cells[:, :, 1:] & cells[:, :, :-1]).sum((1, 2)))


def choose(score: Tensor, among: Tensor,
           narrow: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
    """Return the six cells of the highest score, one by one, (N, 7, 7).

    `narrow`: from (cells chosen, among) to those that may follow; None: all others.
    A picture in which no cell may follow is left with fewer.
    """
    chosen = torch.zeros_like(among)
    for i in range(CELLS):
        free = among & ~chosen
        if narrow is not None and i > 0:
            free = free & narrow(chosen, among)
        best = score.masked_fill(~free, -torch.inf).flatten(1).argmax(1)
        new = F.one_hot(best, free[0].numel()).bool().view_as(free)
        chosen |= new & free
    return chosen


def lump(chosen: Tensor, among: Tensor) -> Tensor:
    return beside(chosen)


def apart(chosen: Tensor, among: Tensor) -> Tensor:
    return ~beside(chosen)


def again(rng: torch.Generator, among: Tensor, narrow: Callable) -> Tensor:
    """Return `choose` by chance, drawn anew where the six could not be had."""
    chosen = torch.zeros_like(among)
    for _ in range(50):
        short = chosen.sum((1, 2)) < CELLS
        if not short.any():
            break
        score = torch.rand(among.shape, generator=rng)
        chosen[short] = choose(score[short], among[short], narrow)
    return chosen


def ways(h: Tensor, own: Tensor) -> dict[str, list[Tensor]]:
    """Return the cells of every way, a list of one or of DRAWS."""
    rng, every = torch.Generator().manual_seed(0), torch.ones_like(own)
    return {
        "hottest": [choose(h, every)],
        "coldest": [choose(-h, every)],
        "any": [choose(torch.rand(h.shape, generator=rng), every)
                for _ in range(DRAWS)],
        "scattered": [choose(torch.rand(h.shape, generator=rng), own)
                      for _ in range(DRAWS)],
        "lump": [again(rng, own, lump) for _ in range(DRAWS)],
        "own hottest": [choose(h, own)],
        "own coldest": [choose(-h, own)],
        "apart hottest": [choose(h, own, apart)],
        "apart": [again(rng, own, apart) for _ in range(DRAWS)],
    }


def complete(draws: list[Tensor]) -> Tensor:
    """Return in which pictures every draw found six cells, (N)."""
    return torch.stack([cells.sum((1, 2)) == CELLS for cells in draws]).all(0)


def filled(images: Tensor, cells: Tensor, fill: str) -> Tensor:
    """Return the pictures with black or their own blur in place of the cells."""
    there = cells[:, None].float()
    there = F.interpolate(there, scale_factor=float(SIDE))[:, 0].bool()
    if fill == "black":
        return images.masked_fill(there, 0)
    blur = images[:, None].float()
    for _ in range(2):
        blur = F.avg_pool2d(blur, 9, stride=1, padding=4)
    return torch.where(there, blur[:, 0].round().byte(), images)


def examine(model: torch.nn.Module, images: Tensor, labels: Tensor) -> dict:
    """Return what each way costs this network, and each pair's difference.

    ways: accuracy, touching pairs of cells, and how many pictures had six.
    pairs: mean difference of the accuracies, first less second, with its 95 %
    interval and p (Student's t over pictures), and how many pictures they share.
    """
    choices = ways(heat(model, images, labels), objects(images))
    right, found = {}, []
    used = [(way, fill) for *both, fill in PAIRS for way in both]
    for way, fill in dict.fromkeys([*used, ("coldest", "black"), ("any", "black")]):
        hits = []
        for cells in choices[way]:
            with torch.inference_mode():
                y = model(data.to_float(filled(images, cells, fill)))
            hits.append((y.argmax(1) == labels).double())
        right[way, fill] = torch.stack(hits).mean(0)             # (N,)
        six = complete(choices[way])
        found.append({
            "way": way, "fill": fill, "pictures": int(six.sum()),
            "accuracy": right[way, fill][six].mean().item(),
            "touching": touching(choices[way][0][six]).double().mean().item()})
    pairs = []
    for first, second, fill in PAIRS:
        six = complete(choices[first]) & complete(choices[second])
        d = (right[first, fill] - right[second, fill])[six].tolist()
        mean, low, high = stats.t_interval(d)
        pairs.append({"pair": [first, second, fill], "pictures": len(d), "mean": mean,
                      "low": low, "high": high, "p": stats.t_test(d)})
    return {"ways": found, "pairs": pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_out(parser)
    file = writable(parser.parse_args().out) / FILE.name
    images, labels = data.fashion_mnist("test")
    write(file, json.dumps({
        "command": "python -m cvattn.book.experiments.cbam_blanking",
        "settings": {"cells": CELLS, "side": SIDE, "draws": DRAWS},
        "versions": versions(), "hardware": hardware(torch.device("cpu")),
        "networks": {arm: examine(cbam.trained(arm), images, labels)
                     for arm in cbam.GRID.shipped},
    }, indent=1) + "\n")
    print("written:", file)


if __name__ == "__main__":
    main()
