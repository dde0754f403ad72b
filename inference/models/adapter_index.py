"""The index of the adapters on the share, which `push` writes last.

    {"generation": "...", "adapters": {"mine": {"folder": "models/mine/adapter", "version": "..."}}}

A server reads it once a second. It is read rather than looked at: Azure Files' client caches a file's
attributes for half a minute, and asks the share whenever a file is opened. Imports the standard library only.

Source: the CIFS client's documentation, `actimeo`; "Use storage mounts in Azure Container Apps".
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ADAPTER_INDEX: Final = "models/index.json"
"""The file, relative to the share."""


@dataclass(frozen=True, slots=True)
class IndexedAdapter:
    """An adapter on the share.

    Attributes:
        folder: Its folder, relative to the share.
        version: Differs whenever its files differ.
    """

    folder: str
    version: str


@dataclass(frozen=True, slots=True)
class AdapterIndex:
    """The adapters on the share.

    Attributes:
        generation: Differs with every change of the index; empty if there is none.
        adapters: The adapters by name.
    """

    generation: str = ""
    adapters: Mapping[str, IndexedAdapter] = field(default_factory=dict)


def read_index(mount: Path) -> AdapterIndex:
    """Read the index of a share; an empty one if there is none.

    Raises:
        OSError: If the share cannot be read.
        ValueError: If the file is not an index.
    """
    try:
        return parse_index((mount / ADAPTER_INDEX).read_bytes())
    except FileNotFoundError:
        return AdapterIndex()


def parse_index(content: bytes) -> AdapterIndex:
    """Read an index.

    Raises:
        ValueError: If it is not one.
    """
    try:
        document = json.loads(content)
        adapters = {
            str(name): IndexedAdapter(str(entry["folder"]), str(entry["version"]))
            for name, entry in document["adapters"].items()
        }
        return AdapterIndex(str(document["generation"]), adapters)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{ADAPTER_INDEX} on the share is damaged: run invoke push again") from error


def selects(setting: str | None, folder: str) -> bool:
    """Return whether `FJARR_ADAPTER` selects the adapter in a folder; None and `*` select all."""
    names = [name.strip().strip("/") for name in (setting or "*").split(",")]
    return "*" in names or folder in names or folder.removesuffix("/adapter") in names
