"""Plan how a model is served from what its files and the machine say, and check that it fits into memory."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from inference.engines.catalogue import has_package, quantization_requirements
from inference.errors import LoadError
from inference.models.configuration import bytes_per_cached_token, read_shape
from inference.models.memory import check_memory, estimate, measure
from inference.models.merging import find_lora_obstacle, find_merge_obstacle
from inference.models.plan import Model, ServingPlan, counted, plan_serving

if TYPE_CHECKING:
    from inference.models.hardware import Hardware, Placement
    from inference.models.weights import Weights
    from inference.settings import Settings

LOGGER: Final = logging.getLogger(__name__)


def describe(weights: Weights, config: Any, positions: int = sys.maxsize) -> Model:  # noqa: ANN401 - a transformers configuration, which has no useful type
    """Return what is known of a base and its adapters before they are loaded.

    Args:
        weights: The base and the adapters to serve.
        config: The base's configuration.
        positions: The context length that it supports, if that is needed.

    Raises:
        LoadError: If a file cannot be read.
    """
    merge_obstacles = (find_merge_obstacle(weights.base, adapter) for adapter in weights.adapters)
    lora_obstacles = (find_lora_obstacle(adapter) for adapter in weights.adapters)
    return Model(
        measure(weights, bytes_per_cached_token(config, 1)),
        read_shape(config, positions),
        next(filter(None, merge_obstacles), ""),
        next(filter(None, lora_obstacles), ""),
    )


def place(weights: Weights, config: Any, hardware: Hardware, settings: Settings) -> Placement:  # noqa: ANN401 - see above
    """Choose where and how the engine transformers loads the weights, and check that they fit.

    Adapters are never merged into quantised weights: the sum would be rounded again.

    Raises:
        LoadError: If the hardware or the packages do not support the settings, or there is too little memory.
    """
    size, shape = measure(weights, bytes_per_cached_token(config, 1)), read_shape(config, sys.maxsize)
    plan = plan_serving(Model(size, shape), hardware, replace(settings, engine="transformers"))
    check_plan(plan, Model(size, shape), hardware, settings)
    return plan.placement


def host_memory_bytes(weights: Weights, config: Any, placement: Placement, settings: Settings) -> int:  # noqa: ANN401 - see above
    """Return how much of the machine's memory the engine transformers takes; 0 if the model is on a GPU.

    Raises:
        LoadError: If a file cannot be read.
    """
    if placement.device != "cpu":
        return 0
    size = measure(weights, bytes_per_cached_token(config, 1))
    return estimate(size, placement, settings.kv_cache_tokens).total


def check_plan(plan: ServingPlan, model: Model, hardware: Hardware, settings: Settings) -> None:
    """Check that the packages are there and the memory is enough, and log the plan.

    Raises:
        LoadError: If they are not.
    """
    placement = plan.placement
    if placement.quantization != "none" and not has_package("bitsandbytes"):
        raise LoadError(
            f"the weights are to be quantised ({placement.quantization}), and the package bitsandbytes is not"
            f" installed (install it with: pip install -r {quantization_requirements(plan.engine)}; a"
            f" container does so by itself with FJARR_QUANTIZATION={placement.quantization})"
        )
    whole, size = counted(plan, model, hardware)
    check_memory(whole, placement, size, settings.kv_cache_tokens)
    LOGGER.info(
        "engine: %s, device: %s, dtype: %s, quantisation: %s%s",
        plan.engine,
        placement.device,
        placement.dtype,
        placement.quantization,
        f", split over {plan.cards}" if plan.cards > 1 else "",
    )
