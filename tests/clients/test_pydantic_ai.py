"""Pydantic AI: agents with tools and typed output, over both of OpenAI's APIs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.doubles.remote_server import call_text

if TYPE_CHECKING:
    from tests.doubles.remote_server import Server

TICKET = '{"category": "billing", "priority": 2}'


class Ticket(BaseModel):
    category: str
    priority: int


@pytest.fixture(params=[OpenAIChatModel, OpenAIResponsesModel], ids=["chat", "responses"])
def model(request: pytest.FixtureRequest, server: Server) -> Any:
    return request.param("hermes", provider=OpenAIProvider(base_url=server.url, api_key="none"))


async def test_text(server: Server, model: Any) -> None:
    server.script("Good day.")
    result = await Agent(model, instructions="Be kind.").run("Hello")
    assert result.output == "Good day."
    assert "Be kind." in server.prompts()[0]


async def test_stream(server: Server, model: Any) -> None:
    server.script("Good day.")
    async with Agent(model).run_stream("Hello") as result:
        assert [text async for text in result.stream_text(delta=True, debounce_by=None)][-1]
        assert result.usage.output_tokens == len("Good day.") + 1


async def test_a_tool_and_a_second_question(server: Server, model: Any) -> None:
    agent = Agent(model)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Look outside."""
        return f"30 degrees in {city}"

    server.script(call_text("get_weather", city="Zürich"), "It is warm.", "Yes.")
    result = await agent.run("How is it?")
    assert result.output == "It is warm."
    assert "30 degrees in Zürich" in server.prompts()[1]
    again = await agent.run("Are you sure?", message_history=result.all_messages())
    assert again.output == "Yes."
    assert "It is warm." in server.prompts()[2]


@pytest.mark.parametrize("kind", [ToolOutput, NativeOutput, PromptedOutput])
async def test_typed_output(server: Server, model: Any, kind: Any) -> None:
    call = call_text("final_result", category="billing", priority=2)
    server.script(call if kind is ToolOutput else TICKET)
    result = await Agent(model, output_type=kind(Ticket)).run("My bill is wrong")
    assert result.output == Ticket(category="billing", priority=2)
