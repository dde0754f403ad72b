"""The engine on transformers' continuous batching, with one batcher for each network.

Unmerged adapters share the batcher of their base, and its steps; a merged one has a network and a batcher of
its own. An adapter that is added while requests run joins the base's batcher, whatever the setting: merging
would need the base's plain weights, which are packed by then, and memory for a second copy of those that the
adapter changes. The next start decides again.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args

from inference.engines.catalogue import Device, batch_limit
from inference.engines.protocol import Ability, GenerationRequest, StartedEngine, TokenStream
from inference.engines.served_models import make_served_model
from inference.engines.transformers import attention
from inference.engines.transformers.batcher import Batcher, BatcherModel, make_manager
from inference.engines.transformers.fused import can_fuse_layers, fuse_layers
from inference.engines.transformers.live_adapters import LiveAdapters
from inference.engines.transformers.loading import LoadedModel, load_models
from inference.engines.transformers.lora_batch import NO_ADAPTER
from inference.engines.transformers.packing import can_pack, pack
from inference.errors import EngineError, RestartRequiredError
from inference.models.configuration import bytes_per_cached_token
from inference.models.hardware import CacheSize, context_warning, detect_hardware, size_cache
from inference.models.run_time_adapters import read_new_adapter
from inference.models.tokenizers import end_token_ids, read_adapter_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from pathlib import Path

    from inference.engines.protocol import ProgressCallback, ServedModel
    from inference.engines.transformers.lora_batch import LoraWeights
    from inference.models.weights import BaseModel, Weights
    from inference.settings import Settings

T = TypeVar("T")

LOGGER: Final = logging.getLogger(__name__)
ABILITIES: Final[frozenset[Ability]] = frozenset(get_args(Ability))


def start_engine(weights: Weights, settings: Settings, report: ProgressCallback) -> StartedEngine:
    """Load the weights and start an engine on them.

    Raises:
        LoadError: If the engine cannot serve these weights.
    """
    loaded = load_models(weights, settings, report)
    models = loaded.models
    report("starting the engine", 80)
    allow_own_attention = settings.attention == "auto"
    networks = [group[0].network for group in group_by_network(models)]
    optimize_for_cpu(networks, allow_own_attention=allow_own_attention)
    cache = _size_cache(models, settings)
    device: Device = "cuda" if networks[0].device.type == "cuda" else "cpu"
    served = tuple(
        make_served_model(model.name, model.parent, model.tokenizer, model.end_token_ids, settings)
        for model in models
    )
    engine = TransformersEngine(
        models,
        cache,
        batch_limit(settings.max_concurrent, "transformers", device),
        settings.max_context_tokens,
        allow_own_attention=allow_own_attention,
        reader=AdapterReader(weights.base, models[0], settings),
    )
    rejected = {adapter.name: adapter.reason for adapter in (*weights.rejected, *loaded.rejected)}
    return StartedEngine(engine, served, rejected)


def group_by_network(models: Sequence[LoadedModel]) -> tuple[tuple[LoadedModel, ...], ...]:
    """Group models by their network, in the order of the first of each."""
    groups: dict[int, list[LoadedModel]] = {}
    for model in models:
        groups.setdefault(id(model.network), []).append(model)
    return tuple(map(tuple, groups.values()))


def optimize_for_cpu(networks: Sequence[Any], *, allow_own_attention: bool) -> None:
    """Replace layers, in place, with faster equivalents, where the device and the model allow it.

    Args:
        networks: All networks that are served; they may share tensors.
        allow_own_attention: Whether `attention` may be used.
    """
    if can_pack(networks[0].device.type, networks[0].dtype):
        if allow_own_attention and all(can_fuse_layers(network) for network in networks):
            fuse_layers(networks)
        pack(networks)


@dataclass(frozen=True, slots=True)
class AdapterReader:
    """What is needed to read an adapter for a running engine.

    Attributes:
        source: The base's files.
        base: The base as it was loaded.
    """

    source: BaseModel
    base: LoadedModel
    settings: Settings

    def read(
        self, name: str, folder: Path, live: LiveAdapters
    ) -> tuple[LoadedModel, dict[str, LoraWeights], ServedModel]:
        """Read an adapter: its model without an id, its weights, and its description. For a thread.

        Raises:
            LoadError: If it does not fit.
        """
        adapter = read_new_adapter(name, folder, self.source, self.settings)
        weights = live.read(adapter)
        tokenizer = read_adapter_tokenizer(self.base.tokenizer, adapter, self.settings)
        ends = end_token_ids(self.base.network.generation_config, tokenizer)
        model = replace(self.base, name=name, parent=self.base.name, tokenizer=tokenizer, end_token_ids=ends)
        return model, weights, make_served_model(name, self.base.name, tokenizer, ends, self.settings)


class TransformersEngine:
    """The engine `transformers`, with a batcher for each network.

    Args:
        models: The models to serve; their networks may share tensors.
        cache: The size of each batcher's key-value cache.
        max_concurrent: The maximum number of requests in one step of a batcher.
        max_context_tokens: The maximum number of tokens of a prompt and its answer; None sets no limit.
        allow_own_attention: Use `attention` where it supports the device and the model.
        reader: Reads adapters that are added later; None if none can be.
    """

    def __init__(  # noqa: PLR0913 - what it serves, its limits, and what loads more
        self,
        models: Sequence[LoadedModel],
        cache: CacheSize,
        max_concurrent: int,
        max_context_tokens: int | None = None,
        *,
        allow_own_attention: bool = True,
        reader: AdapterReader | None = None,
    ) -> None:
        self._steps = ThreadPoolExecutor(1, "engine-steps")
        groups = group_by_network(models)
        self._batchers = tuple(
            Batcher(
                group, cache, make_manager(group[0], cache, max_concurrent, self._steps, allow_own_attention)
            )
            for group in groups
        )
        self._reader = reader
        self._live: LiveAdapters | None = None
        if models[0].lora_batch is not None:
            # The base and its unmerged adapters are the first group.
            self._live = LiveAdapters(models[0].network, models[0].lora_batch, len(groups[0]) - 1)
        self._adding = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self._cache = cache
        self._batchers_by_model = {name: batcher for batcher in self._batchers for name in batcher.models}
        self._max_context_tokens = max_context_tokens
        self._is_closed = False

    @property
    def abilities(self) -> frozenset[Ability]:
        """Return the optional features that this engine supports: all of them."""
        return ABILITIES

    @property
    def is_alive(self) -> bool:
        """Return whether every batcher's thread is running."""
        return not self._is_closed and all(batcher.is_alive for batcher in self._batchers)

    @property
    def cache_tokens(self) -> int | None:
        """Return the size of each batcher's cache."""
        return self._cache.tokens

    def context_tokens(self, model: str) -> int:
        """Return the smallest of the model's context, its batcher's cache and the setting."""
        tokens = self._batchers_by_model[model].models[model].context_tokens
        return tokens if self._max_context_tokens is None else min(tokens, self._max_context_tokens)

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Pass a request to its model's batcher."""
        if not self.is_alive:
            raise EngineError("the engine has stopped")
        return self._batchers_by_model[request.model].submit(request)

    async def add_adapter(self, name: str, folder: Path) -> ServedModel:
        """Read an adapter in a thread, and install it in the base's network between two steps."""
        async with self._adding:
            if not self.is_alive:
                raise EngineError("the engine has stopped")
            if self._reader is None or self._live is None:
                raise RestartRequiredError(f"the adapter {name} is loaded when the engine starts")
            model, weights, served = await asyncio.to_thread(self._reader.read, name, folder, self._live)
            adapter_id = await self._between_steps(lambda live: live.add(weights))
            batcher, replaced = self._batchers[0], self._forget(name)
            batcher.models[name] = BatcherModel.of(replace(model, adapter_id=adapter_id), self._cache)
            self._batchers_by_model[name] = batcher
            LOGGER.info("adapter %s: added, batched with the base", name)
        if replaced is not None:
            self._run_in_background(self._retire(*replaced))
        return served

    async def remove_adapter(self, name: str) -> None:
        """Remove an adapter from its batcher, and end the batcher if it was the adapter's own."""
        if name not in self._batchers_by_model or name in list(self._batchers[0].models)[:1]:
            raise KeyError(name)
        found = self._forget(name)
        if found is not None:
            await self._retire(*found)
            LOGGER.info("adapter %s: removed", name)

    async def close(self) -> None:
        """Stop the batchers' threads; open requests end with an error."""
        self._is_closed = True
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*(asyncio.to_thread(batcher.stop) for batcher in self._batchers))
        self._steps.shutdown(wait=False)
        for batcher in self._batchers:
            batcher.fail_open_requests("the engine has stopped")
            await batcher.finish_compiling()

    def _forget(self, name: str) -> tuple[Batcher, BatcherModel] | None:
        """Accept no more requests for a model; return what serves those that run, None if nothing does."""
        batcher = self._batchers_by_model.pop(name, None)
        return None if batcher is None else (batcher, batcher.models.pop(name))

    async def _retire(self, batcher: Batcher, model: BatcherModel) -> None:
        """Unload an adapter once its requests have ended."""
        await batcher.wait_until_unused(model)
        if self._is_closed:
            return
        if model.adapter_id != NO_ADAPTER:
            await self._between_steps(lambda live: live.remove(model.adapter_id))
            return
        self._batchers = tuple(each for each in self._batchers if each is not batcher)
        await asyncio.to_thread(batcher.stop)
        await batcher.finish_compiling()

    async def _between_steps(self, change: Callable[[LiveAdapters], T]) -> T:
        live = self._live
        if live is None or self._is_closed:
            raise EngineError("the engine has stopped")
        return await asyncio.get_running_loop().run_in_executor(self._steps, lambda: change(live))

    def _run_in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


def _size_cache(models: tuple[LoadedModel, ...], settings: Settings) -> CacheSize:
    network, hardware = models[0].network, detect_hardware()
    device = network.device.type
    free_bytes = hardware.gpu_free_bytes if device == "cuda" else hardware.cpu_free_bytes
    token_bytes = bytes_per_cached_token(network.config, network.dtype.itemsize)
    count = len(group_by_network(models))
    has_own_attention = settings.attention == "auto" and device == "cpu"
    is_masked = not (has_own_attention and attention.supports(network.config))
    cache = size_cache(device, free_bytes, token_bytes, count, settings.kv_cache_tokens, is_masked=is_masked)
    LOGGER.info(
        "key-value caches: %d of %d tokens, %d tokens a step", count, cache.tokens, cache.batch_tokens
    )
    for model in models:
        warning = context_warning(model.name, model.context_tokens, cache.tokens, token_bytes, count)
        if warning is not None:
            LOGGER.warning("%s", warning)
    return cache
