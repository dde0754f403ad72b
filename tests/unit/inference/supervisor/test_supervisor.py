"""The supervisor with processes of a fake server: takeovers, failures, crashes, signals."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from inference.supervisor import supervisor as module
from inference.supervisor.releases import read_current
from tests.doubles.loop_clock import skip
from tests.unit.inference.supervisor.conftest import ONE, PATIENCE_S, THREE, TWO

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.inference.supervisor.conftest import Container


async def stop(container: Container) -> int:
    os.kill(os.getpid(), signal.SIGTERM)
    return await container.end()


async def test_a_new_release_takes_over_and_the_old_one_finishes_its_answers(container: Container) -> None:
    container.release(ONE)
    container.release(TWO, inference__more="x = 1")
    await container.start(ONE)
    first = await container.serving(ONE)
    slow = await container.begin()
    container.want(TWO)
    second = await container.serving(TWO)
    assert (await slow)["release"] == ONE
    assert second["pid"] != first["pid"]
    shown = await container.until(lambda document: document.get("phase") == "serving")
    state = {
        "wanted_release": TWO, "phase": "serving", "percent": 100, "last_error": None,
        "container_started_at": "t",
    }  # fmt: skip
    assert shown.items() >= state.items()
    assert await stop(container) == 0


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("dies", "it ended with exit code 1: ModuleNotFoundError: No module named 'nowhere'"),
        ("fails", "cannot serve: there is no model"),
        ("hangs", "it is not ready after 3600 s: loading, 40 %"),
    ],
)
async def test_a_release_that_does_not_become_ready_changes_nothing_and_the_reason_is_reported(
    container: Container, behaviour: str, reason: str
) -> None:
    async def fail() -> dict[str, Any]:
        container.want(TWO)
        if behaviour == "hangs":
            await container.until(lambda document: document.get("phase") == "loading")
            await skip(module.ENGINE_TIMEOUT_S)
        return await container.until(lambda document: document.get("last_error") is not None)

    container.release(ONE)
    container.release(TWO, behaviour)
    await container.start(ONE)
    first = await container.serving(ONE)
    failed = await fail()
    assert failed["last_error"] == f"{TWO}: {reason}"
    assert failed["wanted_release"] == TWO
    assert failed["pid"] == first["pid"]
    # The pointer is set back: nothing restarts, and the error is gone.
    container.want(ONE)
    healed = await container.until(lambda document: document.get("last_error", "") is None)
    assert (healed["pid"], healed["wanted_release"]) == (first["pid"], ONE)
    # The same release may be tried again.
    await fail()
    assert await stop(container) == 0


async def test_a_third_release_ends_the_attempt_with_the_second(container: Container) -> None:
    container.release(ONE)
    container.release(TWO, "hangs")
    container.release(THREE)
    await container.start(ONE)
    await container.serving(ONE)
    container.want(TWO)
    await container.until(lambda document: document.get("phase") == "loading")
    container.want(THREE)
    shown = await container.serving(THREE)
    assert shown["last_error"] is None
    assert await stop(container) == 0


async def test_a_release_without_a_supervisor_asks_for_a_restart(container: Container) -> None:
    container.release(ONE)
    container.release(TWO)
    folder = container.mount / "releases" / TWO
    (folder / "inference/supervisor/__main__.py").unlink()
    (folder / "release.json").unlink()
    container.release(THREE)
    await container.start(ONE)
    await container.serving(ONE)
    container.want(TWO)
    shown = await container.until(lambda document: document.get("last_error") is not None)
    assert shown["last_error"].startswith(f"{TWO}: it cannot be copied from the share: ")
    assert await stop(container) == 0


@pytest.mark.quiet
async def test_a_crashed_server_is_back_within_seconds(container: Container) -> None:
    container.release(ONE)
    await container.start(ONE)
    first = await container.serving(ONE)
    await container.crash()
    began = asyncio.get_running_loop().time()
    second = await container.serving(ONE)
    assert second["pid"] != first["pid"]
    assert asyncio.get_running_loop().time() - began < 3.0
    assert await stop(container) == 0


async def test_three_crashes_in_a_row_end_the_container(
    container: Container, caplog: pytest.LogCaptureFixture
) -> None:
    container.release(ONE)
    await container.start(ONE)
    for _ in range(3):
        await container.serving(ONE)
        await container.crash()
    assert await container.end() == 9
    assert "3 crashes in a row, the last one: it ended with exit code 9" in caplog.text


async def test_a_first_release_that_cannot_start_ends_the_container_with_its_exit_code(
    container: Container,
) -> None:
    container.release(ONE, "fails")
    await container.start(ONE)
    assert await container.end() == 1


async def test_a_first_release_that_is_taken_back_ends_the_container(container: Container) -> None:
    container.release(ONE, "hangs")
    await container.start(ONE)
    await container.until(lambda document: document["phase"] == "loading")
    (container.mount / "CURRENT").unlink()
    assert await container.end() == 1


async def test_a_share_that_cannot_be_read_changes_nothing(container: Container) -> None:
    container.release(ONE)
    await container.start(ONE)
    first = await container.serving(ONE)
    container.mount.rename(container.mount.with_name("away"))
    await asyncio.sleep(0.2)
    assert (await container.serving(ONE))["pid"] == first["pid"]
    container.mount.with_name("away").rename(container.mount)
    (container.mount / "CURRENT").write_bytes(b"")
    await asyncio.sleep(0.2)
    assert (await container.serving(ONE))["pid"] == first["pid"]
    assert await stop(container) == 0


async def test_only_the_copies_of_running_releases_stay_on_the_disk(container: Container) -> None:
    for name in (ONE, TWO, THREE):
        container.release(name)
    await container.start(ONE)
    await container.serving(ONE)
    for name in (TWO, THREE):
        container.want(name)
        await container.serving(name)
    (copies,) = container.mount.parent.glob("fjarr-releases-*")
    async with asyncio.timeout(PATIENCE_S):
        while ONE in os.listdir(copies):  # noqa: ASYNC110, PTH208 - it polls the disk
            await asyncio.sleep(0.02)
    assert await stop(container) == 0


ENGINE = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); signal.pause()\n"


@pytest.mark.parametrize("fits", [True, False])
async def test_engine_code_reloads_the_engine_beside_the_old_one_or_after_it(
    container: Container, monkeypatch: pytest.MonkeyPatch, *, fits: bool
) -> None:
    monkeypatch.setattr(module, "fits_beside", lambda _use: fits)
    container.release(ONE, inference__engine_process=ENGINE)
    container.release(TWO, inference__engine_process=ENGINE, inference__more="x = 1")
    container.release(THREE, inference__engine_process=ENGINE + "# changed\n")
    await container.start(ONE)
    first = await container.serving(ONE)
    container.want(TWO)
    second = await container.serving(TWO)
    # Server code only: the same engine, at the same socket.
    assert second["engine"] == first["engine"] != ""
    slow = await container.begin()
    container.want(THREE)
    third = await container.serving(THREE)
    assert (await slow)["release"] == TWO
    assert third["engine"] != first["engine"]
    assert await stop(container) == 0


async def test_a_crashed_engine_is_started_again_and_the_third_crash_ends_the_container(
    container: Container, caplog: pytest.LogCaptureFixture
) -> None:
    signal_file = container.mount / "crash"
    wait = f"while not os.path.exists({str(signal_file)!r}): time.sleep(0.01)"
    crash = f"import os, time\n{wait}\nos._exit(7)\n"
    container.release(ONE, inference__engine_process=crash)
    await container.start(ONE)
    await container.serving(ONE)
    signal_file.touch()
    assert await container.end() == 7
    assert "3 crashes of the engine in a row, the last one: it ended with exit code 7" in caplog.text


async def test_a_server_that_ignores_sigterm_is_killed_before_the_platform_kills_all(
    container: Container, caplog: pytest.LogCaptureFixture
) -> None:
    container.stop_timeout_s = 0.5
    container.release(ONE, "stays")
    await container.start(ONE)
    await container.serving(ONE)
    assert await stop(container) == 128 + signal.SIGKILL
    assert "a server has not ended within 0.5 s after SIGTERM: it is killed" in caplog.text


@pytest.mark.quiet
async def test_the_share_is_read_more_often_for_a_while_after_a_change(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[float] = []
    loop = asyncio.get_running_loop()

    def read(mount: Path) -> str | None:
        reads.append(loop.time())
        return read_current(mount)

    monkeypatch.setattr(module, "read_current", read)
    monkeypatch.setattr(module, "CHECK_S", 0.4)
    for name in (ONE, TWO):
        container.release(name)
    await container.start(ONE)
    await container.serving(ONE)
    container.want(TWO)
    await container.serving(TWO)
    async with asyncio.timeout(PATIENCE_S):
        while len(reads) < 6:  # noqa: ASYNC110 - it waits for the share to be read
            await asyncio.sleep(0.01)
    gaps = [later - earlier for earlier, later in itertools.pairwise(reads)]
    assert min(gaps) < 0.4
    assert await stop(container) == 0
