"""Provide the packages that a release needs and the image lacks, as a folder on this container's disk.

    1. nothing is missing                  the usual case on the local stage, and with an image of one's own
    2. the folder is there                 a release with the same packages ran here
    3. the share has an archive of it      it is unpacked, and no package index is needed
    4. otherwise                           it is installed from the lock, compiled, and left on the share

The folder has what is missing and what that needs, unless the image has it in a version that fits. The
image's own Python is never changed: processes that run keep the packages that they have imported, and each
release's processes have its own folder on their path. Imports the standard library only.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from inference.errors import TakeoverError
from inference.packages.archives import FOLDER, ArchiveStore, DamagedArchiveError, unpack_archive
from inference.packages.installers import bootstrap_uv, install_packages
from inference.packages.lockfile import Lock, lock_path, normalize, read_lock
from inference.packages.requirements import find_missing, parse_requirements, requirement_files

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from inference.settings import Settings

LOGGER: Final = logging.getLogger(__name__)

READS: Final = 3
"""How often an archive is read: a share over SMB fails at times."""

PAUSE_S: Final = 1.0

ROUNDS: Final = 5
"""How often packages are added because the image has versions of them that do not fit."""

_KEY_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class PackageSet:
    """The packages that a release needs and the image lacks.

    Attributes:
        missing: The names in the requirements files that are missing or have another version.
        lock: The lock that has them.
        installed: The versions of the packages that this Python has, by their normalized names.
        environment: A digest of what else decides which files are installed: the requirements, the version of
            Python, the platform, and what this Python has.
    """

    missing: tuple[str, ...]
    lock: Lock
    installed: Mapping[str, str]
    environment: str

    @property
    def name(self) -> str:
        """Return the name of its folder on this container's disk."""
        return f"{self.lock.digest[:_KEY_DIGITS]}-{self.environment}"


def provide_packages(
    settings: Settings, packages: Path, *, pause: Callable[[float], None] = time.sleep
) -> Path | None:
    """Return the folder with the packages that these settings need and this Python lacks; None without any.

    Args:
        settings: The settings.
        packages: The folder of such folders, on this container's disk.
        pause: Waits between attempts to read the share.

    Raises:
        TakeoverError: If they are not on the share and cannot be installed.
    """
    wanted = find_set(requirement_files(settings))
    if wanted is None:
        return None
    target = packages / wanted.name
    if target.is_dir():
        return target
    store = ArchiveStore(settings.mount / FOLDER / wanted.lock.digest, wanted.environment)
    packages.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=packages))
    try:
        if not _unpack_stored(store, draft, pause):
            _install(wanted, draft, packages / ".tools")
            _store(store, draft)
        try:
            draft.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process has provided the same folder
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def find_set(files: Sequence[Path]) -> PackageSet | None:
    """Return the packages that requirements files need and this Python lacks; None without any.

    Args:
        files: The engine's file, whose lock has the packages of all of them, and others.

    Raises:
        TakeoverError: If a file or the lock cannot be used.
    """
    texts = [path.read_text("utf-8") for path in files]
    try:
        requirements = parse_requirements("\n".join(texts))
    except ValueError as error:
        raise TakeoverError(str(error)) from None
    missing = find_missing(requirements)
    if not missing:
        return None
    installed = dict(sorted(find_installed()))
    lines = sorted(f"{each.name}{each.operator}{each.version}" for each in requirements)
    lines += [sys.implementation.cache_tag or "", sysconfig.get_platform()]
    lines += [f"{name}=={version}" for name, version in installed.items()]
    environment = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:_KEY_DIGITS]
    return PackageSet(missing, read_lock(lock_path(files[0])), installed, environment)


def find_installed() -> Iterator[tuple[str, str]]:
    """Return the normalized names and the versions of the packages that this Python has."""
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # None for what an interrupted installation has left
            yield normalize(name), distribution.version


def path_entries(packages: Path) -> tuple[str, ...]:
    """Return what a folder of packages adds to `PYTHONPATH`: itself, and what its `.pth` files name.

    Source: Python's documentation of `site`, which reads such files in its own folders only.
    """
    lines = (
        line.strip() for file in sorted(packages.glob("*.pth")) for line in file.read_text().splitlines()
    )
    named = (packages / line for line in lines if line and not line.startswith(("#", "import ", "import\t")))
    return tuple(map(str, (packages, *(path for path in named if path.is_dir()))))


def remove_packages(packages: Path, kept: Collection[Path]) -> None:
    """Remove the folders of packages that no process has on its path."""
    if packages.is_dir():
        for path in packages.iterdir():
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)


def _unpack_stored(store: ArchiveStore, draft: Path, pause: Callable[[float], None]) -> bool:
    """Unpack the archive of the share. Return False if there is none that can be used."""
    for number in range(1, READS + 1):
        started_s, archive = time.monotonic(), None
        try:
            archive = store.find()
            if archive is None:
                return False
            unpack_archive(archive, draft)
        except (DamagedArchiveError, OSError) as error:
            LOGGER.warning("the archive of packages on the share cannot be read: %s", error)
            _empty(draft)
            if number == READS:
                if isinstance(error, DamagedArchiveError) and archive is not None:
                    _discard(archive)
                return False
            pause(PAUSE_S * number)
        else:
            LOGGER.info("packages unpacked from the share in %.1f s", time.monotonic() - started_s)
            return True
    return False


def _install(wanted: PackageSet, draft: Path, tools: Path) -> None:
    """Install a set, with what it needs, and compile it."""
    LOGGER.info("installing packages: %s", ", ".join(wanted.missing))
    started_s = time.monotonic()
    roots = [normalize(name) for name in wanted.missing]
    bootstrap_uv(wanted.lock.packages, tools)
    try:
        for _ in range(ROUNDS):
            chosen = wanted.lock.select(roots, wanted.installed.__contains__)
            install_packages(chosen, draft, tools)
            names = {package.name for package in chosen}
            added = [name for name in _find_conflicts(draft) if name not in names]
            known = {package.name for package in wanted.lock.packages}
            if not known.intersection(added):
                break
            LOGGER.info("the image has versions that do not fit: %s", ", ".join(added))
            roots += [name for name in added if name in known]
            _empty(draft)
    except TakeoverError as error:
        raise TakeoverError(f"its packages cannot be installed: {error}") from error
    finally:
        shutil.rmtree(tools / "cache", ignore_errors=True)
    installed_s = time.monotonic()
    compile_packages(draft)
    LOGGER.info(
        "packages installed in %.1f s, compiled in %.1f s",
        installed_s - started_s,
        time.monotonic() - installed_s,
    )


def _find_conflicts(packages: Path) -> tuple[str, ...]:
    command = [sys.executable, "-m", "inference.packages.conflicts", str(packages)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join((*path_entries(packages), *_own_entries()))}
    folder = Path(__file__).parents[2]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder, env=environ)
    if done.returncode:
        LOGGER.warning("the versions of packages were not compared: %s", done.stderr.strip()[-200:])
        return ()
    return tuple(map(normalize, done.stdout.split()))


def _own_entries() -> tuple[str, ...]:
    path = os.environ.get("PYTHONPATH")
    return (path,) if path else ()


def compile_packages(packages: Path) -> None:
    """Compile all modules once, so that no start has to.

    Not compared with the source at each import: an archive's files have no times. A file that is no valid
    Python, such as a template, is skipped.
    """
    # Without the path of this folder, which is another in each container: Python sets it at the import.
    options = ["-q", "-q", "-j", "0", "-s", str(packages), "--invalidation-mode", "unchecked-hash"]
    command = [sys.executable, "-m", "compileall", *options, str(packages)]
    subprocess.run(command, check=False, capture_output=True)


def _store(store: ArchiveStore, packages: Path) -> None:
    """Leave an archive on the share. A failure is only logged: this replica has its packages."""
    started_s = time.monotonic()
    try:
        archive = store.save(packages)
    except OSError as error:
        LOGGER.warning("the packages cannot be kept on the share, so each start installs them: %s", error)
        return
    size_mb = archive.stat().st_size / 1e6
    LOGGER.info("packages kept on the share: %.0f MB in %.1f s", size_mb, time.monotonic() - started_s)


def _discard(archive: Path) -> None:
    try:
        archive.unlink(missing_ok=True)
    except OSError as error:
        LOGGER.warning("the damaged archive %s cannot be removed: %s", archive, error)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
