"""The processes of a container: started in a session of their own, found again, and killed.

A container on Azure is a namespace: when its first process ends, the kernel kills all others. Without
namespaces, a process belongs to the container if any of these is true:

- it was seen before (pid and creation time, kept in a ledger on disk, so that a reused pid does not match);
- it descends from such a process;
- it is in the session that the container's first process leads (or led, while this process watches);
- its environment contains the replica's name (`CONTAINER_APP_REPLICA_NAME`, which children inherit; some
  systems hide the environment of protected programs).

So a process is missed only if it was reparented (a double fork), started its own session, cleared its
environment, and was never seen by `ProcessTree.scan` in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable

REPLICA_VARIABLE: Final = "CONTAINER_APP_REPLICA_NAME"
# Creation times derive from the boot time, which some kernels shift a little (WSL's after a sleep).
_SAME_TIME_S: Final = 2.0
_WAIT_S: Final = 0.2
_POLL_S: Final = 0.002
_DEAD: Final = frozenset({psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD})
_GONE: Final = (psutil.NoSuchProcess, psutil.ZombieProcess, ProcessLookupError)


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start: the argv, the whole environment, and the working directory."""

    argv: tuple[str, ...]
    env: dict[str, str]
    directory: Path


class Process:
    """A started process.

    asyncio's subprocesses are not used: if their start is cancelled together with all other tasks (at the end
    of `asyncio.run`), it never returns; and they depend on child watchers.
    """

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.pid = popen.pid
        self._popen = popen
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = loop.create_future()
        watch = threading.Thread(target=self._watch, args=(loop,), name=f"end of {self.pid}", daemon=True)
        watch.start()

    @property
    def is_running(self) -> bool:
        """Whether its end was not observed yet."""
        return not self._ended.done()

    async def wait(self) -> int:
        """Wait until it ends; return its exit code, as a container's: 128 + n if signal n ended it."""
        return exit_code(await asyncio.shield(self._ended))

    def terminate(self) -> None:
        """Send it SIGTERM, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.terminate()

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        code = self._popen.wait()
        # A loop that is closed by now has no waiters.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._ended.set_result, code)


def start(launch: Launch, output: int) -> Process:
    """Start a process as the leader of a new session, inheriting nothing but what `launch` lists.

    Blocks for the short time that starting a process takes, so that it cannot be cancelled halfway.

    Args:
        launch: What to start.
        output: The file descriptor that gets stdout and stderr; the caller closes it after the start.

    Raises:
        OSError: the program is missing or cannot be executed.
    """
    program, *arguments = launch.argv
    popen = subprocess.Popen(
        [_program(program), *arguments],
        env=launch.env,
        cwd=launch.directory,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    return Process(popen)


def exit_code(returncode: int) -> int:
    """Convert Python's return code to a container's: 128 + n for a process that signal n ended."""
    return returncode if returncode >= 0 else 128 - returncode


class ProcessTree:
    """All processes of a replica, also recorded on disk, so that none outlives it even after a kill -9.

    All methods block (they read the process table and write a small file): call them in a thread.

    Args:
        replica: The replica's name; unique among all replicas, past ones included.
        ledger: The file that records the processes that were seen; written by rename.
    """

    def __init__(self, replica: str, ledger: Path) -> None:
        self._replica = replica
        self._ledger = ledger
        self._seen: dict[int, float] = {}
        self._session: int | None = None

    @classmethod
    def load(cls, ledger: Path) -> ProcessTree:
        """Read the ledger of an earlier daemon.

        Raises:
            ValueError: the file is not a ledger.
        """
        document = json.loads(ledger.read_text("utf-8"))
        tree = cls(document["replica"], ledger)
        tree._seen = {int(pid): float(created) for pid, created in document["processes"]}
        return tree

    def open(self) -> None:
        """Record on disk that processes of this replica may exist. Call it before the first is started."""
        self._write()

    def add(self, pid: int) -> None:
        """Record the session leader, as soon as it is started."""
        # The session id is not reused while the session has members. A ledger that is read later cannot rely
        # on that, so `load` leaves it out.
        self._session = pid
        with contextlib.suppress(*_GONE):
            self._record([psutil.Process(pid)])

    def scan(self) -> list[psutil.Process]:
        """Return the replica's live processes, and record those that are new."""
        found = self._find()
        self._record(found)
        return found

    def kill(self, timeout_s: float) -> list[int]:
        """Send SIGKILL to every process of the replica until none is left; return the pids that survive.

        Processes may fork while they are killed, so this scans again until none is found.
        """
        deadline = time.monotonic() + timeout_s
        while processes := self._find():
            self._record(processes)
            if time.monotonic() > deadline:
                return [process.pid for process in processes]
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    process.kill()
            _wait(processes)
        self._seen.clear()
        self._session = None
        return []

    def close(self) -> None:
        """Remove the ledger: no process of the replica is left."""
        self._ledger.unlink(missing_ok=True)

    def _find(self) -> list[psutil.Process]:
        table = {process.pid: process for process in psutil.process_iter() if process.pid != os.getpid()}
        parents = {pid: _parent(process) for pid, process in table.items()}
        found = {pid for pid, process in table.items() if self._belongs(process)}
        while children := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= children
        return [table[pid] for pid in found if _is_alive(table[pid])]

    def _belongs(self, process: psutil.Process) -> bool:
        try:
            if self._was_seen(process) or os.getsid(process.pid) == self._session:
                return True
            return process.environ().get(REPLICA_VARIABLE) == self._replica
        except (*_GONE, psutil.AccessDenied, OSError):
            return False

    def _was_seen(self, process: psutil.Process) -> bool:
        created = self._seen.get(process.pid)
        return created is not None and abs(process.create_time() - created) < _SAME_TIME_S

    def _record(self, processes: Iterable[psutil.Process]) -> None:
        before = dict(self._seen)
        for process in processes:
            with contextlib.suppress(*_GONE):
                self._seen[process.pid] = process.create_time()
        if self._seen != before:
            self._write()

    def _write(self) -> None:
        document = {"replica": self._replica, "processes": list(self._seen.items())}
        draft = self._ledger.with_name(f"{self._ledger.name}.new")
        draft.write_text(json.dumps(document), "utf-8")
        draft.replace(self._ledger)


def _program(name: str) -> str:
    # Templates use /bin/bash, as in every Linux image; on this machine it may be elsewhere.
    if name.startswith("/bin/") and not Path(name).exists():
        return shutil.which(Path(name).name) or name
    return name


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except (*_GONE, psutil.AccessDenied):
        return None


def _wait(processes: list[psutil.Process]) -> None:
    # Not psutil's `wait_procs`: it would reap the child whose exit code `Process` waits for.
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline and any(_is_alive(process) for process in processes):
        time.sleep(_POLL_S)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() not in _DEAD
    except _GONE:
        return False
