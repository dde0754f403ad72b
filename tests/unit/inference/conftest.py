"""A server with a scripted engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.doubles.serving import Served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served = Served()
    yield served
    await served.close()
