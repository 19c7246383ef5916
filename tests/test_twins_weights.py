"""Weights of timm and torchvision: loaded into ours, they give the same logits.

Random weights, and BatchNorm statistics of random pictures, so that no activation
runs away and 1e-4 means the same in every network.
"""

from functools import partial

import pytest
import torch
from torch import nn
from twins import timm, torchvision

from benchmarks import official
from cvattn import (
    BAM,
    CBAM,
    SE,
    SK,
    SpatialAttention,
    resnet18,
    resnet50,
    resnext50,
    sknet50,
    vit_b16,
)
from cvattn.book.experiments.cbam_variants import CBAMVariant
from cvattn.layers import EncoderLayer
from cvattn.multihead import MultiHeadAttention
from cvattn.weights import load

models = torchvision.models
CbamModule = timm.layers.cbam.CbamModule
OFFICIAL_CBAM = partial(CBAM, official=True)
OFFICIAL_BAM = partial(BAM, official=True)


def normed(cbam):
    """CBAM with BatchNorm in its spatial half alone, as in timm's default."""
    cbam.spatial = SpatialAttention(cbam.spatial.channels, norm=True)
    return cbam


def used(model, *shape):
    """The model in eval mode, as if trained: nothing stands where it started."""
    torch.manual_seed(0)
    for name, p in model.named_parameters():
        if p.ndim < 2:
            p.data.normal_(1.0 if name.endswith("weight") else 0.0, 0.2)
    norms = [m for m in model.modules()
             if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for m in norms:
        m.momentum = None       # the statistics are these pictures' own
    with torch.no_grad():
        if norms:
            model.train()(torch.randn(8, *shape))
    return model.eval()


def same(theirs, ours, *shape, batch=2, state=lambda model: model.state_dict()):
    """Assert that ours, once loaded, gives what theirs gives."""
    used(theirs, *shape)
    load(ours.eval(), state(theirs))
    x = torch.randn(batch, *shape)
    with torch.inference_mode():
        want, got = theirs(x), ours(x)
    assert got.shape == want.shape and 0.05 < want.std() < 20
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


def after(module, attention):
    """Let the attention, whose parent someone else is, change what module gives."""
    module.register_forward_hook(lambda module, inputs, output: attention(output))


def official_cbam_resnet18():
    """torchvision's network with CBAM where the authors have it, in their names."""
    net = models.resnet18()
    for stage, channels in zip((net.layer1, net.layer2, net.layer3, net.layer4),
                               (64, 128, 256, 512), strict=True):
        for block in stage:
            block.cbam = official.CBAM(channels)
            after(block.bn2, block.cbam)
    return net


def official_bam_resnet50():
    net = models.resnet50()
    for i, stage in enumerate((net.layer1, net.layer2, net.layer3), 1):
        bam = official.BAM(128 * 2**i)
        net.add_module(f"bam{i}", bam)
        after(stage, bam)
    return net


NETWORKS = {
    "timm seresnet50":
        (partial(timm.create_model, "seresnet50"),
         partial(resnet50, partial(SE, bias=True))),
    "timm skresnext50_32x4d":
        (partial(timm.create_model, "skresnext50_32x4d"), sknet50),
    "torchvision resnet18": (models.resnet18, resnet18),
    "torchvision resnet50": (models.resnet50, resnet50),
    "torchvision resnext50_32x4d": (models.resnext50_32x4d, resnext50),
    "official ResNet with CBAM":
        (official_cbam_resnet18, partial(resnet18, OFFICIAL_CBAM)),
    "official ResNet with BAM":
        (official_bam_resnet50, partial(resnet50, OFFICIAL_BAM, place="stage")),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    theirs, ours = NETWORKS[name]
    same(theirs(), ours(), 3, 64, 96)


@pytest.mark.parametrize("theirs", [
    partial(timm.create_model, "vit_base_patch16_224"), models.vit_b_16,
], ids=["timm", "torchvision"])
def test_vision_transformers(theirs):
    same(theirs(), vit_b16(), 3, 224, 224, batch=1)


def test_official_networks_saved_by_data_parallel():
    def state(net):
        return {f"module.{name}": t for name, t in net.state_dict().items()}

    same(official_cbam_resnet18(), resnet18(OFFICIAL_CBAM), 3, 64, 96, state=state)


def test_another_number_of_classes_is_listed():
    net = models.resnet18(num_classes=7)
    with pytest.raises(ValueError) as error:
        load(resnet18(), net.state_dict())
    assert str(error.value) == (
        "the weights do not fit:\n"
        "shape: fc.bias is (7,), the model's (1000,)\n"
        "shape: fc.weight is (7, 512), the model's (1000, 512)"
    )


def test_se_without_biases_does_not_take_those_of_timm():
    with torch.device("meta"):
        ours, state = resnet50(SE), timm.create_model("seresnet50").state_dict()
    with pytest.raises(ValueError) as error:
        load(ours, state)
    lines = str(error.value).splitlines()
    assert len(lines) == 1 + 2 * 16
    assert lines[1] == ("unexpected: layer1.0.attention.W1.bias "
                        "(their layer1.0.se.fc1.bias)")


MODULES = {
    "torchvision SqueezeExcitation":
        (torchvision.ops.SqueezeExcitation(32, 2), SE(32, bias=True), (32, 7, 5)),
    "timm SEModule":
        (timm.layers.SEModule(32, rd_channels=2), SE(32, bias=True), (32, 7, 5)),
    "timm SEModule without bias":
        (timm.layers.SEModule(32, rd_channels=2, bias=False), SE(32), (32, 7, 5)),
    "timm CbamModule": (CbamModule(32), normed(CBAM(32)), (32, 7, 5)),
    "timm CbamModule with biases":
        (CbamModule(32, mlp_bias=True), CBAM(32, official=True), (32, 7, 5)),
    "timm CbamModule, maximum first":
        (CbamModule(32, mlp_bias=True),
         CBAMVariant(32, norm=True, bias=True, spatial_pool=("max", "mean")),
         (32, 7, 5)),
    "timm SelectiveKernel":
        (timm.layers.SelectiveKernel(64, groups=32, rd_divisor=32, split_input=False),
         SK(64), (64, 7, 5)),
    "timm Attention":
        (timm.layers.Attention(12, 3, qkv_bias=True),
         MultiHeadAttention(12, num_heads=3, bias=True), (7, 12)),
    "timm Block":
        (timm.models.vision_transformer.Block(12, 3, qkv_bias=True),
         EncoderLayer(12, num_heads=3, hidden=48, bias=True, norm_first=True,
                      activation=nn.functional.gelu), (7, 12)),
    "torchvision EncoderBlock":
        (models.vision_transformer.EncoderBlock(3, 12, 48, 0.0, 0.0),
         EncoderLayer(12, num_heads=3, hidden=48, bias=True, norm_first=True, eps=1e-6,
                      activation=nn.functional.gelu), (7, 12)),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(name):
    theirs, ours, shape = MODULES[name]
    same(theirs, ours, *shape)
