"""The JSON objects that `/v1/responses` sends: to build them, to check them and to document them.

Source: OpenAI API reference, "The response object" and "Streaming events"; the official client's
`types/responses`.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # comes with pydantic, which reads no other before Python 3.12

from inference.web.responses import Count, TokenLogprob  # noqa: TC001 - pydantic reads the types

Status = Literal["in_progress", "completed", "incomplete"]


class OutputText(TypedDict):
    """The text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[TokenLogprob]


class ReasoningText(TypedDict):
    """The text of the reasoning."""

    type: Literal["reasoning_text"]
    text: str


class OutputMessage(TypedDict):
    """The model's message."""

    id: str
    type: Literal["message"]
    status: Status
    role: Literal["assistant"]
    content: list[OutputText]


class OutputReasoning(TypedDict):
    """What the model reasoned before its message; there are no summaries."""

    id: str
    type: Literal["reasoning"]
    status: Status
    summary: list[Any]
    content: list[ReasoningText]


class OutputCall(TypedDict):
    """A call that the model makes; the result goes back with its `call_id`."""

    id: str
    type: Literal["function_call"]
    status: Status
    call_id: str
    name: str
    arguments: str


OutputItem = OutputMessage | OutputReasoning | OutputCall


class InputTokensDetails(TypedDict):
    """How many tokens of the input were in a cache that is billed apart: none."""

    cached_tokens: Count
    cache_write_tokens: Count


class OutputTokensDetails(TypedDict):
    """How many tokens of the output are reasoning."""

    reasoning_tokens: Count


class ResponseUsage(TypedDict):
    """The numbers of tokens of a response."""

    input_tokens: Count
    input_tokens_details: InputTokensDetails
    output_tokens: Count
    output_tokens_details: OutputTokensDetails
    total_tokens: Count


class ResponseFailure(TypedDict):
    """Why a response failed."""

    code: Literal["server_error"]
    message: str


class IncompleteDetails(TypedDict):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class ResponseDocument(TypedDict):
    """A response. What the request set is repeated."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: Literal[False]
    error: ResponseFailure | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: Literal[False]
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None
    metadata: dict[str, Any]


class ResponseEvent(TypedDict):
    """An event of a streamed response; its type decides which fields there are."""

    type: str
    sequence_number: Count
    response: NotRequired[ResponseDocument]
    output_index: NotRequired[Count]
    item: NotRequired[OutputItem]
    item_id: NotRequired[str]
    content_index: NotRequired[Count]
    part: NotRequired[OutputText | ReasoningText]
    delta: NotRequired[str]
    text: NotRequired[str]
    arguments: NotRequired[str]
    logprobs: NotRequired[list[TokenLogprob]]
