"""The index of the adapters on the share that are live, which is written last: servers serve what it lists.

    {"generation": "...", "numbers": {"mine": 3}, "versions": {"mine": {"2": "<digest>", "3": "<digest>"}},
     "adapters": {
        "mine": {"folder": "models/mine/3/adapter", "version": "<digest>", "number": 3, "since": "<time>"},
        "mine@2": {"folder": "models/mine/2/adapter", ...}}}

A bare name is the current version's; a name with a number is another version that is live beside it.
`numbers` has the last number of each name, so that none is given twice, and `versions` the versions on the
share, live or not, so that a push need not look into their folders. A server reads the index once a second,
and compares it with what it serves (`inference/models/adapter_index.py`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from infra.document import load_json
from infra.models.versions import (
    FIRST,
    VERSION_DRAFT,
    VERSION_FILE,
    VERSION_MARK,
    AdapterVersion,
    digest_of,
    parse_version,
)
from infra.models.weights import ADAPTER_CONFIG, MODELS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

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
        versions: The digests of the complete versions of each adapter, live or not, by their numbers.
    """

    adapters: Mapping[str, IndexedAdapter] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

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
            "versions": {
                name: {str(number): digest for number, digest in sorted(digests.items())}
                for name, digests in sorted(self.versions.items())
            },
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
        return replace(self, adapters=adapters).numbered(version).with_stored(version)

    def with_live(self, version: AdapterVersion, since: str) -> AdapterIndex:
        """Return the index with one more version beside the current one of its adapter."""
        adapters = {**self.adapters, version.id: _indexed(version, since)}
        return replace(self, adapters=adapters).numbered(version).with_stored(version)

    def without(self, removed: Collection[AdapterVersion]) -> AdapterIndex:
        """Return the index without some versions, which leave the share."""
        folders = {version.folder for version in removed}
        ids = {(version.name, version.number) for version in removed if not version.is_unversioned}
        kept = {name: each for name, each in self.adapters.items() if each.folder not in folders}
        versions = {
            name: {number: digest for number, digest in digests.items() if (name, number) not in ids}
            for name, digests in self.versions.items()
        }
        return replace(self, adapters=kept, versions={name: each for name, each in versions.items() if each})

    def withdrawn(self, version: AdapterVersion) -> AdapterIndex:
        """Return the index with a version that is not live any more, and stays on the share."""
        kept = {name: each for name, each in self.adapters.items() if each.folder != version.folder}
        return replace(self, adapters=kept)

    def numbered(self, version: AdapterVersion) -> AdapterIndex:
        """Return the index after a number was given to a version."""
        last = max(self.numbers.get(version.name, 0), version.number)
        return replace(self, numbers={**self.numbers, version.name: last})

    def with_stored(self, version: AdapterVersion) -> AdapterIndex:
        """Return the index with a version among those that are complete."""
        if version.is_unversioned or not version.digest:
            return self
        digests = {**self.versions.get(version.name, {}), version.number: version.digest}
        return replace(self, versions={**self.versions, version.name: digests})


def bare_name(name: str) -> str:
    """Return a name in the API without the number of a version."""
    bare, mark, number = name.rpartition(VERSION_MARK)
    return bare if mark and bare and number.isdecimal() else name


@dataclass(frozen=True, slots=True)
class AdapterScan:
    """What a look at the adapters of a share has found.

    Attributes:
        index: The index, brought up to date with the folders.
        content: The index as the share has it; None if there is none.
        folders: The folders below `models` that were listed, or that the index knows.
    """

    index: AdapterIndex
    content: bytes | None
    folders: frozenset[str]

    def has_unversioned(self, name: str) -> bool:
        """Return whether an adapter has a folder from before adapters had versions."""
        return f"{MODELS}/{name}/{ADAPTER_FOLDER}" in self.folders

    @property
    def is_up_to_date(self) -> bool:
        """Return whether the index on the share lists what is live, with the numbers that were given."""
        stored = parse_index(self.content or b"")
        return stored is not None and (stored.adapters, stored.numbers) == (
            self.index.adapters,
            self.index.numbers,
        )


def read_index(share: Share) -> AdapterIndex:
    """Return the index of a share, brought up to date with its folders. Nothing is written."""
    return scan_adapters(share).index


def scan_adapters(share: Share) -> AdapterScan:
    """Look at the adapters of a share.

    What others put there is live. What is gone is not. Without a usable index, the newest version of each
    adapter is the current one. A version that the index knows costs no request: its folder has to be there.
    """
    content = share.read(ADAPTER_INDEX)
    stored = parse_index(content or b"")
    scan = _Scan(share, {} if stored is None else stored.versions)
    scan.enter(MODELS)
    known = scan.read_versions()
    folders = {each.folder: each for each in scan.found}
    if stored is None:
        newest = {each.name: each for each in sorted(scan.found, key=lambda each: each.number)}
        adapters = {name: each.indexed(share, known) for name, each in newest.items()}
    else:
        adapters = {
            name: folders[each.folder].refresh(share, each)
            for name, each in stored.adapters.items()
            if each.folder in folders
        }
    for each in scan.found:
        if each.is_unversioned and each.name not in adapters:
            adapters[each.name] = each.indexed(share, known)
    numbers = {} if stored is None else dict(stored.numbers)
    versions: dict[str, dict[int, str]] = {}
    for each in scan.found:
        numbers[each.name] = max(numbers.get(each.name, 0), each.number)
        if not each.is_unversioned and (digest := known[each.name, each.number].digest):
            versions.setdefault(each.name, {})[each.number] = digest
    return AdapterScan(AdapterIndex(adapters, numbers, versions), content, frozenset(scan.folders))


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
        return AdapterIndex(adapters, numbers, _parse_versions(document))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _parse_versions(document: Mapping[str, Any]) -> dict[str, dict[int, str]]:
    """Return the versions of an index; none if they are damaged, so that their folders are looked at."""
    try:
        return {
            str(name): {int(number): str(digest) for number, digest in digests.items()}
            for name, digests in document.get("versions", {}).items()
        }
    except (ValueError, AttributeError):
        return {}


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

    def indexed(self, share: Share, known: Mapping[tuple[str, int], AdapterVersion]) -> IndexedAdapter:
        """Return the entry of the index for this folder."""
        if self.is_unversioned:
            return self.refresh(share, IndexedAdapter(self.folder, ""))
        version = known[self.name, self.number]
        return _indexed(version, version.created)

    def refresh(self, share: Share, listed: IndexedAdapter) -> IndexedAdapter:
        """Return an entry as the folder is now: others may write to one that is not a version's."""
        if not self.is_unversioned:
            return listed
        since = listed.since or datetime.fromtimestamp(self.modified_s, UTC).isoformat()
        return replace(listed, version=digest_of(share, self.folder, self.entries), since=since)


@dataclass(slots=True)
class _Scan:
    """A walk through the folders with adapters.

    Attributes:
        known: The digests of versions that the index has, whose folders are not entered.
        found: The adapters and versions.
        folders: The folders that were entered, or are known.
    """

    share: Share
    known: Mapping[str, Mapping[int, str]]
    found: list[_Found] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)

    def enter(self, folder: str) -> None:
        """Find what is in a folder and below."""
        self.folders.add(folder)
        entries = self.share.entries(folder)
        files = {entry.name: entry for entry in entries if not entry.is_folder}
        parent, _, last = folder.removeprefix(f"{MODELS}/").rpartition("/")
        if parent and last.isdecimal() and VERSION_FILE in files:
            self._add_version(parent, int(last), folder)
            return
        if VERSION_DRAFT in files:
            return
        if last == ADAPTER_FOLDER and parent and ADAPTER_CONFIG in files:
            modified_s = files[ADAPTER_CONFIG].modified_s
            self.found.append(
                _Found(parent, FIRST, folder, modified_s, tuple(files.values()), is_unversioned=True)
            )
        name = folder.partition("/")[2]
        known = {str(number): number for number in self.known.get(name, ())}
        for entry in entries:
            if entry.is_folder and entry.name in known:
                self._add_version(name, known[entry.name], f"{folder}/{entry.name}")
            elif entry.is_folder:
                self.enter(f"{folder}/{entry.name}")

    def read_versions(self) -> dict[tuple[str, int], AdapterVersion]:
        """Return what is known of each version: what its file says, or no more than the index has."""
        versions = {
            (each.name, each.number): AdapterVersion(
                each.name, each.number, self.known.get(each.name, {}).get(each.number, "")
            )
            for each in self.found
            if not each.is_unversioned
        }
        unknown = [key for key, version in versions.items() if not version.digest]
        contents = self.share.read_all([f"{versions[key].root}/{VERSION_FILE}" for key in unknown])
        for (name, number), content in zip(unknown, contents, strict=True):
            # What is known of a version whose file is damaged is its folder.
            versions[name, number] = parse_version(name, number, content) or versions[name, number]
        return versions

    def _add_version(self, name: str, number: int, folder: str) -> None:
        self.folders.add(folder)
        self.found.append(_Found(name, number, f"{folder}/{ADAPTER_FOLDER}", 0.0, (), is_unversioned=False))


def _indexed(version: AdapterVersion, since: str) -> IndexedAdapter:
    return IndexedAdapter(version.folder, version.digest, version.number, since)
