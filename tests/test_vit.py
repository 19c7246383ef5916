"""ViT: its values, its gradient, its properties, its parameters, its rollout."""

import copy
import doctest
import inspect
import io
import pickle
import re

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cvattn.flow
import cvattn.vit
from cvattn import ViT, rollout, vit_b16, vit_h14, vit_l16, vit_s16, vit_ti16

# Pictures of 5 channels: image_size itself, larger, smaller and of one row.
PICTURES = [(1, 6, 4), (2, 10, 14), (5, 2, 6)]        # B, H, W; patches of 2
SMALL = {"patch_size": 2, "dim": 14, "layers": 2, "num_heads": 2, "hidden": 11,
         "num_classes": 13, "in_channels": 5}


def seeded(cls, *args, **kwargs):
    """A ViT in float64, eval, whose every parameter matters: no zero, no one."""
    torch.manual_seed(0)
    vit = cls(*args, **kwargs).double().eval()
    with torch.no_grad():
        for p in vit.parameters():
            p.normal_(0, 0.6)
    return vit


def some(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator) + 0.5


def pair(layer):
    return [layer.weight.detach().numpy(), layer.bias.detach().numpy()]


def model(vit):
    """The weights of vit as the reference wants them; arrays that share its memory."""
    layers = [{
        "norm1": pair(layer.norm1), "norm2": pair(layer.norm2),
        "q": pair(layer.attention.W_Q), "k": pair(layer.attention.W_K),
        "v": pair(layer.attention.W_V), "o": pair(layer.attention.W_O),
        "mlp1": pair(layer.feed_forward.W1), "mlp2": pair(layer.feed_forward.W2),
    } for layer in vit.layers]
    return {"E": pair(vit.E), "x_class": vit.x_class.detach().numpy()[0, 0],
            "E_pos": vit.E_pos.detach().numpy()[0], "layers": layers,
            "norm": pair(vit.norm), "head": pair(vit.head)}


def same_values(cls, shape, image_size=(6, 4)):
    """Assert that cls, ViT or a mutant of it, equals the reference."""
    vit, x = seeded(cls, image_size, **SMALL), some(*shape)
    _, want, _ = reference.vit(x.numpy(), model(vit), vit.grid, 2)
    np.testing.assert_allclose(vit(x).detach().numpy(), want, rtol=0, atol=1e-10)


def same_gradient(cls, shape, image_size=(6, 4)):
    """Assert that cls has the slope of the reference in a random direction.

    One direction for x and one for each parameter, by central differences.
    """
    vit, x = seeded(cls, image_size, **SMALL | {"layers": 1}), some(*shape)
    g = some(shape[0], 13, seed=2)
    x.requires_grad_()
    vit(x).backward(g)
    for name, p in [("x", x), *vit.named_parameters()]:
        step, ends = some(*p.shape, seed=len(name)), []
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(sign * 1e-5 * step)
                logits = reference.vit(x.detach().numpy(), model(vit), vit.grid, 2)[1]
                p.sub_(sign * 1e-5 * step)
            ends.append((g.numpy() * logits).sum())
        got, want = (p.grad * step).sum().item(), (ends[0] - ends[1]) / 2e-5
        assert got == pytest.approx(want, rel=1e-6, abs=1e-6), name


@pytest.mark.parametrize("b, h, w", PICTURES)
def test_values_equal_the_reference(b, h, w):
    same_values(ViT, (b, 5, h, w))
    vit, x = seeded(ViT, (6, 4), **SMALL), some(b, 5, h, w)
    tokens, _, weights = reference.vit(x.numpy(), model(vit), (3, 2), 2)
    for got, want in [(vit.tokens(x), tokens), (vit.features(x), tokens[:, 0]),
                      (vit.weights(x), weights)]:
        np.testing.assert_allclose(got.detach().numpy(), want, rtol=0, atol=1e-10)


@pytest.mark.parametrize("b, h, w", [(1, 6, 4), (2, 6, 10), (5, 2, 6)])
def test_gradient_equals_the_reference(b, h, w):
    same_gradient(ViT, (b, 5, h, w))


def test_patches_are_unfolded_and_multiplied():
    vit, x = seeded(ViT, (6, 10), **SMALL), some(2, 5, 6, 10)
    patches = torch.nn.functional.unfold(x, 2, stride=2).transpose(1, 2)
    z = patches @ vit.E.weight.flatten(1).T + vit.E.bias
    z = torch.cat([vit.x_class.expand(2, 1, 14), z], dim=1) + vit.E_pos
    torch.testing.assert_close(vit.embed(x), z)


def shuffled(x, P, order):
    """The patches of x in another order."""
    folded = torch.nn.functional.unfold(x, P, stride=P)[:, :, order]
    return torch.nn.functional.fold(folded, x.shape[2:], P, stride=P)


def test_without_positions_the_order_of_patches_does_not_matter():
    vit, x = seeded(ViT, (6, 10), **SMALL), some(2, 5, 6, 10)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    moved = shuffled(x, 2, order)
    assert (vit(moved) - vit(x)).abs().max() > 0.1, "positions do nothing"
    torch.nn.init.zeros_(vit.E_pos)
    torch.testing.assert_close(vit(moved), vit(x))
    torch.testing.assert_close(vit.tokens(moved)[:, 1:], vit.tokens(x)[:, 1:][:, order])
    follow = torch.cat([torch.zeros(1, dtype=torch.long), 1 + order])
    torch.testing.assert_close(
        vit.weights(moved), vit.weights(x)[..., follow, :][..., follow])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_positions_at_the_size_of_training_are_themselves(dtype):
    vit = seeded(ViT, (46, 58), **SMALL).to(dtype)
    assert torch.equal(vit.positions(23, 29), vit.E_pos)
    assert not torch.equal(vit.positions(29, 23), vit.E_pos)


@pytest.mark.parametrize("grid", [(5, 7), (7, 3), (2, 2), (1, 4), (5, 1), (1, 1)])
def test_positions_equal_the_reference(grid):
    vit = seeded(ViT, (6, 10), **SMALL)
    got = vit.positions(*grid)
    want = reference.vit_positions(vit.E_pos.detach().numpy()[0], (3, 5), grid)
    np.testing.assert_allclose(got.detach().numpy()[0], want, rtol=0, atol=1e-12)
    assert torch.equal(got[:, 0], vit.E_pos[:, 0]), "the class token has no place"
    corners = [i * grid[1] + j for i in (0, grid[0] - 1) for j in (0, grid[1] - 1)]
    old = [i * 5 + j for i in (0, 2 * (grid[0] > 1)) for j in (0, 4 * (grid[1] > 1))]
    torch.testing.assert_close(got[0, 1:][corners], vit.E_pos[0, 1:][old])


def test_positions_of_a_slope_stay_a_slope():
    """Where the old positions rise evenly, the new ones do, between the same ends."""
    vit = seeded(ViT, (6, 10), **SMALL)
    with torch.no_grad():
        vit.E_pos[0, 1:] = torch.linspace(0, 1, 5).double().repeat(3)[:, None]
    rows = vit.positions(2, 9)[0, 1:].view(2, 9, 14)
    want = torch.linspace(0, 1, 9).double()[None, :, None].expand(2, 9, 14)
    torch.testing.assert_close(rows, want, rtol=0, atol=1e-7)


def test_positions_equal_those_of_the_authors_code():
    """Which calls scipy.ndimage.zoom of order 1; square grids there."""
    zoom = pytest.importorskip("scipy.ndimage").zoom
    vit = seeded(ViT, (10, 10), **SMALL)
    old = vit.E_pos.detach().numpy()[0, 1:].reshape(5, 5, 14)
    for n in (2, 3, 7, 11):
        want = zoom(old, (n / 5, n / 5, 1), order=1).reshape(n * n, 14)
        got = vit.positions(n, n)[0, 1:].detach().numpy()
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_a_picture_does_not_see_its_neighbours():
    vit, x = seeded(ViT, (6, 4), **SMALL), some(5, 5, 10, 14)
    alone = torch.cat([vit(picture[None]) for picture in x])
    torch.testing.assert_close(vit(x), alone)
    y = vit(x)
    x[2, 1, 1, 1] = float("nan")
    spoiled, others = vit(x), [0, 1, 3, 4]
    assert spoiled[2].isnan().all() and torch.equal(spoiled[others], y[others])


def test_an_empty_batch_gives_an_empty_result():
    vit, x = seeded(ViT, (6, 4), **SMALL), some(0, 5, 10, 14)
    assert vit(x).shape == (0, 13) and vit.tokens(x).shape == (0, 36, 14)
    assert vit.weights(x).shape == (2, 0, 2, 36, 36)
    assert rollout(vit.weights(x)).shape == (0, 36, 36)


def test_weights_are_those_that_forward_uses():
    """A layer's output, computed with its weights instead of the fused kernel."""
    vit, x = seeded(ViT, (6, 4), **SMALL), some(2, 5, 10, 14)
    z, A = vit.embed(x), vit.weights(x)
    torch.testing.assert_close(A.sum(-1), torch.ones(2, 2, 2, 36).double())
    assert A.min() > 0 and (A[0] - A[1]).abs().max() > 0.1
    for layer, weights in zip(vit.layers, A, strict=True):
        attention = layer.attention
        V = attention.W_V(layer.norm1(z)).view(2, 36, 2, 7).transpose(1, 2)
        heads = (weights @ V).transpose(1, 2).flatten(2)
        z = z + attention.W_O(heads)
        z = z + layer.feed_forward(layer.norm2(z))
    torch.testing.assert_close(vit.norm(z), vit.tokens(x))


def test_forward_stores_nothing():
    vit, x = seeded(ViT, (6, 4), **SMALL), some(2, 5, 10, 14)
    before = [dict(vars(m)) for m in vit.modules()]
    state = {k: v.clone() for k, v in vit.state_dict().items()}
    vit(x), vit.weights(x)
    assert before == [dict(vars(m)) for m in vit.modules()]
    assert all(torch.equal(v, state[k]) for k, v in vit.state_dict().items())


def maps(b, layers=3, heads=2, n=5):
    return some(layers, b, heads, n, n).softmax(-1)


@pytest.mark.parametrize("b", [1, 2, 5])
def test_rollout_equals_the_reference(b):
    A = maps(b)
    want = [reference.rollout(A[:, i].numpy()) for i in range(b)]
    np.testing.assert_allclose(rollout(A).numpy(), want, rtol=0, atol=1e-14)


def test_rollout_rows_sum_to_one():
    R = rollout(seeded(ViT, (6, 4), **SMALL).weights(some(2, 5, 10, 14)))
    torch.testing.assert_close(R.sum(-1), torch.ones(2, 36).double())
    assert R.min() > 0


def test_rollout_of_tokens_that_look_at_themselves_is_the_identity():
    eye = torch.eye(5).expand(3, 2, 4, 5, 5)
    assert torch.equal(rollout(eye), torch.eye(5).expand(2, 5, 5))


def test_rollout_follows_a_path_from_the_last_layer_to_the_input():
    """Token 0 looks at 1 in the last layer, which looks at 2 in the first."""
    A = torch.eye(3).repeat(2, 1, 1, 1, 1)
    A[1, 0, 0, 0] = torch.tensor([0.0, 1.0, 0.0])
    A[0, 0, 0, 1] = torch.tensor([0.0, 0.0, 1.0])
    assert rollout(A)[0, 0].tolist() == [0.5, 0.25, 0.25]
    assert rollout(A.flip(0))[0, 0].tolist() == [0.5, 0.5, 0.0]


def test_rollout_averages_heads_first():
    """As Abnar and Zuidema's code, whose heads are averaged and rows divided."""
    A = maps(1)
    a = A[:, 0].mean(1).numpy() + np.eye(5)
    a = a / a.sum(-1, keepdims=True)
    np.testing.assert_allclose(rollout(A)[0].numpy(), a[2] @ a[1] @ a[0], atol=1e-14)


@pytest.mark.parametrize("shape", [(3, 2, 5, 5), (5, 5), (3, 1, 2, 5, 4), ()], ids=str)
def test_rollout_of_a_wrong_shape(shape):
    message = f"weights must be (L, B, h, N, N), got {shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        rollout(torch.zeros(shape))


# Exact; the paper's Table 1 prints 86M, 307M and 632M.
COUNTS = [(vit_ti16, 5_524_416, 5_717_416), (vit_s16, 21_665_664, 22_050_664),
          (vit_b16, 85_798_656, 86_567_656), (vit_l16, 303_301_632, 304_326_632),
          (vit_h14, 630_764_800, 632_045_800)]


def count(vit):
    return sum(p.numel() for p in vit.parameters())


@pytest.mark.parametrize("build, body, whole", COUNTS,
                         ids=[build.__name__ for build, *_ in COUNTS])
def test_parameter_count(build, body, whole):
    with torch.device("meta"):
        assert count(build(num_classes=0)) == body
        vit = build()
        assert count(build(384 if build is not vit_h14 else 392)) == whole + (
            (24**2 - 14**2) if build is not vit_h14 else (28**2 - 16**2)
        ) * vit.E.out_channels, "only positions depend on the size of pictures"
    assert count(vit) == whole
    D, P, hidden = vit.E.out_channels, vit.E.stride[0], vit.layers[0].norm1
    assert hidden.normalized_shape == (D,)
    layer = 4 * (D * D + D) + (4 * D * D + 4 * D) + (4 * D * D + D) + 4 * D
    embedding = 3 * P * P * D + D + D + (1 + (224 // P) ** 2) * D
    assert body == embedding + len(vit.layers) * layer + 2 * D
    assert whole == body + 1000 * D + 1000


@pytest.mark.parametrize("build, layers, dim, hidden, num_heads, patch_size", [
    (vit_ti16, 12, 192, 768, 3, 16), (vit_s16, 12, 384, 1536, 6, 16),
    (vit_b16, 12, 768, 3072, 12, 16), (vit_l16, 24, 1024, 4096, 16, 16),
    (vit_h14, 32, 1280, 5120, 16, 14),
], ids=["ti16", "s16", "b16", "l16", "h14"])
def test_sizes(build, layers, dim, hidden, num_heads, patch_size):
    """Table 1; Ti and S are of DeiT, whose heads are 64 wide like those of B."""
    with torch.device("meta"):
        vit = build((3 * patch_size, 5 * patch_size), num_classes=7, in_channels=2,
                    dropout=0.3)
    assert (len(vit.layers), vit.E.out_channels) == (layers, dim)
    assert vit.E.kernel_size == vit.E.stride == (patch_size, patch_size)
    assert vit.E.in_channels == 2 and vit.head.out_features == 7
    assert vit.E_pos.shape == (1, 16, dim)
    for layer in vit.layers:
        assert layer.attention.num_heads == num_heads
        assert layer.feed_forward.W1.out_features == hidden
        assert layer.norm1.eps == layer.norm2.eps == vit.norm.eps == 1e-6
        assert layer.dropout.p == vit.dropout.p == 0.3


def test_no_head_gives_the_features():
    vit, x = seeded(ViT, (6, 4), **SMALL | {"num_classes": 0}), some(2, 5, 6, 4)
    assert torch.equal(vit(x), vit.features(x)) and vit(x).shape == (2, 14)
    assert not any(name.startswith("head") for name in vit.state_dict())


def test_start_is_that_of_the_authors_code():
    torch.manual_seed(0)
    vit = ViT(64, patch_size=8, dim=128, layers=2, num_heads=2, hidden=512)
    vit.requires_grad_(False)
    zero = [vit.head.weight, vit.head.bias, vit.x_class, vit.E.bias]
    for layer in vit.layers:
        a, mlp = layer.attention, layer.feed_forward
        zero += [a.W_Q.bias, a.W_K.bias, a.W_V.bias, a.W_O.bias]
        for linear in (a.W_Q, a.W_K, a.W_V, a.W_O, mlp.W1, mlp.W2):
            bound = (6 / sum(linear.weight.shape)) ** 0.5
            assert 0.98 * bound < linear.weight.abs().max() <= bound
            assert linear.weight.std() == pytest.approx(bound / 3**0.5, rel=0.02)
        for linear in (mlp.W1, mlp.W2):
            assert linear.bias.std() == pytest.approx(1e-6, rel=0.2)
    assert all(not p.any() for p in zero)
    assert vit.E_pos.std() == pytest.approx(0.02, rel=0.05)
    fan_in = 3 * 8 * 8
    assert vit.E.weight.std() == pytest.approx(fan_in**-0.5, rel=0.02)
    assert vit.E.weight.abs().max() <= 2 * fan_in**-0.5 / 0.8796
    assert not vit(torch.randn(2, 3, 64, 64)).any(), "the first logits are zero"
    assert vit.features(torch.randn(2, 3, 64, 64)).std() > 0.5


def test_a_training_step_reaches_every_parameter():
    """Through a head that is not zero; a key's bias moves no softmax."""
    vit = seeded(ViT, (6, 4), **SMALL).train()
    vit(some(5, 5, 6, 10)).square().sum().backward()
    for name, p in vit.named_parameters():
        largest = p.grad.abs().max().item()
        if name.endswith("W_K.bias"):
            assert largest < 1e-8, name
        else:
            assert largest > 1e-4, name


def test_dropout_is_for_training_and_also_after_the_positions():
    torch.manual_seed(0)
    vit = ViT((6, 4), **SMALL, dropout=0.5)
    x = torch.randn(2, 5, 6, 4)
    zeros = (vit.embed(x) == 0).float().mean().item()
    assert 0.3 < zeros < 0.7
    vit.eval()
    assert not (vit.embed(x) == 0).any() and torch.equal(vit(x), vit(x))


def test_defaults_are_those_of_vit_base():
    parameters = inspect.signature(ViT).parameters
    assert {k: p.default for k, p in parameters.items()} == {
        "image_size": 224, "patch_size": 16, "dim": 768, "layers": 12,
        "num_heads": 12, "hidden": 3072, "num_classes": 1000, "in_channels": 3,
        "dropout": 0.0,
    }
    first, *others = parameters.values()
    assert first.kind == first.POSITIONAL_OR_KEYWORD
    assert all(p.kind == p.KEYWORD_ONLY for p in others)


@pytest.mark.parametrize("build", [build for build, *_ in COUNTS],
                         ids=[build.__name__ for build, *_ in COUNTS])
def test_size_functions_take_the_same_arguments(build):
    with torch.device("meta"):
        model, other = build(), build(32 if build is not vit_h14 else 28, num_classes=7,
                                      in_channels=5, dropout=0.5)
    side = 224 // model.E.kernel_size[0]
    assert model.grid == (side, side) and other.grid == (2, 2)
    for vit, numbers in ((model, (1000, 3, 0.0)), (other, (7, 5, 0.5))):
        assert (vit.head.out_features, vit.E.in_channels, vit.dropout.p) == numbers
    first, options = inspect.signature(build).parameters.values()
    assert (first.name, first.default) == ("image_size", 224)
    assert options.kind == options.VAR_KEYWORD
    assert set(cvattn.vit.Options.__annotations__) == {
        "num_classes", "in_channels", "dropout"}
    for wrong in ("dim", "patch_size", "classes"):      # given already, or unknown
        with pytest.raises(TypeError, match=f"keyword argument '{wrong}'"):
            build(**{wrong: 16})


SIZE = "image_size must be a positive multiple of patch_size, got "
SIDES = "image_size must be a whole number from 1 up or two, (H, W), got image_size="


@pytest.mark.parametrize("image_size, change, message", [
    (7, {}, SIZE + "image_size=7, patch_size=2: patch_size=1 would fit"),
    ((6, 5), {}, SIZE + "image_size=5, patch_size=2: patch_size=1 would fit"),
    ((5, 6), {}, SIZE + "image_size=5, patch_size=2: patch_size=1 would fit"),
    (0, {}, SIDES + "0"),
    ((6, -4), {}, SIDES + "(6, -4)"),
    (6, {"patch_size": 0}, SIZE + "image_size=6, patch_size=0"),
    (6, {"dim": 15},
     "dim must be a positive multiple of num_heads, got dim=15, num_heads=2: "
     "num_heads=1 would fit"),
    (6, {"num_heads": 0},
     "dim must be a positive multiple of num_heads, got dim=14, num_heads=0"),
    (6, {"dim": 0},
     "dim must be a positive multiple of num_heads, got dim=0, num_heads=2"),
    (6, {"dim": -14},
     "dim must be a positive multiple of num_heads, got dim=-14, num_heads=2"),
    (6, {"hidden": 0},
     "hidden must be a whole number from 1 up, got hidden=0"),
    (6, {"layers": 0}, "layers must be a whole number from 1 up, got layers=0"),
    (6, {"in_channels": 0}, "in_channels must be a whole number from 1 up, "
     "got in_channels=0"),
    (6, {"num_classes": -1}, "num_classes must be a whole number from 0 up, "
     "got num_classes=-1"),
], ids=str)
def test_bad_arguments(image_size, change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ViT(image_size, **SMALL | change)


@pytest.mark.parametrize("shape, message", [
    ((), "x must be (B, 5, H, W), got ()"),
    ((5, 6, 4), "x must be (B, 5, H, W), got (5, 6, 4)"),
    ((2, 3, 6, 4), "x must be (B, 5, H, W), got (2, 3, 6, 4)"),
    ((2, 6, 4, 5), "x must be (B, 5, H, W), got (2, 6, 4, 5)"),
    ((2, 5, 7, 4), "the height and width of x must be multiples of 2, "
                   "got (2, 5, 7, 4)"),
    ((2, 5, 6, 3), "the height and width of x must be multiples of 2, "
                   "got (2, 5, 6, 3)"),
    ((2, 5, 0, 4), "x must have H and W from 1 up, got (2, 5, 0, 4)"),
], ids=str)
def test_bad_inputs(shape, message):
    vit = ViT((6, 4), **SMALL)
    for call in (vit, vit.embed, vit.tokens, vit.features, vit.weights):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call(torch.zeros(shape))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(b=st.integers(0, 3), rows=st.integers(1, 4), columns=st.integers(1, 4),
       P=st.integers(1, 3), C=st.integers(1, 3), heads=st.integers(1, 3),
       d=st.integers(1, 3), layers=st.integers(1, 2), K=st.integers(0, 3),
       grid=st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_any_shape(b, rows, columns, P, C, heads, d, layers, K, grid):
    vit = seeded(ViT, (grid[0] * P, grid[1] * P), patch_size=P, dim=heads * d,
                 layers=layers, num_heads=heads, hidden=5, num_classes=K,
                 in_channels=C)
    x, N = some(b, C, rows * P, columns * P), 1 + rows * columns
    assert vit(x).shape == (b, K or heads * d) and vit(x).isfinite().all()
    assert vit.tokens(x).shape == (b, N, heads * d)
    weights = vit.weights(x)
    assert weights.shape == (layers, b, heads, N, N)
    R = rollout(weights)
    torch.testing.assert_close(R.sum(-1), torch.ones(b, N).double())
    assert (R >= 0).all()
    if b and K:
        want = reference.vit(x.numpy(), model(vit), grid, heads)[1]
        np.testing.assert_allclose(vit(x).detach().numpy(), want, rtol=0, atol=1e-9)


def single(cls=ViT, image_size=(6, 4), **kwargs):
    """In float32, with weights that matter."""
    vit = seeded(cls, image_size, **SMALL | kwargs).float()
    return vit, some(2, 5, 6, 4).float()


def test_channels_last():
    vit, x = single()
    y = vit(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(y, vit(x))
    torch.testing.assert_close(vit.to(memory_format=torch.channels_last)(x), y)


@pytest.mark.parametrize("size", [(6, 4), (10, 14)])
def test_bfloat16_autocast(size):
    vit, _ = single()
    x = some(2, 5, *size).float()
    with torch.autocast("cpu", torch.bfloat16):
        y, A = vit(x), vit.weights(x)
    assert A.shape[-1] == 1 + size[0] * size[1] // 4
    torch.testing.assert_close(y.float(), vit(x), rtol=0.1, atol=0.2)
    assert not torch.equal(y.float(), vit(x)), "autocast did not reach the layers"


@pytest.mark.parametrize("size", [(6, 4), (10, 14)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types(dtype, size):
    vit, _ = single()
    x = some(2, 5, *size).float()
    y = copy.deepcopy(vit).to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), vit(x), rtol=0.1, atol=0.3)


def test_copies_and_state_dict():
    vit, x = single()
    other = ViT((6, 4), **SMALL).eval()
    file = io.BytesIO()
    torch.save(vit.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for twin in (other, copy.deepcopy(vit), pickle.loads(pickle.dumps(vit))):
        assert torch.equal(twin(x), vit(x))
        torch.nn.init.zeros_(twin.E.weight)
        assert not torch.equal(twin(x), vit(x))


def test_gradcheck():
    vit = seeded(ViT, (6, 4), **SMALL)
    names = dict(vit.named_parameters())

    def call(x, *values):
        return torch.func.functional_call(
            vit, dict(zip(names, values, strict=True)), x)

    x = some(2, 5, 2, 6).requires_grad_()
    assert torch.autograd.gradcheck(call, (x, *names.values()), fast_mode=True)


def test_export_with_any_batch_height_and_width():
    """From two patches a side: torch takes an axis of length 1 for a special case."""
    vit, _ = single()
    b, rows, columns = (torch.export.Dim(name) for name in ("b", "rows", "columns"))
    program = torch.export.export(
        vit, (some(2, 5, 10, 14).float(),),
        dynamic_shapes=({0: b, 2: 2 * rows, 3: 2 * columns},)).module()
    for shape in [(3, 5, 10, 14), (5, 5, 6, 4), (1, 5, 4, 22)]:
        x = some(*shape).float()
        torch.testing.assert_close(program(x), vit(x))


def test_export_at_the_size_of_training_with_any_batch():
    vit, x = single()
    free = ({0: torch.export.Dim("b")},)
    program = torch.export.export(vit, (x,), dynamic_shapes=free).module()
    for b in (1, 3, 5):
        x = some(b, 5, 6, 4).float()
        torch.testing.assert_close(program(x), vit(x))


def test_compile_in_one_graph():
    vit, x = single()
    torch._dynamo.reset()
    compiled = torch.compile(vit, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), vit(x))
    wide = some(2, 5, 10, 14).float()
    torch.testing.assert_close(compiled(wide), vit(wide))


def test_the_docstrings_run():
    for module in (cvattn.vit, cvattn.flow):
        failed, tried = doctest.testmod(module)
        assert tried >= 2 and failed == 0
