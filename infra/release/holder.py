"""The holder of a deploy lock: a process on a machine, and whether it still runs."""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

_IDENTITY_FILES: Final = (Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id"))
_PROCESS_NAMESPACE: Final = Path("/proc/self/ns/pid")


@dataclass(frozen=True, slots=True)
class Holder:
    """A process on a machine.

    Attributes:
        owner: The user's name.
        host: The machine's name, for people: containers and runners of a CI often have one name.
        pid: The process's number; 0 for a person.
        started: When it was started, in seconds since 1970: a later process may have its number.
        machine: What tells the machine from others; empty in locks of earlier versions.
    """

    owner: str
    host: str
    pid: int
    started: float
    machine: str = ""

    def is_on_the_machine_of(self, other: Holder) -> bool:
        """Return whether both are certainly on one machine, so that one can look whether the other runs."""
        return bool(self.machine) and self.machine == other.machine


def is_process_alive(holder: Holder) -> bool:
    """Return whether a process of this machine still runs."""
    try:
        # Not exact: create times are derived from the boot time, which corrections of the clock move.
        return abs(psutil.Process(holder.pid).create_time() - holder.started) < 2  # noqa: PLR2004  # seconds
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def this_process() -> Holder:
    """Return this process as a holder of locks."""
    pid = os.getpid()
    started = psutil.Process(pid).create_time()
    return Holder(getpass.getuser(), socket.gethostname(), pid, started, machine_id())


def machine_id() -> str:
    """Return what tells this machine from others, as 16 hexadecimal digits.

    Machines cloned from one image share `/etc/machine-id`, and containers share it with each other or have
    none; the boot's id tells machines apart, and the namespace of process numbers tells containers apart.
    """
    parts = [_read(path) for path in _IDENTITY_FILES]
    try:
        parts.append(str(_PROCESS_NAMESPACE.readlink()))
    except OSError:  # not Linux
        parts += [str(uuid.getnode()), f"{psutil.boot_time():.0f}"]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
