"""A replica's guarantees: it runs, is probed, is restarted, and is removed without a trace."""

# ruff: noqa: ASYNC240 - a test may look at a file
from __future__ import annotations

import asyncio
import re
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.doubles.containers import APP, REVISION, gone


async def test_answers_503_with_a_reason_until_the_replica_is_ready(bench: Any) -> None:
    await bench.host.serve(APP, REVISION)
    status, text = await bench.get("/name")
    assert (status, text) == (
        503,
        "container app 'app' has no ready replica yet: its system log says what it waits for\n",
    )
    await bench.host.run(bench.spec(NEVER_READY="1"))
    await bench.event("ProbeFailed", 3)
    assert (await bench.get("/name"))[0] == 503
    assert bench.host.revision_state(REVISION) == ("Processing", "None", "0/1 replicas ready.")
    (replica,) = bench.host.replicas(REVISION)
    assert (replica.ready, replica.started, replica.running_state) == (False, True, "Running")


async def test_serves_once_the_replica_is_ready(bench: Any) -> None:
    await bench.up()
    (replica,) = bench.host.replicas(REVISION)
    assert await bench.get("/name") == (200, replica.name)
    assert re.fullmatch(r"app--0000001-[0-9a-f]{10}-[a-z0-9]{5}", replica.name)
    assert (replica.ready, replica.started, replica.restart_count, replica.exit_code) == (True, True, 0, None)
    assert replica.created.tzinfo is not None
    assert bench.host.revision_state(REVISION) == ("Running", "Healthy", "")
    await bench.event("RevisionReady")
    reasons = [reason for reason in await bench.events() if reason != "ProbeFailed"]
    assert reasons == ["AssigningReplica", "ContainerCreated", "ContainerStarted", "RevisionReady"]


async def test_takes_a_replica_out_while_its_readiness_fails(bench: Any) -> None:
    await bench.up()
    (replica,) = bench.host.replicas(REVISION)
    await bench.get("/set?name=ready&value=no")
    await bench.event("ProbeFailed", replica=replica.name)
    async with asyncio.timeout(60):
        while (await bench.get("/name"))[0] != 503:
            pass
    assert not bench.host.replicas(REVISION)[0].ready
    assert bench.host.replicas(REVISION)[0].restart_count == 0


async def test_gives_nothing_of_this_machines_environment(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THIS_MACHINE", "x")
    await bench.up(bench.spec(FJARR_API_KEYS="name=key", CONTAINER_APP_NAME="not this"))
    (replica,) = bench.host.replicas(REVISION)
    about = await bench.about()
    env = about["env"]
    for of_bash in ("PWD", "SHLVL", "_", "OLDPWD"):
        env.pop(of_bash, None)
    home, tmp = Path(env.pop("HOME")), Path(env.pop("TMPDIR"))
    assert env == {
        "PATH": f"{home.parent}/venv/bin:/usr/local/bin:/usr/bin:/bin",
        "VIRTUAL_ENV": f"{home.parent}/venv",
        "LANG": "C.UTF-8",
        "FJARR_API_KEYS": "name=key",
        "CONTAINER_APP_NAME": "app",
        "CONTAINER_APP_REVISION": REVISION,
        "CONTAINER_APP_REPLICA_NAME": replica.name,
        "CONTAINER_APP_HOSTNAME": "app.local.test",
        "CONTAINER_APP_ENV_DNS_SUFFIX": "local.test",
        "CONTAINER_APP_PORT": str(replica.port),
    }
    assert home.is_dir()
    assert tmp.is_dir()
    assert Path(about["cwd"]).parent.name == replica.name
    assert stat.S_IMODE(Path(about["cwd"]).parent.stat().st_mode) == 0o700
    assert about["pid"] == about["sid"]
    await bench.host.stop(REVISION)
    assert not any(path.exists() for path in (home, tmp, Path(about["cwd"])))


async def test_starts_a_crashed_container_again_and_counts(bench: Any) -> None:
    await bench.up()
    (before,) = bench.host.replicas(REVISION)
    with pytest.raises(AssertionError):
        assert (await bench.get("/crash?code=3"))[0] == 200
    await bench.event("ContainerTerminated")
    await bench.event("ContainerStarted", 2)
    await bench.event("ContainerBackOff")
    await bench.host.wait_ready(REVISION)
    (after,) = bench.host.replicas(REVISION)
    assert (after.name, after.created) == (before.name, before.created)
    assert (after.restart_count, after.exit_code) == (1, 3)
    assert (await bench.get("/name"))[0] == 200
    lines = [record.text async for record in bench.host.console_log(REVISION, after.name, tail=2)]
    assert lines[0] == "last words"
    assert lines[1].startswith("starting ")


async def test_waits_longer_from_crash_to_crash_and_logs_why(bench: Any) -> None:
    await bench.host.run(bench.spec(EXIT="7"))
    record = await bench.event("ContainerBackOff", 4)
    assert record.message == "Back-off 0.2 s restarting failed container 'main'"
    assert (record.count, record.type) == (4, "Warning")
    ended = await bench.event("ContainerTerminated")
    assert ended.message == "Container 'main' was terminated with exit code '7' and reason 'ProcessExited'"
    state = bench.host.revision_state(REVISION)
    assert state[:2] == ("Failed", "Unhealthy")
    assert "exit code '7'" in state.details
    (replica,) = bench.host.replicas(REVISION)
    lines = [record.text async for record in bench.host.console_log(REVISION, replica.name, tail=1)]
    assert lines == ["cannot go on"]


async def test_reports_a_missing_program(bench: Any) -> None:
    spec = bench.spec()
    missing = replace(spec, container=replace(spec.container, command=("/no/such/program",), args=()))
    await bench.host.run(missing)
    record = await bench.event("ContainerCreateFailure", 2)
    assert record.message == (
        "Container 'main' cannot be started: No such file or directory: ('/no/such/program',)"
    )
    (replica,) = bench.host.replicas(REVISION)
    assert (replica.restart_count, replica.running_state) == (0, "Waiting")


async def test_stops_with_sigterm_and_lets_a_stream_finish(bench: Any) -> None:
    await bench.up()
    (replica,) = bench.host.replicas(REVISION)
    stream = asyncio.create_task(bench.get("/stream?pieces=40&gap=0.05"))
    await bench.line("stream begins")
    stop = asyncio.create_task(bench.host.stop(REVISION))
    await bench.line("draining", replica.name)
    assert (await bench.get("/name"))[0] == 503
    status, text = await stream
    assert (status, text.count("data: ")) == (200, 40)
    await stop
    assert (await bench.event("ContainerTerminated")).message.endswith("exit code '0' and reason 'Stopped'")
    assert bench.host.replicas(REVISION) == ()
    assert bench.host.revision_state(REVISION) == ("Stopped", "None", "")


@pytest.mark.quiet
async def test_kills_what_does_not_end_within_its_grace(bench: Any) -> None:
    await bench.up(bench.spec(IGNORE_TERM="1", grace_s=0.3))
    pid = (await bench.about())["pid"]
    began = time.monotonic()
    await bench.host.stop(REVISION)
    assert 0.3 <= time.monotonic() - began < 8
    assert gone(pid)
    assert (await bench.event("ContainerTerminated")).message.endswith("exit code '137' and reason 'Stopped'")


@pytest.mark.parametrize("how", ["stop", "crash"])
async def test_leaves_no_child_behind_not_even_one_in_a_session_of_its_own(bench: Any, how: str) -> None:
    await bench.up(bench.spec(CHILDREN="1"))
    (replica,) = bench.host.replicas(REVISION)
    log = bench.host.console_log(REVISION, replica.name, tail=100)
    children = [int(record.text.split()[-1]) async for record in log if record.text.startswith("child pid")]
    assert len(children) == 2
    assert all(psutil.pid_exists(pid) for pid in children)
    if how == "stop":
        await bench.host.stop(REVISION)
    else:
        psutil.Process((await bench.about())["pid"]).kill()
        assert "'137'" in (await bench.event("ContainerTerminated")).message
    assert gone(*children)


async def test_leaves_no_process_no_port_and_no_file_of_a_removed_app(bench: Any, tmp_path: Path) -> None:
    await bench.up()
    pid = (await bench.about())["pid"]
    await bench.host.remove_app(APP)
    assert gone(pid)
    assert not (tmp_path / "state" / "apps" / "app").exists()
    with pytest.raises(OSError, match=r"Cannot connect to host 127\.0\.0\.1"):
        await bench.get("/name")
    with pytest.raises(KeyError):
        bench.host.system_log(APP)
