"""Prepare a provision: read the inputs, look at what is deployed, and compute the plan. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from infra.az.commands import bicep_build
from infra.config.inputs import read_inputs
from infra.config.kept import current_values, kept_name
from infra.config.parameters import DIGEST_TAG, digest, render_parameters
from infra.config.template import BICEP, COMPILED, is_edited
from infra.document import Json, as_object, as_objects, object_at
from infra.errors import RemoteError, UsageError
from infra.provisioning.changes import APP_KIND, ResourceChange
from infra.provisioning.comparison import Wanted, compare
from infra.provisioning.deployed import DEPLOYMENT, Deployed, read_deployed
from infra.provisioning.network import check_network
from infra.provisioning.plan import ProvisionPlan
from infra.provisioning.profile import ProfilePlan, plan_profile
from infra.provisioning.unmanaged import Unmanaged, find_unmanaged
from infra.resources.api_keys import merge_keys, new_key
from infra.resources.container_apps_environment import (
    Change,
    profile_changes,
    replaces_revision,
    requested_profile,
)
from infra.resources.deployments import deployments
from infra.resources.inventory import (
    ACCOUNT,
    ENVIRONMENT,
    MANAGED_TAG,
    ManagedResource,
    find,
    format_tag,
    planned_resources,
    read_managed,
)
from infra.resources.target import find_group

if TYPE_CHECKING:
    from pathlib import Path

    from infra.az.commands import Group
    from infra.az.names import Names
    from infra.config.settings import Flags, Settings
    from infra.session import Session

_SOURCE: Final = "provision itself"
_DEDICATED_GPU: Final = (
    "Azure documents that a dedicated GPU profile can be added only to a new environment; if it refuses this"
    " one, choose a serverless gpu (t4, a100) or a new acaEnvironmentName"
)
"""Source: Azure Container Apps documentation, "Workload profiles overview"."""


@dataclass(frozen=True, slots=True)
class PreparedProvision:
    """A plan, with everything that is needed to perform it.

    Attributes:
        plan: The plan.
        wanted: What is to be deployed, and where.
        settings: The parameters to deploy, with secrets.
        environment_changes: The changes of the environment that az commands make before the deployment.
        made: The resources that provision has created, or is about to create.
        location: The region to create the group in; None if the group exists.
    """

    plan: ProvisionPlan
    wanted: Wanted
    settings: Settings
    environment_changes: tuple[Change, ...]
    made: tuple[ManagedResource, ...]
    location: str | None = None

    @property
    def parameters_text(self) -> str:
        """Return the text of the parameters file. Secret."""
        return render_parameters(self.settings, self.wanted.inputs.template)


def prepare(session: Session, flags: Flags, *, is_forced: bool = False) -> PreparedProvision:
    """Compute the plan of a provision.

    Args:
        session: The opened stage.
        flags: The flags of the command line.
        is_forced: Deploy everything again, also if nothing has to be changed.

    Raises:
        UsageError: Parameters, files or flags must be corrected. All mistakes are reported, and nothing was
            sent to Azure.
        RemoteError: Azure rejects the plan, or a deployment that was still running has failed; the message
            has the innermost reason.
    """
    path, errors = _template_path(session)
    inputs = read_inputs(session.root, session.stage, flags, path, errors)
    session = replace(session, stage=inputs.stage)
    group = find_group(session, flags, inputs.handover)
    asked = inputs.settings(group)
    names = asked.names(group)
    deployed = _read_deployed(session, group, names)
    with session.console.step(f"compare {group.name} with the template") as step:
        wanted = Wanted(group, names, inputs, asked, path, deployed)
        check_network(wanted.values, deployed.environment)
        before = read_managed(session, group, deployed.app, deployed.resources, names)
        absent = (each for each in planned_resources(names) if not find(deployed.resources, each))
        made = (*before, *(each for each in absent if each not in before))
        fingerprint = digest(asked, inputs.template, (path.read_bytes(),))
        unmanaged = _unmanaged(wanted)
        settings = _complete(wanted, unmanaged, {DIGEST_TAG: fingerprint, MANAGED_TAG: format_tag(made)})
        is_managed = ManagedResource(ENVIRONMENT, names.environment) in before
        environment_changes = _environment_changes(wanted, is_managed=is_managed)
        is_unchanged = as_object(deployed.app.get("tags")).get(DIGEST_TAG) == fingerprint
        changes = compare(session, wanted, settings, environment_changes, is_unchanged=is_unchanged)
        step.finish("nothing to change" if not changes else f"{len(changes)} to change")
    location = None if deployed.has_group else _location(session, wanted, flags)
    profile = _profile(wanted)
    adds = any(change.command is not None and change.before is None for change in environment_changes)
    plan = ProvisionPlan(
        stage=session.stage.name,
        group=group,
        changes=changes,
        profile=profile,
        kept_before=tuple((kept_name(at), value) for at, value in current_values(inputs.stage).items()),
        kept=inputs.kept,
        unmanaged=unmanaged.names,
        hidden=tuple(each for each in asked.hidden if not each.by.source.startswith("--")),
        warnings=(
            *inputs.notes,
            *(change.text for change in environment_changes if change.command is None),
            *([_DEDICATED_GPU] if adds and not profile.is_serverless else []),
        ),
        secrets=inputs.template.secrets,
        replaces_revision=_replaces_revision(changes, deployed, profile),
        repairs=_repairs(changes, deployed),
        is_forced=is_forced,
    )
    return PreparedProvision(plan, wanted, settings, environment_changes, made, location)


def _read_deployed(session: Session, group: Group, names: Names) -> Deployed:
    """Return what is deployed, once a deployment that is still running has ended."""
    with session.console.step(f"read what is deployed in {group.name}"):
        deployed = read_deployed(session, group, names)
    if not deployed.is_deploying:
        return deployed
    deployments(session, group, DEPLOYMENT).follow()
    with session.console.step(f"read what is deployed in {group.name}"):
        return read_deployed(session, group, names)


def _repairs(changes: tuple[ResourceChange, ...], deployed: Deployed) -> tuple[str, ...]:
    """Say what has come apart: after a deployment, nothing has to be created unless it was deleted."""
    repairs = []
    if deployed.key_state == "rotated":
        repairs.append("the storage account's key was rotated, and the share is mounted with the old one")
    if deployed.app:
        repairs += [f"the {each.kind} {each.name} is gone" for each in changes if each.action == "create"]
    return tuple(repairs)


def _location(session: Session, wanted: Wanted, flags: Flags) -> str:
    """Return the region to create the group in. Asks for it on a terminal."""
    location = flags.location or session.stage.location or wanted.asked.text("location")
    name = wanted.group.name
    if location is None and session.console.is_interactive:
        location = session.console.choose(f"Which region should the new group {name} be in?", ())
    if not location:
        what = f"the resource group {name!r} does not exist, and no region is given to create it in"
        raise UsageError(what, hint="add --location, such as --location swedencentral")
    return location


def _template_path(session: Session) -> tuple[Path, list[UsageError]]:
    """Return the compiled template to deploy, and why it cannot be; if the source was edited, compile it."""
    committed = session.root / COMPILED
    if not is_edited(session.root):
        return committed, []
    if not session.has_bicep:
        what = f"{BICEP} was edited since {COMPILED.name} was compiled from it, and there is no Bicep CLI"
        hint = f"az bicep install, or put the original back: git checkout {BICEP}"
        return committed, [UsageError(what, hint=hint)]
    compiled = session.stage.state_dir / COMPILED.name
    compiled.parent.mkdir(parents=True, exist_ok=True)
    with session.console.step(f"compile {BICEP.name}, which was edited"):
        try:
            session.az.run(bicep_build(session.root / BICEP, compiled))
        except RemoteError as error:
            details = error.details or (error.message,)
            return committed, [UsageError(f"{BICEP} cannot be compiled", details=details)]
    return compiled, []


def _unmanaged(wanted: Wanted) -> Unmanaged:
    deployed = wanted.deployed
    if not deployed.app:
        return Unmanaged()
    last = deployed.last_parameters or {}
    values = wanted.asked.to_values()
    return find_unmanaged(deployed.app, deployed.secrets, last, values, wanted.inputs.template)


def _complete(wanted: Wanted, unmanaged: Unmanaged, own_tags: dict[str, Json]) -> Settings:
    """Return the parameters to deploy: those of the user, and what provision itself adds."""
    settings, deployed = wanted.asked, wanted.deployed
    there = _region(deployed.environment.get("location"))
    if there and settings.find("location") is None:
        settings = settings.with_value("location", there, "the environment's location")
    account = find(deployed.resources, ManagedResource(ACCOUNT, wanted.names.storage_account))
    users = settings.find("tags")
    tags = {**as_object(account.get("tags")), **as_object(users.value if users else None), **own_tags}
    settings = settings.with_value("tags", tags, settings.source("tags"))
    settings = settings.with_value("environmentExists", bool(deployed.environment), _SOURCE)
    settings = settings.with_value("apiKey", _api_key(wanted), _SOURCE)
    settings = settings.with_value("unmanaged", unmanaged.parts, _SOURCE)
    return settings.with_value("unmanagedSecrets", unmanaged.secrets, _SOURCE)


def _api_key(wanted: Wanted) -> str:
    """Return the user's keys and those that the app has, else a new one; none if none is required."""
    variables = wanted.asked.find("environmentVariables")
    if variables is not None and as_object(variables.value).get("FJARR_AUTH") == "off":
        return ""
    if wanted.asked.text("apiKeyVaultUrl"):
        return ""
    known = wanted.deployed.api_keys
    asked = wanted.asked.text("apiKey")
    return (merge_keys(known, asked) if asked else known) or new_key()


def _environment_changes(wanted: Wanted, *, is_managed: bool) -> tuple[Change, ...]:
    environment = wanted.deployed.environment
    if not environment:
        return ()
    requested = requested_profile(wanted.values, wanted.asked)
    return profile_changes(wanted.group, environment, requested, is_managed=is_managed)


def _profile(wanted: Wanted) -> ProfilePlan:
    values = wanted.values
    profiles = as_objects(object_at(wanted.deployed.environment, "properties").get("workloadProfiles"))
    name = str(values["workloadProfileName"]).casefold()
    existing = next((each for each in profiles if str(each.get("name")).casefold() == name), {})
    return plan_profile(values, existing)


def _replaces_revision(changes: tuple[ResourceChange, ...], deployed: Deployed, profile: ProfilePlan) -> bool:
    """Tell whether a new revision is made that does not fit beside the one that runs."""
    properties = [each for change in changes if change.kind == APP_KIND for each in change.properties]
    is_new = bool(deployed.app) and any(each.path.startswith("template.") for each in properties)
    app = deployed.app_properties
    return is_new and replaces_revision(app, profile.name, profile.max_nodes, profile.min_replicas)


def _region(name: Json) -> str:
    """Return a region's name as commands take it: `Sweden Central` is `swedencentral`."""
    return str(name or "").replace(" ", "").casefold()
