"""The papers' equations as slow loops over NumPy arrays: the specification.

Written from the papers, not from `cvattn`, with one loop for each index. Vectors
and matrices are float64; names are the papers' own.
"""

import math

import numpy as np


def se_gate(x, W1, W2, b1=None, b2=None):
    """Hu et al. 2020, Eqs. 2 and 3. x (B, C, H, W), W1 (C/r, C), W2 (C, C/r).

    Return z (B, C), the hidden layer before its ReLU (B, C/r) and s (B, C).
    """
    B, C, H, W = x.shape
    K = len(W1)
    z, h, s = np.zeros((B, C)), np.zeros((B, K)), np.zeros((B, C))
    for b in range(B):
        for c in range(C):
            for i in range(H):
                for j in range(W):
                    z[b, c] += x[b, c, i, j] / (H * W)
        for k in range(K):
            h[b, k] = 0.0 if b1 is None else b1[k]
            for c in range(C):
                h[b, k] += W1[k, c] * z[b, c]
        for c in range(C):
            a = 0.0 if b2 is None else b2[c]
            for k in range(K):
                a += W2[c, k] * max(0.0, h[b, k])
            s[b, c] = 1 / (1 + math.exp(-a))
    return z, h, s


def se(x, W1, W2, b1=None, b2=None):
    """Hu et al. 2020, Eqs. 2 to 4: y (B, C, H, W)."""
    B, C, H, W = x.shape
    _, _, s = se_gate(x, W1, W2, b1, b2)
    y = np.zeros_like(x)
    for b in range(B):
        for c in range(C):
            for i in range(H):
                for j in range(W):
                    y[b, c, i, j] = s[b, c] * x[b, c, i, j]
    return y


def se_gradient(g, x, W1, W2, b1=None, b2=None):
    """From g = dL/dy to dL/dx, dL/dW1, dL/dW2, dL/db1, dL/db2, by the chain rule.

    x reaches y along two paths, as the factor of s and through the mean inside s.
    """
    B, C, H, W = x.shape
    K = len(W1)
    z, h, s = se_gate(x, W1, W2, b1, b2)
    dx, dW1, dW2 = np.zeros_like(x), np.zeros_like(W1), np.zeros_like(W2)
    db1, db2 = np.zeros(K), np.zeros(C)
    for b in range(B):
        da = np.zeros(C)                              # before the sigmoid
        for c in range(C):
            for i in range(H):
                for j in range(W):
                    da[c] += g[b, c, i, j] * x[b, c, i, j]
            da[c] *= s[b, c] * (1 - s[b, c])
            db2[c] += da[c]
        dh = np.zeros(K)                              # before the ReLU
        for k in range(K):
            for c in range(C):
                dW2[c, k] += da[c] * max(0.0, h[b, k])
                if h[b, k] > 0:
                    dh[k] += da[c] * W2[c, k]
            db1[k] += dh[k]
        for c in range(C):
            dz = 0.0
            for k in range(K):
                dW1[k, c] += dh[k] * z[b, c]
                dz += dh[k] * W1[k, c]
            for i in range(H):
                for j in range(W):
                    dx[b, c, i, j] = g[b, c, i, j] * s[b, c] + dz / (H * W)
    return dx, dW1, dW2, db1, db2


def option_a(x, channels, stride):
    """He et al. 2016, section 3.3, option A: (B, C, H, W) -> (B, channels, H', W').

    Every stride-th pixel. The paper leaves open where the zeros go: here half of
    them (rounded down) stand before the old channels.
    """
    B, C, H, W = x.shape
    y = np.zeros((B, channels, math.ceil(H / stride), math.ceil(W / stride)))
    before = (channels - C) // 2
    for b in range(B):
        for c in range(C):
            for i in range(y.shape[2]):
                for j in range(y.shape[3]):
                    y[b, before + c, i, j] = x[b, c, stride * i, stride * j]
    return y
