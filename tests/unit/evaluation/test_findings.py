from dataclasses import replace

import numpy as np

from agegender.evaluation.examples import choose_examples
from agegender.evaluation.findings import findings
from agegender.evaluation.metrics import Observations
from agegender.evaluation.slices import age_assurance, bounded_metrics, slice_rows
from tests.support.observed import of_exact_ages, of_ranges


def findings_of(observations: Observations, worse: dict[str, Observations] | None = None) -> list[str]:
    measured = {name: {"what": name, "n": len(s), **bounded_metrics(s, 100, 0)} for name, s in (worse or {}).items()}
    metrics = bounded_metrics(observations, 100, 0) | {
        "interval_coverage_promised": 0.9,
        "age_assurance": age_assurance(observations),
    }
    metrics["robustness"] = measured or None
    return findings(metrics, slice_rows(observations, 100, 0))


def test_the_worst_group_is_named_with_its_numbers(observations: Observations) -> None:
    old = observations.age_true > 80
    worse = replace(
        observations, age_pred=np.where(old, observations.age_true - 25, observations.age_pred).astype(np.float32)
    )
    sentences = findings_of(worse)
    assert sentences[0].startswith("MAE is 25.0 years (25.0 to 25.0) for those aged ")
    assert "the worst by age group" in sentences[0]
    assert any("estimated 25.0 years too young" in sentence for sentence in sentences)


def test_equal_groups_make_no_finding() -> None:
    age = np.tile(np.arange(21, 91), 20).astype(np.float32)
    turn = np.repeat(np.arange(20), 70)
    gender = (turn % 2).astype(np.int8)
    estimate = age + np.where(turn % 4 < 2, 3, -3).astype(np.float32)
    race = np.full(age.size, -1, dtype=np.int8)
    assert findings_of(of_exact_ages(age, gender, race, estimate, age - 9, age + 9, gender.astype(np.float32))) == []


def test_the_worst_range_is_named() -> None:
    ranges = [(20.0, 29.0)] * 60 + [(70.0, 120.0)] * 60
    (sentence,) = findings_of(of_ranges(ranges, [25.0] * 60 + [50.0] * 50 + [80.0] * 10))
    assert sentence.startswith("The estimate is inside the labelled range for 17% (")
    assert sentence.endswith("of those labelled 70+, n = 60, against 58% over all: the worst of the ranges.")


def test_worse_images_are_named_where_the_interval_breaks(observations: Observations) -> None:
    wide = replace(
        observations, age_low=np.zeros_like(observations.age_low), age_high=np.full_like(observations.age_high, 120.0)
    )
    beside = replace(observations, age_low=observations.age_pred + 150, age_high=observations.age_pred + 160)
    sentences = findings_of(wide, {"in mist": wide, "in smoke": beside})
    assert not any("mist" in sentence for sentence in sentences)
    (smoke,) = [sentence for sentence in sentences if "smoke" in sentence]
    assert "loses coverage on corrupted images (in smoke): it covers 0%" in smoke


def test_examples_are_the_best_the_worst_and_the_surest_mistakes(observations: Observations) -> None:
    chosen = choose_examples(observations, seed=0, count=8)
    error = np.abs(observations.age_pred - observations.age_true)
    known = np.sort(error[~np.isnan(error)])
    np.testing.assert_allclose(np.sort(error[chosen["best"]]), known[:8])
    np.testing.assert_allclose(error[chosen["worst"]], known[::-1][:8])
    wrong = (observations.female_probability[chosen["gender_mistakes"]] >= 0.5) != observations.gender_true[
        chosen["gender_mistakes"]
    ]
    assert wrong.all()
    assert len(set(chosen["random"].tolist())) == 8
    assert len(choose_examples(observations.take(np.arange(3)), seed=0, count=8)["random"]) == 3


def test_examples_of_ranges_are_by_the_distance_to_the_range() -> None:
    seen = of_ranges([(20.0, 29.0)] * 4, [25, 31, 60, 18])
    chosen = choose_examples(seen, seed=0, count=2)
    assert set(chosen["worst"].tolist()) == {2, 3}
    assert chosen["best"][0] == 0
