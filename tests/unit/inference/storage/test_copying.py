"""Copies on the local disk and in memory: whole or not there, resumed, checked, shared and removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from inference.errors import LoadError
from inference.storage.copying import CopyFolder, CopySpace, MemoryCopy, Reading, copy_to_disk, used_bytes
from inference.storage.manifest import MANIFEST, compute_key, describe_files
from infra.release.manifest import Manifest, hash_bytes, render_manifest
from tests.doubles.slow_source import SlowSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.storage.manifest import StoredFile

ROOT = Path(__file__).parents[4]
FILES = {"config.json": b"{}", "empty.txt": b"", "model.safetensors": bytes(range(256)) * 20}
TOTAL = sum(map(len, FILES.values()))


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A folder on a share, without a manifest."""
    folder = tmp_path / "share"
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(7, 7))
    return folder


def push(share: Path) -> None:
    manifest = Manifest(tuple(hash_bytes(content, name) for name, content in FILES.items()))
    (share / MANIFEST).write_text(render_manifest(manifest))


def stored(share: Path) -> tuple[StoredFile, ...]:
    return describe_files(share, [share / name for name in FILES])


def reading(source: SlowSource, done: list[int] | None = None, threads: int = 2) -> Reading:
    counted = [] if done is None else done
    return Reading(source, counted.append, threads, block_bytes=1000, sleep=lambda _: None)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*")}


def copy(files: Sequence[StoredFile], target: Path, source: SlowSource | None = None) -> list[int]:
    done: list[int] = []
    copy_to_disk(files, target, reading(source or SlowSource(), done))
    return done


@pytest.mark.parametrize("is_pushed", [False, True])
def test_a_copy_has_the_files_and_their_times_and_is_read_once(
    share: Path, tmp_path: Path, *, is_pushed: bool
) -> None:
    if is_pushed:
        push(share)
    source = SlowSource()
    done = copy(stored(share), tmp_path / "copies/key", source)
    assert contents(tmp_path / "copies/key") == FILES
    assert (tmp_path / "copies/key/model.safetensors").stat().st_mtime_ns == 7
    assert (sum(done), source.read_bytes) == (TOTAL, TOTAL)
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["key"]


def test_an_interrupted_copy_is_not_taken_for_whole_and_goes_on_where_it_stopped(
    share: Path, tmp_path: Path
) -> None:
    push(share)
    target = tmp_path / "copies/key"
    with pytest.raises(LoadError, match="Input/output error"):
        copy(stored(share), target, SlowSource(failures={3000: -1}))
    assert not target.exists()
    assert used_bytes(target.with_name("key.partial")) == 2 + 3000
    source = SlowSource()
    done = copy(stored(share), target, source)
    assert contents(target) == FILES
    assert source.read_bytes == TOTAL - 2 - 3000
    assert sum(done) == TOTAL


def test_a_beginning_that_was_damaged_on_the_disk_is_read_again(share: Path, tmp_path: Path) -> None:
    push(share)
    partial = tmp_path / "key.partial"
    partial.mkdir()
    (partial / "model.safetensors.part").write_bytes(b"x" * 100)
    copy(stored(share), tmp_path / "key")
    assert contents(tmp_path / "key") == FILES


def test_a_beginning_that_is_longer_than_the_file_is_dropped(share: Path, tmp_path: Path) -> None:
    partial = tmp_path / "key.partial"
    partial.mkdir()
    (partial / "model.safetensors.part").write_bytes(b"x" * 100_000)
    copy(stored(share), tmp_path / "key")
    assert contents(tmp_path / "key") == FILES


def test_a_file_that_differs_from_its_digest_is_refused(share: Path, tmp_path: Path) -> None:
    push(share)
    files = stored(share)
    path = share / "model.safetensors"
    path.write_bytes(b"?" * path.stat().st_size)
    with pytest.raises(LoadError) as caught:
        copy(files, tmp_path / "key")
    assert str(caught.value) == (
        f"{path} is damaged on the share: its digest differs from the one that was recorded when it was"
        " pushed (push it again; if it was replaced on purpose, delete .fjarr-manifest.json beside it)"
    )
    with MemoryCopy() as memory, pytest.raises(LoadError, match="is damaged on the share"):
        memory.read(files, reading(SlowSource()))
    assert not (tmp_path / "key").exists()
    assert not (tmp_path / "key.partial/model.safetensors.part").exists()


def test_a_file_without_a_digest_that_is_written_to_meanwhile_is_refused(share: Path, tmp_path: Path) -> None:
    path = share / "model.safetensors"
    source = SlowSource(before=lambda offset: os.utime(path, ns=(9, 9)) if offset else None)
    with pytest.raises(LoadError, match=r"model\.safetensors was written to while it was read"):
        copy(stored(share), tmp_path / "key", source)
    assert not (tmp_path / "key").exists()


def test_a_file_that_shrinks_meanwhile_is_refused(share: Path, tmp_path: Path) -> None:
    path = share / "model.safetensors"
    source = SlowSource(before=lambda offset: os.truncate(path, 3500) if offset == 2000 else None)
    # One block at a time: of two on their way, the later may have been read, or be the one that fails.
    with pytest.raises(LoadError, match="became shorter while it was read: it ends at byte 3500"):
        copy_to_disk(stored(share), tmp_path / "key", reading(source, threads=1))


KILLED = """
import os, signal, sys
from pathlib import Path
from inference.storage.copying import CopyFolder, Reading, copy_to_disk
from inference.storage.manifest import describe_files
from tests.doubles.slow_source import SlowSource

share, folder = map(Path, sys.argv[1:])
files = describe_files(share, sorted(path for path in share.iterdir() if not path.name.startswith(".")))
def die(offset):
    if offset == 3000:
        os.kill(os.getpid(), signal.SIGKILL)
reading = Reading(SlowSource(before=die), lambda _: None, 1, 1000)
with CopyFolder(folder).held("key", lambda target: copy_to_disk(files, target, reading)):
    pass
"""


def test_a_process_that_is_killed_leaves_what_another_goes_on_with(share: Path, tmp_path: Path) -> None:
    push(share)
    folder = tmp_path / "copies"
    command = [sys.executable, "-c", KILLED, str(share), str(folder)]
    done = subprocess.run(command, check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert not (folder / "key").exists()
    source, files = SlowSource(), stored(share)
    make = lambda target: copy_to_disk(files, target, reading(source))  # noqa: E731
    with CopyFolder(folder).held("key", make) as path:
        assert contents(path) == FILES
    assert 0 < source.read_bytes < TOTAL


def test_of_two_engines_that_start_at_once_one_reads_and_the_other_waits(share: Path, tmp_path: Path) -> None:
    files, folder = stored(share), tmp_path / "copies"
    is_waiting, source = threading.Event(), SlowSource()

    def read_slowly(offset: int) -> None:
        if offset == 2000:
            assert is_waiting.wait(60)

    slow = SlowSource(before=read_slowly)

    def start(copies: CopyFolder, source: SlowSource) -> dict[str, bytes]:
        with copies.held("key", lambda target: copy_to_disk(files, target, reading(source))) as path:
            return contents(path)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(start, CopyFolder(folder), slow)
        while not slow.reads:
            os.sched_yield()
        second = pool.submit(start, CopyFolder(folder, lambda _: is_waiting.set()), source)
        assert first.result() == second.result() == FILES
    assert source.reads == []


def test_a_copy_in_memory_can_be_read_by_path_and_ends_with_its_block(share: Path) -> None:
    push(share)
    source = SlowSource()
    with MemoryCopy() as memory:
        memory.read(stored(share), reading(source))
        assert contents(memory.folder) == FILES
        weights = memory.folder / "model.safetensors"
        assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (5120, 7)
        # Another process sees it as well, as the workers of an engine do.
        script = "import sys; print(len(open(sys.argv[1], 'rb').read()))"
        seen = subprocess.run(
            [sys.executable, "-c", script, str(weights)], check=True, capture_output=True, text=True
        )
        assert int(seen.stdout) == 5120
    assert source.read_bytes == TOTAL
    assert not memory.folder.exists()
    assert not weights.exists()


def test_copies_that_nothing_uses_are_removed_the_oldest_first(tmp_path: Path) -> None:
    copies = CopyFolder(tmp_path)
    for age, name in enumerate(("newest", "older", "oldest.partial")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    assert copies.measure("key").removable_bytes == 300
    assert copies.measure("oldest").copied_bytes == 100
    assert copies.remove_unused("key", 0) == ()
    assert copies.remove_unused("key", 150) == ("oldest.partial", "older")
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"newest"}


def test_a_copy_that_is_used_is_not_removed(share: Path, tmp_path: Path) -> None:
    files, copies = stored(share), CopyFolder(tmp_path / "copies")
    make = lambda target: copy_to_disk(files, target, reading(SlowSource()))  # noqa: E731
    with copies.held("used", make) as path, CopyFolder(copies.folder).held("used", make):
        assert copies.measure("key").removable_bytes == 0
        assert copies.remove_unused("key", 10**9) == ()
        assert path.is_dir()
    assert copies.remove_unused("key", 10**9) == ("used",)


def test_nothing_is_there_before_the_first_copy(tmp_path: Path) -> None:
    assert CopyFolder(tmp_path / "none").measure("key") == CopySpace(0, 0)


def test_the_key_of_the_share_s_files_is_that_of_their_copy(share: Path, tmp_path: Path) -> None:
    """A merged copy is known by its base's names, sizes and times, wherever that was read from."""
    target = tmp_path / "key"
    copy(stored(share), target)
    copied = describe_files(target, [target / name for name in FILES])
    assert compute_key(copied) == compute_key(stored(share))
