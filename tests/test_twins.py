"""Equality with torchvision and timm, weights mapped.

Without them these tests skip; under CI=true they fail: see twins.py.
"""

import re
from functools import partial

import pytest
import torch
from twins import timm, torchvision

from cvattn import SE, resnet18, resnet34, resnet50, resnet101

SEModule = timm.layers.SEModule
SqueezeExcitation = torchvision.ops.SqueezeExcitation


def mapped(twin, se):
    """Give the twin, whose layers are 1x1 convolutions, the weights of se."""
    for theirs, mine in ((twin.fc1, se.W1), (twin.fc2, se.W2)):
        state = {"weight": mine.weight[:, :, None, None]}
        if mine.bias is not None:
            state["bias"] = mine.bias
        theirs.load_state_dict(state)
    return twin


def seeded(channels, reduction, bias):
    torch.manual_seed(0)
    se = SE(channels, reduction=reduction, bias=bias)
    with torch.no_grad():
        se.W1.weight.abs_()     # no hidden unit is dead, so that the gates differ
    return se, torch.randn(3, channels, 7, 5) + 1


def equal(twin, se, x):
    difference = (twin(x) - se(x)).abs().max().item()
    assert difference <= 1e-6 * x.abs().max().item()
    assert se.gate(x).std().item() > 0.05


@pytest.mark.parametrize("channels, reduction", [(64, 16), (34, 17), (48, 4)])
def test_torchvision_squeeze_excitation(channels, reduction):
    se, x = seeded(channels, reduction, bias=True)
    equal(mapped(SqueezeExcitation(channels, channels // reduction), se), se, x)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("channels, reduction", [(64, 16), (34, 17), (48, 4)])
def test_timm_semodule(channels, reduction, bias):
    se, x = seeded(channels, reduction, bias)
    twin = SEModule(channels, rd_channels=channels // reduction, bias=bias)
    equal(mapped(twin, se), se, x)


def test_a_wrong_mapping_is_seen():
    se, x = seeded(64, 16, bias=True)
    twin = mapped(SqueezeExcitation(64, 4), se)
    torch.nn.init.zeros_(twin.fc2.bias)
    with pytest.raises(AssertionError):
        equal(twin, se, x)


@pytest.mark.parametrize("channels, theirs, ours", [
    (64, 8, 4), (128, 8, 8), (256, 16, 16), (2048, 128, 128),
])
def test_timm_rounds_the_hidden_width_to_eights(channels, theirs, ours):
    assert SEModule(channels).fc1.out_channels == theirs
    assert SE(channels).W1.out_features == ours


def test_both_have_biases_by_default_and_we_do_not():
    assert SEModule(64).fc1.bias is not None
    assert SqueezeExcitation(64, 4).fc1.bias is not None
    assert SE(64).W1.bias is None


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_timm_seresnet50():
    with torch.device("meta"):
        theirs, ours = timm.create_model("seresnet50"), resnet50(partial(SE, bias=True))
    assert count(theirs) == count(ours) == 28_088_024
    widths = [m.fc1.out_channels for m in theirs.modules() if isinstance(m, SEModule)]
    assert widths == [m.W1.out_features for m in ours.modules() if isinstance(m, SE)]


@pytest.mark.parametrize("build", [resnet18, resnet34, resnet50, resnet101],
                         ids=lambda build: build.__name__)
def test_torchvision_resnet_names_and_shapes(build):
    with torch.device("meta"):
        theirs, ours = getattr(torchvision.models, build.__name__)(), build()
    shapes = [{k: tuple(v.shape) for k, v in model.state_dict().items()}
              for model in (theirs, ours)]
    assert shapes[0] == shapes[1] and count(theirs) == count(ours)
    with torch.device("meta"):
        attended = build(SE).state_dict()
    extra = attended.keys() - theirs.state_dict().keys()
    assert extra and all(re.search(r"\.attention\.W[12]\.weight$", k) for k in extra)


@pytest.mark.parametrize("build", [resnet18, resnet50], ids=lambda b: b.__name__)
def test_torchvision_weights_give_the_same_logits(build):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, build.__name__)().eval()
    ours = build().eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_torchvision_strides_in_the_3x3():
    with torch.device("meta"):
        theirs = torchvision.models.resnet50().layer2[0]
        ours = [resnet50(stride_in=at).layer2[0] for at in ("3x3", "1x1")]
    strides = [(b.conv1.stride[0], b.conv2.stride[0]) for b in (theirs, *ours)]
    assert strides == [(1, 2), (1, 2), (2, 1)]
