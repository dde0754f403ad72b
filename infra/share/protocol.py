"""Say what the pipeline asks of a file share, so that it can work on Azure's or on one in memory.

Paths are relative to the share, with forward slashes and no leading one. `infra.share.azure` implements this
on Azure Files; the tests have an implementation in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

Advance: TypeAlias = Callable[[int], None]
"""Take note that so many more bytes have been dealt with. May be called from several threads."""


@dataclass(frozen=True, slots=True)
class ShareEntry:
    """Describe what a folder on the share holds: one file, or one folder (whose size is 0).

    `modified_s` is when a file was last written, in seconds since 1970; 0 where the share does not say.
    """

    name: str
    is_folder: bool
    size_bytes: int = 0
    modified_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Upload:
    """Send a local file, or bytes that only exist in memory, to `path` on the share."""

    path: str
    source: Path | bytes

    @property
    def size_bytes(self) -> int:
        """Tell how much there is to send."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


class Share(Protocol):
    """Hold files in folders. Whatever writes makes the folders that it needs.

    Every method raises `RemoteError` when the share cannot be reached or refuses.
    """

    def read(self, path: str) -> bytes | None:
        """Return a small file's content, or None if it is not there."""

    def write(self, path: str, content: bytes) -> None:
        """Put a small file there in one step: a reader sees the old content or the new, never a part."""

    def create(self, path: str, content: bytes) -> bool:
        """Put a small file there in one step unless something is there already: False, and nothing changed.

        Of several callers at once exactly one gets True.
        """

    def entries(self, folder: str) -> tuple[ShareEntry, ...]:
        """List a folder by name; one that is not there is empty."""

    def upload(self, uploads: Sequence[Upload], advance: Advance) -> None:
        """Send files, several at a time. Not in one step: a reader may see a file grow."""

    def copy(self, pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
        """Have the service copy files (pairs of source and target). Returns the sources that are missing."""

    def move(self, source: str, target: str, *, replace: bool) -> bool:
        """Rename a file in one step. False if there is no source, or a target that must not be replaced."""

    def delete(self, path: str) -> bool:
        """Delete a file. False if it was not there."""

    def delete_tree(self, folder: str) -> None:
        """Delete a folder with all that is in it, if it is there."""
