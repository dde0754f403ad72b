from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# The benchmarks are run from the repository's root and are no part of the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks import processes, report
from benchmarks.contest import Contest, Entry, Machine, Round, make_rows, run_contest
from benchmarks.contestants import RunResult, Setup, all_contestants, loads_up_to, select
from benchmarks.load import Load
from benchmarks.measures import Failure, Measurement, Percentiles
from benchmarks.processes import Launch, StartError, started
from benchmarks.run import make_loads, parse_arguments, redact_paths
from benchmarks.startup import Observation, Phase, Start, make_phases, median_start
from benchmarks.weights import Weights, find_unused_token, make_endless

if TYPE_CHECKING:
    from collections.abc import Sequence

MACHINE = Machine("A processor", 2, 8.0, ("A card",), (("python", "3.11.2"), ("torch", "2.13.0")))
LOADS = (Load(1, 4), Load(8, 16))


def measurement(clients: int, tokens_per_s: float, failures: tuple[Failure, ...] = ()) -> Measurement:
    spread = Percentiles(0.0512, 0.1004, 0.25)
    return Measurement(clients, 4, failures, 0, 40, 4.0, tokens_per_s, 1.0, spread, spread, spread, 0.01)


def make_contest() -> Contest:
    refused = (Failure("status 429: busy", 3),)
    entries = (
        Entry("base", "the baseline", (Round(1, 0.0, 3.0, (measurement(1, 10.0), measurement(8, 20.0))),)),
        Entry("own", "ours", (Round(1, 0.0, 2.0, (measurement(1, 12.5), measurement(8, 30.0, refused))),)),
        Entry("late", "did not come up", (Round(1, 0.0, None, (), "it ended with 2: no memory"),)),
        Entry("gone", "not here", (), "not installed: vllm"),
    )
    rows = make_rows(entries, LOADS, "base")
    return Contest("trial", "2026-01-01T00:00:00Z", "tiny", MACHINE, "base", LOADS, entries, rows)


def test_the_markdown_tables() -> None:
    assert report.to_markdown(make_contest()) == (
        "# trial\n\n"
        "2026-01-01T00:00:00Z. tiny on A processor, 2 cores, 8 GiB, A card. python 3.11.2, torch 2.13.0.\n\n"
        "Medians of 1 rounds, in which the contestants took turns; 64 tokens an answer; clients x requests:\n"
        "1x4, 8x16. The ratio is tokens/s against `base` in the same round.\n\n"
        "## 1 client\n\n"
        "| contestant | tokens/s | slowest to fastest | ratio | first token p50, ms | p95 | p99"
        " | later than the baseline's, ms | inter-token p50, ms | p95 | p99 | errors |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| `base` | 10.0 | 10.0 to 10.0 | 1.00 | 51.2 | 100 | 250 | +0 | 51.2 | 100 | 250 | 0 |\n"
        "| `own` | 12.5 | 12.5 to 12.5 | 1.25 | 51.2 | 100 | 250 | +0 | 51.2 | 100 | 250 | 0 |\n\n"
        "## 8 clients\n\n"
        "| contestant | tokens/s | slowest to fastest | ratio | first token p50, ms | p95 | p99"
        " | later than the baseline's, ms | inter-token p50, ms | p95 | p99 | errors |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| `base` | 20.0 | 20.0 to 20.0 | 1.00 | 51.2 | 100 | 250 | +0 | 51.2 | 100 | 250 | 0 |\n"
        "| `own` | 30.0 | 30.0 to 30.0 | 1.50 | 51.2 | 100 | 250 | +0 | 51.2 | 100 | 250 | 3 |\n\n"
        "## Not measured\n\n"
        "- `own` (ours): 3 of 4 requests at 8 clients: status 429: busy\n"
        "- `late` (did not come up): it ended with 2: no memory\n"
        "- `gone` (not here): skipped, not installed: vllm\n"
    )


def test_the_json_holds_every_round() -> None:
    document: dict[str, Any] = json.loads(report.to_json(make_contest()))
    assert document["entries"][1]["rounds"][0]["measurements"][1]["failures"][0]["count"] == 3
    assert document["rows"][0]["time_to_first_token_s"] == {"p50": 0.0512, "p95": 0.1004, "p99": 0.25}


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plot needs the extra `bench`")
    report.draw(make_contest(), tmp_path / "trial.png")
    assert (tmp_path / "trial.png").read_bytes().startswith(b"\x89PNG")


@dataclass(frozen=True, slots=True)
class Scripted:
    """A contestant with scripted results."""

    name: str
    results: list[RunResult | StartError]
    order: list[str]
    about: str = "scripted"
    absence: str | None = None

    def missing(self) -> str | None:
        return self.absence

    def run(self, loads: Sequence[Load], seed: str, log: Path) -> RunResult:
        del loads, log
        self.order.append(f"{self.name} {seed}")
        result = self.results.pop(0)
        if isinstance(result, StartError):
            raise result
        return result


def test_all_contestants_run_in_rotation_and_a_failure_stops_no_other(tmp_path: Path) -> None:
    order: list[str] = []
    lines: list[str] = []
    good = RunResult(1.0, (measurement(1, 10.0),))
    contestants = (
        Scripted("a", [good, StartError("it ended with 1")], order),
        Scripted("b", [], order, absence="not installed: b"),
        Scripted("c", [good, good], order),
    )
    *_, entries = run_contest(contestants, LOADS[:1], 2, tmp_path, lines.append)
    assert order == ["a round-1", "c round-1", "c round-2", "a round-2"]
    assert [entry.skipped for entry in entries] == [None, "not installed: b", None]
    assert [each.failure for each in entries[0].rounds] == [None, "it ended with 1"]
    assert lines[0] == "b: skipped, not installed: b"
    assert lines[-1] == "round 2, a: it ended with 1"


def make_setup(tmp_path: Path) -> Setup:
    (tmp_path / "adapter_config.json").write_text('{"r": 16}')
    adapters = (("bench-1", tmp_path), ("bench-2", tmp_path))
    base, mount = Path("/bench/base"), Path("/bench/mount")
    weights = Weights(base, adapters, Path("/bench/merged"), mount, mount, mount, mount, is_endless=True)
    return Setup(
        weights,
        "/env/bin/python",
        "/vllm/bin/python",
        ("--enforce-eager",),
        "/llama/bin/python",
        (("BF16", Path("/bench/BF16.gguf")),),
        api_key="key",
    )


def test_all_contestants(tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    names = [contestant.name for contestant in all_contestants(setup)]
    assert names == [
        "generate", "transformers", "transformers-batching", "fjarr", "vllm", "fjarr-vllm",
        "fjarr-adapter", "fjarr-merged", "fjarr-adapters", "fjarr-vllm-adapter", "fjarr-vllm-adapters",
        "vllm-adapter", "vllm-adapters", "llama-cpp", "llama-cpp-q8",
    ]  # fmt: skip
    assert [each.name for each in select(all_contestants(setup), ["vllm", "fjarr"])] == ["vllm", "fjarr"]
    with pytest.raises(ValueError, match=r"^there is no contestant x; there are generate, transformers, "):
        select(all_contestants(setup), ["x"])


def test_llama_cpp_takes_part_only_with_a_file_of_its_own_format(tmp_path: Path) -> None:
    reasons = {
        each.name: each.missing() for each in all_contestants(make_setup(tmp_path)) if "llama" in each.name
    }
    assert reasons["llama-cpp"] == "there is no interpreter python where the command line says"
    assert reasons["llama-cpp-q8"] == "no GGUF file of the model: --gguf names one"


def test_the_command_lines_of_the_other_servers(tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    commands = {each.name: each.launch.argv for each in all_contestants(setup) if hasattr(each, "launch")}
    assert commands["transformers-batching"] == (
        "/env/bin/python", "-m", "transformers.cli.transformers", "serve", "/bench/base",
        "--host", "127.0.0.1", "--port", "{port}", "--continuous-batching",
        "--cb-block-size", "32", "--cb-num-blocks", "256", "--cb-max-batch-tokens", "512",
    )  # fmt: skip
    assert commands["vllm-adapters"] == (
        "/vllm/bin/python", "-m", "vllm.entrypoints.openai.api_server",
        "--model", "/bench/base", "--served-model-name", "base",
        "--host", "127.0.0.1", "--port", "{port}", "--max-model-len", "2048",
        "--enable-lora", "--max-loras", "2", "--max-lora-rank", "16",
        "--lora-modules", f"bench-1={tmp_path}", f"bench-2={tmp_path}", "--enforce-eager",
    )  # fmt: skip
    assert commands["llama-cpp"] == (
        "/llama/bin/python", "-m", "benchmarks.llama_server",
        "/bench/BF16.gguf", "base", "{port}", "32", "2048",
    )  # fmt: skip
    assert commands["fjarr"] == ("/env/bin/python", "-m", "inference.server")
    assert commands["fjarr-vllm"] == ("/vllm/bin/python", "-m", "inference.server")


def test_an_interpreter_that_is_not_there_is_a_reason_to_be_skipped(tmp_path: Path) -> None:
    (server,) = select(all_contestants(make_setup(tmp_path)), ["vllm"])
    assert server.missing() == "there is no interpreter python where the command line says"


def test_loads_that_are_too_large_are_left_out() -> None:
    assert loads_up_to(LOADS, 1) == LOADS[:1]
    assert loads_up_to(LOADS, None) == LOADS
    assert [(load.requests, load.warm_up) for load in make_loads([1, 8], 2, 64)] == [(4, 1), (16, 8)]


def test_reasons_contain_no_paths_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    failed = Round(1, 0.0, None, (), f"no such file: {tmp_path}/model/config.json")
    entry = redact_paths(Entry("a", "", (failed,)), (tmp_path / "model",))
    assert entry.rounds[0].failure == "no such file: .../config.json"


def test_an_interpreter_is_found_from_any_folder() -> None:
    arguments = parse_arguments(["--model", "m", "--vllm-python", "environment/bin/python"])
    assert arguments.vllm_python == str(Path.cwd() / "environment/bin/python")


def test_the_command_line_has_the_loads_that_are_promised() -> None:
    assert parse_arguments(["--model", "m"]).clients == [1, 8, 32]


def test_phases_last_until_the_next_is_seen() -> None:
    observations = [Observation(0.0, "port"), Observation(1.0, "importing"), Observation(4.0, "loading")]
    assert make_phases(observations, 4.5) == (
        Phase("port", 1.0),
        Phase("importing", 3.0),
        Phase("loading", 0.5),
    )


def test_the_median_start_is_phase_by_phase() -> None:
    starts = [Start(total, (Phase("a", total - 1), Phase("b", 1.0))) for total in (3.0, 9.0, 4.0)]
    assert median_start(starts) == Start(4.0, (Phase("a", 3.0), Phase("b", 1.0)))


def make_model(folder: Path, added: list[str]) -> Path:
    folder.mkdir()
    tokens = [{"id": number, "content": content, "special": True} for number, content in enumerate(added)]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens}))
    tokenizer_config = {"eos_token": "<end>", "chat_template": "<turn>{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    (folder / "generation_config.json").write_text('{"eos_token_id": 0, "pad_token_id": 0}')
    (folder / "config.json").write_text('{"eos_token_id": [0], "vocab_size": 9}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_an_endless_model_has_an_end_token_that_it_never_generates(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", ["<end>", "<file>", "<turn>"])
    assert make_endless(model, tmp_path / "endless")
    read = {path.name: path for path in (tmp_path / "endless").iterdir()}
    assert json.loads(read["generation_config.json"].read_text()) == {"eos_token_id": 1, "pad_token_id": 0}
    assert json.loads(read["config.json"].read_text()) == {"eos_token_id": 1, "vocab_size": 9}
    assert json.loads(read["tokenizer_config.json"].read_text())["eos_token"] == "<file>"
    assert read["model.safetensors"].is_symlink()
    assert json.loads((model / "generation_config.json").read_text())["eos_token_id"] == 0


def test_a_model_without_a_spare_token_stays_as_it_is(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", ["<end>", "<turn>"])
    assert find_unused_token(model) is None
    assert not make_endless(model, tmp_path / "endless")
    assert (tmp_path / "endless" / "config.json").is_symlink()


def test_a_server_is_started_on_a_free_port_waited_for_and_stopped(tmp_path: Path) -> None:
    (tmp_path / "health").write_text("ok")
    argv = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "{port}")
    with started(Launch(argv, tmp_path), tmp_path / "logs" / "server.log") as server:
        running = server.wait_until_ready()
        assert running.ready_after_s > 0
        assert processes.get(server.port, "/health") == (200, b"ok")
    assert processes.get(server.port, "/health") == (0, b"")


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    argv = (sys.executable, "-c", "import sys; sys.exit('no memory')")
    with (
        started(Launch(argv, tmp_path), tmp_path / "server.log") as server,
        pytest.raises(StartError, match=r"^it ended with 1: no memory$"),
    ):
        server.wait_until_ready()


def test_a_server_that_never_answers_times_out(tmp_path: Path) -> None:
    argv = (sys.executable, "-c", "import signal; print('waiting', flush=True); signal.pause()")
    with (
        started(Launch(argv, tmp_path, start_limit_s=0.2), tmp_path / "server.log") as server,
        pytest.raises(StartError, match=r"^it was not ready within 0\.2 s: "),
    ):
        server.wait_until_ready()
