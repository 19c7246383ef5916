"""The exercises' checks: the reference passes, and every mistake is named."""

import dataclasses
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cvattn import SE
from cvattn.book import check
from cvattn.book.check import exercises, mistakes, review, wanted_of, words_of
from cvattn.book.exercises.se import INTERVALS, paired, report_of
from cvattn.book.guard import guarded
from cvattn.book.outcome import outcomes

EXERCISES = exercises()
FUNCTIONS = [k for k, task in EXERCISES.items() if not task.judge]
MISTAKES = [
    pytest.param(key, wrong, id=f"{key}-{i}")
    for key, task in EXERCISES.items() for i, wrong in enumerate(task.wrong)
]


def flat(text: object) -> str:
    return " ".join(str(text).split())


def written(source: str, name: str, tmp_path) -> object:
    """Return what a reader's file defines, so that its lines can be quoted."""
    file = tmp_path / "answer.py"
    file.write_text(textwrap.dedent(source))
    space = {"torch": torch, "nn": nn}
    exec(compile(file.read_text(), str(file), "exec"), space)
    return space[name]


@pytest.mark.parametrize("key", EXERCISES)
def test_the_reference_passes(key):
    verdict = check(key, EXERCISES[key].reference)
    assert verdict and verdict.ok
    assert repr(verdict).startswith(f"{key}: right. ")
    assert repr(verdict) == repr(check(key, EXERCISES[key].reference))


@pytest.mark.parametrize(("key", "wrong"), MISTAKES)
def test_every_known_mistake_is_named(key, wrong):
    verdict = check(key, wrong.answer)
    assert not verdict
    assert_named(verdict, key, wrong)


def assert_named(verdict, key, wrong):
    """The message stands there, and after it nothing but where it was seen."""
    told, _, seen = str(verdict).partition("\nSeen at ")
    assert flat(told) == flat(f"{key}: not yet. {wrong.message}")
    assert not seen or seen.startswith(EXERCISES[key].name)


@pytest.mark.parametrize("key", EXERCISES)
def test_every_mistake_has_a_message_of_its_own(key):
    messages = [wrong.message for wrong in EXERCISES[key].wrong]
    assert len(messages) >= 8
    assert len(set(messages)) == len(messages)
    assert all(40 < len(m) < 400 or m.endswith((".", ":")) for m in messages)


def not_implemented(*args, **kwargs):
    raise NotImplementedError


class BlankClass(nn.Module):
    def __init__(self, channels, reduction):
        super().__init__()
        self.W1 = nn.Linear(channels, channels // reduction, bias=False)
        self.W2 = nn.Linear(channels // reduction, channels, bias=False)

    def forward(self, x):
        ...


class BareClass(nn.Module):
    def __init__(self, channels, reduction):
        raise NotImplementedError


@pytest.mark.parametrize("key", EXERCISES)
@pytest.mark.parametrize(
    "stub", [None, ..., not_implemented, lambda *a, **k: None, lambda *a, **k: ...]
)
def test_an_empty_stub_gets_a_kind_word(key, stub):
    if EXERCISES[key].name == "Repaired" and callable(stub):
        stub = BareClass if stub is not_implemented else BlankClass
    verdict = check(key, stub)
    assert not verdict
    assert str(verdict).startswith(f"{key}: nothing here yet.")


def no_return(x):
    z = x.mean((2, 3))    # noqa: F841


def no_return_by_names(*args):
    torch.relu(args[-1])


class NoReturn(BlankClass):
    def forward(self, x):
        s = torch.sigmoid(self.W2(torch.relu(self.W1(x.mean((2, 3))))))
        x * s[:, :, None, None]


@pytest.mark.parametrize("key, answer, call", [
    ("se-1", no_return, "squeeze(x) with x (3, 5, 7, 11)"),
    ("se-1", torch.no_grad()(no_return), "squeeze(x) with x (3, 5, 7, 11)"),
    ("se-1", [].append, "squeeze(x) with x (3, 5, 7, 11)"),
    ("se-4", NoReturn, "Repaired(10, 2, x) with x (3, 10, 5, 7)"),
    ("se-6", lambda: print(end=""), "twins()"),
    ("se-9", no_return_by_names,
     "block_forward('standard', residual, shortcut, attention, x) with x (3, 6, 7, 5)"),
])
def test_a_forgotten_return_is_not_an_empty_stub(key, answer, call):
    assert flat(check(key, answer)) == (
        f"{key}: not yet. {call} returned None. Is the `return` missing?")


def test_a_stub_below_a_decorator_is_still_a_stub():
    @torch.no_grad()
    def squeeze(x):
        """Return the mean."""

    assert "nothing here yet" in str(check("se-1", squeeze))


def test_a_return_forgotten_in_one_branch_alone_is_told():
    def block_forward(place, *rest):
        if place != "post":
            return EXERCISES["se-9"].reference(place, *rest)

    text = flat(check("se-9", block_forward))
    assert "block_forward('post', residual, shortcut, attention, x)" in text
    assert text.endswith("(3, 6, 7, 5) returned None. Is the `return` missing?")


@pytest.fixture(params=["float64", "meta"])
def other_defaults(request):
    """A notebook that has set another dtype, or another device, for its tensors."""
    if request.param == "float64":
        torch.set_default_dtype(torch.float64)
    else:
        torch.set_default_device("meta")
    yield request.param
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def no_cache():
    wanted_of.cache_clear()
    mistakes.cache_clear()
    yield
    wanted_of.cache_clear()
    mistakes.cache_clear()


@pytest.mark.parametrize("key", EXERCISES)
def test_the_notebooks_defaults_change_no_verdict(key, no_cache, other_defaults):
    task = EXERCISES[key]
    assert check(key, task.reference)
    for wrong in task.wrong:
        verdict = check(key, wrong.answer)
        assert not verdict
        assert_named(verdict, key, wrong)
    now = torch.get_default_dtype(), torch.empty(0).device.type
    assert now == {"float64": (torch.float64, "cpu"),
                   "meta": (torch.float32, "meta")}[other_defaults]


def test_an_answer_that_sets_the_default_dtype_spoils_no_reference(no_cache):
    def squeeze(x):
        torch.set_default_dtype(torch.float64)
        return x.mean((2, 3))

    assert "changes torch's default dtype" in flat(check("se-1", squeeze))
    assert torch.get_default_dtype() == torch.float32
    assert check("se-1", EXERCISES["se-1"].reference)


def test_guarded_restores_after_an_error():
    def work():
        assert torch.empty(0).dtype == torch.float32
        raise KeyError

    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(KeyError):
            guarded(work)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_reference_that_fails_is_our_mistake_and_loud():
    def broken(x):
        raise TypeError("a mistake of the book")

    task = dataclasses.replace(EXERCISES["se-1"], reference=broken)
    for answer in (broken, EXERCISES["se-1"].reference):
        with pytest.raises(RuntimeError, match="not yours.*a mistake of the book"):
            review(task, answer)


class Silent(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def silent(*args):
    raise Silent


class Odd(torch.Tensor):
    """A tensor whose operations all fail."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func.__name__ == "__get__":
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        raise ArithmeticError("not with me")


def mean(x):
    return x.mean((2, 3))


STRANGE = {
    "meta": lambda y: y.to("meta"),
    "sparse": lambda y: y.to_sparse(),
    "sparse ": lambda y: y.to_sparse_csr(),
    "nested": lambda y: torch.nested.nested_tensor(list(y)),
    "nested ": lambda y: torch.nested.nested_tensor(list(y), layout=torch.jagged),
    "quantized": lambda y: torch.quantize_per_tensor(y, 1.0, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", STRANGE)
def test_a_tensor_without_comparable_values_is_named(kind):
    text = flat(check("se-1", lambda x: STRANGE[kind](mean(x))))
    assert text.startswith(
        "se-1: not yet. squeeze(x) with x (3, 5, 7, 11) returned a "
        f"{kind.strip()} tensor, which cannot be compared. Return a plain tensor")
    value = STRANGE[kind](torch.ones(1, 1, 6, 6))
    for answer in ((value, value, value), lambda: (value, value, value)):
        text = flat(check("se-6", answer))
        assert text.startswith(f"se-6: not yet. twins returned a {kind.strip()} tensor")
    text = flat(check("se-7", lambda reduction, stages: value))
    assert f"returned a {kind.strip()} tensor, and should be the int" in text


def test_a_tensor_of_a_type_of_its_own_is_named():
    text = flat(check("se-1", lambda x: mean(x).as_subclass(Odd)))
    assert "returned a tensor of the type Odd, which cannot be compared" in text


def test_a_number_too_long_or_too_large_is_told():
    for key in ("se-2", "se-7"):
        text = flat(check(key, lambda *args: 10**5000))
        assert "and should return " in text and len(text) < 200
    assert "the int 1000" in flat(check("se-1", lambda x: 10**300))
    assert "what cannot be printed" in flat(check("se-1", 10**5000)) or (
        sys.version_info < (3, 10, 7))
    text = flat(check("se-10", report_of(interval=lambda report: (0, 10**400))))
    assert text == ("se-10: not yet. project returned a dict with a number in it that "
                    "is too large to be compared.")


@pytest.mark.parametrize("key", EXERCISES)
def test_an_exception_without_words_and_an_exit_are_told(key):
    def leave(*args):
        raise SystemExit("bye")

    for answer, told in ((silent, "Silent"), (leave, "SystemExit: bye")):
        if EXERCISES[key].name == "Repaired":
            answer = type("Repaired", (BlankClass,), {"forward": answer})
        assert told in str(check(key, answer))


def test_a_result_that_refuses_to_be_compared_is_told():
    class Never(int):
        def __eq__(self, other):
            raise ArithmeticError
        __hash__ = None
        __str__ = __repr__ = __format__ = __eq__

    answer = EXERCISES["se-2"].reference
    text = flat(check("se-2", lambda *args: Never(answer(*args))))
    assert "returned a Never, and should be the int 512" in text


def test_an_input_made_into_another_kind_of_tensor_counts_as_changed():
    def squeeze(x):
        z = x.mean((2, 3))
        torch.utils.swap_tensors(x, x.to("meta"))
        return z

    assert "changes its input in place" in flat(check("se-1", squeeze))


def test_results_come_to_the_cpu_before_they_are_compared():
    class Far(torch.Tensor):
        """Stands in for a result on a GPU: of no use before .cpu()."""

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            with torch._C.DisableTorchFunctionSubclass():
                if func.__name__ == "detach":
                    return func(*args).as_subclass(Far)
                if func.__name__ == "cpu":
                    return func(*args).as_subclass(torch.Tensor)
            raise ArithmeticError("on another device")

    assert check("se-1", lambda x: mean(x).as_subclass(Far))
    answer = tuple(t.as_subclass(Far) for t in EXERCISES["se-6"].reference())
    assert check("se-6", answer) and check("se-6", lambda: answer)


@pytest.mark.parametrize(
    "key", ["se-1", "se-3", "se-4", "se-5", "se-6", "se-8", "se-9"])
def test_a_gpus_random_numbers_are_left_alone(key, no_cache, monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    check(key, EXERCISES[key].reference)
    assert not seeded
    torch.manual_seed(0)
    assert seeded == [0], "torch.manual_seed goes through what is watched here"


def test_an_unknown_exercise_lists_the_known():
    with pytest.raises(ValueError, match=r"se-1, se-2, .*se-10, .*got 'se-0'"):
        check("se-0", None)


def test_it_quotes_the_line_that_raised_and_no_other_code(tmp_path):
    answer = written(
        """
        def helper(x):
            return x.mean(dims=(2, 3))

        def squeeze(x):
            return helper(x)
        """, "squeeze", tmp_path)
    text = str(check("se-1", answer))
    assert "TypeError" in text and "    return x.mean(dims=(2, 3))" in text
    assert "squeeze(x) with x (3, 5, 7, 11) stopped with" in text


@pytest.mark.parametrize("key", EXERCISES)
@pytest.mark.parametrize("error", [
    RuntimeError("at 0x7f12ab"), KeyError("gate"), ZeroDivisionError(),
    TypeError("a\nb"), AttributeError("no"), IndexError(3),
])
def test_an_answer_that_raises_is_explained(key, error):
    def answer(*args, **kwargs):
        raise error

    if EXERCISES[key].name == "Repaired":
        answer = type("Repaired", (BlankClass,), {"forward": answer})
    text = str(check(key, answer))
    assert type(error).__name__ in text
    assert "    raise error" in text
    assert_no_inner_code(text)


def assert_no_inner_code(text):
    assert "Traceback" not in text and "File " not in text
    assert not re.search(r"check\.py|exercises/|task\.|0x[0-9a-f]{3}", text)
    assert all(len(line) < 80 or line.startswith("    ") for line in text.split("\n"))


@pytest.mark.parametrize("key", EXERCISES)
@pytest.mark.parametrize("value", [
    "text", 1.5, True, [1, 2], {}, (1, 2), torch.tensor(3), torch.zeros(2, 0),
    torch.full((3, 5), float("nan")), np.zeros((3, 5)), SE, torch.tensor(1j),
    torch.zeros(3, 5, dtype=torch.int64), (torch.ones(1), "b", None),
    {"plain": 3, "se": 4, "interval": 5}, nn.Identity(),
])
def test_whatever_comes_back_it_never_raises(key, value):
    answers = [lambda *a, **k: value]
    if key != "se-4" or value is not SE:
        answers.append(value)
    for answer in answers:
        verdict = check(key, answer)
        assert not verdict
        assert str(verdict).startswith(f"{key}: not yet. ")
        assert_no_inner_code(str(verdict))


@pytest.mark.parametrize("key", FUNCTIONS)
def test_too_few_or_too_many_arguments_are_told(key):
    verdict = check(key, lambda: 1)
    assert not verdict
    assert EXERCISES[key].name == "Repaired" or "TypeError" in str(verdict)
    assert_no_inner_code(str(verdict))


def spoiled(key, spoil):
    """Return the reference answer with its tensor passed through `spoil`."""
    right = EXERCISES[key].reference
    if isinstance(right, type):
        return type("Repaired", (right,), {
            "forward": lambda self, x: spoil(right.forward(self, x))})
    return lambda *args: spoil(right(*args))


TENSORS = [k for k in FUNCTIONS if EXERCISES[k].axes]


@pytest.mark.parametrize("key", TENSORS)
def test_nan_inf_dtype_shape_and_type_are_told(key):
    nan, inf = torch.tensor(float("nan")), torch.tensor(float("inf"))

    def tell(spoil):
        return flat(check(key, spoiled(key, spoil)))

    assert "returned NaN in" in tell(lambda y: torch.where(y > y.mean(), y, nan))
    assert "returned inf in" in tell(lambda y: torch.where(y > y.mean(), y, inf))
    assert "returned float16, and should" in tell(lambda y: y.half())
    axes = [letter for letter, _ in words_of(EXERCISES[key].axes)]
    assert re.search(
        rf"returned shape \(1, .*and should return \(.*\({', '.join(axes)},?\) with "
        f"{axes[0]}=", tell(lambda y: y[None]))
    assert re.search(
        "returned a.* ndarray, and should be a tensor of shape",
        tell(lambda y: y.numpy(force=True)))
    first = ", ".join("0" * len(axes))
    assert f"values are off. The first, at [{first}], is" in tell(lambda y: y + 0.25)


@pytest.mark.parametrize("key", TENSORS)
def test_a_right_answer_that_spoils_its_input_is_told(key):
    task = EXERCISES[key]

    def answer(*args):
        result = task.call(task.reference, *args)
        next(a for a in args if isinstance(a, torch.Tensor)).mul_(2)
        return result

    if key == "se-4":
        def forward(self, x):
            y = task.reference.forward(self, x)
            x.mul_(2)
            return y
        answer = type("Repaired", (task.reference,), {"forward": forward})
    if key == "se-9":
        def answer(place, r, c, a, x):
            y = task.reference(place, r, c, a, x)
            x.mul_(2)
            return y
    assert "changes its input in place" in flat(check(key, answer))


def test_other_ways_to_be_right_are_right():
    pool = nn.AdaptiveAvgPool2d(1)
    assert check("se-1", lambda x: pool(x).flatten(1))
    assert check("se-1", lambda x: torch.einsum("bchw->bc", x) / x[0, 0].numel())
    assert check("se-3", lambda z, a, b: F.linear(F.relu(F.linear(z, a)), b).sigmoid())
    assert check("se-4", SE)
    assert check("se-8", lambda b, x, d: (
        b.shortcut(x) + b.attention.gate(b.residual(d)) * b.residual(x)).relu())
    a = torch.rand(1, 4, 9, 9)
    assert check("se-6", (a, a.sort(dim=3).values, torch.randn(1, 4, 3, 3)))
    assert check("se-7", lambda r, s: sum(
        {2: 3, 3: 4, 4: 6, 5: 3}[k] * 2 * (64 * 2**k) ** 2 // r for k in s))


def test_hand_written_gradient_equals_autograd():
    task = EXERCISES["se-5"]
    for x, W1, W2, g in task.cases():
        W1.requires_grad_()
        s = torch.sigmoid(torch.relu(x.mean((2, 3)) @ W1.T) @ W2.T)
        (x * s[:, :, None, None]).backward(g)
        by_hand = task.reference(x, W1.detach(), W2, g)
        torch.testing.assert_close(by_hand, W1.grad)


def test_the_count_equals_the_module():
    for c, r, bias in EXERCISES["se-2"].cases():
        module = SE(c, reduction=r, bias=bias)
        assert EXERCISES["se-2"].reference(c, r, bias) == sum(
            p.numel() for p in module.parameters())


def test_the_swap_agrees_with_the_block_when_the_donor_is_x():
    for block, x, _ in EXERCISES["se-8"].cases():
        torch.testing.assert_close(EXERCISES["se-8"].reference(block, x, x), block(x))


def test_the_projects_interval_is_the_textbooks_and_tables_suffice():
    report = report_of()()
    d = np.array([report["se"][k] - report["plain"][k] for k in range(5)])
    half = 2.776 * d.std(ddof=1) / 5**0.5
    assert paired(report) == pytest.approx((d.mean() - half, d.mean() + half), abs=1e-5)
    assert check("se-10", {**report, "interval": [d.mean() - half, d.mean() + half]})
    assert len(INTERVALS) >= 8


def test_the_sources_defects_are_among_the_mistakes(tmp_path):
    """SE1 to SE7, BC4, BC5 and the text's mix-up, written as a reader would."""
    layers = """
    class Repaired(nn.Module):
        def __init__(self, channels, reduction):
            super().__init__()
            if channels % reduction: raise ValueError
            self.W1 = nn.Linear(channels, channels // reduction, bias=False)
            self.W2 = nn.Linear(channels // reduction, channels, bias=False)
        def mlp(self, z):
            return self.W2(torch.relu(self.W1(z)))
        def forward(self, x):
            z = x.mean((2, 3))
            """
    told = {
        "b, c, h, w = x.view()": "To read the shape, write x.shape",
        "b, c, _ = x.shape": "has four axes",
        "return x * self.mlp(x.view(x.size(0), -1)).sigmoid()[..., None, None]":
            "Flatten z",
        "return x * self.mlp(x).sigmoid()": "The linear layers read x, not z",
        "return x * x.sigmoid()": "The sigmoid reads x",
        "a = self.mlp(z) + self.mlp(x.amax((2, 3)))"
        "; return x * a.sigmoid()[..., None, None]": "CBAM's channel attention",
        "return x * self.mlp(z).sigmoid()": "without its two new axes",
        "return x * x.mean(1, True).sigmoid()": "This weighs places",
    }
    for body, message in told.items():
        answer = written(layers + body, "Repaired", tmp_path)
        assert message in flat(check("se-4", answer)), body
    no_check = layers.replace("if channels % reduction: raise ValueError", "")
    body = "return x * self.mlp(z).sigmoid()[..., None, None]"
    text = flat(check("se-4", written(no_check + body, "Repaired", tmp_path)))
    assert "channels // reduction = 0" in text
    text = flat(check("se-3", lambda z, a, b: (
        ((z @ a.T).relu() @ b.T).relu().sigmoid())))
    assert "the gate can never close" in text


def test_two_mistakes_at_once_still_get_an_answer():
    text = flat(check("se-9", lambda place, r, c, a, x: a(r(x))))
    assert text.startswith("se-9: not yet. block_forward('standard', residual,")


def test_the_random_numbers_outside_are_left_alone():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    for key, task in EXERCISES.items():
        check(key, task.reference)
    assert torch.equal(torch.rand(3), wanted)


def test_inputs_are_the_same_every_time_and_no_axis_can_be_taken_for_another():
    for task in (EXERCISES[key] for key in FUNCTIONS):
        first, second = outcomes(task, task.reference), outcomes(task, task.reference)
        assert all(a.same(b) for a, b in zip(first, second, strict=True))
    for key in ("se-1", "se-8", "se-9", "se-4", "se-5"):
        maps = [a for a in EXERCISES[key].cases()[0] if isinstance(a, torch.Tensor)
                and a.ndim == 4]
        assert all(len(set(m.shape)) == 4 for m in maps)


def test_the_verdict_prints_once_in_a_fresh_python():
    code = ("from cvattn.book import check\n"
            "print(check('se-2', lambda c, r, b: 2 * c * c // r))")
    out = subprocess.run([sys.executable, "-c", code],
                         capture_output=True, text=True, check=True)
    assert out.stdout.count("se-2: not yet.") == 1 and not out.stderr


# What a hidden test does ---------------------------------------------------------


def hidden(exercise, **names):
    """Run a hidden test in a notebook that has these names, and no others."""
    lines = ["from cvattn.book.check import grade as _grade", f'_grade("{exercise}")']
    exec("\n".join(lines), names)


SHADOWS = {
    "check": lambda *a: True, "verdict": True, "torch": None, "cvattn": 3,
    "print": 0, "str": 0, "isinstance": 0, "callable": 0, "globals": 0, "type": 0,
    "len": 0, "any": 0, "Exception": 0, "AssertionError": 0, "grade": 0,
}


@pytest.mark.parametrize("shadows", [{}, SHADOWS], ids=["clean", "shadowed"])
def test_a_hidden_test_grades_the_answer_whatever_else_has_a_name(shadows):
    hidden("se-1", squeeze=mean, **shadows)
    for answer, message in ((lambda x: x.sum(dim=(2, 3)), "not yet"),
                            (lambda x: ..., "nothing here yet"), (None, "nothing"),
                            (lambda *a: True, "not yet")):
        with pytest.raises(AssertionError, match=f"^se-1: {message}"):
            hidden("se-1", squeeze=answer, **shadows)


def test_a_hidden_test_says_that_the_answer_is_missing():
    with pytest.raises(AssertionError, match="^se-1: not yet. There is no `squeeze`"):
        hidden("se-1", check=check, sqeeze=mean)
    with pytest.raises(ValueError, match="exercise must be one of attention-1, "):
        hidden("se-0", squeeze=mean)


def test_each_answer_has_one_name_in_its_chapter():
    names = [(key.split("-")[0], task.name) for key, task in EXERCISES.items()]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for _, name in names)
