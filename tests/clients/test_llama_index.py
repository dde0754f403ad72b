"""LlamaIndex: `OpenAILike`, which is its class for compatible servers, alone and in an agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from tests.doubles.remote_server import call_text

if TYPE_CHECKING:
    from tests.doubles.remote_server import Server


class Ticket(BaseModel):
    """A ticket."""

    category: str
    priority: int


def get_weather(city: str) -> str:
    """Look outside."""
    return f"30 degrees in {city}"


@pytest.fixture
def model(server: Server) -> Any:
    return OpenAILike(
        model="hermes", api_base=server.url, api_key="none", is_chat_model=True, max_retries=0,
        is_function_calling_model=True, context_window=4000,
    )  # fmt: skip


def test_chat(server: Server, model: Any) -> None:
    server.script("Good day.")
    answer = model.chat([ChatMessage("Be kind.", role="system"), ChatMessage("Hello")])
    assert answer.message.content == "Good day."
    assert "Be kind." in server.prompts()[0]


def test_stream(server: Server, model: Any) -> None:
    server.script("Good day.")
    assert "".join(each.delta for each in model.stream_complete("Hello")) == "Good day."


def test_structured_output(server: Server, model: Any) -> None:
    server.script(call_text("Ticket", category="billing", priority=2))
    answer = model.as_structured_llm(Ticket).complete("My bill is wrong")
    assert answer.raw == Ticket(category="billing", priority=2)


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_an_agent_uses_a_tool(server: Server, model: Any, is_streamed: Any) -> None:
    server.script(call_text("get_weather", city="Zürich"), "It is warm.")
    agent = FunctionAgent(tools=[get_weather], llm=model, streaming=is_streamed)
    answer = await agent.run("How is it?")
    assert str(answer) == "It is warm."
    assert "30 degrees in Zürich" in server.prompts()[1]
