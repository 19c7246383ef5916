"""What `make publish-dry` leaves behind: launch button, first cell and names agree."""

import json
import re
import shutil
from types import SimpleNamespace

import pytest
from published import CHAPTERS, REPOSITORY, commit, git, publish, snapshot


def notebook(bare, ref, path):
    return json.loads(git(bare, "show", f"{ref}:{path}"))


def setup_source(notebook):
    cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    assert cell["metadata"]["cvattn"] == "setup"
    return "".join(cell["source"])


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    tree = tmp_path_factory.mktemp("publish")
    sha = snapshot(tree)
    printed = publish(tree, "--dry", "--repository", f"{REPOSITORY}.git").stdout
    bare = tree / "_build" / "publish.git"
    pages = tree / "_build" / "publish" / "book" / "_build" / "html"
    return SimpleNamespace(tree=tree, sha=sha, printed=printed, bare=bare, pages=pages)


def test_there_are_chapters():
    assert CHAPTERS


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_launch_button_opens_the_notebook_that_installs_this_commit(dry, chapter):
    page = (dry.pages / "chapters" / chapter).with_suffix(".html").read_text("utf-8")
    links = set(re.findall(r'href="(https://colab\.research[^"]*)"', page))
    assert len(links) == 1
    link = re.fullmatch(
        r"https://colab\.research\.google\.com/github/([^/]+/[^/]+)/blob/([^/]+)/(.+)",
        links.pop(),
    )
    repository, branch, path = f"https://github.com/{link[1]}", link[2], link[3]
    source = setup_source(notebook(dry.bare, branch, path))
    assert repository == REPOSITORY
    assert f'REPOSITORY = "{repository}"\nCOMMIT = "{dry.sha}"\n' in source
    assert git(dry.bare, "rev-parse", "main") == dry.sha


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_only_the_setup_cell_differs_from_the_tree(dry, chapter):
    path = f"chapters/{chapter}"
    ours = json.loads((dry.tree / path).read_text("utf-8"))
    theirs = notebook(dry.bare, "colab", path)
    changed = [
        (a, b)
        for a, b in zip(ours["cells"], theirs["cells"], strict=True)
        if "".join(a.pop("source")) != "".join(b.pop("source"))
    ]
    assert len(changed) == 1
    assert ours == theirs
    assert changed[0][1]["outputs"] == []


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_notebook_that_the_page_offers_is_the_one_on_colab(dry, chapter):
    offered = json.loads((dry.pages / "_sources/chapters" / chapter).read_text("utf-8"))
    assert offered == notebook(dry.bare, "colab", f"chapters/{chapter}")


def test_the_setup_cell_fits_the_page(dry):
    for chapter in CHAPTERS:
        source = setup_source(notebook(dry.bare, "colab", f"chapters/{chapter}"))
        compile(source, chapter, "exec")
        assert max(map(len, source.splitlines())) <= 80


def test_it_says_what_it_would_push(dry):
    for chapter in CHAPTERS:
        assert f"chapters/{chapter}" in dry.printed
    assert f"to {REPOSITORY}, with cvattn installed from {dry.sha[:10]}" in dry.printed


def test_the_branch_holds_notebooks_and_licences_only(dry):
    files = git(dry.bare, "ls-tree", "-r", "--name-only", "colab").split("\n")
    expected = [f"chapters/{chapter}" for chapter in CHAPTERS]
    assert sorted(files) == sorted(
        [*expected, "LICENSE", "LICENSE-TEXT.md", "README.md"]
    )


@pytest.fixture
def clone(dry, tmp_path):
    """A tree of one's own to break, beside a bare remote of one's own."""
    git(tmp_path, "clone", "--quiet", dry.tree, "tree")
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", "remote.git")
    return tmp_path / "tree"


def push(tree, check=True):
    options = ["--repository", REPOSITORY, "--commit", "HEAD"]
    remote = ["--out", tree.parent / "out", "--push", tree.parent / "remote.git"]
    return publish(tree, *options, *remote, check=check)


def test_publishing_the_same_commit_again_adds_nothing(clone):
    first, second = push(clone).stdout, push(clone).stdout
    assert first == second
    assert git(clone.parent / "remote.git", "rev-list", "--count", "colab") == "1"
    assert git(clone, "status", "--porcelain") == ""


def test_a_renamed_chapter_keeps_its_old_address(clone):
    push(clone)
    old = clone / "chapters" / CHAPTERS[0]
    shutil.move(old, old.with_name("renamed.ipynb"))
    sha, bare = commit(clone), clone.parent / "remote.git"
    push(clone)
    kept = setup_source(notebook(bare, "colab", f"chapters/{CHAPTERS[0]}"))
    new = setup_source(notebook(bare, "colab", "chapters/renamed.ipynb"))
    assert sha in new
    assert git(clone, "rev-parse", "HEAD~") in kept
    assert git(bare, "rev-list", "--count", "colab") == "2"


@pytest.mark.parametrize(
    "marked, message", [(0, "got it on 0 of"), (2, "got it on 2 of")]
)
def test_a_notebook_without_its_one_setup_cell_is_refused(clone, marked, message):
    path = clone / "chapters" / CHAPTERS[0]
    broken = json.loads(path.read_text("utf-8"))
    code = [cell for cell in broken["cells"] if cell["cell_type"] == "code"]
    for i, cell in enumerate(code):
        cell["metadata"] = {"cvattn": "setup"} if i < marked else {}
    path.write_text(json.dumps(broken), encoding="utf-8")
    commit(clone)
    done = push(clone, check=False)
    assert done.returncode == 1
    assert f"publish: {CHAPTERS[0]}: the first code cell" in done.stderr
    assert message in done.stderr
    assert git(clone.parent / "remote.git", "branch", "--list") == ""


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--repository", "https://example.org/a/b", "--commit", "HEAD"], "GitHub"),
        (["--repository", REPOSITORY, "--commit", "none"], "rev-parse"),
        (["--repository", REPOSITORY], "--commit are needed"),
    ],
)
def test_a_wrong_address_or_commit_is_refused(clone, arguments, message):
    done = publish(clone, *arguments, check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "origin", ["git@github.com:some-reader/some-book.git", f"{REPOSITORY}/"]
)
def test_the_address_is_read_from_origin(clone, origin):
    git(clone, "remote", "set-url", "origin", origin)
    script = "import publish; print(publish.origin())"
    assert run_in_tools(clone, script) == REPOSITORY
    git(clone, "remote", "set-url", "origin", "/somewhere/else")
    assert run_in_tools(clone, script) == "https://github.com/OWNER/NAME"


def run_in_tools(tree, script):
    import sys

    from published import run

    return run(sys.executable, "-c", script, cwd=tree / "_tools").stdout.strip()
