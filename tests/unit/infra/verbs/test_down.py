"""What `invoke down` deletes or stops, and what it leaves."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from infra.az.commands import Group
from infra.config.stage import load_stage
from infra.errors import UsageError
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
APP = {"type": "Microsoft.App/containerApps", "name": "app", "id": "/app"}
ENVIRONMENT = {"type": "Microsoft.App/managedEnvironments", "name": "env", "id": "/env"}
ACCOUNT = {"type": "Microsoft.Storage/storageAccounts", "name": "acct", "id": "/acct"}


class Azure:
    """A group as a script, out of which things can be deleted."""

    def __init__(
        self, az: ScriptedAz, resources: list[dict[str, Any]], tag: str, group_tags: dict[str, Any]
    ) -> None:
        self.resources = resources
        az.answers |= {
            "group show": {"name": "my-rg", "tags": group_tags},
            "containerapp show": {"tags": {"fjarr-made": tag}},
            "resource list": lambda _: list(self.resources),
            "resource delete": self.delete,
            "group delete": None,
        }

    def delete(self, command: Command) -> None:
        gone = command.argv[command.argv.index("--ids") + 1]
        self.resources = [resource for resource in self.resources if resource["id"] != gone]


def test_only_what_provision_made_is_deleted_and_the_rest_is_listed(session: Session, az: ScriptedAz) -> None:
    Azure(az, [ACCOUNT, ENVIRONMENT, APP], "app:app", {})
    result = down(session, is_confirmed=True)
    assert [line for line in az.lines if "delete" in line] == ["az resource delete --ids /app --output json"]
    assert result.to_json() == {
        "stage": "azure",
        "removed": ("app app",),
        "left": (
            {"what": "acct (Microsoft.Storage/storageAccounts)", "size_bytes": None, "remedy": ""},
            {"what": "env (Microsoft.App/managedEnvironments)", "size_bytes": None, "remedy": ""},
        ),
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
