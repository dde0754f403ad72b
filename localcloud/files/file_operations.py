"""Operations on whole files: create, read, describe, change properties, delete.

Source: "Create File", "Get File", "Get File Properties", "Set File Properties", "Set File Metadata", "Delete
File".
"""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from localcloud.files import leases
from localcloud.files.entries import (
    Entry,
    attributes,
    changed_headers,
    check_permission,
    check_writable,
    entry_of,
    existing,
    held_place,
    lease_id,
    property_headers,
    read_times,
    store,
    version_headers,
)
from localcloud.files.faults import fault, invalid_header, missing_header, not_emulated
from localcloud.files.headers import (
    MAX_FILE_BYTES,
    MAX_RANGE_BYTES,
    read_boolean,
    read_content,
    read_integer,
    read_md5,
    read_metadata,
    read_range,
    write_content,
)
from localcloud.files.request import Call, FileStream, Headers, Reply
from localcloud.files.sidecar import Content, Record, unrecorded

if TYPE_CHECKING:
    from localcloud.files.tree import Place

#: A SAS may have the file served with other content headers than its own.
_OVERRIDES = {
    "rsct": "type",
    "rsce": "encoding",
    "rscl": "language",
    "rscc": "cache_control",
    "rscd": "disposition",
}


def create_file(call: Call) -> Reply:
    """Make a file of a given size, or replace one, and write the body, if there is one, at its start.

    The file is as long as asked at once, and sparse: its ranges read as zeros until they are written.
    """
    if call.header("x-ms-type") is None:
        raise missing_header("x-ms-type")
    if (call.header("x-ms-type") or "").lower() != "file":
        raise invalid_header("x-ms-type", call.header("x-ms-type") or "")
    if (call.header("x-ms-file-property-semantics") or "new").lower() != "new":
        raise not_emulated("the file property semantics 'Restore'")
    check_permission(call)
    size = read_integer(call.request.headers, "x-ms-content-length", maximum=MAX_FILE_BYTES)
    if len(call.body) > size:
        raise invalid_header("Content-Length", str(len(call.body)))
    digest = check_body_md5(call)
    content = read_content(call.request.headers)
    metadata = read_metadata(call.request.headers)
    word = attributes(call, "Archive")
    times = read_times(call)
    with held_place(call) as place:
        lease = replaceable(call, place)
        descriptor = place.parent.open_file(place.name, os.O_RDWR | os.O_CREAT)
        try:
            os.ftruncate(descriptor, 0)
            os.ftruncate(descriptor, size)
            write_all(descriptor, call.body, 0)
            times.write(descriptor)
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        record = replace(
            unrecorded(status),
            created_ns=times.created_or(call.now_ns), attributes=word, content=content,
            metadata=metadata, lease=lease,
        )  # fmt: skip
        before = entry_of(call, call.path, status, place.parent)
        entry = store(call, before, replace(record, revision=before.record.revision), status)
    return Reply(201, (*changed_headers(entry), *_md5_header(digest if call.body else None)))


def download_file(call: Call) -> Reply:
    """Send a file, or a range of it."""
    asked = read_range(call.request.headers)
    with_md5 = read_boolean(call.request.headers, "x-ms-range-get-content-md5")
    with held_place(call) as place:
        entry = existing(call, place, directory=False)
        leases.check_read(entry.record.lease, lease_id(call), call.now_ns, "file")
        descriptor = place.parent.open_file(place.name, os.O_RDONLY)
    try:
        return _send(call, entry, descriptor, asked, with_md5=with_md5)
    except BaseException:
        os.close(descriptor)
        raise


def file_properties(call: Call) -> Reply:
    """Tell a file's properties, metadata and lease."""
    with held_place(call) as place:
        entry = existing(call, place, directory=False)
    leases.check_read(entry.record.lease, lease_id(call), call.now_ns, "file")
    return Reply(200, (("Content-Length", str(entry.status.st_size)), *_description(call, entry)))


def delete_file(call: Call) -> Reply:
    """Delete a file, or a link that a replica made (never what it points to)."""
    with held_place(call) as place:
        entry = existing(call, place, directory=False)
        check_writable(call, entry)
        place.parent.remove_file(place.name)
        call.sidecar.remove(call.path)
    return Reply(202)


def set_file_properties(call: Call) -> Reply:
    """Set a file's content headers (the ones not named are cleared), its size, its attributes and times."""
    check_permission(call)
    content = read_content(call.request.headers)
    times = read_times(call)
    size = None
    if "x-ms-content-length" in call.request.headers:
        size = read_integer(call.request.headers, "x-ms-content-length", maximum=MAX_FILE_BYTES)
    with held_place(call) as place:
        entry = existing(call, place, directory=False)
        word = attributes(call, entry.record.attributes)
        _check_property_change(call, entry, word)
        descriptor = place.parent.open_file(place.name, os.O_RDWR)
        try:
            if size is not None:
                os.ftruncate(descriptor, size)
            times.write(descriptor)
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        created_ns = times.created_or(entry.record.created_ns)
        record = replace(entry.record, content=content, attributes=word, created_ns=created_ns)
        stored = store(call, entry, record, status)
    return Reply(200, changed_headers(stored))


def set_file_metadata(call: Call) -> Reply:
    """Replace a file's metadata."""
    metadata = read_metadata(call.request.headers)
    with held_place(call) as place:
        entry = existing(call, place, directory=False)
        leases.check_write(entry.record.lease, lease_id(call), call.now_ns, "file")
        if place.is_link:
            raise fault("ResourceTypeMismatch")
        stored = store(call, entry, replace(entry.record, metadata=metadata), entry.status)
    return Reply(200, (*version_headers(stored), ("x-ms-request-server-encrypted", "true")))


def replaceable(call: Call, place: Place, *, ignores_read_only: bool = False) -> leases.Lease | None:
    """Check that a file may be written to a place; return the lease of the file that it replaces.

    Raises:
        StorageFault: ResourceTypeMismatch, ReadOnlyAttribute, a lease's 412, or
            AuthorizationPermissionMismatch for a SAS that may create but not overwrite.
    """
    if place.status is None:
        call.sidecar.remove(call.path)
        return None
    if place.is_directory or place.is_link:
        raise fault("ResourceTypeMismatch")
    entry = existing(call, place, directory=False)
    if ignores_read_only:
        leases.check_write(entry.record.lease, lease_id(call), call.now_ns, "file")
    else:
        check_writable(call, entry)
    if not call.grant.allows("w"):
        raise fault("AuthorizationPermissionMismatch")
    return entry.record.lease


def check_body_md5(call: Call) -> bytes:
    """Return the MD5 of the body, after comparing it with the one in `Content-MD5`.

    Raises:
        StorageFault: Md5Mismatch or InvalidMd5.
    """
    expected = read_md5(call.request.headers, "content-md5")
    digest = hashlib.md5(call.body, usedforsecurity=False).digest()
    if expected is not None and expected != digest:
        raise fault("Md5Mismatch")
    return digest


def write_all(descriptor: int, data: bytes | bytearray, offset: int) -> None:
    """Write all of the data at an offset."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def encode_md5(digest: bytes) -> str:
    """Return an MD5 as headers carry it."""
    return base64.b64encode(digest).decode("ascii")


def copy_headers(record: Record) -> Headers:
    """Return the headers that tell of the last copy onto a file; it is over by the time it is answered."""
    if record.copy is None:
        return ()
    return (
        ("x-ms-copy-id", record.copy.id),
        ("x-ms-copy-status", "success"),
        ("x-ms-copy-source", record.copy.source),
        ("x-ms-copy-progress", f"{record.copy.size_bytes}/{record.copy.size_bytes}"),
        ("x-ms-copy-completion-time", record.copy.completed),
    )


def _check_property_change(call: Call, entry: Entry, word: str) -> None:
    """Let a read-only file become writable, but nothing else be changed of it."""
    if word != entry.record.attributes and "ReadOnly" not in word.split("|"):
        leases.check_write(entry.record.lease, lease_id(call), call.now_ns, "file")
    else:
        check_writable(call, entry)


def _send(
    call: Call, entry: Entry, descriptor: int, asked: tuple[int, int | None] | None, *, with_md5: bool
) -> Reply:
    size = os.fstat(descriptor).st_size
    if asked is None:
        if with_md5:
            raise missing_header("x-ms-range")
        return Reply(200, _description(call, entry), stream=FileStream(descriptor, 0, size))
    first = asked[0]
    if first >= size:
        raise fault("InvalidRange")
    last = size - 1 if asked[1] is None else min(asked[1], size - 1)
    length = last - first + 1
    headers: Headers = (
        *_description(call, entry, md5_name="x-ms-content-md5"),
        ("Content-Range", f"bytes {first}-{last}/{size}"),
    )
    if with_md5:
        if length > MAX_RANGE_BYTES:
            raise invalid_header("x-ms-range-get-content-md5", "true")
        digest = hashlib.md5(os.pread(descriptor, length, first), usedforsecurity=False).digest()
        headers = (*headers, ("Content-MD5", encode_md5(digest)))
    return Reply(206, headers, stream=FileStream(descriptor, first, length))


def _description(call: Call, entry: Entry, *, md5_name: str = "Content-MD5") -> Headers:
    return (
        *write_content(_overridden(call, entry.record.content), md5_name=md5_name),
        ("x-ms-type", "File"),
        ("Accept-Ranges", "bytes"),
        *property_headers(entry),
        *leases.headers(entry.record.lease, call.now_ns),
        *copy_headers(entry.record),
    )


def _overridden(call: Call, content: Content) -> Content:
    if not call.grant.is_service_sas:
        return content
    query = call.request.query
    return replace(content, **{field: query[name] for name, field in _OVERRIDES.items() if name in query})


def _md5_header(digest: bytes | None) -> Headers:
    return () if digest is None else (("Content-MD5", encode_md5(digest)),)
