"""The papers' tables: exact counts, computed verdicts, and every reason kept honest."""

import doctest
import re
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch

from cvattn import BAM, SE, cost, resnet18, resnet50, resnet101
from cvattn.book import published
from cvattn.book.published import TABLES, Row, counted, rounds, verdicts, vocabularies
from cvattn.vit import ViT, vit_b16, vit_h14

ROWS = {(table.title.partition(":")[0], row.name): row
        for table in TABLES for row in table.rows}

# Trainable parameters, exactly.
EXACT = {
    "SE, Table 2": {
        "ResNet-50": 25_557_032, "ResNet-50 + SE": 28_088_024,
        "ResNet-101": 44_549_160, "ResNet-101 + SE": 49_326_872,
        "ResNet-152": 60_192_808, "ResNet-152 + SE": 66_821_848,
        "ResNeXt-50": 25_028_904, "ResNeXt-50 + SE": 27_559_896,
        "ResNeXt-101": 44_177_704, "ResNeXt-101 + SE": 48_955_416,
    },
    "SE, Table 10": {
        "r = 2": 45_676_584, "r = 4": 35_616_808, "r = 8": 30_586_920,
        "r = 16": 28_071_976, "r = 32": 26_814_504, "no SE": 25_557_032,
    },
    "SE, Table 13": {
        "stage 2": 25_581_608, "stage 3": 25_688_104, "stage 4": 26_343_464,
        "all": 28_071_976,
    },
    "CBAM, Table 1": {
        "mean": 28_088_024, "max": 28_088_024, "mean and max": 28_088_024,
    },
    "CBAM, Table 2": {
        "channel": 28_088_024, "conv, k = 3": 28_103_304, "conv, k = 7": 28_103_944,
        "k = 3": 28_088_344, "k = 7": 28_089_624,
    },
    "CBAM, Table 4": {
        "ResNet-18": 11_689_512, "ResNet-18 + SE": 11_778_592,
        "ResNet-18 + CBAM": 11_779_392, "ResNet-34": 21_797_672,
        "ResNet-34 + SE": 21_958_868, "ResNet-34 + CBAM": 21_960_468,
        "ResNet-50": 25_557_032, "ResNet-50 + SE": 28_088_024,
        "ResNet-50 + CBAM": 28_089_624, "ResNet-101": 44_549_160,
        "ResNet-101 + SE": 49_326_872, "ResNet-101 + CBAM": 49_330_172,
        "WideResNet-18 1.5": 25_875_816, "WideResNet-18 1.5 + SE": 26_074_716,
        "WideResNet-18 1.5 + CBAM": 26_075_516, "WideResNet-18 2.0": 45_618_216,
        "WideResNet-18 2.0 + SE": 45_970_456, "WideResNet-18 2.0 + CBAM": 45_971_256,
        "ResNeXt-50": 25_028_904, "ResNeXt-50 + SE": 27_559_896,
        "ResNeXt-50 + CBAM": 27_561_496, "ResNeXt-101": 44_177_704,
        "ResNeXt-101 + SE": 48_955_416, "ResNeXt-101 + CBAM": 48_958_716,
    },
    "BAM, ImageNet and CIFAR-100": {
        "ResNet-18 + BAM": 11_712_503, "ResNet-50 + BAM": 25_915_099,
        "ResNet-101 + BAM": 44_907_227, "CIFAR-100 ResNet-50": 23_705_252,
        "CIFAR-100 ResNet-50 + BAM": 24_063_319,
    },
    "SK, Table 2": {
        "ResNeXt-50": 25_028_904, "ResNeXt-50 + BAM": 25_386_971,
        "ResNeXt-50 + CBAM": 27_561_496, "SENet-50": 27_559_896,
        "SKNet-50": 27_479_784, "ResNeXt-101": 44_177_704,
        "ResNeXt-101 + BAM": 44_535_771, "ResNeXt-101 + CBAM": 48_958_716,
        "SENet-101": 48_955_416, "SKNet-101": 48_736_040,
    },
    "Transformer, Table 3": {
        "base": 63_045_632, "(B) d_k = 16": 55_967_744, "(B) d_k = 32": 58_327_040,
        "(C) N = 2": 33_644_544, "(C) N = 4": 48_345_088, "(C) N = 8": 77_746_176,
        "(C) d_model = 256": 26_816_512, "(C) d_model = 1024": 163_815_424,
        "(C) d_ff = 1024": 50_450_432, "(C) d_ff = 4096": 88_236_032,
        "big": 214_171_648,
    },
    "ViT, Table 1": {
        "ViT-Base": 86_567_656, "ViT-Large": 304_326_632, "ViT-Huge": 632_045_800,
    },
}


def test_every_row_has_an_exact_count():
    assert [(table, name) for table, rows in EXACT.items() for name in rows] == [*ROWS]
    assert len(ROWS) == sum(len(table.rows) for table in TABLES) == 81


@pytest.mark.parametrize("table, name", ROWS)
def test_exact_parameters(table, name):
    assert counted(ROWS[table, name]).parameters == EXACT[table][name]


@pytest.mark.parametrize("table, name", ROWS)
def test_a_row_has_a_reason_if_and_only_if_it_differs(table, name):
    row = ROWS[table, name]
    assert ("differs" in verdicts(row)) == bool(row.why)
    assert row.millions or row.gflops, "a row prints something"
    for number in (row.millions, row.gflops):
        assert number is None or re.fullmatch(r"\d+(\.\d+)?", number)


def test_how_many_match():
    """So that no row passes from one verdict to another unseen."""
    found = Counter(v for row in ROWS.values() for v in verdicts(row) if v)
    assert found == {"matches": 76, "with BN": 5, "differs": 42}
    read = [row for row in ROWS.values() if row.read]
    assert len(ROWS) - len(read) == 34


@pytest.mark.parametrize("value, text, same", [
    (28.0896, "28.09", True), (28.0896, "28.1", True), (28.0896, "28.08", False),
    (30.64, "30.7", False), (63.0456, "65", False), (64.6, "65", True),
    (7.5702, "7.570", True), (24.063, "24.07", False), (65.0, "65.0", True),
])
def test_rounds(value, text, same):
    assert rounds(value, text) == same


def test_a_wrong_print_is_seen():
    row = ROWS["CBAM, Table 4", "ResNet-50 + CBAM"]
    assert verdicts(row) == ("matches", "matches")
    assert verdicts(replace(row, millions="28.10")) == ("differs", "matches")
    assert verdicts(replace(row, gflops="3.865")) == ("matches", "differs")
    assert verdicts(replace(row, millions=None, gflops=None)) == (None, None)
    assert verdicts(replace(row, millions="28.14")) == ("with BN", "matches")
    wide = replace(row, build=partial(resnet50, SE))        # stride in the 3x3
    assert verdicts(wide) == ("differs", "differs")


# The numbers that stand in the reasons.

def millions(build):
    with torch.device("meta"):
        return [f"{n / 1e6:.3f}" for n in cost.count(build())]


def rows_with(text):
    found = [row for row in ROWS.values() if text in row.why]
    assert found
    return found


def test_gflops_are_at_most_a_little_above_ours():
    assert "0.4 %" in published.CAFFE
    for row in rows_with(published.CAFFE) + rows_with(published.GATES):
        ratio = float(row.gflops) / (counted(row).macs / 1e9)
        assert verdicts(row)[1] == "differs" and 1.0005 < ratio < 1.0045, row.name
    differ = [row for row in ROWS.values() if verdicts(row)[1] == "differs"]
    told = (published.CAFFE, published.GATES, published.ONE, published.CONV_3)
    assert differ == [row for row in ROWS.values() if any(t in row.why for t in told)]


def elements(name):
    """Return what pooling and scaling in each SE block count at one an element."""
    blocks = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}
    depth = name.removesuffix(" + SE").partition("-")[2]
    return sum(2 * n * (256 << i) * (56 >> i) ** 2 for i, n in enumerate(blocks[depth]))


def test_pooling_and_scaling_in_ses_table_2():
    for row in rows_with(published.GATES):
        every = (counted(row).macs + elements(row.name)) / 1e9
        if row.name in ("ResNet-50 + SE", "ResNet-152 + SE"):
            assert rounds(every, row.gflops)
            assert f"{row.name} {every:.3f}" in published.GATES.replace("is ", "")
        else:
            bare = ROWS["SE, Table 2", row.name.removesuffix(" + SE")]
            assert not rounds(every, row.gflops) and every < float(row.gflops)
            assert counted(bare).macs / 1e9 < float(bare.gflops)
            assert verdicts(bare)[1] == "differs"


def test_what_cbams_table_2_counted():
    """Two prints of GFLOPs that do not fit; parameters do."""
    one, = rows_with(published.ONE)
    mean = published.halved_first(resnet50, published.gate("mean"))
    with torch.device("meta"):
        macs = cost.macs(mean().eval(), torch.zeros(1, 3, 224, 224)) / 1e9
    assert rounds(macs, one.gflops) and f"{macs:.3f}" == "3.860" in published.ONE
    three, = rows_with(published.CONV_3)
    assert f"{counted(three).macs / 1e9:.3f}" == "3.869" in published.CONV_3
    assert verdicts(one) == verdicts(three) == ("matches", "differs")
    assert verdicts(ROWS["CBAM, Table 2", "conv, k = 7"]) == ("matches", "matches")


def test_what_reduction_8_would_need():
    """30.7 wants biases and statistics, which 45.7 does not bear."""
    for r, number in ((8, "30.657"), (2, "45.752")):
        biased = partial(resnet50, partial(SE, reduction=r, bias=True))
        assert millions(biased)[1] == number and f"{number} M" in published.R8
        assert rounds(float(number), ROWS["SE, Table 10", f"r = {r}"].millions) == (
            r == 8)


def test_cbams_table_1_is_the_count_of_bam():
    bam = ROWS["BAM, ImageNet and CIFAR-100", "ResNet-50 + BAM"]
    assert millions(bam.build)[0] == "25.915" and "25.915 M" in published.TABLE_1
    for row in rows_with(published.TABLE_1):
        assert rounds(counted(bam).parameters / 1e6, row.millions)
        assert millions(row.build)[0] == "28.088" and "28.088 M" in published.TABLE_1
    assert ROWS["CBAM, Table 2", "channel"].millions == "28.09"
    assert verdicts(ROWS["CBAM, Table 2", "channel"])[0] == "matches"


def test_cifar_100_fits_with_batchnorm_at_the_end():
    row, = rows_with(published.CIFAR)
    own = millions(published.cifar(partial(resnet50, BAM, place="stage")))[0]
    assert own == "24.066" and f"{own} M" in published.CIFAR
    assert rounds(float(own), row.millions)
    for network in (resnet18, resnet50, resnet101):
        name = network.__name__.replace("resnet", "ResNet-") + " + BAM"
        both = float(millions(partial(network, BAM, place="stage"))[0])
        assert rounds(both, ROWS["BAM, ImageNet and CIFAR-100", name].millions)


def test_senets_print_more_than_their_statistics():
    for row in rows_with(published.MORE):
        more = float(row.millions) - counted(row).stored / 1e6
        assert 0.05 < more < 0.15 and verdicts(row)[0] == "differs", row.name


def test_resnext_101_with_bam_lies_between():
    row, = rows_with(published.BETWEEN)
    low, high = millions(row.build)
    assert (low, high) == ("44.536", "44.675") and float(low) < 44.6 < float(high)
    assert f"{low} M" in published.BETWEEN and f"{high} M" in published.BETWEEN


def test_what_vit_would_need():
    headless = millions(partial(vit_b16, num_classes=0))[0]
    assert headless == "85.799" and f"{headless} M" in published.HEAD
    assert rounds(85.799, ROWS["ViT, Table 1", "ViT-Base"].millions)
    huge = float(millions(partial(vit_h14, num_classes=0))[0])
    assert not rounds(huge, ROWS["ViT, Table 1", "ViT-Huge"].millions)
    large = millions(partial(ViT, patch_size=32, dim=1024, layers=24, num_heads=16,
                             hidden=4096))[0]
    assert large == "306.535" and f"{large} M" in published.PATCHES
    assert rounds(306.535, ROWS["ViT, Table 1", "ViT-Large"].millions)


TRANSFORMERS = [row for (table, _), row in ROWS.items() if "Transformer" in table]


@pytest.mark.parametrize("row", TRANSFORMERS, ids=lambda row: row.name)
def test_the_ends_of_a_span_of_vocabularies(row):
    """Each end gives the printed number, and one token further does not."""
    low, high = vocabularies(row)
    for size, same in ((low - 1, False), (low, True), (high, True), (high + 1, False)):
        with torch.device("meta"):
            parameters, _ = cost.count(row.build(size))
        assert rounds(parameters / 1e6, row.millions) == same, size


def test_no_vocabulary_gives_all_of_the_transformers_numbers():
    spans = {row.name: vocabularies(row) for row in TRANSFORMERS}
    big = spans.pop("big")
    assert big == (35_368, 36_344)
    assert max(s[0] for s in spans.values()) == 41_004
    assert min(s[1] for s in spans.values()) == 41_208
    assert all(high < 37_000 or low > 37_000 for low, high in [big, *spans.values()])


# Multiplications that no paper prints.

@pytest.mark.parametrize("table, name, gmacs", [
    ("SK, Table 2", "SKNet-50", "4.4627"), ("SK, Table 2", "SKNet-101", "8.4487"),
    ("SK, Table 2", "ResNeXt-50", "4.2305"),
    ("SE, Table 2", "ResNet-50 + SE", "3.8605"), ("CBAM, Table 2", "k = 3", "3.8633"),
    ("CBAM, Table 4", "ResNet-50 + CBAM", "3.8644"),
])
def test_exact_multiplications(table, name, gmacs):
    assert f"{counted(ROWS[table, name]).macs / 1e9:.4f}" == gmacs


# The text.

@pytest.fixture(scope="module")
def report():
    return published.report()


def test_the_report_fits_a_terminal(report):
    assert max(map(len, report.splitlines())) <= 100
    assert not any(line != line.rstrip() for line in report.splitlines())


def test_the_report_holds_every_row(report):
    lines = report.splitlines()
    for table in TABLES:
        at = lines.index(table.title)
        part = lines[at:lines.index("", at)]
        assert table.source in part[1]
        for row in table.rows:
            line, = (x for x in part if x.startswith(f"{row.name:26}"))
            for printed, verdict in zip((row.millions, row.gflops), verdicts(row),
                                        strict=True):
                if printed:
                    mark = "" if row.read else "?"
                    assert f" {printed}{mark} " in line and f"  {verdict}" in line
            assert bool(row.why) == bool(re.search(r" [a-h]$", line))
            if row.why:
                text = " ".join(" ".join(part).split())
                assert f" {line[-1]} {row.why.strip()}" in text


def test_the_report_explains_its_words(report):
    for word in ("M  ", "GFLOPs  ", "matches  ", "with BN  ", "differs  ", "?  "):
        assert f"\n{word}" in report
    assert "all rows without big   41,004 to 41,208" in report
    assert "unverified print" in report


def test_the_command_prints_the_report(report, capsys):
    published.main()
    assert capsys.readouterr().out == report + "\n"


def test_the_docstrings_run():
    failed, tried = doctest.testmod(published)
    assert tried >= 1 and failed == 0


def test_an_unread_row_is_marked_and_a_read_one_is_not():
    assert Row("a", resnet50).read and not published.Heard("a", resnet50).read
