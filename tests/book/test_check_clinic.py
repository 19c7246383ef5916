"""The clinic's drill: its patients are ill as described, and any good test will do."""

import copy
import inspect
from functools import partial

import numpy as np
import pytest
import torch
from test_check import flat

from cvattn.book import check, specimens
from cvattn.book.exercises import clinic, drill
from cvattn.book.exercises.drill import PATIENTS, examined

NUMBERS = sorted(PATIENTS)
SIZES = [(n, size) for n in NUMBERS for size in range(len(PATIENTS[n].sizes))]


@pytest.mark.parametrize("n, size", SIZES)
def test_a_patient_passes_a_shape_test_and_is_a_subclass_of_the_right_one(n, size):
    case = PATIENTS[n]
    (sick, x), (well, same) = (
        examined(case, cls, size) for cls in (case.sick, case.well))
    assert issubclass(case.sick, case.well)
    assert torch.equal(x, same) and x.dtype == torch.float64 and len(x) > 1
    assert sick(x).shape == well(x).shape and sick(x).isfinite().all()
    assert not sick.training and not well.training


@pytest.mark.parametrize("n", [n for n in NUMBERS if n not in (3, 5, 6)])
def test_with_the_same_weights_its_numbers_are_others(n):
    sick, well, x = drill.patient(n)
    theirs = well.state_dict()
    sick.load_state_dict(sick.state_dict() | {
        k: t for k, t in theirs.items() if t.shape == sick.state_dict()[k].shape})
    assert (sick(x) - well(x)).abs().max() > 0.05


def test_patient_3_equals_the_right_one_forward():
    sick, well, x = drill.patient(3)
    assert torch.equal(sick(x), well(x))


@pytest.mark.parametrize("size", [0, 1])
def test_patient_3_is_convicted_by_gradcheck_in_full(size):
    case = PATIENTS[3]
    (sick, x), (well, _) = (
        examined(case, cls, size) for cls in (case.sick, case.well))
    x = x[:, :, :3, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(well, x)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(sick, x)


@pytest.mark.parametrize("size", [0, 1])
def test_patient_7_is_wrong_at_each_i_but_0(size):
    case = PATIENTS[7]
    (sick, x), (well, _) = (
        examined(case, cls, size) for cls in (case.sick, case.well))
    zeros = torch.zeros_like(x)
    wrong = (sick(zeros) - well(zeros))[0, 1, 0::2].abs()
    assert wrong[0] == 0 and wrong[1:].min() > 0.01


def test_patient_5_equals_the_right_one_without_the_mask():
    sick, well, x = drill.patient(5)
    torch.testing.assert_close(sick(x), well(x))
    assert not torch.allclose(sick(x, causal=True), well(x, causal=True))
    a = sick.weights(x, causal=True)
    torch.testing.assert_close(a.sum(-1), torch.ones_like(a[..., 0]))


def test_patient_6_differs_by_the_dropped_numbers_alone():
    sick, well, x = drill.patient(6)
    sick.load_state_dict(well.state_dict())
    sick.dropout.p = 0.0
    torch.testing.assert_close(sick(x), well(x))


def test_patient_9_leaks_by_its_norm_and_not_by_its_attention():
    sick, _, x = drill.patient(9)
    later = x.clone()
    later[:, -1] += 1
    first, then = (sick.attention(t, causal=True)[:, 0] for t in (x, later))
    torch.testing.assert_close(first, then)


def test_no_patient_is_a_specimen():
    known = {inspect.getsource(cls) for cls in vars(specimens).values()
             if inspect.isclass(cls) and cls.__module__ == specimens.__name__}
    mine = {PATIENTS[n].sick.__name__ for n in NUMBERS}
    assert len(mine) == len(PATIENTS) == 10
    assert not mine & {source.split("(")[0].removeprefix("class ") for source in known}


@pytest.mark.parametrize("number", [0, 11, "1", None])
def test_there_are_ten_patients(number):
    with pytest.raises(ValueError, match=f"must be from 1 to 10, got {number!r}"):
        drill.patient(number)


def test_patient_leaves_the_readers_random_numbers_alone():
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    drill.patient(1)
    assert torch.equal(torch.rand(2), wanted)


def by_value(n, **arguments):
    """The value test, with the right module of the package as the reference."""
    def ill(module, x):
        right = clinic.right_one(PATIENTS[n], x)
        right.load_state_dict(module.state_dict(), strict=False)
        return not torch.allclose(module(x, **arguments), right(x, **arguments))
    return ill


def one_position(module, x):
    a, b = (module(t[:, :1]) for t in (x, x + x.flip(2)))
    return torch.allclose(a, b, atol=1e-6)


def channel_gradient(module, x):
    y = module(x)
    grads = torch.autograd.grad(
        y.sum(), list(module.channel.parameters()), allow_unused=True)
    return grads[0] is None


def column(module, x):
    ramp = torch.arange(x.shape[3], dtype=x.dtype).expand_as(x)
    return not torch.allclose(module(ramp), ramp)


OTHERS = [      # other good tests than the book's
    (1, by_value(1)),
    (1, lambda module, x: torch.allclose(module.gate(x)[0], module.gate(x)[1])),
    (2, lambda module, x: module.A.weight.shape[0] == x.shape[1]),
    (2, lambda module, x: bool((module.weights(x) == 0.5).all())),
    (3, channel_gradient),
    (4, by_value(4)),
    (5, by_value(5, causal=True)),
    (6, clinic.alone),
    (7, by_value(7)),
    (8, column),
    (8, lambda module, x: not torch.allclose(
        module.grid(x)[..., 0].diff(dim=1), torch.zeros((), dtype=x.dtype))),
    (9, by_value(9)),
    (9, one_position),
    (10, by_value(10)),
    (10, lambda module, x: not torch.allclose(
        module(x), module.head(module.tokens(x)[:, 0]))),
]


@pytest.mark.parametrize("n, ill", OTHERS)
def test_any_test_that_tells_them_apart_is_right(n, ill):
    verdict = check(f"clinic-{n}", ill)
    assert verdict, verdict


@pytest.mark.parametrize("kind", [torch.tensor, np.bool_, lambda v: torch.tensor([v])])
def test_a_verdict_may_be_a_bool_of_torch_or_numpy(kind):
    assert check("clinic-1", lambda module, x: kind(clinic.alone(module, x)))


@pytest.mark.parametrize("value", [1, 0.5, "ill", torch.ones(3), torch.ones(3).bool()])
def test_no_other_verdict_is(value):
    text = flat(check("clinic-1", lambda module, x: value))
    assert text == flat(f"clinic-1: not yet. {clinic.BOOL}")


@pytest.mark.parametrize("meddle", [
    lambda module: module.train(),
    lambda module: module.W1.weight.data.zero_(),
    lambda module: module.W1.weight.requires_grad_(False),
    lambda module: module.register_parameter("W3", torch.nn.Parameter(torch.ones(1))),
    lambda module: setattr(module, "W1", torch.nn.Identity()),
])
def test_a_module_handed_back_changed_is_told(meddle):
    def ill(module, x):
        found = clinic.alone(module, x)
        meddle(module)
        return found

    assert flat(check("clinic-1", ill)) == flat(f"clinic-1: not yet. {clinic.CHANGED}")


@pytest.mark.parametrize("by_type", [
    lambda module, x: type(module) is not PATIENTS[1].well,
    lambda module, x: type(module).__name__ == "Crowd",
    lambda module, x: "Crowd" in repr(module),
])
def test_a_test_that_reads_the_name_is_told(by_type):
    assert flat(check("clinic-1", by_type)) == flat(f"clinic-1: not yet. {clinic.NAME}")


def test_a_test_that_knows_one_size_alone_is_told_which_fails():
    def ill(module, x):
        return x.shape[1] == 8 and clinic.alone(module, x)

    text = flat(check("clinic-1", ill))
    assert text == flat("clinic-1: not yet. " + clinic.at_this_size(
        torch.empty(2, 12, 7, 3)))


def swapped_formula(module, x):
    """i / D where 2i / D should be: what the patient does."""
    PE, D = module(torch.zeros_like(x))[0, 3, -2].item(), x.shape[2]
    return abs(PE - np.sin(3 / 10000 ** ((D / 2 - 1) / D))) > 1e-5


def earlier(module, x):
    """Change the first position and watch the others."""
    y = x.clone()
    y[:, 0] += torch.linspace(-9, 9, x.shape[2], dtype=x.dtype)
    return not torch.allclose(module(y, causal=True)[:, 1:],
                              module(x, causal=True)[:, 1:])


def in_company(module, x):
    """Two copies of the batch: their mean is that of one."""
    return not torch.allclose(module(torch.cat([x, x]))[:len(x)], module(x))


def flipped(module, x):
    """The order of the channels is nothing to a mean and a maximum."""
    return not torch.allclose(module.gate(x.flip(1)), module.gate(x))


def seeded(module, x):
    torch.manual_seed(0)
    first = module(x)
    torch.manual_seed(0)
    return not torch.equal(first, module(x))


def idle_in_training(module, x):
    module = copy.deepcopy(module).train()
    module(x).square().sum().backward()
    return any(p.grad is None or p.grad.abs().max() < 1e-12
               for p in module.parameters())


def attention_alone(module, x):
    a = module.attention.weights(x, causal=True)
    return bool(a.triu(1).any())


@pytest.mark.parametrize("n, ill, message", [
    (1, lambda module, x: not clinic.alone(module, x), clinic.REVERSED),
    (1, in_company, clinic.VALUES),
    (3, idle_in_training, clinic.IDLE),
    (4, flipped, clinic.VALUES),
    (5, earlier, clinic.REVERSED),
    (6, seeded, clinic.SEEDED),
    (7, swapped_formula, clinic.REVERSED),
    (9, attention_alone, clinic.BLIND),
])
def test_what_a_confused_reader_tries_is_told_for_what_it_is(n, ill, message):
    assert flat(check(f"clinic-{n}", ill)) == flat(f"clinic-{n}: not yet. {message}")


def test_a_tolerance_of_nothing_convicts_the_right_module():
    def ill(module, x):
        apart = torch.cat([module(picture[None]) for picture in x])
        return not torch.equal(apart + 1e-16 * x.abs(), module(x) * (1 + 1e-15))

    assert "convicts the right module too" in flat(check("clinic-1", ill))


def test_an_error_names_the_line_and_the_shape(tmp_path):
    file = tmp_path / "answer.py"
    file.write_text("def ill(module, x):\n    return module(x[:, 0])\n")
    space = {}
    exec(compile(file.read_text(), str(file), "exec"), space)
    text = str(check("clinic-1", space["ill"]))
    assert "ill_1(module, x) with x (3, 8, 5, 7) stopped with" in text
    assert "IndexError: Dimension out of range" in text
    assert text.endswith("    return module(x[:, 0])")


@pytest.mark.parametrize("n", NUMBERS)
def test_no_probe_is_the_right_module(n):
    """Each coarse fault shows in what it says that it shows."""
    case = PATIENTS[n]
    well, x = examined(case, case.well, 0)
    seen = {}
    for fault, module in clinic.probes(well):
        seen.setdefault(fault, module)
    assert {"shape", "finite", "batch", "twice", "scale", "count"} <= seen.keys()
    y = well(x)
    assert seen["shape"](x).shape != y.shape
    assert not seen["finite"](x).isfinite().all()
    assert clinic.alone(seen["batch"], x) and clinic.twice(seen["twice"], x)
    torch.testing.assert_close(seen["scale"](x), 1.5 * y)
    assert clinic.size(seen["count"]) == clinic.size(well) + 1
    torch.testing.assert_close(seen["count"](x), y)
    if "gradient" in seen:
        torch.testing.assert_close(seen["gradient"](x), y)
        assert clinic.idle(seen["gradient"], x.clone())
    torch.testing.assert_close(well(x), y)


def test_the_answers_of_the_book_are_those_of_the_checks():
    """The folded solutions and the references find the same."""
    assert clinic.EXERCISES.keys() == {f"clinic-{n}" for n in NUMBERS}
    for n in NUMBERS:
        task = clinic.EXERCISES[f"clinic-{n}"]
        assert task.name == f"ill_{n}" and isinstance(task.call, partial)
        for module, x in task.cases():
            assert task.reference(module, x.clone()) == isinstance(
                module, PATIENTS[n].sick)


def branch(name):
    def ill(module, x):
        module = copy.deepcopy(module)
        module(x).mean().backward()
        return any(p.grad is None for p in getattr(module, name).parameters())
    return ill


def raised(channels):
    def ill(module, x):
        y = x.clone()
        y[:, channels] += 3
        return torch.allclose(module.gate(x), module.gate(y))
    return ill


def no_grad_at_all(module, x):
    module = copy.deepcopy(module)
    module(x).sum().backward()
    return any(p.grad is None for p in module.parameters())


def leaves_on_x(module, x):
    module = copy.deepcopy(module)
    module(x.requires_grad_()).square().sum().backward()
    return any(p.grad is None for p in module.parameters())


def leaves_on_module(module, x):
    module(x).square().sum().backward()
    return any(p.grad is None for p in module.parameters())


def moves_x(module, x):
    y = module(x)
    x += 1
    return torch.equal(y, module(x))


def far_batch(module, x):
    """Right for SE, which sees no order; the patient passes it too."""
    return not torch.allclose(module.gate(x.flip(3)), module.gate(x))


@pytest.mark.parametrize("n, ill, message", [
    (1, far_batch, clinic.VALUES),
    (1, lambda module, x: not torch.allclose(
        module.gate(x).mean(1), module.gate(x).mean(1)), clinic.TWICE),
    (2, no_grad_at_all, clinic.FAINT),
    (3, branch("spatial"), clinic.ONE_BRANCH),
    (3, leaves_on_x, clinic.CHANGED_X),
    (3, leaves_on_module, clinic.CHANGED),
    (4, raised(slice(0, 1)), clinic.MOVES),
    (4, raised(slice(None)), clinic.MOVES),
    (4, moves_x, clinic.CHANGED_X),
    (5, lambda module, x: bool(module.weights(x, causal=True).tril(-1).any()),
     clinic.REVERSED),
    (6, lambda module, x: not torch.allclose(
        module(x).mean(-1), module(x.clone()).mean(-1), atol=10.0), clinic.SEEDED),
    (8, lambda module, x: module(x).max() > x.max(), clinic.VALUES),
    (9, lambda module, x: bool((module(x).mean(-1).abs() > 9).any()), clinic.VALUES),
    (10, lambda module, x: not torch.allclose(
        module(x).softmax(1).sum(1), torch.ones(len(x), dtype=x.dtype)), clinic.FINITE),
])
def test_what_a_student_may_also_try_is_wrong_and_told(n, ill, message):
    told = flat(check(f"clinic-{n}", ill))
    assert told.startswith(flat(f"clinic-{n}: not yet. {message}")), told


@pytest.mark.parametrize("n", [n for n in NUMBERS if PATIENTS[n].sick is not
                               drill.ShortWaves])
def test_what_is_said_of_gradients_holds_for_each_patient(n):
    """Each parameter gets one, but for the branch that is cut off."""
    sick, _, x = drill.patient(n)
    sick(x).square().sum().backward()
    sizes = {k: p.grad if p.grad is None else p.grad.abs().max().item()
             for k, p in sick.named_parameters()}
    without = {k for k, size in sizes.items() if size is None}
    faint = {k for k, size in sizes.items() if size is not None and size < 1e-9}
    cut_off = {k for k in sizes if k.startswith("channel.")} if n == 3 else set()
    assert without == cut_off
    assert ({"W.weight", "A.weight"} <= faint) == (n == 2)
