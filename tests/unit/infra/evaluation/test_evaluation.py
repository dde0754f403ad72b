"""`invoke evaluate` from a file to its report, against the real server with scripted answers."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from infra.errors import RemoteError, UsageError
from infra.evaluation.asking import Endpoint, Options, list_models
from infra.evaluation.examples import Columns
from infra.verbs.evaluate import EvaluationRequest, evaluate
from tests.doubles.openai_server import BASE

if TYPE_CHECKING:
    import io
    from collections.abc import Sequence
    from pathlib import Path

    from infra.console import Console
    from infra.evaluation.results import Evaluation
    from tests.doubles.openai_server import OpenaiServer


def write_data(folder: Path, *pairs: Sequence[str]) -> Path:
    path = folder / "sums.jsonl"
    path.write_text("".join(json.dumps({"prompt": q, "expected": a}) + "\n" for q, a in pairs))
    return path


@pytest.fixture
def request_(tmp_path: Path, address: str) -> EvaluationRequest:
    """One model, under two names; one request at a time, so that the order of the answers is known."""
    data = write_data(tmp_path, ("2 + 2", "4"), ("3 + 3", "6"))
    models = (BASE, f"{BASE}@{address}")
    return EvaluationRequest(
        data, models, address, concurrency=1, folder=tmp_path / "out", options=Options(max_tokens=20)
    )


async def run(request: EvaluationRequest, folder: Path, console: Console) -> Evaluation:
    return await asyncio.to_thread(evaluate, request, folder, console, None, {"OPENAI_API_KEY": "k"})


async def test_two_models_are_compared(
    request_: EvaluationRequest, server: OpenaiServer, tmp_path: Path, console: Console, shown: io.StringIO
) -> None:
    server.say("5", "4", "6", "6")
    results = await run(request_, tmp_path, console)
    assert [model.scores["exact_match"].mean for model in results.models] == [0.5, 1.0]
    document = results.to_json()
    assert document["examples"] == 2
    comparison = document["comparisons"][0]  # type: ignore[index]
    assert (comparison["metric"], comparison["better"], comparison["worse"]) == ("exact_match", 1, 0)
    assert json.loads((results.folder / "results.json").read_text()) == json.loads(json.dumps(document))
    assert "exact_match" in results.to_text()
    assert str(results.report) in results.to_text()
    assert "ask the models: 4 answers" in shown.getvalue()
    # Both were asked the same, in turn, and nothing but what was to be sent.
    prompts = [bytes(each.prompt_token_ids).decode() for each in server.engine.requests]
    assert prompts[0] == prompts[1] != prompts[2] == prompts[3]
    assert {each.sampling.temperature for each in server.engine.requests} == {0.0}
    assert {each.max_new_tokens for each in server.engine.requests} == {20}


async def test_answers_have_their_times_and_tokens(
    request_: EvaluationRequest, server: OpenaiServer, tmp_path: Path, console: Console
) -> None:
    server.say("4", "4", "6", "6")
    results = await run(request_, tmp_path, console)
    model = results.models[0]
    assert model.duration_s is not None
    assert model.time_to_first_token_s is not None
    assert 0 < model.time_to_first_token_s.p50 <= model.duration_s.p50
    assert model.completion_tokens == 4
    assert model.prompt_tokens > 0


async def test_an_interrupted_evaluation_asks_only_what_it_lacks(
    request_: EvaluationRequest, server: OpenaiServer, tmp_path: Path, console: Console
) -> None:
    server.say("4", "4", "6", "6")
    await run(request_, tmp_path, console)
    path = tmp_path / "out/answers.jsonl"
    lines = path.read_text().splitlines()
    assert len(lines) == 4
    path.write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])  # the last line was being written
    server.say("7")
    results = await run(request_, tmp_path, console)
    assert len(server.engine.requests) == 5
    assert [model.scores["exact_match"].mean for model in results.models] == [1.0, 0.5]
    # The file is whole again, and now nothing is asked.
    await run(request_, tmp_path, console)
    assert len(server.engine.requests) == 5
    # With other options the answers are others.
    server.say("4", "4", "6", "6")
    await run(replace(request_, options=Options(max_tokens=21)), tmp_path, console)
    assert len(server.engine.requests) == 9


async def test_a_failed_request_is_a_wrong_answer_and_is_asked_again(
    tmp_path: Path, address: str, server: OpenaiServer, console: Console
) -> None:
    data = write_data(tmp_path, ("x" * 6000, "4"), ("3 + 3", "6"))  # longer than the context
    request = EvaluationRequest(data, (BASE,), address, concurrency=1, folder=tmp_path / "out")
    server.say("6")
    results = await run(request, tmp_path, console)
    assert results.models[0].failures == 1
    assert results.models[0].scores["exact_match"].mean == 0.5
    failed = next(row for row in results.rows if row.answers[0].error)
    assert "5000" in str(failed.answers[0].error)
    assert results.rows[0] is failed
    await run(request, tmp_path, console)
    assert len((tmp_path / "out/answers.jsonl").read_text().splitlines()) == 3


async def test_a_model_that_never_answers_is_an_error(
    request_: EvaluationRequest, tmp_path: Path, console: Console, server: OpenaiServer
) -> None:
    server.say("4", "6")
    with pytest.raises(RemoteError, match="no request for 'other'") as caught:
        await run(replace(request_, models=(BASE, "other")), tmp_path, console)
    assert "other" in caught.value.details[0]


async def test_the_models_are_those_that_the_endpoint_lists(
    request_: EvaluationRequest, server: OpenaiServer, tmp_path: Path, console: Console, address: str
) -> None:
    server.say("4", "6")
    results = await run(replace(request_, models=()), tmp_path, console)
    assert [model.name for model in results.models] == [BASE]
    assert results.comparisons == ()
    assert await list_models(Endpoint(address)) == (BASE,)


async def test_requirements(
    request_: EvaluationRequest, server: OpenaiServer, tmp_path: Path, console: Console
) -> None:
    server.say("4", "5", "6", "6")
    results = await run(replace(request_, minimums=("exact_match=0.8",)), tmp_path, console)
    name = request_.models[1]
    assert results.unmet == (f"exact_match of {name} is 0.500, and must be at least 0.8",)
    assert results.unmet[0] in results.to_text()
    again = replace(request_, minimums=("exact_match=0.5",), not_worse=True)
    assert (await run(again, tmp_path, console)).unmet == ()  # chance explains one example
    with pytest.raises(UsageError, match="no metric 'accuracy'"):
        await run(replace(request_, minimums=("accuracy=0.5",)), tmp_path, console)


async def test_worse_than_chance_explains(
    request_: EvaluationRequest, server: OpenaiServer, tmp_path: Path, console: Console
) -> None:
    data = write_data(tmp_path, *[(f"{index} + 0", str(index)) for index in range(8)])
    server.say(*(text for index in range(8) for text in (str(index), "9")))
    results = await run(replace(request_, data=data, not_worse=True), tmp_path, console)
    assert results.unmet[0].startswith(
        f"exact_match of {request_.models[1]} is lower than that of {BASE} by 1"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"endpoint": "here"}, "'here' is not the address of a server"),
        ({"models": (BASE, BASE)}, "a model is named twice"),
        ({"models": (BASE,), "endpoint": None}, "where is the model"),
        ({"models": (), "endpoint": None}, "no model is named"),
        ({"minimums": ("exact_match",)}, "is not METRIC=NUMBER"),
        ({"minimums": ("exact_match=2",)}, "is not METRIC=NUMBER"),
        ({"concurrency": 0}, "--concurrency is at least 1"),
        ({"columns": Columns("no")}, "2 examples that cannot be used"),
    ],
)
async def test_wrong_flags(
    request_: EvaluationRequest, tmp_path: Path, console: Console, changes: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        await run(replace(request_, **changes), tmp_path, console)


def test_the_stage_is_needed_only_for_models_that_are_there(tmp_path: Path) -> None:
    request = EvaluationRequest(tmp_path)
    assert request.needs_stage
    assert not replace(request, endpoint="http://host").needs_stage
    assert not replace(request, models=("a@http://host",)).needs_stage
    assert replace(request, models=("a@http://host",), judge="b").needs_stage
