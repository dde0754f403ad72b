"""Find what others have configured on the app, so that a deployment keeps it.

A deployment replaces the app as a whole. Whatever the template does not set, and the last deployment did not
set either, belongs to others: it is passed to the template as its parameters `unmanaged` and
`unmanagedSecrets`, and stays. Pure: values in, values out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from infra.az.limits import OWN_TAG_PREFIX
from infra.config.kept import is_secret_name
from infra.config.template import CONTAINER
from infra.document import Json, as_list, as_object, as_objects
from infra.errors import RemoteError
from infra.resources.api_keys import SECRET_NAME
from infra.resources.mount_key import DIGEST_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from infra.config.template import Template

KEYS_VARIABLE: Final = "FJARR_API_KEYS"
RANGE_PREFIX: Final = "allow-"
_REGISTRY: Final = "registryServer"
_SCALE_RULE: Final = "http"
_SYSTEM: Final = "system"
_VOLUME: Final = "share"

_OWN_PARTS: Final = {
    "configuration": ("activeRevisionsMode", "ingress", "secrets"),
    "ingress": (
        *("allowInsecure", "external", "ipSecurityRestrictions", "stickySessions", "targetPort", "traffic"),
        "transport",
    ),
    "template": ("containers", "scale", "terminationGracePeriodSeconds", "volumes"),
    "scale": ("cooldownPeriod", "maxReplicas", "minReplicas", "pollingInterval", "rules"),
    "container": ("name", "image", "command", "env", "probes", "resources", "volumeMounts"),
}
"""The parts of an app that the template sets."""

_READ_ONLY_PARTS: Final = {
    "configuration": ("targetLabel",),
    "ingress": ("fqdn",),
    # A suffix names one revision, so it cannot be used for the next one.
    "template": ("revisionSuffix",),
    "container": ("imageType",),
}
_DEFAULTS: Final[dict[str, Json]] = {
    "clientCertificateMode": "Ignore",
    "exposedPort": 0,
    "maxInactiveRevisions": 100,
}
"""What Azure shows for parts that nobody has set. Source: Microsoft.App specification, ContainerApps."""


@dataclass(frozen=True, slots=True)
class Unmanaged:
    """What others have configured on an app.

    Attributes:
        parts: The value of the template's parameter `unmanaged`.
        secrets: The value of its parameter `unmanagedSecrets`. Secret.
    """

    parts: dict[str, Json] = field(default_factory=dict)
    secrets: dict[str, Json] = field(default_factory=dict, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of what is kept, such as `environment variable HF_HOME`."""
        kinds = {"variables": "environment variable", "scaleRules": "scale rule", "containers": "container"}
        kinds |= {"volumes": "volume", "volumeMounts": "volume mount", "ipSecurityRestrictions": "IP rule"}
        names = [f"secret {name}" for name in self.secrets]
        for part, value in self.parts.items():
            if isinstance(value, list):
                entries = [as_object(each) for each in value]
                names += [f"{kinds[part]} {each.get('name') or each.get('volumeName')}" for each in entries]
            elif part in {"identity", "tags"}:
                shown = as_object(value).get("type") if part == "identity" else ", ".join(as_object(value))
                names.append(f"{part} {shown}")
            else:
                names += as_object(value)
        return tuple(names)


def find_unmanaged(
    app: Mapping[str, Json],
    secrets: Mapping[str, Mapping[str, Json]],
    last: Mapping[str, Json],
    wanted: Mapping[str, Json],
    template: Template,
) -> Unmanaged:
    """Return what others have configured on an app.

    Args:
        app: The app as az shows it.
        secrets: Its secrets by name.
        last: The parameters of the last deployment.
        wanted: The parameters of the next one.
        template: The template.

    Raises:
        RemoteError: The value of a secret that others set cannot be read, so it would be lost.
    """
    properties = as_object(app.get("properties"))
    configuration, body = as_object(properties.get("configuration")), as_object(properties.get("template"))
    ingress, scale = as_object(configuration.get("ingress")), as_object(body.get("scale"))
    containers = as_objects(body.get("containers"))
    server = _server(str(app.get("name")), containers)
    others = [each for each in containers if each is not server]
    own_volumes = _own_volumes(server, others, str(wanted.get("mountPath")))
    variables = {
        *template.own_variables,
        KEYS_VARIABLE,
        DIGEST_VARIABLE,
        # A secret that a flag set is not kept for the stage, so it stays in the app alone.
        *(name for name in as_object(last.get("environmentVariables")) if not is_secret_name(name)),
        *as_object(wanted.get("environmentVariables")),
    }
    parts: dict[str, Json] = {
        "tags": _tags(app, last, wanted),
        "identity": _identity(as_object(app.get("identity")), _identities(last) | _identities(wanted)),
        "configuration": _configuration(configuration, {last.get(_REGISTRY), wanted.get(_REGISTRY)}),
        "ingress": _others("ingress", ingress),
        "ipSecurityRestrictions": [
            rule
            for rule in as_objects(ingress.get("ipSecurityRestrictions"))
            if not str(rule.get("name")).startswith(RANGE_PREFIX)
        ],
        "template": _others("template", body),
        "containers": [_without_nulls(each, _READ_ONLY_PARTS["container"]) for each in others],
        "volumes": _named(body.get("volumes"), own_volumes),
        "scale": _others("scale", scale),
        "scaleRules": _named(scale.get("rules"), _rule_names(last) | _rule_names(wanted)),
        "container": _others("container", server),
        "variables": _named(server.get("env"), variables),
        "volumeMounts": _named(server.get("volumeMounts"), own_volumes, "volumeName"),
    }
    listed = as_objects(configuration.get("secrets"))
    names = [str(each.get("name")) for each in listed if each.get("name") != SECRET_NAME]
    return Unmanaged(
        {name: value for name, value in parts.items() if value},
        {name: _secret(name, secrets.get(name, {})) for name in names},
    )


def _server(app: str, containers: list[dict[str, Json]]) -> dict[str, Json]:
    """Return the container that the template's takes the place of; empty if the app has none.

    In an app that the AI Toolkit's template made, the server's container has the name of the app.
    """
    named = {str(each.get("name")): each for each in containers}
    return named.get(CONTAINER) or named.get(app) or {}


def _own_volumes(
    server: Mapping[str, Json], others: Collection[Mapping[str, Json]], mount_path: str
) -> set[Json]:
    """Return the volumes that the template replaces: its own, and the AI Toolkit's with the same share."""
    mounts = as_objects(server.get("volumeMounts"))
    found = {mount.get("volumeName") for mount in mounts if mount.get("mountPath") == mount_path}
    kept = {mount.get("volumeName") for each in others for mount in as_objects(each.get("volumeMounts"))}
    return {_VOLUME, *(found - kept)}


def _rule_names(parameters: Mapping[str, Json]) -> set[Json]:
    return {_SCALE_RULE, *(rule.get("name") for rule in as_objects(parameters.get("scaleRules")))}


def _tags(app: Mapping[str, Json], last: Mapping[str, Json], wanted: Mapping[str, Json]) -> dict[str, Json]:
    own = {name.casefold() for each in (last, wanted) for name in as_object(each.get("tags"))}
    return {
        name: text
        for name, text in as_object(app.get("tags")).items()
        if name.casefold() not in own and not name.casefold().startswith(OWN_TAG_PREFIX)
    }


def _identities(parameters: Mapping[str, Json]) -> set[str]:
    """Return the identities that parameters assign: resource ids in lower case, and `system`."""
    given = [str(each) for each in as_list(parameters.get("userAssignedIdentities"))]
    given += [_SYSTEM] if parameters.get("systemIdentity") is True else []
    given += [str(parameters.get("registryIdentity") or _SYSTEM)] if parameters.get(_REGISTRY) else []
    if parameters.get("apiKeyVaultUrl"):
        given.append(str(parameters.get("apiKeyVaultIdentity") or _SYSTEM))
    return {each.casefold() for each in given}


def _identity(identity: Mapping[str, Json], own: Collection[str]) -> dict[str, Json]:
    """Return an identity as a template sets it, without `own` identities: users without read-only ids."""
    has_system = "SystemAssigned" in str(identity.get("type")) and _SYSTEM not in own
    assigned = as_object(identity.get("userAssignedIdentities"))
    users: dict[str, Json] = {name: {} for name in assigned if name.casefold() not in own}
    kinds = [*(["SystemAssigned"] if has_system else []), *(["UserAssigned"] if users else [])]
    if not kinds:
        return {}
    return {"type": ",".join(kinds), **({"userAssignedIdentities": users} if users else {})}


def _configuration(configuration: Mapping[str, Json], own_registries: Collection[Json]) -> dict[str, Json]:
    others = _others("configuration", configuration)
    registries: list[Json] = [
        each for each in as_objects(others.pop("registries", [])) if each.get("server") not in own_registries
    ]
    return {**others, **({"registries": registries} if registries else {})}


def _others(part: str, value: Mapping[str, Json]) -> dict[str, Json]:
    return _without_nulls(value, (*_OWN_PARTS[part], *_READ_ONLY_PARTS.get(part, ())))


def _without_nulls(value: Mapping[str, Json], left_out: Collection[str]) -> dict[str, Json]:
    """Return an object without some names, and without what is empty: Azure shows what is not set as null."""
    return {
        name: each
        for name, each in value.items()
        if name not in left_out and each not in (None, [], {}) and each != _DEFAULTS.get(name)
    }


def _named(entries: Json, own: Collection[Json], key: str = "name") -> list[Json]:
    return [_without_nulls(each, ()) for each in as_objects(entries) if each.get(key) not in own]


def _secret(name: str, secret: Mapping[str, Json]) -> dict[str, Json]:
    found = {key: secret[key] for key in ("value", "keyVaultUrl", "identity") if secret.get(key)}
    if found.get("keyVaultUrl"):
        found.pop("value", None)
    if not found:
        hint = "you need the right Microsoft.App/containerApps/listSecrets/action, as Contributor has it"
        raise RemoteError(f"the secret {name!r} of the app cannot be read, and would be lost", hint=hint)
    return found
