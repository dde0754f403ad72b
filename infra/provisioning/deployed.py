"""Read what is deployed in a stage's resource group, with az commands that run at the same time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from infra.az.commands import (
    Group,
    app_show,
    deployment_show,
    environment_show,
    resource_list,
    storage_key_list,
)
from infra.az.errors import AzureRejectedError
from infra.az.operations import is_active
from infra.concurrency import DaemonExecutor
from infra.document import Json, as_object, as_objects
from infra.resources.api_keys import SECRET_NAME
from infra.resources.app_secrets import has_secrets, read_secrets
from infra.resources.mount_key import key_state, mounted_digest, parse_account_keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.az.names import Names
    from infra.resources.mount_key import KeyState
    from infra.session import Session

DEPLOYMENT: Final = "inference"
"""The name of the deployment, which is also what az names one of `inference.bicep` by hand."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """What is deployed in a resource group.

    Attributes:
        has_group: Whether the group exists.
        app: The app as az shows it; empty if there is none.
        environment: The environment, likewise.
        resources: The resources of the group.
        last_parameters: The parameters of the last deployment by name, without secret ones; None if unknown.
        secrets: The app's secrets by name, each with its value or its reference to a Key Vault.
        key_state: Whether the share is mounted with a key that the storage account still has.
        is_deploying: Whether a deployment is running.
    """

    has_group: bool = False
    app: Mapping[str, Json] = field(default_factory=dict)
    environment: Mapping[str, Json] = field(default_factory=dict)
    resources: tuple[dict[str, Json], ...] = ()
    last_parameters: Mapping[str, Json] | None = None
    secrets: Mapping[str, Mapping[str, Json]] = field(default_factory=dict, repr=False)
    key_state: KeyState = "unknown"
    is_deploying: bool = False

    @property
    def app_properties(self) -> dict[str, Json]:
        """Return the properties of the app."""
        return as_object(self.app.get("properties"))

    @property
    def api_keys(self) -> str:
        """Return the text of the app's API keys; empty if it has none, or has them in a Key Vault. Secret."""
        return str(self.secrets.get(SECRET_NAME, {}).get("value") or "")


def read_deployed(session: Session, group: Group, names: Names) -> Deployed:
    """Read what is deployed.

    Raises:
        RemoteError: Azure rejects a request.
        UsageError: The user is not signed in.
    """
    with DaemonExecutor(4, "az") as pool:
        app, environment, resources, last = pool.map(
            session.az.find,
            (
                app_show(group, names.app),
                environment_show(group, names.environment),
                resource_list(group),
                deployment_show(group, DEPLOYMENT),
            ),
        )
        app = as_object(app)
        secrets = pool.submit(read_secrets, session.az, group, names.app) if has_secrets(app) else None
        state = _key_state(session, group, names.storage_account, app)
    return Deployed(
        has_group=resources is not None,
        app=app,
        environment=as_object(environment),
        resources=tuple(as_objects(resources)),
        last_parameters=_parameters(last),
        secrets={} if secrets is None else secrets.result(),
        key_state=state,
        is_deploying=is_active(last),
    )


def _key_state(session: Session, group: Group, account: str, app: Mapping[str, Json]) -> KeyState:
    if not mounted_digest(app):
        return "unknown"
    try:
        return key_state(app, parse_account_keys(session.az.find(storage_key_list(group, account))))
    except AzureRejectedError:
        return "unknown"  # reading the keys needs a right of its own


def _parameters(deployment: Json) -> dict[str, Json] | None:
    properties = as_object(as_object(deployment).get("properties"))
    if not properties:
        return None
    parameters = as_object(properties.get("parameters"))
    return {name: as_object(entry).get("value") for name, entry in parameters.items()}
