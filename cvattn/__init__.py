"""Attention modules for computer vision, one paper a file.

What every module promises: it takes any batch, an empty one too, and pictures of any
height and width from 1 up; its result has x's type; in eval mode a NaN in x spoils its
own picture and no other, while in training mode BatchNorm's statistics carry it to all.
Where a module differs, its docstring says so.
"""

from .bam import BAM, ChannelGate, SpatialGate
from .cbam import CBAM, ChannelAttention, SpatialAttention
from .decode import beam, greedy
from .flow import rollout
from .layers import DecoderLayer, EncoderLayer, FeedForward
from .multihead import MultiHeadAttention, attention, causal_mask
from .recipe import label_smoothing, warmup
from .resnet import (
    cifar_resnet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnext50,
    resnext101,
    sknet26,
    sknet50,
    sknet101,
)
from .se import SE
from .sk import SK
from .stn import SpatialTransformer, bilinear_sample
from .transformer import PositionalEncoding, Transformer
from .vit import ViT, vit_b16, vit_h14, vit_l16, vit_s16, vit_ti16
from .warps import affine_grid

__version__ = "0.1.0"
__all__ = [
    "BAM",
    "CBAM",
    "ChannelAttention",
    "ChannelGate",
    "DecoderLayer",
    "EncoderLayer",
    "FeedForward",
    "MultiHeadAttention",
    "PositionalEncoding",
    "SE",
    "SK",
    "SpatialAttention",
    "SpatialGate",
    "SpatialTransformer",
    "Transformer",
    "ViT",
    "affine_grid",
    "attention",
    "beam",
    "bilinear_sample",
    "causal_mask",
    "cifar_resnet",
    "greedy",
    "label_smoothing",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnext50",
    "resnext101",
    "rollout",
    "sknet26",
    "sknet50",
    "sknet101",
    "vit_b16",
    "vit_h14",
    "vit_l16",
    "vit_s16",
    "vit_ti16",
    "warmup",
]
