"""The live figures of the chapter on Vision Transformers."""

import numpy as np
import torch

from cvattn.book.data import CLASSES, MEAN, STD
from cvattn.book.experiments.vit import build
from cvattn.book.live.figure import Live, arrays, packed


def small_vit() -> dict:
    """Return the network and the pictures that experiments.vit_figures kept."""
    found = arrays("vit")
    with torch.device("meta"):          # names and sizes alone: draws no number
        net = build({"net": "vit"})
    names = [name for name, _ in net.named_parameters()]
    matrices = [name for name in names if found[name].ndim == 2]
    vectors = [name for name in names if found[name].ndim == 1]
    whole = np.concatenate([found[name].ravel() for name in matrices])
    scales = np.concatenate([found[f"{name}.scale"] for name in matrices])
    numbers = np.concatenate([found[name] for name in vectors])
    return {
        "names": [CLASSES[k] for k in found["labels"]],
        "labels": found["labels"].tolist(),
        "classes": CLASSES,
        "pictures": packed(found["pictures"]),
        "matrices": [[name, *found[name].shape] for name in matrices],
        "vectors": [[name, found[name].size] for name in vectors],
        "whole": packed(whole.view(np.uint8)),
        "scales": packed(scales),
        "numbers": packed(numbers),
        "dim": net.E.out_channels, "heads": net.layers[0].attention.num_heads,
        "layers": len(net.layers), "patch": net.E.kernel_size[0],
        "mean": MEAN, "std": STD,
    }


def looks() -> Live:
    """Click a patch and see where it looks, in each layer and head of a small ViT."""
    return Live(
        "looks",
        "Where does a patch look?",
        "Live figure, needs a browser with scripts: a picture in 49 patches, and for "
        "the patch that is chosen the weights that it gives to all others, in each "
        "layer and head of a small trained Vision Transformer.",
        small_vit(), uses=("layers", "encoder"),
    )


def shuffle() -> Live:
    """Shuffle the patches of a picture, with and without their positions."""
    return Live(
        "shuffle",
        "Shuffle the patches: who notices?",
        "Live figure, needs a browser with scripts: a picture in 49 patches to "
        "exchange or shuffle, with positions that stay, travel along or are switched "
        "off, and the class probabilities of a small trained Vision Transformer.",
        small_vit(), uses=("layers", "encoder"),
    )
