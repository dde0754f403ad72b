"""`prompt_logprobs`, as vLLM has it: the log-probabilities of a prompt's tokens, beside the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
import pytest

from inference.engines.protocol import Increment, TokenLogprobs
from inference.service.logprobs import MIN_LOGPROB
from tests.doubles.model_server import ModelServer, make_codec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

CODEC = make_codec("{% for message in messages %}{{ message.content }}{% endfor %}")
PROMPT = "Once"
HELLO: Any = [{"role": "user", "content": PROMPT}]
MODEL = "plain"


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    server = ModelServer({MODEL: CODEC})
    yield server
    await server.close()


def chat(server: ModelServer, **fields: Any) -> Awaitable[Any]:
    return server.openai.chat.completions.create(model=MODEL, messages=HELLO, extra_body=fields)


def complete(server: ModelServer, **fields: Any) -> Awaitable[Any]:
    return server.openai.completions.create(model=MODEL, prompt=PROMPT, extra_body=fields)


def score(*, likeliest: int = 2) -> Increment:
    """An answer to the prompt, each token of which is the third at its place, after x and y."""
    (x,), (y,) = CODEC.encode("x"), CODEC.encode("y")
    top = ((x, -0.5), (y, -1.5))[:likeliest]
    entries = tuple(TokenLogprobs(-3.0 - place, top, 3) for place in range(len(PROMPT) - 1))
    return Increment((*CODEC.encode("!"), 0), "stop", (TokenLogprobs(-1.0, top),) * 2, entries)


@pytest.mark.parametrize("ask", [chat, complete])
async def test_each_token_has_its_own_and_the_likeliest(server: ModelServer, ask: Any) -> None:
    server.engine.play(score())
    answer = (await ask(server, prompt_logprobs=2)).model_dump()
    whole = answer if ask is chat else answer["choices"][0]
    first, *others = whole["prompt_logprobs"]
    assert first is None
    (x,), (y,) = CODEC.encode("x"), CODEC.encode("y")
    for place, (letter, entry) in enumerate(zip(PROMPT[1:], others, strict=True)):
        (token,) = CODEC.encode(letter)
        # vLLM has the prompt's own token first.
        assert list(entry.items()) == [
            (str(token), {"logprob": -3.0 - place, "rank": 3, "decoded_token": letter}),
            (str(x), {"logprob": -0.5, "rank": 1, "decoded_token": "x"}),
            (str(y), {"logprob": -1.5, "rank": 2, "decoded_token": "y"}),
        ]
    assert server.engine.requests[0].prompt_logprobs == 2
    assert answer["choices"][0].get("logprobs") is None


async def test_a_prompt_token_that_is_among_the_likeliest_is_listed_once(server: ModelServer) -> None:
    token = CODEC.encode(PROMPT[1])[0]
    own = TokenLogprobs(-0.5, ((token, -0.5),), 1)
    unknown = TokenLogprobs(float("-inf"), (), None)
    server.engine.play(Increment((0,), "stop", (), (own, unknown, unknown)))
    (choice,) = (await complete(server, prompt_logprobs=1)).choices
    assert choice.prompt_logprobs[1] == {str(token): {"logprob": -0.5, "rank": 1, "decoded_token": PROMPT[1]}}
    # JSON has no infinity.
    (entry,) = choice.prompt_logprobs[2].values()
    assert entry == {"logprob": MIN_LOGPROB, "rank": None, "decoded_token": PROMPT[2]}


async def test_it_goes_with_an_echo_that_lists_fewer(server: ModelServer) -> None:
    server.engine.play(score())
    (choice,) = (await complete(server, prompt_logprobs=2, echo=True, logprobs=1, max_tokens=0)).choices
    assert server.engine.requests[0].prompt_logprobs == 2
    assert choice.text == PROMPT
    assert choice.logprobs.token_logprobs == [None, -3.0, -4.0, -5.0]
    assert choice.logprobs.top_logprobs[1].keys() == {"x", PROMPT[1]}
    assert [len(entry) for entry in choice.prompt_logprobs[1:]] == [3, 3, 3]


async def test_none_are_listed_with_zero_or_without_the_field(server: ModelServer) -> None:
    server.engine.play(score(likeliest=0))
    answer = (await chat(server, prompt_logprobs=0)).model_dump()
    assert [len(entry) for entry in answer["prompt_logprobs"][1:]] == [1, 1, 1]
    server.engine.play(score())
    assert "prompt_logprobs" not in (await chat(server)).model_dump()


@pytest.mark.parametrize("ask", [chat, complete])
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"prompt_logprobs": -1}, "greater than or equal to 0"),
        ({"prompt_logprobs": 21}, "less than or equal to 20"),
        ({"prompt_logprobs": 1.5}, "integer"),
        ({"prompt_logprobs": 0, "stream": True}, "not available with 'stream': true"),
    ],
)
async def test_what_cannot_be_listed_is_refused(
    server: ModelServer, ask: Any, fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=reason) as caught:
        await ask(server, **fields)
    assert caught.value.param == "prompt_logprobs"


async def test_an_engine_that_has_none_says_so_by_the_field(server: ModelServer) -> None:
    server.engine.abilities = frozenset()
    with pytest.raises(openai.BadRequestError) as caught:
        await chat(server, prompt_logprobs=1)
    assert (caught.value.param, caught.value.code) == ("prompt_logprobs", "unsupported")
