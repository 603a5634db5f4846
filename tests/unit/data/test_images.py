import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from agegender.data.images import decode, encode_jpeg, resize
from agegender.schema import Status
from tests.support.corpus import (
    HEIGHT,
    MAX_PIXELS,
    PICTURE,
    WIDTH,
    bad_images,
    cmyk_of,
    encoded,
    good_images,
    picture,
    pixels_of,
    write_corpus,
)

# pytest puts its own filters over the one that the module installs; the subprocess test below sees that one at work.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

GOOD, BAD = good_images(), bad_images()


def shown(name):
    decoded = decode(GOOD[name], MAX_PIXELS)
    assert (decoded.status, decoded.error) == (Status.OK, None)
    pixels = pixels_of(decoded)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    assert pixels.shape == (decoded.height, decoded.width, 3)
    return pixels


def largest_difference(one, other):
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def over_white(colours, alpha):
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


@pytest.mark.parametrize(("name", "status"), [(name, status) for name, (status, _) in BAD.items()])
def test_bad_bytes_become_a_status_with_the_decoders_words(name, status):
    decoded = decode(BAD[name][1], MAX_PIXELS)
    assert (decoded.status, decoded.pixels) == (status, None)
    assert decoded.error
    assert " at 0x" not in decoded.error


@pytest.mark.parametrize("name", GOOD)
def test_every_kind_of_good_image_is_ok(name):
    shown(name)


@pytest.mark.parametrize(
    "name",
    [
        "plain.png",
        "wrong_extension.jpg",
        "plain.bmp",
        "plain.tif",
        "plain.webp",
        "plain.ppm",
        "animated.png",
        "animated.webp",
    ],
)
def test_lossless_images_show_the_picture(name):
    np.testing.assert_array_equal(shown(name), PICTURE)


@pytest.mark.parametrize(
    "name", ["plain.jpg", "progressive.jpg", "several_pictures.jpg", "damaged_exif.jpg", "cmyk.jpg"]
)
def test_jpeg_agrees_with_another_decoder(name):
    other = cv2.imdecode(np.frombuffer(GOOD[name], np.uint8), cv2.IMREAD_COLOR_RGB)
    assert largest_difference(shown(name), other) <= 2


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("quality", [20, 75, 95])
def test_jpeg_has_pillows_own_pixels(subsampling, progressive, quality):
    odd = Image.fromarray(PICTURE).crop((0, 0, WIDTH - 1, HEIGHT - 3))
    for image in (odd, odd.resize((17, 16)), odd.resize((417, 233)), odd.convert("L")):
        target = BytesIO()
        image.save(target, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)
        own = np.asarray(Image.open(BytesIO(target.getvalue())).convert("RGB"))
        assert np.array_equal(pixels_of(decode(target.getvalue(), 10**6)), own)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_large_jpeg_is_decoded_smaller_where_less_is_enough(progressive):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    target = BytesIO()
    Image.fromarray(picture(1003, 701)).save(target, "JPEG", quality=90, exif=exif, progressive=progressive)
    data = target.getvalue()
    whole, scaled = decode(data, 10**6), decode(data, 10**6, enough_px=60)
    assert (scaled.width, scaled.height) == (whole.width, whole.height) == (701, 1003)
    all_pixels, fewer = pixels_of(whole), pixels_of(scaled)
    assert all_pixels.shape == (1003, 701, 3)
    assert 120 <= min(fewer.shape[:2]) < 240
    difference = np.abs(resize(fewer, 60).astype(int) - resize(all_pixels, 60))
    assert difference.mean() < 0.5
    assert np.array_equal(pixels_of(decode(data, 10**6, enough_px=200)), all_pixels)
    assert decode(data[: len(data) // 4], 10**6, enough_px=60).status is Status.TRUNCATED


def test_damage_that_pillow_reads_over_gives_its_pixels_still():
    data = encode_jpeg(PICTURE, 95)
    read_over = 0
    for seed in range(40):
        draws = np.random.default_rng(seed)
        damaged = bytearray(data)
        damaged[draws.integers(len(data) // 2, len(data) - 2)] = draws.integers(256)
        try:
            own = np.asarray(Image.open(BytesIO(damaged)).convert("RGB"))
        except OSError:
            continue
        read_over += 1
        assert np.array_equal(pixels_of(decode(bytes(damaged), MAX_PIXELS)), own)
    assert read_over > 10


def test_cmyk():
    inks = cmyk_of(PICTURE).astype(float)
    reference = (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
    assert largest_difference(shown("cmyk.tif"), reference.round()) <= 1
    assert np.abs(shown("cmyk.jpg") - reference).mean() < 3  # JPEG halves the resolution of some inks


def test_grey():
    reference = np.repeat(PICTURE @ np.array([0.299, 0.587, 0.114]), 3).reshape(PICTURE.shape)
    assert largest_difference(shown("grey.png"), reference.round()) <= 1
    assert np.abs(shown("grey.jpg") - reference).mean() < 2
    assert set(np.unique(shown("bilevel.png"))) == {0, 255}


def test_sixteen_bits_are_cut_to_the_upper_eight():
    np.testing.assert_array_equal(shown("rgb16.png"), PICTURE)
    np.testing.assert_array_equal(shown("grey16.png"), shown("grey.png"))


def test_palettes():
    indexed = Image.fromarray(PICTURE).quantize(32)
    colours = np.array(indexed.getpalette()).reshape(-1, 3)[np.asarray(indexed)]
    np.testing.assert_array_equal(shown("palette.png"), colours)
    opacity = np.arange(0, 256, 8)[np.asarray(indexed)]
    assert largest_difference(shown("palette_transparent.png"), over_white(colours, opacity).round()) <= 1


def test_alpha_lies_over_white():
    alpha = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    reference = over_white(PICTURE, alpha).round()
    assert largest_difference(shown("alpha.png"), reference) <= 1
    assert largest_difference(shown("alpha.webp"), reference) <= 1
    grey = over_white(shown("grey.png"), alpha).round()
    assert largest_difference(shown("grey_alpha.png"), grey) <= 2


def test_animations_show_their_first_frame():
    gif = shown("animated.gif").astype(int)  # 256 colours of its own choice
    assert np.abs(gif - PICTURE).mean() < 4
    assert np.abs(gif - (255 - PICTURE)).mean() > 40


@pytest.mark.parametrize("kind", ["jpg", "png", "tif"])
@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda stored: stored),
        (2, lambda stored: stored[:, ::-1]),
        (3, lambda stored: stored[::-1, ::-1]),
        (4, lambda stored: stored[::-1]),
        (5, lambda stored: stored.swapaxes(0, 1)),
        (6, lambda stored: np.rot90(stored, -1)),
        (7, lambda stored: stored[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda stored: np.rot90(stored)),
    ],
)
def test_exif_orientation_is_applied(kind, orientation, turned):
    stored = shown("plain.jpg") if kind == "jpg" else PICTURE
    np.testing.assert_array_equal(shown(f"orientation{orientation}.{kind}"), turned(stored))


@pytest.mark.parametrize("kind", ["jpg", "png", "tif"])
def test_the_size_of_an_image_over_the_bound_is_as_shown(kind):
    decoded = decode(GOOD[f"orientation6.{kind}"], WIDTH * HEIGHT - 1)
    assert (decoded.status, decoded.width, decoded.height) == (Status.TOO_LARGE, HEIGHT, WIDTH)
    assert decoded.error is not None
    assert decoded.error.endswith("= 1920 pixels, bound 1919")
    assert decode(GOOD[f"orientation6.{kind}"], WIDTH * HEIGHT).status is Status.OK


def test_our_bound_takes_the_place_of_pillows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for name in ("plain.png", "animated.gif", "plain.jpg"):
        assert decode(GOOD[name], MAX_PIXELS).status is Status.OK
        assert decode(GOOD[name], 500).status is Status.TOO_LARGE
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_damaged_file_is_not_shown_as_black():
    for name in ("broken.png", "truncated.png"):
        decoded = decode(BAD[name][1], MAX_PIXELS)
        assert decoded.pixels is None
        assert (decoded.width, decoded.height, decoded.format) == (160, 160, "PNG")


def test_random_damage_never_raises():
    rng = np.random.default_rng(0)
    files = [*GOOD.values(), *(data for _, data in BAD.values() if data)]
    for _ in range(1500):
        data = bytearray(files[rng.integers(len(files))])
        for place in rng.integers(min(len(data), int(rng.choice([64, 300, 10**6]))), size=4):
            data[place] = rng.choice([0, 1, 127, 255, int(rng.integers(256))])
        decoded = decode(bytes(data[: rng.integers(1, 2 * len(data))]), MAX_PIXELS)
        assert (decoded.status is Status.OK) == (decoded.pixels is not None) == (decoded.error is None)


def test_threads_decode_as_one_does():
    files = [*GOOD.values(), *(data for _, data in BAD.values())] * 5
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda data: decode(data, MAX_PIXELS), files))
    for data, result in zip(files, results, strict=True):
        alone = decode(data, MAX_PIXELS)
        assert (result.status, result.error, result.width) == (alone.status, alone.error, alone.width)
        np.testing.assert_array_equal(result.pixels, alone.pixels)


def test_nothing_is_said_on_stderr(tmp_path):
    expected = write_corpus(tmp_path / "corpus")
    program = """
import sys
from pathlib import Path
from agegender.data.images import decode
for path in Path(sys.argv[1]).iterdir():
    decode(path.read_bytes(), 10_000_000_000 if path.name == "big.png" else 40_000)
"""
    command = [sys.executable, "-X", "dev", "-c", program, str(tmp_path / "corpus")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=True)
    assert done.stderr == ""
    assert len(list((tmp_path / "corpus").iterdir())) == len(expected)


def test_resize_averages_areas_when_it_shrinks():
    pixels = picture(90, 60)
    reference = pixels.astype(float).reshape(30, 2, 30, 3, 3).mean(axis=(1, 3))
    assert largest_difference(resize(pixels, 30), reference.round()) <= 1


def test_resize_grows_and_leaves_what_fits():
    assert resize(PICTURE, 96).shape == (96, 96, 3)
    assert np.abs(resize(resize(PICTURE[:40, :40], 120), 40).astype(int) - PICTURE[:40, :40]).mean() < 2
    square = picture(50, 50)
    np.testing.assert_array_equal(resize(square, 50), square)


def test_resize_takes_one_pixel():
    np.testing.assert_array_equal(resize(np.full((1, 1, 3), 7, np.uint8), 8), np.full((8, 8, 3), 7))


def test_encode_jpeg_goes_there_and_back():
    data = encode_jpeg(PICTURE, quality=95)
    assert Image.open(BytesIO(data)).format == "JPEG"
    assert np.abs(pixels_of(decode(data, MAX_PIXELS)).astype(int) - PICTURE).mean() < 2
    assert len(encode_jpeg(PICTURE, quality=30)) < len(data)


def test_transparency_key_of_a_plain_image_is_transparent():
    grey = Image.fromarray(np.tile(np.array([10, 200], np.uint8), (16, 8)))
    pixels = pixels_of(decode(encoded(grey, "PNG", transparency=10), MAX_PIXELS))
    assert pixels[0, :2, 0].tolist() == [255, 200]
