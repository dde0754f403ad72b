"""A share as replicas read it: its folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class MountedShare:
    """The share as replicas read it, without a request to the service."""

    folder: Path

    def read(self, path: str) -> bytes | None:
        """Return a file's content; None if there is none."""
        file = self.folder / path
        return file.read_bytes() if file.exists() else None
