"""What the tests of live figures share: a page with figures, and its numbers."""

import json
import re
from contextlib import contextmanager

import numpy as np

from cvattn.book import live
from cvattn.book.live import pictures

# Of the rules that found nothing wrong axe need not describe every element.
FINDINGS = {"resultTypes": ["violations"]}
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


NUMBER = re.compile(r"[-+\u2212]?\d+(?:\.\d+)?(?:e-?\d+)?")


def same_state(kept, live, tolerance=2e-4):
    """Assert that a stored picture shows what its figure does, by `pictures.state`.

    The words are the same, and the numbers up to the last digit that is kept.
    """
    again = "take it anew: python -m cvattn.book.live shoot"
    assert NUMBER.sub("#", kept) == NUMBER.sub("#", live), again
    kept, live = (np.array([float(n.replace("\u2212", "-"))
                            for n in NUMBER.findall(text)]) for text in (kept, live))
    np.testing.assert_allclose(kept, live, rtol=tolerance, atol=tolerance,
                               err_msg=again)


class Tabs:
    """Tabs by the options of their context, kept: a new one costs four times a page."""

    def __init__(self, browser):
        self.browser, self.free = browser, {}

    def take(self, options):
        kept = self.free.setdefault(json.dumps(options, sort_keys=True), [])
        if kept:
            return kept.pop()
        context = self.browser.new_context(**options)
        context.set_offline(True)
        context.set_default_timeout(60_000)
        return context.new_page()

    def give_back(self, tab, options):
        """As it was taken: an empty page, no hand on it, the media of its context."""
        tab.mouse.move(0, 0)
        tab.goto("about:blank")
        tab.set_viewport_size(options["viewport"])
        tab.emulate_media(color_scheme=options.get("color_scheme", "light"),
                          reduced_motion=options.get("reduced_motion", "no-preference"))
        self.free[json.dumps(options, sort_keys=True)].append(tab)


class Page:
    """A tab with one or more figures on an otherwise empty page, off the network."""

    def __init__(self, tab, folder, *parts, attributes=""):
        self.listen(tab)
        file = folder / "figure.html"
        file.write_text(pictures.page("\n".join(parts), attributes), encoding="utf-8")
        self.tab.goto(file.as_uri())
        self.roots = self.tab.locator(".cvattn-live")
        self.root = self.roots.first

    def listen(self, tab):
        """Note what the tab complains of and what it asks for."""
        self.tab, self.context = tab, tab.context
        self.errors, self.requests = [], []
        self.heard = {
            "console": lambda m: self.errors.append(m.text)
            if m.type in ("error", "warning") else None,
            "pageerror": lambda e: self.errors.append(str(e)),
            "request": lambda r: self.requests.append(r.url),
        }
        for event, hear in self.heard.items():
            tab.on(event, hear)

    def hush(self):
        for event, hear in self.heard.items():
            self.tab.remove_listener(event, hear)

    @contextmanager
    def screen(self, width, height):
        """Another screen for the page alone: a taller window costs its host seconds."""
        client = self.context.new_cdp_session(self.tab)
        client.send("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": False})
        yield
        client.send("Emulation.clearDeviceMetricsOverride")
        client.detach()

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
