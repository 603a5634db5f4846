"""A report page: one HTML file that carries its images, opens from ``file://`` and asks the network for nothing."""

import base64
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2

_NUMBER_AS_TEXT = re.compile(r"[-+−]?[\d.,]+ ?%?|–|")

Cell = str | int | float | None
"""One table cell. Numbers are set flush right; None is an en dash."""


@dataclass(frozen=True)
class Figure:
    """A chart with what it says in words.

    Attributes:
        png: the PNG file's bytes, e.g. from ``reports.figures``.
        caption: what to see in it; stands below it.
        alt: the same for who cannot see it.
        wide: whether it takes the whole width of the page; else two stand side by side.
    """

    png: bytes
    caption: str
    alt: str
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under a header.

    Attributes:
        header: one name per column, with its unit.
        rows: cells; a column whose cells are all numbers, shares such as ``13.6 %``, or None is set flush right.
        caption: stands above it.
        digits: decimals of float cells.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    digits: int = 2

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers alone."""
        columns = range(len(self.header))
        return [all(_is_number(row[column]) for row in self.rows) for column in columns]


@dataclass(frozen=True)
class GridImage:
    """One image of a grid.

    Attributes:
        data: bytes of a JPEG or PNG file.
        lines: the lines of its label; the first is set stronger.
        alt: what it is, for who cannot see it; default: the lines.
    """

    data: bytes
    lines: Sequence[str] = ()
    alt: str = ""


@dataclass(frozen=True)
class ImageGrid:
    """Images with their labels below (or, with ``beside``, to the right of) each."""

    images: Sequence[GridImage]
    caption: str = ""
    beside: bool = False
    size_px: int = 96


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it, in this order: text, notes, key numbers, figures, tables, grids.

    Attributes:
        title: the heading; also its line in the table of contents.
        text: paragraphs, parted by blank lines.
        figures: charts.
        tables: tables.
        notes: short warnings that belong to this section.
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
        sections: in order; each gets a line in the table of contents.
        warnings: what must not be overlooked, in a banner above everything else.
        facts: the page's key numbers as (name, value), under the lead.
        footer: last line, e.g. the command and version that made the page.

    Returns:
        HTML with every image as a data URI.
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
    """A cell as text: thousands parted by commas, floats to ``digits`` decimals, None as an en dash."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:,.{digits}f}"
    return f"{value:,}"


def data_uri(data: bytes) -> str:
    """An image file's bytes as a ``data:`` address; JPEG where they begin as one, else PNG."""
    kind = "jpeg" if data.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _is_number(value: Cell) -> bool:
    return not isinstance(value, str) or _NUMBER_AS_TEXT.fullmatch(value) is not None


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in text.split("\n\n") if part.strip()]
