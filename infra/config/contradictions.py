"""Find settings of the server that contradict parameters of the template, before anything is created. Pure.

Each is valid by itself. Together they cut off requests, or end in a server that does not start, on a replica
that bills. A setting that is not valid by itself is left out: `infra.config.variables` reports it.
"""

from __future__ import annotations

import ipaddress
import math
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from infra.az.limits import CONSUMPTION
from infra.config.template import effective_values
from infra.document import Json, as_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from infra.config.settings import Settings
    from infra.config.template import Template

STOP_MARGIN_S: Final = 20.0
"""How much longer than `FJARR_DRAIN_GRACE_S` a replica may take to end: ten seconds for its servers, and ten
for its engine. Source: `inference.supervisor`; a test compares them."""

DRAIN_GRACE_S: Final = 25.0
"""The server's default of `FJARR_DRAIN_GRACE_S`; a test compares them."""

GPU_COUNTS: Final = {
    "Consumption-GPU-NC8as-T4": 1,
    "Consumption-GPU-NC24-A100": 1,
    "NC24-A100": 1,
    "NC48-A100": 2,
    "NC96-A100": 4,
}
"""The GPUs of a replica on each known profile. For others there is no check."""

_T4: Final = "Consumption-GPU-NC8as-T4"
_CORES: Final = 24
"""The cores of a node of a dedicated profile, for each of its GPUs."""

_GIB: Final = 1 << 30
_BODY_SHARE: Final = 4
"""A request's body may take a fourth of the memory: it is parsed, and several come at once."""


@dataclass(frozen=True, slots=True)
class _Deployment:
    """What would be deployed: the effective parameters, the variables that are set, and who set them."""

    values: Mapping[str, Json]
    variables: Mapping[str, str]
    settings: Settings
    is_local: bool

    def variable(self, name: str) -> str:
        return self.variables.get(name, "")

    def number(self, name: str) -> float | None:
        with suppress(ValueError):
            number = float(self.variable(name))
            return number if math.isfinite(number) else None
        return None

    def shown(self, name: str) -> str:
        """Return a variable or a parameter with its value and its source."""
        if name in self.variables:
            source = self.settings.source("environmentVariables", name)
            return f"{name} {self.variables[name]} (from {source})"
        return f"{name} {self.values[name]} (from {self.settings.source(name)})"

    @property
    def gpu(self) -> str | None:
        """Return the type of the app's GPU profile, empty for none; None if it is not known."""
        profile = self.values["workloadProfileName"]
        if self.is_local or profile not in {CONSUMPTION, self.values["gpuProfileName"]}:
            return None
        return "" if profile == CONSUMPTION else str(self.values["gpuProfileType"])

    @property
    def has_no_gpu(self) -> bool:
        """Return whether the model certainly runs on a CPU."""
        return self.gpu == "" or self.variable("FJARR_DEVICE") == "cpu"

    @property
    def engine(self) -> str:
        """Return the engine: what is chosen, else the template's choice, else `auto`."""
        chosen = self.variable("FJARR_ENGINE") or str(self.values["engine"])
        if chosen != "auto" or self.gpu is None:
            return chosen
        return "vllm" if self.gpu else "transformers"


def find_contradictions(settings: Settings, template: Template, *, is_local: bool) -> tuple[str, ...]:
    """Return the settings of the server that contradict parameters, each as one line.

    Args:
        settings: The parameters.
        template: The template.
        is_local: Whether the app runs on this machine, which may have any GPU.
    """
    # A template that was edited may lack a parameter, which is reported elsewhere.
    values = defaultdict(lambda: None, effective_values(settings.to_values(), template))
    if values["defaultCommands"] is not None:
        return ()  # they may start another server
    variables = as_object(values["environmentVariables"])
    texts = {name: str(value) for name, value in variables.items() if value}
    deployment = _Deployment(values, texts, settings, is_local)
    return tuple(problem for check in _CHECKS for problem in check(deployment))


def _grace(deployment: _Deployment) -> Iterator[str]:
    name, grace_s = "FJARR_DRAIN_GRACE_S", deployment.values["terminationGracePeriodSeconds"]
    drain_s = deployment.number(name) if deployment.variable(name) else DRAIN_GRACE_S
    if drain_s is None or not isinstance(grace_s, int) or drain_s + STOP_MARGIN_S <= grace_s:
        return
    drained = deployment.shown(name) if deployment.variable(name) else f"{name}, which is {drain_s:g}"
    yield (
        f"{deployment.shown('terminationGracePeriodSeconds')}: a replica may take {STOP_MARGIN_S:g} s "
        f"longer to end than {drained}, and would be killed before, with its requests; set "
        f"terminationGracePeriodSeconds to {drain_s + STOP_MARGIN_S:g} or more, or lower {name}"
    )


def _without_gpu(deployment: _Deployment) -> Iterator[str]:
    device, profile = deployment.variable("FJARR_DEVICE"), deployment.shown("workloadProfileName")
    where = deployment.shown("FJARR_DEVICE") if device == "cpu" else profile
    if deployment.gpu == "" and device == "cuda":
        yield f"{deployment.shown('FJARR_DEVICE')}: there is no GPU on {profile}"
    if not deployment.has_no_gpu:
        return
    if deployment.variable("FJARR_QUANTIZATION") in {"nf4", "int8"}:
        yield f"{deployment.shown('FJARR_QUANTIZATION')}: needs a GPU, and the model runs on a CPU by {where}"
    is_flash = deployment.variable("FJARR_ATTENTION") == "flash_attention_2"
    if is_flash and deployment.engine == "transformers":
        yield f"{deployment.shown('FJARR_ATTENTION')}: needs a GPU, and the model runs on a CPU by {where}"


def _with_gpu(deployment: _Deployment) -> Iterator[str]:
    kind, name = deployment.gpu, "FJARR_TENSOR_PARALLEL"
    if not kind or deployment.has_no_gpu:
        return
    count, wanted = GPU_COUNTS.get(kind), deployment.number(name)
    if count is not None and wanted is not None and wanted > count:
        yield f"{deployment.shown(name)}: a replica on {kind} has {count} GPU{'s' if count > 1 else ''}"
    if kind == _T4 and deployment.variable("FJARR_DTYPE") == "bfloat16" and deployment.engine == "vllm":
        yield f"{deployment.shown('FJARR_DTYPE')}: vLLM computes in float16 on a T4; leave it at auto"
    is_flash = deployment.variable("FJARR_ATTENTION") == "flash_attention_2"
    if kind == _T4 and is_flash and deployment.engine == "transformers":
        yield f"{deployment.shown('FJARR_ATTENTION')}: a T4 does not support it; leave it at auto"


def _nodes(deployment: _Deployment) -> Iterator[str]:
    """Yield replicas that find no node: on a dedicated profile each takes the GPUs of one."""
    kind, least = deployment.gpu or "", deployment.values["minReplicas"]
    nodes = deployment.values["maximumInstanceCount"]
    if kind not in GPU_COUNTS or kind.startswith(CONSUMPTION):
        return
    with suppress(ArithmeticError):
        fills_node = Decimal(str(deployment.values["containerCpu"])) * 2 > _CORES * GPU_COUNTS[kind]
        if fills_node and isinstance(least, int) and isinstance(nodes, int) and least > nodes:
            replicas = deployment.shown("minReplicas")
            yield f"{deployment.shown('maximumInstanceCount')}: {replicas} need a node each"


def _body(deployment: _Deployment) -> Iterator[str]:
    name, memory = "FJARR_MAX_BODY_BYTES", str(deployment.values["containerMemory"])
    size = deployment.number(name)
    with suppress(ArithmeticError):
        if size is not None and size * _BODY_SHARE > Decimal(memory.removesuffix("Gi")) * _GIB:
            yield (
                f"{deployment.shown(name)}: one request may take more than a fourth of the replica's memory, "
                f"{deployment.shown('containerMemory')}"
            )


def _host(deployment: _Deployment) -> Iterator[str]:
    host = deployment.variable("FJARR_HOST")
    is_loopback = host == "localhost"
    with suppress(ValueError):
        is_loopback = is_loopback or ipaddress.ip_address(host).is_loopback
    if is_loopback and not deployment.is_local:
        yield f"{deployment.shown('FJARR_HOST')}: Azure's ingress cannot call the server there; leave it out"


_CHECKS: Final = (_grace, _without_gpu, _with_gpu, _nodes, _body, _host)
