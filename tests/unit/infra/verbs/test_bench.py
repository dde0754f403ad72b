"""`invoke bench` against the real server with a scripted engine."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from inference.service.requests import Limits
from infra.console import Console
from infra.errors import RemoteError, ToolError, UsageError
from infra.verbs import bench as module
from infra.verbs.bench import BenchRequest, bench, parse_levels
from tests.doubles.openai_server import BASE, END, OpenaiServer, listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

REQUEST = BenchRequest(levels=(2, 1), requests=4, max_tokens=8, goal_s=20)


@pytest.fixture
async def server() -> AsyncIterator[OpenaiServer]:
    server = OpenaiServer(Limits(max_concurrent=4, max_waiting=8))
    server.engine.contexts = {BASE: 20_000}
    server.engine.always = ((72,), (73, END))
    yield server
    await server.close()


@pytest.fixture
async def address(server: OpenaiServer) -> AsyncIterator[str]:
    async with listening(server.app) as address:
        yield address


async def run(request: BenchRequest) -> Any:
    return await asyncio.to_thread(bench, request, Console(), None, {"OPENAI_API_KEY": "k"})


async def test_the_loads_and_the_answer(server: OpenaiServer, address: str) -> None:
    result = await run(replace(REQUEST, endpoint=address))
    assert (result.models, result.found.clients, result.found.is_limit) == ((BASE,), 2, False)
    document = json.loads(json.dumps(result.to_json()))
    assert [each["clients"] for each in document["loads"]] == [1, 2]
    assert all(each["failures"] == [] for each in document["loads"])
    text = result.to_text()
    assert "2 clients at once: 95 % of the answers begin within 20 s, and perhaps more" in text
    assert f"{result.people} people, if each waits 30 s" in text
    assert "interrupted" not in text
    interrupted = replace(result, found=replace(result.found, is_interrupted=True))
    assert "interrupted: the search had not ended" in interrupted.to_text()
    assert interrupted.to_json()["is_interrupted"]
    assert len(server.engine.requests) == 2 + 4 + 4
    assert server.engine.requests[-1].max_new_tokens == 8


async def test_examples_are_asked(server: OpenaiServer, address: str, tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text("prompt\nfirst question\nsecond question\n")
    await run(replace(REQUEST, endpoint=address, data=data, levels=(1,)))
    prompts = [bytes(each.prompt_token_ids).decode() for each in server.engine.requests]
    assert {"first" if "first question" in prompt else "second" for prompt in prompts} == {"first", "second"}
    assert all("question" in prompt for prompt in prompts)


async def test_failed_requests_are_named(server: OpenaiServer, address: str) -> None:
    server.engine.contexts = {BASE: 10}
    with pytest.raises(RemoteError, match="no request to") as caught:
        await run(replace(REQUEST, endpoint=address))
    assert "maximum context length is 10" in caught.value.details[0]


async def test_a_plot(server: OpenaiServer, address: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "plots/users.svg"
    result = await run(replace(REQUEST, endpoint=address, plot=path))
    assert path.read_text().startswith("<?xml")
    assert result.to_text().endswith(f"plot: {path}")
    assert server.engine.requests


def test_a_plot_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _name: None)
    with pytest.raises(ToolError, match="--plot needs the package matplotlib"):
        bench(replace(REQUEST, plot=Path("x.png")), Console(), None, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "there is no endpoint to load"),
        ({"endpoint": "http://host/other"}, "cannot be loaded"),
        ({"goal_s": 0}, "--first-token 0 is too small"),
        ({"think_time_s": -1}, "--think-time -1 is too small"),
        ({"levels": (1, 0)}, "--clients 0 is too small"),
    ],
)
def test_wrong_flags(changes: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bench(replace(REQUEST, **changes), Console(), None, {})


def test_numbers_of_clients() -> None:
    assert parse_levels(["1", "32"]) == (1, 32)
    with pytest.raises(UsageError, match="--clients 'x' is not a number"):
        parse_levels(["x"])
