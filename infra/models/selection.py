"""Select the weights to push: the adapter, its name, and the base model that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from infra.document import user_path
from infra.errors import UsageError
from infra.models.base_models import EXAMPLE, ensure_example_base, load_pinned_base
from infra.models.base_shapes import read_local_shapes, read_share_shapes
from infra.models.hub import download_base
from infra.models.upload import UploadSet, load_upload_set
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

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from infra.console import Console
    from infra.models.hash_cache import HashCache
    from infra.share.protocol import Share, ShareEntry


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
    def base_target(self) -> str:
        """Return the base model's folder on the share."""
        return f"{MODEL_CACHE}/{self.base_id}"


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
    for folder in (user_path(reference), root / reference):
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
            load_upload_set(f"{MODELS}/{selection.name}", selection.adapter.weights, hashes, config)
        )
    return tuple(upload_sets)


def resolve_base(share: Share, selection: Selection, console: Console) -> Selection:
    """Return the selection with the base model's folder, downloaded unless the share has the model.

    Raises:
        UsageError: The adapter does not fit the base model, or that cannot be downloaded.
    """
    if selection.base is not None:
        return selection
    entries = share.entries(selection.base_target)
    if _has_base(entries):
        if selection.adapter is not None:
            shapes = read_share_shapes(share, selection.base_target, entries)
            check_fit(selection.adapter, shapes, selection.base_target)
        return selection
    if selection.base_id == example_base_id():
        return replace(selection, base=ensure_example_base(console))
    folder = download_base(selection.base_id, console)
    read_base(folder)
    if selection.adapter is not None:
        check_fit(selection.adapter, read_local_shapes(folder), str(folder))
    return replace(selection, base=folder)


def _has_base(entries: Sequence[ShareEntry]) -> bool:
    names = {entry.name for entry in entries}
    return "config.json" in names and any(name.endswith(".safetensors") for name in names)
