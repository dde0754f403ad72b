"""The messages of a request: blocks of content, and the conversation for the chat template.

Blocks are read leniently, like the messages of OpenAI's API: a client sends back a message as it came, with
what a library added. As in Anthropic's API, messages of the same role in a row are one turn, and a last
message of the assistant is continued. A message of the role `system` is a part of the system prompt if it
comes first, and else of the user's turn: most chat templates have no other place for it.

Source: Anthropic API reference, "Create a Message", `messages` and `system`; vLLM,
`entrypoints/anthropic/serving.py`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from inference.text.codec import Message
from inference.text.tools import ToolCall
from inference.web.message_schemas import LenientModel, write_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK_TYPES: Final = ("text", "thinking", "redacted_thinking", "tool_use", "tool_result")
ASSISTANT_BLOCKS: Final = frozenset({"text", "thinking", "redacted_thinking", "tool_use"})
USER_BLOCKS: Final = frozenset({"text", "tool_result"})

BILLING_HEADER: Final = "x-anthropic-billing-header"
"""Begins a block of Claude Code's system prompt that is meant for Anthropic's servers, not for a model."""

PARAGRAPH: Final = "\n\n"


class TextBlock(LenientModel):
    """A text."""

    type: Literal["text"]
    text: str


class ThinkingBlock(LenientModel):
    """The reasoning of an earlier answer."""

    type: Literal["thinking"]
    thinking: str


class RedactedThinkingBlock(LenientModel):
    """Reasoning of another server, which nobody can read."""

    type: Literal["redacted_thinking"]


class ToolUseBlock(LenientModel):
    """A call in an earlier answer."""

    type: Literal["tool_use"]
    id: str
    name: Annotated[str, Field(min_length=1)]
    input: dict[str, Any] | None = None

    def to_call(self) -> ToolCall:
        """Return the call."""
        return ToolCall(self.id, self.name, write_arguments(self.input or {}))


def _join_result(content: object) -> object:
    """Join the blocks of a tool's result; anything else is left to the check of the string."""
    if not isinstance(content, list):
        return content
    return "\n".join(map(_read_result_block, content))


def _read_result_block(block: object) -> str:
    kind = block.get("type") if isinstance(block, dict) else None
    if isinstance(block, dict) and kind in ("text", "tool_reference"):
        text = block.get("text" if kind == "text" else "tool_name")
        if isinstance(text, str):
            return text
    raise PydanticCustomError("result_block", "only text is supported: blocks of the type text")


class ToolResultBlock(LenientModel):
    """The result of a call. `is_error` has no effect: the text says what went wrong."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Annotated[
        str,
        BeforeValidator(_join_result),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}),
    ] | None = None  # fmt: skip


def _tag(block: object) -> str | None:
    kind = block.get("type") if isinstance(block, dict) else getattr(block, "type", None)
    return f"block {kind}" if kind in BLOCK_TYPES else None


def _list_blocks(content: object) -> object:
    """Turn a text into a block."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


Block = Annotated[
    Annotated[TextBlock, Tag("block text")]
    | Annotated[ThinkingBlock, Tag("block thinking")]
    | Annotated[RedactedThinkingBlock, Tag("block redacted_thinking")]
    | Annotated[ToolUseBlock, Tag("block tool_use")]
    | Annotated[ToolResultBlock, Tag("block tool_result")],
    Discriminator(
        _tag,
        custom_error_type="block_type",
        custom_error_message=f"only text is supported: blocks of the types {', '.join(BLOCK_TYPES)}",
    ),
]
_BLOCKS_SCHEMA: Final = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {
            "type": "object", "required": ["type"], "properties": {"type": {"enum": list(BLOCK_TYPES)}},
        }},
    ]
}  # fmt: skip
Blocks = Annotated[list[Block], BeforeValidator(_list_blocks), WithJsonSchema(_BLOCKS_SCHEMA)]
SystemBlocks = Annotated[list[TextBlock], BeforeValidator(_list_blocks), WithJsonSchema(_BLOCKS_SCHEMA)]


class InputMessage(LenientModel):
    """A message."""

    role: Literal["user", "assistant", "system"]
    content: Blocks

    @model_validator(mode="after")
    def _check_blocks_of_role(self) -> Self:
        allowed = ASSISTANT_BLOCKS if self.role == "assistant" else USER_BLOCKS
        wrong = next((block.type for block in self.content if block.type not in allowed), None)
        if wrong is not None:
            raise PydanticCustomError(
                "block_role",
                "a message of the role '{role}' has no blocks of the type '{kind}'",
                {"role": self.role, "kind": wrong, "field": "content"},
            )
        return self


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation for the chat template.

    Attributes:
        continues_last: The answer continues the last message.
    """

    messages: tuple[Message, ...]
    continues_last: bool


def read_conversation(system: Sequence[TextBlock], messages: Sequence[InputMessage]) -> Conversation:
    """Return the conversation that a system prompt and messages are.

    Raises:
        PydanticCustomError: If the last message calls tools, whose results have to follow.
    """
    leading = list(itertools.takewhile(lambda message: message.role == "system", messages))
    prompts = [_text_of(system), *(_text_of(message.content) for message in leading)]
    prompt = PARAGRAPH.join(text for text in prompts if text)
    found = [Message("system", prompt)] if prompt else []
    turns = itertools.groupby(messages[len(leading) :], lambda message: message.role == "assistant")
    for is_assistant, turn in turns:
        contents = [message.content for message in turn]
        found += [_assistant_message(contents)] if is_assistant else _user_messages(contents)
    last = found[-1] if found and found[-1].role == "assistant" else None
    if last is not None and last.calls:
        raise PydanticCustomError(
            "unanswered_calls",
            "the last message calls tools: a message with their results ('tool_result') has to follow",
            {"field": "messages"},
        )
    if last is not None and not last.content:
        # There is nothing to continue.
        return Conversation(tuple(found[:-1]), continues_last=False)
    return Conversation(tuple(found), continues_last=last is not None)


def _assistant_message(contents: Sequence[Sequence[Block]]) -> Message:
    """Return one turn of the assistant. Its blocks are pieces of one text."""
    blocks = [block for content in contents for block in content]
    texts = ("".join(block.text for block in content if isinstance(block, TextBlock)) for content in contents)
    reasoning = "".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock))
    calls = tuple(block.to_call() for block in blocks if isinstance(block, ToolUseBlock))
    return Message(
        "assistant", PARAGRAPH.join(text for text in texts if text), calls, reasoning=reasoning or None
    )


def _user_messages(contents: Sequence[Sequence[Block]]) -> list[Message]:
    """Return one turn of the user: the results of calls, and then the text."""
    results = [
        Message("tool", block.content or "", call_id=block.tool_use_id)
        for content in contents
        for block in content
        if isinstance(block, ToolResultBlock)
    ]
    texts = [text for content in contents if (text := _text_of(content))]
    return [*results, *([Message("user", PARAGRAPH.join(texts))] if texts or not results else [])]


def _text_of(blocks: Sequence[Block]) -> str:
    """Return the text of some blocks, each of which begins a line."""
    texts = [block.text for block in blocks if isinstance(block, TextBlock)]
    return "\n".join(text for text in texts if not text.startswith(BILLING_HEADER))
