"""Collect what the live figures of the SE chapter show from the trained SE network.

    python -m cvattn.book.experiments.se_figures --out cvattn/book/results

reads results/se.safetensors and the test pictures, and writes results/se_live.npz:
bytes that the page shows as they are, so that it is the same on every machine.
Run `python -m cvattn.book.live shoot` after it to take the figures' pictures anew.

Rules that choose what is shown, so that nothing is picked by hand:

pictures            of each class in SHOWN, the first test picture that the network
                    classifies correctly
squeeze_channels    the SQUEEZED channels of stage 2's last block whose mean z
                    differs most (standard deviation) between those pictures
"""


import numpy as np
import torch
from torch import Tensor, nn

from cvattn.book import data
from cvattn.book.experiments.record import keep_arrays
from cvattn.book.experiments.se import trained
from cvattn.resnet import ResNet

SHOWN = ("Shirt", "Sneaker", "Bag", "Coat")
SQUEEZED = 6


class Recorder(nn.Module):
    """Stand in for a block and note what its SE sees: shortcut, u and the gates s."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block, self.seen = block, {"shortcut": [], "u": [], "s": []}

    def forward(self, x: Tensor) -> Tensor:
        shortcut, u = self.block.shortcut(x), self.block.residual(x)
        s = self.block.attention.gate(u)
        for name, value in (("shortcut", shortcut), ("u", u), ("s", s)):
            self.seen[name].append(value)
        return torch.relu(shortcut + s * u)


def record(net: ResNet, stage: int, images: Tensor) -> tuple[dict, Tensor]:
    """Return what the stage's last SE saw, and the logits, for uint8 (N, 28, 28)."""
    blocks = getattr(net, f"layer{stage}")
    block, blocks[-1] = blocks[-1], Recorder(blocks[-1])
    try:
        with torch.inference_mode():
            logits = torch.cat([net(data.to_float(x)) for x in images.split(500)])
    finally:
        recorder, blocks[-1] = blocks[-1], block
    return {name: torch.cat(v) for name, v in recorder.seen.items()}, logits


def first_correct(logits: Tensor, labels: Tensor) -> list[int]:
    """Return, for each class in SHOWN, the first picture that is classified right."""
    right = logits.argmax(1) == labels
    return [int((right & (labels == data.CLASSES.index(name))).nonzero()[0])
            for name in SHOWN]


def spread_most(z: Tensor) -> Tensor:
    """Return the SQUEEZED columns of z (pictures, C) with the largest deviation."""
    return z.std(dim=0).topk(SQUEEZED).indices.sort().values


def collect(net: ResNet, images: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    """Return the arrays of se_live.npz, by name."""
    last, logits = record(net, 3, images)
    index = first_correct(logits, labels)
    stage2, _ = record(net, 2, images[index])
    channels = spread_most(stage2["u"].mean(dim=(2, 3)))
    gates = last["s"].flatten(1)
    arrays = {
        "pictures": images[index],                              # (4, 28, 28) uint8
        "labels": labels[index].int(),
        "index": torch.tensor(index).int(),
        "squeeze_channels": channels.int(),
        "squeeze_u": stage2["u"][:, channels],                  # (4, 6, 14, 14)
        "shortcut": last["shortcut"][index],                    # (4, 64, 7, 7)
        "u": last["u"][index],                                  # (4, 64, 7, 7)
        "gates": gates[index],                                  # (4, 64)
        "class_gates": torch.stack(
            [gates[labels == k].mean(dim=0) for k in range(len(data.CLASSES))]),
        "fc_weight": net.fc.weight.detach(),                    # (10, 64)
        "fc_bias": net.fc.bias.detach(),
    }
    return {name: value.contiguous().numpy() for name, value in arrays.items()}


if __name__ == "__main__":
    keep_arrays("se_live", __doc__, lambda: collect(
        trained("se"), *data.fashion_mnist("test")))
