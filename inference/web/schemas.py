"""Say which requests `/v1` takes, strictly: an unknown field is refused, and so is what is not supported.

The fields are those of OpenAI's API, with `top_k`, `min_p` and `repetition_penalty` beside them, which the
official client sends through its `extra_body`. A field that would change the answer and that this server
cannot honour takes only its neutral value.

Source: OpenAI API reference, "Create chat completion" and "Create completion".
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
    PlainValidator,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from inference.engines.protocol import Sampling
from inference.service.service import ChatPrompt, JsonShape, TextPrompt, TokenPrompt
from inference.text.codec import Message
from inference.text.grammar import ANY_OBJECT
from inference.text.tools import Tool, ToolCall, ToolUse

MAX_STOPS: Final = 16
MAX_CHOICES: Final = 16
MAX_BIASES: Final = 1024
MAX_TOOLS: Final = 128
MAX_CHAT_LOGPROBS: Final = 20
MAX_TEXT_LOGPROBS: Final = 5
UNSUPPORTED: Final = frozenset({
    "audio", "best_of", "echo", "function_call", "functions", "modalities", "moderation", "prediction",
    "reasoning_effort", "service_tier", "store", "suffix", "verbosity", "web_search_options",
})  # fmt: skip
"""Fields that are known and take only a neutral value; the error says that they are not supported."""

EmptyList = Annotated[list[Any], Field(max_length=0)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


def _join_parts(content: object) -> object:
    """Turn a list of text parts into one text; leave the rest to the string's own check."""
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


def _list_stops(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


def _require_content(stops: list[str]) -> list[str]:
    if not all(stops):
        raise PydanticCustomError("empty_stop", "a stop string must not be empty")
    return stops


def _require_token_ids(biases: dict[str, float]) -> dict[str, float]:
    if not all(key.isdecimal() and key.isascii() for key in biases):
        raise PydanticCustomError("bias_key", "the keys are token ids, such as '50256'")
    return biases


def _read_prompts(prompt: object) -> tuple[TextPrompt, ...] | tuple[TokenPrompt, ...]:
    """Turn each of the four forms of a prompt into a list of prompts."""
    prompts: list[Any] = prompt if isinstance(prompt, list) else [prompt]
    if isinstance(prompt, list) and all(_is_token(each) for each in prompts):
        return (TokenPrompt(tuple(prompts)),)
    if all(isinstance(each, str) for each in prompts):
        return tuple(TextPrompt(each) for each in prompts)
    if all(isinstance(each, list) and all(_is_token(token) for token in each) for each in prompts):
        return tuple(TokenPrompt(tuple(each)) for each in prompts)
    raise PydanticCustomError(
        "prompt", "a prompt is a text, a list of texts, a list of token ids, or a list of such lists"
    )


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _read_choice(choice: object) -> object:
    """Turn the choice of one function into `function NAME`; leave words as they are."""
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


NAMED: Final = "function "
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
Stops = Annotated[
    list[str],
    BeforeValidator(_list_stops),
    AfterValidator(_require_content),
    Field(max_length=MAX_STOPS),
    WithJsonSchema({
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "maxItems": MAX_STOPS, "items": {"type": "string", "minLength": 1}},
        ]
    }),
]  # fmt: skip
Biases = Annotated[
    dict[str, Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=MAX_BIASES),
    AfterValidator(_require_token_ids),
    WithJsonSchema({
        "type": "object", "maxProperties": MAX_BIASES, "propertyNames": {"pattern": "^[0-9]+$"},
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    }),
]  # fmt: skip
Prompts = Annotated[
    Any,
    PlainValidator(_read_prompts),
    WithJsonSchema({
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}},
            {"type": "array", "items": {"type": "integer"}},
            {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
        ]
    }),
]  # fmt: skip
Choice = Annotated[
    str,
    BeforeValidator(_read_choice),
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


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class CalledFunction(_Strict):
    """Be the function of a call that is part of the history."""

    name: Name
    arguments: Annotated[str, AfterValidator(_require_object)]
    parsed_arguments: Any = None  # the client's own, in what its `parse` gave back


class MessageCall(_Strict):
    """Be a call that is part of the history."""

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
"""What each role needs and may have, for the published schema; the check is the model's own."""


class ChatMessage(_Strict):
    """Be one turn. What an assistant's message carries besides text and calls may be there, empty."""

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
    parsed: Any = None  # the client's own, in what its `parse` gave back

    @model_validator(mode="after")
    def _require_what_the_role_needs(self) -> Self:
        """Require a text, but for an assistant that calls; and an id of a tool's answer alone."""
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise _missing("content")
        if self.role == "tool" and self.tool_call_id is None:
            raise _missing("tool_call_id")
        if self.role != "tool" and self.tool_call_id is not None:
            raise PydanticCustomError("role", "only a message of the role 'tool' has a tool_call_id")
        if self.role != "assistant" and self.tool_calls:
            raise PydanticCustomError("role", "only a message of the role 'assistant' has tool_calls")
        return self

    def to_message(self) -> Message:
        """Return the turn; `developer` is OpenAI's newer word for `system`."""
        role = "system" if self.role == "developer" else self.role
        calls = tuple(call.to_call() for call in self.tool_calls or ())
        return Message(role, self.content or "", calls, self.tool_call_id)


class JsonSchema(_Strict):
    """Describe the JSON that is wanted. It is kept to whether `strict` or not."""

    name: Name
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(_Strict):
    """Say what the answer's text is to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _require_schema(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise _missing("json_schema")
        return self

    def to_shape(self) -> JsonShape | None:
        """Return what the text must be; None for any."""
        if self.type == "text":
            return None
        schema = self.json_schema.schema_ if self.type == "json_schema" and self.json_schema else None
        if schema is None:
            return JsonShape(ANY_OBJECT, "response_format")
        return JsonShape(schema, "response_format.json_schema.schema")


class Function(_Strict):
    """Describe a function that may be called."""

    name: Name
    description: str | None = None
    parameters: Annotated[dict[str, Any], AfterValidator(_require_object_schema)] | None = None
    strict: bool | None = None


class FunctionTool(_Strict):
    """Be a tool, which here is a function."""

    type: Literal["function"]
    function: Function

    def to_tool(self) -> Tool:
        """Return the function."""
        function = self.function
        return Tool(function.name, function.description, function.parameters, bool(function.strict))


class StreamOptions(_Strict):
    """Say what a stream carries besides text."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class _GenerationFields(_Strict):
    """Hold what both endpoints take."""

    model: Annotated[str, Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: Biases | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    # Harmless: they concern accounts that we do not have, or say what is so anyway.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None

    @property
    def sampling(self) -> Sampling:
        """Return the sampling, with the API's defaults."""
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            logit_bias=tuple((int(key), bias) for key, bias in (self.logit_bias or {}).items()),
            seed=self.seed,
        )

    @property
    def has_usage_in_stream(self) -> bool:
        """Return whether a stream ends with the count."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatCompletionRequest(_GenerationFields):
    """Be the body of `POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_CHAT_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None

    functions: EmptyList | None = None
    function_call: Literal["none", "auto"] | None = None
    modalities: list[Literal["text"]] | None = None
    audio: None = None
    prediction: None = None
    reasoning_effort: None = None
    verbosity: None = None
    web_search_options: None = None
    moderation: None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = None

    @model_validator(mode="after")
    def _require_fields_that_go_together(self) -> Self:
        names = [tool.function.name for tool in self.tools or ()]
        choice = self.tool_choice or "auto"
        if self.top_logprobs and not self.logprobs:
            raise _wrong("top_logprobs", "it goes with 'logprobs': true")
        if len(set(names)) < len(names):
            raise _wrong("tools", "two functions have the same name")
        if choice == "required" and not names:
            raise _wrong("tool_choice", "there are no tools to choose from")
        if choice.startswith(NAMED) and choice.removeprefix(NAMED) not in names:
            raise _wrong("tool_choice", "there is no tool of this name")
        return self

    @property
    def prompt(self) -> ChatPrompt:
        """Return the conversation."""
        return ChatPrompt(tuple(message.to_message() for message in self.messages))

    @property
    def wanted_logprobs(self) -> int | None:
        """Return how many of the likeliest tokens to tell of; None for nothing at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def shape(self) -> JsonShape | None:
        """Return what the text must be; None for any."""
        return self.response_format.to_shape() if self.response_format else None

    @property
    def tool_use(self) -> ToolUse | None:
        """Return what the model may call; None for nothing."""
        choice = self.tool_choice or "auto"
        if not self.tools or choice == "none":
            return None
        return ToolUse(
            tuple(tool.to_tool() for tool in self.tools),
            "auto" if choice == "auto" else "required",
            only=choice.removeprefix(NAMED) if choice.startswith(NAMED) else None,
            is_parallel=self.parallel_tool_calls is not False,
        )


class CompletionRequest(_GenerationFields):
    """Be the body of `POST /v1/completions`."""

    prompt: Prompts
    logprobs: Annotated[int, Field(ge=0, le=MAX_TEXT_LOGPROBS)] | None = None

    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    suffix: None = None

    @property
    def prompts(self) -> tuple[TextPrompt | TokenPrompt, ...]:
        """Return the prompts."""
        return tuple(self.prompt)


def _missing(field: str) -> PydanticCustomError:
    return PydanticCustomError("missing", "Field required", {"field": field})


def _wrong(field: str, message: Any) -> PydanticCustomError:  # noqa: ANN401 - pydantic wants a literal
    return PydanticCustomError("wrong", message, {"field": field})


def describe_error(error: dict[str, Any]) -> tuple[str, str | None, str | None]:
    """Turn one of pydantic's errors into a message, the field's path and OpenAI's code."""
    # A check of fields that go together is the whole's, and names the field by itself.
    named = error.get("ctx", {}).get("field")
    path = (*(part for part in error["loc"] if part != "body"), *([named] if named else []))
    kind, field = error["type"], _field_path(path)
    if kind == "json_invalid":
        return f"The body is not valid JSON: {error['ctx']['error']}.", None, "invalid_json"
    if not path:
        return "The body must be a JSON object, sent as application/json.", None, None
    if kind == "missing":
        return f"The field '{field}' is missing.", field, "missing_required_parameter"
    if kind == "extra_forbidden":
        return f"Unknown field '{field}'.", field, "unknown_parameter"
    if path[0] in UNSUPPORTED or (path[0] == "messages" and path[-1] in UNSUPPORTED):
        return (
            f"'{field}' is not supported by this server, or not with this value; leave it out.",
            field,
            "unsupported",
        )
    return f"'{field}': {error['msg']}.", field, "invalid_value"


def _field_path(path: tuple[str | int, ...]) -> str:
    text = ""
    for part in path:
        # A union adds the names of its branches, which a client has never heard of.
        if isinstance(part, str) and not part.isidentifier():
            continue
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
