"""The origin of a new release, from this process, the tool's version and git."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from infra.errors import ToolError
from infra.process import Command
from infra.release.manifest import Origin

if TYPE_CHECKING:
    from datetime import datetime

    from infra.process import Runner
    from infra.release.holder import Holder


def find_origin(runner: Runner, holder: Holder, created: datetime, folder: str) -> Origin:
    """Return the origin of a release that is created now from `folder`.

    Without git, or outside of a repository, it has no commit; that is not an error.
    """
    commit = _git(runner, "rev-parse", "HEAD")
    changes = None if commit is None else _git(runner, "status", "--porcelain", "--", folder)
    return Origin(
        created=created,
        author=f"{holder.owner}@{holder.host}",
        tool_version=_version(),
        git_commit=commit,
        is_dirty=None if changes is None else bool(changes),
    )


def _git(runner: Runner, *arguments: str) -> str | None:
    try:
        return runner.check(Command(("git", *arguments), timeout_s=30)).strip()
    except ToolError:
        return None


def _version() -> str:
    try:
        return importlib.metadata.version("fjarr")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # run from a checkout that is not installed
