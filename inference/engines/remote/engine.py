"""The server's end of a connection to an engine process: an engine like the others, for the service.

A `RemoteEngine` lives as long as its connection. When the engine process ends, its streams end with an error
at once, and a new process is a new `RemoteEngine`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, cast

import msgspec
from msgspec.structs import replace

from inference.engines.protocol import TokenStream
from inference.engines.remote.handshake import (
    MAX_LINE_BYTES,
    VERSION,
    EngineStatus,
    Hello,
    check_versions,
    hello_line,
    read_hello,
    read_status,
)
from inference.engines.remote.messages import (
    AdapterChange,
    AdapterResult,
    Description,
    Draining,
    EngineMessage,
    FrameReader,
    Requests,
    Step,
    frame,
    to_adapter_error,
    to_error,
)
from inference.errors import EngineError, ProtocolVersionError

if TYPE_CHECKING:
    from pathlib import Path

    from inference.engines.protocol import Ability, GenerationRequest, ServedModel
    from inference.engines.remote.messages import ModelDescription
    from inference.engines.remote.tokenizers import Tokenizers

LOGGER: Final = logging.getLogger(__name__)

DECODER: Final = msgspec.msgpack.Decoder(EngineMessage)

StatusCallback = Callable[[EngineStatus], None]


async def connect(
    path: Path, release: str, tokenizers: Tokenizers, on_status: StatusCallback = lambda _status: None
) -> RemoteEngine:
    """Connect to an engine process, and wait until it has loaded its models.

    Args:
        path: The socket's path.
        release: The release that this server runs.
        tokenizers: Reads the tokenizers of the engine's models.
        on_status: Called with each state of the engine process until it is ready.

    Raises:
        OSError: If there is no engine process, or it ends before it is ready.
        ProtocolVersionError: If it speaks another version of the protocol.
    """
    loop = asyncio.get_running_loop()
    hello = Hello(VERSION, release, pid=os.getpid())
    transport, connection = await loop.create_unix_connection(
        lambda: _Connection(hello, on_status), str(path)
    )
    try:
        await connection.described
    except BaseException:
        transport.abort()
        raise
    return RemoteEngine(connection, tokenizers)


class RemoteEngine:
    """An engine in another process.

    Args:
        connection: The connection, after its handshake.
        tokenizers: Reads the tokenizers of the engine's models.

    Attributes:
        changed: Set when `description`, `is_draining` or `is_alive` has changed; whoever waits clears it.
    """

    def __init__(self, connection: _Connection, tokenizers: Tokenizers) -> None:
        self.changed = asyncio.Event()
        self._tokenizers = tokenizers
        self._connection = connection
        self._is_closed = False
        self._context_tokens: dict[str, int] = {}
        # There may have been a second one since the first.
        self._describe(connection.latest or connection.described.result())
        connection.on_description = self._describe
        connection.on_change = self.changed.set

    @property
    def description(self) -> Description:
        """Return what the engine serves, and how fast it is."""
        return self._description

    @property
    def abilities(self) -> frozenset[Ability]:
        """Return the optional features that the engine supports."""
        return self._description.abilities

    @property
    def is_alive(self) -> bool:
        """Return whether there is a connection."""
        return not self._is_closed and self._connection.is_open

    @property
    def is_draining(self) -> bool:
        """Return whether the engine process accepts no further requests, and is about to end."""
        return self._connection.is_draining

    @property
    def cache_tokens(self) -> int | None:
        """Return the size of the engine's cache."""
        return self._description.cache_tokens

    def context_tokens(self, model: str) -> int:
        """Return the model's context."""
        return self._context_tokens[model]

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Send a request. What the engine refuses ends the stream with `RequestRefusedError`."""
        if not self.is_alive:
            raise EngineError("the engine has stopped")
        if request.model not in self._models:
            raise KeyError(request.model)
        return self._connection.submit(request)

    async def add_adapter(self, name: str, folder: Path) -> ServedModel:
        """Have the engine process load an adapter; all its servers serve it then."""
        added = await self._connection.change_adapter(name, str(folder))
        models = await self.read_models()
        found = next((model for model in models if model.name == name), None)
        if added is None or found is None:
            raise EngineError(f"the adapter {name} was added, and something has removed it again")
        return found

    async def remove_adapter(self, name: str) -> None:
        """Have the engine process unload an adapter. Nothing more is submitted to it from now on."""
        models = tuple(
            model for model in self._description.models if model.name != name or model.parent is None
        )
        if len(models) == len(self._description.models):
            raise KeyError(name)
        self._describe(replace(self._description, models=models))
        await self._connection.change_adapter(name, None)

    async def read_models(self) -> tuple[ServedModel, ...]:
        """Read the tokenizers of the engine's models, and return the models.

        Raises:
            LoadError: If a tokenizer cannot be read.
        """
        return await asyncio.to_thread(self._tokenizers.read_models, self._description.models)

    async def close(self) -> None:
        """Close the connection. The engine process drops this server's requests, and goes on."""
        self._is_closed = True
        self._connection.close()

    def count_requests(self) -> int:
        """Return the number of requests that have not ended."""
        return self._connection.count_requests()

    def _describe(self, description: Description) -> None:
        self._description = description
        self._models = {model.name for model in description.models}
        # Those of models that have gone are kept: the service may still list them for a moment.
        self._context_tokens |= {model.name: model.context_tokens for model in description.models}


class _Connection(asyncio.Protocol):
    """The connection.

    Attributes:
        described: The first description; fails if there will be none.
        latest: The last description so far.
        is_open: Whether messages can be sent.
        is_draining: Whether the engine accepts no further requests.
        on_description: Called with further descriptions.
        on_change: Called after a change of any of these.
    """

    def __init__(self, hello: Hello, on_status: StatusCallback) -> None:
        self._loop = asyncio.get_running_loop()
        self.described: asyncio.Future[Description] = self._loop.create_future()
        self.latest: Description | None = None
        self.is_open = False
        self.is_draining = False
        self.on_description: Callable[[Description], None] = lambda _description: None
        self.on_change: Callable[[], None] = lambda: None
        self._hello = hello
        self._on_status = on_status
        self._transport: asyncio.Transport
        self._is_greeted = False
        self._has_frames = False
        self._lines = bytearray()
        self._frames = FrameReader()
        self._numbers = itertools.count()
        self._streams: dict[int, TokenStream] = {}
        self._changes: dict[int, tuple[str, asyncio.Future[ModelDescription | None]]] = {}
        self._submitted: list[tuple[int, GenerationRequest]] = []
        self._cancelled: list[int] = []
        self._is_scheduled = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True
        self._transport.write(hello_line(self._hello))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._end("the engine process has ended")

    def data_received(self, data: bytes) -> None:
        try:
            if not self._has_frames:
                data = self._receive_lines(data)
            if self._has_frames:
                for message in self._frames.feed(data):
                    self._receive(DECODER.decode(message))
        except ProtocolVersionError as error:
            self._give_up(error)
        except (ValueError, msgspec.MsgspecError) as error:
            LOGGER.error("the engine process sent what is no message: %s", error)  # noqa: TRY400 - the reason says it all
            self._give_up(ProtocolVersionError(f"the engine process sent what is no message: {error}"))

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Send a request, with what else is sent in this turn of the event loop."""
        number = next(self._numbers)
        stream = TokenStream(partial(self._cancel, number))
        self._streams[number] = stream
        self._submitted.append((number, request))
        self._schedule()
        return stream

    async def change_adapter(self, name: str, folder: str | None) -> ModelDescription | None:
        """Send a change, and return the adapter that was added.

        Raises:
            LoadError: If the adapter does not fit.
            RestartRequiredError: If it would fit after a restart.
            KeyError: If there is no such adapter to remove.
            EngineError: If the engine is dead.
        """
        if not self.is_open:
            raise EngineError("the engine has stopped")
        number = next(self._numbers)
        future: asyncio.Future[ModelDescription | None] = self._loop.create_future()
        self._changes[number] = (name, future)
        self._flush()
        self._transport.write(frame(AdapterChange(number, name, folder)))
        return await future

    def close(self) -> None:
        """Close the connection; open streams end with an error."""
        self._flush()
        self._transport.close()
        self._end("the engine has stopped")

    def count_requests(self) -> int:
        """Return the number of requests that have not ended."""
        return len(self._streams)

    def _receive_lines(self, data: bytes) -> bytes:
        """Handle the lines of the handshake, and return what follows them."""
        self._lines += data
        while not self._has_frames:
            line, newline, rest = self._lines.partition(b"\n")
            if not newline:
                if len(self._lines) > MAX_LINE_BYTES:
                    raise ProtocolVersionError("the engine process sent what is no line")
                return b""
            self._lines = rest
            if self._is_greeted:
                status = read_status(bytes(line))
                self._has_frames = status.state == "ready"
                self._on_status(status)
            else:
                check_versions(self._hello, read_hello(bytes(line)))
                self._is_greeted = True
        return bytes(self._lines)

    def _receive(self, message: EngineMessage) -> None:
        match message:
            case Step():
                self._deliver(message)
            case Description():
                self.latest = message
                if self.described.done():
                    self.on_description(message)
                    self.on_change()
                else:
                    self.described.set_result(message)
            case Draining():
                self.is_draining = True
                self.on_change()
            case AdapterResult():
                self._settle(message)

    def _deliver(self, step: Step) -> None:
        for number, increment in step.rows:
            stream = self._streams.get(number)
            if stream is not None:
                stream.push(increment)
                if increment.finish_reason is not None:
                    del self._streams[number]
        for failure in step.failures:
            stream = self._streams.pop(failure.number, None)
            if stream is not None:
                stream.fail(to_error(failure))

    def _settle(self, result: AdapterResult) -> None:
        name, future = self._changes.pop(result.number)
        if future.done():
            return
        if result.failure is None:
            future.set_result(result.model)
        else:
            future.set_exception(to_adapter_error(name, result.failure, result.reason))

    def _cancel(self, number: int) -> None:
        if self._streams.pop(number, None) is not None and self.is_open:
            self._cancelled.append(number)
            self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_scheduled = False
        if self.is_open and (self._submitted or self._cancelled):
            self._transport.write(frame(Requests(self._submitted, self._cancelled)))
        self._submitted, self._cancelled = [], []

    def _give_up(self, error: ProtocolVersionError) -> None:
        if not self.described.done():
            self.described.set_exception(error)
        self._transport.abort()

    def _end(self, reason: str) -> None:
        self.is_open = False
        if not self.described.done():
            self.described.set_exception(ConnectionResetError(reason))
        for stream in self._streams.values():
            stream.fail(EngineError(reason))
        self._streams.clear()
        for _, future in self._changes.values():
            if not future.done():
                future.set_exception(EngineError(reason))
        self._changes.clear()
        self.on_change()
