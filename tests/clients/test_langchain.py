"""LangChain: the chat model, tools, structured output, and an agent (which is LangGraph's)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field

from tests.doubles.remote_server import call_text

if TYPE_CHECKING:
    from tests.doubles.remote_server import Server


class Ticket(BaseModel):
    """A ticket."""

    category: str = Field(description="what it is about")
    priority: int


@tool
def get_weather(city: str) -> str:
    """Look outside."""
    return f"30 degrees in {city}"


@pytest.fixture(params=[False, True], ids=["chat", "responses"])
def model(request: pytest.FixtureRequest, server: Server) -> Any:
    return ChatOpenAI(
        model="hermes", base_url=server.url, api_key="none", max_retries=0, temperature=0,
        use_responses_api=request.param,
    )  # fmt: skip


def test_chat(server: Server, model: Any) -> None:
    server.script("Good day.")
    message = model.invoke([("system", "Be kind."), ("user", "Hello")])
    assert message.text == "Good day."
    assert message.usage_metadata["output_tokens"] == len("Good day.") + 1
    assert "Be kind." in server.prompts()[0]


def test_stream(server: Server, model: Any) -> None:
    server.script("Good day.")
    assert "".join(chunk.text for chunk in model.stream("Hello")) == "Good day."


def test_batch(server: Server, model: Any) -> None:
    server.script("Good day.", "Good day.")
    assert [message.text for message in model.batch(["Hello", "Hello again"])] == ["Good day."] * 2


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output(server: Server, model: Any, method: str) -> None:
    answer = {"category": "billing", "priority": 2}
    text = '{"category": "billing", "priority": 2}'
    server.script(call_text("Ticket", **answer) if method == "function_calling" else text)
    structured = model.with_structured_output(Ticket, method=method)
    assert structured.invoke("Answer in JSON: my bill is wrong") == Ticket(category="billing", priority=2)
    assert server.requests()[0]["has_grammar"]


def test_an_agent_uses_a_tool(server: Server, model: Any) -> None:
    server.script(call_text("get_weather", city="Zürich"), "It is warm.")
    agent = create_agent(model, [get_weather], system_prompt="Look outside first.")
    result = agent.invoke({"messages": [HumanMessage("How is it?", name="ann")]})
    assert result["messages"][-1].text == "It is warm."
    assert "30 degrees in Zürich" in server.prompts()[-1]


async def test_an_agent_streams(server: Server, model: Any) -> None:
    server.script(call_text("get_weather", city="Zürich"), "It is warm.")
    agent = create_agent(model, [get_weather])
    texts = [
        chunk.text
        async for chunk, _ in agent.astream({"messages": [("user", "How is it?")]}, stream_mode="messages")
    ]
    assert "".join(texts).endswith("It is warm.")


def test_an_agent_with_a_structured_answer(server: Server, model: Any) -> None:
    server.script(
        call_text("get_weather", city="Zürich"), call_text("Ticket", category="weather", priority=1)
    )
    agent = create_agent(model, [get_weather], response_format=Ticket)
    result = agent.invoke({"messages": [("user", "How is it?")]})
    assert result["structured_response"] == Ticket(category="weather", priority=1)


def test_completions(server: Server) -> None:
    server.script("day.", model="plain")
    model = OpenAI(model="plain", base_url=server.url, api_key="none", max_retries=0)
    assert model.invoke("Good ") == "day."
