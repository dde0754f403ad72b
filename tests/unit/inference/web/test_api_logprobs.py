"""The log-probabilities of an answer's tokens."""

from __future__ import annotations

import openai
import pytest

from inference.engines.protocol import Increment, TokenLogprobs
from tests.doubles.openai_server import END, OpenaiServer, likely


async def test_a_chats_tokens_come_with_their_logprobs(openai_server: OpenaiServer) -> None:
    openai_server.engine.play(likely(b"Hi"))
    completion = await openai_server.chat(logprobs=True, top_logprobs=2)
    content = completion.choices[0].logprobs.content
    assert [(token.token, token.logprob, token.bytes) for token in content] == [
        ("H", -1.0, [72]), ("i", -0.5, [105]),
    ]  # fmt: skip
    assert [(top.token, top.logprob, top.bytes) for top in content[1].top_logprobs] == [
        ("i", -0.5, [105]), ("x", -4.0, [120]),
    ]  # fmt: skip
    assert openai_server.engine.requests[0].top_logprobs == 2


async def test_without_alternatives_the_chosen_ones_come_alone(openai_server: OpenaiServer) -> None:
    openai_server.engine.play(
        Increment((*b"H", END), "stop", (TokenLogprobs(float("-inf")), TokenLogprobs(-1.0)))
    )
    completion = await openai_server.chat(logprobs=True)
    (token,) = completion.choices[0].logprobs.content
    assert (token.logprob, token.top_logprobs) == (-9999.0, [])
    assert openai_server.engine.requests[0].top_logprobs == 0


async def test_the_bytes_of_split_characters_add_up_to_the_text(openai_server: OpenaiServer) -> None:
    openai_server.engine.play(likely("é😀!".encode()))
    completion = await openai_server.chat(logprobs=True)
    content = completion.choices[0].logprobs.content
    assert bytes(byte for token in content for byte in token.bytes).decode() == "é😀!"
    assert [token.token for token in content[:2]] == ["bytes:\\xc3", "bytes:\\xa9"]
    assert content[-1].token == "!"


async def test_a_streams_deltas_carry_the_logprobs_of_their_own_text(openai_server: OpenaiServer) -> None:
    openai_server.engine.play(*[likely((byte,), end=False) for byte in "aé😀b".encode()], (END,))
    stream = await openai_server.chat(logprobs=True, stream=True)
    deltas = [chunk.choices[0] async for chunk in stream]
    pairs = [(each.delta.content, each.logprobs) for each in deltas if each.delta.content]
    for text, logprobs in pairs:
        assert bytes(byte for token in logprobs.content for byte in token.bytes).decode() == text
    assert [text for text, _ in pairs] == ["a", "é", "😀", "b"]
    assert deltas[-1].logprobs is None


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_that_a_stop_string_cut_away_are_not_listed(
    openai_server: OpenaiServer, *, stream: bool
) -> None:
    openai_server.engine.play(
        likely(b"one E", end=False), likely(b"N", end=False), likely(b"D two", end=False)
    )
    answer = await openai_server.chat(logprobs=True, stop="END", stream=stream)
    if stream:
        chunks = [chunk.choices[0] async for chunk in answer]
        tokens = [token for each in chunks if each.logprobs for token in each.logprobs.content]
    else:
        tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == "one "


async def test_a_completions_tokens_come_with_their_logprobs_and_places(openai_server: OpenaiServer) -> None:
    openai_server.engine.play(likely("é!x".encode()))
    completion = await openai_server.complete(logprobs=1)
    found = completion.choices[0].logprobs
    assert found.tokens == ["bytes:\\xc3", "bytes:\\xa9", "!", "x"]
    assert found.text_offset == [0, 0, 1, 2]
    assert found.token_logprobs == [-1.0, -0.5, -1 / 3, -0.25]
    assert found.top_logprobs[2:] == [{"!": -1 / 3, "x": -4.0}, {"x": -0.25}]


async def test_a_completions_stream_has_logprobs(openai_server: OpenaiServer) -> None:
    openai_server.engine.play(likely(b"ab"))
    chunks = [chunk.choices[0] async for chunk in await openai_server.complete(logprobs=0, stream=True)]
    assert [token for each in chunks if each.logprobs for token in each.logprobs.tokens] == ["a", "b"]
    with pytest.raises(openai.BadRequestError) as caught:
        await openai_server.complete(logprobs=6)
    assert caught.value.param == "logprobs"
