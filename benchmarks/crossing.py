# ruff: noqa: T201 - the result of a command line goes to stdout
"""Measure what it costs to read an engine's tokens through its Unix socket, without a model.

    python -m benchmarks.crossing --rows 1 8 32

An engine that computes nothing gives each of its requests a token a step. The processor time of reading all
of them directly is compared with that of reading them through the socket, both ends of which are in this
process. What remains is the cost of the messages: to encode, write, read, decode and deliver them.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

from benchmarks import command_line
from inference.engines.protocol import Ability, GenerationRequest, Increment, Sampling, TokenStream
from inference.engines.remote.engine import connect
from inference.engines.remote.host import EngineHost
from inference.engines.remote.messages import Description, ModelDescription
from inference.engines.remote.tokenizers import Tokenizers
from inference.errors import LoadError
from inference.settings import Settings

if TYPE_CHECKING:
    from inference.engines.protocol import Engine, ServedModel

MODEL: Final = "m"
PROMPT: Final = tuple(range(200))


class ClockworkEngine:
    """An engine that gives every request a token in each of its steps, which the benchmark calls."""

    abilities: Final = frozenset(get_args(Ability))
    is_alive: Final = True
    cache_tokens: Final = None

    def __init__(self) -> None:
        self.streams: dict[TokenStream, int] = {}
        self.has_requests = asyncio.Event()
        self._awaited = 0

    def await_requests(self, count: int) -> None:
        """Set `has_requests` once there are this many requests."""
        self._awaited = count
        self.has_requests.clear()

    def context_tokens(self, model: str) -> int:
        """Return a context."""
        del model
        return 100_000

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Add a request to the steps."""
        stream = TokenStream(lambda: None)
        self.streams[stream] = request.max_new_tokens
        if len(self.streams) == self._awaited:
            self.has_requests.set()
        return stream

    def step(self) -> None:
        """Give every request a token."""
        for stream, room in tuple(self.streams.items()):
            stream.push(Increment((room,), "length" if room == 1 else None))
            self.streams[stream] = room - 1
            if room == 1:
                del self.streams[stream]

    async def add_adapter(self, name: str, folder: Path) -> ServedModel:
        """Refuse."""
        raise LoadError(f"{name} in {folder} cannot be served")

    async def remove_adapter(self, name: str) -> None:
        """Refuse."""
        raise KeyError(name)

    async def close(self) -> None:
        """Do nothing."""


async def measure(engine: Engine, clockwork: ClockworkEngine, rows: int, steps: int) -> float:
    """Return the processor time of a step, in microseconds, with requests and readers included."""
    started_s = time.process_time()
    request = GenerationRequest("r", MODEL, PROMPT, steps, Sampling(0.0))
    received, have_all = 0, asyncio.Event()

    async def read(stream: TokenStream) -> None:
        nonlocal received
        async for increment in stream:
            received += len(increment.token_ids)
            if received % rows == 0:
                have_all.set()

    clockwork.await_requests(rows)
    readers = [asyncio.create_task(read(engine.submit(request))) for _ in range(rows)]
    await clockwork.has_requests.wait()
    for _ in range(steps):
        # An engine's step takes long enough that its tokens are read before the next.
        have_all.clear()
        clockwork.step()
        await have_all.wait()
    await asyncio.gather(*readers)
    return 1e6 * (time.process_time() - started_s) / steps


async def compare(rows: int, steps: int, rounds: int) -> tuple[float, float]:
    """Return the median processor time of a step, read directly and through the socket, in microseconds."""
    clockwork = ClockworkEngine()
    model = ModelDescription(
        name=MODEL, parent=None, end_token_ids=frozenset(), context_tokens=100_000, created=0, tokenizer=""
    )
    description = Description(
        engine="", models=(model,), failed_adapters={}, abilities=clockwork.abilities, cache_tokens=None,
        max_batch=rows, step_cost=None,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        host = EngineHost(Path(folder) / "engine.sock", "")
        await host.open()
        host.begin_serving(clockwork, description)
        remote = await connect(host.path, "", Tokenizers(Settings(auth=False)))
        direct_us, remote_us = list[float](), list[float]()
        for _ in range(rounds):
            direct_us.append(await measure(clockwork, clockwork, rows, steps))
            remote_us.append(await measure(remote, clockwork, rows, steps))
        await remote.close()
        await host.close()
    return statistics.median(direct_us), statistics.median(remote_us)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.crossing", description="Measure the cost of the engine's socket."
    )
    parser.add_argument("--rows", type=command_line.count, nargs="+", default=[1, 8, 32])
    parser.add_argument("--steps", type=command_line.count, default=1000)
    parser.add_argument("--rounds", type=command_line.count, default=5)
    arguments = parser.parse_args()
    print("rows  directly  through the socket  difference, in microseconds a step")
    for rows in arguments.rows:
        direct_us, remote_us = asyncio.run(compare(rows, arguments.steps, arguments.rounds))
        print(f"{rows:4}  {direct_us:8.0f}  {remote_us:18.0f}  {remote_us - direct_us:10.0f}")


if __name__ == "__main__":
    command_line.run(main)
