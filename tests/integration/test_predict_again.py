"""What the same command does after a finished run: new images, replaced ones, and those that failed."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from agegender.cli import main
from agegender.config import PredictConfig, RescoreConfig
from agegender.data.synthetic import draw_sample
from agegender.errors import ConfigError, InputError
from agegender.pipelines.predict.ledger import COUNTS_KEY
from agegender.pipelines.predict.rescore import run_rescore
from agegender.pipelines.predict.run import run_predict

pytestmark = pytest.mark.usefixtures("ray_cluster")


def write_faces(folder: Path, first: int, end: int) -> None:
    folder.mkdir(exist_ok=True)
    for index in range(first, end):
        (folder / f"{index:02d}.png").write_bytes(draw_sample(index, seed=3, size_px=48)[1])


def predict(faces: Path, output: Path, model: Path, **options: object) -> dict[str, object]:
    given = {"input": [str(faces)], "output": str(output), "model": str(model), "faces": "none", "unit_images": 5}
    return run_predict(PredictConfig(**given | {"num_workers": 1} | options))


def rows(output: Path) -> pa.Table:
    return pyarrow.dataset.dataset(output, format="parquet").to_table().sort_by("uri")


def parts(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(output.glob("part-*"))}


def test_images_that_came_later_are_scored_alone_and_old_parts_stay(tiny_model: Path, tmp_path: Path) -> None:
    faces, output = tmp_path / "faces", tmp_path / "out"
    write_faces(faces, 1, 8)
    predict(faces, output, tiny_model)
    before = parts(output)
    write_faces(faces, 0, 1)
    write_faces(faces, 8, 10)
    result = predict(faces, output, tiny_model)
    assert (result["images"], result["images_scored_now"], result["parts"]) == (10, 3, 2)
    assert before.items() <= parts(output).items()
    predict(faces, tmp_path / "whole", tiny_model)
    assert rows(output).equals(rows(tmp_path / "whole"))


@pytest.mark.parametrize("workers", [None, 1], ids=["local", "ray"])
def test_replaced_and_failed_images_are_scored_again_where_asked_for(
    workers: int | None, tiny_model: Path, tmp_path: Path
) -> None:
    faces, output = tmp_path / "faces", tmp_path / "out"
    write_faces(faces, 0, 7)
    (faces / "07.png").symlink_to(tmp_path / "later.png")
    lenient = {"max_bad_fraction": 1.0}
    assert predict(faces, output, tiny_model, **lenient)["by_status"] == {"ok": 7, "missing": 1}
    first = rows(output)

    (faces / "02.png").write_bytes(draw_sample(40, seed=3, size_px=48)[1])
    (tmp_path / "later.png").write_bytes(draw_sample(41, seed=3, size_px=48)[1])
    result = predict(faces, output, tiny_model, **lenient)
    assert result["changed_files"] == 2
    assert result["changed_examples"] == [str(faces / "02.png"), str(faces / "07.png")]
    assert rows(output).equals(first)

    result = run_rescore(RescoreConfig(output=str(output), status=["missing"], num_workers=workers))
    assert (result["images"], result["images_rescored"], result["by_status"]) == (8, 1, {"ok": 8})
    again = predict(faces, output, tiny_model, **lenient)
    assert again["changed_examples"] == [str(faces / "02.png")]
    recorded = json.loads((output / "_run.json").read_text())["config"]
    result = run_rescore(RescoreConfig(output=str(output), changed=True, num_workers=workers))
    assert (result["images"], result["images_rescored"]) == (8, 1)
    assert json.loads((output / "_run.json").read_text())["config"] == recorded
    result = predict(faces, output, tiny_model)
    assert "changed_files" not in result
    predict(faces, tmp_path / "whole", tiny_model)
    assert rows(output).equals(rows(tmp_path / "whole"))
    assert predict(faces, output, tiny_model) == result


def test_counts_that_do_not_add_up_end_the_job_with_exit_code_1(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces, output = tmp_path / "faces", tmp_path / "out"
    write_faces(faces, 0, 3)
    predict(faces, output, tiny_model)
    (part,) = output.glob("part-*")
    table = pq.read_table(part)
    counts = table.schema.metadata[COUNTS_KEY].replace(b'"images": 3', b'"images": 2')
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | {COUNTS_KEY: counts}), part)
    write_faces(faces, 3, 4)
    command = ["predict", "--input", str(faces), "--output", str(output), "--model", str(tiny_model), "--faces", "none"]
    assert main([*command, "--unit-images", "5", "--num-workers", "1"]) == 1
    assert "4 images listed, 3 in the output, 4 of them with a status" in capsys.readouterr().err
    assert rows(output).num_rows == 4


def test_rescore_refuses_what_it_cannot_do_and_changes_nothing(tiny_model: Path, tmp_path: Path) -> None:
    faces, output = tmp_path / "faces", tmp_path / "out"
    write_faces(faces, 0, 3)
    with pytest.raises(InputError, match="holds no predict run"):
        run_rescore(RescoreConfig(output=str(output), changed=True))
    predict(faces, output, tiny_model)
    before = parts(output)
    with pytest.raises(ConfigError, match="nothing to score again: give --changed, --status or both"):
        run_rescore(RescoreConfig(output=str(output)))
    record = json.loads((output / "_run.json").read_text())
    (output / "_run.json").write_text(json.dumps(record | {"state": "running"}))
    with pytest.raises(ConfigError, match="this run is not finished"):
        run_rescore(RescoreConfig(output=str(output), changed=True))
    assert parts(output) == before
