"""What an answer did with an exercise's inputs, as data that is safe to look at.

A reader's answer may return anything: an object that cannot be compared or printed, an
endless generator, an exception with a message of a million characters. What it did is
therefore turned into plain data in the thread where it ran, and told by `check`.
"""

import dis
import linecache
import math
import os
import random
import re
import sysconfig
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from traceback import walk_tb

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from cvattn.book import guard
from cvattn.book.exercises.exercise import REFUSED, Exercise, Says

LONGEST = 200    # characters of an exception's message or a line that are quoted
MOST = 10_000    # entries of a list that are looked at
MANY = 10**7     # numbers of a tensor that are looked at
PLAIN = (type(None), type(...), bool, int, float, complex, str)

# What an exercise can ask to be left, and the calls and operations that give it away.
WAYS = {
    "softmax": {"_softmax", "_log_softmax", "_safe_softmax",
                "_scaled_dot_product_flash_attention_for_cpu"},
    "exp": {"exp", "exp2", "expm1", "logsumexp", "logaddexp", "pow.Scalar"},
    "autograd": {"backward", "grad", "_make_dual"},
    "grid_sample": {"grid_sample", "grid_sampler", "grid_sampler_2d"},
    "sigmoid": {"sigmoid"},
}

VALUES = (
    "Return a plain tensor, with its values in it: y.to_dense() makes one of a sparse "
    "tensor, and a meta tensor has no values.")
IN_PLACE = (
    "changes its input in place, and whoever reads the input next gets other numbers. "
    "Leave it as it came: x * s, not x *= s; torch.relu, not torch.relu_.")
GRADIENT = (
    "leaves a gradient on its input, and whoever calls backward() next adds to it. "
    "Differentiate a copy, x.detach().clone().requires_grad_(), and leave x as it "
    "came.")
MODULE = (
    "changes the module that it was given: its weights, its statistics, its mode or "
    "its gradients. Leave it as it came, or work on copy.deepcopy(module).")
DEFAULTS = (
    "changes torch's {}, for all the code that runs after it. Say it where it "
    "is needed instead: torch.zeros(3, dtype=...), with torch.no_grad(): ...")

PATHS = sysconfig.get_paths()
OTHERS = ("<frozen", *(f"{folder}{os.sep}" for folder in (
    PATHS["stdlib"], PATHS["purelib"], PATHS["platlib"], Path(torch.__file__).parent,
    Path(__file__).parents[1])))


@dataclass(frozen=True)
class Odd:
    """Stands for a value that is of no kind that an exercise asks for."""

    kind: str
    text: str


@dataclass(frozen=True)
class Failure:
    """An exception: its type, its message, and the reader's line.

    says: the message is for the reader as it stands. blank: a stub raised it. inside:
    the answer itself raised it, and not what the exercise did with its result.
    """

    kind: str
    said: str
    line: str = ""
    says: bool = False
    blank: bool = False
    inside: bool = True


@dataclass(frozen=True)
class Outcome:
    """What one answer did with one argument list.

    harm: what it did to its inputs or to torch, though the value may be right.
    used: what the exercise does without, and the answer used.
    own: the value is what the answer returned, and not what `call` made of it.
    """

    args: tuple
    value: object = None
    error: Failure | None = None
    harm: str = ""
    used: tuple[str, ...] = ()
    own: bool = True

    @property
    def blank(self) -> bool:
        if self.error:
            return self.error.blank
        return self.value is None or self.value is ...

    def same(self, other: "Outcome", rtol: float = 1e-4) -> bool:
        if self.error or other.error:
            mine, theirs = (
                o.error and (o.error.kind, o.error.said) for o in (self, other))
            return mine == theirs
        return self.harm == other.harm and close(self.value, other.value, rtol)


def close(a: object, b: object, rtol: float = 1e-4) -> bool:
    """Are two plain values equal, up to rounding?"""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        try:
            return a.shape == b.shape and a.dtype == b.dtype and torch.allclose(
                a, b, rtol=rtol, atol=0.01 * rtol, equal_nan=True)
        except Exception:    # no values in it, or none that can be compared
            return False
    if isinstance(a, float):
        return a == b or math.isclose(a, b, rel_tol=rtol, abs_tol=0.01 * rtol)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(
            close(x, y, rtol) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[k], b[k], rtol) for k in a)
    return a == b


def outcomes(task: Exercise, answer: Callable,
             seconds: float | None = None) -> list[Outcome]:
    """Run an answer on every argument list, with the random numbers fixed."""
    cases, untouched = guard.guarded(lambda: (task.cases(), task.cases()))
    done = []

    def run():
        for args, before in zip(cases, untouched, strict=True):
            done.append(outcome(task, answer, args, before))
            if ended(done[-1]):
                return

    try:
        guard.guarded(run, seconds)
    except guard.TimeUp as error:
        late = Failure(type(error).__name__, "")
        if not (done and ended(done[-1])):
            done = [*done, Outcome(untouched[len(done)], error=late)]
    rest = untouched[len(done):]
    return done + [replace(done[-1], args=args) for args in rest]


def ended(outcome: Outcome) -> bool:
    return outcome.error is not None and outcome.error.kind == guard.TimeUp.__name__


def outcome(task: Exercise, answer: Callable, args: tuple, before: tuple) -> Outcome:
    """Run an answer on one argument list; `before` equals it, and stays as it is."""
    watched = Watched(task, answer, args)
    run = answer if isinstance(answer, type) else watched
    torch.default_generator.manual_seed(0)    # a GPU's stays the reader's
    np.random.seed(0)
    random.seed(0)
    try:
        try:
            value = task.call(run, *args)
        finally:
            harm = defaults_changed()
        if task.judge and value is not None and value is not ...:
            judge(task, plain(value, lenient=True))
        harm = harm or inputs_changed(args, before)
        own = run is answer or value is watched.returned
        return Outcome(before, plain(value), harm=harm, used=watched.used(), own=own)
    except BaseException as error:
        harm = inputs_changed(args, before)
        if isinstance(error, Says) and harm:    # and so the exercise read other numbers
            error = Says(f"{task.name} {harm}")
        if isinstance(error, ValueError) and watched.inside and task.refuses(*args):
            return Outcome(before, REFUSED, own=False)
        return Outcome(before, plain(watched.returned),
                       error=failure(error, watched.inside))


class Watched:
    """An answer of which is known what it used, and what it returned last.

    inside: an exception now comes from the answer, and not from the exercise's `call`.
    """

    def __init__(self, task: Exercise, answer: Callable, args: tuple):
        self.task, self.answer = task, answer
        self.inside, self.returned, self.seen = True, None, set()
        self.room = task.room(*args)

    def __call__(self, *args, **kwargs):
        self.inside = True
        with ExitStack() as stack:
            if self.task.without:
                stack.enter_context(Calls(self.seen))
            if {*self.task.without} - {"autograd"} or self.room < math.inf:
                stack.enter_context(Operations(self.seen, self.room))
            self.returned = self.answer(*args, **kwargs)
        self.inside = False
        return self.returned

    def used(self) -> tuple[str, ...]:
        """Return which of the ways that are asked to be left were gone."""
        ways = [way for way in self.task.without if WAYS[way] & self.seen]
        return (*ways, *(["room"] if "room" in self.seen else []))


class Calls(TorchFunctionMode):
    """Notes the names of torch's functions that are called."""

    def __init__(self, seen: set[str]):
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.add(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    """Notes the operations that these calls come to, and whether a result is large."""

    def __init__(self, seen: set[str], room: float):
        super().__init__()
        self.seen, self.room = seen, room

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.rstrip("_")
        self.seen |= {name, f"{name}.{func._overloadname}"}
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, Tensor) and stored(t) > self.room:
                self.seen.add("room")
        return out


def stored(t: Tensor) -> float:
    """Return how many numbers a tensor holds; a view of few, however large, few."""
    try:
        return t.untyped_storage().nbytes() / t.element_size()
    except NotImplementedError:    # sparse
        return t.numel()


def judge(task: Exercise, value: object) -> None:
    """Raise what the exercise's judge says, if the value is wrong."""
    for part in value if type(value) is tuple else (value,):
        if isinstance(part, Tensor) and strange(part):
            raise Says(
                f"{task.name} returned {describe(part)}, which cannot be compared. "
                f"{VALUES}")
    try:
        said = task.judge(value)
    except OverflowError:
        said = (f"{task.name} returned {describe(value)} with a number in it "
                "that is too large to be compared.")
    except Exception:
        said = (f"{task.name} returned {describe(value)}, which does not have "
                "the form that the exercise asks for. Compare it with the stub.")
    if said is not None:
        raise Says(said)


def defaults_changed() -> str:
    """Put torch's defaults back, and return what is wrong with changing them."""
    changed = [word for word, now, plain in (
        ("default dtype", torch.get_default_dtype(), torch.float32),
        ("default device", torch.get_default_device(), torch.device("cpu")),
        ("grad mode", torch.is_grad_enabled(), True),
    ) if now != plain]
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    return DEFAULTS.format(" and ".join(changed)) if changed else ""


def inputs_changed(args: tuple, before: tuple) -> str:
    """Return what is wrong with what was done to any of the inputs, or ''."""
    try:
        return next(filter(None, map(input_changed, args, before)), "")
    except Exception:    # of what stands there in an input's place
        return IN_PLACE


def input_changed(a: object, b: object) -> str:
    """Return what is wrong with what was done to an input a, which was as b is."""
    if isinstance(b, Tensor):
        if not equal(a, b):
            return IN_PLACE
        return GRADIENT if (a.grad is not None or a.requires_grad != b.requires_grad
                            ) else ""
    if isinstance(b, nn.Module):
        return "" if state(a) == state(b) and all(
            map(equal, a.state_dict().values(), b.state_dict().values())) else MODULE
    if type(b) in (list, tuple):
        if len(a) != len(b):
            return IN_PLACE
        return inputs_changed(a, b)
    return IN_PLACE if type(b) in PLAIN and a != b else ""


def state(module: nn.Module) -> tuple:
    """Return what can be compared with == of what an answer should leave as it is."""
    return (list(module.state_dict()), [m.training for m in module.modules()],
            [(p.requires_grad, p.grad is None) for p in module.parameters()])


def equal(a: Tensor, b: Tensor) -> bool:
    try:
        return torch.equal(a, b)
    except Exception:    # a is no longer a plain tensor
        return False


# Plain data --------------------------------------------------------------------


def plain(value: object, *, lenient: bool = False) -> object:
    """Return tensors detached and on the CPU, and anything odd as a word for it.

    lenient: take subclasses of tuple and list, and NumPy's numbers, for Python's.
    """
    try:
        if isinstance(value, Tensor):
            value = on_cpu(value)
            if value.numel() > MANY:
                return Odd(f"tensor of shape {shape(value)}", "")
            if type(value) is Tensor or strange(value):
                return value
        if lenient and isinstance(value, (np.generic, np.ndarray)) and (
                value.size <= MOST):
            return value.tolist()
        if type(value) in PLAIN:
            return value
        if isinstance(value, dict) and len(value) <= MOST:
            return {k: plain(v, lenient=lenient) for k, v in value.items()
                    if type(k) in PLAIN or isinstance(k, np.integer)}
        for sequence in (tuple, list):
            if type(value) is sequence or lenient and isinstance(value, sequence):
                if len(value) <= MOST:
                    return sequence(plain(v, lenient=lenient) for v in value)
    except Exception:    # a list that contains itself, an object that refuses
        pass
    if issubclass(type(value), Tensor):
        return Odd(f"tensor of the type {kind(value)}", "")
    return Odd(kind(value), printed(value))


def on_cpu(x: Tensor) -> Tensor:
    """Return a tensor detached and on the CPU, if that can be."""
    try:
        return x.detach().cpu()
    except Exception:    # a meta tensor has no values to bring
        return x


def strange(x: Tensor) -> str:
    """Return the word for a tensor whose values cannot be compared, else ''."""
    if x.device.type == "meta":
        return "meta"
    if x.is_nested:
        return "nested"
    if x.layout != torch.strided:
        return "sparse" if "sparse" in str(x.layout) else name(x.layout)
    return "quantized" if x.is_quantized else ""


def describe(value: object) -> str:
    """Return what a plain value is, in a few words: 'a tensor of shape (3, 5)'."""
    if isinstance(value, Tensor):
        odd = strange(value)
        return f"a {odd} tensor" if odd else f"a tensor of shape {shape(value)}"
    if value is None:
        return "None"
    if value == REFUSED:
        return REFUSED
    if isinstance(value, (bool, int, float)):
        return f"the {type(value).__name__} {printed(value)}"
    if isinstance(value, str):
        return f"the str {cut(repr(value), 40)}"
    word = value.kind if isinstance(value, Odd) else type(value).__name__
    return f"{'an' if word[0] in 'aeiouAEIOU' else 'a'} {word}"


def printed(value: object) -> str:
    """Return a value as text, cut at 40 characters."""
    if type(value) is Odd:
        return value.text
    try:
        text = " ".join(str(value).split())
    except Exception:    # Python prints no whole number of more than 4,300 digits
        return "what cannot be printed"
    return cut(text, 40)


def cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length - 3]}..."


def kind(value: object) -> str:
    return cut(type(value).__name__, 40)


def shape(x: Tensor) -> str:
    return str(tuple(x.shape))


def name(constant: torch.dtype | torch.layout) -> str:
    return str(constant).removeprefix("torch.")


# Exceptions --------------------------------------------------------------------


def failure(error: BaseException, inside: bool) -> Failure:
    if isinstance(error, Says):
        return Failure("Says", str(error), says=True, inside=inside)
    return Failure(kind(error), first_line(error), reader_line(error),
                   blank=raised_by_a_stub(error), inside=inside)


def first_line(error: BaseException) -> str:
    """Return an exception's message, or '' if it has none that can be printed."""
    try:
        text = str(error)[:10 * LONGEST].strip()
    except guard.TimeUp:
        raise
    except BaseException:
        return ""
    first = cut((text.splitlines() or [""])[0], LONGEST)
    return re.sub(r"\b0x[0-9a-f]+", "0x...", re.sub(r"[\w.]+\.<locals>\.", "", first))


def reader_line(error: BaseException) -> str:
    """Return the deepest line of the traceback that the reader wrote, or ''."""
    line = ""
    for frame, number in walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if not file.startswith(OTHERS):
            line = linecache.getline(file, number).strip() or line
    return cut(line, LONGEST)


def raised_by_a_stub(error: BaseException) -> bool:
    """True for the reader's own `raise NotImplementedError`, and not for torch's."""
    if not isinstance(error, NotImplementedError) or error.__traceback__ is None:
        return False
    at = error.__traceback__
    while at.tb_next is not None:
        at = at.tb_next
    code = at.tb_frame.f_code
    return (not code.co_filename.startswith(OTHERS)
            and code.co_code[at.tb_lasti] == dis.opmap["RAISE_VARARGS"])
