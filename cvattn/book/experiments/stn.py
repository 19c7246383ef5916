"""Does a spatial transformer undo what was done to a picture?

    python -m cvattn.book.experiments.stn

The comparison of the paper's Table 1 and of its cluttered pictures, with Fashion-MNIST
in place of MNIST (see `grid` for how to stop and go on). Every picture is distorted in
one of five ways (`distort`), and four small networks learn each of them:

fcn       fully connected, two hidden layers
cnn       two convolutions with pooling, one hidden layer
st_fcn    an affine spatial transformer before `fcn`
st_cnn    an affine spatial transformer before `cnn`

Training mirrors the distorted pictures and moves them by up to 2 pixels (`train.fit`).
The networks without a transformer have wider hidden layers instead, so that both of a
pair have as many parameters. Arms are named <distortion>-<network>.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvattn.book import data, train
from cvattn.book.experiments import bam
from cvattn.book.experiments.grid import Grid, fashion_mnist
from cvattn.stn import (
    SpatialTransformer,
    affine_grid,
    controls,
    projective_grid,
    spline_grid,
    spline_inverse,
)

CANVAS = bam.CANVAS
KINDS = ("R", "RTS", "P", "E", "clutter")
WATCHED = 8

SETTINGS = {
    "epochs": 12, "batch_size": 128, "lr": 3e-3, "weight_decay": 0.01,
    "bfloat16": False, "optimizer": "adamw", "pictures": 15000,
    "arms": {
        f"{kind}-{net}": {"kind": kind, "net": net, "seeds": 5}
        for kind in KINDS for net in ("fcn", "cnn", "st_fcn", "st_cnn")
    },
}
HIDDEN = {"fcn": 80, "cnn": 82, "st_fcn": 64, "st_cnn": 64}


def localiser() -> nn.Module:
    """From a picture to 32 numbers, by its mean over squares of 2 x 2."""
    side = CANVAS // 2
    return nn.Sequential(
        nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(side**2, 64), nn.BatchNorm1d(64), nn.ReLU(),
        nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU())


def build(settings: dict) -> nn.Module:
    """Return the untrained network of an arm.

    Raises:
        ValueError: if there is no such `net`.
    """
    if (net := settings["net"]) not in HIDDEN:
        raise ValueError(f"net must be one of {', '.join(HIDDEN)}, got {net!r}")
    n, kind = HIDDEN[net], net.removeprefix("st_")
    if kind == "fcn":
        body = [nn.Flatten(), nn.Linear(CANVAS**2, n), nn.BatchNorm1d(n), nn.ReLU(),
                nn.Linear(n, n), nn.BatchNorm1d(n), nn.ReLU()]
    else:
        side = CANVAS // 4
        body = [nn.Conv2d(1, 8, 5, padding=2), nn.BatchNorm2d(8), nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(8, 16, 5, padding=2), nn.BatchNorm2d(16), nn.ReLU(),
                nn.MaxPool2d(2), nn.Flatten(),
                nn.Linear(16 * side**2, n), nn.BatchNorm1d(n), nn.ReLU()]
    body.append(nn.Linear(n, 10))
    if net.startswith("st_"):
        body.insert(0, SpatialTransformer(localiser(), features=32))
    return nn.Sequential(*body)


def distort(images: Tensor, labels: Tensor, kind: str,
            seed: int) -> tuple[Tensor, Tensor | None]:
    """Distort every picture at random, in one of KINDS; return what undoing needs, too.

    R         rotated by up to 90 degrees either way
    RTS       rotated by up to 45 degrees, 0.7 to 1.2 times as large, moved by up to 4
              pixels in each direction
    P         0.75 to 1 times as large, in perspective: its plane is tilted about both
              axes by random amounts
    E         elastic: a thin plate spline moves 4 x 4 points, each by up to 0.2 (3.6
              pixels) in each direction
    clutter   `bam.clutter`: 20 pixels wide, at a random place among fragments

    Shape: (N, 28, 28) uint8, labels (N,) -> (N, CANVAS, CANVAS) uint8, and the truth:
    the map (N, 2, 3) that was sampled (R, RTS), the object's pixels (N, CANVAS,
    CANVAS) bool (clutter), or None. The object stands in the middle of the
    canvas first, then is sampled with `F.grid_sample`.

    Raises:
        ValueError: if there is no such kind, if the pictures are not 28 x 28, or if the
            labels for clutter are all alike.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if images.shape[1:] != (28, 28):
        raise ValueError(f"images must be (N, 28, 28), got {tuple(images.shape)}")
    if kind == "clutter":
        canvas, thing, _ = bam.clutter(images, labels, seed)
        return canvas, thing
    generator = torch.Generator().manual_seed(seed)
    n, size, truth = len(images), (CANVAS, CANVAS), None

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    if kind == "E":
        moves = uniform(-0.2, 0.2, 16, 2)
        points = controls(4, moves) + moves                      # (N, 16, 2)
        grid = spline_grid(points, spline_inverse(4), size, False)
    elif kind == "P":
        A = torch.eye(3).repeat(n, 1, 1)                         # (N, 3, 3)
        A[:, :2, :2] /= uniform(0.75, 1)[:, None, None]
        A[:, 2, :2] = uniform(-0.4, 0.4, 2)
        grid = projective_grid(A, size, False)
    else:
        most = math.pi / 2 if kind == "R" else math.pi / 4
        angle = uniform(-most, most)
        cos, sin = angle.cos(), angle.sin()
        back = torch.stack([cos, -sin, sin, cos], 1).view(n, 2, 2)
        move = torch.zeros(n, 2)
        if kind == "RTS":
            back = back / uniform(0.7, 1.2)[:, None, None]
            move = uniform(-8 / CANVAS, 8 / CANVAS, 2)           # 2 is the whole canvas
        # The grid says where each pixel comes from: the inverse of what is done.
        truth = torch.cat([back, -back @ move[:, :, None]], 2)   # (N, 2, 3)
        grid = affine_grid(truth, size)
    x = F.pad(images[:, None].float(), [(CANVAS - 28) // 2] * 4)
    moved = [F.grid_sample(a, b, align_corners=False)
             for a, b in zip(x.split(1000), grid.split(1000), strict=True)]
    return torch.cat(moved)[:, 0].round().clamp(0, 255).byte(), truth


def pictures(split: str, settings: dict) -> train.Pair:
    """Return the set as an arm sees it; the same at every call."""
    images, labels = fashion_mnist(split)
    if split == "train":
        images, labels = (t[:settings["pictures"]] for t in (images, labels))
    seed = ("train", "test").index(split)
    return distort(images, labels, settings["kind"], seed)[0], labels


def transformer(model: nn.Module) -> SpatialTransformer | None:
    """Return the network's spatial transformer, if it has one."""
    return model[0] if isinstance(model[0], SpatialTransformer) else None


def thetas(model: nn.Module, images: Tensor) -> Tensor:
    """Return the affine maps (N, 2, 3) that the network chooses, for uint8 images."""
    at = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        found = torch.cat([model[0].theta(data.to_float(x).to(at)).cpu()
                           for x in images.split(500)])
    model.train(was_training)
    return found


def watch(model: nn.Module, settings: dict) -> dict:
    """Return `theta` of the first WATCHED test pictures, to 4 decimals.

    Nothing without a transformer.
    """
    if transformer(model) is None:
        return {}
    images, labels = fashion_mnist("test")
    seen = distort(images, labels, settings["kind"], 1)[0][:WATCHED]
    return {"theta": thetas(model, seen).double().round(decimals=4).tolist()}


def motions(theta: Tensor) -> dict[str, Tensor]:
    """Return what maps (N, 2, 3) do: angle in radians, log of size, across, down.

    The angle is that of the nearest rotation, the size the root of the determinant,
    without its sign (a mirror is not seen) and 1e-6 at least; across and down are where
    the middle of the result is read.
    """
    A = theta[:, :, :2]
    return {
        "angle": torch.atan2(A[:, 1, 0] - A[:, 0, 1], A[:, 0, 0] + A[:, 1, 1]),
        "size": A.det().abs().clamp_min(1e-6).log() / 2,
        "across": theta[:, 0, 2], "down": theta[:, 1, 2],
    }


def undoing(truth: Tensor) -> Tensor:
    """Return the maps (N, 2, 3) that a transformer chooses to undo these (N, 2, 3)."""
    last = torch.tensor([0.0, 0, 1]).expand(len(truth), 1, 3)
    return torch.cat([truth, last], 1).inverse()[:, :2]


def share(pictures: Tensor, thing: Tensor, theta: Tensor) -> float:
    """Return the share of the sampled pictures' ink that is the object's.

    Pictures and the object's pixels are (N, CANVAS, CANVAS), theta (N, 2, 3).
    """
    grid = affine_grid(theta, (CANVAS, CANVAS))
    both = torch.stack([pictures, pictures * thing], 1).float()      # (N, 2, H, W)
    whole, own = F.grid_sample(both, grid, align_corners=False).sum((2, 3)).T
    return (own / whole.clamp_min(1)).mean().item()


def examine(model: nn.Module, test: train.Pair, settings: dict) -> dict:
    """Return what a transformer undoes: of R, RTS and clutter, else nothing.

    undone: for each of `motions` that the distortion varies, [slope, correlation] of
        what the network chooses against what would undo the distortion: [1, 1] if it
        undoes all of it, [0, ...] if it heeds none, [0, 0] if it never moves.
    ink: shares of the object in the picture, before the transformer and after it.
    """
    kind = settings["kind"]
    if transformer(model) is None or kind in ("P", "E"):
        return {}
    truth = distort(*fashion_mnist("test"), kind, 1)[1]
    theta = thetas(model, test[0])
    if kind == "clutter":
        still = torch.eye(2, 3).repeat(len(theta), 1, 1)
        return {"ink": [share(test[0], truth, t) for t in (still, theta)]}
    names = ("angle",) if kind == "R" else ("angle", "size", "across", "down")
    wanted, chosen = motions(undoing(truth)), motions(theta)
    found = {}
    for name in names:
        pair = torch.stack([wanted[name], chosen[name]])
        cov = pair.cov()
        correlation = pair.corrcoef()[0, 1].nan_to_num(0)
        found[name] = [(cov[0, 1] / cov[0, 0]).item(), correlation.item()]
    return {"undone": found}


GRID = Grid("stn", SETTINGS, build, examine, pictures, watch=watch,
            shipped=("RTS-st_cnn",))
results, trained = GRID.results, GRID.trained

if __name__ == "__main__":
    GRID.main(__doc__)
