"""Keep secrets for the server, such as `HF_TOKEN`: as secrets of the container app.

Each is a secret of the app, which Azure stores encrypted, and an environment variable of the server that
refers to it. Values come from a prompt or from standard input, and no verb prints them.
"""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from getpass import getpass
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from infra.az.commands import Group, app_show, environment_show
from infra.az.limits import CONSUMPTION
from infra.config.template import COMPILED, CONTAINER, read_template
from infra.config.variables import RESERVED, setting_problem
from infra.deploy_context import open_deploy_context
from infra.document import Json, as_object
from infra.errors import UsageError
from infra.provisioning.deployment import without_revision
from infra.provisioning.unmanaged import KEYS_VARIABLE
from infra.release.releases import read_live
from infra.release.takeovers.outcome import NotServed, failure
from infra.resources.api_keys import SECRET_NAME
from infra.resources.app_secrets import read_secrets, write_secrets
from infra.resources.container_apps_environment import least_replicas, profile_max_nodes, replaces_revision
from infra.resources.mount_key import DIGEST_VARIABLE
from infra.wording import did_you_mean

if TYPE_CHECKING:
    from infra.config.template import Template
    from infra.session import Session

Action = Literal["set", "list", "remove"]
Effect = Literal["new revision", "restart", "with the next deploy", "none"]

_ACTIONS: Final = ("set", "list", "remove")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class SecretNames:
    """The secrets of an app by the name of their variable, without their values."""

    names: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return {"names": list(self.names)}

    def to_text(self) -> str:
        """Return a line for each name."""
        return "\n".join(self.names) or "there are no secrets"


@dataclass(frozen=True, slots=True)
class SecretChange:
    """A secret that was set or removed.

    Attributes:
        name: The name of the variable.
        action: What was done.
        effect: How the server got the change.
    """

    name: str
    action: Literal["set", "remove"]
    effect: Effect

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the line to print without `--json`."""
        what = {"set": "set", "remove": "removed"}[self.action]
        how = {
            "new revision": "a new revision of the app has the change",
            "restart": "the server was restarted with it",
            "with the next deploy": "the server gets it with the next deploy",
            "none": "nothing had to be changed",
        }
        return f"{what} {self.name}: {how[self.effect]}"


@dataclass(frozen=True, slots=True)
class _App:
    """An app with its secrets.

    Attributes:
        properties: Its properties as az shows them.
        secrets: Its secrets by name. Secret.
    """

    group: Group
    name: str
    properties: dict[str, Json]
    secrets: dict[str, dict[str, Json]]

    @property
    def containers(self) -> list[Any]:
        """Return its containers; the changed ones are sent back as a whole."""
        containers = as_object(self.properties.get("template")).get("containers")
        return containers if isinstance(containers, list) else []

    @property
    def variables(self) -> list[Any]:
        """Return the environment variables of the server's container."""
        server: dict[str, Any] = next((each for each in self.containers if each.get("name") == CONTAINER), {})
        return list(server.get("env") or [])

    def with_variables(self, variables: list[Any]) -> dict[str, Json]:
        """Return the part of the template with these variables."""
        return {
            "containers": [
                {**each, "env": variables} if each.get("name") == CONTAINER else each
                for each in self.containers
            ]
        }


def check_action(action: str, name: str | None) -> Action:
    """Return the action that the verb's arguments ask for.

    Raises:
        UsageError: There is no such action.
    """
    if action not in _ACTIONS or (name is None) != (action == "list"):
        raise UsageError(
            f"{action!r} is not possible{did_you_mean(action, _ACTIONS)}",
            hint="invoke secret set NAME, invoke secret remove NAME, or invoke secret list",
        )
    return cast("Action", action)


def list_secrets(session: Session) -> SecretNames:
    """Return the secrets of a stage's app.

    Raises:
        UsageError: The stage is not provisioned.
        RemoteError: Azure rejects a request.
    """
    return SecretNames(tuple(sorted(_references(_read_app(session)))))


def set_secret(session: Session, name: str, value: str, timeout_s: float | None = None) -> SecretChange:
    """Set a secret, and give it to the server.

    Args:
        session: The opened stage.
        name: The name of the environment variable.
        value: Its value.
        timeout_s: How long to wait for a live release; None for the default of the stage's cloud.

    Raises:
        UsageError: The name or the value cannot be used. Nothing was changed.
        RemoteError: Azure rejects a request, or the live release does not start with the secret.
    """
    _check_name(name, read_template(session.root / COMPILED))
    if not value:
        raise UsageError(f"the value of {name} is empty", hint=f"invoke secret remove {name} removes it")
    problem = setting_problem(name, value)
    if problem:
        raise UsageError(f"the server would not start: {name} {problem}")
    app = _read_app(session)
    secret = _secret_name(name)
    if app.secrets.get(secret) == {"value": value} and _references(app).get(name) == secret:
        return SecretChange(name, "set", "none")
    if secret in app.secrets and _references(app).get(name) != secret:
        what = f"the app has a secret {secret!r} already, which is not for the variable {name}"
        raise UsageError(what, hint="choose another name, or remove it with az containerapp secret remove")
    app.secrets[secret] = {"value": value}
    if _references(app).get(name) == secret:
        with session.console.step(f"set the secret {name}"):
            write_secrets(session, app.group, app.name, app.secrets)
        return SecretChange(name, "set", _restart(session, timeout_s))
    others = [each for each in app.variables if each.get("name") != name]
    template = app.with_variables([*others, {"name": name, "secretRef": secret}])
    return SecretChange(
        name, "set", _write_revision(session, app, template, f"set the secret {name}", timeout_s)
    )


def remove_secret(session: Session, name: str, timeout_s: float | None = None) -> SecretChange:
    """Remove a secret and its variable. The arguments are those of `set_secret`.

    Raises:
        UsageError: There is no such secret.
        RemoteError: Azure rejects a request, or the live release does not start without the secret.
    """
    app = _read_app(session)
    references = _references(app)
    if name not in references:
        what = f"there is no secret {name!r}{did_you_mean(name, references)}"
        raise UsageError(what, hint="invoke secret list prints the names")
    secret = references.pop(name)
    if secret not in references.values():
        del app.secrets[secret]
    template = app.with_variables([each for each in app.variables if each.get("name") != name])
    step = f"remove the secret {name}"
    return SecretChange(name, "remove", _write_revision(session, app, template, step, timeout_s))


def ask_for_value(name: str) -> str:
    """Read a value: from a prompt that does not show it on a terminal, else the whole of standard input."""
    if sys.stdin.isatty():
        return getpass(f"{name}: ")
    return sys.stdin.read().rstrip("\r\n")


def _read_app(session: Session) -> _App:
    config, group = session.config(), session.group()
    session.require_cloud()
    properties = as_object(as_object(session.az.run(app_show(group, config.aca_app_name))).get("properties"))
    secrets = read_secrets(session.az, group, config.aca_app_name)
    return _App(group, config.aca_app_name, properties, secrets)


def _check_name(name: str, template: Template) -> None:
    if not _VARIABLE.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of an environment variable",
            hint="use letters, digits and underscores, and begin with a letter, such as HF_TOKEN",
        )
    if name == KEYS_VARIABLE or _secret_name(name) == SECRET_NAME:
        raise UsageError(f"{name} is for the API keys", hint="invoke key --add NAME makes a further one")
    if name in {*template.own_variables, *RESERVED, DIGEST_VARIABLE}:
        raise UsageError(f"the template sets {name} itself, so it cannot be a secret")


def _secret_name(variable: str) -> str:
    """Return the name of the secret for a variable: Azure takes lower-case letters, digits and hyphens."""
    return variable.lower().replace("_", "-").strip("-")


def _references(app: _App) -> dict[str, str]:
    """Return the secrets of the server's variables, but for those that are not for users."""
    pairs = {str(each.get("name")): str(each.get("secretRef") or "") for each in app.variables}
    return {name: secret for name, secret in pairs.items() if secret and name != KEYS_VARIABLE}


def _write_revision(
    session: Session, app: _App, template: dict[str, Json], step: str, timeout_s: float | None
) -> Effect:
    """Write secrets and template, which makes a revision, and wait until a live release serves from it."""
    revision = str(app.properties.get("latestRevisionName") or "")
    replaced = (
        without_revision(session, app.group, app.name, revision)
        if revision and _replaces_revision(session, app)
        else nullcontext()
    )
    with replaced, session.console.step(step):
        write_secrets(session, app.group, app.name, app.secrets, template)
    _wait(session, timeout_s)
    return "new revision"


def _wait(session: Session, timeout_s: float | None) -> None:
    with open_deploy_context(session, timeout_s) as context:
        live = read_live(context.share).current
        outcome = None if live is None else context.rollout(None).wait(live)
        if isinstance(outcome, NotServed):
            raise failure(outcome, str(live), "the secret is changed; invoke logs shows the server's log")


def _restart(session: Session, timeout_s: float | None) -> Effect:
    with open_deploy_context(session, timeout_s) as context:
        live = read_live(context.share).current
        if live is None:
            return "with the next deploy"
        with context.lock.hold("secret") as held:
            outcome = context.rollout(held).restart(live)
        if isinstance(outcome, NotServed):
            raise failure(outcome, live, "the secret is set; invoke logs shows the server's log")
    return "restart"


def _replaces_revision(session: Session, app: _App) -> bool:
    name = str(app.properties.get("workloadProfileName") or CONSUMPTION)
    if name == CONSUMPTION:
        return False
    parts = str(app.properties.get("environmentId") or app.properties.get("managedEnvironmentId")).split("/")
    environment = as_object(session.az.find(environment_show(Group(parts[2], parts[4]), parts[-1])))
    nodes = profile_max_nodes(environment, name)
    return replaces_revision(app.properties, name, nodes, least_replicas(app.properties))
