"""Compute the log-probabilities of prompt tokens, in the steps that process the prompts anyway.

The manager computes scores for the last token of a prompt only. For a request that asks for its prompt's
log-probabilities, the network is told to keep the scores at all of the prompt's positions; they are recorded,
and removed again before the manager sees them. A step without such a request is unchanged.

Source: transformers 5.23, `generation/continuous_batching/model_runner.py`, and `logits_to_keep` in the
`forward` of its language models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from inference.engines.protocol import TokenLogprobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.engines.transformers.rows import Row

ROWS_AT_ONCE: Final = 64
"""Rows of scores that are converted to float32 together: a vocabulary's take half a megabyte each."""


@dataclass(frozen=True, slots=True)
class PromptSpan:
    """The part of a request's prompt that a step processes.

    Attributes:
        row: The request.
        first: The index in the prompt of the first token.
        indices: The indices of the tokens in the step; the next token of the prompt is known for each.
    """

    row: Row
    first: int
    indices: range


class PromptScorer:
    """The recorder of prompt log-probabilities of a network's steps."""

    def __init__(self) -> None:
        self._spans: tuple[PromptSpan, ...] = ()

    def begin_step(self, rows: Sequence[Row], positions: Sequence[range]) -> None:
        """Set the next step's requests.

        Args:
            rows: The requests, in the order of their tokens in the step.
            positions: The positions of each one's tokens within its own text.
        """
        spans, begin = [], 0
        for row, tokens in zip(rows, positions, strict=True):
            if row.request.prompt_logprobs is not None:
                count = min(tokens.stop, len(row.request.prompt_token_ids) - 1) - tokens.start
                spans.append(PromptSpan(row, tokens.start, range(begin, begin + count)))
            begin += len(tokens)
        self._spans = tuple(span for span in spans if span.indices)

    def watch(self, network: torch.nn.Module) -> None:
        """Have a network keep the scores, and record them."""
        network.register_forward_pre_hook(self._ask, with_kwargs=True)
        network.register_forward_hook(self._record, with_kwargs=True)

    def _ask(
        self, _network: torch.nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self._spans or "logits_to_keep" not in options:
            return None
        kept = options["logits_to_keep"]
        return inputs, {**options, "logits_to_keep": torch.cat((kept, self._indices(kept)))}

    def _record(
        self,
        _network: torch.nn.Module,
        _inputs: tuple[Any, ...],
        options: dict[str, Any],
        output: Any,  # noqa: ANN401 - transformers publishes no types
    ) -> None:
        if not self._spans:
            return
        logits = output.logits
        if "logits_to_keep" in options:
            count = sum(len(span.indices) for span in self._spans)
            scores, output.logits = logits[0, -count:], logits[:, :-count]
        else:  # the network keeps all scores, and the manager selects its own
            scores = logits[0, self._indices(options["logits_indices"])]
        begin = 0
        for span in self._spans:
            _record_span(span, scores[begin : begin + len(span.indices)])
            begin += len(span.indices)
        self._spans = ()

    def _indices(self, like: torch.Tensor) -> torch.Tensor:
        indices = [index for span in self._spans for index in span.indices]
        return torch.tensor(indices, dtype=like.dtype, device=like.device)


def _record_span(span: PromptSpan, scores: torch.Tensor) -> None:
    """Write a span's log-probabilities to its row, from its scores (tokens, vocabulary)."""
    request = span.row.request
    tokens = torch.tensor(request.prompt_token_ids[span.first + 1 :][: len(scores)], device=scores.device)
    found: list[TokenLogprobs] = []
    for part, next_tokens in zip(
        torch.split(scores, ROWS_AT_ONCE), torch.split(tokens, ROWS_AT_ONCE), strict=True
    ):
        logprobs = torch.log_softmax(part.float(), dim=-1)
        chosen = logprobs.gather(-1, next_tokens.unsqueeze(-1))
        ranks = (logprobs >= chosen).sum(dim=-1)
        top = torch.topk(logprobs, min(request.prompt_logprobs or 0, logprobs.shape[-1]))
        found += (
            TokenLogprobs(value, tuple(zip(likely, values, strict=True)), rank)
            for value, likely, values, rank in zip(
                chosen.squeeze(-1).tolist(),
                top.indices.tolist(),
                top.values.tolist(),
                ranks.tolist(),
                strict=True,
            )
        )
    # By position: a request that was preempted is processed again.
    span.row.prompt_logprobs[span.first : span.first + len(found)] = found
