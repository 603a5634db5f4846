from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from agegender.data.face_geometry import (
    Face,
    apply,
    common_roll_degrees,
    compose,
    distinct,
    inverse,
    is_same,
    largest_first,
    rotation,
    scale_of,
    scaling,
    search_scales,
    similarity,
    tile_spans,
    tiles,
    turned_apart,
)

POINTS = np.array([[30.0, 30.0], [70.0, 28.0], [50.0, 50.0], [34.0, 68.0], [66.0, 67.0]])


def face(x: float, y: float, width: float, height: float, score: float = 0.9) -> Face:
    return Face(x, y, width, height, score, POINTS)


def turned(degrees: float, scale: float, x: float, y: float) -> np.ndarray:
    angle = np.radians(degrees)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.hstack([linear, [[x], [y]]])


@pytest.mark.parametrize("degrees", [-170, -30, 0, 12, 90])
def test_a_similarity_is_found_again_from_the_points_that_it_moved(degrees: float) -> None:
    moved = turned(degrees, 2.5, -40, 7)
    found = similarity(POINTS, apply(moved, POINTS))
    assert found is not None
    np.testing.assert_allclose(found, moved, atol=1e-9)
    np.testing.assert_allclose(apply(inverse(found), apply(moved, POINTS)), POINTS, atol=1e-9)
    assert scale_of(found) == pytest.approx(2.5)


def test_points_that_coincide_define_no_transform() -> None:
    assert similarity(np.ones((5, 2)), POINTS) is None
    assert similarity(POINTS, np.ones((5, 2))) is None


def test_a_least_squares_fit_is_no_worse_than_the_transforms_around_it() -> None:
    rng = np.random.default_rng(0)
    target = apply(turned(20, 0.7, 5, 5), POINTS) + rng.normal(0, 2, (5, 2))
    best = similarity(POINTS, target)
    assert best is not None
    error = ((apply(best, POINTS) - target) ** 2).sum()
    for _ in range(100):
        other = best.copy()
        turn, shift = rng.normal(0, 1e-3, 2), rng.normal(0, 0.1, 2)
        other[:, :2] += [[turn[0], -turn[1]], [turn[1], turn[0]]]
        other[:, 2] += shift
        assert ((apply(other, POINTS) - target) ** 2).sum() >= error - 1e-9


def test_a_mapped_face_keeps_an_upright_box_around_its_centre() -> None:
    there = face(10, 20, 30, 40).mapped(turned(90, 2, 0, 0))
    assert (there.width, there.height) == pytest.approx((60, 80))
    assert there.centre == pytest.approx([-80, 50])
    back = there.mapped(inverse(turned(90, 2, 0, 0)))
    assert (back.x, back.y, back.width, back.height) == pytest.approx((10, 20, 30, 40))
    assert back.landmarks == pytest.approx(POINTS)


def test_scaling_moves_after_it_scales() -> None:
    assert apply(scaling(2, 5, 6), np.array([[10.0, 10.0]]))[0] == pytest.approx([25, 26])


@pytest.mark.parametrize("length", [1, 639, 640, 641, 1150, 1152, 1153, 5000])
def test_tiles_cover_an_image_overlap_enough_and_never_leave_it(length: int) -> None:
    spans = tile_spans(length, 640, 128)
    assert spans[0].start == 0
    assert spans[-1].stop == length
    assert {span.stop - span.start for span in spans} == {spans[0].stop}
    assert spans[0].stop <= 640
    assert all(before.stop - after.start >= 127 for before, after in pairwise(spans))


def test_tiles_go_line_by_line_and_share_no_more_than_need_be() -> None:
    columns = [slice(0, 564), slice(436, 1000)]
    assert list(tiles(1000, 500, 640, 128)) == [(column, slice(0, 500)) for column in columns]


def test_scales_end_where_the_largest_faces_are_found() -> None:
    assert search_scales(300, 0.4, 3, 320) == [0.4]
    assert search_scales(4000, 0.4, 3, 320) == pytest.approx([0.4, 0.4 / 3, 0.4 / 9])
    assert search_scales(200, 2.0, 3, 320) == [1.0]


def test_of_several_finds_of_one_face_the_best_stays() -> None:
    finds = [face(0, 0, 100, 100, 0.7), face(5, 5, 100, 100, 0.9), face(300, 0, 50, 50, 0.5)]
    assert [kept.score for kept in distinct(finds)] == [0.9, 0.5]
    assert [kept.score for kept in distinct(finds[::-1])] == [0.9, 0.5]


def test_a_small_face_before_a_large_one_is_a_face_of_its_own_and_half_a_face_is_not() -> None:
    assert not is_same(face(0, 0, 100, 100), face(10, 10, 30, 30))
    assert is_same(face(0, 0, 100, 100), face(0, 0, 60, 60))
    assert not is_same(face(0, 0, 100, 100), face(100, 0, 100, 100))
    assert not is_same(face(0, 0, 100, 100), face(60, 0, 100, 100))


def test_the_order_is_by_size_and_has_no_ties() -> None:
    faces = [face(50, 0, 10, 10), face(0, 0, 10, 10), face(0, 0, 20, 20, 0.6), face(0, 0, 10, 10, 0.95)]
    ordered = largest_first(faces)
    assert [(each.area, each.score, each.x) for each in ordered] == [
        (400, 0.6, 0),
        (100, 0.95, 0),
        (100, 0.9, 0),
        (100, 0.9, 50),
    ]
    assert [id(each) for each in largest_first(faces[::-1])] == [id(each) for each in ordered]


@pytest.mark.parametrize("degrees", [-170.0, -90.0, 0.0, 30.0, 180.0])
def test_the_roll_of_a_face_is_the_angle_that_it_was_turned_by(degrees: float) -> None:
    upright = Face(0, 0, 10, 10, 0.9, np.array([[3.0, 3], [7, 3], [5, 5], [3, 8], [7, 8]]))
    turn = rotation(degrees, np.array([4.0, 9.0]))
    assert upright.roll_degrees == 0
    assert upright.mapped(turn).roll_degrees == pytest.approx(degrees)
    assert common_roll_degrees([upright.mapped(turn)] * 3) == pytest.approx(degrees)
    assert compose(turn, turn) == pytest.approx(rotation(2 * degrees, np.array([4.0, 9.0])))


def test_the_common_roll_is_that_of_most_faces_also_across_the_half_turn() -> None:
    upright = Face(0, 0, 10, 10, 0.9, np.array([[3.0, 3], [7, 3], [5, 5], [3, 8], [7, 8]]))
    turned = [upright.mapped(rotation(degrees, np.zeros(2))) for degrees in (170.0, -170.0, 180.0)]
    assert abs(common_roll_degrees(turned)) == pytest.approx(180)
    assert common_roll_degrees([]) == 0


def test_finds_disagree_on_which_way_up_a_face_is_from_half_a_quarter_turn_on() -> None:
    upright = face(10, 10, 80, 80)
    at = lambda degrees: upright.mapped(rotation(degrees, upright.centre))  # noqa: E731
    assert [turned_apart(at(170), at(170 + by)) for by in (0, 40, 50, 180, 310, 320)] == [
        *(False, False, True, True, True, False)
    ]


def test_a_face_keeps_its_scores_when_it_is_mapped() -> None:
    mapped = replace(face(10, 10, 80, 80, 0.8), direction_margin=0.7).mapped(scaling(0.5, 3, 4))
    assert (mapped.score, mapped.direction_margin, mapped.width) == (0.8, 0.7, 40)
