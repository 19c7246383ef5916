"""Make .venv and install what requirements.txt names, unless that is done.

    python3 _tools/setup.py

A second run with the same requirements.txt, pyproject.toml and Python does
nothing. Called with another Python that the book supports, it makes .venv anew;
a .venv of this Python stays, and so does a torch of the right version in it.
It runs on older Pythons too, to say which Python is needed.
"""

import hashlib
import os
import platform
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
FOLDER, EXE = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
PYTHON = os.path.join(VENV, FOLDER, EXE)
STAMP = os.path.join(VENV, "cvattn-ready")
FIRST, LAST = (3, 11), (3, 14)


def supported(version):
    return FIRST <= version <= LAST


def works(python):
    """True if the interpreter starts, has pip, and has the version it should have.

    That is the caller's, or, where the book does not support the caller's, any that
    it supports.
    """
    test = "import sys, pip; print('%d %d' % sys.version_info[:2])"
    try:
        out = subprocess.check_output([python, "-c", test], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return False
    version = tuple(int(word) for word in out.split())
    here = sys.version_info[:2]
    return version == here if supported(here) else supported(version)


def wanted():
    digest = hashlib.sha256(ROOT.encode())
    for name in ("requirements.txt", "pyproject.toml"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def pinned(name):
    """The version that requirements.txt gives a package."""
    with open(os.path.join(ROOT, "requirements.txt")) as file:
        lines = [line.partition("==") for line in file]
    return next((rest.split()[0] for key, _, rest in lines if key == name), None)


def download():
    """How much pip is about to download, in words. Most of it is torch."""
    test = "from importlib.metadata import version; print(version('torch'))"
    try:
        out = subprocess.check_output([PYTHON, "-c", test], stderr=subprocess.DEVNULL)
        if out.decode().partition("+")[0].strip() == pinned("torch"):
            return "up to 0.3 GB; .venv has its torch already"
    except (OSError, subprocess.CalledProcessError):
        pass
    if platform.system() == "Linux":
        return ("about 2.9 GB, with the CUDA libraries of torch.\n"
                "Without a graphics card 0.5 GB are enough: README.md tells how")
    return "about 0.4 GB"


def ready():
    try:
        with open(STAMP) as file:
            return file.read() == wanted() and works(PYTHON)
    except OSError:
        return False


def main():
    if ready():
        return
    if not works(PYTHON):
        here = f"{sys.version_info[0]}.{sys.version_info[1]}"
        if not supported(sys.version_info[:2]):
            sys.exit(
                "The book needs Python 3.11, 3.12, 3.13 or 3.14; "
                f"{sys.executable} is {here}.\n"
                "Name another one: make PYTHON=python3.13 book"
            )
        print(f"Making .venv with Python {here}", flush=True)
        made = subprocess.call([sys.executable, "-m", "venv", "--clear", VENV])
        if made != 0 or not works(PYTHON):
            sys.exit("Python's venv did not work; on Debian: apt install python3-venv")
    pip = [PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    print("Installing requirements.txt, which takes minutes, once", flush=True)
    print("To download:", download(), flush=True)
    steps = [
        pip + ["--requirement", os.path.join(ROOT, "requirements.txt")],
        pip + ["--no-deps", "--no-build-isolation", "--editable", ROOT],
    ]
    for step in steps:
        if subprocess.call(step) != 0:
            sys.exit("Installing failed; pip says why above.")
    with open(STAMP, "w") as file:
        file.write(wanted())


if __name__ == "__main__":
    main()
