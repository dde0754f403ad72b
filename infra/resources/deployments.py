"""Run a deployment and show its resources while Azure creates them, or follow one that runs already.

Azure goes on with a deployment when this process ends, so an interrupted one is not lost: the next provision
follows it instead of starting another, which Azure would refuse (409 `DeploymentActive`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.az.commands import deployment_cancel, deployment_operations, deployment_show
from infra.az.errors import AzureRejectedError
from infra.az.operations import failure_cause, has_failed, is_active, parse_operations
from infra.clock import Clock, SystemClock
from infra.concurrency import DaemonExecutor
from infra.console import TableRow
from infra.errors import FjarrError, RemoteError, WaitTimeoutError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from infra.az.commands import Group
    from infra.az.operations import ResourceProgress
    from infra.console import Table
    from infra.document import Json
    from infra.process import Command
    from infra.session import Session

TIMEOUT_S: Final = 3600.0
_ACTIVE: Final = "DeploymentActive"
_FIRST_POLL_S: Final = 5.0
"""When the operations are listed first: a deployment that changes nothing is done before."""

_LOCAL_INTERVAL_S: Final = 3.0
_AZURE_INTERVAL_S: Final = 8.0
"""Between two lists. Each starts az, which takes a second or two."""


_LOOK_INTERVAL_S: Final = 0.05
"""How often it is looked whether az has ended."""

_ASK_S: Final = 0.8
"""How long Azure may take to say whether it goes on, after Ctrl-C."""


class LeftRunningError(KeyboardInterrupt):
    """A Ctrl-C after which Azure goes on with the deployment."""


@dataclass(frozen=True, slots=True)
class Deployments:
    """The deployments of one name in a resource group.

    Attributes:
        first_poll_s: After how many seconds the operations are listed first.
        interval_s: How many seconds are between two lists.
    """

    session: Session
    group: Group
    name: str
    clock: Clock
    first_poll_s: float
    interval_s: float

    def run(self, command: Command, title: str) -> Json:
        """Run the command that deploys, and return its output.

        Args:
            command: The az command that creates the deployment and waits until it ends.
            title: What to show above the resources.

        Raises:
            AzureRejectedError: Azure rejected the deployment, or it failed.
            RemoteError: Another deployment was running. It has ended, and nothing of this one was sent.
            KeyboardInterrupt: The user pressed Ctrl-C; `LeftRunningError` if Azure goes on.
        """
        try:
            with self.session.console.table(title) as table:
                try:
                    return self._run(command, table)
                except AzureRejectedError as error:
                    if error.cause.code != _ACTIVE:
                        raise
        except KeyboardInterrupt as interrupt:
            raise self._explained(interrupt) from None
        self.follow()
        what = f"another deployment {self.name!r} was running; it has ended, and nothing of this one was sent"
        raise RemoteError(
            what, command=command.line, hint=f"invoke provision --stage {self.session.stage.name}"
        )

    def follow(self) -> Json:
        """Wait until the deployment that runs has ended, and return it as az shows it.

        Raises:
            AzureRejectedError: The deployment failed or was cancelled.
            WaitTimeoutError: It did not end in an hour.
            KeyboardInterrupt: The user pressed Ctrl-C; `LeftRunningError` if Azure goes on.
        """
        deadline_s = self.clock.elapsed_s() + TIMEOUT_S
        title = f"follow the deployment {self.name} to {self.group.name}"
        try:
            with self.session.console.table(title) as table:
                while is_active(deployment := self._poll(table)):
                    if self.clock.elapsed_s() > deadline_s:
                        hint = f"it may be stuck; this cancels it: {self._cancel_line()}"
                        raise WaitTimeoutError(
                            f"the deployment {self.name!r} did not end in an hour", hint=hint
                        )
                    self.clock.sleep(self.interval_s)
                if has_failed(deployment):
                    command = deployment_show(self.group, self.name).line
                    cause = failure_cause(deployment)
                    raise AzureRejectedError(
                        "the deployment that was followed failed", cause, command=command
                    )
                return deployment
        except KeyboardInterrupt as interrupt:
            raise self._explained(interrupt) from None

    def _run(self, command: Command, table: Table) -> Json:
        with DaemonExecutor(1, "az") as beside:
            running = beside.submit(self.session.az.run, command)
            ended = _ended(running)
            try:
                _wait(ended, self.first_poll_s)
                while not ended:
                    self._show_operations(table)
                    _wait(ended, self.interval_s)
                if table.rows:
                    self._show_operations(table)
            except BaseException:
                # az alone is ended: Azure has the deployment, or never gets it.
                self.session.runner.end_all()
                raise
            return running.result()

    def _poll(self, table: Table) -> Json:
        with DaemonExecutor(1, "az") as beside:
            shown = beside.submit(self.session.az.run, deployment_show(self.group, self.name))
            ended = _ended(shown)
            self._show_operations(table)
            _wait(ended, TIMEOUT_S)
            return shown.result()

    def _show_operations(self, table: Table) -> None:
        try:
            answer = self.session.az.run(deployment_operations(self.group, self.name))
        except FjarrError:
            return  # what is shown meanwhile must not end the deployment
        table.show(tuple(_row(each) for each in parse_operations(answer, self.clock.now())))

    def _explained(self, interrupt: KeyboardInterrupt) -> KeyboardInterrupt:
        """Tell whether Azure goes on, if it answers at once, and return the exception that says so."""
        goes_on = self._find_out()
        if goes_on is False:
            self.session.console.warn(f"interrupted; Azure runs no deployment {self.name}")
            return interrupt
        stage = self.session.stage.name
        self.session.console.warn(
            f"interrupted; Azure {'goes' if goes_on else 'may go'} on with the deployment {self.name}: "
            f"invoke provision --stage {stage} "
            f"follows it, and this cancels it: {self._cancel_line()}"
        )
        return LeftRunningError()

    def _find_out(self) -> bool | None:
        """Return whether the deployment runs; None if Azure does not answer soon: the user waits."""
        executor = DaemonExecutor(1, "az")
        shown = executor.submit(self.session.az.find, deployment_show(self.group, self.name))
        try:
            return is_active(shown.result(_ASK_S))
        except (TimeoutError, FjarrError):
            return None
        finally:
            executor.shutdown(wait=False, cancel_futures=True)

    def _cancel_line(self) -> str:
        return deployment_cancel(self.group, self.name).line.removesuffix(" --output json")


def deployments(session: Session, group: Group, name: str, clock: Clock | None = None) -> Deployments:
    """Return the deployments of one name in a resource group."""
    interval_s = _LOCAL_INTERVAL_S if session.stage.is_local else _AZURE_INTERVAL_S
    return Deployments(session, group, name, clock or SystemClock(), _FIRST_POLL_S, interval_s)


def _ended(running: Future[Json]) -> list[Future[Json]]:
    """Return a list that has the future as soon as it has ended."""
    ended: list[Future[Json]] = []
    running.add_done_callback(ended.append)
    return ended


def _wait(ended: list[Future[Json]], seconds: float) -> None:
    """Wait until there is an entry, at most for some seconds.

    A Ctrl-C in `futures.wait` can leave the future's lock taken, and then its thread never ends: seen once in
    about fifty. Here no lock is taken.
    """
    deadline_s = time.monotonic() + seconds
    while not ended and (left_s := deadline_s - time.monotonic()) > 0:
        time.sleep(min(left_s, _LOOK_INTERVAL_S))


def _row(progress: ResourceProgress) -> TableRow:
    return TableRow(progress.text, progress.progress, progress.seconds)
