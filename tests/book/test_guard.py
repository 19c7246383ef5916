"""Hostile answers: a verdict within seconds, and nothing left behind."""

import dataclasses
import math
import random
import sys
import threading
import time
import warnings
from itertools import count, repeat

import numpy as np
import pytest
import torch
from test_check import BlankClass, flat, written
from torch import nn
from torch.nn import functional as F

from cvattn.book import check, guard
from cvattn.book.check import exercises
from cvattn.book.guard import TimeUp, guarded
from cvattn.book.outcome import WAYS, Calls

EXERCISES = exercises()
KEYS = [key for key in EXERCISES if key == "clinic-1" or "clinic" not in key]


@pytest.fixture
def soon(monkeypatch):
    """Short limits, and an event that ends what the guard could not end."""
    monkeypatch.setattr(guard, "LIMIT", 0.3)
    monkeypatch.setattr(guard, "GRACE", 0.1)
    monkeypatch.setattr(guard, "ASLEEP", 2)
    end = threading.Event()
    yield end
    end.set()


def mean(x):
    return x.mean(dim=(2, 3))


def right_then(deed):
    """Return an answer to se-1 that does something, and returns the right values."""
    def squeeze(x):
        deed()
        return mean(x)
    return squeeze


# Answers that do not end ---------------------------------------------------------


def for_ever(x):
    while True:
        pass


def on_the_second_input(x):
    while len(x) != 3:
        time.sleep(0.001)
    return mean(x)


@pytest.mark.parametrize("answer, at", [
    (for_ever, "squeeze(x) with x (3, 5, 7, 11)"),
    (on_the_second_input, "squeeze(x) with x ("),
])
def test_an_answer_without_an_end_is_stopped_and_told_where(soon, answer, at):
    before = threading.active_count()
    text = flat(check("se-1", answer))
    assert text.startswith(f"se-1: not yet. {at}")
    assert "did not come to an end within 0.3 seconds" in text
    assert threading.active_count() == before, "the thread has ended"


def test_time_in_which_an_answer_does_not_run_is_not_counted(monkeypatch):
    if not hasattr(time, "pthread_getcpuclockid"):
        pytest.skip("no thread has a clock of its own here")
    monkeypatch.setattr(guard, "LIMIT", 0.5)
    assert check("se-1", right_then(lambda: time.sleep(0.2)))


def test_an_answer_that_cannot_be_stopped_is_left(soon):
    def catches_all(x):
        while not soon.is_set():
            try:
                soon.wait(0.01)
            except BaseException:
                pass

    for answer in (catches_all, lambda x: soon.wait()):
        assert "did not come to an end" in flat(check("se-1", answer))
    assert check("se-1", mean)


@pytest.mark.parametrize("key", KEYS)
def test_an_endless_answer_to_any_exercise_is_stopped(soon, monkeypatch, key):
    monkeypatch.setattr(guard, "LIMIT", 0.02)
    monkeypatch.setitem(
        EXERCISES, key, dataclasses.replace(EXERCISES[key], seconds=None))

    def answer(*args):
        while True:
            pass

    if EXERCISES[key].name == "Repaired":
        answer = type("Repaired", (BlankClass,), {"forward": answer})
    assert "did not come to an end within 0.02 seconds" in flat(check(key, answer))


def test_an_endless_method_of_what_is_returned_is_stopped(soon):
    class Sleepy:
        def __repr__(self):
            while True:
                pass

    assert "did not come to an end" in flat(check("se-1", lambda x: Sleepy()))


def test_a_first_wrong_case_is_told_before_a_later_one_without_an_end(soon):
    def squeeze(x):
        return mean(x) + 1 if len(x) == 3 else for_ever(x)

    assert "15 of 15 values are off" in flat(check("se-1", squeeze))


def test_the_readers_own_interrupt_passes_and_ends_the_answer(monkeypatch):
    def interrupt(self, seconds=None):
        monkeypatch.undo()
        raise KeyboardInterrupt

    before = threading.active_count()
    monkeypatch.setattr(threading.Thread, "join", interrupt)
    with pytest.raises(KeyboardInterrupt):
        guarded(lambda: for_ever(0), 5)
    assert threading.active_count() == before


def test_guarded_hands_on_what_comes_and_what_is_raised():
    assert guarded(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 / 0)
    with pytest.raises(TimeUp):
        guarded(lambda: for_ever(0), 0.05)


# Answers that raise ---------------------------------------------------------------


class Wordless(BaseException):
    def __str__(self):
        raise SystemExit


@pytest.mark.parametrize("error", [
    SystemExit("bye"), KeyboardInterrupt(), GeneratorExit(), BaseException("base"),
    Wordless(), StopIteration(), MemoryError(), RuntimeError("a." * 500_000),
    ValueError("<locals>." * 100_000), KeyError("x\n" * 100_000), TimeUp(),
    ExceptionGroup("many", [ValueError(i) for i in range(5000)]),
], ids=lambda e: type(e).__name__)
def test_whatever_is_raised_is_told_in_a_few_lines(error):
    def squeeze(x):
        raise error

    verdict = check("se-1", squeeze)
    assert not verdict and len(str(verdict)) < 600
    if type(error) is not TimeUp:
        assert f"stopped with\n    {type(error).__name__}" in str(verdict)


def test_a_recursion_without_end_is_told():
    def squeeze(x):
        return squeeze(x)

    assert "RecursionError" in flat(check("se-1", squeeze))


def test_an_error_of_torch_for_what_it_has_not_implemented_is_no_stub(tmp_path):
    def not_there(x):
        return torch.ops.aten.foreach_no_such(x) if False else x.bool().mean((2, 3))

    assert "stopped with" in flat(check("se-1", not_there))
    answer = written("""
        def squeeze(x):
            return torch.empty(3, device="meta").item()
        """, "squeeze", tmp_path)
    text = flat(check("se-1", answer))
    assert "nothing here yet" not in text and "stopped with" in text


# Answers that return what cannot be looked at -------------------------------------


class Refuses:
    """Every look at it raises."""

    def refuse(self, *args):
        raise ArithmeticError

    __eq__ = __repr__ = __str__ = __len__ = __iter__ = __bool__ = refuse
    __getattr__ = __hash__ = __format__ = __index__ = __float__ = refuse
    __class__ = property(refuse)


class RefusingDict(dict):
    def __len__(self):
        raise ArithmeticError
    __iter__ = keys = values = items = __contains__ = __len__


circular = []
circular.append(circular)


VALUES = {
    "refuses": Refuses(), "refusing dict": RefusingDict(a=1), "circular": circular,
    "endless": count(), "endless too": repeat(1), "text": "x" * 10**6,
    "long": list(range(20_000)), "parts": {"plain": count(), "se": count(),
                                          "interval": count()},
    "three": (Refuses(), Refuses(), Refuses()), "whole": 10**5000, "class": object,
    "nan": float("nan"), "complex": 1j, "range": range(3), "numpy": np.float64(0.5),
    "stretched": torch.zeros(1).expand(5 * 10**7), "empty": torch.zeros(0, 3),
}


@pytest.mark.parametrize("key", KEYS)
def test_whatever_is_returned_gets_a_short_verdict(key):
    for name, value in VALUES.items():
        answers = [lambda *args, value=value: value]
        if EXERCISES[key].judge:
            answers.append(value)
        for answer in answers:
            verdict = check(key, answer)
            assert not verdict and len(str(verdict)) < 700, f"{name}: {verdict}"


# What is left behind --------------------------------------------------------------


def state():
    """What an answer could change for the notebook."""
    return (
        torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"),
        torch.get_rng_state().tolist(), torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled(),
        str(np.random.get_state()), random.getstate(), sys.getrecursionlimit(),
        str(torch.tensor([1 / 3])), warnings.filters[:], sys.stdout, sys.stderr,
    )


def switch_off_output():
    sys.stdout = sys.stderr = None


DEEDS = {
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "device": lambda: torch.set_default_device("meta"),
    "device cpu": lambda: torch.set_default_device("cpu"),
    "entered": lambda: torch.device("meta").__enter__(),
    "grad": lambda: torch.set_grad_enabled(False),
    "inference": lambda: torch.inference_mode().__enter__(),
    "autocast": lambda: torch.autocast("cpu").__enter__(),
    "seed": lambda: (torch.manual_seed(7), np.random.seed(7), random.seed(7)),
    "draw": lambda: (torch.rand(3), np.random.rand(3), random.random()),
    "threads": lambda: torch.set_num_threads(3),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "recursion": lambda: sys.setrecursionlimit(5000),
    "options": lambda: torch.set_printoptions(precision=1),
    "warnings": lambda: warnings.simplefilter("error"),
    "output": switch_off_output,
    "closed": lambda: sys.stdout.close(),
}


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("key", ["se-1", "clinic-1", "sk-4", "se-10"])
def test_nothing_is_left_behind(deed, key):
    before = state()

    def answer(*args):
        DEEDS[deed]()
        return EXERCISES[key].reference(*args)

    check(key, answer)
    assert state() == before
    assert check(key, EXERCISES[key].reference)


@pytest.mark.parametrize("deed, told", [
    ("dtype", "default dtype"), ("device", "default device"), ("grad", "grad mode"),
    ("entered", "default device"),
])
def test_a_default_that_is_changed_for_all_is_told(deed, told):
    text = flat(check("se-1", right_then(DEEDS[deed])))
    assert text.startswith("se-1: not yet. squeeze(x) with x (3, 5, 7, 11) returns the "
                           f"right values, but changes torch's {told}")


@pytest.mark.parametrize("deed", ["seed", "draw", "device cpu", "closed", "output"])
def test_what_harms_nobody_is_right(deed):
    assert check("se-1", right_then(DEEDS[deed]))


def test_a_draw_is_the_same_every_time():
    drawn = []

    def squeeze(x):
        drawn.append((torch.rand(()).item(), np.random.rand(), random.random()))
        return mean(x)

    assert check("se-1", squeeze) and check("se-1", squeeze)
    assert len(drawn) % 2 == 0 and drawn[:len(drawn) // 2] == drawn[len(drawn) // 2:]


def test_what_is_printed_is_shown_and_cut(capsys):
    assert check("se-1", right_then(lambda: print("here")))
    assert capsys.readouterr().out.splitlines() == ["here"] * len(
        EXERCISES["se-1"].cases())
    assert check("se-1", right_then(lambda: print("x" * 10**7)))
    out = capsys.readouterr().out
    assert len(out) < 2100 and out.endswith("characters more\n")


# Gradients, and what an exercise is to be done without -----------------------------


def leaves_a_gradient(x):
    x.requires_grad_()
    z = mean(x)
    z.sum().backward()
    return z


def test_a_gradient_left_on_an_input_is_told():
    for answer in (leaves_a_gradient, lambda x: mean(x.requires_grad_())):
        text = flat(check("se-1", answer))
        assert "returns the right values, but leaves a gradient on its input" in text


def test_a_result_with_a_gradient_of_its_own_is_right():
    assert check("se-1", lambda x: mean(x) + torch.zeros(1, requires_grad=True))


@pytest.mark.parametrize("meddle", [
    lambda sk: sk.train(), lambda sk: sk.requires_grad_(False),
    lambda sk: sk.bn.running_mean.add_(1), lambda sk: delattr(sk, "bn"),
    lambda sk: sk.bn.weight.grad.__class__ if sk.bn.weight.grad is not None
    else setattr(sk.bn.weight, "grad", torch.ones_like(sk.bn.weight)),
])
def test_a_module_that_comes_back_changed_is_told(meddle):
    def swap(sk, x, donor):
        y = EXERCISES["sk-9"].reference(sk, x, donor)
        meddle(sk)
        return y

    assert "but changes the module that it was given" in flat(check("sk-9", swap))


def test_a_list_that_comes_back_changed_is_told():
    def reach(dilations):
        offsets = EXERCISES["sk-7"].reference(dilations)
        dilations.append(7)
        return offsets

    assert "changes its input in place" in flat(check("sk-7", reach))


def test_an_input_that_cannot_be_looked_at_any_more_counts_as_changed():
    def reach(dilations):
        offsets = EXERCISES["sk-7"].reference(dilations)
        dilations[:] = [Refuses() for _ in dilations]
        return offsets

    def fails(dilations):
        reach(dilations)
        raise ValueError

    assert "changes its input in place" in flat(check("sk-7", reach))
    assert "stopped with ValueError" in flat(check("sk-7", fails))


def by_softmax():
    torch.ones(3).softmax(0)


def by_exp():
    torch.e ** torch.ones(3)


def by_autograd():
    with torch.enable_grad():
        torch.ones(3, requires_grad=True).sum().backward()


def by_grid_sample():
    F.grid_sample(torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 2, 2), align_corners=False)


FORBIDDEN = {"softmax": by_softmax, "exp": by_exp, "autograd": by_autograd,
             "grid_sample": by_grid_sample, "sigmoid": lambda: torch.ones(3).sigmoid()}


@pytest.mark.parametrize(("key", "way"), [
    (key, way) for key, task in EXERCISES.items() for way in task.without])
def test_what_an_exercise_is_to_be_done_without_is_told(key, way):
    def answer(*args):
        FORBIDDEN[way]()
        return EXERCISES[key].reference(*args)

    assert f"right values, but by way of {way}" in flat(check(key, answer))


def test_every_way_that_can_be_forbidden_is_told_in_all_its_forms():
    for way in (lambda a: a.softmax(1), lambda a: torch.softmax(a, 1),
                lambda a: nn.Softmax(1)(a), lambda a: F.softmax(a, 1),
                lambda a: a.log_softmax(1).sigmoid(), lambda a: a.exp(),
                lambda a: torch.exp(a), lambda a: a.clone().exp_(),
                lambda a: torch.logsumexp(a, 1), lambda a: math.e ** a,
                lambda a: F.scaled_dot_product_attention(a, a, a)):
        def answer(z, A, way=way):
            way(torch.einsum("bd, mcd -> bmc", z, A))
            return EXERCISES["sk-4"].reference(z, A)

        assert "right values, but by way of" in flat(check("sk-4", answer))
    assert set(FORBIDDEN) == set(WAYS)


def test_autograd_is_seen_however_it_is_asked():
    def loss(w):
        return (w ** 2).sum()

    w = torch.ones(3)
    for way in (torch.func.grad(loss), torch.func.jacrev(loss),
                lambda w: torch.autograd.functional.jacobian(loss, w),
                lambda w: torch.func.jvp(loss, (w,), (w,))):
        seen = set()
        with Calls(seen):
            way(w)
        assert seen & WAYS["autograd"]


@pytest.mark.parametrize("key", [
    key for key, task in EXERCISES.items() if task.room(*task.cases()[0]) < math.inf])
def test_a_tensor_too_large_on_the_way_is_told(key):
    task = EXERCISES[key]

    def answer(*args):
        torch.ones(int(task.room(*args)) + 1)
        return task.reference(*args)

    assert "but makes a tensor of more than" in flat(check(key, answer))
