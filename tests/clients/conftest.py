"""What the tests of clients share. The session `clients` of nox runs them, in environments of their own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.doubles.remote_server import SERVER_PYTHON, Server, running

if TYPE_CHECKING:
    from collections.abc import Iterator

if SERVER_PYTHON is None:
    collect_ignore_glob = ["test_*.py"]

# Clients must not report to their makers, nor ask a hub for anything.
os.environ |= {
    "ANONYMIZED_TELEMETRY": "False", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
}  # fmt: skip


@pytest.fixture(scope="session")
def scripted_server() -> Iterator[Server]:
    with running("scripted") as server:
        yield server


@pytest.fixture
def server(scripted_server: Server) -> Server:
    """The server with scripted models, without answers."""
    scripted_server.script()
    return scripted_server


@pytest.fixture(scope="session")
def tiny_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server with a random network."""
    folder = tmp_path_factory.mktemp("mount")
    with running("tiny", folder) as server:
        yield server
