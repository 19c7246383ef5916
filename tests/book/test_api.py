"""The page of the package lists what the chapters import."""

import ast
import importlib
import inspect
import re
from types import ModuleType

import nbformat
import pytest
from conftest import ROOT

from cvattn.book import live

PAGE = (ROOT / "api.md").read_text("utf-8")
LISTED = set(re.findall(r"^\.\. auto(?:class|function|module):: (\S+)$", PAGE, re.M))
# Described as a whole, not name by name.
WHOLE = ("cvattn.book.specimens", "cvattn.book.exercises.drill",
         "cvattn.book.experiments")


def code(path):
    """Return the syntax tree of each code cell."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            yield ast.parse(cell.source)


def imported(trees):
    """Yield (module, name, the name in the notebook) of imports from the book."""
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (
                    node.module or "").startswith("cvattn.book"):
                for alias in node.names:
                    yield node.module, alias.name, alias.asname or alias.name


def used(path):
    """Return the book's functions and classes that a notebook uses, by full name."""
    trees, found, modules = list(code(path)), {}, {}
    for source, name, known in imported(trees):
        thing = getattr(importlib.import_module(source), name, None)
        if thing is None:
            thing = importlib.import_module(f"{source}.{name}")
        if isinstance(thing, ModuleType):
            modules[known] = thing
        else:
            found[f"{source}.{name}"] = thing
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                module = modules.get(node.value.id)
                if module is not None and hasattr(module, node.attr):
                    found[f"{module.__name__}.{node.attr}"] = getattr(module, node.attr)
    return {name for name, thing in found.items()
            if inspect.isfunction(thing) or inspect.isclass(thing)}


@pytest.mark.parametrize("path", sorted((ROOT / "chapters").glob("*.ipynb")),
                         ids=lambda path: path.stem)
def test_what_a_chapter_uses_is_on_the_page(path):
    names = used(path)
    assert len(names) > 1
    assert not {name for name in names if not name.startswith(WHOLE)} - LISTED


def test_what_is_used_is_found():
    names = set().union(*(used(ROOT / "chapters" / f"{name}.ipynb")
                          for name in ("se", "se_exercises")))
    assert names >= {"cvattn.book.check", "cvattn.book.live.surgery",
                     "cvattn.book.plot.picture", "cvattn.book.upload.Upload"}


def test_every_live_figure_is_on_the_page():
    names = {f"cvattn.book.live.{make.__name__}" for make in live.FIGURES}
    assert names <= LISTED and "cvattn.book.specimens" in LISTED
    assert len(LISTED) == len(re.findall(r"^\.\. auto", PAGE, re.M)), "one twice"
