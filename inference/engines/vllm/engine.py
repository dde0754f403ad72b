"""The engine on vLLM: its asynchronous engine runs in this process, its scheduler and workers in others.

One engine serves the base and the adapters in the same batch. vLLM receives and returns token ids; its own
tokenizer is used only for grammars. With a grammar, vLLM's log-probabilities are relative to the tokens that
the grammar allows.

Source: vLLM 0.32, `v1/engine/async_llm.py`.
`tests/unit/inference/engines/test_conformance.py` runs the real engine.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, get_args

from inference.engines.protocol import Ability, FinishReason, Increment, TokenStream
from inference.engines.served_models import make_served_model
from inference.engines.vllm.options import engine_options, environment_variables, size_cache_bytes
from inference.engines.vllm.requests import (
    client_error_class,
    read_logprobs,
    read_prompt_logprobs,
    sampling_parameters,
)
from inference.errors import EngineError, LoadError, RequestRefusedError
from inference.models.configuration import bytes_per_cached_token, max_positions, read_config
from inference.models.hardware import context_warning, detect_cores, detect_hardware
from inference.models.placement import place
from inference.models.tokenizers import end_token_ids, read_adapter_tokenizer, read_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm import CompletionOutput, SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

    from inference.engines.protocol import GenerationRequest, ProgressCallback, ServedModel, TokenLogprobs
    from inference.models.weights import Adapter, BaseModel, Weights
    from inference.settings import Settings

LOGGER: Final = logging.getLogger(__name__)

CLOSE_TIMEOUT_S: Final = 5.0

ABILITIES: Final[frozenset[Ability]] = frozenset(get_args(Ability))

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

    @property
    def cache_tokens(self) -> None:
        """Return that there is no limit: vLLM's cache is large, and its scheduler copes with a full one."""
        return None

    def context_tokens(self, model: str) -> int:
        """Return the smaller of the model's context and the cache."""
        return self._context_tokens[model]

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Pass a request to vLLM."""
        if not self.is_alive:
            raise EngineError("the engine has stopped")
        try:
            parameters = sampling_parameters(request, self._end_token_ids[request.model])
        except (ValueError, TypeError, client_error_class()) as error:
            raise RequestRefusedError(f"vLLM does not take the request: {error}") from error
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
        except client_error_class() as error:
            stream.fail(RequestRefusedError(f"vLLM does not take the request: {error}"))
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
