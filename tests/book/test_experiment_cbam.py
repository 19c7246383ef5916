"""The CBAM experiment: its arms, the gates that it looks at, and one tiny run."""

import json

import nbformat
import numpy as np
import pytest
import torch
from conftest import ROOT
from samples import pictures, stirred
from torch.nn import functional as F

from cvattn.book import data, train
from cvattn.book.experiments import cbam as experiment
from cvattn.book.experiments import cbam_figures, se
from cvattn.book.experiments.cbam_variants import ORDERS, CBAMVariant
from cvattn.book.experiments.grid import Grid
from cvattn.cbam import ChannelAttention, SpatialAttention

ARMS = experiment.SETTINGS["arms"]
HALVES = {order: 3 if "spatial" in order or order == "parallel" else 0
          for order in ORDERS}          # depth 8 has three blocks


def made(**kwargs):
    """A small network in eval mode, whose gates and BatchNorms all matter."""
    torch.manual_seed(0)
    settings = experiment.SETTINGS | {"width": 4, "reduction": 2, "cbam": kwargs}
    return stirred(experiment.build(settings).eval(), mean=0.3)


def modules(model, cls):
    return [m for m in model.modules() if isinstance(m, cls)]


# The arms.

def test_each_arm_is_what_the_settings_say():
    want = {        # order, channel pool, spatial pool, kernel, official
        "pool7": ("channel-spatial", ("mean", "max"), ("mean", "max"), 7, False),
        "pool3": ("channel-spatial", ("mean", "max"), ("mean", "max"), 3, False),
        "conv7": ("channel-spatial", ("mean", "max"), "conv", 7, False),
        "conv3": ("channel-spatial", ("mean", "max"), "conv", 3, False),
        "mean": ("channel", ("mean",), None, None, False),
        "max": ("channel", ("max",), None, None, False),
        "both": ("channel", ("mean", "max"), None, None, False),
        "spatial_first": (
            "spatial-channel", ("mean", "max"), ("mean", "max"), 7, False),
        "parallel": ("parallel", ("mean", "max"), ("mean", "max"), 7, False),
        "official": ("channel-spatial", ("mean", "max"), ("max", "mean"), 7, True),
    }
    found = {}
    assert modules(experiment.build(experiment.GRID.used("plain")), CBAMVariant) == []
    for arm in ARMS.keys() - {"plain"}:
        blocks = modules(experiment.build(experiment.GRID.used(arm)), CBAMVariant)
        assert [m.channel.W0.in_features for m in blocks] == [16, 32, 64]
        assert [m.channel.W0.out_features for m in blocks] == [4, 8, 16]
        kinds = set()
        for m in blocks:
            spatial = getattr(m, "spatial", None)
            norm = isinstance(getattr(spatial, "norm", None), torch.nn.BatchNorm2d)
            assert norm == (m.channel.W0.bias is not None)
            kinds.add((m.order, m.channel.pool, spatial and spatial.pool,
                       spatial and spatial.f.kernel_size[0], norm))
        found[arm], = kinds
    assert found == want


def test_the_settings_are_those_of_se_and_survive_json():
    shared = experiment.SETTINGS.keys() & se.SETTINGS.keys() - {"arms"}
    assert shared == {"epochs", "batch_size", "lr", "weight_decay", "bfloat16",
                      "reduction"}
    for key in shared - {"epochs"}:
        assert experiment.SETTINGS[key] == se.SETTINGS[key], key
    assert 2 * experiment.SETTINGS["epochs"] == se.SETTINGS["epochs"]
    for key in ("depth", "width"):
        assert experiment.SETTINGS[key] == se.SETTINGS["arms"]["se"][key]
        assert experiment.SETTINGS[key] == se.SETTINGS["arms"]["plain"][key]
    assert json.loads(json.dumps(experiment.SETTINGS)) == experiment.SETTINGS, (
        "a run that is read back must have the settings that it was made with")


def test_every_arm_stands_in_the_docstring():
    for arm in ARMS:
        assert arm in experiment.__doc__.partition("The arms:")[2]


# The gates.

def gate_by_hand(spatial, F1):
    """Eq. 3 from the weights: sigmoid of f over the two maps, normalised or not."""
    maps = {"mean": F1.mean(1), "max": F1.amax(1)}
    if spatial.pool == "conv":
        F2 = (spatial.f0.weight[0, :, 0, 0, None, None] * F1).sum(1, keepdim=True)
    else:
        F2 = torch.stack([maps[name] for name in spatial.pool], dim=1)
    y = F.conv2d(F2, spatial.f.weight, padding=spatial.f.kernel_size[0] // 2)
    if isinstance(spatial.norm, torch.nn.BatchNorm2d):
        n = spatial.norm
        y = (y - n.running_mean) / (n.running_var + n.eps).sqrt() * n.weight + n.bias
    return y.sigmoid()[:, 0]


@pytest.mark.parametrize("kwargs", [
    *[{"order": order} for order in ORDERS],
    {"spatial_pool": "conv", "kernel_size": 3},
    {"bias": True, "norm": True, "spatial_pool": ["max", "mean"]},
], ids=str)
def test_spatial_gates_are_those_of_a_forward_pass(kwargs):
    model, (images, _) = made(**kwargs), pictures(30)
    found = experiment.spatial_gates(model, images)
    order = kwargs.get("order", "channel-spatial")
    assert len(found) == HALVES[order]
    with torch.inference_mode():
        x = torch.relu(model.bn1(model.conv1(data.to_float(images))))
        for i, gates in enumerate(found, 1):
            block = getattr(model, f"layer{i}")[0]
            u = block.residual(x)
            before = block.attention.channel(u) if order == "channel-spatial" else u
            side = (28, 14, 7)[i - 1]
            assert gates.shape == (30, side, side) and gates.dtype == torch.float32
            torch.testing.assert_close(
                gates, gate_by_hand(block.attention.spatial, before))
            assert gates.std() > 0.003
            x = block(x)


def test_looking_at_the_gates_changes_nothing():
    model, (images, _) = made(norm=True), pictures(30)
    x = data.to_float(images)
    with torch.inference_mode():
        y = model(x)
        model.train()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        experiment.spatial_gates(model, images)
        assert model.training
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert torch.equal(model.eval()(x), y)
    halves = modules(model, SpatialAttention)
    assert not any("gate" in vars(half) for half in halves)
    with pytest.raises(ValueError, match="x must be"):      # in the second block
        model.layer2[0].attention.channel.W0 = torch.nn.Linear(3, 4)
        experiment.spatial_gates(model, images)
    assert not any("gate" in vars(half) for half in halves), "left after an error"


def test_more_pictures_than_a_batch():
    model, (images, _) = made(), pictures(30)
    many = experiment.spatial_gates(model, images.repeat(20, 1, 1))
    for gates, few in zip(many, experiment.spatial_gates(model, images), strict=True):
        assert len(gates) == 600
        torch.testing.assert_close(gates, few.repeat(20, 1, 1))


def test_examine():
    model, test = made(), pictures(30)
    found = experiment.examine(model, test, {})
    gates = [g.double().numpy() for g in experiment.spatial_gates(model, test[0])]
    assert found == {
        "heat_on_object": experiment.on_object(model, *test),
        "place_deviation": pytest.approx([
            np.mean([np.std(picture, ddof=1) for picture in g]) for g in gates]),
        "place_mean": pytest.approx([np.mean(g) for g in gates]),
    }
    channels = made(order="channel")
    assert experiment.examine(channels, test, {}) == {
        "heat_on_object": experiment.on_object(channels, *test),
        "place_deviation": [], "place_mean": []}


def test_gates_that_start_at_one_half_have_no_deviation():
    """The official code's form, before it is trained."""
    model = experiment.build(experiment.GRID.used("official")).eval()
    found = experiment.examine(model, pictures(30), {})
    assert 0 < found.pop("heat_on_object") < 1
    assert found == {"place_deviation": [0.0] * 3, "place_mean": [0.5] * 3}


def test_on_object_is_grad_cam_by_autograd():
    model, (images, labels) = made(), pictures(30)
    shares = []
    for image, k in zip(images, labels, strict=True):
        A = model.features(data.to_float(image[None])).detach().requires_grad_()
        (g,) = torch.autograd.grad(model.fc(A.mean(dim=(2, 3)))[0, k], A)
        heat = torch.relu((g.mean(dim=(2, 3), keepdim=True) * A).sum(dim=1))[0]
        cells = image.numpy().reshape(7, 4, 7, 4).mean(axis=(1, 3)) > 25.5
        own, whole = heat[torch.from_numpy(cells)].sum(), heat.sum()
        shares.append((own / whole).item() if whole > 0 else 0.0)
    found = experiment.on_object(model, images, labels)
    assert found == pytest.approx(np.mean(shares), abs=1e-5)
    assert found != pytest.approx(np.mean([(i > 25.5).float().mean() for i in images]),
                                  abs=0.01), "heat is not spread evenly"


def test_on_object_of_no_heat_and_of_many_pictures():
    model, (images, labels) = made(), pictures(30)
    once = experiment.on_object(model, images, labels)
    assert experiment.on_object(model, images.repeat(20, 1, 1), labels.repeat(20)) == (
        pytest.approx(once, abs=1e-5))
    with torch.no_grad():
        model.fc.weight.copy_(-model.fc.weight.abs())
    assert model.features(data.to_float(images)).min() >= 0
    assert experiment.on_object(model, images, labels) == 0


# One run.

def test_a_tiny_run(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "device", lambda: torch.device("cpu"))
    x, y = data.fashion_mnist("train")
    small = {"train": (x[:80], y[:80]), "test": pictures(60)}
    settings = experiment.SETTINGS | {
        "epochs": 1, "batch_size": 40, "bfloat16": False, "width": 4, "reduction": 2,
        "arms": {arm: ARMS[arm] for arm in ("pool7", "max")}}
    grid = Grid("cbam", settings, experiment.build, experiment.examine, small.get)
    threads = torch.get_num_threads()
    for arm, halves in (("pool7", 3), ("max", 0)):
        record = grid.run(arm, 0, tmp_path, threads)
        assert record["settings"]["cbam"] == ARMS[arm]["cbam"]
        assert len(record["place_deviation"]) == len(record["place_mean"]) == halves
        model = experiment.build(grid.used(arm))
        model.load_state_dict(
            torch.load(tmp_path / f"{arm}-0-weights.pt", weights_only=True))
        assert record["parameters"] == sum(p.numel() for p in model.parameters())
        found = experiment.examine(model.eval(), small["test"], {})
        assert found == {k: pytest.approx(record[k]) for k in found}
        logits = train.evaluate(model, small["test"])
        assert record["accuracy"] == train.accuracy(logits, small["test"][1])
        assert grid.run(arm, 0, tmp_path, threads) == record, "read, not made again"


# What the chapter's live figures show.

def test_seen_is_what_the_blocks_see():
    model, (images, _) = made(), pictures(30)
    found, caught = cbam_figures.seen(model, images), []
    hooks = [m.register_forward_pre_hook(lambda m, args: caught.append(args[0]))
             for m in modules(model, CBAMVariant)]
    with torch.inference_mode():
        x = data.to_float(images)
        model(x)
        torch.testing.assert_close(found["features"], model.features(x))
    for hook in hooks:
        hook.remove()
    gates = experiment.spatial_gates(model, images)
    for i, m in enumerate(modules(model, CBAMVariant)):
        torch.testing.assert_close(found["u"][i], caught[i])
        with torch.inference_mode():
            F1 = caught[i] * m.channel.gate(caught[i])
        torch.testing.assert_close(found["maps"][i][:, 0], F1.mean(1))
        torch.testing.assert_close(found["maps"][i][:, 1], F1.amax(1))
        torch.testing.assert_close(found["own"][i], gates[i])


def test_a_channels_answer_is_how_far_its_own_gate_moves():
    torch.manual_seed(0)
    half = ChannelAttention(6, reduction=2)
    u = torch.randn(3, 6, 5, 7)
    moved = []
    for c in range(6):
        rows = []
        for x in u:
            y = x.clone()
            i, j = divmod(x[c].argmax().item(), 7)
            y[c, i, j] += cbam_figures.RISE
            with torch.no_grad():
                rows.append((half.gate(y[None]) - half.gate(x[None]))[0, c].abs())
        moved.append(torch.stack(rows).mean())
    found = cbam_figures.answers(half, u)
    torch.testing.assert_close(found, torch.stack(moved))
    assert found.unique().numel() == 6


def test_the_widest_gates_differ_over_places_not_over_pictures():
    apart = torch.linspace(0, 1, 4)[:, None, None].expand(4, 3, 5)
    rim = torch.tensor([0.0, 0.9, 0.0])[None, :, None].expand(4, 3, 5)
    rows = torch.tensor([-0.1, 0.0, 0.1])[None, :, None].expand(4, 3, 5)
    each = 0.5 + rows * torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None, None]
    one = each.clone()
    one[1:] = 0.5               # one picture alone
    assert cbam_figures.widest([apart, one, each]) == 2
    assert cbam_figures.widest([each, one, apart]) == 0
    assert cbam_figures.widest([apart, one, rim]) == 1, "the same in every picture"


# What the chapter writes out.

def test_the_chapters_table_of_times_is_the_benchmarks():
    """Times are not compared when a notebook runs, so they stand in its text."""
    rows = json.loads((ROOT / "benchmarks/results/cpu.json").read_text())["rows"]
    cells = nbformat.read(ROOT / "chapters/cbam.ipynb", as_version=4).cells
    cell, = (c.source for c in cells if "median, in copies of" in c.source)
    for module, name in (("SE", "SE"), ("ChannelAttention", "channel half"),
                         ("SpatialAttention", "spatial half"), ("CBAM", "CBAM")):
        times = []
        for shape in ([8, 256, 56, 56], [32, 512, 14, 14]):
            for way in ("forward", "forward + backward"):
                own, = (r["seconds"] for r in rows if r["form"] == "eager" and (
                    r["module"], r["shape"], r["pass"]) == (module, shape, way))
                times.append(f"{own['cvattn'] / own['copy']:.1f}")
        assert f"| {name} | {' | '.join(times)} |" in cell
