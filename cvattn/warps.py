"""Warps: which place of its input a spatial transformer reads for each pixel."""

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import pad

from . import checks
from .precision import no_autocast, wide


@fx.wrap
def affine_grid(
    theta: Tensor, size: tuple[int, int], *, align_corners: bool = False
) -> Tensor:
    """Say for each pixel of the output where in the input it comes from.

    (xs, ys) = theta (xt, yt, 1)      (Eq. 1)

    for the centre (xt, yt) of each output pixel. -1 and 1 are the outer edges of the
    picture, or, with align_corners, the centres of its first and last pixels.

    Shape:
        theta: (B, 2, 3). Result: (B, Hout, Wout, 2), x before y, float32 at least.

    Args:
        theta: the affine map from output to input coordinates, A of Eq. 1.
        size: Hout and Wout.
        align_corners: where -1 and 1 are. Give the sampler the same.

    Raises:
        ValueError: if theta is not (B, 2, 3), floating point, or size not two whole
            numbers from 1 up.

    >>> affine_grid(torch.eye(2, 3)[None], (1, 2))
    tensor([[[[-0.5000,  0.0000],
              [ 0.5000,  0.0000]]]])
    """
    checks.tensor(theta, "theta", "(B, 2, 3)",
                  theta.ndim == 3 and theta.shape[1:] == (2, 3))
    size = checks.pair(size=size)
    return linear_grid(theta, size, align_corners)       # (B, Hout, Wout, 2)


class Affine(nn.Module):
    """Turn, scale, shear and move: Eq. 1, six numbers."""

    start = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)      # the identity

    def theta(self, p: Tensor) -> Tensor:
        """Arrange the regressor's numbers as A of Eq. 1."""
        return p.unflatten(1, (2, 3))                    # (B, 2, 3)

    def grid(self, theta: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
        return affine_grid(theta, size, align_corners=align_corners)


class Attention(Affine):
    """Crop: A = [[s, 0, tx], [0, s, ty]] of Eq. 2, three numbers."""

    start = (1.0, 0.0, 0.0)

    def theta(self, p: Tensor) -> Tensor:
        s, tx, ty = p.unbind(1)
        o = torch.zeros_like(s)
        A = torch.stack((s, o, tx, o, s, ty), 1)         # (B, 6)
        return A.unflatten(1, (2, 3))                    # (B, 2, 3)


class Projective(nn.Module):
    """See a plane from elsewhere: eight numbers, and the ninth of (3, 3) is 1.

    (xs, ys) = (x, y) / w of (x, y, w) = theta (xt, yt, 1). Where abs(w) < 1e-6, w is
    taken as 1e-6: such a point is at infinity, so outside, and reads 0 with a finite
    gradient. Where w < 0 it is behind the horizon, and mapped by the formula, mirrored.
    """

    start = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)

    def theta(self, p: Tensor) -> Tensor:
        A = torch.cat((p, torch.ones_like(p[:, :1])), 1)     # (B, 9)
        return A.unflatten(1, (3, 3))                    # (B, 3, 3)

    def grid(self, theta: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
        return projective_grid(theta, size, align_corners)


class ThinPlateSpline(nn.Module):
    """Move points x points of a regular grid over [-1, 1]^2, and all between smoothly.

    Bookstein, "Principal Warps", IEEE TPAMI 11(6), 1989, with U(r) = r^2 log r^2.

    Raises:
        ValueError: if points is below 2.
    """

    def __init__(self, points: int = 4):
        super().__init__()
        [points] = checks.whole(points=points, least=2)
        self.start = controls(points, torch.empty(0, device="cpu")).flatten().tolist()
        # No buffer: it follows from points, and no cast of the module may round it. On
        # the CPU, for a module built on the meta device must still have its numbers.
        self.inverse = spline_inverse(points)

    def theta(self, p: Tensor) -> Tensor:
        """Arrange the regressor's numbers as points."""
        return p.unflatten(1, (-1, 2))                   # (B, points^2, 2)

    def grid(self, theta: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
        return spline_grid(theta, self.inverse, size, align_corners)


def centres(n: int, align_corners: bool, like: Tensor) -> Tensor:
    """Return where the n pixel centres of a row lie in [-1, 1]."""
    i = torch.arange(n, dtype=like.dtype, device=like.device)
    return (2 * i + 1 - n) / (max(n - 1, 1) if align_corners else n)    # (n)


def linear_grid(theta: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Multiply (xt, yt, 1) of each pixel by theta (B, R, 3)."""
    A = theta.to(wide(theta.dtype))[..., None, None]     # (B, R, 3, 1, 1)
    Hout, Wout = size
    xt = centres(Wout, align_corners, A)                 # (Wout)
    yt = centres(Hout, align_corners, A)[:, None]        # (Hout, 1)
    # A sum and no matrix product: faster, and autocast does not make it bfloat16.
    grid = A[:, :, 0] * xt + (A[:, :, 1] * yt + A[:, :, 2])    # (B, R, Hout, Wout)
    return grid.movedim(1, -1)                           # (B, Hout, Wout, R)


@fx.wrap
def projective_grid(
    theta: Tensor, size: tuple[int, int], align_corners: bool
) -> Tensor:
    """Eq. 1 with theta (B, 3, 3), divided by the third part."""
    xyw = linear_grid(theta, size, align_corners)        # (B, Hout, Wout, 3)
    w = xyw[..., 2:]                                     # (B, Hout, Wout, 1)
    w = torch.where(w.abs() < 1e-6, 1e-6, w)             # (B, Hout, Wout, 1)
    return xyw[..., :2] / w                              # (B, Hout, Wout, 2)


def controls(points: int, like: Tensor) -> Tensor:
    """Return the spline's regular points over [-1, 1]^2, row by row, x before y."""
    at = centres(points, True, like)                     # (points)
    return torch.cartesian_prod(at, at).flip(1)          # (points^2, 2)


def spline_features(T: Tensor, P: Tensor) -> Tensor:
    """Return U(r) = r^2 log r^2 from each of T (..., 2) to each of P, then 1, x, y."""
    r2 = (T[..., None, :] - P).square().sum(-1)
    return torch.cat((torch.special.xlogy(r2, r2), torch.ones_like(T[..., :1]), T), -1)


def spline_inverse(points: int) -> Tensor:
    """Invert Bookstein's [[K, P1], [P1^T, 0]]; return what multiplies the points."""
    P = controls(points, torch.empty(0, dtype=torch.float64, device="cpu"))
    K_P1 = spline_features(P, P)                         # (points^2, points^2+3)
    L = torch.cat((K_P1, pad(K_P1[:, points**2:].T, (0, 3))))
    return torch.linalg.inv(L)[:, : points**2]           # (points^2+3, points^2)


@fx.wrap
def spline_grid(
    theta: Tensor, inverse: Tensor, size: tuple[int, int], align_corners: bool
) -> Tensor:
    """Bookstein's spline that sends the regular points to theta (B, points^2, 2)."""
    points = round(int(theta.shape[1]) ** 0.5)     # int, where torch traces sizes
    # Sending P to P is the identity, so only the moves away from it need the spline.
    # From P as theta's type rounds it: a start cast to bfloat16 has not moved.
    moves = theta.to(wide(theta.dtype)) - controls(points, theta)  # (B, points^2, 2)
    P = controls(points, moves)                          # (points^2, 2)
    Hout, Wout = size
    xt = centres(Wout, align_corners, moves).expand(Hout, Wout)
    yt = centres(Hout, align_corners, moves)[:, None].expand(Hout, Wout)
    T = torch.stack((xt, yt), -1)                        # (Hout, Wout, 2)
    with no_autocast(moves):
        basis = spline_features(T, P) @ inverse.to(moves)
        return T + torch.einsum("hwn, bnk -> bhwk", basis, moves)
