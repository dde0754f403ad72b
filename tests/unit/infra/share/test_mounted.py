"""A share that is mounted on this machine, with the contract that Azure Files fulfils."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from infra.clock import ManualClock
from infra.errors import RemoteError, ToolError, UsageError
from infra.process import Runner
from infra.release.holder import Holder
from infra.release.lock import DeployLock
from infra.share.mounted import MountedShare, open_mounted
from infra.share.protocol import ShareEntry, Upload

if TYPE_CHECKING:
    from pathlib import Path


needs_rsync = pytest.mark.skipif(
    shutil.which("rsync") is None, reason="rsync is not installed: apt install rsync"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "a mounted share"
    made.mkdir()
    return made


@pytest.fixture
def share(folder: Path) -> MountedShare:
    return open_mounted(folder, Runner(dict(os.environ), folder))


def test_what_is_not_there_reads_as_none_and_lists_as_nothing(share: MountedShare) -> None:
    assert share.read("CURRENT") is None
    assert share.read("no/such/file") is None
    assert share.read_all(["a", "b"]) == (None, None)
    assert share.entries("no/such") == ()
    assert not share.delete("no/such/file")
    assert not share.move("no/such", "x", replace=True)
    share.delete_tree("no/such")


def test_what_is_written_is_there_and_nothing_else(share: MountedShare, folder: Path) -> None:
    share.write("CURRENT", b"one")
    share.write("CURRENT", b"two")
    share.put("a/b/c.json", b"")
    assert share.read("CURRENT") == b"two"
    assert [str(path.relative_to(folder)) for path in sorted(folder.rglob("*"))] == [
        "CURRENT",
        "a",
        "a/b",
        "a/b/c.json",
    ]
    modified_s = (folder / "CURRENT").stat().st_mtime
    assert share.entries("") == (
        ShareEntry("CURRENT", is_folder=False, size_bytes=3, modified_s=modified_s),
        ShareEntry("a", is_folder=True),
    )


def test_only_one_creates_a_file(share: MountedShare) -> None:
    assert share.create("lock/x", b"1")
    assert not share.create("lock/x", b"2")
    assert share.read("lock/x") == b"1"


def test_the_deploy_lock_works_on_it(share: MountedShare) -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    ida, bo = (
        DeployLock(share, clock, Holder(name, name, number, 0.0), lambda _: None)
        for number, name in enumerate(("ida", "bo"))
    )
    with ida.hold("deploy"), pytest.raises(RemoteError, match="ida"), bo.hold("deploy"):
        pass
    with bo.hold("deploy"):
        pass


def test_files_are_renamed_copied_and_deleted(share: MountedShare) -> None:
    share.write("a", b"1")
    share.write("b", b"2")
    assert not share.move("a", "b", replace=False)
    assert share.move("a", "c/d", replace=False)
    assert share.move("b", "c/d", replace=True)
    assert share.read("c/d") == b"2"
    assert share.copy([("c/d", "e/f"), ("gone", "g")]) == ("gone",)
    assert share.read("e/f") == b"2"
    assert share.delete("e/f")
    share.delete_tree("c")
    assert share.read("c/d") is None


@needs_rsync
def test_rsync_copies_files_and_goes_on_where_it_was_interrupted(
    share: MountedShare, folder: Path, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 4096
    source = tmp_path / "weights 1.safetensors"
    source.write_bytes(content)
    (folder / "models").mkdir()
    (folder / "models/w").write_bytes(content[:400_000] + b"x" * 1000)
    sizes: list[int] = []
    resumed = share.upload(
        [Upload("models/w", source), Upload("models/v", source), Upload("n", b"12")], sizes.append
    )
    assert share.read("models/w") == share.read("models/v") == content
    assert (share.read("n"), resumed, sizes) == (b"12", 401_000, [len(content), len(content), 2])


@needs_rsync
def test_a_file_of_the_same_size_and_time_is_compared(
    share: MountedShare, folder: Path, tmp_path: Path
) -> None:
    source = tmp_path / "f"
    source.write_bytes(b"new")
    (folder / "f").write_bytes(b"old")
    for path in (source, folder / "f"):
        os.utime(path, (0, 0))
    share.upload([Upload("f", source)], lambda _: None)
    assert share.read("f") == b"new"


def test_errors_say_where_and_what_to_do(share: MountedShare, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        open_mounted(tmp_path / "nowhere", Runner({}, tmp_path))
    (folder / "file").write_bytes(b"")
    with pytest.raises(RemoteError, match=f"cannot write file/x on the share at {folder}"):
        share.write("file/x", b"")


@needs_rsync
def test_a_copy_that_fails_names_both_files(share: MountedShare, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="rsync could not copy"):
        share.upload([Upload("x", tmp_path / "gone")], lambda _: None)
