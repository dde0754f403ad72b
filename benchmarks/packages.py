# ruff: noqa: T201 - the result of a command line goes to stdout
"""Time what a container's start does for its packages: install them from the lock, or unpack the archive.

    python -m benchmarks.packages --assume torch --read-mb-per-s 100

Installs what `inference/requirements.txt` leads to, without the packages of `--assume` (the image has them),
into an empty folder, compiles it, packs it at several levels of compression, and unpacks each archive from a
stream as slow as a share. The index is the one that uv is configured to use.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import command_line
from inference.packages.archives import HashingReader, pack, unpack
from inference.packages.installers import install_packages
from inference.packages.lockfile import normalize, read_lock
from inference.packages.provision import compile_packages
from inference.packages.requirements import parse_requirements

if TYPE_CHECKING:
    from collections.abc import Iterable

INFERENCE: Final = Path(__file__).parents[1] / "inference"
LEVELS: Final = (0, 1, 6)


class Stopwatch:
    """Measures the time, and the processor time of this process, since it was made."""

    def __init__(self) -> None:
        self._started_s, self._started_cpu_s = time.monotonic(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Return both in seconds."""
        return (
            round(time.monotonic() - self._started_s, 1),
            round(time.process_time() - self._started_cpu_s, 1),
        )


class SlowStream:
    """A stream of bytes with a limited rate, however long the reader pauses in between."""

    def __init__(self, content: bytes, bytes_per_s: float) -> None:
        self._stream = io.BytesIO(content)
        self._bytes_per_s = bytes_per_s
        self._started_s = time.monotonic()

    def read(self, size: int = -1, /) -> bytes:
        """Read bytes, once they have arrived. What a reader has not taken yet arrives meanwhile."""
        data = self._stream.read(size)
        due_s = self._started_s + self._stream.tell() / self._bytes_per_s
        time.sleep(max(0.0, due_s - time.monotonic()))
        return data


@dataclass(frozen=True, slots=True)
class Installation:
    """The time that an installation took, and what it has."""

    install_s: float
    compile_s: float
    packages: int
    files: int
    size_mb: float


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive of one level of gzip's compression (0: none). `cpu` is processor time."""

    level: int
    size_mb: float
    pack_s: float
    pack_cpu_s: float
    unpack_s: float
    unpack_cpu_s: float


def time_installation(names: Iterable[str], assumed: Iterable[str], lock: Path, target: Path) -> Installation:
    """Install packages of a lock into an empty folder, with no cache, and compile them."""
    visible = {normalize(name) for name in assumed}
    chosen = read_lock(lock).select(map(normalize, names), visible.__contains__)
    with tempfile.TemporaryDirectory() as tools:
        started_s = time.monotonic()
        install_packages(chosen, target, Path(tools))
        installed_s = time.monotonic()
    compile_packages(target)
    compiled_s = time.monotonic()
    sizes = [path.stat().st_size for path in target.rglob("*") if path.is_file()]
    return Installation(
        install_s=round(installed_s - started_s, 1),
        compile_s=round(compiled_s - installed_s, 1),
        packages=len(list(target.glob("*.dist-info"))),
        files=len(sizes),
        size_mb=round(sum(sizes) / 1e6, 1),
    )


def time_archive(packages: Path, level: int, bytes_per_s: float) -> Archive:
    """Pack a folder, and unpack it from a stream as slow as a share. Its digest is computed, too."""
    stream = io.BytesIO()
    packing = Stopwatch()
    pack(packages, stream, level)
    pack_s, pack_cpu_s = packing.read()
    content = stream.getvalue()
    with tempfile.TemporaryDirectory(dir=packages.parent) as target:
        unpacking = Stopwatch()
        unpack(HashingReader(SlowStream(content, bytes_per_s)), Path(target))
        unpack_s, unpack_cpu_s = unpacking.read()
    return Archive(level, round(len(content) / 1e6, 1), pack_s, pack_cpu_s, unpack_s, unpack_cpu_s)


def main() -> int:
    """Run the command line, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packages", description="Time the packages.")
    parser.add_argument("--requirements", default="requirements.txt", help="a file in inference/")
    parser.add_argument("--assume", action="append", default=[], help="a package that the image has")
    parser.add_argument("--read-mb-per-s", type=float, default=100.0, help="how fast the share is read")
    arguments = parser.parse_args()
    requirements = INFERENCE / arguments.requirements
    names = [each.name for each in parse_requirements(requirements.read_text("utf-8"))]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "packages")
        target.mkdir()
        lock = requirements.with_name(f"{requirements.stem}.lock.txt")
        installation = time_installation(names, arguments.assume, lock, target)
        archives = [time_archive(target, level, arguments.read_mb_per_s * 1e6) for level in LEVELS]
        shutil.rmtree(target)
    document = {"installation": asdict(installation), "archives": [asdict(each) for each in archives]}
    print(json.dumps(document, indent=2))
    return 0


if __name__ == "__main__":
    command_line.run(main)
