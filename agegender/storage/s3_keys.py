"""Reading the objects out of the answer to a LIST faster than botocore's own parser does.

That one, generic and with a date for each key, takes nearly all of a listing's time (``benchmarks/s3_listing.py``).
"""

import xml.etree.ElementTree as ET
from typing import Any


def take_objects(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_others: object) -> None:
    """Handler of botocore's ``before-parse``: key, size and etag of the objects as ``Contents``; the rest is left to its parser.

    ``Contents`` is there even where no object is, so that a botocore that asks no handlers is an error and not an empty folder. What
    is no such answer is left alone as a whole, for botocore to say what it is.

    Args:
        response_dict: status and body; the objects are taken out of it.
        customized_response_dict: becomes part of what the caller of botocore gets.
    """
    if response_dict["status_code"] != 200:
        return
    try:
        answer = ET.fromstring(response_dict["body"])  # expat itself bounds what entities may grow to
    except ET.ParseError:
        return
    namespace, _, kind = answer.tag.rpartition("}")
    if kind != "ListBucketResult":
        return
    space = f"{namespace}}}" if namespace else ""
    objects = answer.findall(f"{space}Contents")
    customized_response_dict["Contents"] = [
        {
            "Key": each.findtext(f"{space}Key", ""),
            "Size": int(each.findtext(f"{space}Size", "")),
            "ETag": each.findtext(f"{space}ETag", ""),
        }
        for each in objects
    ]
    for each in objects:
        answer.remove(each)
    response_dict["body"] = ET.tostring(answer)
