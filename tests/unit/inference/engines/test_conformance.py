"""The tests of the engine protocol, for all engines: the scripted one, transformers and vLLM.

The real ones serve a random model, so small that a step takes milliseconds, and an adapter that changes its
answers; their answers are compared with transformers' plain `generate` and PEFT. vLLM is skipped if it is not
installed; `nox -s vllm` installs it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, get_args

import jsonschema
import pytest
import pytest_asyncio
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from inference.engines.protocol import (
    Ability,
    Engine,
    GenerationRequest,
    Increment,
    Sampling,
    ServedModel,
    Stopping,
    TokenStream,
)
from inference.engines.registry import start_engine
from inference.errors import EngineError
from inference.models.weights import find_weights
from inference.settings import Settings
from tests.doubles.byte_codec import ByteCodec
from tests.doubles.engine_host import through_a_socket
from tests.doubles.scripted_engine import ScriptedEngine
from tests.doubles.tiny import BASE, BYTES, byte_tokenizer, save_adapter, save_base

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

TUNED = "mine"
END_TOKENS = (0, 1, 2, 3)
ENDLESS = 400
VOCABULARY, CONTEXT, MAX_CONCURRENT = len(END_TOKENS) + len(BYTES), 512, 8
GREEDY = Sampling(0.0)
PATIENCE_S = 60.0

pytestmark = [
    pytest.mark.model,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.asyncio(loop_scope="module"),
    # PEFT looks at a property of the model that transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # PEFT looks for the base's configuration by a path that holds on the share only.
    pytest.mark.filterwarnings("ignore:Could not find a config file in model-cache:UserWarning"),
]
VLLM = [
    pytest.param(
        form,
        marks=[
            pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: run nox -s vllm"),
            # vLLM and its dependencies warn of each other's changes; users can do nothing about it.
            pytest.mark.filterwarnings("default"),
        ],
    )
    # With an adapter merged into a copy of the base, with it beside the base's weights, and behind a socket.
    for form in ("vllm", "vllm-unmerged", "vllm-remote")
]
ENGINES = ["scripted", "transformers", "transformers-remote", *VLLM]


class Bench(Protocol):
    """An engine, and the answers that it must give."""

    @property
    def engine(self) -> Engine:
        """The engine that is tested."""

    @property
    def implements(self) -> frozenset[Ability]:
        """The optional features that the engine really implements."""

    def prepare(self, prompt: Sequence[int], model: str, count: int) -> None:
        """Prepare the engine for the next request."""

    def expect(self, prompt: Sequence[int], model: str, count: int) -> Increment:
        """Return the greedy answer."""

    def expect_many(self, prompts: tuple[tuple[int, ...], ...], count: int) -> list[Increment]:
        """Return the base's greedy answers to prompts of one length."""

    def count_open(self) -> int:
        """Return the number of requests that the engine has not ended."""

    def count_inside(self) -> int:
        """Return the number of requests that the engine's own scheduler still has."""

    def crash(self) -> None:
        """Crash the engine from outside of it."""

    def wait_for_death(self) -> None:
        """Wait until what crashed has ended."""


@dataclass
class ScriptedBench:
    """A bench with scripted answers that depend on the prompt."""

    engine: ScriptedEngine
    implements: frozenset[Ability] = frozenset()

    def prepare(self, prompt: Sequence[int], model: str, count: int) -> None:
        self.engine.play(*((token,) for token in self.expect(prompt, model, count).token_ids))

    def expect(self, prompt: Sequence[int], model: str, count: int) -> Increment:
        start = 7 * sum(prompt) + (100 if model == TUNED else 0)
        tokens = [8 + (start + 13 * step) % (VOCABULARY - 8) for step in range(count)]
        return cut([*tokens[:5], END_TOKENS[1]][:count] if prompt[0] % 2 else tokens)

    def expect_many(self, prompts: Sequence[tuple[int, ...]], count: int) -> list[Increment]:
        return [self.expect(prompt, BASE, count) for prompt in prompts]

    def count_open(self) -> int:
        return self.engine.running

    def count_inside(self) -> int:
        return sum(not task.done() for task in self.engine._tasks.values())

    def crash(self) -> None:
        self.engine.die()

    def wait_for_death(self) -> None:
        pass


@dataclass(eq=False)
class RealBench:
    """A bench with the answers of transformers and PEFT."""

    engine: Engine
    implements: frozenset[Ability]
    networks: dict[str, Any]
    count_open: Callable[[], int]
    count_inside: Callable[[], int]
    crash: Callable[[], None]
    wait_for_death: Callable[[], None]

    def prepare(self, prompt: Sequence[int], model: str, count: int) -> None:
        pass

    def expect(self, prompt: Sequence[int], model: str, count: int) -> Increment:
        return self._generate([prompt], model, count)[0]

    @cache  # noqa: B019 - there is one of it a module
    def expect_many(self, prompts: tuple[tuple[int, ...], ...], count: int) -> list[Increment]:
        return self._generate(prompts, BASE, count)

    def _generate(self, prompts: Sequence[Sequence[int]], model: str, count: int) -> list[Increment]:
        prompt_ids = torch.tensor([list(prompt) for prompt in prompts])
        output = self.networks[model].generate(
            input_ids=prompt_ids, attention_mask=torch.ones_like(prompt_ids), max_new_tokens=count,
            do_sample=False, pad_token_id=0, eos_token_id=list(END_TOKENS),
        )  # fmt: skip
        return [cut(row) for row in output[:, prompt_ids.shape[1] :].tolist()]


def cut(tokens: Sequence[int]) -> Increment:
    """End an answer at the first end token."""
    for index, token in enumerate(tokens):
        if token in END_TOKENS:
            return Increment(tuple(tokens[: index + 1]), "stop")
    return Increment(tuple(tokens), "length")


TOKENIZER = byte_tokenizer(*(f"<end{token}>" for token in END_TOKENS))


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A share with a tiny base, and an adapter with random values."""
    mount = tmp_path_factory.mktemp("mount")
    # A seed whose network has both answers that end soon and answers that never do.
    save_base(mount, TOKENIZER, seed=4, hidden=64, context=CONTEXT, ends=list(END_TOKENS))
    save_adapter(mount, TUNED)
    return mount


@pytest.fixture(scope="module")
def networks(mount: Path) -> dict[str, Any]:
    """The models as transformers and PEFT load them."""
    folder = mount / "model-cache" / BASE
    base, beneath = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(2))
    tuned = PeftModel.from_pretrained(beneath, str(mount / "models" / TUNED / "adapter"))
    return {BASE: base.eval(), TUNED: tuned.eval()}


@pytest.fixture(scope="module", params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    """The engine, with the form in which it is tested."""
    return str(request.param)


@pytest.fixture(scope="module")
def make_bench(
    request: pytest.FixtureRequest, engine_name: str, mount: Path, networks: dict[str, Any]
) -> Iterator[Callable[[], Bench]]:
    """Return a function that starts an engine of the kind."""
    name = engine_name
    kind, _, form = name.partition("-")
    settings = Settings(
        engine=kind, merge_adapters="off" if form == "unmerged" else "auto", dtype="float32",
        device=request.config.getoption("device"), auth=False, kv_cache_tokens=8192, threads=1,
        max_concurrent=MAX_CONCURRENT,
    )  # fmt: skip

    def make() -> Bench:
        if name == "scripted":
            return ScriptedBench(ScriptedEngine({BASE: CONTEXT, TUNED: CONTEXT}, frozenset(END_TOKENS)))
        weights = find_weights(mount, None, "models/" + TUNED)
        engine = start_engine(weights, settings, lambda _phase, _percent: None).engine
        if kind == "transformers":
            return inspect_transformers(engine, networks)
        return inspect_vllm(engine, networks, count=1 if form == "unmerged" else 2)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("HOME", str(mount))
        yield make


def inspect_vllm(engine: Any, networks: dict[str, Any], count: int) -> RealBench:
    assert len(engine._llms) == count

    def kill() -> None:
        """Kill its processes as the kernel does when memory runs out."""
        for process in multiprocessing.active_children():
            process.kill()

    def count_open() -> int:
        return sum(not stream.is_over for stream in engine._open)

    def count_inside() -> int:
        return sum(llm.output_processor.get_num_unfinished_requests() for llm in engine._llms)

    return RealBench(engine, engine.abilities, networks, count_open, count_inside, kill, lambda: None)


def inspect_transformers(engine: Any, networks: dict[str, Any]) -> RealBench:
    managers = [batcher._manager for batcher in engine._batchers_by_model.values()]

    def lose_device(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("device lost")

    def break_steps() -> None:
        for manager in managers:
            manager.model.forward = lose_device

    def count_open() -> int:
        return sum(len(batcher.open) for batcher in engine._batchers)

    def count_inside() -> int:
        schedulers = [manager.batch_processor.scheduler for manager in managers if manager.batch_processor]
        return sum(len(each.active_requests) + len(each.waiting_requests) for each in schedulers)

    def join() -> None:
        managers[0].join(0.0, timeout=PATIENCE_S)

    return RealBench(engine, engine.abilities, networks, count_open, count_inside, break_steps, join)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(make_bench: Callable[[], Bench], engine_name: str) -> AsyncIterator[Bench]:
    async with running(make_bench, engine_name) as bench:
        yield bench


@pytest_asyncio.fixture(loop_scope="module")
async def mortal(make_bench: Callable[[], Bench], engine_name: str) -> AsyncIterator[Bench]:
    """An engine of the test's own, which it may end."""
    async with running(make_bench, engine_name) as bench:
        yield bench


@asynccontextmanager
async def running(make_bench: Callable[[], Bench], engine_name: str) -> AsyncIterator[Bench]:
    """Start an engine, put it behind a socket if its name says so, and stop it."""
    bench = await asyncio.to_thread(make_bench)
    if isinstance(bench, RealBench) and engine_name.endswith("-remote"):
        served = [ServedModel(name, None, ByteCodec(), frozenset(), 0) for name in (BASE, TUNED)]
        async with through_a_socket(bench.engine, served) as remote:

            def wait_for_death() -> None:
                deadline = time.monotonic() + PATIENCE_S
                while remote.is_alive and time.monotonic() < deadline:
                    time.sleep(0.01)

            yield replace(
                bench, engine=remote, count_open=remote.count_requests, wait_for_death=wait_for_death
            )
    else:
        yield bench
    await bench.engine.close()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def all_is_quiet_again(bench: Bench) -> AsyncIterator[None]:
    """No test may leave a request behind."""
    yield
    if bench.engine.is_alive:
        assert bench.count_open() == 0


NUMBERS = itertools.count()


def ask(
    bench: Bench,
    prompt: Sequence[int],
    model: str = BASE,
    count: int = 12,
    sampling: Sampling = GREEDY,
    **asked: Any,
) -> TokenStream:
    bench.prepare(prompt, model, count)
    request = GenerationRequest(f"r{next(NUMBERS)}", model, tuple(prompt), count, sampling, **asked)
    assert request.needs <= bench.engine.abilities
    return bench.engine.submit(request)


async def read(stream: TokenStream) -> Increment:
    """Read to the end: all tokens, and why they ended."""
    async with asyncio.timeout(PATIENCE_S):
        return add_up([increment async for increment in stream])


def add_up(increments: Sequence[Increment]) -> Increment:
    assert all(increment.finish_reason is None for increment in increments[:-1])
    tokens = (token for increment in increments for token in increment.token_ids)
    logprobs = (entry for increment in increments for entry in increment.logprobs)
    assert not any(increment.prompt_logprobs for increment in increments[1:])
    return Increment(
        tuple(tokens), increments[-1].finish_reason, tuple(logprobs), increments[0].prompt_logprobs
    )


def require(bench: Bench, *abilities: Ability) -> RealBench:
    """Skip the test if the engine does not implement the features."""
    missing = set(abilities) - bench.implements
    if missing or not isinstance(bench, RealBench):
        pytest.skip(f"it does not implement {', '.join(sorted(missing))}")
    return bench


def scores_after(bench: RealBench, tokens: Sequence[int]) -> torch.Tensor:
    """The base's own scores for what follows each of some tokens (tokens, vocabulary)."""
    with torch.no_grad():
        scores: torch.Tensor = bench.networks[BASE](torch.tensor([list(tokens)])).logits[0].float()
    return scores


def answer_by_hand(
    bench: RealBench,
    prompt: Sequence[int],
    sampling: Sampling,
    count: int,
    stopping: Stopping = Stopping(),  # noqa: B008 - it is frozen
) -> tuple[int, ...]:
    """Take the likeliest token after bias and penalties, one after the other."""
    answer: list[int] = []
    ends = stopping.ends(frozenset(END_TOKENS))
    while len(answer) < count and not set(answer) & ends:
        scores = scores_after(bench, [*prompt, *answer])[-1]
        if len(answer) < stopping.min_tokens:
            scores[sorted(ends)] = -torch.inf
        for token, bias in sampling.logit_bias:
            scores[token] += bias
        for token in {*prompt, *answer}:
            rate = sampling.repetition_penalty
            scores[token] = scores[token] / rate if scores[token] > 0 else scores[token] * rate
        for token in set(answer):
            scores[token] -= sampling.presence_penalty + sampling.frequency_penalty * answer.count(token)
        answer.append(int(scores.argmax()))
    return tuple(answer)


def prompts(count: int) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(1)
    return [
        tuple(torch.randint(8, VOCABULARY, (5 + 7 * index,), generator=generator).tolist())
        for index in range(count)
    ]


def endless_prompt(bench: Bench) -> tuple[int, ...]:
    """Find a prompt whose greedy answer has no end token for a long while."""
    return prompt_whose(bench, lambda answer: answer.finish_reason == "length")


def ending_prompt(bench: Bench) -> tuple[int, ...]:
    """Find a prompt whose greedy answer ends soon, and not at once."""
    return prompt_whose(bench, lambda answer: 3 < len(answer.token_ids) < 30)


def prompt_whose(bench: Bench, is_right: Callable[[Increment], bool]) -> tuple[int, ...]:
    candidates = tuple((token, 9, 10) for token in range(8, 40))
    answers = bench.expect_many(candidates, ENDLESS)
    for prompt, answer in zip(candidates, answers, strict=True):
        if is_right(answer):
            return prompt
    pytest.fail("the network has no such answer: take another seed for it")


async def test_greedy_answers_are_those_of_generate_alone_and_together(bench: Bench) -> None:
    # In float32; in bfloat16 near-ties may fall the other way when the batch changes.
    cases = [(prompt, model) for prompt in prompts(6) for model in (BASE, TUNED)]
    expected = [bench.expect(prompt, model, 12) for prompt, model in cases]
    alone = [await read(ask(bench, prompt, model)) for prompt, model in cases]
    assert alone == expected
    together = await asyncio.gather(*[read(ask(bench, prompt, model)) for prompt, model in cases])
    assert together == expected


async def test_base_and_adapter_answer_at_once_and_differ(bench: Bench) -> None:
    prompt = prompts(2)[1]
    base, tuned = await asyncio.gather(read(ask(bench, prompt, BASE)), read(ask(bench, prompt, TUNED)))
    assert base == bench.expect(prompt, BASE, 12)
    assert tuned == bench.expect(prompt, TUNED, 12)
    assert base != tuned


async def test_tokens_come_as_they_are_made_and_add_up(bench: Bench) -> None:
    prompt = endless_prompt(bench)
    async with asyncio.timeout(PATIENCE_S):
        increments = [increment async for increment in ask(bench, prompt, count=40)]
    assert len(increments) > 1
    assert add_up(increments) == bench.expect(prompt, BASE, 40)


async def test_a_slow_reader_gets_everything(bench: Bench) -> None:
    prompt = endless_prompt(bench)
    slow, quick = ask(bench, prompt, count=40), ask(bench, prompt, count=40)
    await read(quick)
    assert await read(slow) == bench.expect(prompt, BASE, 40)


@pytest.mark.parametrize("count", [1, 2, 17])
async def test_an_answer_is_no_longer_than_asked(bench: Bench, count: int) -> None:
    answer = await read(ask(bench, endless_prompt(bench), count=count))
    assert len(answer.token_ids) == count
    assert answer.finish_reason == "length"


async def test_an_end_token_ends_an_answer_and_is_its_last(bench: Bench) -> None:
    prompt = ending_prompt(bench)
    answer = await read(ask(bench, prompt, count=30))
    assert answer == bench.expect(prompt, BASE, 30)
    assert answer.token_ids[-1] in END_TOKENS
    assert answer.finish_reason == "stop"


async def test_an_end_token_in_the_last_place_is_still_an_end(bench: Bench) -> None:
    prompt = ending_prompt(bench)
    count = len(bench.expect(prompt, BASE, 30).token_ids)
    assert (await read(ask(bench, prompt, count=count))).finish_reason == "stop"


async def test_more_requests_than_places_are_all_answered(bench: Bench) -> None:
    cases = prompts(3 * MAX_CONCURRENT)
    answers = await asyncio.gather(*[read(ask(bench, prompt)) for prompt in cases])
    assert answers == [bench.expect(prompt, BASE, 12) for prompt in cases]


async def test_a_prompt_may_fill_the_context_but_for_one_token(bench: Bench) -> None:
    assert bench.engine.context_tokens(BASE) == bench.engine.context_tokens(TUNED) == CONTEXT
    prompt = (prompts(80)[-1] * 2)[: CONTEXT - 1]
    answer = await read(ask(bench, prompt, count=1))
    assert len(prompt) == CONTEXT - 1
    assert answer.token_ids == bench.expect(prompt, BASE, 1).token_ids


async def test_cancelling_ends_the_stream_and_frees_the_slot(bench: Bench) -> None:
    prompt = endless_prompt(bench)
    streams = [ask(bench, prompt, count=ENDLESS) for _ in range(MAX_CONCURRENT)]
    async with asyncio.timeout(PATIENCE_S):
        for stream in streams:
            await anext(stream)
    assert bench.count_open() == MAX_CONCURRENT
    for stream in streams:
        stream.cancel()
        stream.cancel()
    assert bench.count_open() == 0
    assert all(stream.is_over for stream in streams)
    assert len((await read(ask(bench, prompt, count=3))).token_ids) == 3
    assert bench.count_inside() == 0


async def test_cancelling_before_the_first_token(bench: Bench) -> None:
    prompt = endless_prompt(bench)
    stream = ask(bench, prompt, count=ENDLESS)
    stream.cancel()
    assert [increment async for increment in stream] == []
    # Let the engine process it before the next one.
    await asyncio.sleep(0)
    assert await read(ask(bench, prompt, count=5)) == bench.expect(prompt, BASE, 5)


async def test_greedy_stays_greedy_beside_sampled_requests(bench: Bench) -> None:
    prompt = prompts(1)[0]
    sampled = [ask(bench, prompt, sampling=Sampling(1.5, 0.9)) for _ in range(5)]
    assert await read(ask(bench, prompt)) == bench.expect(prompt, BASE, 12)
    answers = {(await read(stream)).token_ids for stream in sampled}
    assert len(answers) > 1 or isinstance(bench, ScriptedBench)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(2.0, top_k=1), Sampling(1.0, top_p=1e-6), Sampling(1.0, min_p=1.0)],
    ids=["top_k", "top_p", "min_p"],
)
async def test_a_narrow_choice_is_the_greedy_one(bench: Bench, sampling: Sampling) -> None:
    prompt = prompts(3)[2]
    assert await read(ask(bench, prompt, sampling=sampling)) == bench.expect(prompt, BASE, 12)


EXTREMES = (
    *(Sampling(temperature) for temperature in (5e-324, 1e-45, 1e-38, 1e-30, 1e-6, 2.0)),
    *(Sampling(1e-38, top_p, 5, 0.1) for top_p in (5e-324, 1e-38, 0.5)),
    Sampling(1.0, top_p=5e-324, min_p=5e-324),
    Sampling(1.0, top_k=2**31 - 1, min_p=1.0),
    Sampling(1e-38, presence_penalty=-2.0, frequency_penalty=2.0, repetition_penalty=0.01),
    Sampling(1e-38, repetition_penalty=10.0, logit_bias=((7, 100.0), (8, -100.0))),
    Sampling(5e-324, logit_bias=((7, 5e-324),)),
)
"""What the API takes and float32 does not hold, or only just."""


@pytest.mark.parametrize("seed", [None, -(2**63), 2**63 - 1])
async def test_extreme_parameters_end_no_other_request(bench: Bench, seed: int | None) -> None:
    require(bench, "seed", "penalties", "logit_bias")
    prompt = prompts(1)[0]
    samplings = [replace(sampling, seed=seed) for sampling in EXTREMES]
    for sampling in samplings:
        assert (await read(ask(bench, prompt, sampling=sampling))).token_ids
    streams = [ask(bench, prompt, (BASE, TUNED)[index % 2], 12, each) for index, each in enumerate(samplings)]
    assert await read(ask(bench, prompt)) == bench.expect(prompt, BASE, 12)
    assert all([(await read(stream)).token_ids for stream in streams])
    assert bench.engine.is_alive


async def test_it_says_what_it_can_do(bench: Bench, engine_name: str) -> None:
    # With slots for adapters on a CPU, log-probabilities of a prompt would end vLLM's process.
    missing = {"prompt_logprobs"} if engine_name == "vllm-unmerged" else set()
    assert bench.engine.abilities == frozenset(get_args(Ability)) - missing


@pytest.mark.parametrize(
    "sampling",
    [Sampling(1.5), Sampling(1.5, top_p=0.9), Sampling(1.5, top_k=20), Sampling(1.5, min_p=0.01)],
    ids=["temperature", "top_p", "top_k", "min_p"],
)
async def test_a_seed_gives_the_same_answer_alone_and_in_a_full_batch(
    bench: Bench, sampling: Sampling
) -> None:
    require(bench, "seed")
    prompt, *others = prompts(MAX_CONCURRENT)
    seeded = replace(sampling, seed=2**40 + 5)
    alone = await read(ask(bench, prompt, count=20, sampling=seeded))
    assert await read(ask(bench, prompt, count=20, sampling=seeded)) == alone
    ways = itertools.cycle([GREEDY, sampling, replace(sampling, seed=6), Sampling(0.7, 0.5)])
    company = [ask(bench, other, count=40, sampling=way) for other, way in zip(others, ways, strict=False)]
    assert await read(ask(bench, prompt, count=20, sampling=seeded)) == alone
    for stream in company:
        await read(stream)
    different = [
        await read(ask(bench, prompt, count=20, sampling=replace(seeded, seed=n))) for n in (0, -1, 7)
    ]
    assert len({alone, *different}) == 4


async def test_no_seed_gives_different_answers(bench: Bench) -> None:
    require(bench, "seed")
    answers = [await read(ask(bench, prompts(1)[0], sampling=Sampling(1.5), count=20)) for _ in range(3)]
    assert len(set(answers)) > 1


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(0.0, presence_penalty=2.0),
        Sampling(0.0, frequency_penalty=0.6),
        Sampling(0.0, presence_penalty=-2.0),
        Sampling(0.0, repetition_penalty=1.7),
        Sampling(1.0, top_k=1, presence_penalty=0.5, frequency_penalty=1.0, repetition_penalty=1.2),
    ],
    ids=["presence", "frequency", "negative", "repetition", "all"],
)
async def test_penalties_are_those_worked_out_by_hand(bench: Bench, sampling: Sampling) -> None:
    real = require(bench, "penalties")
    prompt, expected = prompt_that_is_changed(real, sampling)
    beside = [ask(bench, other) for other in prompts(3)]
    assert (await read(ask(bench, prompt, sampling=sampling, count=16))).token_ids == expected
    assert [await read(each) for each in beside] == [bench.expect(other, BASE, 12) for other in prompts(3)]


async def test_a_bias_moves_tokens_into_and_out_of_an_answer(bench: Bench) -> None:
    real = require(bench, "logit_bias")
    prompt = endless_prompt(bench)
    first = bench.expect(prompt, BASE, 2).token_ids[0]
    banned = Sampling(0.0, logit_bias=((first, -100.0),))
    answer = await read(ask(bench, prompt, sampling=banned, count=16))
    assert answer.token_ids == answer_by_hand(real, prompt, banned, 16)
    assert first not in answer.token_ids
    forced = Sampling(1.0, logit_bias=((77, 100.0), (first, -1.0)))
    assert (await read(ask(bench, prompt, sampling=forced, count=5))).token_ids == (77,) * 5


def prompt_that_is_changed(bench: RealBench, sampling: Sampling) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Find a prompt whose answer is another one with this sampling; return both."""
    for token in range(8, 40):
        prompt = (token, 9, 10, token, 9)
        changed = answer_by_hand(bench, prompt, sampling, 16)
        if changed != bench.expect(prompt, BASE, 16).token_ids:
            return prompt, changed
    pytest.fail("the penalties change nothing")


@pytest.mark.parametrize("count", [0, 1, 5, 20])
async def test_logprobs_are_those_of_the_plain_network(bench: Bench, count: int) -> None:
    real = require(bench, "logprobs")
    prompt, other = prompts(4)[2:]
    ways = [
        GREEDY,
        Sampling(1.5, 0.8),
        Sampling(0.0, presence_penalty=2.0, repetition_penalty=1.5, logit_bias=((9, 3.0),)),
    ]
    silent = ask(bench, other)
    streams = [ask(bench, prompt, sampling=sampling, top_logprobs=count) for sampling in ways]
    for answer in [await read(stream) for stream in streams]:
        scores = scores_after(real, [*prompt, *answer.token_ids])[len(prompt) - 1 : -1]
        expected = torch.log_softmax(scores, dim=-1)
        assert len(answer.logprobs) == len(answer.token_ids)
        for token, entry, logprobs in zip(answer.token_ids, answer.logprobs, expected, strict=True):
            assert entry.chosen == pytest.approx(logprobs[token].item(), abs=1e-3)
            values = [value for _, value in entry.top]
            assert values == pytest.approx(logprobs.topk(count).values.tolist(), abs=1e-3)
            assert values == sorted(values, reverse=True)
            assert values == pytest.approx([logprobs[top].item() for top, _ in entry.top], abs=1e-3)
            assert len({top for top, _ in entry.top}) == count
    assert (await read(silent)) == bench.expect(other, BASE, 12)


async def test_a_request_s_own_stop_tokens_end_its_answer_alone(bench: Bench) -> None:
    require(bench, "stopping")
    prompt = endless_prompt(bench)
    whole = bench.expect(prompt, BASE, 40).token_ids
    stop = whole[len(whole) // 2]
    beside = ask(bench, prompt, count=40)
    answer = await read(ask(bench, prompt, count=40, stopping=Stopping(stop_token_ids=(stop, 250))))
    assert answer == Increment(whole[: whole.index(stop) + 1], "stop")
    assert (await read(beside)).token_ids == whole
    ending = ending_prompt(bench)
    assert await read(ask(bench, ending, count=30, stopping=Stopping(stop_token_ids=(250,)))) == bench.expect(
        ending, BASE, 30
    )


@pytest.mark.parametrize(
    "stopping",
    [
        Stopping(ignore_eos=True),
        Stopping(min_tokens=33),
        Stopping(33, stop_token_ids=tuple(range(8, 60))),
        Stopping(7, ignore_eos=True, stop_token_ids=tuple(range(8, 200))),
    ],
    ids=["ignore_eos", "min_tokens", "min_tokens and stop tokens", "all"],
)
async def test_an_answer_goes_on_beyond_its_end_as_worked_out_by_hand(
    bench: Bench, stopping: Stopping
) -> None:
    real = require(bench, "stopping")
    prompt = ending_prompt(bench)
    expected = answer_by_hand(real, prompt, GREEDY, 40, stopping)
    beside = ask(bench, prompt, count=30)
    answer = await read(ask(bench, prompt, count=40, stopping=stopping))
    assert answer.token_ids == expected
    assert answer.finish_reason == ("length" if len(expected) == 40 else "stop")
    assert await read(beside) == bench.expect(prompt, BASE, 30)


async def test_a_sampled_answer_has_its_least_length(bench: Bench) -> None:
    require(bench, "stopping")
    stopping = Stopping(12, stop_token_ids=tuple(range(8, 250)))
    streams = [
        ask(bench, prompt, count=40, sampling=Sampling(1.5, seed=index), stopping=stopping, top_logprobs=1)
        for index, prompt in enumerate(prompts(6))
    ]
    for answer in await asyncio.gather(*map(read, streams)):
        assert 12 < len(answer.token_ids) == len(answer.logprobs)
        assert answer.finish_reason == "stop"
        assert not {*END_TOKENS, *stopping.stop_token_ids} & set(answer.token_ids[:12])


@pytest.mark.parametrize("model", [BASE, TUNED])
@pytest.mark.parametrize("count", [0, 3])
async def test_prompt_logprobs_are_those_of_the_plain_network(bench: Bench, model: str, count: int) -> None:
    real = require(bench, "prompt_logprobs")
    # The longest takes several steps, and its beginning is cached from the request before.
    cases = [(prompts(1)[0][:1], model), *((prompt, model) for prompt in prompts(3)), (long_prompt(), model)]
    for prompt, _ in cases:
        await read(ask(bench, prompt, model))
    streams = [ask(bench, prompt, model, prompt_logprobs=count) for prompt, model in cases]
    beside = [ask(bench, prompt, BASE, sampling=Sampling(1.5)) for prompt in prompts(2)]
    for (prompt, _), stream in zip(cases, streams, strict=True):
        answer = await read(stream)
        assert answer.token_ids == bench.expect(prompt, model, 12).token_ids
        with torch.no_grad():
            scores = real.networks[model](torch.tensor([list(prompt)])).logits[0].float()
        expected = torch.log_softmax(scores, dim=-1)
        assert len(answer.prompt_logprobs) == len(prompt) - 1
        for token, entry, logprobs in zip(prompt[1:], answer.prompt_logprobs, expected[:-1], strict=True):
            assert entry.chosen == pytest.approx(logprobs[token].item(), abs=1e-3)
            lower, upper = ((logprobs > entry.chosen + step).sum().item() for step in (1e-3, -1e-3))
            assert entry.rank is not None
            assert lower < entry.rank <= upper
            values = [value for _, value in entry.top]
            assert values == pytest.approx(logprobs.topk(count).values.tolist(), abs=1e-3)
            assert values == pytest.approx([logprobs[top].item() for top, _ in entry.top], abs=1e-3)
    for stream in beside:
        assert not (await read(stream)).prompt_logprobs


def long_prompt() -> tuple[int, ...]:
    return (prompts(80)[-1] * 2)[: CONTEXT - 20]


SCHEMA = {
    "type": "object",
    "properties": {
        "category": {"enum": ["billing", "bug", "other"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 999},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "minItems": 1, "maxItems": 2},
        "urgent": {"type": "boolean"},
    },
    "required": ["category", "count", "tags", "urgent"],
    "additionalProperties": False,
}
# Unlimited whitespace is valid JSON, and a random network may generate it.
JSON_GRAMMAR = "start: %json " + json.dumps(SCHEMA | {"x-guidance": {"whitespace_flexible": False}})
CHOICES = ("low", "lower", "high", "\u00e4rgerlich")
CHOICE_GRAMMAR = "start: " + " | ".join(f'"{choice}"' for choice in CHOICES)
WAYS = [GREEDY, Sampling(1.5), Sampling(1.0, 0.5), Sampling(2.0, top_k=5), Sampling(1.0, min_p=0.3, seed=3)]


def text_of(answer: Increment) -> str:
    """The text of an answer that ended by itself."""
    assert answer.finish_reason == "stop"
    assert answer.token_ids[-1] in END_TOKENS
    return str(TOKENIZER.decode(answer.token_ids[:-1]))


@pytest.mark.parametrize("model", [BASE, TUNED])
async def test_json_is_what_its_schema_says_alone_and_beside_free_requests(bench: Bench, model: str) -> None:
    require(bench, "grammar")
    alone = [
        await read(ask(bench, prompts(1)[0], model, 200, sampling, grammar=JSON_GRAMMAR)) for sampling in WAYS
    ]
    free = [ask(bench, prompt) for prompt in prompts(3)]
    streams = [
        ask(bench, prompt, model, 200, sampling, grammar=JSON_GRAMMAR)
        for prompt, sampling in itertools.product(prompts(2), WAYS)
    ]
    together = await asyncio.gather(*map(read, streams))
    for answer in (*alone, *together):
        jsonschema.validate(json.loads(text_of(answer)), SCHEMA)
    assert [await read(each) for each in free] == [bench.expect(prompt, BASE, 12) for prompt in prompts(3)]


async def test_a_choice_is_one_of_the_choices(bench: Bench) -> None:
    require(bench, "grammar")
    cases = itertools.product(prompts(4), WAYS)
    streams = [
        ask(bench, prompt, count=40, sampling=sampling, grammar=CHOICE_GRAMMAR) for prompt, sampling in cases
    ]
    texts = {text_of(answer) for answer in await asyncio.gather(*map(read, streams))}
    assert texts <= set(CHOICES)
    assert len(texts) > 1


async def test_a_grammar_that_is_cut_off_ends_with_length(bench: Bench) -> None:
    require(bench, "grammar")
    answer = await read(ask(bench, prompts(1)[0], count=8, grammar=JSON_GRAMMAR))
    assert answer.finish_reason == "length"
    assert TOKENIZER.decode(answer.token_ids) == '{"catego'


async def test_an_invalid_grammar_fails_only_its_own_request(bench: Bench) -> None:
    require(bench, "grammar")
    beside = ask(bench, prompts(1)[0])
    with pytest.raises(EngineError):
        await read(ask(bench, prompts(2)[1], grammar="start: %json {"))
    assert await read(beside) == bench.expect(prompts(1)[0], BASE, 12)
    assert bench.engine.is_alive


async def test_a_request_with_a_grammar_can_be_cancelled_before_it_begins(bench: Bench) -> None:
    require(bench, "grammar")
    stream = ask(bench, prompts(1)[0], count=ENDLESS, grammar=JSON_GRAMMAR)
    assert bench.count_open() == 1
    stream.cancel()
    assert bench.count_open() == 0
    assert [increment async for increment in stream] == []
    await read(ask(bench, prompts(1)[0], count=3, grammar=CHOICE_GRAMMAR))


async def test_everything_at_once(bench: Bench) -> None:
    require(bench, *get_args(Ability))
    sampling = Sampling(
        1.3, 0.95, presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.1,
        logit_bias=((TOKENIZER.convert_tokens_to_ids("9"), 100.0),), seed=1,
    )  # fmt: skip
    first, second = [
        await read(
            ask(
                bench,
                prompts(1)[0],
                BASE,
                200,
                sampling,
                top_logprobs=3,
                grammar=JSON_GRAMMAR,
                stopping=Stopping(stop_token_ids=(250,)),
                prompt_logprobs=2,
            )
        )
        for _ in range(2)
    ]
    assert first.token_ids == second.token_ids
    assert len(first.logprobs) == len(first.token_ids)
    assert len(first.prompt_logprobs) == len(prompts(1)[0]) - 1
    assert json.loads(text_of(first))["count"] in {9, 99, 999}


async def test_two_requests_with_one_id_are_independent(bench: Bench) -> None:
    # Clients choose the ids.
    streams = []
    for prompt in prompts(2):
        bench.prepare(prompt, BASE, 12)
        streams.append(bench.engine.submit(GenerationRequest("same", BASE, prompt, 12, GREEDY)))
    answers = [await read(stream) for stream in streams]
    assert answers == [bench.expect(prompt, BASE, 12) for prompt in prompts(2)]


async def test_a_model_that_it_does_not_have_is_an_error_at_once(bench: Bench) -> None:
    with pytest.raises(KeyError, match="absent"):
        bench.engine.submit(GenerationRequest("r", "absent", (9,), 1, GREEDY))
    with pytest.raises(KeyError, match="absent"):
        bench.engine.context_tokens("absent")


async def test_closing_ends_what_is_open(mortal: Bench) -> None:
    stream = await begin(mortal)
    await mortal.engine.close()
    await assert_it_is_dead(mortal, stream)


async def test_a_crash_ends_what_is_open_and_is_seen(mortal: Bench) -> None:
    stream = await begin(mortal)
    mortal.crash()
    await assert_it_is_dead(mortal, stream)


async def begin(bench: Bench) -> TokenStream:
    stream = ask(bench, endless_prompt(bench), count=ENDLESS)
    async with asyncio.timeout(PATIENCE_S):
        await anext(stream)
    return stream


async def assert_it_is_dead(bench: Bench, stream: TokenStream) -> None:
    with pytest.raises(EngineError):
        await read(stream)
    stream.cancel()
    await asyncio.to_thread(bench.wait_for_death)
    assert not bench.engine.is_alive
    with pytest.raises(EngineError, match="stopped"):
        bench.engine.submit(GenerationRequest("late", BASE, (9,), 1, GREEDY))
