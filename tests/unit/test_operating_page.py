"""docs/operating.md names every metric that Prometheus sees and no other, and quotes log lines as the code writes them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agegender.pipelines.runtime.metrics import COUNTERS, GAUGES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operating.md").read_text()
QUOTES = re.findall(r"^- `([^`]+)`", PAGE.split("## Log lines")[1].split("\n## ")[0], re.MULTILINE)
VALUES = re.compile(r"\.\.\.|\b[A-Z]{2,}\b|\b[A-Z]\b|\d[\d.]*")
"""What stands for a value in a quoted line: dots, a word in capitals, a number."""


def test_every_metric_is_explained_and_every_query_asks_for_one_that_there_is() -> None:
    assert set(re.findall(r"ray_(agegender_\w+)", PAGE)) == COUNTERS.keys() | GAUGES.keys()


def test_queries_select_by_tags_that_the_metric_has() -> None:
    queries = re.findall(r"ray_(agegender_\w+)\{([^}]*)\}", PAGE)
    assert queries
    for name, selectors in queries:
        tags = {"command"} if name in GAUGES else set(COUNTERS[name][1])
        assert set(re.findall(r"(\w+)[=!]", selectors)) <= tags, name


def texts(tree: ast.AST) -> Iterator[str]:
    """Every string of a module, with a gap where a value goes in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "\0".join(str(part.value) if isinstance(part, ast.Constant) else "" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[-.\d]*[a-z]", "\0", node.value.replace("%%", "%"))


WRITTEN = [text for path in (ROOT / "agegender").rglob("*.py") for text in texts(ast.parse(path.read_text()))]


def test_log_lines_are_quoted() -> None:
    assert len(QUOTES) > 15


@pytest.mark.parametrize("quote", QUOTES)
def test_a_quoted_log_line_is_one_that_the_code_writes(quote: str) -> None:
    parts = [re.escape(part.strip()) for part in VALUES.split(quote) if part.strip()]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    assert any(pattern.search(text) for text in WRITTEN), parts
