"""Access a file share that is mounted on this machine, with the `rsync` program.

For a share that cannot be reached with a key: a machine in its network mounts it, over NFS or SMB, and the
pipeline writes to the folder.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, Self

from infra.errors import RemoteError, ToolError, UsageError
from infra.process import Command, Runner
from infra.share.protocol import Advance, Share, ShareEntry, Upload
from infra.wording import last_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_UPLOAD_TIMEOUT_S: Final = 6 * 3600.0
_NOT_THERE: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def open_mounted(folder: Path, runner: Runner) -> MountedShare:
    """Return the share that is mounted at a folder.

    Raises:
        UsageError: There is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", hint="mount the share there first, and try again")
    return MountedShare(folder, runner)


class MountedShare(Share):
    """A share that is a folder of this machine. Safe to use from several threads."""

    def __init__(self, folder: Path, runner: Runner) -> None:
        self._folder = folder
        self._runner = runner

    def __enter__(self) -> Self:
        """Use the share in a `with` block, as one that has connections."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close nothing: the share stays mounted."""

    def read(self, path: str) -> bytes | None:
        """Return the content of a file, or None if it does not exist."""
        with self._reporting(f"read {path}"):
            try:
                return (self._folder / path).read_bytes()
            except _NOT_THERE:
                return None

    def read_start(self, path: str, size_bytes: int) -> bytes | None:
        """Return the first bytes of a file that is not empty; None if it does not exist."""
        with self._reporting(f"read {path}"):
            try:
                with (self._folder / path).open("rb") as file:
                    return file.read(size_bytes)
            except _NOT_THERE:
                return None

    def read_all(self, paths: Sequence[str]) -> tuple[bytes | None, ...]:
        """Read files; None for each that does not exist."""
        return tuple(map(self.read, paths))

    def write(self, path: str, content: bytes) -> None:
        """Write a file under a temporary name, and rename it."""
        with self._reporting(f"write {path}"):
            target = self._folder / path
            draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
            _write(draft, content)
            draft.replace(target)

    def put(self, path: str, content: bytes) -> None:
        """Write a file in place."""
        with self._reporting(f"write {path}"):
            _write(self._folder / path, content)

    def create(self, path: str, content: bytes) -> bool:
        """Create a file. Return False, without a change, if it exists."""
        target = self._folder / path
        with self._reporting(f"create {path}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                return False
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            return True

    def entries(self, folder: str) -> tuple[ShareEntry, ...]:
        """List a folder, sorted by name. A folder that does not exist is empty."""
        with self._reporting(f"list {folder or 'the share'}"):
            try:
                found = list(os.scandir(self._folder / folder))
            except _NOT_THERE:
                return ()
            return tuple(sorted(map(_entry, found), key=lambda entry: entry.name))

    def upload(self, uploads: Sequence[Upload], advance: Advance) -> int:
        """Copy files with rsync, one after the other, each resumed where it was interrupted.

        rsync checks the digest of each whole file.
        """
        resumed_bytes = 0
        for item in uploads:
            if isinstance(item.source, bytes):
                self.put(item.path, item.source)
            else:
                resumed_bytes += self._copy_in(item.source, item.path)
            advance(item.size_bytes)
        return resumed_bytes

    def copy(self, pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
        """Copy files, and return the sources that do not exist."""
        return tuple(source for source, target in pairs if not self._copy(source, target))

    def move(self, source: str, target: str, *, replace: bool) -> bool:
        """Rename a file. Return False if the source is missing, or the target must not be replaced."""
        with self._reporting(f"rename {source}"):
            to = self._folder / target
            to.parent.mkdir(parents=True, exist_ok=True)
            if not replace and to.exists():
                return False
            try:
                (self._folder / source).replace(to)
            except FileNotFoundError:
                return False
            return True

    def delete(self, path: str) -> bool:
        """Delete a file. Return False if it did not exist."""
        with self._reporting(f"delete {path}"):
            try:
                (self._folder / path).unlink()
            except _NOT_THERE:
                return False
            return True

    def delete_tree(self, folder: str) -> None:
        """Delete a folder with everything in it, if it exists."""
        with self._reporting(f"delete {folder}"), suppress(FileNotFoundError):
            shutil.rmtree(self._folder / folder)

    def _copy_in(self, source: Path, path: str) -> int:
        """Copy a file of this machine to the share. Return how much of it was there already, in bytes."""
        target = self._folder / path
        with self._reporting(f"upload {path}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            there_bytes = target.stat().st_size if target.is_file() else 0
        # A part that was left behind is compared block by block and kept as far as it is equal.
        flags = ("--inplace", "--no-whole-file", "--chmod=F644", "--ignore-times")
        argv = ("rsync", *flags, "--", str(source.resolve()), str(target))
        done = self._runner.run(Command(argv, timeout_s=_UPLOAD_TIMEOUT_S, install_hint="apt install rsync"))
        if done.exit_code != 0:
            details = last_lines(done.stderr)
            raise ToolError(f"rsync could not copy {source} to {target}", details=details)
        return min(there_bytes, source.stat().st_size)

    def _copy(self, source: str, target: str) -> bool:
        with self._reporting(f"copy {source}"):
            to = self._folder / target
            to.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(self._folder / source, to)
            except _NOT_THERE:
                return False
            return True

    @contextmanager
    def _reporting(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = "check that the share is mounted, and that you may write to it"
            reason = error.strerror or str(error)
            raise RemoteError(f"cannot {what} on the share at {self._folder}: {reason}", hint=hint) from error


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _entry(found: os.DirEntry[str]) -> ShareEntry:
    if found.is_dir():
        return ShareEntry(found.name, is_folder=True)
    status = found.stat()
    return ShareEntry(found.name, is_folder=False, size_bytes=status.st_size, modified_s=status.st_mtime)
