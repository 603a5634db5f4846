"""The page for the one who is paged names every figure that Prometheus sees, and no other."""

import re
from pathlib import Path

from agegender.pipelines.runtime.metrics import COUNTERS, GAUGES

PAGE = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()


def test_every_metric_is_explained_and_every_query_asks_for_one_that_there_is() -> None:
    assert set(re.findall(r"ray_(agegender_\w+)", PAGE)) == COUNTERS.keys() | GAUGES.keys()


def test_queries_select_by_tags_that_the_metric_has() -> None:
    asked = re.findall(r"ray_(agegender_\w+)\{([^}]*)\}", PAGE)
    assert asked
    for name, selectors in asked:
        tags = {"command"} if name in GAUGES else set(COUNTERS[name][1])
        assert set(re.findall(r"(\w+)[=!]", selectors)) <= tags, name
