"""Collect what the live figures of the CBAM chapter show from the trained network.

    python -m cvattn.book.experiments.cbam_figures --out cvattn/book/results

reads results/cbam.safetensors and the test pictures, and writes results/cbam_live.npz:
bytes that the page shows as they are, so that it is the same on every machine.
Run `python -m cvattn.book.live shoot` after it to take the figures' pictures anew.

Everything comes from the arm pool7, seed 0. Rules that choose what is shown, so that
nothing is picked by hand:

pictures    of each class in se_figures.SHOWN, the first test picture that the network
            classifies correctly
channels    of the last block: the SHOWN_CHANNELS channels whose own gate moves most
            (mean over those pictures) when their largest pixel rises by RISE
maps        of the block whose spatial gate differs most between the places of a picture
            (standard deviation over places of the gates less their mean over pictures,
            which is what the border makes; mean over all test pictures)
"""


import numpy as np
import torch
from torch import Tensor

from cvattn.book import data
from cvattn.book.experiments.cbam import trained
from cvattn.book.experiments.record import keep_arrays
from cvattn.book.experiments.se_figures import first_correct
from cvattn.cbam import ChannelAttention
from cvattn.resnet import ResNet

SHOWN_CHANNELS, RISE = 6, 2.0


def seen(net: ResNet, images: Tensor) -> dict[str, list[Tensor] | Tensor]:
    """Return what the network computes on the way, for uint8 (N, 28, 28).

    For each of the three blocks u, what enters its CBAM; maps, [mean; max], as its
    convolution reads them; own, its spatial gate. And features, what leaves the last.
    """
    found = {"u": [], "maps": [], "own": []}
    with torch.inference_mode():
        x = net.relu(net.bn1(net.conv1(data.to_float(images))))
        for layer in (net.layer1, net.layer2, net.layer3):
            cbam, u = layer[-1].attention, layer[-1].residual(x)
            F1 = cbam.channel(u)
            found["u"].append(u)
            found["maps"].append(torch.stack([F1.mean(1), F1.amax(1)], dim=1))
            found["own"].append(cbam.spatial.gate(F1)[:, 0])
            x = layer(x)
    return {**found, "features": x}


def answers(channel: ChannelAttention, u: Tensor) -> Tensor:
    """Return by how much each channel's own gate moves when its maximum rises."""
    moved = torch.zeros(u.shape[:2])
    with torch.inference_mode():
        gate = channel.gate(u)[:, :, 0, 0]
        top = u.flatten(2).argmax(2)
        for c in range(u.shape[1]):
            v = u.clone()
            v.flatten(2)[:, c].scatter_add_(
                1, top[:, c:c + 1], torch.full((len(v), 1), RISE))
            moved[:, c] = (channel.gate(v)[:, c, 0, 0] - gate[:, c]).abs()
    return moved.mean(0)


def widest(gates: list[Tensor]) -> int:
    """Return which of the gates, each (N, H, W), differ most over the places.

    Their mean over pictures is taken off: it holds what padding does at the border.
    """
    own = [(g - g.mean(0)).flatten(1) for g in gates]
    return int(torch.stack([g.std(1).mean() for g in own]).argmax())


def collect(net: ResNet, images: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    """Return the arrays of cbam_live.npz, by name."""
    parts = [seen(net, some) for some in images.split(250)]
    with torch.inference_mode():
        logits = net.fc(torch.cat([p["features"] for p in parts]).mean(dim=(2, 3)))
    most = widest([torch.cat([p["own"][i] for p in parts]) for i in range(3)])
    index = first_correct(logits, labels)
    found = seen(net, images[index])
    u, channel = found["u"][-1], net.layer3[-1].attention.channel
    channels = answers(channel, u).topk(SHOWN_CHANNELS).indices.sort().values
    spatial = (net.layer1, net.layer2, net.layer3)[most][-1].attention.spatial
    arrays = {
        "pictures": images[index],                              # (4, 28, 28) uint8
        "labels": labels[index].int(),
        "index": torch.tensor(index).int(),
        "channels": channels.int(),                             # (6)
        "u": u[:, channels],                                    # (4, 6, 7, 7)
        "mean": u.mean(dim=(2, 3)),                             # (4, 64)
        "max": u.amax(dim=(2, 3)),                              # (4, 64)
        "W0": channel.W0.weight.detach(),                       # (16, 64)
        "W1": channel.W1.weight.detach(),                       # (64, 16)
        "block": torch.tensor(most + 1).int(),
        "maps": found["maps"][most],                          # (4, 2, 28, 28)
        "kernel": spatial.f.weight.detach()[0],                 # (2, 7, 7)
        "features": found["features"],                          # (4, 64, 7, 7)
        "own": found["own"][-1],                                # (4, 7, 7)
        "fc_weight": net.fc.weight.detach(),                    # (10, 64)
        "fc_bias": net.fc.bias.detach(),
    }
    return {name: value.contiguous().numpy() for name, value in arrays.items()}


if __name__ == "__main__":
    keep_arrays("cbam_live", __doc__, lambda: collect(
        trained("pool7"), *data.fashion_mnist("test")))
