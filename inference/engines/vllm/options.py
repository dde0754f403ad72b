"""The arguments and environment variables that vLLM is started with.

Source: vLLM 0.32, `engine/arg_utils.py`, and for the CPU `platforms/cpu.py`, `utils/ompmultiprocessing.py`
and `lora/punica_wrapper/punica_cpu.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, get_args

from inference.engines.catalogue import batch_limit, has_package
from inference.errors import LoadError, UnsuitedEngineError
from inference.models.plan import (
    QUANTIZATION_PLUGIN,
    VLLM_GPU_SHARE,
    VLLM_STEP_SHARE,
    cache_share,
    cached_token_bytes,
    vllm_cache_bytes,
    weight_bytes,
)
from inference.models.weights import is_pickled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.models.hardware import Cores, Hardware
    from inference.models.plan import Model, ServingPlan
    from inference.models.weights import Adapter, BaseModel
    from inference.settings import Settings

FEW_CORES: Final = 4
"""With up to this many cores all of them compute; vLLM would reserve one for its scheduler."""

CPU_BLOCK_TOKENS: Final = 128
"""The size of a block of vLLM's cache on a CPU. vLLM reserves one block. Source: `platforms/cpu.py`."""

SHARED_MEMORY_BYTES: Final = 2**30
"""The size of /dev/shm that NCCL finds enough."""

SPARE_SLOTS: Final = 2
"""How many adapters can be added if there are slots anyway, and the settings say nothing."""

SPARE_RANK: Final = 32
"""The rank of adapters that can be added, if none is there from which to take it."""

MAX_LOGPROBS: Final = 20
"""The maximum number of top log-probabilities a request may ask for, as in OpenAI's API."""


def environment_variables(cores: Cores, threads: int | None, *, is_local: bool) -> dict[str, str]:
    """Return the environment variables to set for vLLM.

    Args:
        cores: The cores that this process may use.
        threads: The number of cores to compute on; None uses all of them.
        is_local: Whether all files are local, so that the hub need not be contacted.
    """
    found = {
        "VLLM_NO_USAGE_STATS": "1",
        # Its warnings address those who package it.
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        # This process has threads by now; a fork could deadlock on a lock that one of them holds.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    if is_local:
        found["HF_HUB_OFFLINE"] = "1"
    return found | thread_variables(cores, threads, 1)


@dataclass(frozen=True, slots=True)
class LoraSlots:
    """The places for adapters beside a base's weights.

    Attributes:
        count: How many adapters can be loaded at once.
        max_rank: The rank that they may have.
        is_on_cpu: Whether the base is on a CPU.
    """

    count: int
    max_rank: int
    is_on_cpu: bool

    def options(self) -> dict[str, Any]:
        """Return the arguments of vLLM's engine."""
        # On a CPU, vLLM applies the last slot's adapter to the base's rows of a batch with adapters: the last
        # slot has to stay empty.
        slots = self.count + self.is_on_cpu
        return {"enable_lora": True, "max_loras": slots, "max_lora_rank": self.max_rank}


def lora_slots(adapters: Sequence[Adapter], settings: Settings, device: str) -> LoraSlots | None:
    """Return the slots to start with: for the adapters that are loaded, and for some that may be added.

    Without adapters there are none unless the settings say so: they cost memory on a GPU, and speed on a CPU.

    Raises:
        UnsuitedEngineError: If an adapter fits no slot.
    """
    spare = settings.lora_slots
    if spare is None:
        spare = SPARE_SLOTS if adapters else 0
    if not adapters and not spare:
        return None
    rank = max(map(adapter_rank, adapters), default=SPARE_RANK)
    return LoraSlots(len(adapters) + spare, rank, device == "cpu")


def engine_options(
    base: BaseModel, settings: Settings, plan: ServingPlan, positions: int, slots: LoraSlots | None = None
) -> dict[str, Any]:
    """Return the arguments of vLLM's engine, except for the sizes of its memory.

    Args:
        base: The network's base.
        settings: The server's settings.
        plan: How the model is served.
        positions: The number of positions that the model supports.
        slots: The places for adapters; None if there are none.

    Raises:
        LoadError: If vLLM does not support a setting or an adapter.
    """
    placement = plan.placement
    if placement.quantization == "int8":
        raise LoadError(
            "vLLM quantises to nf4 while it loads, not to int8: set FJARR_QUANTIZATION=nf4, or"
            " FJARR_ENGINE=transformers"
        )
    is_quantized = placement.quantization == "nf4"
    if is_quantized and not has_package(QUANTIZATION_PLUGIN.replace("-", "_")):
        raise LoadError(
            f"vLLM quantises to nf4 with its plugin {QUANTIZATION_PLUGIN}, which is not installed: install it"
            f" with: pip install {QUANTIZATION_PLUGIN}, or set FJARR_ENGINE=transformers"
        )
    # -1: as many positions as the model supports and the cache holds.
    limit = -1 if settings.max_context_tokens is None else min(settings.max_context_tokens, positions)
    options: dict[str, Any] = {
        "model": base.source,
        "trust_remote_code": settings.trust_remote_code,
        "dtype": placement.dtype,
        "quantization": "bitsandbytes" if is_quantized else None,
        "load_format": "bitsandbytes" if is_quantized else _load_format(base, settings),
        "max_model_len": limit,
        "max_num_seqs": batch_limit(settings.max_concurrent, "vllm", placement.device),
        "tensor_parallel_size": plan.cards,
        "max_logprobs": MAX_LOGPROBS,
        "structured_outputs_config": {"backend": "guidance"},
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if slots is not None:
        options |= slots.options()
    return options


def memory_options(  # noqa: PLR0913 - what the memory depends on
    plan: ServingPlan, model: Model, hardware: Hardware, settings: Settings, networks: int, *, is_main: bool
) -> dict[str, Any]:
    """Return the arguments of vLLM's engine that size its memory; none leave it to vLLM, which measures it.

    Args:
        plan: How the model is served.
        model: The model.
        hardware: The hardware.
        settings: The server's settings.
        networks: The number of networks, each with an engine of its own.
        is_main: Whether it is the one that most requests are for.
    """
    placement = plan.placement
    token_bytes = cached_token_bytes(model, placement, plan.cards)
    if settings.kv_cache_tokens is not None:
        return {"kv_cache_memory_bytes": (settings.kv_cache_tokens + CPU_BLOCK_TOKENS) * token_bytes}
    share = cache_share(networks) if is_main or networks != 2 else 1 - cache_share(networks)  # noqa: PLR2004 - a lone adapter and its base
    cache_bytes = vllm_cache_bytes(model, hardware, placement, plan.cards, networks)
    if placement.device == "cpu":
        return {"kv_cache_memory_bytes": int(share * cache_bytes)}
    if networks == 1:
        return {}
    total = hardware.gpu_total_bytes or hardware.gpu_free_bytes
    weights = weight_bytes(model, placement) / plan.cards
    steps = VLLM_GPU_SHARE * VLLM_STEP_SHARE * hardware.gpu_free_bytes
    return {"gpu_memory_utilization": round((weights + steps + share * cache_bytes) / total, 3)}


def thread_variables(cores: Cores, threads: int | None, processes: int) -> dict[str, str]:
    """Return the environment variables that say on which cores vLLM computes on a CPU.

    Args:
        cores: The cores that this process may use.
        threads: The number of cores to compute on; None uses all of them.
        processes: The number of processes that the model is split over.
    """
    count = threads or cores.usable
    if count < max(len(cores.allowed), processes):
        # A CPU quota names no cores: binding would put every container of the machine on the same ones.
        each = max(1, count // processes)
        return {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(each)}
    if processes > 1:
        size = len(cores.allowed) // processes
        groups = [cores.allowed[index * size : (index + 1) * size] for index in range(processes)]
        return {"VLLM_CPU_OMP_THREADS_BIND": "|".join(",".join(map(str, group)) for group in groups)}
    if count <= FEW_CORES:
        return {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores.allowed))}
    return {}


def collective_variables(shared_memory_bytes: int) -> dict[str, str]:
    """Return the environment variables for GPUs that compute together in a container.

    A container's /dev/shm has 64 MiB, unless the platform says otherwise, and Azure Container Apps has no
    setting for it. NCCL allocates more than that there and fails, so it has to use peer-to-peer access or
    sockets.

    Args:
        shared_memory_bytes: The size of /dev/shm.

    Source: NCCL's documentation, "Troubleshooting", "Shared memory", and `NCCL_SHM_DISABLE`.
    """
    return {} if shared_memory_bytes >= SHARED_MEMORY_BYTES else {"NCCL_SHM_DISABLE": "1"}


def _load_format(base: BaseModel, settings: Settings) -> str:
    """Return vLLM's load format: `hf` falls back to pickled weights if there are no safetensors."""
    may_be_pickled = settings.allow_pickle and (is_pickled(base) or not base.is_local)
    return "hf" if may_be_pickled else "safetensors"


def adapter_rank(adapter: Adapter) -> int:
    """Return the smallest of vLLM's maximum ranks that the adapter fits into.

    Raises:
        UnsuitedEngineError: If it fits into none, or has embeddings.
    """
    from vllm.config.lora import MaxLoRARanks  # noqa: PLC0415 - takes seconds, and only this engine has it

    if adapter.embedding_rows is not None:
        raise UnsuitedEngineError(
            f"the adapter {adapter.name} carries embeddings, which vLLM does not support: set"
            " FJARR_ENGINE=transformers"
        )
    rank = max((shape[0] for key, shape in adapter.shapes.items() if ".lora_A." in key), default=0)
    fitting = [max_rank for max_rank in sorted(get_args(MaxLoRARanks)) if max_rank >= rank]
    if rank == 0 or not fitting:
        raise UnsuitedEngineError(
            f"vLLM does not support the adapter {adapter.name}, of rank {rank}: set FJARR_ENGINE=transformers"
        )
    return int(fitting[0])
