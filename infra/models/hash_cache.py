"""A cache of the digests of large local files, so that a second run need not read gigabytes.

A file counts as unchanged while its size and its modification time are the same. A file that was modified
less than two seconds ago is not cached: it may change again without a change of either.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from infra.document import load_json, write_atomic
from infra.release.manifest import FileEntry, hash_file

if TYPE_CHECKING:
    from pathlib import Path

    from infra.clock import Clock

_SETTLED_NS: Final = 2_000_000_000
_FIELDS: Final = 3
"""Size, modification time, digest."""


class HashCache:
    """The digests of local files, by path, size and modification time.

    Args:
        path: The file of the cache. If it is damaged, the cache starts empty.
        clock: The time, to which modification times are compared.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._known = _load(path)
        self._is_new = False

    def entry(self, local: Path, name: str) -> FileEntry:
        """Return a local file's entry under a name, reading the file only if the cache does not have it."""
        status = local.stat()
        key, stamp = str(local.resolve()), [status.st_size, status.st_mtime_ns]
        known = self._known.get(key)
        if known is not None and known[:2] == stamp:
            return FileEntry(name, status.st_size, str(known[2]))
        entry = hash_file(local, name)
        if self._clock.now().timestamp() * 1e9 - status.st_mtime_ns > _SETTLED_NS:
            self._known[key] = [*stamp, entry.sha256]
            self._is_new = True
        return entry

    def save(self) -> None:
        """Write the cache, if it has changed."""
        if self._is_new:
            write_atomic(self._path, json.dumps(self._known, indent=1) + "\n")
            self._is_new = False


def _load(path: Path) -> dict[str, list[int | str]]:
    try:
        document = load_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(document, dict):
        return {}
    return {
        key: value for key, value in document.items() if isinstance(value, list) and len(value) == _FIELDS
    }
