"""The real manager, PEFT and the process, on a random model so small that a step takes a millisecond."""

from __future__ import annotations

import asyncio
import copy
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from transformers.generation.continuous_batching.requests import RequestState

from inference.engines.protocol import Increment, Sampling
from inference.engines.transformers.engine import TransformersEngine, start_engine
from inference.errors import EngineError
from inference.models.hardware import CacheSize
from inference.models.weights import find_weights
from inference.settings import Settings
from tests.doubles.tiny import BASE
from tests.doubles.transformers_engine import (
    JSON_GRAMMAR,
    ROOT,
    TUNED,
    ask,
    count_open,
    generate,
    prompts,
    read,
    start_on_copies,
    started,
)

if TYPE_CHECKING:
    from inference.engines.transformers.loading import LoadedModel


pytestmark = [
    pytest.mark.model,
    pytest.mark.usefixtures("one_thread"),
    # PEFT looks at a property of the model that transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # PEFT looks for the base's configuration by a path that holds on the share only.
    pytest.mark.filterwarnings("ignore:Could not find a config file in model-cache:UserWarning"),
]


async def test_greedy_answers_are_those_of_generate_alone_and_in_a_full_batch(
    engine: TransformersEngine, loaded: tuple[LoadedModel, ...]
) -> None:
    # In float32; in bfloat16 near-ties may fall the other way when the batch changes.
    cases = [(model, prompt) for prompt in prompts(8) for model in loaded]
    expected = [generate(model, prompt) for model, prompt in cases]
    alone = [await read(ask(engine, prompt, model.name)) for model, prompt in cases]
    assert alone == expected
    together = await asyncio.gather(*(read(ask(engine, prompt, model.name)) for model, prompt in cases))
    assert together == expected
    assert {answer.finish_reason for answer in expected} >= {"length"}


async def test_greedy_answers_of_requests_that_come_one_after_the_other_are_those_of_generate(
    loaded: tuple[LoadedModel, ...],
) -> None:
    """Eight prompts of different lengths, each arriving while those before it are being answered.

    This is float32. There a sum in another order, which is what another batch makes of a matrix product,
    differs by a few parts in ten million, and no two tokens' scores are that close here. In bfloat16 a number
    has eight bits: scores may differ by a part in some hundred between batches, so where the two likeliest
    tokens are that close the answer may take the other one, and go on differently from there. That is in the
    arithmetic, not in which request gets which row; this test is about the rows.
    """
    answers = {prompt: generate(loaded[0], prompt, 200) for prompt in prompts(16)}
    cases = [prompt for prompt, answer in answers.items() if answer.finish_reason == "length"][:8]
    assert len(cases) == 8
    async with started(start_on_copies(loaded[:1], CacheSize(128, 64), 8)) as engine:
        streams, beginnings = [], []
        for prompt in cases:
            streams.append(ask(engine, prompt, max_new_tokens=200))
            beginnings.append(await anext(streams[-1]))
        assert count_open(engine) == 8
        for prompt, beginning, stream in zip(cases, beginnings, streams, strict=True):
            rest = await read(stream)
            assert Increment(beginning.token_ids + rest.token_ids, "length") == answers[prompt]


async def test_a_request_that_is_preempted_while_the_cache_is_full_gives_the_same_answer(
    loaded: tuple[LoadedModel, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    restarted: list[str] = []
    original = RequestState.create_equivalent_initial_request

    def restart(state: RequestState) -> RequestState:
        restarted.append(state.request_id)
        return original(state)

    monkeypatch.setattr(RequestState, "create_equivalent_initial_request", restart)
    ways: list[tuple[Sampling, dict[str, Any]]] = [
        (Sampling(0.0), {}),
        (Sampling(1.2, seed=4), {}),
        (Sampling(0.0, presence_penalty=1.0, frequency_penalty=0.3, repetition_penalty=1.2), {}),
        (Sampling(0.0), {"top_logprobs": 3}),
        (Sampling(1.2, 0.9, seed=5), {"grammar": JSON_GRAMMAR, "top_logprobs": 1}),
    ]

    async def answer(blocks: int) -> list[Increment]:
        async with started(start_on_copies(loaded[:1], CacheSize(blocks, 64), 16)) as engine:
            streams = [
                ask(engine, prompt, BASE, 110, sampling, **asked)
                for prompt in prompts(2)
                for sampling, asked in ways
            ]
            return await asyncio.gather(*map(read, streams))

    expected = await answer(64)
    assert not restarted
    found = await answer(12)
    assert len({request_id.partition("-")[0] for request_id in restarted}) >= 3
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.token_ids, ours.finish_reason) == (theirs.token_ids, theirs.finish_reason)
        assert len(ours.logprobs) == len(theirs.logprobs)
        for one, other in zip(ours.logprobs, theirs.logprobs, strict=True):
            assert one.chosen == pytest.approx(other.chosen, abs=1e-4)
            assert [token for token, _ in one.top] == [token for token, _ in other.top]


async def test_greedy_stays_greedy_beside_sampled_requests(
    engine: TransformersEngine, loaded: tuple[LoadedModel, ...]
) -> None:
    prompt = prompts(1)[0]
    sampled = [ask(engine, prompt, sampling=Sampling(1.5, 0.9)) for _ in range(6)]
    greedy = await read(ask(engine, prompt))
    answers = {(await read(stream)).token_ids for stream in sampled}
    assert greedy == generate(loaded[0], prompt)
    assert len(answers) > 1


async def test_a_prompt_longer_than_a_step_is_read_in_parts(
    engine: TransformersEngine, loaded: tuple[LoadedModel, ...]
) -> None:
    prompt = prompts(40)[-1]
    assert len(prompt) > 64
    assert await read(ask(engine, prompt)) == generate(loaded[0], prompt)


async def test_the_end_token_ends_an_answer(engine: TransformersEngine) -> None:
    wants_to_end = Sampling(0.0, logit_bias=((0, 1e4),))
    assert await read(ask(engine, (5, 6, 7), sampling=wants_to_end)) == Increment((0,), "stop")


async def test_tokens_come_one_by_one(engine: TransformersEngine) -> None:
    stream = ask(engine, (5, 6, 7), max_new_tokens=40)
    first = await anext(stream)
    assert len(first.token_ids) < 40
    stream.cancel()


async def test_cancelling_frees_the_slot(engine: TransformersEngine) -> None:
    stream = ask(engine, (5, 6, 7), max_new_tokens=400)
    await anext(stream)
    assert count_open(engine) == 1
    stream.cancel()
    stream.cancel()
    assert count_open(engine) == 0
    # The cache of 64 pages of 32 tokens holds this many only if the first one's pages are free again.
    answers = await asyncio.gather(*(read(ask(engine, prompt)) for prompt in prompts(16)))
    assert len(answers) == 16
    scheduler = engine._batchers_by_model[BASE]._manager.batch_processor.scheduler
    assert not scheduler.active_requests


async def test_the_attention_that_the_settings_name_is_kept(loaded: tuple[LoadedModel, ...]) -> None:
    copies = [replace(loaded[0], network=copy.deepcopy(loaded[0].network))]
    engine = TransformersEngine(copies, CacheSize(64, 64), 16, allow_own_attention=False)
    async with started(engine):
        assert copies[0].network.config._attn_implementation == "sdpa"
        assert await read(ask(engine, (5, 6, 7))) == generate(loaded[0], (5, 6, 7))


async def test_closing_ends_what_is_open(loaded: tuple[LoadedModel, ...]) -> None:
    engine = start_on_copies(loaded, CacheSize(64, 64), 16)
    stream = ask(engine, (5, 6, 7), max_new_tokens=400)
    await anext(stream)
    await engine.close()
    assert not engine.is_alive
    with pytest.raises(EngineError):
        await read(stream)
    with pytest.raises(EngineError, match="the engine has stopped"):
        ask(engine, (5, 6, 7))


async def test_a_crash_ends_what_is_open_and_is_seen(
    engine: TransformersEngine, loaded: tuple[LoadedModel, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(engine._batchers_by_model[loaded[0].name]._manager.model, "forward", crash)
    with pytest.raises(EngineError, match="device lost"):
        await read(ask(engine, (5, 6, 7)))
    engine._batchers_by_model[BASE]._manager.join(0.0, timeout=60)
    assert not engine.is_alive


def test_the_context_is_limited_by_the_model_and_the_cache(engine: TransformersEngine) -> None:
    assert engine.context_tokens(BASE) == 512
    assert CacheSize(8, 64).tokens == 256


async def test_the_context_is_no_more_than_the_setting_allows(mount: Path) -> None:
    weights = find_weights(mount, None, "models/mine")
    for limit, expected in ((100, 100), (9999, 512)):
        settings = Settings(
            dtype="float32", device="cpu", auth=False, kv_cache_tokens=1024, max_context_tokens=limit
        )
        engine = start_engine(weights, settings, lambda _phase, _percent: None).engine
        async with started(engine):
            assert engine.context_tokens(BASE) == engine.context_tokens(TUNED) == expected


COUNTED = """
import asyncio, os, sys, threading, time
import torch
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from inference.engines.protocol import GenerationRequest, Sampling
from inference.engines.transformers.engine import start_engine
from inference.settings import Settings
from inference.models.weights import find_weights

def natives():
    return len(os.listdir("/proc/self/task")) - threading.active_count()

async def main(mount):
    settings = Settings(engine="transformers", device="cpu", dtype="float32", auth=False)
    weights = find_weights(mount, None, "models/mine")
    before = natives()
    with ThreadPoolExecutor(1) as loading:
        started = loading.submit(start_engine, weights, settings, lambda *_: None).result()
    engine = started.engine
    for model in started.models:
        prompt = tuple(number % 200 + 1 for number in range(400))
        request = GenerationRequest("r", model.name, prompt, 4, Sampling(0.0))
        tokens = [token async for increment in engine.submit(request) for token in increment.token_ids]
        assert tokens
    # The helpers of the loading thread end by themselves.
    expected, deadline_s = torch.get_num_threads() - 1, time.monotonic() + 60
    while natives() - before > expected and time.monotonic() < deadline_s:
        await asyncio.sleep(0.05)
    print(expected, natives() - before)
    await engine.close()

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted as Linux tells them")
def test_only_one_thread_keeps_helper_threads(mount: Path) -> None:
    """Each thread that has computed keeps some; with more of them than cores, all steps take longer."""
    counted = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COUNTED, str(mount)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected, found = counted.stdout.split()
    assert found == expected
