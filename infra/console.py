"""Show progress on stderr: one line for each step with its duration, and bars for long transfers.

stdout is reserved for results and is never written here. A terminal shows the running step with a spinner; a
pipe or a file gets plain lines, one for each step. `NO_COLOR` is respected.
"""

from __future__ import annotations

import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final, Literal, TypeAlias

from rich.cells import cell_len, set_cell_size
from rich.console import Console as RichConsole
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.spinner import Spinner
from rich.text import Text

from infra.wording import readable_size

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.status import Status

Timer: TypeAlias = Callable[[], float]
"""Returns the seconds since a fixed moment, such as `infra.clock.Clock.elapsed_s`."""

RowState = Literal["running", "done", "failed"]

LINE_EVERY_S: Final = 10.0
"""How often a long transfer writes a line if there is no terminal."""

_NOTICED_S: Final = 0.5
"""From which duration on a phase of a step is worth a mention."""

_FEWEST_COLUMNS: Final = 20
_INDENT: Final = 4
"""The spinner and the space before a detail, in columns."""

_ECHO: Final = 2
"""The `^C` that a terminal writes after a live line, in columns.

In the next line it would move the cursor, and a part of what was live would stay on the screen.
"""

_AROUND_TITLE: Final = 2 + _ECHO
"""The spinner and the space before a title, in columns."""

_AROUND_TEXT: Final = 6 + _ECHO
"""The indent and the mark before the text of a row, and the space after it, in columns."""

_RATED_BYTES: Final = 1_000_000
"""From which size on the rate of a transfer is worth showing."""

_MARKS: Final[dict[RowState, str]] = {
    "running": "[yellow]…[/yellow]",
    "done": "[green]✓[/green]",
    "failed": "[red]✗[/red]",
}


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a live table: what it is about, its state, and for how long it has been or was running."""

    text: str
    state: RowState
    seconds: float

    def markup(self, more_s: float = 0.0, columns: int | None = None) -> str:
        """Return the row as markup, `more_s` seconds later. Its text is cut to fit in `columns`, if given."""
        seconds = self.seconds + (more_s if self.state == "running" else 0.0)
        time_text = f"{seconds:.1f} s"
        text = self.text if columns is None else _fitted(self.text, columns - len(time_text) - _AROUND_TEXT)
        return f"  {_MARKS[self.state]} {escape(text)}  [dim]{time_text}[/dim]"


class Table:
    """A live table of things that run at the same time.

    Attributes:
        rows: What is shown.
        shown_at_s: When it was shown, on the console's clock.
    """

    def __init__(self, show_changed: Callable[[TableRow], None], clock: Timer) -> None:
        self.rows: tuple[TableRow, ...] = ()
        self.shown_at_s = clock()
        self._show_changed = show_changed
        self._clock = clock

    def show(self, rows: tuple[TableRow, ...]) -> None:
        """Show rows in place of those before. Without a terminal, a line for each that has changed."""
        before = {row.text: row.state for row in self.rows}
        self.rows, self.shown_at_s = rows, self._clock()
        for row in rows:
            if before.get(row.text) != row.state:
                self._show_changed(row)


class Step:
    """A running step, which reports its progress and its outcome."""

    def __init__(self, show: Callable[[str], None], clock: Timer = time.monotonic) -> None:
        self._show = show
        self._clock = clock
        self._phases: list[tuple[str, float]] = []
        self.outcome = ""

    def update(self, detail: str) -> None:
        """Show a detail of the running step. An unchanged detail is not repeated."""
        self._show(detail)

    def enter(self, phase: str, more: str = "") -> None:
        """Show the phase that the step is in, and measure how long it is in it.

        Args:
            phase: The phase. The time is counted for each until the next one.
            more: What changes within the phase, such as a per cent.
        """
        if not self._phases or self._phases[-1][0] != phase:
            self._phases.append((phase, self._clock()))
        self._show(f"{phase}{more}")

    def phases(self) -> tuple[tuple[str, float], ...]:
        """Return the phases so far and how many seconds each took, in order."""
        ends = [start_s for _, start_s in self._phases[1:]] + [self._clock()]
        pairs = zip(self._phases, ends, strict=True) if self._phases else ()
        return tuple((phase, end_s - start_s) for (phase, start_s), end_s in pairs)

    def finish(self, outcome: str) -> None:
        """Set the outcome on the step's final line, such as `nothing to change`."""
        self.outcome = outcome


class Console:
    """Progress for people, written to one stream, by default stderr."""

    def __init__(self, stream: IO[str] | None = None, clock: Timer = time.monotonic) -> None:
        self._rich = RichConsole(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._clock = clock
        self._live_count = 0

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
        with self._counted(), self._show_running(text) as step:
            try:
                yield step
            except BaseException as error:
                self._end("[red]✗[/red]", text, _outcome(error), start)
                self._show_phases(step)
                raise
        self._end("[green]✓[/green]", text, step.outcome, start)
        self._show_phases(step)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show on a terminal what the body waits for, if nothing else is shown meanwhile. Leaves no line."""
        if self.is_terminal and self._live_count == 0:
            with self._counted(), self._rich.status(self._title(text)):
                yield
        else:
            yield

    @contextmanager
    def progress(self, text: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        """Show a bar over `total_bytes` and yield a function that advances it by a number of bytes."""
        start = self._clock()
        with self._counted(), self._bar(text, total_bytes) as advance:
            try:
                yield advance
            except BaseException as error:
                self._end("[red]✗[/red]", text, _outcome(error), start)
                raise
        self._end("[green]✓[/green]", text, readable_size(total_bytes), start, total_bytes)

    @contextmanager
    def table(self, text: str) -> Iterator[Table]:
        """Show a live table while the body runs, then its rows and one line with the duration of it all.

        While the table is live, what is too long for its line is cut in the middle. The rows that stay are
        whole, so that names can be copied.
        """
        start = self._clock()
        try:
            with self._counted(), self._show_table(text) as table:
                yield table
        except BaseException as error:
            self._end("[red]✗[/red]", text, _outcome(error), start)
            raise
        self._end("[green]✓[/green]", text, "", start)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count what is shown live while the body runs."""
        self._live_count += 1
        try:
            yield
        finally:
            self._live_count -= 1

    @contextmanager
    def _show_table(self, text: str) -> Iterator[Table]:
        if not self.is_terminal:
            yield Table(lambda row: self._rich.print(row.markup()), self._clock)
            return
        table, spinner = Table(lambda _: None, self._clock), Spinner("dots")

        def render() -> RenderableType:
            more_s, columns = self._clock() - table.shown_at_s, self._rich.width
            spinner.update(text=self._title(text))
            return Group(spinner, *(Text.from_markup(row.markup(more_s, columns)) for row in table.rows))

        try:
            with Live(get_renderable=render, console=self._rich, transient=True):
                yield table
        finally:
            for row in table.rows:
                self._rich.print(row.markup())

    @contextmanager
    def _show_running(self, text: str) -> Iterator[Step]:
        if not self.is_terminal:
            yield Step(_only_changes(lambda detail: self.info(f"  {text}: {detail}")), self._clock)
            return
        with self._rich.status(self._title(text)) as status:
            yield Step(_detailed(status, self._title(text), self._rich), self._clock)

    def _title(self, text: str) -> str:
        """Return the markup of a title beside a spinner, cut to fit in one line."""
        return escape(_fitted(text, self._rich.width - _AROUND_TITLE))

    def _show_phases(self, step: Step) -> None:
        """Write how long each phase of a step took, if there were several that one could notice."""
        phases = [(phase, seconds) for phase, seconds in step.phases() if seconds >= _NOTICED_S]
        if len(phases) > 1:
            line = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in phases)
            self._rich.print(f"  [dim]{escape(line)}[/dim]")

    @contextmanager
    def _bar(self, text: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        if not self.is_terminal:
            yield _Transfer(text, total_bytes, self._clock, self.info).advance
            return
        with Progress(*columns, console=self._rich, transient=True) as bar:
            task = bar.add_task(escape(text), total=total_bytes)
            yield lambda size_bytes: bar.advance(task, size_bytes)

    def _ask(self, prompt: str) -> None:
        self._rich.print(prompt, end="", markup=False)

    def _end(self, mark: str, text: str, outcome: str, start: float, transferred_bytes: int = 0) -> None:
        took_s = self._clock() - start
        what = f"{text}: {outcome}" if outcome else text
        if transferred_bytes >= _RATED_BYTES and took_s >= 1:
            what += f", {readable_size(round(transferred_bytes / took_s))}/s"
        self._rich.print(f"{mark} {escape(what)}  [dim]{took_s:.1f} s[/dim]")


class _Transfer:
    """A transfer that is shown by lines, for a pipe or a file. Safe to use from several threads."""

    def __init__(self, text: str, total_bytes: int, clock: Timer, show: Callable[[str], None]) -> None:
        self._text = text
        self._total_bytes = total_bytes
        self._clock = clock
        self._show = show
        self._lock = threading.Lock()
        self._done_bytes = self._shown_bytes = 0
        self._shown_s = clock()

    def advance(self, size_bytes: int) -> None:
        """Count bytes, and write a line with the rate and the time left every `LINE_EVERY_S` seconds."""
        with self._lock:
            self._done_bytes += size_bytes
            now_s = self._clock()
            if now_s - self._shown_s < LINE_EVERY_S or self._done_bytes >= self._total_bytes:
                return
            rate = (self._done_bytes - self._shown_bytes) / (now_s - self._shown_s)
            self._shown_s, self._shown_bytes = now_s, self._done_bytes
            left_s = (self._total_bytes - self._done_bytes) / rate if rate else 0.0
            done, total = readable_size(self._done_bytes), readable_size(self._total_bytes)
            line = f"  {self._text}: {done} of {total}, {readable_size(round(rate))}/s, {left_s:.0f} s left"
        self._show(line)


def _outcome(error: BaseException) -> str:
    """Return the outcome of what an exception has ended."""
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


def _fitted(text: str, columns: int) -> str:
    """Return a text in at most `columns` columns: what is too long loses its middle.

    The start has the kind of a resource, and the end of its name is what it differs in from others.
    """
    if cell_len(text) <= columns:
        return text
    kept = max(columns - 1, 0)
    end = kept * 2 // 5
    return f"{set_cell_size(text, kept - end)}…{set_cell_size(text[::-1], end)[::-1]}"


def _only_changes(show: Callable[[str], None]) -> Callable[[str], None]:
    last = ""

    def show_if_new(text: str) -> None:
        nonlocal last
        if text != last:
            last = text
            show(text)

    return show_if_new


def _detailed(status: Status, title: str, console: RichConsole) -> Callable[[str], None]:
    """Return what shows a detail on lines of its own, below a step's title: what does not fit is cut off."""

    def show(detail: str) -> None:
        lines = textwrap.wrap(detail, max(_FEWEST_COLUMNS, console.width - _INDENT))
        shown = "".join(f"\n  [dim]{escape(line)}[/dim]" for line in lines)
        status.update(f"{title}{shown}")

    return show
