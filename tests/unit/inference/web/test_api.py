from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import openai
import pytest

from inference.api_keys import ApiKey, digest_of
from inference.engines.protocol import Sampling, ServedModel
from inference.errors import EngineError
from inference.service.requests import Limits
from inference.service.service import Service
from inference.settings import Settings
from inference.web.application import ChatPage, Identity, make_application
from tests.doubles.byte_codec import ByteCodec
from tests.doubles.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

BASE, TUNED, END, KEY = "org/base", "tickets", 256, "secret-key"
HELLO: Any = [{"role": "user", "content": "Hello"}]
ENDED = (*b"Hi there", END)


class World:
    """A server without a model, and clients for it."""

    def __init__(self, limits: Limits, settings: Settings, *, is_ready: bool = True) -> None:
        self.engine = ScriptedEngine({BASE: 200, TUNED: 200}, frozenset({END}))
        self.service = Service(limits)
        if is_ready:
            self.start()
        identity = Identity("20260101T000000Z-0123abcd", "app--rev", "app--rev-0", "2026-01-01T00:00:00Z")
        self.app = make_application(self.service, settings, identity, ChatPage(self.service))
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False),
            base_url="http://server",
            headers={"Authorization": f"Bearer {KEY}"},
        )
        self.openai = openai.AsyncOpenAI(
            api_key=KEY, base_url="http://server/v1", http_client=self.http, max_retries=0
        )

    def start(self) -> None:
        base = ServedModel(BASE, None, ByteCodec(), frozenset({END}), 1_700_000_000)
        tuned = ServedModel(TUNED, BASE, ByteCodec(), frozenset({END}), 1_700_000_000)
        self.service.begin_serving(self.engine, (base, tuned))

    async def chat(self, **fields: Any) -> httpx.Response:
        body = {"model": BASE, "messages": HELLO} | fields
        return await self.http.post("/v1/chat/completions", json=body)

    async def close(self) -> None:
        await self.engine.close()
        await self.http.aclose()


SETTINGS = Settings(api_keys=(ApiKey("ann", digest_of(KEY)),), heartbeat_s=0.05, max_body_bytes=20_000)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World(Limits(max_concurrent=2, max_waiting=1), SETTINGS)
    yield world
    await world.close()


async def test_a_conversation_is_answered_in_one_response(world: World) -> None:
    world.engine.play(ENDED)
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": " two"}]},
        {"role": "assistant", "content": "Three."},
        {"role": "user", "content": "Four?"},
    ]
    completion = await world.openai.chat.completions.create(model=TUNED, messages=messages, temperature=0)
    choice = completion.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", "Hi there")
    assert choice.finish_reason == "stop"
    assert completion.model == TUNED
    assert completion.usage is not None
    prompt = b"system: Be brief.\nuser: One two\nassistant: Three.\nuser: Four?\nassistant: "
    assert bytes(world.engine.requests[0].prompt_token_ids) == prompt
    assert completion.usage.prompt_tokens == len(prompt)
    assert completion.usage.completion_tokens == len(ENDED)
    assert completion.usage.total_tokens == len(prompt) + len(ENDED)
    assert world.engine.requests[0].model == TUNED
    assert world.engine.requests[0].sampling.is_greedy


async def test_an_answer_is_accepted_as_part_of_the_history(world: World) -> None:
    world.engine.play(ENDED)
    first = await world.openai.chat.completions.create(model=BASE, messages=HELLO)
    world.engine.play(ENDED)
    messages: Any = [*HELLO, first.choices[0].message, {"role": "user", "content": "And?"}]
    await world.openai.chat.completions.create(model=BASE, messages=messages)
    assert b"assistant: Hi there\n" in bytes(world.engine.requests[1].prompt_token_ids)


async def test_a_stream_has_the_role_once_then_text_then_the_finish_reason(world: World) -> None:
    world.engine.play(b"Hi", b" the", b"re", (END,))
    stream = await world.openai.chat.completions.create(
        model=BASE,
        messages=HELLO,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert [chunk.choices[0].delta.role for chunk in chunks[:-1]].count("assistant") == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "Hi there"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices[0].finish_reason] == [
        "stop"
    ]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 9
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_ends_with_done_and_has_no_usage_unless_asked(world: World) -> None:
    world.engine.play(ENDED)
    response = await world.chat(stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")
    assert "usage" not in response.text


async def test_no_character_is_split_in_a_stream(world: World) -> None:
    world.engine.play(*[(byte,) for byte in "Zürich 😀".encode()], (END,))
    response = await world.chat(stream=True)
    documents = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    pieces = [document["choices"][0]["delta"].get("content", "") for document in documents]
    assert "".join(pieces) == "Zürich 😀"
    assert "ü" in pieces
    assert "😀" in pieces


async def test_the_length_is_kept(world: World) -> None:
    world.engine.play(b"a long answer")
    completion = await world.openai.chat.completions.create(
        model=BASE,
        messages=HELLO,
        max_completion_tokens=6,
    )
    assert completion.choices[0].message.content == "a long"
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 6


@pytest.mark.parametrize("stop", ["END", ["nothing", "END"]])
async def test_a_stop_string_across_tokens_ends_the_answer_and_the_generation(
    world: World, stop: Any
) -> None:
    world.engine.play(b"one E", b"N", b"D two", b"three")
    completion = await world.openai.chat.completions.create(
        model=BASE,
        messages=HELLO,
        stop=stop,
    )
    assert completion.choices[0].message.content == "one "
    assert completion.choices[0].finish_reason == "stop"
    assert world.engine.cancelled == [world.engine.requests[0].request_id]


async def test_the_sampling_reaches_the_engine(world: World) -> None:
    world.engine.play(ENDED)
    await world.openai.chat.completions.create(
        model=BASE,
        messages=HELLO,
        temperature=0.5,
        top_p=0.9,
        extra_body={"top_k": 40, "min_p": 0.1},
    )
    world.engine.play(ENDED)
    await world.openai.chat.completions.create(model=BASE, messages=HELLO)
    assert world.engine.requests[0].sampling == Sampling(0.5, 0.9, 40, 0.1)
    assert world.engine.requests[1].sampling == Sampling(1.0, 1.0, 0, 0.0)


@pytest.mark.parametrize(("prompt", "expected"), [("Once", b"Once"), (["Once"], b"Once"), ([79, 110], b"On")])
async def test_a_text_is_continued(world: World, prompt: Any, expected: bytes) -> None:
    world.engine.play(ENDED)
    completion = await world.openai.completions.create(model=BASE, prompt=prompt)
    assert completion.choices[0].text == "Hi there"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.object == "text_completion"
    assert bytes(world.engine.requests[0].prompt_token_ids) == expected
    assert world.engine.requests[0].max_new_tokens == 16


async def test_a_text_is_continued_as_a_stream(world: World) -> None:
    world.engine.play(b"Hi", b" there", (END,))
    stream = await world.openai.completions.create(model=BASE, prompt="Once", stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Hi there"
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_the_models_are_listed_with_their_parent(world: World) -> None:
    models = [model async for model in world.openai.models.list()]
    assert [(model.id, model.object) for model in models] == [(BASE, "model"), (TUNED, "model")]
    assert [(model.model_extra or {})["parent"] for model in models] == [None, BASE]
    assert (await world.openai.models.retrieve(BASE)).id == BASE


async def test_an_unknown_model_is_not_found(world: World) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await world.openai.chat.completions.create(model="gpt-4", messages=HELLO)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert "'org/base', 'tickets'" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        await world.openai.models.retrieve("gpt-4")


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer ", f"Basic {KEY}", KEY])
async def test_without_a_key_nothing_below_v1_answers(world: World, header: str | None) -> None:
    world.http.headers.pop("Authorization")
    headers = {} if header is None else {"Authorization": header}
    for path in ("/v1/models", "/v1/chat/completions", "/v1/nothing", "/v1/openapi.json", "/v1"):
        response = await world.http.get(path, headers=headers)
        assert response.status_code == 401, path
        assert response.json()["error"]["code"] == "invalid_api_key"
    assert world.engine.requests == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"api-key": KEY}, 200),
        ({"x-api-key": f" {KEY} "}, 200),
        ({"Api-Key": KEY, "Authorization": "Bearer of-another-server"}, 200),
        ({"x-api-key": "of-another-server", "Authorization": f"Bearer {KEY}"}, 200),
        ({"api-key": "wrong"}, 401),
        ({"api-key": f"Bearer {KEY}"}, 401),
        ({"api-key": "", "x-api-key": ""}, 401),
        ({"x-key": KEY}, 401),
    ],
)
async def test_a_key_is_taken_from_azure_s_and_anthropic_s_headers(
    world: World, headers: dict[str, str], status: int
) -> None:
    transport = httpx.ASGITransport(world.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        response = await client.get("/v1/models", headers=headers)
    assert response.status_code == status
    if status == 401:
        assert "or in the header 'api-key' or 'x-api-key'" in response.json()["error"]["message"]


async def test_without_auth_no_key_is_needed() -> None:
    world = World(Limits(), Settings(auth=False, chat_sign_in=False))
    world.http.headers.pop("Authorization")
    assert (await world.http.get("/v1/models")).status_code == 200
    await world.close()


REFUSED: list[tuple[dict[str, Any], str | None, str]] = [
    ({"n": 17}, "n", "'n': Input should be less than or equal to 16."),
    ({"n": 0}, "n", "'n': Input should be greater than or equal to 1."),
    ({"n": 3}, "n", "The request asks for 3 answers, and this server gives 2 at once. Ask for fewer."),
    ({"top_logprobs": 1}, "top_logprobs", "'top_logprobs': it goes with 'logprobs': true."),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "'top_logprobs': Input should be less than"),
    ({"seed": 1.5}, "seed", "'seed': Input should be a valid integer."),
    ({"presence_penalty": 2.5}, "presence_penalty",
     "'presence_penalty': Input should be less than or equal to 2."),
    ({"frequency_penalty": -3}, "frequency_penalty",
     "'frequency_penalty': Input should be greater than or equal to -2."),
    ({"repetition_penalty": 0}, "repetition_penalty",
     "'repetition_penalty': Input should be greater than or equal to 0.01."),
    ({"logit_bias": {"5": 101}}, "logit_bias", "Input should be less than or equal to 100."),
    ({"logit_bias": {"five": 1}}, "logit_bias", "'logit_bias': the keys are token ids, such as '50256'."),
    ({"logit_bias": {"258": 1}}, "logit_bias",
     "'logit_bias' names the token 258, and token ids are from 0 to 257."),
    ({"response_format": {"type": "xml"}}, "response_format.type", "Input should be 'text', 'json_object'"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema",
     "The field 'response_format.json_schema' is missing."),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "The field 'tools[0].function' is missing."),
    ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].custom", "Unknown field 'tools[0].custom'."),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools",
     "This model does not support tools: its chat template renders none. Leave 'tools' out."),
    ({"tool_choice": "required"}, "tool_choice", "'tool_choice': there are no tools to choose from."),
    ({"functions": [{"name": "f"}]}, "functions", "'functions' is not supported by this server"),
    ({"use_beam_search": True}, "use_beam_search", "'use_beam_search' is not supported by this server"),
    ({"verbosity": "low"}, "verbosity", "'verbosity' is not supported by this server"),
    ({"stream_options": {}}, "stream_options", "'stream_options': it goes with 'stream': true."),
    ({"stream_options": {"include_usage": True}, "stream": False}, "stream_options",
     "'stream_options': it goes with 'stream': true."),
    ({"tools": ["f"]}, "tools[0]", "'tools[0]': Input should be a JSON object."),
    ({"response_format": "json"}, "response_format", "'response_format': Input should be a JSON object."),
    ({"tool_choice": {"type": "any"}}, "tool_choice",
     "'tool_choice': it is 'none', 'auto', 'required', or {'type': 'function', 'function': {'name': ...}}."),
    ({"tool_choice": "function f"}, "tool_choice", "'tool_choice': it is 'none', 'auto', 'required', or {"),
    ({"tempratur": 1}, "tempratur", "Unknown field 'tempratur'."),
    ({"temperature": 3}, "temperature", "'temperature': Input should be less than or equal to 2."),
    ({"temperature": "hot"}, "temperature", "'temperature': Input should be a valid number."),
    ({"top_p": 0}, "top_p", "'top_p': Input should be greater than 0."),
    ({"max_tokens": 0}, "max_tokens", "'max_tokens': Input should be greater than or equal to 1."),
    ({"max_tokens": 1.5}, "max_tokens", "'max_tokens': Input should be a valid integer."),
    ({"stop": ["a", ""]}, "stop", "'stop': a stop string must not be empty."),
    ({"stop": ["x"] * 17}, "stop", "'stop': "),
    ({"messages": []}, "messages", "'messages': List should have at least 1 item"),
    ({"messages": None}, "messages", "'messages': Input should be a valid list."),
    ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role", "'messages[0].role': Input"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "The field 'messages[0].content' is missing."),
    ({"messages": [*HELLO, {"role": "assistant", "tool_calls": [{"id": "c"}]}]},
     "messages[1].tool_calls[0].function", "The field 'messages[1].tool_calls[0].function' is missing."),
    ({"messages": [*HELLO, {"role": "tool", "content": "5"}]},
     "messages[1].tool_call_id", "The field 'messages[1].tool_call_id' is missing."),
    ({"messages": [*HELLO, {"role": "tool", "content": "5", "tool_call_id": "c"}]}, "messages",
     "This model's chat template does not support tools, so it cannot render calls and their results."),
    ({"messages": ["Hello"]}, "messages[0]", "'messages[0]': Input should be a JSON object."),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
     "messages[0].content", "only text is supported: each part of the content is {'type': 'text', 'text': "),
    ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content",
     "only text is supported"),
    ({"model": None}, "model", "'model': Input should be a valid string."),
    ({"stream_options": {"speed": 1}, "stream": True}, "stream_options.speed",
     "Unknown field 'stream_options.speed'."),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "message"), REFUSED)
async def test_an_unsupported_field_is_rejected_by_name(
    world: World, fields: dict[str, Any], param: str | None, message: str
) -> None:
    response = await world.chat(**fields)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["param"] == param
    assert message in error["message"]
    assert not re.search(r"\{\{|dictionary", error["message"])
    assert error["type"] == "invalid_request_error"
    assert world.engine.requests == []


async def test_a_neutral_value_is_accepted(world: World) -> None:
    world.engine.play(ENDED)
    response = await world.chat(
        n=1, logprobs=False, top_logprobs=0, presence_penalty=0, repetition_penalty=1, frequency_penalty=0.0,
        logit_bias={}, tools=[], store=False,
        user="u", metadata={"a": "b"}, response_format={"type": "text"}, seed=None, service_tier="auto",
        parallel_tool_calls=True, tool_choice="none", stream=False, stop=None, top_k=-1,
        safety_identifier="s", use_beam_search=False, skip_special_tokens=True, verbosity="medium",
    )  # fmt: skip
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "fields",
    [
        {"store": True}, {"service_tier": "priority"}, {"metadata": {"a": "b"}}, {"priority": 3},
        {"prediction": {"type": "content", "content": "x"}}, {"cache_salt": "s"}, {"prompt_cache_key": "k"},
        {"some_field_of_another_server": None}, {"response_format": {"type": "text", "schema": None}},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": False},
    ],
)  # fmt: skip
async def test_a_field_that_does_not_change_the_answer_is_accepted(
    world: World, fields: dict[str, Any]
) -> None:
    world.engine.play(ENDED)
    response = await world.chat(**fields)
    assert response.status_code == 200, response.text
    assert world.engine.requests[0].sampling == Sampling()


HISTORIES: list[tuple[dict[str, Any], str]] = [
    # AutoGen's client sends the name of each agent, LangChain's what a message was given.
    ({"role": "user", "name": "user", "content": "x"}, "user: x"),
    ({"role": "system", "name": "agent", "content": "x"}, "system: x"),
    # What the official client reads from a stream, and what other servers and libraries add.
    ({"role": "assistant", "content": "x", "refusal": None, "annotations": [{"type": "url_citation"}],
      "audio": {"id": "a"}, "function_call": None, "tool_calls": None, "parsed": {"a": 1}}, "assistant: x"),
    ({"role": "assistant", "content": "x", "reasoning_content": "hm", "thinking_blocks": [],
      "provider_specific_fields": {"a": 1}, "index": 0, "images": []}, "assistant: x"),
    ({"role": "assistant", "content": None}, "assistant: "),
    ({"role": "assistant"}, "assistant: "),
    ({"role": "assistant", "content": None, "refusal": "I cannot."}, "assistant: I cannot."),
    ({"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"},
      {"type": "output_text", "text": "x", "annotations": []}]}, "assistant: x"),
    ({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, "assistant: No."),
    # LiteLLM and OpenRouter mark what Anthropic's models cache.
    ({"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}],
      "cache_control": {"type": "ephemeral"}}, "user: x"),
    ({"role": "user", "content": [{"type": "input_text", "text": "x"}, "y", {"type": "text", "text": None}]},
     "user: xy"),
    ({"role": "user", "content": [], "tool_calls": [], "tool_call_id": None}, "user: "),
    ({"role": "developer", "content": "x", "id": "msg_1", "status": "completed"}, "system: x"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "line"), HISTORIES)
async def test_a_message_may_have_what_a_library_added(
    world: World, message: dict[str, Any], line: str
) -> None:
    world.engine.play(ENDED)
    response = await world.chat(messages=[*HELLO, message])
    assert response.status_code == 200, response.text
    prompt = bytes(world.engine.requests[0].prompt_token_ids).decode()
    assert prompt == f"user: Hello\n{line}\nassistant: "


@pytest.mark.parametrize(
    ("content", "content_type", "message"),
    [
        (b"{", "application/json", "The body is not valid JSON"),
        (b"[]", "application/json", "must be a JSON object"),
        (b'"text"', "application/json", "must be a JSON object"),
        (b"", "application/json", "must be a JSON object"),
        (b"a=b", "application/x-www-form-urlencoded", "must be a JSON object"),
        (b'{"model": "\xff"}', "application/json", "The body is not valid JSON"),
    ],
)
async def test_an_invalid_body_is_rejected(
    world: World, content: bytes, content_type: str, message: str
) -> None:
    response = await world.http.post(
        "/v1/chat/completions", content=content, headers={"Content-Type": content_type}
    )
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


async def test_errors_have_one_shape_everywhere(world: World) -> None:
    missing = await world.http.get("/v1/assistants")
    assert (missing.status_code, missing.json()["error"]["message"]) == (404, "There is no /v1/assistants.")
    broken = await world.http.get("/v1/models/two%0Alines")
    assert (broken.status_code, broken.json()["error"]["code"]) == (404, "unknown_url")
    wrong_way = await world.http.get("/v1/chat/completions")
    assert wrong_way.status_code == 405
    assert wrong_way.headers["allow"] == "POST"
    assert wrong_way.json()["error"]["code"] == "method_not_allowed"


async def test_a_bug_is_answered_without_its_trace(world: World) -> None:
    world.service.begin = None  # type: ignore[assignment,method-assign]  # so that calling it is a bug
    response = await world.chat()
    error = response.json()["error"]
    assert response.status_code == 500
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert response.headers["x-request-id"] in error["message"]
    assert "NoneType" not in response.text


async def test_a_prompt_beyond_the_context_is_rejected_before_it_queues(world: World) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await world.openai.chat.completions.create(
            model=BASE, messages=[{"role": "user", "content": "x" * 300}]
        )
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"
    response = await world.chat(max_tokens=190)
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert response.json()["error"]["param"] == "max_tokens"
    assert "you requested 213 (23 in the prompt, 190 in the answer)" in response.json()["error"]["message"]
    assert world.engine.requests == []


async def test_without_a_length_the_answer_gets_what_the_context_leaves(world: World) -> None:
    world.engine.play(ENDED)
    await world.chat(messages=[{"role": "user", "content": "x" * 150}])
    request = world.engine.requests[0]
    assert request.max_new_tokens == 200 - len(request.prompt_token_ids)


async def test_empty_prompts_and_unknown_token_ids_are_rejected(world: World) -> None:
    for prompt, message in (
        ("", "The prompt is empty."),
        ([], "The prompt is empty."),
        ([258], "from 0 to 257"),
    ):
        response = await world.http.post("/v1/completions", json={"model": BASE, "prompt": prompt})
        assert response.status_code == 400
        assert message in response.json()["error"]["message"]
        assert response.json()["error"]["param"] == "prompt"


@pytest.mark.parametrize("is_announced", [True, False])
async def test_an_oversized_body_is_rejected(world: World, *, is_announced: bool) -> None:
    body = json.dumps({"model": BASE, "messages": [{"role": "user", "content": "x" * 30_000}]}).encode()

    async def parts() -> AsyncIterator[bytes]:
        yield body[:10_000]
        yield body[10_000:]

    response = await world.http.post(
        "/v1/chat/completions",
        content=body if is_announced else parts(),
        headers={"Content-Type": "application/json"},
    )
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


async def test_requests_beyond_the_queue_are_rejected(world: World) -> None:
    gate = asyncio.Event()
    for _ in range(3):
        world.engine.play(gate, ENDED)
    tasks = [asyncio.create_task(world.chat()) for _ in range(3)]
    await until(lambda: world.service.queue.waiting == 1)
    response = await world.chat()
    assert response.status_code == 429
    assert response.headers["retry-after"] == "2"
    assert response.json()["error"]["code"] == "rate_limit_exceeded"
    gate.set()
    assert [response.status_code for response in await asyncio.gather(*tasks)] == [200, 200, 200]
    assert (world.service.queue.slots_in_use, world.service.queue.waiting) == (0, 0)


async def test_requests_before_and_after_serving_are_rejected_with_the_state() -> None:
    world = World(Limits(), SETTINGS, is_ready=False)
    world.service.report("loading the base model", 30)
    ready = await world.http.get("/readyz")
    assert ready.status_code == 503
    assert ready.json() == {"status": "starting", "phase": "loading the base model", "percent": 30}
    response = await world.chat()
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert response.json()["error"]["code"] == "starting"
    assert (await world.http.get("/v1/models")).status_code == 503
    page = await world.http.get("/", headers={"Authorization": ""})
    assert page.status_code == 401

    world.start()
    assert (await world.http.get("/readyz")).json() == {"status": "ready"}
    world.service.begin_draining()
    assert (await world.http.get("/readyz")).json() == {"status": "draining"}
    assert (await world.http.get("/healthz")).status_code == 200
    response = await world.chat()
    assert (response.status_code, response.json()["error"]["code"]) == (503, "draining")
    await world.close()


async def test_the_version_names_release_and_models(world: World) -> None:
    response = await world.http.get("/version", headers={"Authorization": ""})
    assert response.json() == {
        "release": "20260101T000000Z-0123abcd", "version": "0.1.0", "revision": "app--rev",
        "replica": "app--rev-0", "started_at": "2026-01-01T00:00:00Z", "base_model": BASE,
        "adapters": [TUNED], "ready": True,
    }  # fmt: skip


async def test_a_dead_engine_is_detected_and_ends_its_requests(world: World) -> None:
    world.engine.play(b"half an ", asyncio.Event())
    task = asyncio.create_task(world.chat())
    await until(lambda: world.engine.generated_tokens == 8)
    world.engine.die()
    response = await task
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_failed")
    assert (await world.http.get("/healthz")).status_code == 503
    assert (await world.http.get("/readyz")).status_code == 503
    assert (await world.chat()).json()["error"]["code"] == "engine_dead"
    assert world.service.queue.slots_in_use == 0


async def test_a_stream_that_fails_ends_with_an_error_event(world: World) -> None:
    world.engine.play(b"half an ", EngineError("out of memory"))
    stream = await world.openai.chat.completions.create(
        model=BASE,
        messages=HELLO,
        stream=True,
    )
    with pytest.raises(openai.APIError, match="The engine failed before the answer was complete"):
        async for _ in stream:
            pass
    world.engine.play(b"half an ", EngineError("out of memory"))
    text = (await world.chat(stream=True)).text
    assert "[DONE]" not in text
    assert "out of memory" not in text


async def test_a_request_times_out() -> None:
    world = World(Limits(request_timeout_s=0.05), SETTINGS)
    world.engine.play(b"slow", asyncio.Event())
    response = await world.chat()
    assert (response.status_code, response.json()["error"]["code"]) == (503, "request_timeout")
    assert "after 4 tokens" in response.json()["error"]["message"]
    # Without it the official client would retry twice.
    assert response.headers["x-should-retry"] == "false"
    assert world.engine.cancelled
    assert world.service.queue.slots_in_use == 0
    await world.close()


async def test_an_idle_stream_sends_heartbeats(world: World) -> None:
    gate = asyncio.Event()
    world.engine.play(gate, ENDED)
    client = Client(world, stream=True)
    await client.wait_for(b": still there")
    gate.set()
    await client.wait_for(b"[DONE]")
    await client.task


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_disconnects_frees_its_slot(world: World, *, stream: bool) -> None:
    world.engine.play(b"talking to", asyncio.Event())
    client = Client(world, stream=stream)
    await until(lambda: world.engine.generated_tokens == 10)
    client.leave()
    await client.task
    assert world.engine.cancelled == [world.engine.requests[0].request_id]
    assert world.service.queue.slots_in_use == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_a_queued_client_that_disconnects_leaves_the_queue(world: World, *, stream: bool) -> None:
    insiders = [Client(world, stream=False) for _ in range(2)]
    await until(lambda: world.service.queue.slots_in_use == 2)
    client = Client(world, stream=stream)
    await until(lambda: world.service.queue.waiting == 1)
    client.leave()
    await client.task
    assert (world.service.queue.slots_in_use, world.service.queue.waiting) == (2, 0)
    assert len(world.engine.requests) == 2
    for insider in insiders:
        insider.leave()
        await insider.task


async def test_a_request_id_comes_back(world: World) -> None:
    world.engine.play(ENDED)
    response = await world.http.post(
        "/v1/chat/completions", json={"model": BASE, "messages": HELLO}, headers={"X-Request-Id": "abc-1"}
    )
    assert response.headers["x-request-id"] == "abc-1"
    hostile = await world.http.get("/healthz", headers={"X-Request-Id": "a b\x7f" + "c" * 100})
    assert hostile.headers["x-request-id"].isalnum()


async def test_nothing_of_a_conversation_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="inference")
    world.engine.play((*b"a private answer", END))
    await world.chat(messages=[{"role": "user", "content": "a private question"}])
    line = next(record.getMessage() for record in caplog.records if record.name == "inference.access")
    assert line.startswith("POST /v1/chat/completions 200 ")
    assert "key=ann" in line
    assert "private" not in caplog.text
    assert KEY not in caplog.text


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it lets the other tasks run; no time passes
            await asyncio.sleep(0)


class Client:
    """A client on the ASGI level, which sees what has arrived so far and can disconnect."""

    def __init__(self, world: World, *, stream: bool) -> None:
        self.received = b""
        self._left = asyncio.Event()
        self._news = asyncio.Event()
        body = json.dumps({"model": BASE, "messages": HELLO, "stream": stream}).encode()
        self._messages = [{"type": "http.request", "body": body, "more_body": False}]
        headers = [(b"authorization", f"Bearer {KEY}".encode()), (b"content-type", b"application/json")]
        scope = {
            "type": "http", "method": "POST", "path": "/v1/chat/completions", "raw_path": b"",
            "root_path": "", "scheme": "http", "query_string": b"", "http_version": "1.1",
            "server": ("server", 80), "client": None, "headers": headers,
        }  # fmt: skip
        self.task = asyncio.create_task(self._run(world, scope))

    def leave(self) -> None:
        self._left.set()

    async def _run(self, world: World, scope: dict[str, Any]) -> None:
        await world.app(scope, self._receive, self._send)

    async def wait_for(self, text: bytes) -> None:
        while text not in self.received:
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 10)

    async def _receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop()
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.received += message.get("body", b"")
        self._news.set()
