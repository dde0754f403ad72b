"""The local disk of a replica: where copies of models are kept on it, and how much is free."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from inference.storage.copying import used_bytes

if TYPE_CHECKING:
    from inference.settings import Settings

SPARE_DISK_BYTES: Final = 2 * 2**30
"""What a copy leaves free for packages and the engine's own caches."""

PLATFORM_DISK_BYTES: Final = 8 * 2**30
"""The local disk of a replica with more than one core on Azure Container Apps, which ends a replica that uses
more; the file system reports the node's. Source: "Use storage mounts in Azure Container Apps"."""


def merge_folder(settings: Settings) -> Path:
    """Return the folder of the bases with an adapter merged."""
    return settings.merge_folder or _cache_folder("merged")


def weights_folder(settings: Settings) -> Path:
    """Return the folder of the models that were copied from the share."""
    return settings.weights_folder or _cache_folder("weights")


def platform_limit_bytes(folder: Path, settings: Settings) -> int | None:
    """Return what the platform lets a replica write to the disk of a folder; None if it sets no limit."""
    is_on_platform = bool(settings.replica) and not folder.is_relative_to(settings.mount)
    return PLATFORM_DISK_BYTES if is_on_platform else None


def free_disk_bytes(folder: Path, settings: Settings) -> int:
    """Return how much may still be written to a folder, which need not exist.

    Raises:
        OSError: If the disk cannot be looked at.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    limit = platform_limit_bytes(folder, settings)
    if limit is None:
        return free
    folders = (merge_folder(settings), weights_folder(settings))
    written = sum(used_bytes(each) for each in folders if platform_limit_bytes(each, settings) is not None)
    return min(free, limit - written)


def _cache_folder(name: str) -> Path:
    try:
        return Path.home() / ".cache" / "fjarr" / name
    except RuntimeError:
        # A user without a home, as some containers have.
        return Path(tempfile.gettempdir()) / f"fjarr-{name}-{os.getuid()}"


def in_mib(size_bytes: int) -> str:
    """Return a size in MiB for messages, rounded up: `17 MiB`."""
    return f"{math.ceil(size_bytes / 2**20)} MiB"
