"""Copy and rename within an account.

A copy is done by the time it is answered, as Azure does within one account, so there is never one to abort.

Source: "Copy File", "Abort Copy File", "Rename File", "Rename Directory", and "Put Range From URL" for
`read_source`.
"""

from __future__ import annotations

import os
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
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
from localcloud.files.faults import StorageFault, fault, invalid_header, missing_header, not_emulated
from localcloud.files.file_operations import replaceable
from localcloud.files.headers import (
    decode_query,
    read_boolean,
    read_metadata,
    split_query,
    write_http_time,
)
from localcloud.files.names import check_path, fold_path, split_url_path
from localcloud.files.request import Call, Reply, Request
from localcloud.files.sidecar import Copy, Record, unrecorded
from localcloud.files.tree import Place, open_place

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK_BYTES = 16 * 1024 * 1024
_COPY_SOURCE = "x-ms-copy-source"
_RENAME_SOURCE = "x-ms-file-rename-source"


@dataclass(frozen=True, slots=True)
class _Changes:
    """What a rename changes of a file besides its path; None and () leave a property as it is."""

    metadata: tuple[tuple[str, str], ...]
    content_type: str | None
    attributes: str | None
    times: Times


def copy_file(call: Call) -> Reply:
    """Copy a file of the same account to this path, replacing what is there."""
    check_permission(call)
    url = call.header(_COPY_SOURCE) or ""
    source = _source_request(call, _COPY_SOURCE)
    _authorize_source(call, source)
    own_metadata = read_metadata(call.request.headers)
    times, word = read_times(call), _read_copied_attributes(call)
    ignores_read_only = read_boolean(call.request.headers, "x-ms-file-copy-ignore-readonly")
    share, path = source.names[0], _source_path(call, source)
    with (
        call.shares.locks.hold(call.key(), (call.account, share, *path)),
        _opened_source(call, share, path) as (descriptor, found),
        open_place(call.root, call.path) as place,
    ):
        lease = replaceable(call, place, ignores_read_only=ignores_read_only)
        status = _copy_bytes(descriptor, place, times)
        copied = Copy(str(uuid.uuid4()), url.partition("?")[0], status.st_size, write_http_time(call.now_ns))
        record = replace(
            unrecorded(status), created_ns=times.created_or(call.now_ns), attributes=word or found.attributes,
            content=found.content, metadata=own_metadata or found.metadata, lease=lease, copy=copied,
        )  # fmt: skip
        before = entry_of(call, call.path, status, place.parent)
        entry = store(call, before, replace(record, revision=before.record.revision), status)
    return Reply(202, (*version_headers(entry), ("x-ms-copy-id", copied.id), ("x-ms-copy-status", "success")))


def abort_copy(call: Call) -> Reply:
    """Abort a copy: every copy is over already, so there is none to abort."""
    if (call.header("x-ms-copy-action") or "").lower() != "abort":
        raise missing_header("x-ms-copy-action")
    with open_place(call.root, call.path) as place:
        existing(call, place, directory=False)
    raise fault("NoPendingCopyOperation")


def read_source(call: Call, first: int, last: int) -> bytes:
    """Return a range of the file that `x-ms-copy-source` names; the URL must carry its own SAS.

    Raises:
        StorageFault: InvalidRange beyond the file's end, or whatever refuses the source.
    """
    source = _source_request(call, _COPY_SOURCE)
    call.check_source(source)
    with _opened_source(call, source.names[0], _source_path(call, source)) as (descriptor, _):
        if last >= os.fstat(descriptor).st_size:
            raise fault("InvalidRange")
        return os.pread(descriptor, last - first + 1, first)


def rename_file(call: Call) -> Reply:
    """Move a file to this path, in the same share."""
    return _rename(call, directory=False)


def rename_directory(call: Call) -> Reply:
    """Move a directory, with all that is in it, to this path in the same share."""
    return _rename(call, directory=True)


def _rename(call: Call, *, directory: bool) -> Reply:
    check_permission(call)
    source = _source_request(call, _RENAME_SOURCE)
    if source.names[0] != call.share:
        raise invalid_header(_RENAME_SOURCE, call.header(_RENAME_SOURCE) or "")
    if call.grant.is_service_sas and call.request.query.get("sr") == "f":
        raise fault("AuthorizationPermissionMismatch")
    old = _source_path(call, source)
    changes = _read_changes(call, directory=directory)
    if directory and fold_path(call.path)[: len(old)] == fold_path(old) and len(call.path) > len(old):
        raise StorageFault(409, "SharingViolation", "A directory cannot be moved into itself.")
    with (
        _rename_locks(call, old, directory=directory),
        open_place(call.root, old) as origin,
        open_place(call.root, call.path) as target,
    ):
        entry = _check_rename(call, origin, target, old, directory=directory)
        name = call.path[-1] if _is_same(origin, target) else target.name
        os.rename(origin.name, name, src_dir_fd=origin.parent.descriptor, dst_dir_fd=target.parent.descriptor)
        call.sidecar.move(old, call.path)
        moved = _finish_rename(call, entry.record, changes, Place(target.parent, *target.parent.match(name)))
    return Reply(200, changed_headers(moved))


@contextmanager
def _rename_locks(call: Call, old: tuple[str, ...], *, directory: bool) -> Iterator[None]:
    locks = call.shares.locks
    with locks.hold_all() if directory else locks.hold(call.key(), call.key(old)):
        yield


def _check_rename(
    call: Call, origin: Place, target: Place, old: tuple[str, ...], *, directory: bool
) -> Entry:
    if origin.status is None:
        raise fault("ResourceNotFound")
    if origin.is_directory is not directory:
        raise fault("ResourceTypeMismatch")
    entry = entry_of(call, old, origin.status, origin.parent)
    ignores_read_only = read_boolean(call.request.headers, "x-ms-file-rename-ignore-readonly")
    leases.check_write(entry.record.lease, lease_id(call, "x-ms-source-lease-id"), call.now_ns, "file")
    if target.status is None or _is_same(origin, target):
        return entry
    replaces = read_boolean(call.request.headers, "x-ms-file-rename-replace-if-exists")
    if target.is_directory or directory or not replaces:
        raise fault("ResourceAlreadyExists")
    goal = entry_of(call, call.path, target.status, target.parent)
    leases.check_write(goal.record.lease, lease_id(call, "x-ms-destination-lease-id"), call.now_ns, "file")
    if not ignores_read_only and "ReadOnly" in goal.record.attributes.split("|"):
        raise fault("ReadOnlyAttribute")
    return entry


def _is_same(origin: Place, target: Place) -> bool:
    """Tell whether both are one entry: a rename that only changes the case of its name."""
    return (
        origin.status is not None
        and target.status is not None
        and origin.status.st_ino == target.status.st_ino
        and origin.name == target.name
        and origin.parent.stat().st_ino == target.parent.stat().st_ino
    )


def _read_changes(call: Call, *, directory: bool) -> _Changes:
    keeps = (call.header("x-ms-file-attributes") or "preserve").lower() == "preserve"
    return _Changes(
        read_metadata(call.request.headers),
        call.header("x-ms-content-type"),
        None if keeps else attributes(call, "Directory" if directory else "Archive"),
        read_times(call),
    )


def _finish_rename(call: Call, record: Record, changes: _Changes, place: Place) -> Entry:
    status = place.status
    if status is None:
        raise fault("ResourceNotFound")
    if place.is_link:
        return entry_of(call, call.path, status, place.parent)
    changed = replace(
        record,
        metadata=changes.metadata or record.metadata,
        content=replace(record.content, type=changes.content_type or record.content.type),
        attributes=changes.attributes or record.attributes,
        created_ns=changes.times.created_or(record.created_ns),
    )
    descriptor = place.open()
    try:
        changes.times.write(descriptor)
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return store(call, entry_of(call, call.path, status, place.parent), changed, status)


def _source_request(call: Call, header: str) -> Request:
    """Return a source URL as the request that would read it."""
    url = call.header(header)
    if url is None:
        raise missing_header(header)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise invalid_header(header, url) from None
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise invalid_header(header, url)
    names = split_url_path(parts.path)
    if parts.netloc != call.request.host or not names or names[0] != call.account:
        raise not_emulated(f"a source outside of the account: {parts.scheme}://{parts.netloc}{parts.path}")
    if len(names) < 3:  # noqa: PLR2004 - account, share and at least one name
        raise invalid_header(header, url)
    raw_query = split_query(parts.query)
    query = decode_query(raw_query)
    if "sharesnapshot" in query:
        raise not_emulated("share snapshots")
    return replace(
        call.request, method="GET", scheme=parts.scheme, raw_path=parts.path, raw_query=raw_query,
        names=names[1:], query=query, headers={},
    )  # fmt: skip


def _source_path(call: Call, source: Request) -> tuple[str, ...]:
    keep = read_boolean(call.request.headers, "x-ms-source-allow-trailing-dot")
    return check_path(source.names[1:], keep_trailing_dots=keep)


def _authorize_source(call: Call, source: Request) -> None:
    """Let an account key read all of its account; a SAS reads only what the source's own SAS allows."""
    if call.grant.permissions is not None or "sig" in source.query:
        call.check_source(source)


@contextmanager
def _opened_source(call: Call, share: str, path: tuple[str, ...]) -> Iterator[tuple[int, Record]]:
    try:
        with open_place(call.shares.path(call.account, share), path) as place:
            if place.status is None:
                raise fault("ResourceNotFound")
            descriptor = place.parent.open_file(place.name, os.O_RDONLY)
    except StorageFault as refusal:
        if refusal.status == 404:  # noqa: PLR2004 - not found
            raise fault("CannotVerifyCopySource") from None
        raise
    try:
        record = call.shares.sidecar(call.account, share).read(path, os.fstat(descriptor))
        yield descriptor, record
    finally:
        os.close(descriptor)


def _copy_bytes(source: int, place: Place, times: Times) -> os.stat_result:
    target = place.parent.open_file(place.name, os.O_RDWR | os.O_CREAT)
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


def _read_copied_attributes(call: Call) -> str | None:
    """Return the attributes that a copy gets, or None for the source's."""
    if (call.header("x-ms-file-attributes") or "").lower() == "source":
        return None
    word = attributes(call, "Archive")
    sets_archive = read_boolean(call.request.headers, "x-ms-file-copy-set-archive")
    if not sets_archive or "Archive" in word:
        return word
    return "Archive" if word == "None" else f"{word}|Archive"
