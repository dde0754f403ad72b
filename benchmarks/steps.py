# ruff: noqa: T201 - the result of a command line goes to stdout
"""Measure the engines alone: tokens/s by the number of rows. In process, without a server.

    python -m benchmarks.steps --model FOLDER --rows 1 8 32
    python -m benchmarks.steps --model FOLDER --rows 32 --profile 15
    python -m benchmarks.steps --model FOLDER --adapter FOLDER --adapters 4 --merge off on
    python -m benchmarks.steps --model FOLDER --engine vllm

Prints tokens/s for each number of rows, all greedy and started together, as medians over rounds, and with
`--profile` the operators of the engine transformers that took longest. With adapters the rows use them in
rotation. Each value of `--merge` has its own engine, all are measured in each round, and `base` is rows
without an adapter. On a GPU give the engine vllm one value at a time: it takes the memory that there is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import command_line
from benchmarks.prompts import make_prompts
from benchmarks.weights import BASE_NAME, prepare_weights
from inference.engines.catalogue import ENGINES
from inference.engines.protocol import GenerationRequest, Sampling
from inference.engines.registry import start_engine
from inference.models.weights import find_weights
from inference.settings import Settings
from inference.text.codec import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.engines.protocol import Engine, ServedModel

WORK = Path(__file__).resolve().parent.parent / ".fjarr" / "bench" / "steps"


@dataclass(frozen=True, slots=True)
class Speed:
    """The throughput of a batch.

    Attributes:
        prompt_tokens_per_s: Until all rows have their first token.
        tokens_per_s: From then on.
    """

    prompt_tokens_per_s: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Variant:
    """An engine, and the models that its rows use in rotation."""

    name: str
    engine: Engine
    models: tuple[ServedModel, ...]


async def generate(variant: Variant, rows: int, tokens: int, seed: str) -> Speed:
    """Generate with a number of rows at once, and return their throughput."""
    models = [variant.models[index % len(variant.models)] for index in range(rows)]
    prompts = [
        model.codec.encode_chat((Message("user", prompt),))
        for model, prompt in zip(models, make_prompts(rows, f"steps-{seed}"), strict=True)
    ]
    requests = [
        GenerationRequest(f"row-{index}", model.name, prompt, tokens, Sampling(0.0))
        for index, (model, prompt) in enumerate(zip(models, prompts, strict=True))
    ]
    started_s = time.perf_counter()
    arrivals = [
        each
        for row in await asyncio.gather(*(_record_arrivals(variant.engine, one) for one in requests))
        for each in row
    ]
    first_s = max(time_s for time_s, is_first in arrivals if is_first)
    later = [time_s for time_s, _ in arrivals if time_s > first_s]
    read = sum(len(prompt) for prompt in prompts)
    return Speed(read / (first_s - started_s), len(later) / (max(later, default=first_s) - first_s or 1.0))


def start_variants(arguments: argparse.Namespace) -> list[Variant]:
    """Start an engine for each variant."""
    prepared = prepare_weights(arguments.model, arguments.adapter, WORK, sys.executable, arguments.adapters)
    variants: list[Variant] = []
    for merge in arguments.merge if arguments.adapter else ["auto"]:
        settings = Settings(
            device=arguments.device, dtype=arguments.dtype, engine=arguments.engine, merge_adapters=merge,
            max_concurrent=max(arguments.rows),
        )  # fmt: skip
        mount = prepared.adapters_mount if arguments.adapter else prepared.mount
        weights = find_weights(mount, BASE_NAME, "*" if arguments.adapter else None)
        # In a thread that ends, as in the server: a thread that has computed keeps helper threads.
        with ThreadPoolExecutor(1) as loading:
            started = loading.submit(start_engine, weights, settings, lambda _phase, _percent: None).result()
        engine, models = started.engine, started.models
        if not variants:
            variants.append(Variant("base", engine, models[:1]))
        if models[1:]:
            variants.append(Variant(f"merge {merge}", engine, models[1:]))
    return variants


async def measure(arguments: argparse.Namespace) -> None:
    """Measure all variants and numbers of rows in each round, and print the medians."""
    variants = start_variants(arguments)
    async with AsyncExitStack() as stack:
        for engine in {id(variant.engine): variant.engine for variant in variants}.values():
            stack.push_async_callback(engine.close)
        for variant in variants:
            await generate(variant, max(arguments.rows), 4, "warm-up")
        cases = [(variant, rows) for rows in arguments.rows for variant in variants]
        speeds: dict[tuple[str, int], list[Speed]] = {(variant.name, rows): [] for variant, rows in cases}
        for number in range(arguments.rounds):
            for variant, rows in cases:
                speed = await generate(variant, rows, arguments.tokens, f"{number}-{rows}")
                speeds[variant.name, rows].append(speed)
        _show(speeds)
        if arguments.json is not None:
            arguments.json.write_text(to_json(speeds), encoding="utf-8")
        if arguments.profile:
            for variant, rows in cases:
                await _profile(variant, rows, arguments)


def to_json(speeds: dict[tuple[str, int], list[Speed]]) -> str:
    """Return the medians over the rounds as JSON."""
    entries = [
        {
            "variant": name,
            "rows": rows,
            "prompt_tokens_per_s": statistics.median(speed.prompt_tokens_per_s for speed in found),
            "tokens_per_s": statistics.median(speed.tokens_per_s for speed in found),
        }
        for (name, rows), found in speeds.items()
    ]
    return json.dumps(entries, indent=2) + "\n"


def _show(speeds: dict[tuple[str, int], list[Speed]]) -> None:
    for (name, rows), found in speeds.items():
        read = statistics.median(speed.prompt_tokens_per_s for speed in found)
        written = statistics.median(speed.tokens_per_s for speed in found)
        ratio = _ratio(found, speeds["base", rows])
        print(
            f"{name:10} {rows:3} rows: {read:7.1f} prompt tokens/s, then {written:7.1f} tokens/s"
            f" ({ratio:4.2f} of base)"
        )


def _ratio(found: Sequence[Speed], base: Sequence[Speed]) -> float:
    pairs = zip(found, base, strict=True)
    return statistics.median(one.tokens_per_s / other.tokens_per_s for one, other in pairs)


async def _profile(variant: Variant, rows: int, arguments: argparse.Namespace) -> None:
    options = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)  # noqa: SLF001 - the engine has a thread of its own
    with profile(activities=[ProfilerActivity.CPU], experimental_config=options) as record:
        await generate(variant, rows, arguments.tokens, f"profile-{rows}")
    print(f"\n{variant.name}, {rows} rows")
    print(record.key_averages().table(sort_by="self_cpu_time_total", row_limit=arguments.profile))


async def _record_arrivals(engine: Engine, request: GenerationRequest) -> list[tuple[float, bool]]:
    """Return the time of each token, and whether it was the row's first."""
    arrivals: list[tuple[float, bool]] = []
    async for increment in engine.submit(request):
        arrivals += [(time.perf_counter(), not arrivals) for _ in increment.token_ids]
    return arrivals


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.steps", description="Time the engine's steps."
    )
    parser.add_argument(
        "--model", type=command_line.model_folder, required=True, help="a folder of safetensors"
    )
    parser.add_argument("--adapter", type=command_line.adapter_folder, help="a LoRA adapter's folder")
    parser.add_argument("--adapters", type=command_line.count, default=4, help="how many are served at once")
    parser.add_argument("--merge", nargs="+", default=["off"], help="FJARR_MERGE_ADAPTERS, an engine each")
    parser.add_argument("--rows", type=command_line.count, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=command_line.count, default=48)
    parser.add_argument("--rounds", type=command_line.count, default=3)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--engine", choices=sorted(ENGINES), default="transformers")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="a file for the medians")
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="show the N longest operators")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    command_line.run(main)
