"""`invoke push --gate`: an adapter becomes live only if it passes, and else nothing changes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import pytest

from inference.engines.protocol import ServedModel
from inference.service.requests import Limits
from infra.console import Console
from infra.errors import RemoteError, UsageError
from infra.evaluation.asking import Endpoint
from infra.verbs.gate import load_gate, make_score, run_gate
from infra.verbs.push import Publication, PushResult
from tests.doubles.byte_codec import ByteCodec
from tests.doubles.openai_server import BASE, END, OpenaiServer, listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

QUESTIONS = [
    ("2 + 2", "4"),
    ("3 + 3", "6"),
    ("4 + 4", "8"),
    ("5 + 5", "10"),
    ("6 + 6", "12"),
    ("7 + 7", "14"),
]
RIGHT = [answer for _, answer in QUESTIONS]
WRONG = ["0"] * len(QUESTIONS)


class Stage:
    """A live server, and the adapters that are placed on it and taken away again."""

    def __init__(self, served: Sequence[str]) -> None:
        self.server = OpenaiServer(Limits(max_concurrent=8, max_waiting=64))
        self.log: list[str] = []
        self.name, self.candidate = "mine", "mine@2"
        self.names = list(served)
        self.answers: dict[str, list[str]] = {}
        self._announce()

    def place(self, publication: Publication) -> PushResult:
        self.log.append(publication)
        if publication == "beside":
            self.names.append(self.candidate)
        else:
            self.names.remove(self.candidate)
            self.names += [] if self.name in self.names else [self.name]
        self._announce()
        return PushResult(
            f"models/{self.name}/2/adapter",
            "model-cache/org/base",
            has_changed=True,
            is_live=True,
            model=self.candidate,
            is_new_version=True,
        )

    def take_away(self, placed: PushResult) -> None:
        assert placed.model == self.candidate
        self.log.append("take away")
        self.names.remove(self.candidate)
        self._announce()

    def say(self, old: Sequence[str], new: Sequence[str]) -> None:
        """Script the answers; each question is asked of the old model first."""
        self.server.say(*(text for pair in zip_longest(old, new) for text in pair if text is not None))

    def _announce(self) -> None:
        self.server.engine.contexts = dict.fromkeys([BASE, *self.names], 5000)
        codec, ends = ByteCodec(), frozenset({END})
        models = [ServedModel(BASE, None, codec, ends, 0)]
        models += [ServedModel(name, BASE, codec, ends, 0) for name in self.names]
        self.server.service.begin_serving(self.server.engine, models)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage(["mine"])
    yield stage
    await stage.server.close()


async def run(stage: Stage, folder: Path, rival: str | None, *minimums: str, name: str = "mine") -> Any:
    stage.name, stage.candidate = name, f"{name}@2"
    data = folder / "sums.jsonl"
    data.write_text("".join(json.dumps({"prompt": q, "expected": a}) + "\n" for q, a in QUESTIONS))
    gate = replace(load_gate(data, minimums, rival), max_tokens=20)
    async with listening(stage.server.app) as url:
        return await asyncio.to_thread(
            run_gate, gate, name, Endpoint(url), folder / "out", Console(), stage.place, stage.take_away, 1
        )


async def test_an_adapter_that_is_as_good_becomes_live(stage: Stage, tmp_path: Path) -> None:
    stage.say(RIGHT, RIGHT)
    result = await run(stage, tmp_path, None)
    assert stage.log == ["beside", "replace"]
    assert stage.names == ["mine"]
    assert [model.name for model in result.evaluation.models] == ["mine", "new"]
    document = result.to_json()
    assert (document["has_passed"], document["adapter"]) == (True, "models/mine/2/adapter")
    assert result.to_text().endswith("serving   since now, without a restart")
    score = make_score(result.evaluation)
    assert (score.data, score.examples, score.baseline) == ("sums.jsonl", 6, "mine")
    assert score.scores["exact_match"] == 1


async def test_a_worse_adapter_changes_nothing(stage: Stage, tmp_path: Path) -> None:
    stage.say(RIGHT, WRONG)
    result = await run(stage, tmp_path, None)
    assert stage.log == ["beside", "take away"]
    assert stage.names == ["mine"]
    assert result.pushed is None
    assert "exact_match of new is lower than that of mine" in result.evaluation.unmet[0]
    assert result.to_text().endswith("not passed: nothing has changed")
    assert result.to_json()["has_passed"] is False
    assert "Not met" in (tmp_path / "out/report.html").read_text()


async def test_a_minimum(stage: Stage, tmp_path: Path) -> None:
    stage.say(WRONG, [*RIGHT[:3], *WRONG[3:]])
    result = await run(stage, tmp_path, None, "exact_match=0.8")
    assert result.evaluation.unmet == ("exact_match of new is 0.500, and must be at least 0.8",)
    assert result.pushed is None


async def test_a_minimum_alone_allows_what_is_worse_than_live(stage: Stage, tmp_path: Path) -> None:
    stage.say(RIGHT, WRONG)
    assert (await run(stage, tmp_path, None, "exact_match=0")).pushed is not None


async def test_the_first_adapter_is_compared_with_the_base(stage: Stage, tmp_path: Path) -> None:
    stage.say(RIGHT, WRONG)
    result = await run(stage, tmp_path, None, name="other")
    assert result.evaluation.baseline == BASE
    assert result.pushed is not None  # nothing of this name is live that it could be worse than
    assert stage.names == ["mine", "other"]


async def test_another_served_model_can_be_the_rival(stage: Stage, tmp_path: Path) -> None:
    stage.say(RIGHT, WRONG)
    result = await run(stage, tmp_path, BASE)
    assert (result.evaluation.baseline, result.pushed) == (BASE, None)
    with pytest.raises(UsageError, match="--not-worse-than 'gone' is not served"):
        await run(stage, tmp_path, "gone")


async def test_the_candidate_is_taken_away_whatever_happens(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.server.service.begin_serving(stage.server.engine, [])
    with pytest.raises(RemoteError, match="serves no model"):
        await run(stage, tmp_path, None)
    assert stage.log == []
    stage._announce()
    monkeypatch.setattr(stage, "_announce", lambda: None)  # what is placed is not served
    stage.say(RIGHT, [])
    with pytest.raises(RemoteError, match="no request for"):
        await run(stage, tmp_path, None)
    assert stage.log == ["beside", "take away"]


def test_a_requirement_on_an_unknown_metric_is_found_before_anything_is_pushed(tmp_path: Path) -> None:
    data = tmp_path / "sums.jsonl"
    data.write_text('{"prompt": "2 + 2", "expected": "4"}\n')
    with pytest.raises(UsageError, match="there is no metric 'accuracy'"):
        load_gate(data, ["accuracy=0.5"], None)
    assert load_gate(data, [], None).rival == "live"
    assert load_gate(data, ["number=0.5"], None).rival is None
