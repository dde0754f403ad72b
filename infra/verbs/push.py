"""Upload weights to the share: an adapter, and the base model that it was trained on.

    models/<name>/adapter/         the adapter
    models/index.json              what a server serves, written last
    model-cache/<org>/<name>/      the base model

Without arguments these are the example's. Everything that can be checked on this machine is checked before
the upload. A live server is seen to serve a new or changed adapter without a restart; where it cannot, and
for another base model, the release is restarted. A push never takes an adapter away: `remove` does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from infra.clock import SystemClock
from infra.deploy_context import DeployContext, open_deploy_context
from infra.errors import RemoteError, UsageError, WaitTimeoutError
from infra.models.adapter_index import AdapterIndex, find_adapters, is_indexed, update_index
from infra.models.backup import Backup, back_up, discard, restore
from infra.models.base_models import EXAMPLE, ensure_example_base, load_pinned_base
from infra.models.base_shapes import read_local_shapes, read_share_shapes
from infra.models.hash_cache import HashCache
from infra.models.hub import download_base
from infra.models.pickup import wait_until_applied
from infra.models.upload import UploadPlan, UploadSet, load_upload_set, plan_upload, resend, upload
from infra.models.weights import (
    ADAPTER_CONFIG,
    MODEL_CACHE,
    MODELS,
    Adapter,
    adapter_name_of,
    base_id_in,
    base_id_of,
    check_fit,
    differs_in_name,
    read_adapter,
    read_base,
)
from infra.release.lock import TAKES_FREE_LOCK, LockAccess
from infra.release.releases import read_live, set_proven
from infra.release.takeovers.outcome import NotServed, failure
from infra.wording import count, readable_size

if TYPE_CHECKING:
    from infra.az.revision import VersionResponse
    from infra.console import Console
    from infra.release.lock import HeldLock
    from infra.session import Session
    from infra.share.protocol import Share

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
    """

    adapter: str
    base: str
    has_changed: bool
    uploaded_files: int = 0
    uploaded_bytes: int = 0
    is_restarted: bool = False
    is_live: bool = False
    removed: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        rows = [("adapter", self.adapter), ("base", self.base), ("removed", self.removed)]
        serving = "with the next deploy"
        if self.is_live:
            serving = "since now, without a restart"
        elif self.is_restarted:
            serving = "since a restart"
        if self.removed:
            rows.append(("serving", f"the others, {serving}"))
        elif self.has_changed:
            rows.append(
                ("uploaded", f"{count(self.uploaded_files, 'file')}, {readable_size(self.uploaded_bytes)}")
            )
            rows.append(("serving", serving))
        else:
            rows.append(("uploaded", "nothing: the share has it all"))
        return "\n".join(f"{name:<9} {value}" for name, value in rows if value)


@dataclass(frozen=True, slots=True)
class Selection:
    """The weights to push.

    Attributes:
        adapter: The adapter; None if only a base is pushed.
        name: The adapter's name on the share.
        base_id: The base model's id, `<org>/<name>`.
        base: The base model's folder on this machine; None if there is none, or the share has it already.
    """

    adapter: Adapter | None
    name: str
    base_id: str
    base: Path | None

    @property
    def adapter_target(self) -> str:
        """Return the adapter's folder on the share."""
        return f"{MODELS}/{self.name}/adapter" if self.adapter is not None else ""

    @property
    def base_target(self) -> str:
        """Return the base model's folder on the share."""
        return f"{MODEL_CACHE}/{self.base_id}"


def push(  # noqa: PLR0913  # each is a flag of the verb
    session: Session,
    *,
    adapter: Path | None = None,
    base: str | None = None,
    name: str | None = None,
    restarts: bool = True,
    timeout_s: float | None = None,
    access: LockAccess = TAKES_FREE_LOCK,
) -> PushResult:
    """Upload weights to a stage's share, and restart a live release to load them.

    Args:
        session: The opened stage.
        adapter: The adapter's folder; None for the example's, or for none if only `base` is given.
        base: The base model: a folder, or an id on the hub; None for what the adapter names.
        name: The adapter's name on the share; None for its folder's.
        restarts: Whether to restart a live release when something changed.
        timeout_s: How long to wait for it; None for the default of the stage's cloud.
        access: How to treat the deploy lock of another holder.

    Raises:
        UsageError: The weights cannot be served as they are; the details list the problems.
        RemoteError: Azure rejected a request, or the live release crashes with the new weights.
        WaitTimeoutError: The live release did not serve with the new weights in time.
    """
    selection = select_weights(session.root, adapter, base, session.console)
    selection = replace(selection, name=name or selection.name)
    hashes = HashCache(session.root / HASHES, SystemClock())
    with open_deploy_context(session, timeout_s, access) as opened:
        context = opened.reached()
        selection = _resolve_base(context.share, selection, session.console)
        with session.console.step("read the weights"):
            upload_sets = load_upload_sets(selection, hashes)
            hashes.save()
        return push_upload_sets(context, selection, upload_sets, restarts=restarts)


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
    """Remove an adapter from an open context's share."""
    there = {found.name: found.folder for found in find_adapters(context.share)}
    if name not in there:
        known = ", ".join(sorted(there)) or "none"
        raise UsageError(f"there is no adapter {name!r} on the share", hint=f"the share has: {known}")
    folder = there[name]
    if len(there) == 1:
        context.console.warn(
            f"{name} is the last adapter: a server starts without one only if the parameter baseModel is set"
        )
    with context.hooks.around("push", removed=folder), context.lock.hold("push") as held:
        index = update_index(context.share, without=folder)
        is_live = read_live(context.share).current is not None and (
            _wait_until_applied(context, held, index) is not None
        )
        # The configuration first: a server finds an adapter by it.
        context.share.delete(f"{folder}/{ADAPTER_CONFIG}")
        context.share.delete_tree(folder)
        is_restarted = not is_live and _restart(context, held)
    return PushResult("", "", has_changed=True, is_restarted=is_restarted, is_live=is_live, removed=folder)


def select_weights(root: Path, adapter: Path | None, base: str | None, console: Console) -> Selection:
    """Return the weights to push, checked as far as they are on this machine.

    Raises:
        UsageError: The weights cannot be served as they are, or their base model is not known.
    """
    if adapter is None and base is None:
        folder = EXAMPLE / "adapter"
        return Selection(read_adapter(folder), EXAMPLE.name, example_base_id(), ensure_example_base(console))
    found = None if adapter is None else read_adapter(adapter)
    name = "" if adapter is None else adapter_name_of(adapter)
    reference = base or (found.base if found is not None else "")
    base_id, base_folder = locate_base(reference, root)
    if base_folder is not None:
        read_base(base_folder)
        if found is not None:
            check_fit(found, read_local_shapes(base_folder), str(base_folder))
    if found is not None and base is not None and differs_in_name(found, base_id):
        console.warn(f"the adapter {name} was trained on {found.base}, and is pushed for {base_id}")
    return Selection(found, name, base_id, base_folder)


def locate_base(reference: str, root: Path) -> tuple[str, Path | None]:
    """Return the id of a base model from its name or path, and its folder if it is on this machine.

    Raises:
        UsageError: The reference is neither a folder on this machine nor an id.
    """
    base_id = base_id_in(reference)
    for folder in (Path(reference).expanduser(), root / reference):
        if reference and folder.is_dir():
            return base_id or base_id_of(folder), folder
    if base_id is None:
        what = f"the base model {reference!r} is neither a folder on this machine nor an id on the hub"
        raise UsageError(what, hint="add --base FOLDER, or --base ORG/NAME")
    return base_id, None


def example_base_id() -> str:
    """Return the id of the example's base model."""
    return load_pinned_base(EXAMPLE / "example.toml").id


def load_upload_sets(selection: Selection, hashes: HashCache) -> tuple[UploadSet, ...]:
    """Return the upload sets, the base first: an adapter without its base cannot be served."""
    upload_sets = []
    if selection.base is not None:
        upload_sets.append(load_upload_set(selection.base_target, read_base(selection.base), hashes))
    if selection.adapter is not None:
        config = {ADAPTER_CONFIG: selection.adapter.config_for(selection.base_id)}
        upload_sets.append(
            load_upload_set(selection.adapter_target, selection.adapter.weights, hashes, config)
        )
    return tuple(upload_sets)


def push_upload_sets(
    context: DeployContext,
    selection: Selection,
    upload_sets: tuple[UploadSet, ...],
    *,
    restarts: bool = True,
) -> PushResult:
    """Upload to an open context's share, and see a live release serve what that changed."""
    target = selection.adapter_target
    is_known = selection.adapter is None or is_indexed(context.share, target)
    if is_known and not any(plan.has_changes for plan in _plan(context.share, selection, upload_sets)):
        context.console.info("the share has these weights already: nothing to upload")
        return PushResult(selection.adapter_target, selection.base_target, has_changed=False)
    with (
        context.hooks.around("push", adapter=selection.adapter_target, base=selection.base_target),
        context.lock.hold("push") as held,
    ):
        plans = _plan(context.share, selection, upload_sets)
        backups = tuple(filter(None, (back_up(context.share, plan) for plan in plans)))
        for plan in plans:
            _upload(context, held, plan)
        index = update_index(context.share)
        has_new_base = selection.base is not None and plans[0].has_changes
        try:
            is_live = restarts and not has_new_base and _is_served(context, held, selection, index)
            is_restarted = restarts and not is_live and _restart(context, held)
        except (RemoteError, WaitTimeoutError) as error:
            closing = _turn_back(context, held, backups)
            details = (closing, *error.details)
            raise type(error)(error.message, details=details, hint=error.hint) from error
        for backup in backups:
            discard(context.share, backup)
    return PushResult(
        selection.adapter_target,
        selection.base_target,
        has_changed=True,
        uploaded_files=sum(len(plan.uploads) for plan in plans),
        uploaded_bytes=sum(plan.upload_bytes for plan in plans),
        is_restarted=is_restarted,
        is_live=is_live,
    )


def newest_adapter(share: Share) -> str | None:
    """Return the folder of the adapter that a server lists first: the one configured last."""
    found = [(adapter.modified_s, adapter.folder) for adapter in find_adapters(share)]
    return max(found, default=(0.0, None))[1]


def _resolve_base(share: Share, selection: Selection, console: Console) -> Selection:
    """Return the selection with the base model's folder, downloaded unless the share has the model."""
    if selection.base is not None:
        return selection
    if _has_base(share, selection.base_target):
        if selection.adapter is not None:
            shapes = read_share_shapes(share, selection.base_target)
            check_fit(selection.adapter, shapes, selection.base_target)
        return selection
    if selection.base_id == example_base_id():
        return replace(selection, base=ensure_example_base(console))
    folder = download_base(selection.base_id, console)
    read_base(folder)
    if selection.adapter is not None:
        check_fit(selection.adapter, read_local_shapes(folder), str(folder))
    return replace(selection, base=folder)


def _has_base(share: Share, target: str) -> bool:
    names = {entry.name for entry in share.entries(target)}
    return "config.json" in names and any(name.endswith(".safetensors") for name in names)


def _plan(share: Share, selection: Selection, upload_sets: tuple[UploadSet, ...]) -> tuple[UploadPlan, ...]:
    """Plan the uploads. If the adapter is there but not the newest, its configuration is sent again."""
    plans = tuple(plan_upload(share, upload_set) for upload_set in upload_sets)
    if (
        selection.adapter is None
        or plans[-1].has_changes
        or newest_adapter(share) == selection.adapter_target
    ):
        return plans
    return (*plans[:-1], resend(plans[-1], ADAPTER_CONFIG))


def _upload(context: DeployContext, held: HeldLock, plan: UploadPlan) -> None:
    if not plan.has_changes:
        return
    target, uploads = plan.upload_set.target, plan.uploads
    with context.console.progress(
        f"upload {count(len(uploads), 'file')} to {target}", plan.upload_bytes
    ) as advance:

        def advance_and_renew(size_bytes: int) -> None:
            advance(size_bytes)
            held.renew()

        resumed_bytes = upload(context.share, plan, advance_and_renew)
    if resumed_bytes:
        context.console.info(f"  {readable_size(resumed_bytes)} were there already, from an interrupted push")


def _is_served(context: DeployContext, held: HeldLock, selection: Selection, index: AdapterIndex) -> bool:
    """Return whether a live server serves the adapter without a restart, which it may not be able to.

    Raises:
        RemoteError: The server has rejected the adapter.
    """
    if selection.adapter is None or read_live(context.share).current is None:
        return False
    answer = _wait_until_applied(context, held, index)
    if answer is None:
        return False
    name = selection.name
    failed = next((each for each in answer.failed_adapters if each.name == name), None)
    if failed is not None and failed.needs_restart:
        context.console.info(f"a restart is needed: {failed.reason}")
        return False
    if failed is not None:
        raise RemoteError(
            f"the server rejects the adapter {name}",
            details=(failed.reason,),
            hint="correct it and push again; invoke models lists what is served",
        )
    if name not in answer.adapters:
        context.console.warn(
            f"{name} is on the share and is not served: the parameter adapterPath names others"
        )
    return True


def _turn_back(context: DeployContext, held: HeldLock, backups: tuple[Backup, ...]) -> str:
    """Bring back the adapter that was there before, and return a line that describes the state."""
    if not backups:
        return "the new base model is on the share; push another to replace it"
    held.check()
    for backup in backups:
        restore(context.share, backup)
    index = update_index(context.share)
    is_new = any(backup.is_of_a_new_adapter for backup in backups)
    what = "the adapter was removed from the share again" if is_new else "the adapter before is back"
    live = read_live(context.share).current
    if live is None or _wait_until_applied(context, held, index) is not None:
        return f"turned back: {what}"
    outcome = context.rollout(held).restart(live)
    if isinstance(outcome, NotServed):
        return f"turned back: {what}, but {live} does not serve: {outcome.cause.reason}"
    return f"turned back: {what}, and {live} serves again"


def _wait_until_applied(
    context: DeployContext, held: HeldLock, index: AdapterIndex
) -> VersionResponse | None:
    with context.console.step("wait until the server has noticed"):
        return wait_until_applied(context.app, context.clock, index.generation, held.renew)


def _restart(context: DeployContext, held: HeldLock) -> bool:
    """Restart a live release, and wait until it serves with the new weights. Return False if none is live."""
    live = read_live(context.share)
    if live.current is None:
        return False
    held.check()
    outcome = context.rollout(held).restart(live.current)
    if isinstance(outcome, NotServed):
        raise failure(outcome, live.current, "it was started with the new weights")
    set_proven(context.share, live.current)
    if outcome.outage is not None:
        context.console.info(str(outcome.outage))
    return True
