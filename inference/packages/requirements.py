"""The packages that the server needs with its settings, and which of them this Python lacks.

Imports the standard library only.
"""

from __future__ import annotations

import math
import re
import subprocess
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Final

from inference.engines.catalogue import (
    REQUIREMENTS_FOLDER,
    engine_requirements,
    find_device,
    find_engine,
    quantization_requirements,
)
from inference.errors import LoadError
from inference.models.hardware import FITTING_SHARE
from inference.models.weights import find_weights, stored_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from inference.settings import Settings

QUERY_TIMEOUT_S: Final = 20.0
TRACING_REQUIREMENTS: Final = REQUIREMENTS_FOLDER / "requirements-tracing.txt"


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
