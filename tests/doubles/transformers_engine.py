"""Requests to the engine on transformers, and the answers that transformers itself gives."""

from __future__ import annotations

import contextlib
import copy
import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from inference.engines.protocol import Engine, GenerationRequest, Increment, Sampling, TokenStream
from inference.engines.transformers.engine import TransformersEngine, optimize_for_cpu
from inference.settings import Settings
from tests.doubles.tiny import BASE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from inference.engines.transformers.loading import LoadedModel
    from inference.models.hardware import CacheSize


EngineT = TypeVar("EngineT", bound=Engine)

ROOT = Path(__file__).parents[2]
TUNED = "mine"
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if true %}<assistant>{% endif %}"
)
SETTINGS = Settings(dtype="float32", device="cpu", auth=False)


def start_on_copies(
    models: Sequence[LoadedModel], cache: CacheSize, max_concurrent: int
) -> TransformersEngine:
    """Start an engine on copies: it gives a network layers that plain `generate` cannot use."""
    copies = [replace(model, network=copy.deepcopy(model.network)) for model in models]
    optimize_for_cpu([model.network for model in copies], allow_own_attention=True)
    return TransformersEngine(copies, cache, max_concurrent)


@contextlib.asynccontextmanager
async def started(engine: EngineT) -> AsyncIterator[EngineT]:
    """Close an engine of the test's own, however the test ends: its threads would outlive it."""
    try:
        yield engine
    finally:
        await engine.close()


def count_open(engine: TransformersEngine) -> int:
    return sum(len(batcher.open) for batcher in engine._batchers)


NUMBERS = itertools.count()


def ask(
    engine: TransformersEngine,
    prompt: tuple[int, ...],
    model: str = BASE,
    max_new_tokens: int = 12,
    sampling: Sampling = Sampling(0.0),  # noqa: B008 - it is frozen
    **asked: Any,
) -> TokenStream:
    return engine.submit(
        GenerationRequest(f"r{next(NUMBERS)}", model, prompt, max_new_tokens, sampling, **asked)
    )


async def read(stream: TokenStream) -> Increment:
    increments = [increment async for increment in stream]
    tokens = tuple(token for increment in increments for token in increment.token_ids)
    logprobs = tuple(entry for increment in increments for entry in increment.logprobs)
    return Increment(tokens, increments[-1].finish_reason, logprobs)


def generate(model: LoadedModel, prompt: tuple[int, ...], count: int = 12) -> Increment:
    """Return the answer of transformers' own `generate`."""
    prompt_ids = torch.tensor([prompt])
    output = model.network.generate(
        prompt_ids, attention_mask=torch.ones_like(prompt_ids), max_new_tokens=count, do_sample=False,
        pad_token_id=0,
    )  # fmt: skip
    tokens = tuple(output[0, len(prompt) :].tolist())
    return Increment(tokens, "stop" if tokens[-1] == 0 else "length")


def prompts(count: int) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(1)
    return [
        tuple(torch.randint(1, 257, (5 + 7 * index,), generator=generator).tolist()) for index in range(count)
    ]


JSON_GRAMMAR = (
    'start: %json {"type": "array", "items": {"enum": ["one", "two", "three"]},'
    ' "minItems": 8, "maxItems": 20, "x-guidance": {"whitespace_flexible": false}}'
)
