"""A local cloud in this process, for the contract tests of its management plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.doubles.local_cloud import ArmClient, FakeHost, new_client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path


@pytest.fixture
def fake_host() -> FakeHost:
    return FakeHost()


@pytest.fixture
async def arm(tmp_path: Path, fake_host: FakeHost) -> AsyncGenerator[ArmClient, None]:
    found = new_client(tmp_path, fake_host)
    await found.cloud.open()
    yield found
    await found.cloud.close()


@pytest.fixture
def reopen(tmp_path: Path) -> Callable[[FakeHost], ArmClient]:
    """Open the same state directory again, as a restarted daemon does."""
    return lambda host: new_client(tmp_path, host)
