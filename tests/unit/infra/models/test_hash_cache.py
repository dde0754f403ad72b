"""Digests of large files, remembered until the file changes."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from infra.clock import ManualClock
from infra.models.hash_cache import HashCache
from tests.doubles.model_folders import NOW

if TYPE_CHECKING:
    from pathlib import Path


def test_digests_are_cached_until_the_file_changes(tmp_path: Path) -> None:
    file, memory = tmp_path / "weights", tmp_path / ".fjarr" / "hashes.json"
    file.write_bytes(b"one")
    os.utime(file, (1000, 1000))
    clock = ManualClock(NOW)
    first = HashCache(memory, clock)
    entry = first.entry(file, "w")
    first.save()
    again = HashCache(memory, clock)
    file.write_bytes(b"two")
    os.utime(file, (1000, 1000))
    assert again.entry(file, "w") == entry, "size and time are the same, so the file is not read"
    os.utime(file, (1001, 1001))
    assert again.entry(file, "w") != entry


def test_a_file_that_was_just_written_is_not_cached(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    os.utime(file, (1000, 1000))
    clock = ManualClock(datetime.fromtimestamp(1001, UTC))
    cache = HashCache(tmp_path / "hashes.json", clock)
    entry = cache.entry(file, "w")
    file.write_bytes(b"two")
    os.utime(file, (1000, 1000))
    assert cache.entry(file, "w") != entry


def test_a_damaged_cache_is_empty(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"x": 1}'):
        (tmp_path / "hashes.json").write_text(text)
        cache = HashCache(tmp_path / "hashes.json", ManualClock(NOW))
        (tmp_path / "w").write_bytes(b"one")
        assert cache.entry(tmp_path / "w", "w").size_bytes == 3
