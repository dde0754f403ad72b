"""Show progress on stderr: one line for each step with its duration, and bars for long transfers.

stdout is reserved for results and is never written here. A terminal shows the running step with a spinner; a
pipe or a file gets plain lines, one for each step. `NO_COLOR` is respected.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from infra.wording import readable_size

if TYPE_CHECKING:
    from rich.status import Status

Clock = Callable[[], float]


class Step:
    """A running step, which reports its progress and its outcome."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self.outcome = ""

    def update(self, detail: str) -> None:
        """Show a detail of the running step, such as its phase. An unchanged detail is not repeated."""
        self._show(detail)

    def finish(self, outcome: str) -> None:
        """Set the outcome on the step's final line, such as `nothing to change`."""
        self.outcome = outcome


class Console:
    """Progress for people, written to one stream, by default stderr."""

    def __init__(self, stream: IO[str] | None = None, clock: Clock = time.monotonic) -> None:
        self._rich = RichConsole(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._clock = clock

    @property
    def is_terminal(self) -> bool:
        """Return whether the stream is a terminal."""
        return self._rich.is_terminal

    @property
    def is_interactive(self) -> bool:
        """Return whether the user can be asked: there is a terminal for both output and input."""
        return self.is_terminal and sys.stdin.isatty()

    def choose(self, question: str, choices: Sequence[str]) -> str:
        """Ask the user for one of several choices, the first by default. Other text is returned as typed."""
        self.info(question)
        for number, choice in enumerate(choices, start=1):
            self.info(f"  {number}. {choice}")
        self._ask("number or name [1]: " if choices else "name: ")
        answer = sys.stdin.readline().strip()
        if not answer and choices:
            return choices[0]
        is_number = answer.isdecimal() and 1 <= int(answer) <= len(choices)
        return choices[int(answer) - 1] if is_number else answer

    def confirm(self, question: str) -> bool:
        """Ask the user a yes/no question; anything but yes is no."""
        self._ask(f"{question} [y/N]: ")
        return sys.stdin.readline().strip().casefold() in {"y", "yes"}

    def info(self, text: str) -> None:
        """Write one line."""
        self._rich.print(escape(text))

    def warn(self, text: str) -> None:
        """Write one line that is marked as a warning."""
        self._rich.print(f"[yellow]warning:[/yellow] {escape(text)}")

    @contextmanager
    def step(self, text: str) -> Iterator[Step]:
        """Show a step while its body runs, then one line with its outcome and its duration."""
        start = self._clock()
        with self._show_running(text) as step:
            try:
                yield step
            except BaseException:
                self._end("[red]✗[/red]", text, "failed", start)
                raise
        self._end("[green]✓[/green]", text, step.outcome, start)

    @contextmanager
    def progress(self, text: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        """Show a bar over `total_bytes` and yield a function that advances it by a number of bytes."""
        start = self._clock()
        with self._bar(text, total_bytes) as advance:
            try:
                yield advance
            except BaseException:
                self._end("[red]✗[/red]", text, "failed", start)
                raise
        self._end("[green]✓[/green]", text, readable_size(total_bytes), start)

    @contextmanager
    def _show_running(self, text: str) -> Iterator[Step]:
        if not self.is_terminal:
            yield Step(_only_changes(lambda detail: self.info(f"  {text}: {detail}")))
            return
        with self._rich.status(escape(text)) as status:
            yield Step(_detailed(status, text))

    @contextmanager
    def _bar(self, text: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._rich, transient=True, disable=not self.is_terminal) as bar:
            task = bar.add_task(escape(text), total=total_bytes)
            yield lambda size_bytes: bar.advance(task, size_bytes)

    def _ask(self, prompt: str) -> None:
        self._rich.print(prompt, end="", markup=False)

    def _end(self, mark: str, text: str, outcome: str, start: float) -> None:
        what = f"{text}: {outcome}" if outcome else text
        self._rich.print(f"{mark} {escape(what)}  [dim]{self._clock() - start:.1f} s[/dim]")


def _only_changes(show: Callable[[str], None]) -> Callable[[str], None]:
    last = ""

    def show_if_new(text: str) -> None:
        nonlocal last
        if text != last:
            last = text
            show(text)

    return show_if_new


def _detailed(status: Status, text: str) -> Callable[[str], None]:
    return lambda detail: status.update(f"{escape(text)}  [dim]{escape(detail)}[/dim]")
