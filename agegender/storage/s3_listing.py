"""Listing a prefix of S3 by several folders of it at a time.

A LIST answers for a thousand keys, and only its answer says where the next one begins: one after the other, a billion images are a
million round trips. Folders (keys up to a slash) are independent of each other, and their pages are asked for side by side.
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
"""Requests under way at a time, each of which holds a page of a thousand keys."""

FOLDERS_WANTED = 64
"""Folders are divided into theirs until there are so many: enough that one large one among them is not all that is left."""

FOLDERS_MAX = 1000
"""More are not asked for one by one, for in small folders a request says less than in the one above them."""


def list_objects(bucket: str, prefix: str, uri: str, leave_out: Callable[[str], bool]) -> Iterator[Any]:
    """Every object below a prefix, as S3 describes it, in an order that depends on the keys alone.

    A prefix without folders comes in the server's order, others a page of each folder in turn. Memory is that of
    ``FOLDERS_WANTED`` pages at most, at the beginning, then of ``IN_FLIGHT``.

    Args:
        bucket: its name.
        prefix: empty, or with a slash at its end.
        uri: named in errors.
        leave_out: whether to pass over a folder, given as a prefix; its objects may come nevertheless.

    Raises:
        InputError: no such bucket, may not be listed.
        ResourceError: storage does not answer.
    """
    pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="list")
    try:
        whole: list[str] = []
        folders = [prefix]
        while folders and len(whole) + len(folders) < FOLDERS_WANTED:
            level, folders = folders, []
            pages = pool.map(lambda folder: _page(bucket, folder, uri, Delimiter="/"), level)
            for folder, page in zip(level, pages, strict=True):
                inner = [each["Prefix"] for each in page.get("CommonPrefixes", []) if not leave_out(each["Prefix"])]
                if page["IsTruncated"] or len(whole) + len(folders) + len(inner) > FOLDERS_MAX:
                    whole.append(folder)
                else:
                    folders += inner
                    yield from page["Contents"]
        yield from _in_turn(pool, bucket, [*whole, *folders], uri)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_turn(pool: ThreadPoolExecutor, bucket: str, folders: list[str], uri: str) -> Iterator[Any]:
    rest = iter(folders)
    waiting: deque[tuple[str, Future[Any]]] = deque()

    def ask(folder: str, **token: str) -> None:
        waiting.append((folder, pool.submit(_page, bucket, folder, uri, **token)))

    for folder in islice(rest, IN_FLIGHT):
        ask(folder)
    while waiting:
        folder, asked = waiting.popleft()
        page = asked.result()
        if page["IsTruncated"]:
            ask(folder, ContinuationToken=page["NextContinuationToken"])
        else:
            for following in islice(rest, 1):
                ask(following)
        yield from page["Contents"]


def _page(bucket: str, prefix: str, uri: str, **how: Any) -> Any:
    try:
        return call(lambda: client().list_objects_v2(Bucket=bucket, Prefix=prefix, **how), uri)
    except ObjectAnswer as refused:
        raise may_not_list(uri, refused) from refused


def may_not_list(uri: str, refused: ObjectAnswer) -> InputError:
    """What to say where the server refuses to list."""
    return InputError(f"{uri}: may not be listed ({refused.reason}). Grant these keys s3:ListBucket on the bucket.")
