"""The packages that the server needs: which are missing, and how they are installed.

At the first start they are installed into the image's Python. Those of a later release are installed into a
folder of their own, which only the processes of that release have on their path: processes that run keep the
packages that they have imported. Imports the standard library only.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from inference.engines.catalogue import (
    REQUIREMENTS_FOLDER,
    engine_requirements,
    find_device,
    find_engine,
    quantization_requirements,
)
from inference.errors import LoadError, SettingsError, TakeoverError
from inference.models.hardware import FITTING_SHARE
from inference.models.weights import find_weights, stored_bytes
from inference.settings import Settings, load_settings

QUERY_TIMEOUT_S: Final = 20.0
TRACING_REQUIREMENTS: Final = REQUIREMENTS_FOLDER / "requirements-tracing.txt"

_SHOWN_CHARACTERS: Final = 500


@dataclass(frozen=True, slots=True)
class Requirement:
    """A line of a requirements file: a distribution and its version.

    Attributes:
        operator: `==` or `>=`; the server's files use no other.
        version: `1.2`, or `1.2.*` with `==`.
    """

    name: str
    operator: str
    version: str

    def accepts(self, installed: str) -> bool:
        """Return whether an installed version meets the requirement."""
        if self.operator == ">=":
            return _release(installed) >= _release(self.version)
        if self.version.endswith(".*"):
            wanted = _release(self.version[:-2])
            return _release(installed)[: len(wanted)] == wanted
        return _release(installed) == _release(self.version)


def requirement_files(settings: Settings) -> tuple[Path, ...]:
    """Return the requirements files for these settings, the engine's first."""
    files = [engine_requirements(settings.engine, settings.device)]
    if is_quantized(settings):
        files.append(quantization_requirements(find_engine(settings.engine, settings.device)))
    if settings.otlp_endpoint is not None:
        files.append(TRACING_REQUIREMENTS)
    return tuple(files)


def is_quantized(settings: Settings) -> bool:
    """Return whether the weights will be quantised, as far as that is known before packages are installed."""
    if settings.quantization != "auto":
        return settings.quantization != "none"
    if find_device(settings.device) == "cpu":
        return False
    try:
        weights = find_weights(
            settings.mount, settings.base_model, settings.adapter, allows_pickle=settings.allow_pickle
        )
        weight_bytes = stored_bytes(weights.base)
    except LoadError:
        # The server reports it.
        return False
    return weight_bytes > FITTING_SHARE * query_gpu_bytes()


def query_gpu_bytes() -> float:
    """Return the free memory of all GPUs together; infinity if it is unknown.

    Source: `nvidia-smi --help-query-gpu`; the NVIDIA container runtime puts the program into containers.
    """
    command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=QUERY_TIMEOUT_S)
        return 2**20 * sum(int(line) for line in done.stdout.split()) or math.inf
    except (OSError, ValueError, subprocess.SubprocessError):
        return math.inf


def parse_requirements(text: str) -> tuple[Requirement, ...]:
    """Read a requirements file of the server.

    Raises:
        ValueError: For a line that is not `name==version` or `name>=version`.
    """
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return tuple(_parse_requirement(line) for line in lines if line)


def find_missing(requirements: tuple[Requirement, ...]) -> tuple[str, ...]:
    """Return the distributions that are missing or have a version that does not meet the requirement."""
    return tuple(requirement.name for requirement in requirements if not _is_installed(requirement))


def install(files: tuple[Path, ...]) -> int:
    """Install the requirements with pip, whose output goes to the log. Return its exit code."""
    command = install_command(files, has_pip=has_pip(), uv=shutil.which("uv"))
    return subprocess.run(command, check=False).returncode


def has_pip() -> bool:
    """Return whether this Python has pip.

    Not by `find_spec`: setuptools' hook takes the look at pip for its start, and gives way to the standard
    library's distutils from then on.
    """
    try:
        return bool(metadata.version("pip"))
    except metadata.PackageNotFoundError:
        return False


def install_command(files: tuple[Path, ...], *, has_pip: bool, uv: str | None) -> list[str]:
    """Return the command that installs requirements: pip, or uv in an image that has only that."""
    wanted = [part for path in files for part in ("-r", str(path))]
    if uv is not None and not has_pip:
        command = [uv, "pip", "install", "--python", sys.executable, "--break-system-packages", "--no-cache"]
        return [*command, *wanted]
    command = [*_pip("install"), "--no-cache-dir", "--progress-bar=off"]
    return [*command, *wanted]


def install_beside(files: tuple[Path, ...], packages: Path) -> Path:
    """Install what the requirements need and this Python lacks, and return the folder for `PYTHONPATH`.

    The requirements are resolved against what is installed, so that the folder gets the difference only. A
    folder is used again by a release with the same requirements.

    Args:
        files: The requirements files of a release.
        packages: The folder of such folders.

    Raises:
        TakeoverError: If the requirements cannot be installed.
    """
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    target = packages / digest[:16]
    if target.is_dir():
        return target
    uses_pip, uv = has_pip(), shutil.which("uv")
    resolved = _run(resolve_command(files, has_pip=uses_pip, uv=uv))
    distributions = read_report(resolved.stdout) if uses_pip else read_plan(resolved.stderr)
    draft = packages / f".{target.name}.tmp"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    if distributions:
        _run(target_command(distributions, draft, has_pip=uses_pip, uv=uv))
    draft.rename(target)
    return target


def resolve_command(files: tuple[Path, ...], *, has_pip: bool, uv: str | None) -> list[str]:
    """Return the command that prints what would be installed for requirements, and installs nothing."""
    wanted = [part for path in files for part in ("-r", str(path))]
    if uv is not None and not has_pip:
        command = [uv, "pip", "install", "--python", sys.executable, "--break-system-packages"]
        return [*command, "--color=never", "--dry-run", *wanted]
    return [*_pip("install"), "--quiet", "--dry-run", "--report=-", *wanted]


def read_report(text: str) -> tuple[str, ...]:
    """Return what pip's report would install, as `name==version`.

    Source: pip's documentation, "Installation Report".
    """
    installs = json.loads(text)["install"]
    return tuple(f"{each['metadata']['name']}=={each['metadata']['version']}" for each in installs)


def read_plan(text: str) -> tuple[str, ...]:
    """Return what uv's dry run would install, as `name==version`: its lines that begin with a plus."""
    return tuple(re.findall(r"^ \+ (\S+==\S+)$", text, re.MULTILINE))


def target_command(
    distributions: tuple[str, ...], target: Path, *, has_pip: bool, uv: str | None
) -> list[str]:
    """Return the command that installs distributions, and nothing else, into a folder."""
    if uv is not None and not has_pip:
        command = [uv, "pip", "install", "--python", sys.executable, "--no-cache"]
    else:
        command = [*_pip("install"), "--no-cache-dir", "--progress-bar=off"]
    return [*command, "--no-deps", "--target", str(target), *distributions]


def _pip(verb: str) -> list[str]:
    command = [sys.executable, "-m", "pip", verb, "--disable-pip-version-check"]
    return [*command, "--root-user-action=ignore"]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    # Without the packages of an earlier release, which this one does not get.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environ)
    if done.returncode:
        said = done.stderr.strip()[-_SHOWN_CHARACTERS:]
        raise TakeoverError(f"its packages cannot be installed: {' '.join(command[:4])} ended with {said!r}")
    return done


def _parse_requirement(line: str) -> Requirement:
    match = re.fullmatch(r"([A-Za-z0-9._-]+)(==|>=)([0-9][0-9.]*\*?)", line)
    if match is None:
        raise ValueError(f"cannot read the requirement {line!r}: write name==version or name>=version")
    return Requirement(*match.groups())


def _is_installed(requirement: Requirement) -> bool:
    try:
        return requirement.accepts(metadata.version(requirement.name))
    except metadata.PackageNotFoundError:
        return False


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def main() -> None:
    """Install what a later release lacks into a folder of its own, and print that folder if there is one.

    Run as `python3 -m inference.supervisor.packages FOLDER` in the release's folder: the release's own code
    decides what it needs.
    """
    try:
        files = requirement_files(load_settings(os.environ))
        missing = find_missing(parse_requirements("".join(path.read_text() for path in files)))
        if missing:
            sys.stdout.write(str(install_beside(files, Path(sys.argv[1]))))
    except (TakeoverError, SettingsError, OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
