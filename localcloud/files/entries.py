"""What the operations on files and on directories share: description, checks and records."""

from __future__ import annotations

import os
import stat as modes
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from localcloud.files import leases
from localcloud.files.errors import not_emulated, storage_error
from localcloud.files.headers import (
    read_attributes,
    read_time,
    write_file_time,
    write_http_time,
    write_metadata,
)
from localcloud.files.sidecar import Record, etag, unrecorded
from localcloud.files.tree import Folder, Location, open_directory, open_location

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localcloud.files.request import FileRequest, Headers

#: The key of the permission that every entry inherits; others cannot be created.
PERMISSION_KEY: Final = "1*1"
ROOT_ID: Final = "0"

#: The headers that set the properties that SMB clients see.
SMB_HEADERS: Final = frozenset(
    {
        "x-ms-file-attributes",
        "x-ms-file-creation-time",
        "x-ms-file-last-write-time",
        "x-ms-file-change-time",
        "x-ms-file-permission",
        "x-ms-file-permission-key",
    }
)


@dataclass(frozen=True, slots=True)
class Entry:
    """An existing entry: its status on the disk, and its record."""

    path: tuple[str, ...]
    status: os.stat_result
    record: Record
    parent_id: str

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return modes.S_ISDIR(self.status.st_mode)

    @property
    def etag(self) -> str:
        """Its ETag, with quotes."""
        return etag(self.record, self.status)

    @property
    def last_modified_ns(self) -> int:
        """When its content or its properties were last changed."""
        return max(self.status.st_mtime_ns, self.record.changed_ns)


@contextmanager
def locked_location(request: FileRequest) -> Iterator[Location]:
    """Open the location of the request's path, with its lock held; a context manager."""
    with request.shares.locks.hold(request.key()), open_location(request.root, request.path) as location:
        yield location


def existing(request: FileRequest, location: Location, *, directory: bool) -> Entry:
    """Return the entry at a location.

    An entry of the other kind counts as missing: for each uploaded file, `az storage file upload-batch`
    requests the directory of that name, and expects 404.

    Raises:
        StorageError: ResourceNotFound.
    """
    if location.status is None or location.is_directory is not directory:
        raise storage_error("ResourceNotFound")
    return entry_of(request, request.path, location.status, location.parent)


def entry_of(request: FileRequest, path: tuple[str, ...], status: os.stat_result, parent: Folder) -> Entry:
    """Return the entry with this status, with its record."""
    return Entry(path, status, record_of(request, path, status), _parent_id(path, parent))


def record_of(request: FileRequest, path: tuple[str, ...], status: os.stat_result) -> Record:
    """Return the record of an entry; links have none."""
    if modes.S_ISLNK(status.st_mode):
        return unrecorded(status)
    return request.sidecar.read(path, status)


def root_entry(request: FileRequest) -> Entry:
    """Return the root directory of the share.

    Raises:
        StorageError: ShareNotFound.
    """
    with open_directory(request.root, ()) as folder:
        status = folder.stat()
        return Entry((), status, request.sidecar.read((), status), ROOT_ID)


def store(request: FileRequest, entry: Entry, record: Record, status: os.stat_result) -> Entry:
    """Store new properties of an entry; return the changed entry."""
    stored = request.sidecar.write(entry.path, record, status, request.now_ns)
    return Entry(entry.path, status, stored, entry.parent_id)


def check_writable(request: FileRequest, entry: Entry) -> None:
    """Check that a file may be changed: with its lease id if it is leased, and not read-only.

    Raises:
        StorageError: the 412 of `leases.check_write`, or ReadOnlyAttribute.
    """
    leases.check_write(entry.record.lease, lease_id(request), request.now_ns, "file")
    if "ReadOnly" in entry.record.attributes.split("|"):
        raise storage_error("ReadOnlyAttribute")


def lease_id(request: FileRequest, name: str = "x-ms-lease-id") -> str | None:
    """Return the lease id of a request, in lower case."""
    value = request.header(name)
    return None if value is None else value.lower()


@dataclass(frozen=True, slots=True)
class Times:
    """The file times that a request sets, in nanoseconds since the epoch; None leaves one unchanged."""

    written_ns: int | None
    created_ns: int | None

    def write(self, descriptor: int) -> None:
        """Set the modification time of an open file or directory."""
        if self.written_ns is not None:
            os.utime(descriptor, ns=(self.written_ns, self.written_ns))

    def created_or(self, default_ns: int) -> int:
        """Return the creation time, or a default."""
        return default_ns if self.created_ns is None else self.created_ns


def read_times(request: FileRequest) -> Times:
    """Return the times that a request sets; the change time is checked, but not used.

    Raises:
        StorageError: InvalidHeaderValue.
    """
    headers = request.http.headers
    read_time(headers, "x-ms-file-change-time", request.now_ns)
    return Times(
        read_time(headers, "x-ms-file-last-write-time", request.now_ns),
        read_time(headers, "x-ms-file-creation-time", request.now_ns),
    )


def check_permission(request: FileRequest) -> None:
    """Check that a request sets no permission but the inherited one.

    Raises:
        StorageError: NotImplementedByLocalCloud.
    """
    permission = (request.header("x-ms-file-permission") or "inherit").lower()
    key = request.header("x-ms-file-permission-key") or PERMISSION_KEY
    if permission not in {"inherit", "preserve"} or key.lower() not in {PERMISSION_KEY, "preserve"}:
        raise not_emulated("file permissions (SDDL) other than the inherited one")


def attributes(request: FileRequest, default: str) -> str:
    """Return the attributes that a request sets, or the default."""
    return read_attributes(request.http.headers, default)


def smb_headers(entry: Entry) -> Headers:
    """Return the headers of the properties that SMB clients see."""
    identity = ROOT_ID if not entry.path else str(entry.status.st_ino)
    return (
        ("x-ms-file-attributes", entry.record.attributes),
        ("x-ms-file-creation-time", write_file_time(entry.record.created_ns)),
        ("x-ms-file-last-write-time", write_file_time(entry.status.st_mtime_ns)),
        ("x-ms-file-change-time", write_file_time(entry.last_modified_ns)),
        ("x-ms-file-permission-key", PERMISSION_KEY),
        ("x-ms-file-id", identity),
        ("x-ms-file-parent-id", entry.parent_id),
    )


def version_headers(entry: Entry) -> Headers:
    """Return ETag and Last-Modified."""
    return (("ETag", entry.etag), ("Last-Modified", write_http_time(entry.last_modified_ns)))


def changed_headers(entry: Entry) -> Headers:
    """Return the headers of the response to a change of an entry."""
    return (*version_headers(entry), ("x-ms-request-server-encrypted", "true"), *smb_headers(entry))


def property_headers(entry: Entry) -> Headers:
    """Return the headers that describe an entry, without a file's content headers."""
    return (
        *version_headers(entry),
        ("x-ms-server-encrypted", "true"),
        *smb_headers(entry),
        *write_metadata(entry.record.metadata),
    )


def _parent_id(path: tuple[str, ...], parent: Folder) -> str:
    return ROOT_ID if len(path) <= 1 else str(parent.stat().st_ino)
