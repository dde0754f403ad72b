# ruff: noqa: T201 - the result of a command line goes to stdout
"""Find out where a step of the transformers engine spends its time. In process, without a server.

    python -m benchmarks.steps --model FOLDER --rows 1 8 32
    python -m benchmarks.steps --model FOLDER --rows 32 --profile 15

Prints tokens/s for each number of rows, all of them greedy and begun together, medians over rounds, and with
`--profile` the operators that took longest.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.prompts import make_prompts
from inference.codec import Message
from inference.engine import GenerationRequest, Sampling
from inference.engine_transformers import start_engine
from inference.settings import Settings
from inference.weights import BaseModel, Weights

if TYPE_CHECKING:
    from inference.engine import Engine
    from inference.service import ServedModel


@dataclass(frozen=True, slots=True)
class Speed:
    """Say how fast some rows were.

    Attributes:
        prompt_tokens_per_s: Until all rows had their first token.
        tokens_per_s: From then on.
    """

    prompt_tokens_per_s: float
    tokens_per_s: float


async def generate(engine: Engine, model: ServedModel, rows: int, tokens: int, seed: str) -> Speed:
    """Let some rows generate side by side, and return how fast they were."""
    prompts = [
        model.codec.encode_chat((Message("user", prompt),)) for prompt in make_prompts(rows, f"steps-{seed}")
    ]
    requests = [
        GenerationRequest(f"row-{index}", model.name, prompt, tokens, Sampling(0.0))
        for index, prompt in enumerate(prompts)
    ]
    started_s = time.perf_counter()
    arrivals = [
        each for row in await asyncio.gather(*(_watch(engine, one) for one in requests)) for each in row
    ]
    first_s = max(time_s for time_s, is_first in arrivals if is_first)
    later = [time_s for time_s, _ in arrivals if time_s > first_s]
    read = sum(len(prompt) for prompt in prompts)
    return Speed(read / (first_s - started_s), len(later) / (max(later, default=first_s) - first_s or 1.0))


async def measure(arguments: argparse.Namespace) -> None:
    """Measure each number of rows, in turns, and print the best of the rounds."""
    weights = Weights(BaseModel("base", str(arguments.model)))
    settings = Settings(device="cpu", dtype=arguments.dtype, engine="transformers")
    # In a thread that ends, as the server does: a thread that has computed keeps helpers on all cores.
    with ThreadPoolExecutor(1) as loading:
        started = loading.submit(start_engine, weights, settings, lambda _phase, _percent: None)
        engine, (model,) = started.result()
    await generate(engine, model, max(arguments.rows), 4, "warm-up")
    speeds: dict[int, list[Speed]] = {rows: [] for rows in arguments.rows}
    for number in range(arguments.rounds):
        for rows, found in speeds.items():
            found.append(await generate(engine, model, rows, arguments.tokens, f"{number}-{rows}"))
    for rows, found in speeds.items():
        read = statistics.median(speed.prompt_tokens_per_s for speed in found)
        written = statistics.median(speed.tokens_per_s for speed in found)
        print(f"{rows:3} rows: {read:7.1f} prompt tokens/s, then {written:7.1f} tokens/s")
    if arguments.profile:
        await _profile(engine, model, arguments)
    await engine.close()


async def _profile(engine: Engine, model: ServedModel, arguments: argparse.Namespace) -> None:
    for rows in arguments.rows:
        options = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)  # noqa: SLF001 - the engine has a thread of its own
        with profile(activities=[ProfilerActivity.CPU], experimental_config=options) as record:
            await generate(engine, model, rows, arguments.tokens, f"profile-{rows}")
        print(f"\n{rows} rows")
        print(record.key_averages().table(sort_by="self_cpu_time_total", row_limit=arguments.profile))


async def _watch(engine: Engine, request: GenerationRequest) -> list[tuple[float, bool]]:
    """Return when each token came, and whether it was the row's first."""
    arrivals: list[tuple[float, bool]] = []
    async for increment in engine.submit(request):
        arrivals += [(time.perf_counter(), not arrivals) for _ in increment.token_ids]
    return arrivals


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.steps", description="Time the engine's steps."
    )
    parser.add_argument("--model", type=Path, required=True, help="a folder of safetensors")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="show the N longest operators")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
