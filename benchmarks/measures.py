"""Compute the figures that are compared from the times of requests. Pure arithmetic, no clock."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Sample:
    """The times and counts of one request.

    Attributes:
        started_s: When it was sent, on a monotonic clock; all times of a load are of the same clock.
        ended_s: When its answer ended.
        text_times_s: When each piece of text arrived.
        tokens: The number of tokens of the answer.
        is_cut: Whether the answer reached the requested length, rather than being ended by the model.
        failure: Why there is no complete answer; None if there is one.
    """

    started_s: float
    ended_s: float
    text_times_s: tuple[float, ...] = ()
    tokens: int = 0
    is_cut: bool = False
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Three percentiles of a distribution, in its own unit."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Failure:
    """A reason for failed requests, and their count."""

    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """The results of a load. The percentiles are None if no request succeeded.

    Attributes:
        requests: The number of requests sent.
        ended_early: The number of answers that the model ended before the requested length.
        tokens: The number of tokens of all complete answers.
        duration_s: From the first request to the end of the last answer.
        inter_token_s: The gaps between pieces of text of the same answer. A server that sends several tokens
            at once has fewer and longer gaps; `tokens_per_piece` shows that.
        generator_cpu_share: The share of one core that the load generator itself used.
    """

    clients: int
    requests: int
    failures: tuple[Failure, ...]
    ended_early: int
    tokens: int
    duration_s: float
    tokens_per_s: float
    tokens_per_piece: float
    time_to_first_token_s: Percentiles | None
    inter_token_s: Percentiles | None
    request_s: Percentiles | None
    generator_cpu_share: float

    @property
    def errors(self) -> int:
        """Return the number of failed requests."""
        return sum(failure.count for failure in self.failures)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of the values lies, with linear interpolation.

    Raises:
        ValueError: If there are no values, or the share is not in [0, 1].
    """
    if not values or not 0.0 <= share <= 1.0:
        raise ValueError(f"there is no {share:g} percentile of {len(values)} values")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def percentiles(values: Sequence[float]) -> Percentiles | None:
    """Return the three percentiles, or None without values."""
    if not values:
        return None
    return Percentiles(percentile(values, 0.5), percentile(values, 0.95), percentile(values, 0.99))


def summarize(samples: Sequence[Sample], clients: int, cpu_s: float) -> Measurement:
    """Summarise a load.

    Args:
        samples: Its requests, at least one, in any order.
        clients: The number of clients that sent them.
        cpu_s: The processor time that the load generator used.
    """
    whole = [sample for sample in samples if sample.failure is None]
    duration_s = max(sample.ended_s for sample in samples) - min(sample.started_s for sample in samples)
    tokens = sum(sample.tokens for sample in whole)
    pieces = sum(len(sample.text_times_s) for sample in whole)
    return Measurement(
        clients=clients,
        requests=len(samples),
        failures=_count_failures(samples),
        ended_early=sum(not sample.is_cut for sample in whole),
        tokens=tokens,
        duration_s=duration_s,
        tokens_per_s=_share(tokens, duration_s),
        tokens_per_piece=_share(tokens, pieces),
        time_to_first_token_s=percentiles(
            [each.text_times_s[0] - each.started_s for each in whole if each.text_times_s]
        ),
        inter_token_s=percentiles([gap for sample in whole for gap in _gaps(sample.text_times_s)]),
        request_s=percentiles([sample.ended_s - sample.started_s for sample in whole]),
        generator_cpu_share=_share(cpu_s, duration_s),
    )


def median_ratio(values: Sequence[float | None], baseline: Sequence[float | None]) -> float | None:
    """Return the median over rounds of value / baseline; None if no round has both.

    Values are compared within a round, so that drift of the machine between rounds cancels out. Rounds that
    only one of them has completed are left out.
    """
    ratios = [
        value / base
        for value, base in zip(values, baseline, strict=False)
        if value is not None and base is not None and base > 0
    ]
    return statistics.median(ratios) if ratios else None


def median_of(values: Iterable[float | None]) -> float | None:
    """Return the median of the values that are not None, or None if there are none."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _gaps(times_s: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times_s)]


def _count_failures(samples: Sequence[Sample]) -> tuple[Failure, ...]:
    counts = Counter(sample.failure for sample in samples if sample.failure is not None)
    return tuple(Failure(reason, count) for reason, count in counts.most_common())


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
