"""The contents of a release: a list of files with their digests, and its origin.

A local folder becomes a `Manifest`, in `infra.release.tree`; a manifest with its origin becomes a `Release`,
which is stored on the share as `release.json`. This module hashes files and converts values to text and back;
it does not access a share.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, TypeVar

from infra.document import load_json
from infra.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT: Final = 1
"""The version of the JSON format. A reader rejects a newer one."""

LOCK_NAMES: Final = "*/requirements*.lock.txt"
"""The locks of packages in a release: a replica installs exactly what one of them has."""

RELEASE_ID: Final = re.compile(r"^\d{8}T\d{6}Z-[0-9a-f]{8}$")
"""A release's id: the time of its creation (UTC), and the first digits of its content's digest."""

_READ_BYTES: Final = 1 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True, order=True)
class FileEntry:
    """One file of a release.

    `path` is relative to the release's folder, with forward slashes; `sha256` is lower-case hexadecimal.
    """

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a tree, sorted by path."""

    files: tuple[FileEntry, ...]

    @property
    def size_bytes(self) -> int:
        """Return the size of all files together."""
        return sum(entry.size_bytes for entry in self.files)

    @property
    def locks(self) -> dict[str, str]:
        """Return the digests of the locks of packages by their paths; archives are found by them."""
        return {each.path: each.sha256 for each in self.files if fnmatchcase(each.path, LOCK_NAMES)}

    @property
    def digest(self) -> str:
        """Return the digest of the content: equal trees have equal digests, whatever their origin."""
        lines = (f"{entry.sha256} {entry.size_bytes} {entry.path}\n" for entry in sorted(self.files))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ReleaseAdapter:
    """A version of an adapter that is live with a release.

    Attributes:
        name: Its name in the API: the bare name for the current version.
        version: The number of the version.
        digest: Differs whenever its files differ.
    """

    name: str
    version: int
    digest: str

    @property
    def id(self) -> str:
        """Return the name with the version, such as `mine@3`."""
        own = f"@{self.version}"
        return self.name if self.name.endswith(own) else f"{self.name}{own}"


@dataclass(frozen=True, slots=True)
class Replaced:
    """What was served just before a release was created: the release, and the adapters beside the base."""

    release: str
    adapters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a release: who created it, when, with which version of this tool, from which commit.

    `git_commit` and `is_dirty` are None where the tree is not under git. `author` is `user@host`. `replaced`
    is None if nothing was served, and `adapters`, which were live then, if that is not known.
    """

    created: datetime
    author: str
    tool_version: str
    git_commit: str | None = None
    is_dirty: bool | None = None
    replaced: Replaced | None = None
    adapters: tuple[ReleaseAdapter, ...] | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """A manifest with its origin."""

    manifest: Manifest
    origin: Origin

    @property
    def id(self) -> str:
        """Return the release's id, which sorts by age and ends alike for equal content."""
        return f"{self.origin.created.astimezone(UTC):%Y%m%dT%H%M%SZ}-{self.manifest.digest[:8]}"

    @property
    def source(self) -> str:
        """Return the commit as text: `4b895c2`, `4b895c2 with changes`, or `no commit`."""
        if self.origin.git_commit is None:
            return "no commit"
        return self.origin.git_commit[:7] + (" with changes" if self.origin.is_dirty else "")


def hash_file(local: Path, path: str) -> FileEntry:
    """Return the entry of a local file under the name `path`, reading the file once."""
    digest, size_bytes = hashlib.sha256(), 0
    with local.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
            size_bytes += len(block)
    return FileEntry(path, size_bytes, digest.hexdigest())


def hash_bytes(content: bytes, path: str) -> FileEntry:
    """Return the entry of a file that exists only in memory, under the name `path`."""
    return FileEntry(path, len(content), hashlib.sha256(content).hexdigest())


def render_manifest(manifest: Manifest) -> str:
    """Return a manifest without an origin as JSON, as it is stored beside weights on the share."""
    return _dump({"format": FORMAT, **_manifest_fields(manifest)})


def render_release(release: Release) -> str:
    """Return a release as JSON: sorted, indented and stable, so that two releases can be compared."""
    origin = release.origin
    return _dump(
        {
            "format": FORMAT,
            "release": release.id,
            "created": origin.created.astimezone(UTC).isoformat(timespec="seconds"),
            "author": origin.author,
            "tool_version": origin.tool_version,
            "git_commit": origin.git_commit,
            "git_dirty": origin.is_dirty,
            "replaced": None if origin.replaced is None else asdict(origin.replaced),
            "adapters": None if origin.adapters is None else [asdict(each) for each in origin.adapters],
            "locks": release.manifest.locks,
            **_manifest_fields(release.manifest),
        }
    )


def parse_manifest(text: str | bytes, where: str) -> Manifest:
    """Parse the JSON that `render_manifest` returns. `where` names the file in errors.

    Raises:
        RemoteError: It is not a manifest, is of a newer format, or does not match its own digest.
    """
    return _parse_files(_load(text, where), where)


def parse_release(text: str | bytes, where: str) -> Release:
    """Parse the JSON that `render_release` returns. `where` names the file in errors.

    Raises:
        RemoteError: It is not a release, is of a newer format, or does not match its own digest.
    """
    document = _load(text, where)
    origin = Origin(
        created=_parse_time(_field(document, "created", str, where), where),
        author=_field(document, "author", str, where),
        tool_version=_field(document, "tool_version", str, where),
        git_commit=_optional(document, "git_commit", str, where),
        is_dirty=_optional(document, "git_dirty", bool, where),
        replaced=_parse_replaced(document, where),
        adapters=None if document.get("adapters") is None else _parse_own_adapters(document, where),
    )
    return Release(_parse_files(document, where), origin)


def parse_adapters(document: Any) -> tuple[ReleaseAdapter, ...]:  # noqa: ANN401 - JSON
    """Parse the adapters of a document.

    Raises:
        ValueError: It has none.
    """
    try:
        return tuple(
            ReleaseAdapter(str(each["name"]), int(each["version"]), str(each["digest"]))
            for each in document["adapters"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'adapters' is damaged ({error})") from error


def _parse_own_adapters(document: Mapping[str, object], where: str) -> tuple[ReleaseAdapter, ...]:
    try:
        return parse_adapters(document)
    except ValueError as error:
        raise unreadable(where, str(error)) from error


def _dump(document: Mapping[str, object]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _manifest_fields(manifest: Manifest) -> dict[str, object]:
    files = [
        {"path": entry.path, "size": entry.size_bytes, "sha256": entry.sha256} for entry in manifest.files
    ]
    return {"digest": manifest.digest, "files": files}


def _load(text: str | bytes, where: str) -> dict[str, object]:
    try:
        document = load_json(text)
    except ValueError as error:
        raise unreadable(where, f"it is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise unreadable(where, "it is not a JSON object")
    version = _field(document, "format", int, where)
    if version != FORMAT:
        raise unreadable(where, f"its format is {version}, and this version of the tool knows {FORMAT}")
    return document


def _parse_files(document: Mapping[str, object], where: str) -> Manifest:
    files = _field(document, "files", list, where)
    manifest = Manifest(tuple(_parse_entry(item, where) for item in files))
    if manifest.digest != _field(document, "digest", str, where):
        raise unreadable(where, "its digest does not match its files")
    return manifest


def _parse_entry(item: object, where: str) -> FileEntry:
    if not isinstance(item, dict):
        raise unreadable(where, "an entry of 'files' is not an object")
    path = _field(item, "path", str, where)
    if path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise unreadable(where, f"the path {path!r} leads out of the folder")
    return FileEntry(path, _field(item, "size", int, where), _field(item, "sha256", str, where))


def _parse_replaced(document: Mapping[str, object], where: str) -> Replaced | None:
    found = _optional(document, "replaced", dict, where)
    if found is None:
        return None
    adapters = _field(found, "adapters", list, where)
    return Replaced(_field(found, "release", str, where), tuple(map(str, adapters)))


def _parse_time(text: str, where: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise unreadable(where, f"{text!r} is not a time") from error


def _field(document: Mapping[str, object], name: str, kind: type[T], where: str) -> T:
    value = document.get(name)
    if not isinstance(value, kind):
        raise unreadable(where, f"{name!r} is missing or not a {kind.__name__}")
    return value


def _optional(document: Mapping[str, object], name: str, kind: type[T], where: str) -> T | None:
    return None if document.get(name) is None else _field(document, name, kind, where)


def unreadable(where: str, reason: str) -> RemoteError:
    """Return the error for a file of a release on the share that cannot be read."""
    return RemoteError(
        f"{where} on the share cannot be read: {reason}",
        hint="deploy with --force to make a fresh release, or remove the file",
    )
