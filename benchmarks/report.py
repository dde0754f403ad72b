"""Format the results of a contest as JSON, as Markdown and as a plot."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benchmarks.contest import Contest, Entry, Row

MAX_LINE: Final = 100

COLUMNS: Final = (
    "contestant",
    "tokens/s",
    "slowest to fastest",
    "ratio",
    "first token p50, ms",
    "p95",
    "p99",
    "later than the baseline's, ms",
    "inter-token p50, ms",
    "p95",
    "p99",
    "errors",
)


def to_json(contest: Contest) -> str:
    """Return the complete results as JSON."""
    return json.dumps(asdict(contest), indent=2) + "\n"


def to_markdown(contest: Contest) -> str:
    """Return one table a load."""
    parts = [_head(contest)]
    for load in contest.loads:
        rows = [row for row in contest.rows if row.clients == load.clients]
        plural = "" if load.clients == 1 else "s"
        lines = [_line(COLUMNS), _line(["---"] + ["---:"] * (len(COLUMNS) - 1)), *map(_row_line, rows)]
        parts.append(f"## {load.clients} client{plural}\n\n" + "\n".join(lines))
    absent = [line for entry in contest.entries for line in _absence_lines(entry)]
    if absent:
        parts.append("## Not measured\n\n" + "\n".join(absent))
    return "\n\n".join(parts) + "\n"


def draw(contest: Contest, file: Path) -> None:
    """Draw tokens/s, time to first token and inter-token latency against the number of clients, as a PNG.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and only the plot needs it
    from matplotlib.ticker import LogLocator  # noqa: PLC0415 - see above

    panels: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
        ("tokens/s (more is better)", lambda row: row.tokens_per_s),
        ("time to first token, p50, ms", lambda row: _ms(row.time_to_first_token_s, "p50")),
        ("inter-token latency, p50, ms", lambda row: _ms(row.inter_token_s, "p50")),
        ("inter-token latency, p99, ms", lambda row: _ms(row.inter_token_s, "p99")),
    )
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    axes = figure.subplots(2, 2)
    places = {load.clients: place for place, load in enumerate(contest.loads)}
    names = list(dict.fromkeys(row.name for row in contest.rows))
    markers = "osD^vP*X<>hd"
    for axis, (title, value_of) in zip(axes.flat, panels, strict=True):
        for number, name in enumerate(names):
            rows = [row for row in contest.rows if row.name == name and value_of(row) is not None]
            axis.plot(
                [places[row.clients] for row in rows],
                [value_of(row) or 0.0 for row in rows],
                label=name,
                color=f"C{number % 10}",
                marker=markers[number % len(markers)],
                linestyle="-" if name.startswith("fjarr") else "--",
            )
        axis.set(title=title, xlabel="clients", yscale="log")
        axis.set_xticks(list(places.values()), [str(clients) for clients in places])
        # Powers of ten are too far apart here.
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
        axis.grid(visible=True, which="both", alpha=0.25)
    figure.legend(names, loc="outside lower center", ncols=min(6, len(names) or 1))
    figure.suptitle(f"{contest.name}: {contest.model}, {_place(contest)}")
    figure.savefig(file, dpi=120)


def _head(contest: Contest) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in contest.machine.versions)
    loads = ", ".join(f"{load.clients}x{load.requests}" for load in contest.loads)
    rounds = max((len(entry.rounds) for entry in contest.entries), default=0)
    tokens = contest.loads[0].max_tokens if contest.loads else 0
    machine = f"{contest.started_at}. {contest.model} on {_place(contest)}. {versions}."
    method = (
        f"Medians of {rounds} rounds, in which the contestants took turns; {tokens} tokens an answer;"
        f" clients x requests: {loads}. The ratio is tokens/s against `{contest.baseline}` in the same round."
    )
    return f"# {contest.name}\n\n{_wrap(machine)}\n\n{_wrap(method)}"


def _place(contest: Contest) -> str:
    machine = contest.machine
    gpus = f", {', '.join(machine.gpus)}" if machine.gpus else ""
    return f"{machine.processor}, {machine.cores} cores, {machine.memory_gib:g} GiB{gpus}"


def _row_line(row: Row) -> str:
    cells = [
        f"`{row.name}`",
        f"{row.tokens_per_s:.1f}",
        f"{row.slowest_tokens_per_s:.1f} to {row.fastest_tokens_per_s:.1f}",
        "" if row.ratio is None else f"{row.ratio:.2f}",
        *(_shown_ms(_ms(row.time_to_first_token_s, name)) for name in ("p50", "p95", "p99")),
        "" if row.first_token_lag_s is None else f"{1000 * row.first_token_lag_s:+.0f}",
        *(_shown_ms(_ms(row.inter_token_s, name)) for name in ("p50", "p95", "p99")),
        str(row.errors),
    ]
    return _line(cells)


def _absence_lines(entry: Entry) -> list[str]:
    if entry.skipped is not None:
        return [_wrap(f"- `{entry.name}` ({entry.about}): skipped, {entry.skipped}", indent="  ")]
    reasons = {each.failure: None for each in entry.rounds if each.failure is not None}
    reasons |= {
        f"{failure.count} of {load.requests} requests at {load.clients} clients: {failure.reason}": None
        for each in entry.rounds
        for load in each.measurements
        for failure in load.failures
    }
    return [_wrap(f"- `{entry.name}` ({entry.about}): {reason}", indent="  ") for reason in reasons]


def _wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, MAX_LINE, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _ms(percentiles: object, name: str) -> float | None:
    seconds: float | None = getattr(percentiles, name, None)
    return None if seconds is None else 1000 * seconds


def _shown_ms(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.{0 if milliseconds >= 100 else 1}f}"  # noqa: PLR2004 - three digits say enough


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
