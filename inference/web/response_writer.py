"""Turn the text deltas of an answer into the API's JSON objects, whole or as the events of a stream.

No input or output happens here. `responses` has the objects' types.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from inference.service.logprobs import MIN_LOGPROB
from inference.web.event_stream import DONE, HEARTBEAT, encode_event, encode_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inference.errors import ApiError
    from inference.service.logprobs import Logprob, LogprobEntry, PromptLogprobs
    from inference.service.model_names import ListedModel
    from inference.service.requests import TextDelta, TextRequest, Usage
    from inference.text.tools import ToolCall
    from inference.web import responses


class ChoiceBuffer:
    """One choice of an answer that is not streamed; complete when its last delta has been added."""

    def __init__(self) -> None:
        self.text = ""
        self.reasoning = ""
        self.token_ids: list[int] = []
        self.prompt_token_ids: tuple[int, ...] | None = None
        self.prompt_logprobs: PromptLogprobs | None = None
        self.mean_logprob = 0.0
        self.calls: list[ToolCall] = []
        self.logprobs: list[LogprobEntry] = []
        self.finish_reason: responses.FinishReason = "stop"
        self.stop: str | None = None

    def add(self, delta: TextDelta) -> None:
        """Append a delta."""
        self.text += delta.text
        self.reasoning += delta.reasoning
        self.token_ids += delta.token_ids
        self.prompt_token_ids = self.prompt_token_ids or delta.prompt_token_ids
        self.prompt_logprobs = self.prompt_logprobs or delta.prompt_logprobs
        self.mean_logprob = self.mean_logprob if delta.mean_logprob is None else delta.mean_logprob
        self.calls += (call for _, call in delta.calls)
        self.logprobs += delta.logprobs
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.stop = delta.stop


def select_best(choices: Sequence[ChoiceBuffer], generated: int, count: int) -> list[ChoiceBuffer]:
    """Return the choices of each prompt whose tokens are the likeliest on average, the best first.

    Args:
        choices: The choices of all prompts.
        generated: How many there are of each prompt.
        count: How many of them to return.

    Source: OpenAI API reference, "Create completion", `best_of`.
    """
    prompts = [choices[begin : begin + generated] for begin in range(0, len(choices), generated)]
    ranked = (sorted(prompt, key=lambda choice: choice.mean_logprob, reverse=True) for prompt in prompts)
    return [choice for prompt in ranked for choice in prompt[:count]]


class ResponseWriter(ABC):
    """The writer of one answer; each endpoint has a subclass with its objects.

    The usage that comes with a delta is that so far.
    """

    heartbeat: ClassVar[bytes] = HEARTBEAT

    @abstractmethod
    def response(self, choices: Sequence[ChoiceBuffer], usage: Usage) -> Mapping[str, object]:
        """Return the body of an answer that is not streamed."""

    def opening(self, choices: int, usage: Usage) -> bytes:  # noqa: ARG002 - a chat's stream has some
        """Return the events that open a stream."""
        return b""

    @abstractmethod
    def delta(self, delta: TextDelta, usage: Usage) -> bytes:
        """Return the events of a delta."""

    @abstractmethod
    def closing(self, usage: Usage) -> bytes:
        """Return the events that end a stream."""

    def failure(self, error: ApiError) -> bytes:
        """Return the event that ends a stream with an error."""
        return encode_event(error.to_json())


class ChunkWriter(ResponseWriter):
    """The writer of an answer whose stream consists of chunks of the same kind.

    Args:
        request: The request, or the first of several that are answered together.
        has_usage: Whether a stream ends with a chunk that holds the usage.
        has_continuous_usage: Whether each chunk holds the usage so far.
    """

    id_prefix: ClassVar[str]
    chunk_name: ClassVar[str]

    def __init__(self, request: TextRequest, *, has_usage: bool, has_continuous_usage: bool = False) -> None:
        self._has_usage = has_usage
        self._has_continuous_usage = has_continuous_usage
        self._has_logprobs = request.top_logprobs is not None
        self._has_token_ids = request.returns_token_ids
        self._head: responses.ResponseHead = {
            "id": self.id_prefix + request.request_id,
            "created": int(time.time()),
            "model": request.model,
        }
        # The part that all events of a stream have in common is encoded once.
        chunk = {**self._head, "object": self.chunk_name, "choices": []}
        self._before = b"data: " + encode_json(chunk).removesuffix(b"]}")
        self._after = (b'],"usage":null}' if has_usage else b"]}") + b"\n\n"

    def closing(self, usage: Usage) -> bytes:
        """Return the events that end a stream."""
        if not self._has_usage:
            return DONE
        document = {**self._head, "object": self.chunk_name, "choices": [], "usage": usage_object(usage)}
        return encode_event(document) + DONE

    def _set_usage(self, usage: Usage) -> None:
        """Set the usage of the next events, if each of them has it."""
        if self._has_continuous_usage:
            self._after = b'],"usage":' + encode_json(usage_object(usage)) + b"}\n\n"

    def _event(
        self,
        choice: responses.ChatChunkChoice | responses.CompletionChunkChoice,
        prompt_token_ids: Sequence[int] | None = None,
    ) -> bytes:
        """Return the event of a choice, with the prompt's token ids beside it if they are given."""
        after = self._after
        if prompt_token_ids is not None:
            beside = b'],"prompt_token_ids":' + json.dumps(list(prompt_token_ids)).encode()
            after = beside + self._after.removeprefix(b"]")
        return self._before + encode_json(choice) + after


class ChatResponseWriter(ChunkWriter):
    """The writer of an answer to `POST /v1/chat/completions`."""

    id_prefix = "chatcmpl-"
    chunk_name = "chat.completion.chunk"

    def response(self, choices: Sequence[ChoiceBuffer], usage: Usage) -> responses.ChatCompletion:
        """Return the body of an answer that is not streamed."""
        document: responses.ChatCompletion = {
            "id": self._head["id"],
            "created": self._head["created"],
            "model": self._head["model"],
            "object": "chat.completion",
            "choices": [self._choice(index, choice) for index, choice in enumerate(choices)],
            "usage": usage_object(usage),
        }
        if choices[0].prompt_token_ids is not None:
            document["prompt_token_ids"] = list(choices[0].prompt_token_ids)
        if choices[0].prompt_logprobs is not None:
            document["prompt_logprobs"] = prompt_logprobs_object(choices[0].prompt_logprobs)
        return document

    def opening(self, choices: int, usage: Usage) -> bytes:
        """Return the events with the role of each choice."""
        self._set_usage(usage)
        return b"".join(
            self._delta_event(index, {"role": "assistant", "content": ""}) for index in range(choices)
        )

    def delta(self, delta: TextDelta, usage: Usage) -> bytes:
        """Return the events of a delta: one each for reasoning, text, calls and the finish reason."""
        self._set_usage(usage)
        deltas: list[responses.ChatDelta] = []
        if delta.reasoning:
            deltas.append({"reasoning_content": delta.reasoning})
        if delta.text or (delta.logprobs and not delta.reasoning):
            deltas.append({"content": delta.text})
        if delta.calls:
            deltas.append(
                {"tool_calls": [{"index": index, **call_object(call)} for index, call in delta.calls]}
            )
        if delta.finish_reason:
            deltas.append({})
        choices: list[responses.ChatChunkChoice] = [
            {"index": delta.choice, "delta": each, "logprobs": None, "finish_reason": None} for each in deltas
        ]
        # The first event has what belongs to all of them.
        if delta.logprobs:
            choices[0]["logprobs"] = _chat_logprobs(delta.logprobs)
        if self._has_token_ids:
            choices[0]["token_ids"] = list(delta.token_ids)
        choices[-1]["finish_reason"] = delta.finish_reason
        first, *others = choices
        return self._event(first, delta.prompt_token_ids) + b"".join(map(self._event, others))

    def _choice(self, index: int, choice: ChoiceBuffer) -> responses.ChatChoice:
        content = choice.text if choice.text or not choice.calls else None
        message: responses.AssistantMessage = {"role": "assistant", "content": content, "refusal": None}
        if choice.reasoning:
            message["reasoning_content"] = choice.reasoning
        if choice.calls:
            message["tool_calls"] = [call_object(call) for call in choice.calls]
        document: responses.ChatChoice = {
            "index": index,
            "message": message,
            "logprobs": _chat_logprobs(choice.logprobs) if self._has_logprobs else None,
            "finish_reason": choice.finish_reason,
        }
        if self._has_token_ids:
            document["token_ids"] = choice.token_ids
        return document

    def _delta_event(self, index: int, delta: responses.ChatDelta) -> bytes:
        return self._event({"index": index, "delta": delta, "logprobs": None, "finish_reason": None})


class CompletionResponseWriter(ChunkWriter):
    """The writer of an answer to `POST /v1/completions`."""

    id_prefix = "cmpl-"
    chunk_name = "text_completion"

    def response(self, choices: Sequence[ChoiceBuffer], usage: Usage) -> responses.Completion:
        """Return the body of an answer that is not streamed."""
        return {
            **self._head,
            "object": "text_completion",
            "choices": [self._choice(index, choice) for index, choice in enumerate(choices)],
            "usage": usage_object(usage),
        }

    def delta(self, delta: TextDelta, usage: Usage) -> bytes:
        """Return the event of a delta."""
        self._set_usage(usage)
        logprobs = _completion_logprobs(delta.logprobs) if delta.logprobs else None
        choice: responses.CompletionChunkChoice = {
            "index": delta.choice,
            "text": delta.text,
            "logprobs": logprobs,
            "finish_reason": delta.finish_reason,
        }
        if self._has_token_ids:
            choice["token_ids"] = list(delta.token_ids)
        if delta.prompt_token_ids is not None:
            choice["prompt_token_ids"] = list(delta.prompt_token_ids)
        return self._event(choice)

    def _choice(self, index: int, choice: ChoiceBuffer) -> responses.CompletionChoice:
        document: responses.CompletionChoice = {
            "index": index,
            "text": choice.text,
            "logprobs": _completion_logprobs(choice.logprobs) if self._has_logprobs else None,
            "finish_reason": choice.finish_reason,
        }
        if self._has_token_ids:
            document["prompt_token_ids"] = list(choice.prompt_token_ids or ())
            document["token_ids"] = choice.token_ids
        if choice.prompt_logprobs is not None:
            document["prompt_logprobs"] = prompt_logprobs_object(choice.prompt_logprobs)
        return document


def model_object(listed: ListedModel, context_tokens: int) -> responses.Model:
    """Return the object of a model, whose context has that many tokens, prompt and answer together."""
    model = listed.model
    document: responses.Model = {
        "id": listed.name,
        "object": "model",
        "created": model.created,
        "owned_by": "fjarr",
        "parent": model.parent,
        "root": model.parent or model.name,
        "max_model_len": context_tokens,
    }
    if listed.version is not None:
        document["version"] = listed.version
    return document


def usage_object(usage: Usage) -> responses.Usage:
    """Return the object of token counts."""
    document: responses.Usage = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    if usage.reasoning_tokens:
        document["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return document


def call_object(call: ToolCall) -> responses.ToolCall:
    """Return the object of a call."""
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _chat_logprobs(entries: Sequence[LogprobEntry]) -> responses.ChatLogprobs:
    return {"content": [token_logprob_object(entry) for entry in entries], "refusal": None}


def _completion_logprobs(entries: Sequence[LogprobEntry]) -> responses.CompletionLogprobs:
    return {
        "tokens": [entry.chosen.token.text for entry in entries],
        "token_logprobs": [entry.chosen.logprob for entry in entries],
        "top_logprobs": [_logprobs_by_text(entry) for entry in entries],
        "text_offset": [entry.offset for entry in entries],
    }


def token_logprob_object(entry: LogprobEntry) -> responses.TokenLogprob:
    """Return the object of a token of an answer."""
    return {
        **logprob_object(entry.chosen),
        "top_logprobs": [logprob_object(each) for each in entry.top],
    }


def logprob_object(logprob: Logprob) -> responses.TopLogprob:
    """Return the object of a token's log-probability."""
    token = logprob.token
    return {
        "token": token.text,
        "logprob": MIN_LOGPROB if logprob.logprob is None else logprob.logprob,
        "bytes": None if token.data is None else list(token.data),
    }


def _logprobs_by_text(entry: LogprobEntry) -> dict[str, float] | None:
    """Return the log-probabilities of the likeliest tokens and the chosen one; of equal texts, the higher.

    None for the first token of a prompt, which nothing comes before.
    """
    found: dict[str, float] = {}
    for each in (*entry.top, entry.chosen):
        if each.logprob is not None:
            found.setdefault(each.token.text, each.logprob)
    return found or None


def prompt_logprobs_object(logprobs: PromptLogprobs) -> responses.PromptLogprobs:
    """Return what vLLM has for a prompt: for each token, log-probabilities by token id; null for the first.

    Source: vLLM, `PromptLogprobs` in `logprobs.py`.
    """
    return [
        {
            str(each.token_id): {
                "logprob": each.logprob,
                "rank": each.rank,
                "decoded_token": each.token.text,
            }
            for each in place
        }
        or None
        for place in logprobs
    ]
