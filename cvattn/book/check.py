"""Check an answer to an exercise, and name the likely mistake.

    >>> from cvattn.book import check
    >>> check("se-1", lambda x: x.mean(dim=(2, 3)))
    se-1: right. Height and width are gone: one number for each picture and channel.

Every exercise (`cvattn/book/exercises/`) brings its reference answer, its inputs and
the wrong answers that people give, as code. An answer is run on the inputs
(`cvattn/book/outcome.py`). If it does on all of them what a wrong answer does, that
mistake is named. Otherwise its type, shape, dtype and values are compared with the
reference's, and the first difference told.
"""

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from cvattn.book import guard
from cvattn.book.exercises.exercise import REFUSED, Exercise
from cvattn.book.guard import guarded
from cvattn.book.outcome import (
    VALUES,
    Odd,
    Outcome,
    close,
    cut,
    describe,
    ended,
    name,
    outcomes,
    plain,
    printed,
    shape,
    strange,
)

AXES = {"B": "pictures", "C": "channels", "D": "hidden units", "H": "rows",
        "W": "columns", "N": "queries", "M": "keys", "V": "entries of a value",
        "K": "heads", "E": "entries of a head", "T": "targets", "L": "letters",
        "Q": "patches", "X": "numbers of a patch", "S": "tokens",
        "U": "numbers of a token", "P": "places", "I": "rows of theta",
        "J": "columns of theta"}
BLANK = (
    "nothing here yet. That is where everybody starts: write the body, return the "
    "result, and run the check again. The hint is folded under the exercise."
)
FORM = (
    "which does not have the form that the exercise asks for. Compare it with the stub."
)
RETURN = "Is the `return` missing?"


class Verdict:
    """What `check` found: true when the answer is right, and shown as its text."""

    def __init__(self, ok: bool, text: str):
        self.ok, self.text = ok, text

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        return self.text


@cache
def exercises() -> dict[str, Exercise]:
    """Return the exercises of all chapters, by name."""
    from cvattn.book.exercises import (
        attention,
        bam,
        cbam,
        clinic,
        se,
        sk,
        stn,
        transformer,
        vit,
    )

    chapters = (attention, se, cbam, bam, sk, stn, transformer, vit, clinic)
    return {name: task for chapter in chapters
            for name, task in chapter.EXERCISES.items()}


def check(exercise: str, answer: object) -> Verdict:
    """Return the verdict on an answer: right, or the likely mistake.

    It never raises over the answer, however wrong, ends within seconds (a project:
    minutes), and leaves the notebook's state as it was. Answers run with float32 and
    the CPU as torch's defaults; a result on a GPU is brought to the CPU.

    Args:
        exercise: the exercise's name, such as "se-3".
        answer: what the exercise asks for, as a rule a function. Hand over the
            function itself: `check("se-1", squeeze)`.

    Raises:
        ValueError: if there is no such exercise.
        RuntimeError: if the reference answer fails, which is a mistake of the book.

    >>> check("se-1", lambda x: x.mean(dim=(2, 3)))
    se-1: right. Height and width are gone: one number for each picture and
    channel.
    """
    task = registered(exercise)
    message = review(task, answer)
    if message is None:
        return Verdict(True, fill(f"{exercise}: right. {task.right}"))
    if message is BLANK:
        return Verdict(False, fill(f"{exercise}: {BLANK}"))
    return Verdict(False, fill(f"{exercise}: not yet. {message}"))


def grade(exercise: str) -> None:
    """Grade the answer of the notebook that calls this, as a hidden test does.

    The answer is what stands under the exercise's own name, `squeeze` for "se-1". No
    other name of the notebook is used, so whatever the reader calls `check` or `str`
    does no harm.

    Raises:
        AssertionError: with the verdict, if the answer is missing, blank or wrong.
        ValueError, RuntimeError: as `check`.
    """
    task = registered(exercise)
    names = inspect.currentframe().f_back.f_globals
    if task.name not in names:
        raise AssertionError(fill(
            f"{exercise}: not yet. There is no `{task.name}` in this notebook, the "
            "name that the exercise asks for. Only this exercise is lost by it."
        ))
    verdict = check(exercise, names[task.name])
    if not verdict:
        raise AssertionError(str(verdict))


def registered(exercise: str) -> Exercise:
    known = guarded(exercises)
    if exercise not in known:
        raise ValueError(
            f"exercise must be one of {', '.join(known)}, got {exercise!r}"
        )
    return known[exercise]


def review(task: Exercise, answer: object) -> str | None:
    """Return None for a right answer, else what to tell the reader."""
    if answer is None or answer is ...:
        return BLANK
    if not callable(answer) and not task.judge:
        return (
            f"This exercise checks {task.name} itself, and was handed "
            f"{describe(guarded(lambda: plain(answer)))}. Give the name alone, without "
            "calling it."
        )
    wanted_of(task)    # what torch imports for it would count as the answer's time
    got = outcomes(task, answer if callable(answer) else lambda: answer,
                   task.seconds or guard.LIMIT)
    if got[0].blank and (got[0].error or got[0].value is ... or is_stub(answer)):
        return BLANK
    return compared(task, got)


def compared(task: Exercise, got: list[Outcome]) -> str | None:
    """Return None if an answer did right in every case, else what to tell."""
    wanted = wanted_of(task)
    if task.judge:
        right = got[0].error is None and got[0].value is not None
        return None if right else told(task, got[0], wanted[0])
    bad = [i for i, o in enumerate(got) if not o.same(wanted[i], task.rtol)]
    if not bad:
        return next((used(task, o) for o in got if o.used), None)
    first = bad[0]
    for message, theirs in () if ended(got[-1]) else mistakes(task):
        if all(a.same(b, task.rtol) for a, b in zip(got, theirs, strict=True)):
            return message + seen(task, got[first], wanted[first])
    return told(task, got[first], wanted[first])


def is_stub(answer: Callable) -> bool:
    """True if the body is empty: it uses no name but those of its arguments."""
    try:
        answer = getattr(answer, "forward", answer)    # a class or a module
        code = inspect.unwrap(answer).__code__
        own = {*code.co_varnames, *code.co_cellvars}
    except Exception:    # not written in Python, or in a circle
        return False
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & inspect.CO_VARARGS)
    count += bool(code.co_flags & inspect.CO_VARKEYWORDS)
    own -= {*code.co_varnames[:count]}
    return not (own or code.co_names or code.co_freevars)


@cache
def wanted_of(task: Exercise) -> list[Outcome]:
    """Return what the reference does.

    Raises:
        RuntimeError: if it raises, changes its input, or does what the exercise is to
            be done without. Two errors can be alike by accident, and then a wrong
            answer would pass.
    """
    wanted = outcomes(task, task.reference)
    for outcome in wanted:
        fault = outcome.error or outcome.harm or outcome.used
        if fault:
            raise RuntimeError(
                f"the reference answer to {task.name} fails, which is a mistake of "
                f"the book and not yours: {fault}"
            )
    return wanted


@cache
def mistakes(task: Exercise) -> list[tuple[str, list[Outcome]]]:
    return [(wrong.message, outcomes(task, wrong.answer)) for wrong in task.wrong]


# What is told ------------------------------------------------------------------


def told(task: Exercise, got: Outcome, want: Outcome) -> str:
    """Tell what one outcome is, and what it should be."""
    call, error = called(task, got.args), got.error
    if error is None:
        return difference(task, got, want)
    if error.says:
        return error.said
    if ended(got):
        return (
            f"{call} did not come to an end within "
            f"{task.seconds or guard.LIMIT:g} seconds. Look for a "
            "loop whose end never comes, or for far more work than is asked for."
        )
    if not error.inside:
        return misfit(task, got, want)
    text = f"{call} stopped with\n    {error.kind}"
    text += f": {error.said}" if error.said else ""
    if error.line:
        text += f"\nat this line of yours:\n    {error.line}"
    return f"{text}\nIt should raise a ValueError." if refused(want) else text


def refused(outcome: Outcome) -> bool:
    return outcome.value is REFUSED


def difference(task: Exercise, got: Outcome, want: Outcome) -> str:
    """Tell what is off in a result: its type, shape, dtype, finiteness or values."""
    call, a, b = called(task, got.args), got.value, want.value
    if close(a, b, task.rtol):
        return f"{call} returns the right values, but {got.harm}"
    if refused(want):
        return f"{call} returned {describe(a)}, and should raise a ValueError."
    if a is None:
        return f"{call} returned None. {RETURN}"
    if not want.own and not isinstance(b, dict):
        if isinstance(b, Tensor) or type(a) is not type(b):
            return f"{call}: what follows from the result is not what should follow."
        return f"{call} gives {cut(str(a), 100)}, and should give {cut(str(b), 100)}."
    if not isinstance(b, dict):
        return f"{call} {off(task, got.args, a, b)}"
    if not isinstance(a, dict) or a.keys() != b.keys():
        return f"{call} returned {describe(a)}, {FORM}"
    right = [part for part in b if close(a[part], b[part], task.rtol)]
    part = next(part for part in b if part not in right)
    fault = off(task, got.args, a[part], b[part], "is", "be")
    if right:
        verb = "is" if len(right) == 1 else "are"
        part = f"{' and '.join(right)} {verb} right, but not {part}, which"
    return f"{call}: {part} {fault}"


def misfit(task: Exercise, got: Outcome, want: Outcome) -> str:
    """Tell of a result that the exercise's `call` can do nothing with."""
    if want.own and not close(got.value, want.value, task.rtol):
        return difference(task, replace(got, error=None), want)
    return f"{called(task, got.args)} returned {describe(got.value)}, {FORM}"


def off(task: Exercise, args: tuple, a: object, b: object, did="returned",
        should="return") -> str:
    """Tell the first of these that is off in a: type, shape, dtype, finiteness, values.

    The sentence is to follow the words for what a is.
    """
    of = "of " if did == "is" else ""
    if isinstance(b, Tensor) and incomparable(a):
        return f"{did} {describe(a)}, which cannot be compared. {VALUES}"
    if type(a) is not type(b):
        whole = isinstance(a, float) and isinstance(b, int)
        extra = " Divide whole numbers with //." if whole else ""
        return f"{did} {describe(a)}, and should be {describe(b)}.{extra}"
    if not isinstance(b, Tensor):
        return f"{did} {printed(a)}, and should {should} {cut(str(b), 200)}."
    if a.shape != b.shape:
        return (f"{did} {of}shape {shape(a)}, and should {should} {of}{shape(b)}"
                f"{axes(task.axes, b)}.")
    if a.dtype != b.dtype:
        own = any(isinstance(x, Tensor) and x.dtype == b.dtype for x in args)
        return (f"{did} {name(a.dtype)}, and should {should} {name(b.dtype)}"
                f"{', the dtype of its input' if own else ''}.")
    lost = ~torch.isfinite(a) & torch.isfinite(b)
    if lost.any():
        bad = "NaN" if torch.isnan(a).any() else "inf"
        return (
            f"{did} {bad} in {int(lost.sum())} of {a.numel()} places. Look for a "
            "division by zero, or for the exp or log of a number too large or small."
        )
    wrong = ~torch.isclose(a, b, task.rtol, 0.01 * task.rtol, equal_nan=True)
    if b.numel() == 1:
        return f"has the right shape, but its value is {values(a, b, wrong)}."
    count = int(wrong.sum())
    return (
        f"has the right shape, but {count} of {a.numel()} values "
        f"{'is' if count == 1 else 'are'} off. The first, at "
        f"{wrong.nonzero()[0].tolist()}, is {values(a, b, wrong)}."
    )


def incomparable(a: object) -> bool:
    return bool(strange(a)) if isinstance(a, Tensor) else (
        isinstance(a, Odd) and a.kind.startswith("tensor of the type"))


def values(a: Tensor, b: Tensor, wrong: Tensor) -> str:
    """Tell the first wrong number, with as many digits as it takes to tell."""
    x, y = a[wrong][0].item(), b[wrong][0].item()
    for digits in (4, 6, 9, 17):
        texts = [str(v) if isinstance(v, (bool, int)) else f"{v:.{digits}g}"
                 for v in (x, y)]
        if texts[0] != texts[1]:
            break
    return "{} and should be {}".format(*texts)


def seen(task: Exercise, got: Outcome, want: Outcome) -> str:
    """Tell on which input a mistake was seen, what came and what should have come."""
    if got.error and got.error.says or not got.args:
        return ""
    call, a, b = called(task, got.args), got.value, want.value
    where = f"\nSeen at {call}"
    if got.error:
        return f"{where}, which stopped with {got.error.kind}."
    if refused(want) or close(a, b, task.rtol) or not want.own:
        return f"{where}."
    if type(a) is type(b) is Tensor and a.shape == b.shape and a.dtype == b.dtype:
        wrong = ~torch.isclose(a, b, task.rtol, 0.01 * task.rtol, equal_nan=True)
        return f"{where}: {wrong.nonzero()[0].tolist()} is {values(a, b, wrong)}."
    if type(a) is type(b) is Tensor:
        same = a.shape == b.shape
        texts = [name(v.dtype) if same else f"shape {shape(v)}" for v in (a, b)]
    elif type(a) is type(b):
        texts = [printed(v) for v in (a, b)]
    else:
        texts = [describe(v) for v in (a, b)]
    return "{}, which gave {} and should give {}.".format(where, *texts)


def used(task: Exercise, got: Outcome) -> str:
    """Tell of a right answer that it used what the exercise is to be done without."""
    call = called(task, got.args)
    if got.used[0] == "room":
        return (f"{call} returns the right values, but makes a tensor of more than "
                f"{task.room(*got.args)} numbers on the way.")
    return (f"{call} returns the right values, but by way of {' and '.join(got.used)}, "
            "which this exercise does without.")


def called(task: Exercise, args: tuple) -> str:
    """Return the call as a reader would write it, and the shapes of its tensors."""
    words, shapes = [], []
    for word, arg in zip(task.given.split(), args, strict=False):
        plain = not isinstance(arg, Tensor) and not callable(arg)
        words.append(cut(repr(arg), 60) if plain else word)
        if isinstance(arg, Tensor):
            shapes.append(f"{word} {shape(arg)}")
    call = f"{task.name}({', '.join(words)})"
    return f"{call} with {', '.join(shapes)}" if shapes else call


def axes(task_axes: str, x: Tensor) -> str:
    """Return ": (B, C) with B=3 pictures, C=5 channels", or '' where x has others."""
    pairs = words_of(task_axes)
    if len(pairs) != x.ndim:
        return ""
    letters = ", ".join(letter for letter, _ in pairs)
    words = [f"{a}={n} {word}" for (a, word), n in zip(pairs, x.shape, strict=True)]
    return f": ({letters}) with {', '.join(words)}"


def words_of(task_axes: str) -> list[tuple[str, str]]:
    """Return the axes' letters with their words: "BC", or "N letters, C channels"."""
    if " " in task_axes:
        return [tuple(part.split(" ", 1)) for part in task_axes.split(", ")]
    return [(letter, AXES[letter]) for letter in task_axes]


def fill(text: str) -> str:
    """Break prose at 79 columns; leave lines that are indented by four as they are."""
    return "\n".join(
        line if line.startswith("    ") else textwrap.fill(line, 79)
        for line in text.splitlines()
    )
