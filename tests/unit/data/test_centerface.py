"""CenterFace's own file, on a photograph that the package draws nothing of: skips without the package that has it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agegender.data.centerface import MULTIPLE_PX, CenterFaceDetector, _peaks
from agegender.data.faces import FaceFinder
from agegender.errors import InputError, ResourceError
from agegender.pipelines.runtime.detector import centerface_model

ROOT = Path(__file__).parents[3]
PICTURE = ROOT / "docs" / "preview.jpg"


@pytest.fixture(scope="module")
def detector() -> CenterFaceDetector:
    try:
        return CenterFaceDetector(centerface_model().read_bytes())
    except ResourceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """Two photographs in the public domain, as the README shows them."""
    return np.asarray(Image.open(PICTURE).convert("RGB"))


def test_both_faces_are_found_with_their_landmarks_in_order(
    detector: CenterFaceDetector, photograph: np.ndarray
) -> None:
    found = FaceFinder(detector).find(photograph)
    assert len(found) == 2
    for face in found:
        left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
        assert left_eye[0] < nose[0] < right_eye[0]
        assert left_mouth[0] < nose[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
        inside = (face.landmarks > (face.x, face.y)) & (face.landmarks < (face.x + face.width, face.y + face.height))
        assert inside.all()
        assert 0.8 < face.score <= 1


@pytest.mark.parametrize("side_px", [MULTIPLE_PX, MULTIPLE_PX + 1, 300])
def test_a_picture_of_any_sides_is_searched_as_it_is(
    detector: CenterFaceDetector, photograph: np.ndarray, side_px: int
) -> None:
    assert detector.detect(np.full((side_px, 7, 3), 90, np.uint8), 0.5) == []
    whole = detector.detect(photograph, 0.7)
    more = np.pad(photograph, ((0, side_px), (0, side_px), (0, 0)))
    assert [face.x for face in detector.detect(more, 0.7)] == pytest.approx([face.x for face in whole], abs=3)


def test_a_threshold_leaves_out_what_scores_less(detector: CenterFaceDetector, photograph: np.ndarray) -> None:
    scores = sorted(face.score for face in detector.detect(photograph, 0.2))
    threshold = scores[-1] - 1e-6
    assert [face.score for face in detector.detect(photograph, threshold)] == pytest.approx([scores[-1]])


def test_a_damaged_file_is_named_so(detector: CenterFaceDetector) -> None:
    whole = centerface_model().read_bytes()
    for damaged in (whole[:-1000], whole[: len(whole) // 2], b""):
        with pytest.raises(InputError, match="not CenterFace's"):
            CenterFaceDetector(damaged)


def test_of_peaks_that_overlap_the_highest_is_kept() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [1, 1, 10, 10], [40, 0, 10, 10]])
    assert sorted(_peaks(boxes, np.array([0.5, 0.9, 0.3]))) == [1, 2]
    assert _peaks(boxes[:0], np.zeros(0)) == []
