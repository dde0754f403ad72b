"""Answers in JSON that follow a schema."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import openai
import pytest

from tests.doubles.openai_server import BASE, HELLO, OpenaiServer, Ticket


def grammar_schema(grammar: str | None) -> Any:
    assert grammar is not None
    return json.loads(grammar.removeprefix("start: %json "))


async def test_a_pydantic_model_is_what_parse_gives_back(openai_server: OpenaiServer) -> None:
    openai_server.say('{"category": "network", "priority": 2}')
    completion = await openai_server.openai.chat.completions.parse(
        model=BASE, messages=HELLO, response_format=Ticket
    )
    assert completion.choices[0].message.parsed == Ticket(category="network", priority=2)
    schema = grammar_schema(openai_server.engine.requests[0].grammar)
    assert schema["properties"]["category"]["enum"] == ["billing", "network"]
    assert schema["x-guidance"] == {
        "item_separator": ", ?", "key_separator": ": ?", "whitespace_flexible": False,
    }  # fmt: skip


async def test_a_parsed_stream_has_the_model_at_its_end(openai_server: OpenaiServer) -> None:
    openai_server.say('{"category": "billing", "priority": 1}')
    async with openai_server.openai.chat.completions.stream(
        model=BASE, messages=HELLO, response_format=Ticket
    ) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == Ticket(category="billing", priority=1)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the client's, of its own message
async def test_a_parsed_answer_may_go_back_as_history(openai_server: OpenaiServer) -> None:
    openai_server.say('{"category": "billing", "priority": 1}', "Yes.")
    first = await openai_server.openai.chat.completions.parse(
        model=BASE, messages=HELLO, response_format=Ticket
    )
    messages: Any = [*HELLO, first.choices[0].message, *HELLO]
    await openai_server.chat(messages=messages)
    assert b'assistant: {"category"' in bytes(openai_server.engine.requests[1].prompt_token_ids)


async def test_any_object_is_asked_for_without_a_schema(openai_server: OpenaiServer) -> None:
    openai_server.say("{}", "{}", "{}")
    await openai_server.chat(response_format={"type": "json_object"})
    await openai_server.chat(response_format={"type": "json_schema", "json_schema": {"name": "any"}})
    await openai_server.chat(response_format={"type": "text"})
    for request in openai_server.engine.requests[:2]:
        assert grammar_schema(request.grammar)["type"] == "object"
    assert openai_server.engine.requests[2].grammar is None


async def test_a_json_answer_that_is_cut_says_so(openai_server: OpenaiServer) -> None:
    openai_server.engine.play(b'{"category": "net')
    with pytest.raises(openai.LengthFinishReasonError):
        await openai_server.openai.chat.completions.parse(
            model=BASE, messages=HELLO, response_format=Ticket, max_completion_tokens=17
        )


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "foo"}, "Invalid type: foo"),
        ({"type": "object", "not": {}}, "'not' forbids every value (at #/not)."),
        ({"type": "array", "contains": {}}, 'Unimplemented keys: ["contains"]'),
        (
            {"type": "string", "pattern": "(?=x)"},
            "regex parse error: (?=x) error: look-around, including look-ahead",
        ),
        ({"$ref": "http://example.org/x"}, "Resource 'http://example.org/x' is not present in a registry"),
        ({"type": "object", "x-guidance": {"speed": 1}}, "unknown field `speed`"),
        ({"enum": ["x" * 60_000]}, "it has 60122 characters, and 50000 are the most"),
    ],
)
async def test_a_schema_that_cannot_be_kept_is_refused_with_the_reason(
    openai_server: OpenaiServer, schema: dict[str, Any], reason: str
) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    with pytest.raises(openai.BadRequestError) as caught:
        await openai_server.chat(response_format=wanted)
    assert caught.value.param == "response_format.json_schema.schema"
    assert caught.value.code == "invalid_schema"
    assert f"'response_format.json_schema.schema' cannot be enforced: {reason}" in str(caught.value)
    openai_server.assert_all_is_free()


async def test_a_schema_with_half_a_character_is_refused(openai_server: OpenaiServer) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"const": "\ud800"}}}
    body = json.dumps({"model": BASE, "messages": HELLO, "response_format": wanted})
    headers = {"Content-Type": "application/json"}
    response = await openai_server.http.post("/v1/chat/completions", content=body, headers=headers)
    assert response.status_code == 400
    assert "it contains a lone surrogate" in response.json()["error"]["message"]


@pytest.mark.quiet
async def test_a_schema_that_takes_long_to_check_holds_nobody_up(openai_server: OpenaiServer) -> None:
    texts = {f"p{index}": {"type": "string", "pattern": f"a{index}.*b"} for index in range(900)}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"properties": texts}}}
    openai_server.say("{}")
    slow = asyncio.create_task(openai_server.chat(response_format=wanted))
    gaps, last = [0.0], time.perf_counter()
    while not slow.done():
        await asyncio.sleep(0)
        gaps.append(time.perf_counter() - last)
        last = time.perf_counter()
    await slow
    # Sending it, and reading it, are the loop's; the check itself took some hundreds of milliseconds.
    assert len(gaps) > 100
