"""Calls of tools in answers, in each format that models write them in."""

from __future__ import annotations

import asyncio
import json

import pytest

from inference.engines.protocol import Increment, TokenLogprobs
from tests.doubles.tool_server import CALL_TEXTS, FORMS, HELLO, ZURICH, ToolServer

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("model", CALL_TEXTS)
async def test_a_call_is_read_in_each_form(tool_server: ToolServer, model: str) -> None:
    tool_server.play(CALL_TEXTS[model], model=model)
    completion = await tool_server.ask(model=model)
    choice = completion.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name, call.function.arguments) == ("function", "get_weather", ZURICH)
    assert len(call.id) == FORMS[model].id_length
    assert tool_server.engine.requests[0].grammar is None
    prompt = tool_server.codecs[model].decode(tool_server.engine.requests[0].prompt_token_ids)
    assert '"name": "get_weather", "description": "Look outside.", "parameters": {"type": "object"' in prompt


@pytest.mark.parametrize("model", CALL_TEXTS)
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_call_is_streamed_in_each_form(tool_server: ToolServer, model: str, size: int) -> None:
    tool_server.play(CALL_TEXTS[model], model=model, size=size)
    chunks = [chunk async for chunk in await tool_server.ask(model=model, stream=True)]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == ""
    (call,) = [call for delta in deltas for call in delta.tool_calls or []]
    assert (call.index, call.type, call.function.name) == (0, "function", "get_weather")
    assert call.function.arguments == ZURICH
    assert call.id
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == [
        "tool_calls"
    ]


async def test_text_before_a_call_streams_as_it_comes(tool_server: ToolServer) -> None:
    encode = tool_server.codecs["hermes"].encode
    tool_server.engine.play(
        encode("Let me look <b"),
        encode(">. <tool_"),
        encode(CALL_TEXTS["hermes"].removeprefix("<tool_")),
        tool_server.end,
    )
    stream = await tool_server.ask(stream=True)
    pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert pieces[:3] == ["", "Let me look <b", ">. "]
    assert "".join(pieces) == "Let me look <b>. "


async def test_several_calls_are_numbered(tool_server: ToolServer) -> None:
    text = (
        f'Both.\n{CALL_TEXTS["hermes"]}\n<tool_call>{{"name": "get_time", "arguments": {{}}}}</tool_call>\n'
    )
    tool_server.play(text, size=5)
    chunks = [chunk async for chunk in await tool_server.ask(stream=True)]
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [(call.index, call.function.name) for call in calls] == [(0, "get_weather"), (1, "get_time")]
    assert len({call.id for call in calls}) == 2
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Both.\n"


async def test_with_one_call_allowed_the_first_ends_the_answer(tool_server: ToolServer) -> None:
    tokens = tool_server.codecs["hermes"].encode(CALL_TEXTS["hermes"])
    tool_server.engine.play(tokens, tokens, asyncio.Event())
    completion = await tool_server.ask(parallel_tool_calls=False)
    assert completion.choices[0].finish_reason == "tool_calls"
    assert len(completion.choices[0].message.tool_calls) == 1
    assert tool_server.engine.cancelled


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "get_weather", "arguments": {"city"\n</tool_call>',
        '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call> and more',
        '<tool_call>{"name": "get_weather", "arguments": [1]}</tool_call>',
        "<tool_call>none at all</tool_call>",
        '<tool_call>\n{"name": get_weather}\n</tool_call>',
        "<tool_call",
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_malformed_call_stays_text(tool_server: ToolServer, text: str, *, stream: bool) -> None:
    tool_server.play("Well: " + text, size=3)
    answer = await tool_server.ask(stream=stream)
    if stream:
        chunks = [chunk async for chunk in answer]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Well: " + text
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert not any(chunk.choices[0].delta.tool_calls for chunk in chunks)
    else:
        assert answer.choices[0].message.content == "Well: " + text
        assert answer.choices[0].message.tool_calls is None
        assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_the_length_cut_off_keeps_the_arguments_so_far(
    tool_server: ToolServer, choice: str, *, stream: bool
) -> None:
    tool_server.play(CALL_TEXTS["hermes"], size=4)
    length = CALL_TEXTS["hermes"].index("Z") + 1
    answer = await tool_server.ask(max_tokens=length, tool_choice=choice, stream=stream)
    if stream:
        deltas = [chunk.choices[0] async for chunk in answer]
        assert "".join(each.delta.content or "" for each in deltas) == ""
        (call,) = [call for each in deltas for call in each.delta.tool_calls or []]
        reasons = [each.finish_reason for each in deltas if each.finish_reason]
    else:
        (call,) = answer.choices[0].message.tool_calls
        assert answer.choices[0].message.content is None
        reasons = [answer.choices[0].finish_reason]
    assert reasons == ["length"]
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city": "Z')


async def test_half_a_character_breaks_nothing(tool_server: ToolServer) -> None:
    tool_server.play('<tool_call>{"name": "get_weather", "arguments": {"city": "\\ud800"}}</tool_call>')
    completion = await tool_server.ask()
    assert completion.choices[0].message.tool_calls[0].function.arguments == '{"city": "\\ud800"}'
    function = {"name": "f", "description": "\ud800"}
    body = {"model": "hermes", "messages": HELLO, "tools": [{"type": "function", "function": function}]}
    response = await tool_server.http.post("/v1/chat/completions", content=json.dumps(body), headers=JSON)
    assert response.status_code == 400
    assert "A name, a call or a tool contains a lone surrogate" in response.json()["error"]["message"]


async def test_without_a_closing_mark_a_whole_call_is_a_call(tool_server: ToolServer) -> None:
    tool_server.play(CALL_TEXTS["hermes"].removesuffix("</tool_call>"))
    completion = await tool_server.ask()
    assert completion.choices[0].message.tool_calls[0].function.arguments == ZURICH
    assert completion.choices[0].message.content is None


async def test_an_answer_in_bare_json_that_is_no_call_stays_text(tool_server: ToolServer) -> None:
    text = '{"name": "Zürich", "parameters": {"people": 400000}} and more'
    tool_server.play(text, model="llama", size=4)
    completion = await tool_server.ask(model="llama")
    assert completion.choices[0].message.content == text


async def test_calls_and_logprobs_go_together(tool_server: ToolServer) -> None:
    tokens = tool_server.codecs["hermes"].encode("Hm. " + CALL_TEXTS["hermes"])
    logprobs = tuple(TokenLogprobs(-0.5, ((token, -0.5),)) for token in tokens)
    tool_server.engine.play(Increment(tokens, "stop", logprobs))
    completion = await tool_server.ask(logprobs=True, top_logprobs=1)
    assert [token.token for token in completion.choices[0].logprobs.content] == list("Hm. ")
    assert completion.choices[0].message.tool_calls[0].function.arguments == ZURICH
