"""The JSON objects that `/v1/messages` sends: to build them, to check them and to document them.

Source: Anthropic API reference, "Create a Message" and "Streaming messages"; the official client's `types`.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # comes with pydantic, which reads no other before Python 3.12

from inference.web.responses import Count  # noqa: TC001 - pydantic reads the types

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]


class TextBlock(TypedDict):
    """Text of the answer."""

    type: Literal["text"]
    text: str


class ThinkingBlock(TypedDict):
    """What the model reasoned before its answer. The signature has no meaning here."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseBlock(TypedDict):
    """A call that the model makes; the result goes back with its `id`."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


ContentBlock = TextBlock | ThinkingBlock | ToolUseBlock


class MessageUsage(TypedDict):
    """The numbers of tokens of a message. No input is in a cache that is billed apart."""

    input_tokens: Count
    cache_creation_input_tokens: Count
    cache_read_input_tokens: Count
    output_tokens: Count


class MessageDocument(TypedDict):
    """The model's message."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ContentBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class MessageEvent(TypedDict):
    """An event of a streamed message; its type decides which fields there are."""

    type: Literal[
        "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
        "message_stop", "ping",
    ]  # fmt: skip
    message: NotRequired[MessageDocument]
    index: NotRequired[Count]
    content_block: NotRequired[ContentBlock]
    delta: NotRequired[dict[str, Any]]
    usage: NotRequired[MessageUsage]


class InputTokens(TypedDict):
    """The length of a conversation."""

    input_tokens: Count
