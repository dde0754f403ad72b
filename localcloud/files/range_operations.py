"""Operations on ranges of a file.

Source: "Put Range", "Put Range From URL", "List Ranges". A range's checksum guards its transfer and is not
kept: the file's Content-MD5 property stays what a client set it to.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from localcloud.files import leases
from localcloud.files.copy_operations import read_source
from localcloud.files.documents import add, document
from localcloud.files.entries import (
    Entry,
    check_writable,
    existing,
    held_place,
    lease_id,
    store,
    version_headers,
)
from localcloud.files.faults import StorageFault, body_too_large, fault, invalid_header, missing_header
from localcloud.files.file_operations import check_body_md5, encode_md5, write_all
from localcloud.files.headers import MAX_RANGE_BYTES, read_closed_range, read_range, write_file_time
from localcloud.files.request import Call, Headers, Reply
from localcloud.files.sparse import clear_range, data_ranges

if TYPE_CHECKING:
    from localcloud.files.tree import Place

_PRESERVE = "preserve"


def put_range(call: Call) -> Reply:
    """Write the body to a range of a file, or clear the range."""
    action = call.header("x-ms-write")
    if action is None:
        raise missing_header("x-ms-write")
    if action.lower() == "update":
        return _update(call)
    if action.lower() == "clear":
        return _clear(call)
    raise invalid_header("x-ms-write", action)


def put_range_from_url(call: Call) -> Reply:
    """Write a range of another file of the account to a range of a file."""
    if (call.header("x-ms-write") or "").lower() != "update":
        raise invalid_header("x-ms-write", call.header("x-ms-write") or "")
    if call.body:
        raise invalid_header("Content-Length", str(len(call.body)))
    first, last = read_closed_range(call.request.headers)
    source_first, source_last = read_closed_range(call.request.headers, "x-ms-source-range")
    if last - first != source_last - source_first:
        raise invalid_header("x-ms-source-range", call.header("x-ms-source-range") or "")
    if last - first >= MAX_RANGE_BYTES:
        raise body_too_large(MAX_RANGE_BYTES)
    data = read_source(call, source_first, source_last)
    entry = _write(call, first, last, data)
    return Reply(201, _written_headers(entry))


def list_ranges(call: Call) -> Reply:
    """List the ranges of a file that hold data, as the disk knows them."""
    asked = read_range(call.request.headers)
    with held_place(call) as place:
        entry = existing(call, place, directory=False)
        leases.check_read(entry.record.lease, lease_id(call), call.now_ns, "file")
        descriptor = place.parent.open_file(place.name, os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            first, last = _within(asked, size)
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
    return Reply(200, headers, document(root))


def _within(asked: tuple[int, int | None] | None, size: int) -> tuple[int, int]:
    if asked is None:
        return 0, size - 1
    if asked[0] >= size:
        raise fault("InvalidRange")
    return asked[0], size - 1 if asked[1] is None else min(asked[1], size - 1)


def _update(call: Call) -> Reply:
    first, last = read_closed_range(call.request.headers)
    if last - first >= MAX_RANGE_BYTES:
        raise body_too_large(MAX_RANGE_BYTES)
    if len(call.body) != last - first + 1:
        raise invalid_header("Content-Length", str(len(call.body)))
    digest = check_body_md5(call)
    entry = _write(call, first, last, call.body)
    return Reply(201, (*_written_headers(entry), ("Content-MD5", encode_md5(digest))))


def _clear(call: Call) -> Reply:
    if call.body:
        raise invalid_header("Content-Length", str(len(call.body)))
    if call.header("content-md5") is not None:
        raise StorageFault(
            400, "InvalidHeaderValue", "Content-MD5 is not allowed when a range is cleared.",
            (("HeaderName", "Content-MD5"),),
        )  # fmt: skip
    first, last = read_closed_range(call.request.headers)
    return Reply(201, _written_headers(_write(call, first, last, None)))


def _write(call: Call, first: int, last: int, data: bytes | bytearray | None) -> Entry:
    """Write data to a range, or clear it without data; record that the change was ours."""
    mode = (call.header("x-ms-file-last-write-time") or "now").lower()
    if mode not in {"now", _PRESERVE}:
        raise invalid_header("x-ms-file-last-write-time", mode)
    with held_place(call) as place:
        entry = existing(call, place, directory=False)
        check_writable(call, entry)
        status = _write_at(place, entry, first, last, data, preserve=mode == _PRESERVE)
        return store(call, entry, entry.record, status)


def _write_at(  # noqa: PLR0913 - they are what a write is
    place: Place, entry: Entry, first: int, last: int, data: bytes | bytearray | None, *, preserve: bool
) -> os.stat_result:
    descriptor = place.parent.open_file(place.name, os.O_RDWR)
    try:
        if last >= os.fstat(descriptor).st_size:
            raise fault("InvalidRange")
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
