"""Create a stage's Azure resources, or update them, and write their names to the configuration file.

The plan comes first: what would be created, changed and removed. Resources that are shared are only added to,
and what others have configured stays. All inputs are validated before anything is sent to Azure.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from infra.az.app import is_stopped
from infra.az.commands import group_create
from infra.config.endpoint import InferenceConfig, write_config
from infra.config.kept import write_kept
from infra.config.settings import Flags
from infra.document import as_object
from infra.errors import RemoteError, UsageError
from infra.provisioning.acceptance import subject_of_plan
from infra.provisioning.deployment import deploy, endpoint, without_revision
from infra.provisioning.prepare import PreparedProvision, prepare
from infra.resources.api_keys import parse_keys, publish_keys
from infra.resources.file_share import open_share
from infra.resources.inventory import MANAGED_TAG, record_managed
from infra.resources.preflight import check_acceptance, require_acceptance, require_account

if TYPE_CHECKING:
    from infra.provisioning.plan import ProvisionPlan
    from infra.session import Session


@dataclass(frozen=True, slots=True)
class ProvisionResult:
    """Where a stage is provisioned, and whether anything was changed.

    Attributes:
        config: The six values of the configuration file.
        plan: The plan that was performed.
        is_paused: Whether the app was paused before.
    """

    config: InferenceConfig
    plan: ProvisionPlan
    is_paused: bool = False

    @property
    def is_changed(self) -> bool:
        """Return False if all resources existed already as requested."""
        return self.plan.has_changes

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return {
            **self.config.to_values(),
            "endpoint": self.config.endpoint_url,
            "changed": self.is_changed,
            "plan": self.plan.to_json(),
        }

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        what = "provisioned" if self.is_changed else "nothing had to be changed in"
        return (
            f"{what} {self.config.resource_group_name}: app {self.config.aca_app_name}, share "
            f"{self.config.file_share_name} of {self.config.storage_account_name}\n{self.config.endpoint_url}"
        )


def plan_provision(session: Session, flags: Flags | None = None, *, is_forced: bool = False) -> ProvisionPlan:
    """Return the plan of a provision with the checks of what Azure would accept, and change nothing.

    Raises:
        UsageError: Parameters, files or flags must be corrected.
        RemoteError: Azure rejects the plan; the message has the innermost reason.
    """
    prepared = _prepare(session, flags or Flags(), is_forced=is_forced, may_register=False)
    if not prepared.plan.has_changes:
        return prepared.plan
    return replace(prepared.plan, checks=check_acceptance(session, subject_of_plan(session, prepared)))


def provision(
    session: Session,
    flags: Flags | None = None,
    *,
    is_confirmed: bool = False,
    is_forced: bool = False,
) -> ProvisionResult:
    """Provision a stage.

    Args:
        session: The opened stage.
        flags: The flags of the command line.
        is_confirmed: Perform the plan without confirmation.
        is_forced: Deploy everything again, also if nothing has to be changed.

    Raises:
        UsageError: Parameters, files or flags must be corrected, the user did not confirm, or the plan loses
            what others set and there is no terminal to ask on. Nothing was changed.
        RemoteError: Azure rejected the request, or would reject it; the message has the innermost reason.
    """
    prepared = _prepare(session, flags or Flags(), is_forced=is_forced, may_register=is_confirmed)
    for line in prepared.plan.to_text().splitlines():
        session.console.info(line)
    if prepared.plan.has_changes:
        require_acceptance(session, subject_of_plan(session, prepared), is_confirmed=is_confirmed)
        _confirm(session, prepared.plan, is_confirmed=is_confirmed)
        write_kept(session.root, session.stage.name, prepared.wanted.inputs.kept)
        config = _perform(session, prepared)
    else:
        write_kept(session.root, session.stage.name, prepared.wanted.inputs.kept)
        config = _config_of_app(session, prepared)
    write_config(session.stage.config_path, config)
    return ProvisionResult(config, prepared.plan, is_stopped(prepared.wanted.deployed.app))


def _prepare(session: Session, flags: Flags, *, is_forced: bool, may_register: bool) -> PreparedProvision:
    """Return the prepared provision. If Azure cannot be read, the checks of the account say why."""
    try:
        return prepare(session, flags, is_forced=is_forced)
    except RemoteError as error:
        if session.stage.is_local or not require_account(session, error, is_confirmed=may_register):
            raise
    return prepare(session, flags, is_forced=is_forced)


def _confirm(session: Session, plan: ProvisionPlan, *, is_confirmed: bool) -> None:
    """Ask on a terminal whether to perform the plan; without one, stop if it loses what others set.

    A local stage costs nothing, so only a loss is asked about.
    """
    if is_confirmed or (session.stage.is_local and not plan.is_destructive):
        return
    if session.console.is_interactive:
        if not session.console.confirm("Go on with this plan?"):
            raise UsageError("nothing was changed", hint="say y to go on, or add --yes")
        return
    if plan.is_destructive:
        what = "the plan resets or removes what others set, and there is no terminal to ask on"
        details = (
            *(each.to_text() for each in plan.losses),
            *(f"to keep it: {flag}" for flag in plan.keep_flags),
        )
        raise UsageError(what, details=details, hint="add --yes if this is what you want")


def _perform(session: Session, prepared: PreparedProvision) -> InferenceConfig:
    group, names = prepared.plan.group, prepared.wanted.names
    if prepared.location is not None:
        with session.console.step(f"create the resource group {group.name} in {prepared.location}"):
            session.az.run(group_create(group, prepared.location, (f"{MANAGED_TAG}={session.stage.name}",)))
    record_managed(session, group, prepared.made)
    for change in prepared.environment_changes:
        if change.command is not None:
            with session.console.step(change.text):
                session.az.run(change.command)
    revision = str(prepared.wanted.deployed.app_properties.get("latestRevisionName") or "")
    replaced = (
        without_revision(session, group, names.app, revision)
        if prepared.plan.replaces_revision and revision
        else nullcontext()
    )
    with replaced:
        path, secrets = prepared.wanted.template_path, prepared.settings.secret_values()
        config = deploy(session, group, path, prepared.parameters_text, secrets)
    _publish_keys(session, prepared, config)
    return config


def _publish_keys(session: Session, prepared: PreparedProvision, config: InferenceConfig) -> None:
    """Tell replicas that go on running that the API keys have changed."""
    before = parse_keys(prepared.wanted.deployed.api_keys)
    after = parse_keys(prepared.settings.text("apiKey") or "")
    if before and after and set(before) != set(after):
        write_config(session.stage.config_path, config)  # it says where the share is
        with session.console.step("publish the changed API keys"), open_share(session) as share:
            publish_keys(share, before, after)


def _config_of_app(session: Session, prepared: PreparedProvision) -> InferenceConfig:
    """Return the configuration of an app that exists already as planned."""
    configuration = as_object(prepared.wanted.deployed.app_properties.get("configuration"))
    host = str(as_object(configuration.get("ingress")).get("fqdn") or "")
    group, names = prepared.plan.group, prepared.wanted.names
    return InferenceConfig(
        subscription_id=group.subscription,
        resource_group_name=group.name,
        storage_account_name=names.storage_account,
        file_share_name=names.file_share,
        aca_app_name=names.app,
        aca_app_endpoint=endpoint(session, host),
    )
