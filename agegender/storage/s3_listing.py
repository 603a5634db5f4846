"""List an S3 prefix with concurrent requests for its folders.

A LIST returns a page of a thousand keys and the token of the next page, so that pages of one folder come one after the other:
a million round trips for a billion images. Folders (keys up to a slash) are independent and listed concurrently.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

from agegender.errors import InputError
from agegender.storage.answers import ObjectAnswer
from agegender.storage.s3_client import call, client

IN_FLIGHT = 16
"""Concurrent requests, each for a page of a thousand keys."""

MIN_FOLDERS = 64
"""Folders are split into their subfolders until there are this many: enough to keep requests concurrent if one is large."""

MAX_FOLDERS = 1000
"""No further splitting above this: requests for small folders return few keys."""


def list_objects(bucket: str, prefix: str, uri: str, skip: Callable[[str], bool]) -> Iterator[Any]:
    """Every object below a prefix, as S3 describes it, in an order that depends only on the keys.

    A prefix without folders keeps the server's order; otherwise pages of the folders alternate. Holds at most ``MIN_FOLDERS``
    pages in memory while it splits folders, then ``IN_FLIGHT``.

    Args:
        bucket: name.
        prefix: empty, or with a trailing slash.
        uri: for error messages.
        skip: whether to skip a folder, given as a prefix; some of its objects may be listed nevertheless.

    Raises:
        InputError: no such bucket, or no permission to list.
        ResourceError: storage does not answer.
    """
    pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="list")
    try:
        unsplit: list[str] = []
        folders = [prefix]
        while folders and len(unsplit) + len(folders) < MIN_FOLDERS:
            level, folders = folders, []
            pages = pool.map(lambda folder: _page(bucket, folder, uri, Delimiter="/"), level)
            for folder, page in zip(level, pages, strict=True):
                inner = [each["Prefix"] for each in page.get("CommonPrefixes", []) if not skip(each["Prefix"])]
                if page["IsTruncated"] or len(unsplit) + len(folders) + len(inner) > MAX_FOLDERS:
                    unsplit.append(folder)
                else:
                    folders += inner
                    yield from page["Contents"]
        yield from _round_robin(pool, bucket, [*unsplit, *folders], uri)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _round_robin(pool: ThreadPoolExecutor, bucket: str, folders: list[str], uri: str) -> Iterator[Any]:
    rest = iter(folders)
    pending: deque[tuple[str, Future[Any]]] = deque()

    def request(folder: str, **token: str) -> None:
        pending.append((folder, pool.submit(_page, bucket, folder, uri, **token)))

    for folder in islice(rest, IN_FLIGHT):
        request(folder)
    while pending:
        folder, future = pending.popleft()
        page = future.result()
        if page["IsTruncated"]:
            request(folder, ContinuationToken=page["NextContinuationToken"])
        else:
            for following in islice(rest, 1):
                request(following)
        yield from page["Contents"]


def _page(bucket: str, prefix: str, uri: str, **options: Any) -> Any:
    try:
        return call(lambda: client().list_objects_v2(Bucket=bucket, Prefix=prefix, **options), uri)
    except ObjectAnswer as refused:
        raise listing_denied(uri, refused) from refused


def listing_denied(uri: str, refused: ObjectAnswer) -> InputError:
    """The error for a LIST that the server refuses."""
    return InputError(
        f"{uri}: no permission to list it ({refused.reason}). Grant these keys s3:ListBucket on the bucket."
    )
