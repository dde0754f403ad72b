"""A program that deploys three resources with long names to a scripted Azure, and shows them on its terminal.

    python -m tests.doubles.shown_deployment READ WRITE

The container app fails once a byte can be read from a pipe, of which the file descriptors of both ends are
given; until then the deployment runs.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import threading
from datetime import UTC, datetime
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSCTTY
from typing import TYPE_CHECKING, Any, Final

from infra.az.commands import Group, deployment_create
from infra.az.errors import AzureRejectedError, ErrorCause
from infra.clock import ManualClock
from infra.config.stage import load_stage
from infra.console import Console
from infra.resources.deployments import Deployments
from infra.session import Session
from tests.doubles.scripted_az import ScriptedAz

if TYPE_CHECKING:
    from infra.process import Command

REPOSITORY: Final = Path(__file__).resolve().parents[2]
GROUP: Final = Group("00000000-0000-0000-0000-000000000001", "contoso-customer-support-production-rg")
ACCOUNT: Final = "Microsoft.Storage/storageAccounts", "contosocustomersupport7f"
_PREFIX: Final = "contoso-customer-support-production"
ENVIRONMENT: Final = "Microsoft.App/managedEnvironments", f"{_PREFIX}-environment-7f3k2"
APP: Final = "Microsoft.App/containerApps", f"{_PREFIX}-ticket-triage-fine-tuned-app"
NOW: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
POLL_S: Final = 0.05


def operation(resource: tuple[str, str], state: str, seconds: float) -> dict[str, Any]:
    """Return an operation as Azure lists it."""
    type_, name = resource
    target = {"id": f"/{type_}/{name}", "resourceType": type_, "resourceName": name}
    times = {"timestamp": "2026-01-01T12:00:00Z", "duration": f"PT{seconds}S"}
    properties = {"provisioningOperation": "Create", "provisioningState": state, "targetResource": target}
    return {"properties": properties | times}


class FailingAzure:
    """An Azure on which the last of three resources fails."""

    def __init__(self, wait_until_over: int) -> None:
        self._is_over = threading.Event()
        self._wait_until_over = wait_until_over

    def create(self, _: Command) -> Any:
        """Answer when the deployment has ended."""
        os.read(self._wait_until_over, 1)
        self._is_over.set()
        raise AzureRejectedError("Azure rejected the request", ErrorCause("QuotaExceeded", "no GPU is left"))

    def operations(self, _: Command) -> Any:
        """Return the operations: two that run, of which one is done in the end and one has failed."""
        ended = ("Succeeded", "Failed") if self._is_over.is_set() else ("Running", "Running")
        return [
            operation(ACCOUNT, "Succeeded", 1234.5),
            operation(ENVIRONMENT, ended[0], 700.0),
            operation(APP, ended[1], 65.25),
        ]


def main(wait_until_over: int, end: int) -> int:
    """Deploy, and return the exit code."""
    ioctl(0, TIOCSCTTY, 0)  # the terminal that sends the interrupt of a Ctrl-C
    azure = FailingAzure(wait_until_over)
    answers: dict[str, Any] = {
        "deployment group create": azure.create,
        "deployment operation group list": azure.operations,
        "deployment group show": {"properties": {"provisioningState": "Running"}},
    }
    with tempfile.TemporaryDirectory() as folder:
        az = ScriptedAz(answers, Path(folder))
        runner, stage = az._runner, load_stage(REPOSITORY, "azure")
        # What ends the process of az ends the scripted one.
        runner.end_all = functools.partial(os.write, end, b".")  # type: ignore[assignment, method-assign]
        session = Session(REPOSITORY, stage, Console(), runner, az, None, None)
        command = deployment_create(GROUP, "inference", Path("t.json"), Path("p.json"))
        deployments = Deployments(session, GROUP, "inference", ManualClock(NOW), POLL_S, POLL_S)
        try:
            deployments.run(command, f"deploy inference.json to {GROUP.name}")
        except KeyboardInterrupt:
            return 130
        except AzureRejectedError:
            return 4
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
