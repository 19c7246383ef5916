"""Draw live figures in a browser: the pictures that stand where no script runs."""

import io
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from cvattn.book.live import FIGURES


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


def state(figure) -> str:
    """Return what a figure in a page (Playwright's Locator) shows: words and numbers.

    The text, what its sliders say, and the data behind its canvases, as JSON.
    """
    shown = figure.evaluate("""root => ({
      text: root.innerText.split(/\\s+/).join(" "),
      says: [...root.querySelectorAll("[aria-valuetext]")].map(
        e => e.getAttribute("aria-valuetext")),
      data: {...root.dataset},
    })""")
    return re.sub(r"-?\d+\.\d{5,}(?:e-?\d+)?", lambda number: f"{float(number[0]):.4f}",
                  json.dumps(shown, sort_keys=True, ensure_ascii=False))


def kept_state(picture: bytes) -> str:
    """Return the `state` of the figure that a fallback picture shows, if it has one."""
    from PIL import Image

    return Image.open(io.BytesIO(picture)).info.get("state", "")


def shoot(folder: Path, names: Sequence[str] = ()) -> None:
    """Draw these figures, or all, in Chromium; keep each picture in 64 colours.

    A picture carries its figure's `state`, so that a test can see when it is out of
    date.

    Raises:
        ValueError: before any is drawn, if there is no figure of a name.
    """
    known = {make.__name__: make for make in FIGURES}
    if unknown := set(names) - known.keys():
        raise ValueError(f"no figure named {sorted(unknown)}; there are {list(known)}")
    from PIL import Image, PngImagePlugin
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(play),
                                       args=["--no-sandbox", "--disable-gpu"])
        for name in names or known:
            figure = known[name]()
            tab = browser.new_page(viewport={"width": 760, "height": 900},
                                   device_scale_factor=1.5)
            tab.set_content(page(figure.html(picture=b"")))
            root = tab.locator(".cvattn-live")
            taken = root.screenshot(animations="disabled")
            words = PngImagePlugin.PngInfo()
            words.add_itxt("state", state(root), zip=True)
            image = Image.open(io.BytesIO(taken)).convert("RGB")
            path = folder / f"{figure.name}.png"
            part = path.with_suffix(".part")
            image.quantize(64, dither=Image.Dither.NONE).save(
                part, "PNG", optimize=True, pnginfo=words)
            os.replace(part, path)
            print(f"{path.name}: {image.size}, {path.stat().st_size:,} bytes")
        browser.close()
