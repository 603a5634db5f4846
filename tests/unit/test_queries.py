"""Every block of docs/queries.md is run on a table of the contract; the DDL is held to the contract's columns."""

import re
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agegender.schema import AGE_GROUPS, GENDERS, age_group, prediction_schema

PAGE = (Path(__file__).parents[2] / "docs" / "queries.md").read_text()
BLOCKS = re.findall(r"```(sql|python|hive)\n(.*?)```", PAGE, flags=re.DOTALL)
ROWS = 200
HIVE = {"string": "STRING", "int16": "SMALLINT", "int32": "INT", "float": "FLOAT", "bool": "BOOLEAN"}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A photograph with two faces, one without, one that is missing, and many with one face, in two parts."""
    draws = np.random.default_rng(0)
    rows = []
    for index in range(ROWS):
        face = {"uri": f"photos/{index // 2 if index < 2 else index}.jpg", "face_index": index if index < 2 else 0}
        if index in (5, 6):
            status = "no_face" if index == 5 else "missing"
            rows.append(face | {"status": status, "error": "said so", "abstained": None})
            continue
        age, female = float(draws.uniform(0, 110)), float(draws.uniform())
        rows.append(
            face
            | {"status": "ok", "width": 400, "height": 300, "detection_score": 0.9, "face_px": 20.0}
            | {"roll_degrees": 0.0, "yaw": "frontal", "sharpness": 0.5}
            | {"box": {"x": 1.0, "y": 2.0, "width": 30.0, "height": 20.0 + index}}
            | {"age_years": age, "age_low_years": max(age - 12, 0), "age_high_years": age + 12 + index % 20}
            | {"age_group": age_group(age), "gender": GENDERS[female >= 0.5]}
            | {
                "gender_probability": max(female, 1 - female),
                "female_probability": female,
                "abstained": index % 10 == 0,
            }
        )
    table = pa.Table.from_pylist(rows, schema=prediction_schema())
    folder = tmp_path / "out" / "predictions"
    folder.mkdir(parents=True)
    pq.write_table(table.slice(0, ROWS // 2), folder / "part-0000000-0000000.parquet")
    pq.write_table(table.slice(ROWS // 2), folder / "part-0000001-0000001.parquet")
    (folder / "_run.json").write_text("{}")
    (folder / "_work" / "listing").mkdir(parents=True)  # what a reader of the folder must not see
    pq.write_table(pa.table({"uri": ["a"], "size_bytes": [1]}), folder / "_work" / "listing" / "unit-0000000.parquet")
    return folder


def blocks(kind: str) -> list[str]:
    return [text for language, text in BLOCKS if language == kind]


@pytest.mark.parametrize("query", blocks("sql"))
def test_queries_give_rows(query: str, output: Path) -> None:
    answer = duckdb.sql(query.replace("out/predictions", str(output)))
    assert answer.fetchall()


@pytest.mark.parametrize("code", blocks("python"))
def test_code_runs_and_prints(code: str, output: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(output.parents[1])
    exec(compile(code, "docs/queries.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) > 10


def test_what_the_queries_answer_is_right(output: Path) -> None:
    pyramid, faces, widths, unwanted, wrong, tallest = (
        duckdb.sql(query.replace("out/predictions", str(output))).fetchall() for query in blocks("sql")
    )
    assert sum(male + female for _, male, female, _ in pyramid) == ROWS - 2
    assert [row[0] for row in pyramid] == [group for group in AGE_GROUPS if group in {row[0] for row in pyramid}]
    assert faces == [(0, 1), (1, ROWS - 4), (2, 1)]
    assert 0.09 < widths[0][0] < 0.11
    assert unwanted == [(ROWS - 2, 0, 0, 0, 0)]
    assert {row[0] for row in wrong} == {"no_face", "missing"}
    assert tallest[0][0] == f"photos/{ROWS - 1}.jpg"


def test_the_ddl_has_the_contracts_columns() -> None:
    (ddl,) = blocks("hive")
    columns = re.findall(r"^  (\w+) (.+?),?$", ddl, flags=re.MULTILINE)
    assert columns == [(field.name, _hive(field.type)) for field in prediction_schema()]


def _hive(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        return f"STRUCT<{', '.join(f'{field.name}: {_hive(field.type)}' for field in kind)}>"
    return HIVE[str(kind)]
