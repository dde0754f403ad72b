"""Sample the next token of each request in a batch with the request's own parameters.

`RowSampler` replaces the manager's list of logits processors and has the same methods. The manager then takes
the highest score of each row. So for a row that does not simply take the likeliest token, the token is
sampled here and its score set to infinity. A batch of plain greedy requests passes through unchanged, at no
cost, and its answers are exactly those of `argmax`.

Rows with the same sampling method are sampled together, not one by one.

Source: transformers 5.23, `generation/continuous_batching/cb_logits_processors.py`, `model_runner.py` and
`requests.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Self

import torch

from inference.engines.protocol import GenerationRequest, Sampling, TokenLogprobs
from inference.engines.transformers.lora_batch import NO_ADAPTER
from inference.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference.engines.transformers.constraint import Constraint
    from inference.engines.transformers.lora_batch import LoraBatch
    from inference.engines.transformers.prompt_logprobs import PromptScorer

ROW_KEY: Final = "row"
CANDIDATES: Final = 1024
"""Nucleus sampling first considers this many of the likeliest tokens: sorting a whole vocabulary costs ten
times more, and the nucleus is seldom larger. If it is, the whole vocabulary is sorted."""

STEP: Final = 0x9E3779B97F4A7C15 - (1 << 64)
FACTORS: Final = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
"""SplitMix64's constants, as signed integers."""


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

    def adjust(self, scores: torch.Tensor) -> None:
        """Apply bias, penalties, minimum length and grammar to the scores (vocabulary,), in place."""
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
            try:
                allowed = self.constraint.allowed(len(scores))
            except EngineError as error:
                self._fail(error)
            else:
                scores.masked_fill_(torch.from_numpy(~allowed).to(scores.device), -torch.inf)

    def record(self, token_id: int) -> None:
        """Update penalties and grammar with the token that was sampled."""
        if self._penalties is not None:
            self._penalties.count(token_id)
        if self.constraint is not None:
            try:
                self.constraint.advance(token_id)
            except EngineError as error:
                self._fail(error)

    def _fail(self, error: EngineError) -> None:
        # Tokens sampled before the batcher ends the request are discarded.
        self.error, self.constraint = error, None


class Bias:
    """The logit bias of a request. Tokens that are not in the vocabulary are ignored."""

    def __init__(self, sampling: Sampling, scores: torch.Tensor) -> None:
        known = {token_id: bias for token_id, bias in sampling.logit_bias if 0 <= token_id < len(scores)}
        self._token_ids = torch.tensor(list(known), dtype=torch.int64, device=scores.device)
        self._amounts = torch.tensor(list(known.values()), dtype=torch.float32, device=scores.device)

    def apply(self, scores: torch.Tensor) -> None:
        """Change the scores (vocabulary,) in place."""
        scores[self._token_ids] += self._amounts


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
        scores[token_ids] = found


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


@dataclass(frozen=True, slots=True)
class Draw:
    """The parameters of one row's next token.

    Attributes:
        sampling: The request's sampling parameters.
        position: The number of tokens before it in the answer; a seeded draw depends on nothing else.
    """

    sampling: Sampling
    position: int


def choose_tokens(scores: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Choose a token for each row of scores (rows, vocabulary), float32; returns (rows,).

    The order is the usual one: temperature, then top-k, top-p and min-p, each applied to what the one before
    kept. A token with a score of minus infinity is never chosen, unless the row has no other.
    """
    methods: dict[Callable[..., torch.Tensor], list[int]] = {}
    for index, draw in enumerate(draws):
        methods.setdefault(_sampling_method(draw.sampling), []).append(index)
    if len(methods) == 1:
        (choose,) = methods
        return choose(scores, draws)
    chosen = torch.empty(len(draws), dtype=torch.int64, device=scores.device)
    for choose, group in methods.items():
        chosen[group] = choose(scores[group], [draws[index] for index in group])
    return chosen


def _sampling_method(sampling: Sampling) -> Callable[..., torch.Tensor]:
    if sampling.is_greedy:
        return _choose_likeliest
    return _draw_from_all if sampling.top_p >= 1.0 and sampling.top_k == 0 else _draw_from_likeliest


def _choose_likeliest(scores: torch.Tensor, _draws: Sequence[Draw]) -> torch.Tensor:
    return scores.argmax(dim=-1)


def _draw_from_all(scores: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    scores = scores / _column(scores, [draw.sampling.temperature for draw in draws])
    _drop_unlikely(scores, draws)
    token_ids = torch.arange(scores.shape[-1], device=scores.device).unsqueeze(0)
    return _draw(scores, token_ids, draws)


def _draw_from_likeliest(scores: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    scores = scores / _column(scores, [draw.sampling.temperature for draw in draws])
    chosen, is_cut_off = _draw_from_candidates(scores, draws, CANDIDATES)
    rows = [index for index, is_row_cut_off in enumerate(is_cut_off.tolist()) if is_row_cut_off]
    if rows:
        redrawn, _ = _draw_from_candidates(scores[rows], [draws[row] for row in rows], scores.shape[-1])
        chosen[rows] = redrawn
    return chosen


def _draw_from_candidates(
    scores: torch.Tensor, draws: Sequence[Draw], candidates: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw from the likeliest tokens; return the tokens, and which rows have to be redrawn from all.

    Args:
        scores: The scores of all tokens, after temperature (rows, vocabulary).
        draws: The parameters of each row.
        candidates: The number of tokens to consider in rows without a top-k.
    """
    vocabulary = scores.shape[-1]
    top_ks = [draw.sampling.top_k for draw in draws]
    count = min(max(top_k or candidates for top_k in top_ks), vocabulary)
    kept, token_ids = torch.topk(scores, count)
    limits = _column(scores, [top_k or vocabulary for top_k in top_ks])
    kept.masked_fill_(torch.arange(count, device=scores.device) >= limits, -torch.inf)
    is_whole = limits >= vocabulary
    is_needed = _nucleus(kept, scores, is_whole, draws)
    # If even the last candidate is in the nucleus, tokens beyond the candidates may be as well.
    is_cut_off = is_whole.squeeze(-1) & is_needed[:, -1] & (kept[:, -1] > -torch.inf)
    kept.masked_fill_(~is_needed, -torch.inf)
    _drop_unlikely(kept, draws)
    chosen = _draw(kept, token_ids, draws)
    return token_ids.gather(-1, chosen.unsqueeze(-1)).squeeze(-1), is_cut_off & (count < vocabulary)


def _nucleus(
    kept: torch.Tensor, scores: torch.Tensor, is_whole: torch.Tensor, draws: Sequence[Draw]
) -> torch.Tensor:
    """Return which of the likeliest tokens (rows, kept) form each row's nucleus; at least one.

    Args:
        kept: Their scores, in descending order.
        scores: The scores of all tokens (rows, vocabulary).
        is_whole: For which rows (rows, 1) probabilities are relative to all tokens, not to the kept ones.
        draws: The parameters of each row.
    """
    total = torch.logsumexp(kept, dim=-1, keepdim=True)
    if any(draw.sampling.top_k == 0 for draw in draws):
        total = torch.where(is_whole, torch.logsumexp(scores, dim=-1, keepdim=True), total)
    probabilities = torch.exp(kept - total)
    before = torch.zeros_like(probabilities)
    before[:, 1:] = probabilities[:, :-1].cumsum(-1)
    # The sum of all probabilities may be rounded to more than one.
    limits = [draw.sampling.top_p if draw.sampling.top_p < 1.0 else torch.inf for draw in draws]
    return before < _column(scores, limits)


def _drop_unlikely(scores: torch.Tensor, draws: Sequence[Draw]) -> None:
    """Set the scores of tokens below min-p to minus infinity, in place."""
    if any(draw.sampling.min_p > 0.0 for draw in draws):
        shares = _column(scores, [draw.sampling.min_p for draw in draws])
        scores.masked_fill_(scores < scores.amax(-1, keepdim=True) + shares.log(), -torch.inf)


def _draw(scores: torch.Tensor, token_ids: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Draw an index for each row.

    Args:
        scores: The scores, minus infinity for excluded tokens (rows, tokens).
        token_ids: The tokens that they belong to (rows or 1, tokens).
        draws: The parameters of each row.
    """
    seeded = [index for index, draw in enumerate(draws) if draw.sampling.seed is not None]
    if not seeded:
        return _draw_unseeded(scores)
    keys = torch.tensor([_key(draws[index]) for index in seeded], dtype=torch.int64, device=scores.device)
    if len(seeded) == len(draws):
        return _draw_seeded(scores, token_ids, keys)
    chosen = _draw_unseeded(scores)
    chosen[seeded] = _draw_seeded(scores[seeded], token_ids.expand(len(draws), -1)[seeded], keys)
    return chosen


def _draw_unseeded(scores: torch.Tensor) -> torch.Tensor:
    """Draw with one random number a row, by inverse transform sampling.

    `multinomial` draws a number for each token, which takes many times longer.
    """
    cumulative = torch.softmax(scores, dim=-1).cumsum(-1)
    total = cumulative[:, -1:]
    point = torch.rand_like(total) * total
    # The product may be rounded up to the total, beyond which there is no token.
    point = torch.minimum(point, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, point, right=True).squeeze(-1)


def _draw_seeded(scores: torch.Tensor, token_ids: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Draw by the exponential race, in logarithms, so that the order of near-ties does not matter."""
    noise = seeded_noise(keys.unsqueeze(-1), token_ids)
    return torch.argmax(scores - noise.log_(), dim=-1)


def _key(draw: Draw) -> int:
    """Return 64 bits that depend only on seed and position."""
    text = f"{draw.sampling.seed} {draw.position}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big", signed=True)


def seeded_noise(keys: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Return exponentially distributed noise (rows, tokens), each a pure function of key and token.

    So a token's noise does not depend on the other tokens, their order or the device.

    Args:
        keys: 64 bits for each row (rows, 1).
        token_ids: The tokens (rows, tokens).

    Source: SplitMix64, number `token_id` of the stream that starts at the key. G. Steele, D. Lea, C. Flood,
    "Fast splittable pseudorandom number generators", 2014.
    """
    bits = token_ids * STEP + keys
    shifted = torch.empty_like(bits)
    # In place, so that a vocabulary's numbers stay in the processor's cache.
    for shift, factor in ((30, FACTORS[0]), (27, FACTORS[1]), (31, 1)):
        # torch's shift extends the sign; the mask makes it a logical shift.
        torch.bitwise_right_shift(bits, shift, out=shifted)
        bits.bitwise_xor_(shifted.bitwise_and_((1 << (64 - shift)) - 1)).mul_(factor)
    uniform = bits.bitwise_right_shift_(11).bitwise_and_((1 << 53) - 1).to(torch.float32).mul_(2.0**-53)
    return uniform.clamp_(2.0**-54, 1.0 - 2.0**-24).neg_().log1p_().neg_()


def _column(like: torch.Tensor, values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device).unsqueeze(-1)
