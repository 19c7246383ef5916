"""The rules of the house: papers below, the book above, and no import in a circle."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest
from conftest import ROOT

import cvattn


def module(path) -> str:
    """Return the name by which a file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


FILES = {path: module(path) for path in sorted((ROOT / "cvattn").rglob("*.py"))}
NAMES = set(FILES.values())
PACKAGES = {name for path, name in FILES.items() if path.name == "__init__.py"}
SMALL = sorted(name for name in NAMES if not name.startswith("cvattn.book"))


def imported(text: str, name: str, packages: set[str], names: set[str]) -> set[str]:
    """Return those of the names that the module imports, inside its functions too.

    `from a import b` is an import of the module a.b, if there is one, and else of a.
    """
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = name.split(".")
            up = node.level - (name in packages)
            base = parts[:len(parts) - up] if node.level else []
            source = ".".join(base + [node.module] * bool(node.module))
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                found.add(inner if inner in names else source)
    return found & names


def imports() -> dict[str, set[str]]:
    return {name: imported(path.read_text("utf-8"), name, PACKAGES, NAMES)
            for path, name in FILES.items()}


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    """Return modules that import each other in a circle, or None."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_no_module_of_a_paper_imports_the_book():
    above = {name: [other for other in others if other.startswith("cvattn.book")]
             for name, others in imports().items() if name in SMALL}
    assert len(above) > 10 and not any(above.values()), above


def test_no_imports_run_in_a_circle():
    graph = imports()
    assert "cvattn.layers" in graph["cvattn.vit"]
    assert "cvattn.book.data" in graph["cvattn.book.train"]
    assert "cvattn.book.exercises.se" in graph["cvattn.book.check"]
    assert circle(graph) is None


@pytest.mark.parametrize("text, name, wanted", [
    ("import a.b", "a.c", {"a.b"}),
    ("from a import b", "a.c", {"a.b"}),
    ("from a import other", "a.c", {"a"}),
    ("from a.b import b, c", "a.c", {"a.b"}),
    ("from . import b", "a.c", {"a.b"}),
    ("from .b import other", "a.c", {"a.b"}),
    ("from .b import other", "a", {"a.b"}),
    ("from . import b", "a", {"a.b"}),
    ("from ..b import other", "a.d.e", {"a.b"}),
    ("from .. import b", "a.d.e", {"a.b"}),
    ("from ..b import other", "a.d", {"a.b"}),
    ("def f():\n    from a import b", "a.c", {"a.b"}),
    ("import torch\nfrom torch import b", "a.c", set()),
])
def test_every_form_of_import_is_seen(text, name, wanted):
    packages, names = {"a", "a.d"}, {"a", "a.b", "a.c", "a.d", "a.d.e"}
    assert imported(text, name, packages, names) == wanted


def test_a_circle_is_seen():
    graph = {"a": {"b"}, "b": {"c"}, "c": set(), "d": {"a"}}
    assert circle(graph) is None
    assert set(circle(graph | {"c": {"a"}})) == {"a", "b", "c"}


def loaded(statement: str) -> set[str]:
    """Return what a fresh Python loads by a statement, beyond torch and numpy.

    torch's counter of operations, which `cost` uses, loads triton where torch has it.
    """
    script = ("import sys, torch, numpy, torch.utils.flop_counter\n"
              f"before = set(sys.modules)\n{statement}\n"
              "print(*set(sys.modules) - before)")
    return set(subprocess.check_output(
        [sys.executable, "-c", script], cwd=ROOT, text=True).split())


def foreign(modules: set[str]) -> set[str]:
    """Those that are neither ours, nor torch's or numpy's, nor Python's own."""
    own = {"cvattn", "torch", "numpy", *sys.stdlib_module_names}
    return {name for name in modules if name.partition(".")[0] not in own}


def test_importing_the_package_loads_torch_and_numpy_alone():
    for statement in ("import cvattn", f"import {', '.join(SMALL)}"):
        modules = loaded(statement)
        assert not foreign(modules)
        ours = {name for name in modules if name.partition(".")[0] == "cvattn"}
        assert "cvattn.se" in ours and ours <= set(SMALL)


def test_importing_the_book_loads_no_chapter():
    modules = loaded("import cvattn.book")
    assert not foreign(modules)
    ours = {name for name in modules if name.startswith("cvattn.book")}
    assert ours == {"cvattn.book", "cvattn.book.check", "cvattn.book.exercises",
                    "cvattn.book.exercises.exercise", "cvattn.book.guard",
                    "cvattn.book.outcome"}


def test_the_modules_work_without_the_book(tmp_path):
    """As one finds them who copies them, or installs them alone."""
    (tmp_path / "cvattn").mkdir()
    for path in (ROOT / "cvattn").glob("*.py"):
        (tmp_path / "cvattn" / path.name).write_bytes(path.read_bytes())
    script = ("import sys\nsys.path.insert(0, sys.argv[1])\n"
              f"import {', '.join(SMALL)}, torch\n"
              "assert cvattn.__file__.startswith(sys.argv[1])\n"
              "x = torch.randn(2, 32, 3, 5)\n"
              "assert cvattn.SE(32)(x).shape == x.shape\n")
    done = subprocess.run([sys.executable, "-I", "-c", script, tmp_path], text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr


def test_every_exported_name_is_there():
    every = [cvattn, *(importlib.import_module(info.name) for info in
                       pkgutil.walk_packages(cvattn.__path__, "cvattn."))]
    exported = [(m, name) for m in every for name in getattr(m, "__all__", ())]
    assert len(exported) > 60 and len(set(exported)) == len(exported)
    for m, name in exported:
        assert hasattr(m, name), f"{m.__name__}.{name}"
