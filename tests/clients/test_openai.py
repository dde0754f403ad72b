"""OpenAI's own client, of the release in the environment: 3 in one, 2 in others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.doubles.remote_server import call_text

if TYPE_CHECKING:
    from tests.doubles.remote_server import Server

TICKET = '{"category": "billing", "priority": 2}'
HELLO: Any = [{"role": "user", "content": "Hello"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Look outside.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Ticket(BaseModel):
    category: Literal["billing", "network"]
    priority: int


@pytest.fixture
def client(server: Server) -> Any:
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)


def test_models(client: Any) -> None:
    assert "hermes" in [model.id for model in client.models.list()]
    assert client.models.retrieve("hermes").id == "hermes"


def test_chat(server: Server, client: Any) -> None:
    server.script("Good day.")
    answer = client.chat.completions.create(model="hermes", messages=HELLO, reasoning_effort="none")
    assert answer.choices[0].message.content == "Good day."
    assert answer.usage.completion_tokens == len("Good day.") + 1


def test_stream_with_usage(server: Server, client: Any) -> None:
    server.script("Good day.")
    chunks = list(
        client.chat.completions.create(
            model="hermes", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Good day."
    assert chunks[-1].usage.completion_tokens == len("Good day.") + 1


def test_completions(server: Server, client: Any) -> None:
    server.script("day.", model="plain")
    answer = client.completions.create(model="plain", prompt="Good ", extra_body={"return_token_ids": True})
    assert answer.choices[0].text == "day."
    assert server.prompts() == ["Good "]
    assert len(answer.choices[0].token_ids) == len("day.") + 1


def test_a_streamed_message_with_a_call_is_sent_back_as_it_is(server: Server, client: Any) -> None:
    server.script(call_text("get_weather", city="Zürich"), "It is warm.")
    with client.chat.completions.stream(model="hermes", messages=HELLO, tools=[WEATHER]) as stream:
        message = stream.get_final_completion().choices[0].message
    call = message.tool_calls[0]
    assert json.loads(call.function.arguments) == {"city": "Zürich"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "30 degrees"}
    answer = client.chat.completions.create(
        model="hermes", messages=[*HELLO, message, result], tools=[WEATHER]
    )
    assert answer.choices[0].message.content == "It is warm."
    assert "30 degrees" in server.prompts()[-1]


def test_structured_output(server: Server, client: Any) -> None:
    server.script(TICKET)
    answer = client.chat.completions.parse(model="hermes", messages=HELLO, response_format=Ticket)
    assert answer.choices[0].message.parsed == Ticket(category="billing", priority=2)
    assert server.requests()[0]["has_grammar"]


def test_a_response(server: Server, client: Any) -> None:
    server.script("Good day.")
    response = client.responses.create(model="hermes", input="Hello", instructions="Be kind.")
    assert response.output_text == "Good day."
    assert "Be kind." in server.prompts()[0]


def test_a_streamed_response(server: Server, client: Any) -> None:
    server.script("Good day.")
    with client.responses.stream(model="hermes", input="Hello") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert stream.get_final_response().output_text == "".join(deltas) == "Good day."


def test_a_response_with_a_call_and_its_result(server: Server, client: Any) -> None:
    tool = {"type": "function", **WEATHER["function"], "strict": False}
    server.script(call_text("get_weather", city="Zürich"), "It is warm.")
    first = client.responses.create(model="hermes", input="How is it outside?", tools=[tool])
    call = first.output[0]
    assert json.loads(call.arguments) == {"city": "Zürich"}
    items = [
        {"role": "user", "content": "How is it outside?"},
        *first.output,
        {"type": "function_call_output", "call_id": call.call_id, "output": "30 degrees"},
    ]
    assert client.responses.create(model="hermes", input=items, tools=[tool]).output_text == "It is warm."
    assert "30 degrees" in server.prompts()[-1]


def test_a_structured_response(server: Server, client: Any) -> None:
    server.script(TICKET)
    response = client.responses.parse(model="hermes", input="Hello", text_format=Ticket)
    assert response.output_parsed == Ticket(category="billing", priority=2)


def test_errors_have_the_types_of_the_client(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="other"):
        client.chat.completions.create(model="other", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="hermes", messages=HELLO, temperature=9)
