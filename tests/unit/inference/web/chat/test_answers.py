from __future__ import annotations

import asyncio
from typing import Any

import pytest

from inference.engines.protocol import Sampling
from inference.service.requests import Limits
from inference.web.chat import answers
from inference.web.chat.answers import ask, refuse
from inference.web.chat.conversation import Beginning, Question, Settings, Target, Turn
from tests.doubles.chat_site import BASE, END, TUNED, make_service
from tests.doubles.model_server import ModelServer, make_codec
from tests.doubles.serving import until

SETTINGS = Settings(temperature=0.5, top_p=0.9, max_tokens=40, seed=7)


@pytest.fixture(autouse=True)
def reports_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "REPORT_S", 0)
    monkeypatch.setattr(answers, "QUIET_S", 0.01)


def question(*models: str, continues: Beginning | None = None, user: str = "Hello") -> Question:
    targets = tuple(Target(model=model, continues=continues) for model in models)
    return Question(run="r1", turns=(Turn(user=user),), targets=targets)


async def read(reports: Any) -> dict[str, Any]:
    """Return the last report."""
    last: dict[str, Any] = {}
    async for report in reports:
        assert not last or not last["is_over"]
        last = report
    assert last["is_over"]
    return last


async def test_two_models_answer_side_by_side_with_the_same_settings_and_seed() -> None:
    service, engine = make_service()
    gate = asyncio.Event()
    engine.play(b"The ", gate, b"base", (END,))
    engine.play(b"{}", (END,))
    reports = ask(service, question(BASE, TUNED), SETTINGS)
    async for report in reports:
        if report["answers"][TUNED]["state"] == "done":
            # The other one goes on.
            assert report["answers"][BASE]["text"] == "The "
            assert report["answers"][BASE]["state"] == "running"
            gate.set()
            break
    last = await read(reports)
    assert {model: answer["text"] for model, answer in last["answers"].items()} == {
        BASE: "The base",
        TUNED: "{}",
    }
    first, second = engine.requests
    assert first.sampling == second.sampling == Sampling(0.5, 0.9, seed=7)
    assert first.prompt_token_ids == second.prompt_token_ids
    assert last["settings"] == SETTINGS.model_dump()
    assert service.queue.slots_in_use == 0


async def test_an_answer_has_its_figures() -> None:
    service, engine = make_service()
    engine.play(b"H", b"i!", (END,))
    answer = (await read(ask(service, question(BASE), SETTINGS)))["answers"][BASE]
    assert (answer["finish"], answer["state"], answer["error"]) == ("stop", "done", None)
    assert answer["completion_tokens"] == 4
    assert answer["prompt_tokens"] == len("user: Hello\nassistant: ")
    assert answer["first_token_s"] >= 0
    assert answer["tokens_per_s"] > 0
    assert answer["blocks"] == ["<p>Hi!</p>\n"]
    assert answer["token_ids"] == [*b"Hi!", END]


async def test_an_answer_that_is_cut_off_is_continued() -> None:
    service, engine = make_service()
    engine.play(b"Once upon a time there was a long, long, long text")
    cut = (await read(ask(service, question(BASE), SETTINGS)))["answers"][BASE]
    assert (cut["finish"], cut["completion_tokens"], cut["new_tokens"]) == ("length", 40, 40)

    engine.play(b" ever after", (END,))
    beginning = Beginning(text=cut["text"], token_ids=tuple(cut["token_ids"]))
    whole = (await read(ask(service, question(BASE, continues=beginning), SETTINGS)))["answers"][BASE]
    assert whole["text"] == cut["text"] + " ever after"
    assert (whole["finish"], whole["completion_tokens"], whole["new_tokens"]) == ("stop", 52, 12)
    prompt = bytes(engine.requests[1].prompt_token_ids)
    assert prompt == b"user: Hello\nassistant: " + cut["text"].encode()


async def test_an_empty_answer_is_an_answer() -> None:
    service, engine = make_service()
    engine.play((END,))
    answer = (await read(ask(service, question(BASE), SETTINGS)))["answers"][BASE]
    assert (answer["text"], answer["finish"], answer["completion_tokens"]) == ("", "stop", 1)


async def test_the_place_in_the_queue_is_reported() -> None:
    service, engine = make_service(limits=Limits(max_concurrent=1, max_waiting=4))
    gate = asyncio.Event()
    for _ in range(3):
        engine.play(gate, b"x", (END,))
    places: set[tuple[str, int | None]] = set()
    last: dict[str, Any] = {}
    async for last in ask(service, question(BASE, TUNED), SETTINGS, client="chat"):
        places |= {(model, answer["place"]) for model, answer in last["answers"].items()}
        if (TUNED, 1) in places:
            gate.set()
    assert last["answers"][TUNED]["text"] == "x"
    assert places == {(BASE, None), (TUNED, None), (TUNED, 1)}


async def test_an_error_of_one_model_leaves_the_other_s_answer() -> None:
    service, engine = make_service()
    engine.play(b"Hi", (END,))
    last = await read(ask(service, question("gone", BASE), SETTINGS))
    assert last["answers"][BASE]["text"] == "Hi"
    assert last["answers"]["gone"]["finish"] == "error"
    assert "The model 'gone' does not exist" in last["answers"]["gone"]["error"]


async def test_a_question_that_is_refused_keeps_the_text_that_was_to_be_continued() -> None:
    report = refuse(question(BASE, continues=Beginning(text="Once", token_ids=(1, 2))), "No.")
    answer = report["answers"][BASE]
    assert (report["run"], report["is_over"], report["settings"]) == ("r1", True, None)
    assert (answer["state"], answer["finish"], answer["error"], answer["text"]) == (
        "done", "error", "No.", "Once",
    )  # fmt: skip


async def test_a_bug_ends_the_answer_and_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    service, _ = make_service()
    monkeypatch.setattr(answers, "prompt_for", fail)
    reports: list[dict[str, Any]] = []

    async def read_all() -> None:
        async for report in ask(service, question(BASE), SETTINGS):
            reports.append(report)  # noqa: PERF401 - the reports before the error count

    with pytest.raises(RuntimeError, match="a bug"):
        await read_all()
    answer = reports[-1]["answers"][BASE]
    assert reports[-1]["is_over"]
    assert (answer["state"], answer["error"]) == ("done", answers.FAILED)


async def test_the_chat_is_under_the_same_limits_as_the_api() -> None:
    service, engine = make_service(limits=Limits(max_concurrent=1, max_waiting=0))
    engine.play(asyncio.Event())
    first = asyncio.create_task(read(ask(service, question(BASE), SETTINGS)))
    await until(lambda: bool(engine.requests))
    answer = (await read(ask(service, question(BASE), SETTINGS)))["answers"][BASE]
    assert "Try again shortly" in answer["error"]
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert service.queue.slots_in_use == 0


async def test_a_page_that_stops_reading_frees_the_slots() -> None:
    service, engine = make_service()
    engine.play(b"The base talks", asyncio.Event())
    engine.play(b"The other talks", asyncio.Event())
    reports = ask(service, question(BASE, TUNED), SETTINGS)
    async for report in reports:
        if all(answer["text"] for answer in report["answers"].values()):
            break
    await reports.aclose()  # type: ignore[attr-defined]
    assert service.queue.slots_in_use == 0
    assert len(engine.cancelled) == 2


async def test_a_server_that_ends_an_answer_says_that_it_was_stopped() -> None:
    service, engine = make_service()
    engine.play(b"The base talks", asyncio.Event())
    closing: list[Any] = []

    class Tracked:
        def __init__(self, reply: Any) -> None:
            closing.append(reply)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    reports = ask(service, question(BASE), SETTINGS, Tracked)
    async for report in reports:
        if report["answers"][BASE]["text"]:
            closing[0].close()
        if report["is_over"]:
            assert report["answers"][BASE]["finish"] == "abort"


async def test_reasoning_is_apart_from_the_answer() -> None:
    template = (
        "{% for message in messages %}[{{ message.role }}]"
        "{{ message.content.split('</think>')[-1] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]<think>\n{% endif %}"
    )
    server = ModelServer({"thinker": make_codec(template)})
    server.play("thinker", "The user greets.</think>\n\n**Hello**")
    answer = (await read(ask(server.service, question("thinker"), SETTINGS)))["answers"]["thinker"]
    assert answer["reasoning"] == "The user greets."
    assert answer["blocks"] == ["<p><strong>Hello</strong></p>\n"]
    await server.close()
