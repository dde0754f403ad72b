"""The HTTP layer of the local cloud's Azure Files.

It parses and authorizes a request, runs its operation in a thread, and sends the response. Everything that
blocks runs in threads; at most a few MiB of a file are in memory.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from aiohttp import web
from multidict import CIMultiDict

from localcloud.files import operations
from localcloud.files.authorization import authorize, check_copy_source, check_permission
from localcloud.files.documents import error_document
from localcloud.files.errors import (
    StorageError,
    body_too_large,
    invalid_header,
    storage_error,
    unsupported_header,
)
from localcloud.files.headers import decode_query, read_boolean, split_query, write_file_time
from localcloud.files.names import (
    check_path,
    check_share_name,
    is_account_name,
    is_share_name,
    split_url_path,
)
from localcloud.files.request import FileRequest, FileResponse, FileStream, Headers, HttpRequest
from localcloud.files.shares import MAX_QUOTA_GIB, Share, ShareStore

if TYPE_CHECKING:
    from pathlib import Path

AccountKeys = Callable[[str], tuple[str, ...] | None]

LOGGER: Final = logging.getLogger(__name__)
_SERVER: Final = "Windows-Azure-File/1.0 (local cloud)"
_DEFAULT_VERSION: Final = "2026-04-06"
_VERSION: Final = re.compile(r"\d{4}-\d\d-\d\d")
_CHUNK_BYTES: Final = 1024 * 1024


class FileService:
    """Azure Files for any number of storage accounts, over directories on this machine.

    Args:
        root: The directory for everything; a replica mounts `root/<account>/<share>`.
        account_keys: Returns an account's base64 keys, each of which gives access: none of them if shared-key
            access is disabled, or None if there is no such account.
        clock_ns: Returns the time in nanoseconds since the epoch.
    """

    def __init__(
        self, root: Path, account_keys: AccountKeys, *, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._shares = ShareStore(root)
        self._account_keys = account_keys
        self._clock_ns = clock_ns

    def create_share(self, account: str, share: str, quota_gib: int) -> None:
        """Create a share, or set the quota of an existing one. Blocks on the disk.

        Raises:
            ValueError: Azure does not allow this name or quota.
        """
        if not is_share_name(share):
            raise ValueError(f"'{share}' cannot be the name of a share")
        if not 1 <= quota_gib <= MAX_QUOTA_GIB:
            raise ValueError(f"a share's quota is 1 to {MAX_QUOTA_GIB} GiB, not {quota_gib}")
        now_ns = self._clock_ns()
        with self._shares.locks.hold((account, share)):
            exists = self._shares.exists(account, share)
            found = self._shares.read(account, share) if exists else Share(now_ns, now_ns)
            if not exists or found.quota_gib != quota_gib:
                self._shares.write(account, share, replace(found, quota_gib=quota_gib), now_ns)

    def delete_share(self, account: str, share: str) -> None:
        """Delete a share with its content; do nothing if it does not exist. Blocks on the disk."""
        with self._shares.locks.hold((account, share)):
            self._shares.remove(account, share)

    def delete_account(self, account: str) -> None:
        """Delete every share of an account. Blocks on the disk."""
        self._shares.remove_account(account)

    def share_exists(self, account: str, share: str) -> bool:
        """Return whether a share exists."""
        return self._shares.exists(account, share)

    def share_path(self, account: str, share: str) -> Path:
        """Return the directory of a share, which replicas mount.

        Raises:
            KeyError: there is no such share.
        """
        if not self._shares.exists(account, share):
            raise KeyError(share)
        return self._shares.path(account, share)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Respond to a request whose path begins with the name of a storage account."""
        request_id = str(uuid.uuid4())
        try:
            response = await self._answer(request)
        except StorageError as error:
            response = self._error_response(request, error, request_id)
        except OSError as error:
            response = self._error_response(
                request, disk_error(error, f"{request.method} {request.path}"), request_id
            )
        return await _respond(request, response, request_id)

    async def _answer(self, http: web.Request) -> FileResponse:
        parsed = _parse_request(http)
        keys = self._account_keys(parsed.account) if is_account_name(parsed.account) else None
        if keys is None:
            raise StorageError(404, "ResourceNotFound", f"There is no storage account '{parsed.account}'.")
        operation = _find(parsed)
        resource = "o" if isinstance(operation, StorageError) else operation.resource
        now_ns = self._clock_ns()
        now = datetime.fromtimestamp(now_ns / 1e9, UTC)
        grant = authorize(parsed, keys, resource, now)
        if isinstance(operation, StorageError):
            raise operation
        operations.check_request(parsed, operation)
        check_permission(grant, operation.permissions)
        request = FileRequest(
            http=parsed,
            grant=grant,
            shares=self._shares,
            share=parsed.names[0] if parsed.names else "",
            path=_read_path(parsed),
            now_ns=now_ns,
            body=await _read_body(http, operation.max_body_bytes),
            check_source=lambda source: check_copy_source(source, keys, now),
        )
        return await asyncio.to_thread(_run, operation, request)

    def _error_response(self, http: web.Request, error: StorageError, request_id: str) -> FileResponse:
        body = error_document(error, request_id, write_file_time(self._clock_ns()))
        return FileResponse(
            error.status,
            (("x-ms-error-code", error.code), ("Content-Type", "application/xml"), *error.headers),
            b"" if http.method == "HEAD" else body,
        )


def _run(operation: operations.Operation, request: FileRequest) -> FileResponse:
    if (
        request.share
        and not request.shares.exists(request.account, request.share)
        and operation.resource == "o"
    ):
        raise storage_error("ShareNotFound")
    return operation.handler(request)


def _find(request: HttpRequest) -> operations.Operation | StorageError:
    """Return the operation, or the error if there is none, which is only sent to an authorized client."""
    try:
        return operations.find_operation(request)
    except StorageError as error:
        return error


def _parse_request(http: web.Request) -> HttpRequest:
    raw_path, _, raw_query = http.raw_path.partition("?")
    raw_pairs = split_query(raw_query)
    names = split_url_path(raw_path)
    if not names:
        raise storage_error("InvalidUri")
    return HttpRequest(
        method=http.method,
        scheme=http.scheme,
        host=http.host,
        remote=http.remote,
        raw_path=raw_path,
        raw_query=raw_pairs,
        account=names[0],
        names=names[1:],
        query=MappingProxyType(decode_query(raw_pairs)),
        headers=MappingProxyType(_read_headers(http)),
    )


def _read_headers(http: web.Request) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in http.headers.items():
        key = name if name.lower().startswith("x-ms-meta-") else name.lower()
        found[key] = f"{found[key]},{value}" if key in found else value
    version = found.get("x-ms-version", _DEFAULT_VERSION)
    if _VERSION.fullmatch(version) is None:
        raise invalid_header("x-ms-version", version)
    if found.get("content-encoding", "identity") != "identity":
        raise unsupported_header("Content-Encoding")
    return found


def _read_path(request: HttpRequest) -> tuple[str, ...]:
    if request.names:
        check_share_name(request.names[0])
    keep = read_boolean(request.headers, "x-ms-allow-trailing-dot")
    return check_path(request.names[1:], keep_trailing_dots=keep)


async def _read_body(http: web.Request, maximum: int) -> bytes | bytearray:
    """Return a request's body of at most `maximum` bytes."""
    if http.method not in {"PUT", "POST"}:
        return b""
    length = http.content_length
    if length is None:
        if "Transfer-Encoding" in http.headers or maximum > 0:
            raise storage_error("MissingContentLengthHeader")
        return b""
    if length > maximum:
        raise body_too_large(maximum)
    body = bytearray(length)
    filled = 0
    while filled < length and (chunk := await http.content.readany()):
        body[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    if filled < length:
        raise StorageError(400, "InvalidInput", f"The body ended after {filled} of {length} bytes.")
    return body


def disk_error(error: OSError, request: str) -> StorageError:
    """Return the response to an error of the disk; an unexpected one is logged with its traceback."""
    if error.errno == errno.ENAMETOOLONG:
        return StorageError(400, "InvalidFileOrDirectoryPathName", "File or directory path is too long.")
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return StorageError(
            409, "ShareSizeLimitReached", f"The disk of this machine has no room: {error.strerror}."
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EBUSY, errno.ETXTBSY}:
        return StorageError(409, "SharingViolation", "The specified resource may be in use by an SMB client.")
    LOGGER.error("the disk refused %s", request, exc_info=error)
    return StorageError(500, "InternalError", f"The server encountered an internal error: {error}.")


async def _respond(http: web.Request, outcome: FileResponse, request_id: str) -> web.StreamResponse:
    headers = CIMultiDict([*_common_headers(http, request_id), *outcome.headers])
    if outcome.stream is not None:
        return await _stream(http, outcome.status, headers, outcome.stream)
    response = web.Response(
        status=outcome.status, headers=headers, body=None if http.method == "HEAD" else outcome.body
    )
    if not http.content.is_eof():
        # The rest of a rejected body would be read as the next request.
        response.force_close()
    return response


def _common_headers(http: web.Request, request_id: str) -> Headers:
    found = [
        ("Server", _SERVER),
        ("x-ms-request-id", request_id),
        ("x-ms-version", http.headers.get("x-ms-version", _DEFAULT_VERSION)),
    ]
    client_id = http.headers.get("x-ms-client-request-id")
    if client_id is not None:
        found.append(("x-ms-client-request-id", client_id))
    return tuple(found)


async def _stream(
    http: web.Request, status: int, headers: CIMultiDict[str], part: FileStream
) -> web.StreamResponse:
    """Send a part of a file in chunks, and always close its descriptor."""
    try:
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = part.size_bytes
        await response.prepare(http)
        offset, end = part.offset, part.offset + part.size_bytes
        while offset < end:
            chunk = await asyncio.to_thread(
                os.pread, part.descriptor, min(_CHUNK_BYTES, end - offset), offset
            )
            if not chunk:
                _abort(http)
                break
            await response.write(chunk)
            offset += len(chunk)
        else:
            with suppress(ConnectionResetError):
                await response.write_eof()
        return response
    finally:
        os.close(part.descriptor)


def _abort(http: web.Request) -> None:
    """Abort the connection: the file became shorter after its length was sent."""
    if http.transport is not None:
        http.transport.abort()
