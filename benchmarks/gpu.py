"""Measure both engines within a fixed time, and write one table: `benchmarks/gpu.sh` runs this.

    python -m benchmarks.gpu --model FOLDER

The parts run one after the other, each in processes of its own and with a time limit: the server under load
(base, merged adapter, four adapters), the engines alone, and the engines' conformance tests. A part that runs
out of time keeps what it has measured.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks import command_line, processes
from benchmarks.contest import describe_machine, now
from benchmarks.contestants import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EXAMPLE_ADAPTER: Final = ROOT / "examples" / "ticket-triage" / "adapter"
RESULTS: Final = ROOT / "benchmarks" / "results"
LIMIT_S: Final = 8 * 60.0
TABLE_S: Final = 10.0
"""What is kept for stopping the last part and writing the table."""

MIN_PART_S: Final = 20.0
"""A part with less time than this is left out."""

CONTESTANTS: Final = {
    "fjarr-vllm": "vLLM, base",
    "fjarr-vllm-adapter": "vLLM, one adapter (merged)",
    "fjarr-vllm-adapters": "vLLM, four adapters",
    "fjarr": "transformers, base",
    "fjarr-adapter": "transformers, one adapter (merged)",
    "fjarr-adapters": "transformers, four adapters",
}
"""The contestants in the order in which they are measured, with their names in the table."""

GPU_CLIENTS: Final = (1, 8, 32, 128)
CPU_CLIENTS: Final = (1, 2)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the measurement.

    Attributes:
        argv: Its command.
        share: Its share of the time that is left when it starts.
        file: The file with its results, as JSON; None if its output is the result.
    """

    name: str
    argv: tuple[str, ...]
    share: float
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a part: its exit code, None if it had no time or ran out of it; and its output."""

    part: Part
    exit_code: int | None
    seconds: float
    output: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table: tokens/s, and the median time to the first token, by the number of clients."""

    name: str
    speeds: Mapping[int, tuple[float, float | None]]
    note: str = ""


def make_parts(python: str, model: Path, adapter: Path, work: Path, *, is_cpu: bool) -> tuple[Part, ...]:
    """Return the parts in their order.

    Args:
        python: The interpreter, with the server's packages.
        model: The base's folder.
        adapter: The adapter's folder.
        work: Where the results of the parts are written.
        is_cpu: Whether it is a trial on a CPU, with smaller loads.
    """
    clients = CPU_CLIENTS if is_cpu else GPU_CLIENTS
    device = "cpu" if is_cpu else "cuda"
    numbers = [str(each) for each in clients]
    contest = [
        python, "-m", "benchmarks.run", "--model", str(model), "--adapter", str(adapter), "--rounds", "1",
        "--baseline", "fjarr-vllm", "--vllm-python", python, "--python", python, "--clients", *numbers,
        "--max-tokens", "16" if is_cpu else "128", "--results", str(work), "--name", "gpu-contest",
        "--only", *CONTESTANTS,
    ]  # fmt: skip
    steps = [
        Part(
            f"{engine} alone",
            (
                python, "-m", "benchmarks.steps", "--model", str(model), "--engine", engine,
                "--device", device, "--rounds", "1", "--tokens", "16" if is_cpu else "64", "--rows", *numbers,
                "--json", str(work / f"gpu-steps-{engine}.json"),
            ),
            0.35,
            work / f"gpu-steps-{engine}.json",
        )
        for engine in ("vllm", "transformers")
    ]  # fmt: skip
    conformance = (
        python, "-m", "pytest", "tests/unit/inference/engines/test_conformance.py", "-q", "--no-header",
        "--device", device, "-W", "ignore:Unclosed context:ResourceWarning", "-p", "no:cacheprovider",
        # A crash takes a start of its own.
        "-k", "not scripted and not unmerged and not crash and not closing",
    )  # fmt: skip
    return (
        Part("contest", tuple(contest), 0.62, work / "gpu-contest.json"),
        *steps,
        Part("conformance", conformance, 1.0),
    )


def run_part(part: Part, limit_s: float) -> Outcome:
    """Run a part, and end it with all of its processes when its time is over."""
    if limit_s < MIN_PART_S:
        return Outcome(part, None, 0.0, "no time was left for it")
    started_s = time.monotonic()
    process = subprocess.Popen(
        part.argv,
        cwd=ROOT,
        env=processes.environment(()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
        return Outcome(part, process.returncode, time.monotonic() - started_s, output)
    except subprocess.TimeoutExpired:
        processes.stop(process)
        output, _ = process.communicate()
        return Outcome(part, None, time.monotonic() - started_s, output)


def make_lines(outcomes: Sequence[Outcome]) -> list[Line]:
    """Return the lines of the table from what the parts measured."""
    lines = []
    for outcome in outcomes:
        document = _read(outcome.part.file)
        if outcome.part.name == "contest":
            lines += contest_lines(document, _reason(outcome))
        elif outcome.part.file is not None:
            speeds = {int(each["rows"]): (float(each["tokens_per_s"]), None) for each in document or []}
            lines.append(Line(outcome.part.name, speeds, "" if speeds else _reason(outcome)))
    return lines


def contest_lines(document: Mapping[str, Any] | None, reason: str) -> list[Line]:
    """Return a line for each contestant.

    Args:
        document: The contest's results; None if there are none.
        reason: Why contestants without results have none.
    """
    lines = []
    for name, title in CONTESTANTS.items():
        rows = [row for row in (document or {}).get("rows", ()) if row["name"] == name]
        first = {row["clients"]: (row["time_to_first_token_s"] or {}).get("p50") for row in rows}
        speeds = {row["clients"]: (row["tokens_per_s"], first[row["clients"]]) for row in rows}
        entries = [entry for entry in (document or {}).get("entries", ()) if entry["name"] == name]
        notes = [
            entry["skipped"] or next((each["failure"] for each in entry["rounds"]), None) for entry in entries
        ]
        lines.append(Line(title, speeds, "" if speeds else next(filter(None, notes), reason)))
    return lines


def to_markdown(lines: Sequence[Line], outcomes: Sequence[Outcome], head: str, clients: Sequence[int]) -> str:
    """Return the table, with the result of the conformance tests below it."""
    columns = ["tokens/s (first token, ms)", *(f"{each} client{'s' * (each > 1)}" for each in clients)]
    rows = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * len(clients)]
    for line in lines:
        cells = [_cell(line.speeds.get(each)) for each in clients]
        rows.append("| " + " | ".join([line.name, *cells]) + " |")
    notes = [f"- {line.name}: {line.note}" for line in lines if line.note]
    spent = ", ".join(f"{each.part.name} {each.seconds:.0f} s" for each in outcomes)
    parts = [head, "\n".join(rows), *(["\n".join(notes)] if notes else [])]
    parts += [f"Conformance tests: {_conformance(outcomes)}", f"Time: {spent}."]
    return "\n\n".join(parts) + "\n"


def _conformance(outcomes: Sequence[Outcome]) -> str:
    for outcome in outcomes:
        if outcome.part.name == "conformance":
            summaries = re.findall(
                r"^=*\s*(\d+ (?:passed|failed|error).*?)\s*=*$", outcome.output, re.MULTILINE
            )
            return summaries[-1] if summaries else _reason(outcome)
    return "not run"


def _reason(outcome: Outcome) -> str:
    if outcome.exit_code is None:
        return "it had too little time"
    lines = [line.strip() for line in outcome.output.splitlines() if line.strip()]
    return " | ".join(lines[-3:]) or f"it ended with {outcome.exit_code}"


def _cell(speed: tuple[float, float | None] | None) -> str:
    if speed is None:
        return ""
    tokens_per_s, first_s = speed
    return f"{tokens_per_s:,.0f}" + (f" ({1000 * first_s:.0f})" if first_s is not None else "")


def _read(path: Path | None) -> Any:  # noqa: ANN401 - JSON
    if path is None or not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> int:
    """Run the command line, and return the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description="Measure both engines on a GPU.")
    parser.add_argument(
        "--model", type=command_line.model_folder, required=True, help="a folder of safetensors"
    )
    parser.add_argument("--adapter", type=Path, default=EXAMPLE_ADAPTER, help="a LoRA adapter's folder")
    parser.add_argument("--cpu", action="store_true", help="a trial on a CPU, with smaller loads")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S)
    parser.add_argument("--spent-s", type=float, default=0.0, help="the time that the installation took")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if not arguments.cpu and not processes.gpu_names():
        _log("error: nvidia-smi names no GPU; --cpu tries the script without one")
        return 2
    deadline_s = time.monotonic() + arguments.limit_s - arguments.spent_s - TABLE_S
    work = ROOT / ".fjarr" / "bench" / "gpu"
    work.mkdir(parents=True, exist_ok=True)
    for file in work.glob("gpu-*.json"):
        file.unlink()
    processes.exit_on_signals()
    outcomes = []
    for part in make_parts(
        sys.executable, arguments.model.resolve(), arguments.adapter.resolve(), work, is_cpu=arguments.cpu
    ):
        limit_s = part.share * (deadline_s - time.monotonic())
        _log(f"{part.name}: at most {limit_s:.0f} s")
        outcomes.append(run_part(part, limit_s))
        (work / f"{part.name.replace(' ', '-')}.log").write_text(outcomes[-1].output, encoding="utf-8")
    machine = describe_machine((sys.executable,))
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions)
    where = ", ".join(machine.gpus) or machine.processor
    head = f"{now()}. {arguments.model.name} on {where}, {machine.cores} cores. {versions}."
    clients = CPU_CLIENTS if arguments.cpu else GPU_CLIENTS
    table = to_markdown(make_lines(outcomes), outcomes, head, clients)
    arguments.results.mkdir(parents=True, exist_ok=True)
    file = arguments.results / ("gpu-trial-on-a-cpu.md" if arguments.cpu else "gpu.md")
    file.write_text(table, encoding="utf-8")
    print(table)  # noqa: T201 - the result of a command line goes to stdout
    _log(f"results: {file}; logs: {work}")
    return 0 if any(line.speeds for line in make_lines(outcomes)) else 1


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress of a command line


if __name__ == "__main__":
    command_line.run(main)
