"""A source of ranges that fails, is short, or waits, as a share does."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class SlowSource:
    """The files of a disk, read through whatever a test puts in between.

    Args:
        transfer: Called with the size of each read before it is answered.
        max_read_bytes: Longer reads are answered with less.
        failures: How often reads at an offset fail with EIO; -1 is for ever.
        before: Called with the offset of each read.
    """

    def __init__(
        self,
        transfer: Callable[[int], object] = lambda _: None,
        max_read_bytes: int = 2**30,
        failures: dict[int, int] | None = None,
        before: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._transfer = transfer
        self._max_read_bytes = max_read_bytes
        self._failures = dict(failures or {})
        self._before = before
        self._lock = threading.Lock()
        self.reads: list[tuple[str, int, int]] = []

    @property
    def read_bytes(self) -> int:
        """Return how many bytes were asked for."""
        return sum(size_bytes for _, _, size_bytes in self.reads)

    def read(self, path: Path, offset: int, size_bytes: int) -> bytes:
        self._before(offset)
        with self._lock:
            self.reads.append((path.name, offset, size_bytes))
            left = self._failures.get(offset, 0)
            if left:
                self._failures[offset] = left - 1
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(min(size_bytes, self._max_read_bytes))
        self._transfer(len(data))
        return data
