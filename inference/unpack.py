"""Unpack a release from the share to the local disk.

A release on the share is a folder `releases/<id>/` in one of two forms:

    release.tar.gz    packed: `release.json` first, then the small files; written in one step
    inference.py      packed: a copy of this module, by which a replica starts (see below)
    inference/...     packed: the large files; not packed: all files
    release.json      not packed: the manifest, written last

A packed release takes few requests to upload and to read, and its code runs from the local disk. Replicas
start with `python3 -m inference.start` in the release's folder. There `inference` is the copy of this module,
which unpacks the release beside the temporary files and starts the same command there.

Imports the standard library only, and nothing of the server: the copy stands alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping

ARCHIVE: Final = "release.tar.gz"
MANIFEST: Final = "release.json"
STARTER: Final = "inference.py"
"""The name of this module's copy in a packed release."""

KEPT: Final = 3
"""How many unpacked releases stay on the local disk, the newest ones."""

_BLOCK_BYTES: Final = 1 << 20


class ReleaseError(Exception):
    """A release that is incomplete or damaged on the share."""


def unpack_release(folder: Path, target: Path) -> Path:
    """Copy a release, packed or not, from the share to the local disk, and check every file's digest.

    The files and the manifest appear at `target` in one step. If `target` exists, it was unpacked before and
    is kept.

    Args:
        folder: The release's folder, `<mount>/releases/<id>`.
        target: The folder to create.

    Returns:
        `target`, which is the folder to start `python3 -m inference.start` in.

    Raises:
        ReleaseError: A file is missing, or differs from the manifest.
        OSError: The share cannot be read, or the local disk is full.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=target.parent))
    try:
        _unpack(folder, draft)
        try:
            draft.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process has just unpacked the same release
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def local_folder() -> Path:
    """Return the folder of unpacked releases on the local disk, which only this user can write to.

    Raises:
        ReleaseError: The folder belongs to another user.
    """
    folder = Path(tempfile.gettempdir(), f"fjarr-releases-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ReleaseError(f"{folder} belongs to another user")
    return folder


def remove_old(folder: Path, kept: int = KEPT) -> None:
    """Remove all but the newest unpacked releases, by their ids, which sort by age."""
    releases = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in releases[:-kept]:
        shutil.rmtree(path, ignore_errors=True)


def _unpack(folder: Path, draft: Path) -> None:
    path = folder / ARCHIVE
    if path.exists():
        with tarfile.open(path, "r:gz") as archive:
            manifest = _read_first(archive, path)
            entries = _parse(manifest, path)
            found = _unpack_members(archive, entries, draft, path)
    else:
        manifest = (folder / MANIFEST).read_bytes()
        entries, found = _parse(manifest, folder / MANIFEST), set()
    (draft / MANIFEST).write_bytes(manifest)
    for name in entries.keys() - found:
        with _open(folder / name) as source:
            _write(source, draft / name, entries[name], folder / name)


def _read_first(archive: tarfile.TarFile, path: Path) -> bytes:
    member = archive.next()
    stream = None if member is None or member.name != MANIFEST else archive.extractfile(member)
    if stream is None:
        raise ReleaseError(f"{path} does not begin with {MANIFEST}")
    return stream.read()


def _parse(text: bytes, path: Path) -> dict[str, tuple[int, str]]:
    """Return the size and the digest of every file of a manifest, by the file's path."""
    try:
        files = json.loads(text)["files"]
        entries = {str(item["path"]): (int(item["size"]), str(item["sha256"])) for item in files}
    except (ValueError, KeyError, TypeError) as error:
        raise ReleaseError(f"the manifest in {path} cannot be read: {error!r}") from error
    for name in entries:
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise ReleaseError(f"the manifest in {path} has the path {name!r}, which leads out of the folder")
    return entries


def _unpack_members(
    archive: tarfile.TarFile, entries: Mapping[str, tuple[int, str]], draft: Path, path: Path
) -> set[str]:
    found = set()
    for member in archive:
        if member.name == MANIFEST:
            continue
        stream = archive.extractfile(member) if member.isfile() and member.name in entries else None
        if stream is None:
            raise ReleaseError(f"{path} has {member.name!r}, which the manifest does not list")
        _write(stream, draft / member.name, entries[member.name], path / member.name)
        found.add(member.name)
    return found


def _open(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise ReleaseError(f"{path} is missing") from None


def _write(source: IO[bytes], target: Path, expected: tuple[int, str], path: Path) -> None:
    """Write a file, and compare its size and digest with the manifest's."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size_bytes = hashlib.sha256(), 0
    with target.open("wb") as copy:
        while block := source.read(_BLOCK_BYTES):
            digest.update(block)
            size_bytes += len(block)
            copy.write(block)
    if (size_bytes, digest.hexdigest()) != expected:
        raise ReleaseError(f"{path} differs from the manifest: it was damaged on the share")


def _start_again() -> NoReturn:
    """Unpack the release that this file is part of, and run this process's command again from there."""
    here = Path(__file__).resolve().parent
    try:
        folder = local_folder()
        os.chdir(unpack_release(here, folder / here.name))
        remove_old(folder)
    except (ReleaseError, OSError, tarfile.TarError, EOFError, zlib.error) as error:
        raise SystemExit(f"the release {here.name} cannot be unpacked: {error}") from error
    os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - the same command again


if __name__ == "inference":
    _start_again()
if __name__ == "__main__":
    print(Path.cwd())  # noqa: T201 - for `cd "$(python3 -m inference.unpack)"`
