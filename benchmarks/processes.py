"""Start the processes that are measured, wait until they answer, and stop them: the one place that does."""

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
"""Stands for the port in a launch's arguments and environment."""

POLL_S: Final = 0.05
ANSWER_LIMIT_S: Final = 5.0
STOP_PATIENCE_S: Final = 30.0
SHOWN_LINES: Final = 8
HTTP_OK: Final = 200


class StartError(Exception):
    """A process that is to be measured did not come up, or did not do its work."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Say how a server is started.

    Attributes:
        argv: The command; `{port}` stands for the port.
        environ: What the environment has beside this process's own; here too `{port}` is the port.
        ready_paths: What must answer 200 before the server counts as ready, in this order.
        start_limit_s: How long that may take.
    """

    argv: tuple[str, ...]
    folder: Path
    environ: tuple[tuple[str, str], ...] = ()
    ready_paths: tuple[str, ...] = ("/health",)
    start_limit_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Running:
    """Say where a started server is, and how long it took until it was ready."""

    address: str
    ready_after_s: float


class Server:
    """Be a started server that may not be ready yet. Made by `started`."""

    def __init__(self, launch: Launch, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.started_s = time.monotonic()
        self.port = port
        self._launch = launch
        self._process = process
        self._log = log

    def ask(self, path: str) -> tuple[int, bytes]:
        """Return status and body of a GET, or 0 while nobody answers.

        Raises:
            StartError: If the process has ended, or its time is over.
        """
        if self._process.poll() is not None:
            raise StartError(f"it ended with {self._process.returncode}: {last_lines(self._log)}")
        if time.monotonic() - self.started_s > self._launch.start_limit_s:
            limit_s = self._launch.start_limit_s
            raise StartError(f"it was not ready within {limit_s:g} s: {last_lines(self._log)}")
        return get(self.port, path)

    def wait_until_ready(self) -> Running:
        """Wait until every path answers 200.

        Raises:
            StartError: If that does not come.
        """
        for path in self._launch.ready_paths:
            while self.ask(path)[0] != HTTP_OK:
                time.sleep(POLL_S)
        return Running(f"http://127.0.0.1:{self.port}", time.monotonic() - self.started_s)


@contextlib.contextmanager
def started(launch: Launch, log: Path) -> Iterator[Server]:
    """Start a server on a free loopback port; stop it, and all that it has started, at the end."""
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
        _stop(process)


def run(argv: Sequence[str], folder: Path, log: Path, question: str = "") -> str:
    """Run a command to its end and return what it says on stdout; what it says on stderr goes to the log.

    Args:
        argv: The command.
        folder: Where it runs.
        log: The file for stderr.
        question: What it reads on stdin.

    Raises:
        StartError: If it fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        done = subprocess.run(
            argv,
            cwd=folder,
            env=environment(()),
            input=question.encode(),
            stdout=subprocess.PIPE,
            stderr=output,
            check=False,
        )
    if done.returncode:
        raise StartError(f"it ended with {done.returncode}: {last_lines(log)}")
    return done.stdout.decode()


def versions(python: str, distributions: Sequence[str]) -> dict[str, str]:
    """Return the versions of those distributions that an interpreter has."""
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


def leave_on_signals() -> None:
    """Turn the signals that end a process into an exit, which stops what was started."""

    def leave(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, leave)


def gpu_names() -> tuple[str, ...]:
    """Return the names of the machine's GPUs, as their driver's tool says them."""
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
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_LIMIT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(additions: Any) -> dict[str, str]:  # noqa: ANN401 - anything that `dict` takes as pairs
    """Return this process's environment, without settings of ours, offline, with additions."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FJARR_")}
    return inherited | {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"} | dict(additions)


def last_lines(log: Path) -> str:
    """Return the last lines of a log, on one line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-SHOWN_LINES:]) or "it said nothing"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end, then make its whole group end: an engine may be a process of its own."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_PATIENCE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
