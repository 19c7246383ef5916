"""What the tests of live figures share: a page with figures, and its numbers."""

import json

import numpy as np

from cvattn.book import live
from cvattn.book.live import pictures

CLOSE = 1e-5
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True,
         "is_mobile": True}


def html(name):
    return getattr(live, name)().html()


def same_numbers(chapter, anew, tolerance=CLOSE):
    """Assert that a chapter's figures ship these arrays."""
    shipped = live.arrays(chapter)
    assert list(anew) == list(shipped)
    for name, array in anew.items():
        assert shipped[name].dtype == array.dtype, name
        np.testing.assert_allclose(
            shipped[name], array, atol=tolerance, rtol=tolerance,
            err_msg=f"{name}: run cvattn.book.experiments.{chapter}_figures")


class Page:
    """A tab with one or more figures on an otherwise empty page, off the network."""

    def __init__(self, browser, folder, *parts, attributes="", **context):
        self.open(browser, 60_000,
                  **{"viewport": {"width": 900, "height": 1000}, **context})
        file = folder / "figure.html"
        file.write_text(pictures.page("\n".join(parts), attributes), encoding="utf-8")
        self.tab.goto(file.as_uri())
        self.roots = self.tab.locator(".cvattn-live")
        self.root = self.roots.first

    def open(self, browser, timeout, **context):
        """Open a tab that notes what it complains of and what it asks for."""
        self.context = browser.new_context(**context)
        self.context.set_offline(True)
        self.context.set_default_timeout(timeout)
        self.tab = self.context.new_page()
        self.errors, self.requests = [], []
        self.tab.on("console", lambda m: self.errors.append(m.text)
                    if m.type in ("error", "warning") else None)
        self.tab.on("pageerror", lambda e: self.errors.append(str(e)))
        self.tab.on("request", lambda r: self.requests.append(r.url))

    def state(self, name, root=None):
        return json.loads((root or self.root).get_attribute(f"data-{name}"))

    def said(self, root=None):
        return (root or self.root).locator("output").inner_text()

    def place(self, target, x, y):
        """Scroll the target into view; return the point at x, y in 0..1 of it."""
        target.scroll_into_view_if_needed()
        box = target.bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def drag(self, target, *points):
        self.tab.mouse.move(*self.place(target, *points[0]))
        self.tab.mouse.down()
        for point in points[1:]:
            self.tab.mouse.move(*self.place(target, *point))
        self.tab.mouse.up()

    def swipe(self, start, end, steps=8):
        """Drag a finger, as the browser's own input would."""
        client = self.context.new_cdp_session(self.tab)

        def send(kind, *points):
            client.send("Input.dispatchTouchEvent", {
                "type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})
        send("touchStart", start)
        for i in range(1, steps + 1):
            send("touchMove", tuple(a + (b - a) * i / steps
                                    for a, b in zip(start, end, strict=True)))
        send("touchEnd")
