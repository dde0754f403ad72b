from __future__ import annotations

import asyncio

import pytest

from inference.engines.protocol import GenerationRequest, Increment, Sampling, TokenLogprobs
from inference.errors import EngineError
from tests.doubles.scripted_engine import ScriptedEngine

LOGPROBS = tuple(TokenLogprobs(-float(index)) for index in range(4))


@pytest.mark.parametrize(
    ("step", "room", "expected"),
    [
        ((5, 6, 7), 9, None),
        ((5, 6, 7), 3, Increment((5, 6, 7), "length")),
        ((5, 6, 7), 2, Increment((5, 6), "length")),
        ((5, 0, 7), 2, Increment((5, 0), "stop")),
        ((5, 6, 0), 2, Increment((5, 6), "length")),
        (Increment((5, 0, 7, 8), None, LOGPROBS), 9, Increment((5, 0), "stop", LOGPROBS[:2])),
        (Increment((5, 6, 7, 8), None, LOGPROBS), 3, Increment((5, 6, 7), "length", LOGPROBS[:3])),
        (Increment((5, 6), "stop"), 2, Increment((5, 6), "stop")),
        (Increment((5, 6), "stop"), 1, Increment((5,), "length")),
    ],
)
async def test_a_step_is_cut_at_the_end_token_and_at_the_request_s_length(
    step: tuple[int, ...] | Increment, room: int, expected: Increment | None
) -> None:
    engine = ScriptedEngine({"m": 64}, frozenset({0}))
    engine.play(step)
    stream = engine.submit(GenerationRequest("r", "m", (1,), room, Sampling(0.0)))
    increment = await anext(stream)
    assert increment == (expected or Increment((5, 6, 7)))
    assert stream.is_over is (expected is not None)
    await engine.close()


async def test_a_request_ends_with_the_engine_even_before_its_script_has_begun() -> None:
    engine = ScriptedEngine({"m": 64})
    engine.play((5,))
    stream = engine.submit(GenerationRequest("r", "m", (1,), 9, Sampling(0.0)))
    await engine.close()
    async with asyncio.timeout(60):
        with pytest.raises(EngineError, match="the engine stopped before the answer was complete"):
            await anext(stream)
    assert engine.running == 0
