"""Find the packages whose installed versions do not meet what the packages of a folder need.

Run as `python3 -m inference.packages.conflicts FOLDER`, with the folder on `PYTHONPATH`: it prints a name per
line. A process of its own, because it needs `packaging`, which may be in that folder alone.
"""

from __future__ import annotations

import sys
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def find_conflicts(folder: str) -> tuple[str, ...]:
    """Return the names of packages that are missing, or too old or too new, for the packages of a folder."""
    return tuple(sorted({name for text in _requirements(folder) if (name := _unmet(text)) is not None}))


def _requirements(folder: str) -> Iterator[str]:
    for distribution in metadata.distributions(path=[folder]):
        yield from distribution.requires or ()


def _unmet(text: str) -> str | None:
    """Return the name of the package that a requirement is about, if what is installed does not meet it."""
    from packaging.requirements import Requirement  # noqa: PLC0415 - it may be installed in the folder alone

    requirement = Requirement(text)
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return requirement.name
    return None if requirement.specifier.contains(version, prereleases=True) else requirement.name


if __name__ == "__main__":
    sys.stdout.write("".join(f"{name}\n" for name in find_conflicts(sys.argv[1])))
