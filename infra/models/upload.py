"""Bring a folder of weights onto the share: only what is not there yet, and never half a file.

Beside the weights on the share lies a manifest of what was put there. Files travel under temporary names;
when all are there, they are renamed, the configuration last, since that is what a server looks for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from infra.errors import RemoteError
from infra.release.manifest import FileEntry, Manifest, hash_bytes, parse_manifest, render_manifest
from infra.share.protocol import Advance, Share, Upload

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from infra.models.hash_cache import HashCache
    from infra.models.weights import WeightFolder

MANIFEST: Final = ".fjarr-manifest.json"
DRAFT_SUFFIX: Final = ".uploading"
"""Ends the name of a file that is still travelling: no server looks for such files."""


@dataclass(frozen=True, slots=True)
class UploadSet:
    """Hold what a folder on the share should have.

    Attributes:
        target: The folder on the share.
        sources: Where each file comes from, by its name.
        manifest: What the files are, by their names.
    """

    target: str
    sources: Mapping[str, Path | bytes]
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class UploadPlan:
    """Say what must travel for a upload_set, and what must go."""

    upload_set: UploadSet
    uploads: tuple[FileEntry, ...]
    removed: tuple[str, ...]

    @property
    def has_changes(self) -> bool:
        """Tell whether the folder on the share is not what it should be."""
        return bool(self.uploads or self.removed)

    @property
    def upload_bytes(self) -> int:
        """Add up what must travel."""
        return sum(entry.size_bytes for entry in self.uploads)


def load_upload_set(
    target: str, weights: WeightFolder, hashes: HashCache, replaced: Mapping[str, bytes] | None = None
) -> UploadSet:
    """Describe a local folder of weights for `target`. `replaced` has files with other content."""
    sources: dict[str, Path | bytes] = {path.name: path for path in weights.files}
    sources.update(replaced or {})
    entries = (
        hash_bytes(source, name) if isinstance(source, bytes) else hashes.entry(source, name)
        for name, source in sources.items()
    )
    return UploadSet(target, sources, Manifest(tuple(sorted(entries))))


def plan_upload(share: Share, upload_set: UploadSet) -> UploadPlan:
    """Compare a upload_set with what the share has.

    A file counts as there if it was put there by us with this digest, and still has its size. What others put
    into the folder, such as the fine-tuning step, stays, unless we bring a file of that name.
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
    return UploadPlan(upload_set, uploads, tuple(removed))


def upload(share: Share, plan: UploadPlan, advance: Advance) -> None:
    """Make the folder on the share what it should be."""
    target = plan.upload_set.target
    uploads = [
        Upload(f"{target}/{entry.path}{DRAFT_SUFFIX}", plan.upload_set.sources[entry.path])
        for entry in plan.uploads
    ]
    share.upload(uploads, advance)
    # Cut short between two renames, the folder is neither the old nor the new: without a manifest all travels
    # again.
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


def resend(plan: UploadPlan, name: str) -> UploadPlan:
    """Have one file travel once more, so that it is the newest of its kind on the share."""
    entry = next(entry for entry in plan.upload_set.manifest.files if entry.path == name)
    return replace(plan, uploads=(*plan.uploads, entry))


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
        return Manifest(())  # damaged: then everything travels, and a new one is written
