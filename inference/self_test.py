"""Request a short completion of each model from a server, over HTTP, before it gets traffic.

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

from inference.errors import LoadError
from inference.web.http_protocol import Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from uvicorn import Config

PATH: Final = "/v1/completions"
PROMPT: Final = "Hello"
MAX_TOKENS: Final = 1

RETRY_S: Final = 0.5
BUSY_LIMIT_S: Final = 120.0
"""For how long a server may be too busy, as one can be that gets requests while its engine loads."""

BUSY: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})

_READ_BYTES: Final = 1 << 16
_SHOWN_CHARACTERS: Final = 300


async def require_completions(config: Config, names: Callable[[], Iterable[str]], key: str) -> None:
    """Request a completion of each model, all at once.

    Args:
        config: The configuration of the server, with its application.
        names: Returns the models that are served now, which may change meanwhile.
        key: An API key that the server accepts.

    Raises:
        LoadError: If a model does not answer with a completion.
    """
    config.load()
    await asyncio.gather(*(_require_completion(config, name, names, key) for name in tuple(names())))


async def request_completion(config: Config, model: str, key: str) -> tuple[int, bytes]:
    """Request a completion of one token, and return the status and the body of the answer.

    Raises:
        LoadError: If the answer is no HTTP, or breaks off.
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
    except (h11.RemoteProtocolError, OSError) as error:
        raise LoadError(f"{model} answers no completion: {error}") from error
    finally:
        writer.close()


async def _require_completion(
    config: Config, name: str, names: Callable[[], Iterable[str]], key: str
) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + BUSY_LIMIT_S
    while True:
        status, body = await request_completion(config, name, key)
        if status == HTTPStatus.OK and _has_completion(body):
            return
        if name not in names():
            return  # it was removed while its answer was computed
        if status not in BUSY or loop.time() > deadline:
            text = body.decode(errors="replace")[:_SHOWN_CHARACTERS]
            raise LoadError(f"{name} answers no completion: status {status}, {text}")
        await asyncio.sleep(RETRY_S)


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
