"""The book's visual language: colours, type, and the few pictures it repeats.

One hue means one thing on every page: channel attention, spatial attention, a
branch, softmax attention. The hues are four of Okabe and Ito's (2008), the green of
branches made a little lighter so that it keeps its distance. They can be told apart
with protanopia, deuteranopia and tritanopia, and seen on a light and on a dark page;
tests/book/test_plot.py measures by how much. The softmax hue comes close to grey with
protanopia: where both stand in one picture, label them.

matplotlib loads when a function here is called, not with the package.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.image import AxesImage

COLORS = {
    "channel": "#0072B2",
    "space": "#D55E00",
    "branch": "#00AA73",
    "softmax": "#CC79A7",
}
INK = "#1f2933"
MUTED = "#6b7280"
PAPER = "#ffffff"
DARK_INK = "#e5e7eb"
DARK_MUTED = "#9ca3af"
DARK_PAPER = "#14181e"


def use(dark: bool = False) -> None:
    """Set matplotlib's style for every figure made from here on.

    7 inches at 144 dots are 1008 pixels: as wide as a page, and still readable when a
    phone shows them at a third of that.
    """
    import matplotlib
    from cycler import cycler

    paper, ink = (DARK_PAPER, DARK_INK) if dark else (PAPER, INK)
    muted = DARK_MUTED if dark else MUTED
    matplotlib.rcParams.update(
        {
            "figure.figsize": (7, 4),
            "figure.dpi": 144,
            "savefig.dpi": 144,
            "figure.constrained_layout.use": True,
            "figure.facecolor": paper,
            "savefig.facecolor": paper,
            "savefig.transparent": False,
            "axes.facecolor": paper,
            "font.family": "DejaVu Sans",
            "font.size": 13,
            "axes.titlesize": 13,
            "axes.labelsize": 13,
            "xtick.labelsize": 12,
            "ytick.labelsize": 12,
            "legend.fontsize": 12,
            "legend.frameon": False,
            "text.color": ink,
            "axes.labelcolor": ink,
            "axes.titlecolor": ink,
            "axes.edgecolor": muted,
            "xtick.color": muted,
            "ytick.color": muted,
            "xtick.labelcolor": ink,
            "ytick.labelcolor": ink,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": cycler(color=COLORS.values()),
            "image.cmap": "gray",
            "image.interpolation": "nearest",
            "svg.hashsalt": "cvattn",
        }
    )


def cmap(kind: str) -> "Colormap":
    """From near white (low) to the hue of `kind`, then to its dark shade (high).

    Lightness falls all the way, so the order of values survives without the hue.
    """
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    if kind not in COLORS:
        raise ValueError(f"kind must be one of {', '.join(COLORS)}, got kind={kind!r}")
    hue = np.array(to_rgb(COLORS[kind]))
    stops = [0.08 * hue + 0.92, hue, 0.35 * hue]
    return LinearSegmentedColormap.from_list(f"cvattn-{kind}", stops)


def signed_cmap(kind: str) -> "Colormap":
    """From dark grey (negative) through white (zero) to the hue of `kind`."""
    from matplotlib.colors import LinearSegmentedColormap

    if kind not in COLORS:
        raise ValueError(f"kind must be one of {', '.join(COLORS)}, got kind={kind!r}")
    stops = ["#3f4550", "#ffffff", COLORS[kind]]
    return LinearSegmentedColormap.from_list(f"cvattn-signed-{kind}", stops)


def picture(ax: "Axes", image, title: str | None = None) -> "AxesImage":
    """A grey picture (H, W) or a colour one (H, W, 3), without ticks.

    Raises:
        ValueError: another shape, or values that are neither uint8 nor floats from 0
            (black) to 1 (white): they would be wrapped or cut off.
    """
    pixels = np.asarray(image)
    if pixels.ndim != 2 and (pixels.ndim != 3 or pixels.shape[2] != 3):
        raise ValueError(
            f"image must have shape (H, W) or (H, W, 3), got {pixels.shape}")
    top = 255 if pixels.dtype == np.uint8 else 1
    if top == 1 and pixels.dtype.kind != "f":
        raise ValueError(f"image must be uint8 or floats, got {pixels.dtype}")
    within(pixels, 0, top, "image")
    ax.set_axis_off()
    if title is not None:
        ax.set_title(title)
    return ax.imshow(pixels, cmap="gray", vmin=0, vmax=top)


def within(values: np.ndarray, low: float, high: float, name: str) -> None:
    """Refuse values (NaN too) outside [low, high], which a picture would cut off.

    Beyond it by a millionth of the whole is rounding.
    """
    slack = 1e-6 * (high - low)
    if not (low - slack <= values.min() and values.max() <= high + slack):
        raise ValueError(f"{name} must be from {low:.3g} to {high:.3g}, "
                         f"got {values.min():.3g} to {values.max():.3g}")


def feature_map(
    ax: "Axes",
    map,
    *,
    vmax: float | None = None,
    kind: str = "channel",
    signed: bool = False,
) -> "AxesImage":
    """One channel (H, W) of a feature map, without ticks.

    Light is zero and dark is `vmax` (the map's largest magnitude, unless given: give
    the same to maps that are compared). With `signed`, grey is below zero, white is
    zero and the hue is above. Returns what `colorbar` needs.

    Raises:
        ValueError: another number of axes, values beyond `vmax`, or negative ones
            without `signed`, which would look like zeros.
    """
    values = np.asarray(map)
    if values.ndim != 2:
        raise ValueError(f"map must have shape (H, W), got shape {values.shape}")
    top = float(np.abs(values).max() if vmax is None else vmax) or 1.0
    within(values, -top if signed else 0, top, f"map (signed={signed})")
    ax.set_axis_off()
    if signed:
        return ax.imshow(values, cmap=signed_cmap(kind), vmin=-top, vmax=top)
    return ax.imshow(values, cmap=cmap(kind), vmin=0, vmax=top)


def bars(
    ax: "Axes",
    values,
    labels: Sequence[str],
    *,
    color: str = COLORS["channel"],
    highlight: int | None = None,
) -> None:
    """One horizontal bar per label, the first on top.

    `highlight` is the index of the bar that keeps its colour; the others turn grey.
    """
    lengths = np.asarray(values, dtype=float)
    if lengths.shape != (len(labels),):
        raise ValueError(
            "values must be one number per label, "
            f"got shape {lengths.shape} and {len(labels)} labels"
        )
    colors = [color if highlight in (None, i) else MUTED for i in range(len(labels))]
    ax.barh(range(len(labels)), lengths, color=colors)
    ax.set_yticks(range(len(labels)), labels)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()


def interval(
    ax: "Axes", y: float, mean: float, low: float, high: float, color: str, label: str
) -> None:
    """An estimate with its confidence interval, named above, at height `y`.

    Give successive intervals heights one apart.
    """
    import matplotlib

    if not low <= mean <= high:
        raise ValueError(
            f"low <= mean <= high must hold, got low={low}, mean={mean}, high={high}"
        )
    ax.plot([low, high], [y, y], color=color, linewidth=4, solid_capstyle="round")
    ax.plot([mean], [y], "o", color=color, markersize=11)
    ax.annotate(
        label,
        (mean, y),
        xytext=(0, 9),
        textcoords="offset points",
        ha="center",
        va="bottom",
        color=matplotlib.rcParams["text.color"],
        bbox={"facecolor": matplotlib.rcParams["axes.facecolor"],
              "edgecolor": "none", "pad": 1.5},
    )
    ax.spines["left"].set_visible(False)
    ax.set_yticks([])
    ax.margins(x=0.15, y=0.35)


def strip(
    ax: "Axes",
    groups: Mapping[str, Sequence[float]],
    *,
    colors: Mapping[str, str] | None = None,
) -> None:
    """One dot per seed, one column per group, and a line at each group's mean.

    Seed k stands at the same offset in every column, so pairs can be followed.
    `colors` gives groups their colour; the others are grey.
    """
    import matplotlib

    colors = colors or {}
    unknown = sorted(set(colors) - set(groups))
    if unknown:
        raise ValueError(f"colors must name groups, got {', '.join(unknown)}")
    for column, (name, values) in enumerate(groups.items()):
        if len(values) == 0:
            raise ValueError(f"every group must have values, got none for {name!r}")
        offsets = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else [0]
        color = colors.get(name, MUTED)
        ax.plot(column + np.asarray(offsets), values, "o", color=color, alpha=0.8)
        ax.hlines(
            np.mean(values),
            column - 0.32,
            column + 0.32,
            color=matplotlib.rcParams["text.color"],
            linewidth=2,
        )
    ax.set_xticks(range(len(groups)), list(groups))
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.6, len(groups) - 0.4)


def boxes(
    ax: "Axes",
    nodes: Mapping[str, tuple[float, float, str]],
    edges: Sequence[tuple[str, str, str]],
    *,
    kinds: Mapping[str, str] | None = None,
    shortcuts: Mapping[tuple[str, str], float] | None = None,
) -> None:
    """A small diagram: nodes (column, row, text) and arrows (from, to, label).

    `kinds` names the nodes that belong to a kind of attention and take its hue.
    A label stands above the middle of its arrow, beside an upright one. `shortcuts`
    are arrows (from, to) that go round what lies between, at a distance that is this
    share of their length: on the right of their way, or on the left if negative.

    Raises:
        ValueError: if an arrow starts or ends at no node.
    """
    import matplotlib

    ends = [edge[:2] for edge in edges] + list(shortcuts or {})
    lost = sorted({end for pair in ends for end in pair} - set(nodes))
    if lost:
        raise ValueError(f"edges must join nodes, got {', '.join(lost)}")

    ink = matplotlib.rcParams["text.color"]
    size = 13
    drawn = {}
    for key, (x, y, text) in nodes.items():
        color = COLORS[kinds[key]] if kinds and key in kinds else ink
        drawn[key] = ax.annotate(
            text, (x, y), ha="center", va="center", fontsize=size, color=color,
            bbox={"boxstyle": "round,pad=0.45", "facecolor": "none",
                  "edgecolor": color, "linewidth": 1.5},
        )

    def arrow(start: str, end: str, **how) -> None:
        ax.annotate(
            "", nodes[end][:2], xytext=nodes[start][:2],
            arrowprops={"arrowstyle": "-|>", "color": MUTED, "linewidth": 1.5,
                        "patchA": drawn[start].get_bbox_patch(),
                        "patchB": drawn[end].get_bbox_patch(),
                        "shrinkA": 2, "shrinkB": 2, **how},
        )

    for (start, end), far in (shortcuts or {}).items():
        arrow(start, end, connectionstyle=f"bar,fraction={far}")
    for start, end, label in edges:
        (x0, y0, _), (x1, y1, _) = nodes[start], nodes[end]
        arrow(start, end)
        if label:
            beside = {"xytext": (8, 0), "ha": "left", "va": "center"}
            above = {"xytext": (0, 6), "ha": "center", "va": "bottom"}
            ax.annotate(
                label, ((x0 + x1) / 2, (y0 + y1) / 2), textcoords="offset points",
                fontsize=size - 1, color=ink, **(beside if x0 == x1 else above),
            )
    columns, rows = zip(*[(x, y) for x, y, _ in nodes.values()], strict=True)
    ax.set_xlim(min(columns) - 0.5, max(columns) + 0.5)
    ax.set_ylim(min(rows) - 0.5, max(rows) + 0.5)
    ax.set_axis_off()
