"""Mounts: a symlink at each mount path, pointing to the directory that the volume really is.

A symlink is what a process without rights can make that looks like a mount to the container: paths below
the mount path lead to the share. It is made before the first replica that needs it starts, stays while any
does, and is removed after the last one has stopped. Nothing is ever replaced that is not such a symlink.
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
    """Say that a mount path cannot be made, why, and what to do."""


@dataclass(slots=True)
class Mounts:
    """Keep the symlinks of all replicas. Its methods block (they touch the disk): call them in a thread.

    A symlink is ours if the ledger says that we made it, or if it points into `state`.

    Args:
        state: The runtime's directory; the ledger stands in it.
    """

    state: Path
    _users: dict[Path, set[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def acquire(self, replica: str, container: Container) -> None:
        """Make a container's mounts, and note that the replica uses them.

        Raises:
            MountError: a mount path is not absolute, is taken, or cannot be made.
        """
        with self._lock:
            for source, mount_path in container.mounts:
                path = Path(mount_path)
                self._make(path, source)
                self._users.setdefault(path, set()).add(replica)

    def release(self, replica: str) -> None:
        """Note that a replica is gone, and remove the symlinks that nobody uses any more."""
        with self._lock:
            for path, users in tuple(self._users.items()):
                users.discard(replica)
                if not users:
                    del self._users[path]
                    self._remove(path)

    def sweep(self) -> None:
        """Remove the symlinks that a daemon left which was killed."""
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
            self._make_room(path, source)
        # Noted first: a note without a symlink does no harm, a symlink without a note would stay for ever.
        self._note(self._made() | {path: str(source)})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(source, target_is_directory=True)
        except OSError as error:
            raise MountError(
                f"mount path '{path}' cannot be made on this machine ({error.strerror}): "
                "choose a mountPath that you may write"
            ) from error

    def _make_room(self, path: Path, source: Path) -> None:
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
        self._note(made)

    def _made(self) -> dict[Path, str]:
        if not self._ledger.exists():
            return {}
        return {Path(path): target for path, target in json.loads(self._ledger.read_text("utf-8")).items()}

    def _note(self, made: dict[Path, str]) -> None:
        draft = self._ledger.with_name(f"{self._ledger.name}.new")
        draft.write_text(json.dumps({str(path): target for path, target in made.items()}), "utf-8")
        draft.replace(self._ledger)

    @property
    def _ledger(self) -> Path:
        return self.state / "mounts.json"
