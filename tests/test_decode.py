"""Decoding: greedy and beam, with and without the cache, against brute force."""

import copy
import doctest
import functools
import inspect
import itertools
import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_transformer import ids, padded, same, small

import cvattn.decode
from cvattn.decode import beam, greedy, log_p, penalty
from cvattn.layers import DecoderLayer
from cvattn.multihead import MultiHeadAttention
from cvattn.recipe import label_smoothing
from cvattn.transformer import Transformer

START, END = 1, 2
caches = pytest.mark.parametrize("cached", [True, False])


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def array(t):
    return t.detach().numpy()


@functools.cache
def trained():
    """A model that has begun to learn to turn its source around."""
    torch.manual_seed(0)
    model = Transformer(11, dim=16, num_heads=2, hidden=32, layers=1, dropout=0.0,
                        norm_first=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(200):
        source = torch.randint(3, 11, (32, int(torch.randint(2, 8, ()))))
        target = F.pad(F.pad(source.flip(1), (1, 0), value=START), (0, 1), value=END)
        loss = label_smoothing(model(source, target[:, :-1]), target[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 2.0, "of log 11 = 2.4"
    return model.eval()


def lively(seed, pad=0):
    """One whose next token depends on source and target; some targets end, some not."""
    model = copy.deepcopy(trained())
    model.pad = pad
    return shaken(model, seed, 0.1, 1.0)


def endless(model):
    """The model, but it never writes END."""
    decode = model.decode

    def without_end(*args, **kwargs):
        logits = decode(*args, **kwargs)
        logits[..., END] = -torch.inf
        return logits

    model.decode = without_end
    return model


def tiny(seed, vocabulary):
    return shaken(small(vocabulary=vocabulary), seed, 1.0, 0.0)


def shaken(model, seed, noise, kept):
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(kept).add_(torch.randn_like(p), alpha=noise)
    return model


def scores(model, source, tokens):
    """log p of each given token of one target, padding having no logit."""
    target = torch.tensor([[START, *tokens]])
    logits = model(source, target)[0, :-1]
    if model.pad is not None:
        logits[:, model.pad] = -torch.inf
    return logits.log_softmax(-1)[range(len(tokens)), list(tokens)]


def lists(result, pad=0):
    """Each row up to its padding; assert that after it comes nothing else."""
    rows = []
    for row in result.tolist():
        n = row.index(pad) if pad in row else len(row)
        assert all(token == pad for token in row[n:])
        rows.append(row[:n])
    return rows


# The cache.

def same_cached(model, chunks=(1, 1, 1, 1, 1)):
    """Assert that columns given bit by bit have the logits of all at once."""
    source, target = padded(3)
    memory, seen = model.encode(source)
    want, cache, n = model.decode(target, memory, seen), {}, 0
    for chunk in chunks:
        got = model.decode(target[:, : n + chunk], memory, seen, cache=cache)
        same(got, array(want[:, n : n + chunk]))
        n += chunk
    assert n == target.shape[1]
    return cache


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("pad", [0, None])
@pytest.mark.parametrize("chunks", [(1, 1, 1, 1, 1), (2, 3), (5,), (1, 3, 1)])
def test_logits_with_the_cache_equal_those_without(chunks, pad, norm_first):
    cache = same_cached(small(norm_first=norm_first, pad=pad), chunks)
    lengths = sorted(K.shape[2] for K, V in cache.values())
    assert lengths == [5, 5, 7, 7], "two layers, each with its own and the source's"


def test_cached_keys_are_not_computed_again(monkeypatch):
    model, (source, target) = small(), padded(3)
    memory, seen = model.encode(source)
    rows = []
    heads = MultiHeadAttention.heads
    monkeypatch.setattr(MultiHeadAttention, "heads", lambda self, x: (
        rows.append(x.shape[1]), heads(self, x))[1])
    cache = {}
    model.decode(target[:, :4], memory, seen, cache=cache)
    assert max(rows) == 7
    rows.clear()
    model.decode(target, memory, seen, cache=cache)
    assert set(rows) == {1} and len(rows) == 2 * (3 + 1), "keys and values of 1 token"


def test_multi_head_attention_and_decoder_layer_with_a_cache():
    torch.manual_seed(0)
    x, memory = torch.randn(2, 5, 6), torch.randn(2, 7, 6)
    mha, layer = MultiHeadAttention(6, num_heads=2), DecoderLayer(6, num_heads=2).eval()
    for call, context in ((lambda x, **k: mha(x, causal=True, **k), ()),
                          (layer, (memory,)), (mha, (memory,))):
        cache = {}
        parts = [call(part, *context, cache=cache) for part in x.split((1, 3, 1), 1)]
        same(torch.cat(parts, 1), array(call(x, *context)))


# Greedy.

@caches
@pytest.mark.parametrize("pad", [0, None])
def test_greedy_takes_the_likeliest_each_time(cached, pad):
    different = 0
    for seed in range(6):
        model, source = lively(seed, pad=pad), padded(2)[0]
        found = greedy(model, source, start=START, end=END, extra=4, cached=cached)
        for b, row in enumerate(found.tolist()):
            limit = int((source[b] != 0).sum()) + 4 if pad == 0 else 11
            target = [START]
            while len(target) <= limit and target[-1] != END:
                logits = model(source[b : b + 1], torch.tensor([target]))[0, -1]
                if pad == 0:
                    logits[0] = -torch.inf
                target.append(int(logits.argmax()))
            fill = END if pad is None else 0
            assert row == target[1:] + [fill] * (len(row) - len(target) + 1)
            different += len(set(row)) > 2
    assert different > 2, "the models say the same token again and again"


def enders(search, seeds=range(20), **kwargs):
    """Results of many models, some of which end early and some at the limit."""
    for seed in seeds:
        model, source = lively(seed), padded(3)[0]
        yield model, source, search(
            model, source, start=START, end=END, extra=3, **kwargs)


@pytest.mark.parametrize("search", [greedy, beam])
def test_tokens_are_the_same_with_and_without_the_cache(search):
    ends = set()
    for model, source, with_cache in enders(search):
        without = search(model, source, start=START, end=END, extra=3, cached=False)
        assert torch.equal(with_cache, without)
        for row, limit in zip(lists(with_cache), (10, 10, 7), strict=True):
            assert END not in row[:-1] and START <= min(row) and len(row) <= limit
            assert len(row) == limit or row[-1] == END
            ends.add(row[-1] == END)
    assert ends == {True, False}


@pytest.mark.parametrize("search", [greedy, beam])
def test_a_source_does_not_see_its_neighbours(search):
    for model, source, together in enders(search, range(5)):
        for b, want in enumerate(lists(together)):
            for one in (source[b : b + 1], source[b : b + 1, : 4 if b == 2 else 7]):
                alone = search(model, one, start=START, end=END, extra=3)
                assert lists(alone) == [want]


@pytest.mark.parametrize("search", [greedy, beam])
def test_what_does_not_end_is_cut_at_its_own_length(search):
    for seed in range(3):
        given = {"start": START, "end": END, "extra": 3}
        found = search(endless(lively(seed)), padded(3)[0], **given)
        assert [len(row) for row in lists(found)] == [10, 10, 7]
        found = search(endless(lively(seed, None)), padded(3)[0], **given)
        assert found.shape == (3, 10), "no padding, one length"


# Beam.

def every_target(model, source, limit, alpha, end=END):
    """Brute force: all complete targets up to the limit, by their score."""
    V = len(model.embedding.weight)
    tokens = [k for k in range(V) if k not in (model.pad, end)]
    return sorted(
        ((scores(model, source, [*y, end]).sum().item() / penalty(n, alpha), [*y, end])
         for n in range(1, limit + 1) for y in itertools.product(tokens, repeat=n - 1)),
        reverse=True)


@caches
@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_finds_the_best_of_all_targets(seed, alpha, cached):
    model, source = tiny(seed, 4), ids(1, 4, vocabulary=4)
    (_, want), *_ = every_target(model, source, 4, alpha)
    found = beam(model, source, start=START, end=END, beams=64, alpha=alpha, extra=0,
                 cached=cached)
    assert lists(found) == [want]


def test_alpha_decides():
    changed = 0
    for seed in range(12):
        model, source = tiny(seed, 4), ids(1, 4, vocabulary=4)
        short, long = (every_target(model, source, 4, alpha)[0][1]
                       for alpha in (0.0, 2.0))
        changed += short != long
        assert len(short) <= len(long)
    assert changed > 0


def slow_beam(model, source, beams, alpha, limit):
    """The search as the docstring tells it, one source, no tensors, no cache."""
    living, complete = [(0.0, [])], []
    for _ in range(limit):
        grown = []
        for s, y in living:
            logits = model(source, torch.tensor([[START, *y]]))[0, -1]
            logits[0] = -torch.inf
            grown += [(s + p, [*y, k])
                      for k, p in enumerate(logits.log_softmax(-1).tolist())]
        grown.sort(key=lambda item: -item[0])
        complete += [(s / penalty(len(y), alpha), y)
                     for s, y in grown[:beams] if y[-1] == END]
        living = [item for item in grown if item[1][-1] != END][:beams]
        if complete and max(complete)[0] >= living[0][0] / penalty(limit, alpha):
            break
    return max(complete)[1] if complete else living[0][1]


@pytest.mark.parametrize("beams", [1, 2, 4])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_beam_equals_a_slow_search(beams, alpha):
    for seed in range(6):
        model, source = lively(seed), padded(3)[0]
        found = beam(model, source, start=START, end=END, beams=beams, alpha=alpha,
                     extra=2)
        assert lists(found) == [
            slow_beam(model, source[b : b + 1], beams, alpha, limit)
            for b, limit in enumerate((9, 9, 6))]


def test_one_beam_without_a_penalty_is_greedy_and_four_are_not():
    others = 0
    for model, source, found in enders(greedy):
        kwargs = {"start": START, "end": END, "extra": 3}
        assert torch.equal(beam(model, source, beams=1, alpha=0.0, **kwargs), found)
        others += lists(beam(model, source, **kwargs)) != lists(found)
    assert others > 0


def test_the_penalty_is_gnmts():
    assert penalty(1, 0.6) == 1.0
    assert penalty(7, 0.6) == pytest.approx(2**0.6)
    assert penalty(31, 0.0) == 1.0
    assert penalty(torch.tensor(7.0), 1.0).item() == 2.0


def test_the_defaults_are_the_papers():
    for search in (greedy, beam):
        p = inspect.signature(search).parameters
        assert p["extra"].default == 50 and p["cached"].default is True
    assert (p["beams"].default, p["alpha"].default) == (4, 0.6)


# Edges.

@pytest.mark.parametrize("search", [greedy, beam])
def test_edges(search):
    model, kwargs = small(), {"start": START, "end": END}
    assert search(model, ids(0, 7), **kwargs).shape == (0, 0)
    padding = torch.zeros(2, 3, dtype=torch.int64)
    assert search(model, padding, extra=0, **kwargs).shape == (2, 0)
    assert search(model, padding, extra=1, **kwargs).shape == (2, 1)
    assert search(model, ids(2, 7).int(), extra=0, **kwargs).dtype == torch.int32


@pytest.mark.parametrize("search", [greedy, beam])
def test_no_gradient_is_kept(search, monkeypatch):
    seen, decode = [], Transformer.decode
    monkeypatch.setattr(Transformer, "decode", lambda *args, **kwargs: (
        seen.append(torch.is_grad_enabled()), decode(*args, **kwargs))[1])
    search(small(), ids(2, 7), start=START, end=END, extra=0)
    assert seen and not any(seen)


@pytest.mark.parametrize("search", [greedy, beam])
def test_bfloat16_is_summed_in_float32(search):
    half, source = small().bfloat16(), ids(2, 7)
    assert search(half, source, start=START, end=END, extra=0).shape[0] == 2
    memory, seen = half.encode(source)
    p = log_p(half, torch.full((2, 1), START), memory, seen, None)
    assert p.dtype == torch.float32 and (p[:, 0] == -torch.inf).all()
    torch.testing.assert_close(p.exp().sum(1), torch.ones(2, dtype=torch.float32))


@pytest.mark.parametrize("search", [greedy, beam])
def test_no_target_is_longer_than_the_model_can_read(search):
    model, source = endless(small(max_length=8)), ids(2, 7)
    found = search(model, source, start=START, end=END, extra=50)
    assert found.shape == (2, 8)
    assert torch.equal(found, search(model, source, start=START, end=END, extra=1))


@pytest.mark.parametrize("pad", [0, None])
@pytest.mark.parametrize("search", [greedy, beam])
def test_what_is_shorter_than_the_longest_is_filled(search, pad):
    """With padding, or with `end` where the model has none."""
    shorter = 0
    for seed in range(8):
        found = search(lively(seed, pad=pad), ids(4, 7), start=START, end=END, extra=3)
        for row in found.tolist():
            if END in row:
                rest = row[row.index(END) + 1:]
                assert set(rest) <= {END if pad is None else pad}
                shorter += len(rest) > 0
    assert shorter > 2


@pytest.mark.parametrize("kwargs, message", [
    ({"beams": 0}, "beams must be a whole number from 1 up, got beams=0"),
    *[({"alpha": a}, f"alpha must be from 0 up and finite, got alpha={a}")
      for a in (-1.0, math.nan, math.inf)],
    ({"extra": -1}, "extra must be a whole number from 0 up, got extra=-1"),
])
def test_errors(kwargs, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        beam(small(), ids(2, 7), start=START, end=END, **kwargs)


@pytest.mark.parametrize("search", [greedy, beam])
@pytest.mark.parametrize("wrong", [{"end": 99}, {"end": -1}, {"start": 99},
                                   {"start": 1.0}, {"end": None}])
def test_start_and_end_are_ids(search, wrong):
    [(name, got)] = wrong.items()
    with pytest.raises(ValueError, match=rf"^{name} must be an id from 0 to vocabulary "
                       rf"- 1, got {name}={got}, vocabulary=\d+$"):
        search(small(), ids(2, 7), **{"start": START, "end": END, **wrong})


@pytest.mark.parametrize("search", [greedy, beam])
def test_training_mode_and_wrong_sources(search):
    with pytest.raises(ValueError, match=r"^model must be in eval mode, its dropout "
                       r"would decide: call model\.eval\(\)$"):
        search(small().train(), ids(2, 7), start=START, end=END)
    for source in (torch.zeros(2, 7), ids(2, 7)[0]):
        with pytest.raises(ValueError, match="^source must be"):
            search(small(), source, start=START, end=END)
    with pytest.raises(ValueError, match="^end must not be padding, which is never "
                       "written, got end=0$"):
        search(small(), ids(2, 7), start=START, end=0)


@given(b=st.integers(0, 3), m=st.integers(1, 6), beams=st.integers(1, 5),
       extra=st.integers(0, 4), seed=st.integers(0, 30))
@settings(max_examples=25, deadline=None)
def test_any_shape(b, m, beams, extra, seed):
    model, source = tiny(seed, 5), ids(b, m, vocabulary=5, seed=seed)
    for found in (greedy(model, source, start=START, end=END, extra=extra),
                  beam(model, source, start=START, end=END, beams=beams, extra=extra)):
        rows = lists(found)
        assert len(rows) == b and all(1 <= len(row) <= m + extra for row in rows)
        assert all(row[-1] == END or len(row) == m + extra for row in rows)
        assert found.shape[1] == max(map(len, rows), default=0)


def test_the_docstrings_run():
    torch.set_default_dtype(torch.float32)
    failed, tried = doctest.testmod(cvattn.decode)
    assert tried >= 6 and failed == 0
    assert Transformer.decode.__doc__
