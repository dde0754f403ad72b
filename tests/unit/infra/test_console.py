"""What a person sees: lines into a pipe, questions on a terminal."""

from __future__ import annotations

import io
import sys
from itertools import count
from typing import Any, cast

import pytest
from rich.console import Console as RichConsole
from rich.text import Text

from infra import console as console_module
from infra.console import Console, TableRow


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def console(stream: io.StringIO) -> Console:
    ticks = count(0, 1.5)
    return Console(stream, lambda: next(ticks))


def test_a_step_is_a_line_with_its_outcome_and_its_time(console: Console, stream: io.StringIO) -> None:
    with console.step("deploy [x]") as step:
        step.update("waiting")
        step.update("waiting")
        step.update("ready")
        step.finish("done")
    assert stream.getvalue() == "  deploy [x]: waiting\n  deploy [x]: ready\n✓ deploy [x]: done  1.5 s\n"


def test_a_step_that_fails_says_so_and_lets_the_error_through(console: Console, stream: io.StringIO) -> None:
    with pytest.raises(KeyError), console.step("deploy"):
        raise KeyError("x")
    assert stream.getvalue() == "✗ deploy: failed  1.5 s\n"


def test_progress_into_a_pipe_is_one_line(console: Console, stream: io.StringIO) -> None:
    with console.progress("upload", 5_200_000) as advance:
        advance(5_000_000)
        advance(200_000)
    assert stream.getvalue() == "✓ upload: 5.2 MB, 866.7 kB/s  6.0 s\n"


def test_a_long_transfer_into_a_pipe_shows_rate_and_time_left_now_and_then(stream: io.StringIO) -> None:
    now_s = [0.0]
    console = Console(stream, lambda: now_s[0])
    with console.progress("upload 2 files", 300_000_000) as advance:
        for _ in range(29):
            now_s[0] += 1
            advance(10_000_000)
        advance(10_000_000)
    assert stream.getvalue().splitlines() == [
        "  upload 2 files: 100.0 MB of 300.0 MB, 10.0 MB/s, 20 s left",
        "  upload 2 files: 200.0 MB of 300.0 MB, 10.0 MB/s, 10 s left",
        "✓ upload 2 files: 300.0 MB, 10.3 MB/s  29.0 s",
    ]


def test_a_step_within_a_step_and_a_bar_within_that(console: Console, stream: io.StringIO) -> None:
    with console.step("outer"), console.progress("inner", 10):
        pass
    assert [line.split("  ")[0] for line in stream.getvalue().splitlines()] == [
        "✓ inner: 10 bytes",
        "✓ outer",
    ]


def test_information_and_warnings(console: Console, stream: io.StringIO) -> None:
    console.info("it is [bold]")
    console.warn("careful")
    assert stream.getvalue() == "it is [bold]\nwarning: careful\n"
    assert not console.is_interactive


@pytest.mark.parametrize(
    ("typed", "choices", "chosen"),
    [
        ("\n", ("a", "b"), "a"),
        ("2\n", ("a", "b"), "b"),
        ("b\n", ("a", "b"), "b"),
        ("3\n", ("a", "b"), "3"),
        ("new\n", (), "new"),
        ("", (), ""),
    ],
)
def test_a_choice(
    console: Console, monkeypatch: pytest.MonkeyPatch, typed: str, choices: tuple[str, ...], chosen: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert console.choose("Which?", choices) == chosen


@pytest.mark.parametrize(
    ("typed", "is_yes"), [("y\n", True), ("YES\n", True), ("\n", False), ("no\n", False), ("", False)]
)
def test_anything_but_yes_is_no(
    console: Console, monkeypatch: pytest.MonkeyPatch, typed: str, *, is_yes: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert console.confirm("Sure?") is is_yes


class Terminal(io.StringIO):
    """A stream that is taken for a terminal."""

    def isatty(self) -> bool:
        return True


ROWS = (TableRow("file [share] x", "done", 2.0), TableRow("app y", "running", 1.0))


def test_a_table_in_a_pipe_is_a_line_for_each_change(console: Console, stream: io.StringIO) -> None:
    with console.table("deploy") as table:
        table.show(ROWS[1:])
        table.show(ROWS)
        table.show((ROWS[0], TableRow("app y", "failed", 4.0)))
    assert [line.rstrip() for line in stream.getvalue().splitlines()] == [
        "  … app y  1.0 s",
        "  ✓ file [share] x  2.0 s",
        "  ✗ app y  4.0 s",
        "✓ deploy  7.5 s",
    ]


def test_a_table_on_a_terminal_stays_when_it_has_ended_also_badly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    terminal, ticks = Terminal(), count(0, 1.5)
    console = Console(terminal, lambda: next(ticks))

    def deploy() -> None:
        with console.table("deploy") as table:
            table.show(ROWS)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        deploy()
    lines = [line.rpartition("\x1b[2K")[2] for line in terminal.getvalue().splitlines()]
    assert [line.rpartition("  ")[0] for line in lines[-3:]] == [
        "  ✓ file [share] x",
        "  … app y",
        "✗ deploy: failed",
    ]


def test_what_runs_grows_older_between_two_shows() -> None:
    assert ROWS[1].markup(2.0).endswith("[dim]3.0 s[/dim]")
    assert ROWS[0].markup(2.0).endswith("[dim]2.0 s[/dim]")


def test_what_is_waited_for_is_shown_on_a_terminal_only_while_nothing_else_is(
    console: Console, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    on_terminal = Console(terminal)
    with on_terminal.step("provision"), on_terminal.waiting("az group show"):
        pass
    assert "az group show" not in terminal.getvalue()
    with on_terminal.waiting("az group show"), on_terminal.waiting("az group list"):
        pass
    assert "az group show" in terminal.getvalue()
    assert "az group list" not in terminal.getvalue()
    with console.waiting("az group show"):
        pass
    assert stream.getvalue() == ""


def test_a_step_tells_how_long_each_phase_took(stream: io.StringIO) -> None:
    now_s = [0.0]
    console = Console(stream, lambda: now_s[0])
    with console.step("wait") as step:
        for phase, more, seconds in (
            ("asking", "", 0.1),
            ("installing packages", " 10 %", 4.0),
            ("installing packages", " 90 %", 4.0),
            ("loading", "", 2.5),
        ):
            step.enter(phase, more)
            now_s[0] += seconds
    assert stream.getvalue().splitlines() == [
        "  wait: asking",
        "  wait: installing packages 10 %",
        "  wait: installing packages 90 %",
        "  wait: loading",
        "✓ wait  10.6 s",
        "  installing packages 8.0 s, loading 2.5 s",
    ]


def test_a_step_that_fails_tells_it_too(stream: io.StringIO) -> None:
    now_s = [0.0]
    console = Console(stream, lambda: now_s[0])

    def fail() -> None:
        with console.step("wait") as step:
            step.enter("installing")
            now_s[0] += 3
            step.enter("loading")
            now_s[0] += 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    failed, phases = stream.getvalue().splitlines()[-2:]
    assert (failed, phases) == ("✗ wait: failed  5.0 s", "  installing 3.0 s, loading 2.0 s")


def test_a_detail_has_a_line_of_its_own_where_nothing_cuts_it_off() -> None:
    shown: list[str] = []

    class Status:
        def update(self, text: str) -> None:
            shown.append(Text.from_markup(text).plain)

    text = "restart, and wait until 20260101T000000Z-01234567 serves"
    show = console_module._detailed(cast("Any", Status()), text, RichConsole(width=80))
    show("replica …58vqw runs, and is not ready yet (12 s)")
    assert shown == [f"{text}\n  replica …58vqw runs, and is not ready yet (12 s)"]
    show(" ".join(["reading"] * 30))
    assert shown[1].split() == [*text.split(), *["reading"] * 30]
    assert max(len(line) for each in shown for line in each.splitlines()) < 80
