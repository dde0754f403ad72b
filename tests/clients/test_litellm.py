"""LiteLLM, which gateways use: it changes requests and answers on their way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import litellm
import pytest

from tests.doubles.remote_server import call_text

if TYPE_CHECKING:
    from tests.doubles.remote_server import Server

HELLO: Any = [{"role": "user", "content": "Hello"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(params=["openai", "hosted_vllm", "litellm_proxy"])
def options(request: pytest.FixtureRequest, server: Server) -> dict[str, Any]:
    return {"model": f"{request.param}/hermes", "api_base": server.url, "api_key": "none", "num_retries": 0}


def test_chat(server: Server, options: dict[str, Any]) -> None:
    server.script("Good day.")
    answer = litellm.completion(messages=HELLO, **options)
    assert answer.choices[0].message.content == "Good day."


async def test_stream(server: Server, options: dict[str, Any]) -> None:
    server.script("Good day.")
    stream = await litellm.acompletion(messages=HELLO, stream=True, **options)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Good day."


def test_its_messages_with_calls_are_sent_back_as_they_are(server: Server, options: dict[str, Any]) -> None:
    server.script(call_text("get_weather", city="Zürich"), "It is warm.")
    message = litellm.completion(messages=HELLO, tools=[WEATHER], **options).choices[0].message
    result = {
        "role": "tool", "tool_call_id": message.tool_calls[0].id, "name": "get_weather",
        "content": "30 degrees",
    }  # fmt: skip
    answer = litellm.completion(messages=[*HELLO, message, result], tools=[WEATHER], **options)
    assert answer.choices[0].message.content == "It is warm."
    assert "30 degrees" in server.prompts()[1]


def test_a_response(server: Server) -> None:
    server.script("Good day.")
    response = litellm.responses(
        model="openai/hermes", input="Hello", api_base=server.url, api_key="none", num_retries=0
    )
    assert response.output[-1].content[0].text == "Good day."


def test_text(server: Server) -> None:
    server.script("day.", model="plain")
    answer = litellm.text_completion(
        model="text-completion-openai/plain", prompt="Good ", api_base=server.url, api_key="none"
    )
    assert answer.choices[0].text == "day."
