"""Compare two states of a resource property by property, as a what-if does. Pure.

Source: "ARM template deployment what-if operation"; the changes that the Azure CLI's formatter understands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from localcloud.arm.resource_kinds import is_unknown

if TYPE_CHECKING:
    from localcloud.arm.requests import Json


def resource_change(identifier: str, before: Json | None, after: Json | None, *, is_planned: bool) -> Json:
    """Return the entry of one resource in a what-if's `changes`.

    Args:
        identifier: The resource's id.
        before: The resource as it is, None if it is not there.
        after: The resource as it would be, None if the template does not name it.
        is_planned: Whether the template names it.
    """
    change: Json = {"resourceId": identifier, "changeType": "Ignore"}
    if before is not None:
        change["before"] = before
    if not is_planned:
        return change | {"after": before}
    change["after"] = after
    if before is None:
        return change | {"changeType": "Create"}
    delta = property_changes(before, after or {})
    is_changed = any(entry["propertyChangeType"] != "NoEffect" for entry in delta)
    return change | {"changeType": "Modify" if is_changed else "NoChange", "delta": delta}


def property_changes(before: Json, after: Json, prefix: str = "") -> list[Json]:
    """Return what differs between two objects, by path; a list that differs is one entry with `children`."""
    changes: list[Json] = []
    for name in {**before, **after}:
        path = f"{prefix}.{name}" if prefix else name
        changes += _value_changes(path, before.get(name), after.get(name))
    return changes


def _value_changes(path: str, before: Any, after: Any) -> list[Json]:  # noqa: ANN401 - JSON values
    if before == after:
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        return property_changes(before, after, path)
    if isinstance(before, list) and isinstance(after, list):
        return [_entry(path, "Array", before, after) | {"children": _item_changes(before, after)}]
    return [_entry(path, _kind(before, after), before, after)]


def _kind(before: Any, after: Any) -> str:  # noqa: ANN401 - JSON values
    if is_unknown(after):
        # The value is known only when the deployment runs.
        return "NoEffect"
    if before is None:
        return "Create"
    return "Delete" if after is None else "Modify"


def _item_changes(before: list[Any], after: list[Any]) -> list[Json]:
    changes: list[Json] = []
    for index in range(max(len(before), len(after))):
        old = before[index] if index < len(before) else None
        new = after[index] if index < len(after) else None
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            inner = property_changes(old, new)
            changes.append(_entry(str(index), "Modify", None, None) | {"children": inner})
        else:
            changes += _value_changes(str(index), old, new)
    return changes


def _entry(path: str, kind: str, before: Any, after: Any) -> Json:  # noqa: ANN401 - JSON values
    return {"path": path, "propertyChangeType": kind, "before": before, "after": after}
