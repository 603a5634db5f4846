import numpy as np
import pyarrow as pa

from agegender.pipelines.train.samples import _ranges, samples_of
from agegender.training_config import TrainConfig

AGES = pa.schema([("age_low_years", pa.float32()), ("age_high_years", pa.float32())])


def test_only_what_is_no_exact_age_is_a_range():
    rows = pa.table({"age_low_years": [20, 31, None, 70], "age_high_years": [29, 31, None, 120]}, schema=AGES)
    expected = [[20, 29], [np.nan, np.nan], [np.nan, np.nan], [70, 120]]
    np.testing.assert_array_equal(_ranges(rows), np.array(expected, dtype=np.float32))


def test_a_split_of_exact_ages_has_no_ranges():
    rows = pa.table({"age_low_years": [31, None], "age_high_years": [31, None]}, schema=AGES)
    assert _ranges(rows) is None


def test_training_images_have_the_weight_of_their_source_and_validation_images_none():
    columns = {"part": ["train", "val", "train", "train"], "age_years": [1.0, 2.0, 3.0, 4.0], "gender": [0, 1, 0, 1]}
    columns |= {
        "age_low_years": [1.0, 2.0, 3.0, 4.0],
        "age_high_years": [1.0, 2.0, 3.0, 4.0],
        "source": ["b", "a", "a", "b"],
    }
    usable = np.array([True, True, True, False])
    pixels = np.zeros((4, 2, 2, 3), np.uint8)
    config = TrainConfig(input=["a", "b"], output="-", source_weight=[1, 3])
    train, val = samples_of(pa.table(columns), pixels, usable, config.sources())
    np.testing.assert_array_equal(train.sources, [1, 0])
    np.testing.assert_array_equal(train.weights, [3.0, 1.0])
    np.testing.assert_array_equal(val.sources, [0])
    assert val.weights is None
    unweighted = TrainConfig(input=["a", "b"], output="-", source_weight=1)
    assert samples_of(pa.table(columns), pixels, usable, unweighted.sources())[0].weights is None
