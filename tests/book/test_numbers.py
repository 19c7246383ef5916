"""Every number in a chapter's prose is a cell's, or somebody's who is named.

A number in text, caption or alt text must stand in the code or in an output of its
section (in an output it may have more digits); one of three digits or more, one whose
sentence says "above" or "below", and any in the summary may stand anywhere in the
chapter. What a text has from elsewhere is listed in ELSEWHERE. Not looked at: spelt-out
numbers, whole ones below 10, equations, code, years, and what counts sections, figures,
versions or minutes.
"""

import re
from types import SimpleNamespace

import nbformat
import pytest
from test_notebooks import CHAPTERS, read

from cvattn.book import data

# What is the same in every chapter: the set's sizes, and the level of intervals.
COMMON = {*data.FULL["train"][0][1], *data.FULL["test"][0][1], 95, 0.05,
          *(n * len(data.CLASSES) for n in data.EMBEDDED_PER_CLASS.values())}

# Chapter: number: where the text has it from.
ELSEWHERE = {
    "bam": {
        "21": "the grid that the figure of dilation draws",
        "20": "experiments/bam.py, clutter",
        "36": "experiments/bam.py, CANVAS",
        "14": "the paper's ResNet-50 after the third stage",
        "1.5": "1 + sigmoid(0)",
        "16": "experiments/bam.py: the channels of the first stage",
        "25": "two dilated 3 x 3 kernels, counted in an earlier section",
        "17": "the same",
        "49": "a 7 x 7 kernel",
    },
    "cbam": {
        "100": "data.EMBEDDED_PER_CLASS",
        "49": "7 x 7",
        "16": "ResNet-50 has so many blocks",
        "98": "2 x 7 x 7",
        "56": "the paper's first stage, at 224 pixels",
        "0.01": "the official code",
        **dict.fromkeys(
            "1.5 8.8 2.2 17.1 2.4 14.8 3.8 30.0 3.4 17.2 4.8 37.6 5.7 35.6 9.5 47.2"
            .split(), "benchmarks/results/cpu.json, by test_experiment_cbam.py"),
    },
    "clinic": {
        "40": "5 x 8 places of the map that is drawn",
        "1,059": "Humbatova et al. 2020",
    },
    "se": {
        "14": "live.arrays: the side of the map to shuffle",
        "16": "experiments/se.py: the channels of the first stage",
        "20": "experiments/se.py: depth of the arm deep",
        "0.4": "four of 1,000 pictures",
        "28,071,976": "published.py: without the biases",
    },
    "sk": {
        "1.5": "a side of 21 pixels over 14",
        "20.79": "Li et al. 2019, Table 2",
        "22.23": "Li et al. 2019, Table 2",
        "21.12": "Li et al. 2019, Table 2",
        "112": "the channels of the last SK",
        "24": "experiments/sk.py, SIDES",
        "5.5": "a ratio of two counts, asserted where SKNet-50 is built",
        "16": "the official code",
        "0.01": "the official code",
    },
    "stn": {
        "0.8": "(0 - data.MEAN) / data.STD",
        "90": "experiments/stn.py, distort", "45": "experiments/stn.py, distort",
        "0.7": "experiments/stn.py, distort", "1.2": "experiments/stn.py, distort",
        "16": "controls(4), a grid of 4 x 4; and (eq-stn-mixed), i = 0, W = 8",
        "13.2": "Jaderberg et al. 2015, section 4.1",
        "1.7": "Jaderberg et al. 2015, section 4.1",
    },
    "transformer": {
        "8601": "ISO's own number",
        "0.6": "Wu et al. 2016, and an example", "0.4": "an example",
    },
    "vit": {
        "300": "Dosovitskiy et al. 2021: JFT has 303 million pictures",
        "0.1": "the authors' code, models.py",
    },
}

SKIPPED = re.compile("|".join([
    r"```.*?```", r":::\{.*?^:::", r"\$\$.*?\$\$(?: \([\w-]+\))?", r"\$[^$]+\$",
    r"\{\w+\}`[^`]*`", r"`[^`]*`", r"\[(?:issues? )?\d+\]\([^)]*\)", r"\]\([^)]*\)",
    r"https?://\S+", r"\"[^\"\n]*\d[^\"\n]*\"", r"about \d+ minutes", r"^\| \d+–\d+ \|",
    r"\b(?:Eqs?\.|[Ss]ections?|Tables?|[Aa]ppendix|[Ff]aults?|version|PyTorch|before|"
    r"issues?|request|[Ss]tages?|[Ll]ayers?|steps?|seed|epoch) [A-Z]?[\d.]+"
    r"(?:(?:, | and | to |–)[A-Z]?[\d.]+)*\w*",
    r"\b(?:18|19|20)\d\d\b", r"\b\w*[A-Za-z]\w*-\w*\d[\w/-]*", r"\b[A-Za-z]+\d\w*",
]), re.MULTILINE | re.DOTALL)
TOLD = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?!\w)")
SENTENCE = re.compile(r"\n\n|\n(?=\||- )|(?<=[.:;?!])\s+")
SHOWN = re.compile(r"(?<![\w.])\d[\d_,]*(?:\.\d+)?(?:e-?\d+)?")
# What only says how a figure looks is no evidence.
LOOKS = re.compile(r"\b(?:\w*size|linewidth|alpha|[xy]lim|\w*_ratios|xytext)="
                   r"(?:\([^)]*\)|\[[^]]*\]|[^,)\n]*)")


def sections(notebook):
    """Yield the cells of each `## ` section; a cell that spans two is cut."""
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cells.append(cell)
            continue
        before, *after = re.split(r"^(?=## )", cell.source, flags=re.MULTILINE)
        cells.append(nbformat.v4.new_markdown_cell(before))
        for source in after:
            yield cells
            cells = [nbformat.v4.new_markdown_cell(source)]
    yield cells


def told(cells):
    """Return each number of the prose with the sentence that it stands in."""
    found = {}
    for cell in cells:
        mystnb = cell.metadata.get("mystnb", {})
        texts = [cell.source] if cell.cell_type == "markdown" else [
            mystnb.get("figure", {}).get("caption", ""),
            mystnb.get("image", {}).get("alt", "")]
        for part in SENTENCE.split(SKIPPED.sub(" ", "\n\n".join(texts))):
            for number in TOLD.findall(part):
                found[number.rstrip(",")] = part.strip()
    return found


def value(number):
    return float(number.replace(",", "").replace("_", ""))


def shown(cells):
    """Return the numbers of the code, and those of the outputs."""
    code, outputs = set(), set()
    for cell in cells:
        if cell.cell_type == "code":
            code |= set(map(value, SHOWN.findall(LOOKS.sub("", cell.source))))
            for output in cell.outputs:
                outputs |= set(map(value, SHOWN.findall(output.get("text", ""))))
    return code, outputs


def holds(number, code, outputs):
    """Whether the code has this number, or an output one that rounds to it."""
    digits = len(number.partition(".")[2])
    return value(number) in code or any(
        round(n, digits) == value(number) for n in outputs)


def unfounded(notebook, elsewhere):
    """Return the numbers that no cell has, each with its sentence."""
    everything = shown(notebook.cells)
    found = {}
    for cells in sections(notebook):
        heading = cells[0].source
        if heading.startswith("## Exercises"):
            continue
        own = everything if heading.startswith("## Summary") else shown(cells)
        for number, sentence in told(cells).items():
            if number in elsewhere or value(number) in {*range(10), *COMMON}:
                continue
            far = (len(re.sub(r"\D", "", number).strip("0")) >= 3
                   or re.search(r"\b(?:above|below)\b", sentence))
            if not holds(number, *(everything if far else own)):
                found[number] = sentence
    return found


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_number_in_prose_is_a_cells_or_a_sources(path):
    assert unfounded(read(path), ELSEWHERE.get(path.stem, {})) == {}


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_list_of_sources_is_no_longer_than_it_must_be(path):
    listed = ELSEWHERE.get(path.stem, {})
    assert set(listed) <= set(unfounded(read(path), {}))


def example(prose, later=""):
    new = nbformat.v4
    stream = new.new_output("stream", text="the share is 93.04 % of 28,071,976")
    return SimpleNamespace(cells=[
        new.new_markdown_cell(f"# One\n\n## First\n\n{prose}"),
        new.new_code_cell("print(share, 12)", outputs=[stream]),
        new.new_markdown_cell(f"## Second\n\n{later}")])


@pytest.mark.parametrize("prose", [
    "It is 93.0 % or 93 %.", "Twelve, 12, at {eq}`eq-99` in $99$ of `99`, section 9.9.",
    "In 1998 Ho (Eqs. 11 and 12) took SE-ResNet-50, [issue 77](http://a.b/77)."])
def test_a_number_that_a_cell_has_is_found(prose):
    assert unfounded(example(prose), {}) == {}


@pytest.mark.parametrize("number", ["93.1", "92", "13", "93.041", "1,234"])
def test_a_number_that_no_cell_has_is_named(number):
    wrong = f"It is {number} of them."
    assert unfounded(example(f"One of 12. {wrong}"), {}) == {number: wrong}
    assert unfounded(example(wrong), {number: "Somebody 1998"}) == {}


def test_another_sections_number_must_be_long_or_pointed_at():
    later = "Of 28,071,976 there are 12. The 93.0 % above stay."
    assert set(unfounded(example("", later), {})) == {"12"}
