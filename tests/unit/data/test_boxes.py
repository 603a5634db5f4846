import math

import numpy as np
import pytest

from agegender.data.boxes import (
    MAX_BOXES,
    GivenBox,
    UnnamedBoxError,
    are_shares,
    box_of,
    problem_in,
    read_boxes,
    side_names,
    sides,
)


def only(value: object, form: str | None = None) -> tuple[float, ...]:
    (box,) = read_boxes(value, form)  # type: ignore[arg-type]
    assert box["problem"] is None
    return sides(box)


def problem(value: object, form: str | None = None) -> str:
    (box,) = read_boxes(value, form)  # type: ignore[arg-type]
    assert box["problem"] is not None
    return box["problem"]


@pytest.mark.parametrize(
    "value",
    [
        {"x": 10, "y": 20, "width": 30, "height": 40},
        {"X": "10", "Y": "20", "W": "30", "H": "40"},
        {"left": 10, "top": 20, "width": 30, "height": 40},
        {"xmin": 10, "ymin": 20, "xmax": 40, "ymax": 60, "score": 0.9},
        {"x1": 10, "y1": 20, "x2": 40, "y2": 60, "width": 640, "height": 480},
        {"left": 10, "top": 20, "right": 40, "bottom": 60},
        {"bbox_x": 10, "bbox_y": 20, "bbox_w": 30, "bbox_h": 40},
        {"score": 0.9, "box": {"x": 10, "y": 20, "width": 30, "height": 40}},
        {"boxes": [{"x": 10, "y": 20, "w": 30, "h": 40}]},
        '{"x": 10, "y": 20, "width": 30, "height": 40}',
        "{'x': 10.0, 'y': 20.0, 'width': 30.0, 'height': 40.0}",
        b'[{"x_min": 10, "y_min": 20, "x_max": 40, "y_max": 60}]',
    ],
)
def test_a_box_is_read_by_its_usual_names(value: object) -> None:
    assert only(value) == (10, 20, 30, 40)


@pytest.mark.parametrize(
    "value", [[10, 20, 40, 60], (10, 20, 40, 60), np.array([10, 20, 40, 60]), "10 20 40 60", "10,20,40,60"]
)
def test_numbers_without_names_are_read_as_the_option_says_and_never_guessed(value: object) -> None:
    assert only(value, "xyxy") == (10, 20, 30, 40)
    assert only(value, "xywh") == (10, 20, 40, 60)
    with pytest.raises(UnnamedBoxError, match=r"\[10, 20, 40, 60\].*--box-format xywh .* --box-format xyxy"):
        read_boxes(value)


@pytest.mark.parametrize(
    "value", [None, "", "null", "NaN", [], "[]", {"x": None, "y": None, "width": None, "height": None}]
)
def test_nothing_is_no_box(value: object) -> None:
    assert read_boxes(value) == []


def test_what_is_no_box_says_so_and_keeps_its_place_and_its_numbers() -> None:
    good = {"x": 1, "y": 2, "width": 3, "height": 4}
    boxes = read_boxes([good, None, {"a": 1}, 7, {"x": 5, "y": 6, "width": -7, "height": 8}, good])
    assert [box["problem"] is None for box in boxes] == [True, False, False, False, False, True]
    assert "among 'a'" in str(boxes[2]["problem"])
    assert boxes[4] == GivenBox(
        x=5, y=6, width=-7, height=8, problem="the box (5, 6, -7, 8) has no area: its width is -7, its height 8"
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"x": 1, "y": math.nan, "width": 3, "height": 4}, "not four numbers"),
        ({"x": 1, "y": math.inf, "width": 3, "height": 4}, "not four numbers"),
        ({"x": 1, "y": "two", "width": 3, "height": 4}, "not four numbers"),
        ({"x": 1, "y": True, "width": 3, "height": 4}, "not four numbers"),
        ({"x1": 9, "y1": 2, "x2": 3, "y2": 4}, "no area: its width is -6"),
        ({"x": 0.1, "y": 0.1, "width": 0.5, "height": 0.6}, "smaller than a pixel: boxes are in pixels"),
        ("a face", "is no box"),
        (7, "is no box"),
        ("[" * 1000, "is no box"),
        ([[[[[[[1, 2, 3, 4]]]]]]], "nested too deep"),
        ([{"x": 1, "y": 2, "w": 3, "h": 4}] * (MAX_BOXES + 1), "5,001 boxes"),
    ],
)
def test_every_wrong_value_is_a_reason_and_no_exception(value: object, reason: str) -> None:
    assert reason in problem(value, "xywh")


def test_names_are_found_among_others_corners_before_sizes() -> None:
    assert side_names(["id", "Xmin", "Ymin", "Xmax", "Ymax"]) == (("Xmin", "Ymin", "Xmax", "Ymax"), "xyxy")
    assert side_names(["x1", "y1", "x2", "y2", "x", "y", "width", "height"]) == (("x1", "y1", "x2", "y2"), "xyxy")
    assert side_names(["x", "y", "width"]) is None


def test_a_box_must_meet_the_image() -> None:
    def said(x: float, y: float) -> str | None:
        box = box_of([x, y, 30, 40], "xywh")
        assert box is not None
        return problem_in(box, 640, 480)

    assert said(-20, -30) is said(630, 470) is None
    for outside in ((-30, 0), (640, 0), (0, 480), (0, -40)):
        assert "lies outside of the image of 640 x 480 pixels" in str(said(*outside))


def test_shares_of_the_sides_are_told_from_pixels() -> None:
    share = [box_of([0.1, 0.2, 0.3, 0.4], "xywh"), box_of([0, 0, 1, 1], "xywh")]
    pixels = box_of([0, 0, 64, 64], "xywh")
    assert are_shares(box for box in share if box is not None)
    assert not are_shares(box for box in (*share, pixels) if box is not None)
    assert not are_shares([])
