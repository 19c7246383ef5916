"""Write the student edition: the exercises without solutions, every cell runnable.

    python _tools/student.py                               the exercises of all chapters
    python _tools/student.py chapters/se_exercises.ipynb   one chapter's

_build/student/chapters/  notebooks to hand out. A solution's lines, from
    `### BEGIN SOLUTION` to `### END SOLUTION`, become `...`; hidden tests and cells
    tagged `book-only` are gone, and so are the outputs that show a verdict.
_build/student/course/    a course folder for nbgrader, one assignment a notebook:
    cd _build/student/course; nbgrader generate_assignment se_exercises
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
STUB = "..."
CONFIG = f"""c = get_config()  # noqa: F821
c.ClearSolutions.code_stub = {{"python": {STUB!r}}}
c.Execute.timeout = 600    # seconds a cell; nbgrader's own 30 are few for training
"""


def cut(source: str, what: str, stub: str | None) -> tuple[str, bool]:
    """Replace each region BEGIN what … END what by the stub, at its indentation."""
    lines, inside, found = [], False, False
    for line in source.split("\n"):
        if f"### BEGIN {what}" in line:
            if inside:
                raise ValueError(f"BEGIN {what} inside BEGIN {what}")
            inside = found = True
            if stub is not None:
                lines.append(re.match(r"\s*", line)[0] + stub)
        elif f"### END {what}" in line:
            if not inside:
                raise ValueError(f"END {what} without BEGIN {what}")
            inside = False
        elif not inside:
            lines.append(line)
    if inside:
        raise ValueError(f"BEGIN {what} without END {what}")
    return "\n".join(lines), found


def unfold(cell) -> None:
    """Show a cell that the book folds: here the reader writes in it."""
    tags = [t for t in cell.metadata.get("tags", []) if t != "hide-input"]
    cell.metadata.pop("mystnb", None)
    cell.metadata.pop("tags", None)
    if tags:
        cell.metadata["tags"] = tags


def for_students(notebook):
    """Return a copy of a notebook without what gives the answers away.

    Raises:
        ValueError: if a region is not closed, or if a solution stands in a cell
            that nbgrader's metadata does not call a solution.
    """
    notebook = nbformat.from_dict(notebook)
    kept = []
    for cell in notebook.cells:
        if "book-only" in cell.metadata.get("tags", []):
            continue
        grading = cell.metadata.get("nbgrader", {})
        cell.source, solved = cut(cell.source, "SOLUTION", STUB)
        cell.source, tested = cut(cell.source, "HIDDEN TESTS", None)
        if solved and not grading.get("solution"):
            raise ValueError(f"a solution in an unmarked cell:\n{cell.source}")
        if tested and not grading.get("grade"):
            raise ValueError(f"hidden tests in an unmarked cell:\n{cell.source}")
        if solved:
            unfold(cell)
        verdict = re.search(r"\bcheck\(", cell.source)
        if cell.cell_type == "code" and (solved or tested or verdict):
            cell.outputs, cell.execution_count = [], None
        kept.append(cell)
    notebook.cells = kept
    return notebook


def for_nbgrader(notebook):
    """Return a copy with its solutions, as nbgrader wants its source."""
    notebook = nbformat.from_dict(notebook)
    notebook.cells = [
        cell for cell in notebook.cells
        if "book-only" not in cell.metadata.get("tags", [])
    ]
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("solution"):
            unfold(cell)
    return notebook


def write(paths: list[Path], folder: Path) -> list[Path]:
    """Write both editions of the notebooks and return the students' files."""
    course = folder / "course"
    written = []
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        for target, edition in (
            (folder / "chapters" / path.name, for_students),
            (course / "source" / path.stem / path.name, for_nbgrader),
        ):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                nbformat.write(edition(notebook), target)
            except ValueError as error:
                raise ValueError(f"{path.name}: {error}") from None
        written.append(folder / "chapters" / path.name)
    (course / "nbgrader_config.py").write_text(CONFIG)
    return written


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "student")
    args = parser.parse_args()
    paths = args.notebooks or sorted((ROOT / "chapters").glob("*_exercises.ipynb"))
    if not paths:
        print("no exercises in chapters/", file=sys.stderr)
        return 1
    for path in write(paths, args.out):
        print(path)
    print(f"for nbgrader: {args.out / 'course'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
