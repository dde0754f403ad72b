"""Calls and their results in the history of a conversation."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from pydantic import BaseModel

from inference.text.codec import Message
from tests.doubles.tool_server import CALL_TEXTS, HELLO, TOOLS, ZURICH, ToolServer, accepts, make_codec


async def test_calls_and_results_of_the_history_reach_the_template(tool_server: ToolServer) -> None:
    tool_server.play(CALL_TEXTS["mistral"], model="mistral")
    first = await tool_server.ask(model="mistral")
    message = first.choices[0].message
    tool_server.play("Sunny.", model="mistral")
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sun"}
    second = await tool_server.ask(model="mistral", messages=[*HELLO, message, result])
    assert second.choices[0].message.content == "Sunny."
    prompt = tool_server.codecs["mistral"].decode(tool_server.engine.requests[1].prompt_token_ids)
    call = f'{{"name": "get_weather", "arguments": {{"city": "Zürich"}}, "id": "{message.tool_calls[0].id}"}}'
    assert prompt.endswith(f" [{call}][TOOL_RESULTS] sun of get_weather")


async def test_an_id_that_the_template_refuses_is_the_clients_mistake(tool_server: ToolServer) -> None:
    call = {"id": "long-identifier", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    messages = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}]
    with pytest.raises(openai.BadRequestError) as caught:
        await tool_server.ask(model="mistral", messages=messages)
    assert "Tool call ids have nine characters" in caught.value.message
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"city": "Zürich"}', '{"city": "Zürich"}'),
        ({"city": "Zürich"}, '{"city": "Zürich"}'),
        ("", "{}"),
        (" ", "{}"),
        (None, "{}"),
        # A model wrote these, and the client sends them back with the tool's complaint about them.
        ("not json", '"not json"'),
        ("[1]", '"[1]"'),
        ('{"city": "Zü', '"{\\"city\\": \\"Zü"'),
        ("[" * 10_000, None),
    ],
)
async def test_the_arguments_of_an_earlier_call_may_be_anything(
    tool_server: ToolServer, arguments: Any, shown: str | None
) -> None:
    function = {"name": "get_weather", "arguments": arguments}
    call = {"id": "c", "index": 0, "type": "function", "function": function}
    tool_server.play("Sunny.")
    messages = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}]
    response = await tool_server.http.post(
        "/v1/chat/completions", json={"model": "hermes", "messages": messages}
    )
    if shown is None:
        assert response.json()["error"]["code"] == "context_length_exceeded"
        return
    assert response.status_code == 200, response.text
    prompt = tool_server.codecs["hermes"].decode(tool_server.engine.requests[0].prompt_token_ids)
    assert f'{{"name": "get_weather", "arguments": {shown}}}' in prompt


async def test_a_streamed_message_may_go_back_as_it_came(tool_server: ToolServer) -> None:
    tool_server.play(CALL_TEXTS["hermes"])
    async with tool_server.openai.chat.completions.stream(
        model="hermes", messages=HELLO, tools=TOOLS
    ) as stream:
        async for _ in stream:
            pass
        message = (await stream.get_final_completion()).choices[0].message
    call = message.model_dump()["tool_calls"][0]
    assert call["index"] == 0
    tool_server.play("Sunny.")
    result = {"role": "tool", "tool_call_id": call["id"], "content": None}
    # A dump has every field, those that are null included.
    body = {"model": "hermes", "messages": [*HELLO, message.model_dump(), result]}
    response = await tool_server.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    prompt = tool_server.codecs["hermes"].decode(tool_server.engine.requests[1].prompt_token_ids)
    assert f'"arguments": {ZURICH}' in prompt


async def test_the_older_words_for_calls_are_understood(tool_server: ToolServer) -> None:
    tool_server.play("Sunny.", model="mistral")
    call = {"name": "get_weather", "arguments": ZURICH}
    messages = [
        {"role": "assistant", "content": "", "function_call": call},
        {"role": "function", "name": "get_weather", "content": "sun"},
    ]
    template = tool_server.codecs["mistral"]
    with pytest.raises(openai.BadRequestError, match="Tool call ids have nine characters"):
        await tool_server.ask(model="mistral", messages=[*HELLO, *messages])
    await tool_server.ask(model="mistral", messages=[*HELLO, messages[1]])
    prompt = template.decode(tool_server.engine.requests[0].prompt_token_ids)
    assert prompt.endswith("[TOOL_RESULTS] sun of get_weather")
    tool_server.play("Sunny.")
    await tool_server.ask(messages=[*HELLO, *messages])
    prompt = tool_server.codecs["hermes"].decode(tool_server.engine.requests[1].prompt_token_ids)
    assert f'{{"name": "get_weather", "arguments": {ZURICH}}}' in prompt


async def test_the_template_gets_the_name_of_who_wrote_a_message() -> None:
    codec = make_codec("{% for message in messages %}{{ message.name }}: {{ message.content }}{% endfor %}")
    rendered = codec.decode(codec.encode_chat([Message("user", "Hello", name="ann")]))
    assert rendered == "ann: Hello"


async def test_the_clients_own_helper_reads_the_arguments(tool_server: ToolServer) -> None:
    class get_weather(BaseModel):  # noqa: N801 - it is the function's name
        city: str

    tool_server.play(CALL_TEXTS["hermes"])
    completion = await tool_server.openai.chat.completions.parse(
        model="hermes", messages=HELLO, tools=[openai.pydantic_function_tool(get_weather)]
    )
    (call,) = completion.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == get_weather(city="Zürich")
    tool_server.play("Sunny.")
    history: Any = [
        *HELLO,
        completion.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "sun"},
    ]
    await tool_server.openai.chat.completions.create(model="hermes", messages=history)
    # A strict function's arguments are kept to its schema, wherever the model calls it.
    assert accepts(tool_server.engine.requests[0].grammar, CALL_TEXTS["hermes"])
    assert not accepts(tool_server.engine.requests[0].grammar, CALL_TEXTS["hermes"].replace("city", "town"))
    assert accepts(tool_server.engine.requests[0].grammar, "no call at all")
