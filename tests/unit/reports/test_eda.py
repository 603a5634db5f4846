from typing import Any

from agegender.reports.eda import eda_page
from agegender.schema import AGE_GROUPS

NO_GROUPS = {"groups": 0, "images": 0, "contradicting_groups": 0}
EMPTY: dict[str, Any] = {
    "images": 2,
    "labelled": 0,
    "by_status": {"ok": 1, "truncated": 1},
    "images_with_warning": 1,
    "by_gender": {"male": 0, "female": 0},
    "by_age_group": dict.fromkeys(AGE_GROUPS, 0),
    "most_frequent_age_group": None,
    "by_age": {},
    "age_labels": {"exact": 0, "range": 0, "spans_groups": 0},
    "by_age_range": {},
    "by_gender_and_age_group": {group: {"male": 0, "female": 0} for group in AGE_GROUPS},
    "by_race": {},
    "label_problems": {"not a name like AGE_GENDER_RACE_STAMP.jpg": 2},
    "age_heaping": {"index_5": None, "index_10": None, "standing_out": {}},
    "duplicates": {"exact": NO_GROUPS, "near": NO_GROUPS, "stamp": NO_GROUPS},
    "size_bytes": 10,
    "by_format": {},
    "by_size": {},
    "distinct_sizes": 0,
    "channel_mean": None,
    "channel_std": None,
}


def draw(summary, examples=None, samples=None, age_ranges=None):
    return eda_page(
        summary,
        source=["in/"],
        examples=examples or {},
        samples=samples or {},
        age_ranges=age_ranges or {},
        seed=0,
        near_duplicate_bits=8,
        version="1",
    )


def test_a_set_without_labels_is_said_at_the_top():
    examples = {
        "truncated": [("in/a.jpg", "image file is truncated")],
        "warning": [("in/b.jpg", "the end marker is missing")],
    }
    page, charts = draw(EMPTY, examples)
    assert charts == {}
    assert page.index("No image has a label") < page.index("<h1>")
    assert page.index("1 of 2 images cannot be used") < page.index("<h1>")
    assert "in/a.jpg: image file is truncated" in page
    assert "1 decoded image has a warning" in page and "in/b.jpg: the end marker is missing" in page
    assert "Faces and their labels" not in page and "Race" not in page


def test_contradicting_labels_are_noted_and_faces_carry_their_labels():
    exact = {"groups": 3, "images": 6, "contradicting_groups": 2}
    summary = EMPTY | {"duplicates": EMPTY["duplicates"] | {"exact": exact}, "by_race": {"white": 1, "black": 0}}
    page, charts = draw(
        summary,
        samples={"all": [("x/a.jpg", 31.0, 31.0, 1, b"\xff\xd8")], "31-40": [("x/b.jpg", None, None, None, b"")]},
    )
    assert "2 groups of identical files have different ages or genders" in page
    assert list(charts) == ["races"]
    assert "<strong>31 years</strong><span>female</span>" in page and "no age" in page


def test_ranges_of_ages_are_drawn_and_counted():
    labels = {"exact": 0, "range": 1234, "spans_groups": 1000}
    summary = EMPTY | {"labelled": 1234, "age_labels": labels, "by_age_range": {"20-29": 1000, "70+": 234}}
    faces = {"all": [("x/a.jpg", 20.0, 29.0, 0, b"\xff\xd8"), ("x/b.jpg", 70.0, 120.0, 0, b"\xff\xd8")]}
    page, charts = draw(summary, samples=faces, age_ranges={(20, 29): 1000, (70, 120): 234})
    assert list(charts) == ["ages_by_range"]
    assert "1,234 images have an age, 1,234 of them as a range. 1,000 of the ranges span several" in page
    assert "<strong>20-29 years</strong>" in page and "<strong>70+ years</strong>" in page
