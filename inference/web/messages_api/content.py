"""Turn the text deltas of an answer into the blocks of a message's content, with the events of a stream.

Source: Anthropic API reference, "Streaming messages".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic_core import from_json

if TYPE_CHECKING:
    from inference.service.requests import TextDelta
    from inference.text.tools import ToolCall
    from inference.web.messages_api.documents import ContentBlock

Event = dict[str, Any]

SIGNATURE: Final = "unsigned"
"""The signature of reasoning, which no server checks. Some clients drop reasoning without one."""


class ContentBuilder:
    """The content of a message, which grows by deltas.

    Attributes:
        blocks: The blocks so far.
    """

    def __init__(self) -> None:
        self.blocks: list[ContentBlock] = []
        self._open: Literal["thinking", "text"] | None = None

    def add(self, delta: TextDelta) -> list[Event]:
        """Add a delta, and return its events."""
        events: list[Event] = []
        if delta.reasoning:
            events += self._write("thinking", delta.reasoning)
        if delta.text:
            events += self._write("text", delta.text)
        for _, call in delta.calls:
            events += [*self.finish(), *self._add_call(call)]
        return events

    def finish(self) -> list[Event]:
        """Return the events that end the open block, if there is one."""
        kind, self._open = self._open, None
        if kind is None:
            return []
        end = self._event("content_block_stop")
        if kind == "text":
            return [end]
        return [self._delta({"type": "signature_delta", "signature": SIGNATURE}), end]

    def _write(self, kind: Literal["thinking", "text"], text: str) -> list[Event]:
        """Append text to the open block, or to a new one of the kind."""
        opening = [] if self._open == kind else [*self.finish(), self._begin(kind)]
        block = self.blocks[-1]
        if block["type"] == "thinking":
            block["thinking"] += text
        elif block["type"] == "text":
            block["text"] += text
        return [*opening, self._delta({"type": f"{kind}_delta", kind: text})]

    def _begin(self, kind: Literal["thinking", "text"]) -> Event:
        self._open = kind
        if kind == "text":
            self.blocks.append({"type": "text", "text": ""})
            return self._event("content_block_start", content_block=dict(self.blocks[-1]))
        self.blocks.append({"type": "thinking", "thinking": "", "signature": SIGNATURE})
        return self._event("content_block_start", content_block={**self.blocks[-1], "signature": ""})

    def _add_call(self, call: ToolCall) -> list[Event]:
        """Add a call, which is complete at once."""
        self.blocks.append(
            {"type": "tool_use", "id": call.id, "name": call.name, "input": read_input(call.arguments)}
        )
        return [
            self._event("content_block_start", content_block={**self.blocks[-1], "input": {}}),
            self._delta({"type": "input_json_delta", "partial_json": call.arguments}),
            self._event("content_block_stop"),
        ]

    def _delta(self, delta: dict[str, str]) -> Event:
        return self._event("content_block_delta", delta=delta)

    def _event(self, kind: str, **fields: Any) -> Event:  # noqa: ANN401 - JSON
        return {"type": kind, "index": len(self.blocks) - 1, **fields}


def read_input(arguments: str) -> dict[str, Any]:
    """Return a call's arguments, as far as they go if the length limit cut them off.

    What JSON in UTF-8 cannot represent is replaced: lone surrogates by `?`, NaN and infinity by null.
    """
    try:
        found = json.loads(arguments, parse_constant=lambda _: None)
        arguments = json.dumps(found, ensure_ascii=False)
    except (ValueError, RecursionError):
        pass  # it is read as far as it goes
    try:
        whole = from_json(
            arguments.encode(errors="replace"), allow_inf_nan=False, allow_partial="trailing-strings"
        )
    except ValueError:
        return {}
    return whole if isinstance(whole, dict) else {}
