"""What Azure rejects in the secrets of a container app and in the references to them. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from localcloud.errors import bad_request, not_emulated

if TYPE_CHECKING:
    from collections.abc import Collection

    from localcloud.arm.requests import Json
    from localcloud.arm.resource_kinds import Resource

_SECRET_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]*")


def checked_secrets(configuration: Json, before: Resource | None) -> set[str]:
    """Return the names of an app's secrets, after a check of their names and values.

    A secret without a value keeps the one that it has in `before`.
    """
    names: set[str] = set()
    stored = before.private["secrets"] if before else {}
    for secret in configuration.get("secrets") or ():
        name = str(secret.get("name") or "")
        if not _SECRET_NAME.fullmatch(name):
            message = (
                f"Invalid secret name '{name}'. It must consist of lower case alphanumeric characters, '-' "
                "or '.', and must start and end with an alphanumeric character."
            )
            raise bad_request("ContainerAppSecretNameInvalid", message)
        if secret.get("keyVaultUrl"):
            raise not_emulated("secrets from a key vault")
        if name in names:
            raise bad_request("ContainerAppSecretInvalid", f"The secret '{name}' is defined more than once.")
        if not isinstance(secret.get("value", ""), str | None):
            raise bad_request("ContainerAppSecretInvalid", f"The value of the secret '{name}' must be text.")
        if secret.get("value") is None and name not in stored:
            message = f"Container app secret(s) with name(s) '{name}' are invalid: value is required."
            raise bad_request("ContainerAppSecretInvalid", message)
        names.add(name)
    return names


def check_secret_references(containers: list[Json], configuration: Json, secrets: Collection[str]) -> None:
    """Reject references of containers and registries to secrets that are not defined."""
    for container in containers:
        names = [variable.get("name") for variable in container.get("env") or ()]
        if len(set(names)) < len(names) or not all(names):
            message = f"Container '{container['name']}' has an environment variable twice or without a name."
            raise bad_request("ContainerAppInvalidEnvironmentVariable", message)
        for variable in container.get("env") or ():
            reference = variable.get("secretRef")
            if reference and reference not in secrets:
                message = f"SecretRef '{reference}' defined for container '{container['name']}' not found."
                raise bad_request("ContainerAppSecretRefNotFound", message)
    for registry in configuration.get("registries") or ():
        reference = registry.get("passwordSecretRef")
        if reference and reference not in secrets:
            message = f"SecretRef '{reference}' defined for registry '{registry.get('server')}' not found."
            raise bad_request("ContainerAppSecretRefNotFound", message)
