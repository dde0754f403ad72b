"""The input of a response: a text, or the items of a conversation.

Items are read leniently, like messages: a client sends back the output of an earlier response as it came,
with what a library added. Calls belong to the assistant's message before them, as chat templates have them.

Source: OpenAI API reference, "Create a model response", `input`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema

from inference.text.codec import Message
from inference.text.tools import ToolCall
from inference.web.message_schemas import Arguments, Content, LenientModel

if TYPE_CHECKING:
    from collections.abc import Sequence

ITEM_TYPES: Final = ("message", "function_call", "function_call_output", "reasoning")


class MessageItem(LenientModel):
    """A message, of the input or of an earlier output."""

    role: Literal["user", "assistant", "system", "developer"]
    content: Content


class CallItem(LenientModel):
    """A call in an earlier output."""

    call_id: str
    name: Annotated[str, Field(min_length=1)]
    arguments: Arguments = "{}"

    def to_call(self) -> ToolCall:
        """Return the call."""
        return ToolCall(self.call_id, self.name, self.arguments)


class CallOutputItem(LenientModel):
    """The result of a call."""

    call_id: str
    output: Content


class ReasoningItem(LenientModel):
    """The reasoning of an earlier output."""

    content: list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        """Return its text."""
        parts = [part.get("text") for part in self.content or ()]
        return "".join(part for part in parts if isinstance(part, str))


def _list_items(value: object) -> object:
    """Turn a text into a user's message."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _tag(item: object) -> str | None:
    """Return which kind of item it is, a message if it does not say; None for an unsupported one."""
    kind = item.get("type", "message") if isinstance(item, dict) else None
    return f"item {kind}" if kind in ITEM_TYPES else None


InputItem = Annotated[
    Annotated[MessageItem, Tag("item message")]
    | Annotated[CallItem, Tag("item function_call")]
    | Annotated[CallOutputItem, Tag("item function_call_output")]
    | Annotated[ReasoningItem, Tag("item reasoning")],
    Discriminator(
        _tag,
        custom_error_type="item_type",
        custom_error_message=f"only items of the types {', '.join(ITEM_TYPES)} are supported",
    ),
]
InputItems = Annotated[
    list[InputItem],
    BeforeValidator(_list_items),
    Field(min_length=1),
    WithJsonSchema({
        "anyOf": [
            {"type": "string"},
            {"type": "array", "minItems": 1, "items": {
                "type": "object", "properties": {"type": {"enum": list(ITEM_TYPES)}},
            }},
        ]
    }),
]  # fmt: skip


def read_messages(instructions: str | None, items: Sequence[InputItem]) -> tuple[Message, ...]:
    """Return the conversation that instructions and items are."""
    messages = [] if instructions is None else [Message("system", instructions)]
    reasoning: str | None = None
    for item in items:
        match item:
            case ReasoningItem():
                reasoning = item.text or None
            case CallItem():
                # A call goes with the assistant's message before it, unless that has reasoning of its own.
                if reasoning is not None or not messages or messages[-1].role != "assistant":
                    messages.append(Message("assistant", "", reasoning=reasoning))
                last = messages[-1]
                messages[-1] = replace(last, calls=(*last.calls, item.to_call()))
                reasoning = None
            case CallOutputItem():
                messages.append(Message("tool", item.output, call_id=item.call_id))
            case MessageItem(role="assistant"):
                messages.append(Message("assistant", item.content, reasoning=reasoning))
                reasoning = None
            case MessageItem():
                role = "system" if item.role == "developer" else item.role
                messages.append(Message(role, item.content))
    return tuple(messages)
