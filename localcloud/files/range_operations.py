"""Operations on ranges of a file.

Source: "Put Range", "Put Range From URL", "List Ranges". A range's checksum protects its transfer and is not
stored: the file's Content-MD5 property stays as a client set it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from localcloud.files import leases
from localcloud.files.copy_operations import read_source
from localcloud.files.documents import add, document
from localcloud.files.entries import (
    Entry,
    check_writable,
    existing,
    lease_id,
    locked_location,
    store,
    version_headers,
)
from localcloud.files.errors import (
    StorageError,
    body_too_large,
    invalid_header,
    missing_header,
    storage_error,
)
from localcloud.files.file_operations import check_body_md5, encode_md5, write_all
from localcloud.files.headers import MAX_RANGE_BYTES, read_closed_range, read_range, write_file_time
from localcloud.files.request import FileRequest, FileResponse, Headers
from localcloud.files.sparse import clear_range, data_ranges

if TYPE_CHECKING:
    from localcloud.files.tree import Location

_PRESERVE: Final = "preserve"


def put_range(request: FileRequest) -> FileResponse:
    """Write the body to a range of a file, or clear the range."""
    action = request.header("x-ms-write")
    if action is None:
        raise missing_header("x-ms-write")
    if action.lower() == "update":
        return _update(request)
    if action.lower() == "clear":
        return _clear(request)
    raise invalid_header("x-ms-write", action)


def put_range_from_url(request: FileRequest) -> FileResponse:
    """Write a range of another file of the account to a range of a file."""
    if (request.header("x-ms-write") or "").lower() != "update":
        raise invalid_header("x-ms-write", request.header("x-ms-write") or "")
    if request.body:
        raise invalid_header("Content-Length", str(len(request.body)))
    first, last = read_closed_range(request.http.headers)
    source_first, source_last = read_closed_range(request.http.headers, "x-ms-source-range")
    if last - first != source_last - source_first:
        raise invalid_header("x-ms-source-range", request.header("x-ms-source-range") or "")
    if last - first >= MAX_RANGE_BYTES:
        raise body_too_large(MAX_RANGE_BYTES)
    data = read_source(request, source_first, source_last)
    entry = _write(request, first, last, data)
    return FileResponse(201, _written_headers(entry))


def list_ranges(request: FileRequest) -> FileResponse:
    """List the ranges of a file that contain data, according to the file system."""
    requested = read_range(request.http.headers)
    with locked_location(request) as location:
        entry = existing(request, location, directory=False)
        leases.check_read(entry.record.lease, lease_id(request), request.now_ns, "file")
        descriptor = location.parent.open_file(location.name, os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            first, last = _within(requested, size)
            found = data_ranges(descriptor, first, last)
        finally:
            os.close(descriptor)
    root = ET.Element("Ranges")
    for start, end in found:
        item = add(root, "Range")
        add(item, "Start", str(start))
        add(item, "End", str(end))
    headers: Headers = (
        ("Content-Type", "application/xml"),
        *version_headers(entry),
        ("x-ms-content-length", str(size)),
    )
    return FileResponse(200, headers, document(root))


def _within(requested: tuple[int, int | None] | None, size: int) -> tuple[int, int]:
    if requested is None:
        return 0, size - 1
    if requested[0] >= size:
        raise storage_error("InvalidRange")
    return requested[0], size - 1 if requested[1] is None else min(requested[1], size - 1)


def _update(request: FileRequest) -> FileResponse:
    first, last = read_closed_range(request.http.headers)
    if last - first >= MAX_RANGE_BYTES:
        raise body_too_large(MAX_RANGE_BYTES)
    if len(request.body) != last - first + 1:
        raise invalid_header("Content-Length", str(len(request.body)))
    digest = check_body_md5(request)
    entry = _write(request, first, last, request.body)
    return FileResponse(201, (*_written_headers(entry), ("Content-MD5", encode_md5(digest))))


def _clear(request: FileRequest) -> FileResponse:
    if request.body:
        raise invalid_header("Content-Length", str(len(request.body)))
    if request.header("content-md5") is not None:
        raise StorageError(
            400, "InvalidHeaderValue", "Content-MD5 is not allowed when a range is cleared.",
            (("HeaderName", "Content-MD5"),),
        )  # fmt: skip
    first, last = read_closed_range(request.http.headers)
    return FileResponse(201, _written_headers(_write(request, first, last, None)))


def _write(request: FileRequest, first: int, last: int, data: bytes | bytearray | None) -> Entry:
    """Write data to a range, or clear it if there is none; record the change."""
    mode = (request.header("x-ms-file-last-write-time") or "now").lower()
    if mode not in {"now", _PRESERVE}:
        raise invalid_header("x-ms-file-last-write-time", mode)
    with locked_location(request) as location:
        entry = existing(request, location, directory=False)
        check_writable(request, entry)
        status = _write_at(location, entry, first, last, data, preserve=mode == _PRESERVE)
        return store(request, entry, entry.record, status)


def _write_at(  # noqa: PLR0913 - a write needs all of them
    location: Location, entry: Entry, first: int, last: int, data: bytes | bytearray | None, *, preserve: bool
) -> os.stat_result:
    descriptor = location.parent.open_file(location.name, os.O_RDWR)
    try:
        if last >= os.fstat(descriptor).st_size:
            raise storage_error("InvalidRange")
        if data is None:
            clear_range(descriptor, first, last - first + 1)
        else:
            write_all(descriptor, data, first)
        if preserve:
            os.utime(descriptor, ns=(entry.status.st_atime_ns, entry.status.st_mtime_ns))
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _written_headers(entry: Entry) -> Headers:
    return (
        *version_headers(entry),
        ("x-ms-request-server-encrypted", "true"),
        ("x-ms-file-last-write-time", write_file_time(entry.status.st_mtime_ns)),
    )
