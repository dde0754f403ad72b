"""Turn messages and text into token ids, and token ids into text, the way a model was trained on them.

`TokenizerCodec` does it with a transformers tokenizer and its chat template. `ByteCodec` does it with bytes
and no model, for tests: a token is a byte, so characters split over tokens as they do in real vocabularies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from inference.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Message:
    """Hold one turn of a conversation.

    Attributes:
        role: `system`, `user` or `assistant`.
    """

    role: str
    content: str


class Codec(Protocol):
    """Translate between text and one model's tokens."""

    @property
    def vocabulary_size(self) -> int:
        """Return the number of token ids; each id is below it."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of bare text, with the token that begins a text where the model has one."""
        ...

    def encode_chat(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the tokens of a conversation, up to where the answer begins.

        Raises:
            InvalidRequestError: If the model's template does not take such a conversation.
        """
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, without special tokens. Incomplete characters become U+FFFD."""
        ...


class TokenizerCodec:
    """Translate with a transformers tokenizer.

    Args:
        tokenizer: A fast tokenizer.
        prompt_template: Text with one `{}`. The prompt is then this text around the last user message: such
            models were trained on single turns, and what else is in the conversation has no place in their
            prompt.
    """

    def __init__(self, tokenizer: Any, prompt_template: str | None = None) -> None:  # noqa: ANN401 - has no useful type
        self._tokenizer = tokenizer
        self._prompt_template = prompt_template

    @property
    def vocabulary_size(self) -> int:
        """Return the tokenizer's size, added tokens included."""
        return len(self._tokenizer)

    def encode(self, text: str) -> tuple[int, ...]:
        """Encode with the tokenizer's special tokens around the text."""
        return tuple(self._tokenizer.encode(text))

    def encode_chat(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Encode with the prompt template, else the chat template, else the bare message."""
        if self._prompt_template is not None:
            return self.encode(self._prompt_template.replace("{}", _last_user_content(messages)))
        if self._tokenizer.chat_template is None:
            return self.encode(_only_content(messages))
        text = self._render(messages)
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Decode exactly: no space is tidied away."""
        text: str = self._tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _render(self, messages: Sequence[Message]) -> str:
        from jinja2 import TemplateError  # noqa: PLC0415 - comes with transformers, as does its cost

        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text: str = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise InvalidRequestError(
                f"The model's chat template does not take this conversation: {error}", param="messages"
            ) from error
        return text


@dataclass(frozen=True, slots=True)
class ByteCodec:
    """Take every byte for a token. Token 256 and above decode to nothing, as special tokens do."""

    vocabulary_size: int = 258

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the text's bytes."""
        return tuple(text.encode())

    def encode_chat(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the bytes of lines such as `user: hello`, and of the beginning of the answer's line."""
        return self.encode(
            "".join(f"{message.role}: {message.content}\n" for message in messages) + "assistant: "
        )

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the bytes as text."""
        return bytes(token for token in token_ids if token < 256).decode(errors="replace")  # noqa: PLR2004 - a byte


def _last_user_content(messages: Sequence[Message]) -> str:
    for message in reversed(messages):
        if message.role == "user":
            return message.content
    raise InvalidRequestError("This model answers a user's message, and there is none.", param="messages")


def _only_content(messages: Sequence[Message]) -> str:
    if len(messages) != 1 or messages[0].role != "user":
        raise InvalidRequestError(
            "This model has no chat template, so it takes a single user message; for more, write the prompt"
            " yourself and use /v1/completions.",
            param="messages",
        )
    return messages[0].content
