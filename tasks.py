"""The command line: one task a verb. Flags in, one call, one printed result, and no logic.

`invoke --list` is the table of contents, `invoke --help VERB` the page.
"""
# ruff: noqa: PLC0415  # a verb imports only what it needs, so that --list answers at once
# ruff: noqa: A002, FBT001, FBT002  # a flag is called what it is called, and Invoke makes flags of booleans
# ruff: noqa: PLR0913, PLR0917  # a verb has as many flags as it has

from __future__ import annotations

import functools
import json as json_format
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from invoke import Context, Exit, task

from infra.errors import FjarrError

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.config.settings import Flags
    from infra.session import Session

ROOT = Path(__file__).resolve().parent
INTERRUPTED = 130
BUG = 70

STAGE = "where: azure (the default), local (an Azure embedded in this project), or one of infra/stages.toml"
JSON = "print one JSON document on stdout and nothing else there"
TARGET = {
    "subscription": "the Azure subscription, by id or name",
    "resource_group": "the resource group; it is made if it is missing",
    "location": "the region, such as swedencentral, for a group that has to be made",
    "set": "a parameter of infra/provision/inference.bicep as name=value; may be given several times",
}
LOCK = "take the deploy lock from whoever holds it"
WAIT = "how many seconds to wait for the release to serve (default: 600 on local, 2400 on azure)"


def verb(**options: object) -> Callable[[Callable[..., None]], object]:
    """Make a verb of a function: an Invoke task that shows our errors as a message and an exit code."""

    def decorate(body: Callable[..., None]) -> object:
        return task(auto_shortflags=False, **options)(_reporting(body))

    return decorate


def _reporting(body: Callable[..., None]) -> Callable[..., None]:
    """Turn our errors into Invoke's quiet exit; anything else is a bug of ours and shows its traceback."""

    @functools.wraps(body)
    def run(*arguments: object, **flags: object) -> None:
        try:
            body(*arguments, **flags)
        except FjarrError as error:
            raise Exit(str(error), error.exit_code) from error
        except BrokenPipeError:
            # Whoever read our output has gone, as `head` does. Python's own last flush must not fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except KeyboardInterrupt:
            raise Exit("interrupted", INTERRUPTED) from None
        except Exception:  # noqa: BLE001  # the last resort, and it tells all
            raise Exit(f"{traceback.format_exc()}error: this is a bug of ours", BUG) from None

    return run


@verb(
    iterable=["set"],
    help={
        "stage": STAGE,
        "adapter": "a folder with your LoRA adapter (default: the example's, or what fine-tuning left)",
        "base": "its base model: a folder, or an id on the hub (default: what the adapter names)",
        **TARGET,
        "json": JSON,
    },
)
def up(
    _: Context,
    stage: str = "azure",
    adapter: str | None = None,
    base: str | None = None,
    subscription: str | None = None,
    resource_group: str | None = None,
    location: str | None = None,
    set: list[str] | None = None,
    json: bool = False,
) -> None:
    """Go from nothing to a live model: provision, push, deploy, wait.

    Ends with the addresses, the key's command and two examples to paste. Run again, it changes nothing.
    """
    from infra.verbs.up import up as bring_up

    adapter_path = Path(adapter) if adapter else None
    flags = _flags(subscription, resource_group, location, set)
    _show(bring_up(_open(stage), flags, adapter=adapter_path, base=base), json)


@verb(iterable=["set"], help={"stage": STAGE, **TARGET, "json": JSON})
def provision(
    _: Context,
    stage: str = "azure",
    subscription: str | None = None,
    resource_group: str | None = None,
    location: str | None = None,
    set: list[str] | None = None,
    json: bool = False,
) -> None:
    """Make the Azure resources, or bring them up to date.

    Reads infra/provision/inference.parameters.json and what fine-tuning handed over; writes
    infra/inference.config.json. What exists and is shared is only added to.
    """
    from infra.verbs.provision import provision as make

    _show(make(_open(stage), _flags(subscription, resource_group, location, set)), json)


@verb(
    help={
        "stage": STAGE,
        "adapter": "a folder with your LoRA adapter (default: the example's)",
        "base": "its base model: a folder, or an id on the hub (default: what the adapter names)",
        "name": "what to call the adapter on the share and in the API (default: its folder's name)",
        "timeout": WAIT,
        "break_lock": LOCK,
        "json": JSON,
    },
)
def push(
    _: Context,
    stage: str = "azure",
    adapter: str | None = None,
    base: str | None = None,
    name: str | None = None,
    timeout: int = 0,
    break_lock: bool = False,
    json: bool = False,
) -> None:
    """Put weights on the share: an adapter and its base model.

    Only what the share does not have travels. If a release is live, it is restarted to load them.
    """
    from infra.verbs.push import push as put

    path, timeout_s = Path(adapter) if adapter else None, timeout or None
    pushed = put(_open(stage), adapter=path, base=base, name=name, timeout_s=timeout_s, break_lock=break_lock)
    _show(pushed, json)


@verb(
    help={
        "stage": STAGE,
        "force": "make a new release and restart, even if this code is live already",
        "timeout": WAIT,
        "break_lock": LOCK,
        "json": JSON,
    },
)
def deploy(
    _: Context,
    stage: str = "azure",
    force: bool = False,
    timeout: int = 0,
    break_lock: bool = False,
    json: bool = False,
) -> None:
    """Put inference/ on the share as a release, restart, and wait until it serves.

    If it does not come up, the release before it is made to serve again.
    """
    from infra.verbs.deploy import deploy as release

    _show(release(_open(stage), force=force, timeout_s=timeout or None, break_lock=break_lock), json)


@verb(help={"stage": STAGE, "json": JSON})
def status(_: Context, stage: str = "azure", json: bool = False) -> None:
    """Show what is live: endpoint, release, revision, replicas, model."""
    from infra.verbs.status import find_status

    _show(find_status(_open(stage, starts=False)), json)


@verb(
    help={
        "stage": STAGE,
        "follow": "go on with new lines until Ctrl-C; reconnects by itself",
        "tail": "how many lines of each log's past, 0 to 300",
        "kind": "console (what the server writes), system (what the platform says about it), or all",
        "json": "print the records as one JSON list; with --follow, one JSON object a line",
    },
)
def logs(
    _: Context,
    stage: str = "azure",
    follow: bool = False,
    tail: int = 100,
    kind: str = "all",
    json: bool = False,
) -> None:
    """Show the logs of all replicas, and the platform's about them."""
    from infra.verbs.logs import follow_logs, parse_kinds, read_logs

    kinds = parse_kinds(kind)
    session = _open(stage, starts=False)
    if follow:
        for record in follow_logs(session, tail=tail, kinds=kinds):
            print(json_format.dumps(record.to_json()) if json else record.to_text(), flush=True)
        return
    records = read_logs(session, tail=tail, kinds=kinds)
    if json:
        print(json_format.dumps([record.to_json() for record in records], indent=2))
    for record in () if json else records:
        print(record.to_text())


@verb(name="open", help={"stage": STAGE})
def open_chat(_: Context, stage: str = "azure") -> None:
    """Open the chat in a browser, and print its address."""
    from infra.verbs.open import open_page

    print(open_page(_open(stage, starts=False)))


@verb(help={"stage": STAGE, "json": JSON})
def key(_: Context, stage: str = "azure", json: bool = False) -> None:
    """Print the API key."""
    from infra.verbs.key import find_keys

    _show(find_keys(_open(stage, starts=False)), json)


@verb(
    help={
        "stage": STAGE,
        "yes": "azure: delete without asking",
        "purge": "local: also delete what is on disk",
        "json": JSON,
    },
)
def down(
    _: Context, stage: str = "azure", yes: bool = False, purge: bool = False, json: bool = False
) -> None:
    """Stop it all, and say what is left.

    On local: stops the replicas and the local cloud, and keeps the data unless --purge is given. On azure:
    deletes what provision made, after asking, and nothing that was there before it.
    """
    from infra.verbs.down import down as take_down

    _show(take_down(_open(stage, starts=False), is_confirmed=yes, is_purged=purge), json)


@verb(
    help={
        "stage": STAGE,
        "location": "also look at what this region offers, and at the quota there",
        "json": JSON,
    },
)
def doctor(_: Context, stage: str = "azure", location: str | None = None, json: bool = False) -> None:
    """Look for what is missing, and name the command that mends it."""
    from infra.verbs.doctor import diagnose

    diagnosis = diagnose(_open(stage, starts=False), location=location)
    _show(diagnosis, json)
    diagnosis.require_health()


class Result(Protocol):
    """Stand for what a verb returns: it can be shown to people and to machines."""

    def to_json(self) -> dict[str, object]:
        """Return the document for `--json`."""

    def to_text(self) -> str:
        """Return the lines for people."""


def _open(stage: str, *, starts: bool = True) -> Session:
    from infra.console import Console
    from infra.session import open_session

    return open_session(ROOT, stage, Console(), is_cloud_started=starts)


def _flags(
    subscription: str | None, resource_group: str | None, location: str | None, parameters: list[str] | None
) -> Flags:
    from infra.config.settings import Flags

    return Flags(subscription, resource_group, location, tuple(parameters or ()))


def _show(result: Result, is_json: bool) -> None:
    print(json_format.dumps(result.to_json(), indent=2) if is_json else result.to_text())
