import numpy as np

from agegender.data.annotate import Annotation, draw_annotations


def test_boxes_and_words_are_drawn_and_the_picture_itself_stays() -> None:
    pixels = np.full((300, 400, 3), 100, np.uint8)
    drawn = draw_annotations(pixels, [Annotation((100, 50, 180, 150), ["31 (24-39) years", "female 97%"])])
    assert drawn.shape == pixels.shape
    assert (pixels == 100).all()
    assert (drawn[50, 110:170] != 100).any()  # the upper edge of the box
    assert (drawn[60:140, 110:170] == 100).all()  # the face is not covered
    assert (drawn == 255).all(axis=-1).any()  # white words


def test_words_stay_inside_a_small_picture_and_leave_other_faces_free() -> None:
    pixels = np.full((200, 300, 3), 100, np.uint8)
    left, right = (10, 100, 80, 195), (200, 100, 280, 195)
    drawn = draw_annotations(pixels, [Annotation(left, ["a"]), Annotation(right, ["b"])])
    assert (drawn[110:185, 20:70] == 100).all()
    assert (drawn[110:185, 210:270] == 100).all()
    tiny = draw_annotations(np.zeros((8, 8, 3), np.uint8), [Annotation(None, ["no face of at least 40 pixels"])])
    assert tiny.shape == (8, 8, 3)
