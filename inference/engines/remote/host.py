"""The engine's end of the connections: a Unix socket behind which servers find the engine.

The socket answers from the first moment, with the progress of the start. Each connection has requests of its
own, which end with it. What a step brings to all of them is written as one message. A reader that is too slow
finds its tokens together later, as with `TokenStream`; one that does not read at all is disconnected.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import msgspec
from msgspec.structs import replace

from inference.engines.remote.handshake import (
    MAX_LINE_BYTES,
    VERSION,
    EngineStatus,
    Hello,
    Role,
    check_versions,
    hello_line,
    read_hello,
    status_line,
)
from inference.engines.remote.messages import (
    AdapterChange,
    AdapterResult,
    Description,
    Draining,
    Failure,
    FrameReader,
    ServerMessage,
    Step,
    describe_model,
    frame,
    to_adapter_failure,
    to_failure,
)
from inference.errors import EngineError, LoadError, ProtocolVersionError, RequestRefusedError

if TYPE_CHECKING:
    from inference.engines.protocol import Engine, GenerationRequest, Increment, TokenStream
    from inference.engines.remote.messages import EngineMessage, ModelDescription

LOGGER: Final = logging.getLogger(__name__)

BACKLOG: Final = 16
BUFFER_BYTES: Final = 2**20
"""How much may wait in a connection's buffer before its tokens are left in their streams."""

STALL_LIMIT_S: Final = 60.0
"""How long a server may read nothing, while something waits for it, before it is disconnected."""

DEATH_POLL_S: Final = 0.25
DECODER: Final = msgspec.msgpack.Decoder(ServerMessage)


class EngineHost:
    """The socket of an engine process, and the connections of its servers.

    Args:
        path: The socket's path. One that exists is replaced: its connections stay with whoever accepted them.
        release: The release that runs, for the other end's messages.
        stall_limit_s: How long a server may read nothing while something waits for it.
    """

    def __init__(self, path: Path, release: str, stall_limit_s: float = STALL_LIMIT_S) -> None:
        self.path = path
        self.hello = Hello(VERSION, release, pid=os.getpid())
        self.stall_limit_s = stall_limit_s
        self.status = EngineStatus("starting", "starting")
        self.engine: Engine | None = None
        self.description: Description | None = None
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._suspicion = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def open(self) -> None:
        """Listen on the socket.

        Raises:
            LoadError: If that is not possible.
        """
        loop = asyncio.get_running_loop()
        try:
            listener = _bind(self.path)
            self._inode = self.path.stat().st_ino
        except OSError as error:
            raise LoadError(f"cannot listen on {self.path}: {error.strerror or error}") from error
        self._server = await loop.create_unix_server(partial(_Connection, self), sock=listener)

    def set_status(self, status: EngineStatus) -> None:
        """Tell all clients the state of this process. On the event loop only."""
        self.status = status
        for connection in tuple(self.connections):
            connection.send_status()

    def report(self, phase: str, percent: int) -> None:
        """Tell all clients the progress of the start. On the event loop only."""
        self.set_status(EngineStatus("starting", phase, percent))

    def begin_serving(self, engine: Engine, description: Description) -> None:
        """Accept requests from now on."""
        self.engine = engine
        self.describe(description)

    def describe(self, description: Description) -> None:
        """Tell all clients what is served from now on."""
        self.description = description
        if self.status.state == "ready":
            for connection in self.connections:
                connection.send_description()
        self.set_status(EngineStatus("ready", models=tuple(model.name for model in description.models)))

    async def change_adapter(self, change: AdapterChange) -> AdapterResult:
        """Add, replace or remove an adapter, and tell all clients what is served then."""
        if self.engine is None or self.description is None:
            return AdapterResult(change.number, None, "failed", "the engine accepts no changes yet")
        try:
            if change.folder is None:
                await self._remove_adapter(self.engine, self.description, change.name)
                return AdapterResult(change.number)
            model = await self.engine.add_adapter(change.name, Path(change.folder))
        except (LoadError, KeyError, EngineError) as error:
            return AdapterResult(change.number, None, *to_adapter_failure(error))
        except Exception as error:
            LOGGER.exception("the adapter %s could not be changed", change.name)
            return AdapterResult(change.number, None, "failed", f"the engine failed: {error}")
        added = describe_model(self.engine, model)
        # Another change may have ended meanwhile.
        models = _with_adapter(self.description.models, added)
        failed = {name: why for name, why in self.description.failed_adapters.items() if name != added.name}
        self.describe(replace(self.description, models=models, failed_adapters=failed))
        return AdapterResult(change.number, added)

    async def _remove_adapter(self, engine: Engine, description: Description, name: str) -> None:
        models = tuple(model for model in description.models if model.name != name or model.parent is None)
        if len(models) == len(description.models):
            raise KeyError(name)
        # First: no server has further requests for it.
        self.describe(replace(description, models=models))
        await engine.remove_adapter(name)

    async def drain(self, grace_s: float) -> None:
        """Accept no further requests, and wait until those that run have ended, or the grace has."""
        self.set_status(EngineStatus("draining", models=self.status.models))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_idle.wait(), grace_s)

    async def wait_for_death(self) -> None:
        """Wait until the engine is dead."""
        while self.engine is None or self.engine.is_alive:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._suspicion.wait(), DEATH_POLL_S)
            self._suspicion.clear()

    async def close(self) -> None:
        """Close the socket and the connections. What is written is still sent."""
        if self._server is None:
            return
        self._server.close()
        with suppress(OSError):
            # Another process may have the path by now.
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        for connection in tuple(self.connections):
            connection.close()

    def count_requests(self) -> int:
        """Return the number of requests that have not ended, of all connections."""
        return sum(connection.count_requests() for connection in self.connections)

    def on_count(self) -> None:
        """Look whether requests run. Called by connections."""
        if self.count_requests():
            self._is_idle.clear()
        else:
            self._is_idle.set()

    def suspect(self) -> None:
        """Look whether the engine is dead. Called by connections when a request has failed."""
        self._suspicion.set()


class _Connection(asyncio.Protocol):
    """A client's connection."""

    def __init__(self, host: EngineHost) -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._role: Role | None = None
        self._has_frames = False
        self._line = bytearray()
        self._frames = FrameReader()
        self._streams: dict[int, TokenStream] = {}
        self._changed: dict[int, None] = {}
        self._failures: list[Failure] = []
        self._is_scheduled = False
        self._is_paused = False
        self._stall: asyncio.TimerHandle | None = None
        self._changes: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(BUFFER_BYTES)
        self._host.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the requests of a server that has gone."""
        del exc
        self._host.connections.discard(self)
        if self._stall is not None:
            self._stall.cancel()
        for stream in self._streams.values():
            stream.cancel()
        self._streams.clear()
        self._host.on_count()

    def data_received(self, data: bytes) -> None:
        if self._role is None:
            self._receive_hello(data)
            return
        try:
            for message in self._frames.feed(data):
                self._receive(DECODER.decode(message))
        except (ValueError, msgspec.MsgspecError) as error:
            LOGGER.error("a server's connection is closed: what it sent is no message: %s", error)  # noqa: TRY400 - the reason says it all
            self._transport.abort()

    def pause_writing(self) -> None:
        self._is_paused = True
        self._stall = self._loop.call_later(self._host.stall_limit_s, self._disconnect_stalled)

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._stall is not None:
            self._stall.cancel()
        self._flush()

    def count_requests(self) -> int:
        """Return the number of requests that have not ended."""
        return len(self._streams)

    def send_status(self) -> None:
        """Send the line of the host's status, and what follows it."""
        if self._role is None or self._transport.is_closing():
            return
        status = self._host.status
        if self._has_frames:
            if status.state == "draining":
                self._send(Draining())
            return
        self._transport.write(status_line(status))
        if status.state == "ready" and self._role == "requests":
            self._has_frames = True
            self.send_description()

    def send_description(self) -> None:
        """Send what the engine serves."""
        if self._has_frames and self._host.description is not None:
            self._send(self._host.description)

    def close(self) -> None:
        """Close the connection once what is written is sent."""
        self._flush()
        self._transport.close()

    def _send(self, message: EngineMessage) -> None:
        self._transport.write(frame(message))

    def _receive_hello(self, data: bytes) -> None:
        self._line += data
        line, newline, rest = self._line.partition(b"\n")
        if not newline:
            if len(self._line) > MAX_LINE_BYTES:
                self._transport.abort()
            return
        self._transport.write(hello_line(self._host.hello))
        try:
            hello = read_hello(bytes(line))
            if hello.role == "requests":
                check_versions(hello, self._host.hello)
        except ProtocolVersionError as error:
            LOGGER.error("a connection is refused: %s", error)  # noqa: TRY400 - the reason says it all
            self._transport.close()
            return
        if rest:
            LOGGER.error("a connection is refused: it sent more than a hello before it was answered")
            self._transport.abort()
            return
        self._role = hello.role
        self.send_status()

    def _receive(self, message: ServerMessage) -> None:
        if isinstance(message, AdapterChange):
            change = self._loop.create_task(self._change_adapter(message))
            self._changes.add(change)
            change.add_done_callback(self._changes.discard)
            return
        for number, request in message.submitted:
            self._submit(number, request)
        for number in message.cancelled:
            stream = self._streams.pop(number, None)
            if stream is not None:
                stream.cancel()
        self._host.on_count()

    async def _change_adapter(self, change: AdapterChange) -> None:
        result = await self._host.change_adapter(change)
        if not self._transport.is_closing():
            self._send(result)

    def _submit(self, number: int, request: GenerationRequest) -> None:
        engine = self._host.engine
        if engine is None or self._host.status.state != "ready":
            self._fail(number, EngineError("the engine accepts no further requests"))
            return
        try:
            stream = engine.submit(request)
        except EngineError as error:
            self._fail(number, error)
        except KeyError:
            self._fail(number, RequestRefusedError(f"the engine does not serve the model {request.model}"))
        except Exception as error:
            LOGGER.exception("request %s failed in the engine", request.request_id)
            self._fail(number, EngineError(f"the engine failed: {error}"))
        else:
            stream.on_change = partial(self._mark, number)
            self._streams[number] = stream
            # Engines deliver later, but need not.
            self._mark(number)

    def _fail(self, number: int, error: EngineError) -> None:
        self._failures.append(to_failure(number, error))
        self._schedule()
        self._host.suspect()

    def _mark(self, number: int) -> None:
        """Note that a stream has something, which is sent with what else the step brings."""
        self._changed[number] = None
        if not self._is_scheduled:
            self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_scheduled = False
        if self._is_paused or self._transport.is_closing():
            return
        changed, self._changed = self._changed, {}
        rows: list[tuple[int, Increment]] = []
        for number in changed:
            stream = self._streams.get(number)
            if stream is not None:
                self._take(number, stream, rows)
        failures, self._failures = self._failures, []
        if rows or failures:
            self._send(Step(rows, failures))
            self._host.on_count()

    def _take(self, number: int, stream: TokenStream, rows: list[tuple[int, Increment]]) -> None:
        try:
            while (increment := stream.take()) is not None:
                rows.append((number, increment))
                if increment.finish_reason is not None:
                    del self._streams[number]
                    return
        except EngineError as error:
            del self._streams[number]
            self._fail(number, error)

    def _disconnect_stalled(self) -> None:
        LOGGER.error(
            "a server is disconnected: it has read nothing for %g s, and %d requests wait for it",
            self._host.stall_limit_s,
            len(self._streams),
        )
        self._transport.abort()


def _with_adapter(
    models: tuple[ModelDescription, ...], added: ModelDescription
) -> tuple[ModelDescription, ...]:
    """Return the models with an adapter in the place of another of its name, or as the first one."""
    if any(model.name == added.name for model in models):
        return tuple(added if model.name == added.name else model for model in models)
    return (*models[:1], added, *models[1:])


def _bind(path: Path) -> socket.socket:
    """Return a socket that listens at a path, in place of whatever is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Under another name first: there is never a moment without a socket at the path.
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    try:
        listener.bind(str(beside))
        beside.chmod(0o600)
        listener.listen(BACKLOG)
        beside.replace(path)
    except OSError:
        listener.close()
        raise
    return listener
