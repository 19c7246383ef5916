"""What a gate costs: the measurement, on a block so small that it takes no time."""

import json
import sys

import pytest
import torch

from cvattn import SE, cost
from cvattn.book.experiments import se_cost

TINY = (2, 16, 4, 4)


@pytest.fixture
def block():
    torch.manual_seed(0)
    return se_cost.bottleneck(16, SE)


def statistics(block):
    return {k: v.clone() for k, v in block.named_buffers()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_ratios_are_quartiles():
    found = se_cost.ratios(TINY, 2)
    assert found.keys() == {"forward", "both"}
    for low, median, high in found.values():
        assert 0 < low <= median <= high


def test_forward_is_inference(block):
    before, x = statistics(block), torch.randn(TINY)
    assert before
    block.train()
    cost.infer(block, [x])
    assert same(statistics(block), before)
    assert all(p.grad is None for p in block.parameters())


def test_both_trains_whatever_came_before(block):
    before, x = statistics(block), torch.randn(TINY)
    cost.infer(block, [x])
    cost.train(block, [x])
    assert not same(statistics(block), before)
    once = [p.grad.clone() for p in block.parameters()]
    cost.train(block, [x])
    for p, grad in zip(block.parameters(), once, strict=True):
        torch.testing.assert_close(p.grad, grad)    # gradients do not add up


@pytest.mark.parametrize("write", [False, True])
def test_the_command(tmp_path, monkeypatch, capsys, write):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(se_cost, "SHAPES", [TINY])
    monkeypatch.setattr(sys, "argv", ["se_cost", "--turns", "2"] + ["--write"] * write)
    se_cost.main()
    assert "(2, 16, 4, 4)" in capsys.readouterr().out
    assert [f.name for f in tmp_path.iterdir()] == ["se_cost.json"] * write
    if write:
        kept = json.loads((tmp_path / "se_cost.json").read_text())
        assert kept["turns"] == 2 and [r["shape"] for r in kept["rows"]] == [list(TINY)]
        assert kept["rows"][0]["ratio"].keys() == {"forward", "both"}
