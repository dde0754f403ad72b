"""Stop all replicas of a stage's app, or start them again; nothing is deleted or deployed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from infra.az.app import is_stopped
from infra.az.commands import app_power, app_show
from infra.az.errors import OPERATION_IN_PROGRESS, AzureRejectedError
from infra.document import Json, as_object
from infra.errors import WaitTimeoutError
from infra.interrupts import noting

if TYPE_CHECKING:
    from infra.clock import Clock
    from infra.session import Session

TIMEOUT_S: Final = 600.0
_POLL_S: Final = 2.0


def set_power(session: Session, action: Literal["start", "stop"], clock: Clock) -> dict[str, Json]:
    """Stop or start a stage's app, and return it as az shows it once that is done.

    Raises:
        UsageError: The stage is not provisioned.
        RemoteError: Azure rejected the request.
        WaitTimeoutError: It was not done in ten minutes.
    """
    group, name = session.group(), session.config().aca_app_name
    deadline_s = clock.elapsed_s() + TIMEOUT_S
    command = app_power(group, name, action)
    while True:
        try:
            session.az.run(command)
            break
        except AzureRejectedError as error:
            if error.cause.code != OPERATION_IN_PROGRESS or clock.elapsed_s() > deadline_s:
                raise
        clock.sleep(_POLL_S)
    with noting(f"Azure goes on to {action} the app {name!r}: invoke status shows its state"):
        while not _is_done(app := as_object(session.az.run(app_show(group, name))), action):
            if clock.elapsed_s() > deadline_s:
                what = f"Azure did not {action} the app {name!r} in {TIMEOUT_S:g} s"
                raise WaitTimeoutError(what, command=command.line, hint="invoke status shows its state")
            clock.sleep(_POLL_S)
    return app


def _is_done(app: dict[str, Json], action: str) -> bool:
    is_settled = as_object(app.get("properties")).get("provisioningState") != "InProgress"
    return is_settled and is_stopped(app) == (action == "stop")
