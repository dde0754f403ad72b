"""Write an answer as a message of Anthropic's API, whole or as the events of a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.service.requests import TextDelta
from inference.web.event_stream import encode_event
from inference.web.messages_api.content import ContentBuilder
from inference.web.messages_api.errors import messages_error
from inference.web.response_writer import ChoiceBuffer, ResponseWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.errors import ApiError
    from inference.service.requests import TextFinishReason, TextRequest, Usage
    from inference.web.messages_api.content import Event
    from inference.web.messages_api.documents import MessageDocument, MessageUsage, StopReason


class MessagesWriter(ResponseWriter):
    """The writer of an answer to `POST /v1/messages`.

    Args:
        request: The request for the service.
        max_tokens: The most tokens that the client wants.
    """

    heartbeat = encode_event({"type": "ping"}, "ping")

    def __init__(self, request: TextRequest, max_tokens: int) -> None:
        self._request_id = request.request_id
        self._model = request.model
        self._max_tokens = max_tokens
        self._content = ContentBuilder()
        self._finish_reason: TextFinishReason | None = None
        self._stop_sequence: str | None = None

    def response(self, choices: Sequence[ChoiceBuffer], usage: Usage) -> MessageDocument:
        """Return the body of an answer that is not streamed."""
        choice = choices[0]
        self._add(
            TextDelta(
                choice.text,
                choice.finish_reason,
                calls=tuple(enumerate(choice.calls)),
                reasoning=choice.reasoning,
                stop=choice.stop,
            )
        )
        document = self._document(usage)
        document["stop_reason"] = self._stop_reason(usage)
        document["stop_sequence"] = self._stop_sequence
        return document

    def opening(self, choices: int, usage: Usage) -> bytes:
        """Return the event that opens a stream."""
        del choices
        return _encode({"type": "message_start", "message": self._document(usage)})

    def delta(self, delta: TextDelta, usage: Usage) -> bytes:
        """Return the events of a delta."""
        del usage
        return _encode(*self._add(delta))

    def closing(self, usage: Usage) -> bytes:
        """Return the events that end a stream."""
        end = {"stop_reason": self._stop_reason(usage), "stop_sequence": self._stop_sequence}
        return _encode(
            *self._content.finish(),
            {"type": "message_delta", "delta": end, "usage": _usage_object(usage)},
            {"type": "message_stop"},
        )

    def failure(self, error: ApiError) -> bytes:
        """Return the event that ends a stream with an error."""
        return encode_event(messages_error(error, self._request_id), "error")

    def _add(self, delta: TextDelta) -> list[Event]:
        self._finish_reason = delta.finish_reason
        self._stop_sequence = delta.stop
        return self._content.add(delta)

    def _document(self, usage: Usage) -> MessageDocument:
        return {
            "id": "msg_" + self._request_id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": self._content.blocks,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage_object(usage),
        }

    def _stop_reason(self, usage: Usage) -> StopReason:
        match self._finish_reason:
            case "tool_calls":
                return "tool_use"
            case "length":
                # Otherwise the context was full before.
                is_as_wanted = usage.completion_tokens >= self._max_tokens
                return "max_tokens" if is_as_wanted else "model_context_window_exceeded"
            case _:
                return "end_turn" if self._stop_sequence is None else "stop_sequence"


def _encode(*events: Event) -> bytes:
    return b"".join(encode_event(event, event["type"]) for event in events)


def _usage_object(usage: Usage) -> MessageUsage:
    return {
        "input_tokens": usage.prompt_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": usage.completion_tokens,
    }
