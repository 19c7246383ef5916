"""The exercises of the chapter on ViT: other right answers, and near misses."""

import pytest
import torch
from test_check import flat
from torch.nn import functional as F

from cvattn import SE, ViT, rollout
from cvattn.book import check
from cvattn.book.exercises.vit import EXERCISES


def reference(number, *args):
    return EXERCISES[f"vit-{number}"].reference(*args)


def cases(number):
    return EXERCISES[f"vit-{number}"].cases()


def test_other_ways_to_be_right_are_right():
    assert check("vit-1", lambda x, P: F.unfold(x[None], P, stride=P)[0].T)
    assert check("vit-1", lambda x, P: torch.stack([
        x[:, i:i + P, j:j + P].flatten() for i in range(0, x.shape[1], P)
        for j in range(0, x.shape[2], P)]))
    assert check("vit-2", lambda H, W, P: H * W // P**2 + 1)
    assert check("vit-3", lambda x, E, b, c, p: torch.cat(
        [(c + p[0])[None], F.linear(x, E.T, b) + p[1:]]))
    assert check("vit-7", lambda W: rollout(W[:, None])[0])
    assert check("vit-8", lambda h, W2, u: u * torch.stack(
        [torch.zeros(len(u)), (W2 * h).sum(1)]).softmax(0)[1].view(-1, 1, 1))
    assert check("vit-9", lambda z, patches: z[[0, *(1 + patches).tolist()]])
    assert check("vit-10", lambda X, Y: torch.stack(
        [torch.cat([x, y]) for y in Y for x in X]))


def test_the_patches_are_what_the_networks_convolution_reads():
    for x, P in cases(1):
        conv = torch.nn.Conv2d(len(x), 5, P, stride=P)
        words = reference(1, x, P) @ conv.weight.flatten(1).T + conv.bias
        torch.testing.assert_close(words, conv(x[None])[0].flatten(1).T)


def test_positions_and_length_are_the_networks():
    for E_pos, old, new in cases(4):
        vit = ViT(tuple(3 * n for n in old), patch_size=3, dim=E_pos.shape[1],
                  num_heads=1, layers=1, hidden=2)
        vit.E_pos.data = E_pos[None]
        torch.testing.assert_close(reference(4, E_pos, old, new),
                                   vit.positions(*new)[0].detach())
    for H, W, P in cases(2):
        assert reference(2, H, W, P) == ViT(
            (H, W), patch_size=P, dim=2, layers=1, num_heads=1, hidden=1,
        ).E_pos.shape[1]


def test_the_count_is_the_models():
    for C, side, P, D, L, H, K in cases(5):
        with torch.device("meta"):
            model = ViT(side, patch_size=P, dim=D, layers=L, num_heads=1, hidden=H,
                        num_classes=K, in_channels=C)
        assert reference(5, C, side, P, D, L, H, K) == sum(
            p.numel() for p in model.parameters())


def test_the_gate_is_that_of_se():
    torch.manual_seed(0)
    se, u = SE(8, reduction=2), torch.randn(8, 3, 5)
    h = torch.relu(se.W1(u.mean(dim=(1, 2))))
    torch.testing.assert_close(reference(8, h, se.W2.weight, u), se(u[None])[0])


def test_distance_by_loops():
    for A, side, P in cases(6):
        want = []
        for head in A:
            total = 0.0
            for n in range(side * side):
                for m in range(side * side):
                    down, across = n // side - m // side, n % side - m % side
                    total += head[n, m].item() * P * (down**2 + across**2) ** 0.5
            want.append(total / side**2)
        torch.testing.assert_close(reference(6, A, side, P), torch.tensor(want))


def test_the_maps_of_the_cases_are_shares():
    for A, *_ in cases(6):
        torch.testing.assert_close(A.sum(-1), torch.ones(A.shape[:2]))
    for W, in cases(7):
        torch.testing.assert_close(W.sum(-1), torch.ones(W.shape[:3]))
        torch.testing.assert_close(reference(7, W).sum(-1), torch.ones(len(W[0, 0])))


def test_a_class_token_at_the_end_is_named():
    text = flat(check("vit-9", lambda z, patches: torch.cat([z[1 + patches], z[:1]])))
    assert "The class token stands last" in text


def count_without(C, side, P, D, L, H, K):
    N = (side // P) ** 2
    return C * P * P * D + D + (1 + N) * D + L * (
        4 * D * D + 2 * D * H + 4 * D) + 2 * D + D * K


def stretched(E_pos, new, old, **how):
    grid = E_pos[1:].T.reshape(1, -1, *old)
    grid = F.interpolate(grid, new, **how)[0].flatten(1).T
    return torch.cat([E_pos[:1], grid])


@pytest.mark.parametrize("key, answer, told", [
    ("vit-1", lambda x, P: F.unfold(x[None], P, stride=P)[0],
     "Patches and their numbers are exchanged"),
    ("vit-1", lambda x, P: F.unfold(x[None], P)[0].T, "The windows overlap"),
    ("vit-2", lambda H, W, P: H * W // P**2, "The class token is one more"),
    ("vit-3", lambda x, E, b, c, p: torch.cat([c[None], x @ E + b + p[1:]]),
     "The class token has no position"),
    ("vit-4", lambda E_pos, old, new: stretched(
        E_pos, new, old, mode="bicubic", align_corners=True), "as in torchvision"),
    ("vit-4", lambda E_pos, old, new: stretched(
        E_pos, new, old, mode="bicubic", antialias=True), "as in timm"),
    ("vit-5", count_without, "The biases are missing, all of them"),
    ("vit-5", lambda *n: count_without(*n) + 1, "should return"),
    ("vit-6", lambda A, side, P: A.argmax(2).float().mean(1), "are off"),
    ("vit-6", lambda A, side, P: torch.zeros(1, len(A)),
     "should return (5,): (h) with h=5 heads"),
    ("vit-7", lambda W: torch.zeros(len(W)), "with N=5 tokens of the last layer"),
    ("vit-7", lambda W: torch.linalg.multi_dot([
        w.mean(0) / 2 + torch.eye(w.shape[1]) / 2 for w in W]) if len(W) > 1
     else W[0].mean(0), "not yet"),
    ("vit-8", lambda h, W2, u: torch.sigmoid(W2 @ h)[:, None, None] * u,
     "but by way of sigmoid"),
    ("vit-8", lambda h, W2, u: (W2 @ h)[:, None].softmax(1)[..., None] * u,
     "Every share is 1"),
    ("vit-9", lambda z, patches: z[torch.cat([torch.tensor([0]), patches])],
     "off by one"),
    ("vit-9", lambda z, patches: keep_sorted(z, patches), "The patches are sorted"),
    ("vit-10", lambda X, Y: torch.cat(torch.broadcast_tensors(
        X[:, None], Y[None]), 2).flatten(0, 1), "column by column"),
    ("vit-10", lambda X, Y: torch.cat(torch.broadcast_tensors(
        X[None], Y[:, None]), 2), "The patches lie in a grid"),
])
def test_what_a_student_may_also_try_is_wrong_and_told(key, answer, told):
    verdict = check(key, answer)
    assert not verdict and told in flat(verdict)


def keep_sorted(z, patches):
    mask = torch.zeros(len(z), dtype=torch.bool)
    mask[0], mask[1 + patches] = True, True
    return z[mask]
