"""A codec without a model: a token is a byte, so characters split over tokens as in real vocabularies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference.text.codec import NO_SPECIAL_TOKENS, Token

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inference.text.codec import Message
    from inference.text.tools import Tool


@dataclass(frozen=True, slots=True)
class ByteCodec:
    """A codec whose tokens are bytes. Tokens from 256 on decode to nothing, as special tokens do."""

    vocabulary_size: int = 258

    @property
    def has_tools(self) -> bool:
        """Return that there are none."""
        return False

    @property
    def call_format(self) -> None:
        """Return that there is none."""

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the text's bytes."""
        return tuple(text.encode())

    def encode_chat(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> tuple[int, ...]:
        """Return the bytes of lines such as `user: hello`, and of the beginning of the answer's line."""
        del tools
        return self.encode(
            "".join(f"{message.role}: {message.content}\n" for message in messages) + "assistant: "
        )

    def decode(self, token_ids: Sequence[int], kept: Mapping[int, str] = NO_SPECIAL_TOKENS) -> str:
        """Return the bytes as text."""
        del kept
        return bytes(token for token in token_ids if token < 256).decode(errors="replace")

    def token(self, token_id: int) -> Token:
        """Return the byte."""
        return Token.from_bytes(bytes([token_id])) if token_id < 256 else Token("", None)
