"""The bodies of requests to `/v1`, validated strictly: unknown and unsupported fields are rejected by name.

The fields are those of OpenAI's API, and more of vLLM's, which the official client sends through its
`extra_body`. A field that would change the answer and is not supported accepts only its
neutral value. A known field that does not change the answer is accepted, whatever its value.

Source: OpenAI API reference, "Create chat completion" and "Create completion"; vLLM, "OpenAI-Compatible
Server", "Extra parameters".
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from inference.engines.protocol import Sampling, Stopping
from inference.service.requests import ChatPrompt, TextPrompt, TextRequest, TokenPrompt
from inference.text.codec import TemplateOptions
from inference.text.tools import Tool, ToolUse
from inference.web.extensions.structured_outputs import ShapeFields
from inference.web.message_schemas import (
    ChatMessage,
    ChosenTools,
    Effort,
    EmptyList,
    FunctionTool,
    StrictModel,
    ToolChoice,
)

MAX_STOPS: Final = 16
MAX_CHOICES: Final = 16
MAX_BIASES: Final = 1024
MAX_TOOLS: Final = 128
MIN_REPETITION_PENALTY: Final = 0.01
"""A score is divided by the penalty: with much less it overflows in float32, and the answer is one token."""
MAX_CHAT_LOGPROBS: Final = 20
MAX_TEXT_LOGPROBS: Final = 5
MAX_STOP_TOKENS: Final = 1024
MAX_PROMPTS: Final = 2048
"""As in OpenAI's API. A server may give fewer answers at once, and then refuses more by itself."""
MAX_PROMPT_LOGPROBS: Final = 20
"""As in vLLM, whose default for the server is the same."""
DEFAULT_COMPLETION_TOKENS: Final = 16
"""The length of a completion without `max_tokens`. Source: OpenAI API reference, "Create completion"."""

UNSUPPORTED: Final = frozenset({
    "audio", "background", "compaction", "container", "context_management", "function_call", "functions",
    "mcp_servers", "modalities", "moderation", "suffix", "thread", "truncation", "use_beam_search",
    "verbosity", "web_search_options",
})  # fmt: skip
"""Fields that are known and accept only a neutral value; the error says that they are not supported."""

NOT_AN_OBJECT: Final = frozenset({"dict_type", "model_attributes_type", "model_type"})
"""Pydantic's errors whose messages are about Python's dictionaries and objects."""

SAMPLING_FIELDS: Final = tuple(field.name for field in fields(Sampling))
"""The fields of a body that become the `Sampling`; it has the same names for them, and the defaults."""

STOPPING_FIELDS: Final = tuple(field.name for field in fields(Stopping))
"""The fields of a body that become the `Stopping`, likewise."""


def _list_stops(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


def _require_content(stops: list[str]) -> list[str]:
    if not all(stops):
        raise PydanticCustomError("empty_stop", "a stop string must not be empty")
    return stops


def _to_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _read_top_k(top_k: int) -> int:
    """Replace -1, which vLLM's API has for all tokens, by the 0 that `Sampling` has for them.

    A number that no vocabulary reaches is lowered to one that fits into 32 bits, as the engines keep it.
    """
    return min(max(0, top_k), 2**31 - 1)


def _read_biases(biases: dict[str, float]) -> tuple[tuple[int, float], ...]:
    """Return the pairs that `Sampling` has."""
    if not all(key.isdecimal() and key.isascii() for key in biases):
        raise PydanticCustomError("bias_key", "the keys are token ids, such as '50256'")
    return tuple((int(key), bias) for key, bias in biases.items())


def _read_prompts(prompt: object) -> tuple[TextPrompt, ...] | tuple[TokenPrompt, ...]:
    """Turn each of the four forms of a prompt into a list of prompts."""
    prompts: list[Any] = prompt if isinstance(prompt, list) else [prompt]
    if len(prompts) > MAX_PROMPTS and not _is_token(prompts[0]):
        raise PydanticCustomError("prompts", "a request has at most {most} prompts", {"most": MAX_PROMPTS})
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


Penalty = Annotated[float, Field(ge=-2, le=2)]
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
LogitBias = Annotated[
    dict[str, Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=MAX_BIASES),
    AfterValidator(_read_biases),
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


class StreamOptions(StrictModel):
    """The options of a stream."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class SamplingFields(StrictModel):
    """The fields of all endpoints that decide how an answer is sampled and where it ends."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1), AfterValidator(_read_top_k)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=MIN_REPETITION_PENALTY, le=10)] | None = None
    logit_bias: LogitBias | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stops | None = None
    include_stop_str_in_output: bool | None = None
    stop_token_ids: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_to_tuple), Field(max_length=MAX_STOP_TOKENS)
    ] | None = None  # fmt: skip
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None

    # Without effect: they concern OpenAI's accounts, storage, caches and speed, and vLLM's.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    safety_identifier: str | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    cache_salt: str | None = None
    priority: int | None = None

    @property
    def sampling_options(self) -> dict[str, Any]:
        """Return the fields of the service's request that come from these."""
        return {
            "sampling": Sampling(**self._values(SAMPLING_FIELDS)),
            "stopping": Stopping(**self._values(STOPPING_FIELDS)),
            "stops": tuple(self.stop or ()),
            "keeps_stop": bool(self.include_stop_str_in_output),
        }

    def _values(self, names: tuple[str, ...]) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}


class _GenerationFields(SamplingFields, ShapeFields):
    """The fields of both endpoints for completions."""

    model: Annotated[str, Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_PROMPT_LOGPROBS)] | None = None
    return_token_ids: bool | None = None
    add_special_tokens: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    use_beam_search: Literal[False] | None = None
    skip_special_tokens: Literal[True] | None = None
    spaces_between_special_tokens: Literal[True] | None = None

    @model_validator(mode="after")
    def _check_stream_fields(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise wrong("stream_options", "it goes with 'stream': true")
        if self.prompt_logprobs is not None and self.stream:
            raise wrong("prompt_logprobs", "it is not available with 'stream': true")
        return self

    @property
    def has_usage_in_stream(self) -> bool:
        """Return whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def has_continuous_usage(self) -> bool:
        """Return whether each event of a stream has the usage so far."""
        options = self.stream_options
        return options is not None and self.has_usage_in_stream and bool(options.continuous_usage_stats)

    @property
    def _shared(self) -> dict[str, Any]:
        """Return the fields of the service's request that come from fields of both endpoints."""
        return {
            **self.sampling_options,
            "model": self.model,
            "choices": self.n or 1,
            "shape": self.shape,
            "prompt_logprobs": self.prompt_logprobs,
            "returns_token_ids": bool(self.return_token_ids),
        }


class ChatCompletionRequest(_GenerationFields):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_CHAT_LOGPROBS)] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    include_reasoning: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    functions: EmptyList | None = None
    function_call: Literal["none", "auto"] | None = None
    modalities: list[Literal["text"]] | None = None
    audio: None = None
    verbosity: Literal["medium"] | None = None
    web_search_options: None = None
    moderation: None = None

    @model_validator(mode="after")
    def _check_dependent_fields(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise wrong("top_logprobs", "it goes with 'logprobs': true")
        check_tools([tool.function.name for tool in self.tools or ()], self.tool_choice)
        if self.continue_final_message and self.add_generation_prompt:
            raise wrong("continue_final_message", "it cannot be combined with 'add_generation_prompt'")
        return self

    def to_text_requests(self, request_id: str, client: str) -> tuple[TextRequest]:
        """Return the request for the service."""
        request = TextRequest(
            request_id=request_id,
            client=client,
            prompt=ChatPrompt(
                tuple(message.to_message() for message in self.messages),
                self._template_options,
                self.reasoning_effort,
            ),
            max_new_tokens=self.max_completion_tokens or self.max_tokens,
            length_param="max_completion_tokens" if self.max_completion_tokens else "max_tokens",
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            tool_use=self._tool_use,
            hides_reasoning=self.include_reasoning is False,
            **self._shared,
        )
        return (request,)

    @property
    def _template_options(self) -> TemplateOptions:
        continues_last = bool(self.continue_final_message)
        return TemplateOptions(
            is_answer_next=self.add_generation_prompt is not False and not continues_last,
            continues_last=continues_last,
            has_special=bool(self.add_special_tokens),
            variables=self.chat_template_kwargs or {},
        )

    @property
    def _tool_use(self) -> ToolUse | None:
        tools = tuple(tool.to_tool() for tool in self.tools or ())
        return make_tool_use(tools, self.tool_choice, is_parallel=self.parallel_tool_calls is not False)


class CompletionRequest(_GenerationFields):
    """The body of `POST /v1/completions`."""

    prompt: Prompts
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TEXT_LOGPROBS)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None

    suffix: None = None

    @model_validator(mode="after")
    def _check_dependent_fields(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise wrong("max_tokens", "it is at least 1, or 0 with 'echo': true")
        if self._best_of is not None and self._best_of < (self.n or 1):
            raise wrong("best_of", "it is at least 'n'")
        if self._best_of is not None and self.stream:
            raise wrong("best_of", "the best answers are known at the end, so they cannot be streamed")
        return self

    def to_text_requests(self, request_id: str, client: str) -> tuple[TextRequest, ...]:
        """Return the requests for the service, one for each prompt."""
        return tuple(
            TextRequest(
                request_id=request_id,
                client=client,
                prompt=replace(prompt, has_special=self.add_special_tokens is not False)
                if isinstance(prompt, TextPrompt)
                else prompt,
                max_new_tokens=DEFAULT_COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens,
                length_param="max_tokens",
                top_logprobs=self.logprobs,
                best_of=self._best_of,
                echo=bool(self.echo),
                **self._shared,
            )
            for prompt in self.prompt
        )

    @property
    def _best_of(self) -> int | None:
        """Return how many answers there are to choose from; None if all of them are returned."""
        return None if self.best_of == (self.n or 1) else self.best_of


def check_tools(names: list[str], choice: ChosenTools | None) -> None:
    """Check the names of the tools, and that the chosen ones are among them."""
    choice = choice or ChosenTools()
    if len(set(names)) < len(names):
        raise wrong("tools", "two functions have the same name")
    wanted = choice.allowed or (() if choice.only is None else (choice.only,))
    if not set(wanted) <= set(names):
        raise wrong("tool_choice", "there is no tool of this name")
    if choice.mode == "required" and not names:
        raise wrong("tool_choice", "there are no tools to choose from")


def make_tool_use(
    tools: tuple[Tool, ...], choice: ChosenTools | None, *, is_parallel: bool, **options: str
) -> ToolUse | None:
    """Return how the model may use the tools; None if it may not, or there are none.

    Args:
        tools: The functions.
        choice: The validated `tool_choice`.
        is_parallel: Whether an answer may have more than one call.
        options: Further fields of the result.
    """
    choice = choice or ChosenTools()
    if not tools or choice.mode == "none":
        return None
    return ToolUse(
        tools,
        choice.mode,
        only=choice.only,
        allowed=None if choice.allowed is None else frozenset(choice.allowed),
        is_parallel=is_parallel,
        **options,
    )


def wrong(field: str, message: Any) -> PydanticCustomError:  # noqa: ANN401 - pydantic wants a literal
    """Return the error of a validator of several fields, which names the field that is wrong."""
    return PydanticCustomError("wrong", message, {"field": field})


def describe_error(error: dict[str, Any]) -> tuple[str, str | None, str | None]:
    """Turn one of pydantic's errors into a message, the field's path and OpenAI's code."""
    # A validator of several fields reports no field in `loc`; its error names the field itself.
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
    message = "Input should be a JSON object" if kind in NOT_AN_OBJECT else error["msg"]
    return f"'{field}': {message}.", field, "invalid_value"


def _field_path(path: tuple[str | int, ...]) -> str:
    text = ""
    for part in path:
        # Pydantic adds the names of a union's branches, which are not part of the client's body.
        if isinstance(part, str) and not part.isidentifier():
            continue
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
