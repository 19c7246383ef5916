"""Multi-head attention: the one equation, its masks, and the module around it.

Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin, "Attention Is
All You Need", NeurIPS 2017, section 3.2; arXiv 1706.03762v7.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from . import checks
from .precision import no_autocast, wide

Cache = dict[nn.Module, tuple[Tensor, Tensor]]    # each attention's keys and values


def causal_mask(n: int, *, past: int = 0, device: torch.device | None = None) -> Tensor:
    """Let each of n queries look at itself, at what precedes it, at nothing later.

    Shape:
        result: (n, past + n), bool, True where a query may look; `past` keys stand
        before the first query.

    Raises:
        ValueError: if n or past is not a whole number from 0 up.

    >>> causal_mask(3).int()
    tensor([[1, 0, 0],
            [1, 1, 0],
            [1, 1, 1]], dtype=torch.int32)
    """
    n, past = checks.whole(n=n, past=past, least=0)
    return torch.ones(n, past + n, dtype=torch.bool, device=device).tril(past)


def check(q: Tensor, k: Tensor, v: Tensor | None = None) -> None:
    """Ask for queries and keys of one length, and a value for each key."""
    if torch.jit.is_tracing():
        return
    checks.tensor(q, "q", "(..., N, d_k)", q.ndim > 1)
    checks.tensor(k, "k", f"(..., M, {q.shape[-1]})",
                  k.ndim > 1 and k.shape[-1] == q.shape[-1])
    if v is not None:
        checks.tensor(v, "v", f"(..., {k.shape[-2]}, d_v)",
                      v.ndim > 1 and v.shape[-2] == k.shape[-2])


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
        q: (..., N, d_k). k: (..., M, d_k). A: (..., N, M), in q's type; each row sums
        to 1.

    Args:
        q, k: the queries Q and the keys K.
        mask: bool, broadcasts to (..., N, M), True where a query may look, or None. A
            row without any True, the paper's 0/0, is all zeros, and so is its gradient.
        causal: no key after the query's own, the last query standing at the last key.

    Raises:
        ValueError: if q or k has another shape or is not floating point, if mask is not
            bool, or if causal and N > M.

    >>> weights(torch.zeros(1, 3, 4), torch.zeros(1, 2, 4))[0, 0]
    tensor([0.5000, 0.5000])
    """
    check(q, k)
    mask, dtype = visible(q, k, mask, causal), wide(q.dtype, k.dtype)
    with no_autocast(q):        # the products of float16 numbers may be beyond it
        scores = q.to(dtype) / math.sqrt(q.shape[-1]) @ k.to(dtype).mT
    if mask is None:
        return scores.softmax(dim=-1).to(q.dtype)
    # A row of -inf alone would be NaN, in value and in gradient: it stays open.
    seeing = mask.any(dim=-1, keepdim=True)
    scores = scores.masked_fill(~mask & seeing, -math.inf)
    return scores.softmax(dim=-1).masked_fill(~seeing, 0.0).to(q.dtype)


@fx.wrap
def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *,
    causal: bool = False, dropout: float = 0.0,
) -> Tensor:
    """Give each query the mean of the values, weighted by how its key fits.

    Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V      (Eq. 1)

    It is `weights(q, k, mask) @ v` by torch's fused kernel, which never stores the
    (N, M) weights. A NaN in a value may reach every query, masked or not. On the CPU
    that kernel has no second derivative: for one, compute the first within
    `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.

    Shape:
        q: (..., N, d_k). k: (..., M, d_k). v: (..., M, d_v). result: (..., N, d_v).

    Args:
        q, k, v: the queries Q, the keys K and the values V.
        mask, causal: as in `weights`; a query that may look nowhere gets zeros.
        dropout: the share of the weights set to zero, the others scaled up.

    Raises:
        ValueError: as `weights`, if v has no value for each key, or if dropout is not
            in [0, 1].

    >>> q, k, v = torch.randn(3, 2, 5, 4)
    >>> torch.allclose(attention(q, k, v), weights(q, k) @ v, atol=1e-6)
    True
    """
    check(q, k, v)
    checks.share(dropout=dropout)
    fused = F.scaled_dot_product_attention
    if mask is None and (not causal or q.shape[-2] == k.shape[-2]):
        return fused(q, k, v, dropout_p=dropout, is_causal=causal)
    mask = visible(q, k, mask, causal)
    # Some kernels give NaN for a row that may look nowhere: it is opened, then zeroed.
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


@fx.wrap
def check_mask(mask: Tensor | None, Q: Tensor, K: Tensor) -> None:
    full = (*Q.shape[:3], K.shape[2])
    if mask is not None and (mask.ndim != 4 or any(
            n != 1 and n != m for n, m in zip(mask.shape, full, strict=True))):
        raise ValueError(f"mask must be (B, h, N, M) = {full}, or 1 for any of them, "
                         f"got {tuple(mask.shape)}")


class MultiHeadAttention(nn.Module):
    """Attend with h heads, each in its own small space of queries, keys and values.

    head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V)     (section 3.2.2, with Eq. 1)
    MultiHead(Q, K, V) = Concat(head_1, ..., head_h) W^O

    Q is x; K and V are the context, which is x itself in self-attention.

    Shape:
        x, y: (B, N, D), N from 1. context: (B, M, D).
        mask: bool, (B, h, N, M) or 1 for any of them, True where a query may look. All
        four axes, lest padding (B, M) pass for (N, M): give mask[:, None, None].

    Args:
        dim: D, the channels of x, of the context and of y.
        num_heads: h; divides D.
        dropout: the share of the weights dropped in training.
        bias: give W_Q, W_K, W_V and W_O a bias each.
        key_dim: d_k, the length of a query and a key in one head; None is D/h.

    Raises:
        ValueError: if dim is not a positive multiple of num_heads, if key_dim is not
            positive, if dropout is not in [0, 1], if x, context or mask has another
            shape, if x or context is not floating point or mask not bool, or if causal
            and N > M.

    Differs from the paper: in nothing by default; it names no initialisation.

    Source: Vaswani et al., NeurIPS 2017, section 3.2.2; arXiv 1706.03762v7.

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
        dim, num_heads = checks.multiple(dim=dim, num_heads=num_heads)
        checks.share(dropout=dropout)
        [d_k] = checks.whole(key_dim=dim // num_heads if key_dim is None else key_dim)
        self.dim, self.num_heads, self.dropout = dim, num_heads, dropout
        self.W_Q = dense(dim, num_heads * d_k, bias=bias)
        self.W_K = dense(dim, num_heads * d_k, bias=bias)
        self.W_V = dense(dim, dim, bias=bias)
        self.W_O = dense(dim, dim, bias=bias)

    def heads(self, x: Tensor) -> Tensor:
        """Give each head its own columns: (B, N, h d) -> (B, h, N, d)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def check(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Raise ValueError on wrong inputs; return where keys and values are from."""
        checks.sequence(x, self.dim, least=1)
        if context is None:
            return x
        checks.context(context, x, self.dim)
        return context

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
        check_mask(mask, Q, K)
        return weights(Q, K, mask, causal=causal)         # (B, h, N, M)

    def forward(
        self, x: Tensor, context: Tensor | None = None, *,
        mask: Tensor | None = None, causal: bool = False, cache: Cache | None = None,
    ) -> Tensor:
        """Return y (B, N, D).

        With a cache, a dict that the caller owns and that starts empty, x holds only
        the positions not seen before: self-attention appends their keys and values
        to those in the cache, and looks at all; attention to a context keeps those of
        the first call.
        """
        own, context = context is None, self.check(x, context)
        Q = self.heads(self.W_Q(x))                       # (B, h, N, d_k)
        K, V = self.keys_and_values(context, own, cache)
        check_mask(mask, Q, K)
        p = self.dropout if self.training else 0.0
        y = attention(Q, K, V, mask, causal=causal, dropout=p)   # (B, h, N, d_v)
        return self.W_O(y.transpose(1, 2).flatten(2))     # (B, N, D)
