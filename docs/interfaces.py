"""Describe what users call, from the code that implements it: verbs, HTTP paths, metrics and exit codes."""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

from fastapi import FastAPI
from fastapi.routing import APIRoute
from invoke import Collection
from starlette.routing import BaseRoute, Mount, Route

import tasks
from inference.observability.metrics import Metrics
from inference.service.adapters import Adapters
from inference.settings import Settings
from inference.web.access import ADMIN_PATHS, API_PATH, ROOT_PATHS, AccessPolicy
from inference.web.api import make_api
from inference.web.application import ChatPage, Identity, StatusHandlers, make_routes
from inference.web.extensions.adapters import AdapterAdministration
from inference.web.keyring import Keyring
from infra import command_line, errors, interrupts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from invoke import Argument, Task
    from prometheus_client import Counter, Gauge, Histogram

    from inference.service.service import Service

MAX_LINE: Final = 100
KINDS: Final = {bool: "", int: "N", float: "X", str: "TEXT", list: "TEXT"}
EXIT_CODES: Final = {
    0: "done",
    tasks.HAS_CHANGES: "`provision --dry-run`: the plan has changes",
    command_line.BUG: "a bug in Fjarr, with its traceback",
    interrupts.INTERRUPTED: "interrupted with Ctrl-C",
    interrupts.TERMINATED: "ended by the signal SIGTERM",
}
"""The exit codes that no error class has."""


def commands() -> str:
    """Describe each verb, with all its flags."""
    namespace = Collection.from_module(tasks)
    return "\n\n".join(_command(name, namespace[name]) for name in sorted(namespace.task_names))


def exit_codes() -> str:
    """List the exit codes: those of the error classes, and the others."""
    codes = dict(EXIT_CODES)
    for _, error in inspect.getmembers(errors, inspect.isclass):
        if issubclass(error, errors.FjarrError) and error is not errors.FjarrError:
            codes[error.exit_code] = _summary(error).rstrip(".")[:1].lower() + _summary(error).rstrip(".")[1:]
    return _table(("exit code", "meaning"), ((str(code), codes[code]) for code in sorted(codes)))


def http_paths() -> str:
    """List the HTTP paths, and which of them need a key by default."""
    service = cast("Service", SimpleNamespace(observers=[]))
    chat_page = ChatPage(service)
    status = StatusHandlers(service, Identity("", "", "", ""), Metrics("", "", ""), chat_page)
    administration = AdapterAdministration(Adapters(service), Path(), has_key=False)
    api = make_api(service, 0, administration)
    routes = make_routes(Settings(), status, api, chat_page, Keyring(()))
    policy = AccessPolicy(Keyring(()), has_open_metrics=False, max_body_bytes=0, body_timeout_s=0)
    rows = [
        (f"`{methods} {path}`", _key_of(path, policy), meaning)
        for path, methods, meaning in _described(routes)
    ]
    rows += [(f"`POST {path}`", "yes", f"The same as `{API_PATH}{path}`.") for path in sorted(ROOT_PATHS)]
    return _table(("path", "key", "meaning"), rows)


def _key_of(path: str, policy: AccessPolicy) -> str:
    if path in ADMIN_PATHS:
        return "the admin key"
    return "yes" if policy.requires_key(path) else "no"


def metrics() -> str:
    """List the metrics of the server, except those of Python and of the process."""
    return _table(("metric", "meaning", "type", "labels"), sorted(RecordedMetrics().rows))


class RecordedMetrics(Metrics):
    """The metrics of a server, with a row of the reference for each."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, str]] = []
        super().__init__("", "", "")

    def _counter(self, name: str, meaning: str, labels: tuple[str, ...]) -> Counter:
        self._record(f"{name}_total", "counter", meaning, labels)
        return super()._counter(name, meaning, labels)

    def _gauge(self, name: str, meaning: str, labels: tuple[str, ...]) -> Gauge:
        self._record(name, "gauge", meaning, labels)
        return super()._gauge(name, meaning, labels)

    def _histogram(
        self, name: str, meaning: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Histogram:
        self._record(name, "histogram", meaning, labels)
        return super()._histogram(name, meaning, labels, buckets)

    def _record(self, name: str, kind: str, meaning: str, labels: tuple[str, ...]) -> None:
        self.rows.append((f"`{name}`", meaning, kind, ", ".join(f"`{label}`" for label in labels)))


def _described(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Return each path with its methods and its meaning; two paths of one handler are two rows."""
    for route in routes:
        if isinstance(route, Mount):
            application = route.app
            if isinstance(application, FastAPI):
                yield from _described(application.routes, prefix + route.path)
            else:
                yield "/", "GET", "The chat page."
        elif isinstance(route, APIRoute):
            yield (
                prefix + route.path.replace(":path", ""),
                ", ".join(sorted(route.methods or ())),
                route.description.split("\n\n")[0],
            )
        elif isinstance(route, Route):
            is_schema = route.path.endswith("openapi.json")
            meaning = "The API's schema, as OpenAPI." if is_schema else _summary(route.endpoint)
            yield prefix + route.path, "GET", meaning


def _command(name: str, task: Task[Any]) -> str:
    paragraphs = (inspect.getdoc(task.body) or "").split("\n\n")
    text = "\n\n".join(textwrap.fill(paragraph, MAX_LINE) for paragraph in paragraphs)
    flags = [_flag(argument) for argument in task.get_arguments()]
    return f"## `invoke {name}`\n\n{text}\n\n" + _table(("flag", "default", "meaning"), flags)


def _flag(argument: Argument) -> tuple[str, str, str]:
    if argument.positional:
        return f"`{argument.name.upper()}`", "", (argument.help or "").replace("|", "\\|")
    kind = KINDS[argument.kind]
    names = " ".join((f"`--{argument.name.replace('_', '-')}", *([kind] if kind else []))) + "`"
    default = argument.default
    shown = f"`{default}`" if default and not isinstance(default, list) else ""
    # The default has a column of its own.
    meaning = (argument.help or "").removesuffix(f" (default: {argument.default})")
    return names, shown, meaning.replace("|", "\\|")


def _summary(documented: object) -> str:
    return " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split())


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    return "\n".join((*lines, *(f"| {' | '.join(row)} |" for row in rows)))
