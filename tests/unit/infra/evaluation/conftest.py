"""A server with one scripted model, listening, and a console that keeps what it shows."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from inference.service.requests import Limits
from infra.console import Console
from tests.doubles.openai_server import BASE, OpenaiServer, listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def server() -> AsyncIterator[OpenaiServer]:
    server = OpenaiServer(Limits(max_concurrent=4, max_waiting=8))
    server.engine.contexts = {BASE: 5000}
    yield server
    await server.close()


@pytest.fixture
async def address(server: OpenaiServer) -> AsyncIterator[str]:
    async with listening(server.app) as address:
        yield address


@pytest.fixture
def shown() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def console(shown: io.StringIO) -> Console:
    return Console(shown)
