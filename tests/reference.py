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


def vit_embed(x, E, e, x_class, E_pos):
    """Dosovitskiy et al. 2021, Eq. 1: z0 (B, 1+N, D), patches row by row.

    x (B, C, H, W), E (D, C, P, P), e (D,), x_class (D,), E_pos (1+N, D).
    """
    B, C, H, W = x.shape
    D, _, P, _ = E.shape
    rows, columns = H // P, W // P
    z = np.zeros((B, 1 + rows * columns, D))
    for b in range(B):
        for d in range(D):
            z[b, 0, d] = x_class[d] + E_pos[0, d]
        for r in range(rows):
            for s in range(columns):
                n = 1 + r * columns + s
                for d in range(D):
                    z[b, n, d] = e[d] + E_pos[n, d]
                    for c in range(C):
                        for i in range(P):
                            for j in range(P):
                                z[b, n, d] += E[d, c, i, j] * x[b, c, P * r + i,
                                                                P * s + j]
    return z


def vit_positions(E_pos, old, new):
    """Section 3.2, 2D interpolation: E_pos (1+h*w, D) of old = (h, w) for new.

    Between the four nearest old positions, the grids' corners on one another, as
    scipy.ndimage.zoom of order 1 has it in the authors' code. The class token's
    position, the first, is kept.
    """
    (h, w), (rows, columns), D = old, new, E_pos.shape[1]
    out = np.zeros((1 + rows * columns, D))
    out[0] = E_pos[0]
    for r in range(rows):
        for s in range(columns):
            u = r * (h - 1) / (rows - 1) if rows > 1 else 0.0
            v = s * (w - 1) / (columns - 1) if columns > 1 else 0.0
            for i in range(h):
                for j in range(w):
                    near = max(0.0, 1 - abs(u - i)) * max(0.0, 1 - abs(v - j))
                    for d in range(D):
                        out[1 + r * columns + s, d] += near * E_pos[1 + i * w + j, d]
    return out


def vit_norm(z, gain, shift):
    """LayerNorm of each token (N, D) for itself, with the authors' 1e-6."""
    N, D = z.shape
    y = np.zeros((N, D))
    for n in range(N):
        mean = sum(z[n]) / D
        variance = sum((value - mean) ** 2 for value in z[n]) / D
        for d in range(D):
            y[n, d] = (z[n, d] - mean) / math.sqrt(variance + 1e-6) * gain[d] + shift[d]
    return y


def vit_linear(z, W, b):
    """z (N, D) -> (N, K) with W (K, D)."""
    y = np.zeros((len(z), len(W)))
    for n in range(len(z)):
        for k in range(len(W)):
            y[n, k] = b[k]
            for d in range(len(W[k])):
                y[n, k] += W[k, d] * z[n, d]
    return y


def vit_attend(z, layer, num_heads):
    """Appendix A, Eqs. 5 to 8: MSA of z (N, D); its output and A (h, N, N).

    layer: pairs of weight and bias, "q", "k", "v" and "o" among them.
    """
    N, D = z.shape
    d = D // num_heads
    q, k, v = (vit_linear(z, *layer[name]) for name in "qkv")
    A, heads = np.zeros((num_heads, N, N)), np.zeros((N, D))
    for h in range(num_heads):
        for n in range(N):
            scores = np.zeros(N)
            for m in range(N):
                for i in range(h * d, (h + 1) * d):
                    scores[m] += q[n, i] * k[m, i] / math.sqrt(d)
            total = sum(math.exp(score) for score in scores)
            for m in range(N):
                A[h, n, m] = math.exp(scores[m]) / total
                for i in range(h * d, (h + 1) * d):
                    heads[n, i] += A[h, n, m] * v[m, i]
    return vit_linear(heads, *layer["o"]), A


def vit_layer(z, layer, num_heads):
    """Eqs. 2 and 3 for one picture's z (N, D), GELU exact; the layer's A too."""
    attended, A = vit_attend(vit_norm(z, *layer["norm1"]), layer, num_heads)
    z = attended + z
    hidden = vit_linear(vit_norm(z, *layer["norm2"]), *layer["mlp1"])
    for n in range(len(hidden)):
        for k in range(len(hidden[n])):
            a = hidden[n, k]
            hidden[n, k] = a * (1 + math.erf(a / math.sqrt(2))) / 2
    return vit_linear(hidden, *layer["mlp2"]) + z, A


def vit(x, model, grid, num_heads):
    """Eqs. 1 to 4 and the head: LN(z_L) (B, 1+N, D), logits (B, K), A (L, B, h, ...).

    model: "E" (E, e), "x_class", "E_pos" for grid = (h, w), "layers", "norm", "head".
    The paper's y is the class token, the first of LN(z_L).
    """
    P = model["E"][0].shape[2]
    E_pos = vit_positions(model["E_pos"], grid, (x.shape[2] // P, x.shape[3] // P))
    tokens, logits, weights = [], [], []
    for z in vit_embed(x, *model["E"], model["x_class"], E_pos):
        maps = []
        for layer in model["layers"]:
            z, A = vit_layer(z, layer, num_heads)
            maps.append(A)
        z = vit_norm(z, *model["norm"])
        tokens.append(z)
        logits.append(vit_linear(z[:1], *model["head"])[0])
        weights.append(maps)
    return np.array(tokens), np.array(logits), np.array(weights).swapaxes(0, 1)


def rollout(A):
    """Abnar and Zuidema 2020, section 3, for one picture: A (L, h, N, N) -> (N, N)."""
    L, H, N, _ = A.shape
    R = np.eye(N)
    for layer in range(L):
        step = np.zeros((N, N))
        for n in range(N):
            for m in range(N):
                for h in range(H):
                    step[n, m] += 0.5 * A[layer, h, n, m] / H
            step[n, n] += 0.5
        product = np.zeros((N, N))
        for n in range(N):
            for m in range(N):
                for k in range(N):
                    product[n, m] += step[n, k] * R[k, m]
        R = product
    return R


def stn_centre(i, n, align_corners):
    """Where the centre of pixel i of n lies, in [-1, 1].

    The ends -1 and 1 are the centres of the first and the last pixel (align_corners)
    or the outer edges of both. One pixel alone lies at 0.
    """
    if align_corners:
        return 2 * i / (n - 1) - 1 if n > 1 else 0.0
    return (2 * i + 1) / n - 1


def stn_pixel(c, n, align_corners):
    """The inverse: which pixel, with its fraction, lies at c in [-1, 1]."""
    return (c + 1) / 2 * (n - 1) if align_corners else ((c + 1) * n - 1) / 2


def stn_grid(theta, Hout, Wout, align_corners=False):
    """Jaderberg et al. 2015, Eq. 1: theta (B, 2, 3) to a grid (B, Hout, Wout, 2).

    With theta (B, 3, 3), the plane projective map: divide by the third row.
    """
    B, R, _ = theta.shape
    grid = np.zeros((B, Hout, Wout, 2))
    for b in range(B):
        for i in range(Hout):
            for j in range(Wout):
                xt = stn_centre(j, Wout, align_corners)
                yt = stn_centre(i, Hout, align_corners)
                s = [theta[b, k, 0] * xt + theta[b, k, 1] * yt + theta[b, k, 2]
                     for k in range(R)]
                w = s[2] if R == 3 else 1.0
                grid[b, i, j, 0], grid[b, i, j, 1] = s[0] / w, s[1] / w
    return grid


def stn_controls(points):
    """A regular points x points grid over [-1, 1]^2, row by row: (points^2, 2)."""
    at = [2 * k / (points - 1) - 1 for k in range(points)]
    return np.array([(x, y) for y in at for x in at])


def bookstein_U(r2):
    """Bookstein 1989: U(r) = r^2 log r^2, from r^2, and its limit 0 at r = 0."""
    return r2 * math.log(r2) if r2 > 0 else 0.0


def stn_spline(controls, Hout, Wout, align_corners=False):
    """Bookstein 1989: the thin plate spline that sends the regular points of the
    output to controls (B, n, 2), as a grid (B, Hout, Wout, 2).

    L [w; a] = [v; 0] with L = [[K, P], [P^T, 0]], K_ij = U(|P_i - P_j|), and
    f(x, y) = a_1 + a_x x + a_y y + sum_i w_i U(|P_i - (x, y)|).
    """
    B, n, _ = controls.shape
    at = stn_controls(math.isqrt(n))
    L = np.zeros((n + 3, n + 3))
    for i in range(n):
        for j in range(n):
            r2 = (at[i, 0] - at[j, 0]) ** 2 + (at[i, 1] - at[j, 1]) ** 2
            L[i, j] = bookstein_U(r2)
        for j, p in enumerate((1.0, at[i, 0], at[i, 1])):
            L[i, n + j] = L[n + j, i] = p
    grid = np.zeros((B, Hout, Wout, 2))
    for b in range(B):
        for k in range(2):
            v = np.zeros(n + 3)
            for i in range(n):
                v[i] = controls[b, i, k]
            w = np.linalg.solve(L, v)
            for i in range(Hout):
                for j in range(Wout):
                    x = stn_centre(j, Wout, align_corners)
                    y = stn_centre(i, Hout, align_corners)
                    f = w[n] + w[n + 1] * x + w[n + 2] * y
                    for m in range(n):
                        r2 = (at[m, 0] - x) ** 2 + (at[m, 1] - y) ** 2
                        f += w[m] * bookstein_U(r2)
                    grid[b, i, j, k] = f
    return grid


def stn_sample(U, grid, align_corners=False):
    """Jaderberg et al. 2015, Eq. 5, over all pixels (n, m): V (B, C, Hout, Wout)."""
    B, C, H, W = U.shape
    _, Hout, Wout, _ = grid.shape
    V = np.zeros((B, C, Hout, Wout))
    for b in range(B):
        for i in range(Hout):
            for j in range(Wout):
                x = stn_pixel(grid[b, i, j, 0], W, align_corners)
                y = stn_pixel(grid[b, i, j, 1], H, align_corners)
                for n in range(H):
                    for m in range(W):
                        k = max(0.0, 1 - abs(x - m)) * max(0.0, 1 - abs(y - n))
                        for c in range(C):
                            V[b, c, i, j] += U[b, c, n, m] * k
    return V


def stn_slope(x, m):
    """The bracket of Eq. 7: the derivative of max(0, 1 - |x - m|) with x, as printed.

    At x = m it is 1, and 0 for both neighbours, so that at a pixel centre Eq. 7 is
    the pixel itself and not a difference of pixels.
    """
    if abs(m - x) >= 1:
        return 0.0
    return 1.0 if m >= x else -1.0


def stn_sample_gradient(g, U, grid, align_corners=False):
    """From g = dL/dV to dL/dU (Eq. 6) and dL/dgrid (Eq. 7 and its like for y)."""
    B, C, H, W = U.shape
    _, Hout, Wout, _ = grid.shape
    dU, dgrid = np.zeros_like(U), np.zeros_like(grid)
    for b in range(B):
        for i in range(Hout):
            for j in range(Wout):
                x = stn_pixel(grid[b, i, j, 0], W, align_corners)
                y = stn_pixel(grid[b, i, j, 1], H, align_corners)
                for n in range(H):
                    for m in range(W):
                        kx, ky = max(0.0, 1 - abs(x - m)), max(0.0, 1 - abs(y - n))
                        for c in range(C):
                            G, u = g[b, c, i, j], U[b, c, n, m]
                            dU[b, c, n, m] += G * kx * ky
                            dgrid[b, i, j, 0] += G * u * ky * stn_slope(x, m)
                            dgrid[b, i, j, 1] += G * u * kx * stn_slope(y, n)
                # From pixels to [-1, 1]: the slope of stn_pixel.
                dgrid[b, i, j, 0] *= (W - 1) / 2 if align_corners else W / 2
                dgrid[b, i, j, 1] *= (H - 1) / 2 if align_corners else H / 2
    return dU, dgrid


def stn_grid_gradient(dgrid, align_corners=False):
    """From dL/dgrid to dL/dtheta (B, 2, 3) of Eq. 1."""
    B, Hout, Wout, _ = dgrid.shape
    dtheta = np.zeros((B, 2, 3))
    for b in range(B):
        for i in range(Hout):
            for j in range(Wout):
                t = (stn_centre(j, Wout, align_corners),
                     stn_centre(i, Hout, align_corners), 1.0)
                for k in range(2):
                    for m in range(3):
                        dtheta[b, k, m] += dgrid[b, i, j, k] * t[m]
    return dtheta


def sk_branch(x, kernel, norm, dilation, groups, stride):
    """Li et al. 2019, section 3.1, split: ReLU(BN(convolution of x)), (B, C, H', W').

    kernel (C, C/G, 3, 3); norm: what batch_norm takes after u.
    """
    B, C, H, W = x.shape
    size = C // groups
    u = np.zeros((B, C, math.ceil(H / stride), math.ceil(W / stride)))
    for b in range(B):
        for c in range(C):
            for i in range(u.shape[2]):
                for j in range(u.shape[3]):
                    for k in range(size):
                        channel = (c // size) * size + k
                        for p in range(3):
                            for q in range(3):
                                h = stride * i + dilation * (p - 1)
                                w = stride * j + dilation * (q - 1)
                                if 0 <= h < H and 0 <= w < W:
                                    u[b, c, i, j] += (
                                        kernel[c, k, p, q] * x[b, channel, h, w])
    return np.maximum(batch_norm(u, *norm), 0.0)


def sk_weights(Us, W, norm, A):
    """Li et al. 2019, Eqs. 1 to 5: from M maps U_m to a (B, M, C).

    W (d, C), norm: what batch_norm takes after its first argument, A (M, C, d).
    """
    M, d = len(Us), len(W)
    B, C, H, width = Us[0].shape
    s, z, a = np.zeros((B, C)), np.zeros((B, d)), np.zeros((B, M, C))
    for b in range(B):
        for c in range(C):
            for i in range(H):
                for j in range(width):
                    for m in range(M):
                        s[b, c] += Us[m][b, c, i, j] / (H * width)
        for k in range(d):
            for c in range(C):
                z[b, k] += W[k, c] * s[b, c]
    z = np.maximum(batch_norm(z[:, :, None, None], *norm)[:, :, 0, 0], 0.0)
    for b in range(B):
        for c in range(C):
            e = [math.exp(sum(A[m, c, k] * z[b, k] for k in range(d)))
                 for m in range(M)]
            for m in range(M):
                a[b, m, c] = e[m] / sum(e)
    return a


def sk(x, kernels, norms, W, norm, A, groups=1, stride=1):
    """Li et al. 2019, section 3.1, Eq. 6: V (B, C, H', W'); branch m has dilation m+1.

    kernels: M times (C, C/G, 3, 3); norms: for each what batch_norm takes.
    """
    Us = [sk_branch(x, kernel, norms[m], m + 1, groups, stride)
          for m, kernel in enumerate(kernels)]
    a, V = sk_weights(Us, W, norm, A), np.zeros_like(Us[0])
    for b in range(V.shape[0]):
        for c in range(V.shape[1]):
            for i in range(V.shape[2]):
                for j in range(V.shape[3]):
                    for m in range(len(Us)):
                        V[b, c, i, j] += a[b, m, c] * Us[m][b, c, i, j]
    return V


def cbam_channel(x, W0, W1, b0=None, b1=None, pool=("mean", "max")):
    """Woo et al. 2018, Eq. 2: Mc (B, C). W0 (C/r, C), W1 (C, C/r)."""
    B, C, H, W = x.shape
    K = len(W0)
    Mc = np.zeros((B, C))
    for b in range(B):
        a = np.zeros(C)
        for p in pool:
            v = np.zeros(C)
            for c in range(C):
                v[c] = -math.inf if p == "max" else 0.0
                for i in range(H):
                    for j in range(W):
                        if p == "max":
                            v[c] = max(v[c], x[b, c, i, j])
                        else:
                            v[c] += x[b, c, i, j] / (H * W)
            h = np.zeros(K)
            for k in range(K):
                h[k] = 0.0 if b0 is None else b0[k]
                for c in range(C):
                    h[k] += W0[k, c] * v[c]
            for c in range(C):
                a[c] += 0.0 if b1 is None else b1[c]
                for k in range(K):
                    a[c] += W1[c, k] * max(0.0, h[k])
        for c in range(C):
            Mc[b, c] = 1 / (1 + math.exp(-a[c]))
    return Mc


def convolve(x, f, bias=None, dilation=1):
    """x (B, C, H, W), f (K, C, k, k): (B, K, H, W), zeros beyond the border."""
    B, C, H, W = x.shape
    K, _, k, _ = f.shape
    y = np.zeros((B, K, H, W))
    for b in range(B):
        for n in range(K):
            for i in range(H):
                for j in range(W):
                    y[b, n, i, j] = 0.0 if bias is None else bias[n]
                    for p in range(k):
                        for q in range(k):
                            u = i + (p - k // 2) * dilation
                            v = j + (q - k // 2) * dilation
                            if 0 <= u < H and 0 <= v < W:
                                for c in range(C):
                                    y[b, n, i, j] += f[n, c, p, q] * x[b, c, u, v]
    return y


def batch_norm(a, gamma, beta, mean=None, var=None, eps=1e-5):
    """Ioffe and Szegedy 2015, Algorithm 1: a (B, K, H, W), each channel k apart.

    Without mean and var, (K,), they are those of a itself, as in training.
    """
    B, K, H, W = a.shape
    y = np.zeros_like(a)
    for k in range(K):
        m, v = 0.0, 0.0
        if mean is None:
            for b in range(B):
                for i in range(H):
                    for j in range(W):
                        m += a[b, k, i, j] / (B * H * W)
            for b in range(B):
                for i in range(H):
                    for j in range(W):
                        v += (a[b, k, i, j] - m) ** 2 / (B * H * W)
        else:
            m, v = mean[k], var[k]
        for b in range(B):
            for i in range(H):
                for j in range(W):
                    y[b, k, i, j] = (
                        gamma[k] * (a[b, k, i, j] - m) / math.sqrt(v + eps) + beta[k])
    return y


def cbam_spatial(x, f, pool=("mean", "max"), f0=None, norm=None):
    """Woo et al. 2018, Eq. 3: Ms (B, H, W). f (1, maps, k, k), f0 (1, C, 1, 1).

    norm, the official code's, holds the arguments of `batch_norm` after the first.
    """
    B, C, H, W = x.shape
    if f0 is None:
        F = np.zeros((B, len(pool), H, W))
        for b in range(B):
            for i in range(H):
                for j in range(W):
                    for n, p in enumerate(pool):
                        F[b, n, i, j] = -math.inf if p == "max" else 0.0
                        for c in range(C):
                            if p == "max":
                                F[b, n, i, j] = max(F[b, n, i, j], x[b, c, i, j])
                            else:
                                F[b, n, i, j] += x[b, c, i, j] / C
    else:
        F = convolve(x, f0)
    a = convolve(F, f)
    if norm is not None:
        a = batch_norm(a, *norm)
    Ms = np.zeros((B, H, W))
    for b in range(B):
        for i in range(H):
            for j in range(W):
                Ms[b, i, j] = 1 / (1 + math.exp(-a[b, 0, i, j]))
    return Ms


def by_channel(Mc, x):
    """Mc (B, C) times x (B, C, H, W)."""
    y = np.zeros_like(x)
    for b, c, i, j in np.ndindex(x.shape):
        y[b, c, i, j] = Mc[b, c] * x[b, c, i, j]
    return y


def by_place(Ms, x):
    """Ms (B, H, W) times x (B, C, H, W)."""
    y = np.zeros_like(x)
    for b, c, i, j in np.ndindex(x.shape):
        y[b, c, i, j] = Ms[b, i, j] * x[b, c, i, j]
    return y


def cbam(x, channel, spatial, order="channel-spatial"):
    """Woo et al. 2018, Eq. 1, and the arrangements of its Table 3: y (B, C, H, W).

    channel and spatial are dictionaries, the arguments of `cbam_channel` and
    `cbam_spatial` but x.
    """
    if order == "channel":
        return by_channel(cbam_channel(x, **channel), x)
    if order == "spatial":
        return by_place(cbam_spatial(x, **spatial), x)
    if order == "channel-spatial":
        F = by_channel(cbam_channel(x, **channel), x)
        return by_place(cbam_spatial(F, **spatial), F)
    if order == "spatial-channel":
        F = by_place(cbam_spatial(x, **spatial), x)
        return by_channel(cbam_channel(F, **channel), F)
    F = by_channel(cbam_channel(x, **channel), x)
    return by_place(cbam_spatial(x, **spatial), F)


def bam_channel(x, W0, b0, W1, b1, norm, place="last"):
    """Park et al. 2018, Eq. 3, with a ReLU after W0: Mc (B, C).

    norm holds the arguments of `batch_norm` after the first; place is "last", as
    printed, or "hidden", between W0 and the ReLU, as in the official code.
    """
    B, C, H, W = x.shape
    K = len(W0)
    h, Mc = np.zeros((B, K, 1, 1)), np.zeros((B, C, 1, 1))
    for b in range(B):
        for k in range(K):
            h[b, k] = b0[k]
            for c in range(C):
                for i in range(H):
                    for j in range(W):
                        h[b, k] += W0[k, c] * x[b, c, i, j] / (H * W)
    if place == "hidden":
        h = batch_norm(h, *norm)
    for b in range(B):
        for c in range(C):
            Mc[b, c] = b1[c]
            for k in range(K):
                Mc[b, c] += W1[c, k] * max(0.0, h[b, k, 0, 0])
    if place == "last":
        Mc = batch_norm(Mc, *norm)
    return Mc[:, :, 0, 0]


def bam_spatial(x, layers, norms, dilation=4):
    """Park et al. 2018, Eq. 4, with ReLUs between: Ms (B, H, W).

    layers: (f0, b0), (f1, b1), (f2, b2), (f3, b3). norms: for each the arguments of
    `batch_norm` after the first, or None.
    """
    h = x
    for n, ((f, bias), norm) in enumerate(zip(layers, norms, strict=True)):
        h = convolve(h, f, bias, dilation if n in (1, 2) else 1)
        if norm is not None:
            h = batch_norm(h, *norm)
        if n < 3:
            for place in np.ndindex(h.shape):
                h[place] = max(0.0, h[place])
    return h[:, 0]


def bam(x, channel, spatial, combine="sum"):
    """Park et al. 2018, Eqs. 1 and 2: y (B, C, H, W).

    channel and spatial are dictionaries, as in `cbam`. combine is one of the rows of
    the paper's comparison: "sum", "product" or "max".
    """
    Mc, Ms = bam_channel(x, **channel), bam_spatial(x, **spatial)
    y = np.zeros_like(x)
    for b, c, i, j in np.ndindex(x.shape):
        if combine == "sum":
            a = Mc[b, c] + Ms[b, i, j]
        elif combine == "product":
            a = Mc[b, c] * Ms[b, i, j]
        else:
            a = max(Mc[b, c], Ms[b, i, j])
        y[b, c, i, j] = x[b, c, i, j] + x[b, c, i, j] / (1 + math.exp(-a))
    return y


def stn_theta(f, W, b, transform):
    """Jaderberg et al. 2015: the regressor's numbers p = W f + b, and as a map:
    (B, 2, 3) as in Eq. 1, the same from s, tx, ty as in Eq. 2, (B, 3, 3), or points.
    """
    B, F = f.shape
    p = np.zeros((B, len(b)))
    for i in range(B):
        for k in range(len(b)):
            p[i, k] = b[k]
            for m in range(F):
                p[i, k] += W[k, m] * f[i, m]
    if transform == "affine":
        return p, np.array([[q[:3], q[3:]] for q in p])
    if transform == "attention":
        return p, np.array([[[s, 0, tx], [0, s, ty]] for s, tx, ty in p])
    if transform == "projective":
        return p, np.array([[q[:3], q[3:6], [q[6], q[7], 1]] for q in p])
    return p, np.array([[(q[2 * k], q[2 * k + 1]) for k in range(len(q) // 2)]
                        for q in p])


def attention_weights(q, k, mask=None):
    """Vaswani et al. 2017, Eq. 1 without V: q (N, d), k (M, d), mask (N, M) -> (N, M).

    The softmax runs over the keys that the query may see; over none, it is zeros.
    """
    (N, d), M = q.shape, len(k)
    A = np.zeros((N, M))
    for n in range(N):
        scores = {}
        for m in range(M):
            if mask is None or mask[n, m]:
                scores[m] = 0.0
                for i in range(d):
                    scores[m] += q[n, i] * k[m, i]
                scores[m] /= math.sqrt(d)
        total = 0.0
        for m in scores:
            total += math.exp(scores[m])
        for m in scores:
            A[n, m] = math.exp(scores[m]) / total
    return A


def attention(q, k, v, mask=None):
    """Vaswani et al. 2017, Eq. 1: q (N, d_k), k (M, d_k), v (M, d_v) -> (N, d_v)."""
    A, y = attention_weights(q, k, mask), np.zeros((len(q), v.shape[1]))
    for n in range(len(q)):
        for m in range(len(k)):
            for i in range(v.shape[1]):
                y[n, i] += A[n, m] * v[m, i]
    return y


def linear(x, W, b=None):
    """x (N, I), W (O, I), b (O,) -> (N, O)."""
    y = np.zeros((len(x), len(W)))
    for n in range(len(x)):
        for o in range(len(W)):
            y[n, o] = 0.0 if b is None else b[o]
            for i in range(x.shape[1]):
                y[n, o] += W[o, i] * x[n, i]
    return y


def multi_head(x, context, w, h, mask=None):
    """Vaswani et al. 2017, section 3.2.2, for one x (N, D) and context (M, D).

    w holds W_Q, W_K, W_V, W_O as (outputs, inputs), in which the rows of head i are
    the i-th of h equal groups, and b_Q, b_K, b_V, b_O where there are biases. mask is
    (h, N, M). Return y (N, D) and the weights (h, N, M).
    """
    Q, K, V = (linear(t, w["W_" + s], w.get("b_" + s))
               for t, s in ((x, "Q"), (context, "K"), (context, "V")))
    d_k, d_v = Q.shape[1] // h, V.shape[1] // h
    together, A = np.zeros((len(x), h * d_v)), np.zeros((h, len(x), len(context)))
    for i in range(h):
        q, k = Q[:, i * d_k:(i + 1) * d_k], K[:, i * d_k:(i + 1) * d_k]
        seen = None if mask is None else mask[i]
        A[i] = attention_weights(q, k, seen)
        together[:, i * d_v:(i + 1) * d_v] = attention(
            q, k, V[:, i * d_v:(i + 1) * d_v], seen)
    return linear(together, w["W_O"], w.get("b_O")), A


def positional_encoding(N, D):
    """Vaswani et al. 2017, section 3.5: (N, D)."""
    PE = np.zeros((N, D))
    for pos in range(N):
        for channel in range(D):
            i = channel // 2
            angle = pos / 10000 ** (2 * i / D)
            PE[pos, channel] = math.cos(angle) if channel % 2 else math.sin(angle)
    return PE


def feed_forward(x, w):
    """Vaswani et al. 2017, Eq. 2; w: W1, b1, W2, b2, matrices (outputs, inputs)."""
    return linear(np.maximum(0.0, linear(x, w["W1"], w["b1"])), w["W2"], w["b2"])


def layer_norm(x, gamma, beta, eps=1e-5):
    """Ba et al. 2016, section 3: over the channels of each position of x (N, D)."""
    y, D = np.zeros_like(x), x.shape[1]
    for n in range(len(x)):
        mean = sum(x[n, i] for i in range(D)) / D
        variance = sum((x[n, i] - mean) ** 2 for i in range(D)) / D
        for i in range(D):
            y[n, i] = gamma[i] * (x[n, i] - mean) / math.sqrt(variance + eps) + beta[i]
    return y


def encoder_layer(x, w, h, mask=None, norm_first=False):
    """Vaswani et al. 2017, section 3.1; w: attention, ffn, norm1, norm2.

    norm_first is Xiong et al. 2020, Table 1, right: the norm before each sublayer.
    """
    if norm_first:
        z = layer_norm(x, *w["norm1"])
        x = x + multi_head(z, z, w["attention"], h, mask)[0]
        return x + feed_forward(layer_norm(x, *w["norm2"]), w["ffn"])
    x = layer_norm(x + multi_head(x, x, w["attention"], h, mask)[0], *w["norm1"])
    return layer_norm(x + feed_forward(x, w["ffn"]), *w["norm2"])


def decoder_layer(x, memory, w, h, mask=None, memory_mask=None, norm_first=False):
    """Vaswani et al. 2017, section 3.1: as the encoder's, with w["cross"], w["norm3"].

    Position n may look at n and at what stands before it, where the mask allows it.
    """
    N = len(x)
    causal = np.zeros((h, N, N), dtype=bool)
    for i in range(h):
        for n in range(N):
            for m in range(n + 1):
                causal[i, n, m] = mask is None or mask[i, n, m]
    if norm_first:
        z = layer_norm(x, *w["norm1"])
        x = x + multi_head(z, z, w["attention"], h, causal)[0]
        z = layer_norm(x, *w["norm2"])
        x = x + multi_head(z, memory, w["cross"], h, memory_mask)[0]
        return x + feed_forward(layer_norm(x, *w["norm3"]), w["ffn"])
    x = layer_norm(x + multi_head(x, x, w["attention"], h, causal)[0], *w["norm1"])
    x = layer_norm(x + multi_head(x, memory, w["cross"], h, memory_mask)[0],
                   *w["norm2"])
    return layer_norm(x + feed_forward(x, w["ffn"]), *w["norm3"])


def transformer(source, target, E, encoder, decoder, h, pad, norms=None):
    """Vaswani et al. 2017, section 3: ids (M,) and (N,) -> logits (N, V).

    encoder and decoder are lists of the layers' w. norms, the gamma and beta after
    each stack, make it the form with the norm first.
    """
    V, D = E.shape

    def embed(ids):
        x = positional_encoding(len(ids), D)
        for n in range(len(ids)):
            for i in range(D):
                x[n, i] += math.sqrt(D) * E[ids[n], i]
        return x

    def seen(N, ids):
        mask = np.zeros((h, N, len(ids)), dtype=bool)
        for m in range(len(ids)):
            mask[:, :, m] = ids[m] != pad
        return mask

    memory = embed(source)
    for w in encoder:
        memory = encoder_layer(memory, w, h, seen(len(source), source), bool(norms))
    if norms:
        memory = layer_norm(memory, *norms[0])
    x = embed(target)
    for w in decoder:
        x = decoder_layer(x, memory, w, h, seen(len(target), target),
                          seen(len(target), source), bool(norms))
    return linear(layer_norm(x, *norms[1]) if norms else x, E)


def label_smoothing(logits, target, epsilon, pad=None):
    """Szegedy et al. 2016, section 7: cross-entropy with (1 - epsilon) q + epsilon / V.

    logits (N, V), target (N,); the mean over the targets that are not pad.
    """
    N, V = logits.shape
    losses = []
    for n in range(N):
        if target[n] == pad:
            continue
        total, loss = sum(math.exp(a) for a in logits[n]), 0.0
        for k in range(V):
            q = (1 - epsilon) * (k == target[n]) + epsilon / V
            loss -= q * math.log(math.exp(logits[n, k]) / total)
        losses.append(loss)
    return sum(losses) / len(losses)
