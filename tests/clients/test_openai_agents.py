"""OpenAI's agents SDK, over both of OpenAI's APIs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import agents
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.doubles.remote_server import call_text

if TYPE_CHECKING:
    from tests.doubles.remote_server import Server


class Ticket(BaseModel):
    category: str
    priority: int


@agents.function_tool
def get_weather(city: str) -> str:
    """Look outside."""
    return f"30 degrees in {city}"


@pytest.fixture(
    params=[agents.OpenAIChatCompletionsModel, agents.OpenAIResponsesModel], ids=["chat", "responses"]
)
def model(request: pytest.FixtureRequest, server: Server) -> Any:
    agents.set_tracing_disabled(disabled=True)
    client = AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0)
    return request.param(model="hermes", openai_client=client)


async def test_a_tool(server: Server, model: Any) -> None:
    server.script(call_text("get_weather", city="Zürich"), "It is warm.")
    agent = agents.Agent("meteorologist", instructions="Look first.", model=model, tools=[get_weather])
    result = await agents.Runner.run(agent, "How is it?")
    assert result.final_output == "It is warm."
    assert "30 degrees in Zürich" in server.prompts()[1]


async def test_a_stream(server: Server, model: Any) -> None:
    server.script(call_text("get_weather", city="Zürich"), "It is warm.")
    result = agents.Runner.run_streamed(
        agents.Agent("meteorologist", model=model, tools=[get_weather]), "How is it?"
    )
    deltas = [
        event.data.delta
        async for event in result.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert "".join(deltas) == result.final_output == "It is warm."


async def test_a_hand_over(server: Server, model: Any) -> None:
    specialist = agents.Agent("specialist", model=model)
    front = agents.Agent("front", model=model, handoffs=[specialist])
    server.script(call_text("transfer_to_specialist"), "Solved.")
    result = await agents.Runner.run(front, "My bill is wrong")
    assert (result.final_output, result.last_agent) == ("Solved.", specialist)


async def test_typed_output(server: Server, model: Any) -> None:
    server.script('{"category": "billing", "priority": 2}')
    result = await agents.Runner.run(
        agents.Agent("clerk", model=model, output_type=Ticket), "My bill is wrong"
    )
    assert result.final_output == Ticket(category="billing", priority=2)
