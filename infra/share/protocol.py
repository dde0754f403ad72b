"""The interface of a file share.

Paths are relative to the share, with forward slashes and without a leading one. `infra.share.azure`
implements it on Azure Files; the tests have an implementation in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

RANGE_BYTES: Final = 4 << 20
"""The maximum size of a request's body; a file of this size is written in one request.

Source: Azure Files REST API, Put Range.
"""

Advance: TypeAlias = Callable[[int], None]
"""Called with the number of bytes that were processed since the last call, from any thread."""


@dataclass(frozen=True, slots=True)
class ShareEntry:
    """A file or a folder in a folder of the share. The size of a folder is 0.

    `modified_s` is when a file was last written, in seconds since 1970; 0 if unknown.
    """

    name: str
    is_folder: bool
    size_bytes: int = 0
    modified_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Upload:
    """A local file, or bytes in memory, to be written to `path` on the share.

    Attributes:
        path: The file on the share.
        source: The content.
        sha256: The digest of the content. With it, an upload that was interrupted goes on where it stopped.
    """

    path: str
    source: Path | bytes
    sha256: str = ""

    @property
    def size_bytes(self) -> int:
        """Return the size of the content."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


class Share(Protocol):
    """Files in folders. Missing folders are created on every write.

    Every method raises `RemoteError` if the share cannot be reached or rejects the request.
    """

    def read(self, path: str) -> bytes | None:
        """Return the content of a small file, or None if it does not exist."""

    def read_start(self, path: str, size_bytes: int) -> bytes | None:
        """Return the first bytes of a file that is not empty; None if it does not exist."""

    def read_all(self, paths: Sequence[str]) -> tuple[bytes | None, ...]:
        """Read small files, several at a time; None for each that does not exist."""

    def write(self, path: str, content: bytes) -> None:
        """Write a small file in one step: readers see the old content or the new, never a part."""

    def put(self, path: str, content: bytes) -> None:
        """Write a small file in one request fewer than `write`: a reader may see it while it is written."""

    def create(self, path: str, content: bytes) -> bool:
        """Create a small file in one step. Return False, without a change, if the file exists.

        Of several concurrent callers exactly one gets True.
        """

    def entries(self, folder: str) -> tuple[ShareEntry, ...]:
        """List a folder, sorted by name. A folder that does not exist is empty."""

    def upload(self, uploads: Sequence[Upload], advance: Advance) -> int:
        """Upload files, several at a time. Not in one step: readers may see a part of a file.

        Returns the number of bytes that an interrupted upload had left there already. `advance` is called for
        these too.
        """

    def copy(self, pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
        """Copy files on the server (pairs of source and target). Return the sources that do not exist."""

    def move(self, source: str, target: str, *, replace: bool) -> bool:
        """Rename a file in one step. Return False if the source is missing or the target must be kept."""

    def delete(self, path: str) -> bool:
        """Delete a file. Return False if it did not exist."""

    def delete_tree(self, folder: str) -> None:
        """Delete a folder with everything in it, if it exists."""
