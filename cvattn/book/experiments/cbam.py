"""Which of CBAM's choices help? The ablations of its Tables 1 to 3, at our scale.

    python -m cvattn.book.experiments.cbam

Trains cifar_resnet, depth 8, on the full Fashion-MNIST, with CBAM or a variant of it in
every block (see `grid` for how to stop and go on). The settings are those of the SE
experiment, but for half of its epochs. The arms:

plain                           no attention
mean, max, both                 channel gate alone, from means, as SE; from maxima;
                                from means and maxima
conv3, conv7, pool3, pool7      both gates; the spatial one from a learned 1x1
                                convolution or from [mean; max], kernel 3 or 7.
                                pool7 is CBAM
spatial_first, parallel         the two other orders
official                        the official code's form: biases, [max; mean], and a
                                BatchNorm whose scale starts at 0
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvattn.book import data, train
from cvattn.book.experiments.cbam_variants import CBAMVariant
from cvattn.book.experiments.cbam_variants import SpatialVariant as SpatialVariant
from cvattn.book.experiments.grid import Grid
from cvattn.cbam import SpatialAttention
from cvattn.resnet import cifar_resnet

SETTINGS = {
    "epochs": 3, "batch_size": 128, "lr": 0.1, "weight_decay": 5e-4,
    "bfloat16": True, "depth": 8, "width": 16, "reduction": 4,
    "arms": {
        "plain": {"cbam": None, "seeds": 5},
        "mean": {"cbam": {"order": "channel", "channel_pool": ["mean"]}, "seeds": 5},
        "pool7": {"cbam": {}, "seeds": 5},
        "max": {"cbam": {"order": "channel", "channel_pool": ["max"]}, "seeds": 5},
        "both": {"cbam": {"order": "channel"}, "seeds": 5},
        "pool3": {"cbam": {"kernel_size": 3}, "seeds": 5},
        "conv7": {"cbam": {"spatial_pool": "conv"}, "seeds": 5},
        "conv3": {"cbam": {"spatial_pool": "conv", "kernel_size": 3}, "seeds": 5},
        "spatial_first": {"cbam": {"order": "spatial-channel"}, "seeds": 5},
        "parallel": {"cbam": {"order": "parallel"}, "seeds": 5},
        "official": {"cbam": {"bias": True, "norm": True,
                              "spatial_pool": ["max", "mean"]}, "seeds": 5},
    },
}


def build(settings: dict) -> nn.Module:
    """Return the untrained network of an arm."""
    attention = None
    if settings["cbam"] is not None:
        attention = partial(CBAMVariant, reduction=settings["reduction"],
                            **settings["cbam"])
    return cifar_resnet(attention, depth=settings["depth"], width=settings["width"],
                        in_channels=1)


def spatial_gates(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the gates of every spatial half, each (N, H, W), for uint8 images."""
    halves = [m for m in model.modules() if isinstance(m, SpatialAttention)]
    seen: list[list[Tensor]] = [[] for _ in halves]

    def keep(rows: list[Tensor], half: SpatialAttention, x: Tensor) -> Tensor:
        gate = type(half).gate(half, x)
        rows.append(gate[:, 0].float().cpu())
        return gate

    # No hook: the parallel order calls `gate` alone, and a hook would see no call.
    for half, rows in zip(halves, seen, strict=True):
        half.gate = partial(keep, rows, half)
    try:
        train.evaluate(model, (images, torch.zeros(len(images))))
    finally:
        for half in halves:
            del half.gate
    return [torch.cat(rows) for rows in seen]


def on_object(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of Grad-CAM's heat that lies on the object, mean over pictures.

    The model is in eval mode. The heat is that of the true class on the last map, up to
    a factor: behind the map stand a mean and a linear layer. The object is where the
    mean of the pixels below a cell is more than a tenth of white. A picture without any
    heat counts as 0.
    """
    shares = []
    with torch.inference_mode():
        for x, k in zip(images.split(500), labels.split(500), strict=True):
            A = model.features(data.to_float(x))                     # (B, C, H, W)
            heat = torch.einsum("bc, bchw -> bhw", model.fc.weight[k], A).relu()
            cell = x.shape[-1] // A.shape[-1]
            bright = F.avg_pool2d(x.float()[:, None], cell)[:, 0] > 0.1 * 255
            own, whole = (heat * bright).sum((1, 2)), heat.sum((1, 2))
            shares.append(own / whole.clamp_min(1e-9))
    return torch.cat(shares).mean().item()


def examine(model: nn.Module, test: train.Pair, settings: dict) -> dict:
    """Return what a trained network and its spatial gates do on the test set.

    For each spatial half, `place_deviation`: the standard deviation over the places
    of a picture, its mean over pictures; `place_mean`: the mean gate. Of all arms,
    `heat_on_object`, see `on_object`.
    """
    gates = spatial_gates(model, test[0])
    return {
        "heat_on_object": on_object(model, *test),
        "place_deviation": [g.flatten(1).std(1).mean().item() for g in gates],
        "place_mean": [g.mean().item() for g in gates],
    }


GRID = Grid("cbam", SETTINGS, build, examine, shipped=("plain", "mean", "pool7"))
results, trained = GRID.results, GRID.trained

if __name__ == "__main__":
    GRID.main(__doc__)
