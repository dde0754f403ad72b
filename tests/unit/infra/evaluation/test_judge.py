"""A model that scores answers."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from infra.errors import UsageError
from infra.evaluation.judge import read_judgement
from infra.verbs.evaluate import EvaluationRequest, evaluate
from tests.doubles.openai_server import BASE

if TYPE_CHECKING:
    from pathlib import Path

    from infra.console import Console
    from tests.doubles.openai_server import OpenaiServer


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"reason": "right", "score": 5}', 1.0), ('{"reason": "wrong", "score": 1}', 0.0),
        ('```json\n{"reason": "so so", "score": 3}\n```', 0.5), ("I think. Score: 4", 0.75),
        ('{"score": 9}', None), ('{"score": "4"}', 0.75), ("Score: 10", None), ("no idea", None), ("", None),
        ('{"score": -1}', None),
    ],
)  # fmt: skip
def test_what_a_judge_says(text: str, score: float | None) -> None:
    assert read_judgement(text).score == score


async def test_a_judge_scores_every_answer_and_does_not_learn_whose_it_is(
    server: OpenaiServer, address: str, tmp_path: Path, console: Console
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"prompt": "Who?", "expected": "Ann"}) + "\n")
    instructions = tmp_path / "judge.txt"
    instructions.write_text("Be fair.")
    request = EvaluationRequest(
        data, (BASE,), address, concurrency=1, folder=tmp_path, judge=BASE, judge_prompt=instructions
    )
    server.say("It is Ann", '{"reason": "the same", "score": 5}')
    results = await asyncio.to_thread(evaluate, request, tmp_path, console, None, {})
    assert results.metrics[0] == "judge"
    assert results.models[0].scores["judge"].mean == 1
    assert results.models[0].scores["exact_match"].mean == 0
    asked = bytes(server.engine.requests[1].prompt_token_ids).decode()
    assert "Be fair." in asked
    assert "<expected>\nAnn\n</expected>" in asked
    assert "<answer>\nIt is Ann\n</answer>" in asked
    assert BASE not in asked
    assert server.engine.requests[1].grammar is not None
    assert "the same" in results.report.read_text()


def test_instructions_that_cannot_be_read(tmp_path: Path, console: Console) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"prompt": "Who?"}) + "\n")
    request = EvaluationRequest(
        data, (BASE,), "http://127.0.0.1:1", judge=BASE, judge_prompt=tmp_path / "none"
    )
    with pytest.raises(UsageError, match="cannot be read"):
        evaluate(request, tmp_path, console, None, {})
