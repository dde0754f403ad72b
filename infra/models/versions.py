"""The versions of an adapter on the share.

    models/<name>/<number>/adapter/        the files of a version, which are never changed
    models/<name>/<number>/version.json    what the version is, named so once its files are complete
    models/<name>/adapter/                 version 1, if it was there before adapters had versions

What an interrupted push or removal left has `version.json.uploading` instead. A folder with a number and
neither is an adapter of that name.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from infra.document import load_json
from infra.errors import RemoteError, UsageError
from infra.models.upload import DRAFT_SUFFIX, MANIFEST, UploadPlan, plan_upload
from infra.models.weights import ADAPTER_CONFIG, MODELS
from infra.release.manifest import render_manifest
from infra.share.protocol import Upload

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from infra.models.upload import UploadSet
    from infra.share.protocol import Advance, Share, ShareEntry

VERSION_FILE: Final = "version.json"
VERSION_DRAFT: Final = f"{VERSION_FILE}{DRAFT_SUFFIX}"
VERSION_MARK: Final = "@"
FIRST: Final = 1
"""The number of an adapter that was there before adapters had versions."""

FORMAT: Final = 1

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """A version of an adapter on the share.

    Attributes:
        name: The adapter's name.
        number: The number of the version, from 1 on.
        digest: Differs whenever its files differ.
        created: When it was pushed, in ISO format; empty if that is not known.
        author: Who pushed it, as `user@host`.
        is_unversioned: Whether its folder is the one from before adapters had versions.
    """

    name: str
    number: int
    digest: str = ""
    created: str = ""
    author: str = ""
    is_unversioned: bool = False

    @property
    def id(self) -> str:
        """Return the name with the number, such as `mine@3`."""
        return f"{self.name}{VERSION_MARK}{self.number}"

    @property
    def root(self) -> str:
        """Return the folder around the files of this version."""
        return f"{MODELS}/{self.name}" if self.is_unversioned else f"{MODELS}/{self.name}/{self.number}"

    @property
    def folder(self) -> str:
        """Return the folder of the files."""
        return f"{self.root}/adapter"


def check_name(name: str) -> str:
    """Return the name of an adapter.

    Raises:
        UsageError: It cannot be one.
    """
    parts = name.split("/")
    if not _NAME.fullmatch(name):
        what = f"{name!r} cannot be the name of an adapter: letters, digits, '.', '_' and '-', parted by '/'"
        raise UsageError(what, hint=f"{VERSION_MARK} separates a version, and push numbers versions itself")
    inside = next((part for part in parts[1:] if part.isdecimal() or part == "adapter"), None)
    if inside is not None:
        what = f"{name!r} cannot be the name of an adapter: {inside!r} would be a folder inside of one"
        raise UsageError(what, hint="a number is a version, and 'adapter' the folder of its files")
    return name


def check_case(name: str, others: Iterable[str]) -> None:
    """Check that the name of an adapter differs from all others in more than case.

    Azure Files ignores case, so that both would have one folder.

    Raises:
        UsageError: The name, or a folder in it, is that of another but for its case.
    """
    for other in others:
        twins = zip(_folders_of(name), _folders_of(other), strict=False)
        own, twin = next(((own, twin) for own, twin in twins if own != twin), ("", ""))
        if own and own.casefold() == twin.casefold():
            what = (
                f"the share has {twin!r}, and {own!r} differs from it in case only, which Azure Files ignores"
            )
            hint = f"push it as {twin + name[len(own) :]!r}, or give it another name with --name"
            raise UsageError(what, hint=hint)


def _folders_of(name: str) -> tuple[str, ...]:
    """Return a name and the names of the folders around it, the outermost first."""
    parts = name.split("/")
    return tuple("/".join(parts[: length + 1]) for length in range(len(parts)))


def split_reference(reference: str) -> tuple[str, int]:
    """Return the name and the number of a version that is given as `mine@3`.

    Raises:
        UsageError: It is not of this form.
    """
    name, mark, number = reference.rpartition(VERSION_MARK)
    if not mark or not name or not number.isdecimal():
        raise UsageError(f"{reference!r} is not a version of an adapter", hint="NAME@NUMBER, such as mine@3")
    return name, int(number)


def find_versions(share: Share, name: str) -> tuple[AdapterVersion, ...]:
    """Return the versions of an adapter that are complete, the oldest first."""
    root = f"{MODELS}/{name}"
    folders = [entry.name for entry in share.entries(root) if entry.is_folder]
    numbers = [folder for folder in folders if folder.isdecimal()]
    contents = share.read_all([f"{root}/{number}/{VERSION_FILE}" for number in numbers])
    found = [
        version
        for number, content in zip(numbers, contents, strict=True)
        if (version := parse_version(name, int(number), content)) is not None
    ]
    if "adapter" in folders and (version := _find_unversioned(share, name)) is not None:
        found.append(version)
    return tuple(sorted(found, key=lambda version: version.number))


def find_version(share: Share, reference: str) -> AdapterVersion:
    """Return a version by its name and its number, such as `mine@3`.

    Raises:
        UsageError: The share does not have it.
    """
    name, number = split_reference(reference)
    versions = find_versions(share, name)
    found = next((version for version in versions if version.number == number), None)
    if found is None:
        there = ", ".join(version.id for version in versions) or f"no version of {name}"
        raise UsageError(f"there is no {reference} on the share", hint=f"the share has: {there}")
    return found


@dataclass(frozen=True, slots=True)
class VersionPlan:
    """The version that a push makes live.

    Attributes:
        version: The version.
        upload: What the share lacks of it.
        is_new: Whether the share does not have it yet.
    """

    version: AdapterVersion
    upload: UploadPlan
    is_new: bool


@dataclass(frozen=True, slots=True)
class KnownVersions:
    """What a scan of the share has found of the versions of one adapter.

    Attributes:
        digests: The digests of those that are complete, by their numbers.
        has_unversioned: Whether there is a folder from before adapters had versions.
        folders: The folders below `models` that there are.
        taken: The names of other adapters, whose folders a version cannot have.
    """

    digests: Mapping[int, str]
    has_unversioned: bool
    folders: Container[str]
    taken: Container[str]


def plan_version(
    share: Share, upload_set: UploadSet, draft: AdapterVersion, known: KnownVersions
) -> VersionPlan:
    """Return the version with the files of an upload set: one that the share has, else the draft.

    Args:
        share: The share.
        upload_set: The files.
        draft: The version to make of them, with the least number that it may get.
        known: The versions that there are.
    """
    for number in sorted(known.digests, reverse=True):
        if known.digests[number] != draft.digest:
            continue
        version = _find_complete(share, replace(draft, number=number))
        if version is not None:
            plan = plan_upload(share, replace(upload_set, target=version.folder))
            return VersionPlan(version, plan, is_new=False)
    unversioned = _find_unversioned(share, draft.name) if known.has_unversioned else None
    if unversioned is not None:
        plan = plan_upload(share, replace(upload_set, target=unversioned.folder))
        if not plan.has_changes:
            return VersionPlan(unversioned, plan, is_new=False)
    number = max([draft.number, *(each + 1 for each in known.digests)])
    while f"{draft.name}/{number}" in known.taken:
        number += 1
    version = replace(draft, number=number)
    return VersionPlan(version, _plan_new(share, upload_set, version, known.folders), is_new=True)


def upload_version(share: Share, plan: VersionPlan, advance: Advance) -> int:
    """Upload the files of a new version, and record that they are complete.

    Its folder is marked until then, and nobody serves what is in it, so that files get their names at once.
    Servers of before versions go by the configuration, which comes last.

    Returns the number of bytes that an interrupted upload had left on the share already.

    Raises:
        UsageError: A local file was changed meanwhile. The version does not become complete.
        RemoteError: Somebody has removed it meanwhile.
    """
    version, target, upload_set = plan.version, plan.version.folder, plan.upload.upload_set
    for name in plan.upload.removed:
        share.delete(f"{target}/{name}")
    draft = f"{version.root}/{VERSION_DRAFT}"
    share.upload([Upload(draft, _render(version))], lambda _size: None)
    weights, configuration = list[Upload](), list[Upload]()
    for entry in plan.upload.uploads:
        file = Upload(f"{target}/{entry.path}", upload_set.sources[entry.path], entry.sha256)
        (configuration if entry.path == ADAPTER_CONFIG else weights).append(file)
    resumed_bytes = share.upload(weights, advance)
    upload_set.check_unchanged()
    share.put(f"{target}/{MANIFEST}", render_manifest(upload_set.manifest).encode())
    share.upload(configuration, advance)
    if not share.move(draft, f"{version.root}/{VERSION_FILE}", replace=True):
        raise RemoteError(f"{draft} disappeared from the share", hint="run the same command again")
    return resumed_bytes


def delete_version(share: Share, version: AdapterVersion) -> None:
    """Delete a version.

    Until nothing is left of it, it is marked as one that is being uploaded: interrupted, this leaves no
    adapter that somebody finds.
    """
    if version.is_unversioned:
        share.delete(f"{version.folder}/{ADAPTER_CONFIG}")
        share.delete_tree(version.folder)
        return
    share.move(f"{version.root}/{VERSION_FILE}", f"{version.root}/{VERSION_DRAFT}", replace=True)
    delete_draft(share, version.root)


def delete_draft(share: Share, root: str) -> None:
    """Delete what an interrupted push or removal left of a version: its marker last."""
    share.delete_tree(f"{root}/adapter")
    share.delete_tree(root)


def digest_of(share: Share, folder: str, entries: Sequence[ShareEntry]) -> str:
    """Return a digest of an adapter's manifest; of what the share knows, if others put the files there."""
    manifest = share.read(f"{folder}/{MANIFEST}")
    if manifest is None:
        known = [(entry.name, entry.size_bytes, entry.modified_s) for entry in entries if not entry.is_folder]
        manifest = json.dumps(known).encode()
    return sha256(manifest).hexdigest()[:16]


def parse_version(name: str, number: int, content: bytes | None) -> AdapterVersion | None:
    """Parse the file of a version; None if there is none, or it is damaged."""
    try:
        document = load_json(content or b"")
        recorded = str(document.get("name", name))
        if recorded != name and recorded.casefold() == name.casefold():
            return None  # the folder is of another adapter: Azure Files ignores the case of names
        digest, created, author = (str(document[key]) for key in ("digest", "created", "author"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return AdapterVersion(name, number, digest, created, author)


def _render(version: AdapterVersion) -> bytes:
    document = {
        "format": FORMAT,
        "name": version.name,
        "version": version.number,
        "digest": version.digest,
        "created": version.created,
        "author": version.author,
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def _find_complete(share: Share, expected: AdapterVersion) -> AdapterVersion | None:
    """Return a version that the index knows, if it is still on the share with these files."""
    content = share.read(f"{expected.root}/{VERSION_FILE}")
    found = parse_version(expected.name, expected.number, content)
    return found if found is not None and found.digest == expected.digest else None


def _plan_new(
    share: Share, upload_set: UploadSet, version: AdapterVersion, folders: Container[str]
) -> UploadPlan:
    """Return the upload of a new version, into whose folder an interrupted push may have written.

    Its configuration is removed in any case, so that it comes last again.
    """
    files = upload_set.manifest.files
    wanted = {MANIFEST, *(entry.path for entry in files)} - {ADAPTER_CONFIG}
    there = share.entries(version.folder) if version.root in folders else ()
    removed = tuple(entry.name for entry in there if not entry.is_folder and entry.name not in wanted)
    return UploadPlan(replace(upload_set, target=version.folder), files, removed)


def _find_unversioned(share: Share, name: str) -> AdapterVersion | None:
    version = AdapterVersion(name, FIRST, is_unversioned=True)
    entries = share.entries(version.folder)
    if all(entry.name != ADAPTER_CONFIG for entry in entries):
        return None
    if not _has_exact_case(share, version.root):
        return None  # as above
    return replace(version, digest=digest_of(share, version.folder, entries))


def _has_exact_case(share: Share, folder: str) -> bool:
    """Return whether a folder that exists has this very name: Azure Files ignores case."""
    paths = _folders_of(folder)
    return all(
        path.rpartition("/")[2] in {entry.name for entry in share.entries(path.rpartition("/")[0])}
        for path in paths[1:]
    )
