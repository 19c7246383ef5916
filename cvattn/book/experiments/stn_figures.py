"""Collect what the live figures of the STN chapter need of a trained network.

    python -m cvattn.book.experiments.stn_figures --out cvattn/book/results

reads results/stn.safetensors and the test pictures, and writes results/stn_live.npz.
Run `python -m cvattn.book.live shoot warp upright` after it to take the figures'
pictures anew.

Kept are the pictures and, of the transformer of ARM, the localiser and the regressor
as linear layers, each BatchNorm folded into the layer before it, as eval mode allows.
A rule chooses the pictures: of each class in `se_figures.SHOWN`, the first one of the
test set.
"""

from torch import Tensor, nn

from cvattn.book import data
from cvattn.book.experiments.record import keep_arrays
from cvattn.book.experiments.se_figures import SHOWN
from cvattn.book.experiments.stn import trained
from cvattn.stn import SpatialTransformer
from cvattn.warps import Affine

ARM = "RTS-st_cnn"


def folded(transformer: SpatialTransformer) -> list[tuple[Tensor, Tensor]]:
    """Return weight and bias of each linear layer, with what follows it folded in.

    Raises:
        ValueError: if the transform is not affine, or the localiser not a mean over
            squares of 2 x 2 and then linear layers, each with a bias, a BatchNorm that
            has learned and a ReLU.
    """
    parts = [*transformer.localise.children()]
    pool, rest = parts[:1], parts[2:]
    if (type(transformer.transform) is not Affine
            or [type(m) for m in parts[:2]] != [nn.AvgPool2d, nn.Flatten]
            or (pool[0].kernel_size, pool[0].stride) != (2, 2)
            or not rest or len(rest) % 3
            or [type(m) for m in rest]
            != [nn.Linear, nn.BatchNorm1d, nn.ReLU] * (len(rest) // 3)
            or any(m.bias is None for m in rest if not isinstance(m, nn.ReLU))):
        kind = type(transformer.transform).__name__.lower()
        raise ValueError(f"cannot fold the {kind} transformer with the localiser "
                         f"{transformer.localise}")
    layers = []
    for linear, norm, _ in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        bias = (linear.bias.double() - norm.running_mean) * scale + norm.bias
        layers.append((linear.weight * scale[:, None], bias))
    last = transformer.regressor
    return [(w.detach().float(), b.detach().float())
            for w, b in [*layers, (last.weight, last.bias)]]


def collect(model: nn.Module, images: Tensor, labels: Tensor) -> dict:
    """Return the arrays of stn_live.npz, by name; layer k is `weight<k>`, `bias<k>`."""
    index = [int((labels == data.CLASSES.index(name)).nonzero()[0]) for name in SHOWN]
    arrays = {"pictures": images[index], "labels": labels[index].int()}
    for k, (weight, bias) in enumerate(folded(model[0])):
        arrays |= {f"weight{k}": weight, f"bias{k}": bias}
    return {name: value.contiguous().numpy() for name, value in arrays.items()}


if __name__ == "__main__":
    keep_arrays("stn_live", __doc__, lambda: collect(
        trained(ARM), *data.fashion_mnist("test")))
