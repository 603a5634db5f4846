"""The site of these pages, by Sphinx: `make docs` builds it into build/site. A broken link ends the build.

The pages stay where GitHub shows them, so that a link means the same here and there: the source folder is the project's
own, README.md is the first page, and docs/*.md follow.
"""

import re
from pathlib import Path

from pygments.lexers.sql import SqlLexer
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]

project = "agegender"
html_title = "agegender"
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "agegender/released/*/*.md"]
exclude_patterns = [".*", "build", "out", "demo", "runs", "UTKFace", "tests", "jobs", "benchmarks", "**/__pycache__"]
html_theme = "furo"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
myst_heading_anchors = 4
nitpicky = True

PAGES = {
    "Use": [
        *("install", "api", "sources", "labels", "predictions", "queries", "faces"),
        *("eda", "training", "evaluation", "limits"),
    ],
    "Operate": ["cluster", "s3", "operating", "failures"],
    "Measured": [
        "accuracy",
        "speed",
        "duplicates",
        *(
            f"../agegender/released/{model}/{page}"
            for model in ("fast", "accurate", "open")
            for page in ("MODEL_CARD", "WEIGHTS_LICENSE")
        ),
    ],
    "Inside": ["design", "decisions", "../CONTRIBUTING", "../CHANGELOG"],
}
"""The list of pages, which GitHub would show as code if it stood in a page. A page that is in no list ends the build."""

INDEX = '<!doctype html><title>agegender</title><meta http-equiv="refresh" content="0; url=README.html">\n'
REMOTE_IN_HTML = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc="?(?:https?:)?//|<link\b[^>]*href="?(?:https?:)?//"""
)
REMOTE_IN_CSS = re.compile(r"""(?:url\(|@import)\s*["']?(?:https?:)?//""")


def add_navigation(_app: Sphinx, name: str, source: list[str]) -> None:
    """Put the lists of pages below the first page."""
    if name != root_doc:
        return
    for caption, pages in PAGES.items():
        paths = [f"docs/{page}".replace("docs/../", "") for page in pages]
        there = [path for path in paths if (ROOT / f"{path}.md").exists()]
        source[0] += "\n".join(["\n", "```{toctree}", ":hidden:", f":caption: {caption}", *there, "```", ""])


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Write index.html, and fail where a page loads anything from another host: the site is read without a network."""
    if exception:
        return
    site = Path(app.outdir)
    (site / "index.html").write_text(INDEX)
    for path in sorted(site.rglob("*")):
        pattern = {".html": REMOTE_IN_HTML, ".css": REMOTE_IN_CSS}.get(path.suffix)
        if pattern and (found := pattern.search(path.read_text())):
            logger.warning("%s loads from another host: %s", path, found.group())
            app.statuscode = 1


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_lexer("hive", SqlLexer)
    app.connect("source-read", add_navigation)
    app.connect("build-finished", finish)
