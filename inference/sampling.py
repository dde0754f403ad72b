"""Choose each request's next token by its own sampling, inside one batch.

It takes the place of the manager's list of logits processors, by the same few methods. The manager then takes
the largest score of each row; so a row that is to be sampled gets its token chosen here, and that token's
score made the largest. A batch in which all are greedy passes through untouched, at no cost, and its answers
are `argmax`'s exactly.

Source: transformers 5.23, `generation/continuous_batching/cb_logits_processors.py` and `model_runner.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from inference.engine import Sampling

SAMPLING_KEY: Final = "sampling"
CANDIDATES: Final = 1024
"""Nucleus sampling looks at this many of the likeliest tokens first: sorting a whole vocabulary costs ten
times more, and the nucleus is seldom larger. Where it is, everything is sorted."""


class RowSampler:
    """Apply each row's own sampling. Takes the place of `ContinuousBatchingLogitsProcessorList`."""

    tensors_required = 0

    def __init__(self) -> None:
        self._rows: list[Sampling] = []
        self.do_processing = True

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Accept our one key.

        Raises:
            ValueError: For any other.
        """
        if set(kwargs) != {SAMPLING_KEY}:
            raise ValueError(f"expected the key {SAMPLING_KEY!r} alone, not {sorted(kwargs)}")

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """Do nothing: no argument travels as a tensor."""

    def prepare_tensor_args(self, requests_in_batch: list[Any], arg_storage: torch.Tensor) -> torch.Tensor:
        """Note the sampling of the requests that get a token in the batch to come, in its order."""
        states = [request.state for request in requests_in_batch if request.has_new_token]
        self._rows = [state.logit_processor_kwargs[SAMPLING_KEY] for state in states]
        return arg_storage

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, _args: torch.Tensor) -> torch.Tensor:
        """Return scores (rows, vocabulary) whose largest is each row's next token."""
        del input_ids
        for row, sampling in enumerate(self._rows):
            if not sampling.is_greedy:
                scores[row, choose_token(scores[row], sampling)] = torch.inf
        return scores


def choose_token(scores: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Draw one token of a row of scores (vocabulary,), float32.

    The order is the usual one: temperature, then top-k, top-p and min-p, each on what the one before left.
    """
    scores = scores / sampling.temperature
    if sampling.top_p >= 1.0 and sampling.top_k == 0:
        kept, token_ids = scores, None
    else:
        kept, token_ids = _keep_likeliest(scores, sampling)
    probabilities = torch.softmax(kept, dim=-1)
    if sampling.min_p > 0.0:
        probabilities = probabilities.masked_fill(probabilities < sampling.min_p * probabilities.max(), 0.0)
    drawn = _draw(probabilities)
    return drawn if token_ids is None else token_ids[drawn]


def _keep_likeliest(scores: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scores that top-k and top-p leave, largest first, and their token ids."""
    vocabulary = scores.shape[-1]
    if sampling.top_k:
        kept, token_ids = torch.topk(scores, min(sampling.top_k, vocabulary))
        log_total = torch.logsumexp(kept, dim=-1)
        size = _nucleus_size(kept, log_total, sampling.top_p)
    else:
        kept, token_ids = torch.topk(scores, min(CANDIDATES, vocabulary))
        log_total = torch.logsumexp(scores, dim=-1)
        size = _nucleus_size(kept, log_total, sampling.top_p)
        if size == len(kept) < vocabulary:
            kept, token_ids = torch.sort(scores, descending=True)
            size = _nucleus_size(kept, log_total, sampling.top_p)
    return kept[:size], token_ids[:size]


def _nucleus_size(kept: torch.Tensor, log_total: torch.Tensor, top_p: float) -> int:
    """Return how many of the likeliest tokens it takes to reach a probability; at least one, at most all."""
    if top_p >= 1.0:
        return len(kept)
    before = torch.exp(kept - log_total).cumsum(-1)[:-1]
    return int((before < top_p).sum()) + 1


def _draw(probabilities: torch.Tensor) -> torch.Tensor:
    """Draw an index by the exponential race: `multinomial` without its second pass and its checks."""
    race = torch.empty_like(probabilities).exponential_().clamp_min_(torch.finfo(torch.float32).tiny)
    return torch.argmax(probabilities / race, dim=-1)
