"""Publish the book as it stands in one commit: the branch Colab opens, and the pages.

    python _tools/publish.py --repository https://github.com/OWNER/NAME --commit SHA \
        --out DIR [--book] [--push REMOTE]
    python _tools/publish.py --dry

Without `--book` this needs nothing but git and Python itself. DIR receives

    branch/   the notebooks, whose first cell installs `cvattn` from that commit
    book/     with --book: the sources of the book with those same notebooks, built
              in book/_build/html with launch buttons that open them on Colab

`--push` adds `branch/` to the branch on REMOTE as one commit. Files that are there
already stay, so the address of a chapter keeps working after the chapter is renamed.
`--dry` does all of it, with `_build/publish.git` as the remote.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACEHOLDER = "https://github.com/OWNER/NAME"
LICENSES = ("LICENSE", "LICENSE-TEXT.md")

SETUP = """\
# Install the book's package, cvattn, as it was when this page was published.
# Nothing else changes, torch least of all, and a second run does nothing.
import subprocess
import sys
from importlib import invalidate_caches, metadata

REPOSITORY = "{repository}"
COMMIT = "{commit}"
try:
    have = metadata.distribution("cvattn").read_text("direct_url.json") or ""
except metadata.PackageNotFoundError:
    have = ""
if COMMIT not in have:
    options = ["--quiet", "--no-deps", "--force-reinstall"]
    source = f"cvattn @ git+{{REPOSITORY}}@{{COMMIT}}"
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, source],
        capture_output=True,
        text=True,
    )
    if pip.returncode:
        why = f"no cvattn from {{REPOSITORY}}: offline?"
        raise RuntimeError(f"{{why}}\\n{{pip.stderr}}")
    invalidate_caches()"""

README = """\
# Notebooks of *Attention in Computer Vision*

This branch is written by the publishing workflow of [{name}]({repository}) and is what
the book's Colab buttons open. The latest notebooks belong to commit
[{short}]({repository}/commit/{commit}), and their first cell installs `cvattn` from it.
Change the book on the main branch, not here.
"""


def git(*arguments, cwd=ROOT, **environment):
    """Run git and return what it printed; its own message on failure."""
    done = subprocess.run(
        ["git", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"git {' '.join(map(str, arguments))}\n{done.stderr.strip()}")
    return done.stdout.strip()


def web_address(url):
    """https://github.com/OWNER/NAME for any way of writing a GitHub repository."""
    found = re.fullmatch(
        r"(?:https://|ssh://git@|git@)github\.com[/:]([\w-]+/[\w.-]+?)(?:\.git)?/?", url
    )
    if not found:
        raise ValueError(f"Colab opens GitHub repositories only, got repository={url}")
    return f"https://github.com/{found[1]}"


def full_commit(commit):
    """The 40 digits of a commit in this repository; HEAD and short forms are fine."""
    return git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")


def checkout(commit, folder):
    """Write the files of a commit into an empty folder, leaving this checkout alone."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch, "index"))}
        git("read-tree", commit, **index)
        git("checkout-index", "--all", f"--prefix={folder}/", **index)


def publish_notebook(path, repository, commit):
    """Replace the source of the setup cell, which must be the first code cell."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    setup = [cell for cell in code if cell["metadata"].get("cvattn") == "setup"]
    if setup != code[:1] or not setup:
        raise ValueError(
            f"{path.name}: the first code cell, and no other, must have the metadata "
            f'{{"cvattn": "setup"}}, got it on {len(setup)} of {len(code)} code cells'
        )
    source = SETUP.format(repository=repository, commit=commit)
    setup[0]["source"] = source.splitlines(keepends=True)
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def write(out, repository, commit):
    """Write `out/book`, the sources as published, and `out/branch`, for Colab."""
    book, branch = out / "book", out / "branch"
    checkout(commit, book)
    notebooks = sorted((book / "chapters").glob("*.ipynb"))
    if not notebooks:
        raise ValueError(f"commit {commit} has no notebook in chapters/")
    shutil.rmtree(branch, ignore_errors=True)
    (branch / "chapters").mkdir(parents=True)
    for path in notebooks:
        publish_notebook(path, repository, commit)
        shutil.copy(path, branch / "chapters")
    for name in LICENSES:
        shutil.copy(book / name, branch)
    about = {"name": repository.rpartition("/")[2], "short": commit[:10]}
    about |= {"repository": repository, "commit": commit}
    (branch / "README.md").write_text(README.format(**about), encoding="utf-8")


def build(out, repository, branch):
    """Build `out/book`, without a warning, with buttons that open the branch."""
    command = Path(sys.executable).with_name("jupyter-book")
    subprocess.run(
        [command, "build", out / "book", "-W", "-n", "--keep-going", "--quiet"],
        check=True,
        cwd=out / "book",
        env={
            "BOOK_EDIT_BRANCH": "main",
            **os.environ,
            "BOOK_REPOSITORY": repository,
            "BOOK_BRANCH": branch,
            "PYTHONPATH": str(out / "book"),
        },
    )
    return out / "book" / "_build" / "html"


def push(folder, remote, branch, commit):
    """Add the files of a folder to a remote branch; return the branch's new head.

    The new commit takes author and date from the commit that it publishes, so that
    publishing the same thing twice adds nothing.
    """
    ref = f"refs/heads/{branch}"
    listed = git("ls-remote", remote, ref)
    parent = listed.split()[0] if listed else None
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch, "index"))}
        if parent:
            git("fetch", "--quiet", "--no-write-fetch-head", remote, ref)
            git("read-tree", parent, **index)
        here = ["--git-dir", git("rev-parse", "--absolute-git-dir")]
        here += ["--work-tree", folder]
        git(*here, "add", "--ignore-removal", "--force", ".", cwd=folder, **index)
        tree = git("write-tree", **index)
    if parent and tree == git("rev-parse", f"{parent}^{{tree}}"):
        return parent
    name, email, date = git("show", "-s", "--format=%an%n%ae%n%aI", commit).split("\n")
    who = {"NAME": name, "EMAIL": email, "DATE": date}
    roles = ("AUTHOR", "COMMITTER")
    made_by = {f"GIT_{role}_{k}": v for role in roles for k, v in who.items()}
    parents = ["-p", parent] if parent else []
    head = git("commit-tree", tree, *parents, "-m", f"Publish {commit}", **made_by)
    git("push", "--quiet", remote, f"{head}:{ref}")
    return head


def dry(repository, branch, out):
    """Publish HEAD into a local bare repository and say what is in it."""
    commit = full_commit("HEAD")
    if git("status", "--porcelain"):
        print("Uncommitted changes are left out: what is published is a commit.")
    bare = out.parent / "publish.git"
    if not bare.exists():
        git("init", "--quiet", "--bare", "--initial-branch=main", bare)
        git("config", "receive.shallowUpdate", "true", cwd=bare)
    git("push", "--quiet", "--force", bare, f"{commit}:refs/heads/main")
    write(out, repository, commit)
    pages = build(out, repository, branch)
    head = push(out / "branch", bare, branch, commit)
    print(f"book      {pages / 'index.html'}")
    print(f"branch    {branch} = {head[:10]} in {bare}")
    for path in git("ls-tree", "-r", "--name-only", head).split("\n"):
        print(f"          {path}")
    print(f"would go  to {repository}, with cvattn installed from {commit[:10]}")


def origin():
    """This clone's GitHub address, or a placeholder when it has none."""
    try:
        return web_address(git("remote", "get-url", "origin"))
    except (SystemExit, ValueError):
        return PLACEHOLDER


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repository", help="https://github.com/OWNER/NAME")
    parser.add_argument("--commit", help="the commit to publish")
    parser.add_argument("--branch", default="colab", help="what Colab opens (colab)")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "publish")
    parser.add_argument("--book", action="store_true", help="build the pages too")
    parser.add_argument("--push", metavar="REMOTE", help="push the branch there")
    parser.add_argument("--dry", action="store_true", help="all of it, pushed nowhere")
    options = parser.parse_args()
    out = options.out.resolve()
    try:
        repository = web_address(options.repository or origin())
        if options.dry:
            return dry(repository, options.branch, out)
        if not (options.repository and options.commit):
            parser.error("--repository and --commit are needed, or --dry")
        commit = full_commit(options.commit)
        write(out, repository, commit)
    except ValueError as error:
        sys.exit(f"publish: {error}")
    if options.book:
        print(build(out, repository, options.branch))
    if options.push:
        print(push(out / "branch", options.push, options.branch, commit))


if __name__ == "__main__":
    main()
