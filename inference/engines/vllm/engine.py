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
import itertools
import logging
import os
import shutil
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, get_args

from inference.engines.protocol import Ability, FinishReason, Increment, StartedEngine, TokenStream
from inference.engines.served_models import make_served_model
from inference.engines.vllm.networks import (
    Network,
    check_adapters,
    check_lora,
    local_networks,
    reject_adapters,
)
from inference.engines.vllm.options import (
    LoraSlots,
    adapter_rank,
    collective_variables,
    engine_options,
    environment_variables,
    lora_slots,
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
from inference.models.placement import check_plan, describe
from inference.models.plan import cached_token_bytes, plan_serving
from inference.models.run_time_adapters import read_new_adapter
from inference.models.tokenizers import end_token_ids, read_adapter_tokenizer, read_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from vllm import CompletionOutput, SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

    from inference.engines.protocol import GenerationRequest, ProgressCallback, ServedModel, TokenLogprobs
    from inference.models.hardware import Cores
    from inference.models.plan import Model, ServingPlan
    from inference.models.weights import BaseModel, Weights
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
    llms: list[AsyncLLM] = []
    try:
        with local_networks(weights, model, plan, settings, report) as networks:
            check_adapters(networks, model)
            slots = lora_slots(networks[-1].adapters, settings, plan.placement.device)
            for index, network in enumerate(networks):
                report("starting vLLM", 30 + 50 * index // len(networks))
                own_slots = slots if network is networks[-1] else None
                options = engine_options(network.base, settings, plan, positions, own_slots)
                options |= memory_options(plan, model, hardware, settings, len(networks), is_main=index == 0)
                llms.append(_start(options, network.base))
                _warn_of_small_context(llms[-1], network, model, plan, settings)
    except BaseException:
        for llm in llms:
            llm.shutdown(CLOSE_TIMEOUT_S)
        raise
    rejected = {adapter.name: adapter.reason for adapter in weights.rejected}
    reader = AdapterReader(weights.base, metadata, settings)
    engine = VllmEngine(tuple(zip(networks, llms, strict=True)), served, slots, reader)
    return StartedEngine(engine, served, rejected)


@dataclass(frozen=True, slots=True)
class AdapterReader:
    """What is needed to read an adapter for a running engine.

    Attributes:
        source: The base's files.
        metadata: The base's configuration and tokenizer.
    """

    source: BaseModel
    metadata: BaseMetadata
    settings: Settings

    def read(self, name: str, folder: Path, slots: LoraSlots) -> ServedModel:
        """Read an adapter, and return its description. For a thread.

        Raises:
            LoadError: If it does not fit.
        """
        adapter = read_new_adapter(name, folder, self.source, self.settings)
        check_lora(adapter)
        rank = adapter_rank(adapter)
        if rank > slots.max_rank:
            raise RestartRequiredError(
                f"the adapter {name} has a rank of more than {slots.max_rank}, which vLLM was started for"
            )
        tokenizer = read_adapter_tokenizer(self.metadata.tokenizer, adapter, self.settings)
        ends = end_token_ids(self.metadata.generation_config, tokenizer)
        return make_served_model(name, self.source.name, tokenizer, ends, self.settings)


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """How vLLM serves a model.

    Attributes:
        lora_request: The adapter's slot; None for the base and for a merged adapter.
    """

    llm: AsyncLLM
    lora_request: LoRARequest | None
    end_token_ids: frozenset[int]


class VllmEngine:
    """The engine `vllm`: one engine of vLLM for each network.

    An adapter that is added while requests run gets a slot of the base's engine. vLLM reserves the slots when
    it starts, so that another number or a higher rank needs a restart.

    Args:
        parts: The networks with vLLM's engines, the base's last.
        models: The base and the adapters; adapters have a parent.
        slots: The slots of the base's engine; None if it has none.
        reader: Reads adapters that are added later; None if none can be.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Network, AsyncLLM]],
        models: Sequence[ServedModel],
        slots: LoraSlots | None = None,
        reader: AdapterReader | None = None,
    ) -> None:
        self._slots = slots
        self._reader = reader
        self._adding = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self._llms = tuple(llm for _, llm in parts)
        self._base_llm = self._llms[-1]
        self._numbers = itertools.count(1)
        ends = {model.name: model.end_token_ids for model in models}
        self._routes: dict[str, Route] = {}
        for network, llm in parts:
            folders = {adapter.name: adapter.folder for adapter in network.adapters}
            for name in network.models:
                request = self._make_lora_request(name, folders[name]) if name in folders else None
                self._routes[name] = Route(llm, request, ends[name])
        self._base = parts[-1][0].models[0]
        self._used_slots = len(parts[-1][0].adapters)
        self._open: dict[TokenStream, tuple[Route, asyncio.Task[None]]] = {}
        self._is_closed = False

    @property
    def abilities(self) -> frozenset[Ability]:
        """Return the optional features that this engine supports: all of them, but for a fault of vLLM.

        On a CPU with slots, log-probabilities of a prompt end vLLM 0.32's process.
        """
        has_fault = self._slots is not None and self._slots.is_on_cpu
        return ABILITIES - {"prompt_logprobs"} if has_fault else ABILITIES

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
        return int(self._routes[model].llm.model_config.max_model_len)

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Pass a request to vLLM."""
        if not self.is_alive:
            raise EngineError("the engine has stopped")
        route = self._routes[request.model]
        try:
            parameters = sampling_parameters(request, route.end_token_ids)
        except (ValueError, TypeError, client_error_class()) as error:
            raise RequestRefusedError(f"vLLM does not take the request: {error}") from error
        stream = TokenStream(lambda: self._cancel(stream))
        task = asyncio.get_running_loop().create_task(self._generate(request, route, parameters, stream))
        self._open[stream] = (route, task)
        task.add_done_callback(lambda _: self._open.pop(stream))
        return stream

    async def add_adapter(self, name: str, folder: Path) -> ServedModel:
        """Load an adapter into a free slot of the base's engine."""
        async with self._adding:
            if not self.is_alive:
                raise EngineError("the engine has stopped")
            if self._slots is None or self._reader is None:
                raise RestartRequiredError(
                    f"the adapter {name} needs a slot, and vLLM was started without any: FJARR_LORA_SLOTS"
                    " sets how many there are"
                )
            if self._used_slots >= self._slots.count:
                raise RestartRequiredError(
                    f"the adapter {name} needs a slot, and all {self._slots.count} of vLLM are in use"
                )
            model = await asyncio.to_thread(self._reader.read, name, folder, self._slots)
            request = self._make_lora_request(name, folder)
            await self._load(request)
            self._used_slots += 1
            replaced = self._routes.get(name)
            self._routes[name] = Route(self._base_llm, request, model.end_token_ids)
            LOGGER.info("adapter %s: added, beside the base's weights", name)
        if replaced is not None:
            task = asyncio.get_running_loop().create_task(self._retire(replaced))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        return model

    async def remove_adapter(self, name: str) -> None:
        """Free an adapter's slot, or end its engine if it was merged."""
        if name == self._base:
            raise KeyError(name)
        await self._retire(self._routes.pop(name))
        LOGGER.info("adapter %s: removed", name)

    async def close(self) -> None:
        """Stop vLLM's processes; open requests end with an error."""
        self._is_closed = True
        tasks = [task for _, task in self._open.values()]
        for stream in self._open:
            stream.fail(EngineError("the engine has stopped"))
        for task in (*tasks, *self._retiring):
            task.cancel()
        await asyncio.gather(*tasks, *self._retiring, return_exceptions=True)
        await asyncio.gather(*(asyncio.to_thread(llm.shutdown, CLOSE_TIMEOUT_S) for llm in self._llms))

    def _cancel(self, stream: TokenStream) -> None:
        self._open[stream][1].cancel()

    def _make_lora_request(self, name: str, folder: Path) -> LoRARequest:
        """Return a request for a slot. vLLM knows cached prompts by its name, which is never used again."""
        from vllm.lora.request import LoRARequest  # noqa: PLC0415 - takes seconds, and only this engine has it

        number = next(self._numbers)
        return LoRARequest(f"{name}#{number}", number, str(folder))

    async def _load(self, request: LoRARequest) -> None:
        try:
            is_loaded = await self._base_llm.add_lora(request)
        except Exception as error:
            if not self.is_alive:
                raise EngineError(f"the engine failed: {error}") from error
            # vLLM passes on what its worker raised, as another type.
            raise LoadError(f"vLLM cannot load the adapter in {request.lora_path}: {error}") from error
        if not is_loaded:
            raise LoadError(f"vLLM did not load the adapter in {request.lora_path}")

    async def _retire(self, route: Route) -> None:
        """Unload a model once its requests have ended."""
        while tasks := [task for used, task in self._open.values() if used is route]:
            await asyncio.wait(tasks)
        if self._is_closed:
            return
        if route.lora_request is not None:
            await route.llm.remove_lora(route.lora_request.lora_int_id)
            self._used_slots -= 1
            return
        self._llms = tuple(llm for llm in self._llms if llm is not route.llm)
        await asyncio.to_thread(route.llm.shutdown, CLOSE_TIMEOUT_S)

    async def _generate(
        self, request: GenerationRequest, route: Route, parameters: SamplingParams, stream: TokenStream
    ) -> None:
        """Move a request's tokens from vLLM to its stream. Cancelling the task drops the request."""
        prompt = {"type": "token", "prompt_token_ids": list(request.prompt_token_ids)}
        outputs = route.llm.generate(prompt, parameters, request.request_id, lora_request=route.lora_request)
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
