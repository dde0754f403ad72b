"""The rows of a batch: each request's own state, and the changes it makes to its scores before a draw."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

import torch

from inference.engines.transformers.lora_batch import NO_ADAPTER
from inference.errors import EngineError, ScoresError

if TYPE_CHECKING:
    from inference.engines.protocol import GenerationRequest, Sampling, TokenLogprobs
    from inference.engines.transformers.constraint import Constraint

LOGGER: Final = logging.getLogger(__name__)
ROW_KEY: Final = "row"
MAX_SCORE: Final = 1e30
"""The largest score that bias and penalties can lead to: far beyond any score of a model, and far below
float32's limit."""


@dataclass(eq=False, slots=True)
class Row:
    """One request in the manager's batches, from its first token to its last.

    When its cache is full, the manager preempts a request and later resumes a copy of it, whose prompt ends
    with what was generated. A row is not copied: it continues from its own state.

    Attributes:
        constraint: The grammar that the answer has to match; None without one, or once it has failed.
        adapter_id: The request's adapter in the network's `LoraBatch`.
        end_token_ids: The model's end tokens.
        is_plain: Whether it takes the likeliest token and needs nothing else.
        position: The number of tokens sampled so far.
        logprobs: One for each of them, if the request asks for log-probabilities.
        prompt_logprobs: One for each of the prompt's tokens but the first, if the request asks for them.
        error: Why the request has failed; the batcher then ends it.
    """

    request: GenerationRequest
    constraint: Constraint | None = None
    adapter_id: int = NO_ADAPTER
    end_token_ids: frozenset[int] = frozenset()
    is_plain: bool = field(init=False)
    position: int = field(default=0, init=False)
    logprobs: list[TokenLogprobs] = field(default_factory=list, init=False)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list, init=False)
    error: EngineError | None = field(default=None, init=False)
    _bias: Bias | None = field(default=None, init=False)
    _penalties: Penalties | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        needs_more = bool(self.request.needs - {"seed", "stopping", "prompt_logprobs"})
        self.is_plain = self.sampling.is_greedy and not needs_more and not self.request.stopping.min_tokens
        if not self.sampling.is_finite:
            self.error = ScoresError(0)

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self

    @property
    def sampling(self) -> Sampling:
        """Return the request's sampling parameters."""
        return self.request.sampling

    @property
    def ends(self) -> frozenset[int]:
        """Return the tokens that end its answer."""
        return self.request.stopping.ends(self.end_token_ids)

    @property
    def tracks_tokens(self) -> bool:
        """Return whether its next step depends on the tokens sampled before."""
        return self.constraint is not None or self.sampling.has_penalties

    @property
    def adjusts_scores(self) -> bool:
        """Return whether `adjust` changes anything now."""
        return (
            bool(self.sampling.logit_bias)
            or self.sampling.has_penalties
            or self.position < self.request.stopping.min_tokens
            or self.constraint is not None
        )

    def fail(self, error: EngineError) -> None:
        """End the request with an error. Tokens that are sampled before the batcher does so are discarded."""
        self.error, self.constraint = self.error or error, None

    def adjust(self, scores: torch.Tensor) -> None:
        """Apply bias, penalties, minimum length and grammar to the scores (vocabulary,), in place.

        Never raises: a failure ends this request only.
        """
        try:
            self._adjust(scores)
        except Exception as error:  # noqa: BLE001 - logged, and sent to the client
            self._fail_with(error)

    def record(self, token_id: int) -> None:
        """Update penalties and grammar with the token that was sampled. Never raises, as above."""
        try:
            if self._penalties is not None:
                self._penalties.count(token_id)
            if self.constraint is not None:
                self.constraint.advance(token_id)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail_with(error)

    def _fail_with(self, error: Exception) -> None:
        if isinstance(error, EngineError):
            self.fail(error)
        else:
            LOGGER.error("request %s failed in the engine", self.request.request_id, exc_info=error)
            self.fail(EngineError(f"the engine failed: {error}"))

    def _adjust(self, scores: torch.Tensor) -> None:
        sampling, stopping = self.sampling, self.request.stopping
        if sampling.logit_bias:
            self._bias = self._bias or Bias(sampling, scores)
            self._bias.apply(scores)
        if sampling.has_penalties:
            self._penalties = self._penalties or Penalties(self.request, scores.device)
            self._penalties.apply(scores)
        if self.position < stopping.min_tokens:
            ends = self.end_token_ids | self.ends
            scores[[token_id for token_id in ends if token_id < len(scores)]] = -torch.inf
        if self.constraint is not None:
            allowed = self.constraint.allowed(len(scores))
            scores.masked_fill_(torch.from_numpy(~allowed).to(scores.device), -torch.inf)


class Bias:
    """The logit bias of a request. Tokens that are not in the vocabulary are ignored."""

    def __init__(self, sampling: Sampling, scores: torch.Tensor) -> None:
        known = {token_id: bias for token_id, bias in sampling.logit_bias if 0 <= token_id < len(scores)}
        self._token_ids = torch.tensor(list(known), dtype=torch.int64, device=scores.device)
        self._amounts = torch.tensor(list(known.values()), dtype=torch.float32, device=scores.device)

    def apply(self, scores: torch.Tensor) -> None:
        """Change the scores (vocabulary,) in place."""
        scores[self._token_ids] = (scores[self._token_ids] + self._amounts).clamp_(-MAX_SCORE, MAX_SCORE)


class Penalties:
    """The penalties of a request, and the counts of its tokens that they depend on.

    The repetition penalty includes the prompt's tokens; the other two count only the answer's, as in OpenAI's
    API.
    """

    def __init__(self, request: GenerationRequest, device: torch.device) -> None:
        self._sampling = request.sampling
        has_prompt = request.sampling.repetition_penalty != 1.0
        prompt = dict.fromkeys(request.prompt_token_ids) if has_prompt else {}
        self._places = {token_id: place for place, token_id in enumerate(prompt)}
        room = len(prompt) + request.max_new_tokens
        self._token_ids = torch.zeros(room, dtype=torch.int64, device=device)
        self._token_ids[: len(prompt)] = torch.tensor(list(prompt), dtype=torch.int64, device=device)
        self._counts = torch.zeros(room, device=device)

    def count(self, token_id: int) -> None:
        """Count one more token of the answer."""
        place = self._places.setdefault(token_id, len(self._places))
        self._token_ids[place] = token_id
        self._counts[place] += 1

    def apply(self, scores: torch.Tensor) -> None:
        """Change the scores (vocabulary,) in place."""
        size = len(self._places)
        token_ids, counts = self._token_ids[:size], self._counts[:size]
        found = scores[token_ids]
        repetition = self._sampling.repetition_penalty
        found = torch.where(found > 0, found / repetition, found * repetition)
        found -= self._sampling.frequency_penalty * counts
        found -= self._sampling.presence_penalty * (counts > 0)
        scores[token_ids] = found.clamp_(-MAX_SCORE, MAX_SCORE)
