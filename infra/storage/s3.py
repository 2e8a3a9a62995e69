"""S3 (Amazon's, or a compatible server) as a Storage, through boto3; translates its errors."""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3.session
import botocore.exceptions as failures
import botocore.loaders
import botocore.session
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from s3transfer.exceptions import S3DownloadFailedError

from infra.errors import NotFound, StorageAway, StorageDenied, StorageError, UserError
from infra.files import atomic_file, explained_os_errors
from infra.storage.base import (
    InvalidKey,
    InvalidUri,
    ObjectError,
    ObjectInfo,
    ObjectNotFound,
    Storage,
    check_key,
)

if TYPE_CHECKING:
    import pyarrow.fs

ATTEMPTS = 5  # one try and four retries, with growing pauses: survives three 503 answers in a row
TRANSFER = TransferConfig(multipart_threshold=32 << 20, multipart_chunksize=16 << 20, max_concurrency=4)
ABSENT = {"404", "NoSuchKey", "NotFound"}
REFUSED = {"403", "AccessDenied", "AllAccessDisabled", "AccountProblem"}
WRONG_CREDENTIALS = {
    "SignatureDoesNotMatch": "the secret does not belong to the access key",
    "InvalidAccessKeyId": "the access key is unknown",
    "InvalidToken": "the session token is not valid",
    "ExpiredToken": "the session token has expired",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
}


class BucketNotFound(ObjectError, StorageError, NotFound):
    """There is no such bucket."""

    default_code = "bucket_not_found"


class ObjectDenied(ObjectError, StorageDenied):
    """The credentials do not give access to this object."""

    default_code = "s3_access_denied"


class ObjectRefused(ObjectError, StorageError):
    """S3 refuses a request for this object, for a reason that has no class of its own."""

    default_code = "s3_error"


class S3Storage(Storage):
    """Objects below `s3://bucket/prefix`. Thread-safe.

    `any_key` allows keys of other programs that are no valid paths (`a//b`, `a\\b`). It is for reading only,
    and is lost when the storage is pickled.
    """

    def __init__(self, bucket: str, prefix: str, client: Any = None, *, any_key: bool = False) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
            raise InvalidUri(
                f"S3 bucket name {bucket[:80]!r}: expected 3-63 lower-case letters, digits, '.' or '-'; "
                "write s3://bucket/prefix."
            )
        self.bucket = bucket
        self.prefix = check_key(prefix.strip("/")) + "/" if prefix.strip("/") else ""
        self.uri = f"s3://{bucket}/{self.prefix}".rstrip("/")
        self.client = client or make_client()
        self.check_key = _utf8_key if any_key else check_key

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Storage, (self.bucket, self.prefix)

    @property
    def endpoint(self) -> str:
        return self.client.meta.endpoint_url

    def sub(self, prefix: str) -> Storage:
        prefix = prefix.strip("/")
        return S3Storage(self.bucket, self.prefix + check_key(prefix), self.client) if prefix else self

    def where(self, key: str) -> dict[str, str]:
        """Bucket and Key of a request."""
        return {"Bucket": self.bucket, "Key": self.prefix + self.check_key(key)}

    @contextlib.contextmanager
    def explained(self, key: str = "") -> Iterator[None]:
        """Turn errors of S3 or of the connection into a UserError."""
        try:
            yield
        except (failures.BotoCoreError, failures.ClientError, S3DownloadFailedError) as error:
            raise explain(error, self, key) from error
        except Boto3Error as error:  # raised by a transfer; wraps the cause
            behind = getattr(error, "last_exception", None) or error.__cause__ or error.__context__ or error
            raise explain(behind, self, key) from error

    def get(self, key: str) -> bytes:
        with self.explained(key):
            for attempt in range(ATTEMPTS):
                try:
                    return self.client.get_object(**self.where(key))["Body"].read()
                except (
                    failures.IncompleteReadError,
                    failures.ResponseStreamingError,
                    failures.ReadTimeoutError,
                ):
                    if attempt == ATTEMPTS - 1:  # boto3 retries requests, but not reads of their bodies
                        raise
                    time.sleep(0.1 * 2**attempt)
        raise AssertionError

    def get_file(self, key: str, path: Path) -> None:
        where = self.where(key)
        with atomic_file(path) as temporary, self.explained(key):
            try:
                self.client.download_file(where["Bucket"], where["Key"], str(temporary), Config=TRANSFER)
            except failures.ClientError as error:
                raise self.reason(key) or error from error

    def put(self, key: str, data: bytes) -> None:
        with self.explained(key):
            self.client.put_object(**self.where(key), Body=data)

    def put_file(self, key: str, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"{path} is not a file; it cannot be stored as {key}.", code="file_not_found")
        where = self.where(key)
        with explained_os_errors(f"reading {path}"), self.explained(key):
            self.client.upload_file(str(path), where["Bucket"], where["Key"], Config=TRANSFER)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self.put_when(key, data, IfNoneMatch="*")

    def replace_if(self, key: str, data: bytes, etag: str | None) -> bool:
        return self.put_when(key, data, IfMatch=etag) if etag else self.put_if_absent(key, data)

    def put_when(self, key: str, data: bytes, **condition: str) -> bool:
        """Write conditionally; False if the condition does not hold."""
        with self.explained(key):
            for attempt in range(2 * ATTEMPTS):
                try:
                    self.client.put_object(**self.where(key), Body=data, **condition)
                    return True
                except failures.ClientError as error:
                    code = error.response["Error"]["Code"]
                    if code in ("PreconditionFailed", "412") or (code in ABSENT and "IfMatch" in condition):
                        return False
                    # 409: another conditional write to this key was in progress; S3 asks to retry.
                    if code != "ConditionalRequestConflict" or attempt == 2 * ATTEMPTS - 1:
                        raise
                    time.sleep(0.05 * 2 ** min(attempt, 5))
        raise AssertionError

    def head(self, key: str) -> ObjectInfo | None:
        with self.explained(key):
            try:
                found = self.client.head_object(**self.where(key))
            except failures.ClientError:
                reason = self.reason(key)
                if reason is not None:
                    if reason.response["Error"]["Code"] in ABSENT:
                        return None
                    raise reason from None
                found = self.client.head_object(**self.where(key))  # it was written meanwhile
        return ObjectInfo(key, found["ContentLength"], found["ETag"], found["LastModified"].astimezone(UTC))

    def reason(self, key: str) -> failures.ClientError | None:
        """Why a HEAD failed: only the answer to a GET (of one byte) has a body. None: the GET succeeded."""
        try:
            self.client.get_object(**self.where(key), Range="bytes=0-0")["Body"].close()
        except failures.ClientError as error:
            return error
        return None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self.prefix + prefix
        )
        with self.explained():
            for page in pages:
                for item in page.get("Contents", []):
                    key = item["Key"].removeprefix(self.prefix)
                    if not key.endswith("/") and key:  # other tools mark "folders" with empty objects
                        yield ObjectInfo(
                            key, item["Size"], item["ETag"], item["LastModified"].astimezone(UTC)
                        )

    def delete(self, key: str) -> None:
        with self.explained(key):
            self.client.delete_object(**self.where(key))

    def arrow(self) -> tuple[pyarrow.fs.FileSystem, str]:
        import pyarrow.fs

        endpoint = urlsplit(self.endpoint)
        own = not (endpoint.hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))
        filesystem = pyarrow.fs.S3FileSystem(
            region=self.client.meta.region_name,
            scheme=endpoint.scheme,
            endpoint_override=endpoint.netloc if own else None,
            retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        )
        return filesystem, f"{self.bucket}/{self.prefix}".rstrip("/")


@functools.cache
def descriptions(data_path: str | None) -> botocore.loaders.Loader:
    """botocore's service descriptions, megabytes of JSON: loaded once for all clients."""
    return botocore.loaders.create_loader(data_path)


def _utf8_key(key: str) -> str:
    """The key, if S3 accepts it. Raises InvalidInput for an impossible key."""
    if not key or len(key.encode(errors="replace")) > 1024 or any("\ud800" <= c <= "\udfff" for c in key):
        raise InvalidKey(f"S3 key {key[:80]!a}: expected 1 to 1024 bytes of UTF-8.")
    return key


def make_client() -> Any:
    """A boto3 client from the usual chain. Default region: us-east-1. Custom endpoints use path style."""
    try:
        core = botocore.session.get_session()
        described = descriptions(core.get_config_variable("data_path"))
        core.register_component("data_loader", described)
        session = boto3.session.Session(botocore_session=core)
        described.search_paths[:] = dict.fromkeys(
            described.search_paths
        )  # each session adds boto3's own again
        config = Config(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=10,
            read_timeout=60,
            # The registry checks sha256 itself; servers other than Amazon's often lack newer checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        region = session.region_name or "us-east-1"
        return session.client("s3", region_name=region, config=config)
    except (failures.BotoCoreError, ValueError) as error:
        raise UserError(
            f"the S3 settings are invalid ({error}); check the AWS_* variables and ~/.aws.",
            code="invalid_s3_settings",
        ) from error


def explain(error: BaseException, storage: S3Storage, key: str) -> UserError:
    """The UserError for an error of S3."""
    at = f"at {storage.endpoint}"
    place = f"s3://{storage.bucket}/{storage.prefix}{key}"
    if isinstance(error, failures.ClientError):
        code = str(error.response.get("Error", {}).get("Code", "?"))
        message = str(error.response.get("Error", {}).get("Message", "")).rstrip(".")
        if code == "NoSuchBucket":
            return BucketNotFound(
                f"S3 bucket '{storage.bucket}' does not exist {at}; create it or check the URI."
            )
        if code in ABSENT:
            return ObjectNotFound(f"{place} does not exist {at}; check the name and the URI.")
        if code in WRONG_CREDENTIALS:
            return StorageDenied(
                f"S3 {at} refused the credentials: {WRONG_CREDENTIALS[code]}; "
                "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the profile in ~/.aws.",
                code="s3_wrong_credentials",
            )
        if code in REFUSED:
            return ObjectDenied(
                f"access to {place} was denied {at}; the credentials need read and write rights to this prefix."
            )
        if code in (
            "301",
            "PermanentRedirect",
            "AuthorizationHeaderMalformed",
            "IllegalLocationConstraintException",
        ):
            return StorageError(
                f"S3 bucket '{storage.bucket}' is in another region than {storage.client.meta.region_name}; "
                "set AWS_DEFAULT_REGION to its region.",
                code="s3_wrong_region",
            )
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status >= 500 or code in ("SlowDown", "RequestTimeout", "Throttling"):
            return StorageAway(
                f"S3 {at} answered {status} {code} to {ATTEMPTS} attempts for {place}; try again later.",
                code="s3_unavailable",
            )
        return ObjectRefused(f"S3 {at} refused {place}: {code} {message}; check the server and the URI.")
    if isinstance(error, failures.NoCredentialsError | failures.PartialCredentialsError):
        return StorageDenied(
            f"no S3 credentials for {place}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
            code="s3_no_credentials",
        )
    if isinstance(error, failures.CredentialRetrievalError | failures.MetadataRetrievalError):
        return StorageAway(
            f"the credentials for {place} {at} could not be obtained ({error}); check this machine's instance role or "
            "credential process and try again.",
            code="s3_credentials_unavailable",
        )
    if isinstance(error, failures.IncompleteReadError | failures.ResponseStreamingError):
        return StorageAway(
            f"reading {place} {at} was interrupted {ATTEMPTS} times; check the connection and try again.",
            code="s3_unreachable",
        )
    if isinstance(error, failures.HTTPClientError | failures.ConnectionError):
        return StorageAway(
            f"no connection to S3 {at} ({error_kind(error)}); check that it runs and that AWS_ENDPOINT_URL is right.",
            code="s3_unreachable",
        )
    return ObjectRefused(f"S3 {at} failed for {place}: {error}; check the server and the URI.")


def error_kind(error: BaseException) -> str:
    """Why the connection failed, in two or three words."""
    if isinstance(error, failures.ConnectTimeoutError | failures.ReadTimeoutError):
        return "timed out"
    text = str(error.__context__ or error.__cause__ or error)
    if "refused" in text.lower() or isinstance(error, failures.EndpointConnectionError):
        return "connection refused" if "resolve" not in text.lower() else "unknown host"
    return type(error).__name__
