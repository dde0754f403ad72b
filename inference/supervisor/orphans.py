"""Take in processes whose parents have ended, and reap them. Linux only; elsewhere nothing happens.

The first process of a container becomes the parent of every orphan in it. One that does not reap them fills
the table of processes, until nothing can be started any more. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

REAP_INTERVAL_S: Final = 5.0

_SET_CHILD_SUBREAPER: Final = 36
"""Source: prctl(2), `linux/prctl.h`."""


def adopt_orphans() -> bool:
    """Make this process the parent of orphans among its descendants, and return whether the system does that.

    The first process of a container is that already; one that runs beside others is not.
    """
    try:
        return bool(ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


class Reaper:
    """Reaps orphans that have ended.

    Processes that this one has started itself are waited for elsewhere, and must not be reaped here: they are
    in this process's session, or waited for as soon as they end. So a process is reaped if it is of another
    session and was a zombie at the last call, too.
    """

    def __init__(self) -> None:
        self._zombies: frozenset[int] = frozenset()

    def reap(self) -> frozenset[int]:
        """Reap what has been a zombie since the last call, and return the processes that were reaped."""
        zombies = find_zombies()
        reaped = frozenset(filter(_reap, zombies & self._zombies))
        self._zombies = zombies - reaped
        return reaped


def find_zombies() -> frozenset[int]:
    """Return the children of this process that have ended, are not reaped, and are of another session.

    Source: proc(5), `/proc/pid/stat`, fields 3, 4 and 6.
    """
    me, session = os.getpid(), os.getsid(0)
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, _, of = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if state == "Z" and int(parent) == me and int(of) != session:
            found.add(int(folder.name))
    return frozenset(found)


def _reap(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False
