"""What a replica reports on the share, for machines that cannot reach it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from inference.supervisor import reports as module
from inference.supervisor.reports import ask_version
from tests.unit.inference.supervisor.conftest import ONE, PATIENCE_S, TWO

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.unit.inference.supervisor.conftest import Container


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_S", 0.02)


async def report(container: Container, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Wait for a report that is as it should be."""
    path = container.mount / "replicas" / "rep.json"
    async with asyncio.timeout(PATIENCE_S):
        while True:
            document = json.loads(path.read_text()) if path.exists() else None
            if document is not None and holds(document):
                assert isinstance(document, dict)
                return document
            await asyncio.sleep(0.01)


def ask(container: Container, question: str) -> None:
    (container.mount / "replicas").mkdir(exist_ok=True)
    (container.mount / "replicas" / "ASKED").write_text(f"{question}\n")


async def stop(container: Container) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    assert await container.end() == 0


async def test_a_question_is_answered_with_the_servers_own_version(container: Container) -> None:
    container.release(ONE)
    await container.start(ONE)
    served = await container.serving(ONE)
    assert not (container.mount / "replicas").exists()  # nobody has asked: nothing is written
    ask(container, "first")
    found = await report(container, lambda document: document["ready"])
    assert (found["asked"], found["release"], found["pid"]) == ("first", ONE, served["pid"])
    assert found["wanted_release"] == ONE
    ask(container, "second")
    await report(container, lambda document: document["asked"] == "second")
    assert [path.name for path in (container.mount / "replicas").glob(".*")] == []
    await stop(container)


async def test_a_takeover_is_reported_without_another_question_and_its_failure_as_well(
    container: Container,
) -> None:
    container.release(ONE)
    container.release(TWO, "fails")
    await container.start(ONE)
    await container.serving(ONE)
    ask(container, "only")
    await report(container, lambda document: document["ready"])
    container.want(TWO)
    failed = await report(container, lambda document: bool(document["last_error"]))
    assert failed["last_error"] == f"{TWO}: cannot serve: there is no model"
    assert (failed["asked"], failed["release"], failed["wanted_release"]) == ("only", ONE, TWO)
    await stop(container)


async def test_how_models_have_answered_is_in_it(container: Container) -> None:
    container.release(ONE, "answers")
    await container.start(ONE)
    ask(container, "first")
    found = await report(container, lambda document: "answers" in document)
    assert found["answers"] == {"base": None, "tuned": "it is broken"}
    await stop(container)


async def test_a_server_that_accepts_and_never_answers_is_not_ready(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 0.1)
    container.release(ONE, "mute")
    await container.start(ONE)
    ask(container, "first")
    # On a busy machine the page that answers before the server may be too slow as well.
    found = await report(
        container,
        lambda document: (
            document["phase"].startswith("the server") and document.get("server", {}).get("ready", False)
        ),
    )
    assert not found["ready"]
    assert found["phase"] == "the server does not answer inside of the container: timed out"
    await stop(container)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\n{}", "HTTP 500"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "HTTP 200"),
        (b"good day\r\n\r\n", "good day"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{", "Expecting property name"),
    ],
)
async def test_another_answer_counts_as_none(answer: bytes, reason: str) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    listener = socket.create_server(("127.0.0.1", 0))
    async with await asyncio.start_server(respond, sock=listener):
        document = await asyncio.to_thread(ask_version, listener)
    assert document["ready"] is False
    assert reason in document["phase"]


async def test_a_share_that_cannot_be_written_is_logged_once_and_ends_nothing(
    container: Container, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def fail(source: Path, _target: object) -> None:
        tried.append(json.loads(source.read_text())["asked"])
        raise PermissionError(13, "Permission denied")

    container.release(ONE)
    await container.start(ONE)
    await container.serving(ONE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        for question in ("first", "second"):
            ask(container, question)
            async with asyncio.timeout(PATIENCE_S):
                while question not in tried:  # noqa: ASYNC110 - a thread tries it
                    await asyncio.sleep(0.01)
    ask(container, "third")
    await report(container, lambda document: document["asked"] == "third")
    assert caplog.text.count("cannot report on the share") == 1
    await stop(container)
