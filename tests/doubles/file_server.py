"""Azure Files on a port of this machine, over TLS, with responses that a test can replace."""

from __future__ import annotations

import asyncio
import base64
import ssl
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trustme
from aiohttp import web

from localcloud.files import FileService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KEY = base64.b64encode(b"a test account's key, which opens nothing but what this test made").decode()


@dataclass
class FileServer:
    """A running file service.

    Attributes:
        port: The port that it listens on, at `localhost`.
        ca: The certificate to trust.
        instead: Called with each request before the service; a response that one returns is sent instead.
        requests: Method and path of every request, in order.
        lost: Called with each request that the service has answered; if one returns True, that is lost.
    """

    service: FileService
    port: int
    ca: Path
    instead: list[Callable[[web.Request], web.Response | None]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    lost: list[Callable[[web.Request], bool]] = field(default_factory=list)


@contextmanager
def serve_files(folder: Path) -> Iterator[FileServer]:
    """Run a file service in a thread while a `with` block lasts. Every account has the key `KEY`.

    Args:
        folder: An empty folder for the shares and the certificate.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    server = FileServer(FileService(folder / "root", lambda _name: (KEY,)), 0, folder / "ca.pem")
    started: Future[int] = Future()
    loop = asyncio.new_event_loop()
    done = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        server.requests.append(f"{request.method} {request.path_qs}")
        for answer in list(server.instead):
            if (response := answer(request)) is not None:
                return response
        answered = await server.service.handle(request)
        return web.Response(status=500) if any(lose(request) for lose in server.lost) else answered

    async def serve() -> None:
        application = web.Application(client_max_size=8 << 20)
        application.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        started.set_result(runner.addresses[0][1])
        await done.wait()
        for connection in runner.server.connections if runner.server else ():
            if connection.transport is not None:
                connection.transport.abort()  # its client is gone: nobody answers a TLS goodbye
        await runner.cleanup()

    def run() -> None:
        loop.run_until_complete(serve())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    server.port = started.result(timeout=20)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(timeout=20)
