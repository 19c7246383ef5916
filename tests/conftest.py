"""What several test files need: the built book, and a browser to open it in.

Also how the tests are handed to the workers, and two options: `-m "not browser"`
leaves out what needs Chromium or the built book, `--only se` keeps one chapter.
"""

import functools
import os
import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import warm
from pages import Page, Tabs

from cvattn.book.live.pictures import chromium

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
warm.up()


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

    return live.arrays("se")


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


@pytest.fixture(scope="session")
def tabs(browser):
    return Tabs(browser)


@pytest.fixture
def show(tabs, tmp_path):
    """Opens a page with these figures on it."""
    opened = []

    def make(*parts, attributes="", **options):
        options = {"viewport": {"width": 900, "height": 1000}, **options}
        page = Page(tabs.take(options), tmp_path, *parts, attributes=attributes)
        opened.append((page, options))
        return page

    yield make
    for page, options in opened:
        page.hush()
        tabs.give_back(page.tab, options)


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


def pytest_addoption(parser):
    parser.addoption("--only", metavar="CHAPTER", help="one chapter's tests: se, …")


def words(text: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", text.lower()))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    for item in items:
        if {"browser", "book"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("browser")
    chapter = config.getoption("only")
    if not chapter:
        return
    chapters = {path.stem.removesuffix("_exercises")
                for path in (ROOT / "chapters").glob("*.ipynb")}
    if chapter not in chapters:
        raise pytest.UsageError(
            f"--only must be one of {', '.join(sorted(chapters))}, got {chapter!r}")
    # A test is the chapter's if its file, function or case is named after the
    # chapter, its package's file or one of the classes in it.
    wanted = {chapter}
    module = ROOT / "cvattn" / f"{chapter}.py"
    if module.exists():
        wanted |= words(" ".join(re.findall(r"^class (\w+)", module.read_text("utf-8"),
                                            re.MULTILINE)))
    kept = [item for item in items
            if wanted & words(item.nodeid.removeprefix("tests/").replace("_", " "))]
    config.hook.pytest_deselected(items=[i for i in items if i not in set(kept)])
    items[:] = kept


# What one worker must do alone, since its fixture costs much: a whole file, or in
# test_book what looks at one page. Anything else is handed out function by function.
TOGETHER = {"test_colab.py", "test_publish.py", "test_published.py", "test_wheel.py"}
PAGE = re.compile(r"test_book\.py::.*\[.*?(chapters/\w+|api|notation|intro)\b")


def together(nodeid: str) -> str:
    """Return what the tests that are best run by one worker have in common."""
    path, _, test = nodeid.partition("::")
    if path.endswith(".ipynb") or Path(path).name in TOGETHER:
        return path
    page = PAGE.search(nodeid)
    return f"{path}::{page[1] if page else test.partition('[')[0]}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return together(nodeid)

    return Together(config, log)
