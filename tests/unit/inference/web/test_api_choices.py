"""Several choices and several prompts in one request."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from inference.errors import EngineError
from inference.service.requests import Limits
from tests.doubles.openai_server import BASE, END, HELLO, OpenaiServer, listening, until


async def test_several_choices_are_several_requests_with_seeds_of_their_own(
    openai_server: OpenaiServer,
) -> None:
    openai_server.say("one", "two!", "three")
    completion = await openai_server.chat(n=3, seed=2**63 - 1)
    assert [(choice.index, choice.message.content) for choice in completion.choices] == [
        (0, "one"), (1, "two!"), (2, "three"),
    ]  # fmt: skip
    assert [request.sampling.seed for request in openai_server.engine.requests] == [2**63 - 1, 0, 1]
    prompt = len(openai_server.engine.requests[0].prompt_token_ids)
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (prompt, 4 + 5 + 6)
    openai_server.assert_all_is_free()


async def test_several_choices_are_streamed_side_by_side(openai_server: OpenaiServer) -> None:
    gate = asyncio.Event()
    openai_server.engine.play(b"o", gate, b"ne", (END,))
    openai_server.engine.play(b"two", (END,))
    texts, reasons, seen = ["", ""], [], []
    async with (
        listening(openai_server.app) as url,
        openai.AsyncOpenAI(api_key="none", base_url=url) as client,
    ):
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
    openai_server.assert_all_is_free()


async def test_each_event_may_have_the_usage_so_far(openai_server: OpenaiServer) -> None:
    for path in ("/v1/chat/completions", "/v1/completions"):
        openai_server.engine.play(b"o", b"ne", (END,))
        prompt = {"messages": HELLO} if "chat" in path else {"prompt": "Hello"}
        response = await openai_server.http.post(
            path,
            json={
                "model": BASE, "stream": True, **prompt,
                "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            },
        )  # fmt: skip
        *events, done = response.text.removesuffix("\n\n").split("\n\n")
        usages = [json.loads(event.removeprefix("data: "))["usage"] for event in events]
        assert done == "data: [DONE]"
        counts = [usage["completion_tokens"] for usage in usages]
        assert (counts[-1], sorted(counts), {1, 3, 4} <= set(counts)) == (4, counts, True)
        length = len(openai_server.engine.requests[-1].prompt_token_ids)
        assert {usage["prompt_tokens"] for usage in usages} == {length}


async def test_choices_that_do_not_fit_into_the_queue_leave_nothing_behind(
    openai_server: OpenaiServer,
) -> None:
    gate = asyncio.Event()
    openai_server.engine.play(gate, (END,))
    inside = asyncio.create_task(openai_server.chat())
    await until(lambda: openai_server.engine.running == 1)
    openai_server.say("a", "b", "c", "d")
    four = asyncio.create_task(openai_server.chat(n=4))
    await until(lambda: openai_server.service.queue.waiting == 1)
    with pytest.raises(openai.RateLimitError):
        await openai_server.chat(n=2)
    assert (openai_server.service.queue.slots_in_use, openai_server.service.queue.waiting) == (1, 1)
    assert len(openai_server.engine.requests) == 1
    gate.set()
    assert {choice.message.content for choice in (await four).choices} == set("abcd")
    await inside
    openai_server.assert_all_is_free()


@pytest.mark.parametrize("limits", [Limits(4, 1), Limits(9, 1, max_per_key=4)])
@pytest.mark.parametrize(
    ("prompts", "n", "param"), [(1, 6, "n"), (6, 1, "prompt"), (3, 2, "prompt"), (2, 6, "n")]
)
async def test_more_choices_than_a_request_can_have_are_refused_by_who_asks_for_them(
    limits: Limits, prompts: int, n: int, param: str
) -> None:
    openai_server = OpenaiServer(limits)
    with pytest.raises(openai.BadRequestError) as caught:
        await openai_server.complete(prompt=["a"] * prompts, n=n)
    assert caught.value.param == param
    assert (
        f"The request asks for {prompts * n} answers, and this server gives 4 at once. Ask for fewer."
        in str(caught.value)
    )
    assert openai_server.engine.requests == []
    openai_server.assert_all_is_free()
    await openai_server.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_choice_that_fails_frees_all(openai_server: OpenaiServer, *, stream: bool) -> None:
    openai_server.engine.play(b"half", asyncio.Event())
    openai_server.engine.play(b"of it", EngineError("out of memory"))
    with pytest.raises(openai.APIError, match="The engine failed before the answer was complete"):
        async for _ in await openai_server.chat(n=2, stream=stream):
            pass
    openai_server.assert_all_is_free()


async def test_a_client_that_leaves_frees_all(openai_server: OpenaiServer) -> None:
    for _ in range(4):
        openai_server.engine.play(b"talking", asyncio.Event())
    async with (
        listening(openai_server.app) as url,
        openai.AsyncOpenAI(api_key="none", base_url=url) as client,
    ):
        stream = await client.chat.completions.create(model=BASE, messages=HELLO, n=4, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        assert (openai_server.service.queue.slots_in_use, openai_server.service.queue.waiting) == (4, 0)
        await stream.close()
        await until(
            lambda: openai_server.service.queue.slots_in_use + openai_server.service.queue.waiting == 0
        )
    openai_server.assert_all_is_free()
    assert len(openai_server.engine.cancelled) == 4


async def test_the_time_runs_out_for_all_choices() -> None:
    openai_server = OpenaiServer(Limits(max_concurrent=2, max_waiting=1, request_timeout_s=0.05))
    openai_server.engine.play(b"slow", asyncio.Event())
    with pytest.raises(openai.InternalServerError, match="The request timed out"):
        await openai_server.chat(n=2)
    openai_server.assert_all_is_free()
    await openai_server.close()


@pytest.mark.parametrize(
    "prompt", [["Once", "Twice"], [list(b"Once"), list(b"Twice")]], ids=["texts", "token lists"]
)
async def test_several_prompts_are_continued_in_their_order(openai_server: OpenaiServer, prompt: Any) -> None:
    openai_server.say("1a", "1b", "2a", "2b")
    completion = await openai_server.complete(prompt=prompt, n=2, seed=3)
    assert [(choice.index, choice.text) for choice in completion.choices] == [
        (0, "1a"), (1, "1b"), (2, "2a"), (3, "2b"),
    ]  # fmt: skip
    requests = openai_server.engine.requests
    assert [bytes(request.prompt_token_ids) for request in requests] == [b"Once", b"Once", b"Twice", b"Twice"]
    assert [request.sampling.seed for request in requests] == [3, 4, 3, 4]
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (9, 12)


async def test_several_prompts_are_streamed(openai_server: OpenaiServer) -> None:
    openai_server.say("one", "two")
    texts = ["", ""]
    async for chunk in await openai_server.complete(prompt=["a", "b"], stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["one", "two"]


@pytest.mark.parametrize("prompt", [["Once", 5], [[1], "a"], [[[1]]], [True], {"a": 1}, 5, ["a", ["b"]]])
async def test_a_prompt_of_another_form_is_refused(openai_server: OpenaiServer, prompt: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await openai_server.complete(prompt=prompt)
    assert caught.value.param == "prompt"
    assert "a prompt is a text, a list of texts, a list of token ids, or a list of such lists" in str(
        caught.value
    )
