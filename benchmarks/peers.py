"""timm and torchvision, which benchmarks and tests compare with.

They are optional. requirements-twins.txt holds their versions.
"""

import sys

import torch

INSTALL = "pip install --no-deps --requirement requirements-twins.txt"
LIBRARIES = []      # torch forgets operators whose library is collected


def load_torchvision():
    """Import it, also beside a torch for which its own operators do not load."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        LIBRARIES.append(torch.library.Library("torchvision", "DEF"))
        for name in ("nms", "qnms"):
            LIBRARIES[0].define(
                f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision


def load():
    """Return timm and torchvision.

    Raises:
        ImportError: if one is missing; the message says how to install both.
    """
    try:
        torchvision = load_torchvision()
        import timm
    except ImportError as error:
        raise ImportError(f"{error}: {INSTALL}") from error
    return timm, torchvision
