"""One S3 client per process, its patience, and what its errors mean.

All of it is set by the standard AWS variables and files (docs/s3.md). A key or token never enters a message.
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
from agegender.storage.s3_keys import take_objects

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger(__name__)
T = TypeVar("T")

CONNECTIONS = 64
"""Requests that one process can have under way; small objects cost a round trip each."""

DEFAULT_ATTEMPTS = 8
"""Spread over about 45 s by the delays; ``AWS_MAX_ATTEMPTS`` says otherwise."""

LONGEST_DELAY_S = 20.0

_TRANSIENT = (
    boto_errors.HTTPClientError,  # timeouts and broken connections, also amid a body
    boto_errors.ConnectionError,  # refused connections, unknown hosts
    boto_errors.IncompleteReadError,
    boto_errors.FlexibleChecksumError,
    ResponseParserError,  # a proxy's page instead of S3's answer
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
    """Make the next call read the AWS variables anew."""
    global _client
    with _lock:
        _client = None


def has_own_endpoint() -> bool:
    """Whether an endpoint is set, so that the server may not be Amazon's."""
    return any(os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))


def relax_checksums() -> None:
    """Ask servers that may not be Amazon's for no checksums beyond the required, unless the user said otherwise.

    Older servers answer uploads with trailing checksums by 411. It is an environment variable because pyarrow's S3
    client has no other switch for it.
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
        retries={"total_max_attempts": 1},  # `call` tries again: it also covers bodies, which botocore does not
        user_agent_extra="agegender",
    )
    try:
        session = boto3.session.Session()
        region = session.region_name or ("us-east-1" if has_own_endpoint() else None)
        made = session.client("s3", region_name=region, config=config)
    except _NO_KEYS as error:
        raise _no_keys("S3", error) from error
    except (boto_errors.BotoCoreError, ValueError) as error:
        raise ConfigError(f"S3: {_words(error)}. Correct the AWS variables or files (docs/s3.md).") from error
    made.meta.events.register("before-parse.s3.ListObjectsV2", take_objects)
    return made


def call(action: Callable[[], T], uri: str, writing: bool = False) -> T:
    """Do one thing on S3, again after a growing delay while the answer is an outage.

    Args:
        action: does the whole thing, from request to last byte of the body; may run several times.
        uri: what it is about, for messages.
        writing: a refusal is then about the output, not an answer about an object.

    Raises:
        ObjectAnswer: the object is missing, or may not be read.
        InputError: no such bucket.
        ResourceError: no answer after all attempts, or the keys are not accepted.
    """
    attempts = max_attempts()
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except (boto_errors.ClientError, boto_errors.BotoCoreError, *_TRANSIENT) as error:
            if not _is_transient(error):
                raise _meaning(error, uri, writing) from error
            if attempt == attempts:
                raise ResourceError(
                    f"{uri}: no usable answer from S3 at {endpoint()} in {attempts} attempts; the last: {_words(error)}. "
                    "When the server is back, run the same command again."
                ) from error
            delay_s = min(LONGEST_DELAY_S, 0.5 * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
            log.warning("%s: %s; attempt %d of %d, next in %.1f s", uri, _words(error), attempt, attempts, delay_s)
            note_retry()
            time.sleep(delay_s)
    raise AssertionError("unreachable: attempts >= 1")


def max_attempts() -> int:
    """How often a request is made before storage counts as out of reach.

    Raises:
        ConfigError: ``AWS_MAX_ATTEMPTS`` is no such number.
    """
    said = os.environ.get("AWS_MAX_ATTEMPTS", "")
    if not said:
        return DEFAULT_ATTEMPTS
    if not said.isascii() or not said.isdigit() or int(said) < 1:
        raise ConfigError(f"AWS_MAX_ATTEMPTS={said!r} is no number from 1 on: correct or unset it.")
    return int(said)


def endpoint() -> str:
    """Scheme, host and port of the server, fit for a message."""
    where = urlsplit(client().meta.endpoint_url)
    return f"{where.scheme}://{where.netloc.rpartition('@')[2]}"


def error_code(error: BaseException | None) -> str:
    """S3's own code of an error, empty where there is none."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, boto_errors.ClientError) else ""


def _http_status(error: BaseException) -> int:
    if not isinstance(error, boto_errors.ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, boto_errors.ClientError):
        return error_code(error) in _TRANSIENT_CODES or _http_status(error) >= 500 or _http_status(error) in (408, 429)
    return isinstance(error, _TRANSIENT)


def _meaning(error: Exception, uri: str, writing: bool) -> InputError | ResourceError | ConfigError:
    code = error_code(error)
    if code == "NoSuchBucket" or isinstance(error, boto_errors.ParamValidationError):
        return InputError(f"{uri}: no such bucket at {endpoint()}. Correct the address, or create the bucket.")
    if code in _KEY_CODES:
        return ResourceError(
            f"{uri}: S3 at {endpoint()} does not accept the keys ({code}). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
            "(and AWS_SESSION_TOKEN for temporary ones) or AWS_PROFILE to valid ones, and run the same command again."
        )
    if code == "RequestTimeTooSkewed":
        return ResourceError(f"{uri}: this machine's clock is wrong ({code}). Set it, and run the same command again.")
    if isinstance(error, _NO_KEYS):
        return _no_keys(uri, error)
    if writing and _http_status(error) == 403:
        return ResourceError(
            f"{uri}: may not be written ({code}). Grant these keys s3:PutObject and s3:DeleteObject there, and run the same command again."
        )
    if not writing and (code in _MISSING_CODES or (_http_status(error) == 404 and not code)):
        return ObjectAnswer(Status.MISSING, uri, code)
    if not writing and code in _UNREADABLE_CODES:
        return ObjectAnswer(Status.UNREADABLE, uri, code)
    return ResourceError(
        f"{uri}: S3 at {endpoint()}: {_words(error)}. See docs/s3.md, mend it, and run the same command again."
    )


def _no_keys(uri: str, error: Exception) -> ResourceError:
    return ResourceError(
        f"{uri}: no keys for S3 ({_words(error)}). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
        "and run the same command again."
    )


def _words(error: BaseException) -> str:
    """The error's own words, without any credentials of an address in them."""
    if isinstance(error, boto_errors.ClientError):
        said = error.response.get("Error", {})
        return f"{said.get('Code') or _http_status(error)} {said.get('Message') or ''}".strip()
    return re.sub(r"//[^/@\s]*@", "//", f"{type(error).__name__}: {error}").rstrip(".")
