"""Operations on directories.

Source: "List Directories and Files", "Create Directory", "Get Directory Properties", "Set Directory
Properties", "Set Directory Metadata", "Delete Directory".
"""

from __future__ import annotations

import stat as modes
from dataclasses import replace
from typing import TYPE_CHECKING
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
    held_place,
    property_headers,
    read_times,
    root_entry,
    store,
)
from localcloud.files.faults import fault, invalid_parameter
from localcloud.files.headers import read_boolean, read_metadata, write_file_time, write_http_time
from localcloud.files.names import fold
from localcloud.files.paging import read_page
from localcloud.files.request import Call, Reply
from localcloud.files.sidecar import unrecorded
from localcloud.files.tree import Folder, open_directory

if TYPE_CHECKING:
    import os

_INCLUDES = frozenset({"timestamps", "etag", "attributes", "permissionkey"})


def create_directory(call: Call) -> Reply:
    """Make a directory in an existing one."""
    check_permission(call)
    metadata = read_metadata(call.request.headers)
    word = attributes(call, "Directory")
    times = read_times(call)
    with held_place(call) as place:
        if place.status is not None:
            raise fault("ResourceAlreadyExists" if place.is_directory else "ResourceTypeMismatch")
        place.parent.make_directory(place.name)
        call.sidecar.remove(call.path)
        with open_directory(call.root, call.path) as made:
            times.write(made.descriptor)
            status = made.stat()
        record = replace(
            unrecorded(status), created_ns=times.created_or(call.now_ns), metadata=metadata, attributes=word,
        )  # fmt: skip
        entry = store(call, entry_of(call, call.path, status, place.parent), record, status)
    return Reply(201, changed_headers(entry))


def directory_properties(call: Call) -> Reply:
    """Tell a directory's properties and metadata."""
    if not call.path:
        return Reply(200, property_headers(root_entry(call)))
    with held_place(call) as place:
        return Reply(200, property_headers(existing(call, place, directory=True)))


def delete_directory(call: Call) -> Reply:
    """Delete an empty directory."""
    if not call.path:
        raise fault("CannotDeleteFileOrDirectory")
    with held_place(call) as place:
        entry = existing(call, place, directory=True)
        if "ReadOnly" in entry.record.attributes.split("|"):
            raise fault("ReadOnlyAttribute")
        place.parent.remove_directory(place.name)
        call.sidecar.remove(call.path)
    return Reply(202)


def set_directory_metadata(call: Call) -> Reply:
    """Replace a directory's metadata."""
    metadata = read_metadata(call.request.headers)
    with call.shares.locks.hold(call.key()), open_directory(call.root, call.path) as folder:
        entry = _entry(call, folder)
        stored = store(call, entry, replace(entry.record, metadata=metadata), folder.stat())
    return Reply(200, changed_headers(stored))


def set_directory_properties(call: Call) -> Reply:
    """Change a directory's attributes and times."""
    check_permission(call)
    times = read_times(call)
    with call.shares.locks.hold(call.key()), open_directory(call.root, call.path) as folder:
        entry = _entry(call, folder)
        word = attributes(call, entry.record.attributes)
        times.write(folder.descriptor)
        record = replace(entry.record, attributes=word, created_ns=times.created_or(entry.record.created_ns))
        stored = store(call, entry, record, folder.stat())
    return Reply(200, changed_headers(stored))


def list_directory(call: Call) -> Reply:
    """List what is in a directory, files and directories together, in the order of their folded names."""
    page = read_page(call)
    include = _read_include(call)
    extended = read_boolean(call.request.headers, "x-ms-file-extended-info")
    call.share_properties()
    with open_directory(call.root, call.path) as folder:
        prefix = fold(page.prefix)
        found = [item for item in folder.entries() if fold(item[0]).startswith(prefix)]
        found.sort(key=_sort_key)
        chosen, next_marker = page.cut(found, key=_sort_key)
        root = ET.Element(
            "EnumerationResults",
            ServiceEndpoint=call.request.endpoint,
            ShareName=call.share,
            DirectoryPath="/".join(call.path),
        )
        page.describe(root)
        if extended or include:
            add(root, "DirectoryId", str(folder.stat().st_ino) if call.path else ROOT_ID)
        entries = add(root, "Entries")
        for name, status in chosen:
            entry = _listed(call, folder, name, status, include)
            _add_entry(entries, entry, include, with_id=extended or bool(include))
    add(root, "NextMarker", next_marker)
    return Reply(200, (("Content-Type", "application/xml"),), document(root))


def list_handles(call: Call) -> Reply:
    """List the open SMB handles of an entry: there is no SMB here, so never any."""
    _check_there(call)
    read_page(call)
    root = ET.Element("EnumerationResults")
    add(root, "Entries")
    add(root, "NextMarker", "")
    return Reply(200, (("Content-Type", "application/xml"),), document(root))


def close_handles(call: Call) -> Reply:
    """Close SMB handles: there are none, so none is closed."""
    _check_there(call)
    return Reply(200, (("x-ms-number-of-handles-closed", "0"), ("x-ms-number-of-handles-failed", "0")))


def _check_there(call: Call) -> None:
    if not call.path:
        root_entry(call)
        return
    with held_place(call) as place:
        if place.status is None:
            raise fault("ResourceNotFound")


def _entry(call: Call, folder: Folder) -> Entry:
    if not call.path:
        return root_entry(call)
    with open_directory(call.root, call.path[:-1]) as parent:
        return entry_of(call, call.path, folder.stat(), parent)


def _read_include(call: Call) -> frozenset[str]:
    words = {word for word in call.request.query.get("include", "").lower().split(",") if word}
    if not words <= _INCLUDES:
        raise invalid_parameter("include", ",".join(sorted(words)), "Unknown option.")
    return frozenset(words)


def _sort_key(item: tuple[str, os.stat_result]) -> str:
    """Order by folded name; two names that a replica made equal but for case stay apart."""
    name = item[0]
    return f"{fold(name)}\x00{name}"


def _listed(call: Call, folder: Folder, name: str, status: os.stat_result, include: frozenset[str]) -> Entry:
    path = (*call.path, name)
    if not include - {"permissionkey"}:
        return Entry(path, status, unrecorded(status), "")
    with call.shares.locks.hold(call.key(path)):
        return entry_of(call, path, folder.look(name) or status, folder)


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
    """Mark a link, which is listed as the small file that it is and never followed."""
    return "ReparsePoint" if modes.S_ISLNK(entry.status.st_mode) else entry.record.attributes
