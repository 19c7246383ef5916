"""The cost of a model: each number against one worked out by hand."""

import copy
import doctest
import os
import re
import sys
from collections import Counter
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import profiler
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cvattn import SE, cost, vit
from cvattn.cost import compare, measure, table

FLOAT = 4   # bytes


class Call(nn.Module):
    """A model without parameters that calls a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def memory(model, *inputs, **kwargs):
    return measure(model, *inputs, repeats=0, **kwargs)


# Parameters.

def counts():
    shared = nn.Linear(3, 5, bias=False)
    frozen = nn.Linear(5, 7).requires_grad_(False)
    model = nn.Sequential(shared, nn.BatchNorm1d(5), frozen)
    model.again = shared
    model.register_buffer("mask", torch.ones(11), persistent=False)
    assert cost.count(model) == (15 + 10, 15 + 10 + 10 + 42)


def test_parameters_and_stored_numbers():
    """Shared tensors count once, frozen ones are stored only, integers are neither."""
    counts()
    with torch.device("meta"):
        assert cost.count(nn.BatchNorm2d(7)) == (14, 28)


# Multiplications.

MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad,
         "inference": torch.inference_mode}
MASKS = {
    "no mask": lambda q, k: {},
    "causal": lambda q, k: {"is_causal": True},
    "bool": lambda q, k: {"attn_mask": torch.ones(5, 7, dtype=bool, device=q.device)},
    "float": lambda q, k: {"attn_mask": torch.zeros(5, 7, device=q.device)},
}


def softmax_attention(device, mode, mask, heads=3):
    """B = 2, N = 5, M = 7, d = 8: two products of B h N M d multiplications each."""
    q, k, v = (torch.randn(2, heads, n, 8, device=device) for n in (5, 7, 7))
    model = Call(lambda q: F.scaled_dot_product_attention(q, k, v, **MASKS[mask](q, k)))
    with MODES[mode]():
        assert cost.macs(model, q) == 2 * (2 * heads * 5 * 7 * 8)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_softmax_attention(device, mode, mask):
    softmax_attention(device, mode, mask)


def test_softmax_attention_that_is_to_be_trained():
    q, k, v = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (5, 7, 7))
    c = measure(Call(F.scaled_dot_product_attention), q, k, v, repeats=0)
    assert c.macs == 3360 and c.flops == 6720 and c.kept > 0


def test_softmax_attention_without_a_batch():
    q, k, v = (torch.randn(n, 8) for n in (5, 7, 7))
    assert cost.macs(Call(F.scaled_dot_product_attention), q, k, v) == 2 * 5 * 7 * 8


def fused(training):
    """In eval mode torch runs this layer as one operation that hides its products."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).train(training)
    x = torch.randn(2, 5, 16)
    assert cost.macs(layer, x) == 10 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 2 * 5 * 5 * 16


@pytest.mark.parametrize("training", [True, False])
def test_fast_paths_hide_nothing(training):
    fused(training)
    attention = nn.MultiheadAttention(16, 4, batch_first=True).train(training)
    x = torch.randn(2, 5, 16)
    for weights in (True, False):
        model = Call(lambda x, w=weights: attention(x, x, x, need_weights=w))
        assert cost.macs(model, x) == 10 * 4 * 16 * 16 + 2 * 2 * 5 * 5 * 16


@pytest.mark.parametrize("enabled", [True, False])
def test_the_fast_path_is_left_as_it_was(enabled):
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        cost.macs(nn.Linear(3, 5), torch.ones(2, 3))
        assert torch.backends.mha.get_fastpath_enabled() == enabled
        with pytest.raises(RuntimeError):
            cost.macs(nn.Linear(3, 5), torch.ones(2, 7))
        assert torch.backends.mha.get_fastpath_enabled() == enabled
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


A, B, V, W = torch.ones(3, 5), torch.ones(5, 7), torch.ones(5), torch.ones(3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("function, macs", [
    (lambda: A @ B, 105), (lambda: A @ V, 15), (lambda: W @ A, 15), (lambda: V @ V, 5),
    (lambda: torch.addmv(W, A, V), 15), (lambda: F.linear(V, A, W), 15),
    (lambda: torch.einsum("ij,jk->ik", A, B), 105),
    (lambda: torch.baddbmm(A[None, :, :1], A.expand(2, 3, 5), B.expand(2, 5, 7)), 210),
    (lambda: F.conv1d(torch.ones(2, 3, 11), torch.ones(7, 3, 5)), 2 * 7 * 7 * 3 * 5),
    (lambda: F.conv_transpose2d(torch.ones(2, 3, 5, 7), torch.ones(3, 11, 2, 2)),
     2 * 35 * 3 * 11 * 4),
    # Not counted, by convention.
    (lambda: A + A, 0), (lambda: A * A, 0), (lambda: A.relu().sum(), 0),
    (lambda: F.avg_pool2d(torch.ones(1, 3, 8, 8), 2), 0),
    (lambda: F.batch_norm(A, torch.zeros(5), torch.ones(5)), 0),
])
def test_products_and_what_is_none(function, macs, mode):
    with MODES[mode]():
        assert cost.macs(Call(function)) == macs


@given(st.integers(1, 3), st.sampled_from([1, 2, 3]), st.integers(1, 3),
       st.integers(1, 3), st.sampled_from([1, 3, 5]), st.integers(1, 3),
       st.integers(1, 2), st.integers(5, 13), st.integers(5, 13))
def test_convolution(b, groups, cin, cout, k, stride, dilation, h, w):
    """Each output number costs k^2 numbers of each channel of its group."""
    x = torch.empty(b, groups * cin, h, w, device="meta")
    conv = nn.Conv2d(groups * cin, groups * cout, k, stride, dilation * (k // 2),
                     dilation, groups, device="meta")
    y = conv(x)
    assert cost.macs(conv, x) == y.numel() * cin * k * k
    assert cost.macs(conv, x[:1]) * b == cost.macs(conv, x)


def test_vit_b16_by_hand():
    """Also: what the CPU's attention would be missing is 4 %, as cost.py says."""
    with torch.device("meta"):
        macs = cost.macs(vit.vit_b16().eval(), torch.zeros(1, 3, 224, 224))
    n, d = 197, 768
    attention = 12 * 2 * n * n * d
    assert macs == (196 * d * 768 + 12 * 12 * n * d * d + attention + 1000 * d)
    assert f"{attention / macs:.2f}" == "0.04"


def test_meta_and_cpu_count_the_same():
    """One runs two products for softmax attention, the other one kernel."""
    model = vit.ViT(32, patch_size=8, dim=12, layers=2, num_heads=3, hidden=24)
    x = torch.randn(2, 3, 32, 32)
    on_meta = measure(copy.deepcopy(model).to("meta"), x.to("meta"))
    c = measure(model, x, repeats=1)
    assert (c.parameters, c.stored, c.macs) == (
        on_meta.parameters, on_meta.stored, on_meta.macs)
    assert None not in vars(c).values()
    assert list(vars(on_meta).values())[3:] == [None] * 5


# Memory.

def chain():
    """x + 1, + 1, + 1, + 1 with two tensors alive, but once three."""
    def function(x):
        a = x + 1
        b = a + 1
        c = a + b
        del a, b
        return c + 1

    c = memory(Call(function), torch.zeros(1000), training=False)
    assert c.peak_forward == 3 * 1000 * FLOAT


def views():
    """A view or a change in place needs nothing, nor does what was there before."""
    constant = torch.ones(1000)

    def function(x):
        y = (x + constant)[None].transpose(0, 1)
        return y.add_(constant[:, None]).flatten()[10:], constant[5:], x.view(10, 100)

    c = memory(Call(function), torch.zeros(1000), training=False)
    assert c.peak_forward == 1000 * FLOAT


def linear():
    """7 x 100 times 100 x 50: the result, its gradient, and those of the weights."""
    c = memory(nn.Linear(100, 50), torch.zeros(7, 100))
    assert c.peak_forward == 350 * FLOAT
    assert c.peak_training == (350 + 350 + 5000 + 50) * FLOAT
    assert c.kept == 700 * FLOAT


def kept_once():
    """a and b need x, relu and c what relu gave; c's weight is there anyhow."""
    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(100, 50), nn.Linear(100, 20)
            self.c = nn.Linear(50, 20)

        def forward(self, x):
            return self.c(self.a(x).relu()) + self.b(x.view(7, 100))

    assert memory(Three(), torch.zeros(7, 100)).kept == (700 + 350) * FLOAT


def test_peak_of_a_chain():
    chain()


def test_views_need_no_memory():
    views()


def test_memory_of_a_linear_layer():
    linear()


def test_what_the_backward_pass_needs_is_kept_once():
    kept_once()


def test_a_branch_that_the_result_does_not_need_is_not_kept():
    def function(x):
        x.exp().sin()
        return x.exp()

    x = torch.zeros(1000, requires_grad=True)
    assert memory(Call(function), x).kept == 1000 * FLOAT


def test_an_input_with_a_gradient_needs_more():
    x = torch.zeros(7, 100)
    layer = nn.Linear(100, 50)
    more = memory(layer, x.requires_grad_()).peak_training
    assert more == (350 + 350 + 5000 + 50 + 700) * FLOAT and x.grad is None


def test_batchnorm_keeps_its_statistics_and_input_but_not_its_buffers():
    x = torch.randn(7, 11, 3, 5, requires_grad=True)
    assert memory(nn.BatchNorm2d(11), x).kept == (x.numel() + 2 * 11) * FLOAT


def test_other_types():
    x = torch.zeros(1000, dtype=torch.float64)
    assert memory(Call(lambda x: x + x), x, training=False).peak_forward == 8000
    model, x = nn.Linear(100, 50).bfloat16(), torch.zeros(7, 100, dtype=torch.bfloat16)
    assert memory(model, x).kept == 1400


def test_peak_counts_what_an_operation_takes_and_gives_back():
    def function(x):
        return x + torch.cat([x, x, x]).sum()

    c = memory(Call(function), torch.zeros(1000), training=False)
    assert c.peak_forward == (3000 + 1) * FLOAT


def test_nothing_of_the_measurement_reaches_the_screen(capfd):
    with cost.silence():
        os.write(2, b"from below")
    memory(nn.Linear(3, 5), torch.zeros(2, 3))
    os.write(2, b"after")
    assert capfd.readouterr() == ("", "after")


def test_memory_is_the_same_in_every_run():
    model, x = SE(64), torch.randn(2, 64, 7, 5)
    first = memory(model, x)
    assert first.peak_training > first.peak_forward > x.numel() * FLOAT
    for _ in range(3):
        assert memory(model, x) == first


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda():
    """The allocator rounds each tensor up to 512 bytes."""
    x = torch.zeros(1 << 20, device="cuda")
    c = measure(Call(lambda x: x + 1 + 1), x, training=False)
    assert c.peak_forward == 2 * x.numel() * FLOAT and c.seconds_forward > 0
    model, x = SE(64).cuda(), torch.randn(2, 64, 7, 5, device="cuda")
    c, on_cpu = measure(model, x), measure(model.cpu(), x.cpu())
    assert (c.macs, c.kept) == (on_cpu.macs, on_cpu.kept)
    assert c.peak_training >= c.peak_forward > 0
    assert c.seconds_training > 0


# Time.

def test_median_of_turns(monkeypatch):
    """Models take turns, and each is first as often as the others."""
    times, order = iter([5, 10, 70, 1, 3, 90, 20, 6]), []
    clock = iter(t for s in times for t in (0, s))
    monkeypatch.setattr(cost.time, "perf_counter", lambda: next(clock))
    got = cost.medians(lambda model, inputs: order.append(model),
                       {"a": "A", "b": "B"}, (), torch.device("cpu"), 4)
    assert "".join(order) == "ABBAABBA"
    assert got == {"a": (3 + 5) / 2, "b": (20 + 70) / 2}


def test_steps_take_turns_in_an_order_that_changes(monkeypatch):
    order = []
    monkeypatch.setattr(cost, "seconds", lambda step, device, times=1: step() or 1.0)
    steps = {name: partial(order.append, name) for name in "abc"}
    times = cost.turns(steps, torch.device("cpu"), 20)
    assert times == {name: [1.0] * 20 for name in "abc"}
    rounds = ["".join(order[i:i + 3]) for i in range(0, 60, 3)]
    assert all(sorted(turn) == [*"abc"] for turn in rounds)
    assert len(set(rounds)) > 3
    assert Counter(turn[0] for turn in rounds[:18]) == dict.fromkeys("abc", 6)


def test_turns_go_on_until_the_budget_is_spent(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(cost.time, "monotonic", lambda: next(clock))
    times = cost.turns({"a": lambda: None}, torch.device("cpu"), 2, budget=5)
    assert len(times["a"]) == 2 + 4     # the clock is read at the start and after two


def test_a_quick_step_is_repeated_within_its_turn(monkeypatch):
    calls = []
    monkeypatch.setattr(cost, "seconds", lambda step, device, times=1: (
        calls.append(times) or 0.001))
    cost.turns({"a": lambda: None}, torch.device("cpu"), 2, shortest=0.005)
    assert calls == [1, 5, 5]


def test_seconds_divides_by_the_number_of_steps(monkeypatch):
    clock = iter([10.0, 16.0])
    monkeypatch.setattr(cost.time, "perf_counter", lambda: next(clock))
    ran = []
    assert cost.seconds(partial(ran.append, 0), torch.device("cpu"), 3) == 2.0
    assert len(ran) == 3


def test_quartiles_are_of_the_ratios_of_each_turn():
    assert cost.quartiles([1, 4, 9, 16, 25], [1, 2, 3, 4, 5]) == [2, 3, 4]


def test_times_are_of_the_steps_that_they_name():
    log = []

    class Logged(nn.Linear):
        def forward(self, x):
            log.append((self.training, torch.is_grad_enabled()))
            return super().forward(x)

    c = measure(Logged(3, 5), torch.ones(2, 3), repeats=3)
    assert c.seconds_forward > 0 and c.seconds_training > 0
    assert log.count((False, False)) == 1 + 2 + 3       # count, warm up, memory, time
    assert log.count((True, True)) == 2 + 3 + 1         # and what is kept
    assert len(log) == 12
    c = measure(Logged(3, 5), torch.ones(2, 3), repeats=2, training=False)
    assert c.seconds_training is c.peak_training is c.kept is None
    assert measure(Logged(3, 5), torch.ones(2, 3), repeats=0).seconds_forward is None


# What is left behind, and what is refused.

def test_the_model_and_the_inputs_stay_as_they_were():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 5), nn.Dropout())
    model[1].eval()
    x = torch.randn(7, 3, requires_grad=True)
    model[1].weight.grad = torch.ones(5, 3)
    before, random = copy.deepcopy(model), torch.get_rng_state()
    measure(model, x, repeats=2)
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in model.modules()] == [True, True, False, True]
    for name, tensor in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    grads = [p.grad for p in model.parameters()]
    assert sum(g is not None for g in grads) == 1 and x.grad is None
    assert torch.equal(model[1].weight.grad, torch.ones(5, 3))


def test_a_model_that_changes_its_input_changes_a_copy():
    """And inputs that share memory share it in the copy: it is kept once."""
    x = -torch.ones(7, 100)
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(100, 50))
    assert memory(model, x).kept == 700 * FLOAT and (x == -1).all()
    layers = nn.ModuleList([nn.Linear(100, 50), nn.Linear(100, 20)])
    both = Call(lambda x, y: (layers[0](x), layers[1](y)))
    both.layers = layers
    assert memory(both, x, x.view(7, 100)).kept == 700 * FLOAT


def test_several_inputs_and_results_of_any_form():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 5)

        def forward(self, x, scale, index):
            return {"y": [self.linear(x) * scale], "n": index + 1, "name": "a"}

    c = memory(Pair(), torch.ones(2, 3), 0.5, torch.tensor([1]))
    assert c.macs == 30 and c.peak_training > 0


class Elsewhere(torch.Tensor):
    device = torch.device("xla:0")

    @staticmethod
    def __new__(cls, x):
        return x.as_subclass(cls)


TRAIN = "nothing to train: no output of the model needs a gradient; give an input " \
    "with requires_grad=True, or training=False"


@pytest.mark.parametrize("call, message", [
    (lambda x: compare({}, x), "models must have at least one model, got none"),
    (lambda x: measure(nn.Linear(3, 5), x, repeats=-1),
     "repeats must be 0 or more, got repeats=-1"),
    (lambda x: measure(nn.Linear(3, 5, device="meta"), x),
     "models and inputs must be on one device, got cpu, meta"),
    (lambda x: compare({"a": nn.Linear(3, 5), "b": nn.Linear(3, 5, device="meta")}, x),
     "models and inputs must be on one device, got cpu, meta"),
    (lambda x: measure(Call(lambda: 1)),
     "models and inputs must be on one device, got no tensor"),
    (lambda x: cost.where({}, [Elsewhere(x)]),
     "device must be cpu, cuda or meta, got xla:0"),
    (lambda x: measure(nn.ReLU(), x), TRAIN),
    (lambda x: measure(nn.Linear(3, 5).requires_grad_(False), x), TRAIN),
    (lambda x: measure(SE(34, reduction=2), x),
     "x must be (B, 34, H, W), got (2, 3)"),
])
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(torch.ones(2, 3))


def test_an_empty_batch_costs_nothing():
    c = memory(nn.Linear(3, 5), torch.ones(0, 3))
    assert c.macs == c.peak_forward == c.kept == 0


# Text.

def test_table():
    models = {"narrow": nn.Linear(100, 50), "wide layer": nn.Linear(100, 1000)}
    text = table(models, torch.ones(7, 100), repeats=1)
    head, narrow, wide = text.splitlines()
    assert head.split() == ["parameters", "MACs", "peak", "peak,", "train", "kept",
                            "ms", "ms,", "train"]
    assert narrow.split()[:4] == ["narrow", "5,050", "35", "k"]
    assert wide.startswith("wide layer") and "101,000  700 k" in wide
    assert "1.4 kB  23 kB  2.8 kB" in re.sub(" {3,}", "  ", narrow)
    assert len({len(line) for line in text.splitlines()}) == 1
    meta = {name: model.to("meta") for name, model in models.items()}
    assert table(meta, torch.ones(7, 100, device="meta")).count("-") == 10


@pytest.mark.parametrize("number, text", [
    (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (12_345, "12.35 kB"),
    (999_999, "1000 kB"), (1_000_000, "1 MB"), (7_654_321_000, "7.654 GB"), (None, "-"),
])
def test_short(number, text):
    assert cost.short(number, "B") == text


def test_the_docstrings_run():
    failed, tried = doctest.testmod(cost)
    assert tried >= 3 and failed == 0


def test_the_command_measures_networks(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cost", "resnet18"])
    cost.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["resnet18", "11,689,512", "1.814", "G"]
    assert max(map(len, lines)) <= 100
    monkeypatch.setattr(sys, "argv", ["cost", "resnet17"])
    with pytest.raises(SystemExit, match="2"):
        cost.main()
    assert "no network resnet17; there are resnet" in capsys.readouterr().err


# Plausible wrong versions, each with the test that must see it.

def bare_counter(model, *inputs, custom_mapping=None):
    with torch.no_grad(), FlopCounterMode(
        display=False, custom_mapping=custom_mapping
    ) as counter:
        model(*inputs)
    return counter.get_total_flops() // 2


def old_counter(model, *inputs):
    """The counter before torch 2.15, which gave a CPU's attention no operations."""
    operation = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return bare_counter(model, *inputs, custom_mapping={operation: lambda *a, **k: 0})


def every_tensor(model):
    numbers = [p.numel() for p in model.parameters()]
    return sum(numbers), sum(numbers)


def per_name(model):
    state = model.state_dict()
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trainable, sum(t.numel() for t in state.values())


def peak_of(total):
    """A peak that makes something else of the allocator's events."""
    def peak(step, model, inputs, device):
        with profiler.profile(profile_memory=True) as seen:
            step(model, inputs)
        sizes = [e.nbytes() for e in seen.kineto_results.events()
                 if e.name() == "[memory]"]
        return total(sizes)
    return peak


def kept_with(of_parameters, once):
    def kept(model, inputs):
        total, seen = 0, set()
        own = {p.untyped_storage()._cdata for p in model.parameters()}

        def pack(t):
            nonlocal total
            key = t.untyped_storage()._cdata
            if (of_parameters or key not in own) and not (once and key in seen):
                total += t.untyped_storage().nbytes()
            seen.add(key)
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = model(*inputs)
        del y
        return total

    return kept


MUTANTS = {
    "frozen and shared ones, no buffers": ("count", every_tensor, counts),
    "the state dict by name": ("count", per_name, counts),
    "the counter alone, attention":
        ("macs", old_counter, lambda: softmax_attention("cpu", "no_grad", "no mask")),
    "the counter alone, fast path": ("macs", bare_counter, lambda: fused(False)),
    "FLOPs for MACs": ("macs", lambda *a: 2 * bare_counter(*a),
                       lambda: softmax_attention("meta", "grad", "no mask")),
    "nothing is freed": ("peak", peak_of(lambda s: sum(n for n in s if n > 0)), chain),
    "what is left at the end": ("peak", peak_of(sum), chain),
    "the largest": ("peak", peak_of(max), linear),
    "weights are kept": ("kept", kept_with(True, True), kept_once),
    "kept as often as needed": ("kept", kept_with(False, False), kept_once),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_values_catch_it(name, monkeypatch):
    attribute, wrong, check = MUTANTS[name]
    check()
    monkeypatch.setattr(cost, attribute, wrong)
    with pytest.raises(AssertionError):
        check()


def test_the_right_kept_in_the_mutants_clothes_passes(monkeypatch):
    monkeypatch.setattr(cost, "kept", kept_with(False, True))
    kept_once()
