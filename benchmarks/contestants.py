"""Say who takes part: how each contestant is started, what it is asked for, and whether it can take part.

A contestant takes a turn: it is started, measured under each load, and stopped, so that nobody else is in
memory meanwhile. A contestant that is not installed is skipped with a reason; one that does not come up has
failed with a reason.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
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
"""A server that answers one at a time is not asked by more: it would only show how long a queue is."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Hold what a turn gave: how long the start took, and a measurement a load."""

    ready_after_s: float | None
    measurements: tuple[Measurement, ...]


class Contestant(Protocol):
    """Take turns. Its name is one word; `about` says what it is, for readers."""

    @property
    def name(self) -> str:
        """Return the name."""
        ...

    @property
    def about(self) -> str:
        """Return what it is."""
        ...

    def missing(self) -> str | None:
        """Return why it cannot take part here, or None."""
        ...

    def take_turn(self, loads: Sequence[Load], seed: str, log: Path) -> Turn:
        """Start, be measured under each load, stop.

        Raises:
            StartError: If it does not come up.
        """
        ...


@dataclass(frozen=True, slots=True)
class Setting:
    """Hold what contestants are made from.

    Attributes:
        python: The interpreter that has transformers and our server's packages.
        vllm_python: One that has vLLM (and, for our server with it, our server's packages).
        vllm_arguments: Further arguments for bare vLLM.
        api_key: The key that our server asks its clients for.
    """

    weights: Weights
    python: str
    vllm_python: str
    vllm_arguments: tuple[str, ...] = ()
    api_key: str = field(default_factory=secrets.token_urlsafe, repr=False)


@dataclass(frozen=True, slots=True)
class HttpServer:
    """Be a server that speaks OpenAI's API.

    Attributes:
        models: What requests name, in turns; None of them may be missing where the server has a list.
        needs: Modules that the launch's interpreter must have.
        has_list: Whether `/v1/models` is to be believed.
        max_clients: Loads of more are left out.
    """

    name: str
    about: str
    launch: Launch
    models: tuple[str, ...]
    needs: tuple[str, ...] = ()
    api_key: str = field(default="", repr=False)
    has_list: bool = True
    max_clients: int | None = None

    def missing(self) -> str | None:
        """Return which of its modules its interpreter lacks."""
        return missing_modules(self.launch.argv[0], self.needs)

    def take_turn(self, loads: Sequence[Load], seed: str, log: Path) -> Turn:
        """Start the process, put each load on it, stop it."""
        with processes.started(self.launch, log) as server:
            running = server.wait_until_ready()
            target = Target(running.address, self.models, self.api_key)
            if self.has_list:
                asyncio.run(require_models(target))
            measurements = tuple(
                asyncio.run(run_load(target, load, f"{seed}-{load.clients}"))
                for load in suitable(loads, self.max_clients)
            )
        return Turn(running.ready_after_s, measurements)


@dataclass(frozen=True, slots=True)
class PlainGenerate:
    """Be transformers' `generate` in a loop, for one client, without a server."""

    python: str
    model: Path
    name: str = "generate"
    about: str = "transformers' generate, in process, no server"

    def missing(self) -> str | None:
        """Return whether transformers is missing."""
        return missing_modules(self.python, ("torch", "transformers"))

    def take_turn(self, loads: Sequence[Load], seed: str, log: Path) -> Turn:
        """Answer the single client's prompts in a process of its own."""
        measurements = [self._measure(load, f"{seed}-{load.clients}", log) for load in suitable(loads, 1)]
        return Turn(None, tuple(measurements))

    def _measure(self, load: Load, seed: str, log: Path) -> Measurement:
        question = {
            "model": str(self.model),
            "warm_up": make_prompts(load.warm_up, f"{seed}-warm-up"),
            "warm_up_tokens": min(WARM_UP_TOKENS, load.max_tokens),
            "prompts": make_prompts(load.requests, seed),
            "max_tokens": load.max_tokens,
        }
        answer = processes.run([self.python, "-m", "benchmarks.plain"], ROOT, log, json.dumps(question))
        samples = [_read_sample(document) for document in json.loads(answer)]
        return summarize(samples, load.clients, 0.0)


def all_contestants(setting: Setting) -> tuple[Contestant, ...]:
    """Return everybody, in the order of their turns."""
    ours = fjarr_servers(setting)
    with_adapter: tuple[Contestant, ...] = ()
    if setting.weights.adapters:
        with_adapter = (
            ours["fjarr-adapter"],
            ours["fjarr-merged"],
            ours["fjarr-adapters"],
            vllm_lora(setting),
            vllm_loras(setting),
        )
    return (
        PlainGenerate(setting.python, setting.weights.base),
        transformers_serve(setting, is_batching=False),
        transformers_serve(setting, is_batching=True),
        ours["fjarr"],
        vllm(setting),
        ours["fjarr-vllm"],
        *with_adapter,
    )


def choose(contestants: Sequence[Contestant], names: Sequence[str]) -> tuple[Contestant, ...]:
    """Return those with the names, or all of them if there are no names.

    Raises:
        ValueError: If nobody has a name.
    """
    known = {contestant.name: contestant for contestant in contestants}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"there is no contestant {', '.join(unknown)}; there are {', '.join(known)}")
    return tuple(known[name] for name in names) if names else tuple(contestants)


def fjarr_servers(setting: Setting) -> dict[str, HttpServer]:
    """Return the forms in which our server takes part, by name; requests ask for a form's models in turns."""
    weights = setting.weights
    base, merged, adapter = (BASE_NAME,), (MERGED_NAME,), (ADAPTER_NAME,)
    adapters = tuple(name for name, _ in weights.adapters)
    one, many = "our server, one adapter", f"our server, {len(adapters)} adapters at once"
    beforehand = "our server, the adapter merged into the weights beforehand"
    # Name, what it is, engine, share, base model, what requests ask for.
    forms = (
        ("fjarr", "our server, transformers engine", "transformers", weights.mount, BASE_NAME, base),
        ("fjarr-vllm", "our server, vLLM engine", "vllm", weights.mount, BASE_NAME, base),
        ("fjarr-adapter", one, "transformers", weights.adapter_mount, BASE_NAME, adapter),
        ("fjarr-merged", beforehand, "transformers", weights.merged_mount, MERGED_NAME, merged),
        ("fjarr-adapters", many, "transformers", weights.adapters_mount, BASE_NAME, adapters),
    )
    return {form[0]: _fjarr(setting, *form) for form in forms}


def vllm(setting: Setting) -> HttpServer:
    """Return bare vLLM with the base model."""
    return _vllm(setting, "vllm", "bare vLLM", models=("base",))


def vllm_lora(setting: Setting) -> HttpServer:
    """Return bare vLLM with one adapter, which all requests ask for."""
    return _vllm(setting, "vllm-adapter", "bare vLLM, one LoRA adapter", models=(ADAPTER_NAME,), loras=1)


def vllm_loras(setting: Setting) -> HttpServer:
    """Return bare vLLM with several adapters, which requests ask for in turns."""
    names = tuple(name for name, _ in setting.weights.adapters)
    about = f"bare vLLM, {len(names)} LoRA adapters at once"
    return _vllm(setting, "vllm-adapters", about, models=names, loras=len(names))


def transformers_serve(setting: Setting, *, is_batching: bool) -> HttpServer:
    """Return `transformers serve`, with or without continuous batching.

    Its own defaults give the cache most of the machine's memory, so it gets the cache that our engine has.
    """
    cache = ("--cb-block-size", "32", "--cb-num-blocks", "256", "--cb-max-batch-tokens", "512")
    batching = ("--continuous-batching", *cache) if is_batching else ()
    model = str(setting.weights.base)
    command = (setting.python, "-m", "transformers.cli.transformers", "serve", model)
    address = ("--host", "127.0.0.1", "--port", PORT)
    return HttpServer(
        name="transformers-batching" if is_batching else "transformers",
        about="transformers serve --continuous-batching" if is_batching else "transformers serve",
        launch=Launch((*command, *address, *batching), ROOT),
        models=(model,),
        needs=("torch", "transformers", "fastapi", "uvicorn", "openai"),
        has_list=False,  # it lists what a cache of downloads holds, and has none here
        max_clients=None if is_batching else ONE_AT_A_TIME_CLIENTS,
    )


def suitable(loads: Sequence[Load], max_clients: int | None) -> tuple[Load, ...]:
    """Return the loads that are not too large."""
    return tuple(load for load in loads if max_clients is None or load.clients <= max_clients)


def missing_modules(python: str, modules: Sequence[str]) -> str | None:
    """Return a sentence about what an interpreter lacks, or None."""
    if not Path(python).is_file():
        return f"there is no interpreter {Path(python).name} where the command line says"
    code = (
        "import sys; from importlib.util import find_spec; "
        "print(*[name for name in sys.argv[1:] if not find_spec(name)])"
    )
    answer = processes.run([python, "-I", "-c", code, *modules], ROOT, Path(os.devnull))
    return f"not installed: {answer.strip()}" if answer.strip() else None


async def require_models(target: Target) -> None:
    """Make sure that a server lists the models that it will be asked for.

    Raises:
        StartError: If it does not.
    """
    listed = await list_models(target)
    absent = [model for model in target.models if model not in listed]
    if absent:
        raise StartError(f"it does not serve {', '.join(absent)}; it serves {', '.join(listed) or 'nothing'}")


def _fjarr(  # noqa: PLR0913, PLR0917 - the columns of the table in `fjarr_servers`
    setting: Setting, name: str, about: str, engine: str, mount: Path, base: str, models: tuple[str, ...]
) -> HttpServer:
    python = setting.vllm_python if engine == "vllm" else setting.python
    environ = {
        "FJARR_ENGINE": engine,
        "FJARR_MOUNT": str(mount),
        "FJARR_BASE_MODEL": base,
        "FJARR_ADAPTER": "*",
        "FJARR_API_KEYS": f"bench={setting.api_key}",
        "FJARR_CHAT_SIGN_IN": "off",
        "FJARR_HOST": "127.0.0.1",
        "FJARR_PORT": PORT,
    }
    return HttpServer(
        name=name,
        about=about,
        # The chat page comes up after the API is ready, and takes a core for seconds: `/` waits for it.
        launch=Launch(
            (python, "-m", "inference.server"), ROOT, tuple(environ.items()), ready_paths=("/readyz", "/")
        ),
        models=models,
        needs=(engine, "fastapi", "uvicorn", "gradio"),
        api_key=setting.api_key,
    )


def _vllm(setting: Setting, name: str, about: str, *, models: tuple[str, ...], loras: int = 0) -> HttpServer:
    command = [setting.vllm_python, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(setting.weights.base), "--served-model-name", "base"]
    command += ["--host", "127.0.0.1", "--port", PORT, "--max-model-len", str(CONTEXT_TOKENS)]
    if loras:
        chosen = setting.weights.adapters[:loras]
        command += ["--enable-lora", "--max-loras", str(loras), "--max-lora-rank", str(_rank(chosen[0][1]))]
        command += ["--lora-modules", *(f"{adapter}={folder}" for adapter, folder in chosen)]
    return HttpServer(
        name=name,
        about=about,
        launch=Launch(
            (*command, *setting.vllm_arguments), setting.weights.mount, _vllm_environ(), start_limit_s=600.0
        ),
        models=models,
        needs=("vllm",),
    )


def _vllm_environ() -> tuple[tuple[str, str], ...]:
    """Return what lets vLLM use all of a CPU: it keeps a core free otherwise. A GPU's ignores it."""
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
