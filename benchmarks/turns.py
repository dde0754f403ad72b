# ruff: noqa: T201 - the result of a command line goes to stdout
"""Compare our server in one process with the engine in a process of its own, in turns.

    python -m benchmarks.turns --model FOLDER --adapter FOLDER --turns 10

Both are started once and stay; in each turn each of them gets the same load, the first of them first in every
other turn. The machine's speed changes from minute to minute, so ratios are computed within a turn. The
processor time a token is what all processes of a server have used, and says more on a machine that does other
things as well.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from benchmarks import command_line, processes
from benchmarks.contestants import ROOT, Setup, fjarr_servers
from benchmarks.load import Load, Target, run_load
from benchmarks.processes import Launch, StartError
from benchmarks.weights import prepare_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.contestants import HttpServer

WORK: Final = ROOT / ".fjarr" / "bench-turns"
ENGINE_MODULE: Final = "inference.engine_process"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the servers that are compared."""

    name: str
    target: Target
    processes: tuple[psutil.Process, ...]

    def cpu_s(self) -> float:
        """Return the processor time that its processes have used so far."""
        every = [
            child for process in self.processes for child in (process, *process.children(recursive=True))
        ]
        return sum(times.user + times.system for times in (process.cpu_times() for process in every))


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side did with a load.

    Attributes:
        cpu_ms: The processor time a token.
        first_token_s: The median time to the first token.
    """

    tokens_per_s: float
    cpu_ms: float
    first_token_s: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two processes in relation to one, at one number of clients.

    Attributes:
        one: The medians of one process.
        two: The medians of two processes.
        speed: The ratio of tokens/s in each turn: its quartiles and its median.
        cpu: The same of the processor time a token.
    """

    clients: int
    one: Turn
    two: Turn
    speed: tuple[float, float, float]
    cpu: tuple[float, float, float]


def compare(clients: int, pairs: Sequence[tuple[Turn, Turn]]) -> Comparison:
    """Summarise turns.

    Args:
        clients: The number of clients.
        pairs: What one process and two processes did in each turn; at least two.
    """
    return Comparison(
        clients,
        _median([one for one, _ in pairs]),
        _median([two for _, two in pairs]),
        _quartiles([two.tokens_per_s / one.tokens_per_s for one, two in pairs]),
        _quartiles([two.cpu_ms / one.cpu_ms for one, two in pairs]),
    )


def main() -> int:
    """Run the command line, and return the exit code."""
    arguments = _parse_arguments()
    processes.exit_on_signals()
    try:
        weights = prepare_weights(arguments.model, arguments.adapter, WORK / "weights", sys.executable, 1)
        server = _server(Setup(weights, sys.executable, sys.executable), arguments.engine, arguments.threads)
        with _one_process(server) as one, _two_processes(server) as two:
            for clients in arguments.clients:
                load = Load(clients, max(arguments.requests, clients), arguments.max_tokens, warm_up=clients)
                pairs = [_take_turn((one, two), load, number) for number in range(arguments.turns)]
                print(json.dumps(asdict(compare(clients, pairs))), flush=True)
    except (ValueError, StartError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _take_turn(sides: tuple[Side, Side], load: Load, number: int) -> tuple[Turn, Turn]:
    done = {side.name: _measure(side, load, f"turn-{number}") for side in sides[:: 1 if number % 2 else -1]}
    return done[sides[0].name], done[sides[1].name]


def _measure(side: Side, load: Load, seed: str) -> Turn:
    # The load warms up too, so the processor time is of all its requests.
    warm = replace(load, requests=load.warm_up, max_tokens=2, warm_up=0)
    asyncio.run(run_load(side.target, warm, f"{seed}-warm"))
    before_s = side.cpu_s()
    measured = asyncio.run(run_load(side.target, replace(load, warm_up=0), seed))
    cpu_s = side.cpu_s() - before_s
    if measured.errors or measured.time_to_first_token_s is None:
        raise StartError(f"{side.name}: {measured.errors} requests failed: {measured.failures}")
    return Turn(measured.tokens_per_s, 1000 * cpu_s / measured.tokens, measured.time_to_first_token_s.p50)


def _server(setup: Setup, engine: str, threads: int | None) -> HttpServer:
    name = ("fjarr" if engine == "transformers" else "fjarr-vllm") + (
        "-adapter" if setup.weights.adapters else ""
    )
    server = {server.name: server for server in fjarr_servers(setup)}[name]
    if threads is None:
        return server
    environ = (*server.launch.environ, ("FJARR_THREADS", str(threads)))
    return replace(server, launch=replace(server.launch, environ=environ))


@contextlib.contextmanager
def _one_process(server: HttpServer) -> Iterator[Side]:
    with processes.started(server.launch, WORK / "one.log") as started:
        address = started.wait_until_ready().address
        target = Target(address, server.models, server.api_key)
        yield Side("one process", target, (psutil.Process(started.pid),))


@contextlib.contextmanager
def _two_processes(server: HttpServer) -> Iterator[Side]:
    # The path of a Unix socket has at most 107 characters.
    with tempfile.TemporaryDirectory() as folder:
        environ = (*server.launch.environ, ("FJARR_ENGINE_SOCKET", str(Path(folder) / "engine.sock")))
        launch = replace(server.launch, environ=environ)
        engine_launch = Launch((launch.argv[0], "-m", ENGINE_MODULE), launch.folder, environ)
        with (
            processes.started(engine_launch, WORK / "engine.log") as engine,
            processes.started(launch, WORK / "server.log") as started,
        ):
            address = started.wait_until_ready().address
            target = Target(address, server.models, server.api_key)
            yield Side("two processes", target, (psutil.Process(started.pid), psutil.Process(engine.pid)))


def _median(turns: Sequence[Turn]) -> Turn:
    return Turn(
        statistics.median(turn.tokens_per_s for turn in turns),
        statistics.median(turn.cpu_ms for turn in turns),
        statistics.median(turn.first_token_s for turn in turns),
    )


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return round(low, 3), round(middle, 3), round(high, 3)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.turns", description="Compare one process with two."
    )
    parser.add_argument(
        "--model", type=command_line.model_folder, required=True, help="a folder of safetensors"
    )
    parser.add_argument("--adapter", type=command_line.adapter_folder, help="a LoRA adapter's folder")
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--clients", type=command_line.count, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=4, help="at least one a client")
    parser.add_argument("--max-tokens", type=command_line.count, default=64)
    parser.add_argument("--turns", type=command_line.count, default=10)
    parser.add_argument(
        "--threads",
        type=command_line.count,
        help="threads that compute on a CPU; with one, other load disturbs less",
    )
    return parser.parse_args()


if __name__ == "__main__":
    command_line.run(main)
