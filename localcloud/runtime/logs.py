"""Logs on disk: appended record by record, rotated by size, read from the end, followed while they grow.

A log is a file of JSON lines, and at most one older file beside it. What was appended survives this process,
kill -9 included, except for a last line that was being written; readers skip such a torn line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from localcloud.runtime.spec import ConsoleRecord, SystemRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

Record = TypeVar("Record")

# A follower that is so far behind loses the oldest records rather than let the daemon's memory grow.
_FOLLOWER_RECORDS = 20_000
# Where containerd cuts a line into parts.
_LINE_BYTES = 16 * 1024
_CONTINUATION = 0b1000_0000


class Log(Generic[Record]):
    """One log file with its readers.

    Guarantees: records are read in the order in which they were appended; a follower misses none between
    the tail that it was given and the first record after it (unless it lags by more than 20,000); appending
    never waits for a reader; reading and writing files happens in threads.

    Args:
        path: The file; its directory must exist. An older part stands beside it, with the suffix `.1`.
        encode: From a record to a JSON document.
        decode: Back; it may raise KeyError, TypeError or ValueError, and the line is then skipped.
        max_bytes: The size of the file beyond which it becomes the older part.
    """

    def __init__(
        self,
        path: Path,
        encode: Callable[[Record], dict[str, Any]],
        decode: Callable[[dict[str, Any]], Record],
        max_bytes: int,
    ) -> None:
        self._path = path
        self._older = path.with_name(f"{path.name}.1")
        self._encode = encode
        self._decode = decode
        self._max_bytes = max_bytes
        self._lock = asyncio.Lock()
        self._followers: set[_Follower[Record]] = set()
        self._closed = False
        self._is_end_intact = False

    async def append(self, records: Iterable[Record]) -> None:
        """Write records to the end of the log, and hand them to those who follow it."""
        batch = tuple(records)
        if not batch:
            return
        text = "".join(json.dumps(self._encode(record), ensure_ascii=False) + "\n" for record in batch)
        async with self._lock:
            await asyncio.to_thread(self._write, text.encode("utf-8", "replace"))
            for follower in self._followers:
                follower.add(batch)

    async def read(self, tail: int, *, follow: bool = False) -> AsyncIterator[Record]:
        """Yield the last `tail` records; then, if asked to, every new one until the log is closed."""
        follower: _Follower[Record] = _Follower()
        async with self._lock:
            records = await asyncio.to_thread(self._tail, tail)
            follow = follow and not self._closed
            if follow:
                self._followers.add(follower)
        try:
            for record in records:
                yield record
            if follow:
                async for record in follower:
                    yield record
        finally:
            self._followers.discard(follower)

    def close(self) -> None:
        """End what follows the log: nothing will be appended any more."""
        self._closed = True
        for follower in self._followers:
            follower.end()

    def _write(self, text: bytes) -> None:
        with self._path.open("ab") as file:
            # A daemon that was killed may have left a torn line, which must not swallow the first new one.
            if not self._is_end_intact and file.tell() and not _ends_with_newline(self._path):
                file.write(b"\n")
            self._is_end_intact = True
            file.write(text)
            size = file.tell()
        if size >= self._max_bytes:
            self._path.replace(self._older)

    def _tail(self, count: int) -> list[Record]:
        if count <= 0:
            return []
        lines: deque[bytes] = deque(maxlen=count)
        for path in (self._older, self._path):
            with contextlib.suppress(FileNotFoundError):
                lines.extend(path.read_bytes().splitlines())
        return [record for line in lines for record in self._decoded(line)]

    def _decoded(self, line: bytes) -> Iterable[Record]:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            yield self._decode(json.loads(line))


class _Follower(Generic[Record]):
    """The queue of one reader who follows a log."""

    def __init__(self) -> None:
        self._records: deque[Record] = deque(maxlen=_FOLLOWER_RECORDS)
        self._grown = asyncio.Event()
        self._ended = False

    def add(self, records: Iterable[Record]) -> None:
        self._records.extend(records)
        self._grown.set()

    def end(self) -> None:
        self._ended = True
        self._grown.set()

    async def __aiter__(self) -> AsyncIterator[Record]:
        while True:
            self._grown.clear()
            while self._records:
                yield self._records.popleft()
            if self._ended:
                return
            await self._grown.wait()


def console_log(path: Path, max_bytes: int) -> Log[ConsoleRecord]:
    """Open the console log of a replica."""
    return Log(path, ConsoleRecord.to_json, ConsoleRecord.from_json, max_bytes)


def system_log(path: Path, max_bytes: int) -> Log[SystemRecord]:
    """Open the system log of an app."""
    return Log(path, _encode_system, _decode_system, max_bytes)


def _encode_system(record: SystemRecord) -> dict[str, Any]:
    # Not `to_json`: Azure's form of the time is cut to whole seconds, and files should order what they hold.
    fields = {name: getattr(record, name) for name in SystemRecord.__slots__}
    return {**fields, "time": record.time.isoformat()}


def _decode_system(document: dict[str, Any]) -> SystemRecord:
    return SystemRecord(**{**document, "time": datetime.fromisoformat(document["time"])})


class LineSplitter:
    """Cut a stream of bytes into lines of text, as containerd does: at newlines, and every 16 KiB.

    Bytes that are not UTF-8 become U+FFFD; no character is cut in two.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Take bytes; return the lines that are complete with them."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        parts = [part for line in lines for part in _pieces(line)]
        *overlong, self._rest = _pieces(self._rest)
        return [_text(part) for part in [*parts, *overlong]]

    def end(self) -> list[str]:
        """Return what is left when the stream has ended: one line, or none."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest else []


def _pieces(line: bytes) -> list[bytes]:
    pieces = []
    while len(line) > _LINE_BYTES:
        cut = _LINE_BYTES
        # Step back to the first byte of a character (never further than UTF-8's longest).
        while cut > _LINE_BYTES - 4 and line[cut] & 0b1100_0000 == _CONTINUATION:
            cut -= 1
        pieces.append(line[:cut])
        line = line[cut:]
    return [*pieces, line]


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode("utf-8", "replace")


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
