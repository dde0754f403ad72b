"""`invoke pause` and `invoke resume`: what they run, and when they are done."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from infra.az.errors import AzureRejectedError, ErrorCause
from infra.clock import ManualClock
from infra.deploy_context import DeployContext
from infra.errors import RemoteError, WaitTimeoutError
from infra.release.holder import Holder
from infra.release.lock import DeployLock
from infra.release.releases import set_current
from infra.verbs import pause as pause_module
from infra.verbs.pause import pause, resume
from tests.doubles.background import at_once
from tests.doubles.memory_app import MemoryApp
from tests.doubles.memory_share import MemoryShare

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.session import Session
    from tests.doubles.scripted_az import ScriptedAz

BUSY = AzureRejectedError("no", ErrorCause("ContainerAppOperationInProgress", "wait"))


class Azure:
    """An app that takes two looks to stop or to start."""

    def __init__(self, az: ScriptedAz, status: str) -> None:
        self.statuses = [status]
        self.busy = 1
        az.answers |= {
            "rest --method post": self.post,
            "containerapp show": lambda _: self.show(),
            "containerapp env list": [
                {
                    "id": "/env",
                    "name": "env",
                    "properties": {"workloadProfiles": [{"name": "GPU", "workloadProfileType": "NC24-A100"}]},
                }
            ],
        }

    def post(self, command: Any) -> None:
        if self.busy:
            self.busy -= 1
            raise BUSY
        is_stop = "/stop?" in command.line
        self.statuses = ["Progressing", "Stopped"] if is_stop else ["Stopped", "Running"]

    def show(self) -> dict[str, Any]:
        status = self.statuses[0]
        del self.statuses[: len(self.statuses) > 1]
        properties = {
            "environmentId": "/env",
            "provisioningState": "Succeeded",
            "runningStatus": status,
            "workloadProfileName": "GPU",
        }
        return {"name": "app", "properties": properties}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


def test_pause_stops_the_app_and_says_what_is_still_billed(
    session: Session, az: ScriptedAz, clock: ManualClock
) -> None:
    Azure(az, "Running")
    result = pause(session, clock)
    posts = [line for line in az.lines if "--method post" in line]
    assert len(posts) == 2, "the first found the app busy"
    assert "/containerApps/app/stop?api-version=" in posts[0]
    assert result.to_text().splitlines() == [
        "app is paused: no replica runs",
        "still billed: environment env: the management of dedicated profiles (GPU) in use",
        "still billed: storage account acct: the stored data and its transactions",
        "still billed: workspace of the environment: ingested logs, and their retention",
        "invoke resume --stage azure starts it again",
    ]
    again = pause(session, clock)
    assert (again.has_changed, again.to_json()["changed"]) == (False, False)
    assert len([line for line in az.lines if "--method post" in line]) == 2


def test_an_app_that_does_not_stop_is_a_timeout(session: Session, az: ScriptedAz, clock: ManualClock) -> None:
    azure = Azure(az, "Running")
    az.answers["rest --method post"] = None
    with pytest.raises(WaitTimeoutError, match="Azure did not stop the app 'app' in 600 s"):
        pause(session, clock)
    assert azure.statuses == ["Running"]


def test_an_app_that_cannot_be_stopped_is_the_reason(
    session: Session, az: ScriptedAz, clock: ManualClock
) -> None:
    Azure(az, "Running")
    az.answers["rest --method post"] = AzureRejectedError("no", ErrorCause("ScopeLocked", "a lock"))
    with pytest.raises(RemoteError, match="ScopeLocked"):
        pause(session, clock)


@pytest.mark.parametrize("status", ["Stopped", "Running"])
def test_resume_starts_the_app_and_waits_for_the_release(
    session: Session, az: ScriptedAz, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    Azure(az, status)
    clock, has_changed = ManualClock(datetime(2026, 1, 1, tzinfo=UTC)), status == "Stopped"
    share = MemoryShare()
    app = MemoryApp(share, clock)

    @contextmanager
    def opened(*_: object) -> Iterator[DeployContext]:
        lock = DeployLock(share, clock, Holder("me", "here", 1, 0.0), session.console.warn)
        yield DeployContext(share, app, lock, clock, session.console, at_once, 60)

    monkeypatch.setattr(pause_module, "open_deploy_context", opened)
    empty = resume(session)
    assert (empty.release, empty.has_changed) == (None, has_changed)
    assert empty.to_text().endswith("nothing is deployed yet: invoke deploy --stage azure")
    assert len([line for line in az.lines if "/start?" in line]) == 2 * has_changed
    set_current(share, "20260102T030405Z-abcdef01")
    app.restart(app.revision()[0].name)
    result = resume(session)
    assert result.release == "20260102T030405Z-abcdef01"
    assert result.to_text() == "app was not paused, and serves 20260102T030405Z-abcdef01"
