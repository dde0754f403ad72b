"""Requests that wait for an engine that is loaded again, instead of failing."""

from __future__ import annotations

import asyncio

import pytest

from inference.engines.protocol import Sampling
from inference.errors import UnavailableError
from inference.service.requests import Limits, TextPrompt, TextRequest
from inference.service.service import Service
from tests.doubles.serving import Served


async def test_requests_wait_for_the_engine_if_they_are_held() -> None:
    served = Served()
    served.engine.always = ((72, 105), (256,))
    served.service.stop_serving()
    assert (await served.chat()).status_code == 503
    assert (await served.get("/readyz")).status_code == 503
    served.service.holds_requests.set()
    # A server that holds requests has to get them.
    assert (await served.get("/readyz")).status_code == 200
    waiting = asyncio.create_task(served.chat())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    served.service.begin_serving(served.engine, served.service.models)
    assert (await waiting).status_code == 200
    await served.close()


async def test_a_held_request_waits_no_longer_than_its_time_limit() -> None:
    service = Service(Limits(request_timeout_s=0.02))
    service.holds_requests.set()
    request = TextRequest("r", "m", TextPrompt("Hello"), 1, Sampling(0.0))
    with pytest.raises(UnavailableError):
        await service.tokenize(request)
