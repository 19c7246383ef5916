"""The clinic's live figures: the matrix that they ship, and their arithmetic.

    PYTHONPATH=tests python tests/book/test_live_clinic.py    # write clinic.json anew
"""

import base64
import itertools
import json
import os
import re
import warnings

import numpy as np
import pytest
import test_specimens
import torch
from pages import CLOSE, PHONE, html
from test_specimens import ALL, some, spread

from cvattn import SpatialAttention
from cvattn.bam import SpatialGate
from cvattn.book import live
from cvattn.book.experiments.grid import RESULTS
from cvattn.book.specimens import SPECIMENS, BothDropAxis

FILE = RESULTS / "clinic.json"
SILENT = [(id, case) for id, specimen in ALL.items() for case in specimen.cases
          if case.kind in ("silent", "text")]


# The matrix, by the tools of tests/book/test_specimens.py -----------------------------


def pair(id, case):
    patient, right, _ = test_specimens.pair(id, case)
    if id == "BS4":        # the branch beside the branch that lacks its line
        right = spread(SpatialGate(8, reduction=2))
        patient.load_state_dict(right.state_dict())
    if id == "BC5":        # beside the branch that expands its scores aright
        scores = right.forward
        right.forward = lambda x: scores(x).expand_as(x)
    return patient, right, ALL[id].method


def idle(module, method, x):
    y = getattr(module.train(), method)(x)
    (y * some(y.shape).flip(0)).sum().backward()
    return {name for name, p in module.named_parameters()
            if p.grad is None or p.grad.abs().max() < 1e-12}


def shape(sick, right, method, x):
    return getattr(sick, method)(x).shape == getattr(right, method)(x).shape


def value(sick, right, method, x):
    got, want = getattr(sick, method)(x), getattr(right, method)(x)
    return got.shape == want.shape and torch.allclose(got, want)


def batches(sick, right, method, x):
    return all(shape(sick, right, method, some((b, *x.shape[1:]))) for b in (1, 2, 5))


def alone(sick, right, method, x):
    whole = getattr(sick, method)(x)
    apart = torch.cat([getattr(sick, method)(picture[None]) for picture in x])
    return whole.shape == apart.shape and torch.allclose(whole, apart)


def gradient(sick, right, method, x):
    derivative = torch.autograd.gradcheck(
        getattr(sick, method), x.clone().requires_grad_(), fast_mode=True)
    return derivative and idle(sick, method, x) <= idle(right, method, x)


def sums(sick, right, method, x):
    if not hasattr(sick, "weights"):
        return None
    total = sick.weights(x).sum(-1 if x.ndim == 3 else 1)
    return torch.allclose(total, torch.ones_like(total))


def parameters(sick, right, method, x):
    counts = [sum(p.numel() for p in m.parameters()) for m in (sick, right)]
    return counts[0] == counts[1]


TESTS = (shape, value, batches, alone, gradient, sums, parameters)


def mark(test, id, case, x):
    try:
        passed = test(*pair(id, case), x)
    except (RuntimeError, ValueError):
        return "x"
    return {True: " ", False: "x", None: "-"}[passed]


def computed():
    """Return what cvattn/book/results/clinic.json holds."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        return matrices()


def matrices():
    apart = {4: (3, 8, 5, 7), 3: (3, 7, 8)}
    words = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[a-z]{2})(?=\d)")
    names = {id: words.sub(" ", type(case.build()).__name__)
             for id, case in SILENT if id in SPECIMENS}
    return {"tests": [test.__name__ for test in TESTS],
            "names": {id: name.lower() for id, name in names.items()}} | {
        name: {id: "".join(mark(test, id, case, some(at(case.shape)))
                           for test in TESTS) for id, case in SILENT}
        for name, at in (("trap", lambda s: s), ("apart", lambda s: apart[len(s)]))}


@pytest.fixture(scope="module")
def matrix():
    return computed()


def test_the_shipped_matrix_is_the_computed_one(matrix):
    assert json.loads(FILE.read_text(encoding="utf-8")) == matrix, (
        "run PYTHONPATH=tests python tests/book/test_live_clinic.py")


def test_what_the_chapter_says_of_the_matrix(matrix):
    """Facts that its prose rests on; the chapter's cells assert them too."""
    trap = matrix["trap"]
    caught = {test: {id for id in trap if trap[id][t] == "x"}
              for t, test in enumerate(matrix["tests"])}
    assert set(trap) - caught["value"] == {"BS4"}
    assert caught["sums"] == {"SK5", "TX2"}
    assert caught["shape"] < caught["batches"]
    others = set().union(*(caught[t] for t in caught if t != "value"))
    only = caught["value"] - others
    assert only == {"CA1", "SE7", "BC4", "BA4", "TX1", "square only",
                    "scale upside down", "Bessel's norm", "short of the edge"}


# In the browser ------------------------------------------------------------------


def slide(page, name, n):
    page.root.get_by_role("slider", name=name).fill(str(n))


def torch_trap(B, H):
    data = live.trap().data

    def array(name, *sizes):
        content = base64.b64decode(data[name]["base64"])
        return torch.from_numpy(np.frombuffer(content, "<f4").copy()).view(*sizes)

    x = array("x", 5, 3, 5, 4)[:B, :, :H].double()
    broken, right = (cls(3, kernel_size=3).double()
                     for cls in (BothDropAxis, SpatialAttention))
    for module in (broken, right):
        module.f.weight.data = array("kernel", 1, 2, 3, 3).double()
    try:
        wrong, error = broken.gate(x).flatten().tolist(), ""
    except RuntimeError as said:
        wrong, error = None, f"RuntimeError: {said}"
    return wrong, error, right.gate(x).flatten(1).tolist()


@pytest.mark.parametrize("B", range(1, 6))
def test_trap_computes_what_pytorch_does(show, B):
    page = show(html("trap"))
    slide(page, "Pictures", B)
    for H in range(1, 6):
        slide(page, "Rows", H)
        wrong, error, right = torch_trap(B, H)
        assert page.state("batch") == B and page.state("height") == H
        np.testing.assert_allclose(page.state("right"), right, atol=CLOSE)
        assert page.root.get_attribute("data-error") == error
        assert (page.state("wrong") is None) == (B != 2)
        if B == 2:
            np.testing.assert_allclose(page.state("wrong"), wrong, atol=CLOSE)


@pytest.mark.parametrize("B, H", [(1, 3), (2, 4), (3, 5)])
def test_trap_shows_the_shapes_that_pytorch_has(show, B, H):
    page, x = show(html("trap")), torch.zeros(B, 3, H, 4)
    slide(page, "Pictures", B)
    slide(page, "Rows", H)
    mean = x.mean(dim=1)
    cat = torch.cat([mean, mean], dim=1)
    kept = torch.cat([x.mean(dim=1, keepdim=True)] * 2, dim=1)
    wanted = [(x, x), (mean, mean[:, None]), (cat, kept), (cat[None], kept)]
    for step, shapes in enumerate(wanted):
        page.root.get_by_role("button").nth(step).click()
        for i, t in enumerate(shapes):
            text = page.root.locator(".panel b").nth(i).inner_text()
            assert text.removesuffix(" twice") == str(tuple(t.shape)), step
    page.root.get_by_role("button").nth(4).click()
    text = page.root.locator(".panel").nth(0).inner_text()
    assert (str((1, 2 * H, 4)) in text) == (B == 2)
    assert ("RuntimeError" in text) == (B != 2)
    assert f"({B}, 1, {H}, 4)" in page.root.locator(".panel").nth(1).inner_text()


@pytest.mark.parametrize("by", ["keyboard", "touch"])
def test_trap_by_hand(show, by):
    page = show(html("trap"), **(PHONE if by == "touch" else {}))
    target = page.root.get_by_role("slider").first
    if by == "keyboard":
        target.press("ArrowLeft")
        page.root.get_by_role("button", name="5. gate").press("Enter")
    else:
        page.tab.touchscreen.tap(*page.place(target, 0.26, 0.5))
        page.root.get_by_role("button", name="5. gate").tap()
    assert page.state("batch") == 2 and page.state("step") == 4
    assert "not a word" in page.said()
    assert page.root.locator(".panel").first.locator("canvas").count() == 1


def undetected(matrix, sizes, names):
    columns = [matrix["tests"].index(name) for name in names]
    return [id for id, marks in matrix[sizes].items()
            if not any(marks[t] == "x" for t in columns)]


def choose(page, names):
    for node in page.root.get_by_role("group", name="Tests to run").get_by_role(
            "button").all():
        if (node.get_attribute("aria-pressed") == "true") != (
                node.inner_text() in names):
            node.click()


@pytest.mark.parametrize("sizes", ["trap", "apart"])
def test_cover_counts_as_the_computed_matrix(show, matrix, sizes):
    page = show(html("cover"))
    page.root.locator(f"input[value={sizes}]").check()
    tests = matrix["tests"]
    for names in [(), *itertools.combinations(tests, 1), ("shape", "parameters"),
                  tests[2:], tests]:
        choose(page, names)
        left = undetected(matrix, sizes, names)
        assert page.state("chosen") == list(names)
        assert page.state("missed") == left
        assert page.root.locator(".count").inner_text() == (
            f"{len(left)} of {len(SILENT)} go home undetected")
        assert page.root.locator("tr.missed th").evaluate_all(
            "nodes => nodes.map(n => n.firstChild.textContent)") == left
        assert f"{len(SILENT) - len(left)} of {len(SILENT)} are found" in page.said()


@pytest.mark.parametrize("reference", [True, False])
def test_cover_finds_the_best_choice(show, matrix, reference):
    page = show(html("cover"))
    if not reference:
        page.root.get_by_role("button", name="I have right numbers").click()
        assert page.root.get_by_role("button", name="value").is_disabled()
    usable = [t for t in matrix["tests"] if reference or t != "value"]
    for k in range(1, len(usable) + 1):
        slide(page, "Number of tests", k)
        least = min(len(undetected(matrix, "trap", names))
                    for names in itertools.combinations(usable, k))
        assert len(page.state("chosen")) == k
        assert page.root.get_by_role("slider").get_attribute("aria-valuetext") == str(k)
        assert set(page.state("chosen")) <= set(usable)
        assert len(page.state("missed")) == least


def test_cover_says_what_each_cell_means(show, matrix):
    page = show(html("cover"))
    choose(page, ["shape"])
    rows = page.root.locator("tbody tr")
    words = {("x", 0): "found", ("x", 1): "would be found", (" ", 0): "passes",
             (" ", 1): "passes", ("-", 1): "does not apply"}
    for i, marks in enumerate(matrix["trap"].values()):
        assert rows.nth(i).locator(".spoken").all_inner_texts() == [
            words[m, min(t, 1)] for t, m in enumerate(marks)]
        assert rows.nth(i).locator(".verdict").inner_text() == (
            "" if marks[0] == "x" else
            "missed" if "x" in marks else "missed (no test finds it)")


if __name__ == "__main__":
    text = json.dumps(computed(), indent=1) + "\n"
    part = FILE.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, FILE)
    print(f"{len(SILENT)} faults, {len(TESTS)} tests: {FILE.name}")
