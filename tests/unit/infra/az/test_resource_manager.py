"""Requests to Resource Manager without az, against a server on this machine."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from infra.az.client import Az
from infra.az.commands import Group, revision_show
from infra.az.direct import ArmRequest
from infra.az.errors import AzureRejectedError, NotFoundError
from infra.az.resource_manager import ENDPOINTS, ResourceManager, UnreachableError, find_endpoint
from infra.clock import ManualClock
from infra.errors import RemoteError
from infra.process import Command, Completed, Runner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]
REQUEST = ArmRequest("GET", "/subscriptions/sub/app?api-version=1")
COMMAND = revision_show(Group("sub", "rg"), "app", "app--1")


@dataclass
class ArmServer:
    """A server that gives its answers in order, and records what it was asked."""

    address: str = ""
    answers: list[Answer] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[ArmServer]:
    made = ArmServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(f"{self.command} {self.path}")
            made.tokens.append(self.headers["Authorization"])
            status, body, *headers = made.answers.pop(0)
            payload = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in (headers[0] if headers else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_POST = do_GET  # noqa: N815 - the base class's names

        def log_message(self, *_: object) -> None:
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    made.address = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def manager(server: ArmServer, clock: ManualClock) -> ResourceManager:
    tokens = iter(("first", "second", "third"))
    return ResourceManager(server.address, None, lambda _subscription: next(tokens), clock)


def test_a_request_carries_the_token_and_returns_the_answer(
    server: ArmServer, manager: ResourceManager
) -> None:
    server.answers = [(200, {"name": "app"}), (202, b"")]
    assert manager.send("sub", REQUEST, "az ...") == {"name": "app"}
    assert manager.send("sub", ArmRequest("POST", "/restart?api-version=1"), "az ...") is None
    assert server.asked == ["GET /subscriptions/sub/app?api-version=1", "POST /restart?api-version=1"]
    assert server.tokens == ["Bearer first"] * 2


def test_the_pages_of_a_list_are_put_together(server: ArmServer, manager: ResourceManager) -> None:
    server.answers = [
        (200, {"value": [1], "nextLink": f"{server.address}/page2"}),
        (200, {"value": [2, 3], "nextLink": "https://elsewhere.example/page3"}),
    ]
    found = manager.send("sub", REQUEST, "az ...")
    assert isinstance(found, dict)
    assert found["value"] == [1, 2, 3]


def test_an_expired_token_is_renewed_once(server: ArmServer, manager: ResourceManager) -> None:
    server.answers = [(401, {}), (200, {"name": "app"})]
    assert manager.send("sub", REQUEST, "az ...") == {"name": "app"}
    assert server.tokens == ["Bearer first", "Bearer second"]
    server.answers = [(401, {"error": {"code": "InvalidToken", "message": "no"}})] * 2
    with pytest.raises(AzureRejectedError, match="InvalidToken"):
        manager.send("sub", REQUEST, "az ...")


def test_what_passes_is_tried_again(server: ArmServer, manager: ResourceManager, clock: ManualClock) -> None:
    server.answers = [(429, {}, {"Retry-After": "7"}), (503, {}), (200, {"name": "app"})]
    assert manager.send("sub", REQUEST, "az ...") == {"name": "app"}
    assert clock.elapsed_s() == 7.0 + 2.0


def test_what_does_not_pass_is_an_error(server: ArmServer, manager: ResourceManager) -> None:
    server.answers = [(503, b"<html>")] * 4
    with pytest.raises(RemoteError, match="Azure answered with HTTP 503"):
        manager.send("sub", REQUEST, "az ...")


@pytest.mark.parametrize(
    ("code", "kind"), [("ResourceNotFound", NotFoundError), ("Conflict", AzureRejectedError)]
)
def test_a_rejection_is_the_one_that_az_reports(
    server: ArmServer, manager: ResourceManager, code: str, kind: type[AzureRejectedError]
) -> None:
    server.answers = [(409, {"error": {"code": code, "message": "because"}})]
    with pytest.raises(kind) as caught:
        manager.send("sub", REQUEST, "az containerapp show")
    assert (caught.value.cause.code, caught.value.command) == (code, "az containerapp show")


@dataclass
class Scripted(Runner):
    """A runner that starts nothing: az prints a token, or fails."""

    token: str = "t0"
    lines: list[str] = field(default_factory=list)

    def run(self, command: Command) -> Completed:
        self.lines.append(command.line)
        if "get-access-token" in command.line:
            return Completed(0 if self.token else 1, json.dumps({"accessToken": self.token}), "az login")
        return Completed(0, '{"name": "by az"}', "")


def connected(runner: Scripted, address: str, clock: ManualClock) -> Az:
    return Az(runner, None, lambda get_token: ResourceManager(address, None, get_token, clock))


def test_several_commands_need_one_process(server: ArmServer, clock: ManualClock) -> None:
    runner = Scripted()
    az = connected(runner, server.address, clock)
    server.answers = [(200, {"name": "direct"})] * 3
    assert [az.run(COMMAND) for _ in range(3)] == [{"name": "direct"}] * 3
    assert runner.lines == ["az account get-access-token --subscription sub --output json"]


def test_az_runs_what_cannot_be_sent(clock: ManualClock) -> None:
    runner = Scripted()
    az = connected(runner, "http://127.0.0.1:9", clock)
    assert az.run(COMMAND) == {"name": "by az"}
    assert runner.lines[-1] == COMMAND.line


def test_az_says_why_there_is_no_token(server: ArmServer, clock: ManualClock) -> None:
    runner = Scripted(token="")
    assert connected(runner, server.address, clock).run(COMMAND) == {"name": "by az"}
    assert server.asked == []


def test_az_runs_other_commands(server: ArmServer, clock: ManualClock) -> None:
    runner = Scripted()
    assert connected(runner, server.address, clock).run(Command(("az", "version"))) == {"name": "by az"}
    assert runner.lines == ["az version"]


def test_the_endpoint_is_that_of_the_cloud_that_az_uses(tmp_path: Path) -> None:
    environment = {"AZURE_CONFIG_DIR": str(tmp_path)}
    assert find_endpoint(environment) == ENDPOINTS["AzureCloud"]
    (tmp_path / "config").write_text("[cloud]\nname = AzureUSGovernment\n")
    assert find_endpoint(environment) == ENDPOINTS["AzureUSGovernment"]
    (tmp_path / "config").write_text("[cloud]\nname = MyStack\n")
    assert find_endpoint(environment) is None
    (tmp_path / "config").write_text("name = x\n")
    assert find_endpoint(environment) is None


def test_an_endpoint_that_cannot_be_reached_is_no_error_of_azure(clock: ManualClock) -> None:
    manager = ResourceManager("http://127.0.0.1:9", None, lambda _: "t", clock)
    with pytest.raises(UnreachableError):
        manager.send("sub", REQUEST, "az ...")
