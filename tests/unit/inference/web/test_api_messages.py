"""`/v1/messages`, as Anthropic documents it. `tests/clients` has the same through Anthropic's own client."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest
from pydantic import TypeAdapter

from inference.engines.protocol import Increment
from inference.errors import EngineError
from inference.web.messages_api.content import read_input
from inference.web.messages_api.documents import InputTokens, MessageDocument, MessageEvent
from inference.web.messages_api.errors import MessagesError
from inference.web.messages_api.schemas import MessageRequest
from tests.doubles.model_server import CONTEXT, MESSAGES_TEMPLATE, ModelServer, make_codec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TEMPLATE = (
    MESSAGES_TEMPLATE
    + "{% if enable_thinking is defined %}{{ enable_thinking }}{% endif %}"
    + "{% if reasoning_effort is defined %}{{ reasoning_effort }}{% endif %}"
)
CODECS = {"model": make_codec(TEMPLATE), "plain": make_codec("{{ messages[-1].content }}")}
HELLO: Final[Any] = [{"role": "user", "content": "Hello"}]
WEATHER: Final[Any] = {
    "name": "get_weather", "description": "Look outside.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}  # fmt: skip
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
TOOL_USE: Final[Any] = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Bern"}}
BERN = CALL.replace("Zürich", "Bern")
RESULT: Final[Any] = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    server = ModelServer(CODECS)
    yield server
    await server.close()


async def send(server: ModelServer, path: str = "/v1/messages", **fields: Any) -> Any:
    return await server.post(path, **({"model": "model", "max_tokens": 500, "messages": HELLO} | fields))


async def create(server: ModelServer, **fields: Any) -> Any:
    """The message that answers a request, which is as documented."""
    response = await send(server, **fields)
    assert response.status_code == 200, response.text
    TypeAdapter(MessageDocument).validate_python(response.json(), strict=True, extra="forbid")
    return response.json()


async def events_of(server: ModelServer, **fields: Any) -> list[Any]:
    """The events of a stream, which are as documented and have the names of their types."""
    response = await send(server, stream=True, **fields)
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        kind = MessagesError if event["type"] == "error" else MessageEvent
        TypeAdapter[Any](kind).validate_python(event, strict=True, extra="forbid")
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


async def error_of(server: ModelServer, **fields: Any) -> Any:
    """The error of a request that is rejected, before anything is generated."""
    response = await send(server, **fields)
    TypeAdapter(MessagesError).validate_python(response.json(), strict=True)
    assert response.json()["request_id"] == response.headers["request-id"]
    assert server.engine.requests == []
    return response.status_code, response.json()["error"]


async def test_a_message_is_answered(server: ModelServer) -> None:
    server.play("model", "Hi there")
    message = await create(server, system="Be brief.", temperature=0, top_k=5)
    assert server.prompt() == "[system]Be brief.[user]Hello[assistant]"
    assert (message["type"], message["role"], message["model"]) == ("message", "assistant", "model")
    assert message["content"] == [{"type": "text", "text": "Hi there"}]
    assert (message["stop_reason"], message["stop_sequence"]) == ("end_turn", None)
    length = len(server.engine.requests[0].prompt_token_ids)
    assert message["usage"] == {
        "input_tokens": length, "output_tokens": 9,
        "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
    }  # fmt: skip
    request = server.engine.requests[0]
    assert (request.max_new_tokens, request.sampling.temperature, request.sampling.top_k) == (500, 0, 5)


TURNS: list[tuple[dict[str, Any], str]] = [
    ({"system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
                 {"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=00"},
                 {"type": "text", "text": "b"}]},
     "[system]a\nb[user]Hello[assistant]"),
    # The role `system` has no place of its own in most templates, except at the beginning.
    ({"system": "a", "messages": [{"role": "system", "content": "b"}, *HELLO]},
     "[system]a\n\nb[user]Hello[assistant]"),
    ({"messages": [*HELLO, {"role": "system", "content": "c"}]}, "[user]Hello\n\nc[assistant]"),
    # Turns of the same role are one.
    ({"messages": [*HELLO, *HELLO, {"role": "assistant", "content": "a"},
                   {"role": "assistant", "content": [{"type": "text", "text": "b"}]}, *HELLO]},
     "[user]Hello\n\nHello[assistant]a\n\nb[user]Hello[assistant]"),
    # What servers and libraries add to blocks is ignored.
    ({"messages": [{"role": "user", "content": [
        {"type": "text", "text": "a", "citations": None}, {"type": "text", "text": "b", "x": 1}]}]},
     "[user]a\nb[assistant]"),
    ({"messages": [*HELLO, {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "Well"}, {"type": "text", "text": "."},
        TOOL_USE | {"provider_specific_fields": None}]},
        {"role": "user", "content": [{"type": "text", "text": "And?"}, RESULT]}]},
     f"[user]Hello[assistant]<think>hm</think>Well.{BERN}[tool]rain(get_weather)[user]And?[assistant]"),
    # A system message between a call and its result comes after the result.
    ({"messages": [*HELLO, {"role": "assistant", "content": [TOOL_USE]}, {"role": "system", "content": "s"},
                   {"role": "user", "content": [RESULT | {"is_error": True}]}]},
     f"[user]Hello[assistant]{BERN}[tool]rain(get_weather)[user]s[assistant]"),
    ({"messages": [*HELLO, {"role": "assistant", "content": [TOOL_USE]}, {"role": "user", "content": [
        RESULT | {"content": [{"type": "text", "text": "r"}, {"type": "tool_reference", "tool_name": "f"}]},
        {"type": "tool_result", "tool_use_id": "toolu_1"}]}]},
     f"[user]Hello[assistant]{BERN}[tool]r\nf(get_weather)[tool](get_weather)[assistant]"),
    # An assistant's message at the end is continued, unless there is nothing in it.
    ({"messages": [*HELLO, {"role": "assistant", "content": "The answer is ("}]},
     "[user]Hello[assistant]The answer is ("),
    ({"messages": [*HELLO, {"role": "assistant", "content": ""}]}, "[user]Hello[assistant]"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "[user]Hello[assistant]Truehigh"),
    ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}},
     "[user]Hello[assistant]Falsenone"),
    ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
     "[user]Hello[assistant]Truexhigh"),
    ({"chat_template_kwargs": {"enable_thinking": 1}}, "[user]Hello[assistant]1"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "prompt"), TURNS)
async def test_the_conversation_is_rendered(server: ModelServer, fields: dict[str, Any], prompt: str) -> None:
    server.play("model", "Hi")
    await create(server, **fields)
    assert server.prompt() == prompt


def kinds(events: list[Any]) -> list[str]:
    """The types of events, of which deltas in a row count once."""
    names = [event.get("delta", {}).get("type", event["type"]) for event in events]
    return [
        name
        for name, before in zip(names, ["", *names], strict=False)
        if name != before or "delta" not in name
    ]


async def test_all_kinds_of_blocks_are_streamed_in_anthropics_order(server: ModelServer) -> None:
    text = "<think>Hm. </think>Well. " + CALL + CALL
    server.play("model", text)
    events = await events_of(server, tools=[WEATHER])
    assert kinds(events) == [
        "message_start",
        "content_block_start", "thinking_delta", "signature_delta", "content_block_stop",
        "content_block_start", "text_delta", "content_block_stop",
        *(("content_block_start", "input_json_delta", "content_block_stop") * 2),
        "message_delta", "message_stop",
    ]  # fmt: skip
    start = events[0]["message"]
    assert (start["content"], start["stop_reason"], start["usage"]["output_tokens"]) == ([], None, 0)
    assert start["usage"]["input_tokens"] == len(server.engine.requests[0].prompt_token_ids)
    assert [event["index"] for event in events if event["type"] == "content_block_stop"] == [0, 1, 2, 3]
    joined = {
        kind: "".join(event["delta"][kind] for event in events if kind in event.get("delta", {}))
        for kind in ("thinking", "text")
    }
    assert joined == {"thinking": "Hm.", "text": "Well. "}
    inputs = [event["delta"]["partial_json"] for event in events if "partial_json" in event.get("delta", {})]
    assert list(map(json.loads, inputs)) == [{"city": "Zürich"}] * 2
    end = events[-2]
    assert end["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert end["usage"]["output_tokens"] == len(CODECS["model"].encode(text)) + 1
    # The whole message has the same content.
    server.play("model", text)
    message = await create(server, tools=[WEATHER])
    assert [block["type"] for block in message["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert message["content"][2]["input"] == {"city": "Zürich"}
    assert message["content"][2]["id"] != message["content"][3]["id"]
    assert message["stop_reason"] == "tool_use"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_empty_answer_has_no_content(server: ModelServer, *, stream: bool) -> None:
    server.play("model", "")
    if stream:
        assert kinds(await events_of(server)) == ["message_start", "message_delta", "message_stop"]
    else:
        assert (await create(server))["content"] == []


ENDS: list[tuple[str, dict[str, Any], str, str | None, str]] = [
    ("one two three", {"stop_sequences": ["four", " tw"]}, "stop_sequence", " tw", "one"),
    ("one", {"stop_sequences": []}, "end_turn", None, "one"),
    ("one two three", {"max_tokens": 5}, "max_tokens", None, "one t"),
    # More than the context leaves is accepted: clients send the same number to every model.
    ("x" * CONTEXT, {"max_tokens": 32_000}, "model_context_window_exceeded", None, ""),
]


@pytest.mark.parametrize(("text", "fields", "reason", "stop", "expected"), ENDS)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_end_has_a_reason(  # noqa: PLR0913, PLR0917 - a row of the table
    server: ModelServer,
    text: str,
    fields: dict[str, Any],
    reason: str,
    stop: str | None,
    expected: str,
    *,
    stream: bool,
) -> None:
    server.play("model", text, size=50 if len(text) > 100 else 1)
    if stream:
        events = await events_of(server, **fields)
        found = events[-2]["delta"]
        answer = "".join(event["delta"]["text"] for event in events if "text" in event.get("delta", {}))
    else:
        message = await create(server, **fields)
        found, answer = message, message["content"][0]["text"]
    assert (found["stop_reason"], found["stop_sequence"]) == (reason, stop)
    assert answer == expected or not expected


@pytest.mark.parametrize(
    ("choice", "constrained", "calls"),
    [
        ({"type": "auto"}, False, 2), ({"type": "any"}, True, 2),
        ({"type": "any", "disable_parallel_tool_use": True}, True, 1),
        ({"type": "auto", "disable_parallel_tool_use": True}, False, 1),
        ({"type": "tool", "name": "get_weather"}, True, 2),
    ],
)  # fmt: skip
async def test_a_call_may_be_required(
    server: ModelServer, choice: Any, *, constrained: bool, calls: int
) -> None:
    server.play("model", CALL + CALL)
    message = await create(server, tools=[WEATHER], tool_choice=choice)
    assert len(message["content"]) == calls
    grammar = server.engine.requests[0].grammar
    assert (grammar is not None and '"city"' in grammar) == constrained


async def test_no_call_may_be_allowed(server: ModelServer) -> None:
    server.play("model", "Hi")
    await create(server, tools=[WEATHER], tool_choice={"type": "none"})
    assert "get_weather" not in server.prompt()


async def test_a_call_that_the_length_cuts_has_the_input_so_far(server: ModelServer) -> None:
    cut = CALL.partition("rich")[0]
    server.play("model", CALL)
    message = await create(server, tools=[WEATHER], max_tokens=len(cut.encode()))
    (block,) = message["content"]
    assert (block["name"], block["input"]) == ("get_weather", {"city": "Zü"})
    assert message["stop_reason"] == "max_tokens"


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("{}", {}), ('{"a": [1, {"b": "\\u00e9"}]}', {"a": [1, {"b": "é"}]}), ("", {}), ("5", {}),
        ('{"a": NaN, "b": "\\ud800"}', {"a": None, "b": "?"}), ('{"a": 1, "b', {"a": 1}), ("{x", {}),
        ('{"a": 1e999}', {}), ('{"a":' * 5000, {}),
    ],
)  # fmt: skip
def test_arguments_are_read_as_an_object(arguments: str, found: dict[str, Any]) -> None:
    assert read_input(arguments) == found


async def test_thinking_is_left_out_where_it_is_switched_off(server: ModelServer) -> None:
    for thinking in ({"type": "disabled"}, {"type": "adaptive", "display": "omitted"}):
        server.play("model", "<think>Hm</think>Hi")
        message = await create(server, thinking=thinking)
        assert message["content"] == [{"type": "text", "text": "Hi"}]


async def test_clients_switch_thinking_for_models_that_cannot_think(server: ModelServer) -> None:
    for thinking in ({"type": "enabled", "budget_tokens": 2000}, {"type": "disabled"}, {"type": "adaptive"}):
        server.play("plain", "Hi")
        await create(server, model="plain", thinking=thinking, output_config={"effort": "max"})


async def test_the_answer_may_have_a_schema(server: ModelServer) -> None:
    schema = {"type": "object", "properties": {"priority": {"type": "integer"}}}
    form = {"type": "json_schema", "schema": schema}
    for fields in ({"output_config": {"format": form}}, {"output_format": form}):
        server.play("plain", "{}")
        await create(server, model="plain", **fields)
        assert '"priority"' in str(server.engine.requests[-1].grammar)


async def test_tokens_are_counted_as_they_are_used(server: ModelServer) -> None:
    fields: Any = {"system": "Be brief.", "tools": [WEATHER], "thinking": {"type": "enabled"}}
    server.play("model", "Hi")
    message = await create(server, **fields)
    body = {"model": "model", "messages": HELLO} | fields
    response = await server.post("/v1/messages/count_tokens", **body)
    TypeAdapter(InputTokens).validate_python(response.json(), strict=True)
    assert response.json() == {"input_tokens": message["usage"]["input_tokens"]}
    assert len(server.engine.requests) == 1
    wrong = await server.post("/v1/messages/count_tokens", **{**body, "model": "other"})
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (404, "not_found_error")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "'max_tokens': Input should be a valid integer."),
    ({"max_tokens": 0}, "'max_tokens': Input should be greater than or equal to 1."),
    ({"messages": []}, "'messages': List should have at least 1 item"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "'messages[0].role': Input should be 'user', "),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
     "'messages[0].content[0]': only text is supported: blocks of the types text, thinking,"),
    ({"messages": [{"role": "user", "content": [RESULT | {"content": [{"type": "image"}]}]}]},
     "'messages[0].content[0].content': only text is supported: blocks of the type text."),
    ({"messages": [{"role": "user", "content": [TOOL_USE]}]},
     "'messages[0].content': a message of the role 'user' has no blocks of the type 'tool_use'."),
    ({"messages": [*HELLO, {"role": "assistant", "content": [TOOL_USE]}]},
     "'messages': the last message calls tools: a message with their results ('tool_result') has to follow."),
    ({"stop": ["x"]}, "Unknown field 'stop'."),
    ({"stop_sequences": [""]}, "'stop_sequences': a stop string must not be empty."),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]},
     "'tools[0]': only tools of the type 'custom' are supported, which the client runs itself."),
    ({"tools": [{"type": {}}]}, "'tools[0]': only tools of the type 'custom' are supported"),
    ({"messages": [{"role": "user", "content": [RESULT | {"content": [{"type": []}]}]}]},
     "'messages[0].content[0].content': only text is supported: blocks of the type text."),
    ({"tools": [WEATHER, WEATHER]}, "'tools': two functions have the same name."),
    ({"tools": [{**WEATHER, "input_schema": {"type": "object", "not": {}}}], "tool_choice": {"type": "any"}},
     "'tools[0].input_schema' cannot be enforced"),
    ({"tool_choice": {"type": "any"}}, "'tool_choice': there are no tools to choose from."),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "'tool_choice.name': it names the tool."),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}},
     "'tool_choice': there is no tool of this name."),
    ({"mcp_servers": [{"url": "x"}]}, "'mcp_servers' is not supported by this server"),
    ({"container": "c"}, "'container' is not supported by this server"),
    ({"context_management": {"edits": [{"type": "compact_20260112"}]}},
     "'context_management.edits[0].type' is not supported by this server"),
    ({"output_format": {"type": "json_schema", "schema": {}},
      "output_config": {"format": {"type": "json_schema", "schema": {}}}},
     "'output_format': it cannot be combined with 'output_config.format'."),
    ({"messages": [{"role": "user", "content": "x" * CONTEXT}]}, "This model's maximum context length is"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "message"), WRONG)
async def test_what_is_wrong_is_named(server: ModelServer, fields: dict[str, Any], message: str) -> None:
    status, error = await error_of(server, **fields)
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert message in error["message"]


async def test_errors_have_anthropics_shape_on_all_its_paths(server: ModelServer) -> None:
    assert (await error_of(server, model="other"))[1]["type"] == "not_found_error"
    for method, path, status, kind in (
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("POST", "/v1/messages/batches", 404, "not_found_error"),
    ):
        response = await server.http.request(method, path)
        assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
        assert response.json()["type"] == "error"
    other = await server.http.get("/v1/messages_of_others")
    assert other.json()["error"]["code"] == "unknown_url"
    server.engine.play(EngineError("out of memory"))
    failed = await send(server)
    assert (failed.status_code, failed.json()["error"]["type"]) == (503, "overloaded_error")


async def test_a_stream_that_fails_ends_with_an_error(server: ModelServer) -> None:
    server.engine.play(tuple(CODECS["model"].encode("half")), EngineError("out of memory"))
    *_, last = await events_of(server)
    assert last["type"] == "error"
    assert last["error"]["message"] == "The engine failed before the answer was complete."


VALUES: list[Any] = [None, True, -1, 1.5, 10**30, "", "x", [], [None], [[[1]]], {}, {"type": "x"}, {"a": {}}]


FIELDS = sorted(each.alias or name for name, each in MessageRequest.model_fields.items())


@pytest.mark.parametrize("field", FIELDS)
async def test_no_value_of_any_field_breaks_the_server(server: ModelServer, field: str) -> None:
    server.engine.always = (Increment((*CODECS["model"].encode("{}"), 0), "stop"),)
    for value in VALUES:
        body = json.dumps({"model": "model", "max_tokens": 9, "messages": HELLO} | {field: value})
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            response = await server.http.post(
                path, content=body, headers={"Content-Type": "application/json"}
            )
            assert response.status_code in {200, 400, 404}, (value, response.text)
