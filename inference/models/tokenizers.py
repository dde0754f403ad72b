"""Read the tokenizers of a base and its adapters, and find the tokens that end an answer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from inference.errors import LoadError
from inference.models.configuration import base_error, from_pretrained

if TYPE_CHECKING:
    from inference.models.weights import Adapter, BaseModel
    from inference.settings import Settings


def read_tokenizer(base: BaseModel, settings: Settings) -> Any:  # noqa: ANN401 - a transformers tokenizer, which has no useful type
    """Read the base's tokenizer.

    Raises:
        LoadError: If transformers cannot read it, with its reason.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow to import

    return from_pretrained(AutoTokenizer, base.source, settings, partial(base_error, base))


def read_adapter_tokenizer(base_tokenizer: Any, adapter: Adapter, settings: Settings) -> Any:  # noqa: ANN401 - see above
    """Return the adapter's own tokenizer, with the tokens that its training added, or else the base's.

    Raises:
        LoadError: If the adapter's own cannot be read.
    """
    if not adapter.has_tokenizer:
        return base_tokenizer
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow to import

    def to_load_error(error: Exception) -> LoadError:
        return LoadError(f"the tokenizer of the adapter {adapter.name} cannot be loaded: {error}")

    tokenizer = from_pretrained(AutoTokenizer, str(adapter.folder), settings, to_load_error)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = base_tokenizer.chat_template
    return tokenizer


def read_tokenizer_from(source: str, model: str, settings: Settings) -> Any:  # noqa: ANN401 - see above
    """Read the tokenizer that an engine names for a model: a folder, or a hub id.

    Raises:
        LoadError: If transformers cannot read it, with its reason.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow to import

    def to_load_error(error: Exception) -> LoadError:
        return LoadError(f"the tokenizer of the model {model} cannot be loaded from {source}: {error}")

    return from_pretrained(AutoTokenizer, source, settings, to_load_error)


def end_token_ids(generation_config: Any, tokenizer: Any) -> frozenset[int]:  # noqa: ANN401 - see above
    """Return the tokens that end an answer: those of the generation configuration and the tokenizer."""
    ends = generation_config.eos_token_id
    return frozenset({*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None})
