from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

# The benchmarks are run from the repository's root and are no part of the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from typing import TYPE_CHECKING

from benchmarks import gpu
from benchmarks.gpu import (
    CONTESTANTS,
    MIN_PART_S,
    Outcome,
    Part,
    make_lines,
    make_parts,
    run_part,
    to_markdown,
)

if TYPE_CHECKING:
    import pytest

SCRIPT = Path(gpu.__file__).with_suffix(".sh")


def test_the_parts_measure_what_the_script_promises(tmp_path: Path) -> None:
    contest, *steps, conformance = make_parts("python", Path("/m"), Path("/a"), tmp_path, is_cpu=False)
    assert contest.argv[contest.argv.index("--clients") + 1 :][:4] == ("1", "8", "32", "128")
    assert contest.argv[contest.argv.index("--only") + 1 :] == tuple(CONTESTANTS)
    assert [part.argv[part.argv.index("--engine") + 1] for part in steps] == ["vllm", "transformers"]
    assert conformance.argv[conformance.argv.index("--device") + 1] == "cuda"
    trial = make_parts("python", Path("/m"), Path("/a"), tmp_path, is_cpu=True)
    assert all("128" not in part.argv for part in trial)
    assert [part.argv[part.argv.index("--device") + 1] for part in trial[1:]] == ["cpu"] * 3


def test_a_part_ends_with_its_time_and_keeps_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Part("slow", ("/bin/sh", "-c", "echo one line; sleep 600 & wait"), 1.0)
    assert run_part(slow, MIN_PART_S - 1).output == "no time was left for it"
    quick = run_part(Part("quick", ("/bin/sh", "-c", "echo done; exit 3"), 60.0), MIN_PART_S)
    assert (quick.exit_code, quick.output) == (3, "done\n")
    monkeypatch.setattr(gpu, "MIN_PART_S", 0.0)
    ended = run_part(slow, 1.0)
    assert (ended.exit_code, ended.output) == (None, "one line\n")


def outcomes(tmp_path: Path) -> list[Outcome]:
    contest, vllm, transformers, conformance = make_parts(
        "python", Path("/m"), Path("/a"), tmp_path, is_cpu=False
    )
    rows = [
        {"name": "fjarr-vllm", "clients": 1, "tokens_per_s": 201.4, "time_to_first_token_s": {"p50": 0.0213}},
        {"name": "fjarr-vllm", "clients": 128, "tokens_per_s": 5012.0, "time_to_first_token_s": None},
    ]
    entries = [
        {"name": "fjarr-vllm", "skipped": None, "rounds": [{"failure": None}]},
        {"name": "fjarr", "skipped": None, "rounds": [{"failure": "it ended with 1: no memory"}]},
        {"name": "fjarr-adapter", "skipped": "not installed: gradio", "rounds": []},
    ]
    assert contest.file is not None
    assert vllm.file is not None
    contest.file.write_text(json.dumps({"rows": rows, "entries": entries}))
    vllm.file.write_text(json.dumps([{"variant": "base", "rows": 8, "tokens_per_s": 1500.0}]))
    return [
        Outcome(contest, None, 250.0, ""),
        Outcome(vllm, 0, 40.0, ""),
        Outcome(transformers, 1, 5.0, "Traceback\nLoadError: no CUDA device\n"),
        Outcome(conformance, 0, 60.0, "....\n=========== 71 passed, 2 skipped in 58.1s ===========\n"),
    ]


def test_the_table_has_what_was_measured_and_says_why_the_rest_was_not(tmp_path: Path) -> None:
    done = outcomes(tmp_path)
    assert to_markdown(make_lines(done), done, "A card.", (1, 8, 128)) == (
        "A card.\n\n"
        "| tokens/s (first token, ms) | 1 client | 8 clients | 128 clients |\n"
        "|---|---:|---:|---:|\n"
        "| vLLM, base | 201 (21) |  | 5,012 |\n"
        "| vLLM, one adapter (merged) |  |  |  |\n"
        "| vLLM, four adapters |  |  |  |\n"
        "| transformers, base |  |  |  |\n"
        "| transformers, one adapter (merged) |  |  |  |\n"
        "| transformers, four adapters |  |  |  |\n"
        "| vllm alone |  | 1,500 |  |\n"
        "| transformers alone |  |  |  |\n\n"
        "- vLLM, one adapter (merged): it had too little time\n"
        "- vLLM, four adapters: it had too little time\n"
        "- transformers, base: it ended with 1: no memory\n"
        "- transformers, one adapter (merged): not installed: gradio\n"
        "- transformers, four adapters: it had too little time\n"
        "- transformers alone: Traceback | LoadError: no CUDA device\n\n"
        "Conformance tests: 71 passed, 2 skipped in 58.1s\n\n"
        "Time: contest 250 s, vllm alone 40 s, transformers alone 5 s, conformance 60 s.\n"
    )


def test_the_script_is_bash_and_explains_itself() -> None:
    shown = subprocess.run(["bash", str(SCRIPT), "--help"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("Measure both engines on a machine with a GPU, in at most eight minutes")
    assert "set -euo pipefail" not in shown.stdout
    requirements = {path.name for path in SCRIPT.parent.glob("requirements-*.txt")}
    assert requirements == {"requirements-gpu.txt"}
