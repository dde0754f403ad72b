"""Mounts: a symlink at each mount path, pointing to the directory of the volume.

A symlink needs no privileges and looks like a mount to the container. It is made before the first replica
that uses it starts, and removed after the last one has stopped. Nothing but such a symlink is ever replaced.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from localcloud.runtime.spec import Container


class MountError(Exception):
    """A mount path that cannot be made; the message has the reason, and what to do."""


@dataclass(slots=True)
class Mounts:
    """The symlinks of all replicas. The methods block on the disk: call them in a thread.

    A symlink may be replaced or removed if it is in the ledger, or if it points into `state`.

    Args:
        state: The runtime's directory, which also contains the ledger.
    """

    state: Path
    _users: dict[Path, set[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def acquire(self, replica: str, container: Container) -> None:
        """Make a container's mounts, and record that the replica uses them.

        Raises:
            MountError: a mount path is not absolute, is taken, or cannot be made.
        """
        with self._lock:
            for source, mount_path in container.mounts:
                path = Path(mount_path)
                self._make(path, source)
                self._users.setdefault(path, set()).add(replica)

    def release(self, replica: str) -> None:
        """Record that a replica is gone, and remove the symlinks that no replica uses any more."""
        with self._lock:
            for path, users in tuple(self._users.items()):
                users.discard(replica)
                if not users:
                    del self._users[path]
                    self._remove(path)

    def sweep(self) -> None:
        """Remove the symlinks that a killed daemon left behind."""
        with self._lock:
            for path in self._made():
                if path not in self._users:
                    self._remove(path)

    def _make(self, path: Path, source: Path) -> None:
        if not path.is_absolute():
            raise MountError(f"mount path '{path}' is not absolute: give it as an absolute path")
        if not source.is_dir():
            raise MountError(f"the volume behind mount path '{path}' is gone: '{source}' is no directory")
        if path.is_symlink() and path.readlink() == source:
            return
        if path.exists() or path.is_symlink():
            self._remove_unused(path, source)
        # Recorded first: an entry without a symlink is harmless, a symlink without an entry stays for ever.
        self._record(self._made() | {path: str(source)})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(source, target_is_directory=True)
        except OSError as error:
            raise MountError(
                f"mount path '{path}' cannot be made on this machine ({error.strerror}): "
                "choose a mountPath that you may write"
            ) from error

    def _remove_unused(self, path: Path, source: Path) -> None:
        if not path.is_symlink() or not self._is_ours(path):
            raise MountError(f"mount path '{path}' is taken: choose another, or move away what is there")
        if self._users.get(path):
            raise MountError(
                f"mount path '{path}' leads to '{path.readlink()}', which another replica needs, and cannot "
                f"lead to '{source}' too: stop that one's revision first, or choose another mountPath"
            )
        path.unlink()

    def _is_ours(self, path: Path) -> bool:
        target = path.readlink()
        return self._made().get(path) == str(target) or target.is_relative_to(self.state)

    def _remove(self, path: Path) -> None:
        made = self._made()
        if path.is_symlink() and made.get(path) == str(path.readlink()):
            path.unlink()
        made.pop(path, None)
        self._record(made)

    def _made(self) -> dict[Path, str]:
        if not self._ledger.exists():
            return {}
        return {Path(path): target for path, target in json.loads(self._ledger.read_text("utf-8")).items()}

    def _record(self, made: dict[Path, str]) -> None:
        draft = self._ledger.with_name(f"{self._ledger.name}.new")
        draft.write_text(json.dumps({str(path): target for path, target in made.items()}), "utf-8")
        draft.replace(self._ledger)

    @property
    def _ledger(self) -> Path:
        return self.state / "mounts.json"
