"""Adapters that come, change and go while an engine serves, compared with PEFT's plain `generate`."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from inference.engines.protocol import Engine, GenerationRequest, Increment, Sampling, TokenStream
from inference.engines.registry import start_engine
from inference.errors import EngineError, LoadError, RestartRequiredError
from inference.models.weights import find_weights
from inference.settings import Settings
from tests.doubles.engine_host import through_a_socket
from tests.doubles.tiny import BASE, save_adapter, save_base, word_tokenizer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

VOCABULARY, CONTEXT, COUNT, END_TOKEN = 256, 512, 12, 0
PATIENCE_S = 60.0
PROMPT = tuple(torch.randint(8, VOCABULARY, (100,), generator=torch.Generator().manual_seed(2)).tolist())
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

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
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: run nox -s vllm"),
    # vLLM and its dependencies warn of each other's changes; users can do nothing about it.
    pytest.mark.filterwarnings("default"),
]
ENGINES = [
    pytest.param(("transformers", "auto", True), id="transformers, the first merged"),
    pytest.param(("transformers", "off", True), id="transformers, the first unmerged"),
    pytest.param(("transformers", "off", False), id="transformers, without packing, as on a GPU"),
    pytest.param(("transformers-remote", "off", True), id="transformers, through a socket"),
    pytest.param(("vllm", "auto", True), id="vllm, the first merged", marks=VLLM),
    pytest.param(("vllm", "off", True), id="vllm, the first in a slot", marks=VLLM),
]


@dataclass(frozen=True)
class Bench:
    """An engine that was started with one adapter, and the share that it reads."""

    engine: Engine
    mount: Path
    kind: str

    async def add(self, name: str, folder: str | None = None) -> None:
        served = await self.engine.add_adapter(name, self.mount / "models" / (folder or name) / "adapter")
        assert (served.name, served.parent) == (name, BASE)

    def start(self, model: str, count: int = COUNT) -> TokenStream:
        request = GenerationRequest(f"r{next(NUMBERS)}", model, PROMPT, count, Sampling(0.0))
        return self.engine.submit(request)

    async def ask(self, model: str) -> tuple[int, ...]:
        return await collect(self.start(model))

    def expect(self, adapter: str | None, count: int = COUNT) -> tuple[int, ...]:
        """Return the answer of plain `generate`, with PEFT's own adapter."""
        folder = self.mount / "model-cache" / BASE
        network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        if adapter is not None:
            network = PeftModel.from_pretrained(network, str(self.mount / "models" / adapter / "adapter"))
        prompt_ids = torch.tensor([PROMPT])
        output = network.eval().generate(
            input_ids=prompt_ids, attention_mask=torch.ones_like(prompt_ids), max_new_tokens=count,
            do_sample=False, pad_token_id=END_TOKEN, eos_token_id=END_TOKEN,
        )  # fmt: skip
        return tuple(output[0, len(PROMPT) :].tolist())


NUMBERS = itertools.count()


async def collect(stream: TokenStream) -> tuple[int, ...]:
    async with asyncio.timeout(PATIENCE_S):
        increments: list[Increment] = [increment async for increment in stream]
    return tuple(token for increment in increments for token in increment.token_ids)


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A share with a tiny base and adapters with random values."""
    mount = tmp_path_factory.mktemp("mount")
    save_base(mount, word_tokenizer(VOCABULARY), hidden=64, context=CONTEXT)
    save_adapter(mount, "first", rank=4, std=0.3)
    save_adapter(mount, "second", rank=3, targets=ALL_LINEAR, std=0.3)
    save_adapter(mount, "third", rank=6, targets=["down_proj", "k_proj"], std=0.3)
    return mount


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINES)
async def bench(request: pytest.FixtureRequest, mount: Path) -> AsyncIterator[Bench]:
    name, merges, packs = request.param
    settings = Settings(
        mount=mount, engine=name.removesuffix("-remote"), dtype="float32",
        device=request.config.getoption("device"), auth=False,
        kv_cache_tokens=4096, threads=1, max_concurrent=8, merge_adapters=merges, lora_slots=3,
    )  # fmt: skip
    weights = find_weights(mount, None, "models/first")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("HOME", str(mount))
        if not packs:
            monkeypatch.setattr(
                "inference.engines.transformers.engine.can_pack", lambda _device, _dtype: False
            )
        started = await asyncio.to_thread(start_engine, weights, settings, lambda _phase, _percent: None)
        if name.endswith("-remote"):
            async with through_a_socket(started.engine, started.models) as remote:
                yield Bench(remote, mount, name)
        else:
            yield Bench(started.engine, mount, name)
        await started.engine.close()


async def test_adapters_are_added_beside_running_requests_and_answer_as_peft_does(bench: Bench) -> None:
    running = [bench.start(model, 100) for model in (BASE, "first")]
    await bench.add("second")
    await bench.add("third")
    names = (BASE, "first", "second", "third")
    answers = await asyncio.gather(*(bench.ask(name) for name in names))
    expected = [bench.expect(None if name == BASE else name) for name in names]
    assert answers == expected
    assert len(set(expected)) == len(names)
    assert [await collect(stream) for stream in running] == [
        bench.expect(None, 100),
        bench.expect("first", 100),
    ]
    for name in ("second", "third"):
        await bench.engine.remove_adapter(name)


async def test_a_changed_adapter_takes_over_and_running_requests_end_with_the_old_one(bench: Bench) -> None:
    await bench.add("changing", "second")
    assert await bench.ask("changing") == bench.expect("second")
    running = bench.start("changing", 100)
    await anext(running)
    await bench.add("changing", "third")
    # The prompt's keys and values are cached for the old weights.
    assert await bench.ask("changing") == bench.expect("third")
    (rest,) = [await collect(running)]
    assert bench.expect("second", 100)[-len(rest) :] == rest
    await bench.engine.remove_adapter("changing")


async def test_a_removed_adapter_leaves_when_its_requests_have_ended(bench: Bench) -> None:
    await bench.add("leaving", "second")
    running = bench.start("leaving", 100)
    await anext(running)
    removal = asyncio.create_task(bench.engine.remove_adapter("leaving"))
    await asyncio.sleep(0)
    with pytest.raises(KeyError):
        bench.start("leaving")
    rest = await collect(running)
    assert bench.expect("second", 100)[-len(rest) :] == rest
    await asyncio.wait_for(removal, PATIENCE_S)
    assert await bench.ask(BASE) == bench.expect(None)
    await bench.add("leaving", "third")
    assert await bench.ask("leaving") == bench.expect("third")
    await bench.engine.remove_adapter("leaving")


async def test_what_is_not_there_cannot_be_removed_and_the_base_never(bench: Bench) -> None:
    for name in ("nobody", BASE):
        with pytest.raises(KeyError):
            await bench.engine.remove_adapter(name)


async def test_an_adapter_that_does_not_fit_changes_nothing(bench: Bench) -> None:
    folder = save_adapter(bench.mount, "wrong", rank=2)
    tensors = load_file(folder / "adapter_model.safetensors")
    next(iter(tensors.values())).fill_(torch.nan)
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(LoadError, match=r"the adapter wrong does not fit org/tiny: its tensor .* has NaN"):
        await bench.add("wrong")
    with pytest.raises(LoadError, match="has the name of the base"):
        await bench.add(BASE, "second")
    shutil.rmtree(folder)
    with pytest.raises(LoadError, match=r"adapter_config\.json"):
        await bench.add("wrong")
    with pytest.raises(KeyError):
        bench.start("wrong")
    assert await bench.ask("first") == bench.expect("first")


async def test_an_adapter_that_is_more_than_low_rank_updates_needs_a_restart_or_another_engine(
    bench: Bench,
) -> None:
    save_adapter(bench.mount, "grown", rank=2, has_embeddings=True)
    with pytest.raises(LoadError, match="the adapter grown carries embeddings") as caught:
        await bench.add("grown")
    assert isinstance(caught.value, RestartRequiredError) is bench.kind.startswith("transformers")


async def test_the_adapter_of_the_start_can_be_replaced_and_removed(bench: Bench) -> None:
    """Last: the others need it."""
    running = bench.start("first", 100)
    await anext(running)
    await bench.add("first", "third")
    assert await bench.ask("first") == bench.expect("third")
    rest = await collect(running)
    assert bench.expect("first", 100)[-len(rest) :] == rest
    await bench.engine.remove_adapter("first")
    assert await bench.ask(BASE) == bench.expect(None)
    with pytest.raises(KeyError):
        bench.start("first")


async def test_an_engine_that_has_ended_adds_none(mount: Path) -> None:
    settings = Settings(dtype="float32", device="cpu", auth=False, kv_cache_tokens=512, threads=1)
    weights = find_weights(mount, None, "models/first")
    started = await asyncio.to_thread(start_engine, weights, settings, lambda _phase, _percent: None)
    await started.engine.close()
    with pytest.raises(EngineError):
        await started.engine.add_adapter("second", mount / "models" / "second" / "adapter")
