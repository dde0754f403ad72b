"""Turn the text deltas of an answer into the API's JSON objects, whole or as the events of a stream.

No input or output happens here. `responses` has the objects' types.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from inference.web.event_stream import DONE, encode_event, encode_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inference.engines.protocol import ServedModel
    from inference.service.logprobs import Logprob, LogprobEntry
    from inference.service.requests import TextDelta, TextRequest, Usage
    from inference.text.tools import ToolCall
    from inference.web import responses


class ChoiceBuffer:
    """One choice of an answer that is not streamed; complete when its last delta has been added."""

    def __init__(self) -> None:
        self.text = ""
        self.calls: list[ToolCall] = []
        self.logprobs: list[LogprobEntry] = []
        self.finish_reason: responses.FinishReason = "stop"

    def add(self, delta: TextDelta) -> None:
        """Append a delta."""
        self.text += delta.text
        self.calls += (call for _, call in delta.calls)
        self.logprobs += delta.logprobs
        self.finish_reason = delta.finish_reason or self.finish_reason


class ResponseWriter(ABC):
    """The writer of one answer; each endpoint has a subclass with its objects.

    Args:
        request: The request, or the first of several that are answered together.
        has_usage: Whether a stream ends with a chunk that holds the usage.
    """

    id_prefix: ClassVar[str]
    chunk_name: ClassVar[str]

    def __init__(self, request: TextRequest, *, has_usage: bool) -> None:
        self._has_usage = has_usage
        self._has_logprobs = request.top_logprobs is not None
        self._head: responses.ResponseHead = {
            "id": self.id_prefix + request.request_id,
            "created": int(time.time()),
            "model": request.model,
        }
        # The part that all events of a stream have in common is encoded once.
        chunk = {**self._head, "object": self.chunk_name, "choices": []}
        self._before = b"data: " + encode_json(chunk).removesuffix(b"]}")
        self._after = (b'],"usage":null}' if has_usage else b"]}") + b"\n\n"

    @abstractmethod
    def response(self, choices: Sequence[ChoiceBuffer], usage: Usage) -> Mapping[str, object]:
        """Return the body of an answer that is not streamed."""

    def opening(self, choices: int) -> bytes:  # noqa: ARG002 - a chat's stream has some
        """Return the events that open a stream."""
        return b""

    @abstractmethod
    def delta(self, delta: TextDelta) -> bytes:
        """Return the events of a delta."""

    def closing(self, usage: Usage) -> bytes:
        """Return the events that end a stream."""
        if not self._has_usage:
            return DONE
        document = {**self._head, "object": self.chunk_name, "choices": [], "usage": _usage_object(usage)}
        return encode_event(document) + DONE

    def _event(self, choice: responses.ChatChunkChoice | responses.CompletionChunkChoice) -> bytes:
        return self._before + encode_json(choice) + self._after


class ChatResponseWriter(ResponseWriter):
    """The writer of an answer to `POST /v1/chat/completions`."""

    id_prefix = "chatcmpl-"
    chunk_name = "chat.completion.chunk"

    def response(self, choices: Sequence[ChoiceBuffer], usage: Usage) -> responses.ChatCompletion:
        """Return the body of an answer that is not streamed."""
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [self._choice(index, choice) for index, choice in enumerate(choices)],
            "usage": _usage_object(usage),
        }

    def opening(self, choices: int) -> bytes:
        """Return the events with the role of each choice."""
        return b"".join(
            self._delta_event(index, {"role": "assistant", "content": ""}) for index in range(choices)
        )

    def delta(self, delta: TextDelta) -> bytes:
        """Return the events of a delta: one each for the text, the calls and the finish reason."""
        events = b""
        if delta.text or delta.logprobs:
            logprobs = _chat_logprobs(delta.logprobs) if delta.logprobs else None
            events = self._delta_event(delta.choice, {"content": delta.text}, logprobs=logprobs)
        if delta.calls:
            calls: list[responses.ToolCallDelta] = [
                {"index": index, **_call_object(call)} for index, call in delta.calls
            ]
            events += self._delta_event(delta.choice, {"tool_calls": calls})
        if delta.finish_reason:
            events += self._delta_event(delta.choice, {}, delta.finish_reason)
        return events

    def _choice(self, index: int, choice: ChoiceBuffer) -> responses.ChatChoice:
        content = choice.text if choice.text or not choice.calls else None
        message: responses.AssistantMessage = {"role": "assistant", "content": content, "refusal": None}
        if choice.calls:
            message["tool_calls"] = [_call_object(call) for call in choice.calls]
        return {
            "index": index,
            "message": message,
            "logprobs": _chat_logprobs(choice.logprobs) if self._has_logprobs else None,
            "finish_reason": choice.finish_reason,
        }

    def _delta_event(
        self,
        index: int,
        delta: responses.ChatDelta,
        finish_reason: responses.FinishReason | None = None,
        logprobs: responses.ChatLogprobs | None = None,
    ) -> bytes:
        return self._event(
            {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        )


class CompletionResponseWriter(ResponseWriter):
    """The writer of an answer to `POST /v1/completions`."""

    id_prefix = "cmpl-"
    chunk_name = "text_completion"

    def response(self, choices: Sequence[ChoiceBuffer], usage: Usage) -> responses.Completion:
        """Return the body of an answer that is not streamed."""
        return {
            **self._head,
            "object": "text_completion",
            "choices": [self._choice(index, choice) for index, choice in enumerate(choices)],
            "usage": _usage_object(usage),
        }

    def delta(self, delta: TextDelta) -> bytes:
        """Return the event of a delta."""
        logprobs = _completion_logprobs(delta.logprobs) if delta.logprobs else None
        return self._event(
            {
                "index": delta.choice,
                "text": delta.text,
                "logprobs": logprobs,
                "finish_reason": delta.finish_reason,
            }
        )

    def _choice(self, index: int, choice: ChoiceBuffer) -> responses.CompletionChoice:
        return {
            "index": index,
            "text": choice.text,
            "logprobs": _completion_logprobs(choice.logprobs) if self._has_logprobs else None,
            "finish_reason": choice.finish_reason,
        }


def model_object(model: ServedModel) -> responses.Model:
    """Return the object of a model."""
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "fjarr",
        "parent": model.parent,
        "root": model.parent or model.name,
    }


def _usage_object(usage: Usage) -> responses.Usage:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _call_object(call: ToolCall) -> responses.ToolCall:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _chat_logprobs(entries: Sequence[LogprobEntry]) -> responses.ChatLogprobs:
    return {"content": [_entry_object(entry) for entry in entries], "refusal": None}


def _completion_logprobs(entries: Sequence[LogprobEntry]) -> responses.CompletionLogprobs:
    return {
        "tokens": [entry.chosen.token.text for entry in entries],
        "token_logprobs": [entry.chosen.logprob for entry in entries],
        "top_logprobs": [_logprobs_by_text(entry) for entry in entries],
        "text_offset": [entry.offset for entry in entries],
    }


def _entry_object(entry: LogprobEntry) -> responses.TokenLogprob:
    return {
        **_logprob_object(entry.chosen),
        "top_logprobs": [_logprob_object(each) for each in entry.top],
    }


def _logprob_object(logprob: Logprob) -> responses.TopLogprob:
    token = logprob.token
    return {
        "token": token.text,
        "logprob": logprob.logprob,
        "bytes": None if token.data is None else list(token.data),
    }


def _logprobs_by_text(entry: LogprobEntry) -> dict[str, float]:
    """Return the log-probabilities of the likeliest tokens and the chosen one; of equal texts, the higher."""
    found: dict[str, float] = {}
    for each in (*entry.top, entry.chosen):
        found.setdefault(each.token.text, each.logprob)
    return found
