"""The app that the runtime's tests run, and a check that processes have ended."""

from __future__ import annotations

import threading
import time

import psutil

APP = "app"
REVISION = "app--0000001"
PATIENCE_S = 60.0


def gone(*pids: int) -> bool:
    """Whether processes end within a minute. One that nobody has reaped yet has ended, too."""
    deadline_s = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while any(map(_runs, pids)):
        if time.monotonic() > deadline_s:
            return False
        pause.wait(0.02)
    return True


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
