"""The JSON objects that `/v1` sends, written once: to build them, to check them and to document them.

They are typed dictionaries rather than models. The writer builds plain dictionaries, which mypy checks
against these types and which cost nothing to validate while tokens are streamed; FastAPI reads the same types
for the OpenAPI document. The order of the fields is the order in which they are sent.

Source: OpenAI API reference, "The chat completion object", "The chat completion chunk object", "The
completion object", "The model object".
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # comes with pydantic, which reads no other before Python 3.12

Count = Annotated[int, Field(ge=0)]


@with_config(ConfigDict(extra="forbid"))
class ErrorDetail(TypedDict):
    """What is wrong with a request.

    `param` is the path of the field that caused the error.
    """

    message: Annotated[str, Field(min_length=1)]
    type: Literal["invalid_request_error", "requests", "server_error"]
    param: str | None
    code: str | None


@with_config(ConfigDict(extra="forbid"))
class Error(TypedDict):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class Model(TypedDict):
    """A model: the base, or an adapter, whose `parent` is the base.

    The bare name of an adapter has the number of its current version for its `version`.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None
    root: str
    max_model_len: Count
    version: NotRequired[Count]


class FailedAdapter(TypedDict):
    """An adapter that is not served."""

    id: str
    reason: str


class ModelList(TypedDict):
    """The models that are served, and the adapters that cannot be, if there are any."""

    object: Literal["list"]
    data: list[Model]
    failed_adapters: NotRequired[list[FailedAdapter]]


class CompletionTokensDetails(TypedDict):
    """How many of the completion's tokens are reasoning."""

    reasoning_tokens: Count


class Usage(TypedDict):
    """The numbers of tokens of a request."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    completion_tokens_details: NotRequired[CompletionTokensDetails]


class FunctionCall(TypedDict):
    """A function's name and its arguments, a JSON object as text."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A call that the model makes."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class ToolCallDelta(ToolCall):
    """A call in a stream, sent in one piece."""

    index: Count


class TopLogprob(TypedDict):
    """A token and its log-probability; `bytes` is null for a special token."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of the answer, and the likeliest tokens in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """The log-probabilities of the tokens of a message."""

    content: list[TokenLogprob]
    refusal: None


class CompletionLogprobs(TypedDict):
    """The log-probabilities of the tokens of a text, as lists of the same length.

    With `echo` they begin with the prompt's; its first token has none.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[Count]


class PromptLogprob(TypedDict):
    """The log-probability of a token in one place of a prompt; `rank` is its place among all, from 1."""

    logprob: float
    rank: Count | None
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""One for each token of a prompt, by token id: the token itself, and the likeliest; null for the first."""

FinishReason = Literal["stop", "length", "tool_calls"]


class AssistantMessage(TypedDict):
    """The model's message; `content` is null if it only calls tools."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCall]]


class ChatChoice(TypedDict):
    """One of the answers to a conversation."""

    index: Count
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    token_ids: NotRequired[list[Count]]


class CompletionChoice(TypedDict):
    """One of the continuations of a text."""

    index: Count
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason
    prompt_token_ids: NotRequired[list[Count]]
    token_ids: NotRequired[list[Count]]
    prompt_logprobs: NotRequired[PromptLogprobs]


class ChatDelta(TypedDict):
    """What a chunk adds to a message."""

    role: NotRequired[Literal["assistant"]]
    reasoning_content: NotRequired[str]
    content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCallDelta]]


class ChatChunkChoice(TypedDict):
    """What a chunk adds to one of the answers."""

    index: Count
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    token_ids: NotRequired[list[Count]]


class CompletionChunkChoice(TypedDict):
    """What a chunk adds to one of the continuations."""

    index: Count
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None
    prompt_token_ids: NotRequired[list[Count]]
    token_ids: NotRequired[list[Count]]


class ResponseHead(TypedDict):
    """The fields that all answers, and all chunks of one stream, have in common."""

    id: str
    created: int
    model: str


class ChatCompletion(ResponseHead):
    """The answer to a conversation."""

    object: Literal["chat.completion"]
    choices: Annotated[list[ChatChoice], Field(min_length=1)]
    usage: Usage
    prompt_token_ids: NotRequired[list[Count]]
    prompt_logprobs: NotRequired[PromptLogprobs]


class Completion(ResponseHead):
    """The continuation of a text."""

    object: Literal["text_completion"]
    choices: Annotated[list[CompletionChoice], Field(min_length=1)]
    usage: Usage


class ChatCompletionChunk(ResponseHead):
    """An event of a streamed answer; the last one may have no choices and the usage."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    prompt_token_ids: NotRequired[list[Count]]
    usage: NotRequired[Usage | None]


class CompletionChunk(ResponseHead):
    """An event of a streamed continuation; the last one may have no choices and the usage."""

    object: Literal["text_completion"]
    choices: list[CompletionChunkChoice]
    usage: NotRequired[Usage | None]
