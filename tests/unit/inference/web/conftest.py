"""Servers without a model, and clients for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from inference.service.requests import Limits
from tests.doubles.api_server import SETTINGS, ApiServer
from tests.doubles.openai_server import OpenaiServer
from tests.doubles.tool_server import ToolServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def api_server() -> AsyncIterator[ApiServer]:
    server = ApiServer(Limits(max_concurrent=2, max_waiting=1), SETTINGS)
    yield server
    await server.close()


@pytest.fixture
async def openai_server() -> AsyncIterator[OpenaiServer]:
    server = OpenaiServer(Limits(max_concurrent=4, max_waiting=1))
    yield server
    await server.close()


@pytest.fixture
async def tool_server() -> AsyncIterator[ToolServer]:
    server = ToolServer()
    yield server
    await server.close()
