"""The Transformer experiment: dates and forms, arms, training, and tiny runs."""

import datetime
import json
import re

import pytest
import torch
from torch.nn import functional as F

from cvattn.book.experiments import transformer as experiment
from cvattn.book.experiments import transformer_cost
from cvattn.book.experiments.grid import Grid
from cvattn.transformer import MultiHeadAttention, warmup

ARMS = experiment.SETTINGS["arms"]
DAY = datetime.date(2021, 3, 5)


# Dates -----------------------------------------------------------------------------


@pytest.mark.parametrize("form, written", [
    (("dmy", "5", "3", "/"), "5/3/2021"),
    (("dmy", "05", "03", "."), "05.03.2021"),
    (("ymd", "05", "03", "-"), "2021-03-05"),
    (("mdy", "5th", "march", ", "), "march, 5th, 2021"),
    (("ymd", "5", "mar", " "), "2021 mar 5"),
])
def test_a_date_is_written_in_its_form(form, written):
    assert form in experiment.forms() and experiment.write(DAY, form) == written


@pytest.mark.parametrize("day, ending", [
    (1, "st"), (2, "nd"), (3, "rd"), (4, "th"), (10, "th"), (11, "th"), (12, "th"),
    (13, "th"), (20, "th"), (21, "st"), (22, "nd"), (23, "rd"), (30, "th"), (31, "st")])
def test_the_ending_of_a_day(day, ending):
    date = datetime.date(2000, 1, day)
    written = experiment.write(date, ("dmy", "5th", "mar", " "))
    assert written == f"{day}{ending} jan 2000"


def understood(text):
    """Read a date by hand: the number above 31 is the year, a name is the month."""
    parts = re.findall("[a-z]+|[0-9]+", re.sub("(?<=[0-9])(st|nd|rd|th)", "", text))
    year = next(p for p in parts if len(p) == 4 and p.isdigit())
    rest = [p for p in parts if p != year]
    names = [p for p in rest if p.isalpha()]
    if names:
        month = [n[:3] for n in experiment.NAMES].index(names[0][:3]) + 1
        day = next(p for p in rest if p.isdigit())
    else:
        day, month = rest if parts[-1] == year else rest[::-1]
    return datetime.date(int(year), int(month), int(day)).isoformat()


def test_every_form_can_be_read_in_one_way():
    every = experiment.forms()
    assert len(every) == len(set(every)) == 110
    for form in every:
        for date in (DAY, datetime.date(1907, 11, 12), datetime.date(2099, 12, 31)):
            text = experiment.write(date, form)
            assert understood(text) == date.isoformat()
            assert len(text) <= 21 and set(text) <= set(experiment.CHARACTERS)
            assert experiment.STRANGE not in text


def test_forms_of_the_test_are_not_trained_on_but_all_their_parts_are():
    seen, unseen = experiment.split_forms()
    assert len(seen) == 88 and len(unseen) == 22
    assert set(seen) | set(unseen) == set(experiment.forms())
    assert not set(seen) & set(unseen)
    for place in range(4):
        assert {form[place] for form in unseen} <= {form[place] for form in seen}
    strange = experiment.forms((experiment.STRANGE,))
    assert len(strange) == 22 and not set(strange) & set(seen)


def test_dates_of_the_test_are_not_trained_on():
    seen, unseen = experiment.split_forms()
    known = experiment.some_dates(3000, seen, 0, training=True)
    new = experiment.some_dates(3000, unseen, 0, training=False)
    assert not {iso for _, iso in known} & {iso for _, iso in new}
    assert all(understood(text) == iso for text, iso in known + new)
    years = [int(iso[:4]) for _, iso in known]
    assert min(years) < 1910 and max(years) > 2090
    assert known == experiment.some_dates(3000, seen, 0, training=True)
    assert known != experiment.some_dates(3000, seen, 1, training=True)


# Tokens ----------------------------------------------------------------------------


def test_tokens_and_back():
    assert experiment.text(experiment.tokens("5th, mar_1/2.-")) == "5th, mar_1/2.-"
    ids = [*experiment.tokens("12"), experiment.END, *experiment.tokens("3")]
    assert experiment.text(ids) == "12"
    assert max(experiment.tokens(experiment.CHARACTERS)) == experiment.TEXT - 1


def test_pairs_as_tensors():
    source, target = experiment.encoded([("5/3/2021", "2021-03-05"), ("a", "b")])
    assert source.shape == (2, 8) and target.shape == (2, 12)
    assert source[1].tolist() == [13] + [experiment.PAD] * 7
    assert target[1].tolist() == [experiment.START, 14, experiment.END] + [0] * 9
    assert experiment.text(target[0, 1:].tolist()) == "2021-03-05"


@pytest.mark.parametrize("task, answer", [("reverse", lambda row: row[::-1]),
                                          ("sort", sorted)])
def test_digits(task, answer):
    source, target = experiment.some_digits(200, task, seed=0)
    lengths = (source != experiment.PAD).sum(1)
    assert set(lengths.tolist()) == set(range(4, 13))
    for row, wanted, n in zip(source.tolist(), target.tolist(), lengths, strict=True):
        assert wanted[: n + 2] == [experiment.START, *answer(row[:n]), experiment.END]
        assert set(row[:n]) <= set(range(3, 13)) and not any(row[n:] + wanted[n + 2:])


def test_what_is_trained_and_tested_on():
    used = experiment.GRID.used("dates-paper") | {"pairs": 50, "tested": 40}
    assert {k: len(v[0]) for k, v in experiment.pairs("train", used).items()} == {
        "train": 50}
    tests = experiment.pairs("test", used)
    assert {k: len(v[0]) for k, v in tests.items()} == {
        "test": 40, "unseen": 40, "strange": 40}
    texts = {k: [experiment.text(row.tolist()) for row in v[0]]
             for k, v in tests.items()}
    assert all("_" in t for t in texts["strange"])
    assert not any("_" in t for t in texts["test"] + texts["unseen"])
    train, test = (experiment.pairs(split, used | {"task": "sort"})
                   for split in ("train", "test"))
    width = min(train["train"][0].shape[1], test["test"][0].shape[1])
    assert not torch.equal(train["train"][0][:40, :width], test["test"][0][:, :width])


# Arms ------------------------------------------------------------------------------


def test_every_arm_stands_in_the_docstring_and_survives_json():
    words = experiment.__doc__.split()
    for arm in ARMS:
        assert set(arm.split("-")) <= set(words)
    assert len(ARMS) == 15
    assert json.loads(json.dumps(experiment.SETTINGS)) == experiment.SETTINGS


def test_each_arm_is_what_the_settings_say():
    sizes = {}
    for arm in ARMS:
        torch.manual_seed(0)
        used = experiment.GRID.used(arm)
        model = experiment.build(used)
        task, part = arm.split("-")
        assert used["task"] == task
        found = {(m.num_heads, type(m.W_Q) is experiment.Louder)
                 for m in model.modules() if isinstance(m, MultiHeadAttention)}
        assert found == {(1 if part == "one_head" else 4, part == "no_scale")}
        assert bool(model.positions.PE.any()) == (part != "no_positions")
        assert {m.norm_first for m in model.encoder} == {part == "pre_norm"}
        sizes[arm] = sum(p.numel() for p in model.parameters())
        if part == "pre_norm":
            sizes[arm] -= 4 * used["dim"]          # the two norms after the stacks
        assert sizes[arm] == sizes[f"{task}-paper"]
    assert 2 * sizes["dates-paper"] <= 110_000, "bytes in half precision"


def test_the_louder_queries_leave_the_root_out():
    used = experiment.GRID.used("sort-no_scale")
    torch.manual_seed(0)
    loud = experiment.build(used)
    torch.manual_seed(0)
    quiet = experiment.build(experiment.GRID.used("sort-paper"))
    assert loud.state_dict().keys() == quiet.state_dict().keys()
    quiet.load_state_dict(loud.state_dict())
    x = torch.randn(2, 5, used["dim"])
    for a, b in zip(loud.encoder, quiet.encoder, strict=True):
        Q, K = (b.attention.heads(f(x)) for f in (b.attention.W_Q, b.attention.W_K))
        torch.testing.assert_close(a.attention.weights(x), (Q @ K.mT).softmax(-1))
    loud.encoder[0].attention.weights(x).square().sum().backward()
    assert loud.encoder[0].attention.W_Q.weight.grad.abs().max() > 0


# Training --------------------------------------------------------------------------



def test_right_counts_whole_answers(monkeypatch):
    target = torch.tensor([[1, 5, 6, 2, 0], [1, 5, 2, 0, 0], [1, 7, 8, 9, 2]])
    told = torch.tensor([[5, 6, 2, 0, 0, 0], [5, 2, 0, 0, 0, 0], [7, 8, 9, 9, 9, 2]])
    model = torch.nn.Linear(1, 1)
    monkeypatch.setattr(experiment, "greedy", lambda *args, **kwargs: told)
    assert experiment.right(model, target, target) == pytest.approx(2 / 3)
    monkeypatch.setattr(experiment, "greedy", lambda *args, **kwargs: told[:, :3])
    assert experiment.right(model, target, target) == pytest.approx(2 / 3)
    monkeypatch.setattr(experiment, "greedy", lambda *args, **kwargs: told[:, :1])
    assert experiment.right(model, target, target) == 0


SMALL = {"dim": 8, "hidden": 8, "layers": 1, "epochs": 3, "pairs": 60, "batch_size": 20,
         "warmup": 5, "tested": 20}


def small(**changes):
    settings = experiment.SETTINGS | {
        "arms": {arm: ARMS[arm] | SMALL | {"seeds": 1}
                 for arm in ("dates-paper", "sort-no_scale")}} | changes
    return Grid("transformer", settings, experiment.build, fit=experiment.fit)


def untimed(record):
    return record | {"history": [{k: v for k, v in epoch.items() if k != "seconds"}
                                 for epoch in record["history"]]}


def test_tiny_runs(tmp_path):
    grid, threads = small(), torch.get_num_threads()
    for arm, tests in (("dates-paper", {"test", "unseen", "strange"}),
                       ("sort-no_scale", {"test"})):
        record = grid.run(arm, 0, tmp_path, threads)
        assert [epoch.keys() for epoch in record["history"]] == [
            {"loss", "seconds"} | tests] * 3
        losses = [epoch["loss"] for epoch in record["history"]]
        assert losses[2] < losses[0]
        model = experiment.build(grid.used(arm))
        model.load_state_dict(
            torch.load(tmp_path / f"{arm}-0-weights.pt", weights_only=True))
        assert record["parameters"] == sum(p.numel() for p in model.parameters())
        for name, pair in experiment.pairs("test", grid.used(arm)).items():
            key = "accuracy" if name == "test" else name
            assert record[key] == experiment.right(model, *pair)
        assert grid.run(arm, 0, tmp_path, threads) == record, "read, not made again"
        assert not (tmp_path / f"{arm}-0.pt").exists()


@pytest.mark.parametrize("batches", [1, 4, 8])
def test_a_run_that_was_stopped_ends_as_if_it_had_not(tmp_path, monkeypatch, batches):
    grid, threads = small(), torch.get_num_threads()
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = grid.run("dates-paper", 0, tmp_path / "whole", threads)
    smoothing, left = experiment.label_smoothing, [batches]

    def stop(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("stopped")
        return smoothing(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        patch.setattr(experiment, "label_smoothing", stop)
        grid.run("dates-paper", 0, tmp_path / "stopped", threads)
    again = grid.run("dates-paper", 0, tmp_path / "stopped", threads)
    assert untimed(again) == untimed(whole)
    with pytest.raises(ValueError, match="dates-paper-0.json was made with"):
        small(epsilon=0.2).run("dates-paper", 0, tmp_path / "stopped", threads)


def test_the_first_steps_are_adams_with_the_papers_rate(tmp_path):
    """By hand: one batch, one step, from the equations of Adam."""
    settings = small().used("sort-no_scale") | {"epochs": 1, "pairs": 20, "tested": 2}
    torch.manual_seed(0)
    model = experiment.build(settings)
    before = {k: v.clone() for k, v in model.named_parameters()}
    source, target = experiment.pairs("train", settings)["train"]
    logits = model(source, target[:, :-1])
    F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=0,
                    label_smoothing=0.1).backward()
    slopes = {k: v.grad.clone() for k, v in model.named_parameters()}
    experiment.fit(model, settings, 0, tmp_path / "one.pt")
    rate = warmup(1, dim=8, steps=5)
    for name, p in model.named_parameters():
        g = slopes[name]
        wanted = before[name] - rate * g / (g.abs() + 1e-9)    # both moments are g's
        moved = g.abs() > 1e-6                  # below it, rounding decides the sign
        torch.testing.assert_close(p[moved], wanted[moved], rtol=1e-4, atol=1e-5)


def test_the_cost_at_small_lengths():
    rows = transformer_cost.measured((16, 32), 1)
    assert [row["length"] for row in rows] == [16, 32]
    h, d = transformer_cost.HEADS, transformer_cost.WIDTH
    for row in rows:
        n = row["length"]
        assert row["explicit"]["macs"] == row["fused"]["macs"] == 2 * h * n * n * d
        assert row["explicit"]["peak_forward"] > row["fused"]["peak_forward"]
