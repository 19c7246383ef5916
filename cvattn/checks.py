"""What every module asks of its arguments and inputs, before anything changes.

Each refusal is a ValueError with the rule and the values. `torch.fx` takes what looks
at a tensor for a leaf, so that a traced graph asks again; `torch.jit.trace` keeps none.
"""

import operator
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, fx, nn
from torch.jit import is_tracing
from torch.nn.modules.batchnorm import _BatchNorm

IDS = torch.int64, torch.int32


def index(number: object) -> int | None:
    """Return a whole number, Python's, NumPy's or a tensor's, as int; None for others.

    32.0 and True are none. A size that torch is tracing stays what it is.
    """
    if isinstance(number, torch.SymInt) or isinstance(number, Tensor) and is_tracing():
        return number
    if isinstance(number, bool) or getattr(number, "dtype", None) == torch.bool:
        return None
    try:
        return operator.index(number)
    except (TypeError, RuntimeError):
        return None


def shown(number: object) -> str:
    """Return how a message writes a number: a whole one the same, whosever it is."""
    return repr(number) if index(number) is None else str(index(number))


def whole(*, least: int = 1, **numbers: int) -> list[int]:
    """Return the numbers as int, each whole and at least `least`."""
    for name, number in numbers.items():
        n = index(number)
        if n is None or n < least:
            raise ValueError(f"{name} must be a whole number from {least} up, "
                             f"got {name}={shown(number)}")
    return [index(number) for number in numbers.values()]


def multiple(**numbers: int) -> list[int]:
    """Return two numbers as int, the first a positive multiple of the second."""
    (name, number), (divisor, other) = numbers.items()
    rule = (f"{name} must be a positive multiple of {divisor}, "
            f"got {name}={shown(number)}, {divisor}={shown(other)}")
    n, d = index(number), index(other)
    if n is None or d is None:
        raise ValueError(f"{rule}: {shown(number if n is None else other)} "
                         "is not a whole number")
    if n < 1 or d < 1:
        raise ValueError(rule)
    if n % d:
        fits = max(i for i in range(1, min(n, d) + 1) if n % i == 0)
        raise ValueError(f"{rule}: {divisor}={fits} would fit")
    return [n, d]


def odd(**sizes: int) -> int:
    """Return an odd size as int."""
    [(name, size)] = sizes.items()
    n = index(size)
    if n is None or n < 1 or n % 2 == 0:
        raise ValueError(f"{name} must be odd and positive, got {name}={shown(size)}")
    return n


def pair(**sizes: tuple[int, int]) -> list[int]:
    """Return two sizes, whole and positive, as int."""
    [(name, size)] = sizes.items()
    sides = [index(n) for n in size] if isinstance(size, Sequence) else []
    if len(sides) != 2 or any(n is None or n < 1 for n in sides):
        raise ValueError(f"{name} must be two whole numbers from 1 up, got {size!r}")
    return sides


def sides(**sizes: int | tuple[int, int]) -> list[int]:
    """Return height and width, given as one whole number or as two, as int."""
    [(name, size)] = sizes.items()
    try:
        lone = index(size) is not None
        return pair(**{name: (size, size) if lone else size})
    except ValueError:
        raise ValueError(f"{name} must be a whole number from 1 up or two, (H, W), "
                         f"got {name}={size!r}") from None


def id_of(vocabulary: int, **ids: int) -> int:
    """Return an id as int, from 0 to vocabulary - 1."""
    [(name, number)] = ids.items()
    n = index(number)
    if n is None or not 0 <= n < vocabulary:
        raise ValueError(f"{name} must be an id from 0 to vocabulary - 1, "
                         f"got {name}={shown(number)}, vocabulary={vocabulary}")
    return n


def share(**rates: float) -> None:
    """Ask for numbers from 0 to 1, of which NaN is none."""
    for name, rate in rates.items():
        if not 0 <= rate <= 1:
            raise ValueError(f"{name} must be from 0 to 1, got {name}={rate}")


def tensor(x: Tensor, name: str, axes: str, fits: bool) -> None:
    """Ask for a floating-point tensor that fits its axes."""
    if not fits:
        raise ValueError(f"{name} must be {axes}, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {x.dtype}")


@fx.wrap
def picture(x: Tensor, channels: int | None = None) -> None:
    """Ask for (B, C, H, W), floating point, H and W from 1 up, C any number if None."""
    if is_tracing():
        return
    C = "C" if channels is None else channels
    tensor(x, "x", f"(B, {C}, H, W)", x.ndim == 4 and channels in (None, x.shape[1]))
    if x.shape[2] < 1 or x.shape[3] < 1:
        raise ValueError(f"x must have H and W from 1 up, got {tuple(x.shape)}")


@fx.wrap
def patches(x: Tensor, side: int) -> None:
    """Ask for a picture that patches of this side cover."""
    if not is_tracing() and (x.shape[2] % side or x.shape[3] % side):
        raise ValueError(f"the height and width of x must be multiples of {side}, "
                         f"got {tuple(x.shape)}")


@fx.wrap
def sequence(x: Tensor, dim: int, least: int = 0) -> None:
    """Ask for (B, N, dim), floating point, N at least `least`."""
    if is_tracing():
        return
    tensor(x, "x", f"(B, N, {dim})", x.ndim == 3 and x.shape[2] == dim)
    if x.shape[1] < least:
        raise ValueError(f"x must have N from {least} up, got {tuple(x.shape)}")


@fx.wrap
def context(context: Tensor, x: Tensor, dim: int) -> None:
    """Ask for (B, M, dim), floating point, B that of x."""
    if is_tracing():
        return
    tensor(context, "context", f"({x.shape[0]}, M, {dim})", context.ndim == 3
           and context.shape[0] == x.shape[0] and context.shape[2] == dim)


@fx.wrap
def ids(ids: Tensor, name: str) -> None:
    """Ask for (B, N) of whole numbers, N from 1 up."""
    if is_tracing():
        return
    if ids.ndim != 2 or ids.dtype not in IDS:
        raise ValueError(f"{name} must be (B, N) of torch.int64 or torch.int32, "
                         f"got {tuple(ids.shape)} of {ids.dtype}")
    if ids.shape[1] < 1:
        raise ValueError(f"{name} must have N from 1 up, got {tuple(ids.shape)}")


def estimates(norm: nn.Module) -> bool:
    """Whether this layer takes a variance now, and over this device's batch alone."""
    if not isinstance(norm, _BatchNorm):
        return False
    shared = (isinstance(norm, nn.SyncBatchNorm) and norm.training
              and dist.is_available() and dist.is_initialized()
              and dist.get_world_size(norm.process_group) > 1)
    return not shared and (norm.training or norm.running_mean is None)


@fx.wrap
def variance(x: Tensor, estimated: bool, over: str = "pictures") -> None:
    """Ask for two pictures, or pixels, if a variance is to be estimated over them."""
    if not estimated or is_tracing():
        return
    B, _, H, W = x.shape
    if (B if over == "pictures" else B * H * W) == 1:
        raise ValueError(
            f"x must hold at least two {over} in training mode, for BatchNorm "
            f"estimates a variance over them, got {tuple(x.shape)}: use a larger "
            "batch, DataLoader(drop_last=True) or eval()")
