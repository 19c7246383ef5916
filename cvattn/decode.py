"""Decoding: write the target that a Transformer finds likely, token by token."""

import torch
from torch import Tensor

from . import checks
from .multihead import Cache
from .precision import wide
from .transformer import Transformer


def log_p(model: Transformer, target: Tensor, memory: Tensor, seen: Tensor | None,
          cache: Cache | None) -> Tensor:
    """Return log p of each id as the next one, that of padding -inf: (B, V)."""
    logits = model.decode(target, memory, seen, cache=cache)[:, -1]
    if model.pad is not None:
        logits[:, model.pad] = -torch.inf
    # Sums of many bfloat16 would not tell one beam from another.
    return logits.log_softmax(-1, wide(logits.dtype))


def limits(model: Transformer, source: Tensor, start: int, end: int,
           extra: int) -> Tensor:
    """Check the arguments; return the most tokens that each source may give, (B,)."""
    if model.training:
        raise ValueError("model must be in eval mode, its dropout would decide: "
                         "call model.eval()")
    checks.whole(extra=extra, least=0)
    for ids in ({"start": start}, {"end": end}):
        checks.id_of(len(model.embedding.weight), **ids)
    if end == model.pad:
        raise ValueError(
            f"end must not be padding, which is never written, got end={end}")
    seen = model.tokens(source, "source")
    if seen is None:
        seen = torch.ones_like(source, dtype=torch.bool)
    longest = len(model.positions.PE)
    return (seen.flatten(1).sum(dim=1) + extra).clamp(max=longest)


def penalty(length: Tensor | int, alpha: float) -> Tensor | float:
    """Wu et al. 2016, Eq. 14: lp(Y) = (5 + |Y|)^alpha / (5 + 1)^alpha."""
    return ((5 + length) / 6) ** alpha


@torch.no_grad()
def greedy(model: Transformer, source: Tensor, *, start: int, end: int,
           extra: int = 50, cached: bool = True) -> Tensor:
    """Take the likeliest next token, again and again.

    y_n = argmax over k of p(k | y_1 ... y_{n-1}, source)

    Shape:
        source: (B, M) ids. result: (B, T) ids without `start`; after `end` comes
        padding (`end` again where the model has none). T is that of the longest.

    Args:
        model: in eval mode.
        source: what to translate.
        start: the id that begins every target.
        end: the id after which a target is complete.
        extra: how many tokens more than its source a target may have, but no more in
            all than the model's max_length.
        cached: keep the keys and values of earlier tokens, which saves time alone.

    Raises:
        ValueError: if the model is in training mode, if extra is negative, if start or
            end is not one of the model's ids, if end is its padding, or on a source
            that `Transformer` does not take.

    Source: Vaswani et al., NeurIPS 2017, section 6.1, for the length;
    arXiv 1706.03762v7.

    >>> model = Transformer(10, dim=8, hidden=8, layers=1).eval()
    >>> source = torch.randint(3, 10, (2, 5))
    >>> greedy(model, source, start=1, end=2, extra=0).shape[1] <= 5
    True
    """
    limit = limits(model, source, start, end, extra)
    memory, seen = model.encode(source)
    fill, cache = end if model.pad is None else model.pad, {} if cached else None
    target = source.new_full((len(source), 1), start)
    done = limit < 1
    while not done.all():
        token = log_p(model, target, memory, seen, cache).argmax(dim=1)
        token = token.masked_fill(done, fill).to(target.dtype)
        target = torch.cat([target, token[:, None]], dim=1)
        done = done | (token == end) | (target.shape[1] > limit)
    return target[:, 1:]


@torch.no_grad()
def beam(model: Transformer, source: Tensor, *, start: int, end: int, beams: int = 4,
         alpha: float = 0.6, extra: int = 50, cached: bool = True) -> Tensor:
    """Follow the likeliest few beginnings at once; return the best complete target.

    s(Y) = log p(Y | source) / lp(Y)                        (Wu et al. 2016, Eq. 14)
    lp(Y) = (5 + |Y|)^alpha / (5 + 1)^alpha,  |Y| counts `end`

    Each step ranks all one-token extensions of the living beams by log p. Those among
    the first `beams` that end are complete; the first `beams` that do not end live on.
    A source is done when no living beam can still score more than its best complete
    target, or at its longest length; if nothing has ended there, the likeliest living
    beam is returned. With beams=1 and alpha=0 this is `greedy`.

    Shape:
        source: (B, M) ids. result: (B, T) ids, as `greedy`.

    Args:
        model: in eval mode.
        source: what to translate.
        start: the id that begins every target.
        end: the id after which a target is complete.
        beams: how many beginnings live.
        alpha: how much long targets are helped; 0 is not at all.
        extra: as in `greedy`.
        cached: as in `greedy`.

    Raises:
        ValueError: if beams is not positive, if alpha is not from 0 up and finite, or
            as `greedy`.

    Differs from the paper: it does not print when a search ends, nor name the coverage
    penalty of Wu et al., and none is here.

    Source: Vaswani et al., NeurIPS 2017, section 6.1; arXiv 1706.03762v7. Wu et al.,
    2016, section 7; arXiv 1609.08144v2.

    >>> model = Transformer(10, dim=8, hidden=8, layers=1).eval()
    >>> source = torch.randint(3, 10, (2, 5))
    >>> beam(model, source, start=1, end=2, extra=0).shape[1] <= 5
    True
    """
    [beams] = checks.whole(beams=beams)
    if not 0 <= alpha < torch.inf:
        raise ValueError(f"alpha must be from 0 up and finite, got alpha={alpha}")
    limit = limits(model, source, start, end, extra)
    memory, seen = model.encode(source)
    fill, cache = end if model.pad is None else model.pad, {} if cached else None
    memory = memory.repeat_interleave(beams, dim=0)
    seen = None if seen is None else seen.repeat_interleave(beams, dim=0)
    B, V = len(source), len(model.embedding.weight)
    rows = torch.arange(B, device=source.device)
    target = source.new_full((B * beams, 1), start)
    s = torch.full((B, beams), -torch.inf, device=source.device)    # of the living
    s[:, 0] = 0.0
    best, best_s = target.new_empty(B, 0), torch.full_like(s[:, 0], -torch.inf)
    length = torch.zeros_like(limit)
    done = limit < 1
    while not done.all():
        n = target.shape[1]                               # the length after this step
        p = log_p(model, target, memory, seen, cache).view(B, beams, V) + s[..., None]
        top, index = p.flatten(1).topk(min(2 * beams, beams * V))
        parent, token = rows[:, None] * beams + index // V, index % V
        grown = torch.cat([target[parent], token[..., None].to(target.dtype)], dim=2)

        ended = token == end
        complete = top[:, :beams].masked_fill(~ended[:, :beams], -torch.inf)
        complete_s, which = (complete / penalty(n, alpha)).max(dim=1)
        s, live = top.masked_fill(ended, -torch.inf).topk(beams)
        cut = (n >= limit) & (best_s.maximum(complete_s) == -torch.inf)
        better = ((complete_s > best_s) | cut) & ~done
        which = torch.where(cut, live[:, 0], which)
        best = torch.nn.functional.pad(best, (0, 1), value=fill)
        best = torch.where(better[:, None], grown[rows, which, 1:], best)
        best_s = torch.where(better, complete_s, best_s)
        length = torch.where(better, n, length)
        done = done | (n >= limit) | (best_s >= s[:, 0] / penalty(limit.to(s), alpha))

        target = grown[rows[:, None], live].flatten(0, 1)
        parent = parent[rows[:, None], live].flatten()
        if cache is not None:       # the memory's keys are the same for all beams
            for layer in model.decoder:
                K, V_ = cache[layer.attention]
                cache[layer.attention] = K[parent], V_[parent]
    return best[:, : int(length.max()) if B else 0]
