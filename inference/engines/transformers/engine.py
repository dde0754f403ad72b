"""Generate with transformers' continuous batching manager, one for each network.

A lane is a network, its manager and the manager's key-value cache. The models that are mixed into one network
share its lane, and their requests its steps. A manager schedules in a thread of its own; whatever touches
large tensors is done in one more, for all lanes, a step at a time in the order they were asked for. Two steps
at once on the same cores or the same card would each take more than twice as long; and on a CPU each thread
that ever computed, were it only to fill a cache with zeros, keeps helpers. With more of them than cores they
no longer wait busily for the next operator, and a step takes up to 1.7 times as long. An idle lane waits on
an event and costs nothing.

Results come to the event loop by the handlers that `submit` registers. A request with a grammar goes to the
manager once the grammar is compiled, in yet another thread.

Source: transformers 5.23, `generation/continuous_batching/continuous_api.py`. The parts of it that are not
public, and that this module relies on, are `_generation_step`, `_create_batch_processor`, `_wake_up_loop`,
`logit_processor` and `output_router`; the version is pinned, and
`tests/unit/inference/engines/transformers/test_engine.py` runs the real manager.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, get_args

from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching import ContinuousBatchingManager
from transformers.generation.continuous_batching.continuous_api import BackgroundThreadStatus
from transformers.generation.continuous_batching.requests import GenerationOutput, RequestStatus

from inference.engines.protocol import Ability, EngineStats, GenerationRequest, Increment, TokenStream
from inference.engines.transformers import attention
from inference.engines.transformers.constraint import Vocabulary
from inference.engines.transformers.fused import can_lean, make_lean
from inference.engines.transformers.packing import can_pack, pack
from inference.engines.transformers.sampling import ROW_KEY, Row, RowSampler
from inference.errors import EngineError
from inference.models.hardware import PAGE_TOKENS, CacheSize, context_limit, look, size_cache
from inference.models.loading import LoadedModel, bytes_per_cached_token, load_models, serve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.models.loading import ProgressCallback
    from inference.models.weights import Weights
    from inference.service.service import ServedModel
    from inference.settings import Settings

LOGGER: Final = logging.getLogger(__name__)
STOP_PATIENCE_S: Final = 10.0
ABILITIES: Final[frozenset[Ability]] = frozenset(get_args(Ability))


def start_engine(
    weights: Weights, settings: Settings, report: ProgressCallback
) -> tuple[TransformersEngine, tuple[ServedModel, ...]]:
    """Load what was found and start an engine on it.

    Raises:
        LoadError: If it cannot be served.
    """
    models = load_models(weights, settings, report)
    report("starting the engine", 80)
    has_own_attention = settings.attention == "auto"
    quicken([lane[0].network for lane in by_network(models)], has_own_attention=has_own_attention)
    cache = _size_cache(models, settings)
    served = tuple(
        serve(model.name, model.parent, model.tokenizer, model.end_token_ids, settings) for model in models
    )
    engine = TransformersEngine(
        models,
        cache,
        settings.max_concurrent,
        settings.max_context_tokens,
        has_own_attention=has_own_attention,
    )
    return engine, served


def by_network(models: Sequence[LoadedModel]) -> tuple[tuple[LoadedModel, ...], ...]:
    """Put models together that are of one network, in the order of the first of each."""
    groups: dict[int, list[LoadedModel]] = {}
    for model in models:
        groups.setdefault(id(model.network), []).append(model)
    return tuple(map(tuple, groups.values()))


def quicken(networks: Sequence[Any], *, has_own_attention: bool) -> None:
    """Replace layers, in place, by such as compute the same in less time, where that is possible.

    Args:
        networks: All that are served; their trees may share tensors.
        has_own_attention: Whether our own attention may be used.
    """
    if can_pack(networks[0].device.type, networks[0].dtype):
        if has_own_attention and all(can_lean(network) for network in networks):
            make_lean(networks)
        pack(networks)


class TransformersEngine:
    """Serve some models, with a lane for each network.

    Args:
        models: What to serve; their networks may share tensors.
        cache: The size of each lane's key-value cache.
        max_concurrent: The most requests in one step of a lane.
        max_context_tokens: The most tokens of a prompt and its answer, if there is to be a limit.
        has_own_attention: Use our own attention where it suits the device and the model.
    """

    def __init__(
        self,
        models: Sequence[LoadedModel],
        cache: CacheSize,
        max_concurrent: int,
        max_context_tokens: int | None = None,
        *,
        has_own_attention: bool = True,
    ) -> None:
        self._steps = ThreadPoolExecutor(1, "engine-steps")
        self._all_lanes = tuple(
            _Lane(
                group, cache, _make_manager(group[0], cache, max_concurrent, self._steps, has_own_attention)
            )
            for group in by_network(models)
        )
        self._lanes = {name: lane for lane in self._all_lanes for name in lane.models}
        self._max_context_tokens = max_context_tokens
        self._is_closed = False

    @property
    def abilities(self) -> frozenset[Ability]:
        """Return what it can do of what not every engine can."""
        return ABILITIES

    @property
    def is_alive(self) -> bool:
        """Return whether every lane's thread is running."""
        return not self._is_closed and all(lane.is_alive for lane in self._all_lanes)

    def context_tokens(self, model: str) -> int:
        """Return what the model knows, its lane's cache can hold or the settings allow: the least of them."""
        tokens = self._lanes[model].models[model].context_tokens
        return tokens if self._max_context_tokens is None else min(tokens, self._max_context_tokens)

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Hand a request to its model's lane."""
        if not self.is_alive:
            raise EngineError("the engine has stopped")
        return self._lanes[request.model].submit(request)

    def stats(self) -> EngineStats:
        """Add up the lanes."""
        lanes = self._all_lanes
        return EngineStats(
            sum(len(lane.open) for lane in lanes), sum(lane.generated_tokens for lane in lanes)
        )

    async def close(self) -> None:
        """Stop the lanes' threads; what they were doing ends with an error."""
        self._is_closed = True
        await asyncio.gather(*(asyncio.to_thread(lane.stop) for lane in self._all_lanes))
        self._steps.shutdown(wait=False)
        for lane in self._all_lanes:
            lane.fail_open_requests("the engine has stopped")
            await lane.finish_compiling()


class _SchedulingManager(ContinuousBatchingManager):  # type: ignore[misc]  # transformers publishes no types
    """Schedule, and have all that computes done by another thread."""

    def __init__(self, steps: ThreadPoolExecutor, **options: Any) -> None:  # noqa: ANN401 - the base class's options
        super().__init__(**options)
        self._steps = steps

    def _create_batch_processor(self) -> Any:  # noqa: ANN401 - the base class's, which has no type
        processor = self._steps.submit(super()._create_batch_processor).result()
        # It fills tensors, which are large where attention has a mask.
        prepare = processor.prepare_next_batch
        processor.prepare_next_batch = lambda: self._steps.submit(prepare).result()
        return processor

    def _generation_step(self) -> None:
        self._steps.submit(super()._generation_step).result()


@dataclass(frozen=True, slots=True)
class _LaneModel:
    context_tokens: int
    end_token_ids: frozenset[int]
    vocabulary: Vocabulary
    number: int

    @classmethod
    def of(cls, model: LoadedModel, cache: CacheSize) -> Self:
        width = model.network.config.get_text_config().vocab_size
        vocabulary = Vocabulary(model.tokenizer, model.end_token_ids, width)
        return cls(min(model.context_tokens, cache.tokens), model.end_token_ids, vocabulary, model.number)


@dataclass(slots=True)
class _OpenRequest:
    stream: TokenStream
    row: Row
    delivered: int = 0


class _Lane:
    def __init__(self, models: Sequence[LoadedModel], cache: CacheSize, manager: _SchedulingManager) -> None:
        self.models = {model.name: _LaneModel.of(model, cache) for model in models}
        self.generated_tokens = 0
        self.open: dict[str, _OpenRequest] = {}
        self._numbers = itertools.count()
        self._compiling: set[asyncio.Task[None]] = set()
        self._mix = models[0].mix
        self._manager = manager
        self._manager.start()

    @property
    def is_alive(self) -> bool:
        return bool(self._manager.is_running()) and self._manager.background_thread_status.fatal_error is None

    def submit(self, request: GenerationRequest) -> TokenStream:
        # Clients choose the ids of their requests, so two may be the same.
        request_id = f"{request.request_id}-{next(self._numbers)}"
        stream = TokenStream(lambda: self._cancel(request_id))
        row = Row(request, number=self.models[request.model].number)
        self.open[request_id] = _OpenRequest(stream, row)
        if request.grammar is not None:
            task = asyncio.get_running_loop().create_task(self._compile(request_id, row, request.grammar))
            self._compiling.add(task)
            task.add_done_callback(self._compiling.discard)
            return stream
        try:
            self._add(request_id, row)
        except EngineError:
            self._forget(request_id)
            raise
        return stream

    async def _compile(self, request_id: str, row: Row, grammar: str) -> None:
        """Hand a request to the manager once its grammar is compiled, unless it has ended meanwhile."""
        try:
            vocabulary = self._model_of(row).vocabulary
            row.constraint = await asyncio.to_thread(vocabulary.constrain, grammar)
            if request_id in self.open:
                self._add(request_id, row)
        except EngineError as error:
            self._fail(request_id, error)
        except Exception as error:
            LOGGER.exception("request %s failed in the engine", request_id)
            self._fail(request_id, EngineError(f"the engine failed: {error}"))

    def _add(self, request_id: str, row: Row) -> None:
        self._manager.register_result_handler(request_id, self._deliver)
        prompt = row.request.prompt_token_ids
        accepted = self._manager.add_request(
            list(prompt) if self._mix is None else self._mix.mark(prompt, row.number),
            request_id=request_id,
            max_new_tokens=row.request.max_new_tokens,
            streaming=True,
            eos_token_id=sorted(self._model_of(row).end_token_ids),
            **{ROW_KEY: row},
        )
        if accepted is None:
            raise EngineError("the engine has stopped")

    def _model_of(self, row: Row) -> _LaneModel:
        return self.models[row.request.model]

    def stop(self) -> None:
        # The manager's own `stop` also collects garbage, twice, which takes seconds and serves no purpose
        # here.
        self._manager.background_thread_status.request_stop(BackgroundThreadStatus.HARD_STOP, 0)
        self._manager._wake_up_loop.set()  # noqa: SLF001 - see above
        self._manager.join(time.perf_counter(), STOP_PATIENCE_S)

    def fail_open_requests(self, reason: str) -> None:
        for request_id in list(self.open):
            self._fail(request_id, EngineError(reason))

    async def finish_compiling(self) -> None:
        """Wait for grammars that are being compiled, though nobody needs them any more."""
        await asyncio.gather(*self._compiling)

    def _fail(self, request_id: str, error: EngineError) -> None:
        if request_id in self.open:
            self.open[request_id].stream.fail(error)
            self._forget(request_id)

    def _cancel(self, request_id: str) -> None:
        # Cancelling frees the slot and delivers nothing, so the handler has to be dropped here.
        self._manager.cancel_request(request_id)
        self._forget(request_id)

    def _forget(self, request_id: str) -> None:
        self.open.pop(request_id, None)
        with self._manager.output_router._lock:  # noqa: SLF001 - there is no public way to drop a handler
            self._manager.output_router.result_handlers.pop(request_id, None)

    def _deliver(self, output: GenerationOutput) -> None:
        """Hand new tokens to the request's stream. Runs on the event loop."""
        request = self.open.get(output.request_id)
        if request is None:
            return
        tokens = tuple(output.generated_tokens[request.delivered :])
        logprobs = tuple(request.row.logprobs[request.delivered : request.delivered + len(tokens)])
        request.delivered += len(tokens)
        self.generated_tokens += len(tokens)
        if request.row.error is not None:
            LOGGER.error("request %s failed in the engine: %s", output.request_id, request.row.error)
            self._fail(output.request_id, request.row.error)
            self._manager.cancel_request(output.request_id)
        elif output.status == RequestStatus.FAILED:
            LOGGER.error("request %s failed in the engine: %s", output.request_id, output.error)
            request.stream.fail(EngineError(f"the engine failed: {output.error}"))
        elif output.is_finished():
            ended = not self._model_of(request.row).end_token_ids.isdisjoint(output.generated_tokens[-1:])
            request.stream.push(Increment(tokens, "stop" if ended else "length", logprobs))
        elif tokens:
            request.stream.push(Increment(tokens, None, logprobs))
        if output.is_finished():
            self.open.pop(output.request_id, None)


def _size_cache(models: tuple[LoadedModel, ...], settings: Settings) -> CacheSize:
    network, hardware = models[0].network, look()
    device = network.device.type
    free_bytes = hardware.gpu_free_bytes if device == "cuda" else hardware.cpu_free_bytes
    token_bytes = bytes_per_cached_token(network.config, network.dtype.itemsize)
    lanes = len(by_network(models))
    cache = size_cache(device, free_bytes, token_bytes, lanes, settings.kv_cache_tokens)
    LOGGER.info(
        "key-value caches: %d of %d tokens, %d tokens a step", lanes, cache.tokens, cache.batch_tokens
    )
    for model in models:
        limit = context_limit(model.name, model.context_tokens, cache.tokens, token_bytes, lanes)
        if limit is not None:
            LOGGER.warning("%s", limit)
    return cache


def _make_manager(
    model: LoadedModel,
    cache: CacheSize,
    max_concurrent: int,
    steps: ThreadPoolExecutor,
    has_own_attention: bool,  # noqa: FBT001 - called in one place
) -> _SchedulingManager:
    # Greedy and without processors of its own: RowSampler does each row's sampling, and argmax takes its
    # choice.
    generation = GenerationConfig(do_sample=False, eos_token_id=sorted(model.end_token_ids) or -1)
    config = ContinuousBatchingConfig(
        page_size=PAGE_TOKENS,
        num_blocks=cache.blocks,
        max_batch_tokens=cache.batch_tokens,
        max_requests_per_batch=min(max_concurrent, cache.batch_tokens),
        # RowSampler draws in Python, so its steps cannot be replayed from a graph or overlap with the next.
        use_cuda_graph=False,
        use_async_batching=False,
        # `loading` has chosen; this would also take kernels from the hub, and mind no dtype.
        auto_switch_to_flash=False,
    )
    manager = _SchedulingManager(
        steps, model=model.network, generation_config=generation, continuous_batching_config=config
    )
    manager.logit_processor = RowSampler(model.mix)
    if has_own_attention and model.network.device.type == "cpu" and attention.suits(model.network.config):
        # After the manager is made, which takes the attentions of transformers only, and before it starts.
        attention.register()
        model.network.set_attn_implementation(attention.NAME)
    return manager
