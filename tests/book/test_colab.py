"""A rehearsal of Colab: each published notebook, alone in a folder, in a clean venv.

The venv sees the libraries of this environment (torch and the rest, as Colab would have
them) but not this tree. `cvattn` gets there only as it does on Colab: through the first
cell, from the published commit. There are two venvs, one with Colab's old ipywidgets.
In each the first notebook's first cell installs the package; those of the others, the
same to the letter, find it there, as when a reader opens a second chapter.
"""

import json
import re
import shutil
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
from published import (
    CHAPTERS,
    REPOSITORY,
    ROOT,
    environment,
    git,
    publish,
    run,
    snapshot,
    unavailable,
)

WIDGETS = ["current", "7.7.1"]
# A notebook that loads no widget runs once: the second run would be the first again.
WITH = {name for name in CHAPTERS if re.search(
    "ipywidgets|book.upload", (ROOT / "chapters" / name).read_text("utf-8"))}
RUNS = [(name, widgets) for widgets in WIDGETS for name in CHAPTERS
        if widgets == "current" or name in WITH]
PROBE = """\
import json, cvattn, ipywidgets, torch
from pathlib import Path
print(json.dumps({
    "prefix": sys.prefix, "cvattn": cvattn.__file__, "torch": torch.__file__,
    "widgets": ipywidgets.__version__, "folder": sorted(map(str, Path().iterdir())),
    "installed": Path(cvattn.__file__).stat().st_mtime_ns}))"""
# One process for the notebooks of a venv, so that their kernels start warm.
EXECUTE = """\
import sys, nbclient, nbformat
tests, *desks = sys.argv[1:]
sys.path.insert(0, tests)
import warm
warm.up()
for desk in desks:
    book = nbformat.read(f"{desk}.ipynb", as_version=4)
    client = nbclient.NotebookClient(book, kernel_name="rehearsal", timeout=300)
    try:
        client.execute(cwd=desk)
    except Exception as error:
        book.metadata["stopped"] = str(error)
    nbformat.write(book, f"{desk}.out.ipynb")"""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The branch that Colab opens, and the bare repository that plays GitHub."""
    tree = tmp_path_factory.mktemp("tree")
    home = tmp_path_factory.mktemp("published")
    sha, bare = snapshot(tree), home / "github.git"
    git(home, "clone", "--quiet", "--bare", tree, bare)
    where = ["--repository", REPOSITORY, "--commit", sha, "--out", home / "out"]
    publish(tree, *where, "--push", bare)
    return home / "out" / "branch" / "chapters", bare, sha


def make_venv(venv, widgets, env):
    """Make a venv with our libraries, less cvattn; False when a download fails."""
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv.parent, env=env)
    python = venv / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(run(python, "-c", where, cwd=venv, env=env).stdout.strip())
    # A folder named in a .pth file is searched last (pip is found there, too), and its
    # own .pth files, through which an editable cvattn would come, are not read.
    (own / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    if widgets != "current":
        install = [python, "-m", "pip", "install", "--quiet", "--no-deps"]
        wanted = [f"ipywidgets=={widgets}", "ipython_genutils"]
        done = run(*install, *wanted, cwd=venv, env=env, check=False)
        if done.returncode:
            return False
    kernel = [python, "-m", "ipykernel", "install", "--name", "rehearsal"]
    run(*kernel, "--prefix", venv, cwd=venv, env=env)
    return True


def rehearse(venv, home, notebooks, env):
    """Execute each notebook alone in a folder, and two probes with it, in a venv."""
    desks = [home / path.stem for path in notebooks]
    for desk, path in zip(desks, notebooks, strict=True):
        desk.mkdir()
        shutil.copy(path, desk)
        book = nbformat.read(path, as_version=4)
        setup = next(cell for cell in book.cells if cell.cell_type == "code")
        ends = [PROBE, setup.source, PROBE]
        book.cells += [nbformat.v4.new_code_cell(source) for source in ends]
        nbformat.write(book, f"{desk}.ipynb")
    python = venv / "bin" / "python"
    run(python, "-c", EXECUTE, ROOT / "tests", *desks, cwd=home, env=env, timeout=3000)
    return {path.name: nbformat.read(f"{desk}.out.ipynb", as_version=4)
            for desk, path in zip(desks, notebooks, strict=True)}


@pytest.fixture(scope="module")
def rehearsals(published, tmp_path_factory):
    """What makes each of RUNS, in the venv of its ipywidgets; one process a venv."""
    chapters, bare, sha = published
    results = {}
    with ThreadPoolExecutor(2) as pool:
        for widgets in WIDGETS:
            env = environment(bare)
            if widgets == "current":
                env["PIP_NO_BUILD_ISOLATION"] = "0"     # pip's "do not": offline
            home = tmp_path_factory.mktemp("rehearsal")
            notebooks = [chapters / name for name, other in RUNS if other == widgets]
            made = make_venv(home / "venv", widgets, env)
            results[widgets] = home / "venv", made and pool.submit(
                rehearse, home / "venv", home, notebooks, env)
        yield results


def test_all_begin_with_one_and_the_same_cell(published):
    chapters, bare, sha = published
    first = {next(cell.source for cell in nbformat.read(path, as_version=4).cells
                  if cell.cell_type == "code") for path in chapters.glob("*.ipynb")}
    assert CHAPTERS and WITH and len(first) == 1 and sha in first.pop()


@pytest.mark.parametrize(("chapter", "widgets"), RUNS)
def test_the_published_notebook_runs_to_its_end(rehearsals, chapter, widgets):
    venv, rehearsal = rehearsals[widgets]
    if not rehearsal:
        unavailable(f"ipywidgets {widgets} cannot be downloaded here")
    done = rehearsal.result()[chapter]
    assert done.metadata.get("stopped") is None
    first, second = (json.loads(done.cells[i].outputs[0].text) for i in (-3, -1))
    setup = next(cell for cell in done.cells if cell.cell_type == "code")
    assert setup.outputs == []
    assert Path(first["prefix"]) == venv
    assert Path(first["cvattn"]).is_relative_to(venv)
    assert not Path(first["torch"]).is_relative_to(venv)
    ours = version("ipywidgets") if widgets == "current" else widgets
    assert first["widgets"] == ours
    assert chapter in first["folder"] and "cvattn" not in first["folder"]
    assert second == first, "a second run of the setup cell changed something"


def test_a_failed_install_says_what_to_look_at(published, tmp_path):
    chapters, bare, sha = published
    book = nbformat.read(chapters / CHAPTERS[0], as_version=4)
    setup = next(cell for cell in book.cells if cell.cell_type == "code")
    nowhere = setup.source.replace(sha, "0" * 40)
    env = environment(bare) | {"PIP_TARGET": str(tmp_path / "never")}
    done = run(sys.executable, "-c", nowhere, cwd=tmp_path, env=env, check=False)
    assert done.returncode == 1
    assert f"RuntimeError: no cvattn from {REPOSITORY}: offline?" in done.stderr
    assert "0" * 40 in done.stderr.split("RuntimeError")[1]
    assert not (tmp_path / "never").exists()
