"""What differs between operating systems: groups of processes, and locks of files.

The only module of the pipeline that asks which system this is. The local cloud needs a Unix.

Source: Python's documentation of `subprocess` (creation flags), `msvcrt` (locking) and `fcntl` (flock).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import time
from typing import IO, TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

IS_WINDOWS: Final = os.name == "nt"
_POLL_S: Final = 0.2
_NEW_GROUP: Final = 0x00000200
"""`subprocess.CREATE_NEW_PROCESS_GROUP`, which Python defines on Windows alone."""


def group_options(*, is_windows: bool = IS_WINDOWS) -> dict[str, Any]:
    """Return the options of `subprocess.Popen` for a process that leads a group of its own."""
    return {"creationflags": _NEW_GROUP} if is_windows else {"start_new_session": True}


def end_group(process: subprocess.Popen[Any], *, is_forced: bool, is_windows: bool = IS_WINDOWS) -> None:
    """Ask a process and its children to end, or end them at once.

    Args:
        process: The leader of a group, which was started with `group_options`.
        is_forced: End them without a request.
        is_windows: Use the form for Windows, which has no groups: the children are looked up. `terminate` is
            as final as `kill` there.
    """
    if not is_windows:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL if is_forced else signal.SIGTERM)
        return
    import psutil  # noqa: PLC0415 - every command line imports this module

    with contextlib.suppress(psutil.NoSuchProcess):
        leader = psutil.Process(process.pid)
        for each in (*leader.children(recursive=True), leader):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill() if is_forced else each.terminate()


def lock_file(
    file: IO[Any],
    on_wait: Callable[[], None],
    *,
    is_windows: bool = IS_WINDOWS,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Lock an open file, which the system unlocks when it is closed or the process ends.

    Args:
        file: A file that is open for writing.
        on_wait: Called once if another process holds the lock.
        is_windows: Use the form for Windows, which has no call that waits for as long as it takes.
        sleep: Waits between two tries of that form.
    """
    if not is_windows:
        fcntl: Any = importlib.import_module("fcntl")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        return
    msvcrt: Any = importlib.import_module("msvcrt")
    is_waiting = False
    while True:
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            if not is_waiting:
                on_wait()
            is_waiting = True
            sleep(_POLL_S)
        else:
            return
