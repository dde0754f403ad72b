"""Stop the local cloud or delete the resources that provision created, and list what remains.

On Azure, only resources that provision created are deleted; those of the fine-tuning step and of others stay,
whatever their names, and so does what others use or keep data in. Nothing is deleted before the user has
confirmed the list. What cannot be deleted does not stop the rest: the reasons come at the end.
"""

from __future__ import annotations

import shlex
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

from infra.az.errors import NotFoundError
from infra.az.names import PREFIXES
from infra.config.inputs import read_inputs
from infra.config.settings import (
    Flags,
    Handover,
    Settings,
    from_stage,
    merge_known,
    read_handover,
    read_user_parameters,
)
from infra.errors import FjarrError, RemoteError, UsageError
from infra.models.base_models import cache_folder
from infra.provisioning.removal import Removed, perform_removal, plan_removal
from infra.resources.billing import resource_bill
from infra.resources.inventory import list_resources, record_managed
from infra.resources.target import find_group
from infra.session import cloud_command, cloud_state
from infra.wording import readable_size

if TYPE_CHECKING:
    from pathlib import Path

    from infra.az.commands import Group
    from infra.az.names import Names
    from infra.provisioning.removal import Removal
    from infra.session import Session

_NOT_OURS: Final = "provision did not create it"


@dataclass(frozen=True, slots=True)
class Remaining:
    """Something that was not removed.

    Attributes:
        what: A path, or a resource as `name (type)`.
        size_bytes: Its size on this machine's disk; None for a resource.
        remedy: The command that removes it; empty for a resource that provision did not create.
        reason: Why it is still there; empty for a path.
        bills: What Azure goes on billing it for; empty if nothing.
    """

    what: str
    size_bytes: int | None = None
    remedy: str = ""
    reason: str = ""
    bills: str = ""

    def to_text(self) -> str:
        """Return it as one line."""
        size = "" if self.size_bytes is None else f", {readable_size(self.size_bytes)}"
        reason = f": {self.reason}" if self.reason else ""
        bills = f"; still billed: {self.bills}" if self.bills else ""
        return (
            f"left: {self.what}{size}{reason}{bills}{f' ({self.remedy} removes it)' if self.remedy else ''}"
        )


@dataclass(frozen=True, slots=True)
class DownResult:
    """What was stopped or deleted, and what remains.

    Attributes:
        removed: Descriptions of what was stopped or deleted.
        left: What remains.
        failed: Descriptions of what was to be deleted and could not be.
    """

    stage: str
    removed: tuple[str, ...]
    left: tuple[Remaining, ...]
    failed: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        lines = [f"removed: {what}" for what in self.removed]
        lines += [] if self.removed or self.failed else ["there was nothing to stop"]
        lines += [left.to_text() for left in self.left] or ["nothing is left"]
        return "\n".join(lines)

    def require_completeness(self) -> None:
        """Raise an error if something could not be deleted.

        Raises:
            RemoteError: Azure did not delete something.
        """
        if self.failed:
            what = f"not everything could be deleted: {', '.join(self.failed)}"
            hint = f"the reasons are above; correct them, and run invoke down --stage {self.stage} again"
            raise RemoteError(what, hint=hint)


def down(
    session: Session,
    flags: Flags | None = None,
    *,
    is_confirmed: bool = False,
    is_purged: bool = False,
    deletes_foreign: bool = False,
) -> DownResult:
    """Stop a local stage, or delete a stage on Azure.

    Args:
        session: The opened stage; a local cloud need not run.
        flags: The flags of the command line, which can name the subscription and the resource group.
        is_confirmed: Delete on Azure without confirmation.
        is_purged: Also delete the data of a local stage on disk.
        deletes_foreign: Delete the storage account also if others keep data in it.

    Raises:
        UsageError: The user did not confirm, there is no terminal to ask on, or it is not known where the
            stage is.
        RemoteError: Azure cannot be read.
    """
    if session.stage.is_local:
        return _down_local(session, is_purged=is_purged)
    if is_purged:
        raise UsageError(
            "--purge is for a local stage", hint="on Azure, down deletes all that provision created"
        )
    return _down_azure(session, flags or Flags(), is_confirmed=is_confirmed, deletes_foreign=deletes_foreign)


def _down_local(session: Session, *, is_purged: bool) -> DownResult:
    stage, removed = session.stage, []
    if cloud_state(session.root, stage).exists():
        with session.console.step("stop the replicas and the local cloud"):
            session.runner.check(cloud_command(session.root, stage, "stop"))
        if session.is_connected:
            removed.append("the local cloud with its replicas: no process runs, no port is taken")
    if is_purged and stage.state_dir.exists():
        shutil.rmtree(stage.state_dir)
        removed.append(str(stage.state_dir))
    purge = f"invoke down --stage {stage.name} --purge"
    folders = [(stage.state_dir, purge), (cache_folder(), f"rm -r {shlex.quote(str(cache_folder()))}")]
    left = tuple(Remaining(str(path), _size_bytes(path), remedy) for path, remedy in folders if path.exists())
    return DownResult(stage.name, tuple(removed), left)


def _down_azure(session: Session, flags: Flags, *, is_confirmed: bool, deletes_foreign: bool) -> DownResult:
    group = find_group(session, flags, _handover(session))
    with session.console.step(f"find what provision created in {group.name}"):
        removal = plan_removal(session, group, _names(session, group), deletes_foreign=deletes_foreign)
    removed = Removed()
    if removal.targets:
        _confirm(session, removal, is_confirmed=is_confirmed)
        removed = perform_removal(session, removal)
    still = (*(each for each, _ in removed.failures), *(each for each, _ in removal.kept))
    record_managed(session, group, still)
    if not still and _is_of_stage(session, group):  # the next run finds by it what is left
        session.stage.config_path.unlink(missing_ok=True)
    left = _left(session, removal, removed) if removal.exists else ()
    failed = tuple(f"{each.kind} {each.name}" for each, _ in removed.failures)
    return DownResult(session.stage.name, removed.deleted, left, failed)


def _left(session: Session, removal: Removal, removed: Removed) -> tuple[Remaining, ...]:
    """Return what is left in the group, each with the reason and what it is billed for."""
    if removal.is_whole and not removed.is_group_left:
        return ()
    try:
        resources = list_resources(session, removal.group)
    except NotFoundError:
        return ()
    except FjarrError as error:
        return (Remaining(f"perhaps more in {removal.group.name}", reason=error.message),)
    reasons = (*removal.kept, *removed.failures)
    group = removal.group.name
    whole = [Remaining(f"the resource group {group}", reason="it is not empty")] if removal.is_whole else []
    return (
        *whole,
        *(
            Remaining(
                f"{resource.get('name')} ({resource.get('type')})",
                reason=next((why for each, why in reasons if each.matches(resource)), _NOT_OURS),
                bills=resource_bill(str(resource.get("type"))),
            )
            for resource in resources
        ),
    )


def _handover(session: Session) -> Handover:
    """Return what the fine-tuning step left; nothing if its files are damaged, which is no reason to stop."""
    try:
        return read_handover(session.root)
    except UsageError as error:
        session.console.warn(error.message)
        return Handover()


def _names(session: Session, group: Group) -> Names:
    """Return the names of the stage's resources: by its configuration, else by its parameters."""
    try:
        names = read_inputs(session.root, session.stage, Flags()).settings(group).names(group)
    except UsageError as error:
        session.console.warn(f"the parameters cannot be used, only the names in them: {error.message}")
        names = _readable_names(session).names(group)
    if not _is_of_stage(session, group):
        return names
    config = session.config()
    return replace(
        names,
        app=config.aca_app_name,
        storage_account=config.storage_account_name,
        file_share=config.file_share_name,
    )


def _readable_names(session: Session) -> Settings:
    """Return the parameters that are names, as far as they can be read."""
    try:
        user = read_user_parameters(session.root)
    except UsageError:
        user = ()
    names, _ = merge_known((user, from_stage(session.stage)), (*PREFIXES, "resourceSuffix"))
    return names


def _is_of_stage(session: Session, group: Group) -> bool:
    """Return whether the stage's configuration is about a group."""
    return session.stage.config_path.exists() and session.group().id.casefold() == group.id.casefold()


def _confirm(session: Session, removal: Removal, *, is_confirmed: bool) -> None:
    if is_confirmed:
        return
    targets = removal.descriptions
    if not session.console.is_interactive:
        what = "down deletes on Azure, and there is no terminal to ask on"
        raise UsageError(what, details=targets, hint="add --yes if this is what you want to be deleted")
    for target in targets:
        session.console.info(f"  {target}")
    for each, reason in removal.kept:
        session.console.info(f"  stays: {each.kind} {each.name}: {reason}")
    if not session.console.confirm("Delete this for good, with all the data in it?"):
        raise UsageError("nothing was deleted", hint="say y to delete, or add --yes")


def _size_bytes(folder: Path) -> int:
    """Return the size of the files below a folder; others may remove some meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size if not path.is_dir() or path.is_symlink() else 0
    return total
