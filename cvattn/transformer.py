"""Transformer: the whole model, two stacks of layers around one matrix of embeddings.

Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin, "Attention Is
All You Need", NeurIPS 2017; arXiv 1706.03762v7. Its attention is in `multihead`, its
layers are in `layers`, its loss and learning rate in `recipe`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from . import checks
from .layers import DecoderLayer, EncoderLayer
from .multihead import Cache


class PositionalEncoding(nn.Module):
    """Add to each position waves of many lengths, which say where it stands.

    PE(pos, 2i)   = sin(pos / 10000^(2i/D))      (section 3.5)
    PE(pos, 2i+1) = cos(pos / 10000^(2i/D))

    Shape:
        x, y: (B, N, D), N from 0 to max_length. PE: (max_length, D), computed in
        float64 on the CPU and kept there in the default type; each call adds it in
        x's type.

    Args:
        dim: D, the channels of x. Where it is odd, the last sine has no cosine.
        dropout: the share of the sums dropped in training (section 5.4).
        max_length: the positions for which PE is stored.

    Raises:
        ValueError: if dim or max_length is not positive, if dropout is not in [0, 1],
            if x is not (B, N, dim), floating point, or if it starts before position 0
            or reaches beyond max_length.

    Differs from the paper: in nothing; its code has another order of the channels.

    Source: Vaswani et al., NeurIPS 2017, section 3.5; arXiv 1706.03762v7.

    >>> PositionalEncoding(4, dropout=0.0)(torch.zeros(1, 2, 4))
    tensor([[[0.0000, 1.0000, 0.0000, 1.0000],
             [0.8415, 0.5403, 0.0100, 0.9999]]])
    """

    def __init__(self, dim: int, *, dropout: float = 0.1, max_length: int = 5000):
        super().__init__()
        dim, max_length = checks.whole(dim=dim, max_length=max_length)
        checks.share(dropout=dropout)
        self.dim, self.dropout = dim, nn.Dropout(dropout)
        # No buffer: it follows from dim, and a model that is built on the meta device
        # must still have its numbers when `to_empty` has forgotten the others.
        with torch.device("cpu"):
            pos = torch.arange(max_length, dtype=torch.float64)[:, None]
            two_i = torch.arange(0, dim, 2, dtype=torch.float64)
            angle = pos / 10000 ** (two_i / dim)
            self.PE = torch.empty(max_length, dim)
        self.PE[:, 0::2], self.PE[:, 1::2] = angle.sin(), angle.cos()[:, : dim // 2]

    def forward(self, x: Tensor, *, start: int = 0) -> Tensor:
        """Return x + PE; `start` is the position of x's first column."""
        checks.sequence(x, self.dim)
        return self.dropout(x + stretch(self.PE, x, start))   # (B, N, D)


@fx.wrap
def stretch(PE: Tensor, x: Tensor, start: int) -> Tensor:
    """Return the rows of PE for x (B, N, D), in its type and on its device."""
    N = x.shape[1]
    if start < 0 or start + N > len(PE):
        raise ValueError("x must stand from position 0 to max_length="
                         f"{len(PE)}, got start={start}, N={N}")
    return PE[start : start + N].to(x)                   # (N, D)


class Transformer(nn.Module):
    """Read a source, write a target: predict each token from those before it.

    memory = encoder(sqrt(D) E[source] + PE)              (sections 3.1, 3.4, 3.5)
    logits = decoder(sqrt(D) E[target] + PE, memory) E^T  (with Eqs. 1 and 2)

    One matrix E embeds both and makes the logits. Column n of them predicts token n + 1
    of the target: train on model(source, target[:, :-1]) against target[:, 1:].

    Shape:
        source: (B, M), target: (B, N), ids, M and N from 1. memory: (B, M, D).
        logits: (B, N, V); those of padding mean nothing.

    Args:
        vocabulary: V, the number of ids, from 0; source and target share them.
        dim: D, the channels of every layer.
        num_heads: h of every attention; divides D.
        hidden: d_ff of every feed-forward.
        layers: N of the paper, for the encoder and as many for the decoder.
        dropout: of each sublayer and of the sums of embeddings and positions.
        norm_first: as in `EncoderLayer`; adds a LayerNorm after each stack.
        bias: give the attentions' projections biases.
        key_dim: d_k, the length of a query and a key in one head; None is D/h.
        pad: the id of padding, which no position sees, or None: all are tokens.
        max_length: the longest source and target.

    Raises:
        ValueError: if layers or vocabulary is not positive, if pad is not an id, if
            ids are not (B, N) of int64 or int32, N from 1, if the two batches differ,
            or as MultiHeadAttention, FeedForward and PositionalEncoding.
        IndexError: on an id that is not from 0 to V - 1, on the CPU.

    Differs from the paper: in nothing by default. The big model is
    `Transformer(V, dim=1024, num_heads=16, hidden=4096, dropout=0.3)`.

    Source: Vaswani et al., NeurIPS 2017, section 3, Table 3; arXiv 1706.03762v7.

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
        vocabulary, layers = checks.whole(vocabulary=vocabulary, layers=layers)
        dim, num_heads = checks.multiple(dim=dim, num_heads=num_heads)
        if pad is not None:
            pad = checks.id_of(vocabulary, pad=pad)

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
        checks.ids(ids, name)
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
