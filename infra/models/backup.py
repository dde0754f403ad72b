"""Keep the adapter that a push replaces until the new one is seen to serve, and bring it back if it is not.

The copies are made by the service, beside the files, under names that servers ignore. A base model is not
kept: it is too large to hold twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.models.upload import MANIFEST, PREVIOUS_SUFFIX
from infra.models.weights import ADAPTER_CONFIG, MODELS

if TYPE_CHECKING:
    from infra.models.upload import UploadPlan
    from infra.share.protocol import Share


@dataclass(frozen=True, slots=True)
class Backup:
    """What a folder on the share had before an upload.

    Attributes:
        target: The folder.
        kept: The files of which there is a copy.
        added: The files that were not there.
        manifest: The content of its manifest; None if there was none.
    """

    target: str
    kept: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    manifest: bytes | None = None

    @property
    def is_of_a_new_adapter(self) -> bool:
        """Return whether the folder had no adapter before."""
        return ADAPTER_CONFIG in self.added


def back_up(share: Share, plan: UploadPlan) -> Backup | None:
    """Copy what an upload is about to replace or remove; None if that is not an adapter, or nothing."""
    target = plan.upload_set.target
    if not plan.has_changes or not target.startswith(f"{MODELS}/"):
        return None
    there = {entry.name for entry in share.entries(target) if not entry.is_folder}
    changed = [*(entry.path for entry in plan.uploads), *plan.removed]
    kept = tuple(name for name in changed if name in there)
    share.copy([(f"{target}/{name}", f"{target}/{name}{PREVIOUS_SUFFIX}") for name in kept])
    added = tuple(name for name in changed if name not in there)
    return Backup(target, kept, added, share.read(f"{target}/{MANIFEST}"))


def restore(share: Share, backup: Backup) -> None:
    """Bring back what the folder had, the configuration last: a server finds an adapter by it."""
    share.delete(f"{backup.target}/{MANIFEST}")
    for name in sorted(backup.added, key=lambda name: name != ADAPTER_CONFIG):
        share.delete(f"{backup.target}/{name}")
    for name in sorted(backup.kept, key=lambda name: name == ADAPTER_CONFIG):
        path = f"{backup.target}/{name}"
        share.move(path + PREVIOUS_SUFFIX, path, replace=True)
    if backup.manifest is not None:
        share.write(f"{backup.target}/{MANIFEST}", backup.manifest)


def discard(share: Share, backup: Backup) -> None:
    """Delete the copies, once what replaced them is seen to serve."""
    for name in backup.kept:
        share.delete(f"{backup.target}/{name}{PREVIOUS_SUFFIX}")
