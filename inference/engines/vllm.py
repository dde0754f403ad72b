"""Generate with vLLM: its asynchronous engine here, its scheduler and its workers in processes of their own.

One engine serves the base and, beside it in the same batch, the adapters. vLLM takes token ids and gives
token ids; its own tokenizer is there for the grammars alone. Where an answer is held to a grammar, vLLM's
log-probabilities are those among the tokens that the grammar allows.

Source: vLLM 0.32, `v1/engine/async_llm.py`, `engine/arg_utils.py`, `sampling_params.py`, and for the CPU
`platforms/cpu.py`, `utils/ompmultiprocessing.py` and `lora/punica_wrapper/punica_cpu.py`.
`tests/unit/inference/engines/test_conformance.py` runs the real engine.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, get_args

from inference.engines.catalogue import has_package
from inference.engines.protocol import (
    Ability,
    EngineStats,
    FinishReason,
    GenerationRequest,
    Increment,
    TokenLogprobs,
    TokenStream,
)
from inference.errors import EngineError, LoadError
from inference.models.hardware import CACHE_SHARE, Cores, Placement, context_limit, look, look_at_cores
from inference.models.loading import (
    adapter_tokenizer,
    bytes_per_cached_token,
    end_token_ids,
    known_positions,
    place,
    read_config,
    read_tokenizer,
    serve,
)
from inference.models.weights import is_pickled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm import CompletionOutput, SamplingParams
    from vllm.logprobs import Logprob
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

    from inference.models.loading import ProgressCallback
    from inference.models.weights import Adapter, BaseModel, Weights
    from inference.service.service import ServedModel
    from inference.settings import Settings

LOGGER: Final = logging.getLogger(__name__)

FEW_CORES: Final = 4
"""Up to here every core computes; vLLM would keep one free for its scheduler, which is half of two."""

CPU_BLOCK_TOKENS: Final = 128
"""What vLLM's cache is cut into on a CPU. It keeps one block for itself. Source: `platforms/cpu.py`."""

QUANTIZATION_PLUGIN: Final = "vllm-bnb-plugin"
"""Adds bitsandbytes to vLLM, which has none of its own. Source: vLLM 0.32, `model_loader/__init__.py`."""

CLOSE_PATIENCE_S: Final = 5.0

ABILITIES: Final[frozenset[Ability]] = frozenset(get_args(Ability))

MOST_LOGPROBS: Final = 20
"""How many of the likeliest tokens a request may ask to be told; what OpenAI's API allows."""

FINISH_REASONS: Final[Mapping[str, FinishReason]] = MappingProxyType({"stop": "stop", "length": "length"})


@dataclass(frozen=True, slots=True)
class Card:
    """Hold what the base's small files say.

    Attributes:
        config: The transformers configuration.
        generation_config: The transformers generation configuration.
        tokenizer: A fast tokenizer.
    """

    config: Any
    generation_config: Any
    tokenizer: Any


def start_engine(
    weights: Weights, settings: Settings, report: ProgressCallback
) -> tuple[VllmEngine, tuple[ServedModel, ...]]:
    """Start vLLM on what was found.

    Raises:
        LoadError: If it cannot be served.
    """
    # vLLM, and libraries below it, read these while they are imported; its processes inherit them.
    os.environ.update(variables(look_at_cores(), settings.threads, is_local=weights.base.is_local))
    report("reading the base model", 10)
    card = _read_card(weights.base, settings)
    served = tuple(_served_models(weights, card, settings))
    hardware = look()
    # Adapters share the base's one tree and cache here.
    placement = place(replace(weights, adapters=()), card.config, hardware, settings)
    cache_bytes = size_cache_bytes(card.config, placement, hardware.cpu_free_bytes, settings)
    positions = known_positions(card.config, card.tokenizer)
    options = engine_options(weights, settings, placement, positions)
    report("starting vLLM", 30)
    llm = _start({**options, "kv_cache_memory_bytes": cache_bytes}, weights.base)
    token_bytes = bytes_per_cached_token(card.config, 4 if placement.dtype == "float32" else 2)
    known = min(positions, settings.max_context_tokens or positions)
    limit = context_limit(weights.base.name, known, int(llm.model_config.max_model_len), token_bytes, 1)
    if limit is not None:
        LOGGER.warning("%s", limit)
    return VllmEngine(llm, served, weights.adapters), served


def variables(cores: Cores, threads: int | None, *, is_local: bool) -> dict[str, str]:
    """Return the environment that vLLM is to have.

    Args:
        cores: What this process may use.
        threads: How many cores are to compute; None takes what there is.
        is_local: Whether all files are here, so that a hub has nothing to be asked.
    """
    found = {
        "VLLM_NO_USAGE_STATS": "1",
        # Its warnings are advice to whoever packages it.
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        # This process has threads by now; a fork could stand still on a lock that one of them holds.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    if is_local:
        found["HF_HUB_OFFLINE"] = "1"
    return found | _thread_variables(cores, threads or cores.usable)


def engine_options(
    weights: Weights, settings: Settings, placement: Placement, positions: int
) -> dict[str, Any]:
    """Return the arguments of vLLM's engine, but for the size of its cache.

    Args:
        weights: What to serve.
        settings: What the environment says.
        placement: Where and how the weights are loaded.
        positions: How many positions the model knows.

    Raises:
        LoadError: If vLLM cannot do what the settings ask for, or cannot serve the adapter.
    """
    if placement.quantization == "int8":
        raise LoadError(
            "vLLM quantises to nf4 while it loads, not to int8: set FJARR_QUANTIZATION=nf4, or"
            " FJARR_ENGINE=transformers"
        )
    is_quantized = placement.quantization == "nf4"
    if is_quantized and not has_package(QUANTIZATION_PLUGIN.replace("-", "_")):
        raise LoadError(
            f"vLLM quantises to nf4 with its plugin {QUANTIZATION_PLUGIN}, which is not installed: install it"
            f" with: pip install {QUANTIZATION_PLUGIN}, or set FJARR_ENGINE=transformers"
        )
    # -1: as many positions as the model knows and the cache holds.
    limit = -1 if settings.max_context_tokens is None else min(settings.max_context_tokens, positions)
    options: dict[str, Any] = {
        "model": weights.base.source,
        "trust_remote_code": settings.trust_remote_code,
        "dtype": placement.dtype,
        "quantization": "bitsandbytes" if is_quantized else None,
        "load_format": "bitsandbytes" if is_quantized else _load_format(weights.base, settings),
        "max_model_len": limit,
        "max_num_seqs": settings.max_concurrent,
        "max_logprobs": MOST_LOGPROBS,
        "structured_outputs_config": {"backend": "guidance"},
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if weights.adapters:
        # On a CPU, vLLM gives the base's rows of a mixed batch the last slot's adapter: it has to stay empty.
        slots = len(weights.adapters) + (placement.device == "cpu")
        rank = max(map(_adapter_rank, weights.adapters))
        options |= {"enable_lora": True, "max_loras": slots, "max_lora_rank": rank}
    return options


def size_cache_bytes(config: Any, placement: Placement, free_bytes: int, settings: Settings) -> int | None:  # noqa: ANN401 - a transformers configuration, which has no useful type
    """Return the size of the key-value cache; None leaves it to vLLM, which measures what a card has left.

    Args:
        config: The model's.
        placement: Where and how the weights are loaded.
        free_bytes: The machine's free memory, not a card's.
        settings: What the environment says.
    """
    itemsize = 4 if placement.dtype == "float32" else 2
    token_bytes = bytes_per_cached_token(config, itemsize)
    if settings.kv_cache_tokens is not None:
        return (settings.kv_cache_tokens + CPU_BLOCK_TOKENS) * token_bytes
    return None if placement.device == "cuda" else int(CACHE_SHARE["cpu"] * free_bytes)


class VllmEngine:
    """Serve a base and the adapters on it.

    Args:
        llm: vLLM's engine.
        models: What is served; those with a parent are the adapters.
        adapters: The adapters' files.
    """

    def __init__(self, llm: AsyncLLM, models: Sequence[ServedModel], adapters: Sequence[Adapter]) -> None:
        self._llm = llm
        self._end_token_ids = {model.name: model.end_token_ids for model in models}
        self._context_tokens = {model.name: int(llm.model_config.max_model_len) for model in models}
        self._lora_requests = _lora_requests(adapters)
        self._open: dict[TokenStream, asyncio.Task[None]] = {}
        self._generated_tokens = 0
        self._is_closed = False

    @property
    def abilities(self) -> frozenset[Ability]:
        """Return what it can do of what not every engine can."""
        return ABILITIES

    @property
    def is_alive(self) -> bool:
        """Return whether vLLM's processes run."""
        return not (self._is_closed or self._llm.errored)

    def context_tokens(self, model: str) -> int:
        """Return what the model knows and the cache holds, whichever is less."""
        return self._context_tokens[model]

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Hand a request to vLLM."""
        if not self.is_alive:
            raise EngineError("the engine has stopped")
        parameters = sampling_parameters(request, self._end_token_ids[request.model])
        stream = TokenStream(lambda: self._cancel(stream))
        task = asyncio.get_running_loop().create_task(self._generate(request, parameters, stream))
        self._open[stream] = task
        task.add_done_callback(lambda _: self._open.pop(stream))
        return stream

    def stats(self) -> EngineStats:
        """Count the open requests."""
        return EngineStats(sum(not stream.is_over for stream in self._open), self._generated_tokens)

    async def close(self) -> None:
        """Stop vLLM's processes; what they were doing ends with an error."""
        self._is_closed = True
        for stream, task in self._open.items():
            stream.fail(EngineError("the engine has stopped"))
            task.cancel()
        await asyncio.gather(*self._open.values(), return_exceptions=True)
        await asyncio.to_thread(self._llm.shutdown, CLOSE_PATIENCE_S)

    def _cancel(self, stream: TokenStream) -> None:
        self._open[stream].cancel()

    async def _generate(
        self, request: GenerationRequest, parameters: SamplingParams, stream: TokenStream
    ) -> None:
        """Move a request's tokens from vLLM to its stream. Cancelling it makes vLLM drop the request."""
        prompt = {"type": "token", "prompt_token_ids": list(request.prompt_token_ids)}
        outputs = self._llm.generate(
            prompt, parameters, request.request_id, lora_request=self._lora_requests.get(request.model)
        )
        try:
            async for output in outputs:
                (completion,) = output.outputs
                self._deliver(completion, request.top_logprobs, stream)
        except Exception as error:
            LOGGER.exception("request %s failed in the engine", request.request_id)
            stream.fail(EngineError(f"the engine failed: {error}"))
        stream.fail(EngineError("the engine ended the request without a reason"))

    def _deliver(self, completion: CompletionOutput, top_logprobs: int | None, stream: TokenStream) -> None:
        tokens, reason = tuple(completion.token_ids), completion.finish_reason
        self._generated_tokens += len(tokens)
        logprobs = read_logprobs(tokens, completion.logprobs or (), top_logprobs)
        if reason is None:
            stream.push(Increment(tokens, None, logprobs))
        elif reason in FINISH_REASONS:
            stream.push(Increment(tokens, FINISH_REASONS[reason], logprobs))
        else:
            stream.fail(EngineError(f"the engine ended the request: {reason}"))


def read_logprobs(
    tokens: Sequence[int], steps: Sequence[Mapping[int, Logprob]], count: int | None
) -> tuple[TokenLogprobs, ...]:
    """Return what vLLM tells of each token and of so many of the likeliest; nothing if none were asked for.

    A grammar leaves minus infinity to what it forbids; those are no news, and no JSON.
    """
    if count is None:
        return ()
    told = []
    for token, step in zip(tokens, steps, strict=True):
        # The token that was taken is told as well, wherever it stands.
        ranked = sorted(step.items(), key=lambda item: item[1].rank or 0)[:count]
        top = tuple((token_id, known.logprob) for token_id, known in ranked if math.isfinite(known.logprob))
        told.append(TokenLogprobs(step[token].logprob, top))
    return tuple(told)


def sampling_parameters(request: GenerationRequest, ends: frozenset[int]) -> SamplingParams:
    """Say a request's sampling in vLLM's words. The tokens that end a text are ours alone to say."""
    from vllm import SamplingParams  # noqa: PLC0415 - takes seconds, and only this engine has it
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams  # noqa: PLC0415 - see above

    sampling = request.sampling
    if sampling.is_greedy:
        sampling = replace(sampling, temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)
    grammar = request.grammar
    return SamplingParams(
        max_tokens=request.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        logit_bias=dict(sampling.logit_bias) or None,
        # vLLM takes -1 for none, and torch no more than 64 bits.
        seed=None if sampling.seed is None else sampling.seed % 2**63,
        logprobs=request.top_logprobs,
        structured_outputs=None if grammar is None else StructuredOutputsParams(grammar=grammar),
        stop_token_ids=sorted(ends),
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _thread_variables(cores: Cores, count: int) -> dict[str, str]:
    if count < len(cores.allowed):
        # A share of a machine is no particular cores: binding would put every container on the same ones.
        return {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(count)}
    if count <= FEW_CORES:
        return {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores.allowed))}
    return {}


def _read_card(base: BaseModel, settings: Settings) -> Card:
    from transformers import GenerationConfig  # noqa: PLC0415 - slow to import

    config, tokenizer = read_config(base, settings), read_tokenizer(base, settings)
    try:
        generation_config = GenerationConfig.from_pretrained(base.source)
    except OSError:
        # Not every model has the file; then the configuration says it.
        generation_config = GenerationConfig.from_model_config(config)
    return Card(config, generation_config, tokenizer)


def _served_models(weights: Weights, card: Card, settings: Settings) -> list[ServedModel]:
    ends = end_token_ids(card.generation_config, card.tokenizer)
    served = [serve(weights.base.name, None, card.tokenizer, ends, settings)]
    for adapter in weights.adapters:
        tokenizer = adapter_tokenizer(card.tokenizer, adapter, settings)
        ends = end_token_ids(card.generation_config, tokenizer)
        served.append(serve(adapter.name, weights.base.name, tokenizer, ends, settings))
    return served


def _load_format(base: BaseModel, settings: Settings) -> str:
    """Return vLLM's name for what it may load: `hf` takes pickled weights where there are no safetensors."""
    may_be_pickled = settings.allow_pickle and (is_pickled(base) or not base.is_local)
    return "hf" if may_be_pickled else "safetensors"


def _adapter_rank(adapter: Adapter) -> int:
    """Return the least of the ranks that vLLM has room for into which the adapter fits."""
    from vllm.config.lora import MaxLoRARanks  # noqa: PLC0415 - takes seconds, and only this engine has it

    if adapter.embedding_rows is not None:
        raise LoadError(
            f"the adapter {adapter.name} carries embeddings, which vLLM does not take: set"
            " FJARR_ENGINE=transformers"
        )
    rank = max((shape[0] for key, shape in adapter.shapes.items() if ".lora_A." in key), default=0)
    fitting = [most for most in sorted(get_args(MaxLoRARanks)) if most >= rank]
    if rank == 0 or not fitting:
        raise LoadError(
            f"vLLM does not take the adapter {adapter.name}, of rank {rank}: set FJARR_ENGINE=transformers"
        )
    return int(fitting[0])


def _lora_requests(adapters: Sequence[Adapter]) -> dict[str, LoRARequest]:
    from vllm.lora.request import LoRARequest  # noqa: PLC0415 - takes seconds, and only this engine has it

    return {
        adapter.name: LoRARequest(adapter.name, number, str(adapter.folder))
        for number, adapter in enumerate(adapters, 1)
    }


def _start(options: dict[str, Any], base: BaseModel) -> AsyncLLM:
    from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415 - takes seconds, and only this engine has it
    from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415 - see above

    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**options))
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise LoadError(
            f"vLLM cannot serve the base model {base.name}: {error} (its own words stand above; what it"
            " does not take, FJARR_ENGINE=transformers may)"
        ) from error
