"""Plan and perform the removal of what provision created in a resource group.

A resource that others use or keep data in stays, and so does what cannot be deleted. Everything else goes.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.az.commands import (
    app_show,
    deployment_cancel,
    deployment_show,
    group_delete,
    group_show,
    resource_delete,
)
from infra.az.errors import NotFoundError
from infra.az.operations import is_active
from infra.concurrency import DaemonExecutor
from infra.document import Json, as_object
from infra.errors import FjarrError, RemoteError
from infra.provisioning.deployed import DEPLOYMENT
from infra.resources.deployments import deployments
from infra.resources.foreign import find_foreign_data, find_users
from infra.resources.inventory import (
    ACCOUNT,
    ENVIRONMENT,
    MANAGED_TAG,
    TYPES,
    WORKSPACE,
    ManagedResource,
    find,
    list_resources,
    read_managed,
)

if TYPE_CHECKING:
    from infra.az.commands import Group
    from infra.az.names import Names
    from infra.session import Session

FOREIGN_FLAG: Final = "--delete-foreign-data"


@dataclass(frozen=True, slots=True)
class Removal:
    """What would be deleted from a resource group.

    Attributes:
        group: The group.
        exists: Whether there is such a group.
        targets: The resources to delete, in this order.
        kept: Why resources that provision created stay, by resource.
        is_whole: Whether the group itself is deleted, because provision created all of it.
        is_deploying: Whether a deployment is running, which is cancelled first.
    """

    group: Group
    exists: bool
    targets: tuple[ManagedResource, ...] = ()
    kept: tuple[tuple[ManagedResource, str], ...] = ()
    is_whole: bool = False
    is_deploying: bool = False

    @property
    def descriptions(self) -> tuple[str, ...]:
        """Return what is deleted, as the user confirms it."""
        if self.is_whole:
            return (f"the resource group {self.group.name}",)
        return tuple(f"{each.kind} {each.name}" for each in self.targets)


@dataclass(frozen=True, slots=True)
class _Found:
    """What is in the group, and what of it provision created."""

    group: Group
    names: Names
    resources: tuple[dict[str, Json], ...]
    made: tuple[ManagedResource, ...]

    @property
    def others(self) -> list[dict[str, Json]]:
        """Return the resources that provision did not create."""
        return [each for each in self.resources if not any(one.matches(each) for one in self.made)]


@dataclass(frozen=True, slots=True)
class Removed:
    """What became of a removal.

    Attributes:
        deleted: What was deleted.
        failures: Why resources could not be deleted, by resource.
        is_group_left: Whether the group was to be deleted as well, and is still there.
    """

    deleted: tuple[str, ...] = ()
    failures: tuple[tuple[ManagedResource, str], ...] = ()
    is_group_left: bool = False


def plan_removal(session: Session, group: Group, names: Names, *, deletes_foreign: bool = False) -> Removal:
    """Return what a removal would delete, and change nothing.

    Args:
        session: The opened stage.
        group: The resource group.
        names: The names of the stage's resources.
        deletes_foreign: Delete the storage account also if others keep data in it.

    Raises:
        FjarrError: Azure cannot be read.
    """
    with DaemonExecutor(3, "az") as pool:
        commands = (group_show(group), app_show(group, names.app), deployment_show(group, DEPLOYMENT))
        shown, app, deployment = pool.map(session.az.find, commands)
        if shown is None:
            return Removal(group, exists=False)
        resources = list_resources(session, group)
    recorded = read_managed(session, group, as_object(app), resources, names)
    made = tuple(each for each in recorded if find(resources, each))
    kept = _find_kept(session, _Found(group, names, resources, made), deletes_foreign=deletes_foreign)
    targets = tuple(each for each in made if each not in dict(kept))
    is_own_group = as_object(as_object(shown).get("tags")).get(MANAGED_TAG) == session.stage.name
    return Removal(
        group,
        exists=True,
        targets=targets,
        kept=kept,
        is_whole=is_own_group and len(targets) == len(resources),
        is_deploying=is_active(deployment),
    )


def perform_removal(session: Session, removal: Removal) -> Removed:
    """Delete what a removal lists, one after the other; what cannot be deleted does not stop the rest."""
    group, console = removal.group, session.console
    if removal.is_deploying:
        _cancel(session, group)
    if removal.is_whole:
        try:
            with console.step(f"delete the resource group {group.name}"), suppress(NotFoundError):
                session.az.run(group_delete(group))
        except FjarrError as error:
            console.warn(f"the group cannot be deleted as a whole: {error.message}")
        else:
            return Removed(removal.descriptions)
    deleted, failures = [], []
    for target in removal.targets:
        try:
            with console.step(f"delete {target.kind} {target.name}"), suppress(NotFoundError):
                session.az.run(resource_delete(group, TYPES[target.kind], target.name))
        except FjarrError as error:
            failures.append((target, f"{error.message}{f' ({error.hint})' if error.hint else ''}"))
        else:
            deleted.append(f"{target.kind} {target.name}")
    return Removed(tuple(deleted), tuple(failures), is_group_left=removal.is_whole)


def _find_kept(
    session: Session, found: _Found, *, deletes_foreign: bool
) -> tuple[tuple[ManagedResource, str], ...]:
    """Return the resources that provision created and that others use, with the reasons to keep them."""
    kept: dict[ManagedResource, str] = {}
    for each in found.made:
        if each.kind == ENVIRONMENT:
            users = find_users(session, str(find(found.resources, each)["id"]), found.others)
            if users:
                kept[each] = f"others use it: {', '.join(users)}"
    is_in_use = bool(kept)
    for each in found.made:
        if each.kind == WORKSPACE and is_in_use:
            kept[each] = "the environment that stays writes its logs to it"
        if each.kind == ACCOUNT and not deletes_foreign:
            reason = _reason_to_keep(session, found, each.name, is_in_use=is_in_use)
            kept |= {each: reason} if reason else {}
    return tuple(kept.items())


def _reason_to_keep(session: Session, found: _Found, account: str, *, is_in_use: bool) -> str:
    """Return why a storage account must stay; empty if nothing of others is in it."""
    if is_in_use:
        return f"the environment that stays may mount its share; {FOREIGN_FLAG} deletes it"
    data = find_foreign_data(session, found.group, account, found.names.file_share)
    return f"others have data in it: {', '.join(data)}; {FOREIGN_FLAG} deletes it as well" if data else ""


def _cancel(session: Session, group: Group) -> None:
    """Cancel the deployment that runs, which would create again what is deleted, and wait until it ends."""
    with session.console.step("cancel the deployment that is running"), suppress(FjarrError):
        session.az.run(deployment_cancel(group, DEPLOYMENT))
    with suppress(RemoteError):  # how it ends does not matter
        deployments(session, group, DEPLOYMENT).follow()
