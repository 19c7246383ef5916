"""The working tree, committed and published in a folder of its own.

The repository has the made-up address REPOSITORY. `environment` makes git, and so pip,
find it in the local bare repository, so that a published notebook runs unchanged.
"""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

REPOSITORY = "https://github.com/some-reader/some-book"
CHAPTERS = sorted(path.name for path in (ROOT / "chapters").glob("*.ipynb"))


def unavailable(reason):
    """Skip at home, fail where everything must be there."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


def environment(bare=None):
    """This process's environment, without what would leak into a fresh one."""
    ours = ("GIT_", "PYTHON", "BOOK_", "JUPYTER", "VIRTUAL_ENV", "PYTEST")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    values = {"user.name": "A Reader", "user.email": "reader@example.org"}
    values["safe.directory"] = "*"
    if bare:
        values[f"url.{bare.as_uri()}.insteadOf"] = REPOSITORY
    clean |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_COUNT": str(len(values))}
    for i, (key, value) in enumerate(values.items()):
        clean |= {f"GIT_CONFIG_KEY_{i}": key, f"GIT_CONFIG_VALUE_{i}": value}
    return clean


def run(*command, cwd, env=None, check=True, timeout=600):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env or environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if check:
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def git(tree, *arguments):
    return run("git", *arguments, cwd=tree).stdout.strip()


def publish(tree, *arguments, check=True):
    script = tree / "_tools" / "publish.py"
    return run(sys.executable, script, *arguments, cwd=tree, check=check)


def commit(tree):
    """Commit everything in the tree and return the commit's name."""
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--message", "As it is")
    return git(tree, "rev-parse", "HEAD")


def snapshot(tree):
    """Copy what git would commit here, changes included, into a new repository."""
    if not (ROOT / ".git").exists():
        unavailable("this is no git clone, and publishing publishes a commit")
    listed = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in git(ROOT, *listed).split("\0"):
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    git(tree, "init", "--quiet", "--initial-branch=main")
    return commit(tree)
