"""What several test files need: the built book, and a browser to open it in."""

import functools
import os
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cvattn.book.live import chromium

ROOT = Path(__file__).resolve().parent.parent
CI = os.environ.get("CI", "").lower() == "true"
HOW = (
    "no Chromium: `apt install chromium` on Debian, or "
    "`.venv/bin/playwright install chromium` anywhere, or set CHROMIUM to its path"
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="session")
def book() -> Path:
    """The folder of the built book."""
    html = ROOT / "_build" / "html"
    if not (html / "index.html").exists():
        pytest.skip("the book is not built: `make book`")
    return html


@pytest.fixture(scope="session")
def site(book) -> str:
    """The address of the built book on a local server, without a last slash."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(book))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def net():
    """The trained SE network whose last block the live figures hold."""
    from cvattn.book.experiments.se import trained

    return trained("se")


@pytest.fixture(scope="session")
def arrays():
    """The shipped numbers of the live figures."""
    from cvattn.book import live

    return live.trained()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Headless Chromium, as Playwright's Browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = chromium(playwright)
        if path is None:
            pytest.skip(HOW)
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def must_not_skip(report) -> None:
    """Under CI=true, make a skip a failure that keeps the skip's reason."""
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        report.outcome = "failed"
        report.longrepr = f"skipped under CI=true: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if {"browser", "book"} & set(getattr(item, "fixturenames", ())):
        must_not_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    if collector.name.startswith(("test_book", "test_live")):
        must_not_skip(report)
    return report
