"""The adapters of a release: those that were live when it was last seen to serve.

    releases/<id>/adapters.json    their names, versions and digests

A release has those that were live when it was made; the file is written when others go live while it is. With
it, `rollback` brings the versions back, and `prune` knows which of them are needed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Final

from infra.document import load_json
from infra.models.adapter_index import AdapterIndex, bare_name
from infra.models.versions import find_versions
from infra.release.manifest import ReleaseAdapter, parse_adapters
from infra.release.releases import folder_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from infra.az.revision import VersionResponse
    from infra.models.versions import AdapterVersion
    from infra.release.manifest import Release
    from infra.share.protocol import Share

RECORD: Final = "adapters.json"
FORMAT: Final = 1


def adapters_of(index: AdapterIndex) -> tuple[ReleaseAdapter, ...]:
    """Return what a release's record has of the adapters of an index."""
    return tuple(
        ReleaseAdapter(name, each.number, each.version) for name, each in sorted(index.adapters.items())
    )


def adapters_served(answer: VersionResponse) -> tuple[ReleaseAdapter, ...]:
    """Return what a release's record has of the adapters that a replica serves."""
    served = sorted(answer.adapter_versions, key=lambda each: each.name)
    return tuple(ReleaseAdapter(each.name, each.number, each.digest) for each in served)


def write_record(share: Share, release: str, index: AdapterIndex) -> None:
    """Record the adapters that are live with a release."""
    document = {"format": FORMAT, "adapters": [asdict(each) for each in adapters_of(index)]}
    share.put(f"{folder_of(release)}/{RECORD}", (json.dumps(document, indent=1) + "\n").encode())


def read_adapters(
    share: Share, releases: Sequence[tuple[str, Release | None]]
) -> tuple[tuple[ReleaseAdapter, ...] | None, ...]:
    """Return the adapters of each release; None where that is not known.

    Args:
        share: The share.
        releases: The id of each, and its manifest if it can be read.
    """
    contents = share.read_all([f"{folder_of(release_id)}/{RECORD}" for release_id, _ in releases])
    return tuple(
        _parse(content) or (None if release is None else release.origin.adapters)
        for content, (_, release) in zip(contents, releases, strict=True)
    )


def restore(
    share: Share, adapters: Sequence[ReleaseAdapter], before: AdapterIndex
) -> tuple[AdapterIndex, tuple[str, ...]]:
    """Return the index with a release's adapters live again, and what is not on the share any more.

    Adapters that the release did not have stay as they are, and so does each of which a version is gone or
    has other files by now: those of before versions can be overwritten.
    """
    names = sorted({bare_name(each.name) for each in adapters})
    after, gone = before, list[str]()
    for name in names:
        own = [each for each in adapters if bare_name(each.name) == name]
        versions = {version.number: version for version in find_versions(share, name)}
        missing = [each.id for each in own if not _is_same(versions.get(each.version), each)]
        gone += missing
        if missing:
            continue
        live = {each.folder: each for each in before.adapters.values()}
        after = replace(
            after, adapters={key: each for key, each in after.adapters.items() if bare_name(key) != name}
        )
        for each in own:
            version = versions[each.version]
            since = live[version.folder].since if version.folder in live else version.created
            if each.name == name:
                after = after.with_current(version, since, keeps_previous=False)
            else:
                after = after.with_live(version, since)
    return after, tuple(gone)


def _is_same(version: AdapterVersion | None, recorded: ReleaseAdapter) -> bool:
    """Return whether a version is there and has the files that it had. A version has no other number."""
    return version is not None and (not recorded.digest or version.digest == recorded.digest)


def _parse(content: bytes | None) -> tuple[ReleaseAdapter, ...] | None:
    try:
        return parse_adapters(load_json(content or b""))
    except ValueError:
        return None  # there is none, or it is damaged: what the release was made with is known
