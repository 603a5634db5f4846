"""One S3 client per process, its retries, and the mapping of its errors to ours.

Configured by the standard AWS variables and files (docs/s3.md). Messages never contain a key or token.
"""

import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import boto3
import boto3.session
import urllib3.exceptions
from botocore import exceptions as boto_errors
from botocore.config import Config
from botocore.parsers import ResponseParserError

from agegender.errors import ConfigError, InputError, ResourceError
from agegender.schema import Status
from agegender.storage.answers import ObjectAnswer
from agegender.storage.retries import note_retry
from agegender.storage.s3_keys import parse_objects

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger(__name__)
T = TypeVar("T")

CONNECTIONS = 64
"""Concurrent requests of one process; small objects cost a round trip each."""

DEFAULT_ATTEMPTS = 8
"""About 45 s in all; ``AWS_MAX_ATTEMPTS`` overrides it."""

MAX_DELAY_S = 20.0

_TRANSIENT = (
    boto_errors.HTTPClientError,  # timeouts and broken connections, also while reading a body
    boto_errors.ConnectionError,  # refused connections, unknown hosts
    boto_errors.IncompleteReadError,
    boto_errors.FlexibleChecksumError,
    ResponseParserError,  # a proxy's error page instead of S3's response
    urllib3.exceptions.HTTPError,
    ConnectionError,
    TimeoutError,
)
_NO_KEYS = (
    boto_errors.NoCredentialsError,
    boto_errors.PartialCredentialsError,
    boto_errors.CredentialRetrievalError,
    boto_errors.MetadataRetrievalError,
    boto_errors.TokenRetrievalError,
    boto_errors.SSOError,
)
_TRANSIENT_CODES = {
    "BandwidthLimitExceeded", "InternalError", "OperationAborted", "PriorRequestNotComplete", "RequestLimitExceeded",
    "RequestThrottled", "RequestTimeout", "RequestTimeoutException", "ServiceUnavailable", "SlowDown", "Throttling",
    "ThrottlingException", "TooManyRequests", "TooManyRequestsException",
}  # fmt: skip
_KEY_CODES = {
    "AllAccessDisabled", "AccountProblem", "AuthFailure", "ExpiredToken",
    "ExpiredTokenException", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSecurity", "InvalidToken",
    "NotSignedUp", "SignatureDoesNotMatch", "TokenRefreshRequired", "UnrecognizedClientException",
}  # fmt: skip
_MISSING_CODES = {"NoSuchKey", "NoSuchVersion", "404", "NotFound"}
_UNREADABLE_CODES = {"AccessDenied", "403", "Forbidden", "InvalidObjectState", "KeyTooLongError", "InvalidURI"}

_client: "S3Client | None" = None
_client_pid = 0
_lock = threading.Lock()


def client() -> "S3Client":
    """The process's S3 client; safe to use from many threads.

    Raises:
        ConfigError: an AWS variable or file holds something that cannot be meant.
    """
    global _client, _client_pid
    with _lock:
        if _client is None or _client_pid != os.getpid():  # a forked child must not share its parent's connections
            _client, _client_pid = _make_client(), os.getpid()
        return _client


def forget_client() -> None:
    """Make the next call create a new client from the current AWS variables."""
    global _client
    with _lock:
        _client = None


def has_own_endpoint() -> bool:
    """Whether a custom endpoint is set, which may not be Amazon's."""
    return any(os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))


def relax_checksums() -> None:
    """With a custom endpoint, use checksums only where required, unless the user has configured them.

    Older servers reject uploads with trailing checksums (411). Set by environment variables because pyarrow's S3 client has
    no other option for it.
    """
    if has_own_endpoint():
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")


def _make_client() -> "S3Client":
    relax_checksums()
    config = Config(
        max_pool_connections=CONNECTIONS,
        connect_timeout=10,
        read_timeout=30,
        retries={"total_max_attempts": 1},  # `call` retries instead, because botocore does not retry reading a body
        user_agent_extra="agegender",
    )
    try:
        session = boto3.session.Session()
        region = session.region_name or ("us-east-1" if has_own_endpoint() else None)
        s3 = session.client("s3", region_name=region, config=config)
    except _NO_KEYS as error:
        raise _no_keys("S3", error) from error
    except (boto_errors.BotoCoreError, ValueError) as error:
        raise ConfigError(f"S3: {_message(error)}. Correct the AWS variables or files (docs/s3.md).") from error
    s3.meta.events.register("before-parse.s3.ListObjectsV2", parse_objects)
    return s3


def call(action: Callable[[], T], uri: str, writing: bool = False) -> T:
    """Run one S3 operation, with exponential backoff while the failure is transient.

    Args:
        action: the whole operation, from request to last byte of the body; may run several times.
        uri: for messages.
        writing: a denial is then an error of the output, not an answer about an object.

    Raises:
        ObjectAnswer: the object is missing or not readable.
        InputError: no such bucket.
        ResourceError: no response after all attempts, or the keys were rejected.
    """
    attempts = max_attempts()
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except (boto_errors.ClientError, boto_errors.BotoCoreError, *_TRANSIENT) as error:
            if not _is_transient(error):
                raise _as_ours(error, uri, writing) from error
            if attempt == attempts:
                raise ResourceError(
                    f"{uri}: no usable response from S3 at {endpoint()} in {attempts} attempts; the last: {_message(error)}. "
                    "When the server is back, run the same command again."
                ) from error
            delay_s = min(MAX_DELAY_S, 0.5 * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
            log.warning("%s: %s; attempt %d of %d, next in %.1f s", uri, _message(error), attempt, attempts, delay_s)
            note_retry()
            time.sleep(delay_s)
    raise AssertionError("unreachable: attempts >= 1")


def max_attempts() -> int:
    """Attempts per request before storage counts as unavailable.

    Raises:
        ConfigError: ``AWS_MAX_ATTEMPTS`` is not a positive integer.
    """
    value = os.environ.get("AWS_MAX_ATTEMPTS", "")
    if not value:
        return DEFAULT_ATTEMPTS
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise ConfigError(f"AWS_MAX_ATTEMPTS={value!r}: must be an integer of at least 1; correct or unset it.")
    return int(value)


def endpoint() -> str:
    """Scheme, host and port of the server, without credentials."""
    url = urlsplit(client().meta.endpoint_url)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}"


def error_code(error: BaseException | None) -> str:
    """S3's error code, or an empty string."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, boto_errors.ClientError) else ""


def _http_status(error: BaseException) -> int:
    if not isinstance(error, boto_errors.ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, boto_errors.ClientError):
        return error_code(error) in _TRANSIENT_CODES or _http_status(error) >= 500 or _http_status(error) in (408, 429)
    return isinstance(error, _TRANSIENT)


def _as_ours(error: Exception, uri: str, writing: bool) -> InputError | ResourceError | ConfigError:
    code = error_code(error)
    if code == "NoSuchBucket" or isinstance(error, boto_errors.ParamValidationError):
        return InputError(f"{uri}: no such bucket at {endpoint()}. Correct the address, or create the bucket.")
    if code in _KEY_CODES:
        return ResourceError(
            f"{uri}: S3 at {endpoint()} rejected the keys ({code}). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
            "(and AWS_SESSION_TOKEN for temporary ones) or AWS_PROFILE to valid ones, and run the same command again."
        )
    if code == "RequestTimeTooSkewed":
        return ResourceError(f"{uri}: this machine's clock is wrong ({code}). Set it, and run the same command again.")
    if isinstance(error, _NO_KEYS):
        return _no_keys(uri, error)
    if writing and _http_status(error) == 403:
        return ResourceError(
            f"{uri}: no permission to write ({code}). Grant these keys s3:PutObject and s3:DeleteObject, and run the same "
            "command again."
        )
    if not writing and (code in _MISSING_CODES or (_http_status(error) == 404 and not code)):
        return ObjectAnswer(Status.MISSING, uri, code)
    if not writing and code in _UNREADABLE_CODES:
        return ObjectAnswer(Status.UNREADABLE, uri, code)
    return ResourceError(
        f"{uri}: S3 at {endpoint()}: {_message(error)}. See docs/s3.md, fix the cause, and run the same command again."
    )


def _no_keys(uri: str, error: Exception) -> ResourceError:
    return ResourceError(
        f"{uri}: no keys for S3 ({_message(error)}). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
        "and run the same command again."
    )


def _message(error: BaseException) -> str:
    """The error's message, without credentials in addresses."""
    if isinstance(error, boto_errors.ClientError):
        details = error.response.get("Error", {})
        return f"{details.get('Code') or _http_status(error)} {details.get('Message') or ''}".strip()
    return re.sub(r"//[^/@\s]*@", "//", f"{type(error).__name__}: {error}").rstrip(".")
