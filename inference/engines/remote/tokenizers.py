"""The tokenizers of an engine process's models, read from the files that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inference.engines.protocol import ServedModel
from inference.engines.served_models import make_codec
from inference.models.tokenizers import read_tokenizer_from

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.engines.remote.messages import ModelDescription
    from inference.settings import Settings


class Tokenizers:
    """The tokenizers that a server has read; each is read once. Reading takes seconds; for a thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[tuple[str, int], Any] = {}

    def read_models(self, descriptions: Sequence[ModelDescription]) -> tuple[ServedModel, ...]:
        """Return the models with their codecs.

        Raises:
            LoadError: If a tokenizer cannot be read.
        """
        by_name = {each.name: each for each in descriptions}
        return tuple(self._read_model(each, by_name.get(each.parent or "")) for each in descriptions)

    def _read_model(self, model: ModelDescription, parent: ModelDescription | None) -> ServedModel:
        has_parents = parent is not None and parent.tokenizer == model.tokenizer
        tokenizer = self._read(parent if parent is not None and has_parents else model)
        if tokenizer.chat_template is None and parent is not None:
            tokenizer.chat_template = self._read(parent).chat_template
        codec = make_codec(tokenizer, model.parent, self._settings)
        return ServedModel(
            model.name, model.parent, codec, model.end_token_ids, model.created, model.tokenizer
        )

    def _read(self, model: ModelDescription) -> Any:  # noqa: ANN401 - a transformers tokenizer, which has no useful type
        # Another version of an adapter may be in the same folder.
        key = (model.tokenizer, model.created)
        if key not in self._known:
            self._known[key] = read_tokenizer_from(model.tokenizer, model.name, self._settings)
        return self._known[key]
