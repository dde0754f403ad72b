"""The parts of a chat request's body: messages, tools and schemas.

Messages are validated leniently, everything else strictly. A client chooses the fields of its request, but it
sends back a history as it received it, from this server or another, with whatever a library added. So unknown
fields of a message are ignored, while `schemas` has the rules for the rest of the body.

Source: OpenAI API reference, "Create chat completion"; vLLM's pull request 10463, which made its server
accept unknown fields for the same reason; what the official client, LangChain, AutoGen and LiteLLM send.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
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

TEXT_PARTS: Final = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""The types of parts that are text, with the field that has it. Two are those of OpenAI's Responses API."""

REASONING_PARTS: Final = frozenset({"thinking", "redacted_thinking", "reasoning"})
"""The types of parts that are the reasoning of an earlier answer."""


MAX_NESTING: Final = 200
"""Values that are sent back are nested at most this deep: pydantic writes no more than 255 levels."""


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


def write_arguments(arguments: dict[str, Any]) -> str:
    """Return the arguments of an earlier call as text."""
    try:
        return json.dumps(arguments, ensure_ascii=False)
    except RecursionError as error:
        raise PydanticCustomError("nesting", "it is nested too deeply") from error


def _read_arguments(arguments: object) -> object:
    """Return the arguments of an earlier call as text; a call without arguments has an empty object."""
    if isinstance(arguments, dict):
        return write_arguments(arguments)
    is_empty = arguments is None or (isinstance(arguments, str) and not arguments.strip())
    return "{}" if is_empty else arguments


def require_json(value: dict[str, Any]) -> dict[str, Any]:
    """Check that a value that is sent back is JSON in UTF-8, which what Python reads need not be."""
    level: list[Any] = [value]
    depth = 0
    while level:
        depth += 1
        children = (child for each in level for child in (each.values() if isinstance(each, dict) else each))
        level = [child for child in children if isinstance(child, dict | list)]
        if depth > MAX_NESTING:
            raise PydanticCustomError("nesting", "it is nested too deeply")
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise PydanticCustomError(
            "no_json", "it is no JSON in UTF-8: it has a lone surrogate, NaN or infinity"
        ) from error
    return value


def _require_object_schema(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type", "object") != "object":
        raise PydanticCustomError("parameters", "the schema of a function's arguments has the type 'object'")
    return schema


@dataclass(frozen=True, slots=True)
class ChosenTools:
    """What a request says about the use of its tools.

    Attributes:
        only: The function that has to be called; then the mode is `required`.
        allowed: The functions that may be called; None for all of them.
    """

    mode: Literal["none", "auto", "required"] = "auto"
    only: str | None = None
    allowed: tuple[str, ...] | None = None


def read_choice(choice: object, *, is_nested: bool) -> ChosenTools | None:
    """Read a `tool_choice`; None if it is none.

    Args:
        choice: The value.
        is_nested: Whether what belongs to a type is in a field of the type's name, as in chats.
    """
    match choice:
        case "none":
            return ChosenTools("none")
        case "auto":
            return ChosenTools()
        case "required":
            return ChosenTools("required")
        case {"type": str(kind), **fields} if is_nested and fields.keys() == {kind}:
            return _read_fields(kind, fields[kind], is_nested=True)
        case {"type": str(kind), **fields} if not is_nested:
            return _read_fields(kind, fields, is_nested=False)
    return None


def _read_fields(kind: str, fields: object, *, is_nested: bool) -> ChosenTools | None:
    match fields:
        case {"name": str(name), **rest} if kind == "function" and not rest:
            return ChosenTools("required", only=name)
        case {"mode": "auto" | "required" as mode, "tools": [_, *_] as tools, **rest} if not rest:
            found = [read_choice(tool, is_nested=is_nested) for tool in tools]
            names = tuple(each.only for each in found if each is not None and each.only is not None)
            if kind == "allowed_tools" and len(names) == len(tools):
                return ChosenTools("required" if mode == "required" else "auto", allowed=names)
    return None


def _read_tool_choice(choice: object) -> ChosenTools:
    found = read_choice(choice, is_nested=True)
    if found is None:
        raise PydanticCustomError(
            "tool_choice",
            "it is 'none', 'auto', 'required', or {'type': 'function', 'function': {'name': ...}}",
        )
    return found


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
ObjectSchema = Annotated[dict[str, Any], AfterValidator(_require_object_schema)]
EchoedObject = Annotated[dict[str, Any], AfterValidator(require_json)]
"""An object that is sent back with the answer."""

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
_FUNCTION_CHOICE: Final[dict[str, Any]] = {
    "type": "object", "required": ["type", "function"], "properties": {
        "type": {"const": "function"},
        "function": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
    },
}  # fmt: skip
ToolChoice = Annotated[
    ChosenTools,
    BeforeValidator(_read_tool_choice),
    WithJsonSchema({
        "anyOf": [
            {"enum": ["none", "auto", "required"]},
            _FUNCTION_CHOICE,
            {"type": "object", "required": ["type", "allowed_tools"], "properties": {
                "type": {"const": "allowed_tools"},
                "allowed_tools": {"type": "object", "required": ["mode", "tools"], "properties": {
                    "mode": {"enum": ["auto", "required"]},
                    "tools": {"type": "array", "minItems": 1, "items": _FUNCTION_CHOICE},
                }},
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
