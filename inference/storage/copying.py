"""Copy files of a share to the local disk, or into memory, each read once: written and hashed as it arrives.

A copy on the disk is a folder whose name is a key of its files. It appears when it is whole:

    <folder>/<key>           a complete copy
    <folder>/<key>.partial   one that is being made: complete files, and the beginning of one as NAME.part
    <folder>/<key>.lock      held by a process that makes the copy or reads it

A process that was killed leaves a partial copy; the next one goes on where it stopped. A copy in memory is a
folder of links to files that have no name on a disk, and ends with the process that holds it.

Source: flock(2), memfd_create(2); proc(5), `/proc/pid/fd`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Self

from inference.errors import LoadError
from inference.storage.ranges import BLOCK_BYTES, THREADS, Block, read_in_order, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from inference.storage.manifest import StoredFile
    from inference.storage.ranges import RangeSource

PARTIAL: Final = ".partial"
PART: Final = ".part"
LOCK: Final = ".lock"

WAIT_POLL_S: Final = 0.2
"""How often a process looks whether another one has finished a copy."""


class _Sink:
    """Where the bytes of a file go: they are written, and hashed if there is a digest to compare with."""

    def __init__(self, file: IO[bytes], digest: hashlib._Hash | None) -> None:
        self._file = file
        self._digest = digest

    def write(self, data: bytes) -> None:
        """Append bytes."""
        if self._digest is not None:
            self._digest.update(data)
        self._file.write(data)

    def digest(self) -> str | None:
        """Return the digest of all that was written; None if there is none."""
        return None if self._digest is None else self._digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read.

    Attributes:
        source: What they are read from.
        advance: Called with the number of bytes that were read, or found, since the last call.
        threads: How many blocks are on their way at a time.
        block_bytes: The size of a block.
        sleep: Waits between attempts.
    """

    source: RangeSource
    advance: Callable[[int], object]
    threads: int = THREADS
    block_bytes: int = BLOCK_BYTES
    sleep: Callable[[float], object] = time.sleep


class _ResumedError(Exception):
    """A file whose beginning was found on the disk, and whose digest is wrong."""


def copy_to_disk(files: Sequence[StoredFile], target: Path, reading: Reading) -> None:
    """Make a copy of files, or complete one that was interrupted. The caller holds the copy's lock.

    Args:
        files: The files.
        target: The folder of the complete copy.
        reading: How they are read.

    Raises:
        LoadError: If a file cannot be read, changes meanwhile, or differs from its recorded digest.
        OSError: If the disk is full, or cannot be written.
    """
    partial = target.with_name(target.name + PARTIAL)
    partial.mkdir(parents=True, exist_ok=True)
    try:
        _copy_missing(files, partial, reading)
    except _ResumedError:
        # The beginning was damaged on this disk, and is read again. What is complete stays.
        _copy_missing(files, partial, reading)
    partial.rename(target)


def _copy_missing(files: Sequence[StoredFile], partial: Path, reading: Reading) -> None:
    drafts = [_Draft(file, partial) for file in files]
    for draft in drafts:
        reading.advance(draft.start)
    missing = [draft for draft in drafts if not draft.is_complete]
    blocks = (
        block
        for draft in missing
        for block in split(draft.file.path, draft.start, draft.file.size_bytes, reading.block_bytes)
    )
    arriving = read_in_order(reading.source, blocks, reading.threads, reading.sleep)
    with contextlib.closing(arriving):
        for draft in missing:
            with draft.open() as part:
                sink = _Sink(part, draft.digest())
                digest = _transfer(draft.file, draft.start, arriving, sink, reading)
            draft.finish(digest)


class _Draft:
    """A file of a partial copy."""

    def __init__(self, file: StoredFile, folder: Path) -> None:
        self.file = file
        self._whole = folder / file.name
        self._part = self._whole.with_name(self._whole.name + PART)
        self.is_complete = self._whole.is_file() and self._whole.stat().st_size == file.size_bytes
        left_bytes = self._part.stat().st_size if self._part.is_file() else 0
        self.start = file.size_bytes if self.is_complete else left_bytes * (left_bytes <= file.size_bytes)

    def digest(self) -> hashlib._Hash | None:
        """Return the digest of what is there, to be continued; None if there is nothing to compare with."""
        if self.file.sha256 is None:
            return None
        if not self.start:
            return hashlib.sha256()
        with self._part.open("rb") as part:
            return hashlib.file_digest(part, "sha256")

    def open(self) -> IO[bytes]:
        """Open the part, to append to it."""
        self._part.parent.mkdir(parents=True, exist_ok=True)
        return self._part.open("ab" if self.start else "wb")

    def finish(self, digest: str | None) -> None:
        """Check the digest, and give the file its name."""
        try:
            check_whole(self.file, digest)
        except LoadError:
            self._part.unlink()
            if self.start:
                raise _ResumedError from None
            raise
        os.utime(self._part, ns=(self.file.modified_ns, self.file.modified_ns))
        self._part.rename(self._whole)


class MemoryCopy:
    """A copy of files in memory, in a folder of links. Leaving its `with` block gives the memory back.

    What has mapped a file keeps it. Other processes of this user can read the files as well.

    Attributes:
        folder: The folder with the files.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fjarr-weights-"))
        self._descriptors: list[int] = []

    def __enter__(self) -> Self:
        """Use it in a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the folder, and close the files."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for descriptor in self._descriptors:
            os.close(descriptor)

    def read(self, files: Sequence[StoredFile], reading: Reading) -> None:
        """Read files.

        Raises:
            LoadError: As in `copy_to_disk`.
            OSError: If there is no memory.
        """
        blocks = (
            block for file in files for block in split(file.path, 0, file.size_bytes, reading.block_bytes)
        )
        arriving = read_in_order(reading.source, blocks, reading.threads, reading.sleep)
        with contextlib.closing(arriving):
            for file in files:
                descriptor = os.memfd_create(file.path.name)
                self._descriptors.append(descriptor)
                with os.fdopen(descriptor, "wb", closefd=False) as memory:
                    sink = _Sink(memory, None if file.sha256 is None else hashlib.sha256())
                    digest = _transfer(file, 0, arriving, sink, reading)
                check_whole(file, digest)
                os.utime(descriptor, ns=(file.modified_ns, file.modified_ns))
                link = self.folder / file.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")


def _transfer(
    file: StoredFile, start: int, arriving: Iterator[tuple[Block, bytes]], sink: _Sink, reading: Reading
) -> str | None:
    """Write the blocks of one file as they arrive, and return its digest."""
    done_bytes = start
    while True:
        block, data = next(arriving)
        sink.write(data)
        reading.advance(block.size_bytes)
        done_bytes += block.size_bytes
        if done_bytes >= file.size_bytes:
            return sink.digest()


def check_whole(file: StoredFile, digest: str | None) -> None:
    """Check that what was read is the file that was there at the start.

    Raises:
        LoadError: If the file differs from its recorded digest, or was written to meanwhile.
    """
    if file.sha256 is not None:
        if digest != file.sha256:
            raise LoadError(
                f"{file.path} is damaged on the share: its digest differs from the one that was recorded"
                " when it was pushed (push it again; if it was replaced on purpose, delete"
                " .fjarr-manifest.json beside it)"
            )
        return
    try:
        status = file.path.stat()
    except OSError as error:
        raise LoadError(f"{file.path} cannot be read: {error.strerror or error}") from error
    if (status.st_size, status.st_mtime_ns) != (file.size_bytes, file.modified_ns):
        raise LoadError(f"{file.path} was written to while it was read (start again when it is complete)")


@dataclass(frozen=True, slots=True)
class CopySpace:
    """The space that the folder of the copies has for one of them.

    Attributes:
        copied_bytes: What it has of the copy already, which may be all of it.
        removable_bytes: The other copies, complete or not, that no process uses.
    """

    copied_bytes: int
    removable_bytes: int


class CopyFolder:
    """The folder of the copies on the local disk.

    Args:
        folder: Where they are.
        sleep: Waits for another process.
    """

    def __init__(self, folder: Path, sleep: Callable[[float], object] = time.sleep) -> None:
        self.folder = folder
        self._sleep = sleep

    def measure(self, key: str) -> CopySpace:
        """Return how much of a copy is there, and what could be removed for it."""
        whole = self.folder / key
        copied = used_bytes(whole if whole.is_dir() else self.folder / (key + PARTIAL))
        others = (path for path in self._others(key) if _is_unused(self._lock_of(path)))
        return CopySpace(copied, sum(map(used_bytes, others)))

    def remove_unused(self, key: str, short_bytes: int) -> tuple[str, ...]:
        """Remove other copies that no process uses, the oldest first, until `short_bytes` more are free.

        Returns the names of those that were removed.
        """
        removed = []
        for path in sorted(self._others(key), key=lambda path: path.stat().st_mtime):
            if short_bytes <= 0:
                break
            with contextlib.suppress(BlockingIOError), _lock(self._lock_of(path), fcntl.LOCK_EX):
                short_bytes -= used_bytes(path)
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path.name)
        return tuple(removed)

    def discard(self, key: str) -> None:
        """Remove what an incomplete copy has left."""
        shutil.rmtree(self.folder / (key + PARTIAL), ignore_errors=True)

    @contextlib.contextmanager
    def held(self, key: str, make: Callable[[Path], object]) -> Iterator[Path]:
        """Keep a copy from being removed while the body runs, after making it if there is none.

        Another process that makes the same copy is waited for.

        Args:
            key: The copy.
            make: Makes it in the folder that it gets.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = self.folder / key
        lock = self.folder / (key + LOCK)
        while True:
            if not target.is_dir():
                with self._wait_for(lock, fcntl.LOCK_EX):
                    if not target.is_dir():
                        make(target)
            with self._wait_for(lock, fcntl.LOCK_SH):
                # Between the two locks, a process that needed the space may have removed it.
                if target.is_dir():
                    os.utime(target)
                    yield target
                    return

    def _wait_for(self, lock: Path, kind: int) -> IO[bytes]:
        while True:
            try:
                return _lock(lock, kind)
            except BlockingIOError:
                self._sleep(WAIT_POLL_S)

    def _others(self, key: str) -> list[Path]:
        if not self.folder.is_dir():
            return []
        copies = (path for path in self.folder.iterdir() if path.is_dir())
        return [path for path in copies if path.name.removesuffix(PARTIAL) != key]

    def _lock_of(self, path: Path) -> Path:
        return self.folder / (path.name.removesuffix(PARTIAL) + LOCK)


def used_bytes(folder: Path) -> int:
    """Return the size of all files below a folder; 0 if there is none."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            # Another process renames what it has completed.
            with contextlib.suppress(FileNotFoundError):
                total += (Path(parent) / name).lstat().st_size
    return total


def _lock(path: Path, kind: int) -> IO[bytes]:
    """Take a lock, which ends with the file that is returned, or with the process.

    Raises:
        BlockingIOError: If another process holds it.
    """
    file = path.open("ab")
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BaseException:
        file.close()
        raise
    return file


def _is_unused(path: Path) -> bool:
    try:
        with _lock(path, fcntl.LOCK_EX):
            return True
    except OSError:
        # Another process holds it, or the folder is of another user.
        return False
