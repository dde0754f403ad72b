"""Find the folders of the adapters on the share, and the names under which engines load them.

    models/<name>/<version>/adapter/    a version that was pushed, with `version.json` beside the folder
    models/<name>/adapter/              from before adapters had versions, or put there by others

Of the versions, those that the index lists are served; of the others, all but those whose name the index has
given to a version. Imports the standard library only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from inference.errors import LoadError
from inference.models.adapter_index import (
    MODELS,
    VERSION_MARK,
    AdapterIndex,
    read_index,
    split_name,
)

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

ADAPTER_CONFIG: Final = "adapter_config.json"
VERSION_FILE: Final = "version.json"
"""Marks the folder of a version: a folder with a number for its name may also be an adapter's own."""

VERSION_DRAFT: Final = "version.json.uploading"
"""Marks the folder of a version that is being uploaded."""

ALL: Final = "*"
"""The value of the setting that selects every adapter under `models`."""


def find_selected(mount: Path, setting: str | None) -> tuple[Path, ...]:
    """Return the adapters' folders in the order of the setting; the newest first if it selects all.

    Raises:
        LoadError: If it names an adapter that is not there.
    """
    names = [name.strip() for name in (setting or ALL).split(",") if name.strip()]
    if names == [ALL]:
        return find_adapters(mount)
    return tuple(folder for name in names for folder in _find_setting(mount, name))


def find_adapters(mount: Path) -> tuple[Path, ...]:
    """Return the folders named `adapter` that are to be served, the newest first, and other versions last."""
    index = _read_usable_index(mount)
    listed = {mount / entry.folder: entry for entry in index.adapters.values()}
    named = {entry.bare_name for entry in index.adapters.values()}
    found: dict[Path, tuple[bool, float, str]] = {}
    for config in (mount / MODELS).glob(f"**/adapter/{ADAPTER_CONFIG}"):
        folder, entry = config.parent, listed.get(config.parent)
        if entry is None and _is_unlisted(mount, folder, named):
            continue
        is_current = entry is None or entry.is_current
        since_s = entry.since_s if entry is not None and entry.since_s else config.stat().st_mtime
        found[folder] = (is_current, since_s, str(folder))
    return tuple(sorted(found, key=found.__getitem__, reverse=True))


def find_named(mount: Path, path: str) -> tuple[Path, ...]:
    """Return the folders of an adapter: by its own path, or by its name its live versions, the current first.

    Args:
        mount: The share.
        path: A folder relative to the share, such as `models/mine/adapter`, `models/mine` or `models/mine@2`.
    """
    name = path.strip("/").removeprefix(f"{MODELS}/").removesuffix("/adapter")
    entries = _read_usable_index(mount).adapters.values()
    live = [entry for entry in entries if name in {entry.bare_name, entry.id}]
    if live:
        live.sort(key=lambda entry: (entry.is_current, entry.number), reverse=True)
        return tuple(mount / entry.folder for entry in live)
    bare, number = split_name(path.rstrip("/"))
    candidates = [mount / path, mount / path / "adapter"]
    candidates += [] if number is None else [mount / bare / str(number) / "adapter"]
    return tuple(folder for folder in candidates if (folder / ADAPTER_CONFIG).is_file())[:1]


def adapter_name(mount: Path, folder: Path) -> str:
    """Return the name under which engines load an adapter: its path under `models`, without `adapter`.

    The name of a version ends with its number, such as `mine@3`.
    """
    try:
        parts = folder.relative_to(mount / MODELS).parts
    except ValueError:
        parts = folder.parts[-2:]
    if parts[-1] == "adapter" and len(parts) > 1:
        parts = parts[:-1]
    if len(parts) > 1 and parts[-1].isdecimal() and mount.joinpath(MODELS, *parts, VERSION_FILE).is_file():
        return f"{'/'.join(parts[:-1])}{VERSION_MARK}{int(parts[-1])}"
    return "/".join(parts)


def _find_setting(mount: Path, path: str) -> tuple[Path, ...]:
    found = find_named(mount, path)
    if not found:
        raise LoadError(f"FJARR_ADAPTER names {path!r}, but there is no {ADAPTER_CONFIG} in {mount / path}")
    return found


def _is_unlisted(mount: Path, folder: Path, named: Container[str]) -> bool:
    """Return whether a folder that no index lists is not to be served, either."""
    if (folder.parent / VERSION_DRAFT).is_file():
        return True
    return split_name(adapter_name(mount, folder))[0] in named or _is_old(mount, folder)


def _is_old(mount: Path, folder: Path) -> bool:
    """Return whether a folder that no index lists is of a version, and there is a later one."""
    bare, number = split_name(adapter_name(mount, folder))
    if number is None:
        # What was there before the first version is older than any.
        return bool(_version_numbers(folder.parent))
    return number < max(_version_numbers(mount / MODELS / bare), default=0)


def _version_numbers(folder: Path) -> list[int]:
    return [
        int(marker.parent.name)
        for marker in folder.glob(f"*/{VERSION_FILE}")
        if marker.parent.name.isdecimal()
    ]


def _read_usable_index(mount: Path) -> AdapterIndex:
    """Return the index; an empty one if it cannot be used, so that the newest versions are served."""
    try:
        return read_index(mount)
    except (OSError, ValueError):
        return AdapterIndex()
