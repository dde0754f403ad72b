# ruff: noqa: T201 - the result of a command line goes to stdout
"""Time our server's start, from the process to ready, by the phases that `/readyz` names.

    python -m benchmarks.startup --model FOLDER --adapter FOLDER --runs 5

The first run of a fresh machine also reads the packages and the weights from disk; they are in memory after.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import processes
from benchmarks.contestants import ROOT, Setting, fjarr_servers
from benchmarks.measures import median_of
from benchmarks.processes import HTTP_OK, Launch, StartError
from benchmarks.weights import lay_out

if TYPE_CHECKING:
    from collections.abc import Sequence

WORK: Final = ROOT / ".fjarr" / "bench"
POLL_S: Final = 0.02
BEFORE_THE_PORT: Final = "before the port answers"
CHAT_PAGE: Final = "chat page, after ready"


@dataclass(frozen=True, slots=True)
class Sighting:
    """Say what `/readyz` said at some time after the process was started."""

    after_s: float
    phase: str


@dataclass(frozen=True, slots=True)
class Phase:
    """Say how long a phase took."""

    name: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class Start:
    """Hold one start."""

    ready_after_s: float
    phases: tuple[Phase, ...]


def watch(launch: Launch, log: Path) -> Start:
    """Start the server, see it through its phases, and stop it.

    Raises:
        StartError: If it does not get ready.
    """
    sightings = [Sighting(0.0, BEFORE_THE_PORT)]
    with processes.started(launch, log) as server:
        while True:
            status, body = server.ask("/readyz")
            after_s = time.monotonic() - server.started_s
            if status == HTTP_OK:
                break
            phase = str(json.loads(body).get("phase", "")) if body else BEFORE_THE_PORT
            if phase != sightings[-1].phase:
                sightings.append(Sighting(after_s, phase))
            time.sleep(POLL_S)
        chat_after_s = wait_for(server, "/")
    phases = make_phases(sightings, after_s)
    return Start(after_s, (*phases, Phase(CHAT_PAGE, chat_after_s - after_s)))


def wait_for(server: processes.Server, path: str) -> float:
    """Wait until a path answers 200, and return how long after the process's start that was."""
    while server.ask(path)[0] != HTTP_OK:
        time.sleep(POLL_S)
    return time.monotonic() - server.started_s


def make_phases(sightings: Sequence[Sighting], ready_after_s: float) -> tuple[Phase, ...]:
    """Return how long each phase took: until the next was seen, or the server was ready."""
    ends = [sighting.after_s for sighting in sightings[1:]] + [ready_after_s]
    return tuple(
        Phase(sighting.phase, end - sighting.after_s) for sighting, end in zip(sightings, ends, strict=True)
    )


def median_start(starts: Sequence[Start]) -> Start:
    """Return the median of each phase, in the order in which they came, and of the whole."""
    durations: dict[str, list[float]] = {}
    for phase in (phase for start in starts for phase in start.phases):
        durations.setdefault(phase.name, []).append(phase.duration_s)
    phases = [Phase(name, median_of(seconds) or 0.0) for name, seconds in durations.items()]
    return Start(median_of(start.ready_after_s for start in starts) or 0.0, tuple(phases))


def main() -> int:
    """Do what the command line asks for, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description="Time the start.")
    parser.add_argument("--model", type=Path, required=True, help="a folder of safetensors")
    parser.add_argument("--adapter", type=Path, help="a LoRA adapter's folder")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--module", default="inference.start", help="or inference.server")
    arguments = parser.parse_args()
    processes.leave_on_signals()
    try:
        weights = lay_out(arguments.model, arguments.adapter, WORK / "startup", arguments.python, 1)
        setting = Setting(weights, arguments.python, arguments.python)
        launch = fjarr_servers(setting)["fjarr-adapter" if arguments.adapter else "fjarr"].launch
        launch = replace(launch, argv=(arguments.python, "-m", arguments.module))
        starts = [watch(launch, WORK / "logs" / f"startup-{run + 1}.log") for run in range(arguments.runs)]
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"median": asdict(median_start(starts)), "starts": list(map(asdict, starts))}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
