"""Speed of listing an S3 prefix: by boto3's paginator, and by the jobs.

    python benchmarks/s3_listing.py --prefix s3://bucket/listing [--count 50000] [--folders 50] [--round-trip-s 0.05]

Server and keys come from the AWS variables (docs/s3.md); `tests/s3/server.sh serve` starts one on this machine. A local
server has no latency, so each way is also measured with ROUND_TRIP_S of delay before each request. Puts COUNT objects of one byte
there (those that are there stay). Prints Markdown.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import boto3

from agegender.storage import files, s3_client
from agegender.storage.s3 import split

ROUNDS = 3


def main() -> None:
    """Fill, list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prefix", required=True, help="where to put them; its bucket must be there")
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--folders", type=int, default=50)
    parser.add_argument("--round-trip-s", type=float, default=0.05)
    given = parser.parse_args()
    uris = {f"{given.prefix}/{number % given.folders:04d}/{number:08d}.jpg" for number in range(given.count)}
    there = {info.uri for info in files.list_files(given.prefix, allow_empty=True)}
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda uri: files.write_bytes(uri, b"x"), uris - there))
    print(f"{given.count:,} objects in {given.folders} folders, keys/s, the best of {ROUNDS}:\n")
    print(f"| | no waiting | {given.round_trip_s} s before each request |\n|---|---|---|")
    plain, ours = boto3.session.Session().client("s3"), s3_client.client()
    ways: dict[str, tuple[Any, Callable[[str], Iterator[Any]]]] = {
        "boto3's paginator": (plain, partial(_one_by_one, plain)),
        "`files.list_files`": (ours, files.list_files),
    }
    for name, (client, way) in ways.items():
        rates = []
        for wait_s in (0.0, given.round_trip_s):
            wait = partial(_wait, wait_s)
            client.meta.events.register("before-send.s3.ListObjectsV2", wait)
            rates.append(max(_keys_per_s(way, given.prefix, given.count) for _ in range(ROUNDS)))
            client.meta.events.unregister("before-send.s3.ListObjectsV2", wait)
        print(f"| {name} | {rates[0]:,.0f} | {rates[1]:,.0f} |", flush=True)


def _wait(wait_s: float, **_: object) -> None:
    time.sleep(wait_s)


def _one_by_one(client: Any, prefix: str) -> Iterator[Any]:
    bucket, key = split(prefix)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{key}/"):
        yield from page["Contents"]


def _keys_per_s(way: Callable[[str], Iterator[Any]], prefix: str, count: int) -> float:
    began_s = time.perf_counter()
    found = sum(1 for _ in way(prefix))
    assert found == count, f"{found} objects of {count}"
    return count / (time.perf_counter() - began_s)


if __name__ == "__main__":
    main()
