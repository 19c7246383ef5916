"""Transformer: attention alone, from the softmax of one equation to the whole model.

Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin, "Attention Is
All You Need", NeurIPS 2017; arXiv 1706.03762v7.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Cache = dict[nn.Module, tuple[Tensor, Tensor]]    # each attention's keys and values


def causal_mask(n: int, *, past: int = 0, device: torch.device | None = None) -> Tensor:
    """Let each of n queries look at itself, at what precedes it, at nothing later.

    Shape:
        result: (n, past + n), bool, True where a query may look. `past` keys stand
        before the first query, as in a cache.

    >>> causal_mask(3).int()
    tensor([[1, 0, 0],
            [1, 1, 0],
            [1, 1, 1]], dtype=torch.int32)
    """
    return torch.ones(n, past + n, dtype=torch.bool, device=device).tril(past)


def visible(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool) -> Tensor | None:
    """Join a mask and the causal one into one, or into None: everything is seen."""
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool, True = may look, got {mask.dtype}")
    if not causal:
        return mask
    N, M = q.shape[-2], k.shape[-2]
    if N > M:
        raise ValueError(f"causal needs a key for each query, got N={N}, M={M}")
    order = causal_mask(N, past=M - N, device=q.device)
    return order if mask is None else mask & order


def weights(
    q: Tensor, k: Tensor, mask: Tensor | None = None, *, causal: bool = False
) -> Tensor:
    """Say how much each query takes from each key.

    A = softmax over the keys of q k^T / sqrt(d_k)         (Eq. 1, without V)

    Shape:
        q: (..., N, d_k). k: (..., M, d_k). A: (..., N, M); each row sums to 1.
        mask: bool, broadcasts to (..., N, M), True where a query may look. A row
        without any True is all zeros, and so is its gradient.
        A NaN in q or in a visible key makes the rows that meet it NaN.

    Args:
        q: the queries Q.
        k: the keys K.
        mask: where a query may look; None is everywhere.
        causal: query n may look at key m only if m <= n, the last query standing
            at the last key.

    Raises:
        ValueError: if mask is not bool, or if causal and N > M.

    Differs from the paper: in a row that may look nowhere, where the paper's
    softmax is 0/0.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.1;
    arXiv 1706.03762v7.

    >>> weights(torch.zeros(1, 3, 4), torch.zeros(1, 2, 4))[0, 0]
    tensor([0.5000, 0.5000])
    """
    mask = visible(q, k, mask, causal)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        return scores.softmax(dim=-1)
    # A row of -inf alone would be NaN, in value and in gradient: it stays open.
    seeing = mask.any(dim=-1, keepdim=True)
    scores = scores.masked_fill(~mask & seeing, -math.inf)
    return scores.softmax(dim=-1).masked_fill(~seeing, 0.0)


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *,
    causal: bool = False, dropout: float = 0.0,
) -> Tensor:
    """Give each query the mean of the values, weighed by how its key fits.

    Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V      (Eq. 1)

    It is `weights(q, k, mask) @ v` by torch's fused kernel, which never stores the
    (N, M) weights. A row of the mask without any True is opened for the kernel,
    some of which give NaN for it, and its result is set to zero afterwards.

    Shape:
        q: (..., N, d_k). k: (..., M, d_k). v: (..., M, d_v). result: (..., N, d_v).
        mask: as in `weights`; a query that may look nowhere gets zeros, in value
        and in gradient. A NaN in a value may reach every query, also through a
        weight of zero: pad with finite numbers.

    Args:
        q: the queries Q.
        k: the keys K.
        v: the values V.
        mask: where a query may look; None is everywhere.
        causal: query n may look at key m only if m <= n.
        dropout: the share of the weights set to zero, the others scaled up.

    Raises:
        ValueError: if mask is not bool, or if causal and N > M.

    Differs from the paper: in rows that may look nowhere. The paper drops no
    weights; its code (tensor2tensor) can.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.1;
    arXiv 1706.03762v7.

    >>> q, k, v = torch.randn(3, 2, 5, 4)
    >>> torch.allclose(attention(q, k, v), weights(q, k) @ v, atol=1e-6)
    True
    """
    fused = F.scaled_dot_product_attention
    if mask is None and (not causal or q.shape[-2] == k.shape[-2]):
        return fused(q, k, v, dropout_p=dropout, is_causal=causal)
    mask = visible(q, k, mask, causal)
    seeing = mask.any(dim=-1, keepdim=True)
    y = fused(q, k, v, attn_mask=mask | ~seeing, dropout_p=dropout)
    return y.masked_fill(~seeing, 0.0)


def dense(inputs: int, outputs: int, *, bias: bool) -> nn.Linear:
    """Make a linear layer, its matrix Glorot-uniform, its biases zero."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def check_sequence(x: Tensor, dim: int) -> None:
    """Raise ValueError unless x has three axes, the last of them dim long."""
    if x.ndim != 3 or x.shape[2] != dim:
        raise ValueError(f"x must be (B, N, {dim}), got {tuple(x.shape)}")


class MultiHeadAttention(nn.Module):
    """Attend with h heads, each in its own small space of queries, keys and values.

    head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V)     (section 3.2.2, with Eq. 1)
    MultiHead(Q, K, V) = Concat(head_1, ..., head_h) W^O

    Q is x; K and V are the context, which is x itself in self-attention.

    Shape:
        x: (B, N, D), any B from 0, any N from 1. context: (B, M, D). y: (B, N, D).
        mask: bool, (B, h, N, M) with a 1 for any axis along which it is the same;
        True where a query may look. All four axes are demanded, because a (B, M)
        mask of padding would pass for an (N, M) one: give mask[:, None, None].
        A query that may look nowhere takes zeros. A NaN in x or in the context can
        spoil its whole picture, through a mask too: zero times NaN is NaN.

    Args:
        dim: D, the channels of x, of the context and of y.
        num_heads: h; divides D.
        dropout: the share of the weights dropped in training.
        bias: give W_Q, W_K, W_V and W_O a bias each.
        key_dim: d_k, the length of a query and a key in one head; None is D/h.

    Raises:
        ValueError: if dim is not a positive multiple of num_heads, if key_dim is
            not positive, if dropout is not in [0, 1], if x, context or
            mask has another shape, if mask is not bool, or if causal and N > M.

    Differs from the paper: in nothing by default. It prints neither biases nor
    dropout of the weights; its code (tensor2tensor) has no biases, and dropout of
    the weights from transformer_base_v2 on. The paper names no initialisation:
    Glorot-uniform here. `nn.MultiheadAttention` has biases.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.2;
    arXiv 1706.03762v7.

    >>> x, context = torch.randn(2, 5, 64), torch.randn(2, 7, 64)
    >>> y = MultiHeadAttention(64)(x, context)
    >>> y.shape, MultiHeadAttention(64).weights(x, context).shape
    (torch.Size([2, 5, 64]), torch.Size([2, 8, 5, 7]))
    """

    # Three linears and one that packs them took the same time, forward and backward,
    # at lengths 196, 1024 and 4096 on a CPU: the paper's names are kept. The fused
    # kernel was faster at each of them than `weights(q, k) @ v`.

    def __init__(
        self, dim: int, *, num_heads: int = 8, dropout: float = 0.0, bias: bool = False,
        key_dim: int | None = None,
    ):
        super().__init__()
        if dim < 1 or num_heads < 1 or dim % num_heads:
            raise ValueError(
                "dim must be a positive multiple of num_heads, "
                f"got dim={dim}, num_heads={num_heads}"
            )
        d_k = dim // num_heads if key_dim is None else key_dim
        if d_k < 1:
            raise ValueError(f"key_dim must be positive, got key_dim={d_k}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be from 0 to 1, got dropout={dropout}")
        self.dim, self.num_heads, self.dropout = dim, num_heads, dropout
        self.W_Q = dense(dim, num_heads * d_k, bias=bias)
        self.W_K = dense(dim, num_heads * d_k, bias=bias)
        self.W_V = dense(dim, dim, bias=bias)
        self.W_O = dense(dim, dim, bias=bias)

    def heads(self, x: Tensor) -> Tensor:
        """Give each head its own columns: (B, N, h d) -> (B, h, N, d)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def check(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Raise ValueError on wrong shapes; return where keys and values are from."""
        check_sequence(x, self.dim)
        if context is None:
            return x
        if (context.ndim != 3 or context.shape[0] != x.shape[0]
                or context.shape[2] != self.dim):
            raise ValueError(f"context must be ({x.shape[0]}, M, {self.dim}), "
                             f"got {tuple(context.shape)}")
        return context

    def check_mask(self, mask: Tensor | None, Q: Tensor, K: Tensor) -> None:
        """Raise ValueError unless the mask has four axes, each whole or 1."""
        full = (*Q.shape[:3], K.shape[2])
        if mask is not None and (mask.ndim != 4 or any(
                n != 1 and n != m for n, m in zip(mask.shape, full, strict=True))):
            raise ValueError(f"mask must be (B, h, N, M) = {full}, or 1 for any of "
                             f"them, got {tuple(mask.shape)}")

    def keys_and_values(
        self, context: Tensor, own: bool, cache: Cache | None
    ) -> tuple[Tensor, Tensor]:
        """Project the context; with a cache, add to it what it lacks."""
        past = None if cache is None else cache.get(self)
        if past is not None and not own:
            return past
        K, V = self.heads(self.W_K(context)), self.heads(self.W_V(context))
        if past is not None:
            K, V = torch.cat([past[0], K], dim=2), torch.cat([past[1], V], dim=2)
        if cache is not None:
            cache[self] = K, V
        return K, V

    def weights(
        self, x: Tensor, context: Tensor | None = None, *,
        mask: Tensor | None = None, causal: bool = False,
    ) -> Tensor:
        """Return A of each head, (B, h, N, M): what `forward` weighs the values by."""
        context = self.check(x, context)
        Q = self.heads(self.W_Q(x))                       # (B, h, N, d_k)
        K = self.heads(self.W_K(context))                 # (B, h, M, d_k)
        self.check_mask(mask, Q, K)
        return weights(Q, K, mask, causal=causal)         # (B, h, N, M)

    def forward(
        self, x: Tensor, context: Tensor | None = None, *,
        mask: Tensor | None = None, causal: bool = False, cache: Cache | None = None,
    ) -> Tensor:
        """Return y (B, N, D).

        With a cache, a dict that the caller owns and that starts empty, x holds only
        the positions not seen before: self-attention appends their keys and values
        to those in the cache, and looks at all; attention to a context keeps the
        keys and values of the first call. M then counts the cached keys too.
        """
        own, context = context is None, self.check(x, context)
        Q = self.heads(self.W_Q(x))                       # (B, h, N, d_k)
        K, V = self.keys_and_values(context, own, cache)
        self.check_mask(mask, Q, K)
        p = self.dropout if self.training else 0.0
        y = attention(Q, K, V, mask, causal=causal, dropout=p)   # (B, h, N, d_v)
        return self.W_O(y.transpose(1, 2).flatten(2))     # (B, N, D)


class FeedForward(nn.Module):
    """Send each position by itself through one wide hidden layer.

    FFN(x) = max(0, x W1 + b1) W2 + b2      (Eq. 2)

    Shape:
        x, y: (B, N, D), any B from 0. A NaN spoils its own position alone.

    Args:
        dim: D, the channels of x and y.
        hidden: d_ff, the width of the hidden layer.
        activation: the function between the layers; the paper's is the ReLU.

    Raises:
        ValueError: if dim or hidden is not positive, or if x is not (B, N, dim).

    Differs from the paper: in nothing by default.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.3;
    arXiv 1706.03762v7.

    >>> FeedForward(64, hidden=256)(torch.randn(2, 5, 64)).shape
    torch.Size([2, 5, 64])
    """

    def __init__(
        self, dim: int, *, hidden: int = 2048,
        activation: Callable[[Tensor], Tensor] = torch.relu,
    ):
        super().__init__()
        if dim < 1 or hidden < 1:
            raise ValueError(
                f"dim and hidden must be positive, got dim={dim}, hidden={hidden}")
        self.dim, self.activation = dim, activation
        self.W1, self.W2 = dense(dim, hidden, bias=True), dense(hidden, dim, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        check_sequence(x, self.dim)
        return self.W2(self.activation(self.W1(x)))       # (B, N, D)


class PositionalEncoding(nn.Module):
    """Add to each position waves of many lengths, which say where it stands.

    PE(pos, 2i)   = sin(pos / 10000^(2i/D))      (section 3.5)
    PE(pos, 2i+1) = cos(pos / 10000^(2i/D))

    PE(pos + k) is PE(pos), each pair of it rotated by an angle that only k sets.

    Shape:
        x, y: (B, N, D), any B from 0, N from 0 to max_length. PE, the buffer:
        (max_length, D), not in the state dict; computed in float64 and kept in the
        default type of the construction, which `.double()` cannot make more exact.
        A NaN spoils itself alone.

    Args:
        dim: D, the channels of x. Where it is odd, the last sine has no cosine.
        dropout: the share of the sums dropped in training (section 5.4).
        max_length: the positions for which PE is stored.

    Raises:
        ValueError: if dim or max_length is not positive, if x is not (B, N, dim), or
            if it starts before position 0 or reaches beyond max_length.

    Differs from the paper: in nothing; it gives the equation no number. Its code
    (tensor2tensor) puts all sines before all cosines, another order of the channels,
    and has D/2 - 1 for D/2 in the exponent, which makes the longest wave 10000 * 2 pi.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.5;
    arXiv 1706.03762v7.

    >>> PositionalEncoding(4, dropout=0.0)(torch.zeros(1, 2, 4))
    tensor([[[0.0000, 1.0000, 0.0000, 1.0000],
             [0.8415, 0.5403, 0.0100, 0.9999]]])
    """

    PE: Tensor

    def __init__(self, dim: int, *, dropout: float = 0.1, max_length: int = 5000):
        super().__init__()
        if dim < 1 or max_length < 1:
            raise ValueError("dim and max_length must be positive, "
                             f"got dim={dim}, max_length={max_length}")
        self.dim, self.dropout = dim, nn.Dropout(dropout)
        pos = torch.arange(max_length, dtype=torch.float64)[:, None]
        two_i = torch.arange(0, dim, 2, dtype=torch.float64)
        angle = pos / 10000 ** (two_i / dim)
        PE = torch.empty(max_length, dim)
        PE[:, 0::2], PE[:, 1::2] = angle.sin(), angle.cos()[:, : dim // 2]
        self.register_buffer("PE", PE, persistent=False)

    def forward(self, x: Tensor, *, start: int = 0) -> Tensor:
        """Return x + PE; `start` is the position of x's first column."""
        check_sequence(x, self.dim)
        if start < 0 or start + x.shape[1] > len(self.PE):
            raise ValueError("x must stand from position 0 to max_length="
                             f"{len(self.PE)}, got start={start}, N={x.shape[1]}")
        return self.dropout(x + self.PE[start : start + x.shape[1]])   # (B, N, D)


class EncoderLayer(nn.Module):
    """Let positions look at each other, then think each by itself.

    x = LayerNorm(x + MultiHead(x, x, x))      (section 3.1, MultiHead of Eq. 1)
    y = LayerNorm(x + FFN(x))                  (FFN of Eq. 2)

    Shape:
        x, y: (B, N, D), any B from 0, any N from 1. mask: as MultiHeadAttention's,
        (B, h, N, N) or 1 for any of them. A NaN in x makes its picture NaN; under a
        mask or causal it can.

    Args:
        dim: D, the channels of x and y.
        num_heads: h of the attention; divides D.
        hidden: d_ff, the width of the feed-forward's hidden layer.
        dropout: the share dropped of each sublayer's result before it is added.
        norm_first: normalise what enters each sublayer, not the sum: x + FFN(
            LayerNorm(x)). A stack of such layers needs one LayerNorm after its last,
            for no norm stands on the way of the sum; a stack of the paper's needs
            none, for its last operation is one.
        bias: give the attention's four projections biases.
        key_dim: d_k, the length of a query and a key in one head; None is D/h.
        activation: of the feed-forward.
        eps: added to the variance in LayerNorm; the paper names none.

    Raises:
        ValueError: as MultiHeadAttention and FeedForward.

    Differs from the paper: in nothing by default. Its code (tensor2tensor) is
    norm_first from transformer_base_v2 on, and drops weights and hidden units too,
    as `nn.TransformerEncoderLayer` does; here they are dropped as section 5.4 says.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017,
    sections 3.1 and 5.4; arXiv 1706.03762v7.

    >>> EncoderLayer(64, hidden=256)(torch.randn(2, 5, 64)).shape
    torch.Size([2, 5, 64])
    """

    def __init__(
        self, dim: int, *, num_heads: int = 8, hidden: int = 2048, dropout: float = 0.1,
        norm_first: bool = False, bias: bool = False, key_dim: int | None = None,
        activation: Callable[[Tensor], Tensor] = torch.relu, eps: float = 1e-5,
    ):
        super().__init__()
        self.dim, self.norm_first = dim, norm_first
        self.attention = MultiHeadAttention(
            dim, num_heads=num_heads, bias=bias, key_dim=key_dim)
        self.feed_forward = FeedForward(dim, hidden=hidden, activation=activation)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def weights(
        self, x: Tensor, *, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Return the attention's weights, (B, h, N, N)."""
        check_sequence(x, self.dim)
        x = self.norm1(x) if self.norm_first else x                   # (B, N, D)
        return self.attention.weights(x, mask=mask, causal=causal)    # (B, h, N, N)

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        check_sequence(x, self.dim)
        how = {"mask": mask, "causal": causal}
        if self.norm_first:
            x = x + self.dropout(self.attention(self.norm1(x), **how))
            return x + self.dropout(self.feed_forward(self.norm2(x)))
        x = self.norm1(x + self.dropout(self.attention(x, **how)))
        return self.norm2(x + self.dropout(self.feed_forward(x)))


class DecoderLayer(nn.Module):
    """Let positions look back at each other, then at the memory, then think.

    x = LayerNorm(x + MultiHead(x, x, x)), causal      (section 3.1, with Eq. 1)
    x = LayerNorm(x + MultiHead(x, memory, memory))
    y = LayerNorm(x + FFN(x))                          (FFN of Eq. 2)

    Shape:
        x, y: (B, N, D), any B from 0, any N from 1. memory: (B, M, D).
        mask: (B, h, N, N), memory_mask: (B, h, N, M), bool or 1 for any axis, as
        MultiHeadAttention's. No position sees a later one, whatever the mask.
        A NaN in x or memory can make its whole picture NaN, through a mask too.

    Args:
        dim: D, the channels of x, memory and y.
        num_heads: h of both attentions; divides D.
        hidden: d_ff, the width of the feed-forward's hidden layer.
        dropout: the share dropped of each sublayer's result before it is added.
        norm_first: as in EncoderLayer.
        bias: give the attentions' projections biases.
        key_dim: d_k, the length of a query and a key in one head; None is D/h.
        activation: of the feed-forward.
        eps: added to the variance in LayerNorm; the paper names none.

    Raises:
        ValueError: as MultiHeadAttention and FeedForward.

    Differs from the paper: as EncoderLayer. `nn.TransformerDecoderLayer` is causal
    only if it is given a mask.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017,
    sections 3.1, 3.2.3 and 5.4; arXiv 1706.03762v7.

    >>> layer, memory = DecoderLayer(64, hidden=256), torch.randn(2, 7, 64)
    >>> layer(torch.randn(2, 5, 64), memory).shape
    torch.Size([2, 5, 64])
    """

    def __init__(
        self, dim: int, *, num_heads: int = 8, hidden: int = 2048, dropout: float = 0.1,
        norm_first: bool = False, bias: bool = False, key_dim: int | None = None,
        activation: Callable[[Tensor], Tensor] = torch.relu, eps: float = 1e-5,
    ):
        super().__init__()
        self.dim, self.norm_first = dim, norm_first
        self.attention, self.cross = (MultiHeadAttention(
            dim, num_heads=num_heads, bias=bias, key_dim=key_dim)
            for _ in range(2))
        self.feed_forward = FeedForward(dim, hidden=hidden, activation=activation)
        self.norm1, self.norm2, self.norm3 = (
            nn.LayerNorm(dim, eps=eps) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def look_back(
        self, x: Tensor, mask: Tensor | None, cache: Cache | None = None
    ) -> Tensor:
        """The first sublayer: causal self-attention, added and normalised."""
        check_sequence(x, self.dim)
        how = {"mask": mask, "causal": True, "cache": cache}
        if self.norm_first:
            x = x + self.dropout(self.attention(self.norm1(x), **how))
            return x                                                  # (B, N, D)
        x = x + self.dropout(self.attention(x, **how))
        return self.norm1(x)                                          # (B, N, D)

    def weights(
        self, x: Tensor, memory: Tensor, *,
        mask: Tensor | None = None, memory_mask: Tensor | None = None,
    ) -> Tensor:
        """Return how much each position takes from the memory, (B, h, N, M).

        Those of the self-attention are `attention.weights(x, causal=True)`, of
        norm1(x) where the norm comes first.
        """
        x = self.look_back(x, mask)                                   # (B, N, D)
        x = self.norm2(x) if self.norm_first else x                   # (B, N, D)
        return self.cross.weights(x, memory, mask=memory_mask)        # (B, h, N, M)

    def forward(
        self, x: Tensor, memory: Tensor, *,
        mask: Tensor | None = None, memory_mask: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Return y; the cache is as in MultiHeadAttention.forward."""
        x = self.look_back(x, mask, cache)                            # (B, N, D)
        how = {"mask": memory_mask, "cache": cache}
        if self.norm_first:
            x = x + self.dropout(self.cross(self.norm2(x), memory, **how))
            return x + self.dropout(self.feed_forward(self.norm3(x)))
        x = self.norm2(x + self.dropout(self.cross(x, memory, **how)))
        return self.norm3(x + self.dropout(self.feed_forward(x)))


class Transformer(nn.Module):
    """Read a source, write a target: predict each token from those before it.

    memory = encoder(sqrt(D) E[source] + PE)              (sections 3.1, 3.4, 3.5)
    logits = decoder(sqrt(D) E[target] + PE, memory) E^T  (with Eqs. 1 and 2)

    One matrix E embeds the source, embeds the target and makes the logits.
    The model makes its masks itself, from the padding id: no position sees padding,
    nor a later target. The column n of the logits predicts the token n + 1 of the
    target: train on model(source, target[:, :-1]) against target[:, 1:].

    Shape:
        source: (B, M), target: (B, N), of ids, any B from 0, any M and N from 1.
        logits: (B, N, V); those of padding mean nothing. memory: (B, M, D).
        Ids are whole, so that no NaN can enter.

    Args:
        vocabulary: V, the number of ids, from 0; source and target share them.
        dim: D, the channels of every layer.
        num_heads: h of every attention; divides D.
        hidden: d_ff of every feed-forward.
        layers: N of the paper, for the encoder and as many for the decoder.
        dropout: of each sublayer and of the sums of embeddings and positions.
        norm_first: as in EncoderLayer; adds a LayerNorm after each stack, which the
            paper's form must not have: `nn.Transformer` has it in both.
        bias: give the attentions' projections biases.
        key_dim: d_k, the length of a query and a key in one head; None is D/h.
        pad: the id of padding, or None if every id is a token.
        max_length: the longest source and target.

    Raises:
        ValueError: if layers or vocabulary is not positive, if pad is not an id, if
            ids are not (B, N) of int64 or int32, if the two batches differ, or as
            MultiHeadAttention, FeedForward and PositionalEncoding.
        IndexError: on an id that is not from 0 to V - 1, on the CPU. On a GPU torch
            stops with a device-side assertion instead.

    Differs from the paper: in nothing by default. It ties the three matrices where
    both languages share one vocabulary, as here. E starts as N(0, 1/D), as in its
    code (tensor2tensor), so that sqrt(D) E has variance 1. The big model is
    `Transformer(V, dim=1024, num_heads=16, hidden=4096, dropout=0.3)`.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017,
    sections 3 and 5.4, Table 3; arXiv 1706.03762v7.

    >>> model = Transformer(100, dim=64, hidden=256, layers=2)
    >>> source, target = torch.randint(1, 100, (2, 7)), torch.randint(1, 100, (2, 5))
    >>> model(source, target).shape
    torch.Size([2, 5, 100])
    """

    def __init__(
        self, vocabulary: int, *, dim: int = 512, num_heads: int = 8,
        hidden: int = 2048, layers: int = 6, dropout: float = 0.1,
        norm_first: bool = False, bias: bool = False, key_dim: int | None = None,
        pad: int | None = 0, max_length: int = 5000,
    ):
        super().__init__()
        if vocabulary < 1 or layers < 1:
            raise ValueError("vocabulary and layers must be positive, "
                             f"got vocabulary={vocabulary}, layers={layers}")
        if pad is not None and not 0 <= pad < vocabulary:
            raise ValueError("pad must be None or an id below vocabulary, "
                             f"got pad={pad}, vocabulary={vocabulary}")

        def stack(layer: type[nn.Module]) -> nn.ModuleList:
            return nn.ModuleList(layer(
                dim, num_heads=num_heads, hidden=hidden, dropout=dropout,
                norm_first=norm_first, bias=bias, key_dim=key_dim)
                for _ in range(layers))

        self.dim, self.pad = dim, pad
        self.encoder, self.decoder = stack(EncoderLayer), stack(DecoderLayer)
        self.positions = PositionalEncoding(dim, dropout=dropout, max_length=max_length)
        self.embedding = nn.Embedding(vocabulary, dim)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        self.encoder_norm, self.decoder_norm = (
            nn.LayerNorm(dim) if norm_first else nn.Identity() for _ in range(2))

    def embed(self, ids: Tensor, *, start: int = 0) -> Tensor:
        """Return sqrt(D) E[ids] + PE from the column `start` on."""
        x = self.embedding(ids[:, start:]) * math.sqrt(self.dim)
        return self.positions(x, start=start)

    def tokens(self, ids: Tensor, name: str) -> Tensor | None:
        """Check ids; return where they are no padding, as a mask, or None: all."""
        if ids.ndim != 2 or ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"{name} must be (B, N) of torch.int64 or torch.int32, "
                             f"got {tuple(ids.shape)} of {ids.dtype}")
        return None if self.pad is None else (ids != self.pad)[:, None, None]

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the memory and where it is no padding: what `decode` wants."""
        seen = self.tokens(source, "source")
        x = self.embed(source)                            # (B, M, D)
        for layer in self.encoder:
            x = layer(x, mask=seen)                       # (B, M, D)
        return self.encoder_norm(x), seen

    def decode(
        self, target: Tensor, memory: Tensor, seen: Tensor | None, *,
        cache: Cache | None = None,
    ) -> Tensor:
        """Return the logits of every column of the target, (B, N, V).

        With a cache (a dict, empty at first, of this memory alone) the target is
        still the whole one, but only columns added since the last call are computed
        and returned, equal up to rounding to those computed without.
        """
        mask = self.tokens(target, "target")
        known = cache[self.decoder[0].attention][0].shape[2] if cache else 0
        if known and known >= target.shape[1]:
            raise ValueError(f"target must be longer than the cache, "
                             f"got N={target.shape[1]}, {known} columns in the cache")
        x = self.embed(target, start=known)
        for layer in self.decoder:
            x = layer(x, memory, mask=mask, memory_mask=seen, cache=cache)
        return F.linear(self.decoder_norm(x), self.embedding.weight)

    def weights(self, source: Tensor, target: Tensor) -> Tensor:
        """Return how much targets take from sources in each layer, (L, B, h, N, M)."""
        memory, seen = self.encode(source)
        mask = self.tokens(target, "target")
        x, maps = self.embed(target), []
        for layer in self.decoder:
            maps.append(layer.weights(x, memory, mask=mask, memory_mask=seen))
            x = layer(x, memory, mask=mask, memory_mask=seen)
        return torch.stack(maps)                          # (L, B, h, N, M)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, seen = self.encode(source)
        return self.decode(target, memory, seen)          # (B, N, V)


def label_smoothing(
    logits: Tensor, target: Tensor, *, epsilon: float = 0.1, pad: int | None = 0
) -> Tensor:
    """Compare logits with targets of which a share is spread over all ids.

    loss = - sum_k q(k) log p(k),  q(k) = (1 - epsilon) [k = target] + epsilon / V

    It is `F.cross_entropy(..., label_smoothing=epsilon, ignore_index=pad)`: torch's is
    the paper's. Others spread epsilon over V - 1 or V - 2 ids.

    Shape:
        logits: (..., V). target: (...), ids of int64. loss: a scalar, the mean over
        all targets that are not padding; NaN if there is none, as torch's, or if a
        logit of one is NaN.

    Args:
        logits: log p up to a constant.
        target: the right ids.
        epsilon: the share that is spread, from 0 to 1.
        pad: the id that counts for nothing, or None: only torch's -100 does.

    Raises:
        ValueError: if logits are not the target's shape and one axis more.

    Differs from the paper: in nothing; it cites Szegedy et al. 2016 (section 7).

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 5.4;
    arXiv 1706.03762v7.

    >>> label_smoothing(torch.zeros(2, 5, 10), torch.ones(2, 5, dtype=torch.int64))
    tensor(2.3026)
    """
    if logits.shape[:-1] != target.shape:
        raise ValueError(f"logits must be (..., V) and target (...), "
                         f"got {tuple(logits.shape)} and {tuple(target.shape)}")
    return F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), target.flatten(), label_smoothing=epsilon,
        ignore_index=-100 if pad is None else pad)


def warmup(step: int, *, dim: int = 512, steps: int = 4000) -> float:
    """Let the learning rate rise in a line, then fall as one over a root.

    rate = D^-0.5 min(step^-0.5, step steps^-1.5)      (Eq. 3)

    Args:
        step: the number of the update, from 1. LambdaLR counts from 0:
            `LambdaLR(optimizer, lambda n: warmup(n + 1))` with lr=1.
        dim: D of the model.
        steps: warmup_steps, at which the rate is highest.

    Raises:
        ValueError: if step, dim or steps is below 1.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 5.3;
    arXiv 1706.03762v7.
    Its Adam has betas (0.9, 0.98) and eps 1e-9.

    >>> f"{warmup(4000):.1e}"
    '7.0e-04'
    """
    if step < 1 or dim < 1 or steps < 1:
        raise ValueError("step, dim and steps must be at least 1, "
                         f"got step={step}, dim={dim}, steps={steps}")
    return dim**-0.5 * min(step**-0.5, step * steps**-1.5)
