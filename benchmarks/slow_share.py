"""A folder mounted as a share that is slow: each read waits, and all of them share the bandwidth.

    python -m benchmarks.slow_share FOLDER MOUNT --megabytes 100 --milliseconds 5

The mount is a real file system in user space, so that the kernel reads ahead, maps files and splits reads
just as on a network share; files are read-only, and nothing is kept between two mounts. Needs root or
`fusermount3`, `/dev/fuse`, libfuse 3 (`apt-get install libfuse3-3`) and the Python package `mfusepy`.

Source: the kernel's documentation, "FUSE"; Azure Files' targets, "Scalability and performance targets".
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks import command_line
from benchmarks.processes import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

THREADS: Final = 64
"""How many requests are answered at the same time."""

READY_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.02


class Link:
    """A connection whose requests wait for an answer at the same time, and then share its bandwidth.

    Args:
        bytes_per_s: The bandwidth.
        latency_s: How long each request waits before its first byte.
        clock: The time, in seconds.
        sleep: Waits.
    """

    def __init__(
        self,
        bytes_per_s: float,
        latency_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._latency_s = latency_s
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_s = 0.0
        self.requests = 0

    def transfer(self, size_bytes: int) -> None:
        """Wait as long as a request of this size takes. From any thread."""
        now_s = self._clock()
        with self._lock:
            self.requests += 1
            begin_s = max(now_s + self._latency_s, self._free_s)
            self._free_s = end_s = begin_s + size_bytes / self._bytes_per_s
        self._sleep(max(0.0, end_s - now_s))


class SlowFolder:
    """The operations of the file system, named as libfuse names them.

    Args:
        folder: The folder that is shown.
        link: The connection to it.
    """

    def __init__(self, folder: Path, link: Link) -> None:
        self._folder = folder
        self._link = link
        # mfusepy asks for it: times in nanoseconds, or in seconds.
        self.use_ns = True

    def getattr(self, path: str, _handle: int | None = None) -> dict[str, int]:
        """Return a file's status."""
        self._link.transfer(0)
        with _as_errno():
            status = os.stat(self._real(path))  # noqa: PTH116 - the fields by their names
        names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid")
        times = {f"st_{name}time": getattr(status, f"st_{name}time_ns") for name in "amc"}
        return {name: getattr(status, name) for name in names} | times

    def readdir(self, path: str, _handle: int) -> list[str]:
        """List a folder."""
        self._link.transfer(0)
        with _as_errno():
            return [".", "..", *os.listdir(self._real(path))]  # noqa: PTH208 - names

    def open(self, path: str, _flags: int) -> int:
        """Open a file."""
        self._link.transfer(0)
        with _as_errno():
            return os.open(self._real(path), os.O_RDONLY)

    def read(self, _path: str, size_bytes: int, offset: int, handle: int) -> bytes:
        """Read bytes of a file: one request."""
        data = os.pread(handle, size_bytes, offset)
        self._link.transfer(len(data))
        return data

    def release(self, _path: str, handle: int) -> int:
        """Close a file."""
        os.close(handle)
        return 0

    def _real(self, path: str) -> str:
        return f"{self._folder}{path}"


@contextlib.contextmanager
def mounted(folder: Path, mount: Path, megabytes: float, milliseconds: float) -> Iterator[None]:
    """Mount a folder as a slow share while the body runs.

    Raises:
        StartError: If it cannot be mounted here; the message has the reason.
    """
    mount.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.slow_share", str(folder), str(mount)]
    command += ["--megabytes", str(megabytes), "--milliseconds", str(milliseconds)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            end_s = time.monotonic() + READY_TIMEOUT_S
            while not mount.is_mount():
                if server.poll() is not None or time.monotonic() > end_s:
                    server.kill()
                    _, reason = server.communicate()
                    raise StartError(f"a slow share cannot be mounted here: {reason.strip()[-500:]}")
                time.sleep(POLL_S)
            yield
        finally:
            if mount.is_mount():
                subprocess.run(["umount", str(mount)], check=True)  # noqa: S607 - the machine's
            server.wait(READY_TIMEOUT_S)


def set_read_ahead(mount: Path, kib: int) -> None:
    """Set how far the kernel reads ahead on a mount.

    Source: the kernel's documentation, `/sys/class/bdi`, `read_ahead_kb`.
    """
    device = mount.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    Path(f"/sys/class/bdi/{number}/read_ahead_kb").write_text(str(kib), encoding="ascii")


@contextlib.contextmanager
def _as_errno() -> Iterator[None]:
    """Raise the system's errors in the form that libfuse expects."""
    try:
        yield
    except OSError as error:
        from mfusepy import FuseOSError  # noqa: PLC0415 - only a mount needs it

        raise FuseOSError(error.errno or errno.EIO) from error


def main() -> None:
    """Mount until the folder is unmounted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("mount", type=Path)
    parser.add_argument("--megabytes", type=float, default=100.0, help="the bandwidth, in MB/s")
    parser.add_argument("--milliseconds", type=float, default=5.0, help="the time before an answer begins")
    options = parser.parse_args()
    from mfusepy import FUSE, Operations  # noqa: PLC0415 - only a mount needs it

    class Mounted(SlowFolder, Operations):  # type: ignore[misc]  # mfusepy's class has defaults for the rest
        """The operations, completed by the library's."""

    link = Link(options.megabytes * 1e6, options.milliseconds / 1e3)
    settings: dict[str, Any] = {"fsname": "slow", "subtype": "slowshare", "ro": True, "max_threads": THREADS}
    FUSE(Mounted(options.folder.resolve(), link), str(options.mount), foreground=True, **settings)


if __name__ == "__main__":
    command_line.run(main)
