"""The numbers at `/metrics`, seen from HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from inference.errors import EngineError
from inference.service.requests import Limits
from tests.doubles.loop_clock import skip
from tests.doubles.serving import BASE, END, ENDED, KEY, LIMITS, TUNED, Served, until


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


async def test_failures_and_timeouts_are_counted_apart_from_successes(served: Served) -> None:
    served.engine.play(b"half", EngineError("out of memory"))
    await served.chat()
    served.engine.play(b"half", asyncio.Event())
    late = asyncio.create_task(served.chat())
    await until(lambda: served.engine.running == 1)
    await skip(LIMITS.request_timeout_s)
    await late
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
        ("other", "/healthz", "405"): 1,
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


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "text/plain",
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75",
        "application/openmetrics-text;version=1.0.0;escaping=underscores,text/plain;version=0.0.4;q=0.3",
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5",
    ],
)
async def test_names_are_vllm_s_in_every_format(served: Served, accept: str) -> None:
    served.engine.play(b"Hi", (END,))
    await served.chat()
    response = await served.get("/metrics", accept=accept)
    is_open = "openmetrics" in accept
    assert "\nvllm:num_requests_waiting{" in response.text
    assert response.headers["content-type"].startswith("application/openmetrics" if is_open else "text/plain")
    assert response.text.endswith("# EOF\n") is is_open
