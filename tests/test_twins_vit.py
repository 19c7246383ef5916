"""Equality with timm's and torchvision's VisionTransformer, weights mapped.

Both are built small, with random weights. Without them these tests skip; under
CI=true they fail: see twins.py.
"""

import pytest
import torch
from test_vit import count
from twins import timm, torchvision

from cvattn import ViT, vit_b16, vit_h14, vit_l16, vit_s16, vit_ti16

Timm = timm.models.vision_transformer.VisionTransformer
Torchvision = torchvision.models.vision_transformer.VisionTransformer
SIZE = (40, 56)
OURS = {"patch_size": 8, "dim": 44, "layers": 3, "num_heads": 4, "hidden": 88,
        "num_classes": 13}


def theirs_timm(size=SIZE, **kwargs):
    return Timm(img_size=size, patch_size=8, embed_dim=44, depth=3, num_heads=4,
                mlp_ratio=2, num_classes=13, **kwargs)


def spread(model):
    """Random weights, all of them, in eval."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.2)
    return model.eval()


def from_timm(state):
    """timm's names and its stacked queries, keys and values, as ours."""
    new = {"x_class": state["cls_token"], "E_pos": state["pos_embed"]}
    for name in ("weight", "bias"):
        new[f"E.{name}"] = state[f"patch_embed.proj.{name}"]
        new[f"norm.{name}"] = state[f"norm.{name}"]
        new[f"head.{name}"] = state[f"head.{name}"]
        for i in range(OURS["layers"]):
            old, here = f"blocks.{i}", f"layers.{i}"
            stacked = state[f"{old}.attn.qkv.{name}"].chunk(3)
            for letter, part in zip("QKV", stacked, strict=True):
                new[f"{here}.attention.W_{letter}.{name}"] = part
            for mine, other in (
                ("attention.W_O", "attn.proj"), ("norm1", "norm1"), ("norm2", "norm2"),
                ("feed_forward.W1", "mlp.fc1"), ("feed_forward.W2", "mlp.fc2"),
            ):
                new[f"{here}.{mine}.{name}"] = state[f"{old}.{other}.{name}"]
    return new


def from_torchvision(state):
    """torchvision's names as ours."""
    new = {"x_class": state["class_token"], "E_pos": state["encoder.pos_embedding"]}
    for name in ("weight", "bias"):
        new[f"E.{name}"] = state[f"conv_proj.{name}"]
        new[f"norm.{name}"] = state[f"encoder.ln.{name}"]
        new[f"head.{name}"] = state[f"heads.head.{name}"]
        for i in range(OURS["layers"]):
            old, here = f"encoder.layers.encoder_layer_{i}", f"layers.{i}"
            stacked = state[f"{old}.self_attention.in_proj_{name}"].chunk(3)
            for letter, part in zip("QKV", stacked, strict=True):
                new[f"{here}.attention.W_{letter}.{name}"] = part
            for mine, other in (
                ("attention.W_O", "self_attention.out_proj"), ("norm1", "ln_1"),
                ("norm2", "ln_2"), ("feed_forward.W1", "mlp.0"),
                ("feed_forward.W2", "mlp.3"),
            ):
                new[f"{here}.{mine}.{name}"] = state[f"{old}.{other}.{name}"]
    return new


def close(got, want):
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_timm_has_the_same_logits():
    twin = spread(theirs_timm())
    vit = ViT(SIZE, **OURS).eval()
    vit.load_state_dict(from_timm(twin.state_dict()))
    x = torch.randn(3, 3, *SIZE)
    close(vit(x), twin(x))
    assert vit(x).std() > 0.1
    close(vit.tokens(x), twin.forward_features(x))
    assert count(vit) == count(twin)


def test_timm_has_the_same_gradients():
    twin, vit = spread(theirs_timm()), ViT(SIZE, **OURS).eval()
    vit.load_state_dict(from_timm(twin.state_dict()))
    x = torch.randn(3, 3, *SIZE)
    for model in (twin, vit):
        model(x).square().sum().backward()
    grads = from_timm({name: p.grad for name, p in twin.named_parameters()})
    for name, p in vit.named_parameters():
        torch.testing.assert_close(p.grad, grads[name], rtol=1e-3, atol=1e-4)
        assert p.grad.any(), name


def test_timm_has_the_same_weights():
    """Which it computes only without its fused kernel, and does not return."""
    twin, vit = spread(theirs_timm()), ViT(SIZE, **OURS).eval()
    vit.load_state_dict(from_timm(twin.state_dict()))
    seen = []
    for block in twin.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda m, a, y: seen.append(y))
    x = torch.randn(3, 3, *SIZE)
    twin(x)
    close(vit.weights(x), torch.stack(seen))


def test_a_wrong_mapping_is_seen():
    twin, vit = spread(theirs_timm()), ViT(SIZE, **OURS).eval()
    state = from_timm(twin.state_dict())
    a, b = "layers.1.attention.W_Q.weight", "layers.1.attention.W_V.weight"
    vit.load_state_dict(state | {a: state[b], b: state[a]})
    x = torch.randn(3, 3, *SIZE)
    with pytest.raises(AssertionError):
        close(vit(x), twin(x))


OTHER = (24, 72)


def test_timm_interpolates_positions_otherwise():
    """Bicubic and antialiased, pixel areas aligned; ours is linear between corners.

    So the logits at another size differ, unless timm is told to do as ours.
    """
    twin = spread(theirs_timm(dynamic_img_size=True))
    vit = ViT(SIZE, **OURS).eval()
    vit.load_state_dict(from_timm(twin.state_dict()))
    x = torch.randn(3, 3, *OTHER)
    assert (vit(x) - twin(x)).abs().max() > 1e-3      # a hundred times `close`
    resample, old, new = timm.layers.resample_abs_pos_embed, [5, 7], [3, 9]
    as_ours = {"interpolation": "bilinear", "antialias": False, "align_corners": True}
    close(vit.positions(*new), resample(vit.E_pos, new, old, **as_ours))
    for change in ({"interpolation": "bicubic"}, {"antialias": True},
                   {"align_corners": False}):
        wrong = resample(vit.E_pos, new, old, **as_ours | change)
        assert (wrong - vit.positions(*new)).abs().max() > 0.01, change


def test_timm_has_the_same_logits_at_another_size_with_the_same_positions():
    """A picture that timm's network has resampled its own positions for."""
    twin = spread(theirs_timm(dynamic_img_size=True))
    resampled = timm.layers.resample_abs_pos_embed(twin.pos_embed, [3, 9], [5, 7])
    vit, x = ViT(OTHER, **OURS).eval(), torch.randn(3, 3, *OTHER)
    vit.load_state_dict(from_timm(twin.state_dict()) | {"E_pos": resampled})
    close(vit(x), twin(x))


def test_torchvision_has_the_same_logits():
    """Which takes square pictures alone."""
    twin = spread(Torchvision(
        image_size=40, patch_size=8, num_layers=3, num_heads=4, hidden_dim=44,
        mlp_dim=88, num_classes=13))
    vit, x = ViT(40, **OURS).eval(), torch.randn(3, 3, 40, 40)
    vit.load_state_dict(from_torchvision(twin.state_dict()))
    close(vit(x), twin(x))
    assert vit(x).std() > 0.1 and count(vit) == count(twin)


def test_torchvision_interpolates_positions_between_corners_too():
    """Its checkpoints' positions; bicubic by default, linear is ours."""
    interpolate = torchvision.models.vision_transformer.interpolate_embeddings
    vit = spread(ViT(40, **OURS))
    for mode in ("bilinear", "bicubic"):
        state = {"encoder.pos_embedding": vit.E_pos.detach()}
        new = interpolate(56, 8, state, mode)["encoder.pos_embedding"]
        difference = (new - vit.positions(7, 7)).abs().max()
        assert difference < 1e-6 if mode == "bilinear" else difference > 0.01


@pytest.mark.parametrize("ours, name", [
    (vit_ti16, "vit_tiny_patch16_224"), (vit_s16, "vit_small_patch16_224"),
    (vit_b16, "vit_base_patch16_224"), (vit_l16, "vit_large_patch16_224"),
    (vit_h14, "vit_huge_patch14_224"),
], ids=lambda value: getattr(value, "__name__", value))
def test_timm_has_the_same_sizes(ours, name):
    with torch.device("meta"):
        twin, vit = timm.create_model(name, num_classes=1000), ours()
    assert count(twin) == count(vit) and len(twin.blocks) == len(vit.layers)
    assert twin.embed_dim == vit.E.out_channels
    for theirs, mine in zip(twin.blocks, vit.layers, strict=True):
        assert theirs.attn.num_heads == mine.attention.num_heads
        assert theirs.mlp.fc1.out_features == mine.feed_forward.W1.out_features


@pytest.mark.parametrize("ours, name", [
    (vit_b16, "vit_b_16"), (vit_l16, "vit_l_16"), (vit_h14, "vit_h_14"),
], ids=lambda value: getattr(value, "__name__", value))
def test_torchvision_has_the_same_sizes(ours, name):
    with torch.device("meta"):
        twin, vit = getattr(torchvision.models, name)(), ours()
    assert count(twin) == count(vit)
