"""Remove what is not needed on the share: old releases, unfinished ones, packages, drafts, reports, audits.

Never removed: the live release, the proven one, the last three that were seen to serve, and the packages of
any release that stays. Must be called with the deploy lock held.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from infra.release.archive import ARCHIVE, MANIFEST
from infra.release.audit import list_audit, proven_releases, prune_audit
from infra.release.releases import NOTHING_KNOWN, folder_of, is_finished, list_releases, read_releases
from infra.release.takeovers.inside import REPORTS_FOLDER

if TYPE_CHECKING:
    from infra.release.known import KnownReleases
    from infra.release.releases import Live
    from infra.share.protocol import Share

KEPT: Final = 10
"""How many releases stay on the share, the live one among them, unless a user sets another number."""

PROVEN_KEPT: Final = 3
"""How many of the releases that were last seen to serve are never removed."""

REPORTS_KEPT_S: Final = 24 * 3600.0

PACKAGES: Final = "packages"
"""The folder of archives of installed packages: `packages/<digest of a lock>/`, which replicas write."""

_DIGEST: Final = re.compile(r"^[0-9a-f]{64}$")
_DRAFT: Final = re.compile(r"^\..+\.tmp$|^\.lock\.broken-")


def remove_unfinished(share: Share, known: KnownReleases) -> tuple[str, ...]:
    """Remove the files that a killed deployment left, and return the unfinished releases among them."""
    for entry in share.entries(""):
        if not entry.is_folder and _DRAFT.match(entry.name):
            share.delete(entry.name)
    unfinished = tuple(
        each for each in list_releases(share) if known.find(each) is None and not is_finished(share, each)
    )
    for release_id in unfinished:
        share.delete_tree(folder_of(release_id))
    return unfinished


def remove_old_reports(share: Share, now_s: float) -> None:
    """Remove the reports of replicas that have written none for a day: most of them have ended.

    Args:
        share: The share.
        now_s: The time, in seconds since 1970.
    """
    for entry in share.entries(REPORTS_FOLDER):
        if not entry.is_folder and 0 < entry.modified_s < now_s - REPORTS_KEPT_S:
            share.delete(f"{REPORTS_FOLDER}/{entry.name}")


def find_surplus(share: Share, live: Live, kept: int = KEPT) -> tuple[str, ...]:
    """Return the releases that `prune` removes, oldest first.

    Args:
        share: The share.
        live: The live release.
        kept: How many of the newest releases stay.
    """
    proven = proven_releases(list_audit(share))[:PROVEN_KEPT]
    protected = {live.current, live.proven, *proven}
    releases = list_releases(share)
    return tuple(each for each in releases[: max(0, len(releases) - kept)] if each not in protected)


def prune(share: Share, live: Live, kept: int = KEPT) -> tuple[str, ...]:
    """Remove the oldest releases and entries of the audit. Return the releases."""
    surplus = find_surplus(share, live, kept)
    for release_id in surplus:
        # What makes it finished goes first: if this is interrupted, the rest is removed as unfinished.
        for name in (ARCHIVE, MANIFEST):
            share.delete(f"{folder_of(release_id)}/{name}")
        share.delete_tree(folder_of(release_id))
    prune_audit(share)
    return surplus


def prune_packages(share: Share, known: KnownReleases = NOTHING_KNOWN) -> tuple[str, ...]:
    """Remove the archives of packages that no release on the share needs. Return the digests of their locks.

    Nothing is removed while a release cannot be read: it may need any of them.
    """
    stored = [each.name for each in share.entries(PACKAGES) if each.is_folder and _DIGEST.match(each.name)]
    releases = read_releases(share, list_releases(share), known) if stored else ()
    if any(release is None for release in releases):
        return ()
    needed = {digest for release in releases if release for digest in release.manifest.locks.values()}
    surplus = tuple(digest for digest in stored if digest not in needed)
    for digest in surplus:
        share.delete_tree(f"{PACKAGES}/{digest}")
    return surplus
