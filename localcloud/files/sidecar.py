"""Properties of files and directories that the file system cannot store, kept beside the share.

The file system is authoritative for size and modification time. Content type, Content-MD5, metadata,
attributes and leases are in one small JSON file for each entry. These files are in a tree of folders named by
a digest of each folded name, so that a name of any length fits, and a directory moves with one rename.
A record is valid only while the file's inode, size and modification time are unchanged. After a change by a
replica only the lease is kept, and only while the inode is the same.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat as modes
import threading
import zlib
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from localcloud.files.leases import Lease
from localcloud.files.names import fold_path

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

_RECORD: Final = "properties.json"
_STRIPES: Final = 64


@dataclass(frozen=True, slots=True)
class Content:
    """The content headers of a file; None means not set. `md5` is base64."""

    type: str | None = None
    encoding: str | None = None
    language: str | None = None
    cache_control: str | None = None
    disposition: str | None = None
    md5: str | None = None


@dataclass(frozen=True, slots=True)
class Copy:
    """The last copy onto a file: its id, source URL, bytes, and when it ended (RFC 1123)."""

    id: str
    source: str
    size_bytes: int
    completed: str


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The attributes of a file that show whether a record still belongs to it."""

    inode: int
    size_bytes: int
    written_ns: int


@dataclass(frozen=True, slots=True)
class Record:
    """The properties of one entry; times are nanoseconds since the epoch, `revision` counts the changes."""

    created_ns: int
    changed_ns: int
    attributes: str
    fingerprint: Fingerprint
    revision: int = 0
    content: Content = field(default_factory=Content)
    metadata: tuple[tuple[str, str], ...] = ()
    lease: Lease | None = None
    copy: Copy | None = None


def fingerprint(status: os.stat_result) -> Fingerprint:
    """Return the fingerprint of an entry; of a directory only the inode is used."""
    if modes.S_ISDIR(status.st_mode):
        return Fingerprint(status.st_ino, 0, 0)
    return Fingerprint(status.st_ino, status.st_size, status.st_mtime_ns)


def unrecorded(status: os.stat_result) -> Record:
    """Return the properties of an entry that was not created through the service."""
    attributes = "Directory" if modes.S_ISDIR(status.st_mode) else "Archive"
    return Record(
        created_ns=min(status.st_mtime_ns, status.st_ctime_ns),
        changed_ns=status.st_mtime_ns,
        attributes=attributes,
        fingerprint=fingerprint(status),
    )


def etag(record: Record, status: os.stat_result) -> str:
    """Return the entry's ETag, with its quotes; every change by the service or a replica changes it."""
    now = fingerprint(status)
    text = f"{now.inode}/{now.size_bytes}/{now.written_ns}/{record.revision}/{record.changed_ns}"
    return f'"0x{hashlib.blake2b(text.encode(), digest_size=8).hexdigest().upper()}"'


class Sidecar:
    """The records of one share, in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, path: tuple[str, ...], status: os.stat_result) -> Record:
        """Return the record of an entry with this status, without properties that are no longer valid."""
        found = self._load(path)
        if found is None:
            return unrecorded(status)
        now = fingerprint(status)
        if found.fingerprint == now:
            return found
        fresh = replace(unrecorded(status), revision=found.revision)
        return replace(fresh, lease=found.lease) if found.fingerprint.inode == now.inode else fresh

    def write(self, path: tuple[str, ...], record: Record, status: os.stat_result, now_ns: int) -> Record:
        """Store a record for an entry with this status; return it with its new revision and time."""
        stored = replace(
            record, revision=record.revision + 1, changed_ns=now_ns, fingerprint=fingerprint(status)
        )
        folder = self._folder(path)
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f".{threading.get_ident()}"
        fresh.write_text(json.dumps({"path": "/".join(path), **asdict(stored)}), encoding="utf-8")
        fresh.replace(folder / _RECORD)
        return stored

    def remove(self, path: tuple[str, ...]) -> None:
        """Remove the records of an entry and of everything below it."""
        shutil.rmtree(self._folder(path), ignore_errors=True)

    def move(self, source: tuple[str, ...], target: tuple[str, ...]) -> None:
        """Move the records of an entry, and of everything below it, to another path."""
        before, after = self._folder(source), self._folder(target)
        if before == after:
            return
        shutil.rmtree(after, ignore_errors=True)
        if before.is_dir():
            after.parent.mkdir(parents=True, exist_ok=True)
            before.replace(after)

    def _folder(self, path: tuple[str, ...]) -> Path:
        digests = (
            hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
            for name in fold_path(path)
        )
        return self._directory.joinpath(*digests)

    def _load(self, path: tuple[str, ...]) -> Record | None:
        try:
            text = (self._folder(path) / _RECORD).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        return _from_json(json.loads(text))


class Locks:
    """Striped locks for the entries of all shares, acquired in a fixed order to avoid deadlocks."""

    def __init__(self) -> None:
        self._stripes = tuple(threading.RLock() for _ in range(_STRIPES))

    @contextmanager
    def hold(self, *keys: tuple[str, ...]) -> Iterator[None]:
        """Hold the locks of these keys; a context manager."""
        numbers = {
            zlib.crc32("/".join(fold_path(key)).encode("utf-8", "surrogatepass")) % _STRIPES for key in keys
        }
        yield from self._hold(sorted(numbers))

    @contextmanager
    def hold_all(self) -> Iterator[None]:
        """Hold all locks, for moving a directory; a context manager."""
        yield from self._hold(range(_STRIPES))

    def _hold(self, numbers: list[int] | range) -> Iterator[None]:
        with ExitStack() as held:
            for number in numbers:
                held.enter_context(self._stripes[number])
            yield


def _from_json(found: dict[str, Any]) -> Record:
    return Record(
        created_ns=found["created_ns"],
        changed_ns=found["changed_ns"],
        attributes=found["attributes"],
        fingerprint=Fingerprint(**found["fingerprint"]),
        revision=found["revision"],
        content=Content(**found["content"]),
        metadata=tuple((name, value) for name, value in found["metadata"]),
        lease=None if found["lease"] is None else Lease(**found["lease"]),
        copy=None if found["copy"] is None else Copy(**found["copy"]),
    )
