"""S3 through boto3. Credentials, region and endpoint come from AWS's own variables, profile or role, never from us.

What goes wrong is told as a file system tells it: `FileNotFoundError`, `PermissionError`, `OSError`. What trying again
later may mend, after boto3 has tried for a minute, is a `StorageError`; what the user can mend, a `UserError`.
"""

import hashlib
import io
import os
import random
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from errno import EACCES, EEXIST, ENOENT, ESTALE
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple

import boto3
import boto3.exceptions
import s3transfer.exceptions
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
)
from s3transfer.utils import S3_RETRYABLE_DOWNLOAD_ERRORS

from daefr.data.shards import file_digest
from daefr.errors import UserError
from pipelines.errors import StepFailedError

SCHEME = "s3://"
_ADDRESS = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<key>.*))?", re.DOTALL)
_TRIES = 5
_GONE, _CHANGED, _LATER = (404,), (412, 416), 500
_CONFLICT, _NOT_IMPLEMENTED = 409, 501
_PART, _PARTS_AT_ONCE, _MOST_PARTS = 8 * 1024**2, 8, 10_000


class StorageError(StepFailedError):
    """A store that does not answer as it should, although it was asked again and again; later it may."""


class Object(NamedTuple):
    """One object of a bucket: its address, its size in bytes and its entity tag, which changes with its content."""

    address: str
    size: int
    etag: str


def is_address(place: str | Path) -> bool:
    """Tell whether a place is on S3."""
    return isinstance(place, str) and place.startswith(SCHEME)


def split_address(address: str) -> tuple[str, str]:
    """Return bucket and key of ``s3://bucket/key``; raises `ValueError`, which does not repeat its secrets."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(
            "an S3 address is s3://bucket/prefix; endpoint and credentials come from AWS's variables or profile"
        )
    return match["bucket"], match["key"] or ""


def list_objects(address: str) -> Iterator[Object]:
    """List what begins with `address`, page by page, in the order of the keys' bytes."""
    bucket, prefix = split_address(address)
    with _told_as_files_do(address):
        for page in _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for found in page.get("Contents", []):
                yield Object(f"{SCHEME}{bucket}/{found['Key']}", found["Size"], found["ETag"])


def describe(address: str) -> Object:
    """Return one object's size and entity tag."""
    bucket, key = split_address(address)
    with _told_as_files_do(address):
        head = _client().head_object(Bucket=bucket, Key=key)
    return Object(address, head["ContentLength"], head["ETag"])


def read(address: str, etag: str = "", offset: int = 0, size: int | None = None) -> bytes:
    """Read an object, or `size` bytes of it from `offset`; with `etag`, raises `OSError` when it has changed since."""
    if size == 0:
        return b""
    bucket, key = split_address(address)
    wanted = {"Bucket": bucket, "Key": key}
    if size is not None:
        wanted["Range"] = f"bytes={offset}-{offset + size - 1}"
    if etag:
        wanted["IfMatch"] = etag
    with _told_as_files_do(address):
        for left in reversed(range(_TRIES)):
            try:
                return bytes(_client().get_object(**wanted)["Body"].read())
            except S3_RETRYABLE_DOWNLOAD_ERRORS:  # boto3 asks again for an answer, but not for the rest of one
                if not left:
                    raise
                time.sleep(random.uniform(0, 0.1 * 2 ** (_TRIES - left)))  # noqa: S311  # jitter, no secret
    raise AssertionError("unreachable")


def upload(path: Path, address: str) -> None:
    """Upload a file, in parts when it is large: the object is there, whole, when the last part is; until then, not."""
    bucket, key = split_address(address)
    with path.open("rb") as stream, _told_as_files_do(address):
        _client().upload_fileobj(stream, bucket, key)


def find(address: str) -> Object | None:
    """Return one object's size and entity tag, None where there is none."""
    with suppress(FileNotFoundError):
        return describe(address)
    return None


def digest(found: Object) -> str:
    """Return the SHA-256 of an object, which is read piece by piece. Raises `OSError` when it has changed since."""
    hashed = hashlib.sha256()
    for start in range(0, found.size, _PART):
        hashed.update(read(found.address, found.etag, start, min(_PART, found.size - start)))
    return hashed.hexdigest()


def write(address: str, data: bytes | Path, replaced: str | None = None) -> None:
    """Write an object, or a file as one, where there is none or in place of the one with the entity tag `replaced`.

    Raises `FileExistsError` where there is another, which stays as it is, unless it has the same content: so it is when
    the answer to an earlier try got lost.
    """
    bucket, key = split_address(address)
    condition = {"IfNoneMatch": "*"} if replaced is None else {"IfMatch": replaced}
    try:
        for left in reversed(range(_TRIES)):
            with _told_as_files_do(address):
                try:
                    _put(bucket, key, data, condition)
                    return
                except ClientError as error:
                    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                    if condition and status == _NOT_IMPLEMENTED and _is_as(address, replaced):
                        condition = {}  # a store that knows no conditions; what is there was looked at just now
                    elif status != _CONFLICT or not left:  # a conflict is with another writer's try
                        raise
                    time.sleep(random.uniform(0, 0.1 * 2 ** (_TRIES - left)))  # noqa: S311  # jitter, no secret
    except OSError as error:
        if error.errno not in (ESTALE, ENOENT):
            raise
        with suppress(FileNotFoundError):
            if digest(describe(address)) == _digest_of(data):
                return
        if error.errno == ENOENT and replaced is None:  # the bucket is not there
            raise
        raise FileExistsError(EEXIST, "is another object by now", address) from None


def _digest_of(data: bytes | Path) -> str:
    return hashlib.sha256(data).hexdigest() if isinstance(data, bytes) else file_digest(data)


def _put(bucket: str, key: str, data: bytes | Path, condition: Mapping[str, str]) -> None:
    """Write an object on a condition, in parts when it is large."""
    length = len(data) if isinstance(data, bytes) else data.stat().st_size

    def piece(start: int, size: int) -> bytes:
        if isinstance(data, bytes):
            return data[start : start + size]
        with data.open("rb") as stream:
            stream.seek(start)
            return stream.read(size)

    if length <= _PART:
        _client().put_object(Bucket=bucket, Key=key, Body=piece(0, length), **condition)
        return
    upload = {"Bucket": bucket, "Key": key}
    upload["UploadId"] = _client().create_multipart_upload(**upload)["UploadId"]
    size = max(_PART, -(-length // _MOST_PARTS))

    def put_part(number: int) -> dict[str, Any]:
        part = _client().upload_part(PartNumber=number, Body=piece((number - 1) * size, size), **upload)
        return {"PartNumber": number, "ETag": part["ETag"]}

    try:
        with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
            parts = list(pool.map(put_part, range(1, -(-length // size) + 1)))
        if "IfMatch" in condition and not _is_as(f"{SCHEME}{bucket}/{key}", condition["IfMatch"]):
            raise OSError(ESTALE, "is another object by now")  # not every store looks at this condition here
        _client().complete_multipart_upload(MultipartUpload={"Parts": parts}, **upload, **condition)
    except BaseException:
        with suppress(ClientError, BotoCoreError):
            _client().abort_multipart_upload(**upload)
        raise


def _is_as(address: str, etag: str | None) -> bool:
    found = find(address)
    return (None if found is None else found.etag) == etag


def download(address: str, stream: IO[bytes]) -> None:
    """Download an object, in parts when it is large; what was written is whole only when this returns."""
    bucket, key = split_address(address)
    with _told_as_files_do(address):
        _client().download_fileobj(bucket, key, stream)


def delete(addresses: Iterable[str]) -> None:
    """Delete objects; what is not there any more is no error."""
    for address in addresses:
        bucket, key = split_address(address)
        with _told_as_files_do(address):
            _client().delete_object(Bucket=bucket, Key=key)


def forget_unfinished_uploads(address: str) -> None:
    """Drop the parts that killed uploads below `address` left: they are no objects, but are paid for."""
    bucket, prefix = split_address(address)
    with _told_as_files_do(address):
        for page in _client().get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
            for found in page.get("Uploads", []):
                _client().abort_multipart_upload(Bucket=bucket, Key=found["Key"], UploadId=found["UploadId"])


class ObjectStream(io.RawIOBase):
    """An object as a file that can be read anywhere: every read is a request, so put a buffer around it."""

    def __init__(self, source: Object) -> None:
        """Stand at the object's first byte."""
        self._source, self._position = source, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position, counted from the start, from here or from the end."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read what is at the position; 0 at the end."""
        size = max(0, min(len(buffer), self._source.size - self._position))
        data = read(self._source.address, self._source.etag, self._position, size)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _client() -> Any:
    return _client_of(os.getpid())  # a forked process must not talk over its parent's connections


@cache
def _client_of(_: int) -> Any:
    # boto3's own way of trying again: growing pauses with jitter, and a limit to all of them together
    os.environ.setdefault("AWS_RETRY_MODE", "standard")
    os.environ.setdefault("AWS_MAX_ATTEMPTS", "8")
    try:
        return boto3.session.Session().client("s3", config=Config(connect_timeout=10, read_timeout=60))
    except (BotoCoreError, ValueError) as error:
        raise UserError(f"S3 cannot be used: {' '.join(str(error).split())}") from None


@contextmanager
def _told_as_files_do(address: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        status, code = error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
        if status in _GONE:
            raise FileNotFoundError(ENOENT, f"not there ({code})", address) from None
        if status in _CHANGED:
            raise OSError(ESTALE, "has changed since it was listed", address) from None
        if status == 403:
            raise PermissionError(EACCES, f"access denied ({code})", address) from None
        if status >= _LATER or status == 429:
            raise StorageError(f"{address}: S3 still answers {status} ({code})") from None
        raise UserError(f"{address}: S3 answers {status} ({code})") from None
    except (
        HTTPClientError,
        IncompleteReadError,
        boto3.exceptions.RetriesExceededError,
        s3transfer.exceptions.RetriesExceededError,
    ) as error:
        raise StorageError(f"{address}: S3 cannot be reached: {' '.join(str(error).split())}") from None
    except BotoCoreError as error:  # no credentials, an unknown profile and the like
        raise UserError(f"{address}: {' '.join(str(error).split())}") from None
