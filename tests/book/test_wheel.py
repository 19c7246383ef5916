"""The wheel: pure, small, complete, and content with torch and numpy."""

import subprocess
import sys
import zipfile

import pytest
from published import ROOT, git, run, snapshot

OPTIONAL = [
    "IPython",
    "PIL",
    "ipywidgets",
    "matplotlib",
    "pandas",
    "pooch",
    "safetensors",
    "scipy",
    "skimage",
    "tqdm",
]
IMPORT = f"""\
import importlib, pkgutil, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL}:
            raise ModuleNotFoundError(f"{{name}} is not there", name=name)
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
import cvattn
assert cvattn.__file__.startswith(sys.argv[1]), cvattn.__file__
for module in pkgutil.walk_packages(cvattn.__path__, "cvattn."):
    importlib.import_module(module.name)
    print(module.name)
import torch
x = torch.randn(2, 32, 3, 5)
assert cvattn.SE(32)(x).shape == x.shape
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    snapshot(tree)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    run(*pip, "--no-build-isolation", "--wheel-dir", out, tree, cwd=out)
    (wheel,) = out.glob("*.whl")
    return wheel, tree


def test_it_is_pure_and_under_8_megabytes(wheel):
    path, _ = wheel
    assert path.name.startswith("cvattn-") and path.name.endswith("-py3-none-any.whl")
    assert path.stat().st_size < 8_000_000


def test_it_holds_every_file_of_the_package_and_both_licences(wheel):
    path, tree = wheel
    names = set(zipfile.ZipFile(path).namelist())
    assert set(git(tree, "ls-files", "cvattn").split("\n")) <= names
    assert {name for name in names if name.startswith("cvattn/")} <= set(
        git(tree, "ls-files", "cvattn").split("\n")
    )
    info = next(name for name in names if name.endswith(".dist-info/METADATA"))
    folder = info.rpartition("/")[0]
    for licence in ("LICENSE", "LICENSE-TEXT.md"):
        assert f"{folder}/licenses/{licence}" in names


def test_it_imports_with_torch_and_numpy_alone(wheel, tmp_path):
    path, _ = wheel
    zipfile.ZipFile(path).extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-I", "-c", IMPORT, tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {"cvattn.se", "cvattn.book.live", "cvattn.book.plot"} <= set(
        done.stdout.split())


def test_its_version_is_the_one_to_cite(wheel):
    path, _ = wheel
    version = path.name.split("-")[1]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
