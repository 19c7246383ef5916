"""The SK experiment: its arms, its pictures, what it looks at, and one tiny run."""

import json

import numpy as np
import pytest
import torch
from samples import pictures
from torch.nn import functional as F

from cvattn import SK, cost
from cvattn.book import data, train
from cvattn.book.experiments import se, sk_cost, sk_figures
from cvattn.book.experiments import sk as experiment
from cvattn.book.experiments.grid import Grid

ARMS = experiment.SETTINGS["arms"]
SMALL = {"widths": [4, 8], "depths": [1, 2], "groups": 2, "reduction": 2, "minimum": 3}
TINY = (2, 32, 4, 4)


def made(**arm):
    """A small network in eval mode that chooses, with statistics of real pictures."""
    torch.manual_seed(0)
    settings = experiment.SETTINGS | SMALL | {"branches": 2, "select": True} | arm
    model = experiment.build(settings).train()
    with torch.no_grad():
        for name, t in model.named_parameters():
            if t.ndim == 1:
                t.normal_(0.7, 0.3)
            elif name.endswith("A.weight"):
                t.normal_(0, 0.5)
        for m in model.modules():
            if hasattr(m, "running_var"):
                m.momentum = 1.0
        images, _ = pictures(60)
        sizes = [experiment.shrink(images, side) for side in (14, 21, 28)]
        model(data.to_float(torch.cat(sizes)))
    return model.eval()


def kernels(model):
    return [m for m in model.modules() if isinstance(m, SK)]


# The arms.

def test_each_arm_is_what_the_settings_say():
    want = {"sk": (SK, 2, True), "equal": (experiment.Equal, 2, False),
            "one": (experiment.Equal, 1, False)}
    assert want.keys() == ARMS.keys()
    for arm, (cls, branches, chooses) in want.items():
        found = kernels(experiment.build(experiment.GRID.used(arm)))
        assert [m.F[0][0].in_channels for m in found] == [8, 8, 16, 16, 32, 32]
        assert [m.F[0][0].stride[0] for m in found] == [1, 1, 2, 1, 2, 1]
        for m in found:
            assert type(m) is cls and len(m.F) == branches
            assert [F_m[0].dilation[0] for F_m in m.F] == [1, 2][:branches]
            assert all(F_m[0].groups == 4 for F_m in m.F)
            assert hasattr(m, "A") == hasattr(m, "W") == hasattr(m, "bn") == chooses
            assert not chooses or m.W.out_features == 8


def test_the_settings_are_those_of_se_and_survive_json():
    for key in ("batch_size", "lr", "weight_decay", "bfloat16", "reduction"):
        both = se.SETTINGS.get(key, se.SETTINGS["arms"]["se"].get(key))
        assert experiment.SETTINGS[key] == both, key
    assert json.loads(json.dumps(experiment.SETTINGS)) == experiment.SETTINGS, (
        "a run that is read back must have the settings that it was made with")


def test_every_arm_stands_in_the_docstring():
    for arm in ARMS:
        assert f"\n{arm} " in experiment.__doc__.partition("The arms")[2]


@pytest.mark.parametrize("branches", [1, 2, 3])
def test_equal_is_the_mean_of_its_branches(branches):
    torch.manual_seed(0)
    equal = experiment.Equal(8, branches=branches, groups=2, minimum=1,
                             reduction=4).eval()
    x = torch.randn(3, 8, 5, 7)
    with torch.inference_mode():
        want = sum(F.conv2d(x, F_m[0].weight, padding=m + 1, dilation=m + 1,
                            groups=2).div((1 + 1e-5) ** 0.5).clamp(min=0)
                   for m, F_m in enumerate(equal.F)) / branches
        torch.testing.assert_close(equal(x), want)
    twin = SK(8, branches=branches, groups=2, minimum=1, reduction=4).eval()
    twin.F.load_state_dict(equal.F.state_dict())
    torch.nn.init.zeros_(twin.A.weight)
    with torch.inference_mode():
        torch.testing.assert_close(equal(x), twin(x))


# The pictures.

@pytest.mark.parametrize("side", [1, 14, 17, 27])
def test_a_shrunk_picture_lies_in_the_middle_of_black(side):
    x, _ = pictures(20)
    small = experiment.shrink(x, side)
    assert small.shape == x.shape and small.dtype == torch.uint8
    start = (28 - side) // 2
    inside = torch.zeros(28, 28, dtype=torch.bool)
    inside[start: start + side, start: start + side] = True
    assert (small[:, ~inside] == 0).all()
    mean = x.float().mean((1, 2))
    own = small[:, inside].float().mean(1)
    torch.testing.assert_close(own, mean, rtol=0.2, atol=6)


def test_half_the_side_is_a_triangle_of_weights():
    """Antialiased, bilinear: at scale 2 each pixel is (1, 3, 3, 1) / 8 of four."""
    x, _ = pictures(5)
    near = torch.tensor([1.0, 3, 3, 1]) / 8
    want = F.conv2d(x[:, None].float(), torch.outer(near, near)[None, None], stride=2,
                    padding=1)[:, 0]
    small = experiment.shrink(x, 14)[:, 7:21, 7:21].float()
    torch.testing.assert_close(small[:, 1:-1, 1:-1], want[:, 1:-1, 1:-1], rtol=0,
                               atol=0.51)


def test_the_full_side_changes_nothing():
    x, _ = pictures(20)
    assert torch.equal(experiment.shrink(x, 28), x)


@pytest.mark.parametrize("side", [0, -1, 29])
def test_a_side_that_does_not_fit_is_refused(side):
    rule = f"^side must be from 1 to 28, got side={side}$"
    with pytest.raises(ValueError, match=rule):
        experiment.shrink(pictures(2)[0], side)


def test_every_picture_has_one_side_and_always_the_same(monkeypatch):
    few = pictures(400)
    monkeypatch.setattr(experiment, "fashion_mnist",
                        lambda split: (few[0].clone(), few[1]))
    x, y = experiment.pictures("train")
    assert torch.equal(x, experiment.pictures("train")[0]) and torch.equal(y, few[1])
    each = torch.stack([(experiment.shrink(few[0], side) == x).all(2).all(1)
                        for side in experiment.SIDES])
    assert (each.sum(0) == 1).all(), "each picture is drawn at just one side"
    assert (each.sum(1) > 400 / 8 / 2).all(), "and every side is there"


def test_the_sides_reach_from_one_to_twice():
    assert experiment.SIDES == (14, 16, 18, 20, 22, 24, 26, 28)
    assert sk_figures.SIDES == tuple(range(14, 29))


# What is looked at.

def by_hand(model, x):
    """The larger kernel's weight in every channel of every SK, through the layers."""
    found = []
    with torch.inference_mode():
        x = torch.relu(model.bn1(model.conv1(data.to_float(x))))
        for block in [*model.layer1, *model.layer2]:
            sk = block.conv2
            entered = torch.relu(block.bn1(block.conv1(x)))
            s = sum(F_m(entered).mean((2, 3)) for F_m in sk.F)
            e = sk.A(torch.relu(sk.bn(sk.W(s)))).view(len(x), 2, -1)
            found.append(torch.sigmoid(e[:, 1] - e[:, 0]))
            x = block(x)
    return found


def test_the_weights_are_those_of_a_forward_pass():
    model, (images, _) = made(), pictures(30)
    want = by_hand(model, images)
    layers, logits = sk_figures.look(model, images)
    mean, same = experiment.larger(model, images)
    assert mean.shape == (30, 3) and torch.equal(same, logits)
    for i, (a, b) in enumerate(zip(layers, want, strict=True)):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(mean[:, i], b.mean(1))
        assert a.std() > 0.01
    with torch.inference_mode():
        torch.testing.assert_close(logits, model(data.to_float(images)))


@pytest.mark.parametrize("function", [experiment.larger, sk_figures.look])
def test_looking_leaves_no_hook_even_after_an_error(function):
    model, (images, _) = made(), pictures(6)
    function(model, images)
    assert not any(m._forward_pre_hooks for m in model.modules())
    model.layer2[1].conv2.A = torch.nn.Linear(99, 4)
    with pytest.raises(RuntimeError):
        function(model, images)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_more_pictures_than_a_batch():
    model, (images, _) = made(), pictures(30)
    few, _ = experiment.larger(model, images)
    many, _ = experiment.larger(model, images.repeat(40, 1, 1))
    torch.testing.assert_close(many, few.repeat(40, 1))


def test_examine():
    model, (images, labels) = made(), pictures(200)
    found = experiment.examine(model, None, {"select": True},
                               originals=(images, labels))
    assert found.keys() == {"side_accuracy", "larger"}
    assert np.shape(found["larger"]) == (8, 3, 10)
    for i in (0, 3, 7):
        small = experiment.shrink(images, experiment.SIDES[i])
        weights = by_hand(model, small)
        want = [[w[labels == c].mean().item() for c in range(10)] for w in weights]
        np.testing.assert_allclose(found["larger"][i], want, atol=1e-5)
        with torch.inference_mode():
            right = model(data.to_float(small)).argmax(1) == labels
        assert found["side_accuracy"][i] == pytest.approx(right.float().mean().item())
    larger = np.array(found["larger"])
    assert np.abs(larger[0] - larger[-1]).max() > 0.01
    plain = experiment.examine(made(select=False), None, {"select": False},
                               originals=(images, labels))
    assert plain.keys() == {"side_accuracy"} and len(plain["side_accuracy"]) == 8


def test_the_shown_pictures_are_the_first_of_those_most_often_right():
    classes = [data.CLASSES.index(name) for name in sk_figures.SHOWN]
    labels = torch.tensor([classes[i] for i in (0, 1, 2, 3, 0, 0, 1, 2, 3, 3)])
    right = torch.tensor([[0, 1, 0, 0, 1, 1, 1, 0, 1, 0],
                          [0, 1, 0, 0, 1, 1, 0, 0, 0, 1],
                          [1, 0, 0, 1, 0, 0, 1, 0, 1, 1]]).bool()
    assert sk_figures.most_often_right(right, labels) == [4, 1, 2, 8]


def test_collected_arrays_belong_together():
    model, (images, labels) = made(), data.fashion_mnist("test")
    images, labels = images[:100], labels[:100]
    arrays = sk_figures.collect(model, images, labels)
    assert arrays["widths"].tolist() == [4, 8, 8]
    assert arrays["weights"].shape == (4, 15, 20)
    index = torch.from_numpy(arrays["index"]).long()
    assert [data.CLASSES[k] for k in labels[index]] == list(sk_figures.SHOWN)
    for i, side in ((0, 14), (7, 21), (14, 28)):
        small = experiment.shrink(images[index], side)
        assert (arrays["pictures"][:, i] == small.numpy()).all()
        np.testing.assert_allclose(arrays["weights"][:, i],
                                   torch.cat(by_hand(model, small), 1), atol=1e-5)
        with torch.inference_mode():
            p = model(data.to_float(small)).softmax(1)
        np.testing.assert_allclose(arrays["probabilities"][:, i], p, atol=1e-5)


# What it costs.

def test_plain_is_the_middle_of_resnext():
    plain = sk_cost.plain(128)
    assert [type(m).__name__ for m in plain] == ["Conv2d", "BatchNorm2d", "ReLU"]
    assert plain[0].weight.shape == (128, 4, 3, 3) and plain[0].bias is None
    assert plain(torch.randn(2, 128, 5, 7)).shape == (2, 128, 5, 7)


def test_ratios_are_quartiles():
    found = sk_cost.ratios(TINY, 3)
    assert found.keys() == {"forward", "both"}
    for low, median, high in found.values():
        assert 0 < low <= median <= high


def test_ratios_are_sk_over_plain(monkeypatch):
    def pretend(step, device, times):
        return 6.0 if isinstance(step.args[0], SK) else 2.0

    monkeypatch.setattr(cost, "seconds", pretend)
    assert sk_cost.ratios(TINY, 4) == {"forward": [3.0] * 3, "both": [3.0] * 3}


@pytest.mark.parametrize("write", [False, True])
def test_the_cost_command(tmp_path, monkeypatch, capsys, write):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sk_cost, "SHAPES", [TINY])
    monkeypatch.setattr("sys.argv", ["sk_cost", "--turns", "2"] + ["--write"] * write)
    sk_cost.main()
    assert str(TINY) in capsys.readouterr().out
    if not write:
        assert list(tmp_path.iterdir()) == []
        return
    record = json.loads((tmp_path / "sk_cost.json").read_text())
    assert record["turns"] == 2 and record["rows"][0]["shape"] == list(TINY)
    assert record["rows"][0]["ratio"].keys() == {"forward", "both"}


# One run.

def test_a_tiny_run(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "device", lambda: torch.device("cpu"))
    sets = {"train": pictures(80, "train"), "test": pictures(60)}
    monkeypatch.setattr(experiment, "fashion_mnist", sets.get)
    settings = experiment.SETTINGS | SMALL | {
        "epochs": 1, "batch_size": 40, "bfloat16": False}
    grid = Grid("sk", settings, experiment.build, experiment.examine, sets.get)
    threads = torch.get_num_threads()
    counts = []
    for arm in ARMS:
        record = grid.run(arm, 0, tmp_path, threads)
        assert len(record["side_accuracy"]) == 8
        assert ("larger" in record) == (arm == "sk")
        model = experiment.build(grid.used(arm))
        model.load_state_dict(
            torch.load(tmp_path / f"{arm}-0-weights.pt", weights_only=True))
        counts.append(sum(p.numel() for p in model.parameters()))
        assert record["parameters"] == counts[-1]
        found = experiment.examine(model.eval(), None, grid.used(arm))
        assert found["side_accuracy"] == record["side_accuracy"]
        if arm == "sk":
            np.testing.assert_allclose(found["larger"], record["larger"], atol=1e-5)
        assert grid.run(arm, 0, tmp_path, threads) == record, "read, not made again"
    assert counts == sorted(counts, reverse=True) and len(set(counts)) == 3
