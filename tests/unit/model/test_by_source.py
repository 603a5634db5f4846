import numpy as np

from agegender.model.batches import Samples
from agegender.model.by_source import source_metrics, source_sums
from agegender.model.trainer import Estimates


def test_the_sums_of_two_ranks_give_the_metrics_of_each_source() -> None:
    ages, none = np.array([10, 20, np.nan, np.nan, 40], np.float32), np.full((5, 2), np.nan, np.float32)
    ranges = none.copy()
    ranges[2:4] = [20, 29], [30, 39]
    samples = Samples(
        np.zeros((5, 2, 2, 3), np.uint8),
        *(np.arange(5), ages, np.array([0, 1, 1, -1, 0])),
        age_ranges=ranges,
        sources=np.array([0, 0, 1, 1, 0]),
    )
    estimates = Estimates(
        np.array([12, 20, 35, 30, 34], np.float32), np.ones(5, np.float32), np.array([-1, -1, 1, 1, -1], np.float32)
    )
    ranks = [np.array([0, 2]), np.array([1, 3, 4])]
    parts = [source_sums(Estimates(*(each[rows] for each in estimates)), samples, rows, 2) for rows in ranks]
    found = source_metrics([sum(values) for values in zip(*parts, strict=True)], ["exact", "ranges"])
    assert found["exact"] == {
        "images": 3,
        "age_mae_years": 8 / 3,
        "age_mae_to_range_years": None,
        "gender_accuracy": 2 / 3,
    }
    assert found["ranges"]["age_mae_years"] is None
    assert found["ranges"]["images"] == 2
    assert np.isclose(found["ranges"]["age_mae_to_range_years"], 2.5)
    assert found["ranges"]["gender_accuracy"] == 1.0
