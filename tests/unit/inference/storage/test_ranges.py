"""Blocks of files, read several at a time from a share that fails, is short, or is slow."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from benchmarks.slow_share import Link
from inference.errors import LoadError
from inference.storage.ranges import RETRY_PAUSES_S, Block, FileSource, read_block, read_in_order, split
from tests.doubles.slow_source import SlowSource

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(CONTENT)
    return path


def test_a_file_is_split_into_blocks_that_cover_it(file: Path) -> None:
    blocks = list(split(file, 1000, 5000, 1500))
    assert [(block.offset, block.size_bytes) for block in blocks] == [
        (1000, 1500),
        (2500, 1500),
        (4000, 1000),
    ]
    assert list(split(file, 0, 0)) == [Block(file, 0, 0)]
    assert list(split(file, 5000, 5000)) == [Block(file, 5000, 0)]


def test_blocks_arrive_in_order_whatever_is_answered_first(file: Path) -> None:
    is_second_asked = threading.Event()

    def wait(offset: int) -> None:
        # The first block is answered only after the second was asked for.
        if offset == 0:
            assert is_second_asked.wait(60)
        is_second_asked.set()

    blocks = list(split(file, 0, len(CONTENT), 1000))
    arrived = list(read_in_order(SlowSource(before=wait), blocks, 3))
    assert [block for block, _ in arrived] == blocks
    assert b"".join(data for _, data in arrived) == CONTENT


def test_no_more_than_twice_the_threads_are_read_ahead_of_what_was_taken(file: Path) -> None:
    source = SlowSource()
    arriving = read_in_order(source, split(file, 0, len(CONTENT), 100), 2)
    next(arriving)
    assert len(source.reads) <= 4
    arriving.close()
    assert len(source.reads) <= 4


def test_a_short_read_is_continued(file: Path) -> None:
    source = SlowSource(max_read_bytes=700)
    assert read_block(source, Block(file, 10, 2000)) == CONTENT[10:2010]
    assert [(offset, size) for _, offset, size in source.reads] == [(10, 2000), (710, 1300), (1410, 600)]


def test_an_error_is_followed_by_further_attempts_with_growing_pauses(file: Path) -> None:
    pauses: list[float] = []
    source = SlowSource(failures={10: 3})
    assert read_block(source, Block(file, 10, 20), pauses.append) == CONTENT[10:30]
    assert pauses == list(RETRY_PAUSES_S[:3])


def test_an_error_that_stays_names_the_file_the_place_and_the_attempts(file: Path) -> None:
    pauses: list[float] = []
    with pytest.raises(LoadError) as caught:
        read_block(SlowSource(failures={10: -1}), Block(file, 10, 20), pauses.append)
    assert str(caught.value) == (
        f"{file} cannot be read from the share: Input/output error (at byte 10, after 5 attempts)"
    )
    assert pauses == list(RETRY_PAUSES_S)


def test_a_missing_file_is_not_tried_again(file: Path) -> None:
    file.unlink()
    pauses: list[float] = []
    with FileSource() as source, pytest.raises(LoadError, match=r"No such file .* after 1 attempts"):
        read_block(source, Block(file, 0, 20), pauses.append)
    assert pauses == []


def test_a_file_that_became_shorter_is_an_error_that_says_where_it_ends(file: Path) -> None:
    with FileSource() as source:
        assert source.read(file, 0, 10) == CONTENT[:10]
        os.truncate(file, 5000)
        with pytest.raises(LoadError, match=r"became shorter while it was read: it ends at byte 5000"):
            read_block(source, Block(file, 4000, 2000))


def test_after_an_error_the_file_is_opened_anew(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share that was away for a while does not know the handles from before."""
    opened: list[int] = []
    real_open, real_pread = os.open, os.pread

    def record(path: Path, flags: int) -> int:
        opened.append(real_open(path, flags))
        return opened[-1]

    def fail_on_the_first(descriptor: int, size: int, offset: int) -> bytes:
        if descriptor == opened[0]:
            raise OSError(116, "Stale file handle")
        return real_pread(descriptor, size, offset)

    monkeypatch.setattr(os, "open", record)
    monkeypatch.setattr(os, "pread", fail_on_the_first)
    with FileSource() as source:
        assert read_block(source, Block(file, 0, 10), lambda _: None) == CONTENT[:10]
        assert len(opened) == 2
    for descriptor in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_an_error_ends_the_reading_and_begins_no_further_read(file: Path) -> None:
    source = SlowSource(failures={2000: -1})
    arriving = read_in_order(source, split(file, 0, len(CONTENT), 1000), 1, lambda _: None)
    with pytest.raises(LoadError, match="at byte 2000"):
        list(arriving)
    count = len(source.reads)
    assert count < len(CONTENT) // 1000 + len(RETRY_PAUSES_S)


def test_requests_of_a_slow_share_wait_together_and_then_share_its_bandwidth() -> None:
    waits: list[float] = []
    link = Link(1000, 0.005, clock=lambda: 10.0, sleep=waits.append)
    for size_bytes in (100, 100, 0):
        link.transfer(size_bytes)
    assert waits == pytest.approx([0.105, 0.205, 0.205])
    assert link.requests == 3
