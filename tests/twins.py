"""timm and torchvision, the peers that tests compare with; `from twins import timm`.

They are optional: see requirements-twins.txt. Without them the test files that import
this one skip; under CI=true they fail.
"""

import os
import sys

import pytest
import torch

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


try:
    torchvision = load_torchvision()
    import timm
except ImportError as error:
    reason = f"{error}: pip install --no-deps -r requirements-twins.txt"
    if os.environ.get("CI", "").lower() == "true":
        raise RuntimeError(reason) from error
    pytest.skip(reason, allow_module_level=True)

__all__ = ["timm", "torchvision"]
