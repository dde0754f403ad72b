"""Packed releases: the manifest and the small files as one archive, so that few requests upload a release.

A replica unpacks it with `inference/unpack.py`; a copy of that beside the archive starts the release. A tree
without that module, such as one of an earlier version, is uploaded file by file. Nothing here accesses a
share.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from typing import TYPE_CHECKING, Final

from infra.errors import UsageError
from infra.release.manifest import FileEntry, Manifest, Release, render_release, unreadable

if TYPE_CHECKING:
    from pathlib import Path

ARCHIVE: Final = "release.tar.gz"
MANIFEST: Final = "release.json"
STARTER: Final = "inference.py"
STARTER_SOURCE: Final = "inference/unpack.py"
SMALL_BYTES: Final = 1 << 20
"""Files of this size or more are not packed, so that the service can copy them from release to release."""

_LEVEL: Final = 6


def is_packable(manifest: Manifest) -> bool:
    """Return whether a tree can unpack itself, so that it may be uploaded as an archive."""
    return any(entry.path == STARTER_SOURCE for entry in manifest.files)


def is_packed(entry: FileEntry) -> bool:
    """Return whether a file of a packed release is in its archive, and not beside it."""
    return entry.size_bytes < SMALL_BYTES


def pack(release: Release, root: Path) -> bytes:
    """Return the archive of a release. Equal releases have equal archives.

    Args:
        release: The release, whose manifest is the archive's first file.
        root: The folder that the manifest's paths are relative to.

    Raises:
        UsageError: A file was changed since the manifest was made.
    """
    stream = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=_LEVEL, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        _add(archive, MANIFEST, render_release(release).encode())
        for entry in release.manifest.files:
            if is_packed(entry):
                _add(archive, entry.path, read_checked(entry, root))
    return stream.getvalue()


def read_checked(entry: FileEntry, root: Path) -> bytes:
    """Return the content of a file of the tree.

    Raises:
        UsageError: It was changed since the manifest was made.
    """
    try:
        content = (root / entry.path).read_bytes()
    except OSError as error:
        raise UsageError(f"{entry.path} cannot be read: {error.strerror}", hint="deploy again") from error
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise UsageError(f"{entry.path} was changed while it was deployed", hint="deploy again")
    return content


def read_packed_manifest(content: bytes, where: str) -> bytes:
    """Return the manifest's text from an archive. `where` names the archive in errors.

    Raises:
        RemoteError: It is not the archive of a release.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            member = archive.next()
            stream = None if member is None or member.name != MANIFEST else archive.extractfile(member)
            if stream is not None:
                return stream.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise unreadable(where, str(error)) from error
    raise unreadable(where, f"it does not begin with {MANIFEST}")


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, io.BytesIO(content))
