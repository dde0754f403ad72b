"""Turn the answer of a what-if into changes for people: property by property, without noise.

A what-if compares what Azure shows with what the template says, so it also reports values that Azure fills
in, another spelling of a region, or a value that is known only when the deployment runs. Lists whose entries
have names are compared by name, not by position. Pure.

Source: "ARM template deployment what-if operation"; the change types that azure-cli's formatter knows.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from infra.az.operations import KINDS
from infra.config.kept import is_secret_name
from infra.document import Json, as_list, as_object, as_objects
from infra.process import REDACTED

if TYPE_CHECKING:
    from collections.abc import Iterator

Action = Literal["create", "change", "remove"]

APP_KIND: Final = "container app"
STORAGE_KIND: Final = "environment storage"

_ACTIONS: Final[dict[str, Action]] = {
    "Create": "create", "Deploy": "change", "Modify": "change", "Delete": "remove",
}  # fmt: skip
_EMPTY: Final[tuple[Json, ...]] = (None, "", [], {}, False, 0, {"type": "None"})
_READ_ONLY: Final = frozenset({"id", "name", "type", "systemData", "etag", "provisioningState", "apiVersion"})
_FILLED_IN: Final[dict[str, tuple[Json, ...]]] = {
    "affinity": ("none",),
    "clientCertificateMode": ("Ignore",),
    "cooldownPeriod": (300,),
    "failureThreshold": (3,),
    "maxInactiveRevisions": (100,),
    "pollingInterval": (30,),
    "scheme": ("HTTP",),
    "successThreshold": (1,),
    "timeoutSeconds": (1,),
    "weight": (100,),
}
"""Values that Azure shows where a template sets none. Source: Microsoft.App specification, ContainerApps."""

_SPELLING: Final = re.compile(
    r"(^|\.)(location|type|kind|tier|transport|scheme|action|accessMode|activeRevisionsMode|storageType|"
    r"bindingType|\w*Id|workloadProfile(Name|Type))$"
)
"""Texts whose case and spaces mean nothing to Azure."""

_UNKNOWN: Final = re.compile(r"^\[.*\]$", re.DOTALL)
_SECRET_PATH: Final = re.compile(
    r"(^|\.)(secrets\[[^\]]*\]\.value|accountKey|sharedKey|connectionString|password)$"
)
_VARIABLE: Final = re.compile(r"\.env\[([^\]]*)\]")
_OWN_TAG: Final = re.compile(r"^tags\.fjarr-")
_ENTRY_KEYS: Final = ("name", "volumeName", "type", "server")
"""What identifies an entry of a list, of which the first that it has counts."""

_MAX_SHOWN: Final = 80


@dataclass(frozen=True, slots=True)
class PropertyChange:
    """A property that a deployment would change.

    Attributes:
        path: Its place, such as `template.scale.maxReplicas` or `template.containers[inference].env[A]`.
        before: The value as it is; None if there is none.
        after: The value as it would be; None if it would be gone.
        is_foreign: Whether somebody else set the value that is there.
    """

    path: str
    before: Json
    after: Json
    is_foreign: bool = False

    @property
    def action(self) -> Action:
        """Return what happens to the property."""
        return "create" if self.before is None else "remove" if self.after is None else "change"

    @property
    def is_destructive(self) -> bool:
        """Tell whether a value that somebody else set would be lost."""
        return self.is_foreign and self.before is not None

    def to_json(self) -> dict[str, object]:
        """Return the property as the plan's document has it."""
        before, after = (_shown(self.path, each) for each in (self.before, self.after))
        return {
            "path": self.path,
            "action": self.action,
            "before": before,
            "after": after,
            "set_by_others": self.is_foreign,
        }

    def to_text(self) -> str:
        """Return the property as one line."""
        before, after = (_text(self.path, each) for each in (self.before, self.after))
        by_whom = "   (set by others)" if self.is_foreign else ""
        if self.before is None:
            return f"+ {self.path}: {after}"
        if self.after is None:
            return f"- {self.path}: {before}{by_whom}"
        return f"~ {self.path}: {before} -> {after}{by_whom}"


@dataclass(frozen=True, slots=True)
class ResourceChange:
    """A resource that a deployment would create, change or remove."""

    action: Action
    kind: str
    name: str
    properties: tuple[PropertyChange, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the resource as the plan's document has it."""
        properties = [each.to_json() for each in self.properties]
        return {"action": self.action, "kind": self.kind, "name": self.name, "properties": properties}

    def to_text(self) -> str:
        """Return the resource as a line, with a line for each property."""
        sign = {"create": "+", "change": "~", "remove": "-"}[self.action]
        lines = [f"{sign} {self.action} {self.kind} {self.name}"]
        return "\n".join([*lines, *(f"    {each.to_text()}" for each in self.properties)])


def parse_changes(answer: Json) -> tuple[ResourceChange, ...]:
    """Return the changes in the answer of `az deployment group what-if`, in its order."""
    found = map(_resource_change, as_objects(as_object(answer).get("changes")))
    return tuple(change for change in found if change is not None)


def planned_creation(resource_id: str) -> ResourceChange:
    """Return the creation of a resource, by its id."""
    kind, name = _kind_and_name(resource_id)
    return ResourceChange("create", kind, name)


def _resource_change(change: dict[str, Json]) -> ResourceChange | None:
    action = _ACTIONS.get(str(change.get("changeType")))
    if action is None:
        return None
    kind, name = _kind_and_name(str(change.get("resourceId")))
    if action != "change":
        return ResourceChange(action, kind, name)
    properties = tuple(_property_changes(change))
    return ResourceChange(action, kind, name, properties) if properties else None


def _kind_and_name(resource_id: str) -> tuple[str, str]:
    """Return the words for a resource's type, and its name without those of its parents."""
    parts = resource_id.rpartition("/providers/")[2].split("/")
    type_ = "/".join((parts[0], *parts[1::2]))
    return KINDS.get(type_.casefold(), type_), parts[-1]


def _property_changes(change: dict[str, Json]) -> Iterator[PropertyChange]:
    """Yield the leaves that differ, for the paths in which the what-if sees an effect."""
    documents = change.get("before"), change.get("after")
    yield from _delta_changes(change.get("delta"), "", documents)


def _delta_changes(delta: Json, prefix: str, documents: tuple[Json, Json]) -> Iterator[PropertyChange]:
    for entry in as_objects(delta):
        path, children = f"{prefix}{entry.get('path')}", entry.get("children")
        old, new = entry.get("before"), entry.get("after")
        kind = entry.get("propertyChangeType")
        if kind == "NoEffect":
            continue
        if kind == "Array":  # its children are compared by position
            old, new = (_lookup(document, path) for document in documents)
        if children and old is None and new is None:
            yield from _delta_changes(children, f"{path}.", documents)
        else:
            yield from _differences(path.removeprefix("properties."), old, new)


def _lookup(document: Json, path: str) -> Json:
    for part in path.split("."):
        document = as_object(document).get(part)
    return document


def _differences(path: str, before: Json, after: Json) -> Iterator[PropertyChange]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {**before, **after}:
            if name not in _READ_ONLY or not path:
                yield from _differences(f"{path}.{name}" if path else name, before.get(name), after.get(name))
        return
    names = _entries(before), _entries(after)
    if isinstance(before, list | None) and isinstance(after, list | None) and None not in names:
        old, new = names
        for name in {**(old or {}), **(new or {})}:
            yield from _differences(f"{path}[{name}]", (old or {}).get(name), (new or {}).get(name))
        return
    if not _is_noise(path, before, after):
        yield PropertyChange(path, before, after)


def _entries(value: Json) -> dict[str, Json] | None:
    """Return the entries of a list by their names; None if some have none, or two have the same."""
    entries, objects = as_list(value), as_objects(value)
    keys = [next((each[key] for key in _ENTRY_KEYS if each.get(key)), None) for each in objects]
    if not all(keys) or len(set(map(str, keys))) != len(keys):
        return None
    return dict(zip(map(str, keys), entries, strict=True))


def _is_noise(path: str, before: Json, after: Json) -> bool:
    if before == after or _same_text(path, before, after) or _OWN_TAG.match(path):
        return True
    if isinstance(after, str) and _UNKNOWN.match(after):
        return True  # known only when the deployment runs
    if before in _EMPTY and after in _EMPTY:
        return True
    return after is None and before in (*_EMPTY, *_FILLED_IN.get(path.rpartition(".")[2], ()))


def _same_text(path: str, before: Json, after: Json) -> bool:
    """Tell whether two values are the same to Azure: numbers as text, and the case and spaces of names."""
    old, new = (f"{each:g}" if isinstance(each, float) else str(each) for each in (before, after))
    if before is None or after is None or isinstance(before, dict | list) or isinstance(after, dict | list):
        return False
    if _SPELLING.search(path):
        old, new = (each.replace(" ", "").casefold() for each in (old, new))
    return old == new


def _shown(path: str, value: Json) -> Json:
    """Return a value with its secrets redacted."""
    variable = _VARIABLE.search(path)
    is_secret = _SECRET_PATH.search(path) or (variable and is_secret_name(variable[1]))
    if is_secret and isinstance(value, str):
        return REDACTED
    if isinstance(value, dict):
        return {name: _shown(f"{path}.{name}", each) for name, each in value.items()}
    return [_shown(path, each) for each in value] if isinstance(value, list) else value


def _text(path: str, value: Json) -> str:
    shown = _shown(path, value)
    if isinstance(shown, dict):
        shown = shown.get("value", shown.get("secretRef", shown))
    text = json.dumps(shown, ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."
