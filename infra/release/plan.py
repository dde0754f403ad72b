"""The plan of an upload: which files are uploaded and which are copied on the share.

A plan is a pure comparison of two manifests. Files that the live release already has, under whatever path,
are copied by the service; only new content is uploaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.release.archive import is_packable
from infra.wording import count, readable_size

if TYPE_CHECKING:
    from infra.release.manifest import FileEntry, Manifest

_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy on the share, from `source` in the old release to `entry.path` in the new one."""

    source: str
    entry: FileEntry


@dataclass(frozen=True, slots=True)
class Plan:
    """The difference between two releases: files to upload, files to copy on the share, files left out.

    Attributes:
        added: New files.
        changed: Files with other content.
        copies: Files that the old release has, under whatever path.
        removed: Files of the old release that the new one has not.
        is_packed: Whether small files are uploaded in an archive, unchanged ones too.
    """

    added: tuple[FileEntry, ...]
    changed: tuple[FileEntry, ...]
    copies: tuple[Copy, ...]
    removed: tuple[str, ...]
    is_packed: bool = False

    @property
    def uploads(self) -> tuple[FileEntry, ...]:
        """Return the files to upload, sorted by path."""
        return tuple(sorted(self.added + self.changed))

    @property
    def upload_bytes(self) -> int:
        """Return the size of the files to upload."""
        return sum(entry.size_bytes for entry in self.uploads)

    @property
    def copy_bytes(self) -> int:
        """Return the size of the files to copy on the share."""
        return sum(copy.entry.size_bytes for copy in self.copies)

    @property
    def has_changes(self) -> bool:
        """Return whether the new tree differs from the old one, if only in a name."""
        moved = any(copy.source != copy.entry.path for copy in self.copies)
        return bool(self.added or self.changed or self.removed or moved)

    def lines(self) -> tuple[str, ...]:
        """Return lines to print: totals, then one line for each file (`+` new, `~` changed, `-` left out)."""
        total = f"upload {count(len(self.uploads), 'file')} ({readable_size(self.upload_bytes)})"
        if self.copies and self.is_packed:
            total += f", {len(self.copies)} are unchanged"
        elif self.copies:
            total += f", copy {len(self.copies)} on the share ({readable_size(self.copy_bytes)})"
        if self.removed:
            total += f", leave out {len(self.removed)}"
        if not self.copies and not self.removed and not self.changed:
            return (total,)  # a first release: all files are new, and their names say nothing
        details = sorted(
            [(entry.path, "+", f"  {readable_size(entry.size_bytes)}") for entry in self.added]
            + [(entry.path, "~", f"  {readable_size(entry.size_bytes)}") for entry in self.changed]
            + [(path, "-", "") for path in self.removed]
        )
        shown = [f"  {sign} {path}{tail}" for path, sign, tail in details[:_SHOWN]]
        if len(details) > _SHOWN:
            shown.append(f"  ... and {len(details) - _SHOWN} more")
        return (total, *shown)


def make_plan(local: Manifest, live: Manifest | None) -> Plan:
    """Compare the local tree with the live release. Without a live release, every file is uploaded."""
    old = live.files if live is not None else ()
    old_paths = {entry.path for entry in old}
    by_content: dict[tuple[str, int], str] = {}
    for entry in reversed(old):  # reversed, so that the first of several equal files is copied
        by_content[entry.sha256, entry.size_bytes] = entry.path
    same_place = set(old)
    copies: list[Copy] = []
    uploads: list[FileEntry] = []
    for entry in local.files:
        source = entry.path if entry in same_place else by_content.get((entry.sha256, entry.size_bytes))
        if source is None:
            uploads.append(entry)
        else:
            copies.append(Copy(source, entry))
    local_paths = {entry.path for entry in local.files}
    return Plan(
        added=tuple(entry for entry in uploads if entry.path not in old_paths),
        changed=tuple(entry for entry in uploads if entry.path in old_paths),
        copies=tuple(copies),
        removed=tuple(sorted(old_paths - local_paths)),
        is_packed=is_packable(local),
    )
