"""Several adapters at once, on every real engine, compared with PEFT's plain `generate`.

The adapters differ in rank and in the layers that they sit on. One has embeddings and a tokenizer of its own,
which vLLM does not support, and which cannot be batched with the others.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from inference.engines.protocol import Engine, GenerationRequest, Increment, Sampling
from inference.engines.registry import start_engine
from inference.models.weights import find_weights
from inference.settings import Settings
from tests.doubles.tiny import BASE, load_base, save_adapter, save_base, word_tokenizer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from inference.engines.protocol import ServedModel

FEW = ("small", "wide", "deep")
GROWN = "grown"
VOCABULARY, GROWN_VOCABULARY, CONTEXT = 256, 260, 512
END_TOKEN = 0
COUNT = 12
PATIENCE_S = 60.0
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
IS_MISSING = find_spec("vllm") is None
ENGINES = [
    pytest.param(("transformers", "off", True, 1), id="transformers, unmerged"),
    pytest.param(("transformers", "off", False, 1), id="transformers, unmerged without packing, as on a GPU"),
    pytest.param(("transformers", "on", True, 1), id="transformers, merged"),
    *(
        pytest.param(
            ("vllm", "auto", True, processes),
            id=name,
            marks=[
                pytest.mark.skipif(IS_MISSING, reason="vLLM is not installed: run nox -s vllm"),
                # vLLM and its dependencies warn of each other's changes; users can do nothing about it.
                pytest.mark.filterwarnings("default"),
            ],
        )
        for name, processes in (("vllm", 1), ("vllm, split over two processes", 2))
    ),
]


@dataclass(frozen=True)
class Served:
    """An engine and the models that it serves."""

    engine: Engine
    models: tuple[ServedModel, ...]
    percents: list[int]

    @property
    def names(self) -> list[str]:
        return [model.name for model in self.models]


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A share with a tiny base and adapters with random values."""
    mount = tmp_path_factory.mktemp("mount")
    save_base(mount, word_tokenizer(VOCABULARY), hidden=64, context=CONTEXT)
    save_adapter(mount, "small", rank=2, std=0.3)
    save_adapter(mount, "wide", rank=12, targets=ALL_LINEAR, std=0.3)
    save_adapter(mount, "deep", rank=6, targets=["down_proj"], std=0.3)
    network = load_base(mount)
    network.resize_token_embeddings(GROWN_VOCABULARY, mean_resizing=False)
    torch.nn.init.normal_(network.get_input_embeddings().weight.data[VOCABULARY:], std=0.3)
    folder = save_adapter(mount, GROWN, network=network, std=0.3, has_embeddings=True)
    word_tokenizer(GROWN_VOCABULARY).save_pretrained(folder)
    return mount


@pytest.fixture(scope="module")
def networks(mount: Path) -> dict[str, Any]:
    """The models as transformers and PEFT load them, each separately."""

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(mount / "model-cache" / BASE, dtype=torch.float32).eval()

    networks = {BASE: load()}
    for name in (*FEW, GROWN):
        network = load()
        if name == GROWN:
            network.resize_token_embeddings(GROWN_VOCABULARY, mean_resizing=False)
        networks[name] = PeftModel.from_pretrained(network, str(mount / "models" / name / "adapter")).eval()
    return networks


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINES)
async def served(request: pytest.FixtureRequest, mount: Path) -> AsyncIterator[Served]:
    """An engine with all adapters that it supports."""
    name, merges, packs, processes = request.param
    adapters = FEW if name == "vllm" else (*FEW, GROWN)
    settings = Settings(
        engine=name, dtype="float32", device=request.config.getoption("device"), auth=False,
        kv_cache_tokens=2048, threads=1, max_concurrent=8, merge_adapters=merges, tensor_parallel=processes,
    )  # fmt: skip
    percents: list[int] = []
    weights = find_weights(mount, None, ",".join("models/" + adapter for adapter in adapters))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("HOME", str(mount))
        if not packs:
            monkeypatch.setattr(
                "inference.engines.transformers.engine.can_pack", lambda _device, _dtype: False
            )
        started = await asyncio.to_thread(
            start_engine, weights, settings, lambda _phase, percent: percents.append(percent)
        )
        yield Served(started.engine, started.models, percents)
        await started.engine.close()


NUMBERS = itertools.count()


async def ask(served: Served, model: str, prompt: Sequence[int]) -> Increment:
    request = GenerationRequest(f"r{next(NUMBERS)}", model, tuple(prompt), COUNT, Sampling(0.0))
    async with asyncio.timeout(PATIENCE_S):
        increments = [increment async for increment in served.engine.submit(request)]
    tokens = (token for increment in increments for token in increment.token_ids)
    return Increment(tuple(tokens), increments[-1].finish_reason)


def generate(network: Any, prompt: Sequence[int]) -> Increment:
    """Return the answer of plain `generate`."""
    prompt_ids = torch.tensor([list(prompt)])
    output = network.generate(
        input_ids=prompt_ids, attention_mask=torch.ones_like(prompt_ids), max_new_tokens=COUNT,
        do_sample=False, pad_token_id=END_TOKEN, eos_token_id=END_TOKEN,
    )  # fmt: skip
    tokens = tuple(output[0, len(prompt) :].tolist())
    return Increment(tokens, "stop" if tokens[-1] == END_TOKEN else "length")


def prompts(model: str) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(1)
    size = GROWN_VOCABULARY if model == GROWN else VOCABULARY
    found = [
        tuple(torch.randint(8, size, (5 + 9 * index,), generator=generator).tolist()) for index in range(3)
    ]
    # The token that only the grown vocabulary has stands in its prompts for certain.
    return [(*prompt, size - 1) for prompt in found]


async def test_every_adapter_is_served_under_its_name_in_its_order(served: Served) -> None:
    assert served.names[:4] == [BASE, *FEW]
    assert [model.parent for model in served.models] == [None, *[BASE] * (len(served.models) - 1)]


async def test_the_start_gets_on_with_each_of_them(served: Served) -> None:
    assert served.percents == sorted(served.percents)
    assert set(served.percents) <= set(range(1, 85))
    assert len(set(served.percents)) >= 2


async def test_each_adapter_answers_as_peft_does_alone(served: Served, networks: dict[str, Any]) -> None:
    for model in served.names:
        for prompt in prompts(model):
            assert await ask(served, model, prompt) == generate(networks[model], prompt)


async def test_all_of_them_and_the_base_answer_in_one_go(served: Served, networks: dict[str, Any]) -> None:
    cases = [
        (model, prompt) for index in range(3) for model in served.names for prompt in [prompts(model)[index]]
    ]
    expected = [generate(networks[model], prompt) for model, prompt in cases]
    assert await asyncio.gather(*(ask(served, model, prompt) for model, prompt in cases)) == expected


async def test_none_uses_the_cached_prefix_of_another(served: Served, networks: dict[str, Any]) -> None:
    """The cache shares whole pages of prompts with a common prefix, so this prompt fills some."""
    prompt = tuple(torch.randint(8, VOCABULARY, (100,), generator=torch.Generator().manual_seed(2)).tolist())
    for _ in range(2):
        for model in served.names:
            assert await ask(served, model, prompt) == generate(networks[model], prompt)


async def test_they_differ_from_each_other(served: Served) -> None:
    prompt = prompts(BASE)[1]
    answers = await asyncio.gather(*(ask(served, model, prompt) for model in served.names))
    assert len({answer.token_ids for answer in answers}) == len(served.names)


async def test_an_adapter_with_added_tokens_keeps_them_beside_one_without(served: Served) -> None:
    sizes = {model.name: model.codec.vocabulary_size for model in served.models}
    assert {sizes[name] for name in (BASE, *FEW)} == {VOCABULARY}
    assert sizes.get(GROWN, GROWN_VOCABULARY) == GROWN_VOCABULARY
