"""What the local cloud needs of a Unix: a lock that a killed process gives up, and groups of processes.

A container's command is a line for bash, so the local cloud runs on Unix alone; on Windows it runs in WSL 2.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
from typing import IO, Any, Final

IS_SUPPORTED: Final = os.name == "posix"


def try_lock(file: IO[Any]) -> bool:
    """Lock an open file until it is closed or the process ends; return False if another process holds it."""
    fcntl: Any = importlib.import_module("fcntl")  # not there on Windows, where this module must still load
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def kill_group(pid: int) -> None:
    """Kill a process group at once, without searching for processes that left it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
