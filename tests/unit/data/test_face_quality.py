import pytest

from agegender.data.face_quality import face_px_of_crop


def test_a_crop_holds_a_face_somewhat_narrower_than_itself() -> None:
    assert face_px_of_crop(200, 240) == face_px_of_crop(240, 200) == pytest.approx(168)
