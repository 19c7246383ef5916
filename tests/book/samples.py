"""What the tests of experiments share: a few real pictures, and a lively network."""

import torch
from torch import nn

from cvattn.book import data


def pictures(n, split="test"):
    """Return n pictures and their labels, always the same ones."""
    x, y = data.fashion_mnist(split)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:n]
    return x[order], y[order]


def stirred(model, mean=0.1):
    """Give every BatchNorm numbers of its own, `mean` the spread of its means."""
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
                m.weight.uniform_(0.5, 2)
                m.bias.normal_(0, 0.3)
                m.running_mean.normal_(0, mean)
                m.running_var.uniform_(0.5, 2)
    return model
