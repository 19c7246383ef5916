"""Transformer: values, gradients, masks, twins of torch.nn, the paper's Table 3."""

import copy
import doctest
import inspect
import itertools
import math
import pickle
import re

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import cvattn.layers
import cvattn.multihead
import cvattn.recipe
import cvattn.transformer
from cvattn.layers import DecoderLayer, EncoderLayer, FeedForward
from cvattn.multihead import (
    MultiHeadAttention,
    attention,
    causal_mask,
    weights,
)
from cvattn.recipe import label_smoothing, warmup
from cvattn.transformer import PositionalEncoding, Transformer

N, M, D, HEADS, HIDDEN = 3, 7, 10, 2, 13       # d_k = 5
BATCHES = [1, 2, 5]
batches = pytest.mark.parametrize("b", BATCHES)
both_norms = pytest.mark.parametrize("norm_first", [False, True])
with_and_without_bias = pytest.mark.parametrize("bias", [False, True])


@pytest.fixture(autouse=True)
def float64():
    """The reference's type, also for the table of positions."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def rand(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(cls, *args, **kwargs):
    """A module in eval whose weights all matter: no norm is 1, no bias 0."""
    torch.manual_seed(0)
    module = cls(*args, **kwargs).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) * (0.4 if p.ndim > 1 else 0.7))
    return module


def array(t):
    return t.detach().numpy()


def heads_of(mha):
    """The matrices and biases of a MultiHeadAttention as reference.multi_head's."""
    w = {}
    for s in "QKVO":
        layer = getattr(mha, "W_" + s)
        w["W_" + s] = array(layer.weight)
        if layer.bias is not None:
            w["b_" + s] = array(layer.bias)
    return w


def layer_of(layer):
    """An EncoderLayer or a DecoderLayer as the reference's w."""
    ffn = layer.feed_forward
    w = {"attention": heads_of(layer.attention),
         "ffn": {"W1": array(ffn.W1.weight), "b1": array(ffn.W1.bias),
                 "W2": array(ffn.W2.weight), "b2": array(ffn.W2.bias)}}
    if hasattr(layer, "cross"):
        w["cross"] = heads_of(layer.cross)
    for name, norm in layer.named_children():
        if isinstance(norm, nn.LayerNorm):
            w[name] = array(norm.weight), array(norm.bias)
    return w


def masks(*shape, seed=2):
    """A mask of which one row of the first picture sees nothing."""
    mask = rand(*shape, seed=seed) > -0.3
    mask[..., 0] |= ~mask.any(dim=-1)
    mask[0, 0, 1] = False
    return mask


def same(got, want, atol=1e-12):
    np.testing.assert_allclose(array(got), want, rtol=0, atol=atol)


def same_gradient(module, inputs, slow):
    """Assert that autograd's slopes are those of differences of the reference.

    slow() computes the reference from the present values of inputs and parameters;
    each of these is moved in one random direction, in place.
    """
    inputs = [x.requires_grad_() for x in inputs]
    y = module(*inputs)
    g = rand(*y.shape, seed=3)
    y.backward(g)
    for i, p in enumerate([*inputs, *getattr(module, "parameters", tuple)()]):
        step, ends = rand(*p.shape, seed=4 + i), []
        with torch.no_grad():
            for move in (1e-6, -2e-6, 1e-6):
                p += move * step
                ends.append((array(g) * slow()).sum())
        want = (ends[0] - ends[1]) / 2e-6
        assert (p.grad * step).sum().item() == pytest.approx(want, rel=1e-6, abs=1e-6)


def stack(f, *batches):
    """Apply f to each picture of arrays or tensors, or None for each."""
    return np.stack([
        f(*(None if t is None else array(t[b]) for t in batches))
        for b in range(len(batches[0]))])


# Values and gradients.

def mha_case(b, cross, masked, **kwargs):
    """A module, its inputs, and the reference of them."""
    mha = seeded(MultiHeadAttention, D, num_heads=HEADS, **kwargs)
    inputs = [rand(b, N, D)] + [rand(b, M, D, seed=5)] * cross
    mask = masks(b, HEADS, N, M if cross else N) if masked else None

    def slow(which=0):
        w = heads_of(mha)
        return stack(lambda x, c, m: reference.multi_head(x, c, w, HEADS, m)[which],
                     inputs[0], inputs[-1], mask)

    return mha, inputs, mask, slow


def same_mha(cls, b, cross, masked, **kwargs):
    """Assert that cls, MultiHeadAttention or a mutant of it, is the reference's."""
    _, inputs, mask, slow = mha_case(b, cross, masked, **kwargs)
    mha = seeded(cls, D, num_heads=HEADS, **kwargs)
    same(mha(*inputs, mask=mask), slow())
    same(mha.weights(*inputs, mask=mask), slow(1))


@batches
@with_and_without_bias
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cross", [False, True])
def test_multi_head_equals_the_reference(b, cross, masked, bias):
    same_mha(MultiHeadAttention, b, cross, masked, bias=bias)


@batches
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cross", [False, True])
def test_gradient_of_multi_head(b, cross, masked):
    mha, inputs, mask, slow = mha_case(b, cross, masked, bias=True)
    forward = mha.forward
    mha.forward = lambda *a: forward(*a, mask=mask)
    same_gradient(mha, inputs, slow)


def test_queries_and_keys_of_another_width():
    same_mha(MultiHeadAttention, 2, True, True, key_dim=11, bias=True)
    assert MultiHeadAttention(D, num_heads=2, key_dim=11).W_K.out_features == 22


@batches
@pytest.mark.parametrize("masked", [False, True])
def test_attention_and_weights_equal_the_reference(b, masked):
    q, k, v = rand(b, N, 5), rand(b, M, 5, seed=2), rand(b, M, 11, seed=3)
    mask = masks(b, 1, N, M)[:, 0] if masked else None
    same(attention(q, k, v, mask), stack(reference.attention, q, k, v, mask))
    same(weights(q, k, mask), stack(reference.attention_weights, q, k, mask))
    same_gradient(lambda q, k, v: attention(q, k, v, mask), [q, k, v],
                  lambda: stack(reference.attention, q, k, v, mask))
    q, k = q.detach(), k.detach()
    same_gradient(lambda q, k: weights(q, k, mask), [q, k],
                  lambda: stack(reference.attention_weights, q, k, mask))


@pytest.mark.parametrize("d", [1, 2, 7, 22])
def test_positions_equal_the_reference(d):
    x = rand(2, 13, d)
    module = PositionalEncoding(d, max_length=17).eval()
    same(module(x), array(x) + reference.positional_encoding(13, d))
    same(module(x[:, 4:], start=4), array(module(x))[:, 4:])
    assert not module.state_dict()


@batches
def test_feed_forward_equals_the_reference(b):
    ffn, x = seeded(FeedForward, D, hidden=HIDDEN), rand(b, N, D)
    w = {name.replace(".weight", "").replace("W1.bias", "b1").replace("W2.bias", "b2"):
         array(p) for name, p in ffn.named_parameters()}
    same(ffn(x), stack(lambda x: reference.feed_forward(x, w), x))
    same_gradient(ffn, [x], lambda: stack(lambda x: reference.feed_forward(x, w), x))


def same_encoder(cls, b, norm_first, masked=True, gradient=False):
    layer = seeded(cls, D, num_heads=HEADS, hidden=HIDDEN, norm_first=norm_first,
                   bias=True)
    x, mask = rand(b, N, D), masks(b, HEADS, N, N) if masked else None

    def slow():
        w = layer_of(layer)
        return stack(lambda x, m: reference.encoder_layer(x, w, HEADS, m, norm_first),
                     x, mask)

    same(layer(x, mask=mask), slow(), atol=1e-11)
    if gradient:
        forward = layer.forward
        layer.forward = lambda x: forward(x, mask=mask)
        same_gradient(layer, [x], slow)


@batches
@both_norms
@pytest.mark.parametrize("masked", [False, True])
def test_encoder_layer_equals_the_reference(b, norm_first, masked):
    same_encoder(EncoderLayer, b, norm_first, masked, gradient=True)


def same_decoder(cls, b, norm_first, masked=True, gradient=False):
    layer = seeded(cls, D, num_heads=HEADS, hidden=HIDDEN, norm_first=norm_first)
    x, memory = rand(b, N, D), rand(b, M, D, seed=5)
    mask = masks(b, HEADS, N, N) if masked else None
    memory_mask = masks(b, HEADS, N, M, seed=6) if masked else None

    def slow():
        w = layer_of(layer)
        return stack(lambda *a: reference.decoder_layer(
            *a[:2], w, HEADS, *a[2:], norm_first), x, memory, mask, memory_mask)

    same(layer(x, memory, mask=mask, memory_mask=memory_mask), slow(), atol=1e-11)
    if gradient:
        forward = layer.forward
        layer.forward = lambda *a: forward(*a, mask=mask, memory_mask=memory_mask)
        same_gradient(layer, [x, memory], slow)


@batches
@both_norms
@pytest.mark.parametrize("masked", [False, True])
def test_decoder_layer_equals_the_reference(b, norm_first, masked):
    same_decoder(DecoderLayer, b, norm_first, masked, gradient=True)


def small(cls=Transformer, vocabulary=11, **kwargs):
    return seeded(cls, vocabulary, dim=6, num_heads=2, hidden=5,
                  **{"layers": 2, **kwargs})


def ids(b, n, low=1, seed=1, vocabulary=11):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, vocabulary, (b, n), generator=generator)


def padded(b):
    """A source and a target whose last ones end in padding, of id 0."""
    source, target = ids(b, 7), ids(b, 5, seed=2)
    source[-1, 4:], target[-1, 3:] = 0, 0
    return source, target


def same_transformer(cls, b, norm_first=False, gradient=False):
    model, (source, target) = small(cls, norm_first=norm_first), padded(b)

    def slow():
        norms = [(array(n.weight), array(n.bias)) for n in
                 (model.encoder_norm, model.decoder_norm)] if norm_first else None
        return stack(lambda s, t: reference.transformer(
            s, t, array(model.embedding.weight), [layer_of(x) for x in model.encoder],
            [layer_of(x) for x in model.decoder], 2, 0, norms), source, target)

    same(model(source, target), slow(), atol=1e-11)
    if gradient:
        forward = model.forward
        model.forward = lambda: forward(source, target)
        same_gradient(model, [], slow)


@batches
@both_norms
def test_transformer_equals_the_reference(b, norm_first):
    same_transformer(Transformer, b, norm_first, gradient=b == 1)


# Masks.

def blind(n, m):
    mask = torch.ones(n, m, dtype=torch.bool)
    mask[1] = False
    return mask


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("look", [
    attention, lambda q, k, v, mask, **kw: weights(q, k, mask, **kw) @ v])
def test_who_may_look_nowhere_gets_zeros_and_sends_no_gradient(look, dtype):
    q, k, v = (rand(2, 3, n, 8, seed=n).to(dtype).requires_grad_() for n in (3, 7, 7))
    y = look(q, k, v, blind(3, 7))
    assert (y[:, :, 1] == 0).all() and (y[:, :, [0, 2]] != 0).all()
    y.sum().backward()
    assert all(t.grad.isfinite().all() for t in (q, k, v))
    assert (q.grad[:, :, 1] == 0).all() and (q.grad[:, :, [0, 2]] != 0).any()
    k.grad = v.grad = None
    with torch.autograd.detect_anomaly(check_nan=True):      # none on the way, either
        look(q, k, v, torch.zeros(3, 7, dtype=torch.bool)).sum().backward()
    assert (k.grad == 0).all() and (v.grad == 0).all()


def test_no_nan_also_where_the_fused_kernel_gives_it(monkeypatch):
    """As some kernels of torch 2.4 do, for a row of the mask without any True."""
    fused = F.scaled_dot_product_attention

    def old(q, k, v, attn_mask=None, **kwargs):
        y = fused(q, k, v, attn_mask=attn_mask, **kwargs)
        return y.masked_fill(~attn_mask.any(dim=-1, keepdim=True), torch.nan)

    monkeypatch.setattr(F, "scaled_dot_product_attention", old)
    q, k, v = (rand(2, n, 8, seed=n).requires_grad_() for n in (3, 7, 7))
    assert F.scaled_dot_product_attention(q, k, v, blind(3, 7)).isnan().any()
    y = attention(q, k, v, blind(3, 7))
    assert y.isfinite().all() and (y[:, 1] == 0).all()
    y.sum().backward()
    assert q.grad.isfinite().all() and k.grad.isfinite().all()


def test_hidden_keys_and_values_do_not_matter_to_the_last_bit():
    x, c = rand(2, N, D), rand(2, M, D, seed=5)
    mha = seeded(MultiHeadAttention, D, num_heads=HEADS)
    mask = (torch.arange(M) < 4)[None, None, None]
    changed = c.clone()
    changed[:, 4:] = 1e3 * rand(2, 3, D, seed=9)
    assert torch.equal(mha(x, c, mask=mask), mha(x, changed, mask=mask))
    assert torch.equal(mha.weights(x, c, mask=mask), mha.weights(x, changed, mask=mask))
    c.requires_grad_()
    mha(x, c, mask=mask).square().sum().backward()
    assert (c.grad[:, 4:] == 0).all() and (c.grad[:, :4] != 0).any()
    assert (mha.weights(x, c, mask=mask)[..., 4:] == 0).all()


@both_norms
@pytest.mark.parametrize("kind", ["encoder", "decoder", "attention"])
def test_a_later_token_changes_nothing_before_it(kind, norm_first):
    x, memory = rand(2, 5, D), rand(2, M, D, seed=5)
    if kind == "attention":
        module = seeded(MultiHeadAttention, D, num_heads=HEADS)
        call = lambda x: module(x, causal=True)                         # noqa: E731
    elif kind == "encoder":
        module = seeded(EncoderLayer, D, num_heads=HEADS, norm_first=norm_first)
        call = lambda x: module(x, causal=True)                         # noqa: E731
    else:
        module = seeded(DecoderLayer, D, num_heads=HEADS, norm_first=norm_first)
        call = lambda x: module(x, memory)                              # noqa: E731
    for n in range(1, 5):
        changed = x.clone()
        changed[:, n:] = rand(2, 5 - n, D, seed=8)
        assert torch.equal(call(x)[:, :n], call(changed)[:, :n])
        assert (call(x)[:, n] != call(changed)[:, n]).any(), "a token sees itself"
        got = x.clone().requires_grad_()
        call(got)[:, n - 1].sum().backward()
        assert (got.grad[:, n:] == 0).all() and (got.grad[:, n - 1] != 0).any()


@pytest.mark.parametrize("pad", [0, None])
def test_transformer_is_causal(pad):
    model, source, target = small(pad=pad), ids(2, 7), ids(2, 5, seed=2)
    for n in range(1, 5):
        changed = target.clone()
        changed[:, n:] = target[:, n:] % 10 + 1
        y, z = model(source, target), model(source, changed)
        assert torch.equal(y[:, :n], z[:, :n]) and (y[:, n] != z[:, n]).any()


def test_padding_cannot_be_seen_in_a_transformer():
    """Whatever stands in padding's row of E, the other tokens' results are the same."""
    model, (source, target) = small(), padded(3)
    y = model(source, target)[:, :, 1:]
    with torch.no_grad():
        model.embedding.weight[0] = 100 * rand(6)
    z = model(source, target)[:, :, 1:]
    real = target != 0
    assert torch.equal(y[real], z[real]) and not torch.equal(y[~real], z[~real])
    model(source, target)[:, :, 1:][real].square().sum().backward()
    assert (model.embedding.weight.grad[0] == 0).all()


def test_padding_changes_nothing():
    """More of it, or less, and where in the target it stands."""
    model, (source, target) = small(), padded(3)
    y = model(source, target)
    more = F.pad(source, (0, 4)), F.pad(target, (0, 2))
    same(model(*more)[:, :5], array(y))
    same(model(source[2:, :4], target[2:, :3]), array(y)[2:, :3])


def test_an_unpadded_model_has_no_padding():
    model, (source, target) = small(pad=None), padded(3)
    assert model.encode(source)[1] is None
    assert not torch.allclose(model(source, target), small()(source, target))


@pytest.mark.parametrize("n, past", [(1, 0), (5, 0), (3, 4), (1, 4)])
def test_causal_mask(n, past):
    want = [[m <= past + i for m in range(past + n)] for i in range(n)]
    assert causal_mask(n, past=past).tolist() == want
    q, k, v = rand(2, n, 4), rand(2, past + n, 4), rand(2, past + n, 4, seed=2)
    mask = causal_mask(n, past=past)
    same(attention(q, k, v, causal=True), array(attention(q, k, v, mask)))
    same(weights(q, k, causal=True), array(weights(q, k, mask)))
    some = rand(n, past + n, seed=7) > 0
    same(attention(q, k, v, some, causal=True), array(attention(q, k, v, some & mask)))


# Properties.

def test_weights_sum_to_1_and_are_what_forward_uses():
    mha, x = seeded(MultiHeadAttention, D, num_heads=HEADS), rand(2, M, D)
    A = mha.weights(x)
    assert A.shape == (2, HEADS, M, M) and (A > 0).all() and A.std() > 0.05
    same(A.sum(-1), np.ones((2, HEADS, M)))
    y = (A @ mha.heads(mha.W_V(x))).transpose(1, 2).flatten(2)
    same(mha(x), array(mha.W_O(y)))


@both_norms
def test_weights_of_a_layer_are_those_that_forward_uses(norm_first, monkeypatch):
    used = []

    def spy(q, k, v, mask=None, *, causal=False, dropout=0.0):
        used.append(weights(q, k, mask, causal=causal))
        return attention(q, k, v, mask, causal=causal, dropout=dropout)

    monkeypatch.setattr(cvattn.multihead, "attention", spy)
    x, memory = rand(2, N, D), rand(2, M, D, seed=5)
    mask, memory_mask = masks(2, HEADS, N, N), masks(2, HEADS, N, M, seed=6)
    for cls in (MultiHeadAttention, EncoderLayer):
        kwargs = {} if cls is MultiHeadAttention else {"norm_first": norm_first}
        layer = seeded(cls, D, num_heads=HEADS, **kwargs)
        for causal in (False, True):
            layer(x, mask=mask, causal=causal)
            assert torch.equal(used[-1], layer.weights(x, mask=mask, causal=causal))
        assert not torch.equal(used[-1], used[-2])
    layer = seeded(DecoderLayer, D, num_heads=HEADS, norm_first=norm_first)
    layer(x, memory, mask=mask, memory_mask=memory_mask)
    own, cross = used[-2:]
    assert torch.equal(cross, layer.weights(
        x, memory, mask=mask, memory_mask=memory_mask))
    x = layer.norm1(x) if norm_first else x
    assert torch.equal(own, layer.attention.weights(x, mask=mask, causal=True))


def test_without_positions_the_order_only_moves_the_result():
    layer, x = seeded(EncoderLayer, D, num_heads=HEADS), rand(2, M, D)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    same(layer(x[:, order]), array(layer(x)[:, order]))
    positions = PositionalEncoding(D).eval()
    moved = layer(positions(x[:, order])) - layer(positions(x))[:, order]
    assert moved.abs().max() > 0.1


def test_positions_further_on_are_rotated():
    PE = PositionalEncoding(22).PE
    for k in (1, 7, 100):
        w = 10000 ** -(torch.arange(0, 22, 2) / 22)
        sin, cos = (k * w).sin(), (k * w).cos()
        s, c = PE[:50, 0::2], PE[:50, 1::2]
        torch.testing.assert_close(PE[k:50 + k, 0::2], s * cos + c * sin)
        torch.testing.assert_close(PE[k:50 + k, 1::2], c * cos - s * sin)
    assert torch.equal(PE[0, 0::2], torch.zeros(11)) and (PE[0, 1::2] == 1).all()


@pytest.mark.parametrize("d_k", [4, 64])
def test_dividing_by_the_root_of_d_k_keeps_the_variance_at_1(d_k):
    """The paper's footnote 4: of q.k it is d_k, for q and k of variance 1."""
    dots = (rand(100_000, d_k) * rand(100_000, d_k, seed=2)).sum(dim=1)
    assert dots.var().item() == pytest.approx(d_k, rel=0.05)
    q, k = rand(200, d_k), rand(200, d_k, seed=2)
    log_A = weights(q, k).log()
    scores = log_A - log_A.mean(dim=1, keepdim=True)
    assert scores.var().item() == pytest.approx(1, rel=0.1)


def test_embeddings_are_shared_by_source_target_and_logits():
    model = small()
    assert [n for n, p in model.named_parameters() if 11 in p.shape] == [
        "embedding.weight"]
    assert len({k for k in model.state_dict() if "embedding" in k}) == 1
    torch.manual_seed(0)
    E = Transformer(1000, dim=64, hidden=1, layers=1).embedding.weight
    assert (E.std() * 8).item() == pytest.approx(1, rel=0.02)


def test_only_the_norm_first_form_has_a_norm_after_its_stacks():
    source, target = ids(2, 7), ids(2, 5, seed=2)
    assert not any(isinstance(m, nn.LayerNorm) for m in small().children())
    memory, _ = small().encode(source)
    last = small().encoder[-1].norm2
    unscaled = (memory - last.bias) / last.weight
    same(unscaled.mean(-1), np.zeros((2, 7)))
    model = small(norm_first=True)
    with torch.no_grad():
        for norm in (model.encoder_norm, model.decoder_norm):
            nn.init.ones_(norm.weight), nn.init.zeros_(norm.bias)
        same(model.encode(source)[0].mean(-1), np.zeros((2, 7)))
    x = model.embed(source)
    for layer in model.encoder:
        x = layer(x)
    assert x.mean(-1).abs().max() > 0.1, "the stack itself is not normalised"
    assert model(source, target).shape == (2, 5, 11)


def test_weights_of_the_transformer_are_those_of_its_layers():
    model, (source, target) = small(), padded(3)
    A = model.weights(source, target)
    assert A.shape == (2, 3, 2, 5, 7) and (A[:, -1, :, :, 4:] == 0).all()
    same(A.sum(-1), np.ones((2, 3, 2, 5)))
    memory, seen = model.encode(source)
    mask = (target != 0)[:, None, None]
    first = model.decoder[0].weights(
        model.embed(target), memory, mask=mask, memory_mask=seen)
    assert torch.equal(A[0], first)
    x = model.embed(source)
    assert torch.equal(model.encoder[0].weights(x, mask=seen),
                       model.encoder[0].attention.weights(x, mask=seen))


def test_dropout_is_where_section_5_4_puts_it():
    """On each sublayer's result and on the embedded sums: 2, 3 and 1 places."""
    seen = []

    def count(module, x, y):
        seen.append((x[0] == 0).sum().item())
        return y

    model = small(dropout=0.5, layers=1).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            assert module.p == 0.5
            module.register_forward_hook(count)
    model(ids(2, 7), ids(2, 5))
    assert len(seen) == 2 + 2 + 3 and max(seen) == 0, "dropped twice"
    assert all(m.dropout == 0 for m in model.modules()
               if isinstance(m, MultiHeadAttention))
    x = torch.ones(100, 100, 6)
    layer = EncoderLayer(6, num_heads=2, dropout=1.0, norm_first=True)
    assert torch.equal(layer(x), x), "the sum itself is never dropped"
    kept = PositionalEncoding(6, dropout=0.1)(x) != 0
    assert kept.double().mean().item() == pytest.approx(0.9, abs=0.01)


def test_dropout_of_the_weights():
    torch.manual_seed(0)
    v, q = torch.eye(50).expand(100, 50, 50), torch.zeros(100, 50, 1)
    for mask in (None, torch.ones(50, 50, dtype=torch.bool)):
        dropped = attention(q, q, v, mask, dropout=0.25)
        assert (dropped == 0).double().mean().item() == pytest.approx(0.25, abs=0.01)
        assert dropped.max().item() == pytest.approx(1 / 50 / 0.75)
    mha, x = seeded(MultiHeadAttention, D, num_heads=HEADS, dropout=0.5), rand(2, M, D)
    assert torch.equal(mha(x), mha(x)) and not torch.equal(mha.train()(x), mha(x))


# Twins.

def into_torch(theirs, mha):
    """Give nn.MultiheadAttention the weights of ours."""
    with torch.no_grad():
        theirs.in_proj_weight.copy_(
            torch.cat([mha.W_Q.weight, mha.W_K.weight, mha.W_V.weight]))
        theirs.out_proj.weight.copy_(mha.W_O.weight)
        if mha.W_Q.bias is not None:
            theirs.in_proj_bias.copy_(
                torch.cat([mha.W_Q.bias, mha.W_K.bias, mha.W_V.bias]))
            theirs.out_proj.bias.copy_(mha.W_O.bias)
    return theirs.eval()


@with_and_without_bias
@pytest.mark.parametrize("cross", [False, True])
def test_nn_multihead_attention(cross, bias):
    ours = seeded(MultiHeadAttention, D, num_heads=HEADS, bias=bias)
    theirs = into_torch(
        nn.MultiheadAttention(D, HEADS, bias=bias, batch_first=True), ours)
    x = rand(5, N, D)
    c = rand(5, M, D, seed=5) if cross else x
    context = (c,) if cross else ()
    hidden = rand(5, c.shape[1], seed=6) > 0.5       # theirs: True = may not look
    hidden[:, 0] = False
    seen = ~hidden[:, None, None]
    for their_mask, our_mask in ((None, None), (hidden, seen)):
        for average in (True, False):
            y, A = theirs(x, c, c, key_padding_mask=their_mask,
                          average_attn_weights=average)
            ours_A = ours.weights(x, *context, mask=our_mask)
            same(ours_A.mean(1) if average else ours_A, array(A))
            same(ours(x, *context, mask=our_mask), array(y))
    y, _ = theirs(x, c, c, attn_mask=~causal_mask(N, past=c.shape[1] - N),
                  need_weights=False)
    same(ours(x, *context, causal=True), array(y))


def layer_into_torch(theirs, layer):
    names = {"feed_forward.W1": theirs.linear1, "feed_forward.W2": theirs.linear2,
             "norm1": theirs.norm1, "norm2": theirs.norm2}
    into_torch(theirs.self_attn, layer.attention)
    if isinstance(layer, DecoderLayer):
        into_torch(theirs.multihead_attn, layer.cross)
        names["norm3"] = theirs.norm3
    for name, twin in names.items():
        own = layer.get_submodule(name)
        twin.weight.data.copy_(own.weight)
        if twin.bias is None:                # bias=False takes these too, of theirs
            nn.init.zeros_(own.bias)
        else:
            twin.bias.data.copy_(own.bias)
    return theirs.eval()


@both_norms
@with_and_without_bias
@pytest.mark.parametrize("activation", [torch.relu, F.gelu])
def test_nn_encoder_layer(norm_first, bias, activation):
    ours = seeded(EncoderLayer, D, num_heads=HEADS, hidden=HIDDEN, bias=bias,
                  norm_first=norm_first, activation=activation, eps=1e-3)
    theirs = layer_into_torch(nn.TransformerEncoderLayer(
        D, HEADS, HIDDEN, bias=bias, norm_first=norm_first, activation=activation,
        layer_norm_eps=1e-3, batch_first=True), ours)
    x, hidden = rand(5, M, D), rand(5, M, seed=6) > 0.5
    hidden[:, 0] = False
    same(ours(x), array(theirs(x)))
    want = theirs(x, src_key_padding_mask=hidden)
    same(ours(x, mask=~hidden[:, None, None])[~hidden], array(want[~hidden]))
    with torch.no_grad():      # torch's fast path
        same(ours(x), array(theirs(x)))
    g = rand(5, M, D, seed=7)
    slopes = [torch.autograd.grad(layer(t), t, g)[0]
              for layer in (ours, theirs) for t in [x.clone().requires_grad_()]]
    same(slopes[0], array(slopes[1]), atol=1e-11)


@both_norms
@with_and_without_bias
@pytest.mark.parametrize("activation", [torch.relu, F.gelu])
def test_nn_decoder_layer(norm_first, bias, activation):
    ours = seeded(DecoderLayer, D, num_heads=HEADS, hidden=HIDDEN, bias=bias,
                  norm_first=norm_first, activation=activation, eps=1e-3)
    theirs = layer_into_torch(nn.TransformerDecoderLayer(
        D, HEADS, HIDDEN, bias=bias, norm_first=norm_first, activation=activation,
        layer_norm_eps=1e-3, batch_first=True), ours)
    x, memory = rand(5, N, D), rand(5, M, D, seed=5)
    hidden = rand(5, M, seed=6) > 0.5
    hidden[:, 0] = False
    want = theirs(x, memory, tgt_mask=~causal_mask(N), memory_key_padding_mask=hidden)
    same(ours(x, memory, memory_mask=~hidden[:, None, None]), array(want))


def test_nn_transformer_norms_twice():
    """Its encoder is ours and one LayerNorm more, which the paper does not have."""
    twin = nn.Transformer(D, HEADS, 2, 2, HIDDEN, batch_first=True).eval()
    layers = [seeded(EncoderLayer, D, num_heads=HEADS, hidden=HIDDEN, bias=True)
              for _ in range(2)]
    y = x = rand(2, M, D)
    for theirs, ours in zip(twin.encoder.layers, layers, strict=True):
        layer_into_torch(theirs, ours)
        y = ours(y)
    assert twin.encoder.norm is not None
    same(twin.encoder(x), array(twin.encoder.norm(y)))
    assert (twin.encoder(x) - y).abs().max() > 0.1


@pytest.mark.parametrize("causal", [False, True])
def test_scaled_dot_product_attention(causal):
    q, k, v = rand(3, 2, 5, 7, 8)
    want = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    same(attention(q, k, v, causal=causal), array(want))
    same(weights(q, k, causal=causal) @ v, array(want))


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("pad", [None, 0])
def test_label_smoothing(epsilon, pad):
    logits, target = 3 * rand(5, 7, 11), ids(5, 7, low=0)
    flat = array(logits.flatten(0, 1)), array(target.flatten())
    logits.requires_grad_()
    loss = label_smoothing(logits, target, epsilon=epsilon, pad=pad)
    same(loss, reference.label_smoothing(*flat, epsilon, pad))
    loss.backward()
    p = torch.softmax(logits.detach(), -1)
    real = (target != (-1 if pad is None else pad))[..., None]
    q = (1 - epsilon) * F.one_hot(target, 11) + epsilon / 11
    same(logits.grad, array((p - q) * real / real.sum()))
    assert pad is None or (~real).any()
    if pad is None:
        one = label_smoothing(logits[0, 0], target[0, 0], epsilon=epsilon, pad=pad)
        same(one, reference.label_smoothing(flat[0][:1], flat[1][:1], epsilon, pad))


def test_nan_in_a_logit_counts_where_its_target_does():
    logits, target = rand(2, 3, 11), ids(2, 3)
    target[0, 1], logits[0, 1] = 0, torch.nan
    assert label_smoothing(logits, target).isfinite()
    assert label_smoothing(logits, target, pad=None).isnan()
    logits[1, 2, 5] = torch.nan
    assert label_smoothing(logits, target).isnan()


def test_label_smoothing_of_nothing_is_nan_as_torchs():
    zeros = torch.zeros(2, 3, dtype=torch.int64)
    assert label_smoothing(rand(2, 3, 11), zeros).isnan()
    assert F.cross_entropy(rand(6, 11), zeros.flatten(), ignore_index=0).isnan()


def test_warmup():
    rates = [warmup(step, dim=16, steps=10) for step in range(1, 101)]
    assert rates[0] == pytest.approx(16**-0.5 * 10**-1.5)
    assert rates[4] == pytest.approx(5 * rates[0]), "a line up to the top"
    assert max(rates) == rates[9] == pytest.approx(16**-0.5 * 10**-0.5)
    assert rates[39] == pytest.approx(rates[9] / 2), "then one over the root"
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: warmup(n + 1))
    for step in (1, 2, 3):
        assert schedule.get_last_lr()[0] == pytest.approx(512**-0.5 * step * 4000**-1.5)
        optimizer.step()
        schedule.step()


# Parameters.

def count(*args, **kwargs):
    with torch.device("meta"):
        return sum(p.numel() for p in Transformer(*args, **kwargs).parameters())


BIG = {"dim": 1024, "num_heads": 16, "hidden": 4096}
TABLE_3 = {             # millions printed, with what differs from the base model
    "base": (65, {}), "(B) d_k 16": (58, {"key_dim": 16}),
    "(B) d_k 32": (60, {"key_dim": 32}), "(C) N 2": (36, {"layers": 2}),
    "(C) N 4": (50, {"layers": 4}), "(C) N 8": (80, {"layers": 8}),
    "(C) d 256": (28, {"dim": 256, "key_dim": 32}),
    "(C) d 1024": (168, {"dim": 1024, "key_dim": 128}),
    "(C) d_ff 1024": (53, {"hidden": 1024}), "(C) d_ff 4096": (90, {"hidden": 4096}),
    "big": (213, BIG),
}


def expected(V, dim=512, num_heads=8, hidden=2048, layers=6, key_dim=None):
    """By hand: 18 attentions' worth of projections, 12 feed-forwards, 30 norms."""
    key = num_heads * key_dim if key_dim else dim
    heads = 2 * dim * key + 2 * dim * dim
    ffn = 2 * dim * hidden + hidden + dim
    return V * dim + layers * (3 * heads + 2 * ffn + 5 * 2 * dim)


@pytest.mark.parametrize("row", TABLE_3)
def test_table_3_as_a_function_of_the_vocabulary(row):
    """The paper does not print V ("about 37000"): 10 rows fit 41,050 to 41,200."""
    printed, changes = TABLE_3[row]
    assert count(1000, **changes) == expected(1000, **changes)
    lowest, highest = (35_400, 36_300) if row == "big" else (41_050, 41_200)
    for V in (lowest, highest):
        assert round(expected(V, **changes) / 1e6) == printed, (V, row)


def test_no_one_vocabulary_fits_all_of_table_3():
    def fits(V, rows):
        return all(round(expected(V, **TABLE_3[r][1]) / 1e6) == TABLE_3[r][0]
                   for r in rows)

    others = [row for row in TABLE_3 if row != "big"]
    good = [V for V in range(30_000, 50_000, 10) if fits(V, others)]
    assert good and 41_000 <= min(good) and max(good) <= 41_250
    assert not any(fits(V, TABLE_3) for V in good)
    assert expected(37_000) == count(37_000) == 63_045_632
    assert count(37_000, **BIG) == expected(37_000, **BIG) == 214_171_648


@pytest.mark.parametrize("option", [
    {"norm_first": True}, {"bias": True}, {"key_dim": 7}, {"hidden": 11},
    {"num_heads": 3}], ids=str)
def test_the_transformer_passes_its_options_to_every_layer(option):
    model = Transformer(11, **{"dim": 6, "num_heads": 2, "hidden": 5, "layers": 2,
                               **option})
    kwargs = {"num_heads": 2, "hidden": 5, **option}
    for cls, layers in ((EncoderLayer, model.encoder), (DecoderLayer, model.decoder)):
        want = cls(6, **kwargs)
        for layer in layers:
            assert layer.norm_first == want.norm_first
            assert layer.attention.num_heads == want.attention.num_heads
            assert {k: p.shape for k, p in layer.named_parameters()} == {
                k: p.shape for k, p in want.named_parameters()}


@pytest.mark.parametrize("cls, args, kwargs, want", [
    (MultiHeadAttention, (512,), {}, 4 * 512**2),
    (MultiHeadAttention, (512,), {"bias": True}, 4 * 512**2 + 4 * 512),
    (FeedForward, (512,), {}, 2_099_712), (PositionalEncoding, (512,), {}, 0),
    (EncoderLayer, (512,), {}, 3_150_336), (DecoderLayer, (512,), {}, 4_199_936),
    (EncoderLayer, (512,), {"bias": True}, 3_152_384),
])
def test_parameter_count(cls, args, kwargs, want):
    assert sum(p.numel() for p in cls(*args, **kwargs).parameters()) == want


def test_encoder_layer_has_as_many_parameters_as_torchs():
    for bias, extra in ((True, 0), (False, 2048 + 512 + 2 * 512)):
        theirs = nn.TransformerEncoderLayer(512, 8, 2048, bias=bias)
        ours = EncoderLayer(512, bias=bias)
        numbers = [sum(p.numel() for p in m.parameters()) for m in (ours, theirs)]
        assert numbers[0] == numbers[1] + extra, "bias=False takes theirs everywhere"


def test_matrices_start_glorot_uniform_and_biases_zero():
    torch.manual_seed(0)
    layer = DecoderLayer(64, hidden=256, bias=True)
    linears = [m for m in layer.modules() if isinstance(m, nn.Linear)]
    assert len(linears) == 10
    for m in linears:
        bound = math.sqrt(6 / (m.in_features + m.out_features))
        assert 0.99 * bound < m.weight.abs().max() <= bound and (m.bias == 0).all()
        assert m.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)


# What a user runs into.

@pytest.mark.parametrize("call, message", [
    (lambda: MultiHeadAttention(10, num_heads=3),
     "dim must be a positive multiple of num_heads, got dim=10, num_heads=3: "
     "num_heads=2 would fit"),
    (lambda: MultiHeadAttention(0),
     "dim must be a positive multiple of num_heads, got dim=0, num_heads=8"),
    (lambda: MultiHeadAttention(8, num_heads=0),
     "dim must be a positive multiple of num_heads, got dim=8, num_heads=0"),
    (lambda: MultiHeadAttention(8, key_dim=0),
     "key_dim must be a whole number from 1 up, got key_dim=0"),
    (lambda: MultiHeadAttention(8, dropout=1.5),
     "dropout must be from 0 to 1, got dropout=1.5"),
    (lambda: EncoderLayer(10, num_heads=3),
     "dim must be a positive multiple of num_heads, got dim=10, num_heads=3: "
     "num_heads=2 would fit"),
    (lambda: DecoderLayer(8, hidden=0),
     "hidden must be a whole number from 1 up, got hidden=0"),
    (lambda: FeedForward(0), "dim must be a whole number from 1 up, got dim=0"),
    (lambda: PositionalEncoding(0), "dim must be a whole number from 1 up, got dim=0"),
    (lambda: PositionalEncoding(4, max_length=3)(torch.zeros(1, 4, 4)),
     "x must stand from position 0 to max_length=3, got start=0, N=4"),
    (lambda: PositionalEncoding(4, max_length=3)(torch.zeros(1, 2, 4), start=2),
     "x must stand from position 0 to max_length=3, got start=2, N=2"),
    (lambda: PositionalEncoding(4, max_length=3)(torch.zeros(1, 2, 4), start=-1),
     "x must stand from position 0 to max_length=3, got start=-1, N=2"),
    (lambda: Transformer(0),
     "vocabulary must be a whole number from 1 up, got vocabulary=0"),
    (lambda: Transformer(9, layers=0),
     "layers must be a whole number from 1 up, got layers=0"),
    (lambda: Transformer(9, pad=9), "pad must be an id from 0 to vocabulary - 1, got "
     "pad=9, vocabulary=9"),
    (lambda: small(max_length=6)(ids(2, 7), ids(2, 5)),
     "x must stand from position 0 to max_length=6, got start=0, N=7"),
    (lambda: small()(torch.zeros(2, 7), ids(2, 5)), "source must be (B, N) of "
     "torch.int64 or torch.int32, got (2, 7) of torch.float64"),
    (lambda: small()(ids(2, 7), ids(2, 5)[0]), "target must be (B, N) of torch.int64 "
     "or torch.int32, got (5,) of torch.int64"),
    (lambda: small()(ids(2, 7), ids(3, 5)), "context must be (3, M, 6), got (2, 7, 6)"),
    (lambda: MultiHeadAttention(8)(torch.zeros(2, 3, 8), torch.zeros(2, 3, 9)),
     "context must be (2, M, 8), got (2, 3, 9)"),
    (lambda: MultiHeadAttention(8)(torch.zeros(2, 3, 8), torch.zeros(())),
     "context must be (2, M, 8), got ()"),
    (lambda: MultiHeadAttention(8)(torch.zeros(2, 3, 8), torch.zeros(2, 2, 8),
                                   causal=True),
     "causal needs a key for each query, got N=3, M=2"),
    (lambda: attention(*torch.zeros(3, 2, 3, 4), torch.zeros(3, 3)),
     "mask must be bool, True = may look, got torch.float64"),
    (lambda: weights(*torch.zeros(2, 2, 3, 4), torch.ones(3, 3, dtype=torch.int64)),
     "mask must be bool, True = may look, got torch.int64"),
    (lambda: label_smoothing(torch.zeros(2, 5, 9), ids(2, 4)),
     "logits must be (..., V) and target (...), got (2, 5, 9) and (2, 4)"),
    (lambda: label_smoothing(torch.zeros(5, 9, dtype=torch.int64), ids(1, 5)[0]),
     "logits must be floating point, got torch.int64"),
    *[(lambda e=e: label_smoothing(torch.zeros(5, 9), ids(1, 5)[0], epsilon=e),
       f"epsilon must be from 0 to 1, got epsilon={e}") for e in (-0.1, 1.1, math.nan)],
    *[(lambda p=p: attention(*torch.zeros(3, 2, 3, 4), dropout=p),
       f"dropout must be from 0 to 1, got dropout={p}") for p in (1.5, math.nan)],
    (lambda: weights(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5)),
     "k must be (..., M, 4), got (2, 3, 5)"),
    (lambda: weights(*torch.zeros(2, 2, 3, 4, dtype=torch.int64)),
     "q must be floating point, got torch.int64"),
    (lambda: attention(*torch.zeros(2, 2, 3, 4), torch.zeros(2, 4, 4)),
     "v must be (..., 3, d_v), got (2, 4, 4)"),
    *[(lambda n=n: causal_mask(n), f"n must be a whole number from 0 up, got n={n}")
      for n in (-1, 2.5)],
    (lambda: warmup(math.nan),
     "step, dim and steps must be at least 1, got step=nan, dim=512, steps=4000"),
    (lambda: warmup(0),
     "step, dim and steps must be at least 1, got step=0, dim=512, steps=4000"),
])
def test_errors(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize("shape", [(), (8,), (3, 8), (2, 3, 7), (2, 3, 8, 1)], ids=str)
def test_bad_inputs(shape):
    x = torch.zeros(shape)
    for module in (MultiHeadAttention(8), EncoderLayer(8), FeedForward(8),
                   EncoderLayer(8, norm_first=True), PositionalEncoding(8)):
        with pytest.raises(ValueError, match=re.escape(
                f"x must be (B, N, 8), got {shape}")):
            module(x)
    for norm_first in (False, True):
        with pytest.raises(ValueError, match=re.escape(f"(B, N, 8), got {shape}")):
            DecoderLayer(8, norm_first=norm_first)(x, torch.zeros(2, 3, 8))


@pytest.mark.parametrize("shape", [(), (7,), (5, 7), (2, 7), (2, 5, 7), (2, 1, 7, 5),
                                   (2, 3, 5, 7), (5, 1, 1, 7), (1, 1, 1, 1, 7)],
                         ids=str)
def test_a_mask_must_have_its_four_axes(shape):
    """A (B, M) mask of padding would pass for (N, M) where B = N."""
    mha, mask = MultiHeadAttention(8, num_heads=2), torch.ones(shape, dtype=torch.bool)
    message = ("mask must be (B, h, N, M) = (2, 2, 5, 7), or 1 for any of them, "
               f"got {shape}")
    for call in (mha, mha.weights):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call(torch.zeros(2, 5, 8), torch.zeros(2, 7, 8), mask=mask)


@pytest.mark.parametrize("shape", [*itertools.product((1, 2), (1, 2), (1, 5), (1, 7))])
def test_masks_broadcast(shape):
    mha = seeded(MultiHeadAttention, 8, num_heads=2)
    x, c = rand(2, 5, 8), rand(2, 7, 8, seed=2)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.4
    full = mask.expand(2, 2, 5, 7)
    same(mha(x, c, mask=mask), array(mha(x, c, mask=full)))
    same(mha.weights(x, c, mask=mask), array(mha.weights(x, c, mask=full)))


def test_ids_out_of_range():
    with pytest.raises(IndexError, match="index out of range"):
        small()(ids(2, 7) + 10, ids(2, 5))
    assert torch.equal(small()(ids(2, 7).int(), ids(2, 5).int()),
                       small()(ids(2, 7), ids(2, 5)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_and_sums_beyond_half_precision(dtype):
    """q.k is 40 * 40 * 64 = 102400, then 900 times as much; float16 ends at 65504."""
    for q in (torch.full((1, 2, 64), 40.0), torch.full((1, 2, 64), 1200.0)):
        q = q.to(dtype)
        for autocast in (False, True):
            with torch.autocast("cpu", dtype, enabled=autocast):
                A = weights(q, q)
            assert A.dtype == dtype and (A == 0.5).all()
        assert attention(q, q, q).isfinite().all()
    logits = torch.zeros(1, 9000, dtype=torch.float32)
    logits[0, 3] = 20
    got = label_smoothing(logits.to(dtype), torch.tensor([3]))
    want = label_smoothing(logits, torch.tensor([3]))
    assert got.dtype == torch.float32 and torch.equal(got, want)


def test_empty_batches():
    model = small()
    assert model(ids(0, 7), ids(0, 5)).shape == (0, 5, 11)
    assert model.weights(ids(0, 7), ids(0, 5)).shape == (2, 0, 2, 5, 7)
    assert MultiHeadAttention(8)(torch.zeros(2, 3, 8), torch.zeros(2, 0, 8)).abs(
        ).sum() == 0, "no keys: nothing to take"


def test_nan_stays_in_its_picture():
    for layer in (seeded(MultiHeadAttention, 8), seeded(EncoderLayer, 8),
                  seeded(EncoderLayer, 8, norm_first=True)):
        x = rand(3, 5, 8)
        y = layer(x)
        x[1, 2, 3] = torch.nan
        spoiled = layer(x)
        assert spoiled[1].isnan().all() and torch.equal(spoiled[[0, 2]], y[[0, 2]])


def test_forward_stores_nothing_and_copies_work():
    model, (source, target) = small(norm_first=True), padded(3)
    before = [dict(vars(m)) for m in model.modules()]
    y = model(source, target)
    model.decode(target, *model.encode(source), cache={})
    for had, has in zip(before, [vars(m) for m in model.modules()], strict=True):
        assert had.keys() == has.keys() and all(had[k] is has[k] for k in had)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(source, target), y)
    layer = EncoderLayer(8, activation=F.gelu)
    assert pickle.loads(pickle.dumps(layer)).feed_forward.activation is F.gelu


def test_export_with_any_batch_and_lengths():
    model, (source, target) = small(), padded(3)
    b, m, n = (torch.export.Dim(name, max=100) for name in "bmn")
    program = torch.export.export(
        model, (source, target), dynamic_shapes=({0: b, 1: m}, {0: b, 1: n})).module()
    for case in (padded(5), (ids(2, 11), ids(2, 3))):
        torch.testing.assert_close(program(*case), model(*case))


def test_autocast():
    model, (source, target) = small().float(), padded(3)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(source, target)
    real = target != 0
    want = model(source, target)
    torch.testing.assert_close(y.float()[real], want[real], rtol=0.1, atol=0.2)
    assert not torch.equal(y.float(), want)


@given(b=st.integers(0, 3), n=st.integers(1, 5), m=st.integers(1, 5),
       h=st.integers(1, 3), d=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_any_shape_and_mask(b, n, m, h, d, seed):
    torch.manual_seed(seed)
    mha = MultiHeadAttention(h * d, num_heads=h)
    x, c, mask = torch.randn(b, n, h * d), torch.randn(b, m, h * d), torch.rand(
        b, h, n, m) > 0.5
    y, A = mha(x, c, mask=mask), mha.weights(x, c, mask=mask)
    assert y.shape == x.shape and A.shape == (b, h, n, m) and y.isfinite().all()
    torch.testing.assert_close(A.sum(-1), mask.any(-1).to(A))
    assert (A[~mask] == 0).all()
    V = mha.heads(mha.W_V(c))
    torch.testing.assert_close(y, mha.W_O((A @ V).transpose(1, 2).flatten(2)))


def test_the_defaults_are_the_papers():
    defaults = {k: p.default for k, p in inspect.signature(Transformer).parameters
                .items() if p.default is not p.empty}
    assert defaults == {
        "dim": 512, "num_heads": 8, "hidden": 2048, "layers": 6, "dropout": 0.1,
        "norm_first": False, "bias": False, "key_dim": None, "pad": 0,
        "max_length": 5000}
    assert warmup(4000) == pytest.approx(1 / math.sqrt(512 * 4000))


def test_the_docstrings_run():
    torch.set_default_dtype(torch.float32)
    found = [doctest.testmod(module) for module in (
        cvattn.multihead, cvattn.layers, cvattn.transformer, cvattn.recipe)]
    assert sum(tried for _, tried in found) >= 10
    assert sum(failed for failed, _ in found) == 0
