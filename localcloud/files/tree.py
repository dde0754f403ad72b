"""Access to a share's directory that never leaves it.

A replica writes into the same directory and may create symbolic links there. Every name is opened relative to
an open directory (`openat` and similar) and links are never followed, so no request can reach outside of a
share, even if a directory is replaced by a link meanwhile. Names match regardless of case, an exact match
first.

Of HTTP this module knows only the errors for missing entries and entries of the wrong kind.
"""

from __future__ import annotations

import errno
import os
import stat as modes
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from localcloud.files.errors import storage_error
from localcloud.files.names import fold

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: O_NONBLOCK, which files ignore, prevents a pipe that a replica made from blocking a thread.
_FILE_FLAGS: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_DIRECTORY_MODE: Final = 0o755
_FILE_MODE: Final = 0o644


@dataclass(frozen=True, slots=True)
class Folder:
    """An open directory of a share; its entries are accessed through its descriptor."""

    descriptor: int

    def stat(self) -> os.stat_result:
        """Return the directory's own status."""
        return os.fstat(self.descriptor)

    def entry_status(self, name: str) -> os.stat_result | None:
        """Return the status of the entry with this exact name (of a link itself), or None."""
        try:
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """Return the names of all entries, unordered."""
        return os.listdir(self.descriptor)  # noqa: PTH208 - pathlib cannot read an open directory

    def match(self, name: str) -> tuple[str, os.stat_result | None]:
        """Return a name as it is on the disk and its status; if missing, the given name and None."""
        found = self.entry_status(name)
        if found is not None:
            return name, found
        folded = fold(name)
        for actual in self.names():
            if fold(actual) == folded:
                return actual, self.entry_status(actual)
        return name, None

    def entries(self) -> list[tuple[str, os.stat_result]]:
        """Return every entry with its status, unordered; one that disappears meanwhile is left out."""
        found = ((name, self.entry_status(name)) for name in self.names())
        return [(name, status) for name, status in found if status is not None]

    def open_file(self, name: str, flags: int) -> int:
        """Open a regular file by its exact name; the caller closes the descriptor.

        Raises:
            StorageError: ResourceNotFound, or ResourceTypeMismatch for anything that is not a regular file.
        """
        try:
            descriptor = os.open(name, flags | _FILE_FLAGS, _FILE_MODE, dir_fd=self.descriptor)
        except FileNotFoundError:
            raise storage_error("ResourceNotFound") from None
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:
                raise storage_error("ResourceTypeMismatch") from None
            raise
        if modes.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise storage_error("ResourceTypeMismatch")

    def make_directory(self, name: str) -> None:
        """Make a directory.

        Raises:
            StorageError: ResourceAlreadyExists, if a replica has just created it.
        """
        try:
            os.mkdir(name, _DIRECTORY_MODE, dir_fd=self.descriptor)
        except FileExistsError:
            raise storage_error("ResourceAlreadyExists") from None

    def remove_file(self, name: str) -> None:
        """Remove a file or a link (never what it points to)."""
        os.unlink(name, dir_fd=self.descriptor)

    def remove_directory(self, name: str) -> None:
        """Remove an empty directory.

        Raises:
            StorageError: DirectoryNotEmpty.
        """
        try:
            os.rmdir(name, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                raise storage_error("DirectoryNotEmpty") from None
            raise


@dataclass(frozen=True, slots=True)
class Location:
    """The location of an entry, which may not exist: a name in an open parent directory.

    Attributes:
        parent: The open parent directory.
        name: The name on the disk, or as it was requested if nothing is there.
        status: The status of what is there (of a link itself), or None.
    """

    parent: Folder
    name: str
    status: os.stat_result | None

    @property
    def is_directory(self) -> bool:
        """Whether a directory is there."""
        return self.status is not None and modes.S_ISDIR(self.status.st_mode)

    def open(self) -> int:
        """Open the file or directory for reading; the caller closes the descriptor."""
        if self.is_directory:
            return os.open(self.name, _DIRECTORY_FLAGS, dir_fd=self.parent.descriptor)
        return self.parent.open_file(self.name, os.O_RDONLY)

    @property
    def is_link(self) -> bool:
        """Whether a symbolic link is there."""
        return self.status is not None and modes.S_ISLNK(self.status.st_mode)


@contextmanager
def open_directory(root: Path, names: tuple[str, ...]) -> Iterator[Folder]:
    """Open a directory of a share; a context manager. The empty path is the share's root.

    Raises:
        StorageError: ShareNotFound; ParentNotFound when a name above the last is missing or no directory,
            ResourceNotFound when the last is.
    """
    descriptor = _open_root(root)
    try:
        for depth, name in enumerate(names, start=1):
            inner = _open_child(Folder(descriptor), name, is_last=depth == len(names))
            os.close(descriptor)
            descriptor = inner
        yield Folder(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def open_location(root: Path, names: tuple[str, ...]) -> Iterator[Location]:
    """Open the parent of a path, and find the path's last name in it; a context manager.

    Raises:
        StorageError: ShareNotFound, or ParentNotFound.
        ValueError: the path is empty: the root has no parent.
    """
    if not names:
        raise ValueError("the root of a share has no parent")
    descriptor = _open_root(root)
    try:
        for name in names[:-1]:
            inner = _open_child(Folder(descriptor), name, is_last=False)
            os.close(descriptor)
            descriptor = inner
        parent = Folder(descriptor)
        yield Location(parent, *parent.match(names[-1]))
    finally:
        os.close(descriptor)


def _open_root(root: Path) -> int:
    try:
        return os.open(root, _DIRECTORY_FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        raise storage_error("ShareNotFound") from None


def _open_child(folder: Folder, name: str, *, is_last: bool) -> int:
    actual, status = folder.match(name)
    if status is None:
        raise storage_error("ResourceNotFound" if is_last else "ParentNotFound")
    try:
        return os.open(actual, _DIRECTORY_FLAGS, dir_fd=folder.descriptor)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            raise storage_error("ResourceNotFound" if is_last else "ParentNotFound") from None
        raise
