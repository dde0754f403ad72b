"""Determine the subscription and the resource group that a stage is provisioned in.

The first of these that is set is used: the flags, the stage, and the config file of an earlier run. Otherwise
the user is asked, with the fine-tuning step's group as the first choice. Without a terminal, the fine-tuning
step's group is used; if there is none, an error names the missing flag.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.az.commands import Group, account_list, group_list
from infra.config.settings import Flags
from infra.document import as_objects
from infra.errors import UsageError

if TYPE_CHECKING:
    from infra.config.endpoint import InferenceConfig
    from infra.config.settings import Handover
    from infra.config.stage import Stage
    from infra.session import Session

_ID: Final = re.compile(r"^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$")


@dataclass(frozen=True, slots=True)
class _Known:
    """What says where to provision, apart from the user.

    Attributes:
        before: The config file of an earlier run.
        may_ask: Whether the user can be asked for the rest.
    """

    flags: Flags
    stage: Stage
    handover: Handover
    before: InferenceConfig | None
    may_ask: bool


def find_group(session: Session, flags: Flags, handover: Handover) -> Group:
    """Return the group to provision into.

    Raises:
        UsageError: It is not set and there is no terminal to ask on, or the subscription does not exist.
    """
    return _find_group(session, flags, handover, may_ask=session.console.is_interactive)


def find_known_group(session: Session, handover: Handover) -> Group | None:
    """Return the group that a stage is or would be provisioned in without a question; None if unknown.

    Raises:
        UsageError: The config file of an earlier run is invalid.
    """
    if session.stage.config_path.exists():
        session.config()
    try:
        return _find_group(session, Flags(), handover, may_ask=False)
    except UsageError:
        return None


def _find_group(session: Session, flags: Flags, handover: Handover, *, may_ask: bool) -> Group:
    before = session.config() if session.stage.config_path.exists() else None
    known = _Known(flags, session.stage, handover, before, may_ask)
    subscription = _subscription(session, known)
    return Group(subscription, _resource_group(session, known, subscription))


def _subscription(session: Session, known: _Known) -> str:
    handover, before = known.handover, known.before
    named = known.flags.subscription or known.stage.subscription
    if session.local_cloud is not None:
        return named or session.local_cloud.subscription_id
    named = named or (before.subscription_id if before else None)
    if named:
        return named if _ID.match(named) else _id_of(session, named)
    if not known.may_ask:
        return handover.subscription or _missing("subscription", "--subscription")
    choices = _subscriptions(session)
    handed_over = [f"{name} ({each})" for name, each in choices if each == handover.subscription]
    others = [f"{name} ({each})" for name, each in choices if each != handover.subscription]
    answer = session.console.choose("Which subscription?", (*handed_over, *others))
    in_brackets = answer.rpartition("(")[2].removesuffix(")")
    return in_brackets if _ID.match(in_brackets) else _id_of(session, answer)


def _resource_group(session: Session, known: _Known, subscription: str) -> str:
    handover, before = known.handover, known.before
    named = known.flags.resource_group or known.stage.resource_group
    if named:
        return named
    if before is not None and before.subscription_id == subscription:
        return before.resource_group_name
    handed_over = handover.resource_group if handover.subscription == subscription else None
    if not known.may_ask:
        return handed_over or _missing("resource group", "--resource-group")
    listed = session.az.run(group_list(subscription))
    names = [str(group.get("name")) for group in as_objects(listed)]
    choices = ([handed_over] if handed_over else []) + [name for name in names if name != handed_over]
    answer = session.console.choose("Which resource group? A new name makes a new one.", choices)
    return answer or _missing("resource group", "--resource-group")


def _id_of(session: Session, name: str) -> str:
    """Return the id of the subscription with a given name or id."""
    choices = _subscriptions(session)
    found = [each for offered, each in choices if name in {offered, each}]
    if len(found) != 1:
        hint = "az account list shows those that you can see; az login for those of another account"
        count = "no subscription is" if not found else f"{len(found)} subscriptions are"
        raise UsageError(f"{count} called {name!r}", hint=hint)
    return found[0]


def _subscriptions(session: Session) -> list[tuple[str, str]]:
    """Return the name and the id of every subscription that the user can see."""
    listed = session.az.run(account_list())
    return [(str(entry.get("name")), str(entry.get("id"))) for entry in as_objects(listed)]


def _missing(what: str, flag: str) -> str:
    raise UsageError(f"no {what} is given, and there is no terminal to ask on", hint=f"add {flag}")
