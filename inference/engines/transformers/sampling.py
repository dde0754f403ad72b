"""Sample the next token of each request in a batch with the request's own parameters.

`RowSampler` replaces the manager's list of logits processors and has the same methods. The manager then takes
the highest score of each row. So for a row that does not simply take the likeliest token, the token is
sampled here and its score set to infinity. A batch of plain greedy requests passes through unchanged, at no
cost, and its answers are exactly those of `argmax`.

Source: transformers 5.23, `generation/continuous_batching/cb_logits_processors.py`, `model_runner.py` and
`requests.py`.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Final

import torch

from inference.engines.protocol import TokenLogprobs
from inference.engines.transformers.draws import Draw, choose_tokens
from inference.engines.transformers.rows import ROW_KEY
from inference.errors import EngineError, RequestRefusedError, ScoresError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.engines.transformers.isolation import CacheGuard
    from inference.engines.transformers.lora_batch import LoraBatch
    from inference.engines.transformers.prompt_logprobs import PromptScorer
    from inference.engines.transformers.rows import Row


LOGGER: Final = logging.getLogger(__name__)
NOTHING_LEFT: Final = "the grammar, the bias and the minimum length of the answer leave no token to choose"


class RowSampler:
    """The sampler of a network's batches; replaces `ContinuousBatchingLogitsProcessorList`.

    Args:
        lora_batch: Receives the adapters of each step's rows; None for a network without batched adapters.
        prompt_scorer: Receives each step's rows, with their positions.
        guard: Tells which rows have finite keys and values; None if the scores alone tell that.
    """

    tensors_required = 0

    def __init__(
        self,
        lora_batch: LoraBatch | None = None,
        prompt_scorer: PromptScorer | None = None,
        guard: CacheGuard | None = None,
    ) -> None:
        self._lora_batch = lora_batch
        self._prompt_scorer = prompt_scorer
        self._guard = guard
        self._rows: list[Row] = []
        self._lengths: list[int] = []
        self._sampled: list[Row] = []
        self.do_processing = True

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Check that a request's arguments are exactly its row.

        Raises:
            ValueError: If there are others.
        """
        if set(kwargs) != {ROW_KEY}:
            raise ValueError(f"expected the key {ROW_KEY!r} alone, not {sorted(kwargs)}")

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """Do nothing: no argument is passed as a tensor."""

    def prepare_tensor_args(self, requests_in_batch: list[Any], arg_storage: torch.Tensor) -> torch.Tensor:
        """Collect the rows of the next batch that get a token, in its order."""
        rows: list[Row] = [request.state.logit_processor_kwargs[ROW_KEY] for request in requests_in_batch]
        self._rows = rows
        if self._lora_batch is not None or self._guard is not None:
            self._lengths = [request.query_length for request in requests_in_batch]
        if self._lora_batch is not None:
            runs = [(row.adapter_id, length) for row, length in zip(rows, self._lengths, strict=True)]
            self._lora_batch.begin_step(runs)
        if self._prompt_scorer is not None:
            # The manager has advanced the offsets already.
            ends = [(request.state.position_offset, request.query_length) for request in requests_in_batch]
            self._prompt_scorer.begin_step(rows, [range(end - length, end) for end, length in ends])
        pairs = zip(rows, requests_in_batch, strict=True)
        self._sampled = [row for row, request in pairs if request.has_new_token]
        return arg_storage

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, _args: torch.Tensor) -> torch.Tensor:
        """Return scores (rows, vocabulary), float32, whose highest is each row's next token.

        A row without usable scores fails, and the others are sampled as if it were not there.
        """
        del input_ids
        if self._guard is not None:
            for row, is_finite in zip(self._rows, self._guard.are_finite(self._lengths), strict=True):
                if not is_finite:
                    row.fail(ScoresError(row.position))
        # A step in which no prompt is complete has scores that belong to no row.
        _fail_rows_without_numbers(self._sampled, scores[: len(self._sampled)])
        drawn = {
            index: row for index, row in enumerate(self._sampled) if not row.is_plain and row.error is None
        }
        if not drawn:
            return scores
        rows, indices = list(drawn.values()), list(drawn)
        row_scores = scores[indices]
        recorder = LogprobsRecorder(row_scores, rows)
        for row, own_scores in zip(rows, row_scores, strict=True):
            row.adjust(own_scores)
        if any(row.adjusts_scores for row in rows):
            _fail_rows_without_numbers(rows, row_scores)
        chosen = _choose_tokens(rows, row_scores)
        recorder.record(chosen)
        _record_tokens(rows, chosen)
        scores[indices, chosen] = torch.inf
        return scores


class LogprobsRecorder:
    """The log-probabilities of the rows that ask for them, taken before their scores are adjusted.

    Args:
        scores: The model's scores (rows, vocabulary).
        rows: The rows that they belong to.
    """

    def __init__(self, scores: torch.Tensor, rows: Sequence[Row]) -> None:
        asking = {index: row for index, row in enumerate(rows) if row.request.top_logprobs is not None}
        self._rows, self._indices = list(asking.values()), list(asking)
        if asking:
            self._logprobs = torch.log_softmax(scores[self._indices], dim=-1)

    def record(self, chosen: torch.Tensor) -> None:
        """Append to each row's log-probabilities, given the tokens of all rows (rows,)."""
        if not self._rows:
            return
        max_top = max(row.request.top_logprobs or 0 for row in self._rows)
        top = torch.topk(self._logprobs, min(max_top, self._logprobs.shape[-1]))
        taken = self._logprobs.gather(-1, chosen[self._indices].unsqueeze(-1)).squeeze(-1)
        found = zip(self._rows, taken.tolist(), top.indices.tolist(), top.values.tolist(), strict=True)
        for row, logprob, token_ids, logprobs in found:
            pairs = tuple(zip(token_ids, logprobs, strict=True))
            row.logprobs.append(TokenLogprobs(logprob, pairs[: row.request.top_logprobs]))


def _fail_rows_without_numbers(rows: Sequence[Row], scores: torch.Tensor) -> None:
    """Fail the rows whose highest score is NaN or infinite, and set their scores (rows, tokens) to zero.

    NaN anywhere in a row makes its maximum NaN. On a GPU this waits for the scores, as the manager does next.
    """
    for row, own_scores, highest in zip(rows, scores, scores.amax(-1).tolist(), strict=True):
        if not math.isfinite(highest):
            row.fail(ScoresError(row.position) if highest != -math.inf else RequestRefusedError(NOTHING_LEFT))
            own_scores.zero_()


def _choose_tokens(rows: Sequence[Row], scores: torch.Tensor) -> torch.Tensor:
    """Choose a token for each row of scores (rows, vocabulary); one by one if that fails for all together."""
    draws = [Draw(row.sampling, row.position) for row in rows]
    try:
        return choose_tokens(scores, draws)
    except Exception:
        LOGGER.exception("a batch could not be sampled: each row is sampled by itself")
    chosen = torch.zeros(len(rows), dtype=torch.int64, device=scores.device)
    for index, row in enumerate(rows):
        try:
            chosen[index] = choose_tokens(scores[index : index + 1], draws[index : index + 1])[0]
        except Exception as error:  # noqa: BLE001 - logged where the request ends
            row.fail(EngineError(f"the engine failed: {error}"))
    return chosen


def _record_tokens(rows: Sequence[Row], chosen: torch.Tensor) -> None:
    for row in rows:
        row.position += 1
    # On a GPU, `tolist` waits until all operations before it are complete.
    if any(row.tracks_tokens for row in rows):
        for row, token_id in zip(rows, chosen.tolist(), strict=True):
            row.record(token_id)
