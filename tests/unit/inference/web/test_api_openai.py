from __future__ import annotations

import asyncio
import inspect
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import httpx2 as httpx
import openai
import pytest
import uvicorn
from openai.resources.chat.completions import AsyncCompletions as ChatCompletions
from openai.resources.completions import AsyncCompletions
from pydantic import BaseModel

from inference.engines.protocol import Ability, Increment, Sampling, ServedModel, TokenLogprobs
from inference.errors import EngineError
from inference.service.requests import Limits
from inference.service.service import Service
from inference.settings import Settings
from inference.web.application import ChatPage, Identity, make_application
from inference.web.schemas import ChatCompletionRequest, CompletionRequest
from tests.doubles.byte_codec import ByteCodec
from tests.doubles.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from openai.types.chat import ChatCompletion, ChatCompletionChunk

BASE, END, CONTEXT = "org/base", 256, 500
HELLO: Any = [{"role": "user", "content": "Hello"}]
SETTINGS = Settings(auth=False, chat_sign_in=False, heartbeat_s=5)


class World:
    """A server without a model, and clients of it."""

    def __init__(self, limits: Limits) -> None:
        self.engine = ScriptedEngine({BASE: CONTEXT}, frozenset({END}))
        self.service = Service(limits)
        self.service.begin_serving(self.engine, [ServedModel(BASE, None, ByteCodec(), frozenset({END}), 0)])
        self.app = make_application(self.service, SETTINGS, Identity("", "", "", ""), ChatPage(self.service))
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False), base_url="http://server"
        )
        self.openai = openai.AsyncOpenAI(
            api_key="none", base_url="http://server/v1", http_client=self.http, max_retries=0
        )

    def say(self, *texts: str) -> None:
        """Let the next requests be answered with these."""
        for text in texts:
            self.engine.play(*[(byte,) for byte in text.encode()], (END,))

    async def chat(self, **fields: Any) -> Any:
        fields = {"model": BASE, "messages": HELLO} | fields
        return await self.openai.chat.completions.create(**fields)

    async def complete(self, **fields: Any) -> Any:
        return await self.openai.completions.create(**({"model": BASE, "prompt": "Once"} | fields))

    def assert_all_is_free(self) -> None:
        assert (self.service.queue.slots_in_use, self.service.queue.waiting) == (0, 0)
        assert self.engine.running == 0

    async def close(self) -> None:
        await self.engine.close()
        await self.http.aclose()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World(Limits(max_concurrent=4, max_waiting=1))
    yield world
    await world.close()


@asynccontextmanager
async def listening(world: World) -> AsyncIterator[str]:
    """Serve on a real socket, for clients in threads, and for seeing a stream before its end."""
    config = uvicorn.Config(world.app, port=0, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        await serving


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.001)


# What the client can send.


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
async def test_a_field_of_a_chat_is_honoured(world: World, field: str) -> None:
    world.engine.play(Increment((*b"{}", END), "stop", (TokenLogprobs(-1.0),) * 3))
    completion = await world.chat(**{field: CHAT_FIELDS[field]})
    assert completion.choices[0].message.content == "{}"


@pytest.mark.parametrize("field", REFUSED_IN_CHAT)
async def test_a_field_of_a_chat_is_refused_by_its_name(world: World, field: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await world.chat(**{field: REFUSED_IN_CHAT[field]})
    assert caught.value.param is not None
    assert caught.value.param.startswith(field)
    assert field in caught.value.message


@pytest.mark.parametrize("field", TEXT_FIELDS)
async def test_a_field_of_a_completion_is_honoured(world: World, field: str) -> None:
    text = Increment((*b"Hi", END), "stop", (TokenLogprobs(-1.0),) * 3)
    world.engine.play(text)
    completion = await world.complete(**{field: TEXT_FIELDS[field]})
    assert completion.choices[0].text == "Hi"


@pytest.mark.parametrize("field", REFUSED_IN_TEXT)
async def test_a_field_of_a_completion_is_refused_by_its_name(world: World, field: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await world.complete(**{field: REFUSED_IN_TEXT[field]})
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
async def test_no_value_of_any_field_of_a_chat_breaks_the_server(world: World, field: str) -> None:
    await assert_nothing_breaks(world, "/v1/chat/completions", {"model": BASE, "messages": HELLO}, field)


@pytest.mark.parametrize("field", sorted({*TEXT_FIELDS, *REFUSED_IN_TEXT, *CompletionRequest.model_fields}))
async def test_no_value_of_any_field_of_a_completion_breaks_the_server(world: World, field: str) -> None:
    await assert_nothing_breaks(world, "/v1/completions", {"model": BASE, "prompt": "Once"}, field)


async def assert_nothing_breaks(world: World, path: str, body: dict[str, Any], field: str) -> None:
    for value in WRONG:
        for _ in range(3):
            world.engine.play(likely(b"{}"))
        response = await world.http.post(path, json=body | {field: value})
        assert response.status_code in {200, 400, 404}, (value, response.text)
        if response.status_code != 200:
            assert field in response.json()["error"]["param"], value


# Sampling.


async def test_what_shapes_chance_reaches_the_engine(world: World) -> None:
    world.say("Hi")
    await world.chat(
        seed=7,
        presence_penalty=0.5,
        frequency_penalty=-1,
        logit_bias={"65": 2, "66": -100},
        extra_body={"repetition_penalty": 1.25},
    )
    assert world.engine.requests[0].sampling == Sampling(
        presence_penalty=0.5,
        frequency_penalty=-1.0,
        repetition_penalty=1.25,
        logit_bias=((65, 2.0), (66, -100.0)),
        seed=7,
    )
    world.say("Hi")
    await world.complete(seed=0, presence_penalty=2, extra_body={"min_p": 0.5})
    assert world.engine.requests[1].sampling == Sampling(min_p=0.5, presence_penalty=2.0, seed=0)


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
    world: World, ability: Ability, fields: dict[str, Any], param: str
) -> None:
    world.engine.abilities -= {ability}
    with pytest.raises(openai.BadRequestError) as caught:
        await world.chat(**fields)
    assert caught.value.param == param
    assert caught.value.code == "unsupported"
    assert f"'{param}' is not supported by this server's engine (it lacks: {ability}); leave it out." in str(
        caught.value
    )
    world.assert_all_is_free()
    assert world.engine.requests == []


# Several choices.


async def test_several_choices_are_several_requests_with_seeds_of_their_own(world: World) -> None:
    world.say("one", "two!", "three")
    completion = await world.chat(n=3, seed=2**63 - 1)
    assert [(choice.index, choice.message.content) for choice in completion.choices] == [
        (0, "one"), (1, "two!"), (2, "three"),
    ]  # fmt: skip
    assert [request.sampling.seed for request in world.engine.requests] == [2**63 - 1, 0, 1]
    prompt = len(world.engine.requests[0].prompt_token_ids)
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (prompt, 4 + 5 + 6)
    world.assert_all_is_free()


async def test_several_choices_are_streamed_side_by_side(world: World) -> None:
    gate = asyncio.Event()
    world.engine.play(b"o", gate, b"ne", (END,))
    world.engine.play(b"two", (END,))
    texts, reasons, seen = ["", ""], [], []
    async with listening(world) as url, openai.AsyncOpenAI(api_key="none", base_url=url) as client:
        stream = await client.chat.completions.create(
            model=BASE, messages=HELLO, n=2, stream=True, stream_options={"include_usage": True}
        )
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                if choice.finish_reason:
                    reasons.append((choice.index, choice.finish_reason))
                    gate.set()
            seen.append(chunk)
    assert texts == ["one", "two"]
    assert reasons == [(1, "stop"), (0, "stop")]
    assert [chunk.choices[0].delta.role for chunk in seen[:2]] == ["assistant", "assistant"]
    assert seen[-1].usage is not None
    assert seen[-1].usage.completion_tokens == 4 + 4
    world.assert_all_is_free()


async def test_choices_that_do_not_fit_into_the_queue_leave_nothing_behind(world: World) -> None:
    gate = asyncio.Event()
    world.engine.play(gate, (END,))
    inside = asyncio.create_task(world.chat())
    await until(lambda: world.engine.running == 1)
    world.say("a", "b", "c", "d")
    four = asyncio.create_task(world.chat(n=4))
    await until(lambda: world.service.queue.waiting == 1)
    with pytest.raises(openai.RateLimitError):
        await world.chat(n=2)
    assert (world.service.queue.slots_in_use, world.service.queue.waiting) == (1, 1)
    assert len(world.engine.requests) == 1
    gate.set()
    assert {choice.message.content for choice in (await four).choices} == set("abcd")
    await inside
    world.assert_all_is_free()


@pytest.mark.parametrize("limits", [Limits(4, 1), Limits(9, 1, max_per_key=4)])
@pytest.mark.parametrize(
    ("prompts", "n", "param"), [(1, 6, "n"), (6, 1, "prompt"), (3, 2, "prompt"), (2, 6, "n")]
)
async def test_more_choices_than_a_request_can_have_are_refused_by_who_asks_for_them(
    limits: Limits, prompts: int, n: int, param: str
) -> None:
    world = World(limits)
    with pytest.raises(openai.BadRequestError) as caught:
        await world.complete(prompt=["a"] * prompts, n=n)
    assert caught.value.param == param
    assert (
        f"The request asks for {prompts * n} answers, and this server gives 4 at once. Ask for fewer."
        in str(caught.value)
    )
    assert world.engine.requests == []
    world.assert_all_is_free()
    await world.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_choice_that_fails_frees_all(world: World, *, stream: bool) -> None:
    world.engine.play(b"half", asyncio.Event())
    world.engine.play(b"of it", EngineError("out of memory"))
    with pytest.raises(openai.APIError, match="The engine failed before the answer was complete"):
        async for _ in await world.chat(n=2, stream=stream):
            pass
    world.assert_all_is_free()


async def test_a_client_that_leaves_frees_all(world: World) -> None:
    for _ in range(4):
        world.engine.play(b"talking", asyncio.Event())
    async with listening(world) as url, openai.AsyncOpenAI(api_key="none", base_url=url) as client:
        stream = await client.chat.completions.create(model=BASE, messages=HELLO, n=4, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        assert (world.service.queue.slots_in_use, world.service.queue.waiting) == (4, 0)
        await stream.close()
        await until(lambda: world.service.queue.slots_in_use + world.service.queue.waiting == 0)
    world.assert_all_is_free()
    assert len(world.engine.cancelled) == 4


async def test_the_time_runs_out_for_all_choices() -> None:
    world = World(Limits(max_concurrent=2, max_waiting=1, request_timeout_s=0.05))
    world.engine.play(b"slow", asyncio.Event())
    with pytest.raises(openai.InternalServerError, match="The request timed out"):
        await world.chat(n=2)
    world.assert_all_is_free()
    await world.close()


# Several prompts.


@pytest.mark.parametrize(
    "prompt", [["Once", "Twice"], [list(b"Once"), list(b"Twice")]], ids=["texts", "token lists"]
)
async def test_several_prompts_are_continued_in_their_order(world: World, prompt: Any) -> None:
    world.say("1a", "1b", "2a", "2b")
    completion = await world.complete(prompt=prompt, n=2, seed=3)
    assert [(choice.index, choice.text) for choice in completion.choices] == [
        (0, "1a"), (1, "1b"), (2, "2a"), (3, "2b"),
    ]  # fmt: skip
    requests = world.engine.requests
    assert [bytes(request.prompt_token_ids) for request in requests] == [b"Once", b"Once", b"Twice", b"Twice"]
    assert [request.sampling.seed for request in requests] == [3, 4, 3, 4]
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (9, 12)


async def test_several_prompts_are_streamed(world: World) -> None:
    world.say("one", "two")
    texts = ["", ""]
    async for chunk in await world.complete(prompt=["a", "b"], stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["one", "two"]


@pytest.mark.parametrize("prompt", [["Once", 5], [[1], "a"], [[[1]]], [True], {"a": 1}, 5, ["a", ["b"]]])
async def test_a_prompt_of_another_form_is_refused(world: World, prompt: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await world.complete(prompt=prompt)
    assert caught.value.param == "prompt"
    assert "a prompt is a text, a list of texts, a list of token ids, or a list of such lists" in str(
        caught.value
    )


# Log-probabilities.


def likely(tokens: Sequence[int], *, end: bool = True) -> Increment:
    """Tokens, each likelier than the one before, and at each the letter x as an alternative."""
    logprobs = [
        TokenLogprobs(-1 / (1 + index), ((token, -1 / (1 + index)), (ord("x"), -4.0)))
        for index, token in enumerate(tokens)
    ]
    if end:
        return Increment((*tokens, END), "stop", (*logprobs, TokenLogprobs(-0.1, ((END, -0.1),))))
    return Increment(tuple(tokens), None, tuple(logprobs))


async def test_a_chats_tokens_come_with_their_logprobs(world: World) -> None:
    world.engine.play(likely(b"Hi"))
    completion = await world.chat(logprobs=True, top_logprobs=2)
    content = completion.choices[0].logprobs.content
    assert [(token.token, token.logprob, token.bytes) for token in content] == [
        ("H", -1.0, [72]), ("i", -0.5, [105]),
    ]  # fmt: skip
    assert [(top.token, top.logprob, top.bytes) for top in content[1].top_logprobs] == [
        ("i", -0.5, [105]), ("x", -4.0, [120]),
    ]  # fmt: skip
    assert world.engine.requests[0].top_logprobs == 2


async def test_without_alternatives_the_chosen_ones_come_alone(world: World) -> None:
    world.engine.play(Increment((*b"H", END), "stop", (TokenLogprobs(float("-inf")), TokenLogprobs(-1.0))))
    completion = await world.chat(logprobs=True)
    (token,) = completion.choices[0].logprobs.content
    assert (token.logprob, token.top_logprobs) == (-9999.0, [])
    assert world.engine.requests[0].top_logprobs == 0


async def test_the_bytes_of_split_characters_add_up_to_the_text(world: World) -> None:
    world.engine.play(likely("é😀!".encode()))
    completion = await world.chat(logprobs=True)
    content = completion.choices[0].logprobs.content
    assert bytes(byte for token in content for byte in token.bytes).decode() == "é😀!"
    assert [token.token for token in content[:2]] == ["bytes:\\xc3", "bytes:\\xa9"]
    assert content[-1].token == "!"


async def test_a_streams_deltas_carry_the_logprobs_of_their_own_text(world: World) -> None:
    world.engine.play(*[likely((byte,), end=False) for byte in "aé😀b".encode()], (END,))
    stream = await world.chat(logprobs=True, stream=True)
    deltas = [chunk.choices[0] async for chunk in stream]
    pairs = [(each.delta.content, each.logprobs) for each in deltas if each.delta.content]
    for text, logprobs in pairs:
        assert bytes(byte for token in logprobs.content for byte in token.bytes).decode() == text
    assert [text for text, _ in pairs] == ["a", "é", "😀", "b"]
    assert deltas[-1].logprobs is None


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_that_a_stop_string_cut_away_are_not_listed(world: World, *, stream: bool) -> None:
    world.engine.play(likely(b"one E", end=False), likely(b"N", end=False), likely(b"D two", end=False))
    answer = await world.chat(logprobs=True, stop="END", stream=stream)
    if stream:
        chunks = [chunk.choices[0] async for chunk in answer]
        tokens = [token for each in chunks if each.logprobs for token in each.logprobs.content]
    else:
        tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == "one "


async def test_a_completions_tokens_come_with_their_logprobs_and_places(world: World) -> None:
    world.engine.play(likely("é!x".encode()))
    completion = await world.complete(logprobs=1)
    found = completion.choices[0].logprobs
    assert found.tokens == ["bytes:\\xc3", "bytes:\\xa9", "!", "x"]
    assert found.text_offset == [0, 0, 1, 2]
    assert found.token_logprobs == [-1.0, -0.5, -1 / 3, -0.25]
    assert found.top_logprobs[2:] == [{"!": -1 / 3, "x": -4.0}, {"x": -0.25}]


async def test_a_completions_stream_has_logprobs(world: World) -> None:
    world.engine.play(likely(b"ab"))
    chunks = [chunk.choices[0] async for chunk in await world.complete(logprobs=0, stream=True)]
    assert [token for each in chunks if each.logprobs for token in each.logprobs.tokens] == ["a", "b"]
    with pytest.raises(openai.BadRequestError) as caught:
        await world.complete(logprobs=6)
    assert caught.value.param == "logprobs"


# JSON.


class Ticket(BaseModel):
    category: Literal["billing", "network"]
    priority: int


def grammar_schema(grammar: str | None) -> Any:
    assert grammar is not None
    return json.loads(grammar.removeprefix("start: %json "))


async def test_a_pydantic_model_is_what_parse_gives_back(world: World) -> None:
    world.say('{"category": "network", "priority": 2}')
    completion = await world.openai.chat.completions.parse(model=BASE, messages=HELLO, response_format=Ticket)
    assert completion.choices[0].message.parsed == Ticket(category="network", priority=2)
    schema = grammar_schema(world.engine.requests[0].grammar)
    assert schema["properties"]["category"]["enum"] == ["billing", "network"]
    assert schema["x-guidance"] == {
        "item_separator": ", ?", "key_separator": ": ?", "whitespace_flexible": False,
    }  # fmt: skip


async def test_a_parsed_stream_has_the_model_at_its_end(world: World) -> None:
    world.say('{"category": "billing", "priority": 1}')
    async with world.openai.chat.completions.stream(
        model=BASE, messages=HELLO, response_format=Ticket
    ) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == Ticket(category="billing", priority=1)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the client's, of its own message
async def test_a_parsed_answer_may_go_back_as_history(world: World) -> None:
    world.say('{"category": "billing", "priority": 1}', "Yes.")
    first = await world.openai.chat.completions.parse(model=BASE, messages=HELLO, response_format=Ticket)
    messages: Any = [*HELLO, first.choices[0].message, *HELLO]
    await world.chat(messages=messages)
    assert b'assistant: {"category"' in bytes(world.engine.requests[1].prompt_token_ids)


async def test_any_object_is_asked_for_without_a_schema(world: World) -> None:
    world.say("{}", "{}", "{}")
    await world.chat(response_format={"type": "json_object"})
    await world.chat(response_format={"type": "json_schema", "json_schema": {"name": "any"}})
    await world.chat(response_format={"type": "text"})
    for request in world.engine.requests[:2]:
        assert grammar_schema(request.grammar)["type"] == "object"
    assert world.engine.requests[2].grammar is None


async def test_a_json_answer_that_is_cut_says_so(world: World) -> None:
    world.engine.play(b'{"category": "net')
    with pytest.raises(openai.LengthFinishReasonError):
        await world.openai.chat.completions.parse(
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
    world: World, schema: dict[str, Any], reason: str
) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    with pytest.raises(openai.BadRequestError) as caught:
        await world.chat(response_format=wanted)
    assert caught.value.param == "response_format.json_schema.schema"
    assert caught.value.code == "invalid_schema"
    assert f"'response_format.json_schema.schema' cannot be enforced: {reason}" in str(caught.value)
    world.assert_all_is_free()


async def test_a_schema_with_half_a_character_is_refused(world: World) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"const": "\ud800"}}}
    body = json.dumps({"model": BASE, "messages": HELLO, "response_format": wanted})
    headers = {"Content-Type": "application/json"}
    response = await world.http.post("/v1/chat/completions", content=body, headers=headers)
    assert response.status_code == 400
    assert "it contains a lone surrogate" in response.json()["error"]["message"]


@pytest.mark.quiet
async def test_a_schema_that_takes_long_to_check_holds_nobody_up(world: World) -> None:
    texts = {f"p{index}": {"type": "string", "pattern": f"a{index}.*b"} for index in range(900)}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"properties": texts}}}
    world.say("{}")
    slow = asyncio.create_task(world.chat(response_format=wanted))
    gaps, last = [0.0], time.perf_counter()
    while not slow.done():
        await asyncio.sleep(0)
        gaps.append(time.perf_counter() - last)
        last = time.perf_counter()
    await slow
    # Sending it, and reading it, are the loop's; the check itself took some hundreds of milliseconds.
    assert len(gaps) > 100


# The client that is not asynchronous.


async def test_the_synchronous_client_is_served_over_a_socket(world: World) -> None:
    world.engine.play(likely(b'{"category": "billing", "priority": 1}'), (END,))
    world.say("one", "two", "Hi", "text")

    def ask(client: openai.OpenAI) -> tuple[ChatCompletion, ChatCompletion, list[ChatCompletionChunk], str]:
        parsed = client.chat.completions.parse(
            model=BASE, messages=HELLO, response_format=Ticket, logprobs=True, top_logprobs=2
        )
        several = client.chat.completions.create(model=BASE, messages=HELLO, n=2, seed=1)
        with client.chat.completions.create(model=BASE, messages=HELLO, stream=True) as stream:
            chunks = list(stream)
        text = client.completions.create(model=BASE, prompt="Once", logit_bias={"65": 1})
        return parsed, several, chunks, text.choices[0].text

    async with listening(world) as url:
        with openai.OpenAI(api_key="none", base_url=url, max_retries=0) as client:
            parsed, several, chunks, text = await asyncio.to_thread(ask, client)
    assert json.loads(parsed.choices[0].message.content or "") == {"category": "billing", "priority": 1}
    assert parsed.choices[0].logprobs is not None
    assert [choice.message.content for choice in several.choices] == ["one", "two"]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hi"
    assert text == "text"
