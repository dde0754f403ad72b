"""Run the supervisor in the folder of a release, on the listening socket that `inference.start` has bound.

Exit codes: the server's after a signal (0, unless it failed) or after the last crash, 1 if packages cannot be
installed, 2 if the settings cannot be used.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from inference import VERSION
from inference.observability.logs import set_up_logging
from inference.settings import load_settings
from inference.supervisor.forks import Forks
from inference.supervisor.launcher import ReleaseLauncher
from inference.supervisor.orphans import REAP_INTERVAL_S, Reaper, adopt_orphans
from inference.supervisor.supervisor import Replica, Supervisor

if TYPE_CHECKING:
    from inference.settings import Settings

CLOSE_S: Final = 10.0
"""How long a server may take to end when its requests have ended or were cut off."""


def main() -> None:
    """Supervise until a signal. Never returns."""
    settings = load_settings(os.environ)
    set_up_logging(settings.log_format, settings.log_level)
    environ = {name: value for name, value in os.environ.items() if name != "FJARR_SOCKET_FD"}
    exit_code = asyncio.run(supervise(settings, environ))
    sys.stderr.flush()
    # A thread may still read a share that does not answer: a normal exit would wait for it.
    os._exit(exit_code)


async def supervise(settings: Settings, environ: dict[str, str]) -> int:
    """Supervise until a signal or the last crash, reap orphans meanwhile, and return the exit code."""
    listener = socket.socket(fileno=settings.socket_fd)
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    replica = Replica(VERSION, settings.revision, settings.replica, started_at)
    # A fork becomes a child of the process that adopts orphans.
    forks = Forks() if adopt_orphans() else None
    launcher = ReleaseLauncher(settings, environ, forks)
    stop_timeout_s = settings.drain_grace_s + CLOSE_S
    supervisor = Supervisor(launcher, listener, settings.mount, replica, stop_timeout_s)
    reaping = asyncio.create_task(reap_orphans())
    try:
        return await supervisor.run(settings.release, Path.cwd())
    finally:
        reaping.cancel()


async def reap_orphans() -> NoReturn:
    """Reap orphans until cancelled."""
    reaper = Reaper()
    while True:
        await asyncio.sleep(REAP_INTERVAL_S)
        await asyncio.to_thread(reaper.reap)


if __name__ == "__main__":
    main()
