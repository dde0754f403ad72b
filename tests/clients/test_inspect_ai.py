"""Inspect: an evaluation with a tool and a score, through its provider for compatible servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from inspect_ai import Task, eval_async
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.scorer import choice, includes
from inspect_ai.solver import generate, multiple_choice, use_tools
from inspect_ai.tool import Tool, tool

from tests.doubles.remote_server import call_text

if TYPE_CHECKING:
    from pathlib import Path

    from tests.doubles.remote_server import Server


@tool
def get_weather() -> Tool:
    async def execute(city: str) -> str:
        """Look outside.

        Args:
            city: Where.
        """
        return f"30 degrees in {city}"

    return execute


@pytest.fixture(params=[False, True], ids=["chat", "responses"])
def model(request: pytest.FixtureRequest, server: Server) -> Any:
    return get_model(
        "openai-api/fjarr/hermes", base_url=server.url, api_key="none", memoize=False,
        responses_api=request.param, config=GenerateConfig(max_retries=0, max_connections=1, max_tokens=200),
    )  # fmt: skip


async def run(task: Task, model: Any, folder: Path) -> Any:
    logs = await eval_async(
        task, model=model, log_dir=str(folder), log_format="json", fail_on_error=True, max_samples=1
    )
    log = logs[0]
    assert log.status == "success", log.error
    return log.results.scores[0].metrics["accuracy"].value


async def test_a_tool_and_a_score(server: Server, model: Any, tmp_path: Path) -> None:
    server.script(call_text("get_weather", city="Zürich"), "It is warm.")
    samples = [Sample("How is it?", target="warm")]
    task = Task(samples, solver=[use_tools(get_weather()), generate()], scorer=includes())
    assert await run(task, model, tmp_path) == 1
    assert "30 degrees in Zürich" in server.prompts()[1]


async def test_multiple_choice(server: Server, model: Any, tmp_path: Path) -> None:
    server.script("ANSWER: B", "ANSWER: A")
    samples = [Sample("2 + 2", choices=["3", "4"], target="B") for _ in range(2)]
    assert await run(Task(samples, solver=multiple_choice(), scorer=choice()), model, tmp_path) == 0.5
