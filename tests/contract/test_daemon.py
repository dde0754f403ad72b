"""The daemon as a process: started, found, killed, started again and stopped without leftovers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from localcloud import daemon
from localcloud.daemon import DaemonError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


def command(verb: str, state: Path) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "localcloud", verb, "--state", str(state)]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "cloud"
    yield directory
    command("stop", directory)


def port_of(descriptor: dict[str, Any]) -> int:
    return int(descriptor["resource_manager"].rstrip("/").rpartition(":")[2])


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def get(descriptor: dict[str, Any], path: str) -> tuple[int, Any]:
    context = ssl.create_default_context(cafile=descriptor["ca_bundle"])
    try:
        with urllib.request.urlopen(
            descriptor["resource_manager"] + path, context=context, timeout=60
        ) as found:
            return found.status, json.load(found)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_a_daemon_that_is_still_starting_is_waited_for_and_stopped(state: Path) -> None:
    daemon.prepare(state, {})
    starting = subprocess.Popen(
        [sys.executable, "-m", "localcloud", "serve", "--state", str(state)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    # It has the lock some time before it can be reached.
    while not daemon._is_locked(state):
        assert starting.poll() is None
    assert daemon.stop(state)
    assert starting.wait(timeout=60) == 0
    assert daemon.find(state) is None


NEVER_FOUND = """
import sys
from localcloud import daemon
from localcloud.__main__ import main

daemon.find = lambda _: None
sys.exit(main(["start", "--state", sys.argv[1]]))
"""


def test_a_start_that_is_interrupted_leaves_no_daemon_behind(state: Path) -> None:
    starting = subprocess.Popen([sys.executable, "-c", NEVER_FOUND, str(state)], cwd=ROOT)
    pause = threading.Event()
    while (found := daemon.find(state)) is None:
        assert starting.poll() is None
        pause.wait(0.05)
    running = psutil.Process(found.pid)
    starting.terminate()
    assert starting.wait(timeout=60) == 128 + signal.SIGTERM
    psutil.wait_procs([running], timeout=60)
    assert not running.is_running() or running.status() == psutil.STATUS_ZOMBIE
    assert daemon.find(state) is None


def test_a_daemon_that_does_not_come_up_is_ended(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "START_TIMEOUT_S", 0.0)
    with pytest.raises(DaemonError, match="the local cloud did not come up"):
        daemon.start(state, {"PATH": os.environ["PATH"]})
    assert not [child for child in psutil.Process().children(recursive=True) if is_cloud(child)]
    assert not daemon._is_locked(state)


def test_a_daemon_lives_from_start_to_stop_and_outlives_a_kill(state: Path) -> None:
    started = command("start", state)
    assert started.returncode == 0, started.stderr
    descriptor = json.loads(started.stdout)
    assert (state / "cloud.json").stat().st_mode & 0o777 == 0o600
    assert state.stat().st_mode & 0o777 == 0o700
    assert json.loads((state / "cloud.json").read_text()) == descriptor
    assert get(descriptor, "metadata/endpoints?api-version=2022-09-01")[1]["suffixes"]["storage"].startswith(
        "core."
    )
    status, answer = get(descriptor, "subscriptions?api-version=2022-12-01")
    assert (status, answer["error"]["code"]) == (401, "AuthenticationFailed")
    assert {found.laddr.ip for found in listeners(descriptor["pid"])} == {"127.0.0.1"}

    again = json.loads(command("start", state).stdout)
    assert again == descriptor
    running = command("status", state)
    assert (running.returncode, json.loads(running.stdout)["pid"]) == (0, descriptor["pid"])
    second = command("serve", state)
    assert (second.returncode, "another local cloud serves" in second.stderr) == (1, True)

    process = psutil.Process(descriptor["pid"])
    os.kill(descriptor["pid"], signal.SIGKILL)
    psutil.wait_procs([process], timeout=60)
    assert command("status", state).returncode == 3
    recovered = json.loads(command("start", state).stdout)
    assert recovered["pid"] != descriptor["pid"]
    assert {**recovered, "pid": 0} == {**descriptor, "pid": 0}

    assert json.loads(command("stop", state).stdout) == {"stopped": True}
    assert not psutil.pid_exists(recovered["pid"])
    assert not is_open(port_of(recovered))
    assert not (state / "cloud.json").exists()
    assert json.loads(command("stop", state).stdout) == {"stopped": False}
    assert command("status", state).returncode == 3


def test_a_daemon_without_its_directory_ends(state: Path) -> None:
    descriptor = json.loads(command("start", state).stdout)
    process = psutil.Process(descriptor["pid"])
    shutil.rmtree(state)
    gone, alive = psutil.wait_procs([process], timeout=60)
    assert (len(gone), alive) == (1, [])
    assert not is_open(port_of(descriptor))


def is_cloud(process: psutil.Process) -> bool:
    try:
        return "localcloud" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def listeners(pid: int) -> list[Any]:
    connections = psutil.Process(pid).net_connections(kind="inet")
    return [found for found in connections if found.status == psutil.CONN_LISTEN]


@pytest.mark.parametrize("below", ["", "local"])
def test_the_azure_clis_own_directories_are_refused(own_home: Path, below: str) -> None:
    theirs = own_home / ".azure" / below
    with pytest.raises(DaemonError, match="belongs to the Azure CLI"):
        daemon.prepare(theirs, {})
    named = own_home / "config" / below
    with pytest.raises(DaemonError, match="belongs to the Azure CLI"):
        daemon.prepare(named, {"AZURE_CONFIG_DIR": str(own_home / "config")})
    assert not theirs.exists()
    assert not named.exists()


def test_a_taken_port_is_replaced(tmp_path: Path) -> None:
    port = daemon._choose_port(tmp_path)
    assert daemon._choose_port(tmp_path) == port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert daemon._choose_port(tmp_path) != port


def test_a_torn_descriptor_is_none(tmp_path: Path) -> None:
    (tmp_path / "cloud.json").write_text("{")
    assert daemon.find(tmp_path) is None
    (tmp_path / "cloud.json").write_text('{"pid": 1}')
    assert daemon.find(tmp_path) is None
