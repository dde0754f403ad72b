"""Run the contest and write its results.

    python -m benchmarks.run --model FOLDER --adapter FOLDER --vllm-python ENVIRONMENT/bin/python

Writes `<name>.json`, `<name>.md` and, where matplotlib is installed, `<name>.png`.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks import command_line, processes, report
from benchmarks.contest import Contest, Entry, Row, describe_machine, make_rows, now, run_contest
from benchmarks.contestants import GGUF_FORMATS, ROOT, Contestant, Setup, all_contestants, select
from benchmarks.load import Load
from benchmarks.processes import StartError
from benchmarks.weights import prepare_gguf, prepare_weights

WORK: Final = ROOT / ".fjarr" / "bench"
RESULTS: Final = ROOT / "benchmarks" / "results"


def main() -> int:
    """Run the command line, and return the exit code."""
    arguments = parse_arguments(sys.argv[1:])
    processes.exit_on_signals()
    loads = make_loads(arguments.clients, arguments.requests_per_client, arguments.max_tokens)
    try:
        setup = make_setup(arguments)
        contestants = select(all_contestants(setup), arguments.only)
        _check_baseline(contestants, arguments.baseline)
    except (ValueError, StartError) as error:
        _log(f"error: {error}")
        return 2
    if not setup.weights.is_endless:
        _log("this model's tokenizer has no spare token: answers may end early, which the results count")
    started_at, machine = (
        now(),
        describe_machine((arguments.python, arguments.vllm_python, arguments.llama_python)),
    )
    rows: tuple[Row, ...] = ()
    # Written after each measurement, so that a contest that is interrupted has results.
    for entries in run_contest(contestants, loads, arguments.rounds, WORK / "logs", _log):
        rows = make_rows(entries, loads, arguments.baseline)
        contest = Contest(
            name=arguments.name,
            started_at=started_at,
            model=arguments.model_name or arguments.model.resolve().name,
            machine=machine,
            baseline=arguments.baseline,
            loads=loads,
            entries=tuple(redact_paths(entry, (arguments.model, ROOT, Path.home())) for entry in entries),
            rows=rows,
        )
        write(contest, arguments.results)
    _log(f"results: {arguments.results / arguments.name}.md, .json, .png")
    return 0 if rows else 1


def write(contest: Contest, folder: Path) -> None:
    """Write a contest's files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{contest.name}.json").write_text(report.to_json(contest))
    (folder / f"{contest.name}.md").write_text(report.to_markdown(contest))
    if importlib.util.find_spec("matplotlib") is None:
        _log("no plot: matplotlib is not installed (python3 install.py --extra local --extra bench)")
    else:
        report.draw(contest, folder / f"{contest.name}.png")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Compare servers.")
    parser.add_argument("--model", type=Path, required=True, help="a folder of safetensors")
    parser.add_argument("--model-name", default="", help="its name in the results; default: the folder's")
    parser.add_argument("--adapter", type=Path, help="a LoRA adapter's folder; default: none takes part")
    parser.add_argument("--adapters", type=command_line.count, default=4, help="how many are served at once")
    parser.add_argument("--only", nargs="+", default=[], help="names of contestants; default: all")
    parser.add_argument(
        "--baseline", default="transformers-batching", help="the contestant that ratios are relative to"
    )
    parser.add_argument("--clients", type=command_line.count, nargs="+", default=[1, 8, 32])
    parser.add_argument(
        "--requests-per-client",
        type=command_line.count,
        default=2,
        help="but not less than four requests a load",
    )
    parser.add_argument("--max-tokens", type=command_line.count, default=64)
    parser.add_argument("--rounds", type=command_line.count, default=3)
    parser.add_argument("--gguf", type=Path, help="the model's GGUF file, for llama.cpp; default: none")
    interpreters = (("--python", "transformers"), ("--vllm-python", "vLLM"), ("--llama-python", "llama.cpp"))
    for option, whose in interpreters:
        parser.add_argument(
            option, type=_interpreter, default=sys.executable, help=f"the interpreter of {whose}"
        )
    parser.add_argument(
        "--vllm-argument",
        action="append",
        default=[],
        help="one more, as --vllm-argument=--enforce-eager",
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--name", default="contest")
    return parser.parse_args(arguments)


def make_loads(clients: list[int], requests_per_client: int, max_tokens: int) -> tuple[Load, ...]:
    """Return a load for each number of clients, with a warm-up of one request a client."""
    return tuple(Load(each, max(4, each * requests_per_client), max_tokens, warm_up=each) for each in clients)


def make_setup(arguments: argparse.Namespace) -> Setup:
    """Prepare the weights, and return what the contestants use.

    Raises:
        ValueError: If there is no model.
        StartError: If the adapter cannot be merged, or the GGUF file cannot be read.
    """
    for folder, file in ((arguments.model, "config.json"), (arguments.adapter, "adapter_config.json")):
        if folder is not None and not (folder / file).is_file():
            raise ValueError(f"there is no {file} in {folder}")
    if arguments.gguf is not None and not arguments.gguf.is_file():
        raise ValueError(f"there is no file {arguments.gguf}")
    weights = prepare_weights(
        arguments.model, arguments.adapter, WORK / "weights", arguments.python, arguments.adapters
    )
    files: tuple[tuple[str, Path], ...] = ()
    if arguments.gguf is not None:
        files = prepare_gguf(
            arguments.gguf, tuple(GGUF_FORMATS.values()), WORK / "gguf", arguments.llama_python
        )
    return Setup(
        weights,
        arguments.python,
        arguments.vllm_python,
        tuple(arguments.vllm_argument),
        arguments.llama_python,
        files,
    )


def redact_paths(entry: Entry, paths: tuple[Path, ...]) -> Entry:
    """Return an entry without the paths of this machine in its reasons: results are published."""

    def clean(text: str | None) -> str | None:
        for path in paths:
            for form in (str(path.resolve()), str(path)):
                text = text and text.replace(form, "...")
        return text

    rounds = tuple(replace(each, failure=clean(each.failure)) for each in entry.rounds)
    return replace(entry, rounds=rounds, skipped=clean(entry.skipped))


def _interpreter(path: str) -> str:
    """Return an interpreter's absolute path. Links are kept: a virtual environment's interpreter is one."""
    return str(Path(path).absolute())


def _check_baseline(contestants: tuple[Contestant, ...], baseline: str) -> None:
    names = [contestant.name for contestant in contestants]
    if baseline not in names:
        raise ValueError(f"the baseline {baseline} does not take part; --baseline takes {', '.join(names)}")


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress of a command line


if __name__ == "__main__":
    command_line.run(main)
