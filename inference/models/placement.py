"""Choose the device, the type and the form of a model's weights, and check that they fit into memory."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from inference.engines.catalogue import QUANTIZATION_REQUIREMENTS, has_package
from inference.errors import LoadError
from inference.models.configuration import bytes_per_cached_token
from inference.models.hardware import Placement, choose_placement
from inference.models.memory import check_memory, estimate, fits, measure

if TYPE_CHECKING:
    from inference.models.hardware import Hardware
    from inference.models.memory import ModelSize
    from inference.models.weights import Weights
    from inference.settings import Settings

LOGGER: Final = logging.getLogger(__name__)


def place(weights: Weights, config: Any, hardware: Hardware, settings: Settings) -> Placement:  # noqa: ANN401 - a transformers configuration, which has no useful type
    """Choose where and how the weights are loaded, and check that they fit.

    With `auto`, a single adapter is merged if there is memory for a second copy of the weights that it
    changes. Adapters are never merged into quantised weights: the sum would be rounded again.

    Raises:
        LoadError: If the hardware or the packages do not support the settings, or there is too little memory.
    """
    size = measure(weights, bytes_per_cached_token(config, 1))
    is_auto, is_single = settings.merge_adapters == "auto", len(weights.adapters) <= 1
    merge_adapters = is_single if is_auto else settings.merge_adapters == "on"
    placement = _choose(hardware, settings, size, merge_adapters=merge_adapters)
    is_whole = placement.quantization == "none" and fits(hardware, placement, size, settings.kv_cache_tokens)
    if is_auto and merge_adapters and not is_whole:
        placement = _choose(hardware, settings, size, merge_adapters=False)
    if placement.quantization != "none" and not has_package("bitsandbytes"):
        raise LoadError(
            f"the weights are to be quantised ({placement.quantization}), and the package bitsandbytes is not"
            f" installed (install it with: pip install -r {QUANTIZATION_REQUIREMENTS}; a container does so by"
            f" itself with FJARR_QUANTIZATION={placement.quantization})"
        )
    check_memory(hardware, placement, size, settings.kv_cache_tokens)
    LOGGER.info(
        "device: %s, dtype: %s, quantisation: %s", placement.device, placement.dtype, placement.quantization
    )
    return placement


def _choose(hardware: Hardware, settings: Settings, size: ModelSize, *, merge_adapters: bool) -> Placement:
    # Sizes of weights are compared in their two-byte form.
    two_byte = Placement("cpu", "bfloat16", "none", merge_adapters=merge_adapters)
    need = estimate(size, two_byte, None)
    placement = choose_placement(
        hardware, settings.device, settings.dtype, settings.quantization, need.base + need.adapters
    )
    return replace(placement, merge_adapters=merge_adapters and placement.quantization == "none")
