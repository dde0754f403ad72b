"""AutoGen: an assistant with tools, and two agents that talk; its messages have names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_ext.models.openai import OpenAIChatCompletionClient
from pydantic import BaseModel

from tests.doubles.remote_server import call_text

if TYPE_CHECKING:
    from tests.doubles.remote_server import Server


class Ticket(BaseModel):
    category: str
    priority: int


async def get_weather(city: str) -> str:
    """Look outside."""
    return f"30 degrees in {city}"


@pytest.fixture
def model(server: Server) -> Any:
    info = {
        "vision": False, "function_calling": True, "json_output": True, "structured_output": True,
        "family": "unknown",
    }  # fmt: skip
    return OpenAIChatCompletionClient(
        model="hermes", base_url=server.url, api_key="none", model_info=info, max_retries=0
    )


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_an_assistant_uses_a_tool(server: Server, model: Any, is_streamed: Any) -> None:
    server.script(call_text("get_weather", city="Zürich"), "It is warm.")
    agent = AssistantAgent(
        "meteorologist", model, tools=[get_weather], reflect_on_tool_use=True, model_client_stream=is_streamed
    )
    result = await agent.run(task="How is it?")
    assert result.messages[-1].content == "It is warm."
    assert "30 degrees in Zürich" in server.prompts()[1]


async def test_two_agents_talk(server: Server, model: Any) -> None:
    server.script("Is it plugged in?", "It is.")
    team = RoundRobinGroupChat(
        [AssistantAgent("clerk", model), AssistantAgent("customer", model)],
        termination_condition=MaxMessageTermination(3),
    )
    result = await team.run(task="My lamp does not work")
    assert [message.content for message in result.messages[1:]] == ["Is it plugged in?", "It is."]
    assert "Is it plugged in?" in server.prompts()[1]


async def test_structured_output(server: Server, model: Any) -> None:
    server.script('{"category": "billing", "priority": 2}')
    agent = AssistantAgent("clerk", model, output_content_type=Ticket)
    result = await agent.run(task="My bill is wrong")
    assert result.messages[-1].content == Ticket(category="billing", priority=2)
