"""Store a new release on the share: packed in few requests, or file by file.

Must be called with the deploy lock held. The last step of each form makes the release finished.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.errors import RemoteError
from infra.release.archive import ARCHIVE, STARTER, STARTER_SOURCE, is_packable, is_packed, pack
from infra.release.releases import copy_unchanged, finish_release, folder_of
from infra.share.protocol import RANGE_BYTES, Upload
from infra.wording import count, readable_size

if TYPE_CHECKING:
    from pathlib import Path

    from infra.console import Console
    from infra.release.lock import HeldLock
    from infra.release.manifest import FileEntry, Release
    from infra.release.plan import Copy, Plan
    from infra.share.protocol import Share


@dataclass(frozen=True, slots=True)
class Draft:
    """A release that is not on the share yet, and its plan relative to the release `base`."""

    release: Release
    base: str | None
    plan: Plan


@dataclass(frozen=True, slots=True)
class StoredRelease:
    """A release on the share.

    Attributes:
        release: Its id.
        uploaded_files: How many of its files were new or changed.
        uploaded_bytes: How much was uploaded for it.
    """

    release: str
    uploaded_files: int = 0
    uploaded_bytes: int = 0


def store(share: Share, console: Console, held: HeldLock, root: Path, draft: Draft) -> StoredRelease:
    """Upload what a release needs, and finish it.

    Raises:
        UsageError: A file was changed meanwhile.
        RemoteError: The share cannot be reached, or rejects a request.
    """
    if is_packable(draft.release.manifest):
        return _store_packed(share, console, held, root, draft)
    plan = draft.plan
    entries = _upload_files(share, console, root, draft, plan.uploads, plan.copies)
    held.renew()
    finish_release(share, draft.release)
    return StoredRelease(draft.release.id, len(entries), sum(entry.size_bytes for entry in entries))


def _store_packed(share: Share, console: Console, held: HeldLock, root: Path, draft: Draft) -> StoredRelease:
    """Copy or upload the large files and the starter, then upload the archive of the rest in one step."""
    release, plan = draft.release, draft.plan
    archive = pack(release, root)
    folder = folder_of(release.id)
    large = _upload_files(
        share,
        console,
        root,
        draft,
        tuple(entry for entry in plan.uploads if not is_packed(entry)),
        tuple(copy for copy in plan.copies if not is_packed(copy.entry)),
    )
    held.renew()
    share.upload([Upload(f"{folder}/{STARTER}", root / STARTER_SOURCE)], lambda _size: None)
    path = f"{folder}/{ARCHIVE}"
    if len(archive) <= RANGE_BYTES:
        with console.step(f"upload {_describe(release)} as {readable_size(len(archive))}"):
            share.put(path, archive)
    else:
        draft_path = f"{folder}/.{ARCHIVE}.tmp"
        with console.progress(f"upload {_describe(release)}", len(archive)) as advance:
            share.upload([Upload(draft_path, archive)], advance)
        if not share.move(draft_path, path, replace=True):
            raise RemoteError(f"{draft_path} disappeared from the share", hint="deploy again")
    sizes = (len(archive), *(entry.size_bytes for entry in large))
    return StoredRelease(release.id, len(plan.uploads), sum(sizes))


def _upload_files(  # noqa: PLR0913, PLR0917  # what to upload, from where to where, and how to show it
    share: Share,
    console: Console,
    root: Path,
    draft: Draft,
    entries: tuple[FileEntry, ...],
    copies: tuple[Copy, ...],
) -> tuple[FileEntry, ...]:
    """Copy files on the share, and upload others. Return what was uploaded."""
    if draft.base is not None and copies:
        entries += copy_unchanged(share, copies, draft.base, draft.release.id)
    folder = folder_of(draft.release.id)
    uploads = [Upload(f"{folder}/{entry.path}", root / entry.path) for entry in entries]
    if uploads:
        total_bytes = sum(entry.size_bytes for entry in entries)
        with console.progress(f"upload {count(len(uploads), 'file')}", total_bytes) as advance:
            share.upload(uploads, advance)
    return entries


def _describe(release: Release) -> str:
    packed = sum(1 for entry in release.manifest.files if is_packed(entry))
    return f"{count(packed, 'file')}, packed"
