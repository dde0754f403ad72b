"""Stop the local cloud or delete the resources that provision created, and list what remains.

On Azure, only resources that provision created are deleted; those of the fine-tuning step and of others stay,
whatever their names. Nothing is deleted before the user has confirmed the list.
"""

from __future__ import annotations

import shlex
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from infra.az.commands import app_show, group_delete, group_show, resource_delete
from infra.document import Json, as_object
from infra.errors import UsageError
from infra.models.base_models import cache_folder
from infra.resources.inventory import MANAGED_TAG, clear_managed, find, list_resources, read_managed
from infra.session import cloud_command, cloud_state
from infra.wording import readable_size

if TYPE_CHECKING:
    from pathlib import Path

    from infra.az.commands import Group
    from infra.session import Session


@dataclass(frozen=True, slots=True)
class Remaining:
    """Something that was not removed.

    Attributes:
        what: A path, or a resource as `name (type)`.
        size_bytes: Its size on this machine's disk; None for a resource.
        remedy: The command that removes it; empty for a resource that provision did not create.
    """

    what: str
    size_bytes: int | None = None
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class DownResult:
    """What was stopped or deleted, and what remains.

    Attributes:
        removed: Descriptions of what was stopped or deleted.
        left: What remains.
    """

    stage: str
    removed: tuple[str, ...]
    left: tuple[Remaining, ...]

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        lines = [f"removed: {what}" for what in self.removed] or ["there was nothing to stop"]
        lines += [_remaining_text(left) for left in self.left] or ["nothing is left"]
        return "\n".join(lines)


def down(session: Session, *, is_confirmed: bool = False, is_purged: bool = False) -> DownResult:
    """Stop a local stage, or delete a stage on Azure.

    Args:
        session: The opened stage; a local cloud need not run.
        is_confirmed: Delete on Azure without confirmation.
        is_purged: Also delete the data of a local stage on disk.

    Raises:
        UsageError: The user did not confirm, or there is no terminal to ask on.
        RemoteError: Azure did not delete something.
    """
    if session.stage.is_local:
        return _down_local(session, is_purged=is_purged)
    if is_purged:
        raise UsageError(
            "--purge is for a local stage", hint="on Azure, down deletes all that provision created"
        )
    return _down_azure(session, is_confirmed=is_confirmed)


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


def _down_azure(session: Session, *, is_confirmed: bool) -> DownResult:
    group, config = session.group(), session.config()
    with session.console.step(f"list the resources in {group.name}"):
        shown = as_object(session.az.find(group_show(group)))
        app = as_object(session.az.find(app_show(group, config.aca_app_name))) if shown else {}
        resources = list_resources(session, group) if shown else ()
    made = tuple(each for each in read_managed(session, group, app) if find(resources, each))
    is_whole = _was_group_made_here(session, shown) and len(made) == len(resources)
    targets = (f"the resource group {group.name}",) if is_whole else tuple(f"{m.kind} {m.name}" for m in made)
    if targets:
        _confirm(session, targets, is_confirmed=is_confirmed)
        _delete(session, group, () if is_whole else tuple(str(find(resources, each)["id"]) for each in made))
    clear_managed(session, group)
    session.stage.config_path.unlink(missing_ok=True)
    left = () if is_whole or not shown else list_resources(session, group)
    return DownResult(
        session.stage.name, targets, tuple(Remaining(_resource_text(resource)) for resource in left)
    )


def _was_group_made_here(session: Session, group: dict[str, Json]) -> bool:
    """Return whether provision created the group itself."""
    return as_object(group.get("tags")).get(MANAGED_TAG) == session.stage.name


def _confirm(session: Session, targets: tuple[str, ...], *, is_confirmed: bool) -> None:
    if is_confirmed:
        return
    if not session.console.is_interactive:
        what = "down deletes on Azure, and there is no terminal to ask on"
        raise UsageError(what, details=targets, hint="add --yes if this is what you want to be deleted")
    for target in targets:
        session.console.info(f"  {target}")
    if not session.console.confirm("Delete this for good, with all the data in it?"):
        raise UsageError("nothing was deleted", hint="say y to delete, or add --yes")


def _delete(session: Session, group: Group, resource_ids: tuple[str, ...]) -> None:
    """Delete resources one after the other, or the whole group if there are no ids."""
    if not resource_ids:
        with session.console.step(f"delete the resource group {group.name}"):
            session.az.run(group_delete(group))
    for resource_id in resource_ids:
        with session.console.step(f"delete {resource_id.rpartition('/')[2]}"):
            session.az.run(resource_delete(resource_id))


def _size_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())


def _resource_text(resource: dict[str, Json]) -> str:
    return f"{resource.get('name')} ({resource.get('type')})"


def _remaining_text(item: Remaining) -> str:
    size = "" if item.size_bytes is None else f", {readable_size(item.size_bytes)}"
    return f"left: {item.what}{size}{f' ({item.remedy} removes it)' if item.remedy else ''}"
