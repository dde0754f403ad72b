"""Read files in blocks, several at a time, and hand the blocks on in order.

A share answers each request after some milliseconds. Blocks that are large enough, of which several are on
their way at a time, hide that; what reads them gets them in the order of the files, so that it can write and
hash as it reads.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, Self

from inference.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

BLOCK_BYTES: Final = 4 * 2**20
"""The size of a read. Source: mount.cifs(8), `rsize`: the kernel's client asks for up to 4 MiB at once."""

THREADS: Final = 4
"""How many blocks are on their way at a time: more gain nothing at 100 MB/s and 5 ms, as
`benchmarks/reading.py` measures, and on two cores the threads are in each other's way."""

RETRY_PAUSES_S: Final = (0.1, 0.5, 2.0, 5.0)
"""How long to wait before a read that has failed is repeated. A share is back within seconds."""


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a file.

    Attributes:
        path: The file.
        offset: Where the part begins.
        size_bytes: Its length; 0 for an empty file, or for the end of one.
    """

    path: Path
    offset: int
    size_bytes: int


class RangeSource(Protocol):
    """What blocks are read from. Called from several threads."""

    def read(self, path: Path, offset: int, size_bytes: int) -> bytes:
        """Return bytes of a file, fewer than asked for or none at its end.

        Raises:
            OSError: If they cannot be read.
        """
        ...


class FileSource:
    """The files of a mounted share, each opened once. Leaving its `with` block closes them."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        self._stale: list[int] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Use it in a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        for descriptor in (*self._descriptors.values(), *self._stale):
            os.close(descriptor)

    def read(self, path: Path, offset: int, size_bytes: int) -> bytes:
        """Return bytes of a file. After an error it is opened anew: the share may know no old handle."""
        descriptor = self._open(path)
        try:
            return os.pread(descriptor, size_bytes, offset)
        except OSError:
            self._give_up(path, descriptor)
            raise

    def _open(self, path: Path) -> int:
        with self._lock:
            if path not in self._descriptors:
                self._descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return self._descriptors[path]

    def _give_up(self, path: Path, descriptor: int) -> None:
        # Not closed yet: another thread may be about to read from this number, which a new file would get.
        with self._lock:
            if self._descriptors.get(path) == descriptor:
                self._stale.append(self._descriptors.pop(path))


def split(path: Path, start: int, size_bytes: int, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """Yield the blocks of a file from an offset to its end; an empty one if there is nothing left."""
    if start >= size_bytes:
        yield Block(path, start, 0)
    for offset in range(start, size_bytes, block_bytes):
        yield Block(path, offset, min(block_bytes, size_bytes - offset))


def read_block(source: RangeSource, block: Block, sleep: Callable[[float], object] = time.sleep) -> bytes:
    """Read a block. Short reads are continued, and errors are followed by further attempts.

    Raises:
        LoadError: If it cannot be read, or the file is shorter than it was.
    """
    parts: list[bytes] = []
    done_bytes, pauses_s = 0, deque(RETRY_PAUSES_S)
    while done_bytes < block.size_bytes:
        try:
            data = source.read(block.path, block.offset + done_bytes, block.size_bytes - done_bytes)
        except OSError as error:
            if isinstance(error, FileNotFoundError | PermissionError) or not pauses_s:
                reason = error.strerror or error
                raise LoadError(
                    f"{block.path} cannot be read from the share: {reason} (at byte"
                    f" {block.offset + done_bytes}, after {len(RETRY_PAUSES_S) - len(pauses_s) + 1} attempts)"
                ) from error
            sleep(pauses_s.popleft())
            continue
        if not data:
            raise LoadError(
                f"{block.path} became shorter while it was read: it ends at byte {block.offset + done_bytes}"
                " (does something still write to it? push it again)"
            )
        parts.append(data)
        done_bytes += len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_in_order(
    source: RangeSource,
    blocks: Iterable[Block],
    threads: int = THREADS,
    sleep: Callable[[float], object] = time.sleep,
) -> Generator[tuple[Block, bytes], None, None]:
    """Yield each block with its bytes, in the order given. At most twice `threads` blocks are in memory.

    Raises:
        LoadError: If a block cannot be read. No further read is begun then.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="share")
    pending: deque[tuple[Block, Future[bytes]]] = deque()
    try:
        for block in blocks:
            pending.append((block, pool.submit(partial(read_block, source, block, sleep))))
            if len(pending) >= 2 * threads:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()
    finally:
        # Waits for the reads that run: their files are about to be closed.
        pool.shutdown(cancel_futures=True)
