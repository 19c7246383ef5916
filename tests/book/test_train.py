"""The training loop: it learns, repeats itself, and goes on where it was stopped."""

import copy
from functools import partial

import pytest
import torch

from cvattn import SE, cifar_resnet
from cvattn.book import data, train


@pytest.fixture(scope="module")
def pictures():
    """600 pictures to learn from and 200 others, classes balanced."""
    x, y = data.fashion_mnist("train")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return (x[:600], y[:600]), (x[600:800], y[600:800])


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(train, "device", lambda: torch.device("cpu"))


def network(seed=0):
    torch.manual_seed(seed)
    return cifar_resnet(partial(SE, reduction=4), depth=8, width=4, in_channels=1)


def fit(pictures, model=None, **kwargs):
    model = model or network()
    kwargs = {"epochs": 2, "seed": 5, "batch_size": 100, "progress": False} | kwargs
    return model, train.fit(model, *pictures, **kwargs)


def untimed(history):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


def same_weights(a, b):
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_it_learns(pictures):
    model, history = fit(pictures, epochs=4, batch_size=50)
    losses = [record["loss"] for record in history]
    assert len(history) == 4 and losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.3
    got = train.accuracy(train.evaluate(model, pictures[1]), pictures[1][1])
    assert got == history[-1]["test_accuracy"] > 0.3, "chance is 0.1"
    assert all(record["seconds"] > 0 for record in history)
    assert not model.training


def test_the_seed_fixes_everything(pictures):
    (a, first), (b, second) = fit(pictures), fit(pictures)
    assert same_weights(a, b) and untimed(first) == untimed(second)
    c, third = fit(pictures, seed=6)
    assert not same_weights(a, c) and untimed(first) != untimed(third)


class Stopped(Exception):
    pass


def stopped(*args, **kwargs):
    raise Stopped


@pytest.mark.parametrize("batches", [6, 9], ids=["between epochs", "within an epoch"])
def test_resumed_equals_uninterrupted(pictures, tmp_path, monkeypatch, batches):
    whole, history = fit(pictures, epochs=3)
    seen, augment = 0, train.augment

    def stop(*args):
        nonlocal seen
        seen += 1
        if seen > batches:
            raise Stopped
        return augment(*args)

    file = tmp_path / "run.pt"
    with monkeypatch.context() as patch:
        patch.setattr(train, "augment", stop)
        with pytest.raises(Stopped):
            fit(pictures, epochs=3, checkpoint=file)
    torch.manual_seed(77)       # what other code has drawn in the meantime
    resumed, again = fit(pictures, network(seed=1), epochs=3, checkpoint=file)
    assert same_weights(whole, resumed)
    assert untimed(again) == untimed(history)

    monkeypatch.setattr(train, "augment", stop)     # a finished run trains no more
    finished, once_more = fit(pictures, network(seed=2), epochs=3, checkpoint=file)
    assert same_weights(whole, finished) and once_more == again


@pytest.mark.parametrize("other", [
    {"epochs": 3}, {"seed": 6}, {"batch_size": 60}, {"lr": 0.05},
    {"weight_decay": 0.0}, {"bfloat16": True}, {"pictures": 500},
], ids=lambda other: next(iter(other)))
def test_a_checkpoint_of_other_settings_is_refused(pictures, tmp_path, other):
    file = tmp_path / "run.pt"
    fit(pictures, epochs=1, checkpoint=file)
    before, other = file.read_bytes(), dict(other)
    (x, y), test = pictures
    n = other.pop("pictures", 600)
    with pytest.raises(ValueError, match="was written with .* delete it or give"):
        fit(((x[:n], y[:n]), test), **{"epochs": 1, "checkpoint": file} | other)
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [
    "empty", "text", "weights", "list", "25 %", "50 %", "75 %", "99 %"])
def test_a_file_that_is_no_checkpoint_is_refused(pictures, tmp_path, content):
    file = tmp_path / "run.pt"
    if content == "weights":
        torch.save(network().state_dict(), file)
    elif content == "list":
        torch.save([1, 2], file)
    elif content.endswith("%"):
        fit(pictures, epochs=1, checkpoint=file)
        whole = file.read_bytes()
        file.write_bytes(whole[:len(whole) * int(content[:2]) // 100])
    else:
        file.write_bytes(b"" if content == "empty" else b"my own notes\n")
    before = file.read_bytes()
    with pytest.raises(ValueError, match="run.pt is no checkpoint of fit; delete it"):
        fit(pictures, checkpoint=file)
    assert file.read_bytes() == before


def test_the_folder_of_the_checkpoint_is_made_before_training(
        pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "augment", stopped)
    with pytest.raises(Stopped):
        fit(pictures, checkpoint=tmp_path / "a" / "b" / "run.pt")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        fit(pictures, checkpoint=tmp_path / "file" / "run.pt")


@pytest.mark.parametrize("name", ["train", "test"])
def test_one_label_a_picture(pictures, monkeypatch, name):
    monkeypatch.setattr(train, "augment", stopped)
    learn, test = pictures
    if name == "train":
        learn, message = (learn[0], learn[1][:599]), "pictures=600, labels=599"
    else:
        test, message = (test[0][:150], test[1]), "pictures=150, labels=200"
    with pytest.raises(ValueError, match=f"^{name} must have one label .* {message}$"):
        fit((learn, test))


def test_an_interrupted_write_spoils_nothing(pictures, tmp_path, monkeypatch):
    file, save, count = tmp_path / "run.pt", torch.save, 0

    def half(value, path):
        nonlocal count
        count += 1
        save(value, path)
        if count == 2:
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
            raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(OSError, match="no space"):
            fit(pictures, checkpoint=file)
    assert len(torch.load(file, weights_only=True)["history"]) == 1
    whole, history = fit(pictures)
    resumed, again = fit(pictures, checkpoint=file)
    assert same_weights(whole, resumed) and untimed(again) == untimed(history)
    assert list(tmp_path.iterdir()) == [file]


def test_augment_mirrors_and_moves_by_up_to_two_pixels():
    x = torch.randint(1, 256, (400, 28, 28), dtype=torch.uint8)
    before = x.clone()
    y = train.augment(x, torch.Generator().manual_seed(0))
    assert y.shape == x.shape and y.dtype == torch.uint8 and torch.equal(x, before)
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    mirrored = torch.nn.functional.pad(x.flip(2), (2, 2, 2, 2))
    found = {}
    for flip, source in ((False, padded), (True, mirrored)):
        for dy in range(5):
            for dx in range(5):
                hits = (source[:, dy:dy + 28, dx:dx + 28] == y).all(dim=(1, 2))
                found[flip, dy, dx] = int(hits.sum())
    assert sum(found.values()) == 400, "each picture is one of the 50 and no other"
    assert min(found.values()) >= 1, "each of the 50 occurs among 400 pictures"
    assert 160 < sum(n for (flip, _, _), n in found.items() if flip) < 240


def test_augment_is_fixed_by_its_generator():
    x = torch.randint(0, 256, (20, 5, 7), dtype=torch.uint8)
    a, b, c = (train.augment(x, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("training", [True, False])
def test_evaluate(pictures, training):
    model = network().train(training)
    state = copy.deepcopy(model.state_dict())
    logits = train.evaluate(model, pictures[1], batch_size=64)
    assert logits.shape == (200, 10) and logits.dtype == torch.float32
    assert model.training == training
    assert all(m.training == training for m in model.modules())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    one = train.evaluate(model, pictures[1], batch_size=200)
    torch.testing.assert_close(logits, one, rtol=1e-4, atol=1e-5)


def test_accuracy():
    logits = torch.tensor([[3.0, 1.0], [0.0, 2.0], [5.0, 4.0], [1.0, 0.0]])
    assert train.accuracy(logits, torch.tensor([0, 1, 1, 0])) == 0.75


def test_mixed_precision_is_right_to_its_digits(pictures):
    _, exact = fit(pictures, epochs=1)
    _, mixed = fit(pictures, epochs=1, bfloat16=True)
    assert mixed[0]["loss"] != exact[0]["loss"]
    assert mixed[0]["loss"] == pytest.approx(exact[0]["loss"], rel=0.05)


def test_no_autocast_where_it_is_off(pictures, monkeypatch):
    """torch 2.4 refuses torch.autocast for MPS even when it is not enabled."""
    monkeypatch.setattr(torch, "autocast", stopped)
    fit(pictures, epochs=1)
    with pytest.raises(Stopped):
        fit(pictures, epochs=1, bfloat16=True)


@pytest.mark.parametrize("at, capability, fast", [
    ("cuda", (7, 5), False), ("cuda", (8, 0), True), ("cuda", (9, 0), True),
    ("cpu", None, False), ("mps", None, False),
])
def test_bfloat16_by_default_only_where_it_is_not_emulated(
        monkeypatch, at, capability, fast):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert train.fast_bfloat16(torch.device(at)) is fast


def test_progress_goes_to_standard_error(pictures, capsys):
    _, history = fit(pictures, epochs=1, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and f"epoch 1/1  loss {history[0]['loss']:.4f}" in err


def test_the_cycle_is_the_one_in_the_docstring(pictures, monkeypatch):
    seen, step = [], torch.optim.SGD.step

    def note(self, *args, **kwargs):
        group = self.param_groups[0]
        seen.append((group["lr"], group["momentum"]))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", note)
    fit(pictures, batch_size=30, lr=0.2)
    top = max(range(len(seen)), key=lambda i: seen[i][0])
    assert len(seen) == 40 and top == 11        # 30 % of 40 steps, counted from 0
    assert seen[0] == pytest.approx((0.2 / 25, 0.95))
    assert seen[top] == pytest.approx((0.2, 0.85))
    assert seen[-1] == pytest.approx((0.2 / 250_000, 0.95))


@pytest.mark.parametrize("wrong, message", [
    ({"epochs": 0}, "epochs must be at least 1, got epochs=0"),
    ({"batch_size": 601}, "got batch_size=601, pictures=600"),
    ({"batch_size": 0}, "got batch_size=0, pictures=600"),
])
def test_bad_arguments(pictures, wrong, message):
    with pytest.raises(ValueError, match=message):
        fit(pictures, **wrong)
