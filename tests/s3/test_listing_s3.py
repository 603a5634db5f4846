"""What a real S3 server lists: complete, in one order, by several folders at a time."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agegender import storage
from agegender.option_groups import SourceOptions
from agegender.pipelines.source.fetch import fetch
from agegender.pipelines.source.listing import SourceCounts, list_source
from tests.s3.faults import faulty
from tests.s3.test_storage_s3 import bucket_name


def test_a_listing_is_complete_over_pages_ordered_and_without_hidden_names(s3_bucket: str, s3_admin: Any) -> None:
    names = [f"images/{index % 3}/{index:05d}.jpg" for index in range(1_200)]
    others = ["images/_work/unit.parquet", "images/.tmp-1", "images/1/_x.jpg", "images2/x.jpg", "images/"]
    client, bucket = s3_admin, bucket_name(s3_bucket)
    for key in names + others:
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    expected = [f"{s3_bucket}/{key}" for key in sorted(names)]
    assert [info.uri for info in storage.list_files(f"{s3_bucket}/images")] == expected
    assert [info.uri for info in storage.list_files(f"{s3_bucket}/images/")] == expected
    assert len(list(storage.list_files(f"{s3_bucket}/images", hidden=True))) == 1_203
    assert len(list(storage.list_files(s3_bucket))) == 1_201
    assert [info.uri for info in storage.list_files(f"{s3_bucket}/images/_work")] == [
        f"{s3_bucket}/images/_work/unit.parquet"
    ]
    assert [info.uri for info in storage.list_files(f"{s3_bucket}/images/.tmp-1")] == [f"{s3_bucket}/images/.tmp-1"]


def _put(admin: Any, bucket: str, keys: list[str]) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: admin.put_object(Bucket=bucket_name(bucket), Key=key, Body=b"x"), keys))


def test_a_listing_of_many_folders_has_each_object_once_and_always_in_the_same_order(
    s3_bucket: str, s3_admin: Any
) -> None:
    keys = [f"images/{year}/{month}/{index}.jpg" for year in range(3) for month in range(5) for index in range(8)]
    keys += [f"images/large/{index}.jpg" for index in range(1_010)]  # more than a page
    keys += [f"images/wide/{index}/0.jpg" for index in range(1_010)]  # more folders than are asked for one by one
    keys += ["images/a.jpg", "images/0/b.jpg", "images//c.jpg", "images/1/e f+ä%20.jpg/d"]
    _put(s3_admin, s3_bucket, [*keys, "images/_work/unit.parquet", "images/2/.x/y.jpg", "images/2/", "images3/x.jpg"])
    listed = [info.uri for info in storage.list_files(f"{s3_bucket}/images")]
    assert sorted(listed) == sorted(f"{s3_bucket}/{key}" for key in keys)
    assert [info.uri for info in storage.list_files(f"{s3_bucket}/images")] == listed
    assert len(list(storage.list_files(f"{s3_bucket}/images", hidden=True))) == len(keys) + 2
    assert next(storage.list_files(f"{s3_bucket}/images")).uri == listed[0]


def test_folders_are_listed_side_by_side_and_hidden_ones_not_at_all(
    s3_bucket: str, s3_admin: Any, s3_server: str, s3_env: Callable[..., None]
) -> None:
    _put(s3_admin, s3_bucket, [f"images/{name}/0.jpg" for name in [*range(20), "_work", ".cache"]])
    with faulty(s3_server, busy_every=10**9, delay_s=0.2) as server:
        s3_env(AWS_ENDPOINT_URL=server.endpoint)
        began_s = time.monotonic()
        assert len(list(storage.list_files(f"{s3_bucket}/images"))) == 20
        seconds = time.monotonic() - began_s
    assert server.requests == 1 + 1 + 20, "whether it is one object, its folders, and each of them"
    assert seconds < server.requests * server.delay_s, "what one after the other would take at least"


def test_any_key_is_listed_read_and_labelled_and_rules_hold_as_in_folders(s3_bucket: str, s3_admin: Any) -> None:
    odd = [
        "f/José #1 100%25.jpg", "f/a+b&c=d?.jpg", "f/new\nline.jpg", "f/日本.jpg", "f/quote'\".jpg",
        "f/31_0_1_20170116002854242.jpg", "f//empty.jpg",
    ]  # fmt: skip
    left_out = [
        "f/@eaDir/a.jpg/thumb.jpg",
        "f/@eaDir/b.jpg/thumb.jpg",
        "f/backup/1.jpg",
        "f/backup/2.jpg",
        "f/._a.jpg",
        "f/./b.jpg",
    ]
    _put(s3_admin, s3_bucket, [*odd, *left_out])
    counts = SourceCounts()
    options = SourceOptions(input=[f"{s3_bucket.replace('s3://', 's3a://')}/f"], exclude=["backup/"])
    (table,) = list_source(options, counts=counts)
    assert set(table["uri"].to_pylist()) == {f"{s3_bucket}/{key}" for key in odd}
    assert [each.data for each in fetch(table, options)] == [b"x"] * len(odd)
    assert 31 in table["age_years"].to_pylist()
    assert dict(counts.ignored) == {"system folder": 1, "excluded": 1, "hidden name": 2}
