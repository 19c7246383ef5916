"""The exercises of the Squeeze-and-Excitation chapter, and the mistakes they know."""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvattn.book.exercises.exercise import Exercise, Says, Wrong, rand
from cvattn.book.stats import t_quantile
from cvattn.resnet import cifar_resnet
from cvattn.se import SE

# se-1: squeeze ----------------------------------------------------------------

def squeeze(x):
    return x.mean(dim=(2, 3))


SQUEEZE = Exercise(
    name="squeeze",
    reference=squeeze,
    right="Height and width are gone: one number for each picture and channel.",
    given="x",
    axes="BC",
    cases=lambda: [(rand(3, 5, 7, 11, seed=1),), (rand(2, 13, 5, 3, seed=2),),
                   (rand(1, 6, 2, 4, seed=3),), (rand(4, 1, 3, 2, seed=4),),
                   (300 * rand(2, 3, 1, 1, seed=5),), (rand(1, 1, 4, 3, seed=6) - 9,)],
    wrong=(
        Wrong(
            lambda x: x.sum(dim=(2, 3)),
            "This is the sum of each channel's pixels. A sum grows with the picture, "
            "so the same layers would see other numbers at another size; divide by H "
            "* W.",
        ),
        Wrong(
            lambda x: x.amax(dim=(2, 3)),
            "This is the largest pixel of each channel. The squeeze of Eq. 2 is the "
            "mean; the maximum is what CBAM adds beside it.",
        ),
        Wrong(
            lambda x: x.mean(dim=(2, 3), keepdim=True),
            "The values are right, but the two axes of size 1 are still there: "
            "(B, C, 1, 1). A linear layer works on the last axis, so z has to be "
            "(B, C). Leave out keepdim=True, or flatten.",
        ),
        Wrong(
            lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(),
            "`squeeze()` drops every axis of length 1, and with them the batch axis "
            "where there is one picture, or the channels where there is one. Name the "
            "two axes, squeeze((2, 3)), or flatten(1).",
        ),
        Wrong(
            lambda x: x.flatten(2).median(2).values,
            "This is the median of each channel's pixels. Eq. 2 takes the mean.",
        ),
        Wrong(
            lambda x: x.mean(dim=1),
            "This is the mean over the channels: one number for each pixel. SE keeps "
            "the channels and averages over the pixels, axes 2 and 3.",
        ),
        Wrong(
            lambda x: x.mean(dim=(0, 2, 3)),
            "This mixes the pictures of the batch. Each picture has its own z: keep "
            "axis 0 out of the mean.",
        ),
        Wrong(
            lambda x: x.mean(dim=(1, 2, 3)),
            "This is one number for each picture: the channels went too. Keep axis 1 "
            "out of the mean.",
        ),
        Wrong(
            lambda x: x.mean(dim=2),
            "The rows are averaged, the columns are still there. Name both axes: "
            "dim=(2, 3).",
        ),
        Wrong(
            lambda x: x.mean(dim=3),
            "The columns are averaged, the rows are still there. Name both axes: "
            "dim=(2, 3).",
        ),
        Wrong(
            lambda x: x.mean(dim=(1, 2)),
            "Axes 1 and 2 would be height and width if the channels came last. Here "
            "they come second, (B, C, H, W): average over axes 2 and 3.",
        ),
        Wrong(
            lambda x: x.mean(),
            "This is one number for the whole batch. Say over which axes to average.",
        ),
    ),
)


# se-2: count ------------------------------------------------------------------

def count(channels, reduction, bias):
    hidden = channels // reduction
    return 2 * channels * hidden + (hidden + channels if bias else 0)


COUNT = Exercise(
    name="count",
    reference=count,
    right="Two matrices, C x C/r and C/r x C: the count is 2 C^2 / r, and halves when "
    "r doubles. The biases, C/r + C, hardly show.",
    given="channels reduction bias",
    cases=lambda: [
        (64, 16, False), (256, 8, False), (30, 5, False), (64, 16, True), (30, 5, True),
        (8, 8, True), (7, 1, False), (7, 1, True),
    ],
    wrong=(
        Wrong(
            lambda c, r, bias: c * (c // r) + (c // r if bias else 0),
            "This is the first layer alone. The gate has a second one, back from C/r "
            "to C.",
        ),
        Wrong(
            lambda c, r, bias: 2 * c * c + (2 * c if bias else 0),
            "This has no bottleneck: the hidden layer has C/r units, not C.",
        ),
        Wrong(
            lambda c, r, bias: c * c // r // r + c + (c // r if bias else 0),
            "The hidden layer meets all C channels on both sides, so each matrix has "
            "C * C/r entries, not (C/r)^2 and not C.",
        ),
        Wrong(
            lambda c, r, bias: 2 * (c // r) ** 2 + (2 * (c // r) if bias else 0),
            "Only the hidden side is divided by r. Each matrix has C * C/r entries, "
            "not (C/r)^2.",
        ),
        Wrong(
            lambda c, r, bias: 2 * c * (c // r) + c // r + c,
            "The biases are counted although bias=False. The paper's Eq. 3 has none.",
        ),
        Wrong(
            lambda c, r, bias: 2 * c * (c // r),
            "Right without biases; with bias=True each layer adds one number for each "
            "of its outputs.",
        ),
        Wrong(
            lambda c, r, bias: 2 * c * (c // r) + (2 * c if bias else 0),
            "Right without biases. A layer has as many biases as outputs: C/r in the "
            "first layer, C in the second, not C twice.",
        ),
        Wrong(
            lambda c, r, bias: 2 * c * (c // r) + (2 * (c // r) if bias else 0),
            "Right without biases. A layer has as many biases as outputs: C/r in the "
            "first layer, C in the second, not C/r twice.",
        ),
        Wrong(
            lambda c, r, bias: 2 * c * (c // r) + (2 if bias else 0),
            "Right without biases. A bias is not one number for each layer, but one "
            "for each of its outputs: C/r in the first, C in the second.",
        ),
        Wrong(
            lambda c, r, bias: c * c // r**2 + (c // r + c if bias else 0),
            "The two divisions by r are multiplied. Each of the two matrices has C * "
            "C/r entries; add them.",
        ),
        Wrong(
            lambda c, r, bias: 2 * c * (c // r) + (c if bias else 0),
            "The second layer's biases are there, the first layer's C/r are missing.",
        ),
        Wrong(
            lambda c, r, bias: 2 * c * (c // r) + (c // r if bias else 0),
            "The first layer's biases are there, the second layer's C are missing.",
        ),
    ),
)


# se-3: excite -----------------------------------------------------------------

def excite(z, W1, W2):
    return torch.sigmoid(torch.relu(z @ W1.T) @ W2.T)


def exponentials(z, W1, W2):
    e = (torch.relu(z @ W1.T) @ W2.T).exp()
    return e / (1 + e)


EXCITE = Exercise(
    name="excite",
    reference=excite,
    right="Every gate lies between 0 and 1, and no gate has to fall for another to "
    "rise.",
    given="z W1 W2",
    axes="BC",
    cases=lambda: [
        (rand(3, 10, seed=3), rand(2, 10, seed=4), rand(10, 2, seed=5)),
        (rand(2, 21, seed=6), rand(7, 21, seed=7), rand(21, 7, seed=8)),
        (rand(1, 6, seed=6), rand(3, 6, seed=7), rand(6, 3, seed=8)),
        (rand(4, 5, seed=6), rand(1, 5, seed=7), rand(5, 1, seed=8)),
        (30 * rand(3, 4, seed=6), 9 * rand(2, 4, seed=7), 9 * rand(4, 2, seed=8)),
    ],
    wrong=(
        Wrong(
            lambda z, W1, W2: torch.softmax(torch.relu(z @ W1.T) @ W2.T, dim=1),
            "This is a softmax over the channels. Its gates sum to 1, so one channel "
            "opens only by closing others. SE wants many open at once: a sigmoid for "
            "each.",
        ),
        Wrong(
            lambda z, W1, W2: torch.softmax(torch.relu(z @ W1.T) @ W2.T, dim=0),
            "This is a softmax over the batch: one picture's gates depend on who "
            "stands beside it. Use a sigmoid for each value.",
        ),
        Wrong(
            lambda z, W1, W2: torch.relu(z @ W1.T) @ W2.T,
            "The sigmoid is missing: these are the logits, which can be negative or "
            "far above 1.",
        ),
        Wrong(
            lambda z, W1, W2: torch.sigmoid(z @ W1.T @ W2.T),
            "There is no ReLU between the two layers. Without it they are one matrix, "
            "W2 W1, of rank C/r at most.",
        ),
        Wrong(
            lambda z, W1, W2: torch.sigmoid(torch.relu(torch.relu(z @ W1.T) @ W2.T)),
            "A ReLU stands right before the sigmoid. Then no logit is negative and no "
            "gate goes below one half: the gate can never close.",
        ),
        Wrong(
            lambda z, W1, W2: torch.sigmoid(torch.relu(z @ W1.T @ W2.T)),
            "The ReLU stands after the second layer. It belongs between the two; where "
            "it is, no gate can go below one half.",
        ),
        Wrong(
            lambda z, W1, W2: torch.sigmoid(torch.relu(z) @ W1.T @ W2.T),
            "The ReLU is applied to z, and so in front of both layers. It belongs "
            "between them: relu(W1 z).",
        ),
        Wrong(
            lambda z, W1, W2: torch.sigmoid(torch.sigmoid(z @ W1.T) @ W2.T),
            "There is a sigmoid after the first layer. Eq. 3 has a ReLU there, and the "
            "sigmoid only at the end.",
        ),
        Wrong(
            lambda z, W1, W2: torch.tanh(torch.relu(z @ W1.T) @ W2.T),
            "This is a tanh, which runs from -1 to 1 and can flip a channel's sign. A "
            "sigmoid stays between 0 and 1.",
        ),
        Wrong(
            lambda z, W1, W2: excite(z, W1, W2) * z,
            "This is z, weighed by the gates. The gates themselves are asked for.",
        ),
        Wrong(
            lambda z, W1, W2: torch.sigmoid((z @ W1.T).abs() @ W2.T),
            "Between the layers the sign is dropped, as by abs. A ReLU makes 0 of what "
            "is negative.",
        ),
        Wrong(
            lambda z, W1, W2: torch.sigmoid(F.gelu(z @ W1.T) @ W2.T),
            "There is a GELU between the layers. Eq. 3 has a ReLU.",
        ),
        Wrong(
            lambda z, W1, W2: exponentials(z, W1, W2),
            "e^a / (1 + e^a) is infinity over infinity, NaN, where the score a is "
            "large. 1 / (1 + e^-a) is not, and torch.sigmoid cares for both ends.",
        ),
        Wrong(
            lambda z, W1, W2: excite(z, W1, W2).squeeze(),
            "The values are right, but `squeeze()` drops the batch axis where there is "
            "one picture. s is (B, C), whatever B.",
        ),
        Wrong(
            lambda z, W1, W2: excite(z, W1, W2)[:, :, None, None],
            "The values are right. The two new axes belong to the next step, the "
            "scaling; here s is (B, C).",
        ),
        Wrong(
            lambda z, W1, W2: excite(z, W1, W2).T,
            "The values are right, but rows and columns are exchanged: the pictures go "
            "down, the channels across. Write z @ W1.T rather than W1 @ z.T.",
        ),
        Wrong(
            lambda z, W1, W2: torch.sigmoid(torch.relu(z @ W1) @ W2),
            "The shapes do not fit. W1 is stored as nn.Linear stores it, (outputs, "
            "inputs) = (C/r, C), so the layer is z @ W1.T.",
        ),
        Wrong(
            lambda z, W1, W2: torch.sigmoid(torch.relu(W1 @ z) @ W2),
            "The shapes do not fit. z holds one picture a row, (B, C), so the matrix "
            "stands on its right, transposed: z @ W1.T.",
        ),
        Wrong(
            lambda z, W1, W2: torch.sigmoid(torch.relu(z @ W2) @ W1),
            "The shapes fit, but the layers are exchanged, and untransposed. W1, (C/r, "
            "C), comes first, as z @ W1.T; W2 leads back to C.",
        ),
    ),
)


# se-4: repair -----------------------------------------------------------------

class Repaired(nn.Module):
    def __init__(self, channels, reduction):
        super().__init__()
        if channels % reduction:
            raise ValueError(
                "channels must be a multiple of reduction, "
                f"got channels={channels}, reduction={reduction}"
            )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.W1 = nn.Linear(channels, channels // reduction, bias=False)
        self.W2 = nn.Linear(channels // reduction, channels, bias=False)

    def mlp(self, z):
        return self.W2(torch.relu(self.W1(z)))

    def forward(self, x):
        batch, channels, height, width = x.shape
        z = self.pool(x).view(batch, channels)
        s = torch.sigmoid(self.mlp(z))
        return x * s.view(batch, channels, 1, 1)


def repaired(forward):
    """Return the right class with another forward: one mistake alone."""
    return type("Repaired", (Repaired,), {"forward": forward})


class Narrow(Repaired):
    def __init__(self, channels, reduction):
        nn.Module.__init__(self)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.W1 = nn.Linear(channels, channels // reduction, bias=False)
        self.W2 = nn.Linear(channels // reduction, channels, bias=False)


class Halfway(Narrow):
    def __init__(self, channels, reduction):
        if channels < reduction:
            raise ValueError("channels must not be below reduction")
        super().__init__(channels, reduction)


def run_repaired(answer, channels, reduction, x):
    if not isinstance(answer, type):
        raise Says("Hand over the class Repaired itself, not a module built from it.")
    module = answer(channels, reduction=reduction)
    hidden = channels // reduction
    with torch.no_grad():
        try:
            module.W1.weight.copy_(rand(hidden, channels, seed=9))
            module.W2.weight.copy_(rand(channels, hidden, seed=10))
        except (AttributeError, RuntimeError):
            raise Says(
                "Keep the two layers' names and sizes, so that weights can be loaded: "
                "W1 from C to C/r, W2 from C/r to C. Did __init__ call "
                "super().__init__()?"
            ) from None
        if module.W1.bias is not None or module.W2.bias is not None:
            raise Says("W1 or W2 has a bias now. Keep bias=False, as the paper has it.")
        return module(x)



def se1(self, x):
    batch, channels, height, width = x.view()
    return Repaired.forward(self, x)


def se2(self, x):
    batch, channels, width = x.shape
    return Repaired.forward(self, x)


def se3(self, x):
    batch, channels, height, width = x.shape
    z = self.pool(x)
    z = x.view(batch, channels)
    return x * torch.sigmoid(self.mlp(z))[:, :, None, None]


def se3_long(self, x):
    z = self.pool(x)
    z = x.flatten(1)
    return x * torch.sigmoid(self.mlp(z))[:, :, None, None]


def se4(self, x):
    return x * torch.sigmoid(self.mlp(x))


def squeezed(self, x):
    return torch.sigmoid(self.mlp(x.mean(dim=(2, 3))))


REPAIRED = Exercise(
    name="Repaired",
    reference=Repaired,
    right="Every line now reads what the line above it made, and a bottleneck without "
    "units is refused.",
    given="channels reduction x",
    axes="BCHW",
    call=run_repaired,
    refuses=lambda channels, reduction, x: channels % reduction > 0,
    cases=lambda: [
        (10, 2, rand(3, 10, 5, 7, seed=11)),
        (6, 3, rand(5, 6, 5, 6, seed=12)),
        (8, 16, rand(2, 8, 3, 5, seed=13)),
        (12, 8, rand(2, 12, 3, 5, seed=13)),
        (4, 4, rand(1, 4, 3, 2, seed=13)),
        (9, 3, 300 * rand(2, 9, 1, 1, seed=13)),
    ],
    wrong=(
        Wrong(
            repaired(se1),
            "x.view() asks for a new shape and is given none. To read the shape, write "
            "x.shape.",
        ),
        Wrong(
            repaired(se2),
            "A feature map has four axes, (B, C, H, W), and three names are waiting "
            "for them.",
        ),
        Wrong(
            repaired(se3),
            "The pooled vector is made and then thrown away: the view reads x again, "
            "which has H * W times too many numbers. View z.",
        ),
        Wrong(
            repaired(se3_long),
            "The pooled vector is made and then thrown away: x itself is flattened, to "
            "C * H * W numbers a picture. Flatten z.",
        ),
        Wrong(
            repaired(se4),
            "The linear layers read x, not z. They work on the last axis, the width: "
            "where W differs from C they stop, and where W equals C they run along the "
            "wrong axis without a word.",
        ),
        Wrong(
            repaired(lambda self, x: x * torch.sigmoid(
                self.mlp(x.sum((2, 3))))[:, :, None, None]),
            "The pool is a sum here. self.pool takes the mean, so that the gates do "
            "not depend on the size of the map.",
        ),
        Wrong(
            repaired(lambda self, x: x * torch.softmax(
                self.mlp(x.mean((2, 3))), 1)[:, :, None, None]),
            "The gates are a softmax over the channels. Broken has a sigmoid, and so "
            "has the paper.",
        ),
        Wrong(
            repaired(lambda self, x: x * (1 + squeezed(self, x)[:, :, None, None])),
            "x is added: the factor is 1 + s. SE multiplies by s alone.",
        ),
        Wrong(
            repaired(lambda self, x: x * torch.sigmoid(x)),
            "The sigmoid reads x, so pooling and both layers are computed for nothing: "
            "each pixel is its own gate. Give the sigmoid what the second layer made.",
        ),
        Wrong(
            repaired(lambda self, x: x * torch.sigmoid(x.mean((2, 3), keepdim=True))),
            "The gate is the sigmoid of the mean: W1 and W2 are never asked.",
        ),
        Wrong(
            repaired(lambda self, x: x * squeezed(self, x)[:, :, None, None] ** 2),
            "The gate is applied twice: x * s * s. Once is enough; s is the factor.",
        ),
        Wrong(
            repaired(lambda self, x: x * squeezed(self, x)),
            "The gate (B, C) meets x (B, C, H, W) without its two new axes. "
            "Broadcasting counts from the right, so B lands on the rows and C on the "
            "columns: as a rule it stops, and where H = B and W = C it weighs pixels "
            "in silence. Write s[:, :, None, None].",
        ),
        Wrong(
            repaired(lambda self, x: squeezed(self, x)[:, :, None, None]),
            "This returns the gate. The last step is missing: x times the gate.",
        ),
        Wrong(
            repaired(lambda self, x: x + squeezed(self, x)[:, :, None, None]),
            "The gate is added. It is a factor: x * s.",
        ),
        Wrong(
            repaired(lambda self, x: x.mean((2, 3)) * squeezed(self, x)),
            "The gate weighs z, the pooled vector. It should weigh the feature map x.",
        ),
        Wrong(
            repaired(lambda self, x: x * self.mlp(x.mean((2, 3)))[:, :, None, None]),
            "The sigmoid is lost: the factors are logits, and some are negative.",
        ),
        Wrong(
            repaired(lambda self, x: x * torch.sigmoid(
                self.W2(self.W1(x.mean((2, 3)))))[:, :, None, None]),
            "The ReLU between the two layers is lost.",
        ),
        Wrong(
            repaired(lambda self, x: x * torch.sigmoid(
                self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))[:, :, None, None]),
            "This adds a second branch, from the maximum, through the same layers. "
            "That is CBAM's channel attention, and not the same as SE, which has the "
            "mean alone.",
        ),
        Wrong(
            repaired(lambda self, x: x * torch.sigmoid(x.mean(1, keepdim=True))),
            "This weighs places: one gate a pixel, shared by all channels. Channel "
            "attention weighs channels: one gate a channel, shared by all places.",
        ),
        Wrong(
            Narrow,
            "The forward pass is repaired; one silent defect is left, in __init__. "
            "With fewer channels than reduction the hidden layer has channels // "
            "reduction = 0 units, and every gate is one half. Raise a ValueError "
            "where channels is not a multiple of reduction.",
        ),
        Wrong(
            Halfway,
            "It refuses fewer channels than reduction, but still builds 12 channels "
            "with reduction 8, where 12 // 8 silently becomes 1. The rule is: channels "
            "must be a multiple of reduction.",
        ),
    ),
)


# se-5: weight_gradient --------------------------------------------------------

def weight_gradient(x, W1, W2, g, *, slope=lambda s: s * (1 - s), mask=True,
                    total=torch.sum,
                    gather=lambda g, x: (g * x).sum(dim=(2, 3))):
    """Return dL/dW1; the switches spoil one step each, for the wrong answers."""
    z = x.mean(dim=(2, 3))
    u = z @ W1.T
    s = torch.sigmoid(torch.relu(u) @ W2.T)
    ds = gather(g, x)
    da = ds * slope(s)
    du = da @ W2
    du = du * (u > 0) if mask else du
    return total(du[:, :, None] * z[:, None, :], dim=0)


def gradient_cases():
    d = torch.float64
    return [
        (rand(3, 10, 5, 7, seed=14, dtype=d), rand(2, 10, seed=15, dtype=d),
         rand(10, 2, seed=16, dtype=d), rand(3, 10, 5, 7, seed=17, dtype=d)),
        (rand(2, 6, 3, 4, seed=18, dtype=d), rand(3, 6, seed=19, dtype=d),
         rand(6, 3, seed=20, dtype=d), rand(2, 6, 3, 4, seed=21, dtype=d)),
        (rand(1, 5, 2, 3, seed=18, dtype=d), rand(1, 5, seed=19, dtype=d),
         rand(5, 1, seed=20, dtype=d), rand(1, 5, 2, 3, seed=21, dtype=d)),
        (3 * rand(4, 3, 1, 2, seed=18, dtype=d), 5 * rand(3, 3, seed=19, dtype=d),
         9 * rand(3, 3, seed=20, dtype=d), 300 * rand(4, 3, 1, 2, seed=21, dtype=d)),
    ]


def gates(x, W1, W2):
    return excite(squeeze(x), W1, W2)



GRADIENT = Exercise(
    name="weight_gradient",
    reference=lambda x, W1, W2, g: weight_gradient(x, W1, W2, g),
    right="Every picture adds its share, dh times z, to the one matrix they all use.",
    given="x W1 W2 g",
    axes="DC",
    without=("autograd",),
    cases=gradient_cases,
    wrong=(
        Wrong(
            partial(weight_gradient, slope=lambda s: 1),
            "The sigmoid's slope is missing: ds/da = s (1 - s).",
        ),
        Wrong(
            partial(weight_gradient, slope=lambda s: s),
            "For the sigmoid's slope you multiply by s. It is s (1 - s): the slope "
            "vanishes where the gate is open, too.",
        ),
        Wrong(
            partial(weight_gradient, mask=False),
            "The ReLU's slope is missing: where W1 z is not positive, nothing passes.",
        ),
        Wrong(
            partial(weight_gradient, slope=lambda s: 1, mask=False),
            "Both slopes are missing: the sigmoid's s (1 - s), and the ReLU's, which "
            "is 0 where W1 z is not positive.",
        ),
        Wrong(
            partial(weight_gradient, total=torch.mean),
            "This is the mean over the batch. All pictures use the same W1, so their "
            "shares add up: a sum.",
        ),
        Wrong(
            lambda *args: weight_gradient(*args).T,
            "Right numbers, lying down: this is the transpose. dL/dW1 has the shape of "
            "W1, (C/r, C).",
        ),
        Wrong(
            partial(weight_gradient, gather=lambda g, x: g.sum(dim=(2, 3))),
            "dL/ds is the sum of g * x over the channel's pixels, since y = s x. Here "
            "x is missing in the sum.",
        ),
        Wrong(
            partial(weight_gradient, gather=lambda g, x: (g * x).mean(dim=(2, 3))),
            "dL/ds is a sum over the channel's pixels: one s serves them all. Here it "
            "is a mean, so the result is H W times too small.",
        ),
        Wrong(
            partial(weight_gradient, gather=lambda g, x:
                    (g * x).sum(dim=(0, 2, 3), keepdim=True)[:, :, 0, 0]),
            "The sum for dL/ds runs over the batch as well. A picture's gate serves "
            "that picture alone.",
        ),
        Wrong(
            lambda *args: -weight_gradient(*args),
            "The sign is turned: this is the step of descent, not the gradient.",
        ),
        Wrong(
            lambda x, W1, W2, g: weight_gradient(x, W1, W2, g, gather=lambda g, x: (
                g * x).sum(dim=(2, 3)) * gates(x, W1, W2)),
            "dL/ds is multiplied by s once more. Since y = s x, it is the sum of g * x "
            "over the pixels, and s comes in with the sigmoid's slope only.",
        ),
        Wrong(
            lambda x, W1, W2, g: weight_gradient(x, W1, W2, g)
            * (x.shape[2] * x.shape[3]),
            "This is H W times too large: what W1 multiplies is z, the mean of the "
            "pixels, not their sum.",
        ),
    ),
)


# se-6: twins ------------------------------------------------------------------

def twins():
    a = torch.zeros(1, 1, 6, 6)
    a[..., ::2] = 1.0
    kernel = torch.tensor([[[[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]])
    return a, a.transpose(2, 3), kernel


def seen(x: Tensor, kernel: Tensor) -> float:
    return torch.relu(F.conv2d(x, kernel)).mean().item()


THREE = "Return three tensors: a, b, kernel."
SHAPES = "The shapes do not fit: a and b are both (1, C, H, W), kernel is (1, C, 3, 3)."
NO_ROOM = "The maps need at least 3 rows and 3 columns, or the kernel has no place."
NOT_FINITE = "There is a NaN or an infinity in a, b or kernel. Use plain numbers."
IDENTICAL = "a and b are the same map, which nothing can tell apart. Move some pixels."
OTHER_MEANS = (
    "a and b have different channel means, so SE sees different z and can tell them "
    "apart. Only move pixels about within their channel."
)
OTHER_VALUES = (
    "The channel means agree, so SE cannot tell a from b; but b holds other values "
    "than a, and a maximum or a histogram could. Make b a reordering of a's pixels."
)
BLIND = (
    "b is a reordering of a, and SE is blind to it. But so is this kernel: the mean of "
    "relu(conv(a)) is that of relu(conv(b)). It needs weights of both signs, and they "
    "must meet what differs: on stripes one pixel wide, pixels two apart are equal and "
    "cancel, so compare neighbours."
)


def judge_twins(value):
    if not isinstance(value, (tuple, list)) or len(value) != 3:
        return THREE
    if not all(isinstance(t, Tensor) for t in value):
        return THREE
    a, b, kernel = (t.detach().double() for t in value)
    if a.ndim != 4 or a.shape[0] != 1 or b.shape != a.shape:
        return SHAPES
    if kernel.shape != (1, a.shape[1], 3, 3):
        return SHAPES
    if min(a.shape[2:]) < 3:
        return NO_ROOM
    if not all(torch.isfinite(t).all() for t in (a, b, kernel)):
        return NOT_FINITE
    if torch.equal(a, b):
        return IDENTICAL
    if not torch.allclose(squeeze(a), squeeze(b), atol=1e-6):
        return OTHER_MEANS
    values = [t.flatten(2).sort(dim=2).values for t in (a, b)]
    if not torch.allclose(*values, atol=1e-6):
        return OTHER_VALUES
    one, other = seen(a, kernel), seen(b, kernel)
    return BLIND if abs(one - other) <= 1e-4 * max(one, other, 1e-9) else None


TWINS = Exercise(
    name="twins",
    reference=twins,
    right="The same pixels in another order: z agrees, so every SE gives both the same "
    "gates, and a 3x3 convolution sees the difference.",
    given="",
    judge=judge_twins,
    wrong=(
        Wrong(lambda: twins()[:2], THREE),
        Wrong(lambda: (*twins()[:2], torch.ones(1, 1, 1, 1)), SHAPES),
        Wrong(
            lambda: (torch.eye(2)[None, None], torch.eye(2).flip(0)[None, None],
                     twins()[2]),
            NO_ROOM,
        ),
        Wrong(lambda: (*twins()[:2], twins()[2] / 0), NOT_FINITE),
        Wrong(lambda: (twins()[0], twins()[0].clone(), twins()[2]), IDENTICAL),
        Wrong(lambda: (twins()[0], 2 * twins()[1], twins()[2]), OTHER_MEANS),
        Wrong(
            lambda: (twins()[0], torch.full((1, 1, 6, 6), 0.5), twins()[2]),
            OTHER_VALUES,
        ),
        Wrong(lambda: (*twins()[:2], torch.ones(1, 1, 3, 3)), BLIND),
    ),
)


# se-7: budget -----------------------------------------------------------------

STAGES = {2: (256, 3), 3: (512, 4), 4: (1024, 6), 5: (2048, 3)}


def added(reduction, stages, *, table=STAGES, once=False, bias=False, layers=2):
    """Return SE's parameters; the switches make the wrong answers."""
    total = 0
    for stage in stages:
        channels, blocks = table[stage]
        one = layers * channels * (channels // reduction)
        one += channels // reduction + channels if bias else 0
        total += one * (1 if once else blocks)
    return total


def per_stage(width, blocks):
    return {s: (width(c), blocks(n)) for s, (c, n) in STAGES.items()}


BUDGET = Exercise(
    name="added",
    reference=lambda reduction, stages: added(reduction, stages),
    right="A million at r = 16 pays for stages 2, 3 and 4 together (942,080), and not "
    "for stage 5, whose three blocks alone cost 1,572,864.",
    given="reduction stages",
    cases=lambda: [
        (16, (2,)), (16, (3,)), (16, (4,)), (16, (5,)), (16, (2, 3, 4, 5)),
        (4, (3, 4)), (32, (2, 5)), (16, ()), (8, (5, 3)), (1, (2,)),
    ],
    wrong=(
        Wrong(
            partial(added, table=per_stage(lambda c: c // 4, lambda n: n)),
            "These are the widths inside the bottleneck, 64 to 512. SE stands after "
            "the block's last convolution, which has four times as many channels: 256 "
            "to 2048.",
        ),
        Wrong(
            partial(added, once=True),
            "This is one SE a stage. Every block has its own: 3, 4, 6 and 3 of them.",
        ),
        Wrong(
            partial(added, bias=True),
            "This counts biases. The paper's later models, and this exercise, have "
            "none.",
        ),
        Wrong(
            partial(added, layers=1),
            "This is half: each SE has two matrices, W1 and W2.",
        ),
        Wrong(
            lambda reduction, stages: added(
                reduction, stages,
                table={s: (c, {2: 3, 3: 4, 4: 23, 5: 3}[s])
                       for s, (c, n) in STAGES.items()}),
            "The third of the four stages has 23 blocks here. That is ResNet-101; "
            "ResNet-50 has 6.",
        ),
        Wrong(
            partial(added, table=per_stage(lambda c: c, lambda n: 3)),
            "This gives every stage 3 blocks. ResNet-50 has 3, 4, 6 and 3.",
        ),
        Wrong(
            lambda reduction, stages: added(reduction, STAGES),
            "This adds all four stages, whichever are asked for.",
        ),
        Wrong(
            lambda reduction, stages: added(
                reduction, stages, table={1: (256, 3), 2: (512, 4), 3: (1024, 6),
                                          4: (2048, 3), 5: (4096, 3)}),
            "The stages are off by one. The paper calls the stem stage 1, so the "
            "blocks with 256 channels are stage 2, torchvision's layer1.",
        ),
        Wrong(
            lambda reduction, stages: added(1, stages),
            "The reduction is not used: the hidden layer has C / r units.",
        ),
    ),
)


# se-8: swap -------------------------------------------------------------------

def swap(block, x, donor):
    gate = block.attention.gate(block.residual(donor))
    return torch.relu(block.shortcut(x) + block.residual(x) * gate)


def swap_cases():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(58)
        net = cifar_resnet(partial(SE, reduction=2), depth=8, width=(8, 12, 12))
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                nn.init.uniform_(m.running_mean, -1, 1)
                nn.init.uniform_(m.running_var, 0.5, 2)
                nn.init.uniform_(m.weight, 0.5, 2)
            if isinstance(m, SE):
                nn.init.normal_(m.W1.weight)
                nn.init.normal_(m.W2.weight)
    net.eval()
    return [
        (net.layer1[0], rand(3, 8, 7, 5, seed=23), 2 * rand(3, 8, 7, 5, seed=24)),
        (net.layer2[0], rand(2, 8, 9, 7, seed=25), 2 * rand(2, 8, 9, 7, seed=26)),
        (net.layer3[0], rand(1, 12, 4, 6, seed=27), 2 * rand(1, 12, 4, 6, seed=28)),
    ]


def halves(block, x, donor):
    """Return shortcut, residual and the two gates, from x and from the donor."""
    u, v = block.residual(x), block.residual(donor)
    return block.shortcut(x), u, block.attention.gate(u), block.attention.gate(v)


def swapped(formula):
    return lambda block, x, donor: formula(*halves(block, x, donor))


SWAP = Exercise(
    name="swap",
    reference=swap,
    right="The content is x's, the weighing is the donor's.",
    given="block x donor",
    axes="BCHW",
    cases=swap_cases,
    wrong=(
        Wrong(
            lambda block, x, donor: block(x),
            "This is the block as it is, with x's own gate. The gate should come from "
            "the donor.",
        ),
        Wrong(
            lambda block, x, donor: block(donor),
            "This is the donor's own output. Only the gate should come from it.",
        ),
        Wrong(
            lambda block, x, donor: swap(block, donor, x),
            "The roles are exchanged: this is the donor's content with x's gate.",
        ),
        Wrong(
            swapped(lambda i, u, own, gate: torch.relu(i + u) * gate),
            "The gate weighs the sum, the shortcut with it. (After the ReLU or before "
            "it is the same, since a gate is positive.) At the standard place it "
            "weighs the residual branch alone.",
        ),
        Wrong(
            swapped(lambda i, u, own, gate: torch.relu(i + u * own * gate)),
            "Both gates are applied, x's own and the donor's. Swap, do not add: read "
            "block.residual(x), which has no gate on it yet.",
        ),
        Wrong(
            swapped(lambda i, u, own, gate: torch.relu(i * gate + u)),
            "The gate weighs the shortcut. It belongs on the residual branch.",
        ),
        Wrong(
            lambda block, x, donor: torch.relu(
                block.shortcut(donor)
                + block.attention.gate(block.residual(donor)) * block.residual(x)),
            "The shortcut is the donor's. Only the gate comes from the donor; shortcut "
            "and residual are x's.",
        ),
        Wrong(
            swapped(lambda i, u, own, gate:
                    torch.relu(i + u * gate[:, :, None, None])),
            "The gate got two axes too many: block.attention.gate(u) is (B, C, 1, 1) "
            "already, ready to multiply.",
        ),
        Wrong(
            swapped(lambda i, u, own, gate: torch.relu(u * gate)),
            "The shortcut is missing: add block.shortcut(x) before the ReLU.",
        ),
        Wrong(
            swapped(lambda i, u, own, gate: i + u * gate),
            "The block's last ReLU is missing.",
        ),
        Wrong(
            swapped(lambda i, u, own, gate: torch.relu(i + u)),
            "There is no gate at all: this is the plain block.",
        ),
        Wrong(
            swapped(lambda i, u, own, gate: torch.relu(i + u / 2)),
            "Every gate is a half, whatever the donor.",
        ),
        Wrong(
            swapped(lambda i, u, own, gate: torch.relu(
                i + u * gate.mean(0, keepdim=True))),
            "The donors' gates are averaged over the batch. Each picture has a donor "
            "of its own, the one at its place.",
        ),
        Wrong(
            swapped(lambda i, u, own, gate: torch.relu(i + u * gate.flip(0))),
            "The donors come in the reverse order. Picture n gets the gates of donor "
            "n.",
        ),
        Wrong(
            swapped(lambda i, u, own, gate: torch.relu(i + u * (gate + own) / 2)),
            "The two gates are averaged. The donor's alone is asked for.",
        ),
        Wrong(
            swapped(lambda i, u, own, gate: gate),
            "This is the donor's gate. It still has to weigh the residual branch of x.",
        ),
        Wrong(
            lambda block, x, donor: torch.relu(
                block.shortcut(x) + block.residual(x) * block.attention.gate(donor)),
            "The gate is computed from the donor as it enters the block. SE looks at "
            "the residual branch: block.residual(donor).",
        ),
        Wrong(
            lambda block, x, donor: torch.relu(
                block.shortcut(x) + block.attention(block.residual(donor))),
            "The whole residual branch is the donor's. Take its gate only, with "
            "block.attention.gate.",
        ),
    ),
)


# se-9: places -----------------------------------------------------------------

def block_forward(place, residual, shortcut, attention, x):
    if place == "standard":
        return torch.relu(shortcut(x) + attention(residual(x)))
    if place == "pre":
        return torch.relu(shortcut(x) + residual(attention(x)))
    if place == "post":
        return attention(torch.relu(shortcut(x) + residual(x)))
    if place == "identity":
        return torch.relu(attention(shortcut(x)) + residual(x))
    raise ValueError(
        f"place must be standard, pre, post or identity, got {place!r}"
    )


def block_but(**changed):
    """Return block_forward with other formulas at some places."""
    def answer(place, residual, shortcut, attention, x):
        if place in changed:
            return changed[place](residual, shortcut, attention, x)
        return block_forward(place, residual, shortcut, attention, x)
    return answer


def place_as(**other):
    return lambda place, *rest: block_forward(other.get(place, place), *rest)


def place_cases():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(27)
        residual = nn.Conv2d(6, 6, 3, padding=1)
        shortcut = nn.Conv2d(6, 6, 1)
        attention = SE(6, reduction=2)
        nn.init.normal_(attention.W1.weight)
        nn.init.normal_(attention.W2.weight)
    x, one = rand(3, 6, 7, 5, seed=28), 30 * rand(1, 6, 2, 3, seed=29)
    places = ("standard", "pre", "post", "identity")
    return [(place, residual, shortcut, attention, x) for place in (
        *places, "sideways")] + [
        (place, residual, shortcut, attention, one) for place in places]





PLACES = Exercise(
    name="block_forward",
    reference=block_forward,
    right="Four places, one module: only the order of the calls differs.",
    given="place residual shortcut attention x",
    axes="BCHW",
    refuses=lambda place, *rest: place == "sideways",
    cases=place_cases,
    wrong=(
        Wrong(
            place_as(pre="standard", post="standard", identity="standard"),
            "This is the standard place, whatever `place` says.",
        ),
        Wrong(
            block_but(pre=lambda r, c, a, x: torch.relu(c(a(x)) + r(a(x)))),
            "'pre' weighs what enters the residual branch. Here the shortcut gets the "
            "weighed x too; it should get x as it came.",
        ),
        Wrong(
            block_but(post=lambda r, c, a, x: torch.relu(a(c(x) + r(x)))),
            "'post' stands after the ReLU. Here it stands before, so it averages the "
            "negative values as well and gives other gates.",
        ),
        Wrong(
            block_but(identity=lambda r, c, a, x: torch.relu(c(a(x)) + r(x))),
            "'identity' weighs what comes out of the shortcut: attention(shortcut(x)), "
            "not shortcut(attention(x)).",
        ),
        Wrong(
            block_but(identity=lambda r, c, a, x: torch.relu(a(c(x)) + a(r(x)))),
            "'identity' weighs the shortcut alone; here the residual branch is weighed "
            "too.",
        ),
        Wrong(
            place_as(standard="identity", identity="standard"),
            "'standard' and 'identity' are exchanged: the standard place is on the "
            "residual branch.",
        ),
        Wrong(
            place_as(pre="post", post="pre"),
            "'pre' and 'post' are exchanged: 'pre' stands before the residual branch, "
            "'post' after the sum.",
        ),
        Wrong(
            block_but(
                standard=lambda r, c, a, x: c(x) + a(r(x)),
                pre=lambda r, c, a, x: c(x) + r(a(x)),
                post=lambda r, c, a, x: a(c(x) + r(x)),
                identity=lambda r, c, a, x: a(c(x)) + r(x),
            ),
            "The ReLU after the sum is missing.",
        ),
        Wrong(
            block_but(standard=lambda r, c, a, x: torch.relu(a(r(x)))),
            "At the standard place the shortcut is not added.",
        ),
        Wrong(
            block_but(standard=lambda r, c, a, x: torch.relu(c(x) + r(x) + a(r(x)))),
            "At the standard place the residual branch is there twice, weighed and "
            "not. attention(residual(x)) takes the place of residual(x).",
        ),
        Wrong(
            block_but(standard=lambda r, c, a, x: torch.relu(a(c(x) + r(x)))),
            "At the standard place the attention weighs the sum. It should weigh the "
            "residual branch before the sum.",
        ),
        Wrong(
            block_but(post=lambda r, c, a, x: torch.relu(c(x) + a(r(x)))),
            "'post' is written as 'standard'. It weighs the block's output: attention "
            "of the relu of the sum.",
        ),
        Wrong(
            block_but(pre=lambda r, c, a, x: torch.relu(a(x) + r(a(x)))),
            "At 'pre' the shortcut is attention(x) here. It is shortcut(x).",
        ),
        Wrong(
            block_but(
                standard=lambda r, c, a, x: torch.relu(x + a(r(x))),
                pre=lambda r, c, a, x: torch.relu(x + r(a(x))),
                post=lambda r, c, a, x: a(torch.relu(x + r(x))),
                identity=lambda r, c, a, x: torch.relu(a(x) + r(x))),
            "x itself is added, and not shortcut(x), which may be a convolution.",
        ),
        Wrong(
            block_but(sideways=lambda r, c, a, x: x),
            "The four places are right. A place that does not exist, such as "
            "'sideways', goes through without a word: end with a ValueError that "
            "names it.",
        ),
    ),
)


# se-10: project ---------------------------------------------------------------

def paired(report, *, t=t_quantile, ddof=1, root=True, sign=1, sided=0.975, more=0):
    """Return the interval; the switches make the wrong answers."""
    seeds = sorted(report["plain"])
    d = torch.tensor([report["se"][k] - report["plain"][k] for k in seeds]).double()
    half = t(sided, len(d) - 1 + more) * d.std(correction=ddof).item()
    half /= math.sqrt(len(d)) if root else 1
    mean = sign * d.mean().item()
    return mean - half, mean + half


def unpaired(report):
    a, b = (torch.tensor(list(report[k].values())).double() for k in ("plain", "se"))
    half = t_quantile(0.975, 2 * len(a) - 2) * math.sqrt(
        (a.var().item() + b.var().item()) / len(a))
    mean = (b.mean() - a.mean()).item()
    return mean - half, mean + half


def unpaired_few(report):
    a, b = (torch.tensor(list(report[k].values())).double() for k in ("plain", "se"))
    half = t_quantile(0.975, len(a) - 1) * math.sqrt(
        (a.var().item() + b.var().item()) / len(a))
    mean = (b.mean() - a.mean()).item()
    return mean - half, mean + half


def of_arm(arm):
    def interval(report):
        zero = dict.fromkeys(report[arm], 0.0)
        return paired({"plain": zero, "se": report[arm]})
    return interval


FORM = (
    'Return a dict with three entries: "plain" and "se", each a dict from seed to '
    'accuracy, and "interval", two numbers (low, high).'
)
SEEDS = (
    "The two arms have different seeds, so their runs cannot be paired. Run plain and "
    "SE with the same seeds."
)
FEW = (
    "There are fewer than 5 seeds. With so few the spread itself is hardly known; run "
    "at least 5."
)
PERCENT = (
    "An accuracy is a share, from 0 to 1; here is one outside. Divide percents by 100."
)
SAME = (
    "SE and plain have the same accuracy for every seed, which two different networks "
    "hardly have. Was attention= handed over?"
)
ORDER = "The interval's ends are exchanged: (low, high)."
INTERVALS = (
    (
        partial(paired, t=lambda p, df: 1.959964),
        "The interval uses 1.96, the normal distribution's factor. It would be right "
        "if the spread were known; estimated from so few seeds it calls for Student's "
        "t with n - 1 degrees of freedom.",
    ),
    (
        partial(paired, ddof=0),
        "The standard deviation divides by n. For a sample divide by n - 1, since the "
        "mean was estimated from the same numbers (correction=1, or ddof=1).",
    ),
    (
        partial(paired, t=lambda p, df: 1.959964, ddof=0),
        "Two things make this interval too narrow: 1.96 in place of Student's t, and a "
        "standard deviation that divides by n in place of n - 1.",
    ),
    (
        unpaired,
        "This interval treats the two arms as unrelated samples. Each seed gives a "
        "pair: take its difference first, then the mean and spread of the "
        "differences.",
    ),
    (
        unpaired_few,
        "This adds the variances of the two arms, as if they were unrelated. Take each "
        "seed's difference first, and then the spread of the differences.",
    ),
    (
        partial(paired, root=False),
        "The spread is not divided by the square root of n. This is about where one "
        "more seed would fall; asked is where the mean difference lies.",
    ),
    (
        partial(paired, sign=-1),
        "The difference has the wrong sign. Take SE minus plain, so that a positive "
        "number speaks for SE.",
    ),
    (
        partial(paired, sided=0.95),
        "The t value is that of a one-sided test. A 95% interval leaves 2.5% at each "
        "end: use the 0.975 quantile.",
    ),
    (
        partial(paired, more=1),
        "Student's t has n - 1 degrees of freedom here, not n.",
    ),
    (
        of_arm("se"),
        "This is the interval of SE's accuracy, not of its difference to plain.",
    ),
    (
        of_arm("plain"),
        "This is the interval of plain's accuracy, not of SE's difference to it.",
    ),
)
OTHER_INTERVAL = (
    "The runs are in order, but the interval does not follow from them. Take each "
    "seed's difference d, SE minus plain; the interval is mean(d) -+ t * std(d) / "
    "sqrt(n), with the sample standard deviation and t for n - 1 degrees of freedom."
)


def number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def judge_report(report):
    if not isinstance(report, dict) or not {"plain", "se", "interval"} <= set(report):
        return FORM
    plain, se, interval = report["plain"], report["se"], tuple(report["interval"])
    if not isinstance(plain, dict) or not isinstance(se, dict):
        return FORM
    scores = [*plain.values(), *se.values()]
    if len(interval) != 2 or not all(number(v) for v in (*scores, *interval)):
        return FORM + " The numbers are plain floats."
    if set(plain) != set(se):
        return SEEDS
    if len(plain) < 5:
        return FEW
    if not all(0 <= v <= 1 for v in scores):
        return PERCENT
    if all(plain[k] == se[k] for k in plain):
        return SAME
    if agrees(interval, paired(report)):
        return None
    if agrees(interval[::-1], paired(report)):
        return ORDER
    for rule, message in INTERVALS:
        if agrees(interval, rule(report)):
            return message
    return OTHER_INTERVAL


def agrees(got, want) -> bool:
    """Equal to 0.2% of the interval's half width: the room that rounded tables need."""
    room = 0.002 * (want[1] - want[0]) / 2 + 1e-9
    return all(abs(a - b) <= room for a, b in zip(got, want, strict=True))


def report_of(interval=paired, n=5, **entries):
    """Return an answer: n made-up runs, and the interval that a rule gives them."""
    plain = [0.801, 0.823, 0.778, 0.812, 0.796, 0.809]
    se = [0.812, 0.829, 0.799, 0.811, 0.808, 0.815]
    report = {"plain": dict(enumerate(plain[:n])), "se": dict(enumerate(se[:n]))}
    report["interval"] = interval(report)
    return lambda: {**report, **entries}


PROJECT = Exercise(
    name="project",
    reference=report_of(),
    right="The runs are paired by seed, there are enough of them, and the interval is "
    "Student's. If it contains 0, these runs do not settle which arm is better; that "
    "is a result too.",
    given="",
    seconds=300.0,
    judge=judge_report,
    wrong=(
        Wrong(lambda: (0.8, 0.81), FORM),
        Wrong(report_of(interval=lambda r: ("0.1", "0.2")),
              FORM + " The numbers are plain floats."),
        Wrong(report_of(se={k: 0.8 for k in range(5, 10)}), SEEDS),
        Wrong(report_of(n=4), FEW),
        Wrong(report_of(plain={k: 80.0 + k for k in range(5)}), PERCENT),
        Wrong(report_of(plain=report_of()()["se"]), SAME),
        Wrong(report_of(interval=lambda r: paired(r)[::-1]), ORDER),
        *(Wrong(report_of(interval=rule), message) for rule, message in INTERVALS),
        Wrong(report_of(interval=lambda r: (-0.5, 0.5)), OTHER_INTERVAL),
    ),
)


EXERCISES = {
    "se-1": SQUEEZE, "se-2": COUNT, "se-3": EXCITE, "se-4": REPAIRED,
    "se-5": GRADIENT, "se-6": TWINS, "se-7": BUDGET, "se-8": SWAP, "se-9": PLACES,
    "se-10": PROJECT,
}
