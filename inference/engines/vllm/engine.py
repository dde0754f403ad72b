"""The engine on vLLM: its asynchronous engine runs in this process, its scheduler and workers in others.

One engine of vLLM serves the base and the adapters beside its weights in the same batch; a merged adapter has
an engine of its own, on a copy of the base's files. vLLM receives and returns token ids; its own
tokenizer is used only for grammars. With a grammar, vLLM's log-probabilities are relative to the tokens that
the grammar allows.

Source: vLLM 0.32, `v1/engine/async_llm.py`.
`tests/unit/inference/engines/test_conformance.py` runs the real engine.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, get_args

from inference.engines.protocol import Ability, FinishReason, Increment, StartedEngine, TokenStream
from inference.engines.served_models import make_served_model
from inference.engines.vllm.options import (
    adapter_rank,
    collective_variables,
    engine_options,
    environment_variables,
    memory_options,
    thread_variables,
)
from inference.engines.vllm.requests import (
    client_error_class,
    read_logprobs,
    read_prompt_logprobs,
    sampling_parameters,
)
from inference.errors import (
    EngineError,
    LoadError,
    RequestRefusedError,
    RestartRequiredError,
    UnsuitedEngineError,
)
from inference.models.configuration import max_positions, read_config
from inference.models.hardware import context_warning, detect_cores, detect_hardware
from inference.models.merged_copies import PLATFORM_DISK_BYTES, default_folder, merge_into_copy
from inference.models.merging import find_lora_obstacle, find_merge_obstacle
from inference.models.placement import check_plan, describe
from inference.models.plan import cached_token_bytes, plan_serving
from inference.models.tokenizers import end_token_ids, read_adapter_tokenizer, read_tokenizer
from inference.models.weights import Adapter, BaseModel, RejectedAdapter, Weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from vllm import CompletionOutput, SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

    from inference.engines.protocol import GenerationRequest, ProgressCallback, ServedModel, TokenLogprobs
    from inference.models.hardware import Cores
    from inference.models.plan import Model, ServingPlan
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


@dataclass(frozen=True, slots=True)
class Network:
    """Weights that one engine of vLLM serves.

    Attributes:
        base: The base, or its copy with an adapter merged.
        models: The names of the models that are served with it.
        adapters: The adapters that are applied beside its weights.
    """

    base: BaseModel
    models: tuple[str, ...]
    adapters: tuple[Adapter, ...] = ()


def start_engine(weights: Weights, settings: Settings, report: ProgressCallback) -> StartedEngine:
    """Start vLLM on the weights.

    Raises:
        LoadError: If vLLM cannot serve these weights.
    """
    # vLLM and its dependencies read these while they are imported; its processes inherit them.
    cores = detect_cores()
    os.environ.update(environment_variables(cores, settings.threads, is_local=weights.base.is_local))
    report("reading the base model", 10)
    metadata = _read_metadata(weights.base, settings)
    weights = reject_adapters(weights, metadata.tokenizer, settings)
    served = tuple(_served_models(weights, metadata, settings))
    hardware = detect_hardware()
    positions = max_positions(metadata.config, metadata.tokenizer)
    model = describe(weights, metadata.config, positions)
    plan = plan_serving(model, hardware, settings)
    if plan.engine != "vllm":
        raise UnsuitedEngineError(plan.reason)
    check_plan(plan, model, hardware, settings)
    os.environ.update(_parallel_variables(plan, cores, settings))
    networks = _make_networks(weights, plan, settings, report)
    _check_adapters(networks, model)
    llms: list[AsyncLLM] = []
    try:
        for index, network in enumerate(networks):
            report("starting vLLM", 30 + 50 * index // len(networks))
            part = Weights(network.base, network.adapters)
            options = engine_options(part, settings, plan, positions)
            options |= memory_options(plan, model, hardware, settings, len(networks), is_main=index == 0)
            llms.append(_start(options, network.base))
            _warn_of_small_context(llms[-1], network, model, plan, settings)
    except BaseException:
        for llm in llms:
            llm.shutdown(CLOSE_TIMEOUT_S)
        raise
    rejected = {adapter.name: adapter.reason for adapter in weights.rejected}
    return StartedEngine(VllmEngine(tuple(zip(networks, llms, strict=True)), served), served, rejected)


def reject_adapters(weights: Weights, tokenizer: Any, settings: Settings) -> Weights:  # noqa: ANN401 - transformers publishes no types
    """Leave out the adapters that vLLM can neither merge nor apply: loading one would end its processes.

    Raises:
        UnsuitedEngineError: If there is one, and the settings leave the engine open.
    """
    merges = settings.merge_adapters == "on" or (
        settings.merge_adapters == "auto" and len(weights.adapters) == 1
    )
    kept: list[Adapter] = []
    rejected: list[RejectedAdapter] = []
    for adapter in weights.adapters:
        try:
            read_adapter_tokenizer(tokenizer, adapter, settings)
            if not merges or find_merge_obstacle(weights.base, adapter):
                _check_lora(adapter)
            kept.append(adapter)
        except LoadError as error:
            if isinstance(error, UnsuitedEngineError) and settings.engine == "auto":
                raise
            rejected.append(RejectedAdapter(adapter.name, str(error)))
    return replace(weights, adapters=tuple(kept), rejected=(*weights.rejected, *rejected))


def _check_lora(adapter: Adapter) -> None:
    obstacle = find_lora_obstacle(adapter)
    if obstacle:
        raise UnsuitedEngineError(f"{obstacle}, which vLLM does not support: set FJARR_ENGINE=transformers")
    adapter_rank(adapter)


class VllmEngine:
    """The engine `vllm`: one engine of vLLM for each network.

    Args:
        parts: The networks with vLLM's engines.
        models: The base and the adapters; adapters have a parent.
    """

    def __init__(self, parts: Sequence[tuple[Network, AsyncLLM]], models: Sequence[ServedModel]) -> None:
        self._llms = tuple(llm for _, llm in parts)
        self._llm_by_model = {name: llm for network, llm in parts for name in network.models}
        self._end_token_ids = {model.name: model.end_token_ids for model in models}
        self._context_tokens = {
            name: int(llm.model_config.max_model_len) for name, llm in self._llm_by_model.items()
        }
        self._lora_requests: dict[str, LoRARequest] = {}
        for network, _ in parts:
            self._lora_requests |= _lora_requests(network.adapters)
        self._open: dict[TokenStream, asyncio.Task[None]] = {}
        self._is_closed = False

    @property
    def abilities(self) -> frozenset[Ability]:
        """Return the optional features that this engine supports: all of them."""
        return ABILITIES

    @property
    def is_alive(self) -> bool:
        """Return whether vLLM's processes run."""
        return not (self._is_closed or any(llm.errored for llm in self._llms))

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

    async def add_adapter(self, name: str, folder: Path) -> ServedModel:
        """Refuse: this engine loads adapters when it starts."""
        raise RestartRequiredError(f"the adapter {name} in {folder} is loaded when the engine starts")

    async def remove_adapter(self, name: str) -> None:
        """Refuse: this engine keeps its adapters until it ends."""
        raise RestartRequiredError(f"the adapter {name} is served until the engine ends")

    async def close(self) -> None:
        """Stop vLLM's processes; open requests end with an error."""
        self._is_closed = True
        for stream, task in self._open.items():
            stream.fail(EngineError("the engine has stopped"))
            task.cancel()
        await asyncio.gather(*self._open.values(), return_exceptions=True)
        await asyncio.gather(*(asyncio.to_thread(llm.shutdown, CLOSE_TIMEOUT_S) for llm in self._llms))

    def _cancel(self, stream: TokenStream) -> None:
        self._open[stream].cancel()

    async def _generate(
        self, request: GenerationRequest, parameters: SamplingParams, stream: TokenStream
    ) -> None:
        """Move a request's tokens from vLLM to its stream. Cancelling the task drops the request."""
        prompt = {"type": "token", "prompt_token_ids": list(request.prompt_token_ids)}
        outputs = self._llm_by_model[request.model].generate(
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


def _make_networks(
    weights: Weights, plan: ServingPlan, settings: Settings, report: ProgressCallback
) -> tuple[Network, ...]:
    """Merge the adapters into copies if the plan says so, and return the networks, the main one first."""
    merged, unmerged = list[Network](), list[Adapter]()
    folder = settings.merge_folder or default_folder()
    is_on_platform = bool(settings.replica) and not folder.is_relative_to(settings.mount)
    limit = PLATFORM_DISK_BYTES if is_on_platform else None
    for adapter in weights.adapters:
        copy = None
        if plan.placement.merge_adapters:
            report("merging the adapters", 20)
            copy = merge_into_copy(
                weights.base, adapter, plan.placement.dtype, folder, disk_limit_bytes=limit
            )
        if copy is None:
            unmerged.append(adapter)
            LOGGER.info("adapter %s: beside the base's weights", adapter.name)
        else:
            merged.append(Network(BaseModel(adapter.name, str(copy)), (adapter.name,)))
            LOGGER.info("adapter %s: merged, in a network of its own", adapter.name)
    names = (weights.base.name, *(adapter.name for adapter in unmerged))
    return (*merged, Network(weights.base, names, tuple(unmerged)))


def _check_adapters(networks: Sequence[Network], model: Model) -> None:
    """Check that vLLM can apply the adapters that are not merged.

    Raises:
        UnsuitedEngineError: If it cannot.
    """
    if model.lora_obstacle and any(network.adapters for network in networks):
        raise UnsuitedEngineError(
            f"{model.lora_obstacle}, which vLLM does not support: set FJARR_ENGINE=transformers"
        )


def _parallel_variables(plan: ServingPlan, cores: Cores, settings: Settings) -> dict[str, str]:
    if plan.cards == 1:
        return {}
    if plan.placement.device == "cpu":
        return thread_variables(cores, settings.threads, plan.cards)
    try:
        return collective_variables(shutil.disk_usage("/dev/shm").total)  # noqa: S108 - it is only measured
    except OSError:
        return collective_variables(0)


def _warn_of_small_context(
    llm: AsyncLLM, network: Network, model: Model, plan: ServingPlan, settings: Settings
) -> None:
    known = min(model.shape.positions, settings.max_context_tokens or model.shape.positions)
    token_bytes = cached_token_bytes(model, plan.placement, plan.cards)
    max_model_len = int(llm.model_config.max_model_len)
    warning = context_warning(network.models[0], known, max_model_len, token_bytes, 1)
    if warning is not None:
        LOGGER.warning("%s", warning)


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
