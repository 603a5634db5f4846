"""Public sets as they are published, against counts of their own tables. Each test skips where its set is absent."""

import collections
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agegender.data.images import decode
from agegender.option_groups import SourceOptions
from agegender.pipelines.source.fetch import fetch
from agegender.pipelines.source.listing import list_source
from agegender.schema import GENDERS, MAX_AGE_YEARS, Status

MAX_PIXELS = 10**7


def folder(variable: str, name: str) -> Path:
    found = Path(os.environ.get(variable, Path(__file__).parents[2] / "../shared/data" / name)).resolve()
    if not found.is_dir():
        pytest.skip(f"{variable}: no folder {found}")
    return found


def check_images(listing: pa.Table, options: SourceOptions) -> None:
    """A few images from all over the set are read and decoded."""
    some = listing.take(list(range(0, listing.num_rows, max(1, listing.num_rows // 50))))
    decoded = [decode(found.data or b"", MAX_PIXELS) for found in fetch(some, options)]
    assert {found.status for found in decoded} == {Status.OK}


def test_fairface_as_hugging_face_has_it() -> None:
    source = folder("AGEGENDER_FAIRFACE", "fairface")
    options = SourceOptions(input=[str(source)])
    listing = pa.concat_tables(list_source(options))
    truth = pq.read_table(source, columns=["age", "gender", "race"])
    assert listing.num_rows == truth.num_rows == len(set(listing["uri"].to_pylist()))
    assert listing["label_problem"].null_count == listing.num_rows
    expected: collections.Counter[tuple[float, float, str, str]] = collections.Counter()
    for row in truth.to_pylist():
        low, _, high = row["age"].removeprefix("more than ").partition("-")
        expected[float(low), float(high or MAX_AGE_YEARS), row["gender"].lower(), row["race"].lower()] += 1
    columns = ("age_low_years", "age_high_years", "gender", "race")
    rows = zip(*(listing[name].to_pylist() for name in columns), strict=True)
    found = collections.Counter((low, high, GENDERS[gender], race.lower()) for low, high, gender, race in rows)
    assert found == expected
    check_images(listing, options)


def test_all_age_faces_as_webdataset() -> None:
    source = folder("AGEGENDER_ALLAGEFACES", "allagefaces")
    options = SourceOptions(input=[str(source)])
    listing = pa.concat_tables(list_source(options))
    expected = {}
    for path in source.glob("*.tar"):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(".json") and (stream := archive.extractfile(member)) is not None:
                    label = json.load(stream)
                    expected[f"{path}#{member.name.removesuffix('.json')}"] = (label["age"], label["gender"])
    rows = zip(*(listing[name].to_pylist() for name in ("uri", "age_years", "gender")), strict=True)
    assert {uri.rpartition(".")[0]: (age, GENDERS[gender]) for uri, age, gender in rows} == expected
    check_images(listing, options)
