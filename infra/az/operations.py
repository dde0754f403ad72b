"""Interpret a deployment and its operations: which resources are done, and how long each took. Pure.

Source: Microsoft.Resources, "Deployment Operations - List" and "Deployments - Get", api-version 2025-04-01.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

from infra.az.errors import ErrorCause, innermost_cause
from infra.document import Json, as_object, as_objects, object_at

if TYPE_CHECKING:
    from collections.abc import Iterator

Progress = Literal["running", "done", "failed"]

KINDS: Final = {
    "microsoft.storage/storageaccounts": "storage account",
    "microsoft.storage/storageaccounts/fileservices": "file service",
    "microsoft.storage/storageaccounts/fileservices/shares": "file share",
    "microsoft.operationalinsights/workspaces": "workspace",
    "microsoft.app/managedenvironments": "environment",
    "microsoft.app/managedenvironments/storages": "environment storage",
    "microsoft.app/containerapps": "container app",
    "microsoft.app/jobs": "job",
}
"""The words for the types of the resources of our template and of the AI Toolkit's."""

_ENDED: Final = frozenset({"Succeeded", "Failed", "Canceled"})
_FAILED: Final = frozenset({"Failed", "Canceled"})
_DURATION: Final = re.compile(
    r"P(?:(?P<days>\d+)D)?(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?"
)
_FRACTION: Final = re.compile(r"(\.\d{6})\d+")


@dataclass(frozen=True, slots=True)
class ResourceProgress:
    """How far one resource of a deployment has come.

    Attributes:
        kind: What it is, such as `storage account`.
        seconds: How long it took, or has taken so far.
    """

    kind: str
    name: str
    progress: Progress
    seconds: float

    @property
    def text(self) -> str:
        """Return what it is, and its name."""
        return f"{self.kind} {self.name}"


def parse_operations(answer: Json, now: datetime) -> tuple[ResourceProgress, ...]:
    """Return the resources in a list of operations, in the order in which they were begun.

    Args:
        answer: The operations as az lists them. Those that only read or evaluate something are left out.
        now: The time of day, for what still runs.
    """
    rows: dict[str, tuple[datetime, ResourceProgress]] = {}
    for began, identifier, row in _rows(answer, now):
        # A resource that is deployed once more has several operations, of which the last one counts.
        if identifier not in rows or rows[identifier][0] <= began:
            rows[identifier] = (began, row)
    return tuple(row for _, row in sorted(rows.values(), key=lambda pair: (pair[0], pair[1].text)))


def is_active(deployment: Json) -> bool:
    """Tell whether a deployment, as az shows it, is still running; False if there is none."""
    state = _state(deployment)
    return bool(state) and state not in _ENDED


def has_failed(deployment: Json) -> bool:
    """Tell whether a deployment has failed or was cancelled."""
    return _state(deployment) in _FAILED


def failure_cause(deployment: Json) -> ErrorCause:
    """Return the innermost cause of a deployment that has failed."""
    properties = object_at(deployment, "properties")
    state = _state(deployment)
    return innermost_cause(properties.get("error")) or ErrorCause(state, f"the deployment is {state.lower()}")


def _rows(answer: Json, now: datetime) -> Iterator[tuple[datetime, str, ResourceProgress]]:
    for operation in as_objects(answer):
        properties = as_object(operation.get("properties"))
        target = as_object(properties.get("targetResource"))
        if properties.get("provisioningOperation") != "Create" or not target.get("id"):
            continue
        type_, state = str(target.get("resourceType")), str(properties.get("provisioningState"))
        progress: Progress = "failed" if state in _FAILED else "done" if state in _ENDED else "running"
        took, changed = _seconds(properties.get("duration")), _time(properties.get("timestamp"), now)
        began = changed - timedelta(seconds=took)
        if progress == "running":
            took = max(took, (now - began).total_seconds())
        name = str(target.get("resourceName")).rpartition("/")[2]
        row = ResourceProgress(KINDS.get(type_.casefold(), type_), name, progress, took)
        yield began, str(target["id"]).casefold(), row


def _state(deployment: Json) -> str:
    return str(object_at(deployment, "properties").get("provisioningState") or "")


def _seconds(duration: Json) -> float:
    """Return an ISO 8601 duration such as `PT1M12.5S` in seconds; 0 if it is none."""
    found = _DURATION.fullmatch(duration) if isinstance(duration, str) else None
    if found is None:
        return 0.0
    parts = {name: float(value) for name, value in found.groupdict().items() if value}
    return timedelta(**parts).total_seconds()


def _time(text: Json, otherwise: datetime) -> datetime:
    """Return a time of Azure, which has seven digits after the point and may lack a zone."""
    try:
        found = datetime.fromisoformat(_FRACTION.sub(r"\1", str(text)))
    except ValueError:
        return otherwise
    return found if found.tzinfo else found.replace(tzinfo=UTC)
