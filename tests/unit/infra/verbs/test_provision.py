"""Provisioning, by what it asks az for: whole command lines, in order, and what is written down."""

from __future__ import annotations

import io
import json
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra.az.commands import Group
from infra.az.errors import AzureRejectedError, ErrorCause, NotFoundError
from infra.az.names import Names, unique_string
from infra.config.endpoint import read_config
from infra.config.settings import Flags, Handover, Settings
from infra.config.stage import load_stage
from infra.console import Console
from infra.errors import RemoteError, UsageError
from infra.resources.container_apps_environment import RequestedProfile, profile_changes
from infra.resources.inventory import format_tag, parse_tag, planned_resources
from infra.resources.target import find_group
from infra.session import Session
from infra.verbs.provision import plan_provision, provision
from tests.doubles.accepting_azure import ACCEPTING, REGISTERED
from tests.doubles.scripted_az import ScriptedAz

if TYPE_CHECKING:
    from collections.abc import Sequence

    from infra.process import Command

REPOSITORY = Path(__file__).resolve().parents[4]
SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
GROUP = Group(SUBSCRIPTION, "my-rg")
NAMES = Settings().names(GROUP)
IN_GROUP = f"--resource-group my-rg --subscription {SUBSCRIPTION}"
GONE = NotFoundError("the resource does not exist", ErrorCause("ResourceNotFound", "no"))
APP_ID = f"{GROUP.id}/providers/Microsoft.App/containerApps/{NAMES.app}"
OUTPUTS = {
    # Azure changes the case of the names.
    "subscriptioN_ID": {"type": "String", "value": SUBSCRIPTION},
    "resourcE_GROUP_NAME": {"type": "String", "value": "my-rg"},
    "storagE_ACCOUNT_NAME": {"type": "String", "value": NAMES.storage_account},
    "filE_SHARE_NAME": {"type": "String", "value": NAMES.file_share},
    "acA_APP_NAME": {"type": "String", "value": NAMES.app},
    "acA_APP_ENDPOINT": {"type": "String", "value": "app.example.io"},
}
ENVIRONMENT: dict[str, Any] = {
    "name": NAMES.environment,
    "location": "Sweden Central",
    "properties": {
        "workloadProfiles": [
            {"name": "Consumption", "workloadProfileType": "Consumption"},
            {"name": "GPU", "workloadProfileType": "NC24-A100", "minimumCount": 0, "maximumCount": 2},
        ]
    },
}


class World:
    """An Azure as a script, which keeps what was deployed to it."""

    def __init__(self, folder: Path) -> None:
        self.deployed: dict[str, Any] = {}
        self.compared: dict[str, Any] = {}
        self.changes: list[dict[str, Any]] = [{"resourceId": APP_ID, "changeType": "Create"}]
        self.mode = 0
        self.az = ScriptedAz(
            {
                **ACCEPTING,
                "containerapp show": GONE,
                "group create": {},
                "resource list": [],
                "containerapp env show": GONE,
                "deployment group create": self.deploy,
                "deployment group show": GONE,
                "deployment group what-if": self.compare,
                "deployment operation group list": [],
            },
            folder,
        )

    def compare(self, command: Command) -> dict[str, Any]:
        self.compared = self.parameters(command)
        return {"changes": self.changes}

    def deploy(self, command: Command) -> dict[str, Any]:
        self.deployed = self.parameters(command)
        return {"properties": {"outputs": OUTPUTS}}

    def parameters(self, command: Command) -> dict[str, Any]:
        file = Path(command.argv[command.argv.index("--parameters") + 1].removeprefix("@"))
        self.mode = stat.S_IMODE(file.stat().st_mode)
        parameters = json.loads(file.read_text())["parameters"]
        values = {name: entry["value"] for name, entry in parameters.items()}
        assert command.secrets == ((values["apiKey"],) if len(values["apiKey"]) >= 6 else ())
        return values

    def is_deployed(self, **parameters: Any) -> None:
        """Answer from now on as after the deployment, and find nothing to change."""
        self.az.answers |= {
            "containerapp show": deployed_app(self),
            "containerapp secret list": [{"name": "api-key", "value": self.deployed["apiKey"]}],
            "deployment group show": {
                "properties": {
                    "parameters": {
                        name: {"value": value} for name, value in (self.deployed | parameters).items()
                    }
                }
            },
        }
        self.changes = []


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def session(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Session:
    files = ("stages.toml", *(f"provision/inference.{end}" for end in ("bicep", "json", "bicep.sha256")))
    for name in files:
        (tmp_path / "infra" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / "infra" / name, tmp_path / "infra" / name)
    monkeypatch.setattr(Session, "has_bicep", False)
    stage = replace(load_stage(tmp_path, "azure"), subscription=SUBSCRIPTION, resource_group="my-rg")
    return Session(tmp_path, stage, Console(io.StringIO()), world.az._runner, world.az, None, None)


READS = [
    f"containerapp env show --name {NAMES.environment} {IN_GROUP}",
    f"containerapp show --name {NAMES.app} {IN_GROUP}",
    f"deployment group show --name inference {IN_GROUP}",
    f"resource list {IN_GROUP}",
]
"""The commands that run at the same time, in alphabetical order."""


def lines(world: World) -> list[str]:
    """Return the command lines without those of the online checks."""
    shown = (line.removeprefix("az ").removesuffix(" --output json") for line in world.az.lines)
    return [line for line in shown if not line.startswith(tuple(ACCEPTING))]


def output(session: Session) -> str:
    stream = session.console._rich.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def scale_change(before: int, after: int, name: str = "minReplicas") -> dict[str, Any]:
    """Return the change of a what-if for the replicas of the app."""
    path = f"properties.template.scale.{name}"
    delta = [{"path": path, "propertyChangeType": "Modify", "before": before, "after": after}]
    return {"resourceId": APP_ID, "changeType": "Modify", "delta": delta}


def deployed_app(world: World) -> dict[str, Any]:
    """Return the app as Azure would show it after the deployment."""
    return {
        "tags": world.deployed["tags"],
        "properties": {
            "provisioningState": "Succeeded",
            "configuration": {"ingress": {"fqdn": "app.example.io"}, "secrets": [{"name": "api-key"}]},
        },
    }


def test_the_first_time_everything_is_made(session: Session, world: World) -> None:
    world.az.answers["resource list"] = GONE
    provisioned = provision(session, Flags(location="swedencentral"))
    assert sorted(lines(world)[:4]) == READS
    assert lines(world)[4:] == [
        (
            f"group create --name my-rg --location swedencentral --subscription {SUBSCRIPTION} "
            "--tags fjarr-made=azure"
        ),
        (
            f"deployment group create --name inference {IN_GROUP} "
            f"--template-file {session.root}/infra/provision/inference.json "
            f"--parameters @{session.root}/.fjarr/azure/inference.parameters.json --no-prompt"
        ),
    ]
    assert provisioned.is_changed
    assert provisioned.config == read_config(session.root / "infra/inference.config.json")
    assert provisioned.config.endpoint_url == "https://app.example.io"
    assert provisioned.config.aca_app_endpoint == "app.example.io"


def test_the_file_with_the_key_is_for_the_user_alone_and_goes_away(session: Session, world: World) -> None:
    provision(session)
    assert world.mode == 0o600
    assert len(world.deployed["apiKey"]) >= 32
    files = [path for path in session.root.rglob("*") if path.is_file()]
    assert not [path for path in files if world.deployed["apiKey"] in path.read_text(encoding="utf-8")]
    assert not [line for line in world.az.lines if world.deployed["apiKey"] in line]


def test_the_key_does_not_stay_behind_when_the_deployment_fails(session: Session, world: World) -> None:
    world.az.answers["deployment group create"] = AzureRejectedError(
        "Azure rejected the request", ErrorCause("X", "y")
    )
    with pytest.raises(RemoteError):
        provision(session)
    assert not (session.stage.state_dir / "inference.parameters.json").exists()


def test_the_second_time_nothing_is_changed(session: Session, world: World) -> None:
    first = provision(session)
    world.is_deployed()
    world.az.commands.clear()
    session.stage.config_path.unlink()
    second = provision(session)
    assert sorted(lines(world)[:4]) == READS
    assert [" ".join(line.split()[:3]) for line in lines(world)[4:]] == [
        "containerapp secret list",
        "deployment group what-if",
    ]
    assert world.compared["apiKey"] == world.deployed["apiKey"]
    assert not second.is_changed
    assert second.config == first.config == read_config(session.stage.config_path)


def test_a_change_keeps_the_key_and_tells_the_environment_apart(session: Session, world: World) -> None:
    provision(session)
    app, key = deployed_app(world), world.deployed["apiKey"]
    world.is_deployed()
    world.az.answers["containerapp env show"] = ENVIRONMENT
    world.changes = [scale_change(1, 0)]
    provision(session, Flags(parameters=("minReplicas=0",)))
    assert world.deployed["apiKey"] == key
    assert world.deployed["minReplicas"] == 0
    assert world.deployed["environmentExists"] is True
    assert world.deployed["tags"]["fjarr-provision"] != app["tags"]["fjarr-provision"]
    assert world.deployed["tags"]["fjarr-made"] == app["tags"]["fjarr-made"]


def test_a_failed_state_is_provisioned_again(session: Session, world: World) -> None:
    provision(session)
    world.is_deployed()
    app = deployed_app(world)
    app["properties"]["provisioningState"] = "Failed"
    world.az.answers["containerapp show"] = app
    assert provision(session).is_changed


def test_without_authentication_there_is_no_key(session: Session, world: World) -> None:
    provision(session, Flags(parameters=('environmentVariables={"FJARR_AUTH": "off"}',)))
    assert world.deployed["apiKey"] == ""


def test_the_fine_tuning_steps_environment_is_only_added_to(session: Session, world: World) -> None:
    environment = {
        **ENVIRONMENT,
        "properties": {"workloadProfiles": ENVIRONMENT["properties"]["workloadProfiles"][:1]},
    }
    world.az.answers |= {
        "containerapp env show": environment,
        "containerapp env workload-profile add": {},
        "resource list": [
            {
                "type": "Microsoft.Storage/storageAccounts",
                "name": NAMES.storage_account,
                "tags": {"owner": "ml"},
            },
            {"type": "Microsoft.App/managedEnvironments", "name": NAMES.environment},
            {"type": "microsoft.operationalinsights/workspaces", "name": NAMES.workspace.upper()},
        ],
    }
    provision(session)
    assert lines(world)[4] == (
        f"containerapp env workload-profile add --name {NAMES.environment} {IN_GROUP} "
        "--workload-profile-name GPU --workload-profile-type NC24-A100 --min-nodes 0 --max-nodes 1"
    )
    assert not [line for line in lines(world) if "profile update" in line or "delete" in line]
    assert world.deployed["environmentExists"] is True
    assert world.deployed["tags"]["owner"] == "ml"
    assert world.deployed["tags"]["fjarr-made"] == f"app:{NAMES.app}"


def test_an_app_goes_to_the_region_of_its_environment(session: Session, world: World) -> None:
    world.az.answers |= {"containerapp env show": {**ENVIRONMENT, "location": "Norway East"}}
    provision(session)
    assert world.deployed["location"] == "norwayeast"


def test_nothing_is_asked_of_azure_while_a_parameter_is_wrong(session: Session, world: World) -> None:
    with pytest.raises(UsageError, match="a parameter is not allowed"):
        provision(session, Flags(parameters=("minReplicas=-1",)))
    assert world.az.commands == []


def test_a_group_that_has_to_be_made_needs_a_region(session: Session, world: World) -> None:
    world.az.answers["resource list"] = GONE
    with pytest.raises(UsageError) as caught:
        provision(session)
    assert str(caught.value) == (
        "error: the resource group 'my-rg' does not exist, and no region is given to create it in\n"
        "hint: add --location, such as --location swedencentral"
    )


def test_a_failed_deployment_tells_the_innermost_reason_of_its_operations(
    session: Session, world: World
) -> None:
    vague = ErrorCause("DeploymentFailed", "At least one resource deployment operation failed.")
    reason: dict[str, Any] = {"error": {"code": "QuotaExceeded", "message": "no A100 left"}}
    world.az.answers |= {
        "deployment group create": AzureRejectedError(
            "Azure rejected the request", vague, command="az deployment group create"
        ),
        "deployment operation group list": [
            {"properties": {"provisioningState": "Succeeded", "statusMessage": None}},
            {
                "properties": {
                    "provisioningState": "Failed",
                    "statusMessage": {"status": "Failed", **reason},
                    "targetResource": {"resourceName": "aienvbmg7c"},
                }
            },
        ],
    }
    with pytest.raises(RemoteError) as caught:
        provision(session)
    assert str(caught.value) == (
        "error: deployment 'inference' failed: QuotaExceeded: no A100 left (resource aienvbmg7c)\n"
        "command: az deployment group create\n"
        "hint: lower maximumInstanceCount or maxReplicas in infra/provision/inference.parameters.json, or "
        "ask for quota in the Azure portal (Quotas, provider Azure Container Apps)"
    )


def test_a_deployment_without_outputs_is_an_error(session: Session, world: World) -> None:
    world.az.answers["deployment group create"] = {"properties": {"outputs": {}}}
    with pytest.raises(RemoteError, match="did not return SUBSCRIPTION_ID, RESOURCE_GROUP_NAME"):
        provision(session)


def test_what_a_failed_run_made_is_remembered(session: Session, world: World) -> None:
    world.az.answers["deployment group create"] = AzureRejectedError(
        "Azure rejected the request", ErrorCause("X", "y")
    )
    with pytest.raises(RemoteError):
        provision(session)
    world.az.answers |= {
        "deployment group create": world.deploy,
        "resource list": [{"type": "Microsoft.Storage/storageAccounts", "name": NAMES.storage_account}],
    }
    provision(session)
    assert set(parse_tag(world.deployed["tags"]["fjarr-made"])) == set(planned_resources(NAMES))


def test_the_longest_names_fit_into_a_tag() -> None:
    names = Names("s" * 24, "f" * 63, "e" * 60, "t" * 32, "a" * 32, "w" * 63)
    made = planned_resources(names)
    assert len(format_tag(made)) <= 256
    assert parse_tag(format_tag(made)) == made
    assert parse_tag("nonsense app: x:y") == ()


# The environment.

REQUESTED = RequestedProfile("GPU", "NC24-A100", 2)


def changes(
    environment: dict[str, Any], requested: RequestedProfile, *, is_managed: bool = False
) -> list[tuple[str, str | None]]:
    found = profile_changes(GROUP, environment, requested, is_managed=is_managed)
    return [(change.text, change.command.line if change.command else None) for change in found]


def test_an_environment_that_has_the_profile_needs_nothing() -> None:
    assert changes(ENVIRONMENT, REQUESTED) == []
    assert changes(ENVIRONMENT, replace(REQUESTED, name="gpu")) == []
    assert changes(ENVIRONMENT, RequestedProfile("Consumption", "Consumption")) == []


def test_a_profile_of_another_type_is_taken_unless_the_user_said_the_type() -> None:
    assert (
        changes(ENVIRONMENT, replace(REQUESTED, kind="Consumption-GPU-NC24-A100", maximum_count=None)) == []
    )
    with pytest.raises(UsageError) as caught:
        changes(ENVIRONMENT, replace(REQUESTED, kind="NC48-A100", kind_source="--set"))
    assert caught.value.message == (
        f"the workload profile 'GPU' of {NAMES.environment!r} is of type NC24-A100, "
        "not NC48-A100 (from --set)"
    )


def test_only_an_environment_of_ours_gets_another_node_count() -> None:
    requested = replace(REQUESTED, maximum_count=4, maximum_count_source="--set")
    (theirs,) = changes(ENVIRONMENT, requested)
    assert theirs == (
        (
            f"the environment {NAMES.environment} was not created by provision: its profile GPU keeps "
            "its maximum of 2 nodes, not 4 (from --set)"
        ),
        None,
    )
    ((text, line),) = changes(ENVIRONMENT, requested, is_managed=True)
    assert text == f"let the workload profile GPU of {NAMES.environment} have up to 4 nodes"
    assert line is not None
    assert line.endswith("--workload-profile-name GPU --min-nodes 0 --max-nodes 4 --output json")


def test_an_environment_without_profiles_cannot_have_one() -> None:
    with pytest.raises(UsageError, match="has no workload profiles and can get none"):
        changes({"name": "old", "properties": {"workloadProfiles": None}}, REQUESTED)


def test_a_profile_that_we_do_not_know_how_to_make_must_exist() -> None:
    with pytest.raises(UsageError, match="has no workload profile 'D4'"):
        changes(ENVIRONMENT, RequestedProfile("D4", None))


# The target.


class Talking(Console):
    """A person who answers from a list."""

    def __init__(self, answers: Sequence[str]) -> None:
        super().__init__(io.StringIO())
        self.answers = list(answers)
        self.offers: list[tuple[str, ...]] = []

    @property
    def is_interactive(self) -> bool:
        return bool(self.answers)

    def choose(self, question: str, choices: Sequence[str]) -> str:
        assert question.startswith("Which ")
        self.offers.append(tuple(choices))
        answer = self.answers.pop(0)
        return answer or choices[0]


def hand_over(session: Session) -> None:
    config = {
        "SUBSCRIPTION_ID": SUBSCRIPTION,
        "RESOURCE_GROUP_NAME": "tuning-rg",
        "STORAGE_ACCOUNT_NAME": "tuned",
        "FILE_SHARE_NAME": "tuned-share",
        "ACA_JOB_NAME": "job",
    }
    (session.root / "infra/finetuning.config.json").write_text(json.dumps(config))


@pytest.fixture
def nowhere(session: Session) -> Session:
    return replace(session, stage=replace(session.stage, subscription=None, resource_group=None))


@pytest.mark.parametrize(
    ("flags", "missing"),
    [
        (
            Flags(),
            "error: no subscription is given, and there is no terminal to ask on\nhint: add --subscription",
        ),
        (
            Flags(subscription=SUBSCRIPTION),
            (
                "error: no resource group is given, and there is no terminal to ask on\n"
                "hint: add --resource-group"
            ),
        ),
    ],
)
def test_without_a_terminal_the_missing_flag_is_named(nowhere: Session, flags: Flags, missing: str) -> None:
    with pytest.raises(UsageError) as caught:
        provision(nowhere, flags)
    assert str(caught.value) == missing
    assert caught.value.exit_code == 2


def test_without_a_terminal_the_fine_tuning_steps_are_taken(nowhere: Session, world: World) -> None:
    hand_over(nowhere)
    world.az.answers["deployment group create"] = RemoteError("far enough")
    with pytest.raises(RemoteError, match="far enough"):
        provision(nowhere)
    assert f"--resource-group tuning-rg --subscription {SUBSCRIPTION}" in lines(world)[0]
    written = json.loads((nowhere.root / ".fjarr/azure/made.json").read_text())
    assert "account:tuned" in written[f"/subscriptions/{SUBSCRIPTION}/resourcegroups/tuning-rg"]


def test_on_a_terminal_the_fine_tuning_steps_are_offered_first(nowhere: Session, world: World) -> None:
    hand_over(nowhere)
    console = Talking(["", ""])
    world.az.answers |= {
        "account list": [{"name": "Other", "id": "x"}, {"name": "Tuning", "id": SUBSCRIPTION}],
        "group list": [{"name": "a-rg"}, {"name": "tuning-rg"}],
        "deployment group create": RemoteError("far enough"),
    }
    with pytest.raises(RemoteError, match="far enough"):
        provision(replace(nowhere, console=console))
    assert console.offers == [(f"Tuning ({SUBSCRIPTION})", "Other (x)"), ("tuning-rg", "a-rg")]


def test_where_it_was_before_nobody_is_asked(nowhere: Session, session: Session) -> None:
    provision(session)
    assert find_group(nowhere, Flags(), Handover()) == GROUP


def test_a_subscription_may_be_called_by_its_name(nowhere: Session, world: World) -> None:
    world.az.answers["account list"] = [{"name": "My Own", "id": SUBSCRIPTION}]
    flags = Flags(subscription="My Own", resource_group="my-rg")
    assert find_group(nowhere, flags, Handover()) == GROUP
    with pytest.raises(UsageError, match="no subscription is called 'Mine'"):
        find_group(nowhere, replace(flags, subscription="Mine"), Handover())


# The plan.


class Terminal(Console):
    """A terminal on which a person answers yes or no."""

    def __init__(self, *, says_yes: bool) -> None:
        self.stream = io.StringIO()
        super().__init__(self.stream)
        self.says_yes = says_yes
        self.questions: list[str] = []

    @property
    def is_interactive(self) -> bool:
        return True

    def confirm(self, question: str) -> bool:
        self.questions.append(question)
        return self.says_yes


def deployments(world: World) -> list[str]:
    return [line for line in lines(world) if line.startswith("deployment group create")]


def test_a_plan_changes_nothing(session: Session, world: World) -> None:
    before = (session.root / "infra/stages.toml").read_text()
    plan = plan_provision(session, Flags(parameters=("minReplicas=0",)))
    assert [change.to_text() for change in plan.changes] == [f"+ create container app {NAMES.app}"]
    assert {line.split()[0:3][-1] for line in lines(world)} == {"show", "what-if", "list"} | {
        "--resource-group"
    } or not deployments(world)
    assert not deployments(world)
    assert (session.root / "infra/stages.toml").read_text() == before
    assert not session.stage.config_path.exists()


def test_a_person_is_asked_on_azure(session: Session, world: World) -> None:
    console = Terminal(says_yes=False)
    with pytest.raises(UsageError, match="nothing was changed"):
        provision(replace(session, console=console), Flags(parameters=("minReplicas=0",)))
    assert console.questions == ["Go on with this plan?"]
    assert f"+ create container app {NAMES.app}" in console.stream.getvalue()
    assert not deployments(world)
    assert "minReplicas" not in (session.root / "infra/stages.toml").read_text()
    provision(replace(session, console=Terminal(says_yes=True)))
    assert len(deployments(world)) == 1


@pytest.mark.parametrize("is_confirmed", [True, False])
def test_yes_and_a_local_stage_ask_nothing(session: Session, world: World, is_confirmed: bool) -> None:  # noqa: FBT001
    console = Terminal(says_yes=False)
    stage = session.stage if is_confirmed else replace(session.stage, cloud="local")
    provision(replace(session, console=console, stage=stage), is_confirmed=is_confirmed)
    assert console.questions == []
    assert len(deployments(world)) == 1


def test_what_others_set_is_reset_only_with_consent(session: Session, world: World) -> None:
    provision(session)
    world.is_deployed()
    world.changes = [scale_change(3, 1, "maxReplicas")]
    with pytest.raises(UsageError) as caught:
        provision(session)
    assert str(caught.value) == (
        "error: the plan resets or removes what others set, and there is no terminal to ask on\n"
        "  ~ template.scale.maxReplicas: 3 -> 1   (set by others)\n"
        "  to keep it: --set maxReplicas=3\n"
        "hint: add --yes if this is what you want"
    )
    assert len(deployments(world)) == 1
    provision(session, is_confirmed=True)
    assert len(deployments(world)) == 2


def test_flags_are_kept_even_where_nothing_has_to_be_changed(session: Session, world: World) -> None:
    provision(session)
    world.is_deployed()
    provision(session, Flags(SUBSCRIPTION, "my-rg", parameters=("gpu=a100-dedicated",)))
    written = (session.root / "infra/stages.toml").read_text()
    assert f'subscription = "{SUBSCRIPTION}"' not in written, "the stage has it already"
    assert 'gpu = "a100-dedicated"' in written


def test_a_key_of_the_user_is_deployed_and_not_kept(session: Session, world: World) -> None:
    provision(session, Flags(parameters=("apiKey=my-own-key",)))
    assert world.deployed["apiKey"] == "my-own-key"
    assert "my-own-key" not in (session.root / "infra/stages.toml").read_text()
    world.is_deployed()
    other = plan_provision(session, Flags(parameters=("apiKey=another-key",)))
    assert [each.to_text() for each in other.changes[0].properties] == [
        '~ configuration.secrets[api-key].value: "***" -> "***"'
    ]


def with_environment(world: World, maximum_count: int) -> None:
    profile = {"name": "GPU", "workloadProfileType": "NC24-A100", "maximumCount": maximum_count}
    environment: Any = {**ENVIRONMENT, "properties": {"workloadProfiles": [profile]}}
    world.az.answers["containerapp env show"] = environment
    app = deployed_app(world)
    app["properties"] |= {"workloadProfileName": "GPU", "latestRevisionName": "app--1"}
    world.az.answers["containerapp show"] = app


@pytest.mark.parametrize(("maximum_count", "stops"), [(1, True), (2, False)])
def test_a_revision_ends_before_its_successor_starts_where_there_is_one_gpu(
    session: Session,
    world: World,
    maximum_count: int,
    stops: bool,  # noqa: FBT001
) -> None:
    provision(session)
    world.is_deployed()
    with_environment(world, maximum_count)
    world.changes = [scale_change(1, 1, "x"), scale_change(60, 50, "y")]
    world.az.answers["containerapp revision deactivate"] = {}
    world.az.commands.clear()
    provision(session, is_confirmed=True)
    stopped = [line for line in lines(world) if "revision" in line.split()[:2]]
    assert (
        stopped
        == [f"containerapp revision deactivate --name {NAMES.app} --revision app--1 {IN_GROUP}"] * stops
    )


def test_a_revision_starts_again_if_its_successor_is_not_deployed(session: Session, world: World) -> None:
    provision(session)
    world.is_deployed()
    with_environment(world, 1)
    world.changes = [scale_change(60, 50, "y")]
    refused = AzureRejectedError("Azure rejected the request", ErrorCause("X", "y"))
    world.az.answers |= {
        "containerapp revision deactivate": {},
        "containerapp revision activate": {},
        "deployment group create": refused,
    }
    with pytest.raises(RemoteError):
        provision(session, is_confirmed=True)
    assert lines(world)[-1].startswith(f"containerapp revision activate --name {NAMES.app} --revision app--1")


def test_an_edited_template_without_a_compiler_stops(session: Session, world: World) -> None:
    path = session.root / "infra/provision/inference.bicep"
    path.write_text(path.read_text() + "\n// mine\n")
    with pytest.raises(UsageError) as caught:
        provision(session, Flags(parameters=("minReplicas=-1",)))
    assert "infra/provision/inference.bicep was edited since inference.json was compiled" in str(caught.value)
    assert "az bicep install" in str(caught.value)
    assert "minReplicas: -1 (from --set) must be" in str(caught.value)
    assert world.az.commands == []


def test_an_edited_template_is_compiled_and_deployed(
    session: Session, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = session.root / "infra/provision/inference.bicep"
    path.write_text(path.read_text() + "\n// mine\n")
    monkeypatch.setattr(Session, "has_bicep", True)
    compiled = session.stage.state_dir / "inference.json"
    committed = session.root / "infra/provision/inference.json"

    def build(_: Command) -> None:
        shutil.copy(committed, compiled)

    world.az.answers["bicep build"] = build
    provision(session)
    assert f"--template-file {compiled} " in deployments(world)[0]
    world.az.answers["bicep build"] = RemoteError("az failed", details=("(3,1) : Error BCP007: no",))
    with pytest.raises(UsageError, match=r"inference\.bicep cannot be compiled") as caught:
        provision(session)
    assert caught.value.details == ("(3,1) : Error BCP007: no",)


def test_an_app_moves_to_another_gpu_by_a_new_profile(session: Session, world: World) -> None:
    provision(session)
    world.is_deployed()
    with_environment(world, 1)
    app: Any = world.az.answers["containerapp show"]
    size = {"cpu": 24, "memory": "220Gi"}
    app["properties"]["template"] = {"containers": [{"name": "inference", "resources": size}]}
    world.az.answers["containerapp env workload-profile add"] = {}
    result = provision(session, Flags(parameters=("gpu=t4",)), is_confirmed=True)
    assert world.compared["workloadProfileName"] == "GPU", "the new profile is not there yet"
    assert (world.deployed["gpu"], world.deployed["workloadProfileName"]) == ("t4", None)
    texts = [each.to_text() for change in result.plan.changes for each in change.properties]
    assert texts == [
        '+ workloadProfiles[gpu-t4]: {"type": "Consumption-GPU-NC8as-T4", "maximumCount": null}',
        '~ workloadProfileName: "GPU" -> "gpu-t4"',
        '~ template.containers[inference].resources.cpu: "24" -> "8"',
        '~ template.containers[inference].resources.memory: "220Gi" -> "56Gi"',
    ]
    assert not result.plan.is_destructive


# What has come apart, what is in the way, and what is running already.

KEYS: Any = [{"keyName": "key1", "value": "first"}, {"keyName": "key2", "value": "second"}]


def mounted_with(world: World, key: str) -> None:
    """Answer from now on as after a deployment in which the share was mounted with a key."""
    world.is_deployed()
    app: Any = world.az.answers["containerapp show"]
    variable = {"name": "STORAGE_KEY_DIGEST", "value": unique_string(key)}
    app["properties"]["template"] = {"containers": [{"name": "inference", "env": [variable]}]}
    world.az.answers["storage account keys list"] = KEYS


@pytest.mark.parametrize("key", ["first", "second"])
def test_a_key_that_the_account_still_has_needs_nothing(session: Session, world: World, key: str) -> None:
    provision(session)
    mounted_with(world, key)
    assert not plan_provision(session).has_changes


def test_a_rotated_key_is_mounted_anew(session: Session, world: World) -> None:
    provision(session)
    mounted_with(world, "the key before")
    plan = provision(session, is_confirmed=True).plan
    assert plan.repairs == (
        "the storage account's key was rotated, and the share is mounted with the old one",
    )
    assert [change.to_text().splitlines() for change in plan.changes] == [
        [
            f"~ change environment storage {NAMES.environment_storage}",
            '    ~ azureFile.accountKey: "***" -> "***"',
        ],
        [
            f"~ change container app {NAMES.app}",
            '    ~ template.containers[inference].env[STORAGE_KEY_DIGEST].value: "***" -> "***"',
        ],
    ]
    assert not plan.is_destructive
    assert "mends: the storage account's key was rotated" in plan.to_text()
    assert "STORAGE_KEY_DIGEST" not in json.dumps(world.deployed["unmanaged"])


def test_a_key_that_may_not_be_read_is_no_reason_to_fail(session: Session, world: World) -> None:
    provision(session)
    mounted_with(world, "the key before")
    world.az.answers["storage account keys list"] = AzureRejectedError(
        "Azure rejected the request", ErrorCause("AuthorizationFailed", "no")
    )
    assert not plan_provision(session).has_changes


def test_what_was_deleted_is_created_again_and_named(session: Session, world: World) -> None:
    provision(session)
    world.is_deployed()
    share = (
        f"{GROUP.id}/providers/Microsoft.Storage/storageAccounts/{NAMES.storage_account}/fileServices/default"
    )
    world.changes = [{"resourceId": f"{share}/shares/{NAMES.file_share}", "changeType": "Create"}]
    plan = provision(session, is_confirmed=True).plan
    assert plan.repairs == (f"the file share {NAMES.file_share} is gone",)


def test_force_deploys_whatever_the_plan_says(session: Session, world: World) -> None:
    provision(session)
    world.is_deployed()
    assert not plan_provision(session).has_changes
    world.az.commands.clear()
    result = provision(session, is_confirmed=True, is_forced=True)
    assert [line for line in lines(world) if line.startswith("deployment group create")]
    assert result.is_changed
    assert "everything is deployed again (--force)" in result.plan.to_text()
    assert result.plan.to_json()["forced"] is True


def test_what_is_in_the_way_stops_a_provision_before_anything_is_created(
    session: Session, world: World
) -> None:
    world.az.answers |= {
        "resource list": GONE,
        "containerapp env workload-profile list-supported": [{"name": "D4"}],
        "storage account check-name": {"nameAvailable": False, "reason": "AlreadyExists", "message": "taken"},
    }
    with pytest.raises(RemoteError, match="2 things are in the way; nothing was created"):
        provision(session, Flags(location="swedencentral"))
    assert sorted(lines(world)) == READS
    assert not session.stage.config_path.exists()


def test_a_dry_run_shows_what_is_in_the_way(session: Session, world: World) -> None:
    world.az.answers["storage account check-name"] = {
        "nameAvailable": False,
        "reason": "AlreadyExists",
        "message": "taken",
    }
    plan = plan_provision(session)
    assert f"BLOCKED name {NAMES.storage_account}: AlreadyExists: taken" in plan.to_text()
    checks: Any = plan.to_json()["checks"]
    assert {check["name"] for check in checks if check["state"] == "blocked"} == {
        f"name {NAMES.storage_account}"
    }


UNREGISTERED = RemoteError(
    "az failed with exit code 1", command=f"az containerapp show --name x {IN_GROUP} --output json"
)


@pytest.mark.parametrize("is_confirmed", [False, True])
def test_a_provider_that_is_not_registered_is_found_although_nothing_can_be_read(
    session: Session, world: World, *, is_confirmed: bool
) -> None:
    world.az.answers |= {
        "containerapp show": UNREGISTERED,
        "provider list": [{"namespace": "Microsoft.App", "state": "NotRegistered"}, *REGISTERED[1:]],
    }

    def register(_: Command) -> None:
        world.az.answers |= {"containerapp show": GONE, "provider list": REGISTERED}

    world.az.answers["provider register"] = register
    if is_confirmed:
        assert provision(session, is_confirmed=True).is_changed
        return
    with pytest.raises(RemoteError, match="something is in the way") as caught:
        provision(session)
    assert caught.value.hint == (
        f"az provider register --namespace Microsoft.App --subscription {SUBSCRIPTION} --wait"
    )


def test_another_reason_why_nothing_can_be_read_is_the_error(session: Session, world: World) -> None:
    world.az.answers["containerapp show"] = UNREGISTERED
    with pytest.raises(RemoteError) as caught:
        provision(session, is_confirmed=True)
    assert caught.value is UNREGISTERED


def test_a_deployment_that_runs_already_is_followed_first(
    session: Session, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.resources.deployments._AZURE_INTERVAL_S", 0.0)
    provision(session)
    world.is_deployed()
    ended: Any = world.az.answers["deployment group show"]
    states = iter(["Running", "Running"])

    def show(_: Command) -> Any:
        state = next(states, "Succeeded")
        return {"properties": {**ended["properties"], "provisioningState": state}}

    world.az.answers["deployment group show"] = show
    world.az.commands.clear()
    result = provision(session)
    assert not result.is_changed
    assert not [line for line in lines(world) if line.startswith("deployment group create")]
    assert "follow the deployment inference to my-rg" in output(session)


@pytest.mark.parametrize("goes_on", [True, False])
def test_after_ctrl_c_the_old_revision_starts_again_unless_azure_goes_on(
    session: Session, world: World, *, goes_on: bool
) -> None:
    provision(session)
    world.is_deployed()
    with_environment(world, 1)
    world.changes = [scale_change(60, 50, "y")]
    shown: Any = world.az.answers["deployment group show"]
    state = "Running" if goes_on else "Succeeded"
    begun = []

    def create(_: Command) -> Any:
        begun.append(1)
        raise KeyboardInterrupt

    def show(_: Command) -> Any:
        return {"properties": {**shown["properties"], **({"provisioningState": state} if begun else {})}}

    world.az.answers |= {
        "containerapp revision deactivate": {},
        "containerapp revision activate": {},
        "deployment group create": create,
        "deployment group show": show,
    }
    with pytest.raises(KeyboardInterrupt):
        provision(session, is_confirmed=True)
    activated = [line for line in lines(world) if line.startswith("containerapp revision activate")]
    assert bool(activated) is not goes_on
