"""How the tests are handed out: together what shares a costly fixture, and --only."""

import subprocess
import sys

import pytest
from conftest import ROOT, together


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


def collected(*options):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q",
         "-p", "no:cacheprovider", *options,
         "tests/test_se.py", "tests/test_sk.py", "tests/test_contract.py"],
        cwd=ROOT, capture_output=True, text=True)


def test_only_keeps_what_is_named_after_the_chapter_or_its_classes():
    every, se = (collected(*options).stdout for options in ((), ("--only", "se")))
    assert "tests/test_sk.py" in every and "tests/test_sk.py" not in se
    assert "tests/test_se.py" in se and "tests/test_contract.py" in se


def test_only_refuses_what_is_no_chapter():
    done = collected("--only", "xx")
    assert done.returncode != 0
    assert "--only must be one of attention, bam," in done.stderr + done.stdout
