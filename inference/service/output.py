"""From tokens to text: detokenization, stop strings, reasoning, calls and log-probabilities of one choice."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from inference.service.logprobs import LogprobLedger, PromptLogprobs, list_prompt_logprobs
from inference.service.requests import TextDelta, TextFinishReason
from inference.text.detokenizer import Detokenizer, StopFinder
from inference.text.reasoning import ReasoningParser
from inference.text.tools import CallParser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.engines.protocol import FinishReason, Increment, TokenLogprobs
    from inference.service.preparation import PreparedRequest
    from inference.text.tools import ToolCall


class OutputProcessor:
    """The state of one choice's text.

    Args:
        index: The index of the choice.
        prepared: The request.

    Attributes:
        tokens: The number of tokens so far.
        reasoning_tokens: How many of them are reasoning.
    """

    def __init__(self, index: int, prepared: PreparedRequest) -> None:
        request, codec = prepared.request, prepared.model.codec
        self.tokens = self.reasoning_tokens = 0
        self._index = index
        self._request = request
        self._prompt_text = prepared.prompt_texts[index]
        self._prompt_token_ids = prepared.generations[index].prompt_token_ids
        self._end_token_ids = request.stopping.ends(prepared.model.end_token_ids)
        self._stop_finder = StopFinder(request.stops, keeps_stop=request.keeps_stop)
        self._ledger = LogprobLedger(codec.token) if request.top_logprobs is not None else None
        self._decode_tokens = codec.decode
        self._token = codec.token
        self._detokenizer = Detokenizer(codec.decode)
        self._parser: CallParser | None = None
        self._reasoning: ReasoningParser | None = None
        self._read_structure(prepared)
        self._has_begun = False
        self._is_first = True
        self._echoed: str | None = None
        self._prompt_logprobs: PromptLogprobs | None = None
        self._logprob_sum = 0.0
        self._new_token_ids: list[int] = []
        use = request.tool_use
        self._max_calls = None if use is None or use.is_parallel else 1
        self._decoded = self._emitted = self._called = 0

    def decode(self, increment: Increment) -> tuple[str, FinishReason | None]:
        """Return the text that new tokens complete, up to a stop string, and why it ends, if it does."""
        tokens, reason, logprobs = increment.token_ids, increment.finish_reason, increment.logprobs
        if self._request.max_new_tokens == 0:
            # The engine has generated a token, as it has to.
            tokens, reason, logprobs = (), "length", ()
        if not self._has_begun:
            self._begin(increment.prompt_logprobs)
        self._has_begun = True
        self._count(tokens, logprobs)
        is_ended = reason == "stop" and bool(tokens) and tokens[-1] in self._end_token_ids
        shown = tokens[:-1] if is_ended and not self._request.keeps_stop else tokens
        text = self._detokenize(shown, logprobs)
        if len(shown) < len(tokens) and self._request.echo and self._ledger is not None:
            # Evaluations count the tokens: with the prompt, all of them are listed.
            self._ledger.add(tokens[-1], logprobs[-1], self._decoded)
        if reason is not None:
            text += self._stop_finder.push(self._detokenizer.finish())
        if self._stop_finder.is_found:
            return text, "stop"
        return text if reason is None else text + self._stop_finder.finish(), reason

    def to_delta(self, text: str, reason: FinishReason | None) -> TextDelta:
        """Return decoded text as a delta, with its reasoning and calls taken out and the rest added."""
        calls: tuple[tuple[int, ToolCall], ...] = ()
        finish_reason: TextFinishReason | None = reason
        reasoning, text = self._take_reasoning(text, is_last=reason is not None)
        skipped = 0 if self._reasoning is None else self._reasoning.skipped
        if self._parser is None:
            self._emitted += len(text)
            emitted = skipped + self._emitted
        else:
            text, calls = self._parse(text, self._parser, reason)
            # Tokens after a call are not listed: the text lacks the call, so they have no offset in it.
            emitted = skipped + self._parser.emitted
            if self._called and reason != "length" and (reason or self._called == self._max_calls):
                finish_reason = "tool_calls"
        if self._echoed is not None:
            text, self._echoed = self._echoed + text, None
        delta = TextDelta(text, finish_reason, self._index, calls, reasoning=reasoning)
        return delta if delta.is_empty else self._complete(delta, emitted)

    def _read_structure(self, prepared: PreparedRequest) -> None:
        """Create the parsers of what the text may have beside the answer."""
        request, codec = prepared.request, prepared.model.codec
        call_format, use, tags = prepared.call_format, request.tool_use, codec.reasoning_format
        kept: dict[int, str] = {}
        if call_format is not None and use is not None:
            kept |= dict(call_format.special)
            self._parser = CallParser(call_format, use.names, is_forced=use.choice == "required")
        if tags is not None and prepared.prompt_end is not None:
            kept |= dict(tags.special)
            self._reasoning = ReasoningParser(tags, is_inside=prepared.prompt_end == "inside")
        if kept:
            self._detokenizer = Detokenizer(partial(codec.decode, kept=kept))

    def _count(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> None:
        self.tokens += len(tokens)
        if self._reasoning is not None and self._reasoning.is_reasoning:
            self.reasoning_tokens += len(tokens)
        self._logprob_sum += sum(each.chosen for each in logprobs)
        if self._request.returns_token_ids:
            self._new_token_ids += tokens

    def _detokenize(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> str:
        """Return the text of tokens, up to a stop string; the first `min_tokens` are not searched for one."""
        free = max(0, self._request.stopping.min_tokens - (self.tokens - len(tokens)))
        text = self._push(tokens[:free], logprobs[:free]) if free else ""
        return text + self._stop_finder.push(self._push(tokens[free:], logprobs[free:]))

    def _push(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> str:
        if self._ledger is None:
            return self._detokenizer.push(tokens)
        text = ""
        # One token at a time, so that each has an offset in the text.
        for token_id, entry in zip(tokens, logprobs[: len(tokens)], strict=True):
            self._ledger.add(token_id, entry, self._decoded)
            piece = self._detokenizer.push((token_id,))
            self._decoded += len(piece)
            text += piece
        return text

    def _begin(self, logprobs: Sequence[TokenLogprobs]) -> None:
        """Read what the first increment has about the prompt."""
        if self._request.echo:
            self._echo(logprobs)
        count = self._request.prompt_logprobs
        if count is not None:
            self._prompt_logprobs = list_prompt_logprobs(self._prompt_token_ids, logprobs, count, self._token)

    def _echo(self, logprobs: Sequence[TokenLogprobs]) -> None:
        """Begin the text with the prompt, and the log-probabilities with those of its tokens."""
        detokenizer, text = Detokenizer(self._decode_tokens), ""
        if self._ledger is not None:
            for token_id, entry in zip(self._prompt_token_ids, (None, *logprobs), strict=True):
                shown = None if entry is None else replace(entry, top=entry.top[: self._request.top_logprobs])
                self._ledger.add(token_id, shown, len(text))
                text += detokenizer.push((token_id,))
        sent = self._prompt_text
        self._echoed = self._decode_tokens(self._prompt_token_ids) if sent is None else sent
        self._decoded = self._emitted = len(self._echoed)

    def _take_reasoning(self, text: str, *, is_last: bool) -> tuple[str, str]:
        if self._reasoning is None:
            return "", text
        reasoning, text = self._reasoning.push(text)
        if is_last:
            rest = self._reasoning.finish()
            reasoning, text = reasoning + rest[0], text + rest[1]
        return "" if self._request.hides_reasoning else reasoning, text

    def _complete(self, delta: TextDelta, emitted: int) -> TextDelta:
        """Add to a delta what comes with its text."""
        is_last = delta.finish_reason is not None
        lists_all = is_last and self._request.echo and not self._stop_finder.is_found
        is_first, self._is_first = self._is_first, False
        token_ids, self._new_token_ids = tuple(self._new_token_ids), []
        return replace(
            delta,
            logprobs=()
            if self._ledger is None
            else self._ledger.release(float("inf") if lists_all else emitted),
            token_ids=token_ids,
            prompt_token_ids=self._prompt_token_ids if is_first and self._request.returns_token_ids else None,
            prompt_logprobs=self._prompt_logprobs if is_first else None,
            mean_logprob=self._logprob_sum / max(1, self.tokens)
            if is_last and self._request.best_of
            else None,
            stop=self._stop_finder.found if is_last else None,
        )

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
