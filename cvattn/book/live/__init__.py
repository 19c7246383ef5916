"""Live figures: they run in the page, with no kernel and no network::

    from cvattn.book import live
    live.surgery()          # the last line of a cell: the figure shows itself

A figure is a piece of HTML with its data, style and script inside (`page/`), and
with a picture and a sentence that the script replaces when it starts: where no
script runs (a preview, an e-mail) they remain. Its bytes are the same on every
machine: the numbers shown are shipped, never computed here::

    python -m cvattn.book.live shoot [NAME …]  # take the fallback pictures, in Chromium
    python -m cvattn.book.live page DIR        # write each figure as a page of its own
"""

import base64
import io
import json
import os
import shutil
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path

import numpy as np

from cvattn.book.data import CLASSES, MEAN, STD


def shipped(*path: str) -> bytes:
    return resources.files("cvattn.book").joinpath(*path).read_bytes()


def base64_text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def packed(array: np.ndarray) -> dict[str, str]:
    """Return the array's exact bytes, little-endian, for `decode` in core.js."""
    little = array.astype(array.dtype.newbyteorder("<"))
    return {"dtype": array.dtype.name, "base64": base64_text(little.tobytes())}


class Live:
    """A figure that displays itself in a notebook or a book.

    Args:
        name: of the figure, of its script `page/<name>.js` and style, of its
            fallback picture `page/<name>.png`, and in its id, `live-<name>`.
        title: the line above the figure.
        sentence: what stands in its place where neither script nor picture can.
        data: what the script receives: text, whole numbers and packed arrays.
        uses: scripts of `page/` that stand before the figure's own, without ".js".
    """

    def __init__(self, name: str, title: str, sentence: str, data: dict,
                 uses: tuple[str, ...] = ()):
        self.name, self.title, self.sentence, self.data = name, title, sentence, data
        self.uses = uses

    def __repr__(self) -> str:
        return self.sentence

    def picture(self) -> bytes:
        """Return the fallback PNG."""
        return shipped("live", "page", f"{self.name}.png")

    def html(self, picture: bytes | None = None) -> str:
        """Return the whole figure; `picture` stands in for the shipped fallback."""
        if picture is None:
            picture = self.picture()

        def text(file: str) -> str:
            return shipped("live", "page", file).decode("utf-8").replace("\r\n", "\n")

        def script(value) -> str:
            """JSON that cannot end the script element."""
            packed = json.dumps(value, sort_keys=True, separators=(",", ":"))
            return packed.replace("</", "<\\/")

        title, sentence = escape(self.title), escape(self.sentence, quote=False)
        build = f"build{self.name.capitalize()}"
        return f"""\
<div class="cvattn-live" id="live-{self.name}" data-figure="{self.name}" \
role="group" aria-label="{title}">
<style>
{text("live.css")}{text(f"{self.name}.css")}</style>
<div class="fallback"><img alt="{title}" \
src="data:image/png;base64,{base64_text(picture)}"><p>{sentence}</p></div>
<script>
(() => {{
"use strict";
{text("core.js")}
{"".join(text(f"{name}.js") for name in self.uses)}{text(f"{self.name}.js")}
start("{self.name}", {script(self.title)}, {script(self.data)}, {build});
}})();
</script>
</div>"""

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {
            "text/html": self.html(),
            "image/png": base64_text(self.picture()),
            "text/plain": self.sentence,
        }


def trained() -> dict[str, np.ndarray]:
    """Return the arrays that experiments.se_figures took from the network."""
    return dict(np.load(io.BytesIO(shipped("results", "se_live.npz"))))


def squeeze() -> Live:
    """Paint on a real feature map, move or shuffle its pixels, and watch z."""
    arrays = trained()
    return Live(
        "squeeze",
        "Squeeze: what a mean keeps, and what it forgets",
        "Live figure, needs a browser with scripts: six channels of a trained "
        "network's feature map beside their means z. Shuffling the pixels leaves z "
        "as it is; adding d to one of the HW pixels adds d/HW to it.",
        {
            "names": [CLASSES[k] for k in arrays["labels"]],
            "pictures": packed(arrays["pictures"]),
            "channels": arrays["squeeze_channels"].tolist(),
            "size": arrays["squeeze_u"].shape[-1],
            "maps": packed(arrays["squeeze_u"]),
        },
    )


def surgery() -> Live:
    """Set the gates of the last SE block by hand and see the prediction change."""
    arrays = trained()
    return Live(
        "surgery",
        "Gate surgery: set the last gates yourself",
        "Live figure, needs a browser with scripts: the gates of the last SE block "
        "of a trained network as bars to drag, and the class probabilities that "
        "follow from them.",
        {
            "names": [CLASSES[k] for k in arrays["labels"]],
            "classes": CLASSES,
            **{name: packed(arrays[name]) for name in (
                "pictures", "shortcut", "u", "gates", "class_gates", "fc_weight",
                "fc_bias")},
        },
    )


def reduction() -> Live:
    """Choose r and the stages of SE-ResNet-50 and count what SE adds.

    The printed values are those of Hu et al., TPAMI 2020, Tables 10 and 13.
    """
    return Live(
        "reduction",
        "Reduction: what SE adds to ResNet-50, stage by stage",
        "Live figure, needs a browser with scripts: the parameters that SE adds to "
        "ResNet-50 for reduction ratios 2 to 32 and any choice of stages, beside "
        "the values printed in the paper.",
        {
            "base": 25_557_032,
            "statistics": 53_120,
            "ratios": [2, 4, 8, 16, 32],
            "stages": [{"name": f"stage_{i + 2}", "blocks": n, "channels": c}
                       for i, (n, c) in enumerate(
                           [(3, 256), (4, 512), (6, 1024), (3, 2048)])],
            "none": 25.6,
            "table10": {"2": 45.7, "4": 35.7, "8": 30.7, "16": 28.1, "32": 26.9},
            "table13": {"stage_2": 25.6, "stage_3": 25.7, "stage_4": 26.4},
        },
    )


def lookup() -> Live:
    """Ask a dictionary of five entries for a key that it does not hold."""
    return Live(
        "lookup",
        "A soft look-up: ask between the keys",
        "Live figure, needs a browser with scripts: five hours with a water level "
        "each, a question to drag between them, the weights that a softmax or a "
        "sigmoid gives to each, and the answer, for any temperature.",
        {"keys": [6, 9, 12, 15, 18], "values": [1.2, 3.1, 4.4, 2.9, 0.9],
         "low": 4, "high": 20},
    )


def feature_map() -> dict[str, np.ndarray]:
    """Return the arrays that experiments.attention_figures collected."""
    return dict(np.load(io.BytesIO(shipped("results", "attention_live.npz"))))


def weigh() -> Live:
    """Weigh a real feature map by channel, by place or by both, with any scores."""
    arrays = feature_map()
    return Live(
        "weigh",
        "Weigh a real map: which axis, which normaliser, which scores",
        "Live figure, needs a browser with scripts: six channels of a trained "
        "network's feature map, weighed by channel, by place or by both, through a "
        "sigmoid or a softmax, with scores to set by hand.",
        {
            "names": [CLASSES[k] for k in arrays["labels"]],
            "pictures": packed(arrays["pictures"]),
            "channels": arrays["channels"].tolist(),
            "size": arrays["u"].shape[-1],
            "maps": packed(arrays["u"]),
        },
    )


def cbam_arrays() -> dict[str, np.ndarray]:
    """Return the arrays that experiments.cbam_figures collected."""
    return dict(np.load(io.BytesIO(shipped("results", "cbam_live.npz"))))


def spot() -> Live:
    """Put a bright spot on a channel and watch mean, maximum and gate."""
    arrays = cbam_arrays()
    return Live(
        "spot",
        "One bright spot: what the mean sees, and what the maximum",
        "Live figure, needs a browser with scripts: a spot to move, brighten and "
        "enlarge on a channel of a trained network, with the channel's mean and "
        "maximum, and the gates that follow from the one, the other and both.",
        {
            "names": [CLASSES[k] for k in arrays["labels"]],
            "channels": arrays["channels"].tolist(),
            "size": arrays["u"].shape[-1],
            "maps": packed(arrays["u"]),
            **{name: packed(arrays[name])
               for name in ("pictures", "mean", "max", "W0", "W1")},
        },
    )


def slide() -> Live:
    """Slide the 7x7 window of a spatial gate over the two maps that it reads."""
    arrays = cbam_arrays()
    return Live(
        "slide",
        "The window of the spatial gate, place by place",
        "Live figure, needs a browser with scripts: a window of 7 by 7 to drag over "
        "the mean and the maximum of a trained network's channels, the kernel, the "
        "products, their sum and the gate at the window's centre.",
        {
            "names": [CLASSES[k] for k in arrays["labels"]],
            "size": arrays["maps"].shape[-1],
            "k": arrays["kernel"].shape[-1],
            **{name: packed(arrays[name]) for name in ("pictures", "maps", "kernel")},
        },
    )


def paint() -> Live:
    """Paint a mask over a trained network's last features and see what it says."""
    arrays = cbam_arrays()
    return Live(
        "paint",
        "A mask of your own over the last features",
        "Live figure, needs a browser with scripts: a mask of 7 by 7 places to paint "
        "over the last feature map of a trained network, and the class "
        "probabilities that follow.",
        {
            "names": [CLASSES[k] for k in arrays["labels"]],
            "labels": arrays["labels"].tolist(),
            "classes": CLASSES,
            "size": arrays["own"].shape[-1],
            **{name: packed(arrays[name]) for name in (
                "pictures", "features", "own", "fc_weight", "fc_bias")},
        },
    )


def trap() -> Live:
    """Step through spatial attention without keepdim, for any batch."""
    i = np.arange(5 * 3 * 5 * 4)
    x = ((7919 * i) % 31 / 10 - 1.5).astype(np.float32).reshape(5, 3, 5, 4)
    kernel = ((5 * np.arange(18)) % 9 / 8 - 0.5).astype(np.float32)
    return Live(
        "trap",
        "The batch of two: step through it",
        "Live figure, needs a browser with scripts: the shapes inside spatial "
        "attention with and without keepdim, step by step. Without it the "
        "convolution takes the pictures of the batch for channels, and a batch of "
        "exactly two raises no error.",
        {"x": packed(x), "kernel": packed(kernel), "C": 3, "W": 4, "most": 5},
    )


def cover() -> Live:
    """Choose tests and see which silent faults none of them finds."""
    found = json.loads(shipped("results", "clinic.json"))
    ids = list(found["trap"])
    return Live(
        "cover",
        "Which tests would you run?",
        "Live figure, needs a browser with scripts: a table of silent faults and of "
        "the tests that find them, with tests to choose, and the number of faults "
        "that go undetected.",
        {"tests": found["tests"], "ids": ids,
         "names": [found["names"].get(id, "") for id in ids],
         "found": {sizes: [found[sizes][id] for id in ids]
                   for sizes in ("trap", "apart")}},
    )


def field() -> Live:
    """Choose dilation and depth, and see which pixels one place sees."""
    return Live(
        "field",
        "What one place sees: dilation and depth",
        "Live figure, needs a browser with scripts: the pixels that one place of a map "
        "sees through 3 x 3 convolutions, for any dilation, depth and place; how many "
        "they are, how many lie beyond the border, and how many a neighbour shares.",
        {"sizes": [9, 18, 36]},
    )


def combine() -> Live:
    """Set a channel's and a place's score; see the gates of sum, product, maximum."""
    return Live(
        "combine",
        "Two scores, three gates",
        "Live figure, needs a browser with scripts: two scores to set, and the gate "
        "that their sum, their product and their maximum make, with its slopes.",
        {"most": 4},
    )


def scenes() -> dict[str, np.ndarray]:
    """Return the arrays that experiments.bam_figures collected."""
    return dict(np.load(io.BytesIO(shipped("results", "bam_live.npz"))))


def hierarchy() -> Live:
    """Lay the gates of trained BAM networks over a scene, and read the mass."""
    arrays = scenes()
    arms = ("sum", "product", "max")
    return Live(
        "hierarchy",
        "Does it find the object? Gates after stages 1, 2, 3",
        "Live figure, needs a browser with scripts: scenes of one object among "
        "fragments, with the gates of three trained networks over them, after each "
        "stage; the share of the gates that lies on the object, and their mean on "
        "object, fragments and empty canvas.",
        {
            "names": [CLASSES[k] for k in arrays["labels"]],
            "size": arrays["pictures"].shape[-1],
            "arms": list(arms),
            "sizes": [arrays[f"sum{stage}"].shape[-1] for stage in (1, 2, 3)],
            **{k: packed(arrays[k]) for k in ("pictures", "object", "fragments")},
            "maps": {f"{arm}{stage}": packed(arrays[f"{arm}{stage}"])
                     for arm in arms for stage in (1, 2, 3)},
        },
    )


def axis() -> Live:
    """Take the softmax of a block of scores along any of its axes."""
    scores = np.array([[[1.0, -0.5, 0.3, 2.0], [0.0, 0.5, 0.3, -1.0]],
                       [[-1.2, 0.8, 1.5, 0.0], [0.4, -0.7, 1.1, 0.6]]])
    maps = np.array([[[4.0, 1.0, 2.5, 0.5], [0.8, 5.0, 1.0, 3.0]],
                     [[1.5, 3.5, 0.6, 4.5], [2.8, 1.2, 4.0, 2.0]]])
    return Live(
        "axis",
        "Along which axis? One softmax, four ways",
        "Live figure, needs a browser with scripts: scores of two pictures, two "
        "branches and four channels, and their weights after a softmax along the "
        "branches, the channels, both, or the batch. Along the branches alone the two "
        "weights of every channel sum to 1.",
        {"scores": packed(scores.astype(np.float32)),
         "maps": packed(maps.astype(np.float32)), "B": 2, "M": 2, "C": 4, "most": 4},
    )


def kernels() -> dict[str, np.ndarray]:
    """Return the arrays that experiments.sk_figures collected."""
    return dict(np.load(io.BytesIO(shipped("results", "sk_live.npz"))))


def grow() -> Live:
    """Enlarge an object and see which kernel every layer and channel chooses."""
    arrays = kernels()
    return Live(
        "grow",
        "A larger object: which kernel does each layer choose?",
        "Live figure, needs a browser with scripts: a picture to enlarge from 14 to 28 "
        "pixels, and the weight that a trained network gives to the larger kernel, in "
        "each of its six layers and in every channel.",
        {
            "names": [CLASSES[k] for k in arrays["labels"]],
            "classes": CLASSES,
            "sides": arrays["sides"].tolist(),
            "widths": arrays["widths"].tolist(),
            **{name: packed(arrays[name]) for name in (
                "pictures", "weights", "probabilities")},
        },
    )


def arrows() -> Live:
    """Drag one query and four keys, and watch scores, softmax and result."""
    return Live(
        "arrows",
        "One look-up: drag the query and the keys",
        "Live figure, needs a browser with scripts: a query and four keys as arrows "
        "in the plane, their scores and weights, and the weighted mean of four values.",
        {"q": [1.6, 0.9], "keys": [[1.9, 0.4], [0.3, 1.8], [-1.7, 0.8], [-0.5, -1.5]],
         "values": [[2.2, 2.2], [-2.2, 2.2], [-2.2, -2.2], [2.2, -2.2]], "most": 3},
    )


def waves() -> Live:
    """Move a position and a shift, and watch the hands of the positional code."""
    return Live(
        "waves",
        "The code of a position: a clock with eight hands",
        "Live figure, needs a browser with scripts: the sines and cosines that tell a "
        "Transformer where a letter stands, as eight clock hands, for any position "
        "and any shift, with the dot product of the two codes.",
        {"dim": 16, "last": 60},
    )


def dates() -> Live:
    """Type a date and run the small trained Transformer on it, in the page."""
    from cvattn.book.experiments.transformer import (
        CHARACTERS,
        END,
        SETTINGS,
        START,
    )
    from cvattn.book.experiments.transformer_figures import examples

    arrays = dict(np.load(io.BytesIO(shipped("results", "transformer_live.npz"))))
    numbers = np.concatenate([a.ravel() for a in arrays.values()])
    return Live(
        "dates",
        "A whole Transformer: type a date",
        "Live figure, needs a browser with scripts: a small trained Transformer that "
        "reads a date in any form and writes it as year, month and day, with the "
        "attention map of each of its layers and heads.",
        {
            "characters": CHARACTERS, "start": START, "end": END, "extra": 10,
            "longest": 32, "examples": examples(),
            "dim": SETTINGS["dim"], "heads": SETTINGS["num_heads"],
            "layers": SETTINGS["layers"],
            "layout": [[name, a.size] for name, a in arrays.items()],
            "numbers": packed(numbers.view(np.uint8)),
        },
        uses=("layers",),
    )


def small_vit() -> dict:
    """Return the network and the pictures that experiments.vit_figures kept."""
    import torch

    from cvattn.book.experiments.vit import build

    arrays = dict(np.load(io.BytesIO(shipped("results", "vit_live.npz"))))
    with torch.device("meta"):          # names and sizes alone: draws no number
        net = build({"net": "vit"})
    names = [name for name, _ in net.named_parameters()]
    matrices = [name for name in names if arrays[name].ndim == 2]
    vectors = [name for name in names if arrays[name].ndim == 1]
    whole = np.concatenate([arrays[name].ravel() for name in matrices])
    scales = np.concatenate([arrays[f"{name}.scale"] for name in matrices])
    numbers = np.concatenate([arrays[name] for name in vectors])
    return {
        "names": [CLASSES[k] for k in arrays["labels"]],
        "labels": arrays["labels"].tolist(),
        "classes": CLASSES,
        "pictures": packed(arrays["pictures"]),
        "matrices": [[name, *arrays[name].shape] for name in matrices],
        "vectors": [[name, arrays[name].size] for name in vectors],
        "whole": packed(whole.view(np.uint8)),
        "scales": packed(scales),
        "numbers": packed(numbers),
        "dim": net.E.out_channels, "heads": net.layers[0].attention.num_heads,
        "layers": len(net.layers), "patch": net.E.kernel_size[0],
        "mean": MEAN, "std": STD,
    }


def looks() -> Live:
    """Click a patch and see where it looks, in each layer and head of a small ViT."""
    return Live(
        "looks",
        "Where does a patch look?",
        "Live figure, needs a browser with scripts: a picture in 49 patches, and for "
        "the patch that is chosen the weights that it gives to all others, in each "
        "layer and head of a small trained Vision Transformer.",
        small_vit(), uses=("layers", "encoder"),
    )


def shuffle() -> Live:
    """Shuffle the patches of a picture, with and without their positions."""
    return Live(
        "shuffle",
        "Shuffle the patches: who notices?",
        "Live figure, needs a browser with scripts: a picture in 49 patches to "
        "exchange or shuffle, with positions that stay, travel along or are switched "
        "off, and the class probabilities of a small trained Vision Transformer.",
        small_vit(), uses=("layers", "encoder"),
    )


def resampled() -> dict[str, np.ndarray]:
    """Return the arrays that experiments.stn_figures collected."""
    return dict(np.load(io.BytesIO(shipped("results", "stn_live.npz"))))


def warp() -> Live:
    """Set the six numbers of an affine map, and follow one pixel and the gradient."""
    arrays = resampled()
    return Live(
        "warp",
        "Six numbers that move a picture",
        "Live figure, needs a browser with scripts: a picture with the sampling grid "
        "of an affine map over it, three handles for its six numbers, the picture read "
        "from there, and for one pixel of it the four weights and the slopes.",
        {
            "names": [CLASSES[k] for k in arrays["labels"]],
            "pictures": packed(arrays["pictures"]),
            "size": arrays["pictures"].shape[-1],
            "theta": [0.9, -0.3, 0.15, 0.3, 0.9, -0.1],
            "world": 1.6, "rate": 0.1, "steps": 10,
        },
        uses=("resample",),
    )


def upright() -> Live:
    """Move an object, and see what a trained spatial transformer makes of it."""
    arrays = resampled()
    depth = sum(name.startswith("weight") for name in arrays)
    layers = [arrays[f"{kind}{k}"] for k in range(depth) for kind in ("weight", "bias")]
    numbers = [a.ravel() for a in layers] + [np.float32([MEAN, STD])]
    return Live(
        "upright",
        "A trained transformer, and an object that you move",
        "Live figure, needs a browser with scripts: a piece of clothing to turn, scale "
        "and move, the frame in which a trained spatial transformer reads it, and what "
        "it reads.",
        {
            "names": [CLASSES[k] for k in arrays["labels"]],
            "pictures": packed(arrays["pictures"]),
            "size": 2 * round(arrays["weight0"].shape[1] ** 0.5), "world": 1.3,
            "shapes": [list(a.shape) for a in layers[::2]],
            "numbers": packed(np.concatenate(numbers)),
        },
        uses=("resample",),
    )


FIGURES = (lookup, weigh, squeeze, surgery, reduction, spot, slide, paint, trap, cover,
           field, combine, hierarchy, axis, grow, arrows, waves, dates, looks,
           shuffle, warp, upright)


def page(figure: str, attributes: str = "") -> str:
    """Return a page with nothing but this HTML on it."""
    return (f'<!doctype html><html lang="en" {attributes}><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width">'
            '<title>Live figure</title></head>'
            f"<body><main>{figure}</main></body></html>")


def chromium(playwright) -> str | None:
    """Return the path of a Chromium: CHROMIUM, the system's, Playwright's, or None."""
    if os.environ.get("CHROMIUM"):
        return os.environ["CHROMIUM"]
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


def shoot(folder: Path, names: Sequence[str] = ()) -> None:
    """Draw these figures, or all, in Chromium; keep each picture in 64 colours.

    Raises:
        ValueError: before any is drawn, if there is no figure of a name.
    """
    known = {make.__name__: make for make in FIGURES}
    if unknown := set(names) - known.keys():
        raise ValueError(f"no figure named {sorted(unknown)}; there are {list(known)}")
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(play),
                                       args=["--no-sandbox", "--disable-gpu"])
        for name in names or known:
            figure = known[name]()
            tab = browser.new_page(viewport={"width": 760, "height": 900},
                                   device_scale_factor=1.5)
            tab.set_content(page(figure.html(picture=b"")))
            taken = tab.locator(".cvattn-live").screenshot(animations="disabled")
            image = Image.open(io.BytesIO(taken)).convert("RGB")
            path = folder / f"{figure.name}.png"
            part = path.with_suffix(".part")
            image.quantize(64, dither=Image.Dither.NONE).save(part, "PNG",
                                                              optimize=True)
            os.replace(part, path)
            print(f"{path.name}: {image.size}, {path.stat().st_size:,} bytes")
        browser.close()
