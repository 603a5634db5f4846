"""``read`` with its images on a real S3 server: their bytes as they lie there, and refused keys as an error, never as rows."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from agegender.storage import files
from tests.support.drawn import write_faces

IMAGES = 40

PROGRAM = """
import json, sys
from hashlib import sha256
from agegender.errors import ResourceError
from agegender.pipelines.runtime.session import ray_session
from agegender.pipelines.source.datasource import read

with ray_session(num_cpus=2):
    images = read(sys.argv[1], unit_images=8)
    try:
        rows = [[row["uri"], row["status"], row["age_years"], sha256(row["bytes"]).hexdigest()] for row in images.iter_rows()]
    except ResourceError as error:
        rows = f"ResourceError: {error}"
print(json.dumps(rows))
"""


def rows_of(source: str, **variables: str) -> list[list[object]] | str:
    command = [sys.executable, "-c", PROGRAM, source]
    env = {**os.environ, "RAY_ADDRESS": "", **variables}
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stderr
    rows: list[list[object]] | str = json.loads(run.stdout.splitlines()[-1])
    return rows


def test_a_prefix_gives_every_object_and_refused_keys_give_none(s3_bucket: str, tmp_path: Path) -> None:
    write_faces(f"{s3_bucket}/faces", IMAGES)
    listed = [file.uri for file in files.list_files(f"{s3_bucket}/faces")]
    expected = [
        [uri, "ok", float(files.name(uri).split("_")[0]), sha256(files.read_bytes(uri)).hexdigest()] for uri in listed
    ]
    assert sorted(rows_of(f"{s3_bucket}/faces")) == expected
    (tmp_path / "manifest.csv").write_text("\n".join(["uri", *listed]))
    refused = rows_of(str(tmp_path / "manifest.csv"), AWS_SECRET_ACCESS_KEY="wrong")
    assert isinstance(refused, str)
    assert refused.startswith("ResourceError: ")
    assert listed[0].rpartition("/")[0] in refused
