"""Describe an engine's models to the service."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from inference.engines.protocol import ServedModel
from inference.text.codec import TokenizerCodec

if TYPE_CHECKING:
    from inference.settings import Settings


def make_served_model(
    name: str,
    parent: str | None,
    tokenizer: Any,  # noqa: ANN401 - a transformers tokenizer, which has no useful type
    end_token_ids: frozenset[int],
    settings: Settings,
) -> ServedModel:
    """Return the service's description of a loaded model; `parent` is the base's name for an adapter."""
    codec = make_codec(tokenizer, parent, settings)
    return ServedModel(name, parent, codec, end_token_ids, int(time.time()), tokenizer.name_or_path)


def make_codec(tokenizer: Any, parent: str | None, settings: Settings) -> TokenizerCodec:  # noqa: ANN401 - see above
    """Return the codec of a model; `parent` is the base's name for an adapter."""
    # The template is the one that the adapter was trained with; the base has its own.
    return TokenizerCodec(tokenizer, settings.prompt_template if parent is not None else None)
