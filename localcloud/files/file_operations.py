"""Operations on whole files: create, download, describe, change properties, delete.

Source: "Create File", "Get File", "Get File Properties", "Set File Properties", "Set File Metadata", "Delete
File".
"""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from localcloud.files import leases
from localcloud.files.entries import (
    Entry,
    attributes,
    changed_headers,
    check_permission,
    check_writable,
    entry_of,
    existing,
    lease_id,
    locked_location,
    property_headers,
    read_times,
    store,
    version_headers,
)
from localcloud.files.errors import invalid_header, missing_header, not_emulated, storage_error
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
from localcloud.files.request import FileRequest, FileResponse, FileStream, Headers
from localcloud.files.sidecar import Content, Record, unrecorded

if TYPE_CHECKING:
    from localcloud.files.tree import Location

#: A SAS may override the file's content headers.
_OVERRIDES: Final = {
    "rsct": "type",
    "rsce": "encoding",
    "rscl": "language",
    "rscc": "cache_control",
    "rscd": "disposition",
}


def create_file(request: FileRequest) -> FileResponse:
    """Create or replace a file of a given size, and write the body, if any, at its start.

    The file has its full size at once, and is sparse: its ranges read as zeros until they are written.
    """
    if request.header("x-ms-type") is None:
        raise missing_header("x-ms-type")
    if (request.header("x-ms-type") or "").lower() != "file":
        raise invalid_header("x-ms-type", request.header("x-ms-type") or "")
    if (request.header("x-ms-file-property-semantics") or "new").lower() != "new":
        raise not_emulated("the file property semantics 'Restore'")
    check_permission(request)
    size = read_integer(request.http.headers, "x-ms-content-length", maximum=MAX_FILE_BYTES)
    if len(request.body) > size:
        raise invalid_header("Content-Length", str(len(request.body)))
    digest = check_body_md5(request)
    content = read_content(request.http.headers)
    metadata = read_metadata(request.http.headers)
    word = attributes(request, "Archive")
    times = read_times(request)
    with locked_location(request) as location:
        lease = replaceable(request, location)
        descriptor = location.parent.open_file(location.name, os.O_RDWR | os.O_CREAT)
        try:
            os.ftruncate(descriptor, 0)
            os.ftruncate(descriptor, size)
            write_all(descriptor, request.body, 0)
            times.write(descriptor)
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        record = replace(
            unrecorded(status),
            created_ns=times.created_or(request.now_ns), attributes=word, content=content,
            metadata=metadata, lease=lease,
        )  # fmt: skip
        before = entry_of(request, request.path, status, location.parent)
        entry = store(request, before, replace(record, revision=before.record.revision), status)
    return FileResponse(201, (*changed_headers(entry), *_md5_header(digest if request.body else None)))


def download_file(request: FileRequest) -> FileResponse:
    """Download a file, or a range of it."""
    requested = read_range(request.http.headers)
    with_md5 = read_boolean(request.http.headers, "x-ms-range-get-content-md5")
    with locked_location(request) as location:
        entry = existing(request, location, directory=False)
        leases.check_read(entry.record.lease, lease_id(request), request.now_ns, "file")
        descriptor = location.parent.open_file(location.name, os.O_RDONLY)
    try:
        return _send(request, entry, descriptor, requested, with_md5=with_md5)
    except BaseException:
        os.close(descriptor)
        raise


def file_properties(request: FileRequest) -> FileResponse:
    """Return a file's properties, metadata and lease."""
    with locked_location(request) as location:
        entry = existing(request, location, directory=False)
    leases.check_read(entry.record.lease, lease_id(request), request.now_ns, "file")
    return FileResponse(200, (("Content-Length", str(entry.status.st_size)), *_description(request, entry)))


def delete_file(request: FileRequest) -> FileResponse:
    """Delete a file, or a symbolic link that a replica made (never its target)."""
    with locked_location(request) as location:
        entry = existing(request, location, directory=False)
        check_writable(request, entry)
        location.parent.remove_file(location.name)
        request.sidecar.remove(request.path)
    return FileResponse(202)


def set_file_properties(request: FileRequest) -> FileResponse:
    """Set a file's content headers (omitted ones are cleared), size, attributes and times."""
    check_permission(request)
    content = read_content(request.http.headers)
    times = read_times(request)
    size = None
    if "x-ms-content-length" in request.http.headers:
        size = read_integer(request.http.headers, "x-ms-content-length", maximum=MAX_FILE_BYTES)
    with locked_location(request) as location:
        entry = existing(request, location, directory=False)
        word = attributes(request, entry.record.attributes)
        _check_property_change(request, entry, word)
        descriptor = location.parent.open_file(location.name, os.O_RDWR)
        try:
            if size is not None:
                os.ftruncate(descriptor, size)
            times.write(descriptor)
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        created_ns = times.created_or(entry.record.created_ns)
        record = replace(entry.record, content=content, attributes=word, created_ns=created_ns)
        stored = store(request, entry, record, status)
    return FileResponse(200, changed_headers(stored))


def set_file_metadata(request: FileRequest) -> FileResponse:
    """Replace a file's metadata."""
    metadata = read_metadata(request.http.headers)
    with locked_location(request) as location:
        entry = existing(request, location, directory=False)
        leases.check_write(entry.record.lease, lease_id(request), request.now_ns, "file")
        if location.is_link:
            raise storage_error("ResourceTypeMismatch")
        stored = store(request, entry, replace(entry.record, metadata=metadata), entry.status)
    return FileResponse(200, (*version_headers(stored), ("x-ms-request-server-encrypted", "true")))


def replaceable(
    request: FileRequest, location: Location, *, ignores_read_only: bool = False
) -> leases.Lease | None:
    """Check that a file may be written to a location; return the lease of the file that it replaces.

    Raises:
        StorageError: ResourceTypeMismatch, ReadOnlyAttribute, a lease's 412, or
            AuthorizationPermissionMismatch for a SAS that may create but not overwrite.
    """
    if location.status is None:
        request.sidecar.remove(request.path)
        return None
    if location.is_directory or location.is_link:
        raise storage_error("ResourceTypeMismatch")
    entry = existing(request, location, directory=False)
    if ignores_read_only:
        leases.check_write(entry.record.lease, lease_id(request), request.now_ns, "file")
    else:
        check_writable(request, entry)
    if not request.grant.allows("w"):
        raise storage_error("AuthorizationPermissionMismatch")
    return entry.record.lease


def check_body_md5(request: FileRequest) -> bytes:
    """Return the MD5 of the body, after comparing it with `Content-MD5`.

    Raises:
        StorageError: Md5Mismatch or InvalidMd5.
    """
    expected = read_md5(request.http.headers, "content-md5")
    digest = hashlib.md5(request.body, usedforsecurity=False).digest()
    if expected is not None and expected != digest:
        raise storage_error("Md5Mismatch")
    return digest


def write_all(descriptor: int, data: bytes | bytearray, offset: int) -> None:
    """Write all of the data at an offset."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def encode_md5(digest: bytes) -> str:
    """Return an MD5 in base64, as in headers."""
    return base64.b64encode(digest).decode("ascii")


def copy_headers(record: Record) -> Headers:
    """Return the headers that describe the last copy onto a file, which is always complete."""
    if record.copy is None:
        return ()
    return (
        ("x-ms-copy-id", record.copy.id),
        ("x-ms-copy-status", "success"),
        ("x-ms-copy-source", record.copy.source),
        ("x-ms-copy-progress", f"{record.copy.size_bytes}/{record.copy.size_bytes}"),
        ("x-ms-copy-completion-time", record.copy.completed),
    )


def _check_property_change(request: FileRequest, entry: Entry, word: str) -> None:
    """Check that a change is allowed: a read-only file may only become writable."""
    if word != entry.record.attributes and "ReadOnly" not in word.split("|"):
        leases.check_write(entry.record.lease, lease_id(request), request.now_ns, "file")
    else:
        check_writable(request, entry)


def _send(
    request: FileRequest,
    entry: Entry,
    descriptor: int,
    requested: tuple[int, int | None] | None,
    *,
    with_md5: bool,
) -> FileResponse:
    size = os.fstat(descriptor).st_size
    if requested is None:
        if with_md5:
            raise missing_header("x-ms-range")
        return FileResponse(200, _description(request, entry), stream=FileStream(descriptor, 0, size))
    first = requested[0]
    if first >= size:
        raise storage_error("InvalidRange")
    last = size - 1 if requested[1] is None else min(requested[1], size - 1)
    length = last - first + 1
    headers: Headers = (
        *_description(request, entry, md5_name="x-ms-content-md5"),
        ("Content-Range", f"bytes {first}-{last}/{size}"),
    )
    if with_md5:
        if length > MAX_RANGE_BYTES:
            raise invalid_header("x-ms-range-get-content-md5", "true")
        digest = hashlib.md5(os.pread(descriptor, length, first), usedforsecurity=False).digest()
        headers = (*headers, ("Content-MD5", encode_md5(digest)))
    return FileResponse(206, headers, stream=FileStream(descriptor, first, length))


def _description(request: FileRequest, entry: Entry, *, md5_name: str = "Content-MD5") -> Headers:
    return (
        *write_content(_overridden(request, entry.record.content), md5_name=md5_name),
        ("x-ms-type", "File"),
        ("Accept-Ranges", "bytes"),
        *property_headers(entry),
        *leases.headers(entry.record.lease, request.now_ns),
        *copy_headers(entry.record),
    )


def _overridden(request: FileRequest, content: Content) -> Content:
    if not request.grant.is_service_sas:
        return content
    query = request.http.query
    return replace(content, **{field: query[name] for name, field in _OVERRIDES.items() if name in query})


def _md5_header(digest: bytes | None) -> Headers:
    return () if digest is None else (("Content-MD5", encode_md5(digest)),)
