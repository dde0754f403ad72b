"""What a response repeats of its request, and streams that end before their first event."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from inference.errors import EngineError
from inference.web.event_stream import EventStream
from inference.web.messages_api.writer import MessagesWriter
from inference.web.responses_api.writer import ResponsesWriter
from tests.doubles.model_server import ModelServer, make_codec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, MutableMapping

TEMPLATE = "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}{{ messages[-1].content }}"
CODECS = {"model": make_codec(TEMPLATE)}
TOOL = {"type": "function", "name": "f"}


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    server = ModelServer(CODECS)
    yield server
    await server.close()


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("name", "value"),
    [("surrogate", '"\\ud800"'), ("NaN", "NaN"), ("overflow", "1e999"), ("deep", json.dumps(nested(300)))],
)
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"metadata": {"a": None}}, "metadata"),
        ({"tools": [{**TOOL, "parameters": {"a": None}}], "tool_choice": "none"}, "tools[0].parameters"),
        ({"text": {"format": {"type": "text", "schema": {"a": None}}}}, "text.format.schema"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_sent_back_is_rejected_at_once(  # noqa: PLR0913 - three tables
    server: ModelServer, name: str, value: str, body: dict[str, Any], param: str, *, stream: bool
) -> None:
    del name
    text = json.dumps({"model": "model", "input": "Hi", "stream": stream} | body)
    response = await server.http.post(
        "/v1/responses",
        content=text.replace('{"a": null}', f'{{"a": {value}}}'),
        headers={"Content-Type": "application/json"},
    )
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert server.engine.requests == []


async def test_what_can_be_sent_back_is(server: ModelServer) -> None:
    server.play("model", "Hi")
    metadata = {"é": [1, None, {"😀": 0.5}], "deep": nested(150)}
    tools = [{**TOOL, "parameters": {"type": "object", "x-deep": nested(150)}}]
    response = await server.post(
        "/v1/responses", model="model", input="Hi", metadata=metadata, tools=tools, tool_choice="none"
    )
    assert response.json()["metadata"] == metadata
    assert response.json()["tools"][0]["parameters"] == tools[0]["parameters"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_arguments_may_be_nested_as_deep_as_json_can_be_read(server: ModelServer, path: str) -> None:
    """Between what can be read and what can be written there must be no gap."""
    for levels in range(880, 1000, 5):
        server.engine.always = ((0,),)
        call: dict[str, Any] = (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": None}}]}
            if path.endswith("completions")
            else {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "i", "name": "f", "input": None}],
            }
        )
        text = json.dumps({
            "model": "model", "max_tokens": 1, "messages": [call, {"role": "user", "content": "Hi"}],
        })  # fmt: skip
        deep = '{"a":' * levels + "1" + "}" * levels
        response = await server.http.post(
            path, content=text.replace("null", deep), headers={"Content-Type": "application/json"}
        )
        assert response.status_code in {200, 400}, (levels, response.text)


async def test_a_response_that_fails_before_its_first_token_was_created(server: ModelServer) -> None:
    server.engine.play(EngineError("out of memory"))
    stream = await server.openai.responses.create(model="model", input="Hi", stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == [
        "response.created", "response.in_progress", "response.failed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == [0, 1, 2]


async def test_a_stream_that_cannot_be_opened_frees_its_slot(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> bytes:
        raise RuntimeError

    monkeypatch.setattr(ResponsesWriter, "opening", fail)
    monkeypatch.setattr(ResponsesWriter, "failure", fail)
    server.play("model", "Hi")
    await server.post("/v1/responses", model="model", input="Hi", stream=True)
    assert server.service.queue.slots_in_use == 0


async def test_a_stream_whose_client_is_gone_at_once_is_ended() -> None:
    ended: list[bool] = []

    async def events() -> AsyncIterator[bytes]:
        yield b""

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    async def send(_: MutableMapping[str, Any]) -> None:
        raise OSError

    stream = EventStream(events(), 5.0, lambda: ended.append(True))
    with pytest.raises(OSError):  # noqa: PT011 - it has no text
        await stream({"type": "http"}, receive, send)
    assert ended == [True]


async def test_a_stream_may_have_heartbeats_of_its_own() -> None:
    beaten = asyncio.Event()

    async def events() -> AsyncIterator[bytes]:
        await beaten.wait()
        yield b"end"

    async def receive() -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message.get("body") == MessagesWriter.heartbeat:
            beaten.set()

    await EventStream(events(), 0.01, lambda: None, MessagesWriter.heartbeat)({}, receive, send)
    assert MessagesWriter.heartbeat == b'event: ping\ndata: {"type":"ping"}\n\n'
