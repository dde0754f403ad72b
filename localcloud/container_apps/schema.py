"""Microsoft.App's error for a value that the specification rules out. Pure.

The provider's own class names are not published: they appear in messages only ("Unknown properties gpu in
ContainerAppContainerResources are not supported"), as the specification's with a prefix.

Source: microsoft/azure-container-apps#436 and Azure-Samples/apptemplate-wordpress-on-aca#13 (the message for
a body that does not conform, and its path).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from localcloud.errors import AzureError, bad_request, not_emulated

if TYPE_CHECKING:
    from localcloud.arm.resource_kinds import Change
    from localcloud.specifications import Violation

_HELP: Final = (
    "https://docs.microsoft.com/azure/container-apps/azure-resource-manager-api-spec?tabs=arm-template"
)
_PREFIX: Final = "ContainerApp"


def schema_error(noun: str, change: Change, violation: Violation) -> AzureError:
    """Return the error of a resource of Microsoft.App; `noun` names it, such as `app` or `environment`."""
    code = "ContainerAppInvalidSchema" if noun in ("app", "job") else "ManagedEnvironmentInvalidSchema"
    if violation.rule == "unknown":
        if change.api_version.endswith("-preview"):
            # The specification that is checked has no previews.
            return not_emulated(f"the property '{violation.dotted}' of api-version {change.api_version}")
        name = _class_name(violation.class_name)
        return bad_request(code, f"Unknown properties {violation.name} in {name} are not supported")
    return bad_request(
        code,
        f"Invalid request body for container {noun}. Path: {violation.json_path}. Does not conform to "
        f"Container App schema, please visit for more information {_HELP}#container-app",
    )


def _class_name(specified: str) -> str:
    name = specified.rpartition("/")[2]
    if name == "containerApps":
        return _PREFIX
    if name == "jobs":
        return "Job"
    return name if name.startswith((_PREFIX, "ManagedEnvironment", "Job")) else f"{_PREFIX}{name}"
