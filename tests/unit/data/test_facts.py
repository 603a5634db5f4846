from io import BytesIO

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from agegender.data import images
from agegender.data.facts import image_facts
from agegender.schema import FACTS, Status
from tests.support.corpus import picture


def png(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_facts_of_a_good_image():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    label = {"age_years": 31.0, "gender": 1, "race": "asian", "label_problem": None, "etag": "ignored"}
    row, shown = image_facts("a.png", png(pixels), (Status.OK, None), label, 10**6)
    np.testing.assert_array_equal(shown, pixels)
    assert (row["status"], row["width"], row["height"], row["format"]) == ("ok", 30, 20, "PNG")
    assert (row["age_years"], row["gender"], row["race"]) == (31.0, 1, "asian")
    flat = pixels.reshape(-1, 3).astype(np.float64)
    assert row["channel_mean"] == pytest.approx(flat.mean(axis=0))
    assert row["channel_mean_square"] == pytest.approx((flat**2).mean(axis=0))
    assert pa.Table.from_pylist([row], schema=FACTS).num_rows == 1


def test_a_bad_image_is_a_row_with_its_status():
    row, pixels = image_facts("a.jpg", b"text", (Status.OK, None), {"age_years": 5.0}, 10**6)
    assert pixels is None
    assert (row["status"], row["size_bytes"], row["age_years"]) == ("not_an_image", 4, 5.0)
    assert row["content_hash"] is not None
    assert row["perceptual_hash"] is None and row["thumbnail"] is None


def test_what_was_lost_of_an_image_is_its_warning():
    data = images.encode_jpeg(picture(160, 160))
    row, pixels = image_facts("a.jpg", data[:-2], (Status.OK, None), {}, 10**6)
    assert pixels is not None
    assert (row["status"], row["warning"]) == ("ok", "the end marker is missing; every pixel is there")
    half = data[: len(data) // 2]
    statuses = [
        image_facts("a.jpg", half, (Status.OK, None), {}, 10**6, allow_truncated=allowed)[0]["status"]
        for allowed in (False, True)
    ]
    assert statuses == ["truncated", "ok"]


def test_an_image_without_room_for_a_face_is_too_small():
    row, pixels = image_facts("a.png", png(np.zeros((15, 40, 3), np.uint8)), (Status.OK, None), {}, 10**6)
    assert pixels is None
    assert (row["status"], row["width"], row["height"]) == ("too_small", 40, 15)


def test_what_could_not_be_fetched_keeps_its_reason():
    row, pixels = image_facts("a.jpg", None, (Status.MISSING, "gone"), {}, 10**6)
    assert pixels is None
    assert (row["status"], row["error"], row["content_hash"]) == ("missing", "gone", None)
    assert list(row) == FACTS.names
