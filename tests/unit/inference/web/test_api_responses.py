"""`/v1/responses`, as the official client uses it."""

from __future__ import annotations

import asyncio
import inspect
import json
from typing import TYPE_CHECKING, Any, Literal

import openai
import pytest
from openai.resources.responses import AsyncResponses
from pydantic import BaseModel, TypeAdapter

from inference.engines.protocol import Increment, TokenLogprobs
from inference.errors import EngineError
from inference.web.responses_api.documents import ResponseDocument, ResponseEvent
from inference.web.responses_api.schemas import ResponseRequest
from tests.doubles.model_server import MESSAGES_TEMPLATE, ModelServer, make_codec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TEMPLATE = MESSAGES_TEMPLATE + "{% if reasoning_effort is defined %}{{ reasoning_effort }}{% endif %}"
CODECS = {"model": make_codec(TEMPLATE), "plain": make_codec("{{ messages[-1].content }}")}
WEATHER: Any = {
    "type": "function", "name": "get_weather", "description": "Look outside.",
    "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}  # fmt: skip
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call>'


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    server = ModelServer(CODECS)
    yield server
    await server.close()


async def create(server: ModelServer, **fields: Any) -> Any:
    return await server.openai.responses.create(**({"model": "model", "input": "Hello"} | fields))


async def events_of(server: ModelServer, **fields: Any) -> list[Any]:
    """All events of a stream, whose numbers and objects are as documented."""
    stream = await create(server, stream=True, **fields)
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    for event in events:
        TypeAdapter(ResponseEvent).validate_python(event.model_dump(exclude_unset=True))
    return events


async def test_a_text_is_answered(server: ModelServer) -> None:
    server.play("model", "Hi there")
    response = await create(
        server, instructions="Be brief.", max_output_tokens=50, temperature=0, metadata={"a": "b"}
    )
    assert server.prompt() == "[system]Be brief.[user]Hello[assistant]"
    assert (response.status, response.output_text, response.error) == ("completed", "Hi there", None)
    (message,) = response.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert (response.instructions, response.temperature, response.metadata) == ("Be brief.", 0, {"a": "b"})
    usage, length = response.usage, len(server.engine.requests[0].prompt_token_ids)
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (length, 9, length + 9)
    assert server.engine.requests[0].max_new_tokens == 50


async def test_a_response_is_as_documented(server: ModelServer) -> None:
    server.play("model", "<think>Hm</think>Hi" + CALL)
    response = await server.post(
        "/v1/responses", model="model", input="Hello", tools=[WEATHER], reasoning={"effort": "low"}
    )
    TypeAdapter(ResponseDocument).validate_python(response.json(), strict=True, extra="forbid")
    assert [item["type"] for item in response.json()["output"]] == ["reasoning", "message", "function_call"]


MESSAGE = [
    "response.output_item.added", "response.content_part.added", "response.output_text.delta",
    "response.output_text.done", "response.content_part.done", "response.output_item.done",
]  # fmt: skip
THOUGHT = [name.replace("output_text", "reasoning_text") for name in MESSAGE]
CALLED = [
    "response.output_item.added", "response.function_call_arguments.delta",
    "response.function_call_arguments.done", "response.output_item.done",
]  # fmt: skip


def kinds(events: list[Any]) -> list[str]:
    """The types of events, of which deltas in a row count once."""
    names = [event.type for event in events]
    return [
        name
        for name, before in zip(names, ["", *names], strict=False)
        if name != before or "delta" not in name
    ]


async def test_a_text_is_streamed_in_openais_order(server: ModelServer) -> None:
    server.play("model", "Hé!")
    events = await events_of(server)
    assert kinds(events) == ["response.created", "response.in_progress", *MESSAGE, "response.completed"]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert [event.delta for event in deltas] == ["H", "é", "!"]
    added, done = events[2].item, events[-2].item
    assert (added.id, added.status, added.content) == (done.id, "in_progress", [])
    assert {event.item_id for event in deltas} == {done.id}
    assert (done.status, done.content[0].text, events[-4].text) == ("completed", "Hé!", "Hé!")
    last = events[-1].response
    assert (last.output_text, last.usage.output_tokens, last.status) == ("Hé!", 5, "completed")
    assert last.id == events[0].response.id
    assert events[0].response.status == "in_progress"


async def test_reasoning_text_and_calls_are_streamed_as_items(server: ModelServer) -> None:
    server.play("model", "<think>Hm. </think>Well. " + CALL + CALL)
    events = await events_of(server, tools=[{**WEATHER, "strict": False}])
    assert kinds(events)[2:-1] == [*THOUGHT, *MESSAGE, *CALLED, *CALLED]
    assert [event.output_index for event in events if event.type == "response.output_item.done"] == [
        0,
        1,
        2,
        3,
    ]
    reasoning, message, call, other = events[-1].response.output
    assert reasoning.content[0].text == "Hm."
    assert message.content[0].text == "Well. "
    assert (call.name, call.arguments, call.status) == ("get_weather", '{"city": "Zürich"}', "completed")
    assert call.call_id != other.call_id
    assert call.id != other.id


async def test_the_clients_stream_gathers_a_response(server: ModelServer) -> None:
    server.play("model", '{"category": "network", "priority": 2}')
    async with server.openai.responses.stream(model="model", input="Hello", text_format=Ticket) as stream:
        texts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert "".join(texts) == final.output_text
    assert final.output_parsed == Ticket(category="network", priority=2)


class Ticket(BaseModel):
    category: Literal["billing", "network"]
    priority: int


async def test_a_pydantic_model_is_what_parse_gives_back(server: ModelServer) -> None:
    server.play("model", '{"category": "billing", "priority": 1}')
    response = await server.openai.responses.parse(model="model", input="Hello", text_format=Ticket)
    assert response.output_parsed == Ticket(category="billing", priority=1)
    grammar = server.engine.requests[0].grammar
    assert grammar is not None
    assert '"enum": ["billing", "network"]' in grammar
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.type == "json_schema"


async def test_json_may_have_no_schema(server: ModelServer) -> None:
    server.play("plain", "{}")
    await create(server, model="plain", text={"format": {"type": "json_object"}})
    assert str(server.engine.requests[0].grammar).startswith('start: %json {"type": "object"')


async def test_an_output_goes_back_as_input_with_the_results_of_calls(server: ModelServer) -> None:
    server.play("model", "<think>Hm</think>Well." + CALL)
    first = await create(server, tools=[WEATHER])
    (call,) = [item for item in first.output if item.type == "function_call"]
    server.play("model", "Rain.")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    items: Any = [{"role": "user", "content": "Hello"}, *first.output, result]
    second = await create(server, input=items, tools=[WEATHER])
    assert second.output_text == "Rain."
    arguments = '{"name": "get_weather", "arguments": {"city": "Zürich"}}'
    assert server.prompt().endswith(
        f"[user]Hello[assistant]<think>Hm</think>Well.<tool_call>\n{arguments}\n</tool_call>"
        "[tool]rain(get_weather)[assistant]"
    )


def empty_call(name: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{}}}}\n</tool_call>'


@pytest.mark.parametrize(
    ("items", "prompt"),
    [
        ([{"role": "developer", "content": "Do."}, {"role": "user", "content": "Hi"}], "[system]Do.[user]Hi"),
        ([{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "ab"}]}],
         "[user]ab"),
        ([{"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "phase": None,
           "content": [{"type": "output_text", "text": "a", "annotations": [], "logprobs": []}]}],
         "[assistant]a"),
        ([{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
          {"type": "function_call", "call_id": "d", "name": "g", "arguments": ""},
          {"type": "function_call_output", "call_id": "d", "output": [{"type": "input_text", "text": "x"}]}],
         f"[assistant]{empty_call('f')}{empty_call('g')}[tool]x(g)"),
        ([{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "abc"},
          {"role": "assistant", "content": "a"}], "[assistant]a"),
    ],
)  # fmt: skip
async def test_items_become_messages(server: ModelServer, items: Any, prompt: str) -> None:
    server.play("model", "Hi")
    await create(server, input=items)
    assert server.prompt() == prompt + "[assistant]"


async def test_a_call_may_be_required(server: ModelServer) -> None:
    for choice in ("required", {"type": "function", "name": "get_weather"}):
        server.play("model", CALL)
        response = await create(server, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False)
        assert [item.type for item in response.output] == ["function_call"]
        assert server.engine.requests[-1].grammar is not None
        assert '"city"' in server.engine.requests[-1].grammar
        assert response.tools[0].name == "get_weather"
        expected = choice if isinstance(choice, str) else choice["name"]
        assert getattr(response.tool_choice, "name", response.tool_choice) == expected
    server.play("model", "Hi")
    await create(server, tools=[WEATHER], tool_choice="none")
    assert "get_weather" not in server.prompt()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_cut_is_incomplete(server: ModelServer, *, stream: bool) -> None:
    server.play("model", "Hello there")
    if stream:
        events = await events_of(server, max_output_tokens=5)
        assert events[-1].type == "response.incomplete"
        response = events[-1].response
    else:
        response = await create(server, max_output_tokens=5)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (response.output_text, response.output[0].status) == ("Hello", "incomplete")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_empty_answer_is_an_empty_message(server: ModelServer, *, stream: bool) -> None:
    server.play("model", "")
    response = (await events_of(server))[-1].response if stream else await create(server)
    assert [(item.type, item.content[0].text) for item in response.output] == [("message", "")]


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_are_those_of_the_text(server: ModelServer, *, stream: bool) -> None:
    tokens = [*CODECS["model"].encode("Hi"), 0]
    entries = tuple(TokenLogprobs(-0.5, ((token, -0.5),)) for token in tokens)
    server.engine.play(Increment(tuple(tokens), "stop", entries))
    fields: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    response = (await events_of(server, **fields))[-1].response if stream else await create(server, **fields)
    logprobs = response.output[0].content[0].logprobs
    assert [(each.token, each.logprob, each.top_logprobs[0].token) for each in logprobs] == [
        ("H", -0.5, "H"), ("i", -0.5, "i"),
    ]  # fmt: skip
    assert response.top_logprobs == 1


async def test_effort_reaches_the_template(server: ModelServer) -> None:
    server.play("model", "Hi")
    response = await create(server, reasoning={"effort": "high", "summary": "auto"})
    assert server.prompt().endswith("[assistant]high")
    assert response.reasoning.effort == "high"
    with pytest.raises(openai.BadRequestError) as caught:
        await create(server, model="plain", reasoning={"effort": "high"})
    assert caught.value.param == "reasoning.effort"


async def test_a_stream_that_fails_ends_with_a_failed_response(server: ModelServer) -> None:
    server.engine.play(tuple(CODECS["model"].encode("half")), EngineError("out of memory"))
    stream = await create(server, stream=True)
    events = [event async for event in stream]
    assert events[-1].type == "response.failed"
    assert events[-1].response.status == "failed"
    assert events[-1].response.error.code == "server_error"
    assert "The engine failed" in events[-1].response.error.message
    server.engine.play(EngineError("out of memory"))
    with pytest.raises(openai.InternalServerError):
        await create(server)


async def test_a_client_that_leaves_frees_its_slot(server: ModelServer) -> None:
    server.engine.play(tuple(CODECS["model"].encode("talking")), asyncio.Event())
    asking = asyncio.create_task(create(server))
    async with asyncio.timeout(60):
        while not server.engine.running:  # noqa: ASYNC110 - it lets the server run; no time passes
            await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert server.service.queue.slots_in_use == 0


# What the client can send.

TRANSPORT = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
ACCEPTED: dict[str, Any] = {
    "input": "Hello", "model": "model", "background": False, "include": ["reasoning.encrypted_content"],
    "instructions": "Do.", "max_output_tokens": 99, "max_tool_calls": 3, "metadata": {"a": "b"},
    "parallel_tool_calls": True, "prompt_cache_key": "k", "prompt_cache_options": {"ttl": "30m"},
    "prompt_cache_retention": "24h", "reasoning": {"effort": "low"}, "safety_identifier": "s",
    "service_tier": "auto", "store": True, "stream": False, "temperature": 0.5,
    "text": {"format": {"type": "text"}, "verbosity": "medium"}, "tool_choice": "auto", "tools": [WEATHER],
    "top_logprobs": 0, "top_p": 0.5, "truncation": "disabled", "user": "u",
}  # fmt: skip
REFUSED: dict[str, Any] = {
    "access_programs": {"cyber": "standard"}, "background": True, "background_options": {},
    "context_management": [{"type": "compaction"}], "conversation": "conv_1",
    "image": {"context_compression": "enabled"}, "moderation": {"model": "m"},
    "previous_response_id": "resp_1", "prompt": {"id": "p"}, "stream_options": {}, "truncation": "auto",
    "tools": [{"type": "web_search"}], "text": {"verbosity": "low"},
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []},
    "input": [{"type": "item_reference", "id": "msg_1"}],
}  # fmt: skip


def test_every_field_of_the_client_is_known_here() -> None:
    known = set(inspect.signature(AsyncResponses.create).parameters) - TRANSPORT
    assert known == set(ACCEPTED) | set(REFUSED)


@pytest.mark.parametrize("field", ACCEPTED)
async def test_a_field_is_honoured(server: ModelServer, field: str) -> None:
    tokens = (*CODECS["model"].encode("Hi"), 0)
    server.engine.play(Increment(tokens, "stop", (TokenLogprobs(-1.0),) * 3))
    response = await create(server, **{field: ACCEPTED[field]})
    assert response.output_text == "Hi"
    assert response.store is False


@pytest.mark.parametrize("field", REFUSED)
async def test_a_field_is_refused_by_its_name(server: ModelServer, field: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await create(server, **{field: REFUSED[field]})
    assert caught.value.param is not None
    assert caught.value.param.startswith(field)
    assert server.engine.requests == []


@pytest.mark.parametrize(
    ("fields", "param", "text"),
    [
        ({"previous_response_id": "r"}, "previous_response_id",
         "responses are not stored by this server: send the whole conversation in 'input'"),
        ({"input": []}, "input", "at least 1 item"),
        ({"input": [5]}, "input[0]", "only items of the types message, function_call, function_call_output"),
        ({"input": [{"type": "computer_call"}]}, "input[0]", "only items of the types"),
        ({"input": [{"role": "user"}]}, "input[0].content", "missing"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content", "only"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id", "missing"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema", "missing"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "x"}}}},
         "text.format.schema", "cannot be enforced"),
        ({"tools": [{**WEATHER, "parameters": {"type": "object", "not": {}}}]},
         "tools[0].parameters", "cannot be enforced"),
        ({"tools": [WEATHER, WEATHER]}, "tools", "two functions have the same name"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"max_output_tokens": 10**6}, "max_output_tokens", "maximum context length"),
        ({"input": "x" * 5000}, "input", "maximum context length"),
        ({"reasoning": {"effort": "enormous"}}, "reasoning.effort", "Input should be"),
        ({"messages": []}, "messages", "Unknown field"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named(
    server: ModelServer, fields: dict[str, Any], param: str, text: str
) -> None:
    response = await server.post("/v1/responses", **({"model": "model", "input": "Hello"} | fields))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert text in response.json()["error"]["message"]


WRONG: list[Any] = [
    None,
    True,
    -1,
    1.5,
    10**30,
    "",
    "x",
    [],
    [None],
    [[[1]]],
    {},
    {"type": "x"},
    {"a": {"b": []}},
]


@pytest.mark.parametrize("field", sorted({*ACCEPTED, *REFUSED, *ResponseRequest.model_fields}))
async def test_no_value_of_any_field_breaks_the_server(server: ModelServer, field: str) -> None:
    for value in WRONG:
        tokens = (*CODECS["model"].encode("{}"), 0)
        server.engine.always = (Increment(tokens, "stop", (TokenLogprobs(-1.0),) * 3),)
        body = json.dumps({"model": "model", "input": "Hello"} | {field: value})
        response = await server.http.post(
            "/v1/responses", content=body, headers={"Content-Type": "application/json"}
        )
        assert response.status_code in {200, 400, 404}, (value, response.text)
        if response.status_code != 200:
            assert field in response.json()["error"]["param"], value


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")]
)
async def test_no_response_is_stored(server: ModelServer, method: str, path: str) -> None:
    response = await server.http.request(method, "/v1/responses/resp_1" + path)
    assert response.status_code == 404
    assert "responses are not stored by this server" in response.json()["error"]["message"]
