"""What the operations of a deployment say about its resources."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from infra.az.errors import ErrorCause
from infra.az.operations import KINDS, failure_cause, has_failed, is_active, parse_operations
from infra.config.template import COMPILED
from tests.doubles.toolkit_project import fine_tuning_template

REPOSITORY = Path(__file__).resolve().parents[4]
NOW = datetime(2026, 1, 1, 12, 1, 0, tzinfo=UTC)


def operation(name: str, state: str, time: str, duration: str, **changes: Any) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "provisioningOperation": "Create",
        "provisioningState": state,
        "timestamp": time,
        "duration": duration,
        "targetResource": {
            "id": f"/g/{name}",
            "resourceType": "Microsoft.App/containerApps",
            "resourceName": name,
        },
    }
    return {"properties": properties | changes}


def test_resources_are_listed_in_the_order_in_which_they_began() -> None:
    target = {"id": "/g/A/B", "resourceType": "Microsoft.Storage/storageAccounts", "resourceName": "acct/b"}
    rows = parse_operations(
        [
            operation("late", "Running", "2026-01-01T12:00:50.1234567Z", "PT0.5S"),
            operation("early", "Succeeded", "2026-01-01T12:00:40", "PT1M2.5S", targetResource=target),
            operation("x", "Failed", "2026-01-01T12:00:45.5+00:00", "PT0S"),
            operation("", "Succeeded", "2026-01-01T12:00:59Z", "PT1S", targetResource=None),
            operation("read", "Succeeded", "2026-01-01T12:00:59Z", "PT1S", provisioningOperation="Read"),
            None,
        ],
        NOW,
    )
    assert [(row.text, row.progress, round(row.seconds, 1)) for row in rows] == [
        ("storage account b", "done", 62.5),
        ("container app x", "failed", 0.0),
        ("container app late", "running", 10.4),
    ]


def resource_types(part: Any) -> set[str]:
    """Return the types of all resources in a compiled template, those of nested templates included."""
    if isinstance(part, list):
        return {type_ for each in part for type_ in resource_types(each)}
    if not isinstance(part, dict):
        return set()
    own = {str(part["type"]).casefold()} if {"type", "apiVersion"} <= part.keys() else set()
    return own | resource_types(list(part.values()))


def test_each_resource_of_our_template_and_of_the_fine_tuning_step_has_a_word_for_its_kind() -> None:
    ours = resource_types(json.loads((REPOSITORY / COMPILED).read_text(encoding="utf-8")))
    fine_tuning = resource_types(fine_tuning_template())
    assert ("microsoft.app/containerapps" in ours, "microsoft.app/jobs" in fine_tuning) == (True, True)
    assert ours | fine_tuning == KINDS.keys()


def test_the_last_operation_of_a_resource_counts() -> None:
    rows = parse_operations(
        [
            operation("app", "Succeeded", "2026-01-01T12:00:30Z", "PT5S"),
            operation("app", "Failed", "2026-01-01T12:00:10Z", "PT5S"),
        ],
        NOW,
    )
    assert [row.progress for row in rows] == ["done"]


@pytest.mark.parametrize(
    ("time", "duration", "seconds"),
    [("", "", 0.0), ("never", "P1DT1H", 90000.0), ("2027-01-01T00:00:00Z", "PT3S", 3.0), (None, None, 0.0)],
)
def test_odd_times_do_no_harm(time: Any, duration: Any, seconds: float) -> None:
    (row,) = parse_operations([operation("a", "Running", time, duration)], NOW)
    assert row.seconds == seconds


@pytest.mark.parametrize(
    ("state", "active", "failed"),
    [
        ("Accepted", True, False),
        ("Running", True, False),
        ("Succeeded", False, False),
        ("Failed", False, True),
        ("Canceled", False, True),
    ],
)
def test_the_state_of_a_deployment(state: str, *, active: bool, failed: bool) -> None:
    document: Any = {"properties": {"provisioningState": state}}
    assert (is_active(document), has_failed(document)) == (active, failed)
    assert not is_active(None)


def test_the_cause_of_a_failure() -> None:
    inner = {"code": "QuotaExceeded", "message": "no A100"}
    error: Any = {"code": "DeploymentFailed", "message": "see details", "details": [inner]}
    assert failure_cause({"properties": {"error": error}}) == ErrorCause("QuotaExceeded", "no A100")
    cancelled: Any = {"properties": {"provisioningState": "Canceled"}}
    assert str(failure_cause(cancelled)) == "Canceled: the deployment is canceled"
