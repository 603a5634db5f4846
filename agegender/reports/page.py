"""A report page: one self-contained HTML file that opens from ``file://`` and loads nothing from the network."""

import base64
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2

_NUMBER_AS_TEXT = re.compile(r"[-+−]?[\d.,]+ ?%?|–|")

Cell = str | int | float | None
"""One table cell. Numbers are right-aligned; None is an en dash."""


@dataclass(frozen=True)
class Figure:
    """A chart with caption and alternative text.

    Attributes:
        png: the PNG file's bytes, e.g. from ``reports.figures``.
        caption: shown below the chart.
        alt: alternative text for screen readers.
        wide: full page width; else two charts per row.
    """

    png: bytes
    caption: str
    alt: str
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        header: one name per column, with its unit.
        rows: cells; a column whose cells are all numbers, shares such as ``13.6 %``, or None is right-aligned.
        caption: shown above the table.
        digits: decimals of float cells.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    digits: int = 2

    @property
    def numeric(self) -> list[bool]:
        """Whether each column has only numbers."""
        columns = range(len(self.header))
        return [all(_is_number(row[column]) for row in self.rows) for column in columns]


@dataclass(frozen=True)
class GridImage:
    """One image of a grid.

    Attributes:
        data: bytes of a JPEG or PNG file.
        lines: lines of the label; the first is emphasised.
        alt: alternative text for screen readers; default: the lines.
    """

    data: bytes
    lines: Sequence[str] = ()
    alt: str = ""


@dataclass(frozen=True)
class ImageGrid:
    """Images, each with its label below (with ``beside``: to the right)."""

    images: Sequence[GridImage]
    caption: str = ""
    beside: bool = False
    size_px: int = 96


@dataclass(frozen=True)
class Section:
    """A section: heading, text, notes, key numbers, charts, tables, image grids, in this order.

    Attributes:
        title: heading; also in the table of contents.
        text: paragraphs, separated by blank lines.
        figures: charts.
        tables: tables.
        notes: short warnings about this section.
        facts: key numbers as (name, value).
        grids: images with labels.
    """

    title: str
    text: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    facts: Sequence[tuple[str, Cell]] = ()
    grids: Sequence[ImageGrid] = ()


def render_page(
    title: str,
    lead: str,
    sections: Sequence[Section],
    *,
    warnings: Sequence[str] = (),
    facts: Sequence[tuple[str, Cell]] = (),
    footer: str = "",
) -> str:
    """Render a whole page.

    Args:
        title: heading and window title.
        lead: one paragraph under the heading.
        sections: in order; all are in the table of contents.
        warnings: shown in a banner at the top.
        facts: key numbers as (name, value), below the lead.
        footer: last line, e.g. command and version.

    Returns:
        HTML with all images as data URIs.
    """
    return _template().render(title=title, lead=lead, sections=sections, warnings=warnings, facts=facts, footer=footer)


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("agegender.reports"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(cell=format_cell, data_uri=data_uri, paragraphs=_paragraphs)
    return environment.get_template("page.html.j2")


def format_cell(value: Cell, digits: int = 2) -> str:
    """A cell as text: thousands separators, floats with ``digits`` decimals, None as an en dash."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:,.{digits}f}"
    return f"{value:,}"


def data_uri(data: bytes) -> str:
    """The bytes of a JPEG or PNG file as a ``data:`` URI."""
    kind = "jpeg" if data.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _is_number(value: Cell) -> bool:
    return not isinstance(value, str) or _NUMBER_AS_TEXT.fullmatch(value) is not None


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in text.split("\n\n") if part.strip()]
