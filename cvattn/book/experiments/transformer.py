"""What does a Transformer need? Dates to ISO 8601, and two toys, with parts left out.

    python -m cvattn.book.experiments.transformer

Trains a small Transformer (see `grid` for how to stop and go on), character by
character, on one of three tasks, with one part changed. Arms are named <task>-<part>.

dates     "5th, mar, 2021" to "2021-03-05", from FORMS; a fifth of the forms, and one
          date in ten, never occur in training
reverse   4 to 12 digits, written backwards
sort      4 to 12 digits, in order

paper          the paper's form: 4 heads, scores divided by sqrt(d), sinusoids,
               LayerNorm after each sum
one_head       1 head in place of 4, with as many parameters
no_scale       scores not divided
no_positions   nothing says where a token stands
pre_norm       LayerNorm before each sublayer, and one after each stack
"""

import datetime
import itertools
import math
import random
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvattn.book import train
from cvattn.book.experiments.grid import Grid
from cvattn.decode import greedy
from cvattn.transformer import MultiHeadAttention, Transformer, label_smoothing, warmup

PAD, START, END = 0, 1, 2
CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz -/.,_"
TEXT, DIGITS = len(CHARACTERS) + 3, 10 + 3      # ids of a vocabulary
PARTS = {
    "paper": {}, "one_head": {"num_heads": 1}, "no_scale": {"scale": False},
    "no_positions": {"positions": False}, "pre_norm": {"norm_first": True},
}
TASKS = {"dates": {"pairs": 32000, "warmup": 1000}, "reverse": {}, "sort": {}}

SETTINGS = {
    "dim": 32, "num_heads": 4, "hidden": 64, "layers": 2, "dropout": 0.0,
    "scale": True, "positions": True, "norm_first": False, "epsilon": 0.1,
    "epochs": 4, "pairs": 12800, "batch_size": 64, "warmup": 500, "tested": 1000,
    "arms": {f"{task}-{part}": {"task": task, **extra, **changed, "seeds": 5}
             for part, changed in PARTS.items() for task, extra in TASKS.items()},
}


# Dates ------------------------------------------------------------------------------

# A form is (order, day, month, separator), such as ("dmy", "5th", "mar", ", ").
ORDERS = ("dmy", "mdy", "ymd")
NAMES = ("january", "february", "march", "april", "may", "june", "july", "august",
         "september", "october", "november", "december")
DAYS, MONTHS = ("5", "05", "5th"), ("3", "03", "mar", "march")
SEPARATORS = (" ", "-", "/", ".", ", ")
STRANGE = "_"           # a separator that no form of the training has


def forms(separators: tuple[str, ...] = SEPARATORS) -> list[tuple[str, ...]]:
    """Return every form that can be read in one way.

    A month of digits never comes first before a day, and both are padded or neither.
    """
    return [
        (order, day, month, separator)
        for order, day, month, separator in itertools.product(
            ORDERS, DAYS, MONTHS, separators)
        if month in ("mar", "march")
        or (order != "mdy" and (day, month) in (("5", "3"), ("05", "03")))]


def split_forms() -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Return the forms of the training, and a fifth of all that it never sees."""
    every = forms()
    random.Random(0).shuffle(every)
    few = len(every) // 5
    return every[few:], every[:few]


def write(date: datetime.date, form: tuple[str, ...]) -> str:
    """Write a date in a form, in small letters.

    >>> write(datetime.date(2021, 3, 5), ("dmy", "5th", "mar", ", "))
    '5th, mar, 2021'
    """
    order, day, month, separator = form
    d, m = date.day, date.month
    ending = "th" if 11 <= d <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(d % 10, "th")
    parts = {
        "d": {"5": f"{d}", "05": f"{d:02}", "5th": f"{d}{ending}"}[day],
        "m": {"3": f"{m}", "03": f"{m:02}", "mar": NAMES[m - 1][:3],
              "march": NAMES[m - 1]}[month],
        "y": f"{date.year}"}
    return separator.join(parts[letter] for letter in order)


def some_dates(n: int, which: list[tuple[str, ...]], seed: int, *,
               training: bool) -> list[tuple[str, str]]:
    """Return n pairs (written in one of these forms, ISO), dates of 1900 to 2099.

    Every tenth date, by its number since the year 1, is never of the training.
    """
    dice = random.Random(seed)
    first = datetime.date(1900, 1, 1).toordinal()
    last = datetime.date(2099, 12, 31).toordinal()
    pairs = []
    while len(pairs) < n:
        number = dice.randint(first, last)
        if (number % 10 != 0) == training:
            date = datetime.date.fromordinal(number)
            pairs.append((write(date, dice.choice(which)), date.isoformat()))
    return pairs


# Tokens -----------------------------------------------------------------------------


def tokens(text: str) -> list[int]:
    """Return the ids of a text's characters.

    >>> tokens("2-a")
    [5, 40, 13]
    """
    return [CHARACTERS.index(c) + 3 for c in text]


def text(ids: list[int]) -> str:
    """Return the characters of ids, up to the end."""
    ids = ids[:ids.index(END)] if END in ids else ids
    return "".join(CHARACTERS[i - 3] for i in ids if i > END)


def stack(rows: list[list[int]]) -> Tensor:
    """Return the rows as one tensor, padded to the longest."""
    longest = max(map(len, rows))
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])


def encoded(pairs: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Return sources and targets; a target begins with START and stops with END."""
    return (stack([tokens(a) for a, _ in pairs]),
            stack([[START, *tokens(b), END] for _, b in pairs]))


def some_digits(n: int, task: str, seed: int) -> tuple[Tensor, Tensor]:
    """Return n sources of 4 to 12 digits and their targets, reversed or sorted."""
    dice = random.Random(seed)
    rows = [[dice.randint(3, 12) for _ in range(dice.randint(4, 12))] for _ in range(n)]
    answers = [row[::-1] if task == "reverse" else sorted(row) for row in rows]
    return stack(rows), stack([[START, *row, END] for row in answers])


def pairs(split: str, settings: dict) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the sources and targets of the split, by name; the same at every call."""
    task, training = settings["task"], split == "train"
    n = settings["pairs" if training else "tested"]
    if task != "dates":
        return {split: some_digits(n, task, seed=0 if training else 1)}
    seen, unseen = split_forms()
    if training:
        return {split: encoded(some_dates(n, seen, 0, training=True))}
    kinds = {"test": seen, "unseen": unseen, "strange": forms((STRANGE,))}
    return {kind: encoded(some_dates(n, which, 1, training=False))
            for kind, which in kinds.items()}


# Networks ---------------------------------------------------------------------------


class Louder(nn.Linear):
    """A linear layer times a number: what stands in for sqrt(d) left out."""

    factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * super().forward(x)


def build(settings: dict) -> Transformer:
    """Return the untrained network of an arm."""
    model = Transformer(
        TEXT if settings["task"] == "dates" else DIGITS, max_length=32, pad=PAD,
        **{k: settings[k] for k in ("dim", "num_heads", "hidden", "layers", "dropout",
                                    "norm_first")})
    if not settings["positions"]:
        model.positions.PE.zero_()
    if not settings["scale"]:
        for m in model.modules():
            if isinstance(m, MultiHeadAttention):
                louder = Louder(m.dim, m.W_Q.out_features, bias=False)
                louder.weight = m.W_Q.weight
                louder.factor = math.sqrt(m.W_Q.out_features // m.num_heads)
                m.W_Q = louder
    return model


# Training ---------------------------------------------------------------------------


def right(model: Transformer, source: Tensor, target: Tensor) -> float:
    """Return the share of sources whose whole target comes out, decoded greedily."""
    model.eval()
    y = greedy(model, source, start=START, end=END, extra=10)
    wanted = target[:, 1:]
    width = max(y.shape[1], wanted.shape[1])
    y, wanted = (F.pad(t, (0, width - t.shape[1])) for t in (y, wanted))
    return (y == wanted).all(dim=1).double().mean().item()


def fit(model: Transformer, settings: dict, seed: int, checkpoint: Path) -> dict:
    """Train in place; return the record.

    The paper's Adam, loss and learning rate, which here falls to zero in a straight
    line over the last fifth of the steps, so that the end is not left to chance. A
    checkpoint is written after each epoch, and read if there is one.
    """
    source, target = pairs("train", settings)["train"]
    tests = pairs("test", settings)
    order = torch.Generator().manual_seed(seed)
    size = settings["batch_size"]
    steps = settings["epochs"] * -(-len(source) // size)
    optimizer = torch.optim.Adam(model.parameters(), lr=1, betas=(0.9, 0.98), eps=1e-9)

    def rate(n: int) -> float:
        paper = warmup(n + 1, dim=settings["dim"], steps=settings["warmup"])
        return paper * min(1, 5 * (1 - n / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    kept = train.Checkpoint(checkpoint, settings | {"seed": seed}, {
        "model": model, "optimizer": optimizer, "schedule": schedule}, order)
    history = kept.load()
    for _ in range(len(history), settings["epochs"]):
        model.train()
        start, total = time.perf_counter(), 0.0
        batches = torch.randperm(len(source), generator=order).split(size)
        for rows in batches:
            logits = model(source[rows], target[rows, :-1])
            loss = label_smoothing(logits, target[rows, 1:], pad=PAD,
                                   epsilon=settings["epsilon"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        history.append({
            "loss": total / len(batches),
            **{name: right(model, *test) for name, test in tests.items()},
            "seconds": time.perf_counter() - start})
        kept.save(history)
    model.eval()
    return {"accuracy": history[-1]["test"], "history": history,
            **{name: history[-1][name] for name in tests if name != "test"}}


GRID = Grid("transformer", SETTINGS, build, fit=fit,
            shipped=("dates-paper", "reverse-no_positions"))
results, trained = GRID.results, GRID.trained

if __name__ == "__main__":
    GRID.main(__doc__)
