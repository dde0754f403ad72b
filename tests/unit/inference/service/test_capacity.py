from __future__ import annotations

import asyncio
import math

import pytest

from inference.engines.protocol import GenerationRequest, Increment, ServedModel, TokenStream
from inference.service.capacity import Capacity, StepCost, choose_capacity, measure_step_cost
from inference.service.requests import Limits
from tests.doubles.byte_codec import ByteCodec
from tests.doubles.scripted_engine import ScriptedEngine

MODEL = ServedModel("m", None, ByteCodec(), frozenset({256}), 0)
SMALL_ON_TWO_CORES = StepCost(0.0125, 0.002)
LARGE_ON_TWO_CORES = StepCost(0.7, 0.05)
SMALL_ON_A_GPU = StepCost(0.025, 0.0001)


@pytest.mark.parametrize(
    ("points", "cost"),
    [
        ([(1, 0.5)], StepCost(0.0, 0.5)),
        ([(1, 0.25), (5, 1.25)], StepCost(0.0, 0.25)),
        ([(1, 0.5), (3, 9.0), (5, 1.5)], StepCost(0.25, 0.25)),
        # Noise: a larger batch was faster, or the first row was for nothing.
        ([(1, 0.5), (5, 0.25)], StepCost(0.25, 0.0)),
        ([(1, 9.0), (3, 0.5), (5, 1.5)], StepCost(0.25, 0.25)),
        ([(1, 0.125), (2, 0.5)], StepCost(0.0, 0.375)),
    ],
)
def test_the_cost_of_a_step_is_a_line_through_what_was_measured(
    points: list[tuple[int, float]], cost: StepCost
) -> None:
    assert StepCost.fit(points) == cost


@pytest.mark.parametrize("cost", [SMALL_ON_TWO_CORES, LARGE_ON_TWO_CORES, SMALL_ON_A_GPU, StepCost(0.1, 0.0)])
@pytest.mark.parametrize("step_s", [0.0, 0.01, 0.0125, 0.0145, 0.06, 0.1, 0.75, 0.8, 100.0])
def test_the_rows_within_a_time_are_the_most_that_take_no_longer(cost: StepCost, step_s: float) -> None:
    rows = cost.rows_within(step_s, 64)
    assert 0 <= rows <= 64
    assert rows == 0 or cost.step_s(rows) <= step_s
    assert rows == 64 or cost.step_s(rows + 1) > step_s


@pytest.mark.parametrize(
    ("cost", "cache_tokens", "answers"),
    [
        # 456 tokens/s, so 52,384 tokens in half of 230 s.
        (SMALL_ON_TWO_CORES, None, 51),
        (SMALL_ON_TWO_CORES, 16_384, 16),
        (SMALL_ON_TWO_CORES, 262_144, 51),
        # Not even one fits, and three slow each other down by little.
        (LARGE_ON_TWO_CORES, 16_384, 4),
        (StepCost(2.0, 1.0), 16_384, 1),
        (SMALL_ON_A_GPU, 262_144, 228),
        (None, None, None),
        (None, 16_384, 16),
    ],
)
def test_what_runs_at_once_ends_in_half_of_the_time_limit(
    cost: StepCost | None, cache_tokens: int | None, answers: int | None
) -> None:
    capacity = choose_capacity(cost, Limits(), 64, 1024, cache_tokens)
    assert capacity.slots == 64
    tokens = min(capacity.max_tokens, capacity.cache_tokens)
    assert (None if math.isinf(tokens) else tokens // 1024) == answers


def test_the_reason_has_the_measured_speed_and_what_follows() -> None:
    capacity = choose_capacity(SMALL_ON_TWO_CORES, Limits(), 64, 1024, 16_384)
    assert capacity.reason == (
        "answers at once: 64, or 16 of 1024 tokens: the engine generates 456 tokens/s in a full batch and 69"
        " for one answer, so 52,384 tokens in half of the 230 s that a request may take, and the key-value"
        " cache holds 16,384"
    )
    assert capacity.warning is None


def test_a_number_that_is_set_is_kept() -> None:
    assert choose_capacity(SMALL_ON_TWO_CORES, Limits(max_concurrent=7), 7, 1024, 16_384) == Capacity(
        slots=7,
        max_tokens=math.inf,
        cache_tokens=math.inf,
        step_s=SMALL_ON_TWO_CORES.step_s,
        full_length=1024,
        reason="answers at once: 7, as set",
    )


def test_a_machine_that_is_too_slow_for_one_answer_is_a_warning() -> None:
    for limits in (Limits(), Limits(max_concurrent=4)):
        assert choose_capacity(LARGE_ON_TWO_CORES, limits, 64, 1024, None).warning == (
            "an answer of 1024 tokens takes about 768 s on this machine, and a request may take 230 s: lower"
            " FJARR_MAX_NEW_TOKENS, or use a smaller model"
        )


class SteppedEngine(ScriptedEngine):
    """An engine whose steps take a time that follows from the number of rows, by a clock of its own."""

    def __init__(self, cost: StepCost, delivered_at_once: int = 1) -> None:
        super().__init__({"m": 1000})
        self.now = 0.0
        self.rows: list[int] = []
        self._cost = cost
        self._delivered_at_once = delivered_at_once
        self._open: list[tuple[GenerationRequest, TokenStream]] = []

    def submit(self, request: GenerationRequest) -> TokenStream:
        stream = TokenStream(lambda: None)
        self._open.append((request, stream))
        if len(self._open) == 1:
            asyncio.get_running_loop().call_soon(self._step, 0)
        return stream

    def _step(self, step: int) -> None:
        rows, length = len(self._open), self._open[0][0].max_new_tokens
        if step == 0:
            self.rows.append(rows)
        self.now += self._cost.step_s(rows)
        if (step + 1) % self._delivered_at_once == 0 or step + 1 == length:
            count = step % self._delivered_at_once + 1
            for _, stream in self._open:
                stream.push(Increment((5,) * count, "length" if step + 1 == length else None))
        if step + 1 == length:
            self._open = []
        else:
            # The readers run between two steps.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._step, step + 1)


@pytest.mark.parametrize(
    ("cost", "rows", "most_s"),
    [
        (SMALL_ON_TWO_CORES, [1, 16, 30], 0.5),
        (SMALL_ON_A_GPU, [1, 16, 64], 0.5),
        (LARGE_ON_TWO_CORES, [1, 4], 6.0),
        (StepCost(7.0, 0.5), [1, 4], 50.0),
    ],
)
async def test_the_measurement_finds_the_cost_and_keeps_to_its_budget(
    cost: StepCost, rows: list[int], most_s: float
) -> None:
    engine = SteppedEngine(cost)
    found = await measure_step_cost(engine, MODEL, 64, 0.4, lambda: engine.now)
    assert found is not None
    assert found.fixed_s == pytest.approx(cost.fixed_s)
    assert found.row_s == pytest.approx(cost.row_s)
    assert engine.rows == rows
    assert engine.now <= most_s


async def test_an_engine_for_one_answer_at_once_is_measured_with_one() -> None:
    engine = SteppedEngine(SMALL_ON_TWO_CORES)
    found = await measure_step_cost(engine, MODEL, 1, 0.4, lambda: engine.now)
    assert found is not None
    assert found.step_s(1) == pytest.approx(SMALL_ON_TWO_CORES.step_s(1))
    assert engine.rows == [1]


async def test_tokens_that_all_arrive_at_once_tell_nothing() -> None:
    engine = SteppedEngine(SMALL_ON_TWO_CORES, delivered_at_once=99)
    assert await measure_step_cost(engine, MODEL, 64, 0.4, lambda: engine.now) is None


async def test_tokens_that_arrive_in_pairs_count_each() -> None:
    engine = SteppedEngine(SMALL_ON_TWO_CORES, delivered_at_once=2)
    found = await measure_step_cost(engine, MODEL, 64, 0.4, lambda: engine.now)
    assert found is not None
    assert found.row_s == pytest.approx(SMALL_ON_TWO_CORES.row_s)
