"""The middleware, in process: access, limits, ids, metrics and logs."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from inference.errors import EngineError
from inference.observability.logs import JsonFormatter, TextFormatter
from inference.service.requests import Limits
from tests.doubles.serving import BASE, END, ENDED, HELLO, KEY, OTHER_KEY, TUNED, Served, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PAGE = "https://page.example"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served = Served()
    yield served
    await served.close()


async def samples_of(served: Served) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    response = await served.get("/metrics")
    assert response.status_code == 200, response.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: dict[Any, float], name: str, **labels: str) -> float | None:
    """Return a sample's value; labels that are not named may be anything."""
    found = [
        number for (each, having), number in samples.items() if each == name and labels.items() <= having
    ]
    assert len(found) <= 1, (name, labels, found)
    return found[0] if found else None


# Metrics.


async def test_an_answer_is_counted_under_vllm_s_names(served: Served) -> None:
    served.engine.play(b"Hi", b" there", (END,))
    await served.chat()
    samples = await samples_of(served)
    prompt = len("user: Hello\nassistant: ")
    assert value(samples, "vllm:prompt_tokens_total", model_name=BASE, engine="0") == prompt
    assert value(samples, "vllm:generation_tokens_total", model_name=BASE) == 9
    assert value(samples, "vllm:request_success_total", model_name=BASE, finished_reason="stop") == 1
    assert value(samples, "vllm:num_requests_running", model_name=BASE) == 0
    assert value(samples, "vllm:num_requests_waiting", model_name=BASE) == 0
    for name in (
        "time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds",
        "request_inference_time_seconds", "request_prefill_time_seconds", "request_decode_time_seconds",
        "request_time_per_output_token_seconds", "request_prompt_tokens", "request_generation_tokens",
    ):  # fmt: skip
        assert value(samples, f"vllm:{name}_count", model_name=BASE) == 1, name
    assert value(samples, "vllm:inter_token_latency_seconds_count", model_name=BASE) == 2
    assert value(samples, "vllm:request_generation_tokens_sum", model_name=BASE) == 9


async def test_an_answer_is_counted_under_the_gen_ai_names(served: Served) -> None:
    served.engine.play(b"Hi", b" there", (END,))
    await served.chat(model=TUNED)
    samples = await samples_of(served)
    labels = {
        "gen_ai_operation_name": "chat",
        "gen_ai_provider_name": "fjarr",
        "gen_ai_request_model": TUNED,
    }
    for name in ("request_duration", "time_to_first_token", "time_per_output_token"):
        assert value(samples, f"gen_ai_server_{name}_seconds_count", **labels) == 1, name
    usage = "gen_ai_client_token_usage_sum"
    assert value(samples, usage, gen_ai_token_type="output", **labels) == 9
    assert value(samples, usage, gen_ai_token_type="input", **labels) == len("user: Hello\nassistant: ")


async def test_running_and_waiting_requests_are_counted(served: Served) -> None:
    tasks = [asyncio.create_task(served.chat()) for _ in range(3)]
    await until(lambda: len(served.engine.requests) == 2 and served.service.queue.waiting == 1)
    samples = await samples_of(served)
    assert value(samples, "vllm:num_requests_running", model_name=BASE) == 2
    assert value(samples, "vllm:num_requests_waiting", model_name=BASE) == 1
    for _ in range(3):
        served.engine.play(ENDED)
    await asyncio.gather(*tasks)
    samples = await samples_of(served)
    assert value(samples, "vllm:num_requests_running", model_name=BASE) == 0
    assert value(samples, "vllm:num_requests_waiting", model_name=BASE) == 0


async def test_failures_and_timeouts_are_counted_apart_from_successes() -> None:
    served = Served(Limits(request_timeout_s=0.05))
    served.engine.play(b"half", EngineError("out of memory"))
    await served.chat()
    served.engine.play(b"half", asyncio.Event())
    await served.chat()
    samples = await samples_of(served)
    assert value(samples, "vllm:request_success_total", finished_reason="error") == 2
    assert value(samples, "vllm:request_success_total", finished_reason="stop") is None
    durations = "gen_ai_server_request_duration_seconds_count"
    assert value(samples, durations, error_type="engine_failed") == 1
    assert value(samples, durations, error_type="request_timeout") == 1
    await served.close()


async def test_http_requests_are_counted_under_a_fixed_set_of_routes(served: Served) -> None:
    served.engine.play(ENDED)
    await served.chat()
    for path in ("/v1/models/org/base", "/v1/models/what-i-made-up", "/v1/what-i-made-up", "/what-i-made-up"):
        await served.get(path)
    await served.http.request("BREW", "/healthz")
    samples = await samples_of(served)
    requests = {
        tuple(dict(labels)[each] for each in ("method", "handler", "status")): number
        for (name, labels), number in samples.items()
        if name == "http_requests_total"
    }
    assert requests == {
        ("POST", "/v1/chat/completions", "200"): 1,
        ("GET", "/v1/models/{name:path}", "200"): 1,
        ("GET", "/v1/models/{name:path}", "404"): 1,
        ("GET", "other", "404"): 1,
        ("GET", "other", "401"): 1,
        ("other", "/healthz", "401"): 1,
    }
    assert "what-i-made-up" not in (await served.get("/metrics")).text


async def test_rejections_are_counted_by_reason() -> None:
    served = Served(Limits(max_concurrent=1, max_waiting=1, max_per_key=1))
    task = asyncio.create_task(served.chat())
    await until(lambda: served.service.queue.slots_in_use == 1)
    assert (await served.chat()).json()["error"]["code"] == "key_limit_exceeded"
    await served.chat(key="wrong")
    await served.chat(model="none")
    await served.chat(messages=[{"role": "user", "content": "x" * 30_000}])
    served.engine.play(ENDED)
    await task
    samples = await samples_of(served)
    reasons = {
        dict(labels)["reason"]: number
        for (name, labels), number in samples.items()
        if name == "fjarr_requests_refused_total"
    }
    assert reasons == {
        "key_limit_exceeded": 1, "invalid_api_key": 1, "model_not_found": 1, "request_too_large": 1,
    }  # fmt: skip
    await served.close()


async def test_the_build_is_named(served: Served) -> None:
    samples = await samples_of(served)
    assert value(samples, "fjarr_build_info", version="0.1.0", release="20260101T000000Z-0123abcd") == 1
    assert value(samples, "process_resident_memory_bytes") is not None


@pytest.mark.parametrize(
    ("metrics", "key", "status"),
    [("on", KEY, 200), ("on", None, 401), ("on", "wrong", 401), ("open", None, 200), ("off", KEY, 401)],
)
async def test_a_setting_decides_whether_the_metrics_need_a_key(
    metrics: str, key: str | None, status: int
) -> None:
    served = Served(metrics=metrics)
    response = await served.get("/metrics", key)
    assert response.status_code == status
    assert ("python_info" in response.text) is (status == 200)
    await served.close()


async def test_without_auth_the_metrics_need_no_key() -> None:
    served = Served(auth=False)
    assert (await served.get("/metrics", None)).status_code == 200
    await served.close()


async def test_each_application_counts_for_itself(served: Served) -> None:
    other = Served()
    served.engine.play(ENDED)
    await served.chat()
    assert value(await samples_of(other), "vllm:generation_tokens_total") is None
    await other.close()


async def test_neither_prompt_nor_answer_nor_key_is_among_the_metrics(served: Served) -> None:
    served.engine.play((*b"a private answer", END))
    await served.chat(messages=[{"role": "user", "content": "a private question"}])
    text = (await served.get("/metrics")).text
    assert "private" not in text
    assert KEY not in text
    assert "ann" not in text


# Logs.


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


# Access.


async def test_pages_of_other_origins_are_not_allowed_by_default(served: Served) -> None:
    preflight = await served.http.options(
        "/v1/models", headers={"Origin": PAGE, "Access-Control-Request-Method": "GET"}
    )
    assert preflight.status_code == 401
    served.engine.play(ENDED)
    response = await served.chat(headers={"Origin": PAGE})
    for answer in (preflight, response):
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origins", [(PAGE,), ("*",)])
async def test_a_page_of_an_allowed_origin_may_send_requests_and_read_errors(
    origins: tuple[str, ...],
) -> None:
    served = Served(Limits(max_concurrent=1, max_waiting=0), cors_origins=origins)
    allowed = origins[0]
    preflight = await served.http.options(
        "/v1/chat/completions",
        headers={
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == allowed
    assert "x-stainless-lang" in preflight.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in preflight.headers
    task = asyncio.create_task(served.chat(headers={"Origin": PAGE}))
    await until(lambda: served.service.queue.slots_in_use == 1)
    refused = await served.chat(headers={"Origin": PAGE})
    stranger = await served.chat(key="wrong", headers={"Origin": PAGE})
    served.engine.play(ENDED)
    answers = [(200, await task), (429, refused), (401, stranger)]
    for status, answer in answers:
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == allowed
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
    await served.close()


async def test_other_origins_are_not_allowed_and_none_is_for_the_chat() -> None:
    served = Served(cors_origins=(PAGE,))
    preflight = {"Access-Control-Request-Method": "POST"}
    other = await served.http.options("/v1/models", headers={"Origin": "https://evil.example"} | preflight)
    assert other.status_code == 400
    assert "access-control-allow-origin" not in other.headers
    chat = await served.http.options("/gradio_api/queue/join", headers={"Origin": PAGE} | preflight)
    assert "access-control-allow-origin" not in chat.headers
    await served.close()


@pytest.mark.parametrize(
    ("path", "headers", "message"),
    [
        ("/v1/models?" + "x" * 9000, {}, "The address is longer than 8192 bytes."),
        ("/v1/" + "x" * 9000, {}, "The address is longer than 8192 bytes."),
        ("/v1/models", {f"x-{n}": "1" for n in range(130)}, "There are more than 128 headers"),
        ("/v1/models", {"cookie": "x" * 33_000}, "or more than 32768 bytes of them."),
    ],
)
async def test_an_oversized_head_is_rejected(
    served: Served, path: str, headers: dict[str, str], message: str
) -> None:
    response = await served.get(path, **headers)
    assert response.status_code == 431
    assert message in response.json()["error"]["message"]
    assert response.json()["error"]["code"] == "headers_too_large"


async def test_a_body_that_does_not_arrive_is_not_waited_for() -> None:
    served = Served(body_timeout_s=0.05)

    async def parts() -> AsyncIterator[bytes]:
        yield b'{"model"'
        await asyncio.Event().wait()

    response = await served.http.post(
        "/v1/chat/completions",
        content=parts(),
        headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
    )
    assert response.status_code == 408
    assert response.json()["error"] == {
        "message": "The body did not arrive within 0.05 s.", "type": "invalid_request_error", "param": None,
        "code": "body_timeout",
    }  # fmt: skip
    assert response.headers["connection"] == "close"
    await served.close()


async def test_a_path_with_a_line_break_is_not_found(served: Served) -> None:
    response = await served.get("/v1/models/a%0Ab")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_url")
    page = await served.get("/a%0Ab")
    assert (page.status_code, page.text) == (404, "There is nothing here.\n")


async def test_a_slow_answer_is_not_a_slow_body() -> None:
    served = Served(body_timeout_s=0.05)
    gate = asyncio.Event()
    served.engine.play(gate, ENDED)
    task = asyncio.create_task(served.chat())
    await asyncio.sleep(0.1)
    gate.set()
    assert (await task).status_code == 200
    await served.close()


async def test_pages_may_not_be_framed_and_nothing_is_sniffed(served: Served) -> None:
    page = await served.get("/")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["x-frame-options"] == "SAMEORIGIN"
    assert "frame-ancestors 'self'" in page.headers["content-security-policy"]
    assert page.headers["referrer-policy"] == "same-origin"
    assert (await served.get("/v1/models")).headers["x-content-type-options"] == "nosniff"


# Fairness, seen from HTTP.


async def test_many_requests_of_one_key_do_not_delay_another_key_s() -> None:
    served = Served(Limits(max_concurrent=1, max_waiting=128))
    flood = [asyncio.create_task(served.chat()) for _ in range(500)]
    await until(lambda: served.service.queue.waiting == 128)
    shy = asyncio.create_task(served.chat(OTHER_KEY))
    await until(lambda: any(request.client == "bob" for request in waiting_requests(served)))
    served.engine.play(ENDED)
    served.engine.play(ENDED)
    served.engine.play(ENDED)
    assert (await shy).status_code == 200
    # The running request, then one of the flood, then one of bob.
    assert len(served.engine.requests) <= 4
    served.engine.always = (ENDED,)
    served.engine.play(ENDED)
    statuses = [(await task).status_code for task in flood]
    assert statuses.count(200) == 128
    assert statuses.count(429) == 372
    assert (served.service.queue.slots_in_use, served.service.queue.waiting) == (0, 0)
    await served.close()


async def test_a_rejection_names_the_limit_and_when_to_retry() -> None:
    served = Served(Limits(max_concurrent=2, max_per_key=1))
    task = asyncio.create_task(served.chat())
    await until(lambda: served.service.queue.slots_in_use == 1)
    response = await served.chat()
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["error"]["message"] == (
        "The key 'ann' has 1 answers being written or waiting, and one key may have 1. Wait for one of them"
        " to end."
    )
    served.engine.play(ENDED)
    served.engine.play(ENDED)
    assert (await served.chat(OTHER_KEY)).status_code == 200
    assert (await task).status_code == 200
    await served.close()


def waiting_requests(served: Served) -> list[Any]:
    return [each for queue in served.service.queue._waiting.values() for each in queue]


async def test_a_dead_engine_turns_health_false_and_ends_its_requests(served: Served) -> None:
    served.engine.play(b"half an ", asyncio.Event())
    whole = asyncio.create_task(served.chat())
    waiting = [asyncio.create_task(served.chat(messages=HELLO)) for _ in range(2)]
    await until(lambda: served.engine.generated_tokens == 8 and served.service.queue.waiting == 1)
    served.engine.die()
    for task in (whole, *waiting):
        response = await task
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "engine_failed"
    assert (await served.get("/healthz")).json() == {"status": "failed"}
    assert (await served.get("/healthz")).status_code == 503
    assert served.service.queue.slots_in_use == 0
