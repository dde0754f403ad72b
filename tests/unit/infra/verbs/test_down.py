"""What `invoke down` deletes or stops, and what it leaves."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from infra.az.commands import Group
from infra.az.errors import AzureRejectedError, ErrorCause
from infra.config.settings import Flags, Settings
from infra.config.stage import load_stage
from infra.errors import RemoteError, UsageError
from infra.process import Completed, Runner
from infra.resources.inventory import ManagedResource, format_tag, record_managed
from infra.verbs.down import down
from tests.doubles.azure_stage import GONE, SUBSCRIPTION

if TYPE_CHECKING:
    from pathlib import Path

    from infra.process import Command
    from infra.session import Session
    from tests.doubles.scripted_az import ScriptedAz


GROUP = Group(SUBSCRIPTION, "my-rg")
IN_GROUP = f"--resource-group my-rg --subscription {SUBSCRIPTION}"
APP = {"type": "Microsoft.App/containerApps", "name": "app", "id": "/app"}
ENVIRONMENT = {"type": "Microsoft.App/managedEnvironments", "name": "env", "id": "/env"}
ACCOUNT = {"type": "Microsoft.Storage/storageAccounts", "name": "acct", "id": "/acct"}
WORKSPACE = {"type": "Microsoft.OperationalInsights/workspaces", "name": "logs", "id": "/logs"}
JOB = {"type": "Microsoft.App/jobs", "name": "tuning", "id": "/job"}
MADE = "app:app environment:env workspace:logs account:acct"
LOCKED = AzureRejectedError(
    "Azure rejected the request",
    ErrorCause("ScopeLocked", "a lock is on it"),
    command="az containerapp env delete --name env --resource-group my-rg --subscription s",
)
STORAGE = f"rest --method get --url {GROUP.id}/providers/Microsoft.Storage/storageAccounts/acct"


class Azure:
    """A group as a script, out of which things can be deleted."""

    def __init__(
        self, az: ScriptedAz, resources: list[dict[str, Any]], tag: str, group_tags: dict[str, Any]
    ) -> None:
        self.az = az
        self.resources = resources
        self.locked: set[str] = set()
        az.answers |= {
            "group show": {"name": "my-rg", "tags": group_tags},
            "containerapp show": {"tags": {"fjarr-made": tag}},
            "deployment group show": GONE,
            "resource list": lambda _: list(self.resources),
            "group delete": None,
        }
        for kind in (
            "containerapp",
            "containerapp env",
            "monitor log-analytics workspace",
            "storage account",
        ):
            az.answers[f"{kind} delete"] = self.delete
        self.hold("fileServices/default/shares", "share")
        for service in ("blobServices/default/containers", "queueServices/default/queues"):
            self.hold(service)
        self.hold("tableServices/default/tables")

    def hold(self, service: str, *names: str) -> None:
        self.az.answers[f"{STORAGE}/{service}"] = {"value": [{"name": name} for name in names]}

    def delete(self, command: Command) -> None:
        name = command.argv[command.argv.index("delete") + 2]
        if name in self.locked:
            raise LOCKED
        self.resources = [resource for resource in self.resources if resource["name"] != name]

    @property
    def deletions(self) -> list[str]:
        return [line for line in self.az.lines if " delete " in line]


def test_only_what_provision_made_is_deleted_and_the_rest_is_listed(session: Session, az: ScriptedAz) -> None:
    Azure(az, [ACCOUNT, ENVIRONMENT, APP], "app:app", {})
    result = down(session, is_confirmed=True)
    assert [line for line in az.lines if "delete" in line] == [
        f"az containerapp delete --name app {IN_GROUP} --yes --output json"
    ]
    assert result.to_json() == {
        "stage": "azure",
        "removed": ("app app",),
        "left": (
            {
                "what": "acct (Microsoft.Storage/storageAccounts)",
                "size_bytes": None,
                "remedy": "",
                "reason": "provision did not create it",
                "bills": "the stored data and its transactions",
            },
            {
                "what": "env (Microsoft.App/managedEnvironments)",
                "size_bytes": None,
                "remedy": "",
                "reason": "provision did not create it",
                "bills": "nodes of dedicated workload profiles, and the management of these",
            },
        ),
        "failed": (),
    }
    assert not session.stage.config_path.exists()


def test_a_group_that_provision_made_goes_as_a_whole(session: Session, az: ScriptedAz) -> None:
    Azure(az, [ACCOUNT, APP], "app:app account:acct", {"fjarr-made": "azure"})
    result = down(session, is_confirmed=True)
    assert [line for line in az.lines if "delete" in line] == [
        f"az group delete --name my-rg --subscription {SUBSCRIPTION} --yes --output json"
    ]
    assert result.to_text() == "removed: the resource group my-rg\nnothing is left"


def test_a_group_of_ours_with_something_of_another_stays(session: Session, az: ScriptedAz) -> None:
    Azure(az, [ENVIRONMENT, APP], "app:app", {"fjarr-made": "azure"})
    assert down(session, is_confirmed=True).removed == ("app app",)


def test_what_a_failed_run_made_is_deleted_too(session: Session, az: ScriptedAz) -> None:
    Azure(az, [ACCOUNT], "", {})
    az.answers["containerapp show"] = GONE
    record_managed(session, GROUP, (ManagedResource("account", "acct"), ManagedResource("app", "app")))
    assert down(session, is_confirmed=True).removed == ("account acct",)
    assert format_tag(()) == ""
    assert json.loads((session.stage.state_dir / "made.json").read_text()) == {}


def test_what_cannot_be_deleted_does_not_stop_the_rest(session: Session, az: ScriptedAz) -> None:
    azure = Azure(az, [ACCOUNT, WORKSPACE, ENVIRONMENT, APP], MADE, {})
    azure.locked = {"env"}
    result = down(session, is_confirmed=True)
    assert result.removed == ("app app", "workspace logs", "account acct")
    assert result.to_text().splitlines()[-1] == (
        "left: env (Microsoft.App/managedEnvironments): Azure rejected the request: ScopeLocked: a lock is "
        "on it (a lock forbids it: az lock list --resource-group my-rg --subscription s shows it); still "
        "billed: nodes of dedicated workload profiles, and the management of these"
    )
    with pytest.raises(RemoteError, match="not everything could be deleted: environment env") as caught:
        result.require_completeness()
    assert caught.value.exit_code == 4
    # What is left is known to the next run, which deletes it.
    assert session.stage.config_path.exists()
    azure.locked = set()
    az.answers["containerapp show"] = GONE
    assert down(session, is_confirmed=True).to_text() == "removed: environment env\nnothing is left"
    assert not session.stage.config_path.exists()


def test_a_group_that_is_locked_is_emptied_as_far_as_possible(session: Session, az: ScriptedAz) -> None:
    azure = Azure(az, [ACCOUNT, APP], "app:app account:acct", {"fjarr-made": "azure"})
    az.answers["group delete"] = LOCKED
    azure.locked = {"acct"}
    result = down(session, is_confirmed=True)
    assert result.removed == ("app app",)
    assert [left.what for left in result.left] == [
        "the resource group my-rg",
        "acct (Microsoft.Storage/storageAccounts)",
    ]
    assert result.failed == ("account acct",)


def test_from_another_machine_after_a_run_that_failed_half_way(session: Session, az: ScriptedAz) -> None:
    session.stage.config_path.unlink()
    tags = {"tags": {"fjarr-made": "app:aiacaapp4q7ak account:aistorage4q7ak"}}
    names = Settings().names(GROUP)
    account_tag = {"fjarr-made": f"account:{names.storage_account}"}
    azure = Azure(
        az, [ACCOUNT | {"name": names.storage_account, "tags": account_tag}, ENVIRONMENT | tags], "", {}
    )
    azure.hold("fileServices/default/shares", names.file_share)
    az.answers |= {
        line.replace("/acct/", f"/{names.storage_account}/"): answer
        for line, answer in az.answers.items()
        if line.startswith(STORAGE)
    }
    az.answers["containerapp show"] = GONE
    with pytest.raises(UsageError, match="no subscription is given") as caught:
        down(session)
    assert caught.value.hint == "add --subscription"
    flags = Flags(subscription=SUBSCRIPTION, resource_group="my-rg")
    assert down(session, flags, is_confirmed=True).removed == (f"account {names.storage_account}",)
    assert azure.deletions == [
        f"az storage account delete --name {names.storage_account} {IN_GROUP} --yes --output json"
    ]


def test_a_shared_tag_of_another_stage_is_not_ours(session: Session, az: ScriptedAz) -> None:
    tagged = ACCOUNT | {"tags": {"fjarr-made": "app:theirs account:acct"}}
    Azure(az, [tagged, APP | {"name": "theirs", "id": "/theirs"}], "", {})
    assert down(session, is_confirmed=True).removed == ("account acct",)


@pytest.mark.parametrize(
    ("service", "names", "shown"),
    [
        ("fileServices/default/shares", ("share", "photos"), "the file share photos"),
        ("blobServices/default/containers", ("backup",), "the blob container backup"),
        ("queueServices/default/queues", ("work",), "the queue work"),
        ("tableServices/default/tables", ("rows",), "the table rows"),
        (
            "blobServices/default/containers",
            tuple("abcdefgh"),
            ", ".join(f"the blob container {name}" for name in "abcde") + ", 3 more",
        ),
    ],
)
def test_an_account_with_data_of_others_stays(
    session: Session, az: ScriptedAz, service: str, names: tuple[str, ...], shown: str
) -> None:
    azure = Azure(az, [ACCOUNT, APP], "app:app account:acct", {"fjarr-made": "azure"})
    azure.hold(service, *names)
    result = down(session, is_confirmed=True)
    assert result.removed == ("app app",)
    assert result.left[0].reason == (
        f"others have data in it: {shown}; --delete-foreign-data deletes it as well"
    )
    result.require_completeness()
    assert down(session, is_confirmed=True, deletes_foreign=True).removed == ("the resource group my-rg",)


def test_an_account_that_cannot_be_looked_into_stays(session: Session, az: ScriptedAz) -> None:
    Azure(az, [ACCOUNT], "account:acct", {})
    az.answers[f"{STORAGE}/blobServices/default/containers"] = LOCKED
    result = down(session, is_confirmed=True)
    assert result.removed == ()
    assert "blob containers that could not be listed (Azure rejected the request" in result.left[0].reason


def test_an_environment_with_a_job_of_others_stays_with_what_it_needs(
    session: Session, az: ScriptedAz
) -> None:
    Azure(az, [ACCOUNT, WORKSPACE, ENVIRONMENT, JOB, APP], MADE, {"fjarr-made": "azure"})
    az.answers["resource show --ids /job"] = {"properties": {"environmentId": "/ENV"}}
    result = down(session, is_confirmed=True)
    assert result.removed == ("app app",)
    assert [left.reason for left in result.left] == [
        "the environment that stays may mount its share; --delete-foreign-data deletes it",
        "the environment that stays writes its logs to it",
        "others use it: the job tuning",
        "provision did not create it",
    ]


def test_a_deployment_that_is_running_is_cancelled_first(session: Session, az: ScriptedAz) -> None:
    Azure(az, [APP], "app:app", {})
    states = iter(["Running", "Canceled"])
    az.answers |= {
        "deployment group show": lambda _: {"properties": {"provisioningState": next(states)}},
        "deployment group cancel": None,
        "deployment operation group list": [],
    }
    assert down(session, is_confirmed=True).removed == ("app app",)
    assert next(line for line in az.lines if "cancel" in line or " delete " in line).startswith(
        "az deployment group cancel --name inference "
    )


def test_damaged_files_do_not_stop_down(session: Session, az: ScriptedAz) -> None:
    Azure(az, [APP], "app:app", {})
    (session.root / "infra/finetuning.config.json").write_text("[" * 100_000)
    (session.root / "infra/provision/inference.parameters.json").write_bytes(b"\xff")
    record_managed(session, GROUP, ())
    (session.stage.state_dir / "made.json").write_text("no JSON")
    assert down(session, is_confirmed=True).removed == ("app app",)
    assert (session.stage.state_dir / "made.json.damaged").read_text() == "no JSON"


def test_without_a_terminal_down_says_what_it_would_delete(session: Session, az: ScriptedAz) -> None:
    Azure(az, [APP], "app:app", {})
    with pytest.raises(UsageError) as caught:
        down(session)
    assert str(caught.value) == (
        "error: down deletes on Azure, and there is no terminal to ask on\n"
        "  app app\n"
        "hint: add --yes if this is what you want to be deleted"
    )
    assert not [line for line in az.lines if "delete" in line]


def test_purge_is_for_local_stages(session: Session) -> None:
    with pytest.raises(UsageError, match="--purge is for a local stage"):
        down(session, is_purged=True)


class Stopping(Runner):
    """A runner that keeps what it was to run."""

    def __init__(self, folder: Path) -> None:
        super().__init__({}, folder)
        self.lines: list[str] = []

    def run(self, command: Command) -> Completed:
        self.lines.append(command.line)
        return Completed(0, "{}", "")


def test_down_on_a_local_stage_keeps_the_data_and_says_where(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FJARR_CACHE_DIR", str(session.root / "nowhere"))
    stage = load_stage(session.root, "local")
    state = stage.state_dir / "cloud"
    state.mkdir(parents=True)
    (state / "data").write_bytes(b"x" * 1500)
    runner = Stopping(session.root)
    local = replace(session, stage=stage, runner=runner)
    result = down(local)
    assert runner.lines == [shlex.join((sys.executable, "-m", "localcloud", "stop", "--state", str(state)))]
    assert result.to_text() == (
        "removed: the local cloud with its replicas: no process runs, no port is taken\n"
        f"left: {stage.state_dir}, 1.5 kB (invoke down --stage local --purge removes it)"
    )
    assert down(local, is_purged=True).left == ()
    assert not stage.state_dir.exists()
    assert down(local).to_text() == "there was nothing to stop\nnothing is left"


def test_names_are_those_of_the_stage_also_where_another_parameter_is_wrong(
    session: Session, az: ScriptedAz
) -> None:
    Azure(az, [APP], "app:app", {})
    session.stage.config_path.unlink()
    overlay = (("acaAppName", "my-app"), ("minReplicas", -1))
    session = replace(session, stage=replace(session.stage, overlay=overlay))
    down(session, Flags(subscription=SUBSCRIPTION, resource_group="my-rg"), is_confirmed=True)
    assert [line for line in az.lines if line.startswith("az containerapp show --name my-app ")]
