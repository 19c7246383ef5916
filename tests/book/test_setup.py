"""`make setup`: when it does nothing, and when it makes .venv anew."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT

HERE = sys.version_info[:2]
OTHER = (3, 12) if HERE != (3, 12) else (3, 11)
needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not here")


@pytest.fixture
def setup(tmp_path, monkeypatch):
    """_tools/setup.py, for a project in a temporary folder; `setup.ran` tells."""
    (tmp_path / "_tools").mkdir()
    for name in ("_tools/setup.py", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    spec = importlib.util.spec_from_file_location("_", tmp_path / "_tools" / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ran = []

    def call(command):
        module.ran.append(command[1:4])
        if "venv" in command:
            venv(module)
        return 0

    monkeypatch.setattr(module, "subprocess", SimpleNamespace(
        call=call, check_output=subprocess.check_output,
        DEVNULL=subprocess.DEVNULL, CalledProcessError=subprocess.CalledProcessError))
    return module


def called_by(setup, version):
    setup.sys = SimpleNamespace(
        version_info=(*version, 0), executable=sys.executable, exit=sys.exit)


def venv(setup, *, pip=True):
    """Make a .venv whose Python is this one; pip is an empty module."""
    subprocess.check_call([sys.executable, "-m", "venv", "--clear", "--without-pip",
                           setup.VENV])
    if pip:
        where = subprocess.check_output(
            [setup.PYTHON, "-c",
             "import sysconfig; print(sysconfig.get_paths()['purelib'])"], text=True)
        Path(where.strip(), "pip.py").touch()


def installed(setup):
    """A .venv as a first run leaves it."""
    setup.main()
    assert [words[:2] for words in setup.ran] == [["-m", "venv"]] + [["-m", "pip"]] * 2
    setup.ran.clear()
    return Path(setup.VENV)


def test_a_second_run_does_nothing_until_the_requirements_change(setup):
    made = installed(setup)
    setup.main()
    assert not setup.ran
    with open(os.path.join(setup.ROOT, "requirements.txt"), "a") as file:
        file.write("# another line\n")
    (made / "mark").touch()
    setup.main()
    assert [words[:2] for words in setup.ran] == [["-m", "pip"]] * 2
    assert (made / "mark").exists()


def test_a_venv_without_pip_is_made_anew(setup):
    installed(setup)
    venv(setup, pip=False)
    with open(setup.STAMP, "w") as file:
        file.write(setup.wanted())
    assert not setup.ready()
    setup.main()
    assert setup.ran[0][:2] == ["-m", "venv"] and setup.ready()


def test_a_venv_that_comes_out_without_pip_is_told(setup):
    setup.subprocess.call = lambda command: venv(setup, pip=False) or 0
    with pytest.raises(SystemExit, match="apt install python3-venv"):
        setup.main()


def test_another_supported_python_makes_the_venv_anew(setup):
    made = installed(setup)
    (made / "mark").touch()
    called_by(setup, OTHER)
    assert not setup.works(setup.PYTHON) and not setup.ready()
    with pytest.raises(SystemExit, match="venv did not work"):
        setup.main()    # what was made is the running Python's: not what was asked
    assert setup.ran == [["-m", "venv", "--clear"]]
    assert not (made / "mark").exists()


@pytest.mark.parametrize("version", [(3, 9), (3, 14)])
def test_a_python_that_is_not_supported_uses_the_venv_that_is_there(setup, version):
    installed(setup)
    called_by(setup, version)
    setup.main()
    assert not setup.ran
    shutil.rmtree(setup.VENV)
    with pytest.raises(SystemExit, match="needs Python 3.10, 3.11, 3.12 or 3.13; "):
        setup.main()
    assert not setup.ran


@needs_make
def test_make_finds_the_tools_where_the_system_puts_them():
    for system, folder in (("Windows_NT", "Scripts"), ("", "bin")):
        out = subprocess.check_output(
            ["make", "-n", "lint", f"OS={system}"], cwd=ROOT, text=True)
        assert f".venv/{folder}/ruff" in out


@needs_make
def test_make_alone_lists_every_command_with_its_words(tmp_path):
    sed = tmp_path / "sed"    # a sed that knows no \t, as on a Mac, must not matter
    sed.write_text("#!/bin/sh\nexit 1\n")
    sed.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    env.pop("MAKEFLAGS", None)
    out = subprocess.check_output(["make"], cwd=ROOT, env=env, text=True)
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["book"] == "build the HTML book, without a single warning"
    targets = [line.split(":")[0] for line in (ROOT / "Makefile").read_text(
        "utf-8").splitlines() if ":  ## " in line or ": " in line and "  ## " in line]
    assert set(targets) - {"help"} <= set(lines) and len(lines) > 8
