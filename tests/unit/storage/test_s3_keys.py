from typing import Any

import pytest
from botocore.parsers import ResponseParserFactory
from botocore.session import Session

from agegender.storage.s3_keys import parse_objects

NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
ANSWER = """<?xml version="1.0"?><ListBucketResult{namespace}><Name>b</Name><IsTruncated>true</IsTruncated>
<NextContinuationToken>next&amp;1</NextContinuationToken><EncodingType>url</EncodingType>
<Contents><Key>a%20b/%C3%A4&amp;.jpg</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified><ETag>&quot;e1&quot;</ETag>
<Size>5000000000</Size><StorageClass>STANDARD</StorageClass></Contents>
<Contents><Size>0</Size><Key>c</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified><ETag>"e2-3"</ETag></Contents>
<CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes></ListBucketResult>"""


def parsed(status: int, body: bytes) -> dict[str, Any]:
    """A response as parsed by botocore."""
    shape = Session().get_service_model("s3").operation_model("ListObjectsV2").output_shape
    assert shape is not None
    answer = {"status_code": status, "body": body, "headers": {}}
    found: dict[str, Any] = ResponseParserFactory().create_parser("rest-xml").parse(answer, shape)
    return found


@pytest.mark.parametrize("namespace", [NAMESPACE, ""])
def test_objects_and_the_rest_are_what_botocore_reads(namespace: str) -> None:
    body = ANSWER.format(namespace=namespace).encode()
    response: dict[str, Any] = {"status_code": 200, "body": body, "headers": {}}
    ours: dict[str, Any] = {}
    parse_objects(response, ours, operation_model=None)
    wanted = parsed(200, body)
    assert len(wanted["Contents"]) == 2
    assert ours["Contents"] == [{key: each[key] for key in ("Key", "Size", "ETag")} for each in wanted.pop("Contents")]
    assert parsed(200, response["body"]) == wanted


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, b"<Error><Code>SlowDown</Code></Error>"),
        (200, b"<Error><Code>InternalError</Code></Error>"),
        (200, ANSWER.format(namespace=NAMESPACE).encode()[:300]),
        (200, b"<html>a proxy's page</html>"),
        (200, b""),
    ],
)
def test_another_answer_is_left_to_botocore(status: int, body: bytes) -> None:
    response, ours = {"status_code": status, "body": body}, dict[str, Any]()
    parse_objects(response, ours)
    assert (response["body"], ours) == (body, {})
