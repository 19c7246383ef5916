"""The exercises of the chapter "CBAM", and the mistakes they know."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cvattn.book.exercises.exercise import Exercise, Says, Wrong, rand


def joined(*maps: Tensor) -> Tensor:
    return torch.cat(maps, dim=1)


def mean(x: Tensor) -> Tensor:
    return x.mean(dim=1, keepdim=True)


def largest(x: Tensor) -> Tensor:
    return x.amax(dim=1, keepdim=True)


# cbam-1: pool_channels ----------------------------------------------------------

def pool_channels(x):
    return joined(mean(x), largest(x))


POOL_CHANNELS = Exercise(
    name="pool_channels",
    reference=pool_channels,
    right="Two maps, whatever the number of channels, and the batch stays the batch.",
    given="x",
    axes="BCHW",
    cases=lambda: [(rand(2, 5, 7, 11, seed=1),), (rand(3, 13, 5, 7, seed=2),),
                   (rand(1, 4, 3, 6, seed=3) - 9,), (rand(4, 1, 5, 2, seed=4),),
                   (300 * rand(3, 2, 1, 1, seed=5),)],
    wrong=(
        Wrong(
            lambda x: torch.cat([mean(x), largest(x)], dim=3),
            "The two are joined along the columns: maps of twice the width. Join along "
            "the channel axis, 1.",
        ),
        Wrong(
            lambda x: torch.cat([mean(x), largest(x)], dim=2),
            "The two are joined along the rows: maps of twice the height. Join along "
            "the channel axis, 1.",
        ),
        Wrong(
            lambda x: joined(mean(x), x.amin(1, keepdim=True)),
            "The second map is the minimum over the channels. It should be the "
            "maximum.",
        ),
        Wrong(
            lambda x: joined(mean(x), largest(x)).squeeze(),
            "The values are right, but `squeeze()` drops every axis of length 1: "
            "(B, 2, H, W) is asked for, also with one picture or maps of one pixel.",
        ),
        Wrong(
            lambda x: torch.cat([x.mean(1), x.amax(1)], dim=1),
            "The channel axis is gone before the two are joined, so `cat` along axis 1 "
            "stacks heights: (B, 2H, W). Reduce with keepdim=True.",
        ),
        Wrong(
            lambda x: joined(largest(x), mean(x)),
            "Both maps are right and stand in the official code's order, maximum "
            "first. Here, as in the paper, the mean comes first.",
        ),
        Wrong(
            lambda x: joined(mean(x), mean(x)),
            "Both maps are the mean. The second is the maximum over the channels.",
        ),
        Wrong(
            lambda x: joined(largest(x), largest(x)),
            "Both maps are the maximum. The first is the mean over the channels.",
        ),
        Wrong(
            lambda x: joined(mean(x), x.abs().amax(1, keepdim=True)),
            "The second map holds the largest magnitude. The maximum is the largest "
            "value with its sign: max, not max of abs.",
        ),
        Wrong(
            lambda x: joined(mean(x), x.max(1, keepdim=True).indices.to(x.dtype)),
            "The second map says which channel is largest, not how large it is. "
            "torch.max with a dim returns values and indices; take the values.",
        ),
        Wrong(
            lambda x: joined(x.sum(1, keepdim=True), largest(x)),
            "The first map is the sum over the channels. Divide by their number, or "
            "take the mean.",
        ),
        Wrong(
            lambda x: mean(x) + largest(x),
            "The two maps are added. Put them side by side, so that the convolution "
            "can weigh each by itself.",
        ),
        Wrong(
            lambda x: torch.stack([mean(x), largest(x)], dim=1),
            "`stack` makes a new axis, and the old one is still there, 1 long: five "
            "axes. Use `cat` along the channel axis.",
        ),
        Wrong(
            lambda x: torch.cat([mean(x), largest(x)], dim=0),
            "The two are joined along the batch: twice as many pictures. Join along "
            "axis 1.",
        ),
        Wrong(
            lambda x: joined(*(f((2, 3), keepdim=True) for f in (x.mean, x.amax))),
            "This pools over places, as the channel half does. The spatial half pools "
            "over the channels, axis 1, and keeps the places.",
        ),
    ),
)


# cbam-2: channel_gate -----------------------------------------------------------

def layers(f, W0, W1):
    return torch.relu(f @ W0.T) @ W1.T


def channel_gate(x, W0, W1):
    a = layers(x.mean((2, 3)), W0, W1) + layers(x.amax((2, 3)), W0, W1)
    return torch.sigmoid(a)


def descriptors(x):
    return x.mean((2, 3)), x.amax((2, 3))


CHANNEL_GATE = Exercise(
    name="channel_gate",
    reference=channel_gate,
    right="Two descriptors, one pair of layers, and the sum inside the sigmoid.",
    given="x W0 W1",
    axes="BC",
    cases=lambda: [
        (rand(3, 6, 5, 7, seed=11), rand(2, 6, seed=12), rand(6, 2, seed=13)),
        (rand(2, 8, 3, 11, seed=14), rand(4, 8, seed=15), rand(8, 4, seed=16)),
        (rand(1, 5, 4, 2, seed=14) - 3, rand(1, 5, seed=15), rand(5, 1, seed=16)),
        (rand(4, 3, 1, 1, seed=14), rand(3, 3, seed=15), rand(3, 3, seed=16)),
        (60 * rand(2, 4, 5, 3, seed=14), rand(2, 4, seed=15), rand(4, 2, seed=16)),
    ],
    wrong=(
        Wrong(
            lambda x, W0, W1: torch.maximum(
                *(layers(f, W0, W1) for f in descriptors(x))).sigmoid(),
            "The larger of the two scores is taken. Add them, so that both descriptors "
            "have a say.",
        ),
        Wrong(
            lambda x, W0, W1: (sum(layers(f, W0, W1) for f in descriptors(x)) / 2
                               ).sigmoid(),
            "The two scores are averaged. Half the score is another gate: add them.",
        ),
        Wrong(
            lambda x, W0, W1: torch.prod(torch.stack(
                [layers(f, W0, W1) for f in descriptors(x)]), dim=0).sigmoid(),
            "The two scores are multiplied. Add them.",
        ),
        Wrong(
            lambda x, W0, W1: (layers(x.mean((2, 3)), W0, W1)
                               - layers(x.amax((2, 3)), W0, W1)).sigmoid(),
            "One score is taken off the other. Add them.",
        ),
        Wrong(
            lambda x, W0, W1: sum(layers(f, W0, W1) for f in descriptors(x)).softmax(1),
            "This is a softmax over the channels, which would compete. Use a sigmoid "
            "for each.",
        ),
        Wrong(
            lambda x, W0, W1: sum(layers(f, W0, W1) for f in (
                x.mean((2, 3)), x.abs().amax((2, 3)))).sigmoid(),
            "The second descriptor is the largest magnitude. The maximum is the "
            "largest value with its sign: max, not max of abs.",
        ),
        Wrong(
            lambda x, W0, W1: channel_gate(x, W0, W1).squeeze(),
            "The values are right, but `squeeze()` drops the batch axis where there is "
            "one picture. The gates are (B, C), whatever B.",
        ),
        Wrong(
            lambda x, W0, W1: torch.sigmoid(layers(x.mean((2, 3)), W0, W1)),
            "This is SE: the maximum is missing.",
        ),
        Wrong(
            lambda x, W0, W1: torch.sigmoid(layers(x.amax((2, 3)), W0, W1)),
            "This is the maximum alone: the mean is missing.",
        ),
        Wrong(
            lambda x, W0, W1: torch.sigmoid(2 * layers(x.amax((2, 3)), W0, W1)),
            "Both descriptors are the maximum. One of them is the mean.",
        ),
        Wrong(
            lambda x, W0, W1: torch.sigmoid(2 * layers(x.mean((2, 3)), W0, W1)),
            "Both descriptors are the mean. One of them is the maximum.",
        ),
        Wrong(
            lambda x, W0, W1: sum(torch.sigmoid(layers(f, W0, W1))
                                  for f in descriptors(x)),
            "The sigmoid comes before the sum, so that gates reach up to 2. Add the "
            "scores, and squash once.",
        ),
        Wrong(
            lambda x, W0, W1: sum(torch.sigmoid(layers(f, W0, W1))
                                  for f in descriptors(x)) / 2,
            "This is the mean of two gates. Then neither descriptor can shut a channel "
            "alone. Add the scores before the sigmoid.",
        ),
        Wrong(
            lambda x, W0, W1: layers(sum(descriptors(x)), W0, W1).sigmoid(),
            "The descriptors are added before the layers. Because of the ReLU that is "
            "something else: each goes through the layers by itself.",
        ),
        Wrong(
            lambda x, W0, W1: sum(f @ W0.T @ W1.T for f in descriptors(x)).sigmoid(),
            "The ReLU between the two layers is missing.",
        ),
        Wrong(
            lambda x, W0, W1: sum(layers(f, W0, W1) for f in descriptors(x)),
            "These are the scores. The sigmoid is missing.",
        ),
        Wrong(
            lambda x, W0, W1: channel_gate(x, W0, W1)[:, :, None, None],
            "The gates are right, and ready to multiply: (B, C, 1, 1). Here they are "
            "asked for as (B, C).",
        ),
        Wrong(
            lambda x, W0, W1: channel_gate(x, W0, W1)[:, :, None, None] * x,
            "This is the map after its gates. The gates themselves are asked for.",
        ),
        Wrong(
            lambda x, W0, W1: torch.prod(torch.stack(
                [torch.sigmoid(layers(f, W0, W1)) for f in descriptors(x)]), dim=0),
            "The two gates are multiplied, so that with no evidence they give a "
            "quarter. Add the scores before the sigmoid.",
        ),
        Wrong(
            lambda x, W0, W1: sum(torch.relu(layers(f, W0, W1))
                                  for f in descriptors(x)).sigmoid(),
            "There is a ReLU behind the second layer too, so no gate can fall below a "
            "half. It stands between the layers only.",
        ),
        Wrong(
            lambda x, W0, W1: sum(torch.relu(f @ W0.T @ W1.T)
                                  for f in descriptors(x)).sigmoid(),
            "The ReLU stands behind the second layer, so no gate can fall below a "
            "half. It belongs between the two.",
        ),
    ),
)


# cbam-3: count ------------------------------------------------------------------

def count(channels, reduction, kernel_size, official):
    hidden = channels // reduction
    plain = 2 * channels * hidden + 2 * kernel_size**2
    return plain + (hidden + channels + 2 if official else 0)


def less(change):
    """An answer that is off by change(channels, hidden, kernel_size, official)."""
    def answer(channels, reduction, kernel_size, official):
        off = change(channels, channels // reduction, kernel_size, official)
        return count(channels, reduction, kernel_size, official) + off
    return answer


COUNT = Exercise(
    name="count",
    reference=count,
    right="The channel half costs what SE costs; the spatial half 98 numbers at k = 7, "
    "whatever the number of channels.",
    given="channels reduction kernel_size official",
    cases=lambda: [
        (64, 16, 7, False), (64, 16, 7, True), (256, 8, 3, False), (256, 8, 3, True),
        (6, 6, 5, True), (5, 1, 1, False), (5, 1, 9, True),
    ],
    wrong=(
        Wrong(
            less(lambda c, d, k, o: 2 * k - 2 * k**2),
            "A kernel of side k has k * k weights for each map, not k.",
        ),
        Wrong(
            less(lambda c, d, k, o: 2 * k**2),
            "The convolution is counted with two output maps. It makes one.",
        ),
        Wrong(
            less(lambda c, d, k, o: 2 * c - 2 if o else 0),
            "The BatchNorm is counted with C channels. It stands behind the "
            "convolution, which makes one: a scale and a shift.",
        ),
        Wrong(
            less(lambda C, h, k, o: C - h if o else 0),
            "Each bias has C numbers. The first layer makes C / r, so its bias has no "
            "more than that.",
        ),
        Wrong(
            less(lambda c, d, k, o: 2 * c * d),
            "The two layers are counted twice. Mean and maximum share them.",
        ),
        Wrong(
            less(lambda c, d, k, o: -k**2),
            "The convolution is counted with one input channel. It reads two maps.",
        ),
        Wrong(
            less(lambda c, d, k, o: 2 * (c - 1) * k**2),
            "The convolution is counted as if it read the channels of x. It reads two "
            "maps, the mean and the maximum over all channels.",
        ),
        Wrong(
            less(lambda c, d, k, o: -2 * k**2),
            "The convolution of the spatial half is missing.",
        ),
        Wrong(
            less(lambda c, d, k, o: -2 if o else 0),
            "The BatchNorm is missing: it learns a scale and a shift.",
        ),
        Wrong(
            less(lambda c, d, k, o: -1 if o else 0),
            "The BatchNorm is counted as one number. It learns a scale and a shift.",
        ),
        Wrong(
            less(lambda c, d, k, o: 2 if o else 0),
            "The running mean and variance of the BatchNorm are counted. They are "
            "stored, but not learned.",
        ),
        Wrong(
            less(lambda c, d, k, o: 1 if o else 0),
            "There is one number too many: the convolution is given a bias. It has "
            "none, since the BatchNorm behind it would take it off again.",
        ),
        Wrong(
            less(lambda c, d, k, o: 1),
            "The convolution is given a bias. It has none.",
        ),
        Wrong(
            less(lambda c, d, k, o: -d if o else 0),
            "The bias of the first layer is missing: one for each hidden unit.",
        ),
        Wrong(
            less(lambda c, d, k, o: -c if o else 0),
            "The bias of the second layer is missing: one for each channel.",
        ),
        Wrong(
            less(lambda c, d, k, o: 0 if o else d + c),
            "Biases are counted although official is False.",
        ),
        Wrong(
            less(lambda c, d, k, o: -(d + c) if o else 0),
            "With official=True both linear layers have a bias, C/r and C of them.",
        ),
        Wrong(
            less(lambda c, d, k, o: -c * d),
            "Only one of the two layers is counted. One leads from C to C/r, the other "
            "back.",
        ),
    ),
)


# cbam-4: refine -----------------------------------------------------------------

def refine(x, channel, spatial):
    x = channel(x) * x
    return spatial(x) * x


def some_channel(x):
    """A gate for each channel, of the shape and the kind of Mc."""
    f_avg, f_max = descriptors(x)
    return torch.sigmoid(3 * f_avg - f_max)[:, :, None, None]


def some_spatial(x):
    return torch.sigmoid(3 * mean(x) + largest(x) - 1)


REFINE = Exercise(
    name="refine",
    reference=refine,
    right="The second gate has read the map that the first one made.",
    given="x channel spatial",
    axes="BCHW",
    cases=lambda: [(rand(3, 6, 5, 7, seed=31), some_channel, some_spatial),
                   (rand(2, 4, 11, 3, seed=32), some_channel, some_spatial),
                   (9 * rand(1, 3, 4, 2, seed=33), some_channel, some_spatial),
                   (rand(4, 1, 1, 5, seed=34) - 2, some_channel, some_spatial)],
    wrong=(
        Wrong(
            lambda x, channel, spatial: channel(x) * x + spatial(channel(x) * x) * (
                channel(x) * x),
            "F' is added once more. F'' is the product of F' and its gate alone.",
        ),
        Wrong(
            lambda x, channel, spatial: (channel(x) * x) * (
                channel(x) * spatial(channel(x) * x)),
            "The channel gates are applied twice. F' has them already.",
        ),
        Wrong(
            lambda x, channel, spatial: channel(x) * spatial(x) * x,
            "Both gates are computed from x: this is the parallel order. The spatial "
            "gate reads x', the map after the channel gates.",
        ),
        Wrong(
            lambda x, channel, spatial: refine(x, spatial, channel),
            "The spatial gate comes first. CBAM weighs the channels first.",
        ),
        Wrong(
            lambda x, channel, spatial: spatial(channel(x)),
            "The second gate reads the first gate, and nothing is multiplied: a gate "
            "has to be multiplied with its map.",
        ),
        Wrong(
            lambda x, channel, spatial: spatial(channel(x)) * x,
            "The second gate reads the first gate instead of the map after it. "
            "Multiply by the channel gates first.",
        ),
        Wrong(
            lambda x, channel, spatial: channel(x) * x,
            "This is x'. The spatial half is missing.",
        ),
        Wrong(
            lambda x, channel, spatial: spatial(x) * x,
            "The channel half is missing.",
        ),
        Wrong(
            lambda x, channel, spatial: spatial(channel(x) * x) * x,
            "The spatial gate is right, but it multiplies x instead of x': the channel "
            "gates are lost.",
        ),
        Wrong(
            lambda x, channel, spatial: spatial(channel(x) * x),
            "This is the gate M_s. It has to be multiplied with x'.",
        ),
        Wrong(
            lambda x, channel, spatial: x + refine(x, channel, spatial),
            "x is added once more. That is BAM's way; CBAM multiplies, and the block "
            "around it adds its shortcut.",
        ),
        Wrong(
            lambda x, channel, spatial: channel(x) * x + spatial(x) * x,
            "The two gates are added, or two maps with one gate each, which is the "
            "same. They come one after the other, each multiplied.",
        ),
    ),
)


# cbam-5: spatial_gate -----------------------------------------------------------

def spatial_gate(x, f, *, pool=pool_channels, padding=None, act=torch.sigmoid):
    side = f.shape[-1] // 2 if padding is None else padding
    return act(F.conv2d(pool(x), f, padding=side))


def dropped(x, f):
    """Both reductions lose the channel axis: the trap of the batch of two."""
    maps = torch.cat([x.mean(1), x.amax(1)], dim=1)
    return torch.sigmoid(F.conv2d(maps, f, padding=f.shape[-1] // 2))


def guarded(x, f):
    if f.shape[-1] not in (3, 7):
        raise AssertionError
    return spatial_gate(x, f)


def padded(mode):
    def answer(x, f):
        side = f.shape[-1] // 2
        maps = F.pad(pool_channels(x), (side,) * 4, mode=mode)
        return torch.sigmoid(F.conv2d(maps, f))
    return answer


def run_spatial_gate(answer, x, f):
    try:
        return answer(x, f)
    except (AssertionError, ValueError) as error:
        if f.shape[-1] in (3, 7):
            raise
        raise Says(f"A kernel of side {f.shape[-1]} is refused. Any odd size will do, "
                   "with k // 2 zeros on each side; and a rule about arguments belongs "
                   "in a ValueError.") from error


SPATIAL_GATE = Exercise(
    name="spatial_gate",
    reference=spatial_gate,
    right="Any odd kernel, any batch, and the gate has the size of the map.",
    given="x f",
    axes="BCHW",
    cases=lambda: [
        (rand(2, 5, 7, 9, seed=41), rand(1, 2, 3, 3, seed=42)),
        (rand(3, 4, 11, 7, seed=43), rand(1, 2, 5, 5, seed=44) / 3),
        (rand(1, 6, 9, 9, seed=45), rand(1, 2, 7, 7, seed=46) / 5),
        (rand(4, 3, 6, 5, seed=47), rand(1, 2, 1, 1, seed=48)),
        (rand(2, 1, 8, 11, seed=49) - 2, rand(1, 2, 9, 9, seed=50) / 7),
        (60 * rand(3, 5, 1, 4, seed=51), rand(1, 2, 3, 3, seed=52)),
    ],
    call=run_spatial_gate,
    wrong=(
        Wrong(
            lambda x, f: spatial_gate(x, f, padding=3 if f.shape[-1] == 7 else 1),
            "The padding is looked up, 3 for a kernel of 7 and 1 for any other, as in "
            "fault SA3: 5 and 9 lose rows and columns, 1 gains some. It is k // 2.",
        ),
        Wrong(
            lambda x, f: spatial_gate(x, f, padding=3 if f.shape[-1] == 7 else
                                      1 if f.shape[-1] == 3 else 0),
            "Only kernels of 3 and 7 get a padding. Any odd size needs k // 2 zeros on "
            "each side.",
        ),
        *(Wrong(
            padded(mode),
            f"Beyond the border lies what {mode!r} padding puts there. There should be "
            "zeros.",
        ) for mode in ("replicate", "circular")),
        Wrong(
            lambda x, f: spatial_gate(x, f, pool=lambda x: joined(mean(x), mean(x))),
            "Both maps are the mean. Channel 1 of the kernel is for the maximum.",
        ),
        Wrong(
            lambda x, f: spatial_gate(x, f, pool=lambda x: joined(
                largest(x), largest(x))),
            "Both maps are the maximum. Channel 0 of the kernel is for the mean.",
        ),
        Wrong(
            dropped,
            "The channel axis is lost in both reductions, so `cat` stacks heights. "
            "With a batch of 2 the convolution takes the pictures for its channels and "
            "returns one gate, twice as high; with any other it raises. keepdim=True.",
        ),
        Wrong(
            lambda x, f: spatial_gate(x, f, padding=1),
            "The padding is 1 for every kernel, so a larger one shrinks the map. A "
            "kernel of side k needs k // 2 zeros on each side.",
        ),
        Wrong(
            lambda x, f: spatial_gate(x, f, padding=0),
            "Without padding the gate is smaller than the map. A kernel of side k "
            "needs k // 2 zeros on each side.",
        ),
        Wrong(
            lambda x, f: spatial_gate(x, f, padding=3),
            "The padding is 3 for every kernel, which fits 7 alone. It should be "
            "k // 2.",
        ),
        Wrong(
            lambda x, f: spatial_gate(x, f, pool=lambda x: joined(largest(x), mean(x))),
            "The maximum is handed to channel 0 of the kernel, which is for the mean. "
            "Turn the two maps around.",
        ),
        Wrong(
            lambda x, f: spatial_gate(
                x, f, pool=lambda x: joined(
                    mean(x), x.max(1, keepdim=True).indices.to(x.dtype))),
            "The second map holds which channel is largest. torch.max with a dim "
            "returns values and indices; take the values.",
        ),
        Wrong(
            guarded,
            "A kernel of side 5 is refused. Any odd size will do, with k // 2 zeros on "
            "each side; and a rule about arguments belongs in a ValueError.",
        ),
        Wrong(
            lambda x, f: torch.sigmoid(F.conv2d(
                pool_channels(x), f.transpose(2, 3), padding=f.shape[-1] // 2)),
            "The kernel is transposed: its rows meet the map's columns.",
        ),
        Wrong(
            lambda x, f: spatial_gate(x, f, act=lambda a: a),
            "These are the scores before the sigmoid.",
        ),
        Wrong(
            lambda x, f: spatial_gate(x, f, act=torch.relu),
            "A ReLU stands where the sigmoid should: such a gate has no upper bound.",
        ),
        Wrong(
            lambda x, f: spatial_gate(
                x, f, act=lambda a: a.flatten(1).softmax(1).view_as(a)),
            "The places compete in a softmax, so each gets very little. The paper's "
            "gate is a sigmoid: every place is judged by itself.",
        ),
        Wrong(
            lambda x, f: spatial_gate(x, f) * x,
            "This is the map after its gate. The gate itself is asked for, with one "
            "channel.",
        ),
        Wrong(
            lambda x, f: spatial_gate(x, f)[:, 0],
            "The gates are right, but the channel axis is gone: (B, 1, H, W) is ready "
            "to multiply.",
        ),
        Wrong(
            lambda x, f: spatial_gate(x, f.flip(2, 3)),
            "The kernel is turned by 180 degrees. PyTorch's conv2d does not turn it.",
        ),
    ),
)


# cbam-6: sees -------------------------------------------------------------------

def sees(layers, kernel_size):
    side, jump = 1, 1
    for kernel, stride in [*layers, (kernel_size, 1)]:
        side += (kernel - 1) * jump
        jump *= stride
    return side


def jump_first(layers, kernel_size):
    side, jump = 1, 1
    for kernel, stride in [*layers, (kernel_size, 1)]:
        jump *= stride
        side += (kernel - 1) * jump
    return side


def no_strides(layers, kernel_size):
    return 1 + sum(k - 1 for k, _ in [*layers, (kernel_size, 1)])


def last_jump(layers, kernel_size):
    """The jump is the last stride alone."""
    side, before = 1, 1
    for kernel, stride in [*layers, (kernel_size, 1)]:
        side, before = side + (kernel - 1) * before, stride
    return side


def added_jumps(layers, kernel_size):
    side, jump = 1, 1
    for kernel, stride in [*layers, (kernel_size, 1)]:
        side += (kernel - 1) * jump
        jump += stride - 1
    return side


def whole_kernels(layers, kernel_size):
    side, jump = 1, 1
    for kernel, stride in [*layers, (kernel_size, 1)]:
        side += kernel * jump
        jump *= stride
    return side


def jump_of(layers):
    jump = 1
    for _, stride in layers:
        jump *= stride
    return jump


SEES = Exercise(
    name="sees",
    reference=sees,
    right="Each layer adds (k - 1) jumps, and its stride multiplies the jump for those "
    "after it.",
    given="layers kernel_size",
    cases=lambda: [
        ([(3, 1), (3, 2), (3, 2)], 7),
        ([(7, 2), (3, 2), (1, 1), (3, 2), (3, 3)], 3),
        ([(5, 2), (3, 1), (2, 2)], 5),
        ([], 7), ([(3, 1)], 1), ([(1, 4)], 3), ([(3, 1), (5, 1)], 3),
    ],
    wrong=(
        Wrong(
            lambda layers, k: sees(layers, k) - 1,
            "One pixel is missing: even with no layer at all a place sees itself.",
        ),
        Wrong(
            lambda layers, k: sees([*layers, (k, 1)], k),
            "The gate's own kernel is counted twice.",
        ),
        Wrong(
            lambda layers, k: sees(layers, 1),
            "This is what one pixel of x' sees. The kernel of the gate itself comes on "
            "top.",
        ),
        Wrong(
            lambda layers, k: sees(layers, 1) + k - 1,
            "The gate's own kernel is added in pixels of the map. Each of them stands "
            "for a jump of several pixels of the picture.",
        ),
        Wrong(
            jump_first,
            "A layer's stride counts for the layers after it, not for itself: add "
            "(k - 1) jumps first, and multiply then.",
        ),
        Wrong(
            no_strides,
            "The strides are left out. Behind a stride of 2 a step on the map is two "
            "steps in the picture.",
        ),
        Wrong(
            last_jump,
            "Only the stride of the layer before is taken into account. Strides "
            "multiply along the way.",
        ),
        Wrong(
            added_jumps,
            "Strides multiply: two layers of stride 2 make a jump of 4, and three a "
            "jump of 8. Here they are added.",
        ),
        Wrong(
            whole_kernels,
            "Each layer adds k jumps. It adds k - 1: the pixel in the middle was seen "
            "already.",
        ),
        Wrong(
            lambda layers, k: sees(layers, k) ** 2,
            "This is the number of pixels in the square. Its side is asked for.",
        ),
        Wrong(
            lambda layers, k: k * jump_of(layers),
            "This is the width of the window alone, k jumps. Each pixel under it has "
            "seen more of the picture than its own jump.",
        ),
        Wrong(
            lambda layers, k: k * sees(layers, 1),
            "The fields of the window's pixels are put side by side. They overlap: "
            "neighbours are one jump apart.",
        ),
        Wrong(
            lambda layers, k: sees(layers[::-1], k),
            "The layers are taken from the back. Begin at the picture: a stride counts "
            "for all layers after it.",
        ),
        Wrong(
            lambda layers, k: (sees(layers, k) - 1) // 2,
            "This is the reach to one side. The side of the whole square is asked for.",
        ),
    ),
)


# cbam-7: through_pools ----------------------------------------------------------

def through_pools(x, g_avg, g_max, *, share=None, at=None):
    P = x.shape[2] * x.shape[3]
    top = (x == x.amax((2, 3), keepdim=True)).to(x.dtype) if at is None else at(x)
    return (g_avg[:, :, None, None] * (1 / P if share is None else share(x))
            + g_max[:, :, None, None] * top)



def distinct(*shape: int, seed: int) -> Tensor:
    """Numbers of which no two are equal."""
    g = torch.Generator().manual_seed(seed)
    n = torch.Size(shape).numel()
    return torch.randperm(n, generator=g).view(shape).float() / 7 - 5


THROUGH_POOLS = Exercise(
    name="through_pools",
    reference=through_pools,
    right="The mean gives every pixel the same small share, the maximum all of it to "
    "one.",
    given="x g_avg g_max",
    axes="BCHW",
    without=("autograd",),
    cases=lambda: [
        (distinct(3, 4, 5, 7, seed=71), rand(3, 4, seed=72), rand(3, 4, seed=73)),
        (distinct(2, 6, 3, 5, seed=74), rand(2, 6, seed=75), rand(2, 6, seed=76)),
        (distinct(1, 3, 4, 2, seed=77) - 20, rand(1, 3, seed=78), rand(1, 3, seed=79)),
        (distinct(4, 1, 1, 3, seed=77), 300 * rand(4, 1, seed=78), rand(4, 1, seed=79)),
        (distinct(2, 5, 1, 1, seed=77), rand(2, 5, seed=78), rand(2, 5, seed=79)),
    ],
    wrong=(
        Wrong(
            lambda x, g, h: through_pools(x, g, h, at=lambda x: (
                x.abs() == x.abs().amax((2, 3), keepdim=True)).to(x.dtype)),
            "The pixel of the largest magnitude receives g_max. The maximum is the "
            "largest value, with its sign.",
        ),
        Wrong(
            lambda x, g, h: through_pools(x, g, h, at=lambda x: (
                x == x.amin((2, 3), keepdim=True)).to(x.dtype)),
            "The smallest pixel receives g_max. It is the largest that moves the "
            "maximum.",
        ),
        Wrong(
            lambda x, g, h: through_pools(x, g, h, share=lambda x: 1 / x[0].numel()),
            "g_avg is divided by C H W. Each channel has a mean of its own, over its H "
            "W places.",
        ),
        Wrong(
            lambda x, g, h: through_pools(x, 0 * g, g + h),
            "Both gradients go to the largest pixel. That is the maximum's way; the "
            "mean gives each pixel the share 1 / (HW) of g_avg.",
        ),
        Wrong(
            lambda x, g, h: through_pools(x, g + h, 0 * h),
            "Both gradients are spread over all places. That is the mean's way; the "
            "maximum sends all of g_max to one pixel.",
        ),
        Wrong(
            lambda x, g, h: through_pools(x, g, h, at=lambda x: (x == x.max()).float()),
            "One pixel of the whole batch receives g_max. Each channel of each picture "
            "has a maximum of its own.",
        ),
        Wrong(
            lambda x, g, h: through_pools(x, g, 0 * h),
            "Only the road through the mean is there. The largest pixel of each "
            "channel receives g_max as well.",
        ),
        Wrong(
            lambda x, g, h: through_pools(x, 0 * g, h),
            "Only the road through the maximum is there. Each pixel receives "
            "g_avg / (HW) as well.",
        ),
        Wrong(
            lambda x, g, h: through_pools(x, g, h, share=lambda x: 1),
            "Each pixel has a share of 1 / (HW) in the mean, so divide g_avg by the "
            "number of places.",
        ),
        Wrong(
            lambda x, g, h: through_pools(x, g, h, share=lambda x: 1 / x.shape[2]),
            "g_avg is divided by the height. The mean runs over height and width.",
        ),
        Wrong(
            lambda x, g, h: through_pools(x, g, h / (x.shape[2] * x.shape[3])),
            "g_max is divided by the number of places too. The largest pixel moves the "
            "maximum by as much as it moves.",
        ),
        Wrong(
            lambda x, g, h: through_pools(x, g, h, at=torch.ones_like),
            "Every pixel receives g_max. Only the largest has a share in the maximum.",
        ),
        Wrong(
            lambda x, g, h: through_pools(x, g, h, at=lambda x: x.amax(
                (2, 3), keepdim=True) * (x == x.amax((2, 3), keepdim=True))),
            "g_max is multiplied by the value of the maximum. The slope of a maximum "
            "with respect to its largest pixel is 1.",
        ),
        Wrong(
            lambda x, g, h: through_pools(x, g, h, at=lambda x: (
                x == x.amax((1, 2, 3), keepdim=True)).to(x.dtype)),
            "One pixel of each picture receives g_max. There is a maximum in every "
            "channel.",
        ),
        Wrong(
            lambda x, g, h: through_pools(x, g, h, at=lambda x: (
                x == x.amax(1, keepdim=True)).to(x.dtype)),
            "The maximum is taken over the channels, as the spatial half does. Here it "
            "runs over the places of each channel.",
        ),
        Wrong(
            lambda x, g, h: through_pools(x, g, h, at=lambda x: (
                x == x.amax(3, keepdim=True)).to(x.dtype)),
            "The largest pixel of each row receives g_max. The maximum runs over "
            "height and width.",
        ),
        Wrong(
            lambda x, g, h: through_pools(x, h, g),
            "The two gradients are exchanged.",
        ),
        Wrong(
            lambda x, g, h: through_pools(x, g, h) * x,
            "There is a factor x too many. Neither slope depends on the value of x, "
            "only on which pixel is largest.",
        ),
    ),
)


# cbam-8: heat -------------------------------------------------------------------

def heat(A, w, k, *, share=True, act=torch.relu):
    P = A.shape[2] * A.shape[3]
    alpha = w[k][:, :, None, None] / (P if share else 1)
    return act((alpha * A).sum(1))


def right_half(A, w, k):
    return heat(A.clamp(min=0), w.clamp(min=0), k)


HEAT = Exercise(
    name="heat",
    reference=heat,
    right="With nothing but a mean and a linear layer behind A, Grad-CAM needs no "
    "gradient: the weights of the class are enough.",
    given="A w k",
    axes="BHW",
    cases=lambda: [
        (rand(3, 5, 4, 7, seed=81), rand(4, 5, seed=82), torch.tensor([2, 0, 3])),
        (rand(2, 6, 5, 3, seed=83), rand(3, 6, seed=84), torch.tensor([1, 1])),
        (300 * rand(1, 3, 2, 4, seed=85), rand(5, 3, seed=86), torch.tensor([4])),
        (rand(4, 1, 1, 3, seed=87) + 2, rand(2, 1, seed=88),
         torch.tensor([0, 1, 1, 0])),
    ],
    wrong=(
        Wrong(
            lambda A, w, k: heat(A, w, k, act=torch.abs),
            "The sign is dropped in place of the ReLU. What speaks against the class "
            "counts as none.",
        ),
        Wrong(
            lambda A, w, k: heat(A, w, k) / A.shape[1],
            "The sum is divided by C H W. It runs over the channels and is no mean: "
            "divide by the number of places, HW.",
        ),
        Wrong(
            lambda A, w, k: heat(A, w, k, act=torch.sigmoid),
            "A sigmoid stands where the ReLU should.",
        ),
        Wrong(
            lambda A, w, k: heat(A, w.softmax(1), k),
            "The weights of the class go through a softmax. They are used as they are, "
            "of either sign.",
        ),
        Wrong(
            lambda A, w, k: (w[k] * A.mean((2, 3))).relu(),
            "The mean over the places is taken: that is a number for each channel. "
            "Grad-CAM keeps the places, and sums over the channels.",
        ),
        Wrong(
            lambda A, w, k: (w[k][:, :, None, None] * A).mean(1).relu(),
            "The mean is taken over the channels. Sum over them, and divide by the "
            "number of places, HW.",
        ),
        Wrong(
            lambda A, w, k: heat(A, w, k, share=False),
            "The map is HW times too large: y depends on the mean of A, so each "
            "gradient is w / (HW).",
        ),
        Wrong(
            lambda A, w, k: heat(A, w, k, act=lambda a: a),
            "The ReLU is missing: heat is what speaks for the class. What speaks "
            "against it counts as none.",
        ),
        Wrong(
            lambda A, w, k: heat(A.relu(), w, k, act=lambda a: a),
            "The ReLU is applied to A. It belongs around the sum over the channels.",
        ),
        Wrong(
            right_half,
            "Negative weights are cut off before the sum. The ReLU belongs around the "
            "sum over the channels, so that one channel can speak against another.",
        ),
        Wrong(
            lambda A, w, k: (w[k][:, :, None, None] * A).relu().sum(1)
            / (A.shape[2] * A.shape[3]),
            "The ReLU comes before the sum over the channels. Sum first.",
        ),
        Wrong(
            lambda A, w, k: heat(A, w, k).sum((1, 2)),
            "The places are summed up: that is one number a picture, the score but for "
            "its negative part. The map is asked for.",
        ),
        Wrong(
            lambda A, w, k: heat(A, w, k.new_zeros(len(A))),
            "The weights of class 0 are used for every picture. w[k] picks a row for "
            "each.",
        ),
        Wrong(
            lambda A, w, k: heat(A, w, k[:1].expand(len(A))),
            "The weights of the first picture's class are used for every picture. w[k] "
            "picks a row for each.",
        ),
        Wrong(
            lambda A, w, k: heat(A, torch.ones_like(w), k),
            "All channels count alike: the weights of the class are missing.",
        ),
        Wrong(
            lambda A, w, k: heat(A, w, k)[:, None],
            "The values are right, but there is an axis too many: (B, H, W) is asked "
            "for.",
        ),
        Wrong(
            lambda A, w, k: heat(A, w, k) / heat(A, w, k).amax((1, 2), keepdim=True),
            "Each map is divided by its largest value. That is good for a picture; the "
            "equation does not do it.",
        ),
        Wrong(
            lambda A, w, k: (w[k][:, :, None, None] * A / (
                A.shape[2] * A.shape[3])),
            "These are the terms of the sum, channel by channel. Add them up, and then "
            "the ReLU.",
        ),
    ),
)


# cbam-9: lookalikes -------------------------------------------------------------

FORM = "Return two tensors of the same shape, (1, C, H, W)."
ODD = (
    "H and W should be odd and at least 7, so that there is a centre, and room beyond "
    "a 5 x 5 window."
)
PLAIN = "There is a NaN or an infinity in the maps. Give plain finite numbers."
NEAR = (
    "A 3 x 3 window at the centre can tell them apart: the mean or the maximum over "
    "the channels differs in at least one of its nine places."
)
FAR = (
    "A 5 x 5 window at the centre cannot tell them apart either: over the channels "
    "mean and maximum are the same in all of its places. Let them differ two steps "
    "from the centre."
)
SAME = "The two maps are the same everywhere. They should differ."
MEANS = "A channel's mean is not the same in both, so its gate may differ."
TOPS = (
    "A channel's maximum is not the same in both, so its gate may differ. SE would not "
    "see it; CBAM does."
)


def lookalikes():
    a, b = torch.zeros(1, 1, 7, 7), torch.zeros(1, 1, 7, 7)
    a[..., 3, 5] = b[..., 3, 6] = 1.0
    return a, b


def judge_lookalikes(answer):
    if not isinstance(answer, (tuple, list)) or len(answer) != 2 or not all(
            isinstance(part, Tensor) for part in answer):
        return FORM
    a, b = (part.detach().double() for part in answer)
    if a.shape != b.shape or a.ndim != 4 or len(a) != 1 or a.shape[1] < 1:
        return FORM
    if not all(n >= 7 and n % 2 for n in a.shape[2:]):
        return ODD
    if not (a.isfinite().all() and b.isfinite().all()):
        return PLAIN
    if torch.equal(a, b):
        return SAME
    apart = (pool_channels(a) - pool_channels(b)).abs().amax((0, 1)) > 1e-6
    row, column = a.shape[2] // 2, a.shape[3] // 2

    def window(reach):
        return apart[row - reach:row + reach + 1, column - reach:column + reach + 1]

    if window(1).any():
        return NEAR
    if not window(2).any():
        return FAR
    if (a.mean((2, 3)) - b.mean((2, 3))).abs().max() > 1e-6:
        return MEANS
    if (a.amax((2, 3)) - b.amax((2, 3))).abs().max() > 1e-6:
        return TOPS
    return None


def moved(start, end, value=1.0, size=7):
    """A pair of maps: one pixel that stands at two places."""
    a, b = torch.zeros(1, 1, size, size), torch.zeros(1, 1, size, size)
    a[0, 0][start] = 1.0
    b[0, 0][end] = value
    return a, b


def spread():
    """The same mean, another maximum."""
    a, b = moved((3, 5), (3, 6))
    b[0, 0, 3, 6] = b[0, 0, 0, 0] = 0.5
    return a, b


LOOKALIKES = Exercise(
    name="lookalikes",
    reference=lookalikes,
    right="The channel gates are blind to places, a small window to what lies beyond "
    "it.",
    given="",
    judge=judge_lookalikes,
    wrong=(
        Wrong(lambda: tuple(part[0] for part in lookalikes()), FORM),
        Wrong(lambda: moved((2, 4), (2, 0), size=5), ODD),
        Wrong(lambda: moved((3, 5), (3, 6), value=float("nan")), PLAIN),
        Wrong(lambda: moved((3, 5), (3, 5)), SAME),
        Wrong(lambda: moved((3, 4), (3, 6)), NEAR),
        Wrong(lambda: moved((0, 0), (6, 6)), FAR),
        Wrong(lambda: (lookalikes()[0], torch.zeros(1, 1, 7, 7)), MEANS),
        Wrong(spread, TOPS),
    ),
)


EXERCISES = {
    "cbam-1": POOL_CHANNELS, "cbam-2": CHANNEL_GATE, "cbam-3": COUNT,
    "cbam-4": REFINE, "cbam-5": SPATIAL_GATE, "cbam-6": SEES,
    "cbam-7": THROUGH_POOLS, "cbam-8": HEAT, "cbam-9": LOOKALIKES,
}
