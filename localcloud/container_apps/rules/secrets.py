"""What Azure rejects in the secrets of a container app and in the references to them. Pure.

A secret without a value keeps the one that it has. The codes for secrets that are defined twice, and for
registries, were not found in public material: they are plausible, not quoted.

Source: Azure/container-apps-deploy-action#116 (names), Azure-Samples/langfuse-on-azure#12 (values).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from localcloud.container_apps.rules.ranges import duplicates
from localcloud.errors import AzureError, bad_request, not_emulated

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from localcloud.arm.requests import Json
    from localcloud.arm.resource_kinds import Resource

_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def secret_names(configuration: Json) -> set[str]:
    """Return the names of an app's secrets."""
    return {str(secret.get("name")) for secret in configuration.get("secrets") or ()}


def secret_errors(configuration: Json, before: Resource | None) -> Iterator[AzureError]:
    """Yield invalid names, secrets without a value, and duplicates."""
    stored = before.private["secrets"] if before else {}
    secrets = configuration.get("secrets") or ()
    for secret in secrets:
        name = str(secret.get("name") or "")
        if not _NAME.fullmatch(name):
            message = (
                f"Secret name has an invalid value '{name}'. A value must consist of lower case alphanumeric "
                "characters, '-', and must start and end with an alphanumeric character. The length must "
                "not be more than 253 characters."
            )
            yield bad_request("ContainerAppInvalidSecretName", message)
        if secret.get("keyVaultUrl") and secret.get("identity"):
            yield not_emulated("secrets from a key vault")
    for name in duplicates(secret.get("name") for secret in secrets):
        yield bad_request("ContainerAppSecretInvalid", f"The secret '{name}' is defined more than once.")
    without = [str(secret.get("name")) for secret in secrets if not _has_value(secret, stored)]
    if without:
        message = (
            f"Invalid Request: Container app secret(s) with name(s) '{', '.join(without)}' are invalid: "
            "value or keyVaultUrl and identity should be provided."
        )
        yield bad_request("ContainerAppSecretInvalid", message)


def reference_errors(
    containers: Iterable[Json], template: Json, configuration: Json, secrets: Collection[str]
) -> Iterator[AzureError]:
    """Yield references of containers, scale rules and registries to secrets that are not defined."""
    for container in containers:
        for variable in container.get("env") or ():
            where = f"container '{container.get('name')}'"
            yield from _missing(variable.get("secretRef"), where, secrets)
    for rule in (template.get("scale") or {}).get("rules") or ():
        for kind in ("http", "tcp", "custom", "azureQueue"):
            for credential in (rule.get(kind) or {}).get("auth") or ():
                yield from _missing(credential.get("secretRef"), f"scale rule '{rule.get('name')}'", secrets)
    for registry in configuration.get("registries") or ():
        where = f"registry '{registry.get('server')}'"
        yield from _missing(registry.get("passwordSecretRef"), where, secrets)


def registry_errors(configuration: Json) -> Iterator[AzureError]:
    """Yield registries without a server, or with one twice, or with two ways to sign in."""
    registries = configuration.get("registries") or ()
    for registry in registries:
        if not registry.get("server"):
            yield bad_request("ContainerAppRegistryInvalid", "The 'server' of a registry is required.")
        if registry.get("identity") and registry.get("username"):
            message = f"Registry '{registry.get('server')}' must have an identity or a username, not both."
            yield bad_request("ContainerAppRegistryInvalid", message)
    for server in duplicates(registry.get("server") for registry in registries):
        message = f"The registry '{server}' is defined more than once."
        yield bad_request("ContainerAppRegistryInvalid", message)


def _has_value(secret: Json, stored: Json) -> bool:
    if secret.get("keyVaultUrl") or secret.get("identity"):
        return bool(secret.get("keyVaultUrl") and secret.get("identity"))
    if secret.get("value") is None:
        return secret.get("name") in stored
    return bool(secret["value"])


def _missing(reference: object, where: str, secrets: Collection[str]) -> Iterator[AzureError]:
    if reference and reference not in secrets:
        message = f"SecretRef '{reference}' defined for {where} not found."
        yield bad_request("ContainerAppSecretRefNotFound", message)
