"""What this machine knows of a share's releases, so that it need not ask again.

A finished release never changes, and a release that was seen to serve stays proven. Both are kept in the
stage's folder, for the share that they were learned from. Without them everything is read from the share.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.document import load_json, write_atomic
from infra.errors import RemoteError
from infra.release.manifest import RELEASE_ID, Release, parse_release, render_release

if TYPE_CHECKING:
    from pathlib import Path

CLEAN_EVERY: Final = 5
"""After how many deployments from this machine old releases and leftovers are looked for again."""

_STATE: Final = "state.json"
_KEPT: Final = 30


@dataclass(frozen=True, slots=True)
class KnownState:
    """What was seen at the end of the last deployment from this machine.

    Attributes:
        proven: The release that was live and proven then; None if that is not known.
        deployments: The number of deployments since old releases were looked for; None if never.
    """

    proven: str | None = None
    deployments: int | None = None


class KnownReleases:
    """The releases that this machine knows.

    Args:
        folder: Where they are kept, one folder for each share; None keeps nothing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def find(self, release_id: str) -> Release | None:
        """Return a finished release, or None if it is not known."""
        if self._folder is None or not RELEASE_ID.match(release_id):
            return None
        path = self._folder / f"{release_id}.json"
        try:
            found = parse_release(path.read_bytes(), str(path))
        except (OSError, RemoteError):
            return None
        return found if found.id == release_id else None

    def remember(self, release: Release) -> None:
        """Keep a finished release."""
        if self._folder is None:
            return
        write_atomic(self._folder / f"{release.id}.json", render_release(release))
        kept = sorted(path for path in self._folder.glob("*.json") if RELEASE_ID.match(path.stem))
        for path in kept[:-_KEPT]:
            path.unlink(missing_ok=True)

    @property
    def state(self) -> KnownState:
        """Return what was seen at the end of the last deployment."""
        if self._folder is None:
            return KnownState()
        try:
            return KnownState(**load_json((self._folder / _STATE).read_bytes()))
        except (OSError, ValueError, TypeError):
            return KnownState()

    def set_state(self, state: KnownState) -> None:
        """Keep what was seen at the end of a deployment."""
        if self._folder is not None:
            document = {"proven": state.proven, "deployments": state.deployments}
            write_atomic(self._folder / _STATE, json.dumps(document))

    @property
    def is_cleaning_due(self) -> bool:
        """Return whether old releases and leftovers should be looked for."""
        deployments = self.state.deployments
        return deployments is None or deployments >= CLEAN_EVERY
