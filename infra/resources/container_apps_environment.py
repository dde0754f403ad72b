"""Decide what an existing Container Apps environment lacks for our app. It is only ever added to.

The fine-tuning step's job runs in the same environment. Changing or dropping a workload profile under it
would break it, so the profiles that exist are taken as they are. Pure: values in, changes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.az.commands import Group, workload_profile_add, workload_profile_update
from infra.az.limits import CONSUMPTION
from infra.document import Json, as_object
from infra.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.config.settings import Settings
    from infra.process import Command

DEFAULT_MAXIMUM_COUNT = 2
"""What a null `maximumInstanceCount` means, as in the template."""


@dataclass(frozen=True, slots=True)
class RequestedProfile:
    """Hold the workload profile that the app is to run on.

    Attributes:
        name: Its name.
        kind: Its type; None where only a profile that exists already will do.
        maximum_count: The most nodes it may have; None where the type takes no counts.
        kind_source: Who said the type; None where it is the template's default, which yields to what exists.
        maximum_count_source: Who said the maximum, likewise.
    """

    name: str
    kind: str | None
    maximum_count: int | None = None
    kind_source: str | None = None
    maximum_count_source: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Hold one change to an environment, or a remark where something is left as it is.

    Attributes:
        text: What it is, for people.
        command: What performs it; None for a remark.
    """

    text: str
    command: Command | None


def requested_profile(values: Mapping[str, Json], settings: Settings) -> RequestedProfile:
    """Return the profile that the parameters ask for.

    Args:
        values: The effective parameters.
        settings: What was said, for the sources.
    """
    name, gpu_name = str(values["workloadProfileName"]), str(values["gpuProfileName"])
    if name.casefold() != gpu_name.casefold():
        return RequestedProfile(name, CONSUMPTION if name == CONSUMPTION else None)
    kind, most = str(values["gpuProfileType"]), values["maximumInstanceCount"]
    said = {
        name: setting.source
        for name in ("gpuProfileType", "maximumInstanceCount")
        if (setting := settings.find(name))
    }
    return RequestedProfile(
        name,
        kind,
        None if kind.startswith(CONSUMPTION) else most if isinstance(most, int) else DEFAULT_MAXIMUM_COUNT,
        said.get("gpuProfileType"),
        said.get("maximumInstanceCount"),
    )


def profile_changes(
    group: Group, environment: Mapping[str, Json], wish: RequestedProfile, *, is_ours: bool
) -> tuple[Change, ...]:
    """Return what must be done so that an environment has a profile.

    Args:
        group: The environment's group.
        environment: The environment, as az shows it.
        wish: The profile.
        is_ours: Whether a run of ours made the environment; only then is a profile's size changed.

    Raises:
        UsageError: The environment cannot have it.
    """
    name = str(environment["name"])
    profiles = as_object(environment.get("properties")).get("workloadProfiles")
    if not isinstance(profiles, list):
        hint = "set acaEnvironmentName to another environment, or to a new name to have one made"
        raise UsageError(f"the environment {name!r} has no workload profiles and can get none", hint=hint)
    for profile in map(as_object, profiles):
        if str(profile.get("name")).casefold() == wish.name.casefold():
            return _existing(group, name, profile, wish, is_ours=is_ours)
    if wish.kind is None:
        hint = "set workloadProfileName to one that it has, or gpuProfileName to have a GPU profile added"
        raise UsageError(f"the environment {name!r} has no workload profile {wish.name!r}", hint=hint)
    text = f"add the workload profile {wish.name} ({wish.kind}) to {name}"
    return (Change(text, workload_profile_add(group, name, wish.name, wish.kind, wish.maximum_count)),)


def _existing(
    group: Group, environment: str, profile: Mapping[str, Json], wish: RequestedProfile, *, is_ours: bool
) -> tuple[Change, ...]:
    name, kind, most = str(profile["name"]), profile.get("workloadProfileType"), profile.get("maximumCount")
    if wish.kind_source is not None and kind != wish.kind:
        what = f"the workload profile {name!r} of {environment!r} is of type {kind}"
        hint = (
            f"a profile's type cannot change: set gpuProfileType to {kind}, or gpuProfileName to a new name"
        )
        raise UsageError(f"{what}, not {wish.kind} (from {wish.kind_source})", hint=hint)
    if wish.maximum_count_source is None or wish.maximum_count is None or most in {None, wish.maximum_count}:
        return ()
    if is_ours:
        text = f"let the workload profile {name} of {environment} have up to {wish.maximum_count} nodes"
        return (Change(text, workload_profile_update(group, environment, name, wish.maximum_count)),)
    text = f"the environment {environment} is not ours: its profile {name} keeps its maximum of {most} nodes"
    return (Change(f"{text}, not {wish.maximum_count} (from {wish.maximum_count_source})", None),)
