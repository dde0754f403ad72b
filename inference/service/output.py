"""From tokens to text: detokenization, stop strings, tool calls and log-probabilities of one choice."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from inference.service.logprobs import LogprobLedger
from inference.service.requests import TextDelta, TextFinishReason
from inference.text.detokenizer import Detokenizer, StopFinder
from inference.text.tools import CallParser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.engines.protocol import FinishReason, Increment
    from inference.service.preparation import PreparedRequest
    from inference.text.tools import ToolCall


class OutputProcessor:
    """The state of one choice's text.

    Args:
        index: The index of the choice.
        prepared: The request.
    """

    def __init__(self, index: int, prepared: PreparedRequest) -> None:
        request, codec = prepared.request, prepared.model.codec
        call_format, use = prepared.call_format, request.tool_use
        kept = dict(call_format.special) if call_format else {}
        self._index = index
        self._end_token_ids = prepared.model.end_token_ids
        self._detokenizer = Detokenizer(partial(codec.decode, kept=kept) if kept else codec.decode)
        self._stop_finder = StopFinder(request.stops)
        self._ledger = LogprobLedger(codec.token) if request.top_logprobs is not None else None
        self._parser = (
            CallParser(call_format, use.names, is_forced=use.choice == "required")
            if call_format and use
            else None
        )
        self._max_calls = None if use is None or use.is_parallel else 1
        self._decoded = self._emitted = self._called = 0

    def decode(self, increment: Increment) -> tuple[str, FinishReason | None]:
        """Return the text that new tokens complete, up to a stop string, and why it ends, if it does."""
        tokens, reason = increment.token_ids, increment.finish_reason
        if reason == "stop" and tokens and tokens[-1] in self._end_token_ids:
            tokens = tokens[:-1]
        if self._ledger is None:
            text = self._detokenizer.push(tokens)
        else:
            text = self._decode_with_logprobs(tokens, increment, self._ledger)
        if reason is not None:
            text += self._detokenizer.finish()
        text = self._stop_finder.push(text)
        if self._stop_finder.is_found:
            return text, "stop"
        return text if reason is None else text + self._stop_finder.finish(), reason

    def to_delta(self, text: str, reason: FinishReason | None) -> TextDelta:
        """Return decoded text as a delta, with its tool calls taken out and its log-probabilities added."""
        calls: tuple[tuple[int, ToolCall], ...] = ()
        finish_reason: TextFinishReason | None = reason
        if self._parser is None:
            self._emitted += len(text)
        else:
            text, calls = self._parse(text, self._parser, reason)
            # Tokens after a call are not listed: the text lacks the call, so they have no offset in it.
            self._emitted = self._parser.emitted
            if self._called and reason != "length" and (reason or self._called == self._max_calls):
                finish_reason = "tool_calls"
        logprobs = () if self._ledger is None else self._ledger.release(self._emitted)
        return TextDelta(text, finish_reason, self._index, calls, logprobs)

    def _decode_with_logprobs(
        self, tokens: Sequence[int], increment: Increment, ledger: LogprobLedger
    ) -> str:
        """Decode one token at a time, so that each has an offset in the text."""
        text = ""
        for token_id, logprobs in zip(tokens, increment.logprobs[: len(tokens)], strict=True):
            ledger.add(token_id, logprobs, self._decoded)
            piece = self._detokenizer.push((token_id,))
            self._decoded += len(piece)
            text += piece
        return text

    def _parse(
        self, text: str, parser: CallParser, reason: FinishReason | None
    ) -> tuple[str, tuple[tuple[int, ToolCall], ...]]:
        output = parser.push(text)
        text, found = output.text, output.calls
        if reason is not None:
            rest = parser.finish(is_cut=reason == "length")
            text, found = text + rest.text, found + rest.calls
        calls = tuple(enumerate(found, self._called))[: self._max_calls]
        self._called += len(calls)
        return text, calls
