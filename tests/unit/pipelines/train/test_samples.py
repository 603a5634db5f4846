import numpy as np
import pyarrow as pa

from agegender.pipelines.train.samples import _ranges

AGES = pa.schema([("age_low_years", pa.float32()), ("age_high_years", pa.float32())])


def test_only_what_is_no_exact_age_is_a_range():
    rows = pa.table({"age_low_years": [20, 31, None, 70], "age_high_years": [29, 31, None, 120]}, schema=AGES)
    expected = [[20, 29], [np.nan, np.nan], [np.nan, np.nan], [70, 120]]
    np.testing.assert_array_equal(_ranges(rows), np.array(expected, dtype=np.float32))


def test_a_split_of_exact_ages_has_no_ranges():
    rows = pa.table({"age_low_years": [31, None], "age_high_years": [31, None]}, schema=AGES)
    assert _ranges(rows) is None
