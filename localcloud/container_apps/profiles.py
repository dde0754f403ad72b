"""What a container may request on each type of workload profile. Pure tables and checks.

Source: Azure Container Apps documentation, "Workload profiles", "GPU" and "Allocations"; the API's own
messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from localcloud.errors import AzureError

CONSUMPTION: Final = "Consumption"

# An environment without profiles allows half of what the Consumption profile allows.
_CONSUMPTION_STEPS: Final = 16
_CONSUMPTION_ONLY_STEPS: Final = 8
_STEP: Final = Decimal("0.25")


@dataclass(frozen=True, slots=True)
class ProfileType:
    """A type of workload profile, with the size of one of its nodes or, if serverless, of one replica."""

    name: str
    category: str
    cores: int
    memory_gib: int
    gpus: int = 0

    @property
    def is_serverless(self) -> bool:
        """Return whether it scales by itself and has no node counts."""
        return self.name.startswith("Consumption")


_TYPES: Final = (
    ProfileType("Consumption", "Consumption", 4, 8),
    ProfileType("Consumption-GPU-NC8as-T4", "GPU-NC8as-T4", 8, 56, 1),
    ProfileType("Consumption-GPU-NC24-A100", "GPU-NC24-A100", 24, 220, 1),
    ProfileType("D4", "GeneralPurpose", 4, 16),
    ProfileType("D8", "GeneralPurpose", 8, 32),
    ProfileType("D16", "GeneralPurpose", 16, 64),
    ProfileType("D32", "GeneralPurpose", 32, 128),
    ProfileType("E4", "MemoryOptimized", 4, 32),
    ProfileType("E8", "MemoryOptimized", 8, 64),
    ProfileType("E16", "MemoryOptimized", 16, 128),
    ProfileType("E32", "MemoryOptimized", 32, 256),
    ProfileType("NC24-A100", "GPU-NC24-A100", 24, 220, 1),
    ProfileType("NC48-A100", "GPU-NC48-A100", 48, 440, 2),
    ProfileType("NC96-A100", "GPU-NC96-A100", 96, 880, 4),
)
PROFILE_TYPES: Final = {found.name.lower(): found for found in _TYPES}


def profile_type(name: str) -> ProfileType | None:
    """Return the type of that name; its case is ignored."""
    return PROFILE_TYPES.get(name.lower())


def check_total(cpu: Decimal, memory_gib: Decimal, profile: ProfileType | None) -> None:
    """Reject (400) what an app's containers request in all if the profile does not allow it.

    Args:
        cpu: Cores.
        memory_gib: Memory.
        profile: The app's profile; None in an environment without profiles.
    """
    if profile is not None and profile.name != CONSUMPTION:
        _check_node(cpu, memory_gib, profile)
        return
    steps = _CONSUMPTION_ONLY_STEPS if profile is None else _CONSUMPTION_STEPS
    pairs = [(_STEP * step, _STEP * step * 2) for step in range(1, steps + 1)]
    if (cpu, memory_gib) not in pairs:
        listed = "; ".join(f"[cpu: {_plain(cores)}, memory: {_decimal(memory)}Gi]" for cores, memory in pairs)
        raise _invalid_total(
            cpu,
            memory_gib,
            "Total CPU and memory for all containers defined in a Consumption Container App must add up "
            f"to one of the following CPU - Memory combinations: {listed}",
        )


def _check_node(cpu: Decimal, memory_gib: Decimal, profile: ProfileType) -> None:
    if 0 < cpu <= profile.cores and 0 < memory_gib <= profile.memory_gib:
        return
    limit = f"{profile.cores} cores and {profile.memory_gib}Gi of memory"
    raise _invalid_total(
        cpu, memory_gib, f"A replica on a workload profile of type '{profile.name}' has up to {limit}."
    )


def _invalid_total(cpu: Decimal, memory_gib: Decimal, rule: str) -> AzureError:
    message = (
        "The total requested CPU and memory resources for this application "
        f"(CPU: {_plain(cpu)}, memory: {_plain(memory_gib)}) is invalid. {rule}"
    )
    return AzureError(400, "ContainerAppInvalidResourceTotal", message)


def _plain(value: Decimal) -> str:
    return f"{value.normalize():f}"


def _decimal(value: Decimal) -> str:
    text = _plain(value)
    return text if "." in text else f"{text}.0"
