"""The benchmark's cases: ours and its peers, on small shapes, compute the same."""

import pytest
import torch
from twins import timm, torchvision

import cvattn
from benchmarks import bench

PICTURES = [(2, 64, 5, 7), (3, 32, 7, 3)]
LENGTHS = [(2, 5)]


@pytest.fixture
def cases(monkeypatch):
    monkeypatch.setattr(bench, "PICTURES", PICTURES)
    monkeypatch.setattr(bench, "LENGTHS", LENGTHS)
    return list(bench.cases(timm, torchvision))


def test_every_case_is_measured_against_its_equals(cases):
    """`rows` asserts equality before it measures."""
    torch.manual_seed(0)
    for case in cases:
        found = list(bench.rows(case, "cpu", 0, False, False))
        assert [r["pass"] for r in found] == ["forward", "forward + backward"]
        assert case.peers and all(r["ratio"].keys() == case.peers.keys() for r in found)


def test_a_wrong_module_is_not_measured(cases):
    case = next(c for c in cases if c.name == "SK")
    case.ours.select = lambda U, right=case.ours.select: right(U).flip(1)
    with pytest.raises(AssertionError, match="SK is not timm's"):
        list(bench.rows(case, "cpu", 0, False, False))


# Parts of what is measured, and wholes whose layers are.
NOT_MEASURED = {"ChannelGate", "SpatialGate", "FeedForward", "PositionalEncoding",
                "Transformer", "ViT"}


def test_no_module_is_left_out(cases):
    modules = {name for name in cvattn.__all__
               if isinstance(getattr(cvattn, name), type)}
    measured = {case.name for case in cases}
    assert modules - measured == NOT_MEASURED
    for name in modules & measured:
        shapes = {case.shape for case in cases if case.name == name}
        assert shapes in (set(PICTURES), {(b, n, 512) for b, n in LENGTHS})
