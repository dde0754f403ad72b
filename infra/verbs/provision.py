"""Create a stage's Azure resources, or update them, and write their names to the configuration file.

Shared resources that exist are only added to: an environment that the fine-tuning step created keeps its
profiles, its workspace and its settings. All parameters are validated here before anything is sent to Azure.
A second run that would change nothing detects that with a single request.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.az.commands import (
    Group,
    app_show,
    deployment_create,
    deployment_operations,
    environment_show,
    group_create,
    group_show,
)
from infra.az.errors import VAGUE_CODES, AzureRejectedError, ErrorCause, innermost_cause
from infra.az.hints import hint_for
from infra.config.endpoint import KEYS, InferenceConfig, write_config
from infra.config.parameters import (
    BICEP,
    COMPILED,
    DIGEST_TAG,
    Template,
    digest,
    effective_values,
    read_template,
    render_parameters,
)
from infra.config.settings import (
    Flags,
    Settings,
    from_flags,
    from_stage,
    merge,
    read_handover,
    read_user_parameters,
)
from infra.config.templates import validate
from infra.document import Json, as_object, write_atomic
from infra.errors import RemoteError, UsageError
from infra.resources.api_keys import has_secret, new_key, read_secret
from infra.resources.container_apps_environment import profile_changes, requested_profile
from infra.resources.inventory import (
    ACCOUNT,
    ENVIRONMENT,
    MANAGED_TAG,
    ManagedResource,
    find,
    format_tag,
    list_resources,
    planned_resources,
    read_managed,
    record_managed,
)
from infra.resources.target import find_group

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from infra.az.names import Names
    from infra.session import Session

DEPLOYMENT: Final = "inference"
_SOURCE: Final = "provision itself"


@dataclass(frozen=True, slots=True)
class ProvisionResult:
    """Where a stage is provisioned, and whether anything was changed.

    Attributes:
        config: The six values of the configuration file.
        is_changed: False if all resources existed already as requested.
    """

    config: InferenceConfig
    is_changed: bool

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return {**self.config.to_values(), "endpoint": self.config.endpoint_url, "changed": self.is_changed}

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        what = "provisioned" if self.is_changed else "nothing had to be changed in"
        return (
            f"{what} {self.config.resource_group_name}: app {self.config.aca_app_name}, share "
            f"{self.config.file_share_name} of {self.config.storage_account_name}\n{self.config.endpoint_url}"
        )


@dataclass(frozen=True, slots=True)
class _Plan:
    """Everything that is known before the first request for a resource."""

    group: Group
    names: Names
    settings: Settings
    template: Template
    digest: str


def provision(session: Session, flags: Flags | None = None) -> ProvisionResult:
    """Provision a stage.

    Args:
        session: The opened stage.
        flags: The flags of the command line.

    Raises:
        UsageError: A parameter, a file or a flag must be corrected; nothing was sent to Azure.
        RemoteError: Azure rejected the request; the message has the innermost reason.
    """
    flags = flags or Flags()
    plan = _plan(session, flags)
    with session.console.step(f"look for {plan.names.app} in {plan.group.name}") as step:
        app = as_object(session.az.find(app_show(plan.group, plan.names.app)))
        is_current = _is_current(app, plan.digest)
        step.finish("nothing to change" if is_current else "to be updated" if app else "not there yet")
    if not is_current:
        location = _ensure_group(session, plan, flags)
        settings = _reconcile(session, plan, app, location)
        config = _deploy(session, plan, settings)
    else:
        config = _config_of_app(session, plan, app)
    write_config(session.stage.config_path, config)
    return ProvisionResult(config, is_changed=not is_current)


def _plan(session: Session, flags: Flags) -> _Plan:
    """Merge the parameters and validate everything that can be validated on this machine."""
    root, stage = session.root, session.stage
    handover = read_handover(root)
    template = read_template(root / COMPILED)
    layers = [read_user_parameters(root), from_stage(stage), from_flags(flags, template.texts)]
    # Mistakes in the parameters are reported before the user is asked for a group.
    merge(layers, template.names)
    group = find_group(session, flags, handover)
    settings = merge([handover.values_for(group), *layers], template.names)
    render_parameters(settings, template)
    sources = tuple((root / path).read_bytes() for path in (BICEP, COMPILED) if (root / path).exists())
    return _Plan(group, settings.names(group), settings, template, digest(settings, template, sources))


def _is_current(app: Mapping[str, Json], wanted: str) -> bool:
    state = as_object(app.get("properties")).get("provisioningState")
    return as_object(app.get("tags")).get(DIGEST_TAG) == wanted and state == "Succeeded"


def _config_of_app(session: Session, plan: _Plan, app: Mapping[str, Json]) -> InferenceConfig:
    configuration = as_object(as_object(app.get("properties")).get("configuration"))
    host = str(as_object(configuration.get("ingress")).get("fqdn") or "")
    return InferenceConfig(
        subscription_id=plan.group.subscription,
        resource_group_name=plan.group.name,
        storage_account_name=plan.names.storage_account,
        file_share_name=plan.names.file_share,
        aca_app_name=plan.names.app,
        aca_app_endpoint=_endpoint(session, host),
    )


def _ensure_group(session: Session, plan: _Plan, flags: Flags) -> str:
    """Return the group's location, after creating the group if it is missing."""
    group = as_object(session.az.find(group_show(plan.group)))
    if group:
        return str(group.get("location"))
    location = flags.location or session.stage.location or plan.settings.text("location")
    if location is None and session.console.is_interactive:
        question = f"Which region should the new group {plan.group.name} be in?"
        location = session.console.choose(question, ())
    if not location:
        group_name = plan.group.name
        what = f"the resource group {group_name!r} does not exist, and no region is given to create it in"
        raise UsageError(what, hint="add --location, such as --location swedencentral")
    with session.console.step(f"create the resource group {plan.group.name} in {location}"):
        session.az.run(group_create(plan.group, location, (f"{MANAGED_TAG}={session.stage.name}",)))
    return location


def _reconcile(session: Session, plan: _Plan, app: Mapping[str, Json], location: str) -> Settings:
    """Return the settings adapted to the group's resources, after adding profiles to its environment."""
    with session.console.step("list the existing resources"):
        resources = list_resources(session, plan.group)
        environment = as_object(session.az.find(environment_show(plan.group, plan.names.environment)))
    before = read_managed(session, plan.group, app)
    absent = (each for each in planned_resources(plan.names) if not find(resources, each))
    made = (*before, *(each for each in absent if each not in before))
    settings = plan.settings
    if environment:
        is_managed = ManagedResource(ENVIRONMENT, plan.names.environment) in before
        _extend_environment(session, plan, environment, is_managed=is_managed)
        there = _region(environment.get("location"))
        if settings.find("location") is None and there not in {"", _region(location)}:
            settings = settings.with_value("location", there, "the environment's location")
    record_managed(session, plan.group, made)
    account = find(resources, ManagedResource(ACCOUNT, plan.names.storage_account))
    settings = settings.with_value("environmentExists", bool(environment), _SOURCE)
    settings = settings.with_value("apiKey", _api_key(session, plan, app), _SOURCE)
    return settings.with_value("tags", _tags(plan, account, made), settings.source("tags"))


def _extend_environment(
    session: Session, plan: _Plan, environment: Mapping[str, Json], *, is_managed: bool
) -> None:
    given = {setting.name: setting.value for setting in plan.settings.values}
    values = effective_values(given, plan.template)
    requested = requested_profile(values, plan.settings)
    for change in profile_changes(plan.group, environment, requested, is_managed=is_managed):
        if change.command is None:
            session.console.warn(change.text)
            continue
        with session.console.step(change.text):
            session.az.run(change.command)


def _tags(plan: _Plan, account: Mapping[str, Json], made: tuple[ManagedResource, ...]) -> dict[str, Json]:
    """Return the tags to deploy: the storage account's own, the user's, and the two of provision."""
    setting = plan.settings.find("tags")
    users = as_object(setting.value) if setting else {}
    return {**as_object(account.get("tags")), **users, DIGEST_TAG: plan.digest, MANAGED_TAG: format_tag(made)}


def _api_key(session: Session, plan: _Plan, app: Mapping[str, Json]) -> str:
    """Return the keys that the app has, else a new one; none if the server requires none."""
    variables = plan.settings.find("environmentVariables")
    if variables is not None and as_object(variables.value).get("FJARR_AUTH") == "off":
        return ""
    return (read_secret(session, plan.group, plan.names.app) if has_secret(app) else "") or new_key()


def _deploy(session: Session, plan: _Plan, settings: Settings) -> InferenceConfig:
    text = render_parameters(settings, plan.template)
    template = session.root / (BICEP if session.has_bicep else COMPILED)
    key = settings.text("apiKey") or ""
    with (
        session.console.step(f"deploy {template.name} to {plan.group.name}"),
        _parameters_file(session.stage.state_dir, text) as file,
    ):
        try:
            answer = session.az.run(deployment_create(plan.group, DEPLOYMENT, template, file, secrets=(key,)))
        except AzureRejectedError as error:
            raise _innermost_error(session, plan, error) from error
    return _config_of_outputs(session, answer)


@contextmanager
def _parameters_file(folder: Path, text: str) -> Iterator[Path]:
    """Write the parameters, which include the API key, to a private file while az needs it."""
    path = folder / "inference.parameters.json"
    write_atomic(path, text, mode=0o600)
    try:
        yield path
    finally:
        path.unlink()


def _config_of_outputs(session: Session, answer: Json) -> InferenceConfig:
    """Return the configuration from a deployment's outputs. Azure may change the case of their names."""
    outputs = as_object(as_object(as_object(answer).get("properties")).get("outputs"))
    values = {name.upper(): str(as_object(output).get("value") or "") for name, output in outputs.items()}
    missing = [key for key in KEYS if not values.get(key)]
    if missing:
        what = f"deployment {DEPLOYMENT!r} did not return {', '.join(missing)}"
        raise RemoteError(what, hint=f"see {BICEP}")
    values["ACA_APP_ENDPOINT"] = _endpoint(session, values["ACA_APP_ENDPOINT"])
    document: dict[str, Json] = {key: values[key] for key in KEYS}
    wrong = validate("inference.config", document)
    if wrong:
        raise RemoteError(f"deployment {DEPLOYMENT!r} returned a wrong value", details=tuple(map(str, wrong)))
    return InferenceConfig.from_values(values)


def _endpoint(session: Session, host: str) -> str:
    """Return the endpoint for the configuration file: a bare host, or an http URL if there is no TLS."""
    return f"http://{host}" if session.stage.is_local else host


def _innermost_error(session: Session, plan: _Plan, error: AzureRejectedError) -> RemoteError:
    """Return the error of a failed deployment with the innermost reason that Azure gives."""
    cause = error.cause
    if cause.code in VAGUE_CODES:
        cause = _failed_operation(session, plan) or cause
    what = f"deployment {DEPLOYMENT!r} failed: {cause}"
    return RemoteError(what, command=error.command, hint=hint_for(cause.code, cause.message, error.command))


def _failed_operation(session: Session, plan: _Plan) -> ErrorCause | None:
    try:
        operations = session.az.run(deployment_operations(plan.group, DEPLOYMENT))
    except RemoteError:
        return None  # the deployment may not have been accepted; then the first error has all details
    for operation in operations if isinstance(operations, list) else []:
        properties = as_object(as_object(operation).get("properties"))
        found = innermost_cause(properties.get("statusMessage"))
        if properties.get("provisioningState") == "Failed" and found is not None:
            target = as_object(properties.get("targetResource")).get("resourceName")
            return ErrorCause(found.code, f"{found.message} (resource {target})" if target else found.message)
    return None


def _region(name: Json) -> str:
    """Return a region's name as commands take it: `Sweden Central` is `swedencentral`."""
    return str(name or "").replace(" ", "").casefold()
