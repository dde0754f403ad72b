"""The programs that install packages from a lock: uv, or pip where uv cannot be had.

Both check every file's digest and take no other packages than those of the lock. Neither writes to the
image's Python.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Final

from inference.errors import TakeoverError
from inference.packages.lockfile import INSTALLER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from inference.packages.lockfile import LockedPackage

LOGGER: Final = logging.getLogger(__name__)

UV_VARIABLES: Final = (
    ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
    ("PIP_EXTRA_INDEX_URL", "UV_INDEX"),
    ("PIP_FIND_LINKS", "UV_FIND_LINKS"),
    ("PIP_CERT", "SSL_CERT_FILE"),
)
"""pip's variables, which uv does not read, and uv's for the same. Source: uv's documentation, "Compatibility
with pip", "Configuration files and environment variables"."""

_SHOWN_CHARACTERS: Final = 500


def install_packages(packages: Sequence[LockedPackage], target: Path, tools: Path) -> None:
    """Install packages of a lock into an empty folder.

    Args:
        packages: The packages.
        target: The folder.
        tools: A folder of this container that keeps uv, where the image lacks it, and uv's cache.

    Raises:
        TakeoverError: If neither uv nor pip can install them.
    """
    tools.mkdir(parents=True, exist_ok=True)
    file = _write_requirements(packages, tools / f"{target.name}.txt")
    reason = "there is no uv"
    uv = find_uv(tools)
    if uv is not None:
        try:
            has_no_index = os.environ.get("PIP_NO_INDEX", "").lower() in {"1", "true", "yes", "on"}
            _run(uv_command(uv, file, target, tools / "cache", has_no_index=has_no_index))
        except TakeoverError as error:
            reason = str(error)
        else:
            return
    if not has_pip():
        raise TakeoverError(f"{reason}, and there is no pip")
    LOGGER.warning("packages are installed with pip, which takes longer: %s", reason)
    shutil.rmtree(target)
    target.mkdir()
    _run(pip_command(file, target))


def bootstrap_uv(packages: Sequence[LockedPackage], tools: Path) -> None:
    """Install uv from a lock into a folder, with pip, if there is none. A failure is only logged."""
    wanted = [package for package in packages if package.name == INSTALLER]
    if not wanted or not has_pip() or find_uv(tools) is not None:
        return
    tools.mkdir(parents=True, exist_ok=True)
    try:
        _run(pip_command(_write_requirements(wanted, tools / "uv.txt"), tools / INSTALLER))
    except TakeoverError as error:
        LOGGER.warning("uv cannot be installed: %s", error)


def find_uv(tools: Path) -> list[str] | None:
    """Return the command of uv: on PATH, of this Python's packages, or in the folder `tools`; else None."""
    if (program := shutil.which("uv")) is not None:
        return [program]
    if _is_installed("uv"):
        return [sys.executable, "-m", "uv"]
    program = shutil.which("uv", path=tools / INSTALLER / "bin")
    return None if program is None else [program]


def has_pip() -> bool:
    """Return whether this Python has pip.

    Not by `find_spec`: setuptools' hook takes the look at pip for its start, and gives way to the standard
    library's distutils from then on.
    """
    return _is_installed("pip")


def uv_command(
    uv: Sequence[str], file: Path, target: Path, cache: Path, *, has_no_index: bool = False
) -> list[str]:
    """Return uv's command that installs a lock's packages into a folder."""
    options = ["--python", sys.executable, "--cache-dir", str(cache), "--no-progress"]
    options += ["--no-index"] if has_no_index else []
    return [*uv, "pip", "install", *options, *_locked(file, target)]


def pip_command(file: Path, target: Path) -> list[str]:
    """Return pip's command that installs a lock's packages into a folder."""
    options = ["--disable-pip-version-check", "--root-user-action=ignore", "--no-cache-dir", "--no-compile"]
    pip = [sys.executable, "-m", "pip", "install", *options, "--progress-bar=off"]
    return [*pip, *_locked(file, target)]


def installer_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an installer: pip's indexes for uv too, and no packages of a release."""
    own = {name: value for name, value in environ.items() if name != "PYTHONPATH"}
    for pip, uv in UV_VARIABLES:
        if pip in own:
            # uv separates places by commas, and indexes by spaces, as pip does both.
            own.setdefault(uv, ",".join(own[pip].split()) if pip == "PIP_FIND_LINKS" else own[pip])
    return own


def _locked(file: Path, target: Path) -> list[str]:
    return ["--no-deps", "--require-hashes", "--target", str(target), "-r", str(file)]


def _write_requirements(packages: Sequence[LockedPackage], path: Path) -> Path:
    path.write_text("".join(package.to_text() for package in packages), "utf-8")
    return path


def _run(command: list[str]) -> None:
    environ = installer_environment(os.environ)
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environ)
    if done.returncode:
        output = " ".join(done.stderr.split())[-_SHOWN_CHARACTERS:]
        raise TakeoverError(f"{' '.join(command[:4])} ended with {output!r}")


def _is_installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False
