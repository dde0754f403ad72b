"""Find out what a change of files calls for, from the tree that is deployed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from infra.az.revision import NoResponse
from infra.errors import RemoteError, ToolError
from infra.process import Command

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.az.revision import VersionResponse
    from infra.process import Runner
    from infra.release.manifest import Manifest, Release
    from infra.release.releases import Live

FindChange: TypeAlias = "Callable[[tuple[str, ...]], str | None]"
"""Returns what a change of paths calls for, in the words of the supervisor; None if that is not known."""

SUPERVISOR: Final = "supervisor"
"""The word that says that the supervisor's own code changes."""

MAX_PATHS: Final = 1000
"""How many paths fit on a command line."""


def changed_paths(old: Manifest, new: Manifest) -> tuple[str, ...]:
    """Return the paths that were added, removed or changed between two trees."""
    before = {entry.path: entry.sha256 for entry in old.files}
    after = {entry.path: entry.sha256 for entry in new.files}
    return tuple(sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path)))


def find_whole_change(
    live: Live,
    target: Manifest,
    answer: VersionResponse | NoResponse,
    find: FindChange,
    read: Callable[[str], Release | None],
) -> str | None:
    """Return what takes the replicas from the live release to another one; None if it is not known.

    The code of the supervisor is compared with that of the release whose supervisor runs: after takeovers
    alone, that is older than the live release.

    Args:
        live: The live release.
        target: The files of the other one.
        answer: The present answer of `/version`.
        find: Returns what a change of paths calls for.
        read: Returns a release by its id; None if the share does not have it.
    """
    words = None if live.manifest is None else find(changed_paths(live.manifest, target))
    if words is None or isinstance(answer, NoResponse) or answer.supervisor in {"", live.current}:
        return words
    try:
        started = read(answer.supervisor)
    except RemoteError:
        return words  # it is damaged: then only this change is known
    own = None if started is None else find(changed_paths(started.manifest, target))
    if own is None:
        return words
    word, *_ = words.split()
    return f"{word} {SUPERVISOR}" if SUPERVISOR in own.split() else word


def find_change(runner: Runner, paths: tuple[str, ...]) -> str | None:
    """Return what a change of these paths calls for, in the words of the tree's own supervisor.

    None if the tree cannot tell, as one without a supervisor.
    """
    if len(paths) > MAX_PATHS:
        return None
    try:
        argv = ("python3", "-m", "inference.supervisor.parts", *paths)
        return runner.check(Command(argv, timeout_s=30)).strip() or None
    except ToolError:
        return None
