"""Containers for the runtime's tests: tiny real servers, and a host whose times are short."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from localcloud.runtime import BackOff, Container, ContainerHost, Limits, Probe, RevisionSpec, SystemRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

APP = "app"
REVISION = "app--0000001"
TARGET_PORT = 7860
PATIENCE_S = 60

LIMITS = Limits(
    back_off=BackOff(first_s=0.05, cap_s=0.2, forget_after_s=60),
    drain_requests_s=0.5,
    inspect_starting_s=0.1,
    inspect_running_s=0.2,
    drain_output_s=0.5,
)
READINESS = Probe("Readiness", "/readyz", TARGET_PORT, period_s=0.05, timeout_s=600, failure_threshold=1)

# What a container does is in its environment (at its start) and in the requests that it gets.
SERVER = r"""
import json, os, select, signal, socket, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

state = {"healthy": True, "ready": os.environ.get("NEVER_READY") is None}

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def piece(self, text):
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def stream(self, pieces, gap):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(pieces):
            self.piece(f"data: {number} {time.monotonic()}\n\n")
            time.sleep(gap)
        self.wfile.write(b"0\r\n\r\n")

    def wait_for_client_to_leave(self):
        select.select([self.connection], [], [], 10)
        left = self.connection.recv(1, socket.MSG_PEEK) == b""
        print("client left" if left else "client stayed", time.monotonic(), flush=True)
        self.close_connection = True

    def do_GET(self):
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/healthz":
            self.answer(200 if state["healthy"] else 500)
        elif url.path == "/readyz":
            self.answer(200 if state["ready"] else 503)
        elif url.path == "/set":
            state[query["name"]] = query["value"] == "yes"
            self.answer(200)
        elif url.path == "/name":
            self.answer(200, os.environ["CONTAINER_APP_REPLICA_NAME"].encode())
        elif url.path == "/env":
            about = {"env": dict(os.environ), "cwd": os.getcwd(), "pid": os.getpid(), "sid": os.getsid(0)}
            self.answer(200, json.dumps(about).encode())
        elif url.path == "/headers":
            self.answer(
                200,
                json.dumps([self.path, self.headers.items()]).encode(),
                [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Keep-Alive", "timeout=5"), ("X-Own", "yes")],
            )
        elif url.path == "/stream":
            print("stream begins", flush=True)
            self.stream(int(query["pieces"]), float(query["gap"]))
        elif url.path == "/hang":
            if query.get("begin") == "yes":
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.piece("begun\n")
            print("hanging", flush=True)
            self.wait_for_client_to_leave()
        elif url.path == "/reset":
            print("resetting", flush=True)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif url.path == "/crash":
            print("last words", flush=True)
            os._exit(int(query["code"]))
        elif url.path == "/redirect":
            self.answer(302, headers=[("Location", "/elsewhere")])
        else:
            self.answer(404)

    do_HEAD = do_GET

    def do_POST(self):
        if self.path == "/reset":
            return self.do_GET()
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                print("got", size, flush=True)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(200, body)

    def log_message(self, *args):
        pass

class Server(ThreadingHTTPServer):
    daemon_threads = False

    def handle_error(self, request, client_address):
        pass  # a client that left

def spawn(env):
    code = "import time; print('child', flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, env=env)
    print("child pid", child.pid, flush=True)

print("starting", os.getpid(), flush=True)
if "EXIT" in os.environ:
    print("cannot go on", file=sys.stderr)
    sys.exit(int(os.environ["EXIT"]))
if "CHILDREN" in os.environ:
    spawn(dict(os.environ))
    spawn({})
address = os.environ.get("ADDRESS", "127.0.0.1")
port = int(os.environ.get("PORT", os.environ["CONTAINER_APP_PORT"]))
server = Server((address, port), Handler)
if "IGNORE_TERM" in os.environ:
    signal.signal(signal.SIGTERM, lambda *_: print("ignored", flush=True))
else:
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever(poll_interval=0.01)
print("draining", flush=True)
server.server_close()
print("drained", flush=True)
"""


@dataclass
class Bench:
    """A host, the address of its app, and ways to wait for what happens on it."""

    host: ContainerHost
    server: Path
    port: int
    session: aiohttp.ClientSession
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.port}"

    def spec(self, *probes: Probe, replicas: int = 1, grace_s: float = 10, **env: str) -> RevisionSpec:
        container = Container(
            name="main",
            image="none",
            command=("/bin/bash",),
            args=("-c", f"exec python3 '{self.server}'"),
            env=tuple(env.items()),
            probes=probes or (READINESS,),
        )
        return RevisionSpec(
            APP, REVISION, container, TARGET_PORT, replicas, grace_s, "local.test", "app.local.test"
        )

    async def up(self, spec: RevisionSpec | None = None) -> None:
        await self.host.run(spec or self.spec())
        await self.host.serve(APP, REVISION)
        async with asyncio.timeout(PATIENCE_S):
            await self.host.wait_ready(REVISION)

    async def get(self, path: str, **options: Any) -> tuple[int, str]:
        async with self.session.get(self.url + path, **options) as response:
            return response.status, await response.text()

    async def about(self) -> dict[str, Any]:
        """What the container tells of itself."""
        _, text = await self.get("/env")
        return dict(json.loads(text))

    async def event(self, reason: str, times: int = 1, replica: str | None = None) -> SystemRecord:
        """Wait until an event has been written a number of times."""
        seen = 0
        async with asyncio.timeout(PATIENCE_S):
            async for record in self.host.system_log(APP, tail=10_000, follow=True):
                seen += record.reason == reason and replica in {None, record.replica}
                if seen == times:
                    return record
        raise AssertionError(f"the log ended before {reason}")

    async def events(self) -> list[str]:
        return [record.reason async for record in self.host.system_log(APP, tail=10_000)]

    async def line(self, start: str, replica: str | None = None) -> str:
        """Wait until the container has written a line that starts so."""
        name = replica or self.host.replicas(REVISION)[0].name
        async with asyncio.timeout(PATIENCE_S):
            async for record in self.host.console_log(REVISION, name, tail=10_000, follow=True):
                if record.text.startswith(start):
                    return record.text
        raise AssertionError(f"the log ended before {start!r}")


@pytest.fixture
async def make_bench(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Make a host whose app listens already; limits that matter to a test are given by name."""
    hosts: list[ContainerHost] = []
    server = tmp_path / "server.py"
    server.write_text(SERVER)
    async with aiohttp.ClientSession() as session:

        async def make(**limits: Any) -> Bench:
            host = ContainerHost(tmp_path / "state", replace(LIMITS, **limits))
            hosts.append(host)
            return Bench(host, server, await host.start_app(APP), session)

        yield make
        for host in hosts:
            await host.close()


@pytest.fixture
async def bench(make_bench: Callable[..., Any]) -> Any:
    """A host with the usual limits."""
    return await make_bench()
