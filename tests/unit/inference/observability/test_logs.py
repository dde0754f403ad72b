"""The log, as text and as JSON."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from inference.errors import EngineError
from inference.observability.logs import JsonFormatter, TextFormatter
from tests.doubles.serving import BASE, END, ENDED, KEY, Served

if TYPE_CHECKING:
    import pytest


def lines_of(caplog: pytest.LogCaptureFixture, logger: str) -> list[dict[str, Any]]:
    formatter = JsonFormatter()
    return [json.loads(formatter.format(record)) for record in caplog.records if record.name == logger]


async def test_a_request_s_line_has_its_facts(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="inference")
    served.engine.play(ENDED)
    response = await served.chat(headers={"X-Request-Id": "abc-1"})
    (line,) = lines_of(caplog, "inference.access")
    assert line.pop("time").endswith("Z")
    assert line.pop("duration_ms") > 0
    assert line.pop("time_to_first_token_s") >= 0
    assert line.pop("message").startswith("POST /v1/chat/completions 200 ")
    assert line == {
        "level": "info", "logger": "inference.access", "method": "POST", "path": "/v1/chat/completions",
        "status": 200, "key": "ann", "model": BASE, "prompt_tokens": 23, "completion_tokens": 9,
        "finish_reason": "stop",
    }  # fmt: skip
    assert response.headers["x-request-id"] == "abc-1"


async def test_a_path_cannot_forge_a_line(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="inference")
    await served.get("/v1/models/a%0A2026-01-01T00:00:00Z%20INFO%20x:%20y")
    (line,) = lines_of(caplog, "inference.access")
    assert line["path"] == "/v1/models/a%0A2026-01-01T00%3A00%3A00Z%20INFO%20x%3A%20y"
    assert "\n" not in TextFormatter().format(caplog.records[-1])


async def test_a_log_line_within_a_request_has_its_id(served: Served) -> None:
    formatted: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: formatted.append(JsonFormatter().format(record))  # type: ignore[method-assign]
    logger = logging.getLogger("inference.service.answer")
    logger.addHandler(handler)
    served.engine.play(EngineError("out of memory"))
    await served.chat(headers={"X-Request-Id": "abc-2"})
    logger.removeHandler(handler)
    assert json.loads(formatted[0])["request_id"] == "abc-2"
    assert json.loads(formatted[0])["message"] == "request abc-2: out of memory"


def test_an_exception_stays_on_the_line_of_its_record() -> None:
    try:
        raise ValueError("line one\nline two")  # noqa: TRY301 - to have a traceback
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "", 0, "it %s", ("broke",), (type(error), error, error.__traceback__)
        )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    document = json.loads(line)
    assert document["message"] == "it broke"
    assert document["exception"].endswith("ValueError: line one\nline two")


def test_text_has_time_level_logger_and_message() -> None:
    record = logging.LogRecord(
        "inference.web.application", logging.WARNING, "", 0, "it %s", ("creaks",), None
    )
    record.created = 0
    assert (
        TextFormatter().format(record) == "1970-01-01T00:00:00Z WARNING inference.web.application: it creaks"
    )


async def test_prompts_are_logged_only_if_the_setting_is_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="inference")
    for is_on in (False, True):
        served = Served(log_prompts=is_on)
        served.engine.play((*b"a private ", *b"answer", END))
        await served.chat(messages=[{"role": "user", "content": "a private question"}])
        lines = lines_of(caplog, "inference.prompts")
        assert len(lines) == int(is_on)
        await served.close()
    assert lines[0]["prompt"] == [{"role": "user", "content": "a private question"}]
    assert lines[0]["answer"] == "a private answer"
    assert (lines[0]["key"], lines[0]["model"]) == ("ann", BASE)
    assert KEY not in caplog.text
