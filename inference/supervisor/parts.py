"""The part of a replica that a file of a release belongs to, and what a change of files calls for.

    supervisor   the first process: its new code runs from the next start of a container on
    engine       the process that holds the model: reloaded
    packages     the requirements: installed beside the present ones, then engine and server are started anew
    server       everything else: swapped on the engine that runs

Pure. Run as `python3 -m inference.supervisor.parts PATH...`, it prints what a change of these paths calls
for: a deployment announces it before it begins.
"""

from __future__ import annotations

import sys
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Part = Literal["server", "engine", "packages", "supervisor"]
Change = Literal["nothing", "server", "engine", "packages", "restart"]

PARTS: Final[tuple[tuple[str, Part], ...]] = (
    ("inference/start.py", "supervisor"),
    ("inference/supervisor/*", "supervisor"),
    ("inference/packages/*", "supervisor"),
    ("inference/listener.py", "supervisor"),
    ("inference/requirements*.txt", "packages"),
    ("inference/engine_process.py", "engine"),
    ("inference/startup.py", "engine"),
    ("inference/service/capacity.py", "engine"),
    ("inference/service/warm_up.py", "engine"),
    ("inference/engines/*", "engine"),
    ("inference/models/*", "engine"),
    ("inference/storage/*", "engine"),
    ("inference/text/codec.py", "engine"),
    ("inference/settings.py", "engine"),
    ("inference/setting_parsers.py", "engine"),
    ("inference/setting_declarations.py", "engine"),
    ("inference/errors.py", "engine"),
)
"""Patterns of paths, in which `*` also matches slashes; the first that matches counts, and others are the
server's."""

SUPERVISOR: Final = "inference/supervisor/__main__.py"
"""The file without which a release has no supervisor, so that it can be started by a restart only."""


def part_of(path: str) -> Part:
    """Return the part that a file belongs to, from its path in the release."""
    return next((part for pattern, part in PARTS if fnmatchcase(path, pattern)), "server")


def changed_paths(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[str, ...]:
    """Return the paths that were added, removed or changed, from the digests by path."""
    return tuple(sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path)))


def find_change(old: Mapping[str, str], new: Mapping[str, str]) -> Change:
    """Return what takes a replica from one release to another, from the digests by path.

    The larger change includes the smaller ones. A release without a supervisor cannot be taken over.
    """
    if SUPERVISOR not in old or SUPERVISOR not in new:
        return "restart"
    return change_of(part_of(path) for path in changed_paths(old, new))


def change_of(parts: Iterable[Part]) -> Change:
    """Return what a change of these parts calls for."""
    found = set(parts)
    if "packages" in found:
        return "packages"
    if "engine" in found:
        return "engine"
    return "server" if found else "nothing"


def main() -> None:
    """Print what a change of the paths on the command line calls for, and whether the supervisor changes."""
    parts = [part_of(path) for path in sys.argv[1:]]
    words = [change_of(parts), *(["supervisor"] if "supervisor" in parts else [])]
    sys.stdout.write(" ".join(words) + "\n")


if __name__ == "__main__":
    main()
