"""Decide what has to be added to an existing Container Apps environment for the app.

The fine-tuning step's job runs in the same environment and would break if one of its workload profiles were
changed or removed, so existing profiles are left as they are. Pure: values in, changes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.az.commands import Group, workload_profile_add, workload_profile_update
from infra.az.limits import CONSUMPTION
from infra.document import Json, as_object, as_objects, object_at
from infra.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.config.settings import Settings
    from infra.process import Command

_SOURCES: Final = ("gpu", "gpuProfileType", "maximumInstanceCount", "maxReplicas")


@dataclass(frozen=True, slots=True)
class RequestedProfile:
    """The workload profile that the app should run on.

    Attributes:
        name: Its name.
        kind: Its type; None if only an existing profile can be used.
        maximum_count: Its maximum number of nodes; None if the type has no node counts.
        kind_source: The source of the type; None for the template's default, which an existing
            profile overrides.
        maximum_count_source: The source of the maximum, likewise.
        is_minimum: Whether the maximum only follows from the replicas, so that a higher one is left as it is.
    """

    name: str
    kind: str | None
    maximum_count: int | None = None
    kind_source: str | None = None
    maximum_count_source: str | None = None
    is_minimum: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A change to an environment, or a warning about something that is left unchanged.

    Attributes:
        text: The description.
        command: The command that makes the change; None for a warning.
        path: The property of the environment that changes.
        before: Its value; None if it is not there.
        after: Its new value.
    """

    text: str
    command: Command | None
    path: str = ""
    before: Json = None
    after: Json = None


def requested_profile(values: Mapping[str, Json], settings: Settings) -> RequestedProfile:
    """Return the profile that the parameters require.

    Args:
        values: The effective parameters.
        settings: The settings, for the sources.
    """
    name, gpu_name = str(values["workloadProfileName"]), str(values["gpuProfileName"])
    if name.casefold() != gpu_name.casefold():
        return RequestedProfile(name, CONSUMPTION if name == CONSUMPTION else None)
    kind, maximum = values["gpuProfileType"], values["maximumInstanceCount"]
    kind = str(kind) if kind else None
    sources = {name: setting.source for name in _SOURCES if (setting := settings.find(name))}
    return RequestedProfile(
        name,
        kind,
        None if kind is None or kind.startswith(CONSUMPTION) or not isinstance(maximum, int) else maximum,
        sources.get("gpuProfileType") or sources.get("gpu"),
        sources.get("maximumInstanceCount") or sources.get("maxReplicas"),
        is_minimum="maximumInstanceCount" not in sources,
    )


def profile_changes(
    group: Group, environment: Mapping[str, Json], requested: RequestedProfile, *, is_managed: bool
) -> tuple[Change, ...]:
    """Return the changes after which an environment has a profile.

    Args:
        group: The environment's group.
        environment: The environment, as az shows it.
        requested: The profile.
        is_managed: Whether provision created the environment. Only then is the size of a profile changed.

    Raises:
        UsageError: The environment cannot have the profile.
    """
    name = str(environment["name"])
    profiles = object_at(environment, "properties").get("workloadProfiles")
    if not isinstance(profiles, list):
        hint = "set acaEnvironmentName to another environment, or to a new name to have one made"
        raise UsageError(f"the environment {name!r} has no workload profiles and can get none", hint=hint)
    for profile in map(as_object, profiles):
        if str(profile.get("name")).casefold() == requested.name.casefold():
            return _existing(group, name, profile, requested, is_managed=is_managed)
    if requested.kind is None:
        hint = "set workloadProfileName to one that it has, or gpuProfileName to have a GPU profile added"
        raise UsageError(f"the environment {name!r} has no workload profile {requested.name!r}", hint=hint)
    text = f"add the workload profile {requested.name} ({requested.kind}) to {name}"
    command = workload_profile_add(group, name, requested.name, requested.kind, requested.maximum_count)
    after: dict[str, Json] = {"type": requested.kind, "maximumCount": requested.maximum_count}
    return (Change(text, command, f"workloadProfiles[{requested.name}]", None, after),)


def replaces_revision(app: Mapping[str, Json], name: str, max_nodes: int | None, min_replicas: int) -> bool:
    """Return whether a new revision of an app does not fit beside the one that runs.

    On a dedicated profile each replica needs a node, and a revision that starts needs its own.

    Args:
        app: The properties of the app that runs.
        name: The profile of the new revision.
        max_nodes: The most nodes of that profile; None or 0 for one that has no such limit.
        min_replicas: The replicas of the new revision; it starts with one at least.
    """
    if not max_nodes or str(app.get("workloadProfileName")).casefold() != name.casefold():
        return False
    # An app that scales to zero may run a replica at the moment.
    return max(least_replicas(app), 1) + max(min_replicas, 1) > max_nodes


def least_replicas(app: Mapping[str, Json]) -> int:
    """Return the number of replicas that an app runs at least; one for an app that does not tell."""
    least = object_at(app, "template", "scale").get("minReplicas")
    return least if isinstance(least, int) else 1


def profile_max_nodes(environment: Mapping[str, Json], name: str) -> int | None:
    """Return the most nodes of an environment's profile; None for one without, as serverless ones are."""
    for profile in as_objects(object_at(environment, "properties").get("workloadProfiles")):
        if str(profile.get("name")).casefold() == name.casefold():
            most = profile.get("maximumCount")
            return most if isinstance(most, int) else None
    return None


def _existing(
    group: Group,
    environment: str,
    profile: Mapping[str, Json],
    requested: RequestedProfile,
    *,
    is_managed: bool,
) -> tuple[Change, ...]:
    name, kind, maximum = (
        str(profile["name"]),
        profile.get("workloadProfileType"),
        profile.get("maximumCount"),
    )
    if requested.kind_source is not None and kind != requested.kind:
        what = f"the workload profile {name!r} of {environment!r} is of type {kind}"
        hint = (
            f"a profile's type cannot change: set gpuProfileType to {kind}, or gpuProfileName to a new name"
        )
        raise UsageError(f"{what}, not {requested.kind} (from {requested.kind_source})", hint=hint)
    if (
        requested.maximum_count_source is None
        or requested.maximum_count is None
        or not isinstance(maximum, int)
        or maximum == requested.maximum_count
        or (requested.is_minimum and maximum > requested.maximum_count)
    ):
        return ()
    if is_managed:
        text = f"let the workload profile {name} of {environment} have up to {requested.maximum_count} nodes"
        command = workload_profile_update(group, environment, name, requested.maximum_count)
        path = f"workloadProfiles[{name}].maximumCount"
        return (Change(text, command, path, maximum, requested.maximum_count),)
    text = (
        f"the environment {environment} was not created by provision: its profile {name} keeps its maximum "
        f"of {maximum} nodes"
    )
    return (Change(f"{text}, not {requested.maximum_count} (from {requested.maximum_count_source})", None),)
