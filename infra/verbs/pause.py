"""Stop a stage's replicas, and with them the bill for computing, or start them again.

All data, keys and settings stay.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from infra.az.app import is_stopped
from infra.az.commands import app_show, environment_list
from infra.clock import Clock, SystemClock
from infra.deploy_context import open_deploy_context
from infra.document import as_object
from infra.release.releases import read_live
from infra.release.takeovers.outcome import NotServed, failure
from infra.resources.billing import Bill, app_bills, find_environment
from infra.resources.power import set_power

if TYPE_CHECKING:
    from infra.session import Session


@dataclass(frozen=True, slots=True)
class PauseResult:
    """A stage that is paused.

    Attributes:
        app: The name of the app.
        has_changed: False if it was paused before.
        bills: What Azure bills from now on; empty for a local stage.
    """

    stage: str
    app: str
    has_changed: bool
    bills: tuple[Bill, ...]

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        bills = [bill.to_json() for bill in self.bills]
        return {"stage": self.stage, "app": self.app, "changed": self.has_changed, "bills": bills}

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        first = f"{self.app} {'is paused' if self.has_changed else 'was paused already'}: no replica runs"
        bills = [f"still billed: {bill.to_text()}" for bill in self.bills if bill.is_running]
        return "\n".join((first, *bills, f"invoke resume --stage {self.stage} starts it again"))


def pause(session: Session, clock: Clock | None = None) -> PauseResult:
    """Stop the replicas of a stage's app.

    Raises:
        UsageError: The stage is not provisioned, or its embedded Azure is stopped.
        RemoteError: Azure rejected a request.
        WaitTimeoutError: The app did not stop in time.
    """
    config, group = session.config(), session.group()
    session.require_cloud()
    app = as_object(session.az.run(app_show(group, config.aca_app_name)))
    has_changed = not is_stopped(app)
    if has_changed:
        with session.console.step(f"stop the replicas of {config.aca_app_name}"):
            app = set_power(session, "stop", clock or SystemClock())
    if session.stage.is_local:
        return PauseResult(session.stage.name, config.aca_app_name, has_changed, ())
    environment = find_environment(session.az.run(environment_list(group)), app)
    bills = app_bills(app, environment, 0, config.storage_account_name)
    session.console.info("a GPU that is given back may not be free when the stage is resumed")
    return PauseResult(session.stage.name, config.aca_app_name, has_changed, bills)


@dataclass(frozen=True, slots=True)
class ResumeResult:
    """A stage that runs again.

    Attributes:
        app: The name of the app.
        has_changed: False if it was not paused.
        release: The release that serves; None if none is deployed.
        seconds: The time from the start until the release was seen to serve.
    """

    stage: str
    app: str
    has_changed: bool
    release: str | None
    seconds: float = 0.0

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        first = f"{self.app} {'runs again' if self.has_changed else 'was not paused'}"
        if self.release is None:
            return f"{first}; nothing is deployed yet: invoke deploy --stage {self.stage}"
        return f"{first}, and serves {self.release}"


def resume(session: Session, *, timeout_s: float | None = None) -> ResumeResult:
    """Start the replicas of a stage's app, and return once its release serves.

    Args:
        session: The opened stage.
        timeout_s: How long to wait for the release; None for the default of the stage's cloud.

    Raises:
        UsageError: The stage is not provisioned, or its embedded Azure is stopped.
        RemoteError: Azure rejected a request, or the release crashes.
        WaitTimeoutError: The release did not serve in time.
    """
    stage, name = session.stage.name, session.config().aca_app_name
    session.require_cloud()
    has_changed = is_stopped(as_object(session.az.run(app_show(session.group(), name))))
    with open_deploy_context(session, timeout_s) as context:
        start_s = context.clock.elapsed_s()
        if has_changed:
            with session.console.step(f"start the replicas of {name}"):
                set_power(session, "start", context.clock)
        release = read_live(context.share).current
        if release is None:
            return ResumeResult(stage, name, has_changed, None)
        outcome = context.rollout(None).wait(release)
        if isinstance(outcome, NotServed):
            raise failure(outcome, release, "the app was started; nothing was changed on the share")
        return ResumeResult(stage, name, has_changed, release, round(context.clock.elapsed_s() - start_s, 1))
