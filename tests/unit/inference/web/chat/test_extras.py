"""Code, probabilities, examples and thumbs."""

from __future__ import annotations

import ast
import json
import logging
import math
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from inference.engines.protocol import Increment, TokenLogprobs
from inference.errors import InvalidRequestError
from inference.web.chat.conversation import Answered, Settings, Turn
from inference.web.chat.examples import MAX_EXAMPLES, read_examples
from inference.web.chat.feedback import Feedback
from inference.web.chat.probabilities import find_probabilities
from inference.web.chat.snippets import make_snippets, request_body
from tests.doubles.chat_site import BASE, make_service

TRICKY = 'It\'s "quoted", costs $5 `now`,\n\\ and \u2028 \u00fc {braces}'
ANSWERED = Answered(
    id="a1",
    model=BASE,
    turns=(Turn(user="One", answers={BASE: "1"}), Turn(user=TRICKY)),
    settings=Settings(system_prompt="Be brief.", temperature=0.5, top_p=0.9, max_tokens=40, seed=7),
    text="Yes",
    token_ids=tuple(b"Yes"),
)
BODY = {
    "model": BASE,
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": TRICKY},
    ],
    "temperature": 0.5,
    "top_p": 0.9,
    "max_tokens": 40,
    "seed": 7,
}


def test_the_code_sends_this_very_request() -> None:
    assert request_body(ANSWERED) == BODY
    code = make_snippets(ANSWERED, "https://app.example")
    assert json.loads(code["json"]) == BODY

    words = shlex.split(code["curl"].replace("\\\n", ""))
    assert words[:2] == ["curl", "https://app.example/v1/chat/completions"]
    assert json.loads(words[words.index("-d") + 1]) == BODY
    assert "Authorization: Bearer $OPENAI_API_KEY" in words

    calls = [node for node in ast.walk(ast.parse(code["python"])) if isinstance(node, ast.Call)]
    sent = next(call for call in calls if ast.unparse(call.func) == "client.chat.completions.create")
    assert {each.arg: ast.literal_eval(each.value) for each in sent.keywords} == BODY

    start = code["javascript"].index("create(") + len("create(")
    assert json.loads(code["javascript"][start : code["javascript"].index(");\nconsole")]) == BODY


def test_without_a_seed_none_is_sent() -> None:
    settings = ANSWERED.settings.model_copy(update={"seed": None})
    assert "seed" not in request_body(ANSWERED.model_copy(update={"settings": settings}))


async def test_each_token_has_its_probability_and_the_likeliest_in_its_place() -> None:
    service, engine = make_service()
    answered = ANSWERED.model_copy(update={"turns": (Turn(user="Hi"),), "settings": Settings()})
    prompt = b"user: Hi\nassistant: "
    read = [TokenLogprobs(-9.0)] * (len(prompt) - 1) + [
        TokenLogprobs(math.log(0.75), ((ord("Y"), math.log(0.75)), (ord("N"), math.log(0.25)))),
        TokenLogprobs(math.log(0.5)),
        TokenLogprobs(0.0),
    ]
    engine.play(Increment((ord("x"),), "length", (TokenLogprobs(0.0),), tuple(read)))
    tokens = await find_probabilities(service, answered)
    assert bytes(engine.requests[0].prompt_token_ids) == prompt + b"Yes"
    assert [(token["text"], token["probability"]) for token in tokens] == [
        ("Y", 0.75),
        ("e", 0.5),
        ("s", 1.0),
    ]
    assert [(each["text"], each["probability"]) for each in tokens[0]["top"]] == [("Y", 0.75), ("N", 0.25)]
    assert service.queue.slots_in_use == 0


async def test_an_answer_without_tokens_has_no_probabilities() -> None:
    service, _ = make_service()
    with pytest.raises(InvalidRequestError, match="no tokens"):
        await find_probabilities(service, ANSWERED.model_copy(update={"token_ids": ()}))


def write_examples(mount: Path, adapter: str, document: Any) -> None:
    folder = mount / "models" / adapter / "adapter"
    folder.mkdir(parents=True)
    (folder / "chat-examples.json").write_text(
        document if isinstance(document, str) else json.dumps(document)
    )


def test_examples_are_those_of_the_adapters_that_are_served(tmp_path: Path) -> None:
    write_examples(tmp_path, "tickets", [{"message": "Help!", "title": "A cry"}, {"message": "Where?"}])
    write_examples(tmp_path, "other", [{"message": "Not served"}])
    found = read_examples(tmp_path, {"tickets"})
    assert [(each.title, each.message) for each in found] == [("A cry", "Help!"), ("", "Where?")]


def test_there_are_a_few_examples_at_most(tmp_path: Path) -> None:
    write_examples(tmp_path, "tickets", [{"message": str(number)} for number in range(20)])
    assert len(read_examples(tmp_path, {"tickets"})) == MAX_EXAMPLES


@pytest.mark.parametrize("wrong", ["{", [{"text": "x"}], {"message": "x"}, [{"message": ""}]])
def test_examples_that_cannot_be_read_are_left_out_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: Any
) -> None:
    write_examples(tmp_path, "tickets", wrong)
    with caplog.at_level(logging.WARNING):
        assert read_examples(tmp_path, {"tickets"}) == []
    assert "chat-examples.json are left out: " in caplog.text


def test_the_example_s_own_file_is_valid(tmp_path: Path) -> None:
    root = Path(__file__).parents[5]
    text = (root / "examples/ticket-triage/adapter/chat-examples.json").read_text()
    write_examples(tmp_path, "ticket-triage", text)
    assert len(read_examples(tmp_path, {"ticket-triage"})) == 4


def test_a_thumb_is_a_line_of_training_data(tmp_path: Path) -> None:
    feedback = Feedback(tmp_path, "replica-1", "r1")
    feedback.keep(ANSWERED, is_good=True, at=datetime(2026, 1, 1, tzinfo=UTC))
    lines = (tmp_path / "feedback" / "replica-1.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "prompt": BODY["messages"],
            "completion": [{"role": "assistant", "content": "Yes"}],
            "label": True,
            "id": "a1",
            "model": BASE,
            "settings": ANSWERED.settings.model_dump(),
            "release": "r1",
            "at": "2026-01-01T00:00:00+00:00",
        }
    ]


def test_a_line_that_somebody_else_has_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "feedback" / "replica-1.jsonl"
    path.parent.mkdir()
    path.write_text('{"id": "a1", "torn\n[1]\n')
    Feedback(tmp_path, "replica-1", "r1").keep(ANSWERED, is_good=True)
    *others, line = path.read_text().splitlines()
    assert others == ['{"id": "a1", "torn', "[1]"]
    assert json.loads(line)["id"] == "a1"


def test_a_thumb_can_be_changed_and_taken_back(tmp_path: Path) -> None:
    feedback = Feedback(tmp_path, "replica-1", "r1")
    other = ANSWERED.model_copy(update={"id": "a2"})
    feedback.keep(other, is_good=False)
    feedback.keep(ANSWERED, is_good=True)
    feedback.keep(ANSWERED, is_good=False)
    path = tmp_path / "feedback" / "replica-1.jsonl"
    assert [
        (json.loads(line)["id"], json.loads(line)["label"]) for line in path.read_text().splitlines()
    ] == [
        ("a2", False),
        ("a1", False),
    ]
    feedback.keep(ANSWERED, is_good=None)
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a2"]
    assert [each.name for each in path.parent.iterdir()] == ["replica-1.jsonl"]
