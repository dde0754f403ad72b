"""Large requests are refused or worked on beside the event loop, so that others are answered meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from inference.text.codec import TokenizerCodec
from inference.text.json_schema import MAX_NESTING
from inference.web.schemas import MAX_PROMPTS
from tests.doubles.model_server import ModelServer, make_codec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TEMPLATE = """{%- for tool in tools or [] %}{{ tool | tojson }}{% endfor %}
{%- for message in messages %}{{ message.content }}{{ message.reasoning_content }}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}{% endfor %}{{ mood }}"""
CODEC = make_codec(TEMPLATE)
HELLO: Any = {"role": "user", "content": "Hello"}
LONG = "x" * 30_000


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    server = ModelServer({"caller": CODEC})
    yield server
    await server.close()


def call(arguments: object) -> dict[str, Any]:
    """Return a message that calls a function."""
    function = {"name": "f", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": function}]}


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [HELLO | {"content": LONG}]},
        {"messages": [HELLO, call({"x": LONG}), {"role": "tool", "tool_call_id": "1", "content": ""}]},
        {"messages": [HELLO, {"role": "assistant", "content": "", "reasoning_content": LONG}]},
        {"messages": [HELLO] * 6000},
        {"messages": [HELLO], "chat_template_kwargs": {"mood": LONG}},
        {
            "messages": [HELLO],
            "tools": [{"type": "function", "function": {"name": "f", "description": LONG}}],
        },
    ],
)
async def test_a_long_conversation_is_rendered_in_a_thread(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    threads: list[threading.Thread] = []
    encode = TokenizerCodec.encode_chat

    def watched(*arguments: Any, **options: Any) -> tuple[int, ...]:
        threads.append(threading.current_thread())
        return encode(*arguments, **options)

    monkeypatch.setattr(TokenizerCodec, "encode_chat", watched)
    response = await server.post("/v1/chat/completions", model="caller", **fields)
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert threads
    assert threading.main_thread() not in threads


async def test_a_schema_is_rewritten_in_a_thread(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def watched(*_: object) -> None:
        threads.append(threading.current_thread())

    monkeypatch.setattr("inference.text.json_schema._check_kinds", watched)
    server.play("caller", "{}")
    response = await server.post(
        "/v1/chat/completions", model="caller", messages=[HELLO], guided_json={"title": "one of a kind"}
    )
    assert response.status_code == 200
    assert threads
    assert threading.main_thread() not in threads


async def test_more_prompts_than_any_server_answers_are_refused_at_once(server: ModelServer) -> None:
    for prompts in (["a"] * (MAX_PROMPTS + 1), [[1]] * (MAX_PROMPTS + 1)):
        error = (await server.post("/v1/completions", model="caller", prompt=prompts)).json()["error"]
        assert (error["message"], error["param"]) == (
            f"'prompt': a request has at most {MAX_PROMPTS} prompts.", "prompt"
        )  # fmt: skip
    # Token ids of one prompt are no prompts.
    whole = await server.post("/v1/completions", model="caller", prompt=[1] * 9000)
    assert whole.json()["error"]["code"] == "context_length_exceeded"


async def test_many_tokens_have_their_text(server: ModelServer) -> None:
    tokens = list(CODEC.encode("ab" * 50_000))
    assert (await server.post("/detokenize", tokens=tokens)).json() == {"prompt": "ab" * 50_000}
    found = (await server.post("/tokenize", prompt="ab" * 50_000, return_token_strs=True)).json()
    assert found["token_strs"] == ["a", "b"] * 50_000


@pytest.mark.parametrize(
    "field", ["guided_json", "metadata", "chat_template_kwargs", "tools", "arguments", "stop"]
)
async def test_no_depth_of_a_body_is_a_mistake_of_the_server(server: ModelServer, field: str) -> None:
    for depth in (MAX_NESTING + 1, 500, 900, 5_000, 100_000):
        server.play("caller", "x")
        async with asyncio.timeout(60):
            response = await server.http.post(
                "/v1/chat/completions",
                content=nested(field, depth),
                headers={"Content-Type": "application/json"},
            )
        assert response.status_code in {200, 400}, depth
        if depth >= 5_000:
            assert response.json()["error"]["message"] == "The body is nested too deeply."


def nested(field: str, depth: int) -> str:
    """Return a body with a field that is nested that deeply."""
    inner = '{"type": "array", "items":' * depth + "{}" + "}" * depth
    messages, more = json.dumps([HELLO]), f', "{field}": {inner}'
    if field == "tools":
        schema = f'{{"type": "object", "properties": {{"x": {inner}}}}}'
        function = f'{{"name": "f", "strict": true, "parameters": {schema}}}'
        more = f', "tools": [{{"type": "function", "function": {function}}}]'
    if field == "arguments":
        messages, more = json.dumps([HELLO, call(0)]).replace("0", inner), ""
    return f'{{"model": "caller", "max_tokens": 1, "messages": {messages}{more}}}'
