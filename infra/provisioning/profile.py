"""Describe the workload profile of a plan: its size, its need of GPUs, and what it costs while idle. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from infra.az.limits import CONSUMPTION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.document import Json

_GPUS: Final = {
    "Consumption-GPU-NC8as-T4": 1,
    "Consumption-GPU-NC24-A100": 1,
    "NC24-A100": 1,
    "NC48-A100": 2,
    "NC96-A100": 4,
}
"""GPUs of a replica, by the type of its profile: a replica has a dedicated node to itself."""


@dataclass(frozen=True, slots=True)
class ProfilePlan:
    """The workload profile that an app runs on.

    Attributes:
        name: Its name.
        type: Its type; empty if it is an existing profile of unknown type.
        is_serverless: Whether it is billed by the second, for each replica, and not by the node.
        max_nodes: The most nodes of a dedicated profile.
        bills_idle: Whether it is billed while nobody sends a request.
        peak_gpus: The GPUs that the plan needs at most; None if the type is unknown.
    """

    name: str
    type: str
    is_serverless: bool
    max_nodes: int | None
    min_replicas: int
    max_replicas: int
    bills_idle: bool
    peak_gpus: int | None

    def to_json(self) -> dict[str, object]:
        """Return the profile as the plan's document has it."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the profile as one line."""
        type_ = f" ({self.type})" if self.type and self.type != self.name else ""
        if self.is_serverless:
            idle = (
                f"is billed by the second, also while idle, because minReplicas is {self.min_replicas}"
                if self.bills_idle
                else "is billed by the second, and not while idle, because minReplicas is 0"
            )
        else:
            nodes = f"at most {self.max_nodes} node{'' if self.max_nodes == 1 else 's'}"
            idle = (
                f"also while idle, because minReplicas is {self.min_replicas}"
                if self.bills_idle
                else "and not while idle, because minReplicas is 0"
            )
            idle = f"dedicated, {nodes}: is billed by the node, {idle}"
        gpus = f"; at most {self.peak_gpus} GPU{'' if self.peak_gpus == 1 else 's'}" if self.peak_gpus else ""
        return f"workload profile {self.name}{type_}, {idle}{gpus}"


def plan_profile(values: Mapping[str, Json], existing: Mapping[str, Json]) -> ProfilePlan:
    """Return the profile that the parameters choose.

    Args:
        values: The effective value of every parameter.
        existing: The profile of that name in the environment, as az shows it; empty if there is none.
    """
    name = str(values["workloadProfileName"])
    is_gpu = name.casefold() == str(values["gpuProfileName"]).casefold()
    wanted = values["gpuProfileType"] if is_gpu else CONSUMPTION if name == CONSUMPTION else None
    type_ = str(existing.get("workloadProfileType") or wanted or "")
    is_serverless = type_.startswith(CONSUMPTION)
    least, most = _number(values["minReplicas"]), _number(values["maxReplicas"])
    nodes = existing.get("maximumCount", values["maximumInstanceCount"])
    max_nodes = None if is_serverless else _number(nodes)
    gpus = 0 if type_ == CONSUMPTION else _GPUS.get(type_)
    replicas = most if max_nodes is None else min(most, max_nodes)
    peak = None if gpus is None else gpus * replicas
    return ProfilePlan(name, type_, is_serverless, max_nodes, least, most, least > 0, peak)


def _number(value: Json) -> int:
    return value if isinstance(value, int) else 0
