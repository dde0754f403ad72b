"""Open what a change of a stage needs, as one value: the share, the app, the lock and the clock."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from infra.az.app import AzureApp
from infra.clock import Clock, SystemClock
from infra.concurrency import DaemonExecutor
from infra.models.adapter_rollout import AdapterRollout
from infra.release.holder import this_process
from infra.release.hooks import NO_HOOKS, Hooks, find_hooks
from infra.release.known import KnownReleases
from infra.release.lock import TAKES_FREE_LOCK, DeployLock, HeldLock, LockAccess
from infra.release.releases import NOTHING_KNOWN
from infra.release.rollout import Rollout, in_background
from infra.release.takeovers.inside import InsideApp, ReplicaReports
from infra.release.takeovers.reach import find_way
from infra.resources.file_share import open_share
from infra.resources.log_streams import read_streams

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from infra.az.app import App
    from infra.console import Console
    from infra.release.takeovers.outcome import Background
    from infra.session import Session
    from infra.share.protocol import Share

LOCAL_TIMEOUT_S: Final = 600.0
AZURE_TIMEOUT_S: Final = 2400.0
"""On Azure a GPU node may have to be allocated and the image pulled, which can take 25 minutes."""

_THREADS: Final = 2
_TAIL_LINES: Final = 50


@dataclass(frozen=True, slots=True)
class DeployContext:
    """The share, the app and the lock of an opened stage, with what is needed to wait for a release.

    Attributes:
        timeout_s: How long to wait for a release to serve.
        known: The releases that this machine knows.
        hooks: The user's programs that run before and after a change.
        bake_s: How long a release is watched after the proof.
        stage: The stage's name.
    """

    share: Share
    app: App
    lock: DeployLock
    clock: Clock
    console: Console
    background: Background
    timeout_s: float
    known: KnownReleases = NOTHING_KNOWN
    hooks: Hooks = NO_HOOKS
    bake_s: float = 0.0
    stage: str = ""

    def reached(self) -> DeployContext:
        """Return this context with the app to ask, once its address was asked: see `find_way`.

        Raises:
            UsageError: The stage is paused.
        """
        return replace(self, app=find_way(self.app, self.share, self.clock, self.console, self.stage))

    def rollout(self, held: HeldLock | None) -> Rollout:
        """Return a rollout. While it waits, it renews the lock, if one is held."""
        renew_lock = (lambda: None) if held is None else held.renew
        return Rollout(
            self.app, self.clock, self.console, self.timeout_s, self.background, renew_lock, self.bake_s
        )

    def adapter_rollout(self, held: HeldLock) -> AdapterRollout:
        """Return a rollout of adapters, which renews the lock while it waits."""
        return AdapterRollout(self.share, self.rollout(held), held)


@contextmanager
def open_deploy_context(
    session: Session,
    timeout_s: float | None,
    access: LockAccess = TAKES_FREE_LOCK,
    bake_s: float = 0.0,
) -> Iterator[DeployContext]:
    """Open a stage's share and app for the length of a `with` block.

    Args:
        session: The opened stage.
        timeout_s: How long to wait for a release to serve; None for the default of the stage's cloud.
        access: How to treat the deploy lock of another holder.
        bake_s: How long to watch a release after the proof.

    Raises:
        UsageError: The stage is not provisioned.
        RemoteError: Azure denies access to the share.
    """
    clock = SystemClock()
    config = session.config()
    app = AzureApp(
        az=session.az,
        group=session.group(),
        name=config.aca_app_name,
        endpoint_url=config.endpoint_url,
        clock=clock,
        tail=lambda replica: console_tail(session, replica),
    )
    with (
        open_share(session, clock) as share,
        DaemonExecutor(_THREADS, "az") as pool,
    ):
        yield DeployContext(
            share=share,
            app=InsideApp(app, ReplicaReports(share, clock), clock),
            lock=DeployLock(share, clock, this_process(), session.console.warn, access=access),
            clock=clock,
            console=session.console,
            background=in_background(pool),
            timeout_s=timeout_s or (LOCAL_TIMEOUT_S if session.stage.is_local else AZURE_TIMEOUT_S),
            known=KnownReleases(_known_folder(session)),
            hooks=find_hooks(session),
            bake_s=bake_s,
            stage=session.stage.name,
        )


def _known_folder(session: Session) -> Path:
    """Return where the releases of a stage's share are kept on this machine."""
    config = session.config()
    return session.stage.state_dir / "releases" / f"{config.storage_account_name}-{config.file_share_name}"


def console_tail(session: Session, replica: str) -> tuple[str, ...]:
    """Return the last lines of a replica's console log."""
    records = read_streams(session, tail=_TAIL_LINES, kinds=("console",))
    return tuple(record.text for record in records if record.replica == replica)
