"""Keep a share in memory: what the pipeline's tests deploy to.

It keeps the promises of `infra.share.protocol.Share`, and can be told to fail at its n-th change, as a tool
that is killed or a network that breaks in the middle would.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from infra.share.protocol import Advance, Share, ShareEntry, Upload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


class MemoryShare(Share):
    """Hold files as bytes in a dictionary.

    Attributes:
        files: The content of every file, by path.
        log: Every change, in order, as `verb path`.
        before_change: Called with each change before it happens; what it raises is raised in place of the
        change.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.log: list[str] = []
        self.before_change: Callable[[str], None] = lambda _change: None
        self._lock = threading.RLock()
        self._written: dict[str, float] = {}

    def read(self, path: str) -> bytes | None:
        """Return a file's content, or None if it is not there."""
        with self._lock:
            return self.files.get(path)

    def write(self, path: str, content: bytes) -> None:
        """Put a file there."""
        with self._lock:
            self._change(f"write {path}")
            self.files[path] = content

    def create(self, path: str, content: bytes) -> bool:
        """Put a file there unless one is there already."""
        with self._lock:
            self._change(f"create {path}")
            if path in self.files:
                return False
            self.files[path] = content
            return True

    def entries(self, folder: str) -> tuple[ShareEntry, ...]:
        """List a folder by name; one that is not there is empty."""
        prefix = f"{folder}/" if folder else ""
        with self._lock:
            found = {
                _entry(path.removeprefix(prefix), len(content), self._written.get(path, 0.0))
                for path, content in self.files.items()
                if path.startswith(prefix)
            }
        return tuple(sorted(found, key=lambda entry: entry.name))

    def upload(self, uploads: Sequence[Upload], advance: Advance) -> None:
        """Store every file, one after the other."""
        for item in uploads:
            with self._lock:
                self._change(f"upload {item.path}")
                self.files[item.path] = _content(item.source)
            advance(item.size_bytes)

    def copy(self, pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
        """Copy files, and return the sources that are not there."""
        missing = []
        for source, target in pairs:
            with self._lock:
                self._change(f"copy {target}")
                if source in self.files:
                    self.files[target] = self.files[source]
                else:
                    missing.append(source)
        return tuple(missing)

    def move(self, source: str, target: str, *, replace: bool) -> bool:
        """Rename a file. False if there is no source, or a target that must not be replaced."""
        with self._lock:
            self._change(f"move {target}")
            if source not in self.files or (target in self.files and not replace):
                return False
            self.files[target] = self.files.pop(source)
            return True

    def delete(self, path: str) -> bool:
        """Delete a file. False if it was not there."""
        with self._lock:
            self._change(f"delete {path}")
            return self.files.pop(path, None) is not None

    def delete_tree(self, folder: str) -> None:
        """Delete a folder with all that is in it, a file at a time, as the service has it."""
        for path in sorted(self.files):
            if path.startswith(f"{folder}/"):
                self.delete(path)

    def _change(self, change: str) -> None:
        self.before_change(change)
        self.log.append(change)
        self._written[change.partition(" ")[2]] = float(len(self.log))


def _entry(rest: str, size_bytes: int, modified_s: float) -> ShareEntry:
    name, slash, _ = rest.partition("/")
    if slash:
        return ShareEntry(name, is_folder=True)
    return ShareEntry(name, is_folder=False, size_bytes=size_bytes, modified_s=modified_s)


def _content(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()
