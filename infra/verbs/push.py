"""Upload weights to the share: an adapter, and the base model that it was trained on.

    models/<name>/<version>/adapter/    a version of the adapter
    models/index.json                   what a server serves, written last
    model-cache/<org>/<name>/           the base model

Without arguments these are the example's. Everything that can be checked on this machine is checked before
the upload. Every replica is seen to serve the new version without a restart; where that is impossible, and
for another base model, the release is restarted. What is not served is turned back, and the version before is
current again. A push never takes another adapter away: `remove` does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from infra.clock import SystemClock
from infra.deploy_context import DeployContext, open_deploy_context
from infra.errors import UsageError
from infra.models.adapter_index import (
    ADAPTER_INDEX,
    AdapterIndex,
    AdapterScan,
    bare_name,
    read_index,
    scan_adapters,
)
from infra.models.adapter_rollout import AdapterOutcome
from infra.models.hash_cache import HashCache
from infra.models.pickup import confirm_applied
from infra.models.records import write_record
from infra.models.selection import Selection, load_upload_sets, resolve_base, select_weights
from infra.models.upload import UploadPlan, UploadSet, plan_upload, upload
from infra.models.versions import (
    AdapterVersion,
    KnownVersions,
    VersionPlan,
    check_case,
    check_name,
    delete_version,
    find_versions,
    plan_version,
    upload_version,
)
from infra.models.weights import MODELS
from infra.release.lock import TAKES_FREE_LOCK, LockAccess
from infra.release.releases import read_current
from infra.wording import count, readable_size

if TYPE_CHECKING:
    from pathlib import Path

    from infra.release.lock import HeldLock
    from infra.session import Session
    from infra.share.protocol import Share

Publication = Literal["replace", "keep", "beside"]
"""How a version goes live: as the current one in place of the one before, which stays live with `keep`; or
beside the current one."""

HASHES: Final = ".fjarr/hashes.json"
"""The cache of the digests of local weights, relative to the project."""


@dataclass(frozen=True, slots=True)
class PushResult:
    """The result of a push.

    Attributes:
        adapter: The adapter's folder on the share; empty if only a base was pushed.
        base: The base model's folder on the share.
        has_changed: Whether anything was uploaded or removed.
        uploaded_files: The number of files that were uploaded.
        uploaded_bytes: Their size together.
        is_restarted: Whether a live release was restarted and seen to serve since.
        is_live: Whether a live release was seen to serve the change without a restart.
        removed: The adapter's folder that was removed from the share; empty if none was.
        model: The version, by its name in the API, such as `mine@3`; empty if only a base was pushed.
        version: Its number; 0 if only a base was pushed.
        is_new_version: Whether the share did not have it before.
        kept: The version before, if it stays live beside the new one; else empty.
        replicas: The replicas that were seen to serve it.
        proof: Where it was seen to serve: at the app's `address`, or `inside` of its replicas, where the
            address does not answer from this machine; empty if nothing has changed, or nothing was live.
    """

    adapter: str
    base: str
    has_changed: bool
    uploaded_files: int = 0
    uploaded_bytes: int = 0
    is_restarted: bool = False
    is_live: bool = False
    removed: str = ""
    model: str = ""
    version: int = 0
    is_new_version: bool = False
    kept: str = ""
    replicas: tuple[str, ...] = ()
    proof: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        rows = [("adapter", self.adapter), ("base", self.base), ("removed", self.removed)]
        rows += [("version", self.model), ("kept", self.kept)]
        serving = "with the next deploy"
        if self.is_live:
            serving = "since now, without a restart"
        elif self.is_restarted:
            serving = "since a restart"
        if self.removed:
            rows.append(("serving", f"the others, {serving}"))
        else:
            sent = f"{count(self.uploaded_files, 'file')}, {readable_size(self.uploaded_bytes)}"
            rows.append(("uploaded", sent if self.uploaded_files else "nothing: the share has it all"))
            rows += [("serving", serving)] if self.has_changed else []
        rows.append(("proven", "from inside, by the replicas' reports" if self.proof == "inside" else ""))
        return "\n".join(f"{name:<9} {value}" for name, value in rows if value)


def push(  # noqa: PLR0913  # each is a flag of the verb
    session: Session,
    *,
    adapter: Path | None = None,
    base: str | None = None,
    name: str | None = None,
    restarts: bool = True,
    publication: Publication = "replace",
    timeout_s: float | None = None,
    access: LockAccess = TAKES_FREE_LOCK,
) -> PushResult:
    """Upload weights to a stage's share, and see every replica of a live release serve them.

    Args:
        session: The opened stage.
        adapter: The adapter's folder; None for the example's, or for none if only `base` is given.
        base: The base model: a folder, or an id on the hub; None for what the adapter names.
        name: The adapter's name on the share; None for its folder's.
        restarts: Whether a live release is waited for, and restarted where that is needed.
        publication: How the version goes live.
        timeout_s: How long to wait for it; None for the default of the stage's cloud.
        access: How to treat the deploy lock of another holder.

    Raises:
        UsageError: The weights cannot be served as they are; the details list the problems.
        RemoteError: Azure rejected a request, or a replica rejects the adapter or crashes with it; the
            version before is current again.
        WaitTimeoutError: A replica did not serve it in time; the version before is current again.
    """
    if name is not None:
        check_name(name)
    selection = select_weights(session.root, adapter, base, session.console)
    selection = replace(selection, name=name or selection.name)
    hashes = HashCache(session.root / HASHES, SystemClock())
    with open_deploy_context(session, timeout_s, access) as opened:
        context = opened.reached()
        selection = resolve_base(context.share, selection, session.console)
        with session.console.step("read the weights"):
            upload_sets = load_upload_sets(selection, hashes)
            hashes.save()
        return push_upload_sets(context, selection, upload_sets, restarts=restarts, publication=publication)


def remove(
    session: Session,
    name: str,
    *,
    timeout_s: float | None = None,
    access: LockAccess = TAKES_FREE_LOCK,
) -> PushResult:
    """Remove an adapter from a stage's share. A live server completes its requests, and serves the others.

    Args:
        session: The opened stage.
        name: The adapter's name on the share.
        timeout_s: How long to wait for a restart; None for the default of the stage's cloud.
        access: How to treat the deploy lock of another holder.

    Raises:
        UsageError: The share has no such adapter.
        RemoteError: Azure rejected a request.
    """
    with open_deploy_context(session, timeout_s, access) as context:
        return remove_adapter(context.reached(), name)


def remove_adapter(context: DeployContext, name: str) -> PushResult:
    """Remove an adapter with all its versions, or one version such as `mine@2`, from a context's share."""
    removal = _find_removal(context.share, name)
    folder = f"{MODELS}/{bare_name(name)}" if len(removal.versions) > 1 else removal.versions[0].folder
    if not removal.after.adapters:
        context.console.warn(
            f"{name} is the last adapter: a server starts without one only if the parameter baseModel is set"
        )
    with context.hooks.around("push", removed=folder), context.lock.hold("push") as held:
        # Others may have pushed before this command got the lock.
        removal = _find_removal(context.share, name)
        rollout, is_served = context.adapter_rollout(held), removal.is_served
        outcome = rollout.apply(removal.after) if is_served else AdapterOutcome()
        for version in removal.versions:
            delete_version(context.share, version)
        if is_served and not outcome.is_live:
            proof = rollout.restart("it was started without the adapter")
            outcome = AdapterOutcome(is_restarted=bool(proof), proof=proof)
        if is_served and (live := read_current(context.share)) is not None:
            write_record(context.share, live, removal.after)
    return PushResult(
        "",
        "",
        has_changed=True,
        is_restarted=outcome.is_restarted,
        is_live=outcome.is_live,
        removed=folder,
        replicas=outcome.replicas,
        proof=outcome.proof,
    )


@dataclass(frozen=True, slots=True)
class _Removal:
    """The versions to remove.

    Attributes:
        versions: The versions.
        after: What is live without them.
        is_served: Whether one of them is live.
    """

    versions: tuple[AdapterVersion, ...]
    after: AdapterIndex
    is_served: bool


def _find_removal(share: Share, name: str) -> _Removal:
    """Return what has to go.

    Raises:
        UsageError: There is no such adapter, or it is the current version among others.
    """
    before = read_index(share)
    versions = find_versions(share, bare_name(name))
    removed = tuple(version for version in versions if name in {version.name, version.id})
    if not removed:
        known = ", ".join(sorted(before.adapters)) or "none"
        raise UsageError(f"there is no adapter {name!r} on the share", hint=f"the share has: {known}")
    current = before.adapters.get(bare_name(name))
    is_all = len(removed) == len(versions)
    if not is_all and current is not None and current.folder == removed[0].folder:
        raise UsageError(
            f"{name} is the current version, and there are others",
            hint=f"make another one current with invoke models --current, or push --remove {bare_name(name)}",
        )
    return _Removal(removed, before.without(removed), any(map(before.is_live, removed)))


@dataclass(frozen=True, slots=True)
class _Work:
    """What a push has to do.

    Attributes:
        base: What the share lacks of the base model; None if none is pushed.
        adapter: The version, and what the share lacks of it; None if only a base is pushed.
        scan: What the share has of adapters.
        after: What is to be live.
    """

    base: UploadPlan | None
    adapter: VersionPlan | None
    scan: AdapterScan
    after: AdapterIndex

    @property
    def before(self) -> AdapterIndex:
        """Return what is live."""
        return self.scan.index

    @property
    def new(self) -> AdapterVersion | None:
        """Return the version that the share does not have yet."""
        return None if self.adapter is None or not self.adapter.is_new else self.adapter.version

    @property
    def plans(self) -> tuple[UploadPlan, ...]:
        """Return the uploads, the base first."""
        plans = (self.base, None if self.adapter is None else self.adapter.upload)
        return tuple(plan for plan in plans if plan is not None and plan.has_changes)

    @property
    def has_changes(self) -> bool:
        """Return whether the share would change."""
        return bool(self.plans) or self.after != self.before or not self.scan.is_up_to_date


def push_upload_sets(
    context: DeployContext,
    selection: Selection,
    upload_sets: tuple[UploadSet, ...],
    *,
    restarts: bool = True,
    publication: Publication = "replace",
) -> PushResult:
    """Upload to an open context's share, and see every replica of a live release serve what that changed."""
    work = _plan(context, selection, upload_sets, publication)
    if not work.has_changes:
        return _confirm(context, selection, work, restarts=restarts)
    folder = "" if work.adapter is None else work.adapter.version.folder
    with (
        context.hooks.around("push", adapter=folder, base=selection.base_target),
        context.lock.hold("push") as held,
    ):
        if not _still_holds(context, work):
            work = _plan(context, selection, upload_sets, publication)
        for plan in work.plans:
            _upload(context, held, plan, None if plan is work.base else work.adapter)
        has_new_base = work.base is not None and work.base.has_changes
        rollout = context.adapter_rollout(held)
        outcome = rollout.switch(
            work.before, work.after, work.new, restarts=restarts, must_restart=has_new_base
        )
    result = _result(selection, work, has_changed=True)
    return replace(
        result,
        is_live=outcome.is_live,
        is_restarted=outcome.is_restarted,
        replicas=outcome.replicas,
        proof=outcome.proof,
    )


def _plan(
    context: DeployContext, selection: Selection, upload_sets: tuple[UploadSet, ...], publication: Publication
) -> _Work:
    """Compare with the share: what it lacks, and which version of the adapter is to be live."""
    share, scan = context.share, scan_adapters(context.share)
    base = plan_upload(share, upload_sets[0]) if selection.base is not None else None
    if selection.adapter is None:
        return _Work(base, None, scan, scan.index)
    now, holder = context.clock.now().isoformat(), context.lock.holder
    before = scan.index
    folders = (each.partition("/")[2] for each in scan.folders)  # below models/
    check_case(selection.name, (*before.numbers, *filter(None, folders)))
    draft = AdapterVersion(
        selection.name,
        before.numbers.get(selection.name, 0) + 1,
        upload_sets[-1].manifest.digest,
        now,
        f"{holder.owner}@{holder.host}",
    )
    known = KnownVersions(
        before.versions.get(selection.name, {}),
        scan.has_unversioned(selection.name),
        scan.folders,
        before.adapters,
    )
    plan = plan_version(share, upload_sets[-1], draft, known)
    return _Work(base, plan, scan, _choose_live(before, plan.version, now, publication))


def _still_holds(context: DeployContext, work: _Work) -> bool:
    """Return whether a plan that was made before the lock was taken is still right, in two requests.

    Others may have changed the share meanwhile. That of a new version is right while the index is the same,
    and nobody has begun a version with its number.
    """
    if work.base is not None or work.new is None:
        return False
    folder, _, number = work.new.root.rpartition("/")
    there = {entry.name for entry in context.share.entries(folder)}
    return number not in there and context.share.read(ADAPTER_INDEX) == work.scan.content


def _choose_live(
    before: AdapterIndex, version: AdapterVersion, now: str, publication: Publication
) -> AdapterIndex:
    """Return what is to be live after the push of a version."""
    if publication == "beside":
        return before if before.is_live(version) else before.with_live(version, now)
    current = before.adapters.get(version.name)
    if current is not None and current.folder == version.folder and before.newest == version.name:
        return before
    return before.with_current(version, now, keeps_previous=publication == "keep")


def _confirm(context: DeployContext, selection: Selection, work: _Work, *, restarts: bool) -> PushResult:
    """Check that what is on the share already is served: the push before may have been interrupted."""
    context.console.info("the share has these weights already: nothing to upload")
    if work.adapter is not None and restarts and read_current(context.share) is not None:
        folder = work.adapter.version.folder
        names = {name for name, each in work.after.adapters.items() if each.folder == folder}
        confirm_applied(context.rollout(None), work.after, names)
    return _result(selection, work, has_changed=False)


def _result(selection: Selection, work: _Work, *, has_changed: bool) -> PushResult:
    result = PushResult(
        "",
        selection.base_target,
        has_changed,
        sum(len(plan.uploads) for plan in work.plans),
        sum(plan.upload_bytes for plan in work.plans),
    )
    if work.adapter is None:
        return result
    version = work.adapter.version
    previous = work.before.adapters.get(version.name)
    is_kept = (
        previous is not None
        and previous.folder != version.folder
        and any(each.folder == previous.folder for each in work.after.adapters.values())
    )
    return replace(
        result,
        adapter=version.folder,
        model=version.id,
        version=version.number,
        is_new_version=work.adapter.is_new,
        kept=work.before.id_of(version.name) if is_kept else "",
    )


def _upload(context: DeployContext, held: HeldLock, plan: UploadPlan, version: VersionPlan | None) -> None:
    """Upload a plan, which may be that of a version."""
    target, uploads = plan.upload_set.target, plan.uploads
    with context.console.progress(
        f"upload {count(len(uploads), 'file')} to {target}", plan.upload_bytes
    ) as advance:

        def advance_and_renew(size_bytes: int) -> None:
            advance(size_bytes)
            held.renew()

        if version is not None and version.is_new:
            resumed_bytes = upload_version(context.share, version, advance_and_renew)
        else:
            resumed_bytes = upload(context.share, plan, advance_and_renew)
    if resumed_bytes:
        context.console.info(f"  {readable_size(resumed_bytes)} were there already, from an interrupted push")
