"""Decide whether a second engine fits beside the one that runs. Standard library only."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from inference.models.hardware import container_free_bytes

RESERVE: Final = 1.2
"""A new engine may take this many times the memory of the one that runs: while it loads, and with other
weights, it takes more."""

QUERY_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """The memory that an engine takes, and what is free; in bytes.

    Attributes:
        used: None if it is unknown.
        free: None if it is unknown.
        gpu_used: 0 without a GPU.
        gpu_free: Of the fullest GPU, because an engine that is split takes as much of each.
    """

    used: int | None
    free: int | None
    gpu_used: int = 0
    gpu_free: int = 0


def fits_beside(use: MemoryUse) -> bool:
    """Return whether a second engine of the same size fits; where nothing is known, it does not."""
    if use.used is None or use.free is None:
        return False
    return use.free >= RESERVE * use.used and (not use.gpu_used or use.gpu_free >= RESERVE * use.gpu_used)


def measure(pid: int) -> MemoryUse:
    """Return the memory of a session's processes, and what is free. Blocks for up to a second.

    Args:
        pid: The process that leads the session.
    """
    pids = _session(pid)
    rows = _query("--query-compute-apps=pid,used_memory")
    gpu_used = sum(row[1] for row in rows if row[0] in pids)
    free = [row[0] for row in _query("--query-gpu=memory.free")]
    return MemoryUse(_resident(pids), free_bytes(), gpu_used * 2**20, min(free, default=0) * 2**20)


def _session(leader: int) -> set[int]:
    """Return the processes of a session. Source: proc(5), `/proc/pid/stat`, field 6."""
    found = {leader}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader:
            found.add(int(folder.name))
    return found


def _resident(pids: set[int]) -> int | None:
    """Return the resident memory of processes. Source: proc(5), `/proc/pid/statm`, field 2."""
    pages = 0
    for pid in pids:
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") or None


def free_bytes() -> int | None:
    """Return the free memory of the container. Source: proc(5), `/proc/meminfo`, "MemAvailable"."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    values = dict(line.split(":", 1) for line in lines)
    available = int(values["MemAvailable"].split()[0]) * 1024
    return min(available, container_free_bytes(), sys.maxsize)


def _query(query: str) -> list[list[int]]:
    """Return the rows of a query of the GPUs; none without one. Source: `nvidia-smi --help`."""
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=QUERY_TIMEOUT_S)
        return [[int(cell) for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
