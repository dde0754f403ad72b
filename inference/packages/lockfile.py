"""Locks: the exact versions and digests of the packages that a requirements file leads to.

`requirements.lock.txt` beside `requirements.txt` is what `uv pip compile --generate-hashes` writes. A lock
covers the requirements that a setting adds, too (quantization, tracing), and is valid for each Python and
platform that its markers allow, so that one set is a part of it. Imports the standard library only.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from inference.errors import TakeoverError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

INSTALLER: Final = "uv"
"""The package that installs the others. Each lock has it, for images without it."""

_PIN: Final = re.compile(r"([A-Za-z0-9._-]+)==([^\s;\\]+)\s*(;[^\\]*)?\\?$")


@dataclass(frozen=True, slots=True)
class LockedPackage:
    """A package of a lock.

    Attributes:
        name: Its normalized name.
        line: What an installer takes: `name==version`, with a marker if it depends on the platform.
        hashes: The digests of its files, as `sha256:...`.
        needed_by: The normalized names of the packages that need it.
    """

    name: str
    line: str
    hashes: tuple[str, ...]
    needed_by: frozenset[str]

    def to_text(self) -> str:
        """Return the lines for an installer that checks digests."""
        return " \\\n".join((self.line, *(f"    --hash={each}" for each in self.hashes))) + "\n"


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock.

    Attributes:
        path: Its file.
        digest: The SHA-256 of the file, in hexadecimal, by which archives of its packages are found.
        packages: Its packages. A name can be there several times, with markers that exclude each other.
    """

    path: Path
    digest: str
    packages: tuple[LockedPackage, ...]

    def select(self, roots: Iterable[str], is_visible: Callable[[str], bool]) -> tuple[LockedPackage, ...]:
        """Return packages and what they need.

        Args:
            roots: The normalized names of the packages.
            is_visible: Whether a package is there already; then it is left out, with what it needs.

        Raises:
            TakeoverError: If the lock lacks a root.
        """
        needs: dict[str, set[str]] = {}
        for package in self.packages:
            for name in package.needed_by:
                needs.setdefault(name, set()).add(package.name)
        queue = list(roots)
        if missing := sorted({*queue} - {package.name for package in self.packages}):
            raise TakeoverError(f"{self.path.name} lacks {', '.join(missing)}: run invoke relock")
        chosen: set[str] = set()
        while queue:
            name = queue.pop()
            if name not in chosen:
                chosen.add(name)
                queue += [each for each in needs.get(name, ()) if not is_visible(each)]
        return tuple(package for package in self.packages if package.name in chosen)


def lock_path(requirements: Path) -> Path:
    """Return the path of the lock of an engine's requirements file."""
    return requirements.with_name(f"{requirements.stem}.lock.txt")


def read_lock(path: Path) -> Lock:
    """Read a lock.

    Raises:
        TakeoverError: If it is missing, or is not a lock.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise TakeoverError(f"{path.name} is missing: run invoke relock") from None
    return Lock(path, hashlib.sha256(content).hexdigest(), parse_lock(content.decode(), path.name))


def parse_lock(text: str, name: str) -> tuple[LockedPackage, ...]:
    """Parse a lock. `name` names it in errors.

    Raises:
        TakeoverError: If a line is not of a lock, or a package has no digest.
    """
    packages = []
    for block in re.split(r"\n(?=[A-Za-z0-9])", f"\n{text}")[1:]:
        pin, *others = block.splitlines()
        match = _PIN.match(pin)
        hashes = tuple(re.findall(r"--hash=(sha256:[0-9a-f]{64})", block))
        if match is None or not hashes:
            raise TakeoverError(f"{name} has the line {pin!r}, which is no version with digests")
        package, version, marker = match.groups()
        line = f"{package}=={version}" + (f" {marker.strip()}" if marker else "")
        packages.append(LockedPackage(normalize(package), line, hashes, _needed_by(others)))
    return tuple(packages)


def normalize(name: str) -> str:
    """Return a distribution's normalized name. Source: PyPA specifications, "Names and normalization"."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _needed_by(lines: Iterable[str]) -> frozenset[str]:
    comments = (line.partition("#")[2].strip().removeprefix("via").strip() for line in lines if "#" in line)
    return frozenset(normalize(each) for each in comments if re.fullmatch(r"[A-Za-z0-9._-]+", each))
