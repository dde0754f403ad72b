"""The index of the adapters on the share that are live, which the pipeline writes last.

    {"generation": "...", "adapters": {
        "mine": {"folder": "models/mine/3/adapter", "version": "<digest>", "number": 3, "since": "<time>"},
        "mine@2": {"folder": "models/mine/2/adapter", ...}}}

A bare name is the current version's; a name with a number is another version that is live beside it. A server
reads the index once a second. It is read rather than looked at: Azure Files' client caches a file's
attributes for half a minute, and asks the share whenever a file is opened. Imports the standard library only.

Source: the CIFS client's documentation, `actimeo`; "Use storage mounts in Azure Container Apps".
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MODELS: Final = "models"
ADAPTER_INDEX: Final = "models/index.json"
"""The file, relative to the share."""

VERSION_MARK: Final = "@"
"""Separates an adapter's name from the number of its version."""


@dataclass(frozen=True, slots=True)
class IndexedAdapter:
    """A version of an adapter that is live.

    Attributes:
        name: Its name in the API: `mine` for the current version, `mine@2` for another.
        folder: Its folder, relative to the share.
        version: Differs whenever its files differ.
        number: The number of the version; 0 if the index is from before adapters had versions.
        since_s: When it went live, in seconds since 1970; 0 if that is not known.
    """

    name: str
    folder: str
    version: str
    number: int = 0
    since_s: float = 0.0

    @property
    def bare_name(self) -> str:
        """Return the name without a version."""
        return self.name if self.folder == f"{MODELS}/{self.name}/adapter" else split_name(self.name)[0]

    @property
    def is_current(self) -> bool:
        """Return whether the bare name is this version's."""
        return self.name == self.bare_name

    @property
    def id(self) -> str:
        """Return the name with the version, such as `mine@3`."""
        return f"{self.bare_name}{VERSION_MARK}{self.number}" if self.number else self.bare_name

    @property
    def model(self) -> str:
        """Return the name under which engines load it, which stays the same as long as it is live."""
        return self.bare_name if self.folder == f"{MODELS}/{self.bare_name}/adapter" else self.id


@dataclass(frozen=True, slots=True)
class AdapterIndex:
    """The adapters on the share that are live.

    Attributes:
        generation: Differs with every change of the index; empty if there is none.
        adapters: The adapters by their names in the API.
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
        adapters = {str(name): _parse(str(name), entry) for name, entry in document["adapters"].items()}
        return AdapterIndex(str(document["generation"]), adapters)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{ADAPTER_INDEX} on the share is damaged: run invoke push again") from error


def split_name(name: str) -> tuple[str, int | None]:
    """Return a name without its version, and the version's number; None if it has none."""
    bare, mark, number = name.rpartition(VERSION_MARK)
    return (bare, int(number)) if mark and bare and number.isdecimal() else (name, None)


def selects(setting: str | None, adapter: IndexedAdapter) -> bool:
    """Return whether `FJARR_ADAPTER` selects an adapter; None and `*` select all.

    The name of an adapter selects each version that is live, and a version's folder or name that version.
    """
    folder = adapter.folder.removesuffix("/adapter")
    bare = f"{MODELS}/{adapter.bare_name}"
    own = {folder, bare, f"{MODELS}/{adapter.id}"}
    names = [name.strip().strip("/").removesuffix("/adapter") for name in (setting or "*").split(",")]
    return "*" in names or not own.isdisjoint(names)


def _parse(name: str, entry: Mapping[str, Any]) -> IndexedAdapter:
    since = entry.get("since")
    since_s = datetime.fromisoformat(str(since)).timestamp() if since else 0.0
    number = int(entry.get("number", 0))
    return IndexedAdapter(name, str(entry["folder"]), str(entry["version"]), number, since_s)
