"""The index of the adapters on the share, which is written last: servers serve what it lists.

    {"generation": "...", "adapters": {"mine": {"folder": "models/mine/adapter", "version": "..."}}}

A server reads it once a second, and compares it with what it serves (`inference/models/adapter_index.py`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from infra.document import load_json
from infra.models.upload import MANIFEST
from infra.models.weights import ADAPTER_CONFIG, MODELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from infra.share.protocol import Share, ShareEntry

ADAPTER_INDEX: Final = "models/index.json"
ADAPTER_FOLDER: Final = "adapter"

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class IndexedAdapter:
    """An adapter on the share.

    Attributes:
        folder: Its folder.
        version: Differs whenever its files differ.
    """

    folder: str
    version: str


@dataclass(frozen=True, slots=True)
class AdapterIndex:
    """The adapters on the share.

    Attributes:
        generation: A digest of what the index lists; empty if there is none.
        adapters: The adapters by name.
    """

    generation: str
    adapters: Mapping[str, IndexedAdapter]

    def render(self) -> bytes:
        """Return the content of the file."""
        adapters = {name: asdict(adapter) for name, adapter in sorted(self.adapters.items())}
        document = {"format": FORMAT, "generation": self.generation, "adapters": adapters}
        return (json.dumps(document, indent=2) + "\n").encode()


@dataclass(frozen=True, slots=True)
class FoundAdapter:
    """A folder of the share with an adapter.

    Attributes:
        modified_s: When its configuration was written, in seconds since 1970.
        entries: Its files.
    """

    folder: str
    modified_s: float
    entries: tuple[ShareEntry, ...]

    @property
    def name(self) -> str:
        """Return the name under which it is served."""
        return self.folder.removeprefix(f"{MODELS}/").removesuffix(f"/{ADAPTER_FOLDER}")


def find_adapters(share: Share) -> tuple[FoundAdapter, ...]:
    """Return the adapters on a share: the folders named `adapter` with a configuration."""
    return tuple(_below(share, MODELS))


def update_index(share: Share, without: str = "") -> AdapterIndex:
    """Write the index of the adapters that the share has, if it is another than before, and return it.

    Args:
        share: The share.
        without: A folder to leave out, because it is about to be deleted.
    """
    adapters = {
        found.name: IndexedAdapter(found.folder, _version_of(share, found))
        for found in find_adapters(share)
        if found.folder != without
    }
    listed = json.dumps({name: asdict(each) for name, each in adapters.items()}, sort_keys=True)
    index = AdapterIndex(sha256(listed.encode()).hexdigest()[:16], adapters)
    content = index.render()
    if share.read(ADAPTER_INDEX) != content:
        share.write(ADAPTER_INDEX, content)
    return index


def is_indexed(share: Share, folder: str) -> bool:
    """Return whether the share's index lists the adapter in a folder."""
    try:
        document = load_json(share.read(ADAPTER_INDEX) or b"{}")
        return any(entry["folder"] == folder for entry in document["adapters"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _below(share: Share, folder: str) -> Iterator[FoundAdapter]:
    entries = share.entries(folder)
    config = next((entry for entry in entries if entry.name == ADAPTER_CONFIG and not entry.is_folder), None)
    if config is not None and folder.endswith(f"/{ADAPTER_FOLDER}"):
        yield FoundAdapter(
            folder, config.modified_s, tuple(entry for entry in entries if not entry.is_folder)
        )
    for entry in entries:
        if entry.is_folder:
            yield from _below(share, f"{folder}/{entry.name}")


def _version_of(share: Share, found: FoundAdapter) -> str:
    """Return a digest of an adapter's manifest; of what the share knows, if others put it there."""
    manifest = share.read(f"{found.folder}/{MANIFEST}")
    if manifest is None:
        known = [(entry.name, entry.size_bytes, entry.modified_s) for entry in found.entries]
        manifest = json.dumps(known).encode()
    return sha256(manifest).hexdigest()[:16]
