"""Make an earlier release live again, or restart the live one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from infra.deploy_context import DeployContext, open_deploy_context
from infra.errors import FjarrError, RemoteError, UsageError, WaitTimeoutError
from infra.models.adapter_index import AdapterIndex, read_index, write_index
from infra.models.records import adapters_of, read_adapters, restore, write_record
from infra.release.audit import list_audit, proven_releases
from infra.release.bake import BAKE_S
from infra.release.known import KnownState
from infra.release.lock import TAKES_FREE_LOCK, LockAccess
from infra.release.releases import Live, is_finished, list_releases, read_live, read_release, set_proven
from infra.release.rollout import Transition, switch
from infra.release.takeovers.approach import choose_approach
from infra.release.takeovers.outcome import NotServed, failure

if TYPE_CHECKING:
    from infra.release.lock import HeldLock
    from infra.release.manifest import Release
    from infra.release.takeovers.outcome import Served
    from infra.session import Session


@dataclass(frozen=True, slots=True)
class RollbackResult:
    """The result of a rollback or a restart.

    Attributes:
        release: The release that is live now.
        previous: The release that was live before; the same for a restart.
        replica: The replica that was seen to serve it.
        seconds: The time until it was seen to serve.
        outage_s: For how long requests failed meanwhile; None if nothing served before.
        proof: Where it was seen to serve: at the app's `address`, or `inside` of its replicas.
        adapters: The versions of adapters that are live with it; not listed after a restart.
    """

    release: str
    previous: str | None
    replica: str
    seconds: float
    outage_s: float | None
    proof: str = "address"
    adapters: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        rows = [
            ("release", self.release),
            ("before", "" if self.previous == self.release else self.previous or "none"),
            ("adapters", ", ".join(self.adapters)),
            ("replica", self.replica),
            ("took", f"{self.seconds} s"),
            ("outage", "" if self.outage_s is None else f"{self.outage_s} s"),
            ("proven", "from inside, by the replicas' reports" if self.proof == "inside" else ""),
        ]
        return "\n".join(f"{name:<9} {value}" for name, value in rows if value)


def roll_back(
    session: Session,
    release: str = "",
    *,
    timeout_s: float | None = None,
    access: LockAccess = TAKES_FREE_LOCK,
    bake_s: float = BAKE_S,
) -> RollbackResult:
    """Make an earlier release live, and return once it serves.

    Args:
        session: The opened stage.
        release: The release's id, or the beginning or the end of it; empty for the one that served before.
        timeout_s: How long to wait for it; None for the default of the stage's cloud.
        access: How to treat the deploy lock of another holder.
        bake_s: How long to watch the release after the proof.

    Raises:
        UsageError: There is no such release.
        RemoteError: Azure rejected a request, or the release does not serve; the live one was restored.
        WaitTimeoutError: It did not serve in time; the live one was restored.
    """
    session.require_cloud()
    with open_deploy_context(session, timeout_s, access, bake_s) as context:
        return roll_back_to(context, release)


def roll_back_to(context: DeployContext, release: str = "") -> RollbackResult:
    """Make an earlier release live in an open context. The parameters are those of `roll_back`."""
    context = context.reached()
    live = read_live(context.share, context.known)
    target = find_target(context, live, release)
    with (
        context.hooks.around("rollback", release=target, previous=live.current),
        context.lock.hold("rollback") as held,
    ):
        held.ending.release = target
        fallback = live.current if live.current != target else None
        known = read_release(context.share, target)
        before, after = _find_adapters(context, target, known)
        manifest = None if known is None else known.manifest
        approach = choose_approach(context.app.version(), manifest, None, wants_restart=False)
        context.console.info(approach.text)
        transition = Transition(target, fallback, approach)
        # A release and its adapters are one unit: what starts the release finds the adapters that it had.
        write_index(context.share, after)
        try:
            served = switch(context.rollout(held), context.share, held, transition)
        except FjarrError:
            write_index(context.share, before)
            raise
        _prove_adapters(context, held, target, before, after)
        held.ending.outcome = "proven"
        context.known.set_state(KnownState(target, context.known.state.deployments))
    return _result(target, live.current, served, tuple(each.id for each in adapters_of(after)))


def _find_adapters(
    context: DeployContext, target: str, release: Release | None
) -> tuple[AdapterIndex, AdapterIndex]:
    """Return what is live, and what was live with a release, as far as that is known and on the share."""
    before = read_index(context.share)
    (adapters,) = read_adapters(context.share, [(target, release)])
    if adapters is None:
        context.console.info(f"the adapters of {target} are not known: those that are live stay")
        return before, before
    after, gone = restore(context.share, adapters, before)
    if gone:
        context.console.warn(f"not on the share any more: {', '.join(gone)}; what is live instead stays")
    if after != before:
        names = ", ".join(each.id for each in adapters_of(after)) or "none"
        context.console.info(f"with the adapters that it had: {names}")
    return before, after


def _prove_adapters(
    context: DeployContext, held: HeldLock, target: str, before: AdapterIndex, after: AdapterIndex
) -> None:
    """Wait until every replica serves the adapters of a release that was seen to serve."""
    rollout, names = context.adapter_rollout(held), after.changed_names(before)
    if not names:
        return
    try:
        rollout.prove(after, names)
    except (RemoteError, WaitTimeoutError) as error:
        rollout.apply(before)
        closing = f"{target} is live, with the adapters that were live before"
        raise type(error)(error.message, details=(closing, *error.details), hint=error.hint) from error
    write_record(context.share, target, after)


def restart(
    session: Session, *, timeout_s: float | None = None, access: LockAccess = TAKES_FREE_LOCK
) -> RollbackResult:
    """Restart the replicas, and return once the live release serves again.

    Raises:
        UsageError: Nothing is deployed.
        RemoteError: Azure rejected a request, or the release crashes.
        WaitTimeoutError: It did not serve in time.
    """
    session.require_cloud()
    with open_deploy_context(session, timeout_s, access) as context:
        return restart_live(context)


def restart_live(context: DeployContext) -> RollbackResult:
    """Restart the replicas in an open context."""
    live = read_live(context.share, context.known)
    if live.current is None:
        raise UsageError("nothing is deployed on this stage", hint="invoke deploy")
    context = context.reached()
    with (
        context.hooks.around("restart", release=live.current),
        context.lock.hold("restart") as held,
    ):
        held.ending.release = live.current
        outcome = context.rollout(held).restart(live.current)
        if isinstance(outcome, NotServed):
            closing = "nothing was changed; invoke rollback makes another one live"
            raise failure(outcome, live.current, closing)
        held.ending.outcome = "proven"
        if not live.is_proven:
            set_proven(context.share, live.current)
    return _result(live.current, live.current, outcome)


def find_target(context: DeployContext, live: Live, wanted: str) -> str:
    """Return the release to roll back to.

    Args:
        context: The open context.
        live: The live release.
        wanted: Its id, or the beginning or the end of it; empty for the last one that was proven before.

    Raises:
        UsageError: There is none, several match, or it is live already.
    """
    releases = list_releases(context.share)
    if not wanted:
        return _previous(context, live, releases)
    found = [each for each in releases if each.startswith(wanted) or each.endswith(wanted)]
    if len(found) != 1:
        what = f"{'no release' if not found else f'{len(found)} releases'} on the share match {wanted!r}"
        raise UsageError(what, details=tuple(found), hint="invoke releases")
    (target,) = found
    if target == live.current and live.is_proven:
        raise UsageError(f"{target} is live already", hint="invoke restart restarts it")
    if not is_finished(context.share, target):
        raise UsageError(f"{target} was never finished, and cannot be made live", hint="invoke releases")
    return target


def _previous(context: DeployContext, live: Live, releases: tuple[str, ...]) -> str:
    """Return the release that was proven last, other than the live one.

    A share without an audit was used by earlier versions only, whose releases were all proven in turn.
    """
    proven = proven_releases(list_audit(context.share))
    older = [each for each in reversed(releases) if live.current is None or each < live.current]
    candidates = (each for each in (*proven, *older) if each != live.current and each in releases)
    target = next((each for each in candidates if is_finished(context.share, each)), None)
    if target is None:
        raise UsageError("there is no earlier release on the share to roll back to", hint="invoke releases")
    return target


def _result(
    release: str, previous: str | None, served: Served, adapters: tuple[str, ...] = ()
) -> RollbackResult:
    outage_s = None if served.outage is None else round(served.outage.seconds, 1)
    seconds = round(served.seconds, 1)
    return RollbackResult(release, previous, served.replica, seconds, outage_s, served.proof, adapters)
