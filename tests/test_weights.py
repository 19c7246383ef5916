"""Weights from elsewhere: the papers' code, torch.nn, and files that do not fit.

timm and torchvision are in test_twins_weights.py.
"""

import doctest
from collections import Counter
from functools import partial

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
