"""The files of a folder on the share, with the digests that `push` recorded for them.

    {"format": 1, "files": [{"path": "model.safetensors", "size": 269060552, "sha256": "..."}, ...]}

A file that was replaced without `push` is newer than this list, or has another size: then its digest there
says nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

LOGGER: Final = logging.getLogger(__name__)

MANIFEST: Final = ".fjarr-manifest.json"
"""The list's name, beside the files. Source: `infra/models/upload.py`, which writes it."""

UNFINISHED: Final = (".uploading", ".previous")
"""The suffixes of files that `push` has not completed, or keeps to bring them back. They are not copied."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file on the share.

    Attributes:
        name: Its path below the folder.
        path: Where it is.
        modified_ns: When it was written, in nanoseconds since 1970.
        sha256: Its digest, if `push` recorded it.
    """

    name: str
    path: Path
    size_bytes: int
    modified_ns: int
    sha256: str | None = None


def describe_files(folder: Path, paths: Iterable[Path]) -> tuple[StoredFile, ...]:
    """Return files of a folder with their sizes, times and recorded digests, in the order given.

    Raises:
        OSError: If one of them is missing.
    """
    digests, written_ns = _read_digests(folder / MANIFEST)
    files = []
    for path in paths:
        status, name = path.stat(), path.relative_to(folder).as_posix()
        size_bytes, sha256 = digests.get(name, (status.st_size, None))
        is_known = size_bytes == status.st_size and status.st_mtime_ns <= written_ns
        if sha256 is not None and not is_known:
            LOGGER.warning("%s was replaced after it was pushed: its digest is not checked", path)
        digest = sha256 if is_known else None
        files.append(StoredFile(name, path, status.st_size, status.st_mtime_ns, digest))
    return tuple(files)


def compute_key(files: Sequence[StoredFile]) -> str:
    """Return a digest that differs whenever a file differs, as far as that is known without reading them."""
    known = [(file.name, file.size_bytes, file.sha256 or file.modified_ns) for file in files]
    return hashlib.sha256(json.dumps(sorted(known, key=str)).encode()).hexdigest()[:32]


def _read_digests(path: Path) -> tuple[Mapping[str, tuple[int, str]], int]:
    """Return the size and the digest of each file, and when the list was written; nothing without a list."""
    try:
        document, written_ns = json.loads(path.read_bytes()), path.stat().st_mtime_ns
        entries = document["files"]
        digests = {
            str(entry["path"]): (int(entry["size"]), str(entry["sha256"]).lower()) for entry in entries
        }
    except (OSError, ValueError, KeyError, TypeError):
        # Without a list, and with a damaged one, the files are served as before.
        return {}, 0
    return digests, written_ns
