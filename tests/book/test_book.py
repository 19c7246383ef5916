"""The built book, as a reader has it: from its files, in Chromium, off the network.

Each page is opened once (wide, light, then dark, then as narrow as a phone), what was
seen is judged by many tests, and the live figures of the same tab are moved; links are
followed without a browser.
"""

import importlib
import inspect
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import numpy as np
import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from conftest import CI, ROOT
from pages import CLOSE, FINDINGS, Page
from test_live import agrees, counted, true_z
from test_live_attention import looked_up, weighed
from test_live_bam import regions, seen
from test_live_cbam import painted, slid, spotted
from test_live_clinic import torch_trap
from test_live_sk import chosen_weights, grown
from test_live_stn import transformed, warped
from test_live_transformer import agreed, looked_along, rounded, shows
from test_live_vit import looked, small, told

from cvattn.book import live, plot
from cvattn.book.experiments import cbam as cbam_experiment
from cvattn.book.experiments import sk as sk_experiment
from cvattn.book.experiments import stn as stn_experiment
from cvattn.book.experiments.stn_figures import ARM

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
SOURCES = [TOC["root"], *(page["file"] for part in TOC["parts"]
                          for chapter in part["chapters"]
                          for page in [chapter, *chapter.get("sections", [])])]
MADE = ["genindex", "py-modindex", "search"]     # pages that Sphinx adds
each_page = pytest.mark.parametrize("name", [*SOURCES, *MADE])
NOTEBOOKS = [name for name in SOURCES if (ROOT / f"{name}.ipynb").exists()]
each_notebook = pytest.mark.parametrize("name", NOTEBOOKS)
EXERCISES = [name for name in NOTEBOOKS if name.endswith("_exercises")]
CHAPTERS = [name for name in NOTEBOOKS if name not in EXERCISES]
HEAVIEST = 1_500_000                      # bytes of one page's HTML
SCHEMES = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
LOADS = {"img": ["src"], "script": ["src"], "iframe": ["src"], "source": ["src"],
         "video": ["src"], "audio": ["src"], "embed": ["src"], "object": ["data"]}
LOADING = {"stylesheet", "icon", "preload", "modulepreload", "manifest"}


# Is it built? --------------------------------------------------------------------


def source_of(name):
    found = [ROOT / f"{name}{kind}" for kind in (".md", ".ipynb")]
    return next(path for path in found if path.exists())


def what_it_reads(name):
    """Return the page's source and the files that Sphinx knows it shows."""
    source = source_of(name)
    if source.suffix == ".ipynb":
        cells = nbformat.read(source, as_version=4).cells
        text = "\n".join(cell.source for cell in cells
                         if cell.cell_type == "markdown")
    else:
        text = source.read_text(encoding="utf-8")
    files = [source]
    for path in re.findall(r"\{(?:literalinclude|include)\} *(\S+)", text):
        files.append(source.parent / path)
    for path in re.findall(r"auto(?:class|function|module):: *(cvattn\S*)", text):
        try:
            thing = importlib.import_module(path)
        except ModuleNotFoundError:
            module, _, name = path.rpartition(".")
            thing = getattr(importlib.import_module(module), name)
        files.append(Path(inspect.getsourcefile(inspect.unwrap(thing))))
    return files


def stale(html):
    """Name the pages and assets of the book that are older than their source."""
    for name in SOURCES:
        page = html / f"{name}.html"
        for file in what_it_reads(name):
            if not page.exists():
                yield f"{name}.html is missing"
            elif page.stat().st_mtime < file.stat().st_mtime:
                yield f"{name}.html is older than {file.relative_to(ROOT)}"
    for asset in sorted((ROOT / "_static").iterdir()):
        copy = html / "_static" / asset.name
        if not copy.exists() or copy.read_bytes() != asset.read_bytes():
            yield f"_static/{asset.name} is not the one in the tree"


@pytest.fixture(scope="module")
def html(book):
    """The folder of the built book, if it is the book of these sources."""
    old = sorted(set(stale(book)))
    if old:
        say = pytest.fail if CI else pytest.skip
        say(f"the book must be built anew, `make book`: {'; '.join(old)}")
    return book


# Without a browser ---------------------------------------------------------------


class Parsed(HTMLParser):
    """What a page says of itself: ids, links, what it loads, pictures, text."""

    # What is not read: a live figure's text in a script is no part of the page.
    SILENT = ("script", "style", "title")

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads = [], [], []
        self.pictures, self.equations = [], 0
        self.text, self.silent = [], 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, pairs):
        values = {name: value or "" for name, value in pairs}
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a" and "name" in values:
            self.ids.append(values["name"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link":
            loading = LOADING & set(values.get("rel", "").split())
            (self.loads if loading else self.links).append(values["href"])
        self.loads += [values[k] for k in LOADS.get(tag, []) if k in values]
        for part in values.get("srcset", "").split(","):
            self.loads += part.split()[:1]
        if tag == "meta" and values.get("http-equiv", "").lower() == "refresh":
            self.links.append(values["content"].partition("url=")[2])
        if tag == "img":
            self.pictures.append((values.get("src", "")[:80], values.get("alt", "")))
        self.equations += "math" in values.get("class", "").split()
        self.silent += tag in self.SILENT

    def handle_endtag(self, tag):
        self.silent -= tag in self.SILENT

    def handle_data(self, data):
        if not self.silent:
            self.text.append(data)


@pytest.fixture(scope="module")
def parsed(html):
    """Every page of the book, by its path."""
    return {path.relative_to(html).as_posix(): Parsed(path)
            for path in html.rglob("*.html")
            if path.relative_to(html).parts[0] not in ("_static", "vendor")}


def broken(html, parsed, page):
    """Say what is wrong with each link of the page and each file that it loads."""
    here = parsed[page]
    for target in here.loads:
        if target.startswith("data:"):
            continue
        if SCHEMES.match(target) or target.startswith("//"):
            yield f"loads {target} from elsewhere"
        elif not (html / page).parent.joinpath(
                unquote(urlsplit(target).path)).is_file():
            yield f"loads {target}, which does not exist"
    for target in here.links:
        if SCHEMES.match(target):
            if not re.match("https?://|mailto:", target):
                yield f"links to {target}"
            continue
        parts = urlsplit(target)
        path = (html / page).resolve()
        if parts.path:
            path = (path.parent / unquote(parts.path)).resolve()
        if not path.is_relative_to(html.resolve()):
            yield f"links to {target}, outside the book"
        elif not path.is_file():
            yield f"links to {target}, which does not exist"
        elif parts.fragment and path.suffix == ".html":
            name = path.relative_to(html.resolve()).as_posix()
            ids = (parsed.get(name) or Parsed(path)).ids
            if unquote(parts.fragment) not in ids:
                yield f"links to {target}, where nothing has that id"


def test_the_book_has_these_pages_and_no_others(parsed):
    assert sorted(parsed) == sorted(
        f"{name}.html" for name in ["index", *SOURCES, *MADE])


@pytest.mark.parametrize("name", ["index", *SOURCES, *MADE])
def test_every_link_and_anchor_resolves(html, parsed, name):
    page = f"{name}.html"
    assert list(dict.fromkeys(broken(html, parsed, page))) == []
    assert name == "index" or len(parsed[page].links) > 5
    twice = {i for i in parsed[page].ids if parsed[page].ids.count(i) > 1}
    assert twice == set()


@each_page
def test_every_picture_has_words(parsed, name):
    pictures = parsed[f"{name}.html"].pictures
    assert pictures
    assert [source for source, words in pictures if not words.strip()] == []


@each_page
def test_pages_are_light(html, name):
    def size(paths):
        return sum(path.stat().st_size for path in paths if path.is_file())

    own = size([html / f"{name}.html"])
    parts = {folder.name: size(folder.rglob("*")) for folder in html.iterdir()
             if folder.is_dir()}
    assert own < HEAVIEST, (
        f"{name}.html has {own:,} bytes of at most {HEAVIEST:,}; the whole book "
        f"{size(html.rglob('*')):,}, of which "
        + ", ".join(f"{part} {n:,}" for part, n in sorted(parts.items())))


def squeezed(text):
    return re.sub(r"\s+", "", text)


@each_notebook
def test_removed_cells_are_not_on_the_page_and_all_others_are(parsed, name):
    page = squeezed("".join(parsed[f"{name}.html"].text))
    cells = nbformat.read(ROOT / f"{name}.ipynb", as_version=4).cells
    cells = [cell for cell in cells if cell.cell_type == "code"]
    removed = [cell for cell in cells if "remove-cell" in cell.metadata.get("tags", [])]
    assert removed or name not in EXERCISES
    for cell in cells:
        assert (squeezed(cell.source) in page) == (cell not in removed), cell.source
    assert "HIDDENTESTS" not in page


# In the browser ------------------------------------------------------------------


class Opened(Page):
    """A tab with a page of the book, off the network; see `pages`."""

    def __init__(self, browser, html, name, theme="light", **context):
        context = browser.new_context(**{
            "viewport": {"width": 1280, "height": 900},
            "color_scheme": theme, "reduced_motion": "reduce", **context})
        context.set_offline(True)
        context.set_default_timeout(120_000)     # a busy machine
        context.route(re.compile("^(?!file:)"), lambda route: route.abort())
        self.listen(context.new_page())
        self.book = html.resolve().as_uri() + "/"
        self.tab.goto(f"{self.book}{name}.html")
        if self.tab.locator(".math").count():
            self.tab.wait_for_function("window.MathJax?.startup?.promise")
            self.tab.evaluate("MathJax.startup.promise.then(() => null)")

    def left_the_book(self):
        return [url for url in self.requests
                if not url.startswith((self.book, "data:", "blob:"))]

    def figure(self, name):
        self.root = self.tab.locator(f".cvattn-live[data-figure={name}]").first
        return self


UNFOLD = """() => {
  document.querySelectorAll("details").forEach((e) => { e.open = true; });
  document.querySelectorAll(".toggle-hidden > .toggle-button, " +
    "button.toggle-button-hidden").forEach((e) => e.click());
}"""
# Of each solution and hint its text, and whether it is seen: at first, after a click,
# and (a solution) after another. Each is clicked where a finger would land.
FOLDED = """() => {
  const press = (e) => {
    e.scrollIntoView({block: "center", behavior: "instant"});
    const box = e.getBoundingClientRect();
    const hit = document.elementFromPoint(
      box.x + Math.min(20, box.width / 2), box.y + box.height / 2);
    if (!e.contains(hit)) throw Error("something lies over " + e.outerHTML);
    hit.click();
  };
  const seen = (e) => e.checkVisibility({visibilityProperty: true});
  const clicked = (button, text, times) => {
    const states = [seen(text)];
    for (let i = 0; i < times; i++) { press(button); states.push(seen(text)); }
    return [text.textContent, states];
  };
  return {
    solutions: [...document.querySelectorAll("details")]
      .map((e) => [e.querySelector("summary"), e.querySelector("pre")])
      .filter(([summary]) => summary.textContent.includes("Show a solution"))
      .map(([summary, code]) => clicked(summary, code, 2)),
    hints: [...document.querySelectorAll(".admonition.dropdown")].map((e) => clicked(
      e.querySelector(".admonition-title, summary"),
      e.querySelector("p:not(.admonition-title)"), 1)),
  };
}"""
# What unfolds fades in, and a colour half way has no contrast.
SETTLED = "document.getAnimations().every((a) => a.playState === 'finished')"
# The theme keeps a second title for paper, unseen on a screen.
HEADINGS = """() => [...document.querySelectorAll("h1")]
  .filter((e) => e.checkVisibility()).map((e) => e.textContent)"""
# Equations that are still TeX, or that MathJax could not read.
UNREAD = """() => [...document.querySelectorAll(".math")].filter((e) =>
  !e.querySelector("mjx-container") || e.querySelector("mjx-merror, merror"))
  .map((e) => e.textContent)"""
# The width of the page, and what sticks out of the screen with no box to scroll in.
TOO_WIDE = """() => {
  const wide = document.documentElement.clientWidth;
  const scrolls = (e) => e && e !== document.body &&
    (/auto|scroll/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  const out = [...document.querySelectorAll(".bd-main *")].filter((e) => {
    const box = e.getBoundingClientRect(), style = getComputedStyle(e);
    return box.width > 1 && box.height > 1 && box.right > wide + 1 &&
      style.visibility === "visible" && !e.closest("mjx-assistive-mml, .bd-sidebar") &&
      !scrolls(e);
  });
  return [document.scrollingElement.scrollWidth - innerWidth,
    out.map((e) => e.outerHTML.slice(0, 120))];
}"""
# The page's own font, then others, which every machine has in some form.
FONTS = (None, "serif", "monospace")
WIDTHS = (400, 360, 320)
SET_FONT = """(font) => {
  const style = document.documentElement.style;
  for (const name of ["--pst-font-family-base", "--pst-font-family-heading"])
    font ? style.setProperty(name, font) : style.removeProperty(name);
}"""
DRAWN = """new Promise(
  (done) => requestAnimationFrame(() => requestAnimationFrame(done)))"""
# Ten thousand words of code have a few dozen colours. Of each colour, in the light
# and in the dark, a few words stay elements of their own; the others become plain
# text, so that axe, which looks at every element, sees each colour, not each word.
ONE_OF_EACH = """() => {
  const words = [...document.querySelectorAll(".highlight pre span")]
    .filter((e) => !e.children.length);
  const look = () => words.map((e) => {
    const style = getComputedStyle(e);
    return [style.color, style.backgroundColor, style.fontWeight, style.fontSize,
      getComputedStyle(e.closest("pre")).backgroundColor].join();
  });
  const root = document.documentElement, light = look(), theme = root.dataset.theme;
  root.dataset.theme = "dark";
  const dark = look();
  root.dataset.theme = theme;
  const kinds = {};
  words.forEach((e, i) => {
    const kind = light[i] + dark[i];
    kinds[kind] = (kinds[kind] || 0) + 1;
    if (kinds[kind] > 3) e.replaceWith(...e.childNodes);
  });
  return Object.keys(kinds).length;
}"""
# Of each picture of a cell, the colour that lies behind it.
BEHIND = """() => [...document.querySelectorAll(
    ".bd-article .cell_output img, .bd-article figure img")].map((e) => {
  let at = e;
  while (at && /, 0\\)$|transparent/.test(getComputedStyle(at).backgroundColor))
    at = at.parentElement;
  return [e.getAttribute("src").slice(-40), at && getComputedStyle(at).backgroundColor];
})"""


def serious(tab, options=None):
    """Return axe's serious findings, and the names of the rules that found a case."""
    # Without preload axe does not fetch style sheets, which file:// forbids.
    found = Axe().run(
        tab, options={"preload": False, **FINDINGS, **(options or {})}).response
    kinds = found["passes"] + found["violations"] + found["incomplete"]
    return [(rule["id"], [node["html"][:160] for node in rule["nodes"]][:5])
            for rule in found["violations"]
            if rule["impact"] in ("serious", "critical")], {r["id"] for r in kinds}


class Visits:
    """Each page opened once and looked at in every way; the last one stays open."""

    def __init__(self, browser, html):
        self.browser, self.html = browser, html
        self.seen, self.name, self.page = {}, None, None

    def __call__(self, name):
        if name not in self.seen:
            try:
                self.seen[name] = self.look(name)
            except Exception as error:
                self.seen[name] = error
        if isinstance(self.seen[name], Exception):
            raise self.seen[name]
        return self.seen[name]

    def open(self, name):
        """Return a page to act upon, the one that was looked at if it is still open."""
        if self.name != name:
            self.close()
            self.name, self.page = name, Opened(self.browser, self.html, name)
        return self.page

    def close(self):
        if self.page:
            self.page.context.close()
        self.name = self.page = None

    def look(self, name):
        page = self.open(name)
        tab = page.tab
        found = {"equations": tab.locator(".math").count(),
                 "unread": tab.evaluate(UNREAD), "titles": tab.evaluate(HEADINGS)}
        if name in EXERCISES:
            found["folded"] = tab.evaluate(FOLDED)
        tab.evaluate(UNFOLD)
        tab.wait_for_function(SETTLED)
        found["colours of code"] = tab.evaluate(ONE_OF_EACH)
        # A screen as tall as the page spares axe the scrolling.
        height = tab.evaluate("document.documentElement.scrollHeight")
        with page.screen(1280, height):
            found["light"] = serious(tab)
            tab.evaluate("document.documentElement.dataset.theme = 'dark'")
            tab.wait_for_function(SETTLED)
            found["dark"] = serious(tab, {"runOnly": ["color-contrast"]})
        found["paper"] = tab.evaluate(
            "getComputedStyle(document.body).backgroundColor")
        found["behind"] = tab.evaluate(BEHIND)
        found["too wide"] = {}
        for width in WIDTHS:
            with page.screen(width, 740):
                for font in FONTS:
                    tab.evaluate(SET_FONT, font)
                    tab.evaluate(DRAWN)
                    found["too wide"][width, font] = tab.evaluate(TOO_WIDE)
        tab.evaluate(SET_FONT, None)
        tab.evaluate("document.documentElement.dataset.theme = 'light'")
        found["errors"], found["outside"] = [*page.errors], page.left_the_book()
        return found


@pytest.fixture(scope="module")
def visit(browser, html):
    visits = Visits(browser, html)
    yield visits
    visits.close()


@each_page
def test_opens_without_a_complaint_and_without_the_network(visit, name):
    assert visit(name)["errors"] == []
    assert visit(name)["outside"] == []


@each_page
def test_has_one_title(visit, name):
    assert len(visit(name)["titles"]) == 1


@each_page
def test_every_equation_is_set(visit, parsed, name):
    assert visit(name)["unread"] == []
    assert visit(name)["equations"] == parsed[f"{name}.html"].equations


@pytest.mark.parametrize("name", [*NOTEBOOKS, "notation"])
def test_equations_are_where_they_should_be(visit, name):
    assert visit(name)["equations"] > 20


@each_page
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, name, theme):
    findings, rules = visit(name)[theme]
    assert findings == []
    assert "color-contrast" in rules


@each_page
@pytest.mark.parametrize("font", FONTS)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_phone_scrolls_down_and_never_sideways(visit, name, width, font):
    beyond, sticking_out = visit(name)["too wide"][width, font]
    assert beyond <= 0 and sticking_out == [], sticking_out


def luminance(colour):
    """WCAG's relative luminance of "rgb(…)" or "#rrggbb"."""
    if colour.startswith("#"):
        values = [int(colour[i:i + 2], 16) for i in (1, 3, 5)]
    else:
        values = [float(v) for v in re.findall(r"[\d.]+", colour)[:3]]
    c = np.array(values) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [
        0.2126, 0.7152, 0.0722]


@each_page
def test_in_the_dark_pictures_keep_a_light_card(visit, name):
    seen = visit(name)
    assert luminance(seen["paper"]) < 0.05
    for picture, colour in seen["behind"]:
        contrast = (luminance(colour) + 0.05) / (luminance(plot.INK) + 0.05)
        assert contrast >= 4.5, (picture, colour)
    assert name not in CHAPTERS or len(seen["behind"]) >= 5


def test_the_first_address_leads_to_the_title_page(browser, html):
    page = Opened(browser, html, "index")
    page.tab.wait_for_url(f"{page.book}{TOC['root']}.html")
    assert page.errors == [] and page.left_the_book() == []
    page.context.close()


@pytest.mark.parametrize("name", EXERCISES)
def test_solutions_and_hints_are_folded_until_asked_for(visit, name):
    seen = visit(name)["folded"]
    cells = nbformat.read(ROOT / f"{name}.ipynb", as_version=4).cells
    solutions = [cell for cell in cells
                 if cell.metadata.get("nbgrader", {}).get("solution")]
    hints = [cell for cell in cells if cell.cell_type == "markdown"
             and re.search(r"^:class: .*\bdropdown\b", cell.source, re.MULTILINE)]
    assert [squeezed(text) for text, _ in seen["solutions"]] == [
        squeezed(cell.source) for cell in solutions]
    assert all(states == [False, True, False] for _, states in seen["solutions"])
    assert all(text.strip() and states == [False, True]
               for text, states in seen["hints"])
    assert len(solutions) >= 8 and len(seen["hints"]) == len(hints) >= 8


# Live figures on the page --------------------------------------------------------


def squeeze_works(page, net, arrays):
    np.testing.assert_allclose(page.state("z"), true_z(net, arrays, 0), atol=CLOSE)
    page.root.locator(".pick", has_text="Bag").click()
    z = true_z(net, arrays, page.state("picture"))
    np.testing.assert_allclose(page.state("z"), z, atol=CLOSE)
    drawn = "c => c.toDataURL()"
    before = page.root.locator(".map").evaluate(drawn)
    page.root.get_by_role("button", name="Shuffle").press("Enter")
    assert page.root.locator(".map").evaluate(drawn) != before
    np.testing.assert_allclose(page.state("z"), z, atol=CLOSE)
    assert "permutation" in page.said()


def surgery_works(page, net, arrays):
    learned = arrays["gates"][0].astype(float)
    agrees(page, net, arrays, learned)
    bars = page.root.get_by_role("slider")
    page.drag(bars, (0.3, 0.4), (0.7, 0.4))
    assert (np.abs(page.state("gates") - learned) > 1e-6).sum() > 8
    agrees(page, net, arrays)
    page.root.get_by_role("button", name="Learned").click()
    bars.focus()
    shown = int(re.match(r"channel (\d+)", bars.get_attribute("aria-valuetext"))[1])
    bars.press("Home")
    learned[shown] = 0
    agrees(page, net, arrays, learned)


def reduction_works(page, net, arrays):
    assert page.state("r") == 16
    by_stage, total = counted(16, [True] * 4)
    assert page.state("by-stage") == by_stage and page.state("total") == total
    page.root.locator("input[type=range]").press("Home")
    by_stage, total = counted(2, [True] * 4)
    assert page.state("r") == 2
    assert page.state("by-stage") == by_stage and page.state("total") == total
    page.root.locator("label", has_text="stage 2").click()
    assert page.state("total") == total - by_stage[0]


def trap_works(page, net, arrays):
    slider = page.root.get_by_role("slider").first
    for B in (2, 3):
        slider.fill(str(B))
        wrong, error, right = torch_trap(B, page.state("height"))
        np.testing.assert_allclose(page.state("right"), right, atol=CLOSE)
        assert page.root.get_attribute("data-error") == error
        assert (page.state("wrong") is None) == (wrong is None)
    page.root.get_by_role("button", name="5. gate").click()
    assert "RuntimeError" in page.root.locator(".trap").inner_text()


def cover_works(page, net, arrays):
    found = live.cover().data["found"]["trap"]
    assert len(page.state("missed")) == sum(row[0] != "x" for row in found)
    page.root.get_by_role("button", name="value", exact=True).click()
    assert len(page.state("missed")) == sum("x" not in row[:2] for row in found)


def lookup_works(page, net, arrays):
    looked_up(page)
    page.root.locator("label.pick", has_text="sigmoid").click()
    looked_up(page)
    assert page.root.get_attribute("data-normaliser") == "sigmoid"


def weigh_works(page, net, arrays):
    weighed(page)
    page.root.locator("label.pick", has_text="both").click()
    page.root.locator("label.pick", has_text="softmax").click()
    weighed(page)
    assert sum(page.state("weights")) == pytest.approx(1)


def field_works(page, net, arrays):
    seen(page)
    page.root.locator("input[type=range]").first.press("Home")
    page.root.get_by_role("button", name="neighbour").click()
    seen(page)
    assert page.state("shared") == 20


def combine_works(page, net, arrays):
    page.root.get_by_role("button", name="Two noes").click()
    gates = [v["M"] for v in page.state("out").values()]
    assert gates == pytest.approx([1 / (1 + np.exp(4)), 1 / (1 + np.exp(-4)),
                                   1 / (1 + np.exp(2))], abs=CLOSE)


def hierarchy_works(page, net, arrays):
    before = regions(page)
    page.root.locator("label.pick", has_text="product").click()
    assert regions(page) != before


def axis_works(page, net, arrays):
    chosen_weights(page)
    page.root.locator("label.pick", has_text="batch").click()
    w = chosen_weights(page)
    assert (w.sum(1) - 1).abs().max() > 0.1


def grow_works(page, net, arrays):
    sk_net = sk_experiment.trained("sk")
    grown(page, sk_net)
    page.root.get_by_role("slider").press("End")
    assert page.state("side") == 28
    grown(page, sk_net)


def spot_works(page, net, arrays):
    pool7, shipped = cbam_experiment.trained("pool7"), live.arrays("cbam")
    spotted(page, pool7, shipped)
    page.root.get_by_role("slider", name="Side").fill("3")
    page.root.locator(".map").press("ArrowLeft")
    spotted(page, pool7, shipped)
    assert page.state("spot")["column"] == 1


def slide_works(page, net, arrays):
    slid(page, live.arrays("cbam"))
    page.root.get_by_role("button", name="Smallest gate").click()
    slid(page, live.arrays("cbam"))


def paint_works(page, net, arrays):
    pool7, shipped = cbam_experiment.trained("pool7"), live.arrays("cbam")
    painted(page, pool7, shipped)
    page.root.get_by_role("button", name="Grad-CAM").click()
    page.drag(page.root.locator(".grid"), (0.1, 0.1), (0.9, 0.9))
    assert painted(page, pool7, shipped)[0].diagonal().sum() == 0


def arrows_works(page, net, arrays):
    looked_along(page)
    page.root.get_by_role("slider", name="across").fill("-2.5")
    page.root.get_by_role("checkbox").first.uncheck()
    assert looked_along(page)[0] == 0 and page.state("q")[0] == -2.5


def waves_works(page, net, arrays):
    before = agreed(page)
    page.root.get_by_role("slider", name="Position").press("ArrowRight")
    assert agreed(page) == pytest.approx(before)
    page.root.get_by_role("slider", name="Shift").press("Home")
    assert agreed(page) != pytest.approx(before)


def dates_works(page, net, arrays):
    page.root.get_by_role("textbox").fill("4 july 1976")
    page.root.locator("label.pick", has_text="letters read").click()
    assert shows(page, rounded(), "4 july 1976")[1].shape == (11, 11)


def warp_works(page, net, arrays):
    warped(page)
    before = page.state("loss")
    page.root.get_by_role("button", name="Descend").click()
    warped(page)
    assert page.state("loss") < before


def upright_works(page, net, arrays):
    mover = stn_experiment.trained(ARM).double()
    before = transformed(page, mover)
    page.root.get_by_role("button", name="Small, in a corner").click()
    assert (transformed(page, mover) - before).abs().max() > 0.1


def looks_works(page, net, arrays):
    looked(page, small())
    page.root.locator("[role=application]").press("ArrowLeft")
    page.root.locator("label.pick", has_text="rollout").click()
    assert looked(page, small()).sum() == pytest.approx(1)


def shuffle_works(page, net, arrays):
    before = told(page, small())
    page.root.get_by_role("slider").press("End")
    page.root.locator("label.pick", has_text="travel").click()
    after = told(page, small())
    assert (before - after).abs().max() > 1e-4
    page.root.get_by_role("slider").press("Home")
    np.testing.assert_allclose(told(page, small()), after, atol=CLOSE)


WORKS = {"lookup": lookup_works, "weigh": weigh_works, "squeeze": squeeze_works,
         "surgery": surgery_works, "reduction": reduction_works, "trap": trap_works,
         "cover": cover_works, "spot": spot_works, "slide": slide_works,
         "paint": paint_works, "field": field_works,
         "combine": combine_works, "hierarchy": hierarchy_works,
         "axis": axis_works, "grow": grow_works,
         "arrows": arrows_works, "waves": waves_works,
         "dates": dates_works, "warp": warp_works, "upright": upright_works,
         "looks": looks_works, "shuffle": shuffle_works}


def test_every_live_figure_stands_in_the_book(html):
    standing = [name for page in html.rglob("*.html")
                for name in re.findall(r'id="live-\w+" data-figure="(\w+)"',
                                       page.read_text(encoding="utf-8"))]
    assert set(standing) == {make.__name__ for make in live.FIGURES} == set(WORKS)


@pytest.mark.parametrize("name", SOURCES)
def test_live_figures_work_and_equal_pytorch(visit, html, net, arrays, name):
    text = (html / f"{name}.html").read_text(encoding="utf-8")
    standing = re.findall(r'id="live-\w+" data-figure="(\w+)"', text)
    if not standing:
        return
    page = visit.open(name)
    for figure in standing:
        page.figure(figure)
        assert page.root.get_attribute("data-live") == "true"
        assert page.root.locator(".fallback").count() == 0
        assert page.root.locator("output").inner_text().strip()
        WORKS[figure](page, net, arrays)
        page.tab.evaluate("document.documentElement.dataset.theme = 'dark'")
        assert page.root.get_attribute("data-theme") == "dark"
        page.tab.evaluate("document.documentElement.dataset.theme = 'light'")
    assert page.errors == []


def test_a_reader_who_prefers_the_dark_gets_it(browser, html):
    page = Opened(browser, html, NOTEBOOKS[0], theme="dark")
    themes = page.tab.evaluate("""() => [document.documentElement,
      ...document.querySelectorAll(".cvattn-live")].map((e) => e.dataset.theme)""")
    assert len(themes) > 1 and set(themes) == {"dark"}
    page.context.close()
