"""Sample the next token of each request in a batch with the request's own parameters.

`RowSampler` replaces the manager's list of logits processors and has the same methods. The manager then takes
the highest score of each row. So for a row that does not simply take the likeliest token, the token is
sampled here and its score set to infinity. A batch of plain greedy requests passes through unchanged, at no
cost, and its answers are exactly those of `argmax`.

Source: transformers 5.23, `generation/continuous_batching/cb_logits_processors.py`, `model_runner.py` and
`requests.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from inference.engines.protocol import TokenLogprobs
from inference.engines.transformers.draws import Draw, choose_tokens
from inference.engines.transformers.rows import ROW_KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.engines.transformers.lora_batch import LoraBatch
    from inference.engines.transformers.prompt_logprobs import PromptScorer
    from inference.engines.transformers.rows import Row


class RowSampler:
    """The sampler of a network's batches; replaces `ContinuousBatchingLogitsProcessorList`.

    Args:
        lora_batch: Receives the adapters of each step's rows; None for a network without batched adapters.
        prompt_scorer: Receives each step's rows, with their positions.
    """

    tensors_required = 0

    def __init__(
        self, lora_batch: LoraBatch | None = None, prompt_scorer: PromptScorer | None = None
    ) -> None:
        self._lora_batch = lora_batch
        self._prompt_scorer = prompt_scorer
        self._rows: dict[int, Row] = {}
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
        """Collect the next batch's rows that are not plain, by their index in it."""
        rows: list[Row] = [request.state.logit_processor_kwargs[ROW_KEY] for request in requests_in_batch]
        if self._lora_batch is not None:
            lengths = [request.query_length for request in requests_in_batch]
            runs = [(row.adapter_id, length) for row, length in zip(rows, lengths, strict=True)]
            self._lora_batch.begin_step(runs)
        if self._prompt_scorer is not None:
            # The manager has advanced the offsets already.
            ends = [(request.state.position_offset, request.query_length) for request in requests_in_batch]
            self._prompt_scorer.begin_step(rows, [range(end - length, end) for end, length in ends])
        pairs = zip(rows, requests_in_batch, strict=True)
        sampled = [row for row, request in pairs if request.has_new_token]
        self._rows = {index: row for index, row in enumerate(sampled) if not row.is_plain}
        return arg_storage

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, _args: torch.Tensor) -> torch.Tensor:
        """Return scores (rows, vocabulary), float32, whose highest is each row's next token."""
        del input_ids
        if not self._rows:
            return scores
        rows, indices = list(self._rows.values()), list(self._rows)
        row_scores = scores[indices]
        recorder = LogprobsRecorder(row_scores, rows)
        for row, own_scores in zip(rows, row_scores, strict=True):
            row.adjust(own_scores)
        chosen = choose_tokens(row_scores, [Draw(row.sampling, row.position) for row in rows])
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


def _record_tokens(rows: Sequence[Row], chosen: torch.Tensor) -> None:
    for row in rows:
        row.position += 1
    # On a GPU, `tolist` waits until all operations before it are complete.
    if any(row.tracks_tokens for row in rows):
        for row, token_id in zip(rows, chosen.tolist(), strict=True):
            row.record(token_id)
