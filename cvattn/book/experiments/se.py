"""Does a Squeeze-and-Excitation gate help, and do late gates know the class?

    python -m cvattn.book.experiments.se

Trains four arms on the full Fashion-MNIST, each with several seeds (see `grid` for
how to stop and go on):

plain   cifar_resnet, depth 8
se      the same with SE in every block
wide    the plain network with more channels, to the parameter count of `se`
deep    SE at depth 20, for the gates only
"""

from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from cvattn.book import train
from cvattn.book.experiments.grid import RESULTS as RESULTS
from cvattn.book.experiments.grid import Grid
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


def build(settings: dict) -> nn.Module:
    """Return the untrained network of an arm."""
    attention = None
    if settings["se"]:
        attention = partial(SE, reduction=settings["reduction"])
    return cifar_resnet(attention, depth=settings["depth"], width=settings["width"],
                        in_channels=1)


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


def examine(model: nn.Module, test: train.Pair, settings: dict) -> dict:
    """Return what the gates of a trained network do on the test set, if it has any.

    `class_share` and `deviation` (the mean over channels of the standard
    deviation over pictures) for each SE module; the accuracy when every gate is
    replaced by its mean over all pictures, and when every picture is given the
    gates of another one: of the picture before it in its batch of 500.
    """
    if not settings["se"]:
        return {}
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


GRID = Grid("se", SETTINGS, build, examine, last=("deep",))
results, trained = GRID.results, GRID.trained

if __name__ == "__main__":
    GRID.main(__doc__)
