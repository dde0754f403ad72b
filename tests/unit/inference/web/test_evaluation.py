"""Multiple-choice evaluation over `/v1/completions`, against the plain network.

Source: lm-evaluation-harness 0.4, `models/openai_completions.py` (`local-completions`): what it sends, and
how it reads the answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import pytest

from inference.engines.registry import start_engine
from inference.models.weights import find_weights
from inference.service.requests import Limits
from inference.service.service import Service
from inference.settings import Settings
from inference.web.application import ChatPage, Identity, make_application
from tests.doubles.plain_network import continue_greedily, score_continuation
from tests.doubles.tiny import BASE, byte_tokenizer, load_base, save_base

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("one_thread")]

QUESTIONS = ("The sky is", "Two and two are", "In the beginning", "é")
CHOICES = (" blue", " four.", "", " a very long answer that nobody would give")


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    save_base(tmp_path, byte_tokenizer("<end>"), seed=2)
    settings = Settings(dtype="float32", device="cpu", auth=False, kv_cache_tokens=4096, threads=1)
    started = start_engine(find_weights(tmp_path, BASE, None), settings, lambda _phase, _percent: None)
    engine, models = started.engine, started.models
    service = Service(Limits())
    service.begin_serving(engine, models)
    app = make_application(service, settings, Identity("", "", "", ""), ChatPage(service))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
        yield client
    await engine.close()


async def test_choices_are_as_likely_as_in_the_plain_network(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    tokenizer, network = byte_tokenizer("<end>"), load_base(tmp_path).eval()
    pairs = [
        (tokenizer.encode(question), tokenizer.encode(choice)) for question in QUESTIONS for choice in CHOICES
    ]
    pairs = [(context, continuation) for context, continuation in pairs if continuation]
    pairs += [
        (tokenizer.encode(question), continue_greedily(network, tokenizer.encode(question)))
        for question in QUESTIONS
    ]
    response = await client.post("/v1/completions", json={
        "model": BASE, "prompt": [context + continuation for context, continuation in pairs],
        "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True,
    })  # fmt: skip
    choices = sorted(response.json()["choices"], key=lambda choice: choice["index"])
    assert len(choices) == len(pairs)
    found = set()
    for choice, (context, continuation) in zip(choices, pairs, strict=True):
        likelihood, is_greedy = read_choice(choice, len(context))
        expected, is_really_greedy = score_continuation(network, context, continuation)
        assert likelihood == pytest.approx(expected, abs=1e-3)
        assert is_greedy == is_really_greedy
        found.add(is_greedy)
    assert found == {True, False}


def read_choice(choice: Any, context: int) -> tuple[float, bool]:
    """Read a choice as the harness does: without the context, and without the token that was generated."""
    logprobs = choice["logprobs"]
    chosen, top = logprobs["token_logprobs"][context:-1], logprobs["top_logprobs"][context:-1]
    tokens = logprobs["tokens"][context:-1]
    likeliest = [max(each, key=lambda token: each[token]) for each in top]
    return sum(chosen), tokens == likeliest
