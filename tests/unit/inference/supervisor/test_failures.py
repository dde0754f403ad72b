"""What the supervisor survives: crashes with the model still loaded, damage on the share, a full disk."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import signal
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from inference.errors import TakeoverError
from inference.supervisor import supervisor as module
from inference.supervisor.processes import Processes
from inference.supervisor.releases import fetch_release, find_damage
from tests.unit.inference.supervisor.conftest import ONE, THREE, TWO

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.inference.supervisor.conftest import Container

ENGINE = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); signal.pause()\n"


async def stop(container: Container) -> int:
    os.kill(os.getpid(), signal.SIGTERM)
    return await container.end()


async def test_requests_wait_for_a_crashed_server_whose_model_is_still_loaded(container: Container) -> None:
    container.release(ONE, inference__engine_process=ENGINE)
    await container.start(ONE)
    first = await container.serving(ONE)
    await container.crash()
    answers = await asyncio.gather(*(container.ask() for _ in range(4)))
    # Not one of them is the page's, which would tell its client to try again.
    assert {answer["pid"] for answer in answers} == {answers[0]["pid"]}
    assert answers[0]["pid"] != first["pid"]
    assert await stop(container) == 0


async def test_the_page_answers_if_the_server_takes_longer_to_come_back(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE_AFTER_S", 0.05)
    container.release(ONE, inference__engine_process=ENGINE)
    await container.start(ONE)
    await container.serving(ONE)
    gate = asyncio.Event()
    start = Processes.start_server

    async def start_later(self: Processes, *arguments: Any) -> Any:
        child = await start(self, *arguments)
        send = child.send
        child.send = lambda **message: None if "accept" in message else send(**message)  # type: ignore[method-assign]
        asyncio.create_task(_open(gate, lambda: send(hold=True, accept=True)))  # noqa: RUF006 - it ends with the test
        return child

    monkeypatch.setattr(Processes, "start_server", start_later)
    await container.crash()
    shown = await container.until(lambda document: "pid" not in document)
    assert (shown["release"], shown["ready"]) == (ONE, False)
    gate.set()
    await container.serving(ONE)
    assert await stop(container) == 0


async def _open(gate: asyncio.Event, send: Any) -> None:
    await gate.wait()
    send()


async def test_a_pointer_with_rubbish_is_reported_and_what_serves_goes_on(container: Container) -> None:
    for name in (ONE, TWO):
        container.release(name)
    await container.start(ONE)
    first = await container.serving(ONE)
    container.want("../elsewhere")
    shown = await container.until(lambda document: document.get("last_error") is not None)
    assert shown["last_error"] == (
        "CURRENT on the share names no release ('../elsewhere'): "
        "invoke rollback or invoke deploy writes it anew"
    )
    assert (shown["pid"], shown["wanted_release"]) == (first["pid"], ONE)
    container.want(ONE)
    healed = await container.until(lambda document: document["last_error"] is None)
    assert healed["pid"] == first["pid"]
    container.want("\x00")
    await container.until(lambda document: document.get("last_error") is not None)
    container.want(TWO)
    assert (await container.serving(TWO))["pid"] != first["pid"]
    assert await stop(container) == 0


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("a bug")])
async def test_whatever_keeps_a_release_from_starting_the_old_one_goes_on(
    container: Container, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    for name in (ONE, TWO, THREE):
        container.release(name)
    await container.start(ONE)
    first = await container.serving(ONE)
    start = Processes.start_server

    async def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(Processes, "start_server", fail)
    container.want(TWO)
    failed = await container.until(lambda document: document.get("last_error") is not None)
    assert failed["last_error"] == f"{TWO}: {type(error).__name__}: {error}"
    assert failed["pid"] == first["pid"]
    monkeypatch.setattr(Processes, "start_server", start)
    container.want(THREE)
    assert (await container.serving(THREE))["last_error"] is None
    assert await stop(container) == 0


async def test_an_engine_that_does_not_start_after_the_old_one_has_ended_brings_that_back(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "fits_beside", lambda _use: False)
    container.release(ONE, inference__engine_process=ENGINE)
    container.release(TWO, inference__engine_process=ENGINE + "# other\n")
    await container.start(ONE)
    await container.serving(ONE)
    start = Processes.start_engine

    async def fail(self: Processes, tree: Any, *arguments: Any) -> Any:
        if tree.release == TWO:
            raise OSError(11, "Resource temporarily unavailable")
        return await start(self, tree, *arguments)

    monkeypatch.setattr(Processes, "start_engine", fail)
    container.want(TWO)
    failed = await container.until(
        lambda document: bool(document.get("last_error")) and document["release"] == ONE
    )
    assert failed["last_error"].startswith(f"{TWO}: BlockingIOError: ")
    await container.serving(ONE)
    assert await stop(container) == 0


async def test_a_failure_to_tidy_is_none_of_the_release(
    container: Container, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (ONE, TWO):
        container.release(name)
    await container.start(ONE)
    await container.serving(ONE)

    def fail(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("inference.supervisor.processes.remove_others", fail)
    container.want(TWO)
    assert (await container.serving(TWO))["last_error"] is None
    async with asyncio.timeout(20):
        while "was not removed from this disk" not in caplog.text:  # noqa: ASYNC110 - it polls the log
            await asyncio.sleep(0.01)
    assert await stop(container) == 0


def damage(content: bytes) -> bytes:
    """Return an archive with a byte changed in the middle, where the compressed files are."""
    middle = len(content) // 2
    return (
        content[:middle]
        + bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
        + content[middle + 64 :]
    )


def test_an_archive_that_is_damaged_anywhere_is_a_damaged_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    text = os.urandom(40_000).hex().encode()
    entry = {"path": "inference/x.py", "size": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    manifest = {"files": [entry]}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in (("release.json", json.dumps(manifest).encode()), ("inference/x.py", text)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    folder = tmp_path / "mount" / "releases" / ONE
    folder.mkdir(parents=True)
    packed = gzip.compress(stream.getvalue())
    for content in (damage(packed), packed[: len(packed) // 2], b"", b"no archive"):
        (folder / "release.tar.gz").write_bytes(content)
        with pytest.raises(TakeoverError, match="it cannot be copied from the share"):
            fetch_release(tmp_path / "mount", ONE, pause=lambda _seconds: None)


def test_what_is_wrong_with_the_pointer_is_told_apart(tmp_path: Path) -> None:
    assert find_damage(tmp_path) == ("CURRENT on the share cannot be read (No such file or directory)", False)
    (tmp_path / "CURRENT").write_bytes(b"")
    assert find_damage(tmp_path) == ("CURRENT on the share names no release ('')", True)
    (tmp_path / "CURRENT").write_bytes(b"x y" * 100)
    assert len(find_damage(tmp_path)[0]) < 110
    (tmp_path / "CURRENT").write_text(ONE)
    assert find_damage(tmp_path)[1] is False
