"""The parts of a chat request's body: messages, tools and the response format.

`schemas` has the whole bodies, and the rules that all of these follow.
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

from inference.service.requests import JsonShape
from inference.text.codec import Message
from inference.text.grammar import ANY_OBJECT
from inference.text.tools import Tool, ToolCall

NAMED: Final = "function "
"""Stands before the function's name in a validated `tool_choice` of one function."""


class StrictModel(BaseModel):
    """A part of a request's body, without unknown fields and without conversion between types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def missing_field(field: str) -> PydanticCustomError:
    """Return the error for a field that is required next to others."""
    return PydanticCustomError("missing", "Field required", {"field": field})


def _join_parts(content: object) -> object:
    """Join a list of text parts; anything else is left to the check of the string."""
    if not isinstance(content, list):
        return content
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise PydanticCustomError(
                "content_part",
                "only text is supported: each part of the content is {{'type': 'text', 'text': ...}}",
            )  # fmt: skip
    return "".join(part["text"] for part in content)


def _require_object(text: str) -> str:
    try:
        is_object = isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise PydanticCustomError("arguments", "the arguments are a JSON object, written as a text")
    return text


def _require_object_schema(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type", "object") != "object":
        raise PydanticCustomError("parameters", "the schema of a function's arguments has the type 'object'")
    return schema


def _read_tool_choice(choice: object) -> object:
    """Replace the choice of one function by `function NAME`; leave strings as they are."""
    if not isinstance(choice, dict):
        return choice
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if choice != {"type": "function", "function": {"name": name}} or not isinstance(name, str):
        raise PydanticCustomError(
            "tool_choice",
            "it is 'none', 'auto', 'required', or {{'type': 'function', 'function': {{'name': ...}}}}",
        )
    return NAMED + name


EmptyList = Annotated[list[Any], Field(max_length=0)]
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Content = Annotated[
    str,
    BeforeValidator(_join_parts),
    WithJsonSchema({
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {
                "type": "object", "required": ["type", "text"], "additionalProperties": False,
                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
            }},
        ]
    }),
]  # fmt: skip
ToolChoice = Annotated[
    str,
    BeforeValidator(_read_tool_choice),
    Field(pattern=rf"^(none|auto|required|{NAMED}.*)$"),
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


class CalledFunction(StrictModel):
    """The function of a call in an earlier message."""

    name: Name
    arguments: Annotated[str, AfterValidator(_require_object)]
    parsed_arguments: Any = None  # the official client adds it to what its `parse` returns


class MessageCall(StrictModel):
    """A call in an earlier message."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction

    def to_call(self) -> ToolCall:
        """Return the call."""
        return ToolCall(self.id, self.function.name, self.function.arguments)


ROLES: Final[list[JsonValue]] = [
    {
        "properties": {
            "role": {"enum": ["system", "developer", "user"]}, "content": {"type": ["string", "array"]},
            "tool_calls": {"anyOf": [{"type": "null"}, {"type": "array", "maxItems": 0}]},
            "tool_call_id": {"type": "null"},
        },
        "required": ["content"],
    },
    {
        "properties": {
            "role": {"const": "assistant"}, "content": {"type": ["string", "array"]},
            "tool_call_id": {"type": "null"},
        },
        "required": ["content"],
    },
    {
        "properties": {
            "role": {"const": "assistant"}, "tool_calls": {"type": "array", "minItems": 1},
            "tool_call_id": {"type": "null"},
        },
        "required": ["tool_calls"],
    },
    {
        "properties": {
            "role": {"const": "tool"}, "content": {"type": ["string", "array"]},
            "tool_calls": {"anyOf": [{"type": "null"}, {"type": "array", "maxItems": 0}]},
            "tool_call_id": {"type": "string"},
        },
        "required": ["content", "tool_call_id"],
    },
]  # fmt: skip
"""The fields that each role requires and allows, for the published schema; a validator checks them."""


class ChatMessage(StrictModel):
    """One message. The fields of an assistant's message besides text and calls are accepted if empty."""

    model_config = ConfigDict(json_schema_extra={"anyOf": ROLES})

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    tool_calls: list[MessageCall] | None = None
    tool_call_id: str | None = None
    name: None = None
    refusal: None = None
    annotations: EmptyList | None = None
    audio: None = None
    function_call: None = None
    parsed: Any = None  # the official client adds it to what its `parse` returns

    @model_validator(mode="after")
    def _check_fields_of_role(self) -> Self:
        """Require a text unless an assistant calls tools, and `tool_call_id` for the role 'tool' only."""
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise missing_field("content")
        if self.role == "tool" and self.tool_call_id is None:
            raise missing_field("tool_call_id")
        if self.role != "tool" and self.tool_call_id is not None:
            raise PydanticCustomError("role", "only a message of the role 'tool' has a tool_call_id")
        if self.role != "assistant" and self.tool_calls:
            raise PydanticCustomError("role", "only a message of the role 'assistant' has tool_calls")
        return self

    def to_message(self) -> Message:
        """Return the message; `developer` is OpenAI's newer word for `system`."""
        role = "system" if self.role == "developer" else self.role
        calls = tuple(call.to_call() for call in self.tool_calls or ())
        return Message(role, self.content or "", calls, self.tool_call_id)


class JsonSchema(StrictModel):
    """The schema of a JSON answer. The answer follows it, whether or not it is `strict`."""

    name: Name
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(StrictModel):
    """The form of the answer's text."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _require_schema(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise missing_field("json_schema")
        return self

    def to_shape(self) -> JsonShape | None:
        """Return the schema that the text must follow; None if the text is free."""
        if self.type == "text":
            return None
        schema = self.json_schema.schema_ if self.type == "json_schema" and self.json_schema else None
        if schema is None:
            return JsonShape(ANY_OBJECT, "response_format")
        return JsonShape(schema, "response_format.json_schema.schema")


class Function(StrictModel):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: Annotated[dict[str, Any], AfterValidator(_require_object_schema)] | None = None
    strict: bool | None = None


class FunctionTool(StrictModel):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function

    def to_tool(self) -> Tool:
        """Return the function."""
        function = self.function
        return Tool(function.name, function.description, function.parameters, bool(function.strict))
