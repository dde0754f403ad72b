"""The values of the service: text requests and prompts, limits, usage, and the deltas of an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from inference.engines.protocol import FinishReason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference.engines.protocol import Sampling
    from inference.service.logprobs import LogprobEntry
    from inference.text.codec import Message
    from inference.text.tools import ToolCall, ToolUse

TextFinishReason = FinishReason | Literal["tool_calls"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits on every request. `Settings` documents each."""

    max_concurrent: int | None = None
    max_waiting: int = 128
    max_new_tokens: int = 1024
    request_timeout_s: float = 230.0
    max_per_key: int | None = None


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation, ready for the chat template."""

    messages: tuple[Message, ...]
    param: ClassVar[str] = "messages"


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Plain text, to which no chat template is applied."""

    text: str
    param: ClassVar[str] = "prompt"


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids, passed to the engine unchanged."""

    token_ids: tuple[int, ...]
    param: ClassVar[str] = "prompt"


Prompt = ChatPrompt | TextPrompt | TokenPrompt
"""A prompt. `param` is the API field that it comes from, for error messages."""


@dataclass(frozen=True, slots=True)
class JsonShape:
    """The requirement that an answer be JSON.

    Attributes:
        schema: The JSON Schema that it must follow.
        param: The API field that the schema comes from.
    """

    schema: Mapping[str, Any]
    param: str


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A request for text.

    Attributes:
        max_new_tokens: None means the server's default, or what the context leaves if that is less.
        stops: Strings at which the answer ends; they are not part of it.
        length_param: The API field to name when prompt and answer do not fit the context together; None
            shortens the answer to what fits.
        choices: The number of answers.
        top_logprobs: How many of the likeliest tokens to list at each position, beside the generated one;
            None lists no log-probabilities.
        shape: What the text must be; None leaves it free.
        tool_use: The tools that the model may call; None for none.
        client: The name of the API key.
    """

    request_id: str
    model: str
    prompt: Prompt
    max_new_tokens: int | None
    sampling: Sampling
    stops: tuple[str, ...] = ()
    length_param: str | None = None
    choices: int = 1
    top_logprobs: int | None = None
    shape: JsonShape | None = None
    tool_use: ToolUse | None = None
    client: str = "-"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts. The token that ends an answer counts as one of the completion's."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text of one choice.

    Attributes:
        finish_reason: Set on the choice's last delta.
        choice: The index of the choice, from 0.
        calls: New tool calls, each with its index within the choice.
        logprobs: One entry for each token of the text, if the request asked for them.
    """

    text: str
    finish_reason: TextFinishReason | None = None
    choice: int = 0
    calls: tuple[tuple[int, ToolCall], ...] = ()
    logprobs: tuple[LogprobEntry, ...] = ()
