"""The requests to Resource Manager that some az commands make. Pure.

az takes a second or more to start, which is most of its time. Commands that only read a resource or call an
action of one are sent to Resource Manager directly instead, with a token that az has given; see
`infra.az.resource_manager`. The answer is the one that az prints.

Source: azure-cli 2.91, `command_modules/containerapp/_clients.py` and
`command_modules/storage/operations/account.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.az.commands import APP_API_VERSION, STORAGE_API_VERSION
from infra.document import Json, as_list, as_object, as_objects, object_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from infra.process import Command


@dataclass(frozen=True, slots=True)
class ArmRequest:
    """A request without a body: the method, and the path with its query."""

    method: str
    path: str


@dataclass(frozen=True, slots=True)
class DirectCommand:
    """What an az command asks Resource Manager.

    Attributes:
        subscription: The subscription, for the token.
        requests: The requests, in order.
        to_output: Returns what az prints from the answers, one for each request.
        follow_up: Returns one more request, which follows from the first answer; None if there is none.
    """

    subscription: str
    requests: tuple[ArmRequest, ...]
    to_output: Callable[[Sequence[Json]], Json]
    follow_up: Callable[[Json], ArmRequest] | None = None


def find_direct(command: Command) -> DirectCommand | None:
    """Return what an az command asks Resource Manager, or None if only az can run it."""
    for words, translate in _TRANSLATIONS.items():
        if command.argv[1 : 1 + len(words)] == words:
            flags = _flags(command.argv[1 + len(words) :])
            return None if flags is None or "--subscription" not in flags else translate(flags)
    return None


def _flags(arguments: Sequence[str]) -> dict[str, str] | None:
    """Return the flags by name; None unless each has one value."""
    names, values = arguments[::2], arguments[1::2]
    if len(names) != len(values) or not all(name.startswith("--") for name in names):
        return None
    return dict(zip(names, values, strict=True))


def _app_path(flags: Mapping[str, str], *parts: str) -> str:
    group = f"/subscriptions/{flags['--subscription']}/resourceGroups/{flags['--resource-group']}"
    path = "/".join((f"{group}/providers/Microsoft.App/containerApps/{flags['--name']}", *parts))
    return f"{path}?api-version={APP_API_VERSION}"


def _one(flags: Mapping[str, str], method: str, path: str) -> DirectCommand:
    return DirectCommand(flags["--subscription"], (ArmRequest(method, path),), lambda answers: answers[0])


def _show_app(flags: Mapping[str, str]) -> DirectCommand:
    return _one(flags, "GET", _app_path(flags))


def _list_revisions(flags: Mapping[str, str]) -> DirectCommand:
    request = ArmRequest("GET", _app_path(flags, "revisions"))
    return DirectCommand(flags["--subscription"], (request,), lambda answers: _active(_values(answers[0])))


def _show_revision(flags: Mapping[str, str]) -> DirectCommand:
    return _one(flags, "GET", _app_path(flags, "revisions", flags["--revision"]))


def _restart_revision(flags: Mapping[str, str]) -> DirectCommand:
    return _one(flags, "POST", _app_path(flags, "revisions", flags["--revision"], "restart"))


def _activate_revision(flags: Mapping[str, str]) -> DirectCommand:
    return _one(flags, "POST", _app_path(flags, "revisions", flags["--revision"], "activate"))


def _list_replicas(flags: Mapping[str, str]) -> DirectCommand:
    def of(revision: str) -> ArmRequest:
        return ArmRequest("GET", _app_path(flags, "revisions", revision, "replicas"))

    def of_latest(app: Json) -> ArmRequest:
        return of(str(object_at(app, "properties").get("latestRevisionName")))

    subscription, revision = flags["--subscription"], flags.get("--revision")
    if revision is None:
        show = ArmRequest("GET", _app_path(flags))
        return DirectCommand(subscription, (show,), lambda answers: _values(answers[-1]), of_latest)
    return DirectCommand(subscription, (of(revision),), lambda answers: _values(answers[0]))


def _send_rest(flags: Mapping[str, str]) -> DirectCommand | None:
    known = {"--method", "--url", "--subscription", "--output"}
    if not flags.keys() <= known or not flags.get("--url", "").startswith("/subscriptions/"):
        return None
    method = flags.get("--method", "get").upper()
    return _one(flags, method, flags["--url"]) if method in {"GET", "POST"} else None


def _show_connection_string(flags: Mapping[str, str]) -> DirectCommand:
    group = f"/subscriptions/{flags['--subscription']}/resourceGroups/{flags['--resource-group']}"
    account = f"{group}/providers/Microsoft.Storage/storageAccounts/{flags['--name']}"
    query = f"api-version={STORAGE_API_VERSION}"
    requests = (ArmRequest("POST", f"{account}/listKeys?{query}"), ArmRequest("GET", f"{account}?{query}"))

    def to_output(answers: Sequence[Json]) -> Json:
        keys = as_objects(as_object(answers[0]).get("keys"))
        key = keys[0].get("value") if keys else None
        endpoints = object_at(answers[1], "properties", "primaryEndpoints")
        parts = {"AccountName": flags["--name"], "AccountKey": key, "FileEndpoint": endpoints.get("file")}
        text = ";".join(f"{name}={value}" for name, value in parts.items() if value)
        return {"connectionString": text}

    return DirectCommand(flags["--subscription"], requests, to_output)


def _values(answer: Json) -> Json:
    return as_list(as_object(answer).get("value"))


def _active(revisions: Json) -> Json:
    return [each for each in as_list(revisions) if object_at(each, "properties").get("active") is True]


_TRANSLATIONS: Final[dict[tuple[str, ...], Callable[[Mapping[str, str]], DirectCommand | None]]] = {
    ("containerapp", "show"): _show_app,
    ("containerapp", "revision", "list"): _list_revisions,
    ("containerapp", "revision", "show"): _show_revision,
    ("containerapp", "revision", "restart"): _restart_revision,
    ("containerapp", "revision", "activate"): _activate_revision,
    ("containerapp", "replica", "list"): _list_replicas,
    ("rest",): _send_rest,
    ("storage", "account", "show-connection-string"): _show_connection_string,
}
