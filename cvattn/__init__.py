"""Attention modules for computer vision, one paper a file."""

from .bam import BAM, ChannelGate, SpatialGate
from .cbam import CBAM, ChannelAttention, SpatialAttention
from .decode import beam, greedy
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
from .stn import SpatialTransformer, affine_grid, bilinear_sample
from .transformer import (
    DecoderLayer,
    EncoderLayer,
    FeedForward,
    MultiHeadAttention,
    PositionalEncoding,
    Transformer,
    attention,
    causal_mask,
    label_smoothing,
    warmup,
)
from .vit import ViT, rollout, vit_b16, vit_h14, vit_l16, vit_s16, vit_ti16

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
