"""Check online, before anything is created, whether Azure would accept a provision.

Each check starts az, which takes a second or two, so they run at the same time: first the account, whose
outcome decides whether the others can say anything, then the rest. A check that cannot be made is unknown and
stops nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.az.checks import Check, blocked, ok, unknown
from infra.az.commands import (
    Group,
    account_show,
    environment_usages,
    location_usages,
    permission_list,
    policy_check,
    provider_list,
    provider_register,
    storage_name_check,
    workload_profiles_supported,
)
from infra.az.policies import account_request, find_obstacles
from infra.az.quotas import Need, environment_checks, parse_usages, region_checks
from infra.az.rights import ACTIONS, ENVIRONMENT_ACTIONS, GROUP_ACTION, missing_actions, parse_permissions
from infra.concurrency import DaemonExecutor
from infra.document import Json, as_object, as_objects
from infra.errors import FjarrError, RemoteError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from infra.process import Command
    from infra.session import Session

NAMESPACES: Final = ("Microsoft.App", "Microsoft.OperationalInsights", "Microsoft.Storage")
"""The resource providers of the template."""

_THREADS: Final = 8
_SUBSCRIPTION: Final = re.compile(r"--subscription (\S+)")
_REGISTERED: Final = frozenset({"Registered", "Registering"})
_PARAMETERS: Final = "infra/provision/inference.parameters.json"
_MAX_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Subject:
    """What a provision needs of Azure.

    Attributes:
        has_group: Whether the resource group exists.
        location: The region of the resources; empty if unknown.
        account: The name of the storage account; empty if it is not known yet.
        has_account: Whether the group has it.
        environment: The name of the environment.
        has_environment: Whether the group has it.
        new_profile_type: The type of the workload profile to create; empty if none has to be created.
        need: The quota that is needed at the peak.
        is_nfs: Whether the share is mounted over NFS, without a shared key.
    """

    group: Group
    has_group: bool
    location: str
    account: str
    has_account: bool
    environment: str
    has_environment: bool
    new_profile_type: str
    need: Need
    is_nfs: bool = False

    @property
    def scope(self) -> str:
        """Return the narrowest scope that exists: the group, else the subscription."""
        return self.group.id if self.has_group else f"/subscriptions/{self.group.subscription}"


def require_acceptance(
    session: Session, subject: Subject, *, is_confirmed: bool = False
) -> tuple[Check, ...]:
    """Check that nothing is in the way of a provision, and offer to register missing resource providers.

    The embedded Azure of a local stage has no account, no roles and no quotas of others: there is nothing to
    check.

    Args:
        session: The opened stage.
        subject: What the provision needs.
        is_confirmed: Whether providers are registered without a question.

    Raises:
        RemoteError: Something is in the way; nothing was created. Every reason is listed, with its remedy.
    """
    if session.stage.is_local:
        return ()
    account = _require_account(session, subject.group.subscription, is_confirmed=is_confirmed)
    with session.console.step("check rights, region, quota, names and policies") as step:
        checks = (*account, *check_plan(session, subject))
        step.finish(summary(checks))
    for check in checks:
        if check.state == "unknown":
            session.console.info(f"  {check.to_text()}")
    _require(checks)
    return checks


def check_acceptance(session: Session, subject: Subject) -> tuple[Check, ...]:
    """Make the checks of `require_acceptance`, and only return them."""
    if session.stage.is_local:
        return ()
    with session.console.step("check the account, rights, region, quota, names and policies") as step:
        account = check_account(session, subject.group.subscription)
        checks = account if is_signed_out_by(account) else (*account, *check_plan(session, subject))
        step.finish(summary(checks))
    return checks


def require_account(session: Session, error: RemoteError, *, is_confirmed: bool) -> bool:
    """Find out whether the account is the reason why Azure could not be read.

    Args:
        session: The opened stage.
        error: The error of the command that failed.
        is_confirmed: Whether providers are registered without a question.

    Returns:
        Whether missing providers were registered, so that it can be tried again.

    Raises:
        RemoteError: The account is the reason.
    """
    subscription = _SUBSCRIPTION.search(error.command or "")
    if subscription is None:
        return False
    checks = _require_account(session, subscription[1], is_confirmed=is_confirmed)
    return not all(each in {check.name for check in checks} for each in map(_provider_name, NAMESPACES))


def _require_account(session: Session, subscription: str, *, is_confirmed: bool) -> tuple[Check, ...]:
    with session.console.step("check the account"):
        account = check_account(session, subscription)
    missing = unregistered(account)
    if missing and _may_register(session, missing, is_confirmed=is_confirmed):
        _register(session, subscription, missing)
        account = tuple(each for each in account if each.name not in map(_provider_name, missing))
    _require(account)
    return account


def is_signed_out_by(account: tuple[Check, ...]) -> bool:
    """Tell whether the checks of the account found that nobody is signed in."""
    return any(check.name == "sign-in" and not check.is_ok for check in account)


def check_account(session: Session, subscription: str) -> tuple[Check, ...]:
    """Check the sign-in, the tenant, the subscription and the resource providers."""
    with DaemonExecutor(2, "az") as pool:
        account = pool.submit(_answer, session, account_show(subscription))
        providers = pool.submit(_answer, session, provider_list(subscription))
    signed_in = _sign_in(account.result(), providers.result(), subscription)
    if any(not check.is_ok for check in signed_in):
        return signed_in
    return (*signed_in, *_providers(providers.result(), subscription))


def check_plan(session: Session, subject: Subject) -> tuple[Check, ...]:
    """Check rights, region, quota, names and policies for a provision."""
    checks: list[Callable[[Session, Subject], tuple[Check, ...]]] = [_rights]
    if subject.new_profile_type and subject.location:
        checks.append(_region)
    if subject.location:
        checks.append(_region_quota)
    if subject.has_environment:
        checks.append(_environment_quota)
    if subject.account and not subject.has_account:
        checks.append(_account_name)
    if subject.account and subject.location:
        checks.append(_policy)
    with DaemonExecutor(_THREADS, "az") as pool:
        found = list(pool.map(lambda check: check(session, subject), checks))
    return tuple(check for group in found for check in group)


def unregistered(checks: Iterable[Check]) -> tuple[str, ...]:
    """Return the resource providers that the checks found not to be registered."""
    names = {check.name for check in checks if not check.is_ok}
    return tuple(namespace for namespace in NAMESPACES if _provider_name(namespace) in names)


def _may_register(session: Session, namespaces: tuple[str, ...], *, is_confirmed: bool) -> bool:
    if is_confirmed or not session.console.is_interactive:
        return is_confirmed
    names = " and ".join(namespaces)
    return session.console.confirm(
        f"{names} must be registered, which takes minutes and costs nothing. Do it?"
    )


def _register(session: Session, subscription: str, namespaces: tuple[str, ...]) -> None:
    with (
        session.console.step(f"register {', '.join(namespaces)}"),
        DaemonExecutor(len(namespaces), "az") as pool,
    ):
        list(pool.map(lambda name: session.az.run(provider_register(name, subscription)), namespaces))


def _require(checks: Iterable[Check]) -> None:
    reasons = [check for check in checks if not check.is_ok]
    if not reasons:
        return
    details = tuple(line for check in reasons for line in check.to_text().splitlines())
    what = "something is" if len(reasons) == 1 else f"{len(reasons)} things are"
    raise RemoteError(f"{what} in the way; nothing was created", details=details, hint=reasons[0].remedy)


def summary(checks: Iterable[Check]) -> str:
    """Count the checks by their state: `7 ok, 1 unknown`."""
    states = [check.state for check in checks]
    rows = ((states.count(state), state) for state in ("ok", "blocked", "unknown"))
    return ", ".join(f"{number} {state}" for number, state in rows if number)


def _answer(session: Session, command: Command) -> Json | FjarrError:
    """Run a command and return its output, or the reason why there is none."""
    try:
        return session.az.run(command)
    except FjarrError as error:
        return error


def _sign_in(
    account: Json | FjarrError, providers: Json | FjarrError, subscription: str
) -> tuple[Check, ...]:
    """Return the checks of the sign-in. az knows an account without the network; only a request proves it."""
    for answer in (account, providers):
        if isinstance(answer, UsageError):
            return (blocked("sign-in", answer.message, answer.hint or "az login"),)
    if isinstance(account, FjarrError):
        remedy = f"az login; az account list shows the subscriptions that you can see, not {subscription}"
        return (blocked("sign-in", account.message, remedy),)
    document = as_object(account)
    user, tenant = as_object(document.get("user")).get("name"), document.get("tenantId")
    signed_in = ok("sign-in", f"{user}, tenant {tenant}")
    named, state = f"{document.get('name')} ({document.get('id')})", document.get("state")
    if state == "Enabled":
        return (signed_in, ok("subscription", named))
    if state in {"Disabled", "Deleted", "Expired"}:
        remedy = "enable it in the Azure portal (Subscriptions), or add --subscription with another one"
        return (signed_in, blocked("subscription", f"{named} is {state}", remedy))
    return (signed_in, unknown("subscription", f"{named} is {state}"))


def _providers(answer: Json | FjarrError, subscription: str) -> tuple[Check, ...]:
    if isinstance(answer, FjarrError):
        return (unknown("resource providers", answer.message),)
    listed = as_objects(answer)
    states = {str(each.get("namespace")).casefold(): str(each.get("state")) for each in listed}
    return tuple(_provider(each, states.get(each.casefold(), "unknown"), subscription) for each in NAMESPACES)


def _provider(namespace: str, state: str, subscription: str) -> Check:
    name = _provider_name(namespace)
    if state in _REGISTERED:
        return ok(name, state)
    if state == "unknown":
        return unknown(name, "Azure does not list it")
    return blocked(
        name, state, provider_register(namespace, subscription).line.removesuffix(" --output json")
    )


def _provider_name(namespace: str) -> str:
    return f"resource provider {namespace}"


def _rights(session: Session, subject: Subject) -> tuple[Check, ...]:
    needed = ACTIONS if subject.has_environment else (*ACTIONS, *ENVIRONMENT_ACTIONS)
    needed = needed if subject.has_group else (GROUP_ACTION, *needed)
    answer = _answer(session, permission_list(subject.scope, subject.group.subscription))
    if isinstance(answer, FjarrError):
        return (unknown("rights", answer.message),)
    missing = missing_actions(parse_permissions(answer), needed)
    if not missing:
        return (ok("rights", f"all of {len(needed)} actions on {subject.scope}"),)
    remedy = (
        f"ask for the role Contributor on {subject.scope}, or sign in with an account that has it: az login"
    )
    return (blocked("rights", f"not allowed on {subject.scope}: {_some(missing)}", remedy),)


def _region(session: Session, subject: Subject) -> tuple[Check, ...]:
    name, kind = f"region {subject.location}", subject.new_profile_type
    command = workload_profiles_supported(subject.group.subscription, subject.location)
    answer = _answer(session, command)
    if isinstance(answer, FjarrError):
        return (unknown(name, answer.message),)
    offered = [str(item.get("name")) for item in as_objects(answer)]
    if kind in offered:
        return (ok(name, f"{kind} is offered"),)
    gpus = [each for each in offered if "GPU" in each or each.startswith("NC")]
    remedy = "choose another GPU (--set gpu=NAME), or another region (--location)"
    found = f"{kind} is not offered; GPU profiles: {', '.join(gpus) or 'none'}"
    return (blocked(name, found, remedy),)


def _region_quota(session: Session, subject: Subject) -> tuple[Check, ...]:
    command = location_usages(subject.group.subscription, subject.location)
    answer = _answer(session, command)
    if isinstance(answer, FjarrError):
        return (unknown(f"quota in {subject.location}", answer.message),)
    return tuple(region_checks(parse_usages(answer), subject.need, subject.location))


def _environment_quota(session: Session, subject: Subject) -> tuple[Check, ...]:
    command = environment_usages(subject.group, subject.environment)
    answer = _answer(session, command)
    if isinstance(answer, FjarrError):
        return (unknown(f"quota of {subject.environment}", answer.message),)
    return tuple(environment_checks(parse_usages(answer), subject.need, subject.environment))


def _account_name(session: Session, subject: Subject) -> tuple[Check, ...]:
    name = f"name {subject.account}"
    answer = _answer(session, storage_name_check(subject.account, subject.group.subscription))
    if isinstance(answer, FjarrError):
        return (unknown(name, answer.message),)
    found = as_object(answer)
    if found.get("nameAvailable") is True:
        return (ok(name, "is free"),)
    if found.get("nameAvailable") is None:
        return (unknown(name, "Azure does not say whether it is free"),)
    remedy = f"set storageAccountName in {_PARAMETERS}"
    return (blocked(name, f"{found.get('reason')}: {found.get('message')}", remedy),)


def _policy(session: Session, subject: Subject) -> tuple[Check, ...]:
    request = account_request(subject.account, subject.location, is_nfs=subject.is_nfs)
    command = policy_check(subject.scope, request, subject.group.subscription)
    answer = _answer(session, command)
    if isinstance(answer, FjarrError):
        return (unknown("shared keys", answer.message),)
    obstacles = find_obstacles(answer)
    if not obstacles:
        found = "no policy of the subscription forbids them; one of a management group would not show here"
        return (ok("shared keys", found),)
    found = "; ".join(f"{each.assignment} ({each.effect})" for each in obstacles[:_MAX_SHOWN])
    remedy = "ask for an exemption of the resource group, or set shareProtocol to NFS, which needs no key"
    return (blocked("shared keys", f"a policy is in the way: {found}", remedy),)


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - _MAX_SHOWN
    return ", ".join(names[:_MAX_SHOWN]) + (f" and {more} more" if more > 0 else "")
