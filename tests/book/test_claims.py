"""What the chapters on SE, CBAM, BAM and SK claim: how it was got, in which letters.

The numbers themselves are held by the chapters' own assertions, which nbval runs.
"""

import re

import nbformat
import pytest
from conftest import ROOT

CHAPTERS = ("se", "cbam", "bam", "sk")


def cells(name, kind):
    notebook = nbformat.read(ROOT / f"chapters/{name}.ipynb", as_version=4)
    return [c.source for c in notebook.cells if c.cell_type == kind]


@pytest.mark.parametrize("name", CHAPTERS)
def test_says_how_the_training_pictures_were_changed(name):
    prose = " ".join("\n".join(cells(name, "markdown")).split())
    assert re.search(r"mirror\w*[^.]*moved? [^.]*by up to two pixels", prose)
    assert "train.augment" in prose


@pytest.mark.parametrize("name", CHAPTERS)
def test_calls_a_sign_only_once_all_looks_are_corrected_for(name):
    code = "\n".join(cells(name, "code"))
    assert "stats.signs(" in code and "stats.holm(" in code
    assert not re.search(r"if (low > 0|high < 0) else", code)
    printed = [c for c in cells(name, "code") if "holm(" in c and "print(" in c]
    assert all("intervals" in c or "looks" in c for c in printed), "say how many"


@pytest.mark.parametrize("name", CHAPTERS)
def test_never_makes_bytes_of_what_was_standardised(name):
    for line in "\n".join(cells(name, "code")).split("\n"):
        assert ".byte()" not in line or ".round()" in line, line


# One letter, one thing: what each chapter's mathematics must do without.
FORBIDDEN = {
    "se": r"\\top p\b|\\top q\b|\b[pq] ?(=|\{\})",            # weights, and a query
    "cbam": r"(?<![\w\\.`])F(?!\w|_|\^|`)",                    # torch.nn.functional
    "cbam_exercises": r"(?<![\w\\.`])F(?!\w|_|\^|`)",
    "sk": r"\(W s\)|A_\w z\b|e\^\{\(A_\w z\)",                 # a gate, and the means
    "sk_exercises": r"\(W s\)|A_\w z\b|\$s\$",
}


@pytest.mark.parametrize("name, letters", FORBIDDEN.items(), ids=FORBIDDEN)
def test_one_letter_means_one_thing(name, letters):
    told = "may differ, where a chapter says which letter the paper has"
    for cell in cells(name, "markdown"):
        for math in re.findall(r"\$\$.*?\$\$|\$[^$]+\$", cell, flags=re.DOTALL):
            if "the paper writes" not in cell and "The paper writes" not in cell:
                assert not re.search(letters, math), f"{math}: {told}"
