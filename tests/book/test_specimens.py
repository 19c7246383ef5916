"""Each fault of the source fails as described; the module of `cvattn` does not.

Loud specimens raise what RAISES says. A silent one runs, and an examination of it,
which returns one fact, finds what is described in FACTS; the same examination of the
module of `cvattn` with the same weights finds what should be. The right module must
also equal the reference, and the specimen must not. And on every shape tried each does
what the page's own code does, which tests/book/snippets.py writes down once more.
"""

import inspect
import json
import re
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import FrozenInstanceError
from functools import partial

import numpy as np
import pytest
import reference
import snippets
import torch
from conftest import ROOT
from torch import nn
from torch.nn import functional as F

from cvattn.bam import BAM, ChannelGate, SpatialGate
from cvattn.book import specimens
from cvattn.book.check import exercises
from cvattn.book.specimens import CASES, SPECIMENS
from cvattn.cbam import CBAM, ChannelAttention, SpatialAttention
from cvattn.se import SE
from cvattn.sk import SK

# The register of defects, read off the page line by line. "text" and "absent" have no
# code on the page that could run.
KINDS = {
    "CA1": "silent", "CA2": "build", "CA3": "absent", "SA1": "call silent",
    "SA2": "call silent", "SA3": "silent", "SE1": "call", "SE2": "call",
    "SE3": "call", "SE4": "call", "SE5": "call", "SE6": "call silent",
    "SE7": "text", "BC1": "build", "BC2": "call", "BC3": "call", "BC4": "silent",
    "BC5": "call silent", "BS1": "call", "BS2": "call", "BS3": "call",
    "BS4": "silent", "BS5": "silent", "BA1": "build", "BA2": "call",
    "BA3": "call", "BA4": "text", "SK1": "build", "SK2": "build",
    "SK3": "call", "SK4": "silent", "SK5": "silent", "SK6": "call silent",
    "SK7": "silent", "SK8": "silent", "SK9": "silent", "TX1": "text", "TX2": "text",
}
NDIM = (RuntimeError, "same number of dimensions")
THREE = (RuntimeError, r"expected input\[1, 3, 10, 7\] to have 2 channels, "
                       "but got 3 channels")
MATRIX = (RuntimeError, r"mat1 and mat2 shapes cannot be multiplied \({}\)")
RAISES = {      # for each case that is loud, in their order
    "CA2": [(TypeError, "missing 1 required positional argument: 'kernel_size'")],
    "SA1": [NDIM, THREE],
    "SA2": [NDIM, THREE],
    "SE1": [(TypeError, r"view\(\) received an invalid combination of arguments")],
    "SE2": [(ValueError, r"too many values to unpack \(expected 3")],
    "SE3": [(RuntimeError, MATRIX[1].format("2x280 and 8x4"))],
    "SE4": [(RuntimeError, MATRIX[1].format("80x7 and 8x4")),
            (RuntimeError, r"shape '\[2, 8, 1, 1\]' is invalid for input of size 640")],
    "SE5": [(RuntimeError, r"shape '\[2, 8, 1, 1\]' is invalid for input of size 560")],
    "SE6": [(RuntimeError, "expected weight to be at least 1 at dimension 0"),
            (IndexError, "out of range"),
            (RuntimeError, "expected weight to be at least 1 at dimension 0")],
    "BC1": [(TypeError, "takes 2 positional arguments but 3 were given"),
             (NameError, "name 'self' is not defined")],
    "BC2": [(UnboundLocalError, "local variable 'z'")],
    "BC3": [(ValueError, r"expected 4D input \(got 2D input\)")],
    "BC5": [(RuntimeError, r"expanded size of the tensor \(7\) must match the "
                            r"existing size \(8\) at non-singleton dimension 3")],
    "BS1": [(NotImplementedError, 'missing the required "forward" function')],
    "BS2": [(UnboundLocalError, "local variable 'Ms'")],
    "BS3": [(NameError, "name 'final' is not defined")],
    "BA1": [(TypeError, "missing 1 required positional argument: 'reduction'")],
    "BA2": [(NameError, "name 'in_tensor' is not defined")],
    "BA3": [(TypeError, "takes 1 positional argument but 2 were given")],
    "SK1": [(NameError, "name 'r' is not defined")],
    "SK2": [(NameError, "name 'WH' is not defined")],
    "SK3": [(RuntimeError, MATRIX[1].format("16x1 and 8x6"))],
    "SK6": [(RuntimeError, r"size of tensor a \(16\) must match the size of "
                            r"tensor b \(7\) at non-singleton dimension 3")],
}

RAISES |= {
    "square only": [(RuntimeError, "Output size is too small"),
                    (RuntimeError, MATRIX[1].format("2x16 and 8x4"))],
    "shrinking map": [(RuntimeError, r"size of tensor a \(7\) must match the size of "
                                     r"tensor b \(3\) at non-singleton dimension 3")],
}
ALL = SPECIMENS | CASES
AT_THE_START = {"half at first", "short of the edge"}     # what other weights hide


def some(shape):
    """A map (or a sequence) in float64 whose channels (positions) have other means."""
    torch.manual_seed(1)
    return torch.randn(shape, dtype=torch.float64) + torch.randn(
        *shape[:2], *[1] * len(shape[2:]), dtype=torch.float64)


def spread(module):
    """The module in float64 and eval mode, with weights large enough to matter."""
    torch.manual_seed(0)
    module = module.double().eval()
    with torch.no_grad():
        for t in module.state_dict().values():
            if t.is_floating_point():
                t.normal_(0, 1)
        for m in module.modules():
            if hasattr(m, "running_var") and m.running_var is not None:
                m.running_var.uniform_(0.5, 2)
    return module


def fresh(module):
    """The module in float64 and eval mode, as it was built."""
    return module.double().eval()


def pair(id, case):
    """The specimen and its cure, with the same weights where they fit, and an x."""
    set_up = fresh if id in AT_THE_START else spread
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        patient, right = set_up(case.build()), set_up(ALL[id].cure())
    mine, theirs = patient.state_dict(), right.state_dict()
    patient.load_state_dict({
        name: theirs[name] if name in theirs and theirs[name].shape == t.shape else t
        for name, t in mine.items()})
    return patient, right, some(case.shape)


def shown(id, module, x):
    """What the method gives in which the fault shows."""
    return getattr(module, ALL[id].method)(x)


def cases(*kinds):
    return [pytest.param(id, case, id=f"{id}-{n}")
            for id, specimen in ALL.items()
            for n, case in enumerate(specimen.cases) if case.kind in kinds]


# Examinations of a module: one fact each.

def axes(t):
    """The axes along which the numbers differ."""
    return "".join(name for n, name in enumerate("BCHW"[:t.ndim])
                   if (t.amax(n) - t.amin(n)).max() > 1e-9)


def gradients_of_zero(module, x):
    """The parameters that a training step would leave as they are."""
    y = module.train()(x.requires_grad_())
    (y * some(y.shape).flip(0)).sum().backward()
    return [name for name, p in module.named_parameters()
            if p.grad is None or p.grad.abs().max() < 1e-12]


def mean_matters(module, x):
    """Whether the gate sees that all but the largest numbers of x have fallen."""
    lower = torch.where(x < x.amax(dim=(2, 3), keepdim=True), x - 1, x)
    return not torch.equal(module.gate(lower), module.gate(x))


def pixel_matters(module, x):
    """Whether the gate tells a flat map from one pixel with the same mean."""
    flat, pixel = torch.full_like(x, 0.2), torch.zeros_like(x)
    pixel[:, :, 2, 3] = 0.2 * x[0, 0].numel()
    return not torch.allclose(module.gate(flat), module.gate(pixel))


def scale_matters(layer, module, x):
    """Whether ten times the weights of a layer change the output, in training."""
    before = module.train()(x)
    with torch.no_grad():
        layer.weight.mul_(10)
    return not torch.allclose(module(x), before, atol=1e-3)


class Says(nn.Module):
    """A branch that says the same everywhere."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, x):
        return torch.full_like(x[:, :1], self.number)


class Flat(nn.Module):
    """A branch of SK whose map is the mean of each channel, times m + 1."""

    def __init__(self, m):
        super().__init__()
        self.m = m

    def forward(self, x):
        return (self.m + 1) * x.mean(dim=(2, 3), keepdim=True).expand_as(x)


def two_noes(module, x):
    module.channel, module.spatial = Says(-3.0), Says(-3.0)
    return round(module.gate(x).mean().item(), 4)


def on_flat_maps(module, x):
    module.F[0], module.F[1] = Flat(0), Flat(1)
    return axes(module(x))


def reach(module, x):
    """How many pixels the second branch looks at, in how many rows and columns, and
    from the first of these rows to the last.
    """
    x = x.requires_grad_()
    module.F[1][0](x)[0, 0, 2, 3].backward()
    rows, columns = x.grad[0, 0].nonzero(as_tuple=True)
    return len(rows), len(set(rows.tolist())), len(set(columns.tolist())), (
        rows.max() - rows.min() + 1).item()


def branch_sums(module, x):
    """Whether the weights of each channel sum to 1, and what those of a picture do."""
    a = module.weights(x)
    sums = a.sum(dim=1)
    return torch.allclose(sums, torch.ones_like(sums)), round(a[0].sum().item(), 9)


def sums_along(module, x):
    """The axis along which the weights of SK sum to 1."""
    a = module.weights(x)[..., 0, 0]
    return " ".join(name for n, name in enumerate(("branches", "channels"), start=1)
                    if torch.allclose(a.sum(n), torch.ones_like(a.sum(n))))


def last_columns_matter(module, x):
    """Whether what lies beyond the largest square is seen."""
    changed = x.clone()
    changed[:, :, :, 5:] += 1
    return not torch.equal(module(changed), module(x))


def at_the_start(module, x):
    """Whether each gate is a half, and which parameters a first step would leave."""
    return (module.gate(x) == 0.5).all().item(), gradients_of_zero(module, x)


def scale_of_scores(module, x):
    """By what the dot products of queries and keys are multiplied."""
    Q, K = module.heads(module.W_Q(x)), module.heads(module.W_K(x))
    a, s = module.weights(x).log(), Q @ K.mT
    ratio = (a[..., 1:] - a[..., :1]) / (s[..., 1:] - s[..., :1])
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))
    return round(ratio.mean().item(), 6)


def variance_of_the_norm(layer, x):
    """What the last norm leaves, before its weight and bias."""
    bare = (layer(x) - layer.norm2.bias) / layer.norm2.weight
    return round(bare.var(-1, correction=0).mean().item(), 3)


def identity(module, x):
    """Whether nothing moves, and whether the last column is the one before it."""
    y = module(x)
    return torch.allclose(y, x), torch.allclose(y[:, :, 0, -1], x[:, :, 0, -2])


def whose_scale(branch, x):
    """What the deviation of BAM's spatial branch follows, in training."""
    before, after = branch.train()(x), branch(10 * x)
    found = {"x"} if not torch.allclose(after.std(), before.std(), rtol=0.01) else set()
    return found | ({"last weights"} if scale_matters(branch.f3, branch, x) else set())


FACTS = {       # the examination, what it finds in the specimen, and in the cure
    "CA1": (mean_matters, False, True),
    "SA1": (lambda m, x: tuple(m.gate(x).shape), (1, 10, 7), (2, 1, 5, 7)),
    "SA2": (lambda m, x: tuple(m.gate(x).shape), (1, 10, 7), (2, 1, 5, 7)),
    "SA3": (lambda m, x: tuple(m.gate(x).shape), (2, 1, 3, 5), (2, 1, 5, 7)),
    "SE6": (lambda m, x: torch.equal(m(x), x / 2), True, False),
    "SE7": (pixel_matters, False, True),
    "BC4": (lambda m, x: m(x).min().item() >= 0, True, False),
    "BC5": (lambda m, x: axes(m(x)), "HW", "BC"),
    "BS4": (lambda m, x: tuple(getattr(m, "gate", m)(x).shape),
             (2, 1, 5, 7), (2, 8, 5, 7)),
    "BS5": (whose_scale, {"last weights"}, set()),
    "BA4": (two_noes, 0.9999, 0.0025),
    "SK4": (lambda m, x: scale_matters(m.W, m, x), True, False),
    "SK5": (branch_sums, (False, 1.0), (True, 8.0)),
    "SK6": (on_flat_maps, "BCHW", "BC"),
    "SK7": (lambda m, x: tuple(m(x).shape), (2, 16, 5, 7), (2, 8, 5, 7)),
    "SK8": (reach, (25, 5, 5, 5), (9, 3, 3, 5)),
    "SK9": (gradients_of_zero, ["F.0.0.bias", "F.1.0.bias", "W.bias"], []),
    "TX1": (lambda m, x: axes(m.gate(x)), "BHW", "BC"),
    "TX2": (sums_along, "channels", "branches"),
}
FACTS |= {
    "half at first": (at_the_start, (True, ["f.weight"]), (False, [])),
    "square only": (last_columns_matter, False, True),
    "shrinking map": (lambda m, x: axes(m.gate(x)), "BC", "BCHW"),
    "scale upside down": (scale_of_scores, 2.0, 0.5),
    "Bessel's norm": (variance_of_the_norm, 7 / 8, 1.0),
    "short of the edge": (identity, (False, True), (True, False)),
}


def test_the_list_is_complete():
    assert SPECIMENS.keys() == KINDS.keys()
    assert {id: " ".join(s.kinds) for id, s in SPECIMENS.items()} == KINDS
    assert len(ALL) == len(SPECIMENS) + len(CASES)
    assert RAISES.keys() == {id for id, s in ALL.items()
                             if {"build", "call"} & set(s.kinds)}
    assert FACTS.keys() == {id for id, s in ALL.items()
                            if {"silent", "text"} & set(s.kinds)}


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        yield


@pytest.mark.parametrize("id, case", cases("build", "call"))
def test_it_raises_as_described(id, case, quiet):
    loud = [c for c in ALL[id].cases if c.kind in ("build", "call")]
    error, message = RAISES[id][loud.index(case)]
    assert len(loud) == len(RAISES[id])
    if case.kind == "build":
        with pytest.raises(error, match=message):
            case.build()
    else:
        patient = case.build().double().eval()
        with pytest.raises(error, match=message):
            shown(id, patient, some(case.shape))


@pytest.mark.parametrize("id, case", cases("silent", "text"))
def test_it_runs_and_is_wrong_as_described(id, case):
    exam, sick, sound = FACTS[id]
    patient, right, x = pair(id, case)
    assert exam(patient, x.clone()) == sick
    assert exam(right, x.clone()) == sound
    assert sick != sound


# The page's own code. Each specimen does what it does, on every shape.

SHAPES = [      # B = 1, 2, 3; W = C; H = B and W = C; H = B and W = 2 C
    (1, 8, 5, 7), (2, 8, 5, 7), (3, 8, 5, 7), (2, 8, 5, 8), (1, 8, 5, 8),
    (3, 8, 3, 8), (3, 8, 3, 16), (1, 8, 5, 16), (2, 8, 5, 40),
]
SMALL = [(2, 8, 1, 1), (2, 8, 1, 7), (2, 8, 2, 8), (2, 8, 2, 16)]
PAGE = {"CA": snippets.ChannelAttention, "SA": snippets.SpatialAttention,
        "SE": snippets.SE, "BA": snippets.BAM, "SK": snippets.SK,
        "BC": lambda faults=snippets.NONE: snippets.channel_gate(faults, 8, 2),
        "BS": lambda faults=snippets.NONE: snippets.spatial_gate(faults, 8, 2)}
MADE = {                # what more than one fault, or another argument, makes
    "SA1-1": partial(snippets.SpatialAttention, {"SA1", "SA2"}),
    "SA1-2": partial(snippets.SpatialAttention, {"SA1", "SA2"}),
    "SA2-1": partial(snippets.SpatialAttention, {"SA1", "SA2"}),
    "SA2-2": partial(snippets.SpatialAttention, {"SA1", "SA2"}),
    "SA3-0": partial(snippets.SpatialAttention, {"SA3"}, 5, optimised=True),
    "SE6-0": partial(snippets.ChannelAttention, reduction=16),
    "SE6-1": partial(snippets.channel_gate, snippets.NONE, 8, 16),
    "SE6-2": partial(snippets.spatial_gate, snippets.NONE, 8, 16),
    "SE6-3": partial(snippets.SE, reduction=16),
    "BC1-1": partial(snippets.channel_gate, {"BC1"}, 8),
}
CODED = [pytest.param(id, n, id=f"{id}-{n}") for id, s in SPECIMENS.items()
         for n, case in enumerate(s.cases) if case.kind not in ("text", "absent")]


def on_the_page(id, n):
    """Return what builds the page's class with this fault alone."""
    return MADE.get(f"{id}-{n}") or partial(PAGE[id[:2]], {id})


def outcome(build, shape, method="forward"):
    """Whether it returns, and a map of what shape, or when it raises what."""
    try:
        module = build().eval()
    except Exception as error:
        return "build", type(error)
    try:
        return "silent", tuple(getattr(module, method)(torch.randn(shape)).shape)
    except Exception as error:
        return "call", type(error)


@pytest.mark.parametrize("id, n", CODED)
def test_it_does_what_the_page_does_on_every_shape(id, n, quiet):
    specimen = SPECIMENS[id]
    for shape in SHAPES + SMALL:
        assert outcome(specimen.cases[n].build, shape, specimen.method) == outcome(
            on_the_page(id, n), shape), shape


def test_the_kinds_are_those_of_the_page(quiet):
    """On maps of some size: on one of one pixel SE3 and SE5 run."""
    found = {id: {outcome(on_the_page(id, n), shape)[0]
                  for n in range(len(SPECIMENS[id].cases)) for shape in SHAPES}
             for id in dict.fromkeys(param.values[0] for param in CODED)}
    assert found == {id: set(KINDS[id].split()) for id in found}


@pytest.mark.parametrize("id, n", [param for param in CODED if SPECIMENS[
    param.values[0]].cases[param.values[1]].kind == "silent"])
def test_it_computes_what_the_page_computes(id, n, quiet):
    specimen = SPECIMENS[id]
    mine, page = spread(specimen.cases[n].build()), on_the_page(id, n)().double()
    handed_over(mine, page)
    x = some(specimen.cases[n].shape)
    torch.testing.assert_close(page(x), getattr(mine, specimen.method)(x))


def handed_over(module, page):
    """Give the page's class the weights; its BN without a name is at rest."""
    theirs = module.state_dict()
    if "A.weight" in theirs:
        for name in [name for name in theirs if name.startswith("A.")]:
            for m, half in enumerate(theirs[name].chunk(2)):
                theirs[f"A_{m}.{name[2:]}"] = half
    for name, t in page.eval().state_dict().items():
        if name in theirs:
            t.copy_(theirs[name].view_as(t))
    for name, m in page.named_modules():
        if name.endswith("hidden"):
            m.eps = 0.0
    return page


@pytest.mark.parametrize("cure, page, method", [
    (specimens.se, "SE", "forward"), (specimens.ca, "CA", "gate"),
    (specimens.sa, "SA", "gate"), (specimens.bc, "BC", "forward"),
    (specimens.bs, "BS", "forward"), (specimens.bam, "BA", "forward"),
    (specimens.sk, "SK", "forward"),
])
def test_the_page_mended_is_the_cure(cure, page, method):
    right, x = spread(cure()), some((2, 8, 5, 7))
    page = handed_over(right, PAGE[page]().double())
    torch.testing.assert_close(page(x), getattr(right, method)(x))


@pytest.mark.parametrize("name, wanted", [
    ("SE", ("call", TypeError)), ("CA", ("build", TypeError)),
    ("BC", ("build", TypeError)), ("BS", ("call", NotImplementedError)),
    ("BA", ("build", NameError)), ("SK", ("build", NameError)),
])
def test_no_class_of_the_page_ran_as_it_stood(name, wanted):
    build = partial(PAGE[name], snippets.ALL)
    assert {outcome(build, shape) for shape in SHAPES} == {wanted}


def test_but_one_did_for_a_batch_of_two():
    build = partial(snippets.SpatialAttention, snippets.ALL)
    for b, c, h, w in SHAPES:
        wanted = ("silent", (1, 2 * h, w)) if b == 2 else ("call", RuntimeError)
        assert outcome(build, (b, c, h, w)) == wanted


def by_reference(module, x):
    """What the papers' equations say of x, with the module's weights."""

    def array(t):
        return t.detach().numpy()

    def norm(bn):
        return [array(t) for t in (bn.weight, bn.bias, bn.running_mean, bn.running_var)]

    def ca(m):
        return {"W0": array(m.W0.weight), "W1": array(m.W1.weight)}

    def sa(m):
        return {"f": array(m.f.weight)}

    def bc(m):
        return {"W0": array(m.W0.weight), "b0": array(m.W0.bias),
                "W1": array(m.W1.weight), "b1": array(m.W1.bias), "norm": norm(m.norm)}

    def bs(m):
        return {"layers": [(array(f.weight), array(f.bias))
                           for f in (m.f0, m.f1, m.f2, m.f3)],
                "norms": [None, None, None, norm(m.norm3)],
                "dilation": m.f1.dilation[0]}

    x = x.numpy()
    if isinstance(module, SE):
        return reference.se(x, array(module.W1.weight), array(module.W2.weight))
    if isinstance(module, ChannelAttention):
        return reference.cbam(x, ca(module), None, "channel")
    if isinstance(module, SpatialAttention):
        return reference.cbam(x, None, sa(module), "spatial")
    if isinstance(module, CBAM):
        return reference.cbam(x, ca(module.channel), sa(module.spatial))
    if isinstance(module, ChannelGate):
        return reference.bam_channel(x, **bc(module))[:, :, None, None]
    if isinstance(module, SpatialGate):
        return reference.bam_spatial(x, **bs(module))[:, None]
    if isinstance(module, BAM):
        return reference.bam(x, bc(module.channel), bs(module.spatial))
    assert isinstance(module, SK)
    return reference.sk(
        x, [array(F_m[0].weight) for F_m in module.F],
        [norm(F_m[1]) for F_m in module.F], array(module.W.weight), norm(module.bn),
        array(module.A.weight).reshape(2, 8, 6), groups=2)


CONVOLUTIONAL = [id for id, s in ALL.items() if s.paper not in ("Transformer", "STN")]


@pytest.mark.parametrize("id", CONVOLUTIONAL)
def test_the_cure_runs_on_all_its_shapes_and_equals_the_reference(id):
    for shape in {case.shape for case in ALL[id].cases}:
        right, x = spread(ALL[id].cure()), some(shape)
        np.testing.assert_allclose(
            right(x).detach().numpy(), by_reference(right, x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("id, case", cases("silent", "text"))
def test_its_numbers_are_not_those_of_the_cure(id, case):
    patient, right, x = pair(id, case)
    got, want = shown(id, patient, x), shown(id, right, x)
    if got.shape == want.shape:
        assert (got - want).abs().max() > 0.05 * want.abs().max()
    else:
        assert id in {"SA1", "SA2", "SA3", "BC5", "BS4", "SK7"}


def words(file):
    """The text of a file; of a notebook what is written and printed in it."""
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    printed = [output.get("text", "") for cell in cells
               for output in cell.get("outputs", [])]
    return "\n".join("".join(part) for part in
                     [*(cell["source"] for cell in cells), *printed])


def test_no_id_means_two_things():
    assert all(re.fullmatch("[A-Z]{2}[1-9]", id) for id in SPECIMENS)
    assert all(re.fullmatch(r"[a-z]+-[1-9]\d?", id) for id in exercises())
    families = {id[:2] for id in SPECIMENS}
    files = [*ROOT.glob("*.md"), *ROOT.glob("chapters/*.ipynb"),
             *ROOT.glob("cvattn/**/*.py"), *ROOT.glob("cvattn/**/*.js"),
             *ROOT.glob("cvattn/**/clinic.json"), *ROOT.glob("tests/**/*.py")]
    for file in files:
        text = words(file)
        faults = re.findall(r"(?<![\w-])([A-Z]{2})(\d+)(?![\w-])", text)
        assert {a + n for a, n in faults if a in families} <= set(SPECIMENS), file
        tasks = re.findall(r"(?<![\w-])([a-z]{2})-([1-9]\d?)(?![\w-])", text)
        tasks = {f"{a}-{n}" for a, n in tasks if a.upper() in families}
        assert tasks <= set(exercises()), file


def test_each_cure_is_a_module_of_the_package():
    for specimen in ALL.values():
        cure = type(specimen.cure())
        file = cure.__module__.removeprefix("cvattn.")
        file = {"multihead": "transformer", "layers": "transformer"}.get(file, file)
        assert file.upper() in specimen.paper.upper().split(", ")


# What each description says beyond its one fact.


def test_ca1_both_branches_are_equal():
    patient, _, x = pair("CA1", SPECIMENS["CA1"].cases[0])
    a = patient.W1(torch.relu(patient.W0(x.amax(dim=(2, 3)))))
    torch.testing.assert_close(patient.gate(x), torch.sigmoid(2 * a)[..., None, None])


def test_ca3_the_halves_are_right_and_the_invented_chain_is_not():
    patient, right, x = pair("CA3", SPECIMENS["CA3"].cases[0])
    assert patient(x).shape == (2, 1, 1, 1) and right(x).shape == x.shape
    assert "invented" in inspect.getdoc(specimens.Halves)
    assert torch.equal(patient.channel.gate(x), right.channel.gate(x))
    assert torch.equal(patient.spatial.gate(x), right.spatial.gate(x))
    refined = patient.channel.gate(x) * x
    torch.testing.assert_close(patient.spatial.gate(refined) * refined, right(x))


@pytest.mark.parametrize("b", [1, 3, 5])
def test_sa1_and_2_any_batch_but_two_raises(b):
    _, right, _ = pair("SA1", SPECIMENS["SA1"].cases[2])
    patient, x = specimens.BothDropAxis(8).double(), some((b, 8, 5, 7))
    with pytest.raises(RuntimeError, match=f"to have 2 channels, but got {b} channel"):
        patient.gate(x)
    assert right.gate(x).shape == (b, 1, 5, 7)


def test_sa1_and_2_the_two_pictures_are_the_two_channels():
    """Of a picture that is twice as high: its means above, its maxima below."""
    patient, right, x = pair("SA1", SPECIMENS["SA1"].cases[2])
    heights = torch.cat([x.mean(dim=1), x.amax(dim=1)], dim=1)
    assert heights.shape == (2, 10, 7)
    torch.testing.assert_close(
        patient.gate(x), torch.sigmoid(right.f(heights[None]))[0])


def test_sa1_and_2_the_product_raises_but_on_maps_of_one_row():
    patient, right, x = pair("SA1", SPECIMENS["SA1"].cases[2])
    with pytest.raises(RuntimeError, match=r"a \(5\) must match the size of tensor b "
                                           r"\(10\)"):
        patient(x)
    assert patient(x[:, :, :1]).shape == (2, 8, 2, 7), "two rows out of one"
    assert right(x[:, :, :1]).shape == (2, 8, 1, 7)


def test_sa3_under_python_O():
    """In another interpreter: the assertion is gone, our error is not."""
    said = subprocess.run([sys.executable, "-O", "-c", """
import torch
from cvattn import SpatialAttention
from cvattn.book.specimens import Asserts
print(tuple(Asserts(8, kernel_size=4).gate(torch.ones(2, 8, 5, 7)).shape))
try:
    SpatialAttention(8, kernel_size=4)
except ValueError as error:
    print(error)
"""], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == ["(2, 1, 4, 6)",
                    "kernel_size must be odd and positive, got kernel_size=4"]


def test_sa3_with_assertions_a_size_that_would_do_is_refused():
    with pytest.raises(AssertionError, match="kernel_size must be 3 or 7"):
        specimens.Asserts(8, kernel_size=5)
    for kernel_size in (1, 3, 5, 9):
        right = SpatialAttention(8, kernel_size=kernel_size)
        assert right.gate(torch.ones(2, 8, 5, 7)).shape == (2, 1, 5, 7)


def test_se3_is_right_on_a_map_of_one_pixel():
    patient, right, x = pair("SE3", SPECIMENS["SE3"].cases[0])
    assert torch.equal(patient(x[:, :, :1, :1]), right(x[:, :, :1, :1]))


def test_se5_passes_on_a_map_of_one_pixel_as_an_activation():
    patient, _, x = pair("SE5", SPECIMENS["SE5"].cases[0])
    pixel = x[:, :, :1, :1]
    torch.testing.assert_close(patient(pixel), F.silu(pixel))


def test_se4_where_the_layer_says_nothing_channels_do_not_speak_to_each_other():
    patient, _, _ = pair("SE4", SPECIMENS["SE4"].cases[1])
    x = some(SPECIMENS["SE4"].cases[1].shape)
    changed = x.clone()
    changed[:, 3] += 1
    a, b = (patient.W2(torch.relu(patient.W1(t))) for t in (x, changed))
    assert (a - b).abs().amax(dim=(0, 2, 3)).nonzero().flatten().tolist() == [3]


def test_se6_torch_warns_and_builds():
    with pytest.warns(UserWarning, match="zero-element tensors"):
        patient = specimens.ZeroWide(8)
    assert sum(p.numel() for p in patient.parameters()) == 0
    assert sum(p.numel() for p in specimens.ZeroWide(16).parameters()) == 32


@pytest.mark.parametrize("cls", [SE, ChannelAttention, CBAM, ChannelGate, SpatialGate,
                                 BAM], ids=lambda cls: cls.__name__)
def test_se6_every_module_refuses_a_bottleneck_of_no_width(cls):
    with pytest.raises(ValueError, match=re.escape(
            "channels must be a positive multiple of reduction, "
            "got channels=8, reduction=16")):
        cls(8)


def test_se7_the_claim_holds_for_one_descriptor_and_fails_for_two():
    patient, right, x = pair("SE7", SPECIMENS["SE7"].cases[0])
    se = SE(8, reduction=2).double()
    se.load_state_dict({"W1.weight": right.W0.weight, "W2.weight": right.W1.weight})
    torch.testing.assert_close(patient(x), se(x))
    assert (right.gate(x) - se.gate(x)).abs().max() > 0.1


def test_bc4_the_gate_cannot_fall_below_a_half():
    patient, right, x = pair("BC4", SPECIMENS["BC4"].cases[0])
    assert torch.sigmoid(patient(x)).min() >= 0.5
    assert torch.sigmoid(right(x)).min() < 0.1
    assert torch.equal(patient(x), right(x).clamp(min=0))


def test_bc5_the_channels_run_along_the_columns():
    patient, right, x = pair("BC5", SPECIMENS["BC5"].cases[1])
    Mc = right(x)[:, :, 0, 0]
    for b in range(2):
        for c in range(8):
            assert torch.equal(patient(x)[b, c], Mc)
    assert patient(some((1, 8, 5, 8))).shape == (1, 8, 5, 8)


def test_bs4_does_nothing_and_is_saved_by_the_sum():
    patient, right, x = pair("BS4", SPECIMENS["BS4"].cases[0])
    patient.load_state_dict(right.spatial.state_dict())
    assert torch.equal(patient(x), right.spatial(x))
    right.spatial = patient
    assert right.gate(x).shape == x.shape


def test_bs5_is_the_official_code_s_form():
    patient, right, x = pair("BS5", SPECIMENS["BS5"].cases[0])
    official = SpatialGate(8, reduction=2, official=True).double().eval()
    official.load_state_dict(patient.state_dict())
    assert torch.equal(patient(x), official(x))
    mine, theirs = (set(dict(m.named_parameters())) for m in (patient, right))
    assert theirs - mine == {"norm3.weight", "norm3.bias"}
    assert mine - theirs == {f"norm{n}.{name}" for n in range(3)
                             for name in ("weight", "bias")}


def test_ba4_sum_and_product_differ_wherever_they_are_not_equal():
    patient, right, x = pair("BA4", SPECIMENS["BA4"].cases[0])
    Mc, Ms = right.channel(x), right.spatial(x)
    torch.testing.assert_close(right(x), x * (1 + torch.sigmoid(Mc + Ms)))
    torch.testing.assert_close(patient(x), x * (1 + torch.sigmoid(Mc * Ms)))
    assert ((right.gate(x) < 0.5) & (patient.gate(x) > 0.5)).any()


def test_sk4_z_falls_below_0():
    patient, right, x = pair("SK4", SPECIMENS["SK4"].cases[0])
    z = []
    for module in (patient, right):
        module.A.register_forward_hook(lambda m, inputs, output: z.append(inputs[0]))
        module(x)
    assert z[0].min() < -0.1 and z[1].min() == 0
    torch.testing.assert_close(torch.relu(right.bn(z[0])), z[1])


def test_sk6_runs_for_one_picture_of_any_height():
    patient, right, _ = pair("SK6", SPECIMENS["SK6"].cases[1])
    x = some((1, 8, 5, 16))
    assert patient(x).shape == right(x).shape
    assert (patient(x) - right(x)).abs().max() > 0.1
    pixel = some((2, 8, 1, 1))
    assert patient(pixel).shape == (2, 8, 2, 16) and right(pixel).shape == pixel.shape


def test_sk7_the_branches_are_weighed_and_only_their_sum_is_missing():
    patient, right, x = pair("SK7", SPECIMENS["SK7"].cases[0])
    torch.testing.assert_close(patient(x).unflatten(1, (2, 8)).sum(dim=1), right(x))


def test_sk8_spends_25_weights_where_9_see_as_far():
    patient, right, x = pair("SK8", SPECIMENS["SK8"].cases[0])
    wide, dilated = patient.F[1][0].weight, right.F[1][0].weight
    assert wide.numel() - dilated.numel() == (25 - 9) * 8 * 8 // 2
    with torch.no_grad():
        wide.zero_()
        wide[:, :, ::2, ::2] = dilated
    torch.testing.assert_close(patient(x), right(x))


def test_sk9_of_its_biases_only_those_of_the_last_layer_do_anything_in_training():
    patient, right, x = pair("SK9", SPECIMENS["SK9"].cases[0])
    extra = sum(p.numel() for p in patient.parameters()) - sum(
        p.numel() for p in right.parameters())
    assert extra == 2 * 8 + 6 + 2 * 8
    patient, right = patient.train(), right.train()
    assert (patient(x) - right(x)).abs().max() > 0.1
    with torch.no_grad():
        patient.A.bias.zero_()
    torch.testing.assert_close(patient(x), right(x))


def test_a_scale_upside_down_equals_queries_d_times_as_long():
    patient, right, x = pair("scale upside down", CASES["scale upside down"].cases[0])
    with torch.no_grad():
        right.W_Q.weight.mul_(4)
    torch.testing.assert_close(patient(x), right(x))


def test_bessel_s_norm_is_the_layer_s_times_a_factor():
    layer, x = specimens.BesselNorm(8, eps=0.0).double(), some((2, 7, 8))
    torch.testing.assert_close(layer(x), F.layer_norm(x, (8,), eps=0) * (7 / 8) ** 0.5)


def test_short_of_the_edge_is_hidden_by_large_weights():
    """With them both look for the picture beyond its edge, and find mostly zeros."""
    case = CASES["short of the edge"]
    for make in (case.cases[0].build, case.cure):
        y = spread(make())(some((2, 8, 5, 7)))
        assert (y.abs() < 1e-9).double().mean() > 0.9


def test_square_only_agrees_on_squares():
    patient, right, _ = pair("square only", CASES["square only"].cases[2])
    x = some((2, 8, 5, 5))
    torch.testing.assert_close(patient(x), right(x))


def test_half_at_first_is_the_official_code_and_not_the_default():
    patient, _, x = pair("half at first", CASES["half at first"].cases[0])
    official = SpatialAttention(8, norm=True).double()
    assert patient.state_dict().keys() == official.state_dict().keys()
    assert patient.norm.momentum == official.norm.momentum == 0.01
    assert torch.equal(patient(x), x / 2) and torch.equal(official(x), x / 2)


def test_counts_are_computed():
    counted = Counter(word for kinds in KINDS.values() for word in kinds.split())
    assert specimens.count() == counted
    assert set(counted) == {"build", "call", "silent", "text", "absent"}


def test_each_class_says_what_is_wrong_of_which_kind_and_the_cure():
    words = {}
    for id, specimen in ALL.items():
        for case in specimen.cases:
            cls = getattr(case.build, "func", case.build)
            words.setdefault(getattr(cls, "__name__", ""), set()).add((id, case.kind))
    classes = {name: cls for name, cls in vars(specimens).items()
               if inspect.isclass(cls) and issubclass(cls, nn.Module)
               and cls.__module__ == specimens.__name__}
    shown = classes.keys() & words.keys()
    within = {"Asserts", "Branch", "BesselNorm", "ShortOfTheEdge"}
    assert classes.keys() - shown == within, "built by something else"
    for name in shown:
        text = " ".join(inspect.getdoc(classes[name]).split())
        assert "Cure: " in text, name
        for id, kind in words[name]:
            assert id in text or id in CASES, name
            assert re.search(rf"\b{kind}\b", text, re.IGNORECASE), (name, kind)


def test_each_case_names_its_thread():
    for cls in (specimens.HalfAtFirst, specimens.SquareOnly, specimens.ShrinkingMap,
                specimens.ScaleUpsideDown, specimens.BesselNorm,
                specimens.ShortOfTheEdge, specimens.Multiplies,
                specimens.BareDescriptor):
        text = " ".join(inspect.getdoc(cls).split())
        assert re.search(r"Seen in: [\w-]+/[\w-]+, issues? \d+", text), cls


def test_specimens_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        SPECIMENS["SE1"].symptom = ""
