"""Every exercise and the slips that anybody makes: each verdict is sane.

A slip spoils what the reference answer returns. Whatever it is, the verdict is not
"right", it is short, it names shapes, indices and counts as they are, it uses no other
chapter's words, and it names no mistake but one that the slip is in every case.
"""

import functools
import re

import nbformat
import pytest
import torch
from conftest import ROOT
from test_check import assert_no_inner_code, flat
from torch import Tensor

from cvattn.book import check
from cvattn.book.check import compared, exercises, fill, mistakes, wanted_of, words_of
from cvattn.book.outcome import Odd, outcomes

EXERCISES = exercises()
FUNCTIONS = [key for key, task in EXERCISES.items() if not task.judge
             and (key in ("clinic-1", "clinic-5") or "clinic" not in key)]


def of_tensors(spoil):
    """A slip with tensors alone; it leaves other results as they are."""
    return lambda y, n: spoil(y) if isinstance(y, Tensor) else y


def of_numbers(spoil):
    def slip(y, n):
        whole = isinstance(y, (int, float)) and not isinstance(y, bool)
        return spoil(y) if whole else y
    return slip


def of_sequences(spoil):
    return lambda y, n: spoil(y) if isinstance(y, (list, tuple)) and y else y


def lost(y, value):
    """Return y with one number lost."""
    y = y.clone()
    y.view(-1)[-1:] = value
    return y


def grown(y):
    """Return y with its last axis longer by one."""
    return torch.cat([y, y[..., -1:]], dim=-1) if y.ndim else y[None]


def moved(y):
    return y.transpose(-1, -2) if y.ndim > 1 else y.flip(0)


SLIPS = {
    "longer": of_tensors(grown),
    "shorter": of_tensors(lambda y: y[..., 1:]),
    "twice": of_tensors(lambda y: torch.cat([y, y])),
    "transposed": of_tensors(moved),
    "squeezed": of_tensors(torch.squeeze),
    "unsqueezed": of_tensors(lambda y: y[None]),
    "unsqueezed behind": of_tensors(lambda y: y[..., None]),
    "flattened": of_tensors(torch.flatten),
    "empty": of_tensors(lambda y: y[:0]),
    "the first alone": of_tensors(lambda y: y[:1]),
    "summed": of_tensors(torch.sum),
    "half": of_tensors(Tensor.half),
    "double": of_tensors(lambda y: y.float() if y.dtype == torch.float64
                         else y.double()),
    "whole": of_tensors(Tensor.long),
    "true": of_tensors(lambda y: y > 0),
    "complex": of_tensors(lambda y: y + 0j),
    "negative": of_tensors(torch.neg),
    "one more": of_tensors(lambda y: y + 1),
    "rolled": of_tensors(lambda y: y.roll(1, -1)),
    "rolled over pictures": of_tensors(lambda y: y.roll(1, 0)),
    "turned": of_tensors(lambda y: y.flip(0)),
    "mixed": of_tensors(lambda y: y.mean(0, keepdim=True).expand_as(y)),
    "one NaN": of_tensors(lambda y: lost(y, torch.nan)),
    "one inf": of_tensors(lambda y: lost(y, torch.inf)),
    "all NaN": of_tensors(lambda y: y * torch.nan),
    "one off": of_tensors(lambda y: lost(y, 77.0)),
    "list": of_tensors(Tensor.tolist),
    "number": of_tensors(lambda y: y.sum().item()),
    "array": of_tensors(lambda y: y.numpy(force=True)),
    "tuple": of_tensors(lambda y: (y,)),
    "sparse": of_tensors(Tensor.to_sparse),
    "one too many": of_numbers(lambda y: y + 1),
    "one too few": of_numbers(lambda y: y - 1),
    "other sign": of_numbers(lambda y: -y),
    "divided": of_numbers(float),
    "as a tensor": of_numbers(torch.tensor),
    "as text": of_numbers(str),
    "truth": of_numbers(bool),
    "reversed": of_sequences(lambda y: y[::-1]),
    "without the last": of_sequences(lambda y: y[:-1]),
    "other sequence": of_sequences(lambda y: tuple(y) if isinstance(y, list)
                                   else list(y)),
    "joined": of_sequences(str),
    "none": lambda y, n: None if n else y,
    "word": lambda y, n: "channel" if y != "channel" else "branch",
    "not": lambda y, n: not y if isinstance(y, bool) else y,
    "none but the first": lambda y, n: y if n == 0 else torch.zeros(3, 2),
    "NaN on the last": lambda y, n: y * torch.nan if n and isinstance(y, Tensor) else y,
    "wrong on the last": lambda y, n: torch.full_like(y, 3) if n and isinstance(
        y, Tensor) and y.is_floating_point() else y,
    "odd": lambda y, n: Odd("thing", ""),
}


def slipped(key, slip):
    """Return the reference answer with a slip in what it returns."""
    right, number = EXERCISES[key].reference, iter(range(10**6))
    if isinstance(right, type):
        return type(right.__name__, (right,), {
            "forward": lambda self, x: slip(right.forward(self, x), next(number))})
    return lambda *args: slip(right(*args), next(number))


SENTENCE = re.compile(
    r"returned shape (?P<got>\(.*?\)), and should return (?P<want>\([^()]*\))"
    r"|(?P<bad>\d+) of (?P<all>\d+) (values? (?P<verb>is|are) off|places)")


def assert_true(text, got, want):
    """Whatever numbers a verdict tells of a tensor are those of the first bad case."""
    a, b = got.value, want.value
    for m in SENTENCE.finditer(text):
        if m["got"]:
            assert (m["got"], m["want"]) == (str(tuple(a.shape)), str(tuple(b.shape)))
        elif "values" in m[0] or "value" in m[0]:
            assert int(m["all"]) == a.numel() and 0 < int(m["bad"]) <= a.numel()
            assert m["verb"] == ("is" if m["bad"] == "1" else "are")
        else:
            assert (int(m["bad"]), int(m["all"])) == (
                int((~a.isfinite()).sum()), a.numel())
    at = re.search(
        r"(?:at|:) \[([\d, ]*)\],? is (\S+) and should be (\S+?)\.?( |$)", text)
    if at:
        index = tuple(int(i) for i in at[1].split(",")) if at[1] else ()
        assert a.shape == b.shape and len(index) == a.ndim
        for told, value in ((at[2], a[index]), (at[3], b[index])):
            assert float(told.rstrip(".")) == pytest.approx(
                value.item(), rel=1e-3, nan_ok=True)


def own_words(key):
    """The words for axes that a verdict on this exercise may use."""
    return {word for _, word in words_of(EXERCISES[key].axes)}


def assert_sane(key, verdict, got):
    """got: what the answer did, in every case."""
    task, text = EXERCISES[key], flat(verdict)
    wanted = wanted_of(task)
    assert_no_inner_code(fill(verdict))
    assert 20 < len(text) < 700
    first = next(i for i, o in enumerate(got) if not o.same(wanted[i], task.rtol))
    if got[first].error is None and isinstance(wanted[first].value, Tensor):
        assert_true(text, got[first], wanted[first])
    elif not isinstance(wanted[first].value, dict):
        assert "off. The first" not in text and " at [" not in text
    for word in re.findall(r"\b\w+=\d+ ([a-z ]+?)(?:,|\.|$)", text):
        assert word in own_words(key)
    if got[first].error and got[first].error.says:
        return    # the exercise's own words
    for message, theirs in mistakes(task):
        if text.startswith(flat(message)):
            assert all(a.same(b, task.rtol) for a, b in zip(got, theirs, strict=True))


@pytest.mark.parametrize("key", FUNCTIONS)
def test_a_slip_in_the_result_gets_a_sane_verdict(key):
    task, seen = EXERCISES[key], 0
    wanted = wanted_of(task)
    for name, slip in SLIPS.items():
        got = outcomes(task, slipped(key, slip))
        if all(a.same(b, task.rtol) for a, b in zip(got, wanted, strict=True)):
            continue    # another kind of result, or one that the slip leaves alone
        verdict, seen = compared(task, got), seen + 1
        assert verdict, f"{name} is called right"
        try:
            assert_sane(key, verdict, got)
        except AssertionError as error:
            raise AssertionError(f"{name}: {verdict}") from error
    assert seen >= 4


# Slips in how an answer is run ----------------------------------------------------


def of_kind(error):
    def raises(right, args):
        raise error
    return raises


def other_error(right, args):
    """A ValueError by another name."""
    try:
        return right(*args)
    except ValueError:
        raise KeyError("no") from None


def tensors(args):
    return [a for a in args if isinstance(a, Tensor) and a.is_floating_point()]


def in_place(right, args):
    y = right(*args)
    for a in tensors(args):
        a.mul_(2)
    return y


def leaves_a_gradient(right, args):
    y = right(*args)
    for a in tensors(args):
        with torch.enable_grad():
            a.requires_grad_().sum().backward()
    return y


def default_device(right, args):
    torch.set_default_device("meta")
    return right(*args)


def default_dtype(right, args):
    y = right(*args)
    torch.set_default_dtype(torch.float64)
    return y


TOLD = {
    "AssertionError": (of_kind(AssertionError("no")), "stopped with AssertionError"),
    "KeyError": (of_kind(KeyError(3)), "stopped with KeyError: 3"),
    "an end": (of_kind(SystemExit()), "stopped with SystemExit"),
    "other error": (other_error, "It should raise a ValueError"),
    "in place": (in_place, "changes its input in place"),
    "a gradient": (leaves_a_gradient, "but leaves a gradient on its input"),
    "default device": (default_device, ""),
    "default dtype": (default_dtype, "but changes torch's default dtype"),
}


def applies(key, slip):
    task = EXERCISES[key]
    if isinstance(task.reference, type) or "clinic" in key:
        return slip in ("AssertionError", "KeyError", "an end")
    cases = task.cases()
    if slip == "other error":
        return any(task.refuses(*args) for args in cases)
    if key == "attention-8":    # works on a copy, for which it wants a gradient
        return slip not in ("in place", "a gradient")
    return slip not in ("in place", "a gradient") or any(map(tensors, cases))


@pytest.mark.parametrize(("key", "slip"), [
    (key, slip) for key in FUNCTIONS for slip in TOLD if applies(key, slip)])
def test_a_slip_on_the_way_is_told_for_what_it_is(key, slip):
    task, (deed, told) = EXERCISES[key], TOLD[slip]

    def answer(*args):
        return deed(task.reference, args)

    if isinstance(task.reference, type):
        answer = type("Repaired", (task.reference,), {"forward": answer})
    verdict = check(key, answer)
    assert not verdict and len(str(verdict)) < 700
    assert flat(verdict).startswith(f"{key}: not yet. ") and told in flat(verdict)
    assert_no_inner_code(str(verdict))


# The words for axes ---------------------------------------------------------------


COMMON = {"pictures", "channels", "rows", "columns"}


@functools.cache
def text_of(chapter):
    """Return the words of a chapter's exercises."""
    path = ROOT / "chapters" / f"{chapter}_exercises.ipynb"
    return " ".join(cell.source for cell in nbformat.read(path, 4).cells).lower()


@pytest.mark.parametrize("key", [k for k in FUNCTIONS if EXERCISES[k].axes])
def test_the_axes_have_names_that_the_exercises_use(key):
    text = text_of(key.split("-")[0])
    for word in own_words(key) - COMMON:
        stems = [w.rstrip("s").removesuffix("ie") for w in word.split() if len(w) > 2]
        assert any(stem in text for stem in stems), word


@pytest.mark.parametrize("key", FUNCTIONS)
def test_every_axis_of_a_tensor_has_a_name(key):
    task = EXERCISES[key]
    for outcome in wanted_of(task):
        for value in outcome.value.values() if isinstance(outcome.value, dict) else (
                outcome.value,):
            if isinstance(value, Tensor) and outcome.own:
                assert len(words_of(task.axes)) == value.ndim
