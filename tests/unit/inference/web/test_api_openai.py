"""The official client: every field that it can send, and its synchronous form."""

from __future__ import annotations

import asyncio
import inspect
import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
from openai.resources.chat.completions import AsyncCompletions as ChatCompletions
from openai.resources.completions import AsyncCompletions

from inference.engines.protocol import Ability, Increment, Sampling, TokenLogprobs
from inference.web.schemas import ChatCompletionRequest, CompletionRequest
from tests.doubles.openai_server import BASE, END, HELLO, OpenaiServer, Ticket, likely, listening

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion, ChatCompletionChunk


def fields_of(create: Any) -> set[str]:
    transport = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
    return set(inspect.signature(create).parameters) - transport


CHAT_FIELDS: dict[str, Any] = {
    "messages": HELLO, "model": BASE, "frequency_penalty": 0.5, "logit_bias": {"65": -1}, "logprobs": True,
    "max_completion_tokens": 9, "max_tokens": 9, "metadata": {"a": "b"}, "modalities": ["text"], "n": 1,
    "parallel_tool_calls": True, "prediction": {"type": "content", "content": "x"}, "presence_penalty": 0.5,
    "prompt_cache_key": "k", "prompt_cache_options": {"ttl": "30m"}, "prompt_cache_retention": "24h",
    "response_format": {"type": "json_object"}, "safety_identifier": "s", "seed": 5,
    "service_tier": "priority", "stop": "x", "store": True, "stream": False, "stream_options": None,
    "temperature": 0.5, "tool_choice": "auto", "tools": [], "top_logprobs": 0, "top_p": 0.5, "user": "u",
}  # fmt: skip
REFUSED_IN_CHAT: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"}, "function_call": {"name": "f"},
    "functions": [{"name": "f"}],
    "modalities": ["audio"], "moderation": {"model": "m"}, "reasoning_effort": "low",
    "stream_options": {"include_usage": True}, "verbosity": "low", "web_search_options": {},
    "tools": [{"type": "function", "function": {"name": "f"}}],
}  # fmt: skip
TEXT_FIELDS: dict[str, Any] = {
    "model": BASE, "prompt": "Once", "best_of": 1, "echo": False, "frequency_penalty": 0.5,
    "logit_bias": {"65": -1}, "logprobs": 2, "max_tokens": 9, "n": 1, "presence_penalty": 0.5, "seed": 5,
    "stop": "x", "stream": False, "stream_options": None, "suffix": None, "temperature": 0.5, "top_p": 0.5,
    "user": "u",
}  # fmt: skip
REFUSED_IN_TEXT: dict[str, Any] = {"stream_options": {}, "suffix": "end"}


def test_every_field_of_the_client_is_known_here() -> None:
    assert fields_of(ChatCompletions.create) == set(CHAT_FIELDS) | set(REFUSED_IN_CHAT)
    assert fields_of(AsyncCompletions.create) == set(TEXT_FIELDS) | set(REFUSED_IN_TEXT)


@pytest.mark.parametrize("field", CHAT_FIELDS)
async def test_a_field_of_a_chat_is_honoured(openai_server: OpenaiServer, field: str) -> None:
    openai_server.engine.play(Increment((*b"{}", END), "stop", (TokenLogprobs(-1.0),) * 3))
    completion = await openai_server.chat(**{field: CHAT_FIELDS[field]})
    assert completion.choices[0].message.content == "{}"


@pytest.mark.parametrize("field", REFUSED_IN_CHAT)
async def test_a_field_of_a_chat_is_refused_by_its_name(openai_server: OpenaiServer, field: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await openai_server.chat(**{field: REFUSED_IN_CHAT[field]})
    assert caught.value.param is not None
    assert caught.value.param.startswith(field)
    assert field in caught.value.message


@pytest.mark.parametrize("field", TEXT_FIELDS)
async def test_a_field_of_a_completion_is_honoured(openai_server: OpenaiServer, field: str) -> None:
    text = Increment((*b"Hi", END), "stop", (TokenLogprobs(-1.0),) * 3)
    openai_server.engine.play(text)
    completion = await openai_server.complete(**{field: TEXT_FIELDS[field]})
    assert completion.choices[0].text == "Hi"


@pytest.mark.parametrize("field", REFUSED_IN_TEXT)
async def test_a_field_of_a_completion_is_refused_by_its_name(
    openai_server: OpenaiServer, field: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await openai_server.complete(**{field: REFUSED_IN_TEXT[field]})
    assert caught.value.param == field


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


@pytest.mark.parametrize(
    "field", sorted({*CHAT_FIELDS, *REFUSED_IN_CHAT, *ChatCompletionRequest.model_fields})
)
async def test_no_value_of_any_field_of_a_chat_breaks_the_server(
    openai_server: OpenaiServer, field: str
) -> None:
    await assert_nothing_breaks(
        openai_server, "/v1/chat/completions", {"model": BASE, "messages": HELLO}, field
    )


@pytest.mark.parametrize("field", sorted({*TEXT_FIELDS, *REFUSED_IN_TEXT, *CompletionRequest.model_fields}))
async def test_no_value_of_any_field_of_a_completion_breaks_the_server(
    openai_server: OpenaiServer, field: str
) -> None:
    await assert_nothing_breaks(openai_server, "/v1/completions", {"model": BASE, "prompt": "Once"}, field)


async def assert_nothing_breaks(
    openai_server: OpenaiServer, path: str, body: dict[str, Any], field: str
) -> None:
    for value in WRONG:
        for _ in range(3):
            openai_server.engine.play(likely(b"{}"))
        response = await openai_server.http.post(path, json=body | {field: value})
        assert response.status_code in {200, 400, 404}, (value, response.text)
        if response.status_code != 200:
            assert field in response.json()["error"]["param"], value


async def test_what_shapes_chance_reaches_the_engine(openai_server: OpenaiServer) -> None:
    openai_server.say("Hi")
    await openai_server.chat(
        seed=7,
        presence_penalty=0.5,
        frequency_penalty=-1,
        logit_bias={"65": 2, "66": -100},
        extra_body={"repetition_penalty": 1.25},
    )
    assert openai_server.engine.requests[0].sampling == Sampling(
        presence_penalty=0.5,
        frequency_penalty=-1.0,
        repetition_penalty=1.25,
        logit_bias=((65, 2.0), (66, -100.0)),
        seed=7,
    )
    openai_server.say("Hi")
    await openai_server.complete(seed=0, presence_penalty=2, extra_body={"min_p": 0.5})
    assert openai_server.engine.requests[1].sampling == Sampling(min_p=0.5, presence_penalty=2.0, seed=0)


NEEDS: list[tuple[Ability, dict[str, Any], str]] = [
    ("seed", {"seed": 1}, "seed"),
    ("penalties", {"presence_penalty": 1}, "presence_penalty"),
    ("penalties", {"frequency_penalty": 1}, "frequency_penalty"),
    ("penalties", {"extra_body": {"repetition_penalty": 2}}, "repetition_penalty"),
    ("logit_bias", {"logit_bias": {"5": 1}}, "logit_bias"),
    ("logprobs", {"logprobs": True}, "logprobs"),
    ("grammar", {"response_format": {"type": "json_object"}}, "response_format"),
]


@pytest.mark.parametrize(("ability", "fields", "param"), NEEDS)
async def test_what_the_engine_cannot_do_is_refused_by_the_field_that_asks(
    openai_server: OpenaiServer, ability: Ability, fields: dict[str, Any], param: str
) -> None:
    openai_server.engine.abilities -= {ability}
    with pytest.raises(openai.BadRequestError) as caught:
        await openai_server.chat(**fields)
    assert caught.value.param == param
    assert caught.value.code == "unsupported"
    assert f"'{param}' is not supported by this server's engine (it lacks: {ability}); leave it out." in str(
        caught.value
    )
    openai_server.assert_all_is_free()
    assert openai_server.engine.requests == []


async def test_the_synchronous_client_is_served_over_a_socket(openai_server: OpenaiServer) -> None:
    openai_server.engine.play(likely(b'{"category": "billing", "priority": 1}'), (END,))
    openai_server.say("one", "two", "Hi", "text")

    def ask(client: openai.OpenAI) -> tuple[ChatCompletion, ChatCompletion, list[ChatCompletionChunk], str]:
        parsed = client.chat.completions.parse(
            model=BASE, messages=HELLO, response_format=Ticket, logprobs=True, top_logprobs=2
        )
        several = client.chat.completions.create(model=BASE, messages=HELLO, n=2, seed=1)
        with client.chat.completions.create(model=BASE, messages=HELLO, stream=True) as stream:
            chunks = list(stream)
        text = client.completions.create(model=BASE, prompt="Once", logit_bias={"65": 1})
        return parsed, several, chunks, text.choices[0].text

    async with listening(openai_server.app) as url:
        with openai.OpenAI(api_key="none", base_url=url, max_retries=0) as client:
            parsed, several, chunks, text = await asyncio.to_thread(ask, client)
    assert json.loads(parsed.choices[0].message.content or "") == {"category": "billing", "priority": 1}
    assert parsed.choices[0].logprobs is not None
    assert [choice.message.content for choice in several.choices] == ["one", "two"]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hi"
    assert text == "text"
