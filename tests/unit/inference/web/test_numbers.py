"""Numbers of any size in a request's fields, and what the engine cannot compute with."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.errors import RequestRefusedError, ScoresError
from tests.doubles.serving import BASE, ENDED, HELLO, KEY, Served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FLOATS = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
INTEGERS = ("top_k", "seed")
EXTREMES = (
    "0", "-0.0", "5e-324", "1e-400", "1e-45", "1e-38", "0.01", "1", "2", "1e30", "3.5e38", "1e308", "1e400",
    "-1e-38", "-1", "-1e400", "NaN", "Infinity", "-Infinity", "9223372036854775807", "9223372036854775808",
    "-9223372036854775809", "1180591620717411303424", "1" + "0" * 400,
)  # fmt: skip
NUMBERS = st.sampled_from(EXTREMES) | st.floats().map(json.dumps) | st.integers().map(str)


async def post(served: Served, fields: str) -> Any:
    body = f'{{"model": "{BASE}", "messages": {json.dumps(HELLO)}, {fields}}}'
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    return await served.http.post("/v1/chat/completions", content=body, headers=headers)


async def judge(served: Served, field: str, number: str) -> None:
    """A number is taken, and is then one that engines can compute with, or its field is named."""
    served.engine.requests.clear()
    served.engine.play(ENDED)
    value = f'{{"5": {number}}}' if field == "logit_bias" else number
    response = await post(served, f'"{field}": {value}')
    if response.status_code == 200:
        (request,) = served.engine.requests
        assert request.sampling.is_finite
        assert 0 <= request.sampling.top_k < 2**31
        assert -(2**63) <= (request.sampling.seed or 0) < 2**63
    else:
        error = response.json()["error"]
        assert (response.status_code, error["type"]) == (400, "invalid_request_error")
        assert (error["param"] or "").startswith(field), error


@pytest.mark.parametrize("field", [*FLOATS, *INTEGERS, "logit_bias"])
def test_a_number_of_any_size_is_taken_or_refused_by_its_field(field: str) -> None:
    # One application for all numbers, in one event loop.
    with asyncio.Runner() as runner:
        served = Served()

        @given(NUMBERS)
        @settings(max_examples=40)
        def ask(number: str) -> None:
            runner.run(judge(served, field, number))

        ask()
        runner.run(served.close())


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served = Served()
    yield served
    await served.close()


async def test_scores_that_are_no_numbers_end_a_request_with_an_error_that_says_so(served: Served) -> None:
    served.engine.play(b"ab", ScoresError(2))
    response = await post(served, '"temperature": 0')
    assert response.status_code == 500
    assert response.headers["x-should-retry"] == "false"
    assert response.json()["error"] == {
        "message": "The model's scores are not finite numbers after 2 tokens: its weights or this request's"
        " parameters are too large for its precision.",
        "type": "server_error",
        "param": None,
        "code": "scores_not_finite",
    }
    served.engine.play(ENDED)
    assert (await post(served, '"temperature": 0')).status_code == 200


async def test_what_the_engine_does_not_take_is_the_client_s_error(served: Served) -> None:
    served.engine.play(RequestRefusedError("the prompt has the token 300, and the model has 256"))
    response = await post(served, '"temperature": 0')
    assert response.status_code == 400
    assert response.json()["error"] == {
        "message": "The prompt has the token 300, and the model has 256.",
        "type": "invalid_request_error",
        "param": None,
        "code": "refused_by_engine",
    }
