import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from agegender.reports import figures
from agegender.reports.page import Figure, GridImage, ImageGrid, Section, Table, render_page

NUMBERS = np.array([1.0, 4.0, 2.0])


class Balance(HTMLParser):
    """Collects tags that were not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag, attrs):  # noqa: ARG002
        if tag not in {"meta", "img", "br", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def page() -> str:
    chart = Figure(figures.bars(["a", "b", "c"], NUMBERS, x="x", y="y"), "A caption", "An <alt> text")
    table = Table(["Name", "Images", "Share"], [["one", 12345, "13.6 %"], ["<two>", None, "7.0 %"]], "A table")
    faces = ImageGrid([GridImage(b"\xff\xd8jpeg", ["23 years", "female"])], "Faces", beside=True)
    sections = [
        Section("Ages & more", "First.\n\nSecond <b>.", [chart], [table], ["Mind this."], [("mean", 1.234)]),
        Section("Faces", grids=[faces]),
    ]
    return render_page(
        "Title", "Lead", sections, warnings=["Seen in training"], facts=[("images", 7)], footer="made by"
    )


def test_the_page_is_whole_and_asks_the_network_for_nothing():
    html = page()
    balance = Balance()
    balance.feed(html)
    assert (balance.wrong, balance.open) == ([], [])
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)
    assert "http" not in html
    assert html.count("data:image/png;base64,") == 1
    assert html.count("data:image/jpeg;base64,") == 1


def test_texts_are_escaped_and_paragraphs_parted():
    html = page()
    assert "Second &lt;b&gt;." in html and "&lt;two&gt;" in html and 'alt="An &lt;alt&gt; text"' in html
    assert html.index("<p>First.</p>") < html.index("<p>Second")


def test_numbers_are_grouped_and_set_flush_right():
    html = page()
    assert '<td class="number">12,345</td>' in html
    assert '<td class="number">–</td>' in html
    assert '<td class="number">13.6 %</td>' in html
    assert "<td>one</td>" in html
    assert "<dd>1.23</dd>" in html


def test_contents_warnings_and_labels_are_there():
    html = page()
    assert '<a href="#s1">Ages &amp; more</a>' in html and 'id="s2"' in html
    assert html.index("Seen in training") < html.index("<h1>")
    assert 'alt="23 years, female"' in html and "<strong>23 years</strong><span>female</span>" in html
    assert 'role="alert"' not in render_page("T", "L", [])


MATRIX = np.array([[3, 0], [1, np.nan]])
CHARTS = {
    "bars": lambda: figures.bars(["a", "b", "c"], NUMBERS, x="x", y="y", low=NUMBERS - 1, high=NUMBERS + 1),
    "bars by year": lambda: figures.bars([0, 1, 5], NUMBERS, x="x", y="y", highlight=[1], wide=True),
    "histogram": lambda: figures.histogram(NUMBERS, [0, 1, 2, 3], x="x", y="y"),
    "stacked bars": lambda: figures.stacked_bars(["a", "b"], {"m": [1, 2], "f": [0, 1]}, x="x", y="y"),
    "lines": lambda: figures.lines({"a": ([0, 1], [1, np.nan]), "b": ([0], [1])}, x="x", y="y", zero_based=True),
    "dots": lambda: figures.scatter(NUMBERS, NUMBERS, x="x", y="y", diagonal=True, limit=10),
    "hexagons": lambda: figures.scatter(np.arange(2000.0), np.arange(2000.0), x="x", y="y"),
    "heatmap": lambda: figures.heatmap(MATRIX, ["a", "b"], ["c", "d"], x="x", y="y", shade=MATRIX),
    "reliability": lambda: figures.reliability([0.2, np.nan], [0.1, np.nan], [5, 0], x="x", y="y"),
}


@pytest.mark.parametrize("name", CHARTS)
def test_charts_are_png_with_something_drawn(name):
    image = Image.open(BytesIO(CHARTS[name]()))
    assert image.format == "PNG"
    assert image.width > 600 and np.asarray(image.convert("L")).std() > 5


def test_the_same_numbers_give_the_same_bytes():
    assert CHARTS["bars"]() == CHARTS["bars"]()
