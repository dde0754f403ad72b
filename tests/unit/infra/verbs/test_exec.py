"""A program in a replica's container."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from infra.errors import RemoteError, UsageError
from infra.process import Command, Runner
from infra.verbs.exec import open_shell

if TYPE_CHECKING:
    from pathlib import Path

    from infra.session import Session


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command lines that are run on the terminal, which all succeed."""
    lines: list[str] = []

    def interact(_runner: Runner, command: Command) -> int:
        lines.append(command.line)
        return 0

    monkeypatch.setattr(Runner, "interact", interact)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    return lines


def test_a_shell_is_opened_in_the_named_replica(session: Session, commands: list[str]) -> None:
    open_shell(session)
    open_shell(session, "sh", "app--1-x")
    first, second = commands
    assert first.startswith("az containerapp exec --name app --command bash --resource-group my-rg")
    assert "--command sh --replica app--1-x" in second


def test_an_exit_code_is_an_error_that_says_what_to_try(
    session: Session, commands: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert commands == []
    monkeypatch.setattr(Runner, "interact", lambda *_: 1)
    with pytest.raises(RemoteError, match="az ended with exit code 1") as caught:
        open_shell(session)
    assert "--command sh" in str(caught.value.hint)


def test_without_a_terminal_it_says_so(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(UsageError, match="needs a terminal"):
        open_shell(session)


def test_a_program_has_the_streams_and_the_interrupt(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = "import signal; print(signal.getsignal(signal.SIGINT).__name__); raise SystemExit(3)"
    runner = Runner({"PATH": os.environ["PATH"]}, tmp_path)
    before = signal.getsignal(signal.SIGINT)
    assert runner.interact(Command((sys.executable, "-c", script))) == 3
    assert capfd.readouterr().out == "default_int_handler\n"
    assert signal.getsignal(signal.SIGINT) is before
