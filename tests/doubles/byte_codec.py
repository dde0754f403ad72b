"""A codec without a model: a token is a byte, so characters split over tokens as in real vocabularies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference.text.codec import NO_SPECIAL_TOKENS, TemplateOptions, Token

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

    @property
    def template_variables(self) -> frozenset[str]:
        """Return those of a template that may have a mood."""
        return frozenset({"messages", "add_generation_prompt", "mood"})

    @property
    def reasoning_format(self) -> None:
        """Return that there is none."""

    def encode(self, text: str, *, has_special: bool = True) -> tuple[int, ...]:
        """Return the text's bytes."""
        del has_special
        return tuple(text.encode())

    def encode_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        options: TemplateOptions = TemplateOptions(),  # noqa: B008 - it is frozen
    ) -> tuple[int, ...]:
        """Return the bytes of lines such as `user: hello`, and of the beginning of the answer's line."""
        del tools
        lines = "".join(f"{message.role}: {message.content}\n" for message in messages)
        mood = options.variables.get("mood")
        head = "" if mood is None else f"({mood}) "
        return self.encode(
            head + (lines.removesuffix("\n") if options.continues_last else lines)
            + ("assistant: " if options.is_answer_next else "")
        )  # fmt: skip

    def decode(self, token_ids: Sequence[int], kept: Mapping[int, str] = NO_SPECIAL_TOKENS) -> str:
        """Return the bytes as text."""
        del kept
        return bytes(token for token in token_ids if token < 256).decode(errors="replace")

    def token(self, token_id: int) -> Token:
        """Return the byte."""
        return Token.from_bytes(bytes([token_id])) if token_id < 256 else Token("", None)
