"""Deploy `inference/` as a release, and wait until it serves.

    scan -> compare with the live release -> upload it packed -> CURRENT -> takeover -> proof

The replicas watch `CURRENT` and take the release over by themselves, so that a deployment keeps their model
and their GPU. Only those that do not watch it are restarted, or all of them with `--restart`.

A release that does not serve is rolled back to the previous one. A deployment that was interrupted at any
step can be run again. A second deployment at the same time fails, and its error names the lock's holder.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, NoReturn

from infra.az.revision import VersionResponse
from infra.clock import SystemClock
from infra.config.package_locks import require_current
from infra.deploy_context import DeployContext, open_deploy_context
from infra.errors import FjarrError
from infra.models.adapter_index import read_index
from infra.models.records import adapters_of, adapters_served
from infra.release.archive import is_packable
from infra.release.bake import BAKE_S
from infra.release.cleaning import prune, prune_packages, remove_old_reports, remove_unfinished
from infra.release.known import KnownState
from infra.release.lock import TAKES_FREE_LOCK, LockAccess
from infra.release.manifest import Manifest, Origin, Release, Replaced
from infra.release.origin import find_origin
from infra.release.plan import Plan, make_plan
from infra.release.releases import (
    TREE,
    Live,
    find_fallback,
    find_finished,
    is_startable,
    read_live,
    read_release,
)
from infra.release.rollout import Transition, switch
from infra.release.storing import Draft, StoredRelease, store
from infra.release.takeovers.approach import PENDING, Approach, choose_approach
from infra.release.takeovers.change import FindChange, find_change, find_whole_change
from infra.release.takeovers.outcome import NotServed, Served, failure
from infra.release.tree import FolderWatch, scan_tree
from infra.wording import count, readable_size

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from infra.release.lock import HeldLock
    from infra.session import Session


@dataclass(frozen=True, slots=True)
class DeployResult:
    """The result of a deployment.

    Attributes:
        release: The release that is live now.
        previous: The previous release that was seen to serve; None if there was none.
        has_changed: False if this release was live already, and nothing was restarted.
        uploaded_files: The number of files that were uploaded.
        uploaded_bytes: Their size together.
        replica: A replica that was seen to serve the release; empty if nothing has changed.
        seconds: The time from the change of `CURRENT` until the release was seen to serve.
        outage_s: For how long requests failed meanwhile; None if nothing served before.
        replicas: All replicas that were seen to serve it; empty after a restart, of which one is enough.
        is_restarted: Whether the revision was restarted.
        proof: Where it was seen to serve: at the app's `address`, or `inside` of its replicas, where the
            address does not answer from this machine; empty if nothing has changed.
        is_restart_pending: Whether the supervisor's own code has changed too, which runs from the next start
            of a container on.
    """

    release: str
    previous: str | None
    has_changed: bool
    uploaded_files: int = 0
    uploaded_bytes: int = 0
    replica: str = ""
    seconds: float = 0.0
    outage_s: float | None = None
    replicas: tuple[str, ...] = ()
    is_restarted: bool = False
    proof: str = ""
    is_restart_pending: bool = False

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        if not self.has_changed:
            return f"{self.release} is live already"
        way = "after a restart" if self.is_restarted else "without a restart"
        rows = [
            ("release", self.release),
            ("before", self.previous or "none"),
            ("uploaded", f"{count(self.uploaded_files, 'file')}, {readable_size(self.uploaded_bytes)}"),
            ("replica", ", ".join(self.replicas) or self.replica),
            ("took", f"{self.seconds} s until it was proven, {way}"),
            ("outage", "" if self.outage_s is None else f"{self.outage_s} s"),
            ("proven", "from inside, by the replicas' reports" if self.proof == "inside" else ""),
            ("restart", PENDING if self.is_restart_pending else ""),
        ]
        return "\n".join(f"{name:<9} {value}" for name, value in rows if value)


@dataclass(frozen=True, slots=True)
class LocalTree:
    """The tree to deploy.

    Attributes:
        origin: Called only when a new release is created.
        change: Returns what a change of paths calls for; None if that is not known.
    """

    root: Path
    manifest: Manifest
    origin: Callable[[], Origin]
    change: FindChange = lambda _paths: None


@dataclass(frozen=True, slots=True)
class DeployPlan:
    """What a deployment would change.

    Attributes:
        current: The release that is live now.
        digest: The digest of the local tree.
        plan: The difference to the live release.
        has_changes: Whether the tree is not live yet, or not proven.
        approach: How the replicas would get it; None if nothing changes.
    """

    current: str | None
    digest: str
    plan: Plan
    has_changes: bool
    approach: Approach | None = None

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return {
            "current": self.current,
            "digest": self.digest,
            "changed": self.has_changes,
            "added": [entry.path for entry in self.plan.added],
            "modified": [entry.path for entry in self.plan.changed],
            "removed": list(self.plan.removed),
            "upload_bytes": self.plan.upload_bytes,
            "approach": "" if self.approach is None else self.approach.text,
            "restarts": self.approach is not None and self.approach.restarts,
            "is_restart_pending": self.approach is not None and self.approach.is_restart_pending,
        }

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        if not self.has_changes:
            return f"{self.current} is live already"
        approach = () if self.approach is None else (self.approach.text,)
        return "\n".join((f"a new release, {_after(self.current)}:", *self.plan.lines(), *approach))


def deploy(  # noqa: PLR0913 - the flags of the verb
    session: Session,
    *,
    force: bool = False,
    restart: bool = False,
    timeout_s: float | None = None,
    access: LockAccess = TAKES_FREE_LOCK,
    bake_s: float = BAKE_S,
) -> DeployResult:
    """Make the local tree the live release of a stage, and return once it serves.

    Args:
        session: The opened stage.
        force: Upload everything and start it anew, even if the same tree is live already.
        restart: Restart the revision, even if its replicas could take the release over.
        timeout_s: How long to wait for the release; None for the default of the stage's cloud.
        access: How to treat the deploy lock of another holder.
        bake_s: How long to watch the release after the proof, for a crash that still turns it back.

    Raises:
        UsageError: The stage is not provisioned, or the tree cannot be deployed.
        RemoteError: Another deployment holds the lock, Azure rejected a request, or the release crashed and
            was rolled back.
        WaitTimeoutError: The release did not serve in time and was rolled back.
    """
    manifest = _scan(session)
    with open_deploy_context(session, timeout_s, access, bake_s) as context:
        return deploy_tree(context, _local_tree(session, context, manifest), force=force, restart=restart)


def watch_deploy(
    session: Session, *, timeout_s: float | None = None, access: LockAccess = TAKES_FREE_LOCK
) -> NoReturn:
    """Deploy the local tree, and again whenever a file of it is saved, until Ctrl-C.

    A failure is shown and does not end it: the release before serves on, and the next save may mend it.

    Raises:
        UsageError: The stage is not provisioned.
        KeyboardInterrupt: The user has ended it.
    """
    session.require_cloud()
    watch = FolderWatch(session.root / TREE, SystemClock())
    with open_deploy_context(session, timeout_s, access) as context:
        while True:
            stamps = watch.read_stamps()
            try:
                result = deploy_tree(context, _local_tree(session, context, _scan(session)))
                session.console.info(f"{result.to_text()}\nwatching {TREE}/; Ctrl-C ends it")
            except FjarrError as error:
                session.console.warn(f"{error}\nwatching {TREE}/ for a correction; Ctrl-C ends it")
            watch.wait(stamps)


def plan_deploy(session: Session) -> DeployPlan:
    """Return what `deploy` would change, and change nothing.

    Raises:
        UsageError: The stage is not provisioned, or the tree cannot be deployed.
        RemoteError: Azure denies access to the share.
    """
    manifest = _scan(session)
    with open_deploy_context(session, None) as context:
        live = read_live(context.share)
        return plan_tree(context, _local_tree(session, context, manifest), live)


def plan_tree(context: DeployContext, tree: LocalTree, live: Live) -> DeployPlan:
    """Return what a deployment of a tree would change in an open context."""
    plan = make_plan(tree.manifest, live.manifest)
    if _is_on_share(context, live, tree.manifest):
        return DeployPlan(live.current, tree.manifest.digest, plan, has_changes=False)
    approach = _find_approach(context, tree, live, wants_restart=False)
    return DeployPlan(live.current, tree.manifest.digest, plan, has_changes=True, approach=approach)


def deploy_tree(
    context: DeployContext, tree: LocalTree, *, force: bool = False, restart: bool = False
) -> DeployResult:
    """Deploy a tree in an open context. The parameters are those of `deploy`."""
    context = context.reached()
    if not force and not restart and not _is_known_to_differ(context, tree.manifest):
        live = read_live(context.share)
        if _is_on_share(context, live, tree.manifest):
            return _confirm_live(context, live)
    with context.hooks.around("deploy", digest=tree.manifest.digest) as facts:
        with context.lock.hold("deploy") as held:
            live = read_live(context.share, context.known)
            facts.set(previous=live.current or "")
            if not force and _is_on_share(context, live, tree.manifest):
                return _restart_live(context, held, live) if restart else _confirm_live(context, live)
            if held.was_broken:
                _remove_unfinished(context)
            stored = _ensure_release(context, held, tree, live, force=force)
            held.ending.release = stored.release
            facts.set(release=stored.release)
            approach = _choose_approach(context, tree, live, wants_restart=restart)
            served = _go_live(context, held, stored.release, live, approach)
            held.ending.outcome = "proven"
            _finish(context, stored.release)
        is_pending = approach.is_restart_pending and bool(served.replicas)
        return replace(_result(stored, live, served), is_restart_pending=is_pending)


def _local_tree(session: Session, context: DeployContext, manifest: Manifest) -> LocalTree:
    return LocalTree(
        session.root,
        manifest,
        lambda: find_origin(session.runner, context.lock.holder, context.clock.now(), TREE),
        lambda paths: find_change(session.runner, paths),
    )


def _scan(session: Session) -> Manifest:
    require_current(session.root / TREE)
    with session.console.step(f"read {TREE}/"):
        return scan_tree(session.root / TREE)


def _is_known_to_differ(context: DeployContext, manifest: Manifest) -> bool:
    """Return whether the last release that this machine saw live was another, as is likely still so."""
    proven = context.known.state.proven
    return proven is not None and not proven.endswith(f"-{manifest.digest[:8]}")


def _result(stored: StoredRelease, live: Live, served: Served) -> DeployResult:
    return DeployResult(
        release=stored.release,
        previous=live.proven or live.current,
        has_changed=True,
        uploaded_files=stored.uploaded_files,
        uploaded_bytes=stored.uploaded_bytes,
        replica=served.replica,
        seconds=round(served.seconds, 1),
        outage_s=None if served.outage is None else round(served.outage.seconds, 1),
        replicas=served.replicas,
        is_restarted=not served.replicas,
        proof=served.proof,
    )


def _is_on_share(context: DeployContext, live: Live, manifest: Manifest) -> bool:
    """Return whether a tree is live and proven, and replicas can start it: files may be gone since."""
    is_same = live.is_proven and live.is_same(manifest)
    return is_same and is_startable(context.share, str(live.current))


def _confirm_live(context: DeployContext, live: Live) -> DeployResult:
    """Wait until a release that is live already serves, and change nothing."""
    release = str(live.current)
    context.console.info(
        f"the same tree is live already, as {release}: nothing to upload, nothing to restart"
    )
    answer = context.app.version()
    if not (isinstance(answer, VersionResponse) and answer.is_ready and answer.release == release):
        outcome = context.rollout(None).wait(release)
        if isinstance(outcome, NotServed):
            raise failure(outcome, release, "nothing was changed; invoke restart restarts it")
    return DeployResult(release, release, has_changed=False)


def _restart_live(context: DeployContext, held: HeldLock, live: Live) -> DeployResult:
    """Restart the revision with the release that is live already."""
    release = str(live.current)
    outcome = context.rollout(held).restart(release)
    if isinstance(outcome, NotServed):
        raise failure(outcome, release, "it is still the live one: nothing on the share was changed")
    return replace(_result(StoredRelease(release), live, outcome), previous=release)


def _choose_approach(context: DeployContext, tree: LocalTree, live: Live, *, wants_restart: bool) -> Approach:
    """Return how the replicas get the release, and announce it."""
    approach = _find_approach(context, tree, live, wants_restart=wants_restart)
    context.console.info(approach.text)
    return approach


def _find_approach(context: DeployContext, tree: LocalTree, live: Live, *, wants_restart: bool) -> Approach:
    answer = context.app.version()
    change = find_whole_change(
        live,
        tree.manifest,
        answer,
        tree.change,
        lambda each: read_release(context.share, each, context.known),
    )
    return choose_approach(answer, tree.manifest, change, wants_restart=wants_restart)


def _remove_unfinished(context: DeployContext) -> None:
    for release in remove_unfinished(context.share, context.known):
        context.console.info(f"removed {release}, which an earlier deployment left unfinished")


def _ensure_release(
    context: DeployContext, held: HeldLock, tree: LocalTree, live: Live, *, force: bool
) -> StoredRelease:
    """Return the finished release on the share with these files, after uploading it if it is missing."""
    # An archive is uploaded in one request, which is no more than a search for an equal release takes.
    is_searched = not force and not is_packable(tree.manifest)
    finished = find_finished(context.share, tree.manifest) if is_searched else None
    if finished is not None:
        context.console.info(f"the same tree is on the share already, as {finished}: nothing to upload")
        return StoredRelease(finished)
    base = None if force else live.current
    draft = Draft(
        Release(tree.manifest, _find_served(context, tree.origin())),
        base,
        make_plan(tree.manifest, live.manifest if base else None),
    )
    context.console.info(f"release {draft.release.id} of {draft.release.source}, {_after(live.current)}:")
    for line in draft.plan.lines():
        context.console.info(f"  {line}")
    stored = store(context.share, context.console, held, tree.root, draft)
    context.known.remember(draft.release)
    return stored


def _find_served(context: DeployContext, origin: Origin) -> Origin:
    """Return the origin with what is served now, for the list of releases and for rollbacks."""
    answer = context.app.version()
    if not isinstance(answer, VersionResponse) or not answer.is_ready or not answer.release:
        return replace(origin, adapters=adapters_of(read_index(context.share)))
    adapters = adapters_served(answer)
    if answer.adapters and not adapters:
        # The server is of a release that knows no versions.
        adapters = adapters_of(read_index(context.share))
    return replace(origin, replaced=Replaced(answer.release, answer.adapters), adapters=adapters)


def _go_live(context: DeployContext, held: HeldLock, release: str, live: Live, approach: Approach) -> Served:
    fallback = find_fallback(context.share, live, release, context.known)
    served = switch(context.rollout(held), context.share, held, Transition(release, fallback, approach))
    context.console.info(f"{release} serves from {', '.join(served.replicas) or served.replica}")
    if served.outage is not None:
        context.console.info(str(served.outage))
    return served


def _finish(context: DeployContext, release: str) -> None:
    """Remember the release, and now and then remove old ones: a listing costs requests."""
    is_due = context.known.is_cleaning_due
    deployments = 0 if is_due else (context.known.state.deployments or 0) + 1
    context.known.set_state(KnownState(release, deployments))
    if is_due:
        _clean(context)


def _clean(context: DeployContext) -> None:
    """Remove leftovers and old releases. A failure is only a warning, since the deployment has succeeded."""
    try:
        _remove_unfinished(context)
        remove_old_reports(context.share, context.clock.now().timestamp())
        removed = prune(context.share, read_live(context.share, context.known))
        prune_packages(context.share, context.known)
    except FjarrError as error:
        context.console.warn(f"old releases were not removed: {error.message}")
        return
    if removed:
        context.console.info(f"removed {count(len(removed), 'old release')}")


def _after(current: str | None) -> str:
    return "the first one" if current is None else f"after {current}"
