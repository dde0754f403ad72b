"""What a daemon leaves behind when it ends, and what the next one removes."""

# ruff: noqa: ASYNC240 - a test may look at a file
from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from localcloud.runtime import ContainerHost
from tests.doubles.containers import APP, REVISION, gone

if TYPE_CHECKING:
    from pathlib import Path

DAEMON = """
import asyncio, signal, sys
from pathlib import Path
from localcloud.runtime import Container, ContainerHost, Probe, RevisionSpec

# Whoever runs the tests in a shell's background leaves it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

async def main(state, server, share, mount):
    host = ContainerHost(Path(state))
    port = await host.start_app("app")
    readiness = Probe("Readiness", "/readyz", 7860, period_s=0.05, timeout_s=10)
    container = Container("main", "none", ("/bin/bash",), ("-c", f"exec python3 '{server}'"),
        (("CHILDREN", "1"),), (readiness,), ((Path(share), mount),))
    await host.run(RevisionSpec("app", "app--0000001", container, 7860, 1, 5))
    await host.serve("app", "app--0000001")
    await host.wait_ready("app--0000001")
    # The children's output goes through this process and is lost with it: wait until it is in the log.
    (replica,) = host.replicas("app--0000001")
    lines = (record.text async for record in host.console_log("app--0000001", replica.name, follow=True))
    for _ in range(2):
        while await anext(lines) != "child":
            pass
    print(port, flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@dataclass
class Daemon:
    """A process of its own that runs a host with one replica, which has two children and a mount."""

    process: asyncio.subprocess.Process
    port: int
    children: list[psutil.Process]
    state: Path
    mount: Path


@pytest.fixture
async def daemon(tmp_path: Path, make_bench: Any) -> Daemon:
    share, mount, state = tmp_path / "share", tmp_path / "mount", tmp_path / "state"
    share.mkdir()
    await make_bench()
    arguments = ("-c", DAEMON, str(state), str(tmp_path / "server.py"), str(share), str(mount))
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 3
    assert mount.is_symlink()
    return Daemon(process, port, children, state, mount)


async def test_clears_up_after_a_daemon_that_was_killed(daemon: Daemon) -> None:
    daemon.process.send_signal(signal.SIGKILL)
    await daemon.process.communicate()
    assert all(child.is_running() for child in daemon.children)
    (ledger,) = daemon.state.glob("apps/app/replicas/*/processes.json")
    tmp = (ledger.parent / "tmp").readlink()

    host = ContainerHost(daemon.state)
    try:
        assert await host.recover() == (ledger.parent.name,)
        assert gone(*(child.pid for child in daemon.children))
        assert not daemon.mount.is_symlink()
        assert not any(path.exists() for path in (tmp, ledger))
        assert await host.start_app(APP, daemon.port) == daemon.port
        texts = [record.text async for record in host.console_log(REVISION, ledger.parent.name, tail=100)]
        assert texts.count("child") == 2
    finally:
        await host.close()


async def test_leaves_nothing_when_its_daemon_is_interrupted(daemon: Daemon) -> None:
    daemon.process.send_signal(signal.SIGINT)
    await daemon.process.communicate()
    assert gone(*(child.pid for child in daemon.children))
    assert not daemon.mount.is_symlink()
    assert not list(daemon.state.glob("apps/app/replicas/*/processes.json"))


INTERRUPTED = """
import asyncio, sys
from pathlib import Path
from localcloud.runtime import Container, ContainerHost, RevisionSpec

async def main(state, delay_s):
    container = Container("main", "none", ("/bin/bash",), ("-c", "sleep 600 & sleep 600"))
    host = ContainerHost(Path(state))
    await host.run(RevisionSpec("app", "app--0000001", container, 7860, 2))
    await asyncio.sleep(delay_s)

for number in range(6):
    asyncio.run(main(sys.argv[1], number * 0.01))
"""


async def test_leaves_nothing_when_its_loop_ends_in_the_middle_of_a_start(tmp_path: Path) -> None:
    arguments = ("-c", INTERRUPTED, str(tmp_path / "state"))
    interrupted = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stderr=asyncio.subprocess.DEVNULL, env={"TMPDIR": str(tmp_path)}
    )
    async with asyncio.timeout(120):
        assert await interrupted.wait() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    replicas = {path.name for path in tmp_path.glob("state/apps/app/replicas/*")}
    assert replicas
    assert not [process for process in psutil.process_iter() if replica_of(process) in replicas]


def replica_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("CONTAINER_APP_REPLICA_NAME")
    except psutil.Error:
        return None


async def test_does_not_kill_a_stranger_that_got_a_recorded_pid(tmp_path: Path) -> None:
    stranger = await asyncio.create_subprocess_exec("sleep", "600")
    directory = tmp_path / "apps" / "app" / "replicas" / "app--0000001-0123456789-abcde"
    directory.mkdir(parents=True)
    created = psutil.Process(stranger.pid).create_time() - 3600
    ledger = {"replica": directory.name, "processes": [[stranger.pid, created]]}
    (directory / "processes.json").write_text(json.dumps(ledger))
    host = ContainerHost(tmp_path)
    assert await host.recover() == (directory.name,)
    assert psutil.Process(stranger.pid).is_running()
    stranger.kill()
    await stranger.wait()
    await host.close()
