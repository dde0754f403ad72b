"""What a wait shows on a terminal of 80 columns: phase and per cent from inside, the log, the times."""

from __future__ import annotations

import os
import pty
import re
import struct
import termios
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fcntl import ioctl
from typing import TYPE_CHECKING, Final

import pytest

from infra.az.revision import NoResponse, Replica, VersionResponse
from infra.clock import ManualClock
from infra.console import Console
from infra.release.manifest import FileEntry, Manifest
from infra.release.plan import make_plan
from infra.release.rollout import Rollout
from infra.release.takeovers.outcome import NotServedError, Served
from infra.release.takeovers.silence import last_words
from infra.release.takeovers.takeover import Takeover
from tests.doubles.background import at_once
from tests.doubles.memory_share import MemoryShare
from tests.doubles.watching_app import WatchingApp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COLUMNS: Final = 80
RELEASE: Final = "20260101T000000Z-01234567"
NAME: Final = f"{'a-very-long-name-of-an-app' * 3}--0000001-6d5f9c7b8d-xk2lp"
LOG: Final = (
    "2026-01-01T00:00:01Z INFO inference.models: reading model-00007-of-00030.safetensors (4.9 GB)",
    "2026-01-01T00:00:02Z INFO inference.access: GET /version 200 0 ms key=- request=1",
)


@dataclass
class Terminal:
    """What was written to a pseudo-terminal of 80 columns."""

    written: bytes = b""
    columns: int = COLUMNS
    drawn: threading.Event = field(default_factory=threading.Event)
    master: int = field(init=False)
    slave: int = field(init=False)

    def __post_init__(self) -> None:
        self.master, self.slave = pty.openpty()
        ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, self.columns, 0, 0))

    @contextmanager
    def console(self, clock: Callable[[], float]) -> Iterator[Console]:
        """Return a console that writes to it, and read what is written until the end of the block."""
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        with os.fdopen(self.slave, "w") as stream:
            yield Console(stream, clock)
        reader.join(timeout=60)
        os.close(self.master)

    def text(self) -> str:
        """Return it as one line of words, without control sequences."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.written.decode())
        return " ".join(plain.split())

    def _read(self) -> None:
        try:
            while data := os.read(self.master, 1 << 16):
                self.written += data
                self.drawn.set()
        except OSError:
            return  # the other end is closed


class StartingApp(WatchingApp):
    """An app whose replica has a long name, is silent at first, and reports from inside what it does."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(MemoryShare(), clock)
        self.clock = clock

    def replicas(self, revision: str) -> tuple[Replica, ...]:
        assert revision in {"r", "app--1"}
        return (Replica(NAME, is_started=True),)

    def console_tail(self, replica: str) -> tuple[str, ...]:
        assert replica == NAME
        return LOG

    def _state(self, phase: str, percent: int, *, is_ready: bool = False) -> VersionResponse:
        release, wanted = RELEASE, RELEASE
        return VersionResponse(
            release, NAME, "t", is_ready=is_ready, wanted=wanted, phase=phase, percent=percent, revision="r"
        )

    def version(self) -> VersionResponse | NoResponse:
        if self.clock.elapsed_s() < 5:
            return self._state("installing packages", 0)
        if self.clock.elapsed_s() < 30:
            return NoResponse("HTTP 503")
        return self._state("serving", 100, is_ready=True)

    def reports(self) -> tuple[VersionResponse, ...]:
        return (self._state("loading the base model", int(self.clock.elapsed_s())),)


class ShowingClock(ManualClock):
    """A clock each tick of which takes long enough for the terminal to be drawn twice, whole."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(datetime(2026, 1, 1, tzinfo=UTC))
        self._terminal = terminal

    def sleep(self, seconds: float) -> None:
        super().sleep(max(seconds, 4.0))
        for _ in range(2):
            self._terminal.drawn.clear()
            assert self._terminal.drawn.wait(60)


def take_over(console: Console, clock: ManualClock) -> None:
    Takeover(StartingApp(clock), clock, console, 60.0, at_once, lambda: None).run(RELEASE, "")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


def test_nothing_is_cut_off_on_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLUMNS", raising=False)
    terminal = Terminal()
    clock = ShowingClock(terminal)
    with terminal.console(clock.elapsed_s) as console:
        take_over(console, clock)
    shown = terminal.text()
    assert f"wait until every replica serves {RELEASE}" in shown
    assert "replica …xk2lp: installing packages, 0 % (4 s)" in shown
    words = "INFO inference.models: reading model-00007-of-00030.safetensors (4.9 GB)"
    assert f"replica …xk2lp: loading the base model, 20 % (20 s): {words}" in shown
    times = "replica …xk2lp: installing packages 8.0 s, no answer: HTTP 503 4.0 s,"
    assert f"{times} replica …xk2lp: loading the base model 20.0 s" in shown
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.written.decode()).replace("\r", "\n").split("\n")
    assert not [line for line in lines if line.endswith("…")]


def test_a_file_gets_a_line_for_each_change(clock: ManualClock, capsys: pytest.CaptureFixture[str]) -> None:
    take_over(Console(clock=clock.elapsed_s), clock)
    shown = capsys.readouterr().err
    assert "replica …xk2lp: installing packages, 0 % (0 s)" in shown
    assert "replica …xk2lp: loading the base model, 29 % (29 s): INFO inference.models: reading" in shown
    assert NAME not in shown


def test_a_wait_after_a_restart_shows_the_phase_from_inside_as_well(
    clock: ManualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(clock=clock.elapsed_s)
    outcome = Rollout(StartingApp(clock), clock, console, 60.0, at_once, lambda: None).wait(RELEASE)
    assert isinstance(outcome, Served)
    shown = capsys.readouterr().err
    assert "replica …xk2lp: installing packages, 0 % (0 s)" in shown
    assert "replica …xk2lp: loading the base model, 29 % (29 s): INFO inference.models: reading" in shown


class SecondApp(StartingApp):
    """An app one of whose two replicas is ready, so that the ingress passes over the other, which starts."""

    def replicas(self, revision: str) -> tuple[Replica, ...]:
        return (Replica("app--1-first", is_started=True, is_ready=True), *super().replicas(revision))

    def version(self) -> VersionResponse | NoResponse:
        return replace(self._state("serving", 100, is_ready=True), replica="app--1-first")


def test_the_replica_that_is_waited_for_is_shown_and_named_and_not_the_one_that_serves(
    clock: ManualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    takeover = Takeover(SecondApp(clock), clock, Console(clock=clock.elapsed_s), 20.0, at_once, lambda: None)
    with pytest.raises(NotServedError) as raised:
        takeover.run(RELEASE, "")
    shown = capsys.readouterr().err
    assert "replica …xk2lp has not answered (0 s)" in shown
    assert "replica …xk2lp: loading the base model, 19 % (19 s): INFO inference.models: reading" in shown
    reason = f"not within 20 s: replica {NAME} is not ready: loading the base model, 19 %"
    assert raised.value.outcome.cause.reason == reason


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (LOG, "INFO inference.models: reading model-00007-of-00030.safetensors (4.9 GB)"),
        (("[2026-01-01 00:00:01,123] loading", "", "  "), "loading"),
        (("2026-01-01T00:00:01.5+00:00 loading",), "loading"),
        (("Loading weights: 40 %",), "Loading weights: 40 %"),
        (LOG[1:], ""),
        ((), ""),
    ],
)
def test_the_last_words_of_a_log_are_neither_its_time_nor_our_requests(
    log: tuple[str, ...], words: str
) -> None:
    assert last_words(log) == words


def test_a_first_deploy_shows_a_count_and_no_names() -> None:
    files = tuple(FileEntry(f"inference/module{number}.py", 100, f"{number:064}") for number in range(159))
    (line,) = make_plan(Manifest(files), None).lines()
    assert line == "upload 159 files (15.9 kB)"
