"""What `invoke secret` changes in an app."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra.errors import UsageError
from infra.verbs.secret import check_action, list_secrets, remove_secret, set_secret

if TYPE_CHECKING:
    from infra.process import Command
    from infra.session import Session
    from tests.doubles.scripted_az import ScriptedAz

ENVIRONMENT = "/subscriptions/s/resourceGroups/other/providers/Microsoft.App/managedEnvironments/env"
OTHER: dict[str, Any] = {"name": "sidecar", "image": "x", "env": [{"name": "A", "value": "b"}]}


class World:
    """An app on an Azure that is a script."""

    def __init__(self, az: ScriptedAz, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patches: list[dict[str, Any]] = []
        self.effects: list[str] = []
        self.variables: list[dict[str, Any]] = [
            {"name": "FJARR_API_KEYS", "secretRef": "api-key"},
            {"name": "FJARR_LOG", "value": "json"},
        ]
        self.secrets: list[dict[str, Any]] = [{"name": "api-key", "value": "k"}]
        self.profile = "Consumption"
        az.answers |= {
            "containerapp show": lambda _: {"properties": self.properties()},
            "containerapp secret list": self.listed,
            "containerapp env show": {
                "properties": {"workloadProfiles": [{"name": "GPU", "maximumCount": 1}]}
            },
            "containerapp revision deactivate": {},
            "resource patch": self.patch,
        }
        monkeypatch.setattr("infra.verbs.secret._restart", self.restart)
        monkeypatch.setattr("infra.verbs.secret._wait", lambda *_: self.effects.append("wait"))

    def properties(self) -> dict[str, Any]:
        server = {"name": "inference", "image": "i", "env": self.variables}
        return {
            "latestRevisionName": "app--1",
            "workloadProfileName": self.profile,
            "environmentId": ENVIRONMENT,
            "template": {"containers": [server, OTHER]},
        }

    def listed(self, _: Command) -> Any:
        return self.secrets

    def patch(self, command: Command) -> dict[str, Any]:
        document = json.loads(Path(command.argv[-3].removeprefix("@")).read_text())["properties"]
        self.patches.append(document)
        self.secrets = document["configuration"]["secrets"]
        if "template" in document:
            self.variables = document["template"]["containers"][0]["env"]
        return {}

    def restart(self, *_: object) -> str:
        self.effects.append("restart")
        return "restart"


@pytest.fixture
def world(session: Session, az: ScriptedAz, monkeypatch: pytest.MonkeyPatch) -> World:
    assert (session.root / "infra/provision/inference.json").exists()
    return World(az, monkeypatch)


def test_a_new_secret_is_a_secret_and_a_variable(session: Session, az: ScriptedAz, world: World) -> None:
    change = set_secret(session, "HF_TOKEN", "hf_s3cret")
    assert change.to_json() == {"name": "HF_TOKEN", "action": "set", "effect": "new revision"}
    (patch,) = world.patches
    assert {"name": "hf-token", "value": "hf_s3cret"} in patch["configuration"]["secrets"]
    assert {"name": "api-key", "value": "k"} in patch["configuration"]["secrets"]
    server, other = patch["template"]["containers"]
    assert server["env"][-1] == {"name": "HF_TOKEN", "secretRef": "hf-token"}
    assert (server["image"], other) == ("i", OTHER)
    assert world.effects == ["wait"]
    assert not any("s3cret" in line for line in az.lines)
    assert "s3cret" not in change.to_text()
    assert list_secrets(session).names == ("HF_TOKEN",)


def test_a_new_value_makes_no_revision(session: Session, world: World) -> None:
    set_secret(session, "HF_TOKEN", "one")
    assert set_secret(session, "HF_TOKEN", "one").effect == "none"
    assert set_secret(session, "HF_TOKEN", "two").effect == "restart"
    assert len(world.patches) == 2
    assert "template" not in world.patches[1]
    assert {"name": "hf-token", "value": "two"} in world.secrets


def test_a_removed_secret_leaves_no_trace(session: Session, world: World) -> None:
    before = (list(world.variables), list(world.secrets))
    set_secret(session, "HF_TOKEN", "one")
    assert remove_secret(session, "HF_TOKEN").to_text() == (
        "removed HF_TOKEN: a new revision of the app has the change"
    )
    assert (world.variables, world.secrets) == before
    with pytest.raises(UsageError, match="there is no secret 'HF_TOKEN'"):
        remove_secret(session, "HF_TOKEN")


def test_a_secret_that_two_variables_use_stays(session: Session, world: World) -> None:
    set_secret(session, "HF_TOKEN", "one")
    world.variables.append({"name": "TOKEN", "secretRef": "hf-token"})
    remove_secret(session, "TOKEN")
    assert {"name": "hf-token", "value": "one"} in world.secrets


@pytest.mark.parametrize(("profile", "is_stopped"), [("GPU", True), ("Consumption", False), ("gone", False)])
def test_on_a_single_node_the_old_revision_ends_first(
    session: Session, az: ScriptedAz, world: World, profile: str, *, is_stopped: bool
) -> None:
    world.profile = profile
    set_secret(session, "HF_TOKEN", "one")
    words = [" ".join(line.split()[1:4]) for line in az.lines]
    assert ("containerapp revision deactivate" in words) is is_stopped
    if is_stopped:
        assert words.index("containerapp revision deactivate") < words.index("resource patch --ids")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("A B", "x", "cannot be the name of an environment variable"),
        ("", "x", "cannot be the name of an environment variable"),
        (
            "FJARR_ADMIN_KYE",
            "x",
            "the server would not start: FJARR_ADMIN_KYE is not known; did you mean FJARR_ADMIN",
        ),
        ("FJARR_MAX_WAITING", "must-be-secret", "FJARR_MAX_WAITING must be a whole number of at least 0"),
        ("FJARR_API_KEYS", "x", "is for the API keys"),
        ("API_KEY", "x", "is for the API keys"),
        ("FJARR_BASE_MODEL", "x", "the template sets FJARR_BASE_MODEL itself"),
        ("FJARR_PORT", "x", "the template sets FJARR_PORT itself"),
        ("STORAGE_KEY_DIGEST", "x", "the template sets STORAGE_KEY_DIGEST itself"),
        ("HF_TOKEN", "", "the value of HF_TOKEN is empty"),
        ("THEIR_OWN", "x", "the app has a secret 'their-own' already"),
    ],
)
def test_a_secret_that_cannot_be_set(
    session: Session, world: World, name: str, value: str, message: str
) -> None:
    world.secrets.append({"name": "their-own", "value": "x"})
    with pytest.raises(UsageError, match=message):
        set_secret(session, name, value)
    assert world.patches == []


@pytest.mark.parametrize(("action", "name"), [("get", None), ("set", None), ("list", "A"), ("ste", "A")])
def test_an_action_that_is_not_possible(action: str, name: str | None) -> None:
    with pytest.raises(UsageError, match=f"'{action}' is not possible"):
        check_action(action, name)
