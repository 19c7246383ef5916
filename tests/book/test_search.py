"""Wrong answers that an exercise's inputs do not tell from the right one.

Each candidate is the reference answer with one operation, its input or its result
changed, as a reader might have it. Either some case of the exercise tells it, or
Hypothesis looks for an input that would: fewer pictures, keys or channels, other signs,
scores of 300. What it finds belongs among the cases.
"""

from collections import defaultdict

import pytest
import torch
from hypothesis import Phase, find, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cvattn.book.check import exercises
from cvattn.book.outcome import Calls, close, plain

EXERCISES = exercises()
TENSORS = [key for key, task in EXERCISES.items() if not task.judge
           and not isinstance(task.reference, type)
           and any(isinstance(a, Tensor) for a in task.cases()[0])
           and "clinic" not in key]
GIVEN = ("bam-6", "sk-9", "se-8")    # the operations are in a network that is given


class Instead(TorchFunctionMode):
    """Calls other functions in the place of those of these names."""

    def __init__(self, **others):
        super().__init__()
        self.others = others

    def __torch_function__(self, func, types, args=(), kwargs=None):
        func = self.others.get(getattr(func, "__name__", ""), func)
        return func(*args, **(kwargs or {}))


def with_operations(**others):
    def candidate(right, args):
        with Instead(**others):
            return right(*args)
    candidate.others = others
    return candidate


def with_inputs(change):
    def candidate(right, args):
        return right(*(change(a) if real(a) else a for a in args))
    return candidate


def with_result(change):
    def candidate(right, args):
        y = right(*args)
        return change(y) if isinstance(y, Tensor) else y
    return candidate


def real(a):
    return isinstance(a, Tensor) and a.is_floating_point()


def shared(e, dim):
    return e / e.sum(dim, keepdim=True)


def low(x, mask, value):
    return torch.where(mask, max(value, -100.0), x)


CANDIDATES = {
    "a softmax without its maximum": with_operations(
        softmax=lambda x, dim: shared(x.exp(), dim)),
    "a softmax with one maximum for all": with_operations(
        softmax=lambda x, dim: shared((x - x.max()).exp(), dim)),
    "a softmax that adds 1e-8 below": with_operations(
        softmax=lambda x, dim: x.softmax(dim) * (1 - 1e-3)),
    "-100 for minus infinity": with_operations(masked_fill=low),
    "trunc for floor": with_operations(floor=torch.trunc),
    "no relu": with_operations(relu=lambda x: x),
    "abs for relu": with_operations(relu=torch.abs),
    "a relu that leaks": with_operations(relu=lambda x: torch.where(x > 0, x, x / 9)),
    "a hard sigmoid": with_operations(sigmoid=lambda x: x.clamp(0, 1)),
    "the mean for the maximum": with_operations(
        amax=lambda x, dim, keepdim=False: x.mean(dim, keepdim)),
    "the largest magnitude": with_operations(
        amax=lambda x, dim, keepdim=False: x.abs().amax(dim, keepdim)),
    "squeeze()": with_result(torch.squeeze),
    "the first for all": with_result(lambda y: y[:1].expand_as(y) if y.ndim else y),
    "no negative result": with_result(torch.relu),
    "inputs without sign": with_inputs(torch.abs),
}


def groups(task):
    """Return lists of (argument, axis) whose sizes are equal in all cases."""
    cases, sizes = task.cases(), defaultdict(list)
    for i, a in enumerate(cases[0]):
        for axis in range(a.ndim if isinstance(a, Tensor) else 0):
            length = tuple(args[i].shape[axis] for args in cases
                           if isinstance(args[i], Tensor) and args[i].ndim == a.ndim)
            if len(length) == len(cases):
                sizes[length].append((i, axis))
    return [group for length, group in sizes.items()
            if len(set(length)) > 1 or len(cases) == 1]    # 2 coordinates stay 2


def signed(task):
    """Return which arguments have both signs, and so may have any values."""
    cases = task.cases()
    return [i for i, a in enumerate(cases[0]) if real(a)
            and any((args[i] > 0).any() and (args[i] < 0).any() for args in cases)]


def changed(args, cuts, scales):
    """Return arguments with some axes cut to a length of 1, and others' values."""
    out = list(args)
    for i, axis in (place for group in cuts for place in group):
        out[i] = out[i].narrow(axis, 0, min(1, out[i].shape[axis]))
    for i, scale in scales.items():
        out[i] = out[i] * scale
    return out


def tells(task, candidate, args):
    """Does this input tell the candidate from the right answer?"""
    try:
        right = plain(task.call(task.reference, *args))
    except Exception:
        return False    # no input for this exercise
    if real(right) and not right.isfinite().all():
        return False
    try:
        other = plain(task.call(lambda *a: candidate(task.reference, a), *args))
    except Exception:
        return True
    return not close(other, right, task.rtol)


def told_by(task, candidate):
    """Return an input that tells a candidate from the right answer, or None."""
    cases = task.cases()
    some = st.lists(st.sampled_from(groups(task)), max_size=2, unique_by=str)
    scales = st.fixed_dictionaries(
        {i: st.sampled_from((1.0, -1.0, 300.0)) for i in signed(task)})
    inputs = st.builds(changed, st.sampled_from(cases), some, scales)
    try:
        return find(inputs, lambda args: tells(task, candidate, args),
                    settings=settings(max_examples=20, derandomize=True, database=None,
                                      deadline=None, phases=[Phase.generate]))
    except NoSuchExample:
        return None


def short(a):
    return f"{tuple(a.shape)} from {a.min():.3g} to {a.max():.3g}" if real(a) else a


def calls(task):
    """Return the names of torch's functions that the reference calls."""
    names = set()
    for args in task.cases():
        if not task.refuses(*args):
            with Calls(names):
                task.call(task.reference, *args)
    return names


@pytest.mark.parametrize("key", TENSORS)
def test_the_cases_tell_every_candidate_that_any_input_tells(key):
    task, missed = EXERCISES[key], {}
    cases, names = task.cases(), set() if key in GIVEN else calls(task)
    for name, candidate in CANDIDATES.items():
        if hasattr(candidate, "others") and not names & candidate.others.keys():
            continue
        if not any(tells(task, candidate, args) for args in cases):
            args = told_by(task, candidate)
            if args is not None:
                missed[name] = [short(a) for a in args]
    assert not missed, missed
