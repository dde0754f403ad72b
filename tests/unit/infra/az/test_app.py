"""What az and the address of the app return, parsed into values."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from infra.az.app import AzureApp, fetch_version, parse_replica, parse_revision, parse_version
from infra.az.commands import Group
from infra.az.errors import AzureRejectedError, ErrorCause
from infra.az.revision import (
    FailedAdapter,
    NoResponse,
    Replica,
    Revision,
    VersionResponse,
)
from infra.clock import ManualClock
from infra.errors import FjarrError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.document import Json
    from infra.process import Command

GROUP = Group("sub", "rg")
STARTED = "2026-01-01T01:00:00Z"
ANSWER = VersionResponse("r2", "app--1-new", STARTED, is_ready=True, server_started=STARTED)


class ScriptedAz:
    """Answers commands by the words after `az containerapp`; an error is raised, a list is consumed."""

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = answers
        self.lines: list[str] = []

    def run(self, command: Command) -> Json:
        self.lines.append(command.line)
        key = "_".join(word for word in command.argv[2:4] if not word.startswith("-"))
        answer = self.answers[key]
        if isinstance(answer, list) and answer and isinstance(answer[0], FjarrError):
            raise answer.pop(0)
        return answer  # type: ignore[no-any-return]


def app(az: ScriptedAz, clock: ManualClock | None = None) -> AzureApp:
    when = clock or ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    return AzureApp(az, GROUP, "app", "http://127.0.0.1:1", when, lambda _replica: ("a", "b"))  # type: ignore[arg-type]


def revision_json(name: str, created: str, **properties: str) -> Json:
    return {"name": name, "properties": {"createdTime": created, "runningState": "Running", **properties}}


def test_the_newest_active_revision_is_the_one() -> None:
    az = ScriptedAz(
        revision_list=[
            revision_json("app--1", "2026-01-02T00:00:00"),
            revision_json("app--2", "2026-01-03T00:00:00"),
        ]
    )
    revision, is_active = app(az).revision()
    assert (revision.name, is_active) == ("app--2", True)


def test_without_an_active_revision_it_is_the_latest_one() -> None:
    az = ScriptedAz(
        revision_list=[],
        show={"properties": {"latestRevisionName": "app--3"}},
        revision_show=revision_json("app--3", "2026-01-03T00:00:00"),
    )
    revision, is_active = app(az).revision()
    assert (revision.name, is_active) == ("app--3", False)


def test_an_app_without_a_revision_is_an_error() -> None:
    with pytest.raises(RemoteError, match="'app' has no revision"):
        app(ScriptedAz(revision_list=[], show={"properties": {}})).revision()


def test_a_restart_waits_while_another_operation_is_under_way() -> None:
    busy = AzureRejectedError(
        "Azure rejected the request", ErrorCause("ContainerAppOperationInProgress", "busy")
    )
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    az = ScriptedAz(revision_restart=[busy, busy])
    app(az, clock).restart("app--1")
    assert len(az.lines) == 3
    assert clock.elapsed_s() == 6


def test_a_restart_that_is_rejected_for_another_reason_is_not_retried() -> None:
    az = ScriptedAz(
        revision_restart=[
            AzureRejectedError("Azure rejected the request", ErrorCause("AuthorizationFailed", "no"))
        ]
    )
    with pytest.raises(AzureRejectedError, match="AuthorizationFailed"):
        app(az).restart("app--1")
    assert len(az.lines) == 1


def test_a_snapshot_has_the_revision_and_its_replicas() -> None:
    az = ScriptedAz(
        revision_show=revision_json("app--1", "x", runningState="Degraded", runningStateDetails="why"),
        replica_list=[
            {
                "name": "app--1-a",
                "properties": {
                    "createdTime": "2026-01-01T00:00:00+00:00",
                    "containers": [
                        {
                            "ready": False,
                            "started": True,
                            "restartCount": 3,
                            "runningState": "Waiting",
                            "runningStateDetails": "CrashLoopBackOff",
                        }
                    ],
                },
            }
        ],
    )
    snapshot = app(az).snapshot("app--1")
    assert snapshot.revision == Revision("app--1", "x", running_state="Degraded", details="why")
    assert snapshot.replicas == (
        Replica(
            "app--1-a",
            datetime(2026, 1, 1, tzinfo=UTC),
            is_started=True,
            restart_count=3,
            state="Waiting",
            details="CrashLoopBackOff",
        ),
    )


@pytest.mark.parametrize("document", [None, {}, {"properties": None}, {"properties": {"containers": []}}, []])
def test_what_az_leaves_out_is_empty(document: Json) -> None:
    assert parse_replica(document) == Replica("")
    assert parse_revision(document) == Revision("", "")


def test_a_log_that_cannot_be_had_is_no_error_of_its_own() -> None:
    def fail(_replica: str) -> tuple[str, ...]:
        raise RemoteError("no log")

    made = app(ScriptedAz())
    assert made.console_tail("x") == ("a", "b")
    assert replace(made, tail=fail).console_tail("x") == ()


def test_an_answer_is_read() -> None:
    body = {"release": "r2", "replica": "app--1-new", "started_at": "2026-01-01T01:00:00Z", "ready": True}
    assert parse_version(json.dumps(body).encode()) == ANSWER
    failed = {"failed_adapters": [{"name": "alien", "reason": "its file has no tensors"}, 3]}
    assert parse_version(json.dumps(body | failed).encode()) == replace(
        ANSWER, failed_adapters=(FailedAdapter("alien", "its file has no tensors"),)
    )
    assert parse_version(json.dumps(body | {"adapter_generation": "1"}).encode()) == replace(
        ANSWER, adapter_generation="1"
    )
    assert parse_version(b"{}") == VersionResponse("", "", "", is_ready=False)
    assert parse_version(b"<html>") == NoResponse("/version does not answer with JSON")
    assert parse_version(b"[]") == NoResponse("/version does not answer with a JSON object")


class Handler(BaseHTTPRequestHandler):
    """Answers every request with the response that a test sets."""

    wanted: ClassVar[tuple[int, bytes]] = (200, b"{}")

    def do_GET(self) -> None:  # the library's name for it
        status, body = self.wanted
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # must not be used for this machine
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_version_is_requested_from_the_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "wanted", (200, b'{"release": "r2", "ready": true}'))
    assert fetch_version(address) == VersionResponse("r2", "", "", is_ready=True)
    monkeypatch.setattr(Handler, "wanted", (503, b""))
    assert fetch_version(address) == NoResponse("HTTP 503")


def test_an_address_where_nobody_listens_is_no_answer() -> None:
    answer = fetch_version("http://127.0.0.1:1")
    assert isinstance(answer, NoResponse)
    assert "refused" in answer.reason
