"""Start the processes that are measured, wait until they are ready, and stop them.

The only module of the benchmarks that starts processes.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PORT: Final = "{port}"
"""The placeholder of the port in a launch's arguments and environment."""

POLL_S: Final = 0.05
REQUEST_TIMEOUT_S: Final = 5.0
STOP_TIMEOUT_S: Final = 30.0
SHOWN_LINES: Final = 8
HTTP_OK: Final = 200


class StartError(Exception):
    """A process to be measured did not start, or failed."""


@dataclass(frozen=True, slots=True)
class Launch:
    """The command that starts a server, and when the server is ready.

    Attributes:
        argv: The command; `{port}` is replaced by the port.
        environ: Variables to add to this process's environment; `{port}` is replaced here too.
        ready_paths: The paths that must return 200 before the server is ready, in this order.
        start_limit_s: The time limit for that.
    """

    argv: tuple[str, ...]
    folder: Path
    environ: tuple[tuple[str, str], ...] = ()
    ready_paths: tuple[str, ...] = ("/health",)
    start_limit_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Running:
    """The address of a ready server, and the time that its start took."""

    address: str
    ready_after_s: float


class Server:
    """A started server that may not be ready yet. `started` creates it."""

    def __init__(self, launch: Launch, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.started_s = time.monotonic()
        self.port = port
        self.pid = process.pid
        self._launch = launch
        self._process = process
        self._log = log

    def request(self, path: str) -> tuple[int, bytes]:
        """Return status and body of a GET; status 0 while there is no answer.

        Raises:
            StartError: If the process has ended, or its time limit has passed.
        """
        if self._process.poll() is not None:
            raise StartError(f"it ended with {self._process.returncode}: {last_lines(self._log)}")
        if time.monotonic() - self.started_s > self._launch.start_limit_s:
            limit_s = self._launch.start_limit_s
            raise StartError(f"it was not ready within {limit_s:g} s: {last_lines(self._log)}")
        return get(self.port, path)

    def wait_until_ready(self) -> Running:
        """Wait until every path returns 200.

        Raises:
            StartError: If the process ends, or its time limit passes.
        """
        for path in self._launch.ready_paths:
            while self.request(path)[0] != HTTP_OK:
                time.sleep(POLL_S)
        return Running(f"http://127.0.0.1:{self.port}", time.monotonic() - self.started_s)


@contextlib.contextmanager
def started(launch: Launch, log: Path) -> Iterator[Server]:
    """Start a server on a free loopback port; stop it and its child processes on exit."""
    port = free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [part.replace(PORT, str(port)) for part in launch.argv],
            cwd=launch.folder,
            env=environment((name, value.replace(PORT, str(port))) for name, value in launch.environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Server(launch, process, port, log)
    finally:
        stop(process)


def stop(process: subprocess.Popen[Any]) -> None:
    """Terminate the process, then kill its process group: an engine may run in other processes."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(argv: Sequence[str], folder: Path, log: Path, stdin: str = "") -> str:
    """Run a command to its end and return its stdout; its stderr goes to the log.

    Args:
        argv: The command.
        folder: Its working directory.
        log: The file for stderr.
        stdin: Its standard input.

    Raises:
        StartError: If it fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        done = subprocess.run(
            argv,
            cwd=folder,
            env=environment(()),
            input=stdin.encode(),
            stdout=subprocess.PIPE,
            stderr=output,
            check=False,
        )
    if done.returncode:
        raise StartError(f"it ended with {done.returncode}: {last_lines(log)}")
    return done.stdout.decode()


def versions(python: str, distributions: Sequence[str]) -> dict[str, str]:
    """Return the versions of the distributions that an interpreter has installed."""
    code = (
        "import json, sys\n"
        "from importlib import metadata\n"
        "found = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        found[name] = metadata.version(name)\n"
        "    except metadata.PackageNotFoundError:\n"
        "        pass\n"
        "print(json.dumps(found))\n"
    )
    try:
        done = subprocess.run(
            [python, "-I", "-c", code, *distributions], capture_output=True, check=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    found: dict[str, str] = json.loads(done.stdout)
    return found


def exit_on_signals() -> None:
    """Exit on the signals that end a process, so that started servers are stopped."""

    def exit_on(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, exit_on)


def gpu_names() -> tuple[str, ...]:
    """Return the names of the machine's GPUs, from the driver's tool."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],  # noqa: S607 - the machine's own
            capture_output=True,
            check=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


def get(port: int, path: str) -> tuple[int, bytes]:
    """Return status and body of a GET on loopback; status 0 if there is no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def free_port() -> int:
    """Return a free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(additions: Any) -> dict[str, str]:  # noqa: ANN401 - anything that `dict` takes as pairs
    """Return this process's environment without `FJARR_` settings, offline, with additions."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FJARR_")}
    return inherited | {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"} | dict(additions)


def last_lines(log: Path) -> str:
    """Return the last lines of a log, on one line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-SHOWN_LINES:]) or "no output"
