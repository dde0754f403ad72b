"""Say which requests `/v1` takes, strictly: an unknown field is refused, and so is what is not supported.

The fields are those of OpenAI's API, with `top_k` and `min_p` beside them, which the official client sends
through its `extra_body`. A field that would change the answer and that this server cannot honour takes only
its neutral value.

Source: OpenAI API reference, "Create chat completion" and "Create completion".
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from inference.codec import Message
from inference.engine import Sampling

MAX_STOPS: Final = 16
UNSUPPORTED: Final = frozenset({
    "audio", "best_of", "echo", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs",
    "modalities", "moderation", "n", "prediction", "presence_penalty", "reasoning_effort", "response_format",
    "seed", "service_tier", "store", "suffix", "tool_calls", "tool_choice", "tools", "top_logprobs",
    "verbosity", "web_search_options",
})  # fmt: skip
"""Fields that are known and take only a neutral value; the error says that they are not supported."""

Zero = Annotated[float, Field(ge=0, le=0)]
EmptyList = Annotated[list[Any], Field(max_length=0)]
EmptyObject = Annotated[dict[str, Any], Field(max_length=0)]


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


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class ChatMessage(_Strict):
    """Be one turn. What an assistant's message carries besides its text may be there, empty."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: None = None
    refusal: None = None
    annotations: EmptyList | None = None
    audio: None = None
    function_call: None = None
    tool_calls: EmptyList | None = None

    def to_message(self) -> Message:
        """Return the turn; `developer` is OpenAI's newer word for `system`."""
        return Message("system" if self.role == "developer" else self.role, self.content)


class TextFormat(_Strict):
    """Ask for text, which is all there is."""

    type: Literal["text"]


class StreamOptions(_Strict):
    """Say what a stream carries besides text."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class _GenerationFields(_Strict):
    """Hold what both endpoints take."""

    model: Annotated[str, Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    stop: Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    # Harmless: they concern accounts that we do not have, or say what is so anyway.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    # Not supported: they take only what changes nothing.
    n: Literal[1] | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    logit_bias: EmptyObject | None = None
    seed: None = None

    @property
    def sampling(self) -> Sampling:
        """Return the sampling, with the API's defaults."""
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
        )

    @property
    def has_usage_in_stream(self) -> bool:
        """Return whether a stream ends with the count."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatCompletionRequest(_GenerationFields):
    """Be the body of `POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    parallel_tool_calls: bool | None = None

    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    response_format: TextFormat | None = None
    tools: EmptyList | None = None
    tool_choice: Literal["none", "auto"] | None = None
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


class CompletionRequest(_GenerationFields):
    """Be the body of `POST /v1/completions`."""

    prompt: str | list[int] | Annotated[list[str], Field(min_length=1, max_length=1)]

    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    logprobs: None = None
    suffix: None = None


def describe_error(error: dict[str, Any]) -> tuple[str, str | None, str | None]:
    """Turn one of pydantic's errors into a message, the field's path and OpenAI's code."""
    path = tuple(part for part in error["loc"] if part != "body")
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
