"""The student edition runs and gives nothing away; nbgrader grades it."""

import copy
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from cvattn.book.check import exercises

EXERCISES = sorted((ROOT / "chapters").glob("*_exercises.ipynb"))
HIDDEN = """\
# Graded by nbgrader: leave this cell as it is.
### BEGIN HIDDEN TESTS
from cvattn.book.check import grade as _grade

_grade("{id}")
### END HIDDEN TESTS"""
spec = importlib.util.spec_from_file_location("student", ROOT / "_tools" / "student.py")
student = importlib.util.module_from_spec(spec)
spec.loader.exec_module(student)

SQUEEZE = '''def squeeze(x):
    """Return z."""
    ### BEGIN SOLUTION
    return x.mean(dim=(2, 3))
    ### END SOLUTION'''
REPAIRED = '''class Repaired(nn.Module):
    def __init__(self, channels, reduction):
        super().__init__()
        ### BEGIN SOLUTION
        if channels % reduction:
            raise ValueError("no multiple")
        ### END SOLUTION
        self.W1 = nn.Linear(channels, channels // reduction, bias=False)
        self.W2 = nn.Linear(channels // reduction, channels, bias=False)

    def forward(self, x):
        ### BEGIN SOLUTION
        a = self.W2(self.W1(x.mean(dim=(2, 3))).relu())
        return x * a.sigmoid()[:, :, None, None]
        ### END SOLUTION'''


def graded(name, **more):
    base = {"schema_version": 3, "grade_id": name, "task": False, "grade": False,
            "solution": False, "locked": False}
    return {"nbgrader": {**base, **more}}


def exercise(name, answer, solution, points):
    return [
        new_markdown_cell(f"The statement of {name}."),
        new_code_cell(solution, metadata={
            **graded(name, solution=True), "tags": ["hide-input"],
            "mystnb": {"code_prompt_show": "Show a solution"}}),
        new_code_cell(f'check("{name}", {answer})'),
        new_code_cell(
            HIDDEN.format(id=name),
            metadata={**graded(f"{name}-test", grade=True, locked=True, points=points),
                      "tags": ["remove-cell"]}),
    ]


def small():
    return new_notebook(
        metadata={"kernelspec": {"name": "python3", "language": "python",
                                 "display_name": "Python 3"}},
        cells=[
            new_markdown_cell("The cells hold the solutions.",
                              metadata={"tags": ["book-only"]}),
            new_code_cell("from torch import nn\n\nfrom cvattn.book import check"),
            *exercise("se-1", "squeeze", SQUEEZE, 2),
            *exercise("se-4", "Repaired", REPAIRED, 3),
            new_code_cell("1 + 1"),
        ])


def execute(notebook):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute(env=env)
    return notebook


def shown(cell):
    return "".join(o.get("text", "") + o.get("data", {}).get("text/plain", "")
                   for o in cell.outputs)


def verdicts(notebook):
    """Return the texts of the cells that show a verdict."""
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    return [shown(c) for c in cells if re.search(r"\bcheck\(", c.source) and c.outputs]


def source_of(notebook):
    return "\n".join(cell.source for cell in notebook.cells)


def test_the_student_edition_runs_and_gives_nothing_away():
    book = execute(small())
    assert len(verdicts(book)) == 2
    assert all(": right." in text for text in verdicts(book))
    before = copy.deepcopy(book)
    edition = student.for_students(book)
    assert book == before
    for word in ("SOLUTION", "HIDDEN", "mean(", "grade(", "hide-input", "book-only"):
        assert word not in source_of(edition) + str([c.metadata for c in edition.cells])
    assert "right." not in str(edition)
    assert [shown(c) for c in edition.cells if c.cell_type == "code"][-1] == "2"
    texts = verdicts(execute(edition))
    assert len(texts) == 2 and all("nothing here yet." in text for text in texts)
    nbformat.validate(edition)


def test_the_stub_stands_where_the_solution_stood():
    source, found = student.cut(REPAIRED, "SOLUTION", "...")
    assert found and source.count("        ...") == 2
    compile(source, "stub", "exec")


@pytest.mark.parametrize(("source", "message"), [
    ("### BEGIN SOLUTION\nx = 1", "BEGIN SOLUTION without END SOLUTION"),
    ("x = 1\n### END SOLUTION", "END SOLUTION without BEGIN SOLUTION"),
    ("### BEGIN SOLUTION\n### BEGIN SOLUTION", "BEGIN SOLUTION inside BEGIN SOLUTION"),
    ("### BEGIN SOLUTION\n### END SOLUTION", "a solution in an unmarked cell"),
    ("### BEGIN HIDDEN TESTS\n### END HIDDEN TESTS",
     "hidden tests in an unmarked cell"),
])
def test_a_region_that_would_leak_is_refused(source, message, tmp_path):
    path = tmp_path / "bad.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(source)]), path)
    with pytest.raises(ValueError, match=f"bad.ipynb: {message}"):
        student.write([path], tmp_path / "out")


# nbgrader takes seconds to start, so one process does what a teacher types.
TYPED = """\
import json, sys
sys.path.insert(0, sys.argv[1])
import warm
from nbgrader.apps import NbGraderApp

warm.up()
for command in json.loads(sys.argv[2]):
    NbGraderApp.launch_instance(command)
    for app in NbGraderApp.__subclasses__() + [NbGraderApp]:
        app.clear_instance()
"""


def typed(course, *commands):
    """Run nbgrader's commands in the course's folder, as from its command line."""
    pytest.importorskip("nbgrader")
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_CONFIG_DIR": str(course),
           "JUPYTER_DATA_DIR": str(course / "data"), "HOME": str(course),
           "PATH": tools}    # nbgrader calls alembic by its name
    done = subprocess.run(
        [sys.executable, "-c", TYPED, ROOT / "tests", json.dumps(commands)],
        cwd=course, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def grade(course, submissions):
    """Release assignments, hand in, autograde; return each one's score by its name.

    submissions: of each assignment what each student makes of the released notebook.
    """
    typed(course, *[["generate_assignment", name] for name in submissions])
    for name, made in submissions.items():
        for who, make in made.items():
            path = course / "submitted" / who / name / f"{name}.ipynb"
            path.parent.mkdir(parents=True)
            nbformat.write(make(released(course, name)), path)
    typed(course, *[["autograde", name] for name in submissions])

    from nbgrader.api import Gradebook
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        marks = {name: {who: book.find_submission(name, who) for who in made}
                 for name, made in submissions.items()}
        return {name: {who: (m.score, m.max_score) for who, m in made.items()}
                for name, made in marks.items()}


def released(course, name):
    return nbformat.read(course / "release" / name / f"{name}.ipynb", as_version=4)


def solved(by):
    """Return a function that writes the solutions of `by` into a notebook."""
    answers = {c.metadata.nbgrader.grade_id: c.source for c in by.cells
               if c.metadata.get("nbgrader", {}).get("solution")}

    def fill(notebook):
        for cell in notebook.cells:
            name = cell.metadata.get("nbgrader", {}).get("grade_id")
            cell.source = answers.get(name, cell.source)
        return notebook
    return fill


@pytest.mark.parametrize("configured", [True, False])
def test_nbgrader_grades_right_empty_and_half(configured, tmp_path):
    book = small()
    path = tmp_path / "small.ipynb"
    nbformat.write(book, path)
    handed_out = nbformat.read(
        student.write([path], tmp_path / "out")[0], as_version=4)
    course = tmp_path / "out" / "course"
    if not configured:
        (course / "nbgrader_config.py").unlink()
        nbformat.write(book, course / "source" / "small" / "small.ipynb")

    def half(notebook):
        notebook = solved(book)(notebook)
        for cell in notebook.cells:
            cell.source = cell.source.replace("x.mean(dim=(2, 3))\n", "x.sum((2, 3))\n")
        return notebook

    scores = grade(course, {"small": {
        "right": solved(book), "empty": lambda notebook: notebook, "half": half,
        "handed": lambda notebook: solved(book)(copy.deepcopy(handed_out))}})
    assert scores["small"] == {
        "right": (5, 5), "empty": (0, 5), "half": (3, 5), "handed": (5, 5)}
    edition = released(course, "small")
    assert "mean(" not in source_of(edition) and "grade(" not in source_of(edition)
    empty = nbformat.read(course / "autograded/empty/small/small.ipynb", as_version=4)
    texts = verdicts(empty)
    assert len(texts) == 2 and all("nothing here yet." in text for text in texts)


# What a reader's notebook may have done to the names that a test could use.
SHADOWED = """\
check = lambda *a: True
verdict = grade = _grade = check
torch = cvattn = print = str = isinstance = callable = globals = len = type = 3"""


def after(word, source):
    """Return a function that puts a cell behind each whose source holds the word."""
    def put(notebook):
        cells = [[cell, new_code_cell(source)] if word in cell.source else [cell]
                 for cell in notebook.cells]
        notebook.cells = sum(cells, [])
        for number, cell in enumerate(notebook.cells):
            cell.id = f"cell-{number}"
        return notebook
    return put


def without(*words):
    """Return a function that deletes the cells that begin with one of these words."""
    def drop(notebook):
        notebook.cells = [c for c in notebook.cells if not c.source.startswith(words)]
        return notebook
    return drop


def untested(notebook):
    """Delete the first cell with a hidden test."""
    tests = [c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade")]
    notebook.cells.remove(tests[0])
    return notebook


def twice(notebook):
    """Repeat the cells that show a verdict."""
    for cell in [c for c in notebook.cells if c.source.startswith("check(")]:
        notebook.cells.insert(notebook.cells.index(cell), new_code_cell(cell.source))
    return notebook


def rewritten(old, new):
    """Return a function that puts new for old in every cell."""
    def rewrite(notebook):
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
        return notebook
    return rewrite


def test_grades_do_not_depend_on_the_readers_other_names(tmp_path):
    book = small()
    path = tmp_path / "small.ipynb"
    nbformat.write(book, path)
    student.write([path], tmp_path / "out")
    right, shadow = solved(book), after("class Repaired", SHADOWED)
    own = after("import check", "check = 'my own'")
    lost = rewritten("from cvattn.book import check", "")
    submissions = {
        "shadowed": lambda nb: shadow(right(nb)),
        "own": lambda nb: own(right(nb)),
        "lambda": after("import check", "check = lambda *a: True"),
        "unchecked": lambda nb: lost(without("check(")(right(nb))),
        "untested": lambda nb: untested(right(nb)),
        "twice": lambda nb: twice(right(nb)),
        "misnamed": lambda nb: rewritten("def squeeze", "def sqeeze")(right(nb)),
        "lost": lambda nb: without("def squeeze")(right(nb)),
    }
    scores = grade(tmp_path / "out" / "course", {"small": submissions})
    assert scores["small"] == {
        "shadowed": (5, 5), "own": (5, 5), "lambda": (0, 5), "unchecked": (5, 5),
        "untested": (3, 5), "twice": (5, 5), "misnamed": (3, 5), "lost": (3, 5)}
    graded = nbformat.read(
        tmp_path / "out/course/autograded/misnamed/small/small.ipynb", as_version=4)
    said = [o.evalue for c in graded.cells if c.cell_type == "code"
            and c.metadata.get("nbgrader", {}).get("grade")
            for o in c.outputs if o.output_type == "error"]
    assert len(said) == 1 and said[0].startswith("se-1: not yet. There is no `squeeze`")


@pytest.mark.parametrize("path", EXERCISES, ids=lambda p: p.stem)
def test_each_hidden_test_stands_alone(path):
    cells = nbformat.read(path, as_version=4).cells
    hidden = [c for c in cells if c.metadata.get("nbgrader", {}).get("grade")]
    ids = [c.metadata.nbgrader.grade_id.removesuffix("-test") for c in hidden]
    assert ids == [key for key in exercises() if f"{key.split('-')[0]}_exercises"
                   == path.stem]
    assert [c.source for c in hidden] == [HIDDEN.format(id=id) for id in ids]


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The course of all exercises, a right and an empty submission of each graded."""
    out = tmp_path_factory.mktemp("out")
    student.write(EXERCISES, out)
    sources = {path.stem: nbformat.read(
        out / "course/source" / path.stem / path.name, 4) for path in EXERCISES}
    scores = grade(out / "course", {
        name: {"right": solved(book), "empty": lambda notebook: notebook}
        for name, book in sources.items()})
    return out, sources, scores


@pytest.mark.parametrize("name", [path.stem for path in EXERCISES])
def test_the_exercises_are_graded(course, name):
    out, sources, scores = course
    edition = nbformat.read(out / "chapters" / f"{name}.ipynb", as_version=4)
    points = sum(c.metadata.nbgrader.points for c in sources[name].cells
                 if c.metadata.get("nbgrader", {}).get("grade"))
    assert points >= 8
    assert scores[name] == {"right": (points, points), "empty": (0, points)}
    # What nbgrader releases is the student edition, so the empty one was a run of it.
    assert [c.source for c in edition.cells] == [
        c.source for c in released(out / "course", name).cells]
    run = nbformat.read(out / f"course/autograded/empty/{name}/{name}.ipynb", 4)
    shown = [c for c in run.cells if c.cell_type == "code" and c.outputs]
    wrong = [c.source for c in shown if "HIDDEN" not in c.source
             and any(o.output_type == "error" for o in c.outputs)]
    assert wrong == []
    texts = verdicts(run)
    assert len(texts) == sum(c.metadata.get("nbgrader", {}).get("solution", False)
                             for c in run.cells)
    assert all("nothing here yet." in text for text in texts)
