"""The identity of a run: which options it holds, and that no option can be forgotten."""

import pytest

from agegender.config import EdaConfig, EvaluateConfig, PredictConfig, SampleConfig
from agegender.options import DERIVED, LABELS, NOTHING, OUTPUT, REPORT, Affects, Options
from agegender.training_config import PackConfig, TrainConfig

RUNS = [SampleConfig, EdaConfig, TrainConfig, PackConfig, EvaluateConfig, PredictConfig]


@pytest.mark.parametrize("config", RUNS)
def test_every_option_says_what_it_affects(config):
    for name, field in config.model_fields.items():
        marks = [mark for mark in field.metadata if isinstance(mark, Affects)]
        assert len(marks) == 1, (
            f"{config.__name__}.{name} has {len(marks)} marks of agegender.options.Affects, needs one"
        )


def test_an_option_without_a_mark_is_found():
    class Forgetful(Options):
        forgotten: int = 1

    with pytest.raises(AssertionError, match=r"Forgetful\.forgotten has 0 marks"):
        test_every_option_says_what_it_affects(Forgetful)


def test_the_identity_of_predict_holds_what_changes_rows_and_nothing_else():
    config = PredictConfig(input=["photos"], output="out", num_workers=3, min_face_px=20, age_column="years", limit=7)
    assert config.identity(OUTPUT) == {
        "input": ["photos"],
        "uri_column": None,
        "bytes_column": None,
        "max_image_pixels": 100_000_000,
        "max_image_bytes": 100_000_000,
        "allow_truncated": False,
        "unit_images": 512,
        "allow_http": False,
        "exclude": [],
        "include": [],
        "faces": "detect",
        "box_columns": None,
        "box_format": None,
        "limit": 7,
        "keep_columns": [],
        "age_distribution": False,
        "abstain_above": None,
        "batch_size": 64,
        "precision": "auto",
    }


def test_train_resumes_wherever_and_however_fast_it_runs():
    moved = {"output", "address", "num_cpus", "shared_storage", "num_workers", "min_workers", "accumulate", "use_gpu"}
    moved |= {"max_failures", "cache_dir", "cache_limit_gb", "checkpoint_interval_steps", "resume_from"}
    assert TrainConfig.marked(NOTHING) == moved
    assert TrainConfig.marked(REPORT) == {"images"}
    assert {"epochs", "learning_rate", "augment", "teacher", "init"} <= TrainConfig.marked(OUTPUT)


def test_labels_belong_to_the_jobs_that_read_them():
    assert EvaluateConfig.marked(LABELS) == {"labels", "age_column", "gender_column", "gender_codes", "race_column"}
    assert PredictConfig(input=["a"], output="b", labels="folder").source().labels == "none"
    assert EvaluateConfig.marked(DERIVED) >= {"model", "split", "detector", "detector_model"}
