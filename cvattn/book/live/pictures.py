"""Draw live figures in a browser: the pictures that stand where no script runs."""

import io
import os
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
