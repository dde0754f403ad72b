"""The arguments and environment variables that vLLM is started with.

Source: vLLM 0.32, `engine/arg_utils.py`, and for the CPU `platforms/cpu.py`, `utils/ompmultiprocessing.py`
and `lora/punica_wrapper/punica_cpu.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, get_args

from inference.engines.catalogue import batch_limit, has_package
from inference.errors import LoadError
from inference.models.configuration import bytes_per_cached_token
from inference.models.hardware import CACHE_SHARE
from inference.models.weights import is_pickled

if TYPE_CHECKING:
    from inference.models.hardware import Cores, Placement
    from inference.models.weights import Adapter, BaseModel, Weights
    from inference.settings import Settings

FEW_CORES: Final = 4
"""With up to this many cores all of them compute; vLLM would reserve one for its scheduler."""

CPU_BLOCK_TOKENS: Final = 128
"""The size of a block of vLLM's cache on a CPU. vLLM reserves one block. Source: `platforms/cpu.py`."""

QUANTIZATION_PLUGIN: Final = "vllm-bnb-plugin"
"""The package that adds bitsandbytes to vLLM. Source: vLLM 0.32, `model_loader/__init__.py`."""

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
    return found | _thread_variables(cores, threads or cores.usable)


def engine_options(
    weights: Weights, settings: Settings, placement: Placement, positions: int
) -> dict[str, Any]:
    """Return the arguments of vLLM's engine, except for the size of its cache.

    Args:
        weights: The base and the adapters to serve.
        settings: The server's settings.
        placement: Where and how the weights are loaded.
        positions: The number of positions that the model supports.

    Raises:
        LoadError: If vLLM does not support a setting or an adapter.
    """
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
        "model": weights.base.source,
        "trust_remote_code": settings.trust_remote_code,
        "dtype": placement.dtype,
        "quantization": "bitsandbytes" if is_quantized else None,
        "load_format": "bitsandbytes" if is_quantized else _load_format(weights.base, settings),
        "max_model_len": limit,
        "max_num_seqs": batch_limit(settings.max_concurrent, "vllm", placement.device),
        "max_logprobs": MAX_LOGPROBS,
        "structured_outputs_config": {"backend": "guidance"},
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if weights.adapters:
        # On a CPU, vLLM applies the last slot's adapter to the base's rows of a batch with adapters: the last
        # slot has to stay empty.
        slots = len(weights.adapters) + (placement.device == "cpu")
        rank = max(map(_adapter_rank, weights.adapters))
        options |= {"enable_lora": True, "max_loras": slots, "max_lora_rank": rank}
    return options


def size_cache_bytes(config: Any, placement: Placement, free_bytes: int, settings: Settings) -> int | None:  # noqa: ANN401 - a transformers configuration, which has no useful type
    """Return the size of the key-value cache; None leaves it to vLLM, which measures a GPU's free memory.

    Args:
        config: The model's configuration.
        placement: Where and how the weights are loaded.
        free_bytes: The machine's free memory, not the GPU's.
        settings: The server's settings.
    """
    itemsize = 4 if placement.dtype == "float32" else 2
    token_bytes = bytes_per_cached_token(config, itemsize)
    if settings.kv_cache_tokens is not None:
        return (settings.kv_cache_tokens + CPU_BLOCK_TOKENS) * token_bytes
    return None if placement.device == "cuda" else int(CACHE_SHARE["cpu"] * free_bytes)


def _thread_variables(cores: Cores, count: int) -> dict[str, str]:
    if count < len(cores.allowed):
        # A CPU quota names no cores: binding would put every container of the machine on the same ones.
        return {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(count)}
    if count <= FEW_CORES:
        return {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores.allowed))}
    return {}


def _load_format(base: BaseModel, settings: Settings) -> str:
    """Return vLLM's load format: `hf` falls back to pickled weights if there are no safetensors."""
    may_be_pickled = settings.allow_pickle and (is_pickled(base) or not base.is_local)
    return "hf" if may_be_pickled else "safetensors"


def _adapter_rank(adapter: Adapter) -> int:
    """Return the smallest of vLLM's maximum ranks that the adapter fits into."""
    from vllm.config.lora import MaxLoRARanks  # noqa: PLC0415 - takes seconds, and only this engine has it

    if adapter.embedding_rows is not None:
        raise LoadError(
            f"the adapter {adapter.name} carries embeddings, which vLLM does not support: set"
            " FJARR_ENGINE=transformers"
        )
    rank = max((shape[0] for key, shape in adapter.shapes.items() if ".lora_A." in key), default=0)
    fitting = [max_rank for max_rank in sorted(get_args(MaxLoRARanks)) if max_rank >= rank]
    if rank == 0 or not fitting:
        raise LoadError(
            f"vLLM does not support the adapter {adapter.name}, of rank {rank}: set FJARR_ENGINE=transformers"
        )
    return int(fitting[0])
