"""The parts of a chat request's body: messages, tools and schemas.

Messages are validated leniently, everything else strictly. A client chooses the fields of its request, but it
sends back a history as it received it, from this server or another, with whatever a library added. So unknown
fields of a message are ignored, while `schemas` has the rules for the rest of the body.

Source: OpenAI API reference, "Create chat completion"; vLLM's pull request 10463, which made its server
accept unknown fields for the same reason; what the official client, LangChain, AutoGen and LiteLLM send.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from inference.text.codec import Message
from inference.text.tools import Tool, ToolCall

NAMED: Final = "function "
"""Stands before the function's name in a validated `tool_choice` of one function."""

TEXT_PARTS: Final = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""The types of parts that are text, with the field that has it. Two are those of OpenAI's Responses API."""

REASONING_PARTS: Final = frozenset({"thinking", "redacted_thinking", "reasoning"})
"""The types of parts that are the reasoning of an earlier answer."""


class StrictModel(BaseModel):
    """A part of a request's body, without unknown fields and without conversion between types.

    A field that is null counts as one that was left out, whether or not it is known.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        frozen=True,
        json_schema_extra={"additionalProperties": {"type": "null"}},
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_unknown_nulls(cls, document: object) -> object:
        if not isinstance(document, dict):
            return document
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {key: value for key, value in document.items() if value is not None or key in known}


class LenientModel(BaseModel):
    """A part of a message. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, frozen=True)


def missing_field(field: str) -> PydanticCustomError:
    """Return the error for a field that is required next to others."""
    return PydanticCustomError("missing", "Field required", {"field": field})


def _join_parts(content: object) -> object:
    """Join a list of text parts; anything else is left to the check of the string.

    Earlier reasoning is left out, as chat templates leave it out.
    """
    if not isinstance(content, list):
        return content
    return "".join(_read_part(part) for part in content)


def _read_part(part: object) -> str:
    """Return the text of a part of the content."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, dict) and isinstance(kind, str):
        if kind in REASONING_PARTS:
            return ""
        text = part.get(TEXT_PARTS[kind]) if kind in TEXT_PARTS else part
        if text is None or isinstance(text, str):
            return text or ""
    raise PydanticCustomError(
        "content_part", "only text is supported: each part of the content is {'type': 'text', 'text': ...}"
    )


def _read_arguments(arguments: object) -> object:
    """Return the arguments of an earlier call as text; a call without arguments has an empty object."""
    if isinstance(arguments, dict):
        return json.dumps(arguments, ensure_ascii=False)
    is_empty = arguments is None or (isinstance(arguments, str) and not arguments.strip())
    return "{}" if is_empty else arguments


def _require_object_schema(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type", "object") != "object":
        raise PydanticCustomError("parameters", "the schema of a function's arguments has the type 'object'")
    return schema


def _read_tool_choice(choice: object) -> object:
    """Replace the choice of one function by `function NAME`; leave the three words as they are."""
    if isinstance(choice, str) and choice in {"none", "auto", "required"}:
        return choice
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if choice != {"type": "function", "function": {"name": name}} or not isinstance(name, str):
        raise PydanticCustomError(
            "tool_choice",
            "it is 'none', 'auto', 'required', or {'type': 'function', 'function': {'name': ...}}",
        )
    return NAMED + name


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
ObjectSchema = Annotated[dict[str, Any], AfterValidator(_require_object_schema)]
Arguments = Annotated[
    str,
    BeforeValidator(_read_arguments),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}, {"type": "null"}]}),
]
EmptyList = Annotated[list[Any], Field(max_length=0)]
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Content = Annotated[
    str,
    BeforeValidator(_join_parts),
    WithJsonSchema({
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"anyOf": [
                {"type": "string"},
                {"type": "object", "required": ["type", "text"], "properties": {
                    "type": {"enum": ["text", "input_text", "output_text"]}, "text": {"type": "string"},
                }},
                {"type": "object", "required": ["type", "refusal"], "properties": {
                    "type": {"const": "refusal"}, "refusal": {"type": "string"},
                }},
                {"type": "object", "required": ["type"], "properties": {
                    "type": {"enum": sorted(REASONING_PARTS)},
                }},
            ]}},
        ]
    }),
]  # fmt: skip
ToolChoice = Annotated[
    str,
    BeforeValidator(_read_tool_choice),
    WithJsonSchema({
        "anyOf": [
            {"enum": ["none", "auto", "required"]},
            {"type": "object", "required": ["type", "function"], "properties": {
                "type": {"const": "function"},
                "function": {
                    "type": "object", "required": ["name"], "properties": {"name": {"type": "string"}},
                },
            }},
        ]
    }),
]  # fmt: skip


class CalledFunction(LenientModel):
    """The function of a call in an earlier message.

    The model wrote the arguments, so they need not be JSON: a client sends back what it could not use, too.
    """

    name: Annotated[str, Field(min_length=1)]
    arguments: Arguments = "{}"

    def to_call(self, call_id: str = "") -> ToolCall:
        """Return the call."""
        return ToolCall(call_id, self.name, self.arguments)


class MessageCall(LenientModel):
    """A call in an earlier message."""

    id: str | None = None
    function: CalledFunction

    def to_call(self) -> ToolCall:
        """Return the call."""
        return self.function.to_call(self.id or "")


ROLES: Final[list[JsonValue]] = [
    {
        "properties": {
            "role": {"enum": ["system", "developer", "user"]}, "content": {"type": ["string", "array"]},
        },
        "required": ["content"],
    },
    {"properties": {"role": {"enum": ["assistant", "function"]}}},
    {
        "properties": {"role": {"const": "tool"}, "tool_call_id": {"type": "string"}},
        "required": ["tool_call_id"],
    },
]  # fmt: skip
"""The fields that each role requires, for the published schema; a validator checks them."""


class ChatMessage(LenientModel):
    """One message. Fields that do not belong to its role are ignored, like unknown ones.

    `developer` is OpenAI's newer word for `system`; `function` and `function_call` are its older words for
    `tool` and `tool_calls`.
    """

    model_config = ConfigDict(json_schema_extra={"anyOf": ROLES})

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[MessageCall] | None = None
    tool_call_id: str | None = None
    function_call: CalledFunction | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None

    @model_validator(mode="after")
    def _check_fields_of_role(self) -> Self:
        """Require a text of those who write one, and `tool_call_id` for the role 'tool'."""
        if self.content is None and self.role in {"system", "developer", "user"}:
            raise missing_field("content")
        if self.role == "tool" and self.tool_call_id is None:
            raise missing_field("tool_call_id")
        return self

    def to_message(self) -> Message:
        """Return the message for the chat template."""
        match self.role:
            case "assistant":
                calls = [call.to_call() for call in self.tool_calls or ()]
                if self.function_call is not None and not calls:
                    calls = [self.function_call.to_call()]
                # vLLM and OpenRouter have another name for it, which others use for a list of parts.
                reasoning = self.reasoning if isinstance(self.reasoning, str) else None
                return Message(
                    "assistant", self.content or self.refusal or "", tuple(calls), name=self.name,
                    reasoning=self.reasoning_content or reasoning,
                )  # fmt: skip
            case "tool" | "function":
                return Message("tool", self.content or "", call_id=self.tool_call_id, name=self.name)
            case "developer":
                return Message("system", self.content or "", name=self.name)
            case _:
                return Message(self.role, self.content or "", name=self.name)


class JsonSchema(StrictModel):
    """The schema of a JSON answer. The answer follows it, whether or not it is `strict`."""

    name: Name
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class Function(StrictModel):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: ObjectSchema | None = None
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None  # without effect: Anthropic's word for what to cache


class FunctionTool(StrictModel):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function
    cache_control: dict[str, Any] | None = None  # without effect, as in the function

    def to_tool(self) -> Tool:
        """Return the function."""
        function = self.function
        return Tool(function.name, function.description, function.parameters, bool(function.strict))
