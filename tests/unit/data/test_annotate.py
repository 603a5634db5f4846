import numpy as np
import pytest

from agegender.data.annotate import (
    AMBER,
    SHEET_CELLS,
    THUMBNAIL_PX,
    Annotation,
    Thumbnail,
    add_caption,
    contact_sheet,
    draw_annotations,
    fit,
)
from agegender.data.images import Pixels

TEXTS = ["31 ±8  female 82 %", "31 ±8", "31"]


def grey(width: int, height: int) -> Pixels:
    return np.full((height, width, 3), 100, np.uint8)


def changed(drawn: Pixels, pixels: Pixels) -> np.ndarray:
    return np.asarray((drawn != pixels).any(axis=-1))


@pytest.mark.parametrize("level", [0, 128, 255])
def test_boxes_and_words_stand_out_from_any_background_and_the_picture_itself_stays(level: int) -> None:
    pixels = np.full((300, 400, 3), level, np.uint8)
    drawn, left_out = draw_annotations(pixels, [Annotation((100, 50, 180, 150), TEXTS)])
    assert (drawn.shape, left_out) == (pixels.shape, 0)
    assert (pixels == level).all()
    edge = drawn[46:54, 110:170].mean(axis=(1, 2))
    assert edge.max() - edge.min() > 100  # a white line in a dark rim, whatever lies behind it
    assert (drawn[56:144, 106:174] == level).all()  # the face is not covered
    words = drawn[150:180, 60:220].astype(int)
    assert words.max() - words.min() > 150


def test_words_cover_no_face_and_no_other_words_and_stay_inside() -> None:
    pixels = grey(800, 600)
    boxes = [(x, y, x + 60, y + 76) for x in range(20, 760, 140) for y in range(-10, 500, 150)]
    each = [changed(draw_annotations(pixels, [Annotation(box, TEXTS)])[0], pixels) for box in boxes]
    drawn, left_out = draw_annotations(pixels, [Annotation(box, TEXTS) for box in boxes])
    assert left_out == 0
    for left, top, right, bottom in boxes:
        assert (drawn[max(0, top + 10) : bottom - 10, left + 10 : right - 10] == 100).all()
    assert changed(drawn, pixels).sum() == pytest.approx(sum(map(np.sum, each)), rel=0.1)


def test_where_it_is_crowded_words_become_fewer_then_stand_on_the_own_chin_then_are_left_out() -> None:
    pixels = grey(600, 400)
    wall = [(x, y, x + 98, y + 98) for x in range(0, 600, 100) for y in range(0, 400, 100)]
    drawn, left_out = draw_annotations(pixels, [Annotation(box, TEXTS) for box in wall])
    assert left_out == 0
    assert (drawn[6:70, 6:90] == 100).all()
    assert (drawn[76:96, 6:90] == 255).any()
    small = [(x, y, x + 14, y + 14) for x in range(0, 300, 15) for y in range(0, 150, 15)]
    faces = [Annotation(box, TEXTS) for box in small]
    assert draw_annotations(pixels[:150, :300], faces)[1] == len(faces)
    assert draw_annotations(pixels[:150, :300], faces, always=True)[1] == 0


def test_the_box_of_a_doubtful_face_is_dashed_and_has_another_colour() -> None:
    pixels = grey(600, 400)
    box = (200, 100, 400, 350)
    (sure, _), (doubtful, _) = (draw_annotations(pixels, [Annotation(box, [], doubtful=it)]) for it in (False, True))
    along = slice(230, 370)
    assert not (sure[100, along] == 100).all(axis=-1).any()
    gaps = (doubtful[98:102, along] == 100).all(axis=(0, 2))
    assert 0.2 < gaps.mean() < 0.6
    assert (np.abs(doubtful[100, along].astype(int) - AMBER) < 40).all(axis=-1).any()


def test_a_crop_has_its_words_on_it_and_a_line_only_if_it_is_doubtful() -> None:
    pixels = grey(320, 320)
    drawn, left_out = draw_annotations(pixels, [Annotation(None, TEXTS)])
    assert left_out == 0
    assert (drawn[:280] == 100).all()
    assert (drawn[290:] == 255).any()
    assert changed(draw_annotations(pixels, [Annotation(None, TEXTS, doubtful=True)])[0], pixels)[:280].any()


@pytest.mark.parametrize("size", [(8, 8), (2000, 16), (16, 2000)])
@pytest.mark.parametrize("box", [None, (2.5, 1, 7, 6), (-50, -40, 3000, 3000), (5000, 5000, 5100, 5100)])
def test_nothing_is_too_small_or_too_far_outside_to_be_drawn(
    size: tuple[int, int], box: tuple[float, float, float, float] | None
) -> None:
    pixels = grey(*size)
    for always in (False, True):
        drawn, _ = draw_annotations(pixels, [Annotation(box, ["a\nb", "a"], doubtful=True)], always=always)
        assert drawn.shape == pixels.shape
    assert add_caption(pixels, ["no face of at least 24 pixels"], doubtful=True).shape[1] == size[0]


def test_text_grows_with_the_picture_and_a_little_with_the_face() -> None:
    def height_of_text(width: int, face: int) -> int:
        pixels = grey(width, width)
        box = (width / 3, 10, width / 3 + face, 10 + face)
        plain = draw_annotations(pixels, [Annotation(box, [])])[0]
        rows = (draw_annotations(pixels, [Annotation(box, ["H"])])[0] != plain).any(axis=(1, 2))
        return int(rows.sum())

    assert height_of_text(600, 24) >= 16
    assert height_of_text(2400, 24) > 1.5 * height_of_text(600, 24)
    assert height_of_text(600, 24) <= height_of_text(600, 300) < 30
    assert height_of_text(2400, 24) < height_of_text(2400, 900) < 90


def test_a_caption_is_a_strip_below() -> None:
    pixels = grey(400, 300)
    captioned = add_caption(pixels, ["age ± half of its 90 % interval"], doubtful=False)
    assert (captioned[:300] == pixels).all()
    assert 15 < captioned.shape[0] - 300 < 40
    strip = captioned[300:].astype(int)
    assert (strip == 255).mean() > 0.7
    assert strip.min() < 100
    narrow = add_caption(grey(100, 300), ["age ± half of its 90 % interval"], doubtful=True)
    assert narrow.shape[0] > captioned.shape[0]
    assert (narrow[300:, :, 2] < 50).any()  # the sample of a dashed box


def test_a_sheet_holds_thumbnails_with_their_names_and_what_could_not_be_decoded() -> None:
    width, height = THUMBNAIL_PX
    images = [
        Thumbnail(np.full((height, width, 3), index, np.uint8), f"{index}.jpg") for index in range(SHEET_CELLS - 1)
    ]
    sheet = contact_sheet([*images, Thumbnail(None, "ü" * 200, "not an image")], "20 images", ["age"], doubtful=True)
    assert sheet.shape[1] < 2200
    for index in range(SHEET_CELLS - 1):
        assert (sheet == index).all(axis=-1).sum() >= width * height
    lone = contact_sheet([Thumbnail(fit(grey(10, 1000), 0.288), "a.jpg", "no face")], "1 image", [], doubtful=False)
    assert (lone == 100).all(axis=-1).sum() >= 2 * 288


def test_fit_enlarges_and_shrinks_to_at_least_one_pixel() -> None:
    assert fit(grey(64, 32), 5).shape == (160, 320, 3)
    assert fit(grey(2000, 3), 0.1).shape == (1, 200, 3)
