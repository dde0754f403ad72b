"""An Azure Files service in this process, over real TLS on loopback, and the real SDK to drive it."""

from __future__ import annotations

import asyncio
import base64
import http.client
import itertools
import os
import ssl
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
import trustme
from aiohttp import web
from azure.storage.fileshare import ShareClient, ShareServiceClient

from localcloud.files import FileService, shared_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KEY1 = base64.b64encode(b"the first key of a test account, 64 bytes long, as Azure's are!!").decode()
KEY2 = base64.b64encode(b"and the second one, which opens it as well as the first one does").decode()
VERSION = "2026-04-06"
_NUMBERS = itertools.count(1)


@dataclass
class Clock:
    """The service's clock: real time, and what a test adds to it."""

    ahead: timedelta = timedelta(0)

    def __call__(self) -> int:
        return time.time_ns() + int(self.ahead.total_seconds() * 1e9)


@dataclass
class Server:
    """A running service."""

    service: FileService
    root: Path
    port: int
    ca: Path
    clock: Clock
    accounts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"


@dataclass
class Response:
    """The response to a raw request."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return self.headers["x-ms-error-code"]

    def text(self, tag: str) -> str:
        return ET.fromstring(self.body).findtext(tag) or ""  # noqa: S314 - the service under test wrote it


@pytest.fixture(scope="session")
def file_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("files")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    accounts: dict[str, tuple[str, ...]] = {}
    clock = Clock()
    service = FileService(folder / "root", accounts.get, clock_ns=clock)
    started: Future[int] = Future()
    stop: list[Callable[[], object]] = []

    async def serve() -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", service.handle)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(done.set))
        started.set_result(runner.addresses[0][1])
        await done.wait()
        for connection in runner.server.connections if runner.server else ():
            # Clients are gone: nothing to wait for in a TLS closing handshake.
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()
        await asyncio.sleep(0)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    port = started.result(timeout=20)
    yield Server(service, folder / "root", port, folder / "ca.pem", clock, accounts)
    stop[0]()
    thread.join(timeout=20)


@pytest.fixture
def server(file_server: Server) -> Iterator[Server]:
    file_server.clock.ahead = timedelta(0)
    yield file_server
    file_server.clock.ahead = timedelta(0)


@pytest.fixture
def account(server: Server) -> str:
    name = f"account{next(_NUMBERS)}"
    server.accounts[name] = (KEY1, KEY2)
    return name


@pytest.fixture
def endpoint(server: Server, account: str) -> str:
    return f"https://{server.host}/{account}"


@pytest.fixture
def client(server: Server, endpoint: str) -> Iterator[ShareServiceClient]:
    with ShareServiceClient(
        endpoint, credential=KEY1, connection_verify=str(server.ca), retry_total=0
    ) as made:
        yield made


@pytest.fixture
def share(client: ShareServiceClient) -> ShareClient:
    return client.create_share("models")


@pytest.fixture
def folder(server: Server, account: str, share: ShareClient) -> Path:
    """The share's directory, as a replica sees it."""
    return server.service.share_path(account, share.share_name)


@pytest.fixture
def send(server: Server, account: str) -> Callable[..., Response]:
    """Send a raw request, signed by default; the path follows the account."""

    def do(  # noqa: PLR0913 - a request has that many parts
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        key: str | None = KEY1,
        date: datetime | None = None,
        authorization: str | None = None,
        meanwhile: Callable[[], object] | None = None,
    ) -> Response:
        target = f"/{account}{path}"
        when = format_datetime(date or datetime.now(UTC), usegmt=True)
        own = {
            "x-ms-version": VERSION,
            "x-ms-date": when,
            "Content-Length": str(len(body)),
            **(headers or {}),
        }
        raw_path, _, raw_query = target.partition("?")
        pairs = tuple(
            (name, value) for name, _, value in (p.partition("=") for p in raw_query.split("&") if p)
        )
        if key is not None:
            signed = shared_key.SignedRequest(method, raw_path, pairs, tuple(own.items()))
            signature = shared_key.sign(key, shared_key.string_to_sign(signed, account))
            own["Authorization"] = f"SharedKey {account}:{signature}"
        if authorization is not None:
            own["Authorization"] = authorization
        context = ssl.create_default_context(cafile=str(server.ca))
        connection = http.client.HTTPSConnection("localhost", server.port, context=context, timeout=20)
        try:
            connection.request(method, target, body=body, headers=own)
            response = connection.getresponse()
            begun = b"" if meanwhile is None else response.read(1024)
            if meanwhile is not None:
                meanwhile()
            return Response(
                response.status, {n.lower(): v for n, v in response.getheaders()}, begun + response.read()
            )
        finally:
            connection.close()

    return do


@pytest.fixture
def random_bytes() -> Callable[[int], bytes]:
    return os.urandom
