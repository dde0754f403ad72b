"""Parse server-sent events from the pieces that the network delivered, each with its time.

Runs after the measurement, on stored data: parsing during the load would take processor time from the server
that is measured.

Source: the HTML standard, section 9.2, "Server-sent events".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.measures import Sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DONE: Final = b"[DONE]"


@dataclass(frozen=True, slots=True)
class RawResponse:
    """A response as the network delivered it.

    Attributes:
        pieces: The data that the network delivered, each with its time.
        failure: The failure of the request itself: a status, a lost connection, a timeout.
    """

    started_s: float
    ended_s: float
    pieces: tuple[tuple[float, bytes], ...]
    failure: str | None = None


def read_events(pieces: Iterable[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """Yield each event's data with the time at which its last byte came.

    Comments and fields other than `data` are ignored, and so is an incomplete event.
    """
    waiting = b""
    for time_s, piece in pieces:
        *blocks, waiting = (waiting + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        for block in blocks:
            lines = (line for line in block.split(b"\n") if line.startswith(b"data:"))
            data = b"\n".join(line[5:].removeprefix(b" ") for line in lines)
            if data:
                yield time_s, data


def read_sample(response: RawResponse) -> Sample:
    """Return the times and counts of a streamed chat completion.

    The count of tokens is the server's own if it sends one, else the number of pieces of text.
    """
    reading = _Reading()
    failure = response.failure
    if failure is None:
        try:
            for time_s, data in read_events(response.pieces):
                if data != DONE:
                    reading.take(time_s, json.loads(data))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            failure = f"the stream is not one of chat completion chunks: {type(error).__name__}: {error}"
        else:
            failure = reading.failure
    return Sample(
        started_s=response.started_s,
        ended_s=response.ended_s,
        text_times_s=tuple(reading.text_times_s),
        tokens=len(reading.text_times_s) if reading.tokens is None else reading.tokens,
        is_cut=reading.finish_reason == "length",
        failure=failure,
    )


class _Reading:
    def __init__(self) -> None:
        self.text_times_s: list[float] = []
        self.tokens: int | None = None
        self.finish_reason: str | None = None
        self._error: str | None = None

    @property
    def failure(self) -> str | None:
        if self._error is not None:
            return f"the stream ended with an error: {self._error}"
        return "the stream ended without a finish reason" if self.finish_reason is None else None

    def take(self, time_s: float, chunk: dict[str, Any]) -> None:
        if chunk.get("error") is not None:
            self._error = str(chunk["error"])
            return
        if chunk.get("usage"):
            self.tokens = int(chunk["usage"]["completion_tokens"])
        for choice in chunk["choices"]:
            if choice["delta"].get("content"):
                self.text_times_s.append(time_s)
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
