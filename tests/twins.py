"""timm and torchvision, the peers that tests compare with; `from twins import timm`.

They are optional: see requirements-twins.txt. Without them the test files that import
this one skip; under CI=true they fail.
"""

import os

import pytest

from benchmarks import peers

try:
    timm, torchvision = peers.load()
except ImportError as error:
    if os.environ.get("CI", "").lower() == "true":
        raise RuntimeError(str(error)) from error
    pytest.skip(str(error), allow_module_level=True)

__all__ = ["timm", "torchvision"]
