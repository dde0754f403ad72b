"""Find out what a change of files calls for, from the tree that is deployed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from infra.errors import ToolError
from infra.process import Command

if TYPE_CHECKING:
    from infra.process import Runner
    from infra.release.manifest import Manifest

MAX_PATHS: Final = 1000
"""How many paths fit on a command line."""


def changed_paths(old: Manifest, new: Manifest) -> tuple[str, ...]:
    """Return the paths that were added, removed or changed between two trees."""
    before = {entry.path: entry.sha256 for entry in old.files}
    after = {entry.path: entry.sha256 for entry in new.files}
    return tuple(sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path)))


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
