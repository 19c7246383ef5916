"""How the paper trains its Transformer: soft targets and a learning rate that warms up.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 5;
arXiv 1706.03762v7.
"""

from torch import Tensor
from torch.nn.functional import cross_entropy

from . import checks
from .precision import wide


def label_smoothing(
    logits: Tensor, target: Tensor, *, epsilon: float = 0.1, pad: int | None = 0
) -> Tensor:
    """Compare logits with targets of which a share is spread over all ids.

    loss = - sum_k q(k) log p(k),  q(k) = (1 - epsilon) [k = target] + epsilon / V

    Shape:
        logits: (..., V). target: (...), ids of int64. loss: a scalar, the mean over
        all targets that are not padding, float32 at least; NaN if there is none, as
        torch's.

    Args:
        logits: log p up to a constant.
        target: the right ids.
        epsilon: the share that is spread, from 0 to 1.
        pad: the id that counts for nothing, or None: only torch's -100 does.

    Raises:
        ValueError: if logits are not the target's shape and one axis more, floating
            point, or if epsilon is not in [0, 1].

    Source: section 5.4, which cites Szegedy et al. 2016 (section 7).

    >>> import torch
    >>> label_smoothing(torch.zeros(2, 5, 10), torch.ones(2, 5, dtype=torch.int64))
    tensor(2.3026)
    """
    if logits.ndim < 1 or logits.shape[:-1] != target.shape:
        raise ValueError(f"logits must be (..., V) and target (...), "
                         f"got {tuple(logits.shape)} and {tuple(target.shape)}")
    checks.tensor(logits, "logits", "(..., V)", True)
    checks.share(epsilon=epsilon)
    # A sum over all ids of log p may be beyond float16.
    logits = logits.reshape(-1, logits.shape[-1]).to(wide(logits.dtype))
    return cross_entropy(logits, target.flatten(), label_smoothing=epsilon,
                         ignore_index=-100 if pad is None else pad)


def warmup(step: int, *, dim: int = 512, steps: int = 4000) -> float:
    """Let the learning rate rise in a line, then fall as one over a root.

    rate = D^-0.5 min(step^-0.5, step steps^-1.5)      (Eq. 3)

    Args:
        step: the number of the update, from 1. LambdaLR counts from 0:
            `LambdaLR(optimizer, lambda n: warmup(n + 1))` with lr=1.
        dim: D of the model.
        steps: warmup_steps, at which the rate is highest.

    Raises:
        ValueError: if step, dim or steps is below 1.

    Source: section 5.3; its Adam has betas (0.9, 0.98) and eps 1e-9.

    >>> f"{warmup(4000):.1e}"
    '7.0e-04'
    """
    if not (step >= 1 and dim >= 1 and steps >= 1):      # NaN is none
        raise ValueError("step, dim and steps must be at least 1, "
                         f"got step={step}, dim={dim}, steps={steps}")
    return dim**-0.5 * min(step**-0.5, step * steps**-1.5)
