"""A safetensors file that is damaged or cut off, found by its header."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from infra.models.safetensors_header import SafetensorsError, check_safetensors
from tests.doubles.model_folders import tensors

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not safetensors, or is cut off in its header"),
        (b"PK\x03\x04 a pickle of torch", "is not safetensors, or is cut off in its header"),
        (tensors()[:20], "is not safetensors, or is cut off in its header"),
        (tensors()[:-1], "is damaged: it has"),
        (tensors() + b"x", "is damaged: it has"),
        (b"\x02\0\0\0\0\0\0\0{}", "has no tensors"),
        (b"\x02\0\0\0\0\0\0\0[]", "its header cannot be read"),
        (b"\x08\0\0\0\0\0\0\0" + b'{"t": 1}', "its header cannot be read"),
    ],
)
def test_a_damaged_safetensors_file_is_found(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(SafetensorsError, match=reason):
        check_safetensors(tmp_path / "x")


def test_a_whole_safetensors_file_is_counted(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(tensors())
    assert check_safetensors(tmp_path / "x") == 2
