"""The class of all live figures, and how the numbers that they show are shipped."""

import base64
import io
import json
from html import escape
from importlib import resources

import numpy as np


def shipped(*path: str) -> bytes:
    return resources.files("cvattn.book").joinpath(*path).read_bytes()


def arrays(chapter: str) -> dict[str, np.ndarray]:
    """Return what `cvattn.book.experiments.<chapter>_figures` collected, by name."""
    return dict(np.load(io.BytesIO(shipped("results", f"{chapter}_live.npz"))))


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
            """JSON without a "<", which alone ends a script or opens a comment."""
            packed = json.dumps(value, sort_keys=True, separators=(",", ":"))
            return packed.replace("<", "\\u003c")

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
