from agegender.api.faces import _kept
from agegender.api.sources import PreparedSource
from agegender.config import PredictConfig

OF_A_FIRST_RUN = PreparedSource(["t.parquet"], None, ("source_box", "mine"), {"box": "source_box"})


def adapted(**options: object) -> dict[str, object]:
    return _kept(PredictConfig.model_validate({"input": ["-"], "output": "-", **options}), OF_A_FIRST_RUN)


def test_rows_of_a_first_run_are_boxes_of_the_next_under_their_new_name() -> None:
    kept = {"keep_columns": ["source_box", "mine"]}
    assert adapted() == kept
    assert adapted(faces="boxes") == kept | {"box_columns": "source_box"}
    assert adapted(faces="boxes", box_columns="mine") == kept | {"box_columns": "mine"}
    assert adapted(faces="boxes", box_columns=["a", "b", "box", "d"], keep_columns=["box"]) == {
        "keep_columns": ["source_box"], "box_columns": "a,b,source_box,d",
    }  # fmt: skip
