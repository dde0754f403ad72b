"""Saved files are noticed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from infra.clock import ManualClock
from infra.release.tree import POLL_S, FolderWatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def watch(tmp_path: Path, clock: ManualClock) -> FolderWatch:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.py").write_text("1")
    (tmp_path / "b.py").write_text("1")
    return FolderWatch(tmp_path, clock)


def at(clock: ManualClock, *changes: Callable[[], object]) -> None:
    """Make one change in each of the first naps, and none later than that."""
    sleep, left = clock.sleep, list(changes)

    def nap(seconds: float) -> None:
        sleep(seconds)
        if left:
            left.pop(0)()
        assert clock.elapsed_s() < 60, "nothing was noticed"

    clock.sleep = nap  # type: ignore[method-assign]


def nothing() -> None:
    pass


def test_a_saved_file_is_noticed_within_two_looks(
    watch: FolderWatch, clock: ManualClock, tmp_path: Path
) -> None:
    before = watch.read_stamps()
    at(clock, nothing, lambda: (tmp_path / "deep" / "a.py").write_text("12"))
    assert watch.wait(before) == watch.read_stamps() != before
    assert clock.elapsed_s() == pytest.approx(3 * POLL_S)


def test_several_files_in_a_row_are_one_change(
    watch: FolderWatch, clock: ManualClock, tmp_path: Path
) -> None:
    before = watch.read_stamps()
    at(
        clock,
        lambda: (tmp_path / "b.py").write_text("12"),
        lambda: (tmp_path / "c.py").write_text("1"),
        (tmp_path / "deep" / "a.py").unlink,
    )
    found = watch.wait(before)
    assert {path.rpartition("/")[2] for path, _, _ in found} == {"b.py", "c.py"}
    assert clock.elapsed_s() == pytest.approx(4 * POLL_S)


def test_what_python_and_editors_write_is_not_a_change(watch: FolderWatch, tmp_path: Path) -> None:
    before = watch.read_stamps()
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "b.pyc").write_text("x")
    (tmp_path / ".b.py.swp").write_text("x")
    (tmp_path / "dangling.py").symlink_to(tmp_path / "nowhere")
    assert watch.read_stamps() == before
