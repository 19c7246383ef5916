"""Check an answer to an exercise, and name the likely mistake.

    >>> from cvattn.book import check
    >>> check("se-1", lambda x: x.mean(dim=(2, 3)))
    se-1: right. Height and width are gone: one number for each picture and channel.

Every exercise (`cvattn/book/exercises/`) brings its reference answer, its inputs and
the wrong answers that people give, as code. An answer is run on the inputs; where it
does what a wrong answer does, that mistake is named. Otherwise its type, shape,
dtype and values are compared with the reference's, and the first difference told.
"""

import inspect
import linecache
import os
import re
import sysconfig
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from cvattn.book.exercises.exercise import Exercise, Says

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
PLAIN = (
    "Return a plain tensor, with its values in it: y.to_dense() makes one of a sparse "
    "tensor, and a meta tensor has no values."
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


@dataclass(frozen=True)
class Outcome:
    """What one answer did with one argument list."""

    args: tuple
    value: object = None
    error: BaseException | None = None
    changed: bool = False

    @property
    def blank(self) -> bool:
        if self.error is not None:
            return isinstance(self.error, NotImplementedError)
        return self.value is None or self.value is ...

    def same(self, other: "Outcome") -> bool:
        if self.error is not None or other.error is not None:
            return (type(self.error), spoken(self.error)) == (
                type(other.error), spoken(other.error))
        return self.changed == other.changed and close(self.value, other.value)


def close(a: object, b: object) -> bool:
    """Are two results equal, up to rounding? False for what cannot be compared."""
    try:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            if a.shape != b.shape or a.dtype != b.dtype:
                return False
            return torch.allclose(a, b, rtol=1e-4, atol=1e-6)
        return type(a) is type(b) and not isinstance(a, Tensor) and bool(a == b)
    except Exception:
        return False


@contextmanager
def plain_torch() -> Iterator[None]:
    """Make tensors float32 and on the CPU, whatever the notebook has set."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


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

    It never raises over the answer, however wrong. Answers run with float32 and the
    CPU as torch's defaults; a result on a GPU is brought to the CPU.

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
    with plain_torch():
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
    with plain_torch():
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
    known = exercises()
    if exercise not in known:
        raise ValueError(
            f"exercise must be one of {', '.join(known)}, got {exercise!r}"
        )
    return known[exercise]


def review(task: Exercise, answer: object) -> str | None:
    """Return None for a right answer, else what to tell the reader."""
    if answer is None or answer is ...:
        return BLANK
    if task.judge and not callable(answer):
        return judged(task, Outcome((), on_cpu(answer)))
    if not callable(answer):
        return (
            f"This exercise checks {task.name} itself, and was handed "
            f"{describe(answer)}. Give the name alone, without calling it."
        )
    got = outcomes(task, answer)
    if got[0].blank:
        if got[0].error or got[0].value is ... or is_stub(answer):
            return BLANK
        return f"{called(task, got[0].args)} returned None. {RETURN}"
    if task.judge:
        return explain(task, got[0]) if got[0].error else judged(task, got[0])
    wanted = wanted_of(task)
    bad = [i for i, o in enumerate(got) if not o.same(wanted[i])]
    if not bad:
        return None
    for message, theirs in mistakes(task):
        if all(a.same(b) for a, b in zip(got, theirs, strict=True)):
            return message
    first = bad[0]
    for message, theirs in mistakes(task):
        if got[first].same(theirs[first]):
            return message
    if got[first].error:
        return explain(task, got[first])
    return difference(task, got[first], wanted[first])


def is_stub(answer: Callable) -> bool:
    """True if the body is empty: it uses no name but those of its arguments."""
    answer = getattr(answer, "forward", answer)    # a class or a module
    try:
        code = inspect.unwrap(answer).__code__
    except (AttributeError, ValueError):    # not written in Python, or in a circle
        return False
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & inspect.CO_VARARGS)
    count += bool(code.co_flags & inspect.CO_VARKEYWORDS)
    own = {*code.co_varnames, *code.co_cellvars} - {*code.co_varnames[:count]}
    return not (own or code.co_names or code.co_freevars)


@cache
def wanted_of(task: Exercise) -> list[Outcome]:
    """Return what the reference does.

    Raises:
        RuntimeError: if it raises. Two errors can be alike by accident, and then a
            wrong answer would pass.
    """
    wanted = outcomes(task, task.reference)
    for outcome in wanted:
        if outcome.error is not None:
            raise RuntimeError(
                f"the reference answer to {task.name} fails, which is a mistake of "
                f"the book and not yours: {outcome.error!r}"
            ) from outcome.error
    return wanted


@cache
def mistakes(task: Exercise) -> list[tuple[str, list[Outcome]]]:
    return [(wrong.message, outcomes(task, wrong.answer)) for wrong in task.wrong]


def judged(task: Exercise, got: Outcome) -> str | None:
    value = got.value
    for part in value if type(value) is tuple else (value,):
        if isinstance(part, Tensor) and strange(part):
            return (
                f"{task.name} returned {describe(part)}, which cannot be compared. "
                f"{PLAIN}"
            )
    try:
        return task.judge(value)
    except OverflowError:
        return (
            f"{task.name} returned {describe(value)} with a number in it that is too "
            "large to be compared."
        )
    except Exception:
        return (
            f"{task.name} returned {describe(value)}, which does not have the "
            "form that the exercise asks for. Compare it with the stub."
        )


def outcomes(task: Exercise, answer: Callable) -> list[Outcome]:
    """Run an answer on every argument list, with the random numbers fixed."""
    results = []
    with plain_torch(), torch.random.fork_rng(devices=[]):
        cases, untouched = task.cases(), task.cases()
        for args, before in zip(cases, untouched, strict=True):
            torch.default_generator.manual_seed(0)    # a GPU's stays the reader's
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    value = task.call(answer, *args)
            except (Exception, SystemExit) as error:
                results.append(Outcome(before, error=error))
                continue
            changed = any(
                isinstance(a, Tensor) and not equal(a, b)
                for a, b in zip(args, before, strict=True)
            )
            results.append(Outcome(before, on_cpu(value), changed=changed))
    return results


def equal(a: Tensor, b: Tensor) -> bool:
    try:
        return torch.equal(a, b)
    except Exception:    # a is no longer a plain tensor
        return False


def on_cpu(value: object) -> object:
    """Return tensors, alone or in a tuple, detached and on the CPU if that can be."""
    if type(value) is tuple:
        return tuple(on_cpu(v) for v in value)
    if not isinstance(value, Tensor):
        return value
    try:
        return value.detach().cpu()
    except Exception:    # a meta tensor has no values to bring
        return value


def strange(x: Tensor) -> str:
    """Return the word for a tensor whose values cannot be compared, else ''."""
    if x.device.type == "meta":
        return "meta"
    if x.is_nested:
        return "nested"
    if x.layout != torch.strided:
        return "sparse" if "sparse" in str(x.layout) else name(x.layout)
    return "quantized" if x.is_quantized else ""


def spoken(error: BaseException) -> str:
    """Return an exception's message, or '' if it has none that can be printed."""
    try:
        return str(error)
    except Exception:
        return ""


def explain(task: Exercise, got: Outcome) -> str:
    """Tell of an exception: its type, its message, and the reader's line."""
    error = got.error
    if isinstance(error, Says):
        return str(error)
    first = (spoken(error).strip().splitlines() or [""])[0]
    first = re.sub(r"0x[0-9a-f]+", "0x...", re.sub(r"[\w.]+\.<locals>\.", "", first))
    said = f"{type(error).__name__}: {first}" if first else type(error).__name__
    text = f"{called(task, got.args)} stopped with\n    {said}"
    line = reader_line(error)
    if line:
        text += f"\nat this line of yours:\n    {line}"
    return text


def reader_line(error: BaseException) -> str:
    """Return the deepest line of the traceback that the reader wrote, or ''."""
    paths = sysconfig.get_paths()
    folders = (paths["stdlib"], paths["purelib"], paths["platlib"],
               Path(torch.__file__).parent, Path(__file__).parents[1])
    others = ("<frozen", *(f"{folder}{os.sep}" for folder in folders))
    line, at = "", error.__traceback__
    while at is not None:
        file = at.tb_frame.f_code.co_filename
        if not file.startswith(others):
            line = linecache.getline(file, at.tb_lineno).strip() or line
        at = at.tb_next
    return line


def difference(task: Exercise, got: Outcome, want: Outcome) -> str:
    """Tell the first of these that is off: type, shape, dtype, finiteness, values."""
    call, a, b = called(task, got.args), got.value, want.value
    if not isinstance(a, type(b)) or isinstance(a, bool):
        extra = " Divide whole numbers with //." if isinstance(a, float) else ""
        extra = f" {RETURN}" if a is None else extra
        return f"{call} returned {describe(a)}, and should be {describe(b)}.{extra}"
    if not isinstance(b, Tensor):
        if close(a, b):
            return mutated(call)
        return f"{call} returned {printed(a)}, and should return {b}."
    if strange(a):
        return f"{call} returned {describe(a)}, which cannot be compared. {PLAIN}"
    try:
        return unequal(task, got, want)
    except Exception:
        return (
            f"{call} returned a tensor of the type {type(a).__name__}, which cannot "
            f"be compared. {PLAIN}"
        )


def unequal(task: Exercise, got: Outcome, want: Outcome) -> str:
    """Tell what is off between two tensors."""
    call, a, b = called(task, got.args), got.value, want.value
    if a.shape != b.shape:
        return (
            f"{call} returned shape {shape(a)}, and should return {shape(b)}: "
            f"{axes(task.axes, b)}."
        )
    if a.dtype != b.dtype:
        return (
            f"{call} returned {name(a.dtype)}, and should return {name(b.dtype)}, "
            "the dtype of its input."
        )
    if not torch.isfinite(a).all():
        bad = "NaN" if torch.isnan(a).any() else "inf"
        count = int((~torch.isfinite(a)).sum())
        return (
            f"{call} returned {bad} in {count} of {a.numel()} places. Look for a "
            "division by zero, or for the exp or log of a number too large or small."
        )
    if got.changed and close(a, b):
        return mutated(call)
    where = tuple(int(i) for i in torch.nonzero(~torch.isclose(a, b, 1e-4, 1e-6))[0])
    wrong = int((~torch.isclose(a, b, 1e-4, 1e-6)).sum())
    return (
        f"{call} has the right shape, but {wrong} of {a.numel()} values are off. The "
        f"first, at {list(where)}, is {a[where]:.4g} and should be {b[where]:.4g}."
    )


def mutated(call: str) -> str:
    return (
        f"{call} returns the right values, but changes its input in place, and whoever "
        "reads the input next gets other numbers. Leave it as it came: x * s, not "
        "x *= s; torch.relu, not torch.relu_."
    )


def called(task: Exercise, args: tuple) -> str:
    """Return the call as a reader would write it, and the shapes of its tensors."""
    words, shapes = [], []
    for word, arg in zip(task.given.split(), args, strict=False):
        plain = not isinstance(arg, Tensor) and not callable(arg)
        words.append(repr(arg) if plain else word)
        if isinstance(arg, Tensor):
            shapes.append(f"{word} {shape(arg)}")
    call = f"{task.name}({', '.join(words)})"
    return f"{call} with {', '.join(shapes)}" if shapes else call


def describe(value: object) -> str:
    if isinstance(value, Tensor):
        odd = strange(value)
        return f"a {odd} tensor" if odd else f"a tensor of shape {shape(value)}"
    if value is None:
        return "None"
    if isinstance(value, (bool, int, float)):
        return f"the {type(value).__name__} {printed(value)}"
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


def printed(value: object) -> str:
    """Return a value as text, cut at 40 characters."""
    try:
        text = str(value)
    except Exception:    # Python prints no whole number of more than 4,300 digits
        return "what cannot be printed"
    return text if len(text) <= 40 else f"{text[:37]}..."


def shape(x: Tensor) -> str:
    return str(tuple(x.shape))


def name(constant: torch.dtype | torch.layout) -> str:
    return str(constant).removeprefix("torch.")


def axes(letters: str, x: Tensor) -> str:
    words = [f"{a}={n} {AXES[a]}" for a, n in zip(letters, x.shape, strict=True)]
    return f"({', '.join(letters)}) with {', '.join(words)}"


def fill(text: str) -> str:
    """Break prose at 79 columns; leave lines that are indented by four as they are."""
    return "\n".join(
        line if line.startswith("    ") else textwrap.fill(line, 79)
        for line in text.splitlines()
    )
