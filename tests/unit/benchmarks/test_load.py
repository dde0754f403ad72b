from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

# The benchmarks are run from the repository's root and are no part of the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks.load import Load, Target, list_models, run_load
from benchmarks.prompts import make_prompts
from benchmarks.sse import RawResponse, read_events, read_sample

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}


def text(content: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}]}


def event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def response(*pieces: bytes, failure: str | None = None) -> RawResponse:
    timed = tuple((float(number), piece) for number, piece in enumerate(pieces, start=1))
    return RawResponse(0.0, float(len(pieces)), timed, failure)


def test_an_event_has_the_time_of_its_last_byte() -> None:
    pieces = [(1.0, b"data: on"), (2.0, b"e\n"), (3.0, b"\ndata: two\n\ndata: thr"), (4.0, b"ee\n\n")]
    assert list(read_events(pieces)) == [(3.0, b"one"), (3.0, b"two"), (4.0, b"three")]


def test_comments_other_fields_and_an_event_without_end_are_none() -> None:
    pieces = [(1.0, b": still there\n\nevent: x\nid: 7\ndata: one\n\n"), (2.0, b"data: cut of")]
    assert list(read_events(pieces)) == [(1.0, b"one")]


def test_lines_may_end_as_on_windows_and_an_event_may_have_several() -> None:
    # The pair that ends a line is itself cut in two.
    assert list(read_events([(1.0, b"data: a\r\ndata:b\r\n\r"), (2.0, b"\n")])) == [(2.0, b"a\nb")]


def test_a_sample_counts_the_servers_own_tokens() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}}
    stream = (
        event(ROLE),
        event(text("a")),
        event(text("b c")),
        event(END) + event(usage) + b"data: [DONE]\n\n",
    )
    sample = read_sample(response(*stream))
    assert sample.failure is None
    assert sample.text_times_s == (2.0, 3.0)
    assert sample.tokens == 9
    assert sample.is_cut


def test_without_a_count_each_piece_of_text_is_a_token() -> None:
    stop = {"choices": [{"index": 0, "delta": {"content": "!"}, "finish_reason": "stop"}]}
    sample = read_sample(response(event(text("a")), event(stop)))
    assert (sample.tokens, sample.is_cut, sample.failure) == (2, False, None)


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([event(text("a"))], "the stream ended without a finish reason"),
        ([], "the stream ended without a finish reason"),
        (
            [event(text("a")), event({"error": {"message": "gone"}})],
            "the stream ended with an error: {'message': 'gone'}",
        ),
        ([event({"id": 1})], "the stream is not one of chat completion chunks: KeyError: 'choices'"),
    ],
)
def test_an_answer_that_is_not_whole_is_a_failure(pieces: list[bytes], reason: str) -> None:
    assert read_sample(response(*pieces)).failure == reason


def test_what_failed_below_the_events_is_not_read_as_events() -> None:
    assert read_sample(response(b"Bad Gateway", failure="status 502")).failure == "status 502"


def test_prompts_are_a_function_of_their_seed_and_differ_from_the_first_word() -> None:
    prompts = make_prompts(10, "round-1")
    assert prompts == make_prompts(10, "round-1")
    assert prompts[:5] == make_prompts(5, "round-1")
    assert not set(prompts) & set(make_prompts(10, "round-2"))
    assert len({len(prompt.split()) for prompt in prompts}) == 5


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_post("/v1/chat/completions", handler)
    application.router.add_get("/v1/models", models)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def models(_request: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": "a"}, {"id": "b"}]})


class Model:
    """A server that answers with the requested number of words and records its requests."""

    def __init__(self, rendezvous: int = 1) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.most_at_once = 0
        self._at_once = 0
        # All requests wait until this many have arrived: a generator with fewer clients would hang.
        self._barrier = asyncio.Barrier(rendezvous)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.keys.add(request.headers.get("Authorization"))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        async with self._barrier:
            pass
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(event(ROLE))
        for _ in range(body["max_tokens"]):
            await response.write(event(text("word ")))
        usage = {"choices": [], "usage": {"completion_tokens": body["max_tokens"]}}
        await response.write(event(END) + event(usage) + b"data: [DONE]\n\n")
        self._at_once -= 1
        return response


async def test_clients_ask_at_once_and_everything_is_counted() -> None:
    model = Model(rendezvous=4)
    async with serving(model.answer) as address:
        target = Target(address, ("a", "b"), "a key", (("top_k", 1),))
        measured = await run_load(target, Load(clients=4, requests=8, max_tokens=20, warm_up=4), "seed")
    assert model.most_at_once == 4
    assert model.keys == {"Bearer a key"}
    assert (measured.clients, measured.requests, measured.errors) == (4, 8, 0)
    assert (measured.tokens, measured.ended_early) == (160, 0)
    assert measured.tokens_per_s == pytest.approx(160 / measured.duration_s)
    assert measured.time_to_first_token_s is not None
    assert measured.request_s is not None
    assert 0 < measured.time_to_first_token_s.p50 <= measured.request_s.p50 <= measured.duration_s
    warm_up, asked = model.bodies[:4], model.bodies[4:]
    assert {body["max_tokens"] for body in warm_up} == {16}
    assert {body["max_tokens"] for body in asked} == {20}
    assert sorted(body["model"] for body in asked) == ["a"] * 4 + ["b"] * 4
    assert all(body["stream"] is True and body["temperature"] == 0 and body["top_k"] == 1 for body in asked)


async def test_a_refusal_is_an_error_with_its_status_and_reason() -> None:
    async def refuse(_request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "too many"}}, status=429)

    async with serving(refuse) as address:
        measured = await run_load(Target(address, ("a",)), Load(1, 2), "seed")
    assert measured.errors == 2
    assert measured.failures[0].reason == 'status 429: {"error": {"message": "too many"}}'


async def test_a_broken_connection_is_an_error_and_the_load_goes_on() -> None:
    async def break_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(event(text("a")))
        assert request.transport is not None
        request.transport.abort()
        return response

    async with serving(break_off) as address:
        measured = await run_load(Target(address, ("a",)), Load(1, 3), "seed")
    assert measured.errors == 3
    assert measured.tokens == 0


async def test_a_silent_stream_is_an_error() -> None:
    async def say_nothing(_request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(say_nothing) as address:
        measured = await run_load(Target(address, ("a",)), Load(1, 1, time_limit_s=0.05), "seed")
    assert measured.failures[0].reason == "the stream was silent for too long"


async def test_nobody_there_is_an_error() -> None:
    async with serving(Model().answer) as address:
        pass
    measured = await run_load(Target(address, ("a",)), Load(1, 1), "seed")
    assert measured.failures[0].reason.startswith("ClientConnectorError: ")


async def test_the_models_that_a_server_lists() -> None:
    async with serving(Model().answer) as address:
        assert await list_models(Target(address, ("a",))) == ("a", "b")
