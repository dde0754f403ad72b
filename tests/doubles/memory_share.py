"""A share in memory, to which the pipeline's tests deploy.

It implements `infra.share.protocol.Share`, and can fail at its n-th change, as if the tool were killed or the
network failed.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from infra.share.protocol import Advance, Share, ShareEntry, Upload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


class KilledError(BaseException):
    """Stand for the end of the process."""


class MemoryShare(Share):
    """A share whose files are bytes in a dictionary.

    Attributes:
        files: The content of every file, by path.
        log: Every change, in order, as `verb path`.
        before_change: Called with each change before it is made. If it raises, the change is not made.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.log: list[str] = []
        self.before_change: Callable[[str], None] = lambda _change: None
        self._lock = threading.RLock()
        self._written: dict[str, float] = {}

    def read(self, path: str) -> bytes | None:
        """Return the content of a file, or None if it does not exist."""
        with self._lock:
            return self.files.get(path)

    def read_start(self, path: str, size_bytes: int) -> bytes | None:
        """Return the first bytes of a file, or None if it does not exist."""
        content = self.read(path)
        return None if content is None else content[:size_bytes]

    def read_all(self, paths: Sequence[str]) -> tuple[bytes | None, ...]:
        """Read files, one after the other."""
        return tuple(map(self.read, paths))

    def put(self, path: str, content: bytes) -> None:
        """Write a file."""
        self.write(path, content)

    def write(self, path: str, content: bytes) -> None:
        """Write a file."""
        with self._lock:
            self._change(f"write {path}")
            self.files[path] = content

    def create(self, path: str, content: bytes) -> bool:
        """Create a file. Return False, without a change, if it exists."""
        with self._lock:
            self._change(f"create {path}")
            if path in self.files:
                return False
            self.files[path] = content
            return True

    def entries(self, folder: str) -> tuple[ShareEntry, ...]:
        """List a folder, sorted by name. A folder that does not exist is empty."""
        prefix = f"{folder}/" if folder else ""
        with self._lock:
            found = {
                _entry(path.removeprefix(prefix), len(content), self._written.get(path, 0.0))
                for path, content in self.files.items()
                if path.startswith(prefix)
            }
        return tuple(sorted(found, key=lambda entry: entry.name))

    def upload(self, uploads: Sequence[Upload], advance: Advance) -> int:
        """Store every file, one after the other."""
        for item in uploads:
            with self._lock:
                self._change(f"upload {item.path}")
                self.files[item.path] = _content(item.source)
            advance(item.size_bytes)
        return 0

    def copy(self, pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
        """Copy files, and return the sources that do not exist."""
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
        """Rename a file. Return False if the source is missing, or the target must not be replaced."""
        with self._lock:
            self._change(f"move {target}")
            if source not in self.files or (target in self.files and not replace):
                return False
            self.files[target] = self.files.pop(source)
            return True

    def delete(self, path: str) -> bool:
        """Delete a file. Return False if it did not exist."""
        with self._lock:
            self._change(f"delete {path}")
            return self.files.pop(path, None) is not None

    def delete_tree(self, folder: str) -> None:
        """Delete a folder with everything in it, one file at a time, as the service requires."""
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


def is_killed_at(share: MemoryShare, step: int, command: Callable[[], object]) -> bool:
    """Run a command that ends, as if it were killed, before its change with a number from 0 on.

    Return whether it had as many changes to make.
    """
    changes = iter(range(step))

    def die(_change: str) -> None:
        if next(changes, None) is None:
            raise KilledError

    share.before_change = die
    try:
        command()
    except KilledError:
        return True
    finally:
        share.before_change = lambda _change: None
    return False
