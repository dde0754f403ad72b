"""The contestants: how each is started, which models it is measured with, and what it needs installed.

A contestant is started, measured under each load, and stopped, so that no other is in memory at the same
time. A contestant that is not installed is skipped with a reason; one that does not start fails with a
reason.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from benchmarks import processes
from benchmarks.load import WARM_UP_TOKENS, Load, Target, list_models, run_load
from benchmarks.measures import Measurement, Sample, summarize
from benchmarks.processes import PORT, Launch, StartError
from benchmarks.prompts import make_prompts
from benchmarks.weights import ADAPTER_NAME, BASE_NAME, MERGED_NAME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.weights import Weights

ROOT: Final = Path(__file__).resolve().parent.parent
CONTEXT_TOKENS: Final = 2048
ONE_AT_A_TIME_CLIENTS: Final = 8
"""The maximum number of clients for a server without batching: more would only measure its queue."""


LLAMA_PARALLEL: Final = 32
"""How many requests llama.cpp answers at once: as many as the largest load has clients."""

GGUF_FORMATS: Final = {"llama-cpp": "BF16", "llama-cpp-q8": "Q8_0"}
"""The format of the weights of each of llama.cpp's contestants: that of the others, and a usual one."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """The time that the start took, and one measurement a load."""

    ready_after_s: float | None
    measurements: tuple[Measurement, ...]


class Contestant(Protocol):
    """A server or program to measure. Its name is one word; `about` is a description for readers."""

    @property
    def name(self) -> str:
        """Return the name."""
        ...

    @property
    def about(self) -> str:
        """Return the description."""
        ...

    def missing(self) -> str | None:
        """Return why it cannot run here, or None."""
        ...

    def run(self, loads: Sequence[Load], seed: str, log: Path) -> RunResult:
        """Start it, measure it under each load, and stop it.

        Raises:
            StartError: If it does not start.
        """
        ...


@dataclass(frozen=True, slots=True)
class Setup:
    """The weights and interpreters that the contestants use.

    Attributes:
        python: An interpreter with transformers and our server's packages.
        vllm_python: An interpreter with vLLM (and, for our server on vLLM, our server's packages).
        vllm_arguments: Additional arguments for bare vLLM.
        llama_python: An interpreter with llama.cpp (`xllamacpp` and `gguf`).
        gguf: Where the model's GGUF file for llama.cpp is, by format; empty without one.
        api_key: The API key of our server.
    """

    weights: Weights
    python: str
    vllm_python: str
    vllm_arguments: tuple[str, ...] = ()
    llama_python: str = sys.executable
    gguf: tuple[tuple[str, Path], ...] = ()
    api_key: str = field(default_factory=secrets.token_urlsafe, repr=False)


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A server with OpenAI's API.

    Attributes:
        models: The models that requests name, in rotation.
        needs: The modules that the launch's interpreter must have.
        has_list: Whether `/v1/models` lists the models; they are then checked before the measurement.
        max_clients: Loads with more clients are skipped.
        keeps_connections: Whether it takes several requests on a connection.
        lacks: Why it cannot be started, if the reason is not a module.
    """

    name: str
    about: str
    launch: Launch
    models: tuple[str, ...]
    needs: tuple[str, ...] = ()
    api_key: str = field(default="", repr=False)
    has_list: bool = True
    max_clients: int | None = None
    keeps_connections: bool = True
    lacks: str | None = None

    def missing(self) -> str | None:
        """Return what it lacks, or None."""
        return self.lacks or missing_modules(self.launch.argv[0], self.needs)

    def run(self, loads: Sequence[Load], seed: str, log: Path) -> RunResult:
        """Start the process, put each load on it, and stop it."""
        with processes.started(self.launch, log) as server:
            running = server.wait_until_ready()
            target = Target(
                running.address, self.models, self.api_key, keeps_connections=self.keeps_connections
            )
            if self.has_list:
                asyncio.run(require_models(target))
            measurements = tuple(
                asyncio.run(run_load(target, load, f"{seed}-{load.clients}"))
                for load in loads_up_to(loads, self.max_clients)
            )
        return RunResult(running.ready_after_s, measurements)


@dataclass(frozen=True, slots=True)
class PlainGenerate:
    """transformers' `generate` in a loop, for one client, without a server."""

    python: str
    model: Path
    name: str = "generate"
    about: str = "transformers' generate, in process, no server"

    def missing(self) -> str | None:
        """Return which modules its interpreter lacks, or None."""
        return missing_modules(self.python, ("torch", "transformers"))

    def run(self, loads: Sequence[Load], seed: str, log: Path) -> RunResult:
        """Answer one client's prompts in a separate process."""
        measurements = [self._measure(load, f"{seed}-{load.clients}", log) for load in loads_up_to(loads, 1)]
        return RunResult(None, tuple(measurements))

    def _measure(self, load: Load, seed: str, log: Path) -> Measurement:
        job = {
            "model": str(self.model),
            "warm_up": make_prompts(load.warm_up, f"{seed}-warm-up"),
            "warm_up_tokens": min(WARM_UP_TOKENS, load.max_tokens),
            "prompts": make_prompts(load.requests, seed),
            "max_tokens": load.max_tokens,
        }
        output = processes.run([self.python, "-m", "benchmarks.plain"], ROOT, log, json.dumps(job))
        samples = [_read_sample(document) for document in json.loads(output)]
        return summarize(samples, load.clients, 0.0)


def all_contestants(setup: Setup) -> tuple[Contestant, ...]:
    """Return all contestants in the order of the first round."""
    servers = {server.name: server for server in (*fjarr_servers(setup), *vllm_servers(setup))}
    names = ["fjarr", "vllm", "fjarr-vllm"]
    if setup.weights.adapters:
        names += ["fjarr-adapter", "fjarr-merged", "fjarr-adapters"]
        names += ["fjarr-vllm-adapter", "fjarr-vllm-adapters", "vllm-adapter", "vllm-adapters"]
    return (
        PlainGenerate(setup.python, setup.weights.base),
        transformers_serve(setup, is_batching=False),
        transformers_serve(setup, is_batching=True),
        *(servers[name] for name in names),
        *(llama_server(setup, name) for name in GGUF_FORMATS),
    )


def select(contestants: Sequence[Contestant], names: Sequence[str]) -> tuple[Contestant, ...]:
    """Return the contestants with the given names, or all if no names are given.

    Raises:
        ValueError: If there is no contestant with one of the names.
    """
    known = {contestant.name: contestant for contestant in contestants}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"there is no contestant {', '.join(unknown)}; there are {', '.join(known)}")
    return tuple(known[name] for name in names) if names else tuple(contestants)


def fjarr_servers(setup: Setup) -> tuple[HttpServer, ...]:
    """Return our server's variants. Without an adapter, those with adapters are not meant to be started."""
    weights = setup.weights
    base, merged, adapter = (BASE_NAME,), (MERGED_NAME,), (ADAPTER_NAME,)
    adapters = tuple(name for name, _ in weights.adapters)
    # Name, description, engine, share, base model, models of the requests.
    variants = (
        ("fjarr", "our server, transformers engine", "transformers", weights.mount, BASE_NAME, base),
        ("fjarr-vllm", "our server, vLLM engine", "vllm", weights.mount, BASE_NAME, base),
        (
            "fjarr-adapter",
            "our server, one adapter",
            "transformers",
            weights.adapter_mount,
            BASE_NAME,
            adapter,
        ),
        (
            "fjarr-merged",
            "our server, the adapter merged into the weights beforehand",
            "transformers",
            weights.merged_mount,
            MERGED_NAME,
            merged,
        ),
        (
            "fjarr-adapters",
            f"our server, {len(adapters)} adapters at once",
            "transformers",
            weights.adapters_mount,
            BASE_NAME,
            adapters,
        ),
        (
            "fjarr-vllm-adapter",
            "our server, vLLM engine, one adapter",
            "vllm",
            weights.adapter_mount,
            BASE_NAME,
            adapter,
        ),
        (
            "fjarr-vllm-adapters",
            f"our server, vLLM engine, {len(adapters)} adapters at once",
            "vllm",
            weights.adapters_mount,
            BASE_NAME,
            adapters,
        ),
    )
    return tuple(_fjarr(setup, *variant) for variant in variants)


def vllm_servers(setup: Setup) -> tuple[HttpServer, ...]:
    """Return bare vLLM with the base model and, if there are adapters, with one and with all of them."""
    adapters = setup.weights.adapters
    # Name, description, models of the requests, adapters.
    variants: list[tuple[str, str, tuple[str, ...], int]] = [("vllm", "bare vLLM", ("base",), 0)]
    if adapters:
        names = tuple(name for name, _ in adapters)
        variants += [
            ("vllm-adapter", "bare vLLM, one LoRA adapter", (ADAPTER_NAME,), 1),
            ("vllm-adapters", f"bare vLLM, {len(names)} LoRA adapters at once", names, len(names)),
        ]
    return tuple(_vllm(setup, *variant) for variant in variants)


def transformers_serve(setup: Setup, *, is_batching: bool) -> HttpServer:
    """Return `transformers serve`, with or without continuous batching.

    Its defaults give the cache most of the machine's memory, so its cache is set to our engine's size.
    """
    cache = ("--cb-block-size", "32", "--cb-num-blocks", "256", "--cb-max-batch-tokens", "512")
    batching = ("--continuous-batching", *cache) if is_batching else ()
    model = str(setup.weights.base)
    command = (setup.python, "-m", "transformers.cli.transformers", "serve", model)
    address = ("--host", "127.0.0.1", "--port", PORT)
    return HttpServer(
        name="transformers-batching" if is_batching else "transformers",
        about="transformers serve --continuous-batching" if is_batching else "transformers serve",
        launch=Launch((*command, *address, *batching), ROOT),
        models=(model,),
        needs=("torch", "transformers", "fastapi", "uvicorn", "openai"),
        has_list=False,  # it lists the models of a download cache, which is empty here
        max_clients=None if is_batching else ONE_AT_A_TIME_CLIENTS,
    )


def llama_server(setup: Setup, name: str) -> HttpServer:
    """Return llama.cpp's own server; the name is one of `GGUF_FORMATS`."""
    data_format = GGUF_FORMATS[name]
    file = dict(setup.gguf).get(data_format)
    arguments = (str(file), "base", PORT, str(LLAMA_PARALLEL), str(CONTEXT_TOKENS))
    return HttpServer(
        name=name,
        about=f"llama.cpp's server, weights in {data_format}",
        launch=Launch((setup.llama_python, "-m", "benchmarks.llama_server", *arguments), ROOT),
        models=("base",),
        needs=("xllamacpp",),
        # It may end a connection after an answer without saying so.
        keeps_connections=False,
        lacks=None if file else "no GGUF file of the model: --gguf names one",
    )


def loads_up_to(loads: Sequence[Load], max_clients: int | None) -> tuple[Load, ...]:
    """Return the loads with at most `max_clients` clients; None keeps all."""
    return tuple(load for load in loads if max_clients is None or load.clients <= max_clients)


def missing_modules(python: str, modules: Sequence[str]) -> str | None:
    """Return a phrase that names the modules an interpreter lacks, or None."""
    if not Path(python).is_file():
        return f"there is no interpreter {Path(python).name} where the command line says"
    code = (
        "import sys; from importlib.util import find_spec; "
        "print(*[name for name in sys.argv[1:] if not find_spec(name)])"
    )
    output = processes.run([python, "-I", "-c", code, *modules], ROOT, Path(os.devnull))
    return f"not installed: {output.strip()}" if output.strip() else None


async def require_models(target: Target) -> None:
    """Check that a server lists the models that the load will name.

    Raises:
        StartError: If it does not list one of them.
    """
    listed = await list_models(target)
    absent = [model for model in target.models if model not in listed]
    if absent:
        raise StartError(f"it does not serve {', '.join(absent)}; it serves {', '.join(listed) or 'nothing'}")


def _fjarr(  # noqa: PLR0913, PLR0917 - the columns of the table in `fjarr_servers`
    setup: Setup, name: str, about: str, engine: str, mount: Path, base: str, models: tuple[str, ...]
) -> HttpServer:
    python = setup.vllm_python if engine == "vllm" else setup.python
    environ = {
        "FJARR_ENGINE": engine,
        "FJARR_MOUNT": str(mount),
        "FJARR_BASE_MODEL": base,
        "FJARR_ADAPTER": "*",
        "FJARR_API_KEYS": f"bench={setup.api_key}",
        "FJARR_CHAT_SIGN_IN": "off",
        "FJARR_HOST": "127.0.0.1",
        "FJARR_PORT": PORT,
    }
    return HttpServer(
        name=name,
        about=about,
        # The chat page starts after the API is ready, and uses a core for seconds: `/` waits for it.
        launch=Launch(
            (python, "-m", "inference.server"), ROOT, tuple(environ.items()), ready_paths=("/readyz", "/")
        ),
        models=models,
        needs=(engine, "fastapi", "uvicorn", "gradio"),
        api_key=setup.api_key,
    )


def _vllm(setup: Setup, name: str, about: str, models: tuple[str, ...], loras: int) -> HttpServer:
    command = [setup.vllm_python, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(setup.weights.base), "--served-model-name", "base"]
    command += ["--host", "127.0.0.1", "--port", PORT, "--max-model-len", str(CONTEXT_TOKENS)]
    if loras:
        chosen = setup.weights.adapters[:loras]
        command += ["--enable-lora", "--max-loras", str(loras), "--max-lora-rank", str(_rank(chosen[0][1]))]
        command += ["--lora-modules", *(f"{adapter}={folder}" for adapter, folder in chosen)]
    return HttpServer(
        name=name,
        about=about,
        launch=Launch(
            (*command, *setup.vllm_arguments), setup.weights.mount, _vllm_environ(), start_limit_s=600.0
        ),
        models=models,
        needs=("vllm",),
    )


def _vllm_environ() -> tuple[tuple[str, str], ...]:
    """Return variables that make vLLM on a CPU use all cores; without them it reserves one."""
    cores = sorted(os.sched_getaffinity(0))
    return (
        ("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores))),
        ("VLLM_CPU_KVCACHE_SPACE", "2"),
        ("VLLM_NO_USAGE_STATS", "1"),
    )


def _rank(adapter: Path) -> int:
    config = json.loads((adapter / "adapter_config.json").read_text())
    return max(8, int(config["r"]))


def _read_sample(document: dict[str, Any]) -> Sample:
    return Sample(**document | {"text_times_s": tuple(document["text_times_s"])})
