"""An evaluation that cannot succeed ends soon, and one that was interrupted has lost nothing."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from infra.errors import RemoteError, UsageError
from infra.evaluation import evaluation
from infra.evaluation.asking import Options, ask_all
from infra.evaluation.evaluation import MAX_EQUAL_FAILURES
from infra.verbs.evaluate import EvaluationRequest, evaluate
from tests.doubles.openai_server import listening

if TYPE_CHECKING:
    import io
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.requests import Request

    from infra.console import Console
    from infra.evaluation.results import Evaluation


@dataclass
class Picky:
    """A server with the model `it`, which answers with the text that is set.

    Attributes:
        text: The answer, as JSON has it.
        asked: How often each model was asked.
    """

    text: str = '"4"'
    asked: Counter[str] = field(default_factory=Counter)

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.asked[body["model"]] += 1
        if body["model"] != "it":
            error = {"message": f"The model {body['model']!r} does not exist.", "type": "x", "code": "y"}
            return JSONResponse({"error": error}, 404)
        chunk = '{"choices": [{"index": 0, "delta": {"content": TEXT}, "finish_reason": "stop"}]}'
        chunk = chunk.replace("TEXT", self.text)
        return StreamingResponse(
            iter([f"data: {chunk}\n\ndata: [DONE]\n\n".encode()]), media_type="text/event-stream"
        )

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/v1/chat/completions", self.answer, methods=["POST"])])


@pytest.fixture
def picky() -> Picky:
    return Picky()


@pytest.fixture
async def place(picky: Picky) -> AsyncIterator[str]:
    async with listening(picky.app) as address:
        yield address


def request_for(tmp_path: Path, place: str, *models: str, count: int = 100, **fields: Any) -> Any:
    data = tmp_path / "data.jsonl"
    data.write_text((json.dumps({"prompt": "2 + 2", "expected": "4"}) + "\n") * count)
    return EvaluationRequest(data, models, place, folder=tmp_path / "out", **fields)


async def run(request: EvaluationRequest, tmp_path: Path, console: Console) -> Evaluation:
    return await asyncio.to_thread(evaluate, request, tmp_path, console, None, {})


async def test_a_model_that_does_not_exist_is_not_asked_to_the_end(
    picky: Picky, place: str, tmp_path: Path, console: Console
) -> None:
    request = request_for(tmp_path, place, "it", "typo", concurrency=2)
    with pytest.raises(RemoteError, match="no request for 'typo'") as caught:
        await run(request, tmp_path, console)
    assert caught.value.details == ("The model 'typo' does not exist.",)
    assert f"--resume {tmp_path / 'out'}" in str(caught.value.hint)
    assert MAX_EQUAL_FAILURES <= picky.asked["typo"] < MAX_EQUAL_FAILURES + 4
    # The answers of the other model are kept.
    kept = (tmp_path / "out/answers.jsonl").read_text().count('"error": null')
    assert kept >= MAX_EQUAL_FAILURES - 2


async def test_an_interrupt_loses_no_answer(  # noqa: PLR0913, PLR0917
    picky: Picky,
    place: str,
    tmp_path: Path,
    console: Console,
    shown: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def interrupted(*arguments: Any, **options: Any) -> AsyncIterator[Any]:
        number = 0
        async for found in ask_all(*arguments, **options):
            yield found
            number += 1
            if number == 30:
                raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "ask_all", interrupted)
    request = request_for(tmp_path, place, "it", concurrency=1)
    caught: list[BaseException] = []

    def evaluate_once() -> None:
        try:
            evaluate(request, tmp_path, console, None, {})
        except KeyboardInterrupt as error:
            caught.append(error)

    await asyncio.to_thread(evaluate_once)
    assert len(caught) == 1
    assert f"--resume {tmp_path / 'out'} goes on from there" in shown.getvalue()
    asked = picky.asked["it"]
    monkeypatch.setattr(evaluation, "ask_all", ask_all)
    results = await run(request, tmp_path, console)
    assert results.models[0].scores["exact_match"].mean == 1
    assert picky.asked["it"] == asked + 70
    assert "70 answers, 30 kept from before" in shown.getvalue()


async def test_a_character_in_two_halves_is_an_answer(
    picky: Picky, place: str, tmp_path: Path, console: Console
) -> None:
    picky.text = '"4 \\ud83d"'
    results = await run(request_for(tmp_path, place, "it", count=1), tmp_path, console)
    assert results.rows[0].answers[0].text == "4 \ufffd"
    assert "4 \ufffd" in results.report.read_text(encoding="utf-8")


async def test_a_judge_that_scores_nothing_is_an_error(place: str, tmp_path: Path, console: Console) -> None:
    request = request_for(tmp_path, place, "it", count=3, judge="nobody")
    with pytest.raises(RemoteError, match=r"the judge 'nobody' at .* scored no answer") as caught:
        await run(request, tmp_path, console)
    assert "The model 'nobody' does not exist." in caught.value.details[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minimums": ("accuracy=0.5",)}, "there is no metric 'accuracy'"),
        ({"minimums": ("judge=0.5",)}, "there is no metric 'judge'"),
        ({"is_resumed": True}, "--resume .*out has no answers of an evaluation"),
        ({"limit": -1}, "--limit is at least 1"),
        ({"tolerance": -0.1}, "--tolerance is at least 0"),
        ({"options": Options(0)}, "--max-tokens is at least 1"),
        ({"options": Options(5, -1.0)}, "--temperature is at least 0"),
    ],
)
async def test_what_is_wrong_is_said_before_anything_is_asked(  # noqa: PLR0913, PLR0917
    picky: Picky, place: str, tmp_path: Path, console: Console, changes: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        await run(request_for(tmp_path, place, "it", **changes), tmp_path, console)
    assert not picky.asked
