"""What an exercise is: its right answer, the known mistakes, and how to run them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Wrong:
    """A wrong answer that people give, and what to tell them."""

    answer: Callable
    message: str


REFUSED = "a ValueError"


@dataclass(frozen=True)
class Exercise:
    """One exercise: how its answer is run, compared and talked about.

    name: what the reader writes, for the messages.
    reference: the right answer. right: what is said of it.
    wrong: the known mistakes; one is named if an answer does as it does in every case.
    cases: returns the argument lists, the same at every call.
    given: the names of the arguments.
    axes: the result's axes: letters that mean the same in all chapters ("BCHW"), or
        letters with the exercise's own words ("N letters, C channels").
    call: runs an answer on one argument list. A dict that it returns holds the parts
        of the result under the words for them, as {"value": y, "gradient": g}.
    refuses: for which argument lists a ValueError is asked for.
    without: what the right answer does without, of the keys of `outcome.WAYS`, and
        room: the most numbers that a tensor made on the way may have.
    rtol: the relative difference that is put down to rounding.
    seconds: how long an answer may take for all cases together, if not as usual.
    judge: for results of which many are right: returns None, or what is wrong.
    """

    name: str
    reference: Callable
    right: str
    wrong: tuple[Wrong, ...]
    cases: Callable[[], list[tuple]] = lambda: [()]
    given: str = "x"
    axes: str = ""
    call: Callable = lambda answer, *args: answer(*args)
    refuses: Callable[..., bool] = lambda *args: False
    without: tuple[str, ...] = ()
    room: Callable[..., float] = lambda *args: math.inf
    rtol: float = 1e-4
    seconds: float | None = None
    judge: Callable | None = None


class Says(Exception):
    """Raised by an exercise's `call`: the message is for the reader as it stands."""


def rand(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return normal numbers, the same at every call and on every machine."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)
