"""The shapes of a base model's tensors, from the headers of its files, on this machine or on the share.

Source: the safetensors format: the length of the header in eight bytes, little-endian, then the header as
JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from infra.document import load_json
from infra.models.adapter_fit import LENGTH_BYTES, read_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from infra.share.protocol import Share, ShareEntry

HEADER_BYTES: Final = 256 * 1024
"""What is read of a file at first; the header of a file with a thousand tensors is smaller."""

MAX_HEADER_BYTES: Final = 100 * 2**20
"""The format's own limit."""

SUFFIX: Final = ".safetensors"


def read_local_shapes(base: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a base model in a local folder."""
    return {
        name: tensor.shape for path in base.glob(f"*{SUFFIX}") for name, tensor in read_tensors(path).items()
    }


def read_share_shapes(share: Share, folder: str, entries: Sequence[ShareEntry]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a base model on the share; none if a file cannot be read.

    Args:
        share: The share.
        folder: The base model's folder.
        entries: What is in it.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for entry in entries:
        if entry.name.endswith(SUFFIX):
            found = _read_header(share, f"{folder}/{entry.name}") if entry.size_bytes else None
            if found is None:
                return {}
            shapes.update(found)
    return shapes


def _read_header(share: Share, path: str) -> Mapping[str, tuple[int, ...]] | None:
    start = share.read_start(path, HEADER_BYTES) or b""
    end = LENGTH_BYTES + int.from_bytes(start[:LENGTH_BYTES], "little")
    if len(start) < LENGTH_BYTES or end > MAX_HEADER_BYTES:
        return None
    if end > len(start):
        start = share.read_start(path, end) or b""
    try:
        header = load_json(start[LENGTH_BYTES:end])
        return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
