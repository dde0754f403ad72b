"""What `invoke status` shows of a stage."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from infra.clock import ManualClock
from infra.release.takeovers.inside import ASKED
from infra.verbs import status as status_module
from infra.verbs.status import find_status
from tests.doubles.azure_stage import GONE, VERSION, serve_at, server
from tests.doubles.memory_share import MemoryShare

if TYPE_CHECKING:
    from infra.session import Session
    from tests.doubles.scripted_az import ScriptedAz


REVISIONS = [
    {"name": "app--0", "properties": {"createdTime": "2026-01-01T00:00:00+00:00", "runningState": "Stopped"}},
    {"name": "app--1", "properties": {"createdTime": "2026-01-02T00:00:00+00:00", "runningState": "Running"}},
]
REPLICAS = [
    {
        "name": "app--1-aaa-bbb",
        "properties": {
            "createdTime": "2026-01-02T00:01:00+00:00",
            "runningState": "Running",
            "containers": [
                {"name": "inference", "ready": True, "restartCount": 2, "runningState": "Running"}
            ],
        },
    }
]


PROPERTIES = {"environmentId": "/env", "workloadProfileName": "GPU", "runningStatus": "Running"}
PROFILES = [{"name": "GPU", "workloadProfileType": "Consumption-GPU-NC24-A100"}]


@pytest.fixture(autouse=True)
def platform(az: ScriptedAz) -> None:
    az.answers |= {
        "containerapp show": {"name": "app", "properties": PROPERTIES},  # type: ignore[dict-item]  # JSON
        "containerapp env list": [{"id": "/env", "properties": {"workloadProfiles": PROFILES}}],  # type: ignore[dict-item]  # JSON
    }


def test_status_of_a_stage_that_serves(session: Session, az: ScriptedAz) -> None:
    az.answers |= {"containerapp revision list": REVISIONS, "containerapp replica list": REPLICAS}  # type: ignore[dict-item]  # JSON
    with server(VERSION) as endpoint:
        serve_at(session, endpoint)
        status = find_status(session)
    assert status.to_json() == {
        "stage": "azure",
        "cloud": "azure",
        "endpoint": endpoint,
        "resource_group": "my-rg",
        "app": "app",
        "release": "20260102T030405Z-abcdef01",
        "version": "0.1.0",
        "revision": "app--1",
        "state": "Running",
        "replicas": (
            {
                "name": "app--1-aaa-bbb",
                "created": "2026-01-02T00:01:00+00:00",
                "ready": True,
                "restarts": 2,
                "state": "Running",
            },
        ),
        "ready": True,
        "base_model": "org/base",
        "adapters": ("tuned",),
        "detail": "",
        "failed_adapters": (),
        "paused": False,
        "bills": (
            {
                "what": "app app",
                "how": "1 replica on GPU (Consumption-GPU-NC24-A100), by the second",
                "is_running": True,
            },
            {
                "what": "storage account acct",
                "how": "the stored data and its transactions",
                "is_running": True,
            },
            {
                "what": "workspace of the environment",
                "how": "ingested logs, and their retention",
                "is_running": True,
            },
        ),
        "unreachable": "",
        "inside": (),
        "last_error": "",
    }
    assert status.to_text().splitlines()[2:] == [
        "state       ready",
        "release     20260102T030405Z-abcdef01",
        "revision    app--1 (Running)",
        "base model  org/base",
        "adapters    tuned",
        "replica     app--1-aaa-bbb Running ready, since 2026-01-02T00:01:00+00:00, restarted 2 times",
        "billed      app app: 1 replica on GPU (Consumption-GPU-NC24-A100), by the second",
        "billed      storage account acct: the stored data and its transactions",
        "billed      workspace of the environment: ingested logs, and their retention",
    ]


def test_status_says_why_an_adapter_is_not_served(session: Session, az: ScriptedAz) -> None:
    az.answers |= {"containerapp revision list": REVISIONS, "containerapp replica list": REPLICAS}  # type: ignore[dict-item]  # JSON
    reason = "the adapter alien does not fit org/base: its file has no tensors"
    with server(VERSION | {"failed_adapters": [{"name": "alien", "reason": reason}]}) as endpoint:
        serve_at(session, endpoint)
        status = find_status(session)
    assert status.failed_adapters == (reason,)
    assert f"not served  {reason}" in status.to_text().splitlines()


def test_status_says_why_a_replica_does_not_follow_the_share(session: Session, az: ScriptedAz) -> None:
    az.answers |= {"containerapp revision list": REVISIONS, "containerapp replica list": REPLICAS}  # type: ignore[dict-item]  # JSON
    reason = "CURRENT on the share names no release ('x'): invoke rollback or invoke deploy writes it anew"
    with server(VERSION | {"last_error": reason}) as endpoint:
        serve_at(session, endpoint)
        status = find_status(session)
    assert f"last error  {reason}" in status.to_text().splitlines()


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({"ready": False}, 200, "the server is still starting"),
        ("no replica is ready", 503, "the endpoint answers with HTTP 503"),
        (
            b"nothing deployed yet: run invoke deploy\n",
            503,
            "the endpoint answers with HTTP 503: nothing deployed yet: run invoke deploy",
        ),
        (b"", 503, "the endpoint answers with HTTP 503"),
        ([], 200, "the endpoint is not a server of ours"),
        (b"<html>", 200, "the endpoint does not answer: Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_why_it_is_not_ready(session: Session, az: ScriptedAz, body: Any, status: int, detail: str) -> None:
    az.answers |= {"containerapp revision list": [], "containerapp replica list": []}
    with server(body, status) as endpoint:
        serve_at(session, endpoint)
        found = find_status(session)
    assert (found.ready, found.detail, found.release) == (False, detail, None)


def test_the_platform_says_more_about_a_revision_that_fails(session: Session, az: ScriptedAz) -> None:
    failed = {
        "createdTime": "x",
        "runningState": "Failed",
        "runningStateDetails": "The TargetPort does not match.",
    }
    az.answers |= {
        "containerapp revision list": [{"name": "app--2", "properties": failed}],  # type: ignore[dict-item]  # JSON
        "containerapp replica list": [],
    }
    with server({}, 503) as endpoint:
        serve_at(session, endpoint)
        found = find_status(session)
    assert (found.state, found.detail) == ("Failed", "The TargetPort does not match.")


def test_a_stopped_local_cloud_has_a_status_too(session: Session, az: ScriptedAz) -> None:
    status = find_status(replace(session, is_connected=False))
    assert (status.ready, status.detail, az.commands) == (False, "the local cloud is stopped", [])


def test_a_paused_stage_says_so_and_what_is_billed(session: Session, az: ScriptedAz) -> None:
    az.answers |= {
        "containerapp revision list": [],
        "containerapp replica list": [],
        "containerapp show": {"name": "app", "properties": PROPERTIES | {"runningStatus": "Stopped"}},  # type: ignore[dict-item]  # JSON
        "containerapp env list": GONE,
    }
    with server({}, 503) as endpoint:
        serve_at(session, endpoint)
        found = find_status(session)
    assert (found.paused, found.detail) == (True, "paused; invoke resume --stage azure starts it")
    assert [bill.what for bill in found.bills if bill.is_running] == [
        "storage account acct",
        "workspace of the environment",
    ]


def test_a_local_stage_costs_nothing(session: Session, az: ScriptedAz) -> None:
    az.answers |= {"containerapp revision list": [], "containerapp replica list": []}
    with server(VERSION) as endpoint:
        serve_at(session, endpoint)
        found = find_status(replace(session, stage=replace(session.stage, cloud="local")))
    assert found.bills == ()
    assert not [line for line in az.lines if "env list" in line]


def report(share: MemoryShare, answers: dict[str, str]) -> None:
    """Let the share's replica answer each question with a report, once a second."""
    write = share.write

    def answer(path: str, content: bytes) -> None:
        write(path, content)
        if path == ASKED:
            document = VERSION | {"asked": content.decode().strip(), "answers": answers}
            write("replicas/app--1-aaa-bbb.json", json.dumps(document).encode())

    share.write = answer  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("answers", "state"),
    [
        ({"org/base": "", "tuned": ""}, "ready"),
        ({"org/base": "", "tuned": "HTTP 500"}, "not ready: tuned does not answer: HTTP 500"),
    ],
)
def test_status_shows_what_replicas_report_where_the_address_keeps_this_machine_out(
    session: Session, az: ScriptedAz, monkeypatch: pytest.MonkeyPatch, answers: dict[str, str], state: str
) -> None:
    az.answers |= {"containerapp revision list": REVISIONS, "containerapp replica list": REPLICAS}  # type: ignore[dict-item]  # JSON
    share = MemoryShare()
    report(share, answers)
    monkeypatch.setattr(status_module, "open_share", lambda *_: nullcontext(share))
    with server(b"RBAC: access denied", status=403) as endpoint:
        serve_at(session, endpoint)
        status = find_status(session, ManualClock(datetime(2026, 1, 1, tzinfo=UTC)))
    reason = (
        "HTTP 403: RBAC: access denied; allowedIpRanges, or a proxy, keeps this machine out: allow it, "
        "or run this elsewhere"
    )
    assert (status.ready, status.release, status.unreachable) == (False, None, reason)
    (inside,) = status.inside
    assert inside.ready is (state == "ready")
    lines = status.to_text().splitlines()
    assert f"state       not reachable from here: {reason}" in lines
    serves = f"app--1-aaa-bbb serves {VERSION['release']}, {state}, with org/base, tuned"
    assert f"inside      {serves}" in lines
    assert {"release     unknown", "base model  unknown", "adapters    unknown"} <= set(lines)


def test_status_says_that_no_replica_reports(
    session: Session, az: ScriptedAz, monkeypatch: pytest.MonkeyPatch
) -> None:
    az.answers |= {"containerapp revision list": REVISIONS, "containerapp replica list": REPLICAS}  # type: ignore[dict-item]  # JSON
    monkeypatch.setattr(status_module, "open_share", lambda *_: nullcontext(MemoryShare()))
    with server(b"no", status=403) as endpoint:
        serve_at(session, endpoint)
        status = find_status(session, ManualClock(datetime(2026, 1, 1, tzinfo=UTC)))
    assert status.inside == ()
    assert status.unreachable.endswith("; no replica reports on the share")


def test_status_asks_nothing_on_the_share_while_the_address_answers_or_no_replica_runs(
    session: Session, az: ScriptedAz, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the share was opened")

    monkeypatch.setattr(status_module, "open_share", refuse)
    az.answers |= {"containerapp revision list": REVISIONS, "containerapp replica list": REPLICAS}  # type: ignore[dict-item]  # JSON
    for body, code in ((VERSION, 200), (b"starting", 503)):
        with server(body, code) as endpoint:
            serve_at(session, endpoint)
            assert find_status(session).unreachable == ""
    az.answers["containerapp replica list"] = []
    with server(b"no", 403) as endpoint:
        serve_at(session, endpoint)
        assert find_status(session).inside == ()


@pytest.mark.parametrize(
    ("least", "state", "replicas", "is_asleep"),
    [
        (0, "ScaledToZero", [], True),
        (None, "Running", [], True),
        (1, "Running", [], False),
        (0, "Activating", [], False),
        (0, "Running", REPLICAS, False),
    ],
)
def test_a_stage_that_has_scaled_to_zero_is_not_woken(  # noqa: PLR0913 - the case, and two fixtures
    session: Session, az: ScriptedAz, least: int | None, state: str, replicas: Any, *, is_asleep: bool
) -> None:
    revision: Any = {"name": "app--1", "properties": {"createdTime": "2026-01-02", "runningState": state}}
    properties: Any = {**PROPERTIES, "template": {"scale": {"minReplicas": least}}}
    az.answers |= {
        "containerapp show": {"name": "app", "properties": properties},
        "containerapp revision list": [revision],
        "containerapp replica list": replicas,
    }
    with server(VERSION) as endpoint:
        serve_at(session, endpoint)
        status = find_status(session)
    assert status.ready is not is_asleep
    asleep = "no replica runs while nobody asks: the next request starts one and waits for it"
    assert status.detail == (asleep if is_asleep else "")
