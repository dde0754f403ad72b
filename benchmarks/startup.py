# ruff: noqa: T201 - the result of a command line goes to stdout
"""Time our server's start, from the start of the process until ready, by the phases of `/readyz`.

    python -m benchmarks.startup --model FOLDER --adapter FOLDER --runs 5

The first run on a machine also reads the packages and the weights from disk; later runs find them in memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

from benchmarks import command_line, processes
from benchmarks.contestants import ROOT, Setup, fjarr_servers
from benchmarks.measures import median_of
from benchmarks.processes import HTTP_OK, Launch, StartError
from benchmarks.weights import prepare_weights

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WORK: Final = ROOT / ".fjarr" / "bench"
POLL_S: Final = 0.02
BEFORE_THE_PORT: Final = "before the port answers"
CHAT_PAGE: Final = "chat page, after ready"


@dataclass(frozen=True, slots=True)
class Observation:
    """A phase that `/readyz` reported, and when, counted from the start of the process."""

    after_s: float
    phase: str


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase of the start, and its duration."""

    name: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class Start:
    """The times of one start."""

    ready_after_s: float
    phases: tuple[Phase, ...]


def time_start(launch: Launch, log: Path) -> Start:
    """Start the server, record its phases, and stop it.

    Raises:
        StartError: If it does not become ready.
    """
    observations = [Observation(0.0, BEFORE_THE_PORT)]
    with processes.started(launch, log) as server:
        while True:
            status, body = server.request("/readyz")
            after_s = time.monotonic() - server.started_s
            if status == HTTP_OK:
                break
            phase = str(json.loads(body).get("phase", "")) if body else BEFORE_THE_PORT
            if phase != observations[-1].phase:
                observations.append(Observation(after_s, phase))
            time.sleep(POLL_S)
        chat_after_s = wait_for(server, "/")
    phases = make_phases(observations, after_s)
    return Start(after_s, (*phases, Phase(CHAT_PAGE, chat_after_s - after_s)))


def wait_for(server: processes.Server, path: str) -> float:
    """Wait until a path returns 200, and return the time since the start of the process."""
    while server.request(path)[0] != HTTP_OK:
        time.sleep(POLL_S)
    return time.monotonic() - server.started_s


def make_phases(observations: Sequence[Observation], ready_after_s: float) -> tuple[Phase, ...]:
    """Return the duration of each phase: until the next was observed, or the server was ready."""
    ends = [observation.after_s for observation in observations[1:]] + [ready_after_s]
    return tuple(
        Phase(observation.phase, end - observation.after_s)
        for observation, end in zip(observations, ends, strict=True)
    )


def median_start(starts: Sequence[Start]) -> Start:
    """Return the medians of each phase, in order, and of the whole start."""
    durations: dict[str, list[float]] = {}
    for phase in (phase for start in starts for phase in start.phases):
        durations.setdefault(phase.name, []).append(phase.duration_s)
    phases = [Phase(name, median_of(seconds) or 0.0) for name, seconds in durations.items()]
    return Start(median_of(start.ready_after_s for start in starts) or 0.0, tuple(phases))


def main() -> int:
    """Run the command line, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description="Time the start.")
    parser.add_argument(
        "--model", type=command_line.model_folder, required=True, help="a folder of safetensors"
    )
    parser.add_argument("--adapter", type=command_line.adapter_folder, help="a LoRA adapter's folder")
    parser.add_argument("--runs", type=command_line.count, default=5)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--module", default="inference.start", help="or inference.server")
    arguments = parser.parse_args()
    processes.exit_on_signals()
    try:
        weights = prepare_weights(arguments.model, arguments.adapter, WORK / "startup", arguments.python, 1)
        setup = Setup(weights, arguments.python, arguments.python)
        servers = {server.name: server for server in fjarr_servers(setup)}
        launch = servers["fjarr-adapter" if arguments.adapter else "fjarr"].launch
        launch = replace(launch, argv=(arguments.python, "-m", arguments.module))
        starts = [
            time_start(launch, WORK / "logs" / f"startup-{run + 1}.log") for run in range(arguments.runs)
        ]
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"median": asdict(median_start(starts)), "starts": list(map(asdict, starts))}, indent=2))
    return 0


if __name__ == "__main__":
    command_line.run(main)
