"""`invoke evaluate` against servers that lack fields, limit the rate, fail, or send what is no answer."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from infra.evaluation.asking import Answer, Candidate, Endpoint, Options, Question, ask_all
from infra.evaluation.examples import Example
from infra.evaluation.judge import Judge, judge_all
from infra.evaluation.tolerance import MAX_LIMITED_RETRIES, MAX_RETRIES, find_wait_s
from infra.verbs.evaluate import EvaluationRequest, evaluate
from tests.doubles.openai_server import listening

if TYPE_CHECKING:
    import io
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.requests import Request

    from infra.console import Console

TEXT = "forty-two"
CHUNK: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": TEXT}, "finish_reason": "stop"}]}


def events(*data: object) -> Response:
    """Return a stream of events, each with its data as JSON, or as they are if they are a text."""
    texts = [each if isinstance(each, str) else json.dumps(each) for each in data]
    return StreamingResponse(
        iter([f"data: {text}\n\n".encode() for text in texts]), media_type="text/event-stream"
    )


def refuse(status: int, message: str, *, code: str | None = None, **headers: str) -> Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse(
        {"error": error}, status, {name.replace("_", "-"): text for name, text in headers.items()}
    )


@dataclass
class Foreign:
    """A plain server: it gives the responses that are set, then the answer.

    Attributes:
        responses: What the next requests get.
        refused: Fields that it does not know.
        has_own_errors: Its errors have FastAPI's form, not OpenAI's.
        bodies: What it was sent.
    """

    responses: list[Response] = field(default_factory=list)
    refused: frozenset[str] = frozenset()
    has_own_errors: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        unknown = sorted(self.refused & body.keys())
        if unknown and self.has_own_errors:
            detail = [{"loc": ["body", name], "msg": "Extra inputs are not permitted"} for name in unknown]
            return JSONResponse({"detail": detail}, 422)
        if unknown:
            return refuse(400, f"Unsupported parameter: '{unknown[0]}' is not supported with this model.")
        return self.responses.pop(0) if self.responses else events(CHUNK, "[DONE]")

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/v1/chat/completions", self.answer, methods=["POST"])])


@pytest.fixture
def foreign() -> Foreign:
    return Foreign()


@pytest.fixture
async def place(foreign: Foreign) -> AsyncIterator[str]:
    async with listening(foreign.app) as address:
        yield address


class Asking:
    """Asks a server the same question several times, without waiting between the requests of one."""

    def __init__(self, address: str) -> None:
        self.waits: list[float] = []
        self.notes: list[str] = []
        self._endpoint = Endpoint(address)

    async def ask(self, count: int = 1, **options: Any) -> list[Answer]:
        candidate = Candidate("it", "it", self._endpoint)
        questions = [
            Question(candidate, Example(str(number), ({"role": "user", "content": "?"},), ()))
            for number in range(count)
        ]
        found = ask_all(questions, Options(**options), 4, sleep=self._sleep, notify=self.notes.append)
        async with asyncio.timeout(60):
            return [answer async for _, answer in found]

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.mark.parametrize("has_own_errors", [False, True])
async def test_fields_that_a_server_refuses_are_left_out_from_then_on(
    foreign: Foreign, place: str, *, has_own_errors: bool
) -> None:
    foreign.has_own_errors = has_own_errors
    foreign.refused = frozenset({"stream_options", "seed", "max_tokens", "temperature"})
    asking = Asking(place)
    answers = await asking.ask(8, seed=7)
    assert [(answer.text, answer.error) for answer in answers] == [(TEXT, None)] * 8
    assert foreign.bodies[-1].keys() == {"model", "messages", "stream", "max_completion_tokens"}
    assert foreign.bodies[-1]["max_completion_tokens"] == 512
    # Requests that were under way together are refused together; each field is mentioned once.
    assert sorted(note.partition(" takes no ")[2] for note in asking.notes) == [
        "'seed': another run may give other answers",
        "'stream_options': the numbers of tokens are unknown",
        "'temperature': the answers are sampled as the server likes",
    ]
    assert asking.waits == []


async def test_another_error_that_names_a_field_is_no_refusal(foreign: Foreign, place: str) -> None:
    message = "The context is 500 tokens; lower max_tokens."
    foreign.responses = [refuse(400, message, code="context_length_exceeded")]
    (answer,) = await Asking(place).ask()
    assert answer.error == message
    assert len(foreign.bodies) == 1


async def test_an_error_of_another_form_is_shown_whole(foreign: Foreign, place: str) -> None:
    foreign.responses = [JSONResponse({"detail": "No such model"}, 404)]
    (answer,) = await Asking(place).ask()
    assert answer.error == "Error code: 404: {'detail': 'No such model'}"


async def test_a_limit_of_the_rate_is_waited_for_as_long_as_the_server_says(
    foreign: Foreign, place: str
) -> None:
    foreign.responses = [refuse(429, "Slow down", retry_after="3") for _ in range(MAX_RETRIES + 3)]
    asking = Asking(place)
    (answer,) = await asking.ask()
    assert (answer.text, answer.error) == (TEXT, None)
    assert asking.waits == [3.0] * (MAX_RETRIES + 3)
    assert answer.duration_s < 20


async def test_a_server_that_goes_on_failing_is_given_up(foreign: Foreign, place: str) -> None:
    foreign.responses = [refuse(500, "Broken") for _ in range(MAX_RETRIES + 1)]
    asking = Asking(place)
    (answer,) = await asking.ask()
    assert (answer.text, answer.error) == ("", "Broken")
    assert asking.waits == [0.5, 1.0, 2.0, 4.0]
    assert len(foreign.bodies) == MAX_RETRIES + 1


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (events("{broken", "[DONE]"), "what is no part of an answer"),
        (events("[1, 2]", "[DONE]"), "what is no part of an answer"),
        (events({"choices": [{"delta": "no object"}]}), "what is no part of an answer"),
        (events("[DONE]"), "no answer; can it stream?"),
        (events({"choices": None}, {"choices": [{"index": 0, "delta": None}]}), "no answer; can it stream?"),
        (JSONResponse({"choices": [{"message": {"content": TEXT}}]}), "no answer; can it stream?"),
        (Response("<html>Sign in</html>", media_type="text/html"), "no answer; can it stream?"),
        (events({"error": {"message": "Out of memory"}}), "Out of memory"),
    ],
)
async def test_what_is_no_answer_is_an_error_of_its_question_alone(
    foreign: Foreign, place: str, response: Response, reason: str
) -> None:
    foreign.responses = [response]
    answers = await Asking(place).ask(3)
    (failed,) = [answer for answer in answers if answer.error is not None]
    assert reason in str(failed.error)
    assert sum(answer.text == TEXT for answer in answers) == 2


async def test_counts_that_are_no_numbers_count_as_none(foreign: Foreign, place: str) -> None:
    usage = {"prompt_tokens": None, "completion_tokens": "7"}
    foreign.responses = [events(CHUNK | {"usage": usage}, "[DONE]")]
    (answer,) = await Asking(place).ask()
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == (TEXT, 0, 0)


async def test_what_is_no_judgement_is_none(foreign: Foreign, place: str) -> None:
    foreign.responses = [JSONResponse({"choices": []}), JSONResponse([1])]
    example, answer = Example("1", ({"role": "user", "content": "?"},), ()), Answer("it", "1", TEXT)
    judge = Judge("judge", Endpoint(place))
    judgements = await judge_all(judge, [(example, answer)] * 2, 1, lambda: None)
    assert [judgement.score for judgement in judgements] == [None, None]
    assert all("no answer" in judgement.reason for judgement in judgements)


async def test_the_verb_warns_and_goes_on_with_what_it_has(
    foreign: Foreign, place: str, tmp_path: Path, console: Console, shown: io.StringIO
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": str(n), "expected": TEXT}) + "\n" for n in range(3)))
    foreign.refused = frozenset({"seed"})
    foreign.responses = [refuse(403, "Not today")]
    request = EvaluationRequest(
        data, ("it",), place, concurrency=1, folder=tmp_path / "out", options=Options(seed=1)
    )
    first = await asyncio.to_thread(evaluate, request, tmp_path, console, None, {})
    assert first.models[0].failures == 1
    assert "warning:" in shown.getvalue()
    assert "takes no 'seed'" in " ".join(shown.getvalue().split())
    sent = len(foreign.bodies)
    again = await asyncio.to_thread(evaluate, request, tmp_path, console, None, {})
    assert again.models[0].failures == 0
    assert again.models[0].scores["exact_match"].mean == 1.0
    # The one that failed is asked again, with the refused field and then without it.
    assert len(foreign.bodies) == sent + 2


def status_error(status: int, code: str | None = None, **headers: str) -> openai.APIStatusError:
    request = httpx.Request("POST", "http://server")
    response = httpx.Response(status, headers=headers, request=request)
    return openai.APIStatusError("no", response=response, body={"code": code})


@pytest.mark.parametrize(
    ("error", "failures", "wait_s"),
    [
        (status_error(429), 0, 0.5),
        (status_error(429), 20, 30.0),
        (status_error(429, **{"retry-after": "100000"}), 0, 120.0),
        (status_error(429, **{"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}), 1, 1.0),
        (status_error(429, **{"retry-after": "nan"}), 1, 1.0),
        (status_error(429), MAX_LIMITED_RETRIES, None),
        (status_error(429, "insufficient_quota"), 0, None),
        (status_error(503), 0, 0.5),
        (status_error(503, **{"x-should-retry": "false"}), 0, None),
        (status_error(404), 0, None),
        (openai.APIConnectionError(request=httpx.Request("POST", "http://server")), 2, 2.0),
        (openai.APITimeoutError(httpx.Request("POST", "http://server")), 0, None),
    ],
)
def test_how_long_to_wait(error: Exception, failures: int, wait_s: float | None) -> None:
    assert find_wait_s(error, failures) == wait_s
