"""The book's own Sphinx bits: a quiet page, and links only a publisher knows.

Environment, all optional:
    BOOK_REPOSITORY   https address of the repository. Adds the repository and
                      issue links and, on notebook pages, the Colab button.
    BOOK_BRANCH       branch that Colab opens (default: main).
    BOOK_EDIT_BRANCH  branch that "suggest edit" opens (default: BOOK_BRANCH).
    BOOK_URL          address the book is served from, for link previews.
"""

import hashlib
import os
import re
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.errors import ConfigError
from sphinx.util.docutils import SphinxDirective

HERE = Path(__file__).parent
COLAB = "https://colab.research.google.com"


def configure(app, config):
    # torch and Python are documented elsewhere, and the book works offline.
    config.nitpick_ignore_regex = [
        (r"py:.*", r"(torch|numpy|np|nn|collections|pathlib|matplotlib|PIL)\b.*"),
        (r"py:.*", r"(Tensor|Path|Callable|Sequence|Iterable|Module|Device)"),
    ]
    config.templates_path.append(str(HERE / "templates"))
    options = config.html_theme_options
    repository = os.environ.get("BOOK_REPOSITORY", "").rstrip("/").removesuffix(".git")
    if repository:
        if not re.fullmatch(r"https://[^/\s]+(/[^/\s]+){2,}", repository):
            raise ConfigError(
                "BOOK_REPOSITORY must look like https://host/owner/name, "
                f"got {repository!r}"
            )
        options["repository_url"] = repository
        options["repository_branch"] = os.environ.get("BOOK_BRANCH") or "main"
        options["use_repository_button"] = True
        options["use_issues_button"] = True
        options["use_edit_page_button"] = True
        if repository.startswith("https://github.com/"):
            options["launch_buttons"]["colab_url"] = COLAB
    # A change of this file, of what it reads or of a static file (which Sphinx
    # copies only beside a changed page) builds every page anew.
    key = hashlib.sha256(os.environ.get("BOOK_EDIT_BRANCH", "").encode())
    for file in [Path(__file__), *sorted(HERE.parent.glob("_static/**/*.*"))]:
        key.update(file.read_bytes())
    config.cvbook_key = key.hexdigest()
    if os.environ.get("BOOK_URL"):
        config.ogp_site_url = os.environ["BOOK_URL"]


class LiveFigure(SphinxDirective):
    """`{live} surgery`: a live figure of cvattn on a page that is no notebook."""

    required_arguments = 1

    def run(self):
        from cvattn.book import live

        for file in Path(live.__file__).parent.glob("page/*"):
            self.env.note_dependency(str(file))
        figures = {make.__name__: make for make in live.FIGURES}
        name = self.arguments[0]
        if name not in figures:
            raise self.error(f"live must name one of {', '.join(figures)}, got {name}")
        figure = figures[name]()
        sentence = nodes.paragraph("", figure.sentence)
        printed = addnodes.only("", sentence, expr="not html")
        return [nodes.raw("", figure.html(), format="html"), printed]


def without_thebe(app, config):
    """Thebe needs a server and a CDN, and declares a constant twice."""
    for event, listeners in app.events.listeners.items():
        app.events.listeners[event] = [
            listener
            for listener in listeners
            if "sphinx_thebe" not in getattr(listener.handler, "__module__", "")
            and getattr(listener.handler, "__name__", "") != "update_mode_thebe_config"
        ]


def named(html):
    """Give the arrows of the contents, which unfold what is below, a name."""
    return re.sub(
        r"(<a [^>]*>)([^<]*)(</a>\s*<details[^>]*>\s*<summary)>",
        r'\1\2\3 aria-label="Pages below \2">',
        str(html),
    )


def page(app, pagename, templatename, context, doctree):
    context["default_mode"] = "auto"
    for kind in ("css_files", "script_files"):
        context[kind] = [
            file
            for file in context[kind]
            if "thebe" not in str(getattr(file, "filename", file))
        ]
    contents = context.get("generate_toctree_html")
    if contents:
        context["generate_toctree_html"] = lambda *a, **k: named(contents(*a, **k))
    if "body" in context:
        # sphinx-exercise gives all exercises of a page one id.
        context["body"] = context["body"].replace(' id="exercise-content"', "")
        # docutils marks citations with a deprecated role, in a list of no items.
        context["body"] = re.sub(
            r'<div( role="list")? class="citation-list">|'
            r'<div class="citation" id="([^"]*)" role="doc-biblioentry">',
            lambda found: f'<div class="citation" id="{found[2]}">'
            if found[2] else '<div class="citation-list">',
            context["body"],
        )
    branch = os.environ.get("BOOK_EDIT_BRANCH")
    if branch:
        for button in context.get("header_buttons", []):
            for link in button.get("buttons", []):
                if "/edit/" in link.get("url", ""):
                    shown = app.config.html_theme_options["repository_branch"]
                    link["url"] = link["url"].replace(
                        f"/edit/{shown}/", f"/edit/{branch}/"
                    )


EQUATION = r"[^.:]{1,40} = .*[^.]"
COLUMNS = r"\S+( \S+)* {2,}\S.*"


def equations(app, what, name, obj, options, lines):
    """Keep a docstring's equations, and its text in two columns, line by line.

    A paragraph is one if each of its rows is, or goes on, far to the right, with the
    row before.
    """
    text = "\n".join(lines).strip("\n")
    paragraphs = re.split(r"\n{2,}", text)
    for number, paragraph in enumerate(paragraphs):
        rows = paragraph.split("\n")
        if re.match(r"\S", paragraph) and all(
            re.fullmatch(f"{EQUATION}|{COLUMNS}| {{8,}}.*", row) for row in rows
        ):
            block = [".. code-block:: none", "", *(f"    {row}" for row in rows)]
            paragraphs[number] = "\n".join(block)
    lines[:] = [*"\n\n".join(paragraphs).split("\n"), ""]


def setup(app):
    app.add_config_value("cvbook_key", "", "html")
    app.add_directive("live", LiveFigure)
    app.connect("config-inited", configure, priority=900)
    app.connect("config-inited", without_thebe, priority=901)
    app.connect("autodoc-process-docstring", equations)
    app.connect("html-page-context", page, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
