"""Write an answer as a response of OpenAI's Responses API, whole or as the events of a stream."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from inference.service.requests import TextDelta, Usage
from inference.web.event_stream import encode_event
from inference.web.response_writer import ChoiceBuffer, ResponseWriter, token_logprob_object
from inference.web.responses_api.output_items import OutputBuilder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.errors import ApiError
    from inference.service.requests import TextRequest
    from inference.web.message_schemas import ChosenTools
    from inference.web.responses_api.documents import ResponseDocument, ResponseFailure, ResponseUsage
    from inference.web.responses_api.output_items import Event
    from inference.web.responses_api.schemas import ResponseRequest


class ResponsesWriter(ResponseWriter):
    """The writer of an answer to `POST /v1/responses`.

    Args:
        body: The request's body.
        request: The request for the service.
    """

    def __init__(self, body: ResponseRequest, request: TextRequest) -> None:
        self._id = "resp_" + request.request_id
        self._created_at = int(time.time())
        self._body = body
        self._output = OutputBuilder()
        self._events_so_far = 0

    def response(self, choices: Sequence[ChoiceBuffer], usage: Usage) -> ResponseDocument:
        """Return the body of an answer that is not streamed."""
        choice = choices[0]
        calls = tuple(enumerate(choice.calls))
        logprobs = [token_logprob_object(entry) for entry in choice.logprobs]
        self._output.add(
            TextDelta(choice.text, choice.finish_reason, calls=calls, reasoning=choice.reasoning), logprobs
        )
        self._output.finish()
        return self._finished_document(usage)

    def opening(self, choices: int, usage: Usage) -> bytes:
        """Return the two events that open a stream."""
        del choices, usage
        document = self._document("in_progress")
        return self._encode(
            {"type": "response.created", "response": document},
            {"type": "response.in_progress", "response": document},
        )

    def delta(self, delta: TextDelta, usage: Usage) -> bytes:
        """Return the events of a delta."""
        del usage
        logprobs = [token_logprob_object(entry) for entry in delta.logprobs]
        return self._encode(*self._output.add(delta, logprobs))

    def closing(self, usage: Usage) -> bytes:
        """Return the events that end a stream."""
        last = self._output.finish()
        document = self._finished_document(usage)
        return self._encode(*last, {"type": f"response.{document['status']}", "response": document})

    def failure(self, error: ApiError) -> bytes:
        """Return the event of a response that failed."""
        # Clients require that a response is created first, also one that failed in the queue.
        opening = b"" if self._events_so_far else self.opening(1, Usage(0, 0))
        message = error.to_json()["error"]["message"]
        document = self._document("failed", error={"code": "server_error", "message": message})
        return opening + self._encode({"type": "response.failed", "response": document})

    def _encode(self, *events: Event) -> bytes:
        encoded = b""
        for event in events:
            numbered = {**event, "sequence_number": self._events_so_far}
            encoded += encode_event(numbered, event["type"])
            self._events_so_far += 1
        return encoded

    def _finished_document(self, usage: Usage) -> ResponseDocument:
        document = self._document("incomplete" if self._output.is_cut else "completed")
        document["usage"] = _usage_object(usage)
        if self._output.is_cut:
            document["incomplete_details"] = {"reason": "max_output_tokens"}
        return document

    def _document(self, status: Any, error: ResponseFailure | None = None) -> ResponseDocument:  # noqa: ANN401 - one of the words of the type
        body = self._body
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created_at,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": body.max_tool_calls,
            "model": body.model,
            "output": list(self._output.items),
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "prompt_cache_key": body.prompt_cache_key,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            "safety_identifier": body.safety_identifier,
            "service_tier": "default",
            "store": False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": _format_object(body), "verbosity": "medium"},
            "tool_choice": _tool_choice_object(body.tool_choice),
            "tools": [tool.model_dump() for tool in body.tools or ()],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
            "metadata": body.metadata or {},
        }


def _format_object(body: ResponseRequest) -> dict[str, Any]:
    text_format = body.text.format if body.text else None
    return (
        {"type": "text"} if text_format is None else text_format.model_dump(by_alias=True, exclude_none=True)
    )


def _tool_choice_object(choice: ChosenTools | None) -> str | dict[str, Any]:
    if choice is not None and choice.only is not None:
        return {"type": "function", "name": choice.only}
    if choice is not None and choice.allowed is not None:
        tools = [{"type": "function", "name": name} for name in choice.allowed]
        return {"type": "allowed_tools", "mode": choice.mode, "tools": tools}
    return "auto" if choice is None else choice.mode


def _usage_object(usage: Usage) -> ResponseUsage:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
