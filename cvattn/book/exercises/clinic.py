"""The exercises of the clinic's chapter: tests that convict a broken module.

An answer is a test, `ill(module, x)`: true for the broken module and false for the
right one, at each size. Where it lets the broken one go, it is tried on the right
module with other, coarse faults. Which of these it finds tells what it looks at.
"""

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations

import torch
from torch import Tensor, nn

from cvattn.book.exercises.drill import PATIENTS, Patient, examined
from cvattn.book.exercises.exercise import Exercise, Says, Wrong

BOOL = (
    "A test gives a verdict, True for ill and False for well, as one bool. If you hold "
    "a tensor, say what must be true of it and of how much: torch.equal, "
    "torch.allclose, .any() or .all()."
)
CHANGED = (
    "Your test hands the module back changed: a weight, a gradient that a backward "
    "pass left, its mode (train or eval) or the layers themselves. The next test then "
    "examines another module. Work on copy.deepcopy(module)."
)
CHANGED_X = (
    "Your test hands x back changed: its numbers, or requires_grad and the gradient "
    "that a backward pass left. Work on x.clone()."
)
COIN = (
    "Asked twice about the same module and the same x, your test gave two answers. A "
    "test that draws random numbers needs a seed, or a tolerance."
)
NAME = (
    "Your test reads the name of the class, and not what the module does: the right "
    "module under another name is convicted, or goes free, by its name."
)
SHAPE = (
    "Your test looks at the shape alone, and this patient's shapes are right. Look at "
    "the numbers."
)
FINITE = (
    "Your test finds numbers that are not finite, and nothing else that was tried. "
    "This patient's are finite: it computes something, only not what it should."
)
GRADIENT = (
    "Your test looks for parameters that no gradient reaches. Here each parameter gets "
    "one: autograd differentiates the wrong function faithfully."
)
FAINT = (
    "Your test looks for parameters that no gradient reaches. Here each gets one, and "
    "those of the layers that choose are 0 but for rounding. Ask how large they are."
)
ONE_BRANCH = (
    "Your test looks for parameters that no gradient reaches, which is right, and it "
    "does not find those of this patient. Does it look at both branches, and at each "
    "parameter?"
)
MOVES = (
    "Your test changes x and asks whether the output stays as it was. This patient's "
    "moves too, as the right one's does: something else that both see moved with x (if "
    "one channel rises, so does the mean). Change x so that only the suspected part "
    "can answer."
)
COUNT = (
    "Your test counts the parameters. This patient has all of them, and no more."
)
BATCH = (
    "Your test compares a picture in its batch with the same picture alone. This "
    "patient treats each picture as if it were alone."
)
TWICE = (
    "Your test runs the module twice on the same x. This patient says the same each "
    "time, and is wrong each time."
)
SUM = (
    "Your test asks whether the weights sum to 1. They do. That they are the right "
    "ones, no sum can tell."
)
VALUES = (
    "Your test looks at numbers, but where it looks this patient's numbers are what "
    "they should be. Compute by hand one number that the description fixes, or change "
    "x so that only the suspected part can answer."
)


ACQUITS = (
    "Your test lets the broken module go. Try it on the two modules and the x of "
    "drill.patient before you ask again."
)
BLIND = (
    "Your test lets the broken module go, and also the right one when its output is "
    "nonsense. Does it look at what the whole module returns, or only at one part?"
)
SEEDED = (
    "Your test runs the module twice on the same x, and the two agree. If you set a "
    "seed before each run, both draw the same random numbers."
)
REVERSED = (
    "Your test has it the other way round: it convicts the right module and lets the "
    "broken one go. Either a `not` is missing, or what you look for is what the "
    "right module does."
)
IDLE = (
    "Your test finds a parameter without use in the right module too. What a bias adds "
    "before a BatchNorm is subtracted again in training mode, so its gradient is 0 in "
    "a right module. Ask for those that have none at all: grad is None."
)
CONVICTS = (
    "Your test convicts the right module too. What it looks for must be wrong in the "
    "broken one and nowhere else: other weights and rounding are no illness."
)


def at_this_size(x: Tensor) -> str:
    return (
        f"Your test is wrong on an x of shape {tuple(x.shape)}, and right at another "
        "size. Take all lengths from x.shape, and see whether your x hides the fault "
        "at this size."
    )


# What a test looks at, told by what else it finds ------------------------------


def altered(module: nn.Module, method: str, change: Callable) -> nn.Module:
    """Return a copy of the module with what a method returns changed."""
    module, cls = copy.deepcopy(module), type(module)
    true = getattr(cls, method)
    module.__class__ = type(cls.__name__, (cls,), {
        method: lambda self, *args, **kwargs: change(true(self, *args, **kwargs))})
    return module


def probes(well: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the right module with one coarse fault, and the name of that fault."""
    parameters = list(well.parameters())
    faults = {
        "shape": lambda y: y.unsqueeze(-1),
        "finite": lambda y: y * math.nan,
        "infinite": lambda y: torch.full_like(y, math.inf),
        "huge": lambda y: torch.full_like(y, 1e6),
        "constant": lambda y: torch.full_like(y, 0.5),
        "batch": lambda y: y + y.mean(dim=0, keepdim=True),
        "twice": lambda y: y + torch.rand_like(y),
        "scale": lambda y: 1.5 * y,
    }
    for method in ("forward", "gate", "weights"):
        for fault, change in faults.items():
            if hasattr(well, method):
                name = "sum" if (fault, method) == ("scale", "weights") else fault
                yield name, altered(well, method, change)
    if parameters:
        yield "gradient", frozen(well)
    module = copy.deepcopy(well)
    module.extra = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    yield "count", module


def frozen(well: nn.Module) -> nn.Module:
    """Return a copy in which the gradient stops at all parameters but the first."""
    module = altered(well, "forward", lambda y: y)
    true = module.__class__.forward

    def forward(self, *args, **kwargs):
        y = true(self, *args, **kwargs)
        return y.detach() + 0 * next(self.parameters()).sum()

    module.__class__.forward = forward
    return module


def diagnosis(answer: Callable, well: nn.Module, x: Tensor,
              gradient: str) -> str | None:
    """Say what an answer looks at that lets a broken module go.

    gradient: what to say to one that looks at gradients.
    """
    found = set()
    for fault, module in probes(well):
        try:
            if verdict(answer, module, x) is True:
                found.add(fault)
        except Exception:    # of the coarse fault, not of the answer
            continue
    if found == {"shape"}:
        return SHAPE
    if found and found <= {"finite", "infinite"}:
        return SEEDED if repeats(answer, well, x) else FINITE
    if found == {"infinite", "huge", "constant"}:    # whatever is the same everywhere
        return MOVES if compares(answer, well, x) else VALUES
    if "gradient" in found:
        return gradient
    if found == {"count"}:
        return COUNT
    if "sum" in found and "scale" not in found:
        return SUM
    if found & {"scale", "huge"}:
        return VALUES
    if "batch" in found:
        return BATCH
    if "twice" in found:
        return TWICE if repeats(answer, well, x) else VALUES
    return None if found else BLIND


def runs(answer: Callable, well: nn.Module, x: Tensor) -> list[tuple[str, Tensor]]:
    """Return which methods the answer runs, and on which numbers."""
    module, cls, seen = copy.deepcopy(well), type(well), []

    def noting(method):
        def noted(self, x, *args, **kwargs):
            seen.append((method, x.detach().clone()))
            return getattr(cls, method)(self, x, *args, **kwargs)
        return noted

    module.__class__ = type(cls.__name__, (cls,), {
        m: noting(m) for m in ("forward", "gate", "weights") if hasattr(cls, m)})
    try:
        verdict(answer, module, x)
    except Exception:    # what was seen until then counts
        pass
    return seen


def repeats(answer: Callable, well: nn.Module, x: Tensor) -> bool:
    """Whether the answer runs the module twice on the same numbers."""
    return any(m == n and torch.equal(a, b)
               for (m, a), (n, b) in combinations(runs(answer, well, x), 2))


def compares(answer: Callable, well: nn.Module, x: Tensor) -> bool:
    """Whether the answer runs the module on two different inputs of one shape."""
    return any(m == n and a.shape == b.shape and not torch.equal(a, b)
               for (m, a), (n, b) in combinations(runs(answer, well, x), 2))


def differentiates(answer: Callable, well: nn.Module, x: Tensor) -> bool:
    """Whether the answer asks for gradients."""
    try:
        with torch.no_grad():
            verdict(answer, copy.deepcopy(well), x)
    except RuntimeError:
        return True
    return False


# Asking ------------------------------------------------------------------------


def state(module: nn.Module) -> tuple:
    """What a test must leave as it was."""
    return (type(module), [(type(m), m.training) for m in module.modules()],
            [(n, t.clone()) for n, t in module.state_dict().items()],
            [(p.requires_grad, p.grad is None) for p in module.parameters()])


def same(a: tuple, b: tuple) -> bool:
    return a[:2] + a[3:] == b[:2] + b[3:] and len(a[2]) == len(b[2]) and all(
        n == m and t.shape == u.shape and torch.equal(t, u)
        for (n, t), (m, u) in zip(a[2], b[2], strict=True))


def verdict(answer: Callable, module: nn.Module, x: Tensor) -> object:
    """Ask once: a bool, or None and ... as they come."""
    given = x.clone()
    value = answer(module, given)
    if given.requires_grad or not torch.equal(given, x):
        raise Says(CHANGED_X)
    if isinstance(value, Tensor) and value.numel() == 1 and value.dtype == torch.bool:
        value = value.item()
    if type(value).__module__ == "numpy" and type(value).__name__.startswith("bool"):
        value = bool(value)
    if value is None or value is ... or isinstance(value, bool):
        return value
    raise Says(BOOL)


def ask(case: Patient, gradient: str, answer: Callable, module: nn.Module, x: Tensor):
    """Return the verdict if it is right; raise Says with the mistake if not."""
    before = state(module)
    first = verdict(answer, module, x)
    if not isinstance(first, bool):
        return first
    if not same(before, state(module)):
        raise Says(CHANGED)
    if verdict(answer, module, x) is not first:
        raise Says(COIN)
    if first is isinstance(module, case.sick):
        return first
    well = right_one(case, x)
    both = [verdict(answer, one_of(case, cls, x), x) for cls in (case.sick, case.well)]
    if both == [False, True]:
        raise Says(REVERSED)
    if type(module) not in (case.well, case.sick) and not verdict(answer, well, x):
        raise Says(NAME)
    if verdict(answer, *examined(case, type(module), 0)) is not first:
        raise Says(at_this_size(x))
    if first:
        norms = any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)
                    for m in well.modules())
        raise Says(IDLE if norms and differentiates(answer, well, x) else CONVICTS)
    raise Says(diagnosis(answer, well, x, gradient) or ACQUITS)


def examinations(case: Patient) -> list[tuple[nn.Module, Tensor]]:
    """The broken module and the right one at each size, and one under its name."""
    alias = type(case.sick.__name__, (case.well,), {})
    rows = [examined(case, cls, size)
            for size in range(len(case.sizes)) for cls in (case.sick, case.well)]
    return [*rows, examined(case, alias, 0)]


def one_of(case: Patient, cls: type, x: Tensor) -> nn.Module:
    """Return the module of this class that takes this x."""
    size = next(n for n, (_, shape) in enumerate(case.sizes) if shape == x.shape)
    return examined(case, cls, size)[0]


def right_one(case: Patient, x: Tensor) -> nn.Module:
    """Return the right module that takes this x."""
    return one_of(case, case.well, x)


def exercise(number: int, test: Callable, right: str, *wrong: Wrong,
             gradient: str = GRADIENT) -> Exercise:
    case = PATIENTS[number]

    return Exercise(
        name=f"ill_{number}",
        reference=test,
        right=right,
        given="module x",
        call=partial(ask, case, gradient),
        cases=partial(examinations, case),
        wrong=(*anybody(case, test), *wrong),
    )


# The mistakes that everybody makes ---------------------------------------------


def anybody(case: Patient, test: Callable) -> Iterator[Wrong]:
    def meddles(module, x):
        found = test(module, x)
        module.train()
        return found

    yield Wrong(lambda module, x: False, BLIND)
    yield Wrong(lambda module, x: True, CONVICTS)
    yield Wrong(lambda module, x: not test(module, x), REVERSED)
    yield Wrong(lambda module, x: type(module).__name__ == case.sick.__name__, NAME)
    yield Wrong(lambda module, x: 1.0 * test(module, x), BOOL)
    yield Wrong(meddles, CHANGED)
    yield Wrong(lambda module, x: (torch.rand(()) < 0.5).item(), COIN)
    yield Wrong(lambda module, x: module(x).shape != right_one(case, x)(x).shape, SHAPE)
    yield Wrong(lambda module, x: not module(x).isfinite().all(), FINITE)


def alone(module, x):
    """The batch test."""
    apart = torch.cat([module(picture[None]) for picture in x])
    return not torch.allclose(apart, module(x))


def twice(module, x):
    return not torch.equal(module(x), module(x))


def idle(module, x):
    """The gradient test."""
    module = copy.deepcopy(module)
    module(x).square().sum().backward()
    return any(p.grad is None or not p.grad.any() for p in module.parameters())


def unreached(module, x, part=lambda module: module):
    """The gradient test for parameters, of one part, that have no gradient at all."""
    module = copy.deepcopy(module)
    module(x).square().sum().backward()
    return any(p.grad is None for p in part(module).parameters())


def lifted(module, x):
    """One channel rises, and with it the mean."""
    y = x.clone()
    y[:, 0] += 3
    return torch.allclose(module.gate(x), module.gate(y))


def size(module):
    return sum(p.numel() for p in module.parameters())


def sums(dim):
    return lambda module, x: not torch.allclose(
        module.weights(x).sum(dim), torch.ones((), dtype=torch.float64))


gradient, batch, again = Wrong(idle, GRADIENT), Wrong(alone, BATCH), Wrong(twice, TWICE)


def counted(number):
    case = PATIENTS[number]
    return Wrong(lambda module, x: size(module) != size(right_one(case, x)), COUNT)


# The ten tests -----------------------------------------------------------------


def equals(module, x):
    a = module.weights(x)
    return torch.allclose(a, a[:, :1].expand_as(a))


def cut(module, x):
    module = copy.deepcopy(module)
    module(x).square().sum().backward()
    return any(p.grad is None for p in module.channel.parameters())


def maximum(module, x):
    y = x.clone()
    y[:, 0] += 3
    y[:, 1] -= 3
    return torch.allclose(module.gate(x), module.gate(y))


def prophet(module, x):
    return bool(module.weights(x, causal=True).triu(1).any())


def waves(module, x, position=3):
    D = x.shape[2]
    PE = module(torch.zeros_like(x))[0, position, D - 2].item()
    return abs(PE - math.sin(position / 10000 ** ((D - 2) / D))) > 1e-5


def moved(module, x):
    return not torch.allclose(module(x), x)


def leaky(module, x):
    later = x.clone()
    later[:, -1] += torch.linspace(-1, 1, x.shape[2], dtype=x.dtype)
    first, then = (module(t, causal=True)[:, 0] for t in (x, later))
    return not torch.allclose(first, then)


def wrong_end(module, x):
    module = copy.deepcopy(module)
    with torch.no_grad():
        module.E_pos.zero_()
    rolled = x.roll(module.E.stride[0], dims=3)
    return not torch.allclose(module(x), module(rolled))


def symmetric(module, x):
    """The identity test on a map that equals its transpose."""
    n = min(x.shape[2:])
    x = x[:, :, :n, :n] + x[:, :, :n, :n].mT
    return not torch.allclose(module(x), x)


EXERCISES = {
    "clinic-1": exercise(
        1, alone, "Each picture must get what it would get alone. No reference was "
        "needed: the module was compared with itself.",
        gradient, again, counted(1)),
    "clinic-2": exercise(
        2, equals, "The weights summed to 1 and chose nothing. A sum is a necessary "
        "condition; counting the parameters, or looking for those whose gradient is 0 "
        "but for rounding, would have convicted it too.",
        batch, again, Wrong(sums(1), SUM), Wrong(unreached, FAINT),
        gradient=FAINT),
    "clinic-3": exercise(
        3, cut, "Forward it is perfect: no test of values can tell. After one backward "
        "pass a grad that is None says all; gradcheck, in full and not in its fast "
        "mode, would have convicted it too.",
        batch, again, counted(3), Wrong(
            partial(unreached, part=lambda module: module.spatial), ONE_BRANCH),
        Wrong(lambda module, x: not torch.allclose(
            module.gate(x), torch.sigmoid(module.channel(x) + module.spatial(x))),
            VALUES), gradient=ONE_BRANCH),
    "clinic-4": exercise(
        4, maximum, "Two channels moved apart leave the mean as it was, so only a "
        "maximum over the channels can answer. Such a change isolates one part.",
        gradient, batch, again, counted(4), Wrong(lifted, MOVES),
        Wrong(lambda module, x: ((module.gate(x) <= 0) | (module.gate(x) >= 1)).any(),
              VALUES)),
    "clinic-5": exercise(
        5, prophet, "No position may take anything from a later one. Without the "
        "causal mask it is a right module, and any test that leaves it out lets the "
        "patient go.",
        gradient, batch, again, counted(5), Wrong(sums(-1), SUM)),
    "clinic-6": exercise(
        6, twice, "In evaluation mode the same x must give the same y. F.dropout drops "
        "unless it is told training=self.training; nn.Dropout sees to it itself.",
        gradient, counted(6)),
    "clinic-7": exercise(
        7, waves, "The last pair of channels has the longest wave, and there the "
        "wavelengths differ most; any i > 0 would have done. A number computed by hand "
        "from the equation convicts.",
        batch, again, counted(7),
        Wrong(lambda module, x: not torch.allclose(
            module(torch.zeros_like(x))[0, 1, :2],
            torch.tensor([math.sin(1), math.cos(1)], dtype=torch.float64)), VALUES)),
    "clinic-8": exercise(
        8, moved, "At the start nothing may move. A map that equals its transpose "
        "would have hidden the fault: give tests no symmetry that the fault may have.",
        batch, again, counted(8), Wrong(symmetric, VALUES)),
    "clinic-9": exercise(
        9, leaky, "Attention was causal, and the norm was not: it told the first "
        "position of the last. Test a promise on the whole module.",
        gradient, batch, again, counted(9)),
    "clinic-10": exercise(
        10, wrong_end, "Without positions the class token sees its patches as a set, "
        "so their order cannot matter; the last patch, though, is another one.",
        gradient, batch, again, counted(10)),
}
