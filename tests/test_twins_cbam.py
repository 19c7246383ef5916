"""CBAM equals timm's CbamModule, weights mapped; what each keeps for backward."""

import pytest
import torch
from twins import timm

from benchmarks import official
from cvattn import CBAM
from cvattn.book.experiments.cbam_variants import CBAMVariant

CbamModule = timm.layers.cbam.CbamModule


def mapped(cbam, bias=False):
    """timm's module with the weights of cbam; timm's has a BatchNorm without fail."""
    twin = CbamModule(cbam.channel.W0.in_features, mlp_bias=bias).eval()
    pairs = [("channel.fc1", "channel.W0"), ("channel.fc2", "channel.W1"),
             ("spatial.conv.conv", "spatial.f"), ("spatial.conv.bn", "spatial.norm")]
    state = {}
    for theirs, mine in pairs:
        for name, t in cbam.get_submodule(mine).state_dict().items():
            state[f"{theirs}.{name}"] = t[:, :, None, None] if "fc" in theirs and (
                t.ndim == 2) else t
    twin.load_state_dict(state)
    return twin


def seeded(channels, bias):
    torch.manual_seed(0)
    m = CBAMVariant(channels, bias=bias, norm=True).eval()
    with torch.no_grad():
        for p in m.parameters():
            p.normal_(0, 0.3)
        # No hidden unit is dead and no gate is shut, so that the gates differ.
        m.channel.W0.weight.abs_().mul_(9 / channels)
        m.spatial.norm.weight.fill_(1.5)
        m.spatial.norm.running_mean.fill_(0.2)
        m.spatial.norm.running_var.fill_(0.5)
    return m, torch.randn(3, channels, 7, 5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("channels", [32, 64, 272])
@pytest.mark.parametrize("training", [True, False])
def test_values_and_gradients(channels, bias, training):
    m, x = seeded(channels, bias)
    twin, m, x = mapped(m, bias).double().train(training), m.double(), x.double()
    m.train(training)       # the momenta differ and play no part in the result
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    y, theirs = m(inputs[0]), twin(inputs[1])
    torch.testing.assert_close(y, theirs, rtol=0, atol=1e-12)
    g = torch.randn_like(x)
    y.backward(g)
    theirs.backward(g)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=0, atol=1e-11)
    pairs = [(m.channel.W0, twin.channel.fc1), (m.channel.W1, twin.channel.fc2),
             (m.spatial.f, twin.spatial.conv.conv), (m.spatial.norm,
                                                     twin.spatial.conv.bn)]
    for ours, others in pairs:
        for a, b in zip(ours.parameters(), others.parameters(), strict=True):
            torch.testing.assert_close(a.grad.flatten(), b.grad.flatten(), rtol=0,
                                       atol=1e-10)
    assert m.channel.gate(x).std() > 0.05 and m.spatial.gate(m.channel(x)).std() > 0.05


def test_a_wrong_mapping_is_seen():
    m, x = seeded(64, bias=True)
    twin = mapped(m, bias=True)
    with torch.no_grad():
        twin.spatial.conv.conv.weight.copy_(m.spatial.f.weight.flip(1))
    assert (twin(x) - m(x)).abs().max() > 0.01


def kept(module, x):
    """The bytes of what autograd keeps for backward, each storage once."""
    storages = {}

    def pack(t):
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = module(x)      # holds all that was saved, so that no address is reused
        total = sum(storages.values())
    assert y.requires_grad
    return total


@pytest.mark.parametrize("b, c, h, w", [
    (8, 256, 56, 56), (32, 64, 56, 56), (32, 512, 14, 14)])
def test_what_is_kept_for_backward(b, c, h, w):
    """No more than by the official form; than by timm's, where each maximum is."""
    x = torch.randn(b, c, h, w, requires_grad=True)
    where = 8 * (b * c + b * h * w)
    for mine in (CBAM(c), CBAM(c, official=True),
                 CBAMVariant(c, bias=True, norm=False)):
        assert 0 < kept(mine, x) <= kept(official.CBAM(c), x)
        assert kept(mine, x) <= kept(CbamModule(c, mlp_bias=True), x) + where
    mine = CBAM(c)
    # x and F' = Mc * x; maximum, [mean; max] and Ms; means, maxima, Mc; the weights.
    small = 4 * b * h * w + 5 * b * c + sum(p.numel() for p in mine.parameters())
    assert kept(mine, x) <= 2 * x.nbytes + 4 * small + where
