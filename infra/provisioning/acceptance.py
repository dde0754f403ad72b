"""Describe to the online checks what a provision needs of Azure, from its parameters and what is deployed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.az.commands import group_show
from infra.az.quotas import Need
from infra.document import Json, as_object, as_objects
from infra.provisioning.profile import plan_profile
from infra.resources.inventory import ACCOUNT, ManagedResource, find
from infra.resources.preflight import Subject

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.az.commands import Group
    from infra.az.names import Names
    from infra.provisioning.deployed import Deployed
    from infra.provisioning.prepare import PreparedProvision
    from infra.session import Session


def subject_of_plan(session: Session, prepared: PreparedProvision) -> Subject:
    """Return what a prepared provision needs of Azure."""
    wanted = prepared.wanted
    location = prepared.settings.text("location") or prepared.location or ""
    return subject_of(session, wanted.group, wanted.names, wanted.values, wanted.deployed, location)


def subject_of(  # noqa: PLR0913, PLR0917  # each is read elsewhere
    session: Session,
    group: Group,
    names: Names,
    values: Mapping[str, Json],
    deployed: Deployed,
    location: str,
) -> Subject:
    """Return what a provision needs of Azure.

    Args:
        session: The opened stage.
        group: The resource group.
        names: The names of its resources.
        values: The effective value of every parameter.
        deployed: What is deployed now.
        location: The region of the resources; empty for that of the group.
    """
    if not location and deployed.has_group:
        location = str(as_object(session.az.find(group_show(group))).get("location") or "")
    existing = _existing_profile(values, deployed)
    profile = plan_profile(values, existing)
    kind = "" if profile.peak_gpus == 0 else profile.type
    # A new environment gets the GPU profile of the parameters, also if the app runs on another one.
    added = values["gpuProfileType"] if not deployed.environment else None if existing else kind
    return Subject(
        group=group,
        has_group=deployed.has_group,
        location=location.replace(" ", "").casefold(),
        account=names.storage_account,
        has_account=bool(find(deployed.resources, ManagedResource(ACCOUNT, names.storage_account))),
        environment=names.environment,
        has_environment=bool(deployed.environment),
        new_profile_type=str(added or ""),
        need=Need(
            profile_type=kind,
            gpus=profile.peak_gpus,
            environments=0 if deployed.environment else 1,
            is_running=_runs_on(deployed, profile.name),
        ),
        is_nfs=values["shareProtocol"] == "NFS",
    )


def _runs_on(deployed: Deployed, profile: str) -> bool:
    return str(deployed.app_properties.get("workloadProfileName")).casefold() == profile.casefold()


def _existing_profile(values: Mapping[str, Json], deployed: Deployed) -> dict[str, Json]:
    """Return the app's profile in the environment, as az shows it; empty if there is none."""
    listed = as_object(deployed.environment.get("properties")).get("workloadProfiles")
    name = str(values["workloadProfileName"]).casefold()
    for profile in as_objects(listed):
        if str(profile.get("name")).casefold() == name:
            return profile
    return {}
