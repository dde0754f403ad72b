"""Read a base model's configuration with transformers, and derive sizes from it. Loads no weights.

No code from a model's repository is run, unless the settings allow it.
"""

from __future__ import annotations

from functools import partial
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from inference.errors import LoadError
from inference.models.plan import ModelShape

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.models.weights import BaseModel
    from inference.settings import Settings


def read_config(base: BaseModel, settings: Settings) -> Any:  # noqa: ANN401 - a transformers configuration, which has no useful type
    """Read the base's configuration.

    Raises:
        LoadError: If transformers cannot read it, with its reason.
    """
    from transformers import AutoConfig  # noqa: PLC0415 - slow to import

    return from_pretrained(AutoConfig, base.source, settings, partial(base_error, base))


def bytes_per_cached_token(config: Any, itemsize: int) -> int:  # noqa: ANN401 - see above
    """Return the size of one token's keys and values in all layers, with numbers of `itemsize` bytes."""
    config = config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head_dim * itemsize)


def read_shape(config: Any, positions: int) -> ModelShape:  # noqa: ANN401 - see above
    """Return the numbers that decide how a model can be split and cached.

    Args:
        config: The model's configuration.
        positions: The context length that the model supports.
    """
    text = config.get_text_config()
    heads = int(text.num_attention_heads)
    quantization = getattr(config, "quantization_config", None)
    return ModelShape(
        attention_heads=heads,
        key_value_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        intermediate_size=int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size),
        positions=positions,
        is_quantized=quantization is not None,
        group_size=_group_size(quantization) if quantization is not None else 1,
    )


def max_positions(config: Any, tokenizer: Any) -> int:  # noqa: ANN401 - see above
    """Return the model's context length: the number of positions that it supports."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(positions or tokenizer.model_max_length)


def base_error(base: BaseModel, error: Exception) -> LoadError:
    """Return the error for a base that cannot be loaded, with what to do where that is known."""
    if "trust_remote_code" in str(error):
        return LoadError(
            f"the base model {base.name} needs code from its own repository, and no such code is run: use a"
            " model that transformers supports, or set FJARR_TRUST_REMOTE_CODE=on if you trust its author"
        )
    return LoadError(f"the base model {base.name} cannot be loaded from {base.source}: {error}")


def _group_size(quantization: Any) -> int:  # noqa: ANN401 - a dictionary or an object, by the transformers version
    """Return how many of a row's quantised numbers share a scale.

    Source: the configurations of GPTQ and AWQ (`group_size`), compressed-tensors (`config_groups`), and FP8
    (`weight_block_size`).
    """
    entries = quantization if isinstance(quantization, dict) else quantization.to_dict()
    weights = [group.get("weights") or {} for group in (entries.get("config_groups") or {}).values()]
    sizes = [entries.get("group_size"), *(each.get("group_size") for each in weights)]
    sizes += entries.get("weight_block_size") or []
    # -1 is a scale for each row.
    return max((size for size in sizes if isinstance(size, int) and size > 0), default=1)


def from_pretrained(
    auto_class: Any,  # noqa: ANN401 - one of transformers' Auto classes, which have no useful type
    source: str,
    settings: Settings,
    to_load_error: Callable[[Exception], LoadError],
    **options: Any,  # noqa: ANN401 - what the Auto class takes
) -> Any:  # noqa: ANN401 - what the Auto class returns
    """Load something with one of transformers' Auto classes.

    Raises:
        LoadError: If transformers cannot load it; `to_load_error` makes it from transformers' own error.
    """
    try:
        return auto_class.from_pretrained(source, trust_remote_code=settings.trust_remote_code, **options)
    except (OSError, ValueError, ImportError, RuntimeError, UnpicklingError) as error:
        raise to_load_error(error) from error
