"""The control channel between the supervisor and a server: JSON objects, one on each line, both ways.

The server sends its progress and its readiness; the supervisor sends when to accept connections, when to
retire, and the state of the replica that `/version` shows. Unknown fields are ignored, because the two may
come from different releases. Imports the standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """What a replica is doing, as its supervisor reports it and `/version` shows it.

    Attributes:
        wanted_release: The release that the share names; None if no supervisor watches the share.
        phase: What happens now: `serving`, or a step of the start or of a change of release.
        percent: How far that is, 0 to 100.
        last_error: Why the wanted release does not serve here; None if nothing has failed.
        container_started_at: When the container started, ISO 8601 in UTC; None without a supervisor. The
            start of a server does not tell a new container from one whose release was replaced.
        supervisor_release: The release whose supervisor runs, that of the start of the container; None
            without a supervisor.
    """

    wanted_release: str | None = None
    phase: str = "serving"
    percent: int = 100
    last_error: str | None = None
    container_started_at: str | None = None
    supervisor_release: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the state that a document describes; missing fields have their defaults."""
        return cls(**{field.name: document[field.name] for field in fields(cls) if field.name in document})


class Channel:
    """One end of a control channel. An async iterator of the messages, which ends when the peer has ended."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, end: socket.socket) -> Self:
        """Return the channel on a connected Unix socket."""
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, **message: Any) -> None:  # noqa: ANN401 - JSON
        """Send a message, without waiting. A peer that has ended gets nothing."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        """Close this end."""
        self._writer.close()

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        with contextlib.suppress(ConnectionError):
            while line := await self._reader.readline():
                with contextlib.suppress(ValueError):
                    yield json.loads(line)


class SupervisorLink:
    """The server's end of its control channel; without a supervisor it accepts at once and never retires.

    Attributes:
        may_accept: Set when the server may accept connections.
        is_retired: Set when another server has taken over, or the supervisor has ended.
        holds_requests: Set if requests wait for the engine while it loads, because it was replaced.
        state: The state of the replica, as the supervisor reports it.
    """

    def __init__(self) -> None:
        self.may_accept = asyncio.Event()
        self.is_retired = asyncio.Event()
        self.holds_requests = asyncio.Event()
        self.state = ReplicaState()
        self._channel: Channel | None = None
        self._following: asyncio.Task[None] | None = None

    async def connect(self, control_fd: int | None) -> None:
        """Connect to the supervisor that passed on this file descriptor, if there is one."""
        if control_fd is None:
            self.may_accept.set()
            return
        self._channel = await Channel.open(socket.socket(fileno=control_fd))
        self._following = asyncio.create_task(self._follow(self._channel))

    @property
    def is_supervised(self) -> bool:
        """Return whether there is a supervisor."""
        return self._channel is not None

    def send(self, **message: Any) -> None:  # noqa: ANN401 - JSON
        """Send a message to the supervisor, if there is one."""
        if self._channel is not None:
            self._channel.send(**message)

    async def _follow(self, channel: Channel) -> None:
        async for message in channel:
            if "state" in message:
                self.state = ReplicaState.from_json(message["state"])
            if message.get("hold"):
                self.holds_requests.set()
            if message.get("accept"):
                self.may_accept.set()
            if message.get("retire"):
                self.is_retired.set()
        self.is_retired.set()
