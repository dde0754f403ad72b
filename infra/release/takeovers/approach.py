"""Decide how replicas get a new release: by taking it over, or by a restart of the revision. Pure.

What a change of files calls for is known to the release: its own supervisor decides it, and this module has
only the words for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.az.revision import NoResponse, VersionResponse

if TYPE_CHECKING:
    from infra.release.manifest import Manifest

SUPERVISOR: Final = "inference/supervisor/__main__.py"
"""The file of a release without which it can only be started by a restart."""

FIRST: Final = "the container that waits starts it"
TEXTS: Final = {
    "nothing": "the server is replaced beside the old one",
    "server": "only server code has changed: the server is replaced beside the old one, the model stays",
    "engine": "engine code has changed: the model is loaded again in the running container",
    "packages": "packages have changed: they are installed beside the old ones, then the model is loaded",
}
LATER: Final = (
    "; the supervisor's own code has changed too, and runs from the next start of a container on:"
    " invoke restart afterwards, or --restart at once"
)

PENDING: Final = "invoke restart, for the supervisor's new code"
"""What is left to do when a takeover has not replaced the supervisor."""


@dataclass(frozen=True, slots=True)
class Approach:
    """How replicas get a release.

    Attributes:
        restarts: Whether the revision is restarted.
        text: What will happen, and why, for the user.
        is_restart_pending: Whether the supervisor's own code changes too, which runs from the next start of a
            container on.
    """

    restarts: bool
    text: str
    is_restart_pending: bool = False


def choose_approach(
    answer: VersionResponse | NoResponse, target: Manifest | None, change: str | None, *, wants_restart: bool
) -> Approach:
    """Return how replicas get a release.

    Args:
        answer: The present answer of `/version`.
        target: The files of the release; None if they are not known.
        change: What the change of files calls for, one of the supervisor's words, and `supervisor` if its own
            code changes; None if it is not known.
        wants_restart: Whether the user asks for a restart.
    """
    reason = _why_restart(answer, target, wants_restart=wants_restart)
    if reason is not None:
        return Approach(restarts=True, text=f"the revision is restarted, because {reason}")
    if isinstance(answer, NoResponse):
        return Approach(restarts=False, text=FIRST)
    return _describe(change)


def _describe(change: str | None) -> Approach:
    word, *others = (change or "nothing").split()
    if "supervisor" not in others:
        return Approach(restarts=False, text=TEXTS.get(word, TEXTS["nothing"]))
    # A change of the supervisor alone replaces the server, too.
    text = TEXTS.get("nothing" if word == "server" else word, TEXTS["nothing"]) + LATER
    return Approach(restarts=False, text=text, is_restart_pending=True)


def _why_restart(
    answer: VersionResponse | NoResponse, target: Manifest | None, *, wants_restart: bool
) -> str | None:
    if wants_restart:
        return "--restart asks for it"
    if isinstance(answer, NoResponse) and not answer.is_waiting:
        return f"the app does not answer ({answer.reason})"
    if isinstance(answer, VersionResponse) and answer.wanted is None:
        return f"replica {answer.replica} does not watch the share"
    if target is not None and all(entry.path != SUPERVISOR for entry in target.files):
        return "the release has no supervisor"
    return None
