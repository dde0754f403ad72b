"""Read the header of a safetensors file, to find a damaged or truncated one before its upload.

No tensor is loaded and no tensor library is needed: the file begins with the header's length (8 bytes, little
endian), then the header as JSON, then the tensors' bytes, to which the header's offsets are relative.

Source: the safetensors format's own description.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from infra.document import load_json

if TYPE_CHECKING:
    from pathlib import Path

_LENGTH_BYTES: Final = 8
_MAX_HEADER_BYTES: Final = 100_000_000


class SafetensorsError(Exception):
    """The file is not a safetensors file, or is incomplete."""


def check_safetensors(path: Path) -> int:
    """Check that a file is complete, and return its number of tensors.

    Raises:
        SafetensorsError: It is not a complete safetensors file.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if size_bytes < _LENGTH_BYTES or not 0 < length <= min(_MAX_HEADER_BYTES, size_bytes - _LENGTH_BYTES):
            raise SafetensorsError("is not safetensors, or is cut off in its header")
        text = file.read(length)
    try:
        header = load_json(text)
        tensors = [value for name, value in header.items() if name != "__metadata__"]
        end = max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise SafetensorsError("is not safetensors: its header cannot be read") from error
    if not tensors:
        raise SafetensorsError("has no tensors")
    expected = _LENGTH_BYTES + length + end
    if size_bytes != expected:
        raise SafetensorsError(f"is damaged: it has {size_bytes} bytes, but its header describes {expected}")
    return len(tensors)
