"""Turn the text deltas of an answer into the items of a response's output, with the events of a stream.

Source: OpenAI API reference, "Streaming events".
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference.service.requests import TextDelta
    from inference.text.tools import ToolCall
    from inference.web.responses import TokenLogprob
    from inference.web.responses_api.documents import (
        OutputItem,
        OutputMessage,
        OutputReasoning,
        OutputText,
        ReasoningText,
        Status,
    )

Event = dict[str, Any]
"""An event without its sequence number."""


class OutputBuilder:
    """The output of a response, which grows by deltas.

    Attributes:
        items: The items so far; the last one is complete only if none is open.
    """

    def __init__(self) -> None:
        self.items: list[OutputItem] = []
        self._open: OutputMessage | OutputReasoning | None = None
        self._is_cut = False

    @property
    def is_cut(self) -> bool:
        """Return whether the length limit ended the answer."""
        return self._is_cut

    def add(self, delta: TextDelta, logprobs: list[TokenLogprob]) -> list[Event]:
        """Add a delta, and return the events that tell of it.

        Args:
            delta: The delta.
            logprobs: The objects of its log-probabilities.
        """
        self._is_cut = delta.finish_reason == "length"
        events: list[Event] = []
        if delta.reasoning:
            events += self._write("reasoning", delta.reasoning, [])
        if delta.text:
            events += self._write("message", delta.text, logprobs)
        calls = [call for _, call in delta.calls]
        for call in calls:
            is_cut = self._is_cut and call is calls[-1]
            events += [*self._close("completed"), *self._add_call(call, is_cut=is_cut)]
        return events

    def finish(self) -> list[Event]:
        """Return the last events; no delta follows. An answer without any text is an empty message."""
        opening = [] if self.items else self._begin("message")
        return [*opening, *self._close("incomplete" if self._is_cut else "completed")]

    def _write(
        self, kind: Literal["message", "reasoning"], text: str, logprobs: list[TokenLogprob]
    ) -> list[Event]:
        """Append text to the open item, or to a new one of the kind."""
        events: list[Event] = []
        if self._open is None or self._open["type"] != kind:
            events = [*self._close("completed"), *self._begin(kind)]
        part: OutputText | ReasoningText = self.items[-1]["content"][0]  # type: ignore[typeddict-item]
        part["text"] += text
        if part["type"] == "output_text":
            part["logprobs"] += logprobs
            event: Event = {"type": "response.output_text.delta", "delta": text, "logprobs": logprobs}
        else:
            event = {"type": "response.reasoning_text.delta", "delta": text}
        return [*events, self._at_part(event)]

    def _begin(self, kind: Literal["message", "reasoning"]) -> list[Event]:
        item_id = ("msg_" if kind == "message" else "rs_") + uuid.uuid4().hex
        part: OutputText | ReasoningText
        if kind == "message":
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            self._open = {
                "id": item_id, "type": "message", "status": "in_progress", "role": "assistant",
                "content": [part],
            }  # fmt: skip
        else:
            part = {"type": "reasoning_text", "text": ""}
            self._open = {
                "id": item_id, "type": "reasoning", "status": "in_progress", "summary": [], "content": [part],
            }  # fmt: skip
        self.items.append(self._open)
        added = self._at_item({"type": "response.output_item.added", "item": {**self._open, "content": []}})
        return [added, self._at_part({"type": "response.content_part.added", "part": dict(part)})]

    def _close(self, status: Status) -> list[Event]:
        """End the open item, if there is one."""
        item, self._open = self._open, None
        if item is None:
            return []
        item["status"] = status
        part = item["content"][0]
        done: Event = {"type": "response.reasoning_text.done", "text": part["text"]}
        if part["type"] == "output_text":
            done = {
                "type": "response.output_text.done", "text": part["text"], "logprobs": part["logprobs"],
            }  # fmt: skip
        return [
            self._at_part(done),
            self._at_part({"type": "response.content_part.done", "part": dict(part)}),
            self._at_item({"type": "response.output_item.done", "item": item}),
        ]

    def _add_call(self, call: ToolCall, *, is_cut: bool) -> list[Event]:
        """Add a call, which is complete at once."""
        item: OutputItem = {
            "id": "fc_" + uuid.uuid4().hex,
            "type": "function_call",
            "status": "incomplete" if is_cut else "completed",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
        }
        self.items.append(item)
        beginning = {**item, "status": "in_progress", "arguments": ""}
        events: list[Mapping[str, Any]] = [
            {"type": "response.output_item.added", "item": beginning},
            {
                "type": "response.function_call_arguments.delta",
                "item_id": item["id"],
                "delta": call.arguments,
            },
            {
                "type": "response.function_call_arguments.done",
                "item_id": item["id"],
                "name": call.name,
                "arguments": call.arguments,
            },
            {"type": "response.output_item.done", "item": item},
        ]
        return [self._at_item(event) for event in events]

    def _at_item(self, event: Mapping[str, Any]) -> Event:
        return {**event, "output_index": len(self.items) - 1}

    def _at_part(self, event: Mapping[str, Any]) -> Event:
        return {**self._at_item(event), "item_id": self.items[-1]["id"], "content_index": 0}
