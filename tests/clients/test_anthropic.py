"""Anthropic's own client. Claude Code and others that are built on it need a base URL, a key and a model."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import anthropic
import pytest
from anthropic.resources.beta.messages import Messages as BetaMessages
from anthropic.resources.messages import Messages
from pydantic import BaseModel

from tests.doubles.remote_server import call_text

if TYPE_CHECKING:
    from tests.doubles.remote_server import Server

HELLO: Any = [{"role": "user", "content": "Hello"}]
WEATHER: Any = {
    "name": "get_weather",
    "description": "Look outside.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
ASKED: Any = {"model": "hermes", "max_tokens": 200, "messages": HELLO}


@pytest.fixture
def client(server: Server) -> Any:
    return anthropic.Anthropic(base_url=server.address, api_key="none", max_retries=0)


def test_a_message(server: Server, client: Any) -> None:
    server.script("Good day.")
    message = client.messages.create(**ASKED, system="Be kind.")
    assert (message.content[0].text, message.stop_reason) == ("Good day.", "end_turn")
    assert message.usage.output_tokens == len("Good day.") + 1
    assert message._request_id == message.id.removeprefix("msg_")
    assert "Be kind." in server.prompts()[0]


def test_a_stream(server: Server, client: Any) -> None:
    server.script("Good day.")
    with client.messages.stream(**ASKED) as stream:
        assert "".join(stream.text_stream) == "Good day."
        message = stream.get_final_message()
    assert (message.content[0].text, message.stop_reason) == ("Good day.", "end_turn")
    assert message.usage.output_tokens == len("Good day.") + 1


def test_a_streamed_message_with_a_call_is_sent_back_as_it_is(server: Server, client: Any) -> None:
    server.script("Let me see. " + call_text("get_weather", city="Zürich"), "It is warm.")
    with client.messages.stream(**ASKED, tools=[WEATHER]) as stream:
        message = stream.get_final_message()
    text, call = message.content
    assert (text.text, call.input, message.stop_reason) == ("Let me see. ", {"city": "Zürich"}, "tool_use")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "30 degrees"}
    history = [
        *HELLO,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    answer = client.messages.create(**{**ASKED, "messages": history}, tools=[WEATHER])
    assert answer.content[0].text == "It is warm."
    assert "30 degrees" in server.prompts()[-1]


def test_the_clients_own_loop_calls_tools(server: Server, client: Any) -> None:
    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Look outside."""
        return f"30 degrees in {city}"

    server.script(call_text("get_weather", city="Zürich"), "It is warm.")
    runner = client.beta.messages.tool_runner(**ASKED, tools=[get_weather], thread=False)
    assert runner.until_done().content[0].text == "It is warm."
    assert "30 degrees in Zürich" in server.prompts()[-1]


class Ticket(BaseModel):
    category: str
    priority: int


def test_a_typed_answer(server: Server, client: Any) -> None:
    server.script('{"category": "billing", "priority": 2}')
    message = client.messages.parse(**ASKED, output_format=Ticket)
    assert message.parsed_output == Ticket(category="billing", priority=2)
    assert server.requests()[0]["has_grammar"]


def test_a_stop_sequence(server: Server, client: Any) -> None:
    server.script("one two three")
    message = client.messages.create(**ASKED, stop_sequences=[" tw"])
    assert (message.content[0].text, message.stop_sequence) == ("one", " tw")


def test_the_tokens_of_a_conversation(server: Server, client: Any) -> None:
    server.script("Good day.")
    count = client.messages.count_tokens(model="hermes", messages=HELLO, tools=[WEATHER])
    message = client.messages.create(**ASKED, tools=[WEATHER])
    assert count.input_tokens == message.usage.input_tokens


def test_the_models(client: Any) -> None:
    assert "hermes" in [model.id for model in client.models.list()]


def test_errors_have_the_types_of_the_client(client: Any) -> None:
    with pytest.raises(anthropic.NotFoundError, match="other") as caught:
        client.messages.create(**{**ASKED, "model": "other"})
    assert caught.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        client.messages.create(**ASKED, extra_body={"temperature": 9})


TRANSPORT = {"self", "extra_headers", "extra_query", "timeout"}
ACCEPTED: dict[str, Any] = {
    "max_tokens": 50, "messages": HELLO, "model": "hermes", "cache_control": {"type": "ephemeral"},
    "inference_geo": "eu", "metadata": {"user_id": "u"}, "output_config": {"effort": "low"},
    "service_tier": "auto", "stop_sequences": ["x"], "stream": False, "system": "Be kind.",
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "tool_choice": {"type": "auto"}, "tools": [WEATHER],
    "betas": ["context-management-2025-06-27"], "speed": "standard", "diagnostics": {},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "user_profile_id": "p", "workspace_id": "w",
    "billing_policy": {"type": "billing_policy", "bill_to": "self"},
    "extra_body": {
        "temperature": 0.5, "top_k": 5, "top_p": 0.5,
        "output_format": {"type": "json_schema", "schema": {"type": "object"}},
    },
}  # fmt: skip
REFUSED: dict[str, Any] = {
    "container": "c", "mcp_servers": [{"type": "url", "name": "m", "url": "http://localhost"}],
    "fallbacks": [{"model": "other"}], "fallback_credit_token": "t", "thread": {"type": "create"},
    "compaction": {"type": "summary"},
}  # fmt: skip


def test_every_field_of_the_client_is_known_here() -> None:
    known = {
        name for kind in (Messages, BetaMessages) for name in inspect.signature(kind.create).parameters
    } - TRANSPORT
    assert known <= set(ACCEPTED) | set(REFUSED)


@pytest.mark.parametrize("field", ACCEPTED)
def test_a_field_is_honoured(server: Server, client: Any, field: str) -> None:
    server.script("{}")
    message = client.beta.messages.create(**ASKED | {field: ACCEPTED[field]})
    assert message.content[0].text == "{}"


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_is_refused_by_its_name(client: Any, field: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=field):
        client.beta.messages.create(**ASKED, **{field: REFUSED[field]})
