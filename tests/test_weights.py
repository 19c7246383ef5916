"""Weights from elsewhere: the papers' code, torch.nn, and files that do not fit.

timm and torchvision are in test_twins_weights.py.
"""

import doctest
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import cvattn.weights
from benchmarks import official
from cvattn import (
    BAM,
    CBAM,
    SE,
    SK,
    ViT,
    resnet18,
    resnet50,
    resnext50,
    sknet26,
)
from cvattn.book.experiments.bam_variants import BAMVariant
from cvattn.book.experiments.cbam_variants import CBAMVariant
from cvattn.layers import DecoderLayer, EncoderLayer
from cvattn.multihead import MultiHeadAttention
from cvattn.weights import load

OFFICIAL_CBAM = partial(CBAM, official=True)
OFFICIAL_BAM = partial(BAM, official=True)


def scattered(model):
    """The model in eval mode, no parameter and no statistic at its starting value."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, t in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                t.fill_(7)
            elif name.endswith("running_var") or name.endswith("weight") and t.ndim < 2:
                t.uniform_(0.5, 1.5)
            elif t.ndim < 2:
                t.normal_(0, 0.3)
    return model.eval()


def same(theirs, ours, *shape, call=lambda model, x: model(x), state=None):
    """Assert that ours, once loaded, gives what theirs gives."""
    state = scattered(theirs).state_dict() if state is None else state
    assert load(ours.eval(), state) is ours
    x = torch.randn(shape)
    with torch.inference_mode():
        want, got = call(theirs, x), ours(x)
    assert got.shape == want.shape and want.std() > 0.05
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def copied(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def refused(model, state):
    """Return the message; assert that the model is as it was."""
    before = copied(model)
    with pytest.raises(ValueError) as error:
        load(model, state)
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    return str(error.value)


@pytest.mark.parametrize("pool", [None, ("max", "mean"), ("mean", "max")])
def test_official_cbam(pool):
    """Into CBAM, and into its variants that name the order of their maps."""
    ours = OFFICIAL_CBAM(32) if pool is None else CBAMVariant(
        32, bias=True, norm=True, spatial_pool=pool)
    same(official.CBAM(32), ours, 2, 32, 7, 5)


def test_official_bam():
    same(official.BAM(32), OFFICIAL_BAM(32), 2, 32, 7, 5)


def attend(model, x):
    return model(x, x, x)[0]


def test_torch_multihead_attention():
    same(nn.MultiheadAttention(12, 3, batch_first=True),
         MultiHeadAttention(12, num_heads=3, bias=True), 2, 7, 12, call=attend)
    same(nn.MultiheadAttention(12, 3, bias=False, batch_first=True),
         MultiHeadAttention(12, num_heads=3), 2, 7, 12, call=attend)


@pytest.mark.parametrize("norm_first", [False, True])
def test_torch_encoder_layer(norm_first):
    same(nn.TransformerEncoderLayer(12, 3, 20, norm_first=norm_first, batch_first=True),
         EncoderLayer(12, num_heads=3, hidden=20, bias=True, norm_first=norm_first),
         2, 7, 12)


@pytest.mark.parametrize("norm_first", [False, True])
def test_torch_decoder_layer(norm_first):
    theirs = nn.TransformerDecoderLayer(12, 3, 20, norm_first=norm_first,
                                        batch_first=True)
    ours = DecoderLayer(12, num_heads=3, hidden=20, bias=True, norm_first=norm_first)
    load(ours.eval(), scattered(theirs).state_dict())
    x, memory = torch.randn(2, 7, 12), torch.randn(2, 5, 12)
    later = nn.Transformer.generate_square_subsequent_mask(7)
    torch.testing.assert_close(ours(x, memory), theirs(x, memory, tgt_mask=later),
                               rtol=0, atol=1e-5)


WHOLE = [
    partial(SE, 16), partial(OFFICIAL_CBAM, 16), partial(BAM, 16), partial(SK, 32),
    partial(OFFICIAL_BAM, 16), partial(EncoderLayer, 12, num_heads=3, bias=True),
    partial(DecoderLayer, 12, num_heads=3),
    partial(ViT, 32, dim=12, layers=2, num_heads=3, hidden=24),
    partial(resnet18, CBAM), partial(resnet50, BAM, place="stage"),
    partial(resnext50, SE), sknet26,
]


@pytest.mark.parametrize("build", WHOLE)
def test_our_own_names_stay(build):
    with torch.device("meta"):
        own = build().state_dict()
    for name, tensor in own.items():
        assert list(cvattn.weights.renamed(name, tensor)) == [name]


def test_our_own_weights_load():
    first, second = scattered(OFFICIAL_CBAM(32)), OFFICIAL_CBAM(32)
    load(second, first.state_dict())
    for mine, theirs in zip(second.state_dict().values(), first.state_dict().values(),
                            strict=True):
        assert torch.equal(mine, theirs)


def test_the_prefix_of_data_parallel_is_dropped():
    theirs = scattered(official.CBAM(32))
    state = nn.DataParallel(theirs).state_dict()
    assert all(name.startswith("module.") for name in state)
    same(theirs, OFFICIAL_CBAM(32), 2, 32, 7, 5, state=state)


def se_state():
    return scattered(SE(8, reduction=2, bias=True)).state_dict()


PREFIXES = ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.",
            "module.module.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_prefixes_of_wrappers_are_dropped(prefix):
    theirs, ours = scattered(official.CBAM(32)), OFFICIAL_CBAM(32)
    state = {prefix + name: t for name, t in theirs.state_dict().items()}
    same(theirs, ours, 2, 32, 7, 5, state=state)


def test_wrappers_inside_a_name_and_around_the_model():
    state = {name.replace("channel.", "channel._orig_mod."): t
             for name, t in scattered(CBAM(32)).state_dict().items()}
    load(CBAM(32), state)
    wrapped = nn.DataParallel(CBAMVariant(32, spatial_pool=("max", "mean")))
    theirs = {"channel.fc1.weight": state["channel._orig_mod.W0.weight"],
              "channel.fc2.weight": state["channel._orig_mod.W1.weight"],
              "spatial.conv.conv.weight": state["spatial.f.weight"]}
    load(wrapped, theirs)
    turned = wrapped.module.spatial.f.weight.flip(1)
    assert torch.equal(turned, state["spatial.f.weight"])


def test_an_average_of_weights():
    model = SE(8, reduction=2, bias=True)
    mean = torch.optim.swa_utils.AveragedModel(model)
    mean.update_parameters(model)
    load(SE(8, reduction=2, bias=True), mean.state_dict())


def test_a_prefix_that_is_nobodys_gets_a_hint():
    message = refused(SE(8, reduction=2, bias=True),
                      {f"backbone.{name}": t for name, t in se_state().items()})
    assert message.splitlines()[1] == (
        "each of their names begins with 'backbone.': give the state without it")


def test_the_names_of_moskomules_se():
    """SELayer's Sequential of linear, ReLU, linear, sigmoid; in a network, `se`."""
    first, second = resnet18(SE, num_classes=3), resnet18(SE, num_classes=3)
    state = {name.replace("attention.W1", "se.fc.0").replace("attention.W2", "se.fc.2"):
             t for name, t in scattered(first).state_dict().items()}
    assert "layer1.0.se.fc.0.weight" in state
    load(second, state)
    assert all(map(torch.equal, second.state_dict().values(),
                   first.state_dict().values()))
    load(SE(8, reduction=2), {"fc.0.weight": torch.ones(4, 8),
                              "fc.2.weight": torch.ones(8, 4)})
    with torch.device("meta"):
        assert sum(p.numel() for p in resnet50(SE).parameters()) == 28_071_976


def test_a_name_that_the_model_has_is_its_own():
    net = nn.Module()
    net.fc = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    load(net, {name: t + 1 for name, t in copied(net).items()})


@pytest.mark.parametrize("state", ["se.pt", Path("se.pt")])
def test_a_path_gets_a_hint(state):
    assert refused(SE(8, reduction=2), state) == (
        f"state must map names to tensors, got {type(state).__name__}; "
        "of a file, give torch.load(path, weights_only=True)")


STRANGE = {
    "int64": lambda t: t.long(), "bool": lambda t: t > 0,
    "complex": lambda t: t.to(torch.complex64), "meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "quantised": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", STRANGE)
def test_other_kinds_of_numbers_are_refused(kind):
    for name in se_state():
        state = se_state()
        state[name] = STRANGE[kind](state[name])
        message = refused(SE(8, reduction=2, bias=True), state)
        assert f"\nkind: {name} is " in message


def test_a_count_of_batches_that_is_no_integer():
    state = OFFICIAL_CBAM(32).state_dict()
    state["spatial.norm.num_batches_tracked"] = torch.tensor(3.0)
    assert refused(OFFICIAL_CBAM(32), state).endswith(
        "kind: spatial.norm.num_batches_tracked is torch.float32, the model's "
        "torch.int64")


def test_a_model_without_numbers_is_refused():
    with torch.device("meta"):
        model = SE(8, reduction=2, bias=True)
    with pytest.raises(ValueError, match="^model must hold numbers, got one on the meta"
                       r" device: call its to_empty\(device=…\) first$"):
        load(model, se_state())
    load(model.to_empty(device="cpu"), se_state())
    assert torch.equal(model.W1.weight, se_state()["W1.weight"])


@pytest.mark.parametrize("error, seen", [(RuntimeError, ValueError),
                                         (KeyboardInterrupt, KeyboardInterrupt)])
def test_a_copy_that_breaks_at_any_tensor_leaves_the_model_as_it_was(
        monkeypatch, error, seen):
    state, copy_ = scattered(OFFICIAL_BAM(16)).state_dict(), torch.Tensor.copy_
    for broken in range(len(state)):
        model = OFFICIAL_BAM(16)
        before, calls = copied(model), iter(range(10**6))

        def breaking(self, *args, broken=broken, calls=calls, **kwargs):
            if next(calls) == broken:
                raise error("no memory")
            return copy_(self, *args, **kwargs)

        with monkeypatch.context() as patched, pytest.raises(seen):
            patched.setattr(torch.Tensor, "copy_", breaking)
            load(model, state)
        assert next(calls) > broken
        assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("options", [
    {"order": "spatial-channel"}, {"order": "parallel"}, {"channel_pool": ("mean",)},
    {"channel_pool": ("max",)}])
@pytest.mark.parametrize("whose", ["official", "timm"])
def test_other_orders_and_pools_of_cbam_are_refused(options, whose):
    state = official.CBAM(32).state_dict()
    if whose == "timm":         # in its names
        for theirs, name in (("ChannelGate.mlp.1", "channel.fc1"),
                             ("ChannelGate.mlp.3", "channel.fc2"),
                             ("SpatialGate.spatial.conv", "spatial.conv.conv"),
                             ("SpatialGate.spatial.bn", "spatial.conv.bn")):
            state = {n.replace(theirs, name): t for n, t in state.items()}
    assert load(CBAMVariant(32, bias=True, norm=True, channel_pool=("max", "mean")),
                state)
    message = refused(CBAMVariant(32, bias=True, norm=True, **options), state)
    assert message.splitlines()[1:] == [
        "CBAM's files take means and maxima, channels before places, CBAMVariant does "
        "not"]


def test_a_file_from_before_num_batches_tracked():
    theirs, ours = scattered(official.BAM(32)), OFFICIAL_BAM(32)
    state = {name: t for name, t in theirs.state_dict().items()
             if not name.endswith("num_batches_tracked")}
    same(theirs, ours, 2, 32, 7, 5, state=state)
    assert ours.channel.norm.num_batches_tracked == 0
    one = "channel_att.gate_c.gate_c_bn_1.num_batches_tracked"
    message = refused(ours, state | {one: torch.tensor(7)})
    assert message.count("missing: ") == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_model_keeps_its_type_and_shares_no_memory(dtype):
    ours, theirs = SE(8, reduction=2).to(dtype), SE(8, reduction=2)
    state = theirs.state_dict()
    load(ours, state)
    assert ours.W1.weight.dtype == dtype
    state["W1.weight"].zero_()
    assert ours.W1.weight.abs().max() > 0


def test_what_does_not_fit_is_listed_and_nothing_is_loaded():
    state = {"fc1.weight": torch.ones(4, 8), "fc1.bias": torch.ones(4),
             "fc2.weight": torch.ones(8, 2, 1, 1), "pool.scale": torch.ones(())}
    assert refused(SE(8, reduction=2, bias=True), state) == (
        "the weights do not fit:\n"
        "missing: W2.bias\n"
        "shape: W2.weight (their fc2.weight) is (8, 2, 1, 1), the model's (8, 4)\n"
        "unexpected: pool.scale"
    )


def test_a_kernel_of_3_is_not_a_linear_layer():
    state = {"fc1.weight": torch.ones(4, 8, 3, 3), "fc2.weight": torch.ones(8, 4, 1)}
    assert refused(SE(8, reduction=2), state) == (
        "the weights do not fit:\n"
        "shape: W1.weight (their fc1.weight) is (4, 8, 3, 3), the model's (4, 8)\n"
        "shape: W2.weight (their fc2.weight) is (8, 4, 1), the model's (8, 4)"
    )


def test_two_names_for_one_of_ours():
    state = SE(8, reduction=2).state_dict() | {"fc1.weight": torch.ones(4, 8)}
    assert refused(SE(8, reduction=2), state) == (
        "the weights do not fit:\n"
        "twice: W1.weight (their fc1.weight), also from W1.weight"
    )


@pytest.mark.parametrize("state, got", [
    ({"epoch": 3, "state_dict": {}}, "'epoch': int"),
    ({0: torch.ones(1)}, "0: Tensor"),
])
def test_a_checkpoint_is_not_a_state_dict(state, got):
    assert refused(SE(8, reduction=2), state) == (
        f"state must map names to tensors, got {got}; in a checkpoint they are often "
        "under 'state_dict' or 'model'"
    )


def test_nothing_is_not_enough():
    assert refused(SE(8, reduction=2), {}) == (
        "the weights do not fit:\nmissing: W1.weight\nmissing: W2.weight")


@pytest.mark.parametrize("shape", [(7, 12), (36,), ()])
def test_a_stack_of_q_k_and_v_that_is_none(shape):
    state = nn.MultiheadAttention(12, 3).state_dict()
    message = refused(MultiHeadAttention(12, num_heads=3, bias=True),
                      state | {"in_proj_weight": torch.ones(shape)})
    assert "shape: W_Q.weight (their in_proj_weight) is (" in message
    assert ", the model's (12, 12)" in message


def test_official_bam_needs_the_product():
    state = official.BAM(32).state_dict()
    for combine in ("sum", "max"):
        ours = BAMVariant(32, combine=combine, norm="hidden")
        assert refused(ours, state) == (
            "the weights do not fit:\n"
            "official BAM multiplies Mc and Ms, BAMVariant does not"
        )
    for ours in (BAM(32), BAMVariant(32, combine="product")):
        assert "shape: channel.norm.weight" in refused(ours, state)
    assert "official BAM multiplies Mc and Ms, BAM does not" in refused(BAM(32), state)
    assert load(BAMVariant(32, combine="product", norm="hidden"), state)


def test_official_cbam_does_not_fit_every_variant():
    state = official.CBAM(32).state_dict()
    for options, problem in (
            ({"order": "channel"}, "unexpected: spatial.f.weight"),
            ({"order": "spatial"}, "unexpected: channel.W0.weight"),
            ({"spatial_pool": ("max",)}, "shape: spatial.f.weight"),
            ({"spatial_pool": "conv"}, "missing: spatial.f0.weight"),
            ({"norm": False}, "unexpected: spatial.norm.weight"),
            ({"bias": False}, "unexpected: channel.W0.bias")):
        ours = CBAMVariant(32, **{"bias": True, "norm": True, **options})
        assert problem in refused(ours, state)


def test_official_cbam_needs_bias_and_norm():
    message = refused(CBAM(32), official.CBAM(32).state_dict())
    kinds = Counter(line.split(": ")[0] for line in message.splitlines()[1:])
    assert kinds == {"unexpected": 7}


@given(st.data())
def test_what_is_left_out_is_what_is_missing(data):
    state = SK(32).state_dict()
    kept = data.draw(st.sets(st.sampled_from(sorted(state)), max_size=len(state) - 1))
    missing = state.keys() - kept
    counted = any("num_batches" in name for name in kept)
    missing = {n for n in missing if counted or "num_batches" not in n}
    if not missing:
        load(SK(32), {n: state[n] for n in kept})
        return
    message = refused(SK(32), {n: state[n] for n in kept})
    assert set(message.splitlines()[1:]) == {f"missing: {name}" for name in missing}


@given(st.integers(1, 5), st.integers(1, 4), st.booleans(), st.booleans())
def test_linear_layers_and_1x1_convolutions(hidden, reduction, bias, conv):
    theirs = SE(hidden * reduction, reduction=reduction, bias=bias)
    state = {name.replace("W", "fc"): t[..., None, None] if conv and t.ndim == 2 else t
             for name, t in theirs.state_dict().items()}
    ours = load(SE(hidden * reduction, reduction=reduction, bias=bias), state)
    x = torch.randn(2, hidden * reduction, 3, 5)
    assert torch.equal(ours(x), theirs(x))


# Plausible wrong tables: each loads without a word, and a comparison must catch it.
def swapped(a, b):
    """NAMES with two of our names in each other's place."""
    other = {a: b, b: a}
    return {"NAMES": [(theirs, other.get(ours, ours))
                      for theirs, ours in cvattn.weights.NAMES]}


def turned(order):
    return {"POOLS": {key: order for key in cvattn.weights.POOLS}}


def other_stack(order):
    def renamed(theirs, tensor, right=cvattn.weights.renamed):
        found = right(theirs, tensor)
        if len(found) == 1:
            return found
        names = [next(n for n in found if f"W_{x}" in n) for x in order]
        return dict(zip(names, found.values(), strict=True))
    return {"renamed": renamed}


MUTANTS = {
    "CBAM's maps in the order of timm": (turned(("mean", "max")), test_official_cbam),
    "CBAM's maps never turned": (turned(None), test_official_cbam),
    "BAM's dilated convolutions swapped":
        (swapped("spatial.f1", "spatial.f2"), test_official_bam),
    "BAM's norms swapped":
        (swapped("spatial.norm0", "spatial.norm2"), test_official_bam),
    "keys for queries": (other_stack("KQV"), test_torch_multihead_attention),
    "values for keys": (other_stack("QVK"), test_torch_multihead_attention),
    "self-attention for cross-attention":
        (swapped("attention", "cross"), partial(test_torch_decoder_layer, False)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_table_is_seen(monkeypatch, name):
    table, test = MUTANTS[name]
    for attribute, wrong in table.items():
        monkeypatch.setattr(cvattn.weights, attribute, wrong)
    pools = [None, ("max", "mean"), ("mean", "max")]
    with pytest.raises(AssertionError):
        if test is test_official_cbam:
            for pool in pools:
                test(pool)
        else:
            test()


def test_the_docstring_runs():
    failed, tried = doctest.testmod(cvattn.weights)
    assert tried >= 1 and failed == 0
