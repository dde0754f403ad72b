"""Upload a folder of weights to the share: only missing files, and never a partial one.

A manifest beside the weights on the share lists what was uploaded. Files are uploaded under temporary names
and renamed once all are there, the configuration last, since a server finds the weights by it. An upload that
was interrupted goes on where it stopped; what earlier ones left for other content is removed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from infra.errors import RemoteError, UsageError
from infra.release.manifest import FileEntry, Manifest, hash_bytes, parse_manifest, render_manifest
from infra.share.protocol import Advance, Share, Upload

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from infra.models.hash_cache import HashCache
    from infra.models.weights import WeightFolder

MANIFEST: Final = ".fjarr-manifest.json"
DRAFT_SUFFIX: Final = ".uploading"
"""The suffix of a file that is being uploaded. Servers ignore such files."""

PREVIOUS_SUFFIX: Final = ".previous"
"""The suffix of what interrupted pushes of earlier versions left of a file that they replaced."""


@dataclass(frozen=True, slots=True)
class UploadSet:
    """The files that a folder on the share should have.

    Attributes:
        target: The folder on the share.
        sources: The content of each file, by its name.
        manifest: The files' names, sizes and digests.
        stamps: The size and the modification time of each local file, from just before it was hashed.
    """

    target: str
    sources: Mapping[str, Path | bytes]
    manifest: Manifest
    stamps: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def check_unchanged(self) -> None:
        """Check that the local files are still those that were hashed.

        Raises:
            UsageError: Some were changed meanwhile.
        """
        changed = [name for name, stamp in self.stamps.items() if stamp != _stamp(self.sources[name])]
        if changed:
            what = f"{', '.join(sorted(changed))} changed while the weights for {self.target} were uploaded"
            raise UsageError(what, hint="push again when nothing writes to them any more")


@dataclass(frozen=True, slots=True)
class UploadPlan:
    """The files of an upload set to upload, and the files on the share to remove.

    Attributes:
        upload_set: The upload set.
        uploads: The files to upload.
        removed: The files of an earlier version to remove.
        leftovers: What interrupted uploads left for content that is not uploaded any more.
    """

    upload_set: UploadSet
    uploads: tuple[FileEntry, ...]
    removed: tuple[str, ...]
    leftovers: tuple[str, ...] = ()

    @property
    def has_changes(self) -> bool:
        """Return whether the folder on the share differs from the upload set."""
        return bool(self.uploads or self.removed or self.leftovers)

    @property
    def upload_bytes(self) -> int:
        """Return the size of the files to upload."""
        return sum(entry.size_bytes for entry in self.uploads)


def load_upload_set(
    target: str, weights: WeightFolder, hashes: HashCache, replaced: Mapping[str, bytes] | None = None
) -> UploadSet:
    """Return the upload set of a local folder of weights. `replaced` has files with other content."""
    sources: dict[str, Path | bytes] = {path.name: path for path in weights.files}
    sources.update(replaced or {})
    stamps = {name: _stamp(source) for name, source in sources.items() if not isinstance(source, bytes)}
    entries = (
        hash_bytes(source, name) if isinstance(source, bytes) else hashes.entry(source, name)
        for name, source in sources.items()
    )
    return UploadSet(target, sources, Manifest(tuple(sorted(entries))), stamps)


def plan_upload(share: Share, upload_set: UploadSet) -> UploadPlan:
    """Compare a upload_set with what the share has.

    A file is up to date if the manifest on the share lists it with this digest, and it still has its size.
    Files of others, such as the fine-tuning step, stay unless the upload set has a file of that name.
    """
    there = {
        entry.name: entry.size_bytes for entry in share.entries(upload_set.target) if not entry.is_folder
    }
    known = set(_manifest_on(share, upload_set.target).files)
    uploads = tuple(
        entry
        for entry in upload_set.manifest.files
        if entry not in known or there.get(entry.path) != entry.size_bytes
    )
    wanted = {entry.path for entry in upload_set.manifest.files}
    removed = sorted(entry.path for entry in known if entry.path not in wanted and entry.path in there)
    drafts = {entry.path + DRAFT_SUFFIX for entry in uploads}
    leftovers = sorted(
        name for name in there if name.endswith((DRAFT_SUFFIX, PREVIOUS_SUFFIX)) and name not in drafts
    )
    return UploadPlan(upload_set, uploads, tuple(removed), tuple(leftovers))


def upload(share: Share, plan: UploadPlan, advance: Advance) -> int:
    """Upload, rename and remove files until the folder on the share equals the upload set.

    Returns the number of bytes that an interrupted upload had left on the share already.

    Raises:
        UsageError: A local file was changed meanwhile. Nothing that servers load was changed.
    """
    target = plan.upload_set.target
    for name in plan.leftovers:
        share.delete(f"{target}/{name}")
    uploads = [
        Upload(f"{target}/{entry.path}{DRAFT_SUFFIX}", plan.upload_set.sources[entry.path], entry.sha256)
        for entry in plan.uploads
    ]
    resumed_bytes = share.upload(uploads, advance)
    plan.upload_set.check_unchanged()
    # Interrupted between two renames, the folder is neither the old nor the new one: without a manifest, the
    # next run uploads every file.
    share.delete(f"{target}/{MANIFEST}")
    for entry in sorted(plan.uploads, key=_configuration_last):
        path = f"{target}/{entry.path}"
        if not share.move(path + DRAFT_SUFFIX, path, replace=True):
            raise RemoteError(
                f"{path}{DRAFT_SUFFIX} disappeared from the share", hint="run the same command again"
            )
    for name in plan.removed:
        share.delete(f"{target}/{name}")
    share.write(f"{target}/{MANIFEST}", render_manifest(plan.upload_set.manifest).encode())
    return resumed_bytes


def find_drafts(share: Share, folder: str, older_than_s: float) -> Iterator[str]:
    """Yield the files below a folder that an interrupted upload left, if nothing was written to them lately.

    Args:
        share: The share.
        folder: Where to look.
        older_than_s: Until when they were written last, in seconds since 1970.
    """
    for entry in share.entries(folder):
        path = f"{folder}/{entry.name}"
        if entry.is_folder:
            yield from find_drafts(share, path, older_than_s)
        elif entry.name.endswith(DRAFT_SUFFIX) and entry.modified_s < older_than_s:
            yield path


def _stamp(source: Path | bytes) -> tuple[int, int]:
    if isinstance(source, bytes):
        return len(source), 0
    status = source.stat()
    return status.st_size, status.st_mtime_ns


def _configuration_last(entry: FileEntry) -> tuple[bool, str]:
    return entry.path.endswith("config.json"), entry.path


def _manifest_on(share: Share, target: str) -> Manifest:
    path = f"{target}/{MANIFEST}"
    content = share.read(path)
    if content is None:
        return Manifest(())
    try:
        return parse_manifest(content, path)
    except RemoteError:
        return Manifest(())  # damaged: then every file is uploaded, and a new manifest is written
