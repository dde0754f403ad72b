"""Releases on the share: their layout, and which of them is live.

    CURRENT                        one line: the release that replicas start from
    PROVEN                         one line: the last release that was seen to serve
    releases/<id>/release.tar.gz   the manifest and the small files, written last
    releases/<id>/inference.py     what unpacks it
    releases/<id>/inference/...    the large files
    audit/                         one file for each change

A folder without the archive was never finished. A release of an earlier version, or of a tree that cannot
unpack itself, has all its files below `inference/`, and its manifest, written last, in `release.json`.

`PROVEN` makes it safe to kill a deployment at any point: whatever `CURRENT` contains by then, the release to
roll back to is known. Functions that change the share must be called with the deploy lock held.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.errors import RemoteError
from infra.release.archive import ARCHIVE, MANIFEST, STARTER, read_packed_manifest
from infra.release.known import KnownReleases
from infra.release.manifest import RELEASE_ID, FileEntry, Manifest, Release, parse_release, render_release

if TYPE_CHECKING:
    from collections.abc import Sequence

    from infra.release.plan import Copy
    from infra.share.protocol import Share

CURRENT: Final = "CURRENT"
PROVEN: Final = "PROVEN"
FOLDER: Final = "releases"

TREE: Final = "inference"
"""The folder that a release contains."""

NOTHING_KNOWN: Final = KnownReleases()


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


def read_live(share: Share, known: KnownReleases = NOTHING_KNOWN) -> Live:
    """Read the live release. If its manifest is damaged, `release` is None.

    What this machine knows is not read again: that a release was proven, and a manifest.
    """
    current = _read_id(share, CURRENT)
    try:
        release = None if current is None else read_release(share, current, known)
    except RemoteError:
        release = None  # then nothing is copied from it, and every file is uploaded
    is_proven = current is not None and known.state.proven == current
    return Live(current, current if is_proven else _read_id(share, PROVEN), release)


def read_current(share: Share) -> str | None:
    """Return the id of the live release; None if there is none."""
    return _read_id(share, CURRENT)


def read_release(share: Share, release_id: str, known: KnownReleases = NOTHING_KNOWN) -> Release | None:
    """Read a finished release's manifest, or None if there is no such release.

    Raises:
        RemoteError: It is damaged.
    """
    if (release := known.find(release_id)) is not None:
        return release
    archive, manifest = (f"{folder_of(release_id)}/{name}" for name in (ARCHIVE, MANIFEST))
    content = share.read(archive)
    if content is not None:
        return _parse_archive(content, archive)
    content = share.read(manifest)
    return None if content is None else parse_release(content, manifest)


def read_releases(
    share: Share, release_ids: Sequence[str], known: KnownReleases = NOTHING_KNOWN
) -> tuple[Release | None, ...]:
    """Read several releases' manifests at the same time; None for each that is damaged or unfinished."""
    found = {each: release for each in release_ids if (release := known.find(each)) is not None}
    for name, parse in ((ARCHIVE, _parse_archive), (MANIFEST, parse_release)):
        missing = [each for each in release_ids if each not in found]
        paths = [f"{folder_of(each)}/{name}" for each in missing]
        for each, path, content in zip(missing, paths, share.read_all(paths), strict=True):
            with suppress(RemoteError):
                if content is not None:
                    found[each] = parse(content, path)
    return tuple(found.get(each) for each in release_ids)


def find_fallback(share: Share, live: Live, target: str, known: KnownReleases = NOTHING_KNOWN) -> str | None:
    """Return the release to roll back to when `target` does not come up; None if there is no other."""
    candidates = (each for each in (live.proven, live.current) if each is not None and each != target)
    return next((each for each in candidates if known.find(each) or is_finished(share, each)), None)


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
    for release_id in reversed(list_releases(share)):
        if release_id.endswith(suffix):
            try:
                found = read_release(share, release_id)
            except RemoteError:
                continue  # damaged: not one to start from
            if found is not None and found.manifest.digest == manifest.digest:
                return release_id
    return None


def copy_unchanged(share: Share, copies: tuple[Copy, ...], old_id: str, new_id: str) -> tuple[FileEntry, ...]:
    """Copy files that a new release shares with an old one, on the share.

    Returns the files that could not be copied, since the old release has lost them: they must be uploaded.
    """
    old, new = folder_of(old_id), folder_of(new_id)
    missing = set(share.copy([(f"{old}/{copy.source}", f"{new}/{copy.entry.path}") for copy in copies]))
    return tuple(copy.entry for copy in copies if f"{old}/{copy.source}" in missing)


def finish_release(share: Share, release: Release) -> None:
    """Write a release's manifest, once all its files are there. From now on it can be made live."""
    share.write(f"{folder_of(release.id)}/{MANIFEST}", render_release(release).encode())


def why_none_is_live(share: Share) -> str:
    """Return why there is no live release, as a clause."""
    text = (share.read(CURRENT) or b"").decode(errors="replace").strip()
    if not text:
        return "nothing is deployed on this stage"
    return f"{CURRENT} on the share names no release: {text[:60]!r}"


def list_releases(share: Share) -> tuple[str, ...]:
    """Return the ids of the releases on the share, finished or not, oldest first."""
    entries = share.entries(FOLDER)
    return tuple(sorted(entry.name for entry in entries if entry.is_folder and RELEASE_ID.match(entry.name)))


def is_finished(share: Share, release_id: str) -> bool:
    """Return whether a release is complete, so that it can be made live."""
    return any(entry.name in {ARCHIVE, MANIFEST} for entry in share.entries(folder_of(release_id)))


def is_startable(share: Share, release_id: str) -> bool:
    """Return whether a replica can start a release: it is finished, and nobody has removed what starts it."""
    names = {entry.name for entry in share.entries(folder_of(release_id))}
    return {ARCHIVE, STARTER} <= names or {MANIFEST, TREE} <= names


def _parse_archive(content: bytes, where: str) -> Release:
    return parse_release(read_packed_manifest(content, where), where)


def _read_id(share: Share, path: str) -> str | None:
    text = (share.read(path) or b"").decode(errors="replace").strip()
    return text if RELEASE_ID.match(text) else None


def _write_id(share: Share, path: str, release_id: str | None) -> None:
    if release_id is None:
        share.delete(path)
    else:
        # A replica must never see a part of CURRENT; PROVEN is read by the pipeline only, under the lock.
        write = share.write if path == CURRENT else share.put
        write(path, f"{release_id}\n".encode())
