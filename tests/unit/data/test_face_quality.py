"""What rows say of a face beside its estimates."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from agegender.data.alignment import CANONICAL_LANDMARKS
from agegender.data.corruptions import CORRUPTIONS
from agegender.data.face_geometry import Face, apply, rotation
from agegender.data.face_quality import (
    DOUBTFUL_SCORE,
    doubt,
    face_px_of_crop,
    share_outside,
    sharpness,
    yaw,
)
from agegender.data.images import resize
from agegender.data.synthetic import draw_face
from agegender.schema import YAWS

FACE = Face(100, 100, 80, 100, 0.9, CANONICAL_LANDMARKS * 100 + 90)


def looking(offset: float) -> np.ndarray:
    """Landmarks of a face whose nose is right of the middle by a share of the distance of its eyes, 40 pixels."""
    return np.array([[80.0, 80], [120, 80], [100 + 40 * offset, 100], [85, 120], [115, 120]])


def test_a_crop_holds_a_face_somewhat_narrower_than_itself() -> None:
    assert face_px_of_crop(200, 240) == face_px_of_crop(240, 200) == pytest.approx(168)


@pytest.mark.parametrize("degrees", [0, 30, 90, 180, 250])
def test_where_a_face_looks_does_not_depend_on_how_it_is_turned(degrees: float) -> None:
    turn = rotation(degrees, np.array([100.0, 100]))
    offsets = (0, 0.1, -0.1, 0.2, -0.2, 0.5, -0.5)
    assert [yaw(apply(turn, looking(offset))) for offset in offsets] == [
        *("frontal", "frontal", "frontal", "half_right", "half_left", "profile_right", "profile_left")
    ]


def test_eyes_that_have_changed_places_are_a_profile_and_every_word_is_in_the_vocabulary() -> None:
    landmarks = looking(0.5)
    landmarks[[0, 1]] = landmarks[[1, 0]]
    assert yaw(landmarks) == "profile_right"
    assert yaw(np.zeros((5, 2))) in YAWS
    assert yaw(CANONICAL_LANDMARKS) == "frontal"


def test_blur_and_enlargement_lower_the_sharpness_and_light_does_not_change_it() -> None:
    faces = [draw_face(30, index % 2, index, 128) for index in range(8)]
    measured = {
        name: np.mean([sharpness(change.apply(face)) for face in faces]) for name, change in CORRUPTIONS.items()
    }
    sharp = np.mean([sharpness(face) for face in faces])
    small = np.mean([sharpness(resize(resize(face, 24), 128)) for face in faces])
    assert measured["blur"] < 0.8 * sharp
    assert small < measured["face_48_px"] < sharp
    assert measured["darkness"] == pytest.approx(sharp, rel=0.15)
    assert 0 <= small < sharp <= 1


def test_the_sharpness_of_one_colour_is_zero_and_movement_in_one_direction_counts() -> None:
    assert sharpness(np.full((128, 128, 3), 90, np.uint8)) == 0
    face = draw_face(30, 0, 0, 128)
    for kernel in ((15, 1), (1, 15)):
        assert sharpness(np.asarray(cv2.blur(face, kernel), np.uint8)) < 0.8 * sharpness(face)


def test_crops_of_another_size_are_brought_to_one() -> None:
    face = draw_face(30, 0, 0, 256)
    assert sharpness(face) == sharpness(resize(face, 128))


def test_the_share_of_a_box_outside_its_picture() -> None:
    assert share_outside(FACE, 400, 300) == 0
    assert share_outside(FACE, 140, 300) == pytest.approx(0.5)
    assert share_outside(replace(FACE, x=-20, y=-50), 400, 300) == pytest.approx(1 - 0.75 * 0.5)
    assert share_outside(replace(FACE, x=500), 400, 300) == 1


def test_a_face_that_nothing_is_known_against_is_not_doubtful() -> None:
    assert doubt(FACE, 400, 300) is None
    assert doubt(replace(FACE, direction_margin=0.1), 400, 300) is None
    assert doubt(replace(FACE, x=-5), 400, 300) is None


def test_a_doubtful_face_says_why_and_names_each_reason() -> None:
    weak = replace(FACE, score=DOUBTFUL_SCORE - 0.05)
    assert doubt(weak, 400, 300) == f"the face is doubtful: detection score {weak.score:.2f}, under {DOUBTFUL_SCORE:g}"
    assert doubt(FACE, 132, 300) == "the edge of the picture cuts the face: 60% of its box lies outside"
    both = str(doubt(weak, 132, 300))
    assert "detection score" in both and "; the edge of the picture cuts the face" in both


@pytest.mark.parametrize(("degrees", "least"), [(0, 0.01), (40, 0.01), (90, 0.02), (180, 0.02)])
def test_which_way_up_a_face_is_is_doubtful_sooner_where_it_is_not_upright(degrees: float, least: float) -> None:
    face = FACE.mapped(rotation(degrees, FACE.centre))
    assert doubt(replace(face, direction_margin=1.1 * least), 400, 300) is None
    words = "it is doubtful which way up the face is: in another direction the score is only 0.0"
    assert str(doubt(replace(face, direction_margin=0.9 * least), 400, 300)).startswith(words)
