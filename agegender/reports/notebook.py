"""Render a result for a notebook: self-contained HTML in the notebook's own colours, without network access.

Uses inline styles, because some notebooks remove style sheets. Text has the colour of the surrounding page, so that it is
readable on dark themes as well.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from agegender.reports.page import data_uri
from agegender.reports.palette import COLOURS
from agegender.schema import GENDERS

PYRAMID_SIDE_PX = 110
"""Length of the longest bar."""

ROW_PX = 17
LABEL_PX = 52
"""Width of the column of age groups."""

NUMBER_PX = 46
"""Room for a count at the end of a bar."""

HISTOGRAM_SIZE_PX = (440, 130)
MAX_TEXT = 120
"""Characters of an address or an error that are shown."""


@dataclass(frozen=True)
class FaceRow:
    """One row of the predictions table, as it is shown; ages in years."""

    uri: str
    jpeg: bytes | None
    status: str
    error: str | None
    age_years: float | None
    age_low_years: float | None
    age_high_years: float | None
    gender: str | None
    gender_probability: float | None


@dataclass(frozen=True)
class Bar:
    """A rectangle with its text, in pixels of its chart."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    title: str
    text: str = ""
    text_x: float = 0
    anchor: str = "start"


@dataclass(frozen=True)
class Label:
    """A text in a chart."""

    x: float
    y: float
    text: str
    anchor: str = "middle"


@dataclass(frozen=True)
class Chart:
    """Bars and texts."""

    width: float
    height: float
    alt: str
    bars: Sequence[Bar]
    labels: Sequence[Label]


def faces_html(
    by_status: Mapping[str, int],
    *,
    faces: int,
    images: int,
    rows: Sequence[FaceRow],
    pyramid: Mapping[str, tuple[int, int]],
    of_rows: int,
) -> str:
    """What a notebook shows of a predictions table.

    Args:
        by_status: images by status.
        faces: how many were scored.
        images: how many there are.
        rows: the first rows, with small JPEGs.
        pyramid: age group -> (male, female) faces, youngest first.
        of_rows: how many rows there are in all.
    """
    chart = pyramid_chart(pyramid)
    return _render("faces", by_status=by_status, faces=faces, images=images, rows=rows, of_rows=of_rows, chart=chart)


def result_html(
    title: str,
    facts: Sequence[tuple[str, str]],
    *,
    chart: Chart | None = None,
    chart_title: str = "",
    report: str = "",
    link: str | None = None,
) -> str:
    """Render the summary of another result: key metrics, a chart, and a link to the report.

    Args:
        title: heading.
        facts: (name, value).
        chart: a chart.
        chart_title: what it shows.
        report: where the page is.
        link: its address from the notebook, where there is one.
    """
    return _render("result", title=title, facts=facts, chart=chart, chart_title=chart_title, report=report, link=link)


def pyramid_chart(counts: Mapping[str, tuple[int, int]]) -> Chart | None:
    """An age pyramid, the oldest group on top; empty groups at both ends are left out.

    Args:
        counts: age group -> (male, female), youngest first.

    Returns:
        None if all counts are 0.
    """
    present = [position for position, pair in enumerate(counts.values()) if any(pair)]
    if not present:
        return None
    shown = list(counts.items())[present[0] : present[-1] + 1][::-1]
    longest = max(max(pair) for _, pair in shown)
    left = NUMBER_PX + PYRAMID_SIDE_PX
    right = left + LABEL_PX
    bars, labels = [], []
    for row, (group, pair) in enumerate(shown):
        y = ROW_PX * (row + 1)
        labels.append(Label(left + LABEL_PX / 2, y + 12, group))
        for gender, count in enumerate(pair):
            length = PYRAMID_SIDE_PX * count / longest
            x = right if gender else left - length
            end = right + length + 4 if gender else left - length - 4
            title = f"{GENDERS[gender]}, {group}: {count:,}"
            anchor = "start" if gender else "end"
            text = f"{count:,}" if count else ""
            bars.append(Bar(x, y, length, ROW_PX - 4, COLOURS[gender], title, text, end, anchor))
    labels += [Label(left, 11, GENDERS[0], "end"), Label(right, 11, GENDERS[1], "start")]
    width = right + PYRAMID_SIDE_PX + NUMBER_PX
    return Chart(width, ROW_PX * (len(shown) + 1) + 2, "age pyramid", bars, labels)


def histogram_chart(counts: Mapping[int, int], step: int = 5) -> Chart | None:
    """Counts by age, in steps of a few years.

    Args:
        counts: age in whole years -> count.
        step: years in one bar.

    Returns:
        None if all counts are 0.
    """
    if not counts:
        return None
    bins = [0] * (max(counts) // step + 1)
    for age, count in counts.items():
        bins[age // step] += count
    width, height = HISTOGRAM_SIZE_PX
    base, slot = height - 18, width / len(bins)
    bars = []
    for position, count in enumerate(bins):
        length = (base - 14) * count / max(bins)
        years = f"{position * step}-{position * step + step - 1} years"
        bars.append(Bar(position * slot + 1, base - length, slot - 2, length, COLOURS[0], f"{years}: {count:,}"))
    every = max(1, -(-len(bins) // 10))
    labels = [Label(n * slot, height - 4, str(n * step), "start") for n in range(0, len(bins), every)]
    tallest = bins.index(max(bins))
    labels.append(Label(tallest * slot + slot / 2, 10, f"{max(bins):,}"))
    return Chart(width, height, "ages", bars, labels)


def _render(macro: str, **values: Any) -> str:
    module: Any = _template().module
    return str(getattr(module, macro)(**values))


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("agegender.reports"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(data_uri=data_uri, short=short)
    return environment.get_template("notebook.html.j2")


def short(text: str) -> str:
    """Truncate a long text at its start: the end of an address is the part that differs."""
    return text if len(text) <= MAX_TEXT else f"…{text[1 - MAX_TEXT :]}"
