"""Archives of installed packages on the share, so that a start needs no package index.

    packages/<digest of the lock>/<environment>-<digest of the archive>.tar.gz

An archive is written under a temporary name and renamed, so that whoever finds it finds all of it, and its
name has its digest, so that a damaged one is recognised while it is unpacked. Equal folders have equal
archives: replicas that write one at the same time do not disturb each other. Imports the standard library
only.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import tarfile
import time
import uuid
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Final, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER: Final = "packages"
"""The folder of archives on the share."""

LEVEL: Final = 0
"""gzip's level: nothing is compressed, because decompression takes a start more time than the share saves.
Measured with benchmarks/packages.py; see docs/explanation/speed.md."""

STALE_S: Final = 6 * 3600.0
"""A draft of this age was left by a replica that was ended."""

_BLOCK_BYTES: Final = 1 << 20
_EXECUTABLE: Final = 0o100


class DamagedArchiveError(Exception):
    """An archive whose content is not what its name says."""


@dataclass(frozen=True, slots=True)
class ArchiveStore:
    """The archives of one lock's packages.

    Attributes:
        folder: Their folder on the share.
        environment: What tells apart the archives of one lock: see `inference.packages.provision`.
    """

    folder: Path
    environment: str

    def find(self) -> Path | None:
        """Return the archive for this environment; None if there is none.

        Raises:
            OSError: If the share cannot be read.
        """
        pattern = re.compile(re.escape(self.environment) + r"-[0-9a-f]{64}\.tar\.gz")
        try:
            paths = sorted(self.folder.iterdir())
        except FileNotFoundError:
            return None
        return next((path for path in paths if pattern.fullmatch(path.name)), None)

    def save(self, packages: Path) -> Path:
        """Write the archive of a folder, unless another replica has done so, and return its path.

        Raises:
            OSError: If the share cannot be written.
        """
        if (found := self.find()) is not None:
            return found
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_stale()
        draft = self.folder / f".{self.environment}.{uuid.uuid4().hex}.tmp"
        try:
            with draft.open("wb") as stream:
                writer = HashingWriter(stream)
                pack(packages, writer)
            target = self.folder / f"{self.environment}-{writer.digest.hexdigest()}.tar.gz"
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
        return target

    def _remove_stale(self) -> None:
        until_s = time.time() - STALE_S
        for path in self.folder.glob(".*.tmp"):
            try:
                if path.stat().st_mtime < until_s:
                    path.unlink(missing_ok=True)
            except FileNotFoundError:
                continue  # its replica has renamed it meanwhile


class Readable(Protocol):
    """A stream to read from."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes; none at the end."""


class Writable(Protocol):
    """A stream to write to."""

    def write(self, data: bytes, /) -> int:
        """Write bytes."""

    def flush(self) -> object:
        """Pass on what was written."""


class HashingWriter:
    """A stream that passes what is written to it on, and computes its SHA-256."""

    def __init__(self, stream: Writable) -> None:
        self.digest = hashlib.sha256()
        self._stream = stream

    def write(self, data: bytes, /) -> int:
        """Write bytes."""
        self.digest.update(data)
        return self._stream.write(data)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()


class HashingReader:
    """A stream that reads from another one, and computes the SHA-256 of what was read."""

    def __init__(self, stream: Readable) -> None:
        self.digest = hashlib.sha256()
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        """Read bytes."""
        data = self._stream.read(size)
        self.digest.update(data)
        return data


def pack(folder: Path, stream: Writable, level: int = LEVEL) -> None:
    """Write a folder's files to a stream as a compressed archive; equal folders give equal bytes."""
    with (
        gzip.GzipFile(filename="", fileobj=stream, mode="wb", compresslevel=level, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in _files(folder):
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            status = path.stat()
            member.size = status.st_size
            member.mode = 0o755 if status.st_mode & _EXECUTABLE else 0o644
            with path.open("rb") as content:
                archive.addfile(member, content)


def unpack_archive(path: Path, target: Path) -> None:
    """Unpack an archive of the share into an empty folder.

    Raises:
        DamagedArchiveError: If its content is not what its name says.
        OSError: If the share cannot be read, or the disk is full.
    """
    with path.open("rb") as stream:
        reader = HashingReader(stream)
        try:
            unpack(reader, target)
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, ValueError) as error:
            raise DamagedArchiveError(f"{path.name}: {error}") from error
        while reader.read(_BLOCK_BYTES):
            pass  # an archive may have padding after its last member
    if not path.name.endswith(f"-{reader.digest.hexdigest()}.tar.gz"):
        raise DamagedArchiveError(f"{path.name} has another digest")


def unpack(stream: Readable, target: Path) -> None:
    """Unpack what `pack` has written into a folder.

    Not with `extractall`, which takes longer for thousands of small files: it sets the owner, the mode and
    the time of each.

    Raises:
        ValueError: If a member is no file, or its path leads out of the folder.
    """
    made: set[str] = set()
    source = cast("IO[bytes]", stream)  # of which tarfile uses `read` alone
    with tarfile.open(fileobj=source, mode="r|gz", bufsize=_BLOCK_BYTES) as archive:
        for member in archive:
            parts = PurePosixPath(member.name)
            content = archive.extractfile(member) if member.isreg() else None
            if content is None or parts.is_absolute() or ".." in parts.parts:
                raise ValueError(f"it has {member.name!r}, which is no file inside it")
            parent = os.path.join(target, parts.parent)  # noqa: PTH118 - much faster, for each of the files
            if parent not in made:
                os.makedirs(parent, exist_ok=True)  # noqa: PTH103 - as above
                made.add(parent)
            path = os.path.join(parent, parts.name)  # noqa: PTH118 - as above
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, member.mode & 0o777)
            with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 - as above
                while block := content.read(_BLOCK_BYTES):
                    file.write(block)


def _files(folder: Path) -> Iterator[Path]:
    """Return the files below a folder in a fixed order."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        yield from (folder / root / name for name in sorted(names))
