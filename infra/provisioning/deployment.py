"""Deploy the template, or let Azure compute what a deployment would change."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from infra.az.commands import (
    Group,
    deployment_create,
    deployment_operations,
    deployment_what_if,
    revision_activate,
    revision_deactivate,
)
from infra.az.errors import VAGUE_CODES, AzureRejectedError, ErrorCause, innermost_cause
from infra.az.hints import hint_for
from infra.config.endpoint import KEYS, InferenceConfig
from infra.config.template import BICEP
from infra.config.templates import validate
from infra.document import Json, as_object, as_objects, object_at, private_file
from infra.errors import RemoteError
from infra.provisioning.deployed import DEPLOYMENT
from infra.resources.deployments import LeftRunningError, deployments

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from infra.session import Session


def what_if(session: Session, group: Group, template: Path, text: str, secrets: tuple[str, ...]) -> Json:
    """Return Azure's comparison of a group with a template.

    Args:
        session: The opened stage.
        group: The group, which exists.
        template: The template's file.
        text: The text of the parameters file.
        secrets: The secret values in it.

    Raises:
        RemoteError: Azure rejects the template; nothing was changed.
    """
    with _parameters_file(session.stage.state_dir, text) as file:
        try:
            return session.az.run(deployment_what_if(group, DEPLOYMENT, template, file, secrets))
        except AzureRejectedError as error:
            what = f"deployment {DEPLOYMENT!r} failed: {error.cause}"
            hint = hint_for(error.cause.code, error.cause.message, error.command) or "nothing was changed"
            raise RemoteError(what, command=error.command, hint=hint) from error


def deploy(
    session: Session, group: Group, template: Path, text: str, secrets: tuple[str, ...]
) -> InferenceConfig:
    """Deploy a template and return the configuration from its outputs. The arguments are those of `what_if`.

    Raises:
        RemoteError: Azure rejected the deployment or it failed, with the innermost reason.
    """
    with _parameters_file(session.stage.state_dir, text) as file:
        command = deployment_create(group, DEPLOYMENT, template, file, secrets=secrets)
        try:
            answer = deployments(session, group, DEPLOYMENT).run(
                command, f"deploy {template.name} to {group.name}"
            )
        except AzureRejectedError as error:
            raise _innermost_error(session, group, error) from error
    return _config_of_outputs(session, answer)


@contextmanager
def without_revision(session: Session, group: Group, app: str, revision: str) -> Iterator[None]:
    """Stop a revision while the body deploys its successor, which needs its place; restart it on failure."""
    with session.console.step(f"stop the revision {revision}, in whose place the new one runs") as step:
        try:
            session.az.run(revision_deactivate(group, app, revision))
        except AzureRejectedError as error:
            # Then the new revision waits until Azure ends the old one, as it does without this.
            step.finish(f"Azure did not stop it: {error.cause}")
            yield
            return
    try:
        yield
    except LeftRunningError:
        raise  # Azure goes on, and the new revision needs the place
    except BaseException:
        with session.console.step(f"start the revision {revision} again"):
            session.az.run(revision_activate(group, app, revision))
        raise


def _parameters_file(folder: Path, text: str) -> AbstractContextManager[Path]:
    """Write the parameters, which include secrets, to a private file while az needs it."""
    return private_file(folder / "inference.parameters.json", text)


def _config_of_outputs(session: Session, answer: Json) -> InferenceConfig:
    """Return the configuration from a deployment's outputs. Azure may change the case of their names."""
    outputs = object_at(answer, "properties", "outputs")
    values = {name.upper(): str(as_object(output).get("value") or "") for name, output in outputs.items()}
    missing = [key for key in KEYS if not values.get(key)]
    if missing:
        what = f"deployment {DEPLOYMENT!r} did not return {', '.join(missing)}"
        raise RemoteError(what, hint=f"see {BICEP}")
    values["ACA_APP_ENDPOINT"] = endpoint(session, values["ACA_APP_ENDPOINT"])
    document: dict[str, Json] = {key: values[key] for key in KEYS}
    wrong = validate("inference.config", document)
    if wrong:
        raise RemoteError(f"deployment {DEPLOYMENT!r} returned a wrong value", details=tuple(map(str, wrong)))
    return InferenceConfig.from_values(values)


def endpoint(session: Session, host: str) -> str:
    """Return the endpoint for the configuration file: a bare host, or an http URL if there is no TLS."""
    return f"http://{host}" if session.stage.is_local else host


def _innermost_error(session: Session, group: Group, error: AzureRejectedError) -> RemoteError:
    """Return the error of a failed deployment with the innermost reason that Azure gives."""
    cause = error.cause
    if cause.code in VAGUE_CODES:
        cause = _failed_operation(session, group) or cause
    what = f"deployment {DEPLOYMENT!r} failed: {cause}"
    return RemoteError(what, command=error.command, hint=hint_for(cause.code, cause.message, error.command))


def _failed_operation(session: Session, group: Group) -> ErrorCause | None:
    try:
        operations = session.az.run(deployment_operations(group, DEPLOYMENT))
    except RemoteError:
        return None  # the deployment may not have been accepted; then the first error has all details
    for operation in as_objects(operations):
        properties = object_at(operation, "properties")
        found = innermost_cause(properties.get("statusMessage"))
        if properties.get("provisioningState") == "Failed" and found is not None:
            target = as_object(properties.get("targetResource")).get("resourceName")
            return ErrorCause(found.code, f"{found.message} (resource {target})" if target else found.message)
    return None
