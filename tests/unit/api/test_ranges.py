"""What is shown of a set whose ages are all labelled as ranges: no figure of exact ages is there."""

from pathlib import Path
from typing import Any

from agegender.api.evaluation import Evaluation
from agegender.api.results import Output
from agegender.api.training import TrainingRun


def test_a_training_run_on_ranges(tmp_path: Path) -> None:
    summary: dict[str, Any] = {
        "age_mae_years": None,
        "age_mae_to_range_years": 2.5,
        "gender_accuracy": 0.9,
        "epochs": 3,
    }
    summary |= {"train_images": 10, "training_s": 1.0, "model_id": "abc"}
    run = TrainingRun(Output.at(tmp_path), summary)
    assert "3 epochs, age_mae_to_range_years 2.50, gender_accuracy 0.900 on" in repr(run)
    assert "2.50 years" in run._repr_html_() and "age MAE" not in run._repr_html_()


def test_an_evaluation_on_ranges(tmp_path: Path) -> None:
    value = {"value": 0.5, "low": 0.25, "high": 0.75}
    none = dict.fromkeys(value)
    metrics: dict[str, Any] = {
        "n": 4,
        "n_age": 0,
        "n_age_range": 4,
        "seen_in_training": {"images": 0},
        "age_in_range": value,
    }
    metrics |= {"age_mae_to_range_years": value, "gender_accuracy": value, "age_mae_years": none}
    measured = Evaluation(Output.at(tmp_path), metrics)
    assert "age in the labelled range 50.0% (25.0% to 75.0%)" in repr(measured)
    assert "age MAE" not in repr(measured)
