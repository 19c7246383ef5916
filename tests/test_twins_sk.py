"""Equality with timm's SelectiveKernel, its SKNet and torchvision's ResNeXt.

Without them these tests skip; under CI=true they fail: see twins.py.
"""

import re

import pytest
import torch
from torch import nn
from twins import timm, torchvision

from cvattn import SK, resnext50, resnext101, sknet50

SelectiveKernel = timm.layers.SelectiveKernel


def twin(channels, **kwargs):
    """timm's module in the paper's form."""
    torch.manual_seed(0)
    return SelectiveKernel(channels, channels, split_input=False,
                           **{"groups": 32, "rd_divisor": 32, **kwargs})


def ours(state):
    """timm's names and shapes as ours."""
    names = {"attn.fc_reduce": "W", "attn.fc_select": "A", "attn.bn": "bn"}
    renamed = {}
    for key, value in state.items():
        key = re.sub(r"paths\.(\d+)\.conv\b", r"F.\1.0", key)
        key = re.sub(r"paths\.(\d+)\.bn\b", r"F.\1.1", key)
        for theirs, mine in names.items():
            key = key.replace(theirs, mine)
        if re.search(r"\b[WA]\.weight$", key):
            value = value.flatten(1)       # their linear layers are 1x1 convolutions
        renamed[key] = value
    return renamed


def seeded(model):
    """Statistics and factors of BatchNorm that do something, weights to choose by."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, t in model.state_dict().items():
            if name.endswith("running_var"):
                t.uniform_(0.5, 2)
            elif name.endswith(("running_mean", "bn.bias", "bn.weight")):
                t.normal_(1, 0.2)
            elif "fc_select" in name:
                t.normal_(0, 1)
    return model


CASES = [({}, {}), ({"kernel_size": [3, 5, 7]}, {"branches": 3}),
         ({"stride": 2}, {"stride": 2}), ({"groups": 1}, {"groups": 1}),
         ({"rd_ratio": 1 / 2}, {"reduction": 2})]


@pytest.mark.parametrize("theirs, mine", CASES, ids=str)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("channels, h, w", [(128, 7, 5), (64, 5, 11)])
def test_timm_selective_kernel(channels, h, w, training, theirs, mine):
    """Value, gradient, weights and, after training, the running statistics."""
    peer, sk = seeded(twin(channels, **theirs)), SK(channels, **mine)
    sk.load_state_dict(ours(peer.state_dict()))
    peer.train(training).double(), sk.train(training).double()
    x = torch.randn(3, channels, h, w, dtype=torch.float64)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    results = [m(i) for m, i in zip((peer, sk), inputs, strict=True)]
    torch.testing.assert_close(results[1], results[0])
    for y in results:
        y.square().sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    gradients = ours({k: p.grad for k, p in peer.named_parameters()})
    for name, p in sk.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name])
    for name, value in ours(peer.state_dict()).items():
        torch.testing.assert_close(sk.state_dict()[name], value)
    maps = torch.stack([path(x) for path in peer.paths], dim=1)
    torch.testing.assert_close(sk.select(list(maps.unbind(1))), peer.attn(maps))
    assert peer.attn(maps).std() > 0.1


def test_a_wrong_mapping_is_seen():
    peer, sk = seeded(twin(64)).eval(), SK(64).eval()
    state = ours(peer.state_dict())
    state["A.weight"] = state["A.weight"].roll(64, 0)
    sk.load_state_dict(state)
    x = torch.randn(3, 64, 7, 5)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(sk(x), peer(x))


@pytest.mark.parametrize("channels, theirs, mine", [
    (64, 8, 32), (128, 8, 32), (1024, 64, 64), (96 * 16, 96, 96),
])
def test_timm_has_no_least_width_by_default(channels, theirs, mine):
    with torch.device("meta"):
        peer = SelectiveKernel(channels)
        assert peer.attn.fc_reduce.out_channels == theirs
        assert twin(channels).attn.fc_reduce.out_channels == mine
        assert SK(channels).W.out_features == mine
        assert peer.paths[0].conv.in_channels == channels // 2, "x is split"


def test_timm_rounds_d_to_a_multiple():
    with torch.device("meta"):
        assert twin(896, groups=1).attn.fc_reduce.out_channels == 64
        assert SK(896, groups=1).W.out_features == 56


def calibrated(model):
    """Eval mode, with BatchNorm's statistics those of some pictures, so that the
    logits differ from one picture to another."""
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 64, 96))
    return model.eval()


def same_logits(model, peer):
    """In float64, for fifty layers of random weights magnify what float32 rounds."""
    x = torch.randn(3, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        want = peer.double()(x)
        torch.testing.assert_close(model.double()(x), want, rtol=0, atol=1e-10)
        assert want.std(dim=0).mean() > 0.1, "the pictures are alike"


def test_timm_skresnext50_gives_the_same_logits():
    torch.manual_seed(0)
    peer = calibrated(seeded(timm.create_model("skresnext50_32x4d")))
    model = sknet50().eval()
    state = {}
    for key, value in peer.state_dict().items():
        key = re.sub(r"(layer\d\.\d+)\.conv([13])\.conv\.", r"\1.conv\2.", key)
        key = re.sub(r"(layer\d\.\d+)\.conv([13])\.bn\.", r"\1.bn\2.", key)
        state[key] = value
    model.load_state_dict(ours(state))
    count = [sum(p.numel() for p in m.parameters()) for m in (peer, model)]
    assert count == [27_479_784] * 2
    same_logits(model, peer)
    early = sknet50(stride_in="1x1").eval()
    early.load_state_dict(ours(state))
    with pytest.raises(AssertionError, match="not close"):
        same_logits(early, peer)


RESNEXTS = [(resnext50, "resnext50_32x4d", 25_028_904), (resnext101, None, 44_177_704)]


@pytest.mark.parametrize("build, name, exact", RESNEXTS)
def test_torchvision_resnext_names_and_shapes(build, name, exact):
    with torch.device("meta"):
        if name:
            peer = getattr(torchvision.models, name)()
        else:    # torchvision names only the 32x8d and 64x4d of 101 layers
            peer = torchvision.models.resnet.ResNet(
                torchvision.models.resnet.Bottleneck, [3, 4, 23, 3], groups=32,
                width_per_group=4)
        mine = build()
    shapes = [{k: tuple(v.shape) for k, v in model.state_dict().items()}
              for model in (peer, mine)]
    assert shapes[0] == shapes[1]
    assert sum(p.numel() for p in mine.parameters()) == exact


def test_torchvision_resnext50_gives_the_same_logits():
    torch.manual_seed(0)
    peer = calibrated(torchvision.models.resnext50_32x4d())
    model = resnext50().eval()
    model.load_state_dict(peer.state_dict())
    same_logits(model, peer)
