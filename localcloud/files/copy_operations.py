"""Operations that copy and rename within an account.

As in Azure within one account, a copy is complete when the response is sent, so none can be aborted.

Source: "Copy File", "Abort Copy File", "Rename File", "Rename Directory", and "Put Range From URL" for
`read_source`.
"""

from __future__ import annotations

import os
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from localcloud.files import leases
from localcloud.files.entries import (
    Entry,
    Times,
    attributes,
    changed_headers,
    check_permission,
    entry_of,
    existing,
    lease_id,
    read_times,
    store,
    version_headers,
)
from localcloud.files.errors import StorageError, invalid_header, missing_header, not_emulated, storage_error
from localcloud.files.file_operations import replaceable
from localcloud.files.headers import (
    decode_query,
    read_boolean,
    read_metadata,
    split_query,
    write_http_time,
)
from localcloud.files.names import check_path, fold_path, split_url_path
from localcloud.files.request import FileRequest, FileResponse, HttpRequest
from localcloud.files.sidecar import Copy, Record, unrecorded
from localcloud.files.tree import Location, open_location

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK_BYTES: Final = 16 * 1024 * 1024
_COPY_SOURCE: Final = "x-ms-copy-source"
_RENAME_SOURCE: Final = "x-ms-file-rename-source"


@dataclass(frozen=True, slots=True)
class _Changes:
    """The properties that a rename also changes; None and () leave a property unchanged."""

    metadata: tuple[tuple[str, str], ...]
    content_type: str | None
    attributes: str | None
    times: Times


def copy_file(request: FileRequest) -> FileResponse:
    """Copy a file of the same account to this path, replacing an existing file."""
    check_permission(request)
    url = request.header(_COPY_SOURCE) or ""
    source = _source_request(request, _COPY_SOURCE)
    _authorize_source(request, source)
    own_metadata = read_metadata(request.http.headers)
    times, word = read_times(request), _read_copied_attributes(request)
    ignores_read_only = read_boolean(request.http.headers, "x-ms-file-copy-ignore-readonly")
    share, path = source.names[0], _source_path(request, source)
    with (
        request.shares.locks.hold(request.key(), (request.account, share, *path)),
        _opened_source(request, share, path) as (descriptor, found),
        open_location(request.root, request.path) as location,
    ):
        lease = replaceable(request, location, ignores_read_only=ignores_read_only)
        status = _copy_bytes(descriptor, location, times)
        copied = Copy(
            str(uuid.uuid4()), url.partition("?")[0], status.st_size, write_http_time(request.now_ns)
        )
        record = replace(
            unrecorded(status),
            created_ns=times.created_or(request.now_ns),
            attributes=word or found.attributes,
            content=found.content,
            metadata=own_metadata or found.metadata,
            lease=lease,
            copy=copied,
        )
        before = entry_of(request, request.path, status, location.parent)
        entry = store(request, before, replace(record, revision=before.record.revision), status)
    return FileResponse(
        202, (*version_headers(entry), ("x-ms-copy-id", copied.id), ("x-ms-copy-status", "success"))
    )


def abort_copy(request: FileRequest) -> FileResponse:
    """Reject the abort of a copy: every copy is complete already."""
    if (request.header("x-ms-copy-action") or "").lower() != "abort":
        raise missing_header("x-ms-copy-action")
    with open_location(request.root, request.path) as location:
        existing(request, location, directory=False)
    raise storage_error("NoPendingCopyOperation")


def read_source(request: FileRequest, first: int, last: int) -> bytes:
    """Return a range of the file at `x-ms-copy-source`; the URL must have its own SAS.

    Raises:
        StorageError: InvalidRange beyond the file's end, or the error for the source.
    """
    source = _source_request(request, _COPY_SOURCE)
    request.check_source(source)
    with _opened_source(request, source.names[0], _source_path(request, source)) as (descriptor, _):
        if last >= os.fstat(descriptor).st_size:
            raise storage_error("InvalidRange")
        return os.pread(descriptor, last - first + 1, first)


def rename_file(request: FileRequest) -> FileResponse:
    """Move a file to this path, in the same share."""
    return _rename(request, directory=False)


def rename_directory(request: FileRequest) -> FileResponse:
    """Move a directory, with its content, to this path in the same share."""
    return _rename(request, directory=True)


def _rename(request: FileRequest, *, directory: bool) -> FileResponse:
    check_permission(request)
    source = _source_request(request, _RENAME_SOURCE)
    if source.names[0] != request.share:
        raise invalid_header(_RENAME_SOURCE, request.header(_RENAME_SOURCE) or "")
    if request.grant.is_service_sas and request.http.query.get("sr") == "f":
        raise storage_error("AuthorizationPermissionMismatch")
    old = _source_path(request, source)
    changes = _read_changes(request, directory=directory)
    if directory and fold_path(request.path)[: len(old)] == fold_path(old) and len(request.path) > len(old):
        raise StorageError(409, "SharingViolation", "A directory cannot be moved into itself.")
    with (
        _rename_locks(request, old, directory=directory),
        open_location(request.root, old) as origin,
        open_location(request.root, request.path) as target,
    ):
        entry = _check_rename(request, origin, target, old, directory=directory)
        name = request.path[-1] if _is_same(origin, target) else target.name
        os.rename(origin.name, name, src_dir_fd=origin.parent.descriptor, dst_dir_fd=target.parent.descriptor)
        request.sidecar.move(old, request.path)
        moved = _finish_rename(
            request, entry.record, changes, Location(target.parent, *target.parent.match(name))
        )
    return FileResponse(200, changed_headers(moved))


@contextmanager
def _rename_locks(request: FileRequest, old: tuple[str, ...], *, directory: bool) -> Iterator[None]:
    locks = request.shares.locks
    with locks.hold_all() if directory else locks.hold(request.key(), request.key(old)):
        yield


def _check_rename(
    request: FileRequest, origin: Location, target: Location, old: tuple[str, ...], *, directory: bool
) -> Entry:
    if origin.status is None:
        raise storage_error("ResourceNotFound")
    if origin.is_directory is not directory:
        raise storage_error("ResourceTypeMismatch")
    entry = entry_of(request, old, origin.status, origin.parent)
    ignores_read_only = read_boolean(request.http.headers, "x-ms-file-rename-ignore-readonly")
    leases.check_write(entry.record.lease, lease_id(request, "x-ms-source-lease-id"), request.now_ns, "file")
    if target.status is None or _is_same(origin, target):
        return entry
    replaces = read_boolean(request.http.headers, "x-ms-file-rename-replace-if-exists")
    if target.is_directory or directory or not replaces:
        raise storage_error("ResourceAlreadyExists")
    goal = entry_of(request, request.path, target.status, target.parent)
    leases.check_write(
        goal.record.lease, lease_id(request, "x-ms-destination-lease-id"), request.now_ns, "file"
    )
    if not ignores_read_only and "ReadOnly" in goal.record.attributes.split("|"):
        raise storage_error("ReadOnlyAttribute")
    return entry


def _is_same(origin: Location, target: Location) -> bool:
    """Return whether both are the same entry, as in a rename that only changes the case of a name."""
    return (
        origin.status is not None
        and target.status is not None
        and origin.status.st_ino == target.status.st_ino
        and origin.name == target.name
        and origin.parent.stat().st_ino == target.parent.stat().st_ino
    )


def _read_changes(request: FileRequest, *, directory: bool) -> _Changes:
    keeps = (request.header("x-ms-file-attributes") or "preserve").lower() == "preserve"
    return _Changes(
        read_metadata(request.http.headers),
        request.header("x-ms-content-type"),
        None if keeps else attributes(request, "Directory" if directory else "Archive"),
        read_times(request),
    )


def _finish_rename(request: FileRequest, record: Record, changes: _Changes, location: Location) -> Entry:
    status = location.status
    if status is None:
        raise storage_error("ResourceNotFound")
    if location.is_link:
        return entry_of(request, request.path, status, location.parent)
    changed = replace(
        record,
        metadata=changes.metadata or record.metadata,
        content=replace(record.content, type=changes.content_type or record.content.type),
        attributes=changes.attributes or record.attributes,
        created_ns=changes.times.created_or(record.created_ns),
    )
    descriptor = location.open()
    try:
        changes.times.write(descriptor)
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return store(request, entry_of(request, request.path, status, location.parent), changed, status)


def _source_request(request: FileRequest, header: str) -> HttpRequest:
    """Return a source URL as a GET request for it."""
    url = request.header(header)
    if url is None:
        raise missing_header(header)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise invalid_header(header, url) from None
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise invalid_header(header, url)
    names = split_url_path(parts.path)
    if parts.netloc != request.http.host or not names or names[0] != request.account:
        raise not_emulated(f"a source outside of the account: {parts.scheme}://{parts.netloc}{parts.path}")
    if len(names) < 3:  # noqa: PLR2004 - account, share and at least one name
        raise invalid_header(header, url)
    raw_query = split_query(parts.query)
    query = decode_query(raw_query)
    if "sharesnapshot" in query:
        raise not_emulated("share snapshots")
    return replace(
        request.http, method="GET", scheme=parts.scheme, raw_path=parts.path, raw_query=raw_query,
        names=names[1:], query=query, headers={},
    )  # fmt: skip


def _source_path(request: FileRequest, source: HttpRequest) -> tuple[str, ...]:
    keep = read_boolean(request.http.headers, "x-ms-source-allow-trailing-dot")
    return check_path(source.names[1:], keep_trailing_dots=keep)


def _authorize_source(request: FileRequest, source: HttpRequest) -> None:
    """Check the source's SAS; with an account key it may be omitted."""
    if request.grant.permissions is not None or "sig" in source.query:
        request.check_source(source)


@contextmanager
def _opened_source(request: FileRequest, share: str, path: tuple[str, ...]) -> Iterator[tuple[int, Record]]:
    try:
        with open_location(request.shares.path(request.account, share), path) as location:
            if location.status is None:
                raise storage_error("ResourceNotFound")
            descriptor = location.parent.open_file(location.name, os.O_RDONLY)
    except StorageError as error:
        if error.status == 404:  # noqa: PLR2004 - not found
            raise storage_error("CannotVerifyCopySource") from None
        raise
    try:
        record = request.shares.sidecar(request.account, share).read(path, os.fstat(descriptor))
        yield descriptor, record
    finally:
        os.close(descriptor)


def _copy_bytes(source: int, location: Location, times: Times) -> os.stat_result:
    target = location.parent.open_file(location.name, os.O_RDWR | os.O_CREAT)
    try:
        if not os.path.samestat(os.fstat(source), os.fstat(target)):
            os.ftruncate(target, 0)
            offset = 0
            while data := os.pread(source, _CHUNK_BYTES, offset):
                os.pwrite(target, data, offset)
                offset += len(data)
        times.write(target)
        return os.fstat(target)
    finally:
        os.close(target)


def _read_copied_attributes(request: FileRequest) -> str | None:
    """Return the attributes for a copy, or None for those of the source."""
    if (request.header("x-ms-file-attributes") or "").lower() == "source":
        return None
    word = attributes(request, "Archive")
    sets_archive = read_boolean(request.http.headers, "x-ms-file-copy-set-archive")
    if not sets_archive or "Archive" in word:
        return word
    return "Archive" if word == "None" else f"{word}|Archive"
