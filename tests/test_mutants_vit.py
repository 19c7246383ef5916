"""Tests of the tests: plausible wrong ViTs, and which test catches each.

Every mutant has ViT's parameters and one mistake. The test of values must catch all
of them; a test of shapes catches none.
"""

import math

import pytest
import reference
import torch
from test_vit import SMALL, maps, same_gradient, same_values, some
from torch import nn
from torch.nn.functional import gelu, interpolate

from cvattn import ViT, rollout

TRAINED, OTHER = (2, 5, 6, 4), (2, 5, 10, 14)      # the first has image_size


def embedding(change):
    """A ViT with another z_0; change(vit, z, class token, positions)."""

    class Mutant(ViT):
        def embed(self, x):
            z = self.E(x)
            E_pos = self.positions(*z.shape[2:])
            return change(self, z, self.x_class.expand(len(x), -1, -1), E_pos)

    return Mutant


def rows(z):
    return z.flatten(2).transpose(1, 2)


def positioned(change):
    """A ViT with other positions; change(vit, rows, columns)."""

    class Mutant(ViT):
        positions = change

    return Mutant


def grid_of(vit):
    """The positions of patches as (1, D, h, w)."""
    return vit.E_pos[:, 1:].unflatten(1, vit.grid).permute(0, 3, 1, 2)


def resized(mode="bilinear", align_corners=True, **kwargs):
    def positions(vit, h, w):
        new = interpolate(grid_of(vit), (h, w), mode=mode, align_corners=align_corners,
                          **kwargs)
        return torch.cat([vit.E_pos[:, :1], rows(new)], dim=1)

    return positioned(positions)


def with_the_class_token(vit, h, w):
    line = vit.E_pos.transpose(1, 2)
    return interpolate(line, 1 + h * w, mode="linear", align_corners=True).transpose(
        1, 2)


def as_a_line(vit, h, w):
    line = vit.E_pos[:, 1:].transpose(1, 2)
    line = interpolate(line, h * w, mode="linear", align_corners=True).transpose(1, 2)
    return torch.cat([vit.E_pos[:, :1], line], dim=1)


def axes_swapped(vit, h, w):
    new = interpolate(grid_of(vit), (w, h), mode="bilinear", align_corners=True)
    return torch.cat([vit.E_pos[:, :1], rows(new)], dim=1)


def grid_transposed(vit, h, w):
    old = vit.E_pos[:, 1:].unflatten(1, vit.grid[::-1]).permute(0, 3, 2, 1)
    new = interpolate(old, (h, w), mode="bilinear", align_corners=True)
    return torch.cat([vit.E_pos[:, :1], rows(new)], dim=1)


def cut_off(vit, h, w):
    """The first positions, repeated where there are too few."""
    many = vit.E_pos[:, 1:].repeat(1, math.ceil(h * w / (vit.E_pos.shape[1] - 1)), 1)
    return torch.cat([vit.E_pos[:, :1], many[:, :h * w]], dim=1)


def reading(features):
    """A ViT with another y; features(vit, z_L)."""

    class Mutant(ViT):
        def features(self, x):
            return features(self, self.encode(x))

    return Mutant


def encoding(step):
    """A ViT with another layer; step(layer, z)."""

    class Mutant(ViT):
        def encode(self, x):
            z = self.embed(x)
            for layer in self.layers:
                z = step(layer, z)
            return z

    return Mutant


def attending(attend):
    """A ViT with another attention; attend(q, k, v, heads), q (B, h, N, d)."""

    def step(layer, z):
        a, x = layer.attention, layer.norm1(z)
        q, k, v = (W(x).unflatten(2, (2, -1)).transpose(1, 2)
                   for W in (a.W_Q, a.W_K, a.W_V))
        z = z + a.W_O(attend(q, k, v).transpose(1, 2).flatten(2))
        return z + layer.feed_forward(layer.norm2(z))

    return encoding(step)


def right(q, k, v):
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


def post_norm(layer, z):
    z = layer.norm1(z + layer.attention(z))
    return layer.norm2(z + layer.feed_forward(z))


def without_residual(layer, z):
    z = layer.attention(layer.norm1(z))
    return z + layer.feed_forward(layer.norm2(z))


def one_norm(layer, z):
    z = z + layer.attention(layer.norm1(z))
    return z + layer.feed_forward(layer.norm1(z))


def side_by_side(layer, z):
    attended = layer.attention(layer.norm1(z))
    return z + attended + layer.feed_forward(layer.norm2(z))


def activated(f):
    def step(layer, z):
        z = z + layer.attention(layer.norm1(z))
        mlp = layer.feed_forward
        return z + mlp.W2(f(mlp.W1(layer.norm2(z))))

    return encoding(step)


def epsilon(eps):
    class Mutant(ViT):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            for m in self.modules():
                if isinstance(m, nn.LayerNorm):
                    m.eps = eps

    return Mutant


class PixelsColumnByColumn(ViT):
    """Each patch transposed before E."""

    def embed(self, x):
        return super().embed(x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).transpose(
            3, 5).flatten(4, 5).flatten(2, 3))


# Caught at the size of training.
MUTANTS = {
    "no positions": embedding(lambda vit, z, c, E_pos: torch.cat([c, rows(z)], 1)),
    "no position for the class token": embedding(
        lambda vit, z, c, E_pos: torch.cat([c, rows(z) + E_pos[:, 1:]], 1)),
    "the class token at the end": embedding(
        lambda vit, z, c, E_pos: torch.cat([rows(z), c], 1) + E_pos),
    "the class token's position at the end": embedding(
        lambda vit, z, c, E_pos: torch.cat([c, rows(z)], 1) + E_pos.roll(-1, 1)),
    "no class token, the first patch for it": embedding(
        lambda vit, z, c, E_pos: rows(z) + E_pos[:, 1:]),
    "a class token of zeros": embedding(
        lambda vit, z, c, E_pos: torch.cat([0 * c, rows(z)], 1) + E_pos),
    "patches column by column": embedding(
        lambda vit, z, c, E_pos: torch.cat([c, rows(z.mT)], 1) + E_pos),
    "patches last to first": embedding(
        lambda vit, z, c, E_pos: torch.cat([c, rows(z).flip(1)], 1) + E_pos),
    "channels and patches mixed by a view": embedding(
        lambda vit, z, c, E_pos: torch.cat(
            [c, z.flatten(1).view(len(z), -1, z.shape[1])], 1) + E_pos),
    "positions multiplied": embedding(
        lambda vit, z, c, E_pos: torch.cat([c, rows(z)], 1) * E_pos),
    "E without its bias": embedding(
        lambda vit, z, c, E_pos: torch.cat(
            [c, rows(z) - vit.E.bias], 1) + E_pos),
    "pixels of a patch column by column": PixelsColumnByColumn,
    "the mean of all tokens": reading(lambda vit, z: vit.norm(z).mean(1)),
    "the mean of the patches": reading(lambda vit, z: vit.norm(z)[:, 1:].mean(1)),
    "the last token": reading(lambda vit, z: vit.norm(z)[:, -1]),
    "the norm of a mean": reading(lambda vit, z: vit.norm(z.mean(1))),
    "no last norm": reading(lambda vit, z: z[:, 0]),
    "the last norm twice": reading(lambda vit, z: vit.norm(vit.norm(z[:, 0]))),
    "post-norm": encoding(post_norm),
    "no residual around attention": encoding(without_residual),
    "one norm for both": encoding(one_norm),
    "attention and MLP side by side": encoding(side_by_side),
    "ReLU": activated(torch.relu),
    "GELU by tanh": activated(lambda a: gelu(a, approximate="tanh")),
    "GELU by a sigmoid": activated(lambda a: a * torch.sigmoid(1.702 * a)),
    "no activation": activated(lambda a: a),
    "1e-5 in the norms": epsilon(1e-5),
    "no division by the root of d": attending(
        lambda q, k, v: (q @ k.mT).softmax(-1) @ v),
    "the root of D for that of d": attending(
        lambda q, k, v: (q @ k.mT / math.sqrt(14)).softmax(-1) @ v),
    "softmax over the queries": attending(
        lambda q, k, v: (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-2) @ v),
    "queries and keys exchanged": attending(lambda q, k, v: right(k, q, v)),
    "heads exchanged": attending(lambda q, k, v: right(q, k, v).flip(1)),
    "attention within heads, not tokens": attending(
        lambda q, k, v: right(q.transpose(1, 2), k.transpose(1, 2), v.transpose(
            1, 2)).transpose(1, 2)),
}
# Right at the size of training, caught at another.
RESIZED = {
    "positions interpolated with the class token's": positioned(with_the_class_token),
    "positions interpolated as a line": positioned(as_a_line),
    "positions cut off or repeated": positioned(cut_off),
    "positions bicubic": resized("bicubic"),
    "positions nearest": resized("nearest", None),
    "positions by pixel areas": resized(align_corners=False),
    "positions antialiased": resized(antialias=True),
}
# Wrong at both: the grid is not square.
SWAPPED = {
    "rows and columns of the new grid swapped": positioned(axes_swapped),
    "rows and columns of the old grid swapped": positioned(grid_transposed),
}


def keeps_shape(cls, shape):
    return cls((6, 4), **SMALL)(torch.randn(shape)).shape == (shape[0], 13)


@pytest.mark.parametrize("name", MUTANTS | SWAPPED)
def test_values_catch_it(name):
    with pytest.raises(AssertionError):
        same_values((MUTANTS | SWAPPED)[name], TRAINED)


@pytest.mark.parametrize("name", RESIZED | SWAPPED)
def test_values_at_another_size_catch_it(name):
    with pytest.raises(AssertionError):
        same_values((RESIZED | SWAPPED)[name], OTHER)


@pytest.mark.parametrize("name", RESIZED)
def test_values_at_the_size_of_training_do_not(name):
    same_values(RESIZED[name], TRAINED)


def test_square_pictures_do_not_show_rows_and_columns_swapped():
    """The careless choice: here both axes have the same size."""
    same_values(positioned(axes_swapped), (2, 5, 4, 4), image_size=(4, 4))
    same_values(positioned(axes_swapped), (2, 5, 6, 6), image_size=(4, 4))


@pytest.mark.parametrize("name", MUTANTS | RESIZED | SWAPPED)
def test_shapes_do_not(name):
    cls = (MUTANTS | RESIZED | SWAPPED)[name]
    assert keeps_shape(cls, TRAINED) and keeps_shape(cls, OTHER)


@pytest.mark.parametrize("cls", [
    embedding(lambda vit, z, c, E_pos: torch.cat([c, rows(z)], 1) + E_pos),
    reading(lambda vit, z: vit.norm(z)[:, 0]), attending(right), activated(gelu),
    epsilon(1e-6), resized(),
], ids=["embedding", "reading", "attending", "activated", "epsilon", "resized"])
def test_the_right_one_in_the_mutants_clothes_passes(cls):
    same_values(cls, TRAINED)
    same_values(cls, OTHER)
    same_gradient(cls, TRAINED)


def test_positions_without_gradient_are_seen_by_the_gradient_alone():
    class Detached(ViT):
        def positions(self, h, w):
            E_pos = super().positions(h, w)
            return E_pos.detach() + 0 * E_pos

    same_values(Detached, TRAINED)
    with pytest.raises(AssertionError, match="E_pos"):
        same_gradient(Detached, TRAINED)


def rolled(step, order=1):
    """Another rollout; step(mean over heads, identity) for each layer."""

    def wrong(A):
        eye = torch.eye(A.shape[-1], dtype=A.dtype)
        R = eye.expand(A.shape[1], -1, -1)
        for layer in A:
            a = step(layer, eye)
            R = a @ R if order == 1 else R @ a
        return R

    return wrong


ROLLOUTS = {
    "no residual": rolled(lambda W, eye: W.mean(1)),
    "a whole residual, rows not divided": rolled(lambda W, eye: W.mean(1) + eye),
    "the largest head for the mean": rolled(
        lambda W, eye: 0.5 * W.amax(1) + 0.5 * eye),
    "the sum of heads": rolled(lambda W, eye: 0.5 * W.sum(1) + 0.5 * eye),
    "layers in the wrong order": rolled(
        lambda W, eye: 0.5 * W.mean(1) + 0.5 * eye, order=-1),
    "weights transposed": rolled(lambda W, eye: 0.5 * W.mean(1).mT + 0.5 * eye),
    "the last layer alone": lambda A: 0.5 * A[-1].mean(1) + 0.5 * torch.eye(
        A.shape[-1], dtype=A.dtype),
    "the mean of layers": lambda A: 0.5 * A.mean((0, 2)) + 0.5 * torch.eye(
        A.shape[-1], dtype=A.dtype),
    "the products of heads, then their mean": lambda A: torch.stack(
        [rollout(A[:, :, [h]]) for h in range(A.shape[2])]).mean(0),
}
ROWS_SUM_TO_ONE = {
    "no residual", "layers in the wrong order", "the last layer alone",
    "the mean of layers", "the products of heads, then their mean",
}


@pytest.mark.parametrize("name", ROLLOUTS)
def test_values_catch_a_wrong_rollout(name):
    A = maps(2)
    got = ROLLOUTS[name](A)
    want = torch.stack([torch.tensor(reference.rollout(A[:, i].numpy()))
                        for i in range(2)])
    assert got.shape == want.shape
    assert (got - want).abs().max() > 1e-4
    ones = torch.allclose(got.sum(-1), torch.ones(2, 5, dtype=got.dtype))
    assert ones == (name in ROWS_SUM_TO_ONE), "what the test of rows can see"


def test_the_right_rollout_in_the_mutants_clothes_passes():
    A = some(3, 2, 2, 5, 5).softmax(-1)
    same = rolled(lambda W, eye: 0.5 * W.mean(1) + 0.5 * eye)
    torch.testing.assert_close(same(A), rollout(A))
