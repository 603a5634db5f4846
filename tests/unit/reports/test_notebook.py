"""What a notebook shows: everything that is said is there, escaped, small, and nothing is asked of the network."""

import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from typing import Any

from agegender.reports.notebook import FaceRow, faces_html, histogram_chart, pyramid_chart, result_html

NASTY = "<script>alert('&')</script>\"'"
JPEG = b"\xff\xd8\xff" + bytes(2000)


def face(uri: str = "a.jpg", jpeg: bytes | None = JPEG) -> FaceRow:
    return FaceRow(uri, jpeg, "ok", None, 34.4, 28.0, 41.6, "female", 0.97)


def bad(uri: str, error: str) -> FaceRow:
    return FaceRow(uri, None, "unreadable", error, None, None, None, None, None)


class Seen(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def shown(rows: list[FaceRow], **changed: Any) -> str:
    values: dict[str, Any] = {"faces": 1, "images": 2, "pyramid": {"1-10": (0, 0), "31-40": (0, 1)}, "of_rows": 1200}
    return faces_html({"ok": 1, "unreadable": 1}, rows=rows, **values | changed)


def test_faces_are_shown_with_crop_age_interval_and_gender() -> None:
    seen = Seen(shown([face()]))
    words = " ".join(seen.text.split())
    for said in ("1 face in 2 images", "unreadable 1", "34 28–42", "female 97 %", "a.jpg", "1 of 1,200 rows"):
        assert said in words
    assert seen.tags.count("img") == 1
    assert seen.tags.count("svg") == 1


def test_what_a_file_says_of_itself_is_text_and_nothing_else() -> None:
    page = shown([face(NASTY), bad(NASTY, NASTY)])
    seen = Seen(page)
    assert "script" not in seen.tags
    assert seen.text.count(NASTY) == 3
    page = result_html(NASTY, [(NASTY, NASTY)], chart_title=NASTY, report=NASTY, link=f"{NASTY}.html")
    assert "script" not in Seen(page).tags


def test_nothing_is_asked_of_the_network() -> None:
    seen = Seen(shown([face()]) + result_html("x", [], chart=histogram_chart({3: 1}), report="r.html", link="r.html"))
    addresses = [value for name, value in seen.attributes if name in ("src", "href", "xlink:href", "data")]
    assert [a.partition(",")[0] for a in addresses if a] == ["data:image/jpeg;base64", "r.html"]
    assert not {"script", "link", "style", "iframe"} & set(seen.tags)


def test_text_has_the_colour_of_the_page_around_it() -> None:
    """A dark notebook shows it, too: no colour is said but those of bars."""
    page = shown([face(), bad("b", "c")]) + result_html("x", [("a", "b")], chart=histogram_chart({3: 1}))
    styles = " ".join(value for name, value in Seen(page).attributes if name == "style" and value)
    assert "color:" not in styles
    assert {value for name, value in Seen(page).attributes if name == "fill"} >= {"currentColor"}


def test_long_addresses_and_errors_are_cut_to_their_ends() -> None:
    page = shown([face("s3://bucket/" + 5000 * "a" + "/last.jpg"), bad("b", 100_000 * "e")])
    assert "/last.jpg" in page
    assert len(page) < 12_000


def test_the_pyramid_has_a_bar_for_each_group_and_gender_to_scale() -> None:
    chart = pyramid_chart({"1-10": (0, 0), "11-20": (4, 2), "21-30": (0, 0), "31-40": (0, 1), "101+": (0, 0)})
    assert chart is not None
    assert [label.text for label in chart.labels] == ["31-40", "21-30", "11-20", "male", "female"]
    lengths = {bar.title: bar.width for bar in chart.bars}
    assert lengths["male, 11-20: 4"] == 2 * lengths["female, 11-20: 2"] == 4 * lengths["female, 31-40: 1"] > 0
    assert lengths["male, 31-40: 0"] == 0
    for bar in chart.bars:
        assert bar.x >= 0
        assert bar.x + bar.width <= chart.width
        assert bar.y + bar.height <= chart.height
    assert pyramid_chart({"1-10": (0, 0)}) is None


def test_the_histogram_counts_every_age_once() -> None:
    chart = histogram_chart({0: 1, 4: 2, 5: 7, 116: 1})
    assert chart is not None
    assert [bar.title for bar in chart.bars if bar.height] == ["0-4 years: 3", "5-9 years: 7", "115-119 years: 1"]
    assert histogram_chart({}) is None


def test_the_charts_are_well_formed() -> None:
    page = result_html("x", [], chart=pyramid_chart({"1-10": (3, 4)}))
    svg = page[page.index("<svg") : page.index("</svg>") + 6]
    assert ElementTree.fromstring(svg).tag == "svg"
