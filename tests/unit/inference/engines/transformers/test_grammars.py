"""Grammars that fail while the engine generates: only their own requests fail."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from inference.engines.transformers.constraint import Constraint, Vocabulary
from inference.errors import EngineError
from inference.models.hardware import CacheSize
from tests.doubles.tiny import BASE
from tests.doubles.transformers_engine import (
    JSON_GRAMMAR,
    ask,
    count_open,
    generate,
    prompts,
    read,
    start_on_copies,
    started,
)

if TYPE_CHECKING:
    from inference.engines.transformers.engine import TransformersEngine
    from inference.engines.transformers.loading import LoadedModel


pytestmark = [
    pytest.mark.model,
    pytest.mark.usefixtures("one_thread"),
    # PEFT looks at a property of the model that transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # PEFT looks for the base's configuration by a path that holds on the share only.
    pytest.mark.filterwarnings("ignore:Could not find a config file in model-cache:UserWarning"),
]


async def test_a_grammar_that_fails_during_the_answer_fails_only_its_own_request(
    engine: TransformersEngine, loaded: tuple[LoadedModel, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(_self: Constraint, _token_id: int) -> None:
        raise EngineError("the grammar cannot be followed further (LexerTooComplex)")

    monkeypatch.setattr(Constraint, "advance", give_up)
    prompt = prompts(1)[0]
    beside = ask(engine, prompt)
    with pytest.raises(EngineError, match=r"the grammar cannot be followed further \(LexerTooComplex\)"):
        await read(ask(engine, prompt, max_new_tokens=400, grammar=JSON_GRAMMAR))
    assert await read(beside) == generate(loaded[0], prompt)
    assert count_open(engine) == 0
    assert await read(ask(engine, prompt)) == generate(loaded[0], prompt)
    scheduler = engine._batchers_by_model[BASE]._manager.batch_processor.scheduler
    assert not scheduler.active_requests


async def test_a_compiler_that_fails_fails_only_its_own_request(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(_self: Vocabulary, _grammar: str) -> Constraint:
        raise TypeError("a defect")

    monkeypatch.setattr(Vocabulary, "constrain", break_down)
    with pytest.raises(EngineError, match="the engine failed: a defect"):
        await read(ask(engine, (5, 6, 7), grammar=JSON_GRAMMAR))
    assert engine.is_alive


async def test_closing_waits_for_a_grammar_that_is_being_compiled(
    loaded: tuple[LoadedModel, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()
    original = Vocabulary.constrain

    def take_long(self: Vocabulary, grammar: str) -> Constraint:
        begun.set()
        may_end.wait(60)
        return original(self, grammar)

    monkeypatch.setattr(Vocabulary, "constrain", take_long)
    async with started(start_on_copies(loaded[:1], CacheSize(64, 64), 16)) as engine:
        stream = ask(engine, (5, 6, 7), grammar=JSON_GRAMMAR)
        await asyncio.to_thread(begun.wait, 60)
        closing = asyncio.ensure_future(engine.close())
        with pytest.raises(EngineError, match="the engine has stopped"):
            await read(stream)
        assert not closing.done()
        may_end.set()
        await closing
