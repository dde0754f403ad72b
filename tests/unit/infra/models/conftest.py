"""A tiny GGUF file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.doubles.tiny_gguf import write_gguf

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path
