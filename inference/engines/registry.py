"""Know the engines by name, and choose one.

An engine is one file and one entry here: a module with `start_engine`, and what pip installs for it. Imports
the standard library only, and an engine's module when it is chosen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, Protocol

from inference.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference.engines.protocol import Engine
    from inference.models.weights import Weights
    from inference.service.service import ServedModel
    from inference.settings import Settings

Device = Literal["cpu", "cuda"]

Report = Callable[[str, int], None]
"""Called with the phase that begins and how many per cent of the way to ready are done."""

NVIDIA_DRIVER: Final = Path("/proc/driver/nvidia/version")
"""Present where the kernel has a card's driver, in containers too. Source: the NVIDIA driver's README,
"The /proc Interface"."""


class EngineModule(Protocol):
    """Be what an engine's module offers."""

    def start_engine(
        self, weights: Weights, settings: Settings, report: Report
    ) -> tuple[Engine, tuple[ServedModel, ...]]:
        """Load what was found and start on it. Takes seconds to minutes; for a thread.

        Raises:
            LoadError: If it cannot be served.
        """
        ...


@dataclass(frozen=True, slots=True)
class EngineKind:
    """Say what an engine needs.

    Attributes:
        module: Where it is.
        package: What has to be importable for it.
        requirements: A file beside this one for each device: what pip installs for it.
    """

    module: str
    package: str
    requirements: Mapping[Device, str]


ENGINES: Final[Mapping[str, EngineKind]] = MappingProxyType(
    {
        "transformers": EngineKind(
            "inference.engines.transformers.engine",
            "transformers",
            MappingProxyType({"cpu": "requirements.txt", "cuda": "requirements.txt"}),
        ),
        "vllm": EngineKind(
            "inference.engines.vllm",
            "vllm",
            MappingProxyType({"cpu": "requirements-vllm-cpu.txt", "cuda": "requirements-vllm.txt"}),
        ),
    }
)

CHOICES: Final = ("auto", *ENGINES)

QUANTIZATION_REQUIREMENTS: Final = Path(__file__).parents[1].joinpath("requirements-quantization.txt")
"""What pip installs beside an engine's own, where the settings ask for quantised weights."""

LOGGER: Final = logging.getLogger(__name__)


def choose_engine(wanted: str, device: Device, is_installed: Callable[[str], bool]) -> str:
    """Return the engine's name.

    Args:
        wanted: One of `CHOICES`. `auto` is vLLM where it is installed and there is a card for it, else
            transformers.
        device: Where the model goes.
        is_installed: Whether a package can be imported.
    """
    if wanted != "auto":
        return wanted
    return "vllm" if device == "cuda" and is_installed(ENGINES["vllm"].package) else "transformers"


def find_engine(settings: Settings) -> str:
    """Choose for this machine and these settings."""
    return choose_engine(settings.engine, device_of(settings.device), has_package)


def device_of(wanted: str) -> Device:
    """Return where the model goes: for `auto` the card, if the kernel knows one. Asks no slow library."""
    has_card = wanted == "cuda" or (wanted == "auto" and NVIDIA_DRIVER.exists())
    return "cuda" if has_card else "cpu"


def has_package(name: str) -> bool:
    """Return whether a package is installed, without importing it."""
    return find_spec(name) is not None


def requirements_of(settings: Settings) -> Path:
    """Return the file with what the chosen engine needs."""
    name = ENGINES[find_engine(settings)].requirements[device_of(settings.device)]
    return Path(__file__).parents[1].joinpath(name)


def all_requirements_of(settings: Settings) -> tuple[Path, ...]:
    """Return the files with what the chosen engine needs, and what the settings ask of it."""
    asks_for_quantization = settings.quantization not in {"auto", "none"}
    return (requirements_of(settings), *[QUANTIZATION_REQUIREMENTS] * asks_for_quantization)


def start_engine(
    weights: Weights, settings: Settings, report: Report
) -> tuple[Engine, tuple[ServedModel, ...]]:
    """Start the engine that the settings and the machine ask for.

    Raises:
        LoadError: If its packages are missing, or it cannot serve these weights.
    """
    module = import_engine(settings)
    _warn(settings)
    return module.start_engine(weights, settings, report)


def import_engine(settings: Settings) -> EngineModule:
    """Import the module of the engine that the settings and the machine ask for. Takes seconds.

    Raises:
        LoadError: If its packages are missing.
    """
    name = find_engine(settings)
    kind = ENGINES[name]
    if not has_package(kind.package):
        raise LoadError(
            f"FJARR_ENGINE={name}, but the package {kind.package} is not installed"
            f" (install it with: pip install -r {requirements_of(settings)})"
        )
    module: EngineModule = import_module(kind.module)
    return module


def _warn(settings: Settings) -> None:
    if settings.allow_pickle:
        LOGGER.warning(
            "FJARR_ALLOW_PICKLE is on: pickled weights are loaded, if only by torch's restricted reader"
        )
    if settings.trust_remote_code:
        LOGGER.warning(
            "FJARR_TRUST_REMOTE_CODE is on: code that lies beside a model's weights runs in this server"
        )
