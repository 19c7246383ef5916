"""Tests of the tests: plausible wrong Transformers, and which test catches each.

Each is one mistake put in the place of one function or method. A test of values must
catch all of them. A test of shapes catches none of the wrong attentions, layers and
models, as their tests show first.
"""

import inspect
import math

import pytest
import reference
import test_decode
import torch
import torch.nn.functional as F
from test_transformer import (
    PositionalEncoding,
    ids,
    padded,
    rand,
    same,
    same_decoder,
    same_encoder,
    same_mha,
    same_transformer,
    small,
)

import cvattn.decode
import cvattn.multihead as right
from cvattn.layers import DecoderLayer, EncoderLayer
from cvattn.multihead import MultiHeadAttention
from cvattn.recipe import label_smoothing
from cvattn.transformer import Transformer


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# Wrong attention: what stands for softmax(q k^T / sqrt(d_k)) under a mask.

def scores(q, k):
    return q @ k.mT / math.sqrt(q.shape[-1])


def hide(s, mask):
    return s if mask is None else s.masked_fill(~mask, -1e9)


def rows(s, mask):
    """The softmax over the keys, done right, of wrong scores."""
    A = hide(s, mask).softmax(-1)
    return A if mask is None else A.masked_fill(~mask.any(-1, keepdim=True), 0)


def over_queries(q, k, mask):
    return hide(scores(q, k), mask).softmax(-2)


def mask_after(q, k, mask):
    A = scores(q, k).softmax(-1)
    return A if mask is None else A.masked_fill(~mask, 0)


def mask_added(q, k, mask):
    s = scores(q, k)
    return (s if mask is None else s + mask).softmax(-1)


ATTENTION = {
    "no division by the root of d_k": lambda q, k, mask: rows(q @ k.mT, mask),
    "divided by d_k": lambda q, k, mask: rows(scores(q, k) / q.shape[-1]**0.5, mask),
    "divided by the root of dim":
        lambda q, k, mask: rows(scores(q, k) / q.shape[1]**0.5, mask),
    "the softmax over the queries": over_queries,
    "a sigmoid": lambda q, k, mask: (hide(scores(q, k), mask)).sigmoid(),
    "no softmax, but scores over their sum":
        lambda q, k, mask: scores(q, k) / scores(q, k).sum(-1, keepdim=True),
    "the likeness of directions alone": lambda q, k, mask: rows(
        scores(F.normalize(q, dim=-1), F.normalize(k, dim=-1)), mask),
    "heads mixed up": lambda q, k, mask: rows(scores(q, k.flip(1)), mask),
}
MASKED = {                        # right without a mask: only masked cases can tell
    "masked after the softmax": mask_after,
    "the mask inverted":
        lambda q, k, mask: rows(scores(q, k), None if mask is None else ~mask),
    "the mask added as a number": mask_added,
    "zero for minus infinity": lambda q, k, mask: (
        scores(q, k) if mask is None else scores(q, k).masked_fill(~mask, 0)
        ).softmax(-1),
    "a large number for minus infinity, blind rows forgotten":
        lambda q, k, mask: hide(scores(q, k), mask).softmax(-1),
    "the mask ignored": lambda q, k, mask: scores(q, k).softmax(-1),
}


def put_attention(monkeypatch, wrong):
    def weights(q, k, mask=None, *, causal=False):
        return wrong(q, k, right.visible(q, k, mask, causal))

    def attention(q, k, v, mask=None, *, causal=False, dropout=0.0):
        return weights(q, k, mask, causal=causal) @ v

    monkeypatch.setattr(right, "weights", weights)
    monkeypatch.setattr(right, "attention", attention)


def shapes_hold():
    """What a test of shapes would ask, of self-attention without and with a mask."""
    mha, x = MultiHeadAttention(10, num_heads=2), rand(2, 7, 10)
    mask = torch.ones(1, 1, 7, 7, dtype=torch.bool)
    layer = EncoderLayer(10, num_heads=2, hidden=13)
    return (mha(x).shape == mha(x, mask=mask).shape == layer(x).shape == x.shape
            and mha.weights(x).shape == (2, 2, 7, 7)
            and small()(ids(2, 7), ids(2, 5)).shape == (2, 5, 11))


@pytest.mark.parametrize("name", ATTENTION)
def test_values_catch_wrong_attention(name, monkeypatch):
    put_attention(monkeypatch, ATTENTION[name])
    assert shapes_hold()
    for cross in (False, True):
        with pytest.raises(AssertionError):
            same_mha(MultiHeadAttention, 2, cross, masked=False)


@pytest.mark.parametrize("name", MASKED)
def test_values_catch_wrong_masks(name, monkeypatch):
    put_attention(monkeypatch, MASKED[name])
    assert shapes_hold()
    same_mha(MultiHeadAttention, 2, True, masked=False)
    with pytest.raises(AssertionError):
        same_mha(MultiHeadAttention, 2, True, masked=True)


def test_the_right_attention_in_the_mutants_clothes_passes(monkeypatch):
    put_attention(monkeypatch, lambda q, k, mask: rows(scores(q, k), mask))
    same_mha(MultiHeadAttention, 2, True, masked=True)
    same_transformer(Transformer, 2)
    assert shapes_hold()


# Wrong causality.

CAUSAL = {
    "the diagonal closed": lambda n, past: torch.ones(n, past + n).tril(past - 1),
    "one step of the future open":
        lambda n, past: torch.ones(n, past + n).tril(past + 1),
    "upside down": lambda n, past: torch.ones(n, past + n).triu(past),
    "nothing hidden": lambda n, past: torch.ones(n, past + n),
}


@pytest.mark.parametrize("name", CAUSAL)
def test_values_catch_wrong_causality(name, monkeypatch):
    monkeypatch.setattr(right, "causal_mask", lambda n, *, past=0, device=None:
                        CAUSAL[name](n, past).bool())
    assert shapes_hold()
    with pytest.raises(AssertionError):
        same_decoder(DecoderLayer, 2, norm_first=False)
    with pytest.raises(AssertionError):
        same_transformer(Transformer, 2)


# Wrong heads.

def bare_view(self, x):
    return x.reshape(len(x), self.num_heads, x.shape[1], -1)


def interleaved(self, x):
    return x.unflatten(2, (-1, self.num_heads)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("heads", [bare_view, interleaved])
def test_values_catch_wrongly_split_heads(heads, monkeypatch):
    monkeypatch.setattr(MultiHeadAttention, "heads", heads)
    assert shapes_hold()
    with pytest.raises(AssertionError):
        same_mha(MultiHeadAttention, 2, False, masked=False)


class JoinedWrong(MultiHeadAttention):
    """Heads put together by a bare view, without bringing N to the front."""

    def forward(self, x, context=None, *, mask=None):
        c = x if context is None else context
        y = right.attention(*(self.heads(W(t)) for W, t in (
            (self.W_Q, x), (self.W_K, c), (self.W_V, c))), mask)
        return self.W_O(y.reshape(x.shape))


class ValuesAreKeys(MultiHeadAttention):
    def forward(self, x, context=None, *, mask=None):
        c = x if context is None else context
        q, k = self.heads(self.W_Q(x)), self.heads(self.W_K(c))
        y = right.attention(q, k, k, mask)
        return self.W_O(y.transpose(1, 2).flatten(2))


class NoLastProjection(MultiHeadAttention):
    def forward(self, x, context=None, *, mask=None):
        c = x if context is None else context
        y = right.attention(*(self.heads(W(t)) for W, t in (
            (self.W_Q, x), (self.W_K, c), (self.W_V, c))), mask)
        return y.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("cls", [JoinedWrong, ValuesAreKeys, NoLastProjection])
def test_values_catch_wrong_multi_head_attention(cls):
    assert cls(10, num_heads=2)(rand(2, 7, 10)).shape == (2, 7, 10)
    with pytest.raises(AssertionError):
        same_mha(cls, 2, False, masked=False)


# Wrong layers: forwards of the encoder, post-norm.

def no_residual(self, x, *, mask=None):
    x = self.norm1(self.attention(x, mask=mask))
    return self.norm2(x + self.feed_forward(x))


def norm_of_the_sublayer(self, x, *, mask=None):
    x = x + self.norm1(self.attention(x, mask=mask))
    return x + self.norm2(self.feed_forward(x))


def norm_before(self, x, *, mask=None):
    x = x + self.attention(self.norm1(x), mask=mask)
    return x + self.feed_forward(self.norm2(x))


def one_norm(self, x, *, mask=None):
    x = x + self.attention(x, mask=mask)
    return self.norm2(x + self.feed_forward(x))


def norms_swapped(self, x, *, mask=None):
    x = self.norm2(x + self.attention(x, mask=mask))
    return self.norm1(x + self.feed_forward(x))


def residual_of_the_input(self, x, *, mask=None):
    y = self.norm1(x + self.attention(x, mask=mask))
    return self.norm2(x + self.feed_forward(y))


def feed_forward_first(self, x, *, mask=None):
    x = self.norm2(x + self.feed_forward(x))
    return self.norm1(x + self.attention(x, mask=mask))


@pytest.mark.parametrize("wrong", [
    no_residual, norm_of_the_sublayer, norm_before, one_norm, norms_swapped,
    residual_of_the_input, feed_forward_first])
def test_values_catch_wrong_layers(wrong):
    cls = type("Mutant", (EncoderLayer,), {"forward": wrong})
    assert cls(10, num_heads=2)(rand(2, 7, 10)).shape == (2, 7, 10)
    with pytest.raises(AssertionError):
        same_encoder(cls, 2, norm_first=False)


def test_values_catch_an_unbiased_layer_norm(monkeypatch):
    """As the annotated Transformer's, which divides by torch's x.std()."""
    def norm(self, x):
        deviation = x.std(-1, keepdim=True)
        return self.weight * (x - x.mean(-1, keepdim=True)) / deviation + self.bias

    monkeypatch.setattr(torch.nn.LayerNorm, "forward", norm)
    assert shapes_hold()
    with pytest.raises(AssertionError):
        same_encoder(EncoderLayer, 2, norm_first=False)


class MemoryFirst(DecoderLayer):
    def forward(self, x, memory, *, mask=None, memory_mask=None, cache=None):
        x = self.norm1(x + self.cross(x, memory, mask=memory_mask))
        x = self.norm2(x + self.attention(x, mask=mask, causal=True))
        return self.norm3(x + self.feed_forward(x))


class MemoryLooksBack(DecoderLayer):
    """Queries from the memory, keys and values from the target."""

    def forward(self, x, memory, *, mask=None, memory_mask=None, cache=None):
        x = self.look_back(x, mask)
        y = self.cross(memory, x).mean(dim=1, keepdim=True)
        x = self.norm2(x + y)
        return self.norm3(x + self.feed_forward(x))


@pytest.mark.parametrize("cls", [MemoryFirst, MemoryLooksBack])
def test_values_catch_wrong_decoder_layers(cls):
    assert cls(10, num_heads=2)(rand(2, 3, 10), rand(2, 7, 10)).shape == (2, 3, 10)
    with pytest.raises(AssertionError):
        same_decoder(cls, 2, norm_first=False)


# Wrong positions, embeddings, model.

def angles(n, d):
    return torch.arange(n)[:, None] / 10000 ** (torch.arange(0, d, 2) / d)


POSITIONS = {
    "halves for pairs": lambda n, d: torch.cat(
        [angles(n, d).sin(), angles(n, d).cos()], 1),
    "sine and cosine swapped": lambda n, d: torch.stack(
        [angles(n, d).cos(), angles(n, d).sin()], 2).flatten(1),
    "i for 2i": lambda n, d: torch.stack(
        [(angles(n, 2 * d)[:, : d // 2]).sin(), (angles(n, 2 * d)[:, : d // 2]).cos()],
        2).flatten(1),
    "counted from 1": lambda n, d: torch.stack(
        [angles(n + 1, d)[1:].sin(), angles(n + 1, d)[1:].cos()], 2).flatten(1),
    "1000 for 10000": lambda n, d: torch.stack(
        [(angles(n, d) ** 0.75).sin(), (angles(n, d) ** 0.75).cos()], 2).flatten(1),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_values_catch_wrong_positions(name):
    module = PositionalEncoding(22, max_length=13).eval()
    x = rand(2, 13, 22)
    want = x.numpy() + reference.positional_encoding(13, 22)
    same(module(x), want)
    module.PE = POSITIONS[name](13, 22)
    assert module(x).shape == x.shape
    with pytest.raises(AssertionError):
        same(module(x), want)


class Unscaled(Transformer):
    def embed(self, ids, *, start=0):
        return self.positions(self.embedding(ids[:, start:]), start=start)


class ScaledSums(Transformer):
    def embed(self, ids, *, start=0):
        return self.positions(self.embedding(ids[:, start:])) * math.sqrt(self.dim)


class NoPositions(Transformer):
    def embed(self, ids, *, start=0):
        return self.embedding(ids[:, start:]) * math.sqrt(self.dim)


class PaddingSeen(Transformer):
    def tokens(self, ids, name):
        return None


class SourcePaddingSeen(Transformer):
    def encode(self, source):
        return super().encode(source)[0], None


class NormedTwice(Transformer):
    """A LayerNorm after the post-norm decoder, as in nn.Transformer."""

    def decode(self, target, memory, seen, *, cache=None):
        self.decoder_norm = torch.nn.LayerNorm(self.dim)
        return super().decode(target, memory, seen, cache=cache)


class NotNormedAtTheEnd(Transformer):
    """Norm first, without the norm after the stacks."""

    def encode(self, source):
        seen, x = self.tokens(source, "source"), self.embed(source)
        for layer in self.encoder:
            x = layer(x, mask=seen)
        return x, seen


MODELS = {Unscaled: False, ScaledSums: False, NoPositions: False, PaddingSeen: False,
          SourcePaddingSeen: False, NormedTwice: False, NotNormedAtTheEnd: True}


@pytest.mark.parametrize("cls, norm_first", MODELS.items())
def test_values_catch_wrong_models(cls, norm_first):
    model = small(cls, norm_first=norm_first)
    assert model(*padded(3)).shape == (3, 5, 11)
    with pytest.raises(AssertionError):
        same_transformer(cls, 2, norm_first)


# Wrong caches.

class PositionOff(Transformer):
    def embed(self, ids, *, start=0):
        x = self.embedding(ids[:, start:]) * math.sqrt(self.dim)
        return self.positions(x, start=max(0, start - 1))


class PositionsFromZero(Transformer):
    def embed(self, ids, *, start=0):
        return self.positions(self.embedding(ids[:, start:]) * math.sqrt(self.dim))


def forgetful(self, context, own, cache):
    """The cache replaced, not extended."""
    if cache is not None and own:
        cache.pop(self, None)
    return keys_and_values(self, context, own, cache)


def stale_values(self, context, own, cache):
    past = None if cache is None else cache.get(self)
    K, V = keys_and_values(self, context, own, cache)
    if past is not None and own:
        V = torch.cat([V[:, :, :1], V[:, :, :-1]], dim=2)
    return K, V


keys_and_values = MultiHeadAttention.keys_and_values


@pytest.mark.parametrize("cls", [PositionOff, PositionsFromZero])
def test_the_cache_test_catches_wrong_positions(cls):
    same_transformer(cls, 2)
    assert small(cls)(*padded(3)).shape == (3, 5, 11)
    with pytest.raises(AssertionError):
        test_decode.same_cached(small(cls))


@pytest.mark.parametrize("wrong", [forgetful, stale_values])
def test_the_cache_test_catches_wrong_caches(wrong, monkeypatch):
    monkeypatch.setattr(MultiHeadAttention, "keys_and_values", wrong)
    same_transformer(Transformer, 2)
    with pytest.raises(AssertionError):
        test_decode.same_cached(small(pad=None))


# Wrong searches: one line of decode.py changed.

SEARCHES = {
    "the cache not sorted like its beams":
        ("cache[module] = K[parent], V_[parent]", "pass"),
    "the values not sorted like their keys": ("V_[parent]", "V_"),
    "parents of the first source alone":
        ("rows[:, None] * beams + index // V", "index // V + 0 * rows[:, None]"),
    "all beams alike at first": ("s[:, 0] = 0.0", "s[:] = 0.0"),
    "the score of the last token alone": (" + s[..., None]", " + 0 * s[..., None]"),
    "ended beams live on": ("s, live = top.masked_fill(ended, -torch.inf)",
                            "s, live = top.masked_fill(ended & False, 0)"),
    "a longer target always better": ("(complete_s > best_s)", "(complete_s > -1e9)"),
    "no penalty": ("complete_s / penalty(n, alpha)", "complete_s"),
    "the penalty turned over": ("((5 + length) / 6)", "(6 / (5 + length))"),
    "5 for 6": ("((5 + length) / 6)", "(length / 6)"),
    "one token too many": ("(n >= limit)", "(n > limit)"),
    "stopped at the first end": (
        "(best_s >= s[:, 0] / penalty(limit.to(s), alpha))", "(best_s > -torch.inf)"),
    "the bound of this length, not of the longest":
        ("penalty(limit.to(s), alpha))", "penalty(n, alpha))"),
    "done sources go on": ("| cut) & ~done", "| cut)"),
}


def searches(old=None, new=None):
    """decode.py with every `old` replaced, as a module's names."""
    code, names = inspect.getsource(cvattn.decode), {"__name__": "cvattn.mutant",
                                                     "__package__": "cvattn"}
    assert old is None or old in code
    exec(code if old is None else code.replace(old, new), names)
    return names


def search_tests(names, monkeypatch):
    for name in ("beam", "greedy"):
        monkeypatch.setattr(test_decode, name, names[name])
    for alpha in (0.0, 0.6, 2.0):
        test_decode.test_beam_equals_a_slow_search(4, alpha)
    test_decode.test_a_wide_beam_finds_the_best_of_all_targets(3, 2.0, True)
    test_decode.test_what_does_not_end_is_cut_at_its_own_length(names["beam"])


@pytest.mark.parametrize("name", SEARCHES)
def test_the_slow_search_catches_wrong_ones(name, monkeypatch):
    with pytest.raises(AssertionError):
        search_tests(searches(*SEARCHES[name]), monkeypatch)


def test_the_right_search_in_the_mutants_clothes_passes(monkeypatch):
    search_tests(searches(), monkeypatch)


# Wrong label smoothing.

def smoothed(logits, target, others, pad=None):
    """0.1 spread over V - others ids: over V - 1 without the right one, and so on."""
    log_p, V = logits.log_softmax(-1), logits.shape[-1]
    q = torch.full_like(log_p, 0.1 / (V - others))
    q.scatter_(-1, target[..., None], 0.9)
    return -(q * log_p).sum(-1)


LOSSES = {
    "over V - 1 ids": lambda a, t: smoothed(a, t, 1)[t != 0].mean(),
    "over V - 2 ids": lambda a, t: smoothed(a, t, 2)[t != 0].mean(),
    "not smoothed": lambda a, t: F.cross_entropy(a, t, ignore_index=0),
    "padding counted": lambda a, t: label_smoothing(a, t, pad=None),
    "padding zero, but in the mean":
        lambda a, t: (smoothed(a, t, 0) * (t != 0)).mean(),
    "summed": lambda a, t: F.cross_entropy(a, t, ignore_index=0, reduction="sum",
                                           label_smoothing=0.1),
    "0.9 and 0.1": lambda a, t: label_smoothing(a, t, epsilon=0.9),
}


@pytest.mark.parametrize("name", LOSSES)
def test_values_catch_wrong_label_smoothing(name):
    logits, target = 3 * rand(35, 11), ids(1, 35, low=0)[0]
    want = reference.label_smoothing(logits.numpy(), target.numpy(), 0.1, 0)
    same(label_smoothing(logits, target), want)
    with pytest.raises(AssertionError):
        same(LOSSES[name](logits, target), want)
