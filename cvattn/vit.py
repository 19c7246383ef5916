"""Vision Transformer: a picture is a sequence of patches."""

from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate

from . import checks
from .layers import EncoderLayer

Size = int | tuple[int, int]      # of a picture, H = W or (H, W)


class ViT(nn.Module):
    """Classify a picture by a Transformer's encoder over its patches.

    z_0  = [x_class; x_1 E; ...; x_N E] + E_pos      (Eq. 1)
    z'_l = MSA(LN(z_{l-1})) + z_{l-1}                (Eq. 2)
    z_l  = MLP(LN(z'_l)) + z'_l                      (Eq. 3)
    y    = LN(z_L^0)                                 (Eq. 4)
    logits = head(y)                                 (section 3.2)

    x_1 to x_N are the patches row by row, P by P pixels each; E and its bias are a
    convolution of stride P. z^0 is the first token, the class token.

    Shape:
        x: (B, C, H, W), H and W multiples of P; E_pos is interpolated if they are not
        image_size (section 3.2). logits: (B, num_classes). y: (B, D).
        E_pos: (1, 1+N, D), N = HW / P^2.

    Args:
        image_size: H and W that E_pos is made for, one number or (H, W).
        patch_size: P, the side of a patch; divides H and W.
        dim: D, the length of a token.
        layers: L, the encoder's layers.
        num_heads: heads of each layer's attention; divides dim.
        hidden: the width of the MLP's hidden layer, GELU between its two.
        num_classes: outputs of the head; 0 leaves it out, and forward gives y.
        in_channels: C, the channels of x.
        dropout: the share dropped of z_0 and, in each layer, of what MSA and MLP add.

    Raises:
        ValueError: if patch_size does not divide image_size or the sides of x,
            num_heads does not divide dim, a size is not positive, dropout is not in
            [0, 1], or x is not (B, in_channels, H, W), floating point, with H and W
            from 1 up.

    Differs from the paper: the head is the one for fine-tuning, a single linear layer
    that starts at zero. Weights start as in the authors' code (vision_transformer).

    Source: Dosovitskiy, Beyer, Kolesnikov, Weissenborn, Zhai, et al., ICLR 2021,
    sections 3.1 and 3.2; arXiv 2010.11929v2.

    >>> vit = ViT(32, patch_size=8, dim=12, layers=2, num_heads=3, hidden=24)
    >>> vit(torch.ones(2, 3, 32, 32)).shape
    torch.Size([2, 1000])
    >>> vit.weights(torch.ones(2, 3, 40, 24)).shape     # 1 + 5 * 3 tokens
    torch.Size([2, 2, 3, 16, 16])
    """

    def __init__(self, image_size: Size = 224, *, patch_size: int = 16,
                 dim: int = 768, layers: int = 12, num_heads: int = 12,
                 hidden: int = 3072, num_classes: int = 1000, in_channels: int = 3,
                 dropout: float = 0.0):
        super().__init__()
        H, W = checks.sides(image_size=image_size)
        for side in (H, W):
            _, patch_size = checks.multiple(image_size=side, patch_size=patch_size)
        dim, num_heads = checks.multiple(dim=dim, num_heads=num_heads)
        layers, in_channels = checks.whole(layers=layers, in_channels=in_channels)
        [num_classes] = checks.whole(num_classes=num_classes, least=0)
        checks.share(dropout=dropout)
        self.grid = H // patch_size, W // patch_size
        self.layers = nn.ModuleList(
            EncoderLayer(dim, num_heads=num_heads, hidden=hidden, dropout=dropout,
                         norm_first=True, bias=True, activation=gelu, eps=1e-6)
            for _ in range(layers))
        self.E = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.x_class = nn.Parameter(torch.zeros(1, 1, dim))
        self.E_pos = nn.Parameter(torch.empty(1, 1 + self.grid[0] * self.grid[1], dim))
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes) if num_classes else nn.Identity()
        nn.init.normal_(self.E_pos, std=0.02)
        # Variance 1 / fan-in; cutting a normal at 2 deviations leaves 0.8796 of one.
        std = (in_channels * patch_size**2) ** -0.5 / 0.8796
        nn.init.trunc_normal_(self.E.weight, std=std, a=-2 * std, b=2 * std)
        nn.init.zeros_(self.E.bias)
        for layer in self.layers:       # whose matrices are Glorot-uniform already
            nn.init.normal_(layer.feed_forward.W1.bias, std=1e-6)
            nn.init.normal_(layer.feed_forward.W2.bias, std=1e-6)
        if num_classes:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Return E_pos, that of the patches interpolated to their grid."""
        # Interpolated to its own size it is the same to the last bit, at no cost that
        # could be measured, and torch.export can leave height and width open.
        grid = self.E_pos[:, 1:].unflatten(1, self.grid).permute(0, 3, 1, 2)
        grid = interpolate(grid, (rows, columns), mode="bilinear", align_corners=True)
        grid = grid.flatten(2).transpose(1, 2)                     # (1, N, D)
        return torch.cat([self.E_pos[:, :1], grid], dim=1)         # (1, 1+N, D)

    def embed(self, x: Tensor) -> Tensor:
        """Return z_0: the class token, then the patches row by row, with positions."""
        C, P = self.E.in_channels, self.E.kernel_size[0]
        checks.picture(x, C)
        checks.patches(x, P)
        z = self.E(x)                                              # (B, D, H/P, W/P)
        E_pos = self.positions(z.shape[2], z.shape[3])             # (1, 1+N, D)
        z = z.flatten(2).transpose(1, 2)                           # (B, N, D)
        x_class = self.x_class.expand(x.shape[0], -1, -1)          # (B, 1, D)
        z = torch.cat([x_class, z], dim=1)                         # (B, 1+N, D)
        return self.dropout(z + E_pos)                             # (B, 1+N, D)

    def encode(self, x: Tensor) -> Tensor:
        """Return z_L, all tokens after the last layer, before the last LayerNorm."""
        z = self.embed(x)                                          # (B, 1+N, D)
        for layer in self.layers:
            z = layer(z)                                           # (B, 1+N, D)
        return z                                                   # (B, 1+N, D)

    def tokens(self, x: Tensor) -> Tensor:
        """Return LN(z_L): the class token, then one token for each patch."""
        return self.norm(self.encode(x))                           # (B, 1+N, D)

    def features(self, x: Tensor) -> Tensor:
        """Return y = LN(z_L^0), what the head sees."""
        return self.norm(self.encode(x)[:, 0])                     # (B, D)

    def weights(self, x: Tensor) -> Tensor:
        """Return the attention weights of all layers: who (row) looks at whom.

        In eval mode they are those of `forward`; in training, dropout draws anew.
        """
        z, A = self.embed(x), []
        for layer in self.layers:
            A.append(layer.weights(z))
            z = layer(z)                                           # (B, 1+N, D)
        return torch.stack(A)                                      # (L, B, h, 1+N, 1+N)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))                         # (B, K)


class Options(TypedDict, total=False):
    """What a size of Table 1 leaves open, as `ViT` says; other names: TypeError."""

    num_classes: int
    in_channels: int
    dropout: float


def vit_ti16(image_size: Size = 224, **options: Unpack[Options]) -> ViT:
    """ViT-Ti/16, 5,717,416 parameters; not in the paper, see `vit_b16`.

    >>> with torch.device("meta"):      # counts alone, no memory
    ...     model = vit_ti16()
    >>> sum(p.numel() for p in model.parameters())
    5717416
    """
    return ViT(image_size, patch_size=16, dim=192, layers=12, num_heads=3,
               hidden=768, **options)


def vit_s16(image_size: Size = 224, **options: Unpack[Options]) -> ViT:
    """ViT-S/16, 22,050,664 parameters; not in the paper, see `vit_b16`.

    >>> with torch.device("meta"):      # counts alone, no memory
    ...     model = vit_s16()
    >>> sum(p.numel() for p in model.parameters())
    22050664
    """
    return ViT(image_size, patch_size=16, dim=384, layers=12, num_heads=6,
               hidden=1536, **options)


def vit_b16(image_size: Size = 224, **options: Unpack[Options]) -> ViT:
    """ViT-Base of Table 1 with patches of 16, 86,567,656 parameters.

    Args:
        image_size: H and W of the pictures, one number or (H, W).
        options: num_classes, in_channels and dropout, as in `ViT`.

    Raises:
        ValueError: as `ViT`.

    The paper has B, L and H; Ti and S are the widths of DeiT-Ti and DeiT-S (Touvron et
    al., ICML 2021, Table 1), which the authors' code took up.

    >>> with torch.device("meta"):      # counts alone, no memory
    ...     model = vit_b16()
    >>> sum(p.numel() for p in model.parameters())
    86567656
    """
    return ViT(image_size, patch_size=16, dim=768, layers=12, num_heads=12,
               hidden=3072, **options)


def vit_l16(image_size: Size = 224, **options: Unpack[Options]) -> ViT:
    """ViT-Large of Table 1, 304,326,632 parameters; arguments as in `vit_b16`.

    >>> with torch.device("meta"):      # counts alone, no memory
    ...     model = vit_l16()
    >>> sum(p.numel() for p in model.parameters())
    304326632
    """
    return ViT(image_size, patch_size=16, dim=1024, layers=24, num_heads=16,
               hidden=4096, **options)


def vit_h14(image_size: Size = 224, **options: Unpack[Options]) -> ViT:
    """ViT-Huge of Table 1, 632,045,800 parameters; arguments as in `vit_b16`.

    >>> with torch.device("meta"):      # counts alone, no memory
    ...     model = vit_h14()
    >>> sum(p.numel() for p in model.parameters())
    632045800
    """
    return ViT(image_size, patch_size=14, dim=1280, layers=32, num_heads=16,
               hidden=5120, **options)
