"""A share on the local cloud's Azure Files, reached over TLS as the pipeline reaches Azure's."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING

import pytest

from infra.clock import ManualClock
from infra.share.azure import AzureShare, connect
from infra.share.errors import ShareAddress
from tests.doubles.file_server import KEY, FileServer, serve_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NUMBERS = count(1)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    with serve_files(tmp_path_factory.mktemp("files")) as server:
        yield server


@pytest.fixture
def server(running: FileServer) -> Iterator[FileServer]:
    running.instead.clear()
    running.lost.clear()
    running.requests.clear()
    yield running
    running.instead.clear()
    running.lost.clear()


@pytest.fixture
def place(server: FileServer) -> ShareAddress:
    account = f"account{next(NUMBERS)}"
    server.service.create_share(account, "share", 100)
    return ShareAddress(account, "share", f"https://localhost:{server.port}/{account}")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def share(server: FileServer, place: ShareAddress, clock: ManualClock) -> Iterator[AzureShare]:
    made = connect(place, KEY, server.ca, clock)
    with made:
        yield made


@pytest.fixture
def folder(server: FileServer, place: ShareAddress) -> Path:
    """The share as a replica sees it."""
    return server.service.share_path(place.account, place.share)
