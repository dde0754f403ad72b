"""Releases on the share: their layout, and which of them is live.

    CURRENT                      one line: the release that replicas start from
    PROVEN                       one line: the last release that was seen to serve
    releases/<id>/inference/...  immutable once its manifest is written
    releases/<id>/release.json   the manifest, written last: a folder without one was never finished

`PROVEN` makes it safe to kill a deployment at any point: whatever `CURRENT` contains by then, the release to
roll back to is known. Functions that change the share must be called with the deploy lock held.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.errors import RemoteError
from infra.release.manifest import RELEASE_ID, FileEntry, Manifest, Release, parse_release, render_release

if TYPE_CHECKING:
    from infra.release.plan import Plan
    from infra.share.protocol import Share

CURRENT: Final = "CURRENT"
PROVEN: Final = "PROVEN"
FOLDER: Final = "releases"
KEPT: Final = 10
"""How many finished releases stay on the share, the live one among them."""

_MANIFEST: Final = "release.json"
_DRAFT: Final = re.compile(r"^\..+\.tmp$|^\.lock\.broken-")


@dataclass(frozen=True, slots=True)
class Live:
    """The live release of a share. An id is None if its file is missing, empty or invalid.

    Attributes:
        current: The release that a new replica starts from.
        proven: The last release that was seen to serve.
        release: The release of `current` with its manifest, if it can be read.
    """

    current: str | None
    proven: str | None
    release: Release | None

    @property
    def is_proven(self) -> bool:
        """Return whether the live release was also seen to serve, so that no deployment was interrupted."""
        return self.current is not None and self.current == self.proven

    @property
    def manifest(self) -> Manifest | None:
        """Return the files of the live release, if they are known."""
        return self.release.manifest if self.release is not None else None

    def is_same(self, manifest: Manifest) -> bool:
        """Return whether the live release has exactly these files."""
        return self.manifest is not None and self.manifest.digest == manifest.digest


def read_live(share: Share) -> Live:
    """Read the live release. If its manifest is damaged, `release` is None."""
    current = _read_id(share, CURRENT)
    try:
        release = None if current is None else read_release(share, current)
    except RemoteError:
        release = None  # then nothing is copied from it, and every file is uploaded
    return Live(current, _read_id(share, PROVEN), release)


def read_release(share: Share, release_id: str) -> Release | None:
    """Read a finished release's manifest, or None if there is no such release.

    Raises:
        RemoteError: It is damaged.
    """
    path = f"{folder_of(release_id)}/{_MANIFEST}"
    content = share.read(path)
    return None if content is None else parse_release(content, path)


def find_fallback(share: Share, live: Live, target: str) -> str | None:
    """Return the release to roll back to when `target` does not come up; None if there is no other."""
    candidates = (each for each in (live.proven, live.current) if each not in (None, target))
    return next((each for each in candidates if each is not None and _is_finished(share, each)), None)


def folder_of(release_id: str) -> str:
    """Return a release's folder on the share."""
    return f"{FOLDER}/{release_id}"


def set_current(share: Share, release_id: str | None) -> None:
    """Make a release the live one, in one write. With None, no release is live."""
    _write_id(share, CURRENT, release_id)


def set_proven(share: Share, release_id: str) -> None:
    """Record that a release was seen to serve."""
    _write_id(share, PROVEN, release_id)


def find_finished(share: Share, manifest: Manifest) -> str | None:
    """Return the newest finished release on the share with exactly these files, or None."""
    suffix = f"-{manifest.digest[:8]}"
    for release_id in reversed(_release_folders(share)):
        if release_id.endswith(suffix):
            try:
                found = read_release(share, release_id)
            except RemoteError:
                continue  # damaged: not one to start from
            if found is not None and found.manifest.digest == manifest.digest:
                return release_id
    return None


def copy_unchanged(share: Share, plan: Plan, old_id: str, new_id: str) -> tuple[FileEntry, ...]:
    """Copy the files that a new release shares with an old one, on the share.

    Returns the files that could not be copied, since the old release has lost them: they must be uploaded.
    """
    old, new = folder_of(old_id), folder_of(new_id)
    pairs = [(f"{old}/{copy.source}", f"{new}/{copy.entry.path}") for copy in plan.copies]
    missing = set(share.copy(pairs))
    return tuple(copy.entry for copy in plan.copies if f"{old}/{copy.source}" in missing)


def finish_release(share: Share, release: Release) -> None:
    """Write a release's manifest, once all its files are there. From now on it can be made live."""
    share.write(f"{folder_of(release.id)}/{_MANIFEST}", render_release(release).encode())


def remove_unfinished(share: Share) -> tuple[str, ...]:
    """Remove the files that a killed deployment left, and return the unfinished releases among them."""
    for entry in share.entries(""):
        if not entry.is_folder and _DRAFT.match(entry.name):
            share.delete(entry.name)
    unfinished = tuple(each for each in _release_folders(share) if not _is_finished(share, each))
    for release_id in unfinished:
        share.delete_tree(folder_of(release_id))
    return unfinished


def prune(share: Share, live: Live) -> tuple[str, ...]:
    """Remove the oldest finished releases, except the newest `KEPT`, the live and the proven one."""
    finished = [each for each in _release_folders(share) if _is_finished(share, each)]
    surplus = tuple(each for each in finished[:-KEPT] if each not in (live.current, live.proven))
    for release_id in surplus:
        # The manifest goes first: if this is interrupted, the next deployment removes an unfinished release.
        share.delete(f"{folder_of(release_id)}/{_MANIFEST}")
        share.delete_tree(folder_of(release_id))
    return surplus


def _read_id(share: Share, path: str) -> str | None:
    text = (share.read(path) or b"").decode(errors="replace").strip()
    return text if RELEASE_ID.match(text) else None


def _write_id(share: Share, path: str, release_id: str | None) -> None:
    if release_id is None:
        share.delete(path)
    else:
        share.write(path, f"{release_id}\n".encode())


def _release_folders(share: Share) -> list[str]:
    """Return the releases' ids, oldest first. Folders with other names are not releases."""
    entries = share.entries(FOLDER)
    return sorted(entry.name for entry in entries if entry.is_folder and RELEASE_ID.match(entry.name))


def _is_finished(share: Share, release_id: str) -> bool:
    return any(entry.name == _MANIFEST for entry in share.entries(folder_of(release_id)))
