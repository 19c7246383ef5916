"""How the tests are handed out: together what shares a costly fixture, and --only."""

import subprocess
import sys

import pytest
from conftest import ROOT, pytest_collection_modifyitems, together


@pytest.mark.parametrize("one, other, same", [
    ("chapters/se.ipynb::Cell 1", "chapters/se.ipynb::Cell 2", True),
    ("chapters/se.ipynb::Cell 1", "chapters/sk.ipynb::Cell 1", False),
    ("tests/test_se.py::test_a[1]", "tests/test_se.py::test_a[2]", True),
    ("tests/test_se.py::test_a", "tests/test_se.py::test_b", False),
    ("tests/book/test_colab.py::test_a", "tests/book/test_colab.py::test_b", True),
    ("tests/book/test_book.py::test_a[chapters/se]",
     "tests/book/test_book.py::test_b[light-chapters/se]", True),
    ("tests/book/test_book.py::test_a[chapters/se]",
     "tests/book/test_book.py::test_a[chapters/se_exercises]", False),
    ("tests/book/test_book.py::test_a[api]",
     "tests/book/test_book.py::test_a[notation]", False),
])
def test_what_one_worker_does_together(one, other, same):
    assert (together(one) == together(other)) == same


class Config:
    """What the hook asks of pytest's configuration."""

    def __init__(self, only):
        self.only, self.dropped, self.hook = only, [], self

    def getoption(self, name):
        return self.only

    def pytest_deselected(self, items):
        self.dropped += items


class Item:
    def __init__(self, nodeid):
        self.nodeid, self.fixturenames = nodeid, ()


@pytest.mark.parametrize("nodeid, kept", [
    ("tests/test_se.py::test_a", True),
    ("tests/test_sk.py::test_a", False),
    ("tests/test_contract.py::test_a[SE(64)]", True),
    ("tests/test_contract.py::test_a[SK(64)]", False),
    ("tests/book/test_check_se.py::test_a", True),
    ("tests/book/test_book.py::test_a[chapters/se_exercises]", True),
    ("tests/book/test_book.py::test_a[chapters/sense]", False),
    ("chapters/se_exercises.ipynb::Cell 1", True),
])
def test_only_keeps_what_is_named_after_the_chapter_or_its_classes(nodeid, kept):
    config, items = Config("se"), [Item(nodeid)]
    pytest_collection_modifyitems(config, items)
    assert [item.nodeid for item in items] == [nodeid] * kept
    assert [item.nodeid for item in config.dropped] == [nodeid] * (not kept)


def test_only_refuses_what_is_no_chapter():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "--only", "xx",
         "-p", "no:cacheprovider", "tests/test_warm.py"],
        cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "--only must be one of attention, bam," in done.stderr + done.stdout
