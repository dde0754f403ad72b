# ruff: noqa: T201 - the result of a command line goes to stdout
"""Time how long a model's files take from a slow share, by the ways in which an engine can read them.

    python -m benchmarks.reading --model FOLDER --megabytes 100 --milliseconds 5 --rounds 3

The share is `benchmarks.slow_share`, mounted anew for every measurement, so that nothing is in the page
cache. A memory map is read as transformers does it, tensors by name and four at a time, and as vLLM does, one
at a time. `read ahead` is what the kernel reads around a page fault: 128 KiB is Linux' default for NFS, 8 MiB
that of its SMB client with reads of 4 MiB. All ways are measured in each round, in turn.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import command_line
from benchmarks.slow_share import mounted, set_read_ahead
from inference.models.local_copies import list_files
from inference.models.weights import BaseModel
from inference.storage.copying import MemoryCopy, Reading, copy_to_disk
from inference.storage.ranges import BLOCK_BYTES, THREADS, FileSource

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAPPING_THREADS: Final = 4
"""Source: transformers 5.23, `core_model_loading.py`, `GLOBAL_WORKERS`."""

LARGE_READ_AHEAD_KIB: Final = 8192
DEFAULT_READ_AHEAD_KIB: Final = 128


@dataclass(frozen=True, slots=True)
class Way:
    """A way to read a model's files.

    Attributes:
        name: What it is called in the table.
        read_ahead_kib: How far the kernel reads ahead.
        run: Reads the files of the folder that it gets.
    """

    name: str
    read_ahead_kib: int
    run: Callable[[Path], object]


def read_mapped(folder: Path, threads: int) -> None:
    """Read all tensors by page faults of a memory map, by name, some at a time."""
    from safetensors import safe_open  # noqa: PLC0415 - as in the engine

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file, ThreadPoolExecutor(threads) as pool:
            slices = [file.get_slice(name) for name in sorted(file.keys())]
            # The clone reads the pages; it is dropped at once.
            for done in pool.map(lambda each: each[...].clone().numel(), slices):
                assert done >= 0  # noqa: S101 - only to wait for it


def read_to_disk(folder: Path, threads: int, block_bytes: int) -> None:
    """Copy the files to the local disk, as the server does."""
    with tempfile.TemporaryDirectory(prefix="fjarr-reading-") as target, FileSource() as source:
        reading = Reading(source, lambda _: None, threads, block_bytes)
        copy_to_disk(list_files(BaseModel("base", str(folder))), Path(target) / "copy", reading)


def read_to_memory(folder: Path) -> None:
    """Copy the files into memory, as the server does where the disk is too small."""
    with MemoryCopy() as copy, FileSource() as source:
        copy.read(list_files(BaseModel("base", str(folder))), Reading(source, lambda _: None))


def ways(threads: Sequence[int]) -> list[Way]:
    """Return the ways that are compared."""
    found = [
        Way(f"memory map, {count} at a time, read ahead {text}", kib, partial(read_mapped, threads=count))
        for count in (1, MAPPING_THREADS)
        for text, kib in (("128 KiB", DEFAULT_READ_AHEAD_KIB), ("8 MiB", LARGE_READ_AHEAD_KIB))
    ]
    for count in threads:
        name = f"to disk, {'sequential' if count == 1 else f'{count} ranges at a time'}"
        run = partial(read_to_disk, threads=count, block_bytes=BLOCK_BYTES)
        found.append(Way(name, LARGE_READ_AHEAD_KIB, run))
    run = partial(read_to_disk, threads=THREADS, block_bytes=BLOCK_BYTES)
    found.append(Way(f"to disk, {THREADS} ranges, read ahead 128 KiB", DEFAULT_READ_AHEAD_KIB, run))
    found.append(Way(f"into memory, {THREADS} ranges at a time", LARGE_READ_AHEAD_KIB, read_to_memory))
    return found


def time_way(way: Way, model: Path, megabytes: float, milliseconds: float) -> float:
    """Return how many seconds a way takes on a share that was just mounted."""
    with tempfile.TemporaryDirectory(prefix="fjarr-share-") as name:
        mount = Path(name)
        with mounted(model, mount, megabytes, milliseconds):
            set_read_ahead(mount, way.read_ahead_kib)
            start_s = time.perf_counter()
            way.run(mount)
            return time.perf_counter() - start_s


def table(size_bytes: int, seconds: dict[str, list[float]]) -> str:
    """Return the medians as a table in Markdown."""
    lines = ["| way | s | MB/s |", "|---|---:|---:|"]
    for name, each in seconds.items():
        median_s = statistics.median(each)
        lines.append(f"| {name} | {median_s:.1f} | {size_bytes / 1e6 / median_s:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the table and the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--model", type=command_line.model_folder, required=True, help="a folder with a base model"
    )
    parser.add_argument("--megabytes", type=float, default=100.0, help="the share's bandwidth, in MB/s")
    parser.add_argument("--milliseconds", type=float, default=5.0, help="its latency")
    parser.add_argument("--rounds", type=command_line.count, default=3)
    parser.add_argument("--threads", type=command_line.count, nargs="+", default=[1, 2, 4, 8, 16])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fjarr-model-") as name:
        # Without links, which would lead out of the mount.
        model = Path(shutil.copytree(options.model, Path(name) / "model"))
        size_bytes = sum(file.size_bytes for file in list_files(BaseModel("base", str(model))))
        seconds: dict[str, list[float]] = {way.name: [] for way in ways(options.threads)}
        for _ in range(options.rounds):
            for way in ways(options.threads):
                seconds[way.name].append(time_way(way, model, options.megabytes, options.milliseconds))
    print(table(size_bytes, seconds))
    print(json.dumps({"bytes": size_bytes, "seconds": seconds}))


if __name__ == "__main__":
    command_line.run(main)
