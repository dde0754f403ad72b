"""Draw a token for each row of scores, by the row's temperature, top-k, top-p, min-p and seed.

Rows with the same sampling method are drawn together, not one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference.engines.protocol import Sampling

CANDIDATES: Final = 1024
"""Nucleus sampling first considers this many of the likeliest tokens: sorting a whole vocabulary costs ten
times more, and the nucleus is seldom larger. If it is, the whole vocabulary is sorted."""

MAX_QUOTIENT: Final = 1e37
"""The largest score after the division by a temperature; float32 ends at 3e38."""

STEP: Final = 0x9E3779B97F4A7C15 - (1 << 64)
FACTORS: Final = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
"""SplitMix64's constants, as signed integers."""


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


def _apply_temperatures(scores: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Divide each row by its temperature, or by the smallest one that leaves its highest score finite.

    With so small a temperature the probability of the likeliest token is 1 either way.
    """
    temperatures = _column(scores, [draw.sampling.temperature for draw in draws])
    smallest = scores.amax(-1, keepdim=True).abs_().mul_(1 / MAX_QUOTIENT).clamp_(min=1 / MAX_QUOTIENT)
    return scores / torch.maximum(temperatures, smallest)


def _draw_from_all(scores: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    scores = _apply_temperatures(scores, draws)
    _drop_unlikely(scores, draws)
    token_ids = torch.arange(scores.shape[-1], device=scores.device).unsqueeze(0)
    return _draw(scores, token_ids, draws)


def _draw_from_likeliest(scores: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    scores = _apply_temperatures(scores, draws)
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
    is_needed = before < _column(scores, limits)
    # A limit that is too small for float32 is zero.
    is_needed[:, 0] = True
    return is_needed


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
    # A row without a usable score has no cumulative probabilities, and nothing is beyond the last token.
    return torch.searchsorted(cumulative, point, right=True).squeeze(-1).clamp_(max=scores.shape[-1] - 1)


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
