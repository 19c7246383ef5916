"""What an exercise is: its right answer, the known mistakes, and how to run them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Wrong:
    """A wrong answer that people give, and what to tell them."""

    answer: Callable
    message: str


@dataclass(frozen=True)
class Exercise:
    """One exercise: how its answer is run, compared and talked about.

    name: what the reader writes, for the messages.
    reference: the right answer. right: what is said of it.
    wrong: the known mistakes; the first that fits is named.
    cases: returns the argument lists, the same at every call.
    given: the names of the arguments. axes: the letters of the result's axes.
    call: runs an answer on one argument list. Where the right answer raises, it
        catches the exception, and returns a word that tells of it.
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
    judge: Callable | None = None


class Says(Exception):
    """Raised by an exercise's `call`: the message is for the reader as it stands."""


def rand(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return normal numbers, the same at every call and on every machine."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)
