"""Attention rollout: which patches a token has heard of, through all layers."""

import torch
from torch import Tensor

from . import checks
from .precision import no_autocast, wide


def rollout(weights: Tensor) -> Tensor:
    """Follow attention through all layers: how much of each input is in each token.

    A_l = 0.5 mean over heads of W_l + 0.5 I      (section 3, residual connections)
    R_l = A_l R_{l-1}, R_0 = I                    (section 3, attention rollout)

    Row 0 of the result is the class token's, without its first number the picture's
    map: `rollout(vit.weights(x))[:, 0, 1:].unflatten(1, (H // P, W // P))`.

    Shape:
        weights: (L, B, h, N, N), rows that sum to 1. result: (B, N, N), likewise, in
        the type of weights, computed in float32 at least.

    Args:
        weights: W, as `ViT.weights` gives it.

    Raises:
        ValueError: if weights is not (L, B, h, N, N), floating point.

    Source: Abnar, Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020,
    section 3; arXiv 2005.00928v2.

    >>> W = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).expand(1, 1, 3, 2, 2)
    >>> rollout(W)
    tensor([[[0.5000, 0.5000],
             [0.0000, 1.0000]]])
    """
    checks.tensor(weights, "weights", "(L, B, h, N, N)",
                  weights.ndim == 5 and weights.shape[3] == weights.shape[4])
    dtype = wide(weights.dtype)
    eye = torch.eye(weights.shape[-1], dtype=dtype, device=weights.device)
    R = eye.expand(weights.shape[1], -1, -1)          # (B, N, N)
    with no_autocast(weights):
        for W in weights.to(dtype):
            A = 0.5 * W.mean(dim=1) + 0.5 * eye       # (B, N, N)
            R = A @ R                                 # (B, N, N)
    return R.to(weights.dtype)                        # (B, N, N)
