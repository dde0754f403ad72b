"""Make an earlier release live again, or restart the live one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from infra.deploy_context import DeployContext, open_deploy_context
from infra.errors import FjarrError, RemoteError, UsageError, WaitTimeoutError
from infra.models.adapter_index import AdapterIndex, read_index, write_index
from infra.models.records import adapters_of, read_adapters, restore, write_record
from infra.release.audit import list_audit, proven_releases
from infra.release.bake import BAKE_S
from infra.release.known import KnownState
from infra.release.lock import TAKES_FREE_LOCK, LockAccess
from infra.release.releases import (
    Live,
    find_fallback,
    is_startable,
    list_releases,
    read_current,
    read_live,
    read_release,
    set_proven,
    why_none_is_live,
)
from infra.release.rollout import Transition, switch
from infra.release.takeovers.approach import PENDING, Approach, choose_approach
from infra.release.takeovers.change import find_change, find_whole_change
from infra.release.takeovers.outcome import NotServed, failure

if TYPE_CHECKING:
    from infra.release.lock import HeldLock
    from infra.release.manifest import Release
    from infra.release.takeovers.change import FindChange
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
        is_restart_pending: Whether the supervisor's own code is another too, which runs from the next start
            of a container on.
    """

    release: str
    previous: str | None
    replica: str
    seconds: float
    outage_s: float | None
    proof: str = "address"
    adapters: tuple[str, ...] = ()
    is_restart_pending: bool = False

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
            ("restart", PENDING if self.is_restart_pending else ""),
        ]
        return "\n".join(f"{name:<9} {value}" for name, value in rows if value)


def roll_back(  # noqa: PLR0913 - the flags of the verb
    session: Session,
    release: str = "",
    *,
    wants_restart: bool = False,
    timeout_s: float | None = None,
    access: LockAccess = TAKES_FREE_LOCK,
    bake_s: float = BAKE_S,
) -> RollbackResult:
    """Make an earlier release live, and return once it serves.

    Args:
        session: The opened stage.
        release: The release's id, or the beginning or the end of it; empty for the one that served before.
        wants_restart: Restart the revision, even if its replicas could take the release over.
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
        return roll_back_to(
            context,
            release,
            wants_restart=wants_restart,
            find_change=lambda paths: find_change(session.runner, paths),
        )


def roll_back_to(
    context: DeployContext,
    release: str = "",
    *,
    wants_restart: bool = False,
    find_change: FindChange = lambda _paths: None,
) -> RollbackResult:
    """Make an earlier release live in an open context.

    Args:
        context: The context.
        release: As for `roll_back`.
        wants_restart: As for `roll_back`.
        find_change: Returns what a change of paths calls for; None if that is not known.
    """
    context = context.reached()
    seen = read_live(context.share)
    target = find_target(context, seen, release)
    with (
        context.hooks.around("rollback", release=target, previous=seen.current),
        context.lock.hold("rollback") as held,
    ):
        held.ending.release = target
        live = _read_unchanged(context, seen, target, is_chosen=bool(release))
        known = read_release(context.share, target)
        adapters = _find_adapters(context, target, known)
        if target == live.current and live.is_proven:
            result = _restore_adapters(context, held, target, adapters)
        else:
            approach = _choose_approach(context, live, known, find_change, wants_restart=wants_restart)
            transition = Transition(
                target, find_fallback(context.share, live, target, context.known), approach
            )
            result = replace(_go_back(context, held, transition, adapters), previous=live.current)
        held.ending.outcome = "proven"
        context.known.set_state(KnownState(target, context.known.state.deployments))
    return replace(result, adapters=tuple(each.id for each in adapters_of(adapters.after)))


@dataclass(frozen=True, slots=True)
class _Adapters:
    """The adapters that are live before a rollback, and those that are to be after it."""

    before: AdapterIndex
    after: AdapterIndex


def _read_unchanged(context: DeployContext, seen: Live, target: str, *, is_chosen: bool) -> Live:
    """Return the live release, once no other command changes it, and check that the target is still right.

    Raises:
        RemoteError: Another release went live, or the target was removed, while this command waited.
    """
    live = read_live(context.share)
    if live.current != seen.current and (not is_chosen or live.current == target):
        what = f"{live.current or 'no release'} went live while this command waited for the lock"
        raise RemoteError(what, hint="look at invoke releases, and roll back again")
    if live.current != seen.current and not is_startable(context.share, target):
        raise RemoteError(f"{target} was removed while this command waited", hint="invoke releases")
    return live


def _choose_approach(
    context: DeployContext,
    live: Live,
    target: Release | None,
    find_change: FindChange,
    *,
    wants_restart: bool,
) -> Approach:
    """Return how the replicas get the release, and announce it."""
    answer, manifest, change = context.app.version(), None, None
    if target is not None:
        manifest = target.manifest
        change = find_whole_change(
            live,
            manifest,
            answer,
            find_change,
            lambda each: read_release(context.share, each, context.known),
        )
    approach = choose_approach(answer, manifest, change, wants_restart=wants_restart)
    context.console.info(approach.text)
    return approach


def _restore_adapters(
    context: DeployContext, held: HeldLock, target: str, adapters: _Adapters
) -> RollbackResult:
    """Make the adapters live again that the live release was last proven with."""
    began_s = context.clock.elapsed_s()
    outcome = context.adapter_rollout(held).switch(adapters.before, adapters.after)
    seconds = round(context.clock.elapsed_s() - began_s, 1)
    replica = ", ".join(outcome.replicas)
    return RollbackResult(target, target, replica, seconds, outage_s=None, proof=outcome.proof)


def _go_back(
    context: DeployContext, held: HeldLock, transition: Transition, adapters: _Adapters
) -> RollbackResult:
    """Make a release live with its adapters, and see both serve."""
    served = _switch(context, held, transition, adapters)
    is_restarted = _prove_adapters(context, held, adapters, served)
    is_pending = transition.approach.is_restart_pending and bool(served.replicas) and not is_restarted
    return replace(_result(transition.target, None, served), is_restart_pending=is_pending)


def _switch(context: DeployContext, held: HeldLock, transition: Transition, adapters: _Adapters) -> Served:
    """Make a release live with its adapters: they are one unit, and what starts the release finds them.

    If it is turned back, so are they. If it stays live although it was not seen to serve, they stay, too.
    """
    is_changed = adapters.after != adapters.before
    if is_changed:
        held.check()
        write_index(context.share, adapters.after)
    try:
        return switch(context.rollout(held), context.share, held, transition)
    except KeyboardInterrupt:
        context.console.warn(
            f"interrupted: {transition.target} may still become live; roll back again to complete it"
        )
        raise
    except FjarrError:
        if is_changed:
            _turn_back(context, held, transition, adapters)
        raise


def _turn_back(context: DeployContext, held: HeldLock, transition: Transition, adapters: _Adapters) -> None:
    """Make the adapters from before live again, if the release is not live and this process has the lock."""
    try:
        held.check()
        if read_current(context.share) != transition.target:
            context.adapter_rollout(held).apply(adapters.before)
    except FjarrError as error:
        context.console.warn(f"the adapters of {transition.target} may still be live: {error.message}")


def _find_adapters(context: DeployContext, target: str, release: Release | None) -> _Adapters:
    """Return what is live, and what was live with a release, as far as that is known and on the share."""
    before = read_index(context.share)
    (adapters,) = read_adapters(context.share, [(target, release)])
    if adapters is None:
        context.console.info(f"the adapters of {target} are not known: those that are live stay")
        return _Adapters(before, before)
    after, gone = restore(context.share, adapters, before)
    if gone:
        context.console.warn(f"not on the share any more: {', '.join(gone)}; what is live instead stays")
    if after != before:
        names = ", ".join(each.id for each in adapters_of(after)) or "none"
        context.console.info(f"with the adapters that it had: {names}")
    return _Adapters(before, after)


def _prove_adapters(context: DeployContext, held: HeldLock, adapters: _Adapters, served: Served) -> bool:
    """Wait until every replica serves the adapters of a release that was seen to serve.

    Returns whether the revision was restarted for that.
    """
    before, after, target = adapters.before, adapters.after, str(held.ending.release)
    rollout, names = context.adapter_rollout(held), after.changed_names(before)
    if not names:
        return False
    try:
        outcome = rollout.prove(after, names, was_restarted=not served.replicas)
    except (RemoteError, WaitTimeoutError) as error:
        held.check()
        rollout.apply(before)
        closing = f"{target} is live, with the adapters that were live before"
        raise type(error)(error.message, details=(closing, *error.details), hint=error.hint) from error
    write_record(context.share, target, after)
    return outcome.is_restarted


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
    live = read_live(context.share)
    if live.current is None:
        hint = "invoke deploy, or invoke rollback if there are releases"
        raise UsageError(why_none_is_live(context.share), hint=hint)
    context = context.reached()
    with (
        context.hooks.around("restart", release=live.current),
        context.lock.hold("restart") as held,
    ):
        live = read_live(context.share)
        if live.current is None:
            raise RemoteError(why_none_is_live(context.share), hint="invoke deploy")
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
    if target == live.current and live.is_proven and not _has_other_adapters(context, live):
        raise UsageError(f"{target} is live already", hint="invoke restart restarts it")
    if not is_startable(context.share, target):
        what = f"{target} was never finished, or was damaged since, and cannot be made live"
        raise UsageError(what, hint="invoke releases")
    return target


def _has_other_adapters(context: DeployContext, live: Live) -> bool:
    """Return whether other adapters are live than the live release was last proven with.

    A rollback or a push that was interrupted leaves them so.
    """
    (recorded,) = read_adapters(context.share, [(str(live.current), live.release)])
    if recorded is None:
        return False
    index = read_index(context.share)
    return restore(context.share, recorded, index)[0].adapters != index.adapters


def _previous(context: DeployContext, live: Live, releases: tuple[str, ...]) -> str:
    """Return the release that was proven last, other than the live one.

    A share without an audit was used by earlier versions only, whose releases were all proven in turn.
    """
    proven = proven_releases(list_audit(context.share))
    older = [each for each in reversed(releases) if live.current is None or each < live.current]
    candidates = (each for each in (*proven, *older) if each != live.current and each in releases)
    target = next((each for each in candidates if is_startable(context.share, each)), None)
    if target is None:
        raise UsageError("there is no earlier release on the share to roll back to", hint="invoke releases")
    return target


def _result(release: str, previous: str | None, served: Served) -> RollbackResult:
    outage_s = None if served.outage is None else round(served.outage.seconds, 1)
    seconds = round(served.seconds, 1)
    return RollbackResult(release, previous, served.replica, seconds, outage_s, served.proof)
