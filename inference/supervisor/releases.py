"""Releases: the one that the share names, and its copy on the container's own disk.

A share over SMB fails at times and shows files late, so reads are repeated.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
import time
import zlib
from typing import TYPE_CHECKING, Final

from inference.errors import TakeoverError
from inference.unpack import MANIFEST, ReleaseError, local_folder, unpack_release

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

CURRENT: Final = "CURRENT"
FOLDER: Final = "releases"
RELEASE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")

READS: Final = 5
"""How often a release is read before it counts as damaged."""

PAUSE_S: Final = 0.5

SHOWN_CHARACTERS: Final = 60


def read_current(mount: Path) -> str | None:
    """Return the release that the share names, empty if it names none; None if it cannot be read now."""
    try:
        text = (mount / CURRENT).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return "" if mount.is_dir() else None
    except OSError:
        return None
    return text if RELEASE_ID.fullmatch(text) else None


def find_damage(mount: Path) -> tuple[str, bool]:
    """Return why `CURRENT` gives no release, and whether that is because of what it contains."""
    try:
        text = (mount / CURRENT).read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        return f"{CURRENT} on the share cannot be read ({error.strerror or error})", False
    if RELEASE_ID.fullmatch(text):
        return f"{CURRENT} on the share could not be read for a while", False
    return f"{CURRENT} on the share names no release ({text[:SHOWN_CHARACTERS]!r})", True


def fetch_release(mount: Path, release: str, *, pause: Callable[[float], None] = time.sleep) -> Path:
    """Copy a release to this container's disk, and return its folder there. A copy that is there is kept.

    Args:
        mount: The path at which the share is mounted.
        release: The release's id.
        pause: Waits between attempts.

    Raises:
        TakeoverError: If the release is not there, or is damaged.
    """
    source = mount / FOLDER / release
    number = 1
    while True:
        try:
            return unpack_release(source, local_folder() / release)
        except (ReleaseError, OSError, tarfile.TarError, EOFError, zlib.error) as error:
            if number == READS:
                raise TakeoverError(f"it cannot be copied from the share: {error}") from error
        pause(PAUSE_S * number)
        number += 1


def scan_release(folder: Path) -> dict[str, str]:
    """Return the digests of the files that a release has on this container's disk, by their paths."""
    files = ((path, path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return {
        name.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path, name in files
        if name.as_posix() != MANIFEST and "__pycache__" not in name.parts
    }


def remove_others(copies: Path, kept: Collection[Path]) -> None:
    """Remove all copies of releases but some."""
    for path in copies.iterdir():
        if path.name.startswith(".") or path in kept:
            continue
        # Under another name first: what bears a release's name is complete.
        doomed = path.rename(copies / f".{path.name}.removed")
        shutil.rmtree(doomed, ignore_errors=True)
