"""The visual language: colours that anyone can tell apart, and honest pictures."""

import itertools
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb
from matplotlib.layout_engine import ConstrainedLayoutEngine

from cvattn.book import plot

KINDS = list(plot.COLORS)

# Machado, Oliveira and Fernandes 2009, severity 1.0; applied to linear RGB.
BLIND = {
    "none": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# CIE76 distance; 2.3 is just noticeable.
APART = 20


@pytest.fixture(autouse=True)
def clean():
    with matplotlib.rc_context():
        yield
        plt.close("all")


@pytest.fixture
def ax():
    plot.use()
    return plt.subplots()[1]


def linear(color):
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(color):
    return linear(color) @ [0.2126, 0.7152, 0.0722]


def contrast(a, b):
    """WCAG 2.1's contrast ratio, 1 to 21."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def lab(color, blindness="none"):
    """CIELAB (D65) of a colour as seen with a colour blindness."""
    seen = np.clip(np.array(BLIND[blindness]) @ linear(color), 0, 1)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    t = to_xyz @ seen / to_xyz.sum(axis=1)
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(a, b, blindness="none"):
    return np.linalg.norm(lab(a, blindness) - lab(b, blindness))


# Colours


def test_measures():
    """The measures themselves, on values known from elsewhere."""
    assert contrast("white", "black") == pytest.approx(21)
    assert contrast("#777777", "white") == pytest.approx(4.48, abs=0.01)
    np.testing.assert_allclose(lab("white"), [100, 0, 0], atol=0.01)
    np.testing.assert_allclose(lab("red"), [53.24, 80.09, 67.20], atol=0.05)
    assert distance("#ff0000", "#a52a2a", "deuteranopia") < distance("red", "#a52a2a")
    for matrix in BLIND.values():
        np.testing.assert_allclose(np.sum(matrix, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("paper", [plot.PAPER, plot.DARK_PAPER])
@pytest.mark.parametrize("kind", KINDS)
def test_hues_stand_out_from_both_papers(kind, paper):
    assert contrast(plot.COLORS[kind], paper) >= 3


@pytest.mark.parametrize("muted", [plot.MUTED, plot.DARK_MUTED])
def test_ink_and_grey_can_be_read(muted):
    assert contrast(plot.INK, plot.PAPER) >= 7
    assert contrast(plot.DARK_INK, plot.DARK_PAPER) >= 7
    assert contrast(plot.MUTED, plot.PAPER) >= 4.5
    assert contrast(plot.DARK_MUTED, plot.DARK_PAPER) >= 4.5
    assert contrast(plot.MUTED, plot.DARK_PAPER) >= 3  # as a mark, not as text


@pytest.mark.parametrize("blindness", BLIND)
def test_hues_are_told_apart(blindness):
    for a, b in itertools.combinations(plot.COLORS, 2):
        d = distance(plot.COLORS[a], plot.COLORS[b], blindness)
        assert d >= APART, (a, b, round(d, 1))


@pytest.mark.parametrize("blindness", BLIND)
@pytest.mark.parametrize("kind", ["channel", "space", "branch"])
def test_hues_are_told_from_grey(kind, blindness):
    """Not softmax: 13 from grey under protanopia, as plot's docstring says."""
    assert distance(plot.COLORS[kind], plot.MUTED, blindness) >= APART


@pytest.mark.parametrize("blindness", BLIND)
@pytest.mark.parametrize("kind", KINDS)
def test_maps_darken_steadily(kind, blindness):
    colors = plot.cmap(kind)(np.linspace(0, 1, 33))
    lightness = [lab(c[:3], blindness)[0] for c in colors]
    assert (np.diff(lightness) < 0).all()
    assert lightness[0] > 90 and lightness[-1] < 35
    middle = plot.cmap(kind)(0.5)[:3]
    np.testing.assert_allclose(middle, to_rgb(plot.COLORS[kind]), atol=2 / 255)


def test_unknown_kind():
    with pytest.raises(ValueError, match="channel, space, branch, softmax, got .*'x'"):
        plot.cmap("x")


# Style


def test_use_sets_the_style():
    plot.use()
    fig, ax = plt.subplots()
    assert tuple(fig.get_size_inches()) == (7, 4) and fig.dpi == 144
    assert to_hex(fig.get_facecolor(), keep_alpha=True) == "#ffffffff"
    assert not ax.spines["top"].get_visible() and not ax.spines["right"].get_visible()
    assert isinstance(fig.get_layout_engine(), ConstrainedLayoutEngine)
    assert ax.title.get_color() == plot.INK
    assert to_hex(ax.plot([0, 1])[0].get_color()) == plot.COLORS["channel"].lower()


def test_dark_and_back():
    plot.use()
    light = dict(matplotlib.rcParams)
    plot.use(dark=True)
    fig, ax = plt.subplots()
    assert to_hex(fig.get_facecolor()) == plot.DARK_PAPER
    assert to_hex(ax.get_facecolor()) == plot.DARK_PAPER
    assert ax.title.get_color() == plot.DARK_INK
    plot.use()
    assert dict(matplotlib.rcParams) == light


@pytest.mark.parametrize("dark", [False, True])
def test_saved_figures_are_opaque_and_as_wide_as_a_page(dark, tmp_path):
    plot.use(dark)
    fig, ax = plt.subplots()
    ax.plot([0, 1])
    fig.savefig(tmp_path / "figure.png")
    pixels = plt.imread(tmp_path / "figure.png")
    assert pixels.shape[:2] == (576, 1008) and (pixels[..., 3:] == 1).all()
    paper = plot.DARK_PAPER if dark else plot.PAPER
    np.testing.assert_allclose(pixels[0, 0, :3], to_rgb(paper), atol=0.003)


def test_svg_is_the_same_to_the_byte(tmp_path):
    for name in ("a.svg", "b.svg"):
        plot.use()
        fig, ax = plt.subplots()
        plot.bars(ax, [1, 2], ["cat", "cup"], highlight=0)
        fig.savefig(tmp_path / name, metadata={"Date": None})
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_importing_loads_no_matplotlib():
    code = "import sys, cvattn.book.plot; print('matplotlib' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


# Pictures


def test_picture(ax):
    image = torch.full((11, 7), 51, dtype=torch.uint8)
    shown = plot.picture(ax, image, "a shoe")
    assert ax.get_title() == "a shoe" and not ax.axison
    assert to_rgb(shown.cmap(shown.norm(51))) == pytest.approx(
        (0.2, 0.2, 0.2), abs=0.01
    )
    assert plot.picture(ax, torch.zeros(5, 3, 3, dtype=torch.uint8)).get_size() == (
        5,
        3,
    )
    assert plot.picture(ax, torch.tensor([[0.0, 1.0]])).get_clim() == (0, 1)
    with pytest.raises(ValueError, match=r"\(H, W\) or .*, got \(1, 5, 7\)"):
        plot.picture(ax, torch.zeros(1, 5, 7, dtype=torch.uint8))
    with pytest.raises(ValueError, match="uint8 or floats, got int64"):
        plot.picture(ax, torch.zeros(5, 3, dtype=torch.int64))


@pytest.mark.parametrize("low, high", [(-0.81, 1), (0, 255.0), (0, 1.01), (0, np.nan)])
def test_a_picture_out_of_its_range_is_refused(ax, low, high):
    """Standardised pixels, grey values as floats: matplotlib would cut them off."""
    with pytest.raises(ValueError, match=r"image must be from 0 to 1, got .* to"):
        plot.picture(ax, torch.tensor([[low, high]]))
    assert not ax.images


@pytest.mark.parametrize("signed, values", [
    (False, [0, 1.3]), (True, [-1.3, 0]), (True, [0, 1.3]), (False, [0, np.nan])])
def test_a_map_beyond_its_scale_is_refused(ax, signed, values):
    with pytest.raises(ValueError, match=rf"\(signed={signed}\) must be from .* to 1"):
        plot.feature_map(ax, torch.tensor([values]), vmax=1, signed=signed)
    assert not ax.images


def test_feature_map(ax):
    shown = plot.feature_map(ax, torch.tensor([[0.0, 1.0], [2.0, 4.0]]))
    assert shown.get_clim() == (0, 4) and shown.cmap == plot.cmap("channel")
    assert plot.feature_map(ax, torch.ones(3, 5), vmax=2.5).get_clim() == (0, 2.5)
    assert plot.feature_map(ax, torch.ones(3, 5), kind="space").cmap == plot.cmap(
        "space"
    )
    signed = plot.feature_map(ax, torch.tensor([[-3.0, 1.0]]), signed=True)
    assert signed.get_clim() == (-3, 3)
    assert min(signed.cmap(0.5)[:3]) > 0.95  # zero is white
    for vmax in (None, 0.0):    # all zero: white, not the colour of the lowest
        zero = plot.feature_map(ax, torch.zeros(2, 3), signed=True, vmax=vmax)
        assert min(zero.cmap(zero.norm(0.0))[:3]) > 0.99
        light = plot.feature_map(ax, torch.zeros(2, 3), vmax=vmax)
        assert light.cmap(light.norm(0.0)) == light.cmap(0)
    with pytest.raises(ValueError, match=r"signed=False\) must be .* got -3 to 1"):
        plot.feature_map(ax, torch.tensor([[-3.0, 1.0]]))
    with pytest.raises(ValueError, match=r"shape \(H, W\), got shape \(1, 2, 2\)"):
        plot.feature_map(ax, torch.ones(1, 2, 2))


def test_bars(ax):
    plot.bars(ax, torch.tensor([0.25, 0.5, 0.75]), ["a", "b", "c"], highlight=1)
    assert [p.get_width() for p in ax.patches] == [0.25, 0.5, 0.75]
    colors = [to_hex(p.get_facecolor()) for p in ax.patches]
    assert colors == [plot.MUTED, plot.COLORS["channel"].lower(), plot.MUTED]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]
    assert ax.yaxis_inverted()
    with pytest.raises(ValueError, match=r"shape \(2,\) and 3 labels"):
        plot.bars(ax, [1, 2], ["a", "b", "c"])


def test_first_bar_is_coloured_when_it_is_the_highlight(ax):
    plot.bars(ax, [1, 2], ["a", "b"], color=plot.COLORS["space"], highlight=0)
    colors = [to_hex(p.get_facecolor()) for p in ax.patches]
    assert colors == [plot.COLORS["space"].lower(), plot.MUTED]


def test_interval(ax):
    plot.interval(ax, 2, 0.5, 0.25, 1.0, plot.COLORS["channel"], "SE")
    line, dot = ax.lines
    assert line.get_xydata().tolist() == [[0.25, 2], [1.0, 2]]
    assert dot.get_xydata().tolist() == [[0.5, 2]]
    assert [t.get_text() for t in ax.texts] == ["SE"]
    with pytest.raises(ValueError, match="low=0.6, mean=0.5, high=1"):
        plot.interval(ax, 0, 0.5, 0.6, 1, "k", "no")


def test_strip(ax):
    hue = plot.COLORS["channel"]
    plot.strip(
        ax, {"plain": [1.0, 2.0, 6.0], "SE": [4.0, 5.0, 6.0]}, colors={"SE": hue}
    )
    plain, se = ax.lines
    assert plain.get_ydata().tolist() == [1, 2, 6] and plain.get_color() == plot.MUTED
    assert se.get_ydata().tolist() == [4, 5, 6] and se.get_color() == hue
    np.testing.assert_allclose(se.get_xdata() - plain.get_xdata(), 1)
    assert len(set(plain.get_xdata())) == 3
    means = [segments.get_segments()[0][0, 1] for segments in ax.collections]
    assert means == [3, 5]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["plain", "SE"]
    with pytest.raises(ValueError, match="colors must name groups, got other"):
        plot.strip(ax, {"plain": [1.0]}, colors={"other": hue})
    with pytest.raises(ValueError, match="got none for 'empty'"):
        plot.strip(ax, {"empty": []})


def test_signed_maps_are_white_at_zero_and_take_the_hue_above():
    for kind, hue in plot.COLORS.items():
        low, zero, high = plot.signed_cmap(kind)([0.0, 0.5, 1.0])[:, :3]
        assert zero.min() > 0.98
        assert high == pytest.approx(to_rgb(hue), abs=0.01)
        assert low.max() - low.min() < 0.1    # grey
    with pytest.raises(ValueError, match="kind must be one of"):
        plot.signed_cmap("colour")


@pytest.mark.parametrize("far, side", [(0.5, 1), (-0.5, -1)])
def test_a_shortcut_goes_round_what_lies_between(ax, far, side):
    nodes = {"x": (0, 0, "x"), "f": (0, 1, "F"), "+": (0, 2, "add")}
    plot.boxes(ax, nodes, [("x", "f", ""), ("f", "+", "")], shortcuts={("x", "+"): far})
    ax.figure.draw_without_rendering()
    *_, arrow = sorted((t.arrow_patch for t in ax.texts if t.arrow_patch),
                       key=lambda patch: patch.get_window_extent().height)
    middle = ax.transData.transform((0, 1))[0]
    length = np.diff(ax.transData.transform([(0, 0), (0, 2)])[:, 1])[0]
    box = arrow.get_window_extent()
    outer = box.x1 if side > 0 else box.x0
    assert outer - middle == pytest.approx(far * length, abs=3)


def test_boxes_draws_each_node_and_arrow():
    figure, ax = plt.subplots()
    nodes = {"a": (0, 0, "in"), "b": (2, 0, "out"), "c": (2, 1, "gate")}
    plot.boxes(ax, nodes, [("a", "b", "f"), ("c", "b", "")], kinds={"c": "space"})
    texts = {t.get_text(): t for t in ax.texts if t.get_text()}
    assert set(texts) == {"in", "out", "gate", "f"}
    assert texts["gate"].get_color() == plot.COLORS["space"]
    assert sum(t.arrow_patch is not None for t in ax.texts) == 2
    for lost in ({"edges": [("a", "z", "")]},
                 {"edges": [], "shortcuts": {("a", "z"): 1}}):
        with pytest.raises(ValueError, match="edges must join nodes, got z"):
            plot.boxes(ax, nodes, **lost)
    plt.close(figure)
