"""The papers' tables of parameters and operations, as data, beside what we count.

    python -m cvattn.book.published     # print them all

A row holds what the paper prints, as text so that its rounding is known, and how to
build the network. What is counted is computed each time, on the meta device, and so
is the verdict: "matches", "with BN" (once BatchNorm's running statistics count as
parameters), or "differs"; a row that differs says why. A network that this package
cannot build has no row.
"""

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import nn

from cvattn import cost
from cvattn.bam import BAM
from cvattn.book.experiments.cbam_variants import CBAMVariant
from cvattn.resnet import (
    DEEP,
    NARROW,
    resnet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnext50,
    resnext101,
    sknet50,
    sknet101,
)
from cvattn.se import SE
from cvattn.transformer import Transformer
from cvattn.vit import vit_b16, vit_h14, vit_l16


@dataclass(frozen=True)
class Row:
    name: str
    build: Callable[..., nn.Module]
    millions: str | None = None     # parameters as printed
    gflops: str | None = None       # as printed; they mean MACs
    why: str = ""                   # why what we count differs from the print
    read: bool = True               # False: an unverified print, see Heard
    size: int = 224                 # height and width of the picture


# A print that we know at second hand, and have not read in the paper itself.
Heard = partial(Row, read=False)


@dataclass(frozen=True)
class Table:
    title: str
    source: str
    conventions: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Counted:
    parameters: int     # trainable
    stored: int         # and BatchNorm's running statistics
    macs: int | None    # None where nothing is printed


def rounds(value: float, printed: str) -> bool:
    """Whether value, rounded as far as printed is, gives printed.

    >>> rounds(28.0896, "28.09"), rounds(30.64, "30.7"), rounds(63.0, "65")
    (True, False, False)
    """
    return f"{value:.{len(printed.partition('.')[2])}f}" == printed


@cache
def counted(row: Row) -> Counted:
    """Return what a row's network has, counted on the meta device."""
    with torch.device("meta"):
        model, x = row.build(), torch.zeros(1, 3, row.size, row.size)
    macs = None if row.gflops is None else cost.macs(model.eval(), x)
    return Counted(*cost.count(model), macs)


def verdicts(row: Row) -> tuple[str | None, str | None]:
    """Return the verdicts on parameters and operations; None where none is printed."""
    c, parameters, operations = counted(row), None, None
    if row.millions is not None:
        parameters = ("matches" if rounds(c.parameters / 1e6, row.millions) else
                      "with BN" if rounds(c.stored / 1e6, row.millions) else "differs")
    if row.gflops is not None:
        operations = "matches" if rounds(c.macs / 1e9, row.gflops) else "differs"
    return parameters, operations


@cache
def vocabularies(row: Row) -> tuple[int, int]:
    """Return the least and the greatest vocabulary with which a row is as printed."""
    with torch.device("meta"):
        small, large = (cost.count(row.build(v))[0] for v in (1000, 2000))
    each = (large - small) // 1000
    half = 0.5 * 10 ** -len(row.millions.partition(".")[2])
    low, high = (1000 + ((float(row.millions) + side) * 1e6 - small) / each
                 for side in (-half, half))
    return math.ceil(low), math.floor(high)


# How each paper's networks are built.

BIASED = partial(SE, bias=True)
CODE_BAM = partial(BAM, official=True)


def halved_first(network: Callable, attention=None) -> Callable:
    """A network that halves the picture in the first 1x1."""
    return partial(network, attention, stride_in="1x1")


def reduced(reduction: int) -> Callable:
    return partial(resnet50, partial(SE, reduction=reduction))


def cbam(**kwargs) -> Callable:
    """The official code's CBAM."""
    return partial(CBAMVariant, **{"bias": True, "norm": True,
                                   "spatial_pool": ("max", "mean"), **kwargs})


def gate(*pool: str) -> Callable:
    return cbam(order="channel", channel_pool=pool)


def conv(kernel_size: int) -> Callable:
    return cbam(kernel_size=kernel_size, spatial_pool="conv")


def bam(network: Callable, *, stride_in: str = "1x1") -> Callable:
    return partial(network, CODE_BAM, place="stage", stride_in=stride_in)


def cifar(network: Callable) -> Callable:
    return partial(network, num_classes=100, stem="3x3")


def resnet152(attention=None, *, stride_in: str) -> nn.Module:
    return resnet((3, 8, 36, 3), attention, DEEP, stride_in=stride_in)


def wide18(width: float, attention=None, **kwargs) -> nn.Module:
    """ResNet-18 with `width` times the channels in its blocks."""
    widths = tuple(int(width * channels) for channels in NARROW)
    return resnet((2, 2, 2, 2), attention, {"widths": widths, "bottleneck": False},
                  **kwargs)


WIDE_15, WIDE_20 = partial(wide18, 1.5), partial(wide18, 2.0)


def transformer(vocabulary: int = 37_000, **kwargs) -> nn.Module:
    return Transformer(vocabulary, **kwargs)


# Why a row differs. The tests check each number that stands in these sentences.

CAFFE = ("The printed GFLOPs are up to 0.4 % above the multiplications of convolutions "
         "and linear layers; the paper does not say what else it counts.")
GATES = ("Section 4 counts SE's pooling and scaling too. With one operation for each "
         "element ResNet-50 + SE is 3.872 and ResNet-152 + SE 11.315, and both fit; "
         "the others stay below the print, as without SE.")
TABLE_1 = ("That is the count of ResNet-50 + BAM, 25.915 M; a channel gate in each "
           "block makes 28.088 M, which the paper's own Table 2 prints.")
ONE = "With one descriptor in place of two, as in SE, it is 3.860 and fits."
CONV_3 = ("It is 3.869 as with a kernel of 7, whose print fits; the paper does not say "
          "how this one was counted.")
R8 = ("With biases in SE's linear layers and BatchNorm's statistics it would be "
      "30.657 M and fit, but then r = 2 would be 45.752 M and would not.")
CIFAR = ("In the paper's own form, with BatchNorm at the end of each branch, the count "
         "is 24.066 M and fits; the ImageNet rows fit both forms.")
MORE = ("The printed parameters are about 0.1 M above the count, BatchNorm's "
        "statistics included; the paper does not say what else it counts. ")
BETWEEN = ("The printed parameters lie between the count without BatchNorm's "
           "statistics, 44.536 M, and with them, 44.675 M.")
TOKENS = ("The paper says that the shared vocabulary has about 37000 tokens, and we "
          "count with 37,000; the sizes that give the printed numbers stand below.")
HEAD = "Without the head it would be 85.799 M and fit, but ViT-Huge would not."
PATCHES = "With patches of 32 pixels it would be 306.535 M and fit."

HU = "Hu et al., TPAMI 2020, arXiv 1709.01507v4"
WOO = "Woo et al., ECCV 2018, arXiv 1807.06521v2"

TABLES = (
    Table("SE, Table 2", HU, "SE with biases, which the paper drops from section 6 on; "
          "stride in the first 1x1 in ResNet, in the 3x3 in ResNeXt", (
        Row("ResNet-50", halved_first(resnet50), gflops="3.86"),
        Row("ResNet-50 + SE", halved_first(resnet50, BIASED), gflops="3.87", why=GATES),
        Row("ResNet-101", halved_first(resnet101), gflops="7.58", why=CAFFE),
        Row("ResNet-101 + SE", halved_first(resnet101, BIASED),
            gflops="7.60", why=GATES),
        Row("ResNet-152", halved_first(resnet152), gflops="11.30", why=CAFFE),
        Row("ResNet-152 + SE", halved_first(resnet152, BIASED),
            gflops="11.32", why=GATES),
        Row("ResNeXt-50", resnext50, gflops="4.24", why=CAFFE),
        Row("ResNeXt-50 + SE", partial(resnext50, BIASED), gflops="4.25", why=GATES),
        Row("ResNeXt-101", resnext101, gflops="7.99", why=CAFFE),
        Row("ResNeXt-101 + SE", partial(resnext101, BIASED), gflops="8.00", why=GATES),
    )),
    Table("SE, Table 10: reduction in SE-ResNet-50", HU, "SE without biases", (
        Row("r = 2", reduced(2), "45.7"),
        Row("r = 4", reduced(4), "35.7"),
        Row("r = 8", reduced(8), "30.7", why=R8),
        Row("r = 16", reduced(16), "28.1"),
        Row("r = 32", reduced(32), "26.9"),
        Row("no SE", resnet50, "25.6"),
    )),
    Table("SE, Table 13: SE in one stage of ResNet-50", HU,
          "SE without biases; the paper's stage 2 is layer1 here", (
        Row("stage 2", partial(resnet50, [SE, None, None, None]), "25.6"),
        Row("stage 3", partial(resnet50, [None, SE, None, None]), "25.7"),
        Row("stage 4", partial(resnet50, [None, None, SE, None]), "26.4"),
        Row("all", partial(resnet50, SE), "28.1"),
    )),
    Table("CBAM, Table 1: channel gates in ResNet-50", WOO, "as in Table 4", (
        Heard("mean", halved_first(resnet50, gate("mean")), "25.92", why=TABLE_1),
        Heard("max", halved_first(resnet50, gate("max")), "25.92", why=TABLE_1),
        Heard("mean and max", halved_first(resnet50, gate("mean", "max")), "25.92",
              why=TABLE_1),
    )),
    Table("CBAM, Table 2: ResNet-50", WOO, "as in Table 4; conv is a 1x1 convolution "
          "in place of mean and maximum", (
        Heard("channel", halved_first(resnet50, cbam(order="channel")), "28.09",
              "3.860", why=ONE),
        Heard("conv, k = 3", halved_first(resnet50, conv(3)), "28.10", "3.862",
              why=CONV_3),
        Heard("conv, k = 7", halved_first(resnet50, conv(7)), "28.10", "3.869"),
        Heard("k = 3", halved_first(resnet50, cbam(kernel_size=3)), "28.09", "3.863"),
        Heard("k = 7", halved_first(resnet50, cbam()), "28.09", "3.864"),
    )),
    Table("CBAM, Table 4", WOO, "the authors' modules: biases in SE and in the channel "
          "gate, BatchNorm in the spatial gate; stride in the first 1x1, though their "
          "code has it in the 3x3", (
        Heard("ResNet-18", halved_first(resnet18), "11.69", "1.814"),
        Heard("ResNet-18 + SE", halved_first(resnet18, BIASED), "11.78", "1.814"),
        Heard("ResNet-18 + CBAM", halved_first(resnet18, cbam()), "11.78", "1.815"),
        Heard("ResNet-34", halved_first(resnet34), "21.80", "3.664"),
        Heard("ResNet-34 + SE", halved_first(resnet34, BIASED), "21.96", "3.664"),
        Heard("ResNet-34 + CBAM", halved_first(resnet34, cbam()), "21.96", "3.665"),
        Row("ResNet-50", halved_first(resnet50), "25.56", "3.858"),
        Row("ResNet-50 + SE", halved_first(resnet50, BIASED), "28.09", "3.860"),
        Row("ResNet-50 + CBAM", halved_first(resnet50, cbam()), "28.09", "3.864"),
        Heard("ResNet-101", halved_first(resnet101), "44.55", "7.570"),
        Heard("ResNet-101 + SE", halved_first(resnet101, BIASED), "49.33", "7.575"),
        Heard("ResNet-101 + CBAM", halved_first(resnet101, cbam()), "49.33", "7.581"),
        Heard("WideResNet-18 1.5", halved_first(WIDE_15), "25.88", "3.866"),
        Heard("WideResNet-18 1.5 + SE", halved_first(WIDE_15, BIASED),
              "26.07", "3.867"),
        Heard("WideResNet-18 1.5 + CBAM", halved_first(WIDE_15, cbam()),
              "26.08", "3.868"),
        Heard("WideResNet-18 2.0", halved_first(WIDE_20), "45.62", "6.696"),
        Heard("WideResNet-18 2.0 + SE", halved_first(WIDE_20, BIASED),
              "45.97", "6.696"),
        Heard("WideResNet-18 2.0 + CBAM", halved_first(WIDE_20, cbam()),
              "45.97", "6.697"),
        Heard("ResNeXt-50", halved_first(resnext50), "25.03", "3.768"),
        Heard("ResNeXt-50 + SE", halved_first(resnext50, BIASED), "27.56", "3.771"),
        Heard("ResNeXt-50 + CBAM", halved_first(resnext50, cbam()), "27.56", "3.774"),
        Heard("ResNeXt-101", halved_first(resnext101), "44.18", "7.508"),
        Heard("ResNeXt-101 + SE", halved_first(resnext101, BIASED), "48.96", "7.512"),
        Heard("ResNeXt-101 + CBAM", halved_first(resnext101, cbam()), "48.96", "7.519"),
    )),
    Table("BAM, ImageNet and CIFAR-100", "Park et al., BMVC 2018, arXiv 1807.06514v2",
          "the authors' module: product of the branches, BatchNorm after the hidden "
          "layers; stride in the first 1x1", (
        Heard("ResNet-18 + BAM", bam(resnet18), "11.71", "1.82"),
        Heard("ResNet-50 + BAM", bam(resnet50), "25.92", "3.94"),
        Heard("ResNet-101 + BAM", bam(resnet101), "44.91", "7.65"),
        Heard("CIFAR-100 ResNet-50", cifar(resnet50), "23.71", size=32),
        Heard("CIFAR-100 ResNet-50 + BAM", cifar(bam(resnet50)), "24.07", why=CIFAR,
              size=32),
    )),
    Table("SK, Table 2", "Li et al., CVPR 2019, arXiv 1903.06586v2, and the authors' "
          "README", "SE, CBAM and BAM as above, SK without biases; stride in the 3x3", (
        Row("ResNeXt-50", resnext50, "25.0", "4.24", CAFFE),
        Row("ResNeXt-50 + BAM", bam(resnext50, stride_in="3x3"), "25.4", "4.31"),
        Row("ResNeXt-50 + CBAM", partial(resnext50, cbam()), "27.7", "4.25",
            MORE + CAFFE),
        Row("SENet-50", partial(resnext50, BIASED), "27.7", "4.25", MORE + CAFFE),
        Row("SKNet-50", sknet50, "27.5", "4.47", CAFFE),
        Row("ResNeXt-101", resnext101, "44.3", "7.99", CAFFE),
        Row("ResNeXt-101 + BAM", bam(resnext101, stride_in="3x3"), "44.6", "8.05",
            BETWEEN),
        Row("ResNeXt-101 + CBAM", partial(resnext101, cbam()), "49.2", "8.00",
            MORE + CAFFE),
        Row("SENet-101", partial(resnext101, BIASED), "49.2", "8.00", MORE + CAFFE),
        Row("SKNet-101", sknet101, "48.9", "8.46", CAFFE),
    )),
    Table("Transformer, Table 3", "Vaswani et al., NeurIPS 2017, arXiv 1706.03762v7",
          "one embedding for source, target and output; no biases in attention", (
        Row("base", transformer, "65", why=TOKENS),
        Row("(B) d_k = 16", partial(transformer, key_dim=16), "58", why=TOKENS),
        Row("(B) d_k = 32", partial(transformer, key_dim=32), "60", why=TOKENS),
        Row("(C) N = 2", partial(transformer, layers=2), "36", why=TOKENS),
        Row("(C) N = 4", partial(transformer, layers=4), "50", why=TOKENS),
        Row("(C) N = 8", partial(transformer, layers=8), "80", why=TOKENS),
        Row("(C) d_model = 256", partial(transformer, dim=256), "28", why=TOKENS),
        Row("(C) d_model = 1024", partial(transformer, dim=1024), "168", why=TOKENS),
        Row("(C) d_ff = 1024", partial(transformer, hidden=1024), "53", why=TOKENS),
        Row("(C) d_ff = 4096", partial(transformer, hidden=4096), "90", why=TOKENS),
        Row("big", partial(transformer, dim=1024, hidden=4096, num_heads=16), "213",
            why=TOKENS),
    )),
    Table("ViT, Table 1", "Dosovitskiy et al., ICLR 2021, arXiv 2010.11929v2",
          "patches of 16, 16 and 14 pixels and a head of 1000 classes; the paper does "
          "not say which it counts", (
        Row("ViT-Base", vit_b16, "86", why=HEAD),
        Row("ViT-Large", vit_l16, "307", why=PATCHES),
        Row("ViT-Huge", vit_h14, "632"),
    )),
)

LEGEND = """\
M         parameters in millions. Counted are the trainable ones, shared ones once.
GFLOPs    as printed, which mean multiplications: a multiplication and its addition
          are one. Counted are those of convolutions, matrix products and attention, for
          one picture of 224x224; not those of pooling, BatchNorm, gates and additions.
matches   rounded as the print is, the count gives the print.
with BN   it does once BatchNorm's running statistics count as parameters.
differs   it does not; the letter leads to the reason.
?         unverified print: known at second hand, not read in the paper itself."""


def lines(table: Table) -> list[str]:
    """Return one table as text, at most 100 characters wide."""
    out = [table.title, f"    {table.source}"]
    out += textwrap.wrap(table.conventions, 96, initial_indent="    ",
                         subsequent_indent="    ")
    heads = ("printed       counted" if any(row.millions for row in table.rows) else "",
             "printed        counted" if any(row.gflops for row in table.rows) else "")
    out.append(f"{'':26}{heads[0]:30}{heads[1]}".rstrip())
    reasons = []
    for row in table.rows:
        c, (parameters, operations) = counted(row), verdicts(row)
        if row.why and row.why not in reasons:
            reasons.append(row.why)
        letter = "abcdefgh"[reasons.index(row.why)] if row.why else ""
        mark = "" if row.read else "?"
        line = f"{row.name:26}" + (
            f"{row.millions + mark:>7} M {c.parameters:11,}  {parameters:8}"
            if row.millions else " " * 30)
        if row.gflops:
            line += f"{row.gflops + mark:>7} GFLOPs {c.macs / 1e9:7.4f}  {operations:8}"
        out.append(f"{line:88} {letter}".rstrip())
    for letter, why in zip("abcdefgh", reasons, strict=False):
        out += textwrap.wrap(f"{letter}   {why}", 96, initial_indent="    ",
                             subsequent_indent="        ")
    return out


def sizes(table: Table) -> list[str]:
    """Return which sizes of the vocabulary give the Transformer's numbers."""
    spans = {row.name: vocabularies(row) for row in table.rows}
    out = [f"    {name:22} {low:,} to {high:,}" for name, (low, high) in spans.items()]
    del spans["big"]
    low, high = max(s[0] for s in spans.values()), min(s[1] for s in spans.values())
    return ["    Tokens in the vocabulary that give the printed number:", *out,
            f"    {'all rows without big':22} {low:,} to {high:,}"]


def report() -> str:
    """Return every table, printed beside counted, with reasons and conventions."""
    out = []
    for table in TABLES:
        out += lines(table)
        if table.title.startswith("Transformer"):
            out += sizes(table)
        out.append("")
    return "\n".join([*out, LEGEND])


def main() -> None:
    print(report())


if __name__ == "__main__":
    main()
