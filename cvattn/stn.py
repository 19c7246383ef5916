"""Spatial transformer: the network chooses where in the picture to look."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TRANSFORMS = ("affine", "attention", "projective", "tps")


def affine_grid(
    theta: Tensor, size: tuple[int, int], *, align_corners: bool = False
) -> Tensor:
    """Say for each pixel of the output where in the input it comes from.

    (xs, ys) = theta (xt, yt, 1)      (Eq. 1)

    for the centre (xt, yt) of each output pixel. All coordinates are in [-1, 1]: -1
    and 1 are the outer edges of the picture, or, with align_corners, the centres of
    its first and last pixels. A picture one pixel wide has its pixel at 0.

    Shape:
        theta: (B, 2, 3). Result: (B, Hout, Wout, 2), x before y, in theta's type,
        but float32 at least.

    Args:
        theta: the affine map from output to input coordinates, A of Eq. 1.
        size: Hout and Wout.
        align_corners: where -1 and 1 are. Give the sampler the same.

    Raises:
        ValueError: if theta is not (B, 2, 3) or size not two positive integers.

    >>> affine_grid(torch.eye(2, 3)[None], (1, 2))
    tensor([[[[-0.5000,  0.0000],
              [ 0.5000,  0.0000]]]])
    """
    if theta.ndim != 3 or theta.shape[1:] != (2, 3):
        raise ValueError(f"theta must be (B, 2, 3), got {tuple(theta.shape)}")
    check_size(size)
    return linear_grid(theta, size, align_corners)       # (B, Hout, Wout, 2)


def bilinear_sample(x: Tensor, grid: Tensor, *, align_corners: bool = False) -> Tensor:
    """Read x at fractional places, as if it went on with zeros for ever.

    V[i] = sum over n, m of x[n, m] max(0, 1 - |xs - m|) max(0, 1 - |ys - n|)  (Eq. 5)

    where (xs, ys) is grid[i] counted in pixels. Only the four pixels around it have a
    weight, so only they are read. Autograd then gives Eq. 6 for x and Eq. 7 for grid.
    At a pixel centre V has a kink, and the slope taken is that towards the right (or
    down): x[m+1] - x[m], as torch does. Eq. 7 as printed would give x[m] there. Where
    the place of a centre is rounded, the rounding chooses the side.

    Shape:
        x: (B, C, H, W). grid: (B, Hout, Wout, 2), x before y. V: (B, C, Hout, Wout),
        in x's type and layout; computed in the wider type of x, grid and float32.
        A NaN in grid gives NaN there; an infinity is outside and gives 0, but NaN where
        x is one pixel wide with align_corners. No pictures give no pictures.

    Args:
        x: U, the map to read.
        grid: where to read it, in [-1, 1], outside of which x is zero.
        align_corners: as in affine_grid.

    Raises:
        ValueError: if x is not (B, C, H, W), floating point, with H and W from 1 up,
            or grid is not (B, Hout, Wout, 2) with the same B.

    >>> x = torch.tensor([[[[1.0, 3.0]]]])
    >>> bilinear_sample(x, torch.tensor([[[[0.0, 0.0], [0.5, 0.0], [2.0, 0.0]]]]))
    tensor([[[[2., 3., 0.]]]])
    """
    check_map(x)
    B, C, H, W = x.shape
    if grid.ndim != 4 or grid.shape[0] != B or grid.shape[3] != 2:
        raise ValueError(f"grid must be ({B}, Hout, Wout, 2), got {tuple(grid.shape)}")
    _, Hout, Wout, _ = grid.shape
    grid = grid.to(wide(x.dtype, grid.dtype))
    xs, ys = (grid + 1).unbind(-1)
    # From a pixel outside on, all is zero: one ring around x holds every place.
    xs = (xs * ((W - 1) / 2) if align_corners else xs * (W / 2) - 0.5).clamp(-1, W)
    ys = (ys * ((H - 1) / 2) if align_corners else ys * (H / 2) - 0.5).clamp(-1, H)
    U = F.pad(x.to(grid.dtype), (1, 2, 1, 2)).flatten(2)     # (B, C, (H+3)(W+3))
    # The pixel left of xs and above ys. A NaN has none; it reads the ring.
    m = torch.where(xs.isnan(), W, xs.detach().floor())  # (B, Hout, Wout)
    n = torch.where(ys.isnan(), H, ys.detach().floor())  # (B, Hout, Wout)
    dx, dy = (xs - m)[:, None], (ys - n)[:, None]
    m, n = m.long() + 1, n.long() + 1                    # in the ring's numbers

    def at(n: Tensor, m: Tensor) -> Tensor:
        pixel = (n * (W + 3) + m).flatten(1)[:, None].expand(B, C, Hout * Wout)
        return U.gather(2, pixel).unflatten(2, (Hout, Wout))    # (B, C, Hout, Wout)

    V = (at(n, m) * (1 - dx) + at(n, m + 1) * dx) * (1 - dy)
    V = V + (at(n + 1, m) * (1 - dx) + at(n + 1, m + 1) * dx) * dy
    return like(V, x)                                    # (B, C, Hout, Wout)


class SpatialTransformer(nn.Module):
    """Let a small network choose how to warp the map, and warp it.

    theta = regressor(localise(x))                            (section 3.1)
    (xs, ys) = A (xt, yt, 1), A = theta                       (Eq. 1, affine)
    (xs, ys) = A (xt, yt, 1), A = [[s, 0, tx], [0, s, ty]]    (Eq. 2, attention)
    y = bilinear sample of x at (xs, ys)                      (Eqs. 3 and 5)

    "projective" has 8 numbers, A is (3, 3) with a last entry of 1, and the result is
    divided by its third part w. Where abs(w) < 1e-6, w is taken as 1e-6: such a point
    is at infinity, so outside, and reads 0 with a finite gradient (0/0 is taken as 0,
    the middle). Where w < 0, the point is behind the horizon, and mapped as the
    formula says, mirrored.
    "tps" moves a regular grid of points over [-1, 1]^2; between them, a thin plate
    spline (Bookstein 1989), U(r) = r^2 log r^2.

    It starts as the identity, which gives x (or, with another size, x resized) to
    rounding, and x exactly where H and W are powers of two (with align_corners: powers
    of two plus one); a "tps" keeps float32's rounding when cast to float64. As the
    regressor starts at zero, the first step of training moves it alone and not
    localise. In x's own size every place is then a pixel centre, so that step's slopes
    are one-sided differences.

    Shape:
        x: (B, C, H, W). y: (B, C, Hout, Wout), in x's type and layout.
        theta(x): (B, 2, 3) for affine and attention, (B, 3, 3), or (B, points^2, 2).
        grid(x): (B, Hout, Wout, 2), float32 at least, also under autocast: bfloat16
        has 3 digits, too few for a place in a picture.
        No pictures give no pictures. What a NaN in x does depends on localise, which
        is likely to make its whole picture's theta NaN. Then grid and, on a CPU, y
        are NaN; torch's CUDA sampler may read 0 at NaN instead.

    Args:
        localise: any module from x to (B, features), the localisation network without
            its last layer, which is the regressor here.
        features: how many numbers localise gives for a picture.
        transform: "affine" (6 numbers), "attention" (3), "projective" (8) or "tps"
            (2 points^2).
        size: Hout and Wout; those of x if None.
        points: points x points control points, for "tps" alone.
        align_corners: whether -1 and 1 are pixel centres or picture edges.

    Raises:
        ValueError: if transform is none of the four, features < 1, points < 2, or
            size is not two positive integers; if x is not (B, C, H, W), floating
            point, with H and W from 1 up; if localise(x) is not (B, features).

    Differs from the paper: in the slope at pixel centres, see bilinear_sample; the
    paper leaves open which pixel is at -1, where the spline's points are (here a
    regular grid to the edges) and what w = 0 does. We know of no official code.

    Source: Jaderberg, Simonyan, Zisserman, Kavukcuoglu, "Spatial Transformer
    Networks", NeurIPS 2015, section 3; arXiv 1506.02025v3. Bookstein, "Principal
    Warps", IEEE TPAMI 11(6), 1989.

    >>> localise = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    >>> transformer = SpatialTransformer(localise, features=12)
    >>> x = torch.rand(5, 3, 8, 16)
    >>> torch.equal(transformer(x), x)
    True
    """

    def __init__(
        self,
        localise: nn.Module,
        *,
        features: int,
        transform: str = "affine",
        size: tuple[int, int] | None = None,
        points: int = 4,
        align_corners: bool = False,
    ):
        super().__init__()
        if transform not in TRANSFORMS:
            raise ValueError(
                f"transform must be one of {', '.join(TRANSFORMS)}, got {transform!r}"
            )
        if features < 1:
            raise ValueError(f"features must be positive, got features={features}")
        if points < 2:
            raise ValueError(f"points must be at least 2, got points={points}")
        if size is not None:
            check_size(size)
        identity = torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0])
        start = {
            "affine": identity[:6],
            "attention": identity[:3],
            "projective": identity,
            "tps": controls(points, identity).flatten(),
        }[transform]
        self.localise = localise
        self.regressor = nn.Linear(features, len(start))
        with torch.no_grad():
            self.regressor.weight.zero_()
            self.regressor.bias.copy_(start)
        self.features, self.transform = features, transform
        self.size, self.align_corners = size, align_corners
        # No buffer: it follows from points, and no cast of the module may round it. On
        # the CPU, for a module built on the meta device must still have its numbers.
        self.inverse = spline_inverse(points) if transform == "tps" else None

    def theta(self, x: Tensor) -> Tensor:
        """Return the map chosen for each picture: a matrix, or the spline's points."""
        check_map(x)
        f = self.localise(x)
        if f.shape != (x.shape[0], self.features):
            raise ValueError(
                f"localise(x) must be ({x.shape[0]}, {self.features}), "
                f"got {tuple(f.shape)}"
            )
        with no_autocast(x):
            p = self.regressor(f.to(self.regressor.weight.dtype))
        return as_map(p, self.transform)

    def grid(self, x: Tensor) -> Tensor:
        """Return, for each pixel of the output, where in x it is read."""
        theta = self.theta(x)
        size = x.shape[2:] if self.size is None else self.size
        if self.transform == "projective":
            return projective_grid(theta, size, self.align_corners)
        if self.transform == "tps":
            return spline_grid(theta, self.inverse, size, self.align_corners)
        return affine_grid(theta, size, align_corners=self.align_corners)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.grid(x)                              # (B, Hout, Wout, 2)
        dtype = wide(x.dtype, grid.dtype)
        # Equal to bilinear_sample; measured at (32, 3, 64, 64) and (8, 256, 56, 56) on
        # a CPU, torch's sampler is faster, and affine_grid faster than torch's.
        V = F.grid_sample(
            x.to(dtype), grid.to(dtype), align_corners=self.align_corners
        )
        return like(V, x)                                # (B, C, Hout, Wout)


def as_map(p: Tensor, transform: str) -> Tensor:
    """Arrange the regressor's numbers p (B, P) as a matrix or as points."""
    if transform == "tps":
        return p.unflatten(1, (-1, 2))                   # (B, points^2, 2)
    if transform == "projective":
        p = torch.cat((p, torch.ones_like(p[:, :1])), 1)     # (B, 9)
        return p.unflatten(1, (3, 3))                    # (B, 3, 3)
    if transform == "attention":
        s, tx, ty = p.unbind(1)
        o = torch.zeros_like(s)
        p = torch.stack((s, o, tx, o, s, ty), 1)         # (B, 6)
    return p.unflatten(1, (2, 3))                        # (B, 2, 3)


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
    L = torch.cat((K_P1, F.pad(K_P1[:, points**2:].T, (0, 3))))
    return torch.linalg.inv(L)[:, : points**2]           # (points^2+3, points^2)


def spline_grid(
    theta: Tensor, inverse: Tensor, size: tuple[int, int], align_corners: bool
) -> Tensor:
    """Bookstein's spline that sends the regular points to theta (B, points^2, 2)."""
    points = round(theta.shape[1] ** 0.5)
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


def no_autocast(x: Tensor) -> AbstractContextManager:
    """Return a context in which autocast changes no type, on any device, meta too."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def wide(*dtypes: torch.dtype) -> torch.dtype:
    """Return the widest of the types, float32 at least."""
    widest = torch.float32
    for dtype in dtypes:
        widest = torch.promote_types(widest, dtype)
    return widest


def like(V: Tensor, x: Tensor) -> Tensor:
    """Return V in the type and memory layout of x."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    return V.to(x.dtype).contiguous(memory_format=layout)


def check_map(x: Tensor) -> None:
    if x.ndim != 4:
        raise ValueError(f"x must be (B, C, H, W), got {tuple(x.shape)}")
    if x.shape[2] < 1 or x.shape[3] < 1:
        raise ValueError(f"x must have H and W from 1 up, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point, got {x.dtype}")


def check_size(size: tuple[int, int]) -> None:
    if not isinstance(size, Sequence) or len(size) != 2 or not all(
        isinstance(n, int | torch.SymInt) and n > 0 for n in size
    ):
        raise ValueError(f"size must be two positive integers, got {size!r}")
