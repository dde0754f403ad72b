"""The versions of an adapter on the share.

    models/<name>/<number>/adapter/        the files of a version, which are never changed
    models/<name>/<number>/version.json    what the version is, named so once its files are complete
    models/<name>/adapter/                 version 1, if it was there before adapters had versions

What an interrupted push left has `version.json.uploading` instead. A folder with a number and neither is an
adapter of that name.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from infra.document import load_json
from infra.errors import RemoteError, UsageError
from infra.models.upload import DRAFT_SUFFIX, MANIFEST, plan_upload
from infra.models.weights import ADAPTER_CONFIG, MODELS

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from infra.models.upload import UploadPlan, UploadSet
    from infra.share.protocol import Share, ShareEntry

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
        if (version := _parse(name, int(number), content)) is not None
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


def plan_version(
    share: Share, upload_set: UploadSet, draft: AdapterVersion, taken: Container[str]
) -> VersionPlan:
    """Return the version with the files of an upload set: one that the share has, else the draft.

    Args:
        share: The share.
        upload_set: The files.
        draft: The version to make of them, with the least number that it may get.
        taken: The names of other adapters, whose folders a version cannot have.
    """
    versions = find_versions(share, draft.name)
    for version in reversed(versions):
        if version.digest != draft.digest and not version.is_unversioned:
            continue
        plan = plan_upload(share, replace(upload_set, target=version.folder))
        if not version.is_unversioned or not plan.has_changes:
            return VersionPlan(version, plan, is_new=False)
    number = max([draft.number, *(version.number + 1 for version in versions)])
    while f"{draft.name}/{number}" in taken:
        number += 1
    version = replace(draft, number=number)
    return VersionPlan(version, plan_upload(share, replace(upload_set, target=version.folder)), is_new=True)


def begin_version(share: Share, version: AdapterVersion) -> None:
    """Mark the folder of a version before its files are uploaded."""
    document = {
        "format": FORMAT,
        "name": version.name,
        "version": version.number,
        "digest": version.digest,
        "created": version.created,
        "author": version.author,
    }
    share.write(f"{version.root}/{VERSION_DRAFT}", (json.dumps(document, indent=2) + "\n").encode())


def finish_version(share: Share, version: AdapterVersion) -> None:
    """Record that the files of a version are complete.

    Raises:
        RemoteError: Somebody has removed it meanwhile.
    """
    path = f"{version.root}/{VERSION_DRAFT}"
    if not share.move(path, f"{version.root}/{VERSION_FILE}", replace=True):
        raise RemoteError(f"{path} disappeared from the share", hint="run the same command again")


def delete_version(share: Share, version: AdapterVersion) -> None:
    """Delete a version. What makes it complete goes first, so that this can be interrupted."""
    if version.is_unversioned:
        share.delete(f"{version.folder}/{ADAPTER_CONFIG}")
        share.delete_tree(version.folder)
    else:
        share.delete(f"{version.root}/{VERSION_FILE}")
        share.delete_tree(version.root)


def digest_of(share: Share, folder: str, entries: Sequence[ShareEntry]) -> str:
    """Return a digest of an adapter's manifest; of what the share knows, if others put the files there."""
    manifest = share.read(f"{folder}/{MANIFEST}")
    if manifest is None:
        known = [(entry.name, entry.size_bytes, entry.modified_s) for entry in entries if not entry.is_folder]
        manifest = json.dumps(known).encode()
    return sha256(manifest).hexdigest()[:16]


def _parse(name: str, number: int, content: bytes | None) -> AdapterVersion | None:
    try:
        document = load_json(content or b"")
        digest, created, author = (str(document[key]) for key in ("digest", "created", "author"))
    except (ValueError, KeyError, TypeError):
        return None  # there is none: the folder is not a version
    return AdapterVersion(name, number, digest, created, author)


def _find_unversioned(share: Share, name: str) -> AdapterVersion | None:
    version = AdapterVersion(name, FIRST, is_unversioned=True)
    entries = share.entries(version.folder)
    if all(entry.name != ADAPTER_CONFIG for entry in entries):
        return None
    return replace(version, digest=digest_of(share, version.folder, entries))
