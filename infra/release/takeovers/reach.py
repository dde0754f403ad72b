"""Find out, before a release is switched, where its proof will come from: the app's address, or inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from infra.az.revision import NoResponse
from infra.errors import UsageError
from infra.release.takeovers.inside import InsideApp, ReplicaReports

if TYPE_CHECKING:
    from infra.az.app import App
    from infra.clock import Clock
    from infra.console import Console
    from infra.share.protocol import Share

WAIT_S: Final = 6.0
"""How long replicas may take to report before the release is switched: they look once a second."""

_POLL_S: Final = 0.5


def find_way(app: App, share: Share, clock: Clock, console: Console, stage: str) -> App:
    """Ask the app's address once, and return the app to ask from now on.

    Args:
        app: The app.
        share: The share, with the reports of its replicas.
        clock: The clock.
        console: Gets one line if the address does not answer from here.
        stage: The stage's name, for the hint.

    Raises:
        UsageError: The stage is paused, so that no replica could serve anything.
        RemoteError: Azure rejected a request.
    """
    outside = app.outside if isinstance(app, InsideApp) else app
    answer = outside.version()
    if not isinstance(answer, NoResponse):
        return InsideApp(outside, ReplicaReports(share, clock), clock)
    if not answer.is_waiting and outside.is_stopped():
        what = f"the stage {stage} is paused: no replica runs" if stage else "the app is paused"
        raise UsageError(what, hint=f"invoke resume{f' --stage {stage}' if stage else ''}, and then again")
    blocked = answer.unreachable
    inside = InsideApp(outside, ReplicaReports(share, clock), clock, blocked)
    if blocked is None:
        return inside
    console.warn(
        f"the app's address does not answer from here ({blocked.reason}): the proof will come from inside, "
        f"by the replicas' reports on the share; {blocked.hint}"
    )
    end_s = clock.elapsed_s() + WAIT_S
    with console.step("wait for the replicas' reports"):
        while isinstance(inside.version(), NoResponse) and clock.elapsed_s() < end_s:
            clock.sleep(_POLL_S)
    return inside
