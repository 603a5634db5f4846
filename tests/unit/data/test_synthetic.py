import hashlib

import numpy as np
import pytest

from agegender.data.images import decode
from agegender.data.labels import capture_stamp, from_filename
from agegender.data.synthetic import draw_face, draw_sample, sample_name
from agegender.schema import RACES, Status


@pytest.fixture(scope="module")
def sample():
    return [draw_sample(index, seed=3, size_px=64) for index in range(600)]


@pytest.fixture(scope="module")
def labels(sample):
    return [from_filename(name) for name, _ in sample]


def test_a_drawing_depends_on_its_arguments_alone(sample):
    assert draw_sample(7, 3, 64) == sample[7]
    assert draw_sample(7, 4, 64) != sample[7]
    np.testing.assert_array_equal(draw_face(30, 1, 5, 64), draw_face(30, 1, 5, 64))
    assert (draw_face(30, 1, 5, 64) != draw_face(30, 1, 6, 64)).mean() > 0.5


def test_drawings_are_square_jpegs_of_the_size_asked_for(sample):
    for _, data in sample[:20]:
        decoded = decode(data, 10_000)
        assert (decoded.status, decoded.format, decoded.width, decoded.height) == (Status.OK, "JPEG", 64, 64)
    assert draw_face(40, 0, 0, 97).shape == (97, 97, 3)


def test_names_are_labels_with_a_stamp_of_their_own(sample, labels):
    assert all(label.problem is None for label in labels)
    stamps = {capture_stamp(name) for name, _ in sample}
    assert len(stamps) == len(sample)
    assert {len(stamp or "") for stamp in stamps} == {17}
    assert [sample_name(index, 3) for index in range(600)] == [name for name, _ in sample]
    other = {capture_stamp(draw_sample(index, 4, 32)[0]) for index in range(20)}
    assert not stamps & other


def test_every_label_occurs(labels):
    ages = np.array([label.age_years for label in labels])
    assert ages.min() >= 1
    assert ages.max() <= 100
    assert (ages <= 10).sum() > 20
    assert (ages >= 60).sum() > 20
    assert 0.4 < np.mean([label.gender for label in labels]) < 0.6
    assert {label.race for label in labels} == set(RACES)


def test_drawings_differ_from_each_other(sample):
    assert len({hashlib.sha256(data).digest() for _, data in sample}) == len(sample)


def test_the_race_code_is_linked_to_the_tone_of_the_skin():
    def brightness(race):
        return np.mean([draw_face(30, 1, seed, 32, race)[12:20, 12:20].mean() for seed in range(20)])

    assert brightness(0) > brightness(3) + 20 > brightness(1) + 40


@pytest.mark.parametrize("age_years", [0, 0.5, 1, 17, 50, 100, 120])
@pytest.mark.parametrize("gender", [0, 1])
def test_every_age_can_be_drawn(age_years, gender):
    for seed in (0, -1, 2**63):
        assert draw_face(age_years, gender, seed, 32).dtype == np.uint8


def edges_by_direction(pixels):
    """float[384]: strength of the edges in each of 8 x 8 cells, by 6 directions."""
    down, across = np.gradient(pixels.mean(axis=-1))
    direction = (np.arctan2(down, across) % np.pi / np.pi * 6).astype(int) % 6
    strength = np.hypot(across, down)[..., None] ** 0.5 * (direction[..., None] == np.arange(6))
    return strength.reshape(8, 8, 8, 8, 6).sum(axis=(1, 3)).ravel()


def test_age_and_gender_can_be_learned_but_not_without_error(sample, labels):
    # Ridge regression on edges sees far less than a network, and beats the median age and the majority on held-out drawings.
    features = np.stack([edges_by_direction(decode(data, 10_000).pixels) for _, data in sample])
    ages = np.array([label.age_years for label in labels])
    genders = np.array([label.gender for label in labels]) * 2.0 - 1
    train, held_out = np.arange(600) < 450, np.arange(600) >= 450
    centred = (features - features[train].mean(axis=0)) / features.std()
    gram = centred[train] @ centred[train].T + 200.0 * np.eye(450)

    def predicted(values):
        return values.mean() + centred[held_out] @ centred[train].T @ np.linalg.solve(gram, values - values.mean())

    age_mae = np.abs(predicted(ages[train]) - ages[held_out]).mean()
    median_mae = np.abs(np.median(ages[train]) - ages[held_out]).mean()
    assert 3 < age_mae < 0.85 * median_mae
    right = (np.sign(predicted(genders[train])) == genders[held_out]).mean()
    assert 0.65 < right < 0.97
