"""Logs on disk: appended record by record, rotated by size, read from the end, and followed.

A log is a file of JSON lines, and at most one older file beside it. Appended records survive a kill -9 of
this process; readers skip a last line that was only partly written.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from localcloud.runtime.spec import ConsoleRecord, SystemRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

Record = TypeVar("Record")

# A follower that is further behind loses the oldest records, so that the daemon's memory does not grow.
_FOLLOWER_RECORDS: Final = 20_000
# containerd splits a line at this size.
_LINE_BYTES: Final = 16 * 1024
_CONTINUATION: Final = 0b1000_0000


class Log(Generic[Record]):
    """A log file with its readers.

    Guarantees: records are read in the order in which they were appended; a follower misses no record after
    its tail (unless it lags by more than 20,000); appending never waits for a reader; files are read and
    written in threads.

    Args:
        path: The file; its directory must exist. The older file has the suffix `.1`.
        encode: Converts a record to a JSON document.
        decode: Converts it back; if it raises KeyError, TypeError or ValueError, the line is skipped.
        max_bytes: The size at which the file becomes the older file.
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
        """Append records to the log, and pass them to its followers."""
        batch = tuple(records)
        if not batch:
            return
        text = "".join(json.dumps(self._encode(record), ensure_ascii=False) + "\n" for record in batch)
        async with self._lock:
            await asyncio.to_thread(self._write, text.encode("utf-8", "replace"))
            for follower in self._followers:
                follower.add(batch)

    async def read(self, tail: int, *, follow: bool = False) -> AsyncIterator[Record]:
        """Yield the last `tail` records; with `follow`, then every new one until the log is closed."""
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
        """End all followers: nothing will be appended any more."""
        self._closed = True
        for follower in self._followers:
            follower.end()

    def _write(self, text: bytes) -> None:
        with self._path.open("ab") as file:
            # A killed daemon may have left a partial line, which must not merge with the first new one.
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
    """The queue of one follower of a log."""

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
    # Not `to_json`: Azure's time format has whole seconds only, which would lose the order of records.
    fields = {name: getattr(record, name) for name in SystemRecord.__slots__}
    return {**fields, "time": record.time.isoformat()}


def _decode_system(document: dict[str, Any]) -> SystemRecord:
    return SystemRecord(**{**document, "time": datetime.fromisoformat(document["time"])})


class LineSplitter:
    """A splitter of a byte stream into lines of text, as in containerd: at newlines, and every 16 KiB.

    Bytes that are not UTF-8 become U+FFFD; characters are not split.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Add bytes; return the lines that are now complete."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        parts = [part for line in lines for part in _pieces(line)]
        *overlong, self._rest = _pieces(self._rest)
        return [_text(part) for part in [*parts, *overlong]]

    def end(self) -> list[str]:
        """Return the rest at the end of the stream: one line, or none."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest else []


def _pieces(line: bytes) -> list[bytes]:
    pieces = []
    while len(line) > _LINE_BYTES:
        cut = _LINE_BYTES
        # Step back to the first byte of a character (at most 4 bytes in UTF-8).
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
