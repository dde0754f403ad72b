"""A deployment that runs: what is shown of it, what happens on Ctrl-C, and how it is followed."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra.az.commands import Group, deployment_create
from infra.az.errors import AzureRejectedError, ErrorCause, NotFoundError
from infra.clock import ManualClock
from infra.config.stage import load_stage
from infra.console import Console
from infra.errors import RemoteError, WaitTimeoutError
from infra.resources.deployments import Deployments
from infra.session import Session
from tests.doubles.scripted_az import ScriptedAz

if TYPE_CHECKING:
    from infra.process import Command

REPOSITORY = Path(__file__).resolve().parents[4]
GROUP = Group("00000000-0000-0000-0000-000000000001", "my-rg")
CREATE = deployment_create(GROUP, "inference", Path("t.json"), Path("p.json"))
CREATED: dict[str, Any] = {"properties": {"outputs": {}}}
SHOW, LIST, RUN = "deployment group show", "deployment operation group list", "deployment group create"
PATIENCE_S = 60


def state(name: str, **more: Any) -> dict[str, Any]:
    return {"properties": {"provisioningState": name, **more}}


def operation(progress: str) -> dict[str, Any]:
    target = {"id": "/x", "resourceType": "Microsoft.App/containerApps", "resourceName": "app"}
    times = {"timestamp": "2026-01-01T12:00:00Z", "duration": "PT4S"}
    return {
        "properties": {
            "provisioningOperation": "Create",
            "provisioningState": progress,
            "targetResource": target,
            **times,
        }
    }


class World:
    """An Azure whose deployment ends when the test says so."""

    def __init__(self, folder: Path) -> None:
        self.is_over = threading.Event()
        self.az = ScriptedAz({RUN: self.create, LIST: [operation("Running")], SHOW: state("Running")}, folder)
        self.outcome: Any = CREATED
        self.clock = ManualClock(datetime(2026, 1, 1, 12, 0, 2, tzinfo=UTC))
        stage = load_stage(REPOSITORY, "azure")
        runner = self.az._runner
        # What ends the process of az ends the scripted one.
        runner.end_all = self.is_over.set  # type: ignore[method-assign]
        self.stream = io.StringIO()
        session = Session(REPOSITORY, stage, Console(self.stream), runner, self.az, None, None)
        self.deployments = Deployments(session, GROUP, "inference", self.clock, 0.0, 0.0)

    def create(self, _: Command) -> Any:
        assert self.is_over.wait(PATIENCE_S)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    @property
    def output(self) -> list[str]:
        return [line.rpartition("  ")[0] or line for line in self.stream.getvalue().splitlines()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def in_turn(world: World, *answers: Any) -> Any:
    """Return an answer that is another one each time, the last one from then on; None ends the deployment."""
    left = list(answers)

    def answer(_: Command) -> Any:
        found = left.pop(0) if len(left) > 1 else left[0]
        if len(left) == 1:
            world.is_over.set()
        if isinstance(found, BaseException):
            raise found
        return found

    return answer


def test_resources_are_shown_while_the_deployment_runs(world: World) -> None:
    world.az.answers[LIST] = in_turn(
        world, [], [operation("Running")], RemoteError("az failed"), [operation("Succeeded")]
    )
    assert world.deployments.run(CREATE, "deploy it") == CREATED
    assert world.output == ["  … container app app", "  ✓ container app app", "✓ deploy it"]


def test_a_deployment_that_is_over_at_once_starts_no_other_az(world: World) -> None:
    world.is_over.set()
    patient = replace(world.deployments, first_poll_s=PATIENCE_S)
    assert patient.run(CREATE, "deploy it") == CREATED
    assert world.az.commands == [CREATE]


def test_an_error_is_the_deployments_own(world: World) -> None:
    world.outcome = AzureRejectedError("Azure rejected the request", ErrorCause("QuotaExceeded", "no"))
    world.az.answers[LIST] = in_turn(world, [operation("Failed")])
    with pytest.raises(AzureRejectedError) as caught:
        world.deployments.run(CREATE, "deploy it")
    assert caught.value is world.outcome
    assert world.output == ["  ✗ container app app", "✗ deploy it: failed"]


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (
            state("Running"),
            (
                "warning: interrupted; Azure goes on with the deployment inference: invoke provision "
                "--stage azure follows it, and this cancels it: az deployment group cancel --name inference "
                f"{' '.join(GROUP.flags)}"
            ),
        ),
        (state("Succeeded"), "warning: interrupted; Azure runs no deployment inference"),
        (
            NotFoundError("the resource does not exist", ErrorCause("DeploymentNotFound", "no")),
            "warning: interrupted; Azure runs no deployment inference",
        ),
        (
            RemoteError("no network"),
            (
                "warning: interrupted; Azure may go on with the deployment inference: invoke provision "
                "--stage azure follows it, and this cancels it: az deployment group cancel --name inference "
                f"{' '.join(GROUP.flags)}"
            ),
        ),
    ],
)
def test_after_ctrl_c_it_is_said_whether_azure_goes_on(world: World, shown: Any, said: str) -> None:
    world.az.answers |= {LIST: in_turn(world, KeyboardInterrupt()), SHOW: shown}
    world.is_over.clear()
    with pytest.raises(KeyboardInterrupt):
        world.deployments.run(CREATE, "deploy it")
    assert world.is_over.is_set()  # az was ended
    *_, outcome, last = world.stream.getvalue().splitlines()
    assert outcome.startswith("✗ deploy it: interrupted  ")
    assert last == said


def test_another_deployment_that_runs_is_followed_instead(world: World) -> None:
    world.outcome = AzureRejectedError("Azure rejected the request", ErrorCause("DeploymentActive", "busy"))
    world.is_over.set()
    world.az.answers[SHOW] = in_turn(world, state("Running"), state("Running"), state("Succeeded"))
    with pytest.raises(RemoteError) as caught:
        world.deployments.run(CREATE, "deploy it")
    assert caught.value.message == (
        "another deployment 'inference' was running; it has ended, and nothing of this one was sent"
    )
    assert caught.value.hint == "invoke provision --stage azure"
    assert [line for line in world.az.lines if "group show" in line]


def test_a_deployment_that_is_followed_ends_with_its_document(world: World) -> None:
    world.az.answers[SHOW] = in_turn(world, state("Accepted"), state("Running"), state("Succeeded"))
    assert world.deployments.follow() == state("Succeeded")
    assert world.output == ["  … container app app", "✓ follow the deployment inference to my-rg"]


def test_a_deployment_that_is_followed_and_fails_has_its_innermost_cause(world: World) -> None:
    error = {
        "code": "DeploymentFailed",
        "message": "x",
        "details": [{"code": "SkuNotAvailable", "message": "y"}],
    }
    world.az.answers[SHOW] = state("Failed", error=error)
    with pytest.raises(
        AzureRejectedError, match="the deployment that was followed failed: SkuNotAvailable: y"
    ):
        world.deployments.follow()


def test_a_deployment_that_never_ends_is_given_up(world: World) -> None:
    patient = replace(world.deployments, interval_s=600.0)
    with pytest.raises(WaitTimeoutError, match="did not end in an hour") as caught:
        patient.follow()
    assert "az deployment group cancel" in str(caught.value.hint)


def test_ctrl_c_while_following_is_explained_too(world: World) -> None:
    world.az.answers[LIST] = in_turn(world, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        world.deployments.follow()
    assert "Azure goes on with the deployment inference" in world.stream.getvalue()
