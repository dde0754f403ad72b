"""How many answers this machine can generate at once, so that each ends within the time limit.

The duration of a step is measured once the engine is warm, for a few batch sizes. What follows from it is
pure arithmetic.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from inference.engines.protocol import GenerationRequest, Sampling, Stopping
from inference.service.forecast import LIMIT_SHARE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference.engines.protocol import Engine, ServedModel
    from inference.service.requests import Limits

MEASURED_STEPS: Final = 2
MIN_BUDGET_S: Final = 0.35
"""How long the measurement may take where the start takes seconds."""

BUDGET_SHARE: Final = 0.03
"""How long it may take as a share of the start: a large model's steps take longer, as its loading does."""

FEW_ROWS: Final = 4
SOME_ROWS: Final = 16
"""The rows of the second measurement, for slow models and for others. With fewer rows, noise hides what a row
costs."""

MAX_SECOND_S: Final = 2.0
"""The longest step that the second measurement may have, if each row took as long as one alone."""

CHEAP_SLOWDOWN: Final = 1.25
"""Answers that slow each other down by less than this are generated together, whatever the time limit is."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """The duration of a step, as a function of the number of rows: `fixed_s + row_s * rows`."""

    fixed_s: float
    row_s: float

    @classmethod
    def fit(cls, points: Sequence[tuple[int, float]]) -> StepCost:
        """Return the cost through the first and the last of some measured points, from few rows to many.

        With a single point, all of its time counts as the rows': nothing can be slower. Fewer rows take no
        longer than more: what says otherwise was disturbed by something else on the machine.
        """
        (few, _), (many, many_s) = points[0], points[-1]
        few_s = min(step_s for _, step_s in points)
        if few == many:
            return cls(0.0, few_s / few)
        row_s = max(0.0, (many_s - few_s) / (many - few))
        return cls(max(0.0, few_s - row_s * few), row_s)

    def step_s(self, rows: int) -> float:
        """Return the duration of a step, in seconds."""
        return self.fixed_s + self.row_s * rows

    def rows_within(self, step_s: float, max_rows: int) -> int:
        """Return the most rows whose step takes at most this long; 0 if even one row takes longer."""
        if self.step_s(max_rows) <= step_s:
            return max_rows
        if self.row_s == 0.0:
            return 0
        rows = max(0, min(max_rows, math.floor((step_s - self.fixed_s) / self.row_s)))
        # The division rounds.
        return rows + 1 if rows < max_rows and self.step_s(rows + 1) <= step_s else rows


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much the engine can do at once.

    Attributes:
        slots: The number of answers.
        max_tokens: The number of tokens that end in time, of those that these answers are expected to have;
            may be infinite.
        cache_tokens: The number of tokens that the key-value cache holds, with the prompts; may be infinite.
        step_s: Returns the duration of a step by its number of answers; None if it is unknown.
        full_length: The tokens of an answer that reaches the default limit.
        reason: Why it is this much, in a sentence for the log.
        warning: What is wrong, if not even one answer fits the time limit.
    """

    slots: int
    max_tokens: float
    cache_tokens: float
    step_s: Callable[[int], float] | None
    full_length: int
    reason: str
    warning: str | None = None


def choose_capacity(
    cost: StepCost | None, limits: Limits, max_batch: int, full_length: int, cache_tokens: int | None
) -> Capacity:
    """Return how much to do at once, so that what is begun ends within the time limit.

    Args:
        cost: The measured duration of a step; None if it could not be measured.
        limits: The limits on every request. A number of answers in them is kept.
        max_batch: The most answers that the engine takes into a step.
        full_length: The tokens of an answer that reaches the default limit.
        cache_tokens: How many tokens the key-value cache holds; None if the engine copes with a full one.
    """
    if limits.max_concurrent is not None:
        reason = f"answers at once: {limits.max_concurrent}, as set"
        step_s = cost.step_s if cost else None
        warning = _warning(cost, limits, full_length)
        return Capacity(limits.max_concurrent, math.inf, math.inf, step_s, full_length, reason, warning)
    cached = math.inf if cache_tokens is None else cache_tokens
    if cost is None:
        reason = f"answers at once: {max_batch}; the engine's speed could not be measured"
        return Capacity(max_batch, math.inf, cached, None, full_length, reason)
    speed = max_batch / max(cost.step_s(max_batch), 1e-6)
    in_time = speed * LIMIT_SHARE * limits.request_timeout_s
    cheap = full_length * cost.rows_within(CHEAP_SLOWDOWN * cost.step_s(1), max_batch)
    max_tokens = max(in_time, cheap)
    answers = max(1, min(max_batch, int(min(max_tokens, cached) / full_length)))
    reason = (
        f"answers at once: {max_batch}, or {answers} of {full_length} tokens: the engine generates"
        f" {speed:,.0f} tokens/s in a full batch and {1 / max(cost.step_s(1), 1e-6):,.0f} for one answer, so"
        f" {in_time:,.0f} tokens in half of the {limits.request_timeout_s:g} s that a request may take"
    )
    if cached < in_time:
        reason += f", and the key-value cache holds {cache_tokens:,}"
    warning = _warning(cost, limits, full_length)
    return Capacity(max_batch, max_tokens, cached, cost.step_s, full_length, reason, warning)


def _warning(cost: StepCost | None, limits: Limits, full_length: int) -> str | None:
    """Return what is wrong if one answer alone takes longer than it may."""
    alone_s = 0.0 if cost is None else full_length * cost.step_s(1)
    if alone_s <= limits.request_timeout_s:
        return None
    return (
        f"an answer of {full_length} tokens takes about {alone_s:.0f} s on this machine, and a request may"
        f" take {limits.request_timeout_s:g} s: lower FJARR_MAX_NEW_TOKENS, or use a smaller model"
    )


async def measure_step_cost(
    engine: Engine,
    model: ServedModel,
    max_batch: int,
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> StepCost | None:
    """Measure how long a step takes with one row, and with as many as fit into a time budget.

    Args:
        engine: The engine; it is warm and idle.
        model: The model to measure.
        max_batch: The most rows to measure.
        budget_s: About how long all measurements may take. Two of them are always made.
        clock: Returns seconds.

    Returns:
        None if the engine's steps cannot be told apart.

    Raises:
        EngineError: If the engine fails.
    """
    ends_at, points, rows = clock() + budget_s, list[tuple[int, float]](), 1
    while True:
        step_s = await _measure_step(engine, model, rows, clock)
        if step_s is None:
            break
        points.append((rows, step_s))
        if rows == 1:
            is_slow = SOME_ROWS * step_s > MAX_SECOND_S
            more = min(FEW_ROWS if is_slow else SOME_ROWS, max_batch)
        else:
            # A request's first token is a step of its own.
            possible_s = (ends_at - clock()) / (MEASURED_STEPS + 1)
            more = StepCost.fit(points).rows_within(possible_s, max_batch)
        if more < 1.5 * rows:
            break
        rows = more
    return StepCost.fit(points) if points else None


async def _measure_step(
    engine: Engine, model: ServedModel, rows: int, clock: Callable[[], float]
) -> float | None:
    """Return the duration of a step with some rows; None if all tokens arrived at once."""
    request = GenerationRequest(
        f"warm-up-{rows}",
        model.name,
        model.codec.encode("Hello")[:1] or (0,),
        MEASURED_STEPS + 1,
        Sampling(),
        stopping=Stopping(ignore_eos=True) if "stopping" in engine.abilities else Stopping(),
    )

    async def read() -> tuple[float, float, int]:
        """Return when the first and the last tokens came, and how many came after the first ones."""
        times, counts = list[float](), list[int]()
        async for increment in engine.submit(request):
            times.append(clock())
            counts.append(len(increment.token_ids))
        return times[0], times[-1], sum(counts[1:])

    # The rows are all in the batch once the last of them has begun.
    timings = await asyncio.gather(*(read() for _ in range(rows)))
    first, _, steps = max(timings)
    last = max(timing[1] for timing in timings)
    return (last - first) / steps if steps and last > first else None
