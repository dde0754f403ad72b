"""Choose how a model is served: the engine, the cards, the form of the weights and the size of the cache.

Everything that can be decided before anything is loaded, as a pure function of the hardware, the model's size
and the settings. `docs/generate.py` writes a table of the reference with it. Imports the standard library
only, because `inference.start` chooses the packages with it before they are installed.

Source: vLLM 0.32, `platforms/cuda.py`, `config/cache.py`, `config/model.py` and
`model_executor/layers/linear.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from inference.engines.catalogue import choose_engine, has_package
from inference.errors import LoadError
from inference.models.hardware import (
    CACHE_SHARE,
    MAX_CACHE_TOKENS,
    MIN_CACHE_TOKENS,
    PAGE_TOKENS,
    Placement,
    choose_device,
    choose_placement,
)
from inference.models.memory import estimate, fits, fitting_cache_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.models.hardware import Hardware
    from inference.models.memory import ModelSize
    from inference.settings import Settings

VLLM_CAPABILITY: Final = (7, 5)
"""The first compute capability that vLLM's official wheels and images support (Turing)."""

QUANTIZATION_PLUGIN: Final = "vllm-bnb-plugin"
"""The package that adds bitsandbytes to vLLM. Source: vLLM 0.32, `model_loader/__init__.py`."""

VLLM_GPU_SHARE: Final = 0.92
"""The share of a GPU's memory that vLLM uses by default."""

VLLM_STEP_SHARE: Final = 0.1
"""The share of that which a step's activations and the CUDA graphs take. An estimate: vLLM measures it."""

VLLM_PROCESS_BYTES: Final = 2**30
"""The memory that the processes of one vLLM engine take on a CPU without weights and cache."""

ADAPTER_CACHE_SHARE: Final = 0.75
"""The merged adapter's share of the memory for caches. The base beside it gets the rest: requests for it are
rare where an adapter is served."""

MERGED_CACHE_TOKENS: Final = 16_384
"""A merged adapter's cache must hold this much on a GPU: half the memory for weights is spent twice, and is
better spent on the cache where that is small."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The numbers of a model's configuration that decide how it can be split and cached.

    Attributes:
        attention_heads: The number of query heads in a layer.
        key_value_heads: The number of key and value heads in a layer.
        intermediate_size: The width of a layer's MLP.
        positions: The context length that the model supports.
        is_quantized: Whether its weights are stored quantised.
        group_size: How many of a row's quantised numbers share a scale; 1 without groups.
    """

    attention_heads: int
    key_value_heads: int
    intermediate_size: int
    positions: int
    is_quantized: bool = False
    group_size: int = 1


@dataclass(frozen=True, slots=True)
class Model:
    """What is known of a base and its adapters before they are loaded.

    Attributes:
        size: The sizes.
        shape: The base's shape.
        merge_obstacle: Why an adapter cannot be merged into a copy of the base's files; empty if each can.
        lora_obstacle: Why vLLM cannot apply an adapter beside the weights; empty if it can apply each.
    """

    size: ModelSize
    shape: ModelShape
    merge_obstacle: str = ""
    lora_obstacle: str = ""


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """How a model is served.

    Attributes:
        engine: The engine's name.
        placement: Where and how the weights are loaded.
        cards: The number of GPUs, or on a CPU of processes, that each network is split over.
        cache_tokens: The number of tokens that the main network's key-value cache holds. With vLLM on a GPU
            it is an estimate.
        context_tokens: The limit of a prompt and its answer together.
        reason: Why it is not the engine that the hardware would suggest; empty if it is.
    """

    engine: str
    placement: Placement
    cards: int
    cache_tokens: int
    context_tokens: int
    reason: str = ""


def plan_serving(
    model: Model,
    hardware: Hardware,
    settings: Settings,
    is_installed: Callable[[str], bool] = has_package,
) -> ServingPlan:
    """Choose how a model is served.

    Args:
        model: The model.
        hardware: The machine's hardware.
        settings: The server's settings.
        is_installed: Whether a package can be imported.

    Raises:
        LoadError: If the hardware does not support what the settings require.
    """
    device = choose_device(hardware, settings.device)
    engine = choose_engine(settings.engine, device, is_installed)
    if engine == "transformers":
        return _plan_transformers(model, hardware, settings)
    plan = _plan_vllm(model, hardware, settings)
    reason = _vllm_obstacle(plan, model, hardware, is_installed)
    if settings.engine == "auto" and reason:
        return replace(_plan_transformers(model, hardware, settings), reason=reason)
    return plan


def choose_cards(shape: ModelShape, count: int, wanted: int | None) -> int:
    """Return the number of cards to split a model over.

    Args:
        shape: The model's shape.
        count: The number of cards that there are.
        wanted: The number that the settings require; None takes as many as the model can be split over.

    Raises:
        LoadError: If there are fewer, or the model cannot be split over them.
    """
    possible = [number for number in range(1, count + 1) if _can_split(shape, number)]
    if wanted is None:
        return possible[-1]
    if wanted > count:
        raise LoadError(
            f"FJARR_TENSOR_PARALLEL={wanted}, but the replica has {count} GPU{'s' if count > 1 else ''}: set"
            " it to auto, or take a larger workload profile"
        )
    if wanted not in possible:
        raise LoadError(
            f"FJARR_TENSOR_PARALLEL={wanted}, but the model with its {shape.attention_heads} attention heads"
            f" cannot be split over {wanted} cards: set it to {possible[-1]}, or to auto"
        )
    return wanted


def vllm_cache_bytes(
    model: Model, hardware: Hardware, placement: Placement, cards: int, networks: int
) -> int:
    """Return the memory for the key-value caches of vLLM's networks together, on each card.

    Args:
        model: The model.
        hardware: The hardware; its free memory is that of one card.
        placement: Where and how the weights are loaded.
        cards: The number of cards that each network is split over.
        networks: The number of networks: the base's, and one for each merged adapter.
    """
    weights = weight_bytes(model, placement)
    if placement.device == "cpu":
        free = hardware.cpu_free_bytes - networks * (weights + VLLM_PROCESS_BYTES)
        # A single network's cache has always been a share of what is free before loading.
        free = hardware.cpu_free_bytes if networks == 1 else free
        return max(0, int(CACHE_SHARE["cpu"] * free))
    usable = VLLM_GPU_SHARE * hardware.gpu_free_bytes * (1 - networks * VLLM_STEP_SHARE)
    return max(0, int(usable - networks * weights / cards))


def fits_plan(plan: ServingPlan, model: Model, hardware: Hardware, settings: Settings) -> bool:
    """Return whether a model fits as planned; true if its size is unknown."""
    whole, size = counted(plan, model, hardware)
    return fits(whole, plan.placement, size, settings.kv_cache_tokens)


def counted(plan: ServingPlan, model: Model, hardware: Hardware) -> tuple[Hardware, ModelSize]:
    """Return what a plan's memory is counted with: all of its cards together, and what is loaded for sure.

    vLLM's adapters beside the weights take little, and a plan merges adapters only where they fit.
    """
    whole = replace(hardware, gpu_free_bytes=hardware.gpu_free_bytes * plan.cards)
    return whole, model.size if plan.engine == "transformers" else replace(model.size, adapters=())


def weight_bytes(model: Model, placement: Placement) -> int:
    """Return the size of a network's weights, on all cards together."""
    return estimate(replace(model.size, adapters=()), placement, None).base


def cached_token_bytes(model: Model, placement: Placement, cards: int) -> int:
    """Return the size of one token's keys and values on each card."""
    itemsize = 4 if placement.dtype == "float32" else 2
    # With more cards than heads, several cards have the same heads.
    return model.size.token * itemsize // min(cards, model.shape.key_value_heads)


def cache_share(networks: int) -> float:
    """Return the main network's share of the memory for caches."""
    return 1.0 if networks == 1 else ADAPTER_CACHE_SHARE if networks == 2 else 1 / networks  # noqa: PLR2004 - a lone adapter and its base


def _plan_transformers(model: Model, hardware: Hardware, settings: Settings) -> ServingPlan:
    is_auto, is_single = settings.merge_adapters == "auto", len(model.size.adapters) <= 1
    merge_adapters = is_single if is_auto else settings.merge_adapters == "on"
    placement = _place(model, hardware, settings, merge_adapters=merge_adapters)
    is_whole = placement.quantization == "none" and fits(
        hardware, placement, model.size, settings.kv_cache_tokens
    )
    if is_auto and merge_adapters and not is_whole:
        placement = _place(model, hardware, settings, merge_adapters=False)
    free = hardware.gpu_free_bytes if placement.device == "cuda" else hardware.cpu_free_bytes
    fitting = min(MAX_CACHE_TOKENS[placement.device], fitting_cache_tokens(free, placement, model.size))
    cache_tokens = settings.kv_cache_tokens or fitting
    return ServingPlan("transformers", placement, 1, cache_tokens, _context(model, settings, cache_tokens))


def _plan_vllm(model: Model, hardware: Hardware, settings: Settings) -> ServingPlan:
    is_gpu = choose_device(hardware, settings.device) == "cuda"
    count = hardware.gpu_count if is_gpu else settings.tensor_parallel or 1
    cards = choose_cards(model.shape, count, settings.tensor_parallel)
    whole = replace(hardware, gpu_free_bytes=hardware.gpu_free_bytes * cards)
    bare = replace(model, size=replace(model.size, adapters=()))
    placement = _place(bare, whole, settings, merge_adapters=False)
    networks = 1 + len(model.size.adapters)
    merge_adapters = networks > 1 and placement.quantization == "none" and not model.merge_obstacle
    if settings.merge_adapters == "auto":
        merge_adapters &= networks == 2 and _fits_merged(model, hardware, placement, cards, settings)  # noqa: PLR2004 - the base and one adapter
    else:
        merge_adapters &= settings.merge_adapters == "on"
    placement = replace(placement, merge_adapters=merge_adapters)
    cache_tokens = settings.kv_cache_tokens or _vllm_cache_tokens(
        model, hardware, placement, cards, networks if merge_adapters else 1
    )
    return ServingPlan("vllm", placement, cards, cache_tokens, _context(model, settings, cache_tokens))


def _place(model: Model, hardware: Hardware, settings: Settings, *, merge_adapters: bool) -> Placement:
    # Sizes of weights are compared in their two-byte form.
    two_byte = Placement("cpu", "bfloat16", "none", merge_adapters=merge_adapters)
    need = estimate(model.size, two_byte, None)
    is_stored_quantized = model.shape.is_quantized and settings.quantization == "auto"
    placement = choose_placement(
        hardware,
        settings.device,
        settings.dtype,
        "none" if is_stored_quantized else settings.quantization,
        need.base + need.adapters,
    )
    return replace(placement, merge_adapters=merge_adapters and placement.quantization == "none")


def _vllm_obstacle(
    plan: ServingPlan, model: Model, hardware: Hardware, is_installed: Callable[[str], bool]
) -> str:
    """Return why vLLM cannot serve a model as planned; empty if it can."""
    placement = plan.placement
    if placement.device == "cuda" and (hardware.gpu_capability or (0, 0)) < VLLM_CAPABILITY:
        return f"vLLM needs a GPU of compute capability 7.5 or more, and this is a {hardware.gpu_name}"
    if placement.quantization == "int8":
        return "vLLM does not quantise to int8 while it loads"
    if placement.quantization == "nf4" and not is_installed(QUANTIZATION_PLUGIN.replace("-", "_")):
        return f"vLLM quantises to nf4 with its plugin {QUANTIZATION_PLUGIN}, which is not installed"
    return "" if placement.merge_adapters else model.lora_obstacle


def _fits_merged(
    model: Model, hardware: Hardware, placement: Placement, cards: int, settings: Settings
) -> bool:
    if model.size.parameters == 0:
        return False
    tokens = _vllm_cache_tokens(model, hardware, placement, cards, 2)
    if placement.device == "cpu":
        return tokens >= MIN_CACHE_TOKENS
    return tokens >= min(MERGED_CACHE_TOKENS, settings.kv_cache_tokens or MERGED_CACHE_TOKENS)


def _vllm_cache_tokens(
    model: Model, hardware: Hardware, placement: Placement, cards: int, networks: int
) -> int:
    cache_bytes = vllm_cache_bytes(model, hardware, placement, cards, networks) * cache_share(networks)
    tokens = int(cache_bytes / cached_token_bytes(model, placement, cards))
    return tokens // PAGE_TOKENS * PAGE_TOKENS


def _context(model: Model, settings: Settings, cache_tokens: int) -> int:
    positions = model.shape.positions
    return min(positions, settings.max_context_tokens or positions, cache_tokens)


def _can_split(shape: ModelShape, cards: int) -> bool:
    if cards == 1:
        return True
    heads, key_value_heads = shape.attention_heads, shape.key_value_heads
    has_whole_heads = heads % cards == 0 and (key_value_heads % cards == 0 or cards % key_value_heads == 0)
    return has_whole_heads and shape.intermediate_size % (cards * shape.group_size) == 0
