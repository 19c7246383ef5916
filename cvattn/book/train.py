"""One plain training loop for classifiers: seeded, resumable, on CPU or GPU."""

import io
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvattn.book.data import to_float
from cvattn.book.files import replacing

# Pictures uint8 (N, H, W), which `data.to_float` standardises as Fashion-MNIST, and
# labels int64 (N,).
Pair = tuple[Tensor, Tensor]


def device() -> torch.device:
    """Return the GPU where there is one (CUDA, then Apple's MPS), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def fast_bfloat16(at: torch.device) -> bool:
    """Return whether `at` is a CUDA GPU of capability 8.0 on; older ones emulate it."""
    return at.type == "cuda" and torch.cuda.get_device_capability(at) >= (8, 0)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the pictures and move each by up to 2 pixels, zeros coming in.

    Shape: (N, H, W) uint8, before and after.
    """
    n, h, w = images.shape
    flip = torch.rand(n, generator=generator) < 0.5
    images = torch.where(flip[:, None, None], images.flip(2), images)
    dy, dx = torch.randint(0, 5, (2, n, 1), generator=generator)
    rows, cols = dy + torch.arange(h), dx + torch.arange(w)    # (N, H), (N, W)
    which = torch.arange(n)[:, None, None]
    return F.pad(images, (2, 2, 2, 2))[which, rows[:, :, None], cols[:, None, :]]


def evaluate(model: nn.Module, data: Pair, *, batch_size: int = 500) -> Tensor:
    """Return the logits (N, classes), in float32 on the CPU, in eval mode.

    Args:
        data: pictures uint8 (N, H, W), standardised by `data.to_float` with the
            mean and deviation of Fashion-MNIST, and labels, which are not read.
    """
    was_training = model.training
    model.eval()
    at = next(model.parameters()).device
    with torch.inference_mode():
        logits = [model(to_float(x).to(at)).float().cpu()
                  for x in data[0].split(batch_size)]
    model.train(was_training)
    return torch.cat(logits)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of rows whose largest logit stands at the label."""
    return (logits.argmax(1) == labels).double().mean().item()


@dataclass
class Checkpoint:
    """A training run in a file: stopped after any epoch, it goes on from there.

    file: None keeps nothing. settings: what must be the same when the run goes on.
    parts: what has a state dict: model, optimizer and schedule, by name.
    order: draws the order of the training set.
    """

    file: str | Path | None
    settings: dict
    parts: dict[str, Any]
    order: torch.Generator

    def load(self) -> list[dict]:
        """Return the run's history, with all else as it was; without a file, []."""
        if self.file is None or not Path(self.file).exists():
            return []
        content = io.BytesIO(Path(self.file).read_bytes())
        try:
            saved = torch.load(content, weights_only=True, map_location="cpu")
        except Exception:       # which one depends on what the file holds instead
            saved = None
        wanted = {"settings", *self.parts, "order", "rng", "history"}
        if not isinstance(saved, dict) or saved.keys() != wanted:
            raise ValueError(
                f"{self.file} is no checkpoint of fit; delete it or name another file"
            )
        if saved["settings"] != self.settings:
            raise ValueError(
                f"{self.file} was written with {saved['settings']}, asked for "
                f"{self.settings}; delete it or give the same settings"
            )
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])
        self.order.set_state(saved["order"])
        torch.set_rng_state(saved["rng"])
        return saved["history"]

    def save(self, history: list[dict]) -> None:
        """Write all of it, or leave the file as it was."""
        if self.file is None:
            return
        with replacing(self.file) as new:
            torch.save({
                "settings": self.settings,
                **{name: part.state_dict() for name, part in self.parts.items()},
                "order": self.order.get_state(), "rng": torch.get_rng_state(),
                "history": history,
            }, new)


def fit(
    model: nn.Module,
    train: Pair,
    test: Pair,
    *,
    epochs: int,
    seed: int,
    batch_size: int = 128,
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    bfloat16: bool | None = None,
    optimizer: str = "sgd",
    checkpoint: str | Path | None = None,
    progress: bool = True,
    watch: Callable[[nn.Module], dict] | None = None,
) -> list[dict]:
    """Train the model in place and return one record for each epoch.

    SGD with Nesterov momentum, or AdamW, on one cycle: over the first 30 % of the
    steps the learning rate climbs from lr / 25 to `lr` while the momentum (AdamW's
    first beta) falls from 0.95 to 0.85; then both go back, the rate to lr / 250,000.
    Pictures mirrored and moved at random, channels_last.

    Args:
        train, test: pictures and labels as `data.fashion_mnist` returns them.
        seed: fixes the order and the augmentation of the pictures. The weights
            are yours: call `torch.manual_seed` before you build the model.
        bfloat16: autocast the forward pass; by default only on a CUDA GPU of
            capability 8.0 (Ampere) or later.
        optimizer: "sgd" or "adamw".
        checkpoint: a file; its folder is made. It is written after each epoch; when
            it exists, training goes on from there and gives what one run would have
            given, on a CPU to the bit.
        progress: write a line for each epoch to standard error.
        watch: called with the model in eval mode, without gradients, after each
            epoch; what it returns (of JSON's types) is added to the epoch's record.

    Raises:
        ValueError: before any training, if epochs < 1, if the optimizer is neither,
            if pictures and labels are not equally many, if a batch is larger than the
            training set, or on a checkpoint that is none or was written with other
            settings.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got epochs={epochs}")
    if optimizer not in ("sgd", "adamw"):
        raise ValueError(f'optimizer must be "sgd" or "adamw", got {optimizer!r}')
    for name, (images, labels) in (("train", train), ("test", test)):
        if len(images) != len(labels):
            raise ValueError(
                f"{name} must have one label for each picture, "
                f"got pictures={len(images)}, labels={len(labels)}"
            )
    if not 1 <= batch_size <= len(train[0]):
        raise ValueError(
            "batch_size must be from 1 to the number of pictures, "
            f"got batch_size={batch_size}, pictures={len(train[0])}"
        )
    steps = len(train[0]) // batch_size
    at = device()
    autocast = fast_bfloat16(at) if bfloat16 is None else bfloat16
    model.to(at, memory_format=torch.channels_last)
    if optimizer == "sgd":
        stepper = torch.optim.SGD(
            model.parameters(), lr=lr, momentum=0.95, nesterov=True,
            weight_decay=weight_decay,
        )
    else:
        stepper = torch.optim.AdamW(model.parameters(), lr=lr,
                                    weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        stepper, lr, total_steps=epochs * steps
    )
    order = torch.Generator().manual_seed(seed)
    settings = {"epochs": epochs, "seed": seed, "batch_size": batch_size, "lr": lr,
                "weight_decay": weight_decay, "bfloat16": autocast,
                "optimizer": optimizer, "pictures": len(train[0])}
    if checkpoint is not None:
        Path(checkpoint).parent.mkdir(parents=True, exist_ok=True)
    kept = Checkpoint(checkpoint, settings, {
        "model": model, "optimizer": stepper, "schedule": schedule}, order)
    history = kept.load()

    for epoch in range(len(history), epochs):
        start, total = time.perf_counter(), 0.0
        model.train()
        for step, rows in enumerate(
            torch.randperm(len(train[0]), generator=order)[: steps * batch_size]
            .split(batch_size)
        ):
            x = to_float(augment(train[0][rows], order))
            x = x.to(at, memory_format=torch.channels_last)
            with torch.autocast(at.type, torch.bfloat16) if autocast else nullcontext():
                loss = F.cross_entropy(model(x), train[1][rows].to(at))
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            schedule.step()
            total += loss.item()
            if progress and sys.stderr.isatty():
                print(f"\repoch {epoch + 1}/{epochs} {step + 1}/{steps}", end="",
                      file=sys.stderr)
        history.append({
            "loss": total / steps,
            "test_accuracy": accuracy(evaluate(model, test), test[1]),
            "seconds": time.perf_counter() - start,
        })
        if watch is not None:
            model.eval()
            with torch.no_grad():
                history[-1] |= watch(model)
        if progress:
            print(f"\repoch {epoch + 1}/{epochs}  loss {history[-1]['loss']:.4f}  "
                  f"test {history[-1]['test_accuracy']:.4f}  "
                  f"{history[-1]['seconds']:.0f} s", file=sys.stderr)
        kept.save(history)
    model.eval()
    return history
