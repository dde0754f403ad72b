"""The values of the service: text requests and prompts, limits, usage, and the deltas of an answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from inference.engines.protocol import FinishReason, Stopping
from inference.text.codec import TemplateOptions

if TYPE_CHECKING:
    from inference.engines.protocol import Sampling
    from inference.service.logprobs import LogprobEntry, PromptLogprobs
    from inference.text.codec import Message
    from inference.text.shapes import Shape
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
    """A conversation, ready for the chat template.

    Attributes:
        options: How the template is rendered.
        effort: How much the model is to reason, in OpenAI's words; None leaves it to the template.
        param: The API field that the messages come from, for error messages.
        effort_param: The same for `effort`.
        is_effort_optional: Whether an effort has no effect on a model whose template has no variable for it,
            instead of being an error.
    """

    messages: tuple[Message, ...]
    options: TemplateOptions = field(default_factory=TemplateOptions)
    effort: str | None = None
    param: str = "messages"
    effort_param: str = "reasoning_effort"
    is_effort_optional: bool = False


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Plain text, to which no chat template is applied.

    Attributes:
        has_special: Whether the model's special tokens are added, such as one for the beginning.
    """

    text: str
    has_special: bool = True
    param: ClassVar[str] = "prompt"


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids, passed to the engine unchanged."""

    token_ids: tuple[int, ...]
    param: ClassVar[str] = "prompt"


Prompt = ChatPrompt | TextPrompt | TokenPrompt
"""A prompt. `param` is the API field that it comes from, for error messages."""


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A request for text.

    Attributes:
        max_new_tokens: None means the server's default, or what the context leaves if that is less; 0 returns
            the prompt alone, with `echo`.
        stops: Strings at which the answer ends; they are not part of it.
        keeps_stop: The string or the token that ends an answer is a part of it.
        stopping: The tokens that end an answer.
        length_param: The API field to name when prompt and answer do not fit the context together; None
            shortens the answer to what fits.
        choices: The number of answers.
        top_logprobs: How many of the likeliest tokens to list at each position, beside the generated one;
            None lists no log-probabilities.
        best_of: The number of answers to generate, of which the `choices` likeliest are returned; None
            generates no others.
        echo: The text begins with the prompt, and the log-probabilities with those of its tokens.
        prompt_logprobs: How many of the likeliest tokens to list in the place of each of the prompt's, beside
            it; None lists no log-probabilities of the prompt.
        returns_token_ids: The deltas have the token ids of prompt and answer.
        hides_reasoning: The reasoning is left out.
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
    keeps_stop: bool = False
    stopping: Stopping = field(default_factory=Stopping)
    length_param: str | None = None
    choices: int = 1
    top_logprobs: int | None = None
    best_of: int | None = None
    echo: bool = False
    prompt_logprobs: int | None = None
    returns_token_ids: bool = False
    hides_reasoning: bool = False
    shape: Shape | None = None
    tool_use: ToolUse | None = None
    client: str = "-"

    @property
    def generated_choices(self) -> int:
        """Return how many answers are generated."""
        return self.best_of or self.choices


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts. The token that ends an answer counts as one of the completion's.

    Attributes:
        reasoning_tokens: How many of the completion's tokens are reasoning.
    """

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text of one choice.

    Attributes:
        finish_reason: Set on the choice's last delta.
        choice: The index of the choice, from 0.
        calls: New tool calls, each with its index within the choice.
        logprobs: One entry for each token of the text, if the request asked for them.
        reasoning: New text of the reasoning, which comes before the answer.
        token_ids: The tokens since the last delta, if the request asked for them.
        prompt_token_ids: Those of the prompt, in the first delta of a choice, if the request asked for them.
        prompt_logprobs: Those of the prompt, in the first delta of a choice, if the request asked for them.
        mean_logprob: That of all tokens of the choice, in the last delta, if the best are to be chosen.
        stop: The stop string that ended the choice, in the last delta, if one did.
    """

    text: str
    finish_reason: TextFinishReason | None = None
    choice: int = 0
    calls: tuple[tuple[int, ToolCall], ...] = ()
    logprobs: tuple[LogprobEntry, ...] = ()
    reasoning: str = ""
    token_ids: tuple[int, ...] = ()
    prompt_token_ids: tuple[int, ...] | None = None
    prompt_logprobs: PromptLogprobs | None = None
    mean_logprob: float | None = None
    stop: str | None = None

    @property
    def is_empty(self) -> bool:
        """Return whether it adds nothing that a client can see."""
        return not (self.text or self.reasoning or self.calls or self.finish_reason)
