"""Find what others use or keep in a resource that provision created, so that it is not deleted with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from infra.az.commands import resource_show, storage_list
from infra.concurrency import DaemonExecutor
from infra.document import Json, as_object
from infra.errors import FjarrError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from infra.az.commands import Group
    from infra.session import Session

SERVICES: Final = {
    "file share": "fileServices/default/shares",
    "blob container": "blobServices/default/containers",
    "queue": "queueServices/default/queues",
    "table": "tableServices/default/tables",
}
"""What a storage account can hold, each with the collection that lists it."""

_HOSTED: Final = frozenset({"microsoft.app/containerapps", "microsoft.app/jobs"})
_SHOWN: Final = 5


def find_foreign_data(session: Session, group: Group, account: str, share: str) -> tuple[str, ...]:
    """Return what a storage account holds apart from one share, and what could not be listed.

    Args:
        session: The opened stage.
        group: The account's group.
        account: The account.
        share: The share of the stage.
    """
    with DaemonExecutor(len(SERVICES), "az") as pool:
        listed = pool.map(lambda kind: _list(session, group, account, kind), SERVICES)
        found = [each for kind in listed for each in kind if each != f"the file share {share}"]
    rest = len(found) - _SHOWN
    return (*found[:_SHOWN], f"{rest} more") if rest > 0 else tuple(found)


def find_users(
    session: Session, environment_id: str, others: Iterable[Mapping[str, Json]]
) -> tuple[str, ...]:
    """Return the apps and jobs of others that run in an environment.

    Args:
        session: The opened stage.
        environment_id: The environment.
        others: The resources of its group that provision did not create.
    """
    hosted = [each for each in others if str(each.get("type")).casefold() in _HOSTED]
    if not hosted:
        return ()
    with DaemonExecutor(len(hosted), "az") as pool:
        shown = pool.map(lambda each: session.az.find(resource_show(str(each["id"]))), hosted)
        environments = [as_object(as_object(each).get("properties")).get("environmentId") for each in shown]
    return tuple(
        f"{'the job' if str(each.get('type')).casefold().endswith('jobs') else 'the app'} {each.get('name')}"
        for each, there in zip(hosted, environments, strict=True)
        if str(there).casefold() == environment_id.casefold()
    )


def _list(session: Session, group: Group, account: str, kind: str) -> list[str]:
    try:
        answer = as_object(session.az.find(storage_list(group, account, SERVICES[kind])))
    except FjarrError as error:
        return [f"{kind}s that could not be listed ({error.message})"]
    values = answer.get("value")
    return (
        [f"the {kind} {as_object(each).get('name')}" for each in values] if isinstance(values, list) else []
    )
