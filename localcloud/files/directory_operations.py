"""Operations on directories.

Source: "List Directories and Files", "Create Directory", "Get Directory Properties", "Set Directory
Properties", "Set Directory Metadata", "Delete Directory".
"""

from __future__ import annotations

import stat as modes
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from localcloud.files.documents import add, add_name, document
from localcloud.files.entries import (
    PERMISSION_KEY,
    ROOT_ID,
    Entry,
    attributes,
    changed_headers,
    check_permission,
    entry_of,
    existing,
    locked_location,
    property_headers,
    read_times,
    root_entry,
    store,
)
from localcloud.files.errors import storage_error
from localcloud.files.headers import read_boolean, read_metadata, write_file_time, write_http_time
from localcloud.files.names import fold
from localcloud.files.paging import read_include, read_page
from localcloud.files.request import FileRequest, FileResponse
from localcloud.files.sidecar import unrecorded
from localcloud.files.tree import Folder, open_directory

if TYPE_CHECKING:
    import os

_INCLUDES: Final = frozenset({"timestamps", "etag", "attributes", "permissionkey"})


def create_directory(request: FileRequest) -> FileResponse:
    """Create a directory in an existing one."""
    check_permission(request)
    metadata = read_metadata(request.http.headers)
    word = attributes(request, "Directory")
    times = read_times(request)
    with locked_location(request) as location:
        if location.status is not None:
            raise storage_error("ResourceAlreadyExists" if location.is_directory else "ResourceTypeMismatch")
        location.parent.make_directory(location.name)
        request.sidecar.remove(request.path)
        with open_directory(request.root, request.path) as made:
            times.write(made.descriptor)
            status = made.stat()
        record = replace(
            unrecorded(status),
            created_ns=times.created_or(request.now_ns),
            metadata=metadata,
            attributes=word,
        )
        entry = store(request, entry_of(request, request.path, status, location.parent), record, status)
    return FileResponse(201, changed_headers(entry))


def directory_properties(request: FileRequest) -> FileResponse:
    """Return a directory's properties and metadata."""
    if not request.path:
        return FileResponse(200, property_headers(root_entry(request)))
    with locked_location(request) as location:
        return FileResponse(200, property_headers(existing(request, location, directory=True)))


def delete_directory(request: FileRequest) -> FileResponse:
    """Delete an empty directory."""
    if not request.path:
        raise storage_error("CannotDeleteFileOrDirectory")
    with locked_location(request) as location:
        entry = existing(request, location, directory=True)
        if "ReadOnly" in entry.record.attributes.split("|"):
            raise storage_error("ReadOnlyAttribute")
        location.parent.remove_directory(location.name)
        request.sidecar.remove(request.path)
    return FileResponse(202)


def set_directory_metadata(request: FileRequest) -> FileResponse:
    """Replace a directory's metadata."""
    metadata = read_metadata(request.http.headers)
    with request.shares.locks.hold(request.key()), open_directory(request.root, request.path) as folder:
        entry = _entry(request, folder)
        stored = store(request, entry, replace(entry.record, metadata=metadata), folder.stat())
    return FileResponse(200, changed_headers(stored))


def set_directory_properties(request: FileRequest) -> FileResponse:
    """Change a directory's attributes and times."""
    check_permission(request)
    times = read_times(request)
    with request.shares.locks.hold(request.key()), open_directory(request.root, request.path) as folder:
        entry = _entry(request, folder)
        word = attributes(request, entry.record.attributes)
        times.write(folder.descriptor)
        record = replace(entry.record, attributes=word, created_ns=times.created_or(entry.record.created_ns))
        stored = store(request, entry, record, folder.stat())
    return FileResponse(200, changed_headers(stored))


def list_directory(request: FileRequest) -> FileResponse:
    """List the files and directories in a directory, sorted by folded name."""
    page = read_page(request)
    include = read_include(request, _INCLUDES)
    extended = read_boolean(request.http.headers, "x-ms-file-extended-info")
    request.share_properties()
    with open_directory(request.root, request.path) as folder:
        prefix = fold(page.prefix)
        found = [item for item in folder.entries() if fold(item[0]).startswith(prefix)]
        found.sort(key=_sort_key)
        chosen, next_marker = page.slice(found, key=_sort_key)
        root = ET.Element(
            "EnumerationResults",
            ServiceEndpoint=request.http.endpoint,
            ShareName=request.share,
            DirectoryPath="/".join(request.path),
        )
        page.echo(root)
        if extended or include:
            add(root, "DirectoryId", str(folder.stat().st_ino) if request.path else ROOT_ID)
        entries = add(root, "Entries")
        for name, status in chosen:
            entry = _listed(request, folder, name, status, include)
            _add_entry(entries, entry, include, with_id=extended or bool(include))
    add(root, "NextMarker", next_marker)
    return FileResponse(200, (("Content-Type", "application/xml"),), document(root))


def list_handles(request: FileRequest) -> FileResponse:
    """List the open SMB handles of an entry: none, since there is no SMB."""
    _check_exists(request)
    read_page(request)
    root = ET.Element("EnumerationResults")
    add(root, "Entries")
    add(root, "NextMarker", "")
    return FileResponse(200, (("Content-Type", "application/xml"),), document(root))


def close_handles(request: FileRequest) -> FileResponse:
    """Close SMB handles: there are none."""
    _check_exists(request)
    return FileResponse(200, (("x-ms-number-of-handles-closed", "0"), ("x-ms-number-of-handles-failed", "0")))


def _check_exists(request: FileRequest) -> None:
    if not request.path:
        root_entry(request)
        return
    with locked_location(request) as location:
        if location.status is None:
            raise storage_error("ResourceNotFound")


def _entry(request: FileRequest, folder: Folder) -> Entry:
    if not request.path:
        return root_entry(request)
    with open_directory(request.root, request.path[:-1]) as parent:
        return entry_of(request, request.path, folder.stat(), parent)


def _sort_key(item: tuple[str, os.stat_result]) -> str:
    """Return a key that sorts by folded name; names that differ only in case stay distinct."""
    name = item[0]
    return f"{fold(name)}\x00{name}"


def _listed(
    request: FileRequest, folder: Folder, name: str, status: os.stat_result, include: frozenset[str]
) -> Entry:
    path = (*request.path, name)
    if not include - {"permissionkey"}:
        return Entry(path, status, unrecorded(status), "")
    with request.shares.locks.hold(request.key(path)):
        return entry_of(request, path, folder.entry_status(name) or status, folder)


def _add_entry(parent: ET.Element, entry: Entry, include: frozenset[str], *, with_id: bool) -> None:
    item = add(parent, "Directory" if entry.is_directory else "File")
    if with_id:
        add(item, "FileId", str(entry.status.st_ino))
    add_name(item, "Name", entry.path[-1])
    properties = add(item, "Properties")
    if not entry.is_directory:
        add(properties, "Content-Length", str(entry.status.st_size))
    if "timestamps" in include:
        add(properties, "CreationTime", write_file_time(entry.record.created_ns))
        add(properties, "LastAccessTime", write_file_time(entry.status.st_atime_ns))
        add(properties, "LastWriteTime", write_file_time(entry.status.st_mtime_ns))
        add(properties, "ChangeTime", write_file_time(entry.last_modified_ns))
        add(properties, "Last-Modified", write_http_time(entry.last_modified_ns))
    if "etag" in include:
        add(properties, "Etag", entry.etag)
    if "attributes" in include:
        add(item, "Attributes", _attributes(entry))
    if "permissionkey" in include:
        add(item, "PermissionKey", PERMISSION_KEY)


def _attributes(entry: Entry) -> str:
    """Return an entry's attributes; a link is marked, and never followed."""
    return "ReparsePoint" if modes.S_ISLNK(entry.status.st_mode) else entry.record.attributes
