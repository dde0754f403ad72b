"""The app that the runtime's tests run, and a check that processes have ended."""

from __future__ import annotations

import psutil

APP = "app"
REVISION = "app--0000001"


def gone(*pids: int) -> bool:
    """Whether processes end within a few seconds."""
    living = []
    for pid in pids:
        try:
            living.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    return all(process.status() == psutil.STATUS_ZOMBIE for process in psutil.wait_procs(living, 5)[1])
