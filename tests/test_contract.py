"""What every module of the package promises, whatever paper it comes from.

A new module gets one line in MODULES and, where its arguments can be wrong, some in
BAD_ARGUMENTS. Sizes are distinct primes, so that a swapped axis cannot pass.
"""

import ast
import copy
import inspect
import io
import os
import pickle
import re
import shutil
import sys
import textwrap
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn

import cvattn
from cvattn import SE

CI = os.environ.get("CI", "").lower() == "true"
BATCHES, SIZES = (1, 2, 5), ((3, 7), (13, 11))


@dataclass
class Module:
    build: partial                  # of a public class, with small sizes
    channels: int                   # of x (B, channels, H, W)
    sizes: dict[str, int]           # what names in shape comments stand for
    map: str                        # the method that returns the attention map
    map_shape: tuple                # its shape, axes of x by name


MODULES = {
    "SE": Module(partial(SE, 34, reduction=2), 34, {"C/r": 17},
                 "gate", ("B", "C", 1, 1)),
    "SE(bias=True)": Module(partial(SE, 34, reduction=2, bias=True), 34, {"C/r": 17},
                            "gate", ("B", "C", 1, 1)),
}

SE_RULE = "channels must be a positive multiple of reduction, got "
BAD_ARGUMENTS = [
    (SE, (24,), {}, SE_RULE + "channels=24, reduction=16"),
    (SE, (8,), {}, SE_RULE + "channels=8, reduction=16"),
    (SE, (0,), {}, SE_RULE + "channels=0, reduction=16"),
    (SE, (-16,), {}, SE_RULE + "channels=-16, reduction=16"),
    (SE, (16,), {"reduction": 0}, SE_RULE + "channels=16, reduction=0"),
    (SE, (16,), {"reduction": -4}, SE_RULE + "channels=16, reduction=-4"),
    (SE, (16,), {"reduction": 32}, SE_RULE + "channels=16, reduction=32"),
]

every = pytest.mark.parametrize("case", MODULES.values(), ids=MODULES)
sized = pytest.mark.parametrize("h, w", SIZES)


def made(case):
    """A module in eval mode whose weights are large enough to matter."""
    torch.manual_seed(0)
    module = case.build().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(3)
    return module


def some(case, b, h, w, **kwargs):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(b, case.channels, h, w, generator=generator).to(**kwargs) + 1


def test_every_public_module_is_in_the_list():
    public = {name for name in cvattn.__all__ if inspect.isclass(getattr(cvattn, name))
              and issubclass(getattr(cvattn, name), nn.Module)}
    listed = {case.build.func.__name__ for case in MODULES.values()}
    assert public == listed and public, "add it to MODULES"
    assert public == {bad[0].__name__ for bad in BAD_ARGUMENTS}


def test_every_public_name_exists_and_has_a_docstring():
    for name in cvattn.__all__:
        assert inspect.getdoc(getattr(cvattn, name)), name


@every
def test_the_docstring_has_its_parts(case):
    text = inspect.getdoc(case.build.func)
    for part in ("(Eq. ", "Shape:", "Args:", "Raises:", "Differs from the paper:",
                 "Source:", ">>> "):
        assert part in text, part
    for name in inspect.signature(case.build.func).parameters:
        assert re.search(rf"^ +{name}: ", text, re.MULTILINE), name


@every
def test_arguments_are_hinted_and_keyword_only_after_the_first(case):
    first, *others = inspect.signature(case.build.func).parameters.values()
    assert first.default is first.empty and first.kind == first.POSITIONAL_OR_KEYWORD
    for p in [first, *others]:
        assert p.annotation is not p.empty
    for p in others:
        assert p.kind == p.KEYWORD_ONLY and p.default is not p.empty


@every
@sized
@pytest.mark.parametrize("b", BATCHES)
def test_shape_type_and_map(case, b, h, w):
    module, x = made(case), some(case, b, h, w)
    before = x.clone()
    y = module(x)
    assert y.shape == x.shape and y.dtype == x.dtype and y.isfinite().all()
    assert torch.equal(x, before), "the input was changed in place"
    shape = {"B": b, "C": case.channels, "H": h, "W": w}
    assert getattr(module, case.map)(x).shape == tuple(
        shape.get(axis, axis) for axis in case.map_shape)


@every
@sized
def test_a_picture_does_not_see_its_neighbours_in_eval(case, h, w):
    module, x = made(case), some(case, 5, h, w)
    alone = torch.cat([module(picture[None]) for picture in x])
    torch.testing.assert_close(module(x), alone)
    torch.testing.assert_close(module(x.flip(0)), module(x).flip(0))


@every
@sized
def test_gradcheck(case, h, w):
    module = made(case).double()
    names = dict(module.named_parameters())

    def call(x, *values):
        return torch.func.functional_call(
            module, dict(zip(names, values, strict=True)), x)

    x = some(case, 2, h, w, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(call, (x, *names.values()), fast_mode=True)


@every
def test_a_training_step_reaches_every_parameter(case):
    module = made(case).train()
    module(some(case, 5, 3, 7)).square().sum().backward()
    for name, p in module.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


@every
def test_forward_stores_nothing(case):
    module = made(case)

    def state():
        return [(name, dict(vars(m)), {k: v.clone() for k, v in m.state_dict().items()})
                for name, m in module.named_modules()]

    before = state()
    module(some(case, 2, 3, 7))
    for (name, had, values), (_, has, now) in zip(before, state(), strict=True):
        assert had.keys() == has.keys(), name
        assert all(had[k] is has[k] for k in had), name
        assert values.keys() == now.keys()
        assert all(torch.equal(values[k], now[k]) for k in values), name


@every
def test_state_dict_round_trip(case):
    module, x = made(case), some(case, 2, 3, 7)
    torch.manual_seed(99)
    other = case.build().eval()
    assert not torch.equal(other(x), module(x))
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), module(x))


@every
@pytest.mark.parametrize("copied", [copy.deepcopy,
                                    lambda m: pickle.loads(pickle.dumps(m))],
                         ids=["deepcopy", "pickle"])
def test_copies_are_equal_and_apart(case, copied):
    module, x = made(case), some(case, 2, 3, 7)
    y, twin = module(x), copied(module)
    assert torch.equal(twin(x), y)
    for p in twin.parameters():
        nn.init.zeros_(p)
    assert torch.equal(module(x), y) and not torch.equal(twin(x), y)


@every
@sized
def test_channels_last_gives_the_same_and_is_kept(case, h, w):
    module, x = made(case), some(case, 5, h, w)
    y = module(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(y, module(x))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert not y.is_contiguous() and module(x).is_contiguous()


@every
def test_bfloat16_autocast(case):
    """x keeps its type, and the result is right to bfloat16's three digits."""
    module, x = made(case), some(case, 5, 3, 7)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, module(x), rtol=0.05, atol=0.02)
    assert not torch.equal(y, module(x)), "autocast did not reach the layers"


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types(case, dtype):
    module, x = made(case), some(case, 2, 3, 7)
    y = copy.deepcopy(module).to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), module(x), rtol=0.05, atol=0.05)


@every
def test_export_with_any_batch_height_and_width(case):
    module = made(case)
    names = {0: "b", 2: "h", 3: "w"}
    free = {axis: torch.export.Dim(name) for axis, name in names.items()}
    program = torch.export.export(
        module, (some(case, 2, 13, 11),), dynamic_shapes=(free,)).module()
    for b, (h, w) in zip((5, 3), SIZES, strict=True):
        x = some(case, b, h, w)
        torch.testing.assert_close(program(x), module(x))


def test_compile_in_one_graph():
    """On one network that holds every module: each compilation takes seconds."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        (pytest.fail if CI else pytest.skip)("torch.compile needs a C++ compiler")
    cases = list(MODULES.values())
    modules = [made(case) for case in cases]
    inputs = [some(case, 2, 3, 7) for case in cases]

    def network(xs):
        return [module(x) for module, x in zip(modules, xs, strict=True)]

    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(network, fullgraph=True)(inputs)
        for got, want in zip(compiled, network(inputs), strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("cls, args, kwargs, message", BAD_ARGUMENTS)
def test_bad_arguments(cls, args, kwargs, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cls(*args, **kwargs)


@every
@pytest.mark.parametrize("shape", [(), (34,), (2, 34), (34, 3, 7), (2, 34, 3, 7, 1),
                                   (2, 17, 3, 7), (2, 3, 7, 34), (34, 2, 3, 7),
                                   (2, 1, 3, 7)], ids=str)
def test_bad_inputs(case, shape):
    x = torch.zeros(shape)
    message = f"x must be (B, {case.channels}, H, W), got {shape}"
    for call in (made(case), getattr(made(case), case.map)):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call(x)


@every
def test_an_empty_batch_gives_an_empty_result(case):
    y = made(case)(some(case, 0, 3, 7))
    assert y.shape == (0, case.channels, 3, 7)


@every
def test_nan_spoils_its_own_picture_and_no_other(case):
    module, x = made(case), some(case, 5, 3, 7)
    y = module(x)
    x[2, 1, 1, 1] = float("nan")
    spoiled = module(x)
    assert spoiled[2].isnan().all()
    others = [0, 1, 3, 4]
    assert torch.equal(spoiled[others], y[others])


# The comments that end a line with a shape, such as `z = …  # (B, C)`.

COMMENT = re.compile(r"#\s*\(([^()]*)\)\s*$")


def comments(function):
    """Map each commented line to (the name that it assigns, or None, and axes)."""
    lines, first = inspect.getsourcelines(function)
    found = {}
    for node in ast.walk(ast.parse(textwrap.dedent("".join(lines)))):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.Return):
            match = COMMENT.search(lines[node.end_lineno - 1].rstrip())
            if match:
                target = (None if isinstance(node, ast.Return) else
                          ast.unparse(getattr(node, "target", None) or node.targets[0]))
                axes = [axis.strip() for axis in match[1].split(",")]
                found[first + node.lineno - 1] = target, axes
    return found


def false_comments(functions, call, sizes):
    """Run call() and return (lines checked, what was false) for the functions."""
    by_code = {f.__code__: comments(f) for f in functions}
    checked, wrong = set(), []

    def compare(code, line, value, axes):
        want = tuple(int(axis) if axis.isdigit() else sizes[axis] for axis in axes)
        checked.add((code, line))
        if tuple(value.shape) != want:
            wrong.append(f"{code.co_qualname if hasattr(code, 'co_qualname') else code}"
                         f" line {line}: {tuple(value.shape)}, not {axes} = {want}")

    def trace(frame, event, value):
        table = by_code.get(frame.f_code)
        if table is None:
            return None
        previous = None

        def inside(frame, event, value):
            nonlocal previous
            if event in ("line", "return") and previous in table:
                target, axes = table[previous]
                if target is None and event == "return":
                    compare(frame.f_code, previous, value, axes)
                elif target is not None:
                    compare(frame.f_code, previous, frame.f_locals[target], axes)
            previous = frame.f_lineno
            return inside

        return inside

    old = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(old)
    return checked, wrong


@every
@sized
def test_shape_comments_are_true(case, h, w):
    module, cls = made(case), case.build.func
    functions = [f for f in vars(cls).values() if inspect.isfunction(f)]
    written = sum(len(comments(f)) for f in functions)
    checked, wrong = false_comments(
        functions, lambda: module(some(case, 5, h, w)),
        {"B": 5, "C": case.channels, "H": h, "W": w, **case.sizes})
    assert not wrong
    assert len(checked) == written > 0, "a commented line was not reached"


def test_a_false_shape_comment_is_found():
    def lying(x):
        z = x.mean(dim=(2, 3))          # (B, C, 1)
        return z[:, :, None, None]      # (B, C, 1, 1)

    checked, wrong = false_comments(
        [lying], lambda: lying(torch.zeros(2, 5, 3, 7)), {"B": 2, "C": 5})
    assert len(checked) == 2 and len(wrong) == 1 and "(2, 5)" in wrong[0]
