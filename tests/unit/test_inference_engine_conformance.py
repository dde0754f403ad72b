"""Hold every engine to the protocol, with the same tests: the script player, transformers and vLLM.

The real ones serve a random model, so small that a step takes milliseconds, and an adapter that changes its
answers; what they say is held against transformers' plain `generate` and PEFT. vLLM is skipped where it is
not installed; `nox -s vllm` installs it.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import pytest_asyncio
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from inference.engine import Engine, GenerationRequest, Increment, Sampling, TokenStream
from inference.engine_scripted import ScriptedEngine
from inference.engines import start_engine
from inference.errors import EngineError
from inference.settings import Settings
from inference.weights import find_weights

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

BASE, TUNED = "org/tiny", "mine"
END_TOKENS = (0, 1, 2, 3)
ENDLESS = 400
VOCABULARY, CONTEXT, MAX_CONCURRENT = 256, 512, 8
GREEDY = Sampling(0.0)
PATIENCE_S = 60.0

pytestmark = [
    pytest.mark.model,
    pytest.mark.asyncio(loop_scope="module"),
    # PEFT looks at a property of the model that transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # PEFT looks for the base's configuration by a path that holds on the share only.
    pytest.mark.filterwarnings("ignore:Could not find a config file in model-cache:UserWarning"),
]
ENGINES = [
    "scripted",
    "transformers",
    pytest.param(
        "vllm",
        marks=[
            pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: run nox -s vllm"),
            # vLLM and what it imports warn of each other's changes; a user can do nothing about it.
            pytest.mark.filterwarnings("default"),
        ],
    ),
]


class Bench(Protocol):
    """Hold an engine, and know what it must say."""

    engine: Engine

    def prepare(self, prompt: Sequence[int], model: str, count: int) -> None:
        """Get ready for a request to come."""

    def expect(self, prompt: Sequence[int], model: str, count: int) -> Increment:
        """Return the greedy answer."""

    def expect_many(self, prompts: tuple[tuple[int, ...], ...], count: int) -> list[Increment]:
        """Return the base's greedy answers to prompts of one length."""

    def count_inside(self) -> int:
        """Return how many requests the engine's own scheduler still has."""

    def crash(self) -> None:
        """Make the engine die, as far from its own doing as can be."""

    def wait_for_death(self) -> None:
        """Return when what crashed has ended."""


@dataclass
class ScriptedBench:
    """Play answers that follow from the prompt."""

    engine: ScriptedEngine

    def prepare(self, prompt: Sequence[int], model: str, count: int) -> None:
        self.engine.play(*((token,) for token in self.expect(prompt, model, count).token_ids))

    def expect(self, prompt: Sequence[int], model: str, count: int) -> Increment:
        start = 7 * sum(prompt) + (100 if model == TUNED else 0)
        tokens = [8 + (start + 13 * step) % (VOCABULARY - 8) for step in range(count)]
        return cut([*tokens[:5], END_TOKENS[1]][:count] if prompt[0] % 2 else tokens)

    def expect_many(self, prompts: Sequence[tuple[int, ...]], count: int) -> list[Increment]:
        return [self.expect(prompt, BASE, count) for prompt in prompts]

    def count_inside(self) -> int:
        return sum(not task.done() for task in self.engine._tasks.values())

    def crash(self) -> None:
        self.engine.die()

    def wait_for_death(self) -> None:
        pass


@dataclass(eq=False)
class RealBench:
    """Ask transformers and PEFT what the answer is."""

    engine: Engine
    networks: dict[str, Any]
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
    """End an answer where the first end token is."""
    for index, token in enumerate(tokens):
        if token in END_TOKENS:
            return Increment(tuple(tokens[: index + 1]), "stop")
    return Increment(tuple(tokens), "length")


@pytest.fixture(scope="module", autouse=True)
def quiet_machine() -> Iterator[None]:
    """One thread: tensors this small are slower with more, and much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A share with a tiny base, and an adapter with random values."""
    mount = tmp_path_factory.mktemp("mount")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=CONTEXT,
        eos_token_id=list(END_TOKENS), bos_token_id=None, tie_word_embeddings=True, initializer_range=0.3,
    )  # fmt: skip
    folder = mount / "model-cache" / BASE
    network = LlamaForCausalLM(config)
    network.save_pretrained(folder)
    words = {f"t{index}": index for index in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocab=words, unk_token="t0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="t0").save_pretrained(folder)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    tuned = get_peft_model(network, lora)
    for key, parameter in tuned.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.5)
    tuned.peft_config["default"].base_model_name_or_path = "model-cache/" + BASE
    tuned.save_pretrained(mount / "models" / TUNED / "adapter", save_embedding_layers=False)
    return mount


@pytest.fixture(scope="module")
def networks(mount: Path) -> dict[str, Any]:
    """What transformers and PEFT make of the files."""
    folder = mount / "model-cache" / BASE
    base, beneath = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(2))
    tuned = PeftModel.from_pretrained(beneath, str(mount / "models" / TUNED / "adapter"))
    return {BASE: base.eval(), TUNED: tuned.eval()}


@pytest.fixture(scope="module", params=ENGINES)
def make_bench(
    request: pytest.FixtureRequest, mount: Path, networks: dict[str, Any]
) -> Iterator[Callable[[], Bench]]:
    """Start an engine of the kind, in a home of its own."""
    name: str = request.param
    settings = Settings(
        engine=name, dtype="float32", device="cpu", is_auth_on=False, kv_cache_tokens=8192, threads=1,
        max_concurrent=MAX_CONCURRENT,
    )  # fmt: skip

    def make() -> Bench:
        if name == "scripted":
            return ScriptedBench(ScriptedEngine({BASE: CONTEXT, TUNED: CONTEXT}, frozenset(END_TOKENS)))
        weights = find_weights(mount, None, "models/" + TUNED)
        engine, _ = start_engine(weights, settings, lambda _phase, _percent: None)
        return inspect_vllm(engine, networks) if name == "vllm" else inspect_transformers(engine, networks)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("HOME", str(mount))
        yield make


def inspect_vllm(engine: Any, networks: dict[str, Any]) -> RealBench:
    def kill() -> None:
        """End its process as the kernel does when memory is short."""
        for process in multiprocessing.active_children():
            process.kill()

    count_inside = engine._llm.output_processor.get_num_unfinished_requests
    return RealBench(engine, networks, count_inside, kill, lambda: None)


def inspect_transformers(engine: Any, networks: dict[str, Any]) -> RealBench:
    managers = [lane._manager for lane in engine._lanes.values()]

    def lose_device(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("device lost")

    def break_steps() -> None:
        for manager in managers:
            manager.model.forward = lose_device

    def count_inside() -> int:
        schedulers = [manager.batch_processor.scheduler for manager in managers if manager.batch_processor]
        return sum(len(each.active_requests) + len(each.waiting_requests) for each in schedulers)

    def join() -> None:
        managers[0].join(0.0, timeout=PATIENCE_S)

    return RealBench(engine, networks, count_inside, break_steps, join)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(make_bench: Callable[[], Bench]) -> AsyncIterator[Bench]:
    bench = await asyncio.to_thread(make_bench)
    yield bench
    await bench.engine.close()


@pytest_asyncio.fixture(loop_scope="module")
async def mortal(make_bench: Callable[[], Bench]) -> AsyncIterator[Bench]:
    """An engine of the test's own, to end as it likes."""
    bench = await asyncio.to_thread(make_bench)
    yield bench
    await bench.engine.close()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def all_is_quiet_again(bench: Bench) -> AsyncIterator[None]:
    """No test may leave a request behind."""
    yield
    if bench.engine.is_alive:
        assert bench.engine.stats().running == 0


NUMBERS = itertools.count()


def ask(
    bench: Bench, prompt: Sequence[int], model: str = BASE, count: int = 12, sampling: Sampling = GREEDY
) -> TokenStream:
    bench.prepare(prompt, model, count)
    request = GenerationRequest(f"r{next(NUMBERS)}", model, tuple(prompt), count, sampling)
    return bench.engine.submit(request)


async def read(stream: TokenStream) -> Increment:
    """Read to the end: all tokens, and why they ended."""
    async with asyncio.timeout(PATIENCE_S):
        return add_up([increment async for increment in stream])


def add_up(increments: Sequence[Increment]) -> Increment:
    assert all(increment.finish_reason is None for increment in increments[:-1])
    tokens = (token for increment in increments for token in increment.token_ids)
    return Increment(tuple(tokens), increments[-1].finish_reason)


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
    return next(prompt for prompt, answer in zip(candidates, answers, strict=True) if is_right(answer))


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


async def test_cancelling_ends_the_stream_and_frees_the_place(bench: Bench) -> None:
    prompt = endless_prompt(bench)
    streams = [ask(bench, prompt, count=ENDLESS) for _ in range(MAX_CONCURRENT)]
    async with asyncio.timeout(PATIENCE_S):
        for stream in streams:
            await anext(stream)
    assert bench.engine.stats().running == MAX_CONCURRENT
    for stream in streams:
        stream.cancel()
        stream.cancel()
    assert bench.engine.stats().running == 0
    assert all(stream.is_over for stream in streams)
    assert len((await read(ask(bench, prompt, count=3))).token_ids) == 3
    assert bench.count_inside() == 0


async def test_cancelling_before_the_first_token(bench: Bench) -> None:
    prompt = endless_prompt(bench)
    stream = ask(bench, prompt, count=ENDLESS)
    stream.cancel()
    assert [increment async for increment in stream] == []
    # Let the engine hear of it before the next one.
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


async def test_two_requests_of_one_name_are_two(bench: Bench) -> None:
    # The name is the client's to choose.
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


async def test_what_was_generated_is_counted(bench: Bench) -> None:
    before = bench.engine.stats().generated_tokens
    answer = await read(ask(bench, prompts(1)[0]))
    assert bench.engine.stats().generated_tokens == before + len(answer.token_ids)


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
