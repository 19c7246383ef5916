"""The exercises of the Transformer's chapter: other right answers, and near misses."""

import math

import pytest
import torch
from test_check import flat
from torch.nn import functional as F

from cvattn.book import check
from cvattn.book.exercises.transformer import EXERCISES, story, streamed
from cvattn.book.exercises.transformer import all_at_once as whole
from cvattn.multihead import causal_mask, weights
from cvattn.recipe import label_smoothing
from cvattn.transformer import PositionalEncoding, Transformer


def eye(a):
    """Queries and keys whose scores, divided by sqrt(d), are a."""
    return a * math.sqrt(a.shape[1]), torch.eye(a.shape[1])


def test_other_ways_to_be_right_are_right():
    assert check("transformer-1", lambda a: weights(*eye(a), causal=True))
    assert check("transformer-1", lambda a: (a + torch.full_like(a, -math.inf).triu(1)
                                             ).softmax(1))
    assert check("transformer-2", lambda a, may: weights(*eye(a), may))
    assert check("transformer-2", lambda a, may: a.masked_fill(
        ~may, -math.inf).softmax(1).nan_to_num())
    assert check("transformer-3", lambda x, h: torch.stack(x.chunk(h, dim=1)))
    assert check("transformer-4", lambda t, D: PositionalEncoding(
        D, dropout=0.0).PE[t.long()])
    assert check("transformer-8", lambda step, start, end, most: loop(
        step, start, end, most))
    assert check("transformer-9", lambda x, f, norm, first: (
        x + f(norm(x)) if first else norm(f(x) + x)))
    assert check("transformer-10", streamed)


def loop(step, start, end, most):
    ids = []
    for _ in range(most):
        ids.append(step([start, *ids]).argmax().item())
        if ids[-1] == end:
            return ids
    return ids


def test_the_count_is_the_models():
    for V, D, H, L in EXERCISES["transformer-6"].cases():
        with torch.device("meta"):
            model = Transformer(V, dim=D, hidden=H, layers=L, num_heads=4)
        counted = sum(p.numel() for p in model.parameters())
        assert EXERCISES["transformer-6"].reference(V, D, H, L) == counted


def test_the_smooth_targets_give_the_loss():
    for target, V, epsilon in EXERCISES["transformer-7"].cases():
        logits = torch.randn(len(target), V)
        q = EXERCISES["transformer-7"].reference(target, V, epsilon)
        torch.testing.assert_close(
            -(q * logits.log_softmax(1)).sum(1).mean(),
            label_smoothing(logits, target, epsilon=epsilon, pad=None))


def test_the_shift_is_that_of_the_code():
    PE = PositionalEncoding(8, dropout=0.0).PE
    found = EXERCISES["transformer-5"].reference(PE[[0, 5, 33]], 3)
    torch.testing.assert_close(found, PE[[3, 8, 36]], rtol=0, atol=1e-5)


def test_one_pass_over_blocks_is_attention():
    for q, blocks in EXERCISES["transformer-10"].cases():
        K, V = (torch.cat(parts) for parts in zip(*blocks(), strict=True))
        torch.testing.assert_close(
            EXERCISES["transformer-10"].reference(q, blocks),
            F.scaled_dot_product_attention(q, K, V))


def test_the_stories_tell_every_mistake_apart():
    """One text ends by itself, one is cut, and what came first matters."""
    wanted = [EXERCISES["transformer-8"].reference(*args)
              for args in EXERCISES["transformer-8"].cases()]
    ended = [ids[-1] == args[2] for ids, args in zip(
        wanted, EXERCISES["transformer-8"].cases(), strict=True)]
    assert set(ended) == {True, False}
    assert sorted(map(len, wanted))[1] > 1, "all but the text of one letter"
    step = story(31)
    assert not torch.equal(step([0, 1, 2]), step([1, 0, 2]))


def test_a_row_that_may_look_nowhere_is_named_and_other_nan_is_not():
    right = EXERCISES["transformer-2"].reference
    text = flat(check("transformer-2", lambda a, may: a.masked_fill(
        ~may, -math.inf).softmax(1)))
    assert "It should be zeros." in text
    text = flat(check("transformer-2", lambda a, may: torch.where(
        torch.arange(a.shape[1]) == 0, math.nan, right(a, may))))
    assert "returned NaN in 3 of 15 places" in text


def test_an_underflow_is_named_although_most_cases_are_right():
    text = flat(check("transformer-1", lambda a: a.softmax(1).tril()
                      / a.softmax(1).tril().sum(1, keepdim=True)))
    assert "they underflow to zero" in text
    text = flat(check("transformer-1", lambda a: a.masked_fill(
        ~causal_mask(len(a)).tril(-1), -math.inf).softmax(1)))
    assert "A letter may look at itself" in text and "NaN" in text


def tril(a):
    return torch.ones_like(a).tril().bool()


def streamed_from(start, top):
    def answer(q, blocks):
        high, total, y = torch.full((len(q), 1), start), 0, 0
        for K, V in blocks():
            a = q @ K.T / math.sqrt(q.shape[1])
            new = torch.maximum(high, top(a))
            total = total * (high - new).exp() + (a - new).exp().sum(1, keepdim=True)
            y = y * (high - new).exp() + (a - new).exp() @ V
            high = new
        return y / total
    return answer


def keeps_scores(q, blocks):
    kept = [(q @ K.T / math.sqrt(q.shape[1]), V.clone()) for K, V in blocks()]
    top = torch.stack([a.amax(1, keepdim=True) for a, _ in kept]).amax(0)
    total = sum((a - top).exp().sum(1, keepdim=True) for a, _ in kept)
    return sum((a - top).exp() @ V for a, V in kept) / total


def keeps_sums(q, blocks):
    """Right: of each block its largest scores, sums and sums of values, no scores."""
    kept = []
    for K, V in blocks():
        a = q @ K.T / math.sqrt(q.shape[1])
        top = a.amax(1, keepdim=True)
        e = (a - top).exp()
        kept.append((top, e.sum(1, keepdim=True), e @ V))
    top = torch.stack([t for t, *_ in kept]).amax(0)
    return (sum((t - top).exp() * y for t, _, y in kept)
            / sum((t - top).exp() * n for t, n, _ in kept))


def test_partial_sums_are_no_scores():
    assert check("transformer-10", keeps_sums)
    assert check("transformer-10", streamed_from(-math.inf, lambda a: a.amax(
        1, keepdim=True)))


@pytest.mark.parametrize("key, answer, told", [
    ("transformer-1", lambda a: a.masked_fill(tril(a), -math.inf).softmax(1),
     "the wrong way round"),
    ("transformer-1", lambda a: a.masked_fill(~tril(a), -100).softmax(1),
     "are set to a low number, such as -100, a score like any other"),
    ("transformer-1", lambda a: (a - 1e4 * (~tril(a))).softmax(1) * 1.001, "are off"),
    ("transformer-1", lambda a: a.masked_fill(~tril(a), -30).softmax(1), "are off"),
    ("transformer-1", lambda a: a.exp() * tril(a) / (a.exp() * tril(a)).sum(
        1, keepdim=True), "exp overflows"),
    ("transformer-2", lambda a, may: a.softmax(1) * may / (
        (a.softmax(1) * may).sum(1, keepdim=True) + 1e-8), "has underflowed to 0"),
    ("transformer-2", lambda a, may: a.exp() * may / (
        (a.exp() * may).sum(1, keepdim=True) + 1e-8), "overflows or underflows"),
    ("transformer-2", lambda a, may: a.masked_fill(~may, -100.0).softmax(1) * may,
     "Hidden scores are set to a low number"),
    ("transformer-2", lambda a, may: a.masked_fill(~may, -1e9).softmax(1) * may.float()
     .clamp(0, 0.999), "are off"),
    ("transformer-3", lambda x, h: x.view(len(x), h, -1).transpose(0, 1).squeeze(),
     "shape"),
    ("transformer-4", lambda t, D: t[:, :1], "stopped with"),
    ("transformer-4", lambda t, D: torch.zeros(D, len(t)),
     "should return (7, 8): (N, D) with N=7 positions, D=8 channels"),
    ("transformer-5", lambda code, k: code.roll(k, 0), "values are off"),
    ("transformer-6", lambda V, D, H, L: V * D + L * (
        4 * D * D + 2 * D * H + H + 5 * D), "the embedding and the encoder alone"),
    ("transformer-7", lambda target, V, e: torch.nn.functional.one_hot(target, V) * 1.0
     - e, "are off"),
    ("transformer-8", lambda step, start, end, most: [], "should return [2, 2, 3]"),
    ("transformer-9", lambda x, f, norm, first: x + f(norm(x)) if first else norm(x)
     + f(x), "are off"),
    ("transformer-10", streamed_from(0.0, lambda a: a.amax(1, keepdim=True)),
     "begins at 0"),
    ("transformer-10", streamed_from(-math.inf, lambda a: a.max()),
     "One largest score is kept for all queries"),
    ("transformer-10", keeps_scores, "Something of every block is kept"),
    ("transformer-10", lambda q, blocks: whole(q, lambda: [
        (K.clone(), V.clone()) for K, V in blocks()]), "Something of every block"),
])
def test_what_a_student_may_also_try_is_wrong_and_told(key, answer, told):
    verdict = check(key, answer)
    assert not verdict and told in flat(verdict)


def test_exponentials_that_overflow_are_told():
    def bare(q, blocks):
        total = y = 0
        for K, V in blocks():
            e = (q @ K.T / math.sqrt(q.shape[1])).exp()
            total, y = total + e.sum(1, True), y + e @ V
        return y / total
    assert "No largest score is taken off" in flat(check("transformer-10", bare))


def test_blocks_come_once_and_one_at_a_time():
    def two_passes(q, blocks):
        top = max((q @ K.T).max() for K, _ in blocks())
        return sum((q @ K.T - top).exp() @ V for K, V in blocks())
    assert "called a second time" in flat(check("transformer-10", two_passes))
    assert "by then it was gone" in flat(check("transformer-10", whole))
    assert "by then it was gone" in flat(check(
        "transformer-10", lambda q, blocks: streamed(q, lambda: list(blocks()))))


def test_infinity_that_is_multiplied_and_the_wrong_axis_are_named():
    def times(a):
        return (a + torch.ones_like(a).triu(1) * -math.inf).softmax(1)
    assert "0 times infinity is NaN" in flat(check("transformer-1", times))
    assert "0 times infinity is NaN" in flat(check(
        "transformer-2", lambda a, may: (a + ~may * -math.inf).softmax(1)))
    assert "runs over the queries" in flat(check(
        "transformer-2", lambda a, may: a.masked_fill(~may, -math.inf).softmax(0)))


@pytest.mark.parametrize("ids", [[], torch.tensor([0]), [torch.tensor(0)], ["a"]])
def test_what_step_wants_is_told(ids):
    text = flat(check("transformer-8", lambda step, *rest: step(ids)))
    assert "step wants the list of all ids so far" in text
