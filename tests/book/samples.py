"""What the tests of experiments share: real pictures, a lively network, an executor."""

from concurrent.futures import Executor, Future

import torch
from torch import nn

from cvattn.book import data


class Here(Executor):
    """An executor that makes each call in this process, and at once."""

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        future.set_result(function(*args, **kwargs))
        return future


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
