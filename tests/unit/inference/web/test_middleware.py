"""The middleware, in process: access, limits, ids, metrics and logs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from inference.service.requests import Limits
from tests.doubles.loop_clock import skip
from tests.doubles.serving import ENDED, HELLO, KEY, OTHER_KEY, SETTINGS, Served, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


PAGE = "https://page.example"


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


async def test_a_slow_answer_is_not_a_slow_body(served: Served) -> None:
    gate = asyncio.Event()
    served.engine.play(gate, ENDED)
    task = asyncio.create_task(served.chat())
    await until(lambda: served.engine.running == 1)
    await skip(2 * SETTINGS.body_timeout_s)
    gate.set()
    assert (await task).status_code == 200


async def test_pages_may_not_be_framed_and_nothing_is_sniffed(served: Served) -> None:
    page = await served.get("/")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["x-frame-options"] == "SAMEORIGIN"
    assert "frame-ancestors 'self'" in page.headers["content-security-policy"]
    assert page.headers["referrer-policy"] == "same-origin"
    assert (await served.get("/v1/models")).headers["x-content-type-options"] == "nosniff"


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
