"""A kernel that starts warm is, to a notebook, like one that starts cold."""

import json

import pytest
import warm
from jupyter_client.provisioning import KernelProvisionerFactory
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

LOOK = """\
import json, os, sys
import multiprocessing, torch
import matplotlib.pyplot as plt
plt.plot([1, 2])
print(json.dumps({
    "path": sys.path, "folder": os.getcwd(), "name": __name__,
    "environment": sorted(set(os.environ.items())), "arguments": sys.argv[1::2],
    "plots": plt.get_backend(), "threads": torch.get_num_threads(),
    "starts": multiprocessing.get_start_method(),
    "session": os.getsid(0) == os.getpid(),
    "outside": sorted(set(sys.modules) & {"pytest", "warm", "conftest", "cvattn"})}))"""
OWN = {"JPY_PARENT_PID", "JPY_SESSION_NAME"}


def looked(provisioner, folder, monkeypatch):
    factory = KernelProvisionerFactory.instance()
    monkeypatch.setattr(factory, "default_provisioner_name", provisioner)
    book = new_notebook(cells=[new_code_cell(LOOK)])
    NotebookClient(book, kernel_name="python3").execute(cwd=str(folder))
    seen = json.loads(book.cells[0].outputs[0].text)
    seen["environment"] = [pair for pair in seen["environment"] if pair[0] not in OWN]
    return seen


def test_a_warm_kernel_is_like_a_cold_one(tmp_path, monkeypatch):
    factory = KernelProvisionerFactory.instance()
    if factory.default_provisioner_name != "warm":
        pytest.skip("no kernel is forked here")
    warm_one = looked("warm", tmp_path, monkeypatch)
    assert warm_one == looked("local-provisioner", tmp_path, monkeypatch)


def test_the_sys_path_is_that_of_a_fresh_python(monkeypatch):
    assert "/nowhere" in warm.bare("/nowhere") and "/nowhere" not in warm.bare("")
