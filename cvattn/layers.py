"""The layers that a Transformer stacks: attention, and a network for each position.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017, sections 3.1 to 3.3;
arXiv 1706.03762v7.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from . import checks
from .multihead import Cache, MultiHeadAttention, dense


class FeedForward(nn.Module):
    """Send each position by itself through one wide hidden layer.

    FFN(x) = max(0, x W1 + b1) W2 + b2      (Eq. 2)

    Shape:
        x, y: (B, N, D). A NaN spoils its own position alone.

    Args:
        dim: D, the channels of x and y.
        hidden: d_ff, the width of the hidden layer.
        activation: the function between the layers; the paper's is the ReLU.

    Raises:
        ValueError: if dim or hidden is not positive, or if x is not (B, N, dim) and
            floating point.

    Differs from the paper: in nothing by default.

    Source: Vaswani et al., NeurIPS 2017, section 3.3; arXiv 1706.03762v7.

    >>> FeedForward(64, hidden=256)(torch.randn(2, 5, 64)).shape
    torch.Size([2, 5, 64])
    """

    def __init__(
        self, dim: int, *, hidden: int = 2048,
        activation: Callable[[Tensor], Tensor] = torch.relu,
    ):
        super().__init__()
        dim, hidden = checks.whole(dim=dim, hidden=hidden)
        self.dim, self.activation = dim, activation
        self.W1, self.W2 = dense(dim, hidden, bias=True), dense(hidden, dim, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        checks.sequence(x, self.dim)
        return self.W2(self.activation(self.W1(x)))       # (B, N, D)


class EncoderLayer(nn.Module):
    """Let positions look at each other, then think each by itself.

    x = LayerNorm(x + MultiHead(x, x, x))      (section 3.1, MultiHead of Eq. 1)
    y = LayerNorm(x + FFN(x))                  (FFN of Eq. 2)

    Shape:
        x, y: (B, N, D), N from 1. mask: as MultiHeadAttention's, (B, h, N, N).

    Args:
        dim: D, the channels of x and y.
        num_heads: h of the attention; divides D.
        hidden: d_ff, the width of the feed-forward's hidden layer.
        dropout: the share dropped of each sublayer's result before it is added.
        norm_first: normalise what enters each sublayer, not the sum: x + FFN(
            LayerNorm(x)). A stack of such layers needs one LayerNorm after its last.
        bias: give the attention's four projections biases.
        key_dim: d_k, the length of a query and a key in one head; None is D/h.
        activation: of the feed-forward.
        eps: added to the variance in LayerNorm; the paper names none.

    Raises:
        ValueError: as MultiHeadAttention and FeedForward.

    Differs from the paper: in nothing by default.

    Source: Vaswani et al., NeurIPS 2017, sections 3.1 and 5.4; arXiv 1706.03762v7.

    >>> EncoderLayer(64, hidden=256)(torch.randn(2, 5, 64)).shape
    torch.Size([2, 5, 64])
    """

    def __init__(
        self, dim: int, *, num_heads: int = 8, hidden: int = 2048, dropout: float = 0.1,
        norm_first: bool = False, bias: bool = False, key_dim: int | None = None,
        activation: Callable[[Tensor], Tensor] = torch.relu, eps: float = 1e-5,
    ):
        super().__init__()
        dim, num_heads = checks.multiple(dim=dim, num_heads=num_heads)
        checks.share(dropout=dropout)
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
        checks.sequence(x, self.dim, least=1)
        x = self.norm1(x) if self.norm_first else x                   # (B, N, D)
        return self.attention.weights(x, mask=mask, causal=causal)    # (B, h, N, N)

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        checks.sequence(x, self.dim, least=1)
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
        x, y: (B, N, D), N from 1. memory: (B, M, D). mask, memory_mask: (B, h, N, N)
        and (B, h, N, M), as MultiHeadAttention's; none lets a position see a later one.

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

    Differs from the paper: in nothing by default.

    Source: Vaswani et al., NeurIPS 2017, sections 3.1 and 3.2.3; arXiv 1706.03762v7.

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
        dim, num_heads = checks.multiple(dim=dim, num_heads=num_heads)
        checks.share(dropout=dropout)
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
        checks.sequence(x, self.dim, least=1)
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
