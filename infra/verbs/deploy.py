"""Deploy `inference/` as a release, and wait until it serves.

    scan -> compare with the live release -> upload new files -> manifest -> CURRENT -> restart -> proof

A release that does not serve is rolled back to the previous one. A deployment that was interrupted at any
step can be run again. A second deployment at the same time fails, and its error names the lock's holder.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from infra.az.revision import VersionResponse
from infra.deploy_context import DeployContext, open_deploy_context
from infra.errors import FjarrError
from infra.release.manifest import Manifest, Origin, Release, scan_tree
from infra.release.origin import find_origin
from infra.release.plan import Plan, make_plan
from infra.release.releases import (
    Live,
    copy_unchanged,
    find_fallback,
    find_finished,
    finish_release,
    folder_of,
    prune,
    read_live,
    remove_unfinished,
)
from infra.release.rollout import NotServed, Served, failure, switch
from infra.share.protocol import Upload
from infra.wording import count, readable_size

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from infra.release.lock import HeldLock
    from infra.session import Session

TREE: Final = "inference"
"""The folder that a release contains."""


@dataclass(frozen=True, slots=True)
class DeployResult:
    """The result of a deployment.

    Attributes:
        release: The release that is live now.
        previous: The previous release that was seen to serve; None if there was none.
        has_changed: False if this release was live already, and nothing was restarted.
        uploaded_files: The number of files that were uploaded.
        uploaded_bytes: Their size together.
        replica: The replica that was seen to serve the release; empty if nothing was restarted.
        seconds: The time from the restart until the release was seen to serve.
        outage_s: For how long requests failed meanwhile; None if nothing served before.
    """

    release: str
    previous: str | None
    has_changed: bool
    uploaded_files: int = 0
    uploaded_bytes: int = 0
    replica: str = ""
    seconds: float = 0.0
    outage_s: float | None = None

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        if not self.has_changed:
            return f"{self.release} is live already"
        rows = [
            ("release", self.release),
            ("before", self.previous or "none"),
            ("uploaded", f"{count(self.uploaded_files, 'file')}, {readable_size(self.uploaded_bytes)}"),
            ("replica", self.replica),
            ("took", f"{self.seconds} s from the restart to the proof"),
            ("outage", "" if self.outage_s is None else f"{self.outage_s} s"),
        ]
        return "\n".join(f"{name:<9} {value}" for name, value in rows if value)


@dataclass(frozen=True, slots=True)
class LocalTree:
    """The tree to deploy. `origin` is called only when a new release is created."""

    root: Path
    manifest: Manifest
    origin: Callable[[], Origin]


@dataclass(frozen=True, slots=True)
class _Draft:
    """A release that is not on the share yet, and its plan relative to the release `base`."""

    release: Release
    base: str | None
    plan: Plan


@dataclass(frozen=True, slots=True)
class _StoredRelease:
    """A release on the share, and what was uploaded for it."""

    release: str
    uploaded_files: int
    uploaded_bytes: int


def deploy(
    session: Session, *, force: bool = False, timeout_s: float | None = None, break_lock: bool = False
) -> DeployResult:
    """Make the local tree the live release of a stage, and return once it serves.

    Args:
        session: The opened stage.
        force: Upload everything and restart, even if the same tree is live already.
        timeout_s: How long to wait for the release; None for the default of the stage's cloud.
        break_lock: Take the deploy lock from its current holder.

    Raises:
        UsageError: The stage is not provisioned, or the tree cannot be deployed.
        RemoteError: Another deployment holds the lock, Azure rejected a request, or the release crashed and
            was rolled back.
        WaitTimeoutError: The release did not serve in time and was rolled back.
    """
    with session.console.step(f"read {TREE}/"):
        manifest = scan_tree(session.root / TREE)
    with open_deploy_context(session, timeout_s) as context:
        tree = LocalTree(
            session.root,
            manifest,
            lambda: find_origin(session.runner, context.lock.holder, context.clock.now(), TREE),
        )
        return deploy_tree(context, tree, force=force, break_lock=break_lock)


def deploy_tree(
    context: DeployContext, tree: LocalTree, *, force: bool = False, break_lock: bool = False
) -> DeployResult:
    """Deploy a tree in an open context. The parameters are those of `deploy`."""
    live = read_live(context.share)
    if _is_up_to_date(live, tree.manifest, force=force):
        return _confirm_live(context, live)
    with context.lock.hold("deploy", break_lock=break_lock) as held:
        live = read_live(context.share)  # read again: another deployment may have ended meanwhile
        if _is_up_to_date(live, tree.manifest, force=force):
            return _confirm_live(context, live)
        _remove_unfinished(context)
        stored = _ensure_release(context, held, tree, live, force=force)
        served = _go_live(context, held, stored.release, live)
        _prune(context)
    return DeployResult(
        release=stored.release,
        previous=live.proven or live.current,
        has_changed=True,
        uploaded_files=stored.uploaded_files,
        uploaded_bytes=stored.uploaded_bytes,
        replica=served.replica,
        seconds=round(served.seconds, 1),
        outage_s=None if served.outage is None else round(served.outage.seconds, 1),
    )


def _is_up_to_date(live: Live, manifest: Manifest, *, force: bool) -> bool:
    return not force and live.is_proven and live.is_same(manifest)


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
            raise failure(
                outcome, release, "nothing was changed; invoke deploy --force creates it again and restarts"
            )
    return DeployResult(release, release, has_changed=False)


def _remove_unfinished(context: DeployContext) -> None:
    for release in remove_unfinished(context.share):
        context.console.info(f"removed {release}, which an earlier deployment left unfinished")


def _ensure_release(
    context: DeployContext, held: HeldLock, tree: LocalTree, live: Live, *, force: bool
) -> _StoredRelease:
    """Return the finished release on the share with these files, after uploading it if it is missing."""
    finished = None if force else find_finished(context.share, tree.manifest)
    if finished is not None:
        context.console.info(f"the same tree is on the share already, as {finished}: nothing to upload")
        return _StoredRelease(finished, 0, 0)
    base = None if force else live.current
    draft = _Draft(
        Release(tree.manifest, tree.origin()), base, make_plan(tree.manifest, live.manifest if base else None)
    )
    context.console.info(f"release {draft.release.id} of {draft.release.source}, {_after(live)}:")
    for line in draft.plan.lines():
        context.console.info(f"  {line}")
    return _upload(context, held, tree.root, draft)


def _upload(context: DeployContext, held: HeldLock, root: Path, draft: _Draft) -> _StoredRelease:
    release, entries = draft.release, draft.plan.uploads
    if draft.base is not None:
        entries += copy_unchanged(context.share, draft.plan, draft.base, release.id)
    total_bytes = sum(entry.size_bytes for entry in entries)
    uploads = [Upload(f"{folder_of(release.id)}/{entry.path}", root / entry.path) for entry in entries]
    if uploads:
        with context.console.progress(f"upload {count(len(uploads), 'file')}", total_bytes) as advance:
            context.share.upload(uploads, advance)
    held.renew()
    finish_release(context.share, release)
    return _StoredRelease(release.id, len(uploads), total_bytes)


def _go_live(context: DeployContext, held: HeldLock, release: str, live: Live) -> Served:
    fallback = find_fallback(context.share, live, release)
    try:
        served = switch(context.rollout(held), context.share, held, release, fallback)
    except KeyboardInterrupt:
        context.console.warn(f"interrupted: {release} may still become live; deploy again to complete it")
        raise
    context.console.info(f"{release} serves from {served.replica}")
    if served.outage is not None:
        context.console.info(str(served.outage))
    return served


def _prune(context: DeployContext) -> None:
    """Remove old releases. A failure is only a warning, since the deployment has succeeded."""
    try:
        removed = prune(context.share, read_live(context.share))
    except FjarrError as error:
        context.console.warn(f"old releases were not removed: {error.message}")
        return
    if removed:
        context.console.info(f"removed {count(len(removed), 'old release')}")


def _after(live: Live) -> str:
    return "the first one" if live.current is None else f"after {live.current}"
