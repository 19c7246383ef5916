"""Every chapter is executed from top to bottom, clean, and fit for the page.

nbval compares the outputs; a cell that was never executed would escape it, so
the execution counts are demanded here.
"""

import importlib
import re

import nbformat
import pytest
import torch
import yaml
from conftest import ROOT

from cvattn.book import train
from cvattn.book.check import exercises as checked
from cvattn.book.experiments.grid import Grid

NOTEBOOKS = sorted((ROOT / "chapters").glob("*.ipynb"))
CHAPTERS = [path for path in NOTEBOOKS if not path.stem.endswith("_exercises")]
COUNTS = dict(enumerate("Seven Eight Nine Ten Eleven Twelve".split(), start=7))
MOST_BYTES = 4_000_000
PICTURES = ("image/png", "image/jpeg", "image/svg+xml")
# A folder of the machine that ran it, in code, output or traceback.
MACHINE = re.compile(
    r"(?<![\w.:/~-])/(?:home|Users|root|tmp|work|private|mnt|opt|var)/\w"
    r"|[A-Z]:\\\\?Users|site-packages|ipykernel_\d+"
)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def count_problem(notebook):
    counts = [cell.execution_count for cell in code(notebook) if cell.source.strip()]
    if counts != list(range(1, len(counts) + 1)):
        return f"execution counts must be 1..{len(counts)}, got {counts}"


def error_problem(notebook):
    for cell in code(notebook):
        failed = any(output.output_type == "error" for output in cell.outputs)
        expected = "raises-exception" in cell.metadata.get("tags", [])
        if failed != expected:
            what = "raises" if failed else "is tagged raises-exception and does not"
            return f"a cell {what}: {cell.source[:70]!r}"


def texts(cell):
    yield cell.source
    for output in cell.get("outputs", []):
        yield output.get("text", "")
        yield ANSI.sub("", "\n".join(output.get("traceback", [])))
        for kind, data in output.get("data", {}).items():
            if kind.startswith("text/") and isinstance(data, str):
                yield data


def path_problem(notebook):
    for cell in notebook.cells:
        for text in texts(cell):
            found = MACHINE.search(text)
            if found:
                return f"a path of one machine: {text[found.start():][:60]!r}"


def width_problem(notebook):
    for cell in code(notebook):
        for line in cell.source.splitlines():
            if len(line) > 80:
                return f"code must be at most 80 columns wide, got {len(line)}: {line}"


def figure_problem(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            if re.search(r"!\[\s*\]\(|<img(?![^>]*\balt=\"[^\"]+\")", cell.source):
                return f"a picture without alt text: {cell.source[:70]!r}"
            continue
        kinds = {kind for output in cell.get("outputs", [])
                 for kind in output.get("data", {})}
        if kinds.isdisjoint(PICTURES):
            continue
        mystnb = cell.metadata.get("mystnb", {})
        for group, key in (("image", "alt"), ("figure", "caption"), ("figure", "name")):
            if not str(mystnb.get(group, {}).get(key, "")).strip():
                return f"a figure without {group}.{key}: {cell.source[:70]!r}"


# What shows an image unasked, and what wraps numbers beyond a byte's.
UNCHECKED = re.compile(r"\.(?:imshow|imsave|matshow|pcolor\w*|figimage|show_image)\(")
TO_BYTES = re.compile(r"(\.clamp\(0, 255\))?\.(?:byte\(\)|(?:as)?type\(\w+\.uint8\)"
                      r"|to\((?:dtype=)?torch\.uint8\))")


def image_problem(notebook):
    """`plot.picture` and `plot.feature_map` refuse what is out of range."""
    for cell in code(notebook):
        if found := UNCHECKED.search(cell.source):
            return f"{found[0]}…) shows what plot.picture would refuse"
        for found in TO_BYTES.finditer(cell.source):
            if not found[1]:
                return f"{found[0]} wraps what is out of range: .clamp(0, 255) first"


PROBLEMS = [count_problem, error_problem, path_problem, width_problem, figure_problem,
            image_problem]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook(path, problem):
    assert problem(read(path)) is None


def test_the_package_shows_no_image_unchecked():
    book = ROOT / "cvattn" / "book"
    shows = [path.relative_to(book).as_posix() for path in book.rglob("*.py")
             if UNCHECKED.search(path.read_text(encoding="utf-8"))]
    assert shows == ["plot.py"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_size_and_shape(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) <= MOST_BYTES
    assert text.endswith("}\n")
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert not any("execution" in cell.metadata for cell in notebook.cells)


def test_every_notebook_stands_in_the_contents():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    entries = [entry for part in toc["parts"] for entry in part["chapters"]
               if entry["file"].startswith("chapters/")]
    found = {f"chapters/{path.stem}" for path in NOTEBOOKS}
    chapters = {name for name in found if not name.endswith("_exercises")}
    assert chapters and found == chapters | {f"{name}_exercises" for name in chapters}
    assert {entry["file"] for entry in entries} == chapters
    for entry in entries:
        assert entry["sections"] == [{"file": f"{entry['file']}_exercises"}]


def statements(path):
    """Return (label, title, level, time) of each exercise of a notebook."""
    pattern = (r":::\{exercise\} (.+)\n:label: (ex-[a-z]+-\d+)\n\n"
               r"\*\*([★☆]{3})\*\* · (.+)\n")
    found = [re.match(pattern, cell.source) for cell in read(path).cells]
    return [(m[2], m[1], m[3], m[4]) for m in found if m]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.name)
def test_a_chapter_ends_with_the_list_of_its_exercises(path):
    name = path.stem
    exercises = statements(path.with_name(f"{name}_exercises.ipynb"))
    assert [label for label, *_ in exercises] == [
        f"ex-{key}" for key in checked() if key.split("-")[0] == name]
    cells = read(path).cells
    *body, last = [cell.source for cell in cells if cell.cell_type == "markdown"]
    assert last == cells[-1].source and last.startswith("## Exercises\n")
    assert f"{{doc}}`{name}_exercises`" in last
    rows = [line for line in last.split("\n") if line.startswith("| {ref}")]
    for row, (label, title, level, time) in zip(rows, exercises, strict=True):
        assert row.startswith(f"| {{ref}}`{label}` | *{title}*")
        assert row.endswith(f" | {level} | {time.removesuffix(' minutes')} |")
    count, minutes = re.search(r"\n(\w+) exercises, about (\d+) minutes", last).groups()
    times = [time.split() for *_, time in exercises]
    assert COUNTS[len(times)] == count
    assert int(minutes) == sum(int(n) for n, unit in times if unit == "minutes")
    linked = set(re.findall(r"\{ref\}`(ex-[a-z]+-\d+)`", "\n".join(body)))
    assert name == "clinic" or linked >= {label for label, *_ in exercises}
    assert not any("nbgrader" in cell.metadata for cell in cells)


def trained_on_pictures(notebook):
    """Return the notebook's experiments whose networks `train.fit` trains."""
    source = "\n".join(cell.source for cell in code(notebook))
    names = re.findall(r"from cvattn\.book\.experiments import (\w+)", source)
    modules = [importlib.import_module(f"cvattn.book.experiments.{n}") for n in names]
    grids = [getattr(module, "GRID", None) for module in modules]
    return [grid.name for grid in grids if isinstance(grid, Grid) and grid.fit is None]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.name)
def test_a_chapter_says_what_training_does_to_its_pictures(path):
    """`train.augment` mirrors and moves them, in every experiment: a reader must know.

    How far, it says itself; with which optimizer, a cell or the text.
    """
    notebook = read(path)
    if not trained_on_pictures(notebook):
        return
    black, g = torch.zeros(500, 9, 9, dtype=torch.uint8), torch.Generator()
    black[:, 4, 4] = 1
    far = (train.augment(black, g.manual_seed(0)).nonzero()[:, 1:] - 4).abs().max()
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    assert re.search(r"\bmirror(s|ed)\b", prose), "mirrored"
    far = f"({far}|{('one', 'two', 'three')[far - 1]})"
    assert re.search(rf"\bmove[sd]?\b[^.]*\bup to {far} pixels", prose), "moved"
    everything = "\n".join(text for cell in notebook.cells for text in texts(cell))
    assert re.search("AdamW|SGD|momentum", everything, re.IGNORECASE), "by what"


def test_experiments_that_train_on_pictures_are_known():
    assert trained_on_pictures(read(ROOT / "chapters" / "vit.ipynb")) == [
        "vit", "vit_rates"]
    assert trained_on_pictures(read(ROOT / "chapters" / "transformer.ipynb")) == []


def good():
    """A notebook with nothing to complain about."""
    new = nbformat.v4
    picture = new.new_output("display_data", data={"image/png": "", "text/plain": "x"})
    figure = {"image": {"alt": "A dot."}, "figure": {"caption": "A.", "name": "fig-a"}}
    return new.new_notebook(cells=[
        new.new_markdown_cell("# Title"),
        new.new_code_cell("1 + 1", execution_count=1),
        new.new_code_cell("show()", execution_count=2, outputs=[picture],
                          metadata={"mystnb": figure}),
    ])


def test_a_good_notebook_has_no_problem():
    assert [problem(good()) for problem in PROBLEMS] == [None] * len(PROBLEMS)


def spoil_count(notebook):
    notebook.cells[1].execution_count = None


def spoil_error(notebook):
    error = nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])
    notebook.cells[1].outputs.append(error)


def spoil_tag(notebook):
    notebook.cells[1].metadata["tags"] = ["raises-exception"]


def spoil_path(notebook):
    trace = ["File \x1b[32m/" + "home/someone/a.py\x1b[0m, line 1"]
    notebook.cells[1].outputs.append(
        nbformat.v4.new_output("error", ename="E", evalue="", traceback=trace))


def spoil_width(notebook):
    notebook.cells[1].source = "x = 1  # " + "y" * 80


def spoil_alt(notebook):
    del notebook.cells[2].metadata["mystnb"]["image"]


def spoil_caption(notebook):
    notebook.cells[2].metadata["mystnb"]["figure"]["caption"] = " "


def spoil_image(notebook):
    notebook.cells[2].source = "ax.imshow(x)"


def spoil_bytes(notebook):
    notebook.cells[2].source = "plot.picture(ax, (255 * x).round().byte())"


def spoil_markdown(notebook):
    notebook.cells[0].source = "![](dot.png)"


@pytest.mark.parametrize("spoil, problem", [
    (spoil_count, count_problem),
    (spoil_error, error_problem),
    (spoil_tag, error_problem),
    (spoil_path, path_problem),
    (spoil_width, width_problem),
    (spoil_alt, figure_problem),
    (spoil_caption, figure_problem),
    (spoil_markdown, figure_problem),
    (spoil_image, image_problem),
    (spoil_bytes, image_problem),
], ids=lambda function: function.__name__)
def test_a_spoilt_notebook_is_caught(spoil, problem):
    notebook = good()
    spoil(notebook)
    assert problem(notebook) is not None
