"""What half precision must not reach: places, scores, sums of many logarithms."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def no_autocast(x: Tensor) -> AbstractContextManager:
    """Return a context in which autocast changes no type, on any device, meta too."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def wide(*dtypes: torch.dtype) -> torch.dtype:
    """Return the widest of the types, float32 at least."""
    widest = torch.float32
    for dtype in dtypes:
        widest = torch.promote_types(widest, dtype)
    return widest
