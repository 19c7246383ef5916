"""timm and torchvision, the peers that tests compare with; `from twins import timm`.

They are optional: see requirements-twins.txt. Without them the test files that import
this one skip; under CI=true they fail.
"""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import peers  # noqa: E402

try:
    timm, torchvision = peers.load()
except ImportError as error:
    if os.environ.get("CI", "").lower() == "true":
        raise RuntimeError(str(error)) from error
    pytest.skip(str(error), allow_module_level=True)

__all__ = ["timm", "torchvision"]
