"""A replica's guarantees: it runs, is probed, is restarted, and is removed without a trace."""

# ruff: noqa: ASYNC240 - a test may look at a file
from __future__ import annotations

import asyncio
import json
import re
import signal
import stat
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from localcloud.runtime import ContainerHost, Probe, RevisionNotActiveError
from localcloud.runtime.sockets import free_port

APP = "app"
REVISION = "app--0000001"
PORT = 7860
READINESS = Probe("Readiness", "/readyz", PORT, period_s=0.05, timeout_s=2, failure_threshold=1)


def gone(*pids: int) -> bool:
    """Whether processes end within a few seconds."""
    living = []
    for pid in pids:
        try:
            living.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    return all(process.status() == psutil.STATUS_ZOMBIE for process in psutil.wait_procs(living, 5)[1])


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
    async with asyncio.timeout(5):
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
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
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


async def test_restarts_a_container_whose_liveness_fails(bench: Any) -> None:
    startup = Probe("Startup", "/healthz", PORT, period_s=0.05, timeout_s=2, failure_threshold=1000)
    liveness = Probe("Liveness", "/healthz", PORT, period_s=0.05, timeout_s=2, failure_threshold=2)
    await bench.up(bench.spec(startup, READINESS, liveness))
    await bench.get("/set?name=healthy&value=no")
    record = await bench.event("ReplicaUnhealthy")
    assert record.message == "Liveness probe failed 2 times in a row: container will be restarted"
    ended = await bench.event("ContainerTerminated")
    assert ended.message.endswith("with exit code '0' and reason 'ProbeFailure'")
    await bench.event("ContainerStarted", 2)


async def test_restarts_a_container_that_never_starts_up(bench: Any) -> None:
    startup = Probe("Startup", "/nothing", PORT, period_s=0.05, timeout_s=2, failure_threshold=4)
    spec = bench.spec(startup, READINESS, grace_s=0.2)
    deaf = replace(spec.container, args=("-c", "trap '' TERM; sleep 600"))
    await bench.host.run(replace(spec, container=deaf))
    await bench.event("ReplicaUnhealthy")
    ended = await bench.event("ContainerTerminated")
    assert ended.message.endswith("with exit code '137' and reason 'ProbeFailure'")
    assert not bench.host.replicas(REVISION)[0].started


async def test_probes_readiness_only_after_startup(bench: Any) -> None:
    startup = Probe("Startup", "/readyz", PORT, period_s=0.05, timeout_s=2, failure_threshold=100)
    await bench.host.run(bench.spec(startup, READINESS, NEVER_READY="1"))
    record = await bench.event("ProbeFailed", 4)
    assert record.message.startswith("Probe of StartUp failed with ")
    assert record.count == 8
    assert not bench.host.replicas(REVISION)[0].started


async def test_takes_a_tcp_connection_or_a_redirect_for_success(bench: Any) -> None:
    startup = Probe("Startup", None, PORT, period_s=0.05, failure_threshold=100)
    readiness = Probe("Readiness", "/redirect", PORT, period_s=0.05, timeout_s=2)
    await bench.up(bench.spec(startup, readiness))
    assert (await bench.get("/name"))[0] == 200


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
    assert 0.3 <= time.monotonic() - began < 3
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


async def test_restarts_start_first_without_a_failed_request(bench: Any) -> None:
    await bench.up(bench.spec(replicas=2))
    before = {replica.name for replica in bench.host.replicas(REVISION)}
    answers: list[tuple[int, str]] = []
    done = asyncio.Event()

    async def ask() -> None:
        while not done.is_set():
            async with bench.session.post(bench.url + "/echo", data=b"x" * 1000) as response:
                answers.append((response.status, "" if len(await response.read()) == 1000 else "short"))
            answers.append(await bench.get("/name"))

    load = [asyncio.create_task(ask()) for _ in range(4)]
    await bench.host.restart(REVISION)
    incoming = {replica.name for replica in bench.host.replicas(REVISION)} - before
    assert len(incoming) == 2
    await bench.host.wait_ready(REVISION)
    await bench.event("ContainerTerminated", 2)
    done.set()
    await asyncio.gather(*load)
    assert {status for status, _ in answers} == {200}
    assert "short" not in {text for _, text in answers}
    assert {text for _, text in answers} >= before | incoming
    assert {text for _, text in answers[-8:]} <= incoming | {""}


async def test_keeps_the_old_replica_serving_when_the_new_one_never_gets_ready(bench: Any) -> None:
    await bench.up()
    (old,) = bench.host.replicas(REVISION)
    await bench.host.run(bench.spec(EXIT="1"))
    assert [replica.name for replica in bench.host.replicas(REVISION)] == [old.name]
    await bench.host.restart(REVISION)
    broken = bench.host.replicas(REVISION)[0].name
    await bench.event("ContainerBackOff", 2)
    assert await bench.get("/name") == (200, old.name)
    state = bench.host.revision_state(REVISION)
    assert state[:2] == ("Degraded", "Unhealthy")
    assert "exit code '1'" in state.details

    await bench.host.run(bench.spec())
    await bench.host.restart(REVISION)
    await bench.host.wait_ready(REVISION)
    await bench.event("ContainerTerminated", replica=old.name)
    names = {replica.name for replica in bench.host.replicas(REVISION)}
    assert broken not in names
    assert (await bench.get("/name"))[1] in names
    assert bench.host.revision_state(REVISION) == ("Running", "Healthy", "")


async def test_scales_up_and_down_and_is_idempotent(bench: Any) -> None:
    await bench.up(bench.spec(replicas=1))
    (first,) = bench.host.replicas(REVISION)
    await bench.host.run(bench.spec(replicas=1))
    assert bench.host.replicas(REVISION)[0].name == first.name
    await bench.up(bench.spec(replicas=3))
    assert len({(await bench.get("/name"))[1] for _ in range(3)}) == 3
    await bench.host.run(bench.spec(replicas=1))
    await bench.event("ContainerTerminated", 2)
    await bench.host.wait_ready(REVISION)
    assert await bench.get("/name") == (200, first.name)


async def test_refuses_to_restart_what_does_not_run(bench: Any) -> None:
    with pytest.raises(RevisionNotActiveError, match="revision 'app--0000001' is not active"):
        await bench.host.restart(REVISION)
    await bench.up()
    await bench.host.stop(REVISION)
    with pytest.raises(RevisionNotActiveError):
        await bench.host.restart(REVISION)


async def test_refuses_a_replica_that_the_network_can_reach(bench: Any) -> None:
    await bench.host.run(bench.spec(ADDRESS="0.0.0.0"))  # noqa: S104 - what must be refused
    await bench.host.serve(APP, REVISION)
    record = await bench.event("NonLoopbackListener")
    (replica,) = bench.host.replicas(REVISION)
    assert record.message == (
        f"It listens on 0.0.0.0:{replica.port}, which others than this machine can reach: killed, and not "
        "started again. On the local cloud a container must listen on 127.0.0.1 (FJARR_HOST=127.0.0.1)"
    )
    await bench.event("ContainerTerminated")
    assert (await bench.get("/name"))[0] == 503
    assert "ContainerBackOff" not in await bench.events()
    assert bench.host.replicas(REVISION)[0].running_state == "Terminated"
    assert bench.host.revision_state(REVISION)[:2] == ("Failed", "Unhealthy")


async def test_refuses_a_replica_that_opens_a_port_to_the_network_later(bench: Any, tmp_path: Path) -> None:
    later = tmp_path / "later.py"
    opening = 'state["open"] = socket.create_server(("", 0)); self.answer(200)'
    page = f'elif url.path == "/open":\n            {opening}\n        elif url.path == "/redirect":'
    later.write_text(bench.server.read_text().replace('elif url.path == "/redirect":', page))
    bench.server = later
    await bench.up()
    assert (await bench.get("/open"))[0] == 200
    await bench.event("NonLoopbackListener")
    await bench.event("ContainerTerminated")
    assert (await bench.get("/name"))[0] == 503


async def test_reports_a_container_that_listens_on_another_port(bench: Any) -> None:
    other = free_port()
    await bench.host.run(bench.spec(PORT=str(other)))
    record = await bench.event("Pending:PortMismatch")
    (replica,) = bench.host.replicas(REVISION)
    assert record.message == (
        f"The TargetPort 7860 does not match the listening port {other}: "
        f"here the container must listen on CONTAINER_APP_PORT ({replica.port})"
    )
    state = bench.host.revision_state(REVISION)
    assert state == ("Failed", "Unhealthy", f"0/1 replicas ready. {record.message}")


async def test_mounts_a_directory_as_a_symlink_while_it_is_needed(bench: Any, tmp_path: Path) -> None:
    share, mount = tmp_path / "share", tmp_path / "deep" / "mount"
    share.mkdir()
    (share / "CURRENT").write_text("release")
    spec = bench.spec()
    container = replace(
        spec.container,
        mounts=((share, str(mount)),),
        args=("-c", f"cat '{mount}/CURRENT'; echo; exec python3 '{bench.server}'"),
    )
    await bench.up(replace(spec, container=container))
    assert mount.readlink() == share
    await bench.line("release")
    await bench.host.restart(REVISION)
    await bench.host.wait_ready(REVISION)
    await bench.event("ContainerTerminated")
    assert mount.is_symlink()
    await bench.host.stop(REVISION)
    assert not mount.is_symlink()
    assert (share / "CURRENT").exists()


async def test_a_mount_path_leads_to_one_place_at_a_time(bench: Any, tmp_path: Path) -> None:
    one, other, mount = tmp_path / "one", tmp_path / "other", tmp_path / "mount"
    one.mkdir()
    other.mkdir()
    spec = bench.spec()
    await bench.up(replace(spec, container=replace(spec.container, mounts=((one, str(mount)),))))
    second = replace(spec.container, mounts=((other, str(mount)),))
    await bench.host.run(replace(spec, revision="app--0000002", container=second))
    record = await bench.event("VolumeMountFailure")
    assert record.message == (
        f"mount path '{mount}' leads to '{one}', which another replica needs, and cannot lead to '{other}' "
        "too: stop that one's revision first, or choose another mountPath"
    )
    await bench.host.stop(REVISION)
    await bench.host.wait_ready("app--0000002")
    assert mount.readlink() == other


async def test_touches_nothing_that_stands_at_the_mount_path(bench: Any, tmp_path: Path) -> None:
    share, mount = tmp_path / "share", tmp_path / "mount"
    share.mkdir()
    mount.mkdir()
    (mount / "mine").write_text("precious")
    spec = bench.spec()
    await bench.host.run(replace(spec, container=replace(spec.container, mounts=((share, str(mount)),))))
    record = await bench.event("VolumeMountFailure", 2)
    assert record.message == f"mount path '{mount}' is taken: choose another, or move away what is there"
    assert bench.host.revision_state(REVISION)[:2] == ("Failed", "Unhealthy")
    assert (mount / "mine").read_text() == "precious"
    assert "ContainerCreated" not in await bench.events()


DAEMON = """
import asyncio, signal, sys
from pathlib import Path
from localcloud.runtime import Container, ContainerHost, Probe, RevisionSpec

# Whoever runs the tests in a shell's background leaves it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

async def main(state, server, share, mount):
    host = ContainerHost(Path(state))
    port = await host.start_app("app")
    readiness = Probe("Readiness", "/readyz", 7860, period_s=0.05, timeout_s=2)
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
    async with asyncio.timeout(30):
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
