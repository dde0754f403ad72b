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

from inference import VERSION
from inference.observability.logs import set_up_logging
from inference.settings import load_settings
from inference.supervisor.launcher import ReleaseLauncher
from inference.supervisor.supervisor import Replica, Supervisor


def main() -> None:
    """Supervise until a signal. Never returns."""
    settings = load_settings(os.environ)
    set_up_logging(settings.log_format, settings.log_level)
    listener = socket.socket(fileno=settings.socket_fd)
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    replica = Replica(VERSION, settings.revision, settings.replica, started_at)
    environ = {name: value for name, value in os.environ.items() if name != "FJARR_SOCKET_FD"}
    supervisor = Supervisor(ReleaseLauncher(settings, environ), listener, settings.mount, replica)
    exit_code = asyncio.run(supervisor.run(settings.release, Path.cwd()))
    sys.stderr.flush()
    # A thread may still read a share that does not answer: a normal exit would wait for it.
    os._exit(exit_code)


if __name__ == "__main__":
    main()
