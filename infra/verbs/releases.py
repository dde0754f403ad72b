"""List the releases on a stage's share and the changes of it, and remove old releases."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from infra.az.revision import VersionResponse
from infra.deploy_context import open_deploy_context
from infra.errors import RemoteError, UsageError
from infra.models.adapter_index import read_index
from infra.models.records import read_adapters
from infra.models.scores import AdapterScore, read_scores
from infra.models.upload import find_drafts
from infra.models.versions import VERSION_DRAFT, delete_draft, delete_version, find_versions
from infra.models.weights import MODEL_CACHE, MODELS
from infra.release.audit import AuditEntry, list_audit, proven_releases, read_audit
from infra.release.cleaning import (
    KEPT,
    PACKAGES,
    find_surplus,
    prune,
    prune_packages,
    remove_unfinished,
)
from infra.release.lock import TAKES_FREE_LOCK, LockAccess, read_lock
from infra.release.manifest import ReleaseAdapter, Replaced
from infra.release.releases import list_releases, read_live, read_releases
from infra.resources.file_share import open_share
from infra.wording import count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.release.known import KnownReleases
    from infra.release.manifest import Release
    from infra.session import Session
    from infra.share.protocol import Share

SHOWN_CHANGES: Final = 20
VERSIONS_KEPT: Final = 3
"""How many of the newest versions of an adapter `prune` never removes."""

DRAFTS_STAY: Final = timedelta(days=1)
"""How long an interrupted push can be resumed, once somebody prunes."""


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """A release on the share.

    Attributes:
        release: Its id.
        created: When it was made, in ISO format; empty if its manifest is damaged or missing.
        author: Who made it, as `user@host`.
        commit: The commit that it was made from; None without git.
        is_dirty: Whether the tree had changes that were not committed; None without git.
        adapters: The adapters that are served with it, or were when the next one was made; None if not known.
        adapter_versions: Their versions; None if they are not known.
        files: The number of its files.
        is_proven: Whether it was seen to serve.
        is_live: Whether replicas start from it.
        is_finished: Whether it can be made live.
    """

    release: str
    created: str = ""
    author: str = ""
    commit: str | None = None
    is_dirty: bool | None = None
    adapters: tuple[str, ...] | None = None
    files: int = 0
    is_proven: bool = False
    is_live: bool = False
    is_finished: bool = True
    adapter_versions: tuple[ReleaseAdapter, ...] | None = None


@dataclass(frozen=True, slots=True)
class ReleaseList:
    """The releases on a share, the newest first, who holds its lock, and the scores of its adapters."""

    rows: tuple[ReleaseRow, ...]
    locked_by: str | None = None
    scores: Mapping[str, AdapterScore] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return {
            "releases": [asdict(row) for row in self.rows],
            "locked_by": self.locked_by,
            "scores": {name: asdict(score) for name, score in self.scores.items()},
        }

    def to_text(self) -> str:
        """Return the table to print without `--json`."""
        heads = ("release", "by", "commit", "adapters", "state")
        cells = [_cells(row) for row in self.rows]
        widths = [max(len(line[column]) for line in (heads, *cells)) for column in range(len(heads))]
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in (heads, *cells)
        ]
        if not cells:
            table = ["there is no release on the share: invoke deploy makes one"]
        table += [f"{name}: {score.to_text()}" for name, score in sorted(self.scores.items())]
        return "\n".join(table + ([f"locked by {self.locked_by}"] if self.locked_by else []))


@dataclass(frozen=True, slots=True)
class AuditList:
    """The newest changes of a share, the oldest of them first."""

    entries: tuple[AuditEntry, ...]

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return {"changes": [entry.to_json() for entry in self.entries]}

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        return "\n".join(entry.to_text() for entry in self.entries) or "nothing was changed yet"


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What was removed, and how many releases are left.

    Attributes:
        removed: The releases, oldest first, versions of adapters, archives of packages, and the files of
            interrupted pushes.
        kept: The number of releases that are left.
    """

    removed: tuple[str, ...]
    kept: int

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return {"removed": list(self.removed), "kept": self.kept}

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        removed = "\n".join(f"removed {release}" for release in self.removed)
        return "\n".join(filter(None, (removed, f"{count(self.kept, 'release')} on the share")))


def find_releases(session: Session) -> ReleaseList:
    """Return the releases on a stage's share.

    Raises:
        UsageError: The stage is not provisioned, or its local cloud is stopped.
        RemoteError: Azure denies access to the share.
    """
    session.require_cloud()
    with open_deploy_context(session, None) as context:
        answer = context.app.version()
        served = None
        if isinstance(answer, VersionResponse) and answer.is_ready:
            served = Replaced(answer.release, answer.adapters)
        return releases_on(context.share, context.known, served)


def releases_on(share: Share, known: KnownReleases, served: Replaced | None = None) -> ReleaseList:
    """Return the releases on an open share.

    Args:
        share: The share.
        known: The releases that this machine knows.
        served: What is served now; None if nothing is.
    """
    live, ids = read_live(share, known), list_releases(share)
    proven = {*proven_releases(list_audit(share)), live.proven}
    found = dict(zip(ids, read_releases(share, ids, known), strict=True))
    adapters = {
        each.origin.replaced.release: each.origin.replaced.adapters
        for each in found.values()
        if each is not None and each.origin.replaced is not None
    }
    if served is not None:
        adapters[served.release] = served.adapters
    versions = dict(zip(ids, read_adapters(share, tuple(found.items())), strict=True))
    rows = (
        replace(
            _row(
                each, found[each], adapters.get(each), is_proven=each in proven, is_live=each == live.current
            ),
            adapter_versions=versions[each],
        )
        for each in reversed(ids)
    )
    lock = read_lock(share)
    return ReleaseList(tuple(rows), None if lock is None else lock.describe(), read_scores(share))


def find_changes(session: Session, newest: int = SHOWN_CHANGES) -> AuditList:
    """Return the newest changes of a stage's share.

    Raises:
        UsageError: The stage is not provisioned, or its local cloud is stopped.
        RemoteError: Azure denies access to the share.
    """
    session.require_cloud()
    if newest < 1:
        raise UsageError(f"--tail {newest} shows nothing", hint="give a number from 1 on")
    with open_share(session) as share:
        return AuditList(read_audit(share, newest))


def prune_releases(session: Session, keep: int = KEPT, access: LockAccess = TAKES_FREE_LOCK) -> PruneResult:
    """Remove the oldest releases, except the newest `keep`, the live one and the last three proven ones.

    Raises:
        UsageError: `keep` is less than 1, or the stage is not provisioned.
        RemoteError: Another command holds the lock, or Azure denies access to the share.
    """
    session.require_cloud()
    if keep < 1:
        raise UsageError(f"--keep {keep} would keep nothing", hint="give a number from 1 on")
    with open_deploy_context(session, None, access) as context, context.lock.hold("prune"):
        live = read_live(context.share, context.known)
        if live.current is not None and not live.is_proven:
            what = f"the live release {live.current} is not proven: a deployment was interrupted"
            raise RemoteError(what, hint="invoke deploy completes it")
        with context.console.step("remove old releases") as step:
            removed = remove_unfinished(context.share, context.known)
            surplus = find_surplus(context.share, live, keep)
            step.update(count(len(surplus), "release"))
            removed += prune(context.share, live, keep)
            removed += prune_versions(context.share, context.known)
            packages = prune_packages(context.share, context.known)
            removed += tuple(f"{PACKAGES}/{digest}" for digest in packages)
            until_s = (context.clock.now() - DRAFTS_STAY).timestamp()
            for folder in (MODELS, MODEL_CACHE):
                for path in tuple(find_drafts(context.share, folder, until_s)):
                    if path.endswith(f"/{VERSION_DRAFT}"):
                        delete_draft(context.share, path.removesuffix(f"/{VERSION_DRAFT}"))
                    context.share.delete(path)
                    removed += (path,)
        return PruneResult(removed, len(list_releases(context.share)))


def prune_versions(share: Share, known: KnownReleases) -> tuple[str, ...]:
    """Remove versions of adapters, and return them.

    What is live stays, what a release on the share was proven with, the newest `VERSIONS_KEPT` of each name,
    and what was there before adapters had versions. Nothing is removed while a release cannot be read: it may
    need any of them.
    """
    index, ids = read_index(share), list_releases(share)
    releases = tuple(zip(ids, read_releases(share, ids, known), strict=True))
    recorded = read_adapters(share, releases)
    if any(release is None and own is None for (_, release), own in zip(releases, recorded, strict=True)):
        return ()
    needed = {each.id for adapters in recorded for each in adapters or ()}
    removed = []
    for name in sorted(index.numbers):
        for version in find_versions(share, name)[:-VERSIONS_KEPT]:
            if version.id not in needed and not index.is_live(version) and not version.is_unversioned:
                delete_version(share, version)
                removed.append(version.id)
    return tuple(removed)


def _row(
    release_id: str,
    release: Release | None,
    adapters: tuple[str, ...] | None,
    *,
    is_proven: bool,
    is_live: bool,
) -> ReleaseRow:
    if release is None:
        return ReleaseRow(release_id, is_proven=is_proven, is_live=is_live, is_finished=False)
    origin = release.origin
    return ReleaseRow(
        release=release_id,
        created=origin.created.isoformat(timespec="seconds"),
        author=origin.author,
        commit=origin.git_commit,
        is_dirty=origin.is_dirty,
        adapters=adapters,
        files=len(release.manifest.files),
        is_proven=is_proven,
        is_live=is_live,
    )


def _cells(row: ReleaseRow) -> tuple[str, ...]:
    commit = "" if row.commit is None else row.commit[:7] + (" with changes" if row.is_dirty else "")
    states = ["live"] if row.is_live else []
    if not row.is_finished:
        states.append("damaged or unfinished")
    elif row.is_proven:
        states.append("proven")
    adapters = "" if row.adapters is None else ", ".join(row.adapters) or "none"
    if row.adapter_versions:
        adapters = ", ".join(each.id for each in row.adapter_versions)
    return (row.release, row.author, commit, adapters, ", ".join(states))
