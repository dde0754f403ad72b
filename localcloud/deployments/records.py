"""The records of deployments and of their operations in the store."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from localcloud.clock import utc_now
from localcloud.errors import AzureError

if TYPE_CHECKING:
    from localcloud.arm.requests import Json
    from localcloud.arm.store import Store

_DEPLOYMENT: Final = "deployment"
_OPERATION: Final = "deployment-operation"
_ACTIVE: Final = frozenset({"Accepted", "Running"})
_EXPIRY: Final = timedelta(days=7)


class DeploymentRecords:
    """Every deployment that was accepted, with its operations."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, identifier: str) -> Json | None:
        """Return a deployment's document, or None."""
        return self._store.get(_DEPLOYMENT, identifier)

    def in_group(self, group_id: str) -> list[Json]:
        """Return the deployments of a resource group, newest first."""
        found = self._store.under(_DEPLOYMENT, f"{group_id}/")
        found.sort(key=lambda document: str(document["properties"]["timestamp"]), reverse=True)
        return found

    def active(self) -> list[Json]:
        """Return the deployments of all groups that have not ended."""
        return [document for document in self._store.under(_DEPLOYMENT) if _is_active(document)]

    def check_not_active(self, identifier: str) -> None:
        """Reject (409 `DeploymentActive`) a change of a deployment that has not ended."""
        found = self.find(identifier)
        if found is not None and _is_active(found):
            raise _deployment_active(found)

    def save(self, document: Json) -> None:
        """Store a deployment's document."""
        self._store.put(_DEPLOYMENT, document["id"], document)

    def save_state(self, document: Json, state: str, **more: Any) -> None:  # noqa: ANN401 - JSON values
        """Set a deployment's state, its time and more of its properties, and store it."""
        document["properties"] |= {"provisioningState": state, "timestamp": utc_now().isoformat(), **more}
        self.save(document)

    def delete(self, identifier: str) -> None:
        """Delete a deployment's document and its operations."""
        self._store.delete(_DEPLOYMENT, identifier)
        self.delete_operations(identifier)

    def delete_group(self, group_id: str) -> None:
        """Delete all records of a resource group."""
        for document in self._store.under(_DEPLOYMENT, f"{group_id}/"):
            self.delete(document["id"])

    def operations(self, identifier: str) -> list[Json]:
        """Return the operations of a deployment, oldest first."""
        return self._store.under(_OPERATION, f"{identifier}/")

    def find_operation(self, identifier: str, operation_id: str) -> Json | None:
        """Return an operation of a deployment, or None."""
        return self._store.get(_OPERATION, f"{identifier}/operations/{operation_id}")

    def save_operation(self, document: Json) -> None:
        """Store an operation's document."""
        self._store.put(_OPERATION, document["id"], document)

    def delete_operations(self, identifier: str) -> None:
        """Delete the operations of a deployment."""
        for document in self.operations(identifier):
            self._store.delete(_OPERATION, document["id"])


def _is_active(document: Json) -> bool:
    return document["properties"]["provisioningState"] in _ACTIVE


def _deployment_active(document: Json) -> AzureError:
    properties = document["properties"]
    started = datetime.fromisoformat(properties["timestamp"])
    pattern = "%-m/%-d/%Y %-I:%M:%S %p"
    return AzureError(
        409,
        "DeploymentActive",
        f"The deployment with resource id '{document['id']}' cannot be saved, because this would "
        f"overwrite an existing deployment which is still active. The previous deployment was started at "
        f"'{started.strftime(pattern)}' with correlationId '{properties['correlationId']}', and will "
        f"expire at '{(started + _EXPIRY).strftime(pattern)}' if it does not complete before then.",
    )
