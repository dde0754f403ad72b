"""Request a completion of each model from a server over HTTP: before it gets traffic, and of later models.

The requests pass through all of the server: its protocol, its middleware, the service, the engine. They come
through a socket that only this process has, with a key that only this process knows.
"""

from __future__ import annotations

import asyncio
import json
import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11
from uvicorn.server import ServerState

from inference.web.http_protocol import Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from uvicorn import Config

    from inference.engines.protocol import ServedModel
    from inference.web.keyring import Keyring

PATH: Final = "/v1/completions"
PROMPT: Final = "Hello"
MAX_TOKENS: Final = 1

RETRY_S: Final = 0.5
BUSY_LIMIT_S: Final = 120.0
"""For how long a server may be too busy, as one can be that gets requests while its engine loads."""

BUSY: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})

_READ_BYTES: Final = 1 << 16
_SHOWN_CHARACTERS: Final = 300


class SelfTest:
    """The test of a server's models by the server itself. Each model is tested once.

    Args:
        config: The configuration of the server, with its application.
        models: Returns the models that are served now, which may change during a test.
        keyring: The server's keys, of which one is lent to a test.

    Attributes:
        answers: How each model has answered, by its name: None, or why it answered with no completion.
    """

    def __init__(
        self, config: Config, models: Callable[[], tuple[ServedModel, ...]], keyring: Keyring
    ) -> None:
        config.load()
        self.answers: dict[str, str | None] = {}
        self._config = config
        self._models = models
        self._keyring = keyring
        self._tested: tuple[ServedModel, ...] = ()

    @property
    def is_due(self) -> bool:
        """Return whether other models are served than those of the last test.

        They are compared by identity: an engine that was loaded again serves new models of the same names.
        """
        return list(map(id, self._models())) != list(map(id, self._tested))

    async def run(self) -> dict[str, str | None]:
        """Request a completion of each model that was not tested yet, all at once, and return `answers`."""
        models, tested = self._models(), set(map(id, self._tested))
        new = [model.name for model in models if id(model) not in tested]
        with self._keyring.lend() as key:
            reasons = await asyncio.gather(*(self._why_failed(name, key) for name in new))
        answers = self.answers | dict(zip(new, reasons, strict=True))
        self._tested, self.answers = models, {model.name: answers[model.name] for model in models}
        return self.answers

    async def _why_failed(self, name: str, key: str) -> str | None:
        """Return why a model answers with no completion; None if it does, or is not served any more."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + BUSY_LIMIT_S
        while True:
            try:
                status, body = await _request_completion(self._config, name, key)
            except (h11.RemoteProtocolError, OSError) as error:
                return f"{name} answers no completion: {error}"
            if status == HTTPStatus.OK and _has_completion(body):
                return None
            if name not in {model.name for model in self._models()}:
                return None  # it was removed while its answer was computed
            if status not in BUSY or loop.time() > deadline:
                text = body.decode(errors="replace")[:_SHOWN_CHARACTERS]
                return f"{name} answers no completion: status {status}, {text}"
            await asyncio.sleep(RETRY_S)


async def _request_completion(config: Config, model: str, key: str) -> tuple[int, bytes]:
    """Request a completion of one token, and return the status and the body of the answer.

    Raises:
        h11.RemoteProtocolError: If the answer is no HTTP, or breaks off.
    """
    body = json.dumps({"model": model, "prompt": PROMPT, "max_tokens": MAX_TOKENS, "temperature": 0}).encode()
    head = h11.Request(
        method="POST",
        target=PATH,
        headers=[
            ("Host", "localhost"),
            ("Authorization", f"Bearer {key}"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ],
    )
    client = h11.Connection(h11.CLIENT)
    request = b"".join(client.send(event) or b"" for event in (head, h11.Data(body), h11.EndOfMessage()))
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    await loop.connect_accepted_socket(
        lambda: Protocol(config=config, server_state=ServerState(), app_state={}), theirs
    )
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    try:
        writer.write(request)
        return await _read_answer(client, reader)
    finally:
        writer.close()


async def _read_answer(client: h11.Connection, reader: asyncio.StreamReader) -> tuple[int, bytes]:
    status, body = 0, b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            client.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
    return status, body


def _has_completion(body: bytes) -> bool:
    """Return whether a body is a completion of at least one token."""
    try:
        document = json.loads(body)
        return bool(document["choices"]) and int(document["usage"]["completion_tokens"]) > 0
    except (ValueError, KeyError, TypeError):
        return False
