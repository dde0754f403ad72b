"""The check of models: each answers, or the reason is known."""

from __future__ import annotations

import asyncio

from inference.engines.protocol import ServedModel
from inference.errors import EngineError
from inference.service.warm_up import CHECK_TIMEOUT_S, check_models
from tests.doubles.byte_codec import ByteCodec
from tests.doubles.loop_clock import skip
from tests.doubles.scripted_engine import ScriptedEngine
from tests.doubles.serving import until

MODELS = tuple(
    ServedModel(name, None, ByteCodec(), frozenset({256}), 0) for name in ("base", "tuned", "mute")
)


async def test_each_model_is_asked_and_the_reason_of_a_failure_is_kept() -> None:
    engine = ScriptedEngine({model.name: 100 for model in MODELS})
    engine.play([1, 2])
    engine.play(EngineError("the matrix is singular"))
    checking = asyncio.create_task(check_models(engine, MODELS))
    await until(lambda: len(engine.requests) == len(MODELS))
    await skip(CHECK_TIMEOUT_S)
    assert await checking == {
        "base": None,
        "tuned": "tuned was loaded and cannot be served: the matrix is singular",
        "mute": "there was no answer within 120 s",
    }
    assert [(request.model, request.max_new_tokens) for request in engine.requests] == [
        ("base", 2), ("tuned", 2), ("mute", 2),
    ]  # fmt: skip
    assert engine.running == 0


async def test_a_model_that_was_removed_meanwhile_is_named() -> None:
    engine = ScriptedEngine({"base": 100}, always=([1, 2],))
    found = await check_models(engine, MODELS[:2])
    assert found["base"] is None
    assert found["tuned"] == "the engine has it no more"
