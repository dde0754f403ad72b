"""The slow share's operations and the table, without a mount."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.reading import read_to_disk, read_to_memory, table, ways
from benchmarks.slow_share import Link, SlowFolder
from tests.doubles.model_folders import make_base

if TYPE_CHECKING:
    from pathlib import Path


def test_each_operation_on_a_slow_share_is_a_request(tmp_path: Path) -> None:
    make_base(tmp_path / "model")
    waits: list[float] = []
    link = Link(1000, 0.5, clock=lambda: 0.0, sleep=waits.append)
    share = SlowFolder(tmp_path, link)
    assert share.readdir("/", 0) == [".", "..", "model"]
    path = "/model/config.json"
    assert share.getattr(path)["st_size"] == 2
    handle = share.open(path, 0)
    assert share.read(path, 100, 1, handle) == b"}"
    assert share.release(path, handle) == 0
    assert link.requests == 4
    assert waits == [0.5, 0.5, 0.5, 0.501]


def test_the_ways_that_need_no_mount_read_the_files(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "model")
    read_to_disk(folder, threads=2, block_bytes=7)
    read_to_memory(folder)
    names = [way.name for way in ways([1, 4])]
    assert len(set(names)) == len(names) == 8


def test_the_table_has_medians() -> None:
    text = table(200_000_000, {"one way": [2.0, 9.0, 4.0]})
    assert text.splitlines()[-1] == "| one way | 4.0 | 50 |"
