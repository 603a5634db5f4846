"""A good image is not lost for its wrapping, and a bad one does not pass for good."""

import builtins
import struct
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agegender.data import images, rescue
from agegender.data.images import decode
from agegender.schema import Status
from tests.support.corpus import (
    MAX_PIXELS,
    PICTURE,
    WITH_WARNING,
    chunk,
    encoded,
    exif,
    good_images,
    picture,
    pixels_of,
    with_chunk,
)

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

LARGE = picture(320, 240)
PNG = encoded(Image.fromarray(PICTURE), "PNG")
KINDS: dict[str, dict[str, int]] = {
    "4:2:0": {"subsampling": 2},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_rows": 1},
}


def jpeg(pixels=LARGE, mode="RGB", **options):
    return encoded(Image.fromarray(pixels).convert(mode), "JPEG", quality=90, **options)


def test_only_images_that_are_not_quite_whole_have_a_warning():
    for name, data in good_images().items():
        assert (decode(data, MAX_PIXELS).warning is not None) == (name in WITH_WARNING), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("tail", [b"", b"\xff", bytes(5000)])
def test_a_jpeg_that_lacks_its_end_marker_alone_has_every_pixel(kind, mode, tail):
    data = jpeg(mode=mode, **KINDS[kind])
    decoded = decode(data[:-2] + tail, 10**6)
    assert decoded.warning == "the end marker is missing; every pixel is there"
    np.testing.assert_array_equal(pixels_of(decoded), pixels_of(decode(data, 10**6)))


@pytest.mark.parametrize("kind", ["4:2:0", "4:4:4", "restart markers"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_share_that_is_missing_is_what_differs_from_the_whole(kind, mode):
    data = jpeg(mode=mode, **KINDS[kind])
    whole = pixels_of(decode(data, 10**6)).astype(int)
    for share in (0.2, 0.5, 0.8, 0.95):
        found = rescue.jpeg_without_end(data[: int(len(data) * share)])
        assert found is not None
        assert found.missing_share is not None
        shown = np.asarray(found.image.convert("RGB")).astype(int)
        block = 16 if kind != "4:4:4" and mode == "RGB" else 8
        differs = np.abs(shown - whole).max(-1) > 0  # what is missing is grey, as the picture is only in a few places
        first_row = int(np.flatnonzero(differs.any(1))[0]) if differs.any() else 240
        row = (first_row + 1) // block * block  # colours are smoothed over one row more
        assert f"below row {row} of 240" in found.loss or found.missing_share < 0.1
        # One block of smoothed colours and the piece of a block at the end may count to either side.
        assert abs(found.missing_share - differs.mean()) < 0.08, (share, found)


def test_a_jpeg_is_ok_up_to_a_small_loss():
    data = jpeg()
    statuses = []
    for size in range(len(data) * 3 // 4, len(data), 37):
        decoded = decode(data[:size], 10**6)
        found = rescue.jpeg_without_end(data[:size])
        assert found is not None
        is_ok = (found.missing_share or 0.0) <= rescue.MAX_MISSING_SHARE
        assert decoded.status is (Status.OK if is_ok else Status.TRUNCATED)
        assert found.loss in ((decoded.warning if is_ok else decoded.error) or "")
        statuses.append(decoded.status)
    assert set(statuses) == {Status.OK, Status.TRUNCATED}
    assert statuses == sorted(statuses, reverse=True)  # truncated first, then ok


def test_half_a_jpeg_is_decoded_if_asked_for():
    data = jpeg(exif=exif(6))
    half = data[: len(data) // 2]
    assert decode(half, 10**6).status is Status.TRUNCATED
    decoded = decode(half, 10**6, allow_truncated=True)
    assert (decoded.status, decoded.error, decoded.width, decoded.height) == (Status.OK, None, 240, 320)
    assert decoded.warning is not None
    assert "of the image are missing" in decoded.warning
    whole = pixels_of(decode(data, 10**6))
    first, last = pixels_of(decoded)[:, -64:], pixels_of(decoded)[:, :16]  # turned: what comes first is on the right
    np.testing.assert_array_equal(first, whole[:, -64:])
    assert np.all(last == 128)


def test_a_progressive_jpeg_may_lack_its_last_bit_alone():
    data = jpeg(progressive=True)
    whole = pixels_of(decode(data, 10**6)).astype(int)
    last_scan = data.rindex(b"\xff\xda")
    decoded = decode(data[: last_scan + 40], 10**6)
    assert decoded.status is Status.OK
    assert decoded.warning is not None
    assert "finest detail" in decoded.warning
    assert np.abs(pixels_of(decoded) - whole).mean() < 2
    scans = [at for at in range(len(data)) if data.startswith(b"\xff\xda", at)]
    early = decode(data[: scans[2] + 10], 10**6)
    assert (early.status, early.pixels) == (Status.TRUNCATED, None)
    assert early.error is not None
    assert "its detail is lost" in early.error


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_file_that_was_allotted_and_half_written_is_truncated(mode):
    data = jpeg(mode=mode)
    decoded = decode(data[: len(data) // 2] + bytes(len(data) // 2), 10**6)
    assert decoded.status is Status.TRUNCATED


def test_what_libjpeg_says_of_damage_inside_is_a_warning():
    data = jpeg(restart_marker_rows=1)
    marker = data.index(b"\xff\xd3")
    damaged = data[:marker] + b"abc" + data[marker:]
    decoded = decode(damaged, 10**6)
    assert decoded.status is Status.OK
    assert decoded.warning is not None
    assert decoded.warning.startswith("Corrupt JPEG data")


@pytest.mark.parametrize(
    "added",
    [
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(3000)))[:-1] + b"?",
        chunk(b"pHYs", bytes(9))[:-4] + b"nope",
        chunk(b"tIME", b"")[:-4] + b"nope",
    ],
)
def test_metadata_does_not_lose_a_png(added):
    decoded = decode(with_chunk(PNG, added), MAX_PIXELS)
    assert decoded.warning == f"damaged or too large metadata was left out: {added[4:8].decode()}"
    np.testing.assert_array_equal(pixels_of(decoded), PICTURE)


def test_a_png_without_its_metadata_keeps_transparency_and_orientation():
    bad = chunk(b"pHYs", bytes(9))[:-4] + b"nope"
    turned = encoded(Image.fromarray(PICTURE), "PNG", exif=exif(6))
    np.testing.assert_array_equal(pixels_of(decode(with_chunk(turned, bad), MAX_PIXELS)), np.rot90(PICTURE, -1))
    keyed = encoded(Image.fromarray(np.full((20, 20), 10, np.uint8)), "PNG", transparency=10)
    assert np.all(pixels_of(decode(with_chunk(keyed, bad), MAX_PIXELS)) == 255)


def test_damage_that_pixels_depend_on_still_loses_a_png():
    bad = chunk(b"pHYs", bytes(9))[:-4] + b"nope"
    for at in (PNG.index(b"IHDR") + 5, PNG.index(b"IDAT") + 4):
        damaged = PNG[:at] + b"xx" + PNG[at + 2 :]
        assert decode(with_chunk(damaged, bad), MAX_PIXELS).status is Status.UNREADABLE
    assert decode(with_chunk(PNG, bad)[: len(PNG) // 2], MAX_PIXELS).status is Status.TRUNCATED


def test_a_png_of_countless_chunks_is_given_up():
    bad = chunk(b"pHYs", bytes(9))[:-4] + b"nope"
    data = with_chunk(PNG, bad + chunk(b"abCd", b"") * 100_000)
    assert rescue.png_without_metadata(data) is None
    assert decode(data, MAX_PIXELS).status is Status.UNREADABLE


def test_the_bound_holds_for_a_png_with_damaged_metadata():
    header = PNG[8:33]
    huge = struct.pack(">II", 30_000, 30_000) + header[16:21]
    bomb = PNG[:8] + chunk(b"IHDR", huge) + chunk(b"pHYs", bytes(9))[:-4] + b"nope" + PNG[33:]
    assert decode(bomb, MAX_PIXELS).status is Status.TOO_LARGE


@pytest.mark.parametrize("before", [b"\r\n", b"<br />\nWarning: nothing\n", bytes(60_000)])
def test_bytes_before_an_image_are_skipped(before):
    for data, size in ((PNG, PICTURE.shape), (jpeg(), LARGE.shape), (jpeg() + b"\r\n", LARGE.shape)):
        decoded = decode(before + data, 10**6)
        assert pixels_of(decoded).shape == size
        assert decoded.warning == f"{len(before)} bytes before the image were skipped"


@pytest.mark.parametrize(
    "data", [b"%PDF-1.4 " + jpeg() + b"\n%%EOF\n", b"ID3" + jpeg() + bytes(range(1, 200)), bytes(70_000) + jpeg()]
)
def test_a_file_that_only_contains_an_image_is_none(data):
    assert decode(data, 10**6).status is Status.NOT_AN_IMAGE


def test_of_a_tiff_the_largest_page_is_shown():
    pages = [Image.fromarray(picture(*size)) for size in ((20, 16), (96, 80), (96, 80), (48, 40))]
    pages[2] = pages[2].rotate(180)
    data = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    decoded = decode(data, MAX_PIXELS)
    assert decoded.warning == "the file has 4 pages; page 2, the largest, was decoded"
    np.testing.assert_array_equal(pixels_of(decoded), picture(96, 80))
    too_large = decode(data, 96 * 80 - 1)
    assert (too_large.status, too_large.width, too_large.height) == (Status.TOO_LARGE, 96, 80)


def test_pages_of_a_tiff_are_counted_up_to_a_bound():
    page = Image.fromarray(picture(20, 16))
    data = encoded(page, "TIFF", save_all=True, append_images=[page] * (images.MAX_TIFF_PAGES + 10))
    decoded = decode(data, MAX_PIXELS)
    assert decoded.warning == "the file has at least 64 pages; page 1, the largest, was decoded"


def test_heic_is_turned_once():
    stored = Image.fromarray(LARGE)
    decoded = decode(encoded(stored, "HEIF", quality=95, exif=exif(6).tobytes()), 10**6)
    assert (decoded.status, decoded.format, decoded.width, decoded.height) == (Status.OK, "HEIF", 240, 320)
    assert np.abs(pixels_of(decoded).astype(int) - np.rot90(LARGE, -1)).mean() < 4
    large = decode(encoded(stored, "HEIF"), 1000)
    assert (large.status, large.width) == (Status.TOO_LARGE, 320)


def test_without_the_extra_heic_is_unsupported_and_the_extra_is_named(monkeypatch):
    data = encoded(Image.fromarray(LARGE), "HEIF")
    real = builtins.__import__

    def refuse(name, *args, **options):
        if name == "pillow_heif":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.delitem(sys.modules, "pillow_heif")
    monkeypatch.delitem(Image.OPEN, "HEIF")
    decoded = decode(data, 10**6)
    assert decoded.status is Status.UNSUPPORTED
    assert decoded.error is not None
    assert "pip install 'agegender[heif]'" in decoded.error


def test_an_image_without_room_for_a_face_is_too_small():
    for size in ((15, 400), (400, 15), (1, 1)):
        decoded = decode(jpeg(picture(*size)), 10**6)
        assert (decoded.status, decoded.width, decoded.height) == (Status.TOO_SMALL, *size)
        assert decoded.error is not None
        assert decoded.error.startswith(f"{size[0]} x {size[1]} pixels")
    assert decode(jpeg(picture(16, 16)), 10**6).status is Status.OK


STARTS = st.sampled_from(
    [
        b"",
        PNG[:33],
        PNG[:8],
        jpeg()[:200],
        jpeg(progressive=True)[:700],
        b"\xff\xd8\xff",
        b"II*\0\x08\0\0\0",
        encoded(Image.fromarray(PICTURE), "HEIF")[:64],
    ]
)


@settings(max_examples=300, deadline=None)
@given(STARTS, st.binary(max_size=400), st.sampled_from([b"", jpeg()[-300:], PNG[-300:]]), st.booleans())
def test_garbage_never_raises(start, middle, end, allow_truncated):
    decoded = decode(start + middle + end, 10**6, allow_truncated=allow_truncated) if start + middle + end else None
    assert decoded is None or (decoded.status is Status.OK) == (decoded.pixels is not None)


@pytest.mark.parametrize("name", ["JPEG", "progressive", "PNG", "TIFF", "HEIF"])
def test_a_file_cut_anywhere_never_raises(name):
    small = Image.fromarray(picture(20, 18))
    whole = {
        "progressive": jpeg(picture(20, 18), progressive=True),
        "PNG": with_chunk(encoded(small, "PNG"), chunk(b"pHYs", bytes(9))[:-4] + b"nope"),
        "TIFF": encoded(small, "TIFF", save_all=True, append_images=[small.copy()]),
    }
    data = whole.get(name) or encoded(small, name)
    for size in range(len(data)):
        decoded = decode(data[:size], 10**6, allow_truncated=bool(size % 2))
        assert (decoded.status is Status.OK) == (decoded.pixels is not None) == (decoded.error is None)
