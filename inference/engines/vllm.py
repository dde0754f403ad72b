"""The engine on vLLM: its asynchronous engine runs in this process, its scheduler and workers in others.

One engine serves the base and the adapters in the same batch. vLLM receives and returns token ids; its own
tokenizer is used only for grammars. With a grammar, vLLM's log-probabilities are relative to the tokens that
the grammar allows.

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
    FinishReason,
    GenerationRequest,
    Increment,
    TokenLogprobs,
    TokenStream,
)
from inference.engines.served_models import make_served_model
from inference.errors import EngineError, LoadError
from inference.models.configuration import bytes_per_cached_token, max_positions, read_config
from inference.models.hardware import (
    CACHE_SHARE,
    Cores,
    Placement,
    context_warning,
    detect_cores,
    detect_hardware,
)
from inference.models.placement import place
from inference.models.tokenizers import end_token_ids, read_adapter_tokenizer, read_tokenizer
from inference.models.weights import is_pickled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm import CompletionOutput, SamplingParams
    from vllm.logprobs import Logprob
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

    from inference.engines.protocol import ProgressCallback, ServedModel
    from inference.models.weights import Adapter, BaseModel, Weights
    from inference.settings import Settings

LOGGER: Final = logging.getLogger(__name__)

FEW_CORES: Final = 4
"""With up to this many cores all of them compute; vLLM would reserve one for its scheduler."""

CPU_BLOCK_TOKENS: Final = 128
"""The size of a block of vLLM's cache on a CPU. vLLM reserves one block. Source: `platforms/cpu.py`."""

QUANTIZATION_PLUGIN: Final = "vllm-bnb-plugin"
"""The package that adds bitsandbytes to vLLM. Source: vLLM 0.32, `model_loader/__init__.py`."""

CLOSE_TIMEOUT_S: Final = 5.0

ABILITIES: Final[frozenset[Ability]] = frozenset(get_args(Ability))

MAX_LOGPROBS: Final = 20
"""The maximum number of top log-probabilities a request may ask for, as in OpenAI's API."""

FINISH_REASONS: Final[Mapping[str, FinishReason]] = MappingProxyType({"stop": "stop", "length": "length"})


@dataclass(frozen=True, slots=True)
class BaseMetadata:
    """The base's configuration and tokenizer.

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
    """Start vLLM on the weights.

    Raises:
        LoadError: If vLLM cannot serve these weights.
    """
    # vLLM and its dependencies read these while they are imported; its processes inherit them.
    os.environ.update(environment_variables(detect_cores(), settings.threads, is_local=weights.base.is_local))
    report("reading the base model", 10)
    metadata = _read_metadata(weights.base, settings)
    served = tuple(_served_models(weights, metadata, settings))
    hardware = detect_hardware()
    # vLLM keeps adapters unmerged, in the base's network and cache.
    placement = place(replace(weights, adapters=()), metadata.config, hardware, settings)
    cache_bytes = size_cache_bytes(metadata.config, placement, hardware.cpu_free_bytes, settings)
    positions = max_positions(metadata.config, metadata.tokenizer)
    options = engine_options(weights, settings, placement, positions)
    report("starting vLLM", 30)
    llm = _start({**options, "kv_cache_memory_bytes": cache_bytes}, weights.base)
    token_bytes = bytes_per_cached_token(metadata.config, 4 if placement.dtype == "float32" else 2)
    known = min(positions, settings.max_context_tokens or positions)
    max_model_len = int(llm.model_config.max_model_len)
    warning = context_warning(weights.base.name, known, max_model_len, token_bytes, 1)
    if warning is not None:
        LOGGER.warning("%s", warning)
    return VllmEngine(llm, served, weights.adapters), served


def environment_variables(cores: Cores, threads: int | None, *, is_local: bool) -> dict[str, str]:
    """Return the environment variables to set for vLLM.

    Args:
        cores: The cores that this process may use.
        threads: The number of cores to compute on; None uses all of them.
        is_local: Whether all files are local, so that the hub need not be contacted.
    """
    found = {
        "VLLM_NO_USAGE_STATS": "1",
        # Its warnings address those who package it.
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        # This process has threads by now; a fork could deadlock on a lock that one of them holds.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    if is_local:
        found["HF_HUB_OFFLINE"] = "1"
    return found | _thread_variables(cores, threads or cores.usable)


def engine_options(
    weights: Weights, settings: Settings, placement: Placement, positions: int
) -> dict[str, Any]:
    """Return the arguments of vLLM's engine, except for the size of its cache.

    Args:
        weights: The base and the adapters to serve.
        settings: The server's settings.
        placement: Where and how the weights are loaded.
        positions: The number of positions that the model supports.

    Raises:
        LoadError: If vLLM does not support a setting or an adapter.
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
    # -1: as many positions as the model supports and the cache holds.
    limit = -1 if settings.max_context_tokens is None else min(settings.max_context_tokens, positions)
    options: dict[str, Any] = {
        "model": weights.base.source,
        "trust_remote_code": settings.trust_remote_code,
        "dtype": placement.dtype,
        "quantization": "bitsandbytes" if is_quantized else None,
        "load_format": "bitsandbytes" if is_quantized else _load_format(weights.base, settings),
        "max_model_len": limit,
        "max_num_seqs": settings.max_concurrent,
        "max_logprobs": MAX_LOGPROBS,
        "structured_outputs_config": {"backend": "guidance"},
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if weights.adapters:
        # On a CPU, vLLM applies the last slot's adapter to the base's rows of a batch with adapters: the last
        # slot has to stay empty.
        slots = len(weights.adapters) + (placement.device == "cpu")
        rank = max(map(_adapter_rank, weights.adapters))
        options |= {"enable_lora": True, "max_loras": slots, "max_lora_rank": rank}
    return options


def size_cache_bytes(config: Any, placement: Placement, free_bytes: int, settings: Settings) -> int | None:  # noqa: ANN401 - a transformers configuration, which has no useful type
    """Return the size of the key-value cache; None leaves it to vLLM, which measures a GPU's free memory.

    Args:
        config: The model's configuration.
        placement: Where and how the weights are loaded.
        free_bytes: The machine's free memory, not the GPU's.
        settings: The server's settings.
    """
    itemsize = 4 if placement.dtype == "float32" else 2
    token_bytes = bytes_per_cached_token(config, itemsize)
    if settings.kv_cache_tokens is not None:
        return (settings.kv_cache_tokens + CPU_BLOCK_TOKENS) * token_bytes
    return None if placement.device == "cuda" else int(CACHE_SHARE["cpu"] * free_bytes)


class VllmEngine:
    """The engine `vllm`.

    Args:
        llm: vLLM's engine.
        models: The base and the adapters; adapters have a parent.
        adapters: The adapters' files.
    """

    def __init__(self, llm: AsyncLLM, models: Sequence[ServedModel], adapters: Sequence[Adapter]) -> None:
        self._llm = llm
        self._end_token_ids = {model.name: model.end_token_ids for model in models}
        self._context_tokens = {model.name: int(llm.model_config.max_model_len) for model in models}
        self._lora_requests = _lora_requests(adapters)
        self._open: dict[TokenStream, asyncio.Task[None]] = {}
        self._is_closed = False

    @property
    def abilities(self) -> frozenset[Ability]:
        """Return the optional features that this engine supports: all of them."""
        return ABILITIES

    @property
    def is_alive(self) -> bool:
        """Return whether vLLM's processes run."""
        return not (self._is_closed or self._llm.errored)

    def context_tokens(self, model: str) -> int:
        """Return the smaller of the model's context and the cache."""
        return self._context_tokens[model]

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Pass a request to vLLM."""
        if not self.is_alive:
            raise EngineError("the engine has stopped")
        parameters = sampling_parameters(request, self._end_token_ids[request.model])
        stream = TokenStream(lambda: self._cancel(stream))
        task = asyncio.get_running_loop().create_task(self._generate(request, parameters, stream))
        self._open[stream] = task
        task.add_done_callback(lambda _: self._open.pop(stream))
        return stream

    async def close(self) -> None:
        """Stop vLLM's processes; open requests end with an error."""
        self._is_closed = True
        for stream, task in self._open.items():
            stream.fail(EngineError("the engine has stopped"))
            task.cancel()
        await asyncio.gather(*self._open.values(), return_exceptions=True)
        await asyncio.to_thread(self._llm.shutdown, CLOSE_TIMEOUT_S)

    def _cancel(self, stream: TokenStream) -> None:
        self._open[stream].cancel()

    async def _generate(
        self, request: GenerationRequest, parameters: SamplingParams, stream: TokenStream
    ) -> None:
        """Move a request's tokens from vLLM to its stream. Cancelling the task drops the request."""
        prompt = {"type": "token", "prompt_token_ids": list(request.prompt_token_ids)}
        outputs = self._llm.generate(
            prompt, parameters, request.request_id, lora_request=self._lora_requests.get(request.model)
        )
        try:
            async for output in outputs:
                (completion,) = output.outputs
                prompt_logprobs = read_prompt_logprobs(request, output.prompt_logprobs)
                self._deliver(completion, request.top_logprobs, prompt_logprobs, stream)
        except Exception as error:
            LOGGER.exception("request %s failed in the engine", request.request_id)
            stream.fail(EngineError(f"the engine failed: {error}"))
        stream.fail(EngineError("the engine ended the request without a reason"))

    def _deliver(
        self,
        completion: CompletionOutput,
        top_logprobs: int | None,
        prompt_logprobs: tuple[TokenLogprobs, ...],
        stream: TokenStream,
    ) -> None:
        tokens, reason = tuple(completion.token_ids), completion.finish_reason
        logprobs = read_logprobs(tokens, completion.logprobs or (), top_logprobs)
        if reason is None:
            stream.push(Increment(tokens, None, logprobs, prompt_logprobs))
        elif reason in FINISH_REASONS:
            stream.push(Increment(tokens, FINISH_REASONS[reason], logprobs, prompt_logprobs))
        else:
            stream.fail(EngineError(f"the engine ended the request: {reason}"))


def read_logprobs(
    tokens: Sequence[int], steps: Sequence[Mapping[int, Logprob]], count: int | None
) -> tuple[TokenLogprobs, ...]:
    """Return the log-probabilities of each token and of the `count` likeliest; empty if `count` is None.

    Tokens that a grammar forbids have minus infinity, which JSON cannot represent: they are left out.
    """
    if count is None:
        return ()
    found = []
    for token, step in zip(tokens, steps, strict=True):
        # The sampled token is always among them, whatever its rank.
        ranked = sorted(step.items(), key=lambda item: item[1].rank or 0)[:count]
        top = tuple((token_id, known.logprob) for token_id, known in ranked if math.isfinite(known.logprob))
        found.append(TokenLogprobs(step[token].logprob, top))
    return tuple(found)


def read_prompt_logprobs(
    request: GenerationRequest, steps: Sequence[Mapping[int, Logprob] | None] | None
) -> tuple[TokenLogprobs, ...]:
    """Return the log-probabilities of the prompt's tokens but the first, for which vLLM has none.

    Args:
        request: The request.
        steps: What vLLM returns with the first tokens; empty with later ones.
    """
    known = [step for step in steps or () if step is not None]
    return read_logprobs(request.prompt_token_ids[1:], known, request.prompt_logprobs) if known else ()


def sampling_parameters(request: GenerationRequest, ends: frozenset[int]) -> SamplingParams:
    """Return a request's sampling as vLLM's parameters. Only our own end tokens end a text."""
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
        prompt_logprobs=request.prompt_logprobs,
        structured_outputs=None if grammar is None else StructuredOutputsParams(grammar=grammar),
        min_tokens=request.stopping.min_tokens,
        stop_token_ids=sorted(request.stopping.ends(ends)),
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _thread_variables(cores: Cores, count: int) -> dict[str, str]:
    if count < len(cores.allowed):
        # A CPU quota names no cores: binding would put every container of the machine on the same ones.
        return {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(count)}
    if count <= FEW_CORES:
        return {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores.allowed))}
    return {}


def _read_metadata(base: BaseModel, settings: Settings) -> BaseMetadata:
    from transformers import GenerationConfig  # noqa: PLC0415 - slow to import

    config, tokenizer = read_config(base, settings), read_tokenizer(base, settings)
    try:
        generation_config = GenerationConfig.from_pretrained(base.source)
    except OSError:
        # Not every model has the file; the configuration then contains the values.
        generation_config = GenerationConfig.from_model_config(config)
    return BaseMetadata(config, generation_config, tokenizer)


def _served_models(weights: Weights, metadata: BaseMetadata, settings: Settings) -> list[ServedModel]:
    ends = end_token_ids(metadata.generation_config, metadata.tokenizer)
    served = [make_served_model(weights.base.name, None, metadata.tokenizer, ends, settings)]
    for adapter in weights.adapters:
        tokenizer = read_adapter_tokenizer(metadata.tokenizer, adapter, settings)
        ends = end_token_ids(metadata.generation_config, tokenizer)
        served.append(make_served_model(adapter.name, weights.base.name, tokenizer, ends, settings))
    return served


def _load_format(base: BaseModel, settings: Settings) -> str:
    """Return vLLM's load format: `hf` falls back to pickled weights if there are no safetensors."""
    may_be_pickled = settings.allow_pickle and (is_pickled(base) or not base.is_local)
    return "hf" if may_be_pickled else "safetensors"


def _adapter_rank(adapter: Adapter) -> int:
    """Return the smallest of vLLM's maximum ranks that the adapter fits into."""
    from vllm.config.lora import MaxLoRARanks  # noqa: PLC0415 - takes seconds, and only this engine has it

    if adapter.embedding_rows is not None:
        raise LoadError(
            f"the adapter {adapter.name} carries embeddings, which vLLM does not support: set"
            " FJARR_ENGINE=transformers"
        )
    rank = max((shape[0] for key, shape in adapter.shapes.items() if ".lora_A." in key), default=0)
    fitting = [max_rank for max_rank in sorted(get_args(MaxLoRARanks)) if max_rank >= rank]
    if rank == 0 or not fitting:
        raise LoadError(
            f"vLLM does not support the adapter {adapter.name}, of rank {rank}: set FJARR_ENGINE=transformers"
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
            f"vLLM cannot serve the base model {base.name}: {error} (vLLM's own messages are"
            " above; FJARR_ENGINE=transformers may serve it)"
        ) from error
