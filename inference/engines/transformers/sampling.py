"""Choose each request's next token by its own sampling, inside one batch.

It takes the place of the manager's list of logits processors, by the same few methods. The manager then takes
the largest score of each row; so a row that asks for more than the likeliest token gets its token chosen
here, and that token's score made the largest. A batch in which all are plainly greedy passes through
untouched, at no cost, and its answers are `argmax`'s exactly.

Rows that draw are drawn together, in as many tensors as there are ways to draw, not one by one.

Source: transformers 5.23, `generation/continuous_batching/cb_logits_processors.py`, `model_runner.py` and
`requests.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Self

import torch

from inference.engines.protocol import GenerationRequest, Sampling, TokenLogprobs
from inference.engines.transformers.lora_batch import BASE
from inference.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference.engines.transformers.constraint import Constraint
    from inference.engines.transformers.lora_batch import Mix

ROW_KEY: Final = "row"
CANDIDATES: Final = 1024
"""Nucleus sampling looks at this many of the likeliest tokens first: sorting a whole vocabulary costs ten
times more, and the nucleus is seldom larger. Where it is, everything is sorted."""

STEP: Final = 0x9E3779B97F4A7C15 - (1 << 64)
FACTORS: Final = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
"""SplitMix64's numbers, as signed ones."""


@dataclass(eq=False, slots=True)
class Row:
    """Be one request in the manager's batches, from its first token to its last.

    When its cache is full, the manager puts a request off and later takes up a copy of it, whose prompt ends
    with what was generated. A row is not copied: it goes on from where it was.

    Attributes:
        constraint: What the answer is held to; none once it has failed.
        number: The adapter that it asks for, in the network's mix.
        is_plain: Whether it takes the likeliest token and asks for nothing else.
        position: How many tokens it has chosen.
        logprobs: One for each of them, if the request asks for them.
        error: Why the request has to be ended, if so. It is the lane that ends it.
    """

    request: GenerationRequest
    constraint: Constraint | None = None
    number: int = BASE
    is_plain: bool = field(init=False)
    position: int = field(default=0, init=False)
    logprobs: list[TokenLogprobs] = field(default_factory=list, init=False)
    error: EngineError | None = field(default=None, init=False)
    _bias: Bias | None = field(default=None, init=False)
    _penalties: Penalties | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.is_plain = self.sampling.is_greedy and not self.request.needs - {"seed"}

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self

    @property
    def sampling(self) -> Sampling:
        """Return how its tokens are chosen."""
        return self.request.sampling

    @property
    def is_counting(self) -> bool:
        """Return whether it has to know its tokens as soon as they are chosen."""
        return self.constraint is not None or self.sampling.has_penalties

    def shape(self, scores: torch.Tensor) -> None:
        """Change the scores (vocabulary,) in place: bias and penalties, then what the grammar allows."""
        sampling = self.sampling
        if sampling.logit_bias:
            self._bias = self._bias or Bias(sampling, scores)
            self._bias.apply(scores)
        if sampling.has_penalties:
            self._penalties = self._penalties or Penalties(self.request, scores.device)
            self._penalties.apply(scores)
        if self.constraint is not None:
            try:
                allowed = self.constraint.allowed(len(scores))
            except EngineError as error:
                self._fail(error)
            else:
                scores.masked_fill_(torch.from_numpy(~allowed).to(scores.device), -torch.inf)

    def note(self, token_id: int) -> None:
        """Remember the token that was chosen."""
        if self._penalties is not None:
            self._penalties.count(token_id)
        if self.constraint is not None:
            try:
                self.constraint.take(token_id)
            except EngineError as error:
                self._fail(error)

    def _fail(self, error: EngineError) -> None:
        # The tokens that come until the lane has ended the request go nowhere.
        self.error, self.constraint = error, None


class Bias:
    """Add to some tokens' scores. Those that the model does not have are left out."""

    def __init__(self, sampling: Sampling, scores: torch.Tensor) -> None:
        known = {token_id: bias for token_id, bias in sampling.logit_bias if 0 <= token_id < len(scores)}
        self._token_ids = torch.tensor(list(known), dtype=torch.int64, device=scores.device)
        self._amounts = torch.tensor(list(known.values()), dtype=torch.float32, device=scores.device)

    def apply(self, scores: torch.Tensor) -> None:
        """Change the scores (vocabulary,) in place."""
        scores[self._token_ids] += self._amounts


class Penalties:
    """Count a row's tokens, and take from the scores of those that it has had.

    The repetition penalty counts the prompt's too; the other two count the answer's alone, like OpenAI's.
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
        """Take note of one more token of the answer."""
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
    """Apply each row's own sampling. Takes the place of `ContinuousBatchingLogitsProcessorList`.

    Args:
        mix: What is to know which adapters a step's rows ask for, if the network has several in it.
    """

    tensors_required = 0

    def __init__(self, mix: Mix | None = None) -> None:
        self._mix = mix
        self._rows: dict[int, Row] = {}
        self.do_processing = True

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Accept our one key.

        Raises:
            ValueError: For any other.
        """
        if set(kwargs) != {ROW_KEY}:
            raise ValueError(f"expected the key {ROW_KEY!r} alone, not {sorted(kwargs)}")

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """Do nothing: no argument travels as a tensor."""

    def prepare_tensor_args(self, requests_in_batch: list[Any], arg_storage: torch.Tensor) -> torch.Tensor:
        """Note the rows of the batch to come that ask for something, by where they are in it."""
        rows: list[Row] = [request.state.logit_processor_kwargs[ROW_KEY] for request in requests_in_batch]
        if self._mix is not None:
            lengths = [request.query_length for request in requests_in_batch]
            self._mix.begin_step([(row.number, length) for row, length in zip(rows, lengths, strict=True)])
        pairs = zip(rows, requests_in_batch, strict=True)
        choosing = [row for row, request in pairs if request.has_new_token]
        self._rows = {index: row for index, row in enumerate(choosing) if not row.is_plain}
        return arg_storage

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, _args: torch.Tensor) -> torch.Tensor:
        """Return scores (rows, vocabulary), float32, whose largest is each row's next token."""
        del input_ids
        if not self._rows:
            return scores
        rows, places = list(self._rows.values()), list(self._rows)
        own = scores[places]
        look = LogprobsLook(own, rows)
        for row, row_scores in zip(rows, own, strict=True):
            row.shape(row_scores)
        chosen = choose_tokens(own, [Draw(row.sampling, row.position) for row in rows])
        look.note(chosen)
        _note(rows, chosen)
        scores[places, chosen] = torch.inf
        return scores


class LogprobsLook:
    """Take the log-probabilities of the rows that ask for them, before anything changes their scores.

    Args:
        scores: The model's own (rows, vocabulary).
        rows: Whose they are.
    """

    def __init__(self, scores: torch.Tensor, rows: Sequence[Row]) -> None:
        asking = {index: row for index, row in enumerate(rows) if row.request.top_logprobs is not None}
        self._rows, self._places = list(asking.values()), list(asking)
        if asking:
            self._logprobs = torch.log_softmax(scores[self._places], dim=-1)

    def note(self, chosen: torch.Tensor) -> None:
        """Give each row that asked what it asked for, now that all have their tokens (rows,)."""
        if not self._rows:
            return
        most = max(row.request.top_logprobs or 0 for row in self._rows)
        top = torch.topk(self._logprobs, min(most, self._logprobs.shape[-1]))
        taken = self._logprobs.gather(-1, chosen[self._places].unsqueeze(-1)).squeeze(-1)
        told = zip(self._rows, taken.tolist(), top.indices.tolist(), top.values.tolist(), strict=True)
        for row, logprob, token_ids, logprobs in told:
            pairs = tuple(zip(token_ids, logprobs, strict=True))
            row.logprobs.append(TokenLogprobs(logprob, pairs[: row.request.top_logprobs]))


def _note(rows: Sequence[Row], chosen: torch.Tensor) -> None:
    for row in rows:
        row.position += 1
    # On a card, asking for the numbers waits for all that went before.
    if any(row.is_counting for row in rows):
        for row, token_id in zip(rows, chosen.tolist(), strict=True):
            row.note(token_id)


@dataclass(frozen=True, slots=True)
class Draw:
    """Say how one row's token is chosen.

    Attributes:
        sampling: The request's.
        position: How many tokens the answer has already: with a seed, all that chance depends on.
    """

    sampling: Sampling
    position: int


def choose_tokens(scores: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Choose a token for each row of scores (rows, vocabulary), float32; returns (rows,).

    The order is the usual one: temperature, then top-k, top-p and min-p, each on what the one before left. A
    token with a score of minus infinity is never chosen, as long as the row has another.
    """
    ways: dict[Callable[..., torch.Tensor], list[int]] = {}
    for index, draw in enumerate(draws):
        ways.setdefault(_way(draw.sampling), []).append(index)
    if len(ways) == 1:
        (choose,) = ways
        return choose(scores, draws)
    chosen = torch.empty(len(draws), dtype=torch.int64, device=scores.device)
    for choose, group in ways.items():
        chosen[group] = choose(scores[group], [draws[index] for index in group])
    return chosen


def _way(sampling: Sampling) -> Callable[..., torch.Tensor]:
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
    chosen, is_open = _draw_from_candidates(scores, draws, CANDIDATES)
    rows = [index for index, is_row_open in enumerate(is_open.tolist()) if is_row_open]
    if rows:
        again, _ = _draw_from_candidates(scores[rows], [draws[row] for row in rows], scores.shape[-1])
        chosen[rows] = again
    return chosen


def _draw_from_candidates(
    scores: torch.Tensor, draws: Sequence[Draw], candidates: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw from the likeliest tokens, and say for each row whether that were too few to tell.

    Args:
        scores: Of all tokens, after temperature (rows, vocabulary).
        draws: How each row draws.
        candidates: How many tokens to look at in rows without a top-k.
    """
    vocabulary = scores.shape[-1]
    top_ks = [draw.sampling.top_k for draw in draws]
    count = min(max(top_k or candidates for top_k in top_ks), vocabulary)
    kept, token_ids = torch.topk(scores, count)
    limits = _column(scores, [top_k or vocabulary for top_k in top_ks])
    kept.masked_fill_(torch.arange(count, device=scores.device) >= limits, -torch.inf)
    is_whole = limits >= vocabulary
    is_needed = _nucleus(kept, scores, is_whole, draws)
    # Where even the last candidate is needed, some that are not candidates may be.
    is_open = is_whole.squeeze(-1) & is_needed[:, -1] & (kept[:, -1] > -torch.inf)
    kept.masked_fill_(~is_needed, -torch.inf)
    _drop_unlikely(kept, draws)
    chosen = _draw(kept, token_ids, draws)
    return token_ids.gather(-1, chosen.unsqueeze(-1)).squeeze(-1), is_open & (count < vocabulary)


def _nucleus(
    kept: torch.Tensor, scores: torch.Tensor, is_whole: torch.Tensor, draws: Sequence[Draw]
) -> torch.Tensor:
    """Return which of the likeliest tokens (rows, kept) it takes to reach each row's top-p; at least one.

    Args:
        kept: Their scores, the largest first.
        scores: Of all tokens (rows, vocabulary).
        is_whole: For which rows (rows, 1) the probabilities are those among all tokens, not among the kept.
        draws: How each row draws.
    """
    total = torch.logsumexp(kept, dim=-1, keepdim=True)
    if any(draw.sampling.top_k == 0 for draw in draws):
        total = torch.where(is_whole, torch.logsumexp(scores, dim=-1, keepdim=True), total)
    probabilities = torch.exp(kept - total)
    before = torch.zeros_like(probabilities)
    before[:, 1:] = probabilities[:, :-1].cumsum(-1)
    # Rounded, a sum over everything may be more than one.
    limits = [draw.sampling.top_p if draw.sampling.top_p < 1.0 else torch.inf for draw in draws]
    return before < _column(scores, limits)


def _drop_unlikely(scores: torch.Tensor, draws: Sequence[Draw]) -> None:
    """Drop, in place, what is less likely than min-p allows."""
    if any(draw.sampling.min_p > 0.0 for draw in draws):
        shares = _column(scores, [draw.sampling.min_p for draw in draws])
        scores.masked_fill_(scores < scores.amax(-1, keepdim=True) + shares.log(), -torch.inf)


def _draw(scores: torch.Tensor, token_ids: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Draw an index for each row (rows, tokens).

    Args:
        scores: After all that narrows the choice.
        token_ids: Which tokens they are of (rows or 1, tokens).
        draws: How each row draws.
    """
    seeded = [index for index, draw in enumerate(draws) if draw.sampling.seed is not None]
    if not seeded:
        return _draw_by_chance(scores)
    keys = torch.tensor([_key(draws[index]) for index in seeded], dtype=torch.int64, device=scores.device)
    if len(seeded) == len(draws):
        return _race(scores, token_ids, keys)
    chosen = _draw_by_chance(scores)
    chosen[seeded] = _race(scores[seeded], token_ids.expand(len(draws), -1)[seeded], keys)
    return chosen


def _draw_by_chance(scores: torch.Tensor) -> torch.Tensor:
    """Draw by one number a row, which falls on a stretch as long as its token is likely.

    `multinomial` draws a number for each token, which takes many times longer.
    """
    reached = torch.softmax(scores, dim=-1).cumsum(-1)
    total = reached[:, -1:]
    point = torch.rand_like(total) * total
    # Rounded, the product may be the total, beyond which there is no token.
    point = torch.minimum(point, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(reached, point, right=True).squeeze(-1)


def _race(scores: torch.Tensor, token_ids: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Draw by the exponential race, in logarithms: near-ties in the order of tokens change nothing."""
    noise = seeded_noise(keys.unsqueeze(-1), token_ids)
    return torch.argmax(scores - noise.log_(), dim=-1)


def _key(draw: Draw) -> int:
    """Return 64 bits that follow from seed and position alone."""
    text = f"{draw.sampling.seed} {draw.position}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big", signed=True)


def seeded_noise(keys: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Return exponentially distributed noise (rows, tokens), each a pure function of key and token.

    So a token's noise is the same whichever others are looked at, in whatever order, on whatever device.

    Args:
        keys: 64 bits for each row (rows, 1).
        token_ids: Which tokens (rows, tokens).

    Source: SplitMix64, of which this is number `token_id` of the stream that starts at the key: G. Steele,
    D. Lea, C. Flood, "Fast splittable pseudorandom number generators", 2014.
    """
    bits = token_ids * STEP + keys
    shifted = torch.empty_like(bits)
    # In place: a vocabulary's numbers then stay in the processor's cache.
    for shift, factor in ((30, FACTORS[0]), (27, FACTORS[1]), (31, 1)):
        # torch shifts the sign in from the left, where zeros belong.
        torch.bitwise_right_shift(bits, shift, out=shifted)
        bits.bitwise_xor_(shifted.bitwise_and_((1 << (64 - shift)) - 1)).mul_(factor)
    uniform = bits.bitwise_right_shift_(11).bitwise_and_((1 << 53) - 1).to(torch.float32).mul_(2.0**-53)
    return uniform.clamp_(2.0**-54, 1.0 - 2.0**-24).neg_().log1p_().neg_()


def _column(like: torch.Tensor, values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device).unsqueeze(-1)
