"""The index of the adapters on the share that are live, which is written last: servers serve what it lists.

    {"generation": "...", "numbers": {"mine": 3}, "adapters": {
        "mine": {"folder": "models/mine/3/adapter", "version": "<digest>", "number": 3, "since": "<time>"},
        "mine@2": {"folder": "models/mine/2/adapter", ...}}}

A bare name is the current version's; a name with a number is another version that is live beside it.
`numbers` has the last number of each name, so that none is given twice. A server reads the index once a
second, and compares it with what it serves (`inference/models/adapter_index.py`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from infra.document import load_json
from infra.models.versions import (
    FIRST,
    VERSION_DRAFT,
    VERSION_FILE,
    VERSION_MARK,
    AdapterVersion,
    digest_of,
    find_versions,
)
from infra.models.weights import ADAPTER_CONFIG, MODELS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from infra.share.protocol import Share, ShareEntry

ADAPTER_INDEX: Final = "models/index.json"
ADAPTER_FOLDER: Final = "adapter"

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class IndexedAdapter:
    """A version of an adapter that is live.

    Attributes:
        folder: Its folder.
        version: Differs whenever its files differ.
        number: The number of the version.
        since: When it went live, in ISO format; empty if that is not known.
    """

    folder: str
    version: str
    number: int = FIRST
    since: str = ""


@dataclass(frozen=True, slots=True)
class AdapterIndex:
    """The adapters on the share that are live.

    Attributes:
        adapters: The adapters by their names in the API: the bare name for the current version.
        numbers: The last number that a version of each adapter got.
    """

    adapters: Mapping[str, IndexedAdapter] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)

    @property
    def generation(self) -> str:
        """Return a digest of what is live."""
        listed = json.dumps({name: asdict(each) for name, each in self.adapters.items()}, sort_keys=True)
        return sha256(listed.encode()).hexdigest()[:16]

    @property
    def newest(self) -> str | None:
        """Return the name of the adapter that went live last, which a server lists first."""
        current = [(each.since, name) for name, each in self.adapters.items() if bare_name(name) == name]
        return max(current, default=("", None))[1]

    def render(self) -> bytes:
        """Return the content of the file."""
        document = {
            "format": FORMAT,
            "generation": self.generation,
            "numbers": dict(sorted(self.numbers.items())),
            "adapters": {name: asdict(each) for name, each in sorted(self.adapters.items())},
        }
        return (json.dumps(document, indent=2) + "\n").encode()

    def id_of(self, name: str) -> str:
        """Return the version that a name of the API means, such as `mine@3` for `mine`."""
        return f"{bare_name(name)}{VERSION_MARK}{self.adapters[name].number}"

    def changed_names(self, before: AdapterIndex) -> frozenset[str]:
        """Return the names that mean another version than before, or none."""
        names = self.adapters.keys() | before.adapters.keys()
        return frozenset(name for name in names if self.adapters.get(name) != before.adapters.get(name))

    def is_live(self, version: AdapterVersion) -> bool:
        """Return whether a version is served, under whatever name."""
        return any(each.folder == version.folder for each in self.adapters.values())

    def with_current(self, version: AdapterVersion, since: str, *, keeps_previous: bool) -> AdapterIndex:
        """Return the index with another current version of an adapter.

        Args:
            version: The version.
            since: The time, in ISO format.
            keeps_previous: Whether the version that was the current one stays live, under its number.
        """
        previous = self.adapters.get(version.name)
        adapters = {name: each for name, each in self.adapters.items() if each.folder != version.folder}
        if previous is not None and previous.folder != version.folder and keeps_previous:
            adapters[f"{version.name}{VERSION_MARK}{previous.number}"] = previous
        adapters[version.name] = _indexed(version, since)
        return replace(self, adapters=adapters).numbered(version)

    def with_live(self, version: AdapterVersion, since: str) -> AdapterIndex:
        """Return the index with one more version beside the current one of its adapter."""
        adapters = {**self.adapters, version.id: _indexed(version, since)}
        return replace(self, adapters=adapters).numbered(version)

    def without(self, folders: Collection[str]) -> AdapterIndex:
        """Return the index without the versions in some folders."""
        kept = {name: each for name, each in self.adapters.items() if each.folder not in folders}
        return replace(self, adapters=kept)

    def numbered(self, version: AdapterVersion) -> AdapterIndex:
        """Return the index after a number was given to a version."""
        last = max(self.numbers.get(version.name, 0), version.number)
        return replace(self, numbers={**self.numbers, version.name: last})


def bare_name(name: str) -> str:
    """Return a name in the API without the number of a version."""
    bare, mark, number = name.rpartition(VERSION_MARK)
    return bare if mark and bare and number.isdecimal() else name


def read_index(share: Share) -> AdapterIndex:
    """Return the index of a share, brought up to date with its folders. Nothing is written.

    What others put there is live. What is gone is not. Without a usable index, the newest version of each
    adapter is the current one.
    """
    found = tuple(_below(share, MODELS))
    folders = {each.folder: each for each in found}
    index = _read(share)
    if index is None:
        newest = {each.name: each for each in sorted(found, key=lambda each: each.number)}
        index = AdapterIndex({name: each.indexed(share) for name, each in newest.items()})
    adapters = {
        name: folders[each.folder].refresh(share, each)
        for name, each in index.adapters.items()
        if each.folder in folders
    }
    for each in found:
        if each.is_unversioned and each.name not in adapters:
            adapters[each.name] = each.indexed(share)
    numbers = dict(index.numbers)
    for each in found:
        numbers[each.name] = max(numbers.get(each.name, 0), each.number)
    return AdapterIndex(adapters, numbers)


def parse_index(content: bytes) -> AdapterIndex | None:
    """Parse an index; None if it is damaged."""
    try:
        document = load_json(content)
        adapters = {
            str(name): IndexedAdapter(
                str(entry["folder"]),
                str(entry["version"]),
                int(entry.get("number", FIRST)),
                str(entry.get("since", "")),
            )
            for name, entry in document["adapters"].items()
        }
        numbers = {str(name): int(number) for name, number in document.get("numbers", {}).items()}
        return AdapterIndex(adapters, numbers)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def write_index(share: Share, index: AdapterIndex) -> None:
    """Write the index, if it differs from what the share has."""
    content = index.render()
    if share.read(ADAPTER_INDEX) != content:
        share.write(ADAPTER_INDEX, content)


@dataclass(frozen=True, slots=True)
class _Found:
    """A folder of the share with an adapter."""

    name: str
    number: int
    folder: str
    modified_s: float
    entries: tuple[ShareEntry, ...]
    is_unversioned: bool

    def indexed(self, share: Share) -> IndexedAdapter:
        """Return the entry of the index for this folder."""
        if self.is_unversioned:
            return self.refresh(share, IndexedAdapter(self.folder, ""))
        versions = {version.number: version for version in find_versions(share, self.name)}
        # What is known of a version whose file is damaged is its folder.
        version = versions.get(self.number, AdapterVersion(self.name, self.number))
        return _indexed(version, version.created)

    def refresh(self, share: Share, listed: IndexedAdapter) -> IndexedAdapter:
        """Return an entry as the folder is now: others may write to one that is not a version's."""
        if not self.is_unversioned:
            return listed
        since = listed.since or datetime.fromtimestamp(self.modified_s, UTC).isoformat()
        return replace(listed, version=digest_of(share, self.folder, self.entries), since=since)


def _below(share: Share, folder: str) -> Iterator[_Found]:
    entries = share.entries(folder)
    files = {entry.name: entry for entry in entries if not entry.is_folder}
    parent, _, last = folder.removeprefix(f"{MODELS}/").rpartition("/")
    if parent and last.isdecimal() and VERSION_FILE in files:
        inside = f"{folder}/{ADAPTER_FOLDER}"
        yield _Found(parent, int(last), inside, files[VERSION_FILE].modified_s, (), is_unversioned=False)
        return
    if VERSION_DRAFT in files:
        return
    if last == ADAPTER_FOLDER and parent and ADAPTER_CONFIG in files:
        modified_s = files[ADAPTER_CONFIG].modified_s
        yield _Found(parent, FIRST, folder, modified_s, tuple(files.values()), is_unversioned=True)
    for entry in entries:
        if entry.is_folder:
            yield from _below(share, f"{folder}/{entry.name}")


def _read(share: Share) -> AdapterIndex | None:
    """Return the index as it is on the share; None if there is none, or it is damaged."""
    content = share.read(ADAPTER_INDEX)
    return None if content is None else parse_index(content)


def _indexed(version: AdapterVersion, since: str) -> IndexedAdapter:
    return IndexedAdapter(version.folder, version.digest, version.number, since)
