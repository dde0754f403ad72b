"""What Azure rejects in a job, and what the local cloud does not emulate of one. Pure.

A job's template has the rules of an app's. The codes of what only jobs have were not found in public
material: they are plausible, not quoted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from localcloud.arm.resource_kinds import is_unknown
from localcloud.container_apps.jobs.schedule import Schedule
from localcloud.container_apps.rules.containers import container_errors, resource_errors
from localcloud.container_apps.rules.hosting import environment_errors, name_errors, volume_errors
from localcloud.container_apps.rules.ranges import is_within
from localcloud.container_apps.rules.secrets import (
    reference_errors,
    registry_errors,
    secret_errors,
    secret_names,
)
from localcloud.errors import bad_request, not_emulated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localcloud.arm.requests import Json
    from localcloud.arm.resource_kinds import Resource, ResourceLookup
    from localcloud.errors import AzureError

_MAX: Final = 2**31 - 1
_COUNTS: Final = ("parallelism", "replicaCompletionCount")


def job_errors(
    name: str, body: Json, before: Resource | None, lookup: ResourceLookup
) -> Iterator[AzureError]:
    """Yield what is wrong with a PUT of a job: 400 and 404, and 501 for what is not emulated.

    Args:
        name: Its name.
        body: The request body, which conforms to the specification in its types.
        before: The stored job, None if it is new.
        lookup: Where its environment and storages are looked up.
    """
    yield from name_errors(name, "Job", "ContainerAppJobInvalidName")
    properties = body.get("properties") or {}
    configuration, template = properties.get("configuration") or {}, properties.get("template") or {}
    containers = template.get("containers") or []
    yield from _unsupported(body, configuration, template)
    yield from container_errors(name, containers)
    yield from secret_errors(configuration, before)
    scale = {"rules": [{"name": rule.get("name"), "custom": rule} for rule in _scale_rules(configuration)]}
    names = secret_names(configuration)
    yield from reference_errors(containers, {"scale": scale}, configuration, names)
    yield from registry_errors(configuration)
    yield from _configuration_errors(configuration)
    yield from volume_errors(name, template, containers)
    yield from resource_errors(containers)
    yield from environment_errors(properties, containers, before, lookup)


def override_errors(job: Resource, containers: list[Json]) -> Iterator[AzureError]:
    """Yield what is wrong with the containers that an execution is started with instead of the job's."""
    yield from _container_count_errors(containers)
    yield from container_errors(job.name, containers)
    yield from resource_errors(containers)
    configuration = job.properties["configuration"]
    yield from reference_errors(containers, {}, {}, secret_names(configuration))


def _configuration_errors(configuration: Json) -> Iterator[AzureError]:
    if not configuration:
        yield bad_request("ContainerAppJobInvalidConfiguration", "The 'configuration' of a job is required.")
        return
    kind = configuration.get("triggerType")
    for name, low in (("replicaTimeout", 1), ("replicaRetryLimit", 0)):
        if configuration.get(name) is not None:
            yield from _range_errors(name, configuration[name], low)
    # One that is missing is against the specification, which reports it.
    if kind is not None and not is_unknown(kind):
        yield from _trigger_errors(configuration, kind)


def _trigger_errors(configuration: Json, kind: str) -> Iterator[AzureError]:
    wanted = f"{kind.lower()}TriggerConfig"
    for word in ("manual", "schedule", "event"):
        name = f"{word}TriggerConfig"
        if name != wanted and configuration.get(name):
            message = f"A job with the trigger type '{kind}' cannot have a '{name}'."
            yield bad_request("ContainerAppJobInvalidTriggerConfig", message)
    trigger = configuration.get(wanted)
    if trigger is None and kind != "Manual":
        message = f"A job with the trigger type '{kind}' must have a '{wanted}'."
        yield bad_request("ContainerAppJobInvalidTriggerConfig", message)
    for name in _COUNTS:
        if (trigger or {}).get(name) is not None:
            yield from _range_errors(f"{wanted}.{name}", (trigger or {})[name], 1)
    if kind == "Schedule":
        yield from _cron_errors((trigger or {}).get("cronExpression"))


def _cron_errors(expression: str | None) -> Iterator[AzureError]:
    if expression is None or is_unknown(expression):
        return
    try:
        Schedule.parse(expression)
    except ValueError as error:
        message = f"The cron expression '{expression}' is invalid: {error}"
        yield bad_request("ContainerAppJobInvalidCronExpression", message)


def _range_errors(name: str, value: object, low: int) -> Iterator[AzureError]:
    if not is_within(value, low, _MAX):
        message = f"{name} must be in the range of ['{low}', '{_MAX}'], not '{value}'."
        yield bad_request("ContainerAppJobInvalidConfiguration", message)


def _scale_rules(configuration: Json) -> list[Json]:
    scale = (configuration.get("eventTriggerConfig") or {}).get("scale") or {}
    rules: list[Json] = scale.get("rules") or []
    return rules


def _unsupported(body: Json, configuration: Json, template: Json) -> Iterator[AzureError]:
    """Yield the features that Azure has and the local cloud does not."""
    unsupported = {
        "a custom location": body.get("extendedLocation"),
        "identity settings": configuration.get("identitySettings"),
        "init containers": template.get("initContainers"),
    }
    for feature, is_used in unsupported.items():
        if is_used:
            yield not_emulated(feature)
    yield from _container_count_errors(template.get("containers") or [])


def _container_count_errors(containers: list[Json]) -> Iterator[AzureError]:
    if len(containers) > 1:
        yield not_emulated("more than one container")
