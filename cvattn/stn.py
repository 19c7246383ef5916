"""Spatial transformer: the network chooses where in the picture to look."""

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from . import checks
from .precision import no_autocast, wide
from .warps import Affine, Projective, ThinPlateSpline


def bilinear_sample(x: Tensor, grid: Tensor, *, align_corners: bool = False) -> Tensor:
    """Read x at fractional places, as if it went on with zeros for ever.

    V[i] = sum over n, m of x[n, m] max(0, 1 - |xs - m|) max(0, 1 - |ys - n|)  (Eq. 5)

    where (xs, ys) is grid[i] counted in pixels. Only the four pixels around it have a
    weight, so only they are read. Autograd then gives Eq. 6 for x and Eq. 7 for grid.
    At a pixel centre, V's kink, the slope is that towards the right (or down).

    Shape:
        x: (B, C, H, W). grid: (B, Hout, Wout, 2), x before y. V: (B, C, Hout, Wout),
        in x's type and layout. A NaN in grid gives NaN there, an infinity is outside.

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
    checks.picture(x)
    B, C, H, W = x.shape
    if grid.ndim != 4 or grid.shape[0] != B or grid.shape[3] != 2:
        raise ValueError(f"grid must be ({B}, Hout, Wout, 2), got {tuple(grid.shape)}")
    _, Hout, Wout, _ = grid.shape
    grid = grid.to(wide(x.dtype, grid.dtype))
    xs, ys = (grid + 1).unbind(-1)
    # From a pixel outside on, all is zero: two rings around x hold every place. (With
    # one, -1 would be clamp's bound, and newer torch gives a bound no gradient.)
    xs = (xs * ((W - 1) / 2) if align_corners else xs * (W / 2) - 0.5).clamp(-2, W)
    ys = (ys * ((H - 1) / 2) if align_corners else ys * (H / 2) - 0.5).clamp(-2, H)
    U = F.pad(x.to(grid.dtype), (2, 2, 2, 2)).flatten(2)     # (B, C, (H+4)(W+4))
    # The pixel left of xs and above ys. A NaN has none; it reads the ring.
    m = torch.where(xs.isnan(), W, xs.detach().floor())  # (B, Hout, Wout)
    n = torch.where(ys.isnan(), H, ys.detach().floor())  # (B, Hout, Wout)
    dx, dy = (xs - m)[:, None], (ys - n)[:, None]
    m, n = m.long() + 2, n.long() + 2                    # in the rings' numbers

    def at(n: Tensor, m: Tensor) -> Tensor:
        pixel = (n * (W + 4) + m).flatten(1)[:, None].expand(B, C, Hout * Wout)
        return U.gather(2, pixel).unflatten(2, (Hout, Wout))    # (B, C, Hout, Wout)

    V = (at(n, m) * (1 - dx) + at(n, m + 1) * dx) * (1 - dy)
    V = V + (at(n + 1, m) * (1 - dx) + at(n + 1, m + 1) * dx) * dy
    return like(V, x)                                    # (B, C, Hout, Wout)


class SpatialTransformer(nn.Module):
    """Let a small network choose how to warp the map, and warp it.

    theta = regressor(localise(x))                            (section 3.1)
    (xs, ys) = A (xt, yt, 1), A = theta                       (Eq. 1, affine)
    y = bilinear sample of x at (xs, ys)                      (Eqs. 3 and 5)

    It starts as the identity, to rounding, with zero weights: the first step of
    training moves the regressor alone and not localise.

    Shape:
        x: (B, C, H, W). y: (B, C, Hout, Wout), in x's type and layout.
        theta(x): (B, 2, 3), or as the transform says. grid(x): (B, Hout, Wout, 2),
        float32 at least, under autocast too: bfloat16 is too coarse for a place. What a
        NaN in x does depends on localise.

    Args:
        localise: any module from x to (B, features), the localisation network without
            its last layer, which is the regressor here.
        features: how many numbers localise gives for a picture.
        transform: `Affine()`, if None; or `Attention()`, `Projective()` or
            `ThinPlateSpline(points)`, all of `cvattn.warps`.
        size: Hout and Wout; those of x if None.
        align_corners: whether -1 and 1 are pixel centres or picture edges.

    Raises:
        ValueError: if transform is none of these, features < 1, or size is not two
            whole numbers from 1 up; if x is not (B, C, H, W), floating point, with H
            and W from 1 up; if localise(x) is not (B, features).

    Differs from the paper: in the slope at pixel centres, see `bilinear_sample`; and it
    says what the paper leaves open: which pixel is at -1, and what w = 0 does.

    Source: Jaderberg, Simonyan, Zisserman, Kavukcuoglu, NeurIPS 2015, section 3;
    arXiv 1506.02025v3. We know of no official code.

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
        transform: nn.Module | None = None,
        size: tuple[int, int] | None = None,
        align_corners: bool = False,
    ):
        super().__init__()
        transform = Affine() if transform is None else transform
        if not isinstance(transform, Affine | Projective | ThinPlateSpline):
            raise ValueError("transform must be Affine(), Attention(), Projective() or "
                             f"ThinPlateSpline(points), got {transform!r}")
        [features] = checks.whole(features=features)
        if size is not None:
            size = tuple(checks.pair(size=size))
        self.localise, self.transform = localise, transform
        self.regressor = Regressor(features, len(transform.start))
        with torch.no_grad():
            self.regressor.weight.zero_()
            self.regressor.bias.copy_(torch.tensor(transform.start))
        self.features, self.size, self.align_corners = features, size, align_corners

    def theta(self, x: Tensor) -> Tensor:
        """Return the map chosen for each picture: a matrix, or the spline's points."""
        checks.picture(x)
        f = self.localise(x)                             # (B, features)
        check_features(f, x, self.features)
        return self.transform.theta(self.regressor(f))

    def grid(self, x: Tensor) -> Tensor:
        """Return, for each pixel of the output, where in x it is read."""
        theta = self.theta(x)
        size = x.shape[2:] if self.size is None else self.size
        return self.transform.grid(theta, size, self.align_corners)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.grid(x)                              # (B, Hout, Wout, 2)
        return sample(x, grid, self.align_corners)       # (B, C, Hout, Wout)


class Regressor(nn.Linear):
    """A linear layer that computes in its own type, whatever autocast says.

    `quantize_dynamic` passes it by: eight bits are too coarse for a place too.
    """

    def forward(self, f: Tensor) -> Tensor:
        return precise(f, self.weight, self.bias)


@fx.wrap
def precise(f: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    with no_autocast(f):
        return F.linear(f.to(weight.dtype), weight, bias)


@fx.wrap
def sample(x: Tensor, grid: Tensor, align_corners: bool) -> Tensor:
    """Return what bilinear_sample does, faster."""
    # Measured at (32, 3, 64, 64) and (8, 256, 56, 56) on a CPU, torch's sampler is
    # faster, and affine_grid faster than torch's. But on CUDA the gradient of torch's
    # is not the same from one run to the next.
    if torch.are_deterministic_algorithms_enabled():
        return bilinear_sample(x, grid, align_corners=align_corners)
    dtype = wide(x.dtype, grid.dtype)
    V = F.grid_sample(x.to(dtype), grid.to(dtype), align_corners=align_corners)
    return like(V, x)                                    # (B, C, Hout, Wout)


def like(V: Tensor, x: Tensor) -> Tensor:
    """Return V in the type and memory layout of x."""
    V = V.to(x.dtype)
    if x.is_contiguous() or x.stride(1) != 1:
        return V.contiguous()
    # By hand, for vmap has no contiguous(memory_format=torch.channels_last).
    return V.movedim(1, -1).contiguous().movedim(-1, 1)


@fx.wrap
def check_features(f: Tensor, x: Tensor, features: int) -> None:
    checks.tensor(f, "localise(x)", f"({x.shape[0]}, {features})",
                  f.shape == (x.shape[0], features))
