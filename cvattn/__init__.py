"""Attention modules for computer vision, one paper a file."""

from .check import check
from .resnet import cifar_resnet, resnet18, resnet34, resnet50, resnet101
from .se import SE

__version__ = "0.1.0"
__all__ = [
    "SE",
    "check",
    "cifar_resnet",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
]
